//! Back: what is broken first and at once, what works batch by batch, each proved before the next.
//! Where going back does not help, what works is left alone.

use super::{FAILURE_PATIENCE, HostProgress, Outcome, Reach, Rollout, State, batch};
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
        _ => host.is_changed() && host.back.is_none(),
    };
    if !rollout.hosts.values().any(awaited) {
        return finish(rollout, now);
    }
    let cause = rollout.cause.take().unwrap_or_default();
    rollout.cause = Some(format!("{cause}; going back took longer than it may"));
    rollout.end(State::Failed, now);
}

fn go_on(rollout: &mut Rollout, now: Timestamp) {
    let chosen = next(rollout, now);
    if chosen.is_empty() {
        if !rollout.hosts.values().any(|host| is_unsure(host, now)) {
            finish(rollout, now);
        }
        return;
    }
    for host in chosen {
        if let Some(host) = rollout.hosts.get_mut(&host) {
            host.returning = true;
        }
    }
}

/// Those that don't work first, all of them: nothing is lost with them. Then those that do, as
/// long as the revision before works. What a rollout before has changed counts as working: nobody
/// has said otherwise.
fn next(rollout: &Rollout, now: Timestamp) -> Vec<HostId> {
    let works = |host: &HostProgress| match host.outcome {
        Outcome::Ready => true,
        Outcome::Offline => false,
        _ => host.generation.is_none(),
    };
    let changed = rollout.hosts.iter().filter(|(_, h)| h.is_changed() && !h.returning);
    let (working, broken): (Vec<_>, Vec<_>) =
        changed.partition(|(_, host)| is_disturbed(host) && (works(host) || is_unsure(host, now)));
    if !broken.is_empty() {
        return broken.into_iter().map(|(id, _)| id.clone()).collect();
    }
    let most = usize::try_from(rollout.policy.max_failures).unwrap_or(usize::MAX);
    let unsure = working.iter().any(|(_, host)| is_unsure(host, now));
    if working.is_empty() || unsure || stuck(rollout).count() > most {
        return vec![];
    }
    let all = rollout.hosts.values().filter(|host| host.is_changed() && is_disturbed(host)).count();
    let back = all - working.len();
    let reaches = rollout.policy.batches.iter().map(|reach| reach.of(all));
    let reach = reaches.chain([Reach::ALL.of(all)]).find(|reach| *reach > back);
    batch::choose(rollout, &working, reach.map_or(1, |reach| reach - back))
}

/// Whether going back changes something on a host.
fn is_disturbed(host: &HostProgress) -> bool {
    !host.kept || host.stray
}

/// Whether a host that was ready has only not been heard of for a moment, as when the controller
/// was restarted. It is waited for: were it taken for broken, all of them would go back at once.
fn is_unsure(host: &HostProgress, now: Timestamp) -> bool {
    let was_ready = host.restarts.is_some() && host.failing_since.is_none() && !host.returning;
    let lately = |since: Timestamp| now.since(since) < FAILURE_PATIENCE;
    was_ready
        && matches!(host.outcome, Outcome::Changing(_))
        && (host.offline_since.is_some() || host.since.is_some_and(lately))
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
        Outcome::Failed(why) if host.back.is_some() && is_disturbed(host) => Some(why),
        _ => None,
    })
}

fn finish(rollout: &mut Rollout, now: Timestamp) {
    let Some(why) = stuck(rollout).next().cloned() else {
        return rollout.end(State::RolledBack, now);
    };
    let left = || rollout.hosts.values().filter(|host| host.is_changed() && host.back.is_none());
    let what = match left().all(|host| host.generation.is_some()) {
        true => format!("left at revision {}, which works there", rollout.revision),
        false => "left as they are".to_owned(),
    };
    let left = match left().count() {
        0 => String::new(),
        1 => format!("; one host is {}", what.replace("they are", "it is")),
        count => format!("; {count} hosts are {what}"),
    };
    let cause = rollout.cause.take().unwrap_or_default();
    rollout.cause = Some(format!("{cause}; and it could not go back everywhere: {why}{left}"));
    rollout.end(State::Failed, now);
}
