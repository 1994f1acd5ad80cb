//! BPE within words: text to ids by the `tokenizers` crate's BPE model, one word at a time. Words are spelled in the byte-level
//! alphabet, or (few names of `tokenizer.ggml.pre`) as they are, with U+2581 for the space.
//!
//! The crate's own pipeline (normalized strings with alignments, an allocation a word and a stage) is left out: ids are
//! all we want. It would also drop a byte that the vocabulary lacks and merge across the gap; here the word is cut
//! there, as in llama.cpp, and the byte is the unknown token or an error.

use std::collections::HashSet;

use tokenizers::Model as _;
use tokenizers::models::bpe::{BPE, Merges};

use super::bytes::{byte_token, char_of};
use super::error::TokenizerError;
use super::pre::Splitter;
use super::spm::SPACE;
use super::stream::Spelling;
use super::vocab::{Index, Raw, Vocab};

/// A BPE encoder.
pub(super) struct ByteLevel {
    words: Words,
    spelling: Spelling,
    /// A text that does not begin with a space gets one.
    add_space_prefix: bool,
    /// The token of each byte alone: of its character in the byte-level alphabet, else `<0xXX>`.
    bytes: [Option<u32>; 256],
    /// Stands for a byte without a token.
    unk: Option<u32>,
}

enum Words {
    /// No merges: every byte is a token of its own.
    Bytes(Index),
    Merged {
        model: Box<BPE>,
        splitter: Splitter,
        ignore_merges: bool,
    },
}

impl ByteLevel {
    pub fn new(vocab: &mut Vocab, raw: &Raw) -> Result<Self, TokenizerError> {
        let index = vocab.index()?;
        let spelling = vocab.spelling();
        let mut bytes = [None; 256];
        for (byte, slot) in (0..=255u8).zip(&mut bytes) {
            *slot = match spelling {
                Spelling::ByteLevel => index.get(char_of(byte).encode_utf8(&mut [0; 4])),
                Spelling::SentencePiece | Spelling::Plain => index.get(&byte_token(byte)),
            }
            .copied();
        }
        let words = match vocab.pre {
            None => {
                // Longer tokens are there to be merged into; special ones are matched whole.
                let idle = vocab.normal_texts().filter(|text| text.chars().nth(1).is_some()).count();
                if idle > 0 {
                    vocab.warnings.push(format!("no tokenizer.ggml.merges: {idle} longer tokens are never used"));
                }
                Words::Bytes(index)
            }
            Some(pre) => {
                let merges = merges(raw.merges.as_deref().unwrap_or_default(), &index)?;
                let model = BPE::builder()
                    .vocab_and_merges(index, merges)
                    .ignore_merges(pre.ignore_merges())
                    .build()
                    .map_err(TokenizerError::library)?;
                Words::Merged { model: Box::new(model), splitter: pre.compile()?, ignore_merges: pre.ignore_merges() }
            }
        };
        Ok(ByteLevel { words, spelling, add_space_prefix: vocab.add_space_prefix, bytes, unk: vocab.unk })
    }

    pub fn id(&self, text: &str) -> Option<u32> {
        match &self.words {
            Words::Bytes(index) => index.get(text).copied(),
            Words::Merged { model, .. } => model.token_to_id(text),
        }
    }

