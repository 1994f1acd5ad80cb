//! `sterna perplexity`: how well a model predicts a text.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;
use serde_json::json;
use sterna_core::Model;
use sterna_core::kernels::Executor;

use crate::args::{EngineArgs, ModelArgs, at_least, read_text};
use crate::engine::Loading;
use crate::memory::Scored;
use crate::perplexity::logits_file::{Reader, Writer};
use crate::perplexity::{self, CONTEXT, Found, Settings, divergence};
use crate::ui::divergence::Divergence;
use crate::ui::interrupt::{self, Interrupted};
use crate::ui::perplexity::Estimate;
use crate::ui::progress::Progress;
use crate::ui::{message, stream, text};
use crate::{Out, data, engine};

/// What `sterna perplexity` takes.
#[derive(Debug, Args)]
pub struct PerplexityArgs {
    /// Which model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The text: a file, - for stdin, or the name of a text of `sterna data`, such as tinyshakespeare.
    #[arg(
        id = "text_file",
        short = 'f',
        long = "file",
        alias = "binary-file",
        value_name = "FILE",
        required_unless_present = "kl_divergence"
    )]
    pub file: Option<PathBuf>,
    /// How the engine runs; a context of 0 is 512 tokens here. A text that is shorter than a chunk is one chunk.
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Score every token of the text once: windows of the context advance by N tokens, and in each the last N are
    /// scored, in the first one all. Smaller is slower and gives each token more context.
    #[arg(long, value_name = "N", value_parser = at_least::<1, u32>)]
    pub stride: Option<u32>,
    /// At most so many chunks; -1 is all.
    #[arg(long, value_name = "N", default_value_t = -1, allow_negative_numbers = true, value_parser = at_least::<-1, i64>)]
    pub chunks: i64,
    /// Evaluate only what follows this fraction of the text's characters: 0.9 is its last tenth.
    #[arg(long, value_name = "FRACTION", default_value_t = 0.0, value_parser = fraction)]
    pub split: f64,
    /// Write what the model predicts into a file, for --kl-divergence with another model; with --kl-divergence, the file to compare
    /// with. It is the file that llama-perplexity writes and reads. Also --save-all-logits.
    #[arg(long, alias = "save-all-logits", value_name = "FILE")]
    pub kl_divergence_base: Option<PathBuf>,
    /// Compare what the model predicts with what another one did, on the text that is in --kl-divergence-base.
    #[arg(long, requires = "kl_divergence_base", conflicts_with_all = ["stride", "split"])]
    pub kl_divergence: bool,
    /// Print one JSON object at the end instead of the running line.
    #[arg(long)]
    pub json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    estimate: Option<Estimate>,
    /// Tokens of a chunk.
    context: usize,
    /// Chunks that were measured.
    chunks: usize,
    /// Chunks that there are.
    chunks_in_all: usize,
    /// Whether Ctrl-C came before the last chunk.
    partial: bool,
}

/// Prints the running and the final value.
///
/// # Errors
/// A model or a text that cannot be used; Ctrl-C, after what was measured until then.
pub fn run(args: &PerplexityArgs, out: &mut Out) -> Result<()> {
    let path = args.model.resolve()?;
    if let (true, Some(base)) = (args.kl_divergence, &args.kl_divergence_base) {
        return compare(&path, base, args, out);
    }
    let Some(file) = &args.file else { bail!("no text given; name a file with -f, or stdin with -f -") };
    let whole = read_text(&data::text_file(file, None)?)?;
    let measured = perplexity::after(&whole, args.split);
    let settings = Settings {
        context: args.engine.context().unwrap_or(CONTEXT),
        stride: args.stride.map(|stride| stride as usize),
        chunks: usize::try_from(args.chunks).unwrap_or(usize::MAX),
        ..Settings::default()
    };
    engine::with_threads(args.engine.threads(), |exec| {
        // No token is shorter than a byte, but for those that begin and end a text.
        let most = settings.context.min(measured.len().saturating_add(2));
        let scored = if settings.stride.is_some() { Scored::All } else { Scored::Half };
        let how = Loading { context: Some(most), filled: Some(scored), ..args.engine.loading() };
        let model = load(&path, &how, &*exec, args.json, out)?;
        let limit = model.transformer().config().n_ctx;
        if args.engine.context().is_some_and(|context| context > limit) {
            message::note(&format!("the model's context is {limit} tokens, so chunks have {limit}"));
        }
        let busy = interrupt::busy();
        let started = Instant::now();
        // The running line tells how far it is, unless it goes elsewhere.
        let told = !args.json && (io::stdout().is_terminal() || stream::together());
        let mut progress: Option<Progress> = None;
        let mut save = args.kl_divergence_base.as_deref().map(Writer::create).transpose()?;
        let found =
            perplexity::measure_and_save(&model, &*exec, measured, &settings, save.as_mut(), &busy, &mut |chunk| {
                chunk.say_shrunk(settings.context);
                if chunk.index == 0 {
                    let all = text::duration(started.elapsed() * u32::try_from(chunk.count).unwrap_or(u32::MAX));
                    let kernel = model.transformer().kernel().name();
                    let count = text::thousands(chunk.count as u64);
                    message::line(&format!("{count} chunks of {} tokens, about {all} ({kernel})", chunk.tokens));
                    progress = (!told).then(|| Progress::steps("measuring", chunk.count as u64));
                }
                if let Some(progress) = &mut progress {
                    progress.set(chunk.index as u64 + 1);
                }
                match chunk.so_far {
                    Some(estimate) if !args.json => Ok(estimate.write_running(out, chunk.index + 1)?),
                    _ => Ok(()),
                }
            });
        drop(progress);
        match save {
            Some(save) if found.as_ref().is_ok_and(|found| found.chunks == found.count) => save.finish()?,
            Some(save) => save.discard()?,
            None => {}
        }
        finish(&found?, args, out)
    })?
}

