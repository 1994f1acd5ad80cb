//! Rotary position embedding (arXiv:2104.09864) and the ways it is stretched to longer contexts.
//!
//! Angles are computed in f64 with the `libm` crate, whose results are the same on every target, and rounded to f32 once.

use crate::kernels::RopeStyle;
use core::f64::consts::TAU;

/// How frequencies are stretched beyond the context that a model was trained on.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All positions divided by `factor` (arXiv:2306.15595).
    Linear {
        /// How many times longer the context becomes.
        factor: f64,
    },
    /// Low frequencies interpolated, high ones kept, a ramp between (arXiv:2309.00071, section 3.2). Cosines and sines are
    /// multiplied by `0.1 ln(factor) + 1` where the factor is above 1.
    Yarn {
        /// How many times longer the context becomes.
        factor: f64,
        /// Context of training, in tokens.
        original_context: u32,
        /// Rotations in the original context above which a frequency is kept.
        beta_fast: f64,
        /// Rotations below which it is interpolated.
        beta_slow: f64,
    },
}

/// Two sets of factors, of which the length of the text chooses one (LongRoPE, arXiv:2402.13753, as Phi-3 uses it).
#[derive(Clone, Debug, PartialEq)]
pub struct LongRope {
    /// Each frequency is divided by its factor while the text has at most `original_context` tokens, `[rotated / 2]`.
    pub short: Vec<f32>,
    /// The factors for all positions of a longer text, `[rotated / 2]`.
    pub long: Vec<f32>,
    /// Context of training, in tokens.
    pub original_context: u32,
}

/// The rotary embedding of a model. Frequencies are divided by `factors`, then by a set of `long`, then scaled.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Which elements of a head form a pair.
    pub style: RopeStyle,
    /// Elements of a head that are rotated, an even number; the rest stays as it is.
    pub rotated: usize,
    /// The base of the geometric series of frequencies.
    pub base: f64,
    /// How frequencies are stretched.
    pub scaling: RopeScaling,
    /// Factor on cosines and sines.
    pub attention_factor: f64,
    /// Each frequency is divided by its factor, `[rotated / 2]` (Llama 3's `rope_freqs.weight`); empty for none.
    pub factors: Vec<f32>,
    /// Factors that depend on the length of the text.
    pub long: Option<LongRope>,
}

impl Rope {
    /// An embedding without scaling and factors.
    pub fn plain(style: RopeStyle, rotated: usize, base: f64) -> Self {
        Self {
            style,
            rotated,
            base,
            scaling: RopeScaling::None,
            attention_factor: 1.0,
            factors: Vec::new(),
            long: None,
        }
    }

    /// Whether a text of `length` tokens is read with the long factors.
    pub fn is_long(&self, length: usize) -> bool {
        self.long.as_ref().is_some_and(|long| length > long.original_context as usize)
    }

    /// Angles a position, `[rotated / 2]`, and the factor on cosines and sines, for a text of `length` tokens.
    fn frequencies(&self, length: usize) -> (Vec<f64>, f64) {
        let half = self.rotated / 2;
        let frequency = |i: usize| libm::pow(self.base, -((2 * i) as f64) / self.rotated as f64);
        let mut frequencies: Vec<f64> = (0..half).map(frequency).collect();
        let mut divide = |factors: &[f32]| {
            frequencies.iter_mut().zip(factors).for_each(|(f, &factor)| *f /= f64::from(factor));
        };
        divide(&self.factors);
        if let Some(sets) = &self.long {
            divide(if self.is_long(length) { &sets.long } else { &sets.short });
        }
        let mut magnitude = self.attention_factor;
        match &self.scaling {
            RopeScaling::None => {}
            RopeScaling::Linear { factor } => frequencies.iter_mut().for_each(|f| *f /= factor),
            RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow } => {
                // The pair that makes `rotations` turns within the original context.
                let pair = |rotations: f64| {
                    let turns = f64::from(*original_context) / (rotations * TAU);
                    self.rotated as f64 * libm::log(turns) / (2.0 * libm::log(self.base))
                };
                let low = libm::floor(pair(*beta_fast)).max(0.0);
                let high = libm::ceil(pair(*beta_slow)).min(self.rotated as f64 - 1.0);
                let width = (high - low).max(0.001);
                for (i, f) in frequencies.iter_mut().enumerate() {
                    let kept = 1.0 - ((i as f64 - low) / width).clamp(0.0, 1.0);
                    *f *= kept + (1.0 - kept) / factor;
                }
                if *factor > 1.0 {
                    magnitude *= 1.0 + 0.1 * libm::log(*factor);
                }
            }
        }
        (frequencies, magnitude)
    }
}

