//! Ctrl-C: exit code 130 everywhere, and partial results that say so. Each test waits for a sign that the work is under way, so it does
//! not depend on how fast the machine is.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{fixture, json, process, shipped, stdout, sterna};

/// What a program wrote, and how it ended.
struct Ended {
    code: Option<i32>,
    out: String,
    said: String,
}

impl Ended {
    /// Holds the end to what Ctrl-C promises.
    fn stopped(self) -> Self {
        assert_eq!(self.code, Some(130), "{} {}", self.out, self.said);
        assert!(self.said.lines().any(|line| line.starts_with("stopped with Ctrl-C")), "{}", self.said);
        assert!(!self.said.contains("error:") && !self.out.contains("Final"), "{} {}", self.out, self.said);
        self
    }
}

/// Runs until `sign` stands in what was written to stdout and stderr, and presses Ctrl-C.
fn pressed(mut command: Command, sign: impl Fn(&str, &str) -> bool) -> Ended {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (out, reading_out) = collected(child.stdout.take().unwrap());
    let (said, reading_said) = collected(child.stderr.take().unwrap());
    let text = |of: &Arc<Mutex<Vec<u8>>>| String::from_utf8_lossy(&of.lock().unwrap()).into_owned();
    while !sign(&text(&out), &text(&said)) {
        let ended = child.try_wait().unwrap();
        assert!(ended.is_none(), "it ended before the sign, with {ended:?}: {} {}", text(&out), text(&said));
        thread::sleep(Duration::from_millis(2));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let code = child.wait().unwrap().code();
    reading_out.join().unwrap();
    reading_said.join().unwrap();
    Ended { code, out: text(&out), said: text(&said) }
}

/// Reads to the end, in the background.
fn collected(mut from: impl Read + Send + 'static) -> (Arc<Mutex<Vec<u8>>>, JoinHandle<()>) {
    let all = Arc::new(Mutex::new(Vec::new()));
    let place = all.clone();
    let reading = thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(n @ 1..) = from.read(&mut piece) {
            place.lock().unwrap().extend_from_slice(&piece[..n]);
        }
    });
    (all, reading)
}

/// A text of so many lines, of letters that the shipped model knows.
fn text(dir: &TempDir, lines: usize) -> std::path::PathBuf {
    let path = dir.path().join("text.txt");
    std::fs::write(&path, "But soft, what light through yonder window breaks?\n".repeat(lines)).unwrap();
    path
}

#[test]
fn generation_keeps_its_text_and_ends_with_130() {
    let mut command = process();
    command.arg("run").arg(shipped("shakespeare.gguf"));
    command.args(["-p", "ROMEO:", "-s", "1", "-n", "-1", "--ignore-eos", "--context-shift"]);
    let ended = pressed(command, |out, _| out.len() > 20).stopped();
    assert!(ended.out.starts_with("ROMEO:"));
    assert!(ended.said.contains("generated"), "{}", ended.said);
    // The model inside, too.
    let mut command = process();
    command.args(["-n", "100000000", "-s", "1"]);
    pressed(command, |out, _| out.len() > 20).stopped();
}

#[test]
fn a_partial_perplexity_is_called_partial() {
    let dir = TempDir::new().unwrap();
    let command = |words: &[&str]| {
        let mut command = process();
        command.arg("perplexity").arg("-m").arg(shipped("shakespeare.gguf")).arg("-f").arg(text(&dir, 2000));
        command.args(["-c", "32", "--stride", "1"]).args(words);
        command
    };
    let ended = pressed(command(&[]), |out, _| out.contains("[3]")).stopped();
    let line = ended.out.lines().find(|line| line.starts_with("Partial estimate after ")).unwrap();
    assert!(line.contains("of 101,969 chunks: PPL = "), "{line}");
    assert!(ended.said.contains("partial: ") && ended.said.contains(" of 101,969 chunks"), "{}", ended.said);
    let ended = pressed(command(&["--json"]), |_, said| said.contains("chunks of 32 tokens")).stopped();
    let report = json(&ended.out);
    let count = |key: &str| report[key].as_u64().unwrap();
    assert!(report["partial"] == true && report["perplexity"].as_f64().unwrap() > 1.0, "{report}");
    assert!((1..101_969).contains(&count("chunks")) && count("chunks_in_all") == 101_969, "{report}");
    // A whole one says that it is whole.
    let whole = json(&stdout(
        sterna()
            .args(["perplexity", "--json", "-c", "32", "--chunks", "2", "-m"])
            .arg(shipped("shakespeare.gguf"))
            .arg("-f")
            .arg(text(&dir, 2000)),
    ));
    assert_eq!((&whole["partial"], &whole["chunks"], &whole["chunks_in_all"]), (&false.into(), &2.into(), &2.into()));
}

