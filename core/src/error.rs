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
    /// The chat template.
    #[cfg(feature = "chat")]
    #[error(transparent)]
    Template(#[from] crate::generate::chat::TemplateError),
}

/// What kind of fault an [`Error`] is, for hosts that act on it rather than print it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The bytes are no GGUF at all.
    NotGguf,
    /// The file ends too early.
    Truncated,
    /// The file contradicts itself.
    Damaged,
    /// The file may be well, but asks for what is not there: another architecture, type, version.
    Unsupported,
    /// There is no memory for it.
    OutOfMemory,
    /// More tokens than the context holds.
    ContextFull,
    /// A model of pictures where one of text is needed, or the other way round.
    WrongKind,
    /// The file has no vocabulary.
    NoTokenizer,
    /// The file has no chat template, and none can be guessed.
    NoChatTemplate,
    /// The chat template does not parse, fails, or refuses the messages.
    Template,
    /// The caller asked for what cannot be.
    InvalidArgument,
    /// A file could not be written.
    Storage,
}

impl ErrorKind {
    /// A word for it that programs can compare, lower case with hyphens.
    pub const fn code(self) -> &'static str {
        match self {
            Self::NotGguf => "not-gguf",
            Self::Truncated => "truncated",
            Self::Damaged => "damaged",
            Self::Unsupported => "unsupported",
            Self::OutOfMemory => "out-of-memory",
            Self::ContextFull => "context-full",
            Self::WrongKind => "wrong-kind",
            Self::NoTokenizer => "no-tokenizer",
            Self::NoChatTemplate => "no-chat-template",
            Self::Template => "template",
            Self::InvalidArgument => "invalid-argument",
            Self::Storage => "storage",
        }
    }
}

impl Error {
    /// What kind of fault it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Gguf(error) => of_gguf(error),
            Self::Format(error) => of_format(error),
            Self::Model(error) => of_model(error),
            Self::Generate(error) => of_generate(error),
            #[cfg(feature = "tokenizer")]
            Self::Tokenizer(error) => of_tokenizer(error),
            #[cfg(feature = "chat")]
            Self::Template(error) => of_template(error),
        }
    }
}

fn of_gguf(error: &GgufError) -> ErrorKind {
    use GgufError as E;
    match error {
        E::NotGguf { .. } => ErrorKind::NotGguf,
        E::Truncated { .. } | E::TensorBeyondEnd { .. } => ErrorKind::Truncated,
        E::BigEndian { .. } | E::UnsupportedVersion { .. } => ErrorKind::Unsupported,
        E::OutOfMemory { .. } => ErrorKind::OutOfMemory,
        E::TooMuchData { .. }
        | E::TooManyKeys { .. }
        | E::TooManyTensors { .. }
        | E::StringTooLong { .. }
        | E::InvalidUtf8 { .. }
        | E::EmptyName { .. }
        | E::DuplicateKey { .. }
        | E::UnknownValueType { .. }
        | E::InvalidBool { .. }
        | E::ArrayTooLong { .. }
        | E::ArrayTooDeep { .. }
        | E::BadAlignment { .. }
        | E::DuplicateTensor { .. }
        | E::TooManyDims { .. }
        | E::ZeroDim { .. }
        | E::TooManyElements { .. }
        | E::UnalignedOffset { .. }
        | E::OffsetOverflow { .. }
        | E::OverlappingTensors { .. }
        | E::MissingKey { .. }
        | E::WrongType { .. }
        | E::ShardTensors { .. } => ErrorKind::Damaged,
        E::ShardCount { .. }
        | E::ShardOrder { .. }
        | E::WriteOrder { .. }
        | E::WriteSize { .. }
        | E::EmptyTensor { .. } => ErrorKind::InvalidArgument,
        E::Write(_) => ErrorKind::Storage,
    }
}

fn of_format(error: &FormatError) -> ErrorKind {
    use FormatError as E;
    match error {
        E::Unsupported { .. } | E::UnknownType { .. } => ErrorKind::Unsupported,
        E::TooSmall { .. } => ErrorKind::Truncated,
        E::RaggedRow { .. } | E::TooLarge { .. } | E::BadScale { .. } => ErrorKind::Damaged,
        E::Length { .. }
        | E::Code { .. }
        | E::NotTernary { .. }
        | E::NoTensorScale { .. }
        | E::NoQuantizer { .. }
        | E::NotFinite { .. }
        | E::OutOfRange { .. } => ErrorKind::InvalidArgument,
    }
}

fn of_model(error: &ModelError) -> ErrorKind {
    use ModelError as E;
    match error {
        E::Gguf(error) => of_gguf(error),
        E::Format(error) | E::Tensor { source: error, .. } => of_format(error),
        E::UnknownArchitecture { .. } | E::Unsupported { .. } | E::Placement { .. } => ErrorKind::Unsupported,
        E::BadValue { .. }
        | E::MissingTensor { .. }
        | E::UnexpectedTensor { .. }
        | E::Shape { .. }
        | E::NotFinite { .. }
        | E::NotPositive { .. }
        | E::Vocabulary { .. }
        | E::BadLayer { .. }
        | E::TooMuch { .. } => ErrorKind::Damaged,
        E::Truncated { .. } => ErrorKind::Truncated,
        E::ContextFull { .. } => ErrorKind::ContextFull,
        E::OutOfMemory { .. } | E::CacheTooLarge { .. } => ErrorKind::OutOfMemory,
        E::NotText { .. } | E::NotImages { .. } => ErrorKind::WrongKind,
        E::TokenOutside { .. } | E::Pixels { .. } | E::Kernel(_) => ErrorKind::InvalidArgument,
    }
}

fn of_generate(error: &GenerateError) -> ErrorKind {
    match error {
        GenerateError::NotANumber { .. } | GenerateError::NoTokens => ErrorKind::Damaged,
        GenerateError::EmptyPrompt | GenerateError::BiasOutside { .. } => ErrorKind::InvalidArgument,
        GenerateError::NoTokenizer => ErrorKind::NoTokenizer,
    }
}

#[cfg(feature = "tokenizer")]
fn of_tokenizer(error: &crate::tokenizer::TokenizerError) -> ErrorKind {
    use crate::tokenizer::TokenizerError as E;
    match error {
        E::MissingKey { .. } | E::EmptyVocabulary => ErrorKind::NoTokenizer,
        E::UnsupportedModel { .. } | E::UnsupportedDecoder { .. } => ErrorKind::Unsupported,
        E::Unencodable { .. } => ErrorKind::InvalidArgument,
        E::WrongType { .. }
        | E::TooManyTokens { .. }
        | E::LengthMismatch { .. }
        | E::DuplicateToken { .. }
        | E::DuplicateId { .. }
        | E::NanScore { .. }
        | E::MalformedByteToken { .. }
        | E::MalformedMerge { .. }
        | E::MergeOfUnknownToken { .. }
        | E::IdOutOfRange { .. }
        | E::Json { .. }
        | E::Library { .. } => ErrorKind::Damaged,
    }
}

#[cfg(feature = "chat")]
fn of_template(error: &crate::generate::chat::TemplateError) -> ErrorKind {
    use crate::generate::chat::TemplateError as E;
    match error {
        E::Missing { .. } => ErrorKind::NoChatTemplate,
        E::Syntax { .. }
        | E::UnknownName { .. }
        | E::Raised { .. }
        | E::Render { .. }
        | E::TooManySteps { .. }
        | E::TooLarge { .. }
        | E::TooLong { .. } => ErrorKind::Template,
    }
}

/// `Result` with the crate's [`Error`].
pub type Result<T, E = Error> = core::result::Result<T, E>;
