//! From a GGUF's header and the bytes of its tensors, one at a time in any order, to a [`Transformer`].
//!
//! All that can be known from the header is checked before the first byte of tensor data is asked for: a stream of many
//! gigabytes is refused at its beginning. Each tensor is packed as it comes, so the peak is the packed model and one tensor.

use super::architecture::NormKind;
use super::config::{Config, LONG_SETS};
use super::decoder::Transformer;
use super::error::ModelError;
use super::image;
use super::tensor::{Loaded, Place, check, read};
use super::vocabulary;
use super::weights::{Layer, Linear, Qkv, TensorReport, Up, Weights};
use crate::formats::{Format, identify_all};
use crate::gguf::{Gguf, Header, TensorInfo};
use crate::kernels::{self, Executor, Kernel};
use crate::ops::hyper_connections::logits;
use crate::ops::{HyperConnection, Norm};
use crate::ternary::Matrix;
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

/// Choices made when a model is loaded.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// A kernel by name, rather than the fastest one.
    pub kernel: Option<String>,
}

/// Where every tensor of a file goes.
pub(super) struct Plan {
    pub places: HashMap<String, (Place, Format)>,
}

/// Takes a model's tensors one by one.
pub struct Loader {
    config: Config,
    kernel: &'static dyn Kernel,
    plan: Plan,
    tensors: HashMap<String, Loaded>,
    reports: Vec<TensorReport>,
}

/// Everything that stands against loading a file, as far as its header tells; of very many reasons, the first.
pub fn refusals(header: &Header) -> Vec<ModelError> {
    if header.metadata.str("general.architecture") == Some(image::ARCHITECTURE) {
        return image::refusals(header);
    }
    match Config::from_header(header) {
        Ok(config) => Plan::of(&config, header).err().unwrap_or_default(),
        Err(error) => vec![error],
    }
}

impl Loader {
    /// Checks a header and chooses the kernel.
    ///
    /// # Errors
    /// The first of [`refusals`], or a kernel that this machine has not.
    pub fn new(header: &Header, options: &LoadOptions) -> Result<Self, ModelError> {
        let kernel = kernels::select(options.kernel.as_deref())?;
        let config = Config::from_header(header)?;
        let plan = Plan::of(&config, header).map_err(|mut errors| errors.swap_remove(0))?;
        Ok(Self { config, kernel, plan, tensors: HashMap::new(), reports: Vec::new() })
    }

    /// Packs one tensor of the header from its bytes; what follows it as padding may be there or not.
    ///
    /// # Errors
    /// If bytes are missing or hold values that cannot be: NaN scales, for one.
    pub fn tensor(&mut self, info: &TensorInfo, bytes: &[u8], exec: &dyn Executor) -> Result<(), ModelError> {
        let Some(&(place, format)) = self.plan.places.get(&info.name) else {
            return Err(unexpected(&self.config, &info.name));
        };
        if let Some((loaded, report)) = read(info, format, place, bytes, exec)? {
            self.reports.push(report);
            self.tensors.insert(info.name.clone(), loaded);
        }
        Ok(())
    }

    /// The model, when all tensors are there.
    ///
    /// # Errors
    /// If a tensor of the header was never handed over.
    pub fn finish(mut self) -> Result<Transformer, ModelError> {
        let weights = self.weights()?;
        let Self { config, kernel, reports, .. } = self;
        Ok(Transformer { config, weights, kernel, reports })
    }

