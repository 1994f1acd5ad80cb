//! Files that are wrong in one way each, through the whole load: one clear error that names the key or tensor, the offset and
//! the remedy. Then files that are odd but not wrong, and many that are damaged at random: never a panic. What is wrong with
//! the container alone is in tests/gguf.rs.

mod edited;

use edited::{Edited, Tensor, fixture};
use std::time::{Duration, Instant};
use sterna_core::formats::{Format, FormatError};
use sterna_core::generate::GenerateError;
use sterna_core::gguf::{Gguf, GgufError};
use sterna_core::model::{ModelError, refusals};
use sterna_core::tokenizer::EncodeOptions;
use sterna_core::{Error, Model, SessionOptions};

/// Loads and runs two tokens: the first and the last of the vocabulary.
fn run(bytes: &[u8]) -> Result<Vec<f32>, Error> {
    let model = Model::from_gguf(bytes)?;
    let last = model.transformer().vocabulary() as u32 - 1;
    let mut session = model.session(SessionOptions::default());
    Ok(session.feed(&[0, last])?.to_vec())
}

fn loads(file: &Edited) -> Vec<f32> {
    run(&file.write()).unwrap_or_else(|error| panic!("refused: {error}"))
}

/// The error of a file, whose message must hold `name` and say what to do.
fn refused(file: &Edited, name: &str) -> Error {
    refused_bytes(&file.write(), name)
}

fn refused_bytes(bytes: &[u8], name: &str) -> Error {
    let error = Model::from_gguf(bytes).expect_err("accepted");
    let message = error.to_string();
    assert!(message.contains(name), "{name} is not named: {message}");
    let remedies = ["convert", "download", "use ", "remove", "quantize", "check", "encode", "store"];
    assert!(remedies.iter().any(|remedy| message.to_lowercase().contains(remedy)), "no remedy: {message}");
    error
}

/// As [`refused`], for what the header alone tells: inspection finds the same, before any tensor is read.
fn refused_early(file: &Edited, name: &str) -> ModelError {
    let bytes = file.write();
    let message = refused_bytes(&bytes, name).to_string();
    let found = refusals(Gguf::parse(&bytes).unwrap().header()).swap_remove(0);
    assert_eq!(found.to_string(), message);
    found
}

/// [`refused_early`] with the offset of a tensor in the message.
fn refused_at(file: &Edited, name: &str) -> ModelError {
    let bytes = file.write();
    let offset = Gguf::parse(&bytes).unwrap().tensor(name).unwrap().offset;
    let error = refused_early(file, name);
    assert!(error.to_string().contains(&offset.to_string()), "no offset: {error}");
    error
}

macro_rules! assert_matches {
    ($value:expr, $($pattern:tt)+) => {{
        let value = $value;
        assert!(matches!(&value, $($pattern)+), "{value:?}");
    }};
}

const LLAMA: &str = "llama-tq2_0";

// ---- hyperparameters ------------------------------------------------------------------------------------------------

#[test]
fn unknown_architecture() {
    let file = Edited::of(LLAMA).set("general.architecture", "mamba");
    assert_matches!(refused_early(&file, "mamba"), ModelError::UnknownArchitecture { name, .. } if name == "mamba");
    let file = Edited::of(LLAMA).without("general.architecture");
    assert_matches!(refused_early(&file, "general.architecture"), ModelError::Gguf(GgufError::MissingKey { .. }));
    let file = Edited::of(LLAMA).set("general.architecture", 7u32);
    assert_matches!(refused_early(&file, "general.architecture"), ModelError::Gguf(GgufError::WrongType { .. }));
}

const SIZES: [&str; 5] =
    [".block_count", ".context_length", ".embedding_length", ".feed_forward_length", ".attention.head_count"];
const OPTIONAL_SIZES: [&str; 4] =
    [".attention.head_count_kv", ".attention.key_length", ".attention.value_length", ".rope.dimension_count"];

#[test]
fn missing_hyperparameter() {
    for key in SIZES.into_iter().chain([".attention.layer_norm_rms_epsilon"]) {
        let file = Edited::of(LLAMA).without(key);
        let key = file.key(key);
        assert_matches!(refused_early(&file, &key), ModelError::Gguf(GgufError::MissingKey { key: k }) if *k == key);
    }
}

#[test]
fn hyperparameter_of_a_wrong_type() {
    for key in SIZES.into_iter().chain(OPTIONAL_SIZES).chain([".attention.sliding_window"]) {
        for file in [
            Edited::of(LLAMA).set(key, "four"),
            Edited::of(LLAMA).set(key, 4.0f32),
            Edited::of(LLAMA).set(key, -4i32),
            Edited::of(LLAMA).set(key, vec!["4"]),
        ] {
            let key = file.key(key);
            assert_matches!(
                refused_early(&file, &key),
                ModelError::Gguf(GgufError::WrongType { key: k, .. }) if *k == key
            );
        }
    }
    let floats = [".attention.layer_norm_rms_epsilon", ".rope.freq_base", ".attention.scale", ".rope.scale_linear"];
    for key in floats {
        let file = Edited::of(LLAMA).set(key, "small");
        let key = file.key(key);
        assert_matches!(refused_early(&file, &key), ModelError::Gguf(GgufError::WrongType { .. }));
    }
    let file = Edited::of(LLAMA).set(".rope.scaling.type", 2u32);
    assert_matches!(refused_early(&file, "llama.rope.scaling.type"), ModelError::Gguf(GgufError::WrongType { .. }));
}

