//! Rotary positions: from config.json to the keys and tensors of a GGUF that say how positions are rotated and stretched.
//!
//! A configuration may give them for each type of layer; a GGUF of these architectures has one set for all layers, so those that
//! the layers use must agree. Not here: what the runtime computes of them (`sterna_core::ops`).

use anyhow::{Result, bail};
use serde_json::Value;
use sterna_core::gguf::Metadata;

use super::config::Config;
use super::family::{Defaults, Style};

/// How positions are rotated.
#[derive(Clone, Debug)]
pub struct Rope {
    /// The section of config.json that says so.
    section: Config,
    scaling: Scaling,
    /// The base of the frequencies.
    pub base: f64,
    /// Elements of a head that are rotated, an even number.
    pub rotated: usize,
    /// Tokens of context.
    context: usize,
    /// Tokens of context that the model was first trained for.
    original: usize,
}

/// How frequencies are stretched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scaling {
    /// Not at all.
    None,
    Linear,
    /// Low frequencies divided, high ones kept, by a tensor of factors (Llama 3.1).
    Llama3,
    Yarn,
    /// Two sets of factors, for short and for long texts.
    LongRope,
}

impl Rope {
    /// Of a configuration; heads have `head` elements. What config.json does not have goes into `assumed` with its default.
    ///
    /// # Errors
    /// A section that is malformed, a scaling that is not known, layers that rotate differently.
    pub fn of(
        style: Style,
        defaults: &Defaults,
        config: &Config,
        head: usize,
        context: usize,
        assumed: &mut Vec<String>,
    ) -> Result<Self> {
        let section = section(config)?;
        const SHARE: &str = "partial_rotary_factor";
        // Where a key is read from.
        let whose = |key: &str| if section.find(key).is_some() { &section } else { config };
        let share = whose(SHARE).float(SHARE)?.unwrap_or(1.0);
        if !(share > 0.0 && share <= 1.0) || share != 1.0 && style != Style::Phi3 {
            return Err(whose(SHARE)
                .wrong(SHARE, "it must be above 0 and at most 1, and only Phi-3 models may have less than 1"));
        }
        let rotated = (head as f64 * share) as usize;
        if rotated == 0 || !rotated.is_multiple_of(2) {
            bail!(
                "{}: {rotated} of the {head} elements of a head are to be rotated ({SHARE} {share}), which are no pairs",
                config.path().display()
            );
        }
        let base = match whose("rope_theta").float("rope_theta")? {
            Some(base) => base,
            None => {
                assumed.push(format!("rope_theta {}", defaults.theta));
                defaults.theta
            }
        };
        if base <= 1.0 {
            return Err(whose("rope_theta").wrong("rope_theta", "it must be above 1"));
        }
        let scaling = scaling(style, &section)?;
        let original_key = "original_max_position_embeddings";
        let (inner, outer) = (section.optional_size(&[original_key])?, config.optional_size(&[original_key])?);
        // Phi-3's class has the key of its own, before that of the section.
        let original = match style {
            Style::Phi3 => outer.or(inner).unwrap_or_else(|| {
                if scaling == Scaling::LongRope {
                    assumed.push(format!("{original_key} {}", defaults.context));
                }
                if scaling == Scaling::LongRope { defaults.context } else { context }
            }),
            _ => inner.or(outer).unwrap_or(context),
        };
        Ok(Self { section, scaling, base, rotated, context, original })
    }

    /// Tensors of factors, by their names in a GGUF.
    ///
    /// # Errors
    /// If the scaling lacks a number, or a list has a wrong length.
    pub fn factors(&self) -> Result<Vec<(String, Vec<f32>)>> {
        match self.scaling {
            Scaling::Llama3 => Ok(vec![("rope_freqs.weight".into(), self.llama3()?)]),
            Scaling::LongRope => {
                let mut factors = Vec::new();
                for set in ["long", "short"] {
                    let key = format!("{set}_factor");
                    let values = self.section.floats(&key)?.unwrap_or_default();
                    if values.len() != self.rotated / 2 || !values.iter().all(|factor| *factor > 0.0) {
                        let expected = format!("it must be {} positive numbers", self.rotated / 2);
                        return Err(self.section.wrong(&key, expected));
                    }
                    factors.push((format!("rope_factors_{set}.weight"), values));
                }
                Ok(factors)
            }
            Scaling::None | Scaling::Linear | Scaling::Yarn => Ok(Vec::new()),
        }
    }

