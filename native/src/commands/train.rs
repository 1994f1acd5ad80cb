//! `sterna train`: quantization-aware training, from data to a GGUF.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde_json::json;

use super::runs::{Kind, Run, RunOptions, at_least, set};
use crate::train::images::{self, ImageTask, ImagesConfig};
use crate::train::memory::admit;
use crate::train::run_dir::RunDir;
use crate::train::text::model::{About, Architecture};
use crate::train::text::tokenizer::TokenizerChoice;
use crate::train::text::{TextConfig, TextTask};
use crate::train::trainer::{self, Outcome, Task};
use crate::ui::{message, text};
use crate::{Out, data};

/// Train a ternary model and export it as GGUF.
///
/// A run has a folder: model.gguf, checkpoint.safetensors (replaced every two minutes; --resume goes on from it), log.jsonl,
/// loss.svg and config.toml, which --config reads. `sterna train --resume --out DIR` needs no other setting again, and
/// `sterna train --export-only --out DIR` makes a model of what an interrupted run has learned.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub struct TrainArgs {
    /// On what.
    #[command(subcommand)]
    pub what: Option<What>,
    /// A text to train a language model on: a file, or the name of a text of sterna data, as tinyshakespeare.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["resume", "export_only", "config"])]
    pub text: Option<PathBuf>,
    /// How.
    #[command(flatten)]
    pub options: TextOptions,
}

/// What there is to train on by name.
#[derive(Debug, Subcommand)]
pub enum What {
    /// A language model on Shakespeare's plays (1.1 million characters).
    Shakespeare(TextOptions),
    /// A classifier of handwritten digits.
    Mnist(ImageOptions),
    /// A classifier of pictures of clothes.
    FashionMnist(ImageOptions),
}

/// Settings of a language model.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct TextOptions {
    /// Those of every run.
    #[command(flatten)]
    pub run: RunOptions,
    /// One more text to train on, of which nothing is held out; may be given several times.
    #[arg(long, value_name = "FILE")]
    pub also: Vec<PathBuf>,
    /// Tokens of a sequence.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = at_least::<4>)]
    pub seq_len: Option<usize>,
    /// chars, bpe, bpe:VOCABULARY (512 to 4096), or gpt2.
    #[arg(long, value_name = "KIND")]
    pub tokenizer: Option<TokenizerChoice>,
    /// Architecture.
    #[arg(long)]
    pub architecture: Option<Architecture>,
    /// Blocks.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = at_least::<1>)]
    pub layers: Option<usize>,
    /// Features of a token.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = at_least::<1>)]
    pub width: Option<usize>,
    /// Heads.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = at_least::<1>)]
    pub heads: Option<usize>,
    /// Heads of keys and values, a divisor of --heads; as many as --heads if not given.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = at_least::<1>)]
    pub kv_heads: Option<usize>,
    /// Features inside the feed-forward layer.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = at_least::<1>)]
    pub ffn: Option<usize>,
    /// An output of its own rather than the embedding's weights (architecture llama).
    #[arg(long)]
    pub untied: bool,
    /// Residual streams: 2 or 4 with hyper-connections (architecture bitnet; exported as sterna, which other programs do not
    /// run); 1 for a plain one.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = at_least::<1>)]
    pub hyper_connections: Option<usize>,
    /// Dropout, from 0 up to 1.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub dropout: Option<f32>,
    /// Float weights and activations throughout: --rule none.
    #[arg(long, conflicts_with = "rule")]
    pub float: bool,
}

/// Settings of an image classifier.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct ImageOptions {
    /// Those of every run.
    #[command(flatten)]
    pub run: RunOptions,
    /// 600 steps instead of 8,000: 98.9 % on MNIST in 19 seconds on two cores. Other options go before it.
    #[arg(long)]
    pub quick: bool,
    /// A layer of the net, given once for each from first to last, as in "conv 16 5x5 stride 1 pad 2" (docs/image-classifier.md).
    #[arg(long = "layer", value_name = "LAYER")]
    pub layers: Vec<String>,
}

