//! The grammar of expressions, from what binds least to what binds most. The order is jinja2's: `~` binds more than
//! `+`, filters and tests bind more than `-x`.

use super::Syntax;
use super::ast::{Arguments, Comparison, Expr, Operator, Step};
use super::lexer::Token;
use super::parser::Parser;
use super::value::Value;

/// How many times `a if b if c` may go on.
const MAX_CONDITIONS: usize = 8;

impl Parser {
    pub(super) fn expression(&mut self) -> Result<Expr, Syntax> {
        self.deeper(|parser| {
            let mut value = parser.or()?;
            let mut conditions = 0;
            while parser.skip_word("if") {
                conditions += 1;
                if conditions > MAX_CONDITIONS {
                    return parser.fail("an expression has too many conditions; use {% if %}");
                }
                let condition = Box::new(parser.or()?);
                let otherwise = if parser.skip_word("else") { Some(Box::new(parser.expression()?)) } else { None };
                value = Expr::If { condition, then: Box::new(value), otherwise };
            }
            Ok(value)
        })
    }

    /// Values with commas between them are a tuple. `words` end it.
    pub(super) fn tuple(&mut self, conditional: bool, words: &[&str]) -> Result<Expr, Syntax> {
        let mut items = Vec::new();
        loop {
            let ends = matches!(self.peek(), Token::ExpressionEnd | Token::BlockEnd | Token::Sign(")"))
                || words.iter().any(|word| self.at_word(word));
            if ends && !items.is_empty() {
                return Ok(Expr::Tuple(items));
            }
            let item = if conditional { self.expression()? } else { self.deeper(Self::or)? };
            let more = self.skip_sign(",");
            if !more && items.is_empty() {
                return Ok(item);
            }
            items.push(item);
            if !more {
                return Ok(Expr::Tuple(items));
            }
        }
    }

    fn or(&mut self) -> Result<Expr, Syntax> {
        self.several("or", Self::and, Expr::Or)
    }

    fn and(&mut self) -> Result<Expr, Syntax> {
        self.several("and", Self::not, Expr::And)
    }

