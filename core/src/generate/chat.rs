//! Chat templates: messages to the one text that a model was trained to continue.
//!
//! Templates are Jinja programs that come inside model files, so they are untrusted: depth, steps and output are
//! limited (see [`ChatTemplate::render`]). They are run as the transformers library runs them: trimmed blocks, Python's
//! methods and Python's way to print, `tojson` without HTML escapes, `raise_exception`, `strftime_now`,
//! `{% generation %}`. This module does not turn text into ids, and it has no clock: the caller says what time it is.

use std::collections::BTreeMap;
use std::io;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, ErrorKind};

pub use minijinja::Value;

/// Values by name: what a template may ask for beyond messages (`tools`, `enable_thinking`), or a message beyond its
/// role and content (`tool_calls`, `reasoning_content`).
pub type Extras = BTreeMap<String, Value>;

/// Steps that a template may take, an instruction each. Real templates take about a hundred a message.
const FUEL: u64 = 10_000_000;
/// Frames of macros, includes and loops that call themselves.
const RECURSION: usize = 200;
/// Longest text, in bytes, that a template may produce.
const MAX_OUTPUT: usize = 64 << 20;
/// Deepest nesting of a value that is printed.
const MAX_DEPTH: usize = 128;
/// The name templates are compiled under.
const NAME: &str = "chat";

/// Why a conversation was not rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// The template does not parse.
    #[error("chat template, line {line}: {reason}")]
    Syntax {
        /// Line in the template, from 1.
        line: usize,
        /// What the parser says.
        reason: String,
    },
    /// The source has no template syntax at all and is not a name we know either.
    #[error("chat template {name:?} is neither a template nor a known name (known: {known})")]
    UnknownName {
        /// The source, cut short.
        name: String,
        /// The names that [`ChatTemplate::fallback`] knows.
        known: String,
    },
    /// There is no template, and nothing tells which one the model was trained with.
    #[error(
        "the file has no chat template, so it is probably not a chat model: let it continue a text, or name a template ({known})"
    )]
    Missing {
        /// The names that [`ChatTemplate::fallback`] knows.
        known: String,
    },
    /// The template itself refuses these messages, with `raise_exception`.
    #[error("the chat template refuses these messages: {message}")]
    Raised {
        /// The template's words.
        message: String,
    },
    /// The template did something that cannot be done.
    #[error("chat template, line {line}: {reason}")]
    Render {
        /// Line in the template, from 1.
        line: usize,
        /// What went wrong.
        reason: String,
    },
    /// The template ran for too long: it loops, or the conversation is enormous.
    #[error("the chat template took more than {steps} steps; is it meant to end?")]
    TooManySteps {
        /// The limit.
        steps: u64,
    },
    /// The template wrote too much.
    #[error("the chat template wrote more than {bytes} bytes")]
    TooLong {
        /// The limit.
        bytes: usize,
    },
}

/// One message of a conversation.
#[derive(Debug, Clone, Default)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`; templates may know more.
    pub role: String,
    /// The text.
    pub content: String,
    /// What else the template sees on the message. An entry `content` takes the place of the text (a list of parts, or
    /// none beside `tool_calls`).
    pub extras: Extras,
}

impl Message {
    /// A message of text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Message { role: role.into(), content: content.into(), extras: Extras::new() }
    }

    /// Adds an attribute.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.extras.insert(name.into(), value.into());
        self
    }

    fn to_value(&self) -> Value {
        let own = [("role", Value::from(self.role.as_str())), ("content", Value::from(self.content.as_str()))];
        let own = own.into_iter().filter(|(name, _)| !self.extras.contains_key(*name));
        Value::from_pairs(own.chain(self.extras.iter().map(|(name, value)| (name.as_str(), value.clone()))))
    }
}

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: Option<String>,
    eos: Option<String>,
}

impl ChatTemplate {
    /// Compiles a template: `tokenizer.chat_template` of a GGUF file, or `chat_template` of a tokenizer config. A bare
    /// name ("chatml") stands for the [`fallback`](Self::fallback) of that name. `bos` and `eos` are what `bos_token`
    /// and `eos_token` print; without them those are undefined.
    ///
    /// # Errors
    ///
    /// [`TemplateError::Syntax`], [`TemplateError::UnknownName`].
    pub fn new(source: &str, bos: Option<&str>, eos: Option<&str>) -> Result<Self, TemplateError> {
        if let Some(template) = Self::fallback(source.trim(), bos, eos) {
            return Ok(template);
        }
        if !source.contains("{{") && !source.contains("{%") {
            return Err(TemplateError::UnknownName {
                name: source.trim().chars().take(40).collect(),
                known: Self::known_names(),
            });
        }
        Self::compile(source, bos, eos)
    }

