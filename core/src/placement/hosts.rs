//! Which hosts get an instance: every match, or as many as it counts; none that is cordoned.
//!
//! Where it counts, those that run it now and still match stay, and the rest go to the hosts with
//! the fewest instances. Ties are broken by rendezvous hashing (Thaler and Ravishankar, "A
//! Name-Based Mapping Scheme for Rendezvous", 1996): each host draws a number that depends on it
//! and on the instance alone, so that hosts that come and go move nothing else.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;

use super::{Cordoned, Surroundings, Unplaceable};
use crate::fleet::{DeclaredInstance, FleetSpec};
use crate::host::{Cordon, Host};
use crate::label::HostMatch;
use crate::name::{FleetName, HostId, HostName, InstanceName};

/// The hosts of each instance, by id.
pub(super) type Chosen<'a> = BTreeMap<&'a InstanceName, BTreeMap<&'a HostId, &'a Host>>;

/// A host that is cordoned, and the instances that it would have if it were not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// The host.
    pub host: HostName,
    /// Why.
    pub cordon: Cordon,
    /// The instances, of those that every match should run.
    pub instances: Vec<InstanceName>,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, cordon, instances } = self;
        let names: Vec<&str> = instances.iter().map(InstanceName::as_str).collect();
        let (plural, are) = if names.len() == 1 { ("", "is") } else { ("s", "are") };
        let names = names.join(", ");
        write!(f, "{host} is {cordon}: instance{plural} {names} {are} not placed there")
    }
}

/// Chooses the hosts of every instance of `fleet`; says of which it can't, and which hosts are left
/// out although they match.
pub(super) fn choose<'a>(
    fleet: &'a FleetSpec,
    around: &Surroundings<'a>,
    problems: &mut Vec<Unplaceable>,
) -> (Chosen<'a>, Vec<LeftOut>) {
    let mut chooser = Chooser::new(fleet, around);
    let mut matching = BTreeMap::new();
    let mut left_out = BTreeMap::new();
    for (name, declared) in &fleet.instances {
        let found = matches(name, declared, around.hosts, problems);
        let (open, closed): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|host| closed(host, name, around).is_none());
        match declared.count {
            None => {
                chooser.give(name, &open);
                leave_out(&mut left_out, name, &closed);
            }
            Some(count) => problems.extend(too_few_open(name, declared, count, &open, &closed)),
        }
        matching.insert(name, open);
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
    (chooser.chosen, left_out.into_values().collect())
}

/// Why a host may not have the instance: one that is cordoned keeps it, one that is drained does
/// not.
pub(super) fn closed<'a>(
    host: &'a Host,
    name: &InstanceName,
    around: &Surroundings<'_>,
) -> Option<&'a Cordon> {
    let is_there = || around.now.get(name).is_some_and(|now| now.contains(&host.id));
    host.cordon.as_ref().filter(|cordon| cordon.drains || !is_there())
}

fn leave_out<'a>(
    left_out: &mut BTreeMap<&'a HostName, LeftOut>,
    name: &InstanceName,
    closed: &[&'a Host],
) {
    for host in closed {
        let Some(cordon) = &host.cordon else { continue };
        let entry = left_out.entry(&host.name).or_insert_with(|| LeftOut {
            host: host.name.clone(),
            cordon: cordon.clone(),
            instances: Vec::new(),
        });
        entry.instances.push(name.clone());
    }
}

