//! `sterna quantize` and `sterna dequantize`: from one GGUF to another.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use sterna_core::formats::Format;

use super::convert::{RoundingArgs, finish, format_of, within};
use crate::args::HubArgs;
use crate::convert::{self, FORMATS, Options};
use crate::ui::message;
use crate::{Out, output};

/// Bring a GGUF into another format, without loss between ternary ones where their groups allow.
///
/// The embedding, the output and whatever is no matrix stay as they are unless their flags say otherwise.
#[derive(Debug, Args)]
pub struct QuantizeArgs {
    /// The GGUF to read (of a sharded model any part), a folder with one in it, or a name on the hub.
    #[arg(value_name = "IN")]
    pub input: PathBuf,
    /// The GGUF to write.
    #[arg(value_name = "OUT")]
    pub output: PathBuf,
    /// Format of the linear layers: TQ1_0, TQ2_0, Q2_0, PQ2_0, PTQ1_0, I2_S; also Q1_0, F16, BF16, F32, Q8_0, and llama-quantize's
    /// numbers for them.
    #[arg(value_name = "TYPE", value_parser = type_of, required_unless_present = "format", conflicts_with = "format")]
    pub kind: Option<Format>,
    /// Threads, as --threads.
    #[arg(value_name = "THREADS", value_parser = clap::value_parser!(u32).range(1..=1024), conflicts_with = "threads")]
    pub thread_count: Option<u32>,
    /// Format of the linear layers, as a flag.
    #[arg(long = "type", visible_alias = "quant", value_name = "FORMAT", value_parser = type_of)]
    pub format: Option<Format>,
    /// Accepted for scripts made for llama-quantize, and without effect: any GGUF that is read is brought into the new format.
    #[arg(long)]
    pub allow_requantize: bool,
    /// Accepted in the same way: the output layer stays as it is anyway, unless --output-type names a format.
    #[arg(long)]
    pub leave_output_tensor: bool,
    /// How.
    #[command(flatten)]
    pub rounding: RoundingArgs,
}

/// Bring a GGUF's weights back into a float format.
#[derive(Debug, Args)]
pub struct DequantizeArgs {
    /// The GGUF to read (of a sharded model any part), a folder with one in it, or a name on the hub.
    #[arg(value_name = "IN")]
    pub input: PathBuf,
    /// The GGUF to write.
    #[arg(value_name = "OUT")]
    pub output: PathBuf,
    /// F16, BF16 or F32.
    #[arg(long = "type", value_name = "FORMAT", value_parser = format_of, default_value = "F16")]
    pub format: Format,
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

/// A format by its name, or by the number that llama-quantize has for it.
fn type_of(text: &str) -> Result<Format, String> {
    // The number of I2_S is bitnet.cpp's; llama-quantize means Q1_0 by it.
    let theirs = || FORMATS.into_iter().filter(|&format| format != Format::I2_S);
    let by_number = |number: u32| theirs().find(|format| format.file_type() == Some(number));
    match text.parse::<u32>() {
        Ok(number) => by_number(number).ok_or_else(|| {
            let numbers = theirs().filter_map(|format| Some(format!("{} {}", format.file_type()?, format.name())));
            format!("{number} is no type that can be written; known: {}", numbers.collect::<Vec<_>>().join(", "))
        }),
        Err(_) => format_of(text),
    }
}

/// Runs `sterna quantize`.
///
/// # Errors
/// As [`convert::from_gguf`].
pub fn run(args: &QuantizeArgs, out: &mut Out) -> Result<()> {
    for (given, flag, why) in [
        (args.allow_requantize, "--allow-requantize", "any GGUF that is read is brought into the new format"),
        (
            args.leave_output_tensor,
            "--leave-output-tensor",
            "the output layer stays as it is unless --output-type is given",
        ),
    ] {
        if given {
            message::note(&format!("{flag} has no effect: {why}"));
        }
    }
    let format = args.kind.or(args.format).context("no format given; name one after the output, or with --type")?;
    let options = args.rounding.options(Some(format))?;
    let threads = args.rounding.threads.or(args.thread_count);
    output::place(&args.output)?;
    let input = HubArgs::default().locate(&args.input)?;
    let report = within(threads, || convert::from_gguf(&input, &args.output, &options))?;
    finish(&report, &options, args.rounding.json, None, out)
}

/// Runs `sterna dequantize`.
///
/// # Errors
/// As [`convert::from_gguf`].
pub fn run_dequantize(args: &DequantizeArgs, out: &mut Out) -> Result<()> {
    let format = args.format;
    if !matches!(format, Format::F16 | Format::BF16 | Format::F32) {
        bail!("{} is no float format; give F16, BF16 or F32", format.name());
    }
    let options = Options {
        quant: Some(format),
        embedding: Some(format),
        output: Some(format),
        validate: args.validate,
        ..Options::default()
    };
    output::place(&args.output)?;
    let input = HubArgs::default().locate(&args.input)?;
    let report = within(args.threads, || convert::from_gguf(&input, &args.output, &options))?;
    finish(&report, &options, args.json, None, out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_llama_quantize() {
        for (number, format) in [("0", Format::F32), ("37", Format::TQ2_0), ("40", Format::Q1_0), ("41", Format::Q2_0)]
        {
            assert_eq!(type_of(number), Ok(format));
        }
        assert_eq!(type_of("i2_s"), Ok(Format::I2_S));
        assert!(type_of("15").unwrap_err().contains("37 TQ2_0"));
    }
}
