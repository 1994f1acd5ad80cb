//! From config.json to the keys of a GGUF: sizes, norms, windows, as llama.cpp's readers and ours expect them.
//!
//! What a configuration asks for and no key can say is refused, so that nothing is converted into a model that would speak
//! otherwise than the original. Not here: rotary positions (`rope.rs`), the tokenizer's keys.

use anyhow::Result;
use sterna_core::gguf::Metadata;

use super::config::Config;
use super::family::{Family, Style, Window};
use super::rope::Rope;

/// Sizes and switches of a model.
#[derive(Clone, Debug)]
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
    /// How positions are rotated; `None` where they are learned.
    pub rope: Option<Rope>,
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
    /// Keys that config.json does not have, each with the default that is taken.
    pub assumed: Vec<String>,
    /// What a person should know.
    pub notes: Vec<String>,
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
    pub fn of(family: &Family, config: &Config) -> Result<Self> {
        let (style, defaults) = (family.style, &family.defaults);
        let (mut assumed, mut notes) = (Vec::new(), Vec::new());
        let embedding = config.size(&["hidden_size", "n_embd"])?;
        let heads = config.size(&["num_attention_heads", "n_head"])?;
        let mut or_default = |key: &str, default: Option<usize>, otherwise: usize| -> Result<usize> {
            match (config.optional_size(&[key])?, default) {
                (Some(size), _) => Ok(size),
                (None, Some(size)) if !config.has(key) => {
                    assumed.push(format!("{key} {size}"));
                    Ok(size)
                }
                (None, _) => Ok(otherwise),
            }
        };
        let kv_heads = or_default("num_key_value_heads", defaults.kv_heads, heads)?;
        if !heads.is_multiple_of(kv_heads) {
            return Err(config.wrong("num_key_value_heads", format!("{kv_heads} must divide the {heads} heads")));
        }
        let head = or_default("head_dim", defaults.head, embedding / heads)?;
        if config.find("head_dim").is_none() && defaults.head.is_none() && !embedding.is_multiple_of(heads) {
            return Err(config.wrong("hidden_size", format!("it must be a multiple of the {heads} heads")));
        }
        let gpt2 = style == Style::Gpt2;
        let feed_forward = match config.optional_size(&["intermediate_size", "n_inner"])? {
            Some(size) => size,
            None if gpt2 => 4 * embedding,
            None => return Err(config.wrong("intermediate_size", "the model's sizes must be there")),
        };
        let context_keys: &[&str] = &["max_position_embeddings", "n_positions", "n_ctx"];
        let context = match config.optional_size(context_keys)? {
            Some(context) => context,
            None => {
                assumed.push(format!("{} {}", context_keys[usize::from(gpt2)], defaults.context));
                defaults.context
            }
        };
        let eps_key = if gpt2 { "layer_norm_epsilon" } else { "rms_norm_eps" };
        let eps = config.float(eps_key)?.unwrap_or_else(|| {
            assumed.push(format!("{eps_key} {:e}", defaults.eps));
            defaults.eps
        }) as f32;
        if !(eps > 0.0 && eps < 1.0) {
            return Err(config.wrong(eps_key, "it must be a small positive number"));
        }
        let rope = match gpt2 {
            true => None,
            false => Some(Rope::of(style, defaults, config, head, context, &mut assumed)?),
        };
        let layers = config.size(&["num_hidden_layers", "n_layer"])?;
        Ok(Self {
            layers,
            embedding,
            feed_forward,
            heads,
            kv_heads,
            head,
            rope,
            context,
            vocabulary: config.size(&["vocab_size"])?,
            eps,
            // What the classes of `transformers` take where the file is silent; of the others the tensors tell.
            tied: config.switch("tie_word_embeddings")?.or(defaults.tied.then_some(true)),
            window: window(family, config, layers, context, &mut assumed, &mut notes)?,
            architecture: architecture(family, config, &mut assumed)?,
            assumed,
            notes,
        })
    }

    /// Tensors that hold factors of rotary positions, by their names in a GGUF.
    ///
    /// # Errors
    /// If the configuration's scaling lacks a number, or gives lists of a wrong length.
    pub fn factors(&self) -> Result<Vec<(String, Vec<f32>)>> {
        self.rope.as_ref().map_or(Ok(Vec::new()), Rope::factors)
    }

    /// Which keys config.json does not have, and what is taken in their place.
    pub fn assumed_note(&self, config: &Config) -> Option<String> {
        let class = config.class().or(config.word("model_type")).unwrap_or("this class");
        (!self.assumed.is_empty())
            .then(|| format!("not in config.json, so the defaults of {class} are taken: {}", self.assumed.join(", ")))
    }
}

/// The keys that follow from the configuration; `name` is the model's.
///
/// # Errors
/// If the scaling of rotary positions is not known or lacks a number.
pub fn metadata(style: Style, hyper: &Hyper, name: &str) -> Result<Metadata> {
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
    if let Some(rope) = &hyper.rope {
        rope.write(style, architecture, &mut metadata)?;
    }
    Ok(metadata)
}

/// The window of attention, the same in all layers.
fn window(
    family: &Family,
    config: &Config,
    layers: usize,
    context: usize,
    assumed: &mut Vec<String>,
    notes: &mut Vec<String>,
) -> Result<Option<usize>> {
    const KEY: &str = "sliding_window";
    /// The default of classes with a switch, in tokens.
    const SWITCHED: usize = 4096;
    let layered = config.find("layer_types").and_then(|types| types.as_array());
    match family.defaults.window {
        Window::Ignored => {
            if let Some(size) = config.find(KEY).and_then(|size| size.as_u64()).filter(|&size| size < context as u64) {
                let class = config.class().unwrap_or("this class");
                notes.push(format!("{KEY} = {size} in config.json is not applied: {class} has no window"));
            }
            Ok(None)
        }
        Window::Read(usual) => Ok(match config.optional_size(&[KEY])? {
            None if !config.has(KEY) => {
                assumed.extend(usual.map(|size| format!("{KEY} {size}")));
                usual
            }
            size => size,
        }),
        Window::Switched if config.switch("use_sliding_window")? != Some(true) => Ok(None),
        Window::Switched => {
            let size = match config.optional_size(&[KEY])? {
                None if !config.has(KEY) => Some(SWITCHED),
                size => size,
            };
            // Without a list, the layers from this one on.
            let first = config.index("max_window_layers")?.unwrap_or(28);
            let windows = match layered {
                Some(types) => types.iter().take(layers).filter(|kind| *kind != "full_attention").count(),
                None => layers.saturating_sub(first),
            };
            match (windows, size) {
                (0, _) | (_, None) => Ok(None),
                (_, Some(size)) if windows == layers => {
                    if !config.has(KEY) {
                        assumed.push(format!("{KEY} {size}"));
                    }
                    Ok(Some(size))
                }
                _ => Err(config.wrong(
                    "use_sliding_window",
                    format!("a window in {windows} of the {layers} layers has no key in a GGUF"),
                )),
            }
        }
    }
}

/// `general.architecture`, if the model's activation is the architecture's.
fn architecture(family: &Family, config: &Config, assumed: &mut Vec<String>) -> Result<&'static str> {
    let (style, usual) = (family.style, family.defaults.activation);
    let key = if style == Style::Gpt2 { "activation_function" } else { "hidden_act" };
    let activation = match config.find(key) {
        Some(value) => value.as_str().unwrap_or("?"),
        None => {
            assumed.push(format!("{key} {usual}"));
            usual
        }
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
