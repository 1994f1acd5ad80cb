//! The forward pass, one for all architectures.

use super::cache::Cache;
use super::config::Config;
use super::error::ModelError;
use super::positions::Positions;
use super::weights::{Layer, Linear, Qkv, TensorReport, Up, Weights};
use crate::kernels::{Attention, Compute, Executor, Kernel, chunks_mut};
use crate::ops::hyper_connections::{self, Mixing};
use crate::ops::{HyperConnection, Norm, Rotations};
use crate::ternary::{Matrix, QuantizedRows};

/// A loaded decoder: shared and immutable.
pub struct Transformer {
    pub(super) config: Config,
    pub(super) weights: Weights,
    pub(super) kernel: &'static dyn Kernel,
    pub(super) reports: Vec<TensorReport>,
}

impl core::fmt::Debug for Transformer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Transformer").field("config", &self.config).field("kernel", &self.kernel.name()).finish()
    }
}

/// Which tokens of a batch logits are computed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logits {
    /// None: the tokens only enter the cache.
    None,
    /// The last token.
    Last,
    /// Every token.
    All,
}

/// Tokens that go through the layers together; more gain nothing and cost memory.
pub(super) const BATCH: usize = 256;

/// Tokens whose queries go over the keys and values together.
const ATTENTION_TOKENS: usize = 8;

/// One conversation: its KV cache and working memory.
pub struct State {
    cache: Cache,
    limit: usize,
    positions: Positions,
    scratch: Scratch,
    logits: Vec<f32>,
}

/// The four inputs of a block's matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// Of the projections to q, k and v, `[n_embd]`.
    Attention,
    /// Of the attention's output projection, `[n_head * head_dim]`.
    AttentionOutput,
    /// Of the feed-forward layer's first half, `[n_embd]`.
    FeedForward,
    /// Of its second half, `[n_ff]`.
    Down,
}

/// Sums of squares of what went into a model's matrices: how much an error in a column of weights counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InputSquares {
    /// `[blocks, 4]` of `[width]`
    sums: Vec<[Vec<f64>; 4]>,
    tokens: usize,
}

impl InputSquares {
    /// The mean squares, by column, of one input of a block; `None` if there is no such block or nothing was seen.
    pub fn mean(&self, block: usize, input: Input) -> Option<Vec<f32>> {
        let sums = &self.sums.get(block)?[input as usize];
        Some(sums.iter().map(|sum| (sum / self.tokens.max(1) as f64) as f32).collect())
    }

    /// Tokens that were seen.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Adds the rows of `x`, `[n, width]`.
    fn add(&mut self, block: usize, input: Input, x: &[f32], n: usize) {
        if self.sums.len() <= block {
            self.sums.resize_with(block + 1, Default::default);
        }
        let (sums, width) = (&mut self.sums[block][input as usize], x.len() / n.max(1));
        sums.resize(width, 0.0);
        for row in x.chunks_exact(width.max(1)) {
            sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x) * f64::from(x));
        }
        if (block, input) == (0, Input::Attention) {
            self.tokens += n;
        }
    }
}

/// Buffers of a batch, `[n, width]` each.
#[derive(Default)]
struct Scratch {
    /// The residual stream; where there are several, what a half of the block reads of them.
    x: Vec<f32>,
    /// The residual streams where there are several, `[n, n_streams, n_embd]`.
    streams: Vec<f32>,
    mixing: Mixing,
    normed: Vec<f32>,
    fused: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    /// q after norm and rotation, heads padded to sixteens.
    queries: Vec<f32>,
    /// The heads' outputs, padded likewise.
    heads: Vec<f32>,
    /// The heads' outputs without padding.
    unpadded: Vec<f32>,
    /// Of the feed-forward layer, between its halves.
    hidden: Vec<f32>,
    up: Vec<f32>,
    /// After a sub-norm.
    sub_normed: Vec<f32>,
    /// What a half of the block adds to the residual streams.
    out: Vec<f32>,
    quantized: QuantizedRows,
    squares: Option<InputSquares>,
}

impl State {
    /// From now on, sums the squares of what goes into the model's matrices.
    pub fn observe(&mut self) {
        self.scratch.squares.get_or_insert_default();
    }

    /// What was summed since [`observe`](Self::observe), which ends.
    pub fn observed(&mut self) -> Option<InputSquares> {
        self.scratch.squares.take()
    }

