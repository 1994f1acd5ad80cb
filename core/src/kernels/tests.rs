//! The property suite: every kernel of this machine against `scalar`, bit for bit.

use super::*;
use crate::formats::Format;
use crate::ternary::{TernaryBuilder, token_blocks};
use half::f16;

/// SplitMix64: enough for test data, the same on every target.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// In [-1, 1), with every exponent of a few hundred values.
    fn float(&mut self) -> f32 {
        let unit = (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
        unit * 2.0f32.powi(-(self.below(6) as i32))
    }

    fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }

    fn halves(&mut self, n: usize) -> Vec<u16> {
        (0..n).map(|_| f16::from_f32_const(self.float()).to_bits()).collect()
    }
}

/// Kernels to hold against `scalar`. Those named in STERNA_REQUIRE_KERNELS (comma-separated) must be among them.
fn under_test() -> Vec<&'static dyn Kernel> {
    let kernels: Vec<_> = available().into_iter().filter(|kernel| kernel.name() != "scalar").collect();
    let names: Vec<_> = kernels.iter().map(|kernel| kernel.name()).collect();
    if let Ok(required) = std::env::var("STERNA_REQUIRE_KERNELS") {
        for name in required.split(',').filter(|name| !name.is_empty()) {
            assert!(names.contains(&name), "kernel {name} is required, but this machine has only {names:?}");
        }
    }
    println!("kernels exercised: {}", if names.is_empty() { "none besides scalar".into() } else { names.join(", ") });
    kernels
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn random_matrix(random: &mut Random, rows: usize, cols: usize, group: usize, heaviest: bool) -> TernaryMatrix {
    let mut builder = TernaryBuilder::new(rows, cols, group, random.of(&[1.0, 0.37]));
    for mut tile in builder.tiles_mut() {
        for lane in 0..tile.rows {
            let codes: Vec<u8> = (0..cols).map(|_| if heaviest { 3 } else { random.below(4) as u8 }).collect();
            tile.set_row(lane, &codes, &random.halves(cols / group));
        }
    }
    builder.finish()
}

/// Activations with codes of our choosing, full magnitude and -128 included.
fn random_activations(random: &mut Random, n: usize, cols: usize, group: usize, heaviest: bool) -> QuantizedRows {
    let mut x = QuantizedRows::default();
    x.reset(n, cols, group);
    let groups = cols / group;
    let sign = random.of(&[127i8, -128]);
    for code in &mut x.codes {
        *code = if heaviest { sign } else { random.next() as i8 };
    }
    for (first, len) in token_blocks(n) {
        for g in 0..groups {
            for t in 0..len {
                let sum = (g * group..(g + 1) * group).map(|c| i32::from(x.code(first + t, c))).sum();
                x.sums[first * groups + g * len + t] = sum;
                x.scales[first * groups + g * len + t] = random.float().abs() + 1e-3;
            }
        }
    }
    x
}

fn product(kernel: &dyn Kernel, m: &TernaryMatrix, x: &QuantizedRows, tiles: Range<usize>) -> Vec<f32> {
    let mut out = vec![f32::NAN; x.tokens() * m.rows()];
    // SAFETY: one thread.
    unsafe { kernel.ternary(m, x, tiles, &Output::new(&mut out, m.rows())) };
    out
}

#[test]
fn ternary_products_equal_scalar() {
    let kernels = under_test();
    let mut random = Random(1);
    for round in 0..220 {
        let heaviest = round % 4 == 0;
        let group = random.of(&[16, 32, 64, 128, 144, 256]);
        let cols = group * (1 + random.below(if heaviest { 9 } else { 4 }));
        let group = if random.below(3) == 0 { cols } else { group };
        let rows = random.of(&[1, 15, 16, 17, 31, 33, 63, 64, 65, 81]);
        let n = random.of(&[1, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 23, 31, 33]);
        let m = random_matrix(&mut random, rows, cols, group, heaviest);
        let x = random_activations(&mut random, n, cols, m.group(), heaviest);
        let expected = product(&Scalar, &m, &x, 0..m.tiles());
        assert!(expected.iter().all(|v| v.is_finite()));
        for kernel in &kernels {
            let got = product(*kernel, &m, &x, 0..m.tiles());
            assert_eq!(bits(&got), bits(&expected), "{} [{rows}, {cols}] group {group}, {n} tokens", kernel.name());
        }
    }
}

