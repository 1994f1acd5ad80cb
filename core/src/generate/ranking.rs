//! The likeliest of a vocabulary's logits, without sorting them: one pass finds the largest of each block, and only blocks
//! whose largest matters are looked at again.
//!
//! Not here: what is done with them (`sampling.rs`).

use super::GenerateError;
use crate::kernels::exp;
use core::cmp::Ordering;

/// Logits in a block.
const BLOCK: usize = 128;
/// Numbers that are handled side by side; sums are formed in as many parts, the same on every target.
const LANES: usize = 16;

/// A logit and its token.
pub(super) type Candidate = (f32, u32);

/// Most likely first; equals by id, so that there is one order.
pub(super) fn order(a: &Candidate, b: &Candidate) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

/// Finds the likeliest tokens. Keeps its buffers between calls.
#[derive(Clone, Debug, Default)]
pub(super) struct Ranking {
    /// The largest logit of each block, `[ceil(vocabulary / BLOCK)]`.
    peaks: Vec<f32>,
    buffer: Vec<f32>,
    /// What the last call of [`top`](Self::top) or [`at_least`](Self::at_least) found.
    pub(super) candidates: Vec<Candidate>,
}

impl Ranking {
    /// Looks at all logits once; gives the largest, minus infinity if there are none. The other calls are about the logits
    /// that were looked at last.
    ///
    /// # Errors
    /// If one is NaN.
    pub(super) fn survey(&mut self, logits: &[f32]) -> Result<f32, GenerateError> {
        self.peaks.clear();
        let mut broken = false;
        for block in logits.chunks(BLOCK) {
            let mut largest = [f32::NEG_INFINITY; LANES];
            let mut nan = [false; LANES];
            let (whole, rest) = block.as_chunks::<LANES>();
            for values in whole {
                for i in 0..LANES {
                    largest[i] = if values[i] > largest[i] { values[i] } else { largest[i] };
                    nan[i] |= values[i].is_nan();
                }
            }
            broken |= nan.contains(&true) || rest.iter().any(|value| value.is_nan());
            self.peaks.push(largest.iter().chain(rest).fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a }));
        }
        match logits.iter().position(|logit| broken && logit.is_nan()) {
            Some(id) => Err(GenerateError::NotANumber { id: id as u32 }),
            None => Ok(self.peaks.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a })),
        }
    }

    /// The likeliest token, of equals the first. `None` if no logit is above minus infinity.
    pub(super) fn first(&mut self, logits: &[f32], largest: f32) -> Option<u32> {
        self.at_least(logits, largest);
        self.candidates.iter().min_by(|a, b| order(a, b)).map(|&(_, id)| id)
    }

    /// Finds all tokens whose logits are at least `threshold` and above minus infinity, in the order of their ids.
    pub(super) fn at_least(&mut self, logits: &[f32], threshold: f32) {
        self.candidates.clear();
        for (b, block) in logits.chunks(BLOCK).enumerate().filter(|(b, _)| self.peaks[*b] >= threshold) {
            let found =
                block.iter().zip(b * BLOCK..).filter(|(logit, _)| **logit >= threshold && **logit > f32::NEG_INFINITY);
            self.candidates.extend(found.map(|(&logit, id)| (logit, id as u32)));
        }
    }

    /// Finds the `k` likeliest tokens (all if there are fewer), most likely first.
    pub(super) fn top(&mut self, logits: &[f32], k: usize) {
        let mut threshold = f32::NEG_INFINITY;
        if 0 < k && k < self.peaks.len() {
            // So many blocks hold at least one logit from here on.
            self.buffer.clone_from(&self.peaks);
            threshold = *self.buffer.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1;
        }
        self.at_least(logits, threshold);
        if k < self.candidates.len() {
            if k > 0 {
                self.candidates.select_nth_unstable_by(k - 1, order);
            }
            self.candidates.truncate(k);
        }
        self.candidates.sort_unstable_by(order);
    }

    /// Keeps the first of the candidates, which are in order, that together reach the share `top_p` of `total`; gives whether
    /// they reached it. Weights are e^(logit - largest).
    pub(super) fn cut_by_share(&mut self, largest: f32, top_p: f32, total: f32) -> bool {
        let mut reached = 0.0;
        let cut = self.candidates.iter().position(|c| {
            reached += exp(c.0 - largest);
            reached >= top_p * total
        });
        self.candidates.truncate(cut.map_or(self.candidates.len(), |last| last + 1));
        cut.is_some()
    }

    /// Draws from all tokens: `share` in [0, 1) goes to that token at which the weights, summed in the order of ids, pass it.
    /// `weight` gives a logit's weight.
    pub(super) fn draw(&mut self, logits: &[f32], share: f32, weight: impl Fn(f32) -> f32 + Copy) -> Option<u32> {
        self.buffer.clear();
        self.buffer.extend(logits.chunks(BLOCK).map(|block| sum(block, weight)));
        let mut left = share * self.buffer.iter().sum::<f32>();
        // Should rounding leave a crumb behind all blocks, the last token with a weight takes it.
        let mut chosen = None;
        for (b, &sum) in self.buffer.iter().enumerate().filter(|(_, sum)| **sum > 0.0) {
            chosen = Some((b, left));
            if left - sum < 0.0 {
                break;
            }
            left -= sum;
        }
        let (b, left) = chosen?;
        walk(logits.chunks(BLOCK).nth(b)?, left, weight).map(|i| (b * BLOCK + i) as u32)
    }
}

