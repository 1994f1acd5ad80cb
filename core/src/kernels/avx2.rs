//! AVX2 with F16C: codes times activations in i16 pairs (vpmaddubsw), widened every 32 products.

use super::isa::Isa;
use core::arch::x86_64::*;

#[derive(Clone, Copy)]
pub(super) struct Avx2;

impl Isa for Avx2 {
    type Bytes = [__m256i; 2];
    type Codes = [__m256i; 2];
    type Quad = __m256i;
    type Acc = [__m256i; 2];
    type Part = [__m256i; 2];
    type Wide = ();
    type F = [__m256; 2];

    const TILES: usize = 4;
    const TOKENS: usize = 4;
    const SUMS: usize = 4;
    /// A pair adds at most 2 * 3 * 128 to an i16, so 42 would fit.
    const DOTS: usize = 32;

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn load(from: *const u8) -> Self::Bytes {
        // SAFETY: the caller's: 64 bytes are readable.
        unsafe { [_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast())] }
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn codes<const S: i32>([a, b]: Self::Bytes) -> Self::Codes {
        let mask = _mm256_set1_epi8(3);
        match S {
            0 => [_mm256_and_si256(a, mask), _mm256_and_si256(b, mask)],
            1 => [_mm256_and_si256(_mm256_srli_epi16::<2>(a), mask), _mm256_and_si256(_mm256_srli_epi16::<2>(b), mask)],
            2 => [_mm256_and_si256(_mm256_srli_epi16::<4>(a), mask), _mm256_and_si256(_mm256_srli_epi16::<4>(b), mask)],
            _ => [_mm256_and_si256(_mm256_srli_epi16::<6>(a), mask), _mm256_and_si256(_mm256_srli_epi16::<6>(b), mask)],
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn quad<const S: i32>(from: *const i8) -> Self::Quad {
        // SAFETY: the caller's: four bytes are readable.
        _mm256_set1_epi32(unsafe { from.cast::<i32>().read_unaligned() })
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn splat(value: i32) -> Self::Acc {
        [_mm256_set1_epi32(value); 2]
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn begin(_: Self::Acc) -> Self::Part {
        [_mm256_setzero_si256(); 2]
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn dot([a, b]: Self::Part, codes: Self::Codes, quad: Self::Quad) -> Self::Part {
        [
            _mm256_add_epi16(a, _mm256_maddubs_epi16(codes[0], quad)),
            _mm256_add_epi16(b, _mm256_maddubs_epi16(codes[1], quad)),
        ]
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn end([a, b]: Self::Acc, part: Self::Part) -> Self::Acc {
        let ones = _mm256_set1_epi16(1);
        [_mm256_add_epi32(a, _mm256_madd_epi16(part[0], ones)), _mm256_add_epi32(b, _mm256_madd_epi16(part[1], ones))]
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn to_f32([a, b]: Self::Acc) -> Self::F {
        [_mm256_cvtepi32_ps(a), _mm256_cvtepi32_ps(b)]
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn load_f16(from: *const u16) -> Self::F {
        // SAFETY: the caller's: 16 f16 are readable.
        unsafe { [_mm256_cvtph_ps(_mm_loadu_si128(from.cast())), _mm256_cvtph_ps(_mm_loadu_si128(from.add(8).cast()))] }
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn load_f32(from: *const f32) -> Self::F {
        // SAFETY: the caller's: 16 f32 are readable.
        unsafe { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))] }
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn store_f32(to: *mut f32, [a, b]: Self::F) {
        // SAFETY: the caller's: 16 f32 are writable.
        unsafe {
            _mm256_storeu_ps(to, a);
            _mm256_storeu_ps(to.add(8), b);
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn splat_f32(value: f32) -> Self::F {
        [_mm256_set1_ps(value); 2]
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])]
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])]
    }
}
