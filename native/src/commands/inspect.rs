//! `sterna inspect`: what is in a GGUF, and what would keep it from running.

use std::io;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use serde_json::{Map, json};
use sterna_core::formats::{Identified, identify_all};
use sterna_core::generate::vocabulary;
use sterna_core::gguf::{Header, Metadata, TensorInfo, Value, readable};
use sterna_core::model::{Memory, refusals, warnings};

use crate::args::ModelArgs;
use crate::source::{Source, kind};
use crate::ui::text::{self, Align};
use crate::{Out, machine, memory};

/// Items of a metadata array that are shown.
const HEAD: usize = 8;

/// What `sterna inspect` takes.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// Which file.
    #[command(flatten)]
    pub model: ModelArgs,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
    /// Show arrays of the metadata whole.
    #[arg(long)]
    pub full: bool,
}

/// Prints the report. What would be refused is part of it, not an error.
pub fn run(args: &InspectArgs, out: &mut Out) -> Result<()> {
    let source = Source::open(&args.model.resolve()?)?;
    let report = Report::of(&source);
    let items = if args.full { usize::MAX } else { HEAD };
    if args.json { report.write_json(out, items) } else { Ok(report.write_text(out, items)?) }
}

/// Everything there is to say about a file.
struct Report<'a> {
    source: &'a Source,
    header: &'a Header,
    tensors: Vec<Row<'a>>,
    refusals: Vec<String>,
    warnings: Vec<String>,
    /// What running it takes; `None` for a file that would be refused.
    memory: Option<Memory>,
}

/// One tensor.
struct Row<'a> {
    info: &'a TensorInfo,
    kind: &'static str,
    /// The type's name, or the number of an unknown one.
    format: String,
    /// Which reading of an ambiguous type was taken.
    note: Option<&'static str>,
    /// Bytes of data, without padding.
    bytes: u64,
    refused: Option<String>,
}

/// Several tensors together.
#[derive(Serialize)]
struct Sum {
    name: String,
    tensors: usize,
    elements: u64,
    bytes: u64,
    bits_per_weight: f64,
}

impl<'a> Report<'a> {
    fn of(source: &'a Source) -> Self {
        let header = source.header();
        let tensors: Vec<Row<'a>> = header
            .tensors
            .iter()
            .zip(identify_all(header))
            .map(|(info, found)| row(info, found.map_err(|e| e.to_string())))
            .collect();
        let mut refused: Vec<String> = tensors.iter().filter_map(|row| row.refused.clone()).collect();
        for refusal in refusals(header).iter().map(ToString::to_string) {
            // Loading quotes the tensor's own fault.
            if !refused.iter().any(|known| refusal.contains(known.as_str())) {
                refused.push(refusal);
            }
        }
        let mut warnings = warnings(header);
        match vocabulary(header) {
            Ok(Some(tokenizer)) => warnings.extend(tokenizer.warnings().iter().cloned()),
            Ok(None) => warnings.push("no tokenizer: the model takes and gives token ids only".to_owned()),
            Err(error) => refused.push(error.to_string()),
        }
        Self { source, header, tensors, refusals: refused, warnings, memory: Memory::of(header).ok() }
    }

