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
    /// Low frequencies interpolated, high ones kept, a ramp between (arXiv:2309.00071, section 3.2).
    Yarn {
        /// How many times longer the context becomes.
        factor: f64,
        /// Context of training, in tokens.
        original_context: u32,
        /// Rotations in the original context above which a frequency is kept.
        beta_fast: f64,
        /// Rotations below which it is interpolated.
        beta_slow: f64,
        /// Share of the ramp that is applied; 1 is all of it.
        ext_factor: f64,
        /// Further factor on cosines and sines, beside `0.1 ln(factor) + 1`.
        attention_factor: f64,
    },
    /// Each frequency divided by a factor of its own, one set up to the original context, another beyond (LongRoPE,
    /// arXiv:2402.13753, as Phi-3 uses it).
    Long {
        /// Factors for contexts up to the original one, `[rotated / 2]`.
        short: Vec<f32>,
        /// Factors for longer ones, `[rotated / 2]`.
        long: Vec<f32>,
        /// Context of training, in tokens.
        original_context: u32,
        /// Factor on cosines and sines.
        attention_factor: f64,
    },
}

/// The rotary embedding of a model.
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
    /// Each frequency is divided by its factor, `[rotated / 2]` (Llama 3's `rope_freqs.weight`); empty for none.
    pub factors: Vec<f32>,
}

impl Rope {
    /// Angles a position, `[rotated / 2]`, and the factor on cosines and sines, for a session that may reach `context` tokens.
    fn frequencies(&self, context: usize) -> (Vec<f64>, f64) {
        let half = self.rotated / 2;
        let frequency = |i: usize| libm::pow(self.base, -((2 * i) as f64) / self.rotated as f64);
        let mut frequencies: Vec<f64> = (0..half).map(frequency).collect();
        let mut magnitude = 1.0;
        for (f, &factor) in frequencies.iter_mut().zip(&self.factors) {
            *f /= f64::from(factor);
        }
        match &self.scaling {
            RopeScaling::None => {}
            RopeScaling::Linear { factor } => frequencies.iter_mut().for_each(|f| *f /= factor),
            RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, ext_factor, attention_factor } => {
                // The pair that makes `rotations` turns within the original context.
                let pair = |rotations: f64| {
                    let turns = f64::from(*original_context) / (rotations * TAU);
                    self.rotated as f64 * libm::log(turns) / (2.0 * libm::log(self.base))
                };
                let low = libm::floor(pair(*beta_fast)).max(0.0);
                let high = libm::ceil(pair(*beta_slow)).min(self.rotated as f64 - 1.0);
                let width = (high - low).max(0.001);
                for (i, f) in frequencies.iter_mut().enumerate() {
                    let kept = (1.0 - ((i as f64 - low) / width).clamp(0.0, 1.0)) * ext_factor;
                    *f *= kept + (1.0 - kept) / factor;
                }
                magnitude = attention_factor * if *ext_factor == 0.0 { 1.0 } else { 1.0 + 0.1 * libm::log(*factor) };
            }
            RopeScaling::Long { short, long, original_context, attention_factor } => {
                let factors = if context > *original_context as usize { long } else { short };
                for (f, &factor) in frequencies.iter_mut().zip(factors) {
                    *f /= f64::from(factor);
                }
                magnitude = *attention_factor;
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
    /// For sessions that may reach `context` tokens.
    pub fn new(rope: &Rope, context: usize) -> Self {
        let (frequencies, magnitude) = rope.frequencies(context);
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
        Rope { style: RopeStyle::Neox, rotated: 8, base: 10_000.0, scaling, factors: Vec::new() }
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
        let (mut plain, mut scaled) =
            (Rotations::new(&rope(RopeScaling::None), 100), Rotations::new(&rope(RopeScaling::Linear { factor: 4.0 }), 100));
        plain.prepare(5, 1);
        scaled.prepare(20, 1);
        assert_eq!(plain.of(0), scaled.of(0));
    }

    #[test]
    fn yarn_keeps_high_frequencies_and_interpolates_low_ones() {
        let scaling = RopeScaling::Yarn {
            factor: 4.0,
            original_context: 64,
            beta_fast: 32.0,
            beta_slow: 1.0,
            ext_factor: 1.0,
            attention_factor: 1.0,
        };
        let plain = rope(RopeScaling::None).frequencies(256).0;
        let (f, magnitude) = rope(scaling).frequencies(256);
        assert_eq!(f[0], plain[0]);
        assert!((f[3] - plain[3] / 4.0).abs() < 1e-12);
        assert!((magnitude - (1.0 + 0.1 * 4f64.ln())).abs() < 1e-12);
    }

    #[test]
    fn long_factors_depend_on_the_context() {
        let scaling = RopeScaling::Long {
            short: vec![1.0; 4],
            long: vec![2.0; 4],
            original_context: 64,
            attention_factor: 1.0,
        };
        let short = rope(scaling.clone()).frequencies(64).0;
        let long = rope(scaling).frequencies(65).0;
        assert_eq!(short[1], long[1] * 2.0);
    }
}
