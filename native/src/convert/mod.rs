//! From checkpoints and GGUFs to ternary GGUFs, tensor by tensor: `sterna convert`, `gguf`, `quantize` and `dequantize`.
//!
//! - `weights.rs` reads rows of any source as f32.
//! - `choice.rs` says which tensor gets which format.
//! - `calibration.rs` finds which columns matter, if a text is given for that; `imatrix.rs` reads it from a file of llama.cpp's.
//! - `encode.rs` brings one tensor into a format, on all cores, and measures what was lost.
//! - `report.rs` is what is told about it; `readers.rs` what other programs make of the file.
//! - `files.rs` is the file on its way; `validate.rs` reads it back and compares.
//!
//! Here: the steps of a conversion. The peak in memory is one
//! tensor: its pages in the source, its bytes in the file, and for a rule with one scale a tensor its values as f32.

pub mod calibration;
mod choice;
pub mod encode;
mod files;
pub mod imatrix;
pub mod readers;
pub mod report;
pub mod validate;
pub mod weights;

#[cfg(test)]
mod tests;

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use sterna_core::formats::{Format, identify_all};
use sterna_core::gguf::{Header, Metadata, TensorDecl, TensorInfo, Writer};
use sterna_core::model::image::{self, ImageConfig};
use sterna_core::model::refusals;
use sterna_core::ternary::{Granularity, Method};

use self::calibration::Importance;
use self::choice::{Choice, choose_all};
pub use self::choice::{for_rows, matches, nothing_ternary};
use self::encode::{Encoded, Fidelity, Rounding};
use self::files::{Part, Temporary, beside, same_file};
use self::imatrix::Imatrix;
use self::report::{Done, Report};
use self::weights::Tensor;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::family::{Role, Style};
use crate::checkpoint::plan::{Account, Origin, Plan};
use crate::checkpoint::safetensors::Dtype;
use crate::checkpoint::tokenizer;
use crate::output;
use crate::source::Source;
use crate::ui::interrupt::{self, Interrupted};
use crate::ui::progress::Progress;

/// Choices of a conversion.
#[derive(Clone, Debug)]
pub struct Options {
    /// Format of linear layers; `None` keeps that of a GGUF.
    pub quant: Option<Format>,
    /// How float weights become ternary.
    pub method: Method,
    /// What shares a scale; `None` is the format's block.
    pub group: Option<Granularity>,
    /// The rule was asked for by name: it goes before the one that a model was trained with.
    pub chosen: bool,
    /// Tensors that stay float, as patterns with `*` and `?`.
    pub keep: Vec<String>,
    /// Format of the embedding; `None` is F16 for a checkpoint, and for a GGUF the one it has.
    pub embedding: Option<Format>,
    /// Format of an output of its own, in the same way.
    pub output: Option<Format>,
    /// Weights are rounded to this type before anything else.
    pub buffer: Dtype,
    /// Biases in BF16 rather than F32.
    pub biases_bf16: bool,
    /// A text by which [`Method::Search`] weighs columns.
    pub calibration: Option<PathBuf>,
    /// An importance matrix of llama.cpp's by which it does, instead of a text.
    pub imatrix: Option<PathBuf>,
    /// Nothing may be rounded by a rule.
    pub lossless: bool,
    /// Read the file back and compare.
    pub validate: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            quant: Some(Format::TQ2_0),
            method: Method::Search,
            group: None,
            chosen: false,
            keep: Vec::new(),
            embedding: None,
            output: None,
            buffer: Dtype::F32,
            biases_bf16: false,
            calibration: None,
            imatrix: None,
            lossless: false,
            validate: false,
        }
    }
}

/// Formats that can be written, by their names on the command line.
pub const FORMATS: [Format; 11] = [
    Format::TQ1_0,
    Format::TQ2_0,
    Format::Q2_0,
    Format::PQ2_0,
    Format::PTQ1_0,
    Format::I2_S,
    Format::Q1_0,
    Format::F32,
    Format::F16,
    Format::BF16,
    Format::Q8_0,
];

/// The format of a name.
///
/// # Errors
/// If it cannot be written.
pub fn format_named(name: &str) -> Result<Format> {
    let known = || FORMATS.map(Format::name).join(", ");
    let found = FORMATS.into_iter().find(|format| format.name().eq_ignore_ascii_case(name));
    found.with_context(|| format!("{name} is no format that can be written; known: {}", known()))
}

