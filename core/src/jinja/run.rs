//! One rendering: what a template has set and written, what it may still spend, and its statements.

use super::ast::{Body, Call, Filter, For, Name, Node, Program, Statement, Target};
use super::value::{Dict, Key, Kind, List, Object, Value};
use super::{Fault, Result, failed};

/// Steps that a template may take. Real templates take about a hundred a message.
pub(crate) const MAX_STEPS: u64 = 10_000_000;
/// Bytes of texts, lists and dicts that a template may build, all that it dropped again included.
pub(crate) const MAX_BYTES: usize = 512 << 20;
/// Longest text, in bytes, that a template may produce.
pub(crate) const MAX_OUTPUT: usize = 64 << 20;
/// Deepest nesting of lists and dicts.
pub(super) const MAX_DEPTH: usize = 128;
/// Frames of expressions, statements and macros inside each other.
const MAX_FRAMES: usize = 300;
/// How many of them a call of a macro or of a loop counts for.
pub(super) const CALL_FRAMES: usize = 4;

pub(super) struct Run<'p> {
    pub(super) program: &'p Program,
    /// The result, and above it what is captured for macros and `{% set %}` blocks.
    out: Vec<String>,
    scopes: Vec<Scope>,
    /// The scope that names are set in.
    pub(super) scope: usize,
    /// Scopes below this stay, because a macro may look at them.
    kept: usize,
    pub(super) namespaces: Vec<Vec<(Name, Value)>>,
    pub(super) loops: Vec<Loop>,
    /// Macros that were defined: their place in the program, and the scope they see.
    pub(super) closures: Vec<(usize, usize)>,
    pub(super) cyclers: Vec<(Vec<Value>, usize)>,
    pub(super) joiners: Vec<(Value, bool)>,
    /// Items of generators; those that were read are gone.
    pub(super) generators: Vec<Option<Vec<Value>>>,
    pub(super) now: Option<i64>,
    steps: u64,
    bytes: usize,
    frames: usize,
    line: usize,
}

#[derive(Default)]
struct Scope {
    names: Vec<(Name, Value)>,
    parent: Option<usize>,
}

/// A loop that is running.
pub(super) struct Loop {
    pub items: Vec<Value>,
    pub index: usize,
    pub depth: usize,
    /// Its place in the program, and the scope around it.
    pub of: (usize, usize),
    pub changed: Option<Vec<Value>>,
}

/// How a statement ended.
#[derive(PartialEq)]
enum Flow {
    Next,
    Break,
    Continue,
}

impl<'p> Run<'p> {
    pub(super) fn new(program: &'p Program, variables: Vec<(Name, Value)>, now: Option<i64>) -> Self {
        Run {
            program,
            out: vec![String::new()],
            scopes: vec![Scope { names: variables, parent: None }],
            scope: 0,
            kept: 1,
            namespaces: Vec::new(),
            loops: Vec::new(),
            closures: Vec::new(),
            cyclers: Vec::new(),
            joiners: Vec::new(),
            generators: Vec::new(),
            now,
            steps: 0,
            bytes: 0,
            frames: 0,
            line: 0,
        }
    }

    pub(super) fn finish(mut self) -> Result<String, (usize, Fault)> {
        match self.body(&self.program.body) {
            Ok(_) => Ok(self.out.swap_remove(0)),
            Err(fault) => Err((self.line, fault)),
        }
    }

    /// Counts steps.
    pub(super) fn step(&mut self, steps: usize) -> Result<()> {
        self.steps = self.steps.saturating_add(steps as u64);
        if self.steps > MAX_STEPS { Err(Fault::Steps) } else { Ok(()) }
    }

