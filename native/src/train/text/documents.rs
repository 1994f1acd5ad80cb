//! Texts from files: plain text, JSON lines, and Parquet as data sets of texts are published in.
//!
//! A text is one string, with the places where its samples end: documents of JSONL and Parquet, which a blank line separates, and
//! lines of plain text. Not here: cutting it into training and held-out parts, and tokens.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use parquet::basic::{Compression, Type};
use parquet::column::reader::ColumnReader;
use parquet::file::reader::{FileReader, SerializedFileReader};

use crate::data;

/// What separates documents.
const GAP: &str = "\n\n";
/// Endings of the names of files with texts.
pub(super) const ENDINGS: [&str; 4] = ["txt", "jsonl", "ndjson", "parquet"];
/// Values that are read from a column at once.
const BATCH: usize = 1024;

/// A text and its samples.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Documents {
    /// All of it.
    pub text: String,
    /// Byte offsets at which samples end; documents that are empty are none.
    pub ends: Vec<usize>,
    /// Byte ranges of all lines or documents, also of empty ones: what a slice such as `train[:20]` counts.
    pub rows: Vec<Range<usize>>,
}

impl Documents {
    /// Reads a file by its name's ending: `.jsonl` (or `.ndjson`) and `.parquet`, of which `field` holds the text; all others are
    /// plain text.
    ///
    /// # Errors
    /// A file that cannot be read, is not what its name says, or has no text in that field.
    pub fn read(path: &Path, field: &str) -> Result<Self> {
        let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
        let documents = match ending.as_deref() {
            Some("jsonl" | "ndjson") => Self::joined(json_lines(path, field)?),
            Some("parquet") => {
                let rows = rows(path, field).with_context(|| format!("cannot read {}", path.display()))?;
                Self::joined(rows)
            }
            Some("json") => bail!(
                "{} is a JSON document; give JSON lines, one object a line, in a file named .jsonl",
                path.display()
            ),
            _ => {
                let text = crate::args::read_text(path)?;
                let ends = text.match_indices('\n').map(|(at, _)| at + 1).collect();
                let rows = text.split_inclusive('\n').scan(0, |at, line| {
                    let start = std::mem::replace(at, *at + line.len());
                    Some(start..*at)
                });
                let rows = rows.collect();
                Self { text, ends, rows }
            }
        };
        if documents.text.trim().is_empty() {
            bail!("{} holds no text; give a file with some", path.display());
        }
        Ok(documents)
    }

    /// Several files as one text; see [`Documents::read`].
    ///
    /// # Errors
    /// As for one.
    pub fn read_all(paths: &[PathBuf], field: &str) -> Result<Self> {
        let mut all = Self::default();
        for path in paths {
            let Self { text, ends, rows } = Self::read(path, field)?;
            if !all.text.is_empty() && !all.text.ends_with('\n') {
                all.text.push_str(GAP);
            }
            let from = all.text.len();
            all.text.push_str(&text);
            all.ends.extend(ends.into_iter().map(|end| from + end));
            all.rows.extend(rows.into_iter().map(|row| from + row.start..from + row.end));
        }
        Ok(all)
    }

    /// Documents with gaps between them; empty ones are left out.
    fn joined(documents: Vec<String>) -> Self {
        let mut joined = Self::default();
        for document in &documents {
            if document.trim().is_empty() {
                joined.rows.push(joined.text.len()..joined.text.len());
                continue;
            }
            if !joined.text.is_empty() {
                joined.text.push_str(GAP);
            }
            let start = joined.text.len();
            joined.text.push_str(document);
            joined.ends.push(joined.text.len());
            joined.rows.push(start..joined.text.len());
        }
        joined
    }

    /// Its text up to the end of the first `samples` samples that are not blank; all of it if there are no more.
    pub fn first(&self, samples: Option<usize>) -> &str {
        let Some(samples) = samples else { return &self.text };
        // The last line may have no end.
        let ends = self.ends.iter().copied().chain([self.text.len()]);
        let filled = ends.scan(0, |from, end| {
            let sample = &self.text[std::mem::replace(from, end)..end];
            Some((end, !sample.trim().is_empty()))
        });
        let mut filled = filled.filter(|(_, filled)| *filled).map(|(end, _)| end);
        let end = match samples {
            0 => Some(0),
            samples => filled.nth(samples - 1),
        };
        &self.text[..end.unwrap_or(self.text.len())]
    }

