//! The tiny checkpoints in tests/fixtures: that the decoder computes what `transformers` computes, that training helps, and that what is
//! written is what was trained.

use serde_json::Value;
use sterna_core::Model;
use sterna_core::gguf::Gguf;
use sterna_core::kernels::Serial;
use sterna_core::model::Logits;

use super::*;
use crate::convert::encode::Sums;
use crate::train::memory::admit;
use crate::train::testing::Killed;
use crate::train::text::tests::made_up_text;

const FAMILIES: [&str; 5] = ["llama", "qwen2", "qwen3", "phi3", "gpt2"];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/checkpoints").join(name)
}

/// A folder with a text in it.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("text.txt"), made_up_text()).unwrap();
    dir
}

/// A short run on a fixture.
fn config(name: &str, dir: &Path) -> FinetuneConfig {
    let mut config = FinetuneConfig {
        source: fixture(name),
        text: dir.join("text.txt"),
        batch_size: 4,
        seq_len: 32,
        max_eval_tokens: Some(600),
        ..FinetuneConfig::default()
    };
    config.set_steps(24);
    config.run.schedule.lr = 3e-3;
    config
}

fn step(ternary: f32) -> Step {
    Step { index: 0, seed: 1, ternary, training: false }
}

/// What the runtime loses on a text, as `sterna perplexity -c LENGTH` measures it.
fn measured(model: &Path, text: &Path, length: usize) -> f64 {
    let model = Model::from_gguf(&fs::read(model).unwrap()).unwrap();
    let tokenizer = model.tokenizer().unwrap();
    let text = fs::read_to_string(text).unwrap();
    let ids = tokenizer.encode(&text, EncodeOptions { add_special: true, parse_special: false }).unwrap();
    let (mut sum, mut count) = (0.0, 0);
    for ids in ids.chunks_exact(length) {
        let mut ids = ids.to_vec();
        if let Some(bos) = tokenizer.bos().filter(|_| tokenizer.adds_bos()) {
            ids[0] = bos;
        }
        let mut state = model.transformer().state(Some(length));
        let logits = model.transformer().forward(&mut state, &Serial, &ids, Logits::All).unwrap();
        let rows: Vec<&[f32]> = logits.chunks_exact(model.transformer().vocabulary()).collect();
        for i in length / 2 + 1..length {
            sum += crate::loss::cross_entropy(rows[i - 1], ids[i] as usize);
            count += 1;
        }
    }
    sum / f64::from(count)
}