/// Prints how far the model is from the one whose predictions are in `base`.
fn compare(path: &Path, base: &Path, args: &PerplexityArgs, out: &mut Out) -> Result<()> {
    let mut base = Reader::open(base)?;
    let context = base.context;
    if args.file.is_some() {
        message::note("-f has no effect: the text that is compared on is the one in the file of logits");
    }
    if args.engine.context().is_some_and(|given| given != context) {
        message::note(&format!("-c has no effect: chunks have {context} tokens, as in the file of logits"));
    }
    let chunks = usize::try_from(args.chunks).unwrap_or(usize::MAX);
    let all = chunks.min(base.tokens.len() / context);
    if all == 0 {
        bail!("--chunks 0 leaves nothing to measure; -1 is all");
    }
    engine::with_threads(args.engine.threads(), |exec| {
        let how = Loading { context: Some(context), filled: Some(Scored::Half), ..args.engine.loading() };
        let model = load(path, &how, &*exec, args.json, out)?;
        let busy = interrupt::busy();
        if !args.json {
            Divergence::write_titles(out)?;
        }
        let mut done = 0;
        let found = divergence::measure(&model, &*exec, &mut base, chunks, &busy, &mut |chunk, so_far| {
            done = chunk;
            if !args.json {
                so_far.write_running(out, chunk)?;
            }
            Ok(())
        })?;
        let partial = done < all;
        match args.json {
            true => {
                let mut object = if done > 0 { found.json() } else { json!({}) };
                object["chunks"] = done.into();
                object["chunks_in_all"] = all.into();
                object["partial"] = partial.into();
                writeln!(out, "{object}")?;
            }
            false if done == 0 => {}
            false => {
                if partial {
                    writeln!(out, "\nPartial statistics after {done} of {} chunks", text::thousands(all as u64))?;
                }
                found.write_final(out)?;
            }
        }
        out.flush()?;
        if partial { Err(Interrupted::partial(done, all, "chunks").into()) } else { Ok(()) }
    })?
}

/// Loads the model. After Ctrl-C, JSON says that nothing was measured.
fn load(path: &Path, how: &Loading<'_>, exec: &dyn Executor, json: bool, out: &mut Out) -> Result<Model> {
    let loaded = engine::load(path, how, exec);
    if json && loaded.as_ref().is_err_and(interrupt::is_interrupted) {
        writeln!(out, "{}", json!({ "chunks": 0, "chunks_in_all": null, "partial": true }))?;
    }
    loaded
}

/// Prints what was found, and says what Ctrl-C left unfinished.
fn finish(found: &Found, args: &PerplexityArgs, out: &mut Out) -> Result<()> {
    let Found { estimate, chunks, count, context } = *found;
    let partial = chunks < count;
    if args.json {
        let report = Report { estimate, context, chunks, chunks_in_all: count, partial };
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    } else if let Some(estimate) = estimate {
        let title = match partial {
            true => format!("Partial estimate after {} of {} chunks", chunks, text::thousands(count as u64)),
            false => "Final estimate".to_owned(),
        };
        writeln!(out)?;
        estimate.write_result(out, &title)?;
    }
    out.flush()?;
    if !partial {
        return Ok(());
    }
    let mut stopped = Interrupted::partial(chunks, count, "chunks");
    if let Some(base) = &args.kl_divergence_base {
        stopped.then = format!("{}; {} was not written", stopped.then, base.display());
    }
    Err(stopped.into())
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
