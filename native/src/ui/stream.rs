//! Text that appears as it is generated, and how fast it did.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use crate::Out;

/// Writes pieces of text at once and knows how many tokens they are.
pub struct Printer<'a> {
    out: &'a mut Out,
    started: Instant,
    prompt: Option<(usize, Duration)>,
    generated: usize,
    /// Whether what was written last ended a line.
    line_ended: bool,
}

impl<'a> Printer<'a> {
    /// The clock starts now, with the prompt about to be read.
    pub fn new(out: &'a mut Out) -> Self {
        Self { out, started: Instant::now(), prompt: None, generated: 0, line_ended: true }
    }

    /// Writes text that is not generated, such as the prompt.
    pub fn echo(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.as_bytes())?;
        if !text.is_empty() {
            self.line_ended = text.ends_with('\n');
        }
        self.out.flush()
    }

    /// Ends the line that the text is in, if it is in one, so that what is said on stderr stands on its own. To a pipe or a file goes
    /// the text and nothing else.
    pub fn end_line(&mut self) -> io::Result<()> {
        if self.line_ended {
            return Ok(());
        }
        if io::stdout().is_terminal() {
            self.echo("\n")?;
        } else if together() {
            eprintln!();
            self.line_ended = true;
        }
        Ok(())
    }

    /// The prompt of `tokens` has been read; what follows is generation.
    pub fn prompt_done(&mut self, tokens: usize) {
        self.prompt = Some((tokens, self.started.elapsed()));
    }

    /// A piece of the reply, often empty: `generated` tokens were drawn so far.
    pub fn reply(&mut self, piece: &str, generated: usize) -> io::Result<()> {
        self.generated = generated;
        if piece.is_empty() {
            return Ok(());
        }
        self.echo(piece)
    }

    /// The line about speed.
    pub fn speed(&self) -> Speed {
        let (prompt, reading) = self.prompt.unwrap_or_default();
        Speed { prompt, reading, generated: self.generated, generating: self.started.elapsed().saturating_sub(reading) }
    }
}

/// Whether stdout and stderr go to the same file or pipe, as with `2>&1`.
pub fn together() -> bool {
    #[cfg(unix)]
    {
        use std::os::fd::{AsFd, BorrowedFd};
        use std::os::unix::fs::MetadataExt;
        let place = |end: BorrowedFd<'_>| {
            let file: std::fs::File = end.try_clone_to_owned().ok()?.into();
            file.metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()))
        };
        let (out, error) = (place(io::stdout().as_fd()), place(io::stderr().as_fd()));
        out.is_some() && out == error
    }
    #[cfg(not(unix))]
    false
}

/// How many tokens took how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Speed {
    /// Tokens of the prompt.
    pub prompt: usize,
    /// What reading them took.
    pub reading: Duration,
    /// Tokens generated.
    pub generated: usize,
    /// What that took.
    pub generating: Duration,
}

impl Speed {
    /// `prompt 12 tokens at 345.0 tokens/s; generated 200 tokens at 57.1 tokens/s`
    pub fn line(&self) -> String {
        let part = |n: usize, time: Duration| {
            let unit = if n == 1 { "token" } else { "tokens" };
            match time.as_secs_f64() {
                0.0 => format!("{n} {unit}"),
                seconds => format!("{n} {unit} at {:.1} tokens/s", n as f64 / seconds),
            }
        };
        format!("prompt {}; generated {}", part(self.prompt, self.reading), part(self.generated, self.generating))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_written_and_counted() {
        let mut out = Vec::new();
        let mut printer = Printer::new(&mut out);
        printer.echo("Once").unwrap();
        printer.prompt_done(2);
        // The last piece is what a text that ends inside a character leaves over.
        for (piece, generated) in [(" upon", 1), ("", 2), (" a", 3), ("\u{fffd}", 3)] {
            printer.reply(piece, generated).unwrap();
        }
        let speed = printer.speed();
        assert_eq!((speed.prompt, speed.generated), (2, 3));
        assert_eq!(out, "Once upon a\u{fffd}".as_bytes());
    }

    #[test]
    fn speed_reads_well() {
        let speed = Speed { prompt: 1, reading: Duration::ZERO, generated: 200, generating: Duration::from_secs(4) };
        assert_eq!(speed.line(), "prompt 1 token; generated 200 tokens at 50.0 tokens/s");
    }
}
