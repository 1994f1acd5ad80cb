//! Attention of a few queries over the cached keys and values of their head, once for all instruction sets.
//!
//! Scores are dot products in sixteen lanes folded as everywhere; the weighted sum of values runs over positions in ascending
//! order, unnormalized, and is multiplied with the reciprocal of the sum of exponentials at the end. Each query's result is
//! the same whichever queries stand beside it; together they read keys and values only once.

use super::elementwise::{LANES, softmax_unnormalized};
use super::isa::Isa;

/// What the queries of one key-value head attend to: those of one token, or of several tokens in a row.
pub struct Attention<'a> {
    /// `[tokens, heads, head_dim]`; the head's length is a multiple of 16 (padded with zeros)
    pub queries: &'a [f32],
    /// Queries of one token.
    pub heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// f16 bits; position p's key is at `p * stride`, `[head_dim]`
    pub keys: &'a [u16],
    /// f16 bits, laid out as the keys
    pub values: &'a [u16],
    /// Elements from one position to the next, at least `head_dim`.
    pub stride: usize,
    /// Positions that the first token attends to; each later token sees one more.
    pub positions: usize,
    /// Factor on every score.
    pub scale: f32,
}

impl Attention<'_> {
    /// Number of queries.
    pub(super) fn count(&self) -> usize {
        self.queries.len() / self.head_dim
    }

    /// Positions that query `i` attends to.
    pub(super) fn positions_of(&self, i: usize) -> usize {
        self.positions + i / self.heads
    }

    /// Panics unless every read of the kernels lies inside the slices. Sizes are the caller's, so sums and products are checked.
    pub(super) fn check(&self, out: &[f32]) {
        let dim = self.head_dim;
        assert!(dim > 0 && dim.is_multiple_of(LANES) && self.heads > 0 && self.positions > 0 && self.stride >= dim);
        let token = self.heads.checked_mul(dim).expect("the queries of a token are a slice");
        assert!(!self.queries.is_empty() && self.queries.len().is_multiple_of(token));
        assert_eq!(out.len(), self.queries.len());
        // Positions before the last one that the last token sees.
        let before = (self.positions - 1).checked_add(self.queries.len() / token - 1);
        let last = before.and_then(|before| before.checked_mul(self.stride)?.checked_add(dim));
        assert!(last.is_some_and(|last| self.keys.len() >= last && self.values.len() >= last));
    }
}

/// Queries that go over keys and values together, at most.
const QUERIES: usize = 4;

/// Writes the outputs, laid out as the queries.
///
/// # Safety
/// The instruction set of `I` is present.
#[inline(always)]
pub(super) unsafe fn attend<I: Isa>(a: &Attention<'_>, out: &mut [f32]) {
    a.check(out);
    let mut scores = vec![0.0; QUERIES.min(a.count()) * a.positions_of(a.count() - 1)];
    let mut i = 0;
    while i < a.count() {
        // SAFETY: the caller's; `check` bounds all queries and the positions they see.
        unsafe {
            if I::SUMS >= 4 && a.count() - i >= 4 {
                group::<I, 4>(a, i, &mut scores, out);
                i += 4;
            } else if I::SUMS < 4 && a.count() - i >= 2 {
                group::<I, 2>(a, i, &mut scores, out);
                i += 2;
            } else {
                group::<I, 1>(a, i, &mut scores, out);
                i += 1;
            }
        }
    }
}

