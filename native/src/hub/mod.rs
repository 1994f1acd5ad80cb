//! Models from the Hugging Face hub, or from the address of a GGUF: what people type ([`Wanted`]) to a checked file on this
//! machine.
//!
//! [`Hub::pull`] asks the hub and fetches what is missing or has changed; [`Hub::locate`] is content with what the cache
//! has. [`Hub::checkpoint`] gives the directory of a checkpoint. This module prints nothing and reads no terminal: a [`Watcher`] hears what happens and may stop it. It knows
//! nothing of what is inside the files.

mod cache;
mod checkpoint;
mod error;
mod name;
mod quant;
mod wanted;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

pub use cache::{Cache, Cached, Entry, Index};
pub use error::{HubError, Result};
pub use name::{ModelName, check_revision, is_safe_file_name};
pub use quant::{Choice, TERNARY_ORDER, choose, choose_file, models, quant_of, shard_of};
pub use wanted::{Address, Wanted};

pub use crate::fetch::{Event, FetchError, Silent, Watcher};

use crate::fetch::{self, Client, RemoteFile, Request, path_of};
use name::percent_encode;

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
/// The largest answer read as a list of files, in bytes; the hub's longest are around 10 MB.
const MAX_LISTING: u64 = 32 << 20;
/// The most files one repository may list.
const MAX_FILES: usize = 200_000;

/// Where to ask, as whom, and where to keep the answers.
#[derive(Debug, Clone)]
pub struct HubOptions {
    /// The hub's address, without a path to a repository.
    pub endpoint: String,
    /// Shown to the hub, to nobody else.
    pub token: Option<String>,
    /// Where files are kept.
    pub cache: Cache,
    /// Never use the network.
    pub offline: bool,
    /// Pauses between tries; their number is the number of retries.
    pub waits: Vec<Duration>,
}

impl HubOptions {
    /// What the environment says: `HF_ENDPOINT`; `HF_TOKEN`, or else the file that `hf auth login` writes
    /// (`HF_TOKEN_PATH`, `$HF_HOME/token`, `~/.cache/huggingface/token`); `STERNA_CACHE`; `HF_HUB_OFFLINE`.
    pub fn from_env(offline: bool) -> Result<Self> {
        Ok(Self {
            endpoint: endpoint_from_env(),
            token: token_from_env(),
            cache: Cache::from_env()?,
            offline: offline
                || text_from("HF_HUB_OFFLINE")
                    .is_some_and(|v| ["1", "true", "yes", "on"].contains(&&*v.to_ascii_lowercase())),
            waits: [1, 2, 4, 8].map(Duration::from_secs).to_vec(),
        })
    }
}

/// A model on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// Its files, the first shard first.
    pub paths: Vec<PathBuf>,
    /// Bytes over all files.
    pub size: u64,
    /// How many files had to be fetched for it; 0 when all were here.
    pub fetched: usize,
}

/// The hub and the cache.
pub struct Hub {
    client: Client,
    /// Without a slash at its end.
    endpoint: String,
    /// Whether the client shows a token.
    has_token: bool,
    cache: Cache,
    offline: bool,
}

impl Hub {
    /// Connects nothing yet.
    pub fn new(options: HubOptions) -> Result<Self> {
        let endpoint = options.endpoint.trim_end_matches('/').to_owned();
        if !fetch::is_address(&endpoint) {
            return Err(HubError::BadEndpoint { value: options.endpoint });
        }
        Ok(Self {
            has_token: options.token.is_some(),
            client: Client::new(options.waits).with_token(&endpoint, options.token),
            endpoint,
            cache: options.cache,
            offline: options.offline,
        })
    }

    /// The hub and cache that the environment names.
    pub fn from_env(offline: bool) -> Result<Self> {
        Self::new(HubOptions::from_env(offline)?)
    }

    /// The cache.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The model on this machine, fetched only if it is not here. `file` names one file instead of a quant.
    pub fn locate(&self, name: &ModelName, file: Option<&str>, watcher: &mut dyn Watcher) -> Result<Located> {
        let index = self.cache.index(&self.cache.folder(name));
        if let Some(located) = self.find_cached(name, file, &index) {
            return Ok(located);
        }
        self.pull(name, file, watcher)
    }

