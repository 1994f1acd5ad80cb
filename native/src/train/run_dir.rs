//! The folder of a run: its files, the lock that keeps other runs out, and whether a run can begin or go on in it.

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;

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
            (false, false) => self.check_empty(&text_of(config)?),
        }
    }

    /// As [`RunDir::check`], and writes the settings into the folder.
    ///
    /// # Errors
    /// Those, and if they cannot be written.
    pub fn begin<T: Serialize + DeserializeOwned>(&self, config: &T, resume: bool) -> Result<()> {
        self.check(config, resume)?;
        checkpoint::replace(&self.config(), text_of(config)?.as_bytes())
            .with_context(|| format!("cannot write {}", self.config().display()))
    }

    /// Refuses a folder in which something would be overwritten. A run of the same settings that ended before its first checkpoint left
    /// nothing to keep.
    fn check_empty(&self, settings: &str) -> Result<()> {
        let results = [self.model(), self.exported()].into_iter();
        let course = [self.config(), self.log(), self.plot(), self.held_out()].into_iter();
        let same = fs::read_to_string(self.config()).is_ok_and(|found| found == settings);
        let found: Vec<_> = results.chain(course.filter(|_| !same)).filter(|path| path.exists()).collect();
        if found.is_empty() {
            return Ok(());
        }
        let names: Vec<_> =
            found.iter().filter_map(|path| path.file_name()).map(|name| name.to_string_lossy()).collect();
        bail!(
            "{} has files of another run ({}), but no checkpoint that this one could go on from; name another folder with --out, or \
             delete them",
            self.dir.display(),
            names.join(", ")
        )
    }
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
        run.begin(&config, false).unwrap();
        // It ended before its first checkpoint.
        fs::write(run.log(), "{}\n").unwrap();
        run.begin(&config, false).unwrap();
        let mut other = config.clone();
        other.run.seed = 2;
        let error = run.begin(&other, false).unwrap_err().to_string();
        assert!(error.contains("files of another run (config.toml, log.jsonl)"), "{error}");
        fs::write(run.model(), "a model").unwrap();
        let error = run.begin(&config, false).unwrap_err().to_string();
        assert!(error.contains("(model.gguf)"), "{error}");
        assert_eq!(fs::read_to_string(run.model()).unwrap(), "a model");
    }

    #[test]
    fn settings_that_were_changed_since_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::create(dir.path()).unwrap();
        let config = Settings::default();
        run.begin(&config, false).unwrap();
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
