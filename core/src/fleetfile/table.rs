//! Tables and values of the file, each knowing its place and what to call itself in an error.

use std::fmt::Display;
use std::ops::Range;
use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::problem::short;
use super::report::Report;

/// Bytes of the file.
pub(super) type Span = Range<usize>;

/// Characters of a user's key that an error repeats.
const SHOWN_KEY: usize = 60;

/// A value with its key.
pub(super) struct Item<'t> {
    /// The last part of its key.
    pub(super) name: &'t str,
    /// The whole key: `instance.main.image`.
    path: String,
    /// Where the key is.
    pub(super) key: Span,
    value: &'t Spanned<DeValue<'t>>,
}

impl<'t> Item<'t> {
    /// Where the value is.
    pub(super) fn span(&self) -> Span {
        self.value.span()
    }

    /// The value.
    pub(super) fn value(&self) -> &'t DeValue<'t> {
        self.value.get_ref()
    }

    /// The key as errors show it.
    pub(super) fn shown(&self) -> String {
        short(self.name, SHOWN_KEY)
    }

    /// Says that the value should have been `expected`, such as `a string`.
    pub(super) fn wrong_type(&self, expected: &str, report: &mut Report<'_>) {
        let (name, found) = (self.shown(), kind(self.value()));
        report.error(&self.span(), format!("`{name}` must be {expected}; found {found}"));
    }

    /// Says that the value is of the right type and still not right.
    pub(super) fn wrong(&self, problem: impl Display, report: &mut Report<'_>) {
        report.error(&self.span(), format!("`{}`: {problem}", self.shown()));
    }

    /// Its text; `example` is one, in quotes.
    pub(super) fn text(&self, example: &str, report: &mut Report<'_>) -> Option<&'t str> {
        if let DeValue::String(text) = self.value() {
            return Some(text);
        }
        self.wrong_type(&format!("a string, such as {example}"), report);
        None
    }

    /// Its text, read as a `T`.
    pub(super) fn parsed<T>(&self, example: &str, report: &mut Report<'_>) -> Option<T>
    where
        T: FromStr<Err: Display>,
    {
        let text = self.text(example, report)?;
        text.parse().map_err(|error| self.wrong(error, report)).ok()
    }

    /// Its key, read as a `T`.
    pub(super) fn named<T>(&self, report: &mut Report<'_>) -> Option<T>
    where
        T: FromStr<Err: Display>,
    {
        self.name.parse().map_err(|error: T::Err| report.error(&self.key, error.to_string())).ok()
    }

    /// Its whole number.
    pub(super) fn integer(&self, report: &mut Report<'_>) -> Option<i64> {
        let DeValue::Integer(number) = self.value() else {
            self.wrong_type("a whole number", report);
            return None;
        };
        let read = i64::from_str_radix(number.as_str(), number.radix());
        read.map_err(|_| self.wrong("the number does not fit 64 bits", report)).ok()
    }

    /// The table that it is.
    pub(super) fn section(&self, report: &mut Report<'_>) -> Option<Section<'t>> {
        let DeValue::Table(table) = self.value() else {
            self.wrong_type("a table", report);
            return None;
        };
        let (path, key) = (self.path.clone(), self.key.clone());
        Some(Section {
            path,
            key,
            table,
            asked: Vec::new(),
            refused: Vec::new(),
            lacks: Vec::new(),
        })
    }

    /// What is in the list `array`, which is this value; each called as the list is.
    pub(super) fn elements(&self, array: &'t DeArray<'t>) -> impl Iterator<Item = Item<'t>> {
        array.iter().map(|value| Item {
            name: self.name,
            path: self.path.clone(),
            key: value.span(),
            value,
        })
    }
}

/// A table, and which of its keys have been asked for.
pub(super) struct Section<'t> {
    path: String,
    key: Span,
    table: &'t DeTable<'t>,
    asked: Vec<&'static str>,
    refused: Vec<Refused>,
    lacks: Vec<Lack>,
}

/// A key that has no place here, and for which there is more to say than that.
struct Refused {
    name: &'static str,
    message: &'static str,
    help: &'static str,
}

/// Something that had to be there.
struct Lack {
    /// The keys that would have given it.
    names: &'static [&'static str],
    message: String,
    help: String,
}

impl<'t> Section<'t> {
    /// The whole file.
    pub(super) fn top(table: &'t DeTable<'t>) -> Self {
        Self {
            path: String::new(),
            key: 0..0,
            table,
            asked: Vec::new(),
            refused: Vec::new(),
            lacks: Vec::new(),
        }
    }

    /// Where its key is.
    pub(super) fn key(&self) -> &Span {
        &self.key
    }

    /// How errors call it.
    pub(super) fn shown(&self) -> String {
        if self.path.is_empty() { "the file".into() } else { format!("[{}]", self.path) }
    }

    fn place(&self) -> String {
        if self.path.is_empty() { "at the top level".into() } else { format!("in [{}]", self.path) }
    }

