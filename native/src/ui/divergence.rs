//! The statistics of `sterna perplexity --kl-divergence`, with the names that llama-perplexity gives them.

use std::io::{self, Write};

use serde_json::json;

/// One token: what the model (Q) and the one that it is compared with (base) thought of it.
#[derive(Debug, Clone, Copy)]
pub struct Comparison {
    /// Minus the logarithm of its probability by Q.
    pub loss: f32,
    /// The same by base.
    pub loss_base: f32,
    /// Kullback-Leibler divergence of Q from base, over all tokens, in nats.
    pub divergence: f64,
    /// Whether both think the same token the likeliest.
    pub same_best: bool,
}

/// Sums over tokens.
#[derive(Debug, Clone, Default)]
pub struct Divergence {
    loss: Moments,
    base: Moments,
    both: f64,
    kld: Moments,
    difference: Moments,
    squared: Moments,
    same: u64,
    divergences: Vec<f32>,
    differences: Vec<f32>,
}

/// Sums of values and of their squares.
#[derive(Debug, Clone, Copy, Default)]
struct Moments {
    count: u64,
    sum: f64,
    squares: f64,
}

/// A mean and its standard error.
#[derive(Debug, Clone, Copy)]
struct Mean {
    value: f64,
    error: f64,
}

/// The shares of values below which a row of the table tells the value.
const SHARES: [(f64, &str); 10] = [
    (0.999, "99.9%"),
    (0.99, "99.0%"),
    (0.95, "95.0%"),
    (0.9, "90.0%"),
    (0.75, "75.0%"),
    (0.25, "25.0%"),
    (0.1, "10.0%"),
    (0.05, " 5.0%"),
    (0.01, " 1.0%"),
    (0.001, " 0.1%"),
];

impl Moments {
    fn push(&mut self, value: f64, square: f64) {
        self.count += 1;
        self.sum += value;
        self.squares += square;
    }

    /// Fewer than eleven values have no error worth telling.
    fn mean(&self) -> Mean {
        let n = self.count.max(1) as f64;
        let value = self.sum / n;
        let variance = self.squares / n - value * value;
        let error = if variance > 0.0 && self.count > 10 { (variance / (n - 1.0)).sqrt() } else { 0.0 };
        Mean { value, error }
    }
}

impl Divergence {
    /// Adds a token.
    pub fn push(&mut self, one: Comparison) {
        self.loss.push(one.loss.into(), (one.loss * one.loss).into());
        self.base.push(one.loss_base.into(), (one.loss_base * one.loss_base).into());
        self.both += f64::from(one.loss * one.loss_base);
        self.kld.push(one.divergence, one.divergence * one.divergence);
        let difference = (-one.loss).exp() - (-one.loss_base).exp();
        let square = f64::from(difference) * f64::from(difference);
        self.difference.push(difference.into(), square);
        self.squared.push(square, square * square);
        self.same += u64::from(one.same_best);
        self.divergences.push(one.divergence as f32);
        self.differences.push(difference);
    }

    /// Tokens so far.
    pub fn tokens(&self) -> u64 {
        self.loss.count
    }

    fn perplexity(of: Mean) -> Mean {
        let value = of.value.exp();
        Mean { value, error: value * of.error }
    }

    /// Of the means of both losses.
    fn covariance(&self) -> f64 {
        let n = self.tokens() as f64;
        if self.tokens() < 10 {
            return 0.0;
        }
        (self.both / n - (self.loss.sum / n) * (self.base.sum / n)) / (n - 1.0)
    }

    /// The logarithm of the ratio of both perplexities.
    fn log_ratio(&self) -> Mean {
        let (loss, base) = (self.loss.mean(), self.base.mean());
        let variance = loss.error * loss.error + base.error * base.error - 2.0 * self.covariance();
        Mean { value: loss.value - base.value, error: variance.max(0.0).sqrt() }
    }

