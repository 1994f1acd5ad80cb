//! Formatting of values into texts: `'%5.2f' % x`, and `'{:>5}'.format(x)`.

use std::sync::Arc;

use super::evaluate::Called;
use super::print::{ascii, exponent, float};
use super::run::Run;
use super::value::{Key, Value};
use super::{Result, failed};

/// How a value is laid out.
#[derive(Default)]
struct Layout {
    fill: Option<char>,
    /// `<`, `>`, `^` or `=` (the sign at the left edge).
    align: Option<char>,
    /// `+`, `-` or a space.
    sign: Option<char>,
    alternative: bool,
    width: usize,
    /// `,` or `_` between thousands.
    group: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
}

impl Run<'_> {
    /// `text % values`
    pub(super) fn percent(&mut self, text: &str, values: &Value) -> Result<Value> {
        let mut rest = match values {
            Value::Tuple(list) => list.items.clone(),
            other => vec![other.clone()],
        }
        .into_iter();
        let mut named = false;
        let mut out = String::new();
        let mut chars = text.chars().peekable();
        self.step(text.len() / 8)?;
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            if chars.next_if_eq(&'%').is_some() {
                out.push('%');
                continue;
            }
            let mut layout = Layout::default();
            let mut value = None;
            if chars.next_if_eq(&'(').is_some() {
                let mut name = String::new();
                let mut open = 1;
                for c in chars.by_ref() {
                    open += i32::from(c == '(') - i32::from(c == ')');
                    if open == 0 {
                        break;
                    }
                    name.push(c);
                }
                let Value::Dict(dict) = values else { return failed("%(name) wants a dict") };
                named = true;
                value = match dict.get(&Key::Str(name.as_str().into())) {
                    Some(value) => Some(value.clone()),
                    None => return failed(format!("%({name}): the dict has no such key")),
                };
            }
            let (mut left, mut zeros) = (false, false);
            while let Some(flag) = chars.next_if(|c| matches!(c, '#' | '0' | '-' | ' ' | '+')) {
                match flag {
                    '#' => layout.alternative = true,
                    '0' => zeros = true,
                    '-' => left = true,
                    '+' => layout.sign = Some('+'),
                    _ => layout.sign = layout.sign.or(Some(' ')),
                }
            }
            if chars.next_if_eq(&'*').is_some() {
                let Some(width) = rest.next().as_ref().and_then(Value::as_int) else {
                    return failed("* wants a number");
                };
                left |= width < 0;
                layout.width = usize::try_from(width.saturating_abs()).unwrap_or(usize::MAX);
            } else {
                layout.width = digits(&mut chars).unwrap_or(0);
            }
            if chars.next_if_eq(&'.').is_some() {
                layout.precision = Some(if chars.next_if_eq(&'*').is_some() {
                    let Some(width) = rest.next().as_ref().and_then(Value::as_int) else {
                        return failed("* wants a number");
                    };
                    usize::try_from(width.max(0)).unwrap_or(usize::MAX)
                } else {
                    digits(&mut chars).unwrap_or(0)
                });
            }
            while chars.next_if(|c| matches!(c, 'h' | 'l' | 'L')).is_some() {}
            let Some(kind) = chars.next() else { return failed("a format ends after %") };
            let value = match value.or_else(|| rest.next()) {
                Some(value) => value,
                None => return failed("a format has more directives than there are values"),
            };
            (layout.align, layout.fill) = match (left, zeros && !matches!(kind, 's' | 'r' | 'a' | 'c')) {
                (true, _) => (Some('<'), None),
                (false, true) => (Some('='), Some('0')),
                _ => (Some('>'), None),
            };
            self.percent_directive(kind, &value, layout, &mut out)?;
        }
        // A dict may have more than is asked for; so may an only value that has items.
        let spare = !named && rest.next().is_some();
        if spare && !matches!(values, Value::Dict(_) | Value::List(_) | Value::Range(_)) {
            return failed("not all values were used by the format");
        }
        self.text(out)
    }

    fn percent_directive(&mut self, kind: char, value: &Value, layout: Layout, out: &mut String) -> Result<()> {
        self.reserve(&layout)?;
        let number = |value: &Value| match value.as_f64() {
            Some(number) => Ok(number),
            None => failed(format!("%{kind} wants a number, not {}", value.type_name())),
        };
        match kind {
            's' | 'r' | 'a' => {
                let mut text = if kind == 's' { self.string(value)?.to_string() } else { self.repr(value)? };
                if kind == 'a' {
                    text = ascii(&text);
                }
                if let Some(precision) = layout.precision {
                    text = text.chars().take(precision).collect();
                }
                pad(&text, &layout, out);
            }
            'c' => {
                let c = match value {
                    Value::Str(text) | Value::Markup(text) if text.chars().count() == 1 => text.chars().next(),
                    other => other.as_int().and_then(|code| u32::try_from(code).ok()).and_then(char::from_u32),
                };
                let Some(c) = c else { return failed("%c wants a character") };
                pad(&c.to_string(), &layout, out);
            }
            'd' | 'i' | 'u' | 'x' | 'X' | 'o' => {
                let number = match (value.as_int(), value) {
                    (Some(number), _) => number,
                    (None, Value::Float(number)) if number.abs() < 1e38 && "diu".contains(kind) => *number as i128,
                    _ => return failed(format!("%{kind} wants a whole number, not {}", value.type_name())),
                };
                let mut body = match kind {
                    'x' => format!("{:x}", number.unsigned_abs()),
                    'X' => format!("{:X}", number.unsigned_abs()),
                    'o' => format!("{:o}", number.unsigned_abs()),
                    _ => number.unsigned_abs().to_string(),
                };
                if let Some(missing) = layout.precision.and_then(|wanted| wanted.checked_sub(body.len())) {
                    body.insert_str(0, &"0".repeat(missing));
                }
                let prefix = match kind {
                    'x' | 'X' | 'o' if layout.alternative => ["0", &kind.to_string()].concat(),
                    _ => String::new(),
                };
                signed(number < 0, &prefix, &body, &layout, out);
            }
            'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
                let number = number(value)?;
                let body = float_body(number.abs(), kind, layout.precision.unwrap_or(6), layout.alternative);
                signed(negative(number), "", &body, &layout, out);
            }
            other => return failed(format!("unknown format %{other}")),
        }
        Ok(())
    }

    /// `text.format(...)`. With `map` its only argument is a dict of names.
    pub(super) fn str_format(&mut self, text: &str, called: Called, map: bool) -> Result<Value> {
        let (positional, named) = if map {
            let [Some(Value::Dict(dict))] = called.bind("format_map", ["mapping"])? else {
                return failed("format_map wants a dict");
            };
            (Vec::new(), Value::Dict(dict))
        } else {
            let pairs = called.named.into_iter().map(|(name, value)| (Value::Str(name), value)).collect();
            (called.positional, self.dict(pairs)?)
        };
        let mut next = Some(0);
        let mut out = String::new();
        self.fields(text, &positional, &named, &mut next, 2, &mut out)?;
        self.text(out)
    }

    fn fields(
        &mut self,
        text: &str,
        positional: &[Value],
        named: &Value,
        next: &mut Option<usize>,
        depth: usize,
        out: &mut String,
    ) -> Result<()> {
        self.step(text.len() / 8)?;
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '{' if chars.next_if_eq(&'{').is_some() => out.push('{'),
                '}' if chars.next_if_eq(&'}').is_some() => out.push('}'),
                '}' => return failed("a format has a single }"),
                '{' => {
                    if depth == 0 {
                        return failed("a format is nested too deeply");
                    }
                    let mut field = String::new();
                    let mut open = 1;
                    for c in chars.by_ref() {
                        open += i32::from(c == '{') - i32::from(c == '}');
                        if open == 0 {
                            break;
                        }
                        field.push(c);
                    }
                    if open != 0 {
                        return failed("a format has a { without }");
                    }
                    let (name, spec) = split_field(&field);
                    let (name, conversion) = match name.split_once('!') {
                        Some((name, conversion)) => (name, Some(conversion)),
                        None => (name, None),
                    };
                    let mut value = self.field(name, positional, named, next)?;
                    match conversion {
                        None => {}
                        Some("s") => value = Value::Str(self.string(&value)?),
                        Some("r") => value = self.repr(&value)?.into(),
                        Some("a") => value = ascii(&self.repr(&value)?).into(),
                        Some(other) => return failed(format!("unknown conversion !{other} in a format")),
                    }
                    let mut layout = String::new();
                    self.fields(spec, positional, named, next, depth - 1, &mut layout)?;
                    self.formatted(&value, &layout, out)?;
                }
                c => out.push(c),
            }
        }
        Ok(())
    }

    /// The value that `0.name[key]` means.
    fn field(&mut self, path: &str, positional: &[Value], named: &Value, next: &mut Option<usize>) -> Result<Value> {
        let end = path.find(['.', '[']).unwrap_or(path.len());
        let (first, mut rest) = path.split_at(end);
        let index = match first {
            "" => match next {
                Some(index) => {
                    *index += 1;
                    Some(*index - 1)
                }
                None => return failed("a format numbers some fields and others not"),
            },
            first if first.bytes().all(|byte| byte.is_ascii_digit()) => {
                *next = None;
                Some(first.parse().unwrap_or(usize::MAX))
            }
            _ => None,
        };
        let mut value = match index {
            Some(index) => match positional.get(index) {
                Some(value) => value.clone(),
                None => return failed(format!("a format asks for value {index}, there are {}", positional.len())),
            },
            None => match named {
                Value::Dict(dict) if dict.get_str(first).is_some() => dict.get_str(first).cloned().unwrap_or_default(),
                _ => return failed(format!("a format asks for {first:?}, which was not given")),
            },
        };
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('.') {
                let end = after.find(['.', '[']).unwrap_or(after.len());
                value = self.attribute(&value, &after[..end])?;
                rest = &after[end..];
            } else {
                let Some((key, after)) = rest[1..].split_once(']') else { return failed("a format has a [ without ]") };
                let key = key.parse::<i128>().map_or_else(|_| Value::from(key), Value::Int);
                value = self.item(&value, &key)?;
                rest = after;
            }
        }
        Ok(value)
    }

    /// `format(value, spec)`
    fn formatted(&mut self, value: &Value, spec: &str, out: &mut String) -> Result<()> {
        if spec.is_empty() {
            out.push_str(&self.string(value)?);
            return Ok(());
        }
        let mut layout = layout(spec)?;
        self.reserve(&layout)?;
        let kind = layout.kind;
        let wrong = || failed(format!("{} has no format {spec:?}", value.type_name()));
        match (value, value.as_int()) {
            (Value::Str(text) | Value::Markup(text), _) => {
                if !matches!(kind, None | Some('s')) || layout.sign.is_some() || layout.align == Some('=') {
                    return wrong();
                }
                let text: String = text.chars().take(layout.precision.unwrap_or(usize::MAX)).collect();
                layout.align = layout.align.or(Some('<'));
                pad(&text, &layout, out);
                Ok(())
            }
            (_, Some(number)) if matches!(kind, None | Some('d' | 'b' | 'o' | 'x' | 'X' | 'c' | 'n')) => {
                if layout.precision.is_some() {
                    return wrong();
                }
                let size = number.unsigned_abs();
                let (body, every) = match kind {
                    Some('b') => (format!("{size:b}"), 4),
                    Some('o') => (format!("{size:o}"), 4),
                    Some('x') => (format!("{size:x}"), 4),
                    Some('X') => (format!("{size:X}"), 4),
                    Some('c') => match u32::try_from(number).ok().and_then(char::from_u32) {
                        Some(c) => (c.to_string(), 3),
                        None => return wrong(),
                    },
                    _ => (size.to_string(), 3),
                };
                let body = grouped(&body, layout.group, every);
                let prefix = match kind {
                    Some(kind @ ('b' | 'o' | 'x' | 'X')) if layout.alternative => ["0", &kind.to_string()].concat(),
                    _ => String::new(),
                };
                layout.align = layout.align.or(Some(if layout.fill == Some('0') { '=' } else { '>' }));
                signed(number < 0, &prefix, &body, &layout, out);
                Ok(())
            }
            _ => match value.as_f64() {
                Some(number) => self.formatted_float(number, layout, out),
                None => wrong(),
            },
        }
    }

    fn formatted_float(&mut self, number: f64, mut layout: Layout, out: &mut String) -> Result<()> {
        let size = number.abs();
        let precision = layout.precision.unwrap_or(6);
        let body = match layout.kind {
            Some(kind @ ('e' | 'E' | 'f' | 'F' | 'g' | 'G')) => float_body(size, kind, precision, layout.alternative),
            Some('n') => float_body(size, 'g', precision, layout.alternative),
            Some('%') => float_body(size * 100.0, 'f', precision, layout.alternative) + "%",
            None => match layout.precision {
                None => float(size),
                Some(precision) => {
                    // As g, but with a digit after the point.
                    let text = float_body(size, 'g', precision.max(1), false);
                    let whole = size.is_finite() && !text.contains(['.', 'e']);
                    if whole { text + ".0" } else { text }
                }
            },
            Some(other) => return failed(format!("float has no format {other:?}")),
        };
        let (whole, rest) = body.split_at(body.find(|c: char| !c.is_ascii_digit()).unwrap_or(body.len()));
        let body = grouped(whole, layout.group, 3) + rest;
        layout.align = layout.align.or(Some(if layout.fill == Some('0') { '=' } else { '>' }));
        signed(negative(number), "", &body, &layout, out);
        Ok(())
    }

    fn reserve(&mut self, layout: &Layout) -> Result<()> {
        // A float's digits before the point are 309 at most.
        if layout.precision.is_some_and(|precision| precision > 10_000) {
            return failed("a precision is 10000 at most");
        }
        self.charge(layout.width.saturating_add(layout.precision.unwrap_or(0)).saturating_add(400))
    }

    /// `text % values` of the filter: `'%s' | format(x)`.
    pub(super) fn format_filter(&mut self, text: &Arc<str>, called: Called) -> Result<Value> {
        let values = match (called.positional.is_empty(), called.named.is_empty()) {
            (false, false) => return failed("format takes values or names, not both"),
            (true, false) => {
                let pairs = called.named.into_iter().map(|(name, value)| (Value::Str(name), value)).collect();
                self.dict(pairs)?
            }
            _ => self.tuple(called.positional)?,
        };
        self.percent(text, &values)
    }
}

