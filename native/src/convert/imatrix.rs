//! Importance matrices of llama.cpp: the mean square of what meets each column of a matrix, as `llama-imatrix` writes it.
//!
//! ```text
//! GGUF, general.type = "imatrix":
//!   NAME.in_sum2  F32 [cols, matrices]   sums of squares
//!   NAME.counts   F32 [1, matrices]      how many were summed
//!   imatrix.chunk_count, imatrix.datasets
//! .dat, of older versions, all numbers i32 or f32, little-endian:
//!   entries | each: length, name, calls, values, f32 x values (means times calls) | chunks, length, name of the text
//! ```
//!
//! Not here: what is done with it (`sterna_core::ternary::Rule::weighted_scales`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sterna_core::formats::Format;
use sterna_core::gguf::{Gguf, Metadata, TensorInfo};

use crate::source::map;

/// No name of a tensor is longer.
const MAX_NAME: usize = 1024;

/// How much each column counts, by the name of the GGUF's tensor.
#[derive(Debug)]
pub struct Imatrix {
    path: PathBuf,
    entries: BTreeMap<String, Vec<f32>>,
    /// Chunks of text that it was computed on.
    chunks: Option<u32>,
    /// The text.
    dataset: Option<String>,
}

impl Imatrix {
    /// Reads a file in either form.
    ///
    /// # Errors
    /// A file that is no importance matrix, or contradicts itself; names the file and the entry.
    pub fn read(path: &Path) -> Result<Self> {
        let found = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
        if !found.is_file() || found.len() == 0 {
            let what = match () {
                () if found.is_dir() => "a folder",
                () if found.is_file() => "no importance matrix, but an empty file",
                () => "no file with data",
            };
            bail!("{} is {what}; name the file that llama-imatrix wrote", path.display());
        }
        let bytes = map(path)?;
        let parsed = if bytes.starts_with(b"GGUF") { of_gguf(&bytes) } else { of_dat(&bytes) };
        let (entries, chunks, dataset) =
            parsed.with_context(|| format!("{} is no importance matrix", path.display()))?;
        Ok(Self { path: path.to_owned(), entries, chunks, dataset })
    }

    /// How much each of a tensor's `cols` columns counts; `None` if there is no entry.
    ///
    /// # Errors
    /// An entry of another width.
    pub fn of_tensor(&self, name: &str, cols: usize) -> Result<Option<&[f32]>> {
        match self.entries.get(name) {
            Some(entry) if entry.len() != cols => bail!(
                "{} has {} values for {name}, which has {cols} columns; it was made with another model",
                self.path.display(),
                entry.len()
            ),
            entry => Ok(entry.map(Vec::as_slice)),
        }
    }

    /// Refuses a file that has an entry for none of these tensors.
    ///
    /// # Errors
    /// If there are tensors, and none has an entry.
    pub fn check<'a>(&self, mut names: impl Iterator<Item = &'a str>) -> Result<()> {
        match names.next() {
            Some(first) if !self.entries.contains_key(first) && !names.any(|name| self.entries.contains_key(name)) => {
                bail!(
                    "{} has no entry for any matrix that becomes ternary, such as {first}; it was made with another model",
                    self.path.display()
                )
            }
            _ => Ok(()),
        }
    }

    /// Says which of the tensors that were rounded by a rule had no entry.
    pub fn missing<'a>(&self, rounded: impl Iterator<Item = &'a str>) -> Option<String> {
        let (found, missing): (Vec<&str>, Vec<&str>) = rounded.partition(|name| self.entries.contains_key(*name));
        (!missing.is_empty()).then(|| {
            format!(
                "{} has no entry for {} of {} matrices; their columns count alike: {}",
                self.path.display(),
                missing.len(),
                missing.len() + found.len(),
                missing.join(", ")
            )
        })
    }

    /// Sets the keys by which files of llama-quantize say what they were made with.
    pub fn describe(&self, metadata: &mut Metadata) {
        let name = self.path.file_name().map(|name| name.to_string_lossy().into_owned());
        metadata.insert("quantize.imatrix.file", name.unwrap_or_default());
        if let Some(dataset) = &self.dataset {
            metadata.insert("quantize.imatrix.dataset", dataset.as_str());
        }
        metadata.insert("quantize.imatrix.entries_count", self.entries.len() as u32);
        if let Some(chunks) = self.chunks {
            metadata.insert("quantize.imatrix.chunks_count", chunks);
        }
    }
}

