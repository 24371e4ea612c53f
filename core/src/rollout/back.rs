//! Back: what is broken first and at once, what works batch by batch, each proved before the next.

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

/// Those that don't work first, all of them: nothing is lost with them. Then those that do.
fn next(rollout: &Rollout) -> Vec<HostId> {
    let changed = rollout.hosts.iter().filter(|(_, h)| h.generation.is_some() && !h.returning);
    let (working, broken): (Vec<_>, Vec<_>) =
        changed.partition(|(_, host)| host.outcome == Outcome::Ready && !host.kept);
    if !broken.is_empty() {
        return broken.into_iter().map(|(id, _)| id.clone()).collect();
    }
    if working.is_empty() {
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
        if host.back.is_some() && now.since(since) >= patience {
            host.outcome = Outcome::Failed(format!("did not get back in time: {why}"));
        }
    }
}

fn finish(rollout: &mut Rollout, now: Timestamp) {
    let stuck = rollout.hosts.iter().find_map(|(_, host)| match &host.outcome {
        Outcome::Failed(why) if host.back.is_some() => Some(why.clone()),
        _ => None,
    });
    let Some(stuck) = stuck else { return rollout.end(State::RolledBack, now) };
    let cause = rollout.cause.take().unwrap_or_default();
    rollout.cause = Some(format!("{cause}; and it could not go back everywhere: {stuck}"));
    rollout.end(State::Failed, now);
}
