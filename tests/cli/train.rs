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

/// A run in a process of its own, which writes a checkpoint and a line of the log after each step.
fn begun(dir: &TempDir, steps: &str) -> (std::process::Child, std::path::PathBuf) {
    let (text, out, config) = (text(dir), dir.path().join("run"), dir.path().join("c.toml"));
    std::fs::write(&config, "[run]\ncheckpoint_seconds = 0\nlog_every = 1\n").unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_sterna"));
    command
        .args(["train", "--text", &text, "--steps", steps, "--config"])
        .arg(&config)
        .arg("--out")
        .arg(&out)
        .args(SHAPE);
    let child = command.stderr(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    while logged(&out).len() < 3 && start.elapsed() < Duration::from_secs(120) {
        std::thread::sleep(Duration::from_millis(20));
    }
    (child, out)
}

/// The steps in a run's log.
fn logged(out: &std::path::Path) -> Vec<u64> {
    let log = std::fs::read_to_string(out.join("log.jsonl")).unwrap_or_default();
    let lines = log.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    lines.map(|line| json(line)["step"].as_u64().unwrap()).collect()
}

#[test]
#[cfg(unix)]
fn ctrl_c_keeps_what_was_learned_and_the_run_goes_on_without_settings() {
    let dir = TempDir::new().unwrap();
    let (child, out) = begun(&dir, "60");
    let interrupt = format!("kill -INT {}", child.id());
    assert!(std::process::Command::new("sh").args(["-c", &interrupt]).status().unwrap().success());
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(130), "{said}");
    let folder = out.display();
    for part in [
        "stopped with Ctrl-C",
        &format!("of 60 steps are done and saved in {folder}"),
        &format!("sterna train --resume --out {folder}"),
        &format!("sterna train --export-only --out {folder}"),
    ] {
        assert!(said.contains(part), "{part:?} is not in\n{said}");
    }
    assert!(!out.join("model.gguf").exists());
    // A line of the first step, although stderr is no terminal.
    assert!(said.contains("step 1 of 60: loss ") && said.contains(" to go"), "{said}");

    let again = |words: &[&str]| {
        let mut command = sterna();
        // From another folder: the run's settings name the text by its whole path.
        command.current_dir("/").args(["train"]).args(words).arg("--out").arg(&out);
        command
    };
    let made = json(&stdout(&mut again(&["--export-only", "--json"])));
    let step = made["step"].as_u64().unwrap();
    assert!((3..60).contains(&step) && made["steps"] == 60, "{made}");
    stdout(sterna().arg("run").arg(out.join("model.gguf")).args(["-p", "the ", "-n", "5", "-s", "1"]));
    // It has learned no more by that.
    assert_eq!(logged(&out).last(), Some(&step));

    for (words, said) in [
        (&["--resume", "--steps", "61"][..], "run.schedule.steps was 60 there and is 61 here"),
        (&["--resume", "--seed", "2"], "run.seed was 1 there and is 2 here"),
        (&["--resume", "--width", "512"], "model.width was 256 there and is 512 here"),
        (&["--steps", "60", "--text", "x"], "go on with --resume"),
    ] {
        again(words).assert().code(1).stderr(predicate::str::contains(said));
    }
    let mut qat = sterna();
    qat.args(["qat", "--resume", "--out"]).arg(&out);
    qat.assert().code(1).stderr(predicate::str::contains("go on with `sterna train --resume --out"));
    sterna()
        .args(["train", "--resume"])
        .assert()
        .code(1)
        .stderr(predicate::str::contains("name its folder with --out"));

    // What changes nothing that is learned may change.
    let outcome = json(&stdout(&mut again(&["--resume", "--json", "--threads", "1", "--eval-every", "50"])));
    assert_eq!(outcome["steps"], 60);
    assert_eq!(logged(&out), (1..=60).collect::<Vec<_>>());
}

