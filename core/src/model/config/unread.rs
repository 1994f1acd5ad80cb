//! Keys whose meaning the decoder does not follow: which are refused, and what is said of the others.
//!
//! The rule is llama.cpp's practice. A key that llama.cpp applies for an architecture, and this decoder does not, is refused.
//! A key that llama.cpp does not read for the architecture changes nothing there either, so it is a warning here. Keys that
//! this decoder applies and llama.cpp does not are warnings, too: the results differ.

use super::keys::Keys;
use super::{Config, rope};
use crate::gguf::{Array, Header, Value};
use crate::model::ModelError;
use crate::ops::RopeScaling;

/// Keys that the decoder applies, or that say what does not change its results.
const READ: [&str; 34] = [
    // Applied.
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "hyper_connections",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_epsilon",
    "attention.layer_norm_rms_epsilon",
    "attention.scale",
    "attention.sliding_window",
    "attention.sliding_window_pattern",
    "attention.causal",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.attn_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    // Refused where they ask for something.
    "expert_count",
    "expert_used_count",
    "expert_group_count",
    "expert_group_used_count",
    "nextn_predict_layers",
    // Of no effect on logits.
    "vocab_size",
    "embedding_length_out",
    "rope.scaling.finetuned",
    "tensor_data_layout",
    "pooling_type",
];

/// Keys of related architectures that change the arithmetic, each with the values that change nothing.
const SCALES: [(&str, &[f32]); 15] = [
    ("attn_logit_softcapping", &[0.0]),
    ("router_logit_softcapping", &[0.0]),
    ("final_logit_softcapping", &[0.0]),
    ("logit_scale", &[0.0, 1.0]),
    ("embedding_scale", &[0.0, 1.0]),
    ("residual_scale", &[0.0, 1.0]),
    ("attention.clamp_kqv", &[0.0]),
    ("attention.max_alibi_bias", &[0.0]),
    ("attention.output_scale", &[0.0, 1.0]),
    ("attention.value_scale", &[0.0, 1.0]),
    ("attention.temperature_scale", &[0.0]),
    ("attention.temperature_length", &[0.0]),
    ("rope.scaling.alpha", &[0.0]),
    ("rope.scaling.yarn_log_multiplier", &[0.0]),
    // Negative is llama.cpp's mark for "not given"; then all of the ramp is applied.
    ("rope.scaling.yarn_ext_factor", &[-1.0, 1.0]),
];

/// Refuses what must not be ignored.
pub(super) fn refuse(keys: &Keys<'_>) -> Result<(), ModelError> {
    if let Some((key, _)) = keys.metadata.iter().find(|(key, _)| key.starts_with("prism.hadamard")) {
        return Err(ModelError::Unsupported {
            feature: "a Hadamard transform of the activations",
            key: key.to_owned(),
            remedy: "Use a file of this model without it.",
        });
    }
    let counts: [(&str, &'static str, &'static str); 5] = [
        ("expert_count", "a mixture of experts", "Use a dense model."),
        ("expert_used_count", "a mixture of experts", "Use a dense model."),
        ("expert_group_count", "a mixture of experts", "Use a dense model."),
        ("expert_group_used_count", "a mixture of experts", "Use a dense model."),
        ("nextn_predict_layers", "layers that predict several tokens", "Use a file of this model without them."),
    ];
    for (name, feature, remedy) in counts {
        if keys.contains(name) && !is_zero(keys, name) {
            return Err(keys.unsupported(name, feature, remedy));
        }
    }
    if keys.switch("attention.causal")? == Some(false) {
        let feature = "attention to tokens that come later";
        return Err(keys.unsupported("attention.causal", feature, "Use a model that writes text."));
    }
    // No other program reads files of this one's own architecture.
    if keys.prefix == "sterna"
        && let Some((name, _)) = SCALES.iter().find(|(name, neutral)| changes(keys, name, neutral))
    {
        let feature = "a scaling or clamping of intermediate values";
        return Err(keys.unsupported(name, feature, "Use a model without it."));
    }
    Ok(())
}