#[test]
fn hyperparameter_of_zero() {
    for key in SIZES.into_iter().chain(OPTIONAL_SIZES) {
        let file = Edited::of(LLAMA).set(key, 0u32);
        let key = file.key(key);
        assert_matches!(refused_early(&file, &key), ModelError::BadValue { key: k, .. } if *k == key);
    }
}

#[test]
fn huge_hyperparameter() {
    for key in SIZES.into_iter().chain(OPTIONAL_SIZES) {
        for value in [u64::from(u32::MAX), 1 << 63, u64::MAX, 1 << 25] {
            let file = Edited::of(LLAMA).set(key, value);
            let key = file.key(key);
            assert_matches!(refused_early(&file, &key), ModelError::BadValue { key: k, .. } if *k == key);
        }
    }
}

#[test]
fn heads_whose_product_is_huge() {
    let file = Edited::of(LLAMA)
        .set(".attention.head_count", 1u32 << 16)
        .set(".attention.head_count_kv", 1u32)
        .set(".attention.key_length", 1u32 << 16)
        .without(".attention.value_length");
    assert_matches!(refused_early(&file, "llama.attention.head_count"), ModelError::BadValue { .. });
}

#[test]
fn heads_that_do_not_divide() {
    for kv in [3u32, 8] {
        let file = Edited::of(LLAMA).set(".attention.head_count_kv", kv);
        assert_matches!(refused_early(&file, "llama.attention.head_count_kv"), ModelError::BadValue { .. });
    }
    let file = Edited::of(LLAMA)
        .without(".attention.key_length")
        .without(".attention.value_length")
        .without(".attention.head_count_kv")
        .set(".attention.head_count", 7u32);
    assert_matches!(refused_early(&file, "llama.attention.head_count"), ModelError::BadValue { .. });
}

#[test]
fn values_of_another_length_than_keys() {
    let file = Edited::of(LLAMA).set(".attention.value_length", 32u32);
    assert_matches!(refused_early(&file, "llama.attention.value_length"), ModelError::BadValue { .. });
}

#[test]
fn rope_dimension_odd_or_too_large() {
    for rotated in [1u32, 63, 66, 128] {
        let file = Edited::of(LLAMA).set(".rope.dimension_count", rotated);
        assert_matches!(refused_early(&file, "llama.rope.dimension_count"), ModelError::BadValue { .. });
    }
}

#[test]
fn epsilon_that_is_none() {
    for eps in [f32::NAN, f32::INFINITY, -1e-5, 0.0, 1.0] {
        let file = Edited::of(LLAMA).set(".attention.layer_norm_rms_epsilon", eps);
        assert_matches!(refused_early(&file, "llama.attention.layer_norm_rms_epsilon"), ModelError::BadValue { .. });
    }
    let file = Edited::of("gpt2-tq2_0").set(".attention.layer_norm_epsilon", f64::NAN);
    assert_matches!(refused_early(&file, "gpt2.attention.layer_norm_epsilon"), ModelError::BadValue { .. });
}

#[test]
fn streams_that_no_model_has() {
    let name = "sterna-hc2-q2_0";
    for streams in [3u32, 5, 8, 1 << 24] {
        let file = Edited::of(name).set(".hyper_connections", streams);
        assert_matches!(
            refused_early(&file, "sterna.hyper_connections"),
            ModelError::BadValue { value, expected, .. } if *value == streams.to_string() && expected == "must be 1, 2 or 4"
        );
    }
    let file = Edited::of(name).set(".hyper_connections", 0u32);
    assert_matches!(refused_early(&file, "sterna.hyper_connections"), ModelError::BadValue { .. });
    let file = Edited::of(name).set(".hyper_connections", "two");
    assert_matches!(refused_early(&file, "sterna.hyper_connections"), ModelError::Gguf(GgufError::WrongType { .. }));
    // Connections for streams that there are not, and streams without connections of their size.
    let file = Edited::of(name).without(".hyper_connections");
    assert_matches!(refused_early(&file, "blk.0.attn_hc.weight"), ModelError::UnexpectedTensor { .. });
    let file = Edited::of(name).set(".hyper_connections", 4u32);
    assert_matches!(refused_early(&file, "blk.0.attn_hc.weight"), ModelError::Shape { .. });
    let file = Edited::of(LLAMA).set(".hyper_connections", 2u32);
    assert_matches!(refused_early(&file, "llama.hyper_connections"), ModelError::BadValue { .. });
    loads(&Edited::of(LLAMA).set(".hyper_connections", 1u32));
}

#[test]
fn a_connection_that_is_quantized() {
    let file = Edited::of("sterna-hc4-tq2_0").tensor("blk.1.ffn_hc.weight", |t| {
        t.type_id = Format::TQ2_0.type_id();
        t.bytes = vec![0; Format::TQ2_0.tensor_bytes(t.dims[1], t.dims[0]).unwrap() as usize];
    });
    assert_matches!(
        refused_at(&file, "blk.1.ffn_hc.weight"),
        ModelError::Placement { place: "the weights of a hyper-connection", .. }
    );
}

#[test]
fn rope_base_that_is_none() {
    for base in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1e4, 0.0, 0.5, 1.0] {
        let file = Edited::of(LLAMA).set(".rope.freq_base", base);
        assert_matches!(refused_early(&file, "llama.rope.freq_base"), ModelError::BadValue { .. });
    }
}

