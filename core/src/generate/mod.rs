//! Text in, text out: a loaded [`Model`], conversations with it ([`Session`]), sampling.
//!
//! Not here: files, terminals, servers; those are hosts.

#[cfg(feature = "chat")]
pub mod chat;
mod ranking;
mod sampling;
mod session;
#[cfg(feature = "tokenizer")]
mod text;

use crate::error::Error;
use crate::gguf::{Gguf, Header, Metadata, TensorInfo};
use crate::kernels::{Executor, Serial};
use crate::model::{self, LoadOptions, Loader, ModelError, Transformer};
#[cfg(feature = "tokenizer")]
use crate::tokenizer::{Tokenizer, TokenizerError};
use std::sync::Arc;

pub use ranking::LogProbabilities;
pub use sampling::{Sampler, Sampling};
pub use session::{Draws, Finish, GenerateOptions, PIECE, Session, SessionOptions, Tokens};
#[cfg(feature = "tokenizer")]
pub use text::{Generation, Reply};

/// Why generation stopped with an error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// The model computed NaN.
    #[error(
        "the model's score of token {id} is not a number: its weights overflow; download or convert the file again"
    )]
    NotANumber {
        /// The first such token.
        id: u32,
    },
    /// A bias is for a token that the model does not have.
    #[error("there is no token {id} to bias: the model has {vocabulary}, from 0 on")]
    BiasOutside {
        /// The token.
        id: u32,
        /// How many there are.
        vocabulary: usize,
    },
    /// No token can be chosen.
    #[error("the model gives no token any probability; download or convert the file again")]
    NoTokens,
    /// Nothing was fed yet.
    #[error(
        "there is nothing to continue: the prompt has no tokens and the model has no token that begins a text; give a prompt"
    )]
    EmptyPrompt,
    /// The file has no vocabulary.
    #[error(
        "the file has no tokenizer (tokenizer.ggml.model), so the model speaks token ids only; convert it together with its tokenizer"
    )]
    NoTokenizer,
}

/// Whether a file carries a vocabulary: `tokenizer.ggml.model` is there, and is neither `none` nor `no_vocab`, which say that
/// the model takes and gives token ids only.
pub fn has_vocabulary(metadata: &Metadata) -> bool {
    metadata.contains("tokenizer.ggml.model")
        && !matches!(metadata.str("tokenizer.ggml.model"), Some("none" | "no_vocab"))
}

/// The vocabulary of a file for its model, if the file has one.
///
/// # Errors
/// As [`Tokenizer::from_metadata`].
#[cfg(feature = "tokenizer")]
pub fn vocabulary(header: &Header) -> Result<Option<Tokenizer>, TokenizerError> {
    if !has_vocabulary(&header.metadata) {
        return Ok(None);
    }
    let rows = header.tensor("token_embd.weight").and_then(|embedding| usize::try_from(embedding.rows()).ok());
    match rows {
        Some(rows) => Tokenizer::for_rows(&header.metadata, rows),
        None => Tokenizer::from_metadata(&header.metadata),
    }
    .map(Some)
}

/// A model that is loaded: its decoder, and what the file says of text. Cheap to clone; parts are shared.
#[derive(Clone, Debug)]
pub struct Model {
    transformer: Arc<Transformer>,
    metadata: Arc<Metadata>,
    #[cfg(feature = "tokenizer")]
    tokenizer: Option<Arc<Tokenizer>>,
    warnings: Arc<[String]>,
}

/// A model on its way: given a header, then its tensors one by one, in any order.
pub struct ModelLoader {
    loader: Loader,
    metadata: Metadata,
    #[cfg(feature = "tokenizer")]
    tokenizer: Option<Arc<Tokenizer>>,
    warnings: Vec<String>,
}

impl ModelLoader {
    /// Checks all that the header tells, the vocabulary included, and chooses the kernel.
    ///
    /// # Errors
    /// If something is damaged or not supported; no tensor data is needed to know.
    pub fn new(header: &Header, options: &LoadOptions) -> Result<Self, Error> {
        let loader = Loader::new(header, options)?;
        let metadata = header.metadata.clone();
        let mut warnings = model::warnings(header);
        #[cfg(feature = "tokenizer")]
        let tokenizer = vocabulary(header)?.map(Arc::new);
        #[cfg(feature = "tokenizer")]
        warnings.extend(tokenizer.iter().flat_map(|tokenizer| tokenizer.warnings()).cloned());
        if has_vocabulary(&metadata) {
            warnings.extend(model::rows_without_tokens(header));
        } else {
            warnings.push("the file has no tokenizer: the model takes and gives token ids only".to_owned());
        }
        Ok(Self {
            loader,
            metadata,
            #[cfg(feature = "tokenizer")]
            tokenizer,
            warnings,
        })
    }

