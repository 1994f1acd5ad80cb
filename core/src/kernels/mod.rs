//! The inner loops: products of packed matrices, attention, norms, in every instruction set that the machine may have.
//!
//! [`Kernel`] is the table's row. [`select`] chooses once, when a model is loaded; everything above calls through the chosen
//! row. `scalar` is the readable specification; the others run the algorithms of `tile`, `rows`, `attention` and
//! `elementwise`, written once over `isa::Isa`, and give the same bits. This is the only place in core with `unsafe` and
//! `target_arch`.

#![cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64", target_feature = "simd128")),
    allow(dead_code, unused_macros, reason = "without vector instructions there is only `scalar`")
)]

mod attention;
mod elementwise;
mod isa;
mod output;
mod parallel;
mod products;
mod rows;
mod scalar;
#[cfg(feature = "rayon")]
mod team;
mod tile;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod wasm;

#[cfg(test)]
mod tests;

use crate::ternary::{BlockMatrix, QuantizedRows, TernaryMatrix};
use core::ops::Range;

pub use attention::Attention;
pub(crate) use elementwise::LANES;
pub use elementwise::exp;
pub use elementwise::{Activation, RopeStyle};
pub use output::Output;
#[cfg(feature = "rayon")]
pub use parallel::Rayon;
pub(crate) use parallel::chunks_mut;
pub use parallel::{Executor, Serial};
pub use products::Compute;
#[cfg(feature = "rayon")]
pub use team::Team;

/// One instruction set's inner loops. All of them give the bits that `scalar` gives.
///
/// Slices whose lengths do not fit together make them panic.
pub trait Kernel: Send + Sync {
    /// The name that `--kernel` takes and that benchmarks print.
    fn name(&self) -> &'static str;

    /// Rows of the row tiles `tiles` of `m`, `[rows, cols]`, for all tokens of `x`, into `out`, `[tokens, rows]`.
    ///
    /// # Safety
    /// No other thread reads or writes these rows of `out` meanwhile.
    unsafe fn ternary(&self, m: &TernaryMatrix, x: &QuantizedRows, tiles: Range<usize>, out: &Output<'_>);

    /// Rows `rows` of `m`, `[rows, cols]`, for the tokens of `x`, `[tokens, cols]`, into `out`, `[tokens, rows]`.
    ///
    /// # Safety
    /// No other thread reads or writes these rows of `out` meanwhile.
    unsafe fn block_matrix(&self, m: &BlockMatrix, x: &[f32], rows: Range<usize>, out: &Output<'_>);

    /// Attention of the queries of one key-value head; `out` is laid out as the queries.
    fn attend(&self, attention: &Attention<'_>, out: &mut [f32]);

    /// Quantizes one group of one token to int8: four codes at each `out[quad * stride * 4..]`; gives scale and sum of codes.
    fn quantize_group(&self, x: &[f32], out: &mut [i8], stride: usize) -> (f32, i32);

    /// `1 / sqrt(mean(x^2) + eps)`
    fn inverse_rms(&self, x: &[f32], eps: f32) -> f32;

    /// `out = x / sqrt(mean(x^2) + eps) * weight`, all `[n]`.
    fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]);

    /// `out = (x - mean(x)) / sqrt(variance(x) + eps) * weight + bias`, all `[n]`.
    fn layer_norm(&self, x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]);

    /// `x = activation(x)`
    fn activate(&self, kind: Activation, x: &mut [f32]);

    /// `x = x * y`
    fn multiply(&self, x: &mut [f32], y: &[f32]);

    /// `x = x + y`
    fn add(&self, x: &mut [f32], y: &[f32]);

    /// `out = weights x`: the rows of `x`, `[n, d]`, summed with `weights`, `[n]`, into `out`, `[d]`.
    fn weighted_sum(&self, x: &[f32], weights: &[f32], out: &mut [f32]);

    /// `x = res x + post y`, with `x` `[n, d]` for n of 2 or 4, `y` `[d]`, `res` `[n, n]` and `post` `[n]`.
    fn mix(&self, x: &mut [f32], y: &[f32], res: &[f32], post: &[f32]);

    /// Rotates a head in place by angles given as `cos` and `sin`, `[rotated / 2]` each.
    fn rotate(&self, style: RopeStyle, head: &mut [f32], cos: &[f32], sin: &[f32]);

    /// Narrows to f16 bits, to nearest even.
    fn to_f16(&self, x: &[f32], out: &mut [u16]);
}

