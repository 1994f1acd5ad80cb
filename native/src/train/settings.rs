//! The settings that every run has, what makes sense in them, and which of them may change when a run goes on.
//!
//! Each kind of run (text, images, fine-tuning) has settings of its own beside these; it checks them with the same [`Setting`].

use std::fmt::Display;
use std::ops::RangeBounds;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::optimizer::OptimizerConfig;
use super::schedule::Schedule;

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
    /// Where data sets are looked for first, as in [`crate::data::locate`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<PathBuf>,
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
            data_dir: None,
        }
    }
}

impl RunConfig {
    /// Whether every number makes sense. `ternary` says whether the run makes weights ternary.
    ///
    /// # Errors
    /// The first that does not, by its name, with the range.
    pub fn check(&self, ternary: bool) -> Result<()> {
        let (s, steps) = (&self.schedule, self.schedule.steps);
        // TOML has no larger whole number.
        Setting("--seed").within(self.seed, 0..=i64::MAX as u64, "a whole number from 0 to 2^63 - 1")?;
        Setting("--steps").at_least(steps, 1)?;
        Setting("--lr").above_zero(s.lr)?;
        Setting("--weight-decay").not_negative(s.weight_decay)?;
        Setting("--second-stage").share(s.second_stage)?;
        Setting("--eval-every").at_least(self.eval_every, 1)?;
        Setting("run.log_every").at_least(self.log_every, 1)?;
        let OptimizerConfig { beta1, beta2, eps, max_norm } = self.optimizer;
        Setting("run.optimizer.beta1").share_below_one(beta1)?;
        Setting("run.optimizer.beta2").share_below_one(beta2)?;
        Setting("run.optimizer.eps").above_zero(eps)?;
        Setting("run.optimizer.max_norm").above_zero(max_norm)?;
        if s.float_steps > steps {
            bail!("--float-steps is {}, but the run has {steps} steps; give at most that", s.float_steps);
        }
        if ternary && s.ternary_share_at(steps - 1) < 1.0 {
            bail!(
                "after --float-steps {} and --ternary-warmup-steps {} none of the {steps} steps is left in which weights are wholly \
                 ternary; give more --steps, or fewer of the others",
                s.float_steps,
                s.ternary_warmup_steps
            );
        }
        Ok(())
    }

    /// What a person should know about settings that make sense but are rarely meant.
    pub fn notes(&self) -> Vec<String> {
        let Schedule { steps, warmup_steps, .. } = self.schedule;
        let mut notes = Vec::new();
        if warmup_steps > steps {
            notes.push(format!(
                "the learning rate rises over --warmup-steps {warmup_steps}, but the run has {steps} steps: it never reaches --lr"
            ));
        }
        notes
    }
}

/// A number by the name that a person gives it: a flag, or a key of the TOML file.
#[derive(Clone, Copy, Debug)]
pub struct Setting(pub &'static str);

impl Setting {
    /// Whether a value is in a range; `range` says which.
    ///
    /// # Errors
    /// If it is not, NaN included.
    pub fn within<T: PartialOrd + Display>(self, value: T, bounds: impl RangeBounds<T>, range: &str) -> Result<()> {
        if !bounds.contains(&value) {
            bail!("{} is {value}; give {range}", self.0);
        }
        Ok(())
    }

    /// A whole number from `least` on.
    ///
    /// # Errors
    /// If the value is none.
    pub fn at_least(self, value: usize, least: usize) -> Result<()> {
        self.within(value, least.., &format!("a whole number, at least {least}"))
    }

    /// A number above 0.
    ///
    /// # Errors
    /// If the value is none, NaN and infinity included.
    pub fn above_zero(self, value: f32) -> Result<()> {
        self.within(value, f32::MIN_POSITIVE..=f32::MAX, "a number above 0")
    }

    /// A number from 0 on.
    ///
    /// # Errors
    /// If the value is none, NaN and infinity included.
    pub fn not_negative(self, value: f32) -> Result<()> {
        self.within(value, 0.0..=f32::MAX, "a number, at least 0")
    }

    /// A number from 0 to 1.
    ///
    /// # Errors
    /// If the value is none.
    pub fn share(self, value: f32) -> Result<()> {
        self.within(value, 0.0..=1.0, "a number from 0 to 1")
    }

    /// A number from 0 to 1, 1 itself left out.
    ///
    /// # Errors
    /// If the value is none.
    pub fn share_below_one(self, value: f32) -> Result<()> {
        self.within(value, 0.0..1.0, "a number from 0 up to, but not including, 1")
    }
}

/// Bytes of a digest as text.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Keys that may change when a run goes on. None of them changes what is learned: the text may have moved, but a digest holds it to
/// what it was.
const FREE: [&str; 8] =
    ["run.data_dir", "run.eval_every", "run.log_every", "run.checkpoint_seconds", "text", "also", "eval_text", "about"];

/// A setting that two descriptions of a run do not agree on.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// Its key, as in the TOML file.
    pub key: String,
    /// What it was when the run began.
    pub saved: Value,
    /// What it is now.
    pub given: Value,
}

