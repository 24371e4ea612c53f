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
    // What has failed with nothing to go back to changes no further host.
    let has_failed = rollout.cause.is_some() && rollout.state != State::RollingBack;
    if rollout.state.is_final() || rollout.hold.is_some() || has_failed {
        return vec![];
    }
    let lacks_images = |host: &HostProgress| awaits_images(host) && host.staging.is_none();
    let current = |host: &HostProgress| rollout.batch > 0 && host.batch == Some(rollout.batch);
    let hosts = rollout.hosts.iter();
    let action = |(id, host): (&HostId, &HostProgress)| match rollout.state {
        State::RollingBack => {
            let chosen = host.returning && host.back.is_none();
            chosen.then(|| Action::Return(id.clone()))
        }
        State::Changing if current(host) && may_be_told(host) => Some(Action::Change(id.clone())),
        State::Staging if current(host) && lacks_images(host) => Some(Action::Stage(id.clone())),
        _ if rollout.policy.stage_ahead && lacks_images(host) => Some(Action::Stage(id.clone())),
        _ => None,
    };
    let mut actions: Vec<(u32, Action)> =
        hosts.filter_map(|host| Some((host.1.place, action(host)?))).collect();
    actions.sort_by_key(|(place, _)| *place);
    actions.into_iter().map(|(_, action)| action).collect()
}

/// Whether a host can be given the revision: it has the images, or is to take it when it returns.
fn may_be_told(host: &HostProgress) -> bool {
    let ready = host.staged || host.outcome == Outcome::Offline;
    host.generation.is_none() && ready && failure(host).is_none()
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
        host.remember_failure();
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
    rollout.cause = None;
    if kind.is_some() && !reopened(rollout, now) {
        return;
    }
    match rollout.state {
        // Behind a gate or window, what the batch before proved must still be so.
        State::Planned if rollout.batch == 0 || is_settled(rollout) => begin(rollout, now),
        State::Staging if is_staged(rollout) => rollout.state = State::Changing,
        // A host came back before it was told.
        State::Changing if rollout.current().any(|(_, host)| awaits_images(host)) => {
            rollout.state = State::Staging;
        }
        State::Changing if is_settled(rollout) => {
            rollout.state = State::Monitoring;
            rollout.ready_since = Some(now);
        }
        State::Monitoring if !is_settled(rollout) => {
            rollout.state = State::Changing;
            rollout.ready_since = None;
        }
        State::Monitoring => monitor(rollout, now),
        State::Waiting if !is_under_way(rollout) => go_on(rollout, now),
        _ => {}
    }
}

/// Goes on once those that came back are ready. Where nothing was proved before, they are watched
/// as the batch that they would have been.
fn go_on(rollout: &mut Rollout, now: Timestamp) {
    let ready = |host: &HostProgress| !host.kept && host.outcome == Outcome::Ready;
    if rollout.is_proved() || !rollout.hosts.values().any(ready) {
        return begin(rollout, now);
    }
    for host in rollout.hosts.values_mut().filter(|host| ready(host)) {
        host.batch = Some(rollout.batch);
    }
    rollout.state = State::Monitoring;
    rollout.ready_since = Some(now);
}

