//! The words of a command line, before clap reads them.
//!
//! Clap knows flags of one letter and long ones; llama.cpp's have several letters after one dash too. Here each flag is looked
//! up as a whole: ours go on to clap, llama.cpp's are translated, left out with a note, or refused (`llama_cpp`), and all others
//! are refused with the name that is nearest. A line that names a model and no command means `run`.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::error::ErrorKind;
use clap::{Arg, Command};

use super::llama_cpp::{self, Commands, Otherwise};
use crate::hub::Wanted;
use crate::near::nearest;

/// What clap is to read, and what is to be said first.
#[derive(Debug)]
pub struct Prepared {
    /// The program's name first.
    pub words: Vec<OsString>,
    /// One line each.
    pub notes: Vec<String>,
}

/// Reads the words; the program's name is the first of them. `root` is the whole command line.
///
/// # Errors
/// A flag that is not there.
pub fn prepare(mut root: Command, words: Vec<OsString>) -> Result<Prepared, clap::Error> {
    root.build();
    let mut words = words.into_iter();
    let mut prepared = Prepared { words: words.next().into_iter().collect(), notes: Vec::new() };
    let mut rest: Vec<OsString> = words.collect();
    // Flags that all commands have may stand before the command.
    let common =
        |word: &OsString| flag(word).and_then(|(name, _)| argument(&root, &name)).is_some_and(Arg::is_global_set);
    let leading = rest.iter().take_while(|word| common(word)).count();
    if means_run(&root, &rest[leading..]) {
        rest.insert(leading, "run".into());
    }
    // Down to the command that the words belong to.
    let (mut command, mut depth) = (&root, leading);
    while let Some(inner) = rest.get(depth).and_then(|word| command.find_subcommand(word)) {
        (command, depth) = (inner, depth + 1);
        if inner.get_name() == "help" {
            prepared.words.extend(rest);
            return Ok(prepared);
        }
    }
    // Clap takes what stands before a command for a flag of the model inside.
    let common: Vec<OsString> = rest.drain(..leading).collect();
    prepared.words.extend(rest.drain(..depth - leading));
    prepared.words.extend(common);
    let tool = match (depth - leading, command.get_name()) {
        (0, _) => llama_cpp::RUN,
        (1, name) => llama_cpp::NAMES.iter().find(|(known, _)| *known == name).map_or(0, |(_, bit)| *bit),
        _ => 0,
    };
    let mut reader = Reader { root: &root, command, tool, prepared };
    let mut left = rest.into_iter().peekable();
    while let Some(word) = left.next() {
        if word == "--" {
            reader.prepared.words.push(word);
            reader.prepared.words.extend(left);
            break;
        }
        reader.word(word, &mut left)?;
    }
    Ok(reader.prepared)
}

type Left = std::iter::Peekable<std::vec::IntoIter<OsString>>;

struct Reader<'a> {
    root: &'a Command,
    command: &'a Command,
    /// The command, if a tool of llama.cpp corresponds to it.
    tool: Commands,
    prepared: Prepared,
}

impl Reader<'_> {
    fn word(&mut self, word: OsString, left: &mut Left) -> Result<(), clap::Error> {
        let Some((name, attached)) = flag(&word) else {
            self.prepared.words.push(word);
            return Ok(());
        };
        if let Some(arg) = argument(self.command, &name) {
            self.ours(&name, arg, attached, left);
            return Ok(());
        }
        if let Some((known, arg)) = translated(self.command, &name) {
            self.ours(known, arg, attached, left);
            return Ok(());
        }
        if let Some(flag) = llama_cpp::find(self.tool, &name) {
            return self.theirs(&name, flag, attached, left);
        }
        // -n5, but no -nx: that is a flag of several letters.
        let text = word.to_string_lossy();
        let number = |rest: &str| rest.parse::<f64>().is_ok() && !rest.starts_with(|c: char| c.is_ascii_alphabetic());
        let short = text.char_indices().nth(2).map(|(at, _)| text.split_at(at));
        if let Some((short, rest)) = short
            && !name.starts_with("--")
            && number(rest)
            && argument(self.command, short).is_some_and(takes_values)
        {
            self.prepared.words.push(word);
            return Ok(());
        }
        Err(self.unknown(&name))
    }

    /// A flag that clap knows, with its values.
    fn ours(&mut self, name: &str, arg: &Arg, attached: Option<String>, left: &mut Left) {
        if let Some(value) = attached {
            self.prepared.words.push(format!("{name}={value}").into());
            return;
        }
        self.prepared.words.push(name.into());
        if !takes_values(arg) {
            return;
        }
        let count = arg.get_num_args().unwrap_or_default();
        for taken in 0..count.max_values() {
            let is_value = |word: &OsString| {
                let text = word.to_string_lossy();
                let negative = arg.is_allow_negative_numbers_set() && text.parse::<f64>().is_ok();
                flag(word).is_none() && text != "--" || negative || arg.is_allow_hyphen_values_set()
            };
            let more = taken < count.min_values() || count.max_values() > count.min_values();
            match left.next_if(|word| more && is_value(word)) {
                Some(value) => self.prepared.words.push(value),
                None => break,
            }
        }
    }

    /// A flag of llama.cpp that is not there.
    fn theirs(
        &mut self,
        name: &str,
        flag: &llama_cpp::Flag,
        attached: Option<String>,
        left: &mut Left,
    ) -> Result<(), clap::Error> {
        let next = left.peek().map(|word| word.to_string_lossy().into_owned());
        let mut values: Vec<String> = attached.into_iter().collect();
        for _ in values.len()..flag.values(next.as_deref()) {
            let Some(value) = left.next() else {
                let message = format!("{name} needs a value: {}", flag.value);
                return Err(self.error(ErrorKind::InvalidValue, &message));
            };
            values.push(value.to_string_lossy().into_owned());
        }
        let typed = [name].into_iter().chain(values.iter().map(String::as_str)).collect::<Vec<_>>().join(" ");
        match flag.otherwise {
            Otherwise::Nothing(why) => {
                let note = format!("{typed} has no effect: {why}");
                if !self.prepared.notes.contains(&note) {
                    self.prepared.notes.push(note);
                }
                Ok(())
            }
            Otherwise::Refused(neutral, _) if values.iter().any(|value| is_one_of(value, neutral)) => Ok(()),
            Otherwise::Refused(_, instead) => {
                let message = format!("`sterna {}` has no {typed}: {instead}", self.name());
                Err(self.error(ErrorKind::UnknownArgument, &message))
            }
        }
    }

    fn unknown(&self, name: &str) -> clap::Error {
        let mut message = format!("there is no flag {name}");
        let known = self.command.get_arguments().flat_map(names_of).collect::<Vec<_>>();
        let theirs = llama_cpp::flags().filter(|flag| flag.there & self.tool != 0).flat_map(|flag| flag.names);
        let has = |other: &&Command| argument(other, name).is_some() || translated(other, name).is_some();
        let elsewhere = self.root.get_subcommands().find(has);
        if let Some(other) = elsewhere {
            message = format!("`sterna {}` has no flag {name}, but `sterna {}` has", self.name(), other.get_name());
        } else if let Some(near) = nearest(name, known.iter().map(String::as_str).chain(theirs.copied())) {
            message.push_str(&format!("; did you mean {near}?"));
        }
        self.error(ErrorKind::UnknownArgument, &message)
    }

    fn error(&self, kind: ErrorKind, message: &str) -> clap::Error {
        self.command.clone().error(kind, message)
    }

    /// The command's name; `sterna` alone runs a model too.
    fn name(&self) -> &str {
        if std::ptr::eq(self.command, self.root) { "run" } else { self.command.get_name() }
    }
}