/// The kernels this build has for this machine, the fastest first; `scalar` is always the last.
#[allow(clippy::vec_init_then_push, reason = "what is pushed depends on the target")]
pub fn available() -> Vec<&'static dyn Kernel> {
    let mut kernels: Vec<&'static dyn Kernel> = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        if Avx512Vnni::detect() {
            kernels.push(&Avx512Vnni(()));
        }
        if Avx2::detect() {
            kernels.push(&Avx2(()));
        }
    }
    #[cfg(target_arch = "aarch64")]
    {
        if NeonDot::detect() {
            kernels.push(&NeonDot(()));
        }
        if Neon::detect() {
            kernels.push(&Neon(()));
        }
    }
    #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
    {
        #[cfg(target_feature = "relaxed-simd")]
        kernels.push(&Relaxed(()));
        kernels.push(&Simd128(()));
    }
    kernels.push(&Scalar);
    kernels
}

/// A kernel was asked for that does not exist here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no kernel named {name:?} on this machine; there are: {}", available.join(", "))]
pub struct UnknownKernel {
    /// What was asked for.
    pub name: String,
    /// What there is.
    pub available: Vec<&'static str>,
}

/// The kernel named `name`, or the fastest one.
///
/// # Errors
/// If this machine has no kernel of that name.
pub fn select(name: Option<&str>) -> Result<&'static dyn Kernel, UnknownKernel> {
    let kernels = available();
    match name {
        None => Ok(kernels[0]),
        Some(name) => kernels.iter().copied().find(|kernel| kernel.name() == name).ok_or_else(|| UnknownKernel {
            name: name.to_owned(),
            available: kernels.iter().map(|kernel| kernel.name()).collect(),
        }),
    }
}

