//! `sterna pull`, `list`, `remove` and `-hf` against a hub on this machine.

use predicates::prelude::*;
use sterna_core::gguf::Metadata;
use tempfile::TempDir;

use crate::support::{gguf, hub, stdout, sterna};

#[test]
fn a_model_is_pulled_listed_used_and_removed() {
    let dir = TempDir::new().unwrap();
    let server = hub("m-TQ2_0.gguf", gguf(&Metadata::new(), &[("t", &[32], 0, 128)]));
    let command = |words: &[&str]| {
        let mut command = sterna();
        command.env("STERNA_CACHE", dir.path()).env("HF_ENDPOINT", &server).args(words);
        command
    };
    assert_eq!(stdout(&mut command(&["list"])), "");
    command(&["inspect", "-hf", "a/b", "--offline"])
        .assert()
        .code(1)
        .stderr(predicate::str::contains("sterna pull a/b"));

    let path = dir.path().join("models/a/b/m-TQ2_0.gguf");
    assert_eq!(stdout(&mut command(&["pull", "a/b:tq2_0"])).trim_end(), path.display().to_string());
    assert!(path.is_file());
    command(&["pull", "a/b"]).assert().success().stderr(predicate::str::contains("up to date"));

    let table = stdout(&mut command(&["list"]));
    assert!(table.contains("a/b:TQ2_0") && table.contains(path.to_str().unwrap()), "{table}");
    let list: serde_json::Value = serde_json::from_str(&stdout(&mut command(&["ls", "--json"]))).unwrap();
    assert_eq!((list[0]["quant"].as_str(), list[0]["complete"].as_bool()), (Some("TQ2_0"), Some(true)));
    assert!(stdout(&mut command(&["inspect", "-hf", "a/b", "--offline"])).contains("m-TQ2_0.gguf"));

    assert!(stdout(&mut command(&["rm", "a/b"])).contains("removed a/b:TQ2_0"));
    assert!(!path.exists());
    command(&["rm", "a/b"]).assert().code(1);
}

#[test]
fn what_the_hub_refuses_is_said_once_with_a_remedy() {
    let dir = TempDir::new().unwrap();
    let server = hub("m.gguf", Vec::new());
    let mut command = sterna();
    command.env("STERNA_CACHE", dir.path()).env("HF_ENDPOINT", server).args(["pull", "a/other"]);
    command.assert().code(1).stdout("").stderr(predicate::str::contains("not found (404)").count(1));
    sterna().args(["pull", "nonsense"]).assert().code(2).stderr(predicate::str::contains("USER/REPO"));
}
