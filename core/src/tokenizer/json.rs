//! A `tokenizer.json` (the `tokenizers` crate's own format): read, checked, and left to the crate to encode with.

use std::sync::OnceLock;

use serde_json::Value;

use super::error::TokenizerError;
use super::spm::SPACE;
use super::stream::Spelling;
use super::vocab::{Kind, MAX_TOKENS};

/// Encodes as the crate does with the file's own pipeline.
pub(super) struct Json {
    /// Finds special tokens in texts.
    special: tokenizers::Tokenizer,
    /// Takes them for plain text. A copy, made when first needed: the crate has this as a setting, not an argument.
    plain: OnceLock<Box<tokenizers::Tokenizer>>,
}

/// What else the file says.
pub(super) struct Parsed {
    pub json: Json,
    pub texts: Vec<String>,
    pub kinds: Vec<Kind>,
    pub spelling: Spelling,
    pub space_prefix: bool,
    /// What the post-processor puts before and after a text.
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub unk: Option<u32>,
}

impl Json {
    pub fn parse(bytes: &[u8]) -> Result<Parsed, TokenizerError> {
        let error = |reason: &dyn std::fmt::Display| TokenizerError::Json { reason: reason.to_string() };
        let mut value: Value = serde_json::from_slice(bytes).map_err(|e| error(&e))?;
        check_merges(&value)?;
        // Dropped merges are for training; a text has one encoding here.
        if let Some(dropout) = value.pointer_mut("/model/dropout") {
            dropout.take();
        }
        let unk = value["model"]["unk_token"].as_str().map(str::to_owned);
        let Decoding { spelling, byte_fallback, space_prefix } = Decoding::of(&value["decoder"])?;
        let mut special: tokenizers::Tokenizer = serde_json::from_value(value).map_err(|e| error(&e))?;
        // Both would change the ids of a long or a short text.
        special.with_padding(None);
        special.with_truncation(None).map_err(|e| error(&e))?;

        let vocab = special.get_vocab(true);
        let tokens = vocab.values().max().map_or(0, |&id| id as usize + 1);
        if tokens == 0 {
            return Err(TokenizerError::EmptyVocabulary);
        }
        if tokens > MAX_TOKENS {
            return Err(TokenizerError::TooManyTokens { found: tokens, limit: MAX_TOKENS });
        }
        let mut texts = vec![String::new(); tokens];
        let mut kinds = vec![Kind::Unused; tokens];
        for (text, id) in vocab {
            let byte = byte_fallback && super::bytes::parse_byte_token(&text).is_some();
            kinds[id as usize] = if byte { Kind::Byte } else { Kind::Normal };
            let other = std::mem::replace(&mut texts[id as usize], text);
            if !other.is_empty() {
                let mut texts = [other, texts[id as usize].clone()];
                texts.sort();
                return Err(TokenizerError::DuplicateId { id, texts });
            }
        }
        for (id, token) in special.get_added_tokens_decoder() {
            if let Some(kind) = kinds.get_mut(id as usize) {
                *kind = if token.special { Kind::Control } else { Kind::UserDefined };
            }
        }
        let json = Json { special, plain: OnceLock::new() };
        let (bos, eos) = json.frame();
        let unk = unk.and_then(|text| json.id(&text));
        Ok(Parsed { json, texts, kinds, spelling, space_prefix, bos, eos, unk })
    }

