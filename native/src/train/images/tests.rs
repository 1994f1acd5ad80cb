//! Whole runs on made-up images: training, export, and what the runtime makes of the file.

use std::path::Path;

use anyhow::Result;
use sterna_core::formats::Format;
use sterna_core::gguf::Gguf;
use sterna_core::kernels::{Serial, available};
use sterna_core::model::LoadOptions;
use sterna_core::model::image::ImageClassifier;

use super::*;
use crate::train::run_dir::RunDir;
use crate::train::trainer::train;

/// Bars whose place and direction tell the class, with some noise; 12 x 12.
fn bars(count: usize, seed: u64) -> Images {
    let mut generator = generator(seed, 0, 0);
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for i in 0..count {
        let class = i % 10;
        let jitter = below(&mut generator, 2);
        for at in 0..144 {
            let (y, x) = (at / 12, at % 12);
            let line = if class < 5 { y } else { x };
            let inked = (line / 2) == class % 5 && (if class < 5 { x } else { y }) > jitter;
            pixels.push(if inked { 200 } else { 0 } + below(&mut generator, 40) as u8);
        }
        labels.push(class as u8);
    }
    Images { height: 12, width: 12, pixels, labels }
}

fn config(method: &str, group: &str) -> ImagesConfig {
    let layers = ["conv 8 3x3 stride 1 pad 1", "relu", "max-pool 2", "conv 20 3x3 stride 1 pad 0", "relu", "linear 10"];
    let mut config = ImagesConfig::of(DataSet::Mnist);
    config.layers = layers.map(String::from).to_vec();
    config.batch_size = 20;
    config.augmentation = Augmentation { shift: 0.5, ..Augmentation::default() };
    config.quantization = QuantizationConfig { method: method.into(), group: group.into(), ..config.quantization };
    (config.run.schedule.steps, config.run.schedule.warmup_steps) = (60, 5);
    config
}

fn trained(config: ImagesConfig, dir: &Path) -> Result<ImageTask> {
    let task = ImageTask::new(config, bars(400, 1), bars(100, 2), &|_| Ok(()))?;
    train(&task, &task.config().run, task.config(), &RunDir::create(dir)?, false)?;
    Ok(task)
}

fn load(path: &Path) -> Result<ImageClassifier> {
    let bytes = std::fs::read(path)?;
    let options = LoadOptions { kernel: Some(available()[0].name().to_owned()) };
    Ok(ImageClassifier::from_gguf(&Gguf::parse(&bytes)?, &options, &Serial)?)
}

const STEP: Step = Step { index: 59, seed: 1, ternary: 1.0, training: false };

#[test]
fn what_is_exported_answers_as_the_trainer_does() -> Result<()> {
    for (method, group, format, name) in [
        ("absmean", "64", None, "Q2_0"),
        ("absmean", "128", None, "PQ2_0"),
        ("threshold", "256", None, "TQ2_0"),
        ("absmean", "row", None, "TQ1_0"),
        ("threshold:0.3", "row", Some("Q2_0"), "Q2_0"),
        ("absmean", "tensor", Some("TQ2_0"), "TQ2_0"),
        ("sign", "row", None, "Q1_0"),
        ("sign", "128", None, "Q1_0"),
        ("none", "row", None, "F32"),
    ] {
        let dir = tempfile::tempdir()?;
        let task = trained(ImagesConfig { format: format.map(String::from), ..config(method, group) }, dir.path())?;
        let path = dir.path().join("model.gguf");
        let model = load(&path)?;
        assert_eq!(model.tensors()[0].format, name, "{method} {group}");
        let test = task.test();
        let (ours, theirs) = (model.logits(&Serial, &test.pixels)?, task.logits(&test.pixels, &STEP)?);
        let size = theirs.iter().fold(0.0f32, |max, logit| max.max(logit.abs()));
        let worst = ours.iter().zip(&theirs).fold(0.0f32, |max, (a, b)| max.max((a - b).abs()));
        // Sums in another order may round an activation to the next int8 step.
        assert!(worst < 0.02 * size, "{method} {group}: {worst} of {size}");
        assert_eq!(right(&ours, &test.labels), right(&theirs, &test.labels), "{method} {group}");
        let accuracy = right(&ours, &test.labels) as f64 / test.len() as f64;
        println!("{method} {group}: {accuracy:.2}, logits within {:.1e} of the largest", worst / size);
        assert!(accuracy > 0.8, "{method} {group}: {accuracy}");
    }
    Ok(())
}

