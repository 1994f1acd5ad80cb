//! Files from servers: fetched in as many pieces as the network needs, checked, and named when they are complete.
//!
//! The one downloader, for models ([`hub`](crate::hub)) and data sets ([`data`](crate::data)). It prints nothing and reads
//! no terminal: a [`Watcher`] hears what happens and may stop it. It knows neither where files should come from nor what
//! is in them.

mod client;
mod download;
mod error;
#[cfg(test)]
pub(crate) mod testing;

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use client::{Answer, Client, Failure, Request, is_address};
pub use download::{fetch, file_sha256, is_sha256, unpacked_sha256};
pub use error::{FetchError, Result};

/// Held while a process changes a folder.
pub const LOCK: &str = ".lock";
/// After the name of a download that is not finished.
pub const PART: &str = ".part";
/// After the name of a note: which content such a part is of.
pub const PART_NOTE: &str = ".part.json";

/// A file as it is announced.
#[derive(Debug, Clone, Default)]
pub struct RemoteFile {
    /// With `/` between folders.
    pub name: String,
    /// In bytes.
    pub size: Option<u64>,
    /// Lower-case hex.
    pub sha256: Option<String>,
    /// The file is gzip, and this the SHA-256 of what is in it.
    pub unpacked_sha256: Option<String>,
}

/// A file that is here, as it was found to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// In bytes.
    pub size: u64,
    /// Lower-case hex SHA-256.
    pub sha256: String,
}

/// What happens while files are fetched.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Another process is changing this folder.
    Waiting {
        /// What is in it: USER/REPO, or the name of a data set.
        what: &'a str,
    },
    /// A file begins, or goes on.
    Started {
        /// Its name.
        file: &'a str,
        /// From 1.
        number: usize,
        /// How many files there are.
        count: usize,
    },
    /// Bytes of this file that an earlier call fetched and that were looked through now.
    Checking {
        /// In bytes.
        done: u64,
    },
    /// Bytes of this file that are here now.
    Advanced {
        /// In bytes.
        done: u64,
        /// In bytes, if known.
        total: Option<u64>,
    },
    /// A try failed; there will be another.
    Retrying {
        /// What happened.
        why: &'a FetchError,
        /// The pause before it.
        wait: Duration,
        /// Which try it will be, the first being 1.
        next: u32,
        /// How many there will be without headway.
        tries: u32,
    },
    /// A file is complete and checked.
    Finished,
}

/// Hears [`Event`]s, and says when to stop.
pub trait Watcher {
    /// Called often; must be quick.
    fn event(&mut self, event: Event<'_>);
    /// True ends the work with [`FetchError::Interrupted`]; what was fetched is kept.
    fn interrupted(&self) -> bool {
        false
    }
}

/// Hears nothing and stops nothing.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Watcher for Silent {
    fn event(&mut self, _: Event<'_>) {}
}

/// Makes `folder` and holds its lock until the value is dropped; waits while another process has it.
pub fn lock(folder: &Path, what: &str, watcher: &mut dyn Watcher) -> Result<File> {
    fs::create_dir_all(folder).map_err(FetchError::io("make this folder", folder))?;
    let path = folder.join(LOCK);
    let file = File::options().create(true).append(true).open(&path).map_err(FetchError::io("open", &path))?;
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {}
            // Some network file systems have no locks; two processes there may at worst fetch twice.
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(FetchError::io("lock", &path)(error)),
        }
        if !told {
            watcher.event(Event::Waiting { what });
            told = true;
        }
        if watcher.interrupted() {
            return Err(FetchError::Interrupted);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The path of the file `name`, with `/` between folders, below `folder`. The name must be harmless as a path.
pub fn path_of(folder: &Path, name: &str) -> PathBuf {
    name.split('/').fold(folder.to_owned(), |path, part| path.join(part))
}

/// `path` with `suffix` after its last component.
pub fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// Deletes a file; that it is gone already is fine.
pub fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(FetchError::io("delete", path)(error)),
        _ => Ok(()),
    }
}
