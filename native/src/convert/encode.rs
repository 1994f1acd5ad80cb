//! One tensor from rows of f32 to a format's bytes, on all cores, with what is to be told about it.
//!
//! Weights that are ternary already are found by looking: in every group there are at most a zero and one magnitude (and, where the
//! format holds it, twice that magnitude). They keep their codes; a rule is asked for the others only.
//!
//! Not here: the rules and the blocks (`sterna_core::ternary`), and which tensor gets which format (`mod.rs`).

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use rayon::prelude::*;
use serde::Serialize;
use sterna_core::formats::half::{f16_is_bad, f16_to_f32, f32_to_f16};
use sterna_core::formats::{Codes, Format};
use sterna_core::ternary::{Granularity, Method, RowEncoder, Rule, Scale, mean_magnitude};

use super::weights::Tensor;
use crate::checkpoint::family::rounded;
use crate::checkpoint::safetensors::Dtype;

/// Elements that a task works on.
const TASK: usize = 1 << 17;

/// How true a tensor is to its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fidelity {
    /// The source's bytes, or all of its values.
    Exact,
    /// Ternary in the source: every code is kept, scales are rounded to the f16 that the format holds.
    Codes,
    /// Rounded as the model itself rounds its weights whenever it runs.
    Trained,
    /// Rounded to a float format.
    Float,
    /// Rounded by a rule.
    Rule,
}

impl Fidelity {
    /// Whether the model is the one that it was.
    pub fn is_lossless(self) -> bool {
        !matches!(self, Self::Rule)
    }
}

/// What is summed over a tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    /// Weights that became zero.
    pub zeros: u64,
    /// Squares of the differences to the source.
    pub error: f64,
    /// Squares of the source.
    pub norm: f64,
}

impl Sums {
    /// Adds another part's.
    pub fn add(&mut self, other: &Self) {
        self.zeros += other.zeros;
        self.error += other.error;
        self.norm += other.norm;
    }

    /// Whether all of `elements` weights became zero though not all of them were.
    pub fn vanished(&self, elements: u64) -> bool {
        self.zeros == elements && self.norm > 0.0
    }

    /// The root of the summed squares of errors, relative to that of the source.
    pub fn relative_error(&self) -> f64 {
        if self.norm == 0.0 { 0.0 } else { (self.error / self.norm).sqrt() }
    }

    /// Of weights and of what is stored in their place.
    pub fn of(source: &[f32], stored: &[f32]) -> Self {
        let mut sums = Self::default();
        // In f32 within short runs, so that it vectorizes.
        for (source, stored) in source.chunks(1024).zip(stored.chunks(1024)) {
            let (mut error, mut norm, mut zeros) = ([0.0f32; 16], [0.0f32; 16], [0u32; 16]);
            let (a, a_rest) = source.as_chunks::<16>();
            let (b, b_rest) = stored.as_chunks::<16>();
            for (a, b) in a.iter().zip(b) {
                for j in 0..16 {
                    error[j] += (a[j] - b[j]) * (a[j] - b[j]);
                    norm[j] += a[j] * a[j];
                    zeros[j] += u32::from(b[j] == 0.0);
                }
            }
            for (a, b) in a_rest.iter().zip(b_rest) {
                error[0] += (a - b) * (a - b);
                norm[0] += a * a;
                zeros[0] += u32::from(*b == 0.0);
            }
            let total = |lanes: &[f32; 16]| lanes.iter().map(|&x| f64::from(x)).sum::<f64>();
            let (error, norm) = (total(&error), total(&norm));
            // Squares of small values vanish in an f32, those of large ones are infinite: then once more in f64.
            let (error, norm) = if SQUARES.contains(&norm) { (error, norm) } else { squares(source, stored) };
            sums.error += error;
            sums.norm += norm;
            sums.zeros += zeros.iter().map(|&n| u64::from(n)).sum::<u64>();
        }
        sums
    }
}