#[test]
fn codes_and_scales_in_the_file_are_those_of_training() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let task = trained(config("absmean", "row"), dir.path())?;
    let bytes = std::fs::read(dir.path().join("model.gguf"))?;
    let file = Gguf::parse(&bytes)?;
    let rule = task.net().rule().unwrap();
    for folded in task.net().folded()? {
        let info = file.tensor(&format!("layer.{}.weight", folded.index)).unwrap();
        let (rows, padded) = (info.rows() as usize, info.cols() as usize);
        assert_eq!(padded, folded.cols.next_multiple_of(256));
        let (mut codes, mut scales) = (vec![0; rows * padded], vec![0; rows * padded / 256]);
        let size = Format::TQ1_0.tensor_bytes(info.rows(), info.cols()).unwrap() as usize;
        Format::TQ1_0.decode_codes(&file.data(info)[..size], &mut codes, &mut scales)?;
        let (expected, expected_scales) = rule.quantize(&folded.weights, folded.cols)?;
        for row in 0..rows {
            assert_eq!(codes[row * padded..][..folded.cols], expected[row * folded.cols..][..folded.cols]);
            assert!(codes[row * padded + folded.cols..(row + 1) * padded].iter().all(|&code| code == 1));
            let scales = &scales[row * (padded / 256)..][..padded / 256];
            assert!(scales.iter().all(|&scale| scale == expected_scales[row]));
        }
    }
    Ok(())
}

#[test]
fn runs_are_the_same_for_a_seed_on_any_number_of_threads_and_after_a_break() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let run = |name: &str, threads: usize, seed: u64, halves: bool| -> Result<Vec<u8>> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
        pool.install(|| {
            let mut config = config("absmean", "row");
            (config.run.seed, config.run.schedule.steps) = (seed, 12);
            config.quantization.stochastic_rounding = true;
            let out = RunDir::create(&dir.path().join(name))?;
            for half in if halves { vec![6, 12] } else { vec![12] } {
                let task = ImageTask::new(config.clone(), bars(100, 1), bars(50, 2), &|_| Ok(()))?;
                let mut run = config.run.clone();
                // So that the course of half the steps is the first half of the whole.
                run.schedule.decay = crate::train::schedule::Decay::Constant;
                run.schedule.second_stage = 3.0;
                run.schedule.steps = half;
                train(&task, &run, &config, &out, half == 12 && halves)?;
            }
            Ok(std::fs::read(out.model())?)
        })
    };
    let one = run("one", 1, 1, false)?;
    assert_eq!(one, run("three", 3, 1, false)?);
    assert_eq!(one, run("halves", 2, 1, true)?);
    assert_ne!(one, run("other", 1, 2, false)?);
    Ok(())
}

#[test]
fn settings_and_data_that_do_not_fit_are_told() {
    let error = |change: fn(&mut ImagesConfig), train: Images, test: Images| {
        let mut config = config("absmean", "row");
        change(&mut config);
        ImageTask::new(config, train, test, &|_| Ok(())).map(|_| ()).unwrap_err().to_string()
    };
    let set = || bars(40, 1);
    let mut wide = set();
    (wide.height, wide.width) = (6, 24);
    assert!(error(|_| {}, set(), wide).contains("12 x 12, those to measure on 6 x 24"));
    assert!(error(|c| c.batch_size = 50, set(), set()).contains("a batch of 50 images cannot be taken from 40"));
    assert!(error(|c| c.batch_size = 1, set(), set()).contains("--batch-size is 1; give a whole number, at least 2"));
    assert!(error(|c| c.augmentation.scale = 1.0, set(), set()).contains("augmentation.scale is 1"));
    assert!(error(|c| c.augmentation.rotation = f32::NAN, set(), set()).contains("augmentation.rotation is NaN"));
    assert!(error(|c| c.augmentation.stroke = -0.1, set(), set()).contains("augmentation.stroke is -0.1"));
    assert!(error(|c| c.layers[0] = "conv 8".into(), set(), set()).contains("layer 0 is `conv 8`"));
    assert!(error(|c| c.layers.truncate(3), set(), set()).contains("linear 10"));
    assert!(error(|c| c.format = Some("Q1_0".into()), set(), set()).contains("Q1_0 cannot hold"));
    assert!(error(|c| c.format = Some("F16".into()), set(), set()).contains("F16"));
    assert!(error(|c| c.quantization.method = "median".into(), set(), set()).contains("median"));
}
