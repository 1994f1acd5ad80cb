//! Methods of texts. Places count characters.

use std::sync::Arc;

use crate::jinja::evaluate::Called;
use crate::jinja::lexer::is_space;
use crate::jinja::print::is_printable;
use crate::jinja::run::Run;
use crate::jinja::value::{Key, Value};
use crate::jinja::{Result, failed};

pub(in crate::jinja) const NAMES: [&str; 47] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "maketrans",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "translate",
    "upper",
    "zfill",
];

/// The zeros of all scripts; nine digits follow each.
const ZEROS: [u32; 66] = [
    0x0030, 0x0660, 0x06f0, 0x07c0, 0x0966, 0x09e6, 0x0a66, 0x0ae6, 0x0b66, 0x0be6, 0x0c66, 0x0ce6, 0x0d66, 0x0de6,
    0x0e50, 0x0ed0, 0x0f20, 0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90, 0x1b50, 0x1bb0, 0x1c40,
    0x1c50, 0xa620, 0xa8d0, 0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10, 0x104a0, 0x10d30, 0x11066, 0x110f0,
    0x11136, 0x111d0, 0x112f0, 0x11450, 0x114d0, 0x11650, 0x116c0, 0x11730, 0x118e0, 0x11950, 0x11c50, 0x11d50,
    0x11da0, 0x16a60, 0x16ac0, 0x16b50, 0x1d7ce, 0x1d7d8, 0x1d7e2, 0x1d7ec, 0x1d7f6, 0x1e140, 0x1e2f0, 0x1e950,
    0x1fbf0,
];

