//! `sterna qat`: quantization-aware fine-tuning of a checkpoint, from a directory to a directory and a GGUF.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::Args;
use serde_json::json;

use super::runs::{Kind, Run, RunOptions, at_least, set};
use crate::Out;
use crate::args::CheckpointArgs;
use crate::train::finetune::{FinetuneConfig, FinetuneTask, Outcome};
use crate::train::memory::admit;
use crate::train::run_dir::RunDir;
use crate::train::text::split::Split;
use crate::train::trainer::{Evaluation, Task};
use crate::ui::message;
use crate::ui::text::{self, Align};

/// Fine-tune a Hugging Face checkpoint so that its linear layers become ternary (Llama, Mistral, Qwen2, Qwen3, Phi-3, GPT-2).
///
/// Weights begin as they are and become ternary over --ternary-warmup-steps. The run's folder gets checkpoint/ (a checkpoint directory
/// whose linear layers hold ternary values, which convert keeps exactly) and model.gguf, and what sterna train leaves:
/// checkpoint.safetensors (--resume goes on from it), log.jsonl, loss.svg and config.toml, which --config reads. `sterna qat --resume
/// --out DIR` needs no other setting again, and `sterna qat --export-only --out DIR` makes a model of what an interrupted run has learned.
#[derive(Debug, Args)]
pub struct QatArgs {
    /// The checkpoint: a directory with config.json, safetensors and tokenizer, or a repository on the Hugging Face hub, which is
    /// fetched once and kept.
    #[arg(value_name = "DIR|USER/REPO", required_unless_present_any = ["model_id", "config", "resume", "export_only"])]
    pub dir: Option<PathBuf>,
    /// The checkpoint, as a flag.
    #[arg(long, value_name = "DIR|USER/REPO", conflicts_with = "dir")]
    pub model_id: Option<PathBuf>,
    /// Which revision of a repository, and whether it may be fetched.
    #[command(flatten)]
    pub hub: CheckpointArgs,
    /// The text: a plain file, .jsonl, .parquet, a folder with such a file for each split, or the name of a text of sterna data, as
    /// tinyshakespeare.
    #[arg(long, visible_aliases = ["dataset", "dataset-name"], value_name = "FILE", required_unless_present_any = ["config", "resume", "export_only"])]
    pub text: Option<PathBuf>,
    /// Of a folder with several data sets, the folder in it that is meant.
    #[arg(long, value_name = "NAME")]
    pub dataset_config_name: Option<String>,
    /// The part that is trained on: a share, as 0.8, or a slice of a split's lines or documents, as `train[:20]` or `train[10%:50%]`.
    /// What is not trained on is measured, instead of --held-out.
    #[arg(long, value_name = "SPLIT", conflicts_with = "held_out")]
    pub train_split: Option<Split>,
    /// The field of .jsonl, or the column of .parquet, that holds the text; text if not given.
    #[arg(long, value_name = "NAME")]
    pub text_field: Option<String>,
    /// Measure on this text rather than on the end of the other.
    #[arg(long, value_name = "FILE")]
    pub eval_text: Option<PathBuf>,
    /// Share of the text, at its end, that is held out for measurements; 0.1 if not given.
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    pub held_out: Option<f64>,
    /// Train on the first N documents (lines, of a plain text) only.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = at_least::<1>)]
    pub max_train_samples: Option<usize>,
    /// Measure on about the first N tokens of the held-out text only; where these are fewer than --seq-len, in shorter sequences.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = at_least::<4>)]
    pub max_eval_tokens: Option<usize>,
    /// Batches that make one step: as if --batch-size were so many times larger, in the memory of one.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = at_least::<1>)]
    pub gradient_accumulation_steps: Option<usize>,
    /// Tokens of a sequence.
    #[arg(long, visible_alias = "block-size", value_name = "N", allow_negative_numbers = true, value_parser = at_least::<4>)]
    pub seq_len: Option<usize>,
    /// The rule threshold, with this share of a group's largest magnitude, below which weights become zero.
    #[arg(
        long,
        visible_alias = "threshold",
        value_name = "SHARE",
        allow_negative_numbers = true,
        conflicts_with = "rule"
    )]
    pub ternary_threshold: Option<f32>,
    /// Follow the float model: the loss is (1 - WEIGHT) of the text's and WEIGHT of the divergence from its predictions.
    #[arg(long, value_name = "WEIGHT", allow_negative_numbers = true)]
    pub distill: Option<f32>,
    /// Temperature of both predictions in --distill, without which it has no effect; 1 if not given.
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub temperature: Option<f32>,
    /// Those of every run.
    #[command(flatten)]
    pub run: RunOptions,
}

