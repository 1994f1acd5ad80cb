//! From weights to the blocks of a format: which format holds what a rule gives, and the one way into it that training, image
//! nets and conversion share.
//!
//! A row is brought to whole blocks by padding, where its file allows that (image nets: what stands in the padding meets zeros
//! only), and a scale that covers several blocks is repeated in each. Not here: the rules (`rule.rs`), the blocks (`formats`).

use thiserror::Error;

use super::rule::{Granularity, Method, Rule, RuleError};
use crate::formats::half::f16_to_f32;
use crate::formats::{Format, FormatError};

/// Why weights cannot go into a format.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum EncodeError {
    /// The rule cannot be applied.
    #[error(transparent)]
    Rule(#[from] RuleError),
    /// The format cannot hold a value.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A block would need several scales, or another number of levels.
    #[error("{} cannot hold weights by {} with a scale for each {}{rows}: a block of it has {} weights and one \
        scale; those that can: {others}", format.name(), rule.method, rule.granularity, format.block_len())]
    Fit {
        /// The format that was asked for.
        format: Format,
        /// The rule.
        rule: Rule,
        /// ", in rows of" so many columns, where they must not be padded.
        rows: String,
        /// Names of formats that hold it.
        others: String,
    },
    /// No format holds it.
    #[error("no format holds rows of {cols} weights by {} with a scale for each {}; make rows multiples of 64", rule.method,
        rule.granularity)]
    None {
        /// The rule.
        rule: Rule,
        /// Columns of the matrix.
        cols: usize,
    },
    /// Scales or codes that do not fill the row.
    #[error("a row of {cols} weights has {codes} codes and {scales} scales")]
    Row {
        /// Columns of the matrix.
        cols: usize,
        /// Codes given.
        codes: usize,
        /// Scales given.
        scales: usize,
    },
}

/// The format for a rule's codes in rows of `cols`: what was asked for, or else one whose blocks are the rule's groups. With
/// `padding`, rows may be padded to whole blocks.
///
/// # Errors
/// [`EncodeError::Fit`] if blocks of the format asked for do not fill the rows or would need more than one scale,
/// [`EncodeError::None`] if no format will do, [`RuleError::Group`] if groups do not fill rows that must not be padded.
pub fn format_for(rule: Rule, cols: usize, padding: bool, asked: Option<Format>) -> Result<Format, EncodeError> {
    let group = if padding { padded_group(rule) } else { Some(rule.group(cols)?) };
    let signs = rule.method == Method::Sign;
    let fits = |format: Format| {
        let one_scale = match format.group() {
            Some(block) => group.is_none_or(|group| group.is_multiple_of(block)),
            None => rule.granularity == Granularity::Tensor && format.is_ternary(),
        };
        one_scale && (padding || cols.is_multiple_of(format.block_len())) && signs == (format == Format::Q1_0)
    };
    let choice: &[Format] = match rule.granularity {
        _ if signs => &[Format::Q1_0],
        Granularity::Columns(128) => &[Format::PQ2_0, Format::PTQ1_0, Format::Q2_0],
        Granularity::Columns(64) => &[Format::Q2_0],
        Granularity::Tensor => {
            &[Format::TQ2_0, Format::TQ1_0, Format::PQ2_0, Format::PTQ1_0, Format::Q2_0, Format::I2_S]
        }
        _ => &[Format::TQ2_0, Format::TQ1_0, Format::PQ2_0, Format::PTQ1_0, Format::Q2_0],
    };
    let mut fitting = choice.iter().copied().filter(|&format| fits(format));
    match asked {
        Some(format) if fits(format) => Ok(format),
        Some(format) => {
            let others = fitting.map(Format::name).collect::<Vec<_>>().join(", ");
            let others = if others.is_empty() { "none".into() } else { others };
            let rows = if padding { String::new() } else { format!(", in rows of {cols}") };
            Err(EncodeError::Fit { format, rule, rows, others })
        }
        None => fitting.next().ok_or(EncodeError::None { rule, cols }),
    }
}

/// Columns that share a scale where rows may be padded; `None` where a row has one scale however long it is.
fn padded_group(rule: Rule) -> Option<usize> {
    match rule.granularity {
        Granularity::Columns(group) => Some(group),
        Granularity::Row | Granularity::Tensor => None,
    }
}

/// A matrix `[rows, cols]` by a rule in a ternary format; and its columns with padding, which is added where rows are not whole
/// blocks.
///
/// # Errors
/// [`EncodeError::Fit`] if the format does not hold what the rule gives, [`EncodeError::Rule`] for weights that are not finite.
pub fn encode(weights: &[f32], cols: usize, rule: Rule, format: Format) -> Result<(Vec<u8>, usize), EncodeError> {
    format_for(rule, cols, true, Some(format))?;
    let (scales, group) = (rule.scales(weights, cols)?, rule.columns(cols));
    let encoder = RowEncoder::new(format, cols, group, rule.method == Method::Sign);
    let (mut bytes, mut codes) = (Vec::new(), Vec::new());
    let per_row = cols.div_ceil(group);
    for (row, scales) in weights.chunks_exact(cols).zip(scales.chunks_exact(per_row)) {
        codes.clear();
        rule.codes(row, cols, scales, &mut codes);
        let bits: Vec<u16> = scales.iter().map(|scale| scale.bits).collect();
        encoder.row(&mut codes, &bits, &mut bytes)?;
    }
    if format == Format::I2_S {
        format.encode_tensor_scale(scales.first().map_or(0.0, |scale| f16_to_f32(scale.bits)), &mut bytes)?;
    }
    Ok((bytes, encoder.padded()))
}

