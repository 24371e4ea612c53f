//! Images that hosts were asked for ahead of a change, and that no unfinished rollout needs any
//! more: it went back, was ended, or a newer one took its place; those that people asked for
//! stay. Images, too, that hosts keep for fleets whose newest revision is no longer theirs to go
//! back from.

use std::collections::{BTreeMap, BTreeSet};

use shoal_core::host::HostSpec;
use shoal_core::image::Digest;
use shoal_core::name::{FleetName, HostId};
use shoal_proto::v1;
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
    let may_have = |spec: &v1::HostSpec| !spec.stage.is_empty() || !spec.keep.is_empty();
    let listed: Vec<_> = listed.filter(|s| s.record.spec.as_ref().is_some_and(may_have)).collect();
    let mut specs = Vec::with_capacity(listed.len());
    for stored in listed {
        let (host, spec) = (inventory::host_id(&stored.id)?, inventory::spec(&stored)?);
        if !spec.stage.is_empty() || spec.keep.iter().any(|keep| !runs(&spec, &keep.fleet)) {
            specs.push((stored, host, spec));
        }
    }
    if specs.is_empty() {
        return Ok(true);
    }
    let needed = Needed::load(records).await?;
    let mut all = true;
    for (stored, host, before) in specs {
        let (mut stage, mut keep) = (before.stage.clone(), before.keep.clone());
        let waits = needed.stage.get(&host);
        stage.retain(|image| waits.is_some_and(|waits| waits.contains(&image.digest)));
        keep.retain(|keep| {
            runs(&before, &keep.fleet)
                || needed.fleets.contains(&(keep.fleet.clone(), host.clone()))
        });
        if stage == before.stage && keep == before.keep {
            continue;
        }
        let after = HostSpec { generation: before.generation + 1, stage, keep, ..before.clone() };
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

/// Whether the host has instances of `fleet`. Then what it keeps for it changes with them.
fn runs(spec: &HostSpec, fleet: &FleetName) -> bool {
    spec.instances.iter().any(|instance| instance.id.fleet == *fleet)
}

/// What the newest rollouts of all fleets need of hosts besides what runs there.
#[derive(Debug, Default)]
struct Needed {
    /// Images that unfinished ones, or people, have asked hosts for, and that are yet to be used.
    stage: BTreeMap<HostId, BTreeSet<Digest>>,
    /// The hosts of each: where the fleet may go back from it.
    fleets: BTreeSet<(FleetName, HostId)>,
}

impl Needed {
    async fn load(records: &Records) -> Result<Self, Refusal> {
        let mut needed = Self::default();
        for (host, images) in staging::asked(records).await? {
            needed.stage.insert(inventory::host_id(&host)?, images);
        }
        for fleet in records.list::<FleetRecord>().await?.records {
            let number = fleet.record.revision;
            // No other rollout of a fleet than its newest is unfinished.
            let rollout = inventory::rollout(records, &revision_id(&fleet.id, number)).await?;
            let hosts = rollout.hosts.keys();
            needed.fleets.extend(hosts.map(|host| (rollout.fleet.clone(), host.clone())));
            if rollout.state.is_final() {
                continue;
            }
            let revision = inventory::revision(records, &fleet.id, number).await?;
            let waiting = rollout.hosts.iter().filter(|(_, h)| h.generation.is_none());
            for (host, _) in waiting {
                let images = revision.hosts.get(host).into_iter().flat_map(|there| there.values());
                let there = needed.stage.entry(host.clone()).or_default();
                there.extend(images.map(|config| config.image.digest));
            }
        }
        Ok(needed)
    }
}
