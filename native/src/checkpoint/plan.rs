//! The tensors of one checkpoint: a place in the GGUF for each, a tensor for each place, and an account of those that have none.
//!
//! Not here: which tensors a family has (`family.rs`), and values (`convert::weights`).

use std::collections::{BTreeMap, HashSet};

use anyhow::{Context, Result, bail};
use sterna_core::ternary::{Granularity, Method, Rule};

use super::family::{Bias, Dim, Family, How, IGNORED, Role, Row, Style, rounded};
use super::metadata::{self, Hyper};
use super::names::Names;
use super::safetensors::Dtype;
use super::{Checkpoint, config::Config, floats};

/// A tensor of the GGUF to be.
#[derive(Clone, Debug)]
pub struct Item {
    /// Its name in the GGUF.
    pub name: String,
    /// Its part.
    pub role: Role,
    /// Rows, 1 for a vector.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// One dimension rather than two.
    pub vector: bool,
    /// Where its values come from.
    pub origin: Origin,
}

/// Where values come from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// A tensor of the checkpoint.
    Tensor(From),
    /// Computed from the configuration.
    Values(Vec<f32>),
}

/// A tensor of the checkpoint, and how it is to be read.
#[derive(Clone, Debug)]
pub struct From {
    /// Its name there.
    pub tensor: String,
    /// Its name where `transformers` saves it.
    pub saved: String,
    /// Rows of a head, whose halves are to be interleaved; `None` keeps the order.
    pub heads_of: Option<usize>,
    /// Stored as `[cols, rows]`.
    pub transposed: bool,
    /// Four rows in one, two bits each.
    pub packed: bool,
    /// A factor on all values: the scale that goes with packed codes.
    pub scale: f32,
    /// The rule that the model was trained with, on the type that its scale was rounded to; for these weights it is no loss.
    pub trained: Option<(Rule, Dtype)>,
}

/// What a checkpoint becomes.
#[derive(Debug)]
pub struct Plan {
    /// Its row of the table.
    pub family: &'static Family,
    /// Its sizes.
    pub hyper: Hyper,
    /// All tensors, in the order of the file.
    pub items: Vec<Item>,
    /// Where the tensors of the checkpoint went.
    pub account: Account,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// Where the tensors of a source went.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// Tensors of the source.
    pub read: usize,
    /// Those that are part of another tensor in the file: scales of packed weights.
    pub folded: usize,
    /// Tensors of the file that are computed from the configuration.
    pub computed: usize,
    /// Those that do not reach the file.
    pub left_out: Vec<LeftOut>,
}

/// A tensor that does not reach the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Its name in the source.
    pub name: String,
    /// Why.
    pub reason: String,
}

impl Account {
    /// How many tensors the file must have.
    pub fn written(&self) -> usize {
        (self.read + self.computed).saturating_sub(self.folded + self.left_out.len())
    }

    /// What was left out, a line for each reason. Names that differ in the number of their layer only are said once.
    pub fn notes(&self) -> Vec<String> {
        let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for LeftOut { name, reason } in &self.left_out {
            reasons.entry(reason).or_default().push(name);
        }
        let line = |(reason, names): (&str, Vec<&str>)| format!("left out: {}: {reason}", of_all_layers(&names));
        reasons.into_iter().map(line).collect()
    }
}

/// Names of tensors, those that differ in the number of their layer only said once.
fn of_all_layers(names: &[&str]) -> String {
    let number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let mut alike: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for name in names {
        let parts: Vec<&str> = name.split('.').map(|part| if number(part) { "*" } else { part }).collect();
        alike.entry(parts.join(".")).or_default().push(name);
    }
    let line = |(name, tensors): (String, Vec<&str>)| match tensors[..] {
        [only] => only.to_owned(),
        _ => format!("{name} ({} tensors)", tensors.len()),
    };
    alike.into_iter().map(line).collect::<Vec<String>>().join(", ")
}

/// A plan on its way.
struct Planner<'a> {
    checkpoint: &'a Checkpoint,
    family: &'static Family,
    hyper: Hyper,
    packing: Packing,
    names: Names<'a>,
    items: Vec<Item>,
    /// Tensors that have a place.
    used: HashSet<&'a str>,
    folded: usize,
    left_out: Vec<LeftOut>,
    /// Biases that the class has and the checkpoint does not.
    missing: Vec<String>,
}

