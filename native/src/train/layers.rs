//! Layers over the operations: projections with ternary weights, and the norms before them.

use anyhow::{Result, bail};
use candle_core::{Tensor, Var};
use serde::{Deserialize, Serialize};
use sterna_core::model::NormKind;
use sterna_core::ternary::{Granularity, Method, Rule};

use super::ops::{self, AttentionShape, Quantization};
use super::parameters::{Kind, Parameters};
use super::trainer::Step;

/// How weights and activations of projections are quantized.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuantizationConfig {
    /// `absmean`, `threshold`, `threshold:SHARE`, `sign`, or `none` for float weights and activations.
    pub method: String,
    /// What shares a scale: `64`, `128`, `256` columns, `row`, `tensor`.
    pub group: String,
    /// Round weights at random while training.
    pub stochastic_rounding: bool,
}

impl Default for QuantizationConfig {
    fn default() -> Self {
        Self { method: Method::Absmean.to_string(), group: "64".into(), stochastic_rounding: false }
    }
}

impl QuantizationConfig {
    /// The rule; `None` for float weights.
    ///
    /// # Errors
    /// If a name is not known.
    pub fn rule(&self) -> Result<Option<Rule>> {
        if self.method == "none" {
            return Ok(None);
        }
        let (method, granularity): (Method, Granularity) = (self.method.parse()?, self.group.parse()?);
        Ok(Some(Rule { method, granularity }))
    }
}

/// How projections are quantized, as layers hold it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantizer {
    /// The rule; `None` for float weights.
    pub rule: Option<Rule>,
    /// Round weights at random while training.
    pub stochastic_rounding: bool,
}

impl Quantizer {
    /// From what was configured.
    ///
    /// # Errors
    /// If a name is not known.
    pub fn new(config: &QuantizationConfig) -> Result<Self> {
        Ok(Self { rule: config.rule()?, stochastic_rounding: config.stochastic_rounding })
    }

    /// Columns that share an activation scale before a projection of `cols`; `None` where activations stay float.
    ///
    /// # Errors
    /// If groups do not fill a row.
    pub fn activation_group(&self, cols: usize, step: &Step) -> Result<Option<usize>> {
        match self.rule {
            Some(rule) if step.ternary > 0.0 => Ok(Some(rule.group(cols)?)),
            _ => Ok(None),
        }
    }
}

/// A variable's value, tracked only while training.
pub fn value(var: &Var, step: &Step) -> Tensor {
    if step.training { var.as_tensor().clone() } else { var.as_detached_tensor() }
}

/// One or more projections of the same input, their weights stacked `[sum of rows, cols]`.
#[derive(Clone, Debug)]
pub struct Projection {
    weight: Var,
    /// `[sum of rows]`
    bias: Option<Var>,
    /// Name in the GGUF and rows of each matrix in the stack.
    parts: Vec<(String, usize)>,
    cols: usize,
    quantizer: Quantizer,
    /// Place of its random bits.
    place: u64,
}

impl Projection {
    /// With weights from a normal distribution, and biases of 0 where there are to be any. The parameter has the names of its
    /// parts, joined by `+`.
    ///
    /// # Errors
    /// If groups do not fill a row of `cols`.
    pub fn new(
        parameters: &mut Parameters,
        parts: &[(String, usize)],
        cols: usize,
        deviation: f32,
        biased: bool,
        quantizer: Quantizer,
    ) -> Result<Self> {
        if let Some(rule) = quantizer.rule {
            rule.group(cols)?;
        }
        let rows: usize = parts.iter().map(|(_, rows)| rows).sum();
        if rows == 0 || cols == 0 {
            bail!("a projection of {cols} to {rows} features");
        }
        let names: Vec<_> = parts.iter().map(|(name, _)| name.as_str()).collect();
        let place = parameters.iter().count() as u64;
        let weight = parameters.normal(&names.join("+"), Kind::Matrix, (rows, cols), deviation)?;
        let bias = match biased {
            true => {
                let names: Vec<_> = names.iter().map(|name| bias_of(name)).collect();
                Some(parameters.constant(&names.join("+"), Kind::Vector, rows, 0.0)?)
            }
            false => None,
        };
        Ok(Self { weight, bias, parts: parts.to_vec(), cols, quantizer, place })
    }

    /// Columns that share a scale of the activations that [`Projection::forward`] wants; `None` for float ones.
    ///
    /// # Errors
    /// None: groups were checked when it was made.
    pub fn activation_group(&self, step: &Step) -> Result<Option<usize>> {
        self.quantizer.activation_group(self.cols, step)
    }

