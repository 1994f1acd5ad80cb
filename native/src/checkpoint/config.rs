//! config.json: numbers, words and switches by name, each error with the file and the key.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// No size in a configuration is larger.
const MAX_SIZE: u64 = 1 << 24;

/// The parsed file.
#[derive(Clone, Debug)]
pub struct Config {
    path: PathBuf,
    value: Value,
}

impl Config {
    /// Reads config.json of a directory.
    ///
    /// # Errors
    /// If it is missing or no JSON object.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(super::CONFIG);
        let value = super::read_json(&path)?.with_context(|| format!("{} is missing", path.display()))?;
        Self::new(path, value)
    }

    /// From its parts.
    ///
    /// # Errors
    /// If the value is no object.
    pub fn new(path: PathBuf, value: Value) -> Result<Self> {
        if !value.is_object() {
            bail!("{} is no JSON object", path.display());
        }
        Ok(Self { path, value })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A value; `None` if it is missing or null.
    pub fn find(&self, key: &str) -> Option<&Value> {
        self.value.get(key).filter(|value| !value.is_null())
    }

    /// Whether the key is there, be it null.
    pub fn has(&self, key: &str) -> bool {
        self.value.get(key).is_some()
    }

    /// All keys with their values, in their order.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.value.as_object().into_iter().flatten().map(|(key, value)| (key.as_str(), value))
    }

    /// A section as a configuration of its own, empty if it is missing.
    pub fn section(&self, key: &str) -> Self {
        let value = self.find(key).filter(|value| value.is_object()).cloned();
        Self { path: self.path.clone(), value: value.unwrap_or_else(|| Value::Object(serde_json::Map::new())) }
    }

    /// What is wrong with a key, as an error.
    pub fn wrong(&self, key: &str, what: impl std::fmt::Display) -> anyhow::Error {
        match self.find(key) {
            Some(value) => anyhow::anyhow!("{}: {key} is {value}; {what}", self.path.display()),
            None => anyhow::anyhow!("{}: {key} is missing; {what}", self.path.display()),
        }
    }

    /// A size from 1 on, under the first of these names that is there.
    ///
    /// # Errors
    /// If none is there, or it is no size.
    pub fn size(&self, keys: &[&str]) -> Result<usize> {
        let first = keys.first().copied().unwrap_or_default();
        self.optional_size(keys)?.ok_or_else(|| self.wrong(first, "the model's sizes must be there"))
    }

    /// As [`size`](Self::size), `None` if it is missing.
    ///
    /// # Errors
    /// If it is no size.
    pub fn optional_size(&self, keys: &[&str]) -> Result<Option<usize>> {
        let Some((key, value)) = keys.iter().find_map(|key| Some((key, self.find(key)?))) else { return Ok(None) };
        match value.as_u64() {
            Some(size) if (1..=MAX_SIZE).contains(&size) => Ok(Some(size as usize)),
            _ => Err(self.wrong(key, format!("it must be a whole number from 1 to {MAX_SIZE}"))),
        }
    }

    /// A whole number from 0 on, such as the number of a layer; `None` if it is missing.
    ///
    /// # Errors
    /// If it is anything else.
    pub fn index(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.find(key) else { return Ok(None) };
        let index = value.as_u64().and_then(|index| usize::try_from(index).ok());
        index.map(Some).ok_or_else(|| self.wrong(key, "it must be a whole number from 0 on"))
    }

    /// A float; `None` if it is missing.
    ///
    /// # Errors
    /// If it is no finite number.
    pub fn float(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.find(key) else { return Ok(None) };
        match value.as_f64() {
            Some(number) if number.is_finite() => Ok(Some(number)),
            _ => Err(self.wrong(key, "it must be a number")),
        }
    }

    /// A list of floats; `None` if it is missing.
    ///
    /// # Errors
    /// If it is anything else.
    pub fn floats(&self, key: &str) -> Result<Option<Vec<f32>>> {
        let Some(value) = self.find(key) else { return Ok(None) };
        let list = value.as_array().and_then(|list| list.iter().map(|n| n.as_f64().map(|n| n as f32)).collect());
        list.map(Some).ok_or_else(|| self.wrong(key, "it must be a list of numbers"))
    }

    /// A switch; `None` if it is missing.
    ///
    /// # Errors
    /// If it is no boolean.
    pub fn switch(&self, key: &str) -> Result<Option<bool>> {
        let Some(value) = self.find(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.wrong(key, "it must be true or false"))
    }

    /// A word; `None` if it is missing or something else.
    pub fn word(&self, key: &str) -> Option<&str> {
        self.find(key)?.as_str()
    }

    /// The class of the model, as `architectures` names it first.
    pub fn class(&self) -> Option<&str> {
        self.find("architectures")?.as_array()?.first()?.as_str()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_name_file_key_and_value() {
        let value = serde_json::json!({"a": 0, "b": 1.5, "c": null, "d": "x", "e": [1, "x"], "f": 7});
        let config = Config::new("config.json".into(), value).unwrap();
        assert_eq!(config.size(&["c", "f"]).unwrap(), 7);
        for (error, said) in [
            (config.size(&["a"]).unwrap_err(), "config.json: a is 0"),
            (config.size(&["b"]).unwrap_err(), "b is 1.5"),
            (config.size(&["c"]).unwrap_err(), "c is missing"),
            (config.float("d").unwrap_err(), "d is \"x\""),
            (config.floats("e").unwrap_err(), "e is [1,\"x\"]"),
            (config.switch("f").unwrap_err(), "f is 7"),
        ] {
            assert!(error.to_string().contains(said), "{error}");
        }
        assert!(Config::new("config.json".into(), Value::Null).is_err());
    }
}
