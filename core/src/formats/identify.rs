//! From a tensor's type number and byte size to its [`Format`].
//!
//! Forks of ggml give the same numbers to different types, so a number alone proves nothing:
//!
//! ```text
//! id   bytes per 256 elements: type
//! 36   64 + 32 a tensor: I2_S                 (ggml once: IQ4_NL_4_4)
//! 42   72: Q2_0 (group 64)   68: its legacy form with groups of 128   42: STQ1_0
//! 142  68: PQ2_0             66: IQ2_TN of ik_llama.cpp
//! 143  56: PTQ1_0            54: IQ1_TN of ik_llama.cpp
//! ```
//!
//! What follows a tensor is padding, less than the file's alignment, except after the last one. A small tensor of id
//! 42 may therefore fit both readings; then the other tensors of the file decide ([`identify_all`]), or the current
//! meaning of the number is taken.

use std::collections::HashSet;

use crate::gguf::{Header, TensorInfo};

use super::{Format, FormatError};

/// The number with three meanings.
const Q2_0_ID: u32 = Format::Q2_0.type_id();
/// Elements and bytes of a block of STQ1_0, which has the number of Q2_0.
const STQ1_0: (u64, u64) = (256, 42);

const CONVERT: &str = "convert the model to TQ1_0, TQ2_0 or Q2_0";

/// A tensor's type, and how certain it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identified {
    /// The type.
    pub format: Format,
    /// Which reading of an ambiguous type number was taken, and why; `None` where there is but one.
    pub note: Option<&'static str>,
}

impl Format {
    /// The type of a tensor, by its type number and its byte size.
    ///
    /// Sees the tensor alone: where an id of 42 fits both of its readings, group 64 is taken. Use [`identify_all`] for
    /// a whole file, which decides better and checks the room between tensors as well.
    ///
    /// # Errors
    /// [`FormatError::Unsupported`] and [`FormatError::UnknownType`] for other types, [`FormatError::RaggedRow`] if
    /// rows are not whole blocks, [`FormatError::TooSmall`] if the file has fewer bytes than the type needs.
    pub fn identify(info: &TensorInfo) -> Result<Self, FormatError> {
        if info.type_id == Q2_0_ID {
            return match readings(info)? {
                Readings::Group128 => Ok(Self::Q2_0G128),
                Readings::Both | Readings::Group64 => Ok(Self::Q2_0),
            };
        }
        let format = Self::ALL.into_iter().find(|format| format.type_id() == info.type_id);
        let format = format.ok_or_else(|| unsupported(info))?;
        let needed = needed(info, format)?;
        if info.size < needed {
            return Err(too_small(info, format, needed));
        }
        Ok(format)
    }
}

/// The types of all tensors of a file, in the order of [`Header::tensors`].
///
/// Beyond [`Format::identify`]: if the size of one tensor proves that id 42 means groups of 128, or of 64, that holds for the
/// file; and bytes between a tensor and the next that padding does not explain are an error
/// ([`FormatError::TooLarge`]), as they speak for a type of another tool under the same number.
pub fn identify_all(header: &Header) -> Vec<Result<Identified, FormatError>> {
    let q2_0 = || header.tensors.iter().filter(|info| info.type_id == Q2_0_ID).map(readings);
    let legacy = q2_0().any(|reading| reading == Ok(Readings::Group128));
    // In merged headers of shards several tensors are the last of their file: nothing begins where they end.
    let starts: HashSet<u64> = header.tensors.iter().map(|info| info.offset).collect();
    let followed = |info: &TensorInfo| info.offset.checked_add(info.size).is_some_and(|end| starts.contains(&end));
    // More than padding behind a reading as groups of 128 proves the other, for one tensor and so for the file.
    let current = header.tensors.iter().filter(|info| info.type_id == Q2_0_ID).any(|info| match readings(info) {
        Ok(Readings::Group64) => true,
        Ok(Readings::Both) => {
            let room = |needed: u64| info.size.saturating_sub(needed) >= header.alignment;
            followed(info) && needed(info, Format::Q2_0G128).is_ok_and(room)
        }
        _ => false,
    });
    let identify = |info: &TensorInfo| {
        let (format, note) = if info.type_id == Q2_0_ID {
            match (readings(info)?, legacy) {
                (Readings::Group128, _) => (Format::Q2_0G128, Some("id 42 read as groups of 128, by its byte size")),
                (Readings::Both, true) => {
                    (Format::Q2_0G128, Some("id 42 read as groups of 128, as other tensors of this file are"))
                }
                (Readings::Both, false) if current => (Format::Q2_0, None),
                (Readings::Both, false) => {
                    (Format::Q2_0, Some("id 42 read as groups of 64; the byte size allows groups of 128, too"))
                }
                (Readings::Group64, _) => (Format::Q2_0, None),
            }
        } else {
            (Format::identify(info)?, None)
        };
        let needed = needed(info, format)?;
        if followed(info) && info.size - needed >= header.alignment {
            let (tensor, offset, available) = (info.name.clone(), info.offset, info.size);
            return Err(FormatError::TooLarge { tensor, offset, format, needed, available });
        }
        Ok(Identified { format, note })
    };
    header.tensors.iter().map(identify).collect()
}

