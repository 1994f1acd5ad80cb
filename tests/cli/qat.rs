//! `sterna qat` from checkpoints to files, and the way there from a float model of our own.

use std::path::{Path, PathBuf};
use std::process::Command as Process;

use predicates::prelude::*;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{fixture, json, stdout, sterna};

/// A text of which every line is a sample, plain and as JSON lines under `body`.
fn texts(dir: &TempDir) -> (PathBuf, PathBuf) {
    let line =
        |i: usize| format!("{} hath seen {} rose{}", ["the king", "a fool"][i % 2], i * i % 7, ["s", ""][i / 3 % 2]);
    let lines: Vec<String> = (0..500).map(line).collect();
    let (plain, jsonl) = (dir.path().join("text.txt"), dir.path().join("text.jsonl"));
    std::fs::write(&plain, lines.join("\n")).unwrap();
    let objects = lines.chunks(5).map(|lines| serde_json::json!({"body": lines.join("\n")}).to_string() + "\n");
    std::fs::write(&jsonl, objects.collect::<String>()).unwrap();
    (plain, jsonl)
}

fn perplexity(model: &Path, text: &Path, context: &str) -> f64 {
    let mut command = sterna();
    command.arg("perplexity").arg("-m").arg(model).arg("-f").arg(text).args(["-c", context, "--json"]);
    json(&stdout(&mut command))["nats_per_token"].as_f64().unwrap()
}

/// A run on the GPT-2 fixture: its folder in `dir`, and its outcome.
fn tuned(dir: &TempDir) -> (PathBuf, Value) {
    let (plain, _) = texts(dir);
    let out = dir.path().join("out");
    let mut command = sterna();
    command.arg("qat").arg(fixture("gpt2")).arg("--dataset").arg(&plain).arg("--output-dir").arg(&out);
    command.args("--per-device-train-batch-size 2 --gradient-accumulation-steps 2 --learning-rate 3e-3".split(' '));
    command.args("--max-train-samples 400 --ternary-threshold 0.4 --ternary-stochastic-rounding".split(' '));
    command.args("--ternary-warmup-steps 5 --block-size 32 --steps 30 --quant Q2_0 --json".split(' '));
    let outcome = json(&stdout(&mut command));
    (out, outcome)
}

#[test]
fn a_checkpoint_becomes_a_ternary_one_and_a_file_with_its_loss() {
    let dir = TempDir::new().unwrap();
    let (out, outcome) = tuned(&dir);
    let loss = |key: &str| outcome[key]["loss"].as_f64().unwrap();
    assert!(loss("trained") < loss("rounded"), "{outcome}");
    assert_eq!(outcome["steps"], 30);
    let config = std::fs::read_to_string(out.join("config.toml")).unwrap();
    for said in ["rule = \"threshold:0.4\"", "ternary_warmup_steps = 5", "max_train_samples = 400", "seq_len = 32"] {
        assert!(config.contains(said), "{said:?} is not in\n{config}");
    }
    let found = perplexity(&out.join("model.gguf"), &out.join("held-out.txt"), "32");
    assert!((found / loss("trained") - 1.0).abs() < 0.01, "{found} measured, {} in training", loss("trained"));

    // The directory converts without loss, to the same file.
    let again = dir.path().join("again.gguf");
    let mut command = sterna();
    command.arg("convert").arg(out.join("checkpoint")).arg("-o").arg(&again).args(["--name", "gpt2"]);
    let report = json(&stdout(command.args(["--quant", "Q2_0", "--require-lossless", "--validate", "--json"])));
    assert_eq!(report["lossless"], true);
    assert!(std::fs::read(&again).unwrap() == std::fs::read(out.join("model.gguf")).unwrap());
}

#[test]
fn a_repository_on_the_hub_is_tuned_as_its_folder_is() {
    let dir = TempDir::new().unwrap();
    let (plain, _) = texts(&dir);
    let server = crate::convert::repository("gpt2");
    let command = |words: &str| {
        let mut command = sterna();
        command.env("STERNA_CACHE", dir.path().join("cache")).env("HF_ENDPOINT", &server).current_dir(dir.path());
        command.args(["qat", "a/b", "--text"]).arg(&plain).args(words.split_whitespace());
        command
    };
    command("--offline").assert().code(1).stderr(predicate::str::contains("--offline forbids"));
    let words =
        "--block-size 32 --batch-size 2 --steps 4 --ternary-warmup-steps 1 --max-eval-tokens 200 --quant Q2_0 --json";
    let outcome = json(&stdout(&mut command(words)));
    assert_eq!(outcome["model"], "runs/b-qat/model.gguf");
    assert!(dir.path().join("runs/b-qat/checkpoint/config.json").is_file());
}