    /// The model as the hub has it now; files that are here and unchanged are not fetched again.
    pub fn pull(&self, name: &ModelName, file: Option<&str>, watcher: &mut dyn Watcher) -> Result<Located> {
        let folder = self.cache.folder(name);
        if self.offline {
            let found = self.find_cached(name, file, &self.cache.index(&folder));
            return found
                .ok_or_else(|| HubError::Offline { model: name.to_string(), cache: self.cache.root().to_owned() });
        }
        let repo = name.id();
        let listing = self.listing(name, is_gguf, watcher)?;
        let names: Vec<String> = listing.files.iter().map(|file| file.name.clone()).collect();
        let choice = match file {
            Some(file) => choose_file(&repo, &names, file)?,
            None => choose(&repo, &names, name.quant.as_deref())?,
        };
        let _lock = fetch::lock(&folder, &repo, watcher)?;
        let mut index = self.cache.index(&folder);
        index.name = ModelName { quant: None, ..name.clone() }.to_string();
        index.listed = names;
        let located = self.fetch_all(name, &listing, &choice.files, &mut index, watcher)?;
        self.cache.write_index(&folder, &index)?;
        Ok(located)
    }

    /// Fetches those of the `wanted` files that are not here as the hub has them. The folder must be locked.
    fn fetch_all(
        &self,
        name: &ModelName,
        listing: &Listing,
        wanted: &[String],
        index: &mut Index,
        watcher: &mut dyn Watcher,
    ) -> Result<Located> {
        let (repo, folder) = (name.id(), self.cache.folder(name));
        let mut located = Located { paths: Vec::new(), size: 0, fetched: 0 };
        for (i, file) in wanted.iter().enumerate() {
            let Some(remote) = listing.files.iter().find(|remote| &remote.name == file) else { continue };
            let kept = index.files.iter().find(|entry| &entry.name == file && is_current(entry, remote, listing));
            let size = match kept {
                Some(entry) => entry.size,
                None => {
                    watcher.event(Event::Started { file, number: i + 1, count: wanted.len() });
                    // The commit pins the content: a push in between cannot mix two versions.
                    let revision = listing.commit.as_deref().unwrap_or(name.revision_or_main());
                    let url = format!(
                        "{}/{repo}/resolve/{}/{}",
                        self.endpoint,
                        percent_encode(revision, false),
                        percent_encode(file, true)
                    );
                    let fetched = fetch::fetch(&self.client, &url, remote, &folder, watcher)
                        .map_err(|error| self.explained(&repo, error))?;
                    watcher.event(Event::Finished);
                    located.fetched += 1;
                    index.files.retain(|old| &old.name != file);
                    index.files.push(Entry {
                        name: file.clone(),
                        size: fetched.size,
                        sha256: fetched.sha256,
                        commit: listing.commit.clone(),
                        fetched: crate::ui::text::now(),
                    });
                    self.cache.write_index(&folder, index)?;
                    fetched.size
                }
            };
            located.size += size;
            located.paths.push(path_of(&folder, file));
        }
        Ok(located)
    }

