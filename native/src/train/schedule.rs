//! What changes over a run: learning rate, weight decay, and how ternary the weights are.

use serde::{Deserialize, Serialize};

/// How the learning rate falls after its warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Decay {
    /// Straight to 0 at the last step.
    #[default]
    Linear,
    /// Half a cosine to 0.
    Cosine,
    /// BitNet b1.58's two stages (its training notes): linearly towards 0, but at `second_stage` the rate drops by half and
    /// weight decay ends.
    TwoStage,
    /// Stays.
    Constant,
}

/// The course of a run. All fractions are of all steps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Schedule {
    /// Steps in all.
    pub steps: usize,
    /// Peak learning rate.
    pub lr: f32,
    /// Steps over which the rate rises from 0.
    pub warmup_steps: usize,
    /// How it falls afterwards.
    pub decay: Decay,
    /// Decoupled weight decay of matrices (AdamW, arXiv:1711.05101), per step times the learning rate.
    pub weight_decay: f32,
    /// Share of the steps, from 0 to 1, after which weight decay ends, and with two stages the second begins.
    pub second_stage: f32,
    /// Steps at the beginning with float weights and activations.
    pub float_steps: usize,
    /// Steps after these over which weights go from float to ternary.
    pub ternary_warmup_steps: usize,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            steps: 1000,
            lr: 3e-3,
            warmup_steps: 50,
            decay: Decay::Linear,
            weight_decay: 0.1,
            second_stage: 1.0,
            float_steps: 0,
            ternary_warmup_steps: 0,
        }
    }
}

impl Schedule {
    /// Learning rate of a step, counted from 0.
    pub fn lr_at(&self, step: usize) -> f32 {
        let done = step as f32 / self.steps.max(1) as f32;
        let rise = ((step + 1) as f32 / self.warmup_steps.max(1) as f32).min(1.0);
        let fall = match self.decay {
            Decay::Linear => 1.0 - done,
            Decay::Cosine => 0.5 * (1.0 + (core::f32::consts::PI * done).cos()),
            Decay::TwoStage if done >= self.second_stage => 0.5 * (1.0 - done),
            Decay::TwoStage => 1.0 - done,
            Decay::Constant => 1.0,
        };
        self.lr * rise * fall.max(0.0)
    }

    /// Weight decay of a step.
    pub fn weight_decay_at(&self, step: usize) -> f32 {
        let over = step as f32 >= self.second_stage * self.steps as f32;
        if over { 0.0 } else { self.weight_decay }
    }

    /// How ternary weights are at a step, from 0 to 1.
    pub fn ternary_share_at(&self, step: usize) -> f32 {
        match step.checked_sub(self.float_steps) {
            None => 0.0,
            Some(_) if self.ternary_warmup_steps == 0 => 1.0,
            Some(since) => ((since + 1) as f32 / self.ternary_warmup_steps as f32).min(1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_and_falls() {
        let schedule = Schedule { steps: 100, lr: 1.0, warmup_steps: 10, ..Schedule::default() };
        assert_eq!(schedule.lr_at(0), 0.1);
        assert!((schedule.lr_at(50) - 0.5).abs() < 1e-6 && (schedule.lr_at(99) - 0.01).abs() < 1e-6);
        let two = Schedule { decay: Decay::TwoStage, second_stage: 0.5, ..schedule };
        assert!((two.lr_at(49) - 0.51).abs() < 1e-6 && (two.lr_at(50) - 0.25).abs() < 1e-6);
        assert_eq!((two.weight_decay_at(49), two.weight_decay_at(50)), (0.1, 0.0));
        let cosine = Schedule { decay: Decay::Cosine, ..schedule };
        assert!((cosine.lr_at(50) - 0.5).abs() < 1e-6);
    }

    #[test]
    fn weights_become_ternary() {
        let schedule = Schedule { float_steps: 10, ternary_warmup_steps: 4, ..Schedule::default() };
        let shares = [9, 10, 12, 13, 99].map(|step| schedule.ternary_share_at(step));
        assert_eq!(shares, [0.0, 0.25, 0.75, 1.0, 1.0]);
        assert_eq!(Schedule::default().ternary_share_at(0), 1.0);
    }
}
