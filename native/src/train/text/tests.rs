//! Tiny decoders on a made-up text: that they learn, that runs repeat and resume, and that the runtime computes what training saw.

use sterna_core::Model;
use sterna_core::gguf::Gguf;
use sterna_core::kernels::Serial;
use sterna_core::model::Logits;

use super::model::Architecture;
use super::*;
use crate::train::run_dir::RunDir;
use crate::train::testing::Killed;
use crate::train::trainer;

/// Sentences of a small grammar, so that there is something to learn; 20,000 characters.
pub(crate) fn made_up_text() -> String {
    let mut generator = generator(7, 0, 0);
    let mut pick = |words: &[&str]| words[below(&mut generator, words.len())].to_owned();
    let mut text = String::new();
    while text.len() < 20_000 {
        text += &pick(&["the king", "a fool", "my lord", "thy queen"]);
        text += &pick(&[" hath seen ", " did love ", " shall slay "]);
        text += &pick(&["the crown.\n", "a rose;\n", "thy sword!\n"]);
    }
    text
}

fn config() -> TextConfig {
    let mut config = TextConfig { batch_size: 4, seq_len: 32, ..TextConfig::default() };
    config.model = ModelConfig { layers: 2, width: 64, heads: 4, kv_heads: 4, ffn: 128, dropout: 0.0, ..config.model };
    config.run.schedule.steps = 20;
    config.run.schedule.warmup_steps = 5;
    config.run.schedule.lr = 1e-2;
    config
}

fn task(config: &TextConfig) -> TextTask {
    TextTask::new(config.clone(), &made_up_text(), "", &|_| Ok(())).unwrap()
}

/// Trains in a folder; gives the task as it ended and the last measurement.
fn trained(config: &TextConfig, dir: &Path, resume: bool) -> Result<(TextTask, Evaluation)> {
    let task = task(config);
    let outcome = trainer::train(&task, &config.run, config, &RunDir::create(dir)?, resume)?;
    Ok((task, outcome.held_out))
}

fn evaluated(step: usize) -> Step {
    Step { index: step, seed: 1, ternary: 1.0, training: false }
}

fn weights(task: &TextTask) -> Vec<Vec<f32>> {
    task.parameters().iter().map(|p| p.var.flatten_all().unwrap().to_vec1().unwrap()).collect()
}

#[test]
fn a_decoder_learns() -> Result<()> {
    let mut config = config();
    config.run.schedule.steps = 120;
    let dir = tempfile::tempdir()?;
    let before = task(&config).evaluate(&evaluated(0), true, &mut |_, _| true)?.loss;
    let (_, after) = trained(&config, dir.path(), false)?;
    // Letters of equal frequency cost ln 27; the grammar's own entropy is about 0.24 nats a character.
    assert!(before > 3.0, "{before}");
    assert!(after.loss < 0.9, "{}", after.loss);
    assert_eq!(after.loss_per_char, Some(after.loss));
    for file in ["model.gguf", "checkpoint.safetensors", "log.jsonl", "loss.svg", "config.toml"] {
        assert!(dir.path().join(file).metadata()?.len() > 0, "{file}");
    }
    // The settings that were written are those that were used.
    let toml = std::fs::read_to_string(dir.path().join("config.toml"))?;
    assert_eq!(toml::from_str::<TextConfig>(&toml)?, config);
    Ok(())
}

#[test]
fn a_seed_repeats_and_a_stopped_run_goes_on_as_if_it_had_not_stopped() -> Result<()> {
    let mut config = config();
    config.model.dropout = 0.1;
    config.quantization.stochastic_rounding = true;
    config.run.schedule.float_steps = 4;
    config.run.schedule.ternary_warmup_steps = 8;
    config.run.checkpoint_seconds = 0;
    let (dir, again, other) = (tempfile::tempdir()?, tempfile::tempdir()?, tempfile::tempdir()?);
    let (whole, _) = trained(&config, dir.path(), false)?;
    assert_eq!(weights(&whole), weights(&trained(&config, again.path(), false)?.0));

    // Killed at step 8.
    let killed = Killed { task: task(&config), at: 8 };
    let error = trainer::train(&killed, &config.run, &config, &RunDir::create(other.path())?, false);
    assert_eq!(error.unwrap_err().to_string(), "killed");
    let (resumed, _) = trained(&config, other.path(), true)?;
    assert_eq!(weights(&whole), weights(&resumed));
    Ok(())
}

