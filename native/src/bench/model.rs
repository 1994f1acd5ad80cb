//! A checkpoint measured as it is (`baseline`), and rounded to ternary (`ptq`): bytes of the GGUF, perplexity
//! on one text, tokens a second. Files are made by the converter, perplexity is that of `sterna perplexity`, speed that of
//! `sterna bench`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use sterna_core::formats::Format;
use sterna_core::kernels::{Executor, Rayon, Serial};

use super::{Spread, speed};
use crate::checkpoint::Checkpoint;
use crate::convert::{self, Options};
use crate::ui::interrupt::{Busy, Interrupted};
use crate::{engine, perplexity};

/// Runs of which the median is the speed, and runs before them.
const RUNS: (u32, u32) = (3, 1);

/// What is measured, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The checkpoint's directory.
    pub dir: PathBuf,
    /// How it is rounded.
    pub options: Options,
    /// The float format of the baseline.
    pub float: Format,
    /// How perplexity is measured.
    pub perplexity: perplexity::Settings,
    /// Tokens that are generated; `None` measures no speed.
    pub max_new_tokens: Option<usize>,
    /// Do not measure the perplexity of the rounded model.
    pub skip_ptq_ppl: bool,
    /// Threads.
    pub threads: usize,
    /// The kernel; `None` is the fastest.
    pub kernel: Option<String>,
    /// Where the files go.
    pub work: PathBuf,
    /// Leave them there.
    pub keep: bool,
}

/// One model.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// Bytes of the file over 2^30.
    pub size_gib: f64,
    /// Perplexity; `None` where it was not asked for.
    pub ppl: Option<f64>,
    /// Tokens generated in a second; `None` where it was not asked for.
    pub tok_s: Option<f64>,
}

/// The float format that is truest to a checkpoint: BF16 for weights of this type, else F16.
///
/// # Errors
/// If there is no checkpoint.
pub fn float_format(dir: &Path) -> Result<Format> {
    let checkpoint = Checkpoint::open(dir)?;
    let config = checkpoint.config();
    let dtype = config.word("torch_dtype").or_else(|| config.word("dtype"));
    Ok(if dtype == Some("bfloat16") { Format::BF16 } else { Format::F16 })
}

/// The first `count` documents of a plain text, which are its lines that are not blank, with what stands between them.
pub fn documents(text: &str, count: usize) -> &str {
    let ends = text.split_inclusive('\n').scan(0, |end, line| {
        *end += line.len();
        Some((*end, !line.trim().is_empty()))
    });
    let mut ends = ends.filter(|(_, filled)| *filled).map(|(end, _)| end);
    match count.checked_sub(1) {
        Some(last) => ends.nth(last).map_or(text, |end| &text[..end]),
        None => "",
    }
}

/// The checkpoint in floats.
///
/// # Errors
/// As [`convert::from_checkpoint`] and [`measure`].
pub fn baseline(settings: &Settings, text: &str, busy: &Busy) -> Result<Measured> {
    let float = settings.float;
    let options = Options { quant: Some(float), embedding: Some(float), output: Some(float), ..Options::default() };
    converted(settings, "baseline.gguf", &options, Some(text), busy)
}

/// The checkpoint rounded to ternary, without training.
///
/// # Errors
/// As [`convert::from_checkpoint`] and [`measure`].
pub fn ptq(settings: &Settings, text: &str, busy: &Busy) -> Result<Measured> {
    let text = Some(text).filter(|_| !settings.skip_ptq_ppl);
    converted(settings, "ptq.gguf", &settings.options, text, busy)
}

fn converted(settings: &Settings, name: &str, options: &Options, text: Option<&str>, busy: &Busy) -> Result<Measured> {
    let path = settings.work.join(name);
    let report = engine::in_pool(settings.threads, || convert::from_checkpoint(&settings.dir, &path, None, options))??;
    report.notes.iter().for_each(|note| eprintln!("note: {name}: {note}"));
    let measured = measure(settings, &path, text, busy);
    if !settings.keep {
        // The next file may need the room.
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    measured
}

/// Measures a file: perplexity where there is a text.
///
/// # Errors
/// A model that does not load or cannot be measured so; Ctrl-C.
pub fn measure(settings: &Settings, path: &Path, text: Option<&str>, busy: &Busy) -> Result<Measured> {
    let size = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
    engine::in_pool(settings.threads, || {
        let exec: Arc<dyn Executor> = if settings.threads == 1 { Arc::new(Serial) } else { Arc::new(Rayon) };
        let model = engine::load(path, settings.kernel.as_deref(), &*exec)?;
        let of_file = || path.display().to_string();
        let limit = model.transformer().config().n_ctx;
        if let Some(tokens) = settings.max_new_tokens.filter(|&tokens| tokens > limit) {
            bail!("--max-new-tokens {tokens} does not fit the model's context of {limit}; give a smaller one");
        }
        let mut ppl = None;
        if let Some(text) = text {
            let found = perplexity::measure(&model, &*exec, text, &settings.perplexity, busy, &mut |_| Ok(()));
            ppl = found.with_context(of_file)?.map(|estimate| estimate.perplexity);
        }
        let mut tok_s = None;
        if let Some(tokens) = settings.max_new_tokens.filter(|_| !busy.requested()) {
            let samples = speed::samples(&model, (0, tokens), RUNS, &exec, busy).with_context(of_file)?;
            let rates: Option<Vec<f64>> =
                samples.map(|samples| samples.iter().map(|&ns| tokens as f64 * 1e9 / ns.max(1) as f64).collect());
            tok_s = rates.and_then(|rates| Spread::of(&rates)).map(|spread| spread.median);
        }
        if busy.requested() {
            return Err(Interrupted { then: String::new() }.into());
        }
        Ok(Measured { size_gib: size as f64 / (1u64 << 30) as f64, ppl, tok_s })
    })?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_of_a_text_are_lines_with_something_in_them() {
        let text = "one\n\n two\n  \nthree";
        for (count, expected) in [(0, ""), (1, "one\n"), (2, "one\n\n two\n"), (3, text), (9, text)] {
            assert_eq!(documents(text, count), expected, "{count}");
        }
        assert_eq!(documents("", 1), "");
    }
}
