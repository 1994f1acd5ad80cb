//! The packed matrix: two-bit codes of 16 rows interleaved, an f16 scale a row and group.
//!
//! ```text
//! one Block, 64 bytes: 16 rows x 16 columns of a row tile
//!
//!   byte 4*r + i  holds, for row r (0..16) and i (0..4), columns  i, 4+i, 8+i, 12+i
//!                 at bits                                        0-1, 2-3, 4-5,  6-7
//!
//! so (bytes >> 2*s) & 3 is, for every row at once, the four consecutive columns 4*s .. 4*s+4: what an instruction that
//! multiplies four int8 pairs into a 32-bit lane (vpdpbusd, sdot, the relaxed dot of WebAssembly) wants as an operand,
//! with one lane a row, so that no sum is ever taken across lanes.
//! ```
//!
//! A code is the weight plus one: 0, 1, 2, 3 stand for -1, 0, +1, +2. Rows are padded to 16 with weight 0.

use half::f16;
use std::collections::TryReserveError;

/// Rows of a tile.
pub const TILE_ROWS: usize = 16;
/// Columns of a block.
pub const TILE_COLS: usize = 16;

/// 16 rows x 16 columns of two-bit codes; the layout is drawn on top of this file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub struct Block(pub [u8; 64]);

const _: () = assert!(size_of::<Block>() == TILE_ROWS * TILE_COLS / 4);

/// Four codes of value 1 (weight 0) in a byte: the padding.
const ZERO_WEIGHTS: u8 = 0b01_01_01_01;

/// A ternary matrix `[rows, cols]` in the packed layout.
///
/// The weight at row r, column c is `(code - 1) * scale[r, c / group] * tensor_scale`.
#[derive(Clone, Debug, PartialEq)]
pub struct TernaryMatrix {
    rows: usize,
    cols: usize,
    group: usize,
    /// `[rows / 16 rounded up, cols / 16]`
    blocks: Vec<Block>,
    /// f16 bits, `[rows / 16 rounded up, cols / group, 16]`
    scales: Vec<u16>,
    tensor_scale: f32,
}

impl TernaryMatrix {
    /// Number of output features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of input features, a multiple of [`TILE_COLS`].
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Columns that share a scale. Equal to [`cols`](Self::cols) where every row has a single scale.
    pub fn group(&self) -> usize {
        self.group
    }

    /// The factor on every weight, 1 but for formats with one f32 scale a tensor.
    pub fn tensor_scale(&self) -> f32 {
        self.tensor_scale
    }

    /// Tiles of 16 rows.
    pub fn tiles(&self) -> usize {
        self.rows.div_ceil(TILE_ROWS)
    }

    /// All blocks, `[tiles, cols / 16]`.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// All scales as f16 bits, `[tiles, cols / group, 16]`.
    pub fn scales(&self) -> &[u16] {
        &self.scales
    }

    /// Bytes that a matrix `[rows, cols]` takes with a scale for each `group` columns.
    pub fn bytes_needed(rows: u64, cols: u64, group: u64) -> u64 {
        let tiles = rows.div_ceil(TILE_ROWS as u64);
        let blocks = (cols / TILE_COLS as u64).saturating_mul(size_of::<Block>() as u64);
        let scales = (cols / group.max(1)).saturating_mul(TILE_ROWS as u64 * size_of::<u16>() as u64);
        tiles.saturating_mul(blocks.saturating_add(scales))
    }

    /// Bytes held in memory.
    pub fn bytes(&self) -> usize {
        size_of_val(self.blocks.as_slice()) + size_of_val(self.scales.as_slice())
    }

    /// Code (0..=3) at `row`, `col`.
    ///
    /// # Panics
    /// If the position lies outside the matrix.
    pub fn code(&self, row: usize, col: usize) -> u8 {
        assert!(row < self.rows && col < self.cols, "({row}, {col}) outside [{}, {}]", self.rows, self.cols);
        let block = &self.blocks[row / TILE_ROWS * (self.cols / TILE_COLS) + col / TILE_COLS];
        let (quad, i) = (col % TILE_COLS / 4, col % 4);
        (block.0[row % TILE_ROWS * 4 + i] >> (2 * quad)) & 3
    }

