//! The vocabulary as the file states it, checked: texts, kinds, special ids.
//!
//! Reads the `tokenizer.ggml.*` keys of GGUF. What the keys do not say, the conventions of llama.cpp decide: they are
//! what files are written for.

use std::borrow::Cow;

use super::bytes::parse_byte_token;
use super::error::TokenizerError;
use super::pre::{self, PreTokenizer};
use super::stream::Spelling;
use crate::gguf::Metadata;

/// Ids up to here are accepted; the largest vocabularies in use have about 2^18 tokens.
pub(super) const MAX_TOKENS: usize = 1 << 24;

/// What a token is for. The numbers are those of `tokenizer.ggml.token_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// 1 (and 0): text.
    Normal,
    /// 2: stands for what cannot be encoded.
    Unknown,
    /// 3: steers the model (`<s>`, `<|im_end|>`); never part of what a user reads.
    Control,
    /// 4: text that is always one token.
    UserDefined,
    /// 5: reserved.
    Unused,
    /// 6: one byte, written `<0xXX>`.
    Byte,
}

/// The metadata of a vocabulary, unchecked. Tests build it directly.
#[derive(Default, Clone)]
pub(super) struct Raw<'a> {
    pub model: Cow<'a, str>,
    pub pre: Option<Cow<'a, str>>,
    /// `general.name`: decides whether special tokens swallow the whitespace after them.
    pub name: Option<Cow<'a, str>>,
    pub tokens: Cow<'a, [String]>,
    pub scores: Option<Cow<'a, [f32]>>,
    pub types: Option<Cow<'a, [i32]>>,
    pub merges: Option<Cow<'a, [String]>>,
    pub bos: Option<u64>,
    pub eos: Option<u64>,
    pub eot: Option<u64>,
    pub eom: Option<u64>,
    pub unk: Option<u64>,
    pub pad: Option<u64>,
    pub add_bos: Option<bool>,
    pub add_eos: Option<bool>,
    pub add_space_prefix: Option<bool>,
    pub remove_extra_whitespaces: Option<bool>,
    /// Our own key: texts are brought into NFC.
    pub nfc: Option<bool>,
    /// Rows of the model's embedding, where it is known: tokens from there on have none.
    pub rows: Option<usize>,
}

/// Says that texts are brought into NFC before they are cut. llama.cpp has no such key, and ignores it.
pub(super) const NFC_KEY: &str = "tokenizer.ggml.normalizer.nfc";

impl<'a> Raw<'a> {
    pub fn read(meta: &'a Metadata) -> Result<Self, TokenizerError> {
        let model = present(meta, "tokenizer.ggml.model", "a string", Metadata::str)?
            .ok_or(TokenizerError::MissingKey { key: "tokenizer.ggml.model" })?;
        let tokens = present(meta, "tokenizer.ggml.tokens", "an array of strings", Metadata::strings)?
            .ok_or(TokenizerError::MissingKey { key: "tokenizer.ggml.tokens" })?;
        let strings = |key| present(meta, key, "an array of strings", Metadata::strings);
        let flag = |key| present(meta, key, "a bool", Metadata::bool);
        let id = |key| present(meta, key, "a token id", special_id).map(Option::flatten);
        Ok(Raw {
            model: model.into(),
            pre: present(meta, "tokenizer.ggml.pre", "a string", Metadata::str)?.map(Cow::from),
            name: meta.str("general.name").map(Cow::from),
            tokens: tokens.into(),
            scores: present(meta, "tokenizer.ggml.scores", "an array of numbers", scores)?,
            types: present(meta, "tokenizer.ggml.token_type", "an array of integers", types)?,
            merges: strings("tokenizer.ggml.merges")?.map(Cow::from),
            bos: id("tokenizer.ggml.bos_token_id")?,
            eos: id("tokenizer.ggml.eos_token_id")?,
            eot: id("tokenizer.ggml.eot_token_id")?,
            eom: id("tokenizer.ggml.eom_token_id")?,
            unk: id("tokenizer.ggml.unknown_token_id")?,
            pad: id("tokenizer.ggml.padding_token_id")?,
            add_bos: flag("tokenizer.ggml.add_bos_token")?,
            add_eos: flag("tokenizer.ggml.add_eos_token")?,
            add_space_prefix: flag("tokenizer.ggml.add_space_prefix")?,
            remove_extra_whitespaces: flag("tokenizer.ggml.remove_extra_whitespaces")?,
            nfc: flag(NFC_KEY)?,
            rows: None,
        })
    }
}

