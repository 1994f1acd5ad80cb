//! Whole models against what `transformers` computes from the same weights, and against themselves on every kernel and
//! number of threads. The files and their making: tests/data/models/README.md.

mod edited;

use edited::{Edited, Tensor};
use std::path::{Path, PathBuf};
use sterna_core::formats::Format;
use sterna_core::generate::{Finish, GenerateOptions};
use sterna_core::gguf::{Event, Gguf, StreamReader};
use sterna_core::kernels::{Executor, Rayon, Serial, available};
use sterna_core::model::{Input, LoadOptions, Loader, Logits, Transformer};

struct Reference {
    tokens: Vec<u32>,
    /// `[tokens, vocabulary]`
    logits: Vec<f32>,
    vocabulary: usize,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/models")
}

fn names() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "gguf"))
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    assert!(names.len() >= 25, "fixtures are missing: {names:?}");
    names
}

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(folder().join(format!("{name}.gguf"))).unwrap()
}

fn reference(name: &str) -> Reference {
    let bytes = std::fs::read(folder().join(format!("{name}.logits"))).unwrap();
    let words: Vec<u32> = bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
    let (n, vocabulary) = (words[0] as usize, words[1] as usize);
    let logits: Vec<f32> = words[2 + n..].iter().map(|&word| f32::from_bits(word)).collect();
    assert_eq!(logits.len(), n * vocabulary);
    Reference { tokens: words[2..2 + n].to_vec(), logits, vocabulary }
}

fn load(bytes: &[u8], kernel: &str) -> Transformer {
    let options = LoadOptions { kernel: Some(kernel.to_owned()) };
    Transformer::from_gguf(&Gguf::parse(bytes).unwrap(), &options, &Serial).unwrap()
}

fn best(logits: &[f32]) -> usize {
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap()
}

#[test]
fn logits_agree_with_transformers() {
    let mut failures = Vec::new();
    for name in names() {
        let (bytes, reference) = (bytes(&name), reference(&name));
        let model = load(&bytes, available()[0].name());
        assert_eq!(model.vocabulary(), reference.vocabulary, "{name}");
        let mut state = model.state(None);
        let logits = model.forward(&mut state, &Serial, &reference.tokens, Logits::All).unwrap();
        assert_eq!(logits.len(), reference.logits.len(), "{name}");

        let (mut dot, mut ours, mut theirs, mut error) = (0.0f64, 0.0f64, 0.0f64, 0.0f64);
        for (&a, &b) in logits.iter().zip(&reference.logits) {
            let (a, b) = (f64::from(a), f64::from(b));
            dot += a * b;
            ours += a * a;
            theirs += b * b;
            error += (a - b) * (a - b);
        }
        let cosine = dot / (ours * theirs).sqrt();
        let relative = (error / theirs).sqrt();
        let rows = logits.chunks(reference.vocabulary).zip(reference.logits.chunks(reference.vocabulary));
        let same = rows.clone().filter(|(a, b)| best(a) == best(b)).count() as f64 / rows.len() as f64;
        println!("{name:24} relative error {relative:.2e}, 1 - cosine {:.1e}, same best {same:.3}", 1.0 - cosine);
        // Activations stay f32 where no matrix is ternary.
        let quantized = model.tensors().iter().any(|tensor| tensor.group.is_some());
        let close = if quantized { cosine > 0.9999 } else { relative < 1e-3 };
        if !close || same < 0.99 {
            failures.push(name);
        }
    }
    assert!(failures.is_empty(), "too far from the reference: {failures:?}");
}

/// The bits of all logits of a fixture; `piece` tokens go into a call.
fn bits(name: &str, kernel: &str, exec: &dyn Executor, piece: usize) -> Vec<u32> {
    let (model, tokens) = (load(&bytes(name), kernel), reference(name).tokens);
    let mut state = model.state(None);
    // With LongRoPE the whole text decides.
    state.expect(tokens.len());
    let mut all = Vec::new();
    for tokens in tokens.chunks(piece) {
        let logits = model.forward(&mut state, exec, tokens, Logits::All).unwrap();
        all.extend(logits.iter().map(|logit| logit.to_bits()));
    }
    all
}

#[test]
fn logits_are_the_same_bits_on_all_kernels_threads_and_cuts() {
    for name in names() {
        let expected = bits(&name, "scalar", &Serial, usize::MAX);
        for kernel in available() {
            for (threads, piece) in [(1, usize::MAX), (2, usize::MAX), (7, usize::MAX), (2, 1), (7, 5)] {
                // WebAssembly under WASI has one thread.
                let got = match rayon::ThreadPoolBuilder::new().num_threads(threads).build() {
                    Ok(pool) => pool.install(|| bits(&name, kernel.name(), &Rayon, piece)),
                    Err(_) if cfg!(target_family = "wasm") => bits(&name, kernel.name(), &Serial, piece),
                    Err(error) => panic!("{error}"),
                };
                assert!(got == expected, "{name}: {} with {threads} threads, {piece} tokens a call", kernel.name());
            }
        }
    }
    println!("kernels exercised: {}", available().iter().map(|kernel| kernel.name()).collect::<Vec<_>>().join(", "));
}

