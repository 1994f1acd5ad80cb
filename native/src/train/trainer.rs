//! The loop: steps, measurements on held-out data, log, plot, checkpoints. What is trained is a [`Task`].
//!
//! Everything that decides what the next step and the next line of the log are is in a checkpoint, so a run that goes on leaves the
//! weights and the log of one that never stopped.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use candle_core::Tensor;
use candle_core::backprop::GradStore;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::checkpoint::{self, Checkpoint, Pending};
use super::log::{Log, LogLine};
use super::ops;
use super::optimizer::Optimizer;
use super::parameters::Parameters;
use super::run_dir::RunDir;
use super::settings::RunConfig;
use super::tell::Teller;
use crate::ui::interrupt::{self, Busy, Interrupted};
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

impl std::fmt::Display for Evaluation {
    /// `loss 1.2345 nats a token, 1.2345 a character`, or `loss 0.0345 nats an image, accuracy 99.12 %`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "loss {:.4} nats", self.loss)?;
        if let Some(per_char) = self.loss_per_char {
            write!(f, " a token, {per_char:.4} a character")?;
        }
        if let Some(accuracy) = self.accuracy {
            write!(f, ", accuracy {:.2} %", accuracy * 100.0)?;
        }
        Ok(())
    }
}

/// Hears how much of a measurement is done, of how much, and says whether it goes on.
pub type Watch<'a> = dyn FnMut(usize, usize) -> bool + 'a;

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

    /// Measures on held-out data; `whole` rather than a part that is quick. `watch` is called after each batch, and may end the
    /// measurement there; the result then is of what was measured.
    ///
    /// # Errors
    /// If the computation fails.
    fn evaluate(&self, step: &Step, whole: bool, watch: &mut Watch<'_>) -> Result<Evaluation>;

    /// What a step works through, and its unit: `(4096, "tokens")`.
    fn items_per_step(&self) -> (usize, &'static str);

    /// A digest of the data that is trained and measured on: a run goes on only with the same. `None` is not compared.
    fn data_digest(&self) -> Option<String> {
        None
    }

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
    #[serde(serialize_with = "crate::ui::text::path_as_json")]
    pub model: PathBuf,
}

/// Trains a task to its end, exports it, and says how it went. `config` describes the whole run, model and data included; a
/// run is resumed only with the same.
///
/// # Errors
/// If the folder cannot be written, the checkpoint is of another run, a loss or gradient is not finite, or Ctrl-C was pressed; the
/// last good checkpoint stays in each case.
pub fn train<C: Serialize + DeserializeOwned>(
    task: &dyn Task,
    run: &RunConfig,
    config: &C,
    dir: &RunDir,
    resume: bool,
) -> Result<Outcome> {
    dir.begin(config, resume)?;
    let mut session = Session::new(task, run, serde_json::to_value(config)?, dir, resume)?;
    session.train()?;
    let Session { progress, held_out, .. } = session;
    let last = step_at(run, run.schedule.steps.saturating_sub(1), false);
    let held_out = match held_out {
        Some(held_out) => held_out,
        None => task.evaluate(&last, true, &mut |_, _| true)?,
    };
    task.export(&dir.model(), &last)?;
    Ok(Outcome { steps: progress.step, held_out, seconds: progress.seconds, model: dir.model() })
}

/// Writes the model of the checkpoint in the run's folder as it is, and says how far the run came.
///
/// # Errors
/// If there is no checkpoint that belongs to the task, or the model cannot be written.
pub fn export(task: &dyn Task, run: &RunConfig, dir: &RunDir) -> Result<checkpoint::Progress> {
    let read = Checkpoint::read(&dir.checkpoint())?;
    restore(task, &read, dir)?;
    task.export(&dir.model(), &step_at(run, read.progress.step.saturating_sub(1), false))?;
    Ok(read.progress)
}

/// What was measured, and of how much.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// Of what was measured.
    pub evaluation: Evaluation,
    /// How much was measured.
    pub done: usize,
    /// Of how much; more than was measured if Ctrl-C was pressed.
    pub total: usize,
}

impl Measured {
    /// The measurement, if it came to its end.
    ///
    /// # Errors
    /// An [`Interrupted`] that says what was found, and then `then`.
    pub fn whole(self, what: &str, then: &str) -> Result<Evaluation> {
        let Self { evaluation, done, total } = self;
        if done >= total {
            return Ok(evaluation);
        }
        let share = 100.0 * done as f64 / total as f64;
        let found = format!("{what} was measured in part: {share:.0} % of the held-out data, {evaluation}");
        let then = if then.is_empty() { found } else { format!("{found}; {then}") };
        Err(Interrupted { then }.into())
    }
}