#[test]
fn rope_scaling_that_is_none() {
    let linear = || Edited::of(LLAMA).set(".rope.scaling.type", "linear");
    let yarn = || Edited::of("qwen3-yarn-q2_0-g128");
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -4.0] {
        for file in [linear(), yarn(), Edited::of(LLAMA)] {
            let file = file.set(".rope.scaling.factor", value);
            assert_matches!(refused_early(&file, "rope.scaling.factor"), ModelError::BadValue { .. });
        }
        for key in ["attn_factor", "yarn_beta_fast", "yarn_beta_slow"] {
            let file = yarn().set(&format!(".rope.scaling.{key}"), value);
            assert_matches!(refused_early(&file, key), ModelError::BadValue { .. });
        }
    }
    let file = yarn().set(".rope.scaling.attn_factor", 0.0f32);
    assert_matches!(refused_early(&file, "attn_factor"), ModelError::BadValue { .. });
    let file = linear().set(".rope.scaling.type", "dynamic-ntk");
    assert_matches!(refused_early(&file, "llama.rope.scaling.type"), ModelError::BadValue { .. });
}

#[test]
fn more_layers_than_the_file_can_hold() {
    for layers in [3u32, 1 << 20, 1 << 24] {
        let file = Edited::of(LLAMA).set(".block_count", layers);
        assert_matches!(refused_early(&file, "llama.block_count"), ModelError::BadValue { .. });
    }
}

#[test]
fn another_number_of_layers_than_there_are_tensors_for() {
    // Two layers in the file.
    let file = Edited::of("llama-tq1_0").set(".block_count", 3u32);
    assert_matches!(refused_early(&file, "blk.2."), ModelError::MissingTensor { .. });
    let file = Edited::of("llama-tq1_0").set(".block_count", 1u32);
    assert_matches!(refused_early(&file, "blk.1."), ModelError::UnexpectedTensor { .. });
}

#[test]
fn what_must_not_be_ignored() {
    let file = Edited::of(LLAMA).set("prism.hadamard.block_size", 128u32);
    assert_matches!(refused_early(&file, "prism.hadamard.block_size"), ModelError::Unsupported { .. });
    for file in [
        Edited::of(LLAMA).set(".expert_count", 8u32),
        Edited::of(LLAMA).set(".expert_count", -1i32),
        Edited::of(LLAMA).set(".expert_count", "8"),
    ] {
        assert_matches!(refused_early(&file, "llama.expert_count"), ModelError::Unsupported { .. });
    }
    loads(&Edited::of(LLAMA).set(".expert_count", 0u32));
    for key in [".expert_used_count", ".expert_group_count", ".nextn_predict_layers"] {
        let file = Edited::of(LLAMA).set(key, 2u32);
        assert_matches!(refused_early(&file, &file.key(key)), ModelError::Unsupported { .. });
        loads(&file.set(key, 0u32));
    }
    let file = Edited::of(LLAMA).set(".attention.causal", false);
    assert_matches!(refused_early(&file, "llama.attention.causal"), ModelError::Unsupported { .. });
    loads(&file.set(".attention.causal", true));
    let file = Edited::of(LLAMA).set(".attention.causal", "no");
    assert_matches!(refused_early(&file, "llama.attention.causal"), ModelError::Gguf(GgufError::WrongType { .. }));
    // Of Sterna's own architecture no other program says what such keys do.
    let file = Edited::of("sterna-hc2-q2_0").set(".attention.clamp_kqv", 1.0f32);
    assert_matches!(refused_early(&file, "sterna.attention.clamp_kqv"), ModelError::Unsupported { .. });
}

#[test]
fn layers_that_are_not_alike() {
    // Two layers in the file.
    let file = || Edited::of("llama-tq1_0");
    for key in [".feed_forward_length", ".attention.head_count", ".attention.head_count_kv"] {
        let unlike = file().set(key, vec![4u32, 2]);
        assert_matches!(refused_early(&unlike, &unlike.key(key)), ModelError::Unsupported { .. });
        for length in [0, 1, 3, 1 << 16] {
            let other = file().set(key, vec![4u32; length]);
            assert_matches!(refused_early(&other, &other.key(key)), ModelError::BadValue { .. });
        }
        let none = file().set(key, vec![0u32, 0]);
        assert_matches!(refused_early(&none, &none.key(key)), ModelError::BadValue { .. });
    }
    let windowed = || file().set(".attention.sliding_window", 8u32);
    let key = ".attention.sliding_window_pattern";
    for mixed in [windowed().set(key, 2u32), windowed().set(key, vec![true, false]), windowed().set(key, vec![0u32, 1])]
    {
        assert_matches!(
            refused_early(&mixed, "llama.attention.sliding_window_pattern"),
            ModelError::Unsupported { .. }
        );
    }
    for wrong in [windowed().set(key, vec![true]), windowed().set(key, vec![true; 3])] {
        assert_matches!(refused_early(&wrong, "llama.attention.sliding_window_pattern"), ModelError::BadValue { .. });
    }
    for wrong in [windowed().set(key, "all"), windowed().set(key, true), windowed().set(key, vec!["a", "b"])] {
        let error = refused_early(&wrong, "llama.attention.sliding_window_pattern");
        assert_matches!(error, ModelError::Gguf(GgufError::WrongType { .. }));
    }
}

// ---- tensors --------------------------------------------------------------------------------------------------------

