//! Ctrl-C. While something is under way that can stop by itself, the first press asks it to stop and the second ends the
//! process. At any other time the first press ends the process. Either way the exit code is 130.
//!
//! SIGTERM, and SIGHUP of a terminal that was closed, do the same as a press, with the same exit code; SIGHUP is left alone where it
//! was ignored before, as under nohup.

use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use super::message;
use crate::fetch::FetchError;
use crate::hub::HubError;

/// The exit code of a process ended by Ctrl-C.
pub const EXIT_CODE: u8 = 130;

/// Work was stopped with Ctrl-C, and what it had done is kept.
#[derive(Debug, Default, thiserror::Error)]
#[error("stopped with Ctrl-C{}", if .then.is_empty() { String::new() } else { format!("; {}", .then) })]
pub struct Interrupted {
    /// What is kept, what is partial, or how to go on; may be empty.
    pub then: String,
}

impl Interrupted {
    /// Stopped after `done` of `count` things: `partial: 3 of 1,059 chunks`.
    pub fn partial(done: usize, count: usize, things: &str) -> Self {
        let thousands = super::text::thousands;
        Self { then: format!("partial: {} of {} {things}", thousands(done as u64), thousands(count as u64)) }
    }
}

/// Whether an error says that Ctrl-C was pressed.
pub fn is_interrupted(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.is::<Interrupted>()
            || matches!(cause.downcast_ref(), Some(FetchError::Interrupted))
            || matches!(cause.downcast_ref(), Some(HubError::Fetch(FetchError::Interrupted)))
    })
}

/// Work that takes longer to stop is told to be stopping.
const PATIENCE: Duration = Duration::from_secs(2);

/// Works that are under way and look at [`Busy::requested`].
static BUSY: AtomicUsize = AtomicUsize::new(0);
/// Presses since the last work began.
static PRESSES: AtomicUsize = AtomicUsize::new(0);
static INSTALL: Once = Once::new();
/// When the last press was.
static LAST: Mutex<Option<Instant>> = Mutex::new(None);
/// What comes sooner after a press belongs to it: a terminal that is closed sends SIGHUP itself, and its shell does again.
const ONE_PRESS: Duration = Duration::from_millis(200);

/// Work that stops by itself when asked; see [`busy`].
#[derive(Debug)]
pub struct Busy(());

/// Takes over Ctrl-C for the whole process.
pub fn install() {
    INSTALL.call_once(|| {
        #[cfg(unix)]
        let before = set_hangup(libc::SIG_IGN);
        // Where no handler can be set, Ctrl-C ends the process, as it does without one.
        let handled = ctrlc::set_handler(pressed).is_ok();
        #[cfg(unix)]
        if !handled || before == libc::SIG_IGN {
            set_hangup(before);
        }
        #[cfg(not(unix))]
        let _ = handled;
    });
}

/// Sets what SIGHUP does, to what it did before or to nothing; gives what it did before.
#[cfg(unix)]
fn set_hangup(action: libc::sighandler_t) -> libc::sighandler_t {
    // SAFETY: the action is one that the system gave, or SIG_IGN, which runs no code of ours.
    unsafe { libc::signal(libc::SIGHUP, action) }
}

/// Says that work is under way until the value is dropped, and that it will look at [`Busy::requested`] often.
pub fn busy() -> Busy {
    install();
    if BUSY.fetch_add(1, Ordering::SeqCst) == 0 {
        PRESSES.store(0, Ordering::SeqCst);
    }
    Busy(())
}

impl Busy {
    /// Whether Ctrl-C was pressed.
    pub fn requested(&self) -> bool {
        PRESSES.load(Ordering::SeqCst) > 0
    }

    /// An [`Interrupted`] if Ctrl-C was pressed.
    ///
    /// # Errors
    /// That.
    pub fn check(&self) -> Result<(), Interrupted> {
        if self.requested() { Err(Interrupted::default()) } else { Ok(()) }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        BUSY.fetch_sub(1, Ordering::SeqCst);
    }
}

fn pressed() {
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    let again = last.replace(Instant::now()).is_some_and(|last| last.elapsed() < ONE_PRESS);
    drop(last);
    if again && PRESSES.load(Ordering::SeqCst) > 0 && BUSY.load(Ordering::SeqCst) > 0 {
        return;
    }
    let earlier = PRESSES.fetch_add(1, Ordering::SeqCst);
    if BUSY.load(Ordering::SeqCst) == 0 || earlier > 0 {
        // The shell's prompt goes on a line of its own, after a bar or half a line.
        if io::stderr().is_terminal() {
            eprintln!();
        }
        std::process::exit(i32::from(EXIT_CODE));
    }
    // What is under way may be slow to stop: a person must know how to stop it at once.
    std::thread::spawn(|| {
        std::thread::sleep(PATIENCE);
        if BUSY.load(Ordering::SeqCst) > 0 && PRESSES.load(Ordering::SeqCst) == 1 {
            message::line("stopping; Ctrl-C once more ends the program at once");
        }
    });
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn interruptions_are_known_below_any_context() {
        let error: Result<(), _> = Err(Interrupted::partial(3, 1059, "chunks"));
        let error = error.context("m.gguf").unwrap_err();
        assert!(is_interrupted(&error));
        assert!(format!("{error:#}").ends_with("stopped with Ctrl-C; partial: 3 of 1,059 chunks"));
        assert!(is_interrupted(&HubError::Fetch(FetchError::Interrupted).into()));
        assert!(is_interrupted(&FetchError::Interrupted.into()));
        assert!(!is_interrupted(&anyhow::anyhow!("stopped with Ctrl-C")));
    }
}
