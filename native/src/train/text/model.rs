//! A decoder that is trained: the blocks of the runtime's architectures as differentiable steps. What it is made of is the runtime's
//! own [`Config`] and table of architectures, for a new model from a [`ModelConfig`], for others from their checkpoint.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use candle_core::{Tensor, Var};
use serde::{Deserialize, Serialize};
use sterna_core::formats::Format;
use sterna_core::formats::half::f16_to_f32;
use sterna_core::gguf::Metadata;
use sterna_core::kernels::Activation;
use sterna_core::model::{self, Config, NormKind};
use sterna_core::ops::Rope;
use sterna_core::ternary::Rule;

use crate::train::export::{self, Exported, Stored};
use crate::train::hyper_connections::{self, HyperConnection};
use crate::train::layers::{HeadNorms, Norm, Projection, Quantizer, value};
use crate::train::memory::{DecoderSizes, Memory};
use crate::train::ops::{self, AttentionShape, Rotation};
use crate::train::parameters::{Kind, Parameters};
use crate::train::settings::Setting;
use crate::train::trainer::Step;

/// The architectures of new models.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// RMS norms before every ternary projection; output tied to the embedding.
    #[default]
    Bitnet,
    /// The plain Llama block; tied or not.
    Llama,
}

/// The shape of a new decoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// Which of the runtime's architectures.
    pub architecture: Architecture,
    /// Blocks.
    pub layers: usize,
    /// Features of a token.
    pub width: usize,
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Features inside the feed-forward layer.
    pub ffn: usize,
    /// Whether the output uses the embedding's weights.
    pub tied: bool,
    /// Residual streams: 1, or 2 or 4 with hyper-connections (bitnet's block, exported as the architecture `sterna`).
    pub hyper_connections: usize,
    /// Base of the rotary angles.
    pub rope_base: f32,
    /// Added to mean squares in norms.
    pub eps: f32,
    /// Probability with which the embedding's and each block's outputs are dropped in training.
    pub dropout: f32,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            architecture: Architecture::Bitnet,
            layers: 6,
            width: 256,
            heads: 4,
            kv_heads: 4,
            ffn: 768,
            tied: true,
            hyper_connections: 1,
            rope_base: 10_000.0,
            eps: 1e-5,
            dropout: 0.1,
        }
    }
}

/// What a decoder is made of, whether it is new or comes from a checkpoint.
#[derive(Clone, Debug)]
pub struct Blueprint {
    /// The architecture and its sizes, as the runtime knows them.
    pub config: Config,
    /// Tokens of the vocabulary.
    pub vocabulary: usize,
    /// The longest sequence.
    pub context: usize,
    /// Whether the output uses the embedding's weights.
    pub tied: bool,
    /// Where linear layers have biases.
    pub biases: Biases,
    /// Probability with which the embedding's and each block's outputs are dropped in training.
    pub dropout: f32,
}

/// Which linear layers have biases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Biases {
    /// Queries, keys and values.
    pub qkv: bool,
    /// The attention's output.
    pub attention_out: bool,
    /// Gate and up.
    pub up: bool,
    /// Down.
    pub down: bool,
}

/// A decoder and its parameters.
#[derive(Debug)]
pub struct Decoder {
    blueprint: Blueprint,
    parameters: Parameters,
    /// `[vocabulary, width]`
    embedding: Var,
    /// Learned positions, `[the model's context, width]`.
    positions: Option<Var>,
    layers: Vec<Layer>,
    output_norm: Norm,
    /// `[vocabulary, width]`; `None` where the embedding serves.
    output: Option<Var>,
    rotation: Option<Rotation>,
}

#[derive(Debug)]
struct Layer {
    attention_connection: Option<HyperConnection>,
    ffn_connection: Option<HyperConnection>,
    attention_norm: Norm,
    qkv: Projection,
    head_norms: Option<HeadNorms>,
    attention_sub_norm: Option<Norm>,
    attention_out: Projection,
    ffn_norm: Norm,
    /// Gate and up, or up alone.
    up: Projection,
    ffn_sub_norm: Option<Norm>,
    down: Projection,
}

