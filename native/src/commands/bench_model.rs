//! `sterna bench model`: a checkpoint in floats, rounded to ternary, and trained: size, perplexity, tokens a second.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;
use serde_json::Value;
use sterna_core::formats::Format;
use sterna_core::ternary::Method;

use super::convert::{RoundingArgs, TorchDtype, format_of};
use super::runs::{Device, at_least};
use crate::args::{CheckpointArgs, MemoryArgs};
use crate::bench::model::{self, Measured, Settings, Training};
use crate::train::checkpoint;
use crate::train::settings::Setting;
use crate::train::text::split::{Parts, Split};
use crate::ui::interrupt::{self, Interrupted};
use crate::ui::message;
use crate::ui::text::{self, Align};
use crate::{Out, data, machine, output, perplexity};

/// What `sterna bench model` takes.
#[derive(Debug, Args)]
pub struct BenchModelArgs {
    /// The checkpoint's directory (config.json, safetensors, tokenizer), or USER/REPO on the Hugging Face hub.
    #[arg(value_name = "DIR", required_unless_present = "model_id")]
    pub dir: Option<PathBuf>,
    /// The checkpoint, as a flag.
    #[arg(long, value_name = "DIR", conflicts_with = "dir")]
    pub model_id: Option<PathBuf>,
    /// The text: a plain file, .jsonl, .parquet, a folder with such a file for each split, or the name of a text of sterna data, as
    /// tinyshakespeare.
    #[arg(long, visible_aliases = ["dataset", "dataset-name"], value_name = "FILE")]
    pub text: PathBuf,
    /// Of a folder with several data sets, the folder in it that is meant.
    #[arg(long, value_name = "NAME")]
    pub dataset_config_name: Option<String>,
    /// The field of .jsonl, or the column of .parquet, that holds the text.
    #[arg(long, value_name = "NAME", default_value = "text")]
    pub text_field: String,
    /// Format of the ternary layers: TQ1_0, TQ2_0, Q2_0, PQ2_0, PTQ1_0, I2_S.
    #[arg(long, value_name = "FORMAT", value_parser = format_of, default_value = "TQ2_0")]
    pub quant: Format,
    /// Float type of the baseline; by default bfloat16 where the checkpoint says that it is, else float16.
    #[arg(long, value_name = "TYPE")]
    pub dtype: Option<TorchDtype>,
    /// Where it runs: the CPU, which auto means too.
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: Device,
    /// Tokens of a chunk of the text, as in sterna perplexity; no more than the model's context.
    #[arg(short, long, value_name = "N", default_value_t = perplexity::CONTEXT)]
    pub ctx_size: usize,
    /// Measure on so many tokens of the text only, from the beginning of what is not trained on; where these are fewer than
    /// --ctx-size, in one chunk of so many.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = at_least::<4>)]
    pub max_eval_tokens: Option<usize>,
    /// Measure on so many texts only: documents, or lines of a plain text that are not blank.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = at_least::<1>)]
    pub eval_texts: Option<usize>,
    /// Tokens that are generated to measure the speed; 0 does not measure it, as --skip-latency.
    #[arg(long, value_name = "N", default_value_t = 64, allow_negative_numbers = true, value_parser = at_least::<0>)]
    pub max_new_tokens: usize,
    /// Do not measure speed.
    #[arg(long)]
    pub skip_latency: bool,
    /// Do not measure the perplexity of the rounded model.
    #[arg(long)]
    pub skip_ptq_ppl: bool,
    /// Train the model to be ternary too, as sterna qat does.
    #[arg(long)]
    pub run_qat: bool,
    /// Steps of that training.
    #[arg(long, value_name = "N", default_value_t = Training::default().steps, allow_negative_numbers = true, value_parser = at_least::<1>)]
    pub qat_steps: usize,
    /// Its peak learning rate, above 0.
    #[arg(long, value_name = "X", default_value_t = Training::default().learning_rate, allow_negative_numbers = true)]
    pub learning_rate: f32,
    /// The part that is trained on: a share of the text, at its beginning, or a slice of a split's lines or documents, as `train[:20]`
    /// or `train[10%:50%]`. All is measured on what follows it, or on the split test of a folder. By default 0.9 with --run-qat,
    /// else 0.
    #[arg(long, value_name = "SPLIT", allow_negative_numbers = true)]
    pub train_split: Option<Split>,
    /// Tokens of a sequence in training; by default 256, or fewer where the model sees fewer.
    #[arg(long, visible_alias = "block-size", value_name = "N", requires = "run_qat", allow_negative_numbers = true, value_parser = at_least::<4>)]
    pub seq_len: Option<usize>,
    /// Sequences of a batch in training.
    #[arg(long, value_name = "N", requires = "run_qat", allow_negative_numbers = true, value_parser = at_least::<1>)]
    pub batch_size: Option<usize>,
    /// The kernel to use instead of the fastest this CPU has.
    #[arg(long, value_name = "NAME", env = "STERNA_KERNEL")]
    pub kernel: Option<String>,
    /// What to do where memory is short.
    #[command(flatten)]
    pub memory: MemoryArgs,
    /// Write the JSON object here.
    #[arg(long, visible_alias = "json-output", value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Keep the GGUFs in this folder; without it they are made in a temporary one.
    #[arg(long, visible_alias = "output-dir", value_name = "DIR")]
    pub keep_files: Option<PathBuf>,
    /// How weights become ternary.
    #[command(flatten)]
    pub rounding: RoundingArgs,
}

