//! The table of architectures: a new one is a row.

use crate::kernels::{Activation, RopeStyle};

/// Which normalization an architecture uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// RMS norm, weights only.
    Rms,
    /// Layer norm, weights and biases.
    Layer,
}

/// How one `general.architecture` differs from the others. Everything else (sizes, scalings, tied outputs, optional biases)
/// is read from the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Architecture {
    /// The value of `general.architecture`, which also begins the keys of its hyperparameters.
    pub name: &'static str,
    /// Norms before attention, before the feed-forward layer and before the output.
    pub norm: NormKind,
    /// Rotary positions; `None` where positions are learned (`position_embd.weight`).
    pub rope: Option<RopeStyle>,
    /// The feed-forward layer's non-linearity.
    pub activation: Activation,
    /// `down(activation(gate(x)) * up(x))` rather than `down(activation(up(x)))`.
    pub gated: bool,
    /// RMS norms on the attention's output and on the feed-forward layer's hidden activations (BitNet's sub-layer norms).
    pub sub_norms: bool,
    /// RMS norms on each head of q and k.
    pub head_norms: bool,
    /// q, k and v in one tensor `attn_qkv`.
    pub fused_qkv: bool,
    /// gate and up in one tensor `ffn_up`, gate first.
    pub fused_gate: bool,
    /// Biases on all linear layers are part of the architecture; elsewhere they are used where a file has them.
    pub biases: bool,
    /// The file may ask for several residual streams (docs/hyper-connections.md).
    pub hyper_connections: bool,
}

/// The plain Llama block; the other rows say how they differ.
const LLAMA: Architecture = Architecture {
    name: "llama",
    norm: NormKind::Rms,
    rope: Some(RopeStyle::Norm),
    activation: Activation::Silu,
    gated: true,
    sub_norms: false,
    head_norms: false,
    fused_qkv: false,
    fused_gate: false,
    biases: false,
    hyper_connections: false,
};

/// 1bitLLM's reproduction of BitNet b1.58.
const BITNET: Architecture = Architecture { name: "bitnet", rope: Some(RopeStyle::Neox), sub_norms: true, ..LLAMA };

/// Microsoft's 2B-4T: relu squared where [`BITNET`] has SiLU.
const BITNET_25: Architecture = Architecture { name: "bitnet-25", activation: Activation::ReluSquared, ..BITNET };

/// Sterna's own: 1bitLLM's block, with hyper-connections in place of its residual connections where the file asks for them.
const STERNA: Architecture = Architecture { name: "sterna", hyper_connections: true, ..BITNET };

/// Every architecture that is read.
pub const ARCHITECTURES: &[Architecture] = &[
    LLAMA,
    BITNET,
    BITNET_25,
    Architecture { name: "bitnet-b1.58", ..BITNET_25 },
    Architecture { name: "qwen2", rope: Some(RopeStyle::Neox), ..LLAMA },
    Architecture { name: "qwen3", rope: Some(RopeStyle::Neox), head_norms: true, ..LLAMA },
    Architecture { name: "phi3", rope: Some(RopeStyle::Neox), fused_qkv: true, fused_gate: true, ..LLAMA },
    Architecture {
        name: "gpt2",
        norm: NormKind::Layer,
        rope: None,
        activation: Activation::Gelu,
        gated: false,
        fused_qkv: true,
        biases: true,
        ..LLAMA
    },
    STERNA,
];

impl Architecture {
    /// The row of that name.
    pub fn of(name: &str) -> Option<&'static Self> {
        ARCHITECTURES.iter().find(|row| row.name == name)
    }
}
