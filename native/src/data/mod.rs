//! Data sets for training and measuring: which there are, where they are on this machine, and how to get them.
//!
//! Trainers call [`locate`] and [`read`]; they never fetch by themselves, so that no training starts a download
//! unasked. What is inside the files is the trainers' business.

mod catalogue;
mod zip;

#[cfg(test)]
mod tests;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

pub use catalogue::{CATALOGUE, DataFile, DataSet};

use crate::fetch::{self, Client, Event, RemoteFile, Watcher};
use crate::ui::message;

/// The most bytes one file may hold when uncompressed; the largest in the catalogue has 47 MB.
const MAX_CONTENT: u64 = 1 << 30;

/// How data sets are fetched.
pub struct Fetcher {
    client: Client,
    mirror: Option<String>,
}

/// A data set that is on this machine now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// As [`locate`] gives it.
    pub path: PathBuf,
    /// How many files had to be fetched for it.
    pub fetched: usize,
}

impl Fetcher {
    /// `mirror`: an address under which `NAME/FILE` is asked for instead of each file's own. `waits`: the pauses between
    /// tries; their number is the number of retries.
    ///
    /// # Errors
    /// The mirror is no address.
    pub fn new(mirror: Option<String>, waits: Vec<Duration>) -> Result<Self> {
        let mirror = mirror.map(|mirror| mirror.trim_end_matches('/').to_owned()).filter(|mirror| !mirror.is_empty());
        if let Some(mirror) = mirror.as_deref().filter(|mirror| !fetch::is_address(mirror)) {
            bail!("STERNA_DATA_MIRROR is {mirror:?}; give it an address such as https://mirror.example/data");
        }
        Ok(Self { client: Client::new(waits), mirror })
    }

    /// With the mirror in `STERNA_DATA_MIRROR`, if there is one.
    ///
    /// # Errors
    /// It is no address.
    pub fn from_env() -> Result<Self> {
        let mirror = std::env::var("STERNA_DATA_MIRROR").ok().map(|text| text.trim().to_owned());
        Self::new(mirror, [1, 2, 4, 8].map(Duration::from_secs).to_vec())
    }

    /// Makes sure that `set` is complete and undamaged in `root`: checks what is there, fetches what is missing into the
    /// folder of the set's name.
    ///
    /// # Errors
    /// The network, the disk, Ctrl-C (a [`fetch::FetchError`]); a file of other content, which is never overwritten.
    pub fn get(&self, set: &DataSet, root: &Path, watcher: &mut dyn Watcher) -> Result<Kept> {
        let complete = |folder: &PathBuf| set.files.iter().all(|file| kept_file(folder, file).is_some());
        let folder = set.folders_in(root).find(complete).unwrap_or_else(|| root.join(set.name));
        let missing: Vec<_> = set.files.iter().filter(|file| kept_file(&folder, file).is_none()).collect();
        // Data may lie where nothing can be written; without anything to fetch nothing needs to be.
        let _lock = if missing.is_empty() { None } else { Some(fetch::lock(&folder, set.name, watcher)?) };
        let mut fetched = 0;
        for file in set.files {
            // Another process may have brought it while this one waited for the lock.
            if let Some(path) = kept_file(&folder, file) {
                check(&path, file)?;
                continue;
            }
            let number = missing.iter().position(|other| other.name == file.name).map_or(1, |at| at + 1);
            watcher.event(Event::Started { file: file.name, number, count: missing.len() });
            match file.inside.filter(|_| self.mirror.is_none()) {
                Some(inside) => self.unpack(file, inside, &folder, watcher)?,
                None => {
                    fetch::fetch(&self.client, &self.url(set, file), &file.announced(), &folder, watcher)?;
                }
            }
            watcher.event(Event::Finished);
            fetched += 1;
        }
        let path = found_in(set, &folder).with_context(|| format!("{} vanished", folder.display()))?;
        Ok(Kept { path, fetched })
    }