    /// A template of our own for a well-known format, for files that carry none; `None` if the name is not one of
    /// [`fallback_names`](Self::fallback_names).
    pub fn fallback(name: &str, bos: Option<&str>, eos: Option<&str>) -> Option<Self> {
        let (_, _, source) = FALLBACKS.iter().find(|(known, _, _)| *known == name)?;
        Self::compile(source, bos, eos).ok()
    }

    /// The names of the built-in formats.
    pub fn fallback_names() -> impl Iterator<Item = &'static str> {
        FALLBACKS.iter().map(|(name, _, _)| *name)
    }

    /// The built-in format that a vocabulary was made for, told by its special tokens; `None` when nothing tells.
    /// `has` says whether the vocabulary has a token of that text.
    pub fn guess(has: impl Fn(&str) -> bool) -> Option<&'static str> {
        let told = FALLBACKS.iter().filter(|(_, tokens, _)| !tokens.is_empty());
        told.filter(|(_, tokens, _)| tokens.iter().all(|token| has(token))).map(|(name, _, _)| *name).next()
    }

    /// [`fallback_names`](Self::fallback_names), for messages.
    pub(super) fn known_names() -> String {
        Self::fallback_names().collect::<Vec<_>>().join(", ")
    }

    fn compile(source: &str, bos: Option<&str>, eos: Option<&str>) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| failure(&error))?);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(RECURSION);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_formatter(|out, _, value| {
            let mut text = String::new();
            python::str(value, &mut text)?;
            out.write_str(&text).map_err(minijinja::Error::from)
        });
        environment.add_filter("tojson", tojson);
        environment.add_filter("string", |value: &Value| -> Result<String, minijinja::Error> {
            let mut text = String::new();
            python::str(value, &mut text)?;
            Ok(text)
        });
        environment.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, "raised").with_source(Raised(message)))
        });
        let source = without_generation_tags(source);
        environment.add_template_owned(NAME, source).map_err(|error| match failure(&error) {
            TemplateError::Render { line, reason } => TemplateError::Syntax { line, reason },
            other => other,
        })?;
        Ok(ChatTemplate { environment, bos: bos.map(str::to_owned), eos: eos.map(str::to_owned) })
    }

    /// Writes a conversation as the model expects it. With `add_generation_prompt` the text ends where the assistant's
    /// answer begins. `extras` are what else the template may look at (`tools`, `documents`, `enable_thinking`, ...);
    /// they go before what is known by itself (`bos_token`). `now`, in seconds since 1970, local to the user, is what
    /// `strftime_now` tells; without it that function is undefined, and templates that can, do without.
    ///
    /// Encode the result with special tokens parsed and none added.
    ///
    /// # Errors
    ///
    /// [`TemplateError`]: the template refuses the messages, fails, or hits a limit (10 million steps, 200 nested
    /// calls, 64 MiB of text). The engine limits no value inside a template: one that doubles a string, or puts a
    /// list in a list, in a loop of thousands can still exhaust memory or stack, which ends the process.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        extras: &Extras,
        now: Option<i64>,
    ) -> Result<String, TemplateError> {
        let mut context = Extras::new();
        context.insert("messages".to_owned(), messages.iter().map(Message::to_value).collect());
        context.insert("add_generation_prompt".to_owned(), add_generation_prompt.into());
        for absent in ["tools", "documents"] {
            context.insert(absent.to_owned(), Value::from(()));
        }
        for (name, text) in [("bos_token", &self.bos), ("eos_token", &self.eos)] {
            if let Some(text) = text {
                context.insert(name.to_owned(), text.as_str().into());
            }
        }
        if let Some(now) = now {
            let strftime = move |format: String| python::strftime(&format, now);
            context.insert("strftime_now".to_owned(), Value::from_function(strftime));
        }
        context.extend(extras.iter().map(|(name, value)| (name.clone(), value.clone())));

        let template = self.environment.get_template(NAME).map_err(|error| failure(&error))?;
        let mut out = Capped(Vec::new());
        template.render_captured_to(Value::from(context), &mut out).map_err(|error| failure(&error))?;
        String::from_utf8(out.0).map_err(|error| TemplateError::Render { line: 0, reason: error.to_string() })
    }
}

