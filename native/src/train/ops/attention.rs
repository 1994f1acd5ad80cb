//! Causal attention of whole sequences: from the stacked projections to the heads' outputs, rotations included.
//!
//! The products are candle's batched ones over all sequences and key-value heads at once; the queries of the heads that share a
//! key-value head are rows of one product. Probabilities are kept for the backward pass.

use std::sync::{Arc, OnceLock};

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use multiversion::multiversion;
use rayon::prelude::*;
use sterna_core::kernels::{RopeStyle, exp};
use sterna_core::ops::{Rope, Rotations};

use super::{argument, result, tensor, values};

/// The shape of attention over `[batch * tokens]` rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Tokens of a sequence.
    pub tokens: usize,
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values; divides `heads`.
    pub kv_heads: usize,
    /// Columns of a head.
    pub head_dim: usize,
}

/// Cosines and sines of rotary positions (RoPE, arXiv:2104.09864), as the runtime computes them.
#[derive(Clone, Debug)]
pub struct Rotation {
    style: RopeStyle,
    /// Pairs of a head that are rotated, the first ones.
    pairs: usize,
    /// `[tokens, pairs]` of (cos, sin).
    angles: Arc<[(f32, f32)]>,
}

impl Rotation {
    /// For positions 0 to `tokens`, in texts of so many tokens.
    pub fn new(rope: &Rope, tokens: usize) -> Self {
        let mut rotations = Rotations::new(rope, tokens);
        rotations.prepare(0, tokens);
        let of = |position| {
            let (cos, sin) = rotations.of(position);
            cos.iter().copied().zip(sin.iter().copied())
        };
        Self { style: rope.style, pairs: rope.rotated / 2, angles: (0..tokens).flat_map(of).collect() }
    }

    /// Rotates a head at a position; the other way round with `back`.
    #[inline(always)]
    fn apply(&self, position: usize, head: &mut [f32], back: bool) {
        let half = self.pairs;
        let (head, angles) = (&mut head[..2 * half], &self.angles[position * half..][..half]);
        let turn = if back { -1.0 } else { 1.0 };
        match self.style {
            RopeStyle::Norm => {
                for (pair, &(cos, sin)) in head.as_chunks_mut::<2>().0.iter_mut().zip(angles) {
                    let sin = sin * turn;
                    *pair = [pair[0] * cos - pair[1] * sin, pair[0] * sin + pair[1] * cos];
                }
            }
            RopeStyle::Neox => {
                let (first, second) = head.split_at_mut(half);
                for ((a, b), &(cos, sin)) in first.iter_mut().zip(second).zip(angles) {
                    let sin = sin * turn;
                    (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
                }
            }
        }
    }
}

/// Causal attention: `x` `[batch * tokens, (heads + 2 kv_heads) * head_dim]` holds queries, keys and values side by side; gives
/// `[batch * tokens, heads * head_dim]`. Queries and keys are rotated if there is a rotation, scores scaled by `1 /
/// sqrt(head_dim)`.
///
/// # Errors
/// If shapes do not go together.
pub fn attention(x: &Tensor, shape: AttentionShape, rotation: Option<&Rotation>) -> Result<Tensor> {
    let AttentionShape { tokens, heads, kv_heads, head_dim } = shape;
    let (rows, cols) = x.dims2()?;
    let fits = tokens > 0
        && kv_heads > 0
        && heads.is_multiple_of(kv_heads)
        && rows.is_multiple_of(tokens)
        && cols == (heads + 2 * kv_heads) * head_dim
        && rotation
            .is_none_or(|rotation| 2 * rotation.pairs <= head_dim && rotation.angles.len() >= tokens * rotation.pairs);
    if !fits {
        candle_core::bail!("attention of {shape:?} does not go with {:?}", x.shape());
    }
    x.apply_op1(Attention { shape, rotation: rotation.cloned(), saved: OnceLock::new() })
}

struct Attention {
    shape: AttentionShape,
    rotation: Option<Rotation>,
    saved: OnceLock<Saved>,
}

/// What the backward pass needs again.
struct Saved {
    /// `[batch * kv_heads, heads / kv_heads * tokens, head_dim]`, rotated and scaled.
    q: CpuStorage,
    /// `[batch * kv_heads, tokens, head_dim]`, rotated.
    k: CpuStorage,
    /// `[batch * kv_heads, tokens, head_dim]`
    v: CpuStorage,
    /// Probabilities, `[batch * kv_heads, heads / kv_heads * tokens, tokens]`.
    p: CpuStorage,
}

impl Attention {
    /// Heads that share a key-value head.
    fn group(&self) -> usize {
        self.shape.heads / self.shape.kv_heads
    }