/// Sums of squares of a short run that are exact enough in f32.
const SQUARES: std::ops::Range<f64> = 1e-20..1e30;

/// Squares of the differences and of the source, in f64.
fn squares(source: &[f32], stored: &[f32]) -> (f64, f64) {
    let square = |x: f64| x * x;
    let pairs = source.iter().zip(stored).map(|(&a, &b)| (f64::from(a), f64::from(b)));
    pairs.fold((0.0, 0.0), |(error, norm), (a, b)| (error + square(a - b), norm + square(a)))
}

/// A tensor's bytes.
pub struct Encoded {
    /// In its format.
    pub bytes: Vec<u8>,
    /// What is summed over it.
    pub sums: Sums,
    /// How true it is.
    pub fidelity: Fidelity,
}

/// Says whether to stop.
pub type Stop<'a> = &'a (dyn Fn() -> bool + Sync);

/// Encodes in a float format, or another with a quantizer of its own. Masters become what the model makes of them whenever it
/// runs, unless a rule was `chosen`.
///
/// # Errors
/// Values that the format cannot hold, by the tensor's name.
pub fn plain(tensor: &Tensor<'_>, format: Format, chosen: bool, stop: Stop<'_>) -> Result<Encoded> {
    if let Some(bytes) = tensor.blocks_of(format) {
        let size = size(tensor, format)?;
        let bytes = bytes.get(..size).with_context(|| format!("{} is cut short", tensor.place))?.to_vec();
        return Ok(Encoded { bytes, sums: Sums::default(), fidelity: Fidelity::Exact });
    }
    let trained = match &tensor.trained {
        Some((rule, dtype)) if !chosen => Some((rule.method, trained_scale(tensor, dtype, stop)?)),
        _ => None,
    };
    let (bytes, sums) = by_rows(tensor, format, &Dtype::F32, stop, |weights, out, stored| {
        let start = out.len();
        match trained {
            None => format.quantize(weights, out)?,
            Some((method, scale)) => {
                let size = f16_to_f32(scale.bits);
                let value = |&weight: &f32| f32::from(method.code(weight, scale.cut)) * size;
                format.quantize(&weights.iter().map(value).collect::<Vec<f32>>(), out)?;
            }
        }
        Ok(format.dequantize(&out[start..], stored)?)
    })?;
    let fidelity = match trained {
        Some(_) => Fidelity::Trained,
        None if sums.error == 0.0 => Fidelity::Exact,
        None => Fidelity::Float,
    };
    Ok(Encoded { bytes, sums, fidelity })
}

/// How a tensor becomes ternary.
#[derive(Clone, Copy)]
pub struct Rounding<'a> {
    /// The format.
    pub format: Format,
    /// The rule for weights that are not ternary yet.
    pub rule: Rule,
    /// The rule was asked for by name: it goes before the one that the model was trained with.
    pub chosen: bool,
    /// The type to which weights are rounded first.
    pub buffer: &'a Dtype,
    /// No rule is to be applied.
    pub lossless: bool,
    /// How much an error in each column counts, `[cols]`, where that is known.
    pub importance: Option<&'a [f32]>,
}

