//! How people name models: files, folders, names on the hub, addresses; and prompts that are piped in.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use predicates::prelude::*;
use tempfile::TempDir;

use crate::support::{fixture, hub, shipped, stdout, sterna};

/// A folder with copies of the shipped model under these names.
fn folder(names: &[&str]) -> (TempDir, Vec<PathBuf>) {
    let dir = TempDir::new().unwrap();
    let paths: Vec<PathBuf> = names.iter().map(|name| dir.path().join(name)).collect();
    for path in &paths {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::copy(shipped("shakespeare.gguf"), path).unwrap();
    }
    (dir, paths)
}

const SHORT: [&str; 6] = ["-n", "8", "-s", "1", "-p", "ROMEO:"];

/// What the shipped model says with [`SHORT`].
fn said() -> String {
    stdout(sterna().arg("run").arg(shipped("shakespeare.gguf")).args(SHORT))
}

fn refused(command: &mut assert_cmd::Command, words: &[&str]) {
    let all =
        words.iter().fold(predicate::always().boxed(), |all, word| all.and(predicate::str::contains(*word)).boxed());
    command.assert().code(1).stdout("").stderr(all);
}

#[test]
fn a_model_without_a_command_is_run() {
    assert_eq!(stdout(sterna().arg(shipped("shakespeare.gguf")).args(SHORT)), said());
    assert_eq!(stdout(sterna().args(SHORT).arg("-m").arg(shipped("shakespeare.gguf"))), said());
}

#[test]
fn a_piped_prompt_is_read_where_none_is_given() {
    let line = stdout(sterna().args(["-n", "20", "-s", "1", "-p", "ROMEO:"]));
    let piped = |words: &[&str], text: &str| {
        stdout(sterna().args(words).args(["-n", "20", "-s", "1"]).write_stdin(text.to_owned()))
    };
    assert_eq!(piped(&[], "ROMEO:\n"), line);
    assert_eq!(piped(&[], "ROMEO:"), line);
    let path = shipped("shakespeare.gguf");
    assert_eq!(piped(&["run", path.to_str().unwrap()], "ROMEO:\r\n"), line);
    // One newline only, and no escapes.
    assert!(piped(&[], "A\n\n").starts_with("A\n") && !piped(&[], "A\n\n").starts_with("A\n\n"));
    sterna()
        .args(["-n", "1"])
        .write_stdin("a\\n")
        .assert()
        .code(1)
        .stderr(predicate::str::contains("no token for \"\\\\\""));
    // A prompt that is given leaves the pipe alone.
    assert_eq!(piped(&["-p", "ROMEO:"], "never read"), line);
    assert!(stdout(sterna().arg("tokenize").arg(&path).arg("--ids").write_stdin("AB\n")).split(',').count() == 2);
}