/// The settings of type `T` that a checkpoint keeps; what it has no key for gets its default.
///
/// # Errors
/// If they are of another kind of run.
pub fn restored<T: DeserializeOwned>(saved: &Value) -> Result<T> {
    serde_json::from_value(saved.clone()).context("its settings are of another kind of run")
}

/// The first setting in which `given` is another run than the one that was saved; `None` if it can go on.
///
/// # Errors
/// If what was saved is of another kind of run.
pub fn difference<T: Serialize + DeserializeOwned>(saved: &Value, given: &T) -> Result<Option<Difference>> {
    // Through the type, so that numbers are as exact on both sides.
    let saved = serde_json::to_value(restored::<T>(saved)?)?;
    Ok(first_difference(&saved, &serde_json::to_value(given)?, ""))
}

fn first_difference(saved: &Value, given: &Value, at: &str) -> Option<Difference> {
    if FREE.contains(&at) {
        return None;
    }
    if let (Some(saved), Some(given)) = (saved.as_object(), given.as_object()) {
        let keys: std::collections::BTreeSet<_> = saved.keys().chain(given.keys()).collect();
        return keys.into_iter().find_map(|key| {
            let at = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
            first_difference(saved.get(key).unwrap_or(&Value::Null), given.get(key).unwrap_or(&Value::Null), &at)
        });
    }
    (saved != given).then(|| Difference { key: at.into(), saved: saved.clone(), given: given.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl Fn(&mut RunConfig)) -> String {
        let mut run = RunConfig::default();
        change(&mut run);
        run.check(true).unwrap_err().to_string()
    }

    #[test]
    fn numbers_outside_their_range_are_refused_by_name() {
        assert!(RunConfig::default().check(true).is_ok());
        for lr in [-1.0, 0.0, f32::NAN, f32::INFINITY] {
            assert_eq!(refused(|run| run.schedule.lr = lr), format!("--lr is {lr}; give a number above 0"));
        }
        assert_eq!(refused(|run| run.schedule.second_stage = 3.0), "--second-stage is 3; give a number from 0 to 1");
        assert!(refused(|run| run.schedule.second_stage = f32::NAN).contains("--second-stage is NaN"));
        assert!(refused(|run| run.schedule.weight_decay = -0.1).contains("--weight-decay is -0.1"));
        assert_eq!(refused(|run| run.schedule.steps = 0), "--steps is 0; give a whole number, at least 1");
        assert!(refused(|run| run.eval_every = 0).contains("--eval-every is 0"));
        assert!(refused(|run| run.log_every = 0).contains("run.log_every is 0"));
        assert!(refused(|run| run.seed = u64::MAX).contains("--seed is 18446744073709551615"));
        assert!(refused(|run| run.optimizer.beta1 = 1.0).contains("run.optimizer.beta1 is 1"));
        assert!(refused(|run| run.optimizer.beta2 = -0.5).contains("run.optimizer.beta2 is -0.5"));
        assert!(refused(|run| run.optimizer.eps = 0.0).contains("run.optimizer.eps is 0"));
        assert!(refused(|run| run.optimizer.max_norm = f32::INFINITY).contains("run.optimizer.max_norm is inf"));
    }

    #[test]
    fn a_run_ends_with_ternary_weights_unless_it_is_a_float_one() {
        let steps = |run: &mut RunConfig, float, warm| {
            (run.schedule.steps, run.schedule.float_steps, run.schedule.ternary_warmup_steps) = (100, float, warm);
        };
        assert!(refused(|run| steps(run, 101, 0)).contains("--float-steps is 101, but the run has 100 steps"));
        assert!(refused(|run| steps(run, 100, 0)).contains("none of the 100 steps is left"));
        assert!(refused(|run| steps(run, 50, 51)).contains("--ternary-warmup-steps 51"));
        let mut run = RunConfig::default();
        steps(&mut run, 50, 50);
        assert!(run.check(true).is_ok());
        steps(&mut run, 100, 0);
        assert!(run.check(false).is_ok());
        run.schedule.warmup_steps = 101;
        assert!(run.notes()[0].contains("--warmup-steps 101"));
    }

    #[test]
    fn what_may_change_is_no_difference() {
        let run = RunConfig::default();
        let saved = serde_json::json!({"run": run, "text": "a.txt"});
        #[derive(Clone, Serialize, Deserialize)]
        struct Settings {
            run: RunConfig,
            text: String,
        }
        let mut given = Settings { run, text: "b.txt".into() };
        (given.run.eval_every, given.run.checkpoint_seconds, given.run.data_dir) = (7, 0, Some("x".into()));
        assert_eq!(difference(&saved, &given).unwrap(), None);
        given.run.schedule.steps = 70;
        let Difference { key, saved: was, given: is } = difference(&saved, &given).unwrap().unwrap();
        assert_eq!((key.as_str(), was, is), ("run.schedule.steps", 1000.into(), 70.into()));
        assert!(difference(&serde_json::json!({"other": 1}), &given).is_err());
    }
}
