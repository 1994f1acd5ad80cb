//! The net: the layers of an image classifier with variables. Each convolution is followed by a batch norm, which the export
//! folds into a scale and a bias for each channel; the last layer has a bias.

use std::collections::BTreeMap;
use std::sync::Mutex;

use anyhow::{Context, Result, bail};
use candle_core::{Tensor, Var};
use sterna_core::formats::Format;
use sterna_core::formats::half::f16_to_f32;
use sterna_core::model::image::{ImageLayer, Shape};
use sterna_core::ternary::{self, Granularity, Method, Rule};

use super::ops::{self, EPSILON, NormRelu, Product, Seen, Statistics};
use crate::train::layers::Quantizer;
use crate::train::ops::{cross_entropy, random_bits, tensor, values};
use crate::train::parameters::{Kind, Parameters};
use crate::train::trainer::Step;

/// How much of a batch's statistics goes into the running ones.
const MOMENTUM: f32 = 0.05;

/// A net and its variables.
pub struct Net {
    layers: Vec<Layer>,
    input: Shape,
    classes: usize,
    quantizer: Quantizer,
    parameters: Parameters,
    /// Memory that steps use one after the other.
    scratch: Mutex<Scratch>,
}

/// What a forward pass leaves, for the backward pass and for the next step's use of the memory.
#[derive(Default)]
struct Scratch {
    /// What goes into each layer, and what comes out of the last.
    values: Vec<Vec<f32>>,
    /// What a product gives before its norm, by layer.
    unnormed: Vec<Vec<f32>>,
    /// Gradients of what is in `values`, by turns.
    gradients: [Vec<f32>; 2],
}

/// What a layer did, for its backward pass.
struct Done {
    seen: Seen,
    norm: Option<NormRelu>,
}

struct Layer {
    layer: ImageLayer,
    input: Shape,
    weights: Option<Weights>,
}

struct Weights {
    product: Product,
    /// `[out, patch]`
    weight: Var,
    /// `[out]`
    bias: Var,
    norm: Option<Norm>,
    /// Place of its random bits.
    place: u64,
}

struct Norm {
    /// `[channels]`
    weight: Var,
    /// The statistics that are used where there is no batch, a moving mean of those of batches.
    running: Mutex<Statistics>,
}

/// A layer's weights as a file has them.
pub struct Folded {
    /// Place in the list of layers.
    pub index: usize,
    /// Float weights, `[rows, cols]`.
    pub weights: Vec<f32>,
    /// Columns before padding.
    pub cols: usize,
    /// `[rows]`; `None` where there is no norm to fold.
    pub scale: Option<Vec<f32>>,
    /// `[rows]`
    pub bias: Vec<f32>,
}

impl Net {
    /// A net of these layers with first values from `seed`: normal, with He's deviation (arXiv:1502.01852).
    ///
    /// # Errors
    /// If layers do not fit each other.
    pub fn new(layers: &[ImageLayer], input: Shape, classes: usize, quantizer: Quantizer, seed: u64) -> Result<Self> {
        let mut parameters = Parameters::new(seed);
        let (mut shape, mut made) = (input, Vec::new());
        for (i, &layer) in layers.iter().enumerate() {
            let output = layer.output(shape).with_context(|| {
                format!("layer {i}, `{layer}`: nothing comes out of {} x {}", shape.height, shape.width)
            })?;
            let weights = match Product::new(layer, shape) {
                Some(product) => {
                    let (rows, cols) = (product.output.channels, product.cols);
                    let place = parameters.iter().count() as u64;
                    let name = |part: &str| format!("layer.{i}.{part}");
                    let deviation = (2.0 / cols as f32).sqrt();
                    let weight = parameters.normal(&name("weight"), Kind::Matrix, (rows, cols), deviation)?;
                    let bias = parameters.constant(&name("bias"), Kind::Vector, rows, 0.0)?;
                    let norm = match layer {
                        ImageLayer::Conv { .. } => Some(Norm {
                            weight: parameters.constant(&name("norm"), Kind::Vector, rows, 1.0)?,
                            running: Mutex::new(Statistics { mean: vec![0.0; rows], variance: vec![1.0; rows] }),
                        }),
                        _ => None,
                    };
                    Some(Weights { product, weight, bias, norm, place })
                }
                None => None,
            };
            made.push(Layer { layer, input: shape, weights });
            shape = output;
        }
        if shape != (Shape { height: 1, width: 1, channels: classes }) {
            bail!("the last layer must give one number for each of the {classes} classes; make it `linear {classes}`");
        }
        Ok(Self { layers: made, input, classes, quantizer, parameters, scratch: Mutex::default() })
    }

