//! The ternary product, once for all instruction sets: row tiles times blocks of tokens, in registers.
//!
//! For every row r and token t, groups g in ascending order:
//! `out = out + (w_scale[r, g] * x_scale[t, g]) * f32(sum over the group of (code - 1) * x)`, then `out * tensor_scale`.

use super::isa::Isa;
use super::output::Output;
use crate::ternary::{QuantizedRows, TILE_COLS, TILE_ROWS, TernaryMatrix, token_blocks};
use core::mem::MaybeUninit;
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
            if I::WIDE > 0 && len >= 4 {
                let tokens = Tokens {
                    codes: x.codes[first * x.cols..].as_ptr(),
                    scales: x.scales[first * groups..].as_ptr(),
                    sums: x.sums[first * groups..].as_ptr(),
                    stride: len,
                    first,
                };
                // SAFETY: as above.
                unsafe { many::<I>(m, &tokens, tile, out) };
                continue;
            }
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

/// Blocks that may be unpacked at a time, at most.
const UNPACKED: usize = 64;

/// A row tile times the 4, 8 or 16 tokens of a block, where codes are better unpacked once for all of them.
#[inline(always)]
unsafe fn many<I: Isa>(m: &TernaryMatrix, x: &Tokens, tile: usize, out: &Output<'_>) {
    const { assert!(I::WIDE <= UNPACKED) };
    let (blocks, groups, blocks_a_group) = (m.cols() / TILE_COLS, m.cols() / m.group(), m.group() / TILE_COLS);
    let codes = &m.blocks()[tile * blocks..][..blocks];
    let scales = m.scales()[tile * groups * TILE_ROWS..][..groups * TILE_ROWS].as_ptr();
    // SAFETY: `codes` and `scales` were sliced to the tile; `x` spans the columns of its tokens.
    unsafe {
        let mut wide = [MaybeUninit::<I::Wide>::uninit(); UNPACKED];
        let mut total = [I::splat_f32(0.0); 16];
        for g in 0..groups {
            let mut acc = [[I::splat(0); 4]; 4];
            let end = (g + 1) * blocks_a_group;
            for first in (g * blocks_a_group..end).step_by(I::WIDE) {
                let codes = &codes[first..end.min(first + I::WIDE)];
                for (wide, codes) in wide.iter_mut().zip(codes) {
                    wide.write(I::unpack(I::load(codes.0.as_ptr())));
                }
                let wide = core::slice::from_raw_parts(wide.as_ptr().cast::<I::Wide>(), codes.len());
                let quads = x.codes.add(first * TILE_COLS * x.stride);
                for (i, acc) in acc.iter_mut().enumerate().take(x.stride / 4) {
                    I::wide_dots(acc, wide, quads.add(i * 16), x.stride);
                }
            }
            let weight = I::load_f16(scales.add(g * TILE_ROWS));
            for (t, (total, acc)) in total.iter_mut().zip(acc.as_flattened()).enumerate().take(x.stride) {
                let scale = I::mul(weight, I::splat_f32(*x.scales.add(g * x.stride + t)));
                *total = I::add(*total, I::mul(scale, I::to_f32(*acc)));
            }
        }
        let tensor_scale = I::splat_f32(m.tensor_scale());
        for (t, total) in total.into_iter().enumerate().take(x.stride) {
            let mut rows = [0.0; TILE_ROWS];
            I::store_f32(rows.as_mut_ptr(), I::mul(total, tensor_scale));
            out.write(x.first + t, tile * TILE_ROWS, &rows);
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
