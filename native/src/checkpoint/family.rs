//! The table of model families: what a checkpoint's tensors are called, which of a GGUF's tensors each becomes, its shape, and what
//! the model's class in `transformers` takes where config.json is silent. A new family is a row.
//!
//! Not here: configurations (`metadata.rs`, `rope.rs`), the tensors of one checkpoint (`plan.rs`), and values.

use std::collections::BTreeSet;

use anyhow::Result;

use super::config::Config;
use super::plan::{From, Item, Origin};
use super::safetensors::Dtype;

/// One family.
#[derive(Debug)]
pub struct Family {
    /// Classes of config.json's `architectures`.
    classes: &'static [&'static str],
    /// Values of `model_type`, looked at where the class is not known.
    model_types: &'static [&'static str],
    /// How configurations are read.
    pub style: Style,
    /// What the configuration class takes for keys that config.json does not have.
    pub defaults: Defaults,
    /// Begins the names of tensors, in most checkpoints.
    pub(super) prefix: &'static str,
    /// Begins the names of a layer's tensors.
    pub(super) layer: &'static str,
    /// Rows of q and k are reordered, for rotary positions on adjacent pairs.
    pub(super) permuted: bool,
    /// Pre-tokenizers to try first.
    pub pre: &'static [&'static str],
    /// Which linear layers have biases.
    pub(super) biases: Biases,
    /// Tensors before the layers.
    pub(super) first: &'static [Row],
    /// Tensors of each layer.
    pub(super) layers: &'static [Row],
    /// Tensors after the layers.
    pub(super) last: &'static [Row],
}

/// Defaults of a configuration class of `transformers` 5.23, by the keys of config.json.
#[derive(Clone, Copy, Debug)]
pub struct Defaults {
    /// `rope_theta`
    pub theta: f64,
    /// `rms_norm_eps` or `layer_norm_epsilon`
    pub eps: f64,
    /// `max_position_embeddings` or `n_positions`, in tokens
    pub context: usize,
    /// `num_key_value_heads`; `None` is as many as there are heads of queries.
    pub kv_heads: Option<usize>,
    /// `head_dim`; `None` is the width over the heads.
    pub head: Option<usize>,
    /// `hidden_act` or `activation_function`
    pub activation: &'static str,
    /// `sliding_window`, in tokens
    pub window: Window,
    /// `tie_word_embeddings`
    pub tied: bool,
}

/// Whether a class has a sliding window in all of its layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// It does not look at the key.
    Ignored,
    /// It does; without the key the window is this one, in tokens, or none.
    Read(Option<usize>),
    /// Only with `use_sliding_window`, and in some of the layers.
    Switched,
}

/// Which linear layers of a class have biases.
#[derive(Clone, Copy, Debug)]
pub(super) struct Biases {
    /// Those of queries, keys and values.
    pub qkv: Bias,
    /// That of the attention's output.
    pub output: Bias,
    /// Those of the feed-forward layer.
    pub feed_forward: Bias,
}

/// Whether a class has a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bias {
    /// Where this key of config.json is true; without the key there is none.
    Key(&'static str),
    Always,
    Never,
}

impl Biases {
    const NONE: Self = Self { qkv: Bias::Never, output: Bias::Never, feed_forward: Bias::Never };

    /// Of a bias by its name within a layer of a GGUF.
    pub fn of(&self, name: &str) -> Bias {
        match name {
            "attn_output.bias" => self.output,
            name if name.starts_with("attn_") => self.qkv,
            _ => self.feed_forward,
        }
    }
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
pub(super) struct Row {
    /// Its name in checkpoints, or its names in several versions.
    pub from: &'static [&'static str],
    /// Its name in a GGUF.
    pub to: &'static str,
    pub shape: &'static [Dim],
    pub role: Role,
    pub required: bool,
    pub how: How,
}

