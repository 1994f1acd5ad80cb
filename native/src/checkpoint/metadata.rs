//! From config.json to the keys of a GGUF: sizes, norms, rotary positions and their scalings, as llama.cpp's readers and ours
//! expect them.
//!
//! What a configuration asks for and no key can say is refused, so that nothing is converted into a model that would speak
//! otherwise than the original. Not here: the tokenizer's keys.

use anyhow::{Result, bail};
use sterna_core::gguf::Metadata;

use super::config::Config;
use super::family::Style;

/// Sizes and switches of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Hyper {
    /// Blocks.
    pub layers: usize,
    /// Width.
    pub embedding: usize,
    /// Width of the feed-forward layer.
    pub feed_forward: usize,
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head: usize,
    /// Elements of a head that are rotated.
    pub rotated: usize,
    /// Tokens of context.
    pub context: usize,
    /// Rows of the embedding.
    pub vocabulary: usize,
    /// Added under the root in norms.
    pub eps: f32,
    /// Whether the output is the embedding; `None` leaves it to what is there.
    pub tied: Option<bool>,
    /// Tokens that attention sees.
    pub window: Option<usize>,
    /// `general.architecture`
    pub architecture: &'static str,
}

/// Activations that are SiLU by another name.
const SILU: &[&str] = &["silu", "swish"];
/// Those that are the tangent form of GELU.
const GELU: &[&str] = &["gelu_new", "gelu_pytorch_tanh", "gelu_fast"];

impl Hyper {
    /// Reads a configuration.
    ///
    /// # Errors
    /// If sizes are missing or contradict each other, or something is asked for that a GGUF of this architecture cannot say.
    pub fn of(style: Style, config: &Config) -> Result<Self> {
        let embedding = config.size(&["hidden_size", "n_embd"])?;
        let heads = config.size(&["num_attention_heads", "n_head"])?;
        let kv_heads = config.optional_size(&["num_key_value_heads"])?.unwrap_or(heads);
        if !heads.is_multiple_of(kv_heads) {
            return Err(config.wrong("num_key_value_heads", format!("it must divide the {heads} heads")));
        }
        let head = match config.optional_size(&["head_dim"])? {
            Some(head) => head,
            None if embedding.is_multiple_of(heads) => embedding / heads,
            None => bail!("{}", config.wrong("hidden_size", format!("it must be a multiple of the {heads} heads"))),
        };
        let gpt2 = style == Style::Gpt2;
        let feed_forward = match config.optional_size(&["intermediate_size", "n_inner"])? {
            Some(size) => size,
            None if gpt2 => 4 * embedding,
            None => return Err(config.wrong("intermediate_size", "the model's sizes must be there")),
        };
        let eps_key = if gpt2 { "layer_norm_epsilon" } else { "rms_norm_eps" };
        let usual = if matches!(style, Style::Gpt2 | Style::Phi3 | Style::BitNet) { 1e-5 } else { 1e-6 };
        let eps = config.float(eps_key)?.unwrap_or(usual) as f32;
        if !(eps > 0.0 && eps < 1.0) {
            return Err(config.wrong(eps_key, "it must be a small positive number"));
        }
        let rope = rope_section(config);
        let share = rope.float("partial_rotary_factor")?.or(config.float("partial_rotary_factor")?).unwrap_or(1.0);
        if !(share > 0.0 && share <= 1.0) || share != 1.0 && style != Style::Phi3 {
            bail!("{}", config.wrong("partial_rotary_factor", "only Phi-3 models may rotate a part of each head"));
        }
        let rotated = (head as f64 * share) as usize;
        if !gpt2 && (rotated == 0 || !rotated.is_multiple_of(2)) {
            bail!("{}", config.wrong("head_dim", format!("{rotated} elements of a head cannot be rotated in pairs")));
        }
        // What the classes of `transformers` take where the file is silent.
        let tied = config.switch("tie_word_embeddings")?.or(gpt2.then_some(true));
        Ok(Self {
            layers: config.size(&["num_hidden_layers", "n_layer"])?,
            embedding,
            feed_forward,
            heads,
            kv_heads,
            head,
            rotated,
            context: config.size(&["max_position_embeddings", "n_positions", "n_ctx"])?,
            vocabulary: config.size(&["vocab_size"])?,
            eps,
            tied,
            window: window(style, config)?,
            architecture: architecture(style, config)?,
        })
    }

    /// Tensors that hold factors of rotary positions, by their names in a GGUF.
    ///
    /// # Errors
    /// If the configuration's scaling lacks a number, or gives lists of a wrong length.
    pub fn factors(&self, config: &Config) -> Result<Vec<(String, Vec<f32>)>> {
        let rope = rope_section(config);
        match rope_type(&rope) {
            "llama3" => Ok(vec![("rope_freqs.weight".into(), self.llama3_factors(config, &rope)?)]),
            "longrope" | "su" => {
                let mut factors = Vec::new();
                for set in ["long", "short"] {
                    let key = format!("{set}_factor");
                    let values = rope.floats(&key)?.unwrap_or_default();
                    if values.len() != self.rotated / 2 || !values.iter().all(|factor| *factor > 0.0) {
                        return Err(rope.wrong(&key, format!("it must be {} positive numbers", self.rotated / 2)));
                    }
                    factors.push((format!("rope_factors_{set}.weight"), values));
                }
                Ok(factors)
            }
            _ => Ok(Vec::new()),
        }
    }