#[test]
fn an_empty_or_closed_stdin_is_no_prompt() {
    let plain = stdout(sterna().args(["-n", "5", "-s", "7"]));
    let program = env!("CARGO_BIN_EXE_sterna");
    let null = std::process::Command::new(program).args(["-n", "5", "-s", "7"]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(String::from_utf8(null.stdout).unwrap(), plain);
    #[cfg(unix)]
    {
        let closed =
            std::process::Command::new("sh").args(["-c", "exec \"$0\" -n 5 -s 7 <&-", program]).output().unwrap();
        assert_eq!(String::from_utf8(closed.stdout).unwrap(), plain);
    }
}

#[test]
fn a_folder_is_its_one_gguf_or_says_what_it_holds() {
    let (dir, _) = folder(&["one/m.gguf", "two/a.gguf", "two/b.gguf"]);
    let at = |name: &str| dir.path().join(name);
    let command = |path: &Path| {
        let mut command = sterna();
        command.arg("run").arg(path).args(SHORT);
        command
    };
    let one = command(&at("one")).assert().success().stderr(predicate::str::contains("its one GGUF is used, m.gguf"));
    assert_eq!(String::from_utf8_lossy(&one.get_output().stdout), said());
    refused(&mut command(&at("two")), &["several GGUFs", "two/a.gguf", "two/b.gguf"]);
    refused(&mut command(&fixture("llama")), &["the folder of a checkpoint", "sterna convert", "-o llama.gguf"]);
    std::fs::create_dir(at("none")).unwrap();
    refused(&mut command(&at("none")), &["a folder without a GGUF"]);
}

#[test]
fn a_name_that_is_not_there_says_what_may_be_meant() {
    let (dir, _) = folder(&["models/shakespeare.gguf"]);
    let command = |name: &str| {
        let mut command = sterna();
        command.current_dir(dir.path()).args(["run", name]);
        command
    };
    refused(
        &mut command("models/shakespere.gguf"),
        &["there is no file models/shakespere.gguf", "did you mean models/shakespeare.gguf?"],
    );
    refused(
        &mut command("models/shakespeare"),
        &["no models/shakespeare here, but models/shakespeare.gguf", "-hf models/shakespeare"],
    );
    refused(&mut command("other.gguf"), &["there is no file other.gguf", "USER/REPO"]);
    refused(&mut command("llama3"), &["there is no file llama3", "USER/REPO:QUANT"]);
    refused(&mut command("ftp://example.org/m.gguf"), &["is not the address of a model"]);
    refused(&mut command("https://huggingface.co/datasets/a/b"), &["a data set or a space"]);
}

#[test]
fn names_on_the_hub_and_its_pages_are_fetched_and_local_files_go_before_them() {
    let cache = TempDir::new().unwrap();
    let server = hub("m-TQ2_0.gguf", std::fs::read(shipped("shakespeare.gguf")).unwrap());
    let command = |words: &[&str]| {
        let mut command = sterna();
        command.env("STERNA_CACHE", cache.path()).env("HF_ENDPOINT", &server).args(words);
        command
    };
    assert_eq!(stdout(command(&["run", "a/b"]).args(SHORT)), said());
    assert_eq!(stdout(command(&["a/b:tq2_0", "--offline"]).args(SHORT)), said());
    let page = format!("{server}/a/b/blob/main/m-TQ2_0.gguf");
    assert_eq!(stdout(command(&["run", &page, "--offline"]).args(SHORT)), said());
    assert_eq!(stdout(command(&["-hf", &format!("{server}/a/b")]).args(SHORT)), said());
    refused(&mut command(&["run", "b"]), &["did you mean a/b:TQ2_0, which is in the cache?"]);
    refused(&mut command(&["run", "a/other"]), &["not found (404)"]);

    let (dir, _) = folder(&["a/b/local.gguf"]);
    let mut here = command(&["run", "a/b"]);
    here.current_dir(dir.path()).args(SHORT);
    here.assert().success().stderr(
        predicate::str::contains("a/b is a folder on this machine")
            .and(predicate::str::contains("-hf a/b is the hub's")),
    );
}

#[test]
fn an_address_is_fetched_once_listed_and_removed() {
    let cache = TempDir::new().unwrap();
    // To those who do not know that it is a hub, it is any server.
    let address =
        format!("{}/a/b/resolve/c0ffee/m.gguf", hub("m.gguf", std::fs::read(shipped("shakespeare.gguf")).unwrap()));
    let command = |words: &[&str]| {
        let mut command = sterna();
        command.env("STERNA_CACHE", cache.path()).args(words);
        command
    };
    refused(&mut command(&["run", &address, "--offline"]), &["--offline forbids fetching it"]);
    assert_eq!(stdout(command(&["run", &address]).args(SHORT)), said());
    assert_eq!(stdout(command(&["--model-url", &address, "--offline"]).args(SHORT)), said());
    command(&["pull", &address]).assert().success().stderr(predicate::str::contains("is here already"));
    refused(&mut command(&["run", &address, "--hf-file", "x.gguf"]), &["belong to a model on the hub"]);
    let list = crate::support::json(&stdout(&mut command(&["list", "--json"])));
    assert_eq!((list[0]["name"].as_str(), list.as_array().unwrap().len()), (Some(address.as_str()), 1));
    assert!(stdout(&mut command(&["rm", &address])).contains(&format!("removed {address}")));
    assert_eq!(stdout(&mut command(&["list"])), "");

    let page = format!("{}/a/b/resolve/c0ffee/m.gguf", hub("m.gguf", b"\n<!DOCTYPE html><html>".to_vec()));
    refused(&mut command(&["run", &page]), &["gave a page of HTML, not a GGUF"]);
    assert_eq!(stdout(&mut command(&["list"])), "");
}
