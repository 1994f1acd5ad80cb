//! llama.cpp's flags as they are typed, and what each of them does.

use predicates::prelude::*;
use tempfile::TempDir;

use crate::support::{data, fixture, json, shipped, stdout, sterna};

fn run(words: &[&str]) -> assert_cmd::Command {
    let mut command = sterna();
    command.arg("run").arg(shipped("shakespeare.gguf")).args(["--temp", "0", "-p", "ROMEO:", "--no-perf"]).args(words);
    command
}

#[test]
fn what_does_nothing_here_is_noted_once_and_the_text_is_the_same() {
    let plain = stdout(&mut run(&["-n", "20"]));
    let mut command = run(&["-n", "20", "-ngl", "99", "-fa", "on", "--no-mmap", "-b", "512", "-no-cnv", "-ngl", "99"]);
    let assert = command.assert().success().stdout(plain);
    let notes = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
    assert_eq!(notes.lines().count(), 5, "{notes}");
    assert!(notes.starts_with("note: -ngl 99 has no effect: everything runs on the CPU\n"), "{notes}");
    let unknown = predicate::str::contains("error: there is no flag -nosuch").and(predicate::str::contains("Usage: "));
    run(&["-nosuch", "3"]).assert().code(2).stdout("").stderr(unknown);
}

#[test]
fn stop_texts_end_the_text_and_are_not_printed() {
    let whole = stdout(&mut run(&["-n", "60", "--no-display-prompt"]));
    let line = whole.trim_start().lines().next().unwrap();
    let word = line.split(' ').nth(1).unwrap();
    let stopped = stdout(&mut run(&["-n", "60", "--no-display-prompt", "-r", "never", "--stop", word]));
    assert_eq!(stopped, whole.split(word).next().unwrap());
    // Escapes are read in them as in the prompt.
    let lines = stdout(&mut run(&["-n", "60", "--no-display-prompt", "-r", r"\n"]));
    assert_eq!(lines, whole.split('\n').next().unwrap());
}

#[test]
fn biases_and_penalties_reach_the_sampler() {
    let plain = stdout(&mut run(&["-n", "40", "--no-display-prompt"]));
    let ids = stdout(sterna().arg("tokenize").arg(shipped("shakespeare.gguf")).args([
        "--ids",
        "-p",
        &plain[..1],
        "--no-bos",
    ]));
    let first = ids.trim().trim_matches(['[', ']']).to_owned();
    let without = stdout(&mut run(&["-n", "40", "--no-display-prompt", "-l", &format!("{first}-inf")]));
    assert!(!without.contains(&plain[..1]) && !without.is_empty(), "{without}");
    for penalty in ["--presence-penalty", "--frequency-penalty"] {
        assert_ne!(stdout(&mut run(&["-n", "40", "--no-display-prompt", penalty, "3"])), plain);
        assert_eq!(stdout(&mut run(&["-n", "40", "--no-display-prompt", penalty, "3", "--repeat-last-n", "0"])), plain);
    }
    run(&["--logit-bias", "9999+1"]).assert().code(1).stderr(predicate::str::contains("no token 9999 to bias"));
    run(&["--logit-bias", "x"]).assert().code(2).stderr(predicate::str::contains("15043+1"));
}

#[test]
fn what_is_kept_stays_in_a_context_that_is_shifted() {
    let long = |words: &[&str]| {
        let mut command = run(&["-n", "60", "-c", "32", "--no-display-prompt"]);
        stdout(command.args(words)).chars().count()
    };
    assert_eq!(long(&[]), 26);
    assert_eq!(long(&["--context-shift"]), 60);
    assert_eq!(long(&["--context-shift", "--keep", "-1"]), 60);
    // -2 ends where the context is full.
    assert_eq!(long(&["--context-shift", "-n", "-2"]), 26);
    let text = |keep: &str| stdout(&mut run(&["-n", "60", "-c", "32", "--context-shift", "--keep", keep]));
    assert_ne!(text("0"), text("6"));
}

