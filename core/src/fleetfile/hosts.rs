//! `hosts`: a label selector, a host's name, or a list of names.

use std::collections::BTreeSet;

use toml::de::DeValue;

use crate::label::HostMatch;
use crate::name::HostName;

use super::report::Report;
use super::table::Item;

const EXPECTED: &str =
    "a selector, such as \"role=web\", \"*\", a host's name, or a list of host names";

/// Reads the value of `hosts`.
pub(super) fn read(item: &Item<'_>, report: &mut Report<'_>) -> Option<HostMatch> {
    match item.value() {
        DeValue::String(text) => one(item, text, report),
        DeValue::Array(array) if array.is_empty() => {
            item.wrong("the list is empty; name a host, or write \"*\" for all", report);
            None
        }
        DeValue::Array(array) => {
            let names: Vec<_> = item.elements(array).map(|e| name(&e, report)).collect();
            let names: Vec<HostName> = names.into_iter().collect::<Option<_>>()?;
            twice(item, &names, report).then_some(HostMatch::Names(names))
        }
        _ => {
            item.wrong_type(EXPECTED, report);
            None
        }
    }
}

/// A text with `=` or `!` can't be a host's name, so it is a selector.
fn one(item: &Item<'_>, text: &str, report: &mut Report<'_>) -> Option<HostMatch> {
    if text == "*" {
        return Some(HostMatch::All);
    }
    if text.contains(['=', '!']) {
        return item.parsed(EXPECTED, report).map(HostMatch::Selector);
    }
    name(item, report).map(|name| HostMatch::Names(vec![name]))
}

fn name(item: &Item<'_>, report: &mut Report<'_>) -> Option<HostName> {
    let text = item.text("\"web-1\"", report)?;
    let error = match text.parse() {
        Ok(name) => return Some(name),
        Err(error) => error,
    };
    let message = format!("`hosts`: {error}");
    let help = if text.contains(',') {
        "several hosts are a list: hosts = [\"web-1\", \"web-2\"]"
    } else if text.contains(['=', '!', '*']) {
        "a selector is no list but one string: hosts = \"role=web,site!=b\""
    } else {
        "write a host's name as `shoal host list` shows it, or a selector such as \"role=web\""
    };
    report.error_help(&item.span(), message, help);
    None
}

/// Whether no host is named twice.
fn twice(item: &Item<'_>, names: &[HostName], report: &mut Report<'_>) -> bool {
    let mut seen = BTreeSet::new();
    let again = names.iter().find(|name| !seen.insert(*name));
    if let Some(name) = again {
        item.wrong(format!("host {name} is named twice"), report);
    }
    again.is_none()
}