    fn weights(&mut self) -> Result<Weights, ModelError> {
        let c = self.config.clone();
        let a = c.architecture;
        if let Some(rope) = &mut self.config.rope {
            if let Some(Loaded::Vector(factors)) = self.tensors.remove("rope_freqs.weight") {
                rope.factors = factors;
            }
            if let Some(sets) = &mut rope.long {
                let [short, long] = LONG_SETS;
                sets.short = take_vector(&mut self.tensors, a.name, short)?;
                sets.long = take_vector(&mut self.tensors, a.name, long)?;
            }
        }
        let mut layers = Vec::with_capacity(c.n_layer);
        for i in 0..c.n_layer {
            let name = |part: &str| format!("blk.{i}.{part}");
            let qkv = if a.fused_qkv {
                Qkv::Fused(self.linear(&name("attn_qkv"))?)
            } else {
                Qkv::Split {
                    q: self.linear(&name("attn_q"))?,
                    k: self.linear(&name("attn_k"))?,
                    v: self.linear(&name("attn_v"))?,
                }
            };
            let up = match (a.gated, a.fused_gate) {
                (false, _) => Up::Plain(self.linear(&name("ffn_up"))?),
                (true, true) => Up::FusedGate(self.linear(&name("ffn_up"))?),
                (true, false) => Up::Gated { gate: self.linear(&name("ffn_gate"))?, up: self.linear(&name("ffn_up"))? },
            };
            let head_norms = match a.head_norms {
                true => Some((self.rms_norm(&name("attn_q_norm"))?, self.rms_norm(&name("attn_k_norm"))?)),
                false => None,
            };
            let (attention_sub_norm, ffn_sub_norm) = match a.sub_norms {
                true => (Some(self.rms_norm(&name("attn_sub_norm"))?), Some(self.rms_norm(&name("ffn_sub_norm"))?)),
                false => (None, None),
            };
            layers.push(Layer {
                attention_connection: self.connection(&name("attn_hc"))?,
                ffn_connection: self.connection(&name("ffn_hc"))?,
                attention_norm: self.norm(&name("attn_norm"))?,
                qkv,
                head_norms,
                attention_sub_norm,
                attention_out: self.linear(&name("attn_output"))?,
                ffn_norm: self.norm(&name("ffn_norm"))?,
                up,
                ffn_sub_norm,
                down: self.linear(&name("ffn_down"))?,
            });
        }
        let positions = match a.rope {
            Some(_) => None,
            None => Some(self.matrix("position_embd.weight")?),
        };
        let output = match self.tensors.contains_key("output.weight") {
            true => Some(self.linear("output")?),
            false => None,
        };
        Ok(Weights {
            embedding: self.matrix("token_embd.weight")?,
            positions,
            layers,
            output_norm: self.norm("output_norm")?,
            output,
        })
    }

    fn matrix(&mut self, name: &str) -> Result<Matrix, ModelError> {
        match self.tensors.remove(name) {
            Some(Loaded::Matrix(matrix)) => Ok(matrix),
            _ => Err(missing(&self.config, name)),
        }
    }

    fn optional_vector(&mut self, name: &str) -> Option<Vec<f32>> {
        match self.tensors.remove(name) {
            Some(Loaded::Vector(values)) => Some(values),
            _ => None,
        }
    }

    fn linear(&mut self, name: &str) -> Result<Linear, ModelError> {
        Ok(Linear {
            matrix: self.matrix(&format!("{name}.weight"))?,
            scale: self.optional_vector(&format!("{name}.scale")).map(|scale| scale[0]),
            bias: self.optional_vector(&format!("{name}.bias")),
        })
    }

    /// The connection of a sub-layer to the residual streams, if there are several.
    fn connection(&mut self, name: &str) -> Result<Option<HyperConnection>, ModelError> {
        let (streams, eps) = (self.config.n_streams, self.config.eps);
        if streams == 1 {
            return Ok(None);
        }
        let weight = format!("{name}.weight");
        let Matrix::Blocks(projection) = self.matrix(&weight)? else { return Err(missing(&self.config, &weight)) };
        let mut vector =
            |part: &str| take_vector(&mut self.tensors, self.config.architecture.name, &format!("{name}.{part}"));
        let (bias, scale) = (vector("bias")?, vector("scale")?);
        Ok(Some(HyperConnection::new(streams, projection, bias, [scale[0], scale[1], scale[2]], eps)))
    }

    fn rms_norm(&mut self, name: &str) -> Result<Norm, ModelError> {
        let weight = take_vector(&mut self.tensors, self.config.architecture.name, &format!("{name}.weight"))?;
        Ok(Norm::Rms { weight, eps: self.config.eps })
    }