    /// The text's first `share` of its characters, of that at most `samples` samples, and the rest after that share.
    pub fn cut(&self, share: f64, samples: Option<usize>) -> (&str, &str) {
        let chars = self.text.chars().count();
        let cut = (chars as f64 * share) as usize;
        let at = self.text.char_indices().nth(cut).map_or(self.text.len(), |(at, _)| at);
        let (first, rest) = self.text.split_at(at);
        let end = match samples {
            Some(0) => 0,
            Some(samples) => self.ends.get(samples - 1).copied().unwrap_or(at).min(at),
            None => at,
        };
        (&first[..end], rest)
    }
}

/// How a path is kept, so that it means the same from any folder: whole, unless it is the name of a data set, or stdin.
pub fn remembered(path: &Path) -> PathBuf {
    let data_set = path.to_str().is_some_and(|name| data::DataSet::named(name).is_some() && !path.exists());
    if path.as_os_str().is_empty() || path == "-" || data_set {
        return path.to_owned();
    }
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn json_lines(path: &Path, field: &str) -> Result<Vec<String>> {
    let text = crate::args::read_text(path)?;
    let mut documents = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let place = || format!("{}, line {}", path.display(), number + 1);
        let value: serde_json::Value = serde_json::from_str(line).with_context(|| format!("{}: no JSON", place()))?;
        match value.get(field).and_then(|text| text.as_str()) {
            Some(text) => documents.push(text.to_owned()),
            None => bail!("{}: there is no text under {field:?}; name the field with --text-field", place()),
        }
    }
    Ok(documents)
}

