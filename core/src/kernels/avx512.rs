//! AVX-512 VNNI: four products a lane in one instruction (vpdpbusd), sixteen lanes a register.

use super::isa::Isa;
use core::arch::x86_64::*;

#[derive(Clone, Copy)]
pub(super) struct Avx512Vnni;

impl Isa for Avx512Vnni {
    type Bytes = __m512i;
    type Codes = __m512i;
    type Quad = __m512i;
    type Acc = __m512i;
    type Part = __m512i;
    type Wide = ();
    type F = __m512;

    const TILES: usize = 4;
    const TOKENS: usize = 16;
    const SUMS: usize = 8;
    /// Products go straight into i32: there is nothing to overflow, and few interruptions are best.
    const DOTS: usize = 1 << 20;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn load(from: *const u8) -> Self::Bytes {
        // SAFETY: the caller's: 64 bytes are readable.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn codes<const S: i32>(bytes: Self::Bytes) -> Self::Codes {
        let mask = _mm512_set1_epi8(3);
        match S {
            0 => _mm512_and_si512(bytes, mask),
            1 => _mm512_and_si512(_mm512_srli_epi16::<2>(bytes), mask),
            2 => _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), mask),
            _ => _mm512_and_si512(_mm512_srli_epi16::<6>(bytes), mask),
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn quad<const S: i32>(from: *const i8) -> Self::Quad {
        // SAFETY: the caller's: four bytes are readable.
        _mm512_set1_epi32(unsafe { from.cast::<i32>().read_unaligned() })
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn splat(value: i32) -> Self::Acc {
        _mm512_set1_epi32(value)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn begin(acc: Self::Acc) -> Self::Part {
        acc
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn dot(part: Self::Part, codes: Self::Codes, quad: Self::Quad) -> Self::Part {
        _mm512_dpbusd_epi32(part, codes, quad)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn end(_: Self::Acc, part: Self::Part) -> Self::Acc {
        part
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn to_f32(acc: Self::Acc) -> Self::F {
        _mm512_cvtepi32_ps(acc)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn load_f16(from: *const u16) -> Self::F {
        // SAFETY: the caller's: 16 f16 are readable.
        _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(from.cast()) })
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn load_f32(from: *const f32) -> Self::F {
        // SAFETY: the caller's: 16 f32 are readable.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn store_f32(to: *mut f32, value: Self::F) {
        // SAFETY: the caller's: 16 f32 are writable.
        unsafe { _mm512_storeu_ps(to, value) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn splat_f32(value: f32) -> Self::F {
        _mm512_set1_ps(value)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        _mm512_add_ps(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        _mm512_mul_ps(a, b)
    }
}