    /// The value of a key that this version knows.
    pub(super) fn take(&mut self, name: &'static str) -> Option<Item<'t>> {
        self.asked.push(name);
        self.table.get_key_value(name).map(|(key, value)| self.item(key.span(), name, value))
    }

    /// Whether there is such a key.
    pub(super) fn has(&self, name: &str) -> bool {
        self.table.contains_key(name)
    }

    /// Whether a key was probably meant to be `name`, and none of `others`.
    pub(super) fn has_near(&self, name: &'static str, others: &[&'static str]) -> bool {
        let known = || std::iter::once(name).chain(others.iter().copied());
        self.table.keys().any(|key| nearest(key.get_ref(), known()) == Some(name))
    }

    /// Says of a key, where it is there, that it must not be.
    pub(super) fn refuse(&mut self, name: &'static str, message: &'static str, help: &'static str) {
        self.refused.push(Refused { name, message, help });
    }

    /// Says that one of `names` had to be there; `example` is what to add.
    ///
    /// Told by [`finish`](Self::finish), and only where no misspelt key was meant to give it.
    pub(super) fn lacks(&mut self, names: &'static [&'static str], example: &str) {
        let list: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
        let lacking = match list.as_slice() {
            [one] => format!("no {one}"),
            [one, other] => format!("neither {one} nor {other}"),
            several => format!("none of {}", several.join(", ")),
        };
        let message = format!("{} has {lacking}", self.shown());
        self.lacks.push(Lack { names, message, help: format!("add {example}") });
    }

    /// All its values, where the user chooses the keys.
    pub(super) fn entries(&self) -> impl Iterator<Item = Item<'t>> {
        self.table.iter().map(|(key, value)| self.item(key.span(), key.get_ref(), value))
    }

    fn item(&self, key: Span, name: &'t str, value: &'t Spanned<DeValue<'t>>) -> Item<'t> {
        let dot = if self.path.is_empty() { "" } else { "." };
        Item { name, path: format!("{}{dot}{}", self.path, quoted(name)), key, value }
    }

    /// Reports what is lacking, and every key that was not asked for. Those of `later` are known
    /// to the design.
    pub(super) fn finish(self, later: &[&'static str], report: &mut Report<'_>) {
        let mut meant = Vec::new();
        for key in self.table.keys() {
            let name: &str = key.get_ref();
            if self.asked.contains(&name) {
                continue;
            }
            if let Some(refused) = self.refused.iter().find(|refused| refused.name == name) {
                report.error_help(&key.span(), refused.message, refused.help);
                continue;
            }
            let (shown, place) = (short(name, SHOWN_KEY), self.place());
            if later.contains(&name) {
                let message = format!("`{shown}` {place} is not supported by this version yet");
                report.error_help(&key.span(), message, "leave it out");
                continue;
            }
            let near = nearest(name, self.asked.iter().chain(later).copied());
            meant.extend(near);
            let message = format!("unknown key `{shown}` {place}");
            report.error_help(&key.span(), message, self.help(near, later));
        }
        for Lack { names, message, help } in self.lacks {
            if !names.iter().any(|name| meant.contains(name)) {
                report.error_help(&self.key, message, help);
            }
        }
    }

    fn help(&self, near: Option<&str>, later: &[&str]) -> String {
        match near {
            Some(near) if later.contains(&near) => {
                format!("`{near}`, if that was meant, is not supported by this version yet")
            }
            Some(near) => did_you_mean(near),
            None => {
                let known: Vec<String> = self.asked.iter().map(|n| format!("`{n}`")).collect();
                format!("known here are {}", known.join(", "))
            }
        }
    }
}

/// Of a key that may be left out and that was read if it was given: what it is, or `None` where it
/// is wrong.
pub(super) fn optional<T>(read: Option<Option<T>>) -> Option<Option<T>> {
    read.map_or(Some(None), |value| value.map(Some))
}

/// A key as it is written in TOML.
fn quoted(key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let short = short(key, SHOWN_KEY);
    if !key.is_empty() && key.chars().all(bare) { short } else { format!("\"{short}\"") }
}

/// The suggestion of `word`.
pub(super) fn did_you_mean(word: &str) -> String {
    format!("did you mean `{}`?", short(word, SHOWN_KEY))
}

/// The one of `known` that is so near to `word` that it was probably meant.
pub(super) fn nearest<'k>(word: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    if word.len() > SHOWN_KEY {
        return None;
    }
    let plain = |text: &str| text.to_lowercase().replace('_', "-");
    let word = plain(word);
    known
        .filter(|k| k.len() <= SHOWN_KEY)
        .map(|k| (strsim::damerau_levenshtein(&word, &plain(k)), k))
        .filter(|(distance, k)| *distance <= (k.len() / 3).max(1) && *distance < k.len())
        .min()
        .map(|(_, k)| k)
}

/// What a value is, with its article.
fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
