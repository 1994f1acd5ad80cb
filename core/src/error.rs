//! The umbrella error: each module has its own, this one carries any of them.

use crate::formats::FormatError;
use crate::generate::GenerateError;
use crate::gguf::GgufError;
use crate::model::ModelError;

/// What can go wrong between bytes and numbers.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The container.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A tensor's type or blocks.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The model: hyperparameters, tensors, limits.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Generation.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// The vocabulary.
    #[cfg(feature = "tokenizer")]
    #[error(transparent)]
    Tokenizer(#[from] crate::tokenizer::TokenizerError),
}

/// `Result` with the crate's [`Error`].
pub type Result<T, E = Error> = core::result::Result<T, E>;
