//! What a conversion tells: bytes before and after, bits per weight, zeros and errors, by kind of tensor, as a table, as JSON, and
//! as the file of metadata beside the output.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;

use serde_json::{Value, json};

use super::encode::{Fidelity, Sums};
use super::validate::Validated;
use crate::checkpoint::plan::{Account, LeftOut};
use crate::ui::text::{self, Align};

/// One tensor that was written.
#[derive(Clone, Debug)]
pub struct Done {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: &'static str,
    /// Its type in the source.
    pub from: String,
    /// Its format in the file.
    pub format: &'static str,
    /// Whether that is ternary.
    pub ternary: bool,
    /// Elements.
    pub elements: u64,
    /// Bytes in the source.
    pub bytes_before: u64,
    /// Bytes in the file.
    pub bytes_after: u64,
    /// Zeros and errors.
    pub sums: Sums,
    /// How true it is.
    pub fidelity: Fidelity,
}

/// What became of a model.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was read.
    pub source: String,
    /// What was written.
    pub output: PathBuf,
    /// All tensors, in order.
    pub tensors: Vec<Done>,
    /// Where the tensors of the source went.
    pub account: Account,
    /// Seconds that reading, rounding and writing took.
    pub seconds: f64,
    /// What a person should know.
    pub notes: Vec<String>,
    /// What reading the file back found.
    pub validated: Option<Validated>,
}

/// Tensors of a kind and a format together.
#[derive(Clone, Debug, Default)]
struct Group {
    tensors: u64,
    elements: u64,
    before: u64,
    after: u64,
    sums: Sums,
    ternary: bool,
    fidelity: Option<Fidelity>,
}

impl Group {
    fn add(&mut self, done: &Done) {
        self.tensors += 1;
        self.elements += done.elements;
        self.before += done.bytes_before;
        self.after += done.bytes_after;
        self.sums.add(&done.sums);
        self.ternary |= done.ternary;
        // The least true of them speaks for all.
        self.fidelity = Some(self.fidelity.map_or(done.fidelity, |own| least(own, done.fidelity)));
    }

    fn bits(&self) -> f64 {
        self.after as f64 * 8.0 / (self.elements as f64).max(1.0)
    }

    fn json(&self, kind: &str, format: &str) -> Value {
        json!({
            "kind": kind,
            "type": format,
            "tensors": self.tensors,
            "weights": self.elements,
            "bytes_before": self.before,
            "bytes_after": self.after,
            "bits_per_weight": self.bits(),
            "zeros": self.sums.zeros as f64 / (self.elements as f64).max(1.0),
            "relative_error": self.sums.relative_error(),
            "fidelity": self.fidelity,
        })
    }
}

/// A kind and a format.
type Key = (&'static str, &'static str);

/// Of two, the one that is less true to its source.
fn least(a: Fidelity, b: Fidelity) -> Fidelity {
    let order = [Fidelity::Exact, Fidelity::Codes, Fidelity::Trained, Fidelity::Float, Fidelity::Rule];
    let place = |fidelity: Fidelity| order.iter().position(|&other| other == fidelity);
    if place(a) < place(b) { b } else { a }
}

/// What is said about a group's truth to its source.
fn words(fidelity: Option<Fidelity>) -> &'static str {
    match fidelity {
        Some(Fidelity::Exact) => "exact",
        Some(Fidelity::Codes) => "exact codes, f16 scales",
        Some(Fidelity::Trained) => "as trained",
        Some(Fidelity::Float) => "float, rounded",
        Some(Fidelity::Rule) => "rounded by the rule",
        None => "",
    }
}

