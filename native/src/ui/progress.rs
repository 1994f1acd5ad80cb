//! Progress of what takes more than a second, on stderr: a bar on a terminal, else a few lines that keep a log short.

use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::interrupt::{self, Busy};
use super::{message, text};
use crate::fetch::{Event, Watcher};

/// What takes less than this is not told.
const PATIENCE: Duration = Duration::from_secs(1);
/// Lines are at least so far apart, and a tenth of the way.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

/// The bars on the screen, by number.
static BARS: Mutex<Vec<(u64, ProgressBar)>> = Mutex::new(Vec::new());
/// Of the next bar.
static NUMBER: AtomicU64 = AtomicU64::new(0);
static SILENT: AtomicBool = AtomicBool::new(false);

/// From now on this process tells no progress: another one does.
pub fn silence() {
    SILENT.store(true, Ordering::Relaxed);
}

/// Takes a bar off the screen while `write` writes to the terminal.
pub fn beside_bars<R>(write: impl FnOnce() -> R) -> R {
    let bar = bars().last().cloned();
    match bar {
        Some((_, bar)) => bar.suspend(write),
        None => write(),
    }
}

fn bars() -> MutexGuard<'static, Vec<(u64, ProgressBar)>> {
    BARS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How far a thing is, in bytes or steps.
pub struct Progress {
    bar: ProgressBar,
    what: String,
    total: Option<u64>,
    in_bytes: bool,
    since: Instant,
    /// What was done before this process began.
    before: u64,
    way: Way,
}

/// How progress is told.
enum Way {
    /// On the screen after a second.
    Bar(u64),
    Lines(Pace),
    Silence,
}

impl Progress {
    /// Over bytes, with speed and time to go. `what` is said before it.
    pub fn bytes(what: impl Into<String>, total: Option<u64>) -> Self {
        let style = match total {
            Some(_) => "{wide_msg} [{bar:20}] {bytes}/{total_bytes} {bytes_per_sec} {eta}",
            None => "{wide_msg} {bytes} {bytes_per_sec} {elapsed}",
        };
        Self::new(what.into(), total, true, style)
    }

    /// Over steps.
    pub fn steps(what: impl Into<String>, total: u64) -> Self {
        Self::new(what.into(), Some(total), false, "{wide_msg} [{bar:20}] {pos}/{len} {eta}")
    }

    /// Over the steps of training; [`Progress::describe`] says how it goes.
    pub fn training(total: u64) -> Self {
        Self::new("training".into(), Some(total), false, "[{bar:20}] {pos}/{len} {eta} {wide_msg}")
    }

    /// Says how it goes, beside the bar or at the end of the next line.
    pub fn describe(&self, text: &str) {
        self.bar.set_message(text.to_owned());
    }

    /// Writes a line above the bar.
    pub fn say(&self, line: &str) {
        message::line(line);
    }

    fn new(what: String, total: Option<u64>, in_bytes: bool, style: &str) -> Self {
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden()).with_message(what.clone());
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style.progress_chars("=> "));
        }
        let way = if SILENT.load(Ordering::Relaxed) {
            Way::Silence
        } else if io::stderr().is_terminal() {
            Way::Bar(shown_later(&bar))
        } else {
            Way::Lines(Pace::default())
        };
        Self { bar, what, total, in_bytes, since: Instant::now(), before: 0, way }
    }

    /// So much is done.
    pub fn set(&mut self, done: u64) {
        self.bar.set_position(done);
        let elapsed = self.since.elapsed();
        if let Way::Lines(pace) = &mut self.way
            && pace.due(elapsed, done, self.total)
        {
            message::line(&self.line(elapsed, done));
        }
    }

    /// What was done before this process began must not count as speed.
    pub fn start_at(&mut self, done: u64) {
        self.before = done;
        self.bar.set_position(done);
        self.bar.reset_eta();
    }

    /// `loading: 1.2 GiB of 4.0 GiB (30 %), 12 s left`
    fn line(&self, elapsed: Duration, done: u64) -> String {
        let amount = |n: u64| if self.in_bytes { text::bytes(n) } else { text::thousands(n) };
        let mut line = format!("{}: {}", self.what, amount(done));
        if let Some(total) = self.total.filter(|&total| total > 0) {
            line += &format!(" of {} ({:.0} %)", amount(total), 100.0 * done as f64 / total as f64);
            let here = done.saturating_sub(self.before);
            let left = elapsed.as_secs_f64() * total.saturating_sub(done) as f64 / here as f64;
            // Nothing done yet, or a total beyond belief: no telling.
            if let Ok(left) = Duration::try_from_secs_f64(left) {
                line += &format!(", {} left", text::duration(left));
            }
        }
        // The bar's message is what it was made with, until someone describes how it goes.
        let words = self.bar.message();
        if words != self.what {
            line += &format!("; {words}");
        }
        line
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        let mut bars = bars();
        if let Way::Bar(number) = self.way {
            bars.retain(|(other, _)| *other != number);
        }
        self.bar.finish_and_clear();
    }
}

