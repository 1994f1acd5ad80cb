//! Expressions, and calls of what they name.

use super::ast::{Arguments, Comparison, Expr, Filter, Name, Step};
use super::run::{CALL_FRAMES, Run};
use super::value::{Kind, Object, Value};
use super::{Result, failed};

/// The arguments of a call, evaluated.
#[derive(Default)]
pub(super) struct Called {
    pub positional: Vec<Value>,
    pub named: Vec<(Name, Value)>,
}

impl Called {
    pub(super) fn of(positional: Vec<Value>) -> Self {
        Called { positional, named: Vec::new() }
    }

    /// The arguments by the names of the parameters; `None` for those that were not given.
    pub(super) fn bind<const N: usize>(self, function: &str, names: [&str; N]) -> Result<[Option<Value>; N]> {
        let mut bound = [const { None }; N];
        if self.positional.len() > N {
            return failed(format!("{function} takes {N} arguments at most, {} were given", self.positional.len()));
        }
        for (slot, value) in bound.iter_mut().zip(self.positional) {
            *slot = Some(value);
        }
        for (name, value) in self.named {
            match names.iter().position(|known| *known == &*name) {
                Some(at) if bound[at].is_none() => bound[at] = Some(value),
                Some(_) => return failed(format!("{function} got argument {name:?} twice")),
                None => return failed(format!("{function} has no argument {name:?}")),
            }
        }
        Ok(bound)
    }

    /// Fails unless there are no arguments.
    pub(super) fn none(self, function: &str) -> Result<()> {
        self.bind::<0>(function, []).map(drop)
    }
}

impl<'p> Run<'p> {
    pub(super) fn evaluate(&mut self, expression: &'p Expr) -> Result<Value> {
        match expression {
            Expr::Const(value) => Ok(value.clone()),
            Expr::Name(name) => Ok(self.name(name)),
            other => self.deeper(|run| {
                run.step(1)?;
                run.compound(other)
            }),
        }
    }

    fn name(&mut self, name: &Name) -> Value {
        if let Some(value) = self.lookup(name) {
            return value;
        }
        match self.global(name) {
            Some(value) => value,
            None => Value::Undefined(format!("{name:?} is undefined").into()),
        }
    }

    fn compound(&mut self, expression: &'p Expr) -> Result<Value> {
        match expression {
            Expr::Const(_) | Expr::Name(_) => self.evaluate(expression),
            Expr::List(items) => {
                let items = self.each(items)?;
                self.list(items)
            }
            Expr::Tuple(items) => {
                let items = self.each(items)?;
                self.tuple(items)
            }
            Expr::Dict(entries) => {
                let mut pairs = Vec::with_capacity(entries.len());
                for (key, value) in entries {
                    pairs.push((self.evaluate(key)?, self.evaluate(value)?));
                }
                self.dict(pairs)
            }
            Expr::Negative(value) => {
                let value = self.evaluate(value)?;
                self.negative(&value)
            }
            Expr::Positive(value) => {
                let value = self.evaluate(value)?;
                self.positive(&value)
            }
            Expr::Not(value) => {
                let value = self.evaluate(value)?;
                Ok(Value::Bool(!self.truth(&value)))
            }
            Expr::Arithmetic(first, links) => {
                let mut value = self.evaluate(first)?;
                for (operator, right) in links {
                    let right = self.evaluate(right)?;
                    value = self.arithmetic(value, *operator, right)?;
                }
                Ok(value)
            }
            Expr::Concat(parts) => {
                let mut text = String::new();
                for part in parts {
                    let part = self.evaluate(part)?;
                    let part = self.string(&part)?;
                    self.charge(part.len())?;
                    text.push_str(&part);
                }
                Ok(text.into())
            }
            Expr::And(parts) => self.until(parts, false),
            Expr::Or(parts) => self.until(parts, true),
            Expr::Compare(first, links) => self.chain(first, links),
            Expr::If { condition, then, otherwise } => {
                let condition = self.evaluate(condition)?;
                if self.truth(&condition) {
                    return self.evaluate(then);
                }
                match otherwise {
                    Some(otherwise) => self.evaluate(otherwise),
                    None => Ok(Value::Undefined("a condition without else was false".into())),
                }
            }
            Expr::Postfix(value, steps) => {
                let mut value = self.evaluate(value)?;
                for step in steps {
                    value = self.postfix(value, step)?;
                }
                Ok(value)
            }
        }
    }

    fn each(&mut self, items: &'p [Expr]) -> Result<Vec<Value>> {
        items.iter().map(|item| self.evaluate(item)).collect()
    }

    /// The first value whose truth is as given, else the last.
    fn until(&mut self, parts: &'p [Expr], truth: bool) -> Result<Value> {
        let mut value = Value::None;
        for part in parts {
            value = self.evaluate(part)?;
            if self.truth(&value) == truth {
                break;
            }
        }
        Ok(value)
    }

    #[inline(never)]
    fn chain(&mut self, first: &'p Expr, links: &'p [(Comparison, Expr)]) -> Result<Value> {
        let mut left = self.evaluate(first)?;
        for (comparison, right) in links {
            let right = self.evaluate(right)?;
            if !self.compare(&left, *comparison, &right)? {
                return Ok(Value::Bool(false));
            }
            left = right;
        }
        Ok(Value::Bool(true))
    }