    fn root_mean_square(&self) -> Mean {
        let squared = self.squared.mean();
        let value = squared.value.sqrt();
        Mean { value, error: if value > 0.0 { 0.5 / value * squared.error } else { 0.0 } }
    }

    fn same_best(&self) -> Mean {
        let n = self.tokens().max(1) as f64;
        let value = self.same as f64 / n;
        Mean { value, error: if n > 1.0 { (value * (1.0 - value) / (n - 1.0)).sqrt() } else { 0.0 } }
    }

    /// The titles of the running table; it is narrower than 80 columns.
    pub fn write_titles(out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "{:>5} {:^17} {:^14} {:^13} {:^12} {:^13}",
            "chunk", "PPL(Q)", "ln PPL ratio", "KLD", "RMS Δp, %", "same top, %"
        )
    }

    /// A row of it: all so far, after chunk `chunk`.
    pub fn write_running(&self, out: &mut dyn Write, chunk: usize) -> io::Result<()> {
        let (ppl, ratio, kld) = (Self::perplexity(self.loss.mean()), self.log_ratio(), self.kld.mean());
        let (rms, same) = (self.root_mean_square(), self.same_best());
        writeln!(
            out,
            "{chunk:>5} {:9.4}±{:<7.4} {:7.4}±{:<6.4} {:6.4}±{:<6.4} {:6.3}±{:<5.3} {:7.3}±{:<5.3}",
            ppl.value,
            ppl.error,
            ratio.value,
            ratio.error,
            kld.value,
            kld.error,
            100.0 * rms.value,
            100.0 * rms.error,
            100.0 * same.value,
            100.0 * same.error
        )?;
        out.flush()
    }

    /// All statistics.
    pub fn write_final(&self, out: &mut dyn Write) -> io::Result<()> {
        let row = |out: &mut dyn Write, name: &str, mean: Mean| {
            writeln!(out, "{name:<30}: {:10.6} ± {:10.6}", mean.value, mean.error)
        };
        let (loss, base, covariance) = (self.loss.mean(), self.base.mean(), self.covariance());
        let (ppl, ppl_base, ratio) = (Self::perplexity(loss), Self::perplexity(base), self.log_ratio());
        writeln!(out, "\n====== Perplexity statistics ======")?;
        row(out, "Mean PPL(Q)", ppl)?;
        row(out, "Mean PPL(base)", ppl_base)?;
        let correlation = covariance / (loss.error * base.error);
        writeln!(out, "{:<30}: {:6.2}%", "Cor(ln(PPL(Q)), ln(PPL(base)))", 100.0 * correlation)?;
        row(out, "Mean ln(PPL(Q)/PPL(base))", ratio)?;
        row(out, "Mean PPL(Q)/PPL(base)", Self::perplexity(ratio))?;
        let variance = ppl.error.powi(2) + ppl_base.error.powi(2) - 2.0 * ppl.value * ppl_base.value * covariance;
        let difference = Mean { value: ppl.value - ppl_base.value, error: variance.max(0.0).sqrt() };
        row(out, "Mean PPL(Q)-PPL(base)", difference)?;

        writeln!(out, "\n====== KL divergence statistics ======")?;
        let kld = self.kld.mean();
        writeln!(out, "Mean    KLD: {:10.6} ± {:10.6}", kld.value, kld.error)?;
        write_shares(
            out,
            &self.divergences,
            |share| share == 0.75 || share == 0.25,
            |name, value| format!("{name:<7} KLD: {value:10.6}"),
        )?;

        writeln!(out, "\n====== Token probability statistics ======")?;
        let mean = self.difference.mean();
        writeln!(out, "Mean    Δp: {:6.3} ± {:5.3} %", 100.0 * mean.value, 100.0 * mean.error)?;
        write_shares(out, &self.differences, |_| false, |name, value| format!("{name:<7} Δp: {:6.3}%", 100.0 * value))?;
        for (name, mean) in [("RMS Δp    ", self.root_mean_square()), ("Same top p", self.same_best())] {
            writeln!(out, "{name}: {:6.3} ± {:5.3} %", 100.0 * mean.value, 100.0 * mean.error)?;
        }
        Ok(())
    }

    /// The statistics as one object.
    pub fn json(&self) -> serde_json::Value {
        let mean = |mean: Mean| json!({ "mean": mean.value, "error": mean.error });
        let spread = |values: &[f32], of: Mean| {
            let sorted = sorted(values);
            let mut object = mean(of);
            object["median"] = percentile(&sorted, 0.5).into();
            object["max"] = percentile(&sorted, 1.0).into();
            object["min"] = percentile(&sorted, 0.0).into();
            for (share, name) in SHARES {
                object[format!("p{}", name.trim().trim_end_matches('%').trim_end_matches(".0"))] =
                    percentile(&sorted, share).into();
            }
            object
        };
        json!({
            "tokens": self.tokens(),
            "perplexity": mean(Self::perplexity(self.loss.mean())),
            "perplexity_base": mean(Self::perplexity(self.base.mean())),
            "log_ratio": mean(self.log_ratio()),
            "kl_divergence": spread(&self.divergences, self.kld.mean()),
            "delta_p": spread(&self.differences, self.difference.mean()),
            "delta_p_rms": mean(self.root_mean_square()),
            "same_top": mean(self.same_best()),
        })
    }
}

