//! What the suites of `sterna bench` measure; `commands/bench*.rs` are their arguments and what is printed.
//!
//! - `speed.rs`: a model's speed with prompts and generation, for all that need it.
//! - `gguf.rs`: files as they are: size, memory, load, speed, each in a process of its own.
//! - `gemm.rs`: products of ternary matrices, kernel against kernel.
//! - `model.rs`: a checkpoint in floats, rounded and trained: size, perplexity, speed.
//!
//! Image nets are measured by `commands/bench_quantization.rs`, training's steps by the crate in benches/.

pub mod gemm;
pub mod gguf;
pub mod model;
pub mod speed;

use serde::{Deserialize, Serialize};

/// The middle of several measurements, and how far they lie apart.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Half of them are smaller, half larger; of an even number the mean of the middle two.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// Of at least one measurement.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        let half = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 { sorted[half] } else { 0.5 * (sorted[half - 1] + sorted[half]) };
        Some(Self { median, min, max })
    }

    /// All three times `factor`.
    pub fn scaled(self, factor: f64) -> Self {
        Self { median: self.median * factor, min: self.min * factor, max: self.max * factor }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_in_the_middle() {
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Spread::of(&[4.0, 1.0, 2.0, 9.0]), Some(Spread { median: 3.0, min: 1.0, max: 9.0 }));
        assert_eq!(Spread::of(&[2.0]).map(|spread| spread.scaled(3.0).max), Some(6.0));
    }
}