/// Entries, chunks and the text.
type Parsed = (BTreeMap<String, Vec<f32>>, Option<u32>, Option<String>);

fn of_gguf(bytes: &[u8]) -> Result<Parsed> {
    let file = Gguf::parse(bytes)?;
    let metadata = &file.header().metadata;
    if let Some(kind) = metadata.str("general.type").filter(|&kind| kind != "imatrix") {
        bail!("its general.type is {kind}");
    }
    let values = |info: &TensorInfo| -> Result<Vec<f32>> {
        if info.type_id != Format::F32.type_id() {
            bail!("{} is not of the type F32", info.name);
        }
        let mut values = vec![0.0; usize::try_from(info.elements())?];
        // Data may be followed by padding.
        let bytes = file.data(info).get(..4 * values.len()).with_context(|| format!("{} is cut short", info.name))?;
        Format::F32.dequantize(bytes, &mut values)?;
        Ok(values)
    };
    let mut entries = BTreeMap::new();
    for info in &file.header().tensors {
        let Some(name) = info.name.strip_suffix(".in_sum2") else {
            let of_sums = info.name.strip_suffix(".counts").map(|name| format!("{name}.in_sum2"));
            if of_sums.is_none_or(|sums| file.header().tensor(&sums).is_none()) {
                bail!("its tensor {} is neither sums nor the counts of sums", info.name);
            }
            continue;
        };
        let counts = file.header().tensor(&format!("{name}.counts"));
        let counts = values(counts.with_context(|| format!("the counts of {name} are missing"))?)?;
        let sums = values(info)?;
        if counts.is_empty() || !sums.len().is_multiple_of(counts.len()) {
            bail!("{name} has {} sums and {} counts", sums.len(), counts.len());
        }
        let cols = sums.len() / counts.len();
        let mut means = Vec::with_capacity(sums.len());
        for (sums, count) in sums.chunks(cols.max(1)).zip(counts) {
            // What nothing was measured of counts alike.
            means.extend(sums.iter().map(|sum| if count > 0.0 { sum / count } else { 1.0 }));
        }
        entries.insert(name.to_owned(), checked(name, means)?);
    }
    if entries.is_empty() {
        bail!("it has no entries");
    }
    let dataset = metadata.strings("imatrix.datasets").and_then(|names| names.first().cloned());
    Ok((entries, metadata.u32("imatrix.chunk_count"), dataset))
}

fn of_dat(bytes: &[u8]) -> Result<Parsed> {
    let mut reader = Reader { rest: bytes };
    let count = reader.count("the number of entries")?;
    if count == 0 {
        bail!("it has no entries");
    }
    let mut entries = BTreeMap::new();
    for i in 0..count {
        let name = reader.text().with_context(|| format!("the name of entry {i}"))?;
        let of_entry = || format!("the entry {name}");
        let calls = reader.count("the number of calls").with_context(of_entry)?;
        let n = reader.count("the number of values").with_context(of_entry)?;
        let size = n.checked_mul(4).with_context(of_entry)?;
        let values = reader.take(size).with_context(of_entry)?.as_chunks::<4>().0.iter();
        // Files of old versions have sums over calls.
        let means = values.map(|&bytes| f32::from_le_bytes(bytes) / calls.max(1) as f32).collect();
        let means = checked(&name, means)?;
        if n == 0 || entries.insert(name.clone(), means).is_some() {
            bail!("the entry {name} is empty or occurs twice");
        }
    }
    let mut chunks = None;
    let mut dataset = None;
    // What follows came with later versions.
    if !reader.rest.is_empty() {
        chunks = u32::try_from(reader.count("the number of chunks")?).ok();
        dataset = Some(reader.text().context("the name of its text")?).filter(|name| !name.is_empty());
    }
    Ok((entries, chunks, dataset))
}

