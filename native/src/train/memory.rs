//! What a run needs of the machine's memory: estimated from sizes before anything of that size is allocated, told, and refused where
//! it cannot fit.

use std::fmt;

use anyhow::{Result, bail};

use crate::machine;
use crate::ui::message;
use crate::ui::text::bytes;

/// More than any machine has: refused also where the machine's memory is not known.
const MOST: u64 = 1 << 46;

/// Hears the estimate before anything large is allocated; an error ends the run there.
pub type Admit<'a> = &'a dyn Fn(&Memory) -> Result<()>;

/// Bytes that a run needs, estimated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Weights, and what ternary products see in their place.
    pub weights: u64,
    /// Gradients of all weights.
    pub gradients: u64,
    /// The optimizer's two moments.
    pub moments: u64,
    /// The float model that is followed.
    pub teacher: u64,
    /// What the forward pass keeps for the backward pass, logits included, and gradients on their way back; or what a measurement keeps,
    /// or the copies that a checkpoint is written from, where that is more.
    pub activations: u64,
}

/// What a decoder's memory follows from. Counts are floats, so that no setting is too large to multiply.
#[derive(Clone, Copy, Debug, Default)]
pub struct DecoderSizes {
    /// All weights.
    pub weights: f64,
    /// Of these the ones that are made ternary.
    pub ternary: f64,
    /// Whether a float model is followed.
    pub teacher: bool,
    /// Tokens of a sequence.
    pub seq_len: f64,
    /// Sequences that go through the model together, in a step and in a measurement.
    pub batch: (f64, f64),
    /// Blocks.
    pub layers: f64,
    /// Residual streams.
    pub streams: f64,
    /// Features of a token.
    pub width: f64,
    /// Heads of queries; features of all queries; of queries, keys and values.
    pub heads: (f64, f64, f64),
    /// Features inside the feed-forward layer, and how many matrices lead to them.
    pub ffn: (f64, f64),
    /// Tokens of the vocabulary.
    pub vocabulary: f64,
}

impl Memory {
    /// Of a decoder in training, all in f32.
    pub fn of_decoder(s: &DecoderSizes) -> Self {
        let (heads, queries, qkv) = s.heads;
        let (ffn, matrices) = s.ffn;
        // Residuals, norms and outputs; projections, their copies by head, probabilities, outputs; the feed-forward layer.
        let layer = 6.0 * s.streams * s.width + 3.0 * qkv + heads * s.seq_len + 2.0 * queries + (matrices + 2.0) * ffn;
        // Logits, their gradient, what is softened of both models.
        let logits = if s.teacher { 3.0 } else { 2.0 } * s.vocabulary;
        let (trained, measured) = s.batch;
        // Half as much again is what runs were found to take. A measurement keeps one layer, and the scored half of its logits again.
        let training = trained * s.seq_len * (s.layers * layer + logits) * 1.5;
        let measuring = measured * s.seq_len * (layer + 1.5 * s.vocabulary);
        // Moments, and all three again as bytes, while no gradients are there.
        let saving = 4.0 * s.weights;
        let of = |floats: f64| (4.0 * floats) as u64;
        Self {
            weights: of(s.weights + s.ternary),
            gradients: of(s.weights),
            moments: of(2.0 * s.weights),
            teacher: if s.teacher { of(s.weights) } else { 0 },
            activations: of(training.max(measuring).max(saving)),
        }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        let parts = [self.weights, self.gradients, self.moments, self.teacher, self.activations];
        parts.into_iter().fold(0, u64::saturating_add)
    }

    /// What it is made of.
    fn parts(&self) -> String {
        let parts = [
            ("weights", self.weights),
            ("gradients", self.gradients),
            ("moments", self.moments),
            ("activations", self.activations),
            ("float model", self.teacher),
        ];
        let parts = parts.iter().filter(|(_, size)| *size > 0);
        parts.map(|(name, size)| format!("{name} {}", bytes(*size))).collect::<Vec<_>>().join(", ")
    }

    /// Whether so much is there; where that is not known, whether any machine has as much.
    ///
    /// # Errors
    /// If not.
    pub fn check(&self, available: Option<u64>) -> Result<()> {
        if self.total() <= available.unwrap_or(MOST).min(MOST) {
            return Ok(());
        }
        let there = match available {
            Some(available) if self.total() < MOST => format!("this machine has {} to give", bytes(available)),
            _ => "no machine has as much".to_owned(),
        };
        bail!(
            "training needs about {self}, but {there}; give a smaller --batch-size or --seq-len{}, take a smaller model{}",
            if self.teacher > 0 { ", leave out --distill" } else { "" },
            if self.total() < MOST { ", or try all the same with --force" } else { "" }
        )
    }
}

/// Tells the estimate on stderr, and refuses what the machine cannot give unless `force` says to try.
pub fn admit(force: bool) -> impl Fn(&Memory) -> Result<()> {
    move |memory| {
        let available = machine::available_bytes();
        memory.check(available.filter(|_| !force))?;
        let there = available.map_or(String::new(), |available| format!("; {} are free", bytes(available)));
        message::line(&format!("training needs about {} of memory{there}", bytes(memory.total())));
        message::line(&format!("({})", memory.parts()));
        Ok(())
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of memory ({})", bytes(self.total()), self.parts())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_told_in_parts() {
        let memory =
            Memory { weights: 1 << 30, gradients: 1 << 30, moments: 2 << 30, teacher: 1 << 30, activations: 3 << 30 };
        let error = memory.check(Some(4 << 30)).unwrap_err().to_string();
        for said in [
            "8.0 GiB of memory (weights 1.0 GiB",
            "moments 2.0 GiB",
            "has 4.0 GiB",
            "--distill",
            "--batch-size",
            "--force",
        ] {
            assert!(error.contains(said), "{error}");
        }
        assert!(memory.check(Some(9 << 30)).is_ok() && memory.check(None).is_ok());
    }

    #[test]
    fn sizes_beyond_all_numbers_are_refused_whether_the_machine_is_known_or_not() {
        let most = usize::MAX as f64;
        let sizes = DecoderSizes {
            weights: most * most * most,
            batch: (most, 16.0),
            seq_len: most,
            layers: most,
            ..DecoderSizes::default()
        };
        let memory = Memory::of_decoder(&sizes);
        assert_eq!(memory.total(), u64::MAX);
        for available in [None, Some(1 << 40)] {
            let error = memory.check(available).unwrap_err().to_string();
            assert!(error.contains("no machine has as much") && !error.contains("--force"), "{error}");
        }
    }
}
