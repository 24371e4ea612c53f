//! Forward: batch by batch, each staged, changed, proved and watched.

use super::observe::{Observation, look};
use super::{
    Action, HoldKind, HostProgress, LONGEST_HOLD, Offline, OnFailure, Outcome, Promote, Rollout,
    State, back, batch,
};
use crate::name::HostId;
use crate::time::Timestamp;

/// Decisions that one look may lead to, one after the other; there is always an end before.
const MOST_DECISIONS: usize = 64;

/// What is to be done now. The controller does each and notes it by [`staging`], [`told`] or
/// [`returned`], in one transaction with the host's new desired state.
#[must_use]
pub fn actions(rollout: &Rollout) -> Vec<Action> {
    if rollout.state.is_final() || rollout.hold.is_some() {
        return vec![];
    }
    let lacks_images =
        |host: &HostProgress| !host.staged && host.staging.is_none() && !is_over(host);
    let current = |host: &HostProgress| rollout.batch > 0 && host.batch == Some(rollout.batch);
    let hosts = rollout.hosts.iter();
    let action = |(id, host): (&HostId, &HostProgress)| match rollout.state {
        State::RollingBack => {
            let chosen = host.returning && host.back.is_none();
            chosen.then(|| Action::Return(id.clone()))
        }
        State::Changing if current(host) && host.generation.is_none() => {
            Some(Action::Change(id.clone()))
        }
        State::Staging if current(host) && lacks_images(host) => Some(Action::Stage(id.clone())),
        _ if rollout.policy.stage_ahead && host.generation.is_none() && lacks_images(host) => {
            Some(Action::Stage(id.clone()))
        }
        _ => None,
    };
    let mut actions: Vec<(u32, Action)> =
        hosts.filter_map(|host| Some((host.1.place, action(host)?))).collect();
    actions.sort_by_key(|(place, _)| *place);
    actions.into_iter().map(|(_, action)| action).collect()
}

/// The rollout after `host` was asked for the images in `generation` of its desired state.
#[must_use]
pub fn staging(mut rollout: Rollout, host: &HostId, generation: u64, now: Timestamp) -> Rollout {
    if let Some(host) = rollout.hosts.get_mut(host) {
        host.staging = Some(generation);
        host.since = Some(now);
    }
    rollout
}

/// The rollout after `host` was given the revision in `generation` of its desired state.
#[must_use]
pub fn told(mut rollout: Rollout, host: &HostId, generation: u64, now: Timestamp) -> Rollout {
    if let Some(host) = rollout.hosts.get_mut(host) {
        host.generation = Some(generation);
        host.since = Some(now);
        if host.outcome != Outcome::Offline {
            host.outcome = Outcome::Changing("waits for the agent".into());
        }
    }
    rollout
}

/// The rollout after `host` was given the revision before in `generation` of its desired state.
#[must_use]
pub fn returned(mut rollout: Rollout, host: &HostId, generation: u64, now: Timestamp) -> Rollout {
    if let Some(host) = rollout.hosts.get_mut(host) {
        host.back = Some(generation);
        host.since = Some(now);
        host.failing_since = None;
        if host.outcome != Outcome::Offline {
            host.outcome = Outcome::GoingBack("waits for the agent".into());
        }
    }
    rollout
}

/// The rollout after looking at its hosts. `observe` gives what is known of each.
#[must_use]
pub fn step<'a>(
    mut rollout: Rollout,
    observe: impl Fn(&HostId) -> Observation<'a>,
    now: Timestamp,
) -> Rollout {
    if rollout.state.is_final() {
        return rollout;
    }
    look(&mut rollout, observe, now);
    for _ in 0..MOST_DECISIONS {
        let before = (rollout.state, rollout.batch, rollout.hold.clone(), rollout.ready_since);
        decide(&mut rollout, now);
        let after = (rollout.state, rollout.batch, rollout.hold.clone(), rollout.ready_since);
        if rollout.state.is_final() || before == after {
            break;
        }
    }
    rollout
}