/// Encodes in a ternary format: exactly where the weights are ternary already, as the model was trained where it says so, else by
/// the rule.
///
/// # Errors
/// Weights that are not finite; where no rule is to be applied, weights that are not ternary.
pub fn ternary(tensor: &Tensor<'_>, how: &Rounding<'_>, stop: Stop<'_>) -> Result<Encoded> {
    let Rounding { format, rule, chosen, buffer, lossless, importance } = *how;
    if let Some(bytes) = tensor.blocks_of(format) {
        let size = size(tensor, format)?;
        let bytes = bytes.get(..size).with_context(|| format!("{} is cut short", tensor.place))?.to_vec();
        let mut sums = Sums::default();
        let mut values = vec![0.0; tensor.cols];
        for row in 0..tensor.rows {
            tensor.read(row, &mut values)?;
            sums.add(&Sums::of(&values, &values));
        }
        return Ok(Encoded { bytes, sums, fidelity: Fidelity::Exact });
    }
    if let Some(levels) = detect(tensor, format, stop)? {
        return keep(tensor, format, levels, stop);
    }
    match &tensor.trained {
        Some((trained, dtype)) if !chosen => {
            let scale = trained_scale(tensor, dtype, stop)?;
            by_scales(tensor, &Rounding { rule: *trained, ..*how }, Some(scale), Fidelity::Trained, stop)
        }
        _ if lossless => bail!(
            "{} is not ternary{}; --require-lossless allows no rounding. Leave it in float with --keep, or leave the flag out",
            tensor.place,
            match format.group() {
                Some(group) => format!(" in groups of {group}, as {} needs it", format.name()),
                None => " with one scale".into(),
            }
        ),
        _ => {
            let scale = match rule.granularity {
                Granularity::Tensor => {
                    let weights = all(tensor, buffer, stop)?;
                    let scale = match importance {
                        Some(importance) => rule.method.weighted_scale(&weights, importance),
                        None => rule.method.scale(&weights),
                    };
                    Some(scale.with_context(|| {
                        format!("{}: a weight is NaN or infinite, or too large for an f16 scale", tensor.place)
                    })?)
                }
                _ => None,
            };
            by_scales(tensor, how, scale, Fidelity::Rule, stop)
        }
    }
}

/// The scale of BitNet's rule on a whole matrix, rounded to the type that the model computes in. The cut is that of the unrounded
/// mean, as in the model's own code.
fn trained_scale(tensor: &Tensor<'_>, dtype: &Dtype, stop: Stop<'_>) -> Result<Scale> {
    let mean = mean_magnitude(&all(tensor, &Dtype::F32, stop)?).max(1e-5);
    let bits = f32_to_f16(rounded(mean, dtype));
    if !mean.is_finite() || f16_is_bad(bits) {
        bail!("{}: a weight is NaN or infinite, or too large for an f16 scale", tensor.place);
    }
    Ok(Scale { bits, cut: 0.5 * mean })
}

fn size(tensor: &Tensor<'_>, format: Format) -> Result<usize> {
    let bytes = format.tensor_bytes(tensor.rows as u64, tensor.cols as u64);
    bytes
        .and_then(|bytes| usize::try_from(bytes).ok())
        .with_context(|| format!("{}: rows of {} are not whole blocks of {}", tensor.place, tensor.cols, format.name()))
}

/// All values, rounded to the buffer's type; the source's pages are let go.
fn all(tensor: &Tensor<'_>, buffer: &Dtype, stop: Stop<'_>) -> Result<Vec<f32>> {
    let mut values = vec![0.0; tensor.elements()];
    let rows = (TASK / tensor.cols).max(1);
    values.par_chunks_mut(rows * tensor.cols).enumerate().try_for_each(|(i, values)| {
        check(stop)?;
        tensor.read(i * rows, values)?;
        values.iter_mut().for_each(|value| *value = rounded(*value, buffer));
        anyhow::Ok(())
    })?;
    tensor.release();
    Ok(values)
}

fn check(stop: Stop<'_>) -> Result<()> {
    if stop() { Err(super::interrupted()) } else { Ok(()) }
}

