//! Conversions of the tiny checkpoints in tests/fixtures, against the logits that `transformers` gives. `inputs.rs`: what becomes of
//! each tensor of other checkpoints; `imatrix.rs`: columns that count more.

mod imatrix;
mod inputs;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sterna_core::formats::Format;
use sterna_core::kernels::Serial;
use sterna_core::ternary::{Granularity, Method};
use sterna_core::tokenizer::EncodeOptions;
use sterna_core::{Model, SessionOptions};

use super::encode::Sums;
use super::*;

const FLOAT_FAMILIES: [&str; 5] = ["llama", "qwen2", "qwen3", "phi3", "gpt2"];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/checkpoints").join(name)
}

fn expected(name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(fixture(name).join("expected.json")).unwrap()).unwrap()
}

/// The logits of a table of `expected.bin`, `[tokens, vocabulary]`.
fn table(name: &str, key: &str) -> Vec<Vec<f32>> {
    let place = &expected(name)["logits"][key];
    let number = |value: &Value| value.as_u64().unwrap() as usize;
    let (offset, cols) = (number(&place["offset"]), number(&place["shape"][1]));
    let bytes = fs::read(fixture(name).join("expected.bin")).unwrap();
    let values = bytes[offset..].as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
    let values: Vec<f32> = values.take(number(&place["shape"][0]) * cols).collect();
    values.chunks(cols).map(<[f32]>::to_vec).collect()
}

/// The logits of a file for a fixture's tokens.
fn logits(path: &Path, name: &str) -> Vec<Vec<f32>> {
    let model = load(path);
    // Phi-3's factors for long contexts hold where the context asked for is long; the reference goes by the text.
    let mut session = model.session(SessionOptions { context: Some(64), ..Default::default() });
    let ids = expected(name)["ids"].as_array().unwrap().clone();
    ids.iter().map(|id| session.feed(&[id.as_u64().unwrap() as u32]).unwrap().to_vec()).collect()
}

fn load(path: &Path) -> Model {
    crate::engine::load(path, &crate::engine::Loading::default(), &Serial).unwrap_or_else(|error| panic!("{error:#}"))
}

/// The largest relative error of a token's logits.
fn error(found: &[Vec<f32>], expected: &[Vec<f32>]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let of_token = |(a, b): (&Vec<f32>, &Vec<f32>)| {
        assert_eq!(a.len(), b.len());
        Sums::of(b, a).relative_error()
    };
    found.iter().zip(expected).map(of_token).fold(0.0, f64::max)
}

fn options(quant: Format) -> Options {
    Options { quant: Some(quant), validate: true, ..Options::default() }
}

fn convert(name: &str, out: &Path, options: &Options) -> Report {
    from_checkpoint(&fixture(name), out, Some("tiny"), options).unwrap_or_else(|error| panic!("{name}: {error:#}"))
}

#[test]
fn in_f16_logits_are_those_of_transformers() {
    let dir = tempfile::TempDir::new().unwrap();
    for name in FLOAT_FAMILIES {
        let out = dir.path().join(format!("{name}.gguf"));
        let report = convert(name, &out, &options(Format::F16));
        assert!(is_lossless(&report) && report.validated.is_some());
        let (ours, theirs) = (logits(&out, name), table(name, "float"));
        let (found, cached) = (error(&[ours.concat()], &[theirs.concat()]), error(&ours, &table(name, "f16 cache")));
        println!("{name}: F16 logits differ by {found:.2e}, by {cached:.2e} where the reference has a cache in f16");
        assert!(found < 1e-3 && cached < 2e-4, "{name}: {found} {cached}");
    }
}