/// What was measured, with the settings that it was measured with; keys as in benchmarks of other ternary toolkits.
#[derive(Debug, Serialize)]
struct Report {
    model_id: String,
    dataset: String,
    device: &'static str,
    dtype: &'static str,
    /// The rule's share; null where the rule has none.
    threshold: Option<f32>,
    max_eval_tokens: Option<usize>,
    eval_texts: Option<usize>,
    max_new_tokens: usize,
    skip_latency: bool,
    skip_ptq_ppl: bool,
    run_qat: bool,
    qat_steps: usize,
    train_split: Value,
    learning_rate: f32,
    compression_ratio: Option<f64>,
    baseline: Measured,
    /// null where it was not measured.
    ptq: Option<Measured>,
    qat: Option<Measured>,
    /// Ctrl-C came before all was measured; there only then.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    partial: bool,
}

/// Measures, prints and writes.
///
/// # Errors
/// A checkpoint or a text that cannot be used; Ctrl-C.
pub fn run(args: &BenchModelArgs, out: &mut Out) -> Result<()> {
    let (Device::Cpu | Device::Auto) = args.device;
    output::check(&args.out)?;
    let named = args.dir.as_ref().or(args.model_id.as_ref()).context("no checkpoint was named")?;
    let (checkpoint, _) = CheckpointArgs::default().resolve(named)?;
    if !args.quant.is_ternary() {
        bail!("--quant {} is not ternary; the baseline is float already", args.quant.name());
    }
    let float = match args.dtype {
        Some(TorchDtype::Float32) => Format::F32,
        Some(TorchDtype::Float16) => Format::F16,
        Some(TorchDtype::Bfloat16) => Format::BF16,
        None => model::float_format(&checkpoint)?,
    };
    let train_split = args.train_split.clone().unwrap_or(Split::Share(if args.run_qat { 0.9 } else { 0.0 }));
    if let Split::Share(share) = train_split {
        let (least, from) = if args.run_qat { (f64::MIN_POSITIVE, "above") } else { (0.0, "from") };
        Setting("--train-split").within(share, least..1.0, &format!("a share of the text {from} 0 and below 1"))?;
    }
    Setting("--learning-rate").above_zero(args.learning_rate)?;
    if args.run_qat && !args.rounding.keep.is_empty() {
        bail!("--keep goes not with --run-qat, which trains every linear layer; leave one of them out");
    }
    let text = data::text_file(&args.text, None)?;
    let parts = Parts::read(&text, args.dataset_config_name.as_deref(), &args.text_field, &train_split)?;
    let text = parts.evaluation.first(args.eval_texts);
    let (work, _temporary) = match &args.keep_files {
        Some(dir) => {
            std::fs::create_dir_all(dir).with_context(|| format!("cannot make the folder {}", dir.display()))?;
            (dir.clone(), None)
        }
        None => {
            let dir = tempfile::TempDir::with_prefix("sterna-bench-");
            let dir = dir.context("cannot make a temporary folder; name one with --keep-files")?;
            (dir.path().to_owned(), Some(dir))
        }
    };
    let settings = Settings {
        dir: checkpoint.clone(),
        options: args.rounding.options(Some(args.quant))?,
        float,
        perplexity: perplexity::Settings {
            // No chunk is larger than what is asked for.
            context: args.max_eval_tokens.map_or(args.ctx_size, |tokens| args.ctx_size.min(tokens)),
            tokens: args.max_eval_tokens.unwrap_or(usize::MAX),
            ..perplexity::Settings::default()
        },
        max_new_tokens: Some(args.max_new_tokens).filter(|&tokens| tokens > 0 && !args.skip_latency),
        skip_ptq_ppl: args.skip_ptq_ppl,
        threads: args.rounding.threads.map_or_else(machine::cores, |threads| threads as usize),
        kernel: args.kernel.clone(),
        memory: args.memory,
        work,
        keep: args.keep_files.is_some(),
    };
    let busy = interrupt::busy();
    // First, as what is wrong with its settings should not cost the time of the others.
    let trained = match args.run_qat {
        true => train(args, &settings, &parts.training.text, text)?,
        false => None,
    };
    let baseline = model::baseline(&settings, text, &busy)?;
    let count = if trained.is_some() { 3 } else { 2 };
    // After Ctrl-C the models that were measured are told.
    let unless_stopped = |measured: Result<Measured>| match measured {
        Err(error) if interrupt::is_interrupted(&error) => Ok(None),
        other => other.map(Some),
    };
    let ptq = unless_stopped(model::ptq(&settings, text, &busy))?;
    let qat = match trained.filter(|_| ptq.is_some()) {
        Some(trained) => unless_stopped(model::qat(&settings, &trained, text, &busy))?,
        None => None,
    };
    let done = 1 + usize::from(ptq.is_some()) + usize::from(qat.is_some());
    let partial = done < count;
    let report = Report {
        model_id: named.display().to_string(),
        dataset: args.text.display().to_string(),
        device: "cpu",
        dtype: match float {
            Format::F32 => "float32",
            Format::BF16 => "bfloat16",
            _ => "float16",
        },
        threshold: match settings.options.method {
            Method::Threshold(share) => Some(share),
            _ => None,
        },
        max_eval_tokens: args.max_eval_tokens,
        eval_texts: args.eval_texts,
        max_new_tokens: args.max_new_tokens,
        skip_latency: args.skip_latency,
        skip_ptq_ppl: args.skip_ptq_ppl,
        run_qat: args.run_qat,
        qat_steps: args.qat_steps,
        train_split: match train_split {
            Split::Share(share) => share.into(),
            slice => slice.to_string().into(),
        },
        learning_rate: args.learning_rate,
        compression_ratio: ptq.map(|ptq| baseline.size_gib / ptq.size_gib),
        baseline,
        ptq,
        qat,
        partial,
    };
    let mut json = serde_json::to_string_pretty(&report)?;
    json.push('\n');
    if let Some(path) = args.out.as_ref().filter(|_| !partial) {
        checkpoint::replace(path, json.as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
    }
    match args.rounding.json {
        true => write!(out, "{json}")?,
        false => print(&report, args, out)?,
    }
    if partial { Err(Interrupted::partial(done, count, "models").into()) } else { Ok(()) }
}

/// Trains, and gives the directory of the trained checkpoint; `None`, and the reason on stderr, for models that are not trained.
fn train(args: &BenchModelArgs, settings: &Settings, text: &str, evaluation: &str) -> Result<Option<PathBuf>> {
    if let Some(why) = model::cannot_train(&settings.dir)? {
        message::note(&format!("{} is not trained, so qat is null: {why}", settings.dir.display()));
        return Ok(None);
    }
    let training = Training {
        steps: args.qat_steps,
        learning_rate: args.learning_rate,
        seq_len: args.seq_len,
        batch_size: args.batch_size,
        force: args.memory.force,
    };
    let trained = model::train(settings, &training, text, evaluation);
    // A run in a temporary folder ends with the command.
    let trained = trained.map_err(|error| match error.downcast::<Interrupted>() {
        Ok(Interrupted { then }) if settings.keep => {
            let dir = settings.work.join("qat");
            Interrupted { then: format!("{then}; `sterna qat --resume --out {}` goes on with it", dir.display()) }
                .into()
        }
        Ok(_) => Interrupted { then: "nothing was measured yet".into() }.into(),
        Err(error) => error,
    });
    trained.map(Some).with_context(|| format!("cannot train {} on {}", settings.dir.display(), args.text.display()))
}

fn print(report: &Report, args: &BenchModelArgs, out: &mut Out) -> Result<()> {
    let row = |name: &str, measured: &Measured| {
        let number = |value: Option<f64>, places: usize| value.map_or("-".into(), |value| format!("{value:.places$}"));
        vec![
            name.to_owned(),
            text::bytes((measured.size_gib * (1u64 << 30) as f64).round() as u64),
            format!("{:.1} %", 100.0 * measured.size_gib / report.baseline.size_gib),
            number(measured.ppl, 4),
            number(measured.tok_s, 1),
        ]
    };
    let mut rows = vec![row(&format!("baseline, {}", report.dtype), &report.baseline)];
    rows.extend(report.ptq.as_ref().map(|ptq| row(&format!("ptq, {}", args.quant.name()), ptq)));
    rows.extend(report.qat.as_ref().map(|qat| row(&format!("qat, {}", args.quant.name()), qat)));
    let columns = [
        ("", Align::Left),
        ("SIZE", Align::Right),
        ("OF BASELINE", Align::Right),
        ("PERPLEXITY", Align::Right),
        ("TOKENS/s", Align::Right),
    ];
    text::table(out, &columns, &rows)?;
    if report.partial {
        writeln!(out, "\npartial: {} of the models", rows.len())?;
    }
    writeln!(
        out,
        "\n{} on {}\n{}",
        text::plain(&report.model_id, 120),
        text::plain(&report.dataset, 120),
        text::provenance(&machine::cpu_name())
    )?;
    Ok(())
}
