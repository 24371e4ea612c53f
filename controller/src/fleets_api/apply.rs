//! Making a revision and its rollout, in one transaction, or neither.
//!
//! Deliberately absent: changing any host. The rollout's driver does that, so that a controller
//! that is killed after this has everything it needs to carry on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use shoal_core::diff::{InstanceDifference, fleet_changes};
use shoal_core::fleet::FleetSpec;
use shoal_core::image::Digest;
use shoal_core::name::{CredentialName, HostId, HostName, InstanceId, InstanceName};
use shoal_core::placement::{Action, Hosts, host_places, order_of};
use shoal_core::rollout::{HostProgress, Offline, Rollout, State};
use shoal_core::secret::PinnedSecret;
use shoal_core::time::Timestamp;
use shoal_proto::convert::{offline_from, rollout_record};
use shoal_proto::v1::ApplyRequest;
use shoal_proto::v1::store::{FleetRecord, RevisionRecord};

use super::infra;
use super::plan::{Change, Need, Plan, plan, replan};
use super::recreate::Recreate;
use super::revision::{Placed, Revision};
use super::world::{Newest, World};
use crate::audit;
use crate::inventory;
use crate::locks;
use crate::records::revision_id;
use crate::refusal::Refusal;
use crate::store::{Batch, CommitError, Records};
use shoal_core::cause::chain;

/// How long a rollout may take where nothing is said.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// How long it may take at most.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);
/// Characters of `source`.
const LONGEST_SOURCE: usize = 256;
/// How often it is tried again where others change the same.
const ATTEMPTS: u32 = 8;
/// Problems that one answer tells: a gRPC status travels in a header, and headers are small.
const MOST_PROBLEMS: usize = 30;
/// Bytes of them.
const LONGEST_PROBLEMS: usize = 4 << 10;
/// Lines of what differs between two revisions.
const MOST_DIFFERENCES: usize = 10;
/// Characters of one.
const LONGEST_LINE: usize = 160;

/// What is asked for.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) spec: FleetSpec,
    pub(super) base: Option<u64>,
    pub(super) timeout: Duration,
    pub(super) source: String,
    pub(super) offline: Offline,
    /// Whether it may take the place of a rollout that has not ended.
    pub(super) replace: bool,
    /// Which hosts' containers are made afresh; none where nothing differs there.
    pub(super) recreate: Option<Recreate>,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Applied {
    pub(super) revision: u64,
    /// Whether that revision is new.
    pub(super) changed: bool,
    pub(super) changes: Vec<Change>,
    /// Where instances are not placed, and why; for people.
    pub(super) notes: Vec<String>,
}

impl TryFrom<ApplyRequest> for Wanted {
    type Error = Refusal;

    fn try_from(wire: ApplyRequest) -> Result<Self, Refusal> {
        let ApplyRequest { spec, base_revision, timeout_ms, source, offline, replace, recreate } =
            wire;
        Ok(Self {
            spec: fleet_spec(spec)?,
            base: base_revision,
            timeout: timeout(timeout_ms)?,
            source: checked_source(source)?,
            offline: offline_from(offline)?,
            replace,
            recreate: recreate.map(Recreate::try_from).transpose()?,
        })
    }
}

/// How long a rollout may take.
pub(super) fn timeout(millis: u64) -> Result<Duration, Refusal> {
    let timeout = match millis {
        0 => DEFAULT_TIMEOUT,
        millis => Duration::from_millis(millis),
    };
    if timeout > LONGEST_TIMEOUT {
        return Err(Refusal::Invalid("a rollout may take at most 24 hours".into()));
    }
    Ok(timeout)
}

pub(super) fn checked_source(source: String) -> Result<String, Refusal> {
    if source.chars().count() > LONGEST_SOURCE || source.chars().any(char::is_control) {
        return Err(Refusal::Invalid(format!(
            "the source of an apply is one line of at most {LONGEST_SOURCE} characters, such as a \
             commit"
        )));
    }
    Ok(source)
}