/// All of a log but speeds and times.
fn log(dir: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(dir.join("log.jsonl")).unwrap();
    let line = |line: &str| {
        let mut value: serde_json::Value = serde_json::from_str(line).unwrap();
        let fields = value.as_object_mut().unwrap();
        assert!(fields.remove("seconds").is_some() && fields.remove("per_second").is_some());
        value
    };
    text.lines().map(line).collect()
}

#[test]
fn the_log_of_a_run_that_went_on_is_that_of_the_run_that_never_stopped() -> Result<()> {
    let mut config = config();
    (config.run.log_every, config.run.eval_every, config.run.checkpoint_seconds) = (5, 10, 0);
    let whole = tempfile::tempdir()?;
    trained(&config, whole.path(), false)?;
    let expected = log(whole.path());
    assert_eq!(expected.len(), 4);
    // Within the steps of a line, at a line, at a measurement, and right before the last measurement.
    for at in [8, 5, 10, 19] {
        let dir = tempfile::tempdir()?;
        let killed = Killed { task: task(&config), at };
        assert!(trainer::train(&killed, &config.run, &config, &RunDir::create(dir.path())?, false).is_err());
        trained(&config, dir.path(), true)?;
        assert_eq!(log(dir.path()), expected, "killed at step {at}");
    }
    Ok(())
}

/// Measures the first batch of the last measurement, and fails then as if the process had been killed.
struct KilledAtTheEnd(TextTask);

impl Task for KilledAtTheEnd {
    fn parameters(&self) -> &Parameters {
        self.0.parameters()
    }

    fn loss(&self, step: &Step, part: usize) -> Result<Tensor> {
        self.0.loss(step, part)
    }

    fn evaluate(&self, step: &Step, whole: bool, watch: &mut Watch<'_>) -> Result<Evaluation> {
        if whole { bail!("killed") } else { self.0.evaluate(step, whole, watch) }
    }

    fn items_per_step(&self) -> (usize, &'static str) {
        self.0.items_per_step()
    }

    fn export(&self, path: &Path, step: &Step) -> Result<()> {
        self.0.export(path, step)
    }
}

#[test]
fn all_steps_are_saved_before_the_last_measurement() -> Result<()> {
    let mut config = config();
    config.run.log_every = 6;
    let (whole, dir) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let (_, expected) = trained(&config, whole.path(), false)?;
    let killed = KilledAtTheEnd(task(&config));
    assert!(trainer::train(&killed, &config.run, &config, &RunDir::create(dir.path())?, false).is_err());
    assert_eq!(RunDir::create(dir.path())?.saved()?.step, config.run.schedule.steps);
    let (_, found) = trained(&config, dir.path(), true)?;
    assert_eq!((found, log(dir.path())), (expected, log(whole.path())));
    // Once more changes nothing.
    trained(&config, dir.path(), true)?;
    assert_eq!(log(dir.path()), log(whole.path()));
    Ok(())
}

#[test]
fn a_measurement_that_is_stopped_is_of_what_was_measured() -> Result<()> {
    let task = task(&config());
    let mut heard = Vec::new();
    let whole = task.evaluate(&evaluated(0), true, &mut |done, total| {
        heard.push((done, total));
        true
    })?;
    let total = heard[0].1;
    assert!(heard.len() > 2 && heard.last() == Some(&(total, total)), "{heard:?}");
    let part = task.evaluate(&evaluated(0), true, &mut |done, _| done < 32)?;
    assert_ne!(part.loss, whole.loss);
    let measured = trainer::Measured { evaluation: part, done: 32, total };
    let error = measured.whole("the last step", "go on").unwrap_err();
    assert!(error.is::<crate::ui::interrupt::Interrupted>());
    let said = error.to_string();
    for part in
        ["stopped with Ctrl-C; the last step was measured in part: ", " % of the held-out data, loss ", "; go on"]
    {
        assert!(said.contains(part), "{said}");
    }
    assert!(trainer::Measured { done: total, ..measured }.whole("", "").is_ok());
    Ok(())
}