impl Plan {
    /// Finds a place for every tensor of a checkpoint and a tensor for every place, and checks their shapes.
    ///
    /// # Errors
    /// An unknown architecture or configuration; a tensor that is missing, has no place, or a wrong shape or type.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self> {
        let config = checkpoint.config();
        let family = Family::of(config)?;
        let (mut hyper, mut notes) = (Hyper::of(family, config)?, checkpoint.notes());
        if let Some(note) = hyper.assumed_note(config) {
            notes.push(note);
        }
        notes.append(&mut hyper.notes);
        let names = Names::of(checkpoint, family.prefix)?;
        if !names.wrappers.is_empty() {
            let wrappers: Vec<&str> = names.wrappers.iter().map(String::as_str).collect();
            notes.push(format!("parts of tensor names that wrappers added are not looked at: {}", wrappers.join(", ")));
        }
        notes.extend(follow_embedding(checkpoint, family, &names, &mut hyper));
        let packing = Packing::of(config, family)?;
        let (items, used) = (Vec::new(), HashSet::new());
        let (left_out, missing) = (Vec::new(), Vec::new());
        let mut plan = Planner { checkpoint, family, hyper, packing, names, items, used, folded: 0, left_out, missing };
        for row in family.first {
            plan.add(row, "", row.to.to_owned())?;
        }
        for layer in 0..plan.hyper.layers {
            for row in family.layers {
                plan.add(row, &format!("{}.{layer}.", family.layer), format!("blk.{layer}.{}", row.to))?;
            }
        }
        for row in family.last {
            if row.role == Role::Output
                && plan.hyper.tied == Some(true)
                && let Some(head) = row.from.iter().find_map(|name| plan.names.find(name))
            {
                if plan.is_embedding(head)? {
                    plan.used.insert(head);
                    plan.left_out
                        .push(LeftOut { name: head.to_owned(), reason: "it is equal to the embedding".into() });
                    continue;
                }
                notes.push(format!(
                    "config.json says that the output layer is the embedding (tie_word_embeddings), but {head} has other values; \
                     it is kept as {}",
                    row.to
                ));
            }
            plan.add(row, "", row.to.to_owned())?;
        }
        if plan.hyper.tied == Some(false) && !plan.items.iter().any(|item| item.role == Role::Output) {
            bail!(
                "{} has no tensor lm_head.weight, and config.json says tie_word_embeddings = false; fetch all of its files",
                checkpoint.dir().display()
            );
        }
        let computed = plan.hyper.factors()?;
        let left_out = std::mem::take(&mut plan.left_out);
        let account =
            Account { read: checkpoint.names().count(), folded: plan.folded, computed: computed.len(), left_out };
        if !plan.missing.is_empty() {
            let missing: Vec<&str> = plan.missing.iter().map(String::as_str).collect();
            notes.push(format!(
                "biases that the model has by its class and config.json are missing from the checkpoint, and count as zero, as in \
                 transformers: {}",
                of_all_layers(&missing)
            ));
        }
        for (name, values) in computed {
            let (cols, origin) = (values.len(), Origin::Values(values));
            plan.items.push(Item { name, role: Role::Vector, rows: 1, cols, vector: true, origin });
        }
        plan.finish(account, notes)
    }

    /// The keys of the GGUF that follow from the configuration, without the tokenizer's.
    ///
    /// # Errors
    /// If the configuration asks for what cannot be written.
    pub fn metadata(&self, name: &str) -> Result<sterna_core::gguf::Metadata> {
        metadata::metadata(self.family.style, &self.hyper, name)
    }
}

/// Takes the embedding's rows for the size of the vocabulary where config.json has another one; says so.
fn follow_embedding(checkpoint: &Checkpoint, family: &Family, names: &Names<'_>, hyper: &mut Hyper) -> Option<String> {
    let row = family.first.iter().find(|row| row.role == Role::Embedding)?;
    let name = row.from.iter().find_map(|name| names.find(name))?;
    let &[rows, _] = checkpoint.entry(name)?.shape.as_slice() else { return None };
    let said = std::mem::replace(&mut hyper.vocabulary, rows);
    (said != rows).then(|| {
        format!(
            "config.json says vocab_size = {said}, but {name} has {rows} rows; the model has as many tokens as rows"
        )
    })
}

