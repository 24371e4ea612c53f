//! `after`: which instances come before which, with no ring among those of the file.

use std::collections::{BTreeMap, BTreeSet};

use toml::de::DeValue;

use crate::name::{FleetName, InstanceId, InstanceName};

use super::problem::short;
use super::report::Report;
use super::table::{Item, Span, did_you_mean, nearest};

/// What each instance of the file comes after, and where that is written.
#[derive(Debug, Default)]
pub(super) struct Order(BTreeMap<String, Vec<(InstanceId, Span)>>);

impl Order {
    /// Reads the `after` of the instance called `of`.
    pub(super) fn read(
        &mut self,
        of: &str,
        item: &Item<'_>,
        fleet: Option<&FleetName>,
        report: &mut Report<'_>,
    ) -> Option<BTreeSet<InstanceId>> {
        let DeValue::Array(array) = item.value() else {
            item.wrong_type("a list of instances, such as [\"db\"] or [\"infra/mysql\"]", report);
            return None;
        };
        let read: Vec<Option<(InstanceId, Span)>> = item
            .elements(array)
            .map(|element| Some((id(&element, fleet?, report)?, element.span())))
            .collect();
        let read: Vec<(InstanceId, Span)> = read.into_iter().collect::<Option<_>>()?;
        let ids = read.iter().map(|(id, _)| id.clone()).collect();
        self.0.insert(of.to_owned(), read);
        Some(ids)
    }

    /// Reports names of the own fleet that are not there, and rings. `known` are all instances
    /// that the file declares.
    pub(super) fn check(&self, fleet: &FleetName, known: &[&str], report: &mut Report<'_>) {
        let mut sound = true;
        for (id, span) in self.0.values().flatten() {
            let name = id.instance.as_str();
            if id.fleet != *fleet || known.contains(&name) {
                continue;
            }
            sound = false;
            let message = format!("`after`: there is no instance {name} in this fleet");
            let near = nearest(name, known.iter().copied()).map(did_you_mean);
            let advice = "one of another fleet is written FLEET/INSTANCE, such as infra/mysql";
            report.error_help(span, message, near.unwrap_or_else(|| advice.to_owned()));
        }
        if sound {
            self.check_rings(fleet, report);
        }
    }

    fn check_rings(&self, fleet: &FleetName, report: &mut Report<'_>) {
        let mut done = BTreeSet::new();
        for name in self.0.keys() {
            let mut way = Vec::new();
            if let Some((ring, span)) = self.ring(fleet, name, &mut way, &mut done) {
                let help = "leave one of these `after` out: none of them could ever start";
                report.error_help(&span, format!("`after` goes in a ring: {ring}"), help);
                return;
            }
        }
    }

    /// Goes on from `name`; a ring, and where it closes.
    fn ring<'o>(
        &'o self,
        fleet: &FleetName,
        name: &'o str,
        way: &mut Vec<&'o str>,
        done: &mut BTreeSet<&'o str>,
    ) -> Option<(String, Span)> {
        if !done.insert(name) {
            return None;
        }
        way.push(name);
        for (id, span) in
            self.0.get(name).into_iter().flatten().filter(|(id, _)| id.fleet == *fleet)
        {
            let next = id.instance.as_str();
            if let Some(start) = way.iter().position(|before| *before == next) {
                let mut ring = way[start..].to_vec();
                ring.push(next);
                return Some((ring.join(" after "), span.clone()));
            }
            if let Some(found) = self.ring(fleet, next, way, done) {
                return Some(found);
            }
        }
        way.pop();
        None
    }
}

fn id(item: &Item<'_>, fleet: &FleetName, report: &mut Report<'_>) -> Option<InstanceId> {
    let text = item.text("\"db\"", report)?;
    if text.contains('/') {
        return item.parsed("\"infra/mysql\"", report);
    }
    match text.parse::<InstanceName>() {
        Ok(instance) => Some(InstanceId { fleet: fleet.clone(), instance }),
        Err(error) => {
            let text = short(text, 60);
            item.wrong(format!("{text:?} names no instance: {error}"), report);
            None
        }
    }
}
