//! What to generate: the text that it begins with, and where it ends.

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use sterna_core::generate::GenerateOptions;

use super::ranges::at_least;
use super::{EngineArgs, SamplingArgs};
use crate::ui::message;

/// What to generate.
#[derive(Debug, Clone, Args)]
pub struct GenerateArgs {
    /// What the text begins with.
    #[command(flatten)]
    pub prompt: PromptArgs,
    /// Where it ends.
    #[command(flatten)]
    pub limits: LimitArgs,
    /// When the context is full, forget its older half and go on.
    #[arg(long, overrides_with = "no_context_shift")]
    pub context_shift: bool,
    /// End when the context is full; this is the default.
    #[arg(long)]
    pub no_context_shift: bool,
    /// With --context-shift, never forget the first N tokens of the prompt; -1 is all of it.
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true, value_parser = at_least::<-1, i64>)]
    pub keep: i64,
    /// Print the prompt before the generated text; this is the default.
    #[arg(long, overrides_with = "no_display_prompt")]
    pub display_prompt: bool,
    /// Print the generated text only.
    #[arg(long)]
    pub no_display_prompt: bool,
    /// Whether speeds are printed.
    #[command(flatten)]
    pub perf: PerfArgs,
    /// How the engine runs.
    #[command(flatten)]
    pub engine: EngineArgs,
    /// How the next token is chosen.
    #[command(flatten)]
    pub sampling: SamplingArgs,
}

impl GenerateArgs {
    /// When to stop, for a prompt of so many tokens.
    ///
    /// # Errors
    /// If a text at which to stop is not UTF-8 once its escapes are read.
    pub fn options(&self, prompt: usize) -> Result<GenerateOptions> {
        Ok(GenerateOptions {
            // -2 is llama.cpp's way to ask for an end where the context is full.
            slide: self.context_shift && self.limits.predict != -2,
            keep: usize::try_from(self.keep).map_or(prompt, |keep| keep.min(prompt)),
            ..self.limits.options(&self.prompt)?
        })
    }
}

/// Where a text ends.
#[derive(Debug, Clone, Args)]
pub struct LimitArgs {
    /// How many tokens to generate; -1 goes on until the model ends the text or the context is full.
    #[arg(short = 'n', long, visible_alias = "n-predict", value_name = "N", default_value_t = -1, allow_negative_numbers = true, value_parser = at_least::<-2, i64>)]
    pub predict: i64,
    /// End where this text comes up; it is not printed. May be given more than once; also -r and --reverse-prompt.
    #[arg(short = 'r', long, alias = "reverse-prompt", value_name = "TEXT", allow_hyphen_values = true)]
    pub stop: Vec<String>,
    /// Go on when the model ends the text.
    #[arg(long)]
    pub ignore_eos: bool,
}

impl LimitArgs {
    /// As core's options. Escapes are read in the texts at which to stop as they are in `prompt`.
    ///
    /// # Errors
    /// If such a text is not UTF-8 once its escapes are read.
    pub fn options(&self, prompt: &PromptArgs) -> Result<GenerateOptions> {
        Ok(GenerateOptions {
            max_tokens: usize::try_from(self.predict).ok(),
            stop: self.stop.iter().map(|text| prompt.unescaped(text)).collect::<Result<_>>()?,
            ignore_eos: self.ignore_eos,
            ..GenerateOptions::default()
        })
    }
}

/// Whether speeds are printed.
#[derive(Debug, Clone, Default, Args)]
pub struct PerfArgs {
    /// Print speeds (they go to stderr); this is the default.
    #[arg(long, alias = "show-timings", overrides_with = "no_perf")]
    pub perf: bool,
    /// Do not print speeds.
    #[arg(long, alias = "no-show-timings")]
    pub no_perf: bool,
}

/// A text from the command line, a file or stdin.
#[derive(Debug, Clone, Default, Args)]
pub struct PromptArgs {
    /// The text to begin with; names of special tokens in it, such as <|im_end|>, are these tokens, as with llama.cpp. Without it
    /// and -f, a text that is piped in; one newline at its end is dropped.
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub prompt: Option<String>,
    /// Read that text from a file; - is stdin. It is taken as it is.
    #[arg(
        id = "prompt_file",
        short = 'f',
        long = "file",
        alias = "binary-file",
        value_name = "FILE",
        conflicts_with = "prompt"
    )]
    pub prompt_file: Option<PathBuf>,
    /// Read \n, \t, \" and the like in the prompt as such; the default, as with llama.cpp.
    #[arg(short, long, overrides_with = "no_escape")]
    pub escape: bool,
    /// Take backslashes in the prompt as they are.
    #[arg(long)]
    pub no_escape: bool,
}

