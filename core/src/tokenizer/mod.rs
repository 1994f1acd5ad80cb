//! Text to token ids and back, with the vocabulary that a GGUF file carries, or a `tokenizer.json` (feature
//! `tokenizer-json`).
//!
//! Byte-level BPE (`tokenizer.ggml.model` = `gpt2`) and SentencePiece BPE (`llama`), as llama.cpp reads them; other
//! kinds are refused by name. The vocabulary is untrusted: every malformation is a [`TokenizerError`], what can be lived
//! with is in [`Tokenizer::warnings`]. This module does not run models and knows no chat templates (see
//! [`generate::chat`](crate::generate::chat)). Of Unicode's normal forms it knows NFC: the tokenizers of Qwen 2 and 3 bring
//! texts into it, as `transformers` does and llama.cpp does not.

mod bpe;
mod bytes;
mod error;
#[cfg(feature = "tokenizer-json")]
mod json;
mod pre;
mod special;
mod spm;
mod stream;
mod vocab;

use std::borrow::Cow;
use std::sync::Arc;

pub use bytes::char_of as byte_char;
pub use error::TokenizerError;
pub use pre::{PreTokenizer, Splitter};
pub use stream::StreamDecoder;

use unicode_normalization_alignments::{UnicodeNormalization, is_nfc};

use crate::gguf::Metadata;
use bpe::ByteLevel;
#[cfg(feature = "tokenizer-json")]
use json::{Json, Parsed};
use special::{Part, Specials};
use spm::SentencePiece;
use stream::Pieces;
#[cfg(feature = "tokenizer-json")]
use stream::Spelling;
use vocab::{Model, Raw, Vocab};

/// The metadata key, a bool, by which a file says whether texts are brought into Unicode's NFC before they are cut into words.
/// It is ours: llama.cpp does not know it. Where it is absent, `tokenizer.ggml.pre` decides (see [`PreTokenizer::nfc`]).
pub const NFC_KEY: &str = vocab::NFC_KEY;

/// What [`Tokenizer::encode`] does about special tokens. The default is plain text: neither added nor recognized.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Adds the tokens that the model expects around a text (bos, eos), where the file asks for them. One that is written there
    /// already, and read as a token because of [`parse_special`](Self::parse_special), is not added a second time.
    pub add_special: bool,
    /// Control tokens written in the text (`<|im_end|>`) become those tokens. For prompts and templates; never for texts that may
    /// hold anything. User-defined tokens, which are ordinary text that is always one token, are found either way.
    pub parse_special: bool,
}

/// A vocabulary that encodes and decodes. Immutable; share it freely.
pub struct Tokenizer {
    engine: Engine,
    vocab: Vocab,
    pieces: Arc<Pieces>,
}

enum Engine {
    ByteLevel(ByteLevel, Specials),
    SentencePiece(SentencePiece, Specials),
    #[cfg(feature = "tokenizer-json")]
    Json(Box<Json>),
}

impl Tokenizer {
    /// Builds the tokenizer of a GGUF file from its `tokenizer.ggml.*` keys.
    ///
    /// # Errors
    ///
    /// One [`TokenizerError`] variant for each way the vocabulary can be malformed, or of an unsupported kind.
    pub fn from_metadata(metadata: &Metadata) -> Result<Self, TokenizerError> {
        Self::from_raw(&Raw::read(metadata)?)
    }

    /// As [`from_metadata`](Self::from_metadata), for a model whose embedding has `rows` rows: tokens from there on are padding,
    /// which no text becomes. A warning names the first.
    ///
    /// # Errors
    ///
    /// As [`from_metadata`](Self::from_metadata); [`TokenizerError::EmptyVocabulary`] where there are no rows.
    pub fn for_rows(metadata: &Metadata, rows: usize) -> Result<Self, TokenizerError> {
        if rows == 0 {
            return Err(TokenizerError::EmptyVocabulary);
        }
        Self::from_raw(&Raw { rows: Some(rows), ..Raw::read(metadata)? })
    }