    fn write_text(&self, out: &mut Out, items: usize) -> io::Result<()> {
        for path in self.source.paths() {
            writeln!(out, "{}", path.display())?;
        }
        writeln!(
            out,
            "GGUF version {}, {}, alignment {}",
            self.header.version,
            text::bytes(self.source.file_bytes()),
            self.header.alignment
        )?;

        writeln!(out, "\nmetadata ({})", self.header.metadata.len())?;
        let rows: Vec<Vec<String>> = self
            .header
            .metadata
            .iter()
            .map(|(key, value)| vec![text::plain(key, 80), type_name(value), show(value, items)])
            .collect();
        text::table(out, &[("KEY", Align::Left), ("TYPE", Align::Left), ("VALUE", Align::Left)], &rows)?;

        writeln!(out, "\ntensors ({})", self.tensors.len())?;
        let rows: Vec<Vec<String>> = self
            .tensors
            .iter()
            .map(|row| {
                let shape = row.info.dims.iter().map(u64::to_string).collect::<Vec<_>>().join(" x ");
                vec![
                    text::plain(&row.info.name, 64),
                    shape,
                    row.format.clone(),
                    row.info.offset.to_string(),
                    text::bytes(row.bytes),
                    format!("{:.4}", bits_per_weight(row.bytes, row.info.elements())),
                    row.note.unwrap_or_default().to_owned(),
                ]
            })
            .collect();
        let columns = [
            ("NAME", Align::Left),
            ("SHAPE", Align::Left),
            ("TYPE", Align::Left),
            ("OFFSET", Align::Right),
            ("SIZE", Align::Right),
            ("BPW", Align::Right),
            ("NOTE", Align::Left),
        ];
        text::table(out, &columns, &rows)?;

        for (title, sums) in
            [("by kind", self.sums(|row| row.kind.to_owned())), ("by type", self.sums(|row| row.format.clone()))]
        {
            writeln!(out, "\n{title}")?;
            let total = self.total();
            let rows: Vec<Vec<String>> = sums
                .iter()
                .chain([&total])
                .map(|sum| {
                    vec![
                        sum.name.clone(),
                        sum.tensors.to_string(),
                        text::count(sum.elements),
                        text::bytes(sum.bytes),
                        format!("{:.4}", sum.bits_per_weight),
                    ]
                })
                .collect();
            let columns = [
                ("", Align::Left),
                ("TENSORS", Align::Right),
                ("WEIGHTS", Align::Right),
                ("SIZE", Align::Right),
                ("BITS PER WEIGHT", Align::Right),
            ];
            text::table(out, &columns, &rows)?;
        }

        if let Some(memory) = &self.memory {
            write_memory(memory, machine::available_bytes(), out)?;
        }

        writeln!(out)?;
        for warning in &self.warnings {
            writeln!(out, "note: {}", text::plain(warning, 400))?;
        }
        for refusal in &self.refusals {
            writeln!(out, "refused: {}", text::plain(refusal, 400))?;
        }
        if self.refusals.is_empty() {
            let fits = |memory: &Memory| machine::available_bytes().is_none_or(|bytes| memory::fits(memory, bytes));
            match self.memory.as_ref().is_none_or(fits) {
                true => writeln!(out, "this file can be run")?,
                false => writeln!(out, "this file can be run, but not in the memory that is available here")?,
            }
        }
        Ok(())
    }

    fn write_json(&self, out: &mut Out, items: usize) -> Result<()> {
        let metadata: Map<String, serde_json::Value> =
            self.header.metadata.iter().map(|(key, value)| (key.to_owned(), value.to_json(items))).collect();
        let tensors: Vec<_> = self
            .tensors
            .iter()
            .map(|row| {
                json!({
                    "name": row.info.name,
                    "kind": row.kind,
                    "dims": row.info.dims,
                    "type": row.format,
                    "type_id": row.info.type_id,
                    "note": row.note,
                    "offset": row.info.offset,
                    "bytes": row.bytes,
                    "bits_per_weight": bits_per_weight(row.bytes, row.info.elements()),
                    "refused": row.refused,
                })
            })
            .collect();
        let report = json!({
            "files": self.source.paths().iter().map(|path| path.display().to_string()).collect::<Vec<_>>(),
            "file_bytes": self.source.file_bytes(),
            "version": self.header.version,
            "alignment": self.header.alignment,
            "architecture": architecture(&self.header.metadata),
            "metadata": metadata,
            "tensors": tensors,
            "by_kind": self.sums(|row| row.kind.to_owned()),
            "by_type": self.sums(|row| row.format.clone()),
            "total": self.total(),
            "memory": self.memory.as_ref().map(|memory| memory_json(memory, machine::available_bytes())),
            "warnings": self.warnings,
            "refusals": self.refusals,
            "runs": self.refusals.is_empty(),
        });
        serde_json::to_writer_pretty(&mut *out, &report).map_err(io::Error::from)?;
        writeln!(out)?;
        Ok(())
    }

