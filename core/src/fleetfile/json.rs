//! JSON fleet files: from text to the same tree that TOML gives, so that all else is shared.
//!
//! The way in is [`read`]. Strict RFC 8259, with what a fleet file has no use for as errors: a key
//! set twice, and `null`. Deliberately absent: leniency. A generator that writes comments or
//! closing commas is told so, with the place.

use std::borrow::Cow;
use std::fmt::Display;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::Source;
use super::problem::short;
use super::report::Report;
use super::table::Span;

/// Lists and objects within one another; as many as TOML's reader allows.
const DEEPEST: usize = 80;

/// Characters of the user's text that an error repeats.
const SHOWN: usize = 40;

/// Whether a fleet file is JSON: by its name, or because no TOML starts so.
pub(super) fn is_json(source: Source<'_>) -> bool {
    let ending = source.name.rsplit_once('.').map(|(_, ending)| ending);
    ending.is_some_and(|ending| ending.eq_ignore_ascii_case("json"))
        || source.text.trim_start().starts_with('{')
}

/// Reads a whole text; `None` where it is no good, and that is in the report.
pub(super) fn read<'s>(text: &'s str, report: &mut Report<'_>) -> Option<DeTable<'s>> {
    let mut json = Json { text, at: 0, depth: 0, report };
    let document = json.document().ok();
    document.filter(|_| report.is_clean())
}

/// Reading can't go on; why is in the report.
struct Stop;

type Read<T> = Result<T, Stop>;

/// A text, and how far it has been read.
struct Json<'s, 'r, 'p> {
    text: &'s str,
    at: usize,
    depth: usize,
    report: &'r mut Report<'p>,
}