#[test]
fn a_run_goes_on_with_the_text_that_it_began_with() -> Result<()> {
    let mut config = config();
    config.run.schedule.steps = 2;
    let dir = tempfile::tempdir()?;
    trained(&config, dir.path(), false)?;
    let other = made_up_text().replace("rose", "nose");
    let task = TextTask::new(config.clone(), &other, "", &|_| Ok(()))?;
    let run = RunDir::create(dir.path())?;
    let (settings, log) = (std::fs::read(run.config())?, std::fs::read(run.log())?);
    config.run.eval_every = 1;
    let error = trainer::train(&task, &config.run, &config, &run, true).unwrap_err().to_string();
    assert!(error.contains("the data is not what") && error.contains("a file has changed"), "{error}");
    assert!(trainer::export(&task, &config.run, &config, &run).is_err());
    // Nothing was written.
    assert!(std::fs::read(run.config())? == settings && std::fs::read(run.log())? == log);
    Ok(())
}

/// The character's place is in the vocabulary, so that it can be measured, and the note says that it is not trained on.
#[test]
fn a_character_that_only_the_held_out_part_has_is_no_obstacle() -> Result<()> {
    let text = made_up_text() + "a rose — is a rose\n";
    let task = TextTask::new(config(), &text, "", &|_| Ok(()))?;
    assert_eq!(task.tokenizer.decode(&task.held_out.ids).matches('—').count(), 1);
    assert!(task.notes()[0].starts_with("1 character stands only in the part that is held out, once: '—' (U+2014)"));
    assert!(task.evaluate(&evaluated(0), true, &mut |_, _| true)?.loss.is_finite());
    // What the training part has is what it was.
    let alone = TextTask::new(config(), &made_up_text(), "", &|_| Ok(()))?;
    assert!(alone.notes().is_empty());
    Ok(())
}

#[test]
fn what_a_run_takes_is_estimated_before_it_is_allocated() {
    let asked = |change: &dyn Fn(&mut TextConfig)| {
        let mut config = config();
        change(&mut config);
        let memory = std::cell::Cell::new(None);
        let task = TextTask::new(config, &made_up_text(), "", &|asked| {
            memory.set(Some(*asked));
            bail!("asked")
        });
        assert_eq!(task.unwrap_err().to_string(), "asked");
        memory.get().unwrap()
    };
    // 100 million million weights.
    let large = asked(&|c| {
        (c.model.width, c.model.heads, c.model.kv_heads, c.model.ffn) = (1_000_000, 4, 4, 1_000_000);
        c.quantization.group = "row".into();
    });
    assert!(large.weights > 1 << 46, "{large}");
    assert!(large.check(None).is_err());
    // The count is that of the model's own weights.
    for hyper_connections in [1, 4] {
        let change = |c: &mut TextConfig| c.model.hyper_connections = hyper_connections;
        let mut config = config();
        change(&mut config);
        let count = 4 * task(&config).parameters().count() as u64;
        let gradients = asked(&change).gradients;
        assert!(gradients <= count && gradients * 100 >= count * 99, "{gradients} of {count}");
    }
}

#[test]
fn runs_do_not_overwrite_or_mix_with_others() -> Result<()> {
    let mut config = config();
    config.run.schedule.steps = 2;
    let dir = tempfile::tempdir()?;
    let error = |config: &TextConfig, resume| trained(config, dir.path(), resume).map(|_| ()).unwrap_err().to_string();
    assert!(error(&config, true).contains("no checkpoint"));
    trained(&config, dir.path(), false)?;
    assert!(error(&config, false).contains("--resume"));
    let other = TextConfig { batch_size: 5, ..config.clone() };
    let said = error(&other, true);
    assert!(said.contains("batch_size was 4 there and is 5 here"), "{said}");
    Ok(())
}

