//! Quantization-aware training on a CPU: models with ternary weights, trained from the start or made ternary on the way, and
//! exported as GGUF by the rule that training simulated.
//!
//! - `trainer.rs` is the loop; what it trains is a [`trainer::Task`]: `text/` or `images/`.
//! - `settings.rs` are the settings of every run and their ranges, `memory.rs` what a run needs of the machine's memory.
//! - `run_dir.rs` is a run's folder, `log.rs` the log in it, `tell.rs` what a person sees of a run.
//! - `ops/` are the differentiable steps, `layers.rs` what is built from them, `parameters.rs` the variables.
//! - `hyper_connections.rs` are several residual streams in place of one.
//! - `optimizer.rs` and `schedule.rs` say how variables change, `checkpoint.rs` how a run survives.
//! - `export.rs` writes the GGUF.
//! - `finetune.rs` begins with a checkpoint's weights and ends with a checkpoint and its conversion.
//!
//! Not here: Hugging Face checkpoints themselves, and the runtime, which reads what is exported like any other file.

pub mod checkpoint;
pub mod export;
pub mod finetune;
pub mod hyper_connections;
pub mod images;
pub mod layers;
pub mod log;
pub mod memory;
pub mod ops;
pub mod optimizer;
pub mod parameters;
pub mod run_dir;
pub mod schedule;
pub mod settings;
mod tell;
#[cfg(test)]
mod testing;
pub mod text;
pub mod trainer;

use crate::plot::{Axis, Chart, Scale, Series, lines};

/// The curve of a run's losses, as SVG.
pub fn loss_curve(training: Vec<(f64, f64)>, held_out: Vec<(f64, f64)>) -> String {
    let axis = |label: &str, scale| Axis { label: label.into(), scale };
    let chart = Chart { title: "Loss".into(), x: axis("step", Scale::Linear), y: axis("nats", Scale::Log) };
    let series = |name: &str, points| Series { name: name.into(), points };
    lines(&chart, &[series("training", training), series("held-out", held_out)])
}
