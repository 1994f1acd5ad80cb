//! GGUFs as files: how large they are, what memory they take, how long they load, and how long a token takes.
//!
//! Each file is measured by a process of its own, this program again, as the most memory that a process ever had resident is
//! kept by the system for its whole life, and what one file leaves behind would count for the next.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use sterna_core::formats::identify_all;

use super::Spread;
use super::speed::Feeder;
use crate::args::MemoryArgs;
use crate::engine::Loading;
use crate::memory::Scored;
use crate::source::Source;
use crate::ui::interrupt::Busy;
use crate::ui::message;
use crate::{engine, machine};

/// The flag by which a process is told to measure one file itself and to print what it found as JSON. Not for people.
pub const HERE: &str = "--in-this-process";

/// How files are measured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Tokens of the prompt; 0 is none.
    pub prompt: usize,
    /// Tokens that are fed one by one after it; 0 is none.
    pub generated: usize,
    /// How often.
    pub repetitions: u32,
    /// Threads.
    pub threads: usize,
    /// The kernel; `None` is the fastest.
    pub kernel: Option<String>,
    /// What to do where memory is short.
    pub memory: MemoryArgs,
}

/// What can be said about a file without running it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct File {
    /// Its path; of a sharded model, that of the part that was named.
    pub file: String,
    /// Bytes of all its files.
    pub bytes: u64,
    /// Elements of all tensors.
    pub weights: u64,
    /// Bits of a tensor's blocks for each element, padding between tensors left out.
    pub bits_per_weight: f64,
}

impl File {
    /// Reads the header.
    ///
    /// # Errors
    /// A file that is no GGUF, or has tensors of unknown types.
    pub fn open(path: &Path) -> Result<Self> {
        let source = Source::open(path)?;
        let (mut weights, mut bits) = (0u64, 0f64);
        for (info, found) in source.header().tensors.iter().zip(identify_all(source.header())) {
            let format = found.with_context(|| path.display().to_string())?.format;
            weights = weights.saturating_add(info.elements());
            bits += 8.0 * format.tensor_bytes(info.rows(), info.cols()).unwrap_or(info.size) as f64;
        }
        Ok(Self {
            file: path.display().to_string(),
            bytes: source.file_bytes(),
            weights,
            bits_per_weight: bits / (weights as f64).max(1.0),
        })
    }
}

/// What running a file showed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Architecture, size class and tensor type.
    pub model: String,
    /// The kernel that was used.
    pub kernel: String,
    /// Seconds from opening the file to a model that can run, once.
    pub load_s: f64,
    /// Milliseconds of a token of the prompt.
    pub prompt_ms_per_token: Option<Spread>,
    /// Milliseconds of a token fed alone after the prompt.
    pub eval_ms_per_token: Option<Spread>,
    /// The most memory that the process had resident; `None` where the system does not tell.
    pub peak_resident_bytes: Option<u64>,
}

/// Measures a file in this process. `None` if Ctrl-C was pressed.
///
/// # Errors
/// A model that does not load or whose context is too short.
pub fn here(path: &Path, settings: &Settings, busy: &Busy) -> Result<Option<Measured>> {
    let Settings { prompt, generated, repetitions, threads, .. } = *settings;
    engine::with_threads(threads, |exec| {
        let clock = Instant::now();
        let tokens = prompt.saturating_add(generated);
        let how =
            Loading { filled: Some(Scored::Last), ..settings.memory.loading(settings.kernel.as_deref(), Some(tokens)) };
        let model = engine::load(path, &how, &*exec)?;
        let load_s = clock.elapsed().as_secs_f64();
        let limit = model.transformer().config().n_ctx;
        if prompt.saturating_add(generated) > limit {
            bail!(
                "{}: {prompt} tokens and {generated} more do not fit the model's context of {limit}; lower -p or -n",
                path.display()
            );
        }
        let (mut prompts, mut evals) = (Vec::new(), Vec::new());
        // The first run warms up.
        for run in 0..=repetitions {
            let mut feeder = Feeder::new(&model, exec.clone(), busy);
            let mut timed = |tokens: usize, one_by_one: bool, times: &mut Vec<f64>| -> Result<bool> {
                let clock = Instant::now();
                let whole = if one_by_one { feeder.generate(tokens)? } else { feeder.prompt(tokens)? };
                if run > 0 && tokens > 0 {
                    times.push(clock.elapsed().as_secs_f64() * 1e3 / tokens as f64);
                }
                Ok(whole)
            };
            if !(timed(prompt, false, &mut prompts)? && timed(generated, true, &mut evals)?) {
                return Ok(None);
            }
        }
        Ok(Some(Measured {
            model: engine::describe(&model),
            kernel: model.transformer().kernel().name().to_owned(),
            load_s,
            prompt_ms_per_token: Spread::of(&prompts),
            eval_ms_per_token: Spread::of(&evals),
            peak_resident_bytes: machine::peak_resident_bytes(),
        }))
    })?
}

/// Measures a file in a process of its own. `None` if Ctrl-C was pressed.
///
/// # Errors
/// If this program cannot be run again; what went wrong there.
pub fn in_a_process(path: &Path, settings: &Settings, busy: &Busy) -> Result<Option<Measured>> {
    message::detail(|| format!("measuring {}", path.display()));
    let program = std::env::current_exe().context("cannot tell where this program is, to run it again")?;
    let mut command = Command::new(&program);
    command.args(["bench", "gguf", HERE]);
    for (flag, number) in [
        ("-p", settings.prompt),
        ("-n", settings.generated),
        ("-r", settings.repetitions as usize),
        ("-t", settings.threads),
    ] {
        command.arg(flag).arg(number.to_string());
    }
    if let Some(kernel) = &settings.kernel {
        command.arg("--kernel").arg(kernel);
    }
    if settings.memory.force {
        command.arg("--force");
    }
    // What it says is short: it fits the pipes, and is read when the process has ended.
    command.arg("--").arg(path).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let cannot = || format!("cannot run {} again", program.display());
    let mut child = command.spawn().with_context(cannot)?;
    while child.try_wait().with_context(cannot)?.is_none() {
        if busy.requested() {
            // On a terminal Ctrl-C reached it too; from elsewhere it came to this process alone.
            let _ = child.kill();
            let _ = child.wait();
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().with_context(cannot)?;
    if busy.requested() {
        return Ok(None);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let (errors, others): (Vec<&str>, Vec<&str>) = said.lines().partition(|line| line.starts_with("error: "));
    for line in &others {
        match line.strip_prefix("warning: ") {
            Some(warning) => message::warning_once(warning),
            None => message::line(line),
        }
    }
    if !output.status.success() {
        match errors.first().and_then(|line| line.strip_prefix("error: ")) {
            Some(error) => bail!("{error}"),
            None => bail!("measuring {} ended with {}", path.display(), output.status),
        }
    }
    let measured = serde_json::from_slice(&output.stdout);
    measured.map(Some).with_context(|| format!("{} printed no measurement of {}", program.display(), path.display()))
}
