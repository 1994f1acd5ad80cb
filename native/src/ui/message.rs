//! What is said beside a command's results, on stderr: errors, warnings, notes, and the details that `--verbose` adds.
//!
//! Every line goes through [`line()`], which keeps it apart from a progress bar that is on the screen. The first word is
//! coloured where stderr is a terminal and `NO_COLOR` is unset.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal};
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
    progress::beside_bars(|| eprintln!("{text}"));
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