/// Means of squares.
fn checked(name: &str, means: Vec<f32>) -> Result<Vec<f32>> {
    match means.iter().position(|mean| !(mean.is_finite() && *mean >= 0.0)) {
        Some(at) => bail!("value {at} of {name} is {}; a mean square is a finite number from 0 on", means[at]),
        None => Ok(means),
    }
}

/// Numbers and texts of a .dat.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let Some((taken, rest)) = self.rest.split_at_checked(n) else {
            bail!("{n} bytes are needed, and {} are left in the file", self.rest.len());
        };
        self.rest = rest;
        Ok(taken)
    }

    /// A number that counts something, so not below 0.
    fn count(&mut self, what: &str) -> Result<usize> {
        let bytes = self.take(4).with_context(|| what.to_owned())?;
        let number = i32::from_le_bytes(*bytes.first_chunk().context("four bytes")?);
        usize::try_from(number).ok().with_context(|| format!("{what} is {number}"))
    }

    fn text(&mut self) -> Result<String> {
        let length = self.count("its length")?;
        if length > MAX_NAME {
            bail!("its length is {length}; names end at {MAX_NAME} bytes");
        }
        Ok(std::str::from_utf8(self.take(length)?).context("it is not UTF-8")?.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use sterna_core::gguf::{TensorDecl, Writer};

    use super::*;

    fn dat(entries: &[(&str, i32, &[f32])], end: &[u8]) -> Vec<u8> {
        let mut bytes = (entries.len() as i32).to_le_bytes().to_vec();
        for (name, calls, values) in entries {
            bytes.extend((name.len() as i32).to_le_bytes());
            bytes.extend(name.as_bytes());
            bytes.extend(calls.to_le_bytes());
            bytes.extend((values.len() as i32).to_le_bytes());
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
        bytes.extend(end);
        bytes
    }

    fn gguf(kind: &str, tensors: &[(&str, &[u64], &[f32])]) -> Vec<u8> {
        let mut metadata = Metadata::new();
        metadata.insert("general.type", kind);
        metadata.insert("imatrix.chunk_count", 7u32);
        let decl = |(name, dims, values): &(&str, &[u64], &[f32])| {
            let size = values.len() as u64 * 4;
            TensorDecl { name: (*name).into(), dims: dims.to_vec(), type_id: 0, size }
        };
        let mut writer = Writer::new(Vec::new(), &metadata, tensors.iter().map(decl).collect()).unwrap();
        for (name, _, values) in tensors {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            writer.tensor(name, &bytes).unwrap();
        }
        writer.finish().unwrap()
    }

    fn read(bytes: &[u8]) -> Result<Imatrix> {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("x.imatrix");
        std::fs::write(&path, bytes).unwrap();
        Imatrix::read(&path)
    }

    #[test]
    fn both_forms_give_means() {
        let end = [&3i32.to_le_bytes()[..], &4i32.to_le_bytes(), b"text"].concat();
        let old = read(&dat(&[("blk.0.ffn_up.weight", 2, &[4.0, 0.0, 1.0])], &end)).unwrap();
        assert_eq!(old.of_tensor("blk.0.ffn_up.weight", 3).unwrap(), Some(&[2.0, 0.0, 0.5][..]));
        assert_eq!((old.chunks, old.dataset.as_deref()), (Some(3), Some("text")));
        let sums: (&str, &[u64], &[f32]) = ("blk.0.ffn_up.weight.in_sum2", &[3], &[4.0, 0.0, 1.0]);
        let new = read(&gguf("imatrix", &[sums, ("blk.0.ffn_up.weight.counts", &[1], &[8.0])])).unwrap();
        assert_eq!(new.of_tensor("blk.0.ffn_up.weight", 3).unwrap(), Some(&[0.5, 0.0, 0.125][..]));
        assert_eq!((new.of_tensor("blk.0.ffn_gate.weight", 3).unwrap(), new.chunks), (None, Some(7)));
        assert!(new.of_tensor("blk.0.ffn_up.weight", 4).unwrap_err().to_string().contains("made with another model"));
        let nothing = read(&gguf("imatrix", &[sums, ("blk.0.ffn_up.weight.counts", &[1], &[0.0])])).unwrap();
        assert_eq!(nothing.of_tensor("blk.0.ffn_up.weight", 3).unwrap(), Some(&[1.0; 3][..]));
        // The tail came later.
        assert_eq!(read(&dat(&[("a", 0, &[2.0])], &[])).unwrap().of_tensor("a", 1).unwrap(), Some(&[2.0][..]));
        let mut metadata = Metadata::new();
        old.describe(&mut metadata);
        assert_eq!(metadata.str("quantize.imatrix.file"), Some("x.imatrix"));
        let names = ["blk.0.ffn_up.weight", "blk.0.ffn_down.weight"];
        let note = new.missing(names.into_iter()).unwrap();
        assert!(note.contains("no entry for 1 of 2 matrices") && note.ends_with("blk.0.ffn_down.weight"), "{note}");
        assert!(new.check(names.into_iter()).is_ok() && new.check(std::iter::empty()).is_ok());
        assert!(new.check(["other"].into_iter()).unwrap_err().to_string().contains("made with another model"));
    }

    #[test]
    fn hostile_files_are_one_error_each() {
        let sums: (&str, &[u64], &[f32]) = ("a.in_sum2", &[4], &[1.0; 4]);
        let mut huge = dat(&[("a", 1, &[1.0])], &[]);
        huge[13..17].copy_from_slice(&i32::MAX.to_le_bytes());
        let long = [&1i32.to_le_bytes()[..], &i32::MAX.to_le_bytes()].concat();
        for (bytes, said) in [
            (Vec::new(), "an empty file"),
            (vec![0; 4], "no entries"),
            ((-1i32).to_le_bytes().to_vec(), "the number of entries is -1"),
            (i32::MAX.to_le_bytes().to_vec(), "the name of entry 0"),
            (long, "names end at"),
            (huge, "bytes are needed"),
            (dat(&[("a", -1, &[1.0])], &[]), "the number of calls is -1"),
            (dat(&[("a", 1, &[])], &[]), "empty or occurs twice"),
            (dat(&[("a", 1, &[1.0]), ("a", 1, &[1.0])], &[]), "empty or occurs twice"),
            (dat(&[("a", 1, &[f32::NAN])], &[]), "value 0 of a is NaN"),
            (dat(&[("a", 1, &[1.0, -1.0])], &[]), "value 1 of a is -1"),
            (dat(&[("a", 1, &[1.0])], &[9]), "the number of chunks"),
            (b"GGUF".to_vec(), "x.imatrix"),
            (gguf("model", &[sums]), "general.type is model"),
            (gguf("imatrix", &[]), "no entries"),
            (gguf("imatrix", &[sums]), "the counts of a are missing"),
            (gguf("imatrix", &[sums, ("a.counts", &[3], &[1.0; 3])]), "a has 4 sums and 3 counts"),
            (gguf("imatrix", &[sums, ("a.counts", &[1], &[1.0]), ("b.counts", &[1], &[1.0])]), "b.counts is neither"),
            (
                gguf("imatrix", &[("a.in_sum2", &[1], &[f32::INFINITY]), ("a.counts", &[1], &[1.0])]),
                "value 0 of a is inf",
            ),
        ] {
            let error = format!("{:#}", read(&bytes).unwrap_err());
            assert!(error.contains(said) && error.contains("x.imatrix is no importance matrix"), "{said}: {error}");
        }
    }
}
