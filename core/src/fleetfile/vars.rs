//! `[vars]`: the values that templates may name.

use std::collections::{BTreeMap, BTreeSet};

use toml::de::DeValue;

use crate::render;
use crate::spec::{Value, Vars};

use super::problem::short;
use super::report::Report;
use super::table::{Item, Section};

/// The variables of a fleet file.
#[derive(Debug, Default)]
pub(super) struct Variables {
    /// Their values; nothing of use for one that is wrong.
    pub(super) values: Vars,
    /// Whether one is wrong, so that what templates make of them says nothing.
    pub(super) damaged: bool,
}

impl Variables {
    /// Reads the table `[vars]`.
    pub(super) fn read(item: &Item<'_>, report: &mut Report<'_>) -> Self {
        let mut vars = Self::default();
        let Some(section) = item.section(report) else {
            return Self { damaged: true, ..vars };
        };
        for item in section.entries() {
            let named = usable(&item, report);
            let value = value(&item, report);
            vars.damaged |= !named || value.is_none();
            vars.values.insert(item.name.to_owned(), value.unwrap_or(Value::Bool(false)));
        }
        vars
    }

    /// Whether nothing is known of which variables are set.
    pub(super) fn unreadable(&self) -> bool {
        self.damaged && self.values.is_empty()
    }

    /// Those that are among `names`.
    pub(super) fn only(&self, names: &BTreeSet<String>) -> Vars {
        let used = self.values.iter().filter(|(name, _)| names.contains(*name));
        used.map(|(name, value)| (name.clone(), value.clone())).collect()
    }
}

/// Whether a template can name the variable at all: asks the template language itself.
fn usable(item: &Item<'_>, report: &mut Report<'_>) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let shown = short(item.name, 60);
    let starts = item.name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let problem = if !starts || item.name.len() > 255 || !item.name.chars().all(plain) {
        "can't be named in a template; write letters, digits and _"
    } else if item.name == "shoal" {
        "is taken: templates see shoal.host, shoal.fleet and shoal.instance there"
    } else if !render::variables(&format!("{{{{ {} }}}}", item.name))
        .is_ok_and(|names| names.contains(item.name))
    {
        "is a word of the template language; choose another name"
    } else {
        return true;
    };
    report.error(&item.key, format!("variable `{shown}` {problem}"));
    false
}

fn value(item: &Item<'_>, report: &mut Report<'_>) -> Option<Value> {
    Some(match item.value() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(_) => Value::Integer(item.integer(report)?),
        DeValue::Boolean(flag) => Value::Bool(*flag),
        DeValue::Array(array) => {
            // All are read before the first bad one ends it, so that all are reported.
            let values: Vec<_> = item.elements(array).map(|e| value(&e, report)).collect();
            Value::List(values.into_iter().collect::<Option<_>>()?)
        }
        DeValue::Table(_) => Value::Table(table(&item.section(report)?, report)?),
        DeValue::Float(_) | DeValue::Datetime(_) => {
            item.wrong_type("a string, integer, boolean, list or table", report);
            return None;
        }
    })
}

fn table(section: &Section<'_>, report: &mut Report<'_>) -> Option<BTreeMap<String, Value>> {
    let values: Vec<_> =
        section.entries().map(|item| Some((item.name.to_owned(), value(&item, report)?))).collect();
    values.into_iter().collect()
}