/// The value of a key, `None` when the key is absent, an error when it is there with another type.
fn present<'a, T>(
    meta: &'a Metadata,
    key: &'static str,
    expected: &'static str,
    read: impl Fn(&'a Metadata, &str) -> Option<T>,
) -> Result<Option<T>, TokenizerError> {
    match read(meta, key) {
        Some(value) => Ok(Some(value)),
        None if meta.get(key).is_some() => Err(TokenizerError::WrongType { key, expected }),
        None => Ok(None),
    }
}

/// An id; the inner `None` is how files say that there is no such token: -1, also as the u32 it becomes.
fn special_id(meta: &Metadata, key: &str) -> Option<Option<u64>> {
    match meta.u64(key) {
        Some(id) => Some((id != u64::from(u32::MAX)).then_some(id)),
        None => meta.i32(key).filter(|&id| id == -1).map(|_| None),
    }
}

/// Scores are floats; a few converters write integers.
fn scores<'a>(meta: &'a Metadata, key: &str) -> Option<Cow<'a, [f32]>> {
    match meta.f32s(key) {
        Some(scores) => Some(Cow::Borrowed(scores)),
        None => Some(meta.i32s(key)?.iter().map(|&score| score as f32).collect::<Vec<_>>().into()),
    }
}

fn types<'a>(meta: &'a Metadata, key: &str) -> Option<Cow<'a, [i32]>> {
    meta.i32s(key)
}

/// How a text without special tokens becomes ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Model {
    /// `gpt2`: byte-level BPE inside the words of a pre-tokenizer.
    ByteLevel,
    /// `llama`: SentencePiece BPE by score.
    SentencePiece,
}

/// A checked vocabulary: ids are indices, texts are unique (empty ones apart, which no lookup finds).
pub(super) struct Vocab {
    pub model: Model,
    pub texts: Vec<String>,
    pub kinds: Vec<Kind>,
    /// One a token.
    pub scores: Vec<f32>,
    /// How words are cut, where it matters.
    pub pre: Option<PreTokenizer>,
    /// Texts are brought into NFC before they are cut.
    pub nfc: bool,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub unk: Option<u32>,
    pub pad: Option<u32>,
    /// Ids that end a generation, ascending.
    pub end_of_generation: Vec<u32>,
    pub add_bos: bool,
    pub add_eos: bool,
    pub add_space_prefix: bool,
    pub remove_extra_whitespaces: bool,
    /// Tokens after which whitespace is not encoded, ascending.
    pub strip_right: Vec<u32>,
    pub warnings: Vec<String>,
}

/// Texts that end a turn or a document wherever they are special tokens.
const END_TEXTS: &[&str] = &[
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<|return|>",
    "<|call|>",
    "<|calls|>",
    "<|flush|>",
    "<end_of_utterance>",
    "<turn|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<eos>",
    "</s>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "[PAD]",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
];

