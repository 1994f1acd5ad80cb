//! `sterna bench quantization`: what ternary weights cost and save on small images, from data to the packed file.
//!
//! For each data set one net is trained in floats and exported as it is (`fp32`) and rounded to ternary afterwards (`ptq`); the
//! same net is trained with ternary weights (`qat`) and with signs (`binary`). What is reported is measured by the runtime on
//! the exported files. Then the same net is trained briefly by each rule: the report over configurations.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;
use sterna_core::kernels::Executor;
use sterna_core::ternary::Rule;

use super::runs::{Device, at_least, seed};
use crate::engine::Loading;
use crate::images::{self, Measured};
use crate::plot::{Axis, Chart, Group, Scale, scatter};
use crate::train::checkpoint;
use crate::train::images::idx::Images;
use crate::train::images::{DataSet, ImageTask, ImagesConfig};
use crate::train::layers::QuantizationConfig;
use crate::train::log::LogLine;
use crate::train::memory::Memory;
use crate::train::run_dir::RunDir;
use crate::train::settings::Setting;
use crate::train::trainer;
use crate::ui::interrupt::{self, Interrupted};
use crate::ui::message;
use crate::ui::text::{self, Align};
use crate::{Out, data, engine, machine, output};

/// What `sterna bench quantization` takes.
#[derive(Debug, Args)]
pub struct BenchQuantizationArgs {
    /// The data sets: mnist and fashion-mnist, or fashion-mnist alone where --output names its table.
    #[arg(long, visible_aliases = ["dataset", "dataset-name"], value_name = "NAME,...", value_delimiter = ',')]
    pub data: Vec<DataSet>,
    /// Where data sets are; else $STERNA_DATA_DIR, then where `sterna data get` puts them.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Steps of each training of the table.
    #[arg(long, value_name = "N", default_value_t = 1500, allow_negative_numbers = true, value_parser = at_least::<1>)]
    pub steps: usize,
    /// Epochs of the float training, in place of --steps.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = at_least::<1>)]
    pub fp32_epochs: Option<usize>,
    /// Epochs of the ternary training and of the one with signs, in place of --steps.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = at_least::<1>)]
    pub qat_epochs: Option<usize>,
    /// Rule of the ternary rows: weights up to this share of their group's largest become zero; absmean if not given.
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    pub threshold: Option<f32>,
    /// Steps of each training of the report over configurations, on the first data set; 0 leaves it out. 300, or 0 where --output
    /// is given.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = at_least::<0>)]
    pub configuration_steps: Option<usize>,
    /// Images of a step.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = at_least::<2>)]
    pub batch_size: Option<usize>,
    /// A layer of the net, given once for each from first to last (docs/image-classifier.md).
    #[arg(long = "layer", value_name = "LAYER")]
    pub layers: Vec<String>,
    /// Everything random follows from it.
    #[arg(long, value_name = "SEED", default_value_t = 1, allow_negative_numbers = true, value_parser = seed)]
    pub seed: u64,
    /// Where results go. Trainings that are there already, by the same settings, are not repeated.
    #[arg(long, value_name = "DIR", default_value = "runs/quantization")]
    pub out: PathBuf,
    /// Write the table of the one data set to this file, too, as CSV.
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Where it runs: the CPU, which auto means too.
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: Device,
    /// Threads; all cores if not given.
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Write the JSON object to this file, too.
    #[arg(long, value_name = "FILE")]
    pub json_output: Option<PathBuf>,
}

impl BenchQuantizationArgs {
    /// What the table is of.
    fn data(&self) -> Result<Vec<DataSet>> {
        match (&self.data[..], &self.output) {
            ([], None) => Ok(vec![DataSet::Mnist, DataSet::FashionMnist]),
            ([], Some(_)) => Ok(vec![DataSet::FashionMnist]),
            (sets @ [_, _, ..], Some(path)) => {
                bail!(
                    "--output {} is the table of one data set, but --data names {}; name one",
                    path.display(),
                    sets.len()
                )
            }
            (sets, _) => Ok(sets.to_vec()),
        }
    }

    fn configuration_steps(&self) -> usize {
        self.configuration_steps.unwrap_or(if self.output.is_some() { 0 } else { 300 })
    }
}

/// Rows of each data set: fp32, ptq, qat, binary.
const MODES: usize = 4;

/// A row of the table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The data set.
    pub data: &'static str,
    /// fp32, ptq, qat or binary.
    pub mode: &'static str,
    /// Share of right answers on the test images.
    pub accuracy: f64,
    /// Mean loss in nats.
    pub loss: f64,
    /// Seconds for one image alone on one thread, the median.
    pub latency_s: f64,
    /// Size of the GGUF.
    pub bytes: u64,
}

