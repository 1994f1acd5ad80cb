//! What can go wrong between a model's name and its file. One message and one remedy each.

use std::io;
use std::path::{Path, PathBuf};

use crate::fetch::FetchError;

/// `Result` with [`HubError`].
pub type Result<T, E = HubError> = std::result::Result<T, E>;

/// Why a model could not be found, fetched or kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The name does not have the form `USER/REPO[@REVISION][:QUANT]`.
    #[error("{name:?} is not a model name: write USER/REPO, USER/REPO:QUANT or USER/REPO@REVISION:QUANT ({why})")]
    BadName {
        /// What was typed.
        name: String,
        /// Which rule it breaks.
        why: &'static str,
    },
    /// An address that names no model.
    #[error(
        "{address} is not the address of a model: {why}; give the address of a .gguf file, or of a model's page on the hub"
    )]
    BadAddress {
        /// What was typed.
        address: String,
        /// Which rule it breaks.
        why: &'static str,
    },
    /// What a server gave is no GGUF.
    #[error(
        "{address} gave {what}, not a GGUF; nothing was kept. Check the address: it must be the file's own, not its page's"
    )]
    NotGguf {
        /// What was asked for.
        address: String,
        /// What came.
        what: &'static str,
    },
    /// `HF_ENDPOINT` is not an address this client can use.
    #[error("HF_ENDPOINT is {value:?}; give it an address such as https://huggingface.co")]
    BadEndpoint {
        /// The value found.
        value: String,
    },
    /// No place for the cache: neither `STERNA_CACHE` nor a home directory.
    #[error("no cache folder: this user has no home directory; set STERNA_CACHE to a folder")]
    NoCacheDir,
    /// The model is not in the cache and the network may not be used.
    #[error("{model} is not in {} and --offline forbids fetching it; run `sterna pull {model}` (for a checkpoint, the command itself) once with a network", cache.display())]
    Offline {
        /// The model as typed.
        model: String,
        /// The cache that was looked into.
        cache: PathBuf,
    },
    /// A model that `remove` should delete is not there.
    #[error("{model} is not in {}; `sterna list` shows what is", cache.display())]
    NotCached {
        /// The model as typed.
        model: String,
        /// The cache that was looked into.
        cache: PathBuf,
    },
    /// 401: a token is missing or wrong.
    #[error(
        "{url}: the hub wants a valid token (401); set HF_TOKEN to one from {endpoint}/settings/tokens, or check the name: private and missing repositories look the same"
    )]
    Unauthorized {
        /// What was asked for.
        url: String,
        /// The hub.
        endpoint: String,
    },
    /// 403: the token is valid, but the repository is gated or out of its reach.
    #[error(
        "{url}: access refused (403); accept the model's terms on {endpoint}/{repo} with the account HF_TOKEN belongs to"
    )]
    Forbidden {
        /// What was asked for.
        url: String,
        /// The hub.
        endpoint: String,
        /// USER/REPO.
        repo: String,
    },
    /// 404: no such repository, revision or file.
    #[error("{url}: not found (404); check the spelling of the repository, the revision and the file")]
    NotFound {
        /// What was asked for.
        url: String,
    },
    /// 429: too many requests, also after waiting.
    #[error("{url}: too many requests (429), also after waiting; try again later, or set HF_TOKEN for a higher limit")]
    TooManyRequests {
        /// What was asked for.
        url: String,
    },
    /// Anything else between a server and the disk.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The list of files is not the JSON that the hub's API promises.
    #[error("{url}: the answer is not a list of files: {why}; is HF_ENDPOINT a Hugging Face hub?")]
    BadListing {
        /// What was asked for.
        url: String,
        /// What the parser said.
        why: String,
    },
    /// The hub lists a name that must not become a path here.
    #[error("{repo} lists a file named {name:?}, which is not a plain relative path; nothing was fetched")]
    UnsafeFileName {
        /// USER/REPO.
        repo: String,
        /// The name as the server gave it.
        name: String,
    },
    /// The repository has no GGUF.
    #[error(
        "{repo} holds no GGUF file; look for a repository whose name ends in -GGUF, or make one with `sterna convert {repo} -o {}.gguf`",
        repo.rsplit('/').next().unwrap_or(repo)
    )]
    NoGguf {
        /// USER/REPO.
        repo: String,
    },
    /// The repository has no checkpoint that can be read.
    #[error("{repo} holds no checkpoint that can be read: {why}")]
    NoCheckpoint {
        /// USER/REPO.
        repo: String,
        /// What is missing or not readable, and what to do.
        why: String,
    },
    /// No file has the wanted quant or name.
    #[error("{repo} has no {wanted}; it has: {}", available.join(", "))]
    NoSuchQuant {
        /// USER/REPO.
        repo: String,
        /// What was asked for.
        wanted: String,
        /// File names that are there.
        available: Vec<String>,
    },
    /// Several files, none of them ternary, and no quant was given.
    #[error("{repo} has several files and none is known to be ternary; add :QUANT or --hf-file to choose from: {}", available.join(", "))]
    Ambiguous {
        /// USER/REPO.
        repo: String,
        /// File names that are there.
        available: Vec<String>,
    },
    /// A sharded model misses parts on the hub.
    #[error("{repo}: {name} is one of {expected} parts, but only {found} are listed; the upload is incomplete")]
    MissingShards {
        /// USER/REPO.
        repo: String,
        /// One of the parts.
        name: String,
        /// How many the name promises.
        expected: usize,
        /// How many are listed.
        found: usize,
    },
}

impl HubError {
    /// For `map_err`: a [`FetchError::Io`] that names the path.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| FetchError::io(action, path)(source).into()
    }
}