/// Encodes rows by a rule; `one` is the scale of the whole tensor where it has one.
fn by_scales(
    tensor: &Tensor<'_>,
    how: &Rounding<'_>,
    one: Option<Scale>,
    fidelity: Fidelity,
    stop: Stop<'_>,
) -> Result<Encoded> {
    let Rounding { format, rule, buffer, importance, .. } = *how;
    let (cols, group) = (tensor.cols, rule.columns(tensor.cols));
    let encoder = RowEncoder::new(format, cols, group, rule.method == Method::Sign);
    let (mut bytes, sums) = by_rows(tensor, format, buffer, stop, |weights, out, stored| {
        let mut codes = Vec::with_capacity(encoder.padded());
        for (weights, stored) in weights.chunks_exact(cols).zip(stored.chunks_exact_mut(cols)) {
            let scales = match (one, importance) {
                (Some(scale), _) => vec![scale],
                (None, Some(importance)) => rule.weighted_scales(weights, cols, importance)?,
                (None, None) => rule.scales(weights, cols)?,
            };
            codes.clear();
            rule.codes(weights, cols, &scales, &mut codes);
            for (scale, (codes, stored)) in scales.iter().zip(codes.chunks(group).zip(stored.chunks_mut(group))) {
                let size = f16_to_f32(scale.bits);
                stored.iter_mut().zip(codes).for_each(|(stored, &code)| *stored = (f32::from(code) - 1.0) * size);
            }
            let bits: Vec<u16> = scales.iter().map(|scale| scale.bits).collect();
            encoder.row(&mut codes, &bits, out)?;
        }
        Ok(())
    })?;
    if format == Format::I2_S {
        format.encode_tensor_scale(one.map_or(0.0, |scale| f16_to_f32(scale.bits)), &mut bytes)?;
    }
    Ok(Encoded { bytes, sums, fidelity })
}

/// Runs `encode` on runs of rows: weights, the bytes to append to, and the values that were stored, `[n, cols]`.
fn by_rows(
    tensor: &Tensor<'_>,
    format: Format,
    buffer: &Dtype,
    stop: Stop<'_>,
    encode: impl Fn(&[f32], &mut Vec<u8>, &mut [f32]) -> Result<()> + Sync,
) -> Result<(Vec<u8>, Sums)> {
    let cols = tensor.cols.max(1);
    let total = size(tensor, format)? - format.tail_bytes();
    let row_bytes = total / tensor.rows.max(1);
    let rows = (TASK / cols).max(1);
    let mut bytes = Vec::with_capacity(total + format.tail_bytes());
    bytes.resize(total, 0);
    let work = |(i, part): (usize, &mut [u8])| -> Result<Sums> {
        check(stop)?;
        let n = part.len() / row_bytes;
        let (mut weights, mut stored) = (vec![0.0; n * cols], vec![0.0; n * cols]);
        tensor.read(i * rows, &mut weights)?;
        // A sum of products with zero is NaN where one of them is.
        if weights.iter().map(|weight| weight * 0.0).sum::<f32>() != 0.0 {
            let at = weights.iter().position(|weight| !weight.is_finite()).unwrap_or(0);
            bail!("{}: element {} is {}; the checkpoint is damaged", tensor.place, i * rows * cols + at, weights[at]);
        }
        if *buffer != Dtype::F32 {
            weights.iter_mut().for_each(|weight| *weight = rounded(*weight, buffer));
        }
        let mut out = Vec::with_capacity(part.len());
        encode(&weights, &mut out, &mut stored)
            .with_context(|| format!("{}, rows {} to {}", tensor.place, i * rows, i * rows + n - 1))?;
        if out.len() != part.len() {
            bail!("{}: {} bytes were encoded where {} belong", tensor.place, out.len(), part.len());
        }
        part.copy_from_slice(&out);
        Ok(Sums::of(&weights, &stored))
    };
    // Added in the order of rows, so that sums do not depend on threads.
    let parts: Vec<Sums> = bytes.par_chunks_mut(rows * row_bytes).enumerate().map(work).collect::<Result<_>>()?;
    let mut sums = Sums::default();
    parts.iter().for_each(|part| sums.add(part));
    Ok((bytes, sums))
}

/// What was found of a tensor that is ternary already.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Levels {
    /// One magnitude in all of it; 0 if there are zeros only.
    Tensor(f32),
    /// One magnitude in each group.
    Groups,
}