impl PromptArgs {
    /// The text, if one was given. What comes from a file is taken as it is.
    ///
    /// # Errors
    /// A file that cannot be read or is not UTF-8; escapes that are not UTF-8.
    pub fn given(&self) -> Result<Option<String>> {
        match (&self.prompt, &self.prompt_file) {
            (_, Some(path)) => read_text(path).map(Some),
            (Some(text), None) => self.unescaped(text).map(Some),
            (None, None) => Ok(None),
        }
    }

    /// The text that was given, or the one that is piped in. Empty if there is neither.
    ///
    /// # Errors
    /// As [`given`](Self::given).
    pub fn text(&self) -> Result<String> {
        match self.given()? {
            Some(text) => Ok(text),
            None => Ok(piped()?.unwrap_or_default()),
        }
    }

    /// A text from the command line with its escapes read, unless --no-escape was given.
    fn unescaped(&self, text: &str) -> Result<String> {
        if self.no_escape { Ok(text.to_owned()) } else { unescape(text) }
    }
}

/// The text that is piped in, without one newline at its end; `None` if stdin is a terminal or has nothing.
///
/// # Errors
/// If stdin cannot be read or is not UTF-8 text.
pub fn piped() -> Result<Option<String>> {
    if std::io::stdin().is_terminal() {
        return Ok(None);
    }
    // A pipe that nobody closes would be waited for without a word.
    let (done, waiting) = channel::<()>();
    std::thread::spawn(move || {
        if waiting.recv_timeout(Duration::from_secs(2)) == Err(RecvTimeoutError::Timeout) {
            message::line("reading the prompt from stdin until it ends; -p gives one on the command line");
        }
    });
    let mut text = read_text(Path::new("-"))?;
    drop(done);
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok((!text.is_empty()).then_some(text))
}

/// The text of a file, or of stdin where the name is `-`.
///
/// # Errors
/// If it cannot be read or is not UTF-8.
pub fn read_text(path: &Path) -> Result<String> {
    let bytes = if path.as_os_str() == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().lock().read_to_end(&mut bytes).context("cannot read stdin")?;
        bytes
    } else {
        std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?
    };
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let name = if path.as_os_str() == "-" { "stdin".to_owned() } else { path.display().to_string() };
        anyhow::anyhow!("{name} is not UTF-8 text (byte {at}); convert it with iconv")
    })
}

/// `text` with \n, \r, \t, \\, \", \' and \xHH (bytes of UTF-8) replaced; other backslashes stay, as in llama.cpp.
fn unescape(text: &str) -> Result<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = |digits: &[u8]| std::str::from_utf8(digits).ok().and_then(|d| u8::from_str_radix(d, 16).ok());
        let (written, left): (&[u8], &[u8]) = match (byte, after) {
            (b'\\', [b'n', left @ ..]) => (b"\n", left),
            (b'\\', [b'r', left @ ..]) => (b"\r", left),
            (b'\\', [b't', left @ ..]) => (b"\t", left),
            (b'\\', [c @ (b'\\' | b'"' | b'\''), left @ ..]) => (std::slice::from_ref(c), left),
            (b'\\', [b'x', a, b, left @ ..]) if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => {
                out.extend(hex(&[*a, *b]));
                (b"", left)
            }
            _ => (std::slice::from_ref(&byte), after),
        };
        out.extend_from_slice(written);
        rest = left;
    }
    String::from_utf8(out)
        .context("the \\x bytes in the prompt are not UTF-8; write the characters, or use --no-escape")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_in_prompts_are_read() {
        assert_eq!(unescape(r#"a\nb\t\"c\" \\n \xC3\xBC \d \"#).unwrap(), "a\nb\t\"c\" \\n ü \\d \\");
        assert!(unescape(r"\xFF").is_err());
    }
}
