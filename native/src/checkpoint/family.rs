//! The table of model families: what a checkpoint's tensors are called, which of a GGUF's tensors each becomes, and its shape.
//! A new family is a row.
//!
//! Not here: configurations (`metadata.rs`) and values.

use std::collections::HashSet;

use anyhow::{Context, Result, bail};
use sterna_core::ternary::{Granularity, Method, Rule};

use super::metadata::{self, Hyper};
use super::safetensors::Dtype;
use super::{Checkpoint, config::Config};

/// One family.
#[derive(Debug)]
pub struct Family {
    /// Classes of config.json's `architectures`.
    classes: &'static [&'static str],
    /// Values of `model_type`, looked at where the class is not known.
    model_types: &'static [&'static str],
    /// How configurations are read.
    pub style: Style,
    /// Begins the names of tensors, in most checkpoints.
    prefix: &'static str,
    /// Begins the names of a layer's tensors.
    layer: &'static str,
    /// Rows of q and k are reordered, for rotary positions on adjacent pairs.
    permuted: bool,
    /// Pre-tokenizers to try first.
    pub pre: &'static [&'static str],
    /// Tensors before the layers.
    first: &'static [Row],
    /// Tensors of each layer.
    layers: &'static [Row],
    /// Tensors after the layers.
    last: &'static [Row],
}

/// How a family's configuration is read, and what its GGUF is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Llama and those of its shape.
    Llama,
    /// BitNet b1.58 in its two versions.
    BitNet,
    /// Qwen 2 and 2.5.
    Qwen2,
    /// Qwen 3.
    Qwen3,
    /// Phi-3 and Phi-4-mini.
    Phi3,
    /// GPT-2.
    Gpt2,
}

/// One tensor of a family.
#[derive(Debug)]
struct Row {
    /// Its name in checkpoints, or its names in several versions.
    from: &'static [&'static str],
    /// Its name in a GGUF.
    to: &'static str,
    shape: &'static [Dim],
    role: Role,
    required: bool,
    how: How,
}

/// A size of the model.
#[derive(Clone, Copy, Debug)]
enum Dim {
    Vocabulary,
    Context,
    Embedding,
    FeedForward,
    /// Gate and up.
    TwiceFeedForward,
    /// All heads of queries.
    Queries,
    /// All heads of keys or of values.
    Keys,
    /// Queries, keys and values.
    Qkv,
    Head,
}

/// How rows and columns are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Plain,
    /// Rows belong to heads of queries, or of keys, with rotary positions.
    QueryHeads,
    KeyHeads,
    /// Stored as `[in, out]`.
    Transposed,
}

/// What part a tensor plays, which decides how it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Weights of a linear layer within a block.
    Linear,
    /// The tokens' embedding.
    Embedding,
    /// The output layer.
    Output,
    /// Learned positions.
    Positions,
    /// A linear layer's bias.
    Bias,
    /// A norm's weights or bias, factors of rotary positions, scales.
    Vector,
}

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
}

const fn row(from: &'static [&'static str], to: &'static str, shape: &'static [Dim], role: Role) -> Row {
    Row { from, to, shape, role, required: true, how: How::Plain }
}

const fn optional(row: Row) -> Row {
    Row { required: false, ..row }
}

const fn how(row: Row, how: How) -> Row {
    Row { how, ..row }
}

use Dim::*;
use Role::{Bias, Linear, Vector};

const LLAMA_FIRST: &[Row] =
    &[row(&["embed_tokens.weight"], "token_embd.weight", &[Vocabulary, Embedding], Role::Embedding)];

const LLAMA_LAST: &[Row] = &[
    row(&["norm.weight"], "output_norm.weight", &[Embedding], Vector),
    optional(row(&["lm_head.weight"], "output.weight", &[Vocabulary, Embedding], Role::Output)),
];

