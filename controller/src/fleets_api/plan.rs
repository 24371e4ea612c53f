//! What an apply would change: a pure function of the fleet and the world.
//!
//! Deliberately absent: reading, writing, and who asks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use prost::Message as _;
use shoal_core::fleet::FleetSpec;
use shoal_core::host::HostSpec;
use shoal_core::infra::HostInfra;
use shoal_core::name::{HostId, HostName, InstanceId, InstanceName};
use shoal_core::peers::Peer;
use shoal_core::placement::{Action, Surroundings, host_actions, misplaced, place, with_fleet};
use shoal_core::rollout::State;
use shoal_core::secret::PinnedSecret;
use shoal_core::spec::InstanceConfig;
use shoal_core::time::Timestamp;
use shoal_proto::v1;

use super::infra;
use super::recreate::Recreate;
use super::revision::{Placed, Revision};
use super::world::World;
use crate::link::MOST_SECRETS;
use crate::peers::Seats;
use crate::store::{MAX_COMMIT_BYTES, MAX_OPERATIONS};

/// Bytes of a store transaction that are left for all but its largest record: a rollout's part
/// for one host, and the fixed rest.
const ROOM_PER_HOST: usize = 512;
const ROOM: usize = 32 << 10;

/// Images and secrets that one fleet may name: each takes a check and a write of the one
/// transaction that makes a revision.
const MOST_NAMED: usize = MAX_OPERATIONS - 16;

/// What a fleet's spec comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What each host gets; nothing on a host that the fleet leaves.
    pub hosts: Placed,
    /// The hosts on which every container is made afresh.
    pub recreate: BTreeSet<HostId>,
    /// What happens to each instance on each host, ordered by host name and instance.
    pub changes: Vec<Change>,
    /// Whether a revision is to be made of it.
    pub need: Need,
    /// Where instances are not placed or are tried again, and why; for people.
    pub notes: Vec<String>,
}

/// What happens to one instance on one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The host.
    pub host: HostId,
    /// Its name.
    pub host_name: HostName,
    /// The instance: of the fleet or, where the infra gets another version, of an app's.
    pub instance: InstanceId,
    /// What happens to it.
    pub action: Action,
}

/// Whether a revision is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Everything is as the spec says, or a rollout is making it so.
    Nothing,
    /// The spec, a placement or a host differs.
    Change,
    /// Nothing differs, but the last rollout ended without success: whoever applies again wants
    /// it tried again, with a deadline and a verdict of its own. Nothing is recreated by it but on
    /// hosts whose agents went back.
    Retry,
}

/// Plans `spec`, with what is to be made afresh.
///
/// # Errors
/// Every reason why it can't be done, one text each.
pub fn plan(
    world: &World,
    spec: &FleetSpec,
    recreate: Option<&Recreate>,
) -> Result<Plan, Vec<String>> {
    let problems = infra::problems(world, spec);
    if !problems.is_empty() {
        return Err(problems);
    }
    let now = world.now(&spec.fleet);
    let around = Surroundings {
        hosts: &world.hosts,
        images: &world.images,
        secrets: &world.secrets,
        others: &world.others,
        order: &world.order,
        now: &now,
    };
    let placement = place(spec, &around);
    let mut placement = placement.map_err(|problems| texts(&problems))?;
    infra::keep(world, &mut placement.hosts);
    let placed = |(host, _): &(&HostId, &String)| placement.hosts.contains_key(*host);
    let agentless: Vec<String> =
        world.agentless.iter().filter(placed).map(|(_, why)| why.clone()).collect();
    if !agentless.is_empty() {
        return Err(agentless);
    }
    let chosen = recreate.map(|r| r.chosen(&spec.fleet, &world.hosts, &placement.hosts));
    let chosen = chosen.transpose().map_err(|problem| vec![problem])?.unwrap_or_default();
    let mut plan = planned(world, spec, placement.hosts, chosen)?;
    plan.notes = texts(&placement.left_out);
    plan.notes.extend(tried_again(world, &plan.hosts));
    plan.notes.extend(infra::notes(world, spec));
    plan.need = need(world, spec, &plan.hosts, &plan.changes);
    Ok(plan)
}

/// Plans `spec` with its instances `placed` as they were in an earlier revision, whose images and
/// secrets are those of then.
///
/// # Errors
/// As [`plan`].
pub fn replan(world: &World, spec: &FleetSpec, placed: Placed) -> Result<Plan, Vec<String>> {
    let now = world.now(&spec.fleet);
    let around = Surroundings {
        hosts: &world.hosts,
        images: &world.images,
        secrets: &world.secrets,
        others: &world.others,
        order: &world.order,
        now: &now,
    };
    let problems = misplaced(spec, &placed, &around);
    if !problems.is_empty() {
        return Err(texts(&problems));
    }
    planned(world, spec, placed, BTreeSet::new())
}

/// The plan that puts the instances there, where that fits.
fn planned(
    world: &World,
    spec: &FleetSpec,
    mut hosts: Placed,
    recreate: BTreeSet<HostId>,
) -> Result<Plan, Vec<String>> {
    for (host, desired) in &world.specs {
        let enrolled = world.hosts.iter().any(|known| known.id == *host);
        if enrolled && desired.instances.iter().any(|i| i.id.fleet == spec.fleet) {
            hosts.entry(host.clone()).or_default();
        }
    }
    let problems = size_problems(world, spec, &hosts);
    if !problems.is_empty() {
        return Err(problems);
    }
    let changes = changes(world, spec, &hosts, &recreate);
    Ok(Plan { hosts, recreate, changes, need: Need::Change, notes: Vec::new() })
}

