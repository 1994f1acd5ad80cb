//! `sterna tokenize`: what a model's vocabulary makes of a text.

use anyhow::Result;
use clap::Args;
use sterna_core::tokenizer::{EncodeOptions, Tokenizer};

use crate::Out;
use crate::args::{ModelArgs, PromptArgs};
use crate::source::Source;
use crate::ui::{message, text};

/// What `sterna tokenize` takes.
#[derive(Debug, Args)]
pub struct TokenizeArgs {
    /// Whose vocabulary.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The text.
    #[command(flatten)]
    pub prompt: PromptArgs,
    /// Read the text from stdin.
    #[arg(long, conflicts_with_all = ["prompt", "prompt_file"])]
    pub stdin: bool,
    /// Print the ids only, as a list: [1, 2, 3].
    #[arg(long)]
    pub ids: bool,
    /// Do not add the tokens that begin or end a text.
    #[arg(long)]
    pub no_bos: bool,
    /// Take the names of special tokens, such as <|im_end|>, as plain text.
    #[arg(long)]
    pub no_parse_special: bool,
    /// Print how many tokens there are.
    #[arg(long)]
    pub show_count: bool,
    /// As JSON: an array of objects with id, text and special.
    #[arg(long, conflicts_with = "ids")]
    pub json: bool,
}

/// Prints one line per token.
pub fn run(args: &TokenizeArgs, out: &mut Out) -> Result<()> {
    let source = Source::open(&args.model.resolve()?)?;
    let tokenizer = Tokenizer::from_metadata(&source.header().metadata)?;
    for warning in tokenizer.warnings() {
        message::warning_once(warning);
    }
    let text = if args.stdin { crate::args::read_text("-".as_ref())? } else { args.prompt.text()? };
    let options = EncodeOptions { add_special: !args.no_bos, parse_special: !args.no_parse_special };
    let ids = tokenizer.encode(&text, options)?;
    if args.json {
        let tokens: Vec<_> = ids
            .iter()
            .map(
                |id| serde_json::json!({ "id": id, "text": tokenizer.text(*id), "special": tokenizer.is_special(*id) }),
            )
            .collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&tokens)?)?;
    } else if args.ids {
        writeln!(out, "{ids:?}")?;
    } else {
        for id in &ids {
            let piece = tokenizer.text(*id).unwrap_or("?");
            writeln!(out, "{id:6} -> '{}'", text::plain(piece, 200))?;
        }
    }
    if args.show_count {
        writeln!(out, "Total number of tokens: {}", ids.len())?;
    }
    Ok(())
}
