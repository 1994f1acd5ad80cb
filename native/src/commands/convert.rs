//! `sterna convert` and `sterna gguf`: checkpoints in, GGUFs out.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{ArgGroup, Args, ValueEnum};
use serde_json::{Value, json};
use sterna_core::formats::Format;
use sterna_core::ternary::{Granularity, Method};

use crate::args::CheckpointArgs;
use crate::checkpoint::safetensors::Dtype;
use crate::convert::report::Report;
use crate::convert::{self, Options, format_named};
use crate::ui::message;
use crate::{Out, engine, output};

/// The model within a converted directory.
const MODEL: &str = "model.gguf";
/// What is said about it there.
const METADATA: &str = "sterna_metadata.json";

/// Convert a Hugging Face checkpoint to a ternary GGUF.
///
/// Weights that are ternary already (packed, or floats on three levels) keep every code. BitNet's float masters are rounded as the
/// model itself rounds them. All others are rounded by --rule, and the loss is told: a model that was not trained ternary is
/// seldom of use after that without further training.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("to").required(true).multiple(true).args(["out", "output", "output_gguf"])))]
pub struct ConvertArgs {
    /// The checkpoint: a directory with config.json, safetensors and tokenizer, or a repository on the Hugging Face hub, which is
    /// fetched once and kept.
    #[arg(value_name = "DIR|USER/REPO")]
    pub source: PathBuf,
    /// Where to: a .gguf file (its metadata goes beside it, as FILE.json), or a directory, which gets model.gguf and
    /// sterna_metadata.json.
    #[arg(value_name = "OUT", conflicts_with = "output")]
    pub out: Option<PathBuf>,
    /// The same, as a flag.
    #[arg(short, long, visible_alias = "outfile", value_name = "PATH")]
    pub output: Option<PathBuf>,
    /// A GGUF; beside another output it is a second one, in the format of --gguf-quant.
    #[arg(long, value_name = "FILE")]
    pub output_gguf: Option<PathBuf>,
    /// Format of --output-gguf; by default that of --quant.
    #[arg(long, value_name = "FORMAT", value_parser = Quant::parse, requires = "output_gguf")]
    pub gguf_quant: Option<Quant>,
    /// Format of the linear layers: TQ1_0, TQ2_0, Q2_0, PQ2_0, PTQ1_0, I2_S; also Q1_0, F16, BF16, F32, Q8_0. auto makes all
    /// matrices F16 or BF16, whichever the checkpoint is nearest to.
    #[arg(long, visible_alias = "outtype", value_name = "FORMAT", value_parser = Quant::parse, default_value = "TQ2_0")]
    pub quant: Quant,
    /// Which revision of a repository, and whether it may be fetched.
    #[command(flatten)]
    pub hub: CheckpointArgs,
    /// How.
    #[command(flatten)]
    pub rounding: RoundingArgs,
    /// What else.
    #[command(flatten)]
    pub rest: RestArgs,
}

/// Export a GGUF from a checkpoint, or from a directory that convert made.
#[derive(Debug, Args)]
pub struct GgufArgs {
    /// A checkpoint's directory, a repository on the Hugging Face hub, or a directory made by sterna convert. With --from-hf or
    /// --from-t81 it is the file to write.
    #[arg(value_name = "DIR|USER/REPO", required_unless_present_any = ["from_hf", "from_t81"])]
    pub source: Option<PathBuf>,
    /// The file.
    #[arg(value_name = "OUT", conflicts_with_all = ["output", "from_hf", "from_t81"])]
    pub out: Option<PathBuf>,
    /// The same, as a flag.
    #[arg(short, long, visible_aliases = ["output-gguf", "outfile"], value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// The checkpoint, named by a flag: a directory or a repository.
    #[arg(long, value_name = "DIR|USER/REPO", conflicts_with = "from_t81")]
    pub from_hf: Option<PathBuf>,
    /// The directory that convert made, named by a flag.
    #[arg(long, value_name = "DIR")]
    pub from_t81: Option<PathBuf>,
    /// Format of the linear layers, or auto; by default TQ2_0 for a checkpoint, and what it has for a converted directory.
    #[arg(long, visible_aliases = ["outtype", "gguf-quant"], value_name = "FORMAT", value_parser = Quant::parse)]
    pub quant: Option<Quant>,
    /// Which revision of a repository, and whether it may be fetched.
    #[command(flatten)]
    pub hub: CheckpointArgs,
    /// How.
    #[command(flatten)]
    pub rounding: RoundingArgs,
    /// What else.
    #[command(flatten)]
    pub rest: RestArgs,
}

