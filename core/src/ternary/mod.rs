//! The one packed matrix that every ternary format becomes, the int8 activations it is multiplied with, and the rules by which
//! float weights become ternary and go into a file's blocks (`encode.rs`).
//!
//! Formats hand over codes and scales row by row ([`TernaryBuilder`]); kernels read [`TernaryMatrix`] and
//! [`QuantizedRows`]. Nothing here knows a file format or an instruction set.

mod activations;
mod blocks;
mod encode;
mod matrix;
mod rule;

pub use activations::QuantizedRows;
pub(crate) use activations::token_blocks;
pub use blocks::BlockMatrix;
pub use encode::{EncodeError, RowEncoder, encode, encode_plain, format_for};
pub use matrix::{Block, TILE_COLS, TILE_ROWS, TernaryBuilder, TernaryMatrix, TileMut};
pub use rule::{Granularity, Method, Rule, RuleError, Scale, mean_magnitude};

/// A weight matrix `[rows, cols]` as it is held in memory.
#[derive(Clone, Debug, PartialEq)]
pub enum Matrix {
    /// Packed codes; activations are quantized to int8.
    Ternary(TernaryMatrix),
    /// The file's own blocks; activations stay f32.
    Blocks(BlockMatrix),
}

impl Matrix {
    /// Number of output features.
    pub fn rows(&self) -> usize {
        match self {
            Self::Ternary(m) => m.rows(),
            Self::Blocks(m) => m.rows(),
        }
    }

    /// Number of input features.
    pub fn cols(&self) -> usize {
        match self {
            Self::Ternary(m) => m.cols(),
            Self::Blocks(m) => m.cols(),
        }
    }

    /// Bytes held in memory.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Ternary(m) => m.bytes(),
            Self::Blocks(m) => m.bytes(),
        }
    }

    /// Writes row `row` as f32 into `out`, `[cols]`: an embedding.
    ///
    /// # Panics
    /// If there is no such row or `out` has another length.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        match self {
            Self::Ternary(m) => m.dequantize_row(row, out),
            Self::Blocks(m) => m.dequantize_row(row, out),
        }
    }
}
