//! What a model predicted for the tokens of a text, in the file that llama-perplexity writes and reads
//! (`--kl-divergence-base`), so that another model can be compared with it.
//!
//! ```text
//! "_logits_", u32 tokens of a chunk, i32 vocabulary, i32 chunks, then all tokens of all chunks as i32
//! for each chunk, for each scored token (those of the second half, but the first of it):
//!   f32 scale, f32 least, vocabulary x u16, and one u16 more if the vocabulary is odd
//! ```
//!
//! The logarithm of a token's probability is `scale * code + least`; all is little-endian. What is less likely than the likeliest
//! by a factor of e to the 16 has code 0.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rayon::prelude::*;

use crate::fetch::{remove_if_there, suffixed};

const MAGIC: &[u8; 8] = b"_logits_";
const HEADER: u64 = 20;
/// The likelihood of what is not told apart any more, as a logarithm below the likeliest.
const FLOOR: f32 = 16.0;

/// u16 of one token's record.
fn record(vocabulary: usize) -> usize {
    4 + vocabulary.next_multiple_of(2)
}

/// Scored tokens of a chunk.
pub fn scored(context: usize) -> usize {
    context - 1 - context / 2
}

/// A file that is being written; it gets its name when it is complete.
pub struct Writer {
    path: PathBuf,
    part: PathBuf,
    file: BufWriter<File>,
}

impl Writer {
    /// Makes the file, beside the place where it will be.
    ///
    /// # Errors
    /// If it is there and no plain file, or cannot be made.
    pub fn create(path: &Path) -> Result<Self> {
        let path = crate::output::place(path)?;
        let part = suffixed(&path, ".part");
        let file = File::create(&part).with_context(|| format!("cannot make {}", part.display()))?;
        Ok(Self { path, part, file: BufWriter::new(file) })
    }

    /// Writes what stands before the first chunk; `tokens` are those of all chunks.
    pub(super) fn begin(&mut self, context: usize, vocabulary: usize, tokens: &[u32]) -> Result<()> {
        let chunks = tokens.len() / context;
        let mut bytes = MAGIC.to_vec();
        for number in [context, vocabulary, chunks] {
            bytes.extend(i32::try_from(number).context("too large for a file of logits")?.to_le_bytes());
        }
        bytes.extend(tokens.iter().flat_map(|token| token.to_le_bytes()));
        self.write(&bytes)
    }

