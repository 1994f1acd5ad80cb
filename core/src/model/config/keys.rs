//! Keys of one architecture: sizes, floats and switches, each checked, each error with the whole key in it.

use super::MAX_SIZE;
use crate::gguf::{Array, GgufError, Header, Metadata, Value};
use crate::model::ModelError;

/// The metadata keys that begin with an architecture's name.
pub(super) struct Keys<'a> {
    header: &'a Header,
    pub(super) metadata: &'a Metadata,
    pub(super) prefix: &'a str,
}

impl<'a> Keys<'a> {
    pub(super) fn of(header: &'a Header, prefix: &'a str) -> Self {
        Self { header, metadata: &header.metadata, prefix }
    }

    /// The whole key.
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.metadata.contains(&self.key(name))
    }

    pub(super) fn bad(&self, name: &str, value: impl ToString, expected: String) -> ModelError {
        ModelError::BadValue { key: self.key(name), value: value.to_string(), expected }
    }

    pub(super) fn unsupported(&self, name: &str, feature: &'static str, remedy: &'static str) -> ModelError {
        ModelError::Unsupported { feature, key: self.key(name), remedy }
    }

    /// A size of at least 1.
    pub(super) fn size(&self, name: &str) -> Result<usize, ModelError> {
        let value = self.metadata.require_usize(&self.key(name))?;
        self.checked_size(name, value)
    }

    pub(super) fn optional_size(&self, name: &str) -> Result<Option<usize>, ModelError> {
        if self.contains(name) { self.size(name).map(Some) } else { Ok(None) }
    }

    /// As [`optional_size`](Self::optional_size), where zero stands for absence.
    pub(super) fn size_unless_zero(&self, name: &str) -> Result<Option<usize>, ModelError> {
        match self.metadata.u64(&self.key(name)) {
            Some(0) => Ok(None),
            _ => self.optional_size(name),
        }
    }

    /// A size that may be written once for each of `layers` layers, the same in all of them.
    pub(super) fn size_of_layers(&self, name: &str, layers: usize) -> Result<usize, ModelError> {
        match self.optional_size_of_layers(name, layers)? {
            Some(size) => Ok(size),
            None => Err(GgufError::MissingKey { key: self.key(name) }.into()),
        }
    }

    /// As [`size_of_layers`](Self::size_of_layers), of a key that may be absent.
    pub(super) fn optional_size_of_layers(&self, name: &str, layers: usize) -> Result<Option<usize>, ModelError> {
        let Some(array) = self.metadata.array(&self.key(name)) else { return self.optional_size(name) };
        let sizes =
            array.integers::<u64>().ok_or_else(|| self.wrong_type(name, "an integer, or one for each layer"))?;
        self.check_length(name, array, layers)?;
        match sizes.first() {
            Some(&first) if sizes.iter().all(|&size| size == first) => {
                let size = usize::try_from(first).map_err(|_| self.bad(name, first, sizes_allowed()))?;
                self.checked_size(name, size).map(Some)
            }
            _ => Err(self.unsupported(name, "another size in each layer", "Use a model whose layers are all alike.")),
        }
    }

    /// Refuses an array that has not one item for each layer.
    pub(super) fn check_length(&self, name: &str, array: &Array, layers: usize) -> Result<(), ModelError> {
        if array.len() == layers {
            return Ok(());
        }
        let found = format!("an array of {}", array.len());
        Err(self.bad(name, found, format!("it must have one item for each of the {layers} layers")))
    }

    /// A float from zero on, or an integer one; absent is none.
    pub(super) fn float(&self, name: &str) -> Result<Option<f32>, ModelError> {
        let key = self.key(name);
        let value = match self.metadata.f32(&key) {
            Some(value) => value,
            None => match self.metadata.u32(&key) {
                Some(value) => value as f32,
                None if self.metadata.contains(&key) => self.metadata.require_f32(&key)?,
                None => return Ok(None),
            },
        };
        if !value.is_finite() || value < 0.0 {
            return Err(self.bad(name, value, "must be a positive number".into()));
        }
        Ok(Some(value))
    }

    /// As [`float`](Self::float), where zero stands for absence.
    pub(super) fn unless_zero(&self, name: &str) -> Result<Option<f32>, ModelError> {
        Ok(self.float(name)?.filter(|&value| value > 0.0))
    }

    /// As [`float`](Self::float), where zero makes no sense.
    pub(super) fn positive(&self, name: &str) -> Result<Option<f32>, ModelError> {
        match self.float(name)? {
            Some(0.0) => Err(self.bad(name, 0, "must be a positive number".into())),
            value => Ok(value),
        }
    }

    /// A bool, or an integer that is 0 or 1; absent is none.
    pub(super) fn switch(&self, name: &str) -> Result<Option<bool>, ModelError> {
        let key = self.key(name);
        match (self.metadata.bool(&key), self.metadata.u32(&key)) {
            (Some(value), _) => Ok(Some(value)),
            (_, Some(value @ 0..=1)) => Ok(Some(value == 1)),
            _ if self.metadata.contains(&key) => Ok(Some(self.metadata.require_bool(&key)?)),
            _ => Ok(None),
        }
    }

    pub(super) fn has_tensor(&self, name: &str) -> bool {
        self.header.tensor(name).is_some()
    }

    /// The error for a value of a type that nothing can be made of.
    pub(super) fn wrong_type(&self, name: &str, expected: &'static str) -> ModelError {
        let key = self.key(name);
        let found = self.metadata.get(&key).map(Value::describe).unwrap_or_default();
        GgufError::WrongType { key, expected, found }.into()
    }

    fn checked_size(&self, name: &str, value: usize) -> Result<usize, ModelError> {
        if value == 0 || value > MAX_SIZE {
            return Err(self.bad(name, value, sizes_allowed()));
        }
        Ok(value)
    }
}

fn sizes_allowed() -> String {
    format!("must lie between 1 and {MAX_SIZE}")
}