impl Report {
    /// Prints the table.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let (groups, total) = self.groups();
        let row = |kind: &str, format: &str, group: &Group| {
            let share = |x: f64| format!("{:.1} %", 100.0 * x);
            vec![
                kind.to_owned(),
                format.to_owned(),
                group.tensors.to_string(),
                text::count(group.elements),
                text::bytes(group.before),
                text::bytes(group.after),
                format!("{:.3}", group.bits()),
                if group.ternary && !format.is_empty() {
                    share(group.sums.zeros as f64 / (group.elements as f64).max(1.0))
                } else {
                    String::new()
                },
                if format.is_empty() { String::new() } else { format!("{:.4}", group.sums.relative_error()) },
                words(if format.is_empty() { None } else { group.fidelity }).to_owned(),
            ]
        };
        let mut rows: Vec<Vec<String>> =
            groups.iter().map(|((kind, format), group)| row(kind, format, group)).collect();
        rows.push(row("in all", "", &total));
        let columns = [
            ("", Align::Left),
            ("TYPE", Align::Left),
            ("TENSORS", Align::Right),
            ("WEIGHTS", Align::Right),
            ("BEFORE", Align::Right),
            ("AFTER", Align::Right),
            ("BITS PER WEIGHT", Align::Right),
            ("ZEROS", Align::Right),
            ("ERROR", Align::Right),
            ("", Align::Left),
        ];
        text::table(out, &columns, &rows)?;
        writeln!(
            out,
            "\n{}: {} from {}, {}, in {:.1} s ({:.0} MB/s)",
            self.output.display(),
            text::bytes(total.after),
            text::bytes(total.before),
            text::resized(total.before, total.after),
            self.seconds,
            self.speed(&total)
        )?;
        if let Some(validated) = &self.validated {
            self.write_account(out)?;
            validated.write_text(out)?;
        }
        Ok(())
    }

    /// Prints how many tensors were read and written, and names those that were left out.
    fn write_account(&self, out: &mut dyn Write) -> io::Result<()> {
        let Account { read, folded, computed, left_out } = &self.account;
        write!(out, "tensors: {read} read, {} written", self.tensors.len())?;
        if *folded > 0 {
            write!(out, "; {folded} read ones are scales, which are part of their matrices")?;
        }
        if *computed > 0 {
            write!(out, "; {computed} written ones are computed from config.json")?;
        }
        writeln!(out, "; {} left out{}", left_out.len(), if left_out.is_empty() { "" } else { ":" })?;
        left_out.iter().try_for_each(|LeftOut { name, reason }| writeln!(out, "  {name}: {reason}"))
    }

    /// Everything, as JSON; `settings` are added as they are.
    pub fn json(&self, settings: Value) -> Value {
        let (groups, total) = self.groups();
        let tensors: Vec<Value> = self
            .tensors
            .iter()
            .map(|done| {
                json!({
                    "name": done.name,
                    "kind": done.kind,
                    "from": done.from,
                    "type": done.format,
                    "weights": done.elements,
                    "bytes_before": done.bytes_before,
                    "bytes_after": done.bytes_after,
                    "zeros": done.sums.zeros as f64 / (done.elements as f64).max(1.0),
                    "relative_error": done.sums.relative_error(),
                    "fidelity": done.fidelity,
                })
            })
            .collect();
        let left_out: Vec<Value> = self
            .account
            .left_out
            .iter()
            .map(|LeftOut { name, reason }| json!({"name": name, "reason": reason}))
            .collect();
        let by_kind: Vec<Value> = groups.iter().map(|((kind, format), group)| group.json(kind, format)).collect();
        json!({
            "sterna": env!("CARGO_PKG_VERSION"),
            "source": self.source,
            "output": self.output.display().to_string(),
            "settings": settings,
            "bytes_before": total.before,
            "bytes_after": total.after,
            "compression_ratio": ratio(&total),
            "weights": total.elements,
            "bits_per_weight": total.bits(),
            "lossless": super::is_lossless(self),
            "seconds": self.seconds,
            "mb_per_second": self.speed(&total),
            "by_kind": by_kind,
            "tensors_read": self.account.read,
            "tensors_written": self.tensors.len(),
            "tensors_folded": self.account.folded,
            "tensors_computed": self.account.computed,
            "left_out": left_out,
            "tensors": tensors,
            "notes": self.notes,
            "validated": self.validated.as_ref().map(Validated::json),
        })
    }

    /// By kind and format, in the order in which they first occur; and all of them.
    fn groups(&self) -> (Vec<(Key, Group)>, Group) {
        let (mut groups, mut places, mut total) = (Vec::<(Key, Group)>::new(), BTreeMap::new(), Group::default());
        for done in &self.tensors {
            let key = (done.kind, done.format);
            let place = *places.entry(key).or_insert_with(|| {
                groups.push((key, Group::default()));
                groups.len() - 1
            });
            groups[place].1.add(done);
            total.add(done);
        }
        (groups, total)
    }

    fn speed(&self, total: &Group) -> f64 {
        total.before as f64 / 1e6 / self.seconds.max(1e-9)
    }
}

/// Names the tensors of which nothing is left: all of their weights became zero.
pub fn vanished(done: &[Done]) -> Option<String> {
    let vanished = done.iter().filter(|done| done.sums.vanished(done.elements));
    let names: Vec<&str> = vanished.map(|done| done.name.as_str()).collect();
    (!names.is_empty()).then(|| {
        format!(
            "all weights became zero in {}: they are smaller than the smallest number that the format holds (6e-8 as an f16 \
             scale); leave them in another format with --keep, or check the checkpoint",
            names.join(", ")
        )
    })
}

fn ratio(group: &Group) -> f64 {
    group.before as f64 / (group.after as f64).max(1.0)
}
