//! Checkpoints: one safetensors file that is replaced whole, so that a run killed at any moment finds its last one.
//!
//! Tensors are the parameters by name, `optimizer.first.NAME`, `optimizer.second.NAME`, and what a task keeps besides
//! (`state.NAME`). The file's metadata holds the run's settings and how far it came, as JSON under `sterna.run`.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use safetensors::{Dtype, SafeTensors, View};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

use super::ops::values;
use super::parameters::Parameters;

/// The key of the run's description in the file's metadata.
const KEY: &str = "sterna.run";

/// The longest description of a file's tensors and run that is read, in bytes; what safetensors allows.
const MAX_HEADER: u64 = 100_000_000;

/// How far a run came.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Steps taken.
    pub step: usize,
    /// Seconds spent in all sessions so far.
    pub seconds: f64,
    /// The run's settings; a run goes on only with the same.
    pub config: serde_json::Value,
    /// Digest of the data that it is trained and measured on, where the task has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// What the next line of the log is made of.
    #[serde(default)]
    pub pending: Pending,
}

/// What was seen since the last line of the log.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pending {
    /// The loss of each step.
    pub losses: Vec<f32>,
    /// Norm of the last gradient before it was held.
    pub grad_norm: f32,
    /// Seconds that the steps took, measurements and checkpoints left out.
    pub seconds: f64,
}

/// How far the run of a checkpoint came; its tensors are not read.
///
/// # Errors
/// If the file cannot be read or is not a checkpoint.
pub fn progress(path: &Path) -> Result<Progress> {
    let mut file = File::open(path).with_context(|| format!("cannot read the checkpoint {}", path.display()))?;
    let mut head = || -> Result<Progress> {
        let mut bytes = vec![0; 8];
        file.read_exact(&mut bytes)?;
        let length = u64::from_le_bytes(bytes[..8].try_into()?);
        if length > MAX_HEADER.min(file.metadata()?.len()) {
            bail!("it is cut off or damaged");
        }
        bytes.resize(length as usize, 0);
        file.read_exact(&mut bytes)?;
        let header: serde_json::Value = serde_json::from_slice(&bytes).context("its header is not JSON")?;
        run_of(header["__metadata__"][KEY].as_str())
    };
    head().with_context(|| format!("{} is not a checkpoint that can be used", path.display()))
}

/// The run that a checkpoint's metadata tells.
fn run_of(metadata: Option<&str>) -> Result<Progress> {
    let run = metadata.with_context(|| format!("its metadata has no {KEY}"))?;
    serde_json::from_str(run).with_context(|| format!("its {KEY} cannot be read"))
}

/// What a checkpoint holds.
#[derive(Debug)]
pub struct Checkpoint {
    /// How far the run came.
    pub progress: Progress,
    /// All tensors by name.
    pub tensors: BTreeMap<String, Tensor>,
}

impl Checkpoint {
    /// Reads a checkpoint.
    ///
    /// # Errors
    /// If the file cannot be read or is not a checkpoint.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("cannot read the checkpoint {}", path.display()))?;
        Self::parse(&bytes).with_context(|| format!("{} is not a checkpoint that can be used", path.display()))
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        let (_, metadata) = SafeTensors::read_metadata(bytes)?;
        let metadata = metadata.metadata().as_ref().and_then(|metadata| metadata.get(KEY));
        let progress = run_of(metadata.map(String::as_str))?;
        let mut tensors = BTreeMap::new();
        for (name, view) in SafeTensors::deserialize(bytes)?.tensors() {
            if view.dtype() != Dtype::F32 {
                bail!("{name} is {:?}, not F32", view.dtype());
            }
            let values = view.data().as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
            tensors.insert(name, Tensor::from_vec::<_, f32>(values, view.shape(), &Device::Cpu)?);
        }
        Ok(Self { progress, tensors })
    }

    /// Writes it beside `path` and puts it in its place only when all of it is on the disk.
    ///
    /// # Errors
    /// If it cannot be written; what was at `path` before is still there.
    pub fn write(&self, path: &Path) -> Result<()> {
        let metadata = HashMap::from([(KEY.to_owned(), serde_json::to_string(&self.progress)?)]);
        let tensors = self.tensors.iter().map(|(name, tensor)| (name, Bytes(tensor)));
        let bytes = safetensors::serialize(tensors, Some(metadata))?;
        replace(path, &bytes).with_context(|| {
            format!("cannot write the checkpoint {} (the one before it, if any, is untouched)", path.display())
        })
    }

    /// Sets parameters to this checkpoint's values.
    ///
    /// # Errors
    /// If one is missing or has another shape; then nothing has changed.
    pub fn restore(&self, parameters: &Parameters) -> Result<()> {
        for parameter in parameters.iter() {
            match self.tensors.get(&parameter.name) {
                Some(tensor) if tensor.shape() == parameter.var.shape() => {}
                Some(tensor) => {
                    bail!("{} has the shape {:?}, not {:?}", parameter.name, tensor.dims(), parameter.var.dims())
                }
                None => bail!("{} is missing", parameter.name),
            }
        }
        for parameter in parameters.iter() {
            parameter.var.set(&self.tensors[&parameter.name])?;
        }
        Ok(())
    }
}

