//! `sterna perplexity --kl-divergence` against llama-perplexity.
//!
//! tests/fixtures/stories260K.logits is what llama-perplexity wrote for the model and text of this test, and the numbers are what it
//! printed with it:
//!
//! ```text
//! head -c 2000 tinyshakespeare.txt > text.txt
//! llama-perplexity -m stories260K.gguf -f text.txt -c 64 -b 64 --chunks 4 --kl-divergence-base stories260K.logits
//! llama-perplexity -m other.gguf -c 64 -b 64 --kl-divergence --kl-divergence-base stories260K.logits
//! ```
//!
//! `other.gguf` is the model with every second weight of its output norm halved.

use std::path::{Path, PathBuf};

use predicates::prelude::*;
use sterna_core::gguf::Gguf;
use tempfile::TempDir;

use crate::support::{data, json, stdout, sterna};

/// After each chunk: perplexity, logarithm of the ratio, divergence, difference of probabilities and same best, each with its error.
const CHUNKS: [[f64; 10]; 4] = [
    [29.6581, 10.2197, -0.27399, 0.13639, 0.24784, 0.03497, 4.891, 0.911, 70.968, 8.287],
    [55.4194, 15.3985, -0.21165, 0.11008, 0.22081, 0.02046, 6.059, 1.181, 74.194, 5.603],
    [46.9187, 10.6982, -0.23894, 0.08926, 0.21590, 0.01665, 8.314, 1.548, 76.344, 4.431],
    [45.6006, 9.1111, -0.24071, 0.07910, 0.21967, 0.01641, 8.452, 1.292, 73.387, 3.985],
];

/// The statistics, line by line.
const STATISTICS: &[&[f64]] = &[
    &[45.600637, 9.111065],
    &[58.011106, 13.750186],
    &[94.86],
    &[-0.240713, 0.079104],
    &[0.786067, 0.062181],
    &[-12.410469, 5.865903],
    &[0.219667, 0.016412],
    &[1.385918],
    &[1.318034],
    &[0.811943],
    &[0.488294],
    &[0.408997],
    &[0.173397],
    &[0.071914],
    &[0.045914],
    &[0.005978],
    &[0.002696],
    &[0.002468],
    &[-2.131, 0.737],
    &[13.848],
    &[13.640],
    &[11.574],
    &[4.181],
    &[2.050],
    &[0.683],
    &[0.031],
    &[-1.693],
    &[-10.056],
    &[-23.346],
    &[-31.230],
    &[-43.191],
    &[-44.711],
    &[8.452, 1.292],
    &[73.387, 3.985],
];

fn base() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/stories260K.logits")
}

/// The model, the text, and the other model.
fn inputs(dir: &TempDir) -> Option<(PathBuf, PathBuf, PathBuf)> {
    let (model, text) = (data("stories260k/stories260K.gguf")?, data("text/tinyshakespeare.txt")?);
    let mut bytes = std::fs::read(&model).unwrap();
    let file = Gguf::parse(&bytes).unwrap();
    let norm = file.header().tensors.iter().find(|info| info.name == "output_norm.weight").unwrap();
    let (start, count) = (norm.offset as usize, norm.elements() as usize);
    for at in (start..start + 4 * count).step_by(8) {
        let weight = f32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        bytes[at..at + 4].copy_from_slice(&(weight * 0.5).to_le_bytes());
    }
    let (other, short) = (dir.path().join("other.gguf"), dir.path().join("text.txt"));
    std::fs::write(&other, bytes).unwrap();
    std::fs::write(&short, &std::fs::read(text).unwrap()[..2000]).unwrap();
    Some((model, short, other))
}

/// The numbers with a decimal point in a line.
fn numbers(line: &str) -> Vec<f64> {
    let words = line.split(|c: char| !(c.is_ascii_digit() || c == '.' || c == '-'));
    words.filter(|word| word.contains('.')).filter_map(|word| word.parse().ok()).collect()
}

/// Whether two printed numbers are the same but for the last digits: both programs round at other places.
fn near(ours: &[f64], theirs: &[f64]) -> bool {
    let close = |(a, b): (&f64, &f64)| (a - b).abs() <= 1e-3 + 1e-4 * b.abs();
    ours.len() == theirs.len() && ours.iter().zip(theirs).all(close)
}

