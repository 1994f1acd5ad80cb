//! A training step against its matrix products alone, made by the same library in the same process.

use std::hint::black_box;
use std::time::Instant;

use clap::Args;
use sterna::bench::Spread;
use sterna::train::optimizer::{Optimizer, OptimizerConfig};
use sterna::train::text::{TextConfig, TextTask};
use sterna::train::trainer::{Step, Task};

use candle_core::{Device, Result, Tensor};

/// How a step is measured: the decoder is the one that ships.
#[derive(Args)]
pub struct Training {
    /// Sequences a step
    #[arg(long, default_value_t = 16)]
    batch: usize,
    /// Tokens a sequence
    #[arg(long, default_value_t = 256)]
    tokens: usize,
    /// Threads
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Rounds, each a step and its products
    #[arg(long, default_value_t = 7)]
    rounds: usize,
}

/// Prints medians of alternating runs.
pub fn run(args: &Training) -> anyhow::Result<()> {
    let config = TextConfig { batch_size: args.batch, seq_len: args.tokens, ..TextConfig::default() };
    let text: String = (0u32..65 * 40 * args.tokens as u32)
        .map(|i| char::from(b' ' + (i.wrapping_mul(2_654_435_761) >> 16).rem_euclid(65) as u8))
        .collect();
    let task = TextTask::new(config.clone(), &text, "", &|_| Ok(()))?;
    let mut optimizer = Optimizer::new(OptimizerConfig::default(), task.parameters());
    let products = Products::of(&config, task.tokenizer().vocabulary())?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(args.threads).build()?;
    let (mut steps, mut alone) = (Vec::new(), Vec::new());
    pool.install(|| -> anyhow::Result<()> {
        for index in 0..=args.rounds {
            let start = Instant::now();
            let loss = task.loss(&Step { index, seed: 1, ternary: 1.0, training: true }, 0)?;
            optimizer.step(task.parameters(), &loss.backward()?, 1e-4, 0.1)?;
            let step = start.elapsed().as_secs_f64();
            let start = Instant::now();
            products.run()?;
            // The first round warms up.
            if index > 0 {
                steps.push(step);
                alone.push(start.elapsed().as_secs_f64());
            }
        }
        Ok(())
    })?;
    let (Some(step), Some(alone)) = (Spread::of(&steps), Spread::of(&alone)) else {
        anyhow::bail!("--rounds 0 leaves nothing to measure");
    };
    let (step, alone) = (step.median, alone.median);
    let tokens = (args.batch * args.tokens) as f64;
    println!(
        "{} parameters, {} x {} tokens a step, {} threads",
        task.parameters().count(),
        args.batch,
        args.tokens,
        args.threads
    );
    println!();
    println!("| | median ms | tokens/s | GFLOPS |");
    println!("| --- | ---: | ---: | ---: |");
    for (name, seconds) in [("step", step), ("its matrix products", alone)] {
        println!(
            "| {name} | {:.0} | {:.0} | {:.0} |",
            seconds * 1e3,
            tokens / seconds,
            products.operations() / seconds / 1e9
        );
    }
    println!();
    println!("the step is {:.2} times as fast as its products alone", alone / step);
    Ok(())
}

/// The operands of all products of a step.
struct Products {
    /// Input `[rows, in]`, weights `[out, in]`, gradient `[rows, out]`, and how many such there are.
    linear: Vec<(Tensor, Tensor, Tensor, usize)>,
    /// Queries, keys or values `[batch, tokens, head]`, probabilities `[batch, tokens, tokens]`, and how many layers.
    attention: (Tensor, Tensor, usize),
}

impl Products {
    fn of(config: &TextConfig, vocabulary: usize) -> Result<Self> {
        let (rows, m) = (config.batch_size * config.seq_len, &config.model);
        let normal = |shape: &[usize]| Tensor::randn(0f32, 1.0, shape, &Device::Cpu);
        let mut linear = Vec::new();
        for (cols, out, count) in [
            (m.width, 3 * m.width, m.layers),
            (m.width, m.width, m.layers),
            (m.width, 2 * m.ffn, m.layers),
            (m.ffn, m.width, m.layers),
            (m.width, vocabulary, 1),
        ] {
            linear.push((normal(&[rows, cols])?, normal(&[out, cols])?, normal(&[rows, out])?, count));
        }
        let batch = config.batch_size * m.heads;
        let heads = normal(&[batch, config.seq_len, m.width / m.heads])?;
        Ok(Self { linear, attention: (heads, normal(&[batch, config.seq_len, config.seq_len])?, m.layers) })
    }

    fn run(&self) -> Result<()> {
        for (x, w, g, count) in &self.linear {
            for _ in 0..*count {
                black_box(x.matmul(&w.t()?)?);
                black_box(g.matmul(w)?);
                black_box(g.t()?.matmul(x)?);
            }
        }
        let (heads, p, layers) = &self.attention;
        for _ in 0..*layers {
            // Scores and the gradient of probabilities; outputs and the gradients of values, queries and keys.
            for _ in 0..2 {
                black_box(heads.matmul(&heads.t()?)?);
                black_box(p.matmul(heads)?);
                black_box(p.t()?.matmul(heads)?);
            }
        }
        Ok(())
    }

    /// Floating-point operations of a run.
    fn operations(&self) -> f64 {
        let linear = self.linear.iter().map(|(x, w, _, count)| 6 * x.elem_count() * w.dims()[0] * count);
        let (_, p, layers) = &self.attention;
        (linear.sum::<usize>() + 6 * 2 * p.elem_count() * self.attention.0.dims()[2] * layers) as f64
    }
}
