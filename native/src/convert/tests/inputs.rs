//! Checkpoints that are not as `save_pretrained` leaves them: every tensor of the input reaches the output, or is named with the
//! reason.

use serde_json::json;

use super::*;
use crate::checkpoint::plan::LeftOut;

/// A tensor of a checkpoint: name, type, shape, bytes.
type Stored = (String, String, Vec<usize>, Vec<u8>);

/// A fixture's copy in one safetensors file, its tensors and its config.json changed.
pub(super) fn rewritten(
    name: &str,
    tensors: impl FnOnce(&mut Vec<Stored>),
    config: impl FnOnce(&mut Value),
) -> tempfile::TempDir {
    let dir = tempfile::TempDir::new().unwrap();
    for entry in fs::read_dir(fixture(name)).unwrap() {
        let path = entry.unwrap().path();
        if !path.to_string_lossy().contains("safetensors") {
            fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    let original = Checkpoint::open(&fixture(name)).unwrap();
    let stored = |name: &str| {
        let entry = original.entry(name).unwrap();
        (name.to_owned(), entry.dtype.to_string(), entry.shape.clone(), original.bytes(name).to_vec())
    };
    let mut all: Vec<Stored> = original.names().map(stored).collect();
    tensors(&mut all);
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, dtype, shape, bytes) in all {
        let from = data.len();
        data.extend(bytes);
        header.insert(name, json!({"dtype": dtype, "shape": shape, "data_offsets": [from, data.len()]}));
    }
    let header = Value::Object(header).to_string();
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
    fs::write(dir.path().join("model.safetensors"), file).unwrap();
    let path = dir.path().join("config.json");
    let mut value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    config(&mut value);
    fs::write(path, value.to_string()).unwrap();
    dir
}

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn find<'a>(tensors: &'a [Stored], name: &str) -> &'a Stored {
    tensors.iter().find(|stored| stored.0 == name).unwrap()
}

/// Converts to F16 and validates.
fn converted(dir: &Path) -> (Report, PathBuf) {
    let out = dir.join("x.gguf");
    let report = from_checkpoint(dir, &out, Some("tiny"), &options(Format::F16)).unwrap_or_else(|e| panic!("{e:#}"));
    (report, out)
}

fn refused(dir: &Path, options: &Options) -> String {
    let out = dir.join("x.gguf");
    let error = format!("{:#}", from_checkpoint(dir, &out, None, options).unwrap_err());
    assert!(!out.exists());
    error
}

fn note<'a>(report: &'a Report, part: &str) -> &'a str {
    let found = report.notes.iter().filter(|note| note.contains(part)).collect::<Vec<_>>();
    assert_eq!(found.len(), 1, "{part:?} in {:?}", report.notes);
    found[0]
}

/// `transformers` 5.23 does not tie the two either ("we will NOT tie them"), and finds the same logits for this checkpoint as for
/// the one that says so.
#[test]
fn a_head_that_is_not_the_embedding_is_kept_where_the_configuration_says_tied() {
    let dir = rewritten("qwen2", |_| {}, |config| config["tie_word_embeddings"] = true.into());
    let (report, out) = converted(dir.path());
    note(&report, "lm_head.weight has other values; it is kept as output.weight");
    assert_eq!((report.account.read, report.tensors.len(), report.account.left_out.len()), (27, 27, 0));
    let found = error(&[logits(&out, "qwen2").concat()], &[table("qwen2", "float").concat()]);
    assert!(found < 1e-3, "{found}");
}

#[test]
fn a_head_that_is_the_embedding_is_left_out_once_and_named() {
    let folder = tempfile::TempDir::new().unwrap();
    let plain = folder.path().join("x.gguf");
    convert("qwen3", &plain, &options(Format::F16));
    // As bytes, and as the same values in another type.
    for wide in [false, true] {
        let head = |tensors: &mut Vec<Stored>| {
            let (_, dtype, shape, bytes) = find(tensors, "model.embed_tokens.weight").clone();
            let (dtype, bytes) = match wide {
                false => (dtype, bytes),
                true => {
                    let halves = bytes.as_chunks::<2>().0.iter().map(|&half| u16::from_le_bytes(half));
                    let values: Vec<f32> = halves.map(sterna_core::formats::half::bf16_to_f32).collect();
                    ("F32".to_owned(), f32s(&values))
                }
            };
            tensors.push(("lm_head.weight".into(), dtype, shape, bytes));
        };
        let dir = rewritten("qwen3", head, |_| {});
        let (report, out) = converted(dir.path());
        note(&report, "left out: lm_head.weight: it is equal to the embedding");
        assert_eq!((report.account.read, report.tensors.len()), (25, 24));
        let left = LeftOut { name: "lm_head.weight".into(), reason: "it is equal to the embedding".into() };
        assert_eq!(report.account.left_out, [left]);
        assert!(fs::read(out).unwrap() == fs::read(&plain).unwrap());
    }
}

