//! Hyperparameters of a model, read from metadata and checked.

mod keys;
mod rope;
mod unread;

use super::architecture::{ARCHITECTURES, Architecture};
use super::error::ModelError;
use crate::gguf::Header;
use crate::kernels::LANES;
use crate::ops::{Rope, hyper_connections};
use keys::Keys;

pub(super) use rope::LONG_SETS;
pub use unread::warnings;

/// Sizes and constants of a decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The row of the table.
    pub architecture: &'static Architecture,
    /// Blocks.
    pub n_layer: usize,
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Residual streams of that width; 1 in a plain model.
    pub n_streams: usize,
    /// Width of the feed-forward layer.
    pub n_ff: usize,
    /// Query heads.
    pub n_head: usize,
    /// Key and value heads; each serves `n_head / n_head_kv` query heads.
    pub n_head_kv: usize,
    /// Elements of a head of q, k and v.
    pub head_dim: usize,
    /// Tokens of context that the model was made for.
    pub n_ctx: usize,
    /// Added under the root in norms.
    pub eps: f32,
    /// Factor on attention scores.
    pub attention_scale: f32,
    /// Tokens that a token sees of what is before it, itself included; `None` for all.
    pub window: Option<usize>,
    /// Rotary positions. The factors that come as tensors are filled in by the loader.
    pub rope: Option<Rope>,
}

/// No hyperparameter of any model comes near, nor any width of a matrix.
const MAX_SIZE: usize = 1 << 24;

impl Config {
    /// Reads the hyperparameters.
    ///
    /// # Errors
    /// A key that is missing, of a wrong type, or senseless; an architecture without a row; a feature that must not be ignored.
    pub fn from_header(header: &Header) -> Result<Self, ModelError> {
        let metadata = &header.metadata;
        let name = metadata.require_str("general.architecture")?;
        let Some(architecture) = Architecture::of(name) else {
            if name == super::image::ARCHITECTURE {
                return Err(ModelError::NotText { architecture: super::image::ARCHITECTURE });
            }
            let supported = ARCHITECTURES.iter().map(|row| row.name).collect::<Vec<_>>().join(", ");
            return Err(ModelError::UnknownArchitecture { name: name.to_owned(), supported });
        };
        let keys = Keys::of(header, name);
        unread::refuse(&keys)?;
        let n_layer = keys.size("block_count")?;
        let n_embd = keys.size("embedding_length")?;
        let n_head = keys.size_of_layers("attention.head_count", n_layer)?;
        let n_head_kv = keys.optional_size_of_layers("attention.head_count_kv", n_layer)?.unwrap_or(n_head);
        if !n_head.is_multiple_of(n_head_kv) {
            return Err(keys.bad("attention.head_count_kv", n_head_kv, format!("must divide the {n_head} heads")));
        }
        let head_dim = match keys.optional_size("attention.key_length")? {
            Some(length) => length,
            None if n_embd.is_multiple_of(n_head) => n_embd / n_head,
            None => {
                let expected = format!("must divide the embedding length {n_embd} where no key length is given");
                return Err(keys.bad("attention.head_count", n_head, expected));
            }
        };
        if let Some(length) = keys.optional_size("attention.value_length")?
            && length != head_dim
        {
            return Err(keys.bad("attention.value_length", length, format!("must equal the key length {head_dim}")));
        }
        // The width of q, which that of k and v divides: multiplied freely from here on, on 32-bit machines too.
        if n_head as u64 * head_dim as u64 > MAX_SIZE as u64 {
            let expected = format!("must give at most {MAX_SIZE} elements with {head_dim} in each head");
            return Err(keys.bad("attention.head_count", n_head, expected));
        }
        let eps_key = match architecture.norm {
            super::NormKind::Rms => "attention.layer_norm_rms_epsilon",
            super::NormKind::Layer => "attention.layer_norm_epsilon",
        };
        let eps = metadata.require_f32(&keys.key(eps_key))?;
        if !(eps > 0.0 && eps < 1.0) {
            return Err(keys.bad(eps_key, eps, "must be a small positive number".into()));
        }
        let n_ctx = keys.size("context_length")?;
        Ok(Self {
            architecture,
            n_layer,
            n_embd,
            n_streams: keys.streams(architecture)?,
            n_ff: keys.size_of_layers("feed_forward_length", n_layer)?,
            n_head,
            n_head_kv,
            head_dim,
            n_ctx,
            eps,
            attention_scale: keys.unless_zero("attention.scale")?.unwrap_or(1.0 / (head_dim as f32).sqrt()),
            window: keys.window(n_layer)?,
            rope: architecture.rope.map(|style| keys.rope(style, head_dim, n_ctx)).transpose()?,
        })
    }

