//! Quantization-aware fine-tuning of a checkpoint: `sterna qat`.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use sterna_core::ternary::Method;

use super::trainer::{Evaluation, RunConfig};

/// A whole run: what `--config` reads and a checkpoint of it keeps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FinetuneConfig {
    /// The checkpoint's directory.
    pub source: PathBuf,
    /// The text: a file (plain, .jsonl, .parquet), or the name of a text that `sterna data` knows.
    pub text: PathBuf,
    /// The field of JSONL or the column of Parquet that holds the text.
    pub text_field: String,
    /// A text of its own for measurements; if `None`, the end of the text is held out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_text: Option<PathBuf>,
    /// Share of the characters, at the end of the text, that is held out where there is no `eval_text`.
    pub held_out: f64,
    /// Train on so many documents (lines, of plain text) only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_train_samples: Option<usize>,
    /// Measure on so many tokens of the held-out text only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_eval_tokens: Option<usize>,
    /// Sequences that go through the model together.
    pub batch_size: usize,
    /// How many such batches make a step.
    pub gradient_accumulation_steps: usize,
    /// Tokens of a sequence.
    pub seq_len: usize,
    /// How weights become ternary; `none` fine-tunes them in float.
    pub rule: String,
    /// What shares a scale; by default the format's block.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Round weights at random while training.
    pub stochastic_rounding: bool,
    /// The format of the GGUF.
    pub quant: String,
    /// Share of the loss that is the divergence from the float model; 0 is no distillation.
    pub distill: f32,
    /// Temperature of both distributions in distillation.
    pub temperature: f32,
    /// Steps, rates, seed.
    pub run: RunConfig,
}

impl Default for FinetuneConfig {
    fn default() -> Self {
        let mut run = RunConfig { eval_every: 100, ..RunConfig::default() };
        run.schedule.steps = 300;
        run.schedule.lr = 5e-4;
        run.schedule.warmup_steps = 20;
        run.schedule.ternary_warmup_steps = 50;
        run.schedule.weight_decay = 0.0;
        Self {
            source: PathBuf::new(),
            text: PathBuf::new(),
            text_field: "text".into(),
            eval_text: None,
            held_out: 0.1,
            max_train_samples: None,
            max_eval_tokens: None,
            batch_size: 4,
            gradient_accumulation_steps: 1,
            seq_len: 256,
            rule: Method::Search.to_string(),
            group: None,
            stochastic_rounding: false,
            quant: "TQ2_0".into(),
            distill: 0.0,
            temperature: 1.0,
            run,
        }
    }
}

/// A finished run. Losses are measured on the held-out text as `sterna perplexity -c SEQ_LEN` measures them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// Of the checkpoint as it was.
    pub float: Evaluation,
    /// After rounding by the rule, without training.
    pub rounded: Evaluation,
    /// After training.
    pub trained: Evaluation,
    /// Steps taken.
    pub steps: usize,
    /// Seconds of training, in all sessions.
    pub seconds: f64,
    /// The GGUF.
    pub model: PathBuf,
    /// The checkpoint's directory.
    pub checkpoint: PathBuf,
    /// The held-out text, for `sterna perplexity -f`.
    pub held_out: PathBuf,
}

/// Fine-tunes a checkpoint in the run's folder `dir`, on the threads of the rayon pool that it is called in. `data_dir` is where data
/// sets are looked for, as in [`crate::data::locate`].
///
/// # Errors
/// A checkpoint, text or setting that cannot be used; too little memory; what [`super::trainer::train`] gives.
pub fn finetune(config: &FinetuneConfig, dir: &Path, data_dir: Option<&Path>, resume: bool) -> Result<Outcome> {
    let _ = (config, dir, data_dir, resume);
    bail!("not built yet")
}
