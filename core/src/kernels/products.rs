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
    /// `out = x m^T`: `x` is `[tokens, cols]`, `m` `[rows, cols]`, `out` `[tokens, rows]`. `scratch` is room for the quantized
    /// activations.
    ///
    /// # Panics
    /// If the shapes do not fit together.
    pub fn product(&self, m: &Matrix, x: &[f32], scratch: &mut QuantizedRows, out: &mut [f32]) {
        self.products(x, scratch, [(m, out)]);
    }

    /// [`product`](Self::product) of the same `x` with several matrices, each into its own `out`: activations are quantized once,
    /// and threads are woken once where the matrices are alike.
    ///
    /// # Panics
    /// If the shapes do not fit together.
    pub fn products<const N: usize>(&self, x: &[f32], scratch: &mut QuantizedRows, parts: [(&Matrix, &mut [f32]); N]) {
        let mut ternary = [const { None }; N];
        for (slot, (m, out)) in ternary.iter_mut().zip(parts) {
            match m {
                Matrix::Ternary(m) => *slot = Some((m, out)),
                Matrix::Blocks(m) => self.blocks(m, x, out),
            }
        }
        while let Some(&(first, _)) = ternary.iter().flatten().next() {
            self.quantize(x, first.cols(), first.group(), scratch);
            self.together(scratch, ternary.each_mut().map(|slot| slot.take_if(|(m, _)| m.group() == first.group())));
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
        self.together(x, [Some((m, out))]);
    }

    /// [`ternary`](Self::ternary) of several matrices, in one run over the threads.
    fn together<const N: usize>(&self, x: &QuantizedRows, parts: [Option<(&TernaryMatrix, &mut [f32])>; N]) {
        let parts = parts.map(|part| {
            let (m, out) = part?;
            assert_eq!(out.len(), x.tokens() * m.rows());
            (!out.is_empty()).then(|| (m, Output::new(out, m.rows())))
        });
        let parts = || parts.iter().flatten();
        let sum = |of: fn(&TernaryMatrix) -> usize| parts().map(|(m, _)| of(m)).sum::<usize>();
        // One row of tiles, through all matrices.
        let (tasks, tiles) = split(sum(|m| m.tiles()), self.tasks(&[sum(|m| m.rows()), x.cols(), x.tokens()]), 1);
        self.exec.run(tasks, &|i| {
            let (tiles, mut first) = (tiles(i), 0);
            for (m, out) in parts() {
                let own = tiles.start.clamp(first, first + m.tiles()) - first
                    ..tiles.end.clamp(first, first + m.tiles()) - first;
                first += m.tiles();
                if !own.is_empty() {
                    // SAFETY: each task has tiles, and so rows, of its own.
                    unsafe { self.kernel.ternary(m, x, own, out) };
                }
            }
        });
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
    fn products_of_one_input_are_as_those_of_each_matrix() {
        let ternary = |rows: usize, group: usize| {
            let mut builder = TernaryBuilder::new(rows, 128, group, 1.0);
            for mut tile in builder.tiles_mut() {
                for lane in 0..tile.rows {
                    let codes: Vec<u8> = (0..128).map(|c| ((tile.first_row + lane + c * c / 3) % 3) as u8).collect();
                    let scales: Vec<u16> = (0..128 / group).map(|g| 0x3800 + (lane * 5 + g * 9) as u16).collect();
                    tile.set_row(lane, &codes, &scales);
                }
            }
            Matrix::Ternary(builder.finish())
        };
        let floats: Vec<u8> = (0..3 * 128).flat_map(|i| (i as f32 * 0.01).to_le_bytes()).collect();
        let blocks = Matrix::Blocks(BlockMatrix::new(Format::F32, 3, 128, floats));
        // Of mixed layers: the same groups, others, none.
        let all = [ternary(40, 64), blocks, ternary(17, 32), ternary(9, 64)];
        for tokens in [1, 2, 7, 21] {
            let x: Vec<f32> = (0..tokens * 128).map(|i| (i as f32 * 0.37).sin()).collect();
            let compute = Compute { kernel: available()[0], exec: &Serial };
            let mut scratch = QuantizedRows::default();
            let apart = all.each_ref().map(|m| {
                let mut out = vec![0.0; tokens * m.rows()];
                compute.product(m, &x, &mut scratch, &mut out);
                out
            });
            for exec in [&Serial as &dyn Executor, &Many] {
                let mut together = all.each_ref().map(|m| vec![0.0; tokens * m.rows()]);
                let [a, b, c, d] = &mut together;
                let parts = [(&all[0], &mut a[..]), (&all[1], b), (&all[2], c), (&all[3], d)];
                Compute { exec, ..compute }.products(&x, &mut scratch, parts);
                assert_eq!(together, apart);
            }
        }
    }

    /// Says that it has threads, so that everything is cut into tasks.
    struct Many;

    // SAFETY: a plain loop.
    unsafe impl Executor for Many {
        fn threads(&self) -> usize {
            5
        }

        fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
            (0..tasks).rev().for_each(task);
        }
    }
}
