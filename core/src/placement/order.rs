//! What comes after what: that it is there, and that there is a first.
//!
//! Also of use without any controller: what a fleet says of its own instances can be judged
//! alone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::Unplaceable;
use crate::fleet::FleetSpec;
use crate::name::InstanceId;

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
