//! Going back to what a fleet was: the rollout that has not ended goes back itself; where all has
//! ended, an earlier revision is made the newest anew, with the images and secrets of then.
//!
//! Data is as it is. Only an infra brings it back: where a version did not prove good and its file
//! says so, or where an operator says so here (`data`).

mod data;

use std::collections::{BTreeMap, BTreeSet};

use shoal_core::host::Host;
use shoal_core::name::HostId;
use shoal_core::rollout::{Command, Offline, State};
use shoal_core::time::Timestamp;
use shoal_proto::v1::store::{ImageRecord, RevisionRecord, SecretRecord};
use shoal_proto::v1::{UndoRequest, UndoResponse};

use super::Applying;
use super::apply::{Wanted, batch, checked_source, known, replanned, revision, rollout, timeout};
use super::infra;
use super::plan::same_placement;
use super::revision::{Placed, Revision};
use super::world::{Newest, World};
use crate::locks::{self, short};
use crate::refusal::Refusal;
use crate::rollouts_api::control;
use crate::store::{CommitError, Records};
use crate::{inventory, secrets};

/// How often it is tried again where others change the same.
const ATTEMPTS: usize = 8;
/// Characters of the hosts that are left out, where they are named.
const LONGEST_LIST: usize = 120;

/// Takes a fleet back.
///
/// # Errors
/// [`Refusal::Precondition`] where there is nothing to go back to, [`Refusal::Conflict`] where
/// someone else holds the fleet's lock, and everything that an apply is refused for.
pub(crate) async fn undo(
    records: &Records,
    applying: &Applying,
    request: &UndoRequest,
    who: &str,
    now: Timestamp,
) -> Result<UndoResponse, Refusal> {
    let _one_at_a_time = applying.lock().await;
    for _ in 0..ATTEMPTS {
        let newest = known(records, &request.fleet).await?;
        let done = if newest.rollout.state.is_final() {
            anew(records, &newest, request, who, now).await?
        } else {
            in_place(records, newest, request, who, now).await?
        };
        if let Some(done) = done {
            return Ok(done);
        }
    }
    Err(locks::busy(&request.fleet))
}

/// Has the rollout that is under way go back; `None` where it has changed since it was read.
async fn in_place(
    records: &Records,
    newest: Newest,
    request: &UndoRequest,
    who: &str,
    now: Timestamp,
) -> Result<Option<UndoResponse>, Refusal> {
    let (fleet, number) = (&request.fleet, newest.revision.number);
    let back_to = newest.rollout.back_to;
    if request.to_revision != 0 && Some(request.to_revision) != back_to {
        let before = back_to.map_or("no other revision".to_owned(), |b| format!("revision {b}"));
        return Err(Refusal::Precondition(format!(
            "fleet {fleet}: revision {number} is being rolled out, and can be taken back to \
             {before}; to go to revision {}, end it first with `shoal rollout abort {fleet}`",
            request.to_revision
        )));
    }
    if request.data {
        data::can_go_in_place(&newest)?;
    }
    let undone =
        UndoResponse { revision: number, to_revision: back_to.unwrap_or(0), in_place: true };
    if newest.rollout.state == State::RollingBack {
        return Ok(Some(undone));
    }
    let call = ("Rollouts/Undo", format!("revision {number} goes back"));
    let by = (short(who), request.source.as_str());
    let next = control::commanded(&newest.rollout, Command::GoBack, by, now)?;
    let saved = control::save(records, &newest, &next, who, call, now).await?;
    Ok(saved.then_some(undone))
}

