//! What is thrown: a JavaScript `Error` whose `code` programs can compare. The codes are those of core's [`ErrorKind`].

use sterna_core::formats::FormatError;
use sterna_core::generate::GenerateError;
use sterna_core::gguf::GgufError;
use sterna_core::image::ImageError;
use sterna_core::model::ModelError;
use sterna_core::{Error, ErrorKind};
use wasm_bindgen::prelude::*;

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What kind of fault it is.
    pub kind: ErrorKind,
    /// The cause and the remedy, for people.
    pub message: String,
}

/// `Result` with a [`Failure`].
pub type Result<T> = core::result::Result<T, Failure>;

impl Failure {
    /// A failure that core does not know.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// The caller asked for what cannot be.
    pub fn argument(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidArgument, message)
    }
}

impl From<Failure> for JsValue {
    fn from(failure: Failure) -> Self {
        let error = js_sys::Error::new(&failure.message);
        // Setting a property of a fresh object does not fail.
        let _ = js_sys::Reflect::set(&error, &"code".into(), &failure.kind.code().into());
        error.into()
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(error.kind(), error.to_string())
    }
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        Self::argument(error.to_string())
    }
}

macro_rules! through_core {
    ($($error:ty),*) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Error::from(error).into()
            }
        }
    )*};
}

through_core!(GgufError, FormatError, ModelError, GenerateError);
#[cfg(feature = "text")]
through_core!(sterna_core::tokenizer::TokenizerError);
