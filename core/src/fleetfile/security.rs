//! `[instance.NAME.security]`: where an instance differs from the safe defaults.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::str::FromStr;

use toml::de::DeValue;

use crate::spec::{Capability, Security, SystemCalls};

use super::report::Report;
use super::table::{Item, Section, did_you_mean, nearest};

/// Reads the table.
pub(super) fn read(mut section: Section<'_>, report: &mut Report<'_>) -> Option<Security> {
    let (add, drop) = (section.take("capabilities-add"), section.take("capabilities-drop"));
    let (gains, users) = (section.take("new-privileges"), section.take("private-users"));
    let calls = section.take("system-calls-allow");
    section.finish(&[], report);
    let added = set(add.as_ref(), capability, report);
    let dropped = set(drop.as_ref(), capability, report);
    let system_calls_allow = set(calls.as_ref(), plain::<SystemCalls>, report);
    let new_privileges = flag(gains.as_ref(), false, report);
    let private_users = flag(users.as_ref(), true, report);
    let (capabilities_add, capabilities_drop) = (added?, dropped?);
    if let (Some(both), Some(item)) =
        (capabilities_add.intersection(&capabilities_drop).next(), &drop)
    {
        item.wrong(format!("{both} is both added and dropped"), report);
        return None;
    }
    Some(Security {
        capabilities_add,
        capabilities_drop,
        new_privileges: new_privileges?,
        private_users: private_users?,
        system_calls_allow: system_calls_allow?,
    })
}

/// `true` or `false`; `default` where nothing is said.
pub(super) fn flag(
    item: Option<&Item<'_>>,
    default: bool,
    report: &mut Report<'_>,
) -> Option<bool> {
    let Some(item) = item else { return Some(default) };
    if let DeValue::Boolean(flag) = item.value() {
        return Some(*flag);
    }
    item.wrong_type("true or false", report);
    None
}

fn set<T: Ord>(
    item: Option<&Item<'_>>,
    one: fn(&Item<'_>, &mut Report<'_>) -> Option<T>,
    report: &mut Report<'_>,
) -> Option<BTreeSet<T>> {
    let Some(item) = item else { return Some(BTreeSet::new()) };
    let DeValue::Array(array) = item.value() else {
        item.wrong_type("a list of strings", report);
        return None;
    };
    // All are read before the first bad one ends it, so that all are reported.
    let read: Vec<Option<T>> = item.elements(array).map(|element| one(&element, report)).collect();
    read.into_iter().collect()
}

fn plain<T: FromStr<Err: Display>>(item: &Item<'_>, report: &mut Report<'_>) -> Option<T> {
    item.parsed("\"@keyring\"", report)
}

fn capability(item: &Item<'_>, report: &mut Report<'_>) -> Option<Capability> {
    let text = item.text("\"CAP_NET_RAW\"", report)?;
    let error = match text.parse() {
        Ok(capability) => return Some(capability),
        Err(error) => error,
    };
    let all: Vec<String> = Capability::all().collect();
    let full = if text.starts_with("CAP_") { text.to_owned() } else { format!("CAP_{text}") };
    let near = nearest(&full, all.iter().map(String::as_str));
    let message = format!("`{}`: {error}", item.shown());
    report.push(&item.span(), message, near.map(did_you_mean));
    None
}
