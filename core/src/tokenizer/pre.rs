//! Pre-tokenizers: how a text is cut into words before byte-level BPE merges inside each word.
//!
//! `tokenizer.ggml.pre` names one; [`TABLE`] says what each name means, and a new one is a row. Each cut is a regular
//! expression: what it matches, and what lies between matches, are pieces, and the next cut works inside each piece.
//! The expressions are those the models' own tokenizers were trained with, except that none looks ahead: nearly all of
//! them end in `\s+(?!\S)|\s+`, which gives the last space of a run to the word after it, and that is [`Tail`] here.
//! So the plain `regex` engine does, in linear time on any input, where a backtracking one can give up half-way.

use regex::Regex;

use super::error::TokenizerError;

/// What becomes of the last character of a run of whitespace that a word follows (`\s+(?!\S)|\s+` at the end).
#[derive(Clone, Copy, PartialEq)]
enum Tail {
    /// The expression does not treat whitespace in this way.
    Keep,
    /// It starts the next piece.
    Release,
    /// The same, but runs that end in CR or LF have an alternative of their own, which keeps them whole.
    ReleaseUnlessNewline,
}

type Cut = (&'static str, Tail);

/// One row: names in files, the cuts in order, and what else goes with the name.
struct Row {
    names: &'static [&'static str],
    cuts: &'static [Cut],
    /// A word that is itself a token is that token, whatever its merges would give.
    ignore_merges: bool,
    /// A text starts with the bos token unless the file says otherwise.
    add_bos: bool,
}

const GPT2: Cut = (r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+", Tail::Release);

/// The shape that began with GPT-4: contractions in any case, a word with one other character before it, digits by
/// `$digits`, symbols with the newlines after them, newlines, other whitespace.
macro_rules! cl100k {
    ($digits:literal) => {
        (
            concat!(
                r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]",
                r"|[^\r\n\p{L}\p{N}]?\p{L}+|",
                $digits,
                r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
            ),
            Tail::ReleaseUnlessNewline,
        )
    };
}

/// The shape of GPT-4o: words are cut where lower case turns to upper, `$suffix` may follow.
macro_rules! o200k {
    ($suffix:literal, $digits:literal) => {
        (
            concat!(
                r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
                $suffix,
                r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
                $suffix,
                "|",
                $digits,
                r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+"
            ),
            Tail::ReleaseUnlessNewline,
        )
    };
}

const LLAMA3: Cut = cl100k!(r"\p{N}{1,3}");
const QWEN2: Cut = cl100k!(r"\p{N}");
const BLOOM: Cut = (r" ?[^(\s|.,!?…。，、।۔،)]+", Tail::Keep);
const DIGIT: Cut = (r"\p{N}", Tail::Keep);
const THREE_DIGITS: Cut = (r"[0-9][0-9][0-9]", Tail::Keep);

const PLAIN: Row = Row { names: &[], cuts: &[], ignore_merges: false, add_bos: false };

const DEFAULT: Row = Row {
    names: &["default"],
    cuts: &[(r"[\p{P}\$\+<=>\^~\|]+", Tail::Keep), GPT2, (r"\p{N}+", Tail::Keep), THREE_DIGITS],
    ..PLAIN
};

static TABLE: &[Row] = &[
    DEFAULT,
    Row {
        names: &[
            "gpt-2",
            "phi-2",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "exaone4",
            "jina-es",
            "jina-de",
            "jina-v2-es",
            "jina-v2-de",
        ],
        cuts: &[GPT2],
        ..PLAIN
    },
    Row {
        names: &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        cuts: &[LLAMA3],
        ignore_merges: true,
        add_bos: true,
    },
    Row { names: &["dbrx", "smaug-bpe", "chatglm-bpe"], cuts: &[LLAMA3], ..PLAIN },
    Row { names: &["glm4", "glm5"], cuts: &[LLAMA3], ignore_merges: true, ..PLAIN },
    Row {
        names: &[
            "qwen2",
            "deepseek-r1-qwen",
            "kormo",
            "f2llmv2",
            "megrez",
            "stablelm2",
            "hunyuan",
            "solar-open",
            "grok-2",
        ],
        cuts: &[QWEN2],
        ..PLAIN
    },
    Row {
        names: &["qwen35"],
        cuts: &[(
            concat!(
                r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}",
                r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
            ),
            Tail::ReleaseUnlessNewline,
        )],
        ..PLAIN
    },
    Row { names: &["falcon"], cuts: &[(r"[\p{P}\$\+<=>\^~\|`]+", Tail::Keep), GPT2, THREE_DIGITS], ..PLAIN },
    Row {
        names: &["starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"],
        cuts: &[DIGIT, GPT2],
        ..PLAIN
    },
    Row { names: &["bloom", "poro-chat", "gpt3-finnish"], cuts: &[BLOOM], ..PLAIN },
    Row { names: &["viking"], cuts: &[BLOOM, DIGIT], ..PLAIN },
    Row {
        names: &["deepseek-coder"],
        cuts: &[
            (r"[\r\n]", Tail::Keep),
            (r"\s?\p{L}+", Tail::Keep),
            (r"\s?\p{P}+", Tail::Keep),
            (r"[一-龥ࠀ-一가-\x{D7FF}]+", Tail::Keep),
            DIGIT,
        ],
        ..PLAIN
    },
    Row {
        names: &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
        cuts: &[
            (r"\p{N}{1,3}", Tail::Keep),
            (r"[一-龥\x{3040}-ゟ゠-ヿ]+", Tail::Keep),
            (
                concat!(
                    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"##,
                    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+"
                ),
                Tail::ReleaseUnlessNewline,
            ),
        ],
        ..PLAIN
    },
    Row { names: &["tekken"], cuts: &[o200k!("", r"\p{N}")], ignore_merges: true, add_bos: true },
    Row {
        names: &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"],
        cuts: &[o200k!(r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?", r"\p{N}{1,3}")],
        ..PLAIN
    },
    Row {
        names: &["minicpm5"],
        cuts: &[(r"\p{N}{1,3}", Tail::Keep), cl100k!(r"\p{N}+")],
        ignore_merges: true,
        ..PLAIN
    },
    Row {
        names: &["seed-coder"],
        cuts: &[(
            concat!(
                r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
                r"| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+"
            ),
            Tail::ReleaseUnlessNewline,
        )],
        ..PLAIN
    },
    Row {
        names: &["bailingmoe", "bailingmoe2", "llada-moe"],
        cuts: &[(
            concat!(
                r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
                r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+"
            ),
            Tail::ReleaseUnlessNewline,
        )],
        ..PLAIN
    },
];

/// Every name the table knows, in its order.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().flat_map(|row| row.names.iter().copied())
}

