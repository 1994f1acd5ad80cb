//! Matrices that stay in their file's block format: embeddings and outputs in F16, Q8_0, Q6_K and their like.

use crate::formats::Format;

/// A `[rows, cols]` matrix, row after row in the blocks of its format.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockMatrix {
    format: Format,
    rows: usize,
    cols: usize,
    row_bytes: usize,
    data: Vec<u8>,
}

impl BlockMatrix {
    /// Takes `data`, `[rows, cols]` in blocks of `format`.
    ///
    /// # Panics
    /// If `cols` is not a whole number of blocks, `data` has another length, or the format is one that gets packed.
    pub fn new(format: Format, rows: usize, cols: usize, data: Vec<u8>) -> Self {
        assert!(!format.is_ternary() && cols.is_multiple_of(format.block_len()));
        let row_bytes = cols / format.block_len() * format.block_bytes();
        assert_eq!(Some(data.len()), rows.checked_mul(row_bytes));
        Self { format, rows, cols, row_bytes, data }
    }

    /// The element type.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Number of output features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of input features.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The blocks of row `row`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, row: usize) -> &[u8] {
        &self.data[row * self.row_bytes..][..self.row_bytes]
    }

    /// Writes row `row` as f32 into `out`, `[cols]`.
    ///
    /// # Panics
    /// If there is no such row or `out` has another length.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.cols);
        self.format.dequantize(self.row(row), out).expect("a row is whole blocks");
    }

    /// Bytes held in memory.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }
}
