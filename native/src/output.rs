//! Where a file is written: what may be replaced, and what must not be.
//!
//! Writers write beside the place that [`place`] gives and rename, so a device or a link would be replaced by a plain file
//! otherwise.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Links that are followed from one to the next; systems stop there, too.
const MAX_LINKS: usize = 40;

/// The plain file that `path` means, whether it exists or not: symbolic links are followed to the file behind them.
///
/// # Errors
/// If there is a folder, a device, a pipe or a socket.
pub fn place(path: &Path) -> Result<PathBuf> {
    if let Ok(found) = fs::metadata(path) {
        if found.is_dir() {
            bail!("{} is a folder; name a file", path.display());
        }
        if !found.is_file() {
            bail!("{} is a device, a pipe or a socket; give the name of a plain file to write", path.display());
        }
    }
    let mut place = path.to_owned();
    for _ in 0..MAX_LINKS {
        if !fs::symlink_metadata(&place).is_ok_and(|found| found.is_symlink()) {
            return Ok(place);
        }
        let target = fs::read_link(&place).with_context(|| format!("cannot read the link {}", place.display()))?;
        place = place.parent().unwrap_or(Path::new("")).join(target);
    }
    bail!("{} is a symbolic link that leads through more than {MAX_LINKS} others; name a plain file", path.display())
}

/// Refuses files that cannot be written, before the work that they are for begins.
///
/// # Errors
/// As [`place`], for the first that cannot.
pub fn check<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Result<()> {
    paths.into_iter().try_for_each(|path| place(path).map(drop))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_refused_and_new_names_are_not() {
        let dir = tempfile::TempDir::new().unwrap();
        let new = dir.path().join("new");
        assert_eq!(place(&new).unwrap(), new);
        assert!(place(dir.path()).unwrap_err().to_string().contains("is a folder; name a file"));
        assert!(check([&new, &dir.path().to_owned()]).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_and_what_is_no_plain_file_is_refused() {
        use std::os::unix::fs::symlink;

        let dir = tempfile::TempDir::new().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "x").unwrap();
        symlink("file", at("link")).unwrap();
        symlink(at("link"), at("second")).unwrap();
        symlink("nothing", at("dangling")).unwrap();
        symlink("circle", at("circle")).unwrap();
        symlink("/dev/null", at("null")).unwrap();
        assert_eq!((place(&at("link")).unwrap(), place(&at("second")).unwrap()), (at("file"), at("file")));
        assert_eq!(place(&at("dangling")).unwrap(), at("nothing"));
        assert!(place(&at("circle")).unwrap_err().to_string().contains("through more than 40 others"));
        let made = std::process::Command::new("mkfifo").arg(at("pipe")).status().unwrap();
        assert!(made.success());
        for refused in [at("pipe"), at("null"), "/dev/null".into()] {
            let error = place(&refused).unwrap_err().to_string();
            assert!(error.contains("is a device, a pipe or a socket"), "{error}");
        }
    }
}
