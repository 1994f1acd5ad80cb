//! `sterna bench`: tokens per second of prompt processing and generation.

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use sterna_core::Model;
use sterna_core::generate::PIECE;

use crate::Out;
use crate::args::ModelArgs;
use crate::bench::speed;
use crate::ui::bench_report::{Output, Report, Subject, Test};
use crate::ui::interrupt::{self, Busy, Interrupted};
use crate::ui::progress::{Progress, beside_bars};
use crate::ui::{message, text};
use crate::{engine, machine};

/// What `sterna bench` takes.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BenchArgs {
    /// Something else than speed.
    #[command(subcommand)]
    pub suite: Option<Suite>,
    /// Which model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Lengths of prompts to process; 0 is none.
    #[arg(short = 'p', long, value_name = "N,...", value_delimiter = ',', default_value = "512")]
    pub n_prompt: Vec<usize>,
    /// Numbers of tokens to generate; 0 is none.
    #[arg(short = 'n', long, value_name = "N,...", value_delimiter = ',', default_value = "128")]
    pub n_gen: Vec<usize>,
    /// Prompts followed by generation, timed together; also -pg. May be given more than once.
    #[arg(long, value_name = "PP,TG", value_parser = pair)]
    pub prompt_gen: Vec<(usize, usize)>,
    /// Numbers of threads; all cores if not given.
    #[arg(short, long, value_name = "N,...", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Vec<u32>,
    /// How often each test is run.
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub repetitions: u32,
    /// How results are written.
    #[arg(short, long, value_enum, default_value = "md")]
    pub output: Output,
    /// The same as --output json.
    #[arg(long, conflicts_with = "output")]
    pub json: bool,
    /// The kernel to use instead of the fastest this CPU has.
    #[arg(long, value_name = "NAME", env = "STERNA_KERNEL")]
    pub kernel: Option<String>,
    /// Do not run each test once before the clock starts.
    #[arg(long)]
    pub no_warmup: bool,
}

/// Measurements of other things than a model's speed.
#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "one value a process")]
pub enum Suite {
    /// Measure GGUFs as files: size, memory, load, milliseconds a token; each in a process of its own.
    Gguf(super::bench_gguf::BenchGgufArgs),
    /// Measure ternary products: every kernel that this CPU has, on shapes of real layers.
    Gemm(super::bench_gemm::BenchGemmArgs),
    /// Measure a checkpoint in floats, rounded to ternary, and trained: size, perplexity, speed.
    Model(super::bench_model::BenchModelArgs),
    /// Train and measure small image classifiers: floats, rounded afterwards, ternary, signs.
    Quantization(super::bench_quantization::BenchQuantizationArgs),
}

/// Prints one row per test and number of threads.
///
/// # Errors
/// A model that cannot be loaded; tests that cannot be run with it; Ctrl-C, after the rows that were done.
pub fn run(args: &BenchArgs, out: &mut Out) -> Result<()> {
    match &args.suite {
        Some(Suite::Gguf(args)) => return super::bench_gguf::run(args, out),
        Some(Suite::Gemm(args)) => return super::bench_gemm::run(args, out),
        Some(Suite::Model(args)) => return super::bench_model::run(args, out),
        Some(Suite::Quantization(args)) => return super::bench_quantization::run(args, out),
        None => {}
    }
    let path = args.model.resolve()?;
    let threads: Vec<usize> = match args.threads.is_empty() {
        true => vec![machine::cores()],
        false => args.threads.iter().map(|n| *n as usize).collect(),
    };
    let most = threads.iter().copied().max().unwrap_or(1);
    let model = engine::with_threads(most, |exec| engine::load(&path, args.kernel.as_deref(), &*exec))??;
    let tests = tests(args, model.transformer().config().n_ctx)?;
    let source = crate::source::Source::open(&path)?;
    let subject = Subject {
        build_commit: crate::COMMIT.to_owned(),
        build_version: env!("CARGO_PKG_VERSION").to_owned(),
        cpu_info: machine::cpu_name(),
        backends: "CPU".to_owned(),
        kernel: model.transformer().kernel().name().to_owned(),
        model_filename: path.display().to_string(),
        model_type: engine::describe(&model),
        model_size: source.header().tensors.iter().map(|info| info.size).sum(),
        model_n_params: source.header().tensors.iter().map(|info| info.elements()).sum(),
    };
    let busy = interrupt::busy();
    let output = if args.json { Output::Json } else { args.output };
    let mut report = Report::begin(out, output, subject, text::width())?;
    let (mut done, count) = (0, tests.len() * threads.len());
    let runs = u64::from(args.repetitions) + u64::from(!args.no_warmup);
    let mut progress = Progress::steps("measuring", count as u64 * runs);
    for test in &tests {
        for threads in &threads {
            let before = done as u64 * runs;
            match measure(&model, *test, *threads, args, &busy, &mut |run| progress.set(before + run))? {
                Some(test) => beside_bars(|| report.test(&test))?,
                None => {
                    drop(progress);
                    report.finish(Some((done, count)))?;
                    return Err(Interrupted::partial(done, count, "tests").into());
                }
            }
            done += 1;
        }
    }
    drop(progress);
    Ok(report.finish(None)?)
}

/// Prompts and generated tokens of each test. What alone is longer than the model's context is measured as long as that, with a note.
fn tests(args: &BenchArgs, limit: usize) -> Result<Vec<(usize, usize)>> {
    let fitting = |what: &str, tokens: usize| {
        if tokens > limit {
            message::note(&format!(
                "the model's context is {limit} tokens: {what}{tokens} is measured as {what}{limit}"
            ));
        }
        tokens.min(limit)
    };
    if let Some((p, g)) = args.prompt_gen.iter().find(|(p, g)| p.saturating_add(*g) > limit) {
        bail!("-pg {p},{g} does not fit the model's context of {limit} tokens; give smaller numbers");
    }
    let prompts = args.n_prompt.iter().map(|&n| (fitting("pp", n), 0));
    let generations = args.n_gen.iter().map(|&n| (0, fitting("tg", n)));
    let tests = prompts.chain(generations).chain(args.prompt_gen.iter().copied());
    Ok(tests.filter(|test| *test != (0, 0)).collect())
}

/// All repetitions of one test, each told to `done` by its number; `None` if Ctrl-C was pressed.
fn measure(
    model: &Model,
    (prompt, generated): (usize, usize),
    threads: usize,
    args: &BenchArgs,
    busy: &Busy,
    done: &mut (dyn FnMut(u64) + Send),
) -> Result<Option<Test>> {
    let started = text::now();
    let runs = (args.repetitions, u32::from(!args.no_warmup));
    let samples =
        engine::with_threads(threads, |exec| speed::samples(model, (prompt, generated), runs, &exec, busy, done))??;
    let transformer = model.transformer();
    let passes = prompt.div_ceil(PIECE) + generated;
    Ok(samples.map(|samples| Test {
        threads,
        prompt,
        generated,
        samples,
        operations: 2.0 * transformer.multiplications_a_token() as f64 * (prompt + generated) as f64,
        bytes_read: transformer.bytes_a_token() as f64 * passes as f64,
        started,
    }))
}

fn pair(text: &str) -> Result<(usize, usize), String> {
    let parsed = text.split_once(',').and_then(|(p, g)| Some((p.trim().parse().ok()?, g.trim().parse().ok()?)));
    parsed.ok_or_else(|| "give two numbers with a comma between them, such as 512,128".to_owned())
}
