//! Tests: what stands behind `is`.

use super::ast::Comparison;
use super::evaluate::Called;
use super::filters::is_filter;
use super::methods::strings;
use super::run::Run;
use super::value::{Kind, Object, Value};
use super::{Result, failed};

const NAMES: [&str; 39] = [
    "!=",
    "<",
    "<=",
    "==",
    ">",
    ">=",
    "boolean",
    "callable",
    "defined",
    "divisibleby",
    "eq",
    "equalto",
    "escaped",
    "even",
    "false",
    "filter",
    "float",
    "ge",
    "greaterthan",
    "gt",
    "in",
    "integer",
    "iterable",
    "le",
    "lessthan",
    "lower",
    "lt",
    "mapping",
    "ne",
    "none",
    "number",
    "odd",
    "sameas",
    "sequence",
    "string",
    "test",
    "true",
    "undefined",
    "upper",
];

impl Run<'_> {
    /// Whether the value passes the test of that name.
    #[inline(never)]
    pub(super) fn check(&mut self, name: &str, value: &Value, called: Called) -> Result<bool> {
        let comparison = match name {
            "==" | "eq" | "equalto" => Some(Comparison::Equal),
            "!=" | "ne" => Some(Comparison::NotEqual),
            "<" | "lt" | "lessthan" => Some(Comparison::Less),
            "<=" | "le" => Some(Comparison::LessOrEqual),
            ">" | "gt" | "greaterthan" => Some(Comparison::Greater),
            ">=" | "ge" => Some(Comparison::GreaterOrEqual),
            "in" => Some(Comparison::In),
            _ => None,
        };
        if comparison.is_some() || matches!(name, "sameas" | "divisibleby") {
            let [Some(other)] = called.bind(name, [if name == "divisibleby" { "num" } else { "other" }])? else {
                return failed(format!("test {name:?} wants something to compare with"));
            };
            return match comparison {
                Some(comparison) => self.compare(value, comparison, &other),
                None if name == "sameas" => Ok(same(value, &other)),
                None => {
                    let rest = self.arithmetic(value.clone(), super::ast::Operator::Modulo, other)?;
                    self.equal(&rest, &Value::Int(0))
                }
            };
        }
        called.none(name)?;
        Ok(match name {
            "defined" => !value.is_undefined(),
            "undefined" => value.is_undefined(),
            "none" => value.is_none(),
            "boolean" => matches!(value, Value::Bool(_)),
            "true" => matches!(value, Value::Bool(true)),
            "false" => matches!(value, Value::Bool(false)),
            "integer" => matches!(value, Value::Int(_)),
            "float" => matches!(value, Value::Float(_)),
            "number" => matches!(value, Value::Bool(_) | Value::Int(_) | Value::Float(_)),
            "string" => value.as_str().is_some(),
            "mapping" => matches!(value, Value::Dict(_)),
            "escaped" => matches!(value, Value::Markup(_)),
            "callable" => matches!(
                value,
                // What is undefined has the method, though it fails.
                Value::Undefined(_)
                    | Value::Object(Object(
                        Kind::Global(_) | Kind::Method(_) | Kind::Macro(_) | Kind::Joiner(_) | Kind::Loop(_)
                    ))
            ),
            "iterable" => matches!(
                value,
                Value::Undefined(_)
                    | Value::Str(_)
                    | Value::Markup(_)
                    | Value::List(_)
                    | Value::Tuple(_)
                    | Value::Dict(_)
                    | Value::Range(_)
                    | Value::Object(Object(Kind::View(..) | Kind::Generator(_) | Kind::Loop(_)))
            ),
            "sequence" => matches!(
                value,
                Value::Undefined(_)
                    | Value::Str(_)
                    | Value::Markup(_)
                    | Value::List(_)
                    | Value::Tuple(_)
                    | Value::Dict(_)
                    | Value::Range(_)
            ),
            "odd" | "even" => {
                let rest = self.arithmetic(value.clone(), super::ast::Operator::Modulo, Value::Int(2))?;
                self.equal(&rest, &Value::Int(i128::from(name == "odd")))?
            }
            "lower" | "upper" => strings::has_case(&self.string(value)?, name == "upper"),
            "filter" | "test" => {
                self.key(value)?;
                let known = |word: &str| if name == "filter" { is_filter(word) } else { NAMES.contains(&word) };
                value.as_str().is_some_and(known)
            }
            other => return failed(format!("no test is named {other:?}")),
        })
    }
}

/// Whether both are one object, as far as that can be told from outside: small values are.
fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::None, Value::None) => true,
        (Value::Bool(left), Value::Bool(right)) => left == right,
        (Value::Int(left), Value::Int(right)) => left == right,
        (Value::Float(left), Value::Float(right)) => left.to_bits() == right.to_bits(),
        (Value::Str(left), Value::Str(right)) | (Value::Markup(left), Value::Markup(right)) => left == right,
        (Value::List(left), Value::List(right)) | (Value::Tuple(left), Value::Tuple(right)) => {
            std::sync::Arc::ptr_eq(left, right)
        }
        (Value::Dict(left), Value::Dict(right)) => std::sync::Arc::ptr_eq(left, right),
        (Value::Object(left), Value::Object(right)) => left.identity() == right.identity(),
        _ => false,
    }
}
