//! A template's source as tokens. The rules for white space around tags are those of jinja2 with `trim_blocks` and
//! `lstrip_blocks`, which is how transformers sets it: the first newline after a block tag goes, and so do blanks
//! between the start of a line and a block tag.

use super::Syntax;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// Text outside of tags.
    Text(String),
    ExpressionBegin,
    ExpressionEnd,
    BlockBegin,
    BlockEnd,
    Name(String),
    Str(String),
    Int(i128),
    Float(f64),
    Sign(&'static str),
    End,
}

/// What white space is to Python: Unicode's, and the four separators of ASCII.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Longer ones first.
const SIGNS: [&str; 26] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<", "=", ".",
    ":", "|", ",", ";",
];

struct Lexer<'s> {
    source: &'s str,
    at: usize,
    line: usize,
    tokens: Vec<(Token, usize)>,
    /// What was read last ended with a newline.
    line_start: bool,
}

/// Tokens with their lines, counted from 1; the last is [`Token::End`].
pub(super) fn tokens(source: &str) -> Result<Vec<(Token, usize)>, Syntax> {
    // All newlines are "\n", and one at the end is not part of the template.
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let source = source.strip_suffix('\n').unwrap_or(&source);
    let mut lexer = Lexer { source, at: 0, line: 1, tokens: Vec::new(), line_start: true };
    while lexer.at < source.len() {
        lexer.root()?;
    }
    let line = lexer.line;
    lexer.tokens.push((Token::End, line));
    Ok(lexer.tokens)
}