    /// What the optimizer changes.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// What goes in.
    pub fn input(&self) -> Shape {
        self.input
    }

    /// How many numbers come out.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The rule; `None` for float weights.
    pub fn rule(&self) -> Option<Rule> {
        self.quantizer.rule
    }

    /// Numbers in matrices.
    pub fn weights(&self) -> usize {
        self.parameters.iter().filter(|p| p.kind == Kind::Matrix).map(|p| p.var.elem_count()).sum()
    }

    /// Logits, `[images, classes]`, of pixels from 0 to 1, `[images, input]`, by the running statistics.
    ///
    /// # Errors
    /// If a weight is not finite.
    pub fn logits(&self, pixels: &[f32], step: &Step) -> Result<Vec<f32>> {
        let mut scratch = self.scratch.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.forward(pixels, &Step { training: false, ..*step }, &mut scratch)?;
        Ok(scratch.values.last().cloned().unwrap_or_default())
    }

    /// The mean loss of images with labels, a scalar that has a gradient for each parameter. The norms take the statistics of
    /// these images, and remember them.
    ///
    /// # Errors
    /// If a weight is not finite, or there is not a label for each image.
    pub fn loss(&self, pixels: &[f32], labels: Vec<u32>, step: &Step) -> Result<Tensor> {
        let mut scratch = self.scratch.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let scratch = &mut *scratch;
        let done = self.forward(pixels, &Step { training: true, ..*step }, scratch)?;
        let logits = scratch.values.last().cloned().unwrap_or_default();
        let logits = Var::from_tensor(&tensor(logits, (labels.len(), self.classes))?)?;
        let loss = cross_entropy(&logits, labels)?;
        let gradients = loss.backward()?;
        let gradient = gradients.get(&logits).context("the loss has no gradient")?;
        scratch.gradients[0].clear();
        scratch.gradients[0].extend_from_slice(&values(&gradient.contiguous()?)?);
        let gradients = self.backward(&done, scratch)?;
        Ok(ops::given(loss.to_scalar()?, gradients)?)
    }

    /// All layers; of each that has weights what it did.
    fn forward(&self, pixels: &[f32], step: &Step, scratch: &mut Scratch) -> Result<Vec<Option<Done>>> {
        let images = pixels.len() / self.input.len();
        scratch.values.resize_with(self.layers.len() + 1, Vec::new);
        scratch.unnormed.resize_with(self.layers.len(), Vec::new);
        scratch.values[0].clear();
        scratch.values[0].extend_from_slice(pixels);
        let mut done = Vec::with_capacity(self.layers.len());
        for (i, layer) in self.layers.iter().enumerate() {
            if self.relu_is_done(i) {
                done.push(None);
                continue;
            }
            let (before, after) = scratch.values.split_at_mut(i + 1);
            // A norm gives what its rectifier would, in its place.
            let (x, y) = (&before[i][..], &mut after[usize::from(self.relu_is_done(i + 1))]);
            let len = layer.layer.output(layer.input).map_or(0, Shape::len);
            y.resize(images * len, 0.0);
            done.push(match (layer.layer, &layer.weights) {
                (_, Some(weights)) => {
                    Some(self.product(weights, self.relu_is_done(i + 1), x, &mut scratch.unnormed[i], y, step)?)
                }
                (ImageLayer::MaxPool, None) => {
                    ops::max_pool(x, layer.input, y);
                    None
                }
                (ImageLayer::AveragePool, None) => {
                    ops::average_pool(x, layer.input, y);
                    None
                }
                (_, None) => {
                    y.iter_mut().zip(x).for_each(|(y, &x)| *y = if x < 0.0 { 0.0 } else { x });
                    None
                }
            });
        }
        Ok(done)
    }