    pub fn encode(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<u32>, TokenizerError> {
        let tokenizer = if parse_special {
            &self.special
        } else {
            self.plain.get_or_init(|| {
                let mut plain = self.special.clone();
                plain.set_encode_special_tokens(true);
                Box::new(plain)
            })
        };
        let encoding = tokenizer.encode_fast(text, add_special).map_err(TokenizerError::library)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The words of a text, as the normalizer leaves it.
    pub fn words(&self, text: &str) -> Result<Vec<String>, TokenizerError> {
        use tokenizers::{Normalizer, OffsetReferential, OffsetType, PreTokenizer};
        let mut normalized = tokenizers::NormalizedString::from(text);
        if let Some(normalizer) = self.special.get_normalizer() {
            normalizer.normalize(&mut normalized).map_err(TokenizerError::library)?;
        }
        let text = normalized.get();
        let mut cut = tokenizers::PreTokenizedString::from(text);
        if let Some(cutter) = self.special.get_pre_tokenizer() {
            cutter.pre_tokenize(&mut cut).map_err(TokenizerError::library)?;
        }
        // Words may be spelled in another alphabet by now; their places tell what they were.
        let splits = cut.get_splits(OffsetReferential::Original, OffsetType::Byte);
        let words = splits.iter().filter_map(|(_, (start, end), _)| text.get(*start..*end));
        Ok(words.filter(|word| !word.is_empty()).map(str::to_owned).collect())
    }

    pub fn id(&self, text: &str) -> Option<u32> {
        self.special.token_to_id(text)
    }

    /// The first id before and the last after a text, when the post-processor adds any.
    fn frame(&self) -> (Option<u32>, Option<u32>) {
        let encode = |add| self.special.encode_fast("a", add).map(|encoding| encoding.get_ids().to_vec());
        // A vocabulary that cannot encode the letter tells nothing this way.
        let (Ok(bare), Ok(framed)) = (encode(false), encode(true)) else { return (None, None) };
        if bare.is_empty() || framed.len() == bare.len() {
            return (None, None);
        }
        let Some(at) = framed.windows(bare.len()).position(|window| window == bare) else { return (None, None) };
        (framed[..at].first().copied(), framed[at + bare.len()..].last().copied())
    }
}

/// The crate's BPE builder indexes and joins merges without looking; what would make it panic is refused here.
fn check_merges(value: &Value) -> Result<(), TokenizerError> {
    let model = &value["model"];
    let (Some(merges), Some(vocab)) = (model["merges"].as_array(), model["vocab"].as_object()) else { return Ok(()) };
    let prefix = model["continuing_subword_prefix"].as_str().unwrap_or_default();
    for (index, merge) in merges.iter().enumerate() {
        let pair = match merge {
            Value::String(text) => text.split_once(' '),
            Value::Array(pair) => match pair.as_slice() {
                [left, right] => left.as_str().zip(right.as_str()),
                _ => None,
            },
            _ => None,
        };
        let malformed = || TokenizerError::MalformedMerge { index, text: merge.to_string() };
        let (left, right) = pair.filter(|(left, right)| !left.is_empty() && !right.is_empty()).ok_or_else(malformed)?;
        let tail = right.strip_prefix(prefix).ok_or_else(malformed)?;
        for text in [left, right, &[left, tail].concat()] {
            if !vocab.contains_key(text) {
                return Err(TokenizerError::MergeOfUnknownToken {
                    index,
                    merge: merge.to_string(),
                    missing: text.to_owned(),
                });
            }
        }
    }
    Ok(())
}

/// What a decoder does, as far as it can be said of each token alone (and of the space at the start).
struct Decoding {
    spelling: Spelling,
    byte_fallback: bool,
    space_prefix: bool,
}

impl Decoding {
    fn of(decoder: &Value) -> Result<Self, TokenizerError> {
        let mut decoding = Decoding { spelling: Spelling::Plain, byte_fallback: false, space_prefix: false };
        let steps = match decoder["type"].as_str() {
            Some("Sequence") => decoder["decoders"].as_array().map(Vec::as_slice).unwrap_or_default(),
            _ => std::slice::from_ref(decoder),
        };
        for step in steps {
            let unsupported = || TokenizerError::UnsupportedDecoder {
                found: step["type"].as_str().map_or_else(|| "no decoder".to_owned(), |name| format!("`{name}`")),
            };
            match step["type"].as_str() {
                Some("ByteLevel") => decoding.spelling = Spelling::ByteLevel,
                Some("Metaspace") if step["replacement"].as_str().is_none_or(|c| c.chars().eq([SPACE])) => {
                    decoding.spelling = Spelling::SentencePiece;
                    let prefix = step["add_prefix_space"].as_bool().unwrap_or(true);
                    decoding.space_prefix = step["prepend_scheme"].as_str().map_or(prefix, |scheme| scheme != "never");
                }
                Some("Replace")
                    if step["content"] == " "
                        && step["pattern"]["String"].as_str().is_some_and(|c| c.chars().eq([SPACE])) =>
                {
                    decoding.spelling = Spelling::SentencePiece;
                }
                Some("ByteFallback") => decoding.byte_fallback = true,
                Some("Fuse") => {}
                Some("Strip") if step["content"] == " " && step["start"] == 1 && step["stop"] == 0 => {
                    decoding.space_prefix = true;
                }
                _ => return Err(unsupported()),
            }
        }
        Ok(decoding)
    }
}
