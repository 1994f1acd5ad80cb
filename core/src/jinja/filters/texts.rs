//! Filters of texts; other values are printed first.

use std::sync::Arc;

use crate::jinja::evaluate::Called;
use crate::jinja::lexer::is_space;
use crate::jinja::methods::strings::{capitalize, lines, strip, words};
use crate::jinja::operators::as_markup;
use crate::jinja::run::Run;
use crate::jinja::value::Value;
use crate::jinja::{Result, failed};

impl Run<'_> {
    pub(super) fn text_filter(&mut self, name: &str, value: Value, called: Called) -> Result<Value> {
        match name {
            "filesizeformat" => return self.file_size(&value, called),
            "urlencode" => {
                called.none(name)?;
                return self.url_encode(&value);
            }
            "xmlattr" => return self.xml_attributes(&value, called),
            "pprint" => {
                called.none(name)?;
                return self.pretty(&value);
            }
            _ => {}
        }
        if matches!((name, &value), ("indent" | "wordwrap", other) if other.as_str().is_none()) {
            return failed(format!("{name} wants a text, not {}", value.type_name()));
        }
        if name == "truncate" {
            return self.truncate(&value, called);
        }
        match (name, &value) {
            ("e" | "escape", _) => {
                called.none(name)?;
                return Ok(Value::Markup(self.escaped(&value)?));
            }
            // These keep that a text is HTML, the others make a plain text of it.
            (
                "capitalize" | "center" | "format" | "indent" | "lower" | "trim" | "upper" | "wordwrap",
                Value::Markup(text),
            ) => {
                let mut called = called;
                if name == "format" {
                    for value in called.positional.iter_mut().chain(called.named.iter_mut().map(|(_, value)| value)) {
                        *value = self.markup_arguments(value)?;
                    }
                }
                let plain = Value::Str(text.clone());
                return self.text_filter(name, plain, called).map(as_markup);
            }
            ("safe" | "string", Value::Markup(_)) => {
                called.none(name)?;
                return Ok(value);
            }
            _ => {}
        }
        let text = self.string(&value)?;
        match name {
            "capitalize" | "forceescape" | "lower" | "safe" | "string" | "striptags" | "title" | "upper"
            | "wordcount" => {
                called.none(name)?;
                match name {
                    "capitalize" => self.text(capitalize(&text)),
                    "lower" => self.text(text.to_lowercase()),
                    "upper" => self.text(text.to_uppercase()),
                    "title" => self.text(title(&text)),
                    "safe" => Ok(Value::Markup(text)),
                    "string" => Ok(Value::Str(text)),
                    "striptags" => self.text(without_tags(&text)),
                    "wordcount" => {
                        let inside = |c: char| c.is_alphanumeric() || c == '_';
                        Ok(text.split(|c| !inside(c)).filter(|word| !word.is_empty()).count().into())
                    }
                    _ => Ok(Value::Markup(self.escaped(&Value::Str(text))?)),
                }
            }
            "center" => {
                let [width] = called.bind(name, ["width"])?;
                let Some(width) = width.as_ref().map_or(Some(80), Value::as_int) else {
                    return failed("center wants a width");
                };
                self.widened(&text, name, width, ' ')
            }
            "format" => self.format_filter(&text, called),
            "indent" => self.indent(&text, called),
            "replace" => {
                let [Some(old), Some(new), count] = called.bind(name, ["old", "new", "count"])? else {
                    return failed("replace wants what goes and what comes");
                };
                let (old, new) = (self.string(&old)?, self.string(&new)?);
                self.replace(&text, &old, &new, count)
            }
            "trim" => {
                let [chars] = called.bind(name, ["chars"])?;
                let chars: Option<Vec<char>> = match chars.filter(|chars| !chars.is_none()) {
                    Some(chars) => Some(self.wanted_text(name, Some(chars))?.chars().collect()),
                    None => None,
                };
                self.text(strip(&text, "strip", chars.as_deref()))
            }
            "wordwrap" => self.word_wrap(&text, called),
            _ => failed("urlize is not supported: prompts are no HTML"),
        }
    }

    fn indent(&mut self, text: &str, called: Called) -> Result<Value> {
        let [width, first, blank] = called.bind("indent", ["width", "first", "blank"])?;
        let indent: Arc<str> = match width {
            None => "    ".into(),
            Some(Value::Str(indent)) => indent,
            Some(width) => match width.as_int() {
                Some(width) => {
                    let width = usize::try_from(width.max(0)).unwrap_or(usize::MAX);
                    self.charge(width)?;
                    " ".repeat(width).into()
                }
                None => return failed("indent wants a number or a text"),
            },
        };
        let flag = |value: Option<Value>| value.is_some_and(|value| self.truth(&value));
        let (first, blank) = (flag(first), flag(blank));
        // The newline more is what keeps one at the end.
        let text = [text, "\n"].concat();
        let mut out = String::new();
        for (i, line) in lines(&text, false).into_iter().enumerate() {
            out.push_str(if i == 0 { "" } else { "\n" });
            let indented = if i == 0 { first } else { blank || !line.is_empty() };
            if indented {
                self.charge(indent.len())?;
                out.push_str(&indent);
            }
            out.push_str(line);
        }
        self.text(out)
    }

    fn truncate(&mut self, value: &Value, called: Called) -> Result<Value> {
        let [length, kill, end, leeway] = called.bind("truncate", ["length", "killwords", "end", "leeway"])?;
        let number = |value: Option<Value>, usual: usize| match value.filter(|value| !value.is_none()) {
            None => Ok(usual),
            Some(value) => match value.as_int() {
                Some(number @ 0..) => Ok(usize::try_from(number).unwrap_or(usize::MAX)),
                _ => failed("truncate: length and leeway are whole numbers"),
            },
        };
        let (length, leeway) = (number(length, 255)?, number(leeway, 5)?);
        let end = match end {
            Some(end) => self.string(&end)?,
            None => "...".into(),
        };
        let Some(kept) = length.checked_sub(end.chars().count()) else {
            return failed("truncate: length is shorter than the end");
        };
        if self.length(value)? <= length.saturating_add(leeway) {
            return Ok(value.clone());
        }
        let Some(text) = value.as_str() else {
            return failed(format!("truncate wants a text, not {}", value.type_name()));
        };
        let cut = text.char_indices().nth(kept).map_or(text.len(), |(at, _)| at);
        let cut = &text[..cut];
        let whole = kill.is_some_and(|kill| self.truth(&kill));
        let cut = if whole { cut } else { cut.rsplit_once(' ').map_or(cut, |(words, _)| words) };
        self.text([cut, &end].concat())
    }

    fn word_wrap(&mut self, text: &str, called: Called) -> Result<Value> {
        let [width, long, wrap, hyphens] =
            called.bind("wordwrap", ["width", "break_long_words", "wrapstring", "break_on_hyphens"])?;
        let Some(width @ 1..) = width.as_ref().map_or(Some(79), Value::as_int) else {
            return failed("wordwrap: width is a number above 0");
        };
        let width = usize::try_from(width).unwrap_or(usize::MAX);
        let flag = |value: Option<Value>| value.is_none_or(|value| self.truth(&value));
        let (long, hyphens) = (flag(long), flag(hyphens));
        let wrap = match wrap.filter(|wrap| !wrap.is_none()) {
            Some(wrap) => self.string(&wrap)?,
            None => "\n".into(),
        };
        let mut out: Vec<String> = Vec::new();
        for line in lines(text, false) {
            let wrapped = wrapped(line, width, long, hyphens);
            if wrapped.is_empty() { out.push(String::new()) } else { out.extend(wrapped) }
        }
        self.charge(out.len().saturating_mul(wrap.len()).saturating_add(text.len()))?;
        self.text(out.join(&wrap))
    }

    fn file_size(&mut self, value: &Value, called: Called) -> Result<Value> {
        let [binary] = called.bind("filesizeformat", ["binary"])?;
        let binary = binary.is_some_and(|binary| self.truth(&binary));
        let bytes = match value {
            Value::Str(text) => super::parse_float(text),
            other => other.as_f64(),
        };
        let Some(bytes) = bytes else { return failed("filesizeformat wants a number") };
        let base: f64 = if binary { 1024.0 } else { 1000.0 };
        if bytes == 1.0 {
            return self.text("1 Byte");
        }
        if bytes < base {
            return self.text(format!("{} Bytes", bytes as i128));
        }
        let mut unit = base;
        let mut prefixes = "kMGTPEZY".chars().peekable();
        let mut text = String::new();
        while let Some(prefix) = prefixes.next() {
            unit *= base;
            if bytes < unit || prefixes.peek().is_none() {
                let prefix = if binary { format!("{}i", prefix.to_ascii_uppercase()) } else { prefix.to_string() };
                text = format!("{:.1} {prefix}B", base * bytes / unit);
                break;
            }
        }
        self.text(text)
    }

    fn url_encode(&mut self, value: &Value) -> Result<Value> {
        let items = match value {
            Value::Str(text) | Value::Markup(text) => return self.text(quoted(text, false)),
            Value::Dict(dict) => dict.entries.clone(),
            other => match self.iterate(other) {
                Ok(items) => {
                    let mut pairs = Vec::new();
                    for item in items {
                        match self.iterate(&item)?.as_slice() {
                            [key, value] => pairs.push((key.clone(), value.clone())),
                            _ => return failed("urlencode wants pairs of key and value"),
                        }
                    }
                    pairs
                }
                Err(_) => {
                    let text = self.string(other)?;
                    return self.text(quoted(&text, false));
                }
            },
        };
        let mut out = String::new();
        for (i, (key, value)) in items.iter().enumerate() {
            out.push_str(if i == 0 { "" } else { "&" });
            out.push_str(&quoted(&self.string(key)?, true));
            out.push('=');
            out.push_str(&quoted(&self.string(value)?, true));
        }
        self.text(out)
    }

    fn xml_attributes(&mut self, value: &Value, called: Called) -> Result<Value> {
        let [space] = called.bind("xmlattr", ["autospace"])?;
        let Value::Dict(dict) = value else {
            return failed(format!("xmlattr wants a dict, not {}", value.type_name()));
        };
        let mut parts = Vec::new();
        for (key, value) in &dict.entries {
            if value.is_none() || value.is_undefined() {
                continue;
            }
            let Some(key) = key.as_str() else { return failed("xmlattr: a key is a text") };
            if key.contains(|c: char| matches!(c, '\t'..='\r' | ' ' | '/' | '>' | '=')) {
                return failed(format!("xmlattr: {key:?} is no name of an attribute"));
            }
            let (key, value) = (self.escaped(&key.into())?, self.escaped(value)?);
            parts.push(format!("{key}=\"{value}\""));
        }
        let text = parts.join(" ");
        let space = !text.is_empty() && space.is_none_or(|space| self.truth(&space));
        self.text(if space { [" ", &text].concat() } else { text })
    }
}

