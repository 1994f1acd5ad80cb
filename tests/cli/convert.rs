//! `sterna convert`, `gguf`, `quantize` and `dequantize`, and what other programs make of their files.

use std::path::{Path, PathBuf};
use std::process::Command as Process;

use predicates::prelude::*;
use serde_json::Value;
use sterna_core::formats::Format;
use sterna_core::gguf::Gguf;
use tempfile::TempDir;

use crate::support::{data, fixture, gguf_python, hub_of, json, read_by_gguf_py, stdout, sterna};

const FAMILIES: [&str; 6] = ["llama", "qwen2", "qwen3", "phi3", "gpt2", "bitnet"];

fn convert(name: &str, out: &Path, words: &[&str]) -> String {
    stdout(sterna().arg("convert").arg(fixture(name)).arg("-o").arg(out).args(words))
}

#[test]
fn a_conversion_tells_what_it_did_in_a_table_as_json_and_beside_the_file() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("tiny.gguf");
    let text = convert("llama", &out, &["--validate", "--threshold", "0.3", "--keep", "*o_proj.weight"]);
    for said in ["feed-forward", "TQ2_0", "2.06", "rounded by the rule", "times smaller", "validated: 16 tensors"] {
        assert!(text.contains(said), "{said:?} is not in\n{text}");
    }
    let beside = json(&std::fs::read_to_string(dir.path().join("tiny.gguf.json")).unwrap());
    assert_eq!(beside["settings"]["rule"], "threshold:0.3");
    assert!((beside["settings"]["threshold"].as_f64().unwrap() - 0.3).abs() < 1e-6);
    let report = json(&convert("llama", &out, &["--json", "--torch-dtype", "bfloat16", "--rule", "twn"]));
    assert_eq!((&report["lossless"], &report["settings"]["torch_dtype"]), (&false.into(), &"bfloat16".into()));
    assert!(report["compression_ratio"].as_f64().unwrap() > 3.0);
    let linear = report["by_kind"].as_array().unwrap().iter().find(|kind| kind["kind"] == "feed-forward").unwrap();
    assert!((linear["bits_per_weight"].as_f64().unwrap() - 2.0625).abs() < 1e-9);
    assert!((0.2..0.6).contains(&linear["zeros"].as_f64().unwrap()));
    assert!((0.4..0.5).contains(&linear["relative_error"].as_f64().unwrap()));
    let tokens = stdout(sterna().args(["tokenize", "--ids", "-p", "the lazy dog", "-m"]).arg(&out));
    assert!(tokens.starts_with("[1, "), "{tokens}");
    assert!(!stdout(sterna().args(["run", "-n", "5", "--temp", "0", "-p", "the", "-m"]).arg(&out)).is_empty());
}

#[test]
fn flags_of_other_tools_are_taken_and_explained() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("tiny.gguf");
    let mut command = sterna();
    command.arg("convert").arg(fixture("gpt2")).arg("--output-gguf").arg(&out);
    command.args(["--quant", "q2_0", "--device-map", "auto", "--force-cpu-device-map", "--keep-biases-bf16"]);
    let said = predicate::str::contains("--device-map auto has no effect")
        .and(predicate::str::contains("--force-cpu-device-map has no effect"));
    command.assert().success().stderr(said);
    let types = |path: &Path| -> Vec<u32> {
        let bytes = std::fs::read(path).unwrap();
        let file = Gguf::parse(&bytes).unwrap();
        file.header()
            .tensors
            .iter()
            .filter(|t| t.name.starts_with("blk") && t.name.ends_with("ffn_up.bias"))
            .map(|t| t.type_id)
            .collect()
    };
    assert_eq!(types(&out), [Format::BF16.type_id(); 2]);
    convert("gpt2", &out, &["--quant", "Q2_0", "--keep-biases-bf16", "--no-keep-biases-bf16"]);
    assert_eq!(types(&out), [0; 2]);
    for (words, said) in [
        (&["--rule", "best"][..], "`best` is no quantization method"),
        (&["--rule", "twn", "--threshold", "0.5"], "--threshold goes with --rule threshold"),
        (&["--threshold", "1.5"], "no share"),
        (&["--quant", "Q4_K"], "Q4_K is no format that can be written"),
        (&["--quant", "TQ2_0", "--group", "64"], "cannot hold"),
        (&["--require-lossless"], "--require-lossless allows no rounding"),
    ] {
        let before = std::fs::read(&out).unwrap();
        let mut command = sterna();
        command.arg("convert").arg(fixture("llama")).arg("-o").arg(&out).args(words);
        command.assert().failure().stderr(predicate::str::contains(said));
        assert!(std::fs::read(&out).unwrap() == before, "what was there before stays");
    }
}