/// What `raise_exception` was called with, on its way through the engine's error.
#[derive(Debug)]
struct Raised(String);

impl std::fmt::Display for Raised {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

/// The engine's error in our terms.
fn failure(error: &minijinja::Error) -> TemplateError {
    let mut source: Option<&dyn std::error::Error> = Some(error);
    while let Some(cause) = source {
        if let Some(Raised(message)) = cause.downcast_ref() {
            return TemplateError::Raised { message: message.clone() };
        }
        if let Some(cause) = cause.downcast_ref::<minijinja::Error>() {
            match cause.kind() {
                ErrorKind::OutOfFuel => return TemplateError::TooManySteps { steps: FUEL },
                ErrorKind::WriteFailure => return TemplateError::TooLong { bytes: MAX_OUTPUT },
                _ => {}
            }
        }
        source = cause.source();
    }
    let reason = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    TemplateError::Render { line: error.line().unwrap_or(0), reason }
}

/// Takes text up to [`MAX_OUTPUT`].
struct Capped(Vec<u8>);

impl io::Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > MAX_OUTPUT - self.0.len() {
            return Err(io::Error::other("too long"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `{% generation %}` marks what the assistant says, for training; to render, it is a block like any other.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        out.push_str(before);
        rest = tag;
        let Some(end) = tag.find("%}") else { break };
        let inside = &tag[..end];
        let word = inside.trim_matches(['-', '+']).trim();
        let block = match word {
            "generation" => "with",
            "endgeneration" => "endwith",
            _ => continue,
        };
        out.push_str(&inside.replacen(word, block, 1));
        rest = &tag[end..];
    }
    out.push_str(rest);
    out
}

/// `json.dumps(value, ensure_ascii, indent, separators, sort_keys)`, the first of them false unless asked for.
fn tojson(value: &Value, options: Kwargs) -> Result<Value, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let usual = [if indent.is_some() { "," } else { ", " }, ": "].map(str::to_owned).to_vec();
    let [item, key] = <[String; 2]>::try_from(separators.unwrap_or(usual))
        .map_err(|_| minijinja::Error::new(ErrorKind::InvalidOperation, "tojson: separators are two strings"))?;
    let style = python::Json {
        indent: indent.map(|width| width.min(32)),
        item,
        key,
        ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    options.assert_all_used()?;
    let mut out = String::new();
    style.write(value, 0, &mut out)?;
    Ok(Value::from(out))
}

/// How Python prints.
mod python {
    use super::{ErrorKind, MAX_DEPTH, Value, ValueKind};
    use minijinja::Error;

    fn too_deep(depth: usize) -> Result<(), Error> {
        if depth < MAX_DEPTH {
            return Ok(());
        }
        Err(Error::new(ErrorKind::InvalidOperation, format!("value is nested more than {MAX_DEPTH} deep")))
    }

    /// `str(value)`; undefined prints nothing.
    pub fn str(value: &Value, out: &mut String) -> Result<(), Error> {
        match value.as_str() {
            Some(text) => out.push_str(text),
            None if value.is_undefined() => {}
            None => repr(value, 0, out)?,
        }
        Ok(())
    }

    fn repr(value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        too_deep(depth)?;
        match value.kind() {
            ValueKind::None => out.push_str("None"),
            ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
            ValueKind::Number => number(value, out),
            ValueKind::String => quote(value.as_str().unwrap_or_default(), out),
            ValueKind::Seq => {
                let (open, close) = if value.is_tuple() { ('(', ')') } else { ('[', ']') };
                out.push(open);
                for (i, item) in value.try_iter()?.enumerate() {
                    out.push_str(if i == 0 { "" } else { ", " });
                    repr(&item, depth + 1, out)?;
                }
                if value.is_tuple() && value.len() == Some(1) {
                    out.push(',');
                }
                out.push(close);
            }
            ValueKind::Map => {
                out.push('{');
                for (i, key) in value.try_iter()?.enumerate() {
                    out.push_str(if i == 0 { "" } else { ", " });
                    repr(&key, depth + 1, out)?;
                    out.push_str(": ");
                    repr(&value.get_item(&key)?, depth + 1, out)?;
                }
                out.push('}');
            }
            _ => out.push_str(&value.to_string()),
        }
        Ok(())
    }

