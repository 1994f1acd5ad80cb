//! NEON: with the dot product extension four products a lane in one instruction (sdot), else i16 sums widened every 64.

use super::isa::Isa;
use core::arch::aarch64::*;
use core::arch::asm;

/// Baseline ARMv8.
#[derive(Clone, Copy)]
pub(super) struct Neon;

/// With the dot product extension (ARMv8.2 and later).
#[derive(Clone, Copy)]
pub(super) struct NeonDot;

/// What both share: everything but the dot product.
macro_rules! common {
    ($features:literal) => {
        type Bytes = [uint8x16_t; 4];
        type Codes = [int8x16_t; 4];
        type Quad = int8x16_t;
        type Acc = [int32x4_t; 4];
        type F = [float32x4_t; 4];

        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn load(from: *const u8) -> Self::Bytes {
            // SAFETY: the caller's: 64 bytes are readable.
            unsafe { [vld1q_u8(from), vld1q_u8(from.add(16)), vld1q_u8(from.add(32)), vld1q_u8(from.add(48))] }
        }

        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn codes<const S: i32>(bytes: Self::Bytes) -> Self::Codes {
            let mut codes = [vdupq_n_s8(0); 4];
            for (code, byte) in codes.iter_mut().zip(bytes) {
                *code = vreinterpretq_s8_u8(match S {
                    0 => vandq_u8(byte, vdupq_n_u8(3)),
                    1 => vandq_u8(vshrq_n_u8::<2>(byte), vdupq_n_u8(3)),
                    2 => vandq_u8(vshrq_n_u8::<4>(byte), vdupq_n_u8(3)),
                    _ => vshrq_n_u8::<6>(byte),
                });
            }
            codes
        }

        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn quad<const S: i32>(from: *const i8) -> Self::Quad {
            // SAFETY: the caller's: four bytes are readable.
            vreinterpretq_s8_s32(vdupq_n_s32(unsafe { from.cast::<i32>().read_unaligned() }))
        }

        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn splat(value: i32) -> Self::Acc {
            [vdupq_n_s32(value); 4]
        }

        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn to_f32(acc: Self::Acc) -> Self::F {
            [vcvtq_f32_s32(acc[0]), vcvtq_f32_s32(acc[1]), vcvtq_f32_s32(acc[2]), vcvtq_f32_s32(acc[3])]
        }

        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn load_f16(from: *const u16) -> Self::F {
            let mut wide = [vdupq_n_f32(0.0); 4];
            for (i, wide) in wide.iter_mut().enumerate() {
                // SAFETY: the caller's: 16 f16 are readable; fcvtl is part of baseline ARMv8.
                unsafe {
                    let narrow = vld1_u16(from.add(i * 4));
                    asm!("fcvtl {wide:v}.4s, {narrow:v}.4h", wide = lateout(vreg) *wide, narrow = in(vreg) narrow,
                        options(pure, nomem, nostack, preserves_flags));
                }
            }
            wide
        }

        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn load_f32(from: *const f32) -> Self::F {
            // SAFETY: the caller's: 16 f32 are readable.
            unsafe { [vld1q_f32(from), vld1q_f32(from.add(4)), vld1q_f32(from.add(8)), vld1q_f32(from.add(12))] }
        }

        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn store_f32(to: *mut f32, value: Self::F) {
            for (i, value) in value.into_iter().enumerate() {
                // SAFETY: the caller's: 16 f32 are writable.
                unsafe { vst1q_f32(to.add(i * 4), value) };
            }
        }

        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn splat_f32(value: f32) -> Self::F {
            [vdupq_n_f32(value); 4]
        }

        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
            [vaddq_f32(a[0], b[0]), vaddq_f32(a[1], b[1]), vaddq_f32(a[2], b[2]), vaddq_f32(a[3], b[3])]
        }

        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
            [vmulq_f32(a[0], b[0]), vmulq_f32(a[1], b[1]), vmulq_f32(a[2], b[2]), vmulq_f32(a[3], b[3])]
        }
    };
}

impl Isa for NeonDot {
    common!("neon,dotprod");

    type Part = Self::Acc;
    type Wide = ();
    const TILES: usize = 4;
    const TOKENS: usize = 4;
    const SUMS: usize = 4;
    const DOTS: usize = 1 << 20;

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn begin(acc: Self::Acc) -> Self::Part {
        acc
    }

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn dot(mut part: Self::Part, codes: Self::Codes, quad: Self::Quad) -> Self::Part {
        for (part, codes) in part.iter_mut().zip(codes) {
            // The intrinsic is not stable in Rust 1.95.
            // SAFETY: the dot product extension is present.
            unsafe {
                asm!("sdot {part:v}.4s, {codes:v}.16b, {quad:v}.16b", part = inlateout(vreg) *part, codes = in(vreg) codes,
                    quad = in(vreg) quad, options(pure, nomem, nostack, preserves_flags));
            }
        }
        part
    }

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn end(_: Self::Acc, part: Self::Part) -> Self::Acc {
        part
    }
}

impl Isa for Neon {
    common!("neon");

    /// i16 products of four columns, of rows 0-1 and 2-3 of each register.
    type Part = [[int16x8_t; 2]; 4];
    type Wide = ();
    const TILES: usize = 4;
    const TOKENS: usize = 2;
    const SUMS: usize = 4;
    /// A product adds at most 3 * 128 to an i16, so 85 would fit.
    const DOTS: usize = 64;

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn begin(_: Self::Acc) -> Self::Part {
        [[vdupq_n_s16(0); 2]; 4]
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn dot(mut part: Self::Part, codes: Self::Codes, quad: Self::Quad) -> Self::Part {
        for (part, codes) in part.iter_mut().zip(codes) {
            part[0] = vmlal_s8(part[0], vget_low_s8(codes), vget_low_s8(quad));
            part[1] = vmlal_high_s8(part[1], codes, quad);
        }
        part
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn end(mut acc: Self::Acc, part: Self::Part) -> Self::Acc {
        for (acc, part) in acc.iter_mut().zip(part) {
            *acc = vaddq_s32(*acc, vpaddq_s32(vpaddlq_s16(part[0]), vpaddlq_s16(part[1])));
        }
        acc
    }
}
