//! Quantization-aware fine-tuning of a checkpoint on a text (`sterna qat`): the float weights go into the decoder that is trained
//! ([`super::text::model`]), become ternary step by step, and come out as a checkpoint and as a GGUF.
//!
//! Weights are read as conversion reads them, and the GGUF is conversion's, from the checkpoint that was written: its linear layers
//! are ternary already, so it keeps every code. Which rule and format a matrix gets is asked of conversion too.
//!
//! Not here: the loop ([`super::trainer`]), texts in files ([`super::text::documents`]), other families' layers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use sterna_core::formats::Format;
use sterna_core::gguf::{Header, Metadata, TensorInfo};
use sterna_core::model::Config;
use sterna_core::ternary::{Granularity, Method};
use sterna_core::tokenizer::{EncodeOptions, Tokenizer};

use super::layers::Quantizer;
use super::memory::{Admit, DecoderSizes, Memory};
use super::ops;
use super::parameters::{Parameters, generator};
use super::run_dir::RunDir;
use super::settings::{RunConfig, Setting};
use super::text::documents::{Documents, remembered};
use super::text::model::{Biases, Blueprint, Decoder, ternary_values};
use super::text::split::{Parts, Split};
use super::text::{self, BATCHES, HeldOut, QUICK_TOKENS};
use super::trainer::{self, Evaluation, Step, Task, Watch};
use crate::checkpoint::family::{Role, Style};
use crate::checkpoint::plan::{Item, Origin, Plan};
use crate::checkpoint::{Checkpoint, save, tokenizer};
use crate::convert::weights::Tensor as Source;
use crate::convert::{self, Options};
use crate::data;
use crate::ui::interrupt;

/// A whole run: what `--config` reads and a checkpoint of it keeps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FinetuneConfig {
    /// The checkpoint's directory.
    pub source: PathBuf,
    /// The text: a file (plain, .jsonl, .parquet), the folder of a data set with a file for each split, or the name of a text that
    /// `sterna data` knows.
    pub text: PathBuf,
    /// Of a folder, the folder in it that is meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_config: Option<String>,
    /// The part that is trained on; what is not is held out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_split: Option<Split>,
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
            text_config: None,
            train_split: None,
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

    /// Makes paths whole, so that the run goes on from any folder.
    pub fn remember_paths(&mut self) {
        self.source = std::path::absolute(&self.source).unwrap_or_else(|_| self.source.clone());
        self.text = remembered(&self.text);
        self.eval_text = self.eval_text.as_deref().map(remembered);
    }
}

/// The fewest tokens that can be measured on: a sequence of which the second half is scored.
const LEAST: usize = 4;

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
    #[serde(serialize_with = "crate::ui::text::path_as_json")]
    pub model: PathBuf,
    /// The checkpoint's directory.
    #[serde(serialize_with = "crate::ui::text::path_as_json")]
    pub checkpoint: PathBuf,
    /// The held-out text, for `sterna perplexity -f`.
    #[serde(serialize_with = "crate::ui::text::path_as_json")]
    pub held_out: PathBuf,
}

