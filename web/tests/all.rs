//! Tests of the bindings, and of core's kernels and models where they will run: in Node, and in a browser
//! (WASM_BINDGEN_USE_BROWSER=1). Expectations come from native runs: core/tests/data.

use js_sys::{Reflect, Uint8Array};
use sterna_core::generate::GenerateOptions;
use sterna_core::gguf::Gguf;
use sterna_core::kernels::{self, Compute, Serial};
use sterna_core::model::{LoadOptions, Logits, Transformer};
use sterna_core::ternary::{QuantizedRows, TernaryBuilder};
use sterna_core::{ErrorKind, Sampling, SessionOptions};
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_test::{console_log, wasm_bindgen_test};

use crate::error::{Failure, Result};
use crate::loader::Loader;
use crate::model::Model;

const MNIST: &[u8] = include_bytes!("../../models/mnist.gguf");
const SHAKESPEARE: &[u8] = include_bytes!("../../models/shakespeare.gguf");
const SHIPPED: &str = include_str!("../../core/tests/data/shipped.json");
const BITS: &str = include_str!("../../core/tests/data/models/bits.txt");

/// Name, file, and tokens with the reference's logits, of models that between them have all norms, rotations, activations and
/// most formats.
macro_rules! fixtures {
    ($($name:literal),* $(,)?) => {
        [$((
            $name,
            include_bytes!(concat!("../../core/tests/data/models/", $name, ".gguf")).as_slice(),
            include_bytes!(concat!("../../core/tests/data/models/", $name, ".logits")).as_slice(),
        )),*]
    };
}

const FIXTURES: [(&str, &[u8], &[u8]); 12] = fixtures![
    "bitnet-25-tq1_0",
    "bitnet-b1.58-i2_s",
    "gpt2-f32",
    "llama-companions",
    "llama-f16",
    "llama-q1_0",
    "llama-q2_0",
    "llama-q8_0",
    "llama3-tq2_0-uniform",
    "phi3-q2_0",
    "qwen3-yarn-q2_0-g128",
    "sterna-hc2-q2_0",
];

fn shipped(model: &str, field: &str) -> serde_json::Value {
    serde_json::from_str::<serde_json::Value>(SHIPPED).unwrap()[model][field].clone()
}

fn load(bytes: &[u8], chunk: usize, kernel: Option<&str>) -> Result<Model> {
    let mut loader = Loader::new(Some(bytes.len() as f64), kernel.map(str::to_owned), None)?;
    for chunk in bytes.chunks(chunk) {
        loader.push(&Uint8Array::from(chunk))?;
    }
    loader.finish()
}

fn read(model: &mut Model) {
    while !model.prefill().unwrap() {}
}

fn random() -> impl FnMut() -> u32 {
    let mut state = 11u64;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    }
}

#[wasm_bindgen_test]
fn kernels_are_those_of_the_build() {
    let mut expected = vec!["scalar"];
    if cfg!(target_feature = "simd128") {
        expected.insert(0, "simd128");
    }
    if cfg!(target_feature = "relaxed-simd") {
        expected.insert(0, "relaxed-simd");
    }
    assert_eq!(crate::kernels(), expected);
    console_log!("kernels exercised: {}", expected.join(", "));
}