    /// The files behind an address, fetched only if they are not here.
    ///
    /// # Errors
    /// The network, the disk, or an answer that is no GGUF.
    pub fn locate_address(&self, address: &Address, watcher: &mut dyn Watcher) -> Result<Located> {
        let folder = self.cache.address_folder(address);
        let missing = |index: &Index, file: &String| index.files.iter().all(|entry| &entry.name != file);
        let files = address.files();
        let mut located = Located { paths: Vec::new(), size: 0, fetched: 0 };
        if files.iter().any(|file| missing(&self.cache.index(&folder), file)) {
            if self.offline {
                return Err(HubError::Offline { model: address.to_string(), cache: self.cache.root().to_owned() });
            }
            let _lock = fetch::lock(&folder, &address.to_string(), watcher)?;
            let mut index = self.cache.index(&folder);
            index.name = address.base().to_owned();
            self.cache.write_index(&folder, &index)?;
            let before = index.clone();
            for (i, file) in files.iter().enumerate().filter(|(_, file)| missing(&before, file)) {
                watcher.event(Event::Started { file, number: i + 1, count: files.len() });
                let remote = RemoteFile { name: file.clone(), ..RemoteFile::default() };
                let fetched = fetch::fetch(&self.client, &address.of(file), &remote, &folder, watcher)?;
                watcher.event(Event::Finished);
                let path = path_of(&folder, file);
                if let Some(what) = other_than_gguf(&path)? {
                    fetch::remove_if_there(&path)?;
                    return Err(HubError::NotGguf { address: address.of(file), what });
                }
                located.fetched += 1;
                let (size, sha256) = (fetched.size, fetched.sha256);
                let fetched = crate::ui::text::now();
                index.files.push(Entry { name: file.clone(), size, sha256, commit: None, fetched });
                self.cache.write_index(&folder, &index)?;
            }
        }
        let index = self.cache.index(&folder);
        for file in &files {
            located.size += index.files.iter().find(|entry| &entry.name == file).map_or(0, |entry| entry.size);
            located.paths.push(path_of(&folder, file));
        }
        Ok(located)
    }

    /// The model if all of it is in the cache.
    fn find_cached(&self, name: &ModelName, file: Option<&str>, index: &Index) -> Option<Located> {
        let here: Vec<String> = index.files.iter().map(|entry| entry.name.clone()).collect();
        // What the name means is decided among all that the hub listed, so that it means the same with and without a
        // network; which of it is here comes second.
        let names = if index.listed.is_empty() { &here } else { &index.listed };
        let choice = match file {
            Some(file) => choose_file(&name.id(), names, file).ok()?,
            None => choose(&name.id(), names, name.quant.as_deref()).ok()?,
        };
        let mut located = Located { paths: Vec::new(), size: 0, fetched: 0 };
        for wanted in &choice.files {
            located.size += index.files.iter().find(|entry| &entry.name == wanted)?.size;
            located.paths.push(path_of(&self.cache.folder(name), wanted));
        }
        Some(located)
    }

    /// The files of a repository whose names are `wanted`.
    fn listing(&self, name: &ModelName, wanted: fn(&str) -> bool, watcher: &mut dyn Watcher) -> Result<Listing> {
        let repo = name.id();
        let mut url = format!("{}/api/models/{repo}", self.endpoint);
        if let Some(revision) = &name.revision {
            url += &format!("/revision/{}", percent_encode(revision, false));
        }
        url += "?blobs=true";
        let text = self.client.retrying(watcher, |_, _| {
            let answer = self.client.get(&Request { url: &url, ..Request::default() })?;
            let read = answer.response.into_body().into_with_config().limit(MAX_LISTING).read_to_vec();
            match read {
                Err(ureq::Error::BodyExceedsLimit(_)) => Ok(None),
                Err(error) => Err(self.client.network(&url, error)),
                Ok(text) => Ok(Some(text)),
            }
        });
        let too_long =
            || HubError::BadListing { url: url.clone(), why: format!("it is longer than {} MiB", MAX_LISTING >> 20) };
        let text = text.map_err(|error| self.explained(&repo, error))?.ok_or_else(too_long)?;
        Listing::parse(&repo, &url, &text, wanted)
    }

    /// What the hub's refusal means: a missing repository answers 401 without a token, a gated one 401 or 403.
    fn explained(&self, repo: &str, error: FetchError) -> HubError {
        let (repo, endpoint) = (repo.to_owned(), self.endpoint.clone());
        match error {
            FetchError::Refused { url, reason, .. } if reason == "GatedRepo" && self.has_token => {
                HubError::Forbidden { url, endpoint, repo }
            }
            FetchError::Refused { url, status: 401, .. } => HubError::Unauthorized { url, endpoint },
            FetchError::Refused { url, status: 403, .. } => HubError::Forbidden { url, endpoint, repo },
            FetchError::Refused { url, status: 404, .. } => HubError::NotFound { url },
            FetchError::TooManyRequests { url } => HubError::TooManyRequests { url },
            error => error.into(),
        }
    }
}

/// Files of a repository at one commit.
struct Listing {
    commit: Option<String>,
    files: Vec<RemoteFile>,
}

