//! Q2_0 (id 42), group 64: 64 elements in 18 bytes, 2.25 bits a weight; and its codec, shared with the groups of 128.
//!
//! ```text
//! byte   0     2                 18
//!        |  d  |  qs[16]         |          d: f16, first
//!
//! byte 2 + i:   bits 7 6 | 5 4 | 3 2 | 1 0
//!               el  4i+3   4i+2  4i+1   4i
//! ```
//!
//! value = code - 1: -1, 0, +1 and +2.

use super::half::f32_to_f16;
use super::quantizer::{absmax, round_codes};

/// Elements of a block.
pub const LEN: usize = 64;
/// Bytes of a block.
pub const BYTES: usize = 18;
/// Where its f16 scale begins.
pub const SCALES: [usize; 1] = [0];

const _: () = assert!(2 + LEN / 4 == BYTES);

/// Takes a block apart: the codes (value + 1) and the scale's f16 bits. `BYTES` is 2 + `LEN` / 4.
#[inline]
pub fn decode_block<const BYTES: usize, const LEN: usize>(block: &[u8; BYTES], codes: &mut [u8; LEN]) -> u16 {
    const { assert!(BYTES == 2 + LEN / 4) };
    for (codes, &byte) in codes.chunks_exact_mut(4).zip(&block[2..]) {
        for (l, code) in codes.iter_mut().enumerate() {
            *code = (byte >> (2 * l)) & 3;
        }
    }
    u16::from_le_bytes([block[0], block[1]])
}

/// The inverse of [`decode_block`]. Codes must be at most 3.
#[inline]
pub fn encode_block<const BYTES: usize, const LEN: usize>(codes: &[u8; LEN], scale: u16) -> [u8; BYTES] {
    const { assert!(BYTES == 2 + LEN / 4) };
    let mut block = [0; BYTES];
    block[..2].copy_from_slice(&scale.to_le_bytes());
    for (codes, byte) in codes.chunks_exact(4).zip(&mut block[2..]) {
        *byte = codes[0] | codes[1] << 2 | codes[2] << 4 | codes[3] << 6;
    }
    block
}

/// ggml's reference quantizer: the scale is the largest magnitude, values round to the nearest of -1, 0, 1.
pub fn quantize_block<const LEN: usize>(values: &[f32; LEN]) -> ([u8; LEN], u16) {
    let d = absmax(values);
    (round_codes(values, d, 3), f32_to_f16(d))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_stand_where_the_layout_says() {
        for (element, byte, shift) in [(0, 2, 0), (1, 2, 2), (7, 3, 6), (62, 17, 4), (63, 17, 6)] {
            let mut codes = [0; LEN];
            codes[element] = 3;
            let mut expected = [0; BYTES];
            expected[byte] = 3 << shift;
            expected[..2].copy_from_slice(&[0x00, 0x3c]);
            assert_eq!(encode_block::<BYTES, LEN>(&codes, 0x3c00), expected, "element {element}");
        }
    }
}