/// A tensor of a decoder, by its name in a GGUF.
#[derive(Clone, Debug)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// Its values, `[rows, cols]` or `[len]`.
    pub values: Tensor,
    /// What it is.
    pub kind: PartKind,
}

/// What a tensor is, which decides how it is stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PartKind {
    /// The embedding, learned positions, or an output of its own.
    Embedding,
    /// Weights of a linear layer within a block, and the rule that makes them ternary.
    Linear(Option<Rule>),
    /// Norms, biases, connections.
    Vector,
}

impl Decoder {
    /// With random weights; `context` is the longest sequence.
    ///
    /// # Errors
    /// If sizes do not go together.
    pub fn new(
        config: ModelConfig,
        quantizer: Quantizer,
        vocabulary: usize,
        context: usize,
        seed: u64,
    ) -> Result<Self> {
        config.check(vocabulary, context)?;
        Self::build(config.blueprint(vocabulary, context)?, &|_| Ok(quantizer), Parameters::new(seed))
    }

    /// With these weights, by their names in a GGUF; `quantizer` says how projections of so many columns are quantized.
    ///
    /// # Errors
    /// If weights are missing, have other shapes or no place, or the architecture has a part that is not trained.
    pub fn of(
        blueprint: Blueprint,
        quantizer: &dyn Fn(usize) -> Result<Quantizer>,
        values: BTreeMap<String, Tensor>,
    ) -> Result<Self> {
        let decoder = Self::build(blueprint, quantizer, Parameters::given(values))?;
        if let Some(name) = decoder.parameters.left().next() {
            bail!("the model's {name} has no place in a decoder that is trained");
        }
        Ok(decoder)
    }

    fn build(
        blueprint: Blueprint,
        quantizer: &dyn Fn(usize) -> Result<Quantizer>,
        mut parameters: Parameters,
    ) -> Result<Self> {
        let Blueprint { config: c, vocabulary, context, tied, biases, .. } = &blueprint;
        let (row, p) = (c.architecture, &mut parameters);
        if !matches!((row.gated, row.activation), (true, Activation::Silu) | (false, Activation::Gelu)) {
            bail!("the feed-forward layer of the architecture {} is not trained", row.name);
        }
        let (width, ffn, q_width, kv_width) = (c.n_embd, c.n_ff, c.q_width(), c.kv_width());
        let embedding = p.normal("token_embd.weight", Kind::Embedding, (*vocabulary, width), 0.02)?;
        let positions = match row.rope {
            Some(_) => None,
            None => Some(p.normal("position_embd.weight", Kind::Embedding, (c.n_ctx, width), 0.02)?),
        };
        // What is added to the residual stream starts smaller, by the number of additions (GPT-2's rule).
        let deviation = |cols: usize| 1.0 / (cols as f32).sqrt();
        let into_stream = |cols: usize| deviation(cols) / (2.0 * c.n_layer as f32).sqrt();
        let mut layers = Vec::with_capacity(c.n_layer);
        for i in 0..c.n_layer {
            let name = |part: &str| format!("blk.{i}.{part}.weight");
            let norm = |p: &mut Parameters, part: &str| Norm::new(p, &name(part), row.norm, width, c.eps);
            let sub_norm = |p: &mut Parameters, part: &str, cols: usize| -> Result<Option<Norm>> {
                match row.sub_norms {
                    true => Ok(Some(Norm::new(p, &name(part), NormKind::Rms, cols, c.eps)?)),
                    false => Ok(None),
                }
            };
            let connection = |p: &mut Parameters, part: &str, index: usize| -> Result<Option<HyperConnection>> {
                let (name, streams) = (format!("blk.{i}.{part}"), c.n_streams);
                match streams {
                    1 => Ok(None),
                    _ => Ok(Some(HyperConnection::new(p, &name, index, streams, width, c.eps)?)),
                }
            };
            let project = |p: &mut Parameters, parts: &[(&str, usize)], cols: usize, deviation: f32, biased: bool| {
                let parts: Vec<_> = parts.iter().map(|(part, rows)| (name(part), *rows)).collect();
                Projection::new(p, &parts, cols, deviation, biased, quantizer(cols)?)
            };
            let qkv: &[_] = match row.fused_qkv {
                true => &[("attn_qkv", q_width + 2 * kv_width)],
                false => &[("attn_q", q_width), ("attn_k", kv_width), ("attn_v", kv_width)],
            };
            let up: &[_] = match (row.gated, row.fused_gate) {
                (true, true) => &[("ffn_up", 2 * ffn)],
                (true, false) => &[("ffn_gate", ffn), ("ffn_up", ffn)],
                (false, _) => &[("ffn_up", ffn)],
            };
            layers.push(Layer {
                attention_connection: connection(p, "attn_hc", 2 * i)?,
                ffn_connection: connection(p, "ffn_hc", 2 * i + 1)?,
                attention_norm: norm(p, "attn_norm")?,
                qkv: project(p, qkv, width, deviation(width), biases.qkv)?,
                head_norms: match row.head_norms {
                    true => Some(HeadNorms::new(p, &name("attn_q_norm"), &name("attn_k_norm"), c.head_dim, c.eps)?),
                    false => None,
                },
                attention_sub_norm: sub_norm(p, "attn_sub_norm", q_width)?,
                attention_out: project(
                    p,
                    &[("attn_output", width)],
                    q_width,
                    into_stream(q_width),
                    biases.attention_out,
                )?,
                ffn_norm: norm(p, "ffn_norm")?,
                up: project(p, up, width, deviation(width), biases.up)?,
                ffn_sub_norm: sub_norm(p, "ffn_sub_norm", ffn)?,
                down: project(p, &[("ffn_down", width)], ffn, into_stream(ffn), biases.down)?,
            });
        }
        let output_norm = Norm::new(p, "output_norm.weight", row.norm, width, c.eps)?;
        let output = match tied {
            true => None,
            false => Some(p.normal("output.weight", Kind::Embedding, (*vocabulary, width), 0.02)?),
        };
        let rotation = c.rope.as_ref().map(|rope| Rotation::new(rope, *context));
        Ok(Self { blueprint, parameters, embedding, positions, layers, output_norm, output, rotation })
    }

