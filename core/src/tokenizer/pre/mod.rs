//! Pre-tokenizers: how a text is cut into words before BPE merges inside each word.
//!
//! `tokenizer.ggml.pre` names one; [`table`] says what each name means, and a new one is a row. Each cut is a regular
//! expression: what it matches, and what lies between matches, are pieces, and the next cut works inside each piece. No
//! expression looks ahead: nearly all published ones end in `\s+(?!\S)|\s+`, which gives the last space of a run to the word
//! after it, and [`Then`] says so instead. So the plain `regex` engine does, in linear time on any input, where a backtracking
//! one can give up half-way.

mod table;
#[cfg(test)]
mod tests;

use regex::Regex;

use super::error::TokenizerError;
use super::stream::Spelling;
use table::{DEFAULT, Row, TABLE};

/// What becomes of a match.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    /// It is a piece.
    Keep,
    /// A run of whitespace that a word follows gives its last character to the next piece (`\s+(?!\S)|\s+` at the end).
    Release,
    /// The same, but runs that end in CR or LF have an alternative of their own, which keeps them whole.
    ReleaseUnlessNewline,
    /// As `ReleaseUnlessNewline`; what is left of the run comes in pieces of 512, 256, 128 and so on down to 1.
    Halve,
    /// It comes in pieces of three characters, counted from its end.
    Threes,
    /// The same, but its first piece still belongs to what is before it, and its last to what comes after.
    ThreesWithin,
}

/// Every name the table knows, in its order.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().flat_map(|row| row.names.iter().copied())
}

/// A pre-tokenizer by name, not yet compiled (the expressions cost milliseconds, a character vocabulary needs none).
#[derive(Clone, Copy)]
pub struct PreTokenizer(&'static Row);

impl PreTokenizer {
    /// What llama.cpp does with files that name none.
    pub(super) const DEFAULT: Self = PreTokenizer(&DEFAULT);

    /// What a name in `tokenizer.ggml.pre` means; `None` for a name that is not known.
    pub fn named(name: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.names.contains(&name)).map(|row| PreTokenizer(row))
    }

    /// All that are known: those with several names once.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|row| PreTokenizer(row))
    }

    /// Its name in `tokenizer.ggml.pre`; of several, the most usual.
    pub fn name(self) -> &'static str {
        self.0.names.first().copied().unwrap_or_default()
    }

    /// Whether a word that is itself a token is that token, whatever its merges would give.
    pub fn ignore_merges(self) -> bool {
        self.0.ignore_merges
    }

    /// Whether texts are brought into NFC first, where a file does not say.
    pub fn nfc(self) -> bool {
        self.0.nfc
    }

    /// Whether the vocabulary is spelled in the byte-level alphabet.
    pub fn is_byte_level(self) -> bool {
        self.0.spelling == Spelling::ByteLevel
    }

    pub(super) fn spelling(self) -> Spelling {
        self.0.spelling
    }

    pub(super) fn add_bos(self) -> bool {
        self.0.add_bos
    }

    /// Whether these expressions, one after the other, are the ones that it cuts by. Some spellings of the same are known: how
    /// contractions are written, and the `\s+(?!\S)` at the end.
    pub fn cuts_by<'e>(self, expressions: impl IntoIterator<Item = &'e str>) -> bool {
        let own = self.0.cuts.iter().map(|&(expression, then)| match then {
            // Its published form lists the lengths of the pieces.
            Then::Halve => {
                let lengths = [512, 256, 128, 64, 32, 16, 8, 4].map(|n| format!(r"\s{{{n}}}(?!\S)"));
                canonical(expression).replace(r"|\s+", &format!(r"|{}|\s{{1,2}}(?!\S)|\s{{1}}", lengths.join("|")))
            }
            _ => canonical(expression),
        });
        expressions.into_iter().map(canonical).eq(own)
    }

    /// Makes it ready to cut.
    ///
    /// # Errors
    /// [`TokenizerError::Library`], which no row of the table gives.
    pub fn compile(self) -> Result<Splitter, TokenizerError> {
        let stages =
            self.0.cuts.iter().map(|&(pattern, then)| {
                Ok(Stage { regex: Regex::new(pattern).map_err(TokenizerError::library)?, then })
            });
        Ok(Splitter { stages: stages.collect::<Result<_, _>>()? })
    }
}

