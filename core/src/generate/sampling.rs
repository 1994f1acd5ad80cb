//! From logits to a token: penalties, cuts, temperature, a seeded draw.
//!
//! Steps run in the order of llama.cpp's default chain: logit bias, penalties, top-k, top-p, min-p, temperature. All arithmetic
//! is in a fixed order with the crate's own exponential, so a seed draws the same tokens on every machine.

use super::GenerateError;
use super::ranking::{Ranking, order, sum, weight};
use crate::kernels::exp;

/// How the next token is chosen. The defaults are llama.cpp's.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 or less, or NaN, takes the most likely token always.
    pub temperature: f32,
    /// Keeps only the so many most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the most likely tokens whose probabilities together reach this share; 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens at least this share as likely as the most likely one; 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens among the last `repeat_last_n`; 1 changes nothing.
    pub repeat_penalty: f32,
    /// Is subtracted from the logit of each token among the last `repeat_last_n`, once for each time it occurs; 0 changes
    /// nothing.
    pub frequency_penalty: f32,
    /// Is subtracted once from the logit of each token among the last `repeat_last_n`; 0 changes nothing.
    pub presence_penalty: f32,
    /// How many of the last tokens these three penalties look at; 0 turns them off.
    pub repeat_last_n: usize,
    /// Is added to the logits of single tokens before all else: id and bias. Minus infinity forbids a token.
    pub logit_bias: Vec<(u32, f32)>,
    /// Where the random numbers begin.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repeat_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            repeat_last_n: 64,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }
}

impl Sampling {
    /// Always the most likely token.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// Whether logits stay as the model gave them.
    fn is_neutral(&self) -> bool {
        let penalties = self.repeat_penalty != 1.0 || self.frequency_penalty != 0.0 || self.presence_penalty != 0.0;
        self.logit_bias.is_empty() && !penalties
    }

    /// Checks that the biases are for tokens of a model with so many.
    ///
    /// # Errors
    /// [`GenerateError::BiasOutside`] for the first that is not.
    pub fn check(&self, vocabulary: usize) -> Result<(), GenerateError> {
        match self.logit_bias.iter().find(|(id, _)| *id as usize >= vocabulary) {
            Some(&(id, _)) => Err(GenerateError::BiasOutside { id, vocabulary }),
            None => Ok(()),
        }
    }

    /// Adds the biases to `logits`, `[vocabulary]`, and applies the penalties for what is in `past`.
    fn adjust(&self, logits: &mut [f32], past: &[u32]) -> Result<(), GenerateError> {
        let vocabulary = logits.len();
        for &(id, bias) in &self.logit_bias {
            let Some(logit) = logits.get_mut(id as usize) else {
                return Err(GenerateError::BiasOutside { id, vocabulary });
            };
            // An infinite logit less an infinite bias would be NaN.
            *logit = if bias == f32::NEG_INFINITY { bias } else { *logit + bias };
        }
        let mut recent = past[past.len().saturating_sub(self.repeat_last_n)..].to_vec();
        recent.sort_unstable();
        for same in recent.chunk_by(|a, b| a == b) {
            let Some(logit) = logits.get_mut(same[0] as usize) else { continue };
            *logit = if *logit > 0.0 { *logit / self.repeat_penalty } else { *logit * self.repeat_penalty };
            *logit -= same.len() as f32 * self.frequency_penalty + self.presence_penalty;
        }
        Ok(())
    }
}

/// Draws tokens; remembers where its random numbers are. Keeps its buffers between draws.
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    state: u64,
    /// Logits with biases and penalties.
    adjusted: Vec<f32>,
    ranking: Ranking,
}

impl Sampler {
    /// Begins at the seed.
    pub fn new(sampling: Sampling) -> Self {
        Self { state: sampling.seed, sampling, adjusted: Vec::new(), ranking: Ranking::default() }
    }

