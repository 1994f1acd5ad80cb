//! Commands that run a real, small model.

use predicates::prelude::*;

use crate::support::{data, stdout, sterna};

const MODEL: &str = "stories260k/stories260K.gguf";

#[test]
fn greedy_text_is_the_reference_byte_for_byte() {
    let (Some(model), Some(expected)) = (data(MODEL), data("stories260k/expected_greedy_200steps.txt")) else { return };
    let expected = std::fs::read_to_string(expected).unwrap();
    for threads in ["1", "2", "7"] {
        for kernel in [None, Some("scalar")] {
            let mut command = sterna();
            command.arg("run").arg(&model).args(["--temp", "0", "-n", "200", "-t", threads]);
            kernel.map(|kernel| command.args(["--kernel", kernel]));
            assert_eq!(stdout(&mut command), expected, "{threads} threads, kernel {kernel:?}");
        }
    }
}

#[test]
fn prompts_come_from_the_line_a_file_or_stdin_and_seeds_repeat() {
    let Some(model) = data(MODEL) else { return };
    let run = |words: &[&str], stdin: &str| {
        stdout(sterna().arg("run").arg(&model).args(["-n", "20"]).args(words).write_stdin(stdin))
    };
    let one = run(&["-p", "Once upon", "-s", "42"], "");
    assert!(one.starts_with("Once upon"));
    assert_eq!(one, run(&["-f", "-", "-s", "42"], "Once upon"));
    assert_eq!(one, format!("Once upon{}", run(&["-p", "Once upon", "-s", "42", "--no-display-prompt"], "")));
    // The model is so small that two seeds may well agree; five do not.
    assert!(["43", "44", "45", "46", "47"].iter().any(|seed| run(&["-p", "Once upon", "-s", seed], "") != one));
    assert!(run(&["-p", r"a\nb", "-s", "1"], "").starts_with("a\nb"));
    assert!(run(&["-p", r"a\nb", "-s", "1", "--no-escape"], "").starts_with(r"a\nb"));
}

#[test]
fn kernels_that_are_not_here_are_named() {
    let Some(model) = data(MODEL) else { return };
    for mut command in [sterna(), sterna()].into_iter().zip([true, false]).map(|(mut command, flag)| {
        if flag {
            command.args(["run", "--kernel", "sse9"])
        } else {
            command.env("STERNA_KERNEL", "sse9").arg("run")
        };
        command
    }) {
        command
            .arg(&model)
            .assert()
            .code(1)
            .stderr(predicate::str::contains("sse9").and(predicate::str::contains("scalar")));
    }
}

#[test]
fn tokens_are_shown_in_three_ways() {
    let Some(model) = data(MODEL) else { return };
    let tokenize = |words: &[&str]| stdout(sterna().arg("tokenize").arg(&model).args(["-p", "Once upon"]).args(words));
    let ids = tokenize(&["--ids"]);
    assert!(ids.starts_with("[1, ") && !tokenize(&["--ids", "--no-bos"]).starts_with("[1, "), "{ids}");
    let count = ids.split(',').count();
    assert_eq!(tokenize(&[]).lines().count(), count);
    assert!(tokenize(&["--ids", "--show-count"]).ends_with(&format!("tokens: {count}\n")));
    let json: serde_json::Value = serde_json::from_str(&tokenize(&["--json"])).unwrap();
    assert_eq!(json.as_array().unwrap().len(), count);
}

