//! Back: what is broken first and at once, what works batch by batch, each proved before the next.
//! Where going back does not help, what works is left alone.

use super::{HostProgress, Outcome, Reach, Rollout, State, batch};
use crate::name::HostId;
use crate::time::Timestamp;

/// Decides what goes back next, or that all is back.
pub(super) fn decide(rollout: &mut Rollout, now: Timestamp) {
    fail_the_late(rollout, now);
    let told = |host: &HostProgress| host.returning && host.back.is_none();
    let on_its_way = |host: &HostProgress| matches!(host.outcome, Outcome::GoingBack(_));
    if rollout.hosts.values().any(|host| told(host) || on_its_way(host)) {
        return;
    }
    go_on(rollout, now);
}

/// At its deadline it has ended, well where nothing is awaited but hosts that are offline.
pub(super) fn overdue(rollout: &mut Rollout, now: Timestamp) {
    let awaited = |host: &HostProgress| match host.outcome {
        Outcome::GoingBack(_) => host.back.is_none() || host.offline_since.is_none(),
        _ => host.generation.is_some() && host.back.is_none(),
    };
    if !rollout.hosts.values().any(awaited) {
        return finish(rollout, now);
    }
    let cause = rollout.cause.take().unwrap_or_default();
    rollout.cause = Some(format!("{cause}; going back took longer than it may"));
    rollout.end(State::Failed, now);
}

fn go_on(rollout: &mut Rollout, now: Timestamp) {
    let chosen = next(rollout);
    if chosen.is_empty() {
        return finish(rollout, now);
    }
    for host in chosen {
        if let Some(host) = rollout.hosts.get_mut(&host) {
            host.returning = true;
        }
    }
}

/// Those that don't work first, all of them: nothing is lost with them. Then those that do, as
/// long as the revision before works.
fn next(rollout: &Rollout) -> Vec<HostId> {
    let changed = rollout.hosts.iter().filter(|(_, h)| h.generation.is_some() && !h.returning);
    let (working, broken): (Vec<_>, Vec<_>) =
        changed.partition(|(_, host)| host.outcome == Outcome::Ready && !host.kept);
    if !broken.is_empty() {
        return broken.into_iter().map(|(id, _)| id.clone()).collect();
    }
    let most = usize::try_from(rollout.policy.max_failures).unwrap_or(usize::MAX);
    if working.is_empty() || stuck(rollout).count() > most {
        return vec![];
    }
    let worked = |host: &&HostProgress| host.generation.is_some() && !host.kept;
    let all = rollout.hosts.values().filter(worked).count();
    let back = all - working.len();
    let reaches = rollout.policy.batches.iter().map(|reach| reach.of(all));
    let reach = reaches.chain([Reach::ALL.of(all)]).find(|reach| *reach > back);
    batch::choose(rollout, &working, reach.map_or(1, |reach| reach - back))
}

fn fail_the_late(rollout: &mut Rollout, now: Timestamp) {
    let patience = rollout.policy.batch_timeout;
    for host in rollout.hosts.values_mut() {
        let (Outcome::GoingBack(why), Some(since)) = (&host.outcome, host.since) else { continue };
        let awaited = host.back.is_some() && host.offline_since.is_none();
        if awaited && now.since(since) >= patience {
            host.outcome = Outcome::Failed(format!("did not get back in time: {why}"));
        }
    }
}

/// Why those could not go back that could not. A host on which nothing was disturbed is none.
fn stuck(rollout: &Rollout) -> impl Iterator<Item = &String> {
    rollout.hosts.values().filter_map(|host| match &host.outcome {
        Outcome::Failed(why) if host.back.is_some() && !host.kept => Some(why),
        _ => None,
    })
}

fn finish(rollout: &mut Rollout, now: Timestamp) {
    let Some(why) = stuck(rollout).next().cloned() else {
        return rollout.end(State::RolledBack, now);
    };
    let left = |host: &&HostProgress| host.generation.is_some() && host.back.is_none();
    let left = match rollout.hosts.values().filter(left).count() {
        0 => String::new(),
        1 => format!("; one host is left at revision {}, which works there", rollout.revision),
        count => {
            format!("; {count} hosts are left at revision {}, which works there", rollout.revision)
        }
    };
    let cause = rollout.cause.take().unwrap_or_default();
    rollout.cause = Some(format!("{cause}; and it could not go back everywhere: {why}{left}"));
    rollout.end(State::Failed, now);
}
