//! How far one model's predictions are from another's (knowledge distillation, arXiv:1503.02531).

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use multiversion::multiversion;
use rayon::prelude::*;
use sterna_core::kernels::exp;

use super::cross_entropy::max_and_sum;
use super::{ROWS_PER_TASK, argument, result, tensor, values};

/// The mean over rows of `T^2 KL(p || q)` in nats, with `p = softmax(teacher / T)` and `q = softmax(logits / T)`, both `[rows,
/// classes]`. A scalar; the factor `T^2` keeps the size of gradients where T changes. `teacher` gets no gradient.
///
/// # Errors
/// If shapes differ, or the temperature is not positive.
pub fn divergence(logits: &Tensor, teacher: &Tensor, temperature: f32) -> Result<Tensor> {
    if logits.shape() != teacher.shape() || logits.dims2()?.0 == 0 {
        candle_core::bail!("logits of {:?} cannot follow logits of {:?}", logits.shape(), teacher.shape());
    }
    if !(temperature > 0.0 && temperature.is_finite()) {
        candle_core::bail!("a temperature of {temperature} is not positive");
    }
    logits.apply_op1(Divergence { teacher: teacher.detach().contiguous()?, temperature })
}

struct Divergence {
    teacher: Tensor,
    temperature: f32,
}

impl CustomOp1 for Divergence {
    fn name(&self) -> &'static str {
        "divergence"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, classes) = layout.shape().dims2()?;
        let (x, teacher) = (argument(storage, layout)?, values(&self.teacher)?);
        let task = classes * ROWS_PER_TASK;
        let parts: Vec<Vec<f64>> = x
            .par_chunks(task)
            .zip(teacher.par_chunks(task))
            .map(|(x, teacher)| forward(x, teacher, classes, self.temperature))
            .collect();
        let sum: f64 = parts.into_iter().flatten().sum();
        let factor = f64::from(self.temperature).powi(2) / rows as f64;
        Ok(result(vec![(sum * factor) as f32], ()))
    }

    fn bwd(&self, logits: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (rows, classes) = logits.dims2()?;
        let factor = grad.to_scalar::<f32>()? * self.temperature / rows as f32;
        let (x, teacher) = (values(logits)?, values(&self.teacher)?);
        let mut dx = vec![0.0; x.len()];
        let task = classes * ROWS_PER_TASK;
        dx.par_chunks_mut(task)
            .zip(x.par_chunks(task))
            .zip(teacher.par_chunks(task))
            .for_each(|((dx, x), teacher)| backward(x, teacher, classes, self.temperature, factor, dx));
        Ok(Some(tensor(dx, logits.shape())?))
    }
}

/// The divergence of each row: `sum p (t - x) / T + ln Z_x - ln Z_t`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "x86_64+avx"))]
fn forward(x: &[f32], teacher: &[f32], classes: usize, temperature: f32) -> Vec<f64> {
    let (inverse, mut rows) = (1.0 / temperature, Vec::new());
    let (mut t, mut s) = (vec![0.0; classes], vec![0.0; classes]);
    for (x, teacher) in x.chunks_exact(classes).zip(teacher.chunks_exact(classes)) {
        for j in 0..classes {
            (s[j], t[j]) = (x[j] * inverse, teacher[j] * inverse);
        }
        let ((s_max, s_sum), (t_max, t_sum)) = (max_and_sum(&s), max_and_sum(&t));
        let mut lanes = [0.0f32; 16];
        let ((s_chunks, s_rest), (t_chunks, t_rest)) = (s.as_chunks::<16>(), t.as_chunks::<16>());
        let term = |s: f32, t: f32| exp(t - t_max) * ((t - t_max) - (s - s_max));
        for (s, t) in s_chunks.iter().zip(t_chunks) {
            for j in 0..16 {
                lanes[j] += term(s[j], t[j]);
            }
        }
        for ((lane, &s), &t) in lanes.iter_mut().zip(s_rest).zip(t_rest) {
            *lane += term(s, t);
        }
        let mean = lanes.into_iter().map(f64::from).sum::<f64>() / f64::from(t_sum);
        rows.push(mean + f64::from(s_sum).ln() - f64::from(t_sum).ln());
    }
    rows
}

/// `dx = factor * (q - p)`, and the T of the outer square that the inner derivative leaves is in `factor`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "x86_64+avx"))]
fn backward(x: &[f32], teacher: &[f32], classes: usize, temperature: f32, factor: f32, dx: &mut [f32]) {
    let inverse = 1.0 / temperature;
    let (mut t, mut s) = (vec![0.0; classes], vec![0.0; classes]);
    let rows = x.chunks_exact(classes).zip(teacher.chunks_exact(classes)).zip(dx.chunks_exact_mut(classes));
    for ((x, teacher), dx) in rows {
        for j in 0..classes {
            (s[j], t[j]) = (x[j] * inverse, teacher[j] * inverse);
        }
        let ((s_max, s_sum), (t_max, t_sum)) = (max_and_sum(&s), max_and_sum(&t));
        let (q, p) = (factor / s_sum, factor / t_sum);
        for j in 0..classes {
            dx[j] = exp(s[j] - s_max) * q - exp(t[j] - t_max) * p;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_gradients, random};
    use super::*;

    #[test]
    fn gradients_are_finite_differences() -> Result<()> {
        let (logits, teacher) = ((random((5, 21), 1) * 3.0)?, (random((5, 21), 2) * 3.0)?);
        for temperature in [1.0, 2.5] {
            check_gradients(std::slice::from_ref(&logits), |t| divergence(&t[0], &teacher, temperature)?.reshape(1))?;
        }
        Ok(())
    }

    #[test]
    fn it_is_the_sum_of_its_definition_and_zero_between_equals() -> Result<()> {
        let (x, t) = ((random((4, 19), 1) * 3.0)?, (random((4, 19), 2) * 3.0)?);
        let softmax = |row: &[f32]| {
            let sum: f64 = row.iter().map(|&x| (f64::from(x) / 2.0).exp()).sum();
            row.iter().map(|&x| (f64::from(x) / 2.0).exp() / sum).collect::<Vec<_>>()
        };
        let mut expected = 0.0;
        for (x, t) in x.to_vec2::<f32>()?.iter().zip(t.to_vec2::<f32>()?) {
            let (q, p) = (softmax(x), softmax(&t));
            expected += p.iter().zip(q).map(|(p, q)| p * (p / q).ln()).sum::<f64>();
        }
        let found = f64::from(divergence(&x, &t, 2.0)?.to_scalar::<f32>()?);
        assert!((found - 4.0 * expected / 4.0).abs() < 1e-5, "{found} {expected}");
        assert!(divergence(&x, &x, 2.0)?.to_scalar::<f32>()?.abs() < 1e-6);
        assert!(divergence(&x, &t.narrow(0, 0, 3)?, 2.0).is_err() && divergence(&x, &t, 0.0).is_err());
        Ok(())
    }
}
