//! Image classifiers: pixels in, a score for each class out. Convolutions, poolings and a linear layer, in the order that the
//! file's metadata lists them (docs/image-classifier.md).
//!
//! A convolution is a matrix product: the patches of an image become the rows of a matrix, in the order row, column, channel,
//! and go through the same packed matrices and kernels as a decoder's tokens. So a file may hold its weights in any of the
//! formats, and scores are the same bits on every kernel and number of threads.
//!
//! Not here: bringing a drawing into the shape that a model was trained on (`crate::image`).

mod classifier;
mod config;
mod loader;

pub use classifier::{ImageClassifier, probabilities};
pub use config::{ImageConfig, ImageLayer, Shape};
pub use loader::ImageLoader;
pub(super) use loader::plan;
pub(super) use loader::refusals;

/// The value of `general.architecture`, which also begins the keys.
pub const ARCHITECTURE: &str = "sterna-image";
