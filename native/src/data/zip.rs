//! One file out of a ZIP archive: stored or deflated, below 4 GiB, not encrypted. What the archive says is not trusted; whether the
//! content is right is for the caller's checksum.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result, bail};
use flate2::read::DeflateDecoder;

/// The record at the end of an archive: its length without the comment, and the longest comment.
const END: usize = 22;
const COMMENT: u64 = 0xffff;
/// An entry of the directory and the header before a file's data, without names.
const ENTRY: usize = 46;
const HEADER: usize = 30;
/// The longest directory that is read, in bytes.
const DIRECTORY: u32 = 16 << 20;

/// The content of the file `name` in the archive at `path`, which has `size` bytes.
///
/// # Errors
/// No archive, none that can be read, no such file in it, or one of another size.
pub fn read(path: &Path, name: &str, size: u64) -> Result<Vec<u8>> {
    let mut archive = File::open(path).context("cannot open it")?;
    let length = archive.metadata().context("cannot read it")?.len();
    let tail = bytes(&mut archive, length.saturating_sub(COMMENT + END as u64), length.min(COMMENT + END as u64))?;
    let end =
        tail.windows(END).rposition(|record| record.starts_with(b"PK\x05\x06")).context("it is no ZIP archive")?;
    let end = &tail[end..];
    let (length, start) = (u32_at(end, 12), u32_at(end, 16));
    if length > DIRECTORY {
        bail!("its directory has {length} bytes, which is too much");
    }
    let directory = bytes(&mut archive, start.into(), length.into())?;
    let entry = entries(&directory).find(|(found, _)| *found == name.as_bytes());
    let (_, entry) = entry.with_context(|| format!("it holds no {name}"))?;
    let (flags, method, stored, start) = (u16_at(entry, 8), u16_at(entry, 10), u32_at(entry, 20), u32_at(entry, 42));
    if flags & 1 != 0 {
        bail!("{name} is encrypted");
    }
    let header = bytes(&mut archive, start.into(), HEADER as u64)?;
    if !header.starts_with(b"PK\x03\x04") {
        bail!("{name} is not where the directory says");
    }
    let skip = HEADER as u64 + u64::from(u16_at(&header, 26)) + u64::from(u16_at(&header, 28));
    archive.seek(SeekFrom::Start(u64::from(start) + skip)).context("cannot read it")?;
    let packed = archive.take(stored.into());
    let mut content = Vec::new();
    // One byte more than there should be, so that more is noticed.
    match method {
        0 => packed.take(size + 1).read_to_end(&mut content),
        8 => DeflateDecoder::new(packed).take(size + 1).read_to_end(&mut content),
        other => bail!("{name} is compressed by method {other}, which is not known"),
    }
    .with_context(|| format!("{name} is damaged"))?;
    if content.len() as u64 != size {
        let more = if content.len() as u64 > size { "more than " } else { "not " };
        bail!("{name} has {more}{size} bytes");
    }
    Ok(content)
}

/// Names and records of the directory's entries; ends where it is damaged.
fn entries(directory: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = directory;
    std::iter::from_fn(move || {
        if rest.len() < ENTRY || !rest.starts_with(b"PK\x01\x02") {
            return None;
        }
        let (record, after) = rest.split_at(ENTRY);
        let lengths = [28, 30, 32].map(|at| usize::from(u16_at(record, at)));
        let name = after.get(..lengths[0])?;
        rest = after.get(lengths.iter().sum()..)?;
        Some((name, record))
    })
}

/// So many bytes from `start` on; an error where the archive is shorter.
fn bytes(archive: &mut File, start: u64, length: u64) -> Result<Vec<u8>> {
    archive.seek(SeekFrom::Start(start)).context("cannot read it")?;
    let mut found = Vec::new();
    archive.take(length).read_to_end(&mut found).context("cannot read it")?;
    if found.len() as u64 != length {
        bail!("it is cut short");
    }
    Ok(found)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by Python's zipfile: `a/stored` holds "to be" as it is, `a/packed` 64 times "or not to be, " deflated.
    const ARCHIVE: &[u8] = include_bytes!("../../../tests/fixtures/two-files.zip");

    fn found(archive: &[u8], name: &str, size: u64) -> Result<Vec<u8>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.zip");
        std::fs::write(&path, archive).unwrap();
        read(&path, name, size)
    }

    #[test]
    fn files_are_taken_out_of_an_archive() {
        assert_eq!(found(ARCHIVE, "a/stored", 5).unwrap(), b"to be");
        let packed = "or not to be, ".repeat(64).into_bytes();
        assert_eq!(found(ARCHIVE, "a/packed", packed.len() as u64).unwrap(), packed);
    }

    #[test]
    fn what_is_no_such_archive_is_refused() {
        let said = |archive: &[u8], name: &str, size: u64| format!("{:#}", found(archive, name, size).unwrap_err());
        assert!(said(ARCHIVE, "a/stored", 4).contains("more than 4 bytes"));
        assert!(said(ARCHIVE, "a/packed", 5000).contains("not 5000 bytes"));
        assert!(said(ARCHIVE, "packed", 5).contains("holds no packed"));
        for cut in [0, 1, END, ARCHIVE.len() - 1] {
            assert!(said(&ARCHIVE[..cut], "a/stored", 5).contains("no ZIP archive"), "{cut}");
        }
        // Every byte changed: an error or the right text, never a panic.
        for at in 0..ARCHIVE.len() {
            for value in [0, 0xff, ARCHIVE[at] ^ 1] {
                let mut damaged = ARCHIVE.to_vec();
                damaged[at] = value;
                let _ = found(&damaged, "a/stored", 5);
                let _ = found(&damaged, "a/packed", 896);
            }
        }
    }
}
