//! Quantization-aware fine-tuning of a checkpoint on a text (`sterna qat`): the float weights go into the decoder that is trained
//! ([`super::text::model`]), become ternary step by step, and come out as a checkpoint and as a GGUF.
//!
//! Weights are read as conversion reads them, and the GGUF is conversion's, from the checkpoint that was written: its linear layers
//! are ternary already, so it keeps every code. Which rule and format a matrix gets is asked of conversion too.
//!
//! Not here: the loop ([`super::trainer`]), texts in files ([`super::text::documents`]), other families' layers.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use sterna_core::formats::Format;
use sterna_core::gguf::{Header, Metadata, TensorInfo};
use sterna_core::model::Config;
use sterna_core::ops::RopeScaling;
use sterna_core::ternary::{Granularity, Method};
use sterna_core::tokenizer::{EncodeOptions, Tokenizer};

use super::layers::Quantizer;
use super::ops;
use super::parameters::{Parameters, generator};
use super::text::documents::Documents;
use super::text::model::{Biases, Blueprint, Decoder, ternary_values};
use super::text::{self, BATCHES, HeldOut, QUICK_TOKENS};
use super::trainer::{self, Evaluation, RunConfig, RunDir, Step, Task};
use crate::checkpoint::family::{Item, Origin, Plan, Role, Style};
use crate::checkpoint::{Checkpoint, save, tokenizer};
use crate::convert::weights::Tensor as Source;
use crate::convert::{self, Options};
use crate::ui::text::bytes;
use crate::{data, machine};

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

impl FinetuneConfig {
    /// Sets the number of steps, and keeps the warm-ups within the first quarter of them.
    pub fn set_steps(&mut self, steps: usize) {
        let schedule = &mut self.run.schedule;
        schedule.steps = steps;
        schedule.warmup_steps = schedule.warmup_steps.min(steps / 4);
        schedule.ternary_warmup_steps = schedule.ternary_warmup_steps.min(steps / 4);
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
    FinetuneTask::new(config.clone(), data_dir)?.run(dir, resume)
}

/// A checkpoint in training, and its text.
#[derive(Debug)]
pub struct FinetuneTask {
    config: FinetuneConfig,
    decoder: Decoder,
    /// The float model, frozen, where its predictions are followed.
    teacher: Option<Decoder>,
    /// The checkpoint's tensors.
    items: Vec<Item>,
    rounding: Rounding,
    /// The model's name.
    name: String,
    training: Vec<u32>,
    held_out: HeldOut,
    held_out_text: String,
    memory: Memory,
    notes: Vec<String>,
}

/// How weights become ternary, and in what they are written.
#[derive(Clone, Copy, Debug)]
struct Rounding {
    /// `None` leaves them float.
    method: Option<Method>,
    group: Option<Granularity>,
    format: Format,
    stochastic: bool,
}

impl FinetuneTask {
    /// Reads the checkpoint and the text. Refusals come before weights are read.
    ///
    /// # Errors
    /// A checkpoint, text or setting that cannot be used; too little memory.
    pub fn new(config: FinetuneConfig, data_dir: Option<&Path>) -> Result<Self> {
        check(&config)?;
        let rounding = Rounding::of(&config)?;
        let checkpoint = Checkpoint::open(&config.source)?;
        let plan = Plan::of(&checkpoint)?;
        let source = config.source.display();
        if plan.family.style == Style::BitNet {
            bail!(
                "{source} is a BitNet: it was trained ternary, and there is no float model to start from; `sterna convert` makes a \
                 GGUF of it without loss"
            );
        }
        let name = convert::directory_name(&config.source);
        let mut metadata = plan.metadata(checkpoint.config(), &name)?;
        let mut notes = Vec::new();
        tokenizer::write(&checkpoint, plan.hyper.vocabulary, plan.family.pre, &mut metadata, &mut notes)?;
        if metadata.strings("tokenizer.ggml.tokens").is_none() {
            bail!("{source} has no tokenizer to read the text with; fetch its tokenizer.json or tokenizer.model");
        }
        let tokenizer = Tokenizer::from_metadata(&metadata).with_context(|| format!("the tokenizer in {source}"))?;
        let blueprint = blueprint(&plan, metadata, config.seq_len).with_context(|| source.to_string())?;
        let quantizer = |cols: usize| rounding.quantizer(cols);
        // What cannot be written, or only otherwise, is told before training, not after.
        let mut others = BTreeMap::new();
        for item in plan.items.iter().filter(|item| item.role == Role::Linear) {
            let format = rounding.format(item.cols).with_context(|| format!("tensor {} of {source}", item.name))?;
            if rounding.method.is_some() && format != rounding.format {
                *others.entry((item.cols, format.name())).or_insert(0) += 1;
            }
        }
        notes.extend(others.iter().map(|((cols, format), tensors)| {
            let asked = rounding.format.name();
            format!("{tensors} tensors have rows of {cols}, not whole blocks of {asked}; they are trained for {format}")
        }));
        let mut text = Text::read(&config, data_dir)?;
        let (training, held_out) = text.tokens(&config, &tokenizer)?;
        let memory = Memory::estimate(&plan, &config, rounding.method.is_some());
        memory.check(machine::memory_bytes())?;

        let items: Vec<Item> = plan.items.into_iter().filter(|item| matches!(item.origin, Origin::Tensor(_))).collect();
        let model = || Decoder::of(blueprint.clone(), &quantizer, weights(&checkpoint, &items)?);
        let decoder = model().with_context(|| source.to_string())?;
        let teacher = if config.distill > 0.0 { Some(model()?) } else { None };
        let held_out_text = text.held_out;
        Ok(Self { config, decoder, teacher, items, rounding, name, training, held_out, held_out_text, memory, notes })
    }

