//! Biases of linear layers.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{ROWS_PER_TASK, argument, result, tensor, values};

/// `x + bias` with `x` `[rows, cols]` and `bias` `[cols]`.
///
/// # Errors
/// If shapes do not go together.
pub fn add_bias(x: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let (_, cols) = x.dims2()?;
    if bias.dims() != [cols] {
        candle_core::bail!("a bias of {:?} does not go with {cols} columns", bias.dims());
    }
    x.apply_op2(bias, AddBias)
}

struct AddBias;

impl CustomOp2 for AddBias {
    fn name(&self) -> &'static str {
        "add-bias"
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout, b: &CpuStorage, bl: &Layout) -> Result<(CpuStorage, Shape)> {
        let (mut y, bias) = (argument(x, xl)?.to_vec(), argument(b, bl)?);
        y.par_chunks_mut(bias.len() * ROWS_PER_TASK).for_each(|rows| {
            for row in rows.chunks_exact_mut(bias.len()) {
                row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
            }
        });
        Ok(result(y, xl.shape()))
    }

    fn bwd(&self, _: &Tensor, b: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (g, cols) = (values(&grad)?, b.elem_count());
        let sums = |rows: &[f32]| {
            let mut sums = vec![0.0; cols];
            for row in rows.chunks_exact(cols) {
                sums.iter_mut().zip(row).for_each(|(sum, g)| *sum += g);
            }
            sums
        };
        let parts: Vec<_> = g.par_chunks(cols * ROWS_PER_TASK).map(sums).collect();
        let mut db = vec![0.0; cols];
        for part in parts {
            db.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
        }
        let db = tensor(db, b.shape())?;
        drop(g);
        Ok((Some(grad), Some(db)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_gradients, random};
    use super::*;

    #[test]
    fn gradients_are_finite_differences() -> Result<()> {
        check_gradients(&[random((37, 5), 1), random(5, 2)], |t| add_bias(&t[0], &t[1]))?;
        let y = add_bias(&tensor(vec![1.0, 2.0, 3.0, 4.0], (2, 2))?, &tensor(vec![10.0, 20.0], 2)?)?;
        assert_eq!(y.to_vec2::<f32>()?, [[11.0, 22.0], [13.0, 24.0]]);
        assert!(add_bias(&random((3, 4), 1), &random(5, 2)).is_err());
        Ok(())
    }
}
