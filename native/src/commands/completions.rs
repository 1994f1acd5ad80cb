//! `sterna completions`: a script that makes a shell complete commands, flags, and the names that flags take.

use anyhow::Result;
use clap::builder::{PossibleValuesParser, Str};
use clap::{Arg, Args, Command, CommandFactory};
use clap_complete::Shell;
use sterna_core::formats::Format;
use sterna_core::generate::chat::ChatTemplate;
use sterna_core::kernels;

use crate::Out;
use crate::args::Cli;
use crate::convert::FORMATS;
use crate::data::CATALOGUE;

/// Rules of rounding that go by a name alone.
const RULES: [&str; 5] = ["absmean", "search", "sign", "threshold", "twn"];
/// What shares a scale.
const GROUPS: [&str; 5] = ["64", "128", "256", "row", "tensor"];
/// Tokenizers of `sterna train` that go by a name alone.
const TOKENIZERS: [&str; 3] = ["chars", "bpe", "gpt2"];

/// What `sterna completions` takes.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell. For bash: `sterna completions bash > ~/.local/share/bash-completion/completions/sterna`.
    pub shell: Shell,
}

/// Prints the script.
///
/// # Errors
/// If it cannot be written.
pub fn run(args: &CompletionsArgs, out: &mut Out) -> Result<()> {
    // Into memory first: the generator panics when a pipe breaks.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut with_values(Cli::command()), "sterna", &mut script);
    out.write_all(&script)?;
    Ok(())
}

/// The command line with the names that its arguments take. For the script only: what is typed is read by each argument's own parser,
/// which knows more than names (`threshold:0.4`) and says what is wrong.
fn with_values(command: Command) -> Command {
    let name = command.get_name().to_owned();
    let command = command.mut_args(|arg| match values(&name, &arg) {
        Some(values) => arg.value_parser(PossibleValuesParser::new(values.into_iter().map(Str::from))),
        None => arg,
    });
    command.mut_subcommands(with_values)
}

/// The names that an argument of the command `command` takes, where there is a list of them.
fn values(command: &str, arg: &Arg) -> Option<Vec<&'static str>> {
    let value = arg.get_value_names().and_then(|names| names.first()).map_or("", |name| name.as_str());
    match (arg.get_id().as_str(), value) {
        ("kernel" | "kernels", _) => Some(kernels::available().iter().map(|kernel| kernel.name()).collect()),
        (_, "FORMAT") => Some(FORMATS.map(Format::name).to_vec()),
        (_, "RULE") => Some(RULES.to_vec()),
        (_, "GROUP") => Some(GROUPS.to_vec()),
        ("chat_template", _) => Some(ChatTemplate::fallback_names().collect()),
        ("tokenizer", _) => Some(TOKENIZERS.to_vec()),
        ("names", "NAME") if command == "get" => Some(CATALOGUE.iter().map(|set| set.name).collect()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_listed_are_names_that_are_taken() {
        for method in RULES {
            assert!(method.parse::<sterna_core::ternary::Method>().is_ok(), "{method}");
        }
        for group in GROUPS {
            assert!(group.parse::<sterna_core::ternary::Granularity>().is_ok(), "{group}");
        }
        for kind in TOKENIZERS {
            assert!(kind.parse::<crate::train::text::tokenizer::TokenizerChoice>().is_ok(), "{kind}");
        }
    }
}