fn monitor(rollout: &mut Rollout, now: Timestamp) {
    // A clock that was set back makes nobody wait for longer than the monitor time.
    let since = rollout.ready_since.filter(|since| *since <= now).unwrap_or(now);
    rollout.ready_since = Some(since);
    // Where nothing was disturbed, or nobody is there, there is nothing to watch.
    if has_proof(rollout) {
        if now.since(since) < rollout.policy.monitor {
            return;
        }
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

/// Calls those failed that took too long. One that is offline is waited for in its own way.
fn fail_the_late(rollout: &mut Rollout, now: Timestamp) {
    let (usual, stage) = (rollout.policy.batch_timeout, rollout.timeout / 2);
    // One that was ready and is not any more was watched meanwhile.
    let watched = usual.saturating_add(rollout.policy.monitor);
    for host in rollout.hosts.values_mut().filter(|host| host.offline_since.is_none()) {
        let Some(since) = host.since else { continue };
        let change = if host.restarts.is_some() { watched } else { usual };
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
    // One canary that vanishes may be bad luck. Those that were offline from the start count with
    // it: nothing is known of them either.
    let told = |host: &&HostProgress| host.generation.is_some() && host.outcome == Outcome::Offline;
    let (gone, lost) = (changed().filter(told).count(), changed().filter(told).any(|h| h.lost));
    let why = "hosts that were changed are offline, and none has proved the revision";
    (lost && gone > 1 && unproved).then(|| format!("{gone} {why}"))
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
    if rollout.state == State::RollingBack {
        return back::overdue(rollout, now);
    }
    if let Some(hold) = &rollout.hold {
        let cause = format!("nobody let it go on: {}", hold.why);
        rollout.cause.get_or_insert(cause);
        let failed = rollout.hosts.values().any(|host| failure(host).is_some());
        return rollout.end(if failed { State::Failed } else { State::TimedOut }, now);
    }
    if reached_all_it_can(rollout, now) {
        return conclude(rollout, now);
    }
    // One that is offline delays only itself.
    let online = || rollout.hosts.values().filter(|host| host.offline_since.is_none());
    let failed = rollout.hosts.values().any(|host| failure(host).is_some());
    let under_way = online().any(|host| matches!(host.outcome, Outcome::Changing(_)));
    let rollback = rollout.policy.on_failure == OnFailure::Rollback && (failed || under_way);
    if rollback && rollout.go_back("it was not ready by its deadline".into(), now) {
        return blame_the_late(rollout);
    }
    let cause = format!("its deadline came before batch {} was through", rollout.batch.max(1));
    rollout.cause.get_or_insert(cause);
    rollout.end(if failed { State::Failed } else { State::TimedOut }, now);
}

/// Keeps which hosts the deadline found not ready, and what was awaited of them.
fn blame_the_late(rollout: &mut Rollout) {
    for host in rollout.hosts.values_mut().filter(|host| host.offline_since.is_none()) {
        if let Outcome::Changing(why) = &host.outcome {
            host.failed = Some(format!("not ready by the deadline: {why}"));
        }
    }
}

/// Whether nothing is left but hosts that are not there, and those that came back late.
fn reached_all_it_can(rollout: &Rollout, now: Timestamp) -> bool {
    let monitor = rollout.policy.monitor;
    let watched = |since: Timestamp| now.since(since) >= monitor;
    let reached = |host: &HostProgress| {
        let told = host.generation.is_some();
        host.outcome == Outcome::Ready || (told && host.offline_since.is_some())
    };
    rollout.state == State::Waiting
        || (rollout.hosts.values().all(reached)
            && (monitor.is_zero() || rollout.ready_since.is_some_and(watched)))
}

/// Begins the next batch, or ends the rollout where there is none.
fn begin(rollout: &mut Rollout, now: Timestamp) {
    let chosen = batch::next(rollout);
    if chosen.is_empty() {
        return finish(rollout, now);
    }
    if needs_promotion(rollout) {
        let said = if has_proof(rollout) { "is healthy" } else { "proved nothing" };
        let why = format!("batch {} {said}; `promote` begins the next", rollout.batch);
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

/// A batch that proved nothing is followed by one as small, behind no gate.
fn needs_promotion(rollout: &Rollout) -> bool {
    match rollout.policy.promote {
        Promote::Auto => false,
        Promote::Canary => rollout.is_proved() && rollout.promoted == 0,
        Promote::Each => rollout.is_proved() && rollout.promoted < rollout.batch,
    }
}

/// Whether all hosts of the batch that can be reached have their images; before the first, all
/// hosts where that is wanted.
fn is_staged(rollout: &Rollout) -> bool {
    let all = rollout.policy.stage_ahead && rollout.batch == 1;
    let meant = |host: &&HostProgress| all || host.batch == Some(rollout.batch);
    !rollout.hosts.values().filter(meant).any(awaits_images)
}

/// Whether a host that can be reached is to get its images before it is told.
fn awaits_images(host: &HostProgress) -> bool {
    host.generation.is_none() && !host.staged && !is_over(host)
}

/// Whether something is awaited of a host that was told.
fn is_under_way(rollout: &Rollout) -> bool {
    rollout.hosts.values().any(|host| host.generation.is_some() && !is_over(host))
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

/// Ends it, once nothing is awaited any more.
fn finish(rollout: &mut Rollout, now: Timestamp) {
    let offline = rollout.hosts.values().any(|host| host.outcome == Outcome::Offline);
    if is_under_way(rollout) || (offline && rollout.offline == Offline::Wait) {
        rollout.state = State::Waiting;
        return;
    }
    conclude(rollout, now);
}

fn conclude(rollout: &mut Rollout, now: Timestamp) {
    let ready = rollout.hosts.values().filter(|host| host.outcome == Outcome::Ready).count();
    let failed = rollout.hosts.values().find_map(failure).map(ToOwned::to_owned);
    let state = match (ready, &failed) {
        (ready, _) if ready == rollout.hosts.len() => State::Completed,
        (0, Some(_)) => State::Failed,
        _ => State::Partial,
    };
    rollout.cause = rollout.cause.take().or(failed);
    rollout.end(state, now);
}
