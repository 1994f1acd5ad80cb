//! Language models on a text: data, tokenizer, decoder, and the task that the loop trains.

pub mod documents;
pub mod model;
pub mod save;
pub mod split;
pub mod tokenizer;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::Tensor;
use rand_xoshiro::rand_core::Rng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sterna_core::formats::Format;

use self::documents::remembered;
use self::model::{About, Decoder, ModelConfig};
use self::tokenizer::{TextTokenizer, TokenizerChoice};
use super::export;
use super::layers::{QuantizationConfig, Quantizer};
use super::memory::Admit;
use super::ops;
use super::parameters::{Parameters, below, generator};
use super::settings::{RunConfig, Setting, hex};
use super::trainer::{Evaluation, Step, Task, Watch};
use crate::data;

/// A whole run on a text: what `--config` reads and a checkpoint keeps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TextConfig {
    /// The text: a file, or the name of a text that `sterna data` knows.
    #[serde(skip_serializing_if = "is_empty")]
    pub text: PathBuf,
    /// More texts to train on, of which nothing is held out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<PathBuf>,
    /// What the exported file says about itself.
    pub about: About,
    /// How text becomes tokens.
    pub tokenizer: TokenizerChoice,
    /// Share of the characters, at the end of the text, that is held out for measurements.
    pub held_out: f64,
    /// Sequences of a step.
    pub batch_size: usize,
    /// Tokens of a sequence, and the context of the exported model.
    pub seq_len: usize,
    /// The decoder.
    pub model: ModelConfig,
    /// How its projections are quantized.
    pub quantization: QuantizationConfig,
    /// The format of the export; by default the one whose blocks are the groups.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// Steps, rates, seed.
    pub run: RunConfig,
}

impl Default for TextConfig {
    fn default() -> Self {
        Self {
            text: PathBuf::new(),
            also: Vec::new(),
            about: About::default(),
            tokenizer: TokenizerChoice::Characters,
            held_out: 0.1,
            batch_size: 16,
            seq_len: 256,
            model: ModelConfig::default(),
            quantization: QuantizationConfig::default(),
            format: None,
            run: RunConfig::default(),
        }
    }
}

impl TextConfig {
    /// Makes paths whole, so that the run goes on from any folder.
    pub fn remember_paths(&mut self) {
        self.text = remembered(&self.text);
        self.also.iter_mut().for_each(|path| *path = remembered(path));
    }

    fn check(&self) -> Result<()> {
        self.run.check(self.quantization.method != "none")?;
        Setting("--batch-size").at_least(self.batch_size, 1)?;
        Setting("--seq-len").at_least(self.seq_len, 4)?;
        let held_out = f64::MIN_POSITIVE..1.0;
        Setting("held_out").within(self.held_out, held_out, "a share of the text, above 0 and below 1")
    }
}

/// Whether no text was named.
fn is_empty(path: &Path) -> bool {
    path.as_os_str().is_empty()
}

/// Tokens that an evaluation looks at where not all are wanted.
pub const QUICK_TOKENS: usize = 1 << 15;
/// The place of the random bits that choose a step's sequences; one more for each part after the first.
pub const BATCHES: u64 = 1 << 40;
/// Sequences that go through the model at once in an evaluation.
const EVAL_BATCH: usize = 16;

/// Random sequences of `length` tokens and the tokens after each of theirs, one after the other.
pub fn sequences(tokens: &[u32], batch: usize, length: usize, generator: &mut impl Rng) -> (Vec<u32>, Vec<u32>) {
    let (mut ids, mut targets) = (Vec::with_capacity(batch * length), Vec::with_capacity(batch * length));
    for _ in 0..batch {
        let first = below(generator, tokens.len().saturating_sub(length));
        ids.extend(&tokens[first..][..length]);
        targets.extend(&tokens[first + 1..][..length]);
    }
    (ids, targets)
}

/// A text that is measured on.
#[derive(Clone, Debug)]
pub struct HeldOut {
    /// Its tokens.
    pub ids: Vec<u32>,
    /// Its characters.
    pub chars: usize,
    /// The token that begins every sequence, where the model has such; it takes the place of the sequence's first.
    pub begins: Option<u32>,
}