#[test]
fn statistics_are_those_of_llama_perplexity() {
    let dir = TempDir::new().unwrap();
    let Some((_, _, other)) = inputs(&dir) else { return };
    let compare = |words: &[&str]| {
        let mut command = sterna();
        command.arg("perplexity").arg("-m").arg(&other).arg("--kl-divergence-base").arg(base());
        command.arg("--kl-divergence").args(words);
        command
    };
    let printed = stdout(&mut compare(&[]));
    let rows: Vec<Vec<f64>> = printed.lines().skip(1).take(4).map(numbers).collect();
    for (row, theirs) in rows.iter().zip(CHUNKS) {
        assert!(near(row, &theirs), "{row:?} {theirs:?}");
    }
    let lines: Vec<&str> = printed.lines().filter(|line| line.contains(':')).collect();
    assert_eq!(lines.len(), STATISTICS.len(), "{printed}");
    for (line, theirs) in lines.iter().zip(STATISTICS) {
        assert!(near(&numbers(line.split_once(": ").unwrap().1), theirs), "{line} {theirs:?}");
    }
    let object = json(&stdout(&mut compare(&["--json"])));
    assert_eq!(object["tokens"], 124);
    for (found, expected) in [
        (&object["perplexity"]["mean"], STATISTICS[0][0]),
        (&object["perplexity_base"]["error"], STATISTICS[1][1]),
        (&object["log_ratio"]["mean"], STATISTICS[3][0]),
        (&object["kl_divergence"]["p99"], STATISTICS[9][0]),
        (&object["same_top"]["mean"], STATISTICS[33][0] / 100.0),
    ] {
        assert!((found.as_f64().unwrap() / expected - 1.0).abs() < 1e-3, "{found} {expected}");
    }
    let two = stdout(&mut compare(&["--chunks", "2", "-t", "1"]));
    assert_eq!(two.lines().take(3).collect::<Vec<_>>(), printed.lines().take(3).collect::<Vec<_>>());
    let noted = predicate::str::contains("-f has no effect").and(predicate::str::contains("-c has no effect"));
    compare(&["-f", "x", "-c", "128", "--json"]).assert().success().stderr(noted);
    compare(&["--stride", "4"]).assert().code(2);
}

#[test]
fn the_file_of_logits_is_that_of_llama_perplexity() {
    let dir = TempDir::new().unwrap();
    let Some((model, text, _)) = inputs(&dir) else { return };
    let path = dir.path().join("own.logits");
    let mut command = sterna();
    command.arg("perplexity").arg("-m").arg(&model).arg("-f").arg(&text).args(["-c", "64", "--chunks", "4"]);
    stdout(command.arg("--save-all-logits").arg(&path));
    let (ours, theirs) = (std::fs::read(&path).unwrap(), std::fs::read(base()).unwrap());
    // Header and tokens.
    let begin = 20 + 4 * 4 * 64;
    assert_eq!((ours.len(), &ours[..begin]), (theirs.len(), &theirs[..begin]));
    let record = 2 * (512 + 4);
    let mut difference = 0.0;
    for (ours, theirs) in ours[begin..].chunks(record).zip(theirs[begin..].chunks(record)) {
        let log = |bytes: &[u8], token: usize| {
            let float = |at: usize| f32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
            let at = 8 + 2 * token;
            float(0) * f32::from(u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap())) + float(4)
        };
        // Both programs keep keys and values in F16, and round other sums to it.
        for token in 0..512 {
            let (ours, theirs) = (log(ours, token), log(theirs, token));
            assert!((ours - theirs).abs() < 5e-3, "{token}: {ours} {theirs}");
            difference += f64::from((ours - theirs).abs());
        }
    }
    assert!(difference / (124.0 * 512.0) < 5e-4, "{difference}");
    // A model has no divergence from itself, but for the rounding to codes.
    let mut command = sterna();
    command
        .arg("perplexity")
        .arg("-m")
        .arg(&model)
        .args(["--kl-divergence", "--json", "--kl-divergence-base"])
        .arg(&path);
    let object = json(&stdout(&mut command));
    assert!(object["kl_divergence"]["max"].as_f64().unwrap() < 1e-3 && object["same_top"]["mean"] == 1.0, "{object}");
    let mut none = sterna();
    none.arg("perplexity").arg("-m").arg(&model).args(["--kl-divergence", "--kl-divergence-base"]).arg(&text);
    none.assert().code(1).stderr(predicate::str::contains("is no file of logits"));
    let mut alone = sterna();
    alone.arg("perplexity").arg("-m").arg(&model).arg("--kl-divergence").assert().code(2);
}
