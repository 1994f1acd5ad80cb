//! Products of ternary matrices with int8 activations: every kernel on the same numbers, in turn, so that what else the machine
//! does falls on all of them alike.
//!
//! Only the product is timed; activations are rounded to int8 before. A run is one product, or as many as take 5 ms. All kernels
//! must give the same bits, and what they give is compared. An operation is a multiplication or an addition.

use std::hint::black_box;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, bail};
use serde::Serialize;
use sterna_core::kernels::{Compute, Executor, Kernel};
use sterna_core::ternary::{QuantizedRows, TernaryBuilder, TernaryMatrix};

use super::Spread;
use crate::engine;
use crate::ui::interrupt::Busy;
use crate::ui::message;

/// Layers of models: model, layer, output features, input features. Sizes are those of Qwen3-1.7B, BitNet b1.58 2B-4T and
/// Llama-3-8B (the shape of Llama3-8B-1.58).
const LAYERS: [(&str, &str, usize, usize); 9] = [
    ("1.7B", "attn_q", 2048, 2048),
    ("1.7B", "ffn_up", 6144, 2048),
    ("1.7B", "ffn_down", 2048, 6144),
    ("2B-4T", "attn_q", 2560, 2560),
    ("2B-4T", "ffn_up", 6912, 2560),
    ("2B-4T", "ffn_down", 2560, 6912),
    ("8B", "attn_q", 4096, 4096),
    ("8B", "ffn_up", 14336, 4096),
    ("8B", "ffn_down", 4096, 14336),
];
/// Tokens that each layer is measured with: a token of generation, a few together, a piece of a prompt.
const TOKENS: [usize; 3] = [1, 16, 512];
/// A run lasts at least this long.
const RUN_SECONDS: f64 = 5e-3;
/// Weights of a matrix that are still taken.
const MOST_WEIGHTS: usize = 1 << 31;
/// Activations, or results, that are still taken.
const MOST_VALUES: usize = 1 << 28;

/// A product: `[rows, cols]` times `[tokens, cols]`, transposed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// What has this shape; empty if nobody said.
    pub name: String,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// Tokens.
    pub tokens: usize,
}

impl Shape {
    /// 1024 in every direction, and the layers of models with each number of tokens.
    pub fn usual() -> Vec<Self> {
        let square = Self { name: "square".into(), rows: 1024, cols: 1024, tokens: 1024 };
        let layer = |(model, layer, rows, cols): &(&str, &str, usize, usize)| {
            let name = format!("{model} {layer}");
            let (rows, cols) = (*rows, *cols);
            TOKENS.map(move |tokens| Self { name: name.clone(), rows, cols, tokens })
        };
        [square].into_iter().chain(LAYERS.iter().flat_map(layer)).collect()
    }

    /// Whether it can be measured with a scale for each `group` columns.
    ///
    /// # Errors
    /// If groups do not fill the rows, or it is too large.
    pub fn check(&self, group: usize) -> Result<()> {
        let Self { rows, cols, tokens, .. } = *self;
        if group == 0 || !group.is_multiple_of(16) || !cols.is_multiple_of(group) {
            bail!(
                "rows of {cols} weights cannot be cut into groups of {group}; --group must divide them and be a multiple of 16"
            );
        }
        let fits = |a: usize, b: usize, most: usize| a.checked_mul(b).is_some_and(|n| n <= most);
        if !(fits(rows, cols, MOST_WEIGHTS) && fits(cols, tokens, MOST_VALUES) && fits(rows, tokens, MOST_VALUES)) {
            bail!(
                "--shape {rows}x{cols}x{tokens} is too large; up to {MOST_WEIGHTS} weights and {MOST_VALUES} activations or \
                 results are measured"
            );
        }
        Ok(())
    }
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers: Option<Vec<usize>> =
            text.split('x').map(|number| number.parse().ok().filter(|&n| n > 0)).collect();
        match numbers.as_deref() {
            Some(&[rows, cols, tokens]) => Ok(Self { name: String::new(), rows, cols, tokens }),
            _ => Err("give rows, columns and tokens, such as 4096x4096x16".into()),
        }
    }
}

/// How products are measured.
pub struct Settings {
    /// Columns that share a scale.
    pub group: usize,
    /// Numbers of threads.
    pub threads: Vec<usize>,
    /// Kernels, in turn.
    pub kernels: Vec<&'static dyn Kernel>,
    /// Runs of each kernel.
    pub runs: u32,
    /// A kernel whose runs took this long takes part in no more, but it has at least one.
    pub seconds: f64,
}