impl Run<'_> {
    pub(in crate::jinja) fn string_method(&mut self, text: &Arc<str>, name: &str, called: Called) -> Result<Value> {
        match name {
            "format" => return self.str_format(text, called, false),
            "format_map" => return self.str_format(text, called, true),
            "count" | "find" | "index" | "rfind" | "rindex" => return find(text, name, called),
            "startswith" | "endswith" => return self.starts(text, name, called),
            "split" | "rsplit" => return self.split(text, name, called),
            "center" | "ljust" | "rjust" | "zfill" | "expandtabs" => return self.widen(text, name, called),
            "translate" => return self.translate(text, called),
            "maketrans" => return self.maketrans(called),
            "encode" => return failed("encode is not supported: templates have no bytes"),
            "strip" | "lstrip" | "rstrip" => {
                let [chars] = called.bind(name, ["chars"])?;
                let chars = chars.filter(|chars| !chars.is_none());
                let chars: Option<Vec<char>> = match chars {
                    Some(chars) => Some(self.wanted_text(name, Some(chars))?.chars().collect()),
                    None => None,
                };
                return self.text(strip(text, name, chars.as_deref()));
            }
            "removeprefix" | "removesuffix" => {
                let [part] = called.bind(name, ["part"])?;
                let part = self.wanted_text(name, part)?;
                let rest = if name == "removeprefix" { text.strip_prefix(&*part) } else { text.strip_suffix(&*part) };
                return self.text(rest.unwrap_or(text));
            }
            "partition" | "rpartition" => {
                let [separator] = called.bind(name, ["sep"])?;
                let separator = self.wanted_text(name, separator)?;
                if separator.is_empty() {
                    return failed("a separator cannot be empty");
                }
                let (found, missing) = if name == "partition" {
                    (text.split_once(&*separator), [&**text, "", ""])
                } else {
                    (text.rsplit_once(&*separator), ["", "", &**text])
                };
                let parts = found.map_or(missing, |(before, after)| [before, &*separator, after]);
                let parts = parts.map(Value::from).to_vec();
                self.charge(text.len())?;
                return self.tuple(parts);
            }
            "replace" => {
                let [old, new, count] = called.bind(name, ["old", "new", "count"])?;
                let (old, new) = (self.wanted_text(name, old)?, self.wanted_text(name, new)?);
                return self.replace(text, &old, &new, count);
            }
            "join" => {
                let [items] = called.bind(name, ["iterable"])?;
                let Some(items) = items else { return failed("join wants items") };
                let items = self.iterate(&items)?;
                let mut out = String::new();
                for (i, item) in items.iter().enumerate() {
                    let Some(item) = item.as_str() else {
                        return failed(format!("join wants texts, item {i} is {}", item.type_name()));
                    };
                    let separator = if i == 0 { "" } else { text };
                    self.charge(separator.len() + item.len())?;
                    out.push_str(separator);
                    out.push_str(item);
                }
                return Ok(out.into());
            }
            "splitlines" => {
                let [keep] = called.bind(name, ["keepends"])?;
                let keep = keep.is_some_and(|keep| self.truth(&keep));
                let lines: Vec<Value> = lines(text, keep).into_iter().map(Value::from).collect();
                self.charge(text.len())?;
                return self.list(lines);
            }
            _ => called.none(name)?,
        }
        let all = |test: fn(char) -> bool| Value::Bool(!text.is_empty() && text.chars().all(test));
        Ok(match name {
            "upper" => return self.text(text.to_uppercase()),
            "lower" => return self.text(text.to_lowercase()),
            "casefold" => {
                // Letters that capitals spell with several are spelled out, as ß is ss.
                let fold =
                    |c: char| if c.to_uppercase().len() > 1 { c.to_uppercase().collect() } else { c.to_string() };
                return self.text(text.chars().map(fold).collect::<String>().to_lowercase());
            }
            "capitalize" => return self.text(capitalize(text)),
            "title" => return self.text(title(text)),
            "swapcase" => {
                let swap = |c: char| -> String {
                    if c.is_uppercase() { c.to_lowercase().collect() } else { c.to_uppercase().collect() }
                };
                return self.text(text.chars().map(swap).collect::<String>());
            }
            "isascii" => text.is_ascii().into(),
            "isalpha" => all(is_alpha),
            "isdecimal" => all(is_decimal),
            "isdigit" => all(|c| is_decimal(c) || is_other_digit(c)),
            "isnumeric" => all(|c| c.is_numeric() || "一二三四五六七八九十百千万億零".contains(c)),
            "isalnum" => all(|c| is_alpha(c) || c.is_numeric()),
            "isspace" => all(is_space),
            "isprintable" => text.chars().all(is_printable).into(),
            "islower" => has_case(text, false).into(),
            "isupper" => has_case(text, true).into(),
            "istitle" => (text.chars().any(is_cased) && title(text) == **text).into(),
            _ => {
                let start = |c: char| c == '_' || is_alpha(c);
                let named = text.starts_with(start) && text.chars().all(|c| c == '_' || c.is_alphanumeric());
                named.into()
            }
        })
    }

    pub(in crate::jinja) fn wanted_text(&mut self, name: &str, value: Option<Value>) -> Result<Arc<str>> {
        match value {
            Some(Value::Str(text) | Value::Markup(text)) => Ok(text),
            Some(other) => failed(format!("{name} wants a text, not {}", other.type_name())),
            None => failed(format!("{name} wants a text")),
        }
    }

    pub(in crate::jinja) fn replace(
        &mut self,
        text: &str,
        old: &str,
        new: &str,
        count: Option<Value>,
    ) -> Result<Value> {
        let count = match count.filter(|count| !count.is_none()) {
            None => usize::MAX,
            Some(count) => match count.as_int() {
                Some(count) => usize::try_from(count).unwrap_or(usize::MAX),
                None => return failed("replace: count is a whole number"),
            },
        };
        let found = text.matches(old).take(count).count();
        self.charge(text.len().saturating_add(found.saturating_mul(new.len())))?;
        Ok(text.replacen(old, new, count).into())
    }

    fn starts(&mut self, text: &str, name: &str, called: Called) -> Result<Value> {
        let [part, start, end] = called.bind(name, ["part", "start", "end"])?;
        let parts = match part {
            Some(Value::Tuple(list)) => list.items.clone(),
            Some(part @ (Value::Str(_) | Value::Markup(_))) => vec![part],
            _ => return failed(format!("{name} wants a text or a tuple of texts")),
        };
        let Some((_, window)) = window(text, start, end)? else { return Ok(false.into()) };
        for part in parts {
            let part = self.wanted_text(name, Some(part))?;
            let found = if name == "startswith" { window.starts_with(&*part) } else { window.ends_with(&*part) };
            if found {
                return Ok(true.into());
            }
        }
        Ok(false.into())
    }

    fn split(&mut self, text: &str, name: &str, called: Called) -> Result<Value> {
        let [separator, most] = called.bind(name, ["sep", "maxsplit"])?;
        let most = match most {
            None => None,
            Some(most) => match most.as_int() {
                Some(most) => usize::try_from(most).ok(),
                None => return failed(format!("{name}: maxsplit is a whole number")),
            },
        };
        let parts: Vec<&str> = match separator.filter(|separator| !separator.is_none()) {
            Some(separator) => {
                let separator = self.wanted_text(name, Some(separator))?;
                if separator.is_empty() {
                    return failed("a separator cannot be empty");
                }
                let limit = most.unwrap_or(usize::MAX - 1).saturating_add(1);
                if name == "split" {
                    text.splitn(limit, &*separator).collect()
                } else {
                    let mut parts: Vec<&str> = text.rsplitn(limit, &*separator).collect();
                    parts.reverse();
                    parts
                }
            }
            None if name == "split" => words(text, most),
            None => {
                let mut parts = Vec::new();
                let mut rest = text.trim_end_matches(is_space);
                while !rest.is_empty() {
                    if most.is_some_and(|most| parts.len() == most) {
                        parts.push(rest);
                        break;
                    }
                    let start =
                        rest.rfind(is_space).map_or(0, |at| at + rest[at..].chars().next().map_or(1, char::len_utf8));
                    parts.push(&rest[start..]);
                    rest = rest[..start].trim_end_matches(is_space);
                }
                parts.reverse();
                parts
            }
        };
        self.charge(text.len())?;
        self.list(parts.into_iter().map(Value::from).collect())
    }

    fn widen(&mut self, text: &str, name: &str, called: Called) -> Result<Value> {
        if name == "expandtabs" {
            let [size] = called.bind(name, ["tabsize"])?;
            return self.expand_tabs(text, size.map_or(Some(8), |size| size.as_int()));
        }
        let [width, fill] = called.bind(name, ["width", "fillchar"])?;
        let Some(width) = width.as_ref().and_then(Value::as_int) else {
            return failed(format!("{name} wants a width"));
        };
        let fill = match fill {
            None => ' ',
            Some(fill) => {
                let fill = self.wanted_text(name, Some(fill))?;
                let mut chars = fill.chars();
                match (chars.next(), chars.next()) {
                    (Some(fill), None) => fill,
                    _ => return failed(format!("{name} fills with one character")),
                }
            }
        };
        self.widened(text, name, width, fill)
    }

    /// The text with fill around it. The odd one goes to the left if the width is odd, as in Python.
    pub(in crate::jinja) fn widened(&mut self, text: &str, name: &str, width: i128, fill: char) -> Result<Value> {
        let width = usize::try_from(width.max(0)).unwrap_or(usize::MAX);
        let missing = width.saturating_sub(text.chars().count());
        self.charge(text.len().saturating_add(missing.saturating_mul(fill.len_utf8())))?;
        let left = match name {
            "center" => missing / 2 + (missing & width & 1),
            "ljust" => 0,
            _ => missing,
        };
        let (sign, body, fill) = match name {
            "zfill" => {
                let sign = usize::from(text.starts_with(['+', '-']));
                (&text[..sign], &text[sign..], '0')
            }
            _ => ("", text, fill),
        };
        let mut out = String::from(sign);
        out.extend(std::iter::repeat_n(fill, left));
        out.push_str(body);
        out.extend(std::iter::repeat_n(fill, missing - left));
        Ok(out.into())
    }

    fn expand_tabs(&mut self, text: &str, size: Option<i128>) -> Result<Value> {
        let Some(size) = size else { return failed("expandtabs wants a number") };
        let size = usize::try_from(size.max(0)).unwrap_or(usize::MAX);
        let (mut out, mut column) = (String::new(), 0);
        for c in text.chars() {
            match c {
                '\t' => {
                    let spaces = if size == 0 { 0 } else { size - column % size };
                    self.charge(spaces)?;
                    out.extend(std::iter::repeat_n(' ', spaces));
                    column += spaces;
                }
                c => {
                    out.push(c);
                    column = if matches!(c, '\n' | '\r') { 0 } else { column + 1 };
                }
            }
        }
        self.text(out)
    }

    fn maketrans(&mut self, called: Called) -> Result<Value> {
        let [from, to, gone] = called.bind("maketrans", ["x", "y", "z"])?;
        let code = |c: char| Value::Int(i128::from(u32::from(c)));
        let mut pairs = Vec::new();
        match (from, to) {
            (Some(Value::Dict(dict)), None) => {
                for (key, value) in &dict.entries {
                    let key = key.as_str().and_then(|key| key.chars().next()).map_or(key.clone(), code);
                    pairs.push((key, value.clone()));
                }
            }
            (Some(Value::Str(from)), Some(Value::Str(to))) if from.chars().count() == to.chars().count() => {
                pairs.extend(from.chars().zip(to.chars()).map(|(from, to)| (code(from), code(to))));
                let gone = gone.as_ref().and_then(Value::as_str).unwrap_or("");
                pairs.extend(gone.chars().map(|c| (code(c), Value::None)));
            }
            _ => return failed("maketrans wants a dict, or two texts of equal length"),
        }
        self.dict(pairs)
    }

    fn translate(&mut self, text: &str, called: Called) -> Result<Value> {
        let [Some(Value::Dict(dict))] = called.bind("translate", ["table"])? else {
            return failed("translate wants a dict");
        };
        let mut out = String::new();
        for c in text.chars() {
            match dict.get(&Key::Int(i128::from(u32::from(c)))) {
                None => out.push(c),
                Some(Value::None) => {}
                Some(Value::Str(text)) => {
                    self.charge(text.len())?;
                    out.push_str(text);
                }
                Some(other) => {
                    match other.as_int().and_then(|code| u32::try_from(code).ok()).and_then(char::from_u32) {
                        Some(c) => out.push(c),
                        None => return failed("translate wants characters"),
                    }
                }
            }
        }
        self.text(out)
    }
}