/// A flag's name, and the value that an equals sign ties to it; `None` for other words. `_` in long names is `-`, as in llama.cpp.
fn flag(word: &OsStr) -> Option<(String, Option<String>)> {
    let text = word.to_str().filter(|text| text.starts_with('-') && text.len() > 1 && *text != "--")?;
    // A negative number is a value.
    if text.parse::<f64>().is_ok() && text[1..].starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, None),
    };
    let name = if name.starts_with("--") { name.replace('_', "-") } else { name.to_owned() };
    Some((name, value))
}

/// The argument of `command` that has this flag.
pub(super) fn argument<'a>(command: &'a Command, name: &str) -> Option<&'a Arg> {
    command.get_arguments().find(|arg| names_of(arg).iter().any(|known| known == name))
}

/// The argument of `command` that llama.cpp's tools know under another name too, as `-hf`; with the name that it has here. That goes
/// for all commands, also for those that no tool of llama.cpp corresponds to.
fn translated<'a>(command: &'a Command, name: &str) -> Option<(&'static str, &'a Arg)> {
    // Single letters are other flags in other tools.
    let rows = llama_cpp::flags().filter(|flag| name.len() > 2 && flag.names.contains(&name));
    let names = rows.flat_map(|flag| flag.names).filter(|known| known.starts_with("--"));
    names.copied().find_map(|known| argument(command, known).map(|arg| (known, arg)))
}

/// All flags of an argument, with their dashes.
fn names_of(arg: &Arg) -> Vec<String> {
    let long = arg.get_long().into_iter().chain(arg.get_all_aliases().unwrap_or_default());
    let short = arg.get_short().into_iter().chain(arg.get_all_short_aliases().unwrap_or_default());
    long.map(|name| format!("--{name}")).chain(short.map(|letter| format!("-{letter}"))).collect()
}

fn takes_values(arg: &Arg) -> bool {
    arg.get_action().takes_values()
}

/// Whether a value is among these, as a number or as a word.
fn is_one_of(value: &str, values: &[&str]) -> bool {
    let number = value.parse::<f64>().ok();
    values.iter().any(|one| *one == value || number.is_some() && one.parse::<f64>().ok() == number)
}

/// Whether the words name a model and no command.
fn means_run(root: &Command, words: &[OsString]) -> bool {
    let Some(run) = root.find_subcommand("run") else { return false };
    if words.first().is_some_and(|word| root.find_subcommand(word).is_some()) {
        return false;
    }
    let mut left = words.iter().peekable();
    while let Some(word) = left.next() {
        let Some((name, attached)) = flag(word) else {
            return word != "--" && looks_like_a_model(word);
        };
        let found = llama_cpp::find(llama_cpp::RUN, &name);
        if found.is_some_and(|flag| ["-m", "-hf", "-mu"].contains(&flag.names[0])) {
            return true;
        }
        let next = left.peek().and_then(|word| word.to_str());
        let values = match (argument(run, &name), found) {
            _ if attached.is_some() => 0,
            (Some(arg), _) => usize::from(takes_values(arg)),
            (None, Some(flag)) => flag.values(next),
            (None, None) => 0,
        };
        left.by_ref().take(values).for_each(drop);
    }
    false
}

/// Whether a word can be meant as a model rather than as a command.
fn looks_like_a_model(word: &OsStr) -> bool {
    let text = word.to_string_lossy();
    Path::new(word).exists()
        || text.to_ascii_lowercase().ends_with(".gguf")
        || text.parse::<Wanted>().is_ok()
        || text.contains("://")
}