    /// The weights of a row without their scales, -1..=2, `[cols]`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row_weights(&self, row: usize) -> Vec<i8> {
        assert!(row < self.rows);
        let blocks = self.cols / TILE_COLS;
        let lane = row % TILE_ROWS * 4;
        let mut weights = Vec::with_capacity(self.cols);
        for block in &self.blocks[row / TILE_ROWS * blocks..][..blocks] {
            weights.extend((0..TILE_COLS).map(|c| ((block.0[lane + c % 4] >> (2 * (c / 4))) & 3) as i8 - 1));
        }
        weights
    }

    /// Scale of `row` in group `group`, without the tensor scale.
    ///
    /// # Panics
    /// If the position lies outside the matrix.
    pub fn scale(&self, row: usize, group: usize) -> f32 {
        let groups = self.cols / self.group;
        assert!(row < self.rows && group < groups);
        f16::from_bits(self.scales[(row / TILE_ROWS * groups + group) * TILE_ROWS + row % TILE_ROWS]).to_f32()
    }

    /// Writes row `row` as f32 into `out`, `[cols]`: an embedding looked up from its packed form.
    ///
    /// # Panics
    /// If `row` lies outside the matrix or `out` is not `cols` long.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows && out.len() == self.cols);
        let weights = self.row_weights(row);
        for (g, (out, weights)) in out.chunks_mut(self.group).zip(weights.chunks(self.group)).enumerate() {
            let scale = self.scale(row, g) * self.tensor_scale;
            for (out, &weight) in out.iter_mut().zip(weights) {
                *out = scale * f32::from(weight);
            }
        }
    }
}

/// Sixteen rows of a matrix that is being filled; tiles are independent, so that threads may fill them side by side.
pub struct TileMut<'a> {
    /// First row of the tile.
    pub first_row: usize,
    /// Rows of the tile that exist: 16, or fewer in the last one.
    pub rows: usize,
    cols: usize,
    group: usize,
    blocks: &'a mut [Block],
    scales: &'a mut [u16],
}

impl TileMut<'_> {
    /// Sets row `first_row + lane`: `codes` `[cols]` of 0..=3, `scales` `[cols / group]` f16 bits.
    ///
    /// # Panics
    /// If the row does not exist or the lengths are not the matrix's.
    pub fn set_row(&mut self, lane: usize, codes: &[u8], scales: &[u16]) {
        assert!(lane < self.rows && codes.len() == self.cols && scales.len() == self.cols / self.group);
        for (block, codes) in self.blocks.iter_mut().zip(codes.as_chunks::<TILE_COLS>().0) {
            let bytes = &mut block.0[lane * 4..][..4];
            for (i, byte) in bytes.iter_mut().enumerate() {
                *byte = codes[i] & 3 | (codes[4 + i] & 3) << 2 | (codes[8 + i] & 3) << 4 | (codes[12 + i] & 3) << 6;
            }
        }
        for (slot, &scale) in self.scales.iter_mut().skip(lane).step_by(TILE_ROWS).zip(scales) {
            *slot = scale;
        }
    }
}

/// A matrix being packed: first its tiles are filled ([`tiles_mut`](Self::tiles_mut)), then it is done
/// ([`finish`](Self::finish)). It holds nothing but the packed form.
pub struct TernaryBuilder {
    matrix: TernaryMatrix,
}

impl TernaryBuilder {
    /// A matrix `[rows, cols]` of zeros whose source gives a scale for each `group` columns; `tensor_scale` multiplies all.
    ///
    /// # Panics
    /// If `group` is not a multiple of 16 that divides `cols`: the formats guarantee it.
    pub fn new(rows: usize, cols: usize, group: usize, tensor_scale: f32) -> Self {
        Self::try_new(rows, cols, group, tensor_scale).expect("memory for a matrix")
    }

    /// As [`new`](Self::new), for sizes that come from a file.
    ///
    /// # Errors
    /// If there is no memory for it.
    ///
    /// # Panics
    /// As [`new`](Self::new).
    pub fn try_new(rows: usize, cols: usize, group: usize, tensor_scale: f32) -> Result<Self, TryReserveError> {
        assert!(cols > 0 && group > 0 && cols.is_multiple_of(group) && group.is_multiple_of(TILE_COLS));
        let tiles = rows.div_ceil(TILE_ROWS);
        let blocks = filled(Block([ZERO_WEIGHTS; 64]), tiles.saturating_mul(cols / TILE_COLS))?;
        let scales = filled(0, tiles.saturating_mul(cols / group).saturating_mul(TILE_ROWS))?;
        Ok(Self { matrix: TernaryMatrix { rows, cols, group, blocks, scales, tensor_scale } })
    }

