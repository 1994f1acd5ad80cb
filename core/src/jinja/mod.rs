//! Chat templates are programs in Jinja, a language that Python's jinja2 library defines and whose values are Python's.
//! This module runs them as the transformers library does: jinja2 3.1 with trimmed blocks, its sandbox, `tojson`
//! without HTML escapes, `raise_exception`, `strftime_now`, `{% generation %}`.
//!
//! ```text
//! source -> tokens     lexer.rs                   white space around tags
//!        -> Program    parser.rs, expressions.rs  a tree, see ast.rs
//!        -> text       run.rs, evaluate.rs        statements and expressions
//!                      operators.rs, subscripts.rs, methods/, filters/, checks.rs, globals.rs
//!                      print.rs, pretty.rs, json.rs, format.rs, clock.rs
//! ```
//!
//! A template comes inside a model file, so it is hostile until it has run. Nesting, steps, the bytes that it builds
//! and what it prints are limited. Nothing here panics, and a template sees only the values that it is given.
//!
//! What differs from jinja2: whole numbers end at 128 bits; generators compute all of their items when they are made;
//! `urlize` is refused, and so are `random` and `lipsum`, because a prompt must not depend on
//! chance; templates cannot load other templates.

mod ast;
mod checks;
mod clock;
mod evaluate;
mod expressions;
mod filters;
mod format;
mod globals;
mod json;
mod lexer;
mod methods;
mod operators;
mod parser;
mod pretty;
mod print;
mod run;
mod subscripts;
mod value;

use std::sync::Arc;

pub use value::Value;

use ast::Program;
pub(crate) use run::{MAX_BYTES, MAX_OUTPUT, MAX_STEPS};

/// Why a source is no template.
#[derive(Debug)]
pub(crate) struct Syntax {
    pub line: usize,
    pub reason: String,
}

/// Why a template stopped.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The template called `raise_exception`.
    Raised(String),
    /// It took more than [`MAX_STEPS`] steps.
    Steps,
    /// It built more than [`MAX_BYTES`] of values.
    Bytes,
    /// It wrote more than [`MAX_OUTPUT`] bytes.
    Output,
    /// It did what cannot be done.
    Failed(String),
}

type Result<T, E = Fault> = std::result::Result<T, E>;

fn failed<T>(reason: impl Into<String>) -> Result<T> {
    Err(Fault::Failed(reason.into()))
}

/// A parsed template.
#[derive(Debug)]
pub(crate) struct Template(Program);

impl Template {
    pub(crate) fn parse(source: &str) -> Result<Self, Syntax> {
        parser::parse(source).map(Template)
    }

    /// Runs the template with these variables. `now`, in seconds since 1970, is what `strftime_now` tells; without it
    /// that function is undefined. A fault comes with the line of its statement.
    pub(crate) fn render(&self, variables: Vec<(Arc<str>, Value)>, now: Option<i64>) -> Result<String, (usize, Fault)> {
        run::Run::new(&self.0, variables, now).finish()
    }
}
