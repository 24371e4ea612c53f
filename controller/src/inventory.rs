//! What the store says of hosts, desired states and fleets, in the domain's types.
//!
//! Part: the one place where those records are taken apart, for every service that needs them.
//! Deliberately absent: writing, and what is only known live (presence, statuses).

use std::collections::BTreeMap;

use shoal_core::host::{Host, HostFacts, HostSpec};
use shoal_core::image::Digest;
use shoal_core::name::{HostId, HostName, InstanceId};
use shoal_core::rollout::Rollout;
use shoal_proto::convert::Invalid;
use shoal_proto::v1;
use shoal_proto::v1::store::{
    FleetRecord, HostRecord, HostSpecRecord, RevisionRecord, RolloutRecord,
};

use crate::fleets_api::revision::Revision;
use crate::fleets_api::world;
use crate::records::revision_id;
use crate::refusal::Refusal;
use crate::store::{Record, Records, Stored};

/// Every enrolled host, ordered by name.
///
/// # Errors
/// The store fails, or a record in it is damaged.
pub async fn hosts(records: &Records) -> Result<Vec<Host>, Refusal> {
    let listing = records.list::<HostRecord>().await?;
    let mut hosts: Vec<Host> =
        listing.records.into_iter().map(host).collect::<Result<_, Refusal>>()?;
    hosts.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(hosts)
}

/// The names of all enrolled hosts, by id.
///
/// # Errors
/// As [`hosts`].
pub async fn host_names(records: &Records) -> Result<BTreeMap<HostId, HostName>, Refusal> {
    Ok(hosts(records).await?.into_iter().map(|host| (host.id, host.name)).collect())
}

fn host(stored: Stored<HostRecord>) -> Result<Host, Refusal> {
    let id = stored.id.clone();
    let wrong = |problem: String| damaged::<HostRecord>(&id, &problem);
    Ok(Host {
        id: id.parse().map_err(|e| wrong(format!("{e}")))?,
        name: stored.record.name.parse().map_err(|e| wrong(format!("{e}")))?,
        labels: stored.record.labels,
        facts: stored.record.facts.and_then(|facts| usable(&id, facts)),
        cordon: stored.record.cordon.map(Into::into),
    })
}

/// What an agent said of its host, where it said all that is needed to judge by it: an older one
/// does not tell its policy, and what is not known must not be held against a host.
fn usable(host: &str, facts: v1::HostFacts) -> Option<HostFacts> {
    facts.policy.as_ref()?;
    let facts = HostFacts::try_from(facts);
    facts.inspect_err(|error| tracing::debug!(host, %error, "a host's facts are unreadable")).ok()
}

/// The desired state of every host that has one.
///
/// # Errors
/// As [`hosts`].
pub async fn specs(records: &Records) -> Result<BTreeMap<HostId, HostSpec>, Refusal> {
    let listing = records.list::<HostSpecRecord>().await?;
    listing.records.into_iter().map(|stored| Ok((host_id(&stored.id)?, spec(&stored)?))).collect()
}

/// The desired state in a record.
///
/// # Errors
/// The record is damaged.
pub fn spec(stored: &Stored<HostSpecRecord>) -> Result<HostSpec, Refusal> {
    let wire = stored.record.spec.clone().ok_or(Invalid::Missing("spec"));
    wire.and_then(HostSpec::try_from)
        .map_err(|error| damaged::<HostSpecRecord>(&stored.id, &error.to_string()))
}

/// A host's id, as the key of a record has it.
///
/// # Errors
/// The record is damaged.
pub fn host_id(text: &str) -> Result<HostId, Refusal> {
    text.parse().map_err(|error| damaged::<HostSpecRecord>(text, &format!("{error}")))
}

/// One revision of a fleet.
///
/// # Errors
/// As [`hosts`]; also where the revision is not there.
pub async fn revision(records: &Records, fleet: &str, number: u64) -> Result<Revision, Refusal> {
    let id = revision_id(fleet, number);
    let stored = records.get::<RevisionRecord>(&id).await?;
    let stored = stored.ok_or_else(|| damaged::<RevisionRecord>(&id, "it is not there"))?;
    Revision::try_from(stored.record)
        .map_err(|error| damaged::<RevisionRecord>(&id, &error.to_string()))
}