/// The spec of a request.
pub(super) fn fleet_spec(wire: Option<shoal_proto::v1::FleetSpec>) -> Result<FleetSpec, Refusal> {
    let wire = wire.ok_or_else(|| Refusal::Invalid("the request has no fleet spec".into()))?;
    Ok(FleetSpec::try_from(wire)?)
}

/// Applies what is wanted; reads and plans again where someone else was faster.
pub(super) async fn apply(
    records: &Records,
    wanted: &Wanted,
    who: &str,
    now: Timestamp,
) -> Result<Applied, Refusal> {
    for _ in 0..ATTEMPTS {
        let world = World::load(records, &wanted.spec).await?;
        if let Some(applied) = apply_to(records, world, wanted, who, now).await? {
            return Ok(applied);
        }
    }
    Err(locks::busy(wanted.spec.fleet.as_str()))
}

/// Applies to the world as it was read; `None` where it has changed since.
pub(super) async fn apply_to(
    records: &Records,
    world: World,
    wanted: &Wanted,
    who: &str,
    now: Timestamp,
) -> Result<Option<Applied>, Refusal> {
    let (world, plan) = planned(world, &wanted.spec, wanted.recreate.as_ref()).await?;
    if plan.need == Need::Nothing {
        // Also where the base is an older one: what is wanted is so.
        let Plan { changes, notes, .. } = plan;
        return Ok(Some(Applied { revision: world.revision(), changed: false, changes, notes }));
    }
    check_base(records, &world, wanted).await?;
    world.lock.must_not_stop(who, now)?;
    if !wanted.replace {
        must_have_ended(&world, now)?;
    }
    infra::must_not_meet(&world, &wanted.spec, &plan, now)?;
    let revision = revision(&world, &plan, wanted, who, now);
    let rollout = rollout(&world, &revision, &plan, wanted);
    let detail = detail(&world, &revision);
    let said = ("Fleets/Apply", detail.as_str());
    let batch = batch(&world, &revision, &rollout, said, now)?;
    match records.commit(batch).await {
        Ok(_) => {
            let (revision, Plan { changes, notes, .. }) = (revision.number, plan);
            Ok(Some(Applied { revision, changed: true, changes, notes }))
        }
        Err(CommitError::Conflict { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What the audit log says of an apply.
fn detail(world: &World, revision: &Revision) -> String {
    let afresh = world.hosts.iter().filter(|host| revision.recreate.contains(&host.id));
    let afresh: Vec<HostName> = afresh.map(|host| host.name.clone()).collect();
    if afresh.is_empty() {
        return format!("revision {}", revision.number);
    }
    format!("revision {}, containers made afresh on {}", revision.number, Hosts(afresh))
}

/// Refuses where the fleet's last rollout is under way.
fn must_have_ended(world: &World, now: Timestamp) -> Result<(), Refusal> {
    let Some(Newest { revision, rollout, .. }) = &world.newest else { return Ok(()) };
    if rollout.state.is_final() {
        return Ok(());
    }
    Err(locks::being_rolled_out(rollout, &revision.author, now))
}

/// Plans where it may take its time: there may be many templates to render.
pub(super) async fn planned(
    world: World,
    spec: &FleetSpec,
    recreate: Option<&Recreate>,
) -> Result<(World, Plan), Refusal> {
    let (spec, recreate) = (spec.clone(), recreate.cloned());
    let task = tokio::task::spawn_blocking(move || {
        let plan = plan(&world, &spec, recreate.as_ref());
        (world, plan)
    });
    let (world, plan) = task.await.map_err(|error| Refusal::Internal(chain(&error)))?;
    Ok((world, plan.map_err(|problems| Refusal::Invalid(all(&problems)))?))
}

/// The same, of instances that are placed as in an earlier revision.
pub(super) async fn replanned(
    world: World,
    spec: &FleetSpec,
    placed: Placed,
) -> Result<(World, Plan), Refusal> {
    let spec = spec.clone();
    let task = tokio::task::spawn_blocking(move || {
        let plan = replan(&world, &spec, placed);
        (world, plan)
    });
    let (world, plan) = task.await.map_err(|error| Refusal::Internal(chain(&error)))?;
    Ok((world, plan.map_err(|problems| Refusal::Precondition(all(&problems)))?))
}

/// All problems, one a line, as far as there is room.
fn all(problems: &[String]) -> String {
    let mut text = String::new();
    for (at, problem) in problems.iter().enumerate() {
        if at == MOST_PROBLEMS || text.len() + problem.len() > LONGEST_PROBLEMS {
            let rest = problems.len() - at;
            text.push_str(&format!("\n… and {rest} more"));
            break;
        }
        if at > 0 {
            text.push('\n');
        }
        text.extend(problem.chars().take(LONGEST_PROBLEMS / 4));
    }
    text
}

/// Refuses where the fleet has moved on from the revision that the caller has seen, and tells
/// what is different since.
async fn check_base(records: &Records, world: &World, wanted: &Wanted) -> Result<(), Refusal> {
    let fleet = &wanted.spec.fleet;
    let Some(base) = wanted.base.filter(|base| *base != world.revision()) else { return Ok(()) };
    let Some(Newest { revision, .. }) = &world.newest else {
        return Err(Refusal::Conflict(format!(
            "fleet {fleet} has no revision {base}: it has none at all; run `shoal plan` again"
        )));
    };
    let mut text = format!(
        "fleet {fleet} has moved on since revision {base}: revision {} was applied by {} at {}{}; \
         run `shoal plan` again and apply to that",
        revision.number,
        revision.author,
        moment(revision.created),
        if revision.source.is_empty() {
            String::new()
        } else {
            format!(" from {}", revision.source)
        },
    );
    // Nobody has seen revision 0, and a base that never was has nothing to tell.
    let id = revision_id(fleet.as_str(), base);
    if let Some(stored) = records.get::<RevisionRecord>(&id).await? {
        let base = Revision::try_from(stored.record)
            .map_err(|error| inventory::damaged::<RevisionRecord>(&id, &error.to_string()))?;
        text.push_str(&since(&base, revision));
    }
    Err(Refusal::Conflict(text))
}

/// What differs between two revisions, a line each.
fn since(base: &Revision, newest: &Revision) -> String {
    let lines = difference(base, newest);
    if lines.is_empty() {
        return format!("\nIt says the same as revision {}", base.number);
    }
    let mut text = format!("\nWhat differs from revision {}:", base.number);
    for line in lines.iter().take(MOST_DIFFERENCES) {
        text.push_str("\n  ");
        text.extend(line.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_LINE));
        if line.chars().count() > LONGEST_LINE {
            text.push('…');
        }
    }
    if let Some(more) = lines.len().checked_sub(MOST_DIFFERENCES).filter(|more| *more > 0) {
        text.push_str(&format!("\n  … and {more} more"));
    }
    text
}

fn difference(base: &Revision, newest: &Revision) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, difference) in fleet_changes(&base.spec, &newest.spec) {
        match difference {
            InstanceDifference::Added => lines.push(format!("{name}: new")),
            InstanceDifference::Removed => lines.push(format!("{name}: removed")),
            InstanceDifference::Changed(changes) => lines.extend(
                changes.iter().map(|change| format!("{name}: {}", change.without_values())),
            ),
        }
    }
    for (name, declared) in &newest.spec.instances {
        let (before, after) = (digest(base, name), digest(newest, name));
        let same_name = base.spec.instances.get(name).is_some_and(|i| i.image == declared.image);
        if let (Some(before), Some(after)) = (before, after)
            && same_name
            && before != after
        {
            let (image, before, after) = (&declared.image, before.short(), after.short());
            lines.push(format!("{name}: image {image} was pushed anew: {before} -> {after}"));
        }
        lines.extend(newer_secrets(base, newest, name));
    }
    lines
}

/// The secrets of an instance of which two revisions have different versions.
fn newer_secrets(base: &Revision, newest: &Revision, name: &InstanceName) -> Vec<String> {
    let (before, after) = (secrets(base, name), secrets(newest, name));
    let differs = |(credential, after): (&CredentialName, &PinnedSecret)| {
        let before = before.get(credential).filter(|before| before.name == after.name)?;
        let said = format!("{name}: secrets.{credential}: {before} -> version {}", after.version);
        (before.version != after.version).then_some(said)
    };
    after.iter().filter_map(differs).collect()
}

/// The secrets that an instance has in a revision, if it is anywhere.
fn secrets(revision: &Revision, name: &InstanceName) -> BTreeMap<CredentialName, PinnedSecret> {
    let mut configs = revision.hosts.values().filter_map(|there| there.get(name));
    configs.next().map(|config| config.settings.secrets.clone()).unwrap_or_default()
}

/// The image's file that an instance has in a revision, if it is anywhere.
fn digest(revision: &Revision, name: &InstanceName) -> Option<Digest> {
    let mut configs = revision.hosts.values().filter_map(|there| there.get(name));
    configs.next().map(|config| config.image.digest)
}

/// A point in time for people.
fn moment(at: Timestamp) -> String {
    let millis = i64::try_from(at.0).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(millis)
        .map_or_else(|_| at.0.to_string(), |at| at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string())
}

pub(super) fn revision(
    world: &World,
    plan: &Plan,
    wanted: &Wanted,
    who: &str,
    now: Timestamp,
) -> Revision {
    Revision {
        fleet: wanted.spec.fleet.clone(),
        number: world.revision() + 1,
        spec: wanted.spec.clone(),
        hosts: plan.hosts.clone(),
        created: now,
        author: who.to_owned(),
        source: wanted.source.clone(),
        recreate: plan.recreate.clone(),
        undo_data: false,
    }
}

/// Everything that makes `revision` the newest, if the world is still as it was read. `call` and
/// `detail` are for the audit log.
pub(super) fn batch(
    world: &World,
    revision: &Revision,
    rollout: &Rollout,
    (call, detail): (&str, &str),
    now: Timestamp,
) -> Result<Batch, Refusal> {
    let (fleet, number) = (revision.fleet.as_str(), revision.number);
    let id = revision_id(fleet, number);
    let newest = FleetRecord { revision: number };
    let mut batch = Batch::new();
    match &world.newest {
        Some(before) => {
            batch.replace(&before.fleet, &newest)?;
            supersede(&mut batch, before, now)?;
        }
        None => {
            batch.create(fleet, &newest)?;
        }
    }
    world.lock.relied_on(&mut batch)?;
    batch.create(&id, &revision.record())?;
    batch.create(&id, &rollout_record(rollout))?;
    for image in &world.image_records {
        // Written again as it is: whoever is removing the image at this moment then fails.
        batch.replace(image, &image.record)?;
    }
    for head in &world.secret_heads {
        // Likewise for a secret.
        batch.replace(head, &head.record)?;
    }
    let (entry, record) = audit::entry(&revision.author, call, fleet, detail, now);
    batch.create(&entry, &record)?;
    Ok(batch)
}

/// Ends the rollout before, where it has not ended. Where it has, nothing else may have happened
/// to it either: a driver that is telling hosts of it would be overlooked.
fn supersede(batch: &mut Batch, before: &Newest, now: Timestamp) -> Result<(), Refusal> {
    if before.rollout.state.is_final() {
        batch.unchanged(&before.rollout_record)?;
        return Ok(());
    }
    batch.replace(&before.rollout_record, &rollout_record(&superseded(&before.rollout, now)))?;
    Ok(())
}

/// A rollout whose place a newer one has taken.
pub(crate) fn superseded(rollout: &Rollout, now: Timestamp) -> Rollout {
    Rollout { state: State::Superseded, hold: None, ended: Some(now), ..rollout.clone() }
}

/// The rollout of a new revision.
pub(super) fn rollout(world: &World, revision: &Revision, plan: &Plan, wanted: &Wanted) -> Rollout {
    Rollout {
        fleet: revision.fleet.clone(),
        revision: revision.number,
        back_to: world.proved,
        policy: revision.spec.rollout.clone(),
        offline: wanted.offline,
        timeout: wanted.timeout,
        state: State::Planned,
        hold: None,
        batch: 0,
        proofs: 0,
        promoted: 0,
        ready_since: None,
        cause: None,
        hosts: hosts(world, revision, plan),
        started: revision.created,
        deadline: revision.created.after(wanted.timeout),
        ended: None,
    }
}

/// The hosts of a new rollout: in the order of what their instances come after, else by name.
fn hosts(world: &World, revision: &Revision, plan: &Plan) -> BTreeMap<HostId, HostProgress> {
    let instances = |configs: &BTreeMap<InstanceName, _>| -> BTreeSet<InstanceId> {
        let id = |instance: &InstanceName| InstanceId {
            fleet: revision.fleet.clone(),
            instance: instance.clone(),
        };
        configs.keys().map(id).collect()
    };
    let before = world.newest.as_ref().map(|newest| &newest.rollout);
    let strays: BTreeSet<&HostId> = before.map(strays).unwrap_or_default();
    let by_name = world.hosts.iter().filter_map(|host| {
        // A stray that the fleet is no longer on may have to get it back.
        let nothing = || strays.contains(&host.id).then(BTreeSet::new);
        let there = revision.hosts.get(&host.id).map(instances).or_else(nothing)?;
        Some((host.id.clone(), there))
    });
    let by_name: Vec<_> = by_name.collect();
    let places = host_places(&order_of(&revision.spec), &by_name);
    let spread = |id: &HostId| {
        let host = world.hosts.iter().find(|host| host.id == *id)?;
        host.labels.get(revision.spec.rollout.spread.as_ref()?).cloned()
    };
    let disturbed: BTreeSet<&HostId> = plan
        .changes
        .iter()
        .filter(|change| change.action != Action::Keep)
        .map(|change| &change.host)
        // Their agents try anew what they rejected.
        .chain(world.went_back.keys())
        .collect();
    let progress = |(id, place): (HostId, u32)| {
        let (kept, stray) = (!disturbed.contains(&id), strays.contains(&id));
        let spread = spread(&id);
        (id, HostProgress { spread, kept, stray, ..HostProgress::pending(place) })
    };
    places.into_iter().map(progress).collect()
}

/// The hosts that a rollout, or those before it, changed and did not take back, where its revision
/// was not proved: they are at no revision that others go back to.
fn strays(before: &Rollout) -> BTreeSet<&HostId> {
    let changed = |host: &HostProgress| host.generation.is_some() || host.stray;
    let hosts = before.hosts.iter().filter(|(_, host)| changed(host) && host.back.is_none());
    hosts.map(|(id, _)| id).filter(|_| !before.is_proof()).collect()
}

/// The newest revision of a fleet that has to be there.
///
/// # Errors
/// [`Refusal::NotFound`] where there is none, with the name that is nearest.
pub(crate) async fn known(records: &Records, name: &str) -> Result<Newest, Refusal> {
    let fleet = name.parse().map_err(|error| Refusal::Invalid(format!("{error}")))?;
    if let Some(newest) = Newest::load(records, &fleet).await? {
        return Ok(newest);
    }
    let fleets = records.list::<FleetRecord>().await?.records;
    let meant = inventory::meant(name, fleets.iter().map(|fleet| fleet.id.as_str()));
    Err(Refusal::NotFound(format!("there is no fleet {name}{meant}")))
}