#[test]
fn bench_reports_every_test_at_every_number_of_threads() {
    let Some(model) = data(MODEL) else { return };
    let mut command = sterna();
    command.arg("bench").arg(&model);
    command.args(["-p", "32,64", "-n", "8", "-pg", "16,4", "-t", "1,2", "-r", "2", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&stdout(&mut command)).unwrap();
    let rows = json.as_array().unwrap();
    assert_eq!(rows.len(), 8);
    for row in rows {
        assert!(row["avg_ts"].as_f64().unwrap() > 0.0 && row["gops"].as_f64().unwrap() > 0.0, "{row}");
        assert_eq!(row["samples_ns"].as_array().unwrap().len(), 2);
    }
    let mut command = sterna();
    command.arg("bench").arg(&model).args(["-p", "100000", "-n", "0", "-r", "1", "--no-warmup"]);
    command.assert().success().stderr(predicate::str::contains("pp100000 is measured as pp512"));
}

#[test]
fn perplexity_of_a_story_is_below_that_of_noise() {
    let Some(model) = data(MODEL) else { return };
    let perplexity = |text: &str| {
        let mut command = sterna();
        command.arg("perplexity").arg(&model).args(["-f", "-", "-c", "64", "--json"]);
        let json: serde_json::Value = serde_json::from_str(&stdout(command.write_stdin(text))).unwrap();
        (json["perplexity"].as_f64().unwrap(), json["tokens"].as_u64().unwrap())
    };
    let story =
        "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. ".repeat(4);
    let noise: String = story.chars().rev().collect();
    let ((story, tokens), (noise, _)) = (perplexity(&story), perplexity(&noise));
    assert!(story < 10.0 && noise > 3.0 * story, "{story} {noise}");
    assert_eq!(tokens % 31, 0, "each chunk of 64 scores the 31 that follow its middle");

    let mut command = sterna();
    command.arg("perplexity").arg(&model).args(["-f", "-", "-c", "32", "--chunks", "2", "--split", "0.5"]);
    let text = stdout(command.write_stdin("The cat sat on the mat and the dog sat on the cat. ".repeat(20)));
    assert!(text.starts_with("[1]") && text.contains(",[2]") && text.contains("Final estimate: PPL = "), "{text}");
    assert!(!text.contains("[3]"));
}

#[test]
fn a_stride_scores_all_of_the_text_and_counts_its_characters() {
    let Some(model) = data(MODEL) else { return };
    let text = "Once upon a time, there was a tiny bird — it couldn't fly. The bird wanted to see the sea. ".repeat(3);
    let measure = |words: &[&str]| -> serde_json::Value {
        let mut command = sterna();
        command.arg("perplexity").arg(&model).args(["-f", "-", "--json"]).args(words);
        serde_json::from_str(&stdout(command.write_stdin(text.clone()))).unwrap()
    };
    let all = measure(&["-c", "512", "--stride", "256"]);
    // One window holds the whole text; narrower ones score the same tokens with less context.
    let narrow = measure(&["-c", "32", "--stride", "8"]);
    assert_eq!((&all["tokens"], &all["characters"]), (&narrow["tokens"], &narrow["characters"]));
    assert_eq!(all["characters"], text.chars().count());
    let number = |json: &serde_json::Value, key: &str| json[key].as_f64().unwrap();
    assert!(number(&narrow, "nats_per_token") > number(&all, "nats_per_token"));
    for json in [&all, &narrow] {
        let sum = number(json, "nats_per_token") * number(json, "tokens");
        assert!((number(json, "perplexity").ln() - number(json, "nats_per_token")).abs() < 1e-9);
        assert!((number(json, "nats_per_character") * text.chars().count() as f64 - sum).abs() < 1e-6);
        assert!((number(json, "bits_per_byte") * text.len() as f64 * std::f64::consts::LN_2 - sum).abs() < 1e-6);
    }

    let mut command = sterna();
    command.arg("perplexity").arg(&model).args(["-f", "-", "-c", "32", "--stride", "32"]).write_stdin("Once");
    command.assert().code(1).stderr(predicate::str::contains("--stride 32"));
}

#[test]
fn chat_answers_each_line_and_needs_a_template() {
    let Some(model) = data(MODEL) else { return };
    sterna()
        .arg("chat")
        .arg(&model)
        .write_stdin("Hello\n")
        .assert()
        .code(1)
        .stderr(predicate::str::contains("no chat template").and(predicate::str::contains("chatml")));
    let chat = |lines: &str| {
        let mut command = sterna();
        command.arg("chat").arg(&model).args([
            "--chat-template",
            "chatml",
            "-sys",
            "Be kind.",
            "--temp",
            "0",
            "-n",
            "5",
        ]);
        stdout(command.write_stdin(lines.to_owned()))
    };
    let one = chat("Hello\n");
    assert!(!one.trim().is_empty());
    let two = chat("Hello\n\nAnd then?\n/exit\nnever said\n");
    assert!(two.starts_with(&one) && two.len() > one.len(), "{one:?} {two:?}");
    // After /clear the conversation is a new one, so the same words get the same answer.
    assert_eq!(chat("Hello\n/clear\nHello\n"), format!("{one}{one}"));
}

/// A fixture of random weights; it needs no data.
const FIXTURE: &str = "../core/tests/data/models/llama-tq2_0.gguf";

#[test]
fn tokens_are_counted_and_not_the_pieces_of_text() {
    // Half of its tokens are single bytes, so that most texts end inside a character, which is written out at the end.
    let mut inside = 0;
    for seed in 0..12 {
        let mut command = sterna();
        command.args(["run", FIXTURE, "-p", "a", "--no-display-prompt", "-n", "2", "--ignore-eos", "-s"]);
        let output = command.arg(seed.to_string()).assert().success().get_output().clone();
        let (text, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(said.contains("generated 2 tokens"), "seed {seed}: {said}");
        inside += u32::from(text.ends_with('\u{fffd}'));
    }
    assert!(inside > 0);
}

#[test]
fn a_context_longer_than_the_models_is_a_warning() {
    let said = |context: &str| {
        let mut command = sterna();
        command.args(["run", FIXTURE, "-p", "a", "-n", "1", "-s", "1", "-c", context]);
        String::from_utf8(command.assert().success().get_output().stderr.clone()).unwrap()
    };
    let long = said("1000");
    assert!(
        long.contains("warning: the context of 1000 tokens is longer than the 256 that the model was made for"),
        "{long}"
    );
    assert!(!said("256").contains("warning"));
}
