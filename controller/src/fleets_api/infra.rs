//! What is special about a fleet that is the infra: its version says what is on a host, so the same
//! version is the same everywhere and for ever; and a new one changes whatever else is there.
//!
//! Ways in: [`Same::load`] when the world is read; [`problems`], [`keep`], [`changes`] and [`notes`]
//! for the plan; [`hosts::planned`] for people; [`must_not_meet`] before a revision is made.
//!
//! Deliberately absent: what a host does about it (`shoal_core::plan`).

pub(super) mod hosts;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use shoal_core::diff::{FieldChange, content_changes};
use shoal_core::fleet::FleetSpec;
use shoal_core::host::HostSpec;
use shoal_core::image::{Digest, ImageRef, PinnedImage};
use shoal_core::infra::{FLEET, Infra, is_infra};
use shoal_core::name::{HostId, InstanceId, InstanceName};
use shoal_core::placement::Action;
use shoal_core::secret::PinnedSecret;
use shoal_core::spec::{InstanceConfig, InstanceSpec, RunState};
use shoal_core::time::Timestamp;
use shoal_proto::v1::store::{FleetRecord, ImageRecord, RevisionRecord, SecretRecord};

use super::plan::{Change, Plan};
use super::revision::{Placed, Revision};
use super::world::World;
use crate::records::revision_id;
use crate::refusal::Refusal;
use crate::store::{Records, Stored};
use crate::{inventory, locks, secrets};

/// Fields that a message names at most.
const MOST_NAMED: usize = 5;

/// The newest revision of the infra that has the same version, and what became of what it names.
#[derive(Debug, Clone)]
pub struct Same {
    /// The revision.
    pub revision: Revision,
    /// Its images that are still there, and their records.
    images: BTreeMap<ImageRef, Stored<ImageRecord>>,
    /// Images and secrets of it that were removed, for people.
    gone: Vec<String>,
    /// Images whose tag points to another file by now.
    moved: Vec<ImageRef>,
}

impl Same {
    /// Looks for it from the newest revision down: a host that was away may have any of them.
    ///
    /// # Errors
    /// The store fails, or a record in it is damaged.
    pub async fn load(records: &Records, spec: &FleetSpec) -> Result<Option<Self>, Refusal> {
        let Some(infra) = &spec.infra else { return Ok(None) };
        let fleet = spec.fleet.as_str();
        let Some(newest) = records.get::<FleetRecord>(fleet).await? else { return Ok(None) };
        for number in (1..=newest.record.revision).rev() {
            let id = revision_id(fleet, number);
            let Some(stored) = records.get::<RevisionRecord>(&id).await? else { continue };
            let of_it = stored.record.spec.as_ref().and_then(|spec| spec.infra.as_ref());
            if of_it.is_some_and(|it| it.version == infra.version.as_str()) {
                let revision = inventory::revision(records, fleet, number).await?;
                return Ok(Some(Self::of(records, revision).await?));
            }
        }
        Ok(None)
    }

    async fn of(records: &Records, revision: Revision) -> Result<Self, Refusal> {
        let (images, gone, moved) = (BTreeMap::new(), Vec::new(), Vec::new());
        let mut same = Self { revision, images, gone, moved };
        let (mut pinned, mut named) = (BTreeMap::new(), BTreeSet::new());
        for config in same.configs() {
            pinned.insert(config.image.reference.clone(), config.image.digest);
            named.extend(config.settings.secrets.values().cloned());
        }
        for (reference, digest) in pinned {
            same.find_image(records, reference, digest).await?;
        }
        for PinnedSecret { name, version } in named {
            let id = secrets::record_id(&name, version)?;
            if records.get::<SecretRecord>(&id).await?.is_none() {
                same.gone.push(format!("version {version} of secret {name}"));
            }
        }
        Ok(same)
    }

    async fn find_image(
        &mut self,
        records: &Records,
        reference: ImageRef,
        digest: Digest,
    ) -> Result<(), Refusal> {
        let now = super::world::image(records, &reference).await?;
        if now.is_some_and(|now| now.image.id != digest.to_string()) {
            self.moved.push(reference.clone());
        }
        match records.get::<ImageRecord>(&digest.to_string()).await? {
            Some(stored) => drop(self.images.insert(reference, stored)),
            None => self.gone.push(format!("image {reference} ({})", digest.short())),
        }
        Ok(())
    }

    fn configs(&self) -> impl Iterator<Item = &InstanceConfig> {
        self.revision.hosts.values().flat_map(BTreeMap::values)
    }

    /// Has images and secrets stand for what they were when the version was first applied.
    pub(super) fn pin(&self, world: &mut World) {
        for config in self.configs() {
            let PinnedImage { reference, .. } = &config.image;
            let (Some(stored), true) =
                (self.images.get(reference), world.images.contains_key(reference))
            else {
                continue;
            };
            // Of the very same file, what was signed last counts.
            let now = world.images.entry(reference.clone()).or_insert(config.image.clone());
            if now.digest != config.image.digest {
                now.clone_from(&config.image);
            }
            if !world.image_records.iter().any(|known| known.id == stored.id) {
                world.image_records.push(stored.clone());
            }
            for secret in config.settings.secrets.values() {
                world.secrets.insert(secret.name.clone(), secret.version);
            }
        }
    }
}