    fn several(
        &mut self,
        word: &str,
        part: impl Fn(&mut Self) -> Result<Expr, Syntax>,
        whole: impl Fn(Vec<Expr>) -> Expr,
    ) -> Result<Expr, Syntax> {
        let first = part(self)?;
        if !self.at_word(word) {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.skip_word(word) {
            parts.push(part(self)?);
        }
        Ok(whole(parts))
    }

    fn not(&mut self) -> Result<Expr, Syntax> {
        if self.skip_word("not") {
            return Ok(Expr::Not(Box::new(self.deeper(Self::not)?)));
        }
        self.compare()
    }

    fn compare(&mut self) -> Result<Expr, Syntax> {
        let first = self.sum()?;
        let mut links = Vec::new();
        loop {
            let comparison = match self.peek() {
                Token::Sign("==") => Comparison::Equal,
                Token::Sign("!=") => Comparison::NotEqual,
                Token::Sign("<") => Comparison::Less,
                Token::Sign("<=") => Comparison::LessOrEqual,
                Token::Sign(">") => Comparison::Greater,
                Token::Sign(">=") => Comparison::GreaterOrEqual,
                Token::Name(word) if word == "in" => Comparison::In,
                Token::Name(word)
                    if word == "not" && matches!(self.look_ahead(), Token::Name(word) if word == "in") =>
                {
                    self.next();
                    Comparison::NotIn
                }
                _ => break,
            };
            self.next();
            links.push((comparison, self.sum()?));
        }
        Ok(if links.is_empty() { first } else { Expr::Compare(Box::new(first), links) })
    }

    fn left_to_right(
        &mut self,
        operators: &[Operator],
        part: impl Fn(&mut Self) -> Result<Expr, Syntax>,
    ) -> Result<Expr, Syntax> {
        let first = part(self)?;
        let mut links = Vec::new();
        while let Some(operator) = operators.iter().find(|operator| self.skip_sign(operator.sign())) {
            links.push((*operator, part(self)?));
        }
        Ok(if links.is_empty() { first } else { Expr::Arithmetic(Box::new(first), links) })
    }

    fn sum(&mut self) -> Result<Expr, Syntax> {
        self.left_to_right(&[Operator::Add, Operator::Subtract], Self::concat)
    }

    fn concat(&mut self) -> Result<Expr, Syntax> {
        let first = self.product()?;
        if *self.peek() != Token::Sign("~") {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.skip_sign("~") {
            parts.push(self.product()?);
        }
        Ok(Expr::Concat(parts))
    }

    fn product(&mut self) -> Result<Expr, Syntax> {
        let operators = [Operator::Multiply, Operator::Divide, Operator::FloorDivide, Operator::Modulo];
        self.left_to_right(&operators, Self::power)
    }

    fn power(&mut self) -> Result<Expr, Syntax> {
        self.left_to_right(&[Operator::Power], |parser| parser.unary(true))
    }

    fn unary(&mut self, filtered: bool) -> Result<Expr, Syntax> {
        let value = if self.skip_sign("-") {
            Expr::Negative(Box::new(self.deeper(|parser| parser.unary(false))?))
        } else if self.skip_sign("+") {
            Expr::Positive(Box::new(self.deeper(|parser| parser.unary(false))?))
        } else {
            self.primary()?
        };
        let mut steps = Vec::new();
        self.postfix(&mut steps)?;
        if !filtered {
            return Ok(with_steps(value, steps));
        }
        loop {
            if self.skip_sign("|") {
                steps.push(Step::Filter(self.filter()?));
            } else if self.skip_word("is") {
                steps.push(self.test()?);
            } else if *self.peek() == Token::Sign("(") {
                steps.push(Step::Call(self.arguments()?));
            } else {
                break;
            }
        }
        Ok(with_steps(value, steps))
    }

    #[inline(never)]
    fn primary(&mut self) -> Result<Expr, Syntax> {
        match self.peek() {
            Token::Name(_) => {
                let name = self.name()?;
                Ok(match &*name {
                    "true" | "True" => Expr::Const(Value::Bool(true)),
                    "false" | "False" => Expr::Const(Value::Bool(false)),
                    "none" | "None" => Expr::Const(Value::None),
                    _ => {
                        self.note_name(&name);
                        Expr::Name(name)
                    }
                })
            }
            Token::Str(_) => {
                let mut text = String::new();
                while let Token::Str(part) = self.peek() {
                    text.push_str(part);
                    self.next();
                }
                Ok(Expr::Const(text.into()))
            }
            Token::Int(number) => {
                let number = *number;
                self.next();
                Ok(Expr::Const(Value::Int(number)))
            }
            Token::Float(number) => {
                let number = *number;
                self.next();
                Ok(Expr::Const(Value::Float(number)))
            }
            Token::Sign("(") => {
                self.next();
                if self.skip_sign(")") {
                    return Ok(Expr::Tuple(Vec::new()));
                }
                let value = self.tuple(true, &[])?;
                self.expect_sign(")")?;
                Ok(value)
            }
            Token::Sign("[") => {
                self.next();
                let mut items = Vec::new();
                while !self.skip_sign("]") {
                    if !items.is_empty() {
                        self.expect_sign(",")?;
                        if self.skip_sign("]") {
                            break;
                        }
                    }
                    items.push(self.expression()?);
                }
                Ok(Expr::List(items))
            }
            Token::Sign("{") => {
                self.next();
                let mut entries = Vec::new();
                while !self.skip_sign("}") {
                    if !entries.is_empty() {
                        self.expect_sign(",")?;
                        if self.skip_sign("}") {
                            break;
                        }
                    }
                    let key = self.expression()?;
                    self.expect_sign(":")?;
                    entries.push((key, self.expression()?));
                }
                Ok(Expr::Dict(entries))
            }
            _ => self.unexpected("a value"),
        }
    }

    /// Attributes, subscripts and calls.
    fn postfix(&mut self, steps: &mut Vec<Step>) -> Result<(), Syntax> {
        loop {
            match self.peek() {
                Token::Sign(".") => {
                    self.next();
                    steps.push(match *self.peek() {
                        Token::Int(index) => {
                            self.next();
                            Step::Item(Expr::Const(Value::Int(index)))
                        }
                        _ => Step::Attribute(self.name()?),
                    });
                }
                Token::Sign("[") => {
                    self.next();
                    steps.push(self.subscript()?);
                    self.expect_sign("]")?;
                }
                Token::Sign("(") => steps.push(Step::Call(self.arguments()?)),
                _ => return Ok(()),
            }
        }
    }

    fn subscript(&mut self) -> Result<Step, Syntax> {
        let mut parts = [None, None, None];
        let mut colons = 0;
        while *self.peek() != Token::Sign("]") {
            if self.skip_sign(":") {
                colons += 1;
                if colons == 3 {
                    return self.fail("a slice has three parts at most");
                }
            } else if parts[colons].is_none() {
                parts[colons] = Some(self.expression()?);
            } else {
                break;
            }
        }
        if colons > 0 {
            return Ok(Step::Slice(Box::new(parts)));
        }
        let [Some(first), ..] = parts else { return self.unexpected("a subscript") };
        if *self.peek() != Token::Sign(",") {
            return Ok(Step::Item(first));
        }
        let mut keys = vec![first];
        while self.skip_sign(",") && *self.peek() != Token::Sign("]") {
            keys.push(self.expression()?);
        }
        Ok(Step::Item(Expr::Tuple(keys)))
    }

    fn test(&mut self) -> Result<Step, Syntax> {
        let negated = self.skip_word("not");
        let name = self.dotted_name()?;
        let mut arguments = Arguments::default();
        match self.peek() {
            Token::Sign("(") => arguments = self.arguments()?,
            Token::Name(word) if matches!(word.as_str(), "else" | "or" | "and") => {}
            Token::Name(word) if word == "is" => return self.fail("tests with is cannot be chained"),
            Token::Name(_) | Token::Str(_) | Token::Int(_) | Token::Float(_) | Token::Sign("[" | "{") => {
                let argument = self.deeper(Self::primary)?;
                let mut steps = Vec::new();
                self.postfix(&mut steps)?;
                arguments.positional.push(with_steps(argument, steps));
            }
            _ => {}
        }
        Ok(Step::Test { name, arguments, negated })
    }
}

fn with_steps(value: Expr, steps: Vec<Step>) -> Expr {
    if steps.is_empty() { value } else { Expr::Postfix(Box::new(value), steps) }
}