impl<'a> Planner<'a> {
    /// Gives a row of the family its tensor; `before` is what begins its name within a layer.
    fn add(&mut self, row: &'static Row, before: &str, to: String) -> Result<()> {
        let names: Vec<String> = row.from.iter().map(|name| format!("{before}{name}")).collect();
        if row.role == Role::Bias && !row.required {
            let found = names.iter().find_map(|name| self.names.find(name));
            match (self.rules_out(row)?, found) {
                (Some(reason), found) => {
                    let left_out = found.filter(|tensor| self.used.insert(tensor));
                    self.left_out.extend(left_out.map(|name| LeftOut { name: name.to_owned(), reason }));
                    return Ok(());
                }
                (None, None) => {
                    self.missing.push(format!("{}{}", self.family.prefix, names[0]));
                    return Ok(());
                }
                (None, Some(_)) => {}
            }
        }
        let Some((tensor, name)) = names.iter().find_map(|name| Some((self.names.find(name)?, name))) else {
            if row.required {
                bail!(
                    "{} has no tensor {}{}, which a {:?} model needs; fetch all of its files",
                    self.checkpoint.dir().display(),
                    self.family.prefix,
                    names[0],
                    self.family.style
                );
            }
            return Ok(());
        };
        self.used.insert(tensor);
        let saved = if row.role == Role::Output { name.clone() } else { format!("{}{name}", self.family.prefix) };
        let item = self.item(row, tensor, saved, to)?;
        self.items.push(item);
        Ok(())
    }

    /// Why the model has no such bias, if it has none. `transformers` ignores the tensor then.
    fn rules_out(&self, row: &Row) -> Result<Option<String>> {
        let config = self.checkpoint.config();
        let class = || config.class().or(config.word("model_type")).unwrap_or("this class").to_owned();
        Ok(match self.family.biases.of(row.to) {
            Bias::Always => None,
            Bias::Never => Some(format!("{} has no such bias, and transformers ignores it", class())),
            Bias::Key(key) => match config.switch(key)? {
                Some(true) => None,
                Some(false) => Some(format!("config.json says {key} = false, and transformers ignores it")),
                None => Some(format!(
                    "config.json has no {key}, which {} takes as false, and transformers ignores it",
                    class()
                )),
            },
        })
    }

    fn item(&mut self, row: &Row, tensor: &'a str, saved: String, to: String) -> Result<Item> {
        let (checkpoint, hyper) = (self.checkpoint, &self.hyper);
        let place = || checkpoint.place(tensor);
        let entry = checkpoint.entry(tensor).with_context(place)?;
        let size = |dim: &Dim| match dim {
            Dim::Vocabulary => hyper.vocabulary,
            Dim::Context => hyper.context,
            Dim::Embedding => hyper.embedding,
            Dim::FeedForward => hyper.feed_forward,
            Dim::TwiceFeedForward => 2 * hyper.feed_forward,
            Dim::Queries => hyper.heads * hyper.head,
            Dim::Keys => hyper.kv_heads * hyper.head,
            Dim::Qkv => (hyper.heads + 2 * hyper.kv_heads) * hyper.head,
            Dim::Head => hyper.head,
        };
        let shape: Vec<usize> = row.shape.iter().map(size).collect();
        let head = hyper.head;
        let transposed = row.how == How::Transposed;
        let packed = row.role == Role::Linear && entry.dtype == Dtype::U8;
        let mut expected = shape.clone();
        if transposed {
            expected.reverse();
        }
        if packed {
            expected[0] = expected[0].div_ceil(4);
        }
        if entry.shape != expected {
            let why = if packed { ", four rows in one" } else { "" };
            bail!("{} has the shape {:?}; by config.json it must be {expected:?}{why}", place(), entry.shape);
        }
        if !packed && !matches!(entry.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::F64) {
            bail!(
                "{} is of type {}; F32, F16, BF16 and F64 are read, and U8 where it holds packed ternary weights",
                place(),
                entry.dtype
            );
        }
        let (scale, trained) = match row.role {
            Role::Linear => self.linear(tensor, packed)?,
            _ => (1.0, None),
        };
        let heads_of = (self.family.permuted && matches!(row.how, How::QueryHeads | How::KeyHeads)).then_some(head);
        let from = From { heads_of, transposed, packed, scale, trained, tensor: tensor.to_owned(), saved };
        let (vector, cols) = (shape.len() == 1, shape.last().copied().unwrap_or(1));
        let rows = if vector { 1 } else { shape[0] };
        Ok(Item { name: to, role: row.role, rows, cols, vector, origin: Origin::Tensor(from) })
    }

