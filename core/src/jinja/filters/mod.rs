//! Filters: what stands behind `|`. All of jinja2's by name, `tojson` as transformers has it.

mod sequences;
mod texts;

use super::ast::Operator;
use super::evaluate::Called;
use super::methods::strings::decimal;
use super::run::Run;
use super::value::Value;
use super::{Result, failed};

const NAMES: [&str; 54] = [
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "filesizeformat",
    "first",
    "float",
    "forceescape",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "pprint",
    "random",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "striptags",
    "sum",
    "title",
    "tojson",
    "trim",
    "truncate",
    "unique",
    "upper",
    "urlencode",
    "urlize",
    "wordcount",
    "wordwrap",
    "xmlattr",
];

pub(super) fn is_filter(name: &str) -> bool {
    NAMES.contains(&name)
}

impl Run<'_> {
    #[inline(never)]
    pub(super) fn filter(&mut self, name: &str, value: Value, called: Called) -> Result<Value> {
        self.step(1 + value.size())?;
        match name {
            "abs" => {
                called.none(name)?;
                match (&value, value.as_int()) {
                    (Value::Float(number), _) => Ok(number.abs().into()),
                    (_, Some(number)) if number < 0 => self.negative(&value),
                    (_, Some(number)) => Ok(number.into()),
                    _ => failed(format!("abs wants a number, not {}", value.type_name())),
                }
            }
            "attr" => {
                let [name] = called.bind("attr", ["name"])?;
                let name = self.wanted_text("attr", name)?;
                match &value {
                    // An entry of a dict is no attribute.
                    Value::Dict(_) if super::methods::method_of(&value, &name).is_none() => {
                        Ok(Value::Undefined(format!("dict has no attribute {name:?}").into()))
                    }
                    _ => self.attribute(&value, &name),
                }
            }
            "count" | "length" => {
                called.none(name)?;
                Ok(self.length(&value)?.into())
            }
            "d" | "default" => {
                let [default, boolean] = called.bind(name, ["default_value", "boolean"])?;
                let falsy = boolean.is_some_and(|boolean| self.truth(&boolean)) && !self.truth(&value);
                Ok(if value.is_undefined() || falsy { default.unwrap_or_else(|| "".into()) } else { value })
            }
            "float" => {
                let [default] = called.bind(name, ["default"])?;
                let number = match &value {
                    Value::Str(text) | Value::Markup(text) => parse_float(text),
                    Value::Undefined(reason) => return failed(&**reason),
                    other => other.as_f64(),
                };
                Ok(number.map_or_else(|| default.unwrap_or(Value::Float(0.0)), Value::Float))
            }
            "int" => {
                let [default, base] = called.bind(name, ["default", "base"])?;
                let base = base.as_ref().map_or(Some(10), Value::as_int).and_then(|base| u32::try_from(base).ok());
                let Some(base @ (0 | 2..=36)) = base else { return failed("int: base is 0 or from 2 to 36") };
                let truncated = |number: f64| (number.abs() < 1e38).then_some(number as i128);
                let number = match &value {
                    Value::Str(text) | Value::Markup(text) => {
                        parse_int(text, base).or_else(|| parse_float(text).and_then(truncated))
                    }
                    Value::Undefined(reason) => return failed(&**reason),
                    Value::Float(number) => truncated(*number),
                    other => other.as_int(),
                };
                Ok(number.map_or_else(|| default.unwrap_or(Value::Int(0)), Value::Int))
            }
            "round" => self.round(&value, called),
            "tojson" => self.tojson(&value, called),
            "batch" | "dictsort" | "first" | "groupby" | "items" | "join" | "last" | "list" | "map" | "max" | "min"
            | "reject" | "rejectattr" | "reverse" | "select" | "selectattr" | "slice" | "sort" | "sum" | "unique" => {
                self.sequence_filter(name, value, called)
            }
            "random" => failed("random is not supported: a prompt must not depend on chance"),
            name if is_filter(name) => self.text_filter(name, value, called),
            other => failed(format!("no filter is named {other:?}")),
        }
    }

    fn round(&mut self, value: &Value, called: Called) -> Result<Value> {
        let [precision, method] = called.bind("round", ["precision", "method"])?;
        let Some(precision) = precision.as_ref().map_or(Some(0), Value::as_int) else {
            return failed("round: precision is a whole number");
        };
        let Some(number) = value.as_f64() else {
            return failed(format!("round wants a number, not {}", value.type_name()));
        };
        let places = precision.clamp(-400, 400) as i32;
        let scale = libm::pow(10.0, f64::from(places));
        match method.as_ref().and_then(Value::as_str).unwrap_or("common") {
            "common" if places >= 0 && value.as_int().is_some() => Ok(value.as_int().unwrap_or(0).into()),
            "common" if number.is_finite() && places >= 0 => {
                let places = places as usize;
                Ok(format!("{number:.places$}").parse::<f64>().unwrap_or(number).into())
            }
            "common" => {
                let rounded = libm::rint(number * scale) / scale;
                Ok(if value.as_int().is_some() { Value::Int(rounded as i128) } else { Value::Float(rounded) })
            }
            "ceil" => Ok((libm::ceil(number * scale) / scale).into()),
            "floor" => Ok((libm::floor(number * scale) / scale).into()),
            _ => failed("round: method is common, ceil or floor"),
        }
    }

    /// The value that a path like `user.name` or `0` leads to; what is undefined becomes the default.
    fn path(&mut self, value: &Value, path: &Value, default: Option<&Value>) -> Result<Value> {
        let mut found = value.clone();
        match path {
            Value::Str(path) | Value::Markup(path) => {
                for part in path.split('.') {
                    let index = part.parse::<i128>().ok().filter(|_| part.bytes().all(|byte| byte.is_ascii_digit()));
                    found = self.item(&found, &index.map_or_else(|| part.into(), Value::Int))?;
                    if let (true, Some(default)) = (found.is_undefined(), default) {
                        found = default.clone();
                    }
                }
            }
            path => found = self.item(&found, path)?,
        }
        Ok(found)
    }

    fn add(&mut self, left: Value, right: Value) -> Result<Value> {
        self.arithmetic(left, Operator::Add, right)
    }
}