    /// Builds a tokenizer from the bytes of a `tokenizer.json`. That format does not say which token ends a text: see
    /// [`with_bos_eos`](Self::with_bos_eos).
    ///
    /// # Errors
    ///
    /// [`TokenizerError::Json`] when it does not parse, variants about merges and ids when it contradicts itself, and
    /// [`TokenizerError::UnsupportedDecoder`].
    #[cfg(feature = "tokenizer-json")]
    pub fn from_json(bytes: &[u8]) -> Result<Self, TokenizerError> {
        let Parsed { json, texts, mut kinds, spelling, space_prefix, bos, eos, unk } = Json::parse(bytes)?;
        let usual = ["</s>", "<|end_of_text|>", "<|endoftext|>", "<eos>"];
        let eos = eos.or_else(|| usual.iter().find_map(|text| json.id(text)));
        vocab::fill_tokens(&texts, &mut kinds);
        let end_of_generation = vocab::end_of_generation(&texts, &mut kinds, &[eos]);
        let pieces = Arc::new(Pieces::new(&texts, &kinds, spelling, space_prefix));
        let vocab = Vocab {
            model: if spelling == Spelling::SentencePiece { Model::SentencePiece } else { Model::ByteLevel },
            scores: Vec::new(),
            pre: None,
            nfc: false,
            bos,
            eos,
            unk,
            pad: None,
            end_of_generation,
            add_bos: bos.is_some(),
            add_eos: false,
            add_space_prefix: space_prefix,
            remove_extra_whitespaces: false,
            strip_right: Vec::new(),
            warnings: Vec::new(),
            texts,
            kinds,
        };
        Ok(Tokenizer { engine: Engine::Json(Box::new(json)), vocab, pieces })
    }

    /// Says which tokens begin and end a text (`bos_token` and `eos_token` of a `tokenizer_config.json`); `None` leaves
    /// what was known. What [`encode`](Self::encode) adds around a text does not change.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::IdOutOfRange`].
    pub fn with_bos_eos(mut self, bos: Option<u32>, eos: Option<u32>) -> Result<Self, TokenizerError> {
        let last = self.vocab.texts.len() as u32 - 1;
        for (key, id) in [("bos", bos), ("eos", eos)] {
            if let Some(id) = id.filter(|&id| id > last) {
                return Err(TokenizerError::IdOutOfRange { key, id: id.into(), last });
            }
        }
        self.vocab.bos = bos.or(self.vocab.bos);
        self.vocab.eos = eos.or(self.vocab.eos);
        if let Some(eos) = eos
            && let Err(at) = self.vocab.end_of_generation.binary_search(&eos)
        {
            self.vocab.end_of_generation.insert(at, eos);
        }
        Ok(self)
    }

    fn from_raw(raw: &Raw) -> Result<Self, TokenizerError> {
        let mut vocab = Vocab::check(raw)?;
        let engine = match vocab.model {
            Model::ByteLevel => {
                let encoder = ByteLevel::new(&mut vocab, raw)?;
                Engine::ByteLevel(encoder, Specials::new(&vocab)?)
            }
            Model::SentencePiece => {
                let encoder = SentencePiece::new(&mut vocab)?;
                Engine::SentencePiece(encoder, Specials::new(&vocab)?)
            }
        };
        let pieces = Arc::new(Pieces::new(&vocab.texts, &vocab.kinds, vocab.spelling(), vocab.add_space_prefix));
        Ok(Tokenizer { engine, vocab, pieces })
    }

    /// The ids of a text.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::Unencodable`] when the vocabulary is too small for a character of the text.
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, TokenizerError> {
        let EncodeOptions { add_special, parse_special } = options;
        let bos = self.vocab.bos.filter(|_| add_special && self.vocab.add_bos);
        let eos = self.vocab.eos.filter(|_| add_special && self.vocab.add_eos);
        let specials = match &self.engine {
            #[cfg(feature = "tokenizer-json")]
            Engine::Json(json) => {
                let mut ids = json.encode(text, add_special, parse_special)?;
                if bos.is_some_and(|bos| ids.starts_with(&[bos, bos])) {
                    ids.remove(0);
                }
                return Ok(ids);
            }
            Engine::ByteLevel(_, specials) | Engine::SentencePiece(_, specials) => specials,
        };
        let mut ids = Vec::with_capacity(text.len() / 3 + 2);
        let parts = specials.split(text, parse_special);
        // What is written there already is not added again.
        ids.extend(bos.filter(|&bos| parts.first() != Some(&Part::Token(bos))));
        let mut starts = true;
        for &part in &parts {
            match (part, &self.engine) {
                (Part::Token(id), _) => ids.push(id),
                (Part::Text(text), Engine::ByteLevel(encoder, _)) => {
                    encoder.encode(&self.normalized(text), &mut ids)?
                }
                (Part::Text(text), Engine::SentencePiece(encoder, _)) => {
                    encoder.encode(&self.normalized(text), starts, &mut ids)?;
                }
                #[cfg(feature = "tokenizer-json")]
                (Part::Text(_), Engine::Json(_)) => {}
            }
            starts = matches!(part, Part::Token(_));
        }
        ids.extend(eos.filter(|&eos| parts.last() != Some(&Part::Token(eos))));
        Ok(ids)
    }