#[test]
fn a_run_that_diverges_says_so_and_keeps_its_checkpoint() -> Result<()> {
    let mut config = config();
    config.run.schedule.steps = 2;
    let dir = tempfile::tempdir()?;
    trained(&config, dir.path(), false)?;
    let checkpoint = std::fs::read(RunDir::create(dir.path())?.checkpoint())?;
    let task = task(&config);
    for parameter in task.parameters().iter() {
        parameter.var.set(&(parameter.var.as_tensor() * f64::NAN)?)?;
    }
    let other = tempfile::tempdir()?;
    let error = trainer::train(&task, &config.run, &config, &RunDir::create(other.path())?, false).unwrap_err();
    assert!(format!("{error:#}").contains("diverged at step 0: a weight is NaN or infinite"), "{error:#}");
    // A rate that makes weights infinite.
    config.run.schedule.lr = 1e38;
    config.run.schedule.steps = 6;
    let third = tempfile::tempdir()?;
    let error = trained(&config, third.path(), false).map(|_| ()).unwrap_err();
    assert!(format!("{error:#}").contains("diverged at step"), "{error:#}");
    // It left nothing that was learned: a run of other settings begins there.
    assert!(third.path().join("log.jsonl").exists());
    config.run.schedule.lr = 1e-3;
    trained(&config, third.path(), false)?;
    assert_eq!(std::fs::read(RunDir::create(dir.path())?.checkpoint())?, checkpoint);
    Ok(())
}

#[test]
fn the_runtime_computes_what_training_saw() -> Result<()> {
    let shapes = [
        // architecture, key-value heads, tied, method, group, format
        (Architecture::Bitnet, 4, true, "absmean", "64", "Q2_0"),
        (Architecture::Bitnet, 2, true, "absmean", "128", "PQ2_0"),
        (Architecture::Llama, 4, true, "threshold", "256", "TQ1_0"),
        (Architecture::Llama, 2, false, "absmean", "row", "TQ2_0"),
        (Architecture::Llama, 1, false, "absmean", "tensor", "TQ1_0"),
        (Architecture::Bitnet, 4, true, "threshold:0.3", "tensor", "TQ2_0"),
        (Architecture::Bitnet, 4, true, "sign", "128", "Q1_0"),
        (Architecture::Llama, 4, false, "none", "64", ""),
    ];
    for (architecture, kv_heads, tied, method, group, format) in shapes {
        let mut config = config();
        let model = ModelConfig { architecture, kv_heads, tied, width: 256, ffn: 256, layers: 2, ..config.model };
        config.model = model;
        config.quantization.method = method.into();
        config.quantization.group = group.into();
        config.format = (!format.is_empty()).then(|| format.into());
        config.run.schedule.steps = 6;
        let dir = tempfile::tempdir()?;
        let (task, held_out) = trained(&config, dir.path(), false)?;
        let bytes = std::fs::read(dir.path().join("model.gguf"))?;
        let file = Gguf::parse(&bytes)?;
        let down = file.header().tensors.iter().find(|info| info.name == "blk.0.ffn_down.weight").unwrap();
        let expected = config.format.as_deref().map_or(Format::F16, |name| export::format_named(name).unwrap());
        assert_eq!(down.type_id, expected.type_id());
        let runtime = Model::from_gguf(&bytes)?;
        let case = format!("{architecture:?} {kv_heads} {tied} {method} {group} {format}");

        // Logits.
        let ids = &task.held_out.ids[..config.seq_len];
        let expected = task.decoder.forward(ids, ids.len(), &evaluated(6))?.to_vec2::<f32>()?.concat();
        let mut state = runtime.transformer().state(None);
        let found = runtime.transformer().forward(&mut state, &Serial, ids, Logits::All)?;
        let (mut error, mut size) = (0.0f64, 0.0f64);
        for (&expected, &found) in expected.iter().zip(found) {
            error += f64::from(expected - found).powi(2);
            size += f64::from(expected).powi(2);
        }
        // The embedding and the cache are f16 there; an activation code may flip by one.
        assert!((error / size).sqrt() < 0.01, "{case}: relative error {}", (error / size).sqrt());

        // Losses, as `sterna perplexity` measures them.
        let (length, mut sum, mut count) = (config.seq_len, 0.0, 0);
        for ids in task.held_out.ids.chunks_exact(length) {
            let mut state = runtime.transformer().state(None);
            let logits = runtime.transformer().forward(&mut state, &Serial, ids, Logits::All)?;
            let logits = Tensor::from_slice(logits, (length, task.tokenizer.vocabulary()), &candle_core::Device::Cpu)?;
            let scored = logits.narrow(0, length / 2, length - 1 - length / 2)?.contiguous()?;
            let losses = ops::losses(&scored, &ids[length / 2 + 1..])?;
            sum += losses.iter().map(|&loss| f64::from(loss)).sum::<f64>();
            count += losses.len();
        }
        let loss = sum / f64::from(count as u32);
        assert!((loss / held_out.loss - 1.0).abs() < 0.002, "{case}: {loss} there, {} here", held_out.loss);
        // Text goes in and comes out.
        let tokenizer = runtime.tokenizer()?;
        let ids = tokenizer.encode("thy queen", Default::default())?;
        assert_eq!(ids, task.tokenizer.encode("thy queen")?);
        assert_eq!(tokenizer.decode(&ids, false), "thy queen");
    }
    Ok(())
}