    /// By how much each frequency is divided: low ones by the factor, high ones not at all, those between by something between
    /// (Llama 3.1's scaling).
    fn llama3_factors(&self, config: &Config, rope: &Config) -> Result<Vec<f32>> {
        let number = |key: &str, usual: f64| -> Result<f64> {
            let value = rope.float(key)?.unwrap_or(usual);
            if value > 0.0 { Ok(value) } else { Err(rope.wrong(key, "it must be a positive number")) }
        };
        let (base, factor) = (base(config, rope)?, number("factor", 8.0)?);
        let (low, high) = (number("low_freq_factor", 1.0)?, number("high_freq_factor", 4.0)?);
        let original = number("original_max_position_embeddings", 8192.0)?;
        if low >= high {
            return Err(rope.wrong("high_freq_factor", format!("it must be above low_freq_factor, {low}")));
        }
        let of_pair = |i: usize| {
            let wavelength = std::f64::consts::TAU * base.powf((2 * i) as f64 / self.rotated as f64);
            if wavelength < original / high {
                1.0
            } else if wavelength > original / low {
                factor
            } else {
                let smooth = (original / wavelength - low) / (high - low);
                1.0 / ((1.0 - smooth) / factor + smooth)
            }
        };
        Ok((0..self.rotated / 2).map(|i| of_pair(i) as f32).collect())
    }
}

/// The keys that follow from the configuration; `name` is the model's.
///
/// # Errors
/// If the scaling of rotary positions is not known or lacks a number.
pub fn metadata(style: Style, hyper: &Hyper, config: &Config, name: &str) -> Result<Metadata> {
    let mut metadata = Metadata::new();
    let architecture = hyper.architecture;
    metadata.insert("general.architecture", architecture);
    metadata.insert("general.type", "model");
    metadata.insert("general.name", name);
    let key = |part: &str| format!("{architecture}.{part}");
    for (part, value) in [
        ("context_length", hyper.context),
        ("embedding_length", hyper.embedding),
        ("block_count", hyper.layers),
        ("feed_forward_length", hyper.feed_forward),
        ("attention.head_count", hyper.heads),
        ("vocab_size", hyper.vocabulary),
    ] {
        metadata.insert(key(part), value as u32);
    }
    if style == Style::Gpt2 {
        metadata.insert(key("attention.layer_norm_epsilon"), hyper.eps);
        return Ok(metadata);
    }
    metadata.insert(key("attention.head_count_kv"), hyper.kv_heads as u32);
    metadata.insert(key("attention.layer_norm_rms_epsilon"), hyper.eps);
    if hyper.head * hyper.heads != hyper.embedding || style == Style::Qwen3 {
        metadata.insert(key("attention.key_length"), hyper.head as u32);
        metadata.insert(key("attention.value_length"), hyper.head as u32);
    }
    match (hyper.window, style) {
        (Some(window), _) => metadata.insert(key("attention.sliding_window"), window as u32),
        // llama.cpp tells Phi-4 from older ones by a window of zero.
        (None, Style::Phi3) => metadata.insert(key("attention.sliding_window"), 0u32),
        _ => {}
    }
    metadata.insert(key("rope.dimension_count"), hyper.rotated as u32);
    scaling(style, hyper, config, &mut metadata)?;
    Ok(metadata)
}

