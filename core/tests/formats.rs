//! Block codecs from outside: gguf-py's bytes and numbers, round trips, and refusal of bad blocks.

use proptest::prelude::*;
use sterna_core::formats::half::{f16_to_f32, f32_to_f16};
use sterna_core::formats::*;

const TERNARY: [Format; 8] = [
    Format::TQ1_0,
    Format::TQ2_0,
    Format::Q2_0,
    Format::Q2_0G128,
    Format::PQ2_0,
    Format::PTQ1_0,
    Format::I2_S,
    Format::Q1_0,
];

// ---- against gguf-py ------------------------------------------------------------------------------------------------

/// See tests/fixtures/make_quant_vectors.py in the repository.
const VECTORS: &[u8] = include_bytes!("data/quant_vectors.bin");

struct Record {
    format: Format,
    dequantized: bool,
    floats: Vec<f32>,
    bytes: Vec<u8>,
}

fn number(rest: &mut &[u8]) -> usize {
    let (number, after) = rest.split_first_chunk().expect("a number");
    *rest = after;
    u32::from_le_bytes(*number) as usize
}

/// A count and that many items of `size` bytes.
fn counted<'a>(rest: &mut &'a [u8], size: usize) -> &'a [u8] {
    let count = number(rest);
    let (items, after) = rest.split_at(count * size);
    *rest = after;
    items
}

fn records() -> Vec<Record> {
    let mut rest = VECTORS.strip_prefix(b"QVEC").expect("magic");
    let count = number(&mut rest);
    let mut records = Vec::new();
    for _ in 0..count {
        let name = std::str::from_utf8(counted(&mut rest, 1)).unwrap();
        let format = Format::ALL.into_iter().find(|format| format.name() == name).expect("a known name");
        let dequantized = number(&mut rest) == 1;
        let floats = counted(&mut rest, 4).as_chunks().0.iter().map(|&v| f32::from_le_bytes(v)).collect();
        records.push(Record { format, dequantized, floats, bytes: counted(&mut rest, 1).to_vec() });
    }
    assert!(rest.is_empty());
    records
}

#[test]
fn quantized_bytes_equal_those_of_gguf_py() {
    let mut seen = Vec::new();
    for Record { format, floats, bytes, .. } in records().iter().filter(|record| !record.dequantized) {
        let mut ours = Vec::new();
        format.quantize(floats, &mut ours).unwrap();
        let differs = ours.iter().zip(bytes).position(|(a, b)| a != b);
        assert_eq!((differs, ours.len()), (None, bytes.len()), "{}", format.name());
        seen.push(format.name());
    }
    assert_eq!(seen, ["TQ1_0", "TQ2_0", "Q8_0", "BF16", "F16"]);
}

#[test]
fn dequantized_bits_equal_those_of_gguf_py() {
    let mut seen = Vec::new();
    for Record { format, floats, bytes, .. } in records().iter().filter(|record| record.dequantized) {
        let mut ours = vec![0.0; floats.len()];
        format.dequantize(bytes, &mut ours).unwrap();
        for (i, (a, b)) in ours.iter().zip(floats).enumerate() {
            // A zero times a negative scale may have either sign.
            assert!(a.to_bits() == b.to_bits() || (*a == 0.0 && *b == 0.0), "{} {i}: {a} {b}", format.name());
        }
        seen.push(format.name());
    }
    assert_eq!(seen, ["Q4_K", "Q6_K", "Q8_0", "Q4_0", "TQ1_0", "TQ2_0", "BF16"]);
}

#[test]
fn decoding_and_encoding_the_bytes_of_gguf_py_gives_them_back() {
    for Record { format, floats, bytes, .. } in records().iter().filter(|record| !record.dequantized) {
        if !format.is_ternary() {
            continue;
        }
        let mut codes = vec![0; floats.len()];
        let mut scales = vec![0; floats.len() / format.block_len()];
        format.decode_codes(bytes, &mut codes, &mut scales).unwrap();
        let mut back = Vec::new();
        format.encode_codes(&codes, &scales, &mut back).unwrap();
        assert!(back == *bytes, "{}", format.name());
    }
}

// ---- round trips ----------------------------------------------------------------------------------------------------

/// The codes that a format can hold.
fn held(format: Format) -> &'static [u8] {
    match format {
        Format::TQ1_0 | Format::PTQ1_0 => &[0, 1, 2],
        Format::Q1_0 => &[0, 2],
        _ => &[0, 1, 2, 3],
    }
}

