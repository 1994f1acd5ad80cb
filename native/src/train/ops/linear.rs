//! Products with weights `[out, in]`, float or ternary with a straight-through gradient.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;
use sterna_core::formats::half::f16_to_f32;
use sterna_core::ternary::{Granularity, Rule, RuleError};

use super::{ROWS_PER_TASK, random_bits, tensor, values};

/// How far and how weights are made ternary at one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantization {
    /// The rule of the export.
    pub rule: Rule,
    /// From 0, float, to 1, ternary: `w + share * (q - w)`.
    pub share: f32,
    /// Round at random, from this stream, rather than to the nearest.
    pub random: Option<u64>,
}

/// `x W^T` with `x` `[rows, in]` and `weight` `[out, in]`.
///
/// # Errors
/// If shapes do not go together.
pub fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    x.apply_op2(weight, Linear { weight: weight.detach() })
}

/// `x q(W)^T`, where q makes the rows of each part of `weight` ternary by the rule. The gradients are those of a product with
/// the ternary weights, passed on to the float weights as if they had not been rounded. `parts` are the numbers of rows of the
/// matrices that `weight` is stacked from: a rule for whole tensors is applied to each of them.
///
/// # Errors
/// If shapes do not go together, or a weight is not finite.
pub fn ternary_linear(x: &Tensor, weight: &Tensor, parts: &[usize], how: &Quantization) -> Result<Tensor> {
    let (rows, cols) = weight.dims2()?;
    if parts.iter().sum::<usize>() != rows {
        candle_core::bail!("parts of {parts:?} rows do not make up {rows} rows");
    }
    let mut mixed = values(weight)?.to_vec();
    let (mut part, mut first) = (&mut mixed[..], 0);
    for &rows in parts {
        let (this, rest) = part.split_at_mut(rows * cols);
        quantize(this, cols, how, first)?;
        part = rest;
        first += rows * cols;
    }
    x.apply_op2(weight, Linear { weight: tensor(mixed, (rows, cols))? })
}

/// Replaces weights `[rows, cols]` by what the product sees.
fn quantize(weights: &mut [f32], cols: usize, how: &Quantization, first: usize) -> Result<()> {
    let (rule, share) = (how.rule, how.share);
    let group = rule.group(cols).map_err(candle_core::Error::wrap)?;
    // Runs of rows, one task each; a scale for the whole tensor needs all of it.
    let rows = match rule.granularity {
        Granularity::Tensor => weights.len() / cols.max(1),
        _ => ROWS_PER_TASK,
    };
    let scales: Vec<_> = weights
        .par_chunks((rows * cols).max(1))
        .enumerate()
        .map(|(i, weights)| {
            rule.scales(weights, cols).map_err(|error| match error {
                RuleError::NotFinite { row, col } => RuleError::NotFinite { row: i * rows + row, col },
                other => other,
            })
        })
        .collect::<core::result::Result<_, _>>()
        .map_err(candle_core::Error::wrap)?;
    let scales: Vec<_> = scales.concat();
    weights.par_chunks_mut(group).zip(&scales).enumerate().for_each(|(i, (weights, scale))| {
        let size = f16_to_f32(scale.bits);
        match how.random {
            None => {
                for weight in weights {
                    let q = f32::from(rule.method.code(*weight, scale.cut)) * size;
                    *weight = if share == 1.0 { q } else { *weight + share * (q - *weight) };
                }
            }
            Some(stream) => {
                for (j, weight) in weights.iter_mut().enumerate() {
                    let unit = (random_bits(stream, (first + i * group + j) as u32) >> 8) as f32 / 16_777_216.0;
                    let q = f32::from(rule.method.code_at_random(*weight, scale.cut, unit)) * size;
                    *weight += share * (q - *weight);
                }
            }
        }
    });
    Ok(())
}