/// The 16-bit float format that is nearest to a checkpoint's weights: F16 where its embedding is of this type, else BF16, as
/// llama.cpp's converter chooses it for `--outtype auto`.
///
/// # Errors
/// If there is no checkpoint that can be converted.
pub fn sixteen_bit(dir: &Path) -> Result<Format> {
    let checkpoint = Checkpoint::open(dir)?;
    let plan = Plan::of(&checkpoint)?;
    let embedding = plan.items.iter().find(|item| item.role == Role::Embedding).map(|item| &item.origin);
    let dtype = match embedding {
        Some(Origin::Tensor(from)) => checkpoint.entry(&from.tensor).map(|entry| &entry.dtype),
        _ => None,
    };
    Ok(if dtype == Some(&Dtype::F16) { Format::F16 } else { Format::BF16 })
}

/// Converts a checkpoint to a GGUF. `name` is the model's; if `None`, the directory's.
///
/// # Errors
/// A checkpoint that cannot be read or has no place in a GGUF; weights that cannot be held; a file that cannot be written;
/// Ctrl-C. Nothing is then left under the file's name.
pub fn from_checkpoint(dir: &Path, out: &Path, name: Option<&str>, options: &Options) -> Result<Report> {
    output::place(out)?;
    let checkpoint = Checkpoint::open(dir)?;
    let mut plan = Plan::of(&checkpoint)?;
    let mut notes = std::mem::take(&mut plan.notes);
    let name = name.map_or_else(|| directory_name(dir), str::to_owned);
    let mut metadata = plan.metadata(&name)?;
    tokenizer::write(&checkpoint, plan.hyper.vocabulary, plan.family.pre, &mut metadata, &mut notes)?;
    if !metadata.contains("tokenizer.ggml.model") {
        // llama.cpp wants the key, and knows by this word that there are no tokens.
        metadata.insert("tokenizer.ggml.model", "none");
    }
    name_phi3(&plan, &name, &mut metadata);
    // Phi-3's name says what its tokens do to the space after them.
    tokenizer::note_limits(&checkpoint, &metadata, &mut notes)?;
    let account = std::mem::take(&mut plan.account);
    notes.extend(account.notes());
    let tensors = plan.items.into_iter().map(|item| Tensor::of_item(&checkpoint, item)).collect::<Result<Vec<_>>>()?;
    let weighing = Weighing::of(options, || {
        // The model as it is, for as long as it takes to read the text.
        let whole = Temporary(beside(out, ".calibration.part")?);
        let floats = Options { quant: Some(Format::F16), buffer: options.buffer.clone(), ..Options::default() };
        write(&whole.0, metadata.clone(), &tensors, &account, &floats, &Weighing::None)?;
        Ok(whole)
    })?;
    let mut report = write(out, metadata, &tensors, &account, options, &weighing)?;
    report.source = dir.display().to_string();
    report.notes.splice(0..0, notes);
    Ok(report)
}

/// Converts a GGUF to another.
///
/// # Errors
/// As [`from_checkpoint`].
pub fn from_gguf(path: &Path, out: &Path, options: &Options) -> Result<Report> {
    output::place(out)?;
    let source = Source::open(path)?;
    if source.paths().iter().any(|part| same_file(part, out)) {
        bail!("{} would be written over itself; name another file", out.display());
    }
    let header = source.header();
    let mut tensors = Vec::new();
    for ((info, bytes), found) in source.tensors().zip(identify_all(header)) {
        let found = found.with_context(|| path.display().to_string())?;
        tensors.push(Tensor::of_gguf(&source, info, found.format, bytes));
    }
    if header.metadata.str("general.architecture") == Some(image::ARCHITECTURE) {
        // An image classifier's rows are padded to whole blocks of their format, and to those of no other.
        let config = ImageConfig::from_header(header).with_context(|| path.display().to_string())?;
        let (choices, _) = choose_all(&tensors, options)?;
        for (tensor, choice) in tensors.iter_mut().zip(choices) {
            if let Some(cols) = config.columns(&tensor.name) {
                tensor.drop_padding(cols.next_multiple_of(choice.format().block_len()));
            }
        }
    }
    let mut metadata = header.metadata.clone();
    let split: Vec<String> =
        metadata.iter().map(|(key, _)| key.to_owned()).filter(|key| key.starts_with("split.")).collect();
    split.iter().for_each(|key| {
        metadata.remove(key);
    });
    let account = Account { read: tensors.len(), ..Account::default() };
    let weighing = Weighing::of(options, || Ok(path))?;
    let mut report = write(out, metadata, &tensors, &account, options, &weighing)?;
    report.source = path.display().to_string();
    Ok(report)
}