/// Every target computes the bits that were recorded on x86-64: `cargo test` runs this there, under qemu for Arm, and in
/// WebAssembly. A change of the arithmetic shows here and is recorded anew with STERNA_RECORD_BITS=1.
#[test]
fn logits_are_the_recorded_bits_on_every_target() {
    let path = folder().join("bits.txt");
    let mut lines = String::new();
    for name in names() {
        // FNV-1a over the little-endian bytes.
        let hash = bits(&name, available()[0].name(), &Serial, usize::MAX)
            .iter()
            .flat_map(|bits| bits.to_le_bytes())
            .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        lines.push_str(&format!("{name} {hash:016x}\n"));
    }
    if std::env::var("STERNA_RECORD_BITS").is_ok_and(|value| value == "1") {
        std::fs::write(&path, &lines).unwrap();
    }
    assert_eq!(lines, std::fs::read_to_string(&path).unwrap());
}

/// A fixture under the name of Sterna's own architecture, without hyper-connections yet.
fn as_sterna(name: &str) -> Edited {
    let mut file = Edited::of(name);
    let old = file.metadata.str("general.architecture").unwrap().to_owned();
    for (key, value) in file.metadata.clone().iter() {
        if let Some(key) = key.strip_prefix(&format!("{old}.")) {
            file.metadata.insert(format!("sterna.{key}"), value.clone());
        }
    }
    file.set("general.architecture", "sterna")
}

fn all_logits(bytes: &[u8], tokens: &[u32]) -> Vec<f32> {
    let model = load(bytes, available()[0].name());
    model.forward(&mut model.state(None), &Serial, tokens, Logits::All).unwrap().to_vec()
}

#[test]
fn one_residual_stream_is_the_plain_model() {
    let name = "bitnet-i2_s";
    let tokens = reference(name).tokens;
    let plain = all_logits(&bytes(name), &tokens);
    assert_eq!(all_logits(&as_sterna(name).write(), &tokens), plain);
    assert_eq!(all_logits(&as_sterna(name).set(".hyper_connections", 1u32).write(), &tokens), plain);
}

/// Streams that are read and written alike stay alike: with gates of 1/n and of 1, each is the plain model's stream, whatever
/// the mixing does.
#[test]
fn streams_that_are_treated_alike_give_the_plain_model() {
    let name = "bitnet-i2_s";
    let tokens = reference(name).tokens;
    let plain = all_logits(&bytes(name), &tokens);
    let (d, layers) = (256, 2);
    for n in [2usize, 4] {
        let logits = 2 * n + (1..=n).product::<usize>();
        let mut file = as_sterna(name).set(".hyper_connections", n as u32);
        for stem in (0..layers).flat_map(|i| [format!("blk.{i}.attn_hc"), format!("blk.{i}.ffn_hc")]) {
            let mut bias = vec![0.0; logits];
            bias[..n].fill(-((n - 1) as f32).ln());
            bias[2 * n] = 1.5;
            let mut weight = Tensor::f32s(&format!("{stem}.weight"), &vec![0.5; logits * n * d]);
            weight.dims = vec![(n * d) as u64, logits as u64];
            file = file
                .with_tensor(weight)
                .with_tensor(Tensor::f32s(&format!("{stem}.bias"), &bias))
                .with_tensor(Tensor::f32s(&format!("{stem}.scale"), &[0.0, 0.0, 0.7]));
        }
        let streams = all_logits(&file.write(), &tokens);
        let (mut error, mut size) = (0.0f64, 0.0f64);
        for (a, b) in streams.iter().zip(&plain) {
            error += f64::from(a - b).powi(2);
            size += f64::from(*b).powi(2);
        }
        let relative = (error / size).sqrt();
        println!("{n} streams: relative error {relative:.1e}");
        // Roundings to int8 fall otherwise here and there.
        assert!(relative < 0.02, "{n} streams: {relative:e}");
    }
}

