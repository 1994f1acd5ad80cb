//! Finds special tokens in a text, before anything else looks at it.
//!
//! Where several could match, the one that starts first wins, then the longest.

use aho_corasick::{AhoCorasick, MatchKind};

use super::error::TokenizerError;
use super::vocab::{Kind, Vocab};

/// A text comes apart into these.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Part<'t> {
    Token(u32),
    Text(&'t str),
}

struct Finder {
    automaton: AhoCorasick,
    /// By pattern: the id, and whether the whitespace after it goes too.
    tokens: Vec<(u32, bool)>,
}

/// The special tokens of a vocabulary.
pub(super) struct Specials {
    /// User-defined tokens are always found.
    always: Option<Finder>,
    /// All, when the text may steer the model: control and unknown tokens too.
    all: Option<Finder>,
}

impl Specials {
    pub fn new(vocab: &Vocab) -> Result<Self, TokenizerError> {
        let finder = |kinds: &[Kind]| {
            let tokens: Vec<(u32, bool)> = (0u32..)
                .zip(&vocab.kinds)
                .filter(|&(id, kind)| kinds.contains(kind) && !vocab.texts[id as usize].is_empty())
                .map(|(id, _)| (id, vocab.strip_right.binary_search(&id).is_ok()))
                .collect();
            if tokens.is_empty() {
                return Ok(None);
            }
            let automaton = AhoCorasick::builder()
                .match_kind(MatchKind::LeftmostLongest)
                .build(tokens.iter().map(|&(id, _)| &vocab.texts[id as usize]))
                .map_err(TokenizerError::library)?;
            Ok(Some(Finder { automaton, tokens }))
        };
        Ok(Specials {
            always: finder(&[Kind::UserDefined])?,
            all: finder(&[Kind::UserDefined, Kind::Control, Kind::Unknown])?,
        })
    }

    /// The parts of `text`, none empty.
    pub fn split<'t>(&self, text: &'t str, parse_special: bool) -> Vec<Part<'t>> {
        let mut parts = Vec::new();
        let mut rest = 0;
        let mut strip = false;
        let push_text = |parts: &mut Vec<Part<'t>>, text: &'t str, strip: bool| {
            let text = if strip { text.trim_start_matches(is_c_space) } else { text };
            if !text.is_empty() {
                parts.push(Part::Text(text));
            }
        };
        if let Some(finder) = if parse_special { &self.all } else { &self.always } {
            for found in finder.automaton.find_iter(text) {
                push_text(&mut parts, &text[rest..found.start()], strip);
                let (id, strips) = finder.tokens[found.pattern()];
                parts.push(Part::Token(id));
                rest = found.end();
                strip = strips;
            }
        }
        push_text(&mut parts, &text[rest..], strip);
        parts
    }
}

/// The whitespace of C's `isspace`, which decides what phi-3's special tokens swallow.
fn is_c_space(c: char) -> bool {
    matches!(c, ' ' | '\t'..='\r')
}
