//! One file: fetched in as many pieces as the network needs, checked, and only then given its name.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use ureq::http::StatusCode;

use super::client::{Client, Failure, Request, header};
use super::error::{FetchError, Result};
use super::{Event, Fetched, PART, PART_NOTE, RemoteFile, Watcher, path_of, remove_if_there, suffixed};

const CHUNK: usize = 256 * 1024;

/// Which content a part is of; kept beside it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Note {
    sha256: Option<String>,
    size: Option<u64>,
    /// A strong ETag of the answer that the part came from.
    etag: Option<String>,
}

/// A file on its way.
struct Part<'a> {
    path: PathBuf,
    note_path: PathBuf,
    note: Note,
    remote: &'a RemoteFile,
    /// Over the first `done` bytes.
    hasher: Sha256,
    done: u64,
    /// An answer's `x-linked-etag`, for listings without a checksum.
    linked: Option<String>,
}

/// Fetches `remote` from `url` to its place below `folder`, going on where an earlier call stopped. `remote.name` must be
/// harmless as a path.
///
/// # Errors
/// The network, the disk, content that is not what was announced, or the watcher's wish.
pub fn fetch(
    client: &Client,
    url: &str,
    remote: &RemoteFile,
    folder: &Path,
    watcher: &mut dyn Watcher,
) -> Result<Fetched> {
    let target = path_of(folder, &remote.name);
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(FetchError::io("make this folder", parent))?;
    }
    let mut part = Part::open(&target, remote, watcher)?;
    watcher.event(Event::Advanced { done: part.done, total: remote.size });
    if remote.size.is_none_or(|size| part.done < size) {
        client.retrying(watcher, |watcher, progress| part.go_on(client, url, watcher, progress))?;
    }
    part.finish(&target)
}

impl<'a> Part<'a> {
    /// What an earlier call left, if it is of the same content.
    fn open(target: &Path, remote: &'a RemoteFile, watcher: &mut dyn Watcher) -> Result<Self> {
        let (path, note_path) = (suffixed(target, PART), suffixed(target, PART_NOTE));
        let old: Note =
            fs::read(&note_path).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        let same = match (&remote.sha256, &old.sha256) {
            (Some(new), Some(old)) => new == old,
            // Without a checksum only the server can tell, by the ETag.
            (None, None) => old.etag.is_some() && old.size == remote.size,
            _ => false,
        };
        let note = Note { sha256: remote.sha256.clone(), size: remote.size, etag: old.etag.filter(|_| same) };
        let mut part = Self { path, note_path, note, remote, hasher: Sha256::new(), done: 0, linked: None };
        if same {
            part.hash_existing(watcher)?;
        }
        if part.done == 0 || remote.size.is_some_and(|size| part.done > size) {
            part.restart()?;
        }
        Ok(part)
    }