impl Vocab {
    pub fn check(raw: &Raw) -> Result<Self, TokenizerError> {
        let model = match raw.model.as_ref() {
            "gpt2" => Model::ByteLevel,
            "llama" => Model::SentencePiece,
            name => return Err(TokenizerError::UnsupportedModel { name: name.to_owned() }),
        };
        let texts = raw.tokens.to_vec();
        if texts.is_empty() {
            return Err(TokenizerError::EmptyVocabulary);
        }
        if texts.len() > MAX_TOKENS {
            return Err(TokenizerError::TooManyTokens { found: texts.len(), limit: MAX_TOKENS });
        }
        let mut warnings = Vec::new();
        let mut kinds = kinds(raw, &texts, &mut warnings)?;
        let scores = scores_of(raw, model, texts.len(), &mut warnings)?;
        let rows = raw.rows.unwrap_or(texts.len()).min(texts.len());
        if rows < texts.len() {
            kinds[rows..].fill(Kind::Unused);
            warnings.push(format!(
                "the vocabulary has {} tokens and the embedding {rows} rows: the tokens from {:?} on are never used",
                texts.len(),
                texts[rows]
            ));
        }

        // A wrong id is no reason to refuse a model: llama.cpp goes by the usual one as well.
        let mut id = |key: &str, found: Option<u64>, usual: Option<u32>| {
            let usual = usual.filter(|&id| (id as usize) < rows);
            match found {
                Some(id) if id >= rows as u64 => {
                    let instead = usual.map_or_else(|| "there is none".to_owned(), |id| format!("it is {id}"));
                    let last = rows - 1;
                    warnings
                        .push(format!("`{key}` is {id}, but the last token is {last}: read as not given, {instead}"));
                    usual
                }
                found => found.map(|id| id as u32).or(usual),
            }
        };
        // Files of the llama model leave these out when they are SentencePiece's own.
        let own = |id| (model == Model::SentencePiece).then_some(id);
        let bos = id("tokenizer.ggml.bos_token_id", raw.bos, own(1));
        let eos = id("tokenizer.ggml.eos_token_id", raw.eos, own(2));
        let unk = id("tokenizer.ggml.unknown_token_id", raw.unk, own(0));
        let eot = id("tokenizer.ggml.eot_token_id", raw.eot, None);
        let eom = id("tokenizer.ggml.eom_token_id", raw.eom, None);
        let pad = id("tokenizer.ggml.padding_token_id", raw.pad, None);
        let ends = [eos, eot, eom];
        if raw.types.is_none() {
            // Without kinds the ids are all there is to tell special tokens by.
            for id in [raw.bos, raw.eos, raw.eot, raw.eom].into_iter().flatten().filter(|&id| id < rows as u64) {
                kinds[id as usize] = Kind::Control;
            }
        }
        fill_tokens(&texts, &mut kinds);
        let end_of_generation = end_of_generation(&texts, &mut kinds, &ends);

        let merges = raw.merges.as_ref().is_some_and(|merges| !merges.is_empty());
        let named = raw.pre.as_deref().and_then(PreTokenizer::named);
        // Without merges every byte is a token of its own, and how the text is cut makes no difference.
        let pre = match model {
            Model::SentencePiece => None,
            Model::ByteLevel if merges => Some(named.unwrap_or_else(|| default_pre(raw, &mut warnings))),
            Model::ByteLevel => named.filter(|pre| pre.ignore_merges()),
        };
        let sentence_piece = model == Model::SentencePiece;
        let mut add_bos = raw.add_bos.unwrap_or(sentence_piece || named.is_some_and(PreTokenizer::add_bos));
        let mut add_eos = raw.add_eos.unwrap_or(false);
        for (add, token, name) in [(&mut add_bos, bos, "bos"), (&mut add_eos, eos, "eos")] {
            if *add && token.is_none() {
                warnings.push(format!("the file asks for a {name} token but names none: texts go without"));
                *add = false;
            }
        }
        let strip_right = strip_right(raw, &texts, &kinds);
        Ok(Vocab {
            model,
            texts,
            kinds,
            scores,
            pre,
            bos,
            eos,
            unk,
            pad,
            end_of_generation,
            add_bos,
            add_eos,
            nfc: raw.nfc.unwrap_or(!sentence_piece && named.is_some_and(PreTokenizer::nfc)),
            add_space_prefix: raw.add_space_prefix.unwrap_or(sentence_piece),
            remove_extra_whitespaces: raw.remove_extra_whitespaces.unwrap_or(false),
            strip_right,
            warnings,
        })
    }
}

