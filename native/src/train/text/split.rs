//! Which part of a data set is trained on, and which is measured on.
//!
//! A part is a share of the text (`0.9`), or a slice of a split as Hugging Face's `datasets` writes it (`train[:20]`, `train[10%:]`).
//! What a single file is cut into, and which files of a folder are meant, is decided here; reading files is `documents.rs`.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::documents::{Documents, ENDINGS};

/// The splits that are measured on, the first that there is.
const MEASURED: [&str; 3] = ["test", "validation", "valid"];
/// What a split is written like.
const FORM: &str = "give a share of the text, as 0.9, or a slice of a split, as 'train[:20]' or 'train[10%:50%]'";

/// A part of a text or a data set; written `0.9` or `train[:20]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Split {
    /// The first share of the characters, from 0 to 1.
    Share(f64),
    /// Samples of a split.
    Slice(Slice),
}

/// Samples from one to another; negative ones count from the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The split's name.
    pub name: String,
    /// The first sample; `None` is that of the split.
    pub from: Option<i64>,
    /// The sample after the last; `None` is the split's end.
    pub to: Option<i64>,
    /// Whether both are hundredths of the samples.
    pub percent: bool,
}

impl Split {
    /// All samples of the split `train`.
    pub fn all() -> Self {
        Self::Slice(Slice { name: "train".into(), from: None, to: None, percent: false })
    }
}

impl FromStr for Split {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Ok(share) = text.parse::<f64>() {
            if !(0.0..=1.0).contains(&share) {
                bail!("{share} is no share of a text; {FORM}");
            }
            return Ok(Self::Share(share));
        }
        Slice::parse(text).map(Self::Slice).with_context(|| format!("{text:?} is no part of a data set; {FORM}"))
    }
}

impl TryFrom<String> for Split {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Split> for String {
    fn from(split: Split) -> Self {
        split.to_string()
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Slice { name, from, to, percent } = match self {
            Self::Share(share) => return write!(f, "{share}"),
            Self::Slice(slice) => slice,
        };
        f.write_str(name)?;
        if from.is_none() && to.is_none() {
            return Ok(());
        }
        let end = |end: &Option<i64>| match end {
            Some(n) => format!("{n}{}", if *percent { "%" } else { "" }),
            None => String::new(),
        };
        write!(f, "[{}:{}]", end(from), end(to))
    }
}

impl Slice {
    fn parse(text: &str) -> Option<Self> {
        let (name, slice) = match text.split_once('[') {
            Some((name, rest)) => (name, rest.strip_suffix(']')?),
            None => (text, ":"),
        };
        let word = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || c == '_');
        if !name.split('.').all(word) {
            return None;
        }
        let (from, to) = slice.split_once(':')?;
        let mut percent = false;
        let mut end = |text: &str| -> Option<Option<i64>> {
            let digits = text.strip_suffix('%').unwrap_or(text);
            percent |= digits.len() < text.len();
            if text.is_empty() {
                return Some(None);
            }
            // As Python writes numbers, without a plus.
            let plain = digits.replace('_', "");
            Some(Some(plain.parse().ok().filter(|_| !plain.starts_with('+'))?))
        };
        let (from, to) = (end(from)?, end(to)?);
        let within = |n: Option<i64>| n.is_none_or(|n| n.unsigned_abs() <= 100);
        (!percent || within(from) && within(to)).then(|| Self { name: name.into(), from, to, percent })
    }

    /// Which of `count` samples are meant. Hundredths are rounded to the nearest sample, halves to the even one.
    pub fn of(&self, count: usize) -> Range<usize> {
        let place = |end: Option<i64>, absent: usize| {
            let Some(end) = end else { return absent };
            let end = match self.percent {
                true => (end as f64 * count as f64 / 100.0).round_ties_even() as i64,
                false => end,
            };
            let end = if end < 0 { end.saturating_add_unsigned(count as u64).max(0) } else { end };
            usize::try_from(end).map_or(count, |end| end.min(count))
        };
        let (from, to) = (place(self.from, 0), place(self.to, count));
        from..to.max(from)
    }
}

/// A data set in two parts, each with the places where its samples end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// To train on.
    pub training: Documents,
    /// To measure with.
    pub evaluation: Documents,
}

