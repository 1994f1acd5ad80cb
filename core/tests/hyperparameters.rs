//! How hyperparameters are read: as llama.cpp reads them, and with a word on every key that one of the two does not apply.
//! Values that are refused are in tests/hostile.rs.

mod edited;

use edited::Edited;
use sterna_core::gguf::Gguf;
use sterna_core::kernels::Serial;
use sterna_core::model::{Config, LoadOptions, Logits, Transformer, warnings};
use sterna_core::ops::RopeScaling;
use sterna_core::tokenizer::EncodeOptions;
use sterna_core::{Model, SessionOptions};

const LLAMA: &str = "llama-tq2_0";
const YARN: &str = "qwen3-yarn-q2_0-g128";
const LONG: &str = "phi3-long-i2_s";

fn config(file: &Edited) -> Config {
    Config::from_header(Gguf::parse(&file.write()).unwrap().header()).unwrap()
}

fn told(file: &Edited) -> Vec<String> {
    warnings(Gguf::parse(&file.write()).unwrap().header())
}

fn model(file: &Edited) -> Transformer {
    Transformer::from_gguf(&Gguf::parse(&file.write()).unwrap(), &LoadOptions::default(), &Serial).unwrap()
}

/// Logits of a text that is long enough for rotations to matter.
fn logits(file: &Edited) -> Vec<f32> {
    let (model, tokens) = (model(file), tokens(12));
    model.forward(&mut model.state(None), &Serial, &tokens, Logits::Last).unwrap().to_vec()
}

fn tokens(count: u32) -> Vec<u32> {
    (0..count).map(|i| 5 + i * 7 % 100).collect()
}

#[test]
fn a_factor_without_a_type_is_linear() {
    let linear = Edited::of(LLAMA).set(".rope.scaling.type", "linear").set(".rope.scaling.factor", 4.0f32);
    let bare = Edited::of(LLAMA).set(".rope.scaling.factor", 4.0f32);
    let old = Edited::of(LLAMA).set(".rope.scale_linear", 4.0f32);
    assert_eq!(config(&bare).rope.unwrap().scaling, RopeScaling::Linear { factor: 4.0 });
    assert_eq!(logits(&bare), logits(&linear));
    assert_eq!(logits(&old), logits(&linear));
    assert_ne!(logits(&bare), logits(&Edited::of(LLAMA)));
    // The newer key counts where both are there, also with 0, which is none.
    let both = |factor: f32| Edited::of(LLAMA).set(".rope.scale_linear", 4.0f32).set(".rope.scaling.factor", factor);
    assert_eq!(config(&both(2.0)).rope.unwrap().scaling, RopeScaling::Linear { factor: 2.0 });
    assert_eq!(config(&both(0.0)).rope.unwrap().scaling, RopeScaling::None);
    let none = Edited::of(LLAMA).set(".rope.scaling.type", "none").set(".rope.scaling.factor", 4.0f32);
    assert_eq!(logits(&none), logits(&Edited::of(LLAMA)));
}

#[test]
fn the_attention_factor_holds_for_every_type() {
    let plain = logits(&Edited::of(LLAMA));
    for kind in [None, Some("none"), Some("linear")] {
        let mut file = Edited::of(LLAMA).set(".rope.scaling.attn_factor", 1.5f32);
        if let Some(kind) = kind {
            file = file.set(".rope.scaling.type", kind);
        }
        assert_eq!(config(&file).rope.unwrap().attention_factor, 1.5);
        assert_ne!(logits(&file), plain, "{kind:?}");
    }
    assert_eq!(logits(&Edited::of(LLAMA).set(".rope.scaling.attn_factor", 1.0f32)), plain);
}

