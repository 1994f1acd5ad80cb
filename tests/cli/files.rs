//! Files that are no plain files: devices, pipes, links; and names that are no UTF-8.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::Path;

use assert_cmd::Command;
use predicates::prelude::*;
use tempfile::TempDir;

use crate::support::{fixture, hub_of, json, shipped, stdout, sterna};

fn command<I: AsRef<OsStr>>(words: impl IntoIterator<Item = I>) -> Command {
    let mut command = sterna();
    command.args(words);
    command
}

fn refused(command: &mut Command, said: &str) {
    command.assert().code(1).stdout("").stderr(predicate::str::contains(said));
}

#[test]
fn what_is_no_plain_file_is_not_written_over() {
    let dir = TempDir::new().unwrap();
    let pipe = dir.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let (model, llama, pipe_text) = (shipped("shakespeare.gguf"), fixture("llama"), pipe.to_str().unwrap());
    let (model, llama) = (model.to_str().unwrap(), llama.to_str().unwrap());
    let text = dir.path().join("text");
    fs::write(&text, "To be, or not to be, that is the question. ".repeat(40)).unwrap();
    let text = text.to_str().unwrap();
    for words in [
        &["quantize", model, pipe_text, "TQ1_0"][..],
        &["dequantize", model, pipe_text],
        &["convert", llama, "-o", dir.path().join("m.gguf").to_str().unwrap(), "--output-gguf", pipe_text],
        &["gguf", llama, pipe_text],
        &["perplexity", model, "-f", text, "-c", "64", "--kl-divergence-base", pipe_text],
        &["train", "--text", text, "--out", dir.path().join("run").to_str().unwrap(), "--json-output", pipe_text],
    ] {
        refused(&mut command(words), "is a device, a pipe or a socket");
    }
    assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
    let mut left: Vec<OsString> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["pipe", "text"], "something was written");
}

#[test]
fn the_file_behind_a_link_is_replaced() {
    let dir = TempDir::new().unwrap();
    let (link, file) = (dir.path().join("link.gguf"), dir.path().join("deep/file.gguf"));
    fs::create_dir(dir.path().join("deep")).unwrap();
    fs::write(&file, "old").unwrap();
    symlink("deep/file.gguf", &link).unwrap();
    command([OsStr::new("quantize"), shipped("shakespeare.gguf").as_os_str(), link.as_os_str(), OsStr::new("TQ1_0")])
        .assert()
        .success();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read(&file).unwrap()[..4], *b"GGUF");
}

#[test]
fn a_broken_link_is_said_to_be_one() {
    let dir = TempDir::new().unwrap();
    symlink("gone.gguf", dir.path().join("m.gguf")).unwrap();
    for words in [["run", "m.gguf"], ["inspect", "m.gguf"], ["eval", "m.gguf"]] {
        refused(command(words).current_dir(dir.path()), "m.gguf is a broken link to gone.gguf");
    }
}

/// A folder with the shipped model under a name that is no UTF-8; `None` where the file system allows no such name.
fn badly_named() -> Option<(TempDir, OsString)> {
    let dir = TempDir::new().unwrap();
    let name = OsStr::from_bytes(b"bad\xff.gguf").to_owned();
    fs::copy(shipped("shakespeare.gguf"), dir.path().join(&name)).ok()?;
    Some((dir, name))
}

#[test]
fn names_that_are_no_utf_8_are_read_and_shown() {
    let Some((dir, name)) = badly_named() else { return };
    let path = dir.path().join(&name);
    let inspected = json(&stdout(&mut command([OsStr::new("inspect"), path.as_os_str(), OsStr::new("--json")])));
    assert!(inspected["files"][0].as_str().unwrap().ends_with("bad\u{fffd}.gguf"));
    let out = dir.path().join(OsStr::from_bytes(b"out\xff.gguf"));
    let words = ["quantize".as_ref(), path.as_os_str(), out.as_os_str(), "TQ1_0".as_ref(), "--json".as_ref()];
    assert!(json(&stdout(&mut command(words)))["output"].as_str().unwrap().ends_with("out\u{fffd}.gguf"));
    fs::remove_file(&out).unwrap();
    command([OsStr::new("inspect"), dir.path().as_os_str()])
        .assert()
        .success()
        .stderr(predicate::str::contains("its one GGUF is used, bad\u{fffd}.gguf"));
    let missing = OsStr::from_bytes(b"nofile\xff");
    refused(&mut command(["run".as_ref(), "-m".as_ref(), missing]), "there is no file nofile\u{fffd};");
}

