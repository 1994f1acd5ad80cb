//! Functions that every template has.

use super::evaluate::Called;
use super::run::Run;
use super::value::{Kind, Object, Range, Value};
use super::{Fault, Result, clock, failed};

/// Longest `range()`, as in jinja2's sandbox.
const MAX_RANGE: i128 = 100_000;

impl Run<'_> {
    pub(super) fn global(&self, name: &str) -> Option<Value> {
        let names = ["range", "dict", "namespace", "cycler", "joiner", "lipsum", "raise_exception", "strftime_now"];
        let known = names.into_iter().find(|known| *known == name)?;
        if known == "strftime_now" && self.now.is_none() {
            return None;
        }
        Some(Value::Object(Object(Kind::Global(known))))
    }

    #[inline(never)]
    pub(super) fn call_global(&mut self, name: &str, called: Called) -> Result<Value> {
        match name {
            "range" => range(called),
            "dict" => self.new_dict(called),
            "namespace" => {
                let Value::Dict(dict) = self.new_dict(called)? else { return failed("namespace wants a dict") };
                self.charge_items(4)?;
                self.namespaces.push(Vec::new());
                let at = self.namespaces.len() - 1;
                for (name, value) in &dict.entries {
                    let Value::Str(name) = name else { return failed("a namespace's names are texts") };
                    self.namespace_set(at, name, value.clone())?;
                }
                Ok(Value::Object(Object(Kind::Namespace(at))))
            }
            "cycler" => {
                if called.positional.is_empty() || !called.named.is_empty() {
                    return failed("cycler wants items, without names");
                }
                self.charge_items(called.positional.len())?;
                self.cyclers.push((called.positional, 0));
                Ok(Value::Object(Object(Kind::Cycler(self.cyclers.len() - 1))))
            }
            "joiner" => {
                let [separator] = called.bind(name, ["sep"])?;
                self.charge_items(1)?;
                self.joiners.push((separator.unwrap_or_else(|| ", ".into()), false));
                Ok(Value::Object(Object(Kind::Joiner(self.joiners.len() - 1))))
            }
            "raise_exception" => {
                let [message] = called.bind(name, ["message"])?;
                Err(Fault::Raised(self.string(&message.unwrap_or_default())?.to_string()))
            }
            "strftime_now" => {
                let [format] = called.bind(name, ["format"])?;
                let (Some(Value::Str(format)), Some(now)) = (format, self.now) else {
                    return failed("strftime_now wants a format");
                };
                // The longest name of a day or month is what a directive of two characters becomes at most.
                self.charge(format.len().saturating_mul(12))?;
                Ok(clock::strftime(&format, now).into())
            }
            other => failed(format!("{other} is not supported: a prompt must not depend on chance")),
        }
    }

    fn new_dict(&mut self, mut called: Called) -> Result<Value> {
        let named: Vec<_> = called.named.drain(..).collect();
        let [given] = called.bind("dict", ["mapping"])?;
        let mut pairs = Vec::new();
        match given {
            None => {}
            Some(Value::Dict(dict)) => pairs.extend(dict.entries.iter().cloned()),
            Some(other) => {
                for item in self.iterate(&other)? {
                    let pair = self.iterate(&item)?;
                    let [key, value] = pair.as_slice() else { return failed("dict wants pairs of key and value") };
                    pairs.push((key.clone(), value.clone()));
                }
            }
        }
        pairs.extend(named.into_iter().map(|(name, value)| (Value::Str(name), value)));
        self.dict(pairs)
    }
}

fn range(called: Called) -> Result<Value> {
    let mut numbers = Vec::new();
    for value in &called.positional {
        let Some(number) = value.as_int() else {
            return failed(format!("range wants whole numbers, not {}", value.type_name()));
        };
        numbers.push(number);
    }
    let (start, stop, step) = match (numbers.as_slice(), called.named.is_empty()) {
        ([stop], true) => (0, *stop, 1),
        ([start, stop], true) => (*start, *stop, 1),
        ([start, stop, step], true) => (*start, *stop, *step),
        _ => return failed("range wants one, two or three whole numbers"),
    };
    if step == 0 {
        return failed("the step of a range cannot be zero");
    }
    let distance = if step > 0 { stop.checked_sub(start) } else { start.checked_sub(stop) };
    let count = distance.map(|distance| if distance > 0 { (distance - 1) / step.saturating_abs() + 1 } else { 0 });
    match count {
        Some(count) if count <= MAX_RANGE => Ok(Value::Range(Range { start, stop, step, count: count as usize })),
        _ => failed(format!("a range has {MAX_RANGE} numbers at most")),
    }
}
