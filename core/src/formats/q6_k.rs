//! Q6_K (id 14): 256 elements in 210 bytes, 6.5625 bits a weight. Sixteen sub-blocks of 16 with a scale each.
//!
//! ```text
//! byte   0                128        192           208   210
//!        |  ql[128]       |  qh[64]  |  scales[16] |  d  |     scales: i8; d: f16, last
//!
//! el = (d * scales[el / 16]) * (q - 32); for half h (el 128h..), quarter k (el 128h + 32k + m), m < 32:
//! q = low 4 bits from ql[64h + 32(k % 2) + m], its low nibble for k < 2, its high one else
//!   + upper 2 bits from bits 2k+1..2k of qh[32h + m]
//! ```

use super::half::f16_to_f32;

/// Elements of a block.
pub const LEN: usize = 256;
/// Bytes of a block.
pub const BYTES: usize = 210;
/// Where its f16 scale begins.
pub const SCALES: [usize; 1] = [208];

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Block {
    ql: [[[u8; 32]; 2]; 2],
    qh: [[u8; 32]; 2],
    scales: [i8; 16],
    d: [u8; 2],
}

const _: () = assert!(size_of::<Block>() == BYTES);

/// The values of a block.
#[inline(always)]
pub fn dequantize_block(block: &[u8; BYTES], out: &mut [f32; LEN]) {
    let block: &Block = bytemuck::cast_ref(block);
    let d = f16_to_f32(u16::from_le_bytes(block.d));
    let mut scale = [0.0; 16];
    for s in 0..16 {
        scale[s] = d * block.scales[s] as f32;
    }
    for h in 0..2 {
        for k in 0..4 {
            // Plain arrays of one width a step: the shape that vectorizes on every target.
            let mut q = [0u8; 32];
            for m in 0..32 {
                let low = (block.ql[h][k % 2][m] >> (4 * (k / 2))) & 15;
                let high = (block.qh[h][m] >> (2 * k)) & 3;
                q[m] = low | high << 4;
            }
            for m in 0..32 {
                out[128 * h + 32 * k + m] = scale[8 * h + 2 * k + m / 16] * (q[m] as i32 - 32) as f32;
            }
        }
    }
}
