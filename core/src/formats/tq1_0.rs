//! TQ1_0 (id 34): 256 elements in 54 bytes, 1.6875 bits a weight. Five trits a byte.
//!
//! ```text
//! byte   0                       32            48    52    54
//!        |  qs[0..32)            |  qs[32..48) | qh  |  d  |   d: f16, last
//!        |  trit n of byte m     |  trit n of  | 4   |
//!        |  is el 32n + m        |  byte m is  | trits a byte: trit n of byte j
//!        |  n < 5                |  160+16n+m  | is el 240 + 4n + j, n < 4
//! ```
//!
//! A byte holds its trits as a fraction: with q the base-3 number whose most significant digit is trit 0, the byte is
//! ceil(q * 256 / 243). Multiplying by 3^n modulo 256 drops the first n digits, and times 3 over 256 gives the next:
//! for 2,1,0,0,0: q = 2*81 + 27 = 189, byte = ceil(199.11) = 200; 200*3 >> 8 = 2; (200*3 & 255)*3 >> 8 = 88*3 >> 8 = 1.
//! A group of four trits (`qh`) counts as five with a last digit of 0.

use super::half::f32_to_f16;
use super::quantizer::{absmax, round_codes};

/// Elements of a block.
pub const LEN: usize = 256;
/// Bytes of a block.
pub const BYTES: usize = 54;
/// Where its f16 scale begins.
pub const SCALES: [usize; 1] = [52];

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Block {
    qs: [u8; 48],
    qh: [u8; 4],
    d: [u8; 2],
}

const _: () = assert!(size_of::<Block>() == BYTES && 32 * 5 + 16 * 5 + 4 * 4 == LEN);

/// Takes a block apart: the codes (value + 1) and the scale's f16 bits.
#[inline]
pub fn decode_block(block: &[u8; BYTES], codes: &mut [u8; LEN]) -> u16 {
    let block: &Block = bytemuck::cast_ref(block);
    unpack_trits(&block.qs[..32], &mut codes[..160]);
    unpack_trits(&block.qs[32..], &mut codes[160..240]);
    unpack_trits(&block.qh, &mut codes[240..]);
    u16::from_le_bytes(block.d)
}

/// The inverse of [`decode_block`]. Codes must be at most 2.
#[inline]
pub fn encode_block(codes: &[u8; LEN], scale: u16) -> [u8; BYTES] {
    let mut block = Block { qs: [0; 48], qh: [0; 4], d: scale.to_le_bytes() };
    pack_trits(&codes[..160], &mut block.qs[..32]);
    pack_trits(&codes[160..240], &mut block.qs[32..]);
    pack_trits(&codes[240..], &mut block.qh);
    bytemuck::cast(block)
}

/// ggml's reference quantizer: the scale is the largest magnitude, values round to the nearest of -1, 0, 1.
pub fn quantize_block(values: &[f32; LEN]) -> ([u8; LEN], u16) {
    let d = absmax(values);
    (round_codes(values, d, 2), f32_to_f16(d))
}

/// Trit n of byte m goes to `codes[n * bytes.len() + m]`; `codes` is as many times as long as there are trits a byte.
#[inline(always)]
pub(super) fn unpack_trits(bytes: &[u8], codes: &mut [u8]) {
    let mut power = 1u8;
    for codes in codes.chunks_exact_mut(bytes.len()) {
        for (code, &byte) in codes.iter_mut().zip(bytes) {
            *code = ((byte.wrapping_mul(power) as u16 * 3) >> 8) as u8;
        }
        power = power.wrapping_mul(3);
    }
}

/// The inverse of [`unpack_trits`]. `bytes` must be zero.
#[inline(always)]
pub(super) fn pack_trits(codes: &[u8], bytes: &mut [u8]) {
    let mut power = 81u8;
    for codes in codes.chunks_exact(bytes.len()) {
        for (byte, &code) in bytes.iter_mut().zip(codes) {
            *byte = byte.wrapping_add(code.wrapping_mul(power));
        }
        power /= 3;
    }
    for byte in bytes {
        *byte = (*byte as u16 * 256).div_ceil(243) as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_layout() {
        let mut byte = [0];
        pack_trits(&[2, 1, 0, 0, 0], &mut byte);
        assert_eq!(byte, [200]);
    }

    #[test]
    fn every_quintuple_and_quadruple_survives() {
        for q in 0..243u16 {
            let trits = [81, 27, 9, 3, 1].map(|power| (q / power % 3) as u8);
            for count in [4, 5] {
                let (mut byte, mut back) = ([0], [9; 5]);
                pack_trits(&trits[..count], &mut byte);
                unpack_trits(&byte, &mut back[..count]);
                assert_eq!(back[..count], trits[..count]);
            }
        }
    }

    #[test]
    fn elements_stand_where_the_layout_says() {
        for (element, byte, trit) in [(0, 0, 0), (33, 1, 1), (159, 31, 4), (160, 32, 0), (239, 47, 4), (245, 49, 1)] {
            let mut codes = [0; LEN];
            codes[element] = 2;
            let q = 2 * [81u16, 27, 9, 3, 1][trit];
            let mut expected = [0; BYTES];
            expected[byte] = (q * 256).div_ceil(243) as u8;
            expected[52..].copy_from_slice(&[0x00, 0x3c]);
            assert_eq!(encode_block(&codes, 0x3c00), expected, "element {element}");
        }
    }
}
