//! Names of tensors without what wrappers add to them: torch.compile, DistributedDataParallel, FSDP, activation checkpointing,
//! Lightning Fabric and PEFT save a model under longer names, which mean the same tensors.
//!
//! Not here: which tensor a name means (`family.rs`).

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};

use super::Checkpoint;

/// Parts that wrappers put anywhere into a name, with the wrapper that does.
const ANYWHERE: &[(&str, &str)] = &[
    ("_orig_mod", "torch.compile"),
    ("_fsdp_wrapped_module", "FSDP"),
    ("_checkpoint_wrapped_module", "activation checkpointing"),
    ("base_layer", "PEFT"),
];

/// What wrappers put before a name.
const LEADING: &[(&str, &str)] =
    &[("module.", "DistributedDataParallel"), ("_forward_module.", "Lightning Fabric"), ("base_model.model.", "PEFT")];

/// Parts of names that only tensors of an adapter have.
const ADAPTER: &[&str] = &["modules_to_save", "original_module", "prompt_embeddings", "prompt_encoder"];
/// How parts of names begin that only tensors of an adapter have.
const ADAPTER_PARTS: &[&str] = &["lora_", "ia3_", "hada_", "lokr_", "oft_", "vera_"];

/// The tensors of a checkpoint by their bare names: without wrappers, and without the name of the model within its class.
pub(super) struct Names<'a> {
    prefix: &'static str,
    by_bare: BTreeMap<String, &'a str>,
    /// Wrappers that were found, as `PART (WRAPPER)`.
    pub wrappers: BTreeSet<String>,
}

impl<'a> Names<'a> {
    /// Of all tensors; `prefix` is the family's.
    ///
    /// # Errors
    /// Tensors of an adapter that was not merged; two tensors that mean the same.
    pub fn of(checkpoint: &'a Checkpoint, prefix: &'static str) -> Result<Self> {
        let mut names = Self { prefix, by_bare: BTreeMap::new(), wrappers: BTreeSet::new() };
        for name in checkpoint.names() {
            let adapter =
                |part: &str| ADAPTER.contains(&part) || ADAPTER_PARTS.iter().any(|begin| part.starts_with(begin));
            if name.split('.').any(adapter) {
                bail!(
                    "{} belongs to an adapter (LoRA or another of PEFT's) that is not merged into the weights; merge it with \
                     PEFT's merge_and_unload() and save the whole model",
                    checkpoint.place(name)
                );
            }
            let bare = bare(name, prefix, &mut names.wrappers);
            if let Some(other) = names.by_bare.insert(bare, name) {
                bail!("{} and {other} are the same tensor of the model; keep one of them", checkpoint.place(name));
            }
        }
        Ok(names)
    }

    /// The tensor of the checkpoint that this name means.
    pub fn find(&self, name: &str) -> Option<&'a str> {
        self.by_bare.get(self.bare(name).as_str()).copied()
    }

    /// A name without wrappers and prefixes.
    pub fn bare(&self, name: &str) -> String {
        bare(name, self.prefix, &mut BTreeSet::new())
    }
}

fn bare(name: &str, prefix: &str, wrappers: &mut BTreeSet<String>) -> String {
    let found = |part: &str| ANYWHERE.iter().find(|(wrapper, _)| *wrapper == part);
    let mut parts = Vec::new();
    for part in name.split('.') {
        match found(part) {
            Some((part, wrapper)) => {
                wrappers.insert(format!("{part} ({wrapper})"));
            }
            None => parts.push(part),
        }
    }
    let name = parts.join(".");
    let mut rest = name.as_str();
    loop {
        if let Some((leading, wrapper)) = LEADING.iter().find(|(leading, _)| rest.starts_with(leading)) {
            wrappers.insert(format!("{} ({wrapper})", leading.trim_end_matches('.')));
            rest = &rest[leading.len()..];
        } else if let Some(after) = rest.strip_prefix(prefix).or_else(|| rest.strip_prefix("model.")) {
            rest = after;
        } else {
            return rest.to_owned();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrappers_and_prefixes_are_taken_off() {
        for (name, prefix, expected) in [
            ("model.layers.0.mlp.up_proj.weight", "model.", "layers.0.mlp.up_proj.weight"),
            ("model.model.norm.weight", "model.", "norm.weight"),
            ("_orig_mod.model.norm.weight", "model.", "norm.weight"),
            ("model._orig_mod.layers.3._orig_mod.mlp.up_proj.weight", "model.", "layers.3.mlp.up_proj.weight"),
            ("module._orig_mod.lm_head.weight", "model.", "lm_head.weight"),
            ("_forward_module.module.model.norm.weight", "model.", "norm.weight"),
            (
                "base_model.model.model.layers.1.self_attn.q_proj.base_layer.weight",
                "model.",
                "layers.1.self_attn.q_proj.weight",
            ),
            (
                "_fsdp_wrapped_module.model.layers.1._checkpoint_wrapped_module.mlp.up_proj.weight",
                "model.",
                "layers.1.mlp.up_proj.weight",
            ),
            ("transformer.h.0.ln_1.bias", "transformer.", "h.0.ln_1.bias"),
            ("h.0.ln_1.bias", "transformer.", "h.0.ln_1.bias"),
            ("module.transformer.wte.weight", "transformer.", "wte.weight"),
        ] {
            assert_eq!(bare(name, prefix, &mut BTreeSet::new()), expected, "{name}");
        }
        let mut wrappers = BTreeSet::new();
        bare("module._orig_mod.norm.weight", "model.", &mut wrappers);
        let found: Vec<&str> = wrappers.iter().map(String::as_str).collect();
        assert_eq!(found, ["_orig_mod (torch.compile)", "module (DistributedDataParallel)"]);
    }
}
