//! Which tensor gets which format, and the rule by which it is rounded.
//!
//! Not here: the rules and what formats hold (`sterna_core::ternary`), and the bytes (`encode.rs`).

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use sterna_core::formats::Format;
use sterna_core::ternary::{Granularity, Method, Rule, format_for};

use super::weights::Tensor;
use super::{FORMATS, Options, readers};
use crate::checkpoint::family::Role;

/// How a tensor is stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Choice {
    Ternary(Format, Rule),
    Plain(Format),
}

impl Choice {
    /// What it is stored in.
    pub fn format(self) -> Format {
        match self {
            Self::Ternary(format, _) | Self::Plain(format) => format,
        }
    }
}

/// Tensors whose rows are no whole blocks of the format asked for, by that format and the one they take instead: how many there
/// are, and their columns.
type Fallbacks = BTreeMap<(&'static str, &'static str), (Format, usize, BTreeSet<usize>)>;

/// Chooses for all tensors; says in notes where a format is not the one that was asked for.
///
/// # Errors
/// A pattern of `--keep` that matches nothing; a rule that a format cannot hold; a ternary format that fits no matrix.
pub(super) fn choose_all(tensors: &[Tensor<'_>], options: &Options) -> Result<(Vec<Choice>, Vec<String>)> {
    for pattern in &options.keep {
        if !tensors.iter().any(|tensor| tensor.names.iter().any(|name| matches(pattern, name))) {
            bail!("--keep {pattern} matches no tensor; names are those of the checkpoint or of the GGUF");
        }
    }
    let mut fallbacks = Fallbacks::new();
    let choices = tensors.iter().map(|tensor| choose(tensor, options, &mut fallbacks));
    let choices: Vec<Choice> = choices.collect::<Result<_>>()?;
    if let Some(asked) = options.quant.filter(|format| format.is_ternary()) {
        let linear = || tensors.iter().zip(&choices).filter(|(t, _)| t.role == Role::Linear && !is_kept(t, options));
        let none = linear().all(|(_, choice)| !choice.format().is_ternary());
        if none && linear().next().is_some() {
            let cols: BTreeSet<usize> = linear().map(|(tensor, _)| tensor.cols).collect();
            return Err(nothing_ternary(asked, &cols));
        }
    }
    let notes = fallbacks.iter().map(|((asked, taken), (format, tensors, cols))| {
        let (cols, readers) = (listed(cols), readers::of(*format));
        format!(
            "{tensors} tensors have rows of {cols}, not whole blocks of {asked}; they are stored as {taken}{readers}"
        )
    });
    let mut notes: Vec<String> = notes.collect();
    let legacy = |(tensor, choice): &(&Tensor<'_>, &Choice)| {
        let stored = tensor.blocks().map(|(format, _)| format);
        stored == Some(Format::Q2_0G128) && choice.format() == Format::PQ2_0 && !is_asked(tensor, options)
    };
    let kept = tensors.iter().zip(&choices).filter(legacy).count();
    if kept > 0 {
        let (tensors, stored) = (if kept == 1 { "tensor is" } else { "tensors are" }, Format::Q2_0G128.name());
        notes.push(format!(
            "{kept} {tensors} kept in the blocks of {stored}, whose number now means groups of 64; their type is written as PQ2_0{}",
            readers::of(Format::PQ2_0)
        ));
    }
    if let Some(output) = options.output.filter(|_| options.output != options.embedding)
        && !tensors.iter().any(|tensor| tensor.role == Role::Output)
    {
        notes.push(format!(
            "--output-type {} has no effect: the output layer is the embedding; --token-embedding-type sets the format of both",
            output.name()
        ));
    }
    Ok((choices, notes))
}

/// Why a file would have no ternary matrix, and which formats would do.
pub fn nothing_ternary(asked: Format, cols: &BTreeSet<usize>) -> anyhow::Error {
    let fits = |format: &Format| cols.iter().all(|cols| cols.is_multiple_of(format.block_len()));
    let fitting: Vec<&str> = FORMATS.into_iter().filter(fits).map(Format::name).collect();
    anyhow::anyhow!(
        "no matrix of this model can be {}: its rows of {} weights are not whole blocks of {}, so nothing would be ternary; \
         give another format with --quant (--type of quantize): {}",
        asked.name(),
        listed(cols),
        asked.block_len(),
        fitting.join(", ")
    )
}

fn listed(numbers: &BTreeSet<usize>) -> String {
    numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
}

/// Whether a tensor stays float because a pattern of `--keep` names it.
fn is_kept(tensor: &Tensor<'_>, options: &Options) -> bool {
    tensor.names.iter().any(|name| options.keep.iter().any(|pattern| matches(pattern, name)))
}

/// Whether the options name a format for a tensor of this role.
fn is_asked(tensor: &Tensor<'_>, options: &Options) -> bool {
    match tensor.role {
        Role::Embedding => options.embedding.is_some(),
        Role::Output => options.output.is_some(),
        Role::Linear => options.quant.is_some(),
        Role::Vector | Role::Bias | Role::Positions => false,
    }
}

fn fall_back(fallbacks: &mut Fallbacks, cols: usize, asked: Format, taken: Format) {
    let entry = fallbacks.entry((asked.name(), taken.name())).or_insert_with(|| (taken, 0, BTreeSet::new()));
    entry.1 += 1;
    entry.2.insert(cols);
}

fn choose(tensor: &Tensor<'_>, options: &Options, fallbacks: &mut Fallbacks) -> Result<Choice> {
    let own = tensor.own_format();
    let kept = is_kept(tensor, options);
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
            fall_back(fallbacks, tensor.cols, asked, format);
        }
        return Ok(Choice::Plain(format));
    }
    if own == Some(asked) && !is_asked(tensor, options) {
        // Its blocks are copied, so the rule is not applied.
        let granularity = asked.group().map_or(Granularity::Tensor, Granularity::Columns);
        return Ok(Choice::Ternary(asked, Rule { method: options.method, granularity }));
    }
    // The rule for Q1_0 is that of its tensors only.
    let of_q1_0 = options.quant == Some(Format::Q1_0) && options.method == Method::Sign && asked != Format::Q1_0;
    let method = if of_q1_0 { Method::Search } else { options.method };
    let (format, rule) = for_rows(tensor.cols, asked, method, options.group).with_context(|| tensor.place.clone())?;
    if format != asked {
        fall_back(fallbacks, tensor.cols, asked, format);
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
