//! What other programs make of a file that is written: which formats they read, and which keys and tensors they ignore or have no
//! place for. What is said of llama.cpp is true of its source of August 2026, and of what is built on it.
//!
//! Not here: what this runtime refuses (`sterna_core::model`).

use sterna_core::formats::Format;
use sterna_core::gguf::{Metadata, TensorDecl};

/// Architectures that llama.cpp has by the same name as this runtime.
const SHARED: &[&str] = &["llama", "qwen2", "qwen3", "phi3", "gpt2", "bitnet"];

/// Optional tensors that llama.cpp has no place for: its architectures, how the names end, and what they are. It refuses a file
/// that has one.
const NO_PLACE: &[(&[&str], &[&str], &str)] = &[
    (&["bitnet"], &["output.weight"], "an output layer of its own"),
    (
        &["qwen2", "qwen3", "bitnet", "gpt2"],
        &["rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"],
        "factors of rotary positions",
    ),
    (&["phi3"], &["rope_freqs.weight"], "factors of rotary positions by the scheme of Llama 3"),
    (
        &["qwen2", "qwen3"],
        &[".attn_output.bias", ".ffn_gate.bias", ".ffn_up.bias", ".ffn_down.bias"],
        "biases of the output and feed-forward projections",
    ),
];

/// Who reads a format and who does not, to go after its name in a note; empty where most programs read it.
pub fn of(format: Format) -> &'static str {
    match format {
        Format::Q2_0 => {
            ", which llama.cpp reads from mid-2026 on; older versions, programs built on them (Ollama, LM Studio) and bitnet.cpp \
             refuse the file"
        }
        Format::PQ2_0 | Format::PTQ1_0 => ", which llama.cpp, the programs built on it and bitnet.cpp refuse",
        Format::I2_S => ", which bitnet.cpp reads, and llama.cpp and the programs built on it refuse",
        _ => "",
    }
}

/// Where llama.cpp would refuse the file, or read it otherwise than it is meant.
pub fn notes(metadata: &Metadata, tensors: &[TensorDecl]) -> Vec<String> {
    let Some(architecture) = metadata.str("general.architecture") else { return Vec::new() };
    if architecture == "bitnet-b1.58" {
        let why = "llama.cpp has no architecture with squared ReLU; this file runs in sterna and in bitnet.cpp's fork";
        return vec![why.into()];
    }
    if !SHARED.contains(&architecture) {
        return Vec::new();
    }
    let mut notes = Vec::new();
    for (architectures, ends, what) in NO_PLACE {
        let has = |tensor: &TensorDecl| ends.iter().any(|end| tensor.name.ends_with(end));
        if architectures.contains(&architecture) && tensors.iter().any(has) {
            notes.push(format!("llama.cpp refuses this file: its architecture {architecture} has no place for {what}"));
        }
    }
    let key = |part: &str| format!("{architecture}.{part}");
    let (window, context) = (metadata.u64(&key("attention.sliding_window")), metadata.u64(&key("context_length")));
    if let Some(window) = window.filter(|&window| window > 0 && context.is_none_or(|context| window < context)) {
        notes.push(format!(
            "llama.cpp applies no window in its architecture {architecture}: beyond {window} tokens its answers differ from \
             this model's"
        ));
    }
    if metadata.str(&key("rope.scaling.type")) == Some("yarn") {
        let beta = |name: &str, usual: f32| {
            let value = metadata.f32(&key(&format!("rope.scaling.yarn_{name}"))).filter(|&value| value != usual);
            value.map(|value| format!("{name} = {value}, where it takes {usual}"))
        };
        let betas: Vec<String> = [beta("beta_fast", 32.0), beta("beta_slow", 1.0)].into_iter().flatten().collect();
        if !betas.is_empty() {
            notes.push(format!(
                "llama.cpp ignores the betas of YaRN in its architecture {architecture} ({}): its answers differ from this model's",
                betas.join("; ")
            ));
        }
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(architecture: &str, keys: &[(&str, f32)], tensors: &[&str]) -> Vec<String> {
        let mut metadata = Metadata::new();
        metadata.insert("general.architecture", architecture);
        metadata.insert(format!("{architecture}.context_length"), 4096u32);
        for (key, value) in keys {
            let key = format!("{architecture}.{key}");
            if key.contains("yarn") {
                metadata.insert(format!("{architecture}.rope.scaling.type"), "yarn");
                metadata.insert(key, *value);
            } else {
                metadata.insert(key, *value as u32);
            }
        }
        let decl = |name: &&str| TensorDecl { name: (*name).into(), dims: vec![8], type_id: 0, size: 32 };
        notes(&metadata, &tensors.iter().map(decl).collect::<Vec<_>>())
    }

    #[test]
    fn what_llama_cpp_ignores_or_refuses_is_said_and_nothing_else() {
        for (architecture, keys, tensors, expected) in [
            ("llama", &[("attention.sliding_window", 1024.0)][..], &[][..], "beyond 1024 tokens"),
            ("llama", &[("rope.scaling.yarn_beta_fast", 16.0)], &[], "beta_fast = 16, where it takes 32"),
            ("bitnet", &[], &["output.weight"], "refuses this file: its architecture bitnet"),
            ("qwen3", &[], &["rope_factors_long.weight"], "has no place for factors of rotary positions"),
            ("qwen2", &[], &["blk.0.ffn_up.bias"], "biases"),
            ("bitnet-b1.58", &[], &[], "squared ReLU"),
        ] {
            let notes = said(architecture, keys, tensors);
            assert!(notes.len() == 1 && notes[0].contains(expected), "{architecture}: {notes:?}");
        }
        for (architecture, keys, tensors) in [
            ("llama", &[("attention.sliding_window", 4096.0)][..], &["output.weight", "rope_freqs.weight"][..]),
            ("phi3", &[("attention.sliding_window", 0.0)], &["rope_factors_long.weight", "output.weight"]),
            ("qwen3", &[("rope.scaling.yarn_beta_fast", 32.0)], &["output.weight", "output_norm.weight"]),
            ("gpt2", &[], &["blk.0.attn_output.bias"]),
            ("own", &[], &["output.weight"]),
        ] {
            assert_eq!(said(architecture, keys, tensors), Vec::<String>::new(), "{architecture}");
        }
    }
}