fn decide(rollout: &mut Rollout, now: Timestamp) {
    if now >= rollout.deadline {
        return overdue(rollout, now);
    }
    let kind = rollout.hold.as_ref().map(|hold| hold.kind);
    if matches!(kind, Some(HoldKind::Operator | HoldKind::Failure)) {
        return;
    }
    if rollout.state == State::RollingBack {
        return back::decide(rollout, now);
    }
    fail_the_late(rollout, now);
    if let Some(cause) = too_many_failed(rollout) {
        return failed(rollout, cause, now);
    }
    if kind.is_some() && !reopened(rollout, now) {
        return;
    }
    match rollout.state {
        State::Planned => begin(rollout, now),
        State::Staging if is_staged(rollout) => rollout.state = State::Changing,
        State::Changing if is_settled(rollout) => {
            rollout.state = State::Monitoring;
            rollout.ready_since = Some(now);
        }
        State::Monitoring if !is_settled(rollout) => {
            rollout.state = State::Changing;
            rollout.ready_since = None;
        }
        State::Monitoring => monitor(rollout, now),
        State::Waiting if rollout.hosts.values().all(is_over) => {
            begin(rollout, now);
        }
        _ => {}
    }
}

fn monitor(rollout: &mut Rollout, now: Timestamp) {
    // A clock that was set back makes nobody wait for longer than the monitor time.
    let since = rollout.ready_since.filter(|since| *since <= now).unwrap_or(now);
    rollout.ready_since = Some(since);
    // Where nothing was disturbed there is nothing to watch.
    let disturbed = rollout.current().any(|(_, host)| !host.kept);
    if disturbed && now.since(since) < rollout.policy.monitor {
        return;
    }
    if has_proof(rollout) {
        rollout.proofs += 1;
    }
    begin(rollout, now);
}

/// Whether what held the rollout is over; it goes on then.
fn reopened(rollout: &mut Rollout, now: Timestamp) -> bool {
    let window = rollout.hold.as_ref().is_some_and(|hold| hold.kind == HoldKind::Window);
    let open = window && is_open(rollout, now);
    if open {
        rollout.release(now);
    }
    open
}

fn is_open(rollout: &Rollout, now: Timestamp) -> bool {
    let windows = &rollout.policy.windows;
    windows.is_empty() || windows.iter().any(|window| window.is_open(now))
}

/// Calls those failed that took too long.
fn fail_the_late(rollout: &mut Rollout, now: Timestamp) {
    let (change, stage) = (rollout.policy.batch_timeout, rollout.timeout / 2);
    for host in rollout.hosts.values_mut() {
        let Some(since) = host.since else { continue };
        let late = |patience| now.since(since) >= patience;
        host.outcome = match &host.outcome {
            Outcome::Changing(why) if late(change) => {
                Outcome::Failed(format!("not ready within {}: {why}", shown(change)))
            }
            Outcome::Staging if late(stage) => {
                Outcome::Failed(format!("its images did not arrive within {}", shown(stage)))
            }
            _ => continue,
        };
    }
}

fn shown(time: std::time::Duration) -> String {
    match time.as_secs() {
        0 => format!("{} ms", time.as_millis()),
        seconds if seconds % 60 == 0 => format!("{} min", seconds / 60),
        seconds => format!("{seconds} s"),
    }
}

/// Why no further host is to be changed. A host on which nothing was disturbed says nothing about
/// the revision.
fn too_many_failed(rollout: &Rollout) -> Option<String> {
    let changed = || rollout.hosts.values().filter(|host| !host.kept);
    let failed: Vec<&str> = changed().filter_map(failure).collect();
    let most = usize::try_from(rollout.policy.max_failures).unwrap_or(usize::MAX);
    let unproved = !rollout.is_proved() && !has_proof(rollout) && is_settled(rollout);
    if let Some(first) = failed.first()
        && (failed.len() > most || unproved)
    {
        return Some(match failed.len() {
            1 => (*first).to_owned(),
            count => format!("{count} hosts failed, the first with: {first}"),
        });
    }
    let lost = changed().filter(|host| host.lost && host.outcome == Outcome::Offline).count();
    let why = "hosts went offline after they were changed, and none has proved the revision";
    (lost > 1 && unproved).then(|| format!("{lost} {why}"))
}

fn failure(host: &HostProgress) -> Option<&str> {
    match &host.outcome {
        Outcome::Failed(why) => Some(why),
        _ => None,
    }
}

fn failed(rollout: &mut Rollout, cause: String, now: Timestamp) {
    if rollout.policy.on_failure == OnFailure::Pause {
        rollout.hold(HoldKind::Failure, cause.clone(), now.after(LONGEST_HOLD), now);
        rollout.cause = Some(cause);
        return;
    }
    if rollout.go_back(cause.clone(), now) {
        return;
    }
    // Nothing to go back to: no further host is changed, and those under way have their end.
    rollout.cause = Some(cause);
    let under_way = |host: &HostProgress| matches!(host.outcome, Outcome::Changing(_));
    if !rollout.hosts.values().any(under_way) {
        rollout.end(State::Failed, now);
    }
}