/// Measures on all held-out data, with a bar that says what is measured; Ctrl-C ends it.
///
/// # Errors
/// If the computation fails.
pub fn measure(task: &dyn Task, step: &Step, what: &str, busy: &Busy) -> Result<Measured> {
    let (mut bar, mut reached) = (None, (0, 0));
    let evaluation = task.evaluate(step, true, &mut |done, total| {
        reached = (done, total);
        let bar = bar.get_or_insert_with(|| Progress::steps(format!("measuring {what}"), total as u64));
        bar.set(done as u64);
        !busy.requested()
    })?;
    Ok(Measured { evaluation, done: reached.0, total: reached.1 })
}

/// The step of this index, counted from 0.
fn step_at(run: &RunConfig, index: usize, training: bool) -> Step {
    Step { index, seed: run.seed, ternary: run.schedule.ternary_share_at(index), training }
}

/// A run in this process, from its beginning or its last checkpoint on.
struct Session<'a> {
    task: &'a dyn Task,
    run: &'a RunConfig,
    dir: &'a RunDir,
    optimizer: Optimizer,
    progress: checkpoint::Progress,
    log: Log,
    /// What was measured last.
    held_out: Option<Evaluation>,
    busy: Busy,
    teller: Teller,
    /// When the last checkpoint was written, and until when seconds are counted.
    saved: Instant,
    counted: Instant,
}

impl<'a> Session<'a> {
    fn new(
        task: &'a dyn Task,
        run: &'a RunConfig,
        config: serde_json::Value,
        dir: &'a RunDir,
        resume: bool,
    ) -> Result<Self> {
        let mut optimizer = Optimizer::new(run.optimizer, task.parameters());
        let mut progress = checkpoint::Progress { data: task.data_digest(), config, ..Default::default() };
        if resume {
            let read = Checkpoint::read(&dir.checkpoint())?;
            restore(task, &read, dir)?;
            let steps = read.progress.step as u32;
            optimizer.restore(task.parameters(), &read.tensors, steps).with_context(|| does_not_fit(dir))?;
            let checkpoint::Progress { config, data, .. } = progress;
            progress = checkpoint::Progress { config, data, ..read.progress };
        }
        let log = Log::open(&dir.log(), progress.step)?;
        if log.step() == progress.step {
            progress.pending = Pending::default();
        }
        let teller = Teller::new(progress.step, run.schedule.steps, task.items_per_step());
        let (now, held_out) = (Instant::now(), log.held_out());
        let busy = interrupt::busy();
        Ok(Self { task, run, dir, optimizer, progress, log, held_out, busy, teller, saved: now, counted: now })
    }

    /// All steps that are left, and the last measurement.
    fn train(&mut self) -> Result<()> {
        loop {
            self.log_if_due()?;
            if self.progress.step >= self.run.schedule.steps {
                return Ok(());
            }
            let stop = self.busy.requested();
            if stop || self.saved.elapsed().as_secs() >= self.run.checkpoint_seconds {
                self.save()?;
            }
            if stop {
                return Err(Interrupted { then: self.so_far() }.into());
            }
            self.step()?;
        }
    }

    /// One step; none if Ctrl-C was pressed before its last part.
    fn step(&mut self) -> Result<()> {
        let (started, index) = (Instant::now(), self.progress.step);
        let step = step_at(self.run, index, true);
        let Some((value, grads)) = gradients(self.task, &step, self.dir, &|| self.busy.requested())? else {
            return Ok(());
        };
        let schedule = &self.run.schedule;
        let (lr, weight_decay) = (schedule.lr_at(index), schedule.weight_decay_at(index));
        let grad_norm = self
            .optimizer
            .step(self.task.parameters(), &grads, lr, weight_decay)
            .map_err(|error| anyhow::anyhow!(not_finite(&error.to_string(), index, self.dir)))?;
        let pending = &mut self.progress.pending;
        pending.seconds += started.elapsed().as_secs_f64();
        pending.losses.push(value);
        pending.grad_norm = grad_norm;
        self.progress.step += 1;
        self.teller.step(self.progress.step);
        Ok(())
    }

