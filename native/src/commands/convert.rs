//! `sterna convert` and `sterna gguf`: checkpoints in, GGUFs out.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use sterna_core::formats::Format;
use sterna_core::ternary::{Granularity, Method};

use crate::checkpoint::safetensors::Dtype;
use crate::convert::report::Report;
use crate::convert::{self, Options, format_named};
use crate::ui::message;
use crate::{Out, engine};

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
pub struct ConvertArgs {
    /// The checkpoint's directory: config.json, safetensors, tokenizer.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Where to: a .gguf file (its metadata goes beside it, as FILE.json), or a directory, which gets model.gguf and
    /// sterna_metadata.json.
    #[arg(short, long, visible_alias = "output-gguf", value_name = "PATH")]
    pub output: PathBuf,
    /// Format of the linear layers: TQ1_0, TQ2_0, Q2_0, PQ2_0, PTQ1_0, I2_S; also Q1_0, F16, BF16, F32, Q8_0.
    #[arg(long, visible_alias = "outtype", value_name = "FORMAT", value_parser = format_of, default_value = "TQ2_0")]
    pub quant: Format,
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
    /// A checkpoint's directory, or one made by sterna convert.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// The file.
    #[arg(short, long, visible_alias = "output-gguf", value_name = "FILE")]
    pub output: PathBuf,
    /// Format of the linear layers; by default TQ2_0 for a checkpoint, and what it has for a converted directory.
    #[arg(long, visible_alias = "outtype", value_name = "FORMAT", value_parser = format_of)]
    pub quant: Option<Format>,
    /// How.
    #[command(flatten)]
    pub rounding: RoundingArgs,
    /// What else.
    #[command(flatten)]
    pub rest: RestArgs,
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
/// As [`convert::from_checkpoint`].
pub fn run(args: &ConvertArgs, out: &mut Out) -> Result<()> {
    args.rest.explain();
    let options = args.rest.options(args.rounding.options(Some(args.quant))?);
    let (file, metadata) = places(&args.output);
    let report = within(args.rounding.threads, || {
        convert::from_checkpoint(&args.dir, &file, args.rest.name.as_deref(), &options)
    })?;
    finish(&report, &options, args.rounding.json, Some(&metadata), out)
}

/// Runs `sterna gguf`.
///
/// # Errors
/// As [`convert::from_checkpoint`] and [`convert::from_gguf`].
pub fn run_gguf(args: &GgufArgs, out: &mut Out) -> Result<()> {
    args.rest.explain();
    let converted = args.dir.join(MODEL);
    let report;
    let options;
    if converted.is_file() && args.dir.join(METADATA).is_file() {
        options = args.rest.options(args.rounding.options(args.quant)?);
        report = within(args.rounding.threads, || convert::from_gguf(&converted, &args.output, &options))?;
    } else {
        options = args.rest.options(args.rounding.options(Some(args.quant.unwrap_or(Format::TQ2_0)))?);
        let name = args.rest.name.as_deref();
        report = within(args.rounding.threads, || convert::from_checkpoint(&args.dir, &args.output, name, &options))?;
    }
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
        let mut text = serde_json::to_string_pretty(&json)?;
        text.push('\n');
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if as_json {
        writeln!(out, "{}", serde_json::to_string_pretty(&json)?)?;
        return Ok(());
    }
    report.notes.iter().for_each(|note| message::note(note));
    Ok(report.write_text(out)?)
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
        "calibration": options.calibration,
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