const ATTENTION_NORM: Row = row(&["input_layernorm.weight"], "attn_norm.weight", &[Embedding], Vector);
const FFN_NORM: Row = row(&["post_attention_layernorm.weight"], "ffn_norm.weight", &[Embedding], Vector);
const Q: Row = how(row(&["self_attn.q_proj.weight"], "attn_q.weight", &[Queries, Embedding], Linear), How::QueryHeads);
const K: Row = how(row(&["self_attn.k_proj.weight"], "attn_k.weight", &[Keys, Embedding], Linear), How::KeyHeads);
const V: Row = row(&["self_attn.v_proj.weight"], "attn_v.weight", &[Keys, Embedding], Linear);
const O: Row = row(&["self_attn.o_proj.weight"], "attn_output.weight", &[Embedding, Queries], Linear);
const Q_BIAS: Row = optional(how(row(&["self_attn.q_proj.bias"], "attn_q.bias", &[Queries], Bias), How::QueryHeads));
const K_BIAS: Row = optional(how(row(&["self_attn.k_proj.bias"], "attn_k.bias", &[Keys], Bias), How::KeyHeads));
const V_BIAS: Row = optional(row(&["self_attn.v_proj.bias"], "attn_v.bias", &[Keys], Bias));
const O_BIAS: Row = optional(row(&["self_attn.o_proj.bias"], "attn_output.bias", &[Embedding], Bias));
const GATE: Row = row(&["mlp.gate_proj.weight"], "ffn_gate.weight", &[FeedForward, Embedding], Linear);
const UP: Row = row(&["mlp.up_proj.weight"], "ffn_up.weight", &[FeedForward, Embedding], Linear);
const DOWN: Row = row(&["mlp.down_proj.weight"], "ffn_down.weight", &[Embedding, FeedForward], Linear);
const GATE_BIAS: Row = optional(row(&["mlp.gate_proj.bias"], "ffn_gate.bias", &[FeedForward], Bias));
const UP_BIAS: Row = optional(row(&["mlp.up_proj.bias"], "ffn_up.bias", &[FeedForward], Bias));
const DOWN_BIAS: Row = optional(row(&["mlp.down_proj.bias"], "ffn_down.bias", &[Embedding], Bias));

const LLAMA_LAYER: &[Row] = &[
    ATTENTION_NORM,
    Q,
    Q_BIAS,
    K,
    K_BIAS,
    V,
    V_BIAS,
    O,
    O_BIAS,
    FFN_NORM,
    GATE,
    GATE_BIAS,
    UP,
    UP_BIAS,
    DOWN,
    DOWN_BIAS,
];

const QWEN3_LAYER: &[Row] = &[
    ATTENTION_NORM,
    Q,
    Q_BIAS,
    K,
    K_BIAS,
    V,
    V_BIAS,
    row(&["self_attn.q_norm.weight"], "attn_q_norm.weight", &[Head], Vector),
    row(&["self_attn.k_norm.weight"], "attn_k_norm.weight", &[Head], Vector),
    O,
    O_BIAS,
    FFN_NORM,
    GATE,
    UP,
    DOWN,
];

const BITNET_LAYER: &[Row] = &[
    ATTENTION_NORM,
    Q,
    K,
    V,
    row(
        &["self_attn.attn_sub_norm.weight", "self_attn.inner_attn_ln.weight"],
        "attn_sub_norm.weight",
        &[Queries],
        Vector,
    ),
    O,
    FFN_NORM,
    GATE,
    UP,
    row(&["mlp.ffn_sub_norm.weight", "mlp.ffn_layernorm.weight"], "ffn_sub_norm.weight", &[FeedForward], Vector),
    DOWN,
];

const PHI3_LAYER: &[Row] = &[
    ATTENTION_NORM,
    row(&["self_attn.qkv_proj.weight"], "attn_qkv.weight", &[Qkv, Embedding], Linear),
    O,
    FFN_NORM,
    row(&["mlp.gate_up_proj.weight"], "ffn_up.weight", &[TwiceFeedForward, Embedding], Linear),
    DOWN,
];

const GPT2_FIRST: &[Row] = &[
    row(&["wte.weight"], "token_embd.weight", &[Vocabulary, Embedding], Role::Embedding),
    row(&["wpe.weight"], "position_embd.weight", &[Context, Embedding], Role::Positions),
];

const GPT2_LAST: &[Row] = &[
    row(&["ln_f.weight"], "output_norm.weight", &[Embedding], Vector),
    row(&["ln_f.bias"], "output_norm.bias", &[Embedding], Vector),
    optional(row(&["lm_head.weight"], "output.weight", &[Vocabulary, Embedding], Role::Output)),
];

const fn conv1d(from: &'static [&'static str], to: &'static str, shape: &'static [Dim]) -> Row {
    how(row(from, to, shape, Linear), How::Transposed)
}