#[test]
fn zero_stands_for_not_given() {
    let plain = config(&Edited::of(YARN)).rope;
    let zeros = Edited::of(YARN)
        .set(".rope.scaling.yarn_beta_fast", 0.0f32)
        .set(".rope.scaling.yarn_beta_slow", 0.0f32)
        .set(".attention.sliding_window", 0u32)
        .set(".attention.scale", 0.0f32);
    assert_eq!((config(&zeros).rope, config(&zeros).window), (plain, None));
    // Without a factor nothing is stretched; without an original context it is the model's.
    let file = Edited::of(YARN).set(".rope.scaling.factor", 0.0f32).set(".rope.scaling.original_context_length", 0u32);
    let (rope, n_ctx) = (config(&file).rope.unwrap(), config(&file).n_ctx as u32);
    assert!(
        matches!(rope.scaling, RopeScaling::Yarn { factor: 1.0, original_context, .. } if original_context == n_ctx),
        "{rope:?}"
    );
    let file = Edited::of(LLAMA).set(".rope.scaling.type", "linear").set(".rope.scaling.factor", 0.0f32);
    assert_eq!(logits(&file), logits(&Edited::of(LLAMA)));
    let long = Edited::of(LONG).set(".rope.scaling.original_context_length", 0u32);
    assert_eq!(config(&long).rope.unwrap().long.unwrap().original_context, config(&long).n_ctx as u32);
}

#[test]
fn sizes_may_be_given_for_each_layer() {
    // Two layers in the file.
    let name = "llama-tq1_0";
    let plain = config(&Edited::of(name));
    let file = Edited::of(name)
        .set(".feed_forward_length", vec![plain.n_ff as u32; 2])
        .set(".attention.head_count", vec![plain.n_head as i32; 2])
        .set(".attention.head_count_kv", vec![plain.n_head_kv as u64; 2]);
    assert_eq!(config(&file), plain);
    assert_eq!(logits(&file), logits(&Edited::of(name)));
}

#[test]
fn dimensions_of_one_may_follow() {
    let file = Edited::of(LLAMA)
        .tensor("blk.0.attn_k.weight", |t| t.dims.push(1))
        .tensor("token_embd.weight", |t| t.dims.extend([1, 1]))
        .tensor("output_norm.weight", |t| t.dims.extend([1, 1, 1]));
    assert_eq!(logits(&file), logits(&Edited::of(LLAMA)));
}

#[test]
fn a_window_of_all_layers_or_none_is_applied() {
    // Two layers in the file.
    let windowed = || Edited::of("llama-tq1_0").set(".attention.sliding_window", 3u32);
    let key = ".attention.sliding_window_pattern";
    let all = [
        windowed(),
        windowed().set(key, 0u32),
        windowed().set(key, 3u32),
        windowed().set(key, vec![true, true]),
        windowed().set(key, vec![1u32, 1]),
    ];
    for file in all {
        assert_eq!(logits(&file), logits(&windowed()));
    }
    for file in [windowed().set(key, 1u32), windowed().set(key, vec![false, false])] {
        assert_eq!(logits(&file), logits(&Edited::of("llama-tq1_0")));
    }
    assert_ne!(logits(&windowed()), logits(&Edited::of("llama-tq1_0")));
}

#[test]
fn files_that_are_read_as_llama_cpp_reads_them_get_no_warning() {
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/models")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "gguf") {
            let bytes = std::fs::read(&path).unwrap();
            let told = warnings(Gguf::parse(&bytes).unwrap().header());
            assert!(told.is_empty(), "{}: {told:?}", path.display());
        }
    }
}

#[test]
fn keys_that_are_not_applied_are_told() {
    let plain = logits(&Edited::of(LLAMA));
    for (key, value, neutral) in [
        (".attention.clamp_kqv", 1.0f32, 0.0f32),
        (".attention.max_alibi_bias", 1.0, 0.0),
        (".attn_logit_softcapping", 1.0, 0.0),
        (".final_logit_softcapping", 30.0, 0.0),
        (".logit_scale", 0.5, 1.0),
        (".embedding_scale", 12.0, 0.0),
        (".residual_scale", 0.2, 1.0),
        (".attention.temperature_scale", 0.1, 0.0),
    ] {
        let file = Edited::of(LLAMA).set(key, value);
        let found = told(&file);
        assert!(found.len() == 1 && found[0].contains(&file.key(key)) && found[0].contains("not applied"), "{found:?}");
        assert_eq!(logits(&file), plain);
        assert_eq!(told(&Edited::of(LLAMA).set(key, neutral)), [""; 0], "{key}");
    }
    // llama.cpp reads it of no model that is read here.
    let yarn = Edited::of(YARN).set(".rope.scaling.yarn_ext_factor", 0.0f32);
    assert_eq!(logits(&yarn), logits(&Edited::of(YARN)));
    assert!(told(&yarn)[0].contains("yarn_ext_factor"));
    assert_eq!(told(&Edited::of(LLAMA).set(".rope.scaling.yarn_ext_factor", 0.0f32)), [""; 0]);

    let strange = Edited::of(LLAMA).set(".attention.new_thing", 3u32).set(".other", "x").set("general.other", 1u32);
    let found = told(&strange);
    assert!(found.len() == 1 && found[0].contains("llama.attention.new_thing, llama.other"), "{found:?}");
    let very_many = (0..1000).fold(Edited::of(LLAMA), |file, i| file.set(&format!(".x{i}"), 1u32));
    assert!(told(&very_many)[0].contains("and 992 more") && told(&very_many)[0].len() < 400);
    let embedding = Edited::of(LLAMA).set(".pooling_type", 3u32);
    assert!(told(&embedding)[0].contains("llama.pooling_type"));
}

