//! Block codecs: what the bytes of a tensor mean. One file a type, its layout drawn on top; `table.rs` has
//! a row for each.
//!
//! Ternary types come apart into codes (value + 1, so 0 to 3) and scales, and go together again exactly. The
//! companion types (F32 to Q6_K) become f32. All of it is plain integer steps and f32 operations in a fixed order, so
//! results are the same bits on every target.
//!
//! Type numbers do not suffice to tell types apart, since forks of ggml use the same ones: see [`Format::identify`]
//! and [`identify_all`].
//!
//! Not here: products with such blocks (`kernels`) and the packed layout (`ternary`).

mod codec;
mod error;
mod identify;
mod quantizer;
mod table;

pub mod bf16;
pub mod f16;
pub mod fp32;
pub mod half;
pub mod i2_s;
pub mod pq2_0;
pub mod ptq1_0;
pub mod q1_0;
pub mod q2_0;
pub mod q4_0;
pub mod q4_k;
pub mod q6_k;
pub mod q8_0;
pub mod tq1_0;
pub mod tq2_0;

pub use error::FormatError;
pub use identify::{Identified, identify_all};
pub(crate) use table::format_rows;
pub use table::{Codes, Format};

impl Format {
    const fn row(self) -> &'static codec::Row {
        &table::TABLE[self as usize]
    }

    /// The name that tools print.
    pub const fn name(self) -> &'static str {
        self.row().name
    }

    /// The id in GGUF files. [`Format::Q2_0`] and [`Format::Q2_0G128`] share theirs.
    pub const fn type_id(self) -> u32 {
        self.row().type_id
    }

    /// The number that `general.file_type` has for files mostly of this type, as llama.cpp gives it (for I2_S
    /// bitnet.cpp); `None` where there is no such number, or more than one.
    pub const fn file_type(self) -> Option<u32> {
        self.row().file_type
    }

    /// Elements of a block. Rows are whole blocks.
    pub const fn block_len(self) -> usize {
        self.row().len
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        self.row().bytes
    }

    /// Whether elements are plain floats: F32, F16, BF16.
    pub const fn is_float(self) -> bool {
        self.row().is_float
    }

    /// Whether the type has ternary codes ([`Format::decode_codes`]).
    pub const fn is_ternary(self) -> bool {
        self.codes().is_some()
    }

    /// Which codes a ternary type can hold; `None` for the other types.
    pub const fn codes(self) -> Option<Codes> {
        self.row().codes
    }

    /// Whether values can be written in this type ([`Format::quantize`]).
    pub const fn is_written(self) -> bool {
        self.row().quantize.is_some()
    }

    /// The bytes of a block at which its f16 scales begin; none for plain floats and for [`Format::I2_S`].
    pub const fn scale_places(self) -> &'static [usize] {
        self.row().scales
    }

    /// Elements per f16 scale of a ternary type; `None` for [`Format::I2_S`], whose scale is the tensor's, and for
    /// types without codes.
    pub const fn group(self) -> Option<usize> {
        if self.is_ternary() && self.tail_bytes() == 0 { Some(self.block_len()) } else { None }
    }

    /// Bytes of a tensor of `[rows, cols]` without padding. `None` if rows are not whole blocks or the size does not
    /// fit 64 bits.
    pub const fn tensor_bytes(self, rows: u64, cols: u64) -> Option<u64> {
        let block = self.block_len() as u64;
        if !cols.is_multiple_of(block) {
            return None;
        }
        let Some(blocks) = (cols / block).checked_mul(rows) else { return None };
        let Some(bytes) = blocks.checked_mul(self.block_bytes() as u64) else { return None };
        bytes.checked_add(self.tail_bytes() as u64)
    }

    /// Bytes after the blocks of a tensor: 32 for [`Format::I2_S`], else 0.
    pub const fn tail_bytes(self) -> usize {
        self.row().tail
    }
}