#[test]
fn a_part_of_the_tiles_leaves_the_other_rows_alone() {
    let mut random = Random(2);
    let m = random_matrix(&mut random, 100, 64, 64, false);
    let x = random_activations(&mut random, 5, 64, 64, false);
    let whole = product(&Scalar, &m, &x, 0..7);
    for kernel in available() {
        let part = product(kernel, &m, &x, 2..5);
        for (i, value) in part.iter().enumerate() {
            let inside = (32..80).contains(&(i % 100));
            assert_eq!(value.to_bits() == whole[i].to_bits(), inside, "{} row {}", kernel.name(), i % 100);
            assert_eq!(value.is_nan(), !inside);
        }
    }
}

#[test]
fn the_scalar_product_is_the_integer_dot_product() {
    let mut random = Random(3);
    let m = random_matrix(&mut random, 20, 512, 512, false);
    let x = random_activations(&mut random, 3, 512, 512, false);
    let got = product(&Scalar, &m, &x, 0..2);
    for t in 0..3 {
        for r in 0..20 {
            let dot: i64 = (0..512).map(|c| (i64::from(m.code(r, c)) - 1) * i64::from(x.code(t, c))).sum();
            let real = dot as f64 * f64::from(m.scale(r, 0)) * f64::from(x.scale(t, 0)) * f64::from(m.tensor_scale());
            assert!((f64::from(got[t * 20 + r]) - real).abs() <= 1e-6 * real.abs().max(1e-3));
        }
    }
}

/// Blocks whose every byte is random, but whose f16 scales are finite.
fn random_blocks(random: &mut Random, format: Format, rows: usize, cols: usize) -> BlockMatrix {
    let bytes = rows * cols / format.block_len() * format.block_bytes();
    let mut data: Vec<u8> = (0..bytes).map(|_| random.next() as u8).collect();
    let scales = if format == Format::F16 { &[0] } else { format.scale_places() };
    for block in data.chunks_exact_mut(format.block_bytes()) {
        match format {
            Format::F32 => block.copy_from_slice(&random.float().to_le_bytes()),
            Format::BF16 => block.copy_from_slice(&random.float().to_le_bytes()[2..]),
            _ => {
                for &at in scales {
                    // One in eight subnormal.
                    let scale = random.float() * random.of(&[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1e-5]);
                    block[at..at + 2].copy_from_slice(&f16::from_f32_const(scale).to_le_bytes());
                }
            }
        }
    }
    BlockMatrix::new(format, rows, cols, data)
}

#[test]
fn block_products_equal_scalar() {
    let kernels = under_test();
    let mut random = Random(4);
    for format in Format::ALL.into_iter().filter(|format| !format.is_ternary()) {
        for _ in 0..24 {
            let cols = match format.block_len() {
                1 => 1 + random.below(100),
                len => len * (1 + random.below(3)),
            };
            let (rows, n) = (1 + random.below(9), random.of(&[1, 2, 3, 4, 5, 8, 9, 13, 17]));
            let m = random_blocks(&mut random, format, rows, cols);
            let x = random.floats(n * cols);
            let run = |kernel: &dyn Kernel| {
                let mut out = vec![f32::NAN; n * rows];
                // SAFETY: one thread.
                unsafe { kernel.block_matrix(&m, &x, 0..rows, &Output::new(&mut out, rows)) };
                bits(&out)
            };
            let expected = run(&Scalar);
            for kernel in &kernels {
                assert_eq!(run(*kernel), expected, "{} {} [{rows}, {cols}], {n} tokens", kernel.name(), format.name());
            }
        }
    }
}

#[test]
fn attention_equals_scalar() {
    let kernels = under_test();
    let mut random = Random(5);
    for _ in 0..80 {
        let head_dim = 16 * (1 + random.below(9));
        let stride = head_dim * (1 + random.below(3));
        let (positions, heads, tokens) = (1 + random.below(70), 1 + random.below(5), 1 + random.below(6));
        let queries = random.floats(tokens * heads * head_dim);
        let cache = stride * (positions + tokens - 1);
        let (keys, values) = (random.halves(cache), random.halves(cache));
        let attention = Attention {
            queries: &queries,
            heads,
            head_dim,
            keys: &keys,
            values: &values,
            stride,
            positions,
            scale: 0.31,
        };
        let run = |kernel: &dyn Kernel| {
            let mut out = vec![0.0; queries.len()];
            kernel.attend(&attention, &mut out);
            bits(&out)
        };
        let expected = run(&Scalar);
        for kernel in &kernels {
            assert_eq!(run(*kernel), expected, "{} head {head_dim}, {positions} positions", kernel.name());
        }
    }
}

