//! The values of templates, which are Python's: what is equal, true and hashable follows Python 3.
//!
//! Values are plain data that share what they hold. What changes while a template runs (namespaces, loops, cyclers,
//! generators) lives in the [`Run`](super::run::Run); a value has only its number. So values form no cycles, and
//! none is nested more deeply than it says, which bounds every recursion over them.

use std::collections::BTreeMap;
use std::sync::Arc;

/// A value of a template.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Value {
    /// What a missing variable, attribute or item is; the text says what is missing.
    Undefined(Arc<str>),
    /// `none`.
    #[default]
    None,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number. Python's have no limit; here a result beyond 128 bits is an error.
    Int(i128),
    /// A floating-point number.
    Float(f64),
    /// A text.
    Str(Arc<str>),
    /// A text that is HTML already, as filters like `safe` and `escape` make it. A plain text that is added to it is
    /// escaped.
    Markup(Arc<str>),
    /// A list.
    List(Arc<List>),
    /// A tuple.
    Tuple(Arc<List>),
    /// A dict, in the order of insertion.
    Dict(Arc<Dict>),
    /// What `range()` gives.
    Range(Range),
    /// What only the engine makes.
    Object(Object),
}

/// The items of a list or a tuple.
#[derive(Debug, Default)]
pub struct List {
    pub(super) items: Vec<Value>,
    pub(super) depth: usize,
    /// A pair of `groupby`, whose halves are named `grouper` and `list`.
    pub(super) group: bool,
}

/// The entries of a dict.
#[derive(Debug, Default)]
pub struct Dict {
    pub(super) entries: Vec<(Value, Value)>,
    index: BTreeMap<Key, usize>,
    pub(super) depth: usize,
}

/// The numbers of a `range()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub(super) start: i128,
    pub(super) stop: i128,
    pub(super) step: i128,
    pub(super) count: usize,
}

/// What the engine makes for a template: functions, methods, namespaces, loops.
#[derive(Clone, Debug)]
pub struct Object(pub(super) Kind);

#[derive(Clone, Debug)]
pub(super) enum Kind {
    Namespace(usize),
    Loop(usize),
    Macro(usize),
    Cycler(usize),
    Joiner(usize),
    Generator(usize),
    View(View, Arc<Dict>),
    /// A function that every template has.
    Global(&'static str),
    Method(Arc<(Value, &'static str)>),
}

/// What of a dict a view shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    Keys,
    Values,
    Items,
}

/// A hashable value; those that Python takes for equal are equal here.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Undefined,
    None,
    Int(i128),
    /// The bits of a float that is no whole number.
    Float(u64),
    Str(Arc<str>),
    Tuple(Vec<Key>),
    /// The kind of an object of the engine, and its number.
    Object(u8, usize),
    Range(i128, i128, usize),
}

impl List {
    pub(super) fn new(items: Vec<Value>) -> Self {
        let depth = 1 + items.iter().map(Value::depth).max().unwrap_or(0);
        List { items, depth, group: false }
    }
}

impl Dict {
    /// Later entries take the place of earlier ones of the same key.
    pub(super) fn new(pairs: impl IntoIterator<Item = (Key, Value, Value)>) -> Self {
        let mut dict = Dict { entries: Vec::new(), index: BTreeMap::new(), depth: 1 };
        for (key, name, value) in pairs {
            dict.depth = dict.depth.max(1 + value.depth()).max(1 + name.depth());
            match dict.index.get(&key) {
                Some(&at) => dict.entries[at].1 = value,
                None => {
                    dict.index.insert(key, dict.entries.len());
                    dict.entries.push((name, value));
                }
            }
        }
        dict
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Value> {
        self.index.get(key).map(|&at| &self.entries[at].1)
    }

    pub(super) fn get_str(&self, name: &str) -> Option<&Value> {
        self.get(&Key::Str(name.into()))
    }
}

impl Range {
    pub(super) fn get(&self, index: usize) -> Value {
        Value::Int(self.start + self.step * index as i128)
    }