/// Runs `sterna qat`.
///
/// # Errors
/// If the checkpoint, the text, settings or the run's folder are not usable, training diverges, or Ctrl-C was pressed.
pub fn run(args: &QatArgs, out: &mut Out) -> Result<()> {
    args.run.goes_on_with(Kind::Checkpoint)?;
    let name = |config: &FinetuneConfig| {
        let source = args.source().unwrap_or(&config.source);
        (!source.as_os_str().is_empty()).then(|| format!("{}-qat", crate::convert::directory_name(source)))
    };
    let run = Run::new(&args.run, "sterna qat", FinetuneConfig::default(), |config| args.apply(config), name)?;
    let (source, data) = (run.config.source.display().to_string(), run.config.text.display().to_string());
    let task = FinetuneTask::new(run.config.clone(), &admit(args.run.memory.force))
        .map_err(|error| error.context(format!("cannot train {source} on {data}")))?;
    let (training, held_out) = task.tokens();
    message::line(&format!("{} parameters, of {source}", text::thousands(task.parameters().count() as u64)));
    message::line(&format!(
        "{} tokens to train on, {} held out, of {data}",
        text::thousands(training as u64),
        text::thousands(held_out as u64)
    ));
    task.notes().iter().for_each(|note| message::note(note));
    let train = |_: &FinetuneConfig, dir: &RunDir, resume| task.run(dir, resume);
    let outcome = run.go(&task, &task.config().run, train, out)?;
    outcome.map_or(Ok(()), |outcome| report(&outcome, &args.run, out))
}

fn report(outcome: &Outcome, options: &RunOptions, out: &mut Out) -> Result<()> {
    let size = fs::metadata(&outcome.model)?.len();
    let mut value = serde_json::to_value(outcome)?;
    for (key, loss) in [("float", outcome.float), ("rounded", outcome.rounded), ("trained", outcome.trained)] {
        value[key]["perplexity"] = json!(loss.loss.exp());
    }
    value["bytes"] = json!(size);
    options.report(&value, out, |out| print(outcome, size, out))
}

fn print(outcome: &Outcome, size: u64, out: &mut Out) -> Result<()> {
    let row = |what: &str, measured: Evaluation| {
        let per_char = measured.loss_per_char.map_or(String::new(), |loss| format!("{loss:.4}"));
        vec![what.to_owned(), format!("{:.4}", measured.loss), per_char, format!("{:.3}", measured.loss.exp())]
    };
    let columns = [
        ("", Align::Left),
        ("NATS A TOKEN", Align::Right),
        ("A CHARACTER", Align::Right),
        ("PERPLEXITY", Align::Right),
    ];
    let rows = [
        row("float", outcome.float),
        row("rounded, untrained", outcome.rounded),
        row(&format!("after {} steps", outcome.steps), outcome.trained),
    ];
    text::table(out, &columns, &rows)?;
    writeln!(
        out,
        "\n{} ({}) and {}, in {:.0} s",
        outcome.model.display(),
        text::bytes(size),
        outcome.checkpoint.display(),
        outcome.seconds
    )?;
    Ok(())
}

impl QatArgs {
    /// The checkpoint's directory or repository, where one was typed.
    fn source(&self) -> Option<&Path> {
        self.dir.as_deref().or(self.model_id.as_deref())
    }

    /// Puts what was typed in its place.
    fn apply(&self, config: &mut FinetuneConfig) -> Result<()> {
        if let Some(source) = self.source() {
            config.source = self.hub.resolve(source)?.0;
        }
        set(&mut config.text, &self.text);
        config.text_config = self.dataset_config_name.clone().or(config.text_config.take());
        config.train_split = self.train_split.clone().or(config.train_split.take());
        set(&mut config.text_field, &self.text_field);
        set(&mut config.held_out, &self.held_out);
        for (place, value) in [
            (&mut config.max_train_samples, self.max_train_samples),
            (&mut config.max_eval_tokens, self.max_eval_tokens),
        ] {
            *place = value.or(*place);
        }
        config.eval_text = self.eval_text.clone().or(config.eval_text.take());
        config.remember_paths();
        set(&mut config.batch_size, &self.run.batch_size);
        set(&mut config.gradient_accumulation_steps, &self.gradient_accumulation_steps);
        set(&mut config.seq_len, &self.seq_len);
        set(&mut config.rule, &self.run.rule);
        if let Some(share) = self.ternary_threshold {
            if !(0.0..1.0).contains(&share) {
                bail!(
                    "--ternary-threshold is {share}; give a share of a group's largest magnitude, from 0 up to, but not including, 1"
                );
            }
            config.rule = format!("threshold:{share}");
        }
        config.group = self.run.group.clone().or(config.group.take());
        config.stochastic_rounding |= self.run.ternary_stochastic_rounding;
        set(&mut config.quant, &self.run.quant);
        set(&mut config.distill, &self.distill);
        set(&mut config.temperature, &self.temperature);
        if let Some(steps) = self.run.steps.filter(|&steps| steps != config.run.schedule.steps) {
            config.set_steps(steps);
        }
        self.run.apply(&mut config.run);
        Ok(())
    }
}
