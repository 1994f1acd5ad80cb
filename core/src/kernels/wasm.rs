//! WebAssembly SIMD128, and relaxed SIMD's integer dot product where the build enables it.
//!
//! The relaxed dot takes one operand of seven bits: that is the codes, so every engine gives the exact sum.

use super::isa::Isa;
use core::arch::wasm32::*;

/// Baseline SIMD128.
#[derive(Clone, Copy)]
pub(super) struct Simd128;

/// With the relaxed integer dot product.
#[cfg(target_feature = "relaxed-simd")]
#[derive(Clone, Copy)]
pub(super) struct Relaxed;

/// What both share: everything but the dot product.
macro_rules! common {
    () => {
        type Bytes = [v128; 4];
        type Acc = [v128; 4];
        type F = [v128; 4];

        #[inline(always)]
        unsafe fn load(from: *const u8) -> Self::Bytes {
            let from = from.cast::<v128>();
            // SAFETY: the caller's: 64 bytes are readable.
            unsafe { [v128_load(from), v128_load(from.add(1)), v128_load(from.add(2)), v128_load(from.add(3))] }
        }

        #[inline(always)]
        unsafe fn splat(value: i32) -> Self::Acc {
            [i32x4_splat(value); 4]
        }

        #[inline(always)]
        unsafe fn to_f32(acc: Self::Acc) -> Self::F {
            acc.map(|lanes| f32x4_convert_i32x4(lanes))
        }

        #[inline(always)]
        unsafe fn load_f16(from: *const u16) -> Self::F {
            // SAFETY: the caller's: 16 f16 are readable.
            unsafe { widen(from) }
        }

        #[inline(always)]
        unsafe fn load_f32(from: *const f32) -> Self::F {
            // SAFETY: the caller's: 16 f32 are readable.
            unsafe { Self::load(from.cast()) }
        }

        #[inline(always)]
        unsafe fn store_f32(to: *mut f32, value: Self::F) {
            for (i, value) in value.into_iter().enumerate() {
                // SAFETY: the caller's: 16 f32 are writable.
                unsafe { v128_store(to.add(i * 4).cast(), value) };
            }
        }

        #[inline(always)]
        unsafe fn splat_f32(value: f32) -> Self::F {
            [f32x4_splat(value); 4]
        }

        #[inline(always)]
        unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
            [f32x4_add(a[0], b[0]), f32x4_add(a[1], b[1]), f32x4_add(a[2], b[2]), f32x4_add(a[3], b[3])]
        }

        #[inline(always)]
        unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
            [f32x4_mul(a[0], b[0]), f32x4_mul(a[1], b[1]), f32x4_mul(a[2], b[2]), f32x4_mul(a[3], b[3])]
        }

        #[inline(always)]
        unsafe fn fold(value: Self::F) -> f32 {
            let four = f32x4_add(f32x4_add(value[0], value[2]), f32x4_add(value[1], value[3]));
            let two = f32x4_add(four, i32x4_shuffle::<2, 3, 0, 1>(four, four));
            f32x4_extract_lane::<0>(two) + f32x4_extract_lane::<1>(two)
        }
    };
}

/// Widens sixteen f16. Sign, exponent and mantissa move to their places; one product makes up for the other bias of the
/// exponent, and is exact for subnormals too. Infinities and NaNs, which it would make numbers, go another way.
#[inline(always)]
unsafe fn widen(from: *const u16) -> [v128; 4] {
    // SAFETY: the caller's: 16 f16 are readable.
    let (a, b) = unsafe { (v128_load(from.cast()), v128_load(from.add(8).cast())) };
    let magnitude = u16x8_splat(0x7fff);
    let largest = i16x8_max(v128_and(a, magnitude), v128_and(b, magnitude));
    if v128_any_true(i16x8_gt(largest, i16x8_splat(0x7bff))) {
        return widen_special(a, b);
    }
    let mut wide =
        [i32x4_extend_low_i16x8(a), i32x4_extend_high_i16x8(a), i32x4_extend_low_i16x8(b), i32x4_extend_high_i16x8(b)];
    for wide in &mut wide {
        // The sign was extended into the three bits that the wider exponent has more.
        let moved = v128_and(i32x4_shl(*wide, 13), u32x4_splat(0x8fff_ffff));
        // 2^112, the difference of the biases.
        *wide = f32x4_mul(moved, u32x4_splat((127 + 112) << 23));
    }
    wide
}