fn overdue(rollout: &mut Rollout, now: Timestamp) {
    let is = |is: fn(&Outcome) -> bool| rollout.hosts.values().any(|host| is(&host.outcome));
    let failed = is(|outcome| matches!(outcome, Outcome::Failed(_)));
    let under_way = is(|outcome| matches!(outcome, Outcome::Changing(_)));
    let only_offline = rollout
        .hosts
        .values()
        .all(|host| matches!(host.outcome, Outcome::Ready | Outcome::Offline));
    if rollout.state == State::RollingBack {
        let cause = rollout.cause.take().unwrap_or_default();
        rollout.cause = Some(format!("{cause}; going back took longer than it may"));
        return rollout.end(State::Failed, now);
    }
    if rollout.hold.is_none() {
        if only_offline {
            return rollout.end(State::Partial, now);
        }
        let rollback = rollout.policy.on_failure == OnFailure::Rollback && (failed || under_way);
        if rollback && rollout.go_back("it was not ready by its deadline".into(), now) {
            return;
        }
    }
    let held = rollout.hold.as_ref().map(|hold| format!("nobody let it go on: {}", hold.why));
    rollout.cause = rollout.cause.take().or(held);
    rollout.end(if failed { State::Failed } else { State::TimedOut }, now);
}

/// Begins the next batch, or ends the rollout where there is none.
fn begin(rollout: &mut Rollout, now: Timestamp) {
    let chosen = batch::next(rollout);
    if chosen.is_empty() {
        return finish(rollout, now);
    }
    if needs_promotion(rollout) {
        let why = format!("batch {} is healthy; `promote` begins the next", rollout.batch);
        rollout.state = State::Planned;
        return rollout.hold(HoldKind::Promotion, why, now.after(LONGEST_HOLD), now);
    }
    if !is_open(rollout, now) {
        let opens = rollout.policy.windows.iter().map(|window| window.opens(now)).min();
        let why = "no maintenance window is open".to_owned();
        rollout.state = State::Planned;
        return rollout.hold(HoldKind::Window, why, opens.unwrap_or(now), now);
    }
    rollout.batch += 1;
    rollout.ready_since = None;
    let number = rollout.batch;
    for (id, host) in &mut rollout.hosts {
        if chosen.contains(id) {
            host.batch = Some(number);
        }
    }
    rollout.state = State::Staging;
}

fn needs_promotion(rollout: &Rollout) -> bool {
    let wanted = match rollout.policy.promote {
        Promote::Auto => false,
        Promote::Canary => rollout.batch == 1,
        Promote::Each => rollout.batch > 0,
    };
    wanted && rollout.promoted < rollout.batch
}

/// Whether all hosts of the batch that can be reached have their images.
fn is_staged(rollout: &Rollout) -> bool {
    rollout.current().all(|(_, host)| host.staged || is_over(host))
}

/// Whether the hosts of the batch were told, and nothing more is awaited of them.
fn is_settled(rollout: &Rollout) -> bool {
    rollout.batch > 0 && rollout.current().all(|(_, host)| was_tried(host) && is_over(host))
}

fn was_tried(host: &HostProgress) -> bool {
    host.generation.is_some() || matches!(host.outcome, Outcome::Failed(_))
}

/// Whether nothing more is awaited of a host. One that is offline delays only itself.
fn is_over(host: &HostProgress) -> bool {
    matches!(host.outcome, Outcome::Ready | Outcome::Failed(_) | Outcome::Offline)
}

/// Whether a host of the batch that was really changed is ready.
fn has_proof(rollout: &Rollout) -> bool {
    rollout.current().any(|(_, host)| !host.kept && host.outcome == Outcome::Ready)
}

fn finish(rollout: &mut Rollout, now: Timestamp) {
    let count =
        |is: fn(&Outcome) -> bool| rollout.hosts.values().filter(|h| is(&h.outcome)).count();
    let ready = count(|outcome| *outcome == Outcome::Ready);
    let offline = count(|outcome| *outcome == Outcome::Offline);
    if offline > 0 && rollout.offline == Offline::Wait {
        rollout.state = State::Waiting;
        return;
    }
    let failed = rollout.hosts.values().find_map(failure).map(ToOwned::to_owned);
    let state = match (ready, &failed) {
        (ready, _) if ready == rollout.hosts.len() => State::Completed,
        (0, Some(_)) => State::Failed,
        _ => State::Partial,
    };
    rollout.cause = rollout.cause.take().or(failed);
    rollout.end(state, now);
}
