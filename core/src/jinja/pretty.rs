//! `pprint`: values laid out over lines of 80 characters, the keys of dicts in order.

use std::sync::Arc;

use super::Result;
use super::methods::strings::lines;
use super::print::quote;
use super::run::Run;
use super::value::{Dict, Key, Value};

const WIDTH: usize = 80;

impl Run<'_> {
    pub(super) fn pretty(&mut self, value: &Value) -> Result<Value> {
        let value = self.sorted(value)?;
        let mut out = String::new();
        self.lay_out(&value, 0, 0, 1, &mut out)?;
        self.text(out)
    }

    /// The value with its dicts in the order of their keys; keys without an order stay where they are.
    fn sorted(&mut self, value: &Value) -> Result<Value> {
        self.step(1)?;
        match value {
            Value::List(list) => {
                let items = list.items.iter().map(|item| self.sorted(item)).collect::<Result<_>>()?;
                self.list(items)
            }
            Value::Tuple(list) => {
                let items = list.items.iter().map(|item| self.sorted(item)).collect::<Result<_>>()?;
                self.tuple(items)
            }
            Value::Dict(dict) => {
                let mut keyed: Vec<(Key, Value, Value)> = Vec::new();
                for (name, value) in &dict.entries {
                    keyed.push((self.key(name)?, name.clone(), self.sorted(value)?));
                }
                self.charge_items(4 * keyed.len())?;
                let kind = |name: &Value| name.type_name();
                if keyed.iter().all(|(_, name, _)| name.as_f64().is_some()) {
                    keyed.sort_by(|(_, left, _), (_, right, _)| {
                        left.as_f64().unwrap_or(0.0).total_cmp(&right.as_f64().unwrap_or(0.0))
                    });
                } else {
                    keyed.sort_by(|(left, a, _), (right, b, _)| kind(a).cmp(kind(b)).then_with(|| left.cmp(right)));
                }
                Ok(Value::Dict(Arc::new(Dict::new(keyed))))
            }
            other => Ok(other.clone()),
        }
    }

    /// Writes the value at a column; `after` characters follow it on its last line.
    fn lay_out(&mut self, value: &Value, column: usize, after: usize, level: usize, out: &mut String) -> Result<()> {
        let line = self.repr(value)?;
        if line.chars().count() <= WIDTH.saturating_sub(column + after) {
            out.push_str(&line);
            return Ok(());
        }
        match value {
            Value::List(list) if !list.items.is_empty() => {
                self.lay_out_items(&list.items, ["[", "]"], column, after, level, out)
            }
            Value::Tuple(list) if !list.items.is_empty() => {
                let close = if list.items.len() == 1 { ",)" } else { ")" };
                self.lay_out_items(&list.items, ["(", close], column, after, level, out)
            }
            Value::Dict(dict) if !dict.entries.is_empty() => {
                out.push('{');
                for (i, (name, value)) in dict.entries.iter().enumerate() {
                    if i > 0 {
                        new_line(column + 1, ",", out);
                    }
                    let name = self.repr(name)?;
                    out.push_str(&name);
                    out.push_str(": ");
                    let after = if i + 1 == dict.entries.len() { after + 1 } else { 1 };
                    self.lay_out(value, column + 1 + name.chars().count() + 2, after, level + 1, out)?;
                }
                out.push('}');
                Ok(())
            }
            Value::Str(text) => {
                lay_out_text(text, column, after, level, out);
                Ok(())
            }
            _ => {
                out.push_str(&line);
                Ok(())
            }
        }
    }

    fn lay_out_items(
        &mut self,
        items: &[Value],
        [open, close]: [&str; 2],
        column: usize,
        after: usize,
        level: usize,
        out: &mut String,
    ) -> Result<()> {
        out.push_str(open);
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                new_line(column + 1, ",", out);
            }
            let after = if i + 1 == items.len() { after + close.len() } else { 1 };
            self.lay_out(item, column + 1, after, level + 1, out)?;
        }
        out.push_str(close);
        Ok(())
    }
}

fn new_line(column: usize, before: &str, out: &mut String) {
    out.push_str(before);
    out.push('\n');
    out.extend(std::iter::repeat_n(' ', column));
}

/// A long text as several literals, cut after newlines and white space.
fn lay_out_text(text: &str, column: usize, after: usize, level: usize, out: &mut String) {
    let outermost = level == 1;
    let (column, after) = if outermost { (column + 1, after + 1) } else { (column, after) };
    let literal = |text: &str| {
        let mut out = String::new();
        quote(text, &mut out);
        out
    };
    let width = WIDTH.saturating_sub(column);
    let lines = lines(text, true);
    let mut literals: Vec<String> = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        let last = i + 1 == lines.len();
        let whole = literal(line);
        if whole.chars().count() <= width.saturating_sub(if last { after } else { 0 }) {
            literals.push(whole);
            continue;
        }
        let parts = parts(line);
        let mut current = String::new();
        for (j, part) in parts.iter().enumerate() {
            let candidate = [&current, *part].concat();
            let room = width.saturating_sub(if last && j + 1 == parts.len() { after } else { 0 });
            if literal(&candidate).chars().count() > room {
                if !current.is_empty() {
                    literals.push(literal(&current));
                }
                current = (*part).to_owned();
            } else {
                current = candidate;
            }
        }
        if !current.is_empty() {
            literals.push(literal(&current));
        }
    }
    let wrapped = outermost && literals.len() > 1;
    out.push_str(if wrapped { "(" } else { "" });
    for (i, literal) in literals.iter().enumerate() {
        if i > 0 {
            new_line(column, "", out);
        }
        out.push_str(literal);
    }
    out.push_str(if wrapped { ")" } else { "" });
}

/// Words, each with the white space after it.
fn parts(line: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = line;
    while !rest.is_empty() {
        let word = rest.find(super::lexer::is_space).unwrap_or(rest.len());
        let space = rest[word..].find(|c| !super::lexer::is_space(c)).unwrap_or(rest.len() - word);
        parts.push(&rest[..word + space]);
        rest = &rest[word + space..];
    }
    parts
}
