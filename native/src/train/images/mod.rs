//! Training of image classifiers: MNIST, Fashion-MNIST, and what else comes in their format.
//!
//! `idx.rs` reads the data, `augment.rs` changes it, `ops.rs` and `net.rs` are the net; here is the task that the loop runs, its
//! settings, and the export. Text is `super::text`.

pub mod augment;
pub mod idx;
pub mod net;
pub mod ops;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use anyhow::{Context, Result, bail};
use candle_core::Tensor;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sterna_core::formats::Format;
use sterna_core::gguf::{Metadata, TensorDecl};
use sterna_core::model::image::{ImageConfig, ImageLayer, Shape};
use sterna_core::ternary::{self, Rule};

use self::augment::Augmentation;
use self::idx::Images;
use self::net::Net;
use super::export::{format_named, write_encoded};
use super::layers::{QuantizationConfig, Quantizer};
use super::memory::{Admit, Memory};
use super::ops::{losses, stream, tensor};
use super::parameters::{Parameters, below, generator};
use super::settings::{RunConfig, Setting, hex};
use super::trainer::{Evaluation, Step, Task, Watch};

/// Images that are measured together.
const EVALUATED: usize = 250;
/// Images of a measurement between others.
const PART: usize = 2000;

/// A data set that classifiers are trained on by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum DataSet {
    /// Handwritten digits.
    Mnist,
    /// Pictures of clothes.
    FashionMnist,
}

impl DataSet {
    /// Its name in the catalogue, and of its folder.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mnist => "mnist",
            Self::FashionMnist => "fashion-mnist",
        }
    }

    /// The classes' names.
    pub fn labels(self) -> [&'static str; 10] {
        match self {
            Self::Mnist => ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"],
            Self::FashionMnist => [
                "T-shirt/top",
                "Trouser",
                "Pullover",
                "Dress",
                "Coat",
                "Sandal",
                "Shirt",
                "Sneaker",
                "Bag",
                "Ankle boot",
            ],
        }
    }

    /// What a model card says of it.
    fn about(self) -> &'static str {
        match self {
            Self::Mnist => "Ternary classifier of handwritten digits trained on MNIST by sterna train mnist",
            Self::FashionMnist => {
                "Ternary classifier of clothes trained on Fashion-MNIST by sterna train fashion-mnist"
            }
        }
    }
}

/// All settings of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImagesConfig {
    /// The data.
    pub data: DataSet,
    /// The net's layers, as the file's metadata lists them (docs/image-classifier.md). A batch norm follows each convolution.
    pub layers: Vec<String>,
    /// Images of a step.
    pub batch_size: usize,
    /// How training images are changed.
    pub augmentation: Augmentation,
    /// How weights and activations are quantized.
    pub quantization: QuantizationConfig,
    /// Format of the export; by default the one for the rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// The loop.
    pub run: RunConfig,
}

impl Default for ImagesConfig {
    fn default() -> Self {
        Self::of(DataSet::Mnist)
    }
}

impl ImagesConfig {
    /// The settings of the digit model that ships, and their like for clothes.
    pub fn of(data: DataSet) -> Self {
        let layers = [
            "conv 32 5x5 stride 2 pad 2",
            "relu",
            "conv 48 3x3 stride 1 pad 1",
            "relu",
            "max-pool 2",
            "conv 96 3x3 stride 1 pad 1",
            "relu",
            "conv 128 3x3 stride 1 pad 0",
            "relu",
            "average-pool",
            "linear 10",
        ];
        let mut run = RunConfig { eval_every: 500, log_every: 50, ..RunConfig::default() };
        run.schedule.steps = 8000;
        run.schedule.lr = 4e-3;
        run.schedule.warmup_steps = 200;
        run.schedule.weight_decay = 0.05;
        run.schedule.second_stage = 0.7;
        Self {
            data,
            layers: layers.map(String::from).to_vec(),
            batch_size: 100,
            augmentation: match data {
                DataSet::Mnist => Augmentation::DIGITS,
                DataSet::FashionMnist => Augmentation::CLOTHES,
            },
            quantization: QuantizationConfig { group: "row".into(), ..QuantizationConfig::default() },
            format: None,
            run,
        }
    }

    fn check(&self) -> Result<()> {
        self.run.check(self.quantization.method != "none")?;
        // Batch norm needs two images.
        Setting("--batch-size").at_least(self.batch_size, 2)?;
        self.augmentation.check()
    }

    /// The same in 600 steps.
    pub fn quick(&mut self) {
        self.run.schedule.steps = 600;
        self.run.schedule.warmup_steps = 50;
        self.run.eval_every = 300;
    }
}

/// A classifier being trained, with its data.
pub struct ImageTask {
    config: ImagesConfig,
    net: Net,
    train: Images,
    test: Images,
    /// The order of the images in an epoch.
    order: Mutex<(u64, Vec<u32>)>,
    digest: String,
}