    /// The gradient of a head before its rotation from that after it.
    #[inline(always)]
    fn turn_back(&self, position: usize, head: &mut [f32]) {
        if let Some(rotation) = &self.rotation {
            rotation.apply(position, head, true);
        }
    }

    fn scale(&self) -> f32 {
        1.0 / (self.shape.head_dim as f32).sqrt()
    }

    /// `[batch * kv_heads, rows, inner] x [batch * kv_heads, inner, cols]`, either side given transposed or not.
    fn product(&self, a: &CpuStorage, b: &CpuStorage, dims: [usize; 4], turned: [bool; 2]) -> Result<CpuStorage> {
        let [batch, rows, cols, inner] = dims;
        let side = |turned: bool, rows: usize, cols: usize| match turned {
            false => Ok(Layout::contiguous((batch, rows, cols))),
            true => Layout::contiguous((batch, cols, rows)).transpose(1, 2),
        };
        let (a_layout, b_layout) = (side(turned[0], rows, inner)?, side(turned[1], inner, cols)?);
        a.matmul(b, (batch, rows, cols, inner), &a_layout, &b_layout)
    }
}

impl CustomOp1 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = argument(storage, layout)?;
        let AttentionShape { tokens, heads, kv_heads, head_dim } = self.shape;
        let (group, width) = (self.group(), (heads + 2 * kv_heads) * head_dim);
        let rows = x.len() / width;
        let batch = rows / tokens * kv_heads;
        let mut q = vec![0.0; rows * heads * head_dim];
        let mut k = vec![0.0; rows * kv_heads * head_dim];
        let mut v = vec![0.0; rows * kv_heads * head_dim];
        q.par_chunks_mut(group * tokens * head_dim)
            .zip(k.par_chunks_mut(tokens * head_dim))
            .zip(v.par_chunks_mut(tokens * head_dim))
            .enumerate()
            .for_each(|(i, ((q, k), v))| {
                let (sequence, kv) = (i / kv_heads, i % kv_heads);
                let x = &x[sequence * tokens * width..][..tokens * width];
                take_apart(x, self.shape, kv, self.rotation.as_ref(), self.scale(), q, k, v);
            });
        let (q, k, v) = (CpuStorage::F32(q), CpuStorage::F32(k), CpuStorage::F32(v));
        let mut p = self.product(&q, &k, [batch, group * tokens, tokens, head_dim], [false, true])?;
        if let CpuStorage::F32(scores) = &mut p {
            scores.par_chunks_mut(tokens * tokens).for_each(|scores| softmax(scores, tokens));
        }
        let o = self.product(&p, &v, [batch, group * tokens, head_dim, tokens], [false, false])?;
        let o = o.as_slice::<f32>()?;
        let mut y = vec![0.0; rows * heads * head_dim];
        y.par_chunks_mut(heads * head_dim).enumerate().for_each(|(row, y)| {
            let (sequence, token) = (row / tokens, row % tokens);
            for (head, y) in y.chunks_exact_mut(head_dim).enumerate() {
                let at = ((sequence * heads + head) * tokens + token) * head_dim;
                y.copy_from_slice(&o[at..][..head_dim]);
            }
        });
        // Only if no forward pass ran before on this very operation, which candle never does.
        let _ = self.saved.set(Saved { q, k, v, p });
        Ok(result(y, (rows, heads * head_dim)))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let Some(Saved { q, k, v, p }) = self.saved.get() else {
            candle_core::bail!("attention's backward pass without a forward pass");
        };
        let AttentionShape { tokens, heads, kv_heads, head_dim } = self.shape;
        let (group, width) = (self.group(), (heads + 2 * kv_heads) * head_dim);
        let grad = grad.contiguous()?;
        let g = values(&grad)?;
        let rows = g.len() / (heads * head_dim);
        let batch = rows / tokens * kv_heads;
        let mut d_o = vec![0.0; g.len()];
        d_o.par_chunks_mut(tokens * head_dim).enumerate().for_each(|(i, d_o)| {
            let (sequence, head) = (i / heads, i % heads);
            for (token, d_o) in d_o.chunks_exact_mut(head_dim).enumerate() {
                let at = ((sequence * tokens + token) * heads + head) * head_dim;
                d_o.copy_from_slice(&g[at..][..head_dim]);
            }
        });
        let d_o = CpuStorage::F32(d_o);
        let dv = self.product(p, &d_o, [batch, tokens, head_dim, group * tokens], [true, false])?;
        let mut ds = self.product(&d_o, v, [batch, group * tokens, tokens, head_dim], [false, true])?;
        if let (CpuStorage::F32(ds), CpuStorage::F32(p)) = (&mut ds, p) {
            let pairs = ds.par_chunks_mut(tokens * tokens).zip(p.par_chunks(tokens * tokens));
            pairs.for_each(|(ds, p)| softmax_backward(ds, p, tokens));
        }
        let dq = self.product(&ds, k, [batch, group * tokens, head_dim, tokens], [false, false])?;
        let dk = self.product(&ds, q, [batch, tokens, head_dim, group * tokens], [true, false])?;
        let (dq, dk, dv) = (dq.as_slice::<f32>()?, dk.as_slice::<f32>()?, dv.as_slice::<f32>()?);
        let mut dx = vec![0.0; rows * width];
        dx.par_chunks_mut(width).enumerate().for_each(|(row, dx)| {
            let (sequence, token) = (row / tokens, row % tokens);
            let (queries, rest) = dx.split_at_mut(heads * head_dim);
            let (keys, values) = rest.split_at_mut(kv_heads * head_dim);
            for (head, out) in queries.chunks_exact_mut(head_dim).enumerate() {
                let from = &dq[((sequence * heads + head) * tokens + token) * head_dim..][..head_dim];
                out.iter_mut().zip(from).for_each(|(out, from)| *out = from * self.scale());
                self.turn_back(token, out);
            }
            let pairs = keys.chunks_exact_mut(head_dim).zip(values.chunks_exact_mut(head_dim));
            for (kv, (keys, values)) in pairs.enumerate() {
                let at = ((sequence * kv_heads + kv) * tokens + token) * head_dim;
                keys.copy_from_slice(&dk[at..][..head_dim]);
                self.turn_back(token, keys);
                values.copy_from_slice(&dv[at..][..head_dim]);
            }
        });
        Ok(Some(tensor(dx, x.shape())?))
    }
}