/// How much each column of each matrix counts.
enum Weighing {
    /// All alike.
    None,
    /// By the activations of a text.
    Calibrated(Importance),
    /// By a file of llama.cpp's.
    Read(Imatrix),
}

impl Weighing {
    /// As the options ask; `model` gives the model as it is, for a text to run through.
    fn of<M: AsRef<Path>>(options: &Options, model: impl FnOnce() -> Result<M>) -> Result<Self> {
        let (flag, path) = match (&options.imatrix, &options.calibration) {
            (None, None) => return Ok(Self::None),
            (Some(_), Some(_)) => bail!("--imatrix and --calibration both weigh columns; give one of them"),
            (Some(path), None) => ("--imatrix", path),
            (None, Some(path)) => ("--calibration", path),
        };
        if options.method != Method::Search {
            bail!("{flag} goes with --rule search, not with {}, which weighs all columns alike", options.method);
        }
        if options.imatrix.is_some() {
            return Ok(Self::Read(Imatrix::read(path)?));
        }
        let text = crate::args::read_text(path)?;
        Ok(Self::Calibrated(calibration::importance(model()?.as_ref(), &text)?))
    }

    /// Of one tensor's columns.
    fn of_tensor(&self, tensor: &Tensor<'_>) -> Result<Option<&[f32]>> {
        match self {
            Self::None => Ok(None),
            Self::Calibrated(importance) => Ok(importance.get(&tensor.name).map(Vec::as_slice)),
            Self::Read(imatrix) => imatrix.of_tensor(&tensor.name, tensor.cols),
        }
    }
}

/// What is returned where Ctrl-C was pressed.
pub fn interrupted() -> anyhow::Error {
    Interrupted { then: "nothing was written under the file's name".into() }.into()
}