/// Queries `first..first + N`.
#[inline(always)]
unsafe fn group<I: Isa, const N: usize>(a: &Attention<'_>, first: usize, scores: &mut [f32], out: &mut [f32]) {
    let dim = a.head_dim;
    let (shared, longest) = (a.positions_of(first), a.positions_of(first + N - 1));
    let queries = &a.queries[first * dim..][..N * dim];
    let (rows, _) = scores.split_at_mut(N * longest);
    for p in 0..shared {
        // SAFETY: the caller's; position p is one that all queries see.
        let sums = unsafe { dots::<I, N>(a, queries, p) };
        for q in 0..N {
            rows[q * longest + p] = sums[q] * a.scale;
        }
    }
    let mut inverse = [0.0; N];
    for q in 0..N {
        let row = &mut rows[q * longest..][..a.positions_of(first + q)];
        for p in shared..row.len() {
            // SAFETY: as above; this query sees position p.
            row[p] = unsafe { dots::<I, 1>(a, &queries[q * dim..][..dim], p) }[0] * a.scale;
        }
        inverse[q] = 1.0 / softmax_unnormalized(row);
    }
    let out = &mut out[first * dim..][..N * dim];
    // So many sixteens of the head at a time that the sums stay in registers.
    let step = match (N, I::SUMS) {
        (1, 4..) => 4,
        (1, _) | (_, 4..) => 2,
        _ => 1,
    };
    let mut c = 0;
    while c < dim {
        // SAFETY: as above, for values; `c` plus the sixteens taken lies inside the head.
        unsafe {
            if dim - c < step * LANES || step == 1 {
                weighted_sums::<I, N, 1>(a, first, shared, rows, longest, &inverse, c, out);
                c += LANES;
            } else if step == 2 {
                weighted_sums::<I, N, 2>(a, first, shared, rows, longest, &inverse, c, out);
                c += 2 * LANES;
            } else {
                weighted_sums::<I, N, 4>(a, first, shared, rows, longest, &inverse, c, out);
                c += 4 * LANES;
            }
        }
    }
}

/// Dot products of `N` queries, `[N, head_dim]`, with the key at position `p`.
#[inline(always)]
unsafe fn dots<I: Isa, const N: usize>(a: &Attention<'_>, queries: &[f32], p: usize) -> [f32; N] {
    let dim = a.head_dim;
    // SAFETY: the caller's: the position is inside the cache, the queries are N heads.
    unsafe {
        let key = a.keys.as_ptr().add(p * a.stride);
        let mut acc = [I::splat_f32(0.0); N];
        for c in (0..dim).step_by(LANES) {
            let key = I::load_f16(key.add(c));
            for q in 0..N {
                acc[q] = I::add(acc[q], I::mul(I::load_f32(queries.as_ptr().add(q * dim + c)), key));
            }
        }
        // No `map`: its closure would be compiled without the instruction set.
        let mut sums = [0.0; N];
        for q in 0..N {
            sums[q] = I::fold(acc[q]);
        }
        sums
    }
}

/// `C` sixteens of the outputs of `N` queries, from element `c` of the head on.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "the registers' worth of one loop")]
unsafe fn weighted_sums<I: Isa, const N: usize, const C: usize>(
    a: &Attention<'_>,
    first: usize,
    shared: usize,
    weights: &[f32],
    longest: usize,
    inverse: &[f32; N],
    c: usize,
    out: &mut [f32],
) {
    assert!(weights.len() == N * longest && shared <= longest);
    // SAFETY: the caller's: positions lie inside the cache, `c + 16 * C <= head_dim`.
    unsafe {
        let mut acc = [[I::splat_f32(0.0); C]; N];
        for p in 0..shared {
            let value = a.values.as_ptr().add(p * a.stride + c);
            let mut wide = [I::splat_f32(0.0); C];
            for i in 0..C {
                wide[i] = I::load_f16(value.add(i * LANES));
            }
            for q in 0..N {
                let weight = I::splat_f32(*weights.get_unchecked(q * longest + p));
                for i in 0..C {
                    acc[q][i] = I::add(acc[q][i], I::mul(weight, wide[i]));
                }
            }
        }
        for q in 0..N {
            for p in shared..a.positions_of(first + q) {
                let value = a.values.as_ptr().add(p * a.stride + c);
                let weight = I::splat_f32(weights[q * longest + p]);
                for i in 0..C {
                    acc[q][i] = I::add(acc[q][i], I::mul(weight, I::load_f16(value.add(i * LANES))));
                }
            }
            for i in 0..C {
                let to = &mut out[q * a.head_dim + c + i * LANES..][..LANES];
                I::store_f32(to.as_mut_ptr(), I::mul(acc[q][i], I::splat_f32(inverse[q])));
            }
        }
    }
}
