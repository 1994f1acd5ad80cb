//! Image classifiers from the command line, on made-up images: trained, measured, compared.

use std::path::Path;

use predicates::prelude::PredicateBooleanExt;
use serde_json::Value;

use crate::support::{data, gguf_python, stdout, sterna};

/// A net that trains in a second.
const NET: [&str; 5] = [
    "--layer=conv 6 5x5 stride 4 pad 2",
    "--layer=relu",
    "--layer=conv 12 3x3 stride 2 pad 1",
    "--layer=relu",
    "--layer=linear 10",
];

/// A data set of bars whose place is their class, in a folder of its name.
fn data_set(root: &Path, name: &str) {
    let dir = root.join(name);
    std::fs::create_dir(&dir).unwrap();
    for (part, count) in [("train", 200u32), ("t10k", 40)] {
        let (mut images, mut labels) = (vec![0, 0, 8, 3], vec![0, 0, 8, 1]);
        images.extend([count, 28, 28].iter().flat_map(|dim| dim.to_be_bytes()));
        labels.extend(count.to_be_bytes());
        for i in 0..count {
            let class = i % 10;
            labels.push(class as u8);
            images.extend((0..784).map(|at| match at / 28 {
                row if row / 2 == class + 2 && at % 28 > 3 + i / 10 % 5 => 255u8,
                _ => (at * 7 + i) as u8 % 31,
            }));
        }
        std::fs::write(dir.join(format!("{part}-images-idx3-ubyte")), images).unwrap();
        std::fs::write(dir.join(format!("{part}-labels-idx1-ubyte")), labels).unwrap();
    }
}

#[test]
fn a_classifier_is_trained_and_measured() {
    let dir = tempfile::tempdir().unwrap();
    data_set(dir.path(), "mnist");
    let out = dir.path().join("run");
    let train = |more: &[&str]| {
        let mut command = sterna();
        command.args(["train", "mnist", "--batch-size", "20", "--lr", "0.01", "--data-dir"]).arg(dir.path());
        command.args(NET).arg("--out").arg(&out).args(more);
        command
    };
    let outcome: Value = serde_json::from_str(&stdout(&mut train(&["--steps", "60", "--json"]))).unwrap();
    assert_eq!(outcome["steps"], 60);
    for file in ["model.gguf", "checkpoint.safetensors", "log.jsonl", "loss.svg", "config.toml"] {
        assert!(out.join(file).is_file(), "{file} is missing");
    }
    train(&["--steps", "60"]).assert().failure().stderr(predicates::str::contains("--resume"));
    train(&["--steps", "70", "--resume"]).assert().failure().stderr(predicates::str::contains("steps was 60"));
    // The folder knows the rest, also where the data is.
    let mut again = sterna();
    again.env_remove("STERNA_DATA_DIR").args(["train", "--resume", "--json", "--out"]).arg(&out);
    let resumed: Value = serde_json::from_str(&stdout(&mut again)).unwrap();
    assert_eq!(resumed["held_out"], outcome["held_out"]);
    again.args(["--width", "64"]).assert().failure().stderr(predicates::str::contains("an image classifier"));

    let eval = |more: &[&str]| {
        let mut command = sterna();
        command.arg("eval").arg(out.join("model.gguf")).arg("--data-dir").arg(dir.path()).args(more);
        command
    };
    let measured: Value = serde_json::from_str(&stdout(&mut eval(&["--json"]))).unwrap();
    let (ours, theirs) = (measured["accuracy"].as_f64().unwrap(), outcome["held_out"]["accuracy"].as_f64().unwrap());
    assert!((ours - theirs).abs() <= 0.025 && measured["images"] == 40, "{measured} {outcome}");
    let sum: u64 = measured["confusion"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|r| r.as_array().unwrap())
        .map(|c| c.as_u64().unwrap())
        .sum();
    assert_eq!(sum, 40);
    let table = stdout(&mut eval(&["--distorted", "-n", "30"]));
    assert!(table.contains("30 test images of mnist, distorted and centred") && table.contains("accuracy"), "{table}");
    let mut run = sterna();
    run.arg("run").arg(out.join("model.gguf")).assert().failure().stderr(predicates::str::contains("image classifier"));
    let inspected = stdout(sterna().arg("inspect").arg(out.join("model.gguf")));
    assert!(inspected.contains("sterna-image.layers"), "{inspected}");
}

