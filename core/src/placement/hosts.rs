//! Which hosts get an instance: every match, or as many as it counts.
//!
//! Where it counts, those that run it now and still match stay, and the rest go to the hosts with
//! the fewest instances. Ties are broken by rendezvous hashing (Thaler and Ravishankar, "A
//! Name-Based Mapping Scheme for Rendezvous", 1996): each host draws a number that depends on it
//! and on the instance alone, so that hosts that come and go move nothing else.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::{Surroundings, Unplaceable};
use crate::fleet::{DeclaredInstance, FleetSpec};
use crate::host::Host;
use crate::label::HostMatch;
use crate::name::{FleetName, HostId, InstanceName};

/// The hosts of each instance, by id.
pub(super) type Chosen<'a> = BTreeMap<&'a InstanceName, BTreeMap<&'a HostId, &'a Host>>;

/// Chooses the hosts of every instance of `fleet`; says of which it can't.
pub(super) fn choose<'a>(
    fleet: &'a FleetSpec,
    around: &Surroundings<'a>,
    problems: &mut Vec<Unplaceable>,
) -> Chosen<'a> {
    let mut chooser = Chooser::new(fleet, around);
    let mut matching = BTreeMap::new();
    for (name, declared) in &fleet.instances {
        let hosts = matches(name, declared, around.hosts, problems);
        if declared.count.is_none() {
            chooser.give(name, &hosts);
        }
        matching.insert(name, hosts);
    }
    let counted = || fleet.instances.iter().filter_map(|(name, i)| Some((name, i.count?)));
    for (name, count) in counted() {
        let now = around.now.get(name);
        let stays = |host: &&Host| now.is_some_and(|now| now.contains(&host.id));
        let there = matching[name].iter().copied().filter(stays).collect();
        chooser.give_some(name, there, count);
    }
    for (name, count) in counted() {
        let missing = chooser.missing(name, count);
        let free = chooser.free(name, &matching[name]);
        chooser.give_some(name, free, missing);
    }
    chooser.chosen
}

/// The hosts that match, whatever the count; says where they are too few.
fn matches<'a>(
    name: &InstanceName,
    declared: &DeclaredInstance,
    hosts: &'a [Host],
    problems: &mut Vec<Unplaceable>,
) -> Vec<&'a Host> {
    let instance = name.clone();
    let found: Vec<&Host> =
        hosts.iter().filter(|h| declared.hosts.matches(&h.name, &h.labels)).collect();
    if let HostMatch::Names(names) = &declared.hosts {
        let missing = names.iter().filter(|n| !hosts.iter().any(|h| h.name == **n));
        let problem =
            |host: &_| Unplaceable::UnknownHost { instance: name.clone(), host: Clone::clone(host) };
        let before = problems.len();
        problems.extend(missing.map(problem));
        if problems.len() > before {
            return found;
        }
    }
    let wanted = declared.hosts.to_string();
    let (matches, count) = (found.len(), declared.count.unwrap_or(1));
    if matches == 0 && count > 0 {
        problems.push(Unplaceable::NoHost { instance, hosts: wanted });
    } else if declared.count.is_some() && size(count) > matches {
        problems.push(Unplaceable::TooFewHosts { instance, hosts: wanted, count, matches });
    }
    found
}

fn size(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

/// What is chosen so far.
struct Chooser<'a> {
    fleet: &'a FleetName,
    chosen: Chosen<'a>,
    /// How many instances each host has.
    load: BTreeMap<&'a HostId, usize>,
}

impl<'a> Chooser<'a> {
    fn new(fleet: &'a FleetSpec, around: &Surroundings<'a>) -> Self {
        let load = around.others.iter().map(|(host, there)| (host, there.len())).collect();
        let chosen = fleet.instances.keys().map(|name| (name, BTreeMap::new())).collect();
        Self { fleet: &fleet.fleet, chosen, load }
    }

    fn give(&mut self, name: &'a InstanceName, hosts: &[&'a Host]) {
        for host in hosts {
            *self.load.entry(&host.id).or_default() += 1;
        }
        self.chosen.entry(name).or_default().extend(hosts.iter().map(|host| (&host.id, *host)));
    }

    /// Gives `name` to as many as `count` of `hosts`, the least loaded first.
    fn give_some(&mut self, name: &'a InstanceName, mut hosts: Vec<&'a Host>, count: u32) {
        hosts.sort_by_key(|host| {
            let load = self.load.get(&host.id).copied().unwrap_or_default();
            (load, Reverse(draw(self.fleet, name, &host.id)), &host.id)
        });
        hosts.truncate(size(count));
        self.give(name, &hosts);
    }

    fn missing(&self, name: &InstanceName, count: u32) -> u32 {
        let has = self.chosen.get(name).map_or(0, BTreeMap::len);
        count.saturating_sub(u32::try_from(has).unwrap_or(u32::MAX))
    }

    fn free(&self, name: &InstanceName, hosts: &[&'a Host]) -> Vec<&'a Host> {
        let has = |host: &Host| self.chosen.get(name).is_some_and(|h| h.contains_key(&host.id));
        hosts.iter().copied().filter(|host| !has(host)).collect()
    }
}

/// The number that a host draws for an instance. It is the same in every version: another would
/// move instances.
fn draw(fleet: &FleetName, instance: &InstanceName, host: &HostId) -> u64 {
    // A name has no zero byte, so that no two triples make one text.
    let parts = [fleet.as_str(), "\0", instance.as_str(), "\0", host.as_str()];
    mixed(fnv1a(parts.iter().flat_map(|part| part.bytes())))
}

/// FNV-1a with 64 bits (Fowler, Noll and Vo; draft-eastlake-fnv).
fn fnv1a(bytes: impl Iterator<Item = u8>) -> u64 {
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    bytes.fold(BASIS, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}

/// The last step of MurmurHash3 (Appleby, in the public domain): FNV alone leaves the high bits
/// of names that differ at their end alike.
fn mixed(mut hash: u64) -> u64 {
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}