    /// By how much each frequency is divided: low ones by the factor, high ones not at all, those between by something between
    /// (Llama 3.1's scaling).
    fn llama3(&self) -> Result<Vec<f32>> {
        let number = |key: &str| -> Result<f64> {
            let value = self.section.float(key)?.filter(|&value| value > 0.0);
            value.ok_or_else(|| self.section.wrong(key, "scaling by llama3 needs it, a positive number"))
        };
        let (factor, low, high) = (number("factor")?, number("low_freq_factor")?, number("high_freq_factor")?);
        let original = self.original as f64;
        if low >= high {
            return Err(self.section.wrong("high_freq_factor", format!("it must be above low_freq_factor, {low}")));
        }
        let of_pair = |i: usize| {
            let wavelength = std::f64::consts::TAU * self.base.powf((2 * i) as f64 / self.rotated as f64);
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

    /// Sets the keys.
    ///
    /// # Errors
    /// If the scaling lacks a number, or asks for a variant that no key names.
    pub fn write(&self, style: Style, architecture: &str, metadata: &mut Metadata) -> Result<()> {
        let key = |part: &str| format!("{architecture}.rope.{part}");
        let rope = &self.section;
        metadata.insert(key("dimension_count"), self.rotated as u32);
        metadata.insert(key("freq_base"), self.base as f32);
        match self.scaling {
            // llama.cpp's files of BitNet and Phi-3 have these keys also without a scaling.
            Scaling::None | Scaling::Llama3 => match style {
                Style::BitNet => {
                    metadata.insert(key("scaling.type"), "linear");
                    metadata.insert(key("scaling.factor"), 1.0f32);
                }
                Style::Phi3 => metadata.insert(key("scaling.original_context_length"), self.original as u32),
                _ => {}
            },
            Scaling::Linear => {
                metadata.insert(key("scaling.type"), "linear");
                metadata.insert(key("scaling.factor"), self.factor()? as f32);
            }
            Scaling::Yarn => {
                let factor = self.factor()?;
                metadata.insert(key("scaling.type"), "yarn");
                metadata.insert(key("scaling.factor"), factor as f32);
                metadata.insert(key("scaling.original_context_length"), self.original as u32);
                for beta in ["beta_fast", "beta_slow"] {
                    if let Some(value) = rope.float(beta)? {
                        metadata.insert(key(&format!("scaling.yarn_{beta}")), value as f32);
                    }
                }
                if rope.switch("truncate")? == Some(false) {
                    return Err(rope.wrong("truncate", "this variant of YaRN is not supported"));
                }
                // Readers multiply by this themselves.
                let usual = yarn_magnitude(factor, 1.0);
                let attention =
                    match (rope.float("attention_factor")?, rope.float("mscale")?, rope.float("mscale_all_dim")?) {
                        (Some(attention), ..) => Some(attention),
                        (None, Some(part), Some(all)) if part != 0.0 && all != 0.0 => {
                            Some(yarn_magnitude(factor, part) / yarn_magnitude(factor, all))
                        }
                        _ => None,
                    };
                if let Some(attention) = attention {
                    metadata.insert(key("scaling.attn_factor"), (attention / usual) as f32);
                }
            }
            Scaling::LongRope => {
                let original = self.original as f64;
                let stretch = rope.float("factor")?.unwrap_or(self.context as f64 / original);
                let usual = if stretch <= 1.0 { 1.0 } else { (1.0 + stretch.ln() / original.ln()).sqrt() };
                let attention = rope.float("attention_factor")?.unwrap_or(usual);
                // Without the type llama.cpp finds no place for the factors of a Llama.
                metadata.insert(key("scaling.type"), "longrope");
                metadata.insert(key("scaling.original_context_length"), self.original as u32);
                metadata.insert(key("scaling.attn_factor"), attention as f32);
            }
        }
        Ok(())
    }

    fn factor(&self) -> Result<f64> {
        let factor = self.section.float("factor")?.filter(|&factor| factor >= 1.0);
        factor.ok_or_else(|| self.section.wrong("factor", "it must be a number from 1 on"))
    }
}

/// By what YaRN multiplies cosines and sines.
fn yarn_magnitude(factor: f64, share: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * share * factor.ln() + 1.0 }
}

fn scaling(style: Style, section: &Config) -> Result<Scaling> {
    let key = if section.find("rope_type").is_some() { "rope_type" } else { "type" };
    let name = match section.find(key) {
        None => "default",
        Some(Value::String(name)) => name,
        Some(_) => return Err(section.wrong(key, "it must be the name of a scaling")),
    };
    Ok(match name {
        // Up to the context that the model was made for "dynamic" is no scaling; beyond it nothing is promised.
        "default" | "none" | "dynamic" => Scaling::None,
        "linear" => Scaling::Linear,
        "llama3" => Scaling::Llama3,
        // Earlier versions of Phi-3's class called LongRoPE so.
        "yarn" if style != Style::Phi3 => Scaling::Yarn,
        "longrope" | "su" | "yarn" => Scaling::LongRope,
        other => {
            let known = "default, linear, dynamic, llama3, yarn and longrope are";
            return Err(section.wrong(key, format!("scaling of positions by {other} is not supported; {known}")));
        }
    })
}

/// The section about rotary positions, empty if there is none: `rope_scaling` of older files where it says something, as in
/// `transformers`, else `rope_parameters`.
fn section(config: &Config) -> Result<Config> {
    let older =
        config.find("rope_scaling").is_some_and(|value| value.as_object().is_none_or(|entries| !entries.is_empty()));
    let key = if older { "rope_scaling" } else { "rope_parameters" };
    if config.find(key).is_some_and(|value| !value.is_object()) {
        return Err(config.wrong(key, "it must be an object"));
    }
    let section = config.section(key);
    let nested: Vec<&str> = section.entries().filter(|(_, value)| value.is_object()).map(|(name, _)| name).collect();
    if nested.is_empty() {
        return Ok(section);
    }
    // Those of the types that layers have, or all where config.json does not list the layers.
    let listed = config.find("layer_types").and_then(Value::as_array);
    let mut types: Vec<&str> = listed.map_or(nested, |types| types.iter().filter_map(Value::as_str).collect());
    types.sort_unstable();
    types.dedup();
    if let Some(missing) = types.iter().find(|name| section.find(name).is_none_or(|value| !value.is_object())) {
        return Err(config.wrong(key, format!("it says nothing of layers of the type {missing}")));
    }
    let Some((first, rest)) = types.split_first() else {
        return Err(config.wrong("layer_types", "it names no layers"));
    };
    if let Some(other) = rest.iter().find(|other| section.find(other) != section.find(first)) {
        return Err(config.wrong(
            key,
            format!(
                "layers of the types {first} and {other} rotate positions differently, which no key of a GGUF says"
            ),
        ));
    }
    Ok(section.section(first))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::family::Family;
    use super::*;

    fn rope(class: &str, more: Value) -> (Result<Rope>, Vec<String>) {
        let mut value = json!({"architectures": [class]});
        value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let config = Config::new("config.json".into(), value).unwrap();
        let family = Family::of(&config).unwrap();
        let mut assumed = Vec::new();
        (Rope::of(family.style, &family.defaults, &config, 16, 1024, &mut assumed), assumed)
    }

    fn written(class: &str, style: Style, more: Value) -> Metadata {
        let mut metadata = Metadata::new();
        rope(class, more).0.unwrap().write(style, "x", &mut metadata).unwrap();
        metadata
    }

    /// The defaults are those of `transformers` 5.23: `AutoConfig.for_model(...).rope_parameters["rope_theta"]`.
    #[test]
    fn without_rope_theta_each_class_has_its_default() {
        for (class, theta) in [
            ("LlamaForCausalLM", 10_000.0),
            ("MistralForCausalLM", 10_000.0),
            ("Qwen2ForCausalLM", 10_000.0),
            ("Qwen3ForCausalLM", 10_000.0),
            ("Phi3ForCausalLM", 10_000.0),
            ("BitNetForCausalLM", 500_000.0),
        ] {
            let (rope, assumed) = rope(class, json!({}));
            assert_eq!((rope.unwrap().base, assumed), (theta, vec![format!("rope_theta {theta}")]), "{class}");
        }
        let (given, assumed) = rope("BitNetForCausalLM", json!({"rope_theta": 7.0}));
        assert_eq!((given.unwrap().base, assumed.len()), (7.0, 0));
    }

    #[test]
    fn one_set_for_all_types_of_layers_is_read_and_several_are_refused() {
        let (full, other) = (json!({"rope_type": "default", "rope_theta": 1e6}), json!({"rope_theta": 1e4}));
        let types = json!(["full_attention", "full_attention"]);
        for parameters in [
            json!({"full_attention": full.clone()}),
            json!({"full_attention": full.clone(), "sliding_attention": other.clone()}),
            json!({"full_attention": full.clone(), "sliding_attention": full.clone()}),
        ] {
            let more = json!({"rope_parameters": parameters, "layer_types": types.clone()});
            let (rope, assumed) = rope("Qwen3ForCausalLM", more);
            assert_eq!((rope.unwrap().base, assumed.len()), (1e6, 0));
        }
        let refused = |more: Value| rope("Qwen3ForCausalLM", more).0.unwrap_err().to_string();
        let both = json!({"full_attention": full, "sliding_attention": other});
        let mixed = json!(["full_attention", "sliding_attention"]);
        let error = refused(json!({"rope_parameters": both, "layer_types": mixed}));
        assert!(error.contains("full_attention and sliding_attention rotate positions differently"), "{error}");
        // Without a list of layers nothing says which of them holds.
        assert!(refused(json!({"rope_parameters": both})).contains("differently"));
        let error =
            refused(json!({"rope_parameters": {"full_attention": both["full_attention"]}, "layer_types": mixed}));
        assert!(error.contains("nothing of layers of the type sliding_attention"), "{error}");
        assert!(refused(json!({"rope_parameters": "default"})).contains("must be an object"));
        assert!(refused(json!({"rope_parameters": {"rope_type": 3}})).contains("the name of a scaling"));
    }

    #[test]
    fn a_number_that_cannot_be_is_named_with_its_value_wherever_it_is() {
        for (more, said) in [
            (json!({"rope_parameters": {"rope_theta": 0}}), "config.json: rope_theta is 0; it must be above 1"),
            (json!({"rope_theta": 0}), "config.json: rope_theta is 0; it must be above 1"),
            (json!({"rope_parameters": {"partial_rotary_factor": 0.5}}), "config.json: partial_rotary_factor is 0.5; "),
            (json!({"partial_rotary_factor": 0.5}), "config.json: partial_rotary_factor is 0.5; "),
        ] {
            let error = rope("LlamaForCausalLM", more).0.unwrap_err().to_string();
            assert!(error.starts_with(said), "{error}");
        }
        let error = rope("Phi3ForCausalLM", json!({"partial_rotary_factor": 0.2})).0.unwrap_err().to_string();
        assert!(error.contains("3 of the 16 elements"), "{error}");
    }

    /// Magnitudes as `_compute_yarn_parameters` and `_compute_longrope_parameters` of `transformers` 5.23 give them.
    #[test]
    fn scalings_are_written_with_their_type_and_magnitude() {
        let float = |metadata: &Metadata, key: &str| metadata.f32(key).map(f64::from);
        let factors = json!(vec![1.0; 8]);
        let long = json!({"rope_type": "longrope", "short_factor": factors, "long_factor": factors,
            "original_max_position_embeddings": 256});
        let metadata = written("LlamaForCausalLM", Style::Llama, json!({"rope_parameters": long}));
        assert_eq!(metadata.str("x.rope.scaling.type"), Some("longrope"));
        assert!((float(&metadata, "x.rope.scaling.attn_factor").unwrap() - 1.118_033_988).abs() < 1e-6);
        let yarn = |more: Value| {
            let mut yarn = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64});
            yarn.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            written("Qwen3ForCausalLM", Style::Qwen3, json!({"rope_parameters": yarn}))
        };
        assert_eq!(float(&yarn(json!({})), "x.rope.scaling.attn_factor"), None);
        // 0.8 of what readers multiply by anyway; 1.098042 / 1.138629 by mscale 0.707 and mscale_all_dim 1.
        let given = float(&yarn(json!({"attention_factor": 0.8})), "x.rope.scaling.attn_factor").unwrap();
        assert!((given - 0.8 / 1.138_629_436).abs() < 1e-6, "{given}");
        let scaled =
            float(&yarn(json!({"mscale": 0.707, "mscale_all_dim": 1.0})), "x.rope.scaling.attn_factor").unwrap();
        assert!((scaled - 1.098_011_011 / 1.138_629_436 / 1.138_629_436).abs() < 1e-6, "{scaled}");
        assert!(
            rope("LlamaForCausalLM", json!({"rope_parameters": {"rope_type": "llama3"}})).0.unwrap().factors().is_err()
        );
    }

    /// Phi-3's class has a default of its own for the context of its first training.
    #[test]
    fn phi3_takes_its_own_original_context_first() {
        let long = json!({"rope_type": "su", "original_max_position_embeddings": 300});
        let (both, _) = rope("Phi3ForCausalLM", json!({"rope_scaling": long, "original_max_position_embeddings": 200}));
        assert_eq!(both.unwrap().original, 200);
        let (none, assumed) = rope("Phi3ForCausalLM", json!({"rope_scaling": {"type": "yarn"}, "rope_theta": 1e4}));
        assert_eq!((none.unwrap().original, assumed), (4096, vec!["original_max_position_embeddings 4096".to_owned()]));
    }
}
