//! PTQ1_0 (id 143): 128 elements in 28 bytes, 1.75 bits a weight. Five trits a byte.
//!
//! ```text
//! byte   0                 16            24    26    28
//!        |  qs[0..16)      |  qs[16..24) | qh  |  d  |   d: f16, last
//!        |  trit n of byte |  trit n of  | trit n of byte h is el 120 + 2n + h, n < 4
//!        |  m is el 16n+m  |  byte m is  |
//!        |  n < 5          |  80 + 8n + m|
//! ```
//!
//! Bytes hold trits as in TQ1_0, see [`super::tq1_0`].

use super::half::f32_to_f16;
use super::quantizer::{absmax, round_codes};
use super::tq1_0::{pack_trits, unpack_trits};

/// Elements of a block.
pub const LEN: usize = 128;
/// Bytes of a block.
pub const BYTES: usize = 28;
/// Where its f16 scale begins.
pub const SCALES: [usize; 1] = [26];

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Block {
    qs: [u8; 24],
    qh: [u8; 2],
    d: [u8; 2],
}

const _: () = assert!(size_of::<Block>() == BYTES && 16 * 5 + 8 * 5 + 2 * 4 == LEN);

/// Takes a block apart: the codes (value + 1) and the scale's f16 bits.
#[inline]
pub fn decode_block(block: &[u8; BYTES], codes: &mut [u8; LEN]) -> u16 {
    let block: &Block = bytemuck::cast_ref(block);
    unpack_trits(&block.qs[..16], &mut codes[..80]);
    unpack_trits(&block.qs[16..], &mut codes[80..120]);
    unpack_trits(&block.qh, &mut codes[120..]);
    u16::from_le_bytes(block.d)
}

/// The inverse of [`decode_block`]. Codes must be at most 2.
#[inline]
pub fn encode_block(codes: &[u8; LEN], scale: u16) -> [u8; BYTES] {
    let mut block = Block { qs: [0; 24], qh: [0; 2], d: scale.to_le_bytes() };
    pack_trits(&codes[..80], &mut block.qs[..16]);
    pack_trits(&codes[80..120], &mut block.qs[16..]);
    pack_trits(&codes[120..], &mut block.qh);
    bytemuck::cast(block)
}

/// The reference quantizer: the scale is the largest magnitude, values round to the nearest of -1, 0, 1.
pub fn quantize_block(values: &[f32; LEN]) -> ([u8; LEN], u16) {
    let d = absmax(values);
    (round_codes(values, d, 2), f32_to_f16(d))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_stand_where_the_layout_says() {
        for (element, byte, trit) in [(0, 0, 0), (17, 1, 1), (79, 15, 4), (80, 16, 0), (119, 23, 4), (123, 25, 1)] {
            let mut codes = [0; LEN];
            codes[element] = 2;
            let q = 2 * [81u16, 27, 9, 3, 1][trit];
            let mut expected = [0; BYTES];
            expected[byte] = (q * 256).div_ceil(243) as u8;
            expected[26..].copy_from_slice(&[0x00, 0x3c]);
            assert_eq!(encode_block(&codes, 0x3c00), expected, "element {element}");
        }
    }
}
