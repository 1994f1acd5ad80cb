//! The rules by which float weights become codes and scales. Conversion and training use these and no others.
//!
//! A rule looks at the weights that share a scale (a group of columns, a row, or the whole tensor) and gives two numbers: the
//! scale, already rounded to the f16 that files hold, and the cut: weights whose magnitude is above it become -1 or +1, the
//! others 0. What training simulates is therefore exactly what a file holds.
//!
//! Not here: file formats, which take codes and scales as they are (`formats`).

use core::fmt;
use core::str::FromStr;

use thiserror::Error;

use crate::formats::half::{f16_is_bad, f16_to_f32, f32_to_f16};

/// How a scale and a cut follow from weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    /// BitNet b1.58's (arXiv:2402.17764): the scale is the mean magnitude, codes are `round(w / scale)` held to -1..1, so the cut
    /// is half the scale.
    Absmean,
    /// The cut is this share of the group's largest magnitude; the scale is the mean magnitude of the weights above it, which
    /// is the least-squares scale for these codes (Ternary Weight Networks, arXiv:1605.04711). Relative, so that it does not
    /// depend on how large weights are; 0.45 is [`Method::DEFAULT_THRESHOLD`].
    Threshold(f32),
    /// The cut is 0.7 of the mean magnitude, the scale the mean magnitude of the weights above it (Ternary Weight Networks,
    /// equation 6, where weights are taken to be normally distributed).
    Twn,
    /// From [`Method::Twn`] on, codes and scale by turns: the codes that are nearest for the scale (so the cut is half of it), then
    /// the least-squares scale for these codes, until neither changes. The error never grows on the way.
    Search,
    /// One bit: codes are signs, zero counting as positive; the scale is the mean magnitude (XNOR-Net, arXiv:1603.05279).
    Sign,
}

/// Which weights share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granularity {
    /// So many consecutive columns of a row.
    Columns(usize),
    /// A row.
    Row,
    /// The whole matrix.
    Tensor,
}

/// A method and what it is applied to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// How a scale and a cut follow from weights.
    pub method: Method,
    /// Which weights share a scale.
    pub granularity: Granularity,
}

/// What a rule found for weights that share a scale.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// f16 bits.
    pub bits: u16,
    /// Magnitudes above this have a code other than 0.
    pub cut: f32,
}

/// Why weights cannot be quantized, or a rule cannot be read.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum RuleError {
    /// Groups must fill rows.
    #[error(
        "rows of {cols} columns cannot be cut into groups of {group}; choose a group that divides {cols}, or `row`"
    )]
    Group {
        /// Columns of the matrix.
        cols: usize,
        /// Columns of a group.
        group: usize,
    },
    /// A weight is NaN or infinite, or so large that an f16 cannot hold the scale.
    #[error("a weight is NaN or infinite, or too large for an f16 scale (65504), in row {row} from column {col} on")]
    NotFinite {
        /// Row of the group.
        row: usize,
        /// First column of the group.
        col: usize,
    },
    /// Not a rule's name.
    #[error("`{text}` is no {what}; known: {known}")]
    Unknown {
        /// What was given.
        text: String,
        /// What it should name.
        what: &'static str,
        /// What can be given.
        known: &'static str,
    },
}

impl Method {
    /// The cut of [`Method::Threshold`] where none is named.
    pub const DEFAULT_THRESHOLD: f32 = 0.45;
}

impl Rule {
    /// BitNet's rule on groups of columns.
    pub const fn absmean(group: usize) -> Self {
        Self { method: Method::Absmean, granularity: Granularity::Columns(group) }
    }

    /// Columns that share a scale within a row of `cols`.
    ///
    /// # Errors
    /// [`RuleError::Group`] if groups do not fill the row.
    pub fn group(&self, cols: usize) -> Result<usize, RuleError> {
        match self.granularity {
            Granularity::Columns(group) if group == 0 || !cols.is_multiple_of(group) => {
                Err(RuleError::Group { cols, group })
            }
            Granularity::Columns(group) => Ok(group),
            Granularity::Row | Granularity::Tensor => Ok(cols),
        }
    }

