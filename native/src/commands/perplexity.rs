//! `sterna perplexity`: how well a model predicts a text, chunk by chunk, as llama-perplexity measures it.
//!
//! The text is cut into chunks of the context's size. Of each chunk the second half is scored, so that every scored
//! token has at least half a context before it; the first token of a chunk is the one that begins a text, where the
//! model has such.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use rayon::prelude::*;
use sterna_core::model::Logits;
use sterna_core::tokenizer::EncodeOptions;

use crate::Out;
use crate::args::{EngineArgs, ModelArgs, read_text};
use crate::engine;
use crate::ui::interrupt;
use crate::ui::perplexity::{Estimate, Losses};

/// Tokens per chunk if none are given.
const CONTEXT: usize = 512;

/// What `sterna perplexity` takes.
#[derive(Debug, Args)]
pub struct PerplexityArgs {
    /// Which model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The text; - is stdin.
    #[arg(id = "text_file", short = 'f', long = "file", value_name = "FILE")]
    pub file: PathBuf,
    /// How the engine runs; a context of 0 is 512 tokens here.
    #[command(flatten)]
    pub engine: EngineArgs,
    /// At most so many chunks; -1 is all.
    #[arg(long, value_name = "N", default_value_t = -1, allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(-1..))]
    pub chunks: i64,
    /// Evaluate only what follows this fraction of the text's characters: 0.9 is its last tenth.
    #[arg(long, value_name = "FRACTION", default_value_t = 0.0, value_parser = fraction)]
    pub split: f64,
    /// Print one JSON object at the end instead of the running line.
    #[arg(long)]
    pub json: bool,
}

/// Prints the running and the final value.
pub fn run(args: &PerplexityArgs, out: &mut Out) -> Result<()> {
    let path = args.model.resolve()?;
    let text = read_text(&args.file)?;
    let text = after(&text, args.split);
    engine::with_threads(args.engine.threads(), |exec| {
        let model = engine::load(&path, args.engine.kernel.as_deref(), &*exec)?;
        let tokenizer = model.tokenizer()?;
        let tokens = tokenizer.encode(text, EncodeOptions { add_special: true, parse_special: false })?;
        let context = args.engine.context().unwrap_or(CONTEXT).min(model.transformer().config().n_ctx);
        let chunks = usize::try_from(args.chunks).unwrap_or(usize::MAX).min(tokens.len() / context.max(1));
        if chunks == 0 || context < 4 {
            bail!(
                "the text has {} tokens, a chunk {context}; give a longer text or a smaller -c (at least 4)",
                tokens.len()
            );
        }
        let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
        let busy = interrupt::busy();
        let started = std::time::Instant::now();
        let mut losses = Losses::default();
        for (i, chunk) in tokens.chunks_exact(context).take(chunks).enumerate() {
            if busy.requested() {
                break;
            }
            let mut chunk = chunk.to_vec();
            if let Some(bos) = bos {
                chunk[0] = bos;
            }
            for loss in score(&model, &*exec, &chunk)? {
                losses.push(loss);
            }
            if i == 0 && !args.json {
                let all = started.elapsed().as_secs_f64() * chunks as f64;
                eprintln!(
                    "{chunks} chunks of {context} tokens, about {all:.0} s ({})",
                    model.transformer().kernel().name()
                );
            }
            if let Some(estimate) = losses.estimate().filter(|_| !args.json) {
                estimate.write_running(out, i + 1)?;
            }
        }
        finish(losses.estimate(), args.json, out)
    })?
}

fn finish(estimate: Option<Estimate>, json: bool, out: &mut Out) -> Result<()> {
    match estimate {
        Some(estimate) if json => writeln!(out, "{}", serde_json::to_string(&estimate)?)?,
        Some(estimate) => {
            writeln!(out)?;
            estimate.write_final(out)?;
        }
        None => bail!("interrupted before the first chunk was done"),
    }
    Ok(())
}

/// Losses of the tokens in the second half of `chunk`.
fn score(model: &sterna_core::Model, exec: &dyn sterna_core::kernels::Executor, chunk: &[u32]) -> Result<Vec<f64>> {
    let transformer = model.transformer();
    let mut state = transformer.state(Some(chunk.len()));
    let first = chunk.len() / 2;
    // What comes before is context; the last token predicts nothing that is here.
    transformer.forward(&mut state, exec, &chunk[..first], Logits::None)?;
    let logits = transformer.forward(&mut state, exec, &chunk[first..chunk.len() - 1], Logits::All)?;
    let rows: Vec<(&[f32], u32)> =
        logits.chunks_exact(transformer.vocabulary()).zip(chunk[first + 1..].iter().copied()).collect();
    Ok(rows.into_par_iter().map(|(row, target)| loss(row, target)).collect())
}

/// Minus the logarithm of the softmax of `logits` at `target`.
fn loss(logits: &[f32], target: u32) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - max).exp()).sum();
    sum.ln() - f64::from(logits[target as usize] - max)
}

/// What follows `split` of the characters of `text`.
fn after(text: &str, split: f64) -> &str {
    let skip = (text.chars().count() as f64 * split) as usize;
    text.char_indices().nth(skip).map_or("", |(at, _)| &text[at..])
}

fn fraction(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if (0.0..1.0).contains(&value) => Ok(value),
        _ => Err("give a number from 0 up to, but not including, 1".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_logarithms_of_the_softmax() {
        assert!((loss(&[0.0; 4], 2) - 4_f64.ln()).abs() < 1e-12);
        let all = [1000.0, 999.0, f32::NEG_INFINITY];
        assert!((loss(&all, 0) - (1.0 + (-1_f64).exp()).ln()).abs() < 1e-9);
        assert_eq!(loss(&all, 2), f64::INFINITY);
    }

    #[test]
    fn splits_fall_between_characters() {
        assert_eq!(after("äöüß", 0.5), "üß");
        assert_eq!(after("abc", 0.0), "abc");
        assert_eq!(after("", 0.9), "");
        assert!(fraction("1").is_err() && fraction("-0.1").is_err() && fraction("0.9").is_ok());
    }
}
