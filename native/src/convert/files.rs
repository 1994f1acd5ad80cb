//! The file that is written: under another name until it is complete, so that what has the name is whole.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::output;

/// Whether two paths name one file.
pub(super) fn same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// Refuses what no file or folder can be written as: standard output, devices, and places in a folder that is not there.
///
/// # Errors
/// If it is one of these; names it.
fn check_output(out: &Path) -> Result<()> {
    if out == Path::new("-") {
        bail!("- means standard output, and a GGUF is written as a file; name one");
    }
    if out.exists() && !out.is_file() && !out.is_dir() {
        bail!("{} is neither a file nor a folder; name a file that can be replaced", out.display());
    }
    match out.parent().filter(|parent| !parent.as_os_str().is_empty() && !parent.is_dir()) {
        Some(parent) => bail!("cannot write {}: there is no folder {}; make it first", out.display(), parent.display()),
        None => Ok(()),
    }
}

/// Whether two paths are one place, be there a file or not.
pub fn same_place(a: &Path, b: &Path) -> bool {
    let whole = |path: &Path| {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Some(parent.canonicalize().ok()?.join(path.file_name()?))
    };
    a == b || same_file(a, b) || whole(a).is_some_and(|a| Some(a) == whole(b))
}

/// A folder that is made for what is written into it; gone again if nothing is.
pub struct Folder(Option<PathBuf>);

impl Folder {
    /// Makes a folder if it is not there.
    ///
    /// # Errors
    /// A name that no folder can have; a file of this name; a folder that cannot be made.
    pub fn create(path: &Path) -> Result<Self> {
        check_output(path)?;
        if path.is_dir() {
            return Ok(Self(None));
        }
        if path.exists() {
            bail!("{} is a file, and not named as a GGUF; name a .gguf file or a folder", path.display());
        }
        fs::create_dir(path).with_context(|| format!("cannot make the folder {}", path.display()))?;
        Ok(Self(Some(path.to_owned())))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Fails where there is something in it.
        let _ = self.0.as_ref().map(fs::remove_dir);
    }
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
    /// For the file `out`; where it is a symbolic link, for the file behind that.
    ///
    /// # Errors
    /// As [`check_output`]; `out` is there and no plain file; a file that cannot be written.
    pub fn create(out: &Path) -> Result<Self> {
        check_output(out)?;
        if out.is_dir() {
            bail!("{} is a folder; name a file", out.display());
        }
        let out = output::place(out)?;
        let path = beside(&out, ".part")?;
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