/// A format, or the choice of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quant {
    /// F16 or BF16 for all matrices, whichever the checkpoint is nearest to.
    Auto,
    /// This format for the linear layers.
    Format(Format),
}

impl Quant {
    fn parse(name: &str) -> Result<Self, String> {
        if name.eq_ignore_ascii_case("auto") { Ok(Self::Auto) } else { format_of(name).map(Self::Format) }
    }

    /// The choices that were typed, in this format; `dir` holds the checkpoint.
    fn options(self, rounding: &RoundingArgs, rest: &RestArgs, dir: &Path) -> Result<Options> {
        let format = match self {
            Self::Format(format) => format,
            Self::Auto => convert::sixteen_bit(dir)?,
        };
        let options = rest.options(rounding.options(Some(format))?);
        let all = Some(format).filter(|_| self == Self::Auto);
        Ok(Options { embedding: options.embedding.or(all), output: options.output.or(all), ..options })
    }
}

/// How float weights become ternary.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Rounding")]
pub struct RoundingArgs {
    /// The rule for weights that are not ternary yet: search (codes and least-squares scale by turns; the least error), twn,
    /// absmean, threshold (a share of the group's largest magnitude), sign (for Q1_0). search is taken if none is given, threshold
    /// if --threshold is.
    #[arg(long, value_name = "RULE")]
    pub rule: Option<Method>,
    /// Weights up to this share of their group's largest magnitude become zero; 0.45 with --rule threshold alone.
    #[arg(long, value_name = "SHARE")]
    pub threshold: Option<f32>,
    /// A text that the model is first run on; search then weighs each column by the mean square of the activations that meet it.
    /// Takes the time and the memory of running the model as it is.
    #[arg(long, value_name = "TEXT")]
    pub calibration: Option<PathBuf>,
    /// An importance matrix that llama-imatrix made (.gguf, or the older .dat); search weighs columns by it, as by --calibration.
    #[arg(long, value_name = "FILE", conflicts_with = "calibration")]
    pub imatrix: Option<PathBuf>,
    /// What shares a scale: 64, 128 or 256 weights, row, tensor; by default the format's block.
    #[arg(long, value_name = "GROUP")]
    pub group: Option<Granularity>,
    /// Leave tensors whose names match in F16, as in '*.ffn_down.weight' or 'model.layers.0.*'; may be given several times.
    #[arg(long, value_name = "PATTERN")]
    pub keep: Vec<String>,
    /// Format of the embedding; by default F16, or a GGUF's own.
    #[arg(long, value_name = "FORMAT", value_parser = format_of)]
    pub token_embedding_type: Option<Format>,
    /// Format of the output layer, where it is not the embedding; by default F16, or a GGUF's own.
    #[arg(long, visible_alias = "output-tensor-type", value_name = "FORMAT", value_parser = format_of)]
    pub output_type: Option<Format>,
    /// Fail rather than round weights by a rule.
    #[arg(long)]
    pub require_lossless: bool,
    /// Round weights to this type before anything else; float32 rounds nothing.
    #[arg(long, value_name = "TYPE", default_value = "float32")]
    pub torch_dtype: TorchDtype,
    /// Read the file back, compare every tensor with its source, and run the model.
    #[arg(long)]
    pub validate: bool,
    /// Threads; all cores if not given.
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Choices that belong to checkpoints.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Checkpoint")]
pub struct RestArgs {
    /// The model's name in the file; by default the directory's.
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Store biases in BF16: half the bytes, but llama.cpp adds F32 biases only.
    #[arg(long, overrides_with = "no_keep_biases_bf16")]
    pub keep_biases_bf16: bool,
    /// Store biases in F32; the default.
    #[arg(long)]
    pub no_keep_biases_bf16: bool,
    /// Accepted for scripts made for other tools, and without effect: tensors are converted one at a time on the CPU, so no model
    /// is too large for it.
    #[arg(long, value_name = "MAP")]
    pub device_map: Option<String>,
    /// Accepted in the same way: conversion always is on the CPU.
    #[arg(long)]
    pub force_cpu_device_map: bool,
}

/// Types of floats by the names that PyTorch's users know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TorchDtype {
    /// 32-bit float.
    #[value(alias = "f32")]
    Float32,
    /// The upper half of a 32-bit float.
    #[value(alias = "bf16")]
    Bfloat16,
    /// IEEE half.
    #[value(alias = "f16", alias = "half")]
    Float16,
}

