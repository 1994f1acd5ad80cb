//! Q8_0 (id 8): 32 elements in 34 bytes, 8.5 bits a weight.
//!
//! ```text
//! byte   0     2                    34
//!        |  d  |  qs[32]            |       d: f16; qs: i8, el j = d * qs[j]
//! ```

use super::half::{f16_to_f32, f32_to_f16};
use super::quantizer::absmax;

/// Elements of a block.
pub const LEN: usize = 32;
/// Bytes of a block.
pub const BYTES: usize = 34;
/// Where its f16 scale begins.
pub const SCALES: [usize; 1] = [0];

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Block {
    d: [u8; 2],
    qs: [i8; LEN],
}

const _: () = assert!(size_of::<Block>() == BYTES);

/// The values of a block.
#[inline(always)]
pub fn dequantize_block(block: &[u8; BYTES], out: &mut [f32; LEN]) {
    let block: &Block = bytemuck::cast_ref(block);
    let d = f16_to_f32(u16::from_le_bytes(block.d));
    for j in 0..LEN {
        out[j] = block.qs[j] as f32 * d;
    }
}

/// ggml's reference quantizer: d = largest magnitude / 127, halves rounded away from zero.
pub fn quantize_block(values: &[f32; LEN]) -> [u8; BYTES] {
    let d = absmax(values) / 127.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    let qs = values.map(|value| (value * inverse).round() as i8);
    bytemuck::cast(Block { d: f32_to_f16(d).to_le_bytes(), qs })
}
