//! Q4_0 (id 2): 32 elements in 18 bytes, 4.5 bits a weight.
//!
//! ```text
//! byte   0     2                 18
//!        |  d  |  qs[16]         |          d: f16
//!
//! byte 2 + j:   bits 7..4  |  3..0
//!               el   j+16     j             el = d * (q - 8)
//! ```

use super::half::f16_to_f32;

/// Elements of a block.
pub const LEN: usize = 32;
/// Bytes of a block.
pub const BYTES: usize = 18;
/// Where its f16 scale begins.
pub const SCALES: [usize; 1] = [0];

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Block {
    d: [u8; 2],
    qs: [u8; LEN / 2],
}

const _: () = assert!(size_of::<Block>() == BYTES);

/// The values of a block.
#[inline(always)]
pub fn dequantize_block(block: &[u8; BYTES], out: &mut [f32; LEN]) {
    let block: &Block = bytemuck::cast_ref(block);
    let d = f16_to_f32(u16::from_le_bytes(block.d));
    for j in 0..LEN / 2 {
        out[j] = ((block.qs[j] & 15) as i32 - 8) as f32 * d;
        out[j + LEN / 2] = ((block.qs[j] >> 4) as i32 - 8) as f32 * d;
    }
}