#[test]
fn what_goes_into_matrices_can_be_observed() {
    let bytes = bytes("llama-f16");
    let model = load(&bytes, "scalar");
    let tokens = reference("llama-f16").tokens;
    let run = |piece: usize| {
        let mut state = model.state(None);
        state.observe();
        tokens
            .chunks(piece)
            .for_each(|tokens| drop(model.forward(&mut state, &Serial, tokens, Logits::Last).map(|_| ())));
        state.observed().unwrap()
    };
    let squares = run(tokens.len());
    assert_eq!((squares.tokens(), squares.clone()), (tokens.len(), run(3)));
    let (c, last) = (model.config(), model.config().n_layer - 1);
    let width = |input| squares.mean(last, input).unwrap().len();
    let widths = [Input::Attention, Input::AttentionOutput, Input::FeedForward, Input::Down].map(width);
    assert_eq!(widths, [c.n_embd, c.q_width(), c.n_embd, c.n_ff]);
    assert_eq!(squares.mean(last + 1, Input::Down), None);
    // What enters the first block is known: rows of the embedding, normed.
    let file = Gguf::parse(&bytes).unwrap();
    let floats = |name: &str| {
        let info = file.header().tensors.iter().find(|info| info.name == name).unwrap();
        let format = Format::identify(info).unwrap();
        let mut values = vec![0.0; info.elements() as usize];
        let size = format.tensor_bytes(info.rows(), info.cols()).unwrap() as usize;
        format.dequantize(&file.data(info)[..size], &mut values).unwrap();
        values
    };
    let (embedding, norm) = (floats("token_embd.weight"), floats("blk.0.attn_norm.weight"));
    let mut expected = vec![0.0f64; c.n_embd];
    for &token in &tokens {
        let x = &embedding[token as usize * c.n_embd..][..c.n_embd];
        let mean = x.iter().map(|x| f64::from(x * x)).sum::<f64>() / c.n_embd as f64;
        let scale = 1.0 / (mean + f64::from(c.eps)).sqrt();
        expected.iter_mut().zip(x).zip(&norm).for_each(|((sum, x), norm)| {
            *sum += (f64::from(*x) * scale * f64::from(*norm)).powi(2) / tokens.len() as f64;
        });
    }
    for (found, expected) in squares.mean(0, Input::Attention).unwrap().into_iter().zip(expected) {
        assert!((f64::from(found) - expected).abs() <= 1e-4 * expected, "{found} {expected}");
    }
}

#[test]
fn a_stream_of_chunks_loads_the_same_model() {
    let name = "llama-tq2_0";
    let (bytes, reference) = (bytes(name), reference(name));
    let mut reader = StreamReader::new(Some(bytes.len() as u64));
    let mut loader = None;
    for mut chunk in bytes.chunks(1000) {
        while let Some(event) = reader.read(&mut chunk).unwrap() {
            take(&mut loader, event);
        }
    }
    while let Some(event) = reader.finish().unwrap() {
        take(&mut loader, event);
    }
    let streamed = loader.unwrap().finish().unwrap();
    let mapped = load(&bytes, available()[0].name());
    let logits = |model: &Transformer| {
        model.forward(&mut model.state(None), &Serial, &reference.tokens, Logits::Last).unwrap().to_vec()
    };
    assert_eq!(logits(&streamed), logits(&mapped));
}

fn take(loader: &mut Option<Loader>, event: Event<'_>) {
    match event {
        Event::Header(header) => *loader = Some(Loader::new(header, &LoadOptions::default()).unwrap()),
        Event::Tensor { info, bytes, .. } => loader.as_mut().unwrap().tensor(info, bytes, &Serial).unwrap(),
    }
}

#[test]
fn a_rewound_conversation_continues_as_if_it_had_never_gone_on() {
    let name = "qwen3-yarn-q2_0-g128";
    let (bytes, reference) = (bytes(name), reference(name));
    let model = load(&bytes, available()[0].name());
    let mut state = model.state(None);
    let straight = model.forward(&mut state, &Serial, &reference.tokens[..9], Logits::Last).unwrap().to_vec();
    let mut state = model.state(None);
    model.forward(&mut state, &Serial, &reference.tokens[..8], Logits::None).unwrap();
    model.forward(&mut state, &Serial, &reference.tokens[3..20], Logits::None).unwrap();
    state.truncate(8);
    let again = model.forward(&mut state, &Serial, &reference.tokens[8..9], Logits::Last).unwrap();
    assert_eq!(again, straight);
}

#[test]
fn a_full_context_slides() {
    let model = sterna_core::Model::from_gguf(&bytes("llama-tq2_0")).unwrap();
    let options = |context| sterna_core::SessionOptions { context: Some(context), ..Default::default() };
    let greedy = sterna_core::Sampling { temperature: 0.0, ..Default::default() };
    let limits = |slide| GenerateOptions { max_tokens: Some(40), slide, ignore_eos: true, ..Default::default() };
    let mut session = model.session(options(16));
    session.feed(&[1, 5, 9]).unwrap();
    let mut tokens = session.draw_all(&greedy, &limits(false));
    assert_eq!((&mut tokens).count(), 13);
    assert_eq!(tokens.finish(), Some(Finish::Context));

    let mut session = model.session(options(16));
    session.feed(&[1, 5, 9]).unwrap();
    let mut tokens = session.draw_all(&greedy, &limits(true));
    let drawn: Vec<u32> = (&mut tokens).map(Result::unwrap).collect();
    assert_eq!((drawn.len(), tokens.finish()), (40, Some(Finish::Length)));
    assert!(session.tokens().len() <= 16);
    // What comes after a slide is what a text that begins with the newer half is continued with.
    let mut again = model.session(options(16));
    again.feed(&drawn[5..13]).unwrap();
    let next: Vec<u32> = again.draw_all(&greedy, &limits(false)).take(8).map(Result::unwrap).collect();
    assert_eq!(next, drawn[13..21]);
}
