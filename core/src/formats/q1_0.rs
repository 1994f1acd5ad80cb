//! Q1_0 (id 41): 128 elements in 18 bytes, 1.125 bits a weight. One sign a bit, no zero.
//!
//! ```text
//! byte   0     2                 18
//!        |  d  |  qs[16]         |          d: f16, first
//!
//! byte 2 + i:   bit  7      6    ...   0
//!               el  8i+7   8i+6  ...  8i      1 is +d, 0 is -d
//! ```
//!
//! As codes: 2 for +1, 0 for -1; code 1 cannot be held.

use super::half::f32_to_f16;

/// Elements of a block.
pub const LEN: usize = 128;
/// Bytes of a block.
pub const BYTES: usize = 18;
/// Where its f16 scale begins.
pub const SCALES: [usize; 1] = [0];

const _: () = assert!(2 + LEN / 8 == BYTES);

/// Takes a block apart: the codes (value + 1: 0 or 2) and the scale's f16 bits.
#[inline]
pub fn decode_block(block: &[u8; BYTES], codes: &mut [u8; LEN]) -> u16 {
    for (codes, &byte) in codes.chunks_exact_mut(8).zip(&block[2..]) {
        for (bit, code) in codes.iter_mut().enumerate() {
            *code = ((byte >> bit) & 1) * 2;
        }
    }
    u16::from_le_bytes([block[0], block[1]])
}

/// The inverse of [`decode_block`]. Codes must be 0 or 2.
#[inline]
pub fn encode_block(codes: &[u8; LEN], scale: u16) -> [u8; BYTES] {
    let mut block = [0; BYTES];
    block[..2].copy_from_slice(&scale.to_le_bytes());
    for (codes, byte) in codes.chunks_exact(8).zip(&mut block[2..]) {
        for (bit, &code) in codes.iter().enumerate() {
            *byte |= (code / 2) << bit;
        }
    }
    block
}

/// ggml's reference quantizer: the scale is the mean magnitude (summed in order), zero counts as positive.
pub fn quantize_block(values: &[f32; LEN]) -> ([u8; LEN], u16) {
    let mut sum = 0.0f32;
    for value in values {
        sum += value.abs();
    }
    (values.map(|value| if value >= 0.0 { 2 } else { 0 }), f32_to_f16(sum / LEN as f32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_stand_where_the_layout_says() {
        for (element, byte, bit) in [(0, 2, 0), (9, 3, 1), (127, 17, 7)] {
            let mut codes = [0; LEN];
            codes[element] = 2;
            let mut expected = [0; BYTES];
            expected[byte] = 1 << bit;
            expected[..2].copy_from_slice(&[0x00, 0x3c]);
            assert_eq!(encode_block(&codes, 0x3c00), expected, "element {element}");
        }
    }

    #[test]
    fn the_scale_is_the_mean_magnitude() {
        let mut values = [-1.0; LEN];
        values[3] = 0.0;
        values[4] = 129.0;
        let (codes, scale) = quantize_block(&values);
        assert_eq!(scale, f32_to_f16((126.0 + 129.0) / 128.0));
        assert_eq!(codes[..5], [0, 0, 0, 2, 2]);
    }
}
