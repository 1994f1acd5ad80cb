//! From checkpoints and GGUFs to ternary GGUFs, tensor by tensor: `sterna convert`, `gguf`, `quantize` and `dequantize`.
//!
//! - `weights.rs` reads rows of any source as f32.
//! - `calibration.rs` finds which columns matter, if a text is given for that.
//! - `encode.rs` brings one tensor into a format, on all cores, and measures what was lost.
//! - `report.rs` is what is told about it; `validate.rs` reads a written file back and compares.
//!
//! Here: which tensor gets which format, and the file, which has its name only when it is complete. The peak in memory is one
//! tensor: its pages in the source, its bytes in the file, and for a rule with one scale a tensor its values as f32.

pub mod calibration;
pub mod encode;
pub mod report;
pub mod validate;
pub mod weights;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use sterna_core::formats::{Format, identify_all};
use sterna_core::gguf::{Header, Metadata, TensorDecl, TensorInfo, Writer};
use sterna_core::model::refusals;
use sterna_core::ternary::{Granularity, Method, Rule, format_for};

use self::calibration::Importance;
use self::encode::{Encoded, Fidelity, Rounding};
use self::report::{Done, Report};
use self::weights::Tensor;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::family::{Plan, Role};
use crate::checkpoint::safetensors::Dtype;
use crate::checkpoint::{family, tokenizer};
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

/// Converts a checkpoint to a GGUF. `name` is the model's; if `None`, the directory's.
///
/// # Errors
/// A checkpoint that cannot be read or has no place in a GGUF; weights that cannot be held; a file that cannot be written;
/// Ctrl-C. Nothing is then left under the file's name.
pub fn from_checkpoint(dir: &Path, out: &Path, name: Option<&str>, options: &Options) -> Result<Report> {
    let checkpoint = Checkpoint::open(dir)?;
    let plan = Plan::of(&checkpoint)?;
    let mut notes = Vec::new();
    let name = name.map_or_else(|| directory_name(dir), str::to_owned);
    let mut metadata = plan.metadata(checkpoint.config(), &name)?;
    tokenizer::write(&checkpoint, plan.hyper.vocabulary, plan.family.pre, &mut metadata, &mut notes)?;
    name_phi3(&plan, &name, &mut metadata);
    tokenizer::note_limits(&checkpoint, &metadata, &mut notes)?;
    if plan.hyper.architecture == "bitnet-b1.58" {
        notes.push(
            "llama.cpp has no architecture with squared ReLU; this file runs in sterna and in bitnet.cpp's fork".into(),
        );
    }
    let tensors = plan.items.into_iter().map(|item| Tensor::of_item(&checkpoint, item)).collect::<Result<Vec<_>>>()?;
    let importance = match &options.calibration {
        Some(text) => {
            let text = calibration_text(text, options)?;
            // The model as it is, for as long as it takes to read the text.
            let whole = Temporary(beside(out, ".calibration.part")?);
            let floats = Options { quant: Some(Format::F16), buffer: options.buffer.clone(), ..Options::default() };
            write(&whole.0, metadata.clone(), &tensors, &floats, &Importance::new())?;
            calibration::importance(&whole.0, &text)?
        }
        None => Importance::new(),
    };
    let mut report = write(out, metadata, &tensors, options, &importance)?;
    report.source = dir.display().to_string();
    report.notes.splice(0..0, notes);
    Ok(report)
}

/// Converts a GGUF to another.
///
/// # Errors
/// As [`from_checkpoint`].
pub fn from_gguf(path: &Path, out: &Path, options: &Options) -> Result<Report> {
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
    let mut metadata = header.metadata.clone();
    let split: Vec<String> =
        metadata.iter().map(|(key, _)| key.to_owned()).filter(|key| key.starts_with("split.")).collect();
    split.iter().for_each(|key| {
        metadata.remove(key);
    });
    let importance = match &options.calibration {
        Some(text) => calibration::importance(path, &calibration_text(text, options)?)?,
        None => Importance::new(),
    };
    let mut report = write(out, metadata, &tensors, options, &importance)?;
    report.source = path.display().to_string();
    Ok(report)
}