const GPT2_LAYER: &[Row] = &[
    row(&["ln_1.weight"], "attn_norm.weight", &[Embedding], Vector),
    row(&["ln_1.bias"], "attn_norm.bias", &[Embedding], Vector),
    conv1d(&["attn.c_attn.weight"], "attn_qkv.weight", &[Qkv, Embedding]),
    row(&["attn.c_attn.bias"], "attn_qkv.bias", &[Qkv], Bias),
    conv1d(&["attn.c_proj.weight"], "attn_output.weight", &[Embedding, Embedding]),
    row(&["attn.c_proj.bias"], "attn_output.bias", &[Embedding], Bias),
    row(&["ln_2.weight"], "ffn_norm.weight", &[Embedding], Vector),
    row(&["ln_2.bias"], "ffn_norm.bias", &[Embedding], Vector),
    conv1d(&["mlp.c_fc.weight"], "ffn_up.weight", &[FeedForward, Embedding]),
    row(&["mlp.c_fc.bias"], "ffn_up.bias", &[FeedForward], Bias),
    conv1d(&["mlp.c_proj.weight"], "ffn_down.weight", &[Embedding, FeedForward]),
    row(&["mlp.c_proj.bias"], "ffn_down.bias", &[Embedding], Bias),
];

const LLAMA: Family = Family {
    classes: &["LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM"],
    model_types: &["llama", "mistral"],
    style: Style::Llama,
    prefix: "model.",
    layer: "layers",
    permuted: true,
    pre: &["llama-bpe", "tekken", "gpt-2"],
    first: LLAMA_FIRST,
    layers: LLAMA_LAYER,
    last: LLAMA_LAST,
};

/// Every family that is read.
const FAMILIES: &[Family] = &[
    LLAMA,
    Family {
        classes: &["BitNetForCausalLM", "BitnetForCausalLM"],
        model_types: &["bitnet"],
        style: Style::BitNet,
        permuted: false,
        layers: BITNET_LAYER,
        ..LLAMA
    },
    Family {
        classes: &["Qwen2ForCausalLM"],
        model_types: &["qwen2"],
        style: Style::Qwen2,
        permuted: false,
        pre: &["qwen2"],
        ..LLAMA
    },
    Family {
        classes: &["Qwen3ForCausalLM"],
        model_types: &["qwen3"],
        style: Style::Qwen3,
        permuted: false,
        pre: &["qwen2"],
        layers: QWEN3_LAYER,
        ..LLAMA
    },
    Family {
        classes: &["Phi3ForCausalLM"],
        model_types: &["phi3"],
        style: Style::Phi3,
        permuted: false,
        pre: &["gpt-4o", "gpt-2"],
        layers: PHI3_LAYER,
        ..LLAMA
    },
    Family {
        classes: &["GPT2LMHeadModel"],
        model_types: &["gpt2"],
        style: Style::Gpt2,
        prefix: "transformer.",
        layer: "h",
        permuted: false,
        pre: &["gpt-2"],
        first: GPT2_FIRST,
        layers: GPT2_LAYER,
        last: GPT2_LAST,
    },
];

/// Tensors that follow from the configuration, or are masks: old checkpoints carry them.
const IGNORED: &[&str] = &[".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias"];

impl Family {
    /// The family of a configuration.
    ///
    /// # Errors
    /// If it is none of the table.
    pub fn of(config: &Config) -> Result<&'static Self> {
        let class = config.class();
        let by_class = class.and_then(|class| FAMILIES.iter().find(|family| family.classes.contains(&class)));
        let known = || FAMILIES.iter().flat_map(|family| family.classes).copied().collect::<Vec<_>>().join(", ");
        match (by_class, class, config.word("model_type")) {
            (Some(family), ..) => Ok(family),
            (None, None, Some(model_type)) => FAMILIES
                .iter()
                .find(|family| family.model_types.contains(&model_type))
                .ok_or_else(|| config.wrong("model_type", format!("architectures that are read: {}", known()))),
            _ => Err(config.wrong("architectures", format!("those that are read: {}", known()))),
        }
    }

    /// What a tensor of a GGUF is in a checkpoint of this family, as `transformers` saves it: `name` and dimensions (`[rows, cols]` or
    /// `[len]`) are the GGUF's, heads have `head` rows. `None` if the family has no such tensor.
    pub fn item(&self, name: &str, dims: &[usize], head: usize) -> Option<Item> {
        let (row, before) = match name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
            Some((layer, part)) => {
                (self.layers.iter().find(|row| row.to == part)?, format!("{}{}.{layer}.", self.prefix, self.layer))
            }
            None => {
                let row = self.first.iter().chain(self.last).find(|row| row.to == name)?;
                (row, if row.role == Role::Output { String::new() } else { self.prefix.to_owned() })
            }
        };
        let from = From {
            tensor: format!("{before}{}", row.from.first()?),
            heads_of: (self.permuted && matches!(row.how, How::QueryHeads | How::KeyHeads)).then_some(head),
            transposed: row.how == How::Transposed,
            packed: false,
            scale: 1.0,
            trained: None,
        };
        let (rows, cols) = match *dims {
            [rows, cols] => (rows, cols),
            _ => (1, dims.iter().product()),
        };
        let origin = Origin::Tensor(from);
        Some(Item { name: name.to_owned(), role: row.role, rows, cols, vector: dims.len() == 1, origin })
    }
}

