//! `tojson`: `json.dumps` of Python, with `ensure_ascii` off unless asked for.

use super::evaluate::Called;
use super::print::float;
use super::run::{MAX_OUTPUT, Run};
use super::value::Value;
use super::{Fault, Result, failed};

struct Style {
    /// What a level is indented by; `None` for one line.
    indent: Option<String>,
    item: String,
    key: String,
    ascii: bool,
    sort: bool,
}

impl Run<'_> {
    pub(super) fn tojson(&mut self, value: &Value, called: Called) -> Result<Value> {
        let [ascii, indent, separators, sort] =
            called.bind("tojson", ["ensure_ascii", "indent", "separators", "sort_keys"])?;
        let indent = match indent {
            None | Some(Value::None) => None,
            Some(Value::Str(text)) => Some(text.to_string()),
            Some(other) => match other.as_int() {
                Some(width) => {
                    let width = usize::try_from(width.max(0)).unwrap_or(usize::MAX);
                    self.charge(width)?;
                    Some(" ".repeat(width))
                }
                None => return failed("tojson: indent is a number or a text"),
            },
        };
        let (item, key) = match separators {
            None | Some(Value::None) => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
            Some(pair) => match self.iterate(&pair)?.as_slice() {
                [Value::Str(item), Value::Str(key)] => (item.to_string(), key.to_string()),
                _ => return failed("tojson: separators are two texts"),
            },
        };
        let flag = |value: Option<Value>| value.is_some_and(|value| self.truth(&value));
        let style = Style { indent, item, key, ascii: flag(ascii), sort: flag(sort) };
        let mut out = String::new();
        self.write_json(&style, value, 0, &mut out)?;
        self.text(out)
    }

    fn write_json(&mut self, style: &Style, value: &Value, depth: usize, out: &mut String) -> Result<()> {
        if out.len() > MAX_OUTPUT {
            return Err(Fault::Bytes);
        }
        self.step(1)?;
        match value {
            Value::Str(text) | Value::Markup(text) => string(text, style.ascii, out),
            Value::List(list) | Value::Tuple(list) => {
                out.push('[');
                for (i, item) in list.items.iter().enumerate() {
                    style.between(i, depth + 1, out)?;
                    self.write_json(style, item, depth + 1, out)?;
                }
                style.end(list.items.len(), depth, out)?;
                out.push(']');
            }
            Value::Dict(dict) => {
                let mut entries = dict.entries.clone();
                if style.sort {
                    self.sort(&mut entries, false)?;
                }
                out.push('{');
                for (i, (name, value)) in entries.iter().enumerate() {
                    style.between(i, depth + 1, out)?;
                    match scalar(name) {
                        // Python writes other keys as strings.
                        Some(text) => string(&text, style.ascii, out),
                        None => match name.as_str() {
                            Some(text) => string(text, style.ascii, out),
                            None => return failed(format!("tojson: {} is no key of JSON", name.type_name())),
                        },
                    }
                    out.push_str(&style.key);
                    self.write_json(style, value, depth + 1, out)?;
                }
                style.end(entries.len(), depth, out)?;
                out.push('}');
            }
            other => match scalar(other) {
                Some(text) => out.push_str(&text),
                None => return failed(format!("tojson: {} is not JSON", other.type_name())),
            },
        }
        Ok(())
    }
}

/// A value that has no parts and is no text.
fn scalar(value: &Value) -> Option<String> {
    Some(match value {
        Value::None => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Float(value) => match float(*value).as_str() {
            "nan" => "NaN".to_owned(),
            "inf" => "Infinity".to_owned(),
            "-inf" => "-Infinity".to_owned(),
            text => text.to_owned(),
        },
        _ => return None,
    })
}

impl Style {
    /// What stands before the item of that index.
    fn between(&self, index: usize, depth: usize, out: &mut String) -> Result<()> {
        if index > 0 {
            out.push_str(&self.item);
        }
        self.line(depth, out)
    }

    fn end(&self, items: usize, depth: usize, out: &mut String) -> Result<()> {
        if items > 0 { self.line(depth, out) } else { Ok(()) }
    }

    fn line(&self, depth: usize, out: &mut String) -> Result<()> {
        let Some(indent) = &self.indent else { return Ok(()) };
        if indent.len().saturating_mul(depth) > MAX_OUTPUT {
            return Err(Fault::Bytes);
        }
        out.push('\n');
        out.extend(std::iter::repeat_n(indent.as_str(), depth));
        Ok(())
    }
}

fn string(text: &str, ascii: bool, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' || (ascii && c >= '\u{7f}') => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}