/// One name of each row.
pub(super) fn first_names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().filter_map(|row| row.names.first().copied())
}

/// A pre-tokenizer by name, not yet compiled (the expressions cost milliseconds, a character vocabulary needs none).
#[derive(Clone, Copy)]
pub(super) struct PreTokenizer(&'static Row);

impl PreTokenizer {
    /// What llama.cpp does with files that name none.
    pub const DEFAULT: Self = PreTokenizer(&DEFAULT);

    /// The row of a name in `tokenizer.ggml.pre`.
    pub fn named(name: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.names.contains(&name)).map(PreTokenizer)
    }

    pub fn ignore_merges(self) -> bool {
        self.0.ignore_merges
    }

    pub fn add_bos(self) -> bool {
        self.0.add_bos
    }

    pub fn compile(self) -> Result<Splitter, TokenizerError> {
        let stages =
            self.0.cuts.iter().map(|&(pattern, tail)| {
                Ok(Stage { regex: Regex::new(pattern).map_err(TokenizerError::library)?, tail })
            });
        Ok(Splitter { stages: stages.collect::<Result<_, _>>()? })
    }
}

struct Stage {
    regex: Regex,
    tail: Tail,
}

/// Compiled cuts.
pub(super) struct Splitter {
    stages: Vec<Stage>,
}

impl Splitter {
    /// Calls `word` with each piece of `text`, in order; the pieces put together are the text.
    pub fn split<'t, E>(&self, text: &'t str, word: &mut impl FnMut(&'t str) -> Result<(), E>) -> Result<(), E> {
        Self::cut(&self.stages, text, word)
    }

    fn cut<'t, E>(stages: &[Stage], text: &'t str, word: &mut impl FnMut(&'t str) -> Result<(), E>) -> Result<(), E> {
        let Some((stage, rest)) = stages.split_first() else {
            return if text.is_empty() { Ok(()) } else { word(text) };
        };
        let mut done = 0;
        while let Some(found) = stage.regex.find_at(text, done) {
            let end = stage.end_of(text, found.start(), found.end());
            if end <= done {
                break;
            }
            Self::cut(rest, &text[done..found.start()], word)?;
            Self::cut(rest, &text[found.start()..end], word)?;
            done = end;
        }
        Self::cut(rest, &text[done..], word)
    }
}

