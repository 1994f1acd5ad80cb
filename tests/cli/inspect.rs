//! `sterna inspect` on files made here.

use predicates::prelude::*;
use sterna_core::formats::Format;
use sterna_core::gguf::Metadata;
use tempfile::TempDir;

use crate::support::{gguf, size, stdout, sterna};

#[test]
fn bits_per_weight_types_and_refusals_are_reported() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("m.gguf");
    let mut metadata = Metadata::new();
    metadata.insert("general.architecture", "mamba");
    metadata.insert("evil", "\u{1b}[2J");
    let tensors: [(&str, &[u64], u32, u64); 4] = [
        ("token_embd.weight", &[256, 8], 1, size(Format::F16, 256, 8)),
        ("blk.0.attn_q.weight", &[256, 4], 35, size(Format::TQ2_0, 256, 4)),
        ("blk.0.ffn_up.weight", &[256, 64], 42, size(Format::Q2_0G128, 256, 64)),
        ("blk.0.ffn_down.weight", &[256, 4], 134, 416),
    ];
    std::fs::write(&path, gguf(&metadata, &tensors)).unwrap();

    let json: serde_json::Value =
        serde_json::from_str(&stdout(sterna().arg("inspect").arg(&path).arg("--json"))).unwrap();
    assert_eq!(json["runs"], false);
    assert_eq!(json["tensors"][0]["bits_per_weight"], 16.0);
    assert_eq!(json["tensors"][1]["bits_per_weight"], 2.0625);
    assert_eq!(json["tensors"][2]["type"], "Q2_0 (group 128)");
    assert_eq!(json["tensors"][2]["bits_per_weight"], 2.125);
    assert!(json["tensors"][2]["note"].as_str().unwrap().contains("128"));
    let refusals = json["refusals"].to_string();
    assert!(refusals.contains("IQ1_BN") && refusals.contains("mamba"), "{refusals}");

    let text = stdout(sterna().arg("inspect").arg(&path));
    assert!(text.contains("refused: ") && text.contains("feed-forward") && text.contains("in all"), "{text}");
    assert!(!text.contains('\u{1b}'), "escape sequences of the file reached the terminal");
}

#[test]
fn a_cut_file_is_one_clear_error() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("m.gguf");
    let whole = std::fs::read("../core/tests/data/models/llama-tq2_0.gguf").unwrap();
    std::fs::write(&path, &whole[..whole.len() - 30_000]).unwrap();
    let named = |text: &str| text.contains("blk.0.ffn_down.weight") && text.contains("cut short");
    let text = stdout(sterna().arg("inspect").arg(&path));
    assert!(text.lines().any(|line| line.starts_with("refused: ") && named(line)), "{text}");
    let error = predicate::function(move |text: &str| text.lines().count() == 1 && named(text));
    sterna()
        .arg("run")
        .arg(&path)
        .assert()
        .code(1)
        .stdout("")
        .stderr(predicate::str::starts_with("error: ").and(predicate::str::contains("m.gguf")).and(error));
}

#[test]
fn memory_and_warnings_are_reported() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("m.gguf");
    std::fs::copy("../core/tests/data/models/llama-tq2_0.gguf", &path).unwrap();
    let json: serde_json::Value =
        serde_json::from_str(&stdout(sterna().arg("inspect").arg(&path).arg("--json"))).unwrap();
    let memory = |key: &str| json["memory"][key].as_u64().unwrap();
    // Two bytes for each element of keys and values of one layer: 2 heads of 64.
    assert_eq!((memory("context"), memory("cache")), (256, 256 * 2 * 2 * 64 * 2));
    assert_eq!(memory("total"), memory("weights") + memory("text") + memory("scratch") + memory("cache"));
    assert!(memory("weights") > 200_000 && memory("available") > memory("total"));
    assert_eq!(json["memory"]["fits"], true);
    let text = stdout(sterna().arg("inspect").arg(&path));
    assert!(text.contains("\nmemory\n") && text.contains("available on this machine"), "{text}");
}