/// One key-value head of one sequence `x`, `[tokens, width]`, with the queries that use it.
#[allow(clippy::too_many_arguments, reason = "three outputs of one pass over the rows")]
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "x86_64+avx"))]
fn take_apart(
    x: &[f32],
    shape: AttentionShape,
    kv: usize,
    rotation: Option<&Rotation>,
    scale: f32,
    q: &mut [f32],
    k: &mut [f32],
    v: &mut [f32],
) {
    let AttentionShape { tokens, heads, kv_heads, head_dim } = shape;
    let (group, width) = (heads / kv_heads, (heads + 2 * kv_heads) * head_dim);
    for (token, x) in x.chunks_exact(width).enumerate() {
        for i in 0..group {
            let out = &mut q[(i * tokens + token) * head_dim..][..head_dim];
            let from = &x[(kv * group + i) * head_dim..][..head_dim];
            for j in 0..head_dim {
                out[j] = from[j] * scale;
            }
            if let Some(rotation) = rotation {
                rotation.apply(token, out, false);
            }
        }
        let out = &mut k[token * head_dim..][..head_dim];
        out.copy_from_slice(&x[(heads + kv) * head_dim..][..head_dim]);
        if let Some(rotation) = rotation {
            rotation.apply(token, out, false);
        }
        v[token * head_dim..][..head_dim].copy_from_slice(&x[(heads + kv_heads + kv) * head_dim..][..head_dim]);
    }
}

