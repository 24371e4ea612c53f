//! Everything that deciding about a fleet needs to know, read before anything is decided.

use std::collections::{BTreeMap, BTreeSet};

use shoal_core::fleet::FleetSpec;
use shoal_core::host::{Host, HostSpec};
use shoal_core::image::{Digest, ImageRef, PinnedImage};
use shoal_core::name::{FleetName, HostId, InstanceId};
use shoal_core::rollout::Rollout;
use shoal_proto::convert;
use shoal_proto::v1::store::{FleetRecord, ImageRecord, RolloutRecord, TagRecord};

use super::revision::Revision;
use crate::inventory;
use crate::records::revision_id;
use crate::refusal::Refusal;
use crate::store::{Records, Stored};

/// The state that a fleet's plan is made against.
#[derive(Debug, Clone)]
pub struct World {
    /// Every enrolled host, ordered by name.
    pub hosts: Vec<Host>,
    /// What the images that the fleet names stand for; those not known are missing.
    pub images: BTreeMap<ImageRef, PinnedImage>,
    /// Their records.
    pub image_records: Vec<Stored<ImageRecord>>,
    /// The desired state of every host that has one.
    pub specs: BTreeMap<HostId, HostSpec>,
    /// The instances of all other fleets.
    pub others: Vec<InstanceId>,
    /// The fleet's newest revision; `None` where the fleet is new.
    pub newest: Option<Newest>,
}

/// A fleet's newest revision and its rollout, as they were read.
#[derive(Debug, Clone)]
pub struct Newest {
    /// Says which it is.
    pub fleet: Stored<FleetRecord>,
    /// The revision.
    pub revision: Revision,
    /// The rollout as read, to be replaced.
    pub rollout_record: Stored<RolloutRecord>,
    /// The same as the domain has it.
    pub rollout: Rollout,
}

impl World {
    /// Reads what `spec` needs. The parts are not of one moment: whoever writes checks that the
    /// records that matter have not changed.
    ///
    /// # Errors
    /// The store fails, or a record in it is damaged.
    pub async fn load(records: &Records, spec: &FleetSpec) -> Result<Self, Refusal> {
        let newest = Newest::load(records, &spec.fleet).await?;
        let mut world = Self {
            hosts: inventory::hosts(records).await?,
            images: BTreeMap::new(),
            image_records: Vec::new(),
            specs: inventory::specs(records).await?,
            others: Vec::new(),
            newest,
        };
        world.others = others(records, &spec.fleet, &world.specs).await?;
        world.load_images(records, spec).await?;
        Ok(world)
    }

    /// The newest revision's number; 0 where there is none.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.newest.as_ref().map_or(0, |newest| newest.revision.number)
    }

    async fn load_images(&mut self, records: &Records, spec: &FleetSpec) -> Result<(), Refusal> {
        let references: BTreeSet<&ImageRef> = spec.instances.values().map(|i| &i.image).collect();
        for reference in references {
            let Some(stored) = image(records, reference).await? else { continue };
            let pinned = PinnedImage {
                reference: reference.clone(),
                digest: record_digest(&stored)?,
                size: stored.record.size,
            };
            self.images.insert(reference.clone(), pinned);
            if !self.image_records.iter().any(|known| known.id == stored.id) {
                self.image_records.push(stored);
            }
        }
        Ok(())
    }
}

impl Newest {
    /// The newest revision of `fleet`, or `None`.
    ///
    /// # Errors
    /// As [`World::load`].
    pub async fn load(records: &Records, fleet: &FleetName) -> Result<Option<Self>, Refusal> {
        let Some(stored) = records.get::<FleetRecord>(fleet.as_str()).await? else {
            return Ok(None);
        };
        let number = stored.record.revision;
        let revision = inventory::revision(records, fleet.as_str(), number).await?;
        let id = revision_id(fleet.as_str(), number);
        let rollout_record = records.get::<RolloutRecord>(&id).await?;
        let rollout_record = rollout_record
            .ok_or_else(|| inventory::damaged::<RolloutRecord>(&id, "it is not there"))?;
        let rollout = rollout(&rollout_record)?;
        Ok(Some(Self { fleet: stored, revision, rollout_record, rollout }))
    }
}

/// A rollout out of its record.
///
/// # Errors
/// The record is damaged.
pub fn rollout(stored: &Stored<RolloutRecord>) -> Result<Rollout, Refusal> {
    Rollout::try_from(stored.record.clone())
        .map_err(|error| inventory::damaged::<RolloutRecord>(&stored.id, &error.to_string()))
}

/// The id of a tag's record.
#[must_use]
pub fn tag_id(reference: &ImageRef) -> String {
    format!("{}/{}", reference.name, reference.tag)
}

/// The digest of an image's record.
///
/// # Errors
/// The record is damaged.
pub fn record_digest(stored: &Stored<ImageRecord>) -> Result<Digest, Refusal> {
    convert::digest("digest", &stored.record.digest)
        .map_err(|error| inventory::damaged::<ImageRecord>(&stored.id, &error.to_string()))
}

/// The image that `reference` points to; `None` where it is not known.
///
/// # Errors
/// The store fails, or a record in it is damaged.
pub async fn image(
    records: &Records,
    reference: &ImageRef,
) -> Result<Option<Stored<ImageRecord>>, Refusal> {
    let id = tag_id(reference);
    let Some(tag) = records.get::<TagRecord>(&id).await? else { return Ok(None) };
    let digest = convert::digest("digest", &tag.record.digest)
        .map_err(|error| inventory::damaged::<TagRecord>(&id, &error.to_string()))?;
    Ok(records.get::<ImageRecord>(&digest.to_string()).await?)
}

/// The instances of every fleet but `fleet`: declared ones, and those still on hosts.
async fn others(
    records: &Records,
    fleet: &FleetName,
    specs: &BTreeMap<HostId, HostSpec>,
) -> Result<Vec<InstanceId>, Refusal> {
    let mut others: BTreeSet<InstanceId> =
        specs.values().flat_map(|spec| spec.instances.iter().map(|i| i.id.clone())).collect();
    for revision in inventory::newest_revisions(records).await? {
        let ids = revision.spec.instances.into_keys();
        others.extend(ids.map(|instance| InstanceId { fleet: revision.fleet.clone(), instance }));
    }
    Ok(others.into_iter().filter(|id| id.fleet != *fleet).collect())
}
