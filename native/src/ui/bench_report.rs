//! What a benchmark found, in llama-bench's columns, with the kernel, GOPS and bytes read per second added.

use std::io::{self, Write};

use serde::Serialize;

use super::text;
use crate::Out;

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// A Markdown table.
    Md,
    /// Comma-separated values, one line per test.
    Csv,
    /// One JSON array.
    Json,
    /// One JSON object per line.
    Jsonl,
}

impl Output {
    /// Writes that Ctrl-C came before there was anything to measure, while the first model was loaded: how many tests there are is
    /// not known then. Tables and lists of values are empty.
    pub fn write_nothing_done(self, out: &mut dyn Write) -> io::Result<()> {
        let mark = serde_json::json!({ "partial": true, "tests": 0, "tests_in_all": null });
        match self {
            Self::Json => writeln!(out, "[\n{mark}\n]"),
            Self::Jsonl => writeln!(out, "{mark}"),
            Self::Md | Self::Csv => Ok(()),
        }
    }
}

/// The model and machine of a benchmark: the same for all its tests.
#[derive(Debug, Clone, Serialize)]
pub struct Subject {
    /// The commit of this program; empty if it is not known.
    pub build_commit: String,
    /// This program's version.
    pub build_version: String,
    /// The CPU.
    pub cpu_info: String,
    /// Always `CPU`.
    pub backends: String,
    /// The kernel that was chosen.
    pub kernel: String,
    /// The file.
    pub model_filename: String,
    /// Architecture, size class and tensor type, such as `qwen3 1.7B TQ2_0`.
    pub model_type: String,
    /// Bytes of all tensors.
    pub model_size: u64,
    /// Elements of all tensors.
    pub model_n_params: u64,
}

/// One test: how often what was measured, and how long each run took.
#[derive(Debug, Clone)]
pub struct Test {
    /// Threads used.
    pub threads: usize,
    /// Tokens of prompt processed per run.
    pub prompt: usize,
    /// Tokens generated per run.
    pub generated: usize,
    /// Tokens that were in the context before each run, not timed.
    pub depth: usize,
    /// Nanoseconds of each run.
    pub samples: Vec<u64>,
    /// Arithmetic operations per run, a multiply and an add counted as two, in products with weights.
    pub operations: f64,
    /// Bytes of weights read per run.
    pub bytes_read: f64,
    /// When it began, in seconds since 1970.
    pub started: u64,
}

impl Test {
    /// `pp512`, `tg128`, `pp512+tg128`, or `tg128 @ d1024` after 1024 tokens.
    pub fn name(&self) -> String {
        let name = match (self.prompt, self.generated) {
            (p, 0) => format!("pp{p}"),
            (0, g) => format!("tg{g}"),
            (p, g) => format!("pp{p}+tg{g}"),
        };
        if self.depth > 0 { format!("{name} @ d{}", self.depth) } else { name }
    }

    /// Tokens per second of each run.
    fn rates(&self) -> Vec<f64> {
        let tokens = (self.prompt + self.generated) as f64;
        self.samples.iter().map(|ns| tokens * 1e9 / (*ns).max(1) as f64).collect()
    }

    fn row<'a>(&'a self, subject: &'a Subject) -> Row<'a> {
        let times: Vec<f64> = self.samples.iter().map(|ns| *ns as f64).collect();
        let rates = self.rates();
        let (avg_ns, stddev_ns) = mean_and_deviation(&times);
        let (avg_ts, stddev_ts) = mean_and_deviation(&rates);
        let per_ns = |amount: f64| if avg_ns > 0.0 { amount / avg_ns } else { 0.0 };
        Row {
            subject,
            n_threads: self.threads,
            n_prompt: self.prompt,
            n_gen: self.generated,
            n_depth: self.depth,
            test_time: text::timestamp(self.started),
            avg_ns: avg_ns as u64,
            stddev_ns: stddev_ns as u64,
            avg_ts,
            stddev_ts,
            gops: per_ns(self.operations),
            gb_per_s: per_ns(self.bytes_read),
            samples_ns: &self.samples,
            samples_ts: rates,
        }
    }
}

