//! Tokenizers for training text: characters, byte-level BPE learned from the text itself, and GPT-2's.
//!
//! All three become the same thing, a byte-level BPE vocabulary (`tokenizer.ggml.model` = `gpt2`), and are encoded by the
//! runtime's own [`Tokenizer`]: what training sees is what `sterna` and llama.cpp make of the text later.
//!
//! - Characters: one token a character of the text that it is made from. Single bytes come first, in byte order. A character of
//!   several bytes has merges that build it from its bytes, whose beginnings are tokens too. Bytes that the text lacks have no
//!   token: a text with such a character is refused with an error that names it (llama.cpp drops the byte silently).
//! - BPE: all 256 bytes, then merges learned inside the words of GPT-2's pattern; any text can be encoded.
//! - GPT-2: its 50,257 tokens.
//!
//! The last token is always `<|endoftext|>`, for the beginning and the end of a text. Nothing adds it by itself.
//! This module does not split texts and cuts no batches.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::fs;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use sterna_core::gguf::{Array, Metadata, Value};
use sterna_core::tokenizer::{EncodeOptions, Tokenizer, byte_char};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _, Trainer as _};

use crate::data;

/// The token that ends a text.
pub const END_OF_TEXT: &str = "<|endoftext|>";
/// The vocabulary of `bpe` without a number.
const DEFAULT_BPE: usize = 1024;
/// What `bpe:N` may ask for.
const BPE_SIZES: std::ops::RangeInclusive<usize> = 512..=4096;
/// A pair that occurs less often is not worth a token.
const MIN_FREQUENCY: u64 = 2;
/// The numbers of `tokenizer.ggml.token_type`.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;

/// Which tokenizer; written `chars`, `bpe`, `bpe:2048` or `gpt2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum TokenizerChoice {
    /// One token a character.
    Characters,
    /// Byte-level BPE learned from the training text.
    Bpe {
        /// At most so many tokens, 512 to 4096, the 256 bytes and `<|endoftext|>` among them; a short text gives fewer.
        vocabulary: usize,
    },
    /// GPT-2's own.
    Gpt2,
}

/// A vocabulary that encodes and decodes; as JSON it holds all that is needed to make it again.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "Vocabulary", into = "Vocabulary")]
pub struct TextTokenizer {
    vocabulary: Arc<Vocabulary>,
    encoder: Arc<Tokenizer>,
}

/// What a tokenizer is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Vocabulary {
    choice: TokenizerChoice,
    /// In the byte-level alphabet; the place is the id, the last is [`END_OF_TEXT`].
    tokens: Vec<String>,
    /// Two tokens with a space between, the most urgent first.
    merges: Vec<String>,
}

impl TextTokenizer {
    /// Makes the tokenizer. `training_text` decides the vocabulary of characters and BPE; GPT-2's is read from the data
    /// set `gpt2-tokenizer`, which [`data::locate`] looks for in `data_dir` and the usual places.
    ///
    /// # Errors
    /// An empty text; a vocabulary size out of range; files of GPT-2's that are missing or damaged.
    pub fn build(choice: TokenizerChoice, training_text: &str, data_dir: Option<&Path>) -> Result<Self> {
        if training_text.is_empty() && choice != TokenizerChoice::Gpt2 {
            bail!("the training text is empty: there is nothing to learn from");
        }
        match choice {
            TokenizerChoice::Characters => characters(training_text),
            TokenizerChoice::Bpe { vocabulary } => learn(training_text, vocabulary)?,
            TokenizerChoice::Gpt2 => gpt2(&data::locate("gpt2-tokenizer", data_dir)?)?,
        }
        .try_into()
    }