#[test]
fn each_tensor_missing() {
    let names = [LLAMA, "bitnet-tq2_0-scale", "qwen3-tq2_0", "phi3-long-tq2_0", "gpt2-tq2_0", "llama3-tq2_0-uniform"];
    for name in names.into_iter().chain(["sterna-hc2-q2_0"]) {
        for Tensor { name: tensor, .. } in Edited::of(name).tensors {
            let file = Edited::of(name).without_tensor(&tensor);
            // The embedding serves as output; factors and scales are one where there are none.
            let scale = tensor.ends_with(".scale") && !tensor.ends_with("_hc.scale");
            if tensor == "output.weight" || tensor == "rope_freqs.weight" || scale {
                loads(&file);
                continue;
            }
            let error = refused_early(&file, &tensor);
            assert_matches!(error, ModelError::MissingTensor { name, .. } if *name == tensor);
        }
    }
}

#[test]
fn each_tensor_twice_as_large() {
    for name in [LLAMA, "llama-i2_s", "phi3-q2_0", "gpt2-f32", "sterna-hc2-q2_0"] {
        for Tensor { name: tensor, dims, .. } in Edited::of(name).tensors {
            for dim in 0..dims.len() {
                let file = Edited::of(name).tensor(&tensor, |t| {
                    t.dims[dim] *= 2;
                    let tail = if t.type_id == Format::I2_S.type_id() { 32 } else { 0 };
                    t.bytes = t.bytes.repeat(2);
                    t.bytes.truncate(t.bytes.len() - tail);
                });
                // Their number of rows is theirs to say.
                if ["token_embd.weight", "position_embd.weight"].contains(&tensor.as_str()) && dim == 1 {
                    continue;
                }
                assert_matches!(refused_at(&file, &tensor), ModelError::Shape { name, .. } if *name == tensor);
            }
        }
    }
}

#[test]
fn a_matrix_transposed_or_folded() {
    let transposed = |file: &str| Edited::of(file).tensor("blk.0.attn_k.weight", |t| t.dims.reverse());
    assert_matches!(
        refused_at(&transposed("llama-f16"), "blk.0.attn_k.weight"),
        ModelError::Shape { found, .. } if found == "96 x 32"
    );
    assert_matches!(
        refused_at(&transposed(LLAMA), "blk.0.attn_k.weight"),
        ModelError::Format(FormatError::RaggedRow { cols: 128, format: Format::TQ2_0, .. })
    );
    for dims in [vec![256, 64, 2], vec![256, 1, 128], vec![256, 64, 1, 2]] {
        let folded = Edited::of(LLAMA).tensor("blk.0.attn_k.weight", |t| t.dims = dims);
        assert_matches!(refused_at(&folded, "blk.0.attn_k.weight"), ModelError::Shape { .. });
    }
}

#[test]
fn dimensions_beyond_the_bytes() {
    let file = Edited::of(LLAMA).tensor("blk.0.ffn_up.weight", |t| t.dims[1] = 1 << 40);
    assert_matches!(refused_at(&file, "blk.0.ffn_up.weight"), ModelError::Format(FormatError::TooSmall { .. }));
    let file = Edited::of(LLAMA).tensor("token_embd.weight", |t| t.dims[1] = 1 << 52);
    assert_matches!(refused_at(&file, "token_embd.weight"), ModelError::Format(FormatError::TooSmall { .. }));
}

#[test]
fn types_that_are_refused_by_name() {
    for (type_id, type_name) in [(38, "TL1"), (39, "TL2"), (134, "IQ1_BN"), (135, "IQ2_BN"), (37, "I8_S"), (10, "Q2_K")]
    {
        let file = Edited::of(LLAMA).tensor("blk.0.ffn_up.weight", |t| t.type_id = type_id);
        let error = refused_at(&file, "blk.0.ffn_up.weight");
        assert!(error.to_string().contains(type_name), "{error}");
        assert_matches!(error, ModelError::Format(FormatError::Unsupported { .. }));
    }
    let file = Edited::of(LLAMA).tensor("blk.0.ffn_up.weight", |t| {
        t.type_id = 42;
        t.bytes.truncate(t.bytes.len() / 66 * 42);
    });
    assert_matches!(
        refused_at(&file, "blk.0.ffn_up.weight"),
        ModelError::Format(FormatError::Unsupported { type_name: "STQ1_0", .. })
    );
    let file = Edited::of(LLAMA).tensor("blk.0.ffn_up.weight", |t| t.type_id = 77);
    assert_matches!(refused_at(&file, "blk.0.ffn_up.weight"), ModelError::Format(FormatError::UnknownType { .. }));
}

#[test]
fn a_type_of_another_size_than_its_bytes() {
    // 54 bytes a block as TQ1_0, in a tensor that has 66.
    let file = Edited::of(LLAMA).tensor("blk.0.ffn_up.weight", |t| t.type_id = Format::TQ1_0.type_id());
    assert_matches!(refused_at(&file, "blk.0.ffn_up.weight"), ModelError::Format(FormatError::TooLarge { .. }));
    let file = Edited::of(LLAMA).tensor("blk.0.ffn_up.weight", |t| t.type_id = Format::F16.type_id());
    assert_matches!(refused_at(&file, "blk.0.ffn_up.weight"), ModelError::Format(FormatError::TooSmall { .. }));
}

