//! Cross-entropy of softmax outputs with known answers.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use multiversion::multiversion;
use rayon::prelude::*;
use sterna_core::kernels::exp;

use super::{ROWS_PER_TASK, argument, result, tensor, values};

/// The mean over rows of `-ln softmax(logits)[target]`, in nats: `logits` `[rows, classes]`, a target each row. A scalar.
///
/// # Errors
/// If there are not as many targets as rows, or a target is not a class.
pub fn cross_entropy(logits: &Tensor, targets: Vec<u32>) -> Result<Tensor> {
    check(logits, &targets)?;
    logits.apply_op1(CrossEntropy { targets: targets.into() })
}

/// The loss of each row, in nats, without a gradient.
///
/// # Errors
/// As [`cross_entropy`].
pub fn losses(logits: &Tensor, targets: &[u32]) -> Result<Vec<f32>> {
    let classes = check(logits, targets)?;
    let logits = logits.contiguous()?;
    Ok(forward_all(&values(&logits)?, classes, targets))
}

fn check(logits: &Tensor, targets: &[u32]) -> Result<usize> {
    let (rows, classes) = logits.dims2()?;
    if rows != targets.len() || rows == 0 {
        candle_core::bail!("{} targets for {rows} rows of logits", targets.len());
    }
    match targets.iter().find(|&&target| target as usize >= classes) {
        Some(target) => candle_core::bail!("target {target} is not one of {classes} classes"),
        None => Ok(classes),
    }
}

struct CrossEntropy {
    targets: Arc<[u32]>,
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, classes) = layout.shape().dims2()?;
        let losses = forward_all(argument(storage, layout)?, classes, &self.targets);
        let sum: f64 = losses.iter().map(|&loss| f64::from(loss)).sum();
        Ok(result(vec![(sum / rows as f64) as f32], ()))
    }

    fn bwd(&self, logits: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (rows, classes) = logits.dims2()?;
        let factor = grad.to_scalar::<f32>()? / rows as f32;
        let x = values(logits)?;
        let mut dx = vec![0.0; x.len()];
        let task = classes * ROWS_PER_TASK;
        dx.par_chunks_mut(task)
            .zip(x.par_chunks(task))
            .zip(self.targets.par_chunks(ROWS_PER_TASK))
            .for_each(|((dx, x), targets)| backward(x, classes, targets, factor, dx));
        Ok(Some(tensor(dx, logits.shape())?))
    }
}

fn forward_all(x: &[f32], classes: usize, targets: &[u32]) -> Vec<f32> {
    let mut losses = vec![0.0; targets.len()];
    losses
        .par_chunks_mut(ROWS_PER_TASK)
        .zip(x.par_chunks(classes * ROWS_PER_TASK))
        .zip(targets.par_chunks(ROWS_PER_TASK))
        .for_each(|((losses, x), targets)| forward(x, classes, targets, losses));
    losses
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "x86_64+avx"))]
fn forward(x: &[f32], classes: usize, targets: &[u32], losses: &mut [f32]) {
    for ((x, &target), loss) in x.chunks_exact(classes).zip(targets).zip(losses) {
        let (max, sum) = max_and_sum(x);
        *loss = sum.ln() + max - x[target as usize];
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "x86_64+avx"))]
fn backward(x: &[f32], classes: usize, targets: &[u32], factor: f32, dx: &mut [f32]) {
    for ((x, &target), dx) in x.chunks_exact(classes).zip(targets).zip(dx.chunks_exact_mut(classes)) {
        let (max, sum) = max_and_sum(x);
        let scale = factor / sum;
        for (dx, &x) in dx.iter_mut().zip(x) {
            *dx = exp(x - max) * scale;
        }
        dx[target as usize] -= factor;
    }
}

/// The largest value, and the sum of `exp(x - max)`; NaN if there is one among them.
#[inline(always)]
pub(super) fn max_and_sum(x: &[f32]) -> (f32, f32) {
    let max = x.iter().fold(f32::NEG_INFINITY, |max, &x| if x > max { x } else { max });
    let mut lanes = [0.0; 16];
    let (chunks, rest) = x.as_chunks::<16>();
    for chunk in chunks {
        for j in 0..16 {
            lanes[j] += exp(chunk[j] - max);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane += exp(x - max);
    }
    (max, lanes.into_iter().sum())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_gradients, random};
    use super::*;

    #[test]
    fn gradients_are_finite_differences() -> Result<()> {
        let logits = (random((5, 21), 1) * 4.0)?;
        check_gradients(&[logits], |t| cross_entropy(&t[0], vec![0, 20, 3, 7, 7])?.reshape(1))
    }

    #[test]
    fn losses_are_logarithms_of_the_softmax() -> Result<()> {
        let logits = tensor(vec![0.0, 0.0, 0.0, 0.0, 1000.0, 999.0, -1000.0, 0.0], (2, 4))?;
        let losses = losses(&logits, &[1, 1])?;
        assert!((losses[0] - 4f32.ln()).abs() < 1e-6);
        assert!((losses[1] - (1.0 + (-1f32).exp().ln_1p())).abs() < 1e-3, "{losses:?}");
        let nan = tensor(vec![f32::NAN, 1.0], (1, 2))?;
        assert!(super::losses(&nan, &[1])?[0].is_nan());
        assert!(cross_entropy(&logits, vec![0]).is_err() && cross_entropy(&logits, vec![0, 4]).is_err());
        Ok(())
    }
}