/// As [`widen`], for any f16: infinities and NaNs keep their mantissa and get an exponent of all ones.
#[cold]
fn widen_special(a: v128, b: v128) -> [v128; 4] {
    [u32x4_extend_low_u16x8(a), u32x4_extend_high_u16x8(a), u32x4_extend_low_u16x8(b), u32x4_extend_high_u16x8(b)].map(
        |half| {
            let magnitude = v128_and(half, u32x4_splat(0x7fff));
            let sign = u32x4_shl(v128_and(half, u32x4_splat(0x8000)), 16);
            let moved = u32x4_shl(magnitude, 13);
            let number = f32x4_mul(moved, u32x4_splat((127 + 112) << 23));
            let special = v128_or(moved, u32x4_splat(0x7f80_0000));
            let wide = v128_bitselect(special, number, i32x4_gt(magnitude, i32x4_splat(0x7bff)));
            v128_or(wide, sign)
        },
    )
}

/// There is no product of bytes, but one of 16-bit lanes that adds neighbours into 32 bits. Codes stay where they are in the
/// bytes, so that a mask is all that it takes to get at them: the code of shift S comes out 4^S times too large, its
/// activation is made 4^(3-S) times larger, and so all sums are 64 times theirs.
impl Isa for Simd128 {
    common!();

    /// Of even columns, then of odd ones, in the low byte of 16-bit lanes.
    type Codes = [[v128; 2]; 4];
    /// Activations of even columns, then of odd ones, in 16-bit lanes.
    type Quad = [v128; 2];
    /// 64 times the sums.
    type Part = [v128; 4];
    /// For each shift: rows 0 to 7 and 8 to 15, each even columns, then odd ones. A 16-bit lane is the weight of one row plus
    /// 2^13 times that of the row four further on, so that one product is two.
    type Wide = [[[v128; 2]; 2]; 4];
    const TILES: usize = 2;
    const TOKENS: usize = 4;
    const SUMS: usize = 2;
    /// A dot product adds at most 64 * 4 * 3 * 128, so 21845 would fit.
    const DOTS: usize = 1 << 14;
    /// The sums of 1024 columns are at most 2 * 128 * 1024 = 2^18, which is what 32 bits hold above the 13 of the lower row.
    const WIDE: usize = 64;

    #[inline(always)]
    unsafe fn codes<const S: i32>(bytes: Self::Bytes) -> Self::Codes {
        let mask = u16x8_splat(3 << (2 * S));
        bytes.map(|byte| [v128_and(byte, mask), v128_and(u16x8_shr(byte, 8), mask)])
    }

    #[inline(always)]
    unsafe fn quad<const S: i32>(from: *const i8) -> Self::Quad {
        // SAFETY: the caller's: four bytes are readable.
        let bytes = unsafe { v128_load32_splat(from.cast()) };
        let shift = 2 + 2 * S as u32;
        [i16x8_shr(i16x8_shl(bytes, 8), shift), i16x8_shr(v128_and(bytes, u16x8_splat(0xff00)), shift)]
    }

    #[inline(always)]
    unsafe fn begin(_: Self::Acc) -> Self::Part {
        [i32x4_splat(0); 4]
    }

    #[inline(always)]
    unsafe fn dot(mut part: Self::Part, codes: Self::Codes, quad: Self::Quad) -> Self::Part {
        for (part, codes) in part.iter_mut().zip(codes) {
            *part = i32x4_add(*part, i32x4_dot_i16x8(codes[0], quad[0]));
            *part = i32x4_add(*part, i32x4_dot_i16x8(codes[1], quad[1]));
        }
        part
    }

    #[inline(always)]
    unsafe fn end(mut acc: Self::Acc, part: Self::Part) -> Self::Acc {
        for (acc, part) in acc.iter_mut().zip(part) {
            *acc = i32x4_add(*acc, i32x4_shr(part, 6));
        }
        acc
    }

