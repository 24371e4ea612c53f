//! What comes after what: that it is there, that there is a first, and which host is before which.
//!
//! Also of use without any controller: what a fleet says of its own instances can be judged
//! alone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::Unplaceable;
use crate::fleet::FleetSpec;
use crate::name::{HostId, InstanceId};

/// What each instance comes after.
pub type Order = BTreeMap<InstanceId, BTreeSet<InstanceId>>;

/// What the instances of `fleet` come after.
#[must_use]
pub fn order_of(fleet: &FleetSpec) -> Order {
    let declared = fleet.instances.iter().map(|(name, declared)| {
        let id = InstanceId { fleet: fleet.fleet.clone(), instance: name.clone() };
        (id, declared.settings.after.clone())
    });
    declared.collect()
}

/// What is wrong with the order of `fleet`. `others` is that of all other fleets; `None` where
/// they are not known, and then only what the fleet says of itself is judged.
#[must_use]
pub fn misordered(fleet: &FleetSpec, others: Option<&Order>) -> Vec<Unplaceable> {
    let mut order = order_of(fleet);
    let mut problems = unknown(fleet, &order, others);
    order.extend(others.into_iter().flatten().map(|(id, after)| (id.clone(), after.clone())));
    problems.extend(rings(fleet, &order));
    problems
}

fn unknown(fleet: &FleetSpec, own: &Order, others: Option<&Order>) -> Vec<Unplaceable> {
    let known = |id: &InstanceId| {
        let others = || others.is_none_or(|others| others.contains_key(id));
        if id.fleet == fleet.fleet { own.contains_key(id) } else { others() }
    };
    let all = || own.keys().chain(others.into_iter().flat_map(BTreeMap::keys));
    let named = own.iter().flat_map(|(id, after)| after.iter().map(move |after| (id, after)));
    let problem = |(id, after): (&InstanceId, &InstanceId)| Unplaceable::AfterUnknown {
        instance: id.instance.clone(),
        meant: nearest(after, all().filter(|known| *known != id)),
        after: after.clone(),
    };
    named.filter(|(_, after)| !known(after)).map(problem).collect()
}

fn nearest<'a>(id: &InstanceId, known: impl Iterator<Item = &'a InstanceId>) -> Option<InstanceId> {
    let word = id.to_string();
    let distance = |other: &InstanceId| strsim::damerau_levenshtein(&word, &other.to_string());
    let (distance, nearest) = known.map(|other| (distance(other), other)).min()?;
    (distance <= 1 + word.len() / 4).then(|| nearest.clone())
}

/// Each ring that an instance of `fleet` is in, once.
fn rings(fleet: &FleetSpec, order: &Order) -> Vec<Unplaceable> {
    let mut told: BTreeSet<&InstanceId> = BTreeSet::new();
    let mut rings = Vec::new();
    for id in order.keys().filter(|id| id.fleet == fleet.fleet) {
        if told.contains(id) {
            continue;
        }
        if let Some(ring) = ring(id, order) {
            told.extend(&ring);
            let ring = ring.into_iter().cloned().collect();
            rings.push(Unplaceable::AfterItself { instance: id.instance.clone(), ring });
        }
    }
    rings
}

/// How many of `order` come before each of it, at most, one after another. Those in a ring have
/// no rank.
#[must_use]
pub fn ranks(order: &Order) -> BTreeMap<InstanceId, usize> {
    let mut waiting: BTreeMap<&InstanceId, usize> = BTreeMap::new();
    let mut followers: BTreeMap<&InstanceId, Vec<&InstanceId>> = BTreeMap::new();
    for (id, after) in order {
        let known = || after.iter().filter(|other| order.contains_key(*other));
        waiting.insert(id, known().count());
        known().for_each(|other| followers.entry(other).or_default().push(id));
    }
    let mut ranks = BTreeMap::new();
    let first = waiting.iter().filter(|(_, before)| **before == 0).map(|(id, _)| (*id, 0));
    let mut ready: VecDeque<(&InstanceId, usize)> = first.collect();
    while let Some((id, rank)) = ready.pop_front() {
        ranks.insert(id.clone(), rank);
        for follower in followers.get(id).into_iter().flatten() {
            // The last one before it is the one of the highest rank: they come by rank.
            if let Some(before) = waiting.get_mut(follower) {
                *before -= 1;
                if *before == 0 {
                    ready.push_back((follower, rank + 1));
                }
            }
        }
    }
    ranks
}