    /// Measures the float and the rounded model, trains, writes, and says how it went.
    ///
    /// # Errors
    /// What [`trainer::train`] gives.
    pub fn run(&self, dir: &Path, resume: bool) -> Result<Outcome> {
        let dir = RunDir::create(dir)?;
        let settings = &self.config;
        trainer::check_start(&dir, resume)?;
        let checkpoint = dir.path().join(CHECKPOINT);
        if let (Ok(to), Ok(from)) = (checkpoint.canonicalize(), settings.source.canonicalize())
            && to == from
        {
            bail!("{} would be written over itself; name another folder with --out", from.display());
        }
        let step = |ternary: f32| Step { index: 0, seed: settings.run.seed, ternary, training: false };
        let float = self.evaluate(&step(0.0), true)?;
        let rounded = self.evaluate(&step(1.0), true)?;
        let held_out = dir.path().join("held-out.txt");
        fs::write(&held_out, &self.held_out_text).with_context(|| format!("cannot write {}", held_out.display()))?;
        let done = trainer::train(self, &settings.run, settings, &dir, resume)?;
        Ok(Outcome {
            float,
            rounded,
            trained: done.held_out,
            steps: done.steps,
            seconds: done.seconds,
            model: done.model,
            checkpoint,
            held_out,
        })
    }

    /// The run's settings.
    pub fn config(&self) -> &FinetuneConfig {
        &self.config
    }

    /// The decoder.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// Tokens to train on, and of the held-out text.
    pub fn tokens(&self) -> (usize, usize) {
        (self.training.len(), self.held_out.ids.len())
    }

    /// What a person should know before it begins.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// What it will take.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }
}

/// The folder of the trained checkpoint within the run's.
const CHECKPOINT: &str = "checkpoint";

impl Task for FinetuneTask {
    fn parameters(&self) -> &Parameters {
        self.decoder.parameters()
    }

    fn parts(&self) -> usize {
        self.config.gradient_accumulation_steps
    }

    fn loss(&self, step: &Step, part: usize) -> Result<Tensor> {
        let FinetuneConfig { batch_size, seq_len, distill, temperature, .. } = self.config;
        let mut generator = generator(step.seed, step.index as u64, BATCHES + part as u64);
        let (mut ids, targets) = text::sequences(&self.training, batch_size, seq_len, &mut generator);
        self.held_out.begin(&mut ids, seq_len);
        let logits = self.decoder.forward(&ids, seq_len, step)?;
        let loss = ops::cross_entropy(&logits, targets)?;
        let Some(teacher) = &self.teacher else { return Ok(loss) };
        let expected = teacher.forward(&ids, seq_len, &Step { ternary: 0.0, training: false, ..*step })?;
        let divergence = ops::divergence(&logits, &expected, temperature)?;
        let share = f64::from(distill);
        Ok(((loss * (1.0 - share))? + (divergence * share)?)?)
    }

