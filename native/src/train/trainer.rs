//! The loop: steps, measurements on held-out data, log, plot, checkpoints. What is trained is a [`Task`].

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use candle_core::Tensor;
use candle_core::backprop::GradStore;
use serde::{Deserialize, Serialize};

use super::checkpoint::{self, Checkpoint};
use super::ops;
use super::optimizer::{Optimizer, OptimizerConfig};
use super::parameters::Parameters;
use super::schedule::Schedule;
use crate::ui::interrupt;
use crate::ui::progress::Progress;

/// One step, or a measurement, as layers see it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Steps taken before.
    pub index: usize,
    /// The run's seed.
    pub seed: u64,
    /// How ternary the weights are, from 0 (float, activations too) to 1.
    pub ternary: f32,
    /// Whether gradients are wanted and dropout is on.
    pub training: bool,
}

impl Step {
    /// A stream of random bits for one use within this step.
    pub fn stream(&self, place: u64) -> u64 {
        ops::stream(self.seed, self.index as u64, place)
    }
}

/// What was measured on held-out data.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Mean loss, in nats per token or image.
    pub loss: f64,
    /// The same in nats per character, for text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_per_char: Option<f64>,
    /// Share of right answers, for images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
}

/// A model with its data: what the loop trains.
pub trait Task {
    /// What the optimizer changes.
    fn parameters(&self) -> &Parameters;

    /// How many parts a step's batch is worked through in, so that the activations of one part are in memory at a time. All have the
    /// same size.
    fn parts(&self) -> usize {
        1
    }

    /// The mean loss of a part of this step's batch, a scalar that can be differentiated.
    ///
    /// # Errors
    /// If the computation fails.
    fn loss(&self, step: &Step, part: usize) -> Result<Tensor>;

    /// Measures on held-out data; `whole` rather than a part that is quick.
    ///
    /// # Errors
    /// If the computation fails.
    fn evaluate(&self, step: &Step, whole: bool) -> Result<Evaluation>;

    /// What a step works through, and its unit: `(4096, "tokens")`.
    fn items_per_step(&self) -> (usize, &'static str);

    /// What belongs into a checkpoint besides parameters: running statistics, for one.
    fn state(&self) -> BTreeMap<String, Tensor> {
        BTreeMap::new()
    }

    /// Takes back what [`Task::state`] gave.
    ///
    /// # Errors
    /// If something is missing or has another shape.
    fn restore(&self, _state: &BTreeMap<String, Tensor>) -> Result<()> {
        Ok(())
    }

    /// Writes the model as GGUF.
    ///
    /// # Errors
    /// If it cannot be written.
    fn export(&self, path: &Path, step: &Step) -> Result<()>;
}

/// How a run goes about its steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// Everything random follows from it.
    pub seed: u64,
    /// What changes over the run.
    pub schedule: Schedule,
    /// The optimizer.
    pub optimizer: OptimizerConfig,
    /// Steps between measurements on held-out data.
    pub eval_every: usize,
    /// Steps between lines of the log.
    pub log_every: usize,
    /// Seconds between checkpoints.
    pub checkpoint_seconds: u64,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            seed: 1,
            schedule: Schedule::default(),
            optimizer: OptimizerConfig::default(),
            eval_every: 200,
            log_every: 10,
            checkpoint_seconds: 120,
        }
    }
}

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

/// A finished run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// Steps taken.
    pub steps: usize,
    /// The last measurement, over all held-out data.
    pub held_out: Evaluation,
    /// Seconds, in all sessions.
    pub seconds: f64,
    /// The model.
    pub model: PathBuf,
}

/// Files of a run in its folder.
#[derive(Clone, Debug)]
pub struct RunDir {
    dir: PathBuf,
}

impl RunDir {
    /// The folder of a run, made if it is not there.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn create(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make the folder {}", dir.display()))?;
        Ok(Self { dir: dir.into() })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// The trained model.
    pub fn model(&self) -> PathBuf {
        self.dir.join("model.gguf")
    }

    /// The last checkpoint.
    pub fn checkpoint(&self) -> PathBuf {
        checkpoint::path_in(&self.dir)
    }

    /// The log, one JSON object a line.
    pub fn log(&self) -> PathBuf {
        self.dir.join("log.jsonl")
    }

    /// The settings, as `--config` reads them.
    pub fn config(&self) -> PathBuf {
        self.dir.join("config.toml")
    }