    /// Fetches an archive and keeps one file of it.
    fn unpack(&self, file: &DataFile, inside: &str, folder: &Path, watcher: &mut dyn Watcher) -> Result<()> {
        let remote = RemoteFile { name: format!("{}.zip", file.name), ..RemoteFile::default() };
        fetch::fetch(&self.client, file.url, &remote, folder, watcher)?;
        let archive = folder.join(&remote.name);
        let content = zip::read(&archive, inside, file.bytes);
        // Neither a damaged archive nor one whose file is here is of any use.
        fetch::remove_if_there(&archive)?;
        let content = content.with_context(|| format!("{}: cannot take {inside} out of it", file.url))?;
        let path = crate::output::place(&folder.join(file.name))?;
        let part = fetch::suffixed(&path, fetch::PART);
        fs::write(&part, content).with_context(|| format!("cannot write {}", part.display()))?;
        let found = fetch::file_sha256(&part).with_context(|| format!("cannot read {}", part.display()))?;
        if found != file.sha256 {
            fetch::remove_if_there(&part)?;
            let (file, expected) = (file.name.to_owned(), file.sha256.to_owned());
            return Err(fetch::FetchError::Checksum { file, expected, actual: found }.into());
        }
        fs::rename(&part, &path).with_context(|| format!("cannot write {}", path.display()))
    }

    fn url(&self, set: &DataSet, file: &DataFile) -> String {
        match &self.mirror {
            Some(mirror) => format!("{mirror}/{}/{}", set.name, file.name),
            None => file.url.to_owned(),
        }
    }
}

/// Where the data set `name` is: its file if it has one, its folder if it has several.
///
/// Only `data_dir` (the `--data-dir` of commands) is looked into if it is given; else `$STERNA_DATA_DIR`, then
/// [`default_folder`]. In each the set may be in the folder of its name or of another usual name (`gpt2`, `text`), and in
/// `data_dir` also in the folder itself. A file fetched as `.gz` may also lie there without it. Contents are not checked.
///
/// # Errors
/// An unknown name, or a set that is in none of these places; the message says which command fetches it.
pub fn locate(name: &str, data_dir: Option<&Path>) -> Result<PathBuf> {
    let set = named(name)?;
    locate_in(set, data_dir, &[from_env(), default_folder().ok()])
}

/// The text file that `path` means: a file (`-` is stdin, and stays so), or the data set of this name if there is no such file.
///
/// # Errors
/// Those of [`locate`]; a data set that is no text; a file that is not there but is called like the file of a data set.
pub fn text_file(path: &Path, data_dir: Option<&Path>) -> Result<PathBuf> {
    let Some(name) = path.to_str().filter(|_| !path.exists()) else { return Ok(path.to_owned()) };
    let Some(set) = DataSet::named(name) else {
        let called = |set: &&DataSet| set.files.iter().any(|file| file.name == name) && set.files.len() == 1;
        return match CATALOGUE.iter().find(called) {
            Some(set) => bail!("there is no file {name} here; the data set is meant by its name, {}", set.name),
            None => Ok(path.to_owned()),
        };
    };
    let found = locate(set.name, data_dir)?;
    if found.is_dir() {
        let texts: Vec<_> = CATALOGUE.iter().filter(|set| set.files.len() == 1).map(|set| set.name).collect();
        bail!("the data set {name} is no text; give a file, or one of {}", texts.join(", "));
    }
    Ok(found)
}

/// The content of the file `name` (without `.gz`) in `folder`, uncompressed if it is there as `name.gz`.
///
/// # Errors
/// Neither file is there or readable, the archive is damaged, or its content is larger than 1 GiB.
pub fn read(folder: &Path, name: &str) -> Result<Vec<u8>> {
    let (packed, plain) = (folder.join(format!("{name}.gz")), folder.join(name));
    if !packed.is_file() {
        return fs::read(&plain).with_context(|| format!("cannot read {}", plain.display()));
    }
    let file = fs::File::open(&packed).with_context(|| format!("cannot open {}", packed.display()))?;
    let mut content = Vec::new();
    flate2::read::MultiGzDecoder::new(file).take(MAX_CONTENT + 1).read_to_end(&mut content).with_context(|| {
        format!("{} is damaged; delete it and get it again with `sterna data get`", packed.display())
    })?;
    if content.len() as u64 > MAX_CONTENT {
        bail!("{} holds more than {} MiB; it is not what its name says", packed.display(), MAX_CONTENT >> 20);
    }
    Ok(content)
}

/// The folder for data without `--data-dir` and `STERNA_DATA_DIR`: `data` beside the models, in the cache folder of the
/// system or in `STERNA_CACHE`.
///
/// # Errors
/// The user has no home directory.
pub fn default_folder() -> Result<PathBuf> {
    Ok(crate::hub::Cache::from_env()?.root().join("data"))
}

