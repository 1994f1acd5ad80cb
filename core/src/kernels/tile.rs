//! The ternary product, once for all instruction sets: row tiles times blocks of tokens, in registers.
//!
//! For every row r and token t, groups g in ascending order:
//! `out = out + (w_scale[r, g] * x_scale[t, g]) * f32(sum over the group of (code - 1) * x)`, then `out * tensor_scale`.

use super::isa::Isa;
use super::output::Output;
use crate::ternary::{QuantizedRows, TILE_COLS, TILE_ROWS, TernaryMatrix, token_blocks};
use core::ops::Range;

/// A block of tokens as the inner loop sees it.
struct Tokens {
    /// `[cols / 4, stride, 4]`, from this register block's first token on.
    codes: *const i8,
    /// `[groups, stride]`
    scales: *const f32,
    /// `[groups, stride]`
    sums: *const i32,
    stride: usize,
    first: usize,
}

/// Computes the rows of `tiles` for all tokens of `x`.
///
/// # Safety
/// The instruction set of `I` is present; no other thread writes these rows of `out`.
#[inline(always)]
pub(super) unsafe fn ternary<I: Isa>(m: &TernaryMatrix, x: &QuantizedRows, tiles: Range<usize>, out: &Output<'_>) {
    assert!(x.cols == m.cols() && x.group == m.group() && tiles.end <= m.tiles());
    assert!(out.tokens() == x.n && out.rows() == m.rows());
    let groups = x.cols / x.group;
    // One token: nothing is reused, so walk several tiles at once.
    if x.n == 1 {
        let mut tile = tiles.start;
        let tokens =
            Tokens { codes: x.codes.as_ptr(), scales: x.scales.as_ptr(), sums: x.sums.as_ptr(), stride: 1, first: 0 };
        while tile + I::TILES <= tiles.end {
            // SAFETY: the caller's; tiles and extents were checked above.
            unsafe {
                match I::TILES {
                    4 => micro::<I, 4, 1>(m, &tokens, tile, out),
                    2 => micro::<I, 2, 1>(m, &tokens, tile, out),
                    _ => micro::<I, 1, 1>(m, &tokens, tile, out),
                }
            };
            tile += I::TILES;
        }
        while tile < tiles.end {
            // SAFETY: as above.
            unsafe { micro::<I, 1, 1>(m, &tokens, tile, out) };
            tile += 1;
        }
        return;
    }
    for tile in tiles {
        for (first, len) in token_blocks(x.n) {
            let step = len.min(I::TOKENS);
            for at in (0..len).step_by(step) {
                let tokens = Tokens {
                    codes: x.codes[first * x.cols + at * 4..].as_ptr(),
                    scales: x.scales[first * groups + at..].as_ptr(),
                    sums: x.sums[first * groups + at..].as_ptr(),
                    stride: len,
                    first: first + at,
                };
                // SAFETY: as above; a block of `len` tokens spans `len * cols` codes from `first * cols` on.
                unsafe {
                    match step {
                        16 => micro::<I, 1, 16>(m, &tokens, tile, out),
                        8 => micro::<I, 1, 8>(m, &tokens, tile, out),
                        4 => micro::<I, 1, 4>(m, &tokens, tile, out),
                        2 => micro::<I, 1, 2>(m, &tokens, tile, out),
                        _ => micro::<I, 1, 1>(m, &tokens, tile, out),
                    }
                }
            }
        }
    }
}

/// `M` row tiles from `tile` on, times `T` tokens.
#[inline(always)]
unsafe fn micro<I: Isa, const M: usize, const T: usize>(m: &TernaryMatrix, x: &Tokens, tile: usize, out: &Output<'_>) {
    let (blocks, groups, blocks_a_group) = (m.cols() / TILE_COLS, m.cols() / m.group(), m.group() / TILE_COLS);
    let codes = m.blocks()[tile * blocks..][..M * blocks].as_ptr().cast::<u8>();
    let scales = m.scales()[tile * groups * TILE_ROWS..][..M * groups * TILE_ROWS].as_ptr();
    // SAFETY: `codes` and `scales` were sliced to M tiles; `x` spans the columns of its tokens.
    unsafe {
        let mut total = [[I::splat_f32(0.0); T]; M];
        for g in 0..groups {
            let mut acc = [[I::splat(0); T]; M];
            for t in 0..T {
                // The codes are the weights plus one.
                let start = I::splat((*x.sums.add(g * x.stride + t)).wrapping_neg());
                for tile in &mut acc {
                    tile[t] = start;
                }
            }
            let end = (g + 1) * blocks_a_group;
            let mut block = g * blocks_a_group;
            while block < end {
                let stop = end.min(block + I::DOTS / 4);
                let mut part = [[I::begin(acc[0][0]); T]; M];
                for i in 0..M {
                    for t in 0..T {
                        part[i][t] = I::begin(acc[i][t]);
                    }
                }
                while block < stop {
                    let mut bytes = [I::load(codes.add(block * 64)); M];
                    for i in 1..M {
                        bytes[i] = I::load(codes.add((i * blocks + block) * 64));
                    }
                    let quads = x.codes.add(block * TILE_COLS * x.stride);
                    part = dots::<I, 0, M, T>(part, bytes, quads, x.stride);
                    part = dots::<I, 1, M, T>(part, bytes, quads, x.stride);
                    part = dots::<I, 2, M, T>(part, bytes, quads, x.stride);
                    part = dots::<I, 3, M, T>(part, bytes, quads, x.stride);
                    block += 1;
                }
                for i in 0..M {
                    for t in 0..T {
                        acc[i][t] = I::end(acc[i][t], part[i][t]);
                    }
                }
            }
            for i in 0..M {
                let weight = I::load_f16(scales.add((i * groups + g) * TILE_ROWS));
                for t in 0..T {
                    let scale = I::mul(weight, I::splat_f32(*x.scales.add(g * x.stride + t)));
                    total[i][t] = I::add(total[i][t], I::mul(scale, I::to_f32(acc[i][t])));
                }
            }
        }
        let tensor_scale = I::splat_f32(m.tensor_scale());
        for i in 0..M {
            for t in 0..T {
                let mut rows = [0.0; TILE_ROWS];
                I::store_f32(rows.as_mut_ptr(), I::mul(total[i][t], tensor_scale));
                out.write(x.first + t, (tile + i) * TILE_ROWS, &rows);
            }
        }
    }
}

/// The four columns at shift `S` of a block, for `M` tiles and `T` tokens.
#[inline(always)]
unsafe fn dots<I: Isa, const S: i32, const M: usize, const T: usize>(
    mut part: [[I::Part; T]; M],
    bytes: [I::Bytes; M],
    quads: *const i8,
    stride: usize,
) -> [[I::Part; T]; M] {
    // SAFETY: the caller's: `quads` spans 16 columns of `stride` tokens.
    unsafe {
        let mut codes = [I::codes::<S>(bytes[0]); M];
        for i in 1..M {
            codes[i] = I::codes::<S>(bytes[i]);
        }
        let quads = quads.add(S as usize * 4 * stride);
        for t in 0..T {
            let quad = I::quad::<S>(quads.add(t * 4));
            for i in 0..M {
                part[i][t] = I::dot(part[i][t], codes[i], quad);
            }
        }
    }
    part
}