fn negative(number: f64) -> bool {
    number.is_sign_negative() && !number.is_nan()
}

fn digits(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<usize> {
    let mut number: Option<usize> = None;
    while let Some(digit) = chars.next_if(char::is_ascii_digit).and_then(|c| c.to_digit(10)) {
        number = Some(number.unwrap_or(0).saturating_mul(10).saturating_add(digit as usize));
    }
    number
}

/// Name and layout of a field; a colon within brackets belongs to the name.
fn split_field(field: &str) -> (&str, &str) {
    let mut bracket = false;
    for (at, c) in field.char_indices() {
        match c {
            '[' => bracket = true,
            ']' => bracket = false,
            ':' if !bracket => return (&field[..at], &field[at + 1..]),
            _ => {}
        }
    }
    (field, "")
}

/// `[[fill]align][sign][#][0][width][,][.precision][type]`
fn layout(spec: &str) -> Result<Layout> {
    let mut layout = Layout::default();
    let chars: Vec<char> = spec.chars().collect();
    let is_align = |c: Option<&char>| matches!(c, Some('<' | '>' | '=' | '^'));
    let mut at = 0;
    if is_align(chars.get(1)) {
        layout.fill = chars.first().copied();
        layout.align = chars.get(1).copied();
        at = 2;
    } else if is_align(chars.first()) {
        layout.align = chars.first().copied();
        at = 1;
    }
    let rest: String = chars[at..].iter().collect();
    let mut chars = rest.chars().peekable();
    layout.sign = chars.next_if(|c| matches!(c, '+' | '-' | ' '));
    layout.alternative = chars.next_if_eq(&'#').is_some();
    if chars.next_if_eq(&'0').is_some() {
        layout.fill = layout.fill.or(Some('0'));
    }
    layout.width = digits(&mut chars).unwrap_or(0);
    layout.group = chars.next_if(|c| matches!(c, ',' | '_'));
    if chars.next_if_eq(&'.').is_some() {
        layout.precision = digits(&mut chars);
        if layout.precision.is_none() {
            return failed("a format has a point without precision");
        }
    }
    layout.kind = chars.next();
    if chars.next().is_some() {
        return failed(format!("unknown format {spec:?}"));
    }
    Ok(layout)
}

/// Puts sign and prefix before the digits, and fills up to the width.
fn signed(negative: bool, prefix: &str, body: &str, layout: &Layout, out: &mut String) {
    let sign = match (negative, layout.sign) {
        (true, _) => "-",
        (false, Some('+')) => "+",
        (false, Some(' ')) => " ",
        _ => "",
    };
    let length = sign.len() + prefix.len() + body.chars().count();
    if layout.align == Some('=') {
        out.push_str(sign);
        out.push_str(prefix);
        out.extend(std::iter::repeat_n(layout.fill.unwrap_or(' '), layout.width.saturating_sub(length)));
        out.push_str(body);
    } else {
        pad(&[sign, prefix, body].concat(), layout, out);
    }
}

fn pad(text: &str, layout: &Layout, out: &mut String) {
    let missing = layout.width.saturating_sub(text.chars().count());
    let before = match layout.align {
        Some('<') => 0,
        Some('^') => missing / 2,
        _ => missing,
    };
    let fill = layout.fill.unwrap_or(' ');
    out.extend(std::iter::repeat_n(fill, before));
    out.push_str(text);
    out.extend(std::iter::repeat_n(fill, missing - before));
}

fn grouped(digits: &str, separator: Option<char>, every: usize) -> String {
    let Some(separator) = separator else { return digits.to_owned() };
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(every) {
            out.push(separator);
        }
        out.push(c);
    }
    out
}