    #[inline(never)]
    fn postfix(&mut self, value: Value, step: &'p Step) -> Result<Value> {
        self.step(1)?;
        match step {
            Step::Attribute(name) => self.attribute(&value, name),
            Step::Item(key) => {
                let key = self.evaluate(key)?;
                self.item(&value, &key)
            }
            Step::Slice(parts) => {
                let mut bounds = [const { None }; 3];
                for (bound, part) in bounds.iter_mut().zip(parts.iter()) {
                    if let Some(part) = part {
                        *bound = Some(self.evaluate(part)?);
                    }
                }
                self.slice(&value, bounds)
            }
            Step::Call(arguments) => {
                let called = self.arguments(arguments)?;
                self.call(&value, called)
            }
            Step::Filter(filter) => self.apply_filter(filter, value),
            Step::Test { name, arguments, negated } => {
                let called = self.arguments(arguments)?;
                Ok(Value::Bool(self.check(name, &value, called)? != *negated))
            }
        }
    }

    pub(super) fn apply_filter(&mut self, filter: &'p Filter, value: Value) -> Result<Value> {
        let called = self.arguments(&filter.arguments)?;
        self.filter(&filter.name, value, called)
    }

    #[inline(never)]
    pub(super) fn arguments(&mut self, arguments: &'p Arguments) -> Result<Called> {
        let mut called = Called::of(self.each(&arguments.positional)?);
        for (name, value) in &arguments.named {
            called.named.push((name.clone(), self.evaluate(value)?));
        }
        if let Some(star) = &arguments.star {
            let items = self.evaluate(star)?;
            called.positional.extend(self.iterate(&items)?);
        }
        if let Some(star_star) = &arguments.star_star {
            let Value::Dict(dict) = self.evaluate(star_star)? else { return failed("** wants a dict") };
            for (name, value) in &dict.entries {
                let Some(name) = name.as_str() else { return failed("** wants a dict whose keys are texts") };
                called.named.push((name.into(), value.clone()));
            }
        }
        Ok(called)
    }

    #[inline(never)]
    pub(super) fn call(&mut self, function: &Value, called: Called) -> Result<Value> {
        let Value::Object(Object(kind)) = function else {
            return match function {
                Value::Undefined(reason) => failed(&**reason),
                other => failed(format!("{} object is not callable", other.type_name())),
            };
        };
        match kind {
            Kind::Global(name) => self.call_global(name, called),
            Kind::Method(method) => {
                let size = called.positional.iter().map(Value::size).sum::<usize>();
                self.step(method.0.size().saturating_add(size))?;
                self.call_method(&method.0, method.1, called)
            }
            Kind::Macro(at) => self.deeper_by(CALL_FRAMES, |run| run.call_macro(*at, called)),
            Kind::Joiner(at) => {
                called.none("joiner")?;
                let (separator, used) = &mut self.joiners[*at];
                let first = !std::mem::replace(used, true);
                Ok(if first { "".into() } else { separator.clone() })
            }
            Kind::Loop(at) => {
                let [items] = called.bind("loop", ["iterable"])?;
                let items = self.iterate(&items.unwrap_or_default())?;
                let Some(running) = self.loops.get(*at) else { return failed("the loop has ended") };
                let (depth, (of, scope)) = (running.depth + 1, running.of);
                if !self.program.loops[of].recursive {
                    return failed("a loop that calls itself must be marked: {% for ... recursive %}");
                }
                self.deeper_by(CALL_FRAMES, |run| run.recurse(of, items, depth, scope))
            }
            _ => failed(format!("{} object is not callable", function.type_name())),
        }
    }

    #[inline(never)]
    fn call_macro(&mut self, at: usize, mut called: Called) -> Result<Value> {
        let (at, scope) = self.closures[at];
        let program = self.program;
        let definition = &program.macros[at];
        let name = &definition.name;
        self.scoped(scope, |run| {
            if !definition.parameters.iter().any(|(name, _)| **name == *"caller")
                && let Some(at) = called.named.iter().position(|(name, _)| **name == *"caller")
            {
                let (name, caller) = called.named.swap_remove(at);
                run.set(&name, caller);
            }
            let mut rest = called.positional.into_iter();
            for (parameter, default) in &definition.parameters {
                let named = called.named.iter().position(|(name, _)| name == parameter);
                let value = match (rest.next(), named) {
                    (Some(_), Some(_)) => return failed(format!("macro {name} got argument {parameter:?} twice")),
                    (Some(value), None) => value,
                    (None, Some(at)) => called.named.remove(at).1,
                    (None, None) => match default {
                        Some(default) => run.evaluate(default)?,
                        None => Value::Undefined(format!("parameter {parameter:?} was not provided").into()),
                    },
                };
                run.set(parameter, value);
            }
            let rest: Vec<Value> = rest.collect();
            if definition.varargs {
                let rest = run.tuple(rest)?;
                run.set(&"varargs".into(), rest);
            } else if !rest.is_empty() {
                return failed(format!("macro {name} takes {} arguments at most", definition.parameters.len()));
            }
            if definition.kwargs {
                let pairs = called.named.into_iter().map(|(name, value)| (Value::Str(name), value)).collect();
                let named = run.dict(pairs)?;
                run.set(&"kwargs".into(), named);
            } else if let Some((unknown, _)) = called.named.first() {
                return failed(format!("macro {name} has no argument {unknown:?}"));
            }
            run.capture(|run| run.block(&definition.body))
        })
    }
}
