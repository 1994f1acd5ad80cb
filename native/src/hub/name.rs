//! A model's name as people type it, `USER/REPO[@REVISION][:QUANT]`, and the rules for names that come from a server.

use std::fmt;
use std::str::FromStr;

use super::error::HubError;

/// What was typed: which repository, at which revision, in which quant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelName {
    /// The account or organization.
    pub user: String,
    /// The repository.
    pub repo: String,
    /// A branch, tag or commit; `None` is the default branch.
    pub revision: Option<String>,
    /// The wanted quant, as typed.
    pub quant: Option<String>,
}

impl ModelName {
    /// USER/REPO.
    pub fn id(&self) -> String {
        format!("{}/{}", self.user, self.repo)
    }

    /// The revision to ask for.
    pub fn revision_or_main(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.user, self.repo)?;
        if let Some(revision) = &self.revision {
            write!(f, "@{revision}")?;
        }
        if let Some(quant) = &self.quant {
            write!(f, ":{quant}")?;
        }
        Ok(())
    }
}

impl FromStr for ModelName {
    type Err = HubError;

    fn from_str(name: &str) -> Result<Self, HubError> {
        let bad = |why| HubError::BadName { name: name.to_owned(), why };
        let (rest, quant) = match name.split_once(':') {
            Some((rest, quant)) => (rest, Some(quant)),
            None => (name, None),
        };
        let (id, revision) = match rest.split_once('@') {
            Some((id, revision)) => (id, Some(revision)),
            None => (rest, None),
        };
        let (user, repo) = id.split_once('/').ok_or_else(|| bad("it has no slash"))?;
        for part in [user, repo] {
            if part.is_empty() {
                return Err(bad("a part is empty"));
            }
            if !part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')) {
                return Err(bad("user and repository hold letters, digits, '-', '_' and '.' only"));
            }
            if part.starts_with('.') || part.contains("..") {
                return Err(bad("a part starts with '.' or holds '..'"));
            }
        }
        if quant.is_some_and(|quant| quant.is_empty() || quant.contains(['/', '\\', ':'])) {
            return Err(bad("the quant after ':' is empty or holds a slash"));
        }
        if let Some(revision) = revision {
            check_revision(revision).map_err(bad)?;
        }
        Ok(Self {
            user: user.to_owned(),
            repo: repo.to_owned(),
            revision: revision.map(str::to_owned),
            quant: quant.map(str::to_owned),
        })
    }
}

/// Whether `revision` can name a branch, tag or commit.
pub fn check_revision(revision: &str) -> Result<(), &'static str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    if revision.is_empty()
        || !revision.chars().all(plain)
        || revision.contains("..")
        || revision.starts_with(['.', '/'])
    {
        return Err("the revision is not a branch, tag or commit");
    }
    Ok(())
}

/// Whether a file name sent by a server may become a path below the cache, on every system: relative, no step up, no
/// characters or names that some file system reads otherwise, no hidden files (the cache's own notes are such).
pub fn is_safe_file_name(name: &str) -> bool {
    const RESERVED: [&str; 4] = ["con", "prn", "aux", "nul"];
    !name.is_empty()
        && name.len() <= 1024
        && name.split('/').all(|part| {
            let stem = part.split('.').next().unwrap_or_default().to_ascii_lowercase();
            let device =
                |kind: &str| stem.strip_prefix(kind).is_some_and(|n| n.len() == 1 && n.as_bytes()[0].is_ascii_digit());
            !part.is_empty()
                && part.len() <= 200
                && !part.starts_with(['.', ' '])
                && !part.ends_with(['.', ' '])
                && !part.chars().any(|c| c.is_control() || r#"\:*?"<>|"#.contains(c))
                && !RESERVED.contains(&stem.as_str())
                && !device("com")
                && !device("lpt")
        })
}

/// Percent-encodes everything but unreserved characters; `keep_slash` keeps the separators of a path.
pub fn percent_encode(text: &str, keep_slash: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') || (keep_slash && byte == b'/') {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_into_their_parts() {
        let name: ModelName = "prism-ml/Ternary-Bonsai-1.7B-gguf@refs/pr/1:Q2_0".parse().unwrap();
        assert_eq!(name.id(), "prism-ml/Ternary-Bonsai-1.7B-gguf");
        assert_eq!(name.revision.as_deref(), Some("refs/pr/1"));
        assert_eq!(name.quant.as_deref(), Some("Q2_0"));
        assert_eq!(name.to_string(), "prism-ml/Ternary-Bonsai-1.7B-gguf@refs/pr/1:Q2_0");
        let plain: ModelName = "a/b".parse().unwrap();
        assert_eq!((plain.revision_or_main(), &plain.quant), ("main", &None));
    }

    #[test]
    fn names_that_are_no_names_are_refused() {
        for name in [
            "", "a", "/b", "a/", "a/b/c", "../b", "a/..", ".a/b", "a/b:", "a/b@", "a/b@../x", "a b/c", "a/b:x/y",
            "a/b?c",
        ] {
            assert!(matches!(name.parse::<ModelName>(), Err(HubError::BadName { .. })), "{name:?} was taken");
        }
    }

    #[test]
    fn hostile_file_names_are_told_from_plain_ones() {
        for name in ["model.gguf", "Q2_0/model-00001-of-00002.gguf", "a b (c).gguf", "größe.gguf"] {
            assert!(is_safe_file_name(name), "{name:?} was refused");
        }
        for name in [
            "",
            "../x.gguf",
            "a/../../x.gguf",
            "/etc/x.gguf",
            "a//b.gguf",
            "./x.gguf",
            "..",
            "C:x.gguf",
            "a\\b.gguf",
            "a\0.gguf",
            "a\n.gguf",
            ".hidden.gguf",
            "NUL.gguf",
            "com1.gguf",
            "x.gguf.",
            "x/ y.gguf",
            "file:x.gguf",
        ] {
            assert!(!is_safe_file_name(name), "{name:?} was taken");
        }
        assert!(!is_safe_file_name(&"x".repeat(300)));
    }

    #[test]
    fn percent_encoding_keeps_only_what_is_unreserved() {
        assert_eq!(percent_encode("a b/ü?#.gguf", true), "a%20b/%C3%BC%3F%23.gguf");
        assert_eq!(percent_encode("refs/pr/1", false), "refs%2Fpr%2F1");
    }
}