    /// As [`group`](Self::group), but the last group of a row may be shorter: what a row is padded with shares its scale.
    pub fn columns(&self, cols: usize) -> usize {
        match self.granularity {
            Granularity::Columns(group) => group.clamp(1, cols.max(1)),
            Granularity::Row | Granularity::Tensor => cols.max(1),
        }
    }

    /// The scales of a matrix `[rows, cols]`, one for each [`columns`](Self::columns) of each row; where the whole tensor has one,
    /// it stands for each row.
    ///
    /// # Errors
    /// [`RuleError::NotFinite`].
    pub fn scales(&self, weights: &[f32], cols: usize) -> Result<Vec<Scale>, RuleError> {
        let group = self.columns(cols);
        if self.granularity == Granularity::Tensor {
            let scale = self.method.scale(weights).ok_or(RuleError::NotFinite { row: 0, col: 0 })?;
            return Ok(vec![scale; weights.len() / cols.max(1)]);
        }
        let mut scales = Vec::with_capacity(weights.len().div_ceil(group));
        for (row, weights) in weights.chunks_exact(cols.max(1)).enumerate() {
            for (i, weights) in weights.chunks(group).enumerate() {
                let scale = self.method.scale(weights);
                scales.push(scale.ok_or(RuleError::NotFinite { row, col: i * group })?);
            }
        }
        Ok(scales)
    }

    /// As [`scales`](Self::scales), with how much an error in each column counts, `[cols]`: for the output of a product, the mean
    /// square of the activations that the column meets. Only [`Method::Search`] looks at it.
    ///
    /// # Errors
    /// [`RuleError::NotFinite`].
    pub fn weighted_scales(&self, weights: &[f32], cols: usize, importance: &[f32]) -> Result<Vec<Scale>, RuleError> {
        let group = self.columns(cols);
        if self.granularity == Granularity::Tensor {
            let scale = self.method.weighted_scale(weights, importance);
            return Ok(vec![scale.ok_or(RuleError::NotFinite { row: 0, col: 0 })?; weights.len() / cols.max(1)]);
        }
        let mut scales = Vec::with_capacity(weights.len().div_ceil(group));
        for (row, weights) in weights.chunks_exact(cols.max(1)).enumerate() {
            for (i, (weights, importance)) in weights.chunks(group).zip(importance.chunks(group)).enumerate() {
                let scale = self.method.weighted_scale(weights, importance);
                scales.push(scale.ok_or(RuleError::NotFinite { row, col: i * group })?);
            }
        }
        Ok(scales)
    }

    /// Codes (value + 1) and scales (f16 bits) of a matrix `[rows, cols]`, groups as in [`scales`](Self::scales).
    ///
    /// # Errors
    /// [`RuleError::NotFinite`].
    pub fn quantize(&self, weights: &[f32], cols: usize) -> Result<(Vec<u8>, Vec<u16>), RuleError> {
        let scales = self.scales(weights, cols)?;
        let mut codes = Vec::with_capacity(weights.len());
        self.codes(weights, cols, &scales, &mut codes);
        Ok((codes, scales.iter().map(|scale| scale.bits).collect()))
    }

    /// Appends the codes (value + 1) of rows of `cols` weights, given their scales.
    pub fn codes(&self, weights: &[f32], cols: usize, scales: &[Scale], codes: &mut Vec<u8>) {
        let mut scales = scales.iter();
        for row in weights.chunks_exact(cols.max(1)) {
            for (weights, scale) in row.chunks(self.columns(cols)).zip(&mut scales) {
                codes.extend(weights.iter().map(|&weight| (self.method.code(weight, scale.cut) + 1) as u8));
            }
        }
    }
}