/// Declares a row of the table: a token that is only made where the features are present, and the loops compiled with them.
macro_rules! kernel {
    ($(#[$doc:meta])* $token:ident, $name:literal, $isa:ty $(, features = $features:literal, detect = $detect:expr)?) => {
        $(#[$doc])*
        struct $token(());

        $(impl $token {
            fn detect() -> bool {
                $detect
            }
        })?

        impl Kernel for $token {
            fn name(&self) -> &'static str {
                $name
            }

            unsafe fn ternary(&self, m: &TernaryMatrix, x: &QuantizedRows, tiles: Range<usize>, out: &Output<'_>) {
                $(#[target_feature(enable = $features)])?
                unsafe fn run(m: &TernaryMatrix, x: &QuantizedRows, tiles: Range<usize>, out: &Output<'_>) {
                    // SAFETY: the features are enabled here; the rest is the caller's.
                    unsafe { tile::ternary::<$isa>(m, x, tiles, out) }
                }
                // SAFETY: the token is proof of the features; rows are the caller's.
                unsafe { run(m, x, tiles, out) }
            }

            unsafe fn block_matrix(&self, m: &BlockMatrix, x: &[f32], rows: Range<usize>, out: &Output<'_>) {
                $(#[target_feature(enable = $features)])?
                unsafe fn run(m: &BlockMatrix, x: &[f32], rows: Range<usize>, out: &Output<'_>) {
                    // SAFETY: the features are enabled here; the rest is the caller's.
                    unsafe { rows::block_matrix::<$isa>(m, x, rows, out) }
                }
                // SAFETY: the token is proof of the features; rows are the caller's.
                unsafe { run(m, x, rows, out) }
            }

            fn attend(&self, attention: &Attention<'_>, out: &mut [f32]) {
                $(#[target_feature(enable = $features)])?
                unsafe fn run(attention: &Attention<'_>, out: &mut [f32]) {
                    // SAFETY: the features are enabled here.
                    unsafe { attention::attend::<$isa>(attention, out) }
                }
                // SAFETY: the token is proof of the features.
                unsafe { run(attention, out) }
            }

            kernel!(@loops ($($features)?)
                fn quantize_group(x: &[f32], out: &mut [i8], stride: usize) -> (f32, i32);
                fn inverse_rms(x: &[f32], eps: f32) -> f32;
                fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) -> ();
                fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) -> ();
                fn activate(kind: Activation, x: &mut [f32]) -> ();
                fn multiply(x: &mut [f32], y: &[f32]) -> ();
                fn add(x: &mut [f32], y: &[f32]) -> ();
                fn weighted_sum(x: &[f32], weights: &[f32], out: &mut [f32]) -> ();
                fn mix(x: &mut [f32], y: &[f32], res: &[f32], post: &[f32]) -> ();
                fn rotate(style: RopeStyle, head: &mut [f32], cos: &[f32], sin: &[f32]) -> ();
                fn to_f16(x: &[f32], out: &mut [u16]) -> ();
            );
        }
    };
    (@loops $features:tt $(fn $function:ident($($arg:ident: $type:ty),*) -> $result:ty;)*) => {
        $(kernel!(@loop $features $function($($arg: $type),*) -> $result);)*
    };
    (@loop ($($features:literal)?) $function:ident($($arg:ident: $type:ty),*) -> $result:ty) => {
        fn $function(&self, $($arg: $type),*) -> $result {
            $(#[target_feature(enable = $features)])?
            unsafe fn run($($arg: $type),*) -> $result {
                elementwise::$function($($arg),*)
            }
            // SAFETY: the token is proof of the features.
            unsafe { run($($arg),*) }
        }
    };
}

#[cfg(target_arch = "x86_64")]
kernel!(
    /// 512-bit registers with the integer dot product (Ice Lake, Zen 4 and later).
    Avx512Vnni, "avx512-vnni", avx512::Avx512Vnni,
    features = "avx512f,avx512bw,avx512vnni",
    detect = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vnni")
);

#[cfg(target_arch = "x86_64")]
kernel!(
    /// 256-bit registers (Haswell, Zen and later).
    Avx2, "avx2", avx2::Avx2,
    features = "avx2,f16c",
    detect = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c")
);

#[cfg(target_arch = "aarch64")]
kernel!(
    /// NEON with the dot product extension (Cortex-A76, Apple M1 and later).
    NeonDot, "neon-dotprod", neon::NeonDot,
    features = "neon,dotprod",
    detect = std::arch::is_aarch64_feature_detected!("neon") && std::arch::is_aarch64_feature_detected!("dotprod")
);

#[cfg(target_arch = "aarch64")]
kernel!(
    /// Baseline NEON (Raspberry Pi 4 and the like).
    Neon, "neon", neon::Neon,
    features = "neon",
    detect = std::arch::is_aarch64_feature_detected!("neon")
);

#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
kernel!(
    /// WebAssembly's 128-bit vectors.
    Simd128, "simd128", wasm::Simd128
);

#[cfg(all(target_arch = "wasm32", target_feature = "relaxed-simd"))]
kernel!(
    /// WebAssembly's relaxed integer dot product.
    Relaxed, "relaxed-simd", wasm::Relaxed
);

/// The specification.
struct Scalar;

impl Kernel for Scalar {
    fn name(&self) -> &'static str {
        "scalar"
    }

    unsafe fn ternary(&self, m: &TernaryMatrix, x: &QuantizedRows, tiles: Range<usize>, out: &Output<'_>) {
        scalar::ternary(m, x, tiles, out);
    }

    unsafe fn block_matrix(&self, m: &BlockMatrix, x: &[f32], rows: Range<usize>, out: &Output<'_>) {
        scalar::block_matrix(m, x, rows, out);
    }

    fn attend(&self, attention: &Attention<'_>, out: &mut [f32]) {
        scalar::attend(attention, out);
    }

    fn quantize_group(&self, x: &[f32], out: &mut [i8], stride: usize) -> (f32, i32) {
        elementwise::quantize_group(x, out, stride)
    }

    fn inverse_rms(&self, x: &[f32], eps: f32) -> f32 {
        elementwise::inverse_rms(x, eps)
    }

    fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        elementwise::rms_norm(x, weight, eps, out);
    }

    fn layer_norm(&self, x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
        elementwise::layer_norm(x, weight, bias, eps, out);
    }

    fn activate(&self, kind: Activation, x: &mut [f32]) {
        elementwise::activate(kind, x);
    }

    fn multiply(&self, x: &mut [f32], y: &[f32]) {
        elementwise::multiply(x, y);
    }

    fn add(&self, x: &mut [f32], y: &[f32]) {
        elementwise::add(x, y);
    }

    fn weighted_sum(&self, x: &[f32], weights: &[f32], out: &mut [f32]) {
        elementwise::weighted_sum(x, weights, out);
    }

    fn mix(&self, x: &mut [f32], y: &[f32], res: &[f32], post: &[f32]) {
        elementwise::mix(x, y, res, post);
    }

    fn rotate(&self, style: RopeStyle, head: &mut [f32], cos: &[f32], sin: &[f32]) {
        elementwise::rotate(style, head, cos, sin);
    }

    fn to_f16(&self, x: &[f32], out: &mut [u16]) {
        elementwise::to_f16(x, out);
    }
}