    /// The parameters.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// What it is made of.
    pub fn blueprint(&self) -> &Blueprint {
        &self.blueprint
    }

    /// All connections to the residual streams, from the embedding on.
    #[cfg(test)]
    pub(in crate::train) fn connections(&self) -> Vec<&HyperConnection> {
        let pairs = self.layers.iter().flat_map(|layer| [&layer.attention_connection, &layer.ffn_connection]);
        pairs.flatten().collect()
    }

    /// Logits `[sequences * tokens, vocabulary]` of sequences of `tokens` ids each, one after the other.
    ///
    /// # Errors
    /// If ids are outside the vocabulary or sequences longer than the context.
    pub fn forward(&self, ids: &[u32], tokens: usize, step: &Step) -> Result<Tensor> {
        let mut x = self.residual(ids, tokens, step)?;
        if self.blueprint.config.n_streams > 1 {
            x = hyper_connections::collapse(&x)?;
        }
        let x = self.output_norm.forward(&x, None, step)?;
        let output = value(self.output.as_ref().unwrap_or(&self.embedding), step);
        Ok(ops::linear(&x, &output)?)
    }

    /// The residual stream after the last block, `[sequences * tokens, width]`; with hyper-connections the streams, `[sequences *
    /// tokens, streams, width]`.
    pub(in crate::train) fn residual(&self, ids: &[u32], tokens: usize, step: &Step) -> Result<Tensor> {
        let Blueprint { config: c, context, .. } = &self.blueprint;
        if tokens == 0 || tokens > *context || !ids.len().is_multiple_of(tokens) {
            bail!("{} tokens in sequences of {tokens}; the context is {context}", ids.len());
        }
        let shape = AttentionShape { tokens, heads: c.n_head, kv_heads: c.n_head_kv, head_dim: c.head_dim };
        let dropout = if step.training { self.blueprint.dropout } else { 0.0 };
        let sequences = ids.len() / tokens;
        let ids = Tensor::from_slice(ids, ids.len(), &candle_core::Device::Cpu)?;
        let mut x = value(&self.embedding, step).index_select(&ids, 0)?;
        if let Some(positions) = &self.positions {
            let positions = value(positions, step).narrow(0, 0, tokens)?;
            x = x.reshape((sequences, tokens, c.n_embd))?.broadcast_add(&positions)?;
            x = x.reshape((sequences * tokens, c.n_embd))?;
        }
        x = ops::dropout(&x, dropout, step.stream(0))?;
        if c.n_streams > 1 {
            x = hyper_connections::expand(&x, c.n_streams)?;
        }
        for (i, layer) in self.layers.iter().enumerate() {
            let i = i as u64;
            let (h, mixing) = hyper_connections::read(&layer.attention_connection, &x, step)?;
            let h = layer.attention_norm.forward(&h, layer.qkv.activation_group(step)?, step)?;
            let mut h = layer.qkv.forward(&h, step)?;
            if let Some(norms) = &layer.head_norms {
                h = norms.forward(&h, shape, step)?;
            }
            let h = ops::attention(&h, shape, self.rotation.as_ref())?;
            let h = sub_norm(&layer.attention_sub_norm, &h, &layer.attention_out, step)?;
            let y = layer.attention_out.forward(&h, step)?;
            let (connection, dropped) = (&layer.attention_connection, (dropout, step.stream(2 * i + 1)));
            x = hyper_connections::add(connection, &x, &y, mixing, dropped)?;
            let (h, mixing) = hyper_connections::read(&layer.ffn_connection, &x, step)?;
            let h = layer.ffn_norm.forward(&h, layer.up.activation_group(step)?, step)?;
            let h = layer.up.forward(&h, step)?;
            let h = if c.architecture.gated { ops::swiglu(&h)? } else { ops::gelu(&h)? };
            let h = sub_norm(&layer.ffn_sub_norm, &h, &layer.down, step)?;
            let y = layer.down.forward(&h, step)?;
            let dropped = (dropout, step.stream(2 * i + 2));
            x = hyper_connections::add(&layer.ffn_connection, &x, &y, mixing, dropped)?;
        }
        Ok(x)
    }

