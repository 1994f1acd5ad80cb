//! Attention of one query over the cached keys and values of its head, once for all instruction sets.
//!
//! Scores are dot products in sixteen lanes folded as everywhere; the weighted sum of values runs over positions in ascending
//! order, unnormalized, and is multiplied with the reciprocal of the sum of exponentials at the end.

use super::elementwise::{LANES, fold, softmax_unnormalized};
use super::isa::Isa;

/// What one head of one token attends to.
pub struct Attention<'a> {
    /// `[head_dim]`, a multiple of 16 (padded with zeros)
    pub query: &'a [f32],
    /// f16 bits; position p's key is at `p * stride`, `[head_dim]`
    pub keys: &'a [u16],
    /// f16 bits, laid out as the keys
    pub values: &'a [u16],
    /// Elements from one position to the next.
    pub stride: usize,
    /// Positions attended to.
    pub positions: usize,
    /// Factor on every score.
    pub scale: f32,
}

impl Attention<'_> {
    /// Panics unless every read of the kernels lies inside the slices.
    pub(super) fn check(&self, scores: &[f32], out: &[f32]) {
        let dim = self.query.len();
        assert!(dim > 0 && dim.is_multiple_of(LANES) && out.len() == dim);
        assert!(self.positions > 0 && scores.len() == self.positions);
        let last = (self.positions - 1) * self.stride + dim;
        assert!(self.keys.len() >= last && self.values.len() >= last);
    }
}

/// Values are summed for this many sixteens of the head at a time, so that the sums stay in registers.
const CHUNK: usize = 4;

/// Writes the head's output, `[head_dim]`; `scores` is scratch, `[positions]`.
///
/// # Safety
/// The instruction set of `I` is present.
#[inline(always)]
pub(super) unsafe fn attend<I: Isa>(a: &Attention<'_>, scores: &mut [f32], out: &mut [f32]) {
    a.check(scores, out);
    let dim = a.query.len();
    for (p, score) in scores.iter_mut().enumerate() {
        // SAFETY: the caller's; `check` bounds every position's key.
        unsafe {
            let key = a.keys.as_ptr().add(p * a.stride);
            let mut acc = I::splat_f32(0.0);
            for c in (0..dim).step_by(LANES) {
                acc = I::add(acc, I::mul(I::load_f32(a.query.as_ptr().add(c)), I::load_f16(key.add(c))));
            }
            let mut lanes = [0.0; LANES];
            I::store_f32(lanes.as_mut_ptr(), acc);
            *score = fold(lanes) * a.scale;
        }
    }
    let inverse = 1.0 / softmax_unnormalized(scores);
    let mut c = 0;
    while c < dim {
        // SAFETY: as above, for values.
        unsafe {
            if dim - c >= CHUNK * LANES {
                weighted_sum::<I, CHUNK>(a, scores, inverse, c, out);
                c += CHUNK * LANES;
            } else {
                weighted_sum::<I, 1>(a, scores, inverse, c, out);
                c += LANES;
            }
        }
    }
}

#[inline(always)]
unsafe fn weighted_sum<I: Isa, const N: usize>(
    a: &Attention<'_>,
    weights: &[f32],
    inverse: f32,
    c: usize,
    out: &mut [f32],
) {
    // SAFETY: the caller's: `check` was called and `c + 16 * N <= head_dim`.
    unsafe {
        let mut acc = [I::splat_f32(0.0); N];
        for (p, &weight) in weights.iter().enumerate() {
            let value = a.values.as_ptr().add(p * a.stride + c);
            let weight = I::splat_f32(weight);
            for (i, acc) in acc.iter_mut().enumerate() {
                *acc = I::add(*acc, I::mul(weight, I::load_f16(value.add(i * LANES))));
            }
        }
        let inverse = I::splat_f32(inverse);
        for (i, acc) in acc.into_iter().enumerate() {
            I::store_f32(out.as_mut_ptr().add(c + i * LANES), I::mul(acc, inverse));
        }
    }
}
