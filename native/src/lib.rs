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
pub mod memory;
pub mod near;
pub mod output;
pub mod perplexity;
pub mod plot;
pub mod source;
pub mod train;
pub mod ui;

/// The commit that this program was built from, ten hex digits; empty where that is not known.
pub const COMMIT: &str = env!("STERNA_COMMIT");

/// The version, with the commit in parentheses where that is known.
pub const VERSION: &str = env!("STERNA_VERSION");

/// Where results go. Commands run inside the engine's thread pool, so it can change threads.
pub type Out = dyn std::io::Write + Send;