    /// Whether this layer is a rectifier that the norm before it takes care of.
    fn relu_is_done(&self, i: usize) -> bool {
        let normed = |layer: &Layer| layer.weights.as_ref().is_some_and(|weights| weights.norm.is_some());
        i > 0 && self.layers.get(i).is_some_and(|layer| layer.layer == ImageLayer::Relu) && normed(&self.layers[i - 1])
    }

    fn product(
        &self,
        weights: &Weights,
        relu: bool,
        x: &[f32],
        unnormed: &mut Vec<f32>,
        y: &mut [f32],
        step: &Step,
    ) -> Result<Done> {
        let Weights { product, weight, bias, norm, place } = weights;
        let rule = self.quantizer.rule.filter(|_| step.ternary > 0.0);
        let weight = values(weight)?;
        let seen = match rule {
            Some(rule) => {
                let at_random = self.quantizer.stochastic_rounding && step.training;
                let random = at_random.then(|| step.stream(1 << 32 | place));
                rounded(&weight, product.cols, rule, step.ternary, random)?
            }
            None => weight.to_vec(),
        };
        let seen = Seen::new(seen, rule.map(|rule| rule.columns(product.cols)));
        let (bias, channels) = (values(bias)?, product.output.channels);
        let Some(norm) = norm else {
            product.forward(x, &seen, y)?;
            y.chunks_exact_mut(channels).for_each(|y| y.iter_mut().zip(&*bias).for_each(|(y, bias)| *y += bias));
            return Ok(Done { seen, norm: None });
        };
        unnormed.resize(y.len(), 0.0);
        product.forward(x, &seen, unnormed)?;
        let statistics = if step.training {
            let batch = Statistics::of(unnormed, channels);
            let mut running = norm.running.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let mix = |running: &mut [f32], batch: &[f32]| {
                running.iter_mut().zip(batch).for_each(|(running, batch)| *running += MOMENTUM * (batch - *running));
            };
            mix(&mut running.mean, &batch.mean);
            mix(&mut running.variance, &batch.variance);
            batch
        } else {
            norm.statistics()
        };
        let norm = NormRelu::new(statistics, &values(&norm.weight)?, &bias, relu);
        norm.forward(unnormed, y);
        Ok(Done { seen, norm: Some(norm) })
    }