impl Stage {
    /// Where the match `start..end` ends once its tail is released.
    fn end_of(&self, text: &str, start: usize, end: usize) -> usize {
        if self.tail == Tail::Keep || end == text.len() {
            return end;
        }
        let matched = &text[start..end];
        let Some(last) = matched.chars().next_back().filter(|c| c.is_whitespace()) else { return end };
        if self.tail == Tail::ReleaseUnlessNewline && matches!(last, '\r' | '\n') {
            return end;
        }
        // A run of one stays: there is nothing before it to keep.
        if matched.len() == last.len_utf8() { end } else { end - last.len_utf8() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::LazyLock;
    use tokenizers::utils::SysRegex;

    fn cut(splitter: &Splitter, text: &str) -> Vec<String> {
        let mut out = Vec::new();
        let Ok(()) = splitter.split::<std::convert::Infallible>(text, &mut |piece| {
            out.push(piece.to_owned());
            Ok(())
        });
        out
    }

    fn pieces(name: &str, text: &str) -> Vec<String> {
        cut(&PreTokenizer::named(name).unwrap().compile().unwrap(), text)
    }

    #[test]
    fn every_row_compiles_and_loses_nothing() {
        let text = "Hello  World's\t\tDON'T 12345 naïve\r\n\r\n  x=[y]; `a` 你好。 e\u{301} ²³ \u{a0} \n end  ";
        for row in TABLE {
            let name = row.names[0];
            assert_eq!(pieces(name, text).concat(), text, "{name}");
            assert!(pieces(name, "").is_empty());
        }
    }

    #[test]
    fn names_are_unique() {
        let mut seen = std::collections::HashSet::new();
        for name in names() {
            assert!(seen.insert(name), "{name} stands in two rows");
        }
    }

    #[test]
    fn gpt2_gives_the_last_space_to_the_word() {
        assert_eq!(pieces("gpt-2", "a   b"), ["a", "  ", " b"]);
        assert_eq!(pieces("gpt-2", "a \n\tb"), ["a", " \n", "\t", "b"]);
        assert_eq!(pieces("gpt-2", "a  "), ["a", "  "]);
        assert_eq!(pieces("gpt-2", "I'll 12ab"), ["I", "'ll", " 12", "ab"]);
        assert_eq!(pieces("gpt-2", "I'LL"), ["I", "'", "LL"]);
    }

    #[test]
    fn llama3_and_qwen2_differ_in_digits_only() {
        assert_eq!(pieces("llama-bpe", "I'LL 12345"), ["I", "'LL", " ", "123", "45"]);
        assert_eq!(pieces("qwen2", "I'LL 123"), ["I", "'LL", " ", "1", "2", "3"]);
        assert_eq!(pieces("llama-bpe", "a \n \n  b"), ["a", " \n \n", " ", " b"]);
        assert_eq!(pieces("llama-bpe", "x\t\ty (z)!\n\nq"), ["x", "\t", "\ty", " (", "z", ")!\n\n", "q"]);
        assert_eq!(pieces("qwen2", "a\n\n\nb"), ["a", "\n\n\n", "b"]);
    }

    #[test]
    fn falcon_and_default_cut_digits_by_three() {
        assert_eq!(pieces("falcon", "a 12345!?"), ["a", " ", "123", "45", "!?"].map(str::to_owned).to_vec().as_slice());
        assert_eq!(pieces("default", "x1234"), ["x", "123", "4"]);
    }

    #[test]
    fn gpt4o_cuts_at_case_changes() {
        assert_eq!(pieces("gpt-4o", "HelloWorld isn't"), ["Hello", "World", " isn't"]);
        assert_eq!(pieces("tekken", "éÉtat 12"), ["é", "État", " ", "1", "2"]);
    }

    /// Ours beside the expressions as their models publish them, lookahead and all.
    static PUBLISHED: LazyLock<Vec<(&str, Splitter, SysRegex)>> = LazyLock::new(|| {
        let contractions = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])";
        let tail = r"\s*[\r\n]+|\s+(?!\S)|\s+";
        let (upper, lower) = (r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]");
        let lead = r"[^\r\n\p{L}\p{N}]?";
        let cl100k = |digits| {
            let symbols = r" ?[^\s\p{L}\p{N}]+[\r\n]*";
            format!(r"{contractions}|{lead}\p{{L}}+|{digits}|{symbols}|{tail}")
        };
        let o200k = |suffix: &str, digits| {
            let symbols = r" ?[^\s\p{L}\p{N}]+[\r\n/]*";
            format!("{lead}{upper}*{lower}+{suffix}|{lead}{upper}+{lower}*{suffix}|{digits}|{symbols}|{tail}")
        };
        let gpt2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
        let expressions = [
            ("gpt-2", gpt2.to_owned()),
            ("llama-bpe", cl100k(r"\p{N}{1,3}")),
            ("qwen2", cl100k(r"\p{N}")),
            ("tekken", o200k("", r"\p{N}")),
            ("gpt-4o", o200k(&format!("{contractions}?"), r"\p{N}{1,3}")),
        ];
        let compiled = |(name, expression): (&'static str, String)| {
            (name, PreTokenizer::named(name).unwrap().compile().unwrap(), SysRegex::new(&expression).unwrap())
        };
        expressions.into_iter().map(compiled).collect()
    });

    proptest::proptest! {
        #[test]
        fn cuts_are_those_of_the_published_expressions(
            text in "[ \\t\\r\\n\u{a0}\u{3000}aZéßǅʰ中ا\u{301}09²Ⅷ'’.,/!$_sStTlLrReEvVmMdD]{0,24}"
        ) {
            for (name, splitter, engine) in PUBLISHED.iter() {
                let mut expected = Vec::new();
                let mut done = 0;
                for (start, end) in engine.find_iter(&text) {
                    expected.extend([&text[done..start], &text[start..end]]);
                    done = end;
                }
                expected.retain(|piece| !piece.is_empty());
                proptest::prop_assert_eq!(done, text.len(), "{}", name);
                proptest::prop_assert_eq!(cut(splitter, &text), expected, "{}", name);
            }
        }
    }
}