/// Writes a file that is either whole or not there: under another name first, then moved. A symbolic link is followed.
///
/// # Errors
/// If it cannot be written; what was there before stays.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let path = &crate::output::place(path)?;
    let mut name = path.file_name().context("a file's name is missing")?.to_owned();
    name.push(".part");
    let part = path.with_file_name(name);
    let written = File::create(&part).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    if let Err(error) = written.and_then(|()| fs::rename(&part, path)) {
        // The space may be what is missing.
        let _ = fs::remove_file(&part);
        return Err(error.into());
    }
    Ok(())
}

/// Where a run's checkpoint is.
pub fn path_in(dir: &Path) -> PathBuf {
    dir.join("checkpoint.safetensors")
}

struct Bytes<'a>(&'a Tensor);

impl View for Bytes<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        self.0.dims()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        debug_assert_eq!(self.0.dtype(), DType::F32);
        let bytes = values(self.0).map(|values| values.iter().flat_map(|value| value.to_le_bytes()).collect());
        Cow::Owned(bytes.unwrap_or_default())
    }

    fn data_len(&self) -> usize {
        self.0.elem_count() * 4
    }
}

#[cfg(test)]
mod tests {
    use super::super::parameters::Kind;
    use super::*;

    fn checkpoint(step: usize) -> Checkpoint {
        let tensors = BTreeMap::from([("w".into(), super::super::ops::testing::random((3, 2), 1))]);
        let pending = Pending { losses: vec![0.1, 1.0 / 3.0, 16_777_217.0], grad_norm: 0.7, seconds: 0.25 };
        let config = serde_json::json!({"width": 2});
        Checkpoint { progress: Progress { step, seconds: 1.5, config, data: Some("d".into()), pending }, tensors }
    }

    #[test]
    fn what_is_written_is_read_back() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let path = path_in(dir.path());
        checkpoint(3).write(&path)?;
        checkpoint(4).write(&path)?;
        let read = Checkpoint::read(&path)?;
        assert_eq!(read.progress, checkpoint(4).progress);
        assert_eq!(progress(&path)?, read.progress);
        assert_eq!(read.tensors["w"].to_vec2::<f32>()?, checkpoint(4).tensors["w"].to_vec2::<f32>()?);
        let mut parameters = Parameters::new(0);
        let w = parameters.constant("w", Kind::Matrix, (3, 2), 0.0)?;
        read.restore(&parameters)?;
        assert_eq!(w.to_vec2::<f32>()?, read.tensors["w"].to_vec2::<f32>()?);
        Ok(())
    }

    #[test]
    fn what_does_not_fit_is_told_by_name() -> Result<()> {
        let mut parameters = Parameters::new(0);
        parameters.constant("w", Kind::Matrix, (2, 3), 0.0)?;
        assert!(checkpoint(0).restore(&parameters).unwrap_err().to_string().contains("w has the shape [3, 2]"));
        let mut parameters = Parameters::new(0);
        parameters.constant("v", Kind::Matrix, (2, 3), 0.0)?;
        assert!(checkpoint(0).restore(&parameters).unwrap_err().to_string().contains("v is missing"));
        Ok(())
    }

    #[test]
    fn broken_files_are_refused() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let path = path_in(dir.path());
        checkpoint(3).write(&path)?;
        let whole = fs::read(&path)?;
        for cut in [0, 7, 40, whole.len() - 1] {
            fs::write(&path, &whole[..cut])?;
            let error = Checkpoint::read(&path).unwrap_err().to_string();
            assert!(error.contains("is not a checkpoint"), "{error}");
            // Its tensors may be cut where only the header is asked for.
            assert!(cut > 40 || progress(&path).is_err());
        }
        fs::write(&path, [&u64::MAX.to_le_bytes()[..], b"{}"].concat())?;
        assert!(format!("{:#}", progress(&path).unwrap_err()).contains("cut off or damaged"));
        fs::write(&path, safetensors::serialize(Vec::<(String, Bytes<'_>)>::new(), None)?)?;
        assert!(format!("{:#}", Checkpoint::read(&path).unwrap_err()).contains("no sterna.run"));
        Ok(())
    }

    #[test]
    fn a_failed_write_leaves_what_was_there() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let path = path_in(dir.path());
        checkpoint(3).write(&path)?;
        // A folder where the new file would be written first.
        fs::create_dir(dir.path().join("checkpoint.safetensors.part"))?;
        assert!(checkpoint(4).write(&path).unwrap_err().to_string().contains("untouched"));
        assert_eq!(Checkpoint::read(&path)?.progress.step, 3);
        Ok(())
    }
}
