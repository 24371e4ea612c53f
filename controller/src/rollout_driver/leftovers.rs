//! Images that hosts were asked for ahead of a change, and that no unfinished rollout needs any
//! more: it went back, was ended, or a newer one took its place. Those that people asked for stay.

use std::collections::{BTreeMap, BTreeSet};

use shoal_core::host::HostSpec;
use shoal_core::image::Digest;
use shoal_core::name::HostId;
use shoal_proto::v1::store::{FleetRecord, HostRecord, HostSpecRecord};

use crate::images_api::staging;
use crate::inventory;
use crate::live::Live;
use crate::records::revision_id;
use crate::refusal::Refusal;
use crate::store::{Batch, CommitError, Records};

/// Takes them out of the desired states; whether none is left. What someone else changes at the
/// same time is left for another time.
///
/// # Errors
/// The store fails, or a record in it is damaged.
pub(crate) async fn remove(records: &Records, live: &Live) -> Result<bool, Refusal> {
    let listed = records.list::<HostSpecRecord>().await?.records.into_iter();
    let staged = listed.filter(|stored| stored.record.spec.iter().any(|s| !s.stage.is_empty()));
    let staged: Vec<_> = staged.collect();
    if staged.is_empty() {
        return Ok(true);
    }
    let needed = needed(records).await?;
    let mut all = true;
    for stored in staged {
        let (host, before) = (inventory::host_id(&stored.id)?, inventory::spec(&stored)?);
        let needed = needed.get(&host);
        let mut stage = before.stage.clone();
        stage.retain(|image| needed.is_some_and(|needed| needed.contains(&image.digest)));
        if stage == before.stage {
            continue;
        }
        let after = HostSpec { generation: before.generation + 1, stage, ..before.clone() };
        let seen = live.status(&host).map_or(0, |status| status.observed_generation);
        let after = before.followed_by(after, seen);
        let mut batch = Batch::new();
        batch.exists::<HostRecord>(host.as_str())?;
        batch.replace(&stored, &HostSpecRecord { spec: Some(after.into()) })?;
        match records.commit(batch).await {
            Ok(_) => {}
            Err(CommitError::Conflict { .. }) => {
                // A host that was removed has left no one who could fetch anything.
                all &= records.get::<HostRecord>(host.as_str()).await?.is_none();
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(all)
}

/// What people and unfinished rollouts have asked hosts for, and have yet to use.
async fn needed(records: &Records) -> Result<BTreeMap<HostId, BTreeSet<Digest>>, Refusal> {
    let mut needed: BTreeMap<HostId, BTreeSet<Digest>> = BTreeMap::new();
    for (host, images) in staging::asked(records).await? {
        needed.insert(inventory::host_id(&host)?, images);
    }
    for fleet in records.list::<FleetRecord>().await?.records {
        let number = fleet.record.revision;
        // No other rollout of a fleet than its newest is unfinished.
        let rollout = inventory::rollout(records, &revision_id(&fleet.id, number)).await?;
        if rollout.state.is_final() {
            continue;
        }
        let revision = inventory::revision(records, &fleet.id, number).await?;
        let waiting = rollout.hosts.iter().filter(|(_, h)| h.generation.is_none());
        for (host, _) in waiting {
            let images = revision.hosts.get(host).into_iter().flat_map(|there| there.values());
            let there = needed.entry(host.clone()).or_default();
            there.extend(images.map(|config| config.image.digest));
        }
    }
    Ok(needed)
}