impl Parts {
    /// Reads the text at `path` and cuts it. Of a file, what follows the part that is trained on is measured, or what precedes it where
    /// nothing follows. Of a folder with a file for each split (of the folder `config` in it, if one is named) the split `test` is
    /// measured, or `validation`, or else the rest of the split that is trained on. `field` is as in [`Documents::read`].
    ///
    /// # Errors
    /// Files that cannot be read; a split that is not there; a slice without samples.
    pub fn read(path: &Path, config: Option<&str>, field: &str, split: &Split) -> Result<Self> {
        let name = match split {
            Split::Slice(slice) => &slice.name,
            Split::Share(_) => "train",
        };
        let (documents, other) = if path.is_dir() {
            let dir = config.map_or_else(|| path.to_owned(), |config| path.join(config));
            let files = files_of(&dir)?;
            let read = |name: &str| Documents::read_all(&files_named(&files, name), field);
            if files_named(&files, name).is_empty() {
                bail!(
                    "{} has no files of the split {name}, as {name}.parquet or {name}-00000.jsonl would be{}",
                    dir.display(),
                    folders_in(&dir)
                );
            }
            let measured = MEASURED.into_iter().find(|other| *other != name && !files_named(&files, other).is_empty());
            (read(name)?, measured.map(read).transpose()?)
        } else {
            if let Some(config) = config {
                bail!(
                    "{} is a file, so there is no configuration {config} in it; name the folder of the data set",
                    path.display()
                );
            }
            if name != "train" {
                bail!("{} is a file, which is one split, train; it has no split {name}", path.display());
            }
            (Documents::read(path, field)?, None)
        };
        let (training, rest) = documents.cut_out(split).with_context(|| path.display().to_string())?;
        Ok(Self { training, evaluation: other.unwrap_or(rest) })
    }
}

impl Documents {
    /// The part that `split` names, and the rest: what follows, or what precedes where nothing follows.
    fn cut_out(&self, split: &Split) -> Result<(Self, Self)> {
        let slice = match split {
            Split::Share(share) => {
                let at = self.cut(*share, None).0.len();
                return Ok((self.part(0..at), self.part(at..self.text.len())));
            }
            Split::Slice(slice) => slice,
        };
        let samples = slice.of(self.rows.len());
        let (Some(first), Some(last)) = (self.rows[samples.clone()].first(), self.rows[samples].last()) else {
            bail!("of {} samples {split} leaves none to train on", self.rows.len());
        };
        let chosen = first.start..last.end;
        let rest = match self.text[chosen.end..].trim().is_empty() {
            true => 0..chosen.start,
            false => chosen.end..self.text.len(),
        };
        Ok((self.part(chosen), self.part(rest)))
    }

    /// The text in a range, with the samples that end in it.
    fn part(&self, range: Range<usize>) -> Self {
        let within = |at: usize| range.contains(&at.saturating_sub(1)) && at > range.start;
        let clipped =
            |row: &Range<usize>| row.start.clamp(range.start, range.end)..row.end.clamp(range.start, range.end);
        let moved = |row: Range<usize>| row.start - range.start..row.end - range.start;
        let rows = self.rows.iter().filter(|row| row.end >= range.start && row.start <= range.end);
        Self {
            text: self.text[range.clone()].to_owned(),
            ends: self.ends.iter().filter(|&&at| within(at)).map(|at| at - range.start).collect(),
            rows: rows.map(|row| moved(clipped(row))).collect(),
        }
    }
}