/// The readings of id 42 that a tensor's byte size allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Readings {
    /// Too few bytes for groups of 64.
    Group128,
    /// Bytes for either.
    Both,
    /// Rows that groups of 128 do not divide, or room that padding does not explain.
    Group64,
}

/// More room than this behind a reading as groups of 128 is no padding: the largest alignment in use.
const MAX_PADDING: u64 = 1 << 16;

fn readings(info: &TensorInfo) -> Result<Readings, FormatError> {
    let group64 = needed(info, Format::Q2_0)?;
    let group128 = needed(info, Format::Q2_0G128).ok();
    if info.size >= group64 {
        return Ok(match group128 {
            Some(group128) if info.size - group128 < MAX_PADDING => Readings::Both,
            _ => Readings::Group64,
        });
    }
    match group128 {
        Some(group128) if info.size >= group128 => Ok(Readings::Group128),
        _ => {
            let blocks = if info.cols().is_multiple_of(STQ1_0.0) { info.elements() / STQ1_0.0 } else { u64::MAX };
            match blocks.checked_mul(STQ1_0.1) {
                Some(bytes) if info.size >= bytes => Err(refused(info, "STQ1_0", CONVERT)),
                _ => Err(too_small(info, Format::Q2_0, group64)),
            }
        }
    }
}

/// The exact bytes of a tensor as `format`.
fn needed(info: &TensorInfo, format: Format) -> Result<u64, FormatError> {
    let ragged =
        || FormatError::RaggedRow { tensor: info.name.clone(), offset: info.offset, cols: info.cols(), format };
    if !info.cols().is_multiple_of(format.block_len() as u64) {
        return Err(ragged());
    }
    // A size beyond 64 bits is more than any file has.
    Ok(format.tensor_bytes(info.rows(), info.cols()).unwrap_or(u64::MAX))
}

fn too_small(info: &TensorInfo, format: Format, needed: u64) -> FormatError {
    let (tensor, offset, available) = (info.name.clone(), info.offset, info.size);
    FormatError::TooSmall { tensor, offset, format, needed, available }
}

fn refused(info: &TensorInfo, type_name: &'static str, remedy: &'static str) -> FormatError {
    let (tensor, offset, type_id) = (info.name.clone(), info.offset, info.type_id);
    FormatError::Unsupported { tensor, offset, type_name, type_id, remedy }
}