#[test]
fn a_norm_that_is_quantized() {
    for (format, fill) in [(Format::Q8_0, 1), (Format::TQ2_0, 0)] {
        let file = Edited::of(LLAMA).tensor("blk.0.attn_norm.weight", |t| {
            t.type_id = format.type_id();
            t.bytes = vec![fill; format.tensor_bytes(1, 256).unwrap() as usize];
        });
        assert_matches!(refused_at(&file, "blk.0.attn_norm.weight"), ModelError::Placement { .. });
    }
}

#[test]
fn a_tensor_of_another_architecture() {
    for name in
        ["blk.0.attn_sub_norm.weight", "position_embd.weight", "blk.0.ffn_gate_exps.weight", "x"].into_iter().chain([
            "blk.00.attn_norm.weight",
            "blk.+0.attn_norm.weight",
            "blk.*.attn_norm.weight",
            "blk.1.attn_norm.weight",
        ])
    {
        let file = Edited::of(LLAMA).with_tensor(Tensor::f32s(name, &[1.0; 256]));
        assert_matches!(refused_early(&file, name), ModelError::UnexpectedTensor { name: n, .. } if n == name);
    }
}

#[test]
fn an_output_for_another_vocabulary() {
    let file = Edited::of(LLAMA).tensor("output.weight", |t| {
        let row = t.bytes.len() / t.dims[1] as usize;
        t.dims[1] -= 1;
        t.bytes.truncate(t.bytes.len() - row);
    });
    assert_matches!(refused_at(&file, "output.weight"), ModelError::Shape { .. });
}

#[test]
fn rope_factors_that_are_missing_or_none() {
    let phi = || Edited::of("phi3-long-tq2_0");
    for set in ["rope_factors_long.weight", "rope_factors_short.weight"] {
        let file = phi().without_tensor(set);
        assert_matches!(refused_early(&file, set), ModelError::MissingTensor { name, .. } if name == set);
        assert_divisors(phi, set);
    }
    let file = Edited::of(LLAMA).set(".rope.scaling.type", "longrope");
    assert_matches!(refused_early(&file, "rope_factors_long.weight"), ModelError::MissingTensor { .. });
    assert_divisors(|| Edited::of("llama3-tq2_0-uniform"), "rope_freqs.weight");
}

/// Frequencies are divided by the tensor.
fn assert_divisors(file: impl Fn() -> Edited, tensor: &str) {
    let with =
        |value: f32| file().tensor(tensor, |t| t.bytes.as_chunks_mut::<4>().0[3].copy_from_slice(&value.to_le_bytes()));
    for value in [0.0, -0.0, -1.0] {
        let error = refused(&with(value), tensor);
        assert_matches!(error, Error::Model(ModelError::NotPositive { element: 3, .. }));
    }
    for value in [f32::NAN, f32::INFINITY] {
        let error = refused(&with(value), tensor);
        assert_matches!(error, Error::Model(ModelError::NotFinite { element: 3, .. }));
    }
}

// ---- tensor data ----------------------------------------------------------------------------------------------------

const BAD_F16: [u16; 4] = [0x7c00, 0xfc00, 0x7e00, 0xfdff];

/// Puts infinities and NaN into a scale of a tensor's last block but one.
fn assert_scales_checked(name: &str, tensor: &str) {
    let bytes = fixture(name);
    let format = Format::identify(Gguf::parse(&bytes).unwrap().tensor(tensor).unwrap()).unwrap();
    for bits in BAD_F16 {
        for place in format.scale_places() {
            let mut at = 0;
            let file = Edited::of(name).tensor(tensor, |t| {
                at = t.bytes.len() / format.block_bytes() - 2;
                t.bytes[at * format.block_bytes() + place..][..2].copy_from_slice(&bits.to_le_bytes());
            });
            let bytes = file.write();
            let offset = Gguf::parse(&bytes).unwrap().tensor(tensor).unwrap().offset.to_string();
            let error = refused_bytes(&bytes, tensor);
            assert!(error.to_string().contains(&offset), "{error}");
            match error {
                Error::Model(ModelError::Tensor { source: FormatError::BadScale { block, .. }, .. }) => {
                    assert_eq!(block, at, "{name}");
                }
                other => panic!("{name}: {other:?}"),
            }
        }
    }
}

#[test]
fn scales_that_are_not_finite_in_every_ternary_format() {
    for name in
        ["llama-tq1_0", "llama-tq2_0", "llama-q2_0", "llama-q2_0-g128", "llama-pq2_0", "llama-ptq1_0", "llama-q1_0"]
    {
        assert_scales_checked(name, "blk.0.ffn_down.weight");
    }
    // Ternary embeddings.
    assert_scales_checked("llama-q2_0-g128", "token_embd.weight");
    assert_scales_checked("llama-q1_0", "token_embd.weight");
}

#[test]
fn scales_that_are_not_finite_in_companions() {
    for (name, tensor) in [
        ("llama-q8_0", "token_embd.weight"),
        ("llama-tq1_0", "token_embd.weight"),
        ("llama3-tq2_0-uniform", "token_embd.weight"),
        ("llama-ptq1_0", "token_embd.weight"),
        ("qwen3-tq2_0", "output.weight"),
    ] {
        assert_scales_checked(name, tensor);
    }
}

#[test]
fn the_scale_of_an_i2_s_tensor() {
    for scale in [f32::NAN, f32::INFINITY] {
        let file = Edited::of("llama-i2_s").tensor("blk.0.ffn_down.weight", |t| {
            let at = t.bytes.len() - 32;
            t.bytes[at..][..4].copy_from_slice(&scale.to_le_bytes());
        });
        assert_matches!(
            refused(&file, "blk.0.ffn_down.weight"),
            Error::Model(ModelError::Tensor {
                source: FormatError::BadScale { format: Format::I2_S, block: 0, .. },
                ..
            })
        );
    }
}

