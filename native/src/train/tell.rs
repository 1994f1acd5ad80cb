//! How a run tells how it goes: a bar on a terminal, elsewhere a line every so often; on both a line for each measurement.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use super::log::LogLine;
use super::trainer::Evaluation;
use crate::ui::progress::Progress;
use crate::ui::{message, text};

/// Lines without a measurement are at least so far apart.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

/// Tells how a run goes, on stderr.
pub(super) struct Teller {
    /// `None` where stderr is no terminal, and when all steps are done.
    bar: Option<Progress>,
    /// Steps that were done before this session, and all.
    first: usize,
    steps: usize,
    /// Of speeds.
    unit: &'static str,
    began: Instant,
    /// When the last line was written.
    told: Option<Instant>,
    /// What stands beside the bar.
    words: String,
}

impl Teller {
    /// `items` is what a step works through, and its unit.
    pub fn new(first: usize, steps: usize, items: (usize, &'static str)) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let mut bar = Progress::training(steps as u64);
            bar.start_at(first as u64);
            bar
        });
        Self { bar, first, steps, unit: items.1, began: Instant::now(), told: None, words: String::new() }
    }

    /// So many steps are done.
    pub fn step(&mut self, done: usize) {
        if let Some(bar) = &mut self.bar {
            bar.set(done as u64);
        }
    }

    /// A measurement between steps is so far.
    pub fn measuring(&mut self, done: usize, total: usize) {
        if let Some(bar) = &mut self.bar {
            let words = if done < total { format!("measuring, {done} of {total}") } else { self.words.clone() };
            bar.describe(&words);
        }
    }

    /// The log has a new line; `held_out` is what was measured last.
    pub fn line(&mut self, line: &LogLine, held_out: Option<Evaluation>) {
        self.words = words(line, held_out, self.unit);
        if let Some(bar) = &mut self.bar {
            bar.describe(&self.words);
        }
        let waited = self.told.is_none_or(|told| told.elapsed() >= BETWEEN_LINES);
        if line.held_out.is_some() || self.bar.is_none() && waited {
            self.told = Some(Instant::now());
            let mut said = format!("step {} of {}: {}", line.step, self.steps, self.words);
            if line.step < self.steps {
                let share = (self.steps - line.step) as f64 / (line.step - self.first).max(1) as f64;
                said += &format!(", {} to go", text::duration(self.began.elapsed().mul_f64(share)));
            }
            message::line(&said);
        }
    }

    /// All steps are done.
    pub fn end(&mut self) {
        self.bar = None;
    }
}

/// How it goes: `loss 1.234, held-out 1.345, accuracy 98.76 %, 4812 tokens/s`.
fn words(line: &LogLine, held_out: Option<Evaluation>, unit: &str) -> String {
    let mut text = format!("loss {:.3}", line.loss);
    if let Some(Evaluation { loss, accuracy, .. }) = held_out {
        text += &format!(", held-out {loss:.3}");
        if let Some(accuracy) = accuracy {
            text += &format!(", accuracy {:.2} %", accuracy * 100.0);
        }
    }
    text + &format!(", {:.0} {unit}/s", line.per_second)
}
