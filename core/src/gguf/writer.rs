//! The writer: version 3, metadata and directory first, then tensors one after the other, each aligned.
//!
//! Not here: what the bytes of a tensor mean, and the file (any `io::Write` will do).

use std::collections::HashSet;
use std::io::Write;

use super::parser::{alignment, check_dims};
use super::{
    Array, GgufError, MAGIC, MAX_DEPTH, MAX_DIMS, MAX_NAME_BYTES, MAX_STRING_BYTES, Metadata, Value, string_bytes,
};

/// The version that is written.
const VERSION: u32 = 3;
/// Source of padding.
const ZEROS: [u8; 64] = [0; 64];

/// A tensor that is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorDecl {
    /// Its name.
    pub name: String,
    /// Dimensions in GGUF order: `dims[0]` is the row length.
    pub dims: Vec<u64>,
    /// The type's number, for example `formats::Format::type_id`.
    pub type_id: u32,
    /// Its exact size in bytes, for example from `formats::Format::tensor_bytes`.
    pub size: u64,
}

/// Writes a GGUF file to a sink, tensor by tensor, without holding any of them.
///
/// ```
/// # use sterna_core::gguf::{Gguf, Metadata, TensorDecl, Writer};
/// let mut metadata = Metadata::new();
/// metadata.insert("general.architecture", "llama");
/// let norm = TensorDecl { name: "output_norm.weight".into(), dims: vec![2], type_id: 0, size: 8 };
/// let mut writer = Writer::new(Vec::new(), &metadata, vec![norm])?;
/// writer.tensor("output_norm.weight", &[0; 8])?;
/// let file = writer.finish()?;
/// assert_eq!(Gguf::parse(&file)?.header().tensors[0].dims, [2]);
/// # Ok::<(), sterna_core::gguf::GgufError>(())
/// ```
#[derive(Debug)]
pub struct Writer<W> {
    sink: W,
    alignment: u64,
    /// Name and size of each tensor, in the order of writing.
    tensors: Vec<(String, u64)>,
    /// The tensor that is due.
    current: usize,
    /// Bytes of it that were written.
    written: u64,
}