#[test]
fn outputs_that_cannot_be_are_one_error_each() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (out, missing, file) = (path("a.gguf"), path("no/a.gguf"), path("file.txt"));
    std::fs::write(&file, "x").unwrap();
    let metadata = format!("{out}.json");
    let matrix = path("matrix.dat");
    std::fs::write(&matrix, "").unwrap();
    let of_dir = path("");
    for (words, said) in [
        (&[out.as_str(), "--output-gguf", &out][..], "would be written over the first output"),
        (&[&out, "--output-gguf", &metadata], "would be written over the first output"),
        (&[&missing], "there is no folder"),
        (&[&path("no/folder")], "there is no folder"),
        (&["-"], "- means standard output"),
        (&["/dev/null"], "/dev/null is neither a file nor a folder"),
        (&[&file], "is a file, and not named as a GGUF"),
        (&[&out, "--imatrix", &of_dir], "is a folder; name the file that llama-imatrix wrote"),
        (&[&out, "--imatrix", &matrix], "is no importance matrix, but an empty file; name the file"),
        (&[&out, "--imatrix", "/dev/null"], "is no file with data; name the file"),
    ] {
        let mut command = sterna();
        command.arg("convert").arg(fixture("llama")).args(words);
        command.assert().failure().stderr(predicate::str::contains(said));
    }
    let mut left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["file.txt", "matrix.dat"]);
    // A name with another ending is a folder's, which is said.
    let bin = path("x.bin");
    let mut command = sterna();
    command.arg("convert").arg(fixture("llama")).arg(&bin);
    command.assert().success().stderr(predicate::str::contains("x.bin becomes a folder with model.gguf"));
    std::fs::remove_file(Path::new(&bin).join("sterna_metadata.json")).unwrap();
    let mut command = sterna();
    command.arg("gguf").arg(&bin).arg(&out);
    command.assert().failure().stderr(predicate::str::contains("but no sterna_metadata.json"));
}

#[test]
fn directories_files_and_back() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    let text = convert("bitnet-packed", &path("converted"), &["--quant", "I2_S", "--require-lossless"]);
    assert!(text.contains("exact"), "{text}");
    assert!(path("converted/model.gguf").is_file());
    assert_eq!(json(&std::fs::read_to_string(path("converted/sterna_metadata.json")).unwrap())["lossless"], true);
    // From the converted directory and from the checkpoint: the same weights.
    let gguf = |from: &Path, out: &str, words: &[&str]| {
        stdout(sterna().arg("gguf").arg(from).arg("-o").arg(path(out)).args(words).args(["--validate", "--json"]))
    };
    gguf(&path("converted"), "a.gguf", &["--quant", "Q2_0", "--require-lossless"]);
    gguf(&fixture("bitnet-packed"), "b.gguf", &["--quant", "Q2_0", "--name", "converted"]);
    let tensors = |name: &str| {
        let bytes = std::fs::read(path(name)).unwrap();
        let file = Gguf::parse(&bytes).unwrap();
        let header = file.header();
        header.tensors.iter().map(|info| (info.name.clone(), file.data(info).to_vec())).collect::<Vec<_>>()
    };
    assert!(tensors("a.gguf") == tensors("b.gguf"));
    let run = |words: &[&str], from: &str, to: &str| {
        let mut command = sterna();
        json(&stdout(command.arg(words[0]).arg(path(from)).arg(path(to)).args(&words[1..]).arg("--json")))
    };
    let back = run(&["dequantize", "--type", "F32", "--validate"], "a.gguf", "f.gguf");
    assert_eq!(back["lossless"], true);
    run(&["quantize", "--type", "PTQ1_0", "--require-lossless"], "f.gguf", "p.gguf");
    run(&["quantize", "--type", "Q2_0", "--require-lossless", "--validate"], "p.gguf", "c.gguf");
    // The embedding went through F32: the rest is what it was.
    let linear = |name: &str| tensors(name).into_iter().filter(|(name, _)| name.starts_with("blk")).collect::<Vec<_>>();
    assert!(linear("c.gguf") == linear("a.gguf"));
    sterna()
        .arg("dequantize")
        .arg(path("a.gguf"))
        .arg(path("x.gguf"))
        .args(["--type", "TQ2_0"])
        .assert()
        .code(1)
        .stderr(predicate::str::contains("no float format"));
}

