//! `[vars]`: the values that templates may name.

use std::collections::{BTreeMap, BTreeSet};

use toml::de::DeValue;

use crate::fleet::Override;
use crate::label::{HostMatch, Selector};
use crate::name::InvalidName;
use crate::render;
use crate::spec::{Value, Vars};

use super::problem::short;
use super::report::Report;
use super::table::{Item, Section};

/// The variables of a fleet file.
#[derive(Debug, Default)]
pub(super) struct Variables {
    /// Those that hold everywhere; nothing of use for one that is wrong.
    pub(super) values: Vars,
    /// Those that hold on some hosts only, in the order of their keys.
    pub(super) on: Vec<Override>,
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
            if let Some(hosts) = on_hosts(&item, report) {
                vars.read_override(&item, hosts, report);
                continue;
            }
            let (value, sound) = named_value(&item, report);
            vars.damaged |= !sound;
            vars.values.insert(item.name.to_owned(), value);
        }
        vars
    }

    fn read_override(
        &mut self,
        item: &Item<'_>,
        hosts: Option<HostMatch>,
        report: &mut Report<'_>,
    ) {
        let Some((hosts, section)) = hosts.zip(item.section(report)) else {
            self.damaged = true;
            return;
        };
        let mut vars = Vars::new();
        for item in section.entries() {
            let (value, sound) = named_value(&item, report);
            self.damaged |= !sound;
            vars.insert(item.name.to_owned(), value);
        }
        self.on.push(Override { hosts, vars });
    }

    /// Whether nothing is known of which variables are set.
    pub(super) fn unreadable(&self) -> bool {
        self.damaged && self.values.is_empty()
    }

    /// The names of all that are set anywhere.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let on = self.on.iter().flat_map(|over| over.vars.keys());
        self.values.keys().chain(on).map(String::as_str)
    }

    /// Those that hold everywhere and are among `names`.
    pub(super) fn only(&self, names: &BTreeSet<String>) -> Vars {
        among(&self.values, names)
    }

    /// Those that hold on some hosts only and are among `names`.
    pub(super) fn overrides(&self, names: &BTreeSet<String>) -> Vec<Override> {
        let some = self.on.iter().map(|Override { hosts, vars }| Override {
            hosts: hosts.clone(),
            vars: among(vars, names),
        });
        some.filter(|over| !over.vars.is_empty()).collect()
    }

    /// What a template that uses `names` may meet: the values that hold everywhere, filled up
    /// with those of some host, and these with those of each group of hosts in turn.
    pub(super) fn samples(&self, names: &BTreeSet<String>) -> Vec<Vars> {
        let mut first = Vars::new();
        for over in self.on.iter().rev() {
            first.extend(among(&over.vars, names));
        }
        first.extend(self.only(names));
        let others = self.overrides(names).into_iter().map(|over| {
            let mut vars = first.clone();
            vars.extend(over.vars);
            vars
        });
        std::iter::once(first.clone()).chain(others).collect()
    }
}

fn among(vars: &Vars, names: &BTreeSet<String>) -> Vars {
    let used = vars.iter().filter(|(name, _)| names.contains(*name));
    used.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// The hosts of a table such as `[vars."site=b"]` or `[vars."@web-1"]`; `None` where the key is
/// that of a variable, and within it `None` where it is wrong.
fn on_hosts(item: &Item<'_>, report: &mut Report<'_>) -> Option<Option<HostMatch>> {
    if let Some(host) = item.name.strip_prefix('@') {
        let name = host.parse().map_err(|error: InvalidName| {
            report.error(&item.key, error.to_string());
        });
        return Some(name.ok().map(|name| HostMatch::Names(vec![name])));
    }
    if item.name.contains(['=', '!']) {
        let selector = item.named::<Selector>(report);
        return Some(selector.map(HostMatch::Selector));
    }
    None
}

/// A variable's value, something where it is wrong, and whether all is right.
fn named_value(item: &Item<'_>, report: &mut Report<'_>) -> (Value, bool) {
    let named = usable(item, report);
    let value = value(item, report);
    let sound = named && value.is_some();
    (value.unwrap_or(Value::Bool(false)), sound)
}

/// Whether a template can name the variable at all: asks the template language itself.
fn usable(item: &Item<'_>, report: &mut Report<'_>) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let shown = short(item.name, 60);
    let starts = item.name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let problem = if !starts || item.name.len() > 255 || !item.name.chars().all(plain) {
        "can't be named in a template; write letters, digits and _, or for some hosts only a table \
         [vars.\"KEY=VALUE\"] or [vars.\"@HOST\"]"
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