#[test]
fn what_no_model_needs_is_left_out_and_named() {
    let more = |tensors: &mut Vec<Stored>| {
        for layer in 0..2 {
            let name = format!("model.layers.{layer}.self_attn.rotary_emb.inv_freq");
            tensors.push((name, "F32".into(), vec![8], f32s(&[1.0; 8])));
        }
    };
    let dir = rewritten("qwen2", more, |_| {});
    let (report, _) = converted(dir.path());
    note(&report, "left out: model.layers.*.self_attn.rotary_emb.inv_freq (2 tensors): frequencies");
    assert_eq!((report.account.read, report.tensors.len()), (29, 27));
    let mut text = Vec::new();
    report.write_text(&mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    assert!(
        text.contains("tensors: 29 read, 27 written; 2 left out:\n  model.layers.0.self_attn.rotary_emb"),
        "{text}"
    );
    let json = report.json(Value::Null);
    assert_eq!((&json["tensors_read"], json["left_out"].as_array().unwrap().len()), (&29.into(), 2));
    // Scales of packed weights, and factors that are computed, are accounted for too.
    let dir = tempfile::TempDir::new().unwrap();
    let account = |name: &str| {
        let report = convert(name, &dir.path().join("x.gguf"), &options(Format::Q2_0));
        (report.account.read, report.account.folded, report.account.computed, report.tensors.len())
    };
    assert_eq!(account("bitnet-packed"), (20, 7, 0, 13));
    assert_eq!(account("llama"), (15, 0, 1, 16));
}

#[test]
fn names_that_wrappers_made_longer_mean_the_same_tensors() {
    let plain = tempfile::TempDir::new().unwrap();
    /// What a wrapper makes of a name.
    type Longer = fn(&str) -> String;
    let cases: [(&str, Longer, bool); 9] = [
        ("qwen2", |name| format!("_orig_mod.{name}"), true),
        ("qwen2", |name| format!("module.{name}"), true),
        ("qwen2", |name| format!("base_model.model.{name}"), true),
        ("qwen2", |name| format!("model.{name}"), false),
        ("qwen2", |name| name.replace("_proj.", "_proj.base_layer."), true),
        ("qwen2", |name| name.replace(".mlp.", "._checkpoint_wrapped_module.mlp."), true),
        ("gpt2", |name| format!("module._orig_mod.{name}"), true),
        ("gpt2", |name| name.trim_start_matches("transformer.").to_owned(), false),
        ("bitnet-packed", |name| format!("_orig_mod.{name}"), true),
    ];
    for (fixture, name, said) in cases {
        let original = plain.path().join("x.gguf");
        convert(fixture, &original, &options(Format::F16));
        let rename = |tensors: &mut Vec<Stored>| tensors.iter_mut().for_each(|stored| stored.0 = name(&stored.0));
        let dir = rewritten(fixture, rename, |_| {});
        let (report, out) = converted(dir.path());
        assert!(fs::read(out).unwrap() == fs::read(original).unwrap(), "{fixture} {}", name("model.norm.weight"));
        let wrapped = report.notes.iter().any(|note| note.starts_with("parts of tensor names that wrappers added"));
        assert_eq!(wrapped, said, "{:?}", report.notes);
    }
    let lora = |tensors: &mut Vec<Stored>| {
        let name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight";
        tensors.push((name.into(), "F32".into(), vec![1, 64], f32s(&[0.0; 64])));
    };
    let error = refused(rewritten("qwen2", lora, |_| {}).path(), &options(Format::F16));
    assert!(error.contains("q_proj.lora_A.default.weight of") && error.contains("merge_and_unload()"), "{error}");
    let twice = |tensors: &mut Vec<Stored>| {
        let mut copy = find(tensors, "model.norm.weight").clone();
        copy.0 = "_orig_mod.model.norm.weight".into();
        tensors.push(copy);
    };
    let error = refused(rewritten("qwen2", twice, |_| {}).path(), &options(Format::F16));
    assert!(error.contains("model.norm.weight") && error.contains("the same tensor of the model"), "{error}");
}

#[test]
fn the_embedding_says_how_many_tokens_there_are() {
    for rows in [319, 321] {
        let resized = |tensors: &mut Vec<Stored>| {
            for stored in tensors.iter_mut().filter(|stored| stored.2.first() == Some(&320)) {
                stored.3.resize(rows * stored.2[1] * 2, 0);
                stored.2[0] = rows;
            }
        };
        let dir = rewritten("qwen2", resized, |_| {});
        let (report, out) = converted(dir.path());
        note(&report, &format!("vocab_size = 320, but model.embed_tokens.weight has {rows} rows"));
        let model = load(&out);
        assert_eq!((model.transformer().vocabulary(), model.tokenizer().unwrap().vocab_size()), (rows, rows));
    }
    // A padding token that was added to the tokenizer, and to the configuration, but not to the embedding.
    let dir = rewritten("qwen2", |_| {}, |config| config["pad_token_id"] = 320.into());
    let path = dir.path().join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let mut pad = tokenizer["added_tokens"][0].clone();
    (pad["id"], pad["content"]) = (320.into(), "<pad>".into());
    tokenizer["added_tokens"].as_array_mut().unwrap().push(pad);
    fs::write(&path, tokenizer.to_string()).unwrap();
    let (report, out) = converted(dir.path());
    note(&report, "tokens beyond it are left out: \"<pad>\" (320)");
    let model = load(&out);
    assert_eq!((model.tokenizer().unwrap().vocab_size(), model.tokenizer().unwrap().pad()), (320, Some(0)));
    // Heads of another size belong to another model.
    let head = |tensors: &mut Vec<Stored>| {
        let stored = tensors.iter_mut().find(|stored| stored.0 == "lm_head.weight").unwrap();
        stored.3.resize(319 * stored.2[1] * 2, 0);
        stored.2[0] = 319;
    };
    let error = refused(rewritten("qwen2", head, |_| {}).path(), &options(Format::F16));
    assert!(error.contains("lm_head.weight") && error.contains("it must be [320, 64]"), "{error}");
}

#[test]
fn a_default_that_is_taken_is_named() {
    let without = |keys: &'static [&'static str]| {
        move |config: &mut Value| {
            for key in keys {
                config.as_object_mut().unwrap().remove(*key);
            }
        }
    };
    let dir = rewritten("bitnet", |_| {}, without(&["rope_parameters", "rms_norm_eps", "hidden_act"]));
    let (report, out) = converted(dir.path());
    let said = note(&report, "not in config.json");
    let defaults =
        "the defaults of BitNetForCausalLM are taken: rms_norm_eps 1e-5, rope_theta 500000, hidden_act relu2";
    assert!(said.ends_with(defaults), "{said}");
    let plain = dir.path().join("plain.gguf");
    convert("bitnet", &plain, &options(Format::F16));
    assert!(fs::read(out).unwrap() == fs::read(plain).unwrap());
    // The same class in code of its own has Llama's defaults.
    let dir = rewritten(
        "bitnet",
        |_| {},
        |config| {
            without(&["rope_parameters"])(config);
            config["architectures"] = json!(["BitnetForCausalLM"]);
            config["model_type"] = "llama".into();
        },
    );
    let (report, _) = converted(dir.path());
    note(&report, "the defaults of BitnetForCausalLM are taken: rope_theta 10000");
}