    /// All tiles, in the order of their rows.
    pub fn tiles_mut(&mut self) -> impl Iterator<Item = TileMut<'_>> {
        let TernaryMatrix { rows, cols, group, ref mut blocks, ref mut scales, .. } = self.matrix;
        let tiles = blocks.chunks_exact_mut(cols / TILE_COLS).zip(scales.chunks_exact_mut(cols / group * TILE_ROWS));
        tiles.enumerate().map(move |(i, (blocks, scales))| {
            let first_row = i * TILE_ROWS;
            TileMut { first_row, rows: TILE_ROWS.min(rows - first_row), cols, group, blocks, scales }
        })
    }

    /// The matrix, with one group a row where the source's groups turned out to share their row's scale.
    ///
    /// Models trained with one scale a tensor (BitNet and its kin) are stored in grouped formats too; they are told apart
    /// here, because their activations must be quantized a whole token at a time, as in training. Groups of zeros count as
    /// sharing any scale.
    pub fn finish(mut self) -> TernaryMatrix {
        if self.matrix.group != self.matrix.cols
            && let Some(scales) = self.scales_of_rows()
        {
            self.matrix.scales = scales;
            self.matrix.group = self.matrix.cols;
        }
        self.matrix
    }

    /// One scale a row, `[tiles, 16]`, if every row has but one.
    fn scales_of_rows(&self) -> Option<Vec<u16>> {
        let m = &self.matrix;
        let (groups, blocks, blocks_a_group) = (m.cols / m.group, m.cols / TILE_COLS, m.group / TILE_COLS);
        let mut of_rows = vec![0; m.tiles() * TILE_ROWS];
        for (row, of_row) in of_rows.iter_mut().enumerate().take(m.rows) {
            let (tile, lane) = (row / TILE_ROWS, row % TILE_ROWS);
            let scale = |g: usize| m.scales[(tile * groups + g) * TILE_ROWS + lane];
            let is_zero = |g: usize| {
                let blocks = &m.blocks[tile * blocks + g * blocks_a_group..][..blocks_a_group];
                blocks.iter().all(|block| block.0[lane * 4..][..4] == [ZERO_WEIGHTS; 4])
            };
            *of_row = scale(0);
            if (1..groups).any(|g| scale(g) != *of_row) {
                let mut used = (0..groups).filter(|&g| !is_zero(g)).map(scale);
                *of_row = used.next().unwrap_or(*of_row);
                if used.any(|scale| scale != *of_row) {
                    return None;
                }
            }
        }
        Some(of_rows)
    }
}

fn filled<T: Clone>(value: T, len: usize) -> Result<Vec<T>, TryReserveError> {
    let mut all = Vec::new();
    all.try_reserve_exact(len)?;
    all.resize(len, value);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(
        rows: usize,
        cols: usize,
        group: usize,
        scale: impl Fn(usize, usize) -> f32,
    ) -> (TernaryMatrix, Vec<Vec<u8>>) {
        let mut builder = TernaryBuilder::new(rows, cols, group, 1.0);
        let mut all = Vec::new();
        for mut tile in builder.tiles_mut() {
            for lane in 0..tile.rows {
                let r = tile.first_row + lane;
                let codes: Vec<u8> = (0..cols).map(|c| ((r * 7 + c * 3 + c / 5) % 4) as u8).collect();
                let scales: Vec<u16> = (0..cols / group).map(|g| f16::from_f32(scale(r, g)).to_bits()).collect();
                tile.set_row(lane, &codes, &scales);
                all.push(codes);
            }
        }
        (builder.finish(), all)
    }

    #[test]
    fn codes_and_rows_survive_packing() {
        let (m, codes) = build(19, 128, 64, |r, g| (r + g) as f32 * 0.25);
        assert_eq!((m.rows(), m.cols(), m.group(), m.tiles()), (19, 128, 64, 2));
        let mut row = vec![0.0; 128];
        for r in 0..19 {
            m.dequantize_row(r, &mut row);
            for c in 0..128 {
                assert_eq!(m.code(r, c), codes[r][c]);
                assert_eq!(row[c], (f32::from(codes[r][c]) - 1.0) * (r + c / 64) as f32 * 0.25);
            }
        }
    }

    #[test]
    fn one_scale_a_row_becomes_one_group() {
        let (m, _) = build(18, 128, 64, |r, _| r as f32 * 0.5);
        assert_eq!(m.group(), 128);
        assert_eq!(m.scale(17, 0), 8.5);
    }

    #[test]
    fn groups_of_zeros_do_not_count_as_another_scale() {
        let mut builder = TernaryBuilder::new(1, 128, 64, 1.0);
        let mut codes = vec![1u8; 128];
        codes[100] = 2;
        for mut tile in builder.tiles_mut() {
            tile.set_row(0, &codes, &[0, f16::from_f32(3.0).to_bits()]);
        }
        let m = builder.finish();
        assert_eq!((m.group(), m.scale(0, 0)), (128, 3.0));
    }
}
