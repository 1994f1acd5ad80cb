//! How Python prints values.

use std::fmt::Write;

use super::run::{MAX_OUTPUT, Run};
use super::value::{Kind, Object, Value, View};
use super::{Fault, Result};

impl Run<'_> {
    /// `str(value)`; what is undefined prints nothing.
    pub(super) fn string(&mut self, value: &Value) -> Result<std::sync::Arc<str>> {
        match value {
            Value::Str(text) | Value::Markup(text) => Ok(text.clone()),
            Value::Undefined(_) => Ok("".into()),
            other => Ok(self.repr(other)?.into()),
        }
    }

    /// `repr(value)`
    pub(super) fn repr(&mut self, value: &Value) -> Result<String> {
        let mut out = String::new();
        self.write_repr(value, &mut out)?;
        self.charge(out.len())?;
        Ok(out)
    }

    fn write_repr(&mut self, value: &Value, out: &mut String) -> Result<()> {
        if out.len() > MAX_OUTPUT {
            return Err(Fault::Bytes);
        }
        match value {
            Value::Undefined(_) => out.push_str("Undefined"),
            Value::None => out.push_str("None"),
            Value::Bool(value) => out.push_str(if *value { "True" } else { "False" }),
            Value::Int(value) => {
                let _ = write!(out, "{value}");
            }
            Value::Float(value) => out.push_str(&float(*value)),
            Value::Str(text) => quote(text, out),
            Value::Markup(text) => {
                out.push_str("Markup(");
                quote(text, out);
                out.push(')');
            }
            Value::List(list) => self.write_items(&list.items, ["[", "]"], out)?,
            Value::Tuple(list) => {
                let close = if list.items.len() == 1 { ",)" } else { ")" };
                self.write_items(&list.items, ["(", close], out)?;
            }
            Value::Dict(dict) => {
                out.push('{');
                for (i, (key, value)) in dict.entries.iter().enumerate() {
                    out.push_str(if i == 0 { "" } else { ", " });
                    self.write_repr(key, out)?;
                    out.push_str(": ");
                    self.write_repr(value, out)?;
                }
                out.push('}');
            }
            Value::Range(range) => {
                let _ = match range.step {
                    1 => write!(out, "range({}, {})", range.start, range.stop),
                    step => write!(out, "range({}, {}, {step})", range.start, range.stop),
                };
            }
            Value::Object(object) => self.write_object(object, out)?,
        }
        Ok(())
    }

    fn write_items(&mut self, items: &[Value], [open, close]: [&str; 2], out: &mut String) -> Result<()> {
        out.push_str(open);
        for (i, item) in items.iter().enumerate() {
            out.push_str(if i == 0 { "" } else { ", " });
            self.write_repr(item, out)?;
        }
        out.push_str(close);
        Ok(())
    }

    /// Python prints where most of these are in memory; here they have no such place.
    fn write_object(&mut self, object: &Object, out: &mut String) -> Result<()> {
        match &object.0 {
            Kind::View(view, dict) => {
                out.push_str(Value::Object(object.clone()).type_name());
                match view {
                    View::Keys | View::Values => {
                        let half =
                            |(key, value): &(Value, Value)| if *view == View::Keys { key } else { value }.clone();
                        let items: Vec<Value> = dict.entries.iter().map(half).collect();
                        self.write_items(&items, ["([", "])"], out)?;
                    }
                    View::Items => {
                        out.push_str("([");
                        for (i, (key, value)) in dict.entries.iter().enumerate() {
                            out.push_str(if i == 0 { "" } else { ", " });
                            self.write_items(&[key.clone(), value.clone()], ["(", ")"], out)?;
                        }
                        out.push_str("])");
                    }
                }
            }
            Kind::Macro(at) => {
                let (definition, _) = self.closures[*at];
                out.push_str("<Macro ");
                quote(&self.program.macros[definition].name, out);
                out.push('>');
            }
            Kind::Loop(at) => match self.loops.get(*at) {
                Some(running) => {
                    let _ = write!(out, "<LoopContext {}/{}>", running.index + 1, running.items.len());
                }
                None => out.push_str("<LoopContext>"),
            },
            Kind::Global(name) => {
                let _ = write!(out, "<function {name}>");
            }
            Kind::Method(method) => {
                let _ = write!(out, "<built-in method {} of {} object>", method.1, method.0.type_name());
            }
            _ => {
                let _ = write!(out, "<{} object>", Value::Object(object.clone()).type_name());
            }
        }
        Ok(())
    }
}

/// A string literal: single quotes, unless the text has some and no double ones.
pub(super) fn quote(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => out.extend(['\\', c]),
            c if is_printable(c) => out.push(c),
            c => escape(c, out),
        }
    }
    out.push(quote);
}

/// The text in ASCII, with escapes: `ascii(text)` without the quotes.
pub(super) fn ascii(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if c.is_ascii() { out.push(c) } else { escape(c, &mut out) }
    }
    out
}

fn escape(c: char, out: &mut String) {
    let code = u32::from(c);
    let _ = match code {
        0..=0xff => write!(out, "\\x{code:02x}"),
        0x100..=0xffff => write!(out, "\\u{code:04x}"),
        _ => write!(out, "\\U{code:08x}"),
    };
}

/// Python's `isprintable`: no control, format or unassigned character, and no separator but the space. The standard
/// library's escapes go by the same rule, except for marks at the start of a text.
pub(super) fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return !c.is_ascii_control();
    }
    let mut text = String::from("a");
    text.push(c);
    text.escape_debug().nth(1) == Some(c)
}

/// A float as `repr` prints it: exponents from 1e16 and below 1e-4, always a point or an exponent.
pub(super) fn float(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    if number != 0.0 && !(1e-4..1e16).contains(&number.abs()) {
        return exponent(&format!("{number:e}"));
    }
    if number.fract() == 0.0 { format!("{number:.1}") } else { number.to_string() }
}

/// `1e-7` as Python writes it: a sign, and two digits at least.
pub(super) fn exponent(text: &str) -> String {
    let (digits, exponent) = text.split_once('e').unwrap_or((text, "0"));
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
    format!("{digits}e{sign}{exponent:0>2}")
}