#[test]
fn keys_that_llama_cpp_does_not_apply_are_told() {
    for (file, key) in [
        (Edited::of(LLAMA).set(".attention.sliding_window", 8u32), "llama.attention.sliding_window"),
        (Edited::of(LLAMA).set(".attention.scale", 0.25f32), "llama.attention.scale"),
        (Edited::of(YARN).set(".rope.scaling.yarn_beta_fast", 16.0f32), "qwen3.rope.scaling.yarn_beta_fast"),
    ] {
        let found = told(&file);
        assert!(
            found.len() == 1 && found[0].contains(key) && found[0].contains("llama.cpp does not apply it"),
            "{found:?}"
        );
    }
    // Without an effect there is nothing to tell.
    for file in [
        Edited::of(LLAMA).set(".attention.sliding_window", 1u32 << 20),
        Edited::of(YARN).set(".rope.scaling.yarn_beta_fast", 32.0f32).set(".rope.scaling.yarn_beta_slow", 1.0f32),
        Edited::of("sterna-hc2-q2_0").set(".attention.sliding_window", 8u32),
    ] {
        assert_eq!(told(&file), [""; 0]);
    }
}

#[test]
fn warnings_come_with_the_model() {
    let file = Edited::of(LLAMA).set(".logit_scale", 2.0f32);
    let model = Model::from_gguf(&file.write()).unwrap();
    assert!(model.warnings().iter().any(|warning| warning.contains("llama.logit_scale")), "{:?}", model.warnings());
}

// ---- the same numbers as llama.cpp ----------------------------------------------------------------------------------

/// Perplexity over the first six chunks of 256 tokens, as `llama-perplexity -c 256` prints it after the sixth.
fn perplexity(file: &Edited) -> f64 {
    let text: String = (0..60).map(|i| format!("line {i} of a text that both programs read; ")).collect();
    let model = Model::from_gguf(&file.write()).unwrap();
    let tokens = model.encode(&text, EncodeOptions { add_special: true, parse_special: false }).unwrap();
    let (mut loss, mut scored) = (0.0, 0);
    for chunk in tokens.chunks_exact(256).take(6) {
        let mut chunk = chunk.to_vec();
        chunk[0] = tokens[0];
        let transformer = model.transformer();
        let mut state = transformer.state(None);
        let logits = transformer.forward(&mut state, &Serial, &chunk, Logits::All).unwrap();
        let rows = logits.chunks_exact(transformer.vocabulary());
        for (row, &target) in rows.zip(&chunk[1..]).skip(128) {
            let sum: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
            loss += sum.ln() - f64::from(row[target as usize]);
            scored += 1;
        }
    }
    assert_eq!(scored, 6 * 127);
    (loss / f64::from(scored)).exp()
}