/// Writes all tensors as `options` say. `account` is that of the source's tensors.
fn write(
    out: &Path,
    mut metadata: Metadata,
    tensors: &[Tensor<'_>],
    account: &Account,
    options: &Options,
    weighing: &Weighing,
) -> Result<Report> {
    let (choices, mut notes) = choose_all(tensors, options)?;
    describe(&mut metadata, tensors, &choices);
    if let Weighing::Read(imatrix) = weighing {
        let ternary = tensors.iter().zip(&choices).filter(|(_, choice)| choice.format().is_ternary());
        imatrix.check(ternary.map(|(tensor, _)| tensor.name.as_str()))?;
        imatrix.describe(&mut metadata);
    }
    let declare = |(tensor, choice): (&Tensor<'_>, &Choice)| -> Result<TensorDecl> {
        let format = choice.format();
        let size = format.tensor_bytes(tensor.rows as u64, tensor.cols as u64);
        let size = size.with_context(|| format!("{} is too large", tensor.place))?;
        Ok(TensorDecl { name: tensor.name.clone(), dims: tensor.dims.clone(), type_id: format.type_id(), size })
    };
    let declared: Vec<TensorDecl> = tensors.iter().zip(&choices).map(declare).collect::<Result<_>>()?;
    check_header(&metadata, &declared)?;
    notes.extend(readers::notes(&metadata, &declared));

    let busy = interrupt::busy();
    let stop = || busy.requested();
    let part = Part::create(out)?;
    let cannot = || format!("cannot write {}", out.display());
    let file = BufWriter::with_capacity(1 << 20, part.file.try_clone().with_context(cannot)?);
    let mut writer = Writer::new(file, &metadata, declared).with_context(cannot)?;
    let total: u64 = tensors.iter().map(Tensor::bytes).sum();
    let mut progress = Progress::bytes("converting", Some(total));
    let (started, mut read, mut done) = (Instant::now(), 0, Vec::new());
    for (tensor, choice) in tensors.iter().zip(&choices) {
        let Encoded { bytes, sums, fidelity } = match *choice {
            Choice::Plain(format) => encode::plain(tensor, format, options.chosen, &stop)?,
            Choice::Ternary(format, rule) => {
                let Options { chosen, lossless, ref buffer, .. } = *options;
                let importance = weighing.of_tensor(tensor)?;
                encode::ternary(tensor, &Rounding { format, rule, chosen, buffer, lossless, importance }, &stop)?
            }
        };
        writer.tensor(&tensor.name, &bytes).with_context(cannot)?;
        tensor.release();
        read += tensor.bytes();
        progress.set(read);
        done.push(Done {
            name: tensor.name.clone(),
            kind: crate::source::kind(&tensor.name),
            from: tensor.stored_as(),
            format: choice.format().name(),
            ternary: choice.format().is_ternary(),
            elements: tensor.elements() as u64,
            bytes_before: tensor.bytes(),
            bytes_after: bytes.len() as u64,
            sums,
            fidelity,
        });
        if stop() {
            return Err(interrupted());
        }
    }
    writer.finish().and_then(|mut file| Ok(file.flush()?)).with_context(cannot)?;
    drop(progress);
    let seconds = started.elapsed().as_secs_f64();
    let validated = match options.validate {
        true => Some(validate::validate(&part.path, tensors, &done, account, &stop)?),
        false => None,
    };
    notes.extend(report::vanished(&done));
    if let Weighing::Read(imatrix) = weighing {
        let rounded = done.iter().filter(|done| done.fidelity == Fidelity::Rule);
        notes.extend(imatrix.missing(rounded.map(|done| done.name.as_str())));
    }
    part.keep().with_context(cannot)?;
    let account = account.clone();
    Ok(Report { source: String::new(), output: out.to_owned(), tensors: done, account, seconds, notes, validated })
}

/// Keys about the file itself.
fn describe(metadata: &mut Metadata, tensors: &[Tensor<'_>], choices: &[Choice]) {
    // The type of most weights.
    let mut counts: Vec<(Format, usize)> = Vec::new();
    for (tensor, choice) in tensors.iter().zip(choices).filter(|(tensor, _)| tensor.role == Role::Linear) {
        match counts.iter_mut().find(|(format, _)| *format == choice.format()) {
            Some((_, elements)) => *elements += tensor.elements(),
            None => counts.push((choice.format(), tensor.elements())),
        }
    }
    let main = counts.iter().max_by_key(|(_, elements)| *elements).map(|(format, _)| *format);
    let file_type = main.and_then(Format::file_type);
    // In this order, whatever was there before.
    metadata.remove("general.file_type");
    metadata.remove("general.quantization_version");
    if let Some(file_type) = file_type {
        metadata.insert("general.file_type", file_type);
    }
    metadata.insert("general.quantization_version", 2u32);
}

/// Refuses now what could not be run later.
fn check_header(metadata: &Metadata, declared: &[TensorDecl]) -> Result<()> {
    let mut offset = 0;
    let mut tensors = Vec::new();
    for decl in declared {
        let size = decl.size.next_multiple_of(32);
        let TensorDecl { name, dims, type_id, .. } = decl.clone();
        tensors.push(TensorInfo { name, dims, type_id, offset, size });
        offset += size;
    }
    let header = Header { version: 3, metadata: metadata.clone(), tensors, alignment: 32, data_offset: 0 };
    match refusals(&header).into_iter().next() {
        Some(refusal) => Err(refusal).context("the file would not run"),
        None => Ok(()),
    }
}

/// What a model in this directory is called.
pub fn directory_name(dir: &Path) -> String {
    let path = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    path.file_name().map_or("model".into(), |name| name.to_string_lossy().into_owned())
}

/// Phi-3's special tokens swallow the space after them. Readers tell such models by their name alone, and then look for these
/// tokens.
fn name_phi3(plan: &Plan, name: &str, metadata: &mut Metadata) {
    let lower = name.to_lowercase();
    let named = lower.contains("phi-3") || lower.contains("phi3");
    let has = |text: &str| {
        metadata.strings("tokenizer.ggml.tokens").is_some_and(|tokens| tokens.iter().any(|token| token == text))
    };
    let sentence_piece = metadata.str("tokenizer.ggml.model") == Some("llama");
    if plan.family.style == Style::Phi3 && !named && sentence_piece && has("<|endoftext|>") {
        metadata.insert("general.name", format!("phi-3 {name}"));
    }
}

/// Whether nothing was rounded by a rule.
pub fn is_lossless(report: &Report) -> bool {
    report.tensors.iter().all(|tensor| !tensor.ternary || tensor.fidelity != Fidelity::Rule)
}