impl Listing {
    /// Reads the hub's answer. Only files whose names are `wanted` are kept, and each of their names has been found harmless.
    fn parse(repo: &str, url: &str, text: &[u8], wanted: fn(&str) -> bool) -> Result<Self> {
        #[derive(Deserialize)]
        struct Answer {
            sha: Option<String>,
            siblings: Vec<Sibling>,
        }
        #[derive(Deserialize)]
        struct Sibling {
            rfilename: String,
            size: Option<u64>,
            lfs: Option<Lfs>,
        }
        #[derive(Deserialize)]
        struct Lfs {
            sha256: Option<String>,
            oid: Option<String>,
            size: Option<u64>,
        }
        let bad = |why: String| HubError::BadListing { url: url.to_owned(), why };
        let answer: Answer = serde_json::from_slice(text).map_err(|error| bad(error.to_string()))?;
        if answer.siblings.len() > MAX_FILES {
            return Err(bad(format!("it names {} files", answer.siblings.len())));
        }
        let commit = answer.sha.filter(|sha| check_revision(sha).is_ok());
        let mut files = Vec::new();
        for sibling in answer.siblings {
            if !wanted(&sibling.rfilename) {
                continue;
            }
            if !is_safe_file_name(&sibling.rfilename) {
                return Err(HubError::UnsafeFileName { repo: repo.to_owned(), name: sibling.rfilename });
            }
            let (sha256, lfs_size) = match sibling.lfs {
                Some(lfs) => (lfs.sha256.or(lfs.oid), lfs.size),
                None => (None, None),
            };
            files.push(RemoteFile {
                name: sibling.rfilename,
                size: sibling.size.or(lfs_size),
                sha256: sha256.filter(|sha| fetch::is_sha256(sha)).map(|sha| sha.to_ascii_lowercase()),
                unpacked_sha256: None,
            });
        }
        Ok(Self { commit, files })
    }
}

fn is_gguf(name: &str) -> bool {
    name.to_ascii_lowercase().ends_with(".gguf")
}

/// Whether the file that is here is the one the hub has.
fn is_current(entry: &Entry, remote: &RemoteFile, listing: &Listing) -> bool {
    match &remote.sha256 {
        Some(sha256) => sha256 == &entry.sha256,
        None => entry.commit.is_some() && entry.commit == listing.commit && remote.size.is_none_or(|s| s == entry.size),
    }
}

/// What a file is if it does not begin as a GGUF does.
fn other_than_gguf(path: &Path) -> Result<Option<&'static str>> {
    let mut begin = Vec::new();
    let file = std::fs::File::open(path).map_err(HubError::io("open", path))?;
    std::io::Read::read_to_end(&mut std::io::Read::take(file, 512), &mut begin).map_err(HubError::io("read", path))?;
    let text = String::from_utf8_lossy(&begin).trim_start().to_ascii_lowercase();
    Ok(match () {
        () if begin.starts_with(b"GGUF") => None,
        () if text.starts_with("<!doctype") || text.starts_with("<html") => Some("a page of HTML"),
        () if text.starts_with("version https://git-lfs") => Some("a Git LFS pointer"),
        () if begin.is_empty() => Some("nothing"),
        () => Some("other data"),
    })
}

/// The hub that the environment names.
fn endpoint_from_env() -> String {
    text_from("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned())
}

fn token_from_env() -> Option<String> {
    if let Some(token) = text_from("HF_TOKEN").or_else(|| text_from("HUGGING_FACE_HUB_TOKEN")) {
        return Some(token);
    }
    let path = match (text_from("HF_TOKEN_PATH"), text_from("HF_HOME")) {
        (Some(path), _) => PathBuf::from(path),
        (None, Some(home)) => PathBuf::from(home).join("token"),
        (None, None) => {
            let cache = text_from("XDG_CACHE_HOME").map(PathBuf::from);
            cache.or_else(|| std::env::home_dir().map(|home| home.join(".cache")))?.join("huggingface/token")
        }
    };
    let token = std::fs::read_to_string(path).ok()?.trim().to_owned();
    (!token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic())).then_some(token)
}

fn text_from(variable: &str) -> Option<String> {
    std::env::var(variable).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}
