//! Perplexity from the losses of single tokens, and the running line that llama-perplexity's users know.

use std::io::{self, Write};

/// Sums losses; holds no text and runs no model.
#[derive(Debug, Clone, Copy, Default)]
pub struct Losses {
    count: u64,
    sum: f64,
    squares: f64,
}

/// A perplexity and its standard error.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Estimate {
    /// e to the mean loss.
    pub perplexity: f64,
    /// From the spread of the losses, taken as independent; `None` for fewer than two tokens.
    pub error: Option<f64>,
    /// Over so many tokens.
    pub tokens: u64,
}

impl Losses {
    /// One token's loss: minus the natural logarithm of the probability that the model gave it.
    pub fn push(&mut self, loss: f64) {
        self.count += 1;
        self.sum += loss;
        self.squares += loss * loss;
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
        Some(Estimate { perplexity, error, tokens: self.count })
    }
}

impl Estimate {
    /// Adds a chunk to the running line: `[1]5.1234,[2]5.2345,`.
    pub fn write_running(&self, out: &mut dyn Write, chunk: usize) -> io::Result<()> {
        write!(out, "[{chunk}]{:.4},", self.perplexity)?;
        out.flush()
    }

    /// `Final estimate: PPL = 5.2345 +/- 0.01234`
    pub fn write_final(&self, out: &mut dyn Write) -> io::Result<()> {
        match self.error {
            Some(error) => writeln!(out, "Final estimate: PPL = {:.4} +/- {error:.5}", self.perplexity),
            None => writeln!(out, "Final estimate: PPL = {:.4}", self.perplexity),
        }
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
            losses.push(50_f64.ln());
        }
        let estimate = losses.estimate().unwrap();
        assert!((estimate.perplexity - 50.0).abs() < 1e-9 && estimate.error.unwrap() < 1e-5 && estimate.tokens == 10);
    }

    #[test]
    fn the_error_is_that_of_the_mean() {
        let mut losses = Losses::default();
        losses.push(1.0);
        losses.push(3.0);
        let estimate = losses.estimate().unwrap();
        // Mean 2, variance 1 over n, standard error of the mean 1.
        assert!((estimate.error.unwrap() - 2_f64.exp()).abs() < 1e-12);
        let mut out = Vec::new();
        estimate.write_running(&mut out, 1).unwrap();
        estimate.write_final(&mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "[1]7.3891,Final estimate: PPL = 7.3891 +/- 7.38906\n");
    }
}