/// The error for a type number without a [`Format`]. Numbers as of ggml, bitnet.cpp and ik_llama.cpp in mid-2026.
fn unsupported(info: &TensorInfo) -> FormatError {
    const COMPANION: &str = "quantize it as Q8_0, Q4_0, Q4_K or Q6_K";
    let (name, remedy) = match info.type_id {
        3 => ("Q4_1", COMPANION),
        6 => ("Q5_0", COMPANION),
        7 => ("Q5_1", COMPANION),
        9 => ("Q8_1", COMPANION),
        10 => ("Q2_K", COMPANION),
        11 => ("Q3_K", COMPANION),
        13 => ("Q5_K", COMPANION),
        15 => ("Q8_K", COMPANION),
        16 => ("IQ2_XXS", COMPANION),
        17 => ("IQ2_XS", COMPANION),
        18 => ("IQ3_XXS", COMPANION),
        19 => ("IQ1_S", COMPANION),
        20 => ("IQ4_NL", COMPANION),
        21 => ("IQ3_S", COMPANION),
        22 => ("IQ2_S", COMPANION),
        23 => ("IQ4_XS", COMPANION),
        24 => ("I8", "store it as F32"),
        25 => ("I16", "store it as F32"),
        26 => ("I32", "store it as F32"),
        27 => ("I64", "store it as F32"),
        28 => ("F64", "store it as F32"),
        29 => ("IQ1_M", COMPANION),
        31..=33 => ("Q4_0 with interleaved rows", "quantize it as plain Q4_0"),
        37 => ("I8_S (bitnet.cpp)", "store it as F32 or Q8_0"),
        38 => {
            ("TL1 (bitnet.cpp)", "its layout depends on one matrix's shape; convert the model to I2_S, TQ1_0 or TQ2_0")
        }
        39 => ("TL2 (bitnet.cpp) or MXFP4 (ggml)", CONVERT),
        40 => ("NVFP4", CONVERT),
        134 => ("IQ1_BN (ik_llama.cpp)", CONVERT),
        135 => ("IQ2_BN (ik_llama.cpp)", CONVERT),
        type_id => return FormatError::UnknownType { tensor: info.name.clone(), offset: info.offset, type_id },
    };
    refused(info, name, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::Metadata;

    fn tensor(type_id: u32, dims: &[u64], size: u64) -> TensorInfo {
        TensorInfo { name: "blk.0.ffn_up.weight".into(), dims: dims.into(), type_id, offset: 64, size }
    }

    fn file(mut tensors: Vec<TensorInfo>) -> Header {
        let mut offset = 0;
        for (i, tensor) in tensors.iter_mut().enumerate() {
            tensor.name = format!("t{i}");
            tensor.offset = offset;
            offset += tensor.size;
        }
        Header { version: 3, metadata: Metadata::new(), tensors, alignment: 32, data_offset: 0 }
    }

    #[test]
    fn every_format_is_known_by_its_own_number_and_size() {
        for format in Format::ALL {
            let size = format.tensor_bytes(128, 2048).unwrap();
            assert_eq!(Format::identify(&tensor(format.type_id(), &[2048, 128], size)), Ok(format));
            assert_eq!(Format::identify(&tensor(format.type_id(), &[2048, 64, 2], size + 31)), Ok(format), "padded");
            let short = Format::identify(&tensor(format.type_id(), &[2048, 128], size - 1));
            match format {
                // One byte less is still enough for the group of 128.
                Format::Q2_0 => assert_eq!(short, Ok(Format::Q2_0G128)),
                // And one less than that is taken for STQ1_0.
                Format::Q2_0G128 => assert!(matches!(short, Err(FormatError::Unsupported { type_name: "STQ1_0", .. }))),
                _ => assert!(matches!(short, Err(FormatError::TooSmall { .. })), "{format:?}: {short:?}"),
            }
        }
    }

    #[test]
    fn id_42_is_told_apart_by_size() {
        let weights = 2048 * 2048;
        let identify = |per_256: u64| Format::identify(&tensor(42, &[2048, 2048], weights / 256 * per_256));
        assert_eq!(identify(72), Ok(Format::Q2_0));
        assert_eq!(identify(68), Ok(Format::Q2_0G128));
        let stq = identify(42).unwrap_err();
        assert!(stq.to_string().contains("STQ1_0"), "{stq}");
        assert!(matches!(identify(41), Err(FormatError::TooSmall { format: Format::Q2_0, .. })));
    }

    #[test]
    fn rows_of_64_times_an_odd_number_are_groups_of_64() {
        let header = file(vec![tensor(42, &[192, 1], 64)]);
        let Some(Ok(found)) = identify_all(&header).pop() else { panic!("refused") };
        assert_eq!(found, Identified { format: Format::Q2_0, note: None });
    }

    #[test]
    fn a_file_decides_where_a_tensor_cannot() {
        // 256 weights: 68 bytes padded to 96, as 72 would be.
        let small = tensor(42, &[256, 1], 96);
        let alone = identify_all(&file(vec![small.clone()]));
        assert_eq!(alone[0].as_ref().map(|found| found.format), Ok(Format::Q2_0));
        assert!(alone[0].as_ref().is_ok_and(|found| found.note.is_some()));
        // Behind 68 a block there would be more room than padding takes.
        let beside = identify_all(&file(vec![small.clone(), tensor(42, &[512, 8], 16 * 72), tensor(0, &[8], 32)]));
        let current = Identified { format: Format::Q2_0, note: None };
        assert_eq!(beside[..2], [Ok(current), Ok(current)]);
        let beside = identify_all(&file(vec![small, tensor(42, &[2048, 256], 2048 * 68), tensor(0, &[8], 32)]));
        assert_eq!(beside[0].as_ref().map(|found| found.format), Ok(Format::Q2_0G128));
        assert_eq!(beside[1].as_ref().map(|found| found.format), Ok(Format::Q2_0G128));
        assert!(beside[1].as_ref().is_ok_and(|found| found.note.is_some()));
        assert_eq!(beside[2], Ok(Identified { format: Format::F32, note: None }));
    }

    #[test]
    fn foreign_types_are_refused_by_name() {
        for (id, name) in [(134, "IQ1_BN"), (135, "IQ2_BN"), (38, "TL1"), (39, "TL2"), (3, "Q4_1"), (13, "Q5_K")] {
            let error = Format::identify(&tensor(id, &[256, 256], 1 << 20)).unwrap_err();
            assert!(matches!(error, FormatError::Unsupported { type_id, .. } if type_id == id));
            assert!(error.to_string().contains(name), "{error}");
            assert!(error.to_string().contains("blk.0.ffn_up.weight"), "{error}");
        }
        let unknown = Format::identify(&tensor(77, &[256], 1024));
        assert!(matches!(unknown, Err(FormatError::UnknownType { type_id: 77, .. })));
        // IQ2_TN and IQ1_TN of ik_llama.cpp under the ids of PQ2_0 and PTQ1_0.
        for (id, bytes) in [(142, 66), (143, 54)] {
            let error = Format::identify(&tensor(id, &[4096, 16], 256 * bytes));
            assert!(matches!(error, Err(FormatError::TooSmall { .. })), "{error:?}");
        }
    }

    #[test]
    fn ragged_rows_are_refused() {
        let error = Format::identify(&tensor(35, &[128, 2], 1024));
        assert!(matches!(error, Err(FormatError::RaggedRow { cols: 128, format: Format::TQ2_0, .. })));
    }

    #[test]
    fn room_that_padding_does_not_explain_is_refused_except_at_the_end() {
        let roomy = || tensor(35, &[256, 4], 4 * 66 + 32);
        let found = identify_all(&file(vec![roomy(), roomy()]));
        assert!(
            matches!(&found[0], Err(FormatError::TooLarge { tensor, needed: 264, available: 296, .. }) if tensor == "t0")
        );
        assert!(found[1].is_ok());
    }

    #[test]
    fn absurd_shapes_do_not_overflow() {
        let error = Format::identify(&tensor(36, &[1 << 61], u64::MAX));
        assert!(matches!(error, Ok(Format::I2_S)));
        let error = Format::identify(&tensor(0, &[1 << 62, 2], 1 << 40));
        assert!(matches!(error, Err(FormatError::TooSmall { needed: u64::MAX, .. })));
    }
}
