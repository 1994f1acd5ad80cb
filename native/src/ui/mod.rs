//! What a person sees and presses: progress, Ctrl-C, tables, streamed text, reports. No command's logic.

pub mod bench_report;
pub mod interrupt;
pub mod perplexity;
pub mod progress;
pub mod stream;
pub mod text;