/// The magnitude of weights that are -s, 0 and s (and 2s where `twice`), 0 for zeros; `None` if they are anything else, or s is not
/// a scale that f16 holds.
fn magnitude(weights: &[f32], twice: bool) -> Option<f32> {
    let mut scale = f32::INFINITY;
    for &weight in weights {
        let size = weight.abs();
        if size != 0.0 {
            scale = scale.min(size);
        }
        if weight.is_nan() {
            return None;
        }
    }
    if scale == f32::INFINITY {
        return weights.iter().all(|&weight| weight == 0.0).then_some(0.0);
    }
    let held = |&weight: &f32| weight == 0.0 || weight.abs() == scale || twice && weight == 2.0 * scale;
    weights.iter().all(held).then_some(scale)
}

/// Whether a tensor is ternary in the groups of a format.
fn detect(tensor: &Tensor<'_>, format: Format, stop: Stop<'_>) -> Result<Option<Levels>> {
    let (cols, group) = (tensor.cols, format.group().unwrap_or(tensor.cols));
    let twice = format.codes() == Some(Codes::TwoBits);
    let signs = format.codes() == Some(Codes::Signs);
    let rows = (TASK / cols).max(1);
    let failed = AtomicBool::new(false);
    let look = |first: usize, n: usize| -> Result<Option<Levels>> {
        check(stop)?;
        let mut weights = vec![0.0; n * cols];
        tensor.read(first, &mut weights)?;
        let mut all = Some(0.0f32);
        for weights in weights.chunks(group) {
            let fits = |scale: &f32| {
                let back = f16_to_f32(f32_to_f16(*scale));
                // An I2_S scale is an f32.
                format == Format::I2_S || *scale == 0.0 || (back / scale - 1.0).abs() < 1e-3
            };
            let found = magnitude(weights, twice).filter(fits);
            let Some(found) = found.filter(|_| !signs || weights.iter().all(|&weight| weight != 0.0)) else {
                failed.store(true, Ordering::Relaxed);
                return Ok(None);
            };
            all = joined(all, Some(found));
        }
        Ok(Some(all.map_or(Levels::Groups, Levels::Tensor)))
    };
    // Float weights show it in their first row.
    if look(0, 1)?.is_none() {
        return Ok(None);
    }
    let starts: Vec<usize> = (0..tensor.rows).step_by(rows).collect();
    let parts: Vec<Option<Levels>> = starts
        .par_iter()
        .map(
            |&first| if failed.load(Ordering::Relaxed) { Ok(None) } else { look(first, rows.min(tensor.rows - first)) },
        )
        .collect::<Result<_>>()?;
    let mut all = Some(0.0f32);
    for part in parts {
        match part {
            None => return Ok(None),
            Some(Levels::Groups) => all = None,
            Some(Levels::Tensor(scale)) => all = joined(all, Some(scale)),
        }
    }
    let levels = all.map_or(Levels::Groups, Levels::Tensor);
    Ok(if format == Format::I2_S && levels == Levels::Groups { None } else { Some(levels) })
}

/// The magnitude that two parts have in common; zero goes with any.
fn joined(a: Option<f32>, b: Option<f32>) -> Option<f32> {
    match (a?, b?) {
        (0.0, b) => Some(b),
        (a, 0.0) => Some(a),
        (a, b) => (a == b).then_some(a),
    }
}

