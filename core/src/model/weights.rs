//! The weights of a decoder in the form that `forward` reads: packed matrices by their place in the model.

use crate::kernels::Compute;
use crate::ops::{HyperConnection, Norm};
use crate::ternary::{Matrix, QuantizedRows};

/// `y = x W^T * scale + bias`
#[derive(Debug)]
pub(super) struct Linear {
    /// `[out, in]`
    pub matrix: Matrix,
    /// One factor on the product, of files that keep it as a tensor of its own.
    pub scale: Option<f32>,
    /// `[out]`
    pub bias: Option<Vec<f32>>,
}

impl Linear {
    /// Multiplies `x`, `[n, in]`, into `out`, `[n, out]`.
    pub fn apply(&self, compute: &Compute<'_>, x: &[f32], scratch: &mut QuantizedRows, out: &mut [f32]) {
        Self::apply_all(compute, x, scratch, [(self, out)]);
    }

    /// Multiplies the same `x`, `[n, in]`, with each of several matrices, into its own `[n, out]`.
    pub fn apply_all<const N: usize>(
        compute: &Compute<'_>,
        x: &[f32],
        scratch: &mut QuantizedRows,
        mut parts: [(&Self, &mut [f32]); N],
    ) {
        compute.products(x, scratch, parts.each_mut().map(|(linear, out)| (&linear.matrix, &mut **out)));
        for (linear, out) in parts {
            linear.finish(compute, out);
        }
    }

    fn finish(&self, compute: &Compute<'_>, out: &mut [f32]) {
        if self.scale.is_some() || self.bias.is_some() {
            compute.each_row(out, self.matrix.rows(), |_, row| {
                if let Some(scale) = self.scale {
                    row.iter_mut().for_each(|value| *value *= scale);
                }
                if let Some(bias) = &self.bias {
                    compute.kernel.add(row, bias);
                }
            });
        }
    }
}

/// The projections to q, k and v.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "one a layer, never moved about")]
pub(super) enum Qkv {
    /// One matrix each.
    Split {
        /// `[n_head * head_dim, n_embd]`
        q: Linear,
        /// `[n_head_kv * head_dim, n_embd]`
        k: Linear,
        /// `[n_head_kv * head_dim, n_embd]`
        v: Linear,
    },
    /// `[(n_head + 2 n_head_kv) * head_dim, n_embd]`: q's rows, then k's, then v's.
    Fused(Linear),
}

/// The first half of a feed-forward layer.
#[derive(Debug)]
pub(super) enum Up {
    /// `activation(up(x))`
    Plain(Linear),
    /// `activation(gate(x)) * up(x)`
    Gated {
        /// `[n_ff, n_embd]`
        gate: Linear,
        /// `[n_ff, n_embd]`
        up: Linear,
    },
    /// The same in one matrix `[2 n_ff, n_embd]`: gate's rows, then up's.
    FusedGate(Linear),
}

/// One block of the decoder.
#[derive(Debug)]
pub(super) struct Layer {
    /// Of attention to the residual streams; `None` in a plain model.
    pub attention_connection: Option<HyperConnection>,
    pub attention_norm: Norm,
    pub qkv: Qkv,
    /// On each head of q and k, `[head_dim]`.
    pub head_norms: Option<(Norm, Norm)>,
    /// Before `attention_out`, `[n_head * head_dim]`.
    pub attention_sub_norm: Option<Norm>,
    /// `[n_embd, n_head * head_dim]`
    pub attention_out: Linear,
    /// Of the feed-forward layer to the residual streams.
    pub ffn_connection: Option<HyperConnection>,
    pub ffn_norm: Norm,
    pub up: Up,
    /// Before `down`, `[n_ff]`.
    pub ffn_sub_norm: Option<Norm>,
    /// `[n_embd, n_ff]`
    pub down: Linear,
}

/// All of a model's weights.
#[derive(Debug)]
pub(super) struct Weights {
    /// `[vocabulary, n_embd]`
    pub embedding: Matrix,
    /// `[n_ctx, n_embd]`
    pub positions: Option<Matrix>,
    pub layers: Vec<Layer>,
    pub output_norm: Norm,
    /// `[vocabulary, n_embd]`; `None` where the embedding serves.
    pub output: Option<Linear>,
}

/// What became of one tensor, for people.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorReport {
    /// Name in the file.
    pub name: String,
    /// Type in the file.
    pub format: &'static str,
    /// Columns that share an activation scale; the row's length where a token has one. `None` for unpacked tensors.
    pub group: Option<usize>,
    /// Bytes held in memory.
    pub bytes: usize,
}
