//! The time that choosing a token takes: greedy, with the defaults, and over the whole vocabulary.

use std::hint::black_box;
use std::time::Instant;

use clap::Args;
use sterna::bench::Spread;
use sterna_core::generate::{Sampler, Sampling};

/// What the measurement takes.
#[derive(Args)]
pub struct SamplingArgs {
    /// Tokens of the vocabulary
    #[arg(long, default_value_t = 151_936)]
    vocabulary: usize,
    /// Tokens drawn in a round
    #[arg(long, default_value_t = 200)]
    draws: usize,
    /// Rounds over all settings
    #[arg(long, default_value_t = 9)]
    rounds: usize,
}

/// Prints a row for each way to choose.
pub fn run(args: &SamplingArgs) -> anyhow::Result<()> {
    let logits = logits(args.vocabulary);
    let settings = [
        ("--temp 0", Sampling::greedy()),
        ("defaults", Sampling::default()),
        ("--repeat-penalty 1.1", Sampling { repeat_penalty: 1.1, ..Sampling::default() }),
        ("--top-k 0", Sampling { top_k: 0, ..Sampling::default() }),
        ("--top-k 0 --min-p 0", Sampling { top_k: 0, min_p: 0.0, ..Sampling::default() }),
        ("--top-k 0 --top-p 1 --min-p 0", Sampling { top_k: 0, top_p: 1.0, min_p: 0.0, ..Sampling::default() }),
    ];
    let past: Vec<u32> = (0..64).collect();
    let mut times = vec![Vec::new(); settings.len()];
    for _ in 0..args.rounds {
        for ((_, sampling), times) in settings.iter().zip(&mut times) {
            let mut sampler = Sampler::new(sampling.clone());
            let start = Instant::now();
            for _ in 0..args.draws {
                black_box(sampler.sample(black_box(&logits), &past)?);
            }
            times.push(start.elapsed().as_secs_f64() / args.draws as f64);
        }
    }
    println!("a token from {} logits, one thread", args.vocabulary);
    println!();
    println!("| settings | median ms | best ms |");
    println!("| --- | ---: | ---: |");
    for ((name, _), times) in settings.iter().zip(&times) {
        let Some(seconds) = Spread::of(times) else { continue };
        println!("| {name} | {:.3} | {:.3} |", seconds.median * 1e3, seconds.min * 1e3);
    }
    Ok(())
}

/// Logits as a language model's are: a bell of standard deviation 2.5, and a few dozen tokens that stand out.
fn logits(vocabulary: usize) -> Vec<f32> {
    let mut state = 1u64;
    let mut unit = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / 16_777_216.0
    };
    // The sum of twelve uniform numbers has variance 1 and mean 6.
    let mut logits: Vec<f32> = (0..vocabulary).map(|_| ((0..12).map(|_| unit()).sum::<f32>() - 6.0) * 2.5).collect();
    for place in 0..40 {
        let id = (unit() * vocabulary as f32) as usize;
        if let Some(logit) = logits.get_mut(id) {
            *logit = 16.0 - 0.2 * place as f32;
        }
    }
    logits
}