#[test]
fn another_text_is_trained_on_and_nothing_of_it_is_held_out() {
    let (alone, text) = (task(&config()), made_up_text());
    let both = TextTask::new(config(), &text, "zounds, a quill\n", &|_| Ok(())).unwrap();
    assert_eq!(both.tokens().0, alone.tokens().0 + 16);
    assert_eq!(both.tokenizer.decode(&both.training[alone.tokens().0..]), "zounds, a quill\n");
    // Its characters are in the vocabulary; what is measured is the same text.
    assert!(both.tokenizer().vocabulary() > alone.tokenizer().vocabulary());
    assert_eq!(both.tokenizer.decode(&both.held_out.ids), alone.tokenizer.decode(&alone.held_out.ids));
}

#[test]
fn texts_and_settings_that_cannot_be_are_refused() {
    let refused = |change: &dyn Fn(&mut TextConfig), text: &str| {
        let mut config = config();
        change(&mut config);
        format!("{:#}", TextTask::new(config, text, "", &|_| Ok(())).unwrap_err())
    };
    let text = made_up_text();
    for (change, text, said) in [
        (&(|_: &mut TextConfig| {}) as &dyn Fn(&mut TextConfig), "", "empty"),
        (&|_: &mut TextConfig| {}, "too short", "has 8 tokens, fewer than one sequence of 32"),
        (&|c: &mut TextConfig| c.held_out = 0.001, &text, "held-out part"),
        (&|c: &mut TextConfig| c.model.heads = 3, &text, "cut into 3 heads"),
        (&|c: &mut TextConfig| c.model.kv_heads = 3, &text, "cannot share 3"),
        (&|c: &mut TextConfig| c.model.tied = false, &text, "choose llama"),
        (&|c: &mut TextConfig| c.model.width = 96, &text, "groups of 64"),
        (&|c: &mut TextConfig| c.quantization.method = "best".into(), &text, "`best` is no quantization method"),
        (&|c: &mut TextConfig| c.format = Some("TQ1_0".into()), &text, "TQ1_0 cannot hold"),
        (&|c: &mut TextConfig| c.batch_size = 0, &text, "at least 1"),
        (&|c: &mut TextConfig| c.seq_len = 3, &text, "--seq-len is 3; give a whole number, at least 4"),
        (&|c: &mut TextConfig| c.held_out = f64::NAN, &text, "held_out is NaN; give a share"),
        (&|c: &mut TextConfig| c.model.layers = 0, &text, "--layers is 0"),
        (&|c: &mut TextConfig| c.model.heads = 0, &text, "--heads is 0"),
        (&|c: &mut TextConfig| c.model.heads = usize::MAX, &text, "cut into 18446744073709551615 heads"),
        (&|c: &mut TextConfig| c.model.kv_heads = 0, &text, "--kv-heads is 0"),
        (&|c: &mut TextConfig| c.model.dropout = 1.0, &text, "--dropout is 1; give a number from 0 up to"),
        (&|c: &mut TextConfig| c.model.dropout = f32::NAN, &text, "--dropout is NaN"),
        (&|c: &mut TextConfig| c.model.eps = -1.0, &text, "model.eps is -1; give a number above 0"),
        (&|c: &mut TextConfig| c.model.rope_base = 0.0, &text, "model.rope_base is 0"),
        (&|c: &mut TextConfig| c.run.schedule.lr = -1.0, &text, "--lr is -1; give a number above 0"),
        (&|c: &mut TextConfig| c.run.schedule.float_steps = 21, &text, "--float-steps is 21, but the run has 20 steps"),
    ] {
        let found = refused(change, text);
        assert!(found.contains(said), "{found}");
    }
}