/// The place in `block` at which the weights pass `left`, or the last one with a weight.
fn walk(block: &[f32], mut left: f32, weight: impl Fn(f32) -> f32) -> Option<usize> {
    let mut last = None;
    for (i, &logit) in block.iter().enumerate() {
        let weight = weight(logit);
        left -= weight;
        if weight > 0.0 {
            last = Some(i);
            if left < 0.0 {
                break;
            }
        }
    }
    last
}

/// The sum of the weights of `logits`, in [`LANES`] parts.
#[inline(always)]
pub(super) fn sum(logits: &[f32], weight: impl Fn(f32) -> f32) -> f32 {
    let mut parts = [0.0; LANES];
    for block in logits.chunks(BLOCK) {
        // A plain loop over a buffer vectorizes; the same steps lane by lane do not.
        let mut weights = [0.0; BLOCK];
        for (out, &logit) in weights.iter_mut().zip(block) {
            *out = weight(logit);
        }
        for lanes in weights.as_chunks::<LANES>().0 {
            for i in 0..LANES {
                parts[i] += lanes[i];
            }
        }
    }
    parts.iter().sum()
}

/// e^(logit - largest) over a temperature, and 0 for minus infinity: a token that is ruled out is never drawn.
#[inline(always)]
pub(super) fn weight(logit: f32, largest: f32, temperature: f32) -> f32 {
    let weight = exp((logit - largest) / temperature);
    if logit > f32::NEG_INFINITY { weight } else { 0.0 }
}

/// The model's own probabilities for the next token, as natural logarithms: before penalties, biases, cuts and temperature.
///
/// ```
/// # use sterna_core::generate::LogProbabilities;
/// let mut of = LogProbabilities::new(&[1.0, 3.0, 2.0])?;
/// assert!((of.token(1).unwrap() - -0.407_606).abs() < 1e-6);
/// assert_eq!(of.top(2).map(|(id, _)| id).collect::<Vec<_>>(), [1, 2]);
/// # Ok::<(), sterna_core::generate::GenerateError>(())
/// ```
#[derive(Debug)]
pub struct LogProbabilities<'a> {
    logits: &'a [f32],
    ranking: Ranking,
    /// ln of the sum of e^logit.
    log_sum: f32,
}

impl<'a> LogProbabilities<'a> {
    /// From logits, `[vocabulary]`.
    ///
    /// # Errors
    /// If a logit is NaN, or none is finite.
    pub fn new(logits: &'a [f32]) -> Result<Self, GenerateError> {
        let mut ranking = Ranking::default();
        let largest = ranking.survey(logits)?;
        if !largest.is_finite() {
            return Err(GenerateError::NoTokens);
        }
        let log_sum = largest + libm::logf(sum(logits, |logit| weight(logit, largest, 1.0)));
        Ok(Self { logits, ranking, log_sum })
    }

    /// That of token `id`; minus infinity for a token that is ruled out, `None` beyond the vocabulary.
    pub fn token(&self, id: u32) -> Option<f32> {
        self.logits.get(id as usize).map(|logit| logit - self.log_sum)
    }

    /// The `n` likeliest tokens with theirs, most likely first; fewer if the vocabulary has fewer.
    pub fn top(&mut self, n: usize) -> impl Iterator<Item = (u32, f32)> {
        self.ranking.top(self.logits, n);
        self.ranking.candidates.iter().map(|&(logit, id)| (id, logit - self.log_sum))
    }
}
