//! The models that ship say what was recorded: here, and in WebAssembly, where web/tests and the tests of the npm package read
//! the same record (`data/shipped.json`). A change of the arithmetic shows here and is recorded anew with
//! STERNA_RECORD_BITS=1.

#![cfg(feature = "tokenizer")]

use std::path::Path;

use serde_json::{Value, json};
use sterna_core::generate::GenerateOptions;
use sterna_core::gguf::Gguf;
use sterna_core::kernels::Serial;
use sterna_core::model::LoadOptions;
use sterna_core::model::image::{ImageClassifier, probabilities};
use sterna_core::{Model, Sampling, SessionOptions};

const PROMPT: &str = "ROMEO:";
const TOKENS: usize = 200;
const SEED: u64 = 7;

fn path(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn spoken(model: &Model, sampling: &Sampling) -> String {
    let mut session = model.session(SessionOptions::default());
    session.feed_text(PROMPT, true).unwrap();
    let options = GenerateOptions { max_tokens: Some(TOKENS), ..GenerateOptions::default() };
    session.reply(sampling, &options).unwrap().map(Result::unwrap).collect()
}

/// A bar: as good as a digit one.
fn drawing() -> Vec<u8> {
    (0..28 * 28).map(|i| if (4..24).contains(&(i / 28)) && (13..16).contains(&(i % 28)) { 255 } else { 0 }).collect()
}

#[test]
fn the_models_that_ship_say_what_was_recorded() {
    let model = Model::from_gguf(&std::fs::read(path("../models/shakespeare.gguf")).unwrap()).unwrap();
    let file = std::fs::read(path("../models/mnist.gguf")).unwrap();
    let digits = ImageClassifier::from_gguf(&Gguf::parse(&file).unwrap(), &LoadOptions::default(), &Serial).unwrap();
    let mut scores = digits.logits(&Serial, &drawing()).unwrap();
    probabilities(&mut scores);
    let said = json!({
        "shakespeare": {
            "prompt": PROMPT,
            "maxTokens": TOKENS,
            "greedy": spoken(&model, &Sampling::greedy()),
            "seed": SEED,
            "seeded": spoken(&model, &Sampling { seed: SEED, ..Sampling::default() }),
        },
        "mnist": {
            "pixels": drawing(),
            "probabilityBits": scores.iter().map(|score| score.to_bits()).collect::<Vec<_>>(),
        },
    });
    let record = path("tests/data/shipped.json");
    if std::env::var("STERNA_RECORD_BITS").is_ok_and(|value| value == "1") {
        std::fs::write(&record, format!("{said}\n")).unwrap();
    }
    let recorded: Value = serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
    assert_eq!(said, recorded);
    assert_eq!(scores.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|best| best.0), Some(1));
}