#[wasm_bindgen_test]
fn products_are_the_bits_of_scalar() {
    let mut random = random();
    for (rows, cols, group) in [(1, 16, 16), (17, 64, 64), (64, 256, 32), (50, 768, 256), (130, 1024, 1024)] {
        // Codes from 0 to 3 are all that two bits hold; scales of each row differ, so that groups stay.
        let mut builder = TernaryBuilder::new(rows, cols, group, 1.0);
        for mut tile in builder.tiles_mut() {
            for lane in 0..tile.rows {
                let codes: Vec<u8> = (0..cols).map(|_| (random() % 4) as u8).collect();
                let scales: Vec<u16> = (0..cols / group).map(|_| 0x3000 + (random() % 512) as u16).collect();
                tile.set_row(lane, &codes, &scales);
            }
        }
        let m = builder.finish();
        for tokens in [1, 2, 3, 5, 16, 19] {
            // Full magnitude: the largest sums that can be.
            let x: Vec<f32> = (0..tokens * cols).map(|_| if random().is_multiple_of(3) { -1.0 } else { 1.0 }).collect();
            let product = |kernel: &str| {
                let compute = Compute { kernel: kernels::select(Some(kernel)).unwrap(), exec: &Serial };
                let (mut quantized, mut out) = (QuantizedRows::default(), vec![0.0; tokens * rows]);
                compute.quantize(&x, cols, m.group(), &mut quantized);
                compute.ternary(&m, &quantized, &mut out);
                out.into_iter().map(f32::to_bits).collect::<Vec<_>>()
            };
            let expected = product("scalar");
            for kernel in crate::kernels() {
                assert!(product(&kernel) == expected, "{kernel}: [{rows}, {cols}] by {group}, {tokens} tokens");
            }
        }
    }
}

#[wasm_bindgen_test]
fn whole_models_give_the_recorded_bits_on_each_kernel() {
    for (name, bytes, reference) in FIXTURES {
        let words: Vec<u32> = reference.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
        let tokens = &words[2..2 + words[0] as usize];
        let recorded = BITS.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap();
        for kernel in crate::kernels() {
            let options = LoadOptions { kernel: Some(kernel.clone()) };
            let model = Transformer::from_gguf(&Gguf::parse(bytes).unwrap(), &options, &Serial).unwrap();
            let mut state = model.state(None);
            let logits = model.forward(&mut state, &Serial, tokens, Logits::All).unwrap();
            // FNV-1a over the little-endian bytes, as core/tests/models.rs has it.
            let hash = logits
                .iter()
                .flat_map(|logit| logit.to_bits().to_le_bytes())
                .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
            assert_eq!(format!("{hash:016x}"), recorded, "{name} on {kernel}");
        }
    }
}

#[wasm_bindgen_test]
fn digits_have_the_recorded_probabilities_on_each_kernel() {
    let pixels: Vec<u8> = serde_json::from_value(shipped("mnist", "pixels")).unwrap();
    let expected: Vec<u32> = serde_json::from_value(shipped("mnist", "probabilityBits")).unwrap();
    for kernel in crate::kernels() {
        let model = load(MNIST, 1000, Some(&kernel)).unwrap();
        assert_eq!(model.kind(), "image");
        let got: Vec<u32> = model.classify(&pixels).unwrap().into_iter().map(f32::to_bits).collect();
        assert_eq!(got, expected, "{kernel}");
    }
}

