//! How the next token is chosen.

use clap::Args;
use sterna_core::Sampling;

use super::ranges::at_least;

/// How the next token is chosen.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Temperature; 0 or less always takes the likeliest token.
    #[arg(long, visible_alias = "temperature", value_name = "T", default_value_t = 0.8, allow_negative_numbers = true, value_parser = number)]
    pub temp: f32,
    /// Choose among the K likeliest tokens; 0 or less is all.
    #[arg(long, value_name = "K", default_value_t = 40, allow_negative_numbers = true, value_parser = top_k)]
    pub top_k: i64,
    /// Choose among the likeliest tokens that together have this probability; 1 is all.
    #[arg(long, value_name = "P", default_value_t = 0.95, allow_negative_numbers = true, value_parser = number)]
    pub top_p: f32,
    /// Leave out tokens less likely than this share of the likeliest; 0 is none.
    #[arg(long, value_name = "P", default_value_t = 0.05, allow_negative_numbers = true, value_parser = number)]
    pub min_p: f32,
    /// Divide the score of recent tokens by this; 1 is off.
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = positive)]
    pub repeat_penalty: f32,
    /// Subtract this from the score of a recent token, once for each time it occurs; 0 is off.
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true, value_parser = number)]
    pub frequency_penalty: f32,
    /// Subtract this once from the score of each recent token; 0 is off.
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true, value_parser = number)]
    pub presence_penalty: f32,
    /// How many tokens are recent, for the three penalties; 0 turns them off, -1 is the whole context.
    #[arg(long, value_name = "N", default_value_t = 64, allow_negative_numbers = true, value_parser = at_least::<-1, i64>)]
    pub repeat_last_n: i64,
    /// Add to the score of a token: 15043+1 makes token 15043 likelier, 15043-1 less likely, 15043-inf forbids it. May be
    /// given more than once. `sterna tokenize` shows ids.
    #[arg(short = 'l', long, value_name = "ID+BIAS", value_parser = bias)]
    pub logit_bias: Vec<(u32, f32)>,
    /// The same seed gives the same text, on every machine; -1 draws one.
    #[arg(short, long, value_name = "SEED", default_value_t = -1, allow_negative_numbers = true, value_parser = at_least::<-1, i64>)]
    pub seed: i64,
}

impl SamplingArgs {
    /// What was typed as core's sampling. A seed that was not given is drawn from the system's randomness.
    pub fn sampling(&self) -> Sampling {
        Sampling {
            temperature: self.temp,
            top_k: usize::try_from(self.top_k).unwrap_or(0),
            top_p: self.top_p,
            min_p: self.min_p,
            repeat_penalty: self.repeat_penalty,
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            repeat_last_n: usize::try_from(self.repeat_last_n).unwrap_or(usize::MAX),
            logit_bias: self.logit_bias.clone(),
            seed: self.seed(),
        }
    }

    fn seed(&self) -> u64 {
        use std::hash::{BuildHasher, RandomState};
        u64::try_from(self.seed).unwrap_or_else(|_| RandomState::new().hash_one(std::process::id()) >> 1)
    }
}

fn number(text: &str) -> Result<f32, String> {
    text.parse().ok().filter(|value: &f32| value.is_finite()).ok_or_else(|| "give a number".to_owned())
}

fn top_k(text: &str) -> Result<i64, String> {
    let most = i64::from(u32::MAX);
    text.trim().parse().ok().filter(|k| *k <= most).ok_or_else(|| format!("give a whole number, at most {most}"))
}

fn positive(text: &str) -> Result<f32, String> {
    number(text).ok().filter(|value| *value > 0.0).ok_or_else(|| "give a number above 0".to_owned())
}

/// `15043+1.5` or `15043-inf`.
fn bias(text: &str) -> Result<(u32, f32), String> {
    let parsed = text.find(['+', '-']).and_then(|at| {
        let (id, bias) = text.split_at(at);
        let bias = if bias == "-inf" { f32::NEG_INFINITY } else { number(bias).ok()? };
        Some((id.trim().parse().ok()?, bias))
    });
    parsed.ok_or_else(|| "give a token's id, a sign and a number, such as 15043+1, 15043-0.5 or 15043-inf".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn biases_have_a_token_a_sign_and_a_number() {
        assert_eq!(bias("15043+1"), Ok((15043, 1.0)));
        assert_eq!(bias("7-0.5"), Ok((7, -0.5)));
        assert_eq!(bias("7-inf"), Ok((7, f32::NEG_INFINITY)));
        for wrong in ["7", "7+", "+1", "a+1", "7+inf", "7+nan", "-7+1", "7*2", "4294967296+1"] {
            assert!(bias(wrong).is_err(), "{wrong} was taken");
        }
    }
}