/// What a user should know of a file's hyperparameters before trusting its results: keys that are not applied, and keys that
/// llama.cpp reads otherwise. Empty for a file that would be refused.
pub fn warnings(header: &Header) -> Vec<String> {
    let Ok(config) = Config::from_header(header) else { return Vec::new() };
    let keys = Keys::of(header, config.architecture.name);
    let mut warnings = Vec::new();
    let name = config.architecture.name;
    let yarn = matches!(config.rope.as_ref().map(|rope| &rope.scaling), Some(RopeScaling::Yarn { .. }));
    let ignored = SCALES.iter().filter(|(name, neutral)| changes(&keys, name, neutral));
    let ignored = ignored.map(|(name, _)| *name).filter(|name| yarn || !name.starts_with("rope.scaling.yarn_"));
    say(&mut warnings, ignored.map(|name| keys.key(name)).collect(), |keys| {
        format!("{keys}: not applied. llama.cpp does not apply it to {name} models either")
    });
    let unknown = header.metadata.iter().filter_map(|(key, value)| {
        let name = key.strip_prefix(name)?.strip_prefix('.')?;
        let known = READ.contains(&name) || SCALES.iter().any(|(scale, _)| *scale == name);
        let off = matches!(value, Value::Bool(false));
        let rotary = config.rope.is_none() && name.starts_with("rope.");
        (!known && !off && !rotary).then(|| key.to_owned())
    });
    say(&mut warnings, unknown.collect(), |keys| {
        format!("{keys}: not known here, so not applied. If it changes what the model computes, the results are wrong")
    });
    if name != "sterna" {
        say(&mut warnings, read_here_alone(&keys, &config, yarn), |keys| {
            format!("{keys}: applied here. llama.cpp does not apply it to {name} models, so its results differ")
        });
    }
    if keys.metadata.u32(&keys.key("pooling_type")).is_some_and(|kind| kind > 0) {
        let key = keys.key("pooling_type");
        warnings.push(format!("{key}: the model was made for embeddings; here it only continues text"));
    }
    warnings
}

/// Keys that are applied here and change results, but that llama.cpp does not apply.
fn read_here_alone(keys: &Keys<'_>, config: &Config, yarn: bool) -> Vec<String> {
    let mut found = Vec::new();
    if config.window.is_some_and(|window| window < config.n_ctx) {
        found.push("attention.sliding_window");
    }
    if keys.unless_zero("attention.scale").is_ok_and(|scale| scale.is_some()) {
        found.push("attention.scale");
    }
    if yarn {
        let other = |(key, usual): &(&'static str, f32)| {
            keys.unless_zero(key).is_ok_and(|beta| beta.is_some_and(|beta| beta != *usual))
        };
        found.extend(rope::BETAS.iter().filter(|beta| other(beta)).map(|(key, _)| *key));
    }
    found.into_iter().map(|name| keys.key(name)).collect()
}

/// One warning for all of `keys`, if there are any.
fn say(warnings: &mut Vec<String>, keys: Vec<String>, warning: impl Fn(&str) -> String) {
    /// More help no one, and a hostile file may have very many.
    const MOST: usize = 8;
    if keys.is_empty() {
        return;
    }
    let mut named = keys.iter().take(MOST).map(String::as_str).collect::<Vec<_>>().join(", ");
    if keys.len() > MOST {
        named.push_str(&format!(" and {} more", keys.len() - MOST));
    }
    let several = keys.len() > 1;
    warnings.push(warning(&format!("metadata {} {named}", if several { "keys" } else { "key" })));
}

fn is_zero(keys: &Keys<'_>, name: &str) -> bool {
    let key = keys.key(name);
    let zeros = |array: &Array| array.integers::<u64>().is_some_and(|items| items.iter().all(|&n| n == 0));
    keys.metadata.u64(&key) == Some(0) || keys.metadata.array(&key).is_some_and(zeros)
}

/// Whether a key is there and holds another value than those that change nothing.
fn changes(keys: &Keys<'_>, name: &str, neutral: &[f32]) -> bool {
    let key = keys.key(name);
    let number = keys.metadata.f32(&key).or_else(|| keys.metadata.i32(&key).map(|value| value as f32));
    keys.contains(name) && !number.is_some_and(|value| neutral.contains(&value))
}
