//! What can be wrong with a tensor's type or its blocks: one variant a fault.

use super::Format;

/// Why tensor bytes cannot be read as a format, or values cannot be written in one.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// A type that is known and not supported.
    #[error("tensor `{tensor}` at byte {offset} has type {type_name} (id {type_id}), which is not supported; {remedy}")]
    Unsupported {
        /// The tensor.
        tensor: String,
        /// Where it begins in the file.
        offset: u64,
        /// The type's name.
        type_name: &'static str,
        /// The type's number in the file.
        type_id: u32,
        /// What to do.
        remedy: &'static str,
    },
    /// A type number that no known tool writes.
    #[error(
        "tensor `{tensor}` at byte {offset} has the unknown type id {type_id}; convert the model to TQ1_0, TQ2_0 or Q2_0"
    )]
    UnknownType {
        /// The tensor.
        tensor: String,
        /// Where it begins in the file.
        offset: u64,
        /// The type's number in the file.
        type_id: u32,
    },
    /// Rows that do not consist of whole blocks.
    #[error("tensor `{tensor}` at byte {offset} has rows of {cols} elements, not a multiple of {}'s block of {}; \
        the file is damaged, download or convert it again",
        format.name(), format.block_len())]
    RaggedRow {
        /// The tensor.
        tensor: String,
        /// Where it begins in the file.
        offset: u64,
        /// The row length.
        cols: u64,
        /// The type.
        format: Format,
    },
    /// The file has fewer bytes for the tensor than its type and shape need.
    #[error("tensor `{tensor}` at byte {offset} needs {needed} bytes as {}, the file has {available}; \
        it is cut short, or another tool's type uses the same id; \
        download or convert it again", format.name())]
    TooSmall {
        /// The tensor.
        tensor: String,
        /// Where it begins in the file.
        offset: u64,
        /// The type.
        format: Format,
        /// Bytes needed.
        needed: u64,
        /// Bytes available.
        available: u64,
    },
    /// The file has more bytes for the tensor than its type, shape and padding explain.
    #[error("tensor `{tensor}` at byte {offset} needs {needed} bytes as {}, but the next tensor begins only after \
        {available}; another tool's type may use the same id, convert the model again", format.name())]
    TooLarge {
        /// The tensor.
        tensor: String,
        /// Where it begins in the file.
        offset: u64,
        /// The type.
        format: Format,
        /// Bytes needed.
        needed: u64,
        /// Bytes up to the next tensor.
        available: u64,
    },
    /// A slice whose length does not go with the other's.
    #[error("{what} of {} should be {expected}, got {found}; give whole blocks", format.name())]
    Length {
        /// The type.
        format: Format,
        /// Which slice, and the unit of its length.
        what: &'static str,
        /// The length that goes with the other slices.
        expected: usize,
        /// The length given.
        found: usize,
    },
    /// A block whose scale is NaN or infinite.
    #[error("block {block} of {} data has a scale that is {scale}; the file is damaged or badly converted", format.name())]
    BadScale {
        /// The type.
        format: Format,
        /// Index of the block within the bytes given (0 for I2_S, whose scale is the tensor's).
        block: usize,
        /// The scale: NaN or an infinity.
        scale: String,
    },
    /// A code that the type has no bits for.
    #[error("element {index} has code {code}, which {} cannot hold; use Q2_0 or TQ2_0", format.name())]
    Code {
        /// The type.
        format: Format,
        /// Index of the element within those given.
        index: usize,
        /// The code: value + 1.
        code: u8,
    },
    /// Codes were asked of a type that has none.
    #[error("{} has no ternary codes; use dequantize", format.name())]
    NotTernary {
        /// The type.
        format: Format,
    },
    /// A scale for the tensor was given to a type that has one a block.
    #[error("{} keeps its scales in its blocks; only I2_S has one for the tensor", format.name())]
    NoTensorScale {
        /// The type.
        format: Format,
    },
    /// There is no quantizer for the type.
    #[error("writing {} is not supported; use F16, BF16, Q8_0 or a ternary type", format.name())]
    NoQuantizer {
        /// The type.
        format: Format,
    },
    /// A value to be quantized is NaN or infinite.
    #[error("element {index} is {value} and cannot be written as {}; the checkpoint is damaged", format.name())]
    NotFinite {
        /// The type.
        format: Format,
        /// Index of the element within those given.
        index: usize,
        /// The value: NaN or an infinity.
        value: String,
    },
    /// A value or scale beyond the range of the type.
    #[error("element {index}, {value}, is beyond the range of {}; use F32", format.name())]
    OutOfRange {
        /// The type.
        format: Format,
        /// Index of the element, or of the first of its block, within those given.
        index: usize,
        /// The value or scale.
        value: f32,
    },
}