/// Text to id. The map is the `tokenizers` crate's, so that its BPE model can take it as it is.
pub(super) type Index = tokenizers::models::bpe::Vocab;

impl Vocab {
    /// The id of each text that is not empty.
    pub fn index(&self) -> Result<Index, TokenizerError> {
        let mut index = Index::default();
        index.reserve(self.texts.len());
        for (id, text) in (0u32..).zip(&self.texts).filter(|(_, text)| !text.is_empty()) {
            if let Some(first) = index.insert(text.clone(), id) {
                return Err(TokenizerError::DuplicateToken { text: text.clone(), first, second: id });
            }
        }
        Ok(index)
    }

    /// How ordinary tokens spell what they stand for.
    pub fn spelling(&self) -> Spelling {
        match self.model {
            Model::ByteLevel => self.pre.map_or(Spelling::ByteLevel, PreTokenizer::spelling),
            Model::SentencePiece => Spelling::SentencePiece,
        }
    }

    /// The texts of ordinary tokens.
    pub fn normal_texts(&self) -> impl Iterator<Item = &str> {
        self.texts.iter().zip(&self.kinds).filter(|(_, kind)| **kind == Kind::Normal).map(|(text, _)| text.as_str())
    }
}

fn kinds(raw: &Raw, texts: &[String], warnings: &mut Vec<String>) -> Result<Vec<Kind>, TokenizerError> {
    let Some(types) = &raw.types else { return Ok(vec![Kind::Normal; texts.len()]) };
    if types.len() < texts.len() {
        return Err(TokenizerError::LengthMismatch {
            key: "tokenizer.ggml.token_type",
            found: types.len(),
            tokens: texts.len(),
        });
    }
    longer("tokenizer.ggml.token_type", types.len(), texts.len(), warnings);
    let mut strange = None;
    let mut kinds = Vec::with_capacity(types.len());
    for (id, (&number, text)) in types.iter().zip(texts).enumerate() {
        kinds.push(match number {
            0 | 1 => Kind::Normal,
            2 => Kind::Unknown,
            3 => Kind::Control,
            4 => Kind::UserDefined,
            5 => Kind::Unused,
            6 if parse_byte_token(text).is_some() => Kind::Byte,
            6 => return Err(TokenizerError::MalformedByteToken { id: id as u32, text: text.clone() }),
            _ => {
                strange.get_or_insert((id, number));
                Kind::Normal
            }
        });
    }
    if let Some((id, number)) = strange {
        warnings.push(format!("tokenizer.ggml.token_type[{id}] is {number}, which has no meaning: read as plain text"));
    }
    Ok(kinds)
}

fn scores_of(raw: &Raw, model: Model, tokens: usize, warnings: &mut Vec<String>) -> Result<Vec<f32>, TokenizerError> {
    let Some(scores) = &raw.scores else {
        if model == Model::SentencePiece {
            warnings.push("no tokenizer.ggml.scores: texts are merged from left to right, not by score".to_owned());
        }
        return Ok(vec![0.0; tokens]);
    };
    if scores.len() < tokens {
        return Err(TokenizerError::LengthMismatch { key: "tokenizer.ggml.scores", found: scores.len(), tokens });
    }
    longer("tokenizer.ggml.scores", scores.len(), tokens, warnings);
    let scores = &scores[..tokens];
    match scores.iter().position(|score| score.is_nan()) {
        Some(id) => Err(TokenizerError::NanScore { id: id as u32 }),
        // Adding zero makes -0.0 equal to 0.0 in a total order.
        None => Ok(scores.iter().map(|score| score + 0.0).collect()),
    }
}

/// Says that an array beside the tokens goes on after the last of them; llama.cpp reads such files.
fn longer(key: &str, found: usize, tokens: usize, warnings: &mut Vec<String>) {
    if found > tokens {
        warnings
            .push(format!("`{key}` has {found} entries for {tokens} tokens: the last {} are not read", found - tokens));
    }
}