/// Why `spec` can't be the infra as it says, one text each.
pub(super) fn problems(world: &World, spec: &FleetSpec) -> Vec<String> {
    let Some(Infra { version, .. }) = &spec.infra else { return vec![] };
    let fleet = &spec.fleet;
    if !is_infra(fleet) {
        return vec![format!(
            "fleet {fleet} has infra version {version}, and only the fleet named {FLEET} can have \
             one; write it as an infra file and apply that with `shoal infra apply`"
        )];
    }
    // It is taken away from its hosts, whatever its version.
    if spec.instances.is_empty() {
        return vec![];
    }
    let Some(same) = &world.same else { return vec![] };
    let number = same.revision.number;
    let differs = content_changes(&same.revision.spec, spec);
    if !differs.is_empty() {
        return vec![format!(
            "the infra file has version {version}, as revision {number} has, but differs in {}; \
             give it a new version",
            listed(&differs)
        )];
    }
    if same.gone.is_empty() {
        return vec![];
    }
    vec![format!(
        "infra version {version} is to be what it was in revision {number}, and these were removed \
         since: {}; push them again, or give the infra a new version",
        listed(&same.gone)
    )]
}

fn listed(items: &[String]) -> String {
    let named = items.iter().take(MOST_NAMED).cloned().collect::<Vec<_>>().join(", ");
    match items.len().saturating_sub(MOST_NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

/// Leaves what hosts have under the same version as it was placed there.
pub(super) fn keep(world: &World, placed: &mut Placed) {
    let Some(same) = &world.same else { return };
    for (host, configs) in placed {
        let Some(there) = same.revision.hosts.get(host) else { continue };
        for (name, config) in configs {
            if let Some(before) = there.get(name) {
                *config = before.clone();
            }
        }
    }
}

/// What else is to be known of it, for people.
pub(super) fn notes(world: &World, spec: &FleetSpec) -> Vec<String> {
    let before = world.newest.as_ref().map(|newest| &newest.revision);
    let before = before.map(|revision| (revision, revision.spec.infra.as_ref()));
    match (before, &spec.infra) {
        (Some((_, Some(had))), None) => vec![format!(
            "fleet {FLEET} had version {} and becomes an ordinary fleet: nothing is made afresh for \
             that, and hosts keep the version that they have on record until another is applied",
            had.version
        )],
        (Some((_, None)), Some(gets)) => vec![format!(
            "fleet {FLEET} was an ordinary fleet and gets version {}: on each of its hosts every \
             container, those of apps too, is made afresh; going back from it brings back no data",
            gets.version
        )],
        (_, Some(infra)) => {
            let moved = world.same.iter().flat_map(|same| &same.moved);
            let told = |image: &ImageRef| {
                let version = &infra.version;
                format!(
                    "image {image} was pushed anew since, and version {version} stays with the \
                     file that it has; give the infra a new version to take the new one"
                )
            };
            moved.map(told).collect()
        }
        (_, None) => vec![],
    }
}

/// `actions` on a host of this desired state, with what a new version makes of them and of apps.
pub(super) fn changes(
    spec: &FleetSpec,
    desired: &HostSpec,
    configs: &BTreeMap<InstanceName, InstanceConfig>,
    actions: BTreeMap<InstanceName, Action>,
) -> Vec<(InstanceId, Action)> {
    let own = |instance| InstanceId { fleet: spec.fleet.clone(), instance };
    let mut all: Vec<_> = actions.into_iter().map(|(name, action)| (own(name), action)).collect();
    let Some(wants) = spec.infra.as_ref().filter(|_| !configs.is_empty()) else { return all };
    let had = desired.infra.as_ref().map(|infra| &infra.version);
    if had == Some(&wants.version) {
        return all;
    }
    let (from, to) = (had.map(ToString::to_string), Some(wants.version.to_string()));
    let field = FieldChange { field: "infra".into(), from, to };
    let rests = |one: &InstanceSpec| one.paused || one.run == RunState::Stopped;
    let resting: BTreeSet<&InstanceId> =
        desired.instances.iter().filter(|one| rests(one)).map(|one| &one.id).collect();
    for (id, action) in &mut all {
        let first = || vec![field.clone()];
        match action {
            _ if resting.contains(id) => {}
            Action::Keep => *action = Action::Replace(first()),
            Action::Replace(fields) | Action::Refresh(fields) => {
                *action = Action::Replace([first(), std::mem::take(fields)].concat());
            }
            Action::Recreate(fields, _) => fields.insert(0, field.clone()),
            Action::Create(_) | Action::Remove => {}
        }
    }
    let apps = desired.instances.iter().filter(|one| one.id.fleet != spec.fleet && !rests(one));
    all.extend(apps.map(|one| (one.id.clone(), Action::Replace(vec![field.clone()]))));
    all
}

/// Refuses where a host that `plan` changes is being changed by another fleet's rollout, and one of
/// the two is of an infra version: that stops and starts whatever is there.
pub(super) fn must_not_meet(
    world: &World,
    spec: &FleetSpec,
    plan: &Plan,
    now: Timestamp,
) -> Result<(), Refusal> {
    let changed = plan.changes.iter().filter(|change| change.action != Action::Keep);
    let touched: BTreeSet<&HostId> = changed.map(|change: &Change| &change.host).collect();
    for other in world.under_way.iter().filter(|o| spec.infra.is_some() || o.is_infra) {
        let busy = other.rollout.hosts.iter().filter(|(_, host)| !host.kept);
        let busy: BTreeSet<&HostId> = busy.map(|(id, _)| id).collect();
        let shared =
            |host: &&shoal_core::host::Host| busy.contains(&host.id) && touched.contains(&host.id);
        let names: Vec<String> =
            world.hosts.iter().filter(shared).map(|host| host.name.to_string()).collect();
        if !names.is_empty() {
            let on = (names.len() > 1, listed(&names));
            return Err(locks::busy_hosts(&spec.fleet, &other.rollout, &other.author, on, now));
        }
    }
    Ok(())
}
