//! What tests of several kinds of training need.

use std::path::Path;

use anyhow::{Result, bail};
use candle_core::Tensor;

use super::parameters::Parameters;
use super::trainer::{Evaluation, Step, Task, Watch};

/// Fails at a step, as if the process had been killed there.
pub struct Killed<T> {
    /// What is trained.
    pub task: T,
    /// Steps that it gets to take.
    pub at: usize,
}

impl<T: Task> Task for Killed<T> {
    fn parameters(&self) -> &Parameters {
        self.task.parameters()
    }

    fn parts(&self) -> usize {
        self.task.parts()
    }

    fn loss(&self, step: &Step, part: usize) -> Result<Tensor> {
        if step.index == self.at { bail!("killed") } else { self.task.loss(step, part) }
    }

    fn evaluate(&self, step: &Step, whole: bool, watch: &mut Watch<'_>) -> Result<Evaluation> {
        self.task.evaluate(step, whole, watch)
    }

    fn data_digest(&self) -> Option<String> {
        self.task.data_digest()
    }

    fn items_per_step(&self) -> (usize, &'static str) {
        self.task.items_per_step()
    }

    fn export(&self, path: &Path, step: &Step) -> Result<()> {
        self.task.export(path, step)
    }
}