/// That cordons alone keep an instance from having its count. Where there never were hosts enough,
/// [`matches`] says so.
fn too_few_open(
    name: &InstanceName,
    declared: &DeclaredInstance,
    count: u32,
    open: &[&Host],
    closed: &[&Host],
) -> Option<Unplaceable> {
    let missing = size(count).checked_sub(open.len()).filter(|missing| *missing > 0)?;
    if missing > closed.len() {
        return None;
    }
    let cordoned = closed.iter().filter_map(|host| {
        let (host, cordon) = (host.name.clone(), host.cordon.clone()?);
        Some(Cordoned { host, cordon })
    });
    Some(Unplaceable::TooFewOpen {
        instance: name.clone(),
        hosts: declared.hosts.to_string(),
        count,
        open: open.len(),
        cordoned: cordoned.collect(),
    })
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
        let problem = |host: &_| Unplaceable::UnknownHost {
            instance: name.clone(),
            host: Clone::clone(host),
        };
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::placement::tests_support::{World, cordoned, fleet, host, seats};
    use crate::spec::tests_support::settings;

    /// A fleet of instances, each with its hosts and how many of them.
    fn counted(instances: &[(&str, &str, u32)]) -> FleetSpec {
        let plain: Vec<_> = instances.iter().map(|(name, on, _)| (*name, *on)).collect();
        let mut spec = fleet("shop", &plain);
        for (declared, (_, _, count)) in spec.instances.values_mut().zip(instances) {
            declared.count = Some(*count);
        }
        spec
    }

    fn placed(world: &World, spec: &FleetSpec) -> Vec<String> {
        seats(&world.place(spec).unwrap())
    }

    /// The world once `spec` is placed in it.
    fn settled(mut world: World, spec: &FleetSpec) -> World {
        world.now.clear();
        for (host, there) in world.place(spec).unwrap().hosts {
            for name in there.into_keys() {
                world.now.entry(name).or_default().insert(host.clone());
            }
        }
        world
    }

    #[test]
    fn the_hash_is_the_known_one() {
        assert_eq!(fnv1a(b"".iter().copied()), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a".iter().copied()), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar".iter().copied()), 0x8594_4171_f739_67e8);
        let (fleet, instance) = ("shop".parse().unwrap(), "main".parse().unwrap());
        let drawn = draw(&fleet, &instance, &"h1".parse().unwrap());
        assert_eq!(
            drawn, 0x22fe_8396_f9e5_062f,
            "another number would move instances when Shoal is upgraded"
        );
    }

    #[test]
    fn too_few_hosts_are_counted_in_the_error() {
        let problems = World::new().problems(&counted(&[("main", "role=web", 3)]));
        assert_eq!(
            problems,
            ["instance main: count = 3, and only 2 hosts match \"role=web\"; lower the count, or \
              label more hosts (see `shoal host list`)"]
        );
        let one = World::new().problems(&counted(&[("main", "role=db", 2)]));
        assert!(one[0].contains("only 1 host matches \"role=db\""), "{one:?}");
        let none = World::new().problems(&counted(&[("main", "role=mail", 2)]));
        assert!(none[0].contains("no host matches"), "{none:?}");
        assert_eq!(World::new().problems(&counted(&[("main", "role=mail", 0)])), [""; 0]);
    }

    /// The world with one of its hosts cordoned.
    fn closed(mut world: World, name: &str, drains: bool) -> World {
        let found = world.hosts.iter_mut().find(|host| host.name.as_str() == name).unwrap();
        *found = cordoned(found.clone(), drains);
        world
    }

    #[test]
    fn a_cordoned_host_keeps_what_it_has_and_gets_nothing_new() {
        let spec = fleet("shop", &[("main", "role=web"), ("db", "*")]);
        let before = ["db@h1", "main@h1", "db@h2", "main@h2", "db@h3"];
        let there = settled(World::new(), &spec);
        let table = [
            ("new", closed(World::new(), "h2", false), &["db@h1", "main@h1", "db@h3"][..]),
            ("drained", closed(there.clone(), "h2", true), &["db@h1", "main@h1", "db@h3"]),
            ("there", closed(there, "h2", false), &before),
        ];
        for (case, world, wanted) in table {
            assert_eq!(placed(&world, &spec), wanted, "{case}");
        }
    }

    #[test]
    fn what_every_match_should_run_and_does_not_is_told_by_host() {
        let world = closed(closed(World::new(), "h2", false), "h1", true);
        let told = |instances: &[(&str, &str)]| -> Vec<String> {
            let placed = world.place(&fleet("shop", instances)).unwrap();
            placed.left_out.iter().map(ToString::to_string).collect()
        };
        assert_eq!(
            told(&[("main", "role=web"), ("db", "h2,h3")]),
            [
                "h1 is drained (ann: bad disk): instance main is not placed there",
                "h2 is cordoned (ann: bad disk): instances db, main are not placed there",
            ]
        );
        assert_eq!(told(&[("main", "h2")]).len(), 1, "also where it then is nowhere");
        assert_eq!(told(&[("db", "h3")]), [""; 0]);
        let counted = closed(World::new(), "h2", false).place(&counted(&[("main", "*", 2)]));
        assert_eq!(counted.unwrap().left_out, [], "it has its count");
    }

    #[test]
    fn a_count_that_only_cordons_keep_from_being_met_is_refused() {
        let world = closed(World::new(), "h2", false);
        assert_eq!(placed(&world, &counted(&[("main", "*", 2)])), ["main@h1", "main@h3"]);
        assert_eq!(
            world.problems(&counted(&[("main", "role=web", 2)])),
            ["instance main: count = 2, and of the hosts that match \"role=web\" only 1 may have \
              it: h2 is cordoned (ann: bad disk); lower the count, label more hosts, or let them \
              have it again with `shoal host uncordon`"]
        );
        let more = world.problems(&counted(&[("main", "role=web", 3)]));
        assert!(more[0].contains("only 2 hosts match"), "{more:?}");
        let there = settled(World::new(), &counted(&[("main", "role=web", 2)]));
        let kept = closed(there.clone(), "h2", false);
        assert_eq!(placed(&kept, &counted(&[("main", "role=web", 2)])), ["main@h1", "main@h2"]);
        assert_eq!(
            closed(there, "h2", true).problems(&counted(&[("main", "role=web", 2)])).len(),
            1
        );
    }

    #[test]
    fn the_rest_goes_where_the_fewest_instances_are() {
        let mut world = World::new();
        world.other("h1", "mail/a", &settings());
        world.other("h1", "mail/b", &settings());
        world.other("h3", "mail/c", &settings());
        assert_eq!(placed(&world, &counted(&[("main", "*", 1)])), ["main@h2"]);
        assert_eq!(placed(&world, &counted(&[("main", "*", 2)])), ["main@h2", "main@h3"]);
        let two = counted(&[("a", "*", 1), ("b", "*", 1)]);
        assert_eq!(placed(&world, &two).len(), 2);
        assert!(!placed(&world, &two).iter().any(|seat| seat.ends_with("@h1")));
    }

    #[test]
    fn whoever_runs_it_and_still_matches_stays() {
        let mut world = World::new();
        world.other("h1", "mail/a", &settings());
        let now = ["id-h1", "id-h3"].map(|id| id.parse().unwrap());
        world.now.insert("main".parse().unwrap(), now.into());
        let stays = placed(&world, &counted(&[("main", "*", 2)]));
        assert_eq!(stays, ["main@h1", "main@h3"], "h2 is empty, and nothing moves there");
        let fewer = placed(&world, &counted(&[("main", "*", 1)]));
        assert_eq!(fewer, ["main@h3"], "the fuller host is left");
        let moved = placed(&world, &counted(&[("main", "role=web", 2)]));
        assert_eq!(moved, ["main@h1", "main@h2"], "h3 does not match any more");
    }

    prop_compose! {
        /// Up to 12 hosts, some with instances of another fleet, and a fleet for them.
        fn worlds()(
            loads in prop::collection::vec(0..4_usize, 2..12),
            wanted in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 1..5),
        ) -> (World, FleetSpec) {
            let hosts = (0..loads.len()).map(|n| host(&format!("h{n}"), "web")).collect();
            let mut world = World { hosts, ..World::default() };
            for (n, load) in loads.iter().enumerate() {
                for other in 0..*load {
                    world.other(&format!("h{n}"), &format!("mail/m{other}"), &settings());
                }
            }
            let names: Vec<String> = (0..wanted.len()).map(|n| format!("i{n}")).collect();
            let instances: Vec<_> = names.iter().map(|name| (name.as_str(), "role=web", 0)).collect();
            let mut spec = counted(&instances);
            for (declared, (count, all)) in spec.instances.values_mut().zip(wanted) {
                let count = u32::try_from(count.index(loads.len())).unwrap() + 1;
                declared.count = (!all).then_some(count);
            }
            (world, spec)
        }
    }

    fn hosts_of(seats: &[String], name: &str) -> usize {
        seats.iter().filter(|seat| seat.starts_with(&format!("{name}@"))).count()
    }

    proptest! {
        #[test]
        fn exactly_as_many_as_counted((world, spec) in worlds()) {
            let seats = placed(&world, &spec);
            for (name, declared) in &spec.instances {
                let wanted = declared.count.map_or(world.hosts.len(), size);
                prop_assert_eq!(hosts_of(&seats, name.as_str()), wanted);
            }
        }

        #[test]
        fn the_order_of_hosts_does_not_matter((world, spec) in worlds(), by in any::<u64>()) {
            let mut other = world.clone();
            other.hosts.sort_by_key(|host| mixed(by ^ fnv1a(host.id.as_str().bytes())));
            prop_assert_eq!(placed(&other, &spec), placed(&world, &spec));
        }

        #[test]
        fn once_placed_it_stays((world, spec) in worlds()) {
            let before = placed(&world, &spec);
            let world = settled(world, &spec);
            prop_assert_eq!(placed(&world, &spec), before);
        }

        #[test]
        fn a_host_more_moves_nothing((world, spec) in worlds(), load in 0..3_usize) {
            let mut world = settled(world, &spec);
            let before: BTreeSet<_> = placed(&world, &spec).into_iter().collect();
            world.hosts.push(host("new", "web"));
            for n in 0..load {
                world.other("new", &format!("mail/m{n}"), &settings());
            }
            let after: BTreeSet<_> = placed(&world, &spec).into_iter().collect();
            prop_assert!(after.is_superset(&before), "{before:?} {after:?}");
            prop_assert!(after.difference(&before).all(|seat| seat.ends_with("@new")));
        }

        #[test]
        fn a_host_less_moves_only_what_was_there(
            (world, mut spec) in worlds(),
            gone in any::<prop::sample::Index>(),
        ) {
            for declared in spec.instances.values_mut() {
                let most = u32::try_from(world.hosts.len()).unwrap() - 1;
                declared.count = declared.count.map(|count| count.min(most));
            }
            let mut world = settled(world, &spec);
            let before: BTreeSet<_> = placed(&world, &spec).into_iter().collect();
            let index = gone.index(world.hosts.len());
            let gone = format!("@{}", world.hosts.remove(index).name);
            let after: BTreeSet<_> = placed(&world, &spec).into_iter().collect();
            prop_assert!(before.difference(&after).all(|seat| seat.ends_with(&gone)));
        }

        #[test]
        fn a_cordon_moves_nothing((world, spec) in worlds(), at in any::<prop::sample::Index>()) {
            let world = settled(world, &spec);
            let before = placed(&world, &spec);
            let name = world.hosts[at.index(world.hosts.len())].name.to_string();
            prop_assert_eq!(placed(&closed(world, &name, false), &spec), before);
        }

        #[test]
        fn a_drain_is_as_a_host_less(
            (world, mut spec) in worlds(),
            at in any::<prop::sample::Index>(),
        ) {
            for declared in spec.instances.values_mut() {
                let most = u32::try_from(world.hosts.len()).unwrap() - 1;
                declared.count = declared.count.map(|count| count.min(most));
            }
            let world = settled(world, &spec);
            let at = at.index(world.hosts.len());
            let mut less = world.clone();
            let name = less.hosts.remove(at).name.to_string();
            prop_assert_eq!(placed(&closed(world, &name, true), &spec), placed(&less, &spec));
        }

        #[test]
        fn equal_hosts_are_filled_evenly(hosts in 2..12_usize, counts in prop::collection::vec(1..6_u32, 1..8)) {
            let world = World {
                hosts: (0..hosts).map(|n| host(&format!("h{n}"), "web")).collect(),
                ..World::default()
            };
            let names: Vec<String> = (0..counts.len()).map(|n| format!("i{n}")).collect();
            let most = u32::try_from(hosts).unwrap();
            let instances: Vec<_> =
                names.iter().zip(&counts).map(|(name, n)| (name.as_str(), "*", *n.min(&most))).collect();
            let seats = placed(&world, &counted(&instances));
            let loads = world.hosts.iter().map(|host| {
                seats.iter().filter(|seat| seat.ends_with(&format!("@{}", host.name))).count()
            });
            let loads: Vec<usize> = loads.collect();
            let (least, most) = (loads.iter().min().unwrap(), loads.iter().max().unwrap());
            prop_assert!(most - least <= 1, "{loads:?}");
        }
    }
}
