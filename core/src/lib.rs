//! sterna-core: bytes in, numbers out.
//!
//! Loads ternary GGUF models and runs them. The crate opens no files and no sockets, reads no clock, starts no
//! threads and keeps no global state; hosts (the CLI, the browser bindings) bring those.
//!
//! Arrows run one way: `error`, `gguf`, `formats`, `ternary`, `kernels`, `ops`, `model`, `generate`, each leaning only
//! on those before it; `tokenizer`, `jinja` and `image` stand beside them.

pub mod error;
pub mod formats;
pub mod generate;
pub mod gguf;
pub mod image;
#[cfg(feature = "chat")]
pub(crate) mod jinja;
pub mod kernels;
pub mod model;
pub mod ops;
pub mod ternary;
#[cfg(feature = "tokenizer")]
pub mod tokenizer;

pub use error::{Error, ErrorKind, Result};
pub use generate::{Model, Sampling, Session, SessionOptions};
