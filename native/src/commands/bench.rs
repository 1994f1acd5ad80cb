//! `sterna bench`: tokens per second of prompt processing and generation.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use sterna_core::Model;
use sterna_core::generate::PIECE;

use crate::Out;
use crate::args::{self, MemoryArgs, ModelArgs, Numbers, at_least};
use crate::bench::speed::{self, Run};
use crate::engine::Loading;
use crate::memory::Scored;
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
    /// Which model. -m may be given more than once; each is measured.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Lengths of prompts to process; 0 is none. Lists (128,256) and ranges (1-4, 128-512+128, 128-1024*2), here and for -n, -d
    /// and -t, may be given more than once.
    #[arg(short = 'p', long, value_name = "N,...", default_value = "512")]
    pub n_prompt: Vec<Numbers>,
    /// Numbers of tokens to generate; 0 is none.
    #[arg(short = 'n', long, value_name = "N,...", default_value = "128")]
    pub n_gen: Vec<Numbers>,
    /// Tokens that are in the context before each test, and are not timed.
    #[arg(short = 'd', long, value_name = "N,...", default_value = "0")]
    pub n_depth: Vec<Numbers>,
    /// Prompts followed by generation, timed together; also -pg. May be given more than once.
    #[arg(long, value_name = "PP,TG", value_parser = pair)]
    pub prompt_gen: Vec<(usize, usize)>,
    /// Numbers of threads; all cores if not given, or 0 or less.
    #[arg(short, long, value_name = "N,...", allow_negative_numbers = true, value_parser = threads)]
    pub threads: Vec<Numbers>,
    /// How often each test is run.
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = at_least::<1, u32>)]
    pub repetitions: u32,
    /// Seconds of rest before each test but the first.
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = at_least::<0, u32>)]
    pub delay: u32,
    /// How results are written.
    #[arg(short, long, value_enum, default_value = "md")]
    pub output: Output,
    /// The same as --output json.
    #[arg(long, conflicts_with = "output")]
    pub json: bool,
    /// Write them to stderr too, so; also -oe.
    #[arg(long, value_enum, value_name = "OUTPUT")]
    pub output_err: Option<Output>,
    /// Say on stderr which test is under way.
    #[arg(long)]
    pub progress: bool,
    /// The kernel to use instead of the fastest this CPU has.
    #[arg(long, value_name = "NAME", env = "STERNA_KERNEL")]
    pub kernel: Option<String>,
    /// What to do where memory is short.
    #[command(flatten)]
    pub memory: MemoryArgs,
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

/// Prints one row per model, test and number of threads.
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
    let mut paths = args.model.resolve_all()?;
    if paths.is_empty() {
        paths.push(args.model.resolve()?);
    }
    let mut threads = Numbers::all(&args.threads);
    threads.iter_mut().filter(|threads| **threads == 0).for_each(|threads| *threads = machine::cores());
    if threads.is_empty() {
        threads.push(machine::cores());
    }
    let busy = interrupt::busy();
    let mut stderr = std::io::stderr();
    let most = threads.iter().copied().max().unwrap_or(1);
    let lengths = Numbers::all(&args.n_prompt).into_iter().chain(Numbers::all(&args.n_gen));
    let lengths = lengths.chain(args.prompt_gen.iter().map(|(p, g)| p.saturating_add(*g)));
    let deepest = Numbers::all(&args.n_depth).into_iter().max().unwrap_or(0);
    let longest = lengths.max().map(|longest| longest.saturating_add(deepest));
    let how = Loading { filled: Some(Scored::Last), ..args.memory.loading(args.kernel.as_deref(), longest) };
    let load = |path: &Path| -> Result<(Model, Subject, Vec<Run>)> {
        let model = engine::with_threads(most, |exec| engine::load(path, &how, &*exec))??;
        let (subject, runs) = (subject(path, &model)?, runs(args, model.transformer().config().n_ctx)?);
        Ok((model, subject, runs))
    };
    let mut paths = paths.into_iter();
    let mut loaded = match load(&paths.next().unwrap_or_default()) {
        Err(error) if interrupt::is_interrupted(&error) => {
            let output = if args.json { Output::Json } else { args.output };
            output.write_nothing_done(out)?;
            return Err(error);
        }
        loaded => loaded?,
    };
    let mut reports = Reports::begin(out, &mut stderr, args, &loaded.1)?;
    // Each model may have other tests, where it has less context; how many there are is told by the first.
    let count = loaded.2.len() * threads.len() * (1 + paths.len());
    let steps = u64::from(args.repetitions) + u64::from(!args.no_warmup);
    let mut progress = Progress::steps("measuring", count as u64 * steps);
    let mut done = 0;
    loop {
        let (model, _, runs) = &loaded;
        for run in runs {
            for threads in &threads {
                let before = done as u64 * steps;
                let rested = done == 0 || rest(Duration::from_secs(args.delay.into()), &busy);
                let number = (done + 1, count);
                let test = match rested {
                    true => measure(model, *run, *threads, args, &busy, number, &mut |run| progress.set(before + run))?,
                    false => None,
                };
                match test {
                    Some(test) => beside_bars(|| reports.0.iter_mut().try_for_each(|report| report.test(&test)))?,
                    None => {
                        drop(progress);
                        reports.finish(Some((done, count)))?;
                        return Err(Interrupted::partial(done, count, "tests").into());
                    }
                }
                done += 1;
            }
        }
        let Some(path) = paths.next() else { break };
        // Two models may not fit the memory.
        drop(loaded);
        loaded = match load(&path) {
            Err(error) if interrupt::is_interrupted(&error) => {
                drop(progress);
                reports.finish(Some((done, count)))?;
                return Err(Interrupted::partial(done, count, "tests").into());
            }
            loaded => loaded?,
        };
        reports.0.iter_mut().for_each(|report| report.set_subject(loaded.1.clone()));
    }
    drop(progress);
    reports.finish(None)
}