impl HeldOut {
    /// Puts the token that begins a sequence where sequences of `length` tokens begin.
    pub fn begin(&self, ids: &mut [u32], length: usize) {
        if let Some(begins) = self.begins {
            ids.iter_mut().step_by(length).for_each(|id| *id = begins);
        }
    }

    /// What `sterna perplexity -c LENGTH` measures: sequences of `size.0` tokens that do not overlap, the second half of each scored.
    /// About `tokens` of them, evenly chosen; `size.1` sequences go through the model at once. `watch` hears of sequences.
    ///
    /// # Errors
    /// If the computation fails.
    pub fn evaluate(
        &self,
        decoder: &Decoder,
        size: (usize, usize),
        tokens: usize,
        step: &Step,
        watch: &mut Watch<'_>,
    ) -> Result<Evaluation> {
        let (length, batch) = size;
        let (sequences, half) = (self.ids.len() / length, length / 2);
        let wanted = (tokens / length).clamp(1, sequences.max(1));
        let (mut sum, mut count) = (0.0f64, 0usize);
        for first in (0..wanted).step_by(batch.max(1)) {
            let chosen = first..(first + batch.max(1)).min(wanted);
            let done = chosen.end;
            let mut ids: Vec<u32> =
                chosen.flat_map(|i| &self.ids[i * sequences / wanted * length..][..length]).copied().collect();
            self.begin(&mut ids, length);
            let logits = decoder.forward(&ids, length, step)?;
            // The last token predicts nothing that is in its sequence.
            let scored = logits.reshape((ids.len() / length, length, ()))?.narrow(1, half, length - 1 - half)?;
            let targets: Vec<u32> = ids.chunks_exact(length).flat_map(|ids| &ids[half + 1..]).copied().collect();
            let losses = ops::losses(&scored.contiguous()?.reshape((targets.len(), ()))?, &targets)?;
            sum += losses.iter().map(|&loss| f64::from(loss)).sum::<f64>();
            count += losses.len();
            if !watch(done, wanted) {
                break;
            }
        }
        let loss = sum / count as f64;
        let tokens_per_char = self.ids.len() as f64 / self.chars.max(1) as f64;
        Ok(Evaluation { loss, loss_per_char: Some(loss * tokens_per_char), accuracy: None })
    }
}

/// The digest of tokens that are trained on and of those that are measured on.
pub(super) fn digest(training: &[u32], held_out: &[u32]) -> String {
    let mut sha = Sha256::new();
    for part in [training, held_out] {
        sha.update((part.len() as u64).to_le_bytes());
        part.iter().for_each(|id| sha.update(id.to_le_bytes()));
    }
    hex(&sha.finalize())
}

/// A decoder and its text.
#[derive(Debug)]
pub struct TextTask {
    config: TextConfig,
    decoder: Decoder,
    tokenizer: TextTokenizer,
    training: Vec<u32>,
    held_out: HeldOut,
    format: Option<Format>,
    notes: Vec<String>,
}

impl TextTask {
    /// As [`TextTask::new`], with the texts that the settings name.
    ///
    /// # Errors
    /// If a text cannot be read, and as [`TextTask::new`].
    pub fn open(config: TextConfig, admit: Admit<'_>) -> Result<Self> {
        if is_empty(&config.text) {
            bail!("the settings name no text to train on; name one with --text FILE");
        }
        let read = |path: &PathBuf| crate::args::read_text(&data::text_file(path, config.run.data_dir.as_deref())?);
        let (text, also) = (read(&config.text)?, config.also.iter().map(read).collect::<Result<String>>()?);
        let name = config.text.display().to_string();
        Self::new(config, &text, &also, admit).with_context(|| format!("cannot train on {name}"))
    }