/// Sizes whose products wrap to what the slices hold; the kernels' reads would lie far outside.
#[cfg(panic = "unwind")] // elsewhere a panic ends the tests
#[test]
fn attention_beyond_the_slices_is_a_panic() {
    let (queries, cache) = (vec![0.5; 32], vec![0u16; 64]);
    let whole = || Attention {
        queries: &queries,
        heads: 1,
        head_dim: 16,
        keys: &cache,
        values: &cache,
        stride: 16,
        positions: 3,
        scale: 1.0,
    };
    let half = 1usize << (usize::BITS - 1);
    let wrong = [
        // (positions - 1) * stride is 0 in a word.
        Attention { positions: half, stride: 32, ..whole() },
        Attention { positions: 1 + (1 << (usize::BITS - 4)), ..whole() },
        Attention { positions: usize::MAX, ..whole() },
        Attention { stride: usize::MAX - 7, ..whole() },
        Attention { stride: 0, positions: usize::MAX - 1, ..whole() },
        // heads * head_dim is 16 in a word.
        Attention { heads: (1 << (usize::BITS - 4)) + 1, ..whole() },
        Attention { positions: 4, ..whole() },
        Attention { values: &cache[1..], ..whole() },
    ];
    for kernel in available() {
        let run = |attention: &Attention<'_>| {
            let attend = || kernel.attend(attention, &mut [0.0; 32]);
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(attend))
        };
        assert!(run(&whole()).is_ok(), "{}", kernel.name());
        for (i, attention) in wrong.iter().enumerate() {
            assert!(run(attention).is_err(), "{}: case {i} was computed", kernel.name());
        }
    }
}

#[test]
fn elementwise_steps_equal_scalar() {
    let kernels = under_test();
    let mut random = Random(6);
    for _ in 0..60 {
        let n = 16 * (1 + random.below(20));
        let odd = n - random.below(16);
        let (x, y, z) = (random.floats(n), random.floats(n), random.floats(n));
        let run = |kernel: &dyn Kernel| {
            let mut all = Vec::new();
            let mut codes = vec![0i8; n * 3];
            let (scale, sum) = kernel.quantize_group(&x, &mut codes, 3);
            all.extend(codes.iter().map(|&c| c as u32));
            all.extend([scale.to_bits(), sum as u32]);
            let mut out = vec![0.0; odd];
            kernel.rms_norm(&x[..odd], &y[..odd], 1e-5, &mut out);
            all.extend(bits(&out));
            kernel.layer_norm(&x[..odd], &y[..odd], &z[..odd], 1e-5, &mut out);
            all.extend(bits(&out));
            for kind in [Activation::Silu, Activation::ReluSquared, Activation::Gelu] {
                out.copy_from_slice(&x[..odd]);
                out.iter_mut().for_each(|v| *v *= 20.0);
                kernel.activate(kind, &mut out);
                all.extend(bits(&out));
            }
            kernel.multiply(&mut out, &y[..odd]);
            kernel.add(&mut out, &z[..odd]);
            all.extend(bits(&out));
            for style in [RopeStyle::Norm, RopeStyle::Neox] {
                out.copy_from_slice(&x[..odd]);
                kernel.rotate(style, &mut out, &y[..odd / 3], &z[..odd / 3]);
                all.extend(bits(&out));
            }
            let mut narrow = vec![0u16; n];
            kernel.to_f16(&x, &mut narrow);
            all.extend(narrow.iter().map(|&h| u32::from(h)));
            all
        };
        let expected = run(&Scalar);
        for kernel in &kernels {
            assert_eq!(run(*kernel), expected, "{} n {n}, {odd}", kernel.name());
        }
    }
}

#[test]
fn selection_is_by_name_and_names_what_there_is() {
    assert_eq!(select(Some("scalar")).map(|k| k.name()), Ok("scalar"));
    assert_eq!(select(None).map(|k| k.name()), Ok(available()[0].name()));
    let error = select(Some("cuda")).map(|k| k.name()).unwrap_err().to_string();
    assert!(error.contains("cuda") && error.contains("scalar"), "{error}");
}