/// A configuration's row.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Configuration {
    /// The rule.
    pub method: String,
    /// What shares a scale.
    pub group: String,
    /// Format of the file.
    pub format: String,
    /// Share of right answers on the test images.
    pub accuracy: f64,
    /// Mean loss in nats.
    pub loss: f64,
    /// Seconds for one image alone on one thread, the median.
    pub latency_s: f64,
    /// Size of the GGUF.
    pub bytes: u64,
    /// Bits a weight, padding of rows included, scales and biases left out.
    pub bits_per_weight: f64,
}

#[derive(Serialize)]
struct Report<'a> {
    rows: &'a [Row],
    rows_in_all: usize,
    /// Whether Ctrl-C came before the last row or configuration.
    partial: bool,
    configurations: &'a [Configuration],
}

/// Trains, measures, writes the files and prints the tables.
///
/// # Errors
/// If data or the folder cannot be used, training diverges, or Ctrl-C was pressed.
pub fn run(args: &BenchQuantizationArgs, out: &mut Out) -> Result<()> {
    let (Device::Cpu | Device::Auto) = args.device;
    let sets = args.data()?;
    output::check(args.output.iter().chain(&args.json_output))?;
    Setting("--threshold").share_below_one(args.threshold.unwrap_or(0.0))?;
    fs::create_dir_all(&args.out).with_context(|| format!("cannot make the folder {}", args.out.display()))?;
    let threads = args.threads.map_or_else(machine::cores, |threads| threads as usize);
    let (mut rows, mut configurations) = (Vec::new(), Vec::new());
    let ended = engine::with_threads(threads, |exec| -> Result<()> {
        for (i, &set) in sets.iter().enumerate() {
            let bench = Bench::new(args, set, &*exec)?;
            let first = rows.len();
            bench.table(&mut rows)?;
            bench.write_csv(&rows[first..])?;
            if i == 0 && args.configuration_steps() > 0 {
                bench.configurations(&mut configurations)?;
            }
        }
        Ok(())
    })?;
    // After Ctrl-C what was measured is told; the files are those of a whole run.
    let partial = ended.as_ref().is_err_and(interrupt::is_interrupted);
    if !partial {
        ended?;
    }
    let rows_in_all = sets.len() * MODES;
    let report = Report { rows: &rows, rows_in_all, configurations: &configurations, partial };
    let json = serde_json::to_string_pretty(&report)?;
    if !partial {
        checkpoint::replace(&args.out.join("accuracy-size.svg"), plot(&rows).as_bytes())?;
        for path in [Some(&args.out.join("report.json")), args.json_output.as_ref()].into_iter().flatten() {
            checkpoint::replace(path, json.as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    match args.json {
        _ if rows.is_empty() => {}
        true => writeln!(out, "{json}")?,
        false => print(&report, &args.out, out)?,
    }
    match partial {
        true => {
            let then = Interrupted::partial(rows.len(), rows_in_all, "rows").then;
            Err(Interrupted { then: format!("{then}; the same command goes on with the training that was stopped") }
                .into())
        }
        false => Ok(()),
    }
}

/// One data set.
struct Bench<'a> {
    args: &'a BenchQuantizationArgs,
    set: DataSet,
    train: Images,
    test: Images,
    exec: &'a dyn Executor,
}

/// How far a trained net is from its file: what is measured.
struct File {
    measured: Measured,
    latency_s: f64,
    bytes: u64,
    format: &'static str,
}

impl<'a> Bench<'a> {
    fn new(args: &'a BenchQuantizationArgs, set: DataSet, exec: &'a dyn Executor) -> Result<Self> {
        let dir = data::locate(set.name(), args.data_dir.as_deref())?;
        let classes = set.labels().len();
        let (train, test) = (Images::read(&dir, "train", classes)?, Images::read(&dir, "t10k", classes)?);
        Ok(Self { args, set, train, test, exec })
    }

    /// Trains by a rule (none for floats) in a folder of its own.
    fn trained(&self, name: &str, quantization: QuantizationConfig, steps: usize) -> Result<(ImageTask, RunDir)> {
        let mut config = ImagesConfig::of(self.set);
        if !self.args.layers.is_empty() {
            config.layers = self.args.layers.clone();
        }
        if let Some(size) = self.args.batch_size {
            config.batch_size = size;
        }
        // Weights become ternary over a fifth of the run, so that the schedule's log has a course to show.
        let warm = if quantization.method == "none" { 0 } else { steps / 5 };
        config.run.schedule.steps = steps;
        config.run.schedule.warmup_steps = (steps / 20).max(1);
        config.run.schedule.ternary_warmup_steps = warm;
        (config.run.seed, config.run.eval_every) = (self.args.seed, (steps / 10).max(1));
        config.run.log_every = (steps / 50).max(1);
        config.quantization = quantization;
        let run = config.run.clone();
        // Said once for each training it would drown what is measured.
        let admit = |memory: &Memory| memory.check(machine::available_bytes());
        let task = ImageTask::new(config.clone(), self.train.clone(), self.test.clone(), &admit)?;
        let dir = RunDir::create(&self.args.out.join(self.set.name()).join(name))?;
        let resume = dir.checkpoint().exists();
        message::line(&format!("{} {name}: {steps} steps", self.set.name()));
        trainer::train(&task, &run, &config, &dir, resume)?;
        Ok((task, dir))
    }

    /// Steps of a row's training.
    fn steps(&self, epochs: Option<usize>) -> usize {
        let batch = self.args.batch_size.unwrap_or(ImagesConfig::of(self.set).batch_size);
        epochs.map_or(self.args.steps, |epochs| epochs.saturating_mul(self.train.len().div_ceil(batch)))
    }

    fn measured(&self, path: &Path) -> Result<File> {
        let model = images::load(path, &Loading::default(), self.exec)?;
        let format = model.tensors().first().map_or("?", |tensor| tensor.format);
        let busy = interrupt::busy();
        let measured = images::measure(&model, &self.test, self.exec, &mut |_| !busy.requested())?;
        busy.check()?;
        let latency_s = images::latency(&model, &self.test)?;
        Ok(File { measured, latency_s, bytes: fs::metadata(path)?.len(), format })
    }

    /// The four rows.
    fn table(&self, rows: &mut Vec<Row>) -> Result<()> {
        let mut row = |mode: &'static str, path: &Path| -> Result<()> {
            let File { measured, latency_s, bytes, .. } = self.measured(path)?;
            let (accuracy, loss) = (measured.accuracy, measured.loss);
            rows.push(Row { data: self.set.name(), mode, accuracy, loss, latency_s, bytes });
            Ok(())
        };
        let mut ternary = ImagesConfig::of(self.set).quantization;
        if let Some(share) = self.args.threshold {
            ternary.method = format!("threshold:{share}");
        }
        let (float_steps, steps) = (self.steps(self.args.fp32_epochs), self.steps(self.args.qat_epochs));
        let with = |method: &str| QuantizationConfig { method: method.into(), ..ternary.clone() };
        let (float, dir) = self.trained("fp32", with("none"), float_steps)?;
        row("fp32", &dir.model())?;
        let ptq = self.args.out.join(self.set.name()).join("ptq.gguf");
        float.export_as(&ptq, ternary.rule()?, None)?;
        row("ptq", &ptq)?;
        let (qat, dir) = self.trained("qat", ternary.clone(), steps)?;
        row("qat", &dir.model())?;
        self.write_schedule(&dir, qat.net().rule())?;
        let (_, dir) = self.trained("binary", with("sign"), steps)?;
        row("binary", &dir.model())
    }

    fn write_csv(&self, rows: &[Row]) -> Result<()> {
        let mut text = String::from("mode,accuracy,loss,latency_s,bytes\n");
        for row in rows {
            writeln!(text, "{},{:.4},{:.5},{:.7},{}", row.mode, row.accuracy, row.loss, row.latency_s, row.bytes)?;
        }
        for path in [Some(&self.args.out.join(format!("{}.csv", self.set.name()))), self.args.output.as_ref()] {
            let Some(path) = path else { continue };
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
            }
            checkpoint::replace(path, text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }

    /// The course of the ternary training: how ternary weights were, the threshold, loss and accuracy.
    fn write_schedule(&self, dir: &RunDir, rule: Option<Rule>) -> Result<()> {
        use sterna_core::ternary::Method;
        // Of the mean magnitude for absmean, of the largest for a threshold.
        let threshold = match rule.map(|rule| rule.method) {
            Some(Method::Absmean) => 0.5,
            Some(Method::Threshold(share)) => share,
            _ => 0.0,
        };
        let mut text = String::from("step,ternary_fraction,threshold,loss,accuracy\n");
        let log = fs::File::open(dir.log()).with_context(|| format!("cannot read {}", dir.log().display()))?;
        for line in BufReader::new(log).lines() {
            let line: LogLine = serde_json::from_str(&line?)?;
            let accuracy = line.held_out.and_then(|held_out| held_out.accuracy);
            let accuracy = accuracy.map_or(String::new(), |accuracy| format!("{accuracy:.4}"));
            writeln!(text, "{},{:.3},{threshold},{:.5},{accuracy}", line.step, line.ternary, line.loss)?;
        }
        checkpoint::replace(&self.args.out.join(format!("{}-schedule.csv", self.set.name())), text.as_bytes())
    }

    /// Each rule on its own.
    fn configurations(&self, configurations: &mut Vec<Configuration>) -> Result<()> {
        for method in ["absmean", "threshold"] {
            for group in ["64", "128", "256", "row", "tensor"] {
                let config =
                    QuantizationConfig { method: method.into(), group: group.into(), ..QuantizationConfig::default() };
                let (task, dir) =
                    self.trained(&format!("{method}-{group}"), config, self.args.configuration_steps())?;
                let File { measured, latency_s, bytes, format } = self.measured(&dir.model())?;
                let stored = stored_bytes(&dir.model())?;
                configurations.push(Configuration {
                    method: method.into(),
                    group: group.into(),
                    format: format.into(),
                    accuracy: measured.accuracy,
                    loss: measured.loss,
                    latency_s,
                    bytes,
                    bits_per_weight: stored as f64 * 8.0 / task.net().weights() as f64,
                });
            }
        }
        Ok(())
    }
}

/// Bytes of the matrices in a file.
fn stored_bytes(path: &Path) -> Result<u64> {
    let source = crate::source::Source::open(path)?;
    let matrices = source.header().tensors.iter().filter(|info| info.name.ends_with(".weight"));
    Ok(matrices
        .filter_map(|info| {
            let format = sterna_core::formats::Format::identify(info).ok()?;
            format.tensor_bytes(info.rows(), info.cols())
        })
        .sum())
}

/// Accuracy against size.
fn plot(rows: &[Row]) -> String {
    let axis = |label: &str, scale| Axis { label: label.into(), scale };
    let chart = Chart {
        title: "Accuracy and size".into(),
        x: axis("kilobytes of the GGUF", Scale::Log),
        y: axis("accuracy, %", Scale::Linear),
    };
    let mut groups: Vec<Group> = Vec::new();
    for row in rows {
        let point = (row.bytes as f64 / 1e3, row.accuracy * 100.0, row.mode.to_owned());
        match groups.iter_mut().find(|group| group.name == row.data) {
            Some(group) => group.points.push(point),
            None => groups.push(Group { name: row.data.into(), points: vec![point] }),
        }
    }
    scatter(&chart, &groups)
}

fn print(report: &Report<'_>, dir: &Path, out: &mut Out) -> Result<()> {
    let numbers = |accuracy: f64, loss: f64, latency_s: f64, bytes: u64| {
        [
            format!("{:.2} %", accuracy * 100.0),
            format!("{loss:.4}"),
            format!("{:.1}", latency_s * 1e6),
            bytes.to_string(),
        ]
    };
    let cells = |row: &Row| {
        let names = [row.data.to_owned(), row.mode.to_owned()];
        names.into_iter().chain(numbers(row.accuracy, row.loss, row.latency_s, row.bytes)).collect()
    };
    let measured = |titles: &[&'static str]| -> Vec<(&'static str, Align)> {
        let numbers = ["ACCURACY", "LOSS", "us/IMAGE", "BYTES"];
        let left = titles.iter().map(|title| (*title, Align::Left));
        left.chain(numbers.map(|title| (title, Align::Right))).collect()
    };
    text::table(out, &measured(&["DATA", "MODE"]), &report.rows.iter().map(cells).collect::<Vec<_>>())?;
    if !report.configurations.is_empty() {
        let cells = |c: &Configuration| {
            let names = [c.method.clone(), c.group.clone(), c.format.clone()];
            let numbers = numbers(c.accuracy, c.loss, c.latency_s, c.bytes);
            names.into_iter().chain(numbers).chain([format!("{:.3}", c.bits_per_weight)]).collect()
        };
        let mut columns = measured(&["RULE", "GROUP", "FORMAT"]);
        columns.push(("BITS PER WEIGHT", Align::Right));
        writeln!(out)?;
        text::table(out, &columns, &report.configurations.iter().map(cells).collect::<Vec<_>>())?;
    }
    match report.partial {
        true => writeln!(out, "\npartial: {} of {} rows", report.rows.len(), report.rows_in_all)?,
        false => writeln!(out, "\nfiles in {}", dir.display())?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plot_has_a_point_for_each_row() {
        let row = |data, mode, accuracy, bytes| Row { data, mode, accuracy, loss: 0.1, latency_s: 1e-4, bytes };
        let svg = plot(&[row("mnist", "fp32", 0.99, 640_000), row("mnist", "qat", 0.98, 46_000)]);
        assert!(svg.contains("fp32") && svg.contains("qat") && svg.contains("mnist"), "{svg}");
    }
}