/// One kernel's speed with one shape.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// What has this shape.
    pub name: String,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// Tokens.
    pub tokens: usize,
    /// Threads.
    pub threads: usize,
    /// The kernel.
    pub kernel: &'static str,
    /// Runs that were timed.
    pub runs: usize,
    /// Seconds of a product.
    pub seconds: Spread,
    /// Operations, a multiplication and an addition being two, in a nanosecond: by the median.
    pub gops: f64,
    /// Bytes of packed weights in a nanosecond.
    pub gb_per_s: f64,
    /// How many times as fast as the kernel `scalar`; `None` if that was left out.
    pub times_scalar: Option<f64>,
}

/// Measures all shapes, and calls `done` with the rows of each as they come. Stops early if Ctrl-C was pressed.
///
/// # Errors
/// A shape that cannot be measured; kernels that do not agree; what `done` returns.
pub fn measure(
    shapes: &[Shape],
    settings: &Settings,
    busy: &Busy,
    done: &mut (dyn FnMut(Vec<Row>) -> Result<()> + Send),
) -> Result<()> {
    shapes.iter().try_for_each(|shape| shape.check(settings.group))?;
    let mut numbers = Numbers(1);
    let mut matrix: Option<TernaryMatrix> = None;
    for shape in shapes {
        let m = match matrix.take() {
            Some(m) if (m.rows(), m.cols()) == (shape.rows, shape.cols) => m,
            _ => numbers.matrix(shape, settings.group),
        };
        let x: Vec<f32> = (0..shape.tokens * shape.cols).map(|_| numbers.next() as f32 / 2e9 - 0.5).collect();
        for &threads in &settings.threads {
            message::detail(|| {
                format!("measuring {}x{}x{} on {threads} threads", shape.rows, shape.cols, shape.tokens)
            });
            let rows = engine::with_threads(threads, |exec| product(shape, &m, &x, threads, &exec, settings, busy))??;
            match rows {
                Some(rows) => done(rows)?,
                None => return Ok(()),
            }
        }
        matrix = Some(m);
    }
    Ok(())
}

/// Random numbers, the same in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32
    }

    /// A matrix of random codes and scales.
    fn matrix(&mut self, shape: &Shape, group: usize) -> TernaryMatrix {
        let mut builder = TernaryBuilder::new(shape.rows, shape.cols, group, 1.0);
        for mut tile in builder.tiles_mut() {
            for lane in 0..tile.rows {
                let codes: Vec<u8> = (0..shape.cols).map(|_| (self.next() % 3) as u8).collect();
                let scales: Vec<u16> = (0..shape.cols / group).map(|_| 0x3000 + (self.next() % 512) as u16).collect();
                tile.set_row(lane, &codes, &scales);
            }
        }
        builder.finish()
    }
}

/// All kernels with one shape; `None` if Ctrl-C was pressed.
fn product(
    shape: &Shape,
    m: &TernaryMatrix,
    x: &[f32],
    threads: usize,
    exec: &Arc<dyn Executor>,
    settings: &Settings,
    busy: &Busy,
) -> Result<Option<Vec<Row>>> {
    let kernels = &settings.kernels;
    let mut scratch = QuantizedRows::default();
    let mut out = vec![0.0; shape.tokens * shape.rows];
    let mut first: Option<Vec<f32>> = None;
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); kernels.len()];
    // One product each: the same bits, and the count of products that fill a run. Slow ones are timed at once.
    let mut counts = Vec::new();
    for (kernel, times) in kernels.iter().zip(&mut times) {
        if busy.requested() {
            return Ok(None);
        }
        let compute = Compute { kernel: *kernel, exec: &**exec };
        compute.quantize(x, m.cols(), m.group(), &mut scratch);
        let seconds = seconds(&compute, m, &scratch, &mut out, 1);
        match &first {
            Some(first) if !same_bits(first, &out) => {
                bail!("the kernels {} and {} give different results", kernels[0].name(), kernel.name());
            }
            Some(_) => {}
            None => first = Some(out.clone()),
        }
        if seconds > 20.0 * RUN_SECONDS {
            times.push(seconds);
        }
        counts.push((RUN_SECONDS / seconds.max(1e-9)).ceil().clamp(1.0, 1e7) as u32);
    }
    for _ in 0..settings.runs {
        for ((kernel, times), count) in kernels.iter().zip(&mut times).zip(&counts) {
            if busy.requested() {
                return Ok(None);
            }
            let spent: f64 = times.iter().sum::<f64>() * f64::from(*count);
            if times.len() < settings.runs as usize && (times.is_empty() || spent < settings.seconds) {
                let compute = Compute { kernel: *kernel, exec: &**exec };
                times.push(seconds(&compute, m, &scratch, &mut out, *count));
            }
        }
    }
    let spreads: Vec<Option<Spread>> = times.iter().map(|times| Spread::of(times)).collect();
    let scalar =
        kernels.iter().zip(&spreads).find(|(kernel, _)| kernel.name() == "scalar").and_then(|(_, spread)| *spread);
    let operations = 2.0 * shape.rows as f64 * shape.cols as f64 * shape.tokens as f64;
    let row = |((kernel, times), spread): ((&&dyn Kernel, &Vec<f64>), &Option<Spread>)| {
        let seconds = (*spread)?;
        Some(Row {
            name: shape.name.clone(),
            rows: shape.rows,
            cols: shape.cols,
            tokens: shape.tokens,
            threads,
            kernel: kernel.name(),
            runs: times.len(),
            seconds,
            gops: operations / seconds.median / 1e9,
            gb_per_s: m.bytes() as f64 / seconds.median / 1e9,
            times_scalar: scalar.map(|scalar| scalar.median / seconds.median),
        })
    };
    Ok(Some(kernels.iter().zip(&times).zip(&spreads).filter_map(row).collect()))
}

