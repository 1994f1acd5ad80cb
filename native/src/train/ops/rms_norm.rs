//! RMS norm, optionally followed by int8 activations.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use multiversion::multiversion;
use rayon::prelude::*;

use super::{ROWS_PER_TASK, activations, argument, dot, result, tensor, values};

/// `y = x / sqrt(mean(x^2) + eps) * weight` over the last dimension of `x`, `[..., cols]`, with `weight` `[cols]`
/// (arXiv:1910.07467). With `quantize`, `y` is rounded to int8 with a scale for so many columns, and the gradient passes the
/// rounding.
///
/// # Errors
/// If shapes do not go together.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32, quantize: Option<usize>) -> Result<Tensor> {
    let cols = x.dim(candle_core::D::Minus1)?;
    if weight.dims() != [cols] || quantize.is_some_and(|group| group == 0 || !cols.is_multiple_of(group)) {
        candle_core::bail!("a norm of {:?} in groups of {quantize:?} does not go with {cols} columns", weight.dims());
    }
    x.apply_op2(weight, RmsNorm { eps, quantize })
}

struct RmsNorm {
    eps: f32,
    quantize: Option<usize>,
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout, w: &CpuStorage, wl: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, weight) = (argument(x, xl)?, argument(w, wl)?);
        let mut y = vec![0.0; x.len()];
        let task = weight.len() * ROWS_PER_TASK;
        y.par_chunks_mut(task).zip(x.par_chunks(task)).for_each(|(y, x)| {
            forward(x, weight, self.eps, y);
            if let Some(group) = self.quantize {
                activations::quantize(y, group);
            }
        });
        Ok(result(y, xl.shape()))
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
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
                let mut dw = vec![0.0; cols];
                backward(x, &weight, self.eps, g, dx, &mut dw);
                dw
            })
            .collect();
        let mut dw = vec![0.0; cols];
        for part in parts {
            dw.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
        }
        Ok((Some(tensor(dx, x.shape())?), Some(tensor(dw, cols)?)))
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "x86_64+avx"))]
pub(super) fn forward(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    for (x, y) in x.chunks_exact(weight.len()).zip(y.chunks_exact_mut(weight.len())) {
        let inverse = 1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt();
        for ((y, &x), &w) in y.iter_mut().zip(x).zip(weight) {
            *y = (x * inverse) * w;
        }
    }
}

/// With n = x * inverse and h = g * w: dx = inverse * (h - n * mean(h * n)), dw = sum over rows of g * n.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "x86_64+avx"))]
pub(super) fn backward(x: &[f32], weight: &[f32], eps: f32, g: &[f32], dx: &mut [f32], dw: &mut [f32]) {
    let cols = weight.len();
    for ((x, g), dx) in x.chunks_exact(cols).zip(g.chunks_exact(cols)).zip(dx.chunks_exact_mut(cols)) {
        let inverse = 1.0 / (dot(x, x) / cols as f32 + eps).sqrt();
        for j in 0..cols {
            dx[j] = g[j] * weight[j];
            dw[j] += g[j] * (x[j] * inverse);
        }
        let mean = dot(dx, x) * inverse / cols as f32;
        for j in 0..cols {
            dx[j] = inverse * (dx[j] - x[j] * inverse * mean);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_gradients, random};
    use super::*;

    #[test]
    fn gradients_are_finite_differences() -> Result<()> {
        let (x, w) = (random((5, 19), 1), random(19, 2));
        check_gradients(&[x, w], |t| rms_norm(&t[0], &t[1], 1e-5, None))
    }

    #[test]
    fn rounding_is_what_the_activations_do() -> Result<()> {
        let (x, w) = (random((3, 32), 3), random(32, 4));
        let rounded = rms_norm(&x, &w, 1e-5, Some(16))?;
        let apart = super::super::quantize_activations(&rms_norm(&x, &w, 1e-5, None)?, 16)?;
        assert_eq!(rounded.to_vec2::<f32>()?, apart.to_vec2::<f32>()?);
        assert!(rms_norm(&x, &w, 1e-5, Some(5)).is_err() && rms_norm(&w, &x, 1e-5, None).is_err());
        Ok(())
    }
}
