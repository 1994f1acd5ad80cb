//! `sterna bench gguf`, `gemm` and `model`: what is measured, and how it is told.

use std::path::PathBuf;

use predicates::prelude::*;
use serde_json::Value;
use tempfile::TempDir;

use crate::convert::silu;
use crate::support::{fixture, json, stdout, sterna};

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

/// A text of 60 lines, a third of them blank.
fn text(dir: &TempDir) -> PathBuf {
    let path = dir.path().join("text.txt");
    let lines: Vec<String> = (0..40)
        .map(|i| {
            format!("The {i} quick brown foxes jump over {} lazy dogs.\n{}", i * 7, if i % 2 == 0 { "\n" } else { "" })
        })
        .collect();
    std::fs::write(&path, lines.concat()).unwrap();
    path
}

#[test]
fn files_are_measured_each_in_a_process_of_its_own() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    for (name, quant) in [("large.gguf", "F32"), ("small.gguf", "TQ2_0")] {
        stdout(sterna().arg("convert").arg(fixture("llama")).arg("-o").arg(path(name)).args(["--quant", quant]));
    }
    let mut command = sterna();
    command.args(["bench", "gguf"]).arg(path("large.gguf")).arg(path("small.gguf"));
    command.args(["-p", "16", "-n", "4", "-r", "3", "-t", "2"]);
    let table = stdout(&mut command);
    for said in ["large.gguf", "small.gguf", "PROMPT ms/TOKEN", "EVAL ms/TOKEN", "16 tokens at once and 4 one by one"] {
        assert!(table.contains(said), "{said:?} is not in\n{table}");
    }
    let report = json(&stdout(command.arg("--json")));
    assert_eq!((&report["n_prompt"], &report["n_gen"], &report["threads"]), (&16.into(), &4.into(), &2.into()));
    let files = report["files"].as_array().unwrap();
    assert_eq!(files.len(), 2);
    for (file, name) in files.iter().zip(["large.gguf", "small.gguf"]) {
        assert_eq!(file["bytes"], std::fs::metadata(path(name)).unwrap().len());
        assert!(file["load_s"].as_f64().unwrap() > 0.0);
        for spread in ["prompt_ms_per_token", "eval_ms_per_token"] {
            let of = |key: &str| file[spread][key].as_f64().unwrap();
            assert!(0.0 < of("min") && of("min") <= of("median") && of("median") <= of("max"), "{file}");
        }
        let peak = file["peak_resident_bytes"].as_u64();
        assert!(!cfg!(target_os = "linux") || peak.unwrap() > file["bytes"].as_u64().unwrap(), "{file}");
    }
    let bits = |i: usize| files[i]["bits_per_weight"].as_f64().unwrap();
    assert!(bits(0) > 16.0 && bits(1) < bits(0) / 2.0, "{} {}", bits(0), bits(1));
    // The inspector counts the same bits.
    let inspected = json(&stdout(sterna().args(["inspect", "--json"]).arg(path("small.gguf"))));
    assert!((inspected["total"]["bits_per_weight"].as_f64().unwrap() - bits(1)).abs() < 1e-9);

    let mut none = sterna();
    none.args(["bench", "gguf", "-p", "0", "-n", "2", "-r", "1", "--json"]).arg(path("small.gguf"));
    let report = json(&stdout(&mut none));
    assert!(report["files"][0]["prompt_ms_per_token"].is_null() && !report["files"][0]["eval_ms_per_token"].is_null());

    std::fs::write(path("bad.gguf"), "no model").unwrap();
    for (name, words, said) in [
        ("none.gguf", &[][..], "none.gguf"),
        ("bad.gguf", &[], "bad.gguf"),
        ("small.gguf", &["-p", "5000"], "do not fit the model's context of 256; lower -p or -n"),
        ("small.gguf", &["--kernel", "sse9"], "no kernel named \"sse9\""),
    ] {
        let mut command = sterna();
        command.args(["bench", "gguf"]).arg(path("small.gguf")).arg(path(name)).args(words);
        let one = predicate::function(|said: &str| said.lines().count() == 1 && said.starts_with("error: "));
        command.assert().code(1).stderr(predicate::str::contains(said).and(one));
    }
    sterna().args(["bench", "gguf"]).assert().code(2);
}

