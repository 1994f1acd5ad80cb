//! Why a model cannot be loaded or run. Each message names the key or tensor, what was found, and what to do.

use crate::formats::FormatError;
use crate::gguf::GgufError;

/// See the module.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A metadata key is absent or has the wrong type.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A tensor's type is not read, or its size contradicts it.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The architecture has no row in the table.
    #[error("architecture {name:?} is not supported; supported are {supported}. Use a model of one of these")]
    UnknownArchitecture {
        /// `general.architecture`
        name: String,
        /// All rows.
        supported: String,
    },
    /// The file asks for something that, left out, would give fluent nonsense.
    #[error("{feature} ({key}) is not supported, and running the model without it would give wrong results. {remedy}")]
    Unsupported {
        /// What it is.
        feature: &'static str,
        /// The key or tensor that asks for it.
        key: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A hyperparameter makes no sense.
    #[error(
        "metadata key {key} is {value}, but {expected}; the file is damaged or was written by a faulty converter, download or convert it again"
    )]
    BadValue {
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// What it must be.
        expected: String,
    },
    /// A tensor that the architecture needs is not there.
    #[error("tensor {name} is missing: the {architecture} architecture needs it. Download or convert the file again")]
    MissingTensor {
        /// The tensor.
        name: String,
        /// The table's row.
        architecture: &'static str,
    },
    /// A tensor that the architecture has no place for.
    #[error(
        "tensor {name} is not part of the {architecture} architecture as it is known here; without it the model would compute something else. Check general.architecture, or convert the model again"
    )]
    UnexpectedTensor {
        /// The tensor.
        name: String,
        /// The table's row.
        architecture: &'static str,
    },
    /// A tensor has other dimensions than the hyperparameters say.
    #[error(
        "tensor {name} at offset {offset} has shape {found} (rows x columns) where the metadata asks for {expected}; the file is damaged or was written by a faulty converter, download or convert it again"
    )]
    Shape {
        /// The tensor.
        name: String,
        /// Where its data begins in the file.
        offset: u64,
        /// Its shape.
        found: String,
        /// The shape it must have.
        expected: String,
    },
    /// A tensor's data cannot be read.
    #[error("tensor {name} at offset {offset}: {source}")]
    Tensor {
        /// The tensor.
        name: String,
        /// Where its data begins in the file.
        offset: u64,
        /// What is wrong with it.
        source: FormatError,
    },
    /// A tensor has a type that its place cannot use.
    #[error(
        "tensor {name} at offset {offset} has type {found}, but {place} must be {expected}; convert the model again"
    )]
    Placement {
        /// The tensor.
        name: String,
        /// Where its data begins in the file.
        offset: u64,
        /// Its type.
        found: &'static str,
        /// What the tensor is for.
        place: &'static str,
        /// The types allowed there.
        expected: &'static str,
    },
    /// A tensor holds NaN or an infinity where that would poison everything.
    #[error(
        "tensor {name} at offset {offset} holds a value that is not finite at element {element}; the file is damaged, download or convert it again"
    )]
    NotFinite {
        /// The tensor.
        name: String,
        /// Where its data begins in the file.
        offset: u64,
        /// Index of the first such element.
        element: usize,
    },
    /// A tensor that is divided by holds zero or less.
    #[error(
        "tensor {name} at offset {offset} holds {value} at element {element}, but frequencies are divided by it, so it must be above zero; the file is damaged, download or convert it again"
    )]
    NotPositive {
        /// The tensor.
        name: String,
        /// Where its data begins in the file.
        offset: u64,
        /// Index of the first such element.
        element: usize,
        /// Its value.
        value: f32,
    },
    /// The tokenizer has more tokens than the embedding.
    #[error(
        "tensor {name} at offset {offset} has {rows} rows for the {tokens} tokens of tokenizer.ggml.tokens; the tokenizer belongs to another model, convert the model again with its own"
    )]
    Vocabulary {
        /// The embedding.
        name: String,
        /// Where its data begins in the file.
        offset: u64,
        /// Its rows.
        rows: u64,
        /// Tokens of the tokenizer.
        tokens: u64,
    },
    /// Bytes were handed over for a tensor that is shorter or longer.
    #[error(
        "tensor {name}: {found} bytes were read where {expected} are needed; the file is truncated, download it again"
    )]
    Truncated {
        /// The tensor.
        name: String,
        /// Bytes there are.
        found: u64,
        /// Bytes there must be.
        expected: u64,
    },
    /// A token id is outside the vocabulary.
    #[error(
        "token id {id} is outside the vocabulary of {vocabulary} tokens; encode the text with this model's own tokenizer"
    )]
    TokenOutside {
        /// The id.
        id: u32,
        /// Rows of the embedding.
        vocabulary: usize,
    },
    /// The context is full.
    #[error(
        "the context of {limit} tokens is full ({used} used, {more} more asked for); start a new session, or ask for a larger context where the model allows it"
    )]
    ContextFull {
        /// Tokens the session may hold.
        limit: usize,
        /// Tokens it holds.
        used: usize,
        /// Tokens that do not fit.
        more: usize,
    },
    /// There is no memory for a tensor.
    #[error("no memory for tensor {name} ({bytes} bytes); use a smaller model")]
    OutOfMemory {
        /// The tensor.
        name: String,
        /// Bytes in its file.
        bytes: u64,
    },
    /// There is no memory for more keys and values.
    #[error(
        "no memory for the keys and values of {tokens} tokens ({bytes} bytes); start a new session, or ask for a smaller context"
    )]
    CacheTooLarge {
        /// Tokens that the cache was to hold.
        tokens: usize,
        /// Bytes that all layers would take.
        bytes: usize,
    },
    /// A model of pictures where one of text is needed.
    #[error(
        "this file is an image classifier (architecture {architecture}), it neither reads nor writes text; `sterna eval` measures it"
    )]
    NotText {
        /// `general.architecture`
        architecture: &'static str,
    },
    /// A model of text where one of pictures is needed.
    #[error(
        "this is a language model (architecture {architecture}), not an image classifier; `sterna perplexity` measures it"
    )]
    NotImages {
        /// `general.architecture`
        architecture: &'static str,
    },
    /// A layer of an image classifier cannot be read, or does not fit what is before it.
    #[error(
        "metadata key {key}: layer {index} is {layer:?}, but {expected}; the file is damaged or was written by a faulty program, make it again"
    )]
    BadLayer {
        /// The key of the list of layers.
        key: &'static str,
        /// Its place in the list, from 0.
        index: usize,
        /// What is written there.
        layer: String,
        /// What it must be.
        expected: String,
    },
    /// An image classifier asks for more memory or work than any sensible one does.
    #[error(
        "metadata key {key}: with layer {index} ({layer}) an image needs {found} {what}, at most {limit} are accepted; the file is damaged or hostile"
    )]
    TooMuch {
        /// The key of the list of layers.
        key: &'static str,
        /// The layer's place in the list, from 0.
        index: usize,
        /// What is written there.
        layer: String,
        /// What there is too much of.
        what: &'static str,
        /// How much.
        found: u64,
        /// How much is accepted.
        limit: u64,
    },
    /// Pixels were given that are no whole number of images.
    #[error(
        "{found} pixel values are no whole number of images of {expected} values; scale the images to the model's size"
    )]
    Pixels {
        /// Bytes given.
        found: usize,
        /// Bytes of an image.
        expected: usize,
    },
    /// A kernel was asked for that this machine has not.
    #[error(transparent)]
    Kernel(#[from] crate::kernels::UnknownKernel),
}
