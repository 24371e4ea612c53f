//! Which hosts are next.

use std::collections::{BTreeMap, BTreeSet};

use super::{HostProgress, Outcome, Rollout};
use crate::name::HostId;

/// The hosts of the next batch, of those that were not told yet: those that are online as far as
/// there are any, else those that are not. With them go the hosts that nothing is disturbed on.
/// Empty where all were told.
pub(super) fn next(rollout: &Rollout) -> BTreeSet<HostId> {
    let failed = |host: &HostProgress| matches!(host.outcome, Outcome::Failed(_));
    let untold = || {
        let hosts = rollout.hosts.iter();
        hosts.filter(|(_, host)| host.generation.is_none() && !failed(host))
    };
    let pool: Vec<_> = untold().filter(|(_, host)| !host.kept).collect();
    let kept = untold().filter(|(_, host)| host.kept).map(|(id, _)| id.clone());
    let is_offline = |host: &HostProgress| host.outcome == Outcome::Offline;
    let (offline, online): (Vec<_>, Vec<_>) = pool.into_iter().partition(|(_, h)| is_offline(h));
    let chosen = match (online.is_empty(), rollout.is_proved()) {
        (false, _) => choose(rollout, &online, size(rollout)),
        // They take it when they return, each behind the gate of its own agent.
        (true, true) => offline.into_iter().map(|(id, _)| id.clone()).collect(),
        (true, false) if offline_told(rollout) => vec![],
        (true, false) => choose(rollout, &offline, size(rollout)),
    };
    chosen.into_iter().chain(kept).collect()
}

/// Whether a host was told and is offline: while nothing is proved, no further one is.
fn offline_told(rollout: &Rollout) -> bool {
    let told = rollout.hosts.values().filter(|host| host.generation.is_some());
    told.filter(|host| !host.kept).any(|host| host.outcome == Outcome::Offline)
}

/// How many hosts the next batch has, at least 1.
fn size(rollout: &Rollout) -> usize {
    let counted = || rollout.hosts.values().filter(|host| !host.kept);
    let told = counted().filter(|host| host.generation.is_some()).count();
    let proofs = usize::try_from(rollout.proofs).unwrap_or(usize::MAX);
    let all = counted().count();
    // Of a small fleet several shares are the same hosts, and one batch.
    let mut reaches: Vec<usize> = rollout.policy.batches.iter().map(|r| r.of(all)).collect();
    reaches.dedup();
    let reach = reaches.get(proofs).copied().unwrap_or(all);
    if rollout.is_proved() { reach.saturating_sub(told).max(1) } else { reach.max(1) }
}

/// The first `size` of `pool` by their place, in whole places, and spread.
pub(super) fn choose(
    rollout: &Rollout,
    pool: &[(&HostId, &HostProgress)],
    size: usize,
) -> Vec<HostId> {
    let mut places: BTreeMap<u32, Vec<(&HostId, &HostProgress)>> = BTreeMap::new();
    for (id, host) in pool {
        places.entry(host.place).or_default().push((id, host));
    }
    let mut spread = Spread::new(rollout);
    let mut chosen: Vec<HostId> = Vec::new();
    for together in places.into_values() {
        let fits = chosen.len() + together.len() <= size && spread.takes(&together);
        if chosen.is_empty() || fits {
            spread.take(&together);
            chosen.extend(together.into_iter().map(|(id, _)| id.clone()));
        }
        if chosen.len() >= size {
            break;
        }
    }
    chosen
}

/// How many hosts of each value of the label a batch may take, and has taken.
struct Spread<'a> {
    left: BTreeMap<&'a str, usize>,
}

impl<'a> Spread<'a> {
    fn new(rollout: &'a Rollout) -> Self {
        let mut all: BTreeMap<&str, usize> = BTreeMap::new();
        for value in rollout.hosts.values().filter_map(|host| host.spread.as_deref()) {
            *all.entry(value).or_default() += 1;
        }
        // Of a single one there is no part to take.
        let left = all.into_iter().map(|(value, count)| (value, count.max(2) - 1)).collect();
        Self { left }
    }

    fn takes(&self, hosts: &[(&HostId, &'a HostProgress)]) -> bool {
        let mut wanted: BTreeMap<&str, usize> = BTreeMap::new();
        for value in hosts.iter().filter_map(|(_, host)| host.spread.as_deref()) {
            *wanted.entry(value).or_default() += 1;
        }
        wanted.into_iter().all(|(value, count)| count <= self.left.get(value).copied().unwrap_or(0))
    }

    fn take(&mut self, hosts: &[(&HostId, &'a HostProgress)]) {
        for value in hosts.iter().filter_map(|(_, host)| host.spread.as_deref()) {
            let left = self.left.entry(value).or_default();
            *left = left.saturating_sub(1);
        }
    }
}