/// Words begin after white space and brackets; the others of their letters are small.
fn title(text: &str) -> String {
    let ends = |c: char| is_space(c) || matches!(c, '-' | '(' | '{' | '[' | '<');
    let (mut out, mut inside) = (String::new(), false);
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase())
        } else {
            out.extend(c.to_uppercase())
        }
        inside = !ends(c);
    }
    out
}

/// The text without comments and tags of HTML, its white space collapsed, its common entities read.
fn without_tags(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find('<') {
        let (comment, end) = if rest[start..].starts_with("<!--") { (true, "-->") } else { (false, ">") };
        let Some(found) = rest[start..].find(end) else {
            if comment {
                // A comment without end is text up to its first bracket.
                out.push_str(&rest[..start + 1]);
                rest = &rest[start + 1..];
                continue;
            }
            break;
        };
        out.push_str(&rest[..start]);
        rest = &rest[start + found + end.len()..];
    }
    out.push_str(rest);
    let text = words(&out, None).join(" ");
    let entities = [("&lt;", "<"), ("&gt;", ">"), ("&#39;", "'"), ("&#34;", "\""), ("&quot;", "\""), ("&amp;", "&")];
    entities.iter().fold(text, |text, (entity, plain)| text.replace(entity, plain))
}

/// The text for a URL; in a query, spaces are `+` and slashes are quoted too.
fn quoted(text: &str, query: bool) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b' ' if query => out.push('+'),
            b'/' if !query => out.push('/'),
            byte if byte.is_ascii_alphanumeric() || b"_.-~".contains(&byte) => out.push(char::from(byte)),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// A line in pieces of a width. Words stay whole where they fit, hyphens are places to break.