/// What llama.cpp (August 2026) finds for the same edits of the same files: `llama-perplexity -c 256 -b 256 -fa off`. Its products
/// take f16 or int8 activations, so the last digits differ.
#[test]
fn perplexities_are_llama_cpps() {
    let llama = || Edited::of("llama-f16");
    let scaled = |kind: &str, factor: f32| llama().set(".rope.scaling.type", kind).set(".rope.scaling.factor", factor);
    let yarn =
        |factor: f32, original: u32| scaled("yarn", factor).set(".rope.scaling.original_context_length", original);
    let phi = || Edited::of("phi3-long-tq2_0");
    let long = || phi().set(".rope.scaling.original_context_length", 128u32);
    let not_applied = llama()
        .set(".attention.clamp_kqv", 1.0f32)
        .set(".logit_scale", 0.5f32)
        .set(".embedding_scale", 12.0f32)
        .set(".final_logit_softcapping", 1.0f32);
    let mut failures = Vec::new();
    for (what, file, expected, tolerance) in [
        ("plain", llama(), 2624.2766, 5e-4),
        ("a factor without a type", llama().set(".rope.scaling.factor", 4.0f32), 3188.3584, 5e-4),
        ("a factor switched off", scaled("none", 4.0), 2624.2766, 5e-4),
        ("attn_factor without a type", llama().set(".rope.scaling.attn_factor", 1.5f32), 2637.7993, 5e-4),
        ("attn_factor of type none", scaled("none", 1.0).set(".rope.scaling.attn_factor", 1.5f32), 2637.7993, 5e-4),
        ("the old key", llama().set(".rope.scale_linear", 4.0f32), 3188.3584, 5e-4),
        ("a factor of 0 over the old key", scaled("linear", 0.0).set(".rope.scale_linear", 4.0f32), 2624.2766, 5e-4),
        ("YaRN", yarn(4.0, 64), 2578.4186, 5e-4),
        ("YaRN with ext_factor 0", yarn(4.0, 64).set(".rope.scaling.yarn_ext_factor", 0.0f32), 2578.4186, 5e-4),
        ("YaRN with attn_factor", yarn(4.0, 64).set(".rope.scaling.attn_factor", 0.8f32), 2925.3582, 5e-4),
        ("YaRN to a shorter context", yarn(0.5, 64), 3297.0201, 5e-4),
        ("YaRN from no context", yarn(4.0, 0), 2248.6705, 5e-4),
        (
            "YaRN with the old key",
            yarn(4.0, 64).without(".rope.scaling.factor").set(".rope.scale_linear", 4.0f32),
            2578.4186,
            5e-4,
        ),
        ("keys that are not applied", not_applied, 2624.2766, 5e-4),
        ("LongRoPE, short", phi(), 1526.3805, 3e-3),
        ("LongRoPE, short, type none", phi().set(".rope.scaling.type", "none"), 1526.3805, 3e-3),
        ("LongRoPE, short, with a factor", phi().set(".rope.scaling.factor", 2.0f32), 1445.6038, 3e-3),
        ("LongRoPE, long", long(), 1507.1388, 3e-3),
        ("LongRoPE, long, type none", long().set(".rope.scaling.type", "none"), 1507.1388, 3e-3),
    ] {
        let found = perplexity(&file);
        println!("{what:32} {found:10.4}, llama.cpp {expected:10.4}: {:+.1e}", found / expected - 1.0);
        if (found / expected - 1.0).abs() > tolerance {
            failures.push(what);
        }
    }
    assert!(failures.is_empty(), "{failures:?}");
}

// ---- factors that depend on the length of the text ------------------------------------------------------------------

/// All factors of a set, so that the other one cannot be in use unseen.
fn only(set: &str) -> Edited {
    let file = Edited::of(LONG);
    let kept = file.tensors.iter().find(|t| t.name == format!("rope_factors_{set}.weight")).unwrap().bytes.clone();
    let other = if set == "long" { "rope_factors_short.weight" } else { "rope_factors_long.weight" };
    file.tensor(other, |t| t.bytes = kept)
}

/// Logits after `count` tokens, from a session whose context is `context`, fed in pieces of `piece`.
fn fed(file: &Edited, count: u32, context: usize, piece: usize) -> Vec<f32> {
    let model = Model::from_gguf(&file.write()).unwrap();
    let mut session = model.session(SessionOptions { context: Some(context), ..Default::default() });
    let mut logits = Vec::new();
    for tokens in tokens(count).chunks(piece) {
        logits = session.feed(tokens).unwrap().to_vec();
    }
    logits
}