/// llama-bench's names for the fields, in its order, then ours.
#[derive(Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    subject: &'a Subject,
    n_threads: usize,
    n_prompt: usize,
    n_gen: usize,
    n_depth: usize,
    test_time: String,
    avg_ns: u64,
    stddev_ns: u64,
    avg_ts: f64,
    stddev_ts: f64,
    gops: f64,
    gb_per_s: f64,
    samples_ns: &'a [u64],
    samples_ts: Vec<f64>,
}

/// Writes tests as they finish.
pub struct Report<'a> {
    out: &'a mut Out,
    output: Output,
    subject: Subject,
    written: usize,
    /// The columns of the Markdown table, by their place in [`MD`].
    columns: Vec<usize>,
}

const MD: [(&str, usize, bool); 10] = [
    ("model", 28, false),
    ("size", 10, true),
    ("params", 9, true),
    ("backend", 7, false),
    ("threads", 7, true),
    ("kernel", 12, false),
    ("test", 14, true),
    ("t/s", 18, true),
    ("GOPS", 8, true),
    ("GB/s", 7, true),
];

/// Columns that are the same in every row: where the table is too wide, they stand above it.
const SAME: [&str; 5] = ["model", "size", "params", "backend", "kernel"];

impl<'a> Report<'a> {
    /// Writes what stands before the first test. The Markdown table takes at most `width` columns of the screen, if that is given.
    pub fn begin(out: &'a mut Out, output: Output, subject: Subject, width: Option<usize>) -> io::Result<Self> {
        let whole: usize = MD.iter().map(|(_, width, _)| width + 3).sum();
        let narrow = width.is_some_and(|width| width <= whole);
        let columns: Vec<usize> = (0..MD.len()).filter(|&i| !(narrow && SAME.contains(&MD[i].0))).collect();
        match output {
            Output::Md => {
                if narrow {
                    let mut row = cells(&subject, None);
                    // Without its heading it needs a word.
                    row[2] += " parameters";
                    let same: Vec<&str> = MD
                        .iter()
                        .zip(&row)
                        .filter(|((title, ..), _)| SAME.contains(title))
                        .map(|(_, c)| &**c)
                        .collect();
                    writeln!(out, "{}\n", same.join(", "))?;
                }
                line(out, &columns, MD.map(|(title, _, _)| title.to_owned()))?;
                // The colon on the right tells Markdown to align right.
                let rule =
                    MD.map(|(_, width, right)| format!("{}{}", "-".repeat(width - 1), if right { ':' } else { '-' }));
                line(out, &columns, rule)?;
            }
            Output::Csv => {
                let row = Test {
                    threads: 1,
                    prompt: 0,
                    generated: 0,
                    depth: 0,
                    samples: vec![],
                    operations: 0.0,
                    bytes_read: 0.0,
                    started: 0,
                };
                let names: Vec<String> = fields(&row.row(&subject))?.into_iter().map(|(name, _)| name).collect();
                writeln!(out, "{}", names.join(","))?;
            }
            Output::Json => writeln!(out, "[")?,
            Output::Jsonl => {}
        }
        out.flush()?;
        Ok(Self { out, output, subject, written: 0, columns })
    }

    /// What the tests from now on are of.
    pub fn set_subject(&mut self, subject: Subject) {
        self.subject = subject;
    }

    /// Writes one test.
    pub fn test(&mut self, test: &Test) -> io::Result<()> {
        let row = test.row(&self.subject);
        match self.output {
            Output::Md => line(self.out, &self.columns, cells(&self.subject, Some((test, &row))))?,
            Output::Csv => {
                let values: Vec<String> = fields(&row)?.into_iter().map(|(_, value)| value).collect();
                writeln!(self.out, "{}", values.join(","))?;
            }
            Output::Json => {
                let comma = if self.written > 0 { ",\n" } else { "" };
                write!(self.out, "{comma}{}", serde_json::to_string_pretty(&row)?)?;
            }
            Output::Jsonl => writeln!(self.out, "{}", serde_json::to_string(&row)?)?,
        }
        self.written += 1;
        self.out.flush()
    }