/// Rows from the largest value to the least; `skip` leaves out shares.
fn write_shares(
    out: &mut dyn Write,
    values: &[f32],
    skip: impl Fn(f64) -> bool,
    row: impl Fn(&str, f64) -> String,
) -> io::Result<()> {
    let sorted = sorted(values);
    let mut rows = vec![(1.0, "Maximum"), (0.5, "Median"), (0.0, "Minimum")];
    rows.extend(SHARES.iter().filter(|(share, _)| !skip(*share)));
    rows.sort_by(|a, b| b.0.total_cmp(&a.0));
    rows.into_iter().try_for_each(|(share, name)| writeln!(out, "{}", row(name, percentile(&sorted, share))))
}

fn sorted(values: &[f32]) -> Vec<f32> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f32::total_cmp);
    sorted
}

/// The value below which `share` of the values are, between two neighbours where it falls between them.
fn percentile(sorted: &[f32], share: f64) -> f64 {
    let at = share * sorted.len().saturating_sub(1) as f64;
    let below = at.floor() as usize;
    let value = |at: usize| f64::from(sorted.get(at).or(sorted.last()).copied().unwrap_or(0.0));
    let part = at - below as f64;
    (1.0 - part) * value(below) + part * value(below + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_lie_between_neighbours() {
        let sorted = [1.0, 2.0, 4.0];
        assert_eq!([0.0, 0.25, 0.5, 0.75, 1.0].map(|share| percentile(&sorted, share)), [1.0, 1.5, 2.0, 3.0, 4.0]);
        assert_eq!(percentile(&[], 0.5), 0.0);
    }

    #[test]
    fn equal_predictions_have_no_divergence() {
        let mut divergence = Divergence::default();
        for loss in [0.5, 1.5, 2.5] {
            divergence.push(Comparison { loss, loss_base: loss, divergence: 0.0, same_best: true });
        }
        assert_eq!((divergence.tokens(), divergence.log_ratio().value, divergence.same_best().value), (3, 0.0, 1.0));
        let mut out = Vec::new();
        Divergence::write_titles(&mut out).unwrap();
        divergence.write_running(&mut out, 12345).unwrap();
        let table = String::from_utf8(out).unwrap();
        let widths: Vec<usize> = table.lines().map(|line| line.chars().count()).collect();
        assert_eq!(widths, [79, 79], "{table}");
        let mut out = Vec::new();
        divergence.write_final(&mut out).unwrap();
        assert!(String::from_utf8(out).unwrap().contains("Maximum KLD:   0.000000\n"));
    }
}
