//! How it looks: width, lines, words for sizes, retries, manual pages, versions, completions.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};

use predicates::prelude::*;
use tempfile::TempDir;

use crate::support::{fixture, shipped, stdout, sterna};

fn fits(text: &str, width: usize) {
    for line in text.lines().filter(|line| line.contains("  ") || line.starts_with('|')) {
        assert!(line.chars().count() <= width, "{} characters: {line}\n{text}", line.chars().count());
    }
}

#[test]
fn tables_fit_the_width_of_the_screen() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("model.gguf");
    let model = shipped("shakespeare.gguf");
    let converted =
        |width: &str| stdout(sterna().env("COLUMNS", width).arg("convert").arg(fixture("llama")).arg("-o").arg(&out));
    for width in [80, 60] {
        let width_text = width.to_string();
        let narrow = |command: &mut assert_cmd::Command| stdout(command.env("COLUMNS", &width_text));
        fits(&narrow(sterna().arg("inspect").arg(&model)), width);
        fits(&narrow(sterna().args(["data", "list"])), width);
        fits(
            &narrow(sterna().args([
                "bench",
                "gemm",
                "-r",
                "1",
                "--seconds",
                "0.01",
                "--shape",
                "14336x64x3",
                "--group",
                "64",
            ])),
            width,
        );
        fits(&converted(&width_text), width);
    }
    let bench =
        stdout(sterna().env("COLUMNS", "80").args(["bench", "-p", "1", "-n", "1", "-r", "1", "-m"]).arg(&model));
    fits(&bench, 80);
    assert!(bench.starts_with("bitnet Q2_0, "), "{bench}");
    let gguf =
        stdout(sterna().env("COLUMNS", "80").args(["bench", "gguf", "-p", "1", "-n", "1", "-r", "1"]).arg(&model));
    fits(&gguf, 80);
    // To a pipe a row is a line, however long.
    let wide = stdout(sterna().args(["data", "list"]));
    assert_eq!(wide.lines().count(), 1 + sterna::data::CATALOGUE.len(), "{wide}");
}

#[test]
fn a_larger_file_is_called_larger() {
    let dir = TempDir::new().unwrap();
    let convert = |quant: &str, name: &str| {
        let mut command = sterna();
        command.arg("convert").arg(fixture("llama")).arg("-o").arg(dir.path().join(name)).args(["--quant", quant]);
        stdout(&mut command)
    };
    assert!(convert("TQ2_0", "a.gguf").contains(" times smaller, in "));
    let mut command = sterna();
    command.arg("dequantize").arg(dir.path().join("a.gguf")).arg(dir.path().join("b.gguf")).args(["--type", "F32"]);
    let larger = stdout(&mut command);
    assert!(larger.contains(" times larger, in ") && !larger.contains("times smaller"), "{larger}");
}

#[test]
#[cfg(unix)]
fn text_and_speed_are_on_lines_of_their_own() {
    let run = |redirection: &str| {
        let script = format!("exec \"$0\" run \"$1\" -p ROMEO: -n 5 -s 1 {redirection}");
        let output = Command::new("sh")
            .args(["-c", &script, env!("CARGO_BIN_EXE_sterna")])
            .arg(shipped("shakespeare.gguf"))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let text = run("2>/dev/null");
    assert!(text.starts_with("ROMEO:") && text.chars().count() == 11, "{text:?}");
    let both = run("2>&1");
    let rest = both.strip_prefix(&text).unwrap();
    let line = if text.ends_with('\n') { rest } else { rest.strip_prefix('\n').unwrap() };
    assert!(line.starts_with("prompt 6 tokens at ") && line.lines().count() == 1, "{both:?}");
}

#[test]
fn messages_have_no_colours_in_a_pipe() {
    let plain = predicate::str::starts_with("error: ").and(predicate::str::contains('\u{1b}').not());
    sterna().args(["inspect", "/nonexistent"]).env("TERM", "xterm").assert().code(1).stderr(plain);
}

#[test]
fn a_retry_is_announced_when_it_is_made() {
    let dir = TempDir::new().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for (asked, mut stream) in listener.incoming().flatten().enumerate() {
            let _ = stream.read(&mut [0; 2048]);
            let status = if asked == 0 { 503 } else { 404 };
            let head = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            let _ = stream.write_all(head.as_bytes());
        }
    });
    let mut command = sterna();
    command.env("STERNA_DATA_MIRROR", &address).env("STERNA_DATA_DIR", dir.path());
    let said = format!(
        "{address}/tinyshakespeare/tinyshakespeare.txt: the server fails (status 503); trying again in 1 s (try 2 of 5)\n"
    );
    command
        .args(["data", "get", "tinyshakespeare"])
        .assert()
        .code(1)
        .stderr(predicate::str::contains(said).and(predicate::str::contains("also after").not()));
}