    #[inline(always)]
    unsafe fn unpack(bytes: Self::Bytes) -> Self::Wide {
        // Codes are the weights plus one, in both rows.
        let both = |low: v128, high: v128| {
            let codes = v128_or(v128_and(low, u16x8_splat(3)), v128_and(high, u16x8_splat(3 << ROW)));
            i16x8_sub(codes, i16x8_splat(1 | 1 << ROW))
        };
        core::array::from_fn(|shift| {
            let at = 2 * shift as u32;
            [[bytes[0], bytes[1]], [bytes[2], bytes[3]]].map(|[low, high]| {
                let odd = match shift {
                    3 => u16x8_shr(high, 8 + at - ROW),
                    _ => i16x8_shl(high, ROW - 8 - at),
                };
                [both(u16x8_shr(low, at), i16x8_shl(high, ROW - at)), both(u16x8_shr(low, 8 + at), odd)]
            })
        })
    }

    #[inline(always)]
    unsafe fn wide_dots(acc: &mut [Self::Acc; 4], blocks: &[Self::Wide], quads: *const i8, stride: usize) {
        let zero = i32x4_splat(0);
        // Of both rows together, and of the lower one alone.
        let (mut all, mut low) = ([[zero; 2]; 4], [[zero; 2]; 4]);
        for (i, block) in blocks.iter().enumerate() {
            let mut sums = [[zero; 2]; 4];
            for (shift, weights) in block.iter().enumerate() {
                for (t, sums) in sums.iter_mut().enumerate() {
                    // SAFETY: the caller's: `quads` spans the columns of all blocks and the four tokens.
                    let quad = unsafe { v128_load32_splat(quads.add(((i * 4 + shift) * stride + t) * 4).cast()) };
                    let (even, odd) = (i16x8_shr(i16x8_shl(quad, 8), 8), i16x8_shr(quad, 8));
                    for (sum, weights) in sums.iter_mut().zip(weights) {
                        *sum = i32x4_add(*sum, i32x4_dot_i16x8(weights[0], even));
                        *sum = i32x4_add(*sum, i32x4_dot_i16x8(weights[1], odd));
                    }
                }
            }
            // Over 16 columns the lower row's sum is from -2^12 to 16 * 2 * 127, so its 13 bits have its sign.
            for ((all, low), sums) in all.iter_mut().zip(&mut low).zip(sums) {
                for ((all, low), sum) in all.iter_mut().zip(low).zip(sums) {
                    *all = i32x4_add(*all, sum);
                    *low = i32x4_add(*low, i32x4_shr(i32x4_shl(sum, 32 - ROW), 32 - ROW));
                }
            }
        }
        for ((acc, all), low) in acc.iter_mut().zip(all).zip(low) {
            for (i, (all, low)) in all.into_iter().zip(low).enumerate() {
                acc[2 * i] = i32x4_add(acc[2 * i], low);
                acc[2 * i + 1] = i32x4_add(acc[2 * i + 1], i32x4_shr(i32x4_sub(all, low), ROW));
            }
        }
    }
}

/// Bits between the two rows of a lane of [`Simd128::Wide`](Isa::Wide).
const ROW: u32 = 13;

#[cfg(target_feature = "relaxed-simd")]
impl Isa for Relaxed {
    common!();

    type Codes = [v128; 4];
    type Quad = v128;
    type Part = Self::Acc;
    type Wide = ();
    const TILES: usize = 2;
    const TOKENS: usize = 8;
    const SUMS: usize = 2;
    const DOTS: usize = 1 << 20;

    #[inline(always)]
    unsafe fn codes<const S: i32>(bytes: Self::Bytes) -> Self::Codes {
        bytes.map(|byte| v128_and(u16x8_shr(byte, 2 * S as u32), u8x16_splat(3)))
    }

    #[inline(always)]
    unsafe fn quad<const S: i32>(from: *const i8) -> Self::Quad {
        // SAFETY: the caller's: four bytes are readable.
        unsafe { v128_load32_splat(from.cast()) }
    }

    #[inline(always)]
    unsafe fn begin(acc: Self::Acc) -> Self::Part {
        acc
    }

    #[inline(always)]
    unsafe fn dot(mut part: Self::Part, codes: Self::Codes, quad: Self::Quad) -> Self::Part {
        for (part, codes) in part.iter_mut().zip(codes) {
            *part = i32x4_relaxed_dot_i8x16_i7x16_add(quad, codes, *part);
        }
        part
    }

    #[inline(always)]
    unsafe fn end(_: Self::Acc, part: Self::Part) -> Self::Acc {
        part
    }
}
