//! `sterna perplexity`: how well a model predicts a text.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;

use crate::args::{EngineArgs, ModelArgs, read_text};
use crate::perplexity::{self, CONTEXT, Settings};
use crate::ui::interrupt;
use crate::ui::perplexity::Estimate;
use crate::{Out, engine};

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
    /// Score every token of the text once: windows of the context advance by N tokens, and in each the last N are
    /// scored, in the first one all. Smaller is slower and gives each token more context.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub stride: Option<u32>,
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
    let text = perplexity::after(&text, args.split);
    let settings = Settings {
        context: args.engine.context().unwrap_or(CONTEXT),
        stride: args.stride.map(|stride| stride as usize),
        chunks: usize::try_from(args.chunks).unwrap_or(usize::MAX),
        ..Settings::default()
    };
    engine::with_threads(args.engine.threads(), |exec| {
        let model = engine::load(&path, args.engine.kernel.as_deref(), &*exec)?;
        let busy = interrupt::busy();
        let started = Instant::now();
        let estimate = perplexity::measure(&model, &*exec, text, &settings, &busy, &mut |chunk| {
            if args.json {
                return Ok(());
            }
            if chunk.index == 0 {
                let all = started.elapsed().as_secs_f64() * chunk.count as f64;
                let kernel = model.transformer().kernel().name();
                eprintln!("{} chunks of {} tokens, about {all:.0} s ({kernel})", chunk.count, chunk.tokens);
            }
            if let Some(estimate) = chunk.so_far {
                estimate.write_running(out, chunk.index + 1)?;
            }
            Ok(())
        })?;
        finish(estimate, args.json, out)
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

fn fraction(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if (0.0..1.0).contains(&value) => Ok(value),
        _ => Err("give a number from 0 up to, but not including, 1".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::fraction;

    #[test]
    fn fractions_are_below_one() {
        assert!(fraction("1").is_err() && fraction("-0.1").is_err() && fraction("0.9").is_ok());
    }
}
