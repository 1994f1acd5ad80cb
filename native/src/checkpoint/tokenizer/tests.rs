//! Pipelines of tokenizer.json files as models publish them, and what a GGUF cannot say of them.

use std::fs;
use std::path::Path;

use serde_json::json;
use sterna_core::tokenizer::byte_char;

use super::*;

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK: &str = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+";

/// A tokenizer.json with the bytes for its vocabulary: how it cuts does not depend on its tokens.
fn file(pre_tokenizer: Value, ignore_merges: bool) -> Value {
    let vocab: serde_json::Map<String, Value> =
        (0..=255).map(|byte| (byte_char(byte).to_string(), byte.into())).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": pre_tokenizer, "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "ignore_merges": ignore_merges, "vocab": vocab, "merges": []}
    })
}

fn split(expression: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": false})
}

fn bytes(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}

fn sequence(steps: &[Value]) -> Value {
    json!({"type": "Sequence", "pretokenizers": steps})
}

fn recognized(json: &Value, first: &[&'static str]) -> pre::Found {
    let original = Tokenizer::from_json(json.to_string().as_bytes()).unwrap();
    pre::recognize(&original, json, first).unwrap()
}

#[test]
fn published_pipelines_are_recognized() {
    let digits = json!({"type": "Digits", "individual_digits": true});
    let cases = [
        ("gpt-2", bytes(true), false),
        ("llama-bpe", sequence(&[split(LLAMA3), bytes(false)]), true),
        ("dbrx", sequence(&[split(LLAMA3), bytes(false)]), false),
        ("qwen2", sequence(&[split(QWEN2), bytes(false)]), false),
        ("qwen35", sequence(&[split(QWEN35), bytes(false)]), false),
        ("gpt-4o", sequence(&[split(GPT4O), bytes(false)]), false),
        // As gpt-oss has it.
        ("gpt-4o", sequence(&[split(GPT4O), bytes(false)]), true),
        ("tekken", sequence(&[split(TEKKEN), bytes(false)]), true),
        (
            "deepseek-v3",
            sequence(&[split(r"\p{N}{1,3}"), split("[一-龥\u{3040}-ゟ゠-ヿ]+"), split(DEEPSEEK), bytes(false)]),
            false,
        ),
        ("starcoder", sequence(&[digits, bytes(true)]), false),
        ("laguna", sequence(&[split(r"[^\n]+|[\n]+"), split(QWEN2), bytes(false)]), false),
    ];
    // Whatever the checkpoint's family suggests.
    for first in [&[][..], &["llama-bpe"], &["gpt-2", "qwen2"]] {
        for (name, pre_tokenizer, ignore_merges) in &cases {
            let found = recognized(&file(pre_tokenizer.clone(), *ignore_merges), first);
            assert_eq!((found.pre.name(), found.note), (*name, None), "{first:?}");
        }
    }
    // Written in another way: what matches is kept, what does not is dropped, and everything matches.
    let mut kept = split(GPT4O);
    kept["behavior"] = "Removed".into();
    kept["invert"] = true.into();
    assert_eq!(recognized(&file(sequence(&[kept, bytes(false)]), false), &[]).pre.name(), "gpt-4o");
}

#[test]
fn what_is_not_known_is_said_with_what_differs() {
    let found = recognized(&file(sequence(&[split(r"\p{L}+|\p{N}{1,2}|[^\p{L}\p{N}]+"), bytes(false)]), false), &[]);
    let note = found.note.unwrap();
    assert!(note.contains(found.pre.name()) && note.contains("where tokenizer.json has"), "{note}");
    // One expression away: words of letters and marks.
    let found =
        recognized(&file(sequence(&[split(&LLAMA3.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+")), bytes(false)]), true), &[]);
    let note = found.note.unwrap();
    assert_eq!(found.pre.name(), "llama-bpe");
    assert!(note.contains("its words are"), "{note}");
}

#[test]
fn a_class_tells_what_two_files_do_not() {
    let mut notes = Vec::new();
    let mut of = |class: Value| pre::of_class(&json!({ "tokenizer_class": class }), &["llama-bpe"], &mut notes);
    assert_eq!([of("Qwen2Tokenizer".into()), of("GPT2TokenizerFast".into())], ["qwen2", "gpt-2"]);
    assert_eq!(of(Value::Null), "llama-bpe");
    assert!(only(&notes).contains("llama-bpe is written"), "{notes:?}");
    assert_eq!((pre::of_class(&Value::Null, &["gpt-2"], &mut notes), notes.len()), ("gpt-2", 1));
}

/// The fixture of a checkpoint with another tokenizer.json, and files beside it, as metadata and notes.
fn written(fixture: &str, edit: impl FnOnce(&mut Value), files: &[(&str, Value)]) -> (Metadata, Vec<String>) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/checkpoints").join(fixture);
    let dir = tempfile::TempDir::new().unwrap();
    for entry in fs::read_dir(source).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    let path = dir.path().join("tokenizer.json");
    let mut json: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    edit(&mut json);
    fs::write(path, json.to_string()).unwrap();
    for (name, value) in files {
        fs::write(dir.path().join(name), value.to_string()).unwrap();
    }
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let (mut metadata, mut notes) = (Metadata::new(), Vec::new());
    write(&checkpoint, 320, &["qwen2"], &mut metadata, &mut notes).unwrap();
    note_limits(&checkpoint, &metadata, &mut notes).unwrap();
    (metadata, notes)
}

/// Of the fixture of Qwen 2.
fn notes(edit: impl FnOnce(&mut Value)) -> Vec<String> {
    written("qwen2", edit, &[]).1
}

fn only(notes: &[String]) -> &str {
    let [note] = notes else { panic!("{notes:?}") };
    note
}

#[test]
fn normal_forms_are_applied_or_noted() {
    let nfc = |json: &mut Value| json["normalizer"] = json!({"type": "NFC"});
    let (metadata, notes) = written("qwen2", nfc, &[]);
    assert!(only(&notes).contains("normal form NFC; sterna does the same, llama.cpp does not"), "{notes:?}");
    assert_eq!((metadata.str("tokenizer.ggml.pre"), metadata.bool(NFC_KEY)), (Some("qwen2"), None));
    // The name would say it; this file does not.
    let (metadata, notes) = written("qwen2", |_| {}, &[]);
    assert!(notes.is_empty(), "{notes:?}");
    assert_eq!(metadata.bool(NFC_KEY), Some(false));
    let other = |json: &mut Value| {
        json["normalizer"] = json!({"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]});
    };
    assert!(only(&self::notes(other)).contains("(NFKC, Lowercase)"));
}

#[test]
fn spaces_around_added_tokens_are_noted() {
    let flagged = |flag: &'static str| move |json: &mut Value| json["added_tokens"][1][flag] = true.into();
    for flag in ["lstrip", "rstrip", "single_word"] {
        let notes = notes(flagged(flag));
        let note = only(&notes);
        assert!(note.contains(&format!("({flag})")) && note.ends_with(": <|im_start|>"), "{note}");
    }
    // Without a normalizer it means nothing.
    assert_eq!(notes(flagged("normalized")), [""; 0]);
}

#[test]
fn what_goes_around_a_text_is_applied_or_noted() {
    let special = |text: &str| json!({"SpecialToken": {"id": text, "type_id": 0}});
    let template = |single: Value| {
        let ids = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"].map(|text| (text, text));
        let tokens: serde_json::Map<String, Value> = ids
            .iter()
            .enumerate()
            .map(|(id, (text, _))| ((*text).to_owned(), json!({"id": text, "ids": [id], "tokens": [text]})))
            .collect();
        json!({"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": tokens})
    };
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    let around = |processor: Value| written("qwen2", |json| json["post_processor"] = processor, &[]);
    let adds =
        |metadata: &Metadata| ["bos", "eos"].map(|name| metadata.bool(&format!("tokenizer.ggml.add_{name}_token")));

    // bos is <|im_start|> in config.json, eos <|im_end|> in tokenizer_config.json.
    let (metadata, notes) = around(template(json!([special("<|im_start|>"), text, special("<|im_end|>")])));
    assert_eq!((adds(&metadata), notes.len()), ([Some(true), Some(true)], 0), "{notes:?}");
    let roberta = json!({"type": "RobertaProcessing", "sep": ["<|im_end|>", 2], "cls": ["<|im_start|>", 1],
                         "trim_offsets": true, "add_prefix_space": false});
    let (metadata, notes) = around(json!({"type": "Sequence", "processors": [bytes(true), roberta]}));
    assert_eq!((adds(&metadata), notes.len()), ([Some(true), Some(true)], 0), "{notes:?}");
    let (metadata, notes) = around(template(json!([special("<|endoftext|>"), special("<|im_start|>"), text])));
    assert_eq!(adds(&metadata), [Some(false), Some(false)]);
    assert!(only(&notes).contains("<|endoftext|> <|im_start|> before a text"), "{notes:?}");
}

#[test]
fn three_ends_of_text_have_keys_and_others_are_noted() {
    let ends = json!({"eos_token_id": [2, 0, 5, 6]});
    let (metadata, notes) = written("qwen2", |_| {}, &[("generation_config.json", ends)]);
    let ids = ["eos", "eot", "eom"].map(|key| metadata.u32(&format!("tokenizer.ggml.{key}_token_id")));
    assert_eq!(ids, [Some(2), Some(0), Some(5)]);
    let note = only(&notes);
    assert!(note.contains("4 tokens") && note.contains("6 ("), "{note}");
}

#[test]
fn ignored_merges_are_noted_where_they_matter() {
    // No name has the cuts of Qwen 2 and ignores merges.
    let notes = notes(|json| {
        json["model"]["ignore_merges"] = true.into();
        json["model"]["vocab"]["ĠHelloHello"] = 319.into();
        json["model"]["vocab"]["abababab"] = 318.into();
    });
    let note = only(&notes);
    assert!(note.contains("ignore_merges true") && note.contains("\"abababab\""), "{note}");
}

#[test]
fn ids_that_are_no_tokens_are_noted() {
    let ids = json!({"eos_token_id": [2, 5000, -1, "x"], "pad_token_id": null});
    let (metadata, notes) = written("qwen2", |_| {}, &[("generation_config.json", ids)]);
    assert_eq!(metadata.u32("tokenizer.ggml.eos_token_id"), Some(2));
    let said = "eos_token_id of generation_config.json is not taken where it is 5000, -1, \"x\": the vocabulary has the ids 0 to 319";
    assert_eq!(only(&notes), said);
}

/// `Tokenizer.pre_tokenizer.pre_tokenize_str("ab  cd")` of tokenizers 0.23 gives `Ġab`, `Ġ`, `Ġcd` for a Split before ByteLevel with
/// `add_prefix_space`.
#[test]
fn a_space_before_each_word_is_noted() {
    let notes = notes(|json| json["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = true.into());
    assert!(notes.iter().any(|note| note.contains("a space before every word")), "{notes:?}");
}

#[test]
fn where_metaspace_puts_no_space_is_noted() {
    let metaspace = |scheme: &'static str| {
        move |json: &mut Value| {
            json["normalizer"] = Value::Null;
            json["pre_tokenizer"] =
                json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": scheme, "split": false});
        }
    };
    for (scheme, count) in [("always", 1), ("first", 1), ("never", 0)] {
        let (_, notes) = written("phi3", metaspace(scheme), &[]);
        let said = notes.iter().filter(|note| note.contains("no space before a text that begins with one")).count();
        assert_eq!(said, count, "{scheme}: {notes:?}");
    }
}

#[test]
fn bytes_without_a_token_are_noted() {
    let notes = notes(|json| {
        let vocab = json["model"]["vocab"].as_object_mut().unwrap();
        let id = vocab.remove(&byte_char(0xFE).to_string()).unwrap();
        vocab.insert("<|other|>".into(), id);
    });
    assert!(notes.iter().any(|note| note.contains("1 of the 256 bytes, such as 0xFE")), "{notes:?}");
}

#[test]
fn an_empty_template_is_noted() {
    let dir = tempfile::TempDir::new().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/checkpoints/qwen2");
    for entry in fs::read_dir(source).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    fs::write(dir.path().join("chat_template.jinja"), "\n").unwrap();
    let (mut metadata, mut notes) = (Metadata::new(), Vec::new());
    write(&Checkpoint::open(dir.path()).unwrap(), 320, &["qwen2"], &mut metadata, &mut notes).unwrap();
    assert!(only(&notes).starts_with("chat_template.jinja is empty"), "{notes:?}");
    assert_eq!(metadata.str("tokenizer.chat_template"), None);
}

#[test]
fn padding_beyond_the_embedding_is_left_out() {
    let add = |texts: &'static [&'static str]| {
        move |json: &mut Value| {
            for (i, text) in texts.iter().enumerate() {
                let token = json!({"id": 320 + i, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                                   "normalized": false, "special": true});
                json["added_tokens"].as_array_mut().unwrap().push(token);
            }
            // Ids go on from the vocabulary's.
            for id in 312..320 {
                json["model"]["vocab"][format!("filler{id}")] = id.into();
            }
        }
    };
    let (metadata, notes) = written("qwen2", add(&["[PAD]"]), &[]);
    assert_eq!(metadata.strings("tokenizer.ggml.tokens").unwrap().len(), 320);
    assert!(only(&notes).ends_with("left out: \"[PAD]\" (320)"), "{notes:?}");
    let (metadata, notes) = written("qwen2", add(&["[PAD]", "<|new|>"]), &[]);
    assert_eq!(metadata.strings("tokenizer.ggml.tokens").unwrap().len(), 320);
    assert!(only(&notes).ends_with("left out: \"[PAD]\" (320), \"<|new|>\" (321)"), "{notes:?}");
    // A vocabulary that has words beyond the embedding is another model's.
    let caught = std::panic::catch_unwind(|| {
        let more = |json: &mut Value| {
            add(&[])(json);
            json["model"]["vocab"]["zebra"] = 320.into();
        };
        written("qwen2", more, &[])
    });
    let message = *caught.unwrap_err().downcast::<String>().unwrap();
    assert!(message.contains("none for \"zebra\""), "{message}");
}