    /// Cuts the text, makes the tokenizer, and the decoder. `also` is trained on whole, after the text's own training part.
    ///
    /// # Errors
    /// If the text is too short for one sequence in each part, settings do not go together, or `admit` refuses what the run needs.
    pub fn new(config: TextConfig, text: &str, also: &str, admit: Admit<'_>) -> Result<Self> {
        config.check()?;
        let chars = text.chars().count();
        let cut = (chars as f64 * (1.0 - config.held_out)) as usize;
        let at = text.char_indices().nth(cut).map_or(text.len(), |(at, _)| at);
        let (training, held_out) = text.split_at(at);
        let training = [training, also].concat();
        let mut notes = config.run.notes();
        // What is learned of a text is learned from its training part. Characters are only listed, so those of the other part are too:
        // they could not be measured otherwise.
        let tokenizer = match config.tokenizer {
            TokenizerChoice::Characters => {
                notes.extend(tokenizer::unseen(&training, held_out));
                TextTokenizer::build(config.tokenizer, &[&training, held_out].concat(), None)?
            }
            choice => TextTokenizer::build(choice, &training, config.run.data_dir.as_deref())?,
        };
        let (training, held_out_ids) = (
            tokenizer.encode(&training).context("the training text")?,
            tokenizer.encode(held_out).context("the held-out part of the text")?,
        );
        for (part, ids) in [("training", &training), ("held-out", &held_out_ids)] {
            if ids.len() <= config.seq_len {
                bail!(
                    "the {part} part of the text has {} tokens, fewer than one sequence of {} and the token after it; \
                     give a longer text, a lower --seq-len, or another held_out",
                    ids.len(),
                    config.seq_len
                );
            }
        }
        let quantizer = Quantizer::new(&config.quantization)?;
        let format = config.format.as_deref().map(export::format_named).transpose()?;
        if let Some(rule) = quantizer.rule {
            // What cannot be exported is told before training, not after.
            for cols in [config.model.width, config.model.ffn] {
                export::format_for(rule, cols, format)?;
            }
        }
        let vocabulary = tokenizer.vocabulary();
        config.model.check(vocabulary, config.seq_len)?;
        admit(&config.model.memory(
            vocabulary,
            config.seq_len,
            (config.batch_size, EVAL_BATCH),
            quantizer.rule.is_some(),
        ))?;
        let decoder = Decoder::new(config.model.clone(), quantizer, vocabulary, config.seq_len, config.run.seed)?;
        let held_out = HeldOut { ids: held_out_ids, chars: held_out.chars().count(), begins: None };
        Ok(Self { config, decoder, tokenizer, training, held_out, format, notes })
    }

    /// The run's settings.
    pub fn config(&self) -> &TextConfig {
        &self.config
    }

    /// The decoder.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// Tokens of the training and of the held-out part.
    pub fn tokens(&self) -> (usize, usize) {
        (self.training.len(), self.held_out.ids.len())
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &TextTokenizer {
        &self.tokenizer
    }

    /// What a person should know before it begins.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

impl Task for TextTask {
    fn parameters(&self) -> &Parameters {
        self.decoder.parameters()
    }

    fn loss(&self, step: &Step, _: usize) -> Result<Tensor> {
        let (batch, length) = (self.config.batch_size, self.config.seq_len);
        let mut generator = generator(step.seed, step.index as u64, BATCHES);
        let (ids, targets) = sequences(&self.training, batch, length, &mut generator);
        let logits = self.decoder.forward(&ids, length, step)?;
        Ok(ops::cross_entropy(&logits, targets)?)
    }

    fn evaluate(&self, step: &Step, whole: bool, watch: &mut Watch<'_>) -> Result<Evaluation> {
        let tokens = if whole { usize::MAX } else { QUICK_TOKENS };
        self.held_out.evaluate(&self.decoder, (self.config.seq_len, EVAL_BATCH), tokens, step, watch)
    }

    fn data_digest(&self) -> Option<String> {
        Some(digest(&self.training, &self.held_out.ids))
    }

    fn items_per_step(&self) -> (usize, &'static str) {
        (self.config.batch_size * self.config.seq_len, "tokens")
    }

    fn export(&self, path: &Path, _: &Step) -> Result<()> {
        self.decoder.export(path, self.format, |metadata| self.tokenizer.metadata(metadata), &self.config.about)?;
        if save::is_saved(&self.decoder) {
            save::checkpoint(&path.with_file_name("checkpoint"), &self.decoder, &self.tokenizer)?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests;
