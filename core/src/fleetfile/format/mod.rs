//! One form for fleet files: spacing, the order of keys and tables, blank lines.
//!
//! The way in is [`format`]: text to [`model::Document`] ([`read`]), sorted by [`order`], to text
//! ([`write`](self::write)). Every comment stays, with what it is about. Values stay as they are
//! written: strings keep their quotes, numbers their base. Deliberately absent: knowing whether the
//! file is a good fleet. One with wrong keys is formatted too, as people do while they write it.

mod model;
mod order;
mod read;
mod write;

use toml::de::{DeTable, DeValue};

use super::problem::Problems;
use super::report::Report;
use super::{Source, json, tree};

/// The text in the one form of fleet files; formatting it again changes nothing.
///
/// # Errors
/// The syntax errors of the text, which can't be formatted; or that it is JSON.
pub fn format(source: Source<'_>) -> Result<String, Problems> {
    let text = source.text.strip_prefix('\u{feff}').unwrap_or(source.text);
    let source = Source { text, ..source };
    let mut report = Report::new(source);
    if json::is_json(source) {
        let help = "its generator says how it looks; a TOML fleet file can be formatted";
        report.error_help(&(0..0), "a JSON fleet file is not formatted", help);
        return Err(report.into_problems());
    }
    let Some(before) = tree(source, &mut report) else { return Err(report.into_problems()) };
    let mut document = read::read(text);
    order::sort(&mut document);
    let formatted = write::write(&document);
    let (after, errors) = DeTable::parse_recoverable(&formatted);
    if errors.is_empty() && same_table(&before, after.get_ref()) {
        return Ok(formatted);
    }
    let message = "formatting would change what this file means, so nothing was changed";
    report.error_help(&(0..0), message, "this is a fault of shoal; please report it");
    Err(report.into_problems())
}

/// Whether both say the same, wherever it is in the text.
fn same_table(one: &DeTable<'_>, other: &DeTable<'_>) -> bool {
    one.len() == other.len()
        && one.iter().zip(other.iter()).all(|((key, value), (other_key, other_value))| {
            key.get_ref() == other_key.get_ref() && same(value.get_ref(), other_value.get_ref())
        })
}

fn same(one: &DeValue<'_>, other: &DeValue<'_>) -> bool {
    match (one, other) {
        (DeValue::String(a), DeValue::String(b)) => a == b,
        (DeValue::Integer(a), DeValue::Integer(b)) => {
            (a.as_str(), a.radix()) == (b.as_str(), b.radix())
        }
        (DeValue::Float(a), DeValue::Float(b)) => a.as_str() == b.as_str(),
        (DeValue::Boolean(a), DeValue::Boolean(b)) => a == b,
        (DeValue::Datetime(a), DeValue::Datetime(b)) => a == b,
        (DeValue::Array(a), DeValue::Array(b)) => {
            a.len() == b.len()
                && a.iter().zip(b.iter()).all(|(a, b)| same(a.get_ref(), b.get_ref()))
        }
        (DeValue::Table(a), DeValue::Table(b)) => same_table(a, b),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