#[test]
fn a_folder_is_used_by_one_run_and_keeps_the_files_of_another() {
    let dir = TempDir::new().unwrap();
    let (mut child, out) = begun(&dir, "100000");
    let train = |words: &[&str]| {
        let mut command = sterna();
        command.args(["train", "--text", dir.path().join("text.txt").to_str().unwrap(), "--out"]).arg(&out);
        command.args(SHAPE).args(words);
        command
    };
    let process = format!("another run is at work in {} (process {})", out.display(), child.id());
    for words in [&["--steps", "5"][..], &["--resume"], &["--export-only"]] {
        train(words).assert().code(1).stderr(predicate::str::contains(process.as_str()));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // The lock went with the process; its checkpoint is there.
    train(&["--steps", "5"]).assert().code(1).stderr(predicate::str::contains("go on with --resume"));
    std::fs::remove_file(out.join("checkpoint.safetensors")).unwrap();
    // Without it nothing is left that was learned.
    let said = predicate::str::contains("note:")
        .and(predicate::str::contains("ended before its first checkpoint (log.jsonl"))
        .and(predicate::str::contains("they are replaced"));
    train(&["--steps", "5"]).assert().success().stderr(said);
    assert_eq!(logged(&out), [5]);
    // A model is.
    std::fs::remove_file(out.join("checkpoint.safetensors")).unwrap();
    train(&["--steps", "4"]).assert().code(1).stderr(predicate::str::contains("has files of another run (model.gguf"));
}

#[test]
fn other_data_changes_nothing_in_the_folder_and_the_run_goes_on() {
    let dir = TempDir::new().unwrap();
    let (text, out, other) = (text(&dir), dir.path().join("run"), dir.path().join("other.txt"));
    std::fs::write(&other, std::fs::read_to_string(&text).unwrap().replace("rose", "nose")).unwrap();
    let other = other.to_str().unwrap();
    let mut command = sterna();
    stdout(command.args(["train", "--text", &text, "--steps", "2", "--out"]).arg(&out).args(SHAPE));
    let again = |words: &[&str]| {
        let mut command = sterna();
        command.arg("train").args(words).arg("--out").arg(&out);
        command
    };
    let files = || ["config.toml", "log.jsonl", "model.gguf"].map(|name| std::fs::read(out.join(name)).unwrap());
    let before = files();
    for how in ["--resume", "--export-only"] {
        let said = format!("the run has --text {text}, and this command has --text {other}; go on with --text {text}");
        again(&[how, "--text", other]).assert().code(1).stderr(predicate::str::contains(said));
        let said = format!("the run has no --also, and this command has --also {other}");
        again(&[how, "--also", other]).assert().code(1).stderr(predicate::str::contains(said));
        assert!(files() == before);
    }
    again(&["--export-only"]).assert().success();
    again(&["--resume"]).assert().success();
    // The same data under another name is the same.
    let moved = dir.path().join("moved.txt");
    std::fs::rename(&text, &moved).unwrap();
    again(&["--resume", "--text", moved.to_str().unwrap()]).assert().success();
    again(&["--resume"]).assert().success();
    // Other commands do not read its settings as theirs.
    for words in [&["mnist", "--resume"][..], &["fashion-mnist", "--export-only"]] {
        let said = format!("trains a language model; go on with `sterna train {} --out {}`", words[1], out.display());
        again(words).assert().code(1).stderr(predicate::str::contains(said));
    }
}

#[test]
fn heads_of_keys_and_values_are_as_many_as_heads_unless_given() {
    let dir = TempDir::new().unwrap();
    let (text, config) = (text(&dir), dir.path().join("c.toml"));
    let train = |words: &str, out: &str| {
        let mut command = sterna();
        command.args(["train", "--text", &text, "--steps", "1", "--layers", "1", "--width", "256", "--ffn", "256"]);
        command.args(["--seq-len", "8", "--batch-size", "1", "--out"]).arg(dir.path().join(out));
        command.args(words.split_whitespace());
        command
    };
    let settings = |out: &str| std::fs::read_to_string(dir.path().join(out).join("config.toml")).unwrap();
    for (words, out, kv_heads) in [("--heads 2", "a", 2), ("--heads 8", "b", 8), ("--heads 8 --kv-heads 4", "c", 4)] {
        train(words, out).assert().success();
        assert!(settings(out).contains(&format!("kv_heads = {kv_heads}\n")), "{words}");
    }
    // Recorded settings mean what they say.
    std::fs::write(&config, settings("c")).unwrap();
    let with = format!("--config {}", config.display());
    train(&with, "d").assert().success();
    assert!(settings("d").contains("heads = 8\n") && settings("d").contains("kv_heads = 4\n"));
    train("--heads 8 --resume", "c").assert().success();
    let said = "2 heads of queries cannot share 4 heads of keys and values; give --kv-heads";
    train(&format!("{with} --heads 2"), "e").assert().code(1).stderr(predicate::str::contains(said));
}

#[test]
fn where_the_outcome_cannot_be_written_is_told_before_training() {
    let dir = TempDir::new().unwrap();
    let (text, out) = (text(&dir), dir.path().join("run"));
    let train = |output: &std::path::Path| {
        let mut command = sterna();
        command.args(["train", "--text", &text, "--steps", "1", "--json-output"]).arg(output);
        command.arg("--out").arg(&out).args(SHAPE);
        command
    };
    for (output, said) in [
        (dir.path().join("none/x.json"), "none is no folder; make it, or name another file"),
        (dir.path().to_owned(), "is a folder; name a file"),
        (std::path::PathBuf::from("/"), "is a folder; name a file"),
    ] {
        train(&output).assert().code(1).stderr(predicate::str::contains(said));
    }
    assert!(!out.exists());
    // The run's own folder is made by then.
    train(&out.join("report.json")).assert().success();
    assert!(out.join("report.json").is_file());
}

#[test]
#[cfg(unix)]
fn a_signal_to_end_saves_as_ctrl_c_does_and_nohup_keeps_its_meaning() {
    for (signal, first) in [("TERM", ""), ("HUP", ""), ("TERM", "trap '' HUP; ")] {
        let dir = TempDir::new().unwrap();
        let (text, out) = (text(&dir), dir.path().join("run"));
        // No checkpoint but the last: the default is one in two minutes.
        let config = dir.path().join("c.toml");
        std::fs::write(&config, "[run]\nlog_every = 1\n").unwrap();
        let mut command = std::process::Command::new("sh");
        command.arg("-c").arg(format!("{first}exec \"$0\" \"$@\"")).arg(env!("CARGO_BIN_EXE_sterna"));
        command.args(["train", "--text", &text, "--steps", "100000", "--config"]).arg(&config);
        command.arg("--out").arg(&out).args(SHAPE).stderr(std::process::Stdio::piped());
        let child = command.spawn().unwrap();
        let kill = |signal: &str| {
            let words = ["-s".to_owned(), signal.to_owned(), child.id().to_string()];
            assert!(std::process::Command::new("kill").args(words).status().unwrap().success());
        };
        let reach = |steps: usize| {
            let start = Instant::now();
            while logged(&out).len() < steps {
                assert!(start.elapsed() < Duration::from_secs(120), "{steps} steps take too long");
                std::thread::sleep(Duration::from_millis(20));
            }
        };
        reach(2);
        if !first.is_empty() {
            kill("HUP");
            reach(logged(&out).len() + 3);
        }
        kill(signal);
        let ended = child.wait_with_output().unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(130), "{signal}: {said}");
        assert!(said.contains("are done and saved in") && out.join("checkpoint.safetensors").is_file(), "{said}");
    }
}

