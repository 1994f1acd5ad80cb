//! Attributes, items and slices.

use std::sync::Arc;

use super::methods::method_of;
use super::operators::as_markup;
use super::run::Run;
use super::value::{Kind, Object, Range, Value};
use super::{Result, failed};

impl Run<'_> {
    /// `value.name`: an attribute, else an item. A dict's methods come before its entries, as in jinja2.
    pub(super) fn attribute(&mut self, value: &Value, name: &str) -> Result<Value> {
        if let Some(found) = self.own_attribute(value, name)? {
            return Ok(found);
        }
        if let Value::Dict(dict) = value
            && let Some(found) = dict.get_str(name)
        {
            return Ok(found.clone());
        }
        Ok(missing(value, &format!("attribute {name:?}")))
    }

    /// `value[key]`: an item, else an attribute of that name.
    pub(super) fn item(&mut self, value: &Value, key: &Value) -> Result<Value> {
        if let Value::Undefined(reason) = value {
            return failed(&**reason);
        }
        if let Some(found) = self.own_item(value, key)? {
            return Ok(if matches!(value, Value::Markup(_)) { as_markup(found) } else { found });
        }
        if let Some(name) = key.as_str()
            && let Some(found) = self.own_attribute(value, name)?
        {
            return Ok(found);
        }
        let key = self.repr(key)?;
        Ok(missing(value, &format!("element {key}")))
    }

    fn own_item(&mut self, value: &Value, key: &Value) -> Result<Option<Value>> {
        if let Value::Dict(dict) = value {
            // A key that cannot be one is in no dict.
            return Ok(self.key(key).ok().and_then(|key| dict.get(&key).cloned()));
        }
        let Some(index) = key.as_int() else { return Ok(None) };
        let place = |length: usize| {
            let index = if index < 0 { index.checked_add(length as i128)? } else { index };
            usize::try_from(index).ok().filter(|index| *index < length)
        };
        Ok(match value {
            Value::List(list) | Value::Tuple(list) => place(list.items.len()).map(|at| list.items[at].clone()),
            Value::Range(range) => place(range.count).map(|at| range.get(at)),
            Value::Str(text) | Value::Markup(text) => {
                self.step(text.len() / 64)?;
                let found = place(text.chars().count()).and_then(|at| text.chars().nth(at));
                found.map(|c| Value::from(c.encode_utf8(&mut [0; 4]) as &str))
            }
            _ => None,
        })
    }

    /// What Python's `getattr` finds.
    fn own_attribute(&mut self, value: &Value, name: &str) -> Result<Option<Value>> {
        if let Value::Undefined(reason) = value {
            return failed(&**reason);
        }
        if let Some((method, changes)) = method_of(value, name) {
            if changes {
                return Ok(Some(Value::Undefined(
                    format!("{}.{name} changes its object, which templates may not", value.type_name()).into(),
                )));
            }
            return Ok(Some(Value::Object(Object(Kind::Method(Arc::new((value.clone(), method)))))));
        }
        let Value::Object(Object(kind)) = value else {
            return Ok(match (value, name) {
                (Value::Tuple(list), "grouper") if list.group => list.items.first().cloned(),
                (Value::Tuple(list), "list") if list.group => list.items.get(1).cloned(),
                (Value::Int(_) | Value::Bool(_), "real" | "numerator") => value.as_int().map(Value::Int),
                (Value::Int(_) | Value::Bool(_), "imag") => Some(Value::Int(0)),
                (Value::Int(_) | Value::Bool(_), "denominator") => Some(Value::Int(1)),
                (Value::Float(number), "real") => Some(Value::Float(*number)),
                (Value::Float(_), "imag") => Some(Value::Float(0.0)),
                (Value::Range(range), "start") => Some(Value::Int(range.start)),
                (Value::Range(range), "stop") => Some(Value::Int(range.stop)),
                (Value::Range(range), "step") => Some(Value::Int(range.step)),
                _ => None,
            });
        };
        Ok(match kind {
            Kind::Namespace(at) => {
                let names = self.namespaces[*at].iter();
                names.clone().find(|(known, _)| **known == *name).map(|(_, value)| value.clone())
            }
            Kind::Loop(at) => self.loop_attribute(*at, name),
            Kind::Macro(at) if name == "name" => {
                let (definition, _) = self.closures[*at];
                Some(Value::Str(self.program.macros[definition].name.clone()))
            }
            Kind::Cycler(at) if name == "current" => {
                let (items, index) = &self.cyclers[*at];
                items.get(*index).cloned()
            }
            _ => None,
        })
    }

    fn loop_attribute(&self, at: usize, name: &str) -> Option<Value> {
        let running = self.loops.get(at)?;
        let (index, length) = (running.index, running.items.len());
        Some(match name {
            "index" => (index + 1).into(),
            "index0" => index.into(),
            "revindex" => (length - index).into(),
            "revindex0" => (length - index - 1).into(),
            "first" => (index == 0).into(),
            "last" => (index + 1 == length).into(),
            "length" => length.into(),
            "depth" => (running.depth + 1).into(),
            "depth0" => running.depth.into(),
            "previtem" => match index.checked_sub(1) {
                Some(before) => running.items[before].clone(),
                None => Value::Undefined("there is no previous item".into()),
            },
            "nextitem" => match running.items.get(index + 1) {
                Some(after) => after.clone(),
                None => Value::Undefined("there is no next item".into()),
            },
            _ => return None,
        })
    }

    /// `value[start:stop:step]`
    #[inline(never)]
    pub(super) fn slice(&mut self, value: &Value, bounds: [Option<Value>; 3]) -> Result<Value> {
        let mut numbers = [None; 3];
        for (number, bound) in numbers.iter_mut().zip(&bounds) {
            *number = match bound {
                None | Some(Value::None) => None,
                Some(bound) => match bound.as_int() {
                    Some(bound) => Some(bound),
                    None => return failed("the parts of a slice are whole numbers or none"),
                },
            };
        }
        let [start, stop, step] = numbers;
        let step = step.unwrap_or(1);
        if step == 0 {
            return failed("the step of a slice cannot be zero");
        }
        let length = match value {
            Value::Undefined(reason) => return failed(&**reason),
            Value::Str(_) | Value::Markup(_) | Value::List(_) | Value::Tuple(_) | Value::Range(_) => {
                self.length(value)?
            }
            other => return failed(format!("{} cannot be sliced", other.type_name())),
        };
        if let Value::Markup(text) = value {
            return self.slice(&Value::Str(text.clone()), bounds).map(as_markup);
        }
        self.step(value.size())?;
        let part = Slice::new(length, start, stop, step);
        match value {
            Value::Str(text) => {
                self.charge(text.len())?;
                if part.step == 1 {
                    let slice: String = text.chars().skip(part.start).take(part.count).collect();
                    return Ok(slice.into());
                }
                self.charge(4 * length)?;
                let chars: Vec<char> = text.chars().collect();
                Ok(part.places().filter_map(|at| chars.get(at)).collect::<String>().into())
            }
            Value::Range(range) => Ok(Value::Range(Range {
                start: range.start.saturating_add(range.step.saturating_mul(part.start as i128)),
                stop: range.start.saturating_add(range.step.saturating_mul(part.stop)),
                step: range.step.saturating_mul(part.step),
                count: part.count,
            })),
            Value::List(list) => self.list(part.places().filter_map(|at| list.items.get(at).cloned()).collect()),
            Value::Tuple(list) => self.tuple(part.places().filter_map(|at| list.items.get(at).cloned()).collect()),
            _ => Ok(Value::None),
        }
    }
}