/// The files of texts in a folder and its folder `data`, by name.
fn files_of(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for dir in [dir.to_owned(), dir.join("data")] {
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(_) if !files.is_empty() || dir.ends_with("data") => continue,
            Err(error) => return Err(error).with_context(|| format!("cannot read the folder {}", dir.display())),
        };
        for entry in entries {
            let path = entry.with_context(|| format!("cannot read the folder {}", dir.display()))?.path();
            let ending = path.extension().and_then(OsStr::to_str).map(str::to_lowercase);
            if path.is_file() && ending.is_some_and(|ending| ENDINGS.contains(&&*ending)) {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Those of a split: its name, and after it nothing, or what is no letter.
fn files_named(files: &[PathBuf], split: &str) -> Vec<PathBuf> {
    let is_of = |path: &&PathBuf| {
        let stem = path.file_stem().and_then(OsStr::to_str).unwrap_or_default();
        stem.strip_prefix(split).is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
    };
    files.iter().filter(is_of).cloned().collect()
}

/// Folders that may be configurations, for a message.
fn folders_in(dir: &Path) -> String {
    let entries = fs::read_dir(dir).map(|entries| entries.flatten().map(|entry| entry.path()).collect::<Vec<_>>());
    let mut names: Vec<String> = entries
        .unwrap_or_default()
        .iter()
        .filter(|path| path.is_dir())
        .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    match names.is_empty() {
        true => String::new(),
        false => format!("; it has the folders {}: name one with --dataset-config-name", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `datasets` 5.2.0 makes of them (`ReadInstruction.from_spec(..).to_absolute(..)`); it gives an empty slice where the end is
    /// before the beginning.
    const SLICES: [(&str, [Range<usize>; 3]); 21] = [
        ("train", [0..37, 0..5, 0..250]),
        ("train[:20]", [0..20, 0..5, 0..20]),
        ("train[5:10]", [5..10, 5..5, 5..10]),
        ("train[-3:]", [34..37, 2..5, 247..250]),
        ("train[:-3]", [0..34, 0..2, 0..247]),
        ("train[-5:-2]", [32..35, 0..3, 245..248]),
        ("train[:10%]", [0..4, 0..0, 0..25]),
        ("train[10%:25%]", [4..9, 0..1, 25..62]),
        ("train[-10%:]", [33..37, 0..5, 225..250]),
        ("train[:1%]", [0..0, 0..0, 0..2]),
        ("train[33%:67%]", [12..25, 2..3, 82..168]),
        ("train[:200]", [0..37, 0..5, 0..200]),
        ("train[7:7]", [7..7, 5..5, 7..7]),
        ("train[9:4]", [9..9, 5..5, 9..9]),
        ("train[50:]", [37..37, 5..5, 50..250]),
        ("train[-50:]", [0..37, 0..5, 200..250]),
        ("train[:1_0]", [0..10, 0..5, 0..10]),
        ("train[5%:10]", [2..4, 0..0, 12..25]),
        ("train[:100%]", [0..37, 0..5, 0..250]),
        ("train[:-1%]", [0..0, 0..0, 0..248]),
        ("train[:50%]", [0..18, 0..2, 0..125]),
    ];

    #[test]
    fn slices_are_those_of_hugging_face() {
        for (text, expected) in SLICES {
            let Split::Slice(slice) = text.parse().unwrap() else { panic!("{text}") };
            let found = [37, 5, 250].map(|count| slice.of(count));
            assert_eq!(found, expected, "{text}");
            // It is written so that it is read again.
            assert_eq!(Split::Slice(slice.clone()).to_string().parse::<Split>().unwrap(), Split::Slice(slice));
        }
        for text in [
            "train[:150%]",
            "train[]",
            "train[3]",
            "train[:20",
            "train[:x]",
            "train [:2]",
            " train[:2]",
            "",
            "[:2]",
            "train[:+2]",
        ] {
            let error = text.parse::<Split>().unwrap_err().to_string();
            assert!(error.contains("is no part of a data set") && error.contains("'train[:20]'"), "{text}: {error}");
        }
        assert_eq!("0.9".parse::<Split>().unwrap(), Split::Share(0.9));
        for text in ["1.5", "-0.1", "nan"] {
            assert!(text.parse::<Split>().unwrap_err().to_string().contains("is no share of a text"), "{text}");
        }
    }

    #[test]
    fn what_is_not_trained_on_is_measured() {
        let dir = tempfile::tempdir().unwrap();
        let (plain, jsonl) = (dir.path().join("a.txt"), dir.path().join("a.jsonl"));
        fs::write(&plain, "one\n\nthree\nfour").unwrap();
        fs::write(&jsonl, "{\"text\": \"one\"}\n{\"text\": \"\"}\n{\"text\": \"three\"}\n{\"text\": \"four\"}\n")
            .unwrap();
        let parts = |path: &Path, split: &str| {
            let parts = Parts::read(path, None, "text", &split.parse().unwrap()).unwrap();
            (parts.training.text, parts.evaluation.text)
        };
        let texts = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(parts(&plain, "train[:1]"), texts("one\n", "\nthree\nfour"));
        assert_eq!(parts(&plain, "train[1:3]"), texts("\nthree\n", "four"));
        assert_eq!(parts(&plain, "train[-2:]"), texts("three\nfour", "one\n\n"));
        assert_eq!(parts(&plain, "0.5"), texts("one\n\nth", "ree\nfour"));
        // An empty document is a sample as well.
        assert_eq!(parts(&jsonl, "train[:2]"), texts("one", "\n\nthree\n\nfour"));
        assert_eq!(parts(&jsonl, "train[2:3]"), texts("three", "\n\nfour"));
        let error = |path: &Path, config: Option<&str>, split: &str| {
            format!("{:#}", Parts::read(path, config, "text", &split.parse().unwrap()).unwrap_err())
        };
        assert!(error(&plain, None, "train[9:]").contains("of 4 samples train[9:] leaves none"));
        assert!(error(&plain, None, "test[:2]").contains("it has no split test"));
        assert!(error(&plain, Some("raw"), "train").contains("no configuration raw"));
    }

    #[test]
    fn folders_hold_a_file_for_each_split() {
        let dir = tempfile::tempdir().unwrap();
        let raw = dir.path().join("raw");
        fs::create_dir_all(raw.join("data")).unwrap();
        for (name, text) in [
            ("train-00000-of-00002.jsonl", "a"),
            ("train-00001-of-00002.jsonl", "b"),
            ("data/train-00002.jsonl", "c"),
            ("validation.jsonl", "v"),
            ("trained.jsonl", "no"),
            ("README.md", "no"),
        ] {
            fs::write(raw.join(name), serde_json::json!({ "text": text }).to_string()).unwrap();
        }
        let split = "train[1:]".parse().unwrap();
        let parts = Parts::read(dir.path(), Some("raw"), "text", &split).unwrap();
        let mut read: Vec<_> = parts.training.text.split("\n\n").map(str::to_owned).collect();
        read.sort();
        assert_eq!((read.len(), parts.evaluation.text.as_str()), (2, "v"));
        let error = format!("{:#}", Parts::read(dir.path(), None, "text", &split).unwrap_err());
        assert!(error.contains("no files of the split train") && error.contains("it has the folders raw"), "{error}");
    }
}
