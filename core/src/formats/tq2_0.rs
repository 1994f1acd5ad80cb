//! TQ2_0 (id 35): 256 elements in 66 bytes, 2.0625 bits a weight. Four codes a byte.
//!
//! ```text
//! byte   0                  32                  64    66
//!        |  qs[0..32)       |  qs[32..64)       |  d  |   d: f16, last
//!        |  el 0..128       |  el 128..256      |
//!
//! byte j + m (j = 0 or 32, m < 32):   bits 7 6 | 5 4 | 3 2 | 1 0
//!                            el 4j + m +   96      64    32     0
//! ```
//!
//! value = code - 1; code 3, hence +2, occurs in files.

use super::half::f32_to_f16;
use super::quantizer::{absmax, round_codes};

/// Elements of a block.
pub const LEN: usize = 256;
/// Bytes of a block.
pub const BYTES: usize = 66;
/// Where its f16 scale begins.
pub const SCALES: [usize; 1] = [64];

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Block {
    qs: [[u8; 32]; 2],
    d: [u8; 2],
}

const _: () = assert!(size_of::<Block>() == BYTES && 64 * 4 == LEN);

/// Takes a block apart: the codes (value + 1) and the scale's f16 bits.
#[inline]
pub fn decode_block(block: &[u8; BYTES], codes: &mut [u8; LEN]) -> u16 {
    let block: &Block = bytemuck::cast_ref(block);
    for (half, qs) in block.qs.iter().enumerate() {
        for l in 0..4 {
            for m in 0..32 {
                codes[half * 128 + l * 32 + m] = (qs[m] >> (2 * l)) & 3;
            }
        }
    }
    u16::from_le_bytes(block.d)
}

/// The inverse of [`decode_block`]. Codes must be at most 3.
#[inline]
pub fn encode_block(codes: &[u8; LEN], scale: u16) -> [u8; BYTES] {
    let mut block = Block { qs: [[0; 32]; 2], d: scale.to_le_bytes() };
    for (half, qs) in block.qs.iter_mut().enumerate() {
        for l in 0..4 {
            for m in 0..32 {
                qs[m] |= codes[half * 128 + l * 32 + m] << (2 * l);
            }
        }
    }
    bytemuck::cast(block)
}

/// ggml's reference quantizer: the scale is the largest magnitude, values round to the nearest of -1, 0, 1.
pub fn quantize_block(values: &[f32; LEN]) -> ([u8; LEN], u16) {
    let d = absmax(values);
    (round_codes(values, d, 2), f32_to_f16(d))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_stand_where_the_layout_says() {
        for (element, byte, shift) in [(0, 0, 0), (33, 1, 2), (95, 31, 4), (127, 31, 6), (128, 32, 0), (255, 63, 6)] {
            let mut codes = [0; LEN];
            codes[element] = 3;
            let mut expected = [0; BYTES];
            expected[byte] = 3 << shift;
            expected[64..].copy_from_slice(&[0x00, 0x3c]);
            assert_eq!(encode_block(&codes, 0x3c00), expected, "element {element}");
        }
    }
}