/// Greedy tokens by the bindings and by core's own loading of the whole file.
#[wasm_bindgen_test]
fn chunks_of_any_size_make_the_same_model() {
    let (name, bytes, _) = FIXTURES[5];
    let prompt = [1, 5, 9, 2, 7];
    let model = sterna_core::Model::from_gguf(bytes).unwrap();
    let mut session = model.session(SessionOptions::default());
    session.feed(&prompt).unwrap();
    let options = GenerateOptions { max_tokens: Some(20), ignore_eos: true, ..GenerateOptions::default() };
    let expected: Vec<u32> = session.draw_all(&Sampling::greedy(), &options).map(|id| id.unwrap()).collect();
    for (chunk, announced) in [(1, true), (7, true), (4097, false), (1 << 20, false), (usize::MAX, true)] {
        let length = announced.then_some(bytes.len() as f64);
        let mut loader = Loader::new(length, None, None).unwrap();
        assert_eq!(loader.card(), None);
        for chunk in bytes.chunks(chunk) {
            loader.push(&Uint8Array::from(chunk)).unwrap();
        }
        assert!(loader.card().unwrap().contains("Q1_0"));
        let mut model = loader.finish().unwrap();
        assert_eq!(model.prompt_tokens(prompt.to_vec()).unwrap(), prompt.len());
        read(&mut model);
        model.start(r#"{"maxTokens": 20, "temperature": 0, "ignoreEos": true}"#).unwrap();
        let mut got = Vec::new();
        while let Some(id) = model.next_token().unwrap() {
            got.push(id);
        }
        assert_eq!((got, model.drawn(), model.finish().as_deref()), (expected.clone(), 20, Some("length")), "{name}");
    }
}

#[wasm_bindgen_test]
fn the_cache_keeps_what_prompts_have_in_common() {
    let mut model = load(SHAKESPEARE, 65_536, None).unwrap();
    let mut prompt = |ids: &[u32]| {
        model.prompt_tokens(ids.to_vec()).unwrap();
        read(&mut model);
        model.cached()
    };
    assert_eq!(prompt(&[1, 2, 3, 4]), 0);
    assert_eq!(prompt(&[1, 2, 3, 4, 5]), 4);
    assert_eq!(prompt(&[1, 2, 9]), 2);
    assert_eq!(prompt(&[1, 2, 9]), 3);
    assert!(model.memory() > 300_000.0);
}

#[wasm_bindgen_test]
fn a_card_tells_what_the_header_says() {
    let card = |model: &Model| serde_json::from_str::<serde_json::Value>(&model.card()).unwrap();
    let text = card(&load(SHAKESPEARE, 65_536, None).unwrap());
    assert_eq!((text["kind"].as_str(), text["hasTokenizer"].as_bool()), (Some("text"), Some(true)));
    assert_eq!(text["fileBytes"].as_u64(), Some(SHAKESPEARE.len() as u64));
    assert_eq!(text["kernel"].as_str(), Some(crate::kernels()[0].as_str()));
    assert!(text["bitsPerWeight"].as_f64().is_some_and(|bits| (1.6..3.0).contains(&bits)), "{text}");
    let image = card(&load(MNIST, 65_536, None).unwrap());
    assert_eq!(image["image"]["width"].as_u64(), Some(28));
    assert_eq!(image["image"]["classes"].as_array().map(Vec::len), Some(10));
}

fn kind<T>(result: Result<T>) -> Option<ErrorKind> {
    result.err().map(|failure| failure.kind)
}

#[wasm_bindgen_test]
fn failures_have_the_code_of_their_cause() {
    assert_eq!(kind(load(b"<!doctype html>", 4, None)), Some(ErrorKind::NotGguf));
    assert_eq!(kind(load(&MNIST[..MNIST.len() / 2], 999, None)), Some(ErrorKind::Truncated));
    assert_eq!(kind(load(&[], 1, None)), Some(ErrorKind::Truncated));
    assert_eq!(kind(load(MNIST, 999, Some("abacus"))), Some(ErrorKind::InvalidArgument));
    let mut damaged = MNIST.to_vec();
    damaged[8] = 0xff;
    damaged[15] = 0x7f;
    assert_eq!(kind(load(&damaged, 999, None)), Some(ErrorKind::Damaged));
    let mut newer = MNIST.to_vec();
    newer[4] = 9;
    assert_eq!(kind(load(&newer, 999, None)), Some(ErrorKind::Unsupported));
    // After a failure a loader says so, rather than go on from the middle.
    let mut loader = Loader::new(None, None, None).unwrap();
    assert!(loader.push(&Uint8Array::from(b"none".as_slice())).is_err());
    assert_eq!(kind(loader.push(&Uint8Array::from(MNIST))), Some(ErrorKind::InvalidArgument));
    assert_eq!(kind(Loader::new(Some(1.5), None, None)), Some(ErrorKind::InvalidArgument));
    assert_eq!(kind(Loader::new(None, None, Some(0.0))), Some(ErrorKind::InvalidArgument));

    let mut digits = load(MNIST, 65_536, None).unwrap();
    assert_eq!(kind(digits.prompt_tokens(vec![1])), Some(ErrorKind::WrongKind));
    assert_eq!(kind(digits.encode("1", true, true)), Some(ErrorKind::WrongKind));
    assert_eq!(kind(digits.classify(&[0; 100])), Some(ErrorKind::InvalidArgument));

    let mut text = load(SHAKESPEARE, 65_536, None).unwrap();
    assert_eq!(kind(text.classify(&[0; 784])), Some(ErrorKind::WrongKind));
    assert_eq!(kind(text.prompt_tokens(vec![0; text.context() + 1])), Some(ErrorKind::ContextFull));
    assert_eq!(kind(text.prompt_tokens(vec![1 << 30])), Some(ErrorKind::InvalidArgument));
    assert_eq!(kind(text.prompt_tokens(vec![])), Some(ErrorKind::InvalidArgument));
    assert_eq!(kind(text.next_token()), Some(ErrorKind::InvalidArgument));
    text.prompt_tokens(vec![1, 2]).unwrap();
    text.start("{}").unwrap();
    assert_eq!(kind(text.next_token()), Some(ErrorKind::InvalidArgument), "the prompt is not read");
    for options in [
        r#"{"temperature": "hot"}"#,
        r#"{"topP": 2}"#,
        r#"{"maxTokens": -1}"#,
        r#"{"stop": 3}"#,
        r#"{"presencePenalty": "1"}"#,
        r#"{"logitBias": [[1]]}"#,
        r#"{"logitBias": [[-1, 2]]}"#,
        r#"{"logitBias": {"1": 2}}"#,
        "[]",
        "{",
    ] {
        assert_eq!(kind(text.start(options)), Some(ErrorKind::InvalidArgument), "{options}");
    }

    let thrown: JsValue = Failure::new(ErrorKind::NotGguf, "not a GGUF file").into();
    assert!(thrown.is_instance_of::<js_sys::Error>());
    assert_eq!(Reflect::get(&thrown, &"code".into()).unwrap().as_string().as_deref(), Some("not-gguf"));
}

#[wasm_bindgen_test]
fn drawings_are_centred() {
    let canvas: Vec<u8> = (0..100 * 80).map(|i| if i % 100 < 10 && i / 100 < 40 { 0 } else { 255 }).collect();
    let image = crate::centre(&canvas, 100, 80, true).unwrap();
    assert_eq!((image.len(), image[14 * 28 + 14], image[0]), (784, 255, 0));
    assert_eq!(kind(crate::centre(&canvas, 100, 81, true)), Some(ErrorKind::InvalidArgument));
}

#[wasm_bindgen_test]
fn products_are_measured() {
    for kernel in crate::kernels() {
        let seconds = crate::bench::bench_kernel(&kernel, 256, 512, 2, 3).unwrap();
        assert!((0.0..10.0).contains(&seconds));
    }
    assert_eq!(kind(crate::bench::bench_kernel("scalar", 256, 500, 1, 1)), Some(ErrorKind::InvalidArgument));
}

#[cfg(not(feature = "text"))]
#[wasm_bindgen_test]
fn a_build_without_text_says_so() {
    let mut model = load(SHAKESPEARE, 65_536, None).unwrap();
    assert_eq!(kind(model.encode("a", true, true)), Some(ErrorKind::Unsupported));
    assert_eq!(kind(model.decode(&[1], None)), Some(ErrorKind::Unsupported));
    assert_eq!(kind(model.prompt("a")), Some(ErrorKind::Unsupported));
    assert_eq!(kind(model.prompt_chat("[]", "{}")), Some(ErrorKind::Unsupported));
}

#[cfg(feature = "text")]
mod text {
    use super::*;

    fn spoken(model: &mut Model, prompt: &str, options: &str) -> String {
        model.prompt(prompt).unwrap();
        read(model);
        model.start(options).unwrap();
        let mut text = String::new();
        while let Some(piece) = model.next().unwrap() {
            text.push_str(&piece);
        }
        text
    }

    #[wasm_bindgen_test]
    fn a_seed_gives_the_recorded_text_on_each_kernel() {
        for kernel in crate::kernels() {
            let mut model = load(SHAKESPEARE, 65_536, Some(&kernel)).unwrap();
            let prompt = shipped("shakespeare", "prompt");
            let tokens = shipped("shakespeare", "maxTokens");
            let greedy =
                spoken(&mut model, prompt.as_str().unwrap(), &format!(r#"{{"maxTokens":{tokens},"temperature":0}}"#));
            assert_eq!(greedy, shipped("shakespeare", "greedy"), "{kernel}");
            let seed = shipped("shakespeare", "seed");
            let options = format!(r#"{{"maxTokens":{tokens},"seed":"{seed}"}}"#);
            assert_eq!(
                spoken(&mut model, prompt.as_str().unwrap(), &options),
                shipped("shakespeare", "seeded"),
                "{kernel}"
            );
        }
    }

    #[wasm_bindgen_test]
    fn text_becomes_tokens_and_text_again() {
        let model = load(SHAKESPEARE, 65_536, None).unwrap();
        let ids = model.encode("To be, or not", true, false).unwrap();
        assert_eq!(model.decode(&ids, None).unwrap(), "To be, or not");
        // Without the key that says which kind it is, there is no vocabulary.
        let (mut none, key) = (SHAKESPEARE.to_vec(), b"tokenizer.ggml.model");
        let at = none.windows(key.len()).position(|bytes| bytes == key).unwrap();
        none[at] = b'T';
        let mut none = load(&none, 65_536, None).unwrap();
        assert_eq!(kind(none.encode("a", true, true)), Some(ErrorKind::NoTokenizer));
        none.prompt_tokens(vec![1]).unwrap();
        read(&mut none);
        none.start("{}").unwrap();
        assert_eq!(kind(none.next()), Some(ErrorKind::NoTokenizer));
        assert!(none.next_token().unwrap().is_some());
    }

    #[wasm_bindgen_test]
    fn a_stop_text_ends_a_reply_and_is_not_part_of_it() {
        let mut model = load(SHAKESPEARE, 65_536, None).unwrap();
        let all = spoken(&mut model, "ROMEO:", r#"{"maxTokens":200,"temperature":0}"#);
        let stop: String = all.chars().skip(20).take(5).collect();
        let options = serde_json::json!({ "maxTokens": 200, "temperature": 0, "stop": [stop] });
        let cut = spoken(&mut model, "ROMEO:", &options.to_string());
        assert_eq!((cut.as_str(), model.finish().as_deref()), (&all[..all.find(&stop).unwrap()], Some("stop")));
    }

    #[wasm_bindgen_test]
    fn templates_write_conversations() {
        let mut model = load(SHAKESPEARE, 65_536, None).unwrap();
        let messages = r#"[{"role": "user", "content": "Speak."}]"#;
        assert_eq!(kind(model.prompt_chat(messages, "{}")), Some(ErrorKind::NoChatTemplate));
        let extras = |template: &str| serde_json::json!({ "chat_template": template, "name": "Romeo" }).to_string();
        let plain = extras("{% for m in messages %}{{ name }}: {{ m.content }}{% endfor %}");
        let expected = model.encode("Romeo: Speak.", false, true).unwrap().len();
        assert_eq!(model.prompt_chat(messages, &plain).unwrap(), expected);
        assert_eq!(kind(model.prompt_chat(messages, &extras("{% for %}"))), Some(ErrorKind::Template));
        let refusing = extras("{{ raise_exception('no') }}");
        assert_eq!(kind(model.prompt_chat(messages, &refusing)), Some(ErrorKind::Template));
        for wrong in ["[]", "{}", r#"[{"content": "x"}]"#, "["] {
            assert_eq!(kind(model.prompt_chat(wrong, &plain)), Some(ErrorKind::InvalidArgument), "{wrong}");
        }
    }
}