impl ImageTask {
    /// With data from a folder of four idx files.
    ///
    /// # Errors
    /// If the data cannot be used, or the settings do not fit each other.
    pub fn from_folder(config: ImagesConfig, dir: &Path, admit: Admit<'_>) -> Result<Self> {
        config.check()?;
        let classes = config.data.labels().len();
        let (train, test) = (Images::read(dir, "train", classes)?, Images::read(dir, "t10k", classes)?);
        Self::new(config, train, test, admit)
    }

    /// With images to train on, and others to measure on.
    ///
    /// # Errors
    /// If their sizes differ, the settings do not fit each other, or `admit` refuses what the run needs.
    pub fn new(config: ImagesConfig, train: Images, test: Images, admit: Admit<'_>) -> Result<Self> {
        config.check()?;
        if (train.height, train.width) != (test.height, test.width) {
            bail!(
                "images to train on are {} x {}, those to measure on {} x {}; they belong to different sets",
                train.height,
                train.width,
                test.height,
                test.width
            );
        }
        if config.batch_size > train.len() {
            bail!(
                "a batch of {} images cannot be taken from {}; give a smaller --batch-size",
                config.batch_size,
                train.len()
            );
        }
        let layers = parse_layers(&config.layers)?;
        let input = Shape { height: train.height, width: train.width, channels: 1 };
        let quantizer = Quantizer::new(&config.quantization)?;
        admit(&memory(&layers, input, config.batch_size.max(EVALUATED)))?;
        let net = Net::new(&layers, input, config.data.labels().len(), quantizer, config.run.seed)?;
        // Known now rather than when all is trained.
        let format = config.format.as_deref().map(format_named).transpose()?;
        if let Some(rule) = net.rule() {
            net::format_for(rule, format)?;
        }
        let digest = digest(&[&train, &test]);
        Ok(Self { config, net, train, test, order: Mutex::new((u64::MAX, Vec::new())), digest })
    }

    /// All settings.
    pub fn config(&self) -> &ImagesConfig {
        &self.config
    }

    /// The net.
    pub fn net(&self) -> &Net {
        &self.net
    }

    /// Images to measure on.
    pub fn test(&self) -> &Images {
        &self.test
    }

    /// Logits, `[images, classes]`, of pixels as they are in the data.
    ///
    /// # Errors
    /// If the computation fails.
    pub fn logits(&self, pixels: &[u8], step: &Step) -> Result<Vec<f32>> {
        let pixels: Vec<f32> = pixels.iter().map(|&pixel| f32::from(pixel) / 255.0).collect();
        self.net.logits(&pixels, step)
    }

    /// The image at a place in the order of all epochs.
    fn drawn(&self, place: usize) -> usize {
        let n = self.train.len();
        let epoch = (place / n) as u64;
        let mut order = self.order.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if order.0 != epoch {
            let mut generator = generator(self.config.run.seed, epoch, 1 << 40);
            let mut shuffled: Vec<u32> = (0..n as u32).collect();
            for i in (1..n).rev() {
                shuffled.swap(i, below(&mut generator, i + 1));
            }
            *order = (epoch, shuffled);
        }
        order.1[place % n] as usize
    }

    /// Writes the classifier, its weights by `rule` (`None` for float) in the format asked for or the rule's own.
    ///
    /// # Errors
    /// If the format cannot hold them, or the file cannot be written.
    pub fn export_as(&self, path: &Path, rule: Option<Rule>, format: Option<&str>) -> Result<()> {
        let format = match rule {
            // The names that training exports to are ternary.
            None => Format::F32,
            Some(rule) => net::format_for(rule, format.map(format_named).transpose()?)?,
        };
        let image_config = ImageConfig {
            input: self.net.input(),
            mean: vec![0.0],
            deviation: vec![1.0],
            layers: parse_layers(&self.config.layers)?,
            labels: self.config.data.labels().map(String::from).to_vec(),
            centred: self.config.data == DataSet::Mnist,
        };
        let mut tensors = Vec::new();
        for folded in self.net.folded()? {
            let cannot = || format!("layer {} cannot be exported", folded.index);
            let (bytes, padded) = match rule {
                Some(rule) => ternary::encode(&folded.weights, folded.cols, rule, format),
                None => ternary::encode_plain(&folded.weights, folded.cols, format),
            }
            .with_context(cannot)?;
            let rows = (folded.weights.len() / folded.cols) as u64;
            let mut add = |part: &str, dims: Vec<u64>, type_id: u32, bytes: Vec<u8>| {
                let name = format!("layer.{}.{part}", folded.index);
                tensors.push((TensorDecl { name, dims, type_id, size: bytes.len() as u64 }, bytes));
            };
            add("weight", vec![padded as u64, rows], format.type_id(), bytes);
            let floats = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect();
            if let Some(scale) = &folded.scale {
                add("scale", vec![rows], 0, floats(scale));
            }
            add("bias", vec![rows], 0, floats(&folded.bias));
        }
        let mut metadata = image_config.metadata();
        self.describe(&mut metadata);
        write_encoded(path, &metadata, &tensors)
    }

