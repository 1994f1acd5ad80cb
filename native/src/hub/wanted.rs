//! A model as people name it: `USER/REPO[@REVISION][:QUANT]`, the address of a hub's page, or the address of a GGUF anywhere.

use std::fmt;
use std::str::FromStr;

use super::error::HubError;
use super::name::{ModelName, is_safe_file_name};
use super::quant::shard_of;
use crate::fetch;

/// The hub's own names in addresses, with and without a scheme.
const HUB_HOSTS: [&str; 2] = ["huggingface.co", "hf.co"];

/// Which model is wanted, wherever it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// One on the hub.
    Model {
        /// Its name.
        name: ModelName,
        /// The file that the address named.
        file: Option<String>,
    },
    /// A file of another server.
    Address(Address),
}

/// The address of a GGUF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Up to the last slash, with it.
    base: String,
    /// What follows it, without the query.
    file: String,
    /// The query, with its question mark; may be empty.
    query: String,
}

impl Wanted {
    /// Reads a name or an address. Pages of the hub at `endpoint`, or at the names that everybody knows it by, are understood as
    /// the repository, or the file, that they show.
    ///
    /// # Errors
    /// If it is neither.
    pub fn parse(text: &str, endpoint: &str) -> Result<Self, HubError> {
        if let Some(page) = page_of_hub(text, endpoint) {
            return page_model(text, page);
        }
        if text.contains("://") {
            return Ok(Self::Address(text.parse()?));
        }
        Ok(Self::Model { name: text.parse()?, file: None })
    }
}

impl FromStr for Wanted {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self, HubError> {
        Self::parse(text, &super::endpoint_from_env())
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model { name, file: None } => name.fmt(f),
            Self::Model { name, file: Some(file) } => write!(f, "{name} ({file})"),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl Address {
    /// The folder on the server, with a slash at its end.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The files of the model, in order: all parts of a sharded one, whichever of them was named.
    pub fn files(&self) -> Vec<String> {
        match shard_of(&self.file) {
            Some((stem, _, count)) => (1..=count).map(|i| format!("{stem}-{i:05}-of-{count:05}.gguf")).collect(),
            None => vec![self.file.clone()],
        }
    }

    /// The address of one of its files.
    pub fn of(&self, file: &str) -> String {
        format!("{}{}{}", self.base, super::name::percent_encode(file, false), self.query)
    }
}

impl FromStr for Address {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self, HubError> {
        let bad = |why| HubError::BadAddress { address: text.to_owned(), why };
        let address = text.split_once('#').map_or(text, |(address, _)| address);
        let (path, query) = match address.split_once('?') {
            Some((path, query)) => (path, format!("?{query}")),
            None => (address, String::new()),
        };
        let lower = path.to_ascii_lowercase();
        if !(lower.starts_with("http://") || lower.starts_with("https://")) || !fetch::is_address(path) {
            return Err(bad("it does not begin with https:// or http:// and a server's name"));
        }
        let (base, file) = path.rsplit_once('/').ok_or_else(|| bad("it names no file"))?;
        let file = percent_decode(file).ok_or_else(|| bad("its escapes are not UTF-8"))?;
        if base.len() < "https://".len() || !file.to_ascii_lowercase().ends_with(".gguf") {
            return Err(bad("it does not end in the name of a .gguf file"));
        }
        if file.contains('/') || !is_safe_file_name(&file) {
            return Err(bad("the file's name cannot be a file's name here"));
        }
        Ok(Self { base: format!("{base}/"), file, query })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.of(&self.file))
    }
}

/// The path of a page of the hub, without a slash at its beginning; `None` if the address is another server's.
fn page_of_hub<'a>(text: &'a str, endpoint: &str) -> Option<&'a str> {
    let of = |host: &str| {
        let rest = text.get(host.len()..).filter(|_| text[..host.len()].eq_ignore_ascii_case(host))?;
        rest.strip_prefix('/')
    };
    let host = |host: &str| text.is_char_boundary(host.len().min(text.len())).then(|| of(host)).flatten();
    HUB_HOSTS
        .iter()
        .find_map(|name| {
            let schemes = ["https://", "http://", "https://www.", ""];
            schemes.iter().find_map(|scheme| host(&format!("{scheme}{name}")))
        })
        .or_else(|| host(endpoint.trim_end_matches('/')))
}

