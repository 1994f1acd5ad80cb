//! One file a command: its arguments, and a thin body that hands them on.

pub mod bench;
pub mod bench_gemm;
pub mod bench_gguf;
pub mod bench_model;
pub mod bench_quantization;
pub mod chat;
pub mod completions;
pub mod convert;
pub mod data;
pub mod eval;
pub mod inspect;
pub mod list;
pub mod man;
pub mod perplexity;
pub mod pull;
pub mod qat;
pub mod quantize;
pub mod remove;
pub mod run;
pub mod runs;
pub mod tokenize;
pub mod train;

use anyhow::Result;

use crate::Out;
use crate::args::{Cli, Command};
use crate::embedded;
use crate::ui::message;

/// Runs what was typed. Results go to `out`; progress, speeds and warnings to stderr.
pub fn dispatch(cli: Cli, out: &mut Out) -> Result<()> {
    if cli.verbose {
        message::be_verbose();
    }
    message::detail(|| format!("sterna {} on {}", crate::VERSION, crate::machine::cpu_name()));
    match cli.command {
        None => embedded::generate(&cli.generate, out),
        Some(Command::Run(args)) => run::run(&args, out),
        Some(Command::Chat(args)) => chat::run(&args, out),
        Some(Command::Inspect(args)) => inspect::run(&args, out),
        Some(Command::Bench(args)) => bench::run(&args, out),
        Some(Command::Perplexity(args)) => perplexity::run(&args, out),
        Some(Command::Eval(args)) => eval::run(&args, out),
        Some(Command::Tokenize(args)) => tokenize::run(&args, out),
        Some(Command::Pull(args)) => pull::run(&args, out),
        Some(Command::List(args)) => list::run(&args, out),
        Some(Command::Remove(args)) => remove::run(&args, out),
        Some(Command::Train(args)) => train::run(&args, out),
        Some(Command::Qat(args)) => qat::run(&args, out),
        Some(Command::Convert(args)) => convert::run(&args, out),
        Some(Command::Gguf(args)) => convert::run_gguf(&args, out),
        Some(Command::Quantize(args)) => quantize::run(&args, out),
        Some(Command::Dequantize(args)) => quantize::run_dequantize(&args, out),
        Some(Command::Data(args)) => data::run(&args, out),
        Some(Command::Completions(args)) => completions::run(&args, out),
        Some(Command::Man(args)) => man::run(&args, out),
    }
}
