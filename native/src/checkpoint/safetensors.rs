//! Safetensors headers, checked: what tensors a file says it has, and where in it they are.
//!
//! ```text
//! u64 n | n bytes of JSON: { NAME: { "dtype", "shape", "data_offsets": [from, to] }, ..., "__metadata__": {..} } | data
//! ```
//!
//! Every number is hostile until it was compared with the file's length; each fault is one message that names the tensor. The
//! `safetensors` crate reads the format too, but its errors do not say which tensor is at fault. Not here: values.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;

/// A header is never longer: the largest models have headers of some hundred kilobytes.
const MAX_HEADER: u64 = 100 << 20;
/// Matrices have two dimensions; a few more do no harm.
const MAX_DIMS: usize = 8;

/// The type of a tensor's elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// 64-bit float.
    F64,
    /// 32-bit float.
    F32,
    /// IEEE half.
    F16,
    /// The upper half of an f32.
    BF16,
    /// Bytes: packed codes.
    U8,
    /// Another one, by its name; such tensors are not read.
    Other(String),
}

/// A tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The type of its elements.
    pub dtype: Dtype,
    /// Dimensions, the row's length last.
    pub shape: Vec<usize>,
    /// Its bytes within the file.
    pub range: Range<usize>,
}

impl Dtype {
    /// Bytes of an element; `None` for types that are not read.
    pub fn size(&self) -> Option<usize> {
        match self {
            Self::F64 => Some(8),
            Self::F32 => Some(4),
            Self::F16 | Self::BF16 => Some(2),
            Self::U8 => Some(1),
            Self::Other(_) => None,
        }
    }

    fn named(name: &str) -> Self {
        match name {
            "F64" => Self::F64,
            "F32" => Self::F32,
            "F16" => Self::F16,
            "BF16" => Self::BF16,
            "U8" => Self::U8,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::F64 => f.write_str("F64"),
            Self::F32 => f.write_str("F32"),
            Self::F16 => f.write_str("F16"),
            Self::BF16 => f.write_str("BF16"),
            Self::U8 => f.write_str("U8"),
            Self::Other(name) => f.write_str(name),
        }
    }
}

/// The tensors of a file, by name.
///
/// # Errors
/// A header that is cut short, no JSON, or contradicts itself or the file's length; names the tensor.
pub fn read_header(file: &[u8]) -> Result<BTreeMap<String, Entry>> {
    let length = file.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    let length = length.with_context(|| format!("the file has only {} bytes, no safetensors header", file.len()))?;
    let data = length.checked_add(8).and_then(|end| usize::try_from(end).ok());
    let Some(data) = data.filter(|&data| length <= MAX_HEADER && data <= file.len()) else {
        bail!(
            "the header claims {length} bytes, the file has {} in all; it is cut short or no safetensors file",
            file.len()
        );
    };
    let Pairs(pairs) = serde_json::from_slice(&file[8..data]).context("the header is no JSON object")?;
    let mut entries = BTreeMap::new();
    for (name, value) in pairs.into_iter().filter(|(name, _)| name != "__metadata__") {
        let entry = entry(&value, file.len() - data).with_context(|| format!("tensor {name}"))?;
        let entry = Entry { range: entry.range.start + data..entry.range.end + data, ..entry };
        if entries.insert(name.clone(), entry).is_some() {
            bail!("tensor {name} occurs twice in the header");
        }
    }
    let mut places: Vec<(&String, &Entry)> = entries.iter().collect();
    places.sort_by_key(|(_, entry)| (entry.range.start, entry.range.end));
    for pair in places.windows(2) {
        if let [(first, a), (second, b)] = pair
            && a.range.end > b.range.start
            && !b.range.is_empty()
        {
            bail!("tensor {second} overlaps tensor {first}: both claim byte {}", b.range.start);
        }
    }
    Ok(entries)
}