pub(super) fn format_of(name: &str) -> Result<Format, String> {
    format_named(name).map_err(|error| error.to_string())
}

/// Runs `sterna convert`.
///
/// # Errors
/// As [`convert::from_checkpoint`], and those of fetching a repository.
pub fn run(args: &ConvertArgs, out: &mut Out) -> Result<()> {
    args.rest.explain();
    let (dir, repo) = args.hub.resolve(&args.source)?;
    let name = args.rest.name.as_deref().or(repo.as_deref());
    let convert = |file: &Path, options: &Options| {
        within(args.rounding.threads, || convert::from_checkpoint(&dir, file, name, options))
    };
    let quant = |quant: Quant| quant.options(&args.rounding, &args.rest, &dir);
    let gguf_quant = args.gguf_quant.unwrap_or(args.quant);
    let Some(output) = args.out.as_ref().or(args.output.as_ref()) else {
        let (file, metadata) = places(args.output_gguf.as_deref().context("no output")?);
        output::check([&file, &metadata])?;
        let options = quant(gguf_quant)?;
        return finish(&convert(&file, &options)?, &options, args.rounding.json, Some(&metadata), out);
    };
    let (file, metadata) = places(output);
    output::check([&file, &metadata].into_iter().chain(&args.output_gguf))?;
    let options = quant(args.quant)?;
    let report = convert(&file, &options)?;
    let Some(second) = &args.output_gguf else {
        return finish(&report, &options, args.rounding.json, Some(&metadata), out);
    };
    let second_options = quant(gguf_quant)?;
    let mut second = convert(second, &second_options)?;
    if args.rounding.json {
        write_metadata(&metadata, &report.json(settings(&options)))?;
        let both = [report.json(settings(&options)), second.json(settings(&second_options))];
        return Ok(writeln!(out, "{}", serde_json::to_string_pretty(&both)?)?);
    }
    // What is true of both was said of the first.
    second.notes.retain(|note| !report.notes.contains(note));
    finish(&report, &options, false, Some(&metadata), out)?;
    writeln!(out)?;
    finish(&second, &second_options, false, None, out)
}

/// Runs `sterna gguf`.
///
/// # Errors
/// As [`convert::from_checkpoint`] and [`convert::from_gguf`], and those of fetching a repository.
pub fn run_gguf(args: &GgufArgs, out: &mut Out) -> Result<()> {
    args.rest.explain();
    let named = args.from_hf.as_ref().or(args.from_t81.as_ref());
    // With the source named by a flag, the word that stands alone is the file.
    let (source, word) = match (named, &args.source) {
        (Some(source), word) => (source, word.as_ref()),
        (None, Some(source)) => (source, args.out.as_ref()),
        (None, None) => bail!("no checkpoint given; name its directory or repository"),
    };
    let output = match (word, &args.output) {
        (Some(word), Some(output)) => {
            bail!("{} and {} are both to be written; name one file", word.display(), output.display())
        }
        (word, output) => word.or(output.as_ref()).context("no file to write; name it after the source, or with -o")?,
    };
    let is_converted = |dir: &Path| dir.join(MODEL).is_file() && dir.join(METADATA).is_file();
    if let Some(dir) = args.from_t81.as_ref().filter(|dir| !is_converted(dir)) {
        bail!(
            "--from-t81 {}: it is no directory that sterna convert made ({MODEL} and {METADATA}); name a checkpoint with --from-hf",
            dir.display()
        );
    }
    let threads = args.rounding.threads;
    let (report, options) = if args.from_hf.is_none() && is_converted(source) {
        let format = match args.quant {
            Some(Quant::Format(format)) => Some(format),
            Some(Quant::Auto) | None => None,
        };
        let options = args.rest.options(args.rounding.options(format)?);
        (within(threads, || convert::from_gguf(&source.join(MODEL), output, &options))?, options)
    } else {
        let (dir, repo) = args.hub.resolve(source)?;
        let quant = args.quant.unwrap_or(Quant::Format(Format::TQ2_0));
        let options = quant.options(&args.rounding, &args.rest, &dir)?;
        let name = args.rest.name.as_deref().or(repo.as_deref());
        (within(threads, || convert::from_checkpoint(&dir, output, name, &options))?, options)
    };
    finish(&report, &options, args.rounding.json, None, out)
}

