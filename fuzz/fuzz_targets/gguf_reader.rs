//! Any bytes through both GGUF readers: no panic, and the same outcome.
//!
//! Run with `cargo +nightly fuzz run gguf_reader`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sterna_core::gguf::{Event, Gguf, GgufError, Header, StreamReader};

type Found = (Header, Vec<(usize, Vec<u8>)>);

fn slice(bytes: &[u8]) -> Result<Found, GgufError> {
    let gguf = Gguf::parse(bytes)?;
    let header = gguf.header().clone();
    let mut order: Vec<usize> = (0..header.tensors.len()).collect();
    order.sort_by_key(|&index| header.tensors[index].offset);
    let tensors = order.iter().map(|&index| (index, gguf.data(&header.tensors[index]).to_vec())).collect();
    Ok((header, tensors))
}

fn stream(bytes: &[u8], length: Option<u64>, chunk: usize) -> Result<Found, GgufError> {
    let mut reader = StreamReader::new(length);
    let mut tensors = Vec::new();
    for mut rest in bytes.chunks(chunk) {
        while let Some(event) = reader.read(&mut rest)? {
            if let Event::Tensor { index, bytes, .. } = event {
                tensors.push((index, bytes.to_vec()));
            }
        }
    }
    while let Some(event) = reader.finish()? {
        if let Event::Tensor { index, bytes, .. } = event {
            tensors.push((index, bytes.to_vec()));
        }
    }
    Ok((reader.header().cloned().expect("finish succeeds only after the header"), tensors))
}

fuzz_target!(|input: (u8, &[u8])| {
    let (chunk, bytes) = input;
    let chunk = usize::from(chunk) + 1;
    let whole = slice(bytes);
    let known = stream(bytes, Some(bytes.len() as u64), chunk);
    // As text, since NaN in the metadata differs from itself.
    assert_eq!(format!("{whole:?}"), format!("{known:?}"));
    // Without the length an error may come later and be another one.
    assert_eq!(whole.is_ok(), stream(bytes, None, chunk).is_ok());
});