impl<W: Write> Writer<W> {
    /// Writes the header: metadata in its order (`general.alignment` honoured), then the directory of `tensors`.
    ///
    /// # Errors
    /// The [`GgufError`] that the readers would raise for such a header, or [`GgufError::Write`] from the sink.
    pub fn new(mut sink: W, metadata: &Metadata, tensors: Vec<TensorDecl>) -> Result<Self, GgufError> {
        let alignment = alignment(metadata)?;
        let mut head = Vec::new();
        head.extend(MAGIC);
        head.extend(VERSION.to_le_bytes());
        head.extend((tensors.len() as u64).to_le_bytes());
        head.extend((metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata.iter() {
            put_name(&mut head, key, "a metadata key")?;
            put_value(&mut head, key, value)?;
        }
        let mut names = HashSet::new();
        let mut offset = 0u64;
        for TensorDecl { name, dims, type_id, size } in &tensors {
            if !names.insert(name.as_str()) {
                return Err(GgufError::DuplicateTensor { name: name.clone() });
            }
            check_decl(name, dims, *size, head.len())?;
            put_name(&mut head, name, "a tensor's name")?;
            head.extend((dims.len() as u32).to_le_bytes());
            head.extend(dims.iter().flat_map(|dim| dim.to_le_bytes()));
            head.extend(type_id.to_le_bytes());
            head.extend(offset.to_le_bytes());
            offset = offset
                .checked_add(*size)
                .and_then(|end| end.checked_next_multiple_of(alignment))
                .filter(|&end| end < u64::MAX / 2)
                .ok_or_else(|| GgufError::OffsetOverflow { name: name.clone(), offset })?;
        }
        let padding = (head.len() as u64).next_multiple_of(alignment) - head.len() as u64;
        head.extend((0..padding).map(|_| 0));
        sink.write_all(&head)?;
        let tensors = tensors.into_iter().map(|tensor| (tensor.name, tensor.size)).collect();
        Ok(Self { sink, alignment, tensors, current: 0, written: 0 })
    }

    /// Writes the whole tensor that is due.
    ///
    /// # Errors
    /// [`GgufError::WriteOrder`] if another tensor is due, [`GgufError::WriteSize`] if the size differs from the
    /// declared one, [`GgufError::Write`] from the sink.
    pub fn tensor(&mut self, name: &str, bytes: &[u8]) -> Result<(), GgufError> {
        let (expected, size) = self.tensors.get(self.current).map_or(("", 0), |(name, size)| (name.as_str(), *size));
        if expected != name {
            return Err(GgufError::WriteOrder { expected: expected.into(), found: name.into() });
        }
        let found = self.written.saturating_add(bytes.len() as u64);
        if found != size {
            return Err(GgufError::WriteSize { name: name.into(), expected: size, found });
        }
        self.append(bytes)
    }

    /// Writes a piece of the tensor that is due; when it is complete, the next one is due.
    ///
    /// # Errors
    /// [`GgufError::WriteSize`] if the piece reaches beyond the tensor, [`GgufError::WriteOrder`] after the last
    /// tensor, [`GgufError::Write`] from the sink.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), GgufError> {
        let Some((name, size)) = self.tensors.get(self.current) else {
            return Err(GgufError::WriteOrder { expected: String::new(), found: "a tensor after the last".into() });
        };
        let found = self.written.saturating_add(bytes.len() as u64);
        if found > *size {
            return Err(GgufError::WriteSize { name: name.clone(), expected: *size, found });
        }
        self.sink.write_all(bytes)?;
        self.written = found;
        if found == *size {
            // The last tensor is padded, too: ggml expects it.
            let mut padding = size.next_multiple_of(self.alignment) - size;
            while padding > 0 {
                let count = padding.min(ZEROS.len() as u64);
                self.sink.write_all(&ZEROS[..count as usize])?;
                padding -= count;
            }
            self.current += 1;
            self.written = 0;
        }
        Ok(())
    }

    /// The tensor that is due, `None` after the last.
    pub fn due(&self) -> Option<&str> {
        self.tensors.get(self.current).map(|(name, _)| name.as_str())
    }

    /// Checks that every declared tensor was written, flushes, and gives the sink back.
    ///
    /// # Errors
    /// [`GgufError::WriteSize`] for the first tensor that is incomplete, [`GgufError::Write`] from the sink.
    pub fn finish(mut self) -> Result<W, GgufError> {
        if let Some((name, size)) = self.tensors.get(self.current) {
            return Err(GgufError::WriteSize { name: name.clone(), expected: *size, found: self.written });
        }
        self.sink.flush()?;
        Ok(self.sink)
    }
}

fn check_decl(name: &str, dims: &[u64], size: u64, position: usize) -> Result<(), GgufError> {
    if dims.len() > MAX_DIMS as usize {
        let n_dims = u32::try_from(dims.len()).unwrap_or(u32::MAX);
        return Err(GgufError::TooManyDims { name: name.into(), n_dims, offset: position as u64 });
    }
    check_dims(name, dims)?;
    if size == 0 {
        return Err(GgufError::EmptyTensor { name: name.into() });
    }
    Ok(())
}

fn put_string(out: &mut Vec<u8>, text: &str, limit: u64, what: impl Fn() -> String) -> Result<(), GgufError> {
    let bytes = string_bytes(text);
    let (offset, length) = (out.len() as u64, bytes.len() as u64);
    if length > limit {
        return Err(GgufError::StringTooLong { what: what(), offset, length, limit });
    }
    out.extend(length.to_le_bytes());
    out.extend_from_slice(&bytes);
    Ok(())
}

fn put_name(out: &mut Vec<u8>, name: &str, what: &str) -> Result<(), GgufError> {
    if name.is_empty() {
        return Err(GgufError::EmptyName { what: what.into(), offset: out.len() as u64 });
    }
    put_string(out, name, MAX_NAME_BYTES, || what.into())
}

fn put_value(out: &mut Vec<u8>, key: &str, value: &Value) -> Result<(), GgufError> {
    out.extend(value.value_type().id().to_le_bytes());
    match value {
        Value::U8(v) => out.extend(v.to_le_bytes()),
        Value::I8(v) => out.extend(v.to_le_bytes()),
        Value::U16(v) => out.extend(v.to_le_bytes()),
        Value::I16(v) => out.extend(v.to_le_bytes()),
        Value::U32(v) => out.extend(v.to_le_bytes()),
        Value::I32(v) => out.extend(v.to_le_bytes()),
        Value::F32(v) => out.extend(v.to_le_bytes()),
        Value::Bool(v) => out.push((*v).into()),
        Value::String(v) => put_string(out, v, MAX_STRING_BYTES, || format!("the value of metadata key `{key}`"))?,
        Value::Array(v) => put_array(out, key, v, 1)?,
        Value::U64(v) => out.extend(v.to_le_bytes()),
        Value::I64(v) => out.extend(v.to_le_bytes()),
        Value::F64(v) => out.extend(v.to_le_bytes()),
    }
    Ok(())
}

fn put_array(out: &mut Vec<u8>, key: &str, array: &Array, depth: usize) -> Result<(), GgufError> {
    if depth > MAX_DEPTH {
        return Err(GgufError::ArrayTooDeep { key: key.into(), limit: MAX_DEPTH, offset: out.len() as u64 });
    }
    out.extend(array.item_type().id().to_le_bytes());
    out.extend((array.len() as u64).to_le_bytes());
    match array {
        Array::U8(items) => out.extend(items),
        Array::I8(items) => out.extend(items.iter().flat_map(|v| v.to_le_bytes())),
        Array::U16(items) => out.extend(items.iter().flat_map(|v| v.to_le_bytes())),
        Array::I16(items) => out.extend(items.iter().flat_map(|v| v.to_le_bytes())),
        Array::U32(items) => out.extend(items.iter().flat_map(|v| v.to_le_bytes())),
        Array::I32(items) => out.extend(items.iter().flat_map(|v| v.to_le_bytes())),
        Array::F32(items) => out.extend(items.iter().flat_map(|v| v.to_le_bytes())),
        Array::Bool(items) => out.extend(items.iter().map(|&v| u8::from(v))),
        Array::U64(items) => out.extend(items.iter().flat_map(|v| v.to_le_bytes())),
        Array::I64(items) => out.extend(items.iter().flat_map(|v| v.to_le_bytes())),
        Array::F64(items) => out.extend(items.iter().flat_map(|v| v.to_le_bytes())),
        Array::String(items) => {
            for (i, item) in items.iter().enumerate() {
                put_string(out, item, MAX_STRING_BYTES, || format!("item {i} of metadata key `{key}`"))?;
            }
        }
        Array::Array(items) => {
            for item in items {
                put_array(out, key, item, depth + 1)?;
            }
        }
    }
    Ok(())
}