/// Words between white space; after the given number of cuts the rest is one.
pub(in crate::jinja) fn words(text: &str, most: Option<usize>) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        if most.is_some_and(|most| parts.len() == most) {
            parts.push(rest);
            break;
        }
        let end = rest.find(is_space).unwrap_or(rest.len());
        parts.push(&rest[..end]);
        rest = rest[end..].trim_start_matches(is_space);
    }
    parts
}

pub(in crate::jinja) fn strip<'t>(text: &'t str, name: &str, chars: Option<&[char]>) -> &'t str {
    let gone = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(&c));
    let text = if name == "rstrip" { text } else { text.trim_start_matches(gone) };
    if name == "lstrip" { text } else { text.trim_end_matches(gone) }
}

/// Lines as Python divides them.
pub(in crate::jinja) fn lines(text: &str, keep: bool) -> Vec<&str> {
    let ends = |c: char| matches!(c, '\n'..='\r' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(ends).unwrap_or(rest.len());
        let newline = match rest[end..].chars().next() {
            Some('\r') if rest[end + 1..].starts_with('\n') => 2,
            Some(c) => c.len_utf8(),
            None => 0,
        };
        lines.push(&rest[..if keep { end + newline } else { end }]);
        rest = &rest[end + newline..];
    }
    lines
}

