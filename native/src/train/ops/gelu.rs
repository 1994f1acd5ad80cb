//! GELU in its tangent form, as GPT-2 uses it (arXiv:1606.08415).

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use multiversion::multiversion;
use rayon::prelude::*;
use sterna_core::kernels::exp;

use super::{argument, result, tensor, values};

/// Elements that a task works on.
const TASK: usize = 1 << 13;
/// 2 sqrt(2 / pi)
const SLOPE: f32 = 1.595_769;
/// The share of the cube.
const CUBE: f32 = 0.044_715;

/// `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`, for each element.
///
/// # Errors
/// If `x` is not contiguous f32.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    x.apply_op1(Gelu)
}

struct Gelu;

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = argument(storage, layout)?;
        let mut y = vec![0.0; x.len()];
        y.par_chunks_mut(TASK).zip(x.par_chunks(TASK)).for_each(|(y, x)| forward(x, y));
        Ok(result(y, layout.shape()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let (x_values, g) = (values(x)?, values(&grad)?);
        let mut dx = vec![0.0; x_values.len()];
        dx.par_chunks_mut(TASK)
            .zip(x_values.par_chunks(TASK))
            .zip(g.par_chunks(TASK))
            .for_each(|((dx, x), g)| backward(x, g, dx));
        Ok(Some(tensor(dx, x.shape())?))
    }
}

/// `(1 + tanh u) / 2 = 1 / (1 + e^-2u)`, as the runtime computes it.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "x86_64+avx"))]
fn forward(x: &[f32], y: &mut [f32]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = x / (1.0 + exp(-(SLOPE * (x + CUBE * (x * x * x)))));
    }
}

/// With s = 1 / (1 + e^-2u): gelu' = s + x * s * (1 - s) * 2u', and 2u' = SLOPE * (1 + 3 CUBE x^2).
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "x86_64+avx"))]
fn backward(x: &[f32], g: &[f32], dx: &mut [f32]) {
    for ((dx, &x), &g) in dx.iter_mut().zip(x).zip(g) {
        let s = 1.0 / (1.0 + exp(-(SLOPE * (x + CUBE * (x * x * x)))));
        *dx = g * (s + x * s * (1.0 - s) * (SLOPE * (1.0 + 3.0 * CUBE * (x * x))));
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_gradients, random};
    use super::*;

    #[test]
    fn gradients_are_finite_differences() -> Result<()> {
        check_gradients(&[(random((3, 14), 1) * 4.0)?], |t| gelu(&t[0]))
    }

    #[test]
    fn values_are_those_of_the_formula() -> Result<()> {
        let x = tensor(vec![-3.0, -1.0, 0.0, 0.5, 2.0], 5)?;
        for (found, x) in gelu(&x)?.to_vec1::<f32>()?.into_iter().zip(x.to_vec1::<f32>()?) {
            let u = (2.0 / core::f64::consts::PI).sqrt() * (f64::from(x) + 0.044715 * f64::from(x).powi(3));
            let expected = 0.5 * f64::from(x) * (1.0 + u.tanh());
            assert!((f64::from(found) - expected).abs() < 1e-6, "{x}: {found} {expected}");
        }
        Ok(())
    }
}
