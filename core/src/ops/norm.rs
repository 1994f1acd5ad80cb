//! RMS norm and layer norm with their weights.

use crate::kernels::{Compute, Kernel};

/// A normalization over a vector of `[n]` with its learned weights.
#[derive(Clone, Debug, PartialEq)]
pub enum Norm {
    /// `x / sqrt(mean(x^2) + eps) * weight` (arXiv:1910.07467)
    Rms {
        /// `[n]`
        weight: Vec<f32>,
        /// Added to the mean square.
        eps: f32,
    },
    /// `(x - mean) / sqrt(variance + eps) * weight + bias` (arXiv:1607.06450)
    Layer {
        /// `[n]`
        weight: Vec<f32>,
        /// `[n]`
        bias: Vec<f32>,
        /// Added to the variance.
        eps: f32,
    },
}

impl Norm {
    /// Length of the vectors it normalizes.
    pub fn width(&self) -> usize {
        match self {
            Self::Rms { weight, .. } | Self::Layer { weight, .. } => weight.len(),
        }
    }

    /// Normalizes one vector.
    ///
    /// # Panics
    /// If `x` and `out` are not [`width`](Self::width) long.
    pub fn apply(&self, kernel: &dyn Kernel, x: &[f32], out: &mut [f32]) {
        match self {
            Self::Rms { weight, eps } => kernel.rms_norm(x, weight, *eps, out),
            Self::Layer { weight, bias, eps } => kernel.layer_norm(x, weight, bias, *eps, out),
        }
    }

    /// Normalizes each row of `x`, `[n, width]`, into `out`.
    pub fn apply_rows(&self, compute: &Compute<'_>, x: &[f32], out: &mut [f32]) {
        let width = self.width();
        compute.each_row(out, width, |i, out| self.apply(compute.kernel, &x[i * width..][..width], out));
    }
}
