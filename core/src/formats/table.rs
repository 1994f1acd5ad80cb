//! The table of formats: one row a format. The enum, the lists, and every choice by format follow from it.
//!
//! To add a format: write its file (layout, `LEN`, `BYTES`, and the functions that its kind asks for), and add its row here.
//!
//! | kind      | what the file has beside `LEN` and `BYTES`                                              |
//! |-----------|------------------------------------------------------------------------------------------|
//! | `float`   | `dequantize_block`, `quantize_block`, `is_finite`                                        |
//! | `blocks`  | `SCALES`, `dequantize_block`; and `quantize_block` where the row says `written`          |
//! | `ternary` | `SCALES`, `decode_block`, `encode_block`, `quantize_block`                               |
//! | `i2_s`    | the one type with a scale for the whole tensor                                           |

use super::codec::{Row, decode, dequantize, encode, quantize_blocks, quantize_codes, quantize_floats, scale_codes};
use super::half::f16_to_f32;
use super::{bf16, f16, fp32, i2_s, pq2_0, ptq1_0, q1_0, q2_0, q4_0, q4_k, q6_k, q8_0, tq1_0, tq2_0};

/// Hands all rows to the macro `$then`, with the tokens after it in front. A row is
///
/// ```text
/// /// What it is.
/// NAME = id, "printed name", file module, kind, file type in `general.file_type`;
/// ```
macro_rules! format_rows {
    ($then:ident $($argument:tt)*) => {
        $then! { [$($argument)*]
            /// 32-bit float.
            F32 = 0, "F32", fp32, (float), Some(0);
            /// IEEE half.
            F16 = 1, "F16", f16, (float), Some(1);
            /// 4-bit, a scale per 32.
            Q4_0 = 2, "Q4_0", q4_0, (blocks), Some(2);
            /// 8-bit, a scale per 32.
            Q8_0 = 8, "Q8_0", q8_0, (blocks written), Some(7);
            /// 4-bit, nested scales and minima per 256.
            Q4_K = 12, "Q4_K", q4_k, (blocks), None;
            /// 6-bit, nested scales per 256.
            Q6_K = 14, "Q6_K", q6_k, (blocks), Some(18);
            /// The upper half of an f32.
            BF16 = 30, "BF16", bf16, (float), Some(32);
            /// Ternary, five trits a byte, a scale per 256.
            TQ1_0 = 34, "TQ1_0", tq1_0, (ternary Trits), Some(36);
            /// Ternary, 2-bit codes, a scale per 256.
            TQ2_0 = 35, "TQ2_0", tq2_0, (ternary TwoBits), Some(37);
            /// Ternary, 2-bit codes, one scale for the tensor.
            I2_S = 36, "I2_S", i2_s, (i2_s), Some(40);
            /// Signs, a scale per 128.
            Q1_0 = 41, "Q1_0", q1_0, (ternary Signs), Some(40);
            /// Ternary, 2-bit codes, a scale per 64.
            Q2_0 = 42, "Q2_0", q2_0, (ternary TwoBits), Some(41);
            /// Ternary, 2-bit codes, a scale per 128: the older meaning of the id of Q2_0.
            Q2_0G128 = 42, "Q2_0 (group 128)", pq2_0, (ternary TwoBits), None;
            /// Ternary, 2-bit codes, a scale per 128: the same block with its own id.
            PQ2_0 = 142, "PQ2_0", pq2_0, (ternary TwoBits), None;
            /// Ternary, five trits a byte, a scale per 128.
            PTQ1_0 = 143, "PTQ1_0", ptq1_0, (ternary Trits), None;
        }
    };
}
pub(crate) use format_rows;

/// The codes that a ternary type can hold; a code is a weight plus one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codes {
    /// -1, 0 and 1.
    Trits,
    /// -1, 0, 1 and 2.
    TwoBits,
    /// -1 and 1.
    Signs,
}

impl Codes {
    /// Whether the type can hold this code.
    pub const fn holds(self, code: u8) -> bool {
        match self {
            Self::Trits => code <= 2,
            Self::TwoBits => code <= 3,
            Self::Signs => code == 0 || code == 2,
        }
    }
}

/// The row of one kind from the functions of its module.
macro_rules! row {
    ($module:ident float) => {
        Row {
            is_float: true,
            dequantize: |bytes, out| dequantize(bytes, out, $module::dequantize_block),
            quantize: Some(|format, values, out| {
                quantize_floats(format, values, out, $module::quantize_block, $module::is_finite)
            }),
            ..Row::of($module::LEN, $module::BYTES, &[])
        }
    };
    ($module:ident blocks) => {
        Row {
            dequantize: |bytes, out| dequantize(bytes, out, $module::dequantize_block),
            ..Row::of($module::LEN, $module::BYTES, &$module::SCALES)
        }
    };
    ($module:ident blocks written) => {
        Row {
            quantize: Some(|format, values, out| quantize_blocks(format, values, out, $module::quantize_block)),
            ..row!($module blocks)
        }
    };
    ($module:ident ternary $codes:ident) => {
        Row {
            codes: Some(Codes::$codes),
            dequantize: |bytes, out| {
                dequantize::<{ $module::BYTES }, { $module::LEN }>(bytes, out, |block, out| {
                    let mut codes = [0; $module::LEN];
                    let scale = $module::decode_block(block, &mut codes);
                    scale_codes(&codes, f16_to_f32(scale), out);
                });
            },
            decode: |bytes, codes, scales| {
                decode::<{ $module::BYTES }, { $module::LEN }>(bytes, codes, scales, $module::decode_block);
            },
            encode: |codes, scales, out| {
                encode::<{ $module::BYTES }, { $module::LEN }>(codes, scales, out, $module::encode_block);
            },
            quantize: Some(|format, values, out| {
                quantize_codes::<{ $module::LEN }>(format, values, out, $module::quantize_block)
            }),
            ..Row::of($module::LEN, $module::BYTES, &$module::SCALES)
        }
    };
    ($module:ident i2_s) => {
        Row {
            codes: Some(Codes::TwoBits),
            tail: $module::TAIL_BYTES,
            dequantize: $module::dequantize,
            decode: $module::decode,
            encode: $module::encode,
            quantize: Some($module::quantize),
            ..Row::of($module::LEN, $module::BYTES, &[])
        }
    };
}

macro_rules! declare {
    ([] $($(#[$doc:meta])* $name:ident = $id:literal, $text:literal, $module:ident, ($($kind:tt)*), $file_type:expr;)*) => {
        /// The types of tensors that can be read.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(non_camel_case_types, reason = "the names of the field, as files and tools print them")]
        pub enum Format {
            $($(#[$doc])* $name,)*
        }

        impl Format {
            /// All formats, in the order of their ids.
            pub const ALL: [Self; TABLE.len()] = [$(Self::$name),*];
        }

        pub(super) const TABLE: [Row; [$($id),*].len()] = [
            $(Row { name: $text, type_id: $id, file_type: $file_type, ..row!($module $($kind)*) }),*
        ];
    };
}
format_rows!(declare);