impl Method {
    /// The scale and cut of weights that share them; `None` if they are not finite or the scale is beyond f16.
    pub fn scale(self, weights: &[f32]) -> Option<Scale> {
        let cut = match self {
            Self::Absmean | Self::Sign => f32::NEG_INFINITY,
            Self::Threshold(share) => share * max(weights),
            Self::Twn | Self::Search => TWN_SHARE * mean_above(weights, f32::NEG_INFINITY),
        };
        let mut scale = scale_above(weights, cut)?;
        match self {
            Self::Absmean => scale.cut = scale.half(),
            Self::Search => return search(scale, |cut| scale_above(weights, cut)),
            Self::Threshold(_) | Self::Twn | Self::Sign => {}
        }
        Some(scale)
    }

    /// As [`scale`](Self::scale); for [`Method::Search`] the squared error of each weight counts as much as its column's
    /// `importance`, which is repeated where there are several rows of weights. Which code is nearest does not depend on that, the
    /// best scale does.
    pub fn weighted_scale(self, weights: &[f32], importance: &[f32]) -> Option<Scale> {
        let scale = self.scale(weights)?;
        match self {
            Self::Search => search(scale, |cut| {
                let mean = weighted_mean_above(weights, importance, cut);
                let bits = f32_to_f16(mean);
                (mean.is_finite() && !f16_is_bad(bits)).then_some(Scale { bits, cut })
            }),
            _ => Some(scale),
        }
    }

    /// The value -1, 0 or 1 of a weight.
    #[inline(always)]
    pub fn code(self, weight: f32, cut: f32) -> i8 {
        let sign = if weight < 0.0 { -1 } else { 1 };
        if weight.abs() > cut { sign } else { 0 }
    }

    /// The value of a weight rounded at random: nonzero with a probability that grows evenly from 0 at zero to 1 at twice the
    /// cut, so one half where [`Method::code`] switches. `unit` is drawn from [0, 1). With [`Method::Absmean`] the mean is the
    /// weight itself, as far as it is within the scale.
    #[inline(always)]
    pub fn code_at_random(self, weight: f32, cut: f32, unit: f32) -> i8 {
        let sign = if weight < 0.0 { -1 } else { 1 };
        if weight.abs() > 2.0 * cut * unit { sign } else { 0 }
    }
}

/// The share of the mean magnitude below which [`Method::Twn`] makes weights zero.
const TWN_SHARE: f32 = 0.7;
/// Turns after which [`Method::Search`] stops; from where it begins, groups of weights settle within ten.
const SEARCH_ROUNDS: usize = 30;

impl Scale {
    /// The cut at which codes are the nearest for the scale.
    fn half(self) -> f32 {
        0.5 * f16_to_f32(self.bits)
    }
}

/// From a scale on, the nearest codes and the best scale for them by turns. A scale that comes back is one of a cycle between
/// equals, made by rounding to f16.
fn search(mut scale: Scale, best: impl Fn(f32) -> Option<Scale>) -> Option<Scale> {
    for _ in 0..SEARCH_ROUNDS {
        let next = best(scale.half())?;
        let settled = next.bits == scale.bits;
        scale = next;
        if settled {
            break;
        }
    }
    Some(scale)
}

/// The least-squares scale where weights above `cut` are not zero.
fn scale_above(weights: &[f32], cut: f32) -> Option<Scale> {
    let mean = mean_above(weights, cut);
    let bits = f32_to_f16(mean);
    (mean.is_finite() && !f16_is_bad(bits)).then_some(Scale { bits, cut })
}