/// They see the same ternary weights. For a Python with packages of a gigabyte:
/// `STERNA_TRANSFORMERS_PYTHON=python3 cargo test -p sterna --test cli -- --ignored`
#[test]
#[ignore = "needs STERNA_TRANSFORMERS_PYTHON, a Python that has transformers and torch"]
fn transformers_load_the_checkpoint_that_was_trained() {
    let python = std::env::var_os("STERNA_TRANSFORMERS_PYTHON").expect("STERNA_TRANSFORMERS_PYTHON");
    let dir = TempDir::new().unwrap();
    let (out, outcome) = tuned(&dir);
    let loss = outcome["trained"]["loss"].as_f64().unwrap();
    let script = "import sys, torch, transformers, math\n\
        m = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval()\n\
        t = transformers.AutoTokenizer.from_pretrained(sys.argv[1])\n\
        ids = t(open(sys.argv[2]).read(), add_special_tokens=False)['input_ids']\n\
        n = len(ids) // 32\n\
        x = torch.tensor(ids[:n * 32]).reshape(n, 32)\n\
        y = torch.log_softmax(m(x).logits.double(), -1)[:, 16:-1].gather(-1, x[:, 17:, None])\n\
        print(-y.mean().item())";
    let mut command = Process::new(python);
    let said = command.args(["-c", script]).arg(out.join("checkpoint")).arg(out.join("held-out.txt")).output().unwrap();
    let theirs: f64 = String::from_utf8_lossy(&said.stdout).trim().parse().unwrap_or_else(|_| {
        panic!("{}", String::from_utf8_lossy(&said.stderr));
    });
    // Their activations are floats.
    assert!((theirs / loss - 1.0).abs() < 0.02, "{theirs} there, {loss} here");
}

#[test]
fn a_float_model_of_our_own_goes_all_the_way() {
    let dir = TempDir::new().unwrap();
    let (plain, jsonl) = texts(&dir);
    for tokenizer in ["chars", "bpe:512"] {
        let name = |part: &str| dir.path().join(format!("{part}-{}", &tokenizer[..3]));
        let float = name("float");
        let mut command = sterna();
        command.arg("train").arg("--text").arg(&plain).arg("--out").arg(&float).args(["--tokenizer", tokenizer]);
        command.args("--float --architecture llama --untied --layers 1 --width 64 --heads 4 --kv-heads 2".split(' '));
        command.args("--ffn 128 --seq-len 32 --batch-size 4 --steps 80 --dropout 0 --json".split(' '));
        let trained = json(&stdout(&mut command))["held_out"]["loss"].as_f64().unwrap();
        let (checkpoint, model) = (float.join("checkpoint"), dir.path().join(format!("{}.gguf", &tokenizer[..3])));
        let mut command = sterna();
        stdout(command.arg("convert").arg(&checkpoint).arg("-o").arg(&model).args(["--quant", "F16"]));
        let measure = |model: &Path| {
            let mut command = sterna();
            command.arg("perplexity").arg("-m").arg(model).arg("-f").arg(&plain);
            let measured = json(&stdout(command.args(["--split", "0.9", "-c", "32", "--json"])));
            measured["nats_per_token"].as_f64().unwrap()
        };
        let (converted, own) = (measure(&model), measure(&float.join("model.gguf")));
        assert!((converted / trained - 1.0).abs() < 0.002, "{tokenizer}: {converted} converted, {trained} trained");
        assert!((converted - own).abs() < 1e-6, "{tokenizer}: {converted} {own}");

        let out = name("qat");
        let mut command = sterna();
        command.arg("qat").arg(&checkpoint).arg("--text").arg(&jsonl).arg("--out").arg(&out);
        command.args("--text-field body --distill 0.5 --quant Q2_0 --steps 40 --batch-size 4".split(' '));
        command.args("--seq-len 32 --lr 3e-3".split(' ')).arg("--eval-text").arg(&plain);
        let said = stdout(&mut command);
        for said_ in ["float", "rounded, untrained", "after 40 steps", "PERPLEXITY"] {
            assert!(said.contains(said_), "{said}");
        }
        assert!(out.join("model.gguf").is_file() && out.join("loss.svg").is_file());
    }
}

