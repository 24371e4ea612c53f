//! Whether the data of an infra's hosts can go back, too: where each has a snapshot from before the
//! version that it has now, and it goes back to the version of then.

use shoal_core::infra::GoingBack;
use shoal_core::name::{HostName, InfraVersion};
use shoal_core::status::HostStatus;
use shoal_proto::v1::store::{HostStatusRecord, RolloutRecord};

use crate::fleets_api::revision::Revision;
use crate::fleets_api::world::{self, Newest, World};
use crate::inventory;
use crate::records::revision_id;
use crate::refusal::Refusal;
use crate::store::Records;

/// Why the data can't go back with the rollout that is under way, if it can't.
pub(super) fn can_go_in_place(newest: &Newest) -> Result<(), Refusal> {
    let (fleet, number) = (&newest.revision.fleet, newest.revision.number);
    let infra = newest.revision.spec.infra.as_ref();
    match infra.map(|infra| infra.going_back) {
        Some(GoingBack::ImageAndData) => Ok(()),
        Some(GoingBack::Image) => Err(Refusal::Precondition(format!(
            "revision {number} of fleet {fleet} is being rolled out, and goes back without its \
             data, as its file says; end it with `shoal rollout abort {fleet}`, then undo it with \
             --data"
        ))),
        None => Err(no_infra(newest)),
    }
}

/// Refuses where the data of some host can't go back from the newest revision to `target`.
pub(super) async fn can_go_back(
    records: &Records,
    world: &World,
    newest: &Newest,
    target: &Revision,
) -> Result<(), Refusal> {
    let Some(infra) = &newest.revision.spec.infra else { return Err(no_infra(newest)) };
    let (fleet, version) = (&newest.revision.fleet, &infra.version);
    let before = version_before(records, newest).await?;
    let to = target.spec.infra.as_ref().map(|infra| infra.version.clone());
    if to.is_none() || to != before {
        let before = before.map_or("no version".to_owned(), |before| format!("version {before}"));
        return Err(Refusal::Precondition(format!(
            "fleet {fleet}: data goes back by one version at a time, from {version} to {before}, \
             and revision {} is of another; undo without --data, or name a revision of that \
             version with --to-revision",
            target.number
        )));
    }
    let without = without_snapshot(records, world, newest).await?;
    if without.is_empty() {
        return Ok(());
    }
    let hosts: Vec<&str> = without.iter().map(HostName::as_str).collect();
    Err(Refusal::Precondition(format!(
        "fleet {fleet}: no data was copied before version {version} on {}, as far as is known; \
         undo without --data",
        hosts.join(", ")
    )))
}

fn no_infra(newest: &Newest) -> Refusal {
    let fleet = &newest.revision.fleet;
    Refusal::Precondition(format!(
        "fleet {fleet} has no infra version, and data goes back only with one; undo without --data"
    ))
}

/// The version that was proved last before that of the newest revision.
async fn version_before(
    records: &Records,
    newest: &Newest,
) -> Result<Option<InfraVersion>, Refusal> {
    let fleet = newest.revision.fleet.as_str();
    let now = newest.revision.spec.infra.as_ref().map(|infra| &infra.version);
    for number in (1..newest.revision.number).rev() {
        let id = revision_id(fleet, number);
        let Some(rollout) = records.get::<RolloutRecord>(&id).await? else { continue };
        if !world::rollout(&rollout)?.is_proof() {
            continue;
        }
        let revision = inventory::revision(records, fleet, number).await?;
        let version = revision.spec.infra.map(|infra| infra.version);
        if version.as_ref() != now {
            return Ok(version);
        }
    }
    Ok(None)
}

/// The hosts whose agents have not said that they have the snapshot.
async fn without_snapshot(
    records: &Records,
    world: &World,
    newest: &Newest,
) -> Result<Vec<HostName>, Refusal> {
    let mut without = Vec::new();
    for host in &world.hosts {
        let there = newest.revision.hosts.get(&host.id).is_some_and(|configs| !configs.is_empty());
        let wanted = world.specs.get(&host.id).and_then(|spec| spec.infra.as_ref());
        let Some(wanted) = wanted.filter(|_| there) else { continue };
        let stored = records.get::<HostStatusRecord>(host.id.as_str()).await?;
        let status = stored.and_then(|stored| HostStatus::try_from(stored.record.status?).ok());
        let infra = status.and_then(|status| status.infra);
        if !infra.is_some_and(|infra| infra.snapshots.contains(&wanted.revision)) {
            without.push(host.name.clone());
        }
    }
    Ok(without)
}