#[test]
fn floats_that_are_not_finite() {
    let last = |t: &mut Tensor, bits: &[u8]| {
        let at = t.bytes.len() - bits.len();
        t.bytes[at..].copy_from_slice(bits);
    };
    let nan = f32::NAN.to_le_bytes();
    for (name, tensor, bits) in [
        ("llama-f16", "token_embd.weight", &[0x00, 0x7e][..]),
        ("llama-f16", "blk.1.ffn_up.weight", &[0x00, 0xfc][..]),
        ("phi3-long-tq2_0", "token_embd.weight", &[0x00, 0x7c][..]),
        ("llama-ptq1_0", "output.weight", &[0x80, 0x7f][..]),
        ("gpt2-f32", "token_embd.weight", &nan[..]),
        ("gpt2-f32", "position_embd.weight", &nan[..]),
        ("gpt2-tq2_0", "blk.0.attn_qkv.bias", &nan[..]),
        ("bitnet-tq2_0-scale", "blk.0.attn_q.scale", &nan[..]),
        (LLAMA, "blk.0.attn_norm.weight", &nan[..]),
        (LLAMA, "output_norm.weight", &nan[..]),
        ("qwen3-tq2_0", "blk.0.attn_q_norm.weight", &nan[..]),
    ] {
        let mut elements = 0;
        let file = Edited::of(name).tensor(tensor, |t| {
            last(t, bits);
            elements = t.dims.iter().product::<u64>() as usize;
        });
        match refused(&file, tensor) {
            Error::Model(ModelError::NotFinite { element, .. }) => assert_eq!(element, elements - 1, "{name} {tensor}"),
            other => panic!("{name} {tensor}: {other:?}"),
        }
    }
}

#[test]
fn a_file_that_ends_within_its_last_tensor() {
    for name in [LLAMA, "llama-i2_s", "llama-q8_0", "gpt2-f32"] {
        let bytes = Edited::of(name).write();
        let last = Gguf::parse(&bytes).unwrap().header().tensors.iter().max_by_key(|info| info.offset).unwrap().clone();
        for end in [last.offset + 1, last.offset + last.size / 2, bytes.len() as u64 - 64] {
            let error = refused_bytes(&bytes[..end as usize], &last.name);
            assert!(error.to_string().contains(&last.offset.to_string()), "{error}");
            assert_matches!(error, Error::Model(ModelError::Format(FormatError::TooSmall { .. })));
        }
        let error = refused_bytes(&bytes[..last.offset as usize], &last.name);
        assert_matches!(error, Error::Gguf(GgufError::TensorBeyondEnd { .. }));
    }
}

#[test]
fn values_that_overflow_are_an_error_of_sampling_not_a_panic() {
    let file = Edited::of("llama-f16").tensor("blk.0.attn_norm.weight", |t| {
        t.bytes.as_chunks_mut::<4>().0.iter_mut().for_each(|value| *value = 3e38f32.to_le_bytes());
    });
    let model = Model::from_gguf(&file.write()).unwrap();
    let mut session = model.session(SessionOptions::default());
    session.feed(&[0, 1]).unwrap();
    let error = session.draw(&mut sterna_core::generate::Sampler::new(Default::default())).unwrap_err();
    assert!(error.to_string().contains("not a number"), "{error}");
}

// ---- the vocabulary -------------------------------------------------------------------------------------------------

#[test]
fn a_tokenizer_of_another_size() {
    let file = Edited::of(LLAMA);
    let tokens = file.metadata.strings("tokenizer.ggml.tokens").unwrap().to_vec();
    let rows = file.tensors.iter().find(|t| t.name == "token_embd.weight").unwrap().dims[1] as usize;

    let mut more = tokens.clone();
    more.extend((tokens.len()..=rows).map(|i| format!("more{i}")));
    let file = file.set("tokenizer.ggml.tokens", more.clone());
    let counts = (rows as u64, more.len() as u64);
    assert_matches!(
        refused_at(&file, "token_embd.weight"),
        ModelError::Vocabulary { rows, tokens, .. } if (*rows, *tokens) == counts
    );

    // An embedding that is padded.
    let padded = Edited::of(LLAMA).tensor("output.weight", double_rows).tensor("token_embd.weight", double_rows);
    let model = Model::from_gguf(&padded.write()).unwrap();
    let last = model.transformer().vocabulary() as u32 - 1;
    let counts = format!("the vocabulary has {} tokens and the embedding {} rows", last.div_ceil(2), last + 1);
    let warned =
        |model: &Model| model.warnings().iter().filter(|warning| warning.contains("and the embedding")).count();
    assert!(model.warnings().iter().any(|warning| warning.contains(&counts)), "{:?}", model.warnings());
    assert_eq!((warned(&model), warned(&Model::from_gguf(&Edited::of(LLAMA).write()).unwrap())), (1, 0));
    assert_eq!(model.tokenizer().unwrap().decode(&[last], false), "\u{fffd}");
    assert_eq!(model.session(SessionOptions::default()).feed(&[last]).unwrap().len(), last as usize + 1);
}

