//! `sterna eval`: how often an image classifier is right on the test images of a data set.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::args::{HubArgs, MemoryArgs};
use crate::images::{self, Measured};
use crate::train::images::DataSet;
use crate::train::images::augment::Augmentation;
use crate::train::images::idx::Images;
use crate::ui::interrupt::{self, Interrupted};
use crate::ui::message;
use crate::ui::progress::Progress;
use crate::{Out, data, engine};

/// The seed of the distorted test set, so that it is always the same.
pub const DISTORTED_SEED: u64 = 2026;

/// What `sterna eval` takes.
#[derive(Debug, Args)]
pub struct EvalArgs {
    /// The classifier: a GGUF file, a folder with one in it, or a name on the hub.
    #[arg(value_name = "FILE")]
    pub model: PathBuf,
    /// The data set; by default the one that the model is named after, or else mnist.
    #[arg(long, value_name = "NAME")]
    pub data: Option<DataSet>,
    /// Where data sets are; else $STERNA_DATA_DIR, then where `sterna data get` puts them.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Rotate, shear, scale and bend the images, make their strokes thicker and thinner, and bring them back into place as a
    /// page does with what is drawn: always the same images.
    #[arg(long)]
    pub distorted: bool,
    /// At most so many images.
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub images: Option<u32>,
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
}

/// What is printed.
#[derive(Serialize)]
struct Report<'a> {
    model: String,
    bytes: u64,
    data: &'a str,
    distorted: bool,
    kernel: &'a str,
    threads: usize,
    labels: &'a [String],
    #[serde(flatten)]
    measured: &'a Measured,
    /// How many images there are.
    images_in_all: usize,
    /// Whether Ctrl-C came before the last image.
    partial: bool,
}

/// Measures and prints.
///
/// # Errors
/// If the model or the data cannot be used; Ctrl-C, after what was measured until then.
pub fn run(args: &EvalArgs, out: &mut Out) -> Result<()> {
    let path = HubArgs::default().locate(&args.model)?;
    let threads = args.threads.map_or_else(crate::machine::cores, |threads| threads as usize);
    engine::with_threads(threads, |exec| {
        let model = images::load(&path, &args.memory.loading(args.kernel.as_deref(), None), &*exec)?;
        let set = match args.data {
            Some(set) => set,
            None => named_in(&path)?.unwrap_or(DataSet::Mnist),
        };
        let dir = data::locate(set.name(), args.data_dir.as_deref())?;
        let mut test = Images::read(&dir, "t10k", set.labels().len())?;
        if let Some(count) = args.images {
            test = test.first(count as usize);
        }
        if args.distorted {
            test = Augmentation::DISTORTED.apply_all(&test, DISTORTED_SEED);
        }
        let busy = interrupt::busy();
        let mut progress = Progress::steps("classifying", test.len() as u64);
        message::detail(|| format!("classifying {} images of {}", test.len(), dir.display()));
        let measured = images::measure(&model, &test, &*exec, &mut |done| {
            progress.set(done as u64);
            !busy.requested()
        });
        drop(progress);
        let measured = measured.with_context(|| format!("{} on {}", path.display(), dir.display()))?;
        let partial = measured.images < test.len();
        let report = Report {
            model: path.display().to_string(),
            bytes: std::fs::metadata(&path)?.len(),
            data: set.name(),
            distorted: args.distorted,
            kernel: model.kernel().name(),
            threads,
            labels: &model.config().labels,
            measured: &measured,
            images_in_all: test.len(),
            partial,
        };
        match args.json {
            true => writeln!(out, "{}", serde_json::to_string(&report)?)?,
            false => print(&report, out)?,
        }
        out.flush()?;
        match partial {
            true => Err(Interrupted::partial(measured.images, test.len(), "images").into()),
            false => Ok(()),
        }
    })?
}

/// The data set that a model is named after.
fn named_in(path: &std::path::Path) -> Result<Option<DataSet>> {
    let source = crate::source::Source::open(path)?;
    let name = source.header().metadata.str("general.name").unwrap_or_default();
    Ok(DataSet::value_variants().iter().copied().find(|set| set.name() == name))
}

fn print(report: &Report<'_>, out: &mut Out) -> Result<()> {
    let Report { model, bytes, data, measured: m, .. } = report;
    let distorted = if report.distorted { ", distorted and centred" } else { "" };
    let of = if report.partial { format!(" (partial: {} in all)", report.images_in_all) } else { String::new() };
    writeln!(out, "{model} ({bytes} bytes) on {} test images of {data}{distorted}{of}", m.images)?;
    let errors = m.images - (m.accuracy * m.images as f64).round() as usize;
    writeln!(out, "accuracy {:.2} % ({errors} wrong), loss {:.4} nats", m.accuracy * 100.0, m.loss)?;
    writeln!(out, "{:.0} images/s ({}, {} threads)", m.images_per_second, report.kernel, report.threads)?;
    let width = report.labels.iter().map(|label| label.chars().count()).max().unwrap_or(0).max(5);
    writeln!(out, "\nlabel, and how often each answer was given:")?;
    write!(out, "{:width$}", "")?;
    for (i, label) in report.labels.iter().enumerate() {
        // Long names would make the table wide: columns are numbered then.
        let head = if width > 5 { i.to_string() } else { label.clone() };
        write!(out, " {head:>5}")?;
    }
    writeln!(out)?;
    for (label, row) in report.labels.iter().zip(&m.confusion) {
        write!(out, "{label:width$}")?;
        for count in row {
            let count = if *count == 0 { ".".to_owned() } else { count.to_string() };
            write!(out, " {count:>5}")?;
        }
        writeln!(out)?;
    }
    Ok(())
}
