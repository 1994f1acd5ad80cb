//! PQ2_0 (id 142) and the legacy Q2_0 with group 128 (id 42): 128 elements in 34 bytes, 2.125 bits a weight.
//!
//! ```text
//! byte   0     2                                  34
//!        |  d  |  qs[32]                          |          d: f16, first
//!
//! byte 2 + i:   bits 7 6 | 5 4 | 3 2 | 1 0
//!               el  4i+3   4i+2  4i+1   4i
//! ```
//!
//! The codec is that of Q2_0 with its group of 64, see [`super::q2_0`].

pub use super::q2_0::{decode_block, encode_block, quantize_block};

/// Elements of a block.
pub const LEN: usize = 128;
/// Bytes of a block.
pub const BYTES: usize = 34;
/// Where its f16 scale begins.
pub const SCALES: [usize; 1] = [0];

const _: () = assert!(2 + LEN / 4 == BYTES);