    /// Counts bytes that are about to be built.
    pub(super) fn charge(&mut self, bytes: usize) -> Result<()> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > MAX_BYTES { Err(Fault::Bytes) } else { Ok(()) }
    }

    pub(super) fn charge_items(&mut self, items: usize) -> Result<()> {
        self.charge(items.saturating_mul(size_of::<Value>()))
    }

    pub(super) fn text(&mut self, text: impl Into<std::sync::Arc<str>>) -> Result<Value> {
        let text = text.into();
        self.charge(text.len())?;
        Ok(Value::Str(text))
    }

    /// A list, unless it is nested too deeply.
    pub(super) fn list(&mut self, items: Vec<Value>) -> Result<Value> {
        Ok(Value::List(self.items(items)?))
    }

    pub(super) fn tuple(&mut self, items: Vec<Value>) -> Result<Value> {
        Ok(Value::Tuple(self.items(items)?))
    }

    fn items(&mut self, items: Vec<Value>) -> Result<std::sync::Arc<List>> {
        self.charge_items(items.len() + 1)?;
        let list = List::new(items);
        too_deep(list.depth)?;
        Ok(list.into())
    }

    pub(super) fn dict(&mut self, pairs: Vec<(Value, Value)>) -> Result<Value> {
        self.charge_items(4 * pairs.len() + 1)?;
        let mut keyed: Vec<(Key, Value, Value)> = Vec::with_capacity(pairs.len());
        for (name, value) in pairs {
            keyed.push((self.key(&name)?, name, value));
        }
        let dict = Dict::new(keyed);
        too_deep(dict.depth)?;
        Ok(Value::Dict(dict.into()))
    }

    /// Items that can be read once.
    pub(super) fn generator(&mut self, items: Vec<Value>) -> Result<Value> {
        self.charge_items(items.len() + 1)?;
        too_deep(1 + items.iter().map(Value::depth).max().unwrap_or(0))?;
        self.generators.push(Some(items));
        Ok(Value::Object(Object(Kind::Generator(self.generators.len() - 1))))
    }

    pub(super) fn write(&mut self, text: &str) -> Result<()> {
        if self.out.len() > 1 {
            self.charge(text.len())?;
        }
        match self.out.last_mut() {
            Some(out) if text.len() <= MAX_OUTPUT - out.len() => {
                out.push_str(text);
                Ok(())
            }
            _ => Err(Fault::Output),
        }
    }

    /// What is written while the part runs.
    pub(super) fn capture(&mut self, part: impl FnOnce(&mut Self) -> Result<()>) -> Result<Value> {
        let line = self.line;
        self.out.push(String::new());
        part(self)?;
        self.line = line;
        Ok(Value::from(self.out.pop().unwrap_or_default()))
    }

    /// Runs a part one frame deeper.
    pub(super) fn deeper<T>(&mut self, part: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.deeper_by(1, part)
    }

    pub(super) fn deeper_by<T>(&mut self, frames: usize, part: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.frames + frames > MAX_FRAMES {
            return failed("macros, loops and expressions are nested too deeply; do they call themselves?");
        }
        self.frames += frames;
        let result = part(self);
        self.frames -= frames;
        result
    }

    pub(super) fn lookup(&self, name: &str) -> Option<Value> {
        let mut at = Some(self.scope);
        while let Some(scope) = at.and_then(|at| self.scopes.get(at)) {
            if let Some((_, value)) = scope.names.iter().find(|(known, _)| **known == *name) {
                return Some(value.clone());
            }
            at = scope.parent;
        }
        None
    }

    pub(super) fn set(&mut self, name: &Name, value: Value) {
        let names = &mut self.scopes[self.scope].names;
        match names.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => names.push((name.clone(), value)),
        }
    }

    /// Runs a part in a scope of its own inside the one given.
    pub(super) fn scoped<T>(&mut self, parent: usize, part: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let (before, here) = (self.scope, self.scopes.len());
        self.scopes.push(Scope { names: Vec::new(), parent: Some(parent) });
        self.scope = here;
        let result = part(self);
        self.scope = before;
        self.scopes.truncate(here.max(self.kept));
        if self.scopes.len() > here {
            self.charge_items(8)?;
        }
        result
    }

    /// A macro as a value; it sees what is set where it is defined.
    pub(super) fn closure(&mut self, at: usize) -> Result<Value> {
        self.kept = self.scopes.len();
        self.charge_items(1)?;
        self.closures.push((at, self.scope));
        Ok(Value::Object(Object(Kind::Macro(self.closures.len() - 1))))
    }

    pub(super) fn namespace_set(&mut self, at: usize, name: &Name, value: Value) -> Result<()> {
        if name.starts_with('_') {
            return failed(format!("a namespace has no attributes like {name:?}; leave out the underscore"));
        }
        self.charge_items(2)?;
        let names = &mut self.namespaces[at];
        match names.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => names.push((name.clone(), value)),
        }
        Ok(())
    }

    fn assign(&mut self, target: &Target, value: Value) -> Result<()> {
        match target {
            Target::Name(name) => {
                self.set(name, value);
                Ok(())
            }
            Target::Attribute(object, name) => match self.lookup(object) {
                Some(Value::Object(Object(Kind::Namespace(at)))) => self.namespace_set(at, name, value),
                _ => failed(format!("cannot assign attribute {name:?}: {object} is no namespace")),
            },
            Target::Tuple(targets) => {
                let items = self.iterate(&value)?;
                if items.len() != targets.len() {
                    return failed(format!("{} values for {} names", items.len(), targets.len()));
                }
                targets.iter().zip(items).try_for_each(|(target, item)| self.assign(target, item))
            }
        }
    }

    /// Runs the statements of a macro or of a block; `break` does not leave those.
    pub(super) fn block(&mut self, body: &'p [Statement]) -> Result<()> {
        self.body(body).map(drop)
    }

    fn body(&mut self, body: &'p [Statement]) -> Result<Flow> {
        self.deeper(|run| {
            for statement in body {
                run.step(1)?;
                run.line = statement.line;
                let flow = run.statement(&statement.node)?;
                if flow != Flow::Next {
                    return Ok(flow);
                }
            }
            Ok(Flow::Next)
        })
    }

    #[inline(never)]
    fn statement(&mut self, node: &'p Node) -> Result<Flow> {
        match node {
            Node::Text(text) => self.write(text)?,
            Node::Print(value) => self.print(value)?,
            Node::If(branches, otherwise) => return self.branch(branches, otherwise),
            Node::For(at) => return self.start_loop(*at),
            Node::Set(target, value) => {
                let value = self.evaluate(value)?;
                self.assign(target, value)?;
            }
            Node::SetBlock(target, filters, body) => self.set_block(target, filters, body)?,
            Node::With(targets, body) => return self.with(targets, body),
            Node::Macro(at) => {
                let value = self.closure(*at)?;
                self.set(&self.program.macros[*at].name, value);
            }
            Node::CallBlock(call, caller) => self.call_block(call, *caller)?,
            Node::FilterBlock(filters, body) => self.filter_block(filters, body)?,
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
            Node::NoLoader(word) => return failed(format!("{{% {word} %}}: a chat template has no other templates")),
        }
        Ok(Flow::Next)
    }

    fn print(&mut self, value: &'p super::ast::Expr) -> Result<()> {
        let value = self.evaluate(value)?;
        match &value {
            Value::Str(text) | Value::Markup(text) => self.write(text),
            value => {
                let text = self.string(value)?;
                self.write(&text)
            }
        }
    }

    fn branch(&mut self, branches: &'p [(super::ast::Expr, Body)], otherwise: &'p [Statement]) -> Result<Flow> {
        for (condition, body) in branches {
            let condition = self.evaluate(condition)?;
            if self.truth(&condition) {
                return self.body(body);
            }
        }
        self.body(otherwise)
    }

    fn with(&mut self, targets: &'p [(Target, super::ast::Expr)], body: &'p [Statement]) -> Result<Flow> {
        let mut values = Vec::new();
        for (_, value) in targets {
            values.push(self.evaluate(value)?);
        }
        self.scoped(self.scope, |run| {
            for ((target, _), value) in targets.iter().zip(values) {
                run.assign(target, value)?;
            }
            run.body(body)
        })
    }

    fn set_block(&mut self, target: &'p Target, filters: &'p [Filter], body: &'p [Statement]) -> Result<()> {
        let text = self.captured_block(filters, body)?;
        self.assign(target, text)
    }

    fn filter_block(&mut self, filters: &'p [Filter], body: &'p [Statement]) -> Result<()> {
        let text = self.captured_block(filters, body)?;
        let text = self.string(&text)?;
        self.write(&text)
    }

    #[inline(never)]
    fn captured_block(&mut self, filters: &'p [Filter], body: &'p [Statement]) -> Result<Value> {
        let mut value = self.capture(|run| run.scoped(run.scope, |run| run.block(body)))?;
        for filter in filters {
            value = self.apply_filter(filter, value)?;
        }
        Ok(value)
    }

    #[inline(never)]
    fn call_block(&mut self, call: &'p Call, caller: usize) -> Result<()> {
        let caller = self.closure(caller)?;
        let function = self.evaluate(&call.function)?;
        let mut called = self.arguments(&call.arguments)?;
        called.named.push(("caller".into(), caller));
        let result = self.call(&function, called)?;
        let text = self.string(&result)?;
        self.write(&text)
    }

    #[inline(never)]
    fn start_loop(&mut self, at: usize) -> Result<Flow> {
        let program = self.program;
        let items = self.evaluate(&program.loops[at].items)?;
        let items = self.iterate(&items)?;
        self.run_loop(at, items, 0)
    }

    /// Runs a loop again, for `loop(items)`.
    pub(super) fn recurse(&mut self, at: usize, items: Vec<Value>, depth: usize, scope: usize) -> Result<Value> {
        let before = std::mem::replace(&mut self.scope, scope);
        let text = self.capture(|run| run.run_loop(at, items, depth).map(drop));
        self.scope = before;
        text
    }

    #[inline(never)]
    fn run_loop(&mut self, at: usize, items: Vec<Value>, depth: usize) -> Result<Flow> {
        let program = self.program;
        let repeated = &program.loops[at];
        let items = self.wanted(repeated, items)?;
        let (count, here) = (items.len(), self.loops.len());
        self.loops.push(Loop { items, index: 0, depth, of: (at, self.scope), changed: None });
        // As in jinja2, a loop whose every turn was cut short by `break` or `continue` counts as one without items.
        let mut complete = false;
        for index in 0..count {
            self.step(1)?;
            self.loops[here].index = index;
            let item = self.loops[here].items[index].clone();
            let flow = self.scoped(self.scope, |run| {
                run.set(&"loop".into(), Value::Object(Object(Kind::Loop(here))));
                run.assign(&repeated.target, item)?;
                run.body(&repeated.body)
            })?;
            complete |= flow == Flow::Next;
            if flow == Flow::Break {
                break;
            }
        }
        self.loops.truncate(here);
        if complete {
            return Ok(Flow::Next);
        }
        self.scoped(self.scope, |run| run.body(&repeated.otherwise))
    }

    /// The items that a loop's `if` lets through.
    fn wanted(&mut self, repeated: &'p For, items: Vec<Value>) -> Result<Vec<Value>> {
        let Some(condition) = &repeated.condition else { return Ok(items) };
        let mut wanted = Vec::new();
        for item in items {
            self.step(1)?;
            let kept = self.scoped(self.scope, |run| {
                run.assign(&repeated.target, item.clone())?;
                let value = run.evaluate(condition)?;
                Ok(run.truth(&value))
            })?;
            if kept {
                wanted.push(item);
            }
        }
        Ok(wanted)
    }
}

fn too_deep(depth: usize) -> Result<()> {
    if depth <= MAX_DEPTH {
        return Ok(());
    }
    failed(format!("lists and dicts are nested more than {MAX_DEPTH} deep"))
}