    /// The gradient for each parameter, from that of the logits in `scratch.gradients[0]`.
    fn backward(&self, done: &[Option<Done>], scratch: &mut Scratch) -> Result<Vec<(Tensor, Vec<f32>)>> {
        let [mut dy, mut dx] = std::mem::take(&mut scratch.gradients);
        let mut gradients = Vec::new();
        for (i, (layer, done)) in self.layers.iter().zip(done).enumerate().rev() {
            if self.relu_is_done(i) {
                continue;
            }
            let (x, y) = (&scratch.values[i][..], &scratch.values[i + 1][..]);
            // What came from data has no gradient to give.
            dx.resize(if i == 0 { 0 } else { x.len() }, 0.0);
            match (layer.layer, &layer.weights, done) {
                (_, Some(Weights { product, weight, bias, norm, .. }), Some(done)) => {
                    match (&done.norm, norm) {
                        (Some(normed), Some(norm)) => {
                            let (dw, db) = normed.backward(&scratch.unnormed[i], &mut dy);
                            gradients.push((norm.weight.as_tensor().clone(), dw));
                            gradients.push((bias.as_tensor().clone(), db));
                        }
                        _ => {
                            let mut db = vec![0.0; product.output.channels];
                            for dy in dy.chunks_exact(db.len()) {
                                db.iter_mut().zip(dy).for_each(|(sum, dy)| *sum += dy);
                            }
                            gradients.push((bias.as_tensor().clone(), db));
                        }
                    }
                    dx.fill(0.0);
                    gradients.push((weight.as_tensor().clone(), product.backward(x, &done.seen, &dy, &mut dx)?));
                }
                _ if i == 0 => {}
                (ImageLayer::MaxPool, ..) => ops::max_pool_backward(x, y, &dy, layer.input, &mut dx),
                (ImageLayer::AveragePool, ..) => ops::average_pool_backward(&dy, layer.input, &mut dx),
                _ => dx.iter_mut().zip(&dy).zip(x).for_each(|((dx, &dy), &x)| *dx = if x > 0.0 { dy } else { 0.0 }),
            }
            std::mem::swap(&mut dy, &mut dx);
        }
        scratch.gradients = [dy, dx];
        Ok(gradients)
    }

    /// The running statistics, by name, for a checkpoint.
    pub fn state(&self) -> BTreeMap<String, Tensor> {
        let mut state = BTreeMap::new();
        for (i, norm) in self.norms() {
            let Statistics { mean, variance } = norm.statistics();
            for (part, values) in [("mean", mean), ("variance", variance)] {
                let len = values.len();
                if let Ok(tensor) = tensor(values, len) {
                    state.insert(format!("layer.{i}.{part}"), tensor);
                }
            }
        }
        state
    }

    /// Takes back what [`Net::state`] gave.
    ///
    /// # Errors
    /// If statistics are missing or of another length; then nothing has changed.
    pub fn restore(&self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        let mut all = Vec::new();
        for (i, norm) in self.norms() {
            let part = |part: &str| -> Result<Vec<f32>> {
                let name = format!("layer.{i}.{part}");
                let tensor = state.get(&name).with_context(|| format!("{name} is missing"))?;
                if tensor.dims() != norm.weight.dims() {
                    bail!("{name} has the shape {:?}, not {:?}", tensor.dims(), norm.weight.dims());
                }
                Ok(values(tensor)?.to_vec())
            };
            all.push((norm, Statistics { mean: part("mean")?, variance: part("variance")? }));
        }
        for (norm, statistics) in all {
            *norm.running.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = statistics;
        }
        Ok(())
    }

    fn norms(&self) -> impl Iterator<Item = (usize, &Norm)> {
        let layers = self.layers.iter().enumerate();
        layers.filter_map(|(i, layer)| Some((i, layer.weights.as_ref()?.norm.as_ref()?)))
    }

    /// The weights of each layer that has some, with norms folded into scale and bias.
    ///
    /// # Errors
    /// None that can be foreseen.
    pub fn folded(&self) -> Result<Vec<Folded>> {
        let mut folded = Vec::new();
        for (index, layer) in self.layers.iter().enumerate() {
            let Some(Weights { product, weight, bias, norm, .. }) = &layer.weights else { continue };
            let mut bias = values(bias)?.to_vec();
            let scale = match norm {
                Some(norm) => {
                    let Statistics { mean, variance } = norm.statistics();
                    let weight = values(&norm.weight)?;
                    let scale: Vec<f32> = weight
                        .iter()
                        .zip(&variance)
                        .map(|(weight, variance)| weight / (variance + EPSILON).sqrt())
                        .collect();
                    bias.iter_mut().zip(&mean).zip(&scale).for_each(|((bias, mean), scale)| *bias -= mean * scale);
                    Some(scale)
                }
                None => None,
            };
            folded.push(Folded { index, weights: values(weight)?.to_vec(), cols: product.cols, scale, bias });
        }
        Ok(folded)
    }
}