    /// Appends the ids of a text that holds no special tokens.
    pub fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        if self.add_space_prefix && !text.starts_with(' ') {
            return self.encode_words(&format!(" {text}"), ids);
        }
        self.encode_words(text, ids)
    }

    fn encode_words(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let Words::Merged { model, splitter, ignore_merges } = &self.words else {
            for (at, &byte) in text.as_bytes().iter().enumerate() {
                ids.push(self.bytes[byte as usize].map_or_else(|| self.unknown(text, at), Ok)?);
            }
            return Ok(());
        };
        let mut mapped = String::new();
        let merge = |word: &str, ids: &mut Vec<u32>| {
            let tokens = model.tokenize(word).map_err(TokenizerError::library)?;
            ids.extend(tokens.into_iter().map(|token| token.id));
            Ok::<_, TokenizerError>(())
        };
        splitter.split(text, &mut |word| {
            if self.spelling != Spelling::ByteLevel {
                return self.merge_characters(model, word, &merge, ids);
            }
            mapped.clear();
            mapped.extend(word.bytes().map(char_of));
            let whole = word.bytes().all(|byte| self.bytes[byte as usize].is_some());
            if whole || (*ignore_merges && model.token_to_id(&mapped).is_some()) {
                return merge(&mapped, ids);
            }
            mapped.clear();
            for (at, &byte) in word.as_bytes().iter().enumerate() {
                if self.bytes[byte as usize].is_some() {
                    mapped.push(char_of(byte));
                } else {
                    merge(&mapped, ids)?;
                    mapped.clear();
                    ids.push(self.unknown(word, at)?);
                }
            }
            merge(&mapped, ids)
        })
    }

    /// The ids of a word that is spelled as it is. Characters without a token become those of their bytes.
    fn merge_characters(
        &self,
        model: &BPE,
        word: &str,
        merge: &impl Fn(&str, &mut Vec<u32>) -> Result<(), TokenizerError>,
        ids: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        // Lines are merged whole; a run of line ends may be a token that no merge makes.
        if let Some(id) = model.token_to_id(word).filter(|_| word.starts_with('\n')) {
            ids.push(id);
            return Ok(());
        }
        let mut known = String::new();
        for (at, c) in word.char_indices() {
            let spelled = if c == ' ' && self.spelling == Spelling::SentencePiece { SPACE } else { c };
            if model.token_to_id(spelled.encode_utf8(&mut [0; 4])).is_some() {
                known.push(spelled);
                continue;
            }
            merge(&known, ids)?;
            known.clear();
            let bytes = &word.as_bytes()[at..at + c.len_utf8()];
            match bytes.iter().map(|&byte| self.bytes[byte as usize]).collect::<Option<Vec<u32>>>() {
                Some(bytes) => ids.extend(bytes),
                None => ids.push(self.unknown(word, at)?),
            }
        }
        merge(&known, ids)
    }

    /// The words within which tokens are merged.
    pub fn words<'t>(&self, text: &'t str) -> Vec<&'t str> {
        match &self.words {
            Words::Bytes(_) => vec![text],
            Words::Merged { splitter, .. } => splitter.words(text),
        }
    }

    /// What stands for the byte at `at` in `text`, which has no token.
    fn unknown(&self, text: &str, at: usize) -> Result<u32, TokenizerError> {
        self.unk.ok_or_else(|| {
            let holder = text.char_indices().take_while(|&(start, _)| start <= at).last();
            TokenizerError::Unencodable { character: holder.map(|(_, c)| c.to_string()).unwrap_or_default() }
        })
    }
}

/// The merges in order, checked: `a b` where `a`, `b` and `ab` are tokens. Of equal ones the first counts, as in
/// llama.cpp (the crate would take the last).
pub(super) fn merges(merges: &[String], index: &Index) -> Result<Merges, TokenizerError> {
    let mut seen = HashSet::with_capacity(merges.len());
    let mut pairs = Merges::with_capacity(merges.len());
    let mut joined = String::new();
    for (at, merge) in merges.iter().enumerate() {
        // The first character may itself be a space, so the separator is looked for after it.
        let skip = merge.chars().next().map_or(0, char::len_utf8);
        let (left, right) = match merge[skip..].find(' ') {
            Some(space) if skip + space + 1 < merge.len() => (&merge[..skip + space], &merge[skip + space + 1..]),
            _ => return Err(TokenizerError::MalformedMerge { index: at, text: merge.clone() }),
        };
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        for text in [left, right, joined.as_str()] {
            if !index.contains_key(text) {
                return Err(TokenizerError::MergeOfUnknownToken {
                    index: at,
                    merge: merge.clone(),
                    missing: text.to_owned(),
                });
            }
        }
        if seen.insert((left, right)) {
            pairs.push((left.to_owned(), right.to_owned()));
        }
    }
    Ok(pairs)
}
