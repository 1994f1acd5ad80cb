//! What the reference quantizers share.

/// The largest magnitude.
pub(super) fn absmax(values: &[f32]) -> f32 {
    values.iter().fold(0.0f32, |max, value| max.max(value.abs()))
}

/// Codes of values over the scale `d`, halves rounded away from zero as ggml does, at most `top`.
pub(super) fn round_codes<const LEN: usize>(values: &[f32; LEN], d: f32, top: u8) -> [u8; LEN] {
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    // A `d` so small that its inverse is infinite gives NaN for zeros, which the cast turns into 0.
    values.map(|value| ((value * inverse).round().clamp(-1.0, 2.0) as i8 + 1).clamp(0, top as i8) as u8)
}