    fn norm(&mut self, name: &str) -> Result<Norm, ModelError> {
        match self.config.architecture.norm {
            NormKind::Rms => self.rms_norm(name),
            NormKind::Layer => {
                let architecture = self.config.architecture.name;
                let weight = take_vector(&mut self.tensors, architecture, &format!("{name}.weight"))?;
                let bias = take_vector(&mut self.tensors, architecture, &format!("{name}.bias"))?;
                Ok(Norm::Layer { weight, bias, eps: self.config.eps })
            }
        }
    }
}

impl Transformer {
    /// Loads a whole file that is in memory or mapped.
    ///
    /// # Errors
    /// As [`Loader`]'s steps.
    pub fn from_gguf(file: &Gguf<'_>, options: &LoadOptions, exec: &dyn Executor) -> Result<Self, ModelError> {
        let mut loader = Loader::new(file.header(), options)?;
        for info in &file.header().tensors {
            loader.tensor(info, file.data(info), exec)?;
        }
        loader.finish()
    }
}

impl Plan {
    /// Finds a place for every tensor and a tensor for every place.
    pub fn of(config: &Config, header: &Header) -> Result<Self, Vec<ModelError>> {
        // Before anything is made for each layer.
        if config.n_layer > header.tensors.len() / MIN_TENSORS_A_LAYER {
            return Err(vec![ModelError::BadValue {
                key: format!("{}.block_count", config.architecture.name),
                value: config.n_layer.to_string(),
                expected: format!(
                    "a layer has at least {MIN_TENSORS_A_LAYER} tensors, and the file only {} in all",
                    header.tensors.len()
                ),
            }]);
        }
        let (wanted, mut errors) = (places(config), Vec::new());
        let mut places = HashMap::new();
        for (info, identified) in header.tensors.iter().zip(identify_all(header)) {
            if errors.len() == MOST_REFUSALS {
                break;
            }
            let name = generic(&info.name, config.n_layer);
            let Some(&(place, _)) = name.and_then(|name| wanted.get(&*name)) else {
                errors.push(unexpected(config, &info.name));
                continue;
            };
            let format = identified.map_err(ModelError::from).map(|identified| identified.format);
            match format.and_then(|format| check(info, format, place).map(|()| format)) {
                Ok(format) => {
                    places.insert(info.name.clone(), (place, format));
                }
                Err(error) => errors.push(error),
            }
        }
        let present: HashSet<_> = header.tensors.iter().map(|info| info.name.as_str()).collect();
        let mut required: Vec<_> = wanted.iter().filter(|(_, (_, required))| *required).map(|(name, _)| name).collect();
        required.sort();
        let of_layers = |name: &String| -> Vec<String> {
            let layers = if name.contains(EACH_LAYER) { config.n_layer } else { 1 };
            (0..layers).map(|i| name.replace(EACH_LAYER, &format!("blk.{i}."))).collect()
        };
        let absent = required.into_iter().flat_map(of_layers).filter(|name| !present.contains(name.as_str()));
        errors.extend(absent.take(MOST_REFUSALS - errors.len()).map(|name| missing(config, &name)));
        if errors.is_empty()
            && let Some(error) = vocabulary::fault(header)
        {
            errors.push(error);
        }
        if errors.is_empty() { Ok(Self { places }) } else { Err(errors) }
    }
}

/// Refusals that are told at most: more help no one, and a hostile file may earn millions.
const MOST_REFUSALS: usize = 1000;

/// Two norms, q, k and v in one, the attention's output, up and down: what the leanest architecture has.
const MIN_TENSORS_A_LAYER: usize = 6;

/// Stands for the layer in a name that every layer has.
const EACH_LAYER: &str = "blk.*.";

/// A tensor's name with [`EACH_LAYER`] for its layer; `None` if that is not one of `n_layer`.
fn generic(name: &str, n_layer: usize) -> Option<Cow<'_, str>> {
    let Some(rest) = name.strip_prefix("blk.") else { return Some(name.into()) };
    let (index, part) = rest.split_once('.')?;
    let i: usize = index.parse().ok()?;
    // Not "01", nor "+1".
    (i < n_layer && i.to_string() == index).then(|| format!("{EACH_LAYER}{part}").into())
}