    /// Sums over tensors with the same `key`, in the order in which they first occur.
    fn sums(&self, key: impl Fn(&Row<'_>) -> String) -> Vec<Sum> {
        let mut sums: Vec<Sum> = Vec::new();
        for row in &self.tensors {
            let name = key(row);
            let place = sums.iter().position(|sum| sum.name == name).unwrap_or_else(|| {
                sums.push(Sum { name, tensors: 0, elements: 0, bytes: 0, bits_per_weight: 0.0 });
                sums.len() - 1
            });
            sums[place].add(row);
        }
        sums
    }

    fn total(&self) -> Sum {
        let mut total = Sum { name: "in all".to_owned(), tensors: 0, elements: 0, bytes: 0, bits_per_weight: 0.0 };
        self.tensors.iter().for_each(|row| total.add(row));
        total
    }
}

impl Sum {
    fn add(&mut self, row: &Row<'_>) {
        self.tensors += 1;
        self.elements = self.elements.saturating_add(row.info.elements());
        self.bytes = self.bytes.saturating_add(row.bytes);
        self.bits_per_weight = bits_per_weight(self.bytes, self.elements);
    }
}

fn row(info: &TensorInfo, found: Result<Identified, String>) -> Row<'_> {
    let kind = kind(&info.name);
    match found {
        Ok(Identified { format, note }) => {
            let bytes = format.tensor_bytes(info.rows(), info.cols()).unwrap_or(info.size);
            Row { info, kind, format: format.name().to_owned(), note, bytes, refused: None }
        }
        Err(error) => Row {
            info,
            kind,
            format: format!("id {}", info.type_id),
            note: None,
            bytes: info.size,
            refused: Some(error),
        },
    }
}

/// What a model needs in memory, and what this machine has.
fn write_memory(memory: &Memory, available: Option<u64>, out: &mut Out) -> io::Result<()> {
    writeln!(out, "\nmemory")?;
    let context = memory.context();
    let mut rows = vec![
        ("weights".to_owned(), memory.weights),
        ("metadata and vocabulary".to_owned(), memory.text),
        ("working memory".to_owned(), memory.scratch),
    ];
    if context > 0 {
        rows.push((format!("keys and values of {context} tokens, the whole context"), memory.cache(context)));
    }
    rows.push(("in all".to_owned(), memory.total(context)));
    rows.extend(available.map(|available| ("available on this machine".to_owned(), available)));
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(what, size)| vec![what, text::bytes(size)]).collect();
    text::table(out, &[("", Align::Left), ("SIZE", Align::Right)], &rows)
}

fn memory_json(memory: &Memory, available: Option<u64>) -> serde_json::Value {
    let context = memory.context();
    json!({
        "weights": memory.weights,
        "text": memory.text,
        "scratch": memory.scratch,
        "context": context,
        "cache": memory.cache(context),
        "total": memory.total(context),
        "available": available,
        "fits": available.map(|available| memory::fits(memory, available)),
    })
}

fn architecture(metadata: &Metadata) -> Option<&str> {
    metadata.str("general.architecture")
}

fn bits_per_weight(bytes: u64, elements: u64) -> f64 {
    if elements == 0 { 0.0 } else { bytes as f64 * 8.0 / elements as f64 }
}

fn type_name(value: &Value) -> String {
    match value {
        Value::Array(array) => format!("{}[{}]", array.item_type().name(), array.len()),
        other => other.value_type().name().to_owned(),
    }
}

/// A value on one line.
fn show(value: &Value, items: usize) -> String {
    match (value, value.to_json(items)) {
        (Value::String(text), _) => text::plain(&readable(text), if items == usize::MAX { usize::MAX } else { 100 }),
        (Value::Array(array), json) if array.len() > items => {
            let head = json["head"].to_string();
            format!("{}, …]", text::plain(head.trim_end_matches(']'), 100))
        }
        (_, json) => text::plain(&json.to_string(), usize::MAX),
    }
}

#[cfg(test)]
mod tests {
    use sterna_core::gguf::Array;

    use super::*;

    #[test]
    fn values_are_shown_as_written() {
        assert_eq!(show(&Value::F32(0.1), HEAD), "0.1");
        let array = Value::Array(Array::U32((0..20).collect()));
        assert_eq!(show(&array, 3), "[0,1,2, …]");
        assert_eq!(type_name(&array), "uint32[20]");
    }
}