/// The words of other ternary toolkits, and a run that goes on from its folder alone.
#[test]
fn flags_of_other_toolkits_are_understood_and_a_run_goes_on_without_settings() {
    let dir = TempDir::new().unwrap();
    let (plain, _) = texts(&dir);
    let (out, report) = (dir.path().join("out"), dir.path().join("report.json"));
    let mut command = sterna();
    command
        .arg("qat")
        .arg("--model-id")
        .arg(fixture("gpt2"))
        .arg("--dataset-name")
        .arg(&plain)
        .arg("--output-dir")
        .arg(&out);
    command.args("--train-split train[:300] --max-eval-tokens 20 --block-size 32 --batch-size 2 --steps 6".split(' '));
    command.args(["--threshold", "0.45", "--temperature", "3", "--device", "auto", "--json-output"]).arg(&report);
    let assert = command.assert().success();
    let said = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
    assert!(said.contains("not of --seq-len 32, as --max-eval-tokens asks for no more"), "{said}");
    assert!(said.contains("note: --temperature 3 has no effect without --distill"), "{said}");
    let outcome = json(&std::fs::read_to_string(&report).unwrap());
    assert_eq!(outcome["steps"], 6);
    let lines = std::fs::read_to_string(&plain).unwrap();
    let held_out = std::fs::read_to_string(out.join("held-out.txt")).unwrap();
    let rest = lines.split_inclusive('\n').skip(300).collect::<String>();
    assert!(!held_out.is_empty() && rest.starts_with(&held_out), "{held_out}");

    let again = |words: &[&str]| {
        let mut command = sterna();
        command.current_dir("/").args(["qat", "--out"]).arg(&out).args(words);
        command
    };
    assert_eq!(json(&stdout(&mut again(&["--resume", "--json"])))["trained"], outcome["trained"]);
    again(&["--resume", "--distill", "0.5"])
        .assert()
        .code(1)
        .stderr(predicate::str::contains("distill was 0.0 there and is 0.5 here"));
    // Another text is refused before anything is written.
    let settings = std::fs::read(out.join("config.toml")).unwrap();
    let other = dir.path().join("other.txt");
    std::fs::write(&other, lines.replace("rose", "nose")).unwrap();
    let words = ["--eval-text", other.to_str().unwrap()];
    again(&[&["--resume"][..], &words].concat()).assert().code(1).stderr(predicate::str::contains(format!(
        "the run has no --eval-text, and this command has --eval-text {}",
        other.display()
    )));
    assert!(std::fs::read(out.join("config.toml")).unwrap() == settings);
    again(&[&["--export-only"][..], &words].concat()).assert().code(1);
    let model = std::fs::read(out.join("model.gguf")).unwrap();
    std::fs::remove_file(out.join("model.gguf")).unwrap();
    assert_eq!(json(&stdout(&mut again(&["--export-only", "--json"])))["step"], 6);
    assert!(std::fs::read(out.join("model.gguf")).unwrap() == model);
    let mut train = sterna();
    train.args(["train", "--resume", "--out"]).arg(&out);
    train.assert().code(1).stderr(predicate::str::contains("go on with `sterna qat --resume --out"));
}

#[test]
fn what_cannot_be_is_said_in_one_line() {
    let dir = TempDir::new().unwrap();
    let (plain, jsonl) = texts(&dir);
    let broken = dir.path().join("broken.parquet");
    std::fs::write(&broken, "PAR1").unwrap();
    let error = |name: &str, text: &Path, words: &str, said: &str| {
        let mut command = sterna();
        command.arg("qat").arg(fixture(name)).arg("--text").arg(text).arg("--out").arg(dir.path().join("x"));
        command.args(words.split_whitespace());
        command.assert().failure().stderr(predicate::str::contains(said));
    };
    error("gpt2", &plain, "", "context is 64 tokens; give a --seq-len of at most that");
    error("bitnet", &plain, "", "it was trained ternary");
    error("gpt2", &jsonl, "--seq-len 32", "line 1: there is no text under \"text\"; name the field with --text-field");
    error("gpt2", &broken, "--seq-len 32", "broken.parquet: it is no Parquet file, or is damaged");
    error("gpt2", &plain, "--seq-len 32 --ternary-threshold 1.5", "--ternary-threshold is 1.5; give a share");
    error("gpt2", &plain, "--seq-len 32 --lr -1", "--lr is -1; give a number above 0");
    error("gpt2", &plain, "--seq-len 32 --max-eval-tokens 3", "give a whole number, at least 4");
    error("gpt2", &plain, "--seq-len 32 --device mps", "possible values: cpu, auto");
    error("gpt2", &plain, "--seq-len 32 --train-split train[3]", "is no part of a data set");
    error("gpt2", &plain, "--rule twn --ternary-threshold 0.5", "cannot be used with");
    error("gpt2", &plain, "--seq-len 32 --resume", "no checkpoint");
    assert!(!dir.path().join("x/model.gguf").exists());
}