    /// All tensors, in the order of the file.
    ///
    /// # Errors
    /// None that can be foreseen.
    pub fn parts(&self) -> Result<Vec<Part>> {
        let part = |kind: PartKind| move |(name, values): (String, Tensor)| Part { name, values, kind };
        let embedding = |name: &str, var: &Var| part(PartKind::Embedding)((name.into(), var.as_detached_tensor()));
        let mut parts = vec![embedding("token_embd.weight", &self.embedding)];
        parts.extend(self.positions.iter().map(|positions| embedding("position_embd.weight", positions)));
        for layer in &self.layers {
            let norms = [
                Some(&layer.attention_norm),
                layer.attention_sub_norm.as_ref(),
                Some(&layer.ffn_norm),
                layer.ffn_sub_norm.as_ref(),
            ];
            let head_norms = layer.head_norms.iter().flat_map(HeadNorms::norms);
            let norms = norms.into_iter().flatten().chain(head_norms);
            parts.extend(norms.flat_map(Norm::parts).map(part(PartKind::Vector)));
            for connection in [&layer.attention_connection, &layer.ffn_connection].into_iter().flatten() {
                parts.extend(connection.parts().map(part(PartKind::Vector)));
            }
            for projection in [&layer.qkv, &layer.attention_out, &layer.up, &layer.down] {
                parts.extend(projection.parts()?.into_iter().map(part(PartKind::Linear(projection.rule()))));
                parts.extend(projection.biases()?.into_iter().map(part(PartKind::Vector)));
            }
        }
        parts.extend(self.output_norm.parts().into_iter().map(part(PartKind::Vector)));
        parts.extend(self.output.iter().map(|output| embedding("output.weight", output)));
        Ok(parts)
    }

