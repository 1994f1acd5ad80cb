//! Rows of weights as f32, whatever they are stored in: a checkpoint's floats in any order, BitNet's packed bytes, a GGUF's blocks.
//!
//! Rows are those of the GGUF to be written; whoever reads need not know how the source lies.

use anyhow::{Context, Result, bail};
use sterna_core::formats::Format;
use sterna_core::gguf::TensorInfo;

use crate::checkpoint::family::{Role, interleaved};
use crate::checkpoint::plan::{From, Item, Origin};
use crate::checkpoint::safetensors::Dtype;
use crate::checkpoint::{Checkpoint, floats, safetensors::Entry};
use crate::source::Source;

/// A tensor to be converted.
pub struct Tensor<'a> {
    /// Its name in the GGUF.
    pub name: String,
    /// Its name in messages, with its file.
    pub place: String,
    /// Its part in the model.
    pub role: Role,
    /// Rows, 1 for a vector.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// Dimensions in GGUF order.
    pub dims: Vec<u64>,
    /// The rule that the model was trained with, on the type that its scale was rounded to.
    pub trained: Option<(sterna_core::ternary::Rule, Dtype)>,
    /// Names by which `--keep` may mean it.
    pub names: Vec<String>,
    source: Stored<'a>,
}

enum Stored<'a> {
    Checkpoint {
        checkpoint: &'a Checkpoint,
        entry: &'a Entry,
        bytes: &'a [u8],
        from: From,
    },
    Values(Vec<f32>),
    /// Of a GGUF's rows, of `cols` columns there, the first ones are the tensor's.
    Gguf {
        source: &'a Source,
        info: &'a TensorInfo,
        format: Format,
        bytes: &'a [u8],
        cols: usize,
    },
}

impl<'a> Tensor<'a> {
    /// An item of a checkpoint.
    ///
    /// # Errors
    /// If the checkpoint does not have it.
    pub fn of_item(checkpoint: &'a Checkpoint, item: Item) -> Result<Self> {
        let Item { name, role, rows, cols, vector, origin } = item;
        let mut dims = vec![cols as u64];
        if !vector {
            dims.push(rows as u64);
        }
        let (place, trained, names, source) = match origin {
            Origin::Values(values) => ("config.json".to_owned(), None, vec![name.clone()], Stored::Values(values)),
            Origin::Tensor(from) => {
                let place = checkpoint.place(&from.tensor);
                let entry = checkpoint.entry(&from.tensor).with_context(|| place.clone())?;
                let bytes = checkpoint.bytes(&from.tensor);
                let names = vec![name.clone(), from.tensor.clone()];
                (place, from.trained.clone(), names, Stored::Checkpoint { checkpoint, entry, bytes, from })
            }
        };
        Ok(Self { name, place, role, rows, cols, dims, trained, names, source })
    }

    /// A tensor of a GGUF in the format that was found to be its own.
    pub fn of_gguf(source: &'a Source, info: &'a TensorInfo, format: Format, bytes: &'a [u8]) -> Self {
        let role = match info.name.as_str() {
            _ if info.dims.len() != 2 => Role::Vector,
            "token_embd.weight" => Role::Embedding,
            "output.weight" => Role::Output,
            "position_embd.weight" => Role::Positions,
            name if name.contains("_hc.") || name.contains("norm") => Role::Vector,
            _ => Role::Linear,
        };
        Self {
            name: info.name.clone(),
            place: format!(
                "tensor {} of {}",
                info.name,
                source.paths().first().map_or("?".into(), |path| path.display().to_string())
            ),
            role,
            rows: info.rows() as usize,
            cols: info.cols() as usize,
            dims: info.dims.clone(),
            trained: None,
            names: vec![info.name.clone()],
            source: Stored::Gguf { source, info, format, bytes, cols: info.cols() as usize },
        }
    }

    /// Leaves out the columns from `cols` on, which are padding.
    pub fn drop_padding(&mut self, cols: usize) {
        if cols < self.cols {
            self.cols = cols;
            self.dims[0] = cols as u64;
        }
    }

    /// Elements.
    pub fn elements(&self) -> usize {
        self.rows * self.cols
    }

    /// Bytes in the source.
    pub fn bytes(&self) -> u64 {
        match &self.source {
            Stored::Checkpoint { bytes, .. } | Stored::Gguf { bytes, .. } => bytes.len() as u64,
            Stored::Values(values) => values.len() as u64 * 4,
        }
    }

    /// The type of the source and its bytes, where they are a GGUF's; its rows may be longer than the tensor's.
    pub fn blocks(&self) -> Option<(Format, &[u8])> {
        match &self.source {
            Stored::Gguf { format, bytes, .. } => Some((*format, bytes)),
            _ => None,
        }
    }

    /// The name of the type of the source.
    pub fn stored_as(&self) -> String {
        match &self.source {
            Stored::Checkpoint { entry, .. } => entry.dtype.to_string(),
            Stored::Values(_) => "F32".into(),
            Stored::Gguf { format, .. } => format.name().into(),
        }
    }

    /// Lets go of pages of the source that are in memory.
    pub fn release(&self) {
        match &self.source {
            Stored::Checkpoint { checkpoint, from, .. } => checkpoint.release(&from.tensor),
            Stored::Gguf { source, info, .. } => source.release(info),
            Stored::Values(_) => {}
        }
    }