#[test]
fn tokenizers_encode_as_the_originals() {
    let dir = tempfile::TempDir::new().unwrap();
    for name in FLOAT_FAMILIES {
        let out = dir.path().join(format!("{name}.gguf"));
        let report = convert(name, &out, &options(Format::F16));
        assert!(report.notes.is_empty(), "{name}: {:?}", report.notes);
        let (model, expected) = (load(&out), expected(name));
        let tokenizer = model.tokenizer().unwrap();
        let ids = tokenizer.encode(expected["text"].as_str().unwrap(), EncodeOptions::default()).unwrap();
        assert_eq!(serde_json::json!(ids), expected["text_ids"], "{name}");
        let text = |key: &str| model.metadata().str(key).map(str::to_owned);
        let (kind, pre) = (text("tokenizer.ggml.model").unwrap(), text("tokenizer.ggml.pre").unwrap());
        let template = text("tokenizer.chat_template");
        match name {
            "llama" | "phi3" => {
                assert_eq!((kind.as_str(), pre.as_str()), ("llama", "default"));
                assert!(tokenizer.adds_bos() && tokenizer.bos() == Some(1) && tokenizer.eos() == Some(2));
                assert!(template.unwrap().contains("m['role']"));
            }
            "gpt2" => assert_eq!((kind.as_str(), pre.as_str(), template), ("gpt2", "gpt-2", None)),
            _ => {
                assert_eq!((kind.as_str(), pre.as_str()), ("gpt2", "qwen2"));
                assert!(!tokenizer.adds_bos() && tokenizer.text(tokenizer.eos().unwrap()) == Some("<|im_end|>"));
                assert!(template.unwrap().contains("<|im_start|>"));
                assert_eq!(tokenizer.vocab_size(), 320, "padded to the embedding");
            }
        }
    }
}

#[test]
fn ternary_weights_are_those_of_a_second_implementation() {
    let dir = tempfile::TempDir::new().unwrap();
    let (out, floats) = (dir.path().join("t.gguf"), dir.path().join("f.gguf"));
    let mut cases: Vec<(&str, &str, Format, Option<Granularity>)> =
        FLOAT_FAMILIES.iter().map(|&name| (name, "absmean 64", Format::Q2_0, None)).collect();
    cases.extend([
        ("llama", "absmean 128", Format::PQ2_0, None),
        ("llama", "absmean 128", Format::PTQ1_0, None),
        ("llama", "absmean 128", Format::Q2_0, Some(Granularity::Columns(128))),
        ("llama", "absmean 256", Format::TQ2_0, None),
        ("llama", "absmean 256", Format::TQ1_0, None),
        ("llama", "absmean tensor", Format::I2_S, None),
        ("llama", "absmean tensor", Format::TQ2_0, Some(Granularity::Tensor)),
    ]);
    for (name, key, format, group) in cases {
        let options = Options { method: Method::Absmean, group, chosen: true, ..options(format) };
        let report = convert(name, &out, &options);
        assert!(!is_lossless(&report));
        let expected = table(name, key);
        from_gguf(&out, &floats, &Options { quant: Some(Format::F32), ..Options::default() }).unwrap();
        let found = error(&logits(&floats, name), &expected);
        println!("{name} {} {key}: logits of the dequantized weights differ by {found:.2e}", format.name());
        assert!(found < 2e-4, "{name} {format:?}: {found}");
        // As it runs, activations are int8.
        let ran = error(&logits(&out, name), &expected);
        println!("    with int8 activations by {ran:.2e}");
        assert!(ran < 0.1, "{name} {format:?}: {ran}");
    }
}

#[test]
fn bitnet_is_one_file_however_it_is_packed() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = |name: &str, format: Format| dir.path().join(format!("{name}-{}.gguf", format.name()));
    for format in [Format::Q2_0, Format::PQ2_0, Format::I2_S, Format::F16, Format::F32] {
        for name in ["bitnet", "bitnet-packed", "bitnet-divided"] {
            convert(name, &path(name, format), &Options { lossless: true, ..options(format) });
        }
        let bytes = |name: &str| fs::read(path(name, format)).unwrap();
        assert!(bytes("bitnet") == bytes("bitnet-packed"), "{format:?}");
        assert!(bytes("bitnet") == bytes("bitnet-divided"), "{format:?}");
        if format.is_ternary() {
            let found = error(&logits(&path("bitnet", format), "bitnet"), &table("bitnet", "int8"));
            println!("bitnet {}: logits differ by {found:.2e}", format.name());
            // The last bits of a sum move an int8 rounding now and then.
            assert!(found < 1e-2, "{format:?}: {found}");
        }
    }
}

