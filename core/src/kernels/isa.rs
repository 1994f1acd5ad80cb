//! What an instruction set must offer; the algorithms in `tile`, `rows` and `attention` are written once on top of it.

use super::elementwise::{LANES, fold};

/// Sixteen 32-bit lanes of an instruction set, in however many registers that takes.
///
/// Lanes are rows of a tile in ternary products, and the sixteen partial sums of a float reduction. Every operation is exact
/// (integers) or a single rounding (floats), so each implementation gives the same bits.
///
/// # Safety
/// All functions need the instruction set to be present; pointers must be readable or writable for the stated extent.
pub(super) trait Isa {
    /// 64 bytes: a block of packed codes.
    type Bytes: Copy;
    /// 64 bytes, each a code 0..=3: four columns of 16 rows.
    type Codes: Copy;
    /// Four activations, in every lane.
    type Quad: Copy;
    /// Sixteen i32 sums.
    type Acc: Copy;
    /// Sums within at most [`DOTS`](Self::DOTS) dot products, in the instruction set's own width.
    type Part: Copy;
    /// The weights of a block as [`wide_dots`](Self::wide_dots) wants them; nothing where [`WIDE`](Self::WIDE) is 0.
    type Wide: Copy;
    /// Sixteen f32.
    type F: Copy;

    /// Row tiles that a matrix-vector product walks side by side (1, 2 or 4), to hide the latency of its sums.
    const TILES: usize;
    /// Tokens that a matrix product keeps in registers (a power of two up to 16).
    const TOKENS: usize;
    /// Sums of sixteen f32 that stay in registers beside what is added: 2, 4 or 8.
    const SUMS: usize;
    /// Dot products between `begin` and `end` that cannot overflow `Part` (a multiple of 4).
    const DOTS: usize;
    /// Blocks that are unpacked at a time where the tokens are many; 0 where `dot` is the best there is.
    const WIDE: usize = 0;

    /// Reads 64 bytes.
    unsafe fn load(from: *const u8) -> Self::Bytes;
    /// Bits `2*S..2*S+2` of each byte, to be multiplied with the quad of the same `S`.
    unsafe fn codes<const S: i32>(bytes: Self::Bytes) -> Self::Codes;
    /// Reads four int8, the activations of the columns at shift `S`.
    unsafe fn quad<const S: i32>(from: *const i8) -> Self::Quad;
    /// The same sum in every lane.
    unsafe fn splat(value: i32) -> Self::Acc;
    /// Opens a run of dot products on top of `acc`.
    unsafe fn begin(acc: Self::Acc) -> Self::Part;
    /// Adds, in each lane, the products of its four codes with the four activations.
    unsafe fn dot(part: Self::Part, codes: Self::Codes, quad: Self::Quad) -> Self::Part;
    /// Closes a run: `acc` is the value that `begin` was given.
    unsafe fn end(acc: Self::Acc, part: Self::Part) -> Self::Acc;
    /// Unpacks a block for [`wide_dots`](Self::wide_dots).
    #[inline(always)]
    unsafe fn unpack(_: Self::Bytes) -> Self::Wide {
        unreachable!("WIDE is 0")
    }
    /// Adds to each `acc` the products of its lane's weights, of at most [`WIDE`](Self::WIDE) blocks, with the activations of four
    /// tokens: `quads` is `[4 * blocks, stride, 4]`.
    #[inline(always)]
    unsafe fn wide_dots(_acc: &mut [Self::Acc; 4], _blocks: &[Self::Wide], _quads: *const i8, _stride: usize) {
        unreachable!("WIDE is 0")
    }
    /// Lane by lane, rounded to nearest even.
    unsafe fn to_f32(acc: Self::Acc) -> Self::F;

    /// Reads 16 f16 and widens them.
    unsafe fn load_f16(from: *const u16) -> Self::F;
    /// Reads 16 f32.
    unsafe fn load_f32(from: *const f32) -> Self::F;
    /// Writes 16 f32.
    unsafe fn store_f32(to: *mut f32, value: Self::F);
    /// The same value in every lane.
    unsafe fn splat_f32(value: f32) -> Self::F;
    /// Sum, lane by lane.
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    /// Product, lane by lane; never fused with an addition.
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    /// The sum of the lanes: j with j + 8, then + 4, + 2, + 1, as [`super::elementwise::fold`].
    #[inline(always)]
    unsafe fn fold(value: Self::F) -> f32 {
        let mut lanes = [0.0; LANES];
        // SAFETY: `lanes` holds sixteen; the rest is the caller's.
        unsafe { Self::store_f32(lanes.as_mut_ptr(), value) };
        fold(lanes)
    }
}