    /// The factor on a linear layer's values, and the rule they were trained with.
    fn linear(&mut self, tensor: &'a str, packed: bool) -> Result<(f32, Option<(Rule, Dtype)>)> {
        let checkpoint = self.checkpoint;
        let Some(name) = self.names.find(&format!("{tensor}_scale")) else {
            if packed {
                bail!("{} holds packed weights, but their scale {tensor}_scale is missing", checkpoint.place(tensor));
            }
            return Ok((1.0, self.packing.master(checkpoint, &self.names, tensor)));
        };
        if self.used.insert(name) {
            self.folded += 1;
        }
        Ok((self.packing.scale(checkpoint, name)?, None))
    }

    /// Whether a tensor has the values of the embedding.
    fn is_embedding(&self, tensor: &str) -> Result<bool> {
        let embedding = self.items.iter().find(|item| item.role == Role::Embedding);
        let Some(Origin::Tensor(embedding)) = embedding.map(|item| &item.origin) else { return Ok(false) };
        let equal = same_values(self.checkpoint, &embedding.tensor, tensor)?;
        self.checkpoint.release(&embedding.tensor);
        self.checkpoint.release(tensor);
        Ok(equal)
    }

    /// The plan, if every tensor of the checkpoint has a place.
    fn finish(self, mut account: Account, notes: Vec<String>) -> Result<Plan> {
        let Self { checkpoint, family, hyper, items, used, .. } = self;
        for name in checkpoint.names().filter(|name| !used.contains(name)) {
            let Some((_, what)) = IGNORED.iter().find(|(end, _)| name.ends_with(end)) else {
                bail!(
                    "{} has no place in a {:?} model of {} layers; another version of the architecture may have it",
                    checkpoint.place(name),
                    family.style,
                    hyper.layers
                );
            };
            account.left_out.push(LeftOut { name: name.to_owned(), reason: (*what).to_owned() });
        }
        account.left_out.extend(checkpoint.unlisted().iter().cloned());
        account.read += checkpoint.unlisted().len();
        Ok(Plan { family, hyper, items, account, notes })
    }
}

/// Whether two tensors have the same shape and values, in whatever types.
fn same_values(checkpoint: &Checkpoint, a: &str, b: &str) -> Result<bool> {
    /// Elements that are compared at a time.
    const RUN: usize = 1 << 16;
    let (Some(of_a), Some(of_b)) = (checkpoint.entry(a), checkpoint.entry(b)) else { return Ok(false) };
    if of_a.shape != of_b.shape {
        return Ok(false);
    }
    let (bytes_a, bytes_b) = (checkpoint.bytes(a), checkpoint.bytes(b));
    if of_a.dtype == of_b.dtype && bytes_a == bytes_b {
        return Ok(true);
    }
    let size = |dtype: &Dtype, name: &str| dtype.size().with_context(|| checkpoint.place(name));
    let (size_a, size_b) = (size(&of_a.dtype, a)?, size(&of_b.dtype, b)?);
    let (mut run_a, mut run_b) = (vec![0.0; RUN], vec![0.0; RUN]);
    for (part_a, part_b) in bytes_a.chunks(RUN * size_a).zip(bytes_b.chunks(RUN * size_b)) {
        let n = part_a.len() / size_a;
        floats(&of_a.dtype, part_a, &mut run_a[..n]).with_context(|| checkpoint.place(a))?;
        floats(&of_b.dtype, part_b, &mut run_b[..n]).with_context(|| checkpoint.place(b))?;
        if run_a[..n] != run_b[..n] {
            return Ok(false);
        }
    }
    Ok(true)
}