#[test]
fn quantizations_are_compared_in_files() {
    let dir = tempfile::tempdir().unwrap();
    data_set(dir.path(), "mnist");
    data_set(dir.path(), "fashion-mnist");
    let out = dir.path().join("out");
    let mut command = sterna();
    command.args(["bench", "quantization", "--steps", "10", "--configuration-steps", "2", "--batch-size", "20"]);
    command.args(NET).arg("--data-dir").arg(dir.path()).arg("--out").arg(&out);
    let table = stdout(&mut command);
    assert!(table.contains("binary") && table.contains("threshold") && table.contains("BITS PER WEIGHT"), "{table}");
    for set in ["mnist", "fashion-mnist"] {
        let csv = std::fs::read_to_string(out.join(format!("{set}.csv"))).unwrap();
        let mut lines = csv.lines();
        assert_eq!(lines.next(), Some("mode,accuracy,loss,latency_s,bytes"));
        let rows: Vec<Vec<&str>> = lines.map(|line| line.split(',').collect()).collect();
        assert_eq!(rows.iter().map(|row| row[0]).collect::<Vec<_>>(), ["fp32", "ptq", "qat", "binary"]);
        let bytes = |row: &[&str]| row[4].parse::<u64>().unwrap();
        for (row, file) in rows.iter().zip(["fp32/model.gguf", "ptq.gguf", "qat/model.gguf", "binary/model.gguf"]) {
            assert_eq!(bytes(row), std::fs::metadata(out.join(set).join(file)).unwrap().len());
            assert!(row[3].parse::<f64>().unwrap() > 0.0 && (0.0..=1.0).contains(&row[1].parse::<f64>().unwrap()));
        }
        let schedule = std::fs::read_to_string(out.join(format!("{set}-schedule.csv"))).unwrap();
        assert!(schedule.starts_with("step,ternary_fraction,threshold,loss,accuracy\n"), "{schedule}");
        assert!(
            schedule.lines().count() > 5 && schedule.contains(",0.500,") && schedule.contains(",1.000,"),
            "{schedule}"
        );
    }
    assert!(std::fs::read_to_string(out.join("accuracy-size.svg")).unwrap().contains("<svg"));
    // What is trained already is only measured again.
    command.arg("--json");
    let report: Value = serde_json::from_str(&stdout(&mut command)).unwrap();
    assert_eq!((report["rows"].as_array().unwrap().len(), report["configurations"].as_array().unwrap().len()), (8, 10));
}

/// The command of another toolkit's benchmark: epochs, a threshold, one table in one file.
#[test]
fn the_suite_of_another_toolkit_is_understood() {
    let dir = tempfile::tempdir().unwrap();
    data_set(dir.path(), "fashion-mnist");
    let (out, csv) = (dir.path().join("out"), dir.path().join("tables/fashion_mnist_quantization.csv"));
    let mut command = sterna();
    command.args(["bench", "quantization", "--batch-size", "20", "--fp32-epochs", "2", "--qat-epochs", "1"]).args(NET);
    command.args(["--threshold", "0.45", "--device", "cpu", "--data-dir"]).arg(dir.path().join("fashion-mnist"));
    command.arg("--output").arg(&csv).arg("--out").arg(&out);
    stdout(&mut command);
    let table = std::fs::read_to_string(&csv).unwrap();
    assert!(table.starts_with("mode,accuracy,loss,latency_s,bytes\nfp32,"), "{table}");
    assert_eq!(table, std::fs::read_to_string(out.join("fashion-mnist.csv")).unwrap());
    let settings =
        |row: &str| std::fs::read_to_string(out.join("fashion-mnist").join(row).join("config.toml")).unwrap();
    // 200 images in batches of 20.
    assert!(settings("fp32").contains("\nsteps = 20\n") && settings("qat").contains("\nsteps = 10\n"));
    assert!(settings("qat").contains("method = \"threshold:0.45\""));
    assert!(!out.join("fashion-mnist/absmean-64").exists());
    for (words, said) in [
        (&["--threshold", "1.5"][..], "--threshold is 1.5; give a number from 0 up to"),
        (&["--data", "mnist,fashion-mnist"], "is the table of one data set, but --data names 2"),
        (&["--fp32-epochs", "0"], "give a whole number, at least 1"),
        (&["--device", "cuda"], "possible values: cpu, auto"),
    ] {
        let mut command = sterna();
        command.args(["bench", "quantization", "--output"]).arg(&csv).arg("--data-dir").arg(dir.path()).args(words);
        command.assert().failure().stderr(predicates::str::contains(said));
    }
}

#[test]
fn data_that_is_missing_or_damaged_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let train = || {
        let mut command = sterna();
        command
            .args(["train", "mnist", "--steps", "1", "--data-dir"])
            .arg(dir.path())
            .arg("--out")
            .arg(dir.path().join("o"));
        command.env_remove("STERNA_DATA_DIR");
        command
    };
    train().assert().failure().stderr(predicates::str::contains("sterna data get mnist"));
    data_set(dir.path(), "mnist");
    let images = dir.path().join("mnist/train-images-idx3-ubyte");
    let bytes = std::fs::read(&images).unwrap();
    std::fs::write(&images, &bytes[..1000]).unwrap();
    train()
        .assert()
        .failure()
        .stderr(predicates::str::contains("truncated").and(predicates::str::contains("train-images")));
}

/// The model that ships, on the real test images, if they are there.
#[test]
fn the_digit_model_is_as_good_as_its_card_says() {
    let Some(root) = data("") else { return };
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/mnist.gguf");
    assert!(std::fs::metadata(&model).unwrap().len() <= 60_000);
    for (more, least) in [(None, 0.994), (Some("--distorted"), 0.975)] {
        let mut command = sterna();
        command.arg("eval").arg(&model).arg("--json").arg("--data-dir").arg(&root).args(more);
        let measured: Value = serde_json::from_str(&stdout(&mut command)).unwrap();
        println!("{measured}");
        assert!(measured["accuracy"].as_f64().unwrap() >= least, "{measured}");
    }
    let Some(python) = gguf_python() else { return };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/check_image_model.py");
    let read = std::process::Command::new(python)
        .arg(script)
        .arg(&model)
        .arg(root.join("mnist"))
        .arg("1000")
        .output()
        .unwrap();
    let read: Value = serde_json::from_slice(&read.stdout).unwrap_or_else(|error| panic!("{error}: {read:?}"));
    assert!(read["tensors"] == 14 && read["accuracy"].as_f64().unwrap() >= 0.985, "{read}");
}
