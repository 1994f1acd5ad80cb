//! What is said beside a command's results, on stderr: errors, warnings, notes, and the details that `--verbose` adds.
//!
//! Every line goes through [`line()`], which keeps it apart from a progress bar that is on the screen. The first word is
//! coloured where stderr is a terminal and `NO_COLOR` is unset.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::progress;

/// Whether [`detail`] says anything.
static VERBOSE: AtomicBool = AtomicBool::new(false);
/// What [`warning_once`] has said.
static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

const RED: &str = "31";
const YELLOW: &str = "33";
const CYAN: &str = "36";

/// Why the command failed, and what to do.
pub fn error(text: &str) {
    labelled("error", RED, text);
}

/// What is probably wrong, although the command goes on.
pub fn warning(text: &str) {
    labelled("warning", YELLOW, text);
}

/// A [`warning`] that a process gives once, however often the same is found.
pub fn warning_once(text: &str) {
    if SAID.lock().unwrap_or_else(PoisonError::into_inner).insert(text.to_owned()) {
        warning(text);
    }
}

/// What a person should know about the result.
pub fn note(text: &str) {
    labelled("note", CYAN, text);
}

/// From now on [`detail`] is said too.
pub fn be_verbose() {
    VERBOSE.store(true, Ordering::Relaxed);
}

/// What only `--verbose` says; `text` is not made otherwise.
pub fn detail(text: impl FnOnce() -> String) {
    if VERBOSE.load(Ordering::Relaxed) {
        line(&text());
    }
}

/// One line on stderr, above a progress bar if there is one.
pub fn line(text: &str) {
    // Where the terminal is gone there is nobody to tell; what is under way must not end by that.
    let _ = progress::beside_bars(|| writeln!(io::stderr(), "{text}"));
}

/// An error and its causes in one line; a cause that the message above it quotes already is not said twice. Where `RUST_BACKTRACE`
/// is set, candle writes the frames of its stack into its messages: they are left out.
pub fn said(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.downcast_ref().map_or_else(|| cause.to_string(), without_frames);
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn without_frames(error: &candle_core::Error) -> String {
    use candle_core::Error;
    match error {
        Error::WithBacktrace { inner, .. } => without_frames(inner),
        Error::Context { inner, context } => format!("{context}: {}", without_frames(inner)),
        Error::WithPath { inner, path } => format!("{}: {}", path.display(), without_frames(inner)),
        Error::WrappedContext { wrapped, context } => format!("{context}: {wrapped}"),
        other => other.to_string(),
    }
}

fn labelled(label: &str, colour: &str, text: &str) {
    match coloured() {
        true => line(&format!("\x1b[1;{colour}m{label}:\x1b[0m {text}")),
        false => line(&format!("{label}: {text}")),
    }
}

/// Whether stderr shows colours and nobody asked for none (<https://no-color.org>).
fn coloured() -> bool {
    static COLOURED: OnceLock<bool> = OnceLock::new();
    *COLOURED.get_or_init(|| {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        io::stderr().is_terminal() && !set("NO_COLOR") && !dumb
    })
}

#[cfg(test)]
mod tests {
    use std::backtrace::Backtrace;

    use anyhow::Context;
    use candle_core::Error;

    use super::*;

    #[test]
    fn messages_have_causes_once_and_no_frames() {
        let traced =
            |inner| Error::WithBacktrace { inner: Box::new(inner), backtrace: Box::new(Backtrace::force_capture()) };
        let cause =
            traced(Error::Context { inner: Box::new(traced(Error::Msg("NaN".into()))), context: Box::new("a") });
        assert!(cause.to_string().lines().count() > 3);
        assert_eq!(said(&cause.into()), "a: NaN");
        let error = Err::<(), _>(traced(Error::Msg("NaN".into()))).context("a step").unwrap_err();
        assert_eq!(said(&error), "a step: NaN");
        let quoted = Err::<(), _>(anyhow::anyhow!("b")).context("a quotes b").unwrap_err();
        assert_eq!(said(&quoted), "a quotes b");
    }
}
