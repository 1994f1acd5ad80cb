//! RMS norms on each head of queries and keys (Qwen 3).

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::rms_norm::{backward, forward};
use super::{AttentionShape, argument, result, tensor, values};

/// `x`, `[rows, (heads + 2 kv_heads) * head_dim]`, with the RMS norm of weights `q` and `k`, `[head_dim]` each, on every head of
/// queries and of keys; values stay as they are.
///
/// # Errors
/// If shapes do not go together.
pub fn head_norms(x: &Tensor, q: &Tensor, k: &Tensor, shape: AttentionShape, eps: f32) -> Result<Tensor> {
    let (_, cols) = x.dims2()?;
    let AttentionShape { heads, kv_heads, head_dim, .. } = shape;
    if cols != (heads + 2 * kv_heads) * head_dim || q.dims() != [head_dim] || k.dims() != [head_dim] {
        candle_core::bail!("norms of {:?} and {:?} do not go with {cols} columns of {shape:?}", q.dims(), k.dims());
    }
    x.apply_op3(q, k, HeadNorms { shape, eps })
}

struct HeadNorms {
    shape: AttentionShape,
    eps: f32,
}

impl HeadNorms {
    /// Columns of queries, and of keys.
    fn widths(&self) -> (usize, usize) {
        (self.shape.heads * self.shape.head_dim, self.shape.kv_heads * self.shape.head_dim)
    }
}

impl CustomOp3 for HeadNorms {
    fn name(&self) -> &'static str {
        "head-norms"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        q: &CpuStorage,
        ql: &Layout,
        k: &CpuStorage,
        kl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, q, k) = (argument(x, xl)?, argument(q, ql)?, argument(k, kl)?);
        let (queries, keys) = self.widths();
        let cols = queries + 2 * keys;
        let mut y = x.to_vec();
        y.par_chunks_mut(cols).zip(x.par_chunks(cols)).for_each(|(y, x)| {
            forward(&x[..queries], q, self.eps, &mut y[..queries]);
            forward(&x[queries..queries + keys], k, self.eps, &mut y[queries..queries + keys]);
        });
        Ok(result(y, xl.shape()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        q: &Tensor,
        k: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (x_values, q_values, k_values, g) = (values(x)?, values(q)?, values(k)?, values(&grad)?);
        let ((queries, keys), head) = (self.widths(), self.shape.head_dim);
        let cols = queries + 2 * keys;
        let mut dx = g.to_vec();
        let parts: Vec<_> = dx
            .par_chunks_mut(cols)
            .zip(x_values.par_chunks(cols))
            .zip(g.par_chunks(cols))
            .map(|((dx, x), g)| {
                let (mut dq, mut dk) = (vec![0.0; head], vec![0.0; head]);
                let (q_part, k_part) = (0..queries, queries..queries + keys);
                let eps = self.eps;
                backward(&x[q_part.clone()], &q_values, eps, &g[q_part.clone()], &mut dx[q_part], &mut dq);
                backward(&x[k_part.clone()], &k_values, eps, &g[k_part.clone()], &mut dx[k_part], &mut dk);
                (dq, dk)
            })
            .collect();
        let (mut dq, mut dk) = (vec![0.0; head], vec![0.0; head]);
        for (dq_part, dk_part) in parts {
            dq.iter_mut().zip(dq_part).for_each(|(sum, part)| *sum += part);
            dk.iter_mut().zip(dk_part).for_each(|(sum, part)| *sum += part);
        }
        Ok((Some(tensor(dx, x.shape())?), Some(tensor(dq, q.shape())?), Some(tensor(dk, k.shape())?)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::rms_norm;
    use super::super::testing::{check_gradients, random};
    use super::*;

    const SHAPE: AttentionShape = AttentionShape { tokens: 3, heads: 4, kv_heads: 2, head_dim: 6 };

    #[test]
    fn gradients_are_finite_differences() -> Result<()> {
        let inputs = [random((3, 48), 1), random(6, 2), random(6, 3)];
        check_gradients(&inputs, |t| head_norms(&t[0], &t[1], &t[2], SHAPE, 1e-5))
    }

    #[test]
    fn heads_are_normed_and_values_stay() -> Result<()> {
        let (x, q, k) = (random((3, 48), 1), random(6, 2), random(6, 3));
        let y = head_norms(&x, &q, &k, SHAPE, 1e-6)?;
        let apart = |from: usize, heads: usize, weight: &Tensor| -> Result<Vec<f32>> {
            let part = x.narrow(1, from, heads * 6)?.contiguous()?.reshape((3 * heads, 6))?;
            rms_norm(&part, weight, 1e-6, None)?.flatten_all()?.to_vec1()
        };
        let found = |from: usize, len: usize| y.narrow(1, from, len)?.flatten_all()?.to_vec1::<f32>();
        assert_eq!(found(0, 24)?, apart(0, 4, &q)?);
        assert_eq!(found(24, 12)?, apart(24, 2, &k)?);
        assert_eq!(found(36, 12)?, x.narrow(1, 36, 12)?.flatten_all()?.to_vec1::<f32>()?);
        assert!(head_norms(&x, &x, &k, SHAPE, 1e-6).is_err());
        Ok(())
    }
}
