//! Ids to text, whole or as they are generated.

use std::sync::Arc;

use super::bytes::{byte_of, parse_byte_token};
use super::spm::SPACE;
use super::vocab::Kind;
use crate::gguf::string_bytes;

/// How the texts of ordinary tokens spell bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// A character of the byte-level alphabet is a byte.
    ByteLevel,
    /// U+2581 is a space.
    SentencePiece,
    /// As they are.
    Plain,
}

/// The bytes of every token.
#[derive(Debug)]
pub(super) struct Pieces {
    bytes: Vec<u8>,
    /// `[n_tokens + 1]`, into `bytes`.
    starts: Vec<u32>,
    /// Tokens that readers do not see.
    hidden: Vec<bool>,
    /// Encoding put a space before the text, decoding takes it away.
    space_prefix: bool,
}

impl Pieces {
    pub fn new(texts: &[String], kinds: &[Kind], spelling: Spelling, space_prefix: bool) -> Self {
        let mut bytes = Vec::with_capacity(texts.iter().map(String::len).sum());
        let mut starts = Vec::with_capacity(texts.len() + 1);
        starts.push(0);
        for (text, &kind) in texts.iter().zip(kinds) {
            match kind {
                Kind::Byte => bytes.extend(parse_byte_token(text)),
                Kind::Normal | Kind::Unused => spell(text, spelling, &mut bytes),
                Kind::Unknown | Kind::Control | Kind::UserDefined => bytes.extend_from_slice(&string_bytes(text)),
            }
            // A vocabulary of 4 GiB does not fit in memory twice; saturated ends read as empty pieces.
            starts.push(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        }
        let hidden = kinds.iter().map(|kind| matches!(kind, Kind::Unknown | Kind::Control)).collect();
        Pieces { bytes, starts, hidden, space_prefix }
    }

    fn piece(&self, id: u32) -> Option<&[u8]> {
        let (start, end) = (*self.starts.get(id as usize)?, *self.starts.get(id as usize + 1)?);
        self.bytes.get(start as usize..end as usize)
    }

    pub fn is_special(&self, id: u32) -> bool {
        self.hidden.get(id as usize).copied().unwrap_or(false)
    }
}

fn spell(text: &str, spelling: Spelling, bytes: &mut Vec<u8>) {
    match spelling {
        Spelling::ByteLevel if text.chars().all(|c| byte_of(c).is_some()) => {
            bytes.extend(text.chars().filter_map(byte_of))
        }
        Spelling::SentencePiece => bytes.extend_from_slice(&string_bytes(&text.replace(SPACE, " "))),
        Spelling::ByteLevel | Spelling::Plain => bytes.extend_from_slice(&string_bytes(text)),
    }
}

/// Turns ids into text one at a time and never splits a character: bytes wait until their character is complete.
///
/// All pieces and [`finish`](Self::finish) put together are what [`Tokenizer::decode`](super::Tokenizer::decode) says
/// of the same ids. Bytes that are not UTF-8 become U+FFFD, and so does an id outside the vocabulary.
#[derive(Debug, Clone)]
pub struct StreamDecoder {
    pieces: Arc<Pieces>,
    pending: Vec<u8>,
    show_special: bool,
    /// The next piece starts a text: its space prefix goes.
    starts: bool,
}

impl StreamDecoder {
    pub(super) fn new(pieces: Arc<Pieces>) -> Self {
        StreamDecoder { pieces, pending: Vec::new(), show_special: false, starts: true }
    }

    /// Shows special tokens as their text instead of hiding them.
    #[must_use]
    pub fn show_special(mut self, show: bool) -> Self {
        self.show_special = show;
        self
    }

    /// Continues a text: `context` are the ids before the first one pushed. After ordinary text the first piece keeps
    /// its leading space ("Once upon" then " a"); after a special token, or nothing, a SentencePiece prefix goes.
    #[must_use]
    pub fn after(mut self, context: &[u32]) -> Self {
        self.starts = context.last().is_none_or(|&id| self.pieces.is_special(id));
        self
    }

    /// The text that is complete with this id: often empty, sometimes several characters.
    pub fn push(&mut self, id: u32) -> String {
        let Some(mut piece) = self.pieces.piece(id) else {
            let mut text = self.finish();
            text.push('\u{FFFD}');
            return text;
        };
        if self.pieces.is_special(id) {
            self.starts = true;
            if !self.show_special {
                return String::new();
            }
        } else if std::mem::take(&mut self.starts) && self.pieces.space_prefix {
            piece = piece.strip_prefix(b" ").unwrap_or(piece);
        }
        self.pending.extend_from_slice(piece);
        self.complete()
    }

    /// What is left: a character that never came to its end is U+FFFD. The decoder may go on afterwards.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        text
    }

    /// Takes everything but an unfinished character at the end.
    fn complete(&mut self) -> String {
        let mut text = String::new();
        let mut rest: &[u8] = &self.pending;
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, bad) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    rest = bad;
                    let Some(len) = error.error_len() else { break };
                    text.push('\u{FFFD}');
                    rest = &bad[len..];
                }
            }
        }
        let done = self.pending.len() - rest.len();
        self.pending.drain(..done);
        text
    }
}