    /// The ids of `text`, without any token around them; the names of special tokens in it are plain text.
    ///
    /// # Errors
    /// A character that the vocabulary cannot express; only with [`TokenizerChoice::Characters`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let ids = self.encoder.encode(text, EncodeOptions::default());
        ids.with_context(|| match self.choice() {
            TokenizerChoice::Characters => "the tokenizer knows the characters of its training text only".to_owned(),
            other => format!("the tokenizer {other} cannot encode this text"),
        })
    }

    /// The text of `ids`; bytes that are not UTF-8, and ids outside the vocabulary, become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        self.encoder.decode(ids, false)
    }

    /// How many tokens there are; ids are below it.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary.tokens.len()
    }

    /// What it was made as.
    pub fn choice(&self) -> TokenizerChoice {
        self.vocabulary.choice
    }

    /// The id of [`END_OF_TEXT`], the last.
    pub fn end_of_text(&self) -> u32 {
        self.vocabulary.tokens.len().saturating_sub(1) as u32
    }

    /// Sets the keys `tokenizer.ggml.*` of a GGUF, with which the runtime and llama.cpp encode as this does.
    pub fn metadata(&self, metadata: &mut Metadata) {
        self.vocabulary.write(metadata);
    }

    /// The same as a tokenizer.json, for other programs.
    pub fn json(&self) -> serde_json::Value {
        let Vocabulary { tokens, merges, .. } = &*self.vocabulary;
        let vocab: serde_json::Map<_, _> =
            tokens.iter().enumerate().map(|(id, token)| (token.clone(), serde_json::json!(id))).collect();
        let end = serde_json::json!({
            "id": self.end_of_text(), "content": END_OF_TEXT, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        });
        let byte_level = serde_json::json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
        });
        serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [end], "normalizer": null,
            "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                "vocab": vocab, "merges": merges,
            },
        })
    }
}

impl fmt::Debug for TextTokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TextTokenizer")
            .field("choice", &self.choice())
            .field("vocabulary", &self.vocabulary())
            .finish_non_exhaustive()
    }
}

impl PartialEq for TextTokenizer {
    fn eq(&self, other: &Self) -> bool {
        self.vocabulary == other.vocabulary
    }
}

impl fmt::Display for TokenizerChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Characters => f.write_str("chars"),
            Self::Bpe { vocabulary } => write!(f, "bpe:{vocabulary}"),
            Self::Gpt2 => f.write_str("gpt2"),
        }
    }
}

impl FromStr for TokenizerChoice {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let vocabulary = match text {
            "chars" => return Ok(Self::Characters),
            "gpt2" => return Ok(Self::Gpt2),
            "bpe" => DEFAULT_BPE,
            _ => text.strip_prefix("bpe:").and_then(|number| number.parse().ok()).with_context(|| {
                format!("{text:?} is no tokenizer; write chars, bpe, bpe:N (a vocabulary of N tokens) or gpt2")
            })?,
        };
        check_size(vocabulary)?;
        Ok(Self::Bpe { vocabulary })
    }
}

impl TryFrom<String> for TokenizerChoice {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<TokenizerChoice> for String {
    fn from(choice: TokenizerChoice) -> Self {
        choice.to_string()
    }
}

impl TryFrom<Vocabulary> for TextTokenizer {
    type Error = anyhow::Error;

