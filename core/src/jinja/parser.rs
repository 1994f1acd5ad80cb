//! Statements. Expressions are in `expressions.rs`.

use super::Syntax;
use super::ast::{Arguments, Body, Call, Expr, Filter, For, Macro, Name, Node, Program, Statement, Step, Target};
use super::lexer::{Token, tokens};

/// Deepest nesting of statements and expressions, which bounds the stack that a template takes.
pub(super) const MAX_NESTING: usize = 64;

pub(super) struct Parser {
    tokens: Vec<(Token, usize)>,
    at: usize,
    pub(super) nesting: usize,
    program: Program,
    /// For each macro that is being read, whether it speaks of `varargs` and `kwargs`.
    macros: Vec<(bool, bool)>,
    /// How many loops the statement is in.
    loops: usize,
}

/// Reads a template.
pub(super) fn parse(source: &str) -> Result<Program, Syntax> {
    let tokens = tokens(source)?;
    let mut parser = Parser { tokens, at: 0, nesting: 0, program: Program::default(), macros: Vec::new(), loops: 0 };
    let (body, _) = parser.body(&[])?;
    parser.program.body = body;
    Ok(parser.program)
}

impl Parser {
    pub(super) fn fail<T>(&self, reason: impl Into<String>) -> Result<T, Syntax> {
        Err(Syntax { line: self.line(), reason: reason.into() })
    }

    pub(super) fn line(&self) -> usize {
        self.tokens[self.at].1
    }

    pub(super) fn peek(&self) -> &Token {
        &self.tokens[self.at].0
    }

    pub(super) fn look_ahead(&self) -> &Token {
        &self.tokens[(self.at + 1).min(self.tokens.len() - 1)].0
    }

