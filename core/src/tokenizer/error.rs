//! What can be wrong with a vocabulary.

/// Why a tokenizer could not be built or could not encode: one variant for each malformation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// A key that every vocabulary needs is absent.
    #[error("metadata has no `{key}`: the file carries no vocabulary; convert it again with its tokenizer")]
    MissingKey {
        /// The GGUF key.
        key: &'static str,
    },
    /// A key holds a value of another type than the format says.
    #[error("metadata `{key}` is not {expected}; the file was written by a faulty converter, convert the model again")]
    WrongType {
        /// The GGUF key.
        key: &'static str,
        /// What the value should be.
        expected: &'static str,
    },
    /// `tokenizer.ggml.model` names a kind of tokenizer that is not implemented.
    #[error(
        "tokenizer.ggml.model is `{name}`, which is not supported (supported: gpt2, llama); use a model with one of these vocabularies"
    )]
    UnsupportedModel {
        /// The name in the file.
        name: String,
    },
    /// The vocabulary has no tokens at all.
    #[error("tokenizer.ggml.tokens is empty: the file carries no vocabulary; convert it again with its tokenizer")]
    EmptyVocabulary,
    /// More tokens than ids can number.
    #[error(
        "the vocabulary numbers {found} tokens, at most {limit} are accepted; the file is damaged, download it again"
    )]
    TooManyTokens {
        /// How many there are, or the highest id plus one.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// An array beside the tokens is not as long as the tokens.
    #[error(
        "`{key}` has {found} entries for {tokens} tokens: the file is damaged or was edited by hand, download it again"
    )]
    LengthMismatch {
        /// The GGUF key.
        key: &'static str,
        /// Its length.
        found: usize,
        /// The number of tokens.
        tokens: usize,
    },
    /// Two tokens have the same text, so that text has no one id.
    #[error("tokens {first} and {second} are both {text:?}: a text must name one id; convert the model again")]
    DuplicateToken {
        /// The text.
        text: String,
        /// The lower id.
        first: u32,
        /// The higher id.
        second: u32,
    },
    /// Two texts have the same id.
    #[error("{texts:?} are both token {id}: an id must name one text; mend the file")]
    DuplicateId {
        /// The id.
        id: u32,
        /// The texts, in order.
        texts: [String; 2],
    },
    /// A score is not a number, so merges have no order.
    #[error("tokenizer.ggml.scores[{id}] is not a number; the file is damaged, download it again")]
    NanScore {
        /// The token.
        id: u32,
    },
    /// A token of byte type is not written `<0xXX>`.
    #[error("token {id} is of byte type but reads {text:?} instead of `<0x00>` to `<0xFF>`; convert the model again")]
    MalformedByteToken {
        /// The token.
        id: u32,
        /// Its text.
        text: String,
    },
    /// A merge is not two non-empty texts with a space between them (an empty side would merge a token into itself).
    #[error(
        "tokenizer.ggml.merges[{index}] is {text:?} instead of two tokens separated by a space; the file is damaged, download it again"
    )]
    MalformedMerge {
        /// Its place in the list.
        index: usize,
        /// The whole entry.
        text: String,
    },
    /// A merge names, or produces, a text that is no token.
    #[error(
        "merge {index}, {merge:?}, needs the token {missing:?}, which the vocabulary does not have; the file is damaged, download or convert it again"
    )]
    MergeOfUnknownToken {
        /// Its place in the list.
        index: usize,
        /// The whole entry.
        merge: String,
        /// The text without a token.
        missing: String,
    },
    /// An id that is given for a special token is not in the vocabulary.
    #[error("{key} is {id}, but the vocabulary ends at {last}; give the id of a token of this vocabulary")]
    IdOutOfRange {
        /// The name of the argument.
        key: &'static str,
        /// The id.
        id: u64,
        /// The highest id of the vocabulary.
        last: u32,
    },
    /// The text holds a character for which the vocabulary has neither a token, nor bytes, nor an unknown token.
    #[error("the vocabulary has no token for {character:?}, nor an unknown token: leave that character out")]
    Unencodable {
        /// The character.
        character: String,
    },
    /// A `tokenizer.json` is not what the tokenizers library reads.
    #[error("tokenizer.json: {reason}")]
    Json {
        /// What is wrong.
        reason: String,
    },
    /// A `tokenizer.json` decodes in a way that is not implemented.
    #[error(
        "tokenizer.json decodes with {found}, which is not supported (supported: ByteLevel, Metaspace, Replace of U+2581 with ByteFallback)"
    )]
    UnsupportedDecoder {
        /// The decoder.
        found: String,
    },
    /// The tokenizers or regex library refused something that passed our own checks.
    #[error("tokenizer library: {reason}")]
    Library {
        /// The library's words.
        reason: String,
    },
}

impl TokenizerError {
    pub(super) fn library(error: impl core::fmt::Display) -> Self {
        TokenizerError::Library { reason: error.to_string() }
    }
}