/// All names an architecture knows, [`generic`], each with its place and whether it must be there.
fn places(c: &Config) -> HashMap<String, (Place, bool)> {
    let (a, mut places) = (c.architecture, HashMap::new());
    let mut put = |name: String, place: Place, required: bool| places.insert(name, (place, required));
    let vocabulary = Place::Matrix { rows: None, cols: c.n_embd };
    put("token_embd.weight".into(), vocabulary, true);
    put("output.weight".into(), vocabulary, false);
    match &c.rope {
        None => {
            let positions = Place::Matrix { rows: None, cols: c.n_embd };
            put("position_embd.weight".into(), positions, true);
        }
        Some(rope) => {
            let half = Place::Divisors { len: rope.rotated / 2 };
            let long = rope.long.is_some();
            put("rope_freqs.weight".into(), half, false);
            // Files of models with LongRoPE carry their factors even where it is switched off.
            for set in LONG_SETS {
                put(set.into(), if long { half } else { Place::Ignored }, long);
            }
        }
    }
    let layered = a.norm == NormKind::Layer;
    let mut norm = |name: String, len: usize, bias: bool| {
        put(format!("{name}.weight"), Place::Vector { len }, true);
        if bias {
            put(format!("{name}.bias"), Place::Vector { len }, true);
        }
    };
    norm("output_norm".into(), c.n_embd, layered);
    let of_layer = |name: &str| format!("{EACH_LAYER}{name}");
    norm(of_layer("attn_norm"), c.n_embd, layered);
    norm(of_layer("ffn_norm"), c.n_embd, layered);
    if a.head_norms {
        norm(of_layer("attn_q_norm"), c.head_dim, false);
        norm(of_layer("attn_k_norm"), c.head_dim, false);
    }
    if a.sub_norms {
        norm(of_layer("attn_sub_norm"), c.q_width(), false);
        norm(of_layer("ffn_sub_norm"), c.n_ff, false);
    }
    let mut linear = |name: &str, rows: usize, cols: usize| {
        let name = of_layer(name);
        put(format!("{name}.weight"), Place::Matrix { rows: Some(rows), cols }, true);
        put(format!("{name}.bias"), Place::Vector { len: rows }, a.biases);
        put(format!("{name}.scale"), Place::Vector { len: 1 }, false);
    };
    if a.fused_qkv {
        linear("attn_qkv", c.q_width() + 2 * c.kv_width(), c.n_embd);
    } else {
        linear("attn_q", c.q_width(), c.n_embd);
        linear("attn_k", c.kv_width(), c.n_embd);
        linear("attn_v", c.kv_width(), c.n_embd);
    }
    linear("attn_output", c.n_embd, c.q_width());
    if a.gated && !a.fused_gate {
        linear("ffn_gate", c.n_ff, c.n_embd);
    }
    linear("ffn_up", if a.fused_gate { 2 * c.n_ff } else { c.n_ff }, c.n_embd);
    linear("ffn_down", c.n_embd, c.n_ff);
    if c.n_streams > 1 {
        let logits = logits(c.n_streams);
        for name in ["attn_hc", "ffn_hc"] {
            let projection = Place::Projection { rows: logits, cols: c.n_streams * c.n_embd };
            put(of_layer(&format!("{name}.weight")), projection, true);
            put(of_layer(&format!("{name}.bias")), Place::Vector { len: logits }, true);
            put(of_layer(&format!("{name}.scale")), Place::Vector { len: 3 }, true);
        }
    }
    // Inverse frequencies that old converters left in; they follow from the metadata.
    put(of_layer("attn_rot_embd.weight"), Place::Ignored, false);
    put(of_layer("attn_rot_embd"), Place::Ignored, false);
    places
}

fn unexpected(config: &Config, name: &str) -> ModelError {
    ModelError::UnexpectedTensor { name: name.to_owned(), architecture: config.architecture.name }
}

fn missing(config: &Config, name: &str) -> ModelError {
    ModelError::MissingTensor { name: name.to_owned(), architecture: config.architecture.name }
}

fn take_vector(
    tensors: &mut HashMap<String, Loaded>,
    architecture: &'static str,
    name: &str,
) -> Result<Vec<f32>, ModelError> {
    match tensors.remove(name) {
        Some(Loaded::Vector(values)) => Ok(values),
        _ => Err(ModelError::MissingTensor { name: name.to_owned(), architecture }),
    }
}