/// How BitNet's weights stand in a checkpoint.
struct Packing {
    /// The scale divides (`BitLinear`) rather than multiplies (`AutoBitLinear`).
    divides: bool,
    /// Float weights are masters: the model rounds them by its rule whenever it runs.
    masters: bool,
    /// Modules that stay float.
    kept: Vec<String>,
    /// The type that the model computes in, to which its scales are rounded.
    dtype: Option<Dtype>,
}

impl Packing {
    fn of(config: &Config, family: &Family) -> Result<Self> {
        let section = config.section("quantization_config");
        let method = section.word("quant_method");
        if let Some(method) = method.filter(|&method| method != "bitnet") {
            bail!(
                "{}",
                config.wrong(
                    "quantization_config",
                    format!("weights packed by {method} are not read; use the float checkpoint")
                )
            );
        }
        if section.switch("use_rms_norm")? == Some(true) {
            return Err(section.wrong("use_rms_norm", "norms inside linear layers have no place in a GGUF"));
        }
        let class = section.word("linear_class").unwrap_or("bitlinear");
        if !["bitlinear", "autobitlinear"].contains(&class) {
            return Err(section.wrong("linear_class", "bitlinear and autobitlinear are known"));
        }
        let dtype = config.word("dtype").or_else(|| config.word("torch_dtype"));
        let kept = section.find("modules_to_not_convert").and_then(|list| list.as_array());
        Ok(Self {
            divides: class == "bitlinear",
            masters: method.is_some() || family.style == Style::BitNet,
            kept: kept.into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned)).collect(),
            dtype: dtype.and_then(|name| match name.trim_start_matches("torch.") {
                "bfloat16" => Some(Dtype::BF16),
                "float16" => Some(Dtype::F16),
                "float32" => Some(Dtype::F32),
                _ => None,
            }),
        })
    }

    /// The rule by which the model rounds float weights whenever it runs, if it does.
    fn master(&self, checkpoint: &Checkpoint, names: &Names<'_>, tensor: &str) -> Option<(Rule, Dtype)> {
        let bare = names.bare(tensor);
        let module = bare.trim_end_matches(".weight");
        let kept = |kept: &String| module == names.bare(kept) || module.ends_with(&format!(".{kept}"));
        if !self.masters || self.kept.iter().any(kept) {
            return None;
        }
        let stored = checkpoint.entry(tensor).map(|entry| entry.dtype.clone());
        let dtype = self.dtype.clone().or(stored).unwrap_or(Dtype::F32);
        Some((Rule { method: Method::Absmean, granularity: Granularity::Tensor }, dtype))
    }

    /// The factor that a scale of packed weights means.
    fn scale(&self, checkpoint: &Checkpoint, name: &str) -> Result<f32> {
        let values = checkpoint.values(name)?;
        let &[stored] = values.as_slice() else {
            bail!("{} has {} values; packed weights have one scale", checkpoint.place(name), values.len());
        };
        let scale = if self.divides { 1.0 / stored } else { stored };
        if !(scale.is_finite() && scale > 0.0) {
            bail!("{} is {stored}; it must be a positive number", checkpoint.place(name));
        }
        // A buffer is brought to the model's type when the model is loaded.
        let wider = checkpoint.entry(name).is_some_and(|entry| matches!(entry.dtype, Dtype::F32 | Dtype::F64));
        Ok(match &self.dtype {
            Some(dtype) if wider => rounded(scale, dtype),
            _ => scale,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_said_once_for_all_layers() {
        let left = |name: &str, reason: &str| LeftOut { name: name.into(), reason: reason.into() };
        let account = Account {
            read: 6,
            folded: 1,
            computed: 1,
            left_out: vec![
                left("model.layers.0.rotary_emb.inv_freq", "frequencies"),
                left("model.layers.11.rotary_emb.inv_freq", "frequencies"),
                left("lm_head.weight", "it is equal to the embedding"),
            ],
        };
        assert_eq!(account.written(), 3);
        assert_eq!(
            account.notes(),
            [
                "left out: model.layers.*.rotary_emb.inv_freq (2 tensors): frequencies",
                "left out: lm_head.weight: it is equal to the embedding",
            ]
        );
    }
}