impl std::fmt::Debug for PreTokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("PreTokenizer").field(&self.name()).finish()
    }
}

/// An expression with one spelling for what is written in several ways.
fn canonical(expression: &str) -> String {
    const CONTRACTIONS: &str = "'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]";
    expression
        .replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)", CONTRACTIONS)
        .replace(&format!("(?:{CONTRACTIONS})"), CONTRACTIONS)
        .replace(r"\s+(?!\S)|", "")
        .replace(r"\p{N}{1}|", r"\p{N}|")
        .replace('\r', r"\r")
        .replace('\n', r"\n")
}

struct Stage {
    regex: Regex,
    then: Then,
}

/// Compiled cuts.
pub struct Splitter {
    stages: Vec<Stage>,
}

impl std::fmt::Debug for Splitter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.stages.iter().map(|stage| stage.regex.as_str())).finish()
    }
}

impl Splitter {
    /// The words of a text, in order; put together they are the text.
    pub fn words<'t>(&self, text: &'t str) -> Vec<&'t str> {
        let mut words = Vec::new();
        let Ok(()) = self.split::<std::convert::Infallible>(text, &mut |word| {
            words.push(word);
            Ok(())
        });
        words
    }

    /// Calls `word` with each piece of `text`, in order; the pieces put together are the text.
    pub(super) fn split<'t, E>(&self, text: &'t str, word: &mut impl FnMut(&'t str) -> Result<(), E>) -> Result<(), E> {
        Self::cut(&self.stages, text, word)
    }

    fn cut<'t, E>(stages: &[Stage], text: &'t str, word: &mut impl FnMut(&'t str) -> Result<(), E>) -> Result<(), E> {
        let Some((stage, rest)) = stages.split_first() else {
            return if text.is_empty() { Ok(()) } else { word(text) };
        };
        // What is before `done` is cut; matches are looked for from `from` on.
        let (mut done, mut from) = (0, 0);
        while let Some(found) = stage.regex.find_at(text, from) {
            let end = stage.end_of(text, found.start(), found.end());
            if end <= from {
                break;
            }
            from = end;
            // Digits of a longer number: 1234 in 1234².
            if stage.then == Then::Threes && text[end..].starts_with(char::is_numeric) {
                continue;
            }
            if stage.then != Then::ThreesWithin {
                Self::cut(rest, &text[done..found.start()], word)?;
                done = found.start();
            }
            if matches!(stage.then, Then::Threes | Then::ThreesWithin) {
                for at in threes(text, found.start(), end) {
                    Self::cut(rest, &text[done..at], word)?;
                    done = at;
                }
            }
            if stage.then != Then::ThreesWithin {
                Self::cut(rest, &text[done..end], word)?;
                done = end;
            }
        }
        Self::cut(rest, &text[done..], word)
    }
}

/// Where `text[start..end]` is cut into pieces of three characters, counted from its end: at its start too where its length is a
/// multiple of three, at its end never.
fn threes(text: &str, start: usize, end: usize) -> impl Iterator<Item = usize> {
    let count = text[start..end].chars().count();
    let from_the_end = move |&(at, _): &(usize, (usize, char))| (count - at).is_multiple_of(3);
    text[start..end].char_indices().enumerate().filter(from_the_end).map(move |(_, (at, _))| start + at)
}

impl Stage {
    /// Where the piece ends that the match `start..end` begins.
    fn end_of(&self, text: &str, start: usize, end: usize) -> usize {
        if matches!(self.then, Then::Keep | Then::Threes | Then::ThreesWithin) {
            return end;
        }
        let matched = &text[start..end];
        let Some(last) = matched.chars().next_back().filter(|c| c.is_whitespace()) else { return end };
        if self.then != Then::Release && matches!(last, '\r' | '\n') {
            return end;
        }
        // A run of one stays: there is nothing before it to keep.
        let released = end < text.len() && matched.len() > last.len_utf8();
        let end = if released { end - last.len_utf8() } else { end };
        if self.then != Then::Halve {
            return end;
        }
        let count = text[start..end].chars().count();
        // A power of two, at most 512.
        let most = 1 << count.min(512).ilog2();
        text[start..end].char_indices().nth(most).map_or(end, |(at, _)| start + at)
    }
}
