//! A fleet onto hosts: which host gets which instance, with its image pinned and its texts
//! rendered for that host.
//!
//! The way in is [`place`], which judges everything that can be known before a host is touched:
//! that there are hosts enough, that what an instance comes after is there, that
//! no two instances want the same thing of one host, and that each host can do and allows what it
//! is to do. A host that is cordoned keeps what it has and gets nothing new, one that is drained
//! keeps nothing. [`with_fleet`] puts the outcome into a host's desired state, [`host_actions`] says
//! what that does. Deliberately absent: who asks, and any record of it.

mod conflicts;
mod desired;
mod hosts;
mod order;
mod problem;
mod settings;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_support;

use std::collections::{BTreeMap, BTreeSet};

pub use self::conflicts::Claims;
pub use self::desired::{Action, host_actions, not_recreated, recreated, with_fleet};
pub use self::hosts::LeftOut;
pub use self::order::{Order, host_places, misordered, order_of, ranks};
pub use self::problem::{Cordoned, Hosts, OnHost, Unplaceable};
use self::settings::Instance;
use crate::fleet::FleetSpec;
use crate::host::Host;
use crate::image::{ImageRef, PinnedImage};
use crate::name::{HostId, HostName, InstanceId, InstanceName, MachineName};
use crate::secret::SecretName;
use crate::spec::{InstanceConfig, Settings};

/// What a fleet is placed among.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// Every enrolled host.
    pub hosts: &'a [Host],
    /// What the images stand for that the fleet names.
    pub images: &'a BTreeMap<ImageRef, PinnedImage>,
    /// The newest versions of the secrets that the fleet names.
    pub secrets: &'a BTreeMap<SecretName, u64>,
    /// What the instances of all other fleets take of their hosts.
    pub others: &'a BTreeMap<HostId, BTreeMap<InstanceId, Claims>>,
    /// What the instances of all other fleets come after; those of their newest revisions.
    pub order: &'a Order,
    /// Where the fleet's own instances are now.
    pub now: &'a BTreeMap<InstanceName, BTreeSet<HostId>>,
}

/// Where each instance of a fleet runs, and with what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    /// For each host, the configurations of the fleet's instances on it.
    pub hosts: BTreeMap<HostId, BTreeMap<InstanceName, InstanceConfig>>,
    /// Where instances that every match should run are not, ordered by host.
    pub left_out: Vec<LeftOut>,
}

/// Places every instance of `fleet`.
///
/// # Errors
/// Every reason why it can't be placed as it says, ordered by instance.
pub fn place(fleet: &FleetSpec, around: &Surroundings<'_>) -> Result<Placement, Vec<Unplaceable>> {
    let mut problems = Vec::new();
    problems.extend(machine_clashes(fleet, around));
    problems.extend(misordered(fleet, Some(around.order)));
    let (chosen, left_out) = hosts::choose(fleet, around, &mut problems);
    let mut seats = Vec::new();
    let mut on_host = Vec::new();
    for (name, declared) in &fleet.instances {
        if !around.images.contains_key(&declared.image) {
            let (instance, image) = (name.clone(), declared.image.clone());
            problems.push(Unplaceable::UnknownImage { instance, image });
        }
        let unknown = declared.secrets.values().collect::<BTreeSet<_>>().into_iter();
        let unknown = unknown.filter(|secret| !around.secrets.contains_key(secret));
        problems.extend(unknown.map(|secret| {
            let (instance, secret) = (name.clone(), secret.clone());
            Unplaceable::UnknownSecret { instance, secret }
        }));
        let mut instance = Instance::new(fleet, name, declared, around.secrets);
        for host in chosen.get(name).into_iter().flat_map(BTreeMap::values) {
            let mut found = Vec::new();
            let settings = instance.on(host, &mut found);
            found.extend(refused(host, &settings));
            on_host.extend(found.into_iter().map(|problem| (name.clone(), &host.name, problem)));
            seats.push((*host, name, settings));
        }
    }
    on_host.extend(conflicts(fleet, &seats, around));
    problems.extend(grouped(on_host));
    problems.sort_by(|a, b| a.instance().cmp(b.instance()));
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(Placement { left_out, ..pinned(fleet, seats, around.images) })
}

