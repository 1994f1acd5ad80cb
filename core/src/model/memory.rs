//! How much memory a model needs, known from its header before any tensor is read.

use super::cache;
use super::config::Config;
use super::decoder::BATCH;
use super::error::ModelError;
use super::image;
use super::loader::Plan;
use super::tensor::{Place, held_bytes};
use crate::formats::Format;
use crate::gguf::{Header, Metadata};
use std::collections::HashMap;

/// What a model takes in memory. All sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// The weights once they are packed. Fewer where the rows of a matrix turn out to have one scale each.
    pub weights: u64,
    /// Metadata and vocabulary.
    pub text: u64,
    /// Buffers of a batch and logits, of one conversation.
    pub scratch: u64,
    /// Layers with keys and values.
    layers: usize,
    /// Elements of one token's keys in one layer.
    width: usize,
    /// Tokens of context that the model was made for.
    context: usize,
}

impl Memory {
    /// Computes what loading and running a file will take.
    ///
    /// # Errors
    /// The first of [`refusals`](super::refusals).
    pub fn of(header: &Header) -> Result<Self, ModelError> {
        let text = text(&header.metadata);
        if header.metadata.str("general.architecture") == Some(image::ARCHITECTURE) {
            let weights = weights(header, &image::plan(header)?);
            return Ok(Self { weights, text, scratch: 0, layers: 0, width: 0, context: 0 });
        }
        let config = Config::from_header(header)?;
        let plan = Plan::of(&config, header).map_err(|mut errors| errors.swap_remove(0))?;
        let vocabulary = header.tensor("token_embd.weight").map_or(0, |embedding| embedding.rows());
        Ok(Self {
            weights: weights(header, &plan.places),
            text,
            scratch: scratch(&config, BATCH as u64).saturating_add(vocabulary.saturating_mul(LOGITS)),
            layers: config.n_layer,
            width: config.cache_width(),
            context: config.n_ctx,
        })
    }

    /// Tokens of context that the model was made for; 0 for a model without a cache.
    pub fn context(&self) -> usize {
        self.context
    }

    /// The keys and values of `tokens` tokens.
    pub fn cache(&self, tokens: usize) -> u64 {
        cache::bytes_needed(self.layers, self.width, tokens)
    }

    /// All that is needed for a conversation of `tokens` tokens.
    pub fn total(&self, tokens: usize) -> u64 {
        [self.weights, self.text, self.scratch, self.cache(tokens)].into_iter().fold(0, u64::saturating_add)
    }
}

/// Bytes for each token of the vocabulary: logits of the decoder and of the session, candidates with their probabilities.
const LOGITS: u64 = 4 + 4 + 8;

/// Bytes of a tokenizer's tables for each token and each merge, as they were measured (`tests/allocation.rs`), and of what every
/// tokenizer has.
const TOKEN: u64 = 200;
const MERGE: u64 = 60;
const TOKENIZER: u64 = 3 << 18;

/// The metadata, once in the header and once in the model, and the tokenizer that is made of it.
fn text(metadata: &Metadata) -> u64 {
    let items = |key: &str| metadata.array(key).map_or(0, |array| array.len() as u64);
    let (tokens, merges) = (items("tokenizer.ggml.tokens"), items("tokenizer.ggml.merges"));
    let tokenizer = if tokens == 0 { 0 } else { TOKENIZER + tokens * TOKEN + merges * MERGE };
    metadata.bytes().saturating_mul(2).saturating_add(tokenizer)
}

fn weights(header: &Header, places: &HashMap<String, (Place, Format)>) -> u64 {
    let held = header.tensors.iter().filter_map(|info| {
        let &(place, format) = places.get(&info.name)?;
        Some(held_bytes(info, format, place))
    });
    held.fold(0, u64::saturating_add)
}

/// The buffers that a batch of `n` tokens passes through.
fn scratch(c: &Config, n: u64) -> u64 {
    let a = c.architecture;
    let [embd, ff, q, kv] = [c.n_embd, c.n_ff, c.q_width(), c.kv_width()].map(|width| width as u64);
    let padded = c.n_head as u64 * c.padded_head() as u64;
    let widest = embd.max(ff).max(q);
    let (qkv, gate_and_up) = (u64::from(a.fused_qkv) * (q + 2 * kv), u64::from(a.fused_gate) * 2 * ff);
    // A buffer that serves twice is there in both sizes while it grows.
    let growing = qkv.min(gate_and_up).max(if a.sub_norms { q.min(ff) } else { 0 });
    let floats = [
        // x, normed, out
        3 * embd,
        if c.n_streams > 1 { c.n_streams as u64 * embd } else { 0 },
        q + 2 * kv,
        qkv.max(gate_and_up),
        growing,
        // queries, heads
        2 * padded,
        if padded == q { 0 } else { q },
        // hidden, up
        if a.gated && !a.fused_gate { 2 * ff } else { ff },
        if a.sub_norms { q.max(ff) } else { 0 },
        // int8 activations with their scales and sums, and once more while they grow
        2 * (widest / 4 + widest / 32),
        // cosines and sines, likewise
        c.rope.as_ref().map_or(0, |rope| 2 * rope.rotated as u64),
    ];
    floats.into_iter().sum::<u64>().saturating_mul(4 * n)
}
