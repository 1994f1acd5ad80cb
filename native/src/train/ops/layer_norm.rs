//! Layer norm with weights and biases, optionally followed by int8 activations.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use multiversion::multiversion;
use rayon::prelude::*;

use super::{ROWS_PER_TASK, activations, argument, dot, result, tensor, values};

/// `y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias` over the last dimension of `x`, `[..., cols]`, with `weight` and `bias`
/// `[cols]` (arXiv:1607.06450). With `quantize`, `y` is rounded to int8 with a scale for so many columns, and the gradient
/// passes the rounding.
///
/// # Errors
/// If shapes do not go together.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f32, quantize: Option<usize>) -> Result<Tensor> {
    let cols = x.dim(candle_core::D::Minus1)?;
    let groups = quantize.is_none_or(|group| group > 0 && cols.is_multiple_of(group));
    if weight.dims() != [cols] || bias.dims() != [cols] || !groups {
        candle_core::bail!(
            "a norm of {:?} and {:?} in groups of {quantize:?} does not go with {cols} columns",
            weight.dims(),
            bias.dims()
        );
    }
    x.apply_op3(weight, bias, LayerNorm { eps, quantize })
}

struct LayerNorm {
    eps: f32,
    quantize: Option<usize>,
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
        b: &CpuStorage,
        bl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, weight, bias) = (argument(x, xl)?, argument(w, wl)?, argument(b, bl)?);
        let mut y = vec![0.0; x.len()];
        let task = weight.len() * ROWS_PER_TASK;
        y.par_chunks_mut(task).zip(x.par_chunks(task)).for_each(|(y, x)| {
            forward(x, weight, bias, self.eps, y);
            if let Some(group) = self.quantize {
                activations::quantize(y, group);
            }
        });
        Ok(result(y, xl.shape()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (x_values, weight, g) = (values(x)?, values(w)?, values(&grad)?);
        let cols = weight.len();
        let mut dx = vec![0.0; x_values.len()];
        let task = cols * ROWS_PER_TASK;
        let parts: Vec<_> = dx
            .par_chunks_mut(task)
            .zip(x_values.par_chunks(task))
            .zip(g.par_chunks(task))
            .map(|((dx, x), g)| {
                let (mut dw, mut db) = (vec![0.0; cols], vec![0.0; cols]);
                backward(x, &weight, self.eps, g, dx, &mut dw, &mut db);
                (dw, db)
            })
            .collect();
        let (mut dw, mut db) = (vec![0.0; cols], vec![0.0; cols]);
        for (dw_part, db_part) in parts {
            dw.iter_mut().zip(dw_part).for_each(|(sum, part)| *sum += part);
            db.iter_mut().zip(db_part).for_each(|(sum, part)| *sum += part);
        }
        Ok((Some(tensor(dx, x.shape())?), Some(tensor(dw, w.shape())?), Some(tensor(db, b.shape())?)))
    }
}

/// The sum, in sixteen lanes.
#[inline(always)]
fn sum(x: &[f32]) -> f32 {
    let mut lanes = [0.0; 16];
    let (chunks, rest) = x.as_chunks::<16>();
    for chunk in chunks {
        for j in 0..16 {
            lanes[j] += chunk[j];
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane += x;
    }
    lanes.into_iter().sum()
}

/// Writes `x - mean(x)` to `out` and gives the inverse of the deviation.
#[inline(always)]
fn center(x: &[f32], eps: f32, out: &mut [f32]) -> f32 {
    let mean = sum(x) / x.len() as f32;
    for (out, x) in out.iter_mut().zip(x) {
        *out = x - mean;
    }
    1.0 / (dot(out, out) / x.len() as f32 + eps).sqrt()
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "x86_64+avx"))]
fn forward(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, y: &mut [f32]) {
    for (x, y) in x.chunks_exact(weight.len()).zip(y.chunks_exact_mut(weight.len())) {
        let inverse = center(x, eps, y);
        for ((y, &w), &b) in y.iter_mut().zip(weight).zip(bias) {
            *y = *y * inverse * w + b;
        }
    }
}

/// With n = (x - mean) * inverse and h = g * w: dx = inverse * (h - mean(h) - n * mean(h * n)), dw = sum over rows of g * n,
/// db = sum over rows of g.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "x86_64+avx"))]
fn backward(x: &[f32], weight: &[f32], eps: f32, g: &[f32], dx: &mut [f32], dw: &mut [f32], db: &mut [f32]) {
    let cols = weight.len();
    let mut n = vec![0.0; cols];
    for ((x, g), dx) in x.chunks_exact(cols).zip(g.chunks_exact(cols)).zip(dx.chunks_exact_mut(cols)) {
        let inverse = center(x, eps, &mut n);
        for j in 0..cols {
            n[j] *= inverse;
            dx[j] = g[j] * weight[j];
            dw[j] += g[j] * n[j];
            db[j] += g[j];
        }
        let (mean, along) = (sum(dx) / cols as f32, dot(dx, &n) / cols as f32);
        for j in 0..cols {
            dx[j] = inverse * (dx[j] - mean - n[j] * along);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_gradients, random};
    use super::*;

    #[test]
    fn gradients_are_finite_differences() -> Result<()> {
        let inputs = [random((5, 19), 1), random(19, 2), random(19, 3)];
        check_gradients(&inputs, |t| layer_norm(&t[0], &t[1], &t[2], 1e-5, None))
    }

    #[test]
    fn rows_have_the_mean_and_deviation_asked_for_and_are_rounded_as_activations_are() -> Result<()> {
        let x = (random((3, 32), 3) + 5.0)?;
        let (w, b) = (Tensor::full(2f32, 32, x.device())?, Tensor::full(0.5f32, 32, x.device())?);
        let y = layer_norm(&x, &w, &b, 1e-6, None)?;
        for row in y.to_vec2::<f32>()? {
            let mean = row.iter().sum::<f32>() / 32.0;
            let deviation = (row.iter().map(|y| (y - mean) * (y - mean)).sum::<f32>() / 32.0).sqrt();
            assert!((mean - 0.5).abs() < 1e-5 && (deviation - 2.0).abs() < 1e-4, "{mean} {deviation}");
        }
        let rounded = layer_norm(&x, &w, &b, 1e-6, Some(16))?;
        assert_eq!(rounded.to_vec2::<f32>()?, super::super::quantize_activations(&y, 16)?.to_vec2::<f32>()?);
        assert!(layer_norm(&x, &w, &b, 1e-6, Some(5)).is_err() && layer_norm(&x, &w, &x, 1e-6, None).is_err());
        Ok(())
    }
}