    /// A text without special tokens as it is cut: in NFC, where the vocabulary was made for that.
    fn normalized<'t>(&self, text: &'t str) -> Cow<'t, str> {
        if !self.vocab.nfc || text.is_ascii() || is_nfc(text) {
            return Cow::Borrowed(text);
        }
        text.nfc().map(|(c, _)| c).collect()
    }

    /// The words of a text that holds no special tokens: no token reaches from one into the next. They are those of the text in
    /// the normal form that the vocabulary was made for.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::Library`] when the pre-tokenizer of a `tokenizer.json` gives up on the text.
    pub fn words(&self, text: &str) -> Result<Vec<String>, TokenizerError> {
        match &self.engine {
            Engine::ByteLevel(encoder, _) => {
                Ok(encoder.words(&self.normalized(text)).into_iter().map(str::to_owned).collect())
            }
            Engine::SentencePiece(..) => Ok(vec![self.normalized(text).into_owned()]),
            #[cfg(feature = "tokenizer-json")]
            Engine::Json(json) => json.words(text),
        }
    }

    /// The text of ids. With `skip_special`, control and unknown tokens leave no trace. Bytes that are not UTF-8, and
    /// ids outside the vocabulary, become U+FFFD.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let mut stream = self.stream().show_special(!skip_special);
        let mut text: String = ids.iter().map(|&id| stream.push(id)).collect();
        text.push_str(&stream.finish());
        text
    }

    /// A decoder for ids that come one at a time, at the start of a text; special tokens are hidden.
    pub fn stream(&self) -> StreamDecoder {
        StreamDecoder::new(self.pieces.clone())
    }

    /// The number of tokens; ids are below it.
    pub fn vocab_size(&self) -> usize {
        self.vocab.texts.len()
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.vocab.bos
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.vocab.eos
    }

    /// The token for what cannot be encoded.
    pub fn unk(&self) -> Option<u32> {
        self.vocab.unk
    }

    /// The token that fills batches.
    pub fn pad(&self) -> Option<u32> {
        self.vocab.pad
    }

    /// Whether [`EncodeOptions::add_special`] puts [`bos`](Self::bos) first. A chat template often writes it too: encode
    /// what a template renders with `parse_special` alone.
    pub fn adds_bos(&self) -> bool {
        self.vocab.add_bos
    }

    /// Whether a model that produces this id has said all it had to say.
    pub fn is_end_of_generation(&self, id: u32) -> bool {
        self.vocab.end_of_generation.binary_search(&id).is_ok()
    }

    /// The ids for which [`is_end_of_generation`](Self::is_end_of_generation) holds, ascending.
    pub fn end_of_generation(&self) -> &[u32] {
        &self.vocab.end_of_generation
    }

    /// The id of a token, by its text as the vocabulary spells it.
    pub fn id(&self, text: &str) -> Option<u32> {
        match &self.engine {
            Engine::ByteLevel(encoder, _) => encoder.id(text),
            Engine::SentencePiece(encoder, _) => encoder.id(text),
            #[cfg(feature = "tokenizer-json")]
            Engine::Json(json) => json.id(text),
        }
    }

    /// A token as the vocabulary spells it (`Ġthe`, `▁the`, `<0x0A>`); to read it, [`decode`](Self::decode) it.
    pub fn text(&self, id: u32) -> Option<&str> {
        self.vocab.texts.get(id as usize).map(String::as_str)
    }

    /// Whether the token is a control or unknown token, which readers do not see.
    pub fn is_special(&self, id: u32) -> bool {
        self.pieces.is_special(id)
    }

    /// What is odd about the vocabulary but can be lived with; each a sentence for the user.
    pub fn warnings(&self) -> &[String] {
        &self.vocab.warnings
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("model", &self.vocab.model).field("tokens", &self.vocab_size()).finish()
    }
}

#[cfg(all(test, feature = "tokenizer-json"))]
mod tests;