/// The hosts whose agents went back: they try what they rejected, also where nothing differs.
fn tried_again(world: &World, hosts: &Placed) -> Vec<String> {
    let there = world.hosts.iter().filter(|host| hosts.contains_key(&host.id));
    let back = there.filter_map(|host| Some((&host.name, world.went_back.get(&host.id)?)));
    let note = |(host, why): (&HostName, &String)| {
        format!("{host} went back to what was healthy before ({why}): an apply has it tried again")
    };
    back.map(note).collect()
}

fn texts<T: ToString>(problems: &[T]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

fn changes(
    world: &World,
    spec: &FleetSpec,
    hosts: &Placed,
    recreate: &BTreeSet<HostId>,
) -> Vec<Change> {
    let nothing = HostSpec::default();
    let mut changes = Vec::new();
    for host in &world.hosts {
        let Some(configs) = hosts.get(&host.id) else { continue };
        let desired = world.specs.get(&host.id).unwrap_or(&nothing);
        let afresh = recreate.contains(&host.id);
        let actions = host_actions(desired, &spec.fleet, configs, afresh);
        let actions = infra::changes(spec, desired, configs, actions).into_iter();
        changes.extend(actions.map(|(instance, action)| Change {
            host: host.id.clone(),
            host_name: host.name.clone(),
            instance,
            action,
        }));
    }
    changes
}

fn need(world: &World, spec: &FleetSpec, hosts: &Placed, changes: &[Change]) -> Need {
    let Some(newest) = &world.newest else { return Need::Change };
    if newest.revision.spec != *spec || !same_placement(&newest.revision.hosts, hosts) {
        return Need::Change;
    }
    let afresh = |change: &Change| matches!(change.action, Action::Recreate(..));
    match newest.rollout.state {
        // To be made afresh once more is not what a rollout under way is making so.
        _ if changes.iter().any(afresh) => Need::Change,
        State::RollingBack => Need::Change,
        state if !state.is_final() => Need::Nothing,
        _ if changes.iter().any(|change| change.action != Action::Keep) => Need::Change,
        State::Completed => Need::Nothing,
        _ => Need::Retry,
    }
}

/// Hosts that a revision takes the fleet away from don't count: the next one has none of them.
pub(super) fn same_placement(one: &Placed, other: &Placed) -> bool {
    let on = |placed: &Placed| -> BTreeMap<HostId, BTreeMap<InstanceName, InstanceConfig>> {
        let placed = placed.clone().into_iter();
        placed.filter(|(_, configs)| !configs.is_empty()).collect()
    };
    on(one) == on(other)
}

/// What would not fit the store.
fn size_problems(world: &World, spec: &FleetSpec, hosts: &Placed) -> Vec<String> {
    let mut problems = Vec::new();
    let named = world.images.len() + world.secrets.len();
    if named > MOST_NAMED {
        problems.push(format!(
            "the fleet names {named} images and secrets together, and at most {MOST_NAMED} go into \
             one fleet; split it"
        ));
    }
    problems.extend(secret_problems(world, spec, hosts));
    let largest = MAX_COMMIT_BYTES.saturating_sub(ROOM + ROOM_PER_HOST * hosts.len());
    let revision = Revision {
        fleet: spec.fleet.clone(),
        number: u64::MAX,
        spec: spec.clone(),
        hosts: hosts.clone(),
        created: Timestamp(u64::MAX),
        author: String::new(),
        source: String::new(),
        recreate: BTreeSet::new(),
        undo_data: false,
    };
    let size = revision.record().encoded_len();
    if size > largest {
        problems.push(too_large("the fleet", size, largest));
    }
    let seats = Seats::new(&spec.fleet, hosts, &world.hosts);
    let (nothing, nowhere) = (HostSpec::default(), BTreeMap::new());
    for host in &world.hosts {
        let desired = world.specs.get(&host.id).unwrap_or(&nothing);
        let configs = hosts.get(&host.id);
        if configs.is_none() && !seats.are_known_on(desired) {
            continue;
        }
        let configs = configs.unwrap_or(&nowhere);
        let gate = Some(Duration::MAX);
        let brings = spec.infra.as_ref().map(|infra| HostInfra::of(infra, u64::MAX));
        let size = |peers: &[Peer]| {
            let after =
                with_fleet(desired, &spec.fleet, u64::MAX, configs, peers, gate, brings.as_ref());
            v1::HostSpec::from(after).encoded_len()
        };
        if size(&[]) + seats.largest() <= largest {
            continue;
        }
        let size = size(&seats.told_to(host, configs));
        if size > largest {
            problems.push(too_large(&format!("everything on host {}", host.name), size, largest));
        }
    }
    problems
}

/// Hosts that would need more secrets than they can be sent.
fn secret_problems(world: &World, spec: &FleetSpec, hosts: &Placed) -> Vec<String> {
    let mut problems = Vec::new();
    for host in &world.hosts {
        let Some(configs) = hosts.get(&host.id) else { continue };
        let own = configs.values().flat_map(|config| config.settings.secrets.values());
        let others = world.others_secrets.get(&host.id).into_iter().flat_map(BTreeMap::values);
        let needed: BTreeSet<&PinnedSecret> = own.chain(others.flatten()).collect();
        if needed.len() > MOST_SECRETS {
            problems.push(format!(
                "host {} would need {} secrets with fleet {}, and at most {MOST_SECRETS} go to \
                 one host; place fewer instances with secrets there, or put several values into \
                 one secret",
                host.name,
                needed.len(),
                spec.fleet
            ));
        }
    }
    problems
}

fn too_large(what: &str, size: usize, largest: usize) -> String {
    format!(
        "{what} comes to {size} bytes with all files, and at most {largest} can be kept; put \
         large files into the image"
    )
}