    /// What is odd about the file but no reason to refuse it, each a sentence for the user. The header tells all of it.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Packs one tensor; see [`Loader::tensor`].
    ///
    /// # Errors
    /// If its bytes are too few or hold values that cannot be.
    pub fn tensor(&mut self, info: &TensorInfo, bytes: &[u8], exec: &dyn Executor) -> Result<(), Error> {
        Ok(self.loader.tensor(info, bytes, exec)?)
    }

    /// The model, when all tensors are there.
    ///
    /// # Errors
    /// If one was never handed over.
    pub fn finish(self) -> Result<Model, Error> {
        Ok(Model {
            transformer: Arc::new(self.loader.finish()?),
            metadata: Arc::new(self.metadata),
            #[cfg(feature = "tokenizer")]
            tokenizer: self.tokenizer,
            warnings: self.warnings.into(),
        })
    }
}

impl Model {
    /// Loads a whole GGUF that is in memory, on the caller's thread.
    ///
    /// # Errors
    /// If the file is damaged, or something in it is not supported.
    pub fn from_gguf(bytes: &[u8]) -> Result<Self, Error> {
        let file = Gguf::parse(bytes)?;
        Self::from_file(&file, &LoadOptions::default(), &Serial)
    }

    /// Loads a parsed file.
    ///
    /// # Errors
    /// As [`from_gguf`](Self::from_gguf).
    pub fn from_file(file: &Gguf<'_>, options: &LoadOptions, exec: &dyn Executor) -> Result<Self, Error> {
        let mut loader = ModelLoader::new(file.header(), options)?;
        for info in &file.header().tensors {
            loader.tensor(info, file.data(info), exec)?;
        }
        loader.finish()
    }

    /// The decoder.
    pub fn transformer(&self) -> &Arc<Transformer> {
        &self.transformer
    }

    /// The file's metadata.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// What is odd about the file but no reason to refuse it, each a sentence for the user. Hosts show them wherever they load
    /// a model.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The file's tokenizer.
    ///
    /// # Errors
    /// If the file has none.
    #[cfg(feature = "tokenizer")]
    pub fn tokenizer(&self) -> Result<&Tokenizer, GenerateError> {
        self.tokenizer.as_deref().ok_or(GenerateError::NoTokenizer)
    }

    /// Starts a conversation.
    pub fn session(&self, options: SessionOptions) -> Session {
        Session::new(self.clone(), options)
    }

    /// What turns a conversation into the text that this model continues: a template that is given (its source, or the name
    /// of a built-in one), else the file's own, else the built-in one that its vocabulary was made for.
    ///
    /// # Errors
    /// If there is none of these, the template does not parse, or the file has no tokenizer.
    #[cfg(all(feature = "chat", feature = "tokenizer"))]
    pub fn chat_template(&self, given: Option<&str>) -> Result<chat::ChatTemplate, Error> {
        use chat::{ChatTemplate, TemplateError};
        let tokenizer = self.tokenizer()?;
        let word = |id: Option<u32>| id.and_then(|id| tokenizer.text(id));
        let (bos, eos) = (word(tokenizer.bos()), word(tokenizer.eos()));
        let guess = || ChatTemplate::guess(|text| tokenizer.id(text).is_some());
        match given.or_else(|| self.metadata().str("tokenizer.chat_template")).or_else(guess) {
            Some(source) => Ok(ChatTemplate::new(source, bos, eos)?),
            None => Err(TemplateError::Missing { known: ChatTemplate::known_names() }.into()),
        }
    }

    fn check_tokens(&self, tokens: &[u32]) -> Result<(), ModelError> {
        let vocabulary = self.transformer.vocabulary();
        match tokens.iter().find(|&&id| id as usize >= vocabulary) {
            Some(&id) => Err(ModelError::TokenOutside { id, vocabulary }),
            None => Ok(()),
        }
    }
}
