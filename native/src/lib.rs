//! The parts of the `sterna` command that tests and benchmarks call too. The stable interface is the command line and
//! the crate `sterna-core`; this library follows the command's needs.

pub mod args;
pub mod bench;
pub mod checkpoint;
pub mod commands;
pub mod convert;
pub mod data;
pub mod embedded;
pub mod engine;
pub mod fetch;
pub mod hub;
pub mod images;
pub mod loss;
pub mod machine;
pub mod perplexity;
pub mod plot;
pub mod source;
pub mod train;
pub mod ui;

/// Where results go. Commands run inside the engine's thread pool, so it can change threads.
pub type Out = dyn std::io::Write + Send;
