//! What can go wrong between a server and a file. One message and one remedy each.

use std::io;
use std::path::{Path, PathBuf};

/// `Result` with [`FetchError`].
pub type Result<T, E = FetchError> = std::result::Result<T, E>;

/// Why a file could not be fetched or kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// A status that another try does not change, such as 404.
    #[error("{url}: the server refuses (status {status}); check the address and any proxy in between")]
    Refused {
        /// What was asked for.
        url: String,
        /// The status.
        status: u16,
        /// The server's `x-error-code`, or nothing.
        reason: String,
    },
    /// 429: too many requests, also after waiting.
    #[error("{url}: too many requests (429), also after waiting; try again later")]
    TooManyRequests {
        /// What was asked for.
        url: String,
    },
    /// 5xx, also after retries.
    #[error(
        "{url}: the server fails (status {status}){}; try again later, what was fetched is kept",
        also_after(*tries)
    )]
    ServerFailed {
        /// What was asked for.
        url: String,
        /// The last status.
        status: u16,
        /// How often it was tried.
        tries: u32,
    },
    /// Any other status.
    #[error("{url}: unexpected answer (status {status}); check the address and any proxy in between")]
    Status {
        /// What was asked for.
        url: String,
        /// The status.
        status: u16,
    },
    /// The connection could not be made or broke, also after retries.
    #[error(
        "{url}: {source}{}; check the network, then run the same command: what was fetched is kept",
        also_after(*tries)
    )]
    Network {
        /// What was asked for.
        url: String,
        /// How often it was tried.
        tries: u32,
        /// The last failure.
        #[source]
        source: Box<ureq::Error>,
    },
    /// A redirect that cannot or must not be followed.
    #[error("{url}: redirected to {target:?}, {why}; check the address and any proxy in between")]
    BadRedirect {
        /// What was asked for.
        url: String,
        /// Where it points.
        target: String,
        /// Why it is not followed.
        why: &'static str,
    },
    /// The finished file, or what is packed in it, is not what was announced.
    #[error("{file}: SHA-256 is {actual}, {expected} was announced; the file was deleted, run the command again")]
    Checksum {
        /// The file's name.
        file: String,
        /// Announced.
        expected: String,
        /// Found.
        actual: String,
    },
    /// The server sends more or less than it announced.
    #[error("{file}: got {actual} bytes where {expected} were announced; the part was deleted, run the command again")]
    WrongSize {
        /// The file's name.
        file: String,
        /// Announced, in bytes.
        expected: u64,
        /// Found, in bytes.
        actual: u64,
    },
    /// No space left where the file goes.
    #[error("{}: the disk is full, {missing} more bytes are needed; free some (`sterna list` and `sterna remove` help), then run the same command: it goes on where it stopped", path.display())]
    DiskFull {
        /// The file being written.
        path: PathBuf,
        /// How much is still to come, in bytes.
        missing: u64,
    },
    /// Any other trouble with files.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Ctrl-C.
    #[error("stopped with Ctrl-C; what was fetched is kept, the same command goes on from there")]
    Interrupted,
}

impl FetchError {
    /// What happened in one try, without what is to be done when no other try follows.
    pub fn cause(&self) -> String {
        match self {
            Self::TooManyRequests { url } => format!("{url}: too many requests (429)"),
            Self::ServerFailed { url, status, .. } => format!("{url}: the server fails (status {status})"),
            Self::Network { url, source, .. } => format!("{url}: {source}"),
            other => other.to_string(),
        }
    }

    /// For `map_err`: a [`FetchError::Io`] that names the path.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}

/// How often something was tried, where that was more than once.
fn also_after(tries: u32) -> String {
    if tries > 1 { format!(", also after {tries} tries") } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_try_met_speaks_of_no_other_tries() {
        let url = || "https://hub.example/x".to_owned();
        let source = Box::new(ureq::Error::ConnectionFailed);
        for error in [
            FetchError::TooManyRequests { url: url() },
            FetchError::ServerFailed { url: url(), status: 503, tries: 5 },
            FetchError::Network { url: url(), tries: 5, source },
        ] {
            assert!(error.to_string().contains("also after"), "{error}");
            let cause = error.cause();
            assert!(cause.starts_with("https://hub.example/x: ") && !cause.contains("after"), "{cause}");
        }
        let source = Box::new(ureq::Error::ConnectionFailed);
        for error in [
            FetchError::ServerFailed { url: url(), status: 503, tries: 1 },
            FetchError::Network { url: url(), tries: 1, source },
        ] {
            assert!(!error.to_string().contains("after"), "{error}");
        }
    }
}