    /// Writes what stands after the last test. `partial` says how many of how many tests were done before Ctrl-C was pressed; in
    /// JSON that is an element of its own.
    pub fn finish(self, partial: Option<(usize, usize)>) -> io::Result<()> {
        let mark = partial.map(|(done, count)| {
            serde_json::json!({ "partial": true, "tests": done, "tests_in_all": count }).to_string()
        });
        let comma = if self.written > 0 { ",\n" } else { "" };
        match (self.output, mark) {
            (Output::Json, Some(mark)) => writeln!(self.out, "{comma}{mark}\n]"),
            (Output::Json, None) if self.written > 0 => writeln!(self.out, "\n]"),
            (Output::Json, None) => writeln!(self.out, "]"),
            (Output::Jsonl, Some(mark)) => writeln!(self.out, "{mark}"),
            (Output::Md, _) => {
                if let Some((done, count)) = partial {
                    writeln!(self.out, "\npartial: {done} of {count} tests")?;
                }
                writeln!(self.out, "\n{}", text::provenance(&self.subject.cpu_info))
            }
            (Output::Csv | Output::Jsonl, _) => Ok(()),
        }?;
        self.out.flush()
    }
}

/// A row of the Markdown table; without a test, only what is the same in every row.
fn cells(subject: &Subject, test: Option<(&Test, &Row<'_>)>) -> [String; MD.len()] {
    let of = |cell: &dyn Fn(&Test, &Row<'_>) -> String| test.map_or(String::new(), |(test, row)| cell(test, row));
    [
        text::plain(&subject.model_type, 40),
        text::bytes(subject.model_size),
        text::count(subject.model_n_params),
        subject.backends.clone(),
        of(&|test, _| test.threads.to_string()),
        subject.kernel.clone(),
        of(&|test, _| test.name()),
        of(&|_, row| format!("{:.2} ± {:.2}", row.avg_ts, row.stddev_ts)),
        of(&|_, row| format!("{:.1}", row.gops)),
        of(&|_, row| format!("{:.1}", row.gb_per_s)),
    ]
}

/// The chosen columns of a row of the Markdown table, cells padded so that it also reads as plain text.
fn line(out: &mut dyn Write, columns: &[usize], cells: [String; MD.len()]) -> io::Result<()> {
    let mut text = String::from("|");
    for (cell, (_, width, right)) in columns.iter().map(|&i| (&cells[i], MD[i])) {
        text += &if right { format!(" {cell:>width$} |") } else { format!(" {cell:<width$} |") };
    }
    writeln!(out, "{text}")
}

/// Names and values as llama-bench writes them in CSV: quoted, without the lists of samples.
fn fields(row: &Row<'_>) -> io::Result<Vec<(String, String)>> {
    // Through text, as only the serializer keeps the order of the fields.
    let names = [
        "build_commit",
        "build_version",
        "cpu_info",
        "backends",
        "kernel",
        "model_filename",
        "model_type",
        "model_size",
        "model_n_params",
        "n_threads",
        "n_prompt",
        "n_gen",
        "n_depth",
        "test_time",
        "avg_ns",
        "stddev_ns",
        "avg_ts",
        "stddev_ts",
        "gops",
        "gb_per_s",
    ];
    let value = serde_json::to_value(row)?;
    let text = |name: &str| match &value[name] {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    Ok(names.iter().map(|name| ((*name).to_owned(), format!("\"{}\"", text(name).replace('"', "\"\"")))).collect())
}

/// Mean and sample standard deviation.
fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    if values.is_empty() {
        return (0.0, 0.0);
    }
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares = values.iter().map(|value| (value - mean) * (value - mean)).sum::<f64>();
    (mean, if values.len() > 1 { (squares / (n - 1.0)).sqrt() } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(output: Output, width: Option<usize>, partial: Option<(usize, usize)>) -> String {
        let subject = Subject {
            build_commit: "c0ffee".into(),
            build_version: "0.1.0".into(),
            cpu_info: "A \"fast\" CPU".into(),
            backends: "CPU".into(),
            kernel: "avx2".into(),
            model_filename: "m.gguf".into(),
            model_type: "qwen3 1.7B TQ2_0".into(),
            model_size: 457_179_136,
            model_n_params: 1_720_574_976,
        };
        let mut out = Vec::new();
        let mut report = Report::begin(&mut out, output, subject, width).unwrap();
        let second = 1_000_000_000;
        for (prompt, generated) in [(512, 0), (0, 128)] {
            report
                .test(&Test {
                    threads: 2,
                    prompt,
                    generated,
                    depth: 0,
                    samples: vec![second, 2 * second],
                    operations: 3e11,
                    bytes_read: 6e9,
                    started: 0,
                })
                .unwrap();
        }
        report.finish(partial).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn markdown_has_the_columns_of_llama_bench() {
        let text = report(Output::Md, None, None);
        let cells = |i: usize| {
            let line = text.lines().nth(i).unwrap();
            line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(
            cells(0),
            ["model", "size", "params", "backend", "threads", "kernel", "test", "t/s", "GOPS", "GB/s"]
        );
        assert!(cells(1)[1].ends_with(':') && !cells(1)[0].ends_with(':'));
        let row =
            ["qwen3 1.7B TQ2_0", "436.0 MiB", "1.72 B", "CPU", "2", "avx2", "pp512", "384.00 ± 181.02", "200.0", "4.0"];
        assert_eq!(cells(2), row);
        assert_eq!(cells(3)[6], "tg128");
    }

    #[test]
    fn where_the_screen_is_narrow_what_is_the_same_stands_above() {
        let text = report(Output::Md, Some(80), None);
        assert!(text.starts_with("qwen3 1.7B TQ2_0, 436.0 MiB, 1.72 B parameters, CPU, avx2\n\n| threads |"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.contains("pp512 |    384.00 ± 181.02 |    200.0 |     4.0 |"), "{text}");
        assert_eq!(report(Output::Md, Some(200), None).lines().next(), report(Output::Md, None, None).lines().next());
    }

    #[test]
    fn partial_results_say_so() {
        let partial = Some((2, 4));
        assert!(report(Output::Md, None, partial).contains("\npartial: 2 of 4 tests\n"));
        let mark = serde_json::json!({ "partial": true, "tests": 2, "tests_in_all": 4 });
        let array: serde_json::Value = serde_json::from_str(&report(Output::Json, None, partial)).unwrap();
        assert_eq!((array.as_array().unwrap().len(), &array[2]), (3, &mark));
        assert_eq!(report(Output::Jsonl, None, partial).lines().last(), Some(&*mark.to_string()));
        assert_eq!(report(Output::Csv, None, partial).lines().count(), 3);
    }

    #[test]
    fn csv_has_one_value_per_name() {
        let text = report(Output::Csv, None, None);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        let columns = lines[0].split(',').count();
        assert!(lines[1..].iter().all(|line| line.split("\",\"").count() == columns), "{text}");
        assert!(lines[1].contains("\"A \"\"fast\"\" CPU\"") && !text.contains("null"));
    }

    #[test]
    fn json_parses_and_carries_the_samples() {
        let array: serde_json::Value = serde_json::from_str(&report(Output::Json, None, None)).unwrap();
        assert_eq!(array.as_array().unwrap().len(), 2);
        assert_eq!(array[0]["n_prompt"], 512);
        assert_eq!(array[1]["samples_ns"].as_array().unwrap().len(), 2);
        assert_eq!(array[1]["kernel"], "avx2");
        let lines = report(Output::Jsonl, None, None);
        assert!(lines.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
    }
}