impl Plan {
    /// Finds a place for every tensor of a checkpoint and a tensor for every place, and checks their shapes.
    ///
    /// # Errors
    /// An unknown architecture or configuration; a tensor that is missing, has no place, or a wrong shape or type.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self> {
        let config = checkpoint.config();
        let family = Family::of(config)?;
        let hyper = Hyper::of(family.style, config)?;
        let packing = Packing::of(config, family)?;
        let (mut items, mut used) = (Vec::new(), HashSet::new());
        let find = |name: &str| {
            // Some tools save the model without its head's prefix, some put one more before it.
            [format!("{}{name}", family.prefix), name.to_owned(), format!("model.{}{name}", family.prefix)]
                .into_iter()
                .find(|name| checkpoint.entry(name).is_some())
        };
        let mut add = |row: &'static Row, before: &str, to: String, used: &mut HashSet<String>| -> Result<()> {
            let names: Vec<String> = row.from.iter().map(|name| format!("{before}{name}")).collect();
            let Some(tensor) = names.iter().find_map(|name| find(name)) else {
                if row.required {
                    bail!(
                        "{} has no tensor {}{}, which a {:?} model needs; fetch all of its files",
                        checkpoint.dir().display(),
                        family.prefix,
                        names[0],
                        family.style
                    );
                }
                return Ok(());
            };
            used.insert(tensor.clone());
            items.push(item(checkpoint, &hyper, family, &packing, row, tensor, to, used)?);
            Ok(())
        };
        for row in family.first {
            add(row, "", row.to.to_owned(), &mut used)?;
        }
        for layer in 0..hyper.layers {
            for row in family.layers {
                add(row, &format!("{}.{layer}.", family.layer), format!("blk.{layer}.{}", row.to), &mut used)?;
            }
        }
        for row in family.last.iter().filter(|row| row.role != Role::Output || hyper.tied != Some(true)) {
            add(row, "", row.to.to_owned(), &mut used)?;
        }
        if hyper.tied == Some(false) && !items.iter().any(|item| item.role == Role::Output) {
            bail!(
                "{} has no tensor lm_head.weight, and config.json says tie_word_embeddings = false; fetch all of its files",
                checkpoint.dir().display()
            );
        }
        for (name, values) in hyper.factors(config)? {
            items.push(Item {
                name,
                role: Vector,
                rows: 1,
                cols: values.len(),
                vector: true,
                origin: Origin::Values(values),
            });
        }
        let known = |name: &str| {
            used.contains(name)
                || IGNORED.iter().any(|end| name.ends_with(end))
                || hyper.tied == Some(true) && name == "lm_head.weight"
        };
        if let Some(name) = checkpoint.names().find(|name| !known(name)) {
            bail!(
                "{} has no place in a {:?} model of {} layers; another version of the architecture may have it",
                checkpoint.place(name),
                family.style,
                hyper.layers
            );
        }
        Ok(Self { family, hyper, items })
    }

    /// The keys of the GGUF that follow from the configuration, without the tokenizer's.
    ///
    /// # Errors
    /// If the configuration asks for what cannot be written.
    pub fn metadata(&self, config: &Config, name: &str) -> Result<sterna_core::gguf::Metadata> {
        metadata::metadata(self.family.style, &self.hyper, config, name)
    }
}

