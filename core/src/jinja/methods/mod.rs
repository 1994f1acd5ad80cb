//! Methods of values, as Python names them. Those that would change their object exist, but jinja2's sandbox makes
//! them undefined for templates.

pub(super) mod strings;

use super::evaluate::Called;
use super::operators::as_markup;
use super::run::Run;
use super::value::{Kind, Object, Value, View};
use super::{Result, failed};

const DICT: [&str; 6] = ["copy", "fromkeys", "get", "items", "keys", "values"];
const DICT_CHANGES: [&str; 5] = ["clear", "pop", "popitem", "setdefault", "update"];
const LIST: [&str; 3] = ["copy", "count", "index"];
const LIST_CHANGES: [&str; 8] = ["append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"];

/// The method's name, if the value's type has it, and whether it changes the value.
pub(super) fn method_of(value: &Value, name: &str) -> Option<(&'static str, bool)> {
    let (methods, changes): (&[&'static str], &[&'static str]) = match value {
        Value::Str(_) | Value::Markup(_) => (&strings::NAMES, &[]),
        Value::Dict(_) => (&DICT, &DICT_CHANGES),
        Value::List(_) => (&LIST, &LIST_CHANGES),
        Value::Tuple(_) | Value::Range(_) => (&LIST[1..], &[]),
        Value::Int(_) | Value::Bool(_) => (&["bit_count", "bit_length", "conjugate"], &[]),
        Value::Float(_) => (&["conjugate", "is_integer"], &[]),
        Value::Object(Object(Kind::Loop(_))) => (&["changed", "cycle"], &[]),
        Value::Object(Object(Kind::Cycler(_))) => (&["next", "reset"], &[]),
        Value::Object(Object(Kind::Global("dict"))) => (&["fromkeys"], &[]),
        _ => return None,
    };
    let found = |names: &[&'static str]| names.iter().find(|known| **known == name).copied();
    found(methods).map(|name| (name, false)).or_else(|| found(changes).map(|name| (name, true)))
}

impl Run<'_> {
    #[inline(never)]
    pub(super) fn call_method(&mut self, value: &Value, name: &'static str, called: Called) -> Result<Value> {
        match value {
            Value::Str(text) => self.string_method(text, name, called),
            Value::Markup(text) => self.markup_method(text, name, called),
            Value::Dict(dict) => match name {
                "get" => {
                    let [Some(key), default] = called.bind(name, ["key", "default"])? else {
                        return failed("get wants a key");
                    };
                    let key = self.key(&key)?;
                    Ok(dict.get(&key).cloned().or(default).unwrap_or_default())
                }
                "fromkeys" => self.dict_of_keys(called),
                _ => {
                    called.none(name)?;
                    let view = match name {
                        "keys" => View::Keys,
                        "values" => View::Values,
                        "items" => View::Items,
                        _ => return Ok(value.clone()),
                    };
                    Ok(Value::Object(Object(Kind::View(view, dict.clone()))))
                }
            },
            Value::List(_) | Value::Tuple(_) | Value::Range(_) => self.sequence_method(value, name, called),
            Value::Object(Object(Kind::Loop(at))) => self.loop_method(*at, name, called),
            Value::Object(Object(Kind::Cycler(at))) => {
                called.none(name)?;
                let (items, index) = &mut self.cyclers[*at];
                if name == "reset" {
                    *index = 0;
                    return Ok(Value::None);
                }
                let item = items.get(*index).cloned().unwrap_or_default();
                *index = (*index + 1) % items.len().max(1);
                Ok(item)
            }
            Value::Object(_) => self.dict_of_keys(called),
            number => {
                called.none(name)?;
                Ok(match (name, number.as_int(), number.as_f64()) {
                    ("bit_count", Some(number), _) => number.unsigned_abs().count_ones().into(),
                    ("bit_length", Some(number), _) => (128 - number.unsigned_abs().leading_zeros()).into(),
                    ("is_integer", _, Some(number)) => (number.fract() == 0.0).into(),
                    _ => number.clone(),
                })
            }
        }
    }

    /// A method of a text that is HTML: what it is given is escaped, what it gives is HTML.
    fn markup_method(&mut self, text: &std::sync::Arc<str>, name: &'static str, mut called: Called) -> Result<Value> {
        let asks = ["count", "endswith", "find", "index", "rfind", "rindex", "startswith"].contains(&name)
            || ["partition", "rpartition", "rsplit", "split"].contains(&name);
        if !asks {
            for value in called.positional.iter_mut().chain(called.named.iter_mut().map(|(_, value)| value)) {
                *value = self.markup_arguments(value)?;
            }
        }
        self.string_method(text, name, called).map(as_markup)
    }

    fn dict_of_keys(&mut self, called: Called) -> Result<Value> {
        let [Some(keys), value] = called.bind("fromkeys", ["iterable", "value"])? else {
            return failed("fromkeys wants keys");
        };
        let value = value.unwrap_or_default();
        let pairs = self.iterate(&keys)?.into_iter().map(|key| (key, value.clone())).collect();
        self.dict(pairs)
    }

    fn sequence_method(&mut self, value: &Value, name: &str, called: Called) -> Result<Value> {
        if name == "copy" {
            called.none(name)?;
            return Ok(value.clone());
        }
        let [Some(wanted), start, stop] = called.bind(name, ["value", "start", "stop"])? else {
            return failed(format!("{name} wants a value"));
        };
        let part = self.slice(value, [start.clone(), stop, None])?;
        let items = self.iterate(&part)?;
        let mut count = 0usize;
        for (at, item) in items.iter().enumerate() {
            if self.equal(item, &wanted)? {
                if name == "index" {
                    let start = start.as_ref().and_then(Value::as_int).unwrap_or(0);
                    let length = self.length(value)? as i128;
                    let start = if start < 0 { start.saturating_add(length).max(0) } else { start };
                    return Ok(Value::Int(start.saturating_add(at as i128)));
                }
                count += 1;
            }
        }
        if name == "index" {
            let wanted = self.repr(&wanted)?;
            return failed(format!("{wanted} is not in the {}", value.type_name()));
        }
        Ok(count.into())
    }

    fn loop_method(&mut self, at: usize, name: &str, called: Called) -> Result<Value> {
        let Some(index) = self.loops.get(at).map(|running| running.index) else {
            return failed("the loop has ended");
        };
        let values = called.positional;
        if name == "cycle" {
            if values.is_empty() {
                return failed("loop.cycle wants items");
            }
            return Ok(values[index % values.len()].clone());
        }
        let before = self.loops[at].changed.take();
        let mut same = before.as_ref().is_some_and(|before| before.len() == values.len());
        for (old, new) in before.iter().flatten().zip(&values) {
            same = same && self.equal(old, new)?;
        }
        self.charge_items(values.len())?;
        self.loops[at].changed = Some(values);
        Ok((!same).into())
    }
}