#[test]
fn a_model_without_a_tokenizer_says_so_in_the_file() {
    let dir = tempfile::TempDir::new().unwrap();
    let out = dir.path().join("x.gguf");
    convert("bitnet", &out, &options(Format::F16));
    let model = load(&out);
    assert_eq!(model.metadata().str("tokenizer.ggml.model"), Some("none"));
    assert!(model.tokenizer().is_err() && !sterna_core::generate::has_vocabulary(model.metadata()));
    // It goes on to other formats.
    let again = dir.path().join("y.gguf");
    from_gguf(&out, &again, &options(Format::Q2_0)).unwrap();
    assert_eq!(load(&again).metadata().str("tokenizer.ggml.model"), Some("none"));
}

/// A Llama with LongRoPE, which llama.cpp reads with the type only.
#[test]
fn factors_of_a_llama_come_with_their_type() {
    let factors = |factor: f64| vec![factor; 32];
    let dir = rewritten(
        "llama",
        |_| {},
        |config| {
            config["rope_parameters"] = json!({"rope_type": "longrope", "rope_theta": 10000.0, "factor": 4.0,
            "original_max_position_embeddings": 64, "short_factor": factors(1.0), "long_factor": factors(2.0)});
        },
    );
    let (report, out) = converted(dir.path());
    assert!(report.notes.is_empty(), "{:?}", report.notes);
    assert_eq!(load(&out).metadata().str("llama.rope.scaling.type"), Some("longrope"));
    assert_eq!((report.account.computed, report.tensors.len()), (2, 17));
}