/// Brings a bar to the screen after [`PATIENCE`], if it is still there, whether anything moved or not; gives its number.
fn shown_later(bar: &ProgressBar) -> u64 {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let bar = bar.downgrade();
    thread::spawn(move || {
        thread::sleep(PATIENCE);
        // No bar ends while they are held.
        let mut bars = bars();
        if let Some(bar) = bar.upgrade().filter(|bar| !bar.is_finished()) {
            bar.set_draw_target(ProgressDrawTarget::stderr());
            bar.tick();
            bars.push((number, bar));
        }
    });
    number
}

/// When the next line is due.
#[derive(Debug, Default)]
struct Pace {
    said: Option<Duration>,
    tenth: u64,
}

impl Pace {
    /// Whether to say now that so much is done: once after a second, then at each tenth of the way that is ten seconds after the
    /// line before, or every ten seconds where the way's length is not known. The end needs no line.
    fn due(&mut self, elapsed: Duration, done: u64, total: Option<u64>) -> bool {
        if elapsed < PATIENCE || total.is_some_and(|total| done >= total) {
            return false;
        }
        let tenth = total.map(|total| (u128::from(done) * 10 / u128::from(total)) as u64);
        let due = match self.said {
            None => true,
            Some(said) => elapsed - said >= BETWEEN_LINES && tenth.is_none_or(|tenth| tenth > self.tenth),
        };
        if due {
            (self.said, self.tenth) = (Some(elapsed), tenth.unwrap_or_default());
        }
        due
    }
}

/// Shows a download and lets Ctrl-C stop it.
pub struct HubProgress {
    busy: Busy,
    label: String,
    checking: Option<Progress>,
    bar: Option<Progress>,
}

impl HubProgress {
    /// Nothing is shown until something happens.
    pub fn new() -> Self {
        Self { busy: interrupt::busy(), label: String::new(), checking: None, bar: None }
    }
}

impl Default for HubProgress {
    fn default() -> Self {
        Self::new()
    }
}

impl Watcher for HubProgress {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Waiting { what } => message::line(&format!("waiting for another sterna that is fetching {what}")),
            Event::Started { file, number, count } => {
                self.bar = None;
                let name = file.rsplit('/').next().unwrap_or(file);
                self.label = if count > 1 { format!("{name} ({number} of {count})") } else { name.to_owned() };
                message::line(&format!("fetching {}", self.label));
            }
            Event::Checking { done } => {
                let label = || format!("checking what is here of {}", self.label);
                self.checking.get_or_insert_with(|| Progress::bytes(label(), None)).set(done);
            }
            Event::Advanced { done, total } => {
                self.checking = None;
                match &mut self.bar {
                    Some(bar) => bar.set(done),
                    None => {
                        let mut bar = Progress::bytes(self.label.clone(), total);
                        bar.start_at(done);
                        self.bar = Some(bar);
                    }
                }
            }
            Event::Retrying { why, wait, next, tries } => {
                let seconds = wait.as_secs_f32().ceil();
                message::line(&format!("{}; trying again in {seconds} s (try {next} of {tries})", why.cause()));
            }
            Event::Finished => self.bar = None,
        }
    }

    fn interrupted(&self) -> bool {
        self.busy.requested()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The seconds at which lines are written while `done(second)` grows.
    fn lines(total: Option<u64>, seconds: u64, done: impl Fn(u64) -> u64) -> Vec<u64> {
        let mut pace = Pace::default();
        (0..=seconds).filter(|&second| pace.due(Duration::from_secs(second), done(second), total)).collect()
    }

    #[test]
    fn lines_are_few_and_far_between() {
        // A minute: no two within ten seconds, none at the end.
        assert_eq!(lines(Some(60), 60, |second| second), [1, 11, 21, 31, 41, 51]);
        // An hour: one for each tenth.
        assert_eq!(lines(Some(3600), 3600, |s| s), [1, 360, 720, 1080, 1440, 1800, 2160, 2520, 2880, 3240]);
        // Of unknown length: every ten seconds. Quick things: none.
        assert_eq!(lines(None, 30, |second| second), [1, 11, 21]);
        assert_eq!(lines(Some(9), 9, |second| if second == 0 { 0 } else { 9 }), [0u64; 0]);
        assert_eq!(lines(Some(u64::MAX), 11, |second| second << 60), [1, 11]);
        assert_eq!(lines(Some(0), 9, |second| second), [0u64; 0]);
    }

    #[test]
    fn lines_say_how_far_it_is() {
        let at = |progress: Progress, words: Option<&str>, done| {
            words.into_iter().for_each(|words| progress.describe(words));
            progress.line(Duration::from_secs(30), done)
        };
        let mut resumed = Progress::steps("training", 3600);
        resumed.start_at(600);
        assert_eq!(at(resumed, Some("loss 1.4"), 1200), "training: 1,200 of 3,600 (33 %), 2 min left; loss 1.4");
        assert_eq!(
            at(Progress::bytes("loading", Some(4 << 30)), None, 1 << 30),
            "loading: 1.0 GiB of 4.0 GiB (25 %), 90 s left"
        );
        assert_eq!(at(Progress::bytes("a.bin", None), None, 1 << 20), "a.bin: 1.0 MiB");
    }
}