/// Makes an earlier revision the newest anew; `None` where the world has changed meanwhile.
async fn anew(
    records: &Records,
    newest: &Newest,
    request: &UndoRequest,
    who: &str,
    now: Timestamp,
) -> Result<Option<UndoResponse>, Refusal> {
    let target = target(records, newest, request).await?;
    let (mut world, placed, left_out) = load(records, &target).await?;
    if world.revision() != newest.revision.number {
        return Ok(None);
    }
    world.lock.must_not_stop(who, now)?;
    if request.data {
        data::can_go_back(records, &world, newest, &target).await?;
    }
    pin(records, &mut world, &target, &placed).await?;
    let without = without(&left_out);
    let source = match request.source.as_str() {
        "" => format!("undo to revision {}{without}", target.number),
        source => source.to_owned(),
    };
    let wanted = Wanted {
        spec: target.spec.clone(),
        base: None,
        timeout: timeout(request.timeout_ms)?,
        source: checked_source(source)?,
        offline: Offline::Wait,
        replace: false,
        recreate: None,
    };
    let (world, plan) = replanned(world, &wanted.spec, placed).await?;
    infra::must_not_meet(&world, &wanted.spec, &plan, now)?;
    let revision =
        Revision { undo_data: request.data, ..revision(&world, &plan, &wanted, who, now) };
    let rollout = rollout(&world, &revision, &plan, &wanted);
    let with = if request.data { ", with its data" } else { "" };
    let (number, before) = (revision.number, target.number);
    let detail = format!("revision {number}: as revision {before}{with}{without}");
    let batch = batch(&world, &revision, &rollout, ("Rollouts/Undo", detail.as_str()), now)?;
    match records.commit(batch).await {
        Ok(_) => Ok(Some(UndoResponse {
            revision: revision.number,
            to_revision: target.number,
            in_place: false,
        })),
        Err(CommitError::Conflict { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The revision to go back to.
async fn target(
    records: &Records,
    newest: &Newest,
    request: &UndoRequest,
) -> Result<Revision, Refusal> {
    let (fleet, now) = (&request.fleet, newest.revision.number);
    let number = match request.to_revision {
        0 => newest.proved_before(records).await?.ok_or_else(|| {
            Refusal::Precondition(format!(
                "fleet {fleet} has no revision before {now} that was proved; name one with \
                 --to-revision (`shoal rollout list {fleet}` shows them)"
            ))
        })?,
        number => number,
    };
    let id = crate::records::revision_id(fleet, number);
    if records.get::<RevisionRecord>(&id).await?.is_none() {
        return Err(Refusal::NotFound(format!(
            "fleet {fleet} has no revision {number}; `shoal rollout list {fleet}` shows them"
        )));
    }
    let target = inventory::revision(records, fleet, number).await?;
    let nothing = |why: String| {
        Err(Refusal::Precondition(format!(
            "fleet {fleet}: {why}, so there is nothing to undo; another one is named with \
             --to-revision"
        )))
    };
    let is_back =
        newest.rollout.state == State::RolledBack && newest.rollout.back_to == Some(number);
    if number == now {
        return nothing(format!("revision {number} is the newest already"));
    }
    if is_back {
        return nothing(format!("its hosts went back to revision {number} already"));
    }
    let revision = &newest.revision;
    let same = revision.spec == target.spec && same_placement(&revision.hosts, &target.hosts);
    if same && newest.rollout.is_proof() {
        return nothing(format!("revision {number} says the same as revision {now}"));
    }
    Ok(target)
}

/// The world, and what of the revision can be placed in it: hosts that are not there any more, or
/// take nothing, are left out and named.
async fn load(
    records: &Records,
    target: &Revision,
) -> Result<(World, Placed, Vec<String>), Refusal> {
    let world = World::load(records, &target.spec).await?;
    let hosts: BTreeMap<&HostId, &Host> = world.hosts.iter().map(|h| (&h.id, h)).collect();
    let (mut placed, mut left_out) = (Placed::new(), Vec::new());
    for (id, configs) in target.hosts.iter().filter(|(_, configs)| !configs.is_empty()) {
        let here = |spec: &shoal_core::host::HostSpec| {
            spec.instances.iter().any(|instance| instance.id.fleet == target.fleet)
        };
        match hosts.get(id) {
            None => left_out.push(format!("{id} (removed)")),
            Some(host) => match &host.cordon {
                Some(cordon) if cordon.drains || !world.specs.get(id).is_some_and(here) => {
                    left_out.push(format!("{} ({cordon})", host.name));
                }
                _ => {
                    placed.insert(id.clone(), configs.clone());
                }
            },
        }
    }
    if placed.is_empty() && !left_out.is_empty() {
        let (fleet, number, hosts) = (&target.fleet, target.number, left_out.join(", "));
        return Err(Refusal::Precondition(format!(
            "none of the hosts that revision {number} of fleet {fleet} was on can take it: \
             {hosts}; apply the fleet to others"
        )));
    }
    Ok((world, placed, left_out))
}

fn without(left_out: &[String]) -> String {
    if left_out.is_empty() {
        return String::new();
    }
    let list = left_out.join(", ");
    let end = if list.chars().count() > LONGEST_LIST { "…" } else { "" };
    format!(", without {}{end}", list.chars().take(LONGEST_LIST).collect::<String>())
}

/// Puts the images of then in the place of those that the tags stand for now. They and the
/// secrets of then have to be there still.
async fn pin(
    records: &Records,
    world: &mut World,
    target: &Revision,
    placed: &Placed,
) -> Result<(), Refusal> {
    (world.images, world.image_records) = (BTreeMap::new(), Vec::new());
    let configs = || placed.values().flat_map(BTreeMap::values);
    let mut gone = BTreeSet::new();
    let images = configs().map(|config| (config.image.digest, &config.image));
    for image in images.collect::<BTreeMap<_, _>>().into_values() {
        match records.get::<ImageRecord>(&image.digest.to_string()).await? {
            Some(stored) => {
                world.images.insert(image.reference.clone(), image.clone());
                world.image_records.push(stored);
            }
            None => {
                gone.insert(format!("image {} ({})", image.reference, image.digest.short()));
            }
        }
    }
    let pinned = configs().flat_map(|config| config.settings.secrets.values());
    for secret in pinned.collect::<BTreeSet<_>>() {
        let id = secrets::record_id(&secret.name, secret.version)?;
        if records.get::<SecretRecord>(&id).await?.is_none() {
            gone.insert(format!("version {} of secret {}", secret.version, secret.name));
        }
    }
    if gone.is_empty() {
        return Ok(());
    }
    let gone: Vec<String> = gone.into_iter().collect();
    Err(Refusal::Precondition(format!(
        "revision {} of fleet {} can't come back, for these were removed: {}; apply the fleet with \
         others",
        target.number,
        target.fleet,
        gone.join(", ")
    )))
}

#[cfg(test)]
mod tests;