/// A number as Python's `float()` reads it.
fn parse_float(text: &str) -> Option<f64> {
    let text = text.trim_matches(super::lexer::is_space);
    let plain = text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.'));
    let word = text.trim_start_matches(['+', '-']).to_ascii_lowercase();
    if !plain && !matches!(word.as_str(), "inf" | "infinity" | "nan") || text.ends_with('_') {
        return None;
    }
    without_underscores(text)?.parse().ok()
}

/// A whole number as Python's `int()` reads it: a sign, digits of any script, single underscores between them. The
/// base 0 goes by the prefix.
fn parse_int(text: &str, base: u32) -> Option<i128> {
    let text = text.trim_matches(super::lexer::is_space);
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let mut base = base;
    let mut digits = without_underscores(digits)?;
    for (prefix, of) in [("0x", 16), ("0o", 8), ("0b", 2)] {
        if (base == of || base == 0) && digits.get(..2).is_some_and(|start| start.eq_ignore_ascii_case(prefix)) {
            digits.drain(..2);
            base = of;
        }
    }
    if digits.is_empty() {
        return None;
    }
    let base = if base == 0 { 10 } else { base };
    let mut number: i128 = 0;
    for c in digits.chars() {
        let digit = c.to_digit(base).or_else(|| decimal(c).filter(|digit| *digit < base))?;
        number = number.checked_mul(i128::from(base))?.checked_add(i128::from(digit))?;
    }
    Some(sign * number)
}

/// `None` where an underscore does not stand between two characters of a number.
fn without_underscores(text: &str) -> Option<String> {
    let wrong = text.starts_with('_') || text.ends_with('_') || text.contains("__");
    (!wrong).then(|| text.replace('_', ""))
}