fn default_pre(raw: &Raw, warnings: &mut Vec<String>) -> PreTokenizer {
    let problem = match raw.pre.as_deref() {
        Some(name) => format!("tokenizer.ggml.pre is `{name}`, which is not known"),
        None => "the file has no tokenizer.ggml.pre".to_owned(),
    };
    let known = pre::names().collect::<Vec<_>>().join(", ");
    warnings.push(format!(
        "{problem}: texts are cut into words as `default` does, which may cost quality (known: {known})"
    ));
    PreTokenizer::DEFAULT
}

/// Texts around the gap that a model is to fill, wherever they are special tokens.
const FILL_TEXTS: &[&str] = &[
    "<|fim_prefix|>",
    "<fim-prefix>",
    "<fim_prefix>",
    "<｜fim▁begin｜>",
    "<PRE>",
    "▁<PRE>",
    "<|code_prefix|>",
    "<|prefix|>",
    "<|fim_suffix|>",
    "<fim-suffix>",
    "<fim_suffix>",
    "<｜fim▁hole｜>",
    "<SUF>",
    "▁<SUF>",
    "<|code_suffix|>",
    "<|suffix|>",
    "<|fim_middle|>",
    "<fim-middle>",
    "<fim_middle>",
    "<｜fim▁end｜>",
    "<MID>",
    "▁<MID>",
    "<|code_middle|>",
    "<|middle|>",
];

/// Makes control tokens of the user-defined ones that are known to steer a model by their text, as llama.cpp does: in plain text
/// they are text.
pub(super) fn fill_tokens(texts: &[String], kinds: &mut [Kind]) {
    for (text, kind) in texts.iter().zip(kinds).filter(|(_, kind)| **kind == Kind::UserDefined) {
        if FILL_TEXTS.contains(&text.as_str()) {
            *kind = Kind::Control;
        }
    }
}

/// The ids that the metadata names, and the special tokens known by their text. Converters often leave the latter
/// user-defined; they become control tokens, so that they are hidden from readers like the rest.
pub(super) fn end_of_generation(texts: &[String], kinds: &mut [Kind], named: &[Option<u32>]) -> Vec<u32> {
    let mut ends: Vec<u32> = named.iter().copied().flatten().collect();
    for (id, text) in texts.iter().enumerate() {
        let special = matches!(kinds[id], Kind::Control | Kind::UserDefined);
        if special && END_TEXTS.contains(&text.as_str()) {
            kinds[id] = Kind::Control;
            ends.push(id as u32);
        }
    }
    let has = |text: &str| ends.iter().any(|&id| texts[id as usize] == text);
    // Where a message ends in <|return|> or <|call|> (or <|flush|>, <|calls|>), <|end|> only ends one part of it.
    let parts = (has("<|return|>") && has("<|call|>")) || (has("<|flush|>") && has("<|calls|>"));
    ends.retain(|&id| !(parts && texts[id as usize] == "<|end|>" && !named.contains(&Some(id))));
    ends.sort_unstable();
    ends.dedup();
    ends
}

/// Phi-3 was trained with special tokens that swallow the whitespace after them, and GGUF has no key that says so:
/// llama.cpp goes by the model's name, and so do we.
fn strip_right(raw: &Raw, texts: &[String], kinds: &[Kind]) -> Vec<u32> {
    let name = raw.name.as_deref().unwrap_or_default().to_lowercase();
    if !name.contains("phi-3") && !name.contains("phi3") {
        return Vec::new();
    }
    let keeps = |text: &str| matches!(text, "<unk>" | "<s>" | "<|endoftext|>");
    let special = |kind| matches!(kind, Kind::Control | Kind::UserDefined | Kind::Unknown);
    let strips = texts.iter().zip(kinds).map(|(text, &kind)| !keeps(text) && (special(kind) || text == "</s>"));
    (0u32..).zip(strips).filter_map(|(id, strips)| strips.then_some(id)).collect()
}