    fn try_from(vocabulary: Vocabulary) -> Result<Self> {
        if vocabulary.tokens.last().is_none_or(|last| last != END_OF_TEXT) {
            bail!("a saved tokenizer must end in the token {END_OF_TEXT}; the file was changed or is damaged");
        }
        let mut metadata = Metadata::new();
        vocabulary.write(&mut metadata);
        let encoder = Tokenizer::from_metadata(&metadata)?;
        Ok(Self { vocabulary: Arc::new(vocabulary), encoder: Arc::new(encoder) })
    }
}

impl From<TextTokenizer> for Vocabulary {
    fn from(tokenizer: TextTokenizer) -> Self {
        Arc::unwrap_or_clone(tokenizer.vocabulary)
    }
}

impl Vocabulary {
    fn write(&self, metadata: &mut Metadata) {
        let end = self.tokens.len().saturating_sub(1);
        let mut types = vec![NORMAL; self.tokens.len()];
        if let Some(last) = types.last_mut() {
            *last = CONTROL;
        }
        let mut set = |key: &str, value: Value| metadata.insert(format!("tokenizer.ggml.{key}"), value);
        set("model", "gpt2".into());
        set("pre", "gpt-2".into());
        set("tokens", Value::Array(Array::String(self.tokens.clone())));
        set("token_type", Value::Array(Array::I32(types)));
        // llama.cpp wants the key also where there are none.
        set("merges", Value::Array(Array::String(self.merges.clone())));
        // Without these llama.cpp takes token 11.
        set("bos_token_id", Value::U32(end as u32));
        set("eos_token_id", Value::U32(end as u32));
        set("add_bos_token", false.into());
        set("add_eos_token", false.into());
        set("add_space_prefix", false.into());
    }
}

/// What to know of characters that only the held-out part of a text has: they are measured, but never trained on.
pub(super) fn unseen(training: &str, held_out: &str) -> Option<String> {
    const NAMED: usize = 5;
    let known: BTreeSet<char> = training.chars().collect();
    let mut unseen: BTreeMap<char, usize> = BTreeMap::new();
    for c in held_out.chars().filter(|c| !known.contains(c)) {
        *unseen.entry(c).or_insert(0) += 1;
    }
    let count = unseen.len();
    let often = match unseen.values().sum::<usize>() {
        1 => "once".to_owned(),
        times => format!("{times} times in all"),
    };
    let named: Vec<_> = unseen.keys().take(NAMED).map(|&c| format!("{c:?} (U+{:04X})", u32::from(c))).collect();
    let rest = if count > NAMED { format!(" and {} more", count - NAMED) } else { String::new() };
    let (characters, they) = match count {
        1 => ("character stands", "it is"),
        _ => ("characters stand", "they are"),
    };
    (count > 0).then(|| {
        format!(
            "{count} {characters} only in the part that is held out, {often}: {}{rest}; {they} in the vocabulary, but the \
             model never trains on what the training part lacks",
            named.join(", ")
        )
    })
}

fn check_size(vocabulary: usize) -> Result<()> {
    if !BPE_SIZES.contains(&vocabulary) {
        let (least, most) = (BPE_SIZES.start(), BPE_SIZES.end());
        bail!("a vocabulary of {vocabulary} tokens cannot be learned; give a number from {least} to {most}");
    }
    Ok(())
}

/// `bytes` in the byte-level alphabet.
fn spell(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| byte_char(byte)).collect()
}

/// One token a character.
fn characters(text: &str) -> Vocabulary {
    let distinct: BTreeSet<char> = text.chars().collect();
    let mut buffer = [0; 4];
    let mut bytes = BTreeSet::new();
    for c in &distinct {
        bytes.extend(c.encode_utf8(&mut buffer).bytes());
    }
    let mut tokens: Vec<String> = bytes.iter().map(|&byte| spell(&[byte])).collect();
    // A merge begins with a first byte, which occurs nowhere else in UTF-8, or with what such a merge made: none can
    // reach across two characters, and their order is of no consequence.
    let mut merges = Vec::new();
    let mut beginnings = BTreeSet::new();
    for c in &distinct {
        let bytes = c.encode_utf8(&mut buffer).as_bytes();
        for len in 2..=bytes.len() {
            if beginnings.insert(bytes[..len].to_vec()) {
                merges.push(format!("{} {}", spell(&bytes[..len - 1]), spell(&bytes[len - 1..len])));
                tokens.push(spell(&bytes[..len]));
            }
        }
    }
    tokens.push(END_OF_TEXT.to_owned());
    Vocabulary { choice: TokenizerChoice::Characters, tokens, merges }
}