/// Where [`Fetcher::get`] puts data: `data_dir` if given, else `$STERNA_DATA_DIR`, else [`default_folder`].
///
/// # Errors
/// Those of [`default_folder`].
pub fn folder(data_dir: Option<&Path>) -> Result<PathBuf> {
    match data_dir.map(Path::to_owned).or_else(from_env) {
        Some(folder) => Ok(folder),
        None => default_folder(),
    }
}

/// The set of that name.
///
/// # Errors
/// There is none; the message lists them all.
pub fn named(name: &str) -> Result<&'static DataSet> {
    DataSet::named(name).with_context(|| {
        let known: Vec<&str> = CATALOGUE.iter().map(|set| set.name).collect();
        format!("no data set is named {name:?}; there are {}", known.join(", "))
    })
}

fn from_env() -> Option<PathBuf> {
    std::env::var_os("STERNA_DATA_DIR").filter(|folder| !folder.is_empty()).map(PathBuf::from)
}

/// The file in `folder`, compressed or not.
fn kept_file(folder: &Path, file: &DataFile) -> Option<PathBuf> {
    [file.name, file.plain_name()].into_iter().map(|name| folder.join(name)).find(|path| path.is_file())
}

/// Whether the file at `path` has the published content.
fn check(path: &Path, file: &DataFile) -> Result<()> {
    let sum = match path.extension().is_some_and(|extension| extension == "gz") {
        true => fetch::unpacked_sha256(path),
        false => fetch::file_sha256(path),
    };
    match sum {
        Ok(sum) if sum == file.sha256 => Ok(()),
        Ok(_) => bail!("{} is not the published file; delete or move it, then run the same command", path.display()),
        Err(error) => bail!("{}: {error}; delete it, then run the same command", path.display()),
    }
}

impl DataSet {
    /// Where it may be below `root`, the usual place first.
    fn folders_in<'a>(&'a self, root: &'a Path) -> impl Iterator<Item = PathBuf> + 'a {
        std::iter::once(self.name).chain(self.folders.iter().copied()).map(|folder| root.join(folder))
    }
}

impl DataFile {
    /// As the downloader wants it. The size of an archive is not known, mirrors differ in it.
    fn announced(&self) -> RemoteFile {
        let (name, sha256) = (self.name.to_owned(), Some(self.sha256.to_owned()));
        match self.is_compressed() {
            true => RemoteFile { name, size: None, sha256: None, unpacked_sha256: sha256 },
            false => RemoteFile { name, size: Some(self.bytes), sha256, unpacked_sha256: None },
        }
    }
}

fn locate_in(set: &DataSet, data_dir: Option<&Path>, others: &[Option<PathBuf>]) -> Result<PathBuf> {
    // A folder that was named is the only one: data from elsewhere would not be what was asked for.
    let roots: Vec<PathBuf> = match data_dir {
        Some(dir) => vec![dir.to_owned()],
        None => others.iter().flatten().cloned().collect(),
    };
    for root in &roots {
        let itself = data_dir.map(Path::to_owned);
        if let Some(found) = set.folders_in(root).chain(itself).find_map(|folder| found_in(set, &folder)) {
            message::detail(|| format!("the data set {} is {}", set.name, found.display()));
            return Ok(found);
        }
    }
    let looked: Vec<_> = roots.iter().map(|root| root.display().to_string()).collect();
    let there = data_dir.map_or(String::new(), |dir| format!(" --data-dir {}", dir.display()));
    bail!("the data set {0} is not in {1}; get it with `sterna data get {0}{there}`", set.name, looked.join(" or "))
}

/// The set in this very folder: the file, or the folder where there are several.
fn found_in(set: &DataSet, folder: &Path) -> Option<PathBuf> {
    let published: Option<Vec<PathBuf>> = set.files.iter().map(|file| kept_file(folder, file)).collect();
    let other = |names: &&[&str]| {
        let paths: Vec<PathBuf> = names.iter().map(|name| folder.join(name)).collect();
        paths.iter().all(|path| path.is_file()).then_some(paths)
    };
    let mut paths = published.or_else(|| set.instead.iter().find_map(other))?;
    if set.files.len() == 1 { paths.pop() } else { Some(folder.to_owned()) }
}
