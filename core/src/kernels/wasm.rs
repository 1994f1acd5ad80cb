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
        type Codes = [v128; 4];
        type Quad = v128;
        type Acc = [v128; 4];
        type F = [v128; 4];

        #[inline(always)]
        unsafe fn load(from: *const u8) -> Self::Bytes {
            let from = from.cast::<v128>();
            // SAFETY: the caller's: 64 bytes are readable.
            unsafe { [v128_load(from), v128_load(from.add(1)), v128_load(from.add(2)), v128_load(from.add(3))] }
        }

        #[inline(always)]
        unsafe fn codes<const S: i32>(bytes: Self::Bytes) -> Self::Codes {
            bytes.map(|byte| v128_and(u16x8_shr(byte, 2 * S as u32), u8x16_splat(3)))
        }

        #[inline(always)]
        unsafe fn quad(from: *const i8) -> Self::Quad {
            // SAFETY: the caller's: four bytes are readable.
            unsafe { v128_load32_splat(from.cast()) }
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
            unsafe { [widen(from), widen(from.add(4)), widen(from.add(8)), widen(from.add(12))] }
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
    };
}

/// Widens four f16: the bits are moved into place, normals get the exponent's bias added, subnormals are converted as
/// integers (times 2^-24), infinities and NaNs keep an exponent of all ones.
#[inline(always)]
unsafe fn widen(from: *const u16) -> v128 {
    // SAFETY: the caller's: 4 f16 are readable.
    let half = unsafe { u32x4_load_extend_u16x4(from) };
    let magnitude = v128_and(half, u32x4_splat(0x7fff));
    let sign = u32x4_shl(v128_and(half, u32x4_splat(0x8000)), 16);
    let moved = u32x4_shl(magnitude, 13);
    let normal = u32x4_add(moved, u32x4_splat(112 << 23));
    let subnormal = f32x4_mul(f32x4_convert_i32x4(magnitude), f32x4_splat(1.0 / 16_777_216.0));
    let special = v128_or(moved, u32x4_splat(0x7f80_0000));
    let wide = v128_bitselect(subnormal, normal, i32x4_lt(magnitude, i32x4_splat(0x0400)));
    let wide = v128_bitselect(special, wide, i32x4_gt(magnitude, i32x4_splat(0x7bff)));
    v128_or(wide, sign)
}

impl Isa for Simd128 {
    common!();

    /// i16 products of four columns, of rows 0-1 and 2-3 of each register.
    type Part = [[v128; 2]; 4];
    const TOKENS: usize = 2;
    /// A product adds at most 3 * 128 to an i16, so 85 would fit.
    const DOTS: usize = 64;

    #[inline(always)]
    unsafe fn begin(_: Self::Acc) -> Self::Part {
        [[i16x8_splat(0); 2]; 4]
    }

    #[inline(always)]
    unsafe fn dot(mut part: Self::Part, codes: Self::Codes, quad: Self::Quad) -> Self::Part {
        for (part, codes) in part.iter_mut().zip(codes) {
            part[0] = i16x8_add(part[0], i16x8_extmul_low_i8x16(codes, quad));
            part[1] = i16x8_add(part[1], i16x8_extmul_high_i8x16(codes, quad));
        }
        part
    }

    #[inline(always)]
    unsafe fn end(mut acc: Self::Acc, part: Self::Part) -> Self::Acc {
        for (acc, [low, high]) in acc.iter_mut().zip(part) {
            let (low, high) = (i32x4_extadd_pairwise_i16x8(low), i32x4_extadd_pairwise_i16x8(high));
            let sum = i32x4_add(i32x4_shuffle::<0, 2, 4, 6>(low, high), i32x4_shuffle::<1, 3, 5, 7>(low, high));
            *acc = i32x4_add(*acc, sum);
        }
        acc
    }
}

#[cfg(target_feature = "relaxed-simd")]
impl Isa for Relaxed {
    common!();

    type Part = Self::Acc;
    const TOKENS: usize = 4;
    const DOTS: usize = 1 << 20;

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
