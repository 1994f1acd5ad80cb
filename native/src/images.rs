//! Image classifiers on this machine: from files, and measured on labelled images. What they compute is core's.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use sterna_core::kernels::Executor;
use sterna_core::model::image::{ImageClassifier, ImageLoader};
use sterna_core::model::{LoadOptions, Memory};

use crate::engine::Loading;
use crate::loss::cross_entropy;
use crate::memory;
use crate::source::Source;
use crate::train::images::idx::Images;
use crate::ui::progress::Progress;

/// Images that go to the model together.
const BATCH: usize = 500;

/// What was measured on labelled images.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// How many.
    pub images: usize,
    /// Share whose highest score is the label's.
    pub accuracy: f64,
    /// Mean of minus the logarithm of the label's probability, in nats.
    pub loss: f64,
    /// In batches of 500, on all threads.
    pub images_per_second: f64,
    /// `confusion[label][answer]`: how many.
    pub confusion: Vec<Vec<usize>>,
}

/// Loads a classifier tensor by tensor.
///
/// # Errors
/// If the file cannot be read or is no image classifier that can be used, or memory does not suffice.
pub fn load(path: &Path, how: &Loading<'_>, exec: &dyn Executor) -> Result<ImageClassifier> {
    let source = Source::open(path)?;
    let of_file = || path.display().to_string();
    let options = LoadOptions { kernel: how.kernel.map(str::to_owned) };
    memory::check(&Memory::of(source.header()).with_context(of_file)?, 0, how.available, how.force)
        .with_context(of_file)?;
    let mut loader = ImageLoader::new(source.header(), &options).with_context(of_file)?;
    let mut progress = Progress::bytes("loading", Some(source.file_bytes()));
    let mut done = 0;
    for (info, bytes) in source.tensors() {
        loader.tensor(info, bytes, exec).with_context(of_file)?;
        done += info.size;
        progress.set(done);
    }
    loader.finish().with_context(of_file)
}

/// Classifies all images. `go_on` hears after each batch how many are done; where it says no, only these are measured.
///
/// # Errors
/// If the images have another size than the model's, or labels that it has not.
pub fn measure(
    model: &ImageClassifier,
    images: &Images,
    exec: &dyn Executor,
    go_on: &mut dyn FnMut(usize) -> bool,
) -> Result<Measured> {
    let (input, classes) = (model.config().input, model.config().labels.len());
    if (input.height, input.width, input.channels) != (images.height, images.width, 1) {
        bail!(
            "the model takes images of {} x {} with {} channels, the data has {} x {} with 1",
            input.height,
            input.width,
            input.channels,
            images.height,
            images.width
        );
    }
    if let Some(label) = images.labels.iter().find(|&&label| usize::from(label) >= classes) {
        bail!("the data has the label {label}, the model only {classes} classes");
    }
    let (mut loss, mut seconds, mut done) = (0.0, 0.0, 0);
    let mut confusion = vec![vec![0; classes]; classes];
    let size = input.len();
    for (pixels, labels) in images.pixels.chunks(BATCH * size).zip(images.labels.chunks(BATCH)) {
        let clock = Instant::now();
        let logits = model.logits(exec, pixels)?;
        seconds += clock.elapsed().as_secs_f64();
        for (row, &label) in logits.chunks_exact(classes).zip(labels) {
            let label = usize::from(label);
            confusion[label][best(row)] += 1;
            loss += cross_entropy(row, label);
        }
        done += labels.len();
        if !go_on(done) {
            break;
        }
    }
    let right: usize = (0..classes).map(|i| confusion[i][i]).sum();
    let n = done.max(1) as f64;
    Ok(Measured {
        images: done,
        accuracy: right as f64 / n,
        loss: loss / n,
        images_per_second: n / seconds.max(1e-9),
        confusion,
    })
}

/// The class of the largest of an image's scores; of equals the first.
pub fn best(scores: &[f32]) -> usize {
    (1..scores.len()).fold(0, |best, i| if scores[i] > scores[best] { i } else { best })
}

/// Seconds that one image alone takes on one thread: the median of several, after a few that are not counted.
///
/// # Errors
/// If the images have another size than the model's.
pub fn latency(model: &ImageClassifier, images: &Images) -> Result<f64> {
    let mut seconds = Vec::new();
    for i in 0..250.min(images.len().max(1) * 50) {
        let clock = Instant::now();
        model.logits(&sterna_core::kernels::Serial, images.image(i % images.len()))?;
        seconds.push(clock.elapsed().as_secs_f64());
    }
    let counted = &mut seconds[10..];
    counted.sort_by(f64::total_cmp);
    Ok(counted[counted.len() / 2])
}