fn calibration_text(path: &Path, options: &Options) -> Result<String> {
    if options.method != Method::Search {
        bail!("--calibration goes with --rule search, not with {}, which weighs all columns alike", options.method);
    }
    crate::args::read_text(path)
}

/// What is returned where Ctrl-C was pressed.
pub fn interrupted() -> anyhow::Error {
    Interrupted { then: "nothing was written under the file's name".into() }.into()
}

/// Whether `text` matches a pattern in which `*` stands for any run of characters and `?` for any one.
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&c) if c == '?' || c == text[t] => (p, t) = (p + 1, t + 1),
            // The last star takes one more character.
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    (p, t) = (at + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

/// How a tensor is stored.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Choice {
    Ternary(Format, Rule),
    Plain(Format),
}

impl Choice {
    fn format(self) -> Format {
        match self {
            Self::Ternary(format, _) | Self::Plain(format) => format,
        }
    }
}

fn choose(tensor: &Tensor<'_>, options: &Options, fallbacks: &mut Fallbacks) -> Result<Choice> {
    let own = tensor.blocks().map(|(format, _)| format);
    let kept = tensor.names.iter().any(|name| options.keep.iter().any(|pattern| matches(pattern, name)));
    let asked = match tensor.role {
        Role::Bias if options.biases_bf16 => Format::BF16,
        Role::Vector | Role::Bias | Role::Positions => return Ok(Choice::Plain(own.unwrap_or(Format::F32))),
        // What stays float is F16, or as it is where it is no more than that.
        _ if kept => own.filter(|own| !own.is_ternary() && *own != Format::F32).unwrap_or(Format::F16),
        Role::Embedding => options.embedding.or(own).unwrap_or(Format::F16),
        Role::Output => options.output.or(own).unwrap_or(Format::F16),
        Role::Linear => options.quant.or(own).unwrap_or(Format::F16),
    };
    if !asked.is_ternary() {
        let whole = tensor.cols.is_multiple_of(asked.block_len());
        let format = if whole { asked } else { Format::F16 };
        if !whole {
            *fallbacks.entry((tensor.cols, asked.name(), format.name())).or_default() += 1;
        }
        return Ok(Choice::Plain(format));
    }
    let (format, rule) =
        for_rows(tensor.cols, asked, options.method, options.group).with_context(|| tensor.place.clone())?;
    if format != asked {
        *fallbacks.entry((tensor.cols, asked.name(), format.name())).or_default() += 1;
    }
    Ok(rule.map_or(Choice::Plain(format), |rule| Choice::Ternary(format, rule)))
}

/// The format that rows of `cols` get where the ternary format `asked` was asked for, and the rule by which they are rounded: `asked`
/// where its blocks fill the rows, else Q2_0, whose are the smallest, or F16 and no rule. `group` is what shares a scale, the
/// format's block if `None`.
///
/// # Errors
/// If the format cannot hold what the method and the group make.
pub fn for_rows(
    cols: usize,
    asked: Format,
    method: Method,
    group: Option<Granularity>,
) -> Result<(Format, Option<Rule>)> {
    let rule = |format: Format| {
        let granularity = match (group, format.group()) {
            (Some(group), _) => group,
            (None, Some(block)) => Granularity::Columns(block),
            (None, None) => Granularity::Tensor,
        };
        Rule { method: if format == Format::Q1_0 { Method::Sign } else { method }, granularity }
    };
    if method == Method::Sign && asked != Format::Q1_0 {
        bail!("the rule sign has no zero; it goes with --quant Q1_0 only");
    }
    if cols.is_multiple_of(asked.block_len()) {
        format_for(rule(asked), cols, false, Some(asked))?;
        return Ok((asked, Some(rule(asked))));
    }
    // Blocks of the format do not fill the rows: the smallest there are, or none.
    let smaller = cols.is_multiple_of(Format::Q2_0.block_len()) && group.is_none();
    Ok(if smaller { (Format::Q2_0, Some(rule(Format::Q2_0))) } else { (Format::F16, None) })
}

/// How many tensors have rows of so many columns that are no whole blocks of the format asked for, and what they take instead.
type Fallbacks = BTreeMap<(usize, &'static str, &'static str), usize>;

