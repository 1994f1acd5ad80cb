//! `sterna bench gguf`: size, memory, load time and milliseconds a token of files.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::args::{HubArgs, MemoryArgs};
use crate::bench::Spread;
use crate::bench::gguf::{self, File, Measured, Settings};
use crate::ui::interrupt::{self, Interrupted};
use crate::ui::message;
use crate::ui::progress::{self, Progress};
use crate::ui::text::{self, Align};
use crate::{Out, machine};

/// What `sterna bench gguf` takes.
#[derive(Debug, Args)]
pub struct BenchGgufArgs {
    /// The files (of a sharded model any of its parts), folders with one GGUF in each, or names on the hub.
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Tokens of the prompt; 0 is none.
    #[arg(short = 'p', long, value_name = "N", default_value_t = 128)]
    pub n_prompt: usize,
    /// Tokens after the prompt, one by one; 0 is none.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 32)]
    pub n_gen: usize,
    /// How often both are timed.
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub repetitions: u32,
    /// Threads; all cores if not given.
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
    /// The kernel to use instead of the fastest this CPU has.
    #[arg(long, value_name = "NAME", env = "STERNA_KERNEL")]
    pub kernel: Option<String>,
    /// What to do where memory is short.
    #[command(flatten)]
    pub memory: MemoryArgs,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Measure the one file here and print what was found, for the process that asked.
    #[arg(long = "in-this-process", hide = true)]
    pub in_this_process: bool,
}

/// Measures and prints.
///
/// # Errors
/// The first file that cannot be opened or run; Ctrl-C, after the files that were done.
pub fn run(args: &BenchGgufArgs, out: &mut Out) -> Result<()> {
    let settings = Settings {
        prompt: args.n_prompt,
        generated: args.n_gen,
        repetitions: args.repetitions,
        threads: args.threads.map_or_else(machine::cores, |threads| threads as usize),
        kernel: args.kernel.clone(),
        memory: args.memory,
    };
    let busy = interrupt::busy();
    if args.in_this_process {
        progress::silence();
        let [file] = args.files.as_slice() else { bail!("{} takes one file", gguf::HERE) };
        let measured = gguf::here(file, &settings, &busy)?.ok_or_else(Interrupted::default)?;
        return Ok(writeln!(out, "{}", serde_json::to_string(&measured)?)?);
    }
    // All headers before the first measurement: a wrong name should not cost the time of the right ones.
    let paths: Vec<PathBuf> = args.files.iter().map(|typed| HubArgs::default().locate(typed)).collect::<Result<_>>()?;
    let files: Vec<File> = paths.iter().map(|path| File::open(path)).collect::<Result<_>>()?;
    let mut rows = Vec::new();
    let mut progress = Progress::steps("measuring files", files.len() as u64);
    for (i, (path, file)) in paths.iter().zip(files).enumerate() {
        let Some(measured) = gguf::in_a_process(path, &settings, &busy)? else { break };
        rows.push((file, measured));
        progress.set(i as u64 + 1);
    }
    drop(progress);
    let (done, count) = (rows.len(), args.files.len());
    match args.json {
        _ if rows.is_empty() => {}
        true => writeln!(out, "{}", serde_json::to_string_pretty(&report(&rows, count, &settings)?)?)?,
        false => print(&rows, count, &settings, out)?,
    }
    if done < count { Err(Interrupted::partial(done, count, "files").into()) } else { Ok(()) }
}

/// The rows that were done, of `count`.
fn report(rows: &[(File, Measured)], count: usize, settings: &Settings) -> Result<Value> {
    let mut files = Vec::new();
    for (file, measured) in rows {
        let (mut row, measured) = (serde_json::to_value(file)?, serde_json::to_value(measured)?);
        if let (Value::Object(row), Value::Object(measured)) = (&mut row, measured) {
            row.extend(measured);
        }
        files.push(row);
    }
    Ok(json!({
        "sterna": env!("CARGO_PKG_VERSION"),
        "cpu": machine::cpu_name(),
        "threads": settings.threads,
        "n_prompt": settings.prompt,
        "n_gen": settings.generated,
        "repetitions": settings.repetitions,
        "files": files,
        "files_in_all": count,
        "partial": rows.len() < count,
    }))
}

fn print(rows: &[(File, Measured)], count: usize, settings: &Settings, out: &mut Out) -> Result<()> {
    let spread = |spread: Option<Spread>| match spread {
        Some(Spread { median, min, max }) => [format!("{median:.3}"), format!("{min:.3} - {max:.3}")],
        None => ["-".into(), "-".into()],
    };
    let cells = |(file, measured): &(File, Measured)| {
        let name = PathBuf::from(&file.file);
        let name = name.file_name().map_or(file.file.clone(), |name| name.to_string_lossy().into_owned());
        let mut cells = vec![
            text::plain(&name, 48),
            text::plain(&measured.model, 40),
            text::bytes(file.bytes),
            format!("{:.3}", file.bits_per_weight),
            measured.peak_resident_bytes.map_or("-".into(), text::bytes),
            format!("{:.3}", measured.load_s),
        ];
        cells.extend(spread(measured.prompt_ms_per_token));
        cells.extend(spread(measured.eval_ms_per_token));
        cells
    };
    let columns = [
        ("FILE", Align::Left),
        ("MODEL", Align::Left),
        ("SIZE", Align::Right),
        ("BITS PER WEIGHT", Align::Right),
        ("PEAK MEMORY", Align::Right),
        ("LOAD s", Align::Right),
        ("PROMPT ms/TOKEN", Align::Right),
        ("FROM - TO", Align::Right),
        ("EVAL ms/TOKEN", Align::Right),
        ("FROM - TO", Align::Right),
    ];
    text::table(out, &columns, &rows.iter().map(cells).collect::<Vec<_>>())?;
    if rows.len() < count {
        writeln!(out, "\npartial: {} of {count} files", rows.len())?;
    }
    let kernel = rows.first().map_or("", |(_, measured)| measured.kernel.as_str());
    writeln!(
        out,
        "\nmedians of {} runs of {} tokens at once and {} one by one, {} threads, {kernel}\n{}",
        settings.repetitions,
        settings.prompt,
        settings.generated,
        settings.threads,
        text::provenance(&machine::cpu_name())
    )?;
    if rows.iter().any(|(_, measured)| measured.peak_resident_bytes.is_none()) {
        message::note("this system does not tell a process how much memory it had resident at most; that is left out");
    }
    Ok(())
}