/// Every reason why `fleet` can't be `placed` as it once was, ordered by instance: what has changed
/// around it since. Hosts that are not there any more are passed over.
#[must_use]
pub fn misplaced(
    fleet: &FleetSpec,
    placed: &BTreeMap<HostId, BTreeMap<InstanceName, InstanceConfig>>,
    around: &Surroundings<'_>,
) -> Vec<Unplaceable> {
    let mut problems = machine_clashes(fleet, around);
    problems.extend(misordered(fleet, Some(around.order)));
    let mut seats = Vec::new();
    let mut on_host = Vec::new();
    for host in around.hosts {
        for (name, config) in placed.get(&host.id).into_iter().flatten() {
            let closed = hosts::closed(host, name, around);
            let closed = closed.map(|cordon| OnHost::Closed { cordon: cordon.clone() });
            let found = refused(host, &config.settings).into_iter().chain(closed);
            on_host.extend(found.map(|problem| (name.clone(), &host.name, problem)));
            seats.push((host, name, config.settings.clone()));
        }
    }
    on_host.extend(conflicts(fleet, &seats, around));
    problems.extend(grouped(on_host));
    problems.sort_by(|a, b| a.instance().cmp(b.instance()));
    problems
}

/// An instance on a host.
type Seat<'a> = (&'a Host, &'a InstanceName, Settings);

fn pinned(
    fleet: &FleetSpec,
    seats: Vec<Seat<'_>>,
    images: &BTreeMap<ImageRef, PinnedImage>,
) -> Placement {
    let mut placement = Placement::default();
    for (host, name, settings) in seats {
        let image = fleet.instances.get(name).and_then(|declared| images.get(&declared.image));
        let Some(image) = image.cloned() else { continue };
        let there = placement.hosts.entry(host.id.clone()).or_default();
        there.insert(name.clone(), InstanceConfig { image, settings });
    }
    placement
}

/// What the host can't do or does not allow, as far as it has said what it is like.
fn refused(host: &Host, settings: &Settings) -> Vec<OnHost> {
    let permitted = host.facts.as_ref().map(|facts| facts.policy.permits(settings, facts));
    let refused = permitted.and_then(Result::err).unwrap_or_default();
    refused.into_iter().map(|problem| OnHost::Refused { problem }).collect()
}

fn conflicts<'a>(
    fleet: &FleetSpec,
    seats: &[Seat<'a>],
    around: &Surroundings<'_>,
) -> Vec<(InstanceName, &'a HostName, OnHost)> {
    let mut by_host: BTreeMap<(&HostName, &HostId), Vec<_>> = BTreeMap::new();
    for (host, name, settings) in seats {
        let id = InstanceId { fleet: fleet.fleet.clone(), instance: (*name).clone() };
        let there = by_host.entry((&host.name, &host.id)).or_default();
        there.push((id, Claims::of(settings)));
    }
    let mut found = Vec::new();
    for ((host, id), own) in by_host {
        let conflicts = conflicts::conflicts(&own, around.others.get(id)).into_iter();
        found.extend(conflicts.map(|(id, problem)| (id.instance, host, problem)));
    }
    found
}

/// A problem that many hosts share is told once.
fn grouped(found: Vec<(InstanceName, &HostName, OnHost)>) -> Vec<Unplaceable> {
    let mut groups: Vec<(InstanceName, Vec<HostName>, OnHost)> = Vec::new();
    for (instance, host, problem) in found {
        match groups.iter_mut().find(|(i, _, p)| *i == instance && *p == problem) {
            Some((_, hosts, _)) => hosts.push(host.clone()),
            None => groups.push((instance, vec![host.clone()], problem)),
        }
    }
    let problem = |(instance, mut hosts, problem): (_, Vec<HostName>, _)| {
        hosts.sort();
        hosts.dedup();
        Unplaceable::OnHosts { instance, hosts: Hosts(hosts), problem: Box::new(problem) }
    };
    groups.into_iter().map(problem).collect()
}

fn machine_clashes(fleet: &FleetSpec, around: &Surroundings<'_>) -> Vec<Unplaceable> {
    let others = around.order.keys().chain(around.others.values().flat_map(BTreeMap::keys));
    let others: BTreeSet<&InstanceId> = others.filter(|o| o.fleet != fleet.fleet).collect();
    let others: BTreeMap<MachineName, &InstanceId> =
        others.into_iter().map(|other| (other.machine(), other)).collect();
    let clash = |instance: &InstanceName| {
        let id = InstanceId { fleet: fleet.fleet.clone(), instance: instance.clone() };
        let (machine, other) = others.get_key_value(&id.machine())?;
        let (instance, machine) = (instance.clone(), machine.clone());
        Some(Unplaceable::SameMachine { instance, machine, other: (*other).clone() })
    };
    fleet.instances.keys().filter_map(clash).collect()
}
