//! Block codecs: what the bytes of a tensor mean. One file a type, its layout drawn on top; this file is the registry.
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

/// The types of tensors that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types, reason = "the names of the field, as files and tools print them")]
pub enum Format {
    /// 32-bit float.
    F32,
    /// IEEE half.
    F16,
    /// The upper half of an f32.
    BF16,
    /// 8-bit, a scale per 32.
    Q8_0,
    /// 4-bit, a scale per 32.
    Q4_0,
    /// 4-bit, nested scales and minima per 256.
    Q4_K,
    /// 6-bit, nested scales per 256.
    Q6_K,
    /// Ternary, five trits a byte, a scale per 256.
    TQ1_0,
    /// Ternary, 2-bit codes, a scale per 256.
    TQ2_0,
    /// Ternary, 2-bit codes, a scale per 64.
    Q2_0,
    /// Ternary, 2-bit codes, a scale per 128: the older meaning of Q2_0's id.
    Q2_0G128,
    /// Ternary, 2-bit codes, a scale per 128: the same block under an id of its own.
    PQ2_0,
    /// Ternary, five trits a byte, a scale per 128.
    PTQ1_0,
    /// Ternary, 2-bit codes, one scale for the tensor.
    I2_S,
    /// Signs, a scale per 128.
    Q1_0,
}

impl Format {
    /// All formats, in the order of their type numbers.
    pub const ALL: [Self; 15] = [
        Self::F32,
        Self::F16,
        Self::Q4_0,
        Self::Q8_0,
        Self::Q4_K,
        Self::Q6_K,
        Self::BF16,
        Self::TQ1_0,
        Self::TQ2_0,
        Self::I2_S,
        Self::Q1_0,
        Self::Q2_0,
        Self::Q2_0G128,
        Self::PQ2_0,
        Self::PTQ1_0,
    ];

    /// The name that tools print.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
            Self::Q4_K => "Q4_K",
            Self::Q6_K => "Q6_K",
            Self::TQ1_0 => "TQ1_0",
            Self::TQ2_0 => "TQ2_0",
            Self::Q2_0 => "Q2_0",
            Self::Q2_0G128 => "Q2_0 (group 128)",
            Self::PQ2_0 => "PQ2_0",
            Self::PTQ1_0 => "PTQ1_0",
            Self::I2_S => "I2_S",
            Self::Q1_0 => "Q1_0",
        }
    }

    /// The number in GGUF files. [`Format::Q2_0`] and [`Format::Q2_0G128`] share theirs.
    pub const fn type_id(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q8_0 => 8,
            Self::Q4_K => 12,
            Self::Q6_K => 14,
            Self::BF16 => 30,
            Self::TQ1_0 => 34,
            Self::TQ2_0 => 35,
            Self::I2_S => 36,
            Self::Q1_0 => 41,
            Self::Q2_0 | Self::Q2_0G128 => 42,
            Self::PQ2_0 => 142,
            Self::PTQ1_0 => 143,
        }
    }

    /// Elements of a block. Rows are whole blocks.
    pub const fn block_len(self) -> usize {
        match self {
            Self::F32 => fp32::LEN,
            Self::F16 => f16::LEN,
            Self::BF16 => bf16::LEN,
            Self::Q8_0 => q8_0::LEN,
            Self::Q4_0 => q4_0::LEN,
            Self::Q4_K => q4_k::LEN,
            Self::Q6_K => q6_k::LEN,
            Self::TQ1_0 => tq1_0::LEN,
            Self::TQ2_0 => tq2_0::LEN,
            Self::Q2_0 => q2_0::LEN,
            Self::Q2_0G128 | Self::PQ2_0 => pq2_0::LEN,
            Self::PTQ1_0 => ptq1_0::LEN,
            Self::I2_S => i2_s::LEN,
            Self::Q1_0 => q1_0::LEN,
        }
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => fp32::BYTES,
            Self::F16 => f16::BYTES,
            Self::BF16 => bf16::BYTES,
            Self::Q8_0 => q8_0::BYTES,
            Self::Q4_0 => q4_0::BYTES,
            Self::Q4_K => q4_k::BYTES,
            Self::Q6_K => q6_k::BYTES,
            Self::TQ1_0 => tq1_0::BYTES,
            Self::TQ2_0 => tq2_0::BYTES,
            Self::Q2_0 => q2_0::BYTES,
            Self::Q2_0G128 | Self::PQ2_0 => pq2_0::BYTES,
            Self::PTQ1_0 => ptq1_0::BYTES,
            Self::I2_S => i2_s::BYTES,
            Self::Q1_0 => q1_0::BYTES,
        }
    }

    /// Whether the type has ternary codes ([`Format::decode_codes`]).
    pub const fn is_ternary(self) -> bool {
        match self {
            Self::TQ1_0 | Self::TQ2_0 | Self::Q2_0 | Self::Q2_0G128 | Self::PQ2_0 | Self::PTQ1_0 => true,
            Self::I2_S | Self::Q1_0 => true,
            Self::F32 | Self::F16 | Self::BF16 | Self::Q8_0 | Self::Q4_0 | Self::Q4_K | Self::Q6_K => false,
        }
    }

    /// Elements per f16 scale of a ternary type; `None` for [`Format::I2_S`], whose scale is the tensor's, and for
    /// types without codes.
    pub const fn group(self) -> Option<usize> {
        match self {
            Self::I2_S => None,
            _ if self.is_ternary() => Some(self.block_len()),
            _ => None,
        }
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
        match self {
            Self::I2_S => i2_s::TAIL_BYTES,
            _ => 0,
        }
    }
}
