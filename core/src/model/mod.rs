//! The decoder: token ids in, logits out.
//!
//! [`Architecture`] is a row of the table that says how `general.architecture` fills a [`Config`]; [`Loader`] takes tensors one
//! by one and packs them; [`Transformer`] is the result, shared and immutable; [`State`] is one conversation's KV cache.
//!
//! [`image`] has the other kind of model: pictures in, scores of their classes out.
//!
//! Not here: text (that is `tokenizer` and `generate`) and files.

mod architecture;
mod cache;
mod config;
mod decoder;
mod error;
pub mod image;
mod loader;
mod memory;
mod positions;
mod tensor;
mod vocabulary;
mod weights;

pub use architecture::{ARCHITECTURES, Architecture, NormKind};
pub use cache::Cache;
pub use config::{Config, warnings};
pub use decoder::{Input, InputSquares, Logits, State, Transformer};
pub use error::ModelError;
pub use loader::{LoadOptions, Loader, refusals};
pub use memory::Memory;
pub use vocabulary::{is_padding_token, rows_without_tokens};
pub use weights::TensorReport;