/// Softmax of row t of `scores`, `[tokens, tokens]`, over its first t + 1 columns; the rest becomes zero.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "x86_64+avx"))]
fn softmax(scores: &mut [f32], tokens: usize) {
    for (t, row) in scores.chunks_exact_mut(tokens).enumerate() {
        let (seen, hidden) = row.split_at_mut(t + 1);
        hidden.fill(0.0);
        let max = seen.iter().fold(f32::NEG_INFINITY, |max, &x| if x > max { x } else { max });
        let mut lanes = [0.0; 16];
        let (chunks, rest) = seen.as_chunks_mut::<16>();
        for chunk in chunks {
            for j in 0..16 {
                chunk[j] = exp(chunk[j] - max);
                lanes[j] += chunk[j];
            }
        }
        for (lane, x) in lanes.iter_mut().zip(rest) {
            *x = exp(*x - max);
            *lane += *x;
        }
        let inverse = 1.0 / lanes.into_iter().sum::<f32>();
        seen.iter_mut().for_each(|x| *x *= inverse);
    }
}

/// `ds = p * (dp - sum(dp * p))`, in place of dp, row by row.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "x86_64+avx"))]
fn softmax_backward(ds: &mut [f32], p: &[f32], tokens: usize) {
    for (t, (ds, p)) in ds.chunks_exact_mut(tokens).zip(p.chunks_exact(tokens)).enumerate() {
        let mut lanes = [0.0; 16];
        let ((ds_chunks, ds_rest), (p_chunks, p_rest)) = (ds[..=t].as_chunks::<16>(), p[..=t].as_chunks::<16>());
        for (ds, p) in ds_chunks.iter().zip(p_chunks) {
            for j in 0..16 {
                lanes[j] += ds[j] * p[j];
            }
        }
        for ((lane, ds), p) in lanes.iter_mut().zip(ds_rest).zip(p_rest) {
            *lane += ds * p;
        }
        let sum: f32 = lanes.into_iter().sum();
        for (ds, &p) in ds.iter_mut().zip(p) {
            *ds = p * (*ds - sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_gradients, random};

    use super::*;

    fn rotation(style: RopeStyle, base: f64, rotated: usize, tokens: usize) -> Rotation {
        let rope = Rope::plain(style, rotated, base);
        Rotation::new(&rope, tokens)
    }

    #[test]
    fn gradients_are_finite_differences() -> Result<()> {
        for (heads, kv_heads, style) in [(2, 2, RopeStyle::Neox), (4, 2, RopeStyle::Norm)] {
            let shape = AttentionShape { tokens: 5, heads, kv_heads, head_dim: 4 };
            let x = (random((10, (heads + 2 * kv_heads) * 4), 1) * 2.0)?;
            for rotation in [Some(rotation(style, 100.0, 4, 5)), Some(rotation(style, 100.0, 2, 5)), None] {
                check_gradients(std::slice::from_ref(&x), |t| attention(&t[0], shape, rotation.as_ref()))?;
            }
        }
        Ok(())
    }

    /// The definition in f64, one head at a time.
    #[test]
    fn is_attention() -> Result<()> {
        let shape = AttentionShape { tokens: 7, heads: 4, kv_heads: 2, head_dim: 6 };
        let rotation = rotation(RopeStyle::Norm, 50.0, 6, 7);
        let x = random((14, 48), 3);
        let y = attention(&x, shape, Some(&rotation))?.to_vec2::<f32>()?;
        let x = x.to_vec2::<f32>()?;
        let rotated = |row: usize, at: usize| -> Vec<f64> {
            let position = (row % 7) as f64;
            let mut out = Vec::new();
            for i in 0..3 {
                let angle = position * 50f64.powf(-(2.0 * i as f64) / 6.0);
                let (a, b) = (f64::from(x[row][at + 2 * i]), f64::from(x[row][at + 2 * i + 1]));
                out.extend([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()]);
            }
            out
        };
        for row in 0..14 {
            for head in 0..4 {
                let q = rotated(row, head * 6);
                let first = row / 7 * 7;
                let weights: Vec<f64> = (first..=row)
                    .map(|other| {
                        let k = rotated(other, (4 + head / 2) * 6);
                        (q.iter().zip(&k).map(|(q, k)| q * k).sum::<f64>() / 6f64.sqrt()).exp()
                    })
                    .collect();
                let sum: f64 = weights.iter().sum();
                for j in 0..6 {
                    let values = (first..=row).map(|other| f64::from(x[other][(6 + head / 2) * 6 + j]));
                    let expected: f64 = values.zip(&weights).map(|(v, w)| v * w / sum).sum();
                    assert!((f64::from(y[row][head * 6 + j]) - expected).abs() < 1e-5);
                }
            }
        }
        Ok(())
    }
}