fn entry(value: &Value, available: usize) -> Result<Entry> {
    let dtype = Dtype::named(value["dtype"].as_str().context("its dtype is missing")?);
    let numbers = |key: &str| -> Option<Vec<usize>> {
        value[key].as_array()?.iter().map(|n| n.as_u64().and_then(|n| usize::try_from(n).ok())).collect()
    };
    let shape = numbers("shape").context("its shape is missing or no list of sizes")?;
    if shape.len() > MAX_DIMS {
        bail!("it has {} dimensions; at most {MAX_DIMS} are read", shape.len());
    }
    let offsets = numbers("data_offsets").context("its data_offsets are missing or no pair of offsets")?;
    let &[from, to] = offsets.as_slice() else { bail!("its data_offsets are {} numbers, not two", offsets.len()) };
    if from > to || to > available {
        bail!("its data_offsets are {from} to {to}, but the file has {available} bytes of data");
    }
    if let Some(size) = dtype.size() {
        let needed = shape.iter().try_fold(size, |product, &dim| product.checked_mul(dim));
        if needed != Some(to - from) {
            let needed = needed.map_or("more bytes than can be counted".into(), |needed| format!("{needed} bytes"));
            bail!("its shape {shape:?} of {dtype} needs {needed}, but its data_offsets hold {}", to - from);
        }
    }
    Ok(Entry { dtype, shape, range: from..to })
}

/// A JSON object's entries in their order, repeated keys and all.
struct Pairs(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.resize(file.len() + data, 0);
        file
    }

    #[test]
    fn tensors_are_where_the_header_says() {
        let header = r#"{"__metadata__":{"format":"pt"},
            "a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},"b":{"dtype":"I64","shape":[1],"data_offsets":[12,20]}}"#;
        let entries = read_header(&file(header, 20)).unwrap();
        let data = 8 + header.len();
        assert_eq!(entries["a"], Entry { dtype: Dtype::BF16, shape: vec![2, 3], range: data..data + 12 });
        assert_eq!(entries["b"].dtype, Dtype::Other("I64".into()));
    }

    #[test]
    fn each_lie_is_one_error_that_names_the_tensor() {
        let one = |entry: &str| format!(r#"{{"w":{entry}}}"#);
        for (header, said) in [
            (one(r#"{"shape":[2],"data_offsets":[0,8]}"#), "tensor w: its dtype"),
            (one(r#"{"dtype":"F32","shape":"2","data_offsets":[0,8]}"#), "tensor w: its shape"),
            (one(r#"{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}"#), "tensor w: its shape"),
            (one(r#"{"dtype":"F32","shape":[2],"data_offsets":[0]}"#), "tensor w: its data_offsets are 1"),
            (one(r#"{"dtype":"F32","shape":[2],"data_offsets":[8,0]}"#), "8 to 0"),
            (one(r#"{"dtype":"F32","shape":[3],"data_offsets":[0,8]}"#), "needs 12 bytes"),
            (one(r#"{"dtype":"F32","shape":[2],"data_offsets":[16,24]}"#), "16 bytes of data"),
            (one(r#"{"dtype":"F32","shape":[4294967296,4294967296,8],"data_offsets":[0,8]}"#), "can be counted"),
            (one(r#"{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}"#), "9 dimensions"),
            (
                r#"{"v":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"w":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#
                    .into(),
                "tensor w overlaps tensor v",
            ),
            (
                r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"w":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}"#
                    .into(),
                "tensor w occurs twice",
            ),
            ("[1]".into(), "no JSON object"),
        ] {
            let error = format!("{:#}", read_header(&file(&header, 16)).unwrap_err());
            assert!(error.contains(said), "{header}: {error}");
        }
        assert!(read_header(b"abc").unwrap_err().to_string().contains("only 3 bytes"));
        for length in [20, u64::MAX, u64::MAX - 8, 1 << 62] {
            let error = read_header(&[&length.to_le_bytes()[..], b"{}"].concat()).unwrap_err().to_string();
            assert!(error.contains(&length.to_string()), "{error}");
        }
    }
}
