//! Arguments, messages, exit codes, pipes.

use std::io::Read;
use std::process::{Command, Stdio};

use predicates::prelude::*;

use crate::support::{stdout, sterna};

#[test]
fn without_a_command_it_speaks_from_the_model_inside() {
    let said = stdout(sterna().args(["-s", "7"]));
    assert_eq!(said, stdout(sterna().args(["-s", "7", "-t", "1"])));
    assert_eq!(said.chars().count(), 1000);
    // Speakers in capitals with a colon, alone on their line, and speeches of several lines.
    let speakers = said.lines().filter(|line| line.len() > 3 && line.ends_with(':')).count();
    assert!((3..60).contains(&speakers), "{said}");
    let said = stdout(sterna().args(["-p", "ROMEO:\n", "-n", "30", "-s", "1"]));
    assert!(said.starts_with("ROMEO:\n") && said.chars().count() == 37, "{said}");
    let unknown = predicate::str::contains("ü");
    sterna().args(["-p", "Züge"]).assert().code(1).stderr(unknown);
}

#[test]
fn wrong_usage_is_exit_code_2_and_failure_is_1() {
    sterna().arg("--no-such-flag").assert().code(2);
    sterna().arg("rnu").assert().code(2);
    sterna().args(["run", "a.gguf", "-hf", "a/b"]).assert().code(2);
    sterna().arg("run").assert().code(1).stderr(predicate::str::contains("no model given"));
    sterna()
        .args(["run", "/nonexistent/x.gguf"])
        .assert()
        .code(1)
        .stderr(predicate::str::contains("/nonexistent/x.gguf"));
    sterna().args(["run", "/"]).assert().code(1).stderr(predicate::str::contains("/ is a folder without a GGUF"));
}

#[test]
fn help_and_version_name_the_program() {
    assert!(stdout(sterna().arg("--version")).starts_with("sterna 0."));
    let help = stdout(sterna().arg("--help"));
    for command in
        ["run", "chat", "inspect", "bench", "perplexity", "tokenize", "pull", "list", "remove", "completions"]
    {
        assert!(help.contains(&format!("\n  {command} ")), "{command} is not in the help:\n{help}");
    }
}

#[test]
fn completions_exist_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = stdout(sterna().args(["completions", shell]));
        assert!(script.contains("perplexity") && script.contains("hf-repo"), "{shell}");
    }
}

#[test]
#[cfg(unix)]
fn a_broken_pipe_is_no_error() {
    // The script is longer than a pipe holds, so writing it must fail.
    let mut child = Command::new(env!("CARGO_BIN_EXE_sterna"))
        .args(["completions", "zsh"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((child.wait().unwrap().code(), said.as_str()), (Some(0), ""));
}

#[test]
fn a_character_without_a_token_is_named() {
    let dir = tempfile::TempDir::new().unwrap();
    let mut metadata = sterna_core::gguf::Metadata::new();
    metadata.insert("tokenizer.ggml.model", "gpt2");
    metadata.insert("tokenizer.ggml.pre", "gpt-2");
    metadata.insert("tokenizer.ggml.tokens", vec!["a", "b", "<|endoftext|>"]);
    metadata.insert("tokenizer.ggml.token_type", vec![1i32, 1, 3]);
    metadata.insert("tokenizer.ggml.merges", Vec::<&str>::new());
    let path = dir.path().join("characters.gguf");
    std::fs::write(&path, crate::support::gguf(&metadata, &[("t", &[32], 0, 128)])).unwrap();
    let tokenize = |text: &str| {
        let mut command = sterna();
        command.arg("tokenize").arg(&path).args(["--ids", "-p", text]);
        command.assert()
    };
    tokenize("abba").success().stdout("[0, 1, 1, 0]\n").stderr("");
    tokenize("abbé").code(1).stdout("").stderr(predicate::str::contains("no token for \"é\""));
}