    /// Chooses from `logits`, `[vocabulary]`; `past` are the tokens so far.
    ///
    /// # Errors
    /// If a logit is NaN or all are minus infinity: the model's weights or its file are broken. If a bias is for a token that
    /// the model does not have.
    pub fn sample(&mut self, logits: &[f32], past: &[u32]) -> Result<u32, GenerateError> {
        let Self { sampling: s, state, adjusted, ranking } = self;
        let logits = if s.is_neutral() {
            logits
        } else {
            adjusted.clear();
            adjusted.extend_from_slice(logits);
            s.adjust(adjusted, past)?;
            &adjusted[..]
        };
        let largest = ranking.survey(logits)?;
        if s.temperature <= 0.0 || s.temperature.is_nan() || largest == f32::INFINITY {
            return ranking.first(logits, largest).ok_or(GenerateError::NoTokens);
        }
        let scaled = |logit: f32| weight(logit, largest, s.temperature);
        let cut_by_p = s.top_p < 1.0;
        // What the share of top-p is taken of: the tokens that top-k leaves.
        let total_of_all = || sum(logits, |logit| weight(logit, largest, 1.0));
        if 0 < s.top_k && s.top_k < logits.len() {
            ranking.top(logits, s.top_k);
            if cut_by_p {
                let total = ranking.candidates.iter().map(|c| exp(c.0 - largest)).sum();
                ranking.cut_by_share(largest, s.top_p, total);
            }
        } else if s.min_p > 0.0 {
            // Near enough; the exact cut is below.
            ranking.at_least(logits, (largest + libm::logf(s.min_p) - 0.01).min(largest));
            ranking.candidates.sort_unstable_by(order);
            if cut_by_p {
                ranking.cut_by_share(largest, s.top_p, total_of_all());
            }
        } else if cut_by_p {
            // Most often a few are enough.
            let total = total_of_all();
            let mut k = 256;
            while {
                ranking.top(logits, k);
                !ranking.cut_by_share(largest, s.top_p, total) && k < logits.len()
            } {
                k *= 8;
            }
        } else {
            return ranking.draw(logits, unit(state), scaled).ok_or(GenerateError::NoTokens);
        }
        let candidates = &mut ranking.candidates;
        if s.min_p > 0.0 {
            let cut = candidates.partition_point(|c| exp(c.0 - largest) >= s.min_p);
            candidates.truncate(cut.max(1));
        }
        let total: f32 = candidates.iter().map(|c| scaled(c.0)).sum();
        let mut left = unit(state) * total;
        for &(logit, id) in candidates.iter() {
            left -= scaled(logit);
            if left < 0.0 {
                return Ok(id);
            }
        }
        // Rounding may leave a crumb: the least likely candidate takes it.
        candidates.last().map(|c| c.1).ok_or(GenerateError::NoTokens)
    }
}

/// A number in [0, 1) with 24 bits, by SplitMix64 (Steele, Lea and Flood, 2014).
fn unit(state: &mut u64) -> f32 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 40) as f32 / 16_777_216.0
}

#[cfg(test)]
mod tests {
    use super::super::ranking::LogProbabilities;
    use super::*;