/// Tokens beyond the embedding that stand for nothing are no reason to refuse a file, and no text becomes them.
#[test]
fn padding_without_rows() {
    let file = Edited::of(LLAMA);
    let rows = file.tensors.iter().find(|t| t.name == "token_embd.weight").unwrap().dims[1] as usize;
    let mut tokens = file.metadata.strings("tokenizer.ggml.tokens").unwrap().to_vec();
    tokens.extend((tokens.len()..rows + 2).map(|i| format!("[PAD{i}]")));
    let mut types = file.metadata.i32s("tokenizer.ggml.token_type").unwrap().to_vec();
    types.resize(tokens.len(), 4);
    let mut file = file.set("tokenizer.ggml.tokens", tokens.clone()).set("tokenizer.ggml.token_type", types);
    if let Some(scores) = file.metadata.f32s("tokenizer.ggml.scores") {
        let mut scores = scores.to_vec();
        scores.resize(tokens.len(), 0.0);
        file = file.set("tokenizer.ggml.scores", scores);
    }
    let model = Model::from_gguf(&file.write()).unwrap();
    assert!(model.warnings()[0].contains(&tokens[rows]), "{:?}", model.warnings());
    let options = EncodeOptions { add_special: true, parse_special: true };
    let ids = model.encode(&tokens[rows..].concat(), options).unwrap();
    assert!(ids.iter().all(|&id| (id as usize) < rows), "{ids:?}");
}

#[test]
fn a_file_without_a_vocabulary() {
    for name in ["none", "no_vocab"] {
        let model = Model::from_gguf(&Edited::of(LLAMA).set("tokenizer.ggml.model", name.to_owned()).write()).unwrap();
        assert_eq!(model.tokenizer().unwrap_err(), GenerateError::NoTokenizer);
        assert!(model.warnings()[0].contains("no tokenizer"), "{:?}", model.warnings());
        model.session(SessionOptions::default()).feed(&[1, 2]).unwrap();
    }
}

#[test]
fn special_ids_beyond_the_vocabulary() {
    let mut file = Edited::of(LLAMA);
    for key in ["eos", "eot", "unknown", "bos", "padding"] {
        file = file.set(&format!("tokenizer.ggml.{key}_token_id"), 1u32 << 30);
    }
    let model = Model::from_gguf(&file.write()).unwrap();
    let about_ids = model.warnings().iter().filter(|warning| warning.contains("_token_id`"));
    assert_eq!(about_ids.count(), 5, "{:?}", model.warnings());
    let ids = model.encode("a", EncodeOptions { add_special: true, parse_special: true }).unwrap();
    model.session(SessionOptions::default()).feed(&ids).unwrap();
}

fn double_rows(t: &mut Tensor) {
    t.dims[1] *= 2;
    t.bytes = t.bytes.repeat(2);
}

// ---- at run time ----------------------------------------------------------------------------------------------------

#[test]
fn a_token_outside_the_vocabulary() {
    let model = Model::from_gguf(&fixture(LLAMA)).unwrap();
    let vocabulary = model.transformer().vocabulary();
    let mut session = model.session(SessionOptions::default());
    for id in [vocabulary as u32, u32::MAX] {
        let error = session.feed(&[1, id]).unwrap_err();
        assert!(error.to_string().contains(&id.to_string()), "{error}");
        assert_matches!(error, Error::Model(ModelError::TokenOutside { .. }));
        assert!(session.tokens().is_empty());
    }
    session.feed(&[1, 2]).unwrap();
}

#[test]
fn a_context_that_is_full() {
    let model = Model::from_gguf(&fixture(LLAMA)).unwrap();
    let mut session = model.session(SessionOptions { context: Some(4), ..Default::default() });
    session.feed(&[1, 2, 3]).unwrap();
    let error = session.feed(&[4, 5]).unwrap_err();
    assert_matches!(error, Error::Model(ModelError::ContextFull { limit: 4, used: 3, more: 2 }));
    assert_eq!(session.tokens(), [1, 2, 3]);
    session.feed(&[4]).unwrap();
    let error = session.draw(&mut sterna_core::generate::Sampler::new(Default::default())).unwrap_err();
    assert_matches!(error, Error::Model(ModelError::ContextFull { limit: 4, used: 4, more: 1 }));

    let mut session = model.session(SessionOptions { context: Some(0), ..Default::default() });
    assert_matches!(session.feed(&[1]), Err(Error::Model(ModelError::ContextFull { limit: 0, used: 0, more: 1 })));

    // Learned positions end where their rows do.
    let model = Model::from_gguf(&fixture("gpt2-f32")).unwrap();
    let rows = model.session(SessionOptions { context: Some(usize::MAX), ..Default::default() }).context();
    let mut session = model.session(SessionOptions { context: Some(usize::MAX), ..Default::default() });
    session.feed(&vec![1; rows]).unwrap();
    assert_matches!(session.feed(&[1]), Err(Error::Model(ModelError::ContextFull { more: 1, .. })));
}

// ---- odd, but not wrong ---------------------------------------------------------------------------------------------

