//! Keeping new instances off a host, and letting them on again.
//!
//! It is noted in the host's record; placement heeds it from the next apply on.

use std::fmt;

use shoal_core::time::Timestamp;
use shoal_proto::v1::Cordon;
use shoal_proto::v1::store::{FleetRecord, HostRecord};

use super::{Audited, change};
use crate::inventory;
use crate::refusal::Refusal;
use crate::store::Records;

/// Characters of a reason.
const LONGEST_REASON: usize = 256;

/// What is asked for.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    pub(super) name: &'a str,
    pub(super) reason: &'a str,
    /// Whether what is there has to go, too.
    pub(super) drains: bool,
}

/// Cordons a host. Says what its record is then, and whether that is new.
pub(super) async fn set(
    records: &Records,
    who: &impl fmt::Display,
    wanted: &Wanted<'_>,
    now: Timestamp,
) -> Result<(HostRecord, bool), Refusal> {
    let Wanted { name, reason, drains } = *wanted;
    if reason.chars().count() > LONGEST_REASON || reason.chars().any(char::is_control) {
        return Err(Refusal::Invalid(format!(
            "a reason is one line of at most {LONGEST_REASON} characters"
        )));
    }
    let cordon = Cordon { by: who.to_string(), reason: reason.to_owned(), since_ms: now.0, drains };
    let what = if drains { "Hosts/Drain" } else { "Hosts/Cordon" };
    let what = Audited { who, what, detail: reason.to_owned() };
    let edit = |before: &HostRecord| {
        let cordon = Some(followed(before.cordon.as_ref(), cordon.clone()));
        Ok(HostRecord { cordon, ..before.clone() })
    };
    change(records, name, &what, edit).await
}

/// What a host's cordon is where `wanted` comes after `before`: who says nothing new is not the
/// one who did it, and a drain stays one.
fn followed(before: Option<&Cordon>, wanted: Cordon) -> Cordon {
    let Some(before) = before else { return wanted };
    let drains = before.drains || wanted.drains;
    let says_more = !wanted.reason.is_empty() && wanted.reason != before.reason;
    if drains == before.drains && !says_more {
        return before.clone();
    }
    let reason = if says_more { wanted.reason } else { before.reason.clone() };
    Cordon { reason, drains, ..wanted }
}

/// Ends a host's cordon or drain. Says what its record is then, and whether that is new.
pub(super) async fn end(
    records: &Records,
    who: &impl fmt::Display,
    name: &str,
) -> Result<(HostRecord, bool), Refusal> {
    let what = Audited { who, what: "Hosts/Uncordon", detail: String::new() };
    change(records, name, &what, |before| Ok(HostRecord { cordon: None, ..before.clone() })).await
}

/// The fleets whose next apply puts instances onto the host that their newest revisions leave out:
/// those of which every match runs one.
pub(super) async fn coming_back(
    records: &Records,
    host: &HostRecord,
) -> Result<Vec<String>, Refusal> {
    let wrong = |problem: String| inventory::damaged::<HostRecord>(&host.id, &problem);
    let name = host.name.parse().map_err(|error| wrong(format!("{error}")))?;
    let id = host.id.parse().map_err(|error| wrong(format!("{error}")))?;
    let mut fleets = Vec::new();
    for fleet in records.list::<FleetRecord>().await?.records {
        let revision = inventory::revision(records, &fleet.id, fleet.record.revision).await?;
        let there = revision.hosts.get(&id);
        let comes = revision.spec.instances.iter().any(|(instance, declared)| {
            let placed = there.is_some_and(|there| there.contains_key(instance));
            declared.count.is_none() && !placed && declared.hosts.matches(&name, &host.labels)
        });
        if comes {
            fleets.push(fleet.id);
        }
    }
    Ok(fleets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_says_nothing_new_changes_nothing() {
        let cordon = |by: &str, reason: &str, drains| Cordon {
            by: by.into(),
            reason: reason.into(),
            since_ms: u64::try_from(by.len()).unwrap(),
            drains,
        };
        let ann = cordon("ann", "disk", false);
        let table = [
            (None, cordon("bo", "", false), cordon("bo", "", false)),
            (Some(&ann), cordon("bo", "", false), ann.clone()),
            (Some(&ann), cordon("bo", "disk", false), ann.clone()),
            (Some(&ann), cordon("bo", "fan", false), cordon("bo", "fan", false)),
            (Some(&ann), cordon("bo", "", true), cordon("bo", "disk", true)),
        ];
        for (before, wanted, after) in table {
            assert_eq!(followed(before, wanted.clone()), after, "{before:?} {wanted:?}");
        }
        let drained = cordon("ann", "disk", true);
        assert_eq!(followed(Some(&drained), cordon("bo", "", false)), drained, "it stays one");
        let why = followed(Some(&drained), cordon("bo", "fan", false));
        assert_eq!(why, cordon("bo", "fan", true));
    }
}
