//! IEEE half and bfloat16 to and from f32, the same bits on every target.

/// The value of f16 bits. Without branches, in integer steps and one exact product, so that loops over it vectorize.
///
/// ```
/// # use sterna_core::formats::half::f16_to_f32;
/// assert_eq!(f16_to_f32(0x3c00), 1.0);
/// assert_eq!(f16_to_f32(0x0001), 1.0 / 16_777_216.0); // 2^-24, the smallest subnormal
/// ```
#[inline(always)]
pub fn f16_to_f32(bits: u16) -> f32 {
    let bits = bits as u32;
    let sign = (bits & 0x8000) << 16;
    let exponent = bits & 0x7c00;
    // 127 - 15: the difference of the exponents' biases.
    let normal = ((bits & 0x7fff) << 13) + (112 << 23);
    // An f16 subnormal is a multiple of 2^-24 and normal as f32.
    let subnormal = ((bits & 0x03ff) as f32 * (1.0 / 16_777_216.0)).to_bits();
    let special = 0x7f80_0000 | ((bits & 0x03ff) << 13);
    let magnitude = if exponent == 0 { subnormal } else { normal };
    let magnitude = if exponent == 0x7c00 { special } else { magnitude };
    f32::from_bits(sign | magnitude)
}

/// The nearest f16, ties to even; beyond its range an infinity.
pub fn f32_to_f16(value: f32) -> u16 {
    half::f16::from_f32_const(value).to_bits()
}

/// The value of bfloat16 bits: the upper half of an f32.
#[inline(always)]
pub fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits((bits as u32) << 16)
}

/// The nearest bfloat16, ties to even; NaN stays NaN and becomes quiet.
pub fn f32_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    // Finite values are at most 0x7f7fffff in magnitude: the carry ends in the exponent, not in the sign.
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

/// Whether f16 bits are NaN or an infinity.
#[inline(always)]
pub const fn f16_is_bad(bits: u16) -> bool {
    bits & 0x7c00 == 0x7c00
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_f16_widens_as_the_half_crate_does_and_narrows_back() {
        for bits in 0..=u16::MAX {
            let (ours, theirs) = (f16_to_f32(bits), half::f16::from_bits(bits).to_f32_const());
            if theirs.is_nan() {
                assert!(ours.is_nan() && f16_is_bad(bits), "{bits:#x}");
            } else {
                assert_eq!(ours.to_bits(), theirs.to_bits(), "{bits:#x}");
                assert_eq!(f32_to_f16(ours), bits);
                assert_eq!(f16_is_bad(bits), ours.is_infinite());
            }
        }
    }

    #[test]
    fn bf16_rounds_to_even_and_keeps_nan() {
        for bits in 0..=u16::MAX {
            let value = bf16_to_f32(bits);
            let back = f32_to_bf16(value);
            assert_eq!(back, if value.is_nan() { bits | 0x40 } else { bits });
        }
        assert_eq!(f32_to_bf16(f32::from_bits(0x3f80_8000)), 0x3f80);
        assert_eq!(f32_to_bf16(f32::from_bits(0x3f81_8000)), 0x3f82);
        assert_eq!(f32_to_bf16(f32::from_bits(0x3f80_8001)), 0x3f81);
    }
}