impl<'s> Lexer<'s> {
    fn rest(&self) -> &'s str {
        &self.source[self.at..]
    }

    fn fail<T>(&self, reason: impl Into<String>) -> Result<T, Syntax> {
        Err(Syntax { line: self.line, reason: reason.into() })
    }

    fn push(&mut self, token: Token) {
        self.tokens.push((token, self.line));
    }

    fn skip(&mut self, bytes: usize) {
        let skipped = &self.rest()[..bytes];
        self.line += skipped.bytes().filter(|&byte| byte == b'\n').count();
        if let Some(last) = skipped.bytes().last() {
            self.line_start = last == b'\n';
        }
        self.at += bytes;
    }

    fn skip_space(&mut self) {
        let space = self.rest().len() - self.rest().trim_start_matches(is_space).len();
        self.skip(space);
    }

    /// Text up to a tag whose sign is given; `block` when blanks before the tag may go.
    fn text(&mut self, text: &str, sign: Option<char>, block: bool) {
        let mut kept = text;
        if sign == Some('-') {
            kept = text.trim_end_matches(is_space);
        } else if sign != Some('+') && block {
            let line = text.rfind('\n').map_or(0, |at| at + 1);
            if (line > 0 || self.line_start) && text[line..].chars().all(is_space) {
                kept = &text[..line];
            }
        }
        if !kept.is_empty() {
            self.push(Token::Text(kept.to_owned()));
        }
        self.skip(text.len());
    }

    fn root(&mut self) -> Result<(), Syntax> {
        let rest = self.rest();
        let opens = |at: usize| ["{{", "{%", "{#"].into_iter().find(|open| rest[at..].starts_with(open));
        let found = rest.match_indices('{').find_map(|(at, _)| Some((at, opens(at)?)));
        let Some((start, open)) = found else {
            self.push(Token::Text(rest.to_owned()));
            self.skip(rest.len());
            return Ok(());
        };
        let sign = rest[start + 2..].chars().next().filter(|c| matches!(c, '-' | '+'));
        // `{{-1}}` strips too, as in jinja2.
        self.text(&rest[..start], sign, open != "{{");
        let inside = start + 2 + usize::from(sign.is_some());
        if open == "{%"
            && let Some(length) = raw_tag(&rest[inside..], "raw", false)
        {
            self.skip(inside - start + length);
            return self.raw();
        }
        let line = self.line;
        self.skip(inside - start);
        match open {
            "{#" => self.comment(line),
            "{{" => {
                self.push(Token::ExpressionBegin);
                self.tag(false)
            }
            _ => {
                self.push(Token::BlockBegin);
                self.tag(true)
            }
        }
    }

    /// Up to the end of `{% raw %}`.
    fn raw(&mut self) -> Result<(), Syntax> {
        let rest = self.rest();
        if rest.is_empty() {
            return Ok(());
        }
        for (start, _) in rest.match_indices("{%") {
            let sign = rest[start + 2..].chars().next().filter(|c| matches!(c, '-' | '+'));
            let inside = start + 2 + usize::from(sign.is_some());
            if let Some(length) = raw_tag(&rest[inside..], "endraw", true) {
                self.text(&rest[..start], sign, true);
                self.skip(inside - start + length);
                return Ok(());
            }
        }
        self.fail("{% raw %} has no {% endraw %}")
    }

    fn comment(&mut self, line: usize) -> Result<(), Syntax> {
        let rest = self.rest();
        let Some(end) = rest.find("#}") else {
            return Err(Syntax { line, reason: "a comment has no end".to_owned() });
        };
        self.skip(end + 2);
        match rest[..end].chars().last() {
            Some('-') => self.skip_space(),
            Some('+') => {}
            _ => self.skip_newline(),
        }
        Ok(())
    }

    fn skip_newline(&mut self) {
        if self.rest().starts_with('\n') {
            self.skip(1);
        }
    }

    /// Tokens up to the end of the tag.
    fn tag(&mut self, block: bool) -> Result<(), Syntax> {
        let (end, token) = if block { ("%}", Token::BlockEnd) } else { ("}}", Token::ExpressionEnd) };
        let mut open = Vec::new();
        loop {
            self.skip_space();
            let rest = self.rest();
            if open.is_empty() {
                let sign = rest.chars().next().filter(|&c| c == '-' || (block && c == '+'));
                let after = &rest[usize::from(sign.is_some())..];
                let (sign, ends) = if after.starts_with(end) { (sign, true) } else { (None, rest.starts_with(end)) };
                if ends {
                    self.push(token);
                    self.skip(2 + usize::from(sign.is_some()));
                    match sign {
                        Some('-') => self.skip_space(),
                        None if block => self.skip_newline(),
                        _ => {}
                    }
                    return Ok(());
                }
            }
            let Some(first) = rest.chars().next() else { return self.fail("a tag has no end") };
            if first.is_ascii_digit() {
                self.number()?;
            } else if first == '_' || first.is_alphanumeric() {
                let length = rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(rest.len());
                self.push(Token::Name(rest[..length].to_owned()));
                self.skip(length);
            } else if first == '\'' || first == '"' {
                self.string(first)?;
            } else {
                let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) else {
                    return self.fail(format!("unexpected character {first:?}"));
                };
                match *sign {
                    "(" => open.push(")"),
                    "[" => open.push("]"),
                    "{" => open.push("}"),
                    ")" | "]" | "}" if open.pop() != Some(*sign) => return self.fail(format!("unexpected {sign}")),
                    _ => {}
                }
                self.push(Token::Sign(sign));
                self.skip(sign.len());
            }
        }
    }

    fn number(&mut self) -> Result<(), Syntax> {
        let rest = self.rest();
        for (prefix, radix) in [("0x", 16), ("0b", 2), ("0o", 8)] {
            if rest.get(..2).is_some_and(|start| start.eq_ignore_ascii_case(prefix)) {
                let length = rest[2..].find(|c: char| c != '_' && !c.is_digit(radix)).unwrap_or(rest.len() - 2);
                let digits = rest[2..2 + length].replace('_', "");
                let Ok(number) = i128::from_str_radix(&digits, radix) else {
                    return self.fail("a number is malformed or too large");
                };
                self.push(Token::Int(number));
                self.skip(2 + length);
                return Ok(());
            }
        }
        let bytes = rest.as_bytes();
        let digits = |from: usize| {
            let mut end = from;
            while bytes.get(end).is_some_and(|byte| byte.is_ascii_digit())
                || (end > from
                    && bytes.get(end) == Some(&b'_')
                    && bytes.get(end + 1).is_some_and(|byte| byte.is_ascii_digit()))
            {
                end += 1;
            }
            end
        };
        let whole = digits(0);
        let mut end = whole;
        // `x.0.1` is two subscripts and no fraction.
        let after_dot = matches!(self.tokens.last(), Some((Token::Sign("."), _)));
        if !after_dot {
            if bytes.get(end) == Some(&b'.') && digits(end + 1) > end + 1 {
                end = digits(end + 1);
            }
            if matches!(bytes.get(end), Some(b'e' | b'E')) {
                let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
                let exponent = digits(end + 1 + sign);
                if exponent > end + 1 + sign {
                    end = exponent;
                }
            }
        }
        let text = rest[..end].replace('_', "");
        let token = if end > whole { text.parse().ok().map(Token::Float) } else { text.parse().ok().map(Token::Int) };
        let Some(token) = token else { return self.fail("a number is too large") };
        self.push(token);
        self.skip(end);
        Ok(())
    }

    fn string(&mut self, quote: char) -> Result<(), Syntax> {
        let body = &self.rest()[1..];
        let mut out = String::new();
        let mut chars = body.char_indices();
        while let Some((at, c)) = chars.next() {
            if c == quote {
                self.push(Token::Str(out));
                self.skip(at + 2);
                return Ok(());
            }
            if c != '\\' {
                out.push(c);
                continue;
            }
            let Some((at, escaped)) = chars.next() else { break };
            let plain = match escaped {
                '\n' => continue,
                '\\' | '\'' | '"' => escaped,
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                'a' => '\u{7}',
                'b' => '\u{8}',
                'f' => '\u{c}',
                'v' => '\u{b}',
                'x' | 'u' | 'U' | '0'..='7' => {
                    let (skip, length, radix) = match escaped {
                        'x' => (1, 2, 16),
                        'u' => (1, 4, 16),
                        'U' => (1, 8, 16),
                        _ => {
                            let octal = body[at..].bytes().take(3).take_while(|byte| (b'0'..=b'7').contains(byte));
                            (0, octal.count(), 8)
                        }
                    };
                    let code = body.get(at + skip..at + skip + length);
                    let code = code.and_then(|digits| u32::from_str_radix(digits, radix).ok());
                    let Some(c) = code.and_then(char::from_u32) else {
                        return self.fail(format!("a text holds a broken escape \\{escaped}"));
                    };
                    for _ in 1..skip + length {
                        chars.next();
                    }
                    c
                }
                other => {
                    out.push('\\');
                    other
                }
            };
            out.push(plain);
        }
        self.fail("a text has no closing quote")
    }
}

/// How long `raw %}` or `endraw %}` at the start of the text is with its trimmed white space, if it is there.
fn raw_tag(text: &str, word: &str, trim: bool) -> Option<usize> {
    let rest = text.trim_start_matches(is_space).strip_prefix(word)?.trim_start_matches(is_space);
    let rest = if let Some(rest) = rest.strip_prefix("-%}") {
        rest.trim_start_matches(is_space)
    } else if let Some(rest) = rest.strip_prefix("+%}").filter(|_| trim) {
        rest
    } else {
        let rest = rest.strip_prefix("%}")?;
        rest.strip_prefix('\n').filter(|_| trim).unwrap_or(rest)
    };
    Some(text.len() - rest.len())
}