/// The values of a column of texts.
fn rows(path: &Path, column: &str) -> Result<Vec<String>> {
    let file = SerializedFileReader::new(File::open(path)?).context("it is no Parquet file, or is damaged")?;
    let schema = file.metadata().file_metadata().schema_descr();
    let columns = schema.columns();
    let Some(index) = columns.iter().position(|found| found.path().string() == column) else {
        let names: Vec<_> = columns.iter().map(|column| column.path().string()).collect();
        bail!("it has no column {column}; name one of {} with --text-field", names.join(", "));
    };
    if columns[index].physical_type() != Type::BYTE_ARRAY || columns[index].max_rep_level() > 0 {
        bail!("its column {column} does not hold texts; name another with --text-field");
    }
    let filled = columns[index].max_def_level();
    let mut documents = Vec::new();
    for group in 0..file.num_row_groups() {
        let group = file.get_row_group(group)?;
        let compression = group.metadata().column(index).compression();
        if !matches!(compression, Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::GZIP(_)) {
            bail!("its column {column} is compressed with {compression}; write it again with snappy or gzip");
        }
        let ColumnReader::ByteArrayColumnReader(mut reader) = group.get_column_reader(index)? else {
            bail!("its column {column} does not hold texts");
        };
        let mut left = usize::try_from(group.metadata().num_rows()).unwrap_or(0);
        while left > 0 {
            let (mut values, mut present) = (Vec::new(), Vec::new());
            let (records, ..) = reader
                .read_records(BATCH.min(left), Some(&mut present), None, &mut values)
                .with_context(|| format!("its column {column} is damaged"))?;
            if records == 0 {
                bail!("its column {column} ends {left} rows early");
            }
            left -= records;
            let mut values = values.iter();
            let mut text = || -> Result<String> {
                let value = values.next().with_context(|| format!("its column {column} is damaged"))?;
                let text = std::str::from_utf8(value.data()).ok();
                Ok(text.with_context(|| format!("its column {column} is not UTF-8 text"))?.to_owned())
            };
            // A row without a value is an empty document; a column in which every row has one keeps no levels.
            for row in 0..records {
                let there = present.get(row).is_none_or(|&level| level == filled);
                documents.push(if there { text()? } else { String::new() });
            }
        }
    }
    Ok(documents)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use parquet::data_type::{ByteArray, ByteArrayType};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    use super::*;

    fn parquet(path: &Path, texts: &[Option<&str>], compression: Compression) {
        let schema = Arc::new(parse_message_type("message m { optional binary text (UTF8); }").unwrap());
        let properties = Arc::new(WriterProperties::builder().set_compression(compression).build());
        let mut writer = SerializedFileWriter::new(File::create(path).unwrap(), schema, properties).unwrap();
        // Two groups, so that both are read.
        for texts in texts.chunks(texts.len().div_ceil(2)) {
            let mut group = writer.next_row_group().unwrap();
            let mut column = group.next_column().unwrap().unwrap();
            let values: Vec<ByteArray> = texts.iter().flatten().map(|&text| text.into()).collect();
            let present: Vec<i16> = texts.iter().map(|text| i16::from(text.is_some())).collect();
            column.typed::<ByteArrayType>().write_batch(&values, Some(&present), None).unwrap();
            column.close().unwrap();
            group.close().unwrap();
        }
        writer.close().unwrap();
    }

    #[test]
    fn the_three_kinds_of_files_hold_the_same_text() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("a.txt"), "one é\n\ntwo\nlines").unwrap();
        let lines = "{\"text\": \"one é\"}\n\n{\"text\": \"\", \"id\": 3}\n{\"text\": \"two\\nlines\"}\n";
        fs::write(path("a.jsonl"), lines).unwrap();
        let plain = Documents::read(&path("a.txt"), "text").unwrap();
        assert_eq!(plain.ends, [7, 8, 12]);
        assert_eq!(plain.rows, [0..7, 7..8, 8..12, 12..17]);
        let expected = Documents { ends: vec![6, 17], rows: vec![0..6, 6..6, 8..17], ..plain };
        assert_eq!(Documents::read(&path("a.jsonl"), "text").unwrap(), expected);
        for compression in [Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::GZIP(Default::default())] {
            parquet(&path("a.parquet"), &[Some("one é"), None, Some(""), Some("two\nlines")], compression);
            // A row without a value is a sample, as an empty one is.
            let expected = Documents { rows: vec![0..6, 6..6, 6..6, 8..17], ..expected.clone() };
            assert_eq!(Documents::read(&path("a.parquet"), "text").unwrap(), expected, "{compression}");
        }
    }

    #[test]
    fn parts_are_cut_by_characters_and_samples_count() {
        let documents = Documents::joined(vec!["äöü".into(), "xyz".into(), "abcd".into()]);
        assert_eq!(documents.text, "äöü\n\nxyz\n\nabcd");
        assert_eq!(documents.cut(0.5, None), ("äöü\n\nxy", "z\n\nabcd"));
        assert_eq!(documents.cut(0.5, Some(1)), ("äöü", "z\n\nabcd"));
        assert_eq!(documents.cut(1.0, Some(2)), ("äöü\n\nxyz", ""));
        assert_eq!(documents.cut(1.0, Some(9)).0, documents.text);
        assert_eq!(documents.cut(0.0, Some(0)), ("", &*documents.text));
    }

    #[test]
    fn samples_that_are_not_blank_count() {
        let text = "one\n\n two\n  \nthree";
        let ends = text.match_indices('\n').map(|(at, _)| at + 1).collect();
        let documents = Documents { text: text.into(), ends, rows: Vec::new() };
        for (samples, expected) in [
            (Some(0), ""),
            (Some(1), "one\n"),
            (Some(2), "one\n\n two\n"),
            (Some(3), text),
            (Some(9), text),
            (None, text),
        ] {
            assert_eq!(documents.first(samples), expected, "{samples:?}");
        }
    }

    #[test]
    fn files_that_are_not_what_they_are_called_are_one_error() {
        let dir = tempfile::tempdir().unwrap();
        let error = |name: &str, content: &[u8], field: &str| {
            let path = dir.path().join(name);
            fs::write(&path, content).unwrap();
            let error = format!("{:#}", Documents::read(&path, field).unwrap_err());
            assert!(error.contains(name), "{error}");
            error
        };
        assert!(error("empty.jsonl", b"\n", "text").contains("holds no text"));
        assert!(error("e.txt", b" ", "text").contains("holds no text"));
        assert!(error("a.jsonl", b"{\"text\": \"x\"}\n{", "text").contains("line 2: no JSON"));
        assert!(error("b.jsonl", b"{\"body\": \"x\"}", "text").contains("no text under \"text\"; name the field"));
        assert!(error("c.jsonl", b"[1]", "text").contains("line 1"));
        assert!(error("a.json", b"[]", "text").contains(".jsonl"));
        assert!(error("latin.txt", b"\xe4\xf6", "text").contains("not UTF-8"));
        assert!(error("a.parquet", b"PAR1 no", "text").contains("no Parquet file"));
        let path = dir.path().join("b.parquet");
        parquet(&path, &[Some(&"a text ".repeat(100)), Some("b")], Compression::SNAPPY);
        let whole = fs::read(&path).unwrap();
        let said = format!("{:#}", Documents::read(&path, "body").unwrap_err());
        assert!(said.contains("no column body; name one of text"), "{said}");
        assert!(error("cut.parquet", &whole[..whole.len() / 2], "text").contains("no Parquet file"));
        let mut damaged = whole.clone();
        damaged[4..60].fill(0xff);
        assert!(error("damaged.parquet", &damaged, "text").contains("damaged"));
    }
}