#[test]
fn a_benchmark_keeps_the_tests_that_were_done() {
    let command = |words: &[&str]| {
        let mut command = process();
        command
            .args(["bench", "-p", "0", "-n", "1,250", "-r", "300", "-m"])
            .arg(shipped("shakespeare.gguf"))
            .args(words);
        command
    };
    let ended = pressed(command(&["-o", "jsonl"]), |out, _| out.contains("}\n")).stopped();
    let lines: Vec<Value> = ended.out.lines().map(json).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!((&lines[0]["n_gen"], &lines[1]), (&1.into(), &json(r#"{"partial":true,"tests":1,"tests_in_all":2}"#)));
    let ended = pressed(command(&["--json"]), |out, _| out.contains('}')).stopped();
    let array = json(&ended.out);
    assert_eq!((array.as_array().unwrap().len(), &array[1]["partial"]), (2, &true.into()));
    let ended = pressed(command(&[]), |out, _| out.contains("tg1 ")).stopped();
    assert!(
        ended.out.contains("partial: 1 of 2 tests") && ended.said.contains("partial: 1 of 2 tests"),
        "{}",
        ended.out
    );
}

#[test]
fn suites_keep_what_was_done() {
    // Files: the child that measures the second ends too.
    let small = Path::new(env!("CARGO_MANIFEST_DIR")).join("../core/tests/data/models/llama-tq2_0.gguf");
    let mut command = process();
    command.args(["bench", "gguf", "-v", "--json", "-p", "0", "-n", "8", "-r", "200"]);
    command.arg(small).arg(shipped("shakespeare.gguf"));
    let ended = pressed(command, |_, said| said.contains("measuring") && said.contains("shakespeare.gguf")).stopped();
    let report = json(&ended.out);
    assert_eq!((&report["partial"], &report["files_in_all"]), (&true.into(), &2.into()));
    assert_eq!(report["files"].as_array().unwrap().len(), 1);

    let mut command = process();
    command.args(["bench", "gemm", "-v", "--json", "-r", "3", "--shape", "16x256x1", "--shape", "2048x2048x512"]);
    let ended = pressed(command, |_, said| said.contains("measuring 2048x2048x512")).stopped();
    let report = json(&ended.out);
    assert_eq!((&report["partial"], &report["shapes"], &report["shapes_in_all"]), (&true.into(), &1.into(), &2.into()));
    assert!(report["rows"].as_array().unwrap().iter().all(|row| row["tokens"] == 1));

    let dir = TempDir::new().unwrap();
    let mut command = process();
    command.args(["bench", "model", "-v", "--json", "--skip-latency", "-c", "32"]).arg(fixture("llama"));
    command.arg("--text").arg(text(&dir, 400));
    let ended = pressed(command, |_, said| said.contains("loaded") && said.contains("ptq.gguf")).stopped();
    let report = json(&ended.out);
    assert!(report["partial"] == true && report["ptq"].is_null() && report["baseline"]["ppl"].is_number(), "{report}");
}

#[test]
fn a_partial_accuracy_says_of_how_many() {
    let dir = TempDir::new().unwrap();
    let folder = dir.path().join("mnist");
    std::fs::create_dir(&folder).unwrap();
    let count = 5000u32;
    let mut images = vec![0, 0, 8, 3];
    images.extend([count, 28, 28].iter().flat_map(|dim| dim.to_be_bytes()));
    images.resize(16 + count as usize * 784, 0);
    let mut labels = vec![0, 0, 8, 1];
    labels.extend(count.to_be_bytes());
    labels.resize(8 + count as usize, 0);
    for (name, content) in [("t10k-images-idx3-ubyte", images), ("t10k-labels-idx1-ubyte", labels)] {
        std::fs::write(folder.join(name), content).unwrap();
    }
    for name in ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"] {
        std::fs::write(folder.join(name), "").unwrap();
    }
    let command = |words: &[&str]| {
        let mut command = process();
        command.arg("eval").arg(shipped("mnist.gguf")).arg("-v").arg("--data-dir").arg(dir.path()).args(words);
        command
    };
    let ended = pressed(command(&["--json"]), |_, said| said.contains("classifying 5000 images")).stopped();
    let report = json(&ended.out);
    assert!(report["partial"] == true && report["images_in_all"] == 5000, "{report}");
    assert!((1..5000).contains(&report["images"].as_u64().unwrap()), "{report}");
    let ended = pressed(command(&[]), |_, said| said.contains("classifying 5000 images")).stopped();
    assert!(ended.out.contains("(partial: 5000 in all)"), "{}", ended.out);
}

#[test]
fn a_download_ends_with_130_and_keeps_what_it_has() {
    let dir = TempDir::new().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    // A file of which a byte comes every hundredth of a second, for ever.
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 2048];
            let n = stream.read(&mut request).unwrap_or(0);
            let listing = request[..n].starts_with(b"GET /api/models/a/b");
            let body = r#"{"sha":"c0ffee","siblings":[{"rfilename":"m.gguf","size":1000000}]}"#;
            let length = if listing { body.len() } else { 1_000_000 };
            let head = format!("HTTP/1.1 200 X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
            let _ = stream.write_all(head.as_bytes());
            if listing {
                let _ = stream.write_all(body.as_bytes());
                continue;
            }
            thread::spawn(move || {
                while stream.write_all(b"x").is_ok() {
                    thread::sleep(Duration::from_millis(10));
                }
            });
        }
    });
    let mut command = process();
    command.env("HF_ENDPOINT", address).env("STERNA_CACHE", dir.path()).args(["pull", "a/b"]);
    let part = dir.path().join("models/a/b/m.gguf.part");
    let ended = pressed(command, |_, _| part.metadata().is_ok_and(|part| part.len() > 0)).stopped();
    assert!(ended.said.contains("what was fetched is kept") && ended.out.is_empty(), "{}", ended.said);
    assert!(part.metadata().unwrap().len() > 0);
}

#[test]
fn what_is_not_under_way_ends_at_once() {
    // Waiting for its text on stdin, which stays open.
    let mut child = process()
        .args(["tokenize", "-v", "--stdin", "-m"])
        .arg(shipped("shakespeare.gguf"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Waiting for the child would close it.
    let _open = child.stdin.take();
    let (said, _reading) = collected(child.stderr.take().unwrap());
    while !said.lock().unwrap().starts_with(b"sterna ") {
        thread::sleep(Duration::from_millis(2));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
}
