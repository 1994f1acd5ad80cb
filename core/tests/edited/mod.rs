//! The fixtures taken apart, so that a test changes one thing and writes the file again.
#![allow(dead_code, reason = "each test crate uses a part of it")]

use std::path::Path;
use sterna_core::formats::Format;
use sterna_core::gguf::{Gguf, Metadata, TensorDecl, Value, Writer};

/// A tensor and its exact bytes, whatever its type and dimensions claim.
pub struct Tensor {
    pub name: String,
    pub dims: Vec<u64>,
    pub type_id: u32,
    pub bytes: Vec<u8>,
}

impl Tensor {
    /// A vector of f32.
    pub fn f32s(name: &str, values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self { name: name.into(), dims: vec![values.len() as u64], type_id: Format::F32.type_id(), bytes }
    }
}

/// A file in parts.
pub struct Edited {
    pub metadata: Metadata,
    pub tensors: Vec<Tensor>,
}

/// The bytes of a fixture of tests/data/models.
pub fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/models/{name}.gguf"));
    std::fs::read(path).unwrap()
}

impl Edited {
    /// Takes a fixture apart.
    pub fn of(name: &str) -> Self {
        let bytes = fixture(name);
        let file = Gguf::parse(&bytes).unwrap();
        let tensors = file.header().tensors.iter().map(|info| {
            let size = Format::identify(info).unwrap().tensor_bytes(info.rows(), info.cols()).unwrap();
            let bytes = file.data(info)[..size as usize].to_vec();
            Tensor { name: info.name.clone(), dims: info.dims.clone(), type_id: info.type_id, bytes }
        });
        Self { metadata: file.header().metadata.clone(), tensors: tensors.collect() }
    }

    /// Sets a key; one that begins with a dot belongs to the architecture.
    pub fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        let key = self.key(key);
        self.metadata.insert(key, value);
        self
    }

    /// Takes a key out.
    pub fn without(mut self, key: &str) -> Self {
        let key = self.key(key);
        self.metadata.remove(&key);
        self
    }

    /// The whole name of a key.
    pub fn key(&self, key: &str) -> String {
        match key.strip_prefix('.') {
            Some(name) => format!("{}.{name}", self.metadata.str("general.architecture").unwrap()),
            None => key.to_owned(),
        }
    }

    /// Changes a tensor.
    pub fn tensor(mut self, name: &str, edit: impl FnOnce(&mut Tensor)) -> Self {
        edit(self.tensors.iter_mut().find(|tensor| tensor.name == name).expect("no such tensor"));
        self
    }

    /// Takes a tensor out.
    pub fn without_tensor(mut self, name: &str) -> Self {
        self.tensors.retain(|tensor| tensor.name != name);
        self
    }

    /// Adds a tensor after the others.
    pub fn with_tensor(mut self, tensor: Tensor) -> Self {
        self.tensors.push(tensor);
        self
    }

    /// The file.
    pub fn write(&self) -> Vec<u8> {
        let decl = |tensor: &Tensor| TensorDecl {
            name: tensor.name.clone(),
            dims: tensor.dims.clone(),
            type_id: tensor.type_id,
            size: tensor.bytes.len() as u64,
        };
        let mut writer = Writer::new(Vec::new(), &self.metadata, self.tensors.iter().map(decl).collect()).unwrap();
        for tensor in &self.tensors {
            writer.tensor(&tensor.name, &tensor.bytes).unwrap();
        }
        writer.finish().unwrap()
    }
}