    /// The curve of losses.
    pub fn plot(&self) -> PathBuf {
        self.dir.join("loss.svg")
    }
}

/// Whether a run can begin, or go on, in its folder.
///
/// # Errors
/// If there is a checkpoint where the run is to begin, or none where it is to go on.
pub fn check_start(dir: &RunDir, resume: bool) -> Result<()> {
    let path = dir.checkpoint();
    match (resume, path.exists()) {
        (true, false) => {
            bail!("there is no checkpoint at {} to resume from; leave out --resume to begin", path.display())
        }
        (false, true) => bail!(
            "{} holds the checkpoint of an earlier run; go on with --resume, name another folder with --out, or delete it",
            dir.dir.display()
        ),
        _ => Ok(()),
    }
}

/// Trains a task to its end, exports it, and says how it went. `config` describes the whole run, model and data included; a
/// run is resumed only with the same.
///
/// # Errors
/// If the folder cannot be written, the checkpoint is of another run, a loss or gradient is not finite, or Ctrl-C was pressed; the
/// last good checkpoint stays in each case.
pub fn train(task: &dyn Task, run: &RunConfig, config: &impl Serialize, dir: &RunDir, resume: bool) -> Result<Outcome> {
    let mut optimizer = Optimizer::new(run.optimizer, task.parameters());
    let settings = toml::to_string_pretty(config).context("settings cannot be written as TOML")?;
    let config = serde_json::to_value(config)?;
    let mut progress = checkpoint::Progress { step: 0, seconds: 0.0, config };
    check_start(dir, resume)?;
    if resume {
        continue_from(task, &mut optimizer, &mut progress, &dir.checkpoint())?;
    }
    checkpoint::replace(&dir.config(), settings.as_bytes())
        .with_context(|| format!("cannot write {}", dir.config().display()))?;
    let mut log = Log::open(&dir.log(), progress.step)?;
    let busy = interrupt::busy();
    let (items, unit) = task.items_per_step();
    let mut bar = Progress::training(run.schedule.steps as u64);
    bar.start_at(progress.step as u64);
    let step_at = |index: usize, training: bool| Step {
        index,
        seed: run.seed,
        ternary: run.schedule.ternary_share_at(index),
        training,
    };
    let save = |optimizer: &Optimizer, progress: &checkpoint::Progress| -> Result<()> {
        let mut tensors = optimizer.state(task.parameters())?;
        tensors.extend(task.parameters().iter().map(|p| (p.name.clone(), p.var.as_tensor().clone())));
        tensors.extend(task.state().into_iter().map(|(name, tensor)| (format!("state.{name}"), tensor)));
        Checkpoint { progress: progress.clone(), tensors }.write(&dir.checkpoint())
    };

    let mut held_out = log.lines.iter().rev().find_map(|line| line.held_out);
    let (mut saved, mut since) = (Instant::now(), Instant::now());
    let (mut losses, mut stepping) = (Vec::new(), Duration::ZERO);
    while progress.step < run.schedule.steps {
        let (started, index) = (Instant::now(), progress.step);
        let step = step_at(index, true);
        let (value, grads) = gradients(task, &step, dir)?;
        let (lr, weight_decay) = (run.schedule.lr_at(index), run.schedule.weight_decay_at(index));
        let grad_norm = optimizer
            .step(task.parameters(), &grads, lr, weight_decay)
            .map_err(|error| anyhow::anyhow!(not_finite(&error.to_string(), index, dir)))?;
        stepping += started.elapsed();
        losses.push(f64::from(value));
        progress.step += 1;
        let done = progress.step == run.schedule.steps;
        let measure = done || progress.step.is_multiple_of(run.eval_every.max(1));
        let mut measured = None;
        if measure {
            measured = Some(task.evaluate(&step_at(index, false), done)?);
            held_out = measured.or(held_out);
        }
        if measure || progress.step.is_multiple_of(run.log_every.max(1)) {
            progress.seconds += since.elapsed().as_secs_f64();
            since = Instant::now();
            let line = LogLine {
                step: progress.step,
                loss: losses.iter().sum::<f64>() / losses.len() as f64,
                lr,
                ternary: step.ternary,
                grad_norm,
                per_second: (items * losses.len()) as f64 / stepping.as_secs_f64().max(1e-9),
                seconds: progress.seconds,
                held_out: measured,
            };
            bar.describe(&describe(&line, held_out, unit));
            log.add(line)?;
            (losses, stepping) = (Vec::new(), Duration::ZERO);
        }
        bar.set(progress.step as u64);
        if measure {
            checkpoint::replace(&dir.plot(), log.plot().as_bytes())?;
        }
        let stop = busy.requested();
        if done || stop || saved.elapsed().as_secs() >= run.checkpoint_seconds {
            let seconds = progress.seconds + since.elapsed().as_secs_f64();
            save(&optimizer, &checkpoint::Progress { seconds, ..progress.clone() })?;
            saved = Instant::now();
        }
        if stop && !done {
            let then = format!("{} steps are done; --resume goes on from there", progress.step);
            return Err(interrupt::Interrupted { then }.into());
        }
    }
    drop(bar);
    let last = step_at(run.schedule.steps.saturating_sub(1), false);
    let held_out = match held_out {
        Some(held_out) if !log.lines.is_empty() => held_out,
        _ => task.evaluate(&last, true)?,
    };
    task.export(&dir.model(), &last)?;
    Ok(Outcome { steps: progress.step, held_out, seconds: progress.seconds, model: dir.model() })
}