    fn evaluate(&self, step: &Step, whole: bool) -> Result<Evaluation> {
        let tokens = if whole { usize::MAX } else { QUICK_TOKENS };
        self.held_out.evaluate(&self.decoder, self.config.seq_len, self.config.batch_size, tokens, step)
    }

    fn items_per_step(&self) -> (usize, &'static str) {
        (self.config.batch_size * self.config.gradient_accumulation_steps * self.config.seq_len, "tokens")
    }

    /// The checkpoint, and the GGUF that conversion makes of it.
    fn export(&self, path: &Path, _: &Step) -> Result<()> {
        let dir = path.with_file_name(CHECKPOINT);
        fs::create_dir_all(&dir).with_context(|| format!("cannot make the folder {}", dir.display()))?;
        let parts = self.decoder.parts()?;
        let parts: HashMap<_, _> = parts.iter().map(|part| (part.name.as_str(), part)).collect();
        save::tensors(&dir.join("model.safetensors"), &self.items, |item| {
            let part = parts.get(item.name.as_str()).with_context(|| format!("the model has no {}", item.name))?;
            ternary_values(part)
        })?;
        save::beside(&self.config.source, &dir)?;
        let Rounding { method, group, format, .. } = self.rounding;
        let options = Options {
            quant: Some(if method.is_some() { format } else { Format::F16 }),
            method: method.unwrap_or(Method::Search),
            group,
            // What training made ternary must be found so.
            lossless: true,
            ..Options::default()
        };
        convert::from_checkpoint(&dir, path, Some(&self.name), &options)?;
        Ok(())
    }
}

impl Rounding {
    fn of(config: &FinetuneConfig) -> Result<Self> {
        let format = convert::format_named(&config.quant)?;
        let method = match config.rule.as_str() {
            "none" => None,
            rule => Some(rule.parse::<Method>()?),
        };
        if method.is_some() && !format.is_ternary() {
            bail!("--quant {} is no ternary format; with --rule none weights stay float", format.name());
        }
        let method = if format == Format::Q1_0 { method.map(|_| Method::Sign) } else { method };
        let group = config.group.as_deref().map(str::parse).transpose()?;
        Ok(Self { method, group, format, stochastic: config.stochastic_rounding })
    }

    /// The format of projections of so many columns.
    fn format(&self, cols: usize) -> Result<Format> {
        match self.method {
            Some(method) => Ok(convert::for_rows(cols, self.format, method, self.group)?.0),
            None => Ok(Format::F16),
        }
    }

