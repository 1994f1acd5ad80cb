//! A checkpoint measured as it is (`baseline`), rounded to ternary (`ptq`), and trained to be ternary (`qat`): bytes of the GGUF,
//! perplexity on one text, tokens a second.
//!
//! Nothing here measures or makes anything in a way of its own: files are the converter's, training is that of `sterna qat`,
//! perplexity that of `sterna perplexity`, speed that of `sterna bench`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use sterna_core::formats::Format;
use sterna_core::kernels::{Executor, Rayon, Serial};

use super::{Spread, speed};
use crate::args::MemoryArgs;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::family::Style;
use crate::checkpoint::plan::Plan;
use crate::convert::{self, Options};
use crate::engine::Loading;
use crate::memory::Scored;
use crate::train::finetune::{self, FinetuneConfig};
use crate::train::memory::admit;
use crate::ui::interrupt::Busy;
use crate::ui::message;
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
    /// What to do where memory is short.
    pub memory: MemoryArgs,
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

/// How a model is trained.
#[derive(Clone, Copy, Debug)]
pub struct Training {
    /// Steps.
    pub steps: usize,
    /// Peak learning rate.
    pub learning_rate: f32,
    /// Tokens of a sequence; `None` is what `sterna qat` takes, or less where the model sees less.
    pub seq_len: Option<usize>,
    /// Sequences of a batch; `None` is what `sterna qat` takes.
    pub batch_size: Option<usize>,
    /// Train even where the machine seems to have too little memory.
    pub force: bool,
}

impl Default for Training {
    fn default() -> Self {
        let schedule = FinetuneConfig::default().run.schedule;
        Self { steps: schedule.steps, learning_rate: schedule.lr, seq_len: None, batch_size: None, force: false }
    }
}

/// Why a checkpoint cannot be trained to be ternary; `None` if it can.
///
/// # Errors
/// If there is no checkpoint, or one that cannot be converted either.
pub fn cannot_train(dir: &Path) -> Result<Option<String>> {
    let plan = Plan::of(&Checkpoint::open(dir)?)?;
    Ok((plan.family.style == Style::BitNet)
        .then(|| "a BitNet was trained ternary, and has no float weights".to_owned()))
}

/// Trains the checkpoint on a text, measures on another, and gives the directory of the checkpoint that it became.
///
/// # Errors
/// As [`finetune::finetune`].
pub fn train(settings: &Settings, training: &Training, text: &str, evaluation: &str) -> Result<PathBuf> {
    let dir = settings.work.join("qat");
    if dir.exists() {
        bail!("{} holds an earlier run; remove it, or name another folder", dir.display());
    }
    let hyper = Plan::of(&Checkpoint::open(&settings.dir)?)?.hyper;
    let write = |name: &str, text: &str| -> Result<PathBuf> {
        let path = settings.work.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    };
    let mut config = FinetuneConfig {
        source: settings.dir.clone(),
        text: write("training.txt", text)?,
        eval_text: Some(write("evaluation.txt", evaluation)?),
        max_eval_tokens: Some(settings.perplexity.tokens).filter(|&tokens| tokens < usize::MAX),
        rule: settings.options.method.to_string(),
        group: settings.options.group.map(|group| group.to_string()),
        quant: settings.options.quant.unwrap_or(Format::TQ2_0).name().to_owned(),
        ..FinetuneConfig::default()
    };
    let sees = hyper.context.min(hyper.window.unwrap_or(usize::MAX));
    config.seq_len = training.seq_len.unwrap_or_else(|| config.seq_len.min(sees));
    config.batch_size = training.batch_size.unwrap_or(config.batch_size);
    config.set_steps(training.steps);
    config.run.schedule.lr = training.learning_rate;
    let admit = admit(training.force);
    let outcome = engine::in_pool(settings.threads, || finetune::finetune(&config, &dir, &admit, false))??;
    Ok(outcome.checkpoint)
}

/// The checkpoint in floats.
///
/// # Errors
/// As [`convert::from_checkpoint`] and [`measure`].
pub fn baseline(settings: &Settings, text: &str, busy: &Busy) -> Result<Measured> {
    let float = settings.float;
    let options = Options { quant: Some(float), embedding: Some(float), output: Some(float), ..Options::default() };
    converted(settings, &settings.dir, "baseline.gguf", &options, Some(text), busy)
}

/// The checkpoint rounded to ternary, without training.
///
/// # Errors
/// As [`convert::from_checkpoint`] and [`measure`].
pub fn ptq(settings: &Settings, text: &str, busy: &Busy) -> Result<Measured> {
    let text = Some(text).filter(|_| !settings.skip_ptq_ppl);
    converted(settings, &settings.dir, "ptq.gguf", &settings.options, text, busy)
}

/// What training made of the checkpoint, in `trained`.
///
/// # Errors
/// As [`baseline`].
pub fn qat(settings: &Settings, trained: &Path, text: &str, busy: &Busy) -> Result<Measured> {
    // What training made ternary must be found so, and then no rule has columns to weigh.
    let options = Options { lossless: true, calibration: None, imatrix: None, ..settings.options.clone() };
    converted(settings, trained, "qat.gguf", &options, Some(text), busy)
}

/// Converts `dir`, the checkpoint or what training made of it, and measures the file.
fn converted(
    settings: &Settings,
    dir: &Path,
    file: &str,
    options: &Options,
    text: Option<&str>,
    busy: &Busy,
) -> Result<Measured> {
    let path = settings.work.join(file);
    let name = convert::directory_name(&settings.dir);
    let report = engine::in_pool(settings.threads, || convert::from_checkpoint(dir, &path, Some(&name), options))??;
    report.notes.iter().for_each(|note| message::note(&format!("{file}: {note}")));
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
        // No token is shorter than a byte, but for those that begin and end a text.
        let most = text.map_or(usize::MAX, |text| text.len().saturating_add(2));
        let how = Loading {
            filled: text.map(|_| Scored::Half),
            ..settings.memory.loading(settings.kernel.as_deref(), Some(settings.perplexity.context.min(most)))
        };
        let model = engine::load(path, &how, &*exec)?;
        let of_file = || path.display().to_string();
        let limit = model.transformer().config().n_ctx;
        if let Some(tokens) = settings.max_new_tokens.filter(|&tokens| tokens > limit) {
            bail!("--max-new-tokens {tokens} does not fit the model's context of {limit}; give a smaller one");
        }
        let mut ppl = None;
        if let Some(text) = text {
            let found = perplexity::measure(&model, &*exec, text, &settings.perplexity, busy, &mut |chunk| {
                chunk.say_shrunk(settings.perplexity.context);
                Ok(())
            });
            ppl = found.with_context(of_file)?.estimate.map(|estimate| estimate.perplexity);
        }
        let mut tok_s = None;
        if let Some(tokens) = settings.max_new_tokens.filter(|_| !busy.requested()) {
            let run = speed::Run { depth: 0, prompt: 0, generated: tokens };
            let samples = speed::samples(&model, run, RUNS, &exec, busy, &mut |_| {}).with_context(of_file)?;
            let rates: Option<Vec<f64>> =
                samples.map(|samples| samples.iter().map(|&ns| tokens as f64 * 1e9 / ns.max(1) as f64).collect());
            tok_s = rates.and_then(|rates| Spread::of(&rates)).map(|spread| spread.median);
        }
        busy.check()?;
        Ok(Measured { size_gib: size as f64 / (1u64 << 30) as f64, ppl, tok_s })
    })?
}