/// The places of hosts that are changed one after another: those that have what others come after
/// are first. `hosts` are given with their instances, those that are preferred first.
///
/// Each place has one host, or those that wait for one another. An instance waits for others of
/// its own host where they are there, as its agent sees it, and else for those on all other hosts.
/// A host that loses its instances comes last: there is something else then.
#[must_use]
pub fn host_places(
    order: &Order,
    hosts: &[(HostId, BTreeSet<InstanceId>)],
) -> BTreeMap<HostId, u32> {
    let waiting = Waiting::new(order, hosts);
    let (left, leaving): (BTreeSet<usize>, BTreeSet<usize>) =
        (0..hosts.len()).partition(|host| !hosts[*host].1.is_empty());
    let mut groups = waiting.groups(left);
    groups.extend(leaving.into_iter().map(|host| BTreeSet::from([host])));
    let place = |(place, group): (usize, BTreeSet<usize>)| {
        let place = u32::try_from(place).unwrap_or(u32::MAX);
        group.into_iter().map(move |host| (hosts[host].0.clone(), place))
    };
    groups.into_iter().enumerate().flat_map(place).collect()
}

/// Which hosts, by their number, wait for what.
struct Waiting<'a> {
    /// The instances that each host waits for.
    awaited: Vec<BTreeSet<&'a InstanceId>>,
    /// The hosts of each instance.
    on: BTreeMap<&'a InstanceId, BTreeSet<usize>>,
}

impl<'a> Waiting<'a> {
    fn new(order: &'a Order, hosts: &'a [(HostId, BTreeSet<InstanceId>)]) -> Self {
        let mut on: BTreeMap<&InstanceId, BTreeSet<usize>> = BTreeMap::new();
        for (number, (_, there)) in hosts.iter().enumerate() {
            there.iter().for_each(|id| {
                on.entry(id).or_default().insert(number);
            });
        }
        let awaited = |there: &'a BTreeSet<InstanceId>| {
            let after = there.iter().filter_map(|id| order.get(id)).flatten();
            after.filter(|id| !there.contains(*id) && on.contains_key(id)).collect()
        };
        let awaited = hosts.iter().map(|(_, there)| awaited(there)).collect();
        Self { awaited, on }
    }

    /// The hosts that `host` waits for.
    fn before(&self, host: usize) -> impl Iterator<Item = usize> {
        self.awaited[host].iter().filter_map(|id| self.on.get(*id)).flatten().copied()
    }

    /// `left` in an order in which none waits for one that comes later, but for its own group.
    fn groups(&self, mut left: BTreeSet<usize>) -> Vec<BTreeSet<usize>> {
        // Instances that are still to come, with the number of their hosts.
        let mut missing: BTreeMap<&InstanceId, usize> =
            self.on.iter().map(|(id, on)| (*id, on.len())).collect();
        let mut followers: BTreeMap<&InstanceId, Vec<usize>> = BTreeMap::new();
        for (host, awaited) in self.awaited.iter().enumerate() {
            awaited.iter().for_each(|id| followers.entry(id).or_default().push(host));
        }
        let mut awaits: Vec<usize> = self.awaited.iter().map(BTreeSet::len).collect();
        let mut ready: BTreeSet<usize> = left.iter().copied().filter(|h| awaits[*h] == 0).collect();
        let mut groups = Vec::new();
        while let Some(first) = left.first().copied() {
            let group = match ready.pop_first() {
                Some(host) => BTreeSet::from([host]),
                None => self.ring(first, &left),
            };
            for host in &group {
                left.remove(host);
                for (id, _) in self.on.iter().filter(|(_, on)| on.contains(host)) {
                    let Some(count) = missing.get_mut(id) else { continue };
                    *count -= 1;
                    if *count == 0 {
                        for follower in followers.get(id).into_iter().flatten() {
                            awaits[*follower] -= 1;
                            if awaits[*follower] == 0 && left.contains(follower) {
                                ready.insert(*follower);
                            }
                        }
                    }
                }
            }
            groups.push(group);
        }
        groups
    }

    /// Hosts of `left` that wait for one another and for no further ones.
    fn ring(&self, mut host: usize, left: &BTreeSet<usize>) -> BTreeSet<usize> {
        loop {
            let all = self.all_before(host, left);
            // One that does not wait for this one is nearer to the beginning.
            match all.iter().find(|other| !self.all_before(**other, left).contains(&host)) {
                Some(nearer) => host = *nearer,
                None => return all,
            }
        }
    }

    /// `host`, and the hosts of `left` that it waits for, directly or not.
    fn all_before(&self, host: usize, left: &BTreeSet<usize>) -> BTreeSet<usize> {
        let (mut all, mut queue) = (BTreeSet::from([host]), VecDeque::from([host]));
        while let Some(at) = queue.pop_front() {
            for before in self.before(at).filter(|before| left.contains(before)) {
                if all.insert(before) {
                    queue.push_back(before);
                }
            }
        }
        all
    }
}