/// Writes all tensors as `options` say.
fn write(
    out: &Path,
    mut metadata: Metadata,
    tensors: &[Tensor<'_>],
    options: &Options,
    importance: &Importance,
) -> Result<Report> {
    let mut fallbacks = Fallbacks::new();
    let choices = tensors.iter().map(|tensor| choose(tensor, options, &mut fallbacks));
    let choices: Vec<Choice> = choices.collect::<Result<_>>()?;
    let notes = fallbacks.iter().map(|((cols, asked, taken), tensors)| {
        format!("{tensors} tensors have rows of {cols}, not whole blocks of {asked}; they are stored as {taken}")
    });
    let notes = notes.collect();
    for pattern in &options.keep {
        if !tensors.iter().any(|tensor| tensor.names.iter().any(|name| matches(pattern, name))) {
            bail!("--keep {pattern} matches no tensor; names are those of the checkpoint or of the GGUF");
        }
    }
    describe(&mut metadata, tensors, &choices);
    let declare = |(tensor, choice): (&Tensor<'_>, &Choice)| -> Result<TensorDecl> {
        let format = choice.format();
        let size = format.tensor_bytes(tensor.rows as u64, tensor.cols as u64);
        let size = size.with_context(|| format!("{} is too large", tensor.place))?;
        Ok(TensorDecl { name: tensor.name.clone(), dims: tensor.dims.clone(), type_id: format.type_id(), size })
    };
    let declared: Vec<TensorDecl> = tensors.iter().zip(&choices).map(declare).collect::<Result<_>>()?;
    check_header(&metadata, &declared)?;

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
                let importance = importance.get(&tensor.name).map(Vec::as_slice);
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
        true => Some(validate::validate(&part.path, tensors, &done, &stop)?),
        false => None,
    };
    part.keep(out).with_context(cannot)?;
    Ok(Report { source: String::new(), output: out.to_owned(), tensors: done, seconds, notes, validated })
}

/// Keys about the file itself.
fn describe(metadata: &mut Metadata, tensors: &[Tensor<'_>], choices: &[Choice]) {
    // The type of most weights; numbers as llama.cpp and bitnet.cpp give them.
    let mut counts: Vec<(Format, usize)> = Vec::new();
    for (tensor, choice) in tensors.iter().zip(choices).filter(|(tensor, _)| tensor.role == Role::Linear) {
        match counts.iter_mut().find(|(format, _)| *format == choice.format()) {
            Some((_, elements)) => *elements += tensor.elements(),
            None => counts.push((choice.format(), tensor.elements())),
        }
    }
    let main = counts.iter().max_by_key(|(_, elements)| *elements).map(|(format, _)| *format);
    let file_type = main.and_then(|format| match format {
        Format::F32 => Some(0u32),
        Format::F16 => Some(1),
        Format::Q8_0 => Some(7),
        Format::BF16 => Some(32),
        Format::TQ1_0 => Some(36),
        Format::TQ2_0 => Some(37),
        Format::Q1_0 | Format::I2_S => Some(40),
        Format::Q2_0 => Some(41),
        _ => None,
    });
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
    if plan.family.style == family::Style::Phi3 && !named && sentence_piece && has("<|endoftext|>") {
        metadata.insert("general.name", format!("phi-3 {name}"));
    }
}

fn same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// A path with something after its name.
fn beside(path: &Path, after: &str) -> Result<PathBuf> {
    let mut name = path.file_name().with_context(|| format!("{} is no name of a file", path.display()))?.to_owned();
    name.push(after);
    Ok(path.with_file_name(name))
}

/// A file that is needed for a while.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A file under another name until it is complete; gone if it never is.
struct Part {
    path: PathBuf,
    file: File,
    kept: bool,
}

impl Part {
    fn create(out: &Path) -> Result<Self> {
        let path = beside(out, ".part")?;
        if let Some(parent) = out.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs::create_dir_all(parent).with_context(|| format!("cannot make the folder {}", parent.display()))?;
        }
        if out.is_dir() {
            bail!("{} is a folder; name a file", out.display());
        }
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { path, file, kept: false })
    }

    /// Gives it its name.
    fn keep(mut self, out: &Path) -> Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, out)?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether nothing was rounded by a rule.
pub fn is_lossless(report: &Report) -> bool {
    report.tensors.iter().all(|tensor| !tensor.ternary || tensor.fidelity != Fidelity::Rule)
}
