//! `sterna train`: quantization-aware training, from data to a GGUF.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::train::images::{self, ImageTask, ImagesConfig};
use crate::train::schedule::Decay;
use crate::train::text::model::{About, Architecture};
use crate::train::text::tokenizer::TokenizerChoice;
use crate::train::text::{TextConfig, TextTask};
use crate::train::trainer::{self, Outcome, RunConfig, RunDir, Task};
use crate::{Out, data, engine};

/// Train a ternary model and export it as GGUF.
///
/// A run has a folder: model.gguf, checkpoint.safetensors (replaced every two minutes; --resume goes on from it), log.jsonl,
/// loss.svg and config.toml, which --config reads.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub struct TrainArgs {
    /// On what.
    #[command(subcommand)]
    pub what: Option<What>,
    /// A text file to train a language model on.
    #[arg(long, value_name = "FILE", required = true)]
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

/// Settings of every run; what is not given is as in --config, or else the default.
#[derive(Debug, Clone, Default, Args)]
pub struct RunOptions {
    /// Settings from a TOML file; options given here go before it.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Steps.
    #[arg(long, value_name = "N")]
    pub steps: Option<usize>,
    /// Sequences or images of a step.
    #[arg(long, visible_alias = "per-device-train-batch-size", value_name = "N")]
    pub batch_size: Option<usize>,
    /// Peak learning rate.
    #[arg(long, visible_alias = "learning-rate", value_name = "RATE")]
    pub lr: Option<f32>,
    /// How the learning rate falls.
    #[arg(long, value_name = "COURSE")]
    pub lr_decay: Option<Decay>,
    /// Steps over which the learning rate rises.
    #[arg(long, value_name = "N")]
    pub warmup_steps: Option<usize>,
    /// Weight decay.
    #[arg(long, value_name = "X")]
    pub weight_decay: Option<f32>,
    /// Share of the steps after which weight decay ends and the second stage of two-stage begins.
    #[arg(long, value_name = "SHARE")]
    pub second_stage: Option<f32>,
    /// Steps with float weights at the beginning.
    #[arg(long, value_name = "N")]
    pub float_steps: Option<usize>,
    /// Steps over which weights then become ternary.
    #[arg(long, value_name = "N")]
    pub ternary_warmup_steps: Option<usize>,
    /// Round weights to ternary at random while training.
    #[arg(long)]
    pub ternary_stochastic_rounding: bool,
    /// The rule: absmean, threshold (0.45 of a group's largest weight), threshold:SHARE, twn, search, sign, or none for float.
    #[arg(long, value_name = "RULE")]
    pub rule: Option<String>,
    /// What shares a scale: 64, 128 or 256 weights, row, tensor.
    #[arg(long, value_name = "GROUP")]
    pub group: Option<String>,
    /// Format of the export: TQ1_0, TQ2_0, Q2_0, PQ2_0, ...; by default the one whose blocks are the groups.
    #[arg(long, value_name = "FORMAT")]
    pub quant: Option<String>,
    /// Everything random follows from it.
    #[arg(long, value_name = "SEED")]
    pub seed: Option<u64>,
    /// Steps between measurements on held-out data.
    #[arg(long, value_name = "N")]
    pub eval_every: Option<usize>,
    /// Go on from the checkpoint in the run's folder.
    #[arg(long)]
    pub resume: bool,
    /// The run's folder.
    #[arg(long, visible_alias = "output-dir", value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Where data sets are; else $STERNA_DATA_DIR, then where `sterna data get` puts them.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Threads; all cores if not given.
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
    /// Print the outcome as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Settings of a language model.
#[derive(Debug, Clone, Default, Args)]
pub struct TextOptions {
    /// Those of every run.
    #[command(flatten)]
    pub run: RunOptions,
    /// One more text to train on, of which nothing is held out; may be given several times.
    #[arg(long, value_name = "FILE")]
    pub also: Vec<PathBuf>,
    /// Tokens of a sequence.
    #[arg(long, value_name = "N")]
    pub seq_len: Option<usize>,
    /// chars, bpe, bpe:VOCABULARY (512 to 4096), or gpt2.
    #[arg(long, value_name = "KIND")]
    pub tokenizer: Option<TokenizerChoice>,
    /// Architecture.
    #[arg(long)]
    pub architecture: Option<Architecture>,
    /// Blocks.
    #[arg(long, value_name = "N")]
    pub layers: Option<usize>,
    /// Features of a token.
    #[arg(long, value_name = "N")]
    pub width: Option<usize>,
    /// Heads.
    #[arg(long, value_name = "N")]
    pub heads: Option<usize>,
    /// Heads of keys and values.
    #[arg(long, value_name = "N")]
    pub kv_heads: Option<usize>,
    /// Features inside the feed-forward layer.
    #[arg(long, value_name = "N")]
    pub ffn: Option<usize>,
    /// An output of its own rather than the embedding's weights (architecture llama).
    #[arg(long)]
    pub untied: bool,
    /// Residual streams: 2 or 4 with hyper-connections (architecture bitnet; exported as sterna, which other programs do not
    /// run); 1 for a plain one.
    #[arg(long, value_name = "N")]
    pub hyper_connections: Option<usize>,
    /// Dropout.
    #[arg(long, value_name = "P")]
    pub dropout: Option<f32>,
    /// Float weights and activations throughout: --rule none.
    #[arg(long, conflicts_with = "rule")]
    pub float: bool,
}

/// Settings of an image classifier.
#[derive(Debug, Clone, Default, Args)]
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

/// Runs `sterna train`.
///
/// # Errors
/// If settings, data or the run's folder are not usable, training diverges, or Ctrl-C was pressed.
pub fn run(args: &TrainArgs, out: &mut Out) -> Result<()> {
    match (&args.what, &args.text) {
        (Some(What::Shakespeare(options)), _) => {
            let path = data::locate("tinyshakespeare", options.run.data_dir.as_deref())?;
            let about = About {
                name: "Shakespeare".into(),
                description: "Ternary character model trained on Shakespeare's plays by sterna train shakespeare"
                    .into(),
                license: "MIT OR Apache-2.0".into(),
            };
            text(options, &path, "shakespeare", shakespeare(), about, out)
        }
        (Some(What::Mnist(options)), _) => image(options, images::DataSet::Mnist, out),
        (Some(What::FashionMnist(options)), _) => image(options, images::DataSet::FashionMnist, out),
        (None, Some(path)) => {
            let name = path.file_stem().map_or("text".into(), |stem| stem.to_string_lossy().into_owned());
            let about = About { name: name.clone(), ..About::default() };
            text(&args.options, path, &name, TextConfig::default(), about, out)
        }
        (None, None) => bail!("nothing to train on; name a data set, or a text with --text FILE"),
    }
}

/// The settings of the model that ships.
fn shakespeare() -> TextConfig {
    let mut config = TextConfig::default();
    config.run.schedule.steps = 3600;
    config
}

fn text(options: &TextOptions, path: &Path, name: &str, config: TextConfig, about: About, out: &mut Out) -> Result<()> {
    let mut config = configured(options.run.config.as_deref(), config)?;
    options.apply(&mut config);
    options.run.apply(&mut config.run);
    let text = crate::args::read_text(path)?;
    let also = options.also.iter().map(|path| crate::args::read_text(path)).collect::<Result<String>>()?;
    let task = TextTask::new(config, &text, &also, options.run.data_dir.as_deref(), about)
        .with_context(|| format!("cannot train on {}", path.display()))?;
    let (training, held_out) = task.tokens();
    eprintln!(
        "{}: {} parameters; {training} tokens to train on, {held_out} held out, vocabulary {} ({})",
        path.display(),
        task.parameters().count(),
        task.tokenizer().vocabulary(),
        task.tokenizer().choice()
    );
    run_task(&task, &task.config().run, task.config(), name, &options.run, out)
}

fn image(options: &ImageOptions, set: images::DataSet, out: &mut Out) -> Result<()> {
    let mut config = configured(options.run.config.as_deref(), ImagesConfig::of(set))?;
    if config.data != set {
        bail!("the settings are for {}, not for {}", config.data.name(), set.name());
    }
    if options.quick {
        config.quick();
    }
    options.apply(&mut config);
    let dir = data::locate(set.name(), options.run.data_dir.as_deref())?;
    let task = ImageTask::from_folder(config, &dir).with_context(|| format!("cannot train on {}", dir.display()))?;
    eprintln!(
        "{}: {} weights in matrices, {} parameters",
        dir.display(),
        task.net().weights(),
        task.parameters().count()
    );
    run_task(&task, &task.config().run, task.config(), set.name(), &options.run, out)
}

/// Trains in the run's folder and prints the outcome.
fn run_task(
    task: &(impl Task + Sync),
    run: &RunConfig,
    config: &(impl Serialize + Sync),
    name: &str,
    options: &RunOptions,
    out: &mut Out,
) -> Result<()> {
    let path = options.out.clone().unwrap_or_else(|| Path::new("runs").join(name));
    let dir = RunDir::create(&path)?;
    let outcome = within(options.threads, || trainer::train(task, run, config, &dir, options.resume))?;
    if options.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&outcome)?)?;
        return Ok(());
    }
    let Outcome { steps, held_out, seconds, model } = outcome;
    let size = fs::metadata(&model)?.len();
    writeln!(out, "{} ({:.2} MB): {steps} steps in {:.0} s", model.display(), size as f64 / 1e6, seconds)?;
    write!(out, "held-out loss {:.4} nats", held_out.loss)?;
    if let Some(per_char) = held_out.loss_per_char {
        write!(out, " a token, {per_char:.4} a character")?;
    }
    if let Some(accuracy) = held_out.accuracy {
        write!(out, ", accuracy {:.2} %", accuracy * 100.0)?;
    }
    writeln!(out)?;
    Ok(())
}

