//! What a person sees and presses: progress, messages, Ctrl-C, tables, streamed text, reports. No command's logic.

pub mod bench_report;
pub mod divergence;
pub mod interrupt;
pub mod message;
pub mod perplexity;
pub mod progress;
pub mod stream;
mod table;
pub mod text;