    /// A string literal: single quotes, unless the text has some and no double ones.
    fn quote(text: &str, out: &mut String) {
        let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
        out.push(quote);
        for c in text.chars() {
            match c {
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\\' => out.push_str("\\\\"),
                c if c == quote => out.extend(['\\', c]),
                c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", c as u32)),
                c => out.push(c),
            }
        }
        out.push(quote);
    }

    /// Integers in full, floats as Python's `repr`: exponents from 1e16 and below 1e-4, always a point or an exponent.
    fn number(value: &Value, out: &mut String) {
        if value.is_integer() {
            out.push_str(&value.to_string());
            return;
        }
        let Ok(number) = f64::try_from(value.clone()) else { return out.push_str(&value.to_string()) };
        let size = number.abs();
        if size != 0.0 && size.is_finite() && !(1e-4..1e16).contains(&size) {
            let text = format!("{number:e}");
            let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
            out.push_str(&format!("{digits}e{sign}{exponent:0>2}"));
        } else if number.is_finite() && number.fract() == 0.0 {
            out.push_str(&format!("{number:.1}"));
        } else if number.is_finite() {
            out.push_str(&number.to_string());
        } else {
            out.push_str(if number.is_nan() {
                "nan"
            } else if number > 0.0 {
                "inf"
            } else {
                "-inf"
            });
        }
    }

    /// The settings of `json.dumps`.
    pub struct Json {
        pub indent: Option<usize>,
        pub item: String,
        pub key: String,
        pub ascii: bool,
        pub sort: bool,
    }

    impl Json {
        pub fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
            too_deep(depth)?;
            match value.kind() {
                ValueKind::None => out.push_str("null"),
                ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
                ValueKind::Number => {
                    let mut text = String::new();
                    number(value, &mut text);
                    out.push_str(match text.as_str() {
                        "nan" => "NaN",
                        "inf" => "Infinity",
                        "-inf" => "-Infinity",
                        text => text,
                    });
                }
                ValueKind::String => self.string(value.as_str().unwrap_or_default(), out),
                ValueKind::Seq | ValueKind::Iterable => {
                    let items: Vec<Value> = value.try_iter()?.collect();
                    self.list('[', ']', items.len(), depth, out, |i, out| self.write(&items[i], depth + 1, out))?;
                }
                ValueKind::Map => {
                    let mut keys: Vec<Value> = value.try_iter()?.collect();
                    if self.sort {
                        keys.sort();
                    }
                    self.list('{', '}', keys.len(), depth, out, |i, out| {
                        let key = &keys[i];
                        match key.as_str() {
                            Some(text) => self.string(text, out),
                            None => {
                                // Python writes other keys as strings.
                                let mut text = String::new();
                                self.write(key, depth + 1, &mut text)?;
                                self.string(&text, out);
                            }
                        }
                        out.push_str(&self.key);
                        self.write(&value.get_item(key)?, depth + 1, out)
                    })?;
                }
                kind => {
                    return Err(Error::new(ErrorKind::InvalidOperation, format!("tojson: {kind} is not JSON")));
                }
            }
            Ok(())
        }

        fn list(
            &self,
            open: char,
            close: char,
            len: usize,
            depth: usize,
            out: &mut String,
            mut item: impl FnMut(usize, &mut String) -> Result<(), Error>,
        ) -> Result<(), Error> {
            let line = |depth: usize, out: &mut String| {
                if let Some(width) = self.indent.filter(|_| len > 0) {
                    out.push('\n');
                    out.extend(std::iter::repeat_n(' ', width * depth));
                }
            };
            out.push(open);
            for i in 0..len {
                if i > 0 {
                    out.push_str(&self.item);
                }
                line(depth + 1, out);
                item(i, out)?;
            }
            line(depth, out);
            out.push(close);
            Ok(())
        }

        fn string(&self, text: &str, out: &mut String) {
            out.push('"');
            for c in text.chars() {
                match c {
                    '"' => out.push_str("\\\""),
                    '\\' => out.push_str("\\\\"),
                    '\n' => out.push_str("\\n"),
                    '\r' => out.push_str("\\r"),
                    '\t' => out.push_str("\\t"),
                    '\u{8}' => out.push_str("\\b"),
                    '\u{c}' => out.push_str("\\f"),
                    c if c < ' ' || (self.ascii && c >= '\u{7f}') => {
                        for unit in c.encode_utf16(&mut [0; 2]) {
                            out.push_str(&format!("\\u{unit:04x}"));
                        }
                    }
                    c => out.push(c),
                }
            }
            out.push('"');
        }
    }

    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