fn scaling(style: Style, hyper: &Hyper, config: &Config, metadata: &mut Metadata) -> Result<()> {
    let key = |part: &str| format!("{}.rope.{part}", hyper.architecture);
    let rope = rope_section(config);
    metadata.insert(key("freq_base"), base(config, &rope)? as f32);
    let factor = |usual: Option<f64>| -> Result<f64> {
        match rope.float("factor")?.or(usual) {
            Some(factor) if factor >= 1.0 => Ok(factor),
            _ => Err(rope.wrong("factor", "it must be a number from 1 on")),
        }
    };
    let original = || -> Result<Option<usize>> {
        let of_section = rope.optional_size(&["original_max_position_embeddings"])?;
        Ok(of_section.or(config.optional_size(&["original_max_position_embeddings"])?))
    };
    match rope_type(&rope) {
        "default" | "none" | "llama3" => {
            // llama.cpp's files of BitNet and Phi-3 have these keys also without a scaling.
            match style {
                Style::BitNet => {
                    metadata.insert(key("scaling.type"), "linear");
                    metadata.insert(key("scaling.factor"), 1.0f32);
                }
                Style::Phi3 => {
                    let original = original()?.unwrap_or(hyper.context);
                    metadata.insert(key("scaling.original_context_length"), original as u32);
                }
                _ => {}
            }
        }
        // Up to the context that the model was made for it is no scaling; beyond it nothing is promised.
        "dynamic" => {}
        "linear" => {
            metadata.insert(key("scaling.type"), "linear");
            metadata.insert(key("scaling.factor"), factor(None)? as f32);
        }
        "yarn" => {
            let factor = factor(None)?;
            metadata.insert(key("scaling.type"), "yarn");
            metadata.insert(key("scaling.factor"), factor as f32);
            metadata.insert(key("scaling.original_context_length"), original()?.unwrap_or(hyper.context) as u32);
            for beta in ["beta_fast", "beta_slow"] {
                if let Some(value) = rope.float(beta)? {
                    metadata.insert(key(&format!("scaling.yarn_{beta}")), value as f32);
                }
            }
            if rope.float("mscale")?.is_some() || rope.float("mscale_all_dim")?.is_some() {
                return Err(rope.wrong("mscale", "this variant of YaRN is not supported"));
            }
            if rope.switch("truncate")? == Some(false) {
                return Err(rope.wrong("truncate", "this variant of YaRN is not supported"));
            }
            // Readers multiply by 0.1 ln(factor) + 1 themselves.
            if let Some(attention) = rope.float("attention_factor")? {
                metadata.insert(key("scaling.attn_factor"), (attention / (0.1 * factor.ln() + 1.0)) as f32);
            }
        }
        "longrope" | "su" => {
            let original = original()?.unwrap_or(hyper.context);
            let stretch = hyper.context as f64 / original as f64;
            let stretch = rope.float("factor")?.unwrap_or(stretch);
            let usual = if stretch <= 1.0 { 1.0 } else { (1.0 + stretch.ln() / (original as f64).ln()).sqrt() };
            let attention = rope.float("attention_factor")?.unwrap_or(usual);
            metadata.insert(key("scaling.original_context_length"), original as u32);
            metadata.insert(key("scaling.attn_factor"), attention as f32);
        }
        other => {
            bail!("{}", rope.wrong("rope_type", format!("scaling of positions by {other} is not supported; default, linear, dynamic, llama3, yarn and longrope are")))
        }
    }
    Ok(())
}

/// The section about rotary positions: `rope_parameters`, or `rope_scaling` of older files; empty if there is none.
fn rope_section(config: &Config) -> Config {
    let section = if config.find("rope_parameters").is_some() { "rope_parameters" } else { "rope_scaling" };
    config.section(section)
}

fn rope_type(rope: &Config) -> &str {
    rope.word("rope_type").or_else(|| rope.word("type")).unwrap_or("default")
}

fn base(config: &Config, rope: &Config) -> Result<f64> {
    let base = rope.float("rope_theta")?.or(config.float("rope_theta")?).unwrap_or(10_000.0);
    if base <= 1.0 {
        return Err(config.wrong("rope_theta", "it must be above 1"));
    }
    Ok(base)
}

fn window(style: Style, config: &Config) -> Result<Option<usize>> {
    let layered = config.find("layer_types").and_then(|types| types.as_array());
    let mixed = layered.is_some_and(|types| types.iter().any(|kind| kind != "full_attention"));
    match style {
        Style::Qwen2 | Style::Qwen3 => {
            if config.switch("use_sliding_window")? == Some(true) && (mixed || layered.is_none()) {
                return Err(config.wrong("use_sliding_window", "windows in some of the layers have no key in a GGUF"));
            }
            Ok(None)
        }
        Style::Llama | Style::Phi3 => config.optional_size(&["sliding_window"]),
        Style::BitNet | Style::Gpt2 => Ok(None),
    }
}

/// `general.architecture`, if the model's activation is the architecture's.
fn architecture(style: Style, config: &Config) -> Result<&'static str> {
    let key = if style == Style::Gpt2 { "activation_function" } else { "hidden_act" };
    let usual = match style {
        Style::Gpt2 => "gelu_new",
        Style::BitNet => "relu2",
        _ => "silu",
    };
    let activation = match config.find(key) {
        Some(value) => value.as_str().unwrap_or("?"),
        None => usual,
    };
    let silu = SILU.contains(&activation);
    match style {
        Style::BitNet if activation == "relu2" => Ok("bitnet-b1.58"),
        Style::BitNet if silu => Ok("bitnet"),
        Style::Llama if silu => Ok("llama"),
        Style::Qwen2 if silu => Ok("qwen2"),
        Style::Qwen3 if silu => Ok("qwen3"),
        Style::Phi3 if silu => Ok("phi3"),
        Style::Gpt2 if GELU.contains(&activation) => {
            if config.switch("scale_attn_by_inverse_layer_idx")? == Some(true) {
                return Err(config.wrong("scale_attn_by_inverse_layer_idx", "no key of a GGUF says so"));
            }
            if config.switch("scale_attn_weights")? == Some(false) {
                return Err(config.wrong("scale_attn_weights", "no key of a GGUF says so"));
            }
            Ok("gpt2")
        }
        _ => Err(config.wrong(key, format!("models of this family are read with {usual}"))),
    }
}
