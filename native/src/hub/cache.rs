//! The folder where fetched models live, and the notes that say what they are.
//!
//! ```text
//! $STERNA_CACHE/models/USER/REPO[@REVISION]/
//!   FILE.gguf            a finished, checked file, under the repository's own name for it
//!   config.json, ...     those of a checkpoint, if one was asked for; the folder is its directory
//!   FILE.gguf.part       a download that stopped; the next one goes on from there
//!   FILE.gguf.part.json  which content that part is of
//!   .sterna.json         what is here: sizes, checksums, dates, and the names the repository listed
//!   .lock                held while a process changes this folder
//! $STERNA_CACHE/addresses/HASH/
//!   the same for the files of one folder of another server; .sterna.json has its address
//! ```
//!
//! Without `STERNA_CACHE` the folder is `sterna` in the system's cache folder (`$XDG_CACHE_HOME` or `~/.cache`,
//! `~/Library/Caches`, `%LOCALAPPDATA%`). Hugging Face's own cache is neither read nor written.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::error::{HubError, Result};
use super::name::{ModelName, is_safe_file_name, percent_encode};
use super::quant::{self, Choice};
use super::wanted::{Address, Wanted};
use crate::fetch::{self, LOCK, PART, PART_NOTE, Watcher, path_of, remove_if_there, suffixed};

const INDEX: &str = ".sterna.json";

/// The cache folder.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

/// One finished file, as the cache remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The repository's name for the file, with `/` between folders.
    pub name: String,
    /// In bytes.
    pub size: u64,
    /// Lower-case hex SHA-256 of the content, as computed here.
    pub sha256: String,
    /// The commit it was listed at, if the hub said so.
    pub commit: Option<String>,
    /// When it was finished, in seconds since 1970.
    pub fetched: u64,
}

/// What one repository's folder holds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Index {
    /// `USER/REPO[@REVISION]`, or the address of a folder.
    pub name: String,
    /// Every GGUF name the hub listed last; decides what a name without a quant means when the network is not asked.
    pub listed: Vec<String>,
    /// The finished files.
    pub files: Vec<Entry>,
    /// The files of the repository's checkpoint, config.json first; empty if none was asked for.
    #[serde(default)]
    pub checkpoint: Vec<String>,
}

/// One model in the cache, a GGUF or a checkpoint, or the beginning of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cached {
    /// What to type to get it: `USER/REPO[@REVISION][:QUANT]`, or an address.
    pub name: String,
    /// The quant its file name names.
    pub quant: Option<String>,
    /// Bytes on disk, over all files.
    pub size: u64,
    /// The file, or the first shard; of a checkpoint its folder.
    #[serde(serialize_with = "crate::ui::text::path_as_json")]
    pub path: PathBuf,
    /// When the newest file was finished, in seconds since 1970.
    pub fetched: u64,
    /// False for a download that stopped.
    pub complete: bool,
}