    /// The product with `x`, `[rows, cols]`, whose activations are quantized already.
    ///
    /// # Errors
    /// If shapes do not go together, or a weight is not finite.
    pub fn forward(&self, x: &Tensor, step: &Step) -> Result<Tensor> {
        let weight = value(&self.weight, step);
        let y = match self.quantizer.rule.filter(|_| step.ternary > 0.0) {
            None => ops::linear(x, &weight)?,
            Some(rule) => {
                let at_random = self.quantizer.stochastic_rounding && step.training;
                let random = at_random.then(|| step.stream(1 << 32 | self.place));
                let rows: Vec<_> = self.parts.iter().map(|(_, rows)| *rows).collect();
                ops::ternary_linear(x, &weight, &rows, &Quantization { rule, share: step.ternary, random })?
            }
        };
        Ok(match &self.bias {
            Some(bias) => ops::add_bias(&y, &value(bias, step))?,
            None => y,
        })
    }

    /// The float weights of each part, by name: what is exported by the rule.
    ///
    /// # Errors
    /// None that can be foreseen.
    pub fn parts(&self) -> Result<Vec<(String, Tensor)>> {
        self.cut(&self.weight, |name| name.to_owned())
    }

    /// The biases of each part, by name.
    ///
    /// # Errors
    /// None that can be foreseen.
    pub fn biases(&self) -> Result<Vec<(String, Tensor)>> {
        self.bias.as_ref().map_or_else(|| Ok(Vec::new()), |bias| self.cut(bias, bias_of))
    }

    fn cut(&self, stack: &Var, name_of: impl Fn(&str) -> String) -> Result<Vec<(String, Tensor)>> {
        let mut first = 0;
        let mut parts = Vec::new();
        for (name, rows) in &self.parts {
            parts.push((name_of(name), stack.as_detached_tensor().narrow(0, first, *rows)?));
            first += rows;
        }
        Ok(parts)
    }

    /// How it is quantized.
    pub fn rule(&self) -> Option<Rule> {
        self.quantizer.rule
    }
}

/// The name of the bias that goes with weights of this name.
fn bias_of(weight: &str) -> String {
    format!("{}.bias", weight.strip_suffix(".weight").unwrap_or(weight))
}

/// A norm before a projection.
#[derive(Clone, Debug)]
pub struct Norm {
    weight: Var,
    /// Of layer norms; RMS norms have none.
    bias: Option<Var>,
    name: String,
    eps: f32,
}

impl Norm {
    /// With weights of 1, and biases of 0 if it is a layer norm.
    ///
    /// # Errors
    /// If the name is taken.
    pub fn new(parameters: &mut Parameters, name: &str, kind: NormKind, cols: usize, eps: f32) -> Result<Self> {
        let weight = parameters.constant(name, Kind::Vector, cols, 1.0)?;
        let bias = match kind {
            NormKind::Rms => None,
            NormKind::Layer => Some(parameters.constant(&bias_of(name), Kind::Vector, cols, 0.0)?),
        };
        Ok(Self { weight, bias, name: name.into(), eps })
    }

    /// Norms `x`, `[rows, cols]`, and quantizes the result in groups if asked to.
    ///
    /// # Errors
    /// If shapes do not go together.
    pub fn forward(&self, x: &Tensor, quantize: Option<usize>, step: &Step) -> Result<Tensor> {
        let weight = value(&self.weight, step);
        Ok(match &self.bias {
            None => ops::rms_norm(x, &weight, self.eps, quantize)?,
            Some(bias) => ops::layer_norm(x, &weight, &value(bias, step), self.eps, quantize)?,
        })
    }

    /// Names and values for the export.
    pub fn parts(&self) -> Vec<(String, Tensor)> {
        let weight = (self.name.clone(), self.weight.as_detached_tensor());
        let bias = self.bias.as_ref().map(|bias| (bias_of(&self.name), bias.as_detached_tensor()));
        [Some(weight), bias].into_iter().flatten().collect()
    }
}

/// RMS norms on the heads of queries and of keys.
#[derive(Clone, Debug)]
pub struct HeadNorms {
    q: Norm,
    k: Norm,
}

impl HeadNorms {
    /// With weights of 1, `[head_dim]` each.
    ///
    /// # Errors
    /// If a name is taken.
    pub fn new(parameters: &mut Parameters, q: &str, k: &str, head_dim: usize, eps: f32) -> Result<Self> {
        Ok(Self {
            q: Norm::new(parameters, q, NormKind::Rms, head_dim, eps)?,
            k: Norm::new(parameters, k, NormKind::Rms, head_dim, eps)?,
        })
    }

    /// Norms the heads within `x`, `[rows, (heads + 2 kv_heads) * head_dim]`.
    ///
    /// # Errors
    /// If shapes do not go together.
    pub fn forward(&self, x: &Tensor, shape: AttentionShape, step: &Step) -> Result<Tensor> {
        let (q, k) = (value(&self.q.weight, step), value(&self.k.weight, step));
        Ok(ops::head_norms(x, &q, &k, shape, self.q.eps)?)
    }

    /// The two norms.
    pub fn norms(&self) -> [&Norm; 2] {
        [&self.q, &self.k]
    }
}