impl<'s> Json<'s, '_, '_> {
    fn document(&mut self) -> Read<DeTable<'s>> {
        self.space();
        if self.peek() != Some('{') {
            return Err(self.expected("a fleet, which is an object: { \"fleet\": \"shop\", … }"));
        }
        let table = self.object()?;
        self.space();
        if self.peek().is_some() {
            return Err(self.expected("nothing after the object that is the fleet"));
        }
        Ok(table)
    }

    fn value(&mut self) -> Read<Spanned<DeValue<'s>>> {
        let start = self.at;
        let value = match self.peek() {
            Some('{') => DeValue::Table(self.object()?),
            Some('[') => DeValue::Array(self.list()?),
            Some('"') => DeValue::String(self.string()?),
            Some('-' | '0'..='9') => self.number()?,
            Some('a'..='z' | 'A'..='Z') => self.word()?,
            _ => return Err(self.expected("a value")),
        };
        Ok(Spanned::new(start..self.at, value))
    }

    fn object(&mut self) -> Read<DeTable<'s>> {
        let open = self.enter()?;
        let mut table = DeTable::new();
        if !self.eat('}') {
            loop {
                self.member(&mut table)?;
                if self.closes('}', open)? {
                    break;
                }
            }
        }
        self.depth -= 1;
        Ok(table)
    }

    fn member(&mut self, table: &mut DeTable<'s>) -> Read<()> {
        let start = self.at;
        if self.peek() != Some('"') {
            return Err(self.expected("a key in double quotes"));
        }
        let key = self.string()?;
        let span = start..self.at;
        self.space();
        if !self.eat(':') {
            return Err(self.expected("`:` after the key"));
        }
        self.space();
        let value = self.value()?;
        if let Some((first, _)) = table.get_key_value(&*key) {
            let line = self.report.line(first.span().start);
            let message = format!("`{}` is already set on line {line}", short(&key, SHOWN));
            self.report.error_help(&span, message, "keep one of them");
        } else {
            table.insert(Spanned::new(span, key), value);
        }
        Ok(())
    }

    fn list(&mut self) -> Read<DeArray<'s>> {
        let open = self.enter()?;
        let mut list = DeArray::new();
        if !self.eat(']') {
            loop {
                list.push(self.value()?);
                if self.closes(']', open)? {
                    break;
                }
            }
        }
        self.depth -= 1;
        Ok(list)
    }

    /// Goes into the list or object that starts here. Returns where that is.
    fn enter(&mut self) -> Read<usize> {
        let open = self.at;
        self.depth += 1;
        if self.depth > DEEPEST {
            let message = format!("lists and objects are nested more than {DEEPEST} deep");
            self.report.error(&(open..open + 1), message);
            return Err(Stop);
        }
        self.at += 1;
        self.space();
        Ok(open)
    }

    /// After a value: goes past `close`, or past the comma to the next value.
    fn closes(&mut self, close: char, open: usize) -> Read<bool> {
        self.space();
        if self.eat(close) {
            return Ok(true);
        }
        let comma = self.at;
        if !self.eat(',') {
            if self.peek().is_none() {
                let line = self.report.line(open);
                let what = format!("`,` or the `{close}` that closes what line {line} opens");
                return Err(self.expected(what));
            }
            return Err(self.expected(format!("`,` or `{close}`")));
        }
        self.space();
        if self.peek() == Some(close) {
            let message = format!("not valid JSON: a comma before the closing `{close}`");
            self.report.error_help(&(comma..comma + 1), message, "take it out");
            return Err(Stop);
        }
        Ok(false)
    }

    fn number(&mut self) -> Read<DeValue<'s>> {
        let (start, token) = self.run(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
        // Every number of JSON is one of TOML, whose reader alone can make the value.
        if is_number(token)
            && let Ok(value) = DeValue::parse(token)
        {
            return Ok(value.into_inner());
        }
        let message = format!("not valid JSON: `{}` is not a number", short(token, SHOWN));
        let help = "write it in decimal, such as 42 or -1.5, with no leading zero, or as a string";
        self.report.error_help(&(start..self.at), message, help);
        Err(Stop)
    }

    fn word(&mut self) -> Read<DeValue<'s>> {
        let (start, word) = self.run(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
        match word {
            "true" => return Ok(DeValue::Boolean(true)),
            "false" => return Ok(DeValue::Boolean(false)),
            "null" => {
                let message = "null is no value of a fleet file";
                self.report.error_help(&(start..self.at), message, "leave the key out");
                return Ok(DeValue::Boolean(false));
            }
            _ => self.at = start,
        }
        Err(self.expected("a value"))
    }

    fn string(&mut self) -> Read<Cow<'s, str>> {
        let open = self.at;
        self.at += 1;
        let mut decoded = String::new();
        let mut plain = self.at;
        loop {
            match self.peek() {
                Some('"') => break,
                Some('\\') => {
                    decoded.push_str(&self.text[plain..self.at]);
                    decoded.push(self.escape()?);
                    plain = self.at;
                }
                Some(c) if c >= ' ' => self.at += c.len_utf8(),
                Some('\n' | '\r') | None => {
                    let message = "not valid JSON: the string is not closed on its line";
                    let help = "close it with `\"`; a line break in a string is written \\n";
                    self.report.error_help(&(open..self.at), message, help);
                    return Err(Stop);
                }
                Some(c) => return Err(self.control(c)),
            }
        }
        let rest = &self.text[plain..self.at];
        let is_plain = plain == open + 1;
        self.at += 1;
        Ok(if is_plain { Cow::Borrowed(rest) } else { Cow::Owned(decoded + rest) })
    }

    fn control(&mut self, c: char) -> Stop {
        let code = u32::from(c);
        let message = format!("not valid JSON: control character U+{code:04X} in a string");
        let help = format!("write it as \\u{code:04x}");
        self.report.error_help(&(self.at..self.at + 1), message, help);
        Stop
    }

    /// The character of the escape that starts here.
    fn escape(&mut self) -> Read<char> {
        let start = self.at;
        self.at += 1;
        let kind = self.peek();
        self.at += kind.map_or(0, char::len_utf8);
        Ok(match kind {
            Some(c @ ('"' | '\\' | '/')) => c,
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('u') => return self.code_point(start),
            _ => {
                let help = "these are \\\" \\\\ \\/ \\b \\f \\n \\r \\t and \\u with four hexadecimal \
                            digits";
                return Err(self.bad_escape(start, "there is no such escape", help));
            }
        })
    }

    fn code_point(&mut self, start: usize) -> Read<char> {
        let digits = "write four hexadecimal digits, such as \\u00e9";
        let Some(unit) = self.hex() else {
            return Err(self.bad_escape(start, "\\u lacks its digits", digits));
        };
        let units = if matches!(unit, 0xd800..=0xdbff) && self.text[self.at..].starts_with("\\u") {
            self.at += 2;
            let Some(second) = self.hex() else {
                return Err(self.bad_escape(start, "\\u lacks its digits", digits));
            };
            vec![unit, second]
        } else {
            vec![unit]
        };
        match String::from_utf16(&units).ok().and_then(|text| text.chars().next()) {
            Some(c) => Ok(c),
            None => {
                let help = "write the character itself, or both halves of its surrogate pair";
                Err(self.bad_escape(start, "half of a surrogate pair is no character", help))
            }
        }
    }

    /// Four hexadecimal digits.
    fn hex(&mut self) -> Option<u16> {
        let digits = self.text.get(self.at..self.at + 4)?;
        let unit = u16::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'))?;
        self.at += 4;
        Some(unit)
    }

    fn bad_escape(&mut self, start: usize, problem: &str, help: &str) -> Stop {
        self.report.error_help(&(start..self.at), format!("not valid JSON: {problem}"), help);
        Stop
    }

    /// Says that something else had to be here.
    fn expected(&mut self, what: impl Display) -> Stop {
        let (span, found) = self.here();
        let message = format!("not valid JSON: expected {what}; found {found}");
        let help = match self.peek() {
            Some('/' | '#') => Some("JSON has no comments; a fleet file in TOML may have some"),
            Some('\'') => Some("strings are in double quotes"),
            _ if ["`True`", "`False`"].contains(&found.as_str()) => Some("write true or false"),
            Some('"') => Some("a `,` may be missing before it"),
            _ => None,
        };
        self.report.push(&span, message, help.map(str::to_owned));
        Stop
    }

    /// What is here, and how to call it.
    fn here(&self) -> (Span, String) {
        let rest = &self.text[self.at..];
        let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        match rest.chars().next() {
            None => {
                let end = self.text.trim_end().len();
                (end..end, "the end of the file".to_owned())
            }
            Some('"') => (self.at..self.at + 1, "a string".to_owned()),
            Some(_) if word > 0 => {
                (self.at..self.at + word, format!("`{}`", short(&rest[..word], SHOWN)))
            }
            Some(c) if c.is_whitespace() || c.is_control() => {
                (self.at..self.at + c.len_utf8(), format!("U+{:04X}", u32::from(c)))
            }
            Some(c) => (self.at..self.at + c.len_utf8(), format!("`{c}`")),
        }
    }

    fn space(&mut self) {
        self.run(|c| matches!(c, ' ' | '\t' | '\n' | '\r'));
    }

    /// Goes past the characters that are `wanted`. Returns where they start, and them.
    fn run(&mut self, wanted: impl Fn(char) -> bool) -> (usize, &'s str) {
        let (start, rest) = (self.at, &self.text[self.at..]);
        let length = rest.find(|c| !wanted(c)).unwrap_or(rest.len());
        self.at += length;
        (start, &rest[..length])
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    /// Goes past `c` if it is here.
    fn eat(&mut self, c: char) -> bool {
        let is_here = self.peek() == Some(c);
        self.at += if is_here { c.len_utf8() } else { 0 };
        is_here
    }
}

/// Whether a token is a number by the grammar of JSON.
fn is_number(token: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let (mantissa, exponent) = match token.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (token, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let whole = whole.strip_prefix('-').unwrap_or(whole);
    digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(|e| digits(e.strip_prefix(['+', '-']).unwrap_or(e)))
}

#[cfg(test)]
mod tests;