    pub(super) fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }

    pub(super) fn skip_sign(&mut self, sign: &str) -> bool {
        let found = matches!(self.peek(), Token::Sign(found) if *found == sign);
        if found {
            self.next();
        }
        found
    }

    pub(super) fn expect_sign(&mut self, sign: &str) -> Result<(), Syntax> {
        if self.skip_sign(sign) { Ok(()) } else { self.unexpected(&format!("{sign:?}")) }
    }

    pub(super) fn at_word(&self, word: &str) -> bool {
        matches!(self.peek(), Token::Name(found) if found == word)
    }

    pub(super) fn skip_word(&mut self, word: &str) -> bool {
        let found = self.at_word(word);
        if found {
            self.next();
        }
        found
    }

    pub(super) fn name(&mut self) -> Result<Name, Syntax> {
        match self.peek() {
            Token::Name(_) => match self.next() {
                Token::Name(name) => Ok(name.into()),
                _ => self.unexpected("a name"),
            },
            _ => self.unexpected("a name"),
        }
    }

    pub(super) fn unexpected<T>(&self, wanted: &str) -> Result<T, Syntax> {
        let found = match self.peek() {
            Token::Text(_) => "text".to_owned(),
            Token::ExpressionBegin => "{{".to_owned(),
            Token::ExpressionEnd => "}}".to_owned(),
            Token::BlockBegin => "{%".to_owned(),
            Token::BlockEnd => "%}".to_owned(),
            Token::Name(name) => name.clone(),
            Token::Str(text) => format!("{text:?}"),
            Token::Int(number) => number.to_string(),
            Token::Float(number) => number.to_string(),
            Token::Sign(sign) => (*sign).to_owned(),
            Token::End => "the end".to_owned(),
        };
        self.fail(format!("expected {wanted}, found {found}"))
    }

    /// Runs a part of the parser one level deeper.
    pub(super) fn deeper<T>(&mut self, part: impl FnOnce(&mut Self) -> Result<T, Syntax>) -> Result<T, Syntax> {
        if self.nesting >= MAX_NESTING {
            return self.fail(format!("statements and expressions are nested more than {MAX_NESTING} deep"));
        }
        self.nesting += 1;
        let result = part(self);
        self.nesting -= 1;
        result
    }

    /// Notes what a macro's body speaks of.
    pub(super) fn note_name(&mut self, name: &str) {
        if let Some(uses) = self.macros.last_mut() {
            uses.0 |= name == "varargs";
            uses.1 |= name == "kwargs";
        }
    }

    fn end_of_block(&mut self) -> Result<(), Syntax> {
        if *self.peek() == Token::BlockEnd {
            self.next();
            return Ok(());
        }
        self.unexpected("%}")
    }

    /// Statements up to a tag that starts with one of the words; that word is read, the rest of its tag is not.
    fn body(&mut self, ends: &[&str]) -> Result<(Body, String), Syntax> {
        let mut body = Vec::new();
        loop {
            let line = self.line();
            match self.next() {
                Token::Text(text) => body.push(Statement { line, node: Node::Text(text.into()) }),
                Token::ExpressionBegin => {
                    let value = self.tuple(true, &[])?;
                    if *self.peek() != Token::ExpressionEnd {
                        return self.unexpected("}}");
                    }
                    self.next();
                    body.push(Statement { line, node: Node::Print(value) });
                }
                Token::BlockBegin => {
                    let Token::Name(word) = self.peek() else { return self.unexpected("the name of a statement") };
                    let word = word.clone();
                    if ends.contains(&word.as_str()) {
                        self.next();
                        return Ok((body, word));
                    }
                    self.next();
                    let node = self.deeper(|parser| parser.statement(&word, line))?;
                    if let Some(node) = node {
                        body.push(Statement { line, node });
                    }
                }
                Token::End if ends.is_empty() => return Ok((body, String::new())),
                Token::End => return self.fail(format!("the template ends before {}", ends.join(" or "))),
                _ => return self.unexpected("text or a tag"),
            }
        }
    }

    /// Statements up to the tag of that word, all of it.
    fn block(&mut self, end: &str) -> Result<Body, Syntax> {
        self.end_of_block()?;
        let (body, _) = self.body(&[end])?;
        self.end_of_block()?;
        Ok(body)
    }

    /// A statement whose first word was read, to the end of its last tag.
    #[inline(never)]
    fn statement(&mut self, word: &str, line: usize) -> Result<Option<Node>, Syntax> {
        let node = match word {
            "if" => return self.branches().map(Some),
            "for" => return self.repetition().map(Some),
            "set" => return self.assignment().map(Some),
            "macro" => {
                let name = self.name()?;
                let parameters = self.parameters()?;
                return Ok(Some(Node::Macro(self.callable(name, parameters, "endmacro")?)));
            }
            "call" => {
                let parameters = if *self.peek() == Token::Sign("(") { self.parameters()? } else { Vec::new() };
                let Expr::Postfix(value, mut steps) = self.expression()? else {
                    return self.fail("{% call %} wants a call of a macro");
                };
                let Some(Step::Call(arguments)) = steps.pop() else {
                    return self.fail("{% call %} wants a call of a macro");
                };
                let call = Call { function: Expr::Postfix(value, steps), arguments };
                return Ok(Some(Node::CallBlock(call, self.callable("caller".into(), parameters, "endcall")?)));
            }
            "filter" => {
                let filters = self.filters(true)?;
                return Ok(Some(Node::FilterBlock(filters, self.block("endfilter")?)));
            }
            "with" => {
                let mut targets = Vec::new();
                while *self.peek() != Token::BlockEnd {
                    if !targets.is_empty() {
                        self.expect_sign(",")?;
                    }
                    let target = self.target(false, None)?;
                    self.expect_sign("=")?;
                    targets.push((target, self.expression()?));
                }
                return Ok(Some(Node::With(targets, self.block("endwith")?)));
            }
            // Marks what the assistant says, for training; to render, it is a block like any other.
            "generation" => return Ok(Some(Node::With(Vec::new(), self.block("endgeneration")?))),
            "block" => {
                self.name()?;
                while matches!(self.peek(), Token::Name(_)) {
                    self.next();
                }
                self.end_of_block()?;
                let (body, _) = self.body(&["endblock"])?;
                if matches!(self.peek(), Token::Name(_)) {
                    self.next();
                }
                Node::With(Vec::new(), body)
            }
            "autoescape" => {
                if self.expression_is_true()? {
                    return self.fail("{% autoescape true %} is not supported: prompts are no HTML");
                }
                return Ok(Some(Node::With(Vec::new(), self.block("endautoescape")?)));
            }
            "print" => Node::Print(self.tuple(true, &[])?),
            "break" | "continue" if self.loops == 0 => {
                return Err(Syntax { line, reason: format!("{word} outside of a loop") });
            }
            "break" => Node::Break,
            "continue" => Node::Continue,
            "include" | "import" | "from" | "extends" => {
                while !matches!(self.peek(), Token::BlockEnd | Token::End) {
                    self.next();
                }
                Node::NoLoader(word.into())
            }
            other => return Err(Syntax { line, reason: format!("unknown statement {other:?}") }),
        };
        self.end_of_block()?;
        Ok(Some(node))
    }

    fn expression_is_true(&mut self) -> Result<bool, Syntax> {
        Ok(!matches!(self.expression()?, Expr::Const(super::value::Value::Bool(false))))
    }

    fn branches(&mut self) -> Result<Node, Syntax> {
        let mut branches = Vec::new();
        loop {
            let condition = self.tuple(false, &[])?;
            self.end_of_block()?;
            let (body, end) = self.body(&["elif", "else", "endif"])?;
            branches.push((condition, body));
            match end.as_str() {
                "elif" => {}
                "else" => return Ok(Node::If(branches, self.block("endif")?)),
                _ => {
                    self.end_of_block()?;
                    return Ok(Node::If(branches, Vec::new()));
                }
            }
        }
    }

    fn repetition(&mut self) -> Result<Node, Syntax> {
        let target = self.target(false, Some("in"))?;
        if !self.skip_word("in") {
            return self.unexpected("in");
        }
        let items = self.tuple(false, &["recursive"])?;
        let condition = if self.skip_word("if") { Some(self.expression()?) } else { None };
        let recursive = self.skip_word("recursive");
        self.end_of_block()?;
        self.loops += 1;
        let result = self.body(&["endfor", "else"]);
        self.loops -= 1;
        let (body, end) = result?;
        let otherwise = if end == "else" {
            self.block("endfor")?
        } else {
            self.end_of_block()?;
            Vec::new()
        };
        self.program.loops.push(For { target, items, condition, recursive, body, otherwise });
        Ok(Node::For(self.program.loops.len() - 1))
    }

    fn assignment(&mut self) -> Result<Node, Syntax> {
        let target = self.target(true, None)?;
        if self.skip_sign("=") {
            let value = self.tuple(true, &[])?;
            self.end_of_block()?;
            return Ok(Node::Set(target, value));
        }
        let filters = self.filters(false)?;
        Ok(Node::SetBlock(target, filters, self.block("endset")?))
    }

    /// One name or several with commas. `end` is the word after them.
    fn target(&mut self, attributes: bool, end: Option<&str>) -> Result<Target, Syntax> {
        let mut targets = Vec::new();
        let mut tuple = false;
        loop {
            let done = matches!(self.peek(), Token::Sign("=" | ")") | Token::BlockEnd);
            if !targets.is_empty() && (done || end.is_some_and(|word| self.at_word(word))) {
                break;
            }
            if self.skip_sign("(") {
                targets.push(self.deeper(|parser| parser.target(attributes, None))?);
                self.expect_sign(")")?;
            } else {
                let name = self.name()?;
                if matches!(&*name, "true" | "false" | "none" | "True" | "False" | "None") {
                    return self.fail(format!("cannot assign to {name}"));
                }
                targets.push(if attributes && self.skip_sign(".") {
                    Target::Attribute(name, self.name()?)
                } else {
                    Target::Name(name)
                });
            }
            if !self.skip_sign(",") {
                break;
            }
            tuple = true;
        }
        match targets.pop() {
            Some(only) if !tuple && targets.is_empty() => Ok(only),
            last => {
                targets.extend(last);
                Ok(Target::Tuple(targets))
            }
        }
    }

    fn parameters(&mut self) -> Result<Vec<(Name, Option<Expr>)>, Syntax> {
        self.expect_sign("(")?;
        let mut parameters: Vec<(Name, Option<Expr>)> = Vec::new();
        while !self.skip_sign(")") {
            if !parameters.is_empty() {
                self.expect_sign(",")?;
                if self.skip_sign(")") {
                    break;
                }
            }
            let name = self.name()?;
            let default = if self.skip_sign("=") { Some(self.expression()?) } else { None };
            if default.is_none() && parameters.iter().any(|(_, default)| default.is_some()) {
                return self.fail("a parameter without default follows one with a default");
            }
            parameters.push((name, default));
        }
        Ok(parameters)
    }

    /// The body of a macro, or of a `{% call %}`.
    fn callable(&mut self, name: Name, parameters: Vec<(Name, Option<Expr>)>, end: &str) -> Result<usize, Syntax> {
        self.macros.push((false, false));
        let loops = std::mem::take(&mut self.loops);
        let body = self.block(end);
        self.loops = loops;
        let (varargs, kwargs) = self.macros.pop().unwrap_or_default();
        // What an inner body speaks of, the outer one may have to hand on.
        if end == "endcall" {
            for (name, used) in [("varargs", varargs), ("kwargs", kwargs)] {
                if used {
                    self.note_name(name);
                }
            }
        }
        self.program.macros.push(Macro { name, parameters, body: body?, varargs, kwargs });
        Ok(self.program.macros.len() - 1)
    }

    /// `name(...) | name(...)`, or the same with a bar before the first.
    fn filters(&mut self, inline: bool) -> Result<Vec<Filter>, Syntax> {
        let mut filters = Vec::new();
        let mut first = inline;
        while first || self.skip_sign("|") {
            first = false;
            filters.push(self.filter()?);
        }
        Ok(filters)
    }

    pub(super) fn filter(&mut self) -> Result<Filter, Syntax> {
        let name = self.dotted_name()?;
        let arguments = if *self.peek() == Token::Sign("(") { self.arguments()? } else { Arguments::default() };
        Ok(Filter { name, arguments })
    }

    pub(super) fn dotted_name(&mut self) -> Result<Name, Syntax> {
        let mut name = self.name()?.to_string();
        while self.skip_sign(".") {
            name.push('.');
            name.push_str(&self.name()?);
        }
        Ok(name.into())
    }

    pub(super) fn arguments(&mut self) -> Result<Arguments, Syntax> {
        self.expect_sign("(")?;
        let mut arguments = Arguments::default();
        let mut first = true;
        while !self.skip_sign(")") {
            if !first {
                self.expect_sign(",")?;
                if self.skip_sign(")") {
                    break;
                }
            }
            first = false;
            let after_stars = arguments.star.is_some() || arguments.star_star.is_some();
            let named = matches!(self.peek(), Token::Name(_)) && *self.look_ahead() == Token::Sign("=");
            if !after_stars && self.skip_sign("*") {
                arguments.star = Some(self.expression()?);
            } else if arguments.star_star.is_none() && self.skip_sign("**") {
                arguments.star_star = Some(self.expression()?);
            } else if arguments.star_star.is_none() && named {
                let name = self.name()?;
                self.expect_sign("=")?;
                arguments.named.push((name, self.expression()?));
            } else if !after_stars && arguments.named.is_empty() {
                arguments.positional.push(self.expression()?);
            } else {
                return self.fail("an argument without a name follows one with a name or a star");
            }
        }
        Ok(arguments)
    }
}