/// Byte-level BPE with merges counted in `text`. The same text gives the same vocabulary: equal counts are decided by
/// ids, which follow the alphabet.
fn learn(text: &str, vocabulary: usize) -> Result<Vocabulary> {
    check_size(vocabulary)?;
    let library = |error: tokenizers::Error| anyhow!("the vocabulary cannot be learned: {error}");
    let mut trainer = BpeTrainer::builder()
        .vocab_size(vocabulary - 1)
        .min_frequency(MIN_FREQUENCY)
        .show_progress(false)
        .initial_alphabet((0..=255).map(byte_char).collect())
        .build();
    let words = ByteLevel::new(false, true, true);
    let cut = |text: &str| {
        let mut pieces = PreTokenizedString::from(text);
        words.pre_tokenize(&mut pieces)?;
        let splits = pieces.get_splits(OffsetReferential::Original, OffsetType::None);
        Ok(splits.into_iter().map(|(word, ..)| word.to_owned()).collect())
    };
    trainer.feed(std::iter::once(text), cut).map_err(library)?;
    let mut model = BPE::default();
    trainer.train(&mut model).map_err(library)?;
    let model = serde_json::to_value(&model)?;
    let (mut tokens, merges) = read_model(&model).context("the learned vocabulary")?;
    tokens.push(END_OF_TEXT.to_owned());
    Ok(Vocabulary { choice: TokenizerChoice::Bpe { vocabulary }, tokens, merges })
}

/// GPT-2's vocabulary from whichever of its published forms is in `folder`.
fn gpt2(folder: &Path) -> Result<Vocabulary> {
    let read = |name: &str| {
        let path = folder.join(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let pairs = [("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt")];
    let found = pairs.iter().find(|(vocab, merges)| folder.join(vocab).is_file() && folder.join(merges).is_file());
    let (model, from) = match found {
        Some((vocab, merges)) => {
            let vocab: serde_json::Value =
                serde_json::from_str(&read(vocab)?).with_context(|| format!("{vocab} is not JSON"))?;
            let merges = read(merges)?;
            // The first line says a version. Later lines that begin with '#' are merges.
            let merges =
                merges.strip_prefix("#version").map_or(&*merges, |rest| rest.split_once('\n').unwrap_or_default().1);
            let merges: Vec<&str> = merges.lines().filter(|line| !line.is_empty()).collect();
            (serde_json::json!({ "vocab": vocab, "merges": merges }), folder.to_owned())
        }
        None => {
            let path = folder.join("tokenizer.json");
            let mut file: serde_json::Value = serde_json::from_str(&read("tokenizer.json")?)
                .with_context(|| format!("{} is not JSON", path.display()))?;
            (file.get_mut("model").map(serde_json::Value::take).unwrap_or_default(), path)
        }
    };
    let (tokens, merges) = read_model(&model).with_context(|| format!("GPT-2's vocabulary in {}", from.display()))?;
    if tokens.len() != 50_257 || merges.len() != 50_000 || tokens.last().is_none_or(|last| last != END_OF_TEXT) {
        bail!(
            "{} holds {} tokens and {} merges where GPT-2 has 50257 and 50000; get it again with `sterna data get gpt2-tokenizer`",
            from.display(),
            tokens.len(),
            merges.len()
        );
    }
    Ok(Vocabulary { choice: TokenizerChoice::Gpt2, tokens, merges })
}

/// Tokens by id and merges from the `model` of a `tokenizer.json`, in which a merge is a text or a pair.
fn read_model(model: &serde_json::Value) -> Result<(Vec<String>, Vec<String>)> {
    let vocab = model["vocab"].as_object().context("it has no vocabulary")?;
    let mut by_id: HashMap<u64, &str> = HashMap::with_capacity(vocab.len());
    for (token, id) in vocab {
        by_id.insert(id.as_u64().with_context(|| format!("the id of {token:?} is not a number"))?, token);
    }
    let tokens = (0..vocab.len() as u64)
        .map(|id| by_id.get(&id).map(|token| (*token).to_owned()).with_context(|| format!("no token has the id {id}")));
    let merges = model["merges"].as_array().context("it has no merges")?.iter().map(|merge| match merge {
        serde_json::Value::String(text) => Ok(text.clone()),
        serde_json::Value::Array(pair) => match pair.as_slice() {
            [serde_json::Value::String(left), serde_json::Value::String(right)] => Ok(format!("{left} {right}")),
            _ => bail!("the merge {merge} is not two texts"),
        },
        _ => bail!("the merge {merge} is not two texts"),
    });
    Ok((tokens.collect::<Result<_>>()?, merges.collect::<Result<_>>()?))
}

#[cfg(test)]
mod tests;