#[test]
fn products_are_measured_with_every_kernel() {
    let gemm = |words: &[&str]| {
        let mut command = sterna();
        command.args(["bench", "gemm", "-r", "2", "--seconds", "0.05"]).args(words);
        command
    };
    let table = stdout(&mut gemm(&["--shape", "64x256x1", "--shape", "32x512x3", "-t", "1,2"]));
    for said in ["64 x 256", "32 x 512", "scalar", "GOPS", "TIMES SCALAR"] {
        assert!(table.contains(said), "{said:?} is not in\n{table}");
    }
    let report = json(&stdout(&mut gemm(&["--shape", "64x256x1", "--json"])));
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.last().unwrap()["kernel"], "scalar");
    for row in rows {
        let number = |key: &str| row[key].as_f64().unwrap();
        assert!(number("gops") > 0.0 && number("times_scalar") > 0.0, "{row}");
        assert!(
            (number("gops") * row["seconds"]["median"].as_f64().unwrap() * 1e9 / (2.0 * 64.0 * 256.0) - 1.0).abs()
                < 1e-6
        );
    }
    let one = json(&stdout(&mut gemm(&["--shape", "16x64x2", "--group", "64", "--kernel", "scalar", "--json"])));
    assert_eq!(one["rows"].as_array().unwrap().len(), 1);
    for (words, code, said) in [
        (&["--shape", "64x256"][..], 2, "give rows, columns and tokens"),
        (&["--shape", "64x100x1"], 1, "rows of 100 weights cannot be cut into groups of 256"),
        (&["--shape", "9999999x999936x1"], 1, "too large"),
        (&["--kernel", "sse9"], 1, "no kernel named \"sse9\""),
    ] {
        gemm(words).assert().code(code).stderr(predicate::str::contains(said));
    }
}

/// The keys of the report, and no others.
const KEYS: [&str; 18] = [
    "baseline",
    "compression_ratio",
    "dataset",
    "device",
    "dtype",
    "eval_texts",
    "learning_rate",
    "max_eval_tokens",
    "max_new_tokens",
    "model_id",
    "ptq",
    "qat",
    "qat_steps",
    "run_qat",
    "skip_latency",
    "skip_ptq_ppl",
    "threshold",
    "train_split",
];

#[test]
fn checkpoints_are_measured_in_floats_and_rounded() {
    let dir = TempDir::new().unwrap();
    let (text, files, out) = (text(&dir), dir.path().join("files"), dir.path().join("report.json"));
    for name in ["gpt2", "phi3", "llama", "qwen3"] {
        let mut command = sterna();
        command.args(["bench", "model"]).arg(fixture(name)).arg("--text").arg(&text);
        command.args(["-c", "32", "--max-new-tokens", "8", "-t", "2"]).arg("--keep-files").arg(&files);
        let report = json(&stdout(command.arg("--json").arg("--out").arg(&out)));
        assert_eq!(report, json(&std::fs::read_to_string(&out).unwrap()));
        let mut found = keys(&report);
        found.sort_unstable();
        assert_eq!(found, KEYS);
        assert_eq!((&report["device"], &report["dtype"]), (&"cpu".into(), &"bfloat16".into()));
        assert!(report["qat"].is_null() && report["threshold"].is_null());
        let mut sizes = Vec::new();
        for (row, file) in [("baseline", "baseline.gguf"), ("ptq", "ptq.gguf")] {
            let mut found = keys(&report[row]);
            found.sort_unstable();
            assert_eq!(found, ["ppl", "size_gib", "tok_s"]);
            let number = |key: &str| report[row][key].as_f64().unwrap();
            let bytes = std::fs::metadata(files.join(file)).unwrap().len();
            assert!((number("size_gib") * (1u64 << 30) as f64 - bytes as f64).abs() < 0.5);
            assert!(number("tok_s") > 0.0);
            // The number that the command for it gives.
            let mut command = sterna();
            command.args(["perplexity", "-c", "32", "--json", "-m"]).arg(files.join(file)).arg("-f").arg(&text);
            let alone = json(&stdout(&mut command))["perplexity"].as_f64().unwrap();
            assert!((number("ppl") / alone - 1.0).abs() < 1e-12, "{name} {row}: {} {alone}", number("ppl"));
            sizes.push(number("size_gib"));
        }
        assert!(
            (report["compression_ratio"].as_f64().unwrap() - sizes[0] / sizes[1]).abs() < 1e-9 && sizes[0] > sizes[1]
        );
        assert_ne!(report["baseline"]["ppl"], report["ptq"]["ppl"]);
    }
}

