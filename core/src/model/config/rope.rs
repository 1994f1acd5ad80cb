//! Keys about rotary positions, read as llama.cpp reads them.
//!
//! A scaling factor without a type is linear, `attn_factor` holds for every type, and zero stands for "not given" in the
//! factor, the original context and the betas of YaRN.

use super::keys::Keys;
use crate::kernels::RopeStyle;
use crate::model::ModelError;
use crate::ops::{LongRope, Rope, RopeScaling};

/// The tensors of the two sets of LongRoPE.
pub(in crate::model) const LONG_SETS: [&str; 2] = ["rope_factors_short.weight", "rope_factors_long.weight"];

/// YaRN's betas, where a file has none: `beta_fast`, `beta_slow`. llama.cpp knows no others.
pub(super) const BETAS: [(&str, f32); 2] =
    [("rope.scaling.yarn_beta_fast", 32.0), ("rope.scaling.yarn_beta_slow", 1.0)];

impl Keys<'_> {
    /// The rotary embedding of heads of `head_dim` elements. The factors, which are tensors, are filled in by the loader.
    pub(super) fn rope(&self, style: RopeStyle, head_dim: usize, n_ctx: usize) -> Result<Rope, ModelError> {
        let rotated = self.optional_size("rope.dimension_count")?.unwrap_or(head_dim);
        if rotated > head_dim || !rotated.is_multiple_of(2) {
            let expected = format!("must be even and at most the head's {head_dim}");
            return Err(self.bad("rope.dimension_count", rotated, expected));
        }
        let base = f64::from(self.positive("rope.freq_base")?.unwrap_or(10_000.0));
        if base <= 1.0 {
            return Err(self.bad("rope.freq_base", base, "must be above 1".into()));
        }
        let original_context = self.size_unless_zero("rope.scaling.original_context_length")?.unwrap_or(n_ctx) as u32;
        let has_sets = LONG_SETS.iter().any(|set| self.has_tensor(set));
        let kind = self.scaling_type()?;
        // llama.cpp gives Phi-3 its sets whatever the type says, as writers of Phi-3 files give no type.
        let long = kind == Some("longrope") || has_sets && (kind.is_none() || self.prefix == "phi3");
        let scaling = match kind {
            Some("none") => RopeScaling::None,
            Some("yarn") => {
                let beta = |(key, usual): (&str, f32)| -> Result<f64, ModelError> {
                    Ok(f64::from(self.unless_zero(key)?.unwrap_or(usual)))
                };
                RopeScaling::Yarn {
                    factor: self.scaling_factor()?.unwrap_or(1.0),
                    original_context,
                    beta_fast: beta(BETAS[0])?,
                    beta_slow: beta(BETAS[1])?,
                }
            }
            // What a factor without a type means, and with LongRoPE, whose sets come before.
            _ => match self.scaling_factor()? {
                None | Some(1.0) => RopeScaling::None,
                Some(factor) => RopeScaling::Linear { factor },
            },
        };
        Ok(Rope {
            scaling,
            attention_factor: self.positive("rope.scaling.attn_factor")?.map_or(1.0, f64::from),
            long: long.then(|| LongRope { short: Vec::new(), long: Vec::new(), original_context }),
            ..Rope::plain(style, rotated, base)
        })
    }

    /// What the file says of its scaling, one of those known; `None` where it says nothing.
    fn scaling_type(&self) -> Result<Option<&'static str>, ModelError> {
        let name = "rope.scaling.type";
        if !self.contains(name) {
            return Ok(None);
        }
        match self.metadata.require_str(&self.key(name))? {
            "none" | "" => Ok(Some("none")),
            "linear" => Ok(Some("linear")),
            "yarn" => Ok(Some("yarn")),
            "longrope" => Ok(Some("longrope")),
            other => Err(self.bad(name, format!("{other:?}"), "must be none, linear, yarn or longrope".into())),
        }
    }

    /// How many times longer the context becomes; `None` where no key says it, or one says 0.
    fn scaling_factor(&self) -> Result<Option<f64>, ModelError> {
        // The second is the key of files from before scaling had a type. It counts only where the first is absent.
        let keys = ["rope.scaling.factor", "rope.scale_linear"];
        match keys.into_iter().find(|key| self.contains(key)) {
            Some(key) => Ok(self.unless_zero(key)?.map(f64::from)),
            None => Ok(None),
        }
    }
}