struct Linear {
    /// What the product sees, `[out, in]`.
    weight: Tensor,
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout, _: &CpuStorage, wl: &Layout) -> Result<(CpuStorage, Shape)> {
        let ((rows, cols), (out, width)) = (xl.shape().dims2()?, wl.shape().dims2()?);
        if cols != width {
            candle_core::bail!("{cols} columns do not go with weights of {width} columns");
        }
        let (storage, layout) = self.weight.storage_and_layout();
        let candle_core::Storage::Cpu(weight) = &*storage else { candle_core::bail!("weights are not on the CPU") };
        let y = x.matmul(weight, (1, rows, out, cols), xl, &layout.transpose(0, 1)?)?;
        Ok((y, (rows, out).into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        // What came from data has no gradient to give.
        let dx = if x.track_op() { Some(grad.matmul(&self.weight)?) } else { None };
        Ok((dx, Some(grad.t()?.matmul(x)?)))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Var;
    use sterna_core::ternary::Method;

    use super::super::testing::{check_gradients, random};
    use super::*;

    fn ternary(rule: Rule) -> Quantization {
        Quantization { rule, share: 1.0, random: None }
    }

    #[test]
    fn gradients_are_finite_differences() -> Result<()> {
        check_gradients(&[random((3, 8), 1), random((5, 8), 2)], |t| linear(&t[0], &t[1]))?;
        // Float: the ternary product at share 0.
        let float = Quantization { share: 0.0, ..ternary(Rule::absmean(4)) };
        check_gradients(&[random((3, 8), 1), random((5, 8), 2)], |t| ternary_linear(&t[0], &t[1], &[5], &float))
    }

    #[test]
    fn ternary_products_are_those_of_codes_and_scales_and_the_gradient_passes_the_rounding() -> Result<()> {
        let (x, w) = (random((3, 8), 1), Var::from_tensor(&random((6, 8), 2))?);
        for granularity in [Granularity::Columns(4), Granularity::Row, Granularity::Tensor] {
            let rule = Rule { method: Method::Absmean, granularity };
            let y = ternary_linear(&x, &w, &[2, 4], &ternary(rule))?;
            let mut expected = Vec::new();
            for part in [w.narrow(0, 0, 2)?, w.narrow(0, 2, 4)?] {
                let part = part.flatten_all()?.to_vec1::<f32>()?;
                let (codes, scales) = rule.quantize(&part, 8).map_err(candle_core::Error::wrap)?;
                let group = part.len() / scales.len();
                expected.extend(
                    codes.iter().enumerate().map(|(i, &c)| (f32::from(c) - 1.0) * f16_to_f32(scales[i / group])),
                );
            }
            let expected = x.matmul(&tensor(expected, (6, 8))?.t()?)?;
            assert!((&y - expected)?.abs()?.max_all()?.to_scalar::<f32>()? < 1e-6);
            let grad = y.sum_all()?.backward()?.remove(&w).unwrap();
            let column_sums = x.sum_keepdim(0)?.broadcast_as((6, 8))?;
            assert!((grad - column_sums)?.abs()?.max_all()?.to_scalar::<f32>()? < 1e-5);
        }
        assert!(ternary_linear(&x, &w, &[2, 3], &ternary(Rule::absmean(4))).is_err());
        assert!(ternary_linear(&x, &w, &[6], &ternary(Rule::absmean(3))).is_err());
        Ok(())
    }

    #[test]
    fn a_share_is_between_float_and_ternary() -> Result<()> {
        let (x, w) = (random((3, 8), 1), random((5, 8), 2));
        let at = |share| ternary_linear(&x, &w, &[5], &Quantization { share, ..ternary(Rule::absmean(4)) });
        let expected = ((linear(&x, &w)? * 0.75)? + (at(1.0)? * 0.25)?)?;
        assert!((at(0.25)? - expected)?.abs()?.max_all()?.to_scalar::<f32>()? < 1e-6);
        assert!((at(0.0)? - linear(&x, &w)?)?.abs()?.max_all()?.to_scalar::<f32>()? == 0.0);
        Ok(())
    }

    #[test]
    fn random_rounding_is_a_function_of_its_stream() -> Result<()> {
        let (x, w) = (random((1, 64), 1), random((8, 64), 2));
        let at = |stream| -> Result<Vec<f32>> {
            let how = Quantization { random: Some(stream), ..ternary(Rule::absmean(64)) };
            ternary_linear(&x, &w, &[8], &how)?.flatten_all()?.to_vec1()
        };
        assert_eq!(at(5)?, at(5)?);
        assert_ne!(at(5)?, at(6)?);
        Ok(())
    }
}