    /// Elements that the attention's heads have together, `n_head * head_dim`.
    pub fn q_width(&self) -> usize {
        self.n_head * self.head_dim
    }

    /// Elements of the keys (or values) of one token, `n_head_kv * head_dim`.
    pub fn kv_width(&self) -> usize {
        self.n_head_kv * self.head_dim
    }

    /// Elements of a head as they lie in the cache: rounded up to the kernels' sixteen lanes.
    pub(super) fn padded_head(&self) -> usize {
        self.head_dim.next_multiple_of(LANES)
    }

    /// Elements of the keys (or values) of one token in the cache, `n_head_kv * padded_head`.
    pub(super) fn cache_width(&self) -> usize {
        self.n_head_kv * self.padded_head()
    }
}

impl Keys<'_> {
    /// The number of residual streams; absent is one.
    fn streams(&self, architecture: &Architecture) -> Result<usize, ModelError> {
        let name = "hyper_connections";
        let streams = self.optional_size(name)?.unwrap_or(1);
        if streams != 1 && !architecture.hyper_connections {
            return Err(self.bad(name, streams, "only the sterna architecture has more than 1 residual stream".into()));
        }
        if streams != 1 && !hyper_connections::STREAMS.contains(&streams) {
            return Err(self.bad(name, streams, "must be 1, 2 or 4".into()));
        }
        Ok(streams)
    }

    /// The attention's window, the same in all layers; zero, or more than any context, is none.
    fn window(&self, n_layer: usize) -> Result<Option<usize>, ModelError> {
        let name = "attention.sliding_window";
        if !self.contains(name) {
            return Ok(None);
        }
        let window = self.metadata.require_u64(&self.key(name))?;
        let window = (1..=MAX_SIZE as u64).contains(&window).then_some(window as usize);
        match window {
            Some(window) if self.windowed(n_layer)? => Ok(Some(window)),
            _ => Ok(None),
        }
    }

    /// Whether the window is that of all layers, or of none; where some have it, the model is refused.
    fn windowed(&self, n_layer: usize) -> Result<bool, ModelError> {
        let name = "attention.sliding_window_pattern";
        if !self.contains(name) {
            return Ok(true);
        }
        let key = self.key(name);
        let layers: Vec<bool> = match self.metadata.array(&key) {
            Some(array) => {
                self.check_length(name, array, n_layer)?;
                let of_integers = || array.integers::<u64>().map(|items| items.iter().map(|&item| item != 0).collect());
                let layers = self.metadata.bools(&key).map(<[bool]>::to_vec).or_else(of_integers);
                layers.ok_or_else(|| self.wrong_type(name, "an integer, or a bool for each layer"))?
            }
            // Every n-th layer sees everything; 0 is none of them.
            None => match self.metadata.require_u64(&key)? {
                0 => return Ok(true),
                1 => return Ok(false),
                n if n > n_layer as u64 => return Ok(true),
                _ => vec![true, false],
            },
        };
        match layers.iter().filter(|&&windowed| windowed).count() {
            0 => Ok(false),
            count if count == layers.len() => Ok(true),
            _ => Err(self.unsupported(
                name,
                "a sliding window in some of the layers only",
                "Use a model with one window for all layers, or none.",
            )),
        }
    }
}
