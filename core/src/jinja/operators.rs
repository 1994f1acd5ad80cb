//! Arithmetic, comparisons, truth and iteration, as Python has them.

use std::cmp::Ordering;
use std::sync::Arc;

use super::ast::{Comparison, Operator};
use super::run::Run;
use super::value::{Key, Kind, Object, Value, View};
use super::{Result, failed};

impl Run<'_> {
    pub(super) fn truth(&self, value: &Value) -> bool {
        match value {
            Value::Undefined(_) | Value::None => false,
            Value::Bool(value) => *value,
            Value::Int(value) => *value != 0,
            Value::Float(value) => *value != 0.0,
            Value::Str(text) | Value::Markup(text) => !text.is_empty(),
            Value::List(list) | Value::Tuple(list) => !list.items.is_empty(),
            Value::Dict(dict) => !dict.entries.is_empty(),
            Value::Range(range) => range.count > 0,
            Value::Object(Object(Kind::View(_, dict))) => !dict.entries.is_empty(),
            Value::Object(_) => true,
        }
    }

    /// `len(value)`
    pub(super) fn length(&self, value: &Value) -> Result<usize> {
        Ok(match value {
            Value::Undefined(_) => 0,
            Value::Str(text) | Value::Markup(text) => text.chars().count(),
            Value::List(list) | Value::Tuple(list) => list.items.len(),
            Value::Dict(dict) => dict.entries.len(),
            Value::Range(range) => range.count,
            Value::Object(Object(Kind::View(_, dict))) => dict.entries.len(),
            Value::Object(Object(Kind::Loop(at))) => self.loops.get(*at).map_or(0, |running| running.items.len()),
            other => return failed(format!("{} has no length", other.type_name())),
        })
    }

    /// The items that a loop over the value sees.
    pub(super) fn iterate(&mut self, value: &Value) -> Result<Vec<Value>> {
        self.step(value.size())?;
        match value {
            Value::Undefined(_) => Ok(Vec::new()),
            Value::Str(text) | Value::Markup(text) => {
                self.charge_items(text.len())?;
                Ok(text.chars().map(|c| Value::from(c.encode_utf8(&mut [0; 4]) as &str)).collect())
            }
            Value::List(list) | Value::Tuple(list) => {
                self.charge_items(list.items.len())?;
                Ok(list.items.clone())
            }
            Value::Dict(dict) => self.view(View::Keys, dict),
            Value::Range(range) => {
                self.charge_items(range.count)?;
                Ok(range.items().collect())
            }
            Value::Object(Object(Kind::View(view, dict))) => self.view(*view, dict),
            Value::Object(Object(Kind::Generator(at))) => Ok(self.generators[*at].take().unwrap_or_default()),
            other => failed(format!("{} is not iterable", other.type_name())),
        }
    }

    fn view(&mut self, view: View, dict: &super::value::Dict) -> Result<Vec<Value>> {
        self.charge_items(dict.entries.len())?;
        let entries = dict.entries.iter();
        match view {
            View::Keys => Ok(entries.map(|(key, _)| key.clone()).collect()),
            View::Values => Ok(entries.map(|(_, value)| value.clone()).collect()),
            View::Items => entries.map(|(key, value)| self.tuple(vec![key.clone(), value.clone()])).collect(),
        }
    }

    /// The value as a key of a dict; lists and dicts cannot be one.
    pub(super) fn key(&mut self, value: &Value) -> Result<Key> {
        self.step(1)?;
        Ok(match value {
            Value::Undefined(_) => Key::Undefined,
            Value::None => Key::None,
            Value::Bool(value) => Key::Int(i128::from(*value)),
            Value::Int(value) => Key::Int(*value),
            Value::Float(value) if value.fract() == 0.0 && value.abs() < 1e38 => Key::Int(*value as i128),
            Value::Float(value) => Key::Float(value.to_bits()),
            Value::Str(text) | Value::Markup(text) => Key::Str(text.clone()),
            Value::Tuple(list) => {
                self.charge_items(list.items.len())?;
                Key::Tuple(list.items.iter().map(|item| self.key(item)).collect::<Result<_>>()?)
            }
            Value::Range(range) => Key::Range(range.start, range.step, range.count),
            Value::Object(object) if !matches!(object.0, Kind::View(View::Keys | View::Items, _)) => {
                let (kind, at) = object.identity();
                Key::Object(kind, at)
            }
            other => return failed(format!("{} cannot be a key (unhashable type)", other.type_name())),
        })
    }

    pub(super) fn equal(&mut self, left: &Value, right: &Value) -> Result<bool> {
        self.step(1)?;
        Ok(match (left, right) {
            (Value::Undefined(_), Value::Undefined(_)) | (Value::None, Value::None) => true,
            (Value::Str(left) | Value::Markup(left), Value::Str(right) | Value::Markup(right)) => {
                self.step(left.len() / 64)?;
                left == right
            }
            (Value::List(left), Value::List(right)) | (Value::Tuple(left), Value::Tuple(right)) => {
                if left.items.len() != right.items.len() {
                    return Ok(false);
                }
                for (left, right) in left.items.iter().zip(&right.items) {
                    if !self.equal(left, right)? {
                        return Ok(false);
                    }
                }
                true
            }
            (Value::Dict(left), Value::Dict(right)) => {
                if left.entries.len() != right.entries.len() {
                    return Ok(false);
                }
                for (name, value) in &left.entries {
                    let key = self.key(name)?;
                    let Some(other) = right.get(&key) else { return Ok(false) };
                    if !self.equal(value, other)? {
                        return Ok(false);
                    }
                }
                true
            }
            (Value::Range(left), Value::Range(right)) => {
                left.count == right.count
                    && (left.count == 0 || left.start == right.start)
                    && (left.count < 2 || left.step == right.step)
            }
            (Value::Object(left), Value::Object(right)) => left.identity() == right.identity(),
            _ => number_order(left, right) == Some(Some(Ordering::Equal)),
        })
    }

    /// Which of two values comes first; `None` when they are equal in no order (nan).
    pub(super) fn order(&mut self, left: &Value, right: &Value) -> Result<Option<Ordering>> {
        self.step(1)?;
        if let Some(order) = number_order(left, right) {
            return Ok(order);
        }
        match (left, right) {
            (Value::Str(left) | Value::Markup(left), Value::Str(right) | Value::Markup(right)) => {
                self.step(left.len().min(right.len()) / 64)?;
                Ok(Some(left.cmp(right)))
            }
            (Value::List(left), Value::List(right)) | (Value::Tuple(left), Value::Tuple(right)) => {
                for (left, right) in left.items.iter().zip(&right.items) {
                    if !self.equal(left, right)? {
                        return self.order(left, right);
                    }
                }
                Ok(Some(left.items.len().cmp(&right.items.len())))
            }
            (Value::Undefined(reason), _) | (_, Value::Undefined(reason)) => failed(&**reason),
            _ => failed(format!("{} and {} have no order", left.type_name(), right.type_name())),
        }
    }

    /// Sorts as Python's `sorted`: stable, and an error where two keys have no order.
    pub(super) fn sort(&mut self, items: &mut [(Value, Value)], reverse: bool) -> Result<()> {
        let mut fault = None;
        items.sort_by(|(left, _), (right, _)| {
            if fault.is_some() {
                return Ordering::Equal;
            }
            match self.order(left, right) {
                Ok(order) if reverse => order.unwrap_or(Ordering::Equal).reverse(),
                Ok(order) => order.unwrap_or(Ordering::Equal),
                Err(error) => {
                    fault = Some(error);
                    Ordering::Equal
                }
            }
        });
        fault.map_or(Ok(()), Err)
    }

    pub(super) fn compare(&mut self, left: &Value, comparison: Comparison, right: &Value) -> Result<bool> {
        let order = match comparison {
            Comparison::Equal => return self.equal(left, right),
            Comparison::NotEqual => return Ok(!self.equal(left, right)?),
            Comparison::In => return self.contains(right, left),
            Comparison::NotIn => return Ok(!self.contains(right, left)?),
            _ => self.order(left, right)?,
        };
        Ok(match comparison {
            Comparison::Less => order == Some(Ordering::Less),
            Comparison::LessOrEqual => matches!(order, Some(Ordering::Less | Ordering::Equal)),
            Comparison::Greater => order == Some(Ordering::Greater),
            _ => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
        })
    }

    /// `item in container`
    pub(super) fn contains(&mut self, container: &Value, item: &Value) -> Result<bool> {
        self.step(container.size())?;
        match (container, item) {
            (Value::Str(text) | Value::Markup(text), Value::Str(part) | Value::Markup(part)) => {
                Ok(text.contains(&**part))
            }
            (Value::Str(_) | Value::Markup(_), other) => failed(format!("a text cannot contain {}", other.type_name())),
            (Value::Dict(dict) | Value::Object(Object(Kind::View(View::Keys, dict))), _) => {
                let key = self.key(item)?;
                Ok(dict.get(&key).is_some())
            }
            _ => {
                let items = self.iterate(container)?;
                for other in &items {
                    if self.equal(item, other)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
        }
    }

    pub(super) fn negative(&mut self, value: &Value) -> Result<Value> {
        match (value, value.as_int()) {
            (Value::Float(value), _) => Ok(Value::Float(-value)),
            (_, Some(value)) => whole(value.checked_neg()),
            (Value::Undefined(reason), _) => failed(&**reason),
            _ => failed(format!("- wants a number, not {}", value.type_name())),
        }
    }

    pub(super) fn positive(&mut self, value: &Value) -> Result<Value> {
        match (value, value.as_int()) {
            (Value::Float(value), _) => Ok(Value::Float(*value)),
            (_, Some(value)) => Ok(Value::Int(value)),
            (Value::Undefined(reason), _) => failed(&**reason),
            _ => failed(format!("+ wants a number, not {}", value.type_name())),
        }
    }

    #[inline(never)]
    pub(super) fn arithmetic(&mut self, left: Value, operator: Operator, right: Value) -> Result<Value> {
        for side in [&left, &right] {
            // Formatting is asked of the text on the left, which may print what is undefined.
            let formatted = operator == Operator::Modulo && left.as_str().is_some();
            if let (Value::Undefined(reason), false) = (side, formatted) {
                return failed(&**reason);
            }
        }
        match (operator, &left, &right) {
            (Operator::Add, Value::Str(left), Value::Str(right)) => {
                self.charge(left.len() + right.len())?;
                Ok([&**left, &**right].concat().into())
            }
            (Operator::Add, Value::Markup(_), Value::Str(_) | Value::Markup(_))
            | (Operator::Add, Value::Str(_), Value::Markup(_)) => {
                let (left, right) = (self.escaped(&left)?, self.escaped(&right)?);
                self.charge(left.len() + right.len())?;
                Ok(Value::Markup([&*left, &*right].concat().into()))
            }
            (Operator::Add, Value::List(left), Value::List(right)) => {
                self.step((left.items.len() + right.items.len()) / 8)?;
                self.list(left.items.iter().chain(&right.items).cloned().collect())
            }
            (Operator::Add, Value::Tuple(left), Value::Tuple(right)) => {
                self.step((left.items.len() + right.items.len()) / 8)?;
                self.tuple(left.items.iter().chain(&right.items).cloned().collect())
            }
            (Operator::Multiply, Value::Str(_) | Value::Markup(_) | Value::List(_) | Value::Tuple(_), _)
                if right.as_int().is_some() =>
            {
                self.repeat(&left, right.as_int().unwrap_or(0))
            }
            (Operator::Multiply, _, Value::Str(_) | Value::Markup(_) | Value::List(_) | Value::Tuple(_))
                if left.as_int().is_some() =>
            {
                self.repeat(&right, left.as_int().unwrap_or(0))
            }
            (Operator::Modulo, Value::Str(text), _) => self.percent(&Arc::clone(text), &right),
            (Operator::Modulo, Value::Markup(text), _) => {
                let right = self.markup_arguments(&right)?;
                let text = self.percent(&Arc::clone(text), &right)?;
                Ok(as_markup(text))
            }
            _ => numbers(&left, operator, &right),
        }
    }

    /// The value as HTML.
    pub(super) fn escaped(&mut self, value: &Value) -> Result<Arc<str>> {
        let text = self.string(value)?;
        if matches!(value, Value::Markup(_)) {
            return Ok(text);
        }
        let mut out = String::new();
        for c in text.chars() {
            match c {
                '&' => out.push_str("&amp;"),
                '<' => out.push_str("&lt;"),
                '>' => out.push_str("&gt;"),
                '\'' => out.push_str("&#39;"),
                '"' => out.push_str("&#34;"),
                c => out.push(c),
            }
        }
        self.charge(out.len())?;
        Ok(out.into())
    }

    /// What is put into HTML: texts are escaped, numbers are not.
    pub(super) fn markup_arguments(&mut self, value: &Value) -> Result<Value> {
        self.step(1)?;
        Ok(match value {
            Value::Str(_) => Value::Markup(self.escaped(value)?),
            Value::Tuple(list) => {
                let items = list.items.iter().map(|item| self.markup_arguments(item)).collect::<Result<_>>()?;
                self.tuple(items)?
            }
            Value::List(list) => {
                let items = list.items.iter().map(|item| self.markup_arguments(item)).collect::<Result<_>>()?;
                self.list(items)?
            }
            Value::Dict(dict) => {
                let mut pairs = Vec::new();
                for (key, value) in &dict.entries {
                    pairs.push((key.clone(), self.markup_arguments(value)?));
                }
                self.dict(pairs)?
            }
            other => other.clone(),
        })
    }

    fn repeat(&mut self, value: &Value, times: i128) -> Result<Value> {
        let times = usize::try_from(times.max(0)).unwrap_or(usize::MAX);
        match value {
            Value::Str(text) | Value::Markup(text) => {
                self.charge(text.len().saturating_mul(times))?;
                let repeated = Value::from(text.repeat(if text.is_empty() { 0 } else { times }));
                Ok(if matches!(value, Value::Markup(_)) { as_markup(repeated) } else { repeated })
            }
            Value::List(list) | Value::Tuple(list) => {
                let times = if list.items.is_empty() { 0 } else { times };
                let count = list.items.len().saturating_mul(times);
                self.charge_items(count)?;
                self.step(count / 8)?;
                let items = list.items.iter().cycle().take(count).cloned().collect();
                if matches!(value, Value::List(_)) { self.list(items) } else { self.tuple(items) }
            }
            other => failed(format!("{} cannot be repeated", other.type_name())),
        }
    }
}

/// Texts in the value, marked as HTML.
pub(super) fn as_markup(value: Value) -> Value {
    match value {
        Value::Str(text) => Value::Markup(text),
        Value::List(list) => Value::list(list.items.iter().cloned().map(as_markup).collect()),
        Value::Tuple(list) => Value::tuple(list.items.iter().cloned().map(as_markup).collect()),
        other => other,
    }
}

fn whole(number: Option<i128>) -> Result<Value> {
    match number {
        Some(number) => Ok(Value::Int(number)),
        None => failed("a whole number became larger than 128 bits"),
    }
}

/// The order of two numbers, if both are: `None` in it for nan.
fn number_order(left: &Value, right: &Value) -> Option<Option<Ordering>> {
    match (left.as_int(), right.as_int()) {
        (Some(left), Some(right)) => Some(Some(left.cmp(&right))),
        _ => Some(left.as_f64()?.partial_cmp(&right.as_f64()?)),
    }
}

fn numbers(left: &Value, operator: Operator, right: &Value) -> Result<Value> {
    let sign = operator.sign();
    let (Some(x), Some(y)) = (left.as_f64(), right.as_f64()) else {
        return failed(format!("{sign} does not work between {} and {}", left.type_name(), right.type_name()));
    };
    if matches!(operator, Operator::Divide | Operator::FloorDivide | Operator::Modulo) && y == 0.0 {
        return failed("division by zero");
    }
    if let (Some(x), Some(y)) = (left.as_int(), right.as_int()) {
        match operator {
            Operator::Add => return whole(x.checked_add(y)),
            Operator::Subtract => return whole(x.checked_sub(y)),
            Operator::Multiply => return whole(x.checked_mul(y)),
            Operator::FloorDivide => {
                let floor = |quotient: i128| if x % y != 0 && (x < 0) != (y < 0) { quotient - 1 } else { quotient };
                return whole(x.checked_div(y).map(floor));
            }
            Operator::Modulo => {
                let rest = x.checked_rem(y).unwrap_or(0);
                return Ok(Value::Int(if rest != 0 && (rest < 0) != (y < 0) { rest + y } else { rest }));
            }
            Operator::Power if y >= 0 => {
                let power = match (x, u32::try_from(y)) {
                    (_, Ok(y)) => x.checked_pow(y),
                    (0 | 1, _) => Some(x),
                    (-1, _) => Some(if y % 2 == 0 { 1 } else { -1 }),
                    _ => None,
                };
                return whole(power);
            }
            _ => {}
        }
    }
    Ok(Value::Float(match operator {
        Operator::Add => x + y,
        Operator::Subtract => x - y,
        Operator::Multiply => x * y,
        Operator::Divide => x / y,
        Operator::FloorDivide => {
            let rest = modulo(x, y);
            ((x - rest) / y).round()
        }
        Operator::Modulo => modulo(x, y),
        Operator::Power if x == 0.0 && y < 0.0 => return failed("zero to a negative power"),
        Operator::Power if x < 0.0 && y.fract() != 0.0 => return failed("the power is a complex number"),
        Operator::Power => libm::pow(x, y),
    }))
}

/// The rest that has the divisor's sign.
fn modulo(x: f64, y: f64) -> f64 {
    let rest = x % y;
    if rest != 0.0 && (rest < 0.0) != (y < 0.0) {
        rest + y
    } else if rest == 0.0 {
        0f64.copysign(y)
    } else {
        rest
    }
}
