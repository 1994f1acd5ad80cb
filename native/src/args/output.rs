//! Files that a command writes at its end, looked at when it begins.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Makes sure that a file can be written at `path`. Its folder may still be missing if it is `made`, which the command makes, or
/// above that.
///
/// # Errors
/// If `path` is a folder, or its own folder is missing or cannot be written to.
pub fn check_output(path: &Path, made: Option<&Path>) -> Result<()> {
    let cannot = || format!("cannot write {}", path.display());
    if path.is_dir() || path.file_name().is_none() {
        bail!("{}: it is a folder; name a file in it", cannot());
    }
    let whole = |path: &Path| -> PathBuf { std::path::absolute(path).unwrap_or_else(|_| path.into()) };
    let file = whole(path);
    let folder = file.parent().unwrap_or(Path::new("/"));
    if folder.is_dir() {
        // Only an attempt tells whether files can be made there.
        tempfile::tempfile_in(folder).with_context(cannot)?;
        return Ok(());
    }
    if !made.is_some_and(|made| whole(made).starts_with(folder)) {
        bail!("{}: {} is no folder; make it, or name another file", cannot(), folder.display());
    }
    Ok(())
}