/// The shortest way from `id` back to itself.
fn ring<'a>(id: &'a InstanceId, order: &'a Order) -> Option<Vec<&'a InstanceId>> {
    // By which instance each was reached first.
    let mut by: BTreeMap<&InstanceId, &InstanceId> = BTreeMap::new();
    let mut queue = VecDeque::from([id]);
    while let Some(at) = queue.pop_front() {
        for next in order.get(at).into_iter().flatten() {
            if by.contains_key(next) {
                continue;
            }
            by.insert(next, at);
            if next == id {
                let mut ring: Vec<&InstanceId> = vec![id];
                let mut back = at;
                while back != id {
                    ring.push(back);
                    back = by[back];
                }
                ring.push(id);
                ring.reverse();
                return Some(ring);
            }
            queue.push_back(next);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::tests_support::{fleet, id};

    /// A fleet `a` of instances that come after others.
    fn ordered(instances: &[(&str, &[&str])]) -> FleetSpec {
        let mut spec = fleet("a", &[]);
        for (name, after) in instances {
            let mut one = fleet("a", &[(name, "*")]);
            let (name, mut declared) = one.instances.pop_first().unwrap();
            declared.settings.after = after.iter().map(|text| id(text)).collect();
            spec.instances.insert(name, declared);
        }
        spec
    }

    fn order(others: &[(&str, &[&str])]) -> Order {
        let after = |after: &&[&str]| after.iter().map(|text| id(text)).collect();
        others.iter().map(|(name, names)| (id(name), after(names))).collect()
    }

    fn told(instances: &[(&str, &[&str])], others: Option<&[(&str, &[&str])]>) -> Vec<String> {
        let others = others.map(order);
        let problems = misordered(&ordered(instances), others.as_ref());
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_there_may_be_named() {
        let own: &[(&str, &[&str])] = &[("app", &["a/db", "infra/sql"]), ("db", &[])];
        assert_eq!(told(own, Some(&[("infra/sql", &[])])), [""; 0]);
        assert_eq!(told(own, None), [""; 0], "others can't be judged offline");
    }

    #[test]
    fn what_is_not_there_is_named_with_what_is_near() {
        let own: &[(&str, &[&str])] = &[("app", &["a/bd", "infra/slq", "x/y"]), ("db", &[])];
        let problems = told(own, Some(&[("infra/sql", &[])]));
        let wanted = [
            "instance app: `after` names a/bd, and there is no such instance (did you mean a/db?)",
            "instance app: `after` names infra/slq, and there is no such instance (did you mean \
             infra/sql?)",
            "instance app: `after` names x/y, and there is no such instance; fleet x must be",
        ];
        assert_eq!(problems.len(), 3, "{problems:#?}");
        for (problem, wanted) in problems.iter().zip(wanted) {
            assert!(problem.starts_with(wanted), "{problem}");
        }
        assert_eq!(told(own, None).len(), 1, "its own are judged offline");
    }

    #[test]
    fn a_ring_is_shown_whole_and_once() {
        let problems = told(&[("x", &["a/y"]), ("y", &["a/x"]), ("z", &["a/x"])], None);
        assert_eq!(problems.len(), 1, "{problems:#?}");
        assert!(problems[0].contains("start: a/x after a/y after a/x; take"), "{problems:?}");
        let own = told(&[("x", &["a/x"])], None);
        assert!(own[0].contains(": a/x after a/x;"), "{own:?}");
    }

    #[test]
    fn a_ring_may_lead_through_other_fleets() {
        let others: &[(&str, &[&str])] = &[("b/u", &["b/v"]), ("b/v", &["a/x"])];
        let problems = told(&[("x", &["b/u"])], Some(others));
        assert!(problems[0].contains("a/x after b/u after b/v after a/x"), "{problems:?}");
        let theirs: &[(&str, &[&str])] = &[("b/u", &["b/v"]), ("b/v", &["b/u"])];
        assert_eq!(told(&[("x", &["b/u"])], Some(theirs)), [""; 0], "it is not in that ring");
    }

    #[test]
    fn ranks_are_the_longest_ways() {
        let order = order(&[
            ("a/app", &["a/db", "a/cache"]),
            ("a/cache", &["a/db"]),
            ("a/db", &["b/gone"]),
            ("a/ring", &["a/ring"]),
        ]);
        let ranks = ranks(&order);
        let ranks: Vec<(String, usize)> =
            ranks.iter().map(|(id, r)| (id.to_string(), *r)).collect();
        let wanted = [("a/app", 2), ("a/cache", 1), ("a/db", 0)];
        assert_eq!(ranks, wanted.map(|(id, rank)| (id.to_owned(), rank)));
    }

    /// The hosts by place: `h1`, or `h1+h2` where they share one.
    fn placed(hosts: &[(&str, &[&str])], orders: &[(&str, &[&str])]) -> Vec<String> {
        let there = |(host, names): &(&str, &[&str])| {
            (host.parse().unwrap(), names.iter().map(|name| id(name)).collect())
        };
        let hosts: Vec<(HostId, BTreeSet<InstanceId>)> = hosts.iter().map(there).collect();
        let mut places: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        for (host, place) in host_places(&order(orders), &hosts) {
            places.entry(place).or_default().push(host.to_string());
        }
        assert!(places.keys().copied().eq(0..u32::try_from(places.len()).unwrap()));
        places.into_values().map(|hosts| hosts.join("+")).collect()
    }

    #[test]
    fn hosts_of_what_others_come_after_are_first() {
        let orders: &[(&str, &[&str])] =
            &[("a/app", &["a/db"]), ("a/web", &["a/app", "b/else"]), ("a/db", &[])];
        let hosts: &[(&str, &[&str])] = &[
            ("w", &["a/web"]),
            ("gone", &[]),
            ("x", &["a/app"]),
            ("d2", &["a/db"]),
            ("d1", &["a/db"]),
        ];
        assert_eq!(placed(hosts, orders), ["d2", "d1", "x", "w", "gone"]);
    }

    #[test]
    fn what_is_on_the_same_host_is_waited_for_there() {
        let orders: &[(&str, &[&str])] = &[("a/app", &["a/db"])];
        let both: &[&str] = &["a/app", "a/db"];
        assert_eq!(placed(&[("h1", both), ("h2", both)], orders), ["h1", "h2"]);
        assert_eq!(placed(&[("h1", &["a/app"]), ("h2", both)], orders), ["h2", "h1"]);
    }

    #[test]
    fn hosts_that_wait_for_one_another_share_a_place() {
        let orders: &[(&str, &[&str])] =
            &[("a/x", &["a/y"]), ("a/u", &["a/v"]), ("a/late", &["a/x"]), ("a/v", &["a/early"])];
        let hosts: &[(&str, &[&str])] = &[
            ("h0", &["a/late"]),
            ("h1", &["a/x", "a/v"]),
            ("h2", &["a/u", "a/y"]),
            ("h3", &["a/early"]),
            ("h4", &["a/other"]),
            ("h5", &[]),
        ];
        assert_eq!(placed(hosts, orders), ["h3", "h4", "h1+h2", "h0", "h5"]);
        let ends: &[(&str, &[&str])] =
            &[("h0", &["a/late"]), ("h1", hosts[1].1), ("h2", hosts[2].1)];
        assert_eq!(placed(ends, orders), ["h1+h2", "h0"]);
    }

    #[test]
    fn many_hosts_are_no_trouble() {
        let names: Vec<String> = (0..2000).map(|n| format!("h{n:04}")).collect();
        let kind = |n: usize| -> &[&str] { if n < 1000 { &["a/app"] } else { &["a/db"] } };
        let hosts: Vec<(&str, &[&str])> =
            names.iter().enumerate().map(|(n, name)| (name.as_str(), kind(n))).collect();
        let places = placed(&hosts, &[("a/app", &["a/db"])]);
        assert_eq!((places[0].as_str(), places[1000].as_str()), ("h1000", "h0000"));
    }

    #[test]
    fn a_long_chain_is_no_ring() {
        let names: Vec<String> = (0..2000).map(|n| format!("a/i{n}")).collect();
        let mut order = Order::new();
        for pair in names.windows(2) {
            order.insert(id(&pair[0]), [id(&pair[1])].into());
        }
        assert_eq!(ring(&id("a/i0"), &order), None);
        order.insert(id("a/i1999"), [id("a/i0")].into());
        let (start, whole) = (id("a/i0"), ring(&id("a/i0"), &order).unwrap().len());
        assert_eq!(ring(&start, &order).unwrap()[0], &start);
        assert_eq!(whole, 2001);
    }
}