    /// `datetime.strftime` in the C locale; what it does not know stays as it is. `%-d` and the like drop padding.
    pub fn strftime(format: &str, seconds: i64) -> String {
        let days = seconds.div_euclid(86_400);
        let time = seconds.rem_euclid(86_400);
        let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
        let (year, month, day) = civil(days);
        let weekday = (days + 4).rem_euclid(7);
        let hour12 = if hour % 12 == 0 { 12 } else { hour % 12 };
        let mut out = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let mut directive = chars.next();
            let unpadded = directive == Some('-');
            if unpadded {
                directive = chars.next();
            }
            let mut digits = |value: i64, width: usize| {
                out.push_str(&format!("{value:0>width$}", width = if unpadded { 1 } else { width }));
            };
            match directive {
                Some('Y') => digits(year, 1),
                Some('y') => digits(year.rem_euclid(100), 2),
                Some('m') => digits(month, 2),
                Some('d') => digits(day, 2),
                Some('H') => digits(hour, 2),
                Some('I') => digits(hour12, 2),
                Some('M') => digits(minute, 2),
                Some('S') => digits(second, 2),
                Some('f') => digits(0, 6),
                Some('w') => digits(weekday, 1),
                Some('j') => digits(days - from_civil(year, 1, 1) + 1, 3),
                Some('s') => digits(seconds, 1),
                Some('p') => out.push_str(if hour < 12 { "AM" } else { "PM" }),
                Some('B') => out.push_str(MONTHS[(month - 1) as usize % 12]),
                Some('b' | 'h') => out.push_str(&MONTHS[(month - 1) as usize % 12][..3]),
                Some('A') => out.push_str(DAYS[weekday as usize % 7]),
                Some('a') => out.push_str(&DAYS[weekday as usize % 7][..3]),
                Some('e') => out.push_str(&format!("{day:>2}")),
                Some('F') => out.push_str(&format!("{year}-{month:02}-{day:02}")),
                Some('D' | 'x') => out.push_str(&format!("{month:02}/{day:02}/{:02}", year.rem_euclid(100))),
                Some('T' | 'X') => out.push_str(&format!("{hour:02}:{minute:02}:{second:02}")),
                Some('R') => out.push_str(&format!("{hour:02}:{minute:02}")),
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some('%') => out.push('%'),
                // The time is local and its zone unknown, as of a datetime without one.
                Some('Z' | 'z') => {}
                other => {
                    out.push_str(if unpadded { "%-" } else { "%" });
                    out.extend(other);
                }
            }
        }
        out
    }

