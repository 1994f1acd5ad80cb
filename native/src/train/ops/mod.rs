//! The differentiable steps that training is made of, each one fused forward pass with its backward pass.
//!
//! Candle keeps the graph; these are its custom operations, because its own lack a backward pass where it matters (norms,
//! rotations, softmax) or take a pass over memory for every elementary step. All of them work on contiguous f32 on the CPU,
//! spread rows over threads, and add what threads share in a fixed order, so that results do not depend on their number. The
//! backward passes are held to finite differences by tests.
//!
//! Straight-through estimation (arXiv:1308.3432): where a step rounds, the gradient passes as if it had not.

mod activations;
mod attention;
mod bias;
mod cross_entropy;
mod distillation;
mod dropout;
mod gelu;
mod head_norm;
pub mod hyper_connections;
mod layer_norm;
mod linear;
mod rms_norm;
mod swiglu;
#[cfg(test)]
pub(crate) mod testing;

use std::ops::{Deref, Range};

use candle_core::{CpuStorage, Layout, Result, Shape, Storage, Tensor};

pub(crate) use activations::quantize as quantize_rows;
pub use activations::quantize_activations;
pub use attention::{AttentionShape, Rotation, attention};
pub use bias::add_bias;
pub use cross_entropy::{cross_entropy, losses};
pub use distillation::divergence;
pub use dropout::{add_dropped, dropout};
pub use gelu::gelu;
pub use head_norm::head_norms;
pub use layer_norm::layer_norm;
pub use linear::{Quantization, linear, ternary_linear};
pub use rms_norm::rms_norm;
pub use swiglu::swiglu;

/// Rows that one task takes at least; below this a thread costs more than it gives.
pub(crate) const ROWS_PER_TASK: usize = 16;

/// Borrows a tensor's values.
///
/// # Errors
/// If it is not contiguous f32 on the CPU.
pub(crate) fn values(tensor: &Tensor) -> Result<impl Deref<Target = [f32]> + '_> {
    let (storage, layout) = tensor.storage_and_layout();
    let Some((start, end)) = layout.contiguous_offsets() else {
        candle_core::bail!("a tensor of shape {:?} is not contiguous", tensor.shape());
    };
    match &*storage {
        Storage::Cpu(CpuStorage::F32(_)) => Ok(Values { storage, range: start..end }),
        _ => candle_core::bail!("a tensor of shape {:?} is not f32 on the CPU", tensor.shape()),
    }
}

/// A tensor's values, held while they are read.
struct Values<G> {
    storage: G,
    range: Range<usize>,
}

impl<G: Deref<Target = Storage>> Deref for Values<G> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.range.clone()],
            _ => &[],
        }
    }
}

/// The values of a custom operation's argument.
pub(crate) fn argument<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => candle_core::bail!("an argument of shape {:?} is not contiguous", layout.shape()),
    }
}

/// What a custom operation's forward pass returns.
pub(crate) fn result(values: Vec<f32>, shape: impl Into<Shape>) -> (CpuStorage, Shape) {
    (CpuStorage::F32(values), shape.into())
}

/// A tensor of these values.
pub(crate) fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> Result<Tensor> {
    Tensor::from_vec(values, shape.into(), &candle_core::Device::Cpu)
}

/// The sum of products, in sixteen lanes, so that it vectorizes.
#[inline(always)]
pub(crate) fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut lanes = [0.0; 16];
    let ((xs, x_rest), (ys, y_rest)) = (x.as_chunks::<16>(), y.as_chunks::<16>());
    for (x, y) in xs.iter().zip(ys) {
        for j in 0..16 {
            lanes[j] += x[j] * y[j];
        }
    }
    for ((lane, x), y) in lanes.iter_mut().zip(x_rest).zip(y_rest) {
        *lane += x * y;
    }
    lanes.into_iter().sum()
}

/// 32 well-mixed bits for element `index` of a stream: murmur3's finalizer over both. Random access, so that masks need no state
/// and do not depend on threads.
#[inline(always)]
pub(crate) fn random_bits(stream: u64, index: u32) -> u32 {
    let mut x = index ^ stream as u32;
    x = (x ^ (x >> 16)).wrapping_mul(0x85eb_ca6b);
    x = x.wrapping_add((stream >> 32) as u32);
    x = (x ^ (x >> 13)).wrapping_mul(0xc2b2_ae35);
    x = (x ^ (x >> 16)).wrapping_mul(0x9e37_79b1);
    x ^ (x >> 15)
}

/// A stream of [`random_bits`] for one use at one step.
pub(crate) fn stream(seed: u64, step: u64, place: u64) -> u64 {
    let mut z = seed ^ step.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ place.wrapping_mul(0xd1b5_4a32_d192_ed03);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
