//! Metadata values as JSON, for people and programs that look at a file.
//!
//! Not here: the way back; nothing reads metadata from JSON.

use super::{Array, Value};
use serde_json::json;

impl Value {
    /// The value as JSON; an array of more than `items` as `{"length": ..., "head": [...]}` with the first `items` of it.
    pub fn to_json(&self, items: usize) -> serde_json::Value {
        match self {
            Self::U8(v) => json!(v),
            Self::I8(v) => json!(v),
            Self::U16(v) => json!(v),
            Self::I16(v) => json!(v),
            Self::U32(v) => json!(v),
            Self::I32(v) => json!(v),
            Self::F32(v) => single(*v),
            Self::Bool(v) => json!(v),
            Self::String(v) => json!(v),
            Self::Array(v) => array(v, items),
            Self::U64(v) => json!(v),
            Self::I64(v) => json!(v),
            Self::F64(v) => double(*v),
        }
    }
}

fn array(array: &Array, items: usize) -> serde_json::Value {
    fn each<T>(values: &[T], items: usize, json: impl Fn(&T) -> serde_json::Value) -> Vec<serde_json::Value> {
        values.iter().take(items).map(json).collect()
    }
    let head = match array {
        Array::U8(v) => each(v, items, |v| json!(v)),
        Array::I8(v) => each(v, items, |v| json!(v)),
        Array::U16(v) => each(v, items, |v| json!(v)),
        Array::I16(v) => each(v, items, |v| json!(v)),
        Array::U32(v) => each(v, items, |v| json!(v)),
        Array::I32(v) => each(v, items, |v| json!(v)),
        Array::F32(v) => each(v, items, |v| single(*v)),
        Array::Bool(v) => each(v, items, |v| json!(v)),
        Array::String(v) => each(v, items, |v| json!(v)),
        Array::Array(v) => each(v, items, |v| self::array(v, items)),
        Array::U64(v) => each(v, items, |v| json!(v)),
        Array::I64(v) => each(v, items, |v| json!(v)),
        Array::F64(v) => each(v, items, |v| double(*v)),
    };
    if head.len() == array.len() { json!(head) } else { json!({ "length": array.len(), "head": head }) }
}

/// An f32 with its own shortest digits rather than those of the f64 next to it.
fn single(value: f32) -> serde_json::Value {
    double(value.to_string().parse().unwrap_or(f64::from(value)))
}

/// JSON has no NaN or infinity, so those become text.
fn double(value: f64) -> serde_json::Value {
    if value.is_finite() { json!(value) } else { json!(value.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_their_digits_and_long_arrays_their_head() {
        assert_eq!(Value::F32(0.1).to_json(8), json!(0.1));
        assert_eq!(Value::F32(f32::NAN).to_json(8), json!("NaN"));
        assert_eq!(Value::F64(f64::NEG_INFINITY).to_json(8), json!("-inf"));
        let array = Value::Array(Array::U32((0..20).collect()));
        assert_eq!(array.to_json(3), json!({ "length": 20, "head": [0, 1, 2] }));
        assert_eq!(array.to_json(usize::MAX).as_array().map(Vec::len), Some(20));
    }
}