    pub(super) fn items(self) -> impl Iterator<Item = Value> {
        (0..self.count).map(move |index| self.get(index))
    }
}

impl Value {
    /// A dict of these entries, in this order.
    pub fn from_pairs<N: Into<Arc<str>>, V: Into<Value>>(pairs: impl IntoIterator<Item = (N, V)>) -> Self {
        Value::Dict(Arc::new(Dict::new(pairs.into_iter().map(|(name, value)| {
            let name: Arc<str> = name.into();
            (Key::Str(name.clone()), Value::Str(name), value.into())
        }))))
    }

    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::Str(text) | Value::Markup(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn list(items: Vec<Value>) -> Self {
        Value::List(Arc::new(List::new(items)))
    }

    pub(super) fn tuple(items: Vec<Value>) -> Self {
        Value::Tuple(Arc::new(List::new(items)))
    }

    pub(super) fn is_undefined(&self) -> bool {
        matches!(self, Value::Undefined(_))
    }

    pub(super) fn is_none(&self) -> bool {
        matches!(self, Value::None)
    }

    /// How deeply lists and dicts are nested in it.
    pub(super) fn depth(&self) -> usize {
        match self {
            Value::List(list) | Value::Tuple(list) => list.depth,
            Value::Dict(dict) => dict.depth,
            Value::Object(Object(Kind::View(_, dict))) => dict.depth,
            Value::Object(Object(Kind::Method(method))) => 1 + method.0.depth(),
            _ => 0,
        }
    }

    /// About how many steps it takes to read once.
    pub(super) fn size(&self) -> usize {
        match self {
            Value::Str(text) | Value::Markup(text) => text.len() / 64,
            Value::List(list) | Value::Tuple(list) => list.items.len() / 8,
            Value::Dict(dict) => dict.entries.len() / 8,
            Value::Range(range) => range.count / 8,
            _ => 0,
        }
    }

    /// The type's name in Python.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Value::Undefined(_) => "Undefined",
            Value::None => "NoneType",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Float(_) => "float",
            Value::Str(_) => "str",
            Value::Markup(_) => "Markup",
            Value::List(_) => "list",
            Value::Tuple(_) => "tuple",
            Value::Dict(_) => "dict",
            Value::Range(_) => "range",
            Value::Object(Object(kind)) => match kind {
                Kind::Namespace(_) => "Namespace",
                Kind::Loop(_) => "LoopContext",
                Kind::Macro(_) => "Macro",
                Kind::Cycler(_) => "Cycler",
                Kind::Joiner(_) => "Joiner",
                Kind::Generator(_) => "generator",
                Kind::View(View::Keys, _) => "dict_keys",
                Kind::View(View::Values, _) => "dict_values",
                Kind::View(View::Items, _) => "dict_items",
                Kind::Global(_) => "function",
                Kind::Method(_) => "builtin_function_or_method",
            },
        }
    }

    /// A number as it counts in arithmetic: booleans are 0 and 1.
    pub(super) fn as_int(&self) -> Option<i128> {
        match self {
            Value::Bool(value) => Some(i128::from(*value)),
            Value::Int(value) => Some(*value),
            _ => None,
        }
    }

    pub(super) fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Float(value) => Some(*value),
            other => other.as_int().map(|value| value as f64),
        }
    }
}

impl Object {
    /// What tells it from others of its kind.
    pub(super) fn identity(&self) -> (u8, usize) {
        match &self.0 {
            Kind::Namespace(at) => (0, *at),
            Kind::Loop(at) => (1, *at),
            Kind::Macro(at) => (2, *at),
            Kind::Cycler(at) => (3, *at),
            Kind::Joiner(at) => (4, *at),
            Kind::Generator(at) => (5, *at),
            Kind::View(view, dict) => (6 + *view as u8, Arc::as_ptr(dict) as usize),
            Kind::Global(name) => (9, name.as_ptr() as usize),
            Kind::Method(method) => (10, Arc::as_ptr(method) as usize),
        }
    }
}

impl From<()> for Value {
    fn from((): ()) -> Self {
        Value::None
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Value::Bool(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Value::Float(value)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Str(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Value::Str(text.into())
    }
}

macro_rules! from_integers {
    ($($kind:ty)*) => {
        $(impl From<$kind> for Value {
            fn from(value: $kind) -> Self {
                Value::Int(value as i128)
            }
        })*
    };
}

from_integers!(i32 u32 i64 u64 usize i128);

impl<T: Into<Value>> From<Vec<T>> for Value {
    fn from(items: Vec<T>) -> Self {
        items.into_iter().collect()
    }
}

impl<T: Into<Value>> FromIterator<T> for Value {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Value::list(items.into_iter().map(Into::into).collect())
    }
}

#[cfg(feature = "json")]
mod json {
    use std::fmt;
    use std::sync::Arc;

    use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

    use super::{Dict, Key, Value};

    impl<'de> Deserialize<'de> for Value {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_any(Any)
        }
    }

    struct Any;

    impl<'de> Visitor<'de> for Any {
        type Value = Value;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a JSON value")
        }

        fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
            Ok(value.into())
        }

        fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
            Ok(value.into())
        }

        fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
            Ok(value.into())
        }

        fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
            Ok(value.into())
        }

        fn visit_str<E>(self, text: &str) -> Result<Value, E> {
            Ok(text.into())
        }

        fn visit_unit<E>(self) -> Result<Value, E> {
            Ok(Value::None)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
            let mut list: Vec<Value> = Vec::new();
            while let Some(item) = items.next_element()? {
                list.push(item);
            }
            Ok(list.into())
        }

        fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
            let mut pairs = Vec::new();
            while let Some((name, value)) = entries.next_entry::<String, Value>()? {
                let name: Arc<str> = name.into();
                pairs.push((Key::Str(name.clone()), Value::Str(name), value));
            }
            Ok(Value::Dict(Arc::new(Dict::new(pairs))))
        }
    }
}