/// The mean magnitude of the weights whose magnitude is above `cut`, 0 if there are none. In sixteen lanes and rows of 4096, so
/// that it vectorizes, and sums of whole tensors stay exact enough.
#[allow(clippy::neg_cmp_op_on_partial_ord, reason = "a NaN must be counted, so that it reaches the mean")]
fn mean_above(weights: &[f32], cut: f32) -> f32 {
    let (mut sum, mut count) = (0.0f64, 0u64);
    for weights in weights.chunks(4096) {
        let (mut sums, mut counts) = ([0.0f32; 16], [0u32; 16]);
        let (chunks, rest) = weights.as_chunks::<16>();
        for chunk in chunks {
            for j in 0..16 {
                let magnitude = chunk[j].abs();
                let above = !(magnitude <= cut);
                sums[j] += if above { magnitude } else { 0.0 };
                counts[j] += u32::from(above);
            }
        }
        for (j, weight) in rest.iter().enumerate() {
            let above = !(weight.abs() <= cut);
            sums[j] += if above { weight.abs() } else { 0.0 };
            counts[j] += u32::from(above);
        }
        sum += sums.iter().map(|&sum| f64::from(sum)).sum::<f64>();
        count += counts.iter().map(|&count| u64::from(count)).sum::<u64>();
    }
    if count == 0 { 0.0 } else { (sum / count as f64) as f32 }
}

/// The mean magnitude of the weights above `cut`, weighted by the importance of their columns; twice the cut, which is the scale
/// it came from, where none of them counts.
fn weighted_mean_above(weights: &[f32], importance: &[f32], cut: f32) -> f32 {
    let (mut sum, mut total) = (0.0f64, 0.0f64);
    for weights in weights.chunks(importance.len().max(1)) {
        for (weight, &importance) in weights.iter().zip(importance) {
            if weight.abs() > cut {
                sum += f64::from(weight.abs()) * f64::from(importance);
                total += f64::from(importance);
            }
        }
    }
    if total == 0.0 { 2.0 * cut } else { (sum / total) as f32 }
}

/// The mean magnitude; NaN or infinite where a weight is.
pub fn mean_magnitude(weights: &[f32]) -> f32 {
    mean_above(weights, f32::NEG_INFINITY)
}

fn max(weights: &[f32]) -> f32 {
    weights.iter().fold(0.0, |max, weight| if weight.abs() <= max { max } else { weight.abs() })
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absmean => write!(f, "absmean"),
            Self::Threshold(share) => write!(f, "threshold:{share}"),
            Self::Twn => write!(f, "twn"),
            Self::Search => write!(f, "search"),
            Self::Sign => write!(f, "sign"),
        }
    }
}

impl FromStr for Method {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let known = "absmean, threshold, threshold:SHARE with a share from 0 up to 1, twn, search, sign";
        let unknown = || RuleError::Unknown { text: text.into(), what: "quantization method", known };
        match text.split_once(':') {
            None if text == "absmean" => Ok(Self::Absmean),
            None if text == "twn" => Ok(Self::Twn),
            None if text == "search" => Ok(Self::Search),
            None if text == "sign" => Ok(Self::Sign),
            None if text == "threshold" => Ok(Self::Threshold(Self::DEFAULT_THRESHOLD)),
            Some(("threshold", share)) => {
                let share = share.parse().ok().filter(|share| (0.0..1.0).contains(share));
                Ok(Self::Threshold(share.ok_or_else(unknown)?))
            }
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for Granularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Columns(group) => write!(f, "{group}"),
            Self::Row => write!(f, "row"),
            Self::Tensor => write!(f, "tensor"),
        }
    }
}

