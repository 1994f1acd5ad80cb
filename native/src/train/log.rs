//! The log of a run: `log.jsonl`, a line for each few steps.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::checkpoint;
use super::trainer::Evaluation;

/// A line of `log.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogLine {
    /// Steps taken.
    pub step: usize,
    /// Mean training loss since the line before, in nats.
    pub loss: f64,
    /// Learning rate of the last step.
    pub lr: f32,
    /// How ternary weights were.
    pub ternary: f32,
    /// Norm of the last gradient before it was held.
    pub grad_norm: f32,
    /// Tokens or images a second since the line before, measurements and checkpoints left out.
    pub per_second: f64,
    /// Seconds since the run began, in all sessions.
    pub seconds: f64,
    /// What was measured at this step, if anything was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out: Option<Evaluation>,
}

/// The log, in memory for the plot and on disk.
pub(super) struct Log {
    lines: Vec<LogLine>,
    file: File,
    path: PathBuf,
}

impl Log {
    /// Opens the log of a run that is at `step`; later lines, of a session that was killed, are dropped.
    pub fn open(path: &Path, step: usize) -> Result<Self> {
        let cannot = || format!("cannot write {}", path.display());
        let (mut lines, mut kept) = (Vec::new(), String::new());
        if step > 0 {
            // A line that was cut by a kill is the last one. What is kept stays as it was written, to the digit.
            for text in fs::read_to_string(path).unwrap_or_default().split_inclusive('\n') {
                match serde_json::from_str::<LogLine>(text) {
                    Ok(line) if line.step <= step && text.ends_with('\n') => lines.push(line),
                    _ => break,
                }
                kept.push_str(text);
            }
        }
        checkpoint::replace(path, kept.as_bytes()).with_context(cannot)?;
        let file = OpenOptions::new().append(true).open(path).with_context(cannot)?;
        Ok(Self { lines, file, path: path.into() })
    }

    /// The step of the last line; 0 without one.
    pub fn step(&self) -> usize {
        self.lines.last().map_or(0, |line| line.step)
    }

    /// What was measured last.
    pub fn held_out(&self) -> Option<Evaluation> {
        self.lines.iter().rev().find_map(|line| line.held_out)
    }

    pub fn add(&mut self, line: LogLine) -> Result<()> {
        let text = serde_json::to_string(&line)? + "\n";
        self.file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", self.path.display()))?;
        self.lines.push(line);
        Ok(())
    }

    /// The curve as SVG.
    pub fn plot(&self) -> String {
        let training = self.lines.iter().map(|line| (line.step as f64, line.loss)).collect();
        let held_out = self.lines.iter().filter_map(|line| Some((line.step as f64, line.held_out?.loss))).collect();
        super::loss_curve(training, held_out)
    }
}