    /// Writes the model as GGUF with the tokenizer's keys: projections by the rule in `format` (or the one that fits), the
    /// embedding and output in F16, norms in F32.
    ///
    /// # Errors
    /// If a format does not fit, or the file cannot be written.
    pub fn export(
        &self,
        path: &Path,
        format: Option<Format>,
        tokenizer: impl FnOnce(&mut Metadata),
        about: &About,
    ) -> Result<()> {
        let exported = |Part { name, values: weights, kind }: Part| -> Result<Exported> {
            let stored = match kind {
                PartKind::Linear(Some(rule)) => {
                    Stored::Ternary(rule, export::format_for(rule, weights.dim(1)?, format)?)
                }
                PartKind::Linear(None) | PartKind::Embedding => Stored::Plain(Format::F16),
                PartKind::Vector => Stored::Plain(Format::F32),
            };
            Ok(Exported { name, weights, stored })
        };
        let tensors = self.parts()?.into_iter().map(exported).collect::<Result<Vec<_>>>()?;
        let mut metadata = self.metadata(about);
        tokenizer(&mut metadata);
        export::write(path, &metadata, &tensors)
    }

    fn metadata(&self, about: &About) -> Metadata {
        let Blueprint { config: c, vocabulary, context, .. } = &self.blueprint;
        let (name, mut metadata) = (c.architecture.name, Metadata::new());
        metadata.insert("general.architecture", name);
        metadata.insert("general.name", about.name.as_str());
        metadata.insert("general.description", about.description.as_str());
        metadata.insert("general.license", about.license.as_str());
        let key = |key: &str| format!("{name}.{key}");
        for (part, value) in [
            ("context_length", *context),
            ("embedding_length", c.n_embd),
            ("block_count", c.n_layer),
            ("feed_forward_length", c.n_ff),
            ("attention.head_count", c.n_head),
            ("attention.head_count_kv", c.n_head_kv),
            ("rope.dimension_count", c.head_dim),
            ("vocab_size", *vocabulary),
        ] {
            metadata.insert(key(part), value as u32);
        }
        if c.n_streams > 1 {
            metadata.insert(key("hyper_connections"), c.n_streams as u32);
        }
        metadata.insert(key("attention.layer_norm_rms_epsilon"), c.eps);
        if let Some(rope) = &c.rope {
            metadata.insert(key("rope.freq_base"), rope.base as f32);
        }
        metadata
    }
}

/// The values of a tensor as a file holds them: those of codes and scales where it is made ternary, else the tensor's own.
///
/// # Errors
/// If a weight is not finite.
pub fn ternary_values(part: &Part) -> Result<Vec<f32>> {
    let values = part.values.flatten_all()?.to_vec1::<f32>()?;
    let PartKind::Linear(Some(rule)) = part.kind else { return Ok(values) };
    let cols = part.values.dim(1)?;
    let (codes, scales) = rule.quantize(&values, cols).with_context(|| format!("tensor {}", part.name))?;
    let group = rule.group(cols)?;
    let value = |(i, code): (usize, u8)| (f32::from(code) - 1.0) * f16_to_f32(scales[i / group]);
    Ok(codes.into_iter().enumerate().map(value).collect())
}

impl ModelConfig {
    /// Whether sizes make sense and go together.
    pub(super) fn check(&self, vocabulary: usize, context: usize) -> Result<()> {
        let Self { layers, width, heads, kv_heads, ffn, .. } = *self;
        for (name, value) in [("--layers", layers), ("--width", width), ("--ffn", ffn), ("--heads", heads)] {
            Setting(name).at_least(value, 1)?;
        }
        Setting("--kv-heads").at_least(kv_heads, 1)?;
        if vocabulary == 0 || context == 0 {
            bail!("a decoder has a vocabulary and a context of at least one token");
        }
        if heads > width || !width.is_multiple_of(2 * heads) {
            bail!("a width of {width} cannot be cut into {heads} heads of an even number of columns");
        }
        if !heads.is_multiple_of(kv_heads) {
            bail!(
                "{heads} heads of queries cannot share {kv_heads} heads of keys and values; give --kv-heads (kv_heads in a settings \
                 file) a number that divides --heads"
            );
        }
        if self.architecture == Architecture::Bitnet && !self.tied {
            bail!("the architecture bitnet has its output tied to the embedding; choose llama for an untied one");
        }
        if ![1, 2, 4].contains(&self.hyper_connections) {
            bail!(
                "there are 1, 2 or 4 residual streams, not {}; choose one of these for --hyper-connections",
                self.hyper_connections
            );
        }
        if self.hyper_connections > 1 && self.architecture != Architecture::Bitnet {
            bail!(
                "hyper-connections go with bitnet's block alone; choose --architecture bitnet or --hyper-connections 1"
            );
        }
        Setting("--dropout").share_below_one(self.dropout)?;
        Setting("model.rope_base").above_zero(self.rope_base)?;
        Setting("model.eps").above_zero(self.eps)
    }

