//! A model that was trained here as a checkpoint directory: `config.json`, `model.safetensors`, the tokenizer. What is ternary is saved
//! as its values.
//!
//! Only models of the architecture `llama`, which `transformers` knows; conversion and fine-tuning read the directory like any other.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::model::{Blueprint, Decoder, Part, ternary_values};
use super::tokenizer::{END_OF_TEXT, TextTokenizer};
use crate::checkpoint::config::Config;
use crate::checkpoint::family::Family;
use crate::checkpoint::plan::Item;
use crate::checkpoint::save;

/// Whether a model of this architecture can be saved.
pub fn is_saved(decoder: &Decoder) -> bool {
    decoder.blueprint().config.architecture.name == "llama"
}

/// Saves a decoder whose architecture is `llama`.
///
/// # Errors
/// If a file cannot be written.
pub fn checkpoint(dir: &Path, decoder: &Decoder, tokenizer: &TextTokenizer) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make the folder {}", dir.display()))?;
    let config = config(decoder.blueprint(), tokenizer);
    let family = Family::of(&Config::new(dir.join("config.json"), config.clone())?)?;
    let parts = decoder.parts()?;
    let head = decoder.blueprint().config.head_dim;
    let item = |part: &Part| -> Result<Item> {
        let item = family.item(&part.name, part.values.dims(), head);
        item.with_context(|| format!("a Llama has no place for {}", part.name))
    };
    let items = parts.iter().map(item).collect::<Result<Vec<_>>>()?;
    save::tensors(&dir.join("model.safetensors"), &items, |item| {
        let part = parts.iter().find(|part| part.name == item.name);
        ternary_values(part.with_context(|| format!("the model has no {}", item.name))?)
    })?;
    save::json_file(&dir.join("config.json"), &config)?;
    save::json_file(&dir.join("tokenizer.json"), &tokenizer.json())?;
    let settings = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "add_bos_token": false,
        "add_eos_token": false,
        "clean_up_tokenization_spaces": false,
        "model_max_length": decoder.blueprint().context,
    });
    save::json_file(&dir.join("tokenizer_config.json"), &settings)
}

fn config(blueprint: &Blueprint, tokenizer: &TextTokenizer) -> Value {
    let c = &blueprint.config;
    // In as few digits as give the f32 again.
    let eps: f64 = c.eps.to_string().parse().unwrap_or(f64::from(c.eps));
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": blueprint.vocabulary,
        "hidden_size": c.n_embd,
        "intermediate_size": c.n_ff,
        "num_hidden_layers": c.n_layer,
        "num_attention_heads": c.n_head,
        "num_key_value_heads": c.n_head_kv,
        "head_dim": c.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": blueprint.context,
        "rms_norm_eps": eps,
        "rope_theta": c.rope.as_ref().map(|rope| rope.base),
        "tie_word_embeddings": blueprint.tied,
        "attention_bias": false,
        "mlp_bias": false,
        "bos_token_id": tokenizer.end_of_text(),
        "eos_token_id": tokenizer.end_of_text(),
        "dtype": "float32",
    })
}
