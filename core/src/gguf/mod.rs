//! The GGUF container: metadata, tensor directory, tensor bytes.
//!
//! Reads GGUF version 2 and 3 from a byte slice ([`Gguf`], no copies of tensor data) and from a stream of chunks
//! ([`StreamReader`], one tensor buffered at a time), writes version 3 ([`Writer`]), and joins files that were split
//! ([`ShardName`], [`merge`]). Both readers run the same parser, so they accept and refuse the same files.
//!
//! Every byte is taken as hostile: counts are bounded by the bytes that are left, arithmetic is checked, and memory
//! grows only with bytes that have arrived.
//!
//! Not here: what the bytes of a tensor mean (that is `formats`), which keys a model needs (`model`), and files.
//!
//! Layout, all little-endian:
//!
//! ```text
//! "GGUF"  version u32  n_tensors u64  n_keys u64
//! n_keys    x { key string, type u32, value }          string = length u64, UTF-8 bytes; array = type u32, n u64, items
//! n_tensors x { name string, n_dims u32, dims u64.., type u32, offset u64 }
//! padding to general.alignment, then tensor data; offsets count from here
//! ```

mod error;
mod header;
#[cfg(feature = "json")]
mod json;
mod metadata;
mod parser;
mod reader;
mod shards;
mod stream;
mod text;
mod value;
mod writer;

pub use error::{GgufError, not_fetched};
pub use header::{Header, TensorInfo};
pub use metadata::Metadata;
pub use reader::Gguf;
pub use shards::{Merged, ShardName, merge};
pub use stream::{Event, StreamReader};
pub use text::{readable, string_bytes};
pub use value::{Array, Value, ValueType};
pub use writer::{TensorDecl, Writer};

/// The four bytes that begin every GGUF file.
pub const MAGIC: [u8; 4] = *b"GGUF";

/// The alignment of tensor data when `general.alignment` is absent.
pub const DEFAULT_ALIGNMENT: u64 = 32;

/// The key that names the alignment of tensor data.
pub const ALIGNMENT_KEY: &str = "general.alignment";

/// The largest alignment accepted. Files in the wild use 32 and, for mapping by pages, 4096 or 16384.
pub const MAX_ALIGNMENT: u64 = 1 << 20;

/// The most metadata keys accepted; the largest real files have a few hundred.
pub const MAX_KEYS: u64 = 1 << 20;

/// The most tensors accepted; the largest real files have tens of thousands.
pub const MAX_TENSORS: u64 = 1 << 20;

/// The longest key or tensor name accepted, in bytes (the specification's limit for keys).
pub const MAX_NAME_BYTES: u64 = (1 << 16) - 1;

/// The longest string value accepted, in bytes; an embedded tokenizer description may reach some 30 MB.
pub const MAX_STRING_BYTES: u64 = 1 << 26;

/// How deep arrays may nest; files in the wild do not nest them at all.
pub const MAX_DEPTH: usize = 8;

/// The most dimensions of a tensor, as in ggml.
pub const MAX_DIMS: u32 = 4;
