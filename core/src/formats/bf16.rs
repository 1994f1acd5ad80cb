//! BF16 (id 30): the upper half of an f32, little-endian.

use super::half::{bf16_to_f32, f32_to_bf16};

/// Elements of a block.
pub const LEN: usize = 1;
/// Bytes of a block.
pub const BYTES: usize = 2;

/// The value, exactly.
#[inline(always)]
pub fn dequantize_block(block: &[u8; BYTES], out: &mut [f32; LEN]) {
    *out = [bf16_to_f32(u16::from_le_bytes(*block))];
}

/// Whether the value is no NaN and no infinity.
pub fn is_finite(block: &[u8; BYTES]) -> bool {
    bf16_to_f32(u16::from_le_bytes(*block)).is_finite()
}

/// The nearest bfloat16, ties to even.
pub fn quantize_block(values: &[f32; LEN]) -> [u8; BYTES] {
    f32_to_bf16(values[0]).to_le_bytes()
}