impl Cache {
    /// The cache in `root`; the folder need not exist.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The cache that the environment names; see the top of this file.
    pub fn from_env() -> Result<Self> {
        if let Some(root) = non_empty("STERNA_CACHE") {
            return Ok(Self::new(root));
        }
        let home = || std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
        let base = if cfg!(windows) {
            non_empty("LOCALAPPDATA")
        } else if cfg!(target_os = "macos") {
            home().map(|home| home.join("Library/Caches"))
        } else {
            // A relative XDG path is to be ignored, says its specification.
            non_empty("XDG_CACHE_HOME")
                .filter(|path| path.is_absolute())
                .or_else(|| home().map(|home| home.join(".cache")))
        };
        base.map(|base| Self::new(base.join("sterna"))).ok_or(HubError::NoCacheDir)
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the files of `name`'s repository and revision live.
    pub fn folder(&self, name: &ModelName) -> PathBuf {
        let repo = match &name.revision {
            // '%' occurs in no revision, so two revisions never share a folder.
            Some(revision) => format!("{}@{}", name.repo, revision.replace('/', "%2F")),
            None => name.repo.clone(),
        };
        self.root.join("models").join(&name.user).join(repo)
    }

    /// Where the files of an address live, with the others of its folder.
    pub fn address_folder(&self, address: &Address) -> PathBuf {
        let hash = Sha256::digest(address.base());
        let hash: String = hash.iter().take(10).map(|byte| format!("{byte:02x}")).collect();
        self.root.join("addresses").join(hash)
    }

    /// What `folder` holds. A missing or unreadable note means: nothing; the files are fetched or checked again.
    pub fn index(&self, folder: &Path) -> Index {
        let text = fs::read(folder.join(INDEX)).unwrap_or_default();
        let mut index: Index = serde_json::from_slice(&text).unwrap_or_default();
        index
            .files
            .retain(|entry| is_safe_file_name(&entry.name) && has_size(&path_of(folder, &entry.name), entry.size));
        index
    }

    /// Every model, by name; downloads that stopped are among them.
    pub fn list(&self) -> Result<Vec<Cached>> {
        let mut models = Vec::new();
        for user in folders(&self.root.join("models"))? {
            for folder in folders(&user)? {
                self.list_folder(&folder, &mut models)?;
            }
        }
        for folder in folders(&self.root.join("addresses"))? {
            self.list_folder(&folder, &mut models)?;
        }
        models.sort_by(|a, b| (&a.name, &a.path).cmp(&(&b.name, &b.path)));
        Ok(models)
    }

    /// Deletes what `wanted` means: one quant, one file, or everything of the repository at that revision. Gives what is gone.
    pub fn remove(&self, wanted: &Wanted, watcher: &mut dyn Watcher) -> Result<Vec<Cached>> {
        let folder = match wanted {
            Wanted::Model { name, .. } => self.folder(name),
            Wanted::Address(address) => self.address_folder(address),
        };
        let not_cached = || HubError::NotCached { model: wanted.to_string(), cache: self.root.clone() };
        if !folder.is_dir() {
            return Err(not_cached());
        }
        let lock = fetch::lock(&folder, &wanted.to_string(), watcher)?;
        let mut index = self.index(&folder);
        let mut names: Vec<String> = index.files.iter().map(|entry| entry.name.clone()).collect();
        names.extend(parts(&folder)?);
        let mut models = Vec::new();
        self.list_folder(&folder, &mut models)?;
        let choice = one_of(wanted, &names);
        // Everything of the repository goes, its checkpoint included.
        let whole = choice.is_none();
        if let Some(choice) = choice {
            let choice = choice.ok_or_else(not_cached)?;
            names.retain(|name| choice.files.contains(name));
            models.retain(|model| choice.files.iter().any(|file| path_of(&folder, file) == model.path));
        }
        for file in &names {
            let path = path_of(&folder, file);
            for doomed in [path.clone(), suffixed(&path, PART), suffixed(&path, PART_NOTE)] {
                remove_if_there(&doomed)?;
            }
        }
        index.files.retain(|entry| !names.contains(&entry.name));
        if whole {
            index.checkpoint.clear();
        }
        let now_empty = index.files.is_empty() && parts(&folder)?.is_empty();
        if now_empty {
            remove_if_there(&folder.join(INDEX))?;
            drop(lock);
            remove_if_there(&folder.join(LOCK))?;
            remove_empty(&folder);
            if let Some(user) = folder.parent() {
                let _ = fs::remove_dir(user); // stays while other repositories are in it
            }
        } else {
            self.write_index(&folder, &index)?;
        }
        if models.is_empty() && names.is_empty() { Err(not_cached()) } else { Ok(models) }
    }

    /// Replaces the note of `folder` at once, so that a crash leaves the old or the new one.
    pub(super) fn write_index(&self, folder: &Path, index: &Index) -> Result<()> {
        let path = folder.join(INDEX);
        let text = serde_json::to_vec_pretty(index).map_err(|error| HubError::io("write", &path)(error.into()))?;
        let new = suffixed(&path, ".new");
        fs::write(&new, text).and_then(|()| fs::rename(&new, &path)).map_err(HubError::io("write", &path))
    }

    /// What is typed for `folder`: `USER/REPO[@REVISION]`, or the address that its note has.
    fn name_of(&self, folder: &Path, index: &Index) -> String {
        match folder.strip_prefix(self.root.join("models")) {
            Ok(below) => below.to_string_lossy().replace(std::path::MAIN_SEPARATOR, "/").replace("%2F", "/"),
            Err(_) => index.name.clone(),
        }
    }

    fn list_folder(&self, folder: &Path, models: &mut Vec<Cached>) -> Result<()> {
        let index = self.index(folder);
        let base = self.name_of(folder, &index);
        let address = base.contains("://");
        let mut names: Vec<String> = index.files.iter().map(|entry| entry.name.clone()).collect();
        names.extend(parts(folder)?);
        // What is here of files that belong together.
        let cached = |files: &[String], quant: Option<String>, path: PathBuf| {
            let name = match &quant {
                _ if address => format!("{base}{}", percent_encode(&files[0], false)),
                Some(quant) => format!("{base}:{quant}"),
                None => base.clone(),
            };
            let mut cached = Cached { name, quant, size: 0, path, fetched: 0, complete: true };
            for file in files {
                match index.files.iter().find(|entry| &entry.name == file) {
                    Some(entry) => {
                        cached.size += entry.size;
                        cached.fetched = cached.fetched.max(entry.fetched);
                    }
                    None => {
                        cached.complete = false;
                        let part = fs::metadata(suffixed(&path_of(folder, file), PART));
                        cached.size += part.map_or(0, |meta| meta.len());
                    }
                }
            }
            cached
        };
        for model in quant::models(&names) {
            let quant = quant::quant_of(&model.files[0]).map(str::to_owned);
            let found = cached(&model.files, quant, path_of(folder, &model.files[0]));
            models.push(Cached { complete: found.complete && model.is_complete(), ..found });
        }
        if !index.checkpoint.is_empty() {
            models.push(cached(&index.checkpoint, None, folder.to_owned()));
        }
        Ok(())
    }
}

/// The one model of a folder that `wanted` means, if it does not mean all of them; `Some(None)` if that is not here.
fn one_of(wanted: &Wanted, names: &[String]) -> Option<Option<Choice>> {
    let models = quant::models(names);
    let of_file = |file: &String| models.iter().find(|model| model.files.contains(file)).cloned();
    match wanted {
        Wanted::Model { file: Some(file), .. } => Some(of_file(file)),
        Wanted::Model { name, file: None } => name.quant.as_ref().map(|quant| quant::find(&models, quant).cloned()),
        Wanted::Address(address) => Some(address.files().iter().find_map(of_file)),
    }
}

/// Names of files that are not finished, as the repository calls them.
fn parts(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(inner) = open.pop() {
        open.extend(folders(&inner)?);
        let entries = fs::read_dir(&inner).map_err(HubError::io("read this folder", &inner))?;
        for path in entries.flatten().map(|entry| entry.path()) {
            let below = path.strip_prefix(folder).ok().and_then(Path::to_str);
            if let Some(name) = below.and_then(|name| name.strip_suffix(PART)) {
                names.push(name.replace(std::path::MAIN_SEPARATOR, "/"));
            }
        }
    }
    Ok(names)
}

fn folders(folder: &Path) -> Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => Ok(entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(HubError::io("read this folder", folder)(error)),
    }
}

/// Removes `folder` and the folders in it as far as they are empty.
fn remove_empty(folder: &Path) {
    for inner in folders(folder).unwrap_or_default() {
        remove_empty(&inner);
    }
    let _ = fs::remove_dir(folder); // a stranger's file in it is reason enough to stay
}

fn has_size(path: &Path, size: u64) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() == size)
}

fn non_empty(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}