    /// Tokens in the cache.
    pub fn tokens(&self) -> usize {
        self.cache.tokens()
    }

    /// Tokens that fit.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes of the KV cache.
    pub fn cache_bytes(&self) -> usize {
        self.cache.bytes()
    }

    /// Forgets all tokens from `tokens` on, and what was said of the text's length.
    pub fn truncate(&mut self, tokens: usize) {
        self.cache.truncate(tokens);
        self.positions.truncate(tokens);
    }

    /// Says that the text will have at least `length` tokens, before it is fed in several calls. It matters to models whose
    /// rotary factors depend on the length of the text (LongRoPE): they read it with the right ones from its beginning on.
    /// True if the tokens in the cache were read with the others, so that the next call computes them again.
    pub fn expect(&mut self, length: usize) -> bool {
        self.positions.expect(length);
        self.tokens() > 0 && self.positions.other_factors(self.tokens()).is_some()
    }
}

impl Transformer {
    /// Sizes and constants.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The kernel that was chosen when the model was loaded.
    pub fn kernel(&self) -> &'static dyn Kernel {
        self.kernel
    }

    /// What became of each tensor.
    pub fn tensors(&self) -> &[TensorReport] {
        &self.reports
    }

    /// Tokens of the vocabulary: rows of the embedding.
    pub fn vocabulary(&self) -> usize {
        self.weights.embedding.rows()
    }

    /// Bytes of all weights in memory.
    pub fn bytes(&self) -> usize {
        self.reports.iter().map(|report| report.bytes).sum()
    }

    /// Bytes of weights that are read for one token: all but the embedding, unless it serves as the output too.
    pub fn bytes_a_token(&self) -> usize {
        let positions = self.weights.positions.as_ref().map_or(0, Matrix::bytes);
        let embedding = if self.weights.output.is_some() { self.weights.embedding.bytes() } else { 0 };
        self.bytes() - positions - embedding
    }

    /// Multiply-adds in matrix products for one token.
    pub fn multiplications_a_token(&self) -> u64 {
        let of = |m: &Matrix| m.rows() as u64 * m.cols() as u64;
        let layer = |layer: &Layer| {
            let qkv = match &layer.qkv {
                Qkv::Split { q, k, v } => of(&q.matrix) + of(&k.matrix) + of(&v.matrix),
                Qkv::Fused(qkv) => of(&qkv.matrix),
            };
            let up = match &layer.up {
                Up::Plain(up) | Up::FusedGate(up) => of(&up.matrix),
                Up::Gated { gate, up } => of(&gate.matrix) + of(&up.matrix),
            };
            let connections = [&layer.attention_connection, &layer.ffn_connection];
            let streams = connections.into_iter().flatten().map(|connection| of(connection.projection())).sum::<u64>();
            qkv + of(&layer.attention_out.matrix) + up + of(&layer.down.matrix) + streams
        };
        self.weights.layers.iter().map(layer).sum::<u64>() + of(self.output())
    }

    fn output(&self) -> &Matrix {
        self.weights.output.as_ref().map_or(&self.weights.embedding, |output| &output.matrix)
    }

    /// An empty conversation of at most `limit` tokens; `None` for what the model was made for.
    pub fn state(&self, limit: Option<usize>) -> State {
        let mut limit = limit.unwrap_or(self.config.n_ctx);
        if let Some(positions) = &self.weights.positions {
            limit = limit.min(positions.rows());
        }
        State {
            cache: Cache::new(self.config.n_layer, self.config.cache_width()),
            limit,
            positions: Positions::of(self.config.rope.as_ref()),
            scratch: Scratch::default(),
            logits: Vec::new(),
        }
    }

    /// Appends `tokens` to the conversation and gives the logits asked for, `[tokens asked for, vocabulary]`.
    ///
    /// The result does not depend on how tokens are cut into calls, on the kernel, or on the number of threads. With LongRoPE
    /// the length of the text at the end of the call, or the one that [`State::expect`] was told, chooses the factors for all
    /// of its positions, as in transformers. A call that makes the text longer than the original context computes the tokens
    /// before it again.
    ///
    /// # Errors
    /// If a token is outside the vocabulary or the context is full, nothing is appended; without memory for the cache, whole
    /// batches may have been.
    pub fn forward<'s>(
        &self,
        state: &'s mut State,
        exec: &dyn Executor,
        tokens: &[u32],
        logits: Logits,
    ) -> Result<&'s [f32], ModelError> {
        if let Some(&id) = tokens.iter().find(|&&id| id as usize >= self.vocabulary()) {
            return Err(ModelError::TokenOutside { id, vocabulary: self.vocabulary() });
        }
        let used = state.tokens();
        if tokens.len() > state.limit - used.min(state.limit) {
            return Err(ModelError::ContextFull { limit: state.limit, used, more: tokens.len() });
        }
        state.logits.clear();
        let compute = Compute { kernel: self.kernel, exec };
        if !tokens.is_empty() {
            self.choose_factors(&compute, state, used + tokens.len())?;
        }
        let batches = tokens.len().div_ceil(BATCH);
        for (i, batch) in tokens.chunks(BATCH).enumerate() {
            self.batch(&compute, state, batch)?;
            let from = match logits {
                Logits::All => 0,
                Logits::Last if i + 1 == batches => batch.len() - 1,
                _ => continue,
            };
            self.head(&compute, state, from);
        }
        Ok(&state.logits)
    }

    /// Takes the rotary factors that a text of `length` tokens needs; if they are others than those in use, the tokens in the
    /// cache are computed again.
    fn choose_factors(&self, compute: &Compute<'_>, state: &mut State, length: usize) -> Result<(), ModelError> {
        let Some(tokens) = state.positions.change_factors(length) else { return Ok(()) };
        state.cache.truncate(0);
        // They were observed when they first came.
        let squares = state.scratch.squares.take();
        let again = tokens.chunks(BATCH).try_for_each(|batch| self.batch(compute, state, batch));
        state.scratch.squares = squares;
        again
    }

    /// One batch through all layers; leaves the residual stream in `scratch.x`.
    fn batch(&self, compute: &Compute<'_>, state: &mut State, tokens: &[u32]) -> Result<(), ModelError> {
        let (c, n) = (&self.config, tokens.len());
        let first = state.cache.tokens();
        let State { cache, positions, scratch: s, .. } = state;
        cache.extend(n)?;
        positions.prepare(first, tokens);
        let rotations = positions.rotations();
        resize(&mut s.x, n * c.n_embd);
        compute.each_row(&mut s.x, c.n_embd, |t, x| {
            self.weights.embedding.dequantize_row(tokens[t] as usize, x);
            if let Some(positions) = &self.weights.positions {
                let mut position = vec![0.0; c.n_embd];
                positions.dequantize_row(first + t, &mut position);
                compute.kernel.add(x, &position);
            }
        });
        if c.n_streams > 1 {
            hyper_connections::expand(compute, c.n_streams, c.n_embd, &s.x, &mut s.streams);
        }
        for (i, layer) in self.weights.layers.iter().enumerate() {
            self.attention(compute, layer, i, cache, rotations, s, first, n);
            self.feed_forward(compute, layer, i, s, n);
        }
        if c.n_streams > 1 {
            hyper_connections::collapse(compute, c.n_streams, c.n_embd, &s.streams, &mut s.x);
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of State, borrowed apart")]
    fn attention(
        &self,
        compute: &Compute<'_>,
        layer: &Layer,
        index: usize,
        cache: &mut Cache,
        rotations: Option<&Rotations>,
        s: &mut Scratch,
        first: usize,
        n: usize,
    ) {
        let (c, head, padded) = (&self.config, self.config.head_dim, self.config.padded_head());
        let (q_width, kv_width) = (c.q_width(), c.kv_width());
        read_residual(compute, layer.attention_connection.as_ref(), s);
        normalize(compute, &layer.attention_norm, &s.x, &mut s.normed);
        if let Some(squares) = &mut s.squares {
            squares.add(index, Input::Attention, &s.normed, n);
        }
        resize(&mut s.q, n * q_width);
        resize(&mut s.k, n * kv_width);
        resize(&mut s.v, n * kv_width);
        match &layer.qkv {
            Qkv::Split { q, k, v } => {
                let parts = [(q, &mut s.q[..]), (k, &mut s.k), (v, &mut s.v)];
                Linear::apply_all(compute, &s.normed, &mut s.quantized, parts);
            }
            Qkv::Fused(qkv) => {
                let width = q_width + 2 * kv_width;
                resize(&mut s.fused, n * width);
                qkv.apply(compute, &s.normed, &mut s.quantized, &mut s.fused);
                for (t, row) in s.fused.chunks_exact(width).enumerate() {
                    s.q[t * q_width..][..q_width].copy_from_slice(&row[..q_width]);
                    s.k[t * kv_width..][..kv_width].copy_from_slice(&row[q_width..][..kv_width]);
                    s.v[t * kv_width..][..kv_width].copy_from_slice(&row[q_width + kv_width..]);
                }
            }
        }

        // Heads are normalized and rotated on their way into padded queries, and into the cache.
        let place = |t: usize, x: &[f32], norm: Option<&Norm>, out: &mut [f32]| {
            for (x, out) in x.chunks_exact(head).zip(out.chunks_exact_mut(padded)) {
                match norm {
                    Some(norm) => norm.apply(compute.kernel, x, &mut out[..head]),
                    None => out[..head].copy_from_slice(x),
                }
                out[head..].fill(0.0);
                if let (Some(rope), Some(rotations)) = (&c.rope, rotations) {
                    let (cos, sin) = rotations.of(t);
                    compute.kernel.rotate(rope.style, &mut out[..head], cos, sin);
                }
            }
        };
        let norms = layer.head_norms.as_ref();
        resize(&mut s.queries, n * c.n_head * padded);
        compute.each_row(&mut s.queries, c.n_head * padded, |t, out| {
            place(t, &s.q[t * q_width..][..q_width], norms.map(|(q, _)| q), out);
        });
        let cache = &mut cache.layers[index];
        let stride = c.cache_width();
        chunks_mut(compute.exec, &mut cache.keys[first * stride..], stride, |t, out| {
            let mut wide = vec![0.0; stride];
            place(t, &s.k[t * kv_width..][..kv_width], norms.map(|(_, k)| k), &mut wide);
            compute.kernel.to_f16(&wide, out);
        });
        for (v, out) in s.v.chunks_exact(kv_width).zip(cache.values[first * stride..].chunks_exact_mut(stride)) {
            for (v, out) in v.chunks_exact(head).zip(out.chunks_exact_mut(padded)) {
                compute.kernel.to_f16(v, &mut out[..head]);
            }
        }

        // The heads that share a key-value head lie side by side.
        let group = c.n_head / c.n_head_kv * padded;
        let attend = |t: usize, kv: usize, queries: &[f32], out: &mut [f32]| {
            let end = first + t + 1;
            let start = c.window.map_or(0, |window| end.saturating_sub(window));
            let at = start * stride + kv * padded;
            let attention = Attention {
                queries,
                heads: c.n_head / c.n_head_kv,
                head_dim: padded,
                keys: &cache.keys[at..],
                values: &cache.values[at..],
                stride,
                positions: end - start,
                scale: c.attention_scale,
            };
            compute.kernel.attend(&attention, out);
        };
        resize(&mut s.heads, n * c.n_head * padded);
        let exec = compute.exec_for(&[first + n, n, c.n_head, padded]);
        if n == 1 {
            chunks_mut(exec, &mut s.heads, group, |kv, out| attend(0, kv, &s.queries[kv * group..][..group], out));
        } else {
            // A sliding window begins elsewhere for each token.
            let tokens = if c.window.is_some_and(|window| first + n > window) { 1 } else { ATTENTION_TOKENS };
            let width = c.n_head * padded;
            chunks_mut(exec, &mut s.heads, tokens * width, |i, out| {
                let t = i * tokens;
                let (mut queries, mut result) = (Vec::new(), Vec::new());
                for kv in 0..c.n_head_kv {
                    queries.clear();
                    for row in s.queries[t * width..][..out.len()].chunks_exact(width) {
                        queries.extend_from_slice(&row[kv * group..][..group]);
                    }
                    result.resize(queries.len(), 0.0);
                    attend(t, kv, &queries, &mut result);
                    for (row, result) in out.chunks_exact_mut(width).zip(result.chunks_exact(group)) {
                        row[kv * group..][..group].copy_from_slice(result);
                    }
                }
            });
        }
        let heads = if padded == head {
            &s.heads
        } else {
            resize(&mut s.unpadded, n * q_width);
            for (out, x) in s.unpadded.chunks_exact_mut(head).zip(s.heads.chunks_exact(padded)) {
                out.copy_from_slice(&x[..head]);
            }
            &s.unpadded
        };
        let input = match &layer.attention_sub_norm {
            Some(norm) => {
                normalize(compute, norm, heads, &mut s.sub_normed);
                &s.sub_normed
            }
            None => heads,
        };
        if let Some(squares) = &mut s.squares {
            squares.add(index, Input::AttentionOutput, input, n);
        }
        resize(&mut s.out, n * c.n_embd);
        layer.attention_out.apply(compute, input, &mut s.quantized, &mut s.out);
        add_to_residual(compute, layer.attention_connection.as_ref(), s);
    }

    fn feed_forward(&self, compute: &Compute<'_>, layer: &Layer, index: usize, s: &mut Scratch, n: usize) {
        let (c, width) = (&self.config, self.config.n_ff);
        let activation = c.architecture.activation;
        read_residual(compute, layer.ffn_connection.as_ref(), s);
        normalize(compute, &layer.ffn_norm, &s.x, &mut s.normed);
        if let Some(squares) = &mut s.squares {
            squares.add(index, Input::FeedForward, &s.normed, n);
        }
        resize(&mut s.hidden, n * width);
        match &layer.up {
            Up::Plain(up) => {
                up.apply(compute, &s.normed, &mut s.quantized, &mut s.hidden);
                compute.each_row(&mut s.hidden, width, |_, hidden| compute.kernel.activate(activation, hidden));
            }
            Up::Gated { gate, up } => {
                resize(&mut s.up, n * width);
                let parts = [(gate, &mut s.hidden[..]), (up, &mut s.up)];
                Linear::apply_all(compute, &s.normed, &mut s.quantized, parts);
                compute.each_row(&mut s.hidden, width, |t, hidden| {
                    compute.kernel.activate(activation, hidden);
                    compute.kernel.multiply(hidden, &s.up[t * width..][..width]);
                });
            }
            Up::FusedGate(both) => {
                resize(&mut s.fused, n * 2 * width);
                both.apply(compute, &s.normed, &mut s.quantized, &mut s.fused);
                compute.each_row(&mut s.hidden, width, |t, hidden| {
                    let (gate, up) = s.fused[t * 2 * width..][..2 * width].split_at(width);
                    hidden.copy_from_slice(gate);
                    compute.kernel.activate(activation, hidden);
                    compute.kernel.multiply(hidden, up);
                });
            }
        }
        let input = match &layer.ffn_sub_norm {
            Some(norm) => {
                normalize(compute, norm, &s.hidden, &mut s.sub_normed);
                &s.sub_normed
            }
            None => &s.hidden,
        };
        if let Some(squares) = &mut s.squares {
            squares.add(index, Input::Down, input, n);
        }
        resize(&mut s.out, n * c.n_embd);
        layer.down.apply(compute, input, &mut s.quantized, &mut s.out);
        add_to_residual(compute, layer.ffn_connection.as_ref(), s);
    }

    /// Logits of the batch's tokens from `from` on, appended to `state.logits`.
    fn head(&self, compute: &Compute<'_>, state: &mut State, from: usize) {
        let s = &mut state.scratch;
        let x = &s.x[from * self.config.n_embd..];
        normalize(compute, &self.weights.output_norm, x, &mut s.normed);
        let n = x.len() / self.config.n_embd;
        let start = state.logits.len();
        state.logits.resize(start + n * self.vocabulary(), 0.0);
        let out = &mut state.logits[start..];
        match &self.weights.output {
            Some(output) => output.apply(compute, &s.normed, &mut s.quantized, out),
            None => compute.product(&self.weights.embedding, &s.normed, &mut s.quantized, out),
        }
    }
}

/// Brings what a half of the block reads into `s.x`, where the residual stream of a plain model is already.
fn read_residual(compute: &Compute<'_>, connection: Option<&HyperConnection>, s: &mut Scratch) {
    if let Some(connection) = connection {
        connection.read(compute, &s.streams, &mut s.mixing, &mut s.quantized, &mut s.x);
    }
}

/// Adds `s.out` to the residual streams.
fn add_to_residual(compute: &Compute<'_>, connection: Option<&HyperConnection>, s: &mut Scratch) {
    match connection {
        Some(connection) => connection.write(compute, &mut s.streams, &s.mixing, &s.out),
        None => compute.kernel.add(&mut s.x, &s.out),
    }
}

/// Sets the length; what was there before is overwritten by the step that follows.
fn resize(buffer: &mut Vec<f32>, len: usize) {
    buffer.resize(len, 0.0);
}

fn normalize(compute: &Compute<'_>, norm: &Norm, x: &[f32], out: &mut Vec<f32>) {
    resize(out, x.len());
    norm.apply_rows(compute, x, out);
}