/// The files of a fixture, as a repository on the hub.
pub fn repository(name: &str) -> String {
    let files = std::fs::read_dir(fixture(name)).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(&path).unwrap())
    });
    hub_of(files.collect())
}

#[test]
fn a_repository_on_the_hub_is_converted_as_its_folder_is() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    let server = repository("llama");
    let command = |words: &[&str]| {
        let mut command = sterna();
        command.current_dir(dir.path()).env("STERNA_CACHE", path("cache")).env("HF_ENDPOINT", &server).args(words);
        command
    };
    command(&["convert", "a/b", "x.gguf", "--offline"]).assert().code(1).stderr(predicate::str::contains("--offline"));
    command(&["convert", "a/b", "x.gguf"]).assert().success();
    convert("llama", &path("y.gguf"), &["--name", "b"]);
    assert!(std::fs::read(path("x.gguf")).unwrap() == std::fs::read(path("y.gguf")).unwrap());
    command(&["gguf", "z.gguf", "--from-hf", "a/b", "--offline"]).assert().success();
    assert!(std::fs::read(path("x.gguf")).unwrap() == std::fs::read(path("z.gguf")).unwrap());
    assert!(stdout(&mut command(&["list"])).contains("a/b"));
    for (words, said) in [
        (&["convert", "a/b:TQ2_0", "x.gguf"][..], "a checkpoint is USER/REPO or USER/REPO@REVISION"),
        (&["convert", "a/other", "x.gguf"], "not found (404)"),
        (&["convert", "a/b@v1", "x.gguf", "--revision", "v2"], "two revisions"),
        (&["convert", "cache", "x.gguf", "--revision", "v2"], "--revision belongs to a repository"),
        (&["convert", "nothing", "x.gguf"], "nothing is no directory"),
    ] {
        command(words).assert().code(1).stderr(predicate::str::contains(said));
    }
}

#[test]
fn words_of_other_programs_mean_the_same() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    let run = |words: &[&str]| {
        let mut command = sterna();
        command.current_dir(dir.path()).args(words);
        command
    };
    let llama = fixture("llama");
    let llama = llama.to_str().unwrap();
    let types = |name: &str| {
        let bytes = std::fs::read(path(name)).unwrap();
        let file = Gguf::parse(&bytes).unwrap();
        let find = |name: &str| file.header().tensor(name).unwrap().type_id;
        (find("blk.0.ffn_up.weight"), find("token_embd.weight"))
    };
    let (tq1, tq2, f16, bf16) =
        (Format::TQ1_0.type_id(), Format::TQ2_0.type_id(), Format::F16.type_id(), Format::BF16.type_id());
    // A folder and a GGUF in one go.
    let text = stdout(&mut run(&["convert", llama, "made", "--output-gguf", "t.gguf", "--gguf-quant", "TQ1_0"]));
    assert!(text.contains("model.gguf") && text.contains("t.gguf"), "{text}");
    assert_eq!((types("made/model.gguf"), types("t.gguf")), ((tq2, f16), (tq1, f16)));
    let both = ["convert", llama, "made", "--output-gguf", "t.gguf", "--gguf-quant", "TQ1_0", "--json"];
    assert_eq!(json(&stdout(&mut run(&both)))[1]["settings"]["quant"], "TQ1_0");
    run(&["convert", llama, "--output-gguf", "u.gguf", "--gguf-quant", "TQ1_0"]).assert().success();
    assert_eq!(types("u.gguf"), (tq1, f16));
    // llama.cpp's converter.
    run(&["convert", llama, "--outfile", "a.gguf", "--outtype", "auto"]).assert().success();
    assert_eq!(types("a.gguf"), (bf16, bf16));
    // From a folder that convert made, and from a checkpoint.
    run(&["gguf", "g.gguf", "--from-t81", "made", "--quant", "TQ1_0"]).assert().success();
    run(&["gguf", "made", "h.gguf"]).assert().success();
    run(&["gguf", "i.gguf", "--from-hf", llama, "--outtype", "tq1_0"]).assert().success();
    assert_eq!((types("g.gguf"), types("h.gguf"), types("i.gguf")), ((tq1, f16), (tq2, f16), (tq1, f16)));
    // llama-quantize.
    run(&["quantize", "a.gguf", "q.gguf", "TQ2_0", "2"]).assert().success();
    assert_eq!(types("q.gguf"), (tq2, bf16));
    let words = ["quantize", "--allow-requantize", "a.gguf", "r.gguf", "36"];
    run(&words).assert().success().stderr(predicate::str::contains("--allow-requantize has no effect"));
    assert_eq!(types("r.gguf"), (tq1, bf16));
    for word in ["show", "info"] {
        assert!(stdout(&mut run(&[word, "q.gguf"])).contains("blk.0.ffn_up.weight"));
    }
    for (words, code, said) in [
        (&["convert", llama][..], 2, "required"),
        (&["convert", llama, "x.gguf", "-o", "y.gguf"], 2, "cannot be used with"),
        (&["convert", llama, "x.gguf", "--gguf-quant", "TQ1_0"], 2, "--output-gguf"),
        (&["gguf", "x.gguf", "--from-t81", llama], 1, "no directory that sterna convert made"),
        (&["gguf", "x.gguf", "--from-hf", llama, "--from-t81", "made"], 2, "cannot be used with"),
        (&["gguf", "--from-hf", llama], 1, "no file to write"),
        (&["gguf", "made"], 1, "no file to write"),
        (&["quantize", "a.gguf", "x.gguf"], 2, "required"),
        (&["quantize", "a.gguf", "x.gguf", "TQ2_0", "--type", "F16"], 2, "cannot be used with"),
        (&["quantize", "a.gguf", "x.gguf", "99"], 2, "99 is no type that can be written; known: 36 TQ1_0"),
        (&["quantize", "a.gguf", "x.gguf", "Q4_K_M"], 2, "Q4_K_M is no format that can be written"),
    ] {
        run(words).assert().code(code).stderr(predicate::str::contains(said));
        assert!(!path("x.gguf").exists(), "{words:?}");
    }
}