/// Which items a slice takes.
#[derive(Debug, PartialEq)]
struct Slice {
    start: usize,
    /// Where it ends, -1 for before the first.
    stop: i128,
    step: i128,
    count: usize,
}

impl Slice {
    /// Places before the start count from the end; all are brought within the length, then counted. `step` is not 0.
    fn new(length: usize, start: Option<i128>, stop: Option<i128>, step: i128) -> Self {
        let length = length as i128;
        let (first, last) = if step > 0 { (0, length) } else { (-1, length - 1) };
        let place = |at: i128| (if at < 0 { at.saturating_add(length) } else { at }).clamp(first, last);
        let (from, to) = if step > 0 { (first, last) } else { (last, first) };
        let (from, to) = (start.map_or(from, place), stop.map_or(to, place));
        let distance = if step > 0 { to - from } else { from - to };
        let count = if distance > 0 { (distance - 1) / step.saturating_abs() + 1 } else { 0 };
        Slice { start: from.max(0) as usize, stop: to, step, count: count as usize }
    }

    fn places(&self) -> impl Iterator<Item = usize> {
        let (start, step) = (self.start as i128, self.step);
        (0..self.count as i128).map(move |index| (start + step * index) as usize)
    }
}

fn missing(value: &Value, what: &str) -> Value {
    Value::Undefined(format!("{} has no {what}", value.type_name()).into())
}