#[test]
fn in_float_logits_are_those_of_transformers() {
    let dir = folder();
    for name in FAMILIES {
        let expected: Value =
            serde_json::from_str(&fs::read_to_string(fixture(name).join("expected.json")).unwrap()).unwrap();
        let ids: Vec<u32> = expected["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        let bytes = fs::read(fixture(name).join("expected.bin")).unwrap();
        let offset = expected["logits"]["float"]["offset"].as_u64().unwrap() as usize;
        let values = bytes[offset..].as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
        let task = FinetuneTask::new(config(name, dir.path()), &|_| Ok(()))
            .unwrap_or_else(|error| panic!("{name}: {error:#}"));
        let vocabulary = task.decoder.blueprint().vocabulary;
        let expected: Vec<f32> = values.take(ids.len() * vocabulary).collect();
        let found = task.decoder.forward(&ids, ids.len(), &step(0.0)).unwrap().to_vec2::<f32>().unwrap();
        let worst = found.iter().zip(expected.chunks(vocabulary)).map(|(a, b)| Sums::of(b, a).relative_error());
        let worst = worst.fold(0.0, f64::max);
        println!("{name}: float logits differ by {worst:.2e}");
        assert!(worst < 1e-3, "{name}: {worst}");
    }
}

#[test]
fn training_wins_back_what_rounding_loses_and_the_file_is_what_was_trained() {
    let dir = folder();
    for (name, rule, quant, group) in [
        ("llama", "search", "TQ2_0", None),
        ("llama", "absmean", "TQ1_0", Some("row")),
        ("llama", "threshold", "I2_S", None),
        ("qwen2", "twn", "Q2_0", None),
        ("qwen3", "search", "TQ2_0", None),
        ("phi3", "absmean", "Q2_0", Some("tensor")),
        ("gpt2", "search", "Q2_0", None),
        ("gpt2", "none", "TQ2_0", None),
    ] {
        let case = format!("{name} {rule} {quant}");
        let mut config = config(name, dir.path());
        config.rule = rule.into();
        config.quant = quant.into();
        config.group = group.map(str::to_owned);
        let out = dir.path().join(&case);
        let outcome = finetune(&config, &out, &|_| Ok(()), false).unwrap_or_else(|error| panic!("{case}: {error:#}"));
        let Outcome { float, rounded, trained, .. } = &outcome;
        println!("{case}: {:.3} float, {:.3} rounded, {:.3} trained", float.loss, rounded.loss, trained.loss);
        // The models speak noise, so training helps them all.
        assert!(trained.loss < 0.8 * rounded.loss, "{case}");
        let found = measured(&outcome.model, &outcome.held_out, config.seq_len);
        assert!((found / trained.loss - 1.0).abs() < 0.01, "{case}: {found} measured, {} trained", trained.loss);
        // The checkpoint is a whole one: weights on three levels, which load again and lose nothing.
        let mut again = FinetuneConfig { source: outcome.checkpoint.clone(), ..config.clone() };
        again.rule = "none".into();
        let again = FinetuneTask::new(again, &|_| Ok(())).unwrap();
        let parts = again.decoder.parts().unwrap();
        let part = parts.iter().find(|part| part.name == "blk.0.ffn_down.weight").unwrap();
        let mut levels: Vec<f32> = part.values.flatten_all().unwrap().to_vec1().unwrap();
        levels.truncate(64);
        levels.sort_by(f32::total_cmp);
        levels.dedup();
        assert_eq!(levels.len() <= 3, rule != "none", "{case}: {levels:?}");
        // Its values are those of the file, scales and all.
        let options = Options { quant: Some(Format::F32), ..Options::default() };
        let (ours, theirs) = (dir.path().join("ours.gguf"), dir.path().join("theirs.gguf"));
        convert::from_checkpoint(&outcome.checkpoint, &ours, None, &options).unwrap();
        convert::from_gguf(&outcome.model, &theirs, &options).unwrap();
        let linear = |path: &Path| {
            let bytes = fs::read(path).unwrap();
            let file = Gguf::parse(&bytes).unwrap();
            let tensors = file.header().tensors.iter().filter(|info| info.name.starts_with("blk"));
            tensors.map(|info| (info.name.clone(), file.data(info).to_vec())).collect::<Vec<_>>()
        };
        if rule != "none" {
            assert!(linear(&ours) == linear(&theirs), "{case}");
        }
    }
}

#[test]
fn a_stopped_run_goes_on_and_another_is_told_apart() {
    let dir = folder();
    let mut config = config("qwen3", dir.path());
    config.gradient_accumulation_steps = 2;
    config.batch_size = 2;
    config.distill = 0.5;
    config.temperature = 2.0;
    config.stochastic_rounding = true;
    config.set_steps(8);
    let out = dir.path().join("whole");
    let whole = finetune(&config, &out, &|_| Ok(()), false).unwrap();
    let (stopped, checkpoint) = (dir.path().join("stopped"), "checkpoint.safetensors");
    config.run.checkpoint_seconds = 0;
    // As if killed after five steps: a task that stops there leaves its checkpoint.
    let task = FinetuneTask::new(config.clone(), &|_| Ok(())).unwrap();
    let error =
        trainer::train(&Killed { task, at: 5 }, &config.run, &config, &RunDir::create(&stopped).unwrap(), false);
    assert!(error.unwrap_err().to_string().contains("killed"));
    let error = format!("{:#}", finetune(&config, &stopped, &|_| Ok(()), false).unwrap_err());
    assert!(error.contains("--resume"), "{error}");
    let resumed = finetune(&config, &stopped, &|_| Ok(()), true).unwrap();
    assert_eq!((resumed.trained, resumed.float), (whole.trained, whole.float));
    let same = |name: &str| fs::read(out.join(name)).unwrap() == fs::read(stopped.join(name)).unwrap();
    assert!(same("model.gguf") && same("checkpoint/model.safetensors") && same("held-out.txt"));
    let other = FinetuneConfig { distill: 0.25, ..config.clone() };
    let error = format!("{:#}", finetune(&other, &stopped, &|_| Ok(()), true).unwrap_err());
    assert!(error.contains(checkpoint) && error.contains("distill was 0.5 there and is 0.25 here"), "{error}");
    let error = format!("{:#}", finetune(&config, &dir.path().join("new"), &|_| Ok(()), true).unwrap_err());
    assert!(error.contains("no checkpoint"), "{error}");
    let onto_itself = FinetuneConfig { source: out.join("checkpoint"), ..config };
    fs::remove_file(out.join(checkpoint)).unwrap();
    let error = format!("{:#}", finetune(&onto_itself, &out, &|_| Ok(()), false).unwrap_err());
    assert!(error.contains("over itself"), "{error}");
}

#[test]
fn what_is_measured_can_be_shorter_than_a_sequence() {
    let dir = folder();
    let config = FinetuneConfig { max_eval_tokens: Some(20), ..config("llama", dir.path()) };
    let task = FinetuneTask::new(config, &|_| Ok(())).unwrap();
    let tokens = task.tokens().1;
    assert!((LEAST..32).contains(&tokens) && task.measured == tokens, "{tokens}");
    assert!(
        task.notes()[0].contains(&format!("sequences of {tokens} tokens, not of --seq-len 32")),
        "{:?}",
        task.notes()
    );
    let (found, text) = (task.evaluate(&step(0.0), true, &mut |_, _| true).unwrap(), dir.path().join("held-out.txt"));
    fs::write(&text, &task.held_out_text).unwrap();
    let model = dir.path().join("float.gguf");
    let options = Options {
        quant: Some(Format::F32),
        embedding: Some(Format::F32),
        output: Some(Format::F32),
        ..Options::default()
    };
    convert::from_checkpoint(&fixture("llama"), &model, None, &options).unwrap();
    // What the runtime finds with such chunks.
    let measured = measured(&model, &text, tokens);
    assert!((measured / found.loss - 1.0).abs() < 0.01, "{measured} {found}");
}

#[test]
fn a_slice_is_trained_on_and_the_rest_is_measured() {
    let dir = folder();
    let text = |split: &str| {
        let mut config = config("llama", dir.path());
        config.train_split = Some(split.parse().unwrap());
        Text::read(&config).unwrap()
    };
    let whole = made_up_text();
    let (first, rest) = whole.split_at(whole.match_indices('\n').nth(99).unwrap().0 + 1);
    let Text { training, held_out } = text("train[:100]");
    assert_eq!((training.as_str(), held_out.as_str()), (first, rest));
    let Text { training, held_out } = text("train[100:]");
    assert_eq!((training.as_str(), held_out.as_str()), (rest, first));
}

#[test]
fn a_float_student_has_nothing_to_learn_from_its_teacher() {
    let dir = folder();
    let loss = |distill: f32, ternary: f32| {
        let config = FinetuneConfig { distill, ..config("gpt2", dir.path()) };
        let task = FinetuneTask::new(config, &|_| Ok(())).unwrap();
        let step = Step { training: true, ..step(ternary) };
        f64::from(task.loss(&step, 0).unwrap().to_scalar::<f32>().unwrap())
    };
    assert!(loss(1.0, 0.0).abs() < 1e-5);
    let (alone, followed, half) = (loss(0.0, 1.0), loss(1.0, 1.0), loss(0.5, 1.0));
    assert!(followed > 0.01 && (half - 0.5 * (alone + followed)).abs() < 1e-5, "{alone} {followed} {half}");
}

#[test]
fn what_cannot_be_trained_is_one_error_before_training() {
    let dir = folder();
    fs::write(dir.path().join("short.txt"), "too short").unwrap();
    let error = |name: &str, change: &dyn Fn(&mut FinetuneConfig)| {
        let mut config = config(name, dir.path());
        change(&mut config);
        format!("{:#}", FinetuneTask::new(config, &admit(false)).map(|_| ()).unwrap_err())
    };
    for (name, change, said) in [
        ("bitnet", (&|_: &mut FinetuneConfig| {}) as &dyn Fn(&mut FinetuneConfig), "`sterna convert` makes a GGUF"),
        ("bitnet-packed", &|_: &mut FinetuneConfig| {}, "it was trained ternary"),
        ("nothing", &|_: &mut FinetuneConfig| {}, "nothing is no directory"),
        ("llama", &|c: &mut FinetuneConfig| c.text = dir.path().join("short.txt"), "fewer than one sequence of 32"),
        ("llama", &|c: &mut FinetuneConfig| c.text = "mnist".into(), "mnist"),
        ("llama", &|c: &mut FinetuneConfig| c.text = "/nowhere/x.txt".into(), "cannot read /nowhere/x.txt"),
        ("llama", &|c: &mut FinetuneConfig| c.seq_len = 512, "context is 256 tokens"),
        ("gpt2", &|c: &mut FinetuneConfig| c.seq_len = 65, "context is 64 tokens"),
        ("llama", &|c: &mut FinetuneConfig| c.rule = "best".into(), "`best` is no quantization method"),
        ("llama", &|c: &mut FinetuneConfig| c.rule = "sign".into(), "goes with --quant Q1_0"),
        ("llama", &|c: &mut FinetuneConfig| c.quant = "F16".into(), "no ternary format"),
        ("llama", &|c: &mut FinetuneConfig| c.group = Some("64".into()), "TQ2_0 cannot hold"),
        ("llama", &|c: &mut FinetuneConfig| c.batch_size = 0, "--batch-size is 0; give a whole number, at least 1"),
        ("llama", &|c: &mut FinetuneConfig| c.gradient_accumulation_steps = 0, "--gradient-accumulation-steps is 0"),
        ("llama", &|c: &mut FinetuneConfig| c.seq_len = 3, "--seq-len is 3; give a whole number, at least 4"),
        ("llama", &|c: &mut FinetuneConfig| c.held_out = 0.0, "--held-out is 0; give a share"),
        ("llama", &|c: &mut FinetuneConfig| c.held_out = f64::NAN, "--held-out is NaN"),
        ("llama", &|c: &mut FinetuneConfig| c.train_split = Some(Split::Share(1.0)), "--train-split is 1"),
        ("llama", &|c: &mut FinetuneConfig| c.max_eval_tokens = Some(3), "--max-eval-tokens is 3"),
        ("llama", &|c: &mut FinetuneConfig| c.max_train_samples = Some(0), "--max-train-samples is 0"),
        ("llama", &|c: &mut FinetuneConfig| c.distill = 2.0, "--distill is 2; give a number from 0 to 1"),
        ("llama", &|c: &mut FinetuneConfig| c.temperature = 0.0, "--temperature is 0; give a number above 0"),
        ("llama", &|c: &mut FinetuneConfig| c.text = PathBuf::new(), "name no text"),
        ("llama", &|c: &mut FinetuneConfig| c.source = PathBuf::new(), "name no checkpoint"),
        ("llama", &|c: &mut FinetuneConfig| c.run.schedule.lr = f32::NAN, "--lr is NaN; give a number above 0"),
        ("llama", &|c: &mut FinetuneConfig| c.run.schedule.ternary_warmup_steps = 25, "more --steps"),
        ("llama", &|c: &mut FinetuneConfig| c.max_train_samples = Some(1), "the training part"),
        ("llama", &|c: &mut FinetuneConfig| c.batch_size = 1 << 24, "with --force"),
    ] {
        let found = error(name, change);
        assert!(found.contains(said), "{said:?} is not in {found:?}");
    }
    // A checkpoint without a tokenizer, and one with a wrong shape.
    let copy = dir.path().join("copy");
    fs::create_dir(&copy).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(fixture("qwen2").join(name), copy.join(name)).unwrap();
    }
    let found = error("qwen2", &|c: &mut FinetuneConfig| c.source = copy.clone());
    assert!(found.contains("has no tokenizer"), "{found}");
    let text = fs::read_to_string(copy.join("config.json")).unwrap();
    fs::write(copy.join("config.json"), text.replace("\"intermediate_size\": 128", "\"intermediate_size\": 192"))
        .unwrap();
    let found = error("qwen2", &|c: &mut FinetuneConfig| c.source = copy.clone());
    assert!(found.contains("by config.json it must be") && found.contains("model.safetensors"), "{found}");
}