#[test]
fn checkpoints_are_trained_too_and_all_is_measured_on_what_was_not_trained_on() {
    let dir = TempDir::new().unwrap();
    let (text, jsonl) = (text(&dir), dir.path().join("text.jsonl"));
    let whole = std::fs::read_to_string(&text).unwrap();
    std::fs::write(&jsonl, serde_json::json!({ "body": whole }).to_string()).unwrap();
    let model = |name: &str, words: &[&str]| {
        let mut command = sterna();
        command.args(["bench", "model"]).arg(fixture(name)).args(["-c", "32", "--skip-latency", "--json", "--run-qat"]);
        command.args(["--qat-steps", "4", "--seq-len", "32", "--batch-size", "2", "--train-split", "0.5"]).args(words);
        command
    };
    for name in ["gpt2", "phi3", "llama"] {
        let files = dir.path().join(name);
        let mut command = model(name, &["--learning-rate", "0.001", "--text-field", "body", "--text"]);
        let report = json(&stdout(command.arg(&jsonl).arg("--keep-files").arg(&files)));
        assert_eq!((&report["run_qat"], &report["qat_steps"]), (&true.into(), &4.into()));
        assert_eq!((&report["train_split"], &report["learning_rate"]), (&0.5.into(), &0.001.into()));
        assert!(report["qat"]["tok_s"].is_null() && report["qat"]["size_gib"] == report["ptq"]["size_gib"], "{report}");
        assert_ne!(report["qat"]["ppl"], report["ptq"]["ppl"]);
        let mut losses = Vec::new();
        for (row, file) in [("baseline", "baseline.gguf"), ("ptq", "ptq.gguf"), ("qat", "qat.gguf")] {
            let mut command = sterna();
            command.args(["perplexity", "-c", "32", "--split", "0.5", "--json", "-m"]).arg(files.join(file));
            let alone = json(&stdout(command.arg("-f").arg(&text)))["perplexity"].as_f64().unwrap();
            let ppl = report[row]["ppl"].as_f64().unwrap();
            assert!((ppl / alone - 1.0).abs() < 1e-12, "{name} {row}: {ppl} {alone}");
            losses.push(ppl);
        }
        let mut again = model(name, &["--text"]);
        again
            .arg(&text)
            .arg("--keep-files")
            .arg(&files)
            .assert()
            .code(1)
            .stderr(predicate::str::contains("holds an earlier run"));
    }
    // What was trained ternary is measured, but not trained.
    let bitnet = silu(&dir);
    let words = ["bench", "model", "-c", "32", "--skip-latency", "--json", "--run-qat", "--text"];
    let output = sterna().args(words).arg(&text).arg(&bitnet).assert().success().get_output().clone();
    let report = json(&String::from_utf8(output.stdout).unwrap());
    assert!(report["qat"].is_null() && report["run_qat"] == true && report["ptq"]["ppl"].is_number());
    assert!(String::from_utf8_lossy(&output.stderr).contains("so qat is null: a BitNet was trained ternary"));
    for (words, said) in [
        (&["--train-split", "0"][..], "--train-split is 0; give a share of the text above 0 and below 1"),
        (&["--train-split", "1"], "--train-split is 1; give a share"),
        (&["--learning-rate", "-1"], "--learning-rate is -1; give a number above 0"),
        (&["--keep", "*o_proj*"], "--keep goes not with --run-qat"),
        (&["--train-split", "0.99"], "fewer than one sequence of 256"),
        (&["--seq-len", "2000"], "context is 256"),
    ] {
        let mut command = sterna();
        command.args(["bench", "model"]).arg(fixture("llama")).args(["-c", "32", "--run-qat", "--text"]).arg(&text);
        command.args(words).assert().code(1).stderr(predicate::str::contains(said));
    }
}

/// The command of another toolkit's benchmark, word for word but for its program, model and text.
#[test]
fn the_micro_run_of_another_toolkit_is_understood() {
    let dir = TempDir::new().unwrap();
    let (text, out) = (text(&dir), dir.path().join("gpt2_ptq_qat.json"));
    let mut command = sterna();
    command.args(["bench", "model", "--model-id"]).arg(fixture("gpt2")).arg("--dataset-name").arg(&text);
    command.args("--device auto --dtype float32 --max-eval-tokens 32 --eval-texts 8 --max-new-tokens 4".split(' '));
    command
        .args("--run-qat --qat-steps 5 --train-split train[:30] --batch-size 2 --seq-len 32 --json-output".split(' '));
    stdout(command.arg(&out));
    let report = json(&std::fs::read_to_string(&out).unwrap());
    assert_eq!((&report["train_split"], &report["device"]), (&"train[:30]".into(), &"cpu".into()));
    assert!(report["qat"]["ppl"].is_number() && report["qat"]["tok_s"].is_number(), "{report}");
}

