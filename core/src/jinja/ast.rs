//! A parsed template: statements and expressions. What is called or repeated later (macros, loops) stands in tables
//! beside the body, so that values can name it by number.

use std::sync::Arc;

use super::value::Value;

pub(super) type Name = Arc<str>;
pub(super) type Body = Vec<Statement>;

#[derive(Debug, Default)]
pub(super) struct Program {
    pub body: Body,
    pub macros: Vec<Macro>,
    pub loops: Vec<For>,
}

#[derive(Debug)]
pub(super) struct Statement {
    pub line: usize,
    pub node: Node,
}

#[derive(Debug)]
pub(super) enum Node {
    Text(Name),
    Print(Expr),
    /// Conditions with their bodies, and the body of `else`.
    If(Vec<(Expr, Body)>, Body),
    /// Its place in [`Program::loops`].
    For(usize),
    Set(Target, Expr),
    SetBlock(Target, Vec<Filter>, Body),
    With(Vec<(Target, Expr)>, Body),
    /// Its place in [`Program::macros`].
    Macro(usize),
    /// A call, and the macro that is its `caller`.
    CallBlock(Call, usize),
    FilterBlock(Vec<Filter>, Body),
    Break,
    Continue,
    /// A statement that needs other templates.
    NoLoader(Name),
}

#[derive(Debug)]
pub(super) struct For {
    pub target: Target,
    pub items: Expr,
    pub condition: Option<Expr>,
    pub recursive: bool,
    pub body: Body,
    pub otherwise: Body,
}

#[derive(Debug)]
pub(super) struct Macro {
    pub name: Name,
    pub parameters: Vec<(Name, Option<Expr>)>,
    pub body: Body,
    /// The body speaks of `varargs`, so it takes more arguments than it names.
    pub varargs: bool,
    /// The body speaks of `kwargs`.
    pub kwargs: bool,
}

#[derive(Debug)]
pub(super) enum Target {
    Name(Name),
    /// An attribute of a namespace.
    Attribute(Name, Name),
    Tuple(Vec<Target>),
}

#[derive(Debug)]
pub(super) enum Expr {
    Const(Value),
    Name(Name),
    List(Vec<Expr>),
    Tuple(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    Negative(Box<Expr>),
    Positive(Box<Expr>),
    Not(Box<Expr>),
    /// `a + b - c`, from left to right.
    Arithmetic(Box<Expr>, Vec<(Operator, Expr)>),
    Concat(Vec<Expr>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Compare(Box<Expr>, Vec<(Comparison, Expr)>),
    If {
        condition: Box<Expr>,
        then: Box<Expr>,
        otherwise: Option<Box<Expr>>,
    },
    /// A value and what is done to it, one after the other: `x.y[0] | trim is string`.
    Postfix(Box<Expr>, Vec<Step>),
}

#[derive(Debug)]
pub(super) enum Step {
    Attribute(Name),
    Item(Expr),
    Slice(Box<[Option<Expr>; 3]>),
    Call(Arguments),
    Filter(Filter),
    Test { name: Name, arguments: Arguments, negated: bool },
}

#[derive(Debug)]
pub(super) struct Call {
    pub function: Expr,
    pub arguments: Arguments,
}

#[derive(Debug)]
pub(super) struct Filter {
    pub name: Name,
    pub arguments: Arguments,
}

#[derive(Debug, Default)]
pub(super) struct Arguments {
    pub positional: Vec<Expr>,
    pub named: Vec<(Name, Expr)>,
    /// `*items`
    pub star: Option<Expr>,
    /// `**entries`
    pub star_star: Option<Expr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    FloorDivide,
    Modulo,
    Power,
}

impl Operator {
    pub(super) fn sign(self) -> &'static str {
        match self {
            Operator::Add => "+",
            Operator::Subtract => "-",
            Operator::Multiply => "*",
            Operator::Divide => "/",
            Operator::FloorDivide => "//",
            Operator::Modulo => "%",
            Operator::Power => "**",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    NotIn,
}