/// Encodes weights that are ternary, with all of their codes.
fn keep(tensor: &Tensor<'_>, format: Format, levels: Levels, stop: Stop<'_>) -> Result<Encoded> {
    let cols = tensor.cols;
    let group = format.group().unwrap_or(cols);
    let twice = format.codes() == Some(Codes::TwoBits);
    let encoder = RowEncoder::new(format, cols, group, format == Format::Q1_0);
    let f32_scale = format == Format::I2_S;
    let (mut bytes, sums) = by_rows(tensor, format, &Dtype::F32, stop, |weights, out, stored| {
        let mut codes = Vec::with_capacity(cols);
        for (weights, stored) in weights.chunks_exact(cols).zip(stored.chunks_exact_mut(cols)) {
            let sizes = weights.chunks(group).map(|weights| magnitude(weights, twice));
            let mut sizes: Vec<f32> = sizes.collect::<Option<_>>().context("weights changed while they were read")?;
            // Groups of zeros take the scale of the others, so that a row with one scale stays one.
            let fill = match levels {
                Levels::Tensor(scale) => Some(scale),
                Levels::Groups => sizes.iter().try_fold(0.0, |all, &size| joined(Some(all), Some(size))),
            };
            sizes.iter_mut().filter(|size| **size == 0.0).for_each(|size| *size = fill.unwrap_or(0.0));
            codes.clear();
            for (size, (weights, stored)) in sizes.iter().zip(weights.chunks(group).zip(stored.chunks_mut(group))) {
                let held = if f32_scale { *size } else { f16_to_f32(f32_to_f16(*size)) };
                for (&weight, stored) in weights.iter().zip(stored) {
                    let code = match weight {
                        0.0 => 0i8,
                        _ if weight.abs() == *size => {
                            if weight < 0.0 {
                                -1
                            } else {
                                1
                            }
                        }
                        _ => 2,
                    };
                    codes.push((code + 1) as u8);
                    *stored = f32::from(code) * held;
                }
            }
            let bits: Vec<u16> = sizes.iter().map(|&size| f32_to_f16(size)).collect();
            encoder.row(&mut codes, &bits, out)?;
        }
        Ok(())
    })?;
    if let (true, Levels::Tensor(scale)) = (f32_scale, levels) {
        format.encode_tensor_scale(scale, &mut bytes)?;
    }
    let fidelity = if sums.error == 0.0 { Fidelity::Exact } else { Fidelity::Codes };
    Ok(Encoded { bytes, sums, fidelity })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ternary_groups_are_told_from_others() {
        assert_eq!(magnitude(&[0.5, 0.0, -0.5], false), Some(0.5));
        assert_eq!(magnitude(&[0.0, -0.0], false), Some(0.0));
        assert_eq!(magnitude(&[0.5, 1.0, 0.0], true), Some(0.5));
        assert_eq!(magnitude(&[0.5, 1.0], false), None);
        assert_eq!(magnitude(&[0.5, -1.0], true), None);
        assert_eq!(magnitude(&[0.5, 0.51], true), None);
        for bad in [f32::NAN, f32::INFINITY] {
            assert_eq!(magnitude(&[bad, 0.0, 1.0], true), None);
        }
        assert_eq!(joined(Some(0.0), Some(2.0)), Some(2.0));
        assert_eq!(joined(Some(1.0), Some(2.0)), None);
    }

    #[test]
    fn sums_of_tiny_and_of_huge_weights_are_true() {
        for size in [1e-30f32, 1e-24, 1e-20, 1e-10, 1.0, 1e20, 1e30] {
            let source: Vec<f32> = (0..2000).map(|i| if i % 2 == 0 { size } else { -size }).collect();
            let nothing = Sums::of(&source, &vec![0.0; 2000]);
            assert!((nothing.relative_error() - 1.0).abs() < 1e-5, "{size}: {}", nothing.relative_error());
            assert!(nothing.vanished(2000) && !Sums::of(&source, &source).vanished(2000));
            let half: Vec<f32> = source.iter().map(|x| x * 0.5).collect();
            let error = Sums::of(&source, &half).relative_error();
            assert!((error - 0.5).abs() < 1e-5, "{size}: {error}");
        }
        assert!(!Sums::of(&[0.0; 4], &[0.0; 4]).vanished(4));
    }

    #[test]
    fn sums_are_those_of_plain_loops() {
        let a: Vec<f32> = (0..3001).map(|i| (i % 7) as f32 - 3.0).collect();
        let b: Vec<f32> = a.iter().map(|x| if x.abs() < 1.5 { 0.0 } else { x.signum() }).collect();
        let sums = Sums::of(&a, &b);
        let error: f32 = a.iter().zip(&b).map(|(a, b)| (a - b) * (a - b)).sum();
        assert_eq!((sums.error, sums.zeros), (f64::from(error), b.iter().filter(|b| **b == 0.0).count() as u64));
    }
}
