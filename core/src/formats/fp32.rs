//! F32 (id 0): the value itself, little-endian. (The module is not called `f32`, which would hide the primitive type.)

/// Elements of a block.
pub const LEN: usize = 1;
/// Bytes of a block.
pub const BYTES: usize = 4;

/// The value.
#[inline(always)]
pub fn dequantize_block(block: &[u8; BYTES], out: &mut [f32; LEN]) {
    *out = [f32::from_le_bytes(*block)];
}

/// Whether the value is no NaN and no infinity.
pub fn is_finite(block: &[u8; BYTES]) -> bool {
    f32::from_le_bytes(*block).is_finite()
}

/// The bytes.
pub fn quantize_block(values: &[f32; LEN]) -> [u8; BYTES] {
    values[0].to_le_bytes()
}
