//! What `sterna train` and `sterna qat` share: the settings of every run, and a run's way from what was typed to its end.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::args::MemoryArgs;
use crate::train::checkpoint;
use crate::train::run_dir::RunDir;
use crate::train::schedule::Decay;
use crate::train::settings::RunConfig;
use crate::train::trainer::{self, Task};
use crate::ui::interrupt::Interrupted;
use crate::ui::message;
use crate::{Out, engine, output};

/// Settings of every run; what is not given is as in --config, or as the run began that goes on, or else the default.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct RunOptions {
    /// Settings from a TOML file; options given here go before it.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Steps.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = at_least::<1>)]
    pub steps: Option<usize>,
    /// Sequences or images of a step.
    #[arg(long, visible_alias = "per-device-train-batch-size", value_name = "N", allow_negative_numbers = true, value_parser = at_least::<1>)]
    pub batch_size: Option<usize>,
    /// Peak learning rate, above 0.
    #[arg(long, visible_alias = "learning-rate", value_name = "RATE", allow_negative_numbers = true)]
    pub lr: Option<f32>,
    /// How the learning rate falls.
    #[arg(long, value_name = "COURSE")]
    pub lr_decay: Option<Decay>,
    /// Steps over which the learning rate rises.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = at_least::<0>)]
    pub warmup_steps: Option<usize>,
    /// Weight decay, at least 0.
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub weight_decay: Option<f32>,
    /// Share of the steps, from 0 to 1, after which weight decay ends and the second stage of two-stage begins.
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    pub second_stage: Option<f32>,
    /// Steps with float weights at the beginning.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = at_least::<0>)]
    pub float_steps: Option<usize>,
    /// Steps over which weights then become ternary.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = at_least::<0>)]
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
    #[arg(long, value_name = "SEED", allow_negative_numbers = true, value_parser = seed)]
    pub seed: Option<u64>,
    /// Steps between measurements on held-out data.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = at_least::<1>)]
    pub eval_every: Option<usize>,
    /// Go on from the checkpoint in the run's folder, with the settings that it began with.
    #[arg(long)]
    pub resume: bool,
    /// Take no step: write the model of the checkpoint in the run's folder as it is.
    #[arg(long, conflicts_with = "resume")]
    pub export_only: bool,
    /// The run's folder.
    #[arg(long, visible_alias = "output-dir", value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Where data sets are; else $STERNA_DATA_DIR, then where `sterna data get` puts them.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Threads; all cores if not given.
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
    /// Where it runs: the CPU, which auto means too.
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: Device,
    /// What to do where memory is short.
    #[command(flatten)]
    pub memory: MemoryArgs,
    /// Print the outcome as JSON.
    #[arg(long)]
    pub json: bool,
    /// Write the outcome as JSON to this file.
    #[arg(long, value_name = "FILE")]
    pub json_output: Option<PathBuf>,
}

/// Devices by the names that PyTorch's users know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Device {
    /// The CPU.
    #[default]
    Cpu,
    /// What there is: the CPU.
    Auto,
}

/// What a run trains, by its settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A new language model.
    Text,
    /// An image classifier.
    Images,
    /// A checkpoint.
    Checkpoint,
}

impl Kind {
    fn of(settings: &Value) -> Self {
        let has = |key: &str| settings.get(key).is_some();
        match (has("source"), has("layers") || has("augmentation") || has("data")) {
            (true, _) => Self::Checkpoint,
            (false, true) => Self::Images,
            (false, false) => Self::Text,
        }
    }

    /// Which command goes on with such a run, for one that does not.
    pub fn belongs_to(self, dir: Option<&Path>) -> String {
        let dir = dir.map_or("DIR".into(), |dir| dir.display().to_string());
        match self {
            Self::Checkpoint => {
                format!("this run fine-tunes a checkpoint; go on with `sterna qat --resume --out {dir}`")
            }
            Self::Images => {
                format!(
                    "this run trains an image classifier; go on with `sterna train --resume --out {dir}`, without a text"
                )
            }
            Self::Text => format!("this run trains a language model; go on with `sterna train --resume --out {dir}`"),
        }
    }
}

/// A run as it was typed, in its folder.
pub(super) struct Run<'a, C> {
    options: &'a RunOptions,
    /// The command that goes on with it: `sterna train`.
    command: &'static str,
    /// All its settings.
    pub config: C,
    path: PathBuf,
    /// Locked already where the folder was there.
    dir: Option<RunDir>,
}

impl<'a, C: Serialize + DeserializeOwned> Run<'a, C> {
    /// Puts settings together: those of --config, or those that the run to go on with began with, or else `default`, and what was typed
    /// in their place by `apply`. `name` is the folder's in runs/, where none was given.
    ///
    /// # Errors
    /// If settings cannot be read; if there is no run to go on with, or one of other settings; if there is another in the folder.
    pub fn new(
        options: &'a RunOptions,
        command: &'static str,
        default: C,
        apply: impl FnOnce(&mut C) -> Result<()>,
        name: impl Fn(&C) -> Option<String>,
    ) -> Result<Self> {
        let (Device::Cpu | Device::Auto) = options.device;
        output::check(&options.json_output)?;
        let going_on = options.resume || options.export_only;
        let begun = if going_on { Some(RunDir::open(&options.folder(name(&default))?)?) } else { None };
        let mut config = match (&options.config, &begun) {
            (Some(path), _) => {
                let text = crate::args::read_text(path)?;
                toml::from_str(&text)
                    .with_context(|| format!("{} does not hold the settings of such a run", path.display()))?
            }
            (None, Some(dir)) => dir.settings()?,
            (None, None) => default,
        };
        apply(&mut config)?;
        if let Err(error) = toml::to_string(&config)
            && error.to_string().contains("UTF-8")
        {
            bail!(
                "a path in the run's settings is no UTF-8, so config.toml cannot hold it; rename that file or folder"
            );
        }
        let path = match &begun {
            Some(dir) => dir.path().to_owned(),
            None => options.folder(name(&config))?,
        };
        // A folder that is there is looked at before anything that takes long.
        let dir = match begun {
            None if path.is_dir() => Some(RunDir::create(&path)?),
            begun => begun,
        };
        if let Some(dir) = &dir {
            dir.check(&config, going_on)?;
        }
        Ok(Self { options, command, config, path, dir })
    }