impl Norm {
    fn statistics(&self) -> Statistics {
        self.running.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }
}

/// The weights that a product sees: `w + share * (rounded - w)`, rounded at random where `random` is a stream.
fn rounded(weights: &[f32], cols: usize, rule: Rule, share: f32, random: Option<u64>) -> Result<Vec<f32>> {
    let (scales, group) = (rule.scales(weights, cols)?, rule.columns(cols));
    let mut seen = Vec::with_capacity(weights.len());
    let mut scales = scales.iter();
    for row in weights.chunks_exact(cols) {
        for (weights, scale) in row.chunks(group).zip(&mut scales) {
            let size = f16_to_f32(scale.bits);
            for &weight in weights {
                let code = match random {
                    None => rule.method.code(weight, scale.cut),
                    Some(stream) => {
                        let unit = (random_bits(stream, seen.len() as u32) >> 8) as f32 / 16_777_216.0;
                        rule.method.code_at_random(weight, scale.cut, unit)
                    }
                };
                let code = f32::from(code) * size;
                seen.push(if share == 1.0 { code } else { weight + share * (code - weight) });
            }
        }
    }
    Ok(seen)
}

/// The format for a rule: what was asked for, or the one whose blocks are the rule's groups; for one scale a row the smallest.
///
/// # Errors
/// If the format asked for cannot hold what the rule gives.
pub fn format_for(rule: Rule, asked: Option<Format>) -> Result<Format> {
    let smallest = match rule.granularity {
        Granularity::Row | Granularity::Tensor if rule.method != Method::Sign => Some(Format::TQ1_0),
        _ => None,
    };
    // Rows are padded in the file, so any length will do.
    Ok(ternary::format_for(rule, 1, true, asked.or(smallest))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INPUT: Shape = Shape { height: 6, width: 6, channels: 1 };
    const LAYERS: [ImageLayer; 6] = [
        ImageLayer::Conv { channels: 4, kernel: 3, stride: 1, pad: 1 },
        ImageLayer::Relu,
        ImageLayer::MaxPool,
        ImageLayer::Conv { channels: 5, kernel: 3, stride: 1, pad: 0 },
        ImageLayer::AveragePool,
        ImageLayer::Linear { channels: 3 },
    ];

    fn quantizer(rule: Option<Rule>) -> Quantizer {
        Quantizer { rule, stochastic_rounding: false }
    }

    #[test]
    fn rounding_is_what_is_encoded_for_each_rule() -> Result<()> {
        let weights: Vec<f32> =
            (0..3 * 150).map(|i| ((i * 37 % 101) as f32 - 50.0) / 31.0 * (1.0 + i as f32 / 99.0)).collect();
        for method in [Method::Absmean, Method::Threshold(0.45), Method::Sign] {
            for granularity in [
                Granularity::Columns(64),
                Granularity::Columns(128),
                Granularity::Columns(256),
                Granularity::Row,
                Granularity::Tensor,
            ] {
                let rule = Rule { method, granularity };
                let Ok(format) = format_for(rule, None) else {
                    assert_eq!(method, Method::Sign);
                    continue;
                };
                let seen = rounded(&weights, 150, rule, 1.0, None)?;
                let (bytes, padded) = ternary::encode(&weights, 150, rule, format)?;
                let mut decoded = vec![0.0; 3 * padded];
                format.dequantize(&bytes, &mut decoded)?;
                for (seen, decoded) in seen.chunks(150).zip(decoded.chunks(padded)) {
                    assert_eq!(seen, &decoded[..150], "{rule:?}");
                }
                assert!(seen.iter().any(|&w| w > 0.0) && seen.iter().any(|&w| w < 0.0));
            }
        }
        assert!(format_for(Rule::absmean(64), Some(Format::TQ2_0)).unwrap_err().to_string().contains("Q2_0"));
        assert_eq!(format_for(Rule { granularity: Granularity::Row, ..Rule::absmean(64) }, None)?, Format::TQ1_0);
        Ok(())
    }

    #[test]
    fn layers_that_do_not_fit_are_errors() {
        let new = |layers: &[ImageLayer], classes| Net::new(layers, INPUT, classes, quantizer(None), 1).map(|_| ());
        assert!(new(&LAYERS, 3).is_ok());
        assert!(new(&LAYERS, 4).unwrap_err().to_string().contains("linear 4"));
        assert!(new(&LAYERS[..3], 4).is_err());
        assert!(new(&[ImageLayer::MaxPool; 4], 1).unwrap_err().to_string().contains("layer 2"));
    }

    /// A rectifier after a linear layer, and a first layer without weights, too.
    #[test]
    fn gradients_of_the_whole_net_are_finite_differences() -> Result<()> {
        let layers =
            [&LAYERS[..5], &[ImageLayer::Linear { channels: 6 }, ImageLayer::Relu, ImageLayer::Linear { channels: 3 }]];
        for layers in
            [layers.concat(), [&[ImageLayer::MaxPool], &LAYERS[..2], &[ImageLayer::Linear { channels: 3 }]].concat()]
        {
            let net = Net::new(&layers, INPUT, 3, quantizer(None), 1)?;
            let pixels: Vec<f32> = (0..36 * 5).map(|i| (i * 31 % 17) as f32 / 17.0).collect();
            let step = Step { index: 0, seed: 1, ternary: 1.0, training: true };
            let loss = || net.loss(&pixels, vec![0, 1, 2, 1, 1], &step);
            let grads = loss()?.backward()?;
            for parameter in net.parameters().iter() {
                let found = grads.get(&parameter.var).unwrap().flatten_all()?.to_vec1::<f32>()?;
                let before = values(&parameter.var)?.to_vec();
                for i in (0..before.len()).step_by(before.len() / 7 + 1) {
                    let at = |delta: f32| -> Result<f32> {
                        let mut moved = before.clone();
                        moved[i] += delta;
                        parameter.var.set(&tensor(moved, parameter.var.shape())?)?;
                        Ok(loss()?.to_scalar::<f32>()?)
                    };
                    let expected = (at(1e-3)? - at(-1e-3)?) / 2e-3;
                    parameter.var.set(&tensor(before.clone(), parameter.var.shape())?)?;
                    let name = &parameter.name;
                    assert!(
                        (found[i] - expected).abs() < 1e-2 * (1.0 + expected.abs()),
                        "{name} {i}: {} {expected}",
                        found[i]
                    );
                }
            }
        }
        Ok(())
    }

    #[test]
    fn running_statistics_come_back() -> Result<()> {
        let net = Net::new(&LAYERS, INPUT, 3, quantizer(Some(Rule::absmean(64))), 1)?;
        let pixels: Vec<f32> = (0..36 * 8).map(|i| (i * 31 % 17) as f32 / 17.0).collect();
        let step = Step { index: 0, seed: 1, ternary: 1.0, training: true };
        for _ in 0..3 {
            net.loss(&pixels, vec![0, 1, 2, 0, 1, 2, 0, 1], &step)?;
        }
        let logits = net.logits(&pixels, &step)?;
        let other = Net::new(&LAYERS, INPUT, 3, quantizer(Some(Rule::absmean(64))), 1)?;
        assert_ne!(other.logits(&pixels, &step)?, logits);
        other.restore(&net.state())?;
        assert_eq!(other.logits(&pixels, &step)?, logits);
        let mut state = net.state();
        state.remove("layer.3.mean");
        assert!(other.restore(&state).unwrap_err().to_string().contains("layer.3.mean is missing"));
        Ok(())
    }
}