    fn hash_existing(&mut self, watcher: &mut dyn Watcher) -> Result<()> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(FetchError::io("open", &self.path)(error)),
        };
        let mut buffer = vec![0; CHUNK];
        loop {
            let n = file.read(&mut buffer).map_err(FetchError::io("read", &self.path))?;
            if n == 0 {
                return Ok(());
            }
            self.hasher.update(&buffer[..n]);
            self.done += n as u64;
            // A part of many gigabytes takes a while.
            watcher.event(Event::Checking { done: self.done });
            if watcher.interrupted() {
                return Err(FetchError::Interrupted);
            }
        }
    }

    /// Forgets what is there.
    fn restart(&mut self) -> Result<()> {
        remove_if_there(&self.path)?;
        (self.hasher, self.done, self.note.etag) = (Sha256::new(), 0, None);
        Ok(())
    }

    /// One connection's worth.
    fn go_on(
        &mut self,
        client: &Client,
        url: &str,
        watcher: &mut dyn Watcher,
        progress: &mut bool,
    ) -> Result<(), Failure> {
        let etag = self.note.etag.clone();
        let answer = client.get(&Request { url, from: self.done, if_range: etag.as_deref() })?;
        let (response, linked) = (answer.response, answer.linked_etag);
        self.linked = linked.as_deref().and_then(sha256_in).or(self.linked.take());
        let cut = |done| {
            let source = std::io::Error::new(ErrorKind::UnexpectedEof, format!("the connection ended at byte {done}"));
            client.network(url, ureq::Error::Io(source))
        };
        let length: Option<u64> = header(&response, "content-length").and_then(|text| text.parse().ok());
        let total = match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                match header(&response, "content-range").as_deref().and_then(content_range) {
                    Some((from, total)) if from == self.done => total,
                    // Not the piece that was asked for: it cannot be used, and neither can what is here be trusted to fit.
                    _ => {
                        self.restart()?;
                        return Err(cut(0));
                    }
                }
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                self.restart()?;
                return Err(cut(0));
            }
            _ => {
                self.restart()?;
                length
            }
        };
        let total = self.agree(total)?;
        self.note.etag = header(&response, "etag").filter(|etag| etag.starts_with('"'));
        self.write_note()?;
        let mut file =
            File::options().create(true).append(true).open(&self.path).map_err(|error| self.io(error, total))?;
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; CHUNK];
        loop {
            if watcher.interrupted() {
                return Err(FetchError::Interrupted.into());
            }
            let n = match body.read(&mut buffer) {
                Ok(n) => n,
                Err(error) => return Err(client.network(url, ureq::Error::Io(error))),
            };
            if n == 0 {
                break;
            }
            if let Some(total) = total.filter(|total| self.done + n as u64 > *total) {
                let actual = self.done + n as u64;
                self.discard()?;
                let file = self.remote.name.clone();
                return Err(FetchError::WrongSize { file, expected: total, actual }.into());
            }
            file.write_all(&buffer[..n]).map_err(|error| self.io(error, total))?;
            self.hasher.update(&buffer[..n]);
            self.done += n as u64;
            *progress = true;
            watcher.event(Event::Advanced { done: self.done, total });
        }
        match total {
            Some(total) if self.done < total => Err(cut(self.done)),
            _ => {
                file.sync_all().map_err(|error| self.io(error, total))?;
                Ok(())
            }
        }
    }

    /// The size, from the listing or else from the answer; an error where the two differ.
    fn agree(&mut self, answered: Option<u64>) -> Result<Option<u64>> {
        match (self.remote.size, answered) {
            (Some(expected), Some(actual)) if expected != actual => {
                self.discard()?;
                Err(FetchError::WrongSize { file: self.remote.name.clone(), expected, actual })
            }
            (listed, answered) => Ok(listed.or(answered)),
        }
    }

    fn write_note(&self) -> Result<()> {
        let text = serde_json::to_vec(&self.note).map_err(|error| self.io(error.into(), None))?;
        fs::write(&self.note_path, text).map_err(|error| self.io(error, self.remote.size))
    }

    fn discard(&mut self) -> Result<()> {
        self.restart()?;
        remove_if_there(&self.note_path)
    }

    /// Checks the content and gives the file its name.
    fn finish(mut self, target: &Path) -> Result<Fetched> {
        let actual = hex(&std::mem::take(&mut self.hasher).finalize());
        let expected = self.remote.sha256.clone().or(self.linked.take());
        let mut wrong = expected.filter(|expected| *expected != actual).map(|expected| (expected, actual.clone()));
        if let (None, Some(expected)) = (&wrong, &self.remote.unpacked_sha256) {
            let found = unpacked_sha256(&self.path).unwrap_or_else(|error| format!("not to be found ({error})"));
            wrong = (*expected != found).then(|| (expected.clone(), found));
        }
        if let Some((expected, actual)) = wrong {
            self.discard()?;
            return Err(FetchError::Checksum { file: self.remote.name.clone(), expected, actual });
        }
        let place = crate::output::place(target).map_err(std::io::Error::other);
        let place = place.map_err(FetchError::io("replace this", target))?;
        fs::rename(&self.path, place).map_err(FetchError::io("rename to its final name", &self.path))?;
        remove_if_there(&self.note_path)?;
        Ok(Fetched { size: self.done, sha256: actual })
    }

    fn io(&self, source: std::io::Error, total: Option<u64>) -> FetchError {
        match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => FetchError::DiskFull {
                path: self.path.clone(),
                missing: total.or(self.remote.size).unwrap_or(0).saturating_sub(self.done),
            },
            _ => FetchError::io("write", &self.path)(source),
        }
    }
}

/// `bytes 5-9/10` as (5, Some(10)); the total may be `*`.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (from, _) = range.split_once('-')?;
    Some((from.parse().ok()?, total.parse().ok()))
}

/// The SHA-256 in an ETag, if it is one.
fn sha256_in(etag: &str) -> Option<String> {
    let etag = etag.trim_start_matches("W/").trim_matches('"');
    is_sha256(etag).then(|| etag.to_ascii_lowercase())
}

/// Whether `text` is 64 hex digits.
pub fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Lower-case hex SHA-256 of a file.
pub fn file_sha256(path: &Path) -> std::io::Result<String> {
    sha256_of(File::open(path)?)
}

/// Lower-case hex SHA-256 of what is in a gzip file.
pub fn unpacked_sha256(path: &Path) -> std::io::Result<String> {
    sha256_of(flate2::read::MultiGzDecoder::new(File::open(path)?))
}

fn sha256_of(mut reader: impl Read) -> std::io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(hex(&hasher.finalize())),
            n => hasher.update(&buffer[..n]),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_and_etags_parse() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        assert_eq!(content_range("bytes */10"), None);
        assert_eq!(content_range("items 0-1/2"), None);
        let sha = "AB".repeat(32);
        assert_eq!(sha256_in(&format!("\"{sha}\"")), Some("ab".repeat(32)));
        assert_eq!(sha256_in("\"abc\""), None);
    }
}