    /// Writes the predictions of one chunk.
    pub(super) fn chunk(&mut self, rows: &[(&[f32], u32)]) -> Result<()> {
        let records: Vec<Vec<u8>> = rows.par_iter().map(|(row, _)| encode(row)).collect();
        records.iter().try_for_each(|record| self.write(record))
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// If it cannot be written whole.
    pub fn finish(mut self) -> Result<()> {
        self.file.flush().with_context(|| format!("cannot write {}", self.part.display()))?;
        std::fs::rename(&self.part, &self.path).with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// Leaves no file: not all chunks were measured.
    ///
    /// # Errors
    /// If what was written cannot be deleted.
    pub fn discard(self) -> Result<()> {
        drop(self.file);
        Ok(remove_if_there(&self.part)?)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).with_context(|| format!("cannot write {}", self.part.display()))
    }
}

/// The record of one token.
fn encode(row: &[f32]) -> Vec<u8> {
    let (max, lse) = likeliest(row);
    let min = row.iter().copied().fold(f32::INFINITY, f32::min).max(max - FLOOR);
    let scale = (max - min) / 65535.0;
    let mut bytes = Vec::with_capacity(2 * record(row.len()));
    bytes.extend(scale.to_le_bytes());
    bytes.extend((min - max - lse).to_le_bytes());
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    for &logit in row {
        // The cast keeps what rounding puts beyond the ends inside.
        let code = if logit > min { (inverse * (logit - min)).round_ties_even() as u16 } else { 0 };
        bytes.extend(code.to_le_bytes());
    }
    bytes.resize(2 * record(row.len()), 0);
    bytes
}

/// The largest logit, and the logarithm of the sum of exponentials above it.
pub(super) fn likeliest(row: &[f32]) -> (f32, f32) {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.iter().map(|logit| f64::from(logit - max).exp()).sum();
    (max, sum.ln() as f32)
}

/// A file that is being read, chunk by chunk.
pub struct Reader {
    path: PathBuf,
    file: BufReader<File>,
    /// Tokens of a chunk.
    pub context: usize,
    /// Tokens that each record has a probability for.
    pub vocabulary: usize,
    /// Tokens of all chunks.
    pub tokens: Vec<u32>,
    bytes: Vec<u8>,
}

impl Reader {
    /// Reads what stands before the first chunk.
    ///
    /// # Errors
    /// If it is no such file, or shorter than it says.
    pub fn open(path: &Path) -> Result<Self> {
        let shown = path.display();
        let file = File::open(path).with_context(|| format!("cannot open {shown}"))?;
        let size = file.metadata().with_context(|| format!("cannot open {shown}"))?.len();
        let mut file = BufReader::new(file);
        let mut header = [0; HEADER as usize];
        let read = file.read_exact(&mut header);
        if read.is_err() || &header[..8] != MAGIC {
            bail!(
                "{shown} is no file of logits; make one of the model to compare with: sterna perplexity --kl-divergence-base {shown}"
            );
        }
        let number = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (context, vocabulary, chunks) = (number(8), number(12), number(16));
        ensure!(
            (4..=1 << 24).contains(&context) && (1..=1 << 24).contains(&vocabulary) && (1..=1 << 24).contains(&chunks),
            "{shown}: {chunks} chunks of {context} tokens with a vocabulary of {vocabulary} cannot be; make the file anew"
        );
        // Below 2^63, as each is below 2^25.
        let count = u64::from(context) * u64::from(chunks);
        let records = scored(context as usize) as u64 * u64::from(chunks);
        let needed = records
            .checked_mul(2 * record(vocabulary as usize) as u64)
            .and_then(|bytes| bytes.checked_add(HEADER + 4 * count))
            .filter(|needed| *needed <= size);
        ensure!(
            needed.is_some(),
            "{shown} is shorter than its {chunks} chunks of {context} tokens are; make the file anew"
        );
        let mut bytes = vec![0; 4 * count as usize];
        file.read_exact(&mut bytes).with_context(|| format!("cannot read {shown}"))?;
        let tokens: Vec<u32> =
            bytes.chunks_exact(4).map(|four| u32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect();
        if let Some(token) = tokens.iter().find(|token| **token >= vocabulary) {
            bail!("{shown}: token {token} is outside its vocabulary of {vocabulary}; make the file anew");
        }
        let (context, vocabulary) = (context as usize, vocabulary as usize);
        let bytes = vec![0; 2 * record(vocabulary) * scored(context)];
        Ok(Self { path: path.to_owned(), file, context, vocabulary, tokens, bytes })
    }

    /// The records of the next chunk, one for each scored token.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn chunk(&mut self) -> Result<Vec<Base<'_>>> {
        let read: io::Result<()> = self.file.read_exact(&mut self.bytes);
        read.with_context(|| format!("cannot read {}", self.path.display()))?;
        let vocabulary = self.vocabulary;
        let float = |bytes: &[u8]| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let base = |bytes: &'_ [u8]| (float(&bytes[..4]), float(&bytes[4..8]));
        Ok(self
            .bytes
            .chunks_exact(2 * record(vocabulary))
            .map(|bytes| {
                let (scale, least) = base(bytes);
                Base { scale, least, codes: &bytes[8..8 + 2 * vocabulary] }
            })
            .collect())
    }
}

/// What the model that is compared with predicted for one token.
#[derive(Clone, Copy)]
pub struct Base<'a> {
    scale: f32,
    least: f32,
    codes: &'a [u8],
}

impl Base<'_> {
    /// The logarithm of the probability of a token.
    pub fn log_probability(&self, token: usize) -> f32 {
        let code = u16::from_le_bytes([self.codes[2 * token], self.codes[2 * token + 1]]);
        self.scale * f32::from(code) + self.least
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logits_come_back_as_logarithms_of_probabilities() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("base.logits");
        let rows = [[0.5f32, -3.0, 2.0, -40.0, 1.0], [1.0; 5]];
        let mut writer = Writer::create(&path).unwrap();
        writer.begin(6, 5, &[4, 0, 1, 2, 3, 4]).unwrap();
        writer.chunk(&[(&rows[0], 0), (&rows[1], 1)]).unwrap();
        assert!(!path.exists());
        writer.finish().unwrap();
        let size = std::fs::metadata(&path).unwrap().len();
        assert_eq!(size, 20 + 4 * 6 + 2 * 2 * 10);
        let mut reader = Reader::open(&path).unwrap();
        assert_eq!((reader.context, reader.vocabulary, reader.tokens.len()), (6, 5, 6));
        let records = reader.chunk().unwrap();
        for (row, record) in rows.iter().zip(&records) {
            let (max, lse) = likeliest(row);
            for (token, logit) in row.iter().enumerate() {
                let expected = logit.max(max - 16.0) - max - lse;
                assert!((record.log_probability(token) - expected).abs() < 2e-4, "{token}");
            }
        }
        // Every byte less is one too few, and what is no such file is said to be none.
        let bytes = std::fs::read(&path).unwrap();
        for (damaged, said) in [
            (bytes[..bytes.len() - 1].to_vec(), "shorter than"),
            (b"GGUF".to_vec(), "no file of logits"),
            ([&bytes[..8], &[255; 12][..], &bytes[20..]].concat(), "cannot be"),
            ([&bytes[..20], &[9, 0, 0, 0][..], &bytes[24..]].concat(), "token 9 is outside"),
        ] {
            std::fs::write(&path, damaged).unwrap();
            let error = Reader::open(&path).err().unwrap().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