#[test]
fn less_is_measured_where_less_is_asked_for() {
    let dir = TempDir::new().unwrap();
    let text = text(&dir);
    let model = |words: &[&str]| {
        let mut command = sterna();
        command.args(["bench", "model"]).arg(fixture("llama")).arg("--text").arg(&text).args(["-c", "16"]).args(words);
        command
    };
    let report = json(&stdout(&mut model(&[
        "--skip-latency",
        "--skip-ptq-ppl",
        "--threshold",
        "0.4",
        "--quant",
        "Q2_0",
        "--dtype",
        "float16",
        "--json",
        "--max-eval-tokens",
        "64",
        "--eval-texts",
        "9",
    ])));
    assert!((report["threshold"].as_f64().unwrap() - 0.4).abs() < 1e-6);
    assert_eq!((&report["dtype"], &report["max_eval_tokens"]), (&"float16".into(), &64.into()));
    assert!(
        report["ptq"]["ppl"].is_null() && report["ptq"]["tok_s"].is_null() && report["baseline"]["tok_s"].is_null()
    );
    let few = report["baseline"]["ppl"].as_f64().unwrap();
    let all = json(&stdout(&mut model(&["--skip-latency", "--dtype", "float16", "--json"])));
    assert_ne!(all["baseline"]["ppl"].as_f64().unwrap(), few);
    let table = stdout(&mut model(&["--skip-latency", "--rule", "twn"]));
    for said in ["baseline, bfloat16", "ptq, TQ2_0", "OF BASELINE", "PERPLEXITY"] {
        assert!(table.contains(said), "{said:?} is not in\n{table}");
    }
    for (words, code, said) in [
        (&["--quant", "F16"][..], 1, "--quant F16 is not ternary"),
        (&["--device", "cuda"], 2, "possible values: cpu, auto"),
        (&["--max-eval-tokens", "3"], 2, "give a whole number, at least 4"),
        (&["--train-split", "train[:x]"], 2, "is no part of a data set"),
        (&["--train-split", "test[:2]"], 1, "it has no split test"),
        (&["--rule", "best"], 2, "no quantization method"),
        (&["--max-new-tokens", "9999"], 1, "--max-new-tokens 9999 does not fit the model's context of 256"),
    ] {
        model(words).assert().code(code).stderr(predicate::str::contains(said));
    }
    // No speed, as with --skip-latency; and no chunk is larger than what is asked for.
    for (tokens, context) in [("5", "5"), ("32", "16"), ("128", "16")] {
        let report = json(&stdout(&mut model(&["--max-new-tokens", "0", "--max-eval-tokens", tokens, "--json"])));
        assert!(report["baseline"]["tok_s"].is_null() && report["max_new_tokens"] == 0);
        let ppl = report["baseline"]["ppl"].as_f64().unwrap();
        let (first, file) = (dir.path().join("first.txt"), dir.path().join("baseline.gguf"));
        let mut convert = sterna();
        convert.arg("convert").arg(fixture("llama")).arg("-o").arg(&file).args(["--quant", "BF16"]);
        stdout(convert.args(["--token-embedding-type", "BF16", "--output-type", "BF16"]));
        // So many tokens of the text, as the command for them cuts it.
        let whole = std::fs::read_to_string(&text).unwrap();
        std::fs::write(&first, &whole).unwrap();
        let mut command = sterna();
        command.args(["perplexity", "--json", "-c", context, "--chunks"]);
        command.arg((tokens.parse::<usize>().unwrap() / context.parse::<usize>().unwrap()).to_string());
        let alone = json(&stdout(command.arg("-m").arg(&file).arg("-f").arg(&first)))["perplexity"].as_f64().unwrap();
        assert!((ppl / alone - 1.0).abs() < 1e-12, "{tokens}: {ppl} {alone}");
    }
    let mut command = sterna();
    command.args(["bench", "model"]).arg(dir.path()).arg("--text").arg(&text);
    command.assert().code(1).stderr(predicate::str::contains("config.json"));
    let mut command = sterna();
    command.args(["bench", "model"]).arg(fixture("llama")).args(["--text", "/nonexistent/text"]);
    command.assert().code(1).stderr(predicate::str::contains("/nonexistent/text"));
}