/// The fixture's original context is 16 tokens.
#[test]
fn the_length_of_the_text_chooses_the_factors() {
    let whole = Edited::of(LONG);
    let (short, long) = (only("short"), only("long"));
    assert_ne!(fed(&short, 16, 64, 64), fed(&long, 16, 64, 64));
    for context in [16, 64, 4096] {
        for piece in [1, 5, 64] {
            assert_eq!(fed(&whole, 16, context, piece), fed(&short, 16, 64, 64), "context {context}, piece {piece}");
        }
    }
    // One token more, and all of them are read with the long ones, those before it too.
    for count in [17, 18, 40] {
        for piece in [1, 5, 16, 64] {
            assert_eq!(fed(&whole, count, 64, piece), fed(&long, count, 64, 64), "{count} tokens, piece {piece}");
        }
    }
}

#[test]
fn a_conversation_that_is_rewound_takes_the_short_factors_again() {
    let file = Edited::of(LONG);
    let model = Model::from_gguf(&file.write()).unwrap();
    let mut session = model.session(SessionOptions { context: Some(64), ..Default::default() });
    session.feed(&tokens(30)).unwrap();
    session.rewind(12);
    assert_eq!(session.feed(&[]).unwrap(), fed(&only("short"), 12, 64, 64));
    assert_eq!(session.keep_prefix(&tokens(30)), 12);
    assert_eq!(session.feed(&tokens(30)[12..]).unwrap(), fed(&only("long"), 30, 64, 64));
}

#[test]
fn a_stop_while_a_text_is_read_again_loses_nothing() {
    let file = Edited::of(LONG).set(".rope.scaling.original_context_length", 300u32);
    let model = Model::from_gguf(&file.write()).unwrap();
    let options = || SessionOptions { context: Some(400), ..Default::default() };
    let mut session = model.session(options());
    session.feed(&tokens(290)).unwrap();
    // Now the text crosses, and is stopped at the first look.
    session.feed_while(&tokens(320)[290..], |_| false).unwrap();
    assert_eq!(session.tokens(), tokens(290));
    let again = session.feed(&tokens(320)[290..]).unwrap().to_vec();
    assert_eq!(again, model.session(options()).feed(&tokens(320)).unwrap());
}

#[test]
fn all_logits_of_a_call_have_the_factors_of_its_end() {
    let (whole, long) = (model(&Edited::of(LONG)), model(&only("long")));
    let all = |model: &Transformer, pieces: &[usize], expected: usize| {
        let (mut state, mut first, mut logits) = (model.state(Some(64)), 0, Vec::new());
        state.expect(expected);
        for piece in pieces {
            logits.extend_from_slice(
                model.forward(&mut state, &Serial, &tokens(24)[first..first + piece], Logits::All).unwrap(),
            );
            first += piece;
        }
        logits
    };
    let expected = all(&long, &[24], 0);
    assert_eq!(all(&whole, &[24], 0), expected);
    assert_eq!(all(&whole, &[3, 5, 16], 24), expected);
    // Untold, the first call ends before the text is long.
    let untold = all(&whole, &[8, 16], 0);
    let vocabulary = whole.vocabulary();
    assert_ne!(untold[..8 * vocabulary], expected[..8 * vocabulary]);
    assert_eq!(untold[8 * vocabulary..], expected[8 * vocabulary..]);
}

#[test]
fn sets_of_factors_are_used_as_llama_cpp_uses_them() {
    // Of Phi-3 whatever the type says, of others where it says longrope or nothing.
    let long = |file: Edited| config(&file).rope.unwrap().long.is_some();
    assert!(long(Edited::of(LONG)) && long(Edited::of(LONG).set(".rope.scaling.type", "none")));
    assert!(long(Edited::of(LONG).set(".rope.scaling.type", "longrope")));
    let sets = |file: Edited| {
        let factors = Edited::of(LONG).tensors.into_iter().filter(|t| t.name.starts_with("rope_factors"));
        factors.fold(file, Edited::with_tensor)
    };
    let typed = |kind: &str| sets(Edited::of(LLAMA).set(".rope.scaling.type", kind));
    assert!(long(sets(Edited::of(LLAMA))) && long(typed("longrope")) && !long(typed("linear")));
    // A factor beside them divides positions.
    let both = Edited::of(LONG).set(".rope.scaling.factor", 2.0f32);
    assert_eq!(config(&both).rope.unwrap().scaling, RopeScaling::Linear { factor: 2.0 });
    assert_ne!(logits(&both), logits(&Edited::of(LONG)));
}