#[allow(clippy::too_many_arguments, reason = "one call, where all of it is at hand")]
fn item(
    checkpoint: &Checkpoint,
    hyper: &Hyper,
    family: &Family,
    packing: &Packing,
    row: &Row,
    tensor: String,
    to: String,
    used: &mut HashSet<String>,
) -> Result<Item> {
    let place = || checkpoint.place(&tensor);
    let entry = checkpoint.entry(&tensor).with_context(place)?;
    let size = |dim: &Dim| match dim {
        Vocabulary => hyper.vocabulary,
        Context => hyper.context,
        Embedding => hyper.embedding,
        FeedForward => hyper.feed_forward,
        TwiceFeedForward => 2 * hyper.feed_forward,
        Queries => hyper.heads * hyper.head,
        Keys => hyper.kv_heads * hyper.head,
        Qkv => (hyper.heads + 2 * hyper.kv_heads) * hyper.head,
        Head => hyper.head,
    };
    let shape: Vec<usize> = row.shape.iter().map(size).collect();
    let transposed = row.how == How::Transposed;
    let packed = row.role == Linear && entry.dtype == Dtype::U8;
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
        Linear => packing.of_linear(checkpoint, &tensor, packed, used)?,
        _ => (1.0, None),
    };
    let heads_of = (family.permuted && matches!(row.how, How::QueryHeads | How::KeyHeads)).then_some(hyper.head);
    let from = From { heads_of, transposed, packed, scale, trained, tensor };
    let (vector, cols) = (shape.len() == 1, shape.last().copied().unwrap_or(1));
    let rows = if vector { 1 } else { shape[0] };
    Ok(Item { name: to, role: row.role, rows, cols, vector, origin: Origin::Tensor(from) })
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

    /// The factor on a linear layer's values, and the rule they were trained with.
    fn of_linear(
        &self,
        checkpoint: &Checkpoint,
        tensor: &str,
        packed: bool,
        used: &mut HashSet<String>,
    ) -> Result<(f32, Option<(Rule, Dtype)>)> {
        let name = format!("{tensor}_scale");
        let module = tensor.trim_end_matches(".weight");
        let Some(entry) = checkpoint.entry(&name) else {
            if packed {
                bail!("{} holds packed weights, but their scale {name} is missing", checkpoint.place(tensor));
            }
            let kept = self.kept.iter().any(|kept| module == kept || module.ends_with(&format!(".{kept}")));
            let rule = Rule { method: Method::Absmean, granularity: Granularity::Tensor };
            let stored = checkpoint.entry(tensor).map(|entry| entry.dtype.clone());
            let dtype = self.dtype.clone().or(stored).unwrap_or(Dtype::F32);
            return Ok((1.0, (self.masters && !kept).then_some((rule, dtype))));
        };
        used.insert(name.clone());
        let values = checkpoint.values(&name)?;
        let &[stored] = values.as_slice() else {
            bail!("{} has {} values; packed weights have one scale", checkpoint.place(&name), values.len());
        };
        let scale = if self.divides { 1.0 / stored } else { stored };
        if !(scale.is_finite() && scale > 0.0) {
            bail!("{} is {stored}; it must be a positive number", checkpoint.place(&name));
        }
        // A buffer is brought to the model's type when the model is loaded.
        let wider = entry.dtype == Dtype::F32 || entry.dtype == Dtype::F64;
        Ok((
            match &self.dtype {
                Some(dtype) if wider => rounded(scale, dtype),
                _ => scale,
            },
            None,
        ))
    }
}

/// The row of a checkpoint that becomes this row: pairs that are rotated together stand half a head apart there, and side by side
/// in a GGUF of the architecture `llama`.
pub fn interleaved(row: usize, head: usize) -> usize {
    let (start, within) = (row / head * head, row % head);
    start + within % 2 * (head / 2) + within / 2
}

/// A value as a type holds it.
pub fn rounded(value: f32, dtype: &Dtype) -> f32 {
    use sterna_core::formats::half::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
    match dtype {
        Dtype::BF16 => bf16_to_f32(f32_to_bf16(value)),
        Dtype::F16 => f16_to_f32(f32_to_f16(value)),
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_interleaved() {
        let order: Vec<usize> = (0..8).map(|row| interleaved(row, 4)).collect();
        assert_eq!(order, [0, 2, 1, 3, 4, 6, 5, 7]);
    }
}