#[test]
fn weights_that_vanish_are_told_and_do_not_validate() {
    let tiny = |tensors: &mut Vec<Stored>| {
        let stored = tensors.iter_mut().find(|stored| stored.0 == "model.layers.0.mlp.up_proj.weight").unwrap();
        let n = stored.2.iter().product::<usize>();
        let values: Vec<f32> = (0..n).map(|i| if i % 3 == 0 { 1e-30 } else { -2e-30 }).collect();
        (stored.1, stored.3) = ("F32".into(), f32s(&values));
    };
    let dir = rewritten("qwen2", tiny, |_| {});
    for format in [Format::Q2_0, Format::F16] {
        let unchecked = Options { validate: false, ..options(format) };
        let report = from_checkpoint(dir.path(), &dir.path().join("y.gguf"), None, &unchecked).unwrap();
        let lost = report.tensors.iter().find(|done| done.name == "blk.0.ffn_up.weight").unwrap();
        assert_eq!((lost.sums.relative_error(), lost.fidelity == Fidelity::Exact), (1.0, false), "{format:?}");
        note(&report, "all weights became zero in blk.0.ffn_up.weight");
        let error = refused(dir.path(), &options(format));
        assert!(error.contains("up_proj.weight of") && error.contains("reads back as zeros only"), "{error}");
    }
    // Zeros that were zeros are fine, and so are scales that an f32 holds.
    let zero = |tensors: &mut Vec<Stored>| {
        let stored = tensors.iter_mut().find(|stored| stored.0 == "model.layers.0.mlp.up_proj.weight").unwrap();
        stored.3.fill(0);
    };
    let (report, _) = converted(rewritten("qwen2", zero, |_| {}).path());
    assert!(report.notes.is_empty(), "{:?}", report.notes);
}

/// A GPT-2 whose rows are no whole blocks of anything but floats.
fn of_width_100() -> tempfile::TempDir {
    let cut = |tensors: &mut Vec<Stored>| {
        for (_, _, shape, bytes) in tensors.iter_mut() {
            // 64 becomes 100, 192 300, 256 400; what is there is repeated.
            for dim in shape.iter_mut().filter(|dim| [64, 192, 256].contains(dim)) {
                *dim = *dim / 64 * 100;
            }
            let n = shape.iter().product::<usize>() * 2;
            *bytes = bytes.iter().copied().cycle().take(n).collect();
        }
    };
    rewritten("gpt2", cut, |config| {
        config["n_embd"] = 100.into();
        config["n_positions"] = 100.into();
    })
}

#[test]
fn a_file_with_nothing_ternary_is_refused_with_the_formats_that_would_do() {
    let dir = of_width_100();
    let error = refused(dir.path(), &options(Format::TQ2_0));
    assert!(error.contains("no matrix of this model can be TQ2_0: its rows of 100, 400 weights"), "{error}");
    assert!(error.contains("--quant (--type of quantize): F32, F16, BF16"), "{error}");
    let (_, floats) = converted(dir.path());
    let error = from_gguf(&floats, &dir.path().join("y.gguf"), &options(Format::Q2_0)).unwrap_err().to_string();
    assert!(error.contains("no matrix of this model can be Q2_0"), "{error}");
    // What --keep leaves float was asked for.
    let kept = Options { keep: vec!["blk.*".into()], validate: false, ..options(Format::TQ2_0) };
    from_checkpoint(dir.path(), &dir.path().join("z.gguf"), None, &kept).unwrap();
}

#[test]
fn smaller_blocks_come_with_who_reads_them() {
    let dir = tempfile::TempDir::new().unwrap();
    let report = convert("qwen3", &dir.path().join("x.gguf"), &options(Format::TQ2_0));
    let said = note(&report, "not whole blocks of TQ2_0");
    assert!(said.starts_with("14 tensors have rows of 64, 128, not whole blocks"), "{said}");
    assert!(said.contains("stored as Q2_0, which llama.cpp reads from mid-2026 on; older versions"), "{said}");
}

