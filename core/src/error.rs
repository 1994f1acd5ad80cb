//! The one error type of the crate.

/// What can go wrong between bytes and numbers.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The vocabulary, or a text that it cannot encode.
    #[cfg(feature = "tokenizer")]
    #[error(transparent)]
    Tokenizer(#[from] crate::tokenizer::TokenizerError),
    /// The chat template, or messages that it refuses.
    #[cfg(feature = "chat")]
    #[error(transparent)]
    Template(#[from] crate::generate::chat::TemplateError),
}

/// `Result` with the crate's [`Error`].
pub type Result<T, E = Error> = core::result::Result<T, E>;