/// A matrix `[rows, cols]` in a format with a quantizer of its own, a float format for one; and its columns with padding.
///
/// # Errors
/// [`EncodeError::Format`] if it cannot hold a value.
pub fn encode_plain(weights: &[f32], cols: usize, format: Format) -> Result<(Vec<u8>, usize), EncodeError> {
    let (padded, mut bytes) = (cols.next_multiple_of(format.block_len()), Vec::new());
    if padded == cols {
        format.quantize(weights, &mut bytes)?;
        return Ok((bytes, cols));
    }
    let mut padded_row = Vec::with_capacity(padded);
    for row in weights.chunks_exact(cols.max(1)) {
        padded_row.clear();
        padded_row.extend_from_slice(row);
        padded_row.resize(padded, 0.0);
        format.quantize(&padded_row, &mut bytes)?;
    }
    Ok((bytes, padded))
}

/// Puts rows of codes and scales into a ternary format's blocks.
#[derive(Clone, Copy, Debug)]
pub struct RowEncoder {
    format: Format,
    cols: usize,
    group: usize,
    padded: usize,
    /// The code of padding.
    zero: u8,
}

impl RowEncoder {
    /// For rows of `cols` with a scale for each `group` columns; `signs` where there is no code for zero.
    pub fn new(format: Format, cols: usize, group: usize, signs: bool) -> Self {
        let padded = cols.next_multiple_of(format.block_len());
        Self { format, cols, group: group.max(1), padded, zero: if signs { 2 } else { 1 } }
    }

    /// Columns with padding.
    pub fn padded(&self) -> usize {
        self.padded
    }

    /// Appends a row's blocks. `codes`, `[cols]`, are padded in place; `scales` are f16 bits, one for each group of the row, and not
    /// looked at for [`Format::I2_S`].
    ///
    /// # Errors
    /// [`EncodeError::Row`] if there are too few or too many, [`EncodeError::Format`] if the format cannot hold one.
    pub fn row(&self, codes: &mut Vec<u8>, scales: &[u16], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if codes.len() != self.cols || scales.len() != self.cols.div_ceil(self.group) || scales.is_empty() {
            return Err(EncodeError::Row { cols: self.cols, codes: codes.len(), scales: scales.len() });
        }
        codes.resize(self.padded, self.zero);
        let block = self.format.block_len();
        match self.format.group() {
            None => self.format.encode_codes(codes, &[], out)?,
            Some(_) if self.group == block && self.padded == self.cols => {
                self.format.encode_codes(codes, scales, out)?
            }
            Some(_) => {
                let of_block = |col: usize| scales[(col / self.group).min(scales.len() - 1)];
                let bits: Vec<u16> = (0..self.padded).step_by(block).map(of_block).collect();
                self.format.encode_codes(codes, &bits, out)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_that_fits_gives_back_what_the_rule_gave() {
        let weights: Vec<f32> =
            (0..3 * 150).map(|i| ((i * 37 % 101) as f32 - 50.0) / 31.0 * (1.0 + i as f32 / 99.0)).collect();
        let mut held = 0;
        for method in [Method::Absmean, Method::Threshold(0.45), Method::Twn, Method::Search, Method::Sign] {
            for granularity in
                [64, 128, 256].map(Granularity::Columns).into_iter().chain([Granularity::Row, Granularity::Tensor])
            {
                let rule = Rule { method, granularity };
                let (codes, scales) = rule.quantize(&weights, 150).unwrap();
                let (group, per_row) = (rule.columns(150), 150usize.div_ceil(rule.columns(150)));
                for format in Format::ALL {
                    let fits = format_for(rule, 150, true, Some(format)).is_ok();
                    let encoded = encode(&weights, 150, rule, format);
                    assert_eq!(fits, encoded.is_ok(), "{rule:?} {format:?}");
                    let Ok((bytes, padded)) = encoded else { continue };
                    held += 1;
                    assert_eq!(format.tensor_bytes(3, padded as u64), Some(bytes.len() as u64));
                    let mut values = vec![0.0; 3 * padded];
                    format.dequantize(&bytes, &mut values).unwrap();
                    for (i, (&code, row)) in codes.iter().zip((0..).map(|i| i / 150)).enumerate() {
                        let scale = f16_to_f32(scales[row * per_row + i % 150 / group]);
                        assert_eq!(
                            values[row * padded + i % 150],
                            (f32::from(code) - 1.0) * scale,
                            "{rule:?} {format:?}"
                        );
                    }
                }
            }
        }
        assert!(held > 60, "{held}");
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_would() {
        let rule = Rule::absmean(64);
        let error = format_for(rule, 512, false, Some(Format::TQ2_0)).unwrap_err().to_string();
        assert!(error.contains("TQ2_0 cannot hold") && error.contains("those that can: Q2_0"), "{error}");
        let row = Rule { granularity: Granularity::Row, ..rule };
        assert!(format_for(row, 96, false, None).is_err() && format_for(row, 96, true, None).is_ok());
        assert_eq!(format_for(row, 192, false, None), Ok(Format::Q2_0));
        assert!(format_for(row, 256, false, Some(Format::I2_S)).is_err());
        assert!(format_for(row, 256, false, Some(Format::F16)).is_err());
        let signs = Rule { method: Method::Sign, ..Rule::absmean(128) };
        assert_eq!(format_for(signs, 256, false, None), Ok(Format::Q1_0));
        assert!(matches!(format_for(rule, 100, false, None), Err(EncodeError::Rule(RuleError::Group { .. }))));
    }
}
