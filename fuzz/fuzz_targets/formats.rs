//! Any file through identification of its tensors, and their bytes through every conversion: no panic, and codes that
//! decode encode to bytes that decode to the same.
//!
//! Run with `cargo +nightly fuzz run formats`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sterna_core::formats::{Format, identify_all};
use sterna_core::gguf::Gguf;

/// Elements that are converted at most, so that a run stays fast.
const MOST: usize = 1 << 16;

fn convert(format: Format, bytes: &[u8]) {
    let blocks =
        (bytes.len().saturating_sub(format.tail_bytes()) / format.block_bytes()).min(MOST / format.block_len());
    let elements = blocks * format.block_len();
    let size = blocks * format.block_bytes();
    if let Some(whole) = bytes.get(..size + format.tail_bytes()) {
        let _ = format.dequantize(whole, &mut vec![0.0; elements]);
        let _ = format.tensor_scale(whole, elements);
    }
    let Some(rows) = bytes.get(..size) else { return };
    let scale_count = if format.group().is_some() { blocks } else { 0 };
    let (mut codes, mut scales) = (vec![0; elements], vec![0; scale_count]);
    if format.decode_codes(rows, &mut codes, &mut scales).is_ok() {
        let mut packed = Vec::new();
        format.encode_codes(&codes, &scales, &mut packed).expect("decoded codes can be held");
        let (mut codes_again, mut scales_again) = (vec![0; elements], vec![0; scale_count]);
        format.decode_codes(&packed, &mut codes_again, &mut scales_again).expect("encoded blocks decode");
        assert_eq!((codes, scales), (codes_again, scales_again));
    }
}

fuzz_target!(|input: (u8, &[u8])| {
    let (choice, bytes) = input;
    convert(Format::ALL[usize::from(choice) % Format::ALL.len()], bytes);
    if let Ok(gguf) = Gguf::parse(bytes) {
        for (info, found) in gguf.header().tensors.iter().zip(identify_all(gguf.header())) {
            let _ = Format::identify(info);
            if let Ok(found) = found {
                convert(found.format, gguf.data(info));
            }
        }
    }
});
