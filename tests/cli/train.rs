//! `sterna train` on a made-up text: files, outcomes, what goes wrong, and what others read.

use std::time::{Duration, Instant};

use predicates::prelude::*;
use tempfile::TempDir;

use crate::support::{gguf_python, json, read_by_gguf_py, stdout, sterna};

/// A decoder so small that a debug build takes seconds.
const SHAPE: [&str; 14] = [
    "--layers",
    "1",
    "--width",
    "256",
    "--ffn",
    "512",
    "--heads",
    "4",
    "--kv-heads",
    "2",
    "--seq-len",
    "32",
    "--batch-size",
    "4",
];

fn text(dir: &TempDir) -> String {
    let path = dir.path().join("text.txt");
    let line =
        |i: usize| format!("{} hath seen {} rose{}\n", ["the king", "a fool"][i % 2], i * i % 7, ["s", ""][i / 3 % 2]);
    std::fs::write(&path, (0..500).map(line).collect::<String>()).unwrap();
    path.to_str().unwrap().into()
}

#[test]
fn a_run_leaves_a_model_that_perplexity_measures_as_training_did() {
    let dir = TempDir::new().unwrap();
    let (text, out) = (text(&dir), dir.path().join("run"));
    let mut command = sterna();
    command.args(["train", "--text", &text, "--steps", "30", "--group", "256", "--quant", "TQ1_0", "--json", "--out"]);
    let outcome = json(&stdout(command.arg(&out).args(SHAPE)));
    let trained = outcome["held_out"]["loss"].as_f64().unwrap();
    assert_eq!(outcome["steps"], 30);
    let log = std::fs::read_to_string(out.join("log.jsonl")).unwrap();
    assert_eq!(log.lines().count(), 3);
    assert!(json(log.lines().last().unwrap())["held_out"]["loss"].as_f64().is_some_and(|loss| loss == trained));
    assert!(std::fs::read_to_string(out.join("loss.svg")).unwrap().starts_with("<svg"));

    let model = out.join("model.gguf");
    let mut command = sterna();
    command.arg("perplexity").arg("-m").arg(&model).args(["-f", &text, "--split", "0.9", "-c", "32", "--json"]);
    let measured = json(&stdout(&mut command))["nats_per_token"].as_f64().unwrap();
    assert!((measured / trained - 1.0).abs() < 0.002, "{measured} measured, {trained} in training");
    let said = stdout(sterna().arg("run").arg(&model).args(["-p", "the ", "-n", "60", "-s", "1", "--context-shift"]));
    assert_eq!(said.chars().count(), 64);

    // The same again from the settings that were written.
    let again = dir.path().join("again");
    let mut command = sterna();
    command
        .args(["train", "--text", &text, "--json", "--config"])
        .arg(out.join("config.toml"))
        .arg("--out")
        .arg(&again);
    assert_eq!(json(&stdout(&mut command))["held_out"], outcome["held_out"]);
    assert_eq!(std::fs::read(again.join("model.gguf")).unwrap(), std::fs::read(&model).unwrap());
}

#[test]
fn a_killed_run_goes_on() {
    let dir = TempDir::new().unwrap();
    let (text, out, config) = (text(&dir), dir.path().join("run"), dir.path().join("c.toml"));
    std::fs::write(&config, "[run]\ncheckpoint_seconds = 0\nlog_every = 1\n[run.schedule]\nsteps = 40\n").unwrap();
    let words = |command: &mut std::process::Command| {
        command.args(["train", "--text", &text, "--config"]).arg(&config).arg("--out").arg(&out).args(SHAPE);
    };
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_sterna"));
    words(&mut command);
    let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
    let steps = || std::fs::read_to_string(out.join("log.jsonl")).map_or(0, |log| log.lines().count());
    let start = Instant::now();
    while steps() < 5 && start.elapsed() < Duration::from_secs(120) {
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let before = steps();
    assert!((5..40).contains(&before), "{before} steps");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_sterna"));
    words(&mut command);
    assert!(command.arg("--resume").output().unwrap().status.success());
    let log = std::fs::read_to_string(out.join("log.jsonl")).unwrap();
    let logged: Vec<u64> = log.lines().map(|line| json(line)["step"].as_u64().unwrap()).collect();
    assert_eq!(logged, (1..=40).collect::<Vec<_>>());
}

#[test]
fn what_cannot_be_is_said_in_one_line() {
    let dir = TempDir::new().unwrap();
    let (text, out) = (text(&dir), dir.path().join("run"));
    let empty = dir.path().join("empty.txt");
    std::fs::write(&empty, "").unwrap();
    let error = |words: &[&str], said: &str| {
        let mut command = sterna();
        command.args(["train"]).args(words).arg("--out").arg(&out);
        command.assert().failure().stderr(predicate::str::contains(said));
    };
    error(&["--text", "/nowhere/text.txt"], "cannot read /nowhere/text.txt");
    error(&["--text", empty.to_str().unwrap()], "the training text is empty");
    error(&["--text", &text, "--resume"], "no checkpoint");
    error(&["--text", &text, "--tokenizer", "words"], "words");
    error(&["--text", &text, "--rule", "best"], "`best` is no quantization method");
    error(&["--text", &text, "--group", "100"], "`100` is no group");
    error(&["--text", &text, "--quant", "Q4_0"], "Q4_0 is no format that can be exported to");
    error(&["--text", &text, "--config", &text], "does not hold the settings");
    error(&[], "Usage");
    // A folder that cannot be made, as on a full or read-only disk.
    let mut command = sterna();
    command.args(["train", "--text", &text, "--out"]).arg(empty.join("run"));
    command.assert().code(1).stderr(predicate::str::contains("cannot make the folder"));
}

/// gguf-py, which we did not write, finds the shapes and values that the runtime finds.
#[test]
fn gguf_py_reads_what_was_exported() {
    let Some(python) = gguf_python() else { return };
    let dir = TempDir::new().unwrap();
    let text = text(&dir);
    for format in ["TQ1_0", "TQ2_0"] {
        let out = dir.path().join(format);
        let mut command = sterna();
        command.args(["train", "--text", &text, "--steps", "3", "--group", "row", "--quant", format, "--out"]);
        // Not square, so that a transposed matrix cannot pass; untied.
        command.arg(&out).args(SHAPE).args(["--architecture", "llama", "--untied"]);
        stdout(&mut command);
        let path = out.join("model.gguf");
        let read = read_by_gguf_py(&python, &path);
        assert_eq!(read["fields"]["general.architecture"], "llama");
        assert_eq!(read["fields"]["llama.attention.head_count_kv"], 2);
        let tensors = read["tensors"].as_array().unwrap();
        assert!(tensors.iter().any(|tensor| tensor["name"] == "output.weight"));
    }
}
