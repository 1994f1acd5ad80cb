//! How long a model takes for prompts and for tokens one by one. What the tokens are does not matter for the time, so they are
//! drawn at random, the same in every run.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use sterna_core::kernels::Executor;
use sterna_core::{Model, Session, SessionOptions};

use crate::ui::interrupt::Busy;

/// A session that is fed random tokens.
pub struct Feeder<'a> {
    session: Session,
    vocabulary: u64,
    state: u64,
    busy: &'a Busy,
}

impl<'a> Feeder<'a> {
    /// With an empty context.
    pub fn new(model: &Model, exec: Arc<dyn Executor>, busy: &'a Busy) -> Self {
        let session = model.session(SessionOptions { context: None, exec });
        Self { session, vocabulary: model.transformer().vocabulary() as u64, state: 1, busy }
    }

    /// Feeds so many tokens at once; false if Ctrl-C was pressed.
    ///
    /// # Errors
    /// If they do not fit the context.
    pub fn prompt(&mut self, tokens: usize) -> Result<bool> {
        let tokens: Vec<u32> = (0..tokens).map(|_| self.next()).collect();
        if !tokens.is_empty() {
            self.session.feed_while(&tokens, |_| !self.busy.requested())?;
        }
        Ok(!self.busy.requested())
    }

    /// Feeds so many tokens one by one; false if Ctrl-C was pressed.
    ///
    /// # Errors
    /// If they do not fit the context.
    pub fn generate(&mut self, tokens: usize) -> Result<bool> {
        for _ in 0..tokens {
            if self.busy.requested() {
                return Ok(false);
            }
            let token = self.next();
            self.session.feed(&[token])?;
        }
        Ok(!self.busy.requested())
    }

    fn next(&mut self) -> u32 {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.state >> 33) % self.vocabulary) as u32
    }
}

/// What one run does: reads `depth` tokens, which are not timed, then a prompt, then generates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Tokens that are in the context before.
    pub depth: usize,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens that are generated.
    pub generated: usize,
}

impl Run {
    /// All its tokens.
    pub fn tokens(&self) -> usize {
        self.depth.saturating_add(self.prompt).saturating_add(self.generated)
    }
}

/// Nanoseconds of each of `runs` runs of a prompt and the generation after it, timed together, each in a context of its own;
/// `warmups` more come before and are not timed. `done` hears the number of each run that ended, from 1 on. `None` if Ctrl-C was
/// pressed.
///
/// # Errors
/// If they do not fit the context.
pub fn samples(
    model: &Model,
    run: Run,
    (runs, warmups): (u32, u32),
    exec: &Arc<dyn Executor>,
    busy: &Busy,
    done: &mut dyn FnMut(u64),
) -> Result<Option<Vec<u64>>> {
    let mut samples = Vec::new();
    for nth in 0..runs.saturating_add(warmups) {
        let mut feeder = Feeder::new(model, exec.clone(), busy);
        if !feeder.prompt(run.depth)? {
            return Ok(None);
        }
        let clock = Instant::now();
        if !(feeder.prompt(run.prompt)? && feeder.generate(run.generated)?) {
            return Ok(None);
        }
        if nth >= warmups {
            samples.push(u64::try_from(clock.elapsed().as_nanos()).unwrap_or(u64::MAX));
        }
        done(u64::from(nth) + 1);
    }
    Ok(Some(samples))
}