/// The mean loss of a step over its parts, and its gradients.
fn gradients(task: &dyn Task, step: &Step, dir: &RunDir) -> Result<(f32, GradStore)> {
    let parts = task.parts().max(1);
    let (mut mean, mut sums): (f32, Option<GradStore>) = (0.0, None);
    for part in 0..parts {
        let mut loss = task.loss(step, part).map_err(|error| match sound(task.parameters()) {
            true => error,
            false => anyhow::anyhow!(not_finite(&format!("{error:#}"), step.index, dir)),
        })?;
        let value = loss.to_scalar::<f32>()?;
        if !value.is_finite() {
            bail!(not_finite(&format!("the loss is {value}"), step.index, dir));
        }
        mean += value / parts as f32;
        if parts > 1 {
            loss = (loss * (1.0 / parts as f64))?;
        }
        let mut grads = loss.backward()?;
        sums = Some(match sums {
            None => grads,
            Some(mut sums) => {
                for parameter in task.parameters().iter() {
                    let sum = match (sums.remove(&parameter.var), grads.remove(&parameter.var)) {
                        (Some(a), Some(b)) => Some((a + b)?),
                        (a, b) => a.or(b),
                    };
                    if let Some(sum) = sum {
                        sums.insert(&parameter.var, sum);
                    }
                }
                sums
            }
        });
    }
    let sums = sums.context("a step has no parts")?;
    Ok((mean, sums))
}

fn not_finite(what: &str, step: usize, dir: &RunDir) -> String {
    let last = match dir.checkpoint().exists() {
        true => format!("; the last good checkpoint is {}", dir.checkpoint().display()),
        false => String::new(),
    };
    format!("training diverged at step {step}: {what}; try a lower --lr or a longer warm-up{last}")
}

/// Whether all parameters are numbers that an f16 scale could hold; far beyond what weights are.
fn sound(parameters: &Parameters) -> bool {
    const LARGEST: f32 = 65_504.0;
    parameters.iter().all(|parameter| {
        ops::values(parameter.var.as_tensor()).is_ok_and(|values| values.iter().all(|value| value.abs() <= LARGEST))
    })
}

fn continue_from(
    task: &dyn Task,
    optimizer: &mut Optimizer,
    progress: &mut checkpoint::Progress,
    path: &Path,
) -> Result<()> {
    let read = Checkpoint::read(path)?;
    if let Some(difference) = difference(&progress.config, &read.progress.config, "") {
        bail!("{} is of another run: {difference}; resume with the settings it began with", path.display());
    }
    let fit = || format!("{} does not fit this run", path.display());
    read.restore(task.parameters()).with_context(fit)?;
    optimizer.restore(task.parameters(), &read.tensors, read.progress.step as u32).with_context(fit)?;
    let state =
        read.tensors.iter().filter_map(|(name, tensor)| Some((name.strip_prefix("state.")?.into(), tensor.clone())));
    task.restore(&state.collect()).with_context(fit)?;
    *progress = read.progress;
    Ok(())
}

