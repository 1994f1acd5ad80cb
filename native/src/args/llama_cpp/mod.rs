//! The flags of llama.cpp's tools, and what each of them is here: there, without effect, or refused with what to use instead.
//!
//! The table drives the reading of the command line (`args/words.rs`), the notes, and docs/llama-cpp-flags.md. What a flag of ours
//! does is declared where clap reads it, not here.

mod machine;
mod measuring;
mod model;
mod sampling;
mod text;

#[cfg(test)]
mod tests;

/// Our commands that correspond to a tool of llama.cpp, as bits.
pub type Commands = u8;

/// `sterna run` and `sterna` alone: llama-completion, and llama-cli.
pub const RUN: Commands = 1;
/// `sterna chat`: llama-cli, and llama-completion.
pub const CHAT: Commands = 2;
/// `sterna bench`: llama-bench.
pub const BENCH: Commands = 4;
/// `sterna perplexity`: llama-perplexity.
pub const PERPLEXITY: Commands = 8;
/// `sterna tokenize`: llama-tokenize.
pub const TOKENIZE: Commands = 16;

const TEXT: Commands = RUN | CHAT;
/// All but bench share one reader of flags in llama.cpp.
const COMMON: Commands = TEXT | PERPLEXITY | TOKENIZE;
const ALL: Commands = COMMON | BENCH;

/// The commands by name.
pub const NAMES: [(&str, Commands); 5] =
    [("run", RUN), ("chat", CHAT), ("bench", BENCH), ("perplexity", PERPLEXITY), ("tokenize", TOKENIZE)];

/// A flag of llama.cpp.
#[derive(Debug)]
pub struct Flag {
    /// All its names there; the first that ours has is what the others become.
    pub names: &'static [&'static str],
    /// What follows it: nothing, one value, two with a space between them, or one in brackets that may be missing.
    pub value: &'static str,
    /// The commands whose tools have it.
    pub tools: Commands,
    /// Those of them that have it here.
    pub there: Commands,
    /// What is different where it is there; may be empty.
    pub remark: &'static str,
    /// What it is in the other commands.
    pub otherwise: Otherwise,
}

/// What a flag is where it is not there.
#[derive(Debug, Clone, Copy)]
pub enum Otherwise {
    /// Taken, with a note that it has no effect, and why.
    Nothing(&'static str),
    /// Refused, with what to do instead; but for the values that ask for what is so here anyway.
    Refused(&'static [&'static str], &'static str),
}

/// The flags under one heading.
pub struct Group {
    /// The heading.
    pub title: &'static str,
    /// The flags.
    pub flags: &'static [Flag],
}

/// All flags.
pub const GROUPS: [Group; 5] = [model::GROUP, machine::GROUP, text::GROUP, sampling::GROUP, measuring::GROUP];

/// The flag that `name` is in the tool of `command`.
pub fn find(command: Commands, name: &str) -> Option<&'static Flag> {
    flags().find(|flag| flag.tools & command != 0 && flag.names.contains(&name))
}

/// All flags, one after the other.
pub fn flags() -> impl Iterator<Item = &'static Flag> {
    GROUPS.iter().flat_map(|group| group.flags)
}

impl Flag {
    /// How many words after the flag are its values; `next` is the first of them.
    pub fn values(&self, next: Option<&str>) -> usize {
        match self.value {
            "" => 0,
            value if value.starts_with('[') => usize::from(next.is_some_and(is_switch)),
            value => value.split(' ').count(),
        }
    }
}

/// Whether a word is a value of those flags whose value may be missing: of `-fa`, which took none for years.
fn is_switch(word: &str) -> bool {
    let one = |word| ["on", "off", "auto", "0", "1", "true", "false", "enabled", "disabled"].contains(&word);
    word.split(',').all(one)
}

/// Is there in all tools that have it; `remark` says what differs.
const fn there(tools: Commands, names: &'static [&'static str], value: &'static str, remark: &'static str) -> Flag {
    Flag { names, value, tools, there: tools, remark, otherwise: Otherwise::Nothing("") }
}

/// Is there in some commands, and without effect in the others.
const fn partly(
    there: Commands,
    tools: Commands,
    names: &'static [&'static str],
    value: &'static str,
    why: &'static str,
) -> Flag {
    Flag { names, value, tools, there, remark: "", otherwise: Otherwise::Nothing(why) }
}

/// Has no effect.
const fn nothing(tools: Commands, names: &'static [&'static str], value: &'static str, why: &'static str) -> Flag {
    Flag { names, value, tools, there: 0, remark: "", otherwise: Otherwise::Nothing(why) }
}

/// Is refused.
const fn refused(tools: Commands, names: &'static [&'static str], value: &'static str, instead: &'static str) -> Flag {
    refused_but(tools, names, value, &[], instead)
}

/// Is refused, but for these values, with which it asks for what is so anyway.
const fn refused_but(
    tools: Commands,
    names: &'static [&'static str],
    value: &'static str,
    neutral: &'static [&'static str],
    instead: &'static str,
) -> Flag {
    Flag { names, value, tools, there: 0, remark: "", otherwise: Otherwise::Refused(neutral, instead) }
}
