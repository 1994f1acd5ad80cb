//! `sterna bench gemm`: operations a second of ternary products, kernel against kernel.

use anyhow::Result;
use clap::Args;
use serde_json::json;
use sterna_core::kernels;

use crate::args::at_least;
use crate::bench::gemm::{self, Row, Settings, Shape};
use crate::ui::interrupt::{self, Interrupted};
use crate::ui::progress::Progress;
use crate::ui::text::{self, Align};
use crate::{Out, machine};

/// What `sterna bench gemm` takes.
#[derive(Debug, Args)]
pub struct BenchGemmArgs {
    /// Output features, input features and tokens, such as 4096x4096x16; may be given several times. By default 1024x1024x1024
    /// and layers of 1.7B, 2B-4T and 8B models with 1, 16 and 512 tokens.
    #[arg(long = "shape", value_name = "ROWSxCOLSxTOKENS")]
    pub shapes: Vec<Shape>,
    /// The kernels; by default all that this CPU has. scalar is what the others are compared with.
    #[arg(long = "kernel", value_name = "NAME,...", value_delimiter = ',')]
    pub kernels: Vec<String>,
    /// Numbers of threads; 0 or less is all cores.
    #[arg(short, long, value_name = "N,...", value_delimiter = ',', default_value = "1", value_parser = crate::args::threads)]
    pub threads: Vec<u32>,
    /// Columns that share a scale.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = at_least::<1, usize>)]
    pub group: usize,
    /// How often each kernel is timed, in turn with the others.
    #[arg(short, long, value_name = "N", default_value_t = 9, value_parser = at_least::<1, u32>)]
    pub repetitions: u32,
    /// A kernel that has taken this long with a shape is timed no more with it: slow ones are timed less often, but once at least.
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = seconds)]
    pub seconds: f64,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Measures and prints.
///
/// # Errors
/// As [`gemm::measure`]; kernels that this CPU does not have; Ctrl-C, after the shapes that were done.
pub fn run(args: &BenchGemmArgs, out: &mut Out) -> Result<()> {
    let kernels = match args.kernels.is_empty() {
        true => kernels::available(),
        false => args.kernels.iter().map(|name| kernels::select(Some(name))).collect::<Result<_, _>>()?,
    };
    let shapes = if args.shapes.is_empty() { Shape::usual() } else { args.shapes.clone() };
    let settings = Settings {
        group: args.group,
        threads: args.threads.iter().map(|&threads| threads as usize).collect(),
        kernels,
        runs: args.repetitions,
        seconds: args.seconds,
    };
    let (mut rows, mut count) = (Vec::new(), 0);
    let all = shapes.len() * settings.threads.len();
    let mut progress = Progress::steps("measuring products", all as u64);
    let busy = interrupt::busy();
    gemm::measure(&shapes, &settings, &busy, &mut |more| {
        rows.extend(more);
        count += 1;
        progress.set(count as u64);
        Ok(())
    })?;
    drop(progress);
    let partial = count < all;
    match args.json {
        false if rows.is_empty() => {}
        true => {
            let report = json!({
                "sterna": env!("CARGO_PKG_VERSION"),
                "cpu": machine::cpu_name(),
                "group": args.group,
                "rows": rows,
                "shapes": count,
                "shapes_in_all": all,
                "partial": partial,
            });
            writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
        }
        false => {
            print(&rows, args.group, out)?;
            if partial {
                writeln!(out, "partial: {count} of {all} shapes")?;
            }
        }
    }
    if partial { Err(Interrupted::partial(count, all, "shapes").into()) } else { Ok(()) }
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds: &f64| seconds.is_finite() && *seconds >= 0.0);
    seconds.ok_or_else(|| "give a number of seconds, 0 or more".to_owned())
}

/// A table for each shape and number of threads.
fn print(rows: &[Row], group: usize, out: &mut Out) -> Result<()> {
    let cells = |row: &Row| {
        vec![
            row.kernel.to_owned(),
            format!("{:.1}", row.seconds.median * 1e6),
            format!("{:.1} - {:.1}", row.seconds.min * 1e6, row.seconds.max * 1e6),
            row.runs.to_string(),
            format!("{:.1}", row.gops),
            format!("{:.2}", row.gb_per_s),
            row.times_scalar.map_or("-".into(), |times| format!("{times:.1}")),
        ]
    };
    let columns = [
        ("KERNEL", Align::Left),
        ("MEDIAN us", Align::Right),
        ("FROM - TO", Align::Right),
        ("RUNS", Align::Right),
        ("GOPS", Align::Right),
        ("GB/s OF WEIGHTS", Align::Right),
        ("TIMES SCALAR", Align::Right),
    ];
    let same = |a: &Row, b: &Row| {
        (&a.name, a.rows, a.cols, a.tokens, a.threads) == (&b.name, b.rows, b.cols, b.tokens, b.threads)
    };
    for rows in rows.chunk_by(same) {
        let row = &rows[0];
        let name = if row.name.is_empty() { String::new() } else { format!("{}: ", row.name) };
        let plural = |n: usize, one: &str| format!("{n} {one}{}", if n == 1 { "" } else { "s" });
        let (tokens, threads) = (plural(row.tokens, "token"), plural(row.threads, "thread"));
        writeln!(out, "{name}{} x {}, {tokens}, {threads}", row.rows, row.cols)?;
        text::table(out, &columns, &rows.iter().map(cells).collect::<Vec<_>>())?;
        writeln!(out)?;
    }
    writeln!(
        out,
        "ternary weights with a scale for each {group} of a row, int8 activations\n{}",
        text::provenance(&machine::cpu_name())
    )?;
    Ok(())
}