/// The part of the text between two places, and how many characters are before it.
fn window(text: &str, start: Option<Value>, end: Option<Value>) -> Result<Option<(usize, &str)>> {
    if start.is_none() && end.is_none() {
        return Ok(Some((0, text)));
    }
    let length = text.chars().count() as i128;
    let place = |value: Option<Value>, absent: i128| match value.filter(|value| !value.is_none()) {
        None => Ok(absent),
        Some(value) => match value.as_int() {
            Some(at) if at < 0 => Ok(at.saturating_add(length).max(0)),
            Some(at) => Ok(at),
            None => failed("a place in a text is a whole number"),
        },
    };
    let (start, end) = (place(start, 0)?, place(end, length)?.min(length));
    if start > end {
        return Ok(None);
    }
    let byte = |at: i128| text.char_indices().nth(at as usize).map_or(text.len(), |(byte, _)| byte);
    Ok(Some((start as usize, &text[byte(start)..byte(end)])))
}

fn find(text: &str, name: &str, called: Called) -> Result<Value> {
    let [Some(Value::Str(part) | Value::Markup(part)), start, end] = called.bind(name, ["sub", "start", "end"])? else {
        return failed(format!("{name} wants a text"));
    };
    let Some((before, window)) = window(text, start, end)? else {
        return match name {
            "count" => Ok(0usize.into()),
            "index" | "rindex" => failed("the text is not found"),
            _ => Ok((-1i64).into()),
        };
    };
    if name == "count" {
        return Ok(window.matches(&*part).count().into());
    }
    let found = if name.starts_with('r') { window.rfind(&*part) } else { window.find(&*part) };
    match found {
        Some(at) => Ok((before + window[..at].chars().count()).into()),
        None if name.ends_with("index") => failed("the text is not found"),
        None => Ok((-1i64).into()),
    }
}