/// The same results on stdout, and on stderr where that was asked for.
struct Reports<'a>(Vec<Report<'a>>);

impl<'a> Reports<'a> {
    fn begin(out: &'a mut Out, stderr: &'a mut std::io::Stderr, args: &BenchArgs, subject: &Subject) -> Result<Self> {
        let output = if args.json { Output::Json } else { args.output };
        let mut reports = vec![Report::begin(out, output, subject.clone(), text::width())?];
        if let Some(output) = args.output_err {
            reports.push(Report::begin(stderr, output, subject.clone(), None)?);
        }
        Ok(Self(reports))
    }

    fn finish(self, partial: Option<(usize, usize)>) -> Result<()> {
        Ok(self.0.into_iter().try_for_each(|report| report.finish(partial))?)
    }
}

/// What is measured at each number of threads: at each depth the prompts, then the generations, then both together. What alone is
/// longer than the model's context is measured as long as that, with a note.
fn runs(args: &BenchArgs, limit: usize) -> Result<Vec<Run>> {
    let mut runs = Vec::new();
    for depth in Numbers::all(&args.n_depth) {
        let left = limit.saturating_sub(depth);
        if left == 0 {
            bail!("-d {depth} leaves nothing of the model's context of {limit} tokens; give a smaller one");
        }
        let fitting = |what: &str, tokens: usize| {
            if tokens > left {
                let after = if depth > 0 { format!(" after {depth}") } else { String::new() };
                message::note(&format!(
                    "the model's context is {limit} tokens: {what}{tokens}{after} is measured as {what}{left}"
                ));
            }
            tokens.min(left)
        };
        for &(prompt, generated) in &args.prompt_gen {
            if prompt.saturating_add(generated) > left {
                let after = if depth > 0 { format!(" after {depth} tokens") } else { String::new() };
                bail!(
                    "-pg {prompt},{generated}{after} does not fit the model's context of {limit} tokens; give smaller numbers"
                );
            }
        }
        let prompts = Numbers::all(&args.n_prompt).into_iter().map(|n| (fitting("pp", n), 0));
        let generations = Numbers::all(&args.n_gen).into_iter().map(|n| (0, fitting("tg", n)));
        let pairs = prompts.chain(generations).chain(args.prompt_gen.iter().copied());
        let pairs = pairs.filter(|pair| *pair != (0, 0));
        runs.extend(pairs.map(|(prompt, generated)| Run { depth, prompt, generated }));
    }
    if runs.is_empty() {
        bail!("-p 0 and -n 0 leave nothing to measure; give one of them a number above 0");
    }
    Ok(runs)
}

fn subject(path: &Path, model: &Model) -> Result<Subject> {
    let source = crate::source::Source::open(path)?;
    Ok(Subject {
        build_commit: crate::COMMIT.to_owned(),
        build_version: env!("CARGO_PKG_VERSION").to_owned(),
        cpu_info: machine::cpu_name(),
        backends: "CPU".to_owned(),
        kernel: model.transformer().kernel().name().to_owned(),
        model_filename: path.display().to_string(),
        model_type: engine::describe(model),
        model_size: source.header().tensors.iter().map(|info| info.size).sum(),
        model_n_params: source.header().tensors.iter().map(|info| info.elements()).sum(),
    })
}

/// Rests; false if Ctrl-C was pressed.
fn rest(time: Duration, busy: &Busy) -> bool {
    let begun = Instant::now();
    while !busy.requested() && begun.elapsed() < time {
        std::thread::sleep(Duration::from_millis(50));
    }
    !busy.requested()
}

/// All repetitions of one test, each told to `done` by its number; `None` if Ctrl-C was pressed.
fn measure(
    model: &Model,
    run: Run,
    threads: usize,
    args: &BenchArgs,
    busy: &Busy,
    (number, count): (usize, usize),
    done: &mut (dyn FnMut(u64) + Send),
) -> Result<Option<Test>> {
    let transformer = model.transformer();
    let tokens = run.prompt + run.generated;
    let mut test = Test {
        threads,
        prompt: run.prompt,
        generated: run.generated,
        depth: run.depth,
        samples: Vec::new(),
        operations: 2.0 * transformer.multiplications_a_token() as f64 * tokens as f64,
        bytes_read: transformer.bytes_a_token() as f64 * (run.prompt.div_ceil(PIECE) + run.generated) as f64,
        started: text::now(),
    };
    if args.progress {
        message::line(&format!("test {number} of {count}: {} on {threads} threads", test.name()));
    }
    let runs = (args.repetitions, u32::from(!args.no_warmup));
    let samples = engine::with_threads(threads, |exec| speed::samples(model, run, runs, &exec, busy, done))??;
    Ok(samples.map(|samples| {
        test.samples = samples;
        test
    }))
}

/// Numbers of threads; 0 is all cores.
fn threads(text: &str) -> Result<Numbers, String> {
    if text.parse::<i64>().is_ok_and(|number| number < 0) {
        return Ok(Numbers(vec![0]));
    }
    let numbers: Numbers = text.parse()?;
    numbers.0.iter().try_for_each(|number| args::threads(&number.to_string()).map(drop))?;
    Ok(numbers)
}

fn pair(text: &str) -> Result<(usize, usize), String> {
    let parsed = text.split_once(',').and_then(|(p, g)| Some((p.trim().parse().ok()?, g.trim().parse().ok()?)));
    parsed.ok_or_else(|| "give two numbers with a comma between them, such as 512,128".to_owned())
}
