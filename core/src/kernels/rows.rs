//! Products with matrices that stay in their file's block format (embeddings, outputs, float models), once for all sets.
//!
//! Every row is a dot product in sixteen lanes: lane j sums the products of columns j, j + 16, ... in that order, each rounded
//! (no fused multiply-add); then the lanes are folded, j with j + 8, + 4, + 2, + 1. Columns beyond the last count as 0 * 0.

use super::elementwise::LANES;
use super::isa::Isa;
use super::output::Output;
use crate::formats::{self, Format, format_rows};
use crate::ternary::BlockMatrix;
use core::ops::Range;

/// Computes rows `rows` of `m` for the `n` tokens of `x`, `[n, cols]`.
///
/// # Safety
/// The instruction set of `I` is present; no other thread writes these rows of `out`.
#[inline(always)]
pub(super) unsafe fn block_matrix<I: Isa>(m: &BlockMatrix, x: &[f32], rows: Range<usize>, out: &Output<'_>) {
    let n = out.tokens();
    assert!(n.checked_mul(m.cols()) == Some(x.len()) && rows.end <= m.rows() && out.rows() == m.rows());
    let mut t = 0;
    while t < n {
        // SAFETY: the caller's; extents were checked above.
        unsafe {
            if n - t >= 8 && I::SUMS >= 8 {
                block_rows::<I, 8>(m, x, t, rows.clone(), out);
                t += 8;
            } else if n - t >= 4 {
                block_rows::<I, 4>(m, x, t, rows.clone(), out);
                t += 4;
            } else {
                block_rows::<I, 1>(m, x, t, rows.clone(), out);
                t += 1;
            }
        }
    }
}

#[inline(always)]
unsafe fn block_rows<I: Isa, const T: usize>(
    m: &BlockMatrix,
    x: &[f32],
    t: usize,
    rows: Range<usize>,
    out: &Output<'_>,
) {
    let x = &x[t * m.cols()..][..T * m.cols()];
    macro_rules! each_row {
        ($name:ident $module:ident float) => {
            for r in rows {
                // SAFETY: the caller's.
                unsafe { finish::<I, T>(elements::<I, $name, T>(m.row(r), x, m.cols()), t, r, out) }
            }
        };
        ($name:ident $module:ident blocks $($written:ident)?) => {
            for r in rows {
                // SAFETY: the caller's.
                unsafe {
                    let mut acc = [I::splat_f32(0.0); T];
                    let (blocks, _) = m.row(r).as_chunks::<{ formats::$module::BYTES }>();
                    for (b, block) in blocks.iter().enumerate() {
                        let mut weights = [0.0; formats::$module::LEN];
                        formats::$module::dequantize_block(block, &mut weights);
                        acc = accumulate::<I, T>(acc, &weights, x, m.cols(), b * formats::$module::LEN);
                    }
                    finish::<I, T>(acc, t, r, out);
                }
            }
        };
        ($name:ident $module:ident $($packed:tt)*) => {
            unreachable!("{} is packed, not kept in blocks", m.format().name())
        };
    }
    macro_rules! each_format {
        ([] $($(#[$doc:meta])* $name:ident = $id:literal, $text:literal, $module:ident, ($($kind:tt)*), $file_type:expr;)*) => {
            match m.format() {
                $(Format::$name => each_row!($name $module $($kind)*),)*
            }
        };
    }
    format_rows!(each_format);
}

/// A type whose elements stand alone, so that rows may have any length.
trait Element {
    const BYTES: usize;
    /// Reads 16 of them.
    ///
    /// # Safety
    /// The instruction set is present and `16 * BYTES` bytes are readable.
    unsafe fn load<I: Isa>(from: *const u8) -> I::F;
}

struct F32;
struct F16;
struct BF16;

impl Element for F32 {
    const BYTES: usize = 4;

    #[inline(always)]
    unsafe fn load<I: Isa>(from: *const u8) -> I::F {
        // SAFETY: the caller's; `load_f32` asks no alignment.
        unsafe { I::load_f32(from.cast()) }
    }
}

impl Element for F16 {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load<I: Isa>(from: *const u8) -> I::F {
        // SAFETY: the caller's; `load_f16` asks no alignment.
        unsafe { I::load_f16(from.cast()) }
    }
}

impl Element for BF16 {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load<I: Isa>(from: *const u8) -> I::F {
        // SAFETY: the caller's.
        let bytes = unsafe { from.cast::<[[u8; 2]; LANES]>().read() };
        let mut wide = [0.0; LANES];
        for (wide, bytes) in wide.iter_mut().zip(bytes) {
            *wide = f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16);
        }
        // SAFETY: the instruction set is present.
        unsafe { I::load_f32(wide.as_ptr()) }
    }
}

/// The sixteen lanes of one row of plain elements with each of `T` tokens of `x`, `[T, cols]`.
#[inline(always)]
unsafe fn elements<I: Isa, E: Element, const T: usize>(row: &[u8], x: &[f32], cols: usize) -> [I::F; T] {
    assert!(row.len() == cols * E::BYTES && x.len() == T * cols);
    let whole = cols / LANES * LANES;
    // SAFETY: the caller's; columns below `whole` come in sixteens, the rest is copied into zeroed buffers of sixteen.
    unsafe {
        let mut acc = [I::splat_f32(0.0); T];
        for c in (0..whole).step_by(LANES) {
            let weights = E::load::<I>(row.as_ptr().add(c * E::BYTES));
            for (t, acc) in acc.iter_mut().enumerate() {
                *acc = I::add(*acc, I::mul(weights, I::load_f32(x.as_ptr().add(t * cols + c))));
            }
        }
        if whole < cols {
            let mut weights = [0u8; LANES * 4];
            weights[..(cols - whole) * E::BYTES].copy_from_slice(&row[whole * E::BYTES..]);
            let weights = E::load::<I>(weights.as_ptr());
            for (t, acc) in acc.iter_mut().enumerate() {
                let mut rest = [0.0; LANES];
                rest[..cols - whole].copy_from_slice(&x[t * cols + whole..(t + 1) * cols]);
                *acc = I::add(*acc, I::mul(weights, I::load_f32(rest.as_ptr())));
            }
        }
        acc
    }
}

/// Adds the products of `weights` (a multiple of 16) with the columns from `c` on of each token.
#[inline(always)]
unsafe fn accumulate<I: Isa, const T: usize>(
    mut acc: [I::F; T],
    weights: &[f32],
    x: &[f32],
    cols: usize,
    c: usize,
) -> [I::F; T] {
    assert!(weights.len().is_multiple_of(LANES) && c + weights.len() <= cols && x.len() == T * cols);
    for i in (0..weights.len()).step_by(LANES) {
        // SAFETY: the caller's; all columns read lie below `cols`.
        unsafe {
            let w = I::load_f32(weights.as_ptr().add(i));
            for (t, acc) in acc.iter_mut().enumerate() {
                *acc = I::add(*acc, I::mul(w, I::load_f32(x.as_ptr().add(t * cols + c + i))));
            }
        }
    }
    acc
}

#[inline(always)]
unsafe fn finish<I: Isa, const T: usize>(acc: [I::F; T], t: usize, row: usize, out: &Output<'_>) {
    for (i, acc) in acc.into_iter().enumerate() {
        // SAFETY: the caller owns the row.
        unsafe { out.write(t + i, row, &[I::fold(acc)]) };
    }
}
