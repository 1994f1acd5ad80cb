//! What was typed. Plain structs, one per concern, shared by the commands; each command's own arguments are in its file
//! under `commands/`. Nothing is opened, read or decided here except by the `resolve` steps at the end of each struct.

mod engine;
pub mod llama_cpp;
mod model;
mod prompt;
mod ranges;
mod sampling;
mod words;

use std::ffi::{OsStr, OsString};

use clap::builder::Resettable;
use clap::error::ErrorKind;
use clap::{Arg, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::commands;
use crate::ui::message;

pub use engine::{EngineArgs, MemoryArgs};
pub use model::{CheckpointArgs, HubArgs, ModelArgs};
pub use prompt::{GenerateArgs, LimitArgs, PerfArgs, PromptArgs, piped, read_text};
pub use ranges::Numbers;
pub use sampling::SamplingArgs;

/// Run, inspect and measure ternary (1.58-bit) GGUF models on a bare CPU.
///
/// Without a command: generates text from the model inside this program; with a model and no command, the same as run.
#[derive(Debug, Parser)]
#[command(
    name = "sterna",
    version = crate::VERSION,
    args_conflicts_with_subcommands = true,
    args_override_self = true,
    propagate_version = true,
    max_term_width = 100
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Say more on stderr about what is done.
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// For the model inside.
    #[command(flatten)]
    pub generate: GenerateArgs,
}

/// The commands.
#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "one value a process")]
pub enum Command {
    /// Generate text from a GGUF model.
    Run(commands::run::RunArgs),
    /// Talk with a model.
    Chat(commands::chat::ChatArgs),
    /// Show what is in a GGUF: metadata, tensors, bits per weight, and what would be refused and why.
    #[command(visible_aliases = ["show", "info"])]
    Inspect(commands::inspect::InspectArgs),
    /// Measure prompt processing and text generation, with llama-bench's columns.
    Bench(commands::bench::BenchArgs),
    /// Measure how well a model predicts a text.
    Perplexity(commands::perplexity::PerplexityArgs),
    /// Measure how often an image classifier is right.
    Eval(commands::eval::EvalArgs),
    /// Show the tokens of a text.
    Tokenize(commands::tokenize::TokenizeArgs),
    /// Train a ternary model and export it as GGUF.
    Train(commands::train::TrainArgs),
    /// Fine-tune a Hugging Face checkpoint so that it becomes ternary.
    Qat(commands::qat::QatArgs),
    /// Convert a Hugging Face checkpoint to a ternary GGUF.
    Convert(commands::convert::ConvertArgs),
    /// Export a GGUF from a checkpoint, or from a directory that convert made.
    Gguf(commands::convert::GgufArgs),
    /// Bring a GGUF into another format, without loss between ternary ones where their groups allow.
    Quantize(commands::quantize::QuantizeArgs),
    /// Bring a GGUF's ternary weights back into a float format.
    Dequantize(commands::quantize::DequantizeArgs),
    /// Fetch a model from the Hugging Face hub into the cache.
    Pull(commands::pull::PullArgs),
    /// List the models in the cache.
    #[command(visible_alias = "ls")]
    List(commands::list::ListArgs),
    /// Delete a model from the cache.
    #[command(visible_alias = "rm")]
    Remove(commands::remove::RemoveArgs),
    /// List and fetch data sets for training and measuring.
    Data(commands::data::DataArgs),
    /// Print a completion script for a shell.
    Completions(commands::completions::CompletionsArgs),
    /// Write manual pages.
    Man(commands::man::ManArgs),
}

impl Cli {
    /// Reads this process' arguments; exits with the usage on a mistake. Says what of them has no effect.
    pub fn from_command_line() -> Self {
        let (cli, notes) = Self::read(std::env::args_os()).unwrap_or_else(|error| error.exit());
        for note in notes {
            message::note(&note);
        }
        cli
    }

    /// Reads these arguments, the program's name first; gives them with notes about those that have no effect.
    ///
    /// # Errors
    /// A mistake in them.
    pub fn read(words: impl IntoIterator<Item = OsString>) -> Result<(Self, Vec<String>), clap::Error> {
        let mut command = without_empty_variables(Self::command());
        let prepared = words::prepare(command.clone(), words.into_iter().collect())?;
        let mut matches = command.try_get_matches_from_mut(prepared.words)?;
        let cli = Self::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))?;
        if let Some(model) = cli.model() {
            model.one().map_err(|message| Self::command().error(ErrorKind::ArgumentConflict, message))?;
        }
        Ok((cli, prepared.notes))
    }

    /// Which model the command is about, for commands that are about one.
    fn model(&self) -> Option<&ModelArgs> {
        match self.command.as_ref()? {
            Command::Run(args) => Some(&args.model),
            Command::Chat(args) => Some(&args.model),
            Command::Inspect(args) => Some(&args.model),
            Command::Bench(args) => Some(&args.model),
            Command::Perplexity(args) => Some(&args.model),
            Command::Tokenize(args) => Some(&args.model),
            _ => None,
        }
    }
}

/// The command line without those variables of the environment that are set to nothing: they count as not set.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    let set = move |arg: Arg| match arg.get_env() {
        Some(name) if is_empty(name) => arg.env(Resettable::Reset),
        _ => arg,
    };
    command.mut_args(set).mut_subcommands(without_empty_variables)
}

#[cfg(test)]
mod tests;