/// The mean time of `count` products.
fn seconds(compute: &Compute<'_>, m: &TernaryMatrix, x: &QuantizedRows, out: &mut [f32], count: u32) -> f64 {
    let clock = Instant::now();
    for _ in 0..count {
        compute.ternary(black_box(m), black_box(x), out);
        black_box(&mut *out);
    }
    clock.elapsed().as_secs_f64() / f64::from(count.max(1))
}

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

#[cfg(test)]
mod tests {
    use sterna_core::kernels::available;

    use super::*;
    use crate::ui::interrupt;

    #[test]
    fn shapes_are_read_and_held_to_groups() {
        let shape: Shape = "64x512x3".parse().unwrap();
        assert_eq!((shape.rows, shape.cols, shape.tokens), (64, 512, 3));
        assert!(shape.check(256).is_ok() && shape.check(512).is_ok());
        for group in [0, 24, 96, 1024] {
            assert!(shape.check(group).is_err(), "{group}");
        }
        for wrong in ["", "64", "64x512", "64x512x0", "64x512x3x1", "axbxc", "64x512x-1"] {
            assert!(wrong.parse::<Shape>().is_err(), "{wrong}");
        }
        assert!("4000000x256000x1".parse::<Shape>().unwrap().check(256).is_err());
        let usual = Shape::usual();
        assert_eq!(usual.len(), 1 + LAYERS.len() * TOKENS.len());
        usual.iter().for_each(|shape| shape.check(256).unwrap());
    }

    #[test]
    fn every_kernel_gets_a_row_and_the_rates_follow_from_the_medians() {
        let settings = Settings { group: 64, threads: vec![1, 2], kernels: available(), runs: 2, seconds: 0.1 };
        let shapes = ["48x128x1".parse().unwrap(), "48x128x5".parse().unwrap(), "17x64x2".parse().unwrap()];
        let mut rows = Vec::new();
        let mut done = |some| {
            rows.extend::<Vec<Row>>(some);
            Ok(())
        };
        measure(&shapes, &settings, &interrupt::busy(), &mut done).unwrap();
        assert_eq!(rows.len(), 3 * 2 * available().len());
        for row in &rows {
            let operations = 2.0 * (row.rows * row.cols * row.tokens) as f64;
            assert!((row.gops * row.seconds.median * 1e9 / operations - 1.0).abs() < 1e-9);
            assert!(row.runs == 2 && row.seconds.min <= row.seconds.median && row.seconds.median <= row.seconds.max);
            assert!(row.kernel != "scalar" || row.times_scalar == Some(1.0));
        }
        let none = Settings { kernels: vec![available()[0]], ..settings };
        let mut done = |rows: Vec<Row>| {
            assert!(rows[0].kernel == "scalar" || rows[0].times_scalar.is_none());
            Ok(())
        };
        measure(&shapes[..1], &none, &interrupt::busy(), &mut done).unwrap();
    }
}