#[test]
fn what_does_not_fit_into_memory_is_refused_before_it_is_allocated() {
    let dir = TempDir::new().unwrap();
    let (text, out) = (text(&dir), dir.path().join("run"));
    let mut command = sterna();
    command
        .args(["train", "--text", &text, "--width", "1000000", "--group", "row", "--rule", "none", "--out"])
        .arg(&out);
    let refused = predicate::str::contains("training needs about").and(predicate::str::contains("--batch-size"));
    command.assert().code(1).stderr(refused);
    // What fits is told.
    let mut command = sterna();
    command.args(["train", "--text", &text, "--steps", "3", "--out"]).arg(&out).args(SHAPE);
    command.assert().success().stderr(predicate::str::contains("needs about").and(predicate::str::contains("weights")));
}

#[test]
fn numbers_out_of_their_sense_are_refused_with_name_and_range() {
    let dir = TempDir::new().unwrap();
    let (text, out) = (text(&dir), dir.path().join("run"));
    for (words, said) in [
        ("--lr -1", "--lr is -1; give a number above 0"),
        ("--lr nan", "--lr is NaN; give a number above 0"),
        ("--lr 0", "--lr is 0; give a number above 0"),
        ("--second-stage 3", "--second-stage is 3; give a number from 0 to 1"),
        ("--weight-decay -0.1", "--weight-decay is -0.1; give a number, at least 0"),
        ("--dropout 1", "--dropout is 1; give a number from 0 up to"),
        ("--float-steps 60 --steps 50", "--float-steps is 60, but the run has 50 steps"),
        ("--ternary-warmup-steps 60 --steps 50", "none of the 50 steps is left"),
        ("--steps 0", "'--steps <N>': give a whole number, at least 1"),
        ("--steps -5", "'--steps <N>': give a whole number, at least 1"),
        ("--batch-size 0", "give a whole number, at least 1"),
        ("--seq-len 3", "give a whole number, at least 4"),
        ("--eval-every 0", "'--eval-every <N>': give a whole number, at least 1"),
        ("--warmup-steps -1", "give a whole number, at least 0"),
        ("--layers 0", "give a whole number, at least 1"),
        ("--heads -4", "'--heads <N>': give a whole number, at least 1"),
        ("--seed 9999999999999999999", "'--seed <SEED>': give a whole number from 0 to 2^63 - 1"),
        ("--seed -1", "'--seed <SEED>': give a whole number from 0 to 2^63 - 1"),
        ("--device cuda", "possible values: cpu, auto"),
    ] {
        let mut command = sterna();
        command.args(["train", "--text", &text, "--out"]).arg(&out).args(words.split(' '));
        command.assert().failure().stderr(predicate::str::contains(said));
    }
    let config = dir.path().join("c.toml");
    for (settings, said) in [
        ("held_out = 2.0", "held_out is 2; give a share of the text, above 0 and below 1"),
        ("[run.schedule]\nlr = nan", "--lr is NaN"),
        ("[run.schedule]\nsteps = -3", "steps = -3"),
        ("[run]\nlog_every = 0", "run.log_every is 0"),
        ("[run.optimizer]\nbeta1 = 1.5", "run.optimizer.beta1 is 1.5"),
        ("[model]\neps = 0.0", "model.eps is 0"),
    ] {
        std::fs::write(&config, settings).unwrap();
        let mut command = sterna();
        command.args(["train", "--text", &text, "--config"]).arg(&config).arg("--out").arg(&out);
        command.assert().code(1).stderr(predicate::str::contains(said));
    }
    assert!(!out.exists());
}

#[test]
fn a_rare_character_at_the_end_is_told_and_trained_around() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("dash.txt");
    let text = std::fs::read_to_string(text(&dir)).unwrap() + "the king — a fool\n";
    std::fs::write(&path, text).unwrap();
    let mut command = sterna();
    command
        .arg("train")
        .arg("--text")
        .arg(&path)
        .args(["--steps", "3", "--out"])
        .arg(dir.path().join("run"))
        .args(SHAPE);
    let said = predicate::str::contains("note: 1 character stands only in the part that is held out")
        .and(predicate::str::contains("U+2014"));
    command.assert().success().stderr(said);
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