    /// What training such a decoder takes. `batch`: sequences that go through it together in a step, and in a measurement.
    pub(super) fn memory(&self, vocabulary: usize, context: usize, batch: (usize, usize), ternary: bool) -> Memory {
        let float = |n: usize| n as f64;
        let (width, ffn, layers, heads) = (float(self.width), float(self.ffn), float(self.layers), float(self.heads));
        let kv = width / heads * float(self.kv_heads);
        let linear = layers * (2.0 * width * width + 2.0 * width * kv + 3.0 * width * ffn);
        let embeddings = if self.tied { 1.0 } else { 2.0 } * float(vocabulary) * width;
        let streams = float(self.hyper_connections);
        // Of each half of a block: numbers for every permutation of the streams, and for reading and writing each.
        let connections = match self.hyper_connections {
            1 => 0.0,
            n => 2.0 * layers * streams * width * (float((1..=n).product()) + 2.0 * streams),
        };
        // Norms: before both halves and before both products that end them.
        let weights = linear + embeddings + connections + layers * (3.0 * width + ffn) + width;
        Memory::of_decoder(&DecoderSizes {
            weights,
            ternary: if ternary { linear } else { 0.0 },
            teacher: false,
            seq_len: float(context),
            batch: (float(batch.0), float(batch.1)),
            layers,
            streams,
            width,
            heads: (heads, width, width + 2.0 * kv),
            ffn: (ffn, 2.0),
            vocabulary: float(vocabulary),
        })
    }

    fn blueprint(&self, vocabulary: usize, context: usize) -> Result<Blueprint> {
        let name = match self.architecture {
            _ if self.hyper_connections > 1 => "sterna",
            Architecture::Bitnet => "bitnet",
            Architecture::Llama => "llama",
        };
        let row = model::Architecture::of(name).with_context(|| format!("{name} is no architecture"))?;
        let head_dim = self.width / self.heads;
        let rope = |style| Rope::plain(style, head_dim, f64::from(self.rope_base));
        let config = Config {
            architecture: row,
            n_layer: self.layers,
            n_embd: self.width,
            n_streams: self.hyper_connections,
            n_ff: self.ffn,
            n_head: self.heads,
            n_head_kv: self.kv_heads,
            head_dim,
            n_ctx: context,
            eps: self.eps,
            attention_scale: 1.0 / (head_dim as f32).sqrt(),
            window: None,
            rope: row.rope.map(rope),
        };
        let (tied, dropout) = (self.tied, self.dropout);
        Ok(Blueprint { config, vocabulary, context, tied, biases: Biases::default(), dropout })
    }
}

/// What a file says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct About {
    /// `general.name`
    pub name: String,
    /// `general.description`
    pub description: String,
    /// `general.license`
    pub license: String,
}

/// The norm before a projection, or where there is none the quantization alone.
fn sub_norm(norm: &Option<Norm>, x: &Tensor, next: &Projection, step: &Step) -> Result<Tensor> {
    let group = next.activation_group(step)?;
    Ok(match (norm, group) {
        (Some(norm), group) => norm.forward(x, group, step)?,
        (None, Some(group)) => ops::quantize_activations(x, group)?,
        (None, None) => x.clone(),
    })
}