/// Trains, and prints the outcome.
///
/// # Errors
/// If settings, data or the run's folder are not usable, training diverges, or Ctrl-C was pressed.
pub fn run(args: &TrainArgs, out: &mut Out) -> Result<()> {
    match &args.what {
        Some(What::Shakespeare(options)) => {
            options.run.goes_on_with(Kind::Text)?;
            language_model(options, None, shakespeare(), Some("shakespeare"), out)
        }
        Some(What::Mnist(options)) => image(options, Some(images::DataSet::Mnist), out),
        Some(What::FashionMnist(options)) => image(options, Some(images::DataSet::FashionMnist), out),
        None => match (&args.text, args.options.run.kind()?) {
            (None, Some(Kind::Images)) => {
                let run = args.options.run.clone();
                if args.options != (TextOptions { run: run.clone(), ..TextOptions::default() }) {
                    bail!("this run trains an image classifier; leave out the options of language models");
                }
                image(&ImageOptions { run, ..ImageOptions::default() }, None, out)
            }
            (path, Some(Kind::Text) | None) => {
                language_model(&args.options, path.as_deref(), TextConfig::default(), None, out)
            }
            (_, Some(kind)) => bail!("{}", args.options.run.belongs_to(kind)),
        },
    }
}

/// The settings of the model that ships.
fn shakespeare() -> TextConfig {
    let mut config = TextConfig {
        text: "tinyshakespeare".into(),
        about: About {
            name: "Shakespeare".into(),
            description: "Ternary character model trained on Shakespeare's plays by sterna train shakespeare".into(),
            license: "MIT OR Apache-2.0".into(),
        },
        ..TextConfig::default()
    };
    config.run.schedule.steps = 3600;
    config
}

/// A language model; `name` is the folder's in runs/ where the text's is not.
fn language_model(
    options: &TextOptions,
    path: Option<&Path>,
    default: TextConfig,
    name: Option<&str>,
    out: &mut Out,
) -> Result<()> {
    let stem = |path: &Path| Some(path.file_stem()?.to_string_lossy().into_owned());
    let given = name.map(str::to_owned).or_else(|| path.and_then(stem));
    let usual = (default.text.clone(), default.about.clone());
    let apply = |config: &mut TextConfig| {
        // A settings file may leave these out.
        if config.text.as_os_str().is_empty() {
            config.text = usual.0;
        }
        if config.about == About::default() {
            config.about = usual.1;
        }
        options.apply(config, path);
        options.run.apply(&mut config.run);
        if config.about.name.is_empty() {
            config.about.name = stem(&config.text).unwrap_or_default();
        }
        Ok(())
    };
    let run = Run::new(&options.run, "sterna train", default, apply, |config: &TextConfig| {
        given.clone().or_else(|| stem(&config.text))
    })?;
    let task = TextTask::open(run.config.clone(), &admit(options.run.memory.force))?;
    let (training, held_out) = task.tokens();
    let thousands = |n: usize| text::thousands(n as u64);
    message::line(&format!(
        "{} parameters; vocabulary {} ({})",
        thousands(task.parameters().count()),
        thousands(task.tokenizer().vocabulary()),
        task.tokenizer().choice()
    ));
    let (training, held_out) = (thousands(training), thousands(held_out));
    message::line(&format!("{training} tokens to train on, {held_out} held out, of {}", task.config().text.display()));
    task.notes().iter().for_each(|note| message::note(note));
    let train = |config: &TextConfig, dir: &RunDir, resume| trainer::train(&task, &config.run, config, dir, resume);
    let outcome = run.go(&task, &task.config().run, train, out)?;
    outcome.map_or(Ok(()), |outcome| report(&outcome, &options.run, out))
}

