//! Whole products spread over the host's threads: every output is computed by one task in a fixed order, so the bits do not
//! depend on how many threads there are.

use super::output::Output;
use super::parallel::{chunks_mut, split};
use super::{Executor, Kernel, Serial};
use crate::ternary::{BlockMatrix, Matrix, QuantizedRows, TILE_ROWS, TernaryMatrix, token_blocks};

/// The chosen kernel and the host's threads: what it takes to compute.
#[derive(Clone, Copy)]
pub struct Compute<'a> {
    /// The instruction set's loops.
    pub kernel: &'a dyn Kernel,
    /// The threads.
    pub exec: &'a dyn Executor,
}

/// Tasks a thread gets of one product: more even out threads of unequal speed, each costs a hand-over.
const TASKS_A_THREAD: usize = 4;
/// Weights below which a product is not worth spreading. Waking a worker of a browser takes as long as a million weights do.
const SMALL: usize = if cfg!(target_family = "wasm") { 1 << 20 } else { 1 << 16 };

impl Compute<'_> {
    /// `out = x m^T`: `x` is `[tokens, cols]`, `m` `[rows, cols]`, `out` `[tokens, rows]`. `scratch` holds the quantized
    /// activations; [`product_again`](Self::product_again) reuses them for another matrix on the same `x`.
    ///
    /// # Panics
    /// If the shapes do not fit together.
    pub fn product(&self, m: &Matrix, x: &[f32], scratch: &mut QuantizedRows, out: &mut [f32]) {
        match m {
            Matrix::Ternary(m) => self.quantize(x, m.cols(), m.group(), scratch),
            // What an earlier product left must not pass for this `x`.
            Matrix::Blocks(_) => scratch.clear(),
        }
        self.run(m, x, scratch, out);
    }

    /// As [`product`](Self::product) where `scratch` is left from a product with the same `x`.
    ///
    /// # Panics
    /// If the shapes do not fit together.
    pub fn product_again(&self, m: &Matrix, x: &[f32], scratch: &mut QuantizedRows, out: &mut [f32]) {
        match m {
            Matrix::Ternary(t) if (scratch.tokens() * t.cols(), scratch.group()) != (x.len(), t.group()) => {
                self.product(m, x, scratch, out);
            }
            _ => self.run(m, x, scratch, out),
        }
    }

    fn run(&self, m: &Matrix, x: &[f32], scratch: &QuantizedRows, out: &mut [f32]) {
        match m {
            Matrix::Ternary(m) => self.ternary(m, scratch, out),
            Matrix::Blocks(m) => self.blocks(m, x, out),
        }
    }

    /// Quantizes `x`, `[n, cols]`, to int8 in groups of `group` columns.
    ///
    /// # Panics
    /// If `x` is not a whole number of tokens, or `group` does not divide `cols` or is no multiple of 16.
    pub fn quantize(&self, x: &[f32], cols: usize, group: usize, out: &mut QuantizedRows) {
        assert!(x.len().is_multiple_of(cols));
        let n = x.len() / cols;
        out.reset(n, cols, group);
        let groups = cols / group;
        let block = |first: usize, len: usize, codes: &mut [i8], scales: &mut [f32], sums: &mut [i32]| {
            for t in 0..len {
                let x = &x[(first + t) * cols..][..cols];
                for g in 0..groups {
                    let codes = &mut codes[(g * group * len) + t * 4..];
                    let (scale, sum) = self.kernel.quantize_group(&x[g * group..][..group], codes, len);
                    scales[g * len + t] = scale;
                    sums[g * len + t] = sum;
                }
            }
        };
        // Whole blocks of 16 tokens are spread over threads; what is left is small.
        let whole = n / 16 * 16;
        if whole > 0 {
            let (codes, scales, sums) = (&mut out.codes[..whole * cols], &mut out.scales, &mut out.sums);
            let mut parts: Vec<_> = codes
                .chunks_exact_mut(16 * cols)
                .zip(scales.chunks_mut(16 * groups))
                .zip(sums.chunks_mut(16 * groups))
                .collect();
            chunks_mut(self.exec, &mut parts, 1, |i, part| {
                let ((codes, scales), sums) = &mut part[0];
                block(i * 16, 16, codes, scales, sums);
            });
        }
        for (first, len) in token_blocks(n).filter(|&(first, _)| first >= whole) {
            let at = first * groups;
            let codes = &mut out.codes[first * cols..][..len * cols];
            block(first, len, codes, &mut out.scales[at..][..len * groups], &mut out.sums[at..][..len * groups]);
        }
    }

    /// Rows of `m` times the quantized tokens of `x`, into `out`, `[tokens, rows]`.
    ///
    /// # Panics
    /// If the shapes do not fit together.
    pub fn ternary(&self, m: &TernaryMatrix, x: &QuantizedRows, out: &mut [f32]) {
        assert_eq!(out.len(), x.tokens() * m.rows());
        if out.is_empty() {
            return;
        }
        let out = Output::new(out, m.rows());
        let (tasks, tiles) = split(m.tiles(), self.tasks(&[m.rows(), m.cols(), x.tokens()]), 1);
        // SAFETY: each task has tiles, and so rows, of its own.
        self.exec.run(tasks, &|i| unsafe { self.kernel.ternary(m, x, tiles(i), &out) });
    }

    fn blocks(&self, m: &BlockMatrix, x: &[f32], out: &mut [f32]) {
        if out.is_empty() {
            return;
        }
        let out = Output::new(out, m.rows());
        let (tasks, rows) = split(m.rows(), self.tasks(&[m.rows(), m.cols(), out.tokens()]), TILE_ROWS);
        // SAFETY: each task has rows of its own.
        self.exec.run(tasks, &|i| unsafe { self.kernel.block_matrix(m, x, rows(i), &out) });
    }

    /// The host's threads, if as many multiplications as the product of `extents` are worth spreading.
    pub(crate) fn exec_for(&self, extents: &[usize]) -> &dyn Executor {
        if is_small(extents) { &Serial } else { self.exec }
    }

    /// How many tasks a matrix product of those extents is worth.
    fn tasks(&self, extents: &[usize]) -> usize {
        match self.exec_for(extents).threads() {
            1 => 1,
            threads => threads.min(1 << 10) * TASKS_A_THREAD,
        }
    }

    /// Calls `task` with each row of `data`, `[n, width]`, and its index, spread over the threads.
    pub fn each_row(&self, data: &mut [f32], width: usize, task: impl Fn(usize, &mut [f32]) + Sync) {
        let rows_a_task = (SMALL / 8 / width.max(1)).max(1);
        chunks_mut(self.exec, data, rows_a_task * width, |i, rows| {
            for (j, row) in rows.chunks_mut(width).enumerate() {
                task(i * rows_a_task + j, row);
            }
        });
    }
}

