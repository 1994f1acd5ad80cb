//! The specification: what every kernel must compute, bit for bit, in plain loops over the definitions.
//!
//! Worked example of a ternary product, one row, one token, group of 16, of which only three columns are not zero:
//!
//! ```text
//! codes - 1   +1   0  -1  +2      w_scale = 0.5      sum = 1*10 + 0*20 + (-1)*30 + 2*(-5) = -30
//! x codes     10  20  30  -5      x_scale = 0.25     out = 0 + (0.5 * 0.25) * -30 = -3.75, then * tensor_scale
//! ```

use super::attention::Attention;
use super::elementwise::{LANES, fold, softmax_unnormalized};
use super::output::Output;
use crate::ternary::{BlockMatrix, QuantizedRows, TILE_ROWS, TernaryMatrix};
use core::ops::Range;
use half::f16;

/// See [`super::tile`], which does the same with sixteen rows and several tokens at once.
pub(super) fn ternary(m: &TernaryMatrix, x: &QuantizedRows, tiles: Range<usize>, out: &Output<'_>) {
    assert!(x.cols() == m.cols() && x.group() == m.group());
    assert!(out.tokens() == x.tokens() && out.rows() == m.rows());
    let tokens: Vec<Vec<i8>> = (0..x.tokens()).map(|token| x.token(token)).collect();
    for row in tiles.start * TILE_ROWS..(tiles.end * TILE_ROWS).min(m.rows()) {
        let weights = m.row_weights(row);
        for (token, codes) in tokens.iter().enumerate() {
            let mut total = 0.0f32;
            for g in 0..m.cols() / m.group() {
                let mut sum = 0i32;
                for col in g * m.group()..(g + 1) * m.group() {
                    sum += i32::from(weights[col]) * i32::from(codes[col]);
                }
                total += (m.scale(row, g) * x.scale(token, g)) * sum as f32;
            }
            // SAFETY: the caller gave this task the rows of `tiles`.
            unsafe { out.write(token, row, &[total * m.tensor_scale()]) };
        }
    }
}

/// See [`super::rows`].
pub(super) fn block_matrix(m: &BlockMatrix, x: &[f32], rows: Range<usize>, out: &Output<'_>) {
    assert!(x.len() == out.tokens() * m.cols() && out.rows() == m.rows());
    let mut weights = vec![0.0; m.cols()];
    for row in rows {
        m.dequantize_row(row, &mut weights);
        for token in 0..out.tokens() {
            let x = &x[token * m.cols()..][..m.cols()];
            // SAFETY: the caller gave this task these rows.
            unsafe { out.write(token, row, &[dot(&weights, x)]) };
        }
    }
}

/// A dot product in sixteen lanes; columns beyond the last count as 0 * 0.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    for start in (0..a.len()).step_by(LANES) {
        for (j, lane) in lanes.iter_mut().enumerate() {
            let (a, b) = (a.get(start + j).unwrap_or(&0.0), b.get(start + j).unwrap_or(&0.0));
            *lane += a * b;
        }
    }
    fold(lanes)
}

/// See [`super::attention`].
pub(super) fn attend(a: &Attention<'_>, out: &mut [f32]) {
    a.check(out);
    let dim = a.head_dim;
    let widen = |from: &[u16]| -> Vec<f32> { from.iter().map(|&bits| f16::from_bits(bits).to_f32_const()).collect() };
    for (i, (query, out)) in a.queries.chunks_exact(dim).zip(out.chunks_exact_mut(dim)).enumerate() {
        let mut weights: Vec<f32> =
            (0..a.positions_of(i)).map(|p| dot(query, &widen(&a.keys[p * a.stride..][..dim])) * a.scale).collect();
        let inverse = 1.0 / softmax_unnormalized(&mut weights);
        out.fill(0.0);
        for (p, weight) in weights.into_iter().enumerate() {
            for (out, value) in out.iter_mut().zip(widen(&a.values[p * a.stride..][..dim])) {
                *out += weight * value;
            }
        }
        for out in out {
            *out *= inverse;
        }
    }
}
