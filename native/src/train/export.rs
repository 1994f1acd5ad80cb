//! From trained weights to a GGUF: the same rule that training simulated, the same writer as everything else.

use std::path::Path;

use anyhow::{Context, Result};
use candle_core::Tensor;
use sterna_core::formats::Format;
use sterna_core::gguf::{Metadata, TensorDecl, Writer};
use sterna_core::ternary::{self, Rule};

use super::ops::values;

/// A tensor of the file.
#[derive(Clone, Debug)]
pub struct Exported {
    /// Its name.
    pub name: String,
    /// Float weights, `[rows, cols]` or `[len]`.
    pub weights: Tensor,
    /// How they are stored.
    pub stored: Stored,
}

/// How a tensor is stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Stored {
    /// Codes and scales by a rule, in a ternary format.
    Ternary(Rule, Format),
    /// In a float format, or another with a quantizer of its own.
    Plain(Format),
}

/// The format for a rule's codes and rows of `cols`: what was asked for, or else the one whose blocks are the rule's groups.
///
/// # Errors
/// If blocks of the format do not fill the rows, or a block would need more than one scale.
pub fn format_for(rule: Rule, cols: usize, asked: Option<Format>) -> Result<Format> {
    Ok(ternary::format_for(rule, cols, false, asked)?)
}

/// The ternary format of this name, as on the command line.
///
/// # Errors
/// If it is not one that training exports to.
pub fn format_named(name: &str) -> Result<Format> {
    let known = [Format::TQ1_0, Format::TQ2_0, Format::Q2_0, Format::PQ2_0, Format::PTQ1_0, Format::Q1_0];
    let names = || known.map(Format::name).join(", ");
    known
        .into_iter()
        .find(|format| format.name().eq_ignore_ascii_case(name))
        .with_context(|| format!("{name} is no format that can be exported to; known: {}", names()))
}

/// Writes a file; what was at `path` before stays until all of it is written.
///
/// # Errors
/// If a tensor cannot be stored as asked, or the file cannot be written.
pub fn write(path: &Path, metadata: &Metadata, tensors: &[Exported]) -> Result<()> {
    let encoded = |tensor: &Exported| {
        let declared = declare(tensor)?;
        let bytes = encode(tensor).with_context(|| format!("tensor {} cannot be exported", tensor.name))?;
        Ok((declared, bytes))
    };
    write_encoded(path, metadata, &tensors.iter().map(encoded).collect::<Result<Vec<_>>>()?)
}

/// Writes a file of tensors whose bytes are there; what was at `path` before stays until all of it is written.
///
/// # Errors
/// If bytes are not as many as declared, or the file cannot be written.
pub fn write_encoded(path: &Path, metadata: &Metadata, tensors: &[(TensorDecl, Vec<u8>)]) -> Result<()> {
    let cannot = || format!("cannot write {}", path.display());
    let declared = tensors.iter().map(|(declared, _)| declared.clone()).collect();
    let mut writer = Writer::new(Vec::new(), metadata, declared).with_context(cannot)?;
    for (declared, bytes) in tensors {
        writer.tensor(&declared.name, bytes).with_context(cannot)?;
    }
    super::checkpoint::replace(path, &writer.finish().with_context(cannot)?).with_context(cannot)
}

fn declare(tensor: &Exported) -> Result<TensorDecl> {
    let dims: Vec<u64> = tensor.weights.dims().iter().rev().map(|&dim| dim as u64).collect();
    let (Stored::Ternary(_, format) | Stored::Plain(format)) = tensor.stored;
    let cols = dims.first().copied().unwrap_or(1);
    let size = format
        .tensor_bytes(dims.iter().skip(1).product(), cols)
        .with_context(|| format!("tensor {}: rows of {cols} are not whole blocks of {}", tensor.name, format.name()))?;
    Ok(TensorDecl { name: tensor.name.clone(), dims, type_id: format.type_id(), size })
}

fn encode(tensor: &Exported) -> Result<Vec<u8>> {
    let weights = tensor.weights.contiguous()?;
    let cols = tensor.weights.dims().last().copied().unwrap_or(1);
    let (bytes, _) = match tensor.stored {
        Stored::Plain(format) => ternary::encode_plain(&values(&weights)?, cols, format)?,
        Stored::Ternary(rule, format) => ternary::encode(&values(&weights)?, cols, rule, format)?,
    };
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use sterna_core::gguf::Gguf;
    use sterna_core::ternary::{Granularity, Method};

    use super::super::ops::testing::random;
    use super::*;

    #[test]
    fn codes_and_scales_survive() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("x.gguf");
        for (granularity, formats) in [
            (Granularity::Columns(64), vec![Format::Q2_0]),
            (Granularity::Columns(128), vec![Format::PQ2_0, Format::Q2_0, Format::PTQ1_0]),
            (Granularity::Columns(256), vec![Format::TQ2_0, Format::TQ1_0, Format::PQ2_0]),
            (Granularity::Row, vec![Format::TQ2_0, Format::Q2_0]),
            (Granularity::Tensor, vec![Format::TQ1_0]),
        ] {
            for method in [Method::Absmean, Method::Threshold(0.45)] {
                let rule = Rule { method, granularity };
                for &format in &formats {
                    let format = format_for(rule, 512, Some(format))?;
                    let weights = random((3, 512), 5);
                    let stored = Stored::Ternary(rule, format);
                    write(&path, &Metadata::new(), &[Exported { name: "w".into(), weights: weights.clone(), stored }])?;
                    let bytes = std::fs::read(&path)?;
                    let file = Gguf::parse(&bytes)?;
                    let info = &file.header().tensors[0];
                    assert_eq!(info.dims, [512, 3]);
                    let (mut codes, mut scales) = (vec![0; 1536], vec![0; 1536 / format.block_len()]);
                    let size = format.tensor_bytes(3, 512).unwrap() as usize;
                    format.decode_codes(&file.data(info)[..size], &mut codes, &mut scales)?;
                    let (expected, groups) = rule.quantize(&weights.flatten_all()?.to_vec1::<f32>()?, 512)?;
                    assert_eq!(codes, expected);
                    let repeat = scales.len() / groups.len();
                    assert!(scales.chunks(repeat).zip(groups).all(|(all, one)| all.iter().all(|&scale| scale == one)));
                }
            }
        }
        Ok(())
    }

    #[test]
    fn formats_that_do_not_fit_are_refused() {
        let rule = Rule::absmean(64);
        let error = format_for(rule, 512, Some(Format::TQ2_0)).unwrap_err().to_string();
        assert!(error.contains("TQ2_0 cannot hold"), "{error}");
        assert!(format_for(Rule { granularity: Granularity::Row, ..rule }, 96, None).is_err());
        assert_eq!(format_for(Rule { granularity: Granularity::Row, ..rule }, 192, None).unwrap(), Format::Q2_0);
        assert_eq!(format_for(Rule { method: Method::Sign, ..Rule::absmean(128) }, 256, None).unwrap(), Format::Q1_0);
        assert!(format_named("tq2_0").is_ok() && format_named("F16").is_err());
    }
}