/// Fine-tunes a checkpoint in the run's folder `dir`, on the threads of the rayon pool that it is called in.
///
/// # Errors
/// A checkpoint, text or setting that cannot be used; what `admit` refuses; what [`super::trainer::train`] gives.
pub fn finetune(config: &FinetuneConfig, dir: &Path, admit: Admit<'_>, resume: bool) -> Result<Outcome> {
    let dir = if resume { RunDir::open(dir)? } else { RunDir::create(dir)? };
    FinetuneTask::new(config.clone(), admit)?.run(&dir, resume)
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
    /// Tokens of a sequence in measurements.
    measured: usize,
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
    /// A checkpoint, text or setting that cannot be used; what `admit` refuses.
    pub fn new(config: FinetuneConfig, admit: Admit<'_>) -> Result<Self> {
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
        let mut metadata = plan.metadata(&name)?;
        let mut notes = config.run.notes();
        notes.extend(plan.notes.iter().cloned().chain(plan.account.notes()));
        tokenizer::write(&checkpoint, plan.hyper.vocabulary, plan.family.pre, &mut metadata, &mut notes)?;
        if metadata.strings("tokenizer.ggml.tokens").is_none() {
            bail!("{source} has no tokenizer to read the text with; fetch its tokenizer.json or tokenizer.model");
        }
        let tokenizer = Tokenizer::from_metadata(&metadata).with_context(|| format!("the tokenizer in {source}"))?;
        let blueprint = blueprint(&plan, metadata, config.seq_len).with_context(|| source.to_string())?;
        let quantizer = |cols: usize| rounding.quantizer(cols);
        // What cannot be written, or only otherwise, is told before training, not after.
        let mut others = BTreeMap::new();
        let (mut cols, mut any) = (BTreeSet::new(), rounding.method.is_none());
        for item in plan.items.iter().filter(|item| item.role == Role::Linear) {
            let format = rounding.format(item.cols).with_context(|| format!("tensor {} of {source}", item.name))?;
            cols.insert(item.cols);
            any |= format.is_ternary();
            if rounding.method.is_some() && format != rounding.format {
                others.entry((item.cols, format.name())).or_insert((format, 0)).1 += 1;
            }
        }
        if !any {
            return Err(convert::nothing_ternary(rounding.format, &cols).context(source.to_string()));
        }
        notes.extend(others.iter().map(|((cols, name), (format, tensors))| {
            let (asked, readers) = (rounding.format.name(), convert::readers::of(*format));
            format!("{tensors} tensors have rows of {cols}, not whole blocks of {asked}; they are trained for {name}{readers}")
        }));
        let mut text = Text::read(&config)?;
        let (training, held_out) = text.tokens(&config, &tokenizer)?;
        let measured = config.seq_len.min(held_out.ids.len());
        if measured < config.seq_len {
            notes.push(format!(
                "measured are sequences of {measured} tokens, not of --seq-len {}, as --max-eval-tokens asks for no more",
                config.seq_len
            ));
        }
        admit(&memory(&plan, &config, rounding.method.is_some()))?;

        let items: Vec<Item> = plan.items.into_iter().filter(|item| matches!(item.origin, Origin::Tensor(_))).collect();
        let model = || Decoder::of(blueprint.clone(), &quantizer, weights(&checkpoint, &items)?);
        let decoder = model().with_context(|| source.to_string())?;
        let teacher = if config.distill > 0.0 { Some(model()?) } else { None };
        let held_out_text = text.held_out;
        Ok(Self { config, decoder, teacher, items, rounding, name, training, held_out, held_out_text, measured, notes })
    }

    /// Measures the float and the rounded model, trains, writes, and says how it went.
    ///
    /// # Errors
    /// What [`trainer::train`] gives.
    pub fn run(&self, dir: &RunDir, resume: bool) -> Result<Outcome> {
        let settings = &self.config;
        let checkpoint = self.not_over_itself(dir)?;
        dir.begin(settings, resume)?;
        let busy = interrupt::busy();
        let measure = |ternary: f32, what: &str| {
            let step = Step { index: 0, seed: settings.run.seed, ternary, training: false };
            trainer::measure(self, &step, what, &busy)?.whole(what, "no step was taken yet")
        };
        let float = measure(0.0, "the float model")?;
        let rounded = measure(1.0, "the rounded model, untrained")?;
        let held_out = dir.held_out();
        fs::write(&held_out, &self.held_out_text).with_context(|| format!("cannot write {}", held_out.display()))?;
        let done = trainer::train(self, &settings.run, settings, dir, resume)?;
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

    /// Where the trained checkpoint goes, which must not be the one that is trained.
    fn not_over_itself(&self, dir: &RunDir) -> Result<PathBuf> {
        let checkpoint = dir.exported();
        if let (Ok(to), Ok(from)) = (checkpoint.canonicalize(), self.config.source.canonicalize())
            && to == from
        {
            bail!("{} would be written over itself; name another folder with --out", from.display());
        }
        Ok(checkpoint)
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
}

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

    fn evaluate(&self, step: &Step, whole: bool, watch: &mut Watch<'_>) -> Result<Evaluation> {
        let tokens = if whole { usize::MAX } else { QUICK_TOKENS };
        self.held_out.evaluate(&self.decoder, (self.measured, self.config.batch_size), tokens, step, watch)
    }

    fn data_digest(&self) -> Option<String> {
        Some(text::digest(&self.training, &self.held_out.ids))
    }

    fn items_per_step(&self) -> (usize, &'static str) {
        (self.config.batch_size * self.config.gradient_accumulation_steps * self.config.seq_len, "tokens")
    }

    /// The checkpoint, and the GGUF that conversion makes of it.
    fn export(&self, path: &Path, _: &Step) -> Result<()> {
        let dir = path.with_file_name("checkpoint");
        fs::create_dir_all(&dir).with_context(|| format!("cannot make the folder {}", dir.display()))?;
        let parts = self.decoder.parts()?;
        let parts: HashMap<_, _> = parts.iter().map(|part| (part.name.as_str(), part)).collect();
        save::tensors(&dir.join("model.safetensors"), &self.items, |item| {
            let part = parts.get(item.name.as_str()).with_context(|| format!("the model has no {}", item.name))?;
            ternary_values(part)
        })?;
        save::beside(&self.config.source, &dir, &self.items)?;
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
    for (path, said) in
        [(&c.source, "no checkpoint to train; name its directory"), (&c.text, "no text; name one with --text FILE")]
    {
        if path.as_os_str().is_empty() {
            bail!("the settings name {said}");
        }
    }
    c.run.check(c.rule != "none")?;
    Setting("--batch-size").at_least(c.batch_size, 1)?;
    Setting("--gradient-accumulation-steps").at_least(c.gradient_accumulation_steps, 1)?;
    Setting("--seq-len").at_least(c.seq_len, LEAST)?;
    if c.eval_text.is_none() && c.train_split.is_none() {
        Setting("--held-out").within(c.held_out, f64::MIN_POSITIVE..1.0, "a share of the text, above 0 and below 1")?;
    }
    if let Some(Split::Share(share)) = c.train_split {
        Setting("--train-split").within(share, f64::MIN_POSITIVE..1.0, "a share of the text, above 0 and below 1")?;
    }
    Setting("--max-train-samples").at_least(c.max_train_samples.unwrap_or(1), 1)?;
    Setting("--max-eval-tokens").at_least(c.max_eval_tokens.unwrap_or(LEAST), LEAST)?;
    Setting("--distill").share(c.distill)?;
    Setting("--temperature").above_zero(c.temperature)
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
        if let Some(sets) = &mut rope.long {
            sets.short = computed("rope_factors_short.weight").unwrap_or_default();
            sets.long = computed("rope_factors_long.weight").unwrap_or_default();
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
    fn read(config: &FinetuneConfig) -> Result<Self> {
        let (samples, field, data_dir) =
            (config.max_train_samples, config.text_field.as_str(), config.run.data_dir.as_deref());
        let path = data::text_file(&config.text, data_dir)?;
        let share = |documents: &Documents, share| documents.cut(share, samples).0.to_owned();
        let own = config
            .eval_text
            .as_ref()
            .map(|path| Documents::read(&data::text_file(path, data_dir)?, field))
            .transpose()?;
        let split = config.train_split.clone().or_else(|| path.is_dir().then(Split::all));
        if let Some(split) = split {
            let Parts { training, evaluation } = Parts::read(&path, config.text_config.as_deref(), field, &split)?;
            let held_out = own.map_or(evaluation.text, |own| own.text);
            return Ok(Self { training: share(&training, 1.0), held_out });
        }
        let documents = Documents::read(&path, field)?;
        Ok(match own {
            Some(own) => Self { training: share(&documents, 1.0), held_out: own.text },
            None => {
                let (training, held_out) = documents.cut(1.0 - config.held_out, samples);
                Self { training: training.to_owned(), held_out: held_out.to_owned() }
            }
        })
    }

    /// Tokens of both parts; cuts the held-out part to about as many as are to be measured.
    fn tokens(&mut self, config: &FinetuneConfig, tokenizer: &Tokenizer) -> Result<(Vec<u32>, HeldOut)> {
        let begins = tokenizer.bos().filter(|_| tokenizer.adds_bos());
        let encode =
            |text: &str, add_special: bool| tokenizer.encode(text, EncodeOptions { add_special, parse_special: false });
        let training = encode(&self.training, false).context("the training text")?;
        let mut held_out = encode(&self.held_out, true).context("the held-out text")?;
        let cut = config.max_eval_tokens.filter(|&most| most < held_out.len());
        if let Some(most) = cut {
            let share = most as f64 / held_out.len() as f64;
            let chars = (self.held_out.chars().count() as f64 * share) as usize;
            let end = self.held_out.char_indices().nth(chars).map_or(self.held_out.len(), |(at, _)| at);
            self.held_out.truncate(end);
            held_out = encode(&self.held_out, true).context("the held-out text")?;
        }
        // Where less is asked for than a sequence, sequences are as short as that.
        let least = if cut.is_some() { LEAST - 1 } else { config.seq_len };
        for (part, ids, least) in [("training", &training, config.seq_len), ("held-out", &held_out, least)] {
            if ids.len() <= least {
                bail!(
                    "the {part} part of {} has {} tokens, fewer than one sequence of {least} and the token after it; give a longer text, \
                     a lower --seq-len, or another --held-out",
                    config.text.display(),
                    ids.len(),
                );
            }
        }
        let chars = self.held_out.chars().count();
        Ok((training, HeldOut { ids: held_out, chars, begins }))
    }
}

/// What training a checkpoint takes: of one batch at a time.
fn memory(plan: &Plan, config: &FinetuneConfig, ternary: bool) -> Memory {
    let h = &plan.hyper;
    let float = |n: usize| n as f64;
    let count = |role: Option<Role>| -> f64 {
        let chosen = plan.items.iter().filter(|item| role.is_none_or(|role| item.role == role));
        chosen.map(|item| float(item.rows) * float(item.cols)).sum()
    };
    let batch = float(config.batch_size);
    Memory::of_decoder(&DecoderSizes {
        weights: count(None),
        ternary: if ternary { count(Some(Role::Linear)) } else { 0.0 },
        teacher: config.distill > 0.0,
        seq_len: float(config.seq_len),
        batch: (batch, batch),
        layers: float(h.layers),
        streams: 1.0,
        width: float(h.embedding),
        heads: (float(h.heads), float(h.heads * h.head), float((h.heads + 2 * h.kv_heads) * h.head)),
        ffn: (float(h.feed_forward), if plan.family.style == Style::Gpt2 { 1.0 } else { 2.0 }),
        vocabulary: float(h.vocabulary),
    })
}

#[cfg(test)]
mod tests;