/// Whether the product of `extents` is too small to spread. On 32-bit machines it may well exceed a word.
fn is_small(extents: &[usize]) -> bool {
    extents.iter().fold(1, |product: usize, &extent| product.saturating_mul(extent)) < SMALL
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::Format;
    use crate::kernels::available;
    use crate::ternary::TernaryBuilder;

    #[test]
    fn activations_are_reused_only_for_the_same_input() {
        let mut builder = TernaryBuilder::new(16, 64, 64, 1.0);
        for mut tile in builder.tiles_mut() {
            (0..16).for_each(|lane| tile.set_row(lane, &[2; 64], &[0x3c00]));
        }
        let ternary = Matrix::Ternary(builder.finish());
        let blocks = Matrix::Blocks(BlockMatrix::new(Format::F32, 1, 64, vec![0; 256]));
        let compute = Compute { kernel: available()[0], exec: &Serial };
        let (mut scratch, mut out) = (QuantizedRows::default(), vec![0.0; 16]);
        compute.product(&ternary, &[1.0; 64], &mut scratch, &mut out);
        assert_eq!(out, [64.0; 16]);
        // Of a mixed layer the first matrix is in blocks: the next must not find the activations of the layer before.
        compute.product(&blocks, &[2.0; 64], &mut scratch, &mut out[..1]);
        compute.product_again(&ternary, &[2.0; 64], &mut scratch, &mut out);
        assert_eq!(out, [128.0; 16]);
        compute.product_again(&ternary, &[2.0; 64], &mut scratch, &mut out);
        assert_eq!(out, [128.0; 16]);
    }
}
