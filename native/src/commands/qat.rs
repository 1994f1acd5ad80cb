//! `sterna qat`: quantization-aware fine-tuning of a checkpoint, from a directory to a directory and a GGUF.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::json;

use super::train::{RunOptions, configured, set};
use crate::Out;
use crate::train::finetune::{FinetuneConfig, FinetuneTask, Outcome};
use crate::train::trainer::Evaluation;
use crate::ui::text::{self, Align};

/// Fine-tune a Hugging Face checkpoint so that its linear layers become ternary (Llama, Mistral, Qwen2, Qwen3, Phi-3, GPT-2).
///
/// Weights begin as they are and become ternary over --ternary-warmup-steps. The run's folder gets checkpoint/ (a checkpoint directory
/// whose linear layers hold ternary values, which convert keeps exactly) and model.gguf, and what sterna train leaves:
/// checkpoint.safetensors (--resume goes on from it), log.jsonl, loss.svg and config.toml, which --config reads.
#[derive(Debug, Args)]
pub struct QatArgs {
    /// The checkpoint's directory: config.json, safetensors, tokenizer.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// The text: a plain file, .jsonl, .parquet, or the name of a text of sterna data, as tinyshakespeare.
    #[arg(long, visible_alias = "dataset", value_name = "FILE", required_unless_present = "config")]
    pub text: Option<PathBuf>,
    /// The field of .jsonl, or the column of .parquet, that holds the text; text if not given.
    #[arg(long, value_name = "NAME")]
    pub text_field: Option<String>,
    /// Measure on this text rather than on the end of the other.
    #[arg(long, value_name = "FILE")]
    pub eval_text: Option<PathBuf>,
    /// Share of the text, at its end, that is held out for measurements; 0.1 if not given.
    #[arg(long, value_name = "SHARE")]
    pub held_out: Option<f64>,
    /// Train on the first N documents (lines, of a plain text) only.
    #[arg(long, value_name = "N")]
    pub max_train_samples: Option<usize>,
    /// Measure on about the first N tokens of the held-out text only.
    #[arg(long, value_name = "N")]
    pub max_eval_tokens: Option<usize>,
    /// Batches that make one step: as if --batch-size were so many times larger, in the memory of one.
    #[arg(long, value_name = "N")]
    pub gradient_accumulation_steps: Option<usize>,
    /// Tokens of a sequence.
    #[arg(long, visible_alias = "block-size", value_name = "N")]
    pub seq_len: Option<usize>,
    /// The rule threshold, with this share of a group's largest magnitude, below which weights become zero.
    #[arg(long, value_name = "SHARE", conflicts_with = "rule")]
    pub ternary_threshold: Option<f32>,
    /// Follow the float model: the loss is (1 - WEIGHT) of the text's and WEIGHT of the divergence from its predictions.
    #[arg(long, value_name = "WEIGHT")]
    pub distill: Option<f32>,
    /// Temperature of both predictions in --distill; 1 if not given.
    #[arg(long, value_name = "T")]
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
    let config = args.settings()?;
    let name = crate::convert::directory_name(&args.dir);
    let dir = args.run.out.clone().unwrap_or_else(|| Path::new("runs").join(format!("{name}-qat")));
    let (source, text) = (config.source.display().to_string(), config.text.display().to_string());
    let task = FinetuneTask::new(config, args.run.data_dir.as_deref())
        .with_context(|| format!("cannot train {source} on {text}"))?;
    let (training, held_out) = task.tokens();
    eprintln!(
        "{source}: {} parameters, {}; {training} tokens to train on, {held_out} held out",
        task.decoder().parameters().count(),
        task.memory()
    );
    task.notes().iter().for_each(|note| eprintln!("note: {note}"));
    let outcome = super::train::within(args.run.threads, || task.run(&dir, args.run.resume))?;
    report(&outcome, args.run.json, out)
}

fn report(outcome: &Outcome, as_json: bool, out: &mut Out) -> Result<()> {
    let size = fs::metadata(&outcome.model)?.len();
    if as_json {
        let mut value = serde_json::to_value(outcome)?;
        for (key, loss) in [("float", outcome.float), ("rounded", outcome.rounded), ("trained", outcome.trained)] {
            value[key]["perplexity"] = json!(loss.loss.exp());
        }
        value["bytes"] = json!(size);
        writeln!(out, "{}", serde_json::to_string_pretty(&value)?)?;
        return Ok(());
    }
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
    /// The settings in --config, or the defaults, with what was typed in their place.
    fn settings(&self) -> Result<FinetuneConfig> {
        let mut config: FinetuneConfig = configured(self.run.config.as_deref(), FinetuneConfig::default())?;
        config.source = self.dir.clone();
        set(&mut config.text, &self.text);
        set(&mut config.text_field, &self.text_field);
        set(&mut config.held_out, &self.held_out);
        for (place, value) in [
            (&mut config.max_train_samples, self.max_train_samples),
            (&mut config.max_eval_tokens, self.max_eval_tokens),
        ] {
            *place = value.or(*place);
        }
        config.eval_text = self.eval_text.clone().or(config.eval_text);
        set(&mut config.batch_size, &self.run.batch_size);
        set(&mut config.gradient_accumulation_steps, &self.gradient_accumulation_steps);
        set(&mut config.seq_len, &self.seq_len);
        set(&mut config.rule, &self.run.rule);
        if let Some(share) = self.ternary_threshold {
            if !(0.0..1.0).contains(&share) {
                bail!(
                    "--ternary-threshold {share} is no share of a group's largest magnitude; give one from 0 up to 1"
                );
            }
            config.rule = format!("threshold:{share}");
        }
        config.group = self.run.group.clone().or(config.group);
        config.stochastic_rounding |= self.run.ternary_stochastic_rounding;
        set(&mut config.quant, &self.run.quant);
        set(&mut config.distill, &self.distill);
        set(&mut config.temperature, &self.temperature);
        if let Some(steps) = self.run.steps {
            config.set_steps(steps);
        }
        self.run.apply(&mut config.run);
        Ok(config)
    }
}
