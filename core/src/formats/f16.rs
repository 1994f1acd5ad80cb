//! F16 (id 1): IEEE half, little-endian.

use super::half::{f16_is_bad, f16_to_f32, f32_to_f16};

/// Elements of a block.
pub const LEN: usize = 1;
/// Bytes of a block.
pub const BYTES: usize = 2;

/// The value, exactly.
#[inline(always)]
pub fn dequantize_block(block: &[u8; BYTES], out: &mut [f32; LEN]) {
    *out = [f16_to_f32(u16::from_le_bytes(*block))];
}

/// Whether the value is no NaN and no infinity.
pub fn is_finite(block: &[u8; BYTES]) -> bool {
    !f16_is_bad(u16::from_le_bytes(*block))
}

/// The nearest f16, ties to even.
pub fn quantize_block(values: &[f32; LEN]) -> [u8; BYTES] {
    f32_to_f16(values[0]).to_le_bytes()
}