impl FromStr for Granularity {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let known = "64, 128, 256, row, tensor";
        match text {
            "row" => Ok(Self::Row),
            "tensor" => Ok(Self::Tensor),
            "64" => Ok(Self::Columns(64)),
            "128" => Ok(Self::Columns(128)),
            "256" => Ok(Self::Columns(256)),
            _ => Err(RuleError::Unknown { text: text.into(), what: "group", known }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(rule: Rule, weights: &[f32]) -> Vec<f32> {
        let (codes, scales) = rule.quantize(weights, weights.len()).unwrap();
        let group = weights.len() / scales.len();
        let value = |(i, &code): (usize, &u8)| (f32::from(code) - 1.0) * f16_to_f32(scales[i / group]);
        codes.iter().enumerate().map(value).collect()
    }

    #[test]
    fn absmean_is_bitnets() {
        // Mean magnitude 0.5, so the cut is 0.25; at exactly half a scale, round-half-even gives 0.
        let rule = Rule::absmean(4);
        assert_eq!(values(rule, &[1.0, -0.6, 0.25, 0.15]), [0.5, -0.5, 0.0, 0.0]);
        assert_eq!(values(rule, &[0.0; 4]), [0.0; 4]);
    }

    #[test]
    fn thresholds_are_relative() {
        let rule = Rule { method: Method::Threshold(0.45), granularity: Granularity::Row };
        for size in [1.0, 1e-3, 1e3] {
            let weights = [1.0 * size, -0.5 * size, 0.45 * size, 0.1 * size];
            let (codes, scales) = rule.quantize(&weights, 4).unwrap();
            assert_eq!(codes, [2, 0, 1, 1]);
            assert!((f16_to_f32(scales[0]) / size - 0.75).abs() < 1e-3);
        }
    }

    #[test]
    fn twn_cuts_at_a_share_of_the_mean() {
        // Mean 0.5, so the cut is 0.35.
        let rule = Rule { method: Method::Twn, granularity: Granularity::Row };
        assert_eq!(values(rule, &[1.0, -0.5, 0.34, 0.16]), [0.75, -0.75, 0.0, 0.0]);
    }

    fn squared_error(rule: Rule, weights: &[f32]) -> f32 {
        values(rule, weights).iter().zip(weights).map(|(v, w)| (v - w) * (v - w)).sum()
    }

    #[test]
    fn what_counts_more_is_met_more_closely() {
        let weights: Vec<f32> =
            (0..256).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.01 + (i as f32 * 0.7).sin()).collect();
        let importance: Vec<f32> = (0..64).map(|i| if i % 4 == 0 { 9.0 } else { 0.25 * (i % 3) as f32 }).collect();
        let error = |scale: Scale| -> f64 {
            let size = f16_to_f32(scale.bits);
            let value = |weight: f32| f32::from(Method::Search.code(weight, scale.cut)) * size;
            let one =
                |(i, &weight): (usize, &f32)| f64::from(importance[i % 64]) * f64::from(weight - value(weight)).powi(2);
            weights.iter().enumerate().map(one).sum()
        };
        let weighted = Method::Search.weighted_scale(&weights, &importance).unwrap();
        assert!(error(weighted) < error(Method::Search.scale(&weights).unwrap()));
        // Alike, they change nothing but how the mean is rounded; without any, nothing.
        let plain = Method::Search.scale(&weights).unwrap();
        let alike = Method::Search.weighted_scale(&weights, &[3.0; 64]).unwrap();
        assert!(alike.bits.abs_diff(plain.bits) <= 1);
        assert_eq!(Method::Search.weighted_scale(&weights, &[0.0; 64]).unwrap().bits, plain.bits);
        assert_eq!(Method::Absmean.weighted_scale(&weights, &importance), Method::Absmean.scale(&weights));
        assert_eq!(Method::Search.weighted_scale(&[f32::NAN; 64], &importance), None);
        // By rows: each group meets its own columns.
        let rule = Rule { method: Method::Search, granularity: Granularity::Columns(32) };
        let scales = rule.weighted_scales(&weights, 64, &importance).unwrap();
        assert_eq!(scales.len(), 8);
        assert_eq!(Some(scales[5]), Method::Search.weighted_scale(&weights[160..192], &importance[32..]));
    }

    #[test]
    fn search_is_never_worse_and_ends_where_codes_and_scale_agree() {
        let noise = |seed: u32, i: u32| {
            let mut x = seed.wrapping_mul(0x9e37_79b9) ^ i.wrapping_mul(0x85eb_ca6b);
            (0..4)
                .map(|_| {
                    x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (x >> 8) as f32 / 16_777_216.0 - 0.5
                })
                .sum::<f32>()
        };
        for seed in 0..50 {
            let weights: Vec<f32> = (0..256).map(|i| noise(seed, i)).collect();
            let rule = |method| Rule { method, granularity: Granularity::Row };
            let searched = squared_error(rule(Method::Search), &weights);
            for other in [Method::Absmean, Method::Twn, Method::Threshold(0.45)] {
                assert!(searched <= squared_error(rule(other), &weights) * 1.0001, "{seed} {other}");
            }
            let scale = Method::Search.scale(&weights).unwrap();
            assert!((scale.cut / f16_to_f32(scale.bits) - 0.5).abs() < 1e-3);
        }
        assert_eq!(Method::Search.scale(&[0.0; 64]).map(|scale| scale.bits), Some(0));
    }

    #[test]
    fn a_last_group_may_be_shorter() {
        let rule = Rule::absmean(4);
        let (codes, scales) = rule.quantize(&[1.0, 1.0, 1.0, 1.0, 3.0, 3.0, 2.0, 2.0, 2.0, 2.0, -5.0, 0.0], 6).unwrap();
        assert_eq!(scales, [1.0, 3.0, 2.0, 2.5].map(f32_to_f16));
        assert_eq!(codes, [2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 0, 1]);
    }

    #[test]
    fn signs_have_no_zero() {
        let rule = Rule { method: Method::Sign, granularity: Granularity::Columns(4) };
        assert_eq!(values(rule, &[0.5, 0.0, -1.5, 2.0]), [1.0, 1.0, -1.0, 1.0]);
        assert_eq!(rule.quantize(&[0.0; 4], 4).unwrap().0, [2; 4]);
    }

    #[test]
    fn a_tensor_has_one_scale() {
        let rule = Rule { method: Method::Absmean, granularity: Granularity::Tensor };
        let (_, scales) = rule.quantize(&[1.0, 1.0, 3.0, 3.0], 2).unwrap();
        assert_eq!(scales, [f32_to_f16(2.0); 2]);
    }

    #[test]
    fn what_is_not_finite_is_refused_by_place() {
        let rule = Rule::absmean(2);
        for bad in [f32::NAN, f32::INFINITY, 1e6] {
            let error = rule.quantize(&[0.0, 1.0, 1.0, 1.0, 1.0, bad, 0.0, 0.0], 4).unwrap_err();
            assert_eq!(error, RuleError::NotFinite { row: 1, col: 0 });
        }
        let rule = Rule { method: Method::Threshold(0.45), ..rule };
        assert!(rule.quantize(&[f32::NAN, 1.0], 2).is_err());
        assert_eq!(rule.group(3), Err(RuleError::Group { cols: 3, group: 2 }));
    }

    #[test]
    fn random_rounding_keeps_the_mean() {
        let scale = Method::Absmean.scale(&[0.3, 0.9, 0.6, 0.2]).unwrap();
        let n = 1000;
        let sum: i32 =
            (0..n).map(|i| i32::from(Method::Absmean.code_at_random(-0.3, scale.cut, i as f32 / n as f32))).sum();
        assert!((sum as f32 / n as f32 * 0.5 + 0.3).abs() < 1e-3, "{sum}");
    }

    #[test]
    fn names_are_read_back() {
        for method in [Method::Absmean, Method::Threshold(0.3), Method::Twn, Method::Search, Method::Sign] {
            assert_eq!(method.to_string().parse(), Ok(method));
        }
        for granularity in [Granularity::Columns(128), Granularity::Row, Granularity::Tensor] {
            assert_eq!(granularity.to_string().parse(), Ok(granularity));
        }
        assert!("threshold:1".parse::<Method>().is_err() && "100".parse::<Granularity>().is_err());
    }
}
