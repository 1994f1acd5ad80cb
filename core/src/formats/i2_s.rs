//! I2_S (id 36, bitnet.cpp): blocks of 128 elements in 32 bytes, 2 bits a weight, one scale for the whole tensor.
//!
//! ```text
//! tensor of n elements:
//! byte   0      32     64            n/4    n/4 + 4         n/4 + 32
//!        | blk  | blk  | ...         | scale |  unused       |      scale: f32
//!
//! byte p of a block:   bits 7 6 | 5 4  |  3 2  |  1 0
//!                      el     p   p+32   p+64    p+96
//! ```
//!
//! value = code - 1.

use super::quantizer::absmax;
use super::{Format, FormatError, codec};

/// Elements of a block.
pub const LEN: usize = 128;
/// Bytes of a block.
pub const BYTES: usize = 32;
/// Bytes after a tensor's blocks: the f32 scale and 28 that mean nothing.
pub const TAIL_BYTES: usize = 32;

const _: () = assert!(LEN / 4 == BYTES);

/// Takes a block's codes (value + 1) apart.
#[inline]
pub fn decode_block(block: &[u8; BYTES], codes: &mut [u8; LEN]) {
    for l in 0..4 {
        for p in 0..32 {
            codes[l * 32 + p] = (block[p] >> (6 - 2 * l)) & 3;
        }
    }
}

/// The inverse of [`decode_block`]. Codes must be at most 3.
#[inline]
pub fn encode_block(codes: &[u8; LEN]) -> [u8; BYTES] {
    let mut block = [0; BYTES];
    for l in 0..4 {
        for p in 0..32 {
            block[p] |= codes[l * 32 + p] << (6 - 2 * l);
        }
    }
    block
}

/// The values of a tensor with its tail; without a tail all are 0.
pub(super) fn dequantize(bytes: &[u8], out: &mut [f32]) {
    let (blocks, tail) = bytes.split_at(out.len() / LEN * BYTES);
    let scale = scale(tail).unwrap_or_default();
    codec::dequantize(blocks, out, |block, out| {
        let mut codes = [0; LEN];
        decode_block(block, &mut codes);
        codec::scale_codes(&codes, scale, out);
    });
}

/// The codes of blocks. There are no scales.
pub(super) fn decode(bytes: &[u8], codes: &mut [u8], _scales: &mut [u16]) {
    for (block, codes) in bytes.as_chunks().0.iter().zip(codes.as_chunks_mut().0) {
        decode_block(block, codes);
    }
}

/// The inverse of [`decode`].
pub(super) fn encode(codes: &[u8], _scales: &[u16], out: &mut Vec<u8>) {
    out.extend(codes.as_chunks().0.iter().flat_map(encode_block));
}

/// A whole tensor with its tail.
pub(super) fn quantize(format: Format, values: &[f32], out: &mut Vec<u8>) -> Result<(), FormatError> {
    let codes: Vec<u8> = values.iter().map(|&value| quantize_value(value)).collect();
    encode(&codes, &[], out);
    format.encode_tensor_scale(absmax(values), out)
}

/// The scale at the beginning of a tensor's tail, if the tail is long enough to have one.
pub(super) fn scale(tail: &[u8]) -> Option<f32> {
    tail.first_chunk().map(|&bytes| f32::from_le_bytes(bytes))
}

/// The tail of a tensor with the given scale.
pub fn tail(scale: f32) -> [u8; TAIL_BYTES] {
    let mut tail = [0; TAIL_BYTES];
    tail[..4].copy_from_slice(&scale.to_le_bytes());
    tail
}

/// bitnet.cpp's reference quantizer for a value: its sign, with magnitudes under 1e-6 as zero. The scale that goes
/// with it is the tensor's largest magnitude, so it is meant for weights that are ternary already.
pub fn quantize_value(value: f32) -> u8 {
    // The reference compares in double precision.
    match f64::from(value) {
        v if v.abs() < 1e-6 => 1,
        v if v > 0.0 => 2,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_stand_where_the_layout_says() {
        for (element, byte, shift) in [(0, 0, 6), (33, 1, 4), (95, 31, 2), (96, 0, 0), (127, 31, 0)] {
            let mut codes = [0; LEN];
            codes[element] = 3;
            let mut expected = [0; BYTES];
            expected[byte] = 3 << shift;
            assert_eq!(encode_block(&codes), expected, "element {element}");
        }
    }
}
