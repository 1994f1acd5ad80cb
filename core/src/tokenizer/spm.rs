//! SentencePiece BPE: text to ids by joining, again and again, the two neighbours that make the best-scored token.
//!
//! Our own loop and not the `tokenizers` crate's: its BPE takes a list of merges with a rank each, and scores cannot be
//! written as one. Two tokens may share a score (the leftmost place then goes first, whichever token it is), and a
//! character that is no token itself may still be part of one, which the crate would have turned into bytes before.

use std::collections::BinaryHeap;

use super::bytes::byte_token;
use super::error::TokenizerError;
use super::vocab::{Index, Vocab};

/// U+2581, which stands for the space.
pub(super) const SPACE: char = '\u{2581}';

/// A SentencePiece encoder.
pub(super) struct SentencePiece {
    index: Index,
    /// One a token; NaN is refused before.
    scores: Vec<f32>,
    /// The byte token of each byte, else the token that is that byte's character.
    bytes: [Option<u32>; 256],
    /// Stands for a character whose bytes have no tokens.
    unk: Option<u32>,
    /// Length of the longest token in bytes: nothing longer is looked up.
    longest: usize,
    /// A space is only ever at the start of a token, so that no join crosses the end of a word.
    spaces_lead: bool,
    add_space_prefix: bool,
    remove_extra_whitespaces: bool,
}

/// A run of the text: a character at first, then what it was joined into. Length 0: it was joined to its left.
struct Symbol {
    start: usize,
    len: usize,
    prev: usize,
    next: usize,
}

/// No symbol.
const END: usize = usize::MAX;

/// Two neighbours that could be joined; stale once their lengths no longer add up to `len`.
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    len: usize,
}

/// The loop's memory, kept from word to word. The queue is empty between words.
#[derive(Default)]
struct Work {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Pair>,
}

impl Ord for Pair {
    /// The best score first, of equal ones the leftmost.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Pair {}

impl SentencePiece {
    pub fn new(vocab: &mut Vocab) -> Result<Self, TokenizerError> {
        let index = vocab.index()?;
        let mut bytes = [None; 256];
        for (byte, slot) in (0..=255u8).zip(&mut bytes) {
            let alone = || byte.is_ascii().then(|| index.get(char::from(byte).encode_utf8(&mut [0; 4])))?;
            *slot = index.get(&byte_token(byte)).or_else(alone).copied();
        }
        Ok(SentencePiece {
            spaces_lead: index.keys().all(|text| !text.trim_start_matches(SPACE).contains(SPACE)),
            longest: index.keys().map(String::len).max().unwrap_or(0),
            scores: std::mem::take(&mut vocab.scores),
            bytes,
            unk: vocab.unk,
            index,
            add_space_prefix: vocab.add_space_prefix,
            remove_extra_whitespaces: vocab.remove_extra_whitespaces,
        })
    }

    pub fn id(&self, text: &str) -> Option<u32> {
        self.index.get(text).copied()
    }

    /// Appends the ids of a text that holds no special tokens. `starts`: it stands at the beginning or after a special
    /// token, where the space prefix goes.
    pub fn encode(&self, text: &str, starts: bool, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let mut escaped = String::with_capacity(text.len() + text.len() / 4 + 3);
        if self.add_space_prefix && starts {
            escaped.push(SPACE);
        }
        if self.remove_extra_whitespaces {
            let mut words = text.split(' ').filter(|word| !word.is_empty());
            escaped.extend(words.next());
            for word in words {
                escaped.push(SPACE);
                escaped.push_str(word);
            }
        } else {
            escaped.extend(text.chars().map(|c| if c == ' ' { SPACE } else { c }));
        }
        let mut work = Work::default();
        if !self.spaces_lead {
            return self.merge(&escaped, &mut work, ids);
        }
        let mut rest = escaped.as_str();
        while !rest.is_empty() {
            let lead = rest.len() - rest.trim_start_matches(SPACE).len();
            let end = rest[lead..].find(SPACE).map_or(rest.len(), |at| lead + at);
            self.merge(&rest[..end], &mut work, ids)?;
            rest = &rest[end..];
        }
        Ok(())
    }

    fn merge(&self, text: &str, work: &mut Work, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let Work { symbols, queue } = work;
        symbols.clear();
        symbols.extend(text.char_indices().enumerate().map(|(i, (start, c))| Symbol {
            start,
            len: c.len_utf8(),
            prev: i.wrapping_sub(1),
            next: i + 1,
        }));
        if let Some(last) = symbols.last_mut() {
            last.next = END;
        }
        for i in 1..symbols.len() {
            self.consider(text, symbols, i - 1, i, queue);
        }
        while let Some(Pair { left, right, len, .. }) = queue.pop() {
            if symbols[left].len == 0 || symbols[right].len == 0 || symbols[left].len + symbols[right].len != len {
                continue;
            }
            symbols[left].len = len;
            symbols[right].len = 0;
            let (prev, next) = (symbols[left].prev, symbols[right].next);
            symbols[left].next = next;
            if next != END {
                symbols[next].prev = left;
            }
            self.consider(text, symbols, prev, left, queue);
            self.consider(text, symbols, left, next, queue);
        }
        for symbol in symbols.iter().filter(|symbol| symbol.len != 0) {
            let piece = &text[symbol.start..symbol.start + symbol.len];
            match self.index.get(piece) {
                Some(&id) => ids.push(id),
                None => self.spell(piece, ids)?,
            }
        }
        Ok(())
    }

    /// A character that is no token, byte by byte. (What is without a token is a single character: joins make tokens.)
    fn spell(&self, character: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        if character.bytes().all(|byte| self.bytes[byte as usize].is_some()) {
            ids.extend(character.bytes().filter_map(|byte| self.bytes[byte as usize]));
            return Ok(());
        }
        ids.push(self.unk.ok_or_else(|| TokenizerError::Unencodable { character: character.to_owned() })?);
        Ok(())
    }

    /// Queues the pair if it would make a token.
    fn consider(&self, text: &str, symbols: &[Symbol], left: usize, right: usize, queue: &mut BinaryHeap<Pair>) {
        if left == END || right == END {
            return;
        }
        let start = symbols[left].start;
        let len = symbols[left].len + symbols[right].len;
        if len > self.longest {
            return;
        }
        if let Some(&id) = self.index.get(&text[start..start + len]) {
            queue.push(Pair { score: self.scores[id as usize], left, right, len });
        }
    }
}