/// The GGUF and the file of metadata of an output.
fn places(output: &Path) -> (PathBuf, PathBuf) {
    if output.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf")) {
        let mut name = output.as_os_str().to_owned();
        name.push(".json");
        (output.to_owned(), name.into())
    } else {
        (output.join(MODEL), output.join(METADATA))
    }
}

/// Runs a conversion on as many threads as were asked for.
pub(super) fn within(threads: Option<u32>, work: impl FnOnce() -> Result<Report> + Send) -> Result<Report> {
    let threads = threads.map_or_else(crate::machine::cores, |threads| threads as usize);
    engine::in_pool(threads, work)?
}

/// Tells what was done: notes and the table, or JSON; and the file of metadata.
pub(super) fn finish(
    report: &Report,
    options: &Options,
    as_json: bool,
    metadata: Option<&Path>,
    out: &mut Out,
) -> Result<()> {
    let json = report.json(settings(options));
    if let Some(path) = metadata {
        write_metadata(path, &json)?;
    }
    if as_json {
        writeln!(out, "{}", serde_json::to_string_pretty(&json)?)?;
        return Ok(());
    }
    report.notes.iter().for_each(|note| message::note(note));
    Ok(report.write_text(out)?)
}

fn write_metadata(path: &Path, json: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(json)? + "\n";
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// What was chosen, for the file of metadata.
fn settings(options: &Options) -> Value {
    json!({
        "quant": options.quant.map(Format::name),
        "rule": options.method.to_string(),
        "group": options.group.map(|group| group.to_string()),
        "threshold": match options.method {
            Method::Threshold(share) => Some(share),
            _ => None,
        },
        "calibration": options.calibration.as_ref().map(|path| path.display().to_string()),
        "imatrix": options.imatrix.as_ref().map(|path| path.display().to_string()),
        "keep": options.keep,
        "token_embedding_type": options.embedding.map(Format::name),
        "output_type": options.output.map(Format::name),
        "torch_dtype": match options.buffer {
            Dtype::BF16 => "bfloat16",
            Dtype::F16 => "float16",
            _ => "float32",
        },
        "keep_biases_bf16": options.biases_bf16,
        "require_lossless": options.lossless,
    })
}

impl RoundingArgs {
    /// The choices that were typed.
    ///
    /// # Errors
    /// If they contradict each other.
    pub fn options(&self, quant: Option<Format>) -> Result<Options> {
        let method = match (self.rule, self.threshold) {
            (None | Some(Method::Threshold(_)), Some(share)) => Method::Threshold(share),
            (Some(rule), Some(_)) => bail!("--threshold goes with --rule threshold, not with {rule}"),
            (Some(rule), None) => rule,
            (None, None) if quant == Some(Format::Q1_0) => Method::Sign,
            (None, None) => Method::Search,
        };
        if let Method::Threshold(share) = method
            && !(0.0..1.0).contains(&share)
        {
            bail!("--threshold {share} is no share of a group's largest magnitude; give one from 0 up to 1");
        }
        Ok(Options {
            quant,
            method,
            group: self.group,
            chosen: self.rule.is_some() || self.threshold.is_some() || self.group.is_some(),
            keep: self.keep.clone(),
            embedding: self.token_embedding_type,
            output: self.output_type,
            buffer: match self.torch_dtype {
                TorchDtype::Float32 => Dtype::F32,
                TorchDtype::Bfloat16 => Dtype::BF16,
                TorchDtype::Float16 => Dtype::F16,
            },
            biases_bf16: false,
            calibration: self.calibration.clone(),
            imatrix: self.imatrix.clone(),
            lossless: self.require_lossless,
            validate: self.validate,
        })
    }
}

impl RestArgs {
    fn options(&self, options: Options) -> Options {
        Options { biases_bf16: self.keep_biases_bf16, ..options }
    }

    /// Says why some flags have no effect.
    fn explain(&self) {
        if let Some(map) = &self.device_map {
            message::note(&format!("--device-map {map} has no effect: tensors are converted one at a time on the CPU"));
        }
        if self.force_cpu_device_map {
            message::note("--force-cpu-device-map has no effect: conversion always is on the CPU");
        }
    }
}