/// A size of the model.
#[derive(Clone, Copy, Debug)]
pub(super) enum Dim {
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
pub(super) enum How {
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
use Role::{Linear, Vector};

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
const Q_BIAS: Row =
    optional(how(row(&["self_attn.q_proj.bias"], "attn_q.bias", &[Queries], Role::Bias), How::QueryHeads));
const K_BIAS: Row = optional(how(row(&["self_attn.k_proj.bias"], "attn_k.bias", &[Keys], Role::Bias), How::KeyHeads));
const V_BIAS: Row = optional(row(&["self_attn.v_proj.bias"], "attn_v.bias", &[Keys], Role::Bias));
const O_BIAS: Row = optional(row(&["self_attn.o_proj.bias"], "attn_output.bias", &[Embedding], Role::Bias));
const GATE: Row = row(&["mlp.gate_proj.weight"], "ffn_gate.weight", &[FeedForward, Embedding], Linear);
const UP: Row = row(&["mlp.up_proj.weight"], "ffn_up.weight", &[FeedForward, Embedding], Linear);
const DOWN: Row = row(&["mlp.down_proj.weight"], "ffn_down.weight", &[Embedding, FeedForward], Linear);
const GATE_BIAS: Row = optional(row(&["mlp.gate_proj.bias"], "ffn_gate.bias", &[FeedForward], Role::Bias));
const UP_BIAS: Row = optional(row(&["mlp.up_proj.bias"], "ffn_up.bias", &[FeedForward], Role::Bias));
const DOWN_BIAS: Row = optional(row(&["mlp.down_proj.bias"], "ffn_down.bias", &[Embedding], Role::Bias));

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
    row(&["attn.c_attn.bias"], "attn_qkv.bias", &[Qkv], Role::Bias),
    conv1d(&["attn.c_proj.weight"], "attn_output.weight", &[Embedding, Embedding]),
    row(&["attn.c_proj.bias"], "attn_output.bias", &[Embedding], Role::Bias),
    row(&["ln_2.weight"], "ffn_norm.weight", &[Embedding], Vector),
    row(&["ln_2.bias"], "ffn_norm.bias", &[Embedding], Vector),
    conv1d(&["mlp.c_fc.weight"], "ffn_up.weight", &[FeedForward, Embedding]),
    row(&["mlp.c_fc.bias"], "ffn_up.bias", &[FeedForward], Role::Bias),
    conv1d(&["mlp.c_proj.weight"], "ffn_down.weight", &[Embedding, FeedForward]),
    row(&["mlp.c_proj.bias"], "ffn_down.bias", &[Embedding], Role::Bias),
];

const LLAMA_DEFAULTS: Defaults = Defaults {
    theta: 10_000.0,
    eps: 1e-6,
    context: 2048,
    kv_heads: None,
    head: None,
    activation: "silu",
    window: Window::Ignored,
    tied: false,
};

/// Keys of config.json that say whether linear layers have biases.
pub(super) const ATTENTION_BIAS: &str = "attention_bias";
pub(super) const MLP_BIAS: &str = "mlp_bias";

const LLAMA: Family = Family {
    classes: &["LlamaForCausalLM", "LLaMAForCausalLM"],
    model_types: &["llama"],
    style: Style::Llama,
    defaults: LLAMA_DEFAULTS,
    prefix: "model.",
    layer: "layers",
    permuted: true,
    pre: &["llama-bpe", "tekken", "gpt-2"],
    biases: Biases {
        qkv: Bias::Key(ATTENTION_BIAS),
        output: Bias::Key(ATTENTION_BIAS),
        feed_forward: Bias::Key(MLP_BIAS),
    },
    first: LLAMA_FIRST,
    layers: LLAMA_LAYER,
    last: LLAMA_LAST,
};

const BITNET: Family = Family {
    classes: &["BitNetForCausalLM", "BitnetForCausalLM"],
    model_types: &["bitnet"],
    style: Style::BitNet,
    defaults: Defaults { theta: 500_000.0, eps: 1e-5, kv_heads: Some(5), activation: "relu2", ..LLAMA_DEFAULTS },
    permuted: false,
    layers: BITNET_LAYER,
    ..LLAMA
};

/// Every family that is read. Where several rows have a class, the configuration's `model_type` decides, then the order.
const FAMILIES: &[Family] = &[
    LLAMA,
    Family {
        classes: &["MistralForCausalLM"],
        model_types: &["mistral"],
        defaults: Defaults {
            context: 4096 * 32,
            kv_heads: Some(8),
            window: Window::Read(Some(4096)),
            ..LLAMA_DEFAULTS
        },
        biases: Biases::NONE,
        ..LLAMA
    },
    BITNET,
    // The first models of this kind came with code of their own, whose configuration is Llama's.
    Family { classes: &["BitnetForCausalLM"], model_types: &["llama"], defaults: LLAMA_DEFAULTS, ..BITNET },
    Family {
        classes: &["Qwen2ForCausalLM"],
        model_types: &["qwen2"],
        style: Style::Qwen2,
        defaults: Defaults { context: 32_768, kv_heads: Some(32), window: Window::Switched, ..LLAMA_DEFAULTS },
        permuted: false,
        biases: Biases { qkv: Bias::Always, ..Biases::NONE },
        pre: &["qwen2"],
        ..LLAMA
    },
    Family {
        classes: &["Qwen3ForCausalLM"],
        model_types: &["qwen3"],
        style: Style::Qwen3,
        defaults: Defaults {
            context: 32_768,
            kv_heads: Some(32),
            head: Some(128),
            window: Window::Switched,
            ..LLAMA_DEFAULTS
        },
        permuted: false,
        pre: &["qwen2"],
        biases: Biases { feed_forward: Bias::Never, ..LLAMA.biases },
        layers: QWEN3_LAYER,
        ..LLAMA
    },
    Family {
        classes: &["Phi3ForCausalLM"],
        model_types: &["phi3"],
        style: Style::Phi3,
        defaults: Defaults { eps: 1e-5, context: 4096, window: Window::Read(None), ..LLAMA_DEFAULTS },
        permuted: false,
        pre: &["gpt-4o", "gpt-2"],
        biases: Biases::NONE,
        layers: PHI3_LAYER,
        ..LLAMA
    },
    Family {
        classes: &["GPT2LMHeadModel"],
        model_types: &["gpt2"],
        style: Style::Gpt2,
        defaults: Defaults { eps: 1e-5, context: 1024, activation: "gelu_new", tied: true, ..LLAMA_DEFAULTS },
        prefix: "transformer.",
        layer: "h",
        permuted: false,
        pre: &["gpt-2"],
        biases: Biases { qkv: Bias::Always, output: Bias::Always, feed_forward: Bias::Always },
        first: GPT2_FIRST,
        layers: GPT2_LAYER,
        last: GPT2_LAST,
    },
];

/// Tensors that old checkpoints carry and no model needs: how their names end, and what they are.
pub(super) const IGNORED: &[(&str, &str)] = &[
    (".rotary_emb.inv_freq", "frequencies of rotary positions, which follow from config.json"),
    (".attn.bias", "a causal mask"),
    (".attn.masked_bias", "the value under a causal mask"),
];

impl Family {
    /// The family of a configuration.
    ///
    /// # Errors
    /// If it is none of the table.
    pub fn of(config: &Config) -> Result<&'static Self> {
        let (class, model_type) = (config.class(), config.word("model_type"));
        let of_type = |family: &&Self| model_type.is_some_and(|model_type| family.model_types.contains(&model_type));
        let known = || {
            let classes: BTreeSet<&str> = FAMILIES.iter().flat_map(|family| family.classes).copied().collect();
            classes.into_iter().collect::<Vec<_>>().join(", ")
        };
        let Some(class) = class else {
            let found = model_type.and_then(|_| FAMILIES.iter().find(of_type));
            let key = if model_type.is_some() { "model_type" } else { "architectures" };
            return found.ok_or_else(|| config.wrong(key, format!("architectures that are read: {}", known())));
        };
        let of_class = || FAMILIES.iter().filter(|family| family.classes.contains(&class));
        let found = of_class().find(of_type).or_else(|| of_class().next());
        found.ok_or_else(|| config.wrong("architectures", format!("those that are read: {}", known())))
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
        let tensor = format!("{before}{}", row.from.first()?);
        let from = From {
            saved: tensor.clone(),
            tensor,
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