fn blocks() -> impl Strategy<Value = (Format, Vec<u8>, Vec<u16>)> {
    (prop::sample::select(&TERNARY[..]), 0usize..5).prop_flat_map(|(format, blocks)| {
        let codes = prop::collection::vec(prop::sample::select(held(format)), blocks * format.block_len());
        let scales = if format.group().is_some() { blocks } else { 0 };
        let scale = any::<u16>().prop_map(|bits| if bits & 0x7c00 == 0x7c00 { bits ^ 0x4000 } else { bits });
        (Just(format), codes, prop::collection::vec(scale, scales))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn codes_and_scales_survive((format, codes, scales) in blocks(), tensor_scale in -10.0f32..10.0) {
        let mut bytes = vec![0xaa];
        format.encode_codes(&codes, &scales, &mut bytes).unwrap();
        let bytes = bytes.split_off(1);
        prop_assert_eq!(bytes.len(), codes.len() / format.block_len() * format.block_bytes());
        let (mut codes_back, mut scales_back) = (vec![9; codes.len()], vec![9; scales.len()]);
        format.decode_codes(&bytes, &mut codes_back, &mut scales_back).unwrap();
        prop_assert_eq!(&codes_back, &codes);
        prop_assert_eq!(&scales_back, &scales);

        // Dequantized values are code - 1 times the scale.
        let mut tensor = bytes;
        if format == Format::I2_S {
            format.encode_tensor_scale(tensor_scale, &mut tensor).unwrap();
            codes_back.fill(9);
            format.decode_codes(&tensor, &mut codes_back, &mut []).unwrap();
            prop_assert_eq!(&codes_back, &codes);
            prop_assert_eq!(format.tensor_scale(&tensor, codes.len()), Ok(tensor_scale));
        }
        let mut values = vec![f32::NAN; codes.len()];
        format.dequantize(&tensor, &mut values).unwrap();
        for (i, &value) in values.iter().enumerate() {
            let scale = format.group().map_or(tensor_scale, |group| f16_to_f32(scales[i / group]));
            prop_assert_eq!(value, (f32::from(codes[i]) - 1.0) * scale);
        }
    }

    /// Weights that are ternary already come back exactly, so converting a converted model changes nothing.
    #[test]
    fn quantizing_ternary_values_is_exact((format, codes, scales) in blocks()) {
        let mut bytes = Vec::new();
        let group = format.group().unwrap_or(codes.len().max(1));
        // Scales positive, and a one in each group, so that the largest magnitude is the scale.
        let scale = |i: usize| f16_to_f32(scales.get(i / group).copied().unwrap_or(0x3800) & 0x7fff);
        let values = (0..codes.len()).map(|i| match i % group {
            0 => scale(i),
            _ => (f32::from(codes[i].min(2)) - 1.0) * scale(i),
        }).collect::<Vec<_>>();
        format.quantize(&values, &mut bytes).unwrap();
        let mut back = vec![0.0; values.len()];
        format.dequantize(&bytes, &mut back).unwrap();
        if format == Format::Q1_0 {
            // The mean magnitude, summed in f32, may differ in its last bit.
            prop_assert!(back.iter().zip(&values).all(|(a, b)| (a - b).abs() <= b.abs() * 1e-3 + 1e-7));
        } else {
            prop_assert_eq!(back, values);
        }
    }

    #[test]
    fn q8_0_is_near(values in prop::collection::vec(-100.0f32..100.0, 64)) {
        let (mut bytes, mut back) = (Vec::new(), vec![0.0; 64]);
        Format::Q8_0.quantize(&values, &mut bytes).unwrap();
        Format::Q8_0.dequantize(&bytes, &mut back).unwrap();
        let step = values.iter().fold(0.0f32, |max, v| max.max(v.abs())) / 127.0;
        prop_assert!(values.iter().zip(&back).all(|(a, b)| (a - b).abs() <= step * 0.5 + step * 127.0 * 0.0006));
    }

    /// Any bytes: an error or values, never a panic.
    #[test]
    fn noise(format in prop::sample::select(&Format::ALL[..]), bytes in prop::collection::vec(any::<u8>(), 0..700),
             elements in 0usize..1100) {
        let blocks = bytes.len() / format.block_bytes();
        for elements in [elements, blocks * format.block_len()] {
            let mut values = vec![0.0; elements];
            let _ = format.dequantize(&bytes, &mut values);
            let mut codes = vec![0; elements];
            let _ = format.decode_codes(&bytes, &mut codes, &mut vec![0; elements / format.block_len()]);
            let _ = format.decode_codes(&bytes, &mut codes, &mut []);
            let _ = format.encode_codes(&bytes, &[], &mut Vec::new());
            let _ = format.tensor_scale(&bytes, elements);
        }
    }
}

#[test]
fn plain_floats_pass_through() {
    let values = [0.0, -0.0, 1.5, -65504.0, 6.1e-5, f32::INFINITY, f32::NAN];
    for format in [Format::F32, Format::F16, Format::BF16] {
        let mut bytes = Vec::new();
        format.quantize(&values, &mut bytes).unwrap();
        let mut back = [0.0; 7];
        format.dequantize(&bytes, &mut back).unwrap();
        assert_eq!(back[..3], values[..3], "{}", format.name());
        assert_eq!(back[5], f32::INFINITY);
        assert!(back[6].is_nan());
    }
}

// ---- one test a fault -----------------------------------------------------------------------------------------------

#[test]
fn scales_that_are_nan_or_infinite_name_their_block() {
    let places = [
        (Format::Q8_0, 0),
        (Format::Q4_0, 0),
        (Format::Q4_K, 0),
        (Format::Q4_K, 2),
        (Format::Q6_K, 208),
        (Format::TQ1_0, 52),
        (Format::TQ2_0, 64),
        (Format::Q2_0, 0),
        (Format::Q2_0G128, 0),
        (Format::PQ2_0, 0),
        (Format::PTQ1_0, 26),
        (Format::Q1_0, 0),
    ];
    for (format, place) in places {
        for scale in [0x7c00u16, 0xfc00, 0x7e01] {
            let size = format.block_bytes();
            let mut bytes = vec![0; 3 * size];
            bytes[2 * size + place..][..2].copy_from_slice(&scale.to_le_bytes());
            let error = format.dequantize(&bytes, &mut vec![0.0; 3 * format.block_len()]).unwrap_err();
            assert!(matches!(error, FormatError::BadScale { block: 2, .. }), "{error}");
            if format.is_ternary() {
                let mut codes = vec![0; 3 * format.block_len()];
                let error = format.decode_codes(&bytes, &mut codes, &mut [0; 3]).unwrap_err();
                assert!(matches!(error, FormatError::BadScale { block: 2, .. }), "{error}");
                codes.fill(2);
                let error = format.encode_codes(&codes, &[0, scale, 0], &mut Vec::new()).unwrap_err();
                assert!(matches!(error, FormatError::BadScale { block: 1, .. }), "{error}");
            }
        }
    }
    let mut tensor = vec![0; 64];
    tensor[32..36].copy_from_slice(&f32::NAN.to_le_bytes());
    let error = Format::I2_S.dequantize(&tensor, &mut [0.0; 128]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "block 0 of I2_S data has a scale that is NaN; the file is damaged or badly converted"
    );
    assert!(matches!(
        Format::I2_S.encode_tensor_scale(f32::INFINITY, &mut Vec::new()),
        Err(FormatError::BadScale { .. })
    ));
}

#[test]
fn codes_that_do_not_fit_are_refused() {
    for (format, code) in [
        (Format::TQ1_0, 3),
        (Format::PTQ1_0, 3),
        (Format::Q1_0, 1),
        (Format::Q1_0, 3),
        (Format::TQ2_0, 4),
        (Format::Q2_0, 4),
        (Format::I2_S, 255),
    ] {
        let mut codes = vec![2; format.block_len()];
        codes[5] = code;
        let scales = vec![0x3c00; usize::from(format.group().is_some())];
        let mut out = vec![1];
        let error = format.encode_codes(&codes, &scales, &mut out).unwrap_err();
        assert_eq!(error, FormatError::Code { format, index: 5, code });
        assert_eq!(out, [1]);
    }
}

#[test]
fn slices_that_do_not_go_together_are_refused() {
    let length =
        |result: Result<(), FormatError>| assert!(matches!(result, Err(FormatError::Length { .. })), "{result:?}");
    for format in Format::ALL {
        let (len, bytes) = (format.block_len(), format.block_bytes());
        length(format.dequantize(&vec![0; bytes + 1 + format.tail_bytes()], &mut vec![0.0; len]));
        length(format.dequantize(&vec![0; bytes], &mut vec![0.0; 2 * len]));
        if len > 1 {
            length(format.dequantize(&vec![0; bytes], &mut vec![0.0; len - 1]));
            length(format.quantize(&vec![0.0; len + 1], &mut Vec::new()));
        }
        if format.is_ternary() {
            let scales = usize::from(format.group().is_some());
            length(format.decode_codes(&vec![0; bytes], &mut vec![0; len], &mut vec![0; scales + 1]));
            length(format.decode_codes(&vec![0; bytes - 1], &mut vec![0; len], &mut vec![0; scales]));
            length(format.encode_codes(&vec![0; len - 1], &vec![0; scales], &mut Vec::new()));
            length(format.encode_codes(&vec![0; len], &vec![0; scales + 1], &mut Vec::new()));
        }
    }
    length(Format::I2_S.tensor_scale(&[0; 35], 128).map(drop));
}

#[test]
fn what_a_format_has_not_is_an_error() {
    for format in Format::ALL.into_iter().filter(|format| !format.is_ternary()) {
        assert_eq!(format.group(), None);
        assert_eq!(format.decode_codes(&[], &mut [], &mut []), Err(FormatError::NotTernary { format }));
        assert_eq!(format.encode_codes(&[], &[], &mut Vec::new()), Err(FormatError::NotTernary { format }));
        assert_eq!(format.tensor_scale(&[], 0), Err(FormatError::NoTensorScale { format }));
    }
    for format in [Format::Q4_0, Format::Q4_K, Format::Q6_K] {
        assert_eq!(format.quantize(&[], &mut Vec::new()), Err(FormatError::NoQuantizer { format }));
    }
    assert!(matches!(Format::TQ2_0.encode_tensor_scale(1.0, &mut Vec::new()), Err(FormatError::NoTensorScale { .. })));
}

#[test]
fn values_that_cannot_be_written_are_named() {
    for format in TERNARY.into_iter().chain([Format::Q8_0]) {
        let mut values = vec![1.0; 2 * format.block_len()];
        values[format.block_len() + 3] = f32::NAN;
        let mut out = vec![1];
        let error = format.quantize(&values, &mut out).unwrap_err();
        assert!(matches!(error, FormatError::NotFinite { index, .. } if index == format.block_len() + 3), "{error}");
        assert_eq!(out, [1]);
        if format == Format::I2_S {
            continue;
        }
        values[format.block_len()..].fill(1e8);
        let error = format.quantize(&values, &mut out).unwrap_err();
        assert_eq!(error, FormatError::OutOfRange { format, index: format.block_len(), value: 1e8 });
        assert_eq!(out, [1], "nothing of a refused tensor is written");
    }
    let error = Format::F16.quantize(&[1.0, 7e4], &mut Vec::new()).unwrap_err();
    assert_eq!(error, FormatError::OutOfRange { format: Format::F16, index: 1, value: 7e4 });
    // Rounding up would make it infinite.
    let error = Format::BF16.quantize(&[1.0, f32::MAX], &mut Vec::new()).unwrap_err();
    assert_eq!(error, FormatError::OutOfRange { format: Format::BF16, index: 1, value: f32::MAX });
}

#[test]
fn tensor_bytes_are_checked() {
    assert_eq!(Format::TQ2_0.tensor_bytes(3, 512), Some(3 * 2 * 66));
    assert_eq!(Format::TQ2_0.tensor_bytes(3, 500), None);
    assert_eq!(Format::F32.tensor_bytes(u64::MAX, 1), None);
    assert_eq!(Format::I2_S.tensor_bytes(2, 128), Some(2 * 32 + 32));
    assert_eq!(Format::I2_S.tensor_bytes(u64::MAX / 32, 128), None);
}

#[test]
fn reference_quantizers_round_halves_away_from_zero() {
    let mut values = [0.0f32; 64];
    values[..5].copy_from_slice(&[2.0, 1.0, -1.0, 0.99, -2.0]);
    let (codes, scale) = q2_0::quantize_block(&values);
    assert_eq!((codes[..6].to_vec(), scale), (vec![2, 2, 0, 1, 0, 1], f32_to_f16(2.0)));
    assert_eq!([1e-7, -1e-7, 0.3, -0.3].map(i2_s::quantize_value), [1, 1, 2, 0]);
}
