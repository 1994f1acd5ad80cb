//! The file that is written: under another name until it is complete, so that what has the name is whole.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::output;

/// Whether two paths name one file.
pub(super) fn same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// A path with something after its name.
pub(super) fn beside(path: &Path, after: &str) -> Result<PathBuf> {
    let mut name = path.file_name().with_context(|| format!("{} is no name of a file", path.display()))?.to_owned();
    name.push(after);
    Ok(path.with_file_name(name))
}

/// A file that is needed for a while.
pub(super) struct Temporary(pub PathBuf);

impl AsRef<Path> for Temporary {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A file under another name until it is complete; gone if it never is.
pub(super) struct Part {
    pub path: PathBuf,
    pub file: File,
    out: PathBuf,
    kept: bool,
}

impl Part {
    /// For the file `out`, whose folder is made; where it is a symbolic link, for the file behind that.
    ///
    /// # Errors
    /// If `out` is there and no plain file, or nothing can be written beside it.
    pub fn create(out: &Path) -> Result<Self> {
        let out = output::place(out)?;
        let path = beside(&out, ".part")?;
        if let Some(parent) = out.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs::create_dir_all(parent).with_context(|| format!("cannot make the folder {}", parent.display()))?;
        }
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { path, file, out, kept: false })
    }

    /// Gives it its name.
    pub fn keep(mut self) -> Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, &self.out)?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_file(&self.path);
        }
    }
}