    /// Measures and adds a line to the log where this step has one that is not there yet.
    fn log_if_due(&mut self) -> Result<()> {
        let (step, steps) = (self.progress.step, self.run.schedule.steps);
        let measure = step >= steps || step.is_multiple_of(self.run.eval_every.max(1));
        let due = measure || step.is_multiple_of(self.run.log_every.max(1));
        if !due || self.log.step() >= step || self.progress.pending.losses.is_empty() {
            return Ok(());
        }
        let index = step - 1;
        let at = step_at(self.run, index, false);
        let measured = match measure {
            true => Some(self.measure(&at, step >= steps)?),
            false => None,
        };
        self.held_out = measured.or(self.held_out);
        let Pending { losses, grad_norm, seconds } = std::mem::take(&mut self.progress.pending);
        self.progress.seconds += self.counted.elapsed().as_secs_f64();
        self.counted = Instant::now();
        let (items, _) = self.task.items_per_step();
        let line = LogLine {
            step,
            loss: losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / losses.len() as f64,
            lr: self.run.schedule.lr_at(index),
            ternary: at.ternary,
            grad_norm,
            per_second: (items * losses.len()) as f64 / seconds.max(1e-9),
            seconds: self.progress.seconds,
            held_out: measured,
        };
        self.teller.line(&line, self.held_out);
        self.log.add(line)?;
        if measure {
            checkpoint::replace(&self.dir.plot(), self.log.plot().as_bytes())?;
        }
        Ok(())
    }

    /// Measures after a step; Ctrl-C ends it, and nothing is lost by that.
    fn measure(&mut self, at: &Step, last: bool) -> Result<Evaluation> {
        let measured = match last {
            true => {
                // The steps are what took long.
                self.save()?;
                self.teller.end();
                measure(self.task, at, "on all held-out data", &self.busy)?
            }
            false => {
                let (mut reached, teller, busy) = ((0, 0), &mut self.teller, &self.busy);
                let evaluation = self.task.evaluate(at, false, &mut |done, total| {
                    reached = (done, total);
                    teller.measuring(done, total);
                    !busy.requested()
                })?;
                Measured { evaluation, done: reached.0, total: reached.1 }
            }
        };
        if measured.done < measured.total && !last {
            self.save()?;
        }
        measured.whole(&format!("step {}", self.progress.step), &self.so_far())
    }

    fn so_far(&self) -> String {
        let (step, steps) = (self.progress.step, self.run.schedule.steps);
        format!("{step} of {steps} steps are done and saved in {}", self.dir.path().display())
    }

    fn save(&mut self) -> Result<()> {
        let parameters = self.task.parameters();
        let mut tensors = self.optimizer.state(parameters)?;
        tensors.extend(parameters.iter().map(|p| (p.name.clone(), p.var.as_tensor().clone())));
        tensors.extend(self.task.state().into_iter().map(|(name, tensor)| (format!("state.{name}"), tensor)));
        let seconds = self.progress.seconds + self.counted.elapsed().as_secs_f64();
        let progress = checkpoint::Progress { seconds, ..self.progress.clone() };
        Checkpoint { progress, tensors }.write(&self.dir.checkpoint())?;
        self.saved = Instant::now();
        Ok(())
    }
}

/// The mean loss of a step over its parts, and its gradients; `None` if `stop` says so between two parts.
fn gradients(task: &dyn Task, step: &Step, dir: &RunDir, stop: &dyn Fn() -> bool) -> Result<Option<(f32, GradStore)>> {
    let parts = task.parts().max(1);
    let (mut mean, mut sums): (f32, Option<GradStore>) = (0.0, None);
    for part in 0..parts {
        if part > 0 && stop() {
            return Ok(None);
        }
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
    Ok(Some((mean, sums)))
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

fn does_not_fit(dir: &RunDir) -> String {
    format!("{} does not fit this run", dir.checkpoint().display())
}

/// Sets a task to what a checkpoint holds of it.
fn restore(task: &dyn Task, read: &Checkpoint, dir: &RunDir) -> Result<()> {
    if let (Some(saved), Some(given)) = (&read.progress.data, task.data_digest())
        && *saved != given
    {
        bail!(
            "the data is not what {} was trained on: a file has changed, or another one was named; go on with the data that the run \
             began with, or begin another run with another --out",
            dir.path().display()
        );
    }
    let fit = || does_not_fit(dir);
    read.restore(task.parameters()).with_context(fit)?;
    let state =
        read.tensors.iter().filter_map(|(name, tensor)| Some((name.strip_prefix("state.")?.into(), tensor.clone())));
    task.restore(&state.collect()).with_context(fit)
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

        fn evaluate(&self, _: &Step, _: bool, _: &mut Watch<'_>) -> Result<Evaluation> {
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
        let dir = RunDir::create(dir.path())?;
        assert!(gradients(&task, &step, &dir, &|| true)?.is_none());
        let (loss, grads) = gradients(&task, &step, &dir, &|| false)?.unwrap();
        assert!((loss - 12.0).abs() < 1e-5, "{loss}");
        let of = |var: &Var| grads.get(var).unwrap().to_scalar::<f32>().unwrap();
        assert!((of(&task.a) - 2.0).abs() < 1e-6 && (of(&task.b) - 1.0 / 3.0).abs() < 1e-6);
        Ok(())
    }
}