/// What a fleet may yet put onto hosts.
#[derive(Debug, Clone)]
pub struct InPlay {
    /// Its newest revision.
    pub newest: Revision,
    /// That revision's rollout.
    pub rollout: Rollout,
    /// The revision before, where that one has not proved to work: hosts have it, or may go back
    /// to it.
    pub before: Option<Revision>,
}

/// What every fleet may yet put onto hosts, ordered by the fleet's name.
///
/// # Errors
/// As [`hosts`].
pub async fn in_play(records: &Records) -> Result<Vec<InPlay>, Refusal> {
    let fleets = records.list::<FleetRecord>().await?;
    let mut found = Vec::with_capacity(fleets.records.len());
    for fleet in fleets.records {
        let number = fleet.record.revision;
        let newest = revision(records, &fleet.id, number).await?;
        let rollout = rollout(records, &revision_id(&fleet.id, number)).await?;
        let back_to = rollout.back_to.filter(|_| !rollout.is_proof());
        let before = match back_to {
            Some(number) => Some(revision(records, &fleet.id, number).await?),
            None => None,
        };
        found.push(InPlay { newest, rollout, before });
    }
    Ok(found)
}

/// The newest revision of every fleet, each after the one that the fleet may go back to; ordered
/// by the fleet's name.
///
/// # Errors
/// As [`hosts`].
pub async fn newest_revisions(records: &Records) -> Result<Vec<Revision>, Refusal> {
    let found = in_play(records).await?.into_iter();
    Ok(found.flat_map(|InPlay { newest, before, .. }| before.into_iter().chain([newest])).collect())
}

/// A rollout that has to be there.
///
/// # Errors
/// As [`hosts`].
pub async fn rollout(records: &Records, id: &str) -> Result<Rollout, Refusal> {
    let stored = records.get::<RolloutRecord>(id).await?;
    world::rollout(&stored.ok_or_else(|| damaged::<RolloutRecord>(id, "it is not there"))?)
}

/// Who uses an image: an instance, and the host that runs it or is about to.
pub type User = (InstanceId, HostId);

/// Every use of an image, by the newest revision of a fleet or by the desired state of a host.
///
/// The fleets are read first, and that order matters: a use that is neither in a fleet then nor
/// in a desired state later can only come of a new revision, and that touches the image's record.
///
/// # Errors
/// As [`hosts`].
pub async fn image_users(records: &Records) -> Result<BTreeMap<Digest, Vec<User>>, Refusal> {
    let mut users: BTreeMap<Digest, Vec<User>> = BTreeMap::new();
    for revision in newest_revisions(records).await? {
        for (host, configs) in &revision.hosts {
            for (instance, config) in configs {
                let id = InstanceId { fleet: revision.fleet.clone(), instance: instance.clone() };
                users.entry(config.image.digest).or_default().push((id, host.clone()));
            }
        }
    }
    for (host, spec) in specs(records).await? {
        for instance in spec.instances {
            let digest = instance.config.image.digest;
            users.entry(digest).or_default().push((instance.id, host.clone()));
        }
    }
    for list in users.values_mut() {
        list.sort();
        list.dedup();
    }
    Ok(users)
}

/// A refusal that names a record that can't be right.
#[must_use]
pub fn damaged<R: Record>(id: &str, problem: &str) -> Refusal {
    Refusal::Internal(format!(
        "the stored record {}{id} is damaged: {problem}; restore the store from a backup",
        R::PREFIX
    ))
}

/// The known name nearest to `word`, in brackets for the end of a message, or nothing.
pub fn meant<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let distances = known.into_iter().map(|name| (strsim::damerau_levenshtein(word, name), name));
    match distances.min() {
        Some((distance, name)) if distance <= 1 + word.len() / 4 => {
            format!(" (did you mean {name}?)")
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::meant;

    #[test]
    fn the_nearest_name_is_offered_and_no_other() {
        let known = ["shop/main", "shop/db", "mail/main"];
        assert_eq!(meant("shop/mian", known), " (did you mean shop/main?)");
        assert_eq!(meant("wholly/other", known), "");
        assert_eq!(meant("x", []), "");
    }
}