fn wrapped(line: &str, width: usize, long: bool, hyphens: bool) -> Vec<String> {
    // A space that must not break is none here.
    let blank = |c: char| matches!(c, '\t'..='\r' | ' ');
    let mut chunks: Vec<Vec<char>> = Vec::new();
    let chars: Vec<char> = line.chars().collect();
    for (at, &c) in chars.iter().enumerate() {
        let fresh = match chunks.last().and_then(|chunk| chunk.last()) {
            None => true,
            Some('-') if hyphens && !blank(c) => {
                let word = chunks.last().map_or(0, Vec::len) > 1;
                word && c.is_alphabetic() && at >= 2 && chars[at - 2].is_alphanumeric()
            }
            Some(&before) => blank(before) != blank(c),
        };
        if fresh {
            chunks.push(Vec::new());
        }
        if let Some(chunk) = chunks.last_mut() {
            chunk.push(c);
        }
    }
    chunks.reverse();
    let empty = |chunk: &Vec<char>| chunk.iter().all(|&c| blank(c));
    let mut out: Vec<String> = Vec::new();
    while !chunks.is_empty() {
        let mut line: Vec<Vec<char>> = Vec::new();
        let mut length = 0;
        // Only the first line keeps the white space that it starts with.
        if !out.is_empty() && chunks.last().is_some_and(empty) {
            chunks.pop();
        }
        while let Some(chunk) = chunks.last() {
            if length + chunk.len() > width {
                break;
            }
            length += chunk.len();
            line.extend(chunks.pop());
        }
        if let Some(mut chunk) = chunks.pop_if(|chunk| chunk.len() > width) {
            if long {
                let mut end = width - length;
                let hyphen = chunk[..end].iter().rposition(|&c| c == '-').filter(|_| hyphens);
                if let Some(hyphen) = hyphen.filter(|&hyphen| chunk[..hyphen].iter().any(|&c| c != '-')) {
                    end = hyphen + 1;
                }
                let rest = chunk.split_off(end);
                chunks.push(rest);
                line.push(chunk);
            } else if line.is_empty() {
                line.push(chunk);
            } else {
                chunks.push(chunk);
            }
        }
        if line.last().is_some_and(empty) {
            line.pop();
        }
        if !line.is_empty() {
            out.push(line.into_iter().flatten().collect());
        }
    }
    out
}