#[test]
fn odd_hyperparameters_run() {
    let many_heads = || {
        // 64 elements of q and 32 of k in heads of two.
        Edited::of("llama-f16")
            .set(".attention.head_count", 32u32)
            .set(".attention.head_count_kv", 16u32)
            .set(".attention.key_length", 2u32)
            .set(".attention.value_length", 2u32)
            .set(".rope.dimension_count", 2u32)
    };
    for (file, finite) in [
        (many_heads(), true),
        (Edited::of("gpt2-f32").set(".attention.head_count", 64u32).set(".attention.head_count_kv", 64u32), true),
        (Edited::of("llama-q2_0").set(".rope.dimension_count", 2u32), true),
        (Edited::of(LLAMA).set(".context_length", 1u32 << 24), true),
        (Edited::of(LLAMA).set(".attention.sliding_window", 1u32), true),
        (Edited::of(LLAMA).set(".attention.sliding_window", u64::MAX), true),
        (Edited::of(LLAMA).set(".attention.layer_norm_rms_epsilon", f32::from_bits(1)), true),
        (Edited::of(LLAMA).set(".attention.layer_norm_rms_epsilon", 0.999f32), true),
        (Edited::of(LLAMA).set(".attention.scale", f32::MIN_POSITIVE), true),
        (Edited::of(LLAMA).set(".attention.scale", f32::MAX), false),
        (Edited::of(LLAMA).set(".rope.freq_base", f32::MAX), true),
        (Edited::of(LLAMA).set(".rope.freq_base", 1.0 + f32::EPSILON), true),
        (Edited::of("llama-i2_s").set(".rope.scaling.factor", f32::MAX), true),
        (Edited::of("llama-i2_s").set(".rope.scaling.factor", f32::from_bits(1)), true),
        (Edited::of("qwen3-yarn-q2_0-g128").set(".rope.scaling.yarn_ext_factor", 0.0f32), true),
        (Edited::of("qwen3-yarn-q2_0-g128").set(".rope.scaling.yarn_beta_fast", f32::from_bits(1)), true),
        (Edited::of("qwen3-yarn-q2_0-g128").set(".rope.scaling.yarn_beta_slow", f32::MAX), true),
        (Edited::of("qwen3-yarn-q2_0-g128").set(".rope.freq_base", 1.0 + f32::EPSILON), true),
        (Edited::of("qwen3-yarn-q2_0-g128").set(".rope.scaling.factor", f32::from_bits(1)), false),
        (Edited::of("phi3-long-tq2_0").set(".rope.scaling.original_context_length", 1u32), true),
    ] {
        let logits = loads(&file);
        assert!(!finite || logits.iter().all(|logit| logit.is_finite()));
    }
}

#[test]
fn a_window_of_one_sees_only_itself() {
    let model = Model::from_gguf(&Edited::of(LLAMA).set(".attention.sliding_window", 1u32).write()).unwrap();
    let logits = |tokens: &[u32]| model.session(SessionOptions::default()).feed(tokens).unwrap().to_vec();
    // Rotation turns query and key alike, and a single value is not weighed.
    assert_eq!(logits(&[5, 9]), logits(&[7, 9]));
    let model = Model::from_gguf(&fixture(LLAMA)).unwrap();
    let logits = |tokens: &[u32]| model.session(SessionOptions::default()).feed(tokens).unwrap().to_vec();
    assert_ne!(logits(&[5, 9]), logits(&[7, 9]));
}

// ---- damaged at random ----------------------------------------------------------------------------------------------

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

#[test]
fn damage_at_random_is_an_error_or_a_model() {
    const EXTREMES: [u64; 10] = [0, 1, 2, 255, 1 << 16, 1 << 24, u32::MAX as u64, 1 << 32, i64::MAX as u64, u64::MAX];
    let (mut ran, mut refused) = (0, 0);
    for (seed, name) in [
        "llama-tq2_0",
        "llama-q2_0-g128",
        "llama3-tq2_0-uniform",
        "bitnet-25-tq1_0",
        "qwen3-yarn-q2_0-g128",
        "phi3-long-i2_s",
        "gpt2-f32",
        "sterna-hc2-q2_0",
    ]
    .into_iter()
    .enumerate()
    {
        let whole = fixture(name);
        let header = Gguf::parse(&whole).unwrap().header().clone();
        // Most of a header is the vocabulary, which takes damage well: hyperparameters and the directory get their share.
        let vocabulary = find(&whole, b"tokenizer.ggml.tokens");
        let directory = find(&whole, b"token_embd.weight");
        let parts =
            [0..vocabulary, directory..header.data_offset as usize, 0..header.data_offset as usize, 0..whole.len()];
        let mut random = Random(seed as u64);
        for case in 0..500 {
            let mut bytes = whole.clone();
            for _ in 0..1 + random.below(3) {
                let part = parts[random.below(parts.len())].clone();
                let at = part.start + random.below(part.len());
                match random.below(4) {
                    0 => bytes[at] ^= 1 << random.below(8),
                    1 => bytes[at] = random.next() as u8,
                    kind => {
                        let value = EXTREMES[random.below(EXTREMES.len())].to_le_bytes();
                        let value = &value[..if kind == 2 { 4 } else { 8 }];
                        let end = bytes.len().min(at + value.len());
                        bytes[at..end].copy_from_slice(&value[..end - at]);
                    }
                }
            }
            let start = Instant::now();
            match run(&bytes) {
                Ok(_) => ran += 1,
                Err(error) => {
                    assert!(error.to_string().len() < 1000, "{error}");
                    refused += 1;
                }
            }
            let took = start.elapsed();
            assert!(took < Duration::from_secs(20), "{name}, case {case}: {took:?}");
        }
    }
    println!("{ran} ran, {refused} refused");
    assert!(ran > 100 && refused > 1000);
}

fn find(bytes: &[u8], text: &[u8]) -> usize {
    bytes.windows(text.len()).position(|window| window == text).unwrap()
}