#[test]
fn what_is_ternary_stays_as_it_is() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    let to = |from: &str, out: &str, format: Format| {
        let options = Options { lossless: true, ..options(format) };
        from_gguf(&path(from), &path(out), &options).map(|_| fs::read(path(out)).unwrap())
    };
    convert("llama", &path("a.gguf"), &Options { keep: vec!["*v_proj*".into()], ..options(Format::TQ2_0) });
    let original = fs::read(path("a.gguf")).unwrap();
    // Through smaller groups, through other codecs, and through floats.
    for (i, chain) in [
        &[Format::TQ1_0, Format::TQ2_0][..],
        &[Format::Q2_0, Format::PQ2_0, Format::PTQ1_0, Format::TQ2_0],
        &[Format::F32, Format::TQ2_0],
        &[Format::F16, Format::TQ2_0],
    ]
    .iter()
    .enumerate()
    {
        let mut from = "a.gguf".to_owned();
        for (j, &format) in chain.iter().enumerate() {
            let out = format!("{i}-{j}.gguf");
            // What was kept must not be made ternary now.
            let options = Options { lossless: true, keep: vec!["*attn_v.weight".into()], ..options(format) };
            from_gguf(&path(&from), &path(&out), &options).unwrap_or_else(|error| panic!("{chain:?} {j}: {error:#}"));
            from = out;
        }
        assert!(fs::read(path(&from)).unwrap() == original, "{chain:?}");
    }
    // One scale for a tensor goes everywhere; groups of 64 do not go into larger ones.
    convert("bitnet", &path("b.gguf"), &options(Format::I2_S));
    let tq = to("b.gguf", "c.gguf", Format::Q2_0).unwrap();
    to("c.gguf", "d.gguf", Format::I2_S).unwrap();
    assert!(to("d.gguf", "e.gguf", Format::Q2_0).unwrap() == tq);
    convert("llama", &path("l.gguf"), &options(Format::Q2_0));
    let error = to("l.gguf", "x.gguf", Format::PQ2_0).unwrap_err().to_string();
    assert!(error.contains("blk.0.attn_q.weight") && error.contains("groups of 128"), "{error}");
    assert!(!path("x.gguf").exists() && !path("x.gguf.part").exists());
    let error = from_gguf(&path("l.gguf"), &path("l.gguf"), &Options::default()).unwrap_err().to_string();
    assert!(error.contains("over itself"), "{error}");
}

#[test]
fn rules_are_ordered_by_their_error() {
    let dir = tempfile::TempDir::new().unwrap();
    let error = |method: Method| {
        let options = Options { method, chosen: true, ..options(Format::TQ2_0) };
        let report = convert("llama", &dir.path().join("x.gguf"), &options);
        let mut sums = Sums::default();
        report.tensors.iter().filter(|done| done.ternary).for_each(|done| sums.add(&done.sums));
        sums.relative_error()
    };
    let errors = [Method::Search, Method::Twn, Method::Absmean, Method::Threshold(0.45)].map(error);
    println!("relative errors of search, twn, absmean, threshold: {errors:.4?}");
    assert!(errors[1..].iter().all(|&other| errors[0] < other), "{errors:?}");
    assert!((0.40..0.46).contains(&errors[0]), "the least error of a normal distribution is 0.436: {errors:?}");
}

