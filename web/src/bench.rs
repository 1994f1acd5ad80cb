//! The speed of one product of matrices, for pages that compare kernels.

use sterna_core::kernels::{self, Compute};
use sterna_core::model::ModelError;
use sterna_core::ternary::{QuantizedRows, TernaryBuilder};
use wasm_bindgen::prelude::*;

use crate::error::{Failure, Result};
use crate::threads;

/// Columns that share a scale, as in TQ2_0.
const GROUP: usize = 256;
/// Most weights of the matrix, and most numbers of activations.
const LIMIT: usize = 1 << 28;

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = performance, js_name = now)]
    fn milliseconds() -> f64;
}

/// Seconds on a clock that only goes forward.
pub fn now() -> f64 {
    milliseconds() / 1000.0
}

/// Seconds that `iterations` products of a random ternary matrix, `[rows, cols]` in groups of 256, with `tokens` tokens take,
/// on all threads. One more, not counted, comes before. An operation is a multiply or an add: there are
/// `2 * rows * cols * tokens * iterations`.
///
/// # Errors
/// `invalid-argument` for a kernel that is not there, columns that are no multiple of 256, or sizes beyond sense.
#[wasm_bindgen(js_name = benchKernel)]
pub fn bench_kernel(kernel: &str, rows: usize, cols: usize, tokens: usize, iterations: usize) -> Result<f64> {
    let kernel = kernels::select(Some(kernel)).map_err(ModelError::from)?;
    let fits = |a: usize, b: usize| a > 0 && b > 0 && a.checked_mul(b).is_some_and(|product| product <= LIMIT);
    if !fits(rows, cols) || !fits(tokens, rows.max(cols)) || !cols.is_multiple_of(GROUP) {
        let message = format!("a product of [{rows}, {cols}] with {tokens} tokens is not one to measure");
        return Err(Failure::argument(format!("{message}; columns must be a multiple of {GROUP}")));
    }
    let mut state = 1u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    };
    let mut builder = TernaryBuilder::new(rows, cols, GROUP, 1.0);
    let (mut codes, mut scales) = (vec![0; cols], vec![0; cols / GROUP]);
    for mut tile in builder.tiles_mut() {
        for lane in 0..tile.rows {
            codes.fill_with(|| (random() % 3) as u8);
            scales.fill_with(|| 0x3000 + (random() % 512) as u16);
            tile.set_row(lane, &codes, &scales);
        }
    }
    let matrix = builder.finish();
    let x: Vec<f32> = (0..tokens * cols).map(|_| random() as f32 / 2e9 - 0.5).collect();
    let exec = threads::executor();
    let compute = Compute { kernel, exec: &*exec };
    let mut quantized = QuantizedRows::default();
    compute.quantize(&x, cols, matrix.group(), &mut quantized);
    let mut out = vec![0.0; tokens * rows];
    threads::inside(|| compute.ternary(&matrix, &quantized, &mut out));
    let started = now();
    threads::inside(|| (0..iterations).for_each(|_| compute.ternary(&matrix, &quantized, &mut out)));
    let seconds = now() - started;
    core::hint::black_box(&out);
    Ok(seconds)
}
