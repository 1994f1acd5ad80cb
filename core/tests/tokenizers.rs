//! Tokenizers against real vocabularies: the ids that llama.cpp's own tests expect, and texts that come back whole.
//!
//! Needs the data folder of the project in `STERNA_DATA_DIR`; says so and skips without it, and fails instead where
//! `STERNA_REQUIRE_DATA=1`.

#![cfg(feature = "tokenizer-json")]

use std::path::PathBuf;
use std::time::Instant;

use sterna_core::gguf::{Gguf, Metadata};
use sterna_core::tokenizer::{EncodeOptions, Tokenizer};

const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };

/// The bytes of a file of the data folder, or `None` where the test is to be skipped.
fn data(path: &str) -> Option<Vec<u8>> {
    let Some(folder) = std::env::var_os("STERNA_DATA_DIR") else {
        assert_ne!(std::env::var("STERNA_REQUIRE_DATA").as_deref(), Ok("1"), "STERNA_DATA_DIR is not set");
        println!("skipped: STERNA_DATA_DIR is not set, {path} is needed");
        return None;
    };
    let path = PathBuf::from(folder).join(path);
    Some(std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

fn text(path: &str) -> Option<String> {
    Some(String::from_utf8(data(path)?).unwrap())
}

fn from_gguf(path: &str) -> Option<Tokenizer> {
    let bytes = data(path)?;
    let gguf = Gguf::parse(&bytes).unwrap();
    let start = Instant::now();
    let tokenizer = Tokenizer::from_metadata(&gguf.header().metadata).unwrap();
    println!("{path}: {} tokens, built in {:?}", tokenizer.vocab_size(), start.elapsed());
    Some(tokenizer)
}

/// The texts of a vocabulary's test and their ids.
fn expectations(vocabulary: &str) -> Option<Vec<(String, Vec<u32>)>> {
    let texts = text(&format!("tokenizers/{vocabulary}.inp"))?;
    let ids = text(&format!("tokenizers/{vocabulary}.out"))?;
    let texts: Vec<&str> = texts.split("\n__ggml_vocab_test__\n").collect();
    let ids: Vec<Vec<u32>> =
        ids.lines().map(|line| line.split_whitespace().map(|id| id.parse().unwrap()).collect()).collect();
    let n = ids.len();
    assert_eq!(n, 46);
    assert!(texts.len() == n || (texts.len() == n + 1 && texts[n].trim().is_empty()), "{} texts", texts.len());
    Some(texts.into_iter().map(str::to_owned).zip(ids).collect())
}

/// All 46 texts, and each comes back.
fn conforms(vocabulary: &str) {
    let Some(tokenizer) = from_gguf(&format!("tokenizers/{vocabulary}")) else { return };
    let Some(expectations) = expectations(vocabulary) else { return };
    let mut wrong = Vec::new();
    for (text, expected) in &expectations {
        let found = tokenizer.encode(text, PLAIN).unwrap();
        if &found != expected {
            wrong.push(format!("{text:?}\n expected {expected:?}\n found    {found:?}"));
        }
        assert_eq!(&tokenizer.decode(&found, false), text, "does not come back");
        let mut stream = tokenizer.stream();
        let streamed: String = found.iter().map(|&id| stream.push(id)).collect();
        assert_eq!(streamed + &stream.finish(), *text);
    }
    println!("{vocabulary}: {} of {}", expectations.len() - wrong.len(), expectations.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn gpt2_as_llama_cpp() {
    conforms("ggml-vocab-gpt-2.gguf");
}

#[test]
fn llama_spm_as_llama_cpp() {
    conforms("ggml-vocab-llama-spm.gguf");
}

#[test]
fn phi3_as_llama_cpp() {
    conforms("ggml-vocab-phi-3.gguf");
}

#[test]
fn gpt2_json_agrees_with_gguf() {
    let Some(json) = data("gpt2/tokenizer.json") else { return };
    let start = Instant::now();
    let json = Tokenizer::from_json(&json).unwrap();
    println!("tokenizer.json: built in {:?}", start.elapsed());
    let gguf = from_gguf("tokenizers/ggml-vocab-gpt-2.gguf").unwrap();
    assert_eq!(json.vocab_size(), gguf.vocab_size());
    assert_eq!(json.eos(), gguf.eos());
    assert!(json.is_end_of_generation(50256) && gguf.is_end_of_generation(50256));
    for (text, expected) in expectations("ggml-vocab-gpt-2.gguf").unwrap() {
        assert_eq!(json.encode(&text, PLAIN).unwrap(), expected, "{text:?}");
        assert_eq!(json.decode(&expected, true), text);
    }

    let shakespeare = text("text/tinyshakespeare.txt").unwrap();
    let cut = shakespeare.chars().count() * 9 / 10;
    let cut = shakespeare.char_indices().nth(cut).unwrap().0;
    for (part, expected) in [(&shakespeare[..cut], 301_966), (&shakespeare[cut..], 36_059)] {
        let start = Instant::now();
        let ids = gguf.encode(part, PLAIN).unwrap();
        let ours = start.elapsed();
        let start = Instant::now();
        assert_eq!(json.encode(part, PLAIN).unwrap(), ids);
        println!("{} bytes: {ours:?} from GGUF, {:?} from JSON", part.len(), start.elapsed());
        assert_eq!(ids.len(), expected);
        assert_eq!(gguf.decode(&ids, true), part);
    }
}

#[test]
fn large_texts_come_back() {
    let Some(wiki) = text("text/wikitext-2.test.raw") else { return };
    for name in ["ggml-vocab-gpt-2.gguf", "ggml-vocab-llama-spm.gguf", "ggml-vocab-phi-3.gguf"] {
        let tokenizer = from_gguf(&format!("tokenizers/{name}")).unwrap();
        let start = Instant::now();
        let ids = tokenizer.encode(&wiki, EncodeOptions { add_special: true, parse_special: false }).unwrap();
        println!("{name}: {} bytes in {:?}, {} tokens", wiki.len(), start.elapsed(), ids.len());
        assert_eq!(tokenizer.decode(&ids, true), wiki);
    }
}

/// The size of the largest vocabularies of ternary models (151,936 tokens), all of it merges.
#[test]
fn a_large_vocabulary_builds_quickly() {
    // The byte-level alphabet.
    let alphabet: Vec<char> = ('!'..='~').chain('¡'..='¬').chain('®'..='ÿ').chain('Ā'..='Ń').collect();
    assert_eq!(alphabet.len(), 256);
    let mut tokens: Vec<String> = alphabet.iter().map(char::to_string).collect();
    let mut merges = Vec::new();
    'full: for left in 0.. {
        for right in &alphabet {
            if tokens.len() == 151_936 {
                break 'full;
            }
            merges.push(format!("{} {right}", tokens[left]));
            tokens.push(format!("{}{right}", tokens[left]));
        }
    }
    let mut metadata = Metadata::new();
    metadata.insert("tokenizer.ggml.model", "gpt2".to_owned());
    metadata.insert("tokenizer.ggml.pre", "qwen2".to_owned());
    metadata.insert("tokenizer.ggml.tokens", tokens);
    metadata.insert("tokenizer.ggml.merges", merges);
    let start = Instant::now();
    let tokenizer = Tokenizer::from_metadata(&metadata).unwrap();
    println!("{} tokens, built in {:?}", tokenizer.vocab_size(), start.elapsed());
    assert_eq!(tokenizer.decode(&tokenizer.encode("Hello, wörld", PLAIN).unwrap(), true), "Hello, wörld");
}

#[test]
fn stories_vocabulary_is_small_and_quick() {
    let Some(tokenizer) = from_gguf("stories260k/stories260K.gguf") else { return };
    assert_eq!(tokenizer.vocab_size(), 512);
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(1), Some(2)));
    let options = EncodeOptions { add_special: true, parse_special: true };
    for text in ["Once upon a time", "", " two  spaces", "line\nbreak ümläut 你好 🙂"] {
        let ids = tokenizer.encode(text, options).unwrap();
        assert_eq!(ids[0], 1);
        assert_eq!(tokenizer.decode(&ids, true), text);
    }
    assert!(tokenizer.warnings().is_empty(), "{:?}", tokenizer.warnings());
}

#[test]
fn phi3_special_tokens_swallow_whitespace() {
    let Some(tokenizer) = from_gguf("tokenizers/ggml-vocab-phi-3.gguf") else { return };
    let parse = EncodeOptions { add_special: false, parse_special: true };
    let id = |text| tokenizer.id(text).unwrap();
    let ids = tokenizer.encode("<|user|>\n Hi<|end|> \n<|assistant|>", parse).unwrap();
    assert_eq!(ids, [id("<|user|>"), id("▁Hi"), id("<|end|>"), id("<|assistant|>")]);
    // The document tokens do not.
    let ids = tokenizer.encode("<s>\nHi", parse).unwrap();
    assert_eq!(ids, [id("<s>"), id("▁"), id("<0x0A>"), id("Hi")]);
    for text in ["<|end|>", "<|endoftext|>", "</s>"] {
        assert!(tokenizer.is_end_of_generation(id(text)), "{text}");
        assert!(tokenizer.is_special(id(text)), "{text}");
    }
    assert!(!tokenizer.is_end_of_generation(id("<|user|>")));
    // What users type does not steer the model.
    assert!(!tokenizer.encode("<|end|>", PLAIN).unwrap().contains(&id("<|end|>")));
}

#[test]
fn sentencepiece_json_decodes_as_it_encodes() {
    let Some(json) = data("hf/bitnet_b1_58-large/tokenizer.json") else { return };
    let tokenizer = Tokenizer::from_json(&json).unwrap();
    let llama = from_gguf("tokenizers/ggml-vocab-llama-spm.gguf").unwrap();
    assert_eq!(tokenizer.bos(), Some(1));
    for (text, expected) in expectations("ggml-vocab-llama-spm.gguf").unwrap() {
        let ids = tokenizer.encode(&text, PLAIN).unwrap();
        assert_eq!(ids, expected, "{text:?}");
        assert_eq!(tokenizer.decode(&ids, true), text);
    }
    let options = EncodeOptions { add_special: true, parse_special: true };
    assert_eq!(tokenizer.encode("Hi</s>", options).unwrap(), llama.encode("Hi</s>", options).unwrap());
}