    /// Trains, or exports only, on as many threads as were asked for; `None` when it only exported, which it said then.
    ///
    /// # Errors
    /// As training; where Ctrl-C was pressed it says how to go on.
    pub fn go<R: Send>(
        self,
        task: &(impl Task + Sync),
        run: &RunConfig,
        train: impl FnOnce(&C, &RunDir, bool) -> Result<R> + Send,
        out: &mut Out,
    ) -> Result<Option<R>>
    where
        C: Send + Sync,
    {
        let Self { options, command, config, path, dir } = self;
        let dir = dir.map_or_else(|| RunDir::create(&path), Ok)?;
        if options.export_only {
            let progress = within(options.threads, || trainer::export(task, run, &dir))?;
            report_export(&dir, &progress, run, options, out)?;
            return Ok(None);
        }
        let result = within(options.threads, || train(&config, &dir, options.resume));
        result.map(Some).map_err(|error| match error.downcast::<Interrupted>() {
            Ok(Interrupted { then }) if dir.checkpoint().exists() => {
                let path = path.display();
                let then = format!(
                    "{then}\n  to go on:            {command} --resume --out {path}\n  to make a model now: {command} --export-only \
                     --out {path}"
                );
                Interrupted { then }.into()
            }
            Ok(interrupted) => interrupted.into(),
            Err(error) => error,
        })
    }
}

/// Says what was exported, and how far its training came.
fn report_export(
    dir: &RunDir,
    progress: &checkpoint::Progress,
    run: &RunConfig,
    options: &RunOptions,
    out: &mut Out,
) -> Result<()> {
    let (step, steps) = (progress.step, run.schedule.steps);
    let ternary = run.schedule.ternary_share_at(step.saturating_sub(1));
    if ternary < 1.0 {
        message::note(&format!(
            "at step {step} weights were {:.0} % ternary in training; the file holds them rounded by the rule",
            ternary * 100.0
        ));
    }
    let bytes = fs::metadata(dir.model())?.len();
    let value = json!({ "model": dir.model(), "bytes": bytes, "step": step, "steps": steps, "ternary": ternary });
    options.report(&value, out, |out| {
        writeln!(out, "{} ({:.2} MB): {step} of {steps} steps", dir.model().display(), bytes as f64 / 1e6)?;
        Ok(())
    })
}

/// Works on as many threads as were asked for.
pub(super) fn within<R: Send>(threads: Option<u32>, work: impl FnOnce() -> Result<R> + Send) -> Result<R> {
    let threads = threads.map_or_else(crate::machine::cores, |threads| threads as usize);
    engine::in_pool(threads, work)?
}

pub(super) fn set<T: Clone>(place: &mut T, value: &Option<T>) {
    if let Some(value) = value {
        *place = value.clone();
    }
}

/// A seed that a settings file can hold.
pub(super) fn seed(text: &str) -> Result<u64, String> {
    let seed = text.parse().ok().filter(|&seed| seed <= i64::MAX as u64);
    seed.ok_or_else(|| "give a whole number from 0 to 2^63 - 1".to_owned())
}

/// A whole number from `LEAST` on.
pub(super) fn at_least<const LEAST: usize>(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|&number| number >= LEAST);
    number.ok_or_else(|| format!("give a whole number, at least {LEAST}"))
}

impl RunOptions {
    /// What the settings in --config are for, or the run in --out that is to go on; `None` where neither says.
    ///
    /// # Errors
    /// If they cannot be read.
    pub(super) fn kind(&self) -> Result<Option<Kind>> {
        if let Some(path) = &self.config {
            let settings: Value = toml::from_str(&crate::args::read_text(path)?)
                .with_context(|| format!("{} does not hold the settings of a run", path.display()))?;
            return Ok(Some(Kind::of(&settings)));
        }
        match &self.out {
            Some(path) if self.resume || self.export_only => Ok(Some(Kind::of(&RunDir::open(path)?.saved()?.config))),
            _ => Ok(None),
        }
    }

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
        if let Some(dir) = &self.data_dir {
            run.data_dir = Some(std::path::absolute(dir).unwrap_or_else(|_| dir.clone()));
        }
    }

    /// The run's folder: the one that was typed, or runs/NAME.
    fn folder(&self, name: Option<String>) -> Result<PathBuf> {
        match (&self.out, name) {
            (Some(path), _) => Ok(path.clone()),
            (None, Some(name)) => Ok(Path::new("runs").join(name)),
            (None, None) => bail!("which run is meant? name its folder with --out"),
        }
    }

    /// Prints an outcome: as JSON where that was asked for, else by `print`; and writes it where that was asked for.
    pub(super) fn report(
        &self,
        outcome: &Value,
        out: &mut Out,
        print: impl FnOnce(&mut Out) -> Result<()>,
    ) -> Result<()> {
        let json = serde_json::to_string_pretty(outcome)? + "\n";
        if let Some(path) = &self.json_output {
            checkpoint::replace(path, json.as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
        }
        if self.json {
            return Ok(write!(out, "{json}")?);
        }
        print(out)
    }
}