/// Trains on as many threads as were asked for.
pub(super) fn within<R: Send>(threads: Option<u32>, work: impl FnOnce() -> Result<R> + Send) -> Result<R> {
    let threads = threads.map_or_else(crate::machine::cores, |threads| threads as usize);
    engine::in_pool(threads, work)?
}

/// The settings in a TOML file, or else `default`.
pub(super) fn configured<T: DeserializeOwned>(path: Option<&Path>, default: T) -> Result<T> {
    let Some(path) = path else { return Ok(default) };
    let text = crate::args::read_text(path)?;
    toml::from_str(&text).with_context(|| format!("{} does not hold the settings of such a run", path.display()))
}

pub(super) fn set<T: Clone>(place: &mut T, value: &Option<T>) {
    if let Some(value) = value {
        *place = value.clone();
    }
}

impl RunOptions {
    /// Puts what was typed in its place.
    pub(super) fn apply(&self, run: &mut RunConfig) {
        let schedule = &mut run.schedule;
        set(&mut schedule.steps, &self.steps);
        set(&mut schedule.lr, &self.lr);
        set(&mut schedule.decay, &self.lr_decay);
        set(&mut schedule.warmup_steps, &self.warmup_steps);
        set(&mut schedule.weight_decay, &self.weight_decay);
        set(&mut schedule.second_stage, &self.second_stage);
        set(&mut schedule.float_steps, &self.float_steps);
        set(&mut schedule.ternary_warmup_steps, &self.ternary_warmup_steps);
        set(&mut run.seed, &self.seed);
        set(&mut run.eval_every, &self.eval_every);
    }
}

impl TextOptions {
    fn apply(&self, config: &mut TextConfig) {
        set(&mut config.batch_size, &self.run.batch_size);
        set(&mut config.seq_len, &self.seq_len);
        set(&mut config.tokenizer, &self.tokenizer);
        set(&mut config.model.architecture, &self.architecture);
        set(&mut config.model.layers, &self.layers);
        set(&mut config.model.width, &self.width);
        set(&mut config.model.heads, &self.heads);
        set(&mut config.model.kv_heads, &self.kv_heads);
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