/// An image classifier; `set` is `None` where the run that goes on knows it.
fn image(options: &ImageOptions, set: Option<images::DataSet>, out: &mut Out) -> Result<()> {
    options.run.goes_on_with(Kind::Images)?;
    let apply = |config: &mut ImagesConfig| {
        if let Some(set) = set.filter(|&set| set != config.data) {
            bail!("the settings are for {}, not for {}", config.data.name(), set.name());
        }
        if options.quick {
            config.quick();
        }
        options.apply(config);
        Ok(())
    };
    let default = set.map_or_else(ImagesConfig::default, ImagesConfig::of);
    let name = |config: &ImagesConfig| Some(set.unwrap_or(config.data).name().to_owned());
    let run = Run::new(&options.run, "sterna train", default, apply, name)?;
    let dir = data::locate(run.config.data.name(), run.config.run.data_dir.as_deref())?;
    let task = ImageTask::from_folder(run.config.clone(), &dir, &admit(options.run.memory.force))
        .with_context(|| format!("cannot train on {}", dir.display()))?;
    let (weights, parameters) = (task.net().weights() as u64, task.parameters().count() as u64);
    message::line(&format!(
        "{} weights in matrices, {} parameters; images of {}",
        text::thousands(weights),
        text::thousands(parameters),
        dir.display()
    ));
    task.config().run.notes().iter().for_each(|note| message::note(note));
    let train = |config: &ImagesConfig, dir: &RunDir, resume| trainer::train(&task, &config.run, config, dir, resume);
    let outcome = run.go(&task, &task.config().run, train, out)?;
    outcome.map_or(Ok(()), |outcome| report(&outcome, &options.run, out))
}

/// Prints the outcome.
fn report(outcome: &Outcome, options: &RunOptions, out: &mut Out) -> Result<()> {
    options.report(&json!(outcome), out, |out| {
        let Outcome { steps, held_out, seconds, model } = outcome;
        let size = fs::metadata(model)?.len();
        writeln!(out, "{} ({:.2} MB): {steps} steps in {seconds:.0} s", model.display(), size as f64 / 1e6)?;
        writeln!(out, "held-out {held_out}")?;
        Ok(())
    })
}

impl TextOptions {
    fn apply(&self, config: &mut TextConfig, text: Option<&Path>) {
        set(&mut config.text, &text.map(Path::to_owned));
        if !self.also.is_empty() {
            config.also = self.also.clone();
        }
        config.remember_paths();
        set(&mut config.batch_size, &self.run.batch_size);
        set(&mut config.seq_len, &self.seq_len);
        set(&mut config.tokenizer, &self.tokenizer);
        set(&mut config.model.architecture, &self.architecture);
        set(&mut config.model.layers, &self.layers);
        set(&mut config.model.width, &self.width);
        set(&mut config.model.heads, &self.heads);
        // A settings file and a run that goes on have both numbers.
        let begun = self.run.config.is_some() || self.run.resume || self.run.export_only;
        set(&mut config.model.kv_heads, &if begun { self.kv_heads } else { self.kv_heads.or(self.heads) });
        set(&mut config.model.ffn, &self.ffn);
        set(&mut config.model.dropout, &self.dropout);
        config.model.tied &= !self.untied;
        set(&mut config.model.hyper_connections, &self.hyper_connections);
        set(&mut config.quantization.method, &self.run.rule);
        if self.float {
            config.quantization.method = "none".into();
        }
        set(&mut config.quantization.group, &self.run.group);
        config.quantization.stochastic_rounding |= self.run.ternary_stochastic_rounding;
        if self.run.quant.is_some() {
            config.format = self.run.quant.clone();
        }
    }
}

impl ImageOptions {
    fn apply(&self, config: &mut ImagesConfig) {
        self.run.apply(&mut config.run);
        set(&mut config.batch_size, &self.run.batch_size);
        if !self.layers.is_empty() {
            config.layers = self.layers.clone();
        }
        set(&mut config.quantization.method, &self.run.rule);
        set(&mut config.quantization.group, &self.run.group);
        config.quantization.stochastic_rounding |= self.run.ternary_stochastic_rounding;
        if self.run.quant.is_some() {
            config.format = self.run.quant.clone();
        }
    }
}