    /// Year, month, day of a day counted from 1970-01-01 (Howard Hinnant's algorithm: years start in March, so that
    /// the leap day comes last).
    fn civil(days: i64) -> (i64, i64, i64) {
        // Time stamps a million years off are as good as any other; it keeps the sums in range.
        let z = days.clamp(-400_000_000, 400_000_000) + 719_468;
        let era = z.div_euclid(146_097);
        let day_of_era = z.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march = (5 * day_of_year + 2) / 153;
        let month = if march < 10 { march + 3 } else { march - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        (year, month, day_of_year - (153 * march + 2) / 5 + 1)
    }

    /// The inverse of [`civil`].
    fn from_civil(year: i64, month: i64, day: i64) -> i64 {
        let year = year - i64::from(month <= 2);
        let year_of_era = year.rem_euclid(400);
        let march = if month > 2 { month - 3 } else { month + 9 };
        let day_of_year = (153 * march + 2) / 5 + day - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        year.div_euclid(400) * 146_097 + day_of_era - 719_468
    }
}

/// Name, the special tokens that give it away, and the format as a template of our own.
static FALLBACKS: &[(&str, &[&str], &str)] = &[
    (
        "llama3",
        &["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        "{{ bos_token }}{% for message in messages %}\
         {{ '<|start_header_id|>' ~ message.role ~ '<|end_header_id|>\n\n' ~ message.content | trim ~ '<|eot_id|>' }}\
         {% endfor %}\
         {% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    ),
    (
        "phi3",
        &["<|user|>", "<|assistant|>", "<|end|>"],
        "{% for message in messages %}{{ '<|' ~ message.role ~ '|>\n' ~ message.content ~ '<|end|>\n' }}{% endfor %}\
         {% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
    ),
    (
        "gemma",
        &["<start_of_turn>", "<end_of_turn>"],
        "{{ bos_token }}{% set ns = namespace(system='') %}{% for message in messages %}\
         {% if message.role == 'system' %}{% set ns.system = message.content | trim ~ '\n\n' %}{% else %}\
         {{ '<start_of_turn>' ~ ('model' if message.role == 'assistant' else message.role) ~ '\n' ~ ns.system \
         ~ message.content | trim ~ '<end_of_turn>\n' }}{% set ns.system = '' %}{% endif %}{% endfor %}\
         {% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
    ),
    (
        "chatml",
        &["<|im_start|>", "<|im_end|>"],
        "{% for message in messages %}\
         {{ '<|im_start|>' ~ message.role ~ '\n' ~ message.content ~ '<|im_end|>\n' }}{% endfor %}\
         {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    ),
    (
        "llama2",
        &[],
        "{% set ns = namespace(system='') %}{% for message in messages %}\
         {% if message.role == 'system' %}{% set ns.system = '<<SYS>>\n' ~ message.content ~ '\n<</SYS>>\n\n' %}\
         {% elif message.role == 'user' %}\
         {{ bos_token ~ '[INST] ' ~ ns.system ~ message.content | trim ~ ' [/INST]' }}{% set ns.system = '' %}\
         {% else %}{{ ' ' ~ message.content | trim ~ ' ' ~ eos_token }}{% endif %}{% endfor %}",
    ),
    (
        "mistral",
        &["[INST]", "[/INST]"],
        "{{ bos_token }}{% set ns = namespace(system='') %}{% for message in messages %}\
         {% if message.role == 'system' %}{% set ns.system = message.content ~ '\n\n' %}\
         {% elif message.role == 'user' %}{{ '[INST] ' ~ ns.system ~ message.content ~ ' [/INST]' }}\
         {% set ns.system = '' %}{% else %}{{ ' ' ~ message.content | trim ~ eos_token }}{% endif %}{% endfor %}",
    ),
    (
        "zephyr",
        &[],
        "{% for message in messages %}{{ '<|' ~ message.role ~ '|>\n' ~ message.content ~ eos_token ~ '\n' }}\
         {% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
    ),
    (
        "vicuna",
        &[],
        "{{ bos_token }}{% for message in messages %}{% if message.role == 'system' %}{{ message.content ~ '\n\n' }}\
         {% elif message.role == 'user' %}{{ 'USER: ' ~ message.content ~ '\n' }}\
         {% else %}{{ 'ASSISTANT: ' ~ message.content ~ eos_token ~ '\n' }}{% endif %}{% endfor %}\
         {% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str) -> Result<String, TemplateError> {
        render_with(source, &Extras::new(), None)
    }

    fn render_with(source: &str, extras: &Extras, now: Option<i64>) -> Result<String, TemplateError> {
        let messages = [Message::new("user", "Hi"), Message::new("assistant", "<think>\nhm\n</think>\n\nHello")];
        ChatTemplate::new(source, Some("<s>"), Some("</s>"))?.render(&messages, true, extras, now)
    }

    fn value(pairs: &[(&str, Value)]) -> Value {
        Value::from_pairs(pairs.iter().map(|(name, value)| (*name, value.clone())))
    }

    #[test]
    fn messages_tokens_and_the_prompt() {
        let source = "{{ bos_token }}{% for m in messages %}[{{ m.role }}:{{ m['content'][:2] }}]{% endfor %}\
                      {% if add_generation_prompt %}>{% endif %}{{ eos_token }}";
        assert_eq!(render(source).unwrap(), "<s>[user:Hi][assistant:<t]></s>");
        let without =
            ChatTemplate::new("{{ bos_token }}|{{ nothing }}|{{ add_generation_prompt }}", None, None).unwrap();
        assert_eq!(without.render(&[], false, &Extras::new(), None).unwrap(), "||False");
    }

    #[test]
    fn python_methods_and_slices() {
        let think = "{% set m = messages[-1].content %}{{ m.split('</think>')[-1].lstrip('\\n') }}|\
                     {{ m.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') }}";
        assert_eq!(render(think).unwrap(), "Hello|hm");
        let reversed = "{% for m in messages[::-1] %}{{ m.role.upper() }}{{ loop.index0 }} {% endfor %}";
        assert_eq!(render(reversed).unwrap(), "ASSISTANT0 USER1 ");
        assert_eq!(render("{{ messages[0].get('x', 'none') }}{{ 'a,b'.replace(',', ';') }}").unwrap(), "nonea;b");
        assert_eq!(render("{{ messages[0].items() | list | length }}{{ 'Hi'.startswith('H') }}").unwrap(), "2True");
    }

    #[test]
    fn namespaces_and_loop_controls() {
        let source = "{% set ns = namespace(n=0) %}{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}\
                      {% if i == 5 %}{% break %}{% endif %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}";
        assert_eq!(render(source).unwrap(), "8");
    }

    #[test]
    fn blocks_are_trimmed_as_transformers_does() {
        let source = "{% for m in messages %}\n  {% if true %}\n{{ m.role }}\n  {% endif %}\n{% endfor %}\nend\n";
        assert_eq!(render(source).unwrap(), "user\nassistant\nend");
    }

    #[test]
    fn generation_blocks_render_their_content() {
        for (open, close) in
            [("{% generation %}", "{% endgeneration %}"), ("{%- generation -%}", "{%-endgeneration-%}")]
        {
            let source = format!("a {open} {{{{ messages[0].role }}}} {close} b");
            let expected = if open.contains('-') { "auserb" } else { "a  user  b" };
            assert_eq!(render(&source).unwrap(), expected);
        }
        assert_eq!(without_generation_tags("{% if x %}{% generation"), "{% if x %}{% generation");
    }

    #[test]
    fn values_print_as_in_python() {
        let extras = Extras::from([
            ("list".to_owned(), Value::from(vec![Value::from(1), Value::from("it's"), Value::from(())])),
            ("map".to_owned(), value(&[("a", Value::from(true)), ("b", Value::from(0.5))])),
        ]);
        let print = |source| render_with(source, &extras, None).unwrap();
        assert_eq!(print("{{ list }} {{ map }}"), r#"[1, "it's", None] {'a': True, 'b': 0.5}"#);
        assert_eq!(print("{{ none }} {{ true }} {{ 1.0 }} {{ list | string | length }}"), "None True 1.0 17");
        assert_eq!(print("{{ 'q\"\\'\\n\\\\' | list }}"), r#"['q', '"', "'", '\n', '\\']"#);
    }

    #[test]
    fn json_as_in_python() {
        let tool = value(&[
            ("name", Value::from("f<&>'é\n\u{1}")),
            ("n", Value::from(vec![Value::from(1), Value::from(2.0), Value::from(1e16), Value::from(1.5e-7)])),
            ("empty", Value::from(Vec::<Value>::new())),
            ("none", Value::from(())),
        ]);
        let extras = Extras::from([("tool".to_owned(), tool)]);
        let print = |source| render_with(source, &extras, None).unwrap();
        assert_eq!(
            print("{{ tool | tojson }}"),
            r#"{"name": "f<&>'é\n\u0001", "n": [1, 2.0, 1e+16, 1.5e-07], "empty": [], "none": null}"#
        );
        assert_eq!(
            print("{{ {'b': [1, {}], 'a': 'é🙂'} | tojson(indent=2, sort_keys=true, ensure_ascii=true) }}"),
            "{\n  \"a\": \"\\u00e9\\ud83d\\ude42\",\n  \"b\": [\n    1,\n    {}\n  ]\n}"
        );
        assert_eq!(print("{{ [1, 2] | tojson(separators=(',', ':')) }}"), "[1,2]");
    }

    #[test]
    fn messages_carry_more_than_text() {
        let call = value(&[("function", value(&[("name", Value::from("f"))]))]);
        let messages = [Message::new("assistant", "").with("tool_calls", vec![call]).with("content", Value::from(()))];
        let source = "{% for m in messages %}{{ m.tool_calls[0].function.name }} {{ m.content is none }} \
                      {{ 'tool_calls' in m }} {{ 'x' in m }}{% endfor %}";
        let template = ChatTemplate::new(source, None, None).unwrap();
        assert_eq!(template.render(&messages, false, &Extras::new(), None).unwrap(), "f True True False");
    }

    #[test]
    fn templates_refuse_in_their_own_words() {
        let error =
            render("{% if messages|length < 3 %}{{ raise_exception('three, please') }}{% endif %}").unwrap_err();
        assert_eq!(error, TemplateError::Raised { message: "three, please".to_owned() });
    }

    #[test]
    fn failures_name_the_line() {
        assert!(matches!(render("{{ 1 }}\n{% if %}"), Err(TemplateError::Syntax { line: 2, .. })));
        assert!(matches!(render("a\n\n{{ x.y.z }}"), Err(TemplateError::Render { line: 3, .. })));
        assert!(matches!(render("{{ [] | tojson(what=1) }}"), Err(TemplateError::Render { .. })));
        assert!(matches!(render("{% include 'x' %}"), Err(TemplateError::Render { .. })));
    }

    #[test]
    fn the_date_is_the_callers() {
        let source = "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y, %H:%M %%|%A %j %-d %y %I%p %q %-') }}\
                      {% else %}undated{% endif %}";
        let at = |now| render_with(source, &Extras::new(), Some(now)).unwrap();
        assert_eq!(at(1_709_210_096), "29 Feb 2024, 12:34 %|Thursday 060 29 24 12PM %q %-");
        assert_eq!(at(0), "01 Jan 1970, 00:00 %|Thursday 001 1 70 12AM %q %-");
        assert_eq!(at(-1), "31 Dec 1969, 23:59 %|Wednesday 365 31 69 11PM %q %-");
        at(i64::MAX);
        at(i64::MIN);
        assert_eq!(render(source).unwrap(), "undated");
    }

    #[test]
    fn hostile_templates_end() {
        let forever = "{% for i in range(99999) %}{% for j in range(99999) %}{% set x = j %}{% endfor %}{% endfor %}";
        assert_eq!(render(forever), Err(TemplateError::TooManySteps { steps: FUEL }));
        let flood = "{% set x = 'x' * 1000000 %}{% for i in range(99) %}{{ x }}{% endfor %}";
        assert_eq!(render(flood), Err(TemplateError::TooLong { bytes: MAX_OUTPUT }));
        assert!(matches!(render("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"), Err(TemplateError::Render { .. })));
        assert!(render(&format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000))).is_err());
        assert!(render(&"{% if x %}".repeat(100_000)).is_err());
        let nested = "{% set ns = namespace(x=[]) %}{% for i in range(1000) %}{% set ns.x = [ns.x] %}{% endfor %}";
        assert!(matches!(render(&format!("{nested}{{{{ ns.x }}}}")), Err(TemplateError::Render { .. })));
        assert!(matches!(render(&format!("{nested}{{{{ ns.x | tojson }}}}")), Err(TemplateError::Render { .. })));
    }

    #[test]
    fn well_known_formats() {
        let messages = [
            Message::new("system", "Be brief."),
            Message::new("user", "Hi"),
            Message::new("assistant", "Hello"),
            Message::new("user", "Bye"),
        ];
        let text = |name| {
            let template = ChatTemplate::new(name, Some("<s>"), Some("</s>")).unwrap();
            template.render(&messages, true, &Extras::new(), None).unwrap()
        };
        assert_eq!(
            text("chatml"),
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n\
             <|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n"
        );
        assert_eq!(
            text("llama2"),
            "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST] Hello </s><s>[INST] Bye [/INST]"
        );
        assert_eq!(
            text("llama3"),
            "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>\
             <|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>\
             <|start_header_id|>assistant<|end_header_id|>\n\nHello<|eot_id|>\
             <|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>\
             <|start_header_id|>assistant<|end_header_id|>\n\n"
        );
        assert_eq!(
            text("phi3"),
            "<|system|>\nBe brief.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\nHello<|end|>\n\
             <|user|>\nBye<|end|>\n<|assistant|>\n"
        );
        assert_eq!(
            text("gemma"),
            "<s><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\nHello<end_of_turn>\n\
             <start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n"
        );
        assert_eq!(text("mistral"), "<s>[INST] Be brief.\n\nHi [/INST] Hello</s>[INST] Bye [/INST]");
        for name in ChatTemplate::fallback_names() {
            assert!(text(name).contains("Hello"), "{name}");
        }
        assert!(matches!(ChatTemplate::new("no-such", None, None), Err(TemplateError::UnknownName { .. })));
        assert!(ChatTemplate::fallback("no-such", None, None).is_none());
    }

    #[test]
    fn formats_are_told_by_special_tokens() {
        let guess = |tokens: &[&str]| ChatTemplate::guess(|token| tokens.contains(&token));
        assert_eq!(guess(&["<|im_start|>", "<|im_end|>", "<|endoftext|>"]), Some("chatml"));
        assert_eq!(guess(&["<|user|>", "<|assistant|>", "<|end|>"]), Some("phi3"));
        assert_eq!(guess(&["<s>", "</s>"]), None);
    }
}