/// Cosines and sines of a run of positions.
#[derive(Clone, Debug, Default)]
pub struct Rotations {
    frequencies: Vec<f64>,
    magnitude: f64,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rotations {
    /// For a text of `length` tokens.
    pub fn new(rope: &Rope, length: usize) -> Self {
        let (frequencies, magnitude) = rope.frequencies(length);
        Self { frequencies, magnitude, ..Self::default() }
    }

    /// Computes the angles of `n` positions from `first` on.
    pub fn prepare(&mut self, first: usize, n: usize) {
        self.cos.clear();
        self.sin.clear();
        for position in first..first + n {
            for frequency in &self.frequencies {
                let (sin, cos) = libm::sincos(position as f64 * frequency);
                self.cos.push((cos * self.magnitude) as f32);
                self.sin.push((sin * self.magnitude) as f32);
            }
        }
    }

    /// Cosines and sines of the `i`-th prepared position, `[rotated / 2]` each.
    ///
    /// # Panics
    /// If it was not prepared.
    pub fn of(&self, i: usize) -> (&[f32], &[f32]) {
        let half = self.frequencies.len();
        (&self.cos[i * half..][..half], &self.sin[i * half..][..half])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(scaling: RopeScaling) -> Rope {
        Rope { scaling, ..Rope::plain(RopeStyle::Neox, 8, 10_000.0) }
    }

    #[test]
    fn plain_angles_are_a_geometric_series() {
        let mut r = Rotations::new(&rope(RopeScaling::None), 100);
        r.prepare(3, 2);
        let (cos, sin) = r.of(1);
        for i in 0..4 {
            let angle = 4.0 * 10f64.powi(-(i as i32));
            assert!((f64::from(cos[i]) - angle.cos()).abs() < 1e-7);
            assert!((f64::from(sin[i]) - angle.sin()).abs() < 1e-7);
        }
    }

    #[test]
    fn linear_scaling_divides_positions() {
        let (mut plain, mut scaled) = (
            Rotations::new(&rope(RopeScaling::None), 100),
            Rotations::new(&rope(RopeScaling::Linear { factor: 4.0 }), 100),
        );
        plain.prepare(5, 1);
        scaled.prepare(20, 1);
        assert_eq!(plain.of(0), scaled.of(0));
    }

    #[test]
    fn yarn_keeps_high_frequencies_and_interpolates_low_ones() {
        let scaling = RopeScaling::Yarn { factor: 4.0, original_context: 64, beta_fast: 32.0, beta_slow: 1.0 };
        let plain = rope(RopeScaling::None).frequencies(256).0;
        let (f, magnitude) = rope(scaling.clone()).frequencies(256);
        assert_eq!(f[0], plain[0]);
        assert!((f[3] - plain[3] / 4.0).abs() < 1e-12);
        assert!((magnitude - (1.0 + 0.1 * 4f64.ln())).abs() < 1e-12);
        // The magnitude is YaRN's own times the file's.
        let scaled = Rope { attention_factor: 0.5, ..rope(scaling) };
        assert_eq!(scaled.frequencies(256).1, 0.5 * magnitude);
        assert_eq!(Rope { attention_factor: 0.5, ..rope(RopeScaling::None) }.frequencies(256).1, 0.5);
        // A context that gets no longer changes nothing.
        let same = RopeScaling::Yarn { factor: 0.5, original_context: 64, beta_fast: 32.0, beta_slow: 1.0 };
        assert_eq!(rope(same).frequencies(256).1, 1.0);
    }

    #[test]
    fn long_factors_depend_on_the_length_of_the_text() {
        let long = Some(LongRope { short: vec![1.0; 4], long: vec![2.0; 4], original_context: 64 });
        let rope = Rope { long, ..rope(RopeScaling::None) };
        assert!(!rope.is_long(64) && rope.is_long(65));
        assert_eq!(rope.frequencies(64).0[1], rope.frequencies(65).0[1] * 2.0);
        // Linear scaling comes on top.
        let scaled = Rope { scaling: RopeScaling::Linear { factor: 4.0 }, ..rope.clone() };
        assert_eq!(scaled.frequencies(65).0[1], rope.frequencies(64).0[1] / 8.0);
    }
}