#[test]
fn a_chunk_is_no_longer_than_the_text() {
    let Some(model) = data("stories260k/stories260K.gguf") else { return };
    let measure = |words: &[&str]| {
        let mut command = sterna();
        command.arg("perplexity").arg(&model).args(["-f", "-", "--json"]).args(words);
        command.write_stdin("Once upon a time, there was a little girl named Lily. She liked to play.");
        command
    };
    let mut short = measure(&[]);
    let short =
        short.assert().success().stderr(predicate::str::contains("fewer than a chunk of 512, so it is one chunk of"));
    let found = json(&String::from_utf8_lossy(&short.get_output().stdout));
    let tokens = String::from_utf8_lossy(&short.get_output().stderr).split_whitespace().nth(4).unwrap().to_owned();
    let exact = json(&stdout(&mut measure(&["-c", &tokens])));
    assert_eq!(found, exact);
    measure(&["-c", "3"]).assert().code(1).stderr(predicate::str::contains("at least 4"));
}

#[test]
fn no_speed_is_measured_of_no_tokens() {
    let dir = TempDir::new().unwrap();
    let text = dir.path().join("text.txt");
    std::fs::write(&text, "The quick brown fox jumps over the lazy dog. ".repeat(9)).unwrap();
    let mut command = sterna();
    command.args(["bench", "model"]).arg(fixture("llama")).arg("--text").arg(&text);
    let report = json(&stdout(command.args(["-c", "32", "--max-new-tokens", "0", "--json"])));
    assert!(report["baseline"]["tok_s"].is_null() && report["baseline"]["ppl"].is_number(), "{report}");
}

#[test]
fn bench_takes_lists_ranges_depths_and_several_models() {
    let dir = TempDir::new().unwrap();
    let other = dir.path().join("other.gguf");
    std::fs::copy(shipped("shakespeare.gguf"), &other).unwrap();
    let mut command = sterna();
    command.arg("bench").arg("-m").arg(shipped("shakespeare.gguf")).arg("-m").arg(&other);
    command.args(["-p", "4-8*2", "-n", "2", "-n", "3", "-d", "0,16", "-r", "1", "-t", "1", "-ngl", "0", "-fa", "0,1"]);
    let assert = command.args(["-o", "jsonl", "-oe", "csv", "--progress", "--no-warmup"]).assert().success();
    let rows: Vec<_> = String::from_utf8_lossy(&assert.get_output().stdout).lines().map(json).collect();
    let tests: Vec<_> =
        rows.iter().map(|row| ["n_prompt", "n_gen", "n_depth"].map(|key| row[key].as_u64().unwrap())).collect();
    let at = |depth| [[4, 0, depth], [8, 0, depth], [0, 2, depth], [0, 3, depth]];
    assert_eq!(tests, [at(0), at(16), at(0), at(16)].concat());
    assert!(
        rows[7]["model_filename"] == shipped("shakespeare.gguf").to_str().unwrap()
            && rows[8]["model_filename"] == other.to_str().unwrap()
    );
    let said = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
    assert!(
        said.contains("note: -fa 0,1 has no effect") && said.contains("test 8 of 16: tg3 @ d16 on 1 threads"),
        "{said}"
    );
    assert!(said.lines().any(|line| line.starts_with("build_commit,build_version,cpu_info")), "{said}");
    let mut command = sterna();
    command.arg("bench").arg(shipped("shakespeare.gguf")).args(["-d", "99999"]);
    command.assert().code(1).stderr(predicate::str::contains("-d 99999 leaves nothing of the model's context of 256"));
}

#[test]
fn chat_ends_after_one_turn_and_takes_lines_together() {
    let Some(model) = data("stories260k/stories260K.gguf") else { return };
    let chat = |words: &[&str], lines: &str| {
        let mut command = sterna();
        command.arg("chat").arg(&model).args(["--chat-template", "chatml", "--temp", "0", "-n", "5"]).args(words);
        stdout(command.write_stdin(lines.to_owned()))
    };
    let one = chat(&[], "Hello\n");
    assert_eq!(chat(&["-st", "-p", "Hello"], "And then?\n"), one);
    assert_eq!(chat(&["--single-turn"], "Hello\nAnd then?\n"), one);
    // A line that was begun when the input ends is said.
    assert_eq!(chat(&[], "Hello\\"), chat(&[], "Hello\\\n"));
    let two = chat(&[], "One\\\ntwo\n");
    assert_eq!(chat(&["-mli"], "One\ntwo\\\n/exit\n"), two);
    assert_eq!(chat(&["-mli"], "/exit\n"), "");
}