#[test]
fn a_run_whose_settings_cannot_be_kept_does_not_begin() {
    let Some((dir, name)) = badly_named() else { return };
    fs::write(dir.path().join(&name), "To be, or not to be. ".repeat(99)).unwrap();
    let run = dir.path().join("run");
    let words = ["train".as_ref(), "--text".as_ref(), name.as_os_str(), "--out".as_ref(), run.as_os_str()];
    refused(command(words).current_dir(dir.path()), "is no UTF-8, so config.toml cannot hold it");
    assert!(!run.exists());
}

#[test]
fn a_folder_with_one_gguf_is_taken_wherever_a_gguf_is() {
    let dir = TempDir::new().unwrap();
    let copy = |name: &str| {
        fs::create_dir(dir.path().join(name)).unwrap();
        fs::copy(shipped(&format!("{name}.gguf")), dir.path().join(name).join("m.gguf")).unwrap();
    };
    copy("shakespeare");
    let at = |words: &[&str]| {
        let mut command = command(words);
        command.current_dir(dir.path());
        command
    };
    let used = || predicate::str::contains("its one GGUF is used, m.gguf");
    at(&["quantize", "shakespeare", "out.gguf", "TQ1_0"]).assert().success().stderr(used());
    at(&["dequantize", "shakespeare", "out.gguf"]).assert().success().stderr(used());
    at(&["bench", "gguf", "shakespeare", "-p", "2", "-n", "1", "-r", "1"]).assert().success().stderr(used());
    // The folder is read; what is in it is no classifier.
    at(&["eval", "shakespeare"]).assert().code(1).stderr(used());
    refused(
        &mut at(&["bench", "model", "shakespear/x", "--text", "t"]),
        "there is no file or folder shakespear/x here",
    );
}

#[test]
fn what_is_neither_here_nor_on_the_hub_is_said_to_be_neither() {
    let cache = TempDir::new().unwrap();
    let server = hub_of(vec![("README.md".into(), Vec::new())]);
    let at = |words: &[&str]| {
        let mut command = command(words);
        command.env("STERNA_CACHE", cache.path()).env("HF_ENDPOINT", &server);
        command
    };
    let neither = "there is no file or folder my/models here, and the hub's model of that name cannot be fetched: ";
    for words in
        [&["run", "my/models"][..], &["run", "my/models", "--offline"], &["convert", "my/models", "-o", "x.gguf"]]
    {
        refused(&mut at(words), neither);
    }
    refused(&mut at(&["run", "a/b"]), "make one with `sterna convert a/b -o b.gguf`");
}

#[test]
fn an_empty_variable_is_none() {
    let inspected = |value: &str| {
        let mut command = command(["run", "-n", "1", "-p", "A"]);
        command.arg("-m").arg(shipped("shakespeare.gguf")).env("STERNA_KERNEL", value);
        command
    };
    inspected("").assert().success();
    inspected("sse9").assert().code(1);
}

#[test]
fn padding_of_image_classifiers_is_dropped_with_its_format() {
    let dir = TempDir::new().unwrap();
    let (plain, narrow) = (dir.path().join("f16.gguf"), dir.path().join("q2_0.gguf"));
    let model = shipped("mnist.gguf");
    command([OsStr::new("dequantize"), model.as_os_str(), plain.as_os_str()]).assert().success();
    command([OsStr::new("quantize"), model.as_os_str(), narrow.as_os_str(), OsStr::new("Q2_0")]).assert().success();
    let tensors = |path: &Path| {
        let found = json(&stdout(&mut command([OsStr::new("inspect"), path.as_os_str(), OsStr::new("--json")])));
        assert_eq!(found["runs"], true);
        found["tensors"].as_array().unwrap().clone()
    };
    // 5 x 5 places of one channel.
    assert_eq!(tensors(&model)[0]["dims"], serde_json::json!([256, 32]));
    assert_eq!(tensors(&plain)[0]["dims"], serde_json::json!([25, 32]));
    assert_eq!(tensors(&narrow)[0]["dims"], serde_json::json!([64, 32]));
    let values = |path: &Path| {
        let bytes = fs::read(path).unwrap();
        let file = sterna_core::gguf::Gguf::parse(&bytes).unwrap();
        let info = file.header().tensor("layer.0.weight").unwrap();
        let format = sterna_core::formats::identify_all(file.header())
            .into_iter()
            .zip(&file.header().tensors)
            .find(|(_, tensor)| tensor.name == info.name)
            .map(|(found, _)| found.unwrap().format)
            .unwrap();
        let start = info.offset as usize;
        let mut values = vec![0.0; info.elements() as usize];
        format.dequantize(&bytes[start..start + info.size as usize], &mut values).unwrap();
        let rows = values.chunks_exact(info.cols() as usize).flat_map(|row| row[..25].to_vec());
        rows.collect::<Vec<f32>>()
    };
    assert_eq!(values(&plain), values(&model));
    assert_eq!(values(&narrow), values(&model));
}