/// The first letter as in a title, the others small.
pub(in crate::jinja) fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    let Some(first) = chars.next() else { return String::new() };
    titlecase(first) + &chars.as_str().to_lowercase()
}

fn titlecase(c: char) -> String {
    let upper: String = c.to_uppercase().collect();
    let mut letters = upper.chars();
    letters.next().map(String::from).unwrap_or_default() + &letters.as_str().to_lowercase()
}

fn title(text: &str) -> String {
    let (mut out, mut inside) = (String::new(), false);
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase())
        } else {
            out.push_str(&titlecase(c))
        }
        inside = is_cased(c);
    }
    out
}

fn is_cased(c: char) -> bool {
    c.is_lowercase() || c.is_uppercase()
}

/// Whether all letters that have a case have this one, and there is one.
pub(in crate::jinja) fn has_case(text: &str, upper: bool) -> bool {
    let mut cased = text.chars().filter(|c| is_cased(*c)).peekable();
    cased.peek().is_some() && cased.all(|c| if upper { c.is_uppercase() } else { c.is_lowercase() })
}

/// A letter. Marks are none, even those that Unicode calls alphabetic.
fn is_alpha(c: char) -> bool {
    c.is_alphabetic() && !c.is_numeric() && (c.is_ascii() || c.escape_debug().next() == Some(c))
}

/// What an alphabet's digits are, by the zero before them.
pub(in crate::jinja) fn decimal(c: char) -> Option<u32> {
    let code = u32::from(c);
    let zero = ZEROS.iter().rev().find(|zero| **zero <= code)?;
    Some(code - zero).filter(|digit| *digit < 10)
}

fn is_decimal(c: char) -> bool {
    decimal(c).is_some()
}

/// Digits that stand for themselves, not in a number: raised, lowered, in circles.
fn is_other_digit(c: char) -> bool {
    matches!(c, '²' | '³' | '¹' | '⁰' | '⁴'..='⁹' | '₀'..='₉' | '①'..='⑨' | '⑴'..='⑼' | '⒈'..='⒐' | '⓪' | '⓵'..='⓽' | '❶'..='❾' | '➀'..='➈' | '➊'..='➒')
}
