//! What a file says before its tensor data: version, metadata, and where each tensor lies.
//!
//! Not here: reading it (`parser`).

use super::Metadata;

/// Where a tensor lies and what it claims to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The tensor's name, unique in its file.
    pub name: String,
    /// Dimensions in GGUF order: `dims[0]` is the row length. 0 to 4 of them, none zero.
    pub dims: Vec<u64>,
    /// The type's number in the file; several types share some numbers, see `formats::Format::identify`.
    pub type_id: u32,
    /// Where the data begins, in bytes from the start of the file.
    pub offset: u64,
    /// Bytes available: up to the next tensor, or to the end of the file, padding included.
    /// [`TensorInfo::UNKNOWN_SIZE`] for the last tensor of a stream of unannounced length.
    pub size: u64,
}

impl TensorInfo {
    /// The size of the last tensor of a stream whose length was not announced, until the stream ends.
    pub const UNKNOWN_SIZE: u64 = u64::MAX;

    /// Elements of a row.
    pub fn cols(&self) -> u64 {
        self.dims.first().copied().unwrap_or(1)
    }

    /// Number of rows: the product of all dimensions but the first. The readers check that it fits.
    pub fn rows(&self) -> u64 {
        self.dims.iter().skip(1).fold(1, |product: u64, &dim| product.saturating_mul(dim))
    }

    /// Number of elements. The readers check that it fits.
    pub fn elements(&self) -> u64 {
        self.cols().saturating_mul(self.rows())
    }
}

/// Everything before the tensor data.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    /// GGUF version, 2 or 3.
    pub version: u32,
    /// The key-value pairs.
    pub metadata: Metadata,
    /// The tensors in the order of the file's directory, which need not be the order of their data.
    pub tensors: Vec<TensorInfo>,
    /// Alignment of tensor data in bytes.
    pub alignment: u64,
    /// Where tensor data begins, in bytes from the start of the file.
    pub data_offset: u64,
}

impl Header {
    /// The tensor of this name, by a walk through the directory.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// The length that the file needs, given the exact byte size of each tensor (for example from
    /// `formats::Format::tensor_bytes`). `None` if a size is unknown or the sum does not fit 64 bits.
    pub fn length_needed(&self, exact_bytes: impl Fn(&TensorInfo) -> Option<u64>) -> Option<u64> {
        self.tensors
            .iter()
            .try_fold(0, |end: u64, tensor| Some(end.max(tensor.offset.checked_add(exact_bytes(tensor)?)?)))
    }
}