#[test]
fn calibration_weighs_columns_by_what_meets_them() {
    let dir = tempfile::TempDir::new().unwrap();
    let text = dir.path().join("text.txt");
    fs::write(&text, "the tern flies over the sea and the sea is wide. ".repeat(40)).unwrap();
    let of = |name: &str, out: &Path, calibration: Option<&Path>| {
        let calibration = calibration.map(Path::to_owned);
        convert(name, out, &Options { calibration, validate: false, ..options(Format::Q2_0) })
    };
    for name in ["llama", "gpt2", "phi3"] {
        let (plain, weighted) = (dir.path().join("plain.gguf"), dir.path().join("weighted.gguf"));
        of(name, &plain, None);
        of(name, &weighted, Some(&text));
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 3, "something is left: {names:?}");
        // Every matrix of the blocks is another now, and nothing else.
        let (plain, weighted) = (Source::open(&plain).unwrap(), Source::open(&weighted).unwrap());
        for ((a, plain), (_, weighted)) in plain.tensors().zip(weighted.tensors()) {
            let in_block = a.name.starts_with("blk.") && a.dims.len() == 2;
            assert_eq!(plain != weighted, in_block, "{name}: {}", a.name);
        }
        // A GGUF of floats is calibrated by itself; its weights were rounded to f16, which moves a few across a cut.
        let (floats, again) = (dir.path().join("floats.gguf"), dir.path().join("again.gguf"));
        convert(name, &floats, &Options { validate: false, ..options(Format::F16) });
        let how = Options { calibration: Some(text.clone()), validate: false, ..options(Format::Q2_0) };
        from_gguf(&floats, &again, &how).unwrap();
        let first =
            |source: &Source| source.tensors().map(|(info, bytes)| (info.name.clone(), bytes.to_vec())).collect();
        let (a, b): (Vec<_>, Vec<_>) = (first(&weighted), first(&Source::open(&again).unwrap()));
        let same = a.iter().filter(|tensor| b.contains(tensor)).count();
        assert!(same * 10 >= a.len() * 7, "{name}: {same} of {} tensors", a.len());
        fs::remove_file(floats).unwrap();
        fs::remove_file(again).unwrap();
    }
    let refused = |options: Options| {
        let error = from_checkpoint(&fixture("llama"), &dir.path().join("x.gguf"), None, &options).unwrap_err();
        format!("{error:#}")
    };
    let calibration = Some(text.clone());
    let error = refused(Options { calibration: calibration.clone(), method: Method::Absmean, ..Options::default() });
    assert!(error.contains("--calibration goes with --rule search, not with absmean"), "{error}");
    fs::write(&text, "too short").unwrap();
    let error = refused(Options { calibration, ..options(Format::Q2_0) });
    assert!(error.contains("--calibration has") && error.contains("longer"), "{error}");
}