#[test]
fn an_interrupted_conversion_leaves_nothing() {
    #[cfg(unix)]
    {
        use std::io::{Read, Seek, SeekFrom, Write};
        // A sparse checkpoint of a gigabyte, so that there is time to interrupt.
        let dir = TempDir::new().unwrap();
        std::fs::copy(fixture("qwen2").join("config.json"), dir.path().join("config.json")).unwrap();
        let config = std::fs::read_to_string(dir.path().join("config.json")).unwrap();
        let config = config.replace("\"vocab_size\": 320", "\"vocab_size\": 8388608");
        std::fs::write(dir.path().join("config.json"), config).unwrap();
        let mut header = Vec::new();
        let mut file = std::fs::File::open(fixture("qwen2").join("model.safetensors")).unwrap();
        let mut length = [0; 8];
        file.read_exact(&mut length).unwrap();
        file.take(u64::from_le_bytes(length)).read_to_end(&mut header).unwrap();
        let mut header: Value = serde_json::from_slice(&header).unwrap();
        let mut end = 0u64;
        for (name, entry) in header.as_object_mut().unwrap().iter_mut().filter(|(name, _)| *name != "__metadata__") {
            if name == "model.embed_tokens.weight" || name == "lm_head.weight" {
                entry["shape"][0] = 8_388_608.into();
            }
            let size = entry["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).product::<u64>() * 2;
            entry["data_offsets"] = serde_json::json!([end, end + size]);
            end += size;
        }
        let header = header.to_string();
        let mut file = std::fs::File::create(dir.path().join("model.safetensors")).unwrap();
        file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
        file.write_all(header.as_bytes()).unwrap();
        file.seek(SeekFrom::Current(end as i64 - 1)).unwrap();
        file.write_all(&[0]).unwrap();
        drop(file);
        let out = dir.path().join("out.gguf");
        let mut command = Process::new(env!("CARGO_BIN_EXE_sterna"));
        command.arg("convert").arg(dir.path()).arg("-o").arg(&out).args(["-t", "1"]);
        let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
        let part = dir.path().join("out.gguf.part");
        let started = std::time::Instant::now();
        while !part.exists() && started.elapsed().as_secs() < 60 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert!(part.exists());
        let interrupt = Process::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        assert!(interrupt.success());
        assert_eq!(child.wait().unwrap().code(), Some(130));
        assert!(!out.exists() && !part.exists());
    }
}

/// gguf-py, which we did not write, finds every element where the runtime finds it.
#[test]
fn gguf_py_reads_every_element() {
    let Some(python) = gguf_python() else { return };
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("x.gguf");
    for (name, quant) in FAMILIES.map(|name| (name, "F16")).into_iter().chain([("llama", "TQ1_0"), ("llama", "TQ2_0")])
    {
        convert(name, &out, &["--quant", quant]);
        read_by_gguf_py(&python, &out);
    }
}

/// The BitNet with the activation that llama.cpp's architecture has, and a tokenizer.
pub fn silu(dir: &TempDir) -> PathBuf {
    let copy = dir.path().join("bitnet");
    std::fs::create_dir_all(&copy).unwrap();
    let config = std::fs::read_to_string(fixture("bitnet").join("config.json")).unwrap();
    let mut config = json(&config);
    config["hidden_act"] = "silu".into();
    std::fs::write(copy.join("config.json"), config.to_string()).unwrap();
    for (from, name) in
        [("bitnet", "model.safetensors"), ("llama", "tokenizer.model"), ("llama", "tokenizer_config.json")]
    {
        std::fs::copy(fixture(from).join(name), copy.join(name)).unwrap();
    }
    copy
}

/// It loads what is written, and finds our perplexity. For a llama.cpp that was built somewhere:
/// `STERNA_LLAMA_PERPLEXITY=build/bin/llama-perplexity cargo test -p sterna --test cli -- --ignored`
#[test]
#[ignore = "needs STERNA_LLAMA_PERPLEXITY, the path of llama.cpp's llama-perplexity"]
fn llama_cpp_agrees_on_perplexity() {
    let program = std::env::var_os("STERNA_LLAMA_PERPLEXITY").expect("STERNA_LLAMA_PERPLEXITY");
    let Some(text) = data("text/wikitext-2.test.raw") else { return };
    let dir = TempDir::new().unwrap();
    let (out, part) = (dir.path().join("x.gguf"), dir.path().join("text"));
    let text: String = std::fs::read_to_string(text).unwrap().chars().take(3000).collect();
    std::fs::write(&part, text).unwrap();
    let files = [
        ("llama", "F16"),
        ("llama", "TQ1_0"),
        ("llama", "TQ2_0"),
        ("llama", "Q2_0"),
        ("qwen2", "F16"),
        ("qwen2", "Q2_0"),
        ("qwen3", "F16"),
        ("qwen3", "Q2_0"),
        ("phi3", "F16"),
        ("phi3", "Q2_0"),
        ("gpt2", "F16"),
        ("gpt2", "Q2_0"),
        ("bitnet", "F16"),
        ("bitnet", "Q2_0"),
    ];
    for (name, quant) in files {
        // llama.cpp looks for certain tokens where a name says Phi-3.
        let checkpoint = match name {
            "bitnet" => silu(&dir),
            name => fixture(name),
        };
        stdout(sterna().arg("convert").arg(checkpoint).arg("-o").arg(&out).args(["--quant", quant, "--name", "tiny"]));
        let mut command = sterna();
        command.args(["perplexity", "-c", "64", "--json", "-m"]).arg(&out).arg("-f").arg(&part);
        let ours = json(&stdout(&mut command))["perplexity"].as_f64().unwrap();
        // Its messages are lost where they go into a pipe that nobody empties in time.
        let log = dir.path().join("log");
        let file = std::fs::File::create(&log).unwrap();
        let mut command = Process::new(&program);
        command.args(["-c", "64", "-b", "64", "-t", "2", "-m"]).arg(&out).arg("-f").arg(&part);
        command.stdout(file.try_clone().unwrap()).stderr(file);
        let status = command.status().unwrap();
        let said = format!("{status}\n{}", String::from_utf8_lossy(&std::fs::read(&log).unwrap()));
        let theirs = said.split("PPL = ").nth(1).and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
        let theirs = theirs.unwrap_or_else(|| panic!("{name} {quant}: {said}"));
        println!("{name} {quant}: {ours:.4}, llama.cpp {theirs:.4} ({:+.3} %)", 100.0 * (ours / theirs - 1.0));
        assert!((ours / theirs - 1.0).abs() < 0.005, "{name} {quant}: {ours} {theirs}");
    }
}