    /// How projections of so many columns are quantized.
    fn quantizer(&self, cols: usize) -> Result<Quantizer> {
        let rule = match self.method {
            Some(method) => convert::for_rows(cols, self.format, method, self.group)?.1,
            None => None,
        };
        Ok(Quantizer { rule, stochastic_rounding: self.stochastic })
    }
}

fn check(c: &FinetuneConfig) -> Result<()> {
    if c.batch_size == 0 || c.gradient_accumulation_steps == 0 || c.seq_len < 4 {
        bail!("--batch-size and --gradient-accumulation-steps must be at least 1, --seq-len at least 4");
    }
    if !(0.0..1.0).contains(&c.held_out) || c.held_out == 0.0 && c.eval_text.is_none() {
        bail!("a share of {} cannot be held out; give --held-out a share above 0 and below 1", c.held_out);
    }
    let follows = (0.0..=1.0).contains(&c.distill) && c.temperature > 0.0 && c.temperature.is_finite();
    if !follows {
        bail!(
            "--distill is a share from 0 to 1, --temperature a positive number, not {} and {}",
            c.distill,
            c.temperature
        );
    }
    let schedule = &c.run.schedule;
    let last = schedule.steps.saturating_sub(1);
    if c.rule != "none" && schedule.ternary_share_at(last) < 1.0 {
        bail!(
            "after {} float steps and {} of warm-up no step of {} is left in which weights are ternary; give more --steps, or a lower \
             --ternary-warmup-steps",
            schedule.float_steps,
            schedule.ternary_warmup_steps,
            schedule.steps
        );
    }
    Ok(())
}

/// What the runtime would make of the checkpoint's GGUF.
fn blueprint(plan: &Plan, metadata: Metadata, seq_len: usize) -> Result<Blueprint> {
    let tensor = |item: &Item| TensorInfo {
        name: item.name.clone(),
        dims: if item.vector { vec![item.cols as u64] } else { vec![item.cols as u64, item.rows as u64] },
        type_id: Format::F32.type_id(),
        offset: 0,
        size: 0,
    };
    let tensors = plan.items.iter().map(tensor).collect();
    let mut config = Config::from_header(&Header { version: 3, metadata, tensors, alignment: 32, data_offset: 0 })?;
    let computed = |name: &str| {
        plan.items.iter().find_map(|item| match &item.origin {
            Origin::Values(values) if item.name == name => Some(values.clone()),
            _ => None,
        })
    };
    if let Some(rope) = &mut config.rope {
        rope.factors = computed("rope_freqs.weight").unwrap_or_default();
        if let RopeScaling::Long { short, long, .. } = &mut rope.scaling {
            *short = computed("rope_factors_short.weight").unwrap_or_default();
            *long = computed("rope_factors_long.weight").unwrap_or_default();
        }
    }
    if seq_len > config.n_ctx {
        bail!("its context is {} tokens; give a --seq-len of at most that, not {seq_len}", config.n_ctx);
    }
    if let Some(window) = config.window.filter(|&window| window < seq_len) {
        bail!("its attention sees {window} tokens; give a --seq-len of at most that, not {seq_len}");
    }
    let has = |name: &str| plan.items.iter().any(|item| item.name == name);
    let biases = Biases {
        qkv: has("blk.0.attn_q.bias") || has("blk.0.attn_qkv.bias"),
        attention_out: has("blk.0.attn_output.bias"),
        up: has("blk.0.ffn_up.bias"),
        down: has("blk.0.ffn_down.bias"),
    };
    let tied = !has("output.weight");
    Ok(Blueprint { config, vocabulary: plan.hyper.vocabulary, context: seq_len, tied, biases, dropout: 0.0 })
}

/// The checkpoint's values, by their names in a GGUF.
fn weights(checkpoint: &Checkpoint, items: &[Item]) -> Result<BTreeMap<String, Tensor>> {
    let mut weights = BTreeMap::new();
    for item in items {
        let source = Source::of_item(checkpoint, item.clone())?;
        let values = source.read_all()?;
        source.release();
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            bail!("{}: element {at} is {}; the checkpoint is damaged", source.place, values[at]);
        }
        let shape = if item.vector { vec![item.cols] } else { vec![item.rows, item.cols] };
        weights.insert(item.name.clone(), Tensor::from_vec(values, shape, &Device::Cpu)?);
    }
    Ok(weights)
}

/// The two parts of the text.
struct Text {
    training: String,
    held_out: String,
}

impl Text {
    fn read(config: &FinetuneConfig, data_dir: Option<&Path>) -> Result<Self> {
        let (samples, field) = (config.max_train_samples, config.text_field.as_str());
        let documents = Documents::read(&data::text_file(&config.text, data_dir)?, field)?;
        let (training, held_out) = match &config.eval_text {
            Some(path) => {
                let held_out = Documents::read(&data::text_file(path, data_dir)?, field)?.text;
                (documents.cut(1.0, samples).0.to_owned(), held_out)
            }
            None => {
                let (training, held_out) = documents.cut(1.0 - config.held_out, samples);
                (training.to_owned(), held_out.to_owned())
            }
        };
        Ok(Self { training, held_out })
    }