/// The first place where two configurations differ.
fn difference(ours: &serde_json::Value, theirs: &serde_json::Value, at: &str) -> Option<String> {
    if let (Some(ours), Some(theirs)) = (ours.as_object(), theirs.as_object()) {
        let keys: std::collections::BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
        let null = serde_json::Value::Null;
        return keys.into_iter().find_map(|key| {
            let at = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
            difference(ours.get(key).unwrap_or(&null), theirs.get(key).unwrap_or(&null), &at)
        });
    }
    (ours != theirs).then(|| format!("{at} was {theirs} there and is {ours} here"))
}

/// What stands behind the bar.
fn describe(line: &LogLine, held_out: Option<Evaluation>, unit: &str) -> String {
    let mut text = format!("loss {:.3}", line.loss);
    if let Some(held_out) = held_out {
        text += &format!(", held-out {:.3}", held_out.loss_per_char.unwrap_or(held_out.loss));
        if let Some(accuracy) = held_out.accuracy {
            text += &format!(", accuracy {:.2} %", accuracy * 100.0);
        }
    }
    text + &format!(", {:.0} {unit}/s", line.per_second)
}

/// The log, in memory for the plot and on disk.
struct Log {
    lines: Vec<LogLine>,
    file: File,
    path: PathBuf,
}

impl Log {
    /// Opens the log of a run that is at `step`; later lines, of a session that was killed, are dropped.
    fn open(path: &Path, step: usize) -> Result<Self> {
        let cannot = || format!("cannot write {}", path.display());
        let mut lines: Vec<LogLine> = Vec::new();
        if let (Ok(file), true) = (File::open(path), step > 0) {
            for line in BufReader::new(file).lines() {
                // A line that was cut by a kill is the last one.
                match serde_json::from_str::<LogLine>(&line?) {
                    Ok(line) if line.step <= step => lines.push(line),
                    _ => break,
                }
            }
        }
        let mut text = String::new();
        for line in &lines {
            text += &serde_json::to_string(line)?;
            text.push('\n');
        }
        checkpoint::replace(path, text.as_bytes()).with_context(cannot)?;
        let file = OpenOptions::new().append(true).open(path).with_context(cannot)?;
        Ok(Self { lines, file, path: path.into() })
    }

    fn add(&mut self, line: LogLine) -> Result<()> {
        let text = serde_json::to_string(&line)? + "\n";
        self.file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", self.path.display()))?;
        self.lines.push(line);
        Ok(())
    }

    /// The curve as SVG.
    fn plot(&self) -> String {
        let training = self.lines.iter().map(|line| (line.step as f64, line.loss)).collect();
        let held_out = self.lines.iter().filter_map(|line| Some((line.step as f64, line.held_out?.loss))).collect();
        super::loss_curve(training, held_out)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::super::parameters::Kind;
    use super::*;

    /// The loss of part i is `(i + 1) a`, and only the last part knows of b.
    struct Parts {
        parameters: Parameters,
        a: Var,
        b: Var,
    }

    impl Task for Parts {
        fn parameters(&self) -> &Parameters {
            &self.parameters
        }

        fn parts(&self) -> usize {
            3
        }

        fn loss(&self, _: &Step, part: usize) -> Result<Tensor> {
            let loss = (self.a.as_tensor() * (part + 1) as f64)?;
            Ok(if part == 2 { (loss + self.b.as_tensor())? } else { loss })
        }

        fn evaluate(&self, _: &Step, _: bool) -> Result<Evaluation> {
            Ok(Evaluation { loss: 0.0, loss_per_char: None, accuracy: None })
        }

        fn items_per_step(&self) -> (usize, &'static str) {
            (3, "parts")
        }

        fn export(&self, _: &Path, _: &Step) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn parts_of_a_step_are_averaged() -> Result<()> {
        let mut parameters = Parameters::new(1);
        let scalar = |value: f32| Tensor::new(value, &Device::Cpu);
        let a = parameters.add("a", Kind::Vector, scalar(5.0)?)?;
        let b = parameters.add("b", Kind::Vector, scalar(6.0)?)?;
        let task = Parts { parameters, a, b };
        let dir = tempfile::tempdir()?;
        let step = Step { index: 0, seed: 1, ternary: 1.0, training: true };
        let (loss, grads) = gradients(&task, &step, &RunDir::create(dir.path())?)?;
        assert!((loss - 12.0).abs() < 1e-5, "{loss}");
        let of = |var: &Var| grads.get(var).unwrap().to_scalar::<f32>().unwrap();
        assert!((of(&task.a) - 2.0).abs() < 1e-6 && (of(&task.b) - 1.0 / 3.0).abs() < 1e-6);
        Ok(())
    }
}