    /// Reads as many rows as fit `out`, `[n, cols]`, from row `first` on.
    ///
    /// # Errors
    /// If the source's bytes are not what its header says.
    pub fn read(&self, first: usize, out: &mut [f32]) -> Result<()> {
        let n = out.len() / self.cols.max(1);
        let short = || format!("{}: fewer bytes than its header says", self.place);
        match &self.source {
            Stored::Values(values) => out.copy_from_slice(values.get(..out.len()).with_context(short)?),
            Stored::Checkpoint { entry, bytes, from, .. } if from.transposed => {
                self.read_transposed(entry, bytes, first, out).with_context(|| self.place.clone())?;
                scale(out, from.scale);
            }
            Stored::Checkpoint { bytes, from, .. } if from.packed => {
                // Row r of the matrix is in byte row r mod `stored`, at bits 2 (r / stored).
                let stored = self.rows.div_ceil(4);
                for (row, out) in (first..first + n).zip(out.chunks_exact_mut(self.cols)) {
                    let row = from.heads_of.map_or(row, |head| interleaved(row, head));
                    let (line, shift) = (row % stored, 2 * (row / stored));
                    let packed = bytes.get(line * self.cols..(line + 1) * self.cols).with_context(short)?;
                    for (out, &byte) in out.iter_mut().zip(packed) {
                        let code = (byte >> shift) & 3;
                        *out = (f32::from(code) - 1.0) * from.scale;
                    }
                }
            }
            Stored::Checkpoint { entry, bytes, from, .. } => {
                let row_bytes = bytes.len() / self.rows.max(1);
                let span =
                    |row: usize, rows: usize| bytes.get(row * row_bytes..(row + rows) * row_bytes).with_context(short);
                match from.heads_of {
                    None => floats(&entry.dtype, span(first, n)?, out).with_context(|| self.place.clone())?,
                    Some(head) => {
                        for (row, out) in (first..first + n).zip(out.chunks_exact_mut(row_width(self))) {
                            if self.dims.len() == 1 {
                                // A bias: its elements are the rows.
                                self.read_bias(entry, bytes, head, out)?;
                            } else {
                                let bytes = span(interleaved(row, head), 1)?;
                                floats(&entry.dtype, bytes, out).with_context(|| self.place.clone())?;
                            }
                        }
                    }
                }
                scale(out, from.scale);
            }
            Stored::Gguf { cols, .. } if *cols != self.cols => {
                let mut row = vec![0.0; *cols];
                for (i, out) in (first..first + n).zip(out.chunks_exact_mut(row_width(self))) {
                    self.read_blocks(i, &mut row)?;
                    out.copy_from_slice(row.get(..self.cols).with_context(short)?);
                }
            }
            Stored::Gguf { .. } => self.read_blocks(first, out)?,
        }
        Ok(())
    }

    /// Reads whole rows of a GGUF, padding included, from row `first` on.
    fn read_blocks(&self, first: usize, out: &mut [f32]) -> Result<()> {
        let Stored::Gguf { format, bytes, cols, .. } = &self.source else { bail!("{} is no GGUF's", self.place) };
        let n = out.len() / (*cols).max(1);
        let short = || format!("{}: fewer bytes than its header says", self.place);
        let row_bytes = cols / format.block_len() * format.block_bytes();
        let part = bytes.get(first * row_bytes..(first + n) * row_bytes).with_context(short)?;
        let in_place = || self.place.clone();
        if *format == Format::I2_S {
            let whole = format.tensor_bytes(self.rows as u64, *cols as u64).unwrap_or(u64::MAX) as usize;
            let factor = format.tensor_scale(bytes.get(..whole).with_context(short)?, self.rows * cols);
            let factor = factor.with_context(in_place)?;
            let mut codes = vec![0; out.len()];
            format.decode_codes(part, &mut codes, &mut []).with_context(in_place)?;
            out.iter_mut().zip(codes).for_each(|(out, code)| *out = (f32::from(code) - 1.0) * factor);
        } else {
            format.dequantize(part, out).with_context(in_place)?;
        }
        Ok(())
    }

    /// All values.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_all(&self) -> Result<Vec<f32>> {
        let mut values = vec![0.0; self.elements()];
        self.read(0, &mut values)?;
        Ok(values)
    }

    /// Rows of a matrix that is stored as `[cols, rows]`.
    fn read_transposed(&self, entry: &Entry, bytes: &[u8], first: usize, out: &mut [f32]) -> Result<()> {
        let n = out.len() / self.cols;
        let size = entry.dtype.size().context("its type is not read")?;
        let mut part = vec![0.0; n];
        for col in 0..self.cols {
            let from = (col * self.rows + first) * size;
            floats(
                &entry.dtype,
                bytes.get(from..from + n * size).context("fewer bytes than its header says")?,
                &mut part,
            )?;
            for (row, &value) in part.iter().enumerate() {
                out[row * self.cols + col] = value;
            }
        }
        Ok(())
    }

    /// A bias whose elements follow the order of rows.
    fn read_bias(&self, entry: &Entry, bytes: &[u8], head: usize, out: &mut [f32]) -> Result<()> {
        let mut straight = vec![0.0; out.len()];
        floats(&entry.dtype, bytes, &mut straight).with_context(|| self.place.clone())?;
        for (i, out) in out.iter_mut().enumerate() {
            *out = straight.get(interleaved(i, head)).copied().unwrap_or_default();
        }
        Ok(())
    }
}

fn row_width(tensor: &Tensor<'_>) -> usize {
    tensor.cols.max(1)
}

fn scale(values: &mut [f32], factor: f32) {
    if factor != 1.0 {
        values.iter_mut().for_each(|value| *value *= factor);
    }
}