#[test]
fn warnings_about_a_model_are_given_wherever_it_is_loaded() {
    // A vocabulary that names a way of cutting words which nobody knows.
    let dir = TempDir::new().unwrap();
    let model = dir.path().join("model.gguf");
    stdout(sterna().arg("convert").arg(fixture("qwen3")).arg("-o").arg(&model));
    let bytes = std::fs::read(&model).unwrap();
    let file = sterna_core::gguf::Gguf::parse(&bytes).unwrap();
    let pre = file.header().metadata.str("tokenizer.ggml.pre").unwrap();
    // The key, the type of its value, the length of the text.
    let key = b"tokenizer.ggml.pre";
    let at = bytes.windows(key.len()).position(|window| window == key).unwrap() + key.len() + 12;
    let mut changed = bytes.clone();
    assert_eq!(&changed[at..at + pre.len()], pre.as_bytes());
    changed[at..at + pre.len()].fill(b'z');
    std::fs::write(&model, changed).unwrap();
    let text = dir.path().join("text.txt");
    std::fs::write(&text, "to be or not to be ".repeat(60)).unwrap();
    let model = model.to_str().unwrap();
    let text = text.to_str().unwrap();
    for words in [
        &["run", model, "-n", "1", "-p", "a"][..],
        &["chat", model, "-n", "1"],
        &["bench", model, "-p", "1", "-n", "0", "-r", "1"],
        &["bench", "gguf", model, model, "-p", "1", "-n", "0", "-r", "1"],
        &["perplexity", "-m", model, "-f", text, "-c", "32", "--chunks", "1"],
        &["tokenize", model, "-p", "a"],
    ] {
        let warned = predicate::str::contains("warning: ").count(1).and(predicate::str::contains("zzz"));
        sterna().args(words).write_stdin("").assert().success().stderr(warned);
    }
}

#[test]
fn manual_pages_are_written_for_every_command() {
    let dir = TempDir::new().unwrap();
    let pages = dir.path().join("man1");
    let first = stdout(sterna().arg("man").arg(&pages));
    assert_eq!(first.trim_end(), pages.join("sterna.1").display().to_string());
    for (name, said) in [
        ("sterna", "perplexity"),
        ("sterna-run", "top\\-k"),
        ("sterna-bench-gguf", "repetitions"),
        ("sterna-data-get", "data\\-dir"),
    ] {
        let page = std::fs::read_to_string(pages.join(format!("{name}.1"))).unwrap();
        assert!(page.contains(".TH") && page.contains(said), "{name}: {page}");
    }
    assert!(!std::fs::read_to_string(pages.join("sterna-bench-gguf.1")).unwrap().contains("in-this-process"));
}

#[test]
fn the_version_names_the_commit() {
    let version = stdout(sterna().arg("--version"));
    let number = env!("CARGO_PKG_VERSION");
    assert!(version.starts_with(&format!("sterna {number}")), "{version}");
    assert_eq!(version.trim_end(), format!("sterna {}", sterna::VERSION));
    if !sterna::COMMIT.is_empty() {
        assert!(sterna::COMMIT.len() == 10 && version.contains(&format!("({}", sterna::COMMIT)), "{version}");
    }
}

#[test]
fn verbose_tells_what_is_done() {
    let model = shipped("shakespeare.gguf");
    let run = |words: &[&str]| {
        let output =
            sterna().args(words).arg(&model).args(["-n", "1", "-p", "A"]).assert().success().get_output().clone();
        String::from_utf8(output.stderr).unwrap()
    };
    for words in [&["run", "-v"][..], &["run", "--verbose"], &["-v", "run"]] {
        let said = run(words);
        assert!(said.starts_with("sterna 0.") && said.contains("loaded ") && said.contains("kernel "), "{said}");
    }
    assert!(!run(&["run"]).contains("loaded"));
}

#[test]
fn completions_know_the_names_that_flags_take() {
    let flags = ["scalar", "TQ2_0", "absmean", "chatml", "fashion-mnist", "float16"];
    let words = ["tinyshakespeare", "wikitext-2", "powershell"];
    // For fish only what follows a flag is generated.
    for (shell, words) in [("bash", &words[..]), ("zsh", &words), ("fish", &[])] {
        let script = stdout(sterna().args(["completions", shell]));
        for name in flags.iter().chain(words) {
            assert!(script.contains(name), "{shell} does not complete {name}");
        }
    }
}
