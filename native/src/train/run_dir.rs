//! The folder of a run: its files, the lock that keeps other runs out, and whether a run can begin or go on in it.

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::checkpoint::{self, Progress};
use super::settings::{self, Difference};
use crate::fetch;
use crate::ui::message;

/// A run's folder, locked until the last copy of this value is dropped, or the process ends.
#[derive(Clone, Debug)]
pub struct RunDir {
    dir: PathBuf,
    _lock: Arc<File>,
}

impl RunDir {
    /// The folder of a run, made if it is not there.
    ///
    /// # Errors
    /// If it cannot be made, or another run is at work in it.
    pub fn create(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make the folder {}", dir.display()))?;
        Ok(Self { dir: dir.into(), _lock: Arc::new(lock(dir)?) })
    }

    /// The folder of a run that was begun.
    ///
    /// # Errors
    /// If there is no checkpoint in it, or another run is at work in it.
    pub fn open(dir: &Path) -> Result<Self> {
        let checkpoint = checkpoint::path_in(dir);
        if !checkpoint.is_file() {
            bail!("{}", nothing_to_resume(&checkpoint));
        }
        Self::create(dir)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// The trained model.
    pub fn model(&self) -> PathBuf {
        self.dir.join("model.gguf")
    }

    /// The last checkpoint.
    pub fn checkpoint(&self) -> PathBuf {
        checkpoint::path_in(&self.dir)
    }

    /// The log, one JSON object a line.
    pub fn log(&self) -> PathBuf {
        self.dir.join("log.jsonl")
    }

    /// The settings, as `--config` reads them.
    pub fn config(&self) -> PathBuf {
        self.dir.join("config.toml")
    }

    /// The curve of losses.
    pub fn plot(&self) -> PathBuf {
        self.dir.join("loss.svg")
    }

    /// The trained model as a checkpoint directory, where the run leaves one.
    pub fn exported(&self) -> PathBuf {
        self.dir.join("checkpoint")
    }

    /// The text that a fine-tuning was measured on.
    pub fn held_out(&self) -> PathBuf {
        self.dir.join("held-out.txt")
    }

    /// How far the run in the folder came.
    ///
    /// # Errors
    /// If there is no checkpoint, or none that can be read.
    pub fn saved(&self) -> Result<Progress> {
        checkpoint::progress(&self.checkpoint())
    }

    /// The settings with which the run in the folder goes on: those that it began with.
    ///
    /// # Errors
    /// If there is no checkpoint, or `config.toml` was changed since in what may not change.
    pub fn settings<T: Serialize + DeserializeOwned>(&self) -> Result<T> {
        let saved = self.saved()?.config;
        let path = self.config();
        let Ok(text) = fs::read_to_string(&path) else { return settings::restored(&saved) };
        let found: T = toml::from_str(&text)
            .with_context(|| format!("{} does not hold the settings of such a run", path.display()))?;
        if let Some(Difference { key, saved, given }) = settings::difference(&saved, &found)? {
            bail!(
                "{} was changed: {key} is {given} there, but the run began with {saved}, as its checkpoint says; put that back, or \
                 begin another run with this file as --config",
                path.display()
            );
        }
        Ok(found)
    }

    /// Makes sure that a run with these settings can begin in the folder, or go on.
    ///
    /// # Errors
    /// If there is a checkpoint or are other files of a run where this one is to begin; if there is no checkpoint where it is to go
    /// on, or one of other settings.
    pub fn check<T: Serialize + DeserializeOwned>(&self, config: &T, resume: bool) -> Result<()> {
        let checkpoint = self.checkpoint();
        match (resume, checkpoint.exists()) {
            (true, false) => bail!("{}", nothing_to_resume(&checkpoint)),
            (true, true) => {
                let difference = settings::difference(&self.saved()?.config, config);
                let difference = difference.with_context(|| format!("{} cannot go on", checkpoint.display()))?;
                if let Some(Difference { key, saved, given }) = difference {
                    bail!(
                        "{} is of another run: {key} was {saved} there and is {given} here; leave that out to go on with what it was, \
                         or begin another run with another --out",
                        checkpoint.display()
                    );
                }
                Ok(())
            }
            (false, true) => bail!(
                "{} holds the checkpoint of an earlier run; go on with --resume, name another folder with --out, or delete it",
                self.dir.display()
            ),
            (false, false) => self.check_empty(),
        }
    }

    /// As [`RunDir::check`] and, where a run goes on, [`RunDir::check_data`]; then writes the settings into the folder. Files of a run
    /// that ended before its first checkpoint are replaced, and a note says so.
    ///
    /// # Errors
    /// Those, before anything is written; and if the folder's files cannot be written.
    pub fn begin<T: Serialize + DeserializeOwned>(&self, config: &T, data: Option<&str>, resume: bool) -> Result<()> {
        self.check(config, resume)?;
        if resume {
            self.check_data(&serde_json::to_value(config)?, data)?;
        }
        let settings = text_of(config)?;
        if !resume {
            self.clear(&settings)?;
        }
        checkpoint::replace(&self.config(), settings.as_bytes())
            .with_context(|| format!("cannot write {}", self.config().display()))
    }

    /// Makes sure that the data with the digest `data`, which the settings `config` name, is what the run in the folder was trained on.
    ///
    /// # Errors
    /// If it is not: what the run has and what was given.
    pub fn check_data(&self, config: &Value, data: Option<&str>) -> Result<()> {
        let saved = self.saved()?;
        match (&saved.data, data) {
            (Some(was), Some(is)) if was != is => {}
            _ => return Ok(()),
        }
        let (mut has, mut given, mut same) = (Vec::new(), Vec::new(), Vec::new());
        for (key, flag) in DATA {
            let [was, is] = [&saved.config, config].map(|settings| flags(flag, settings.pointer(key)));
            match was == is {
                true => same.extend(was),
                false => {
                    has.push(was.unwrap_or_else(|| format!("no {flag}")));
                    given.push(is.unwrap_or_else(|| format!("no {flag}")));
                }
            }
        }
        let dir = self.dir.display();
        if has.is_empty() {
            bail!(
                "the data is not what {dir} was trained on: a file has changed since ({}); name the file as it was, or begin another \
                 run with another --out",
                same.join(" ")
            );
        }
        let (has, given) = (has.join(" "), given.join(" "));
        bail!(
            "the data is not what {dir} was trained on: the run has {has}, and this command has {given}; go on with {has}, or begin \
             another run with another --out"
        )
    }

    /// Deletes what a run left that ended before its first checkpoint, and says so. A fine-tuning of these very settings has
    /// written its held-out text before it begins.
    fn clear(&self, settings: &str) -> Result<()> {
        let same = fs::read_to_string(self.config()).is_ok_and(|found| found == settings);
        let mut old = vec![self.log(), self.plot()];
        if !same {
            old.extend([self.held_out(), self.config()]);
        }
        old.retain(|path| path.exists());
        if old.is_empty() {
            return Ok(());
        }
        message::note(&format!(
            "{} has files of a run that ended before its first checkpoint ({}); nothing that was learned is in them, and they are \
             replaced",
            self.dir.display(),
            names(&old)
        ));
        for path in &old {
            fs::remove_file(path).with_context(|| format!("cannot delete {}", path.display()))?;
        }
        Ok(())
    }

    /// Refuses a folder in which something would be overwritten. A run that ended before its first checkpoint left nothing to keep: it
    /// is known by its settings, and by there being no results.
    fn check_empty(&self) -> Result<()> {
        let results = [self.model(), self.exported()].into_iter();
        let course = [self.config(), self.log(), self.plot(), self.held_out()].into_iter();
        let settings = fs::read_to_string(self.config()).ok().and_then(|text| toml::from_str::<Value>(&text).ok());
        let ours = settings.is_some_and(|settings| settings.pointer("/run/schedule").is_some());
        let found: Vec<_> = results.chain(course.filter(|_| !ours)).filter(|path| path.exists()).collect();
        if found.is_empty() {
            return Ok(());
        }
        bail!(
            "{} has files of another run ({}), but no checkpoint that this one could go on from; name another folder with --out, or \
             delete them",
            self.dir.display(),
            names(&found)
        )
    }
}

/// Where settings name the data, and the flags for that.
const DATA: [(&str, &str); 4] =
    [("/text", "--text"), ("/also", "--also"), ("/eval_text", "--eval-text"), ("/run/data_dir", "--data-dir")];

/// A setting as it is typed; `None` where there is none.
fn flags(flag: &str, value: Option<&Value>) -> Option<String> {
    let words: Vec<_> = match value? {
        Value::Array(values) => values.iter().filter_map(Value::as_str).collect(),
        value => value.as_str().into_iter().collect(),
    };
    let typed: Vec<_> = words.iter().map(|word| format!("{flag} {word}")).collect();
    (!typed.is_empty()).then(|| typed.join(" "))
}

/// The names of files in the folder.
fn names(paths: &[PathBuf]) -> String {
    let names: Vec<_> = paths.iter().filter_map(|path| path.file_name()).map(|name| name.to_string_lossy()).collect();
    names.join(", ")
}

fn nothing_to_resume(checkpoint: &Path) -> String {
    format!(
        "there is no checkpoint at {}; name the run's folder with --out, or leave out --resume to begin",
        checkpoint.display()
    )
}

/// Settings as the folder holds them.
fn text_of(config: &impl Serialize) -> Result<String> {
    toml::to_string_pretty(config).context("the settings cannot be written as TOML")
}

/// Locks the folder for this process. The lock is the system's, so it ends with the process however that ends; the file says whose it is.
fn lock(dir: &Path) -> Result<File> {
    let path = dir.join(fetch::LOCK);
    let cannot = || format!("cannot lock the folder {}", dir.display());
    let mut file = File::options()
        .create(true)
        .read(true)
        .write(true)
        .truncate(false)
        .open(&path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => {
            file.set_len(0).and_then(|()| write!(file, "{}", std::process::id())).with_context(cannot)?;
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // Where a lock forbids reading, too, the process stays unknown.
            let known = file.read_to_string(&mut holder).is_ok() && holder.parse::<u32>().is_ok();
            let process = if known { format!(" (process {holder})") } else { String::new() };
            bail!(
                "another run is at work in {}{process}; wait for its end, or name another folder with --out",
                dir.display()
            )
        }
        Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {
            message::note(&format!(
                "the file system of {} has no locks; let no other run use this folder",
                dir.display()
            ));
            Ok(file)
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(cannot),
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::RunConfig;
    use super::*;

    #[derive(Clone, Debug, Default, PartialEq, serde::Deserialize, Serialize)]
    struct Settings {
        run: RunConfig,
    }

    #[test]
    fn a_folder_serves_one_run_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let held = RunDir::create(dir.path()).unwrap();
        let copy = held.clone();
        drop(held);
        let error = RunDir::create(dir.path()).unwrap_err().to_string();
        assert!(error.contains("another run is at work") && error.contains("--out"), "{error}");
        // Where locked files can be read, it says whose the lock is.
        assert!(cfg!(windows) || error.contains(&format!("(process {})", std::process::id())), "{error}");
        drop(copy);
        RunDir::create(dir.path()).unwrap();
    }

    #[test]
    fn files_of_another_run_are_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::create(dir.path()).unwrap();
        let config = Settings::default();
        run.begin(&config, None, false).unwrap();
        // It ended before its first checkpoint: any other may begin.
        fs::write(run.log(), "{}\n").unwrap();
        run.begin(&config, None, false).unwrap();
        fs::write(run.log(), "{}\n").unwrap();
        fs::write(run.held_out(), "a text").unwrap();
        let mut other = config.clone();
        other.run.seed = 2;
        run.begin(&other, None, false).unwrap();
        assert!(!run.log().exists() && !run.held_out().exists());
        assert!(fs::read_to_string(run.config()).unwrap().contains("seed = 2"));
        fs::write(run.model(), "a model").unwrap();
        let error = run.begin(&config, None, false).unwrap_err().to_string();
        assert!(error.contains("(model.gguf)"), "{error}");
        assert_eq!(fs::read_to_string(run.model()).unwrap(), "a model");
        // Files that are no run's.
        fs::remove_file(run.model()).unwrap();
        fs::write(run.config(), "[server]\nport = 1\n").unwrap();
        let error = run.begin(&config, None, false).unwrap_err().to_string();
        assert!(error.contains("files of another run (config.toml)"), "{error}");
        assert_eq!(fs::read_to_string(run.config()).unwrap(), "[server]\nport = 1\n");
    }

    #[test]
    fn other_data_is_refused_by_name_before_anything_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::create(dir.path()).unwrap();
        let config = Settings::default();
        run.begin(&config, Some("a"), false).unwrap();
        let saved = serde_json::json!({"run": config.run, "text": "/a.txt", "also": ["/b.txt", "/c.txt"]});
        let progress = Progress { config: saved, data: Some("a".into()), ..Progress::default() };
        checkpoint::Checkpoint { progress, tensors: Default::default() }.write(&run.checkpoint()).unwrap();
        let before = fs::read(run.config()).unwrap();
        let mut moved = config.clone();
        moved.run.eval_every = 7;
        let error = run.begin(&moved, Some("b"), true).unwrap_err().to_string();
        let has = "--text /a.txt --also /b.txt --also /c.txt";
        let said = format!("the run has {has}, and this command has no --text no --also; go on with {has}, or");
        assert!(error.contains(&said), "{error}");
        assert_eq!(fs::read(run.config()).unwrap(), before);
        run.begin(&moved, Some("a"), true).unwrap();
        assert!(fs::read_to_string(run.config()).unwrap().contains("eval_every = 7"));
        let given = serde_json::json!({"text": "/a.txt", "also": ["/b.txt", "/c.txt"], "eval_text": "/d.txt"});
        let error = run.check_data(&given, Some("b")).unwrap_err().to_string();
        assert!(error.contains("the run has no --eval-text, and this command has --eval-text /d.txt"), "{error}");
        let given = serde_json::json!({"text": "/a.txt", "also": ["/b.txt", "/c.txt"]});
        let error = run.check_data(&given, Some("b")).unwrap_err().to_string();
        assert!(error.contains("a file has changed") && error.contains(has), "{error}");
    }

    #[test]
    fn settings_that_were_changed_since_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::create(dir.path()).unwrap();
        let config = Settings::default();
        run.begin(&config, None, false).unwrap();
        let progress = Progress { config: serde_json::to_value(&config).unwrap(), ..Progress::default() };
        checkpoint::Checkpoint { progress, tensors: Default::default() }.write(&run.checkpoint()).unwrap();
        assert_eq!(run.settings::<Settings>().unwrap(), config);
        // What may change is taken from the file.
        let text = fs::read_to_string(run.config()).unwrap();
        fs::write(run.config(), text.replace("eval_every = 200", "eval_every = 50")).unwrap();
        assert_eq!(run.settings::<Settings>().unwrap().run.eval_every, 50);
        fs::write(run.config(), text.replace("steps = 1000", "steps = 70")).unwrap();
        let error = run.settings::<Settings>().unwrap_err().to_string();
        assert!(error.contains("run.schedule.steps is 70 there, but the run began with 1000"), "{error}");
        fs::remove_file(run.config()).unwrap();
        assert_eq!(run.settings::<Settings>().unwrap(), config);
    }
}
