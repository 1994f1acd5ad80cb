//! The KV cache: keys and values of all past tokens in f16, grown as tokens come.

use super::error::ModelError;

/// One layer's keys and values.
#[derive(Clone, Debug, Default)]
pub(super) struct LayerCache {
    /// f16 bits, `[tokens, n_head_kv, padded head_dim]`
    pub keys: Vec<u16>,
    /// f16 bits, laid out as the keys
    pub values: Vec<u16>,
}

/// Keys and values of every layer.
#[derive(Clone, Debug)]
pub struct Cache {
    pub(super) layers: Vec<LayerCache>,
    /// Elements of one token in one layer.
    width: usize,
    tokens: usize,
}

/// Tokens that room is made for at a time, once there are so many; the first few double.
const STEP: usize = 256;

/// Tokens that room is made for when there are `tokens`.
fn room(tokens: usize) -> usize {
    let doubled = tokens.checked_next_power_of_two().unwrap_or(usize::MAX);
    doubled.min(tokens.checked_next_multiple_of(STEP).unwrap_or(usize::MAX))
}

/// Bytes of the keys and values of `tokens` tokens in `layers` layers, `width` elements a token each.
pub(super) fn bytes_needed(layers: usize, width: usize, tokens: usize) -> u64 {
    (2 * size_of::<u16>() as u64)
        .saturating_mul(layers as u64)
        .saturating_mul(width as u64)
        .saturating_mul(room(tokens) as u64)
}

impl Cache {
    /// An empty cache of `layers` layers, `width` elements a token each for keys and for values.
    pub(super) fn new(layers: usize, width: usize) -> Self {
        Self { layers: vec![LayerCache::default(); layers], width, tokens: 0 }
    }

    /// Tokens held.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Bytes allocated.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(|layer| 2 * (layer.keys.capacity() + layer.values.capacity())).sum()
    }

    /// Makes room for `more` tokens in every layer, zeroed. Room doubles while it is small, then grows by [`STEP`].
    ///
    /// # Errors
    /// If there is no memory for them; the tokens held so far stay.
    pub(super) fn extend(&mut self, more: usize) -> Result<(), ModelError> {
        let tokens = self.tokens + more;
        let capacity = room(tokens).saturating_mul(self.width);
        let bytes = (4 * self.layers.len()).saturating_mul(capacity);
        for layer in &mut self.layers {
            for data in [&mut layer.keys, &mut layer.values] {
                data.truncate(self.tokens * self.width);
                if data.capacity() < tokens.saturating_mul(self.width) {
                    let more = capacity - data.len();
                    data.try_reserve_exact(more).map_err(|_| ModelError::CacheTooLarge { tokens, bytes })?;
                }
                data.resize(tokens * self.width, 0);
            }
        }
        self.tokens = tokens;
        Ok(())
    }

    /// Forgets all tokens from `tokens` on.
    pub fn truncate(&mut self, tokens: usize) {
        self.tokens = self.tokens.min(tokens);
    }
}