/// `transformers` 5.23 builds linear layers without a bias where the class or config.json says so, and ignores their tensors; those
/// that it builds and does not find are zero.
#[test]
fn biases_are_those_of_the_configuration() {
    let plain = tempfile::TempDir::new().unwrap();
    let without = |path: &Path| {
        let file = Source::open(path).unwrap();
        let names: Vec<String> = file.header().tensors.iter().map(|info| info.name.clone()).collect();
        names.into_iter().filter(|name| name.starts_with("blk.") && name.ends_with(".bias")).collect::<Vec<_>>()
    };
    let of_mlp = |tensors: &mut Vec<Stored>| {
        let rows = find(tensors, "model.layers.0.mlp.up_proj.weight").2[0];
        let bias = ("model.layers.0.mlp.up_proj.bias".into(), "F32".into(), vec![rows], f32s(&vec![9.0; rows]));
        tensors.push(bias);
    };
    let out = plain.path().join("x.gguf");
    convert("llama", &out, &options(Format::F16));
    assert_eq!(without(&out).len(), 4);
    let dir = rewritten("llama", of_mlp, |_| {});
    let (report, with_mlp) = converted(dir.path());
    note(&report, "left out: model.layers.0.mlp.up_proj.bias: config.json says mlp_bias = false");
    assert_eq!(report.account.left_out.len(), 1);
    assert!(fs::read(with_mlp).unwrap() == fs::read(&out).unwrap());
    for (value, said) in [
        (json!(false), "config.json says attention_bias = false"),
        (Value::Null, "config.json has no attention_bias, which LlamaForCausalLM takes as false"),
    ] {
        let dir = rewritten("llama", |_| {}, |config| config["attention_bias"] = value);
        let (report, out) = converted(dir.path());
        let said = note(&report, said);
        assert!(said.contains("model.layers.0.self_attn.o_proj.bias"), "{said}");
        assert_eq!((report.account.left_out.len(), without(&out)), (4, Vec::new()));
    }
    let dir = rewritten("llama", |tensors| tensors.retain(|(name, ..)| !name.ends_with("k_proj.bias")), |_| {});
    let (report, out) = converted(dir.path());
    let said = note(&report, "count as zero");
    assert!(said.ends_with(": model.layers.0.self_attn.k_proj.bias"), "{said}");
    assert_eq!(without(&out).len(), 3);
    // A class that has none but those of q, k and v.
    let of_output = |tensors: &mut Vec<Stored>| {
        let rows = find(tensors, "model.layers.1.self_attn.o_proj.weight").2[0];
        tensors.push(("model.layers.1.self_attn.o_proj.bias".into(), "F32".into(), vec![rows], f32s(&vec![9.0; rows])));
    };
    let dir = rewritten("qwen2", of_output, |_| {});
    note(&converted(dir.path()).0, "self_attn.o_proj.bias: Qwen2ForCausalLM has no such bias");
}

/// As the configuration class of `transformers` 5.23 makes `layer_types` of `max_window_layers`.
#[test]
fn a_window_in_every_layer_is_written_and_in_some_refused() {
    let window = |layers: usize| {
        move |config: &mut Value| {
            config["use_sliding_window"] = true.into();
            config["sliding_window"] = 16.into();
            config["max_window_layers"] = layers.into();
            config.as_object_mut().unwrap().remove("layer_types");
        }
    };
    let written = |path: &Path| load(path).metadata().u64("qwen2.attention.sliding_window");
    assert_eq!(written(&converted(rewritten("qwen2", |_| {}, window(0)).path()).1), Some(16));
    assert_eq!(written(&converted(rewritten("qwen2", |_| {}, window(2)).path()).1), None);
    let error = refused(rewritten("qwen2", |_| {}, window(1)).path(), &options(Format::F16));
    assert!(error.contains("use_sliding_window is true; a window in 1 of the 2 layers"), "{error}");
}

#[test]
fn a_format_for_an_output_that_is_the_embedding_is_said_to_have_no_effect() {
    let dir = tempfile::TempDir::new().unwrap();
    let out = dir.path().join("x.gguf");
    let options = Options { output: Some(Format::Q8_0), ..options(Format::F16) };
    note(&convert("qwen3", &out, &options), "--output-type Q8_0 has no effect");
    let untied = convert("qwen2", &out, &options);
    assert!(!untied.notes.iter().any(|note| note.contains("--output-type")), "{:?}", untied.notes);
}