/// The model that a page of the hub shows: `USER/REPO`, `USER/REPO/tree/REVISION` or `USER/REPO/blob/REVISION/FILE`.
fn page_model(text: &str, page: &str) -> Result<Wanted, HubError> {
    let bad = |why| HubError::BadAddress { address: text.to_owned(), why };
    let page = page.split(['?', '#']).next().unwrap_or_default();
    let parts: Vec<String> = page
        .split('/')
        .filter(|part| !part.is_empty())
        .map(|part| percent_decode(part).ok_or_else(|| bad("its escapes are not UTF-8")))
        .collect::<Result<_, _>>()?;
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let (user, repo, rest) = match parts[..] {
        ["datasets" | "spaces", ..] => return Err(bad("it is the page of a data set or a space, not of a model")),
        [user, repo, ref rest @ ..] => (user, repo, rest),
        _ => return Err(bad("it names no repository; a model's page ends in USER/REPO")),
    };
    let mut name: ModelName = format!("{user}/{repo}").parse()?;
    let file = match *rest {
        [] | ["tree"] => None,
        ["tree", revision] => {
            set_revision(&mut name, revision)?;
            None
        }
        ["blob" | "resolve" | "raw", revision, ref file @ ..] if !file.is_empty() => {
            set_revision(&mut name, revision)?;
            Some(file.join("/"))
        }
        _ => return Err(bad("it is the page of neither a repository nor a file")),
    };
    Ok(Wanted::Model { name, file })
}

fn set_revision(name: &mut ModelName, revision: &str) -> Result<(), HubError> {
    if revision == name.revision_or_main() {
        return Ok(());
    }
    *name = format!("{}@{revision}{}", name.id(), name.quant.as_ref().map(|q| format!(":{q}")).unwrap_or_default())
        .parse()?;
    Ok(())
}

/// `%20` and the like as the characters that they stand for; `None` if those are not UTF-8.
fn percent_decode(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).filter(|hex| bytes[at] == b'%' && hex.iter().all(u8::is_ascii_hexdigit));
        match hex.and_then(|hex| std::str::from_utf8(hex).ok()).and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Wanted, HubError> {
        Wanted::parse(text, "http://127.0.0.1:81")
    }

    fn model(name: &str, file: Option<&str>) -> Wanted {
        Wanted::Model { name: name.parse().unwrap(), file: file.map(str::to_owned) }
    }

    #[test]
    fn pages_of_the_hub_are_the_repository_or_the_file_that_they_show() {
        for (text, name, file) in [
            ("a/b:TQ2_0", "a/b:TQ2_0", None),
            ("https://huggingface.co/a/b", "a/b", None),
            ("https://huggingface.co/a/b/", "a/b", None),
            ("HTTPS://HuggingFace.co/a/b?not-for-all-audiences=true#files", "a/b", None),
            ("hf.co/a/b:Q2_0", "a/b:Q2_0", None),
            ("https://huggingface.co/a/b/tree/main", "a/b", None),
            ("https://huggingface.co/a/b/tree/v1", "a/b@v1", None),
            ("https://huggingface.co/a/b/blob/main/q/m%20x.gguf", "a/b", Some("q/m x.gguf")),
            ("https://huggingface.co/a/b/resolve/refs%2Fpr%2F1/m.gguf?download=true", "a/b@refs/pr/1", Some("m.gguf")),
            ("http://127.0.0.1:81/a/b", "a/b", None),
        ] {
            assert_eq!(parse(text).unwrap(), model(name, file), "{text}");
        }
        for text in [
            "https://huggingface.co/datasets/a/b",
            "https://huggingface.co/a",
            "https://huggingface.co/a/b/discussions/3",
            "https://huggingface.co/a/b/blob/main",
            "https://huggingface.co/a/..",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn other_addresses_are_of_gguf_files() {
        let Wanted::Address(address) = parse("https://example.org/a%20b/m-TQ2_0.gguf?key=1#x").unwrap() else {
            panic!()
        };
        assert_eq!(address.base(), "https://example.org/a%20b/");
        assert_eq!(address.files(), ["m-TQ2_0.gguf"]);
        assert_eq!(address.to_string(), "https://example.org/a%20b/m-TQ2_0.gguf?key=1");
        let Wanted::Address(shards) = parse("http://127.0.0.1:8/m-00002-of-00002.gguf").unwrap() else { panic!() };
        assert_eq!(shards.files(), ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]);
        assert_eq!(shards.of("m-00001-of-00002.gguf"), "http://127.0.0.1:8/m-00001-of-00002.gguf");
        for text in [
            "https://example.org/m.bin",
            "https://example.org/",
            "https://m.gguf",
            "ftp://example.org/m.gguf",
            "https://example.org/..%2Fm.gguf",
            "https://example.org/.m.gguf",
            "https:///m.gguf",
        ] {
            assert!(matches!(parse(text), Err(HubError::BadAddress { .. })), "{text}");
        }
    }
}