#[test]
fn float_weights_are_not_taken_for_ternary() {
    let dir = tempfile::TempDir::new().unwrap();
    let out = dir.path().join("x.gguf");
    let options = Options { lossless: true, ..options(Format::TQ2_0) };
    let error = from_checkpoint(&fixture("llama"), &out, None, &options).unwrap_err().to_string();
    assert!(error.contains("tensor model.layers.0.self_attn.q_proj.weight of") && error.contains("--keep"), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    let kept = Options { keep: vec!["model.layers.*".into()], ..options };
    assert!(is_lossless(&convert("llama", &out, &kept)));
    let wrong = Options { keep: vec!["nothing*".into()], ..kept };
    assert!(
        from_checkpoint(&fixture("llama"), &out, None, &wrong).unwrap_err().to_string().contains("matches no tensor")
    );
}

#[test]
fn rows_that_are_not_whole_blocks_take_smaller_ones() {
    let dir = tempfile::TempDir::new().unwrap();
    let out = dir.path().join("x.gguf");
    let report = convert("qwen3", &out, &options(Format::TQ2_0));
    let formats: Vec<&str> = report.tensors.iter().filter(|done| done.ternary).map(|done| done.format).collect();
    assert!(!formats.is_empty() && formats.iter().all(|&format| format == "Q2_0"), "{formats:?}");
    assert!(report.notes.iter().any(|note| note.contains("not whole blocks of TQ2_0")), "{:?}", report.notes);
}

/// A fixture's copy, changed.
fn changed(name: &str, change: impl FnOnce(&Path)) -> (tempfile::TempDir, String) {
    let dir = tempfile::TempDir::new().unwrap();
    for entry in fs::read_dir(fixture(name)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    change(dir.path());
    let out = dir.path().join("out").join("x.gguf");
    let error = match from_checkpoint(dir.path(), &out, None, &options(Format::Q2_0)) {
        Ok(_) => return (dir, "no error".into()),
        Err(error) => format!("{error:#}"),
    };
    assert!(!out.exists());
    (dir, error)
}

fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{from} is not in {}", path.display());
    fs::write(path, text.replace(from, to)).unwrap();
}

#[test]
fn hostile_checkpoints_are_one_error_that_names_file_and_tensor() {
    let config = |name: &str, from: &str, to: &str| changed(name, |dir| edit(&dir.join("config.json"), from, to)).1;
    for (error, said) in [
        (
            changed("llama", |dir| fs::remove_file(dir.join("model-00002-of-00003.safetensors")).unwrap()).1,
            &["model.safetensors.index.json, tensor model.", "model-00002-of-00003.safetensors is missing"][..],
        ),
        (config("llama", "LlamaForCausalLM", "NewForCausalLM"), &["config.json: architectures", "those that are read"]),
        (
            config("llama", "\"intermediate_size\": 256", "\"intermediate_size\": 512"),
            &["tensor model.layers.0.mlp.", "has the shape", "by config.json it must be"],
        ),
        (config("llama", "\"num_hidden_layers\": 1", "\"num_hidden_layers\": 2"), &["has no tensor model.layers.1."]),
        (
            config("qwen2", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1"),
            &["tensor model.layers.1.", "has no place"],
        ),
        (config("llama", "\"llama3\"", "\"magic\""), &["config.json: rope_type", "magic"]),
        (config("gpt2", "\"n_embd\": 64", "\"n_embd\": 0"), &["config.json: n_embd is 0"]),
        (config("bitnet-packed", "\"bitnet\",\n    \"linear", "\"gptq\",\n    \"linear"), &["gptq"]),
        (config("qwen3", "\"yarn\"", "\"default\",\n    \"x\": \"yarn\""), &["no error"]),
        (
            changed("qwen2", |dir| {
                let path = dir.join("model.safetensors");
                let mut bytes = fs::read(&path).unwrap();
                bytes.truncate(bytes.len() - 10);
                fs::write(&path, bytes).unwrap();
            })
            .1,
            &["model.safetensors: tensor ", "but the file has"],
        ),
        (
            changed("qwen2", |dir| {
                let path = dir.join("model.safetensors");
                let mut bytes = fs::read(&path).unwrap();
                bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
                fs::write(&path, bytes).unwrap();
            })
            .1,
            &["model.safetensors: the header claims"],
        ),
        (
            changed("qwen2", |dir| {
                // The last tensor's values become NaN.
                let path = dir.join("model.safetensors");
                let mut bytes = fs::read(&path).unwrap();
                let end = bytes.len();
                bytes[end - 400..].fill(0xff);
                fs::write(&path, bytes).unwrap();
            })
            .1,
            &["tensor ", "is NaN; the checkpoint is damaged"],
        ),
        (
            changed("phi3", |dir| edit(&dir.join("tokenizer.json"), "\"BPE\"", "\"Unigram\"")).1,
            &["tokenizer.json: its model is Unigram"],
        ),
        (changed("llama", |dir| fs::write(dir.join("tokenizer.model"), [9, 9]).unwrap()).1, &["tokenizer.model: "]),
    ] {
        for said in said {
            assert!(error.contains(said), "{said:?} is not in {error:?}");
        }
    }
}

#[test]
fn patterns_match_as_in_a_shell() {
    for (pattern, text, expected) in [
        ("blk.0.*", "blk.0.attn_q.weight", true),
        ("blk.0.*", "blk.10.attn_q.weight", false),
        ("*.ffn_down.weight", "blk.3.ffn_down.weight", true),
        ("*down*", "blk.3.ffn_down.weight", true),
        ("blk.?.attn_q.weight", "blk.3.attn_q.weight", true),
        ("blk.?.attn_q.weight", "blk.33.attn_q.weight", false),
        ("", "", true),
        ("*", "", true),
        ("a*b*c", "aXbYbZc", true),
        ("a*b*c", "aXbYbZ", false),
    ] {
        assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
    }
}

#[test]
fn a_part_that_is_not_kept_is_gone() {
    let dir = tempfile::TempDir::new().unwrap();
    let out = dir.path().join("deep/x.gguf");
    drop(Part::create(&out).unwrap());
    assert_eq!(fs::read_dir(dir.path().join("deep")).unwrap().count(), 0);
    Part::create(&out).unwrap().keep().unwrap();
    assert!(out.is_file() && fs::read_dir(dir.path().join("deep")).unwrap().count() == 1);
}

#[test]
fn formats_are_named_as_they_print() {
    for format in FORMATS {
        assert_eq!(format_named(&format.name().to_lowercase()).unwrap(), format);
    }
    assert!(format_named("Q4_K").unwrap_err().to_string().contains("TQ2_0"));
}