/// A number that is not negative, as C's printf writes it.
fn float_body(number: f64, kind: char, precision: usize, alternative: bool) -> String {
    let text = if number.is_nan() {
        "nan".to_owned()
    } else if number.is_infinite() {
        "inf".to_owned()
    } else {
        match kind.to_ascii_lowercase() {
            'f' => point(format!("{number:.precision$}"), alternative && precision == 0),
            'e' => exponent(&format!("{number:.precision$e}")),
            _ => {
                let digits = precision.max(1) - 1;
                let text = format!("{number:.digits$e}");
                let power: i32 = text.split_once('e').and_then(|(_, power)| power.parse().ok()).unwrap_or(0);
                let trim = |text: &str| match text.contains('.') && !alternative {
                    true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
                    false => text.to_owned(),
                };
                if power < -4 || power > digits as i32 {
                    let (mantissa, power) = text.split_once('e').unwrap_or((&text, "0"));
                    exponent(&format!("{}e{power}", trim(mantissa)))
                } else {
                    let after = (digits as i32 - power).max(0) as usize;
                    trim(&format!("{number:.after$}"))
                }
            }
        }
    };
    if kind.is_ascii_uppercase() { text.to_uppercase() } else { text }
}

fn point(text: String, wanted: bool) -> String {
    if wanted { text + "." } else { text }
}
