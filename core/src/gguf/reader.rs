//! The reader over a byte slice: the header is copied out, tensor data is not.

use std::collections::HashMap;

use super::parser::Parser;
use super::{GgufError, Header, TensorInfo};

/// A GGUF file in memory (or mapped).
#[derive(Clone, Debug)]
pub struct Gguf<'a> {
    header: Header,
    bytes: &'a [u8],
    /// Name to place in `header.tensors`.
    index: HashMap<String, usize>,
}

impl<'a> Gguf<'a> {
    /// Reads the header and checks that every tensor lies within `bytes`, the whole file.
    ///
    /// # Errors
    /// One [`GgufError`] variant for each way in which a file can be malformed.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, GgufError> {
        let mut parser = Parser::new(Some(bytes.len() as u64));
        let mut rest = bytes;
        let header = parser.advance(&mut rest)?.ok_or_else(|| parser.truncated(rest.len()))?;
        let index = header.tensors.iter().enumerate().map(|(place, tensor)| (tensor.name.clone(), place)).collect();
        Ok(Self { header, bytes, index })
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.header.tensors.get(*self.index.get(name)?)
    }

    /// The bytes of a tensor of this file, padding after it included; empty for a tensor of another file that does not
    /// fit into this one.
    pub fn data(&self, tensor: &TensorInfo) -> &'a [u8] {
        let range = || {
            let start = usize::try_from(tensor.offset).ok()?;
            let end = start.checked_add(usize::try_from(tensor.size).ok()?)?;
            self.bytes.get(start..end)
        };
        range().unwrap_or_default()
    }
}
