//! Perplexity from the losses of single tokens, and the running line that llama-perplexity's users know; the loss also per
//! character and per byte, by which models with different tokenizers compare.

use std::io::{self, Write};

/// Sums losses; holds no text and runs no model.
#[derive(Debug, Clone, Copy, Default)]
pub struct Losses {
    count: u64,
    sum: f64,
    squares: f64,
    length: Length,
}

/// How much text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Length {
    /// Unicode scalar values.
    pub characters: u64,
    /// Bytes of UTF-8.
    pub bytes: u64,
}

/// A perplexity and its standard error, and the loss behind it in other units.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Estimate {
    /// e to the mean loss.
    pub perplexity: f64,
    /// From the spread of the losses, taken as independent; `None` for fewer than two tokens.
    pub error: Option<f64>,
    /// Over so many tokens.
    pub tokens: u64,
    /// Which complete so many characters of the text.
    pub characters: u64,
    /// Mean loss of a token.
    pub nats_per_token: f64,
    /// Loss over the characters; `None` without any.
    pub nats_per_character: Option<f64>,
    /// Loss in bits over the bytes of UTF-8; `None` without any.
    pub bits_per_byte: Option<f64>,
}

impl Losses {
    /// One token's loss, minus the natural logarithm of the probability that the model gave it, and the text that the
    /// token completes.
    pub fn push(&mut self, loss: f64, length: Length) {
        self.count += 1;
        self.sum += loss;
        self.squares += loss * loss;
        self.length.characters += length.characters;
        self.length.bytes += length.bytes;
    }

    /// The estimate so far; `None` before the first token.
    pub fn estimate(&self) -> Option<Estimate> {
        if self.count == 0 {
            return None;
        }
        let n = self.count as f64;
        let mean = self.sum / n;
        let perplexity = mean.exp();
        // The error of the mean loss, carried through the exponential to first order.
        let error = (self.count > 1).then(|| {
            let variance = (self.squares / n - mean * mean).max(0.0);
            perplexity * (variance / (n - 1.0)).sqrt()
        });
        let Length { characters, bytes } = self.length;
        Some(Estimate {
            perplexity,
            error,
            tokens: self.count,
            characters,
            nats_per_token: mean,
            nats_per_character: (characters > 0).then(|| self.sum / characters as f64),
            bits_per_byte: (bytes > 0).then(|| self.sum / bytes as f64 / std::f64::consts::LN_2),
        })
    }
}

impl Estimate {
    /// Adds a chunk to the running line: `[1]5.1234,[2]5.2345,`.
    pub fn write_running(&self, out: &mut dyn Write, chunk: usize) -> io::Result<()> {
        write!(out, "[{chunk}]{:.4},", self.perplexity)?;
        out.flush()
    }

    /// `Final estimate: PPL = 5.2345 +/- 0.01234`, and a line with the loss in its other units. `title` is what stands before the
    /// colon.
    pub fn write_result(&self, out: &mut dyn Write, title: &str) -> io::Result<()> {
        match self.error {
            Some(error) => writeln!(out, "{title}: PPL = {:.4} +/- {error:.5}", self.perplexity)?,
            None => writeln!(out, "{title}: PPL = {:.4}", self.perplexity)?,
        }
        write!(out, "Loss: {:.4} nats per token", self.nats_per_token)?;
        if let (Some(nats), Some(bits)) = (self.nats_per_character, self.bits_per_byte) {
            write!(out, ", {nats:.4} nats per character, {bits:.4} bits per byte")?;
        }
        writeln!(out, " ({} tokens, {} characters)", self.tokens, self.characters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uniform_guess_over_n_has_perplexity_n_and_no_error() {
        let mut losses = Losses::default();
        assert_eq!(losses.estimate(), None);
        for _ in 0..10 {
            losses.push(50_f64.ln(), Length::default());
        }
        let estimate = losses.estimate().unwrap();
        assert!((estimate.perplexity - 50.0).abs() < 1e-9 && estimate.error.unwrap() < 1e-5 && estimate.tokens == 10);
    }

    #[test]
    fn the_error_is_that_of_the_mean() {
        let mut losses = Losses::default();
        losses.push(1.0, Length { characters: 3, bytes: 4 });
        losses.push(3.0, Length { characters: 5, bytes: 6 });
        let estimate = losses.estimate().unwrap();
        // Mean 2, variance 1 over n, standard error of the mean 1.
        assert!((estimate.error.unwrap() - 2_f64.exp()).abs() < 1e-12);
        let mut out = Vec::new();
        estimate.write_running(&mut out, 1).unwrap();
        estimate.write_result(&mut out, "Final estimate").unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "[1]7.3891,Final estimate: PPL = 7.3891 +/- 7.38906\n\
             Loss: 2.0000 nats per token, 0.5000 nats per character, 0.5771 bits per byte (2 tokens, 8 characters)\n"
        );
    }
}