    fn describe(&self, metadata: &mut Metadata) {
        metadata.insert("general.name", self.config.data.name());
        metadata.insert("general.description", self.config.data.about());
        metadata.insert("general.license", "MIT OR Apache-2.0");
    }
}

/// The digest of sets of images.
fn digest(sets: &[&Images]) -> String {
    let mut sha = Sha256::new();
    for Images { height, width, pixels, labels } in sets {
        [*height, *width, labels.len()].iter().for_each(|n| sha.update((*n as u64).to_le_bytes()));
        sha.update(pixels);
        sha.update(labels);
    }
    hex(&sha.finalize())
}

/// What training a net takes, where so many images go through it together.
fn memory(layers: &[ImageLayer], input: Shape, images: usize) -> Memory {
    let (mut shape, mut weights, mut kept) = (input, 0.0, input.len() as f64);
    for &layer in layers {
        // What nothing comes out of is refused when the net is made.
        let Some(output) = layer.output(shape) else { break };
        let (rows, cols) = layer.matrix(shape).map_or((0.0, 0.0), |(rows, cols)| (rows as f64, cols as f64));
        weights += rows * cols;
        // What comes out, before and after the norm, and the gradient on its way back.
        kept += 3.0 * output.height as f64 * output.width as f64 * output.channels as f64;
        shape = output;
    }
    let bytes = |floats: f64| (4.0 * floats) as u64;
    Memory {
        weights: bytes(2.0 * weights),
        gradients: bytes(weights),
        moments: bytes(2.0 * weights),
        teacher: 0,
        activations: bytes(kept * images as f64),
    }
}

fn parse_layers(texts: &[String]) -> Result<Vec<ImageLayer>> {
    let parse = |(i, text): (usize, &String)| {
        text.parse().map_err(|why: &str| anyhow::anyhow!("layer {i} is `{text}`, but {why}"))
    };
    texts.iter().enumerate().map(parse).collect()
}

/// The share of rows of `logits`, `[images, classes]`, whose largest is the label's, of equals the first.
pub fn right(logits: &[f32], labels: &[u8]) -> usize {
    let classes = logits.len() / labels.len().max(1);
    logits
        .chunks_exact(classes.max(1))
        .zip(labels)
        .filter(|(row, label)| crate::images::best(row) == usize::from(**label))
        .count()
}

impl Task for ImageTask {
    fn parameters(&self) -> &Parameters {
        self.net.parameters()
    }

    fn loss(&self, step: &Step, _: usize) -> Result<Tensor> {
        let (n, size) = (self.config.batch_size, self.net.input().len());
        let drawn: Vec<usize> = (0..n).map(|i| self.drawn(step.index * n + i)).collect();
        let mut pixels = vec![0.0f32; n * size];
        pixels.par_chunks_mut(size).zip(&drawn).enumerate().for_each_init(
            || vec![0; size],
            |changed, (i, (pixels, &drawn))| {
                let seed = stream(step.seed, step.index as u64, 1 << 41 | i as u64);
                self.config.augmentation.apply(self.train.image(drawn), self.train.width, seed, changed);
                pixels.iter_mut().zip(changed.iter()).for_each(|(to, &from)| *to = f32::from(from) / 255.0);
            },
        );
        self.net.loss(&pixels, drawn.iter().map(|&i| u32::from(self.train.labels[i])).collect(), step)
    }

    fn evaluate(&self, step: &Step, whole: bool, watch: &mut Watch<'_>) -> Result<Evaluation> {
        let count = if whole { self.test.len() } else { self.test.len().min(PART) };
        let (mut loss, mut correct, mut done) = (0.0, 0, 0);
        for (i, labels) in self.test.labels[..count].chunks(EVALUATED).enumerate() {
            let size = self.net.input().len();
            let pixels = &self.test.pixels[i * EVALUATED * size..][..labels.len() * size];
            let logits = self.logits(pixels, step)?;
            correct += right(&logits, labels);
            let targets: Vec<u32> = labels.iter().map(|&label| u32::from(label)).collect();
            let logits = tensor(logits, (labels.len(), self.net.classes()))?;
            loss += losses(&logits, &targets)?.iter().map(|&loss| f64::from(loss)).sum::<f64>();
            done += labels.len();
            if !watch(done, count) {
                break;
            }
        }
        Ok(Evaluation { loss: loss / done as f64, loss_per_char: None, accuracy: Some(correct as f64 / done as f64) })
    }

    fn data_digest(&self) -> Option<String> {
        Some(self.digest.clone())
    }

    fn items_per_step(&self) -> (usize, &'static str) {
        (self.config.batch_size, "images")
    }

    fn state(&self) -> BTreeMap<String, Tensor> {
        self.net.state()
    }

    fn restore(&self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        self.net.restore(state)
    }

    fn export(&self, path: &Path, _: &Step) -> Result<()> {
        self.export_as(path, self.net.rule(), self.config.format.as_deref())
    }
}