    fn neutral() -> Sampling {
        Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 7, ..Sampling::default() }
    }

    fn shares(sampling: Sampling, logits: &[f32], past: &[u32]) -> Vec<f64> {
        let mut sampler = Sampler::new(sampling);
        let mut counts = vec![0.0; logits.len()];
        for _ in 0..20_000 {
            counts[sampler.sample(logits, past).unwrap() as usize] += 1.0 / 20_000.0;
        }
        counts
    }

    #[test]
    fn draws_follow_the_softmax() {
        let logits = [1.0, 0.0, -1.0, 2.0];
        let total: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
        for (share, logit) in shares(neutral(), &logits, &[]).iter().zip(logits) {
            assert!((share - f64::from(logit).exp() / total).abs() < 0.015);
        }
    }

    #[test]
    fn temperature_sharpens() {
        let cold = shares(Sampling { temperature: 0.25, ..neutral() }, &[1.0, 0.0], &[]);
        assert!((cold[0] - 1.0 / (1.0 + (-4.0f64).exp())).abs() < 0.01);
    }

    #[test]
    fn cuts_leave_what_they_promise() {
        let logits = [3.0, 2.0, 1.0, 0.0, -1.0];
        let kept = |s: Sampling| shares(s, &logits, &[]).iter().filter(|&&p| p > 0.0).count();
        assert_eq!(kept(Sampling { top_k: 2, ..neutral() }), 2);
        // Probabilities are 0.636, 0.234, 0.086, ...
        assert_eq!(kept(Sampling { top_p: 0.63, ..neutral() }), 1);
        assert_eq!(kept(Sampling { top_p: 0.65, ..neutral() }), 2);
        // e^-1 = 0.368, e^-2 = 0.135
        assert_eq!(kept(Sampling { min_p: 0.2, ..neutral() }), 2);
        assert_eq!(kept(Sampling { min_p: 0.2, top_p: 0.9999, ..neutral() }), 2);
        assert_eq!(kept(neutral()), 5);
    }

    #[test]
    fn greedy_takes_the_first_of_equals_and_penalties_count_once() {
        let mut sampler = Sampler::new(Sampling::greedy());
        assert_eq!(sampler.sample(&[0.0, 5.0, 5.0], &[]).unwrap(), 1);
        let mut sampler = Sampler::new(Sampling { repeat_penalty: 2.0, ..Sampling::greedy() });
        assert_eq!(sampler.sample(&[3.0, 5.0, 2.4], &[1, 1, 1]).unwrap(), 0);
        assert_eq!(sampler.sample(&[-3.0, -5.0, -2.0], &[2]).unwrap(), 0);
    }

    #[test]
    fn biases_and_penalties_are_those_of_llama_cpp() {
        // tests/fixtures/llama_cpp_sampling.cpp printed these: llama.cpp's own samplers on the same logits.
        let logits = [2.5, -1.25, 0.75, 0.0, 3.0, -0.5];
        let past = [5, 0, 1, 1, 4, 1, 0];
        let adjusted = |sampling: Sampling| {
            let mut adjusted = logits;
            sampling.adjust(&mut adjusted, &past).unwrap();
            adjusted
        };
        let penalties = |repeat_last_n, repeat_penalty, frequency_penalty, presence_penalty| {
            adjusted(Sampling { repeat_last_n, repeat_penalty, frequency_penalty, presence_penalty, ..neutral() })
        };
        assert_eq!(penalties(64, 1.0, 0.3, 0.0), [1.9, -2.15, 0.75, 0.0, 2.7, -0.8]);
        assert_eq!(penalties(64, 1.0, 0.0, 0.7), [1.8, -1.95, 0.75, 0.0, 2.3, -1.2]);
        assert_eq!(penalties(4, 1.3, -0.2, 0.4), [1.723_076_9, -1.625, 0.75, 0.0, 2.107_692_2, -0.5]);
        assert_eq!(penalties(0, 1.3, 0.3, 0.4), logits);
        let biased = adjusted(Sampling { logit_bias: vec![(1, 2.5), (4, -0.75), (1, 0.3)], ..neutral() });
        assert_eq!(biased, [2.5, 1.55, 0.75, 0.0, 2.25, -0.5]);
    }

    #[test]
    fn a_bias_forbids_forces_and_names_tokens_that_are_not_there() {
        let bias = |logit_bias: &[(u32, f32)]| Sampling { logit_bias: logit_bias.to_vec(), ..Sampling::greedy() };
        let best = |sampling| Sampler::new(sampling).sample(&[1.0, f32::INFINITY, 2.0], &[]);
        assert_eq!(best(bias(&[(1, f32::NEG_INFINITY)])).unwrap(), 2);
        assert_eq!(best(bias(&[(1, f32::NEG_INFINITY), (0, 1.5)])).unwrap(), 0);
        let error = best(bias(&[(3, 1.0)])).unwrap_err();
        assert_eq!(error, GenerateError::BiasOutside { id: 3, vocabulary: 3 });
        assert!(best(bias(&[0, 1, 2].map(|id| (id, f32::NEG_INFINITY)))).is_err());
    }

    #[test]
    fn a_seed_repeats_itself() {
        let logits: Vec<f32> = (0..100).map(|i| (i as f32 * 0.7).sin()).collect();
        let draw = |seed| {
            let mut sampler = Sampler::new(Sampling { seed, ..Sampling::default() });
            (0..50).map(|_| sampler.sample(&logits, &[]).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    /// The cuts in plain steps over the sorted vocabulary: the ids that remain, most likely first.
    fn remaining(s: &Sampling, logits: &[f32]) -> Vec<u32> {
        let mut all: Vec<(f32, u32)> = logits.iter().copied().zip(0..).filter(|c| c.0 > f32::NEG_INFINITY).collect();
        all.sort_by(order);
        let largest = all[0].0;
        let mut total = sum(logits, |logit| weight(logit, largest, 1.0));
        if 0 < s.top_k && s.top_k < logits.len() {
            all.truncate(s.top_k);
            total = all.iter().map(|c| exp(c.0 - largest)).sum();
        }
        if s.top_p < 1.0 {
            let mut reached = 0.0;
            let cut = all.iter().position(|c| {
                reached += exp(c.0 - largest);
                reached >= s.top_p * total
            });
            all.truncate(cut.map_or(all.len(), |last| last + 1));
        }
        let kept = all.iter().take_while(|c| exp(c.0 - largest) >= s.min_p).count().max(1);
        all.iter().take(kept).map(|c| c.1).collect()
    }

    #[test]
    fn cuts_without_sorting_leave_what_sorting_leaves() {
        let mut state = 1;
        for vocabulary in [1, 2, 65, 127, 128, 129, 1000, 5000] {
            for round in 0..6 {
                // Steep and flat ones, many equals, some ruled out.
                let mut logits: Vec<f32> = (0..vocabulary).map(|_| unit(&mut state) * [2.0, 20.0][round % 2]).collect();
                if round >= 2 {
                    logits.iter_mut().for_each(|logit| *logit = logit.round());
                }
                if round >= 4 {
                    logits.iter_mut().skip(1).step_by(3).for_each(|logit| *logit = f32::NEG_INFINITY);
                }
                for top_k in [0, 1, 3, 40, 700] {
                    for top_p in [0.0, 0.5, 0.95, 1.0] {
                        for min_p in [0.0, 0.05, 0.9, 2.0] {
                            let s = Sampling { top_k, top_p, min_p, temperature: 1e30, ..neutral() };
                            let kept = remaining(&s, &logits);
                            let mut sampler = Sampler::new(s);
                            // So hot that all that remain are about as likely: the draws find them.
                            for _ in 0..20 {
                                let id = sampler.sample(&logits, &[]).unwrap();
                                assert!(kept.contains(&id), "{vocabulary} {round} {top_k} {top_p} {min_p}: {id}");
                            }
                            if (0 < top_k && top_k < vocabulary) || top_p < 1.0 || min_p > 0.0 {
                                let found: Vec<u32> = sampler.ranking.candidates.iter().map(|c| c.1).collect();
                                assert_eq!(found, kept, "{vocabulary} {round} {top_k} {top_p} {min_p}");
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_ruled_out_is_never_drawn() {
        let mut logits = vec![f32::NEG_INFINITY; 300];
        logits[7] = 0.0;
        logits[200] = -1.0;
        let shares = shares(Sampling { temperature: 1e9, ..neutral() }, &logits, &[]);
        assert!(shares.iter().enumerate().all(|(id, &share)| (share > 0.4) == (id == 7 || id == 200)), "{shares:?}");
        for top_k in [0, 5] {
            let mut sampler = Sampler::new(Sampling { top_k, temperature: 1e9, ..neutral() });
            assert!((0..1000).all(|_| [7, 200].contains(&sampler.sample(&logits, &[]).unwrap())));
        }
    }

    #[test]
    fn log_probabilities_sum_to_one_and_are_in_order() {
        let logits: Vec<f32> = (0..1000).map(|i| ((i * 37 % 1000) as f32 * 0.013).sin() * 9.0).collect();
        let mut of = LogProbabilities::new(&logits).unwrap();
        let total: f64 = (0..1000).map(|id| f64::from(of.token(id).unwrap()).exp()).sum();
        assert!((total - 1.0).abs() < 1e-5);
        assert_eq!(of.token(1000), None);
        let all = remaining(&neutral(), &logits);
        let top: Vec<(u32, f32)> = of.top(5).collect();
        assert_eq!(top.iter().map(|t| t.0).collect::<Vec<_>>(), all[..5]);
        assert!(top.iter().all(|&(id, log)| Some(log) == of.token(id)));
        assert_eq!(of.top(5000).count(), 1000);
        assert!(LogProbabilities::new(&[]).is_err() && LogProbabilities::new(&[f32::NAN]).is_err());
    }

    #[test]
    fn broken_logits_are_an_error() {
        let mut sampler = Sampler::new(Sampling::default());
        assert!(matches!(sampler.sample(&[0.0, f32::NAN], &[]), Err(GenerateError::NotANumber { id: 1 })));
        assert!(matches!(sampler.sample(&[f32::NEG_INFINITY; 3], &[]), Err(GenerateError::NoTokens)));
        assert!(matches!(sampler.sample(&[], &[]), Err(GenerateError::NoTokens)));
    }
}