    /// Tokens of both parts; cuts the held-out part to about as many as are to be measured.
    fn tokens(&mut self, config: &FinetuneConfig, tokenizer: &Tokenizer) -> Result<(Vec<u32>, HeldOut)> {
        let begins = tokenizer.bos().filter(|_| tokenizer.adds_bos());
        let encode =
            |text: &str, add_special: bool| tokenizer.encode(text, EncodeOptions { add_special, parse_special: false });
        let training = encode(&self.training, false).context("the training text")?;
        let mut held_out = encode(&self.held_out, true).context("the held-out text")?;
        if let Some(most) = config.max_eval_tokens.filter(|&most| most < held_out.len()) {
            let share = most as f64 / held_out.len() as f64;
            let chars = (self.held_out.chars().count() as f64 * share) as usize;
            let end = self.held_out.char_indices().nth(chars).map_or(self.held_out.len(), |(at, _)| at);
            self.held_out.truncate(end);
            held_out = encode(&self.held_out, true).context("the held-out text")?;
        }
        for (part, ids) in [("training", &training), ("held-out", &held_out)] {
            if ids.len() <= config.seq_len {
                bail!(
                    "the {part} part of {} has {} tokens, fewer than one sequence of {} and the token after it; give a longer text, a \
                     lower --seq-len, or another --held-out",
                    config.text.display(),
                    ids.len(),
                    config.seq_len
                );
            }
        }
        let chars = self.held_out.chars().count();
        Ok((training, HeldOut { ids: held_out, chars, begins }))
    }
}

/// Bytes that a run needs, estimated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Weights, and what ternary products see in their place.
    pub weights: u64,
    /// Gradients of all weights.
    pub gradients: u64,
    /// The optimizer's two moments.
    pub moments: u64,
    /// The float model that is followed.
    pub teacher: u64,
    /// What the forward pass keeps for the backward pass, logits included, and gradients on their way back.
    pub activations: u64,
}

impl Memory {
    /// Of one batch at a time, all in f32.
    fn estimate(plan: &Plan, config: &FinetuneConfig, ternary: bool) -> Self {
        let h = &plan.hyper;
        let count = |role: Option<Role>| -> u64 {
            let chosen = plan.items.iter().filter(|item| role.is_none_or(|role| item.role == role));
            chosen.map(|item| (item.rows * item.cols) as u64).sum()
        };
        let (all, linear) = (count(None), count(Some(Role::Linear)));
        let tokens = (config.batch_size * config.seq_len) as u64;
        let (queries, qkv) = (h.heads * h.head, (h.heads + 2 * h.kv_heads) * h.head);
        let gated = if plan.family.style == Style::Gpt2 { 1 } else { 2 };
        // Residuals, norms and outputs; projections, their copies by head, probabilities, outputs; the feed-forward layer.
        let layer = 6 * h.embedding + 3 * qkv + h.heads * config.seq_len + 2 * queries + (gated + 2) * h.feed_forward;
        // Logits, their gradient, what is softened of both models.
        let logits = if config.distill > 0.0 { 3 } else { 2 } * h.vocabulary;
        Self {
            weights: 4 * (all + if ternary { linear } else { 0 }),
            gradients: 4 * all,
            moments: 8 * all,
            teacher: if config.distill > 0.0 { 4 * all } else { 0 },
            // Half as much again is what runs were found to take.
            activations: 4 * tokens * (h.layers * layer + logits) as u64 * 3 / 2,
        }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights + self.gradients + self.moments + self.teacher + self.activations
    }

    fn check(&self, available: Option<u64>) -> Result<()> {
        match available {
            Some(available) if self.total() > available => bail!(
                "training needs about {self}, but this machine has {}; give a smaller --batch-size (with more \
                 --gradient-accumulation-steps) or --seq-len{}, or take a smaller model",
                bytes(available),
                if self.teacher > 0 { ", leave out --distill" } else { "" }
            ),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of memory (weights {}, gradients {}, moments {}, activations {}",
            bytes(self.total()),
            bytes(self.weights),
            bytes(self.gradients),
            bytes(self.moments),
            bytes(self.activations)
        )?;
        if self.teacher > 0 {
            write!(f, ", float model {}", bytes(self.teacher))?;
        }
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests;
