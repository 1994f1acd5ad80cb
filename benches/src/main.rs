//! What the machine can do: the memory's speed, the choice of a token, and a training step against its matrix products.
//!
//! ```text
//! cargo run --release -p sterna-benches -- bandwidth --threads 1,2
//! cargo run --release -p sterna-benches -- sampling
//! cargo run --release -p sterna-benches -- training
//! ```
//!
//! Prints Markdown tables, medians of alternating runs; records of such runs are in benches/record/. Whole models and ternary
//! products are measured by `sterna bench` and `sterna bench gemm`.

mod sampling;
mod training;

use std::hint::black_box;
use std::time::Instant;

use clap::{Args, Parser};
use sterna::bench::Spread;

/// Measures memory, sampling and training.
#[derive(Parser)]
enum Command {
    /// Reading a buffer that no cache holds: what decoding a large model cannot outrun
    Bandwidth(Bandwidth),
    /// Choosing a token from the logits of a large vocabulary
    Sampling(sampling::SamplingArgs),
    /// A training step of the Shakespeare model against its matrix products alone
    Training(training::Training),
}

#[derive(Args)]
struct Bandwidth {
    /// Bytes read a round
    #[arg(long, default_value_t = 1 << 30)]
    bytes: usize,
    /// Threads, each reading its share
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2])]
    threads: Vec<usize>,
    /// Rounds over all numbers of threads
    #[arg(long, default_value_t = 9)]
    rounds: usize,
}

fn main() -> anyhow::Result<()> {
    match Command::parse() {
        Command::Bandwidth(args) => bandwidth(&args),
        Command::Sampling(args) => sampling::run(&args)?,
        Command::Training(args) => training::run(&args)?,
    }
    Ok(())
}

fn bandwidth(args: &Bandwidth) {
    let data = vec![1u64; args.bytes / 8];
    let mut times = vec![Vec::new(); args.threads.len()];
    for _ in 0..args.rounds {
        for (&threads, times) in args.threads.iter().zip(&mut times) {
            let start = Instant::now();
            std::thread::scope(|scope| {
                for part in data.chunks(data.len().div_ceil(threads)) {
                    scope.spawn(move || black_box(part.iter().fold(0u64, |sum, word| sum.wrapping_add(*word))));
                }
            });
            times.push(start.elapsed().as_secs_f64());
        }
    }
    println!("reading {} bytes of memory", args.bytes);
    println!();
    println!("| threads | median ms | GB/s | best GB/s |");
    println!("| ---: | ---: | ---: | ---: |");
    for (threads, times) in args.threads.iter().zip(&times) {
        let Some(seconds) = Spread::of(times) else { continue };
        let of = |seconds: f64| args.bytes as f64 / seconds / 1e9;
        println!("| {threads} | {:.1} | {:.2} | {:.2} |", seconds.median * 1e3, of(seconds.median), of(seconds.min));
    }
}
