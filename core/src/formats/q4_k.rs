//! Q4_K (id 12): 256 elements in 144 bytes, 4.5 bits a weight. Eight sub-blocks of 32 with a scale and a minimum each.
//!
//! ```text
//! byte   0     2       4             16                          144
//!        |  d  | dmin  | scales[12]  |  qs[128]                  |     d, dmin: f16
//!
//! el of sub-block s = (d * sc[s]) * q - dmin * mn[s]
//! sub-blocks 2c and 2c+1: low and high halves of qs[32c..32c+32)
//!
//! scales, 6 bits each:    byte b < 4:    bits 5..0 sc[b],   bits 7..6 upper 2 of sc[b+4]
//!                         byte b + 4:    bits 5..0 mn[b],   bits 7..6 upper 2 of mn[b+4]
//!                         byte b + 8:    bits 3..0 lower 4 of sc[b+4], bits 7..4 lower 4 of mn[b+4]
//! ```

use super::half::f16_to_f32;

/// Elements of a block.
pub const LEN: usize = 256;
/// Bytes of a block.
pub const BYTES: usize = 144;
/// Where its f16 scale and its f16 minimum begin.
pub const SCALES: [usize; 2] = [0, 2];

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Block {
    d: [u8; 2],
    dmin: [u8; 2],
    scales: [[u8; 4]; 3],
    qs: [[u8; 32]; 4],
}

const _: () = assert!(size_of::<Block>() == BYTES);

/// The values of a block.
#[inline(always)]
pub fn dequantize_block(block: &[u8; BYTES], out: &mut [f32; LEN]) {
    let block: &Block = bytemuck::cast_ref(block);
    let d = f16_to_f32(u16::from_le_bytes(block.d));
    let dmin = f16_to_f32(u16::from_le_bytes(block.dmin));
    let [low, mins, high] = &block.scales;
    let (mut scale, mut min) = ([0.0; 8], [0.0; 8]);
    for b in 0..4 {
        scale[b] = d * (low[b] & 63) as f32;
        min[b] = dmin * (mins[b] & 63) as f32;
        scale[b + 4] = d * ((high[b] & 15) | ((low[b] >> 2) & 48)) as f32;
        min[b + 4] = dmin * ((high[b] >> 4) | ((mins[b] >> 2) & 48)) as f32;
    }
    for c in 0..4 {
        for m in 0..32 {
            out[64 * c + m] = scale[2 * c] * (block.qs[c][m] & 15) as f32 - min[2 * c];
        }
        for m in 0..32 {
            out[64 * c + 32 + m] = scale[2 * c + 1] * (block.qs[c][m] >> 4) as f32 - min[2 * c + 1];
        }
    }
}
