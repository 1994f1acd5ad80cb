//! Metadata: an ordered map from key to value, with typed lookup.
//!
//! The plain accessors return `None` both for an absent key and for a value of another type; the `require_*` ones tell
//! the two apart and name the key. Integers are accepted in any width that fits, as writers disagree about widths.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use super::{Array, GgufError, Value};

/// The key-value pairs of a GGUF file, in file order.
#[derive(Clone, Default)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
    /// Key to place in `entries`.
    index: HashMap<String, usize>,
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl PartialEq for Metadata {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

impl Metadata {
    /// Metadata without keys.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes that keys and values hold in memory.
    pub fn bytes(&self) -> u64 {
        let entry = |(key, value): &(String, Value)| {
            // The key is in the index, too.
            2 * key.len() as u64 + size_of::<(String, Value)>() as u64 + value.bytes()
        };
        self.entries.iter().map(entry).fold(0, u64::saturating_add)
    }

    /// The keys and values in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Whether the key is present.
    pub fn contains(&self, key: &str) -> bool {
        self.index.contains_key(key)
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.index.get(key).and_then(|&place| self.entries.get(place)).map(|(_, value)| value)
    }

    /// Sets a key: a present one keeps its place, a new one goes last.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<Value>) {
        let (key, value) = (key.into(), value.into());
        match self.index.get(&key).and_then(|&place| self.entries.get_mut(place)) {
            Some(entry) => entry.1 = value,
            None => {
                self.index.insert(key.clone(), self.entries.len());
                self.entries.push((key, value));
            }
        }
    }

    /// Takes a key out and returns its value.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let place = self.index.remove(key)?;
        for later in self.index.values_mut().filter(|later| **later > place) {
            *later -= 1;
        }
        Some(self.entries.remove(place).1)
    }

    /// The integer of a key, of any integer type, as far as it fits.
    pub fn u32(&self, key: &str) -> Option<u32> {
        self.integer(key)
    }

    /// See [`Metadata::u32`].
    pub fn u64(&self, key: &str) -> Option<u64> {
        self.integer(key)
    }

    /// See [`Metadata::u32`].
    pub fn i32(&self, key: &str) -> Option<i32> {
        self.integer(key)
    }

    /// See [`Metadata::u32`].
    pub fn usize(&self, key: &str) -> Option<usize> {
        self.integer(key)
    }

    /// The float of a key; a float64 is rounded.
    pub fn f32(&self, key: &str) -> Option<f32> {
        match self.get(key)? {
            Value::F32(v) => Some(*v),
            Value::F64(v) => Some(*v as f32),
            _ => None,
        }
    }

    /// The bool of a key.
    pub fn bool(&self, key: &str) -> Option<bool> {
        match self.get(key)? {
            Value::Bool(v) => Some(*v),
            _ => None,
        }
    }

    /// The string of a key.
    pub fn str(&self, key: &str) -> Option<&str> {
        match self.get(key)? {
            Value::String(v) => Some(v),
            _ => None,
        }
    }

    /// The array of a key, of any item type.
    pub fn array(&self, key: &str) -> Option<&Array> {
        match self.get(key)? {
            Value::Array(v) => Some(v),
            _ => None,
        }
    }

    /// The strings of an array.
    pub fn strings(&self, key: &str) -> Option<&[String]> {
        match self.array(key)? {
            Array::String(v) => Some(v),
            _ => None,
        }
    }

    /// The floats of an array of float32.
    pub fn f32s(&self, key: &str) -> Option<&[f32]> {
        match self.array(key)? {
            Array::F32(v) => Some(v),
            _ => None,
        }
    }

    /// The bools of an array.
    pub fn bools(&self, key: &str) -> Option<&[bool]> {
        match self.array(key)? {
            Array::Bool(v) => Some(v),
            _ => None,
        }
    }

    /// The integers of an array of any integer type, if all fit; borrowed where they are int32 already.
    pub fn i32s(&self, key: &str) -> Option<Cow<'_, [i32]>> {
        match self.array(key)? {
            Array::I32(v) => Some(Cow::Borrowed(v)),
            other => other.integers().map(Cow::Owned),
        }
    }

    /// The integers of an array of any integer type, if all fit; borrowed where they are uint32 already.
    pub fn u32s(&self, key: &str) -> Option<Cow<'_, [u32]>> {
        match self.array(key)? {
            Array::U32(v) => Some(Cow::Borrowed(v)),
            other => other.integers().map(Cow::Owned),
        }
    }

    /// [`Metadata::u32`], or an error that names the key.
    pub fn require_u32(&self, key: &str) -> Result<u32, GgufError> {
        self.require(key, "an integer from 0 to 4294967295", self.u32(key))
    }

    /// [`Metadata::u64`], or an error that names the key.
    pub fn require_u64(&self, key: &str) -> Result<u64, GgufError> {
        self.require(key, "an integer from 0 to 2^64 - 1", self.u64(key))
    }

    /// [`Metadata::i32`], or an error that names the key.
    pub fn require_i32(&self, key: &str) -> Result<i32, GgufError> {
        self.require(key, "an integer from -2147483648 to 2147483647", self.i32(key))
    }

    /// [`Metadata::usize`], or an error that names the key.
    pub fn require_usize(&self, key: &str) -> Result<usize, GgufError> {
        self.require(key, "a count that this machine can address", self.usize(key))
    }

    /// [`Metadata::f32`], or an error that names the key.
    pub fn require_f32(&self, key: &str) -> Result<f32, GgufError> {
        self.require(key, "a float", self.f32(key))
    }

    /// [`Metadata::bool`], or an error that names the key.
    pub fn require_bool(&self, key: &str) -> Result<bool, GgufError> {
        self.require(key, "a bool", self.bool(key))
    }

    /// [`Metadata::str`], or an error that names the key.
    pub fn require_str(&self, key: &str) -> Result<&str, GgufError> {
        self.require(key, "a string", self.str(key))
    }

    /// [`Metadata::strings`], or an error that names the key.
    pub fn require_strings(&self, key: &str) -> Result<&[String], GgufError> {
        self.require(key, "an array of strings", self.strings(key))
    }

    /// [`Metadata::f32s`], or an error that names the key.
    pub fn require_f32s(&self, key: &str) -> Result<&[f32], GgufError> {
        self.require(key, "an array of float32", self.f32s(key))
    }

    /// [`Metadata::i32s`], or an error that names the key.
    pub fn require_i32s(&self, key: &str) -> Result<Cow<'_, [i32]>, GgufError> {
        self.require(key, "an array of integers that fit int32", self.i32s(key))
    }

    /// [`Metadata::u32s`], or an error that names the key.
    pub fn require_u32s(&self, key: &str) -> Result<Cow<'_, [u32]>, GgufError> {
        self.require(key, "an array of integers that fit uint32", self.u32s(key))
    }

    fn integer<T: TryFrom<i128>>(&self, key: &str) -> Option<T> {
        T::try_from(self.get(key)?.as_integer()?).ok()
    }

    fn require<T>(&self, key: &str, expected: &'static str, value: Option<T>) -> Result<T, GgufError> {
        value.ok_or_else(|| match self.get(key) {
            Some(found) => GgufError::WrongType { key: key.into(), expected, found: found.describe() },
            None => GgufError::MissingKey { key: key.into() },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Metadata {
        let mut m = Metadata::new();
        m.insert("small", 7u8);
        m.insert("negative", -1i64);
        m.insert("wide", 1u64 << 40);
        m.insert("real", 0.5f64);
        m.insert("name", "tern");
        m.insert("flag", true);
        m.insert("tokens", vec!["a", "b"]);
        m.insert("kinds", vec![1u64, 6]);
        m
    }

    #[test]
    fn integers_of_any_width_are_read_where_they_fit() {
        let m = sample();
        assert_eq!(m.u32("small"), Some(7));
        assert_eq!(m.u64("wide"), Some(1 << 40));
        assert_eq!(m.u32("wide"), None);
        assert_eq!(m.u32("negative"), None);
        assert_eq!(m.i32("negative"), Some(-1));
        assert_eq!(m.i32s("kinds").as_deref(), Some(&[1, 6][..]));
        assert_eq!(m.u32s("kinds").as_deref(), Some(&[1, 6][..]));
        assert_eq!(m.f32("real"), Some(0.5));
        assert_eq!(m.f32("small"), None);
        assert_eq!(m.strings("tokens").map(<[String]>::len), Some(2));
    }

    #[test]
    fn required_keys_are_named_in_the_error() {
        let m = sample();
        assert!(matches!(m.require_u32("absent"), Err(GgufError::MissingKey { key }) if key == "absent"));
        let error = m.require_u32("name").unwrap_err();
        assert!(matches!(&error, GgufError::WrongType { key, .. } if key == "name"));
        assert!(error.to_string().contains("`name` is a string"), "{error}");
        assert!(m.require_u32("wide").unwrap_err().to_string().contains("uint64 1099511627776"));
        assert!(m.require_f32s("tokens").unwrap_err().to_string().contains("an array of 2 string"));
        assert_eq!(m.require_str("name").unwrap(), "tern");
        assert!(m.require_bool("flag").unwrap());
    }

    #[test]
    fn insert_replaces_in_place_and_remove_keeps_the_order() {
        let mut m = sample();
        m.insert("negative", 3u32);
        assert_eq!(m.iter().nth(1), Some(("negative", &Value::U32(3))));
        assert_eq!(m.remove("small"), Some(Value::U8(7)));
        assert_eq!(m.remove("small"), None);
        assert_eq!(m.iter().next(), Some(("negative", &Value::U32(3))));
        assert_eq!(m.u32s("kinds").as_deref(), Some(&[1, 6][..]));
        assert_eq!(m.len(), 7);
    }
}
