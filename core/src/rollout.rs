//! Moving a fleet to a revision: a pure state machine that the controller drives.
//!
//! All hosts change in one batch for now; batches, monitor times and going back take their place
//! as further states. Deliberately absent: a clock, a store, and success without proof.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::name::{FleetName, HostId};
use crate::status::{HostStatus, Verdict};
use crate::time::Timestamp;

/// One move of a fleet to one of its revisions. Its identity is (fleet, revision).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// The fleet.
    pub fleet: FleetName,
    /// The revision that it moves to.
    pub revision: u64,
    /// Where it is.
    pub state: State,
    /// Every host that it changes.
    pub hosts: BTreeMap<HostId, HostProgress>,
    /// When it began.
    pub started: Timestamp,
    /// When it ends at the latest, whatever happens.
    pub deadline: Timestamp,
    /// When it ended.
    pub ended: Option<Timestamp>,
}

/// Where a rollout is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Made, nothing changed yet.
    Planned,
    /// Hosts have been told, or are about to be.
    Changing,
    /// Every host proved healthy at the revision.
    Completed,
    /// Every host that could be reached did; the others are named and catch up by themselves.
    Partial,
    /// An instance could not be brought up.
    Failed,
    /// The deadline came first.
    TimedOut,
    /// A newer revision took its place.
    Superseded,
}

impl State {
    /// Whether nothing more will happen.
    #[must_use]
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Planned | Self::Changing)
    }
}

/// How far one host is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostProgress {
    /// The generation of the host's desired state that carries the revision; `None` until the
    /// host was told.
    pub generation: Option<u64>,
    /// What is known of it.
    pub outcome: Outcome,
    /// Since when instances there have failed, without all being ready in between.
    pub failing_since: Option<Timestamp>,
}

impl HostProgress {
    /// A host that was not told yet.
    #[must_use]
    pub fn pending() -> Self {
        Self { generation: None, outcome: Outcome::Pending, failing_since: None }
    }
}

/// What is known of one host in a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Not told yet.
    Pending,
    /// Told; the text says what is awaited.
    Changing(String),
    /// Every instance of the fleet there proved healthy at the revision.
    Ready,
    /// The agent is not connected; the host catches up when it returns.
    Offline,
    /// An instance there could not be brought up; the text names it and says why.
    Failed(String),
}

/// What is known of a host at the moment.
#[derive(Debug, Clone, Copy)]
pub struct Observation<'a> {
    /// Whether its agent is connected.
    pub online: bool,
    /// Its last status.
    pub status: Option<&'a HostStatus>,
}

/// How long after its first failure an instance that fails again is called failed: agents try
/// again by themselves, and a service that needs two attempts at boot is no failure.
pub const FAILURE_PATIENCE: Duration = Duration::from_secs(15);

/// What a rollout asks the controller to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Put the revision into the desired state of this host.
    Change(HostId),
}

/// The hosts that have yet to be told. The controller records a generation for each by
/// [`told`], in one transaction with the host's new desired state.
#[must_use]
pub fn actions(rollout: &Rollout) -> Vec<Action> {
    if rollout.state.is_final() {
        return vec![];
    }
    let untold = rollout.hosts.iter().filter(|(_, progress)| progress.generation.is_none());
    untold.map(|(host, _)| Action::Change(host.clone())).collect()
}

/// The rollout after `host` was given the revision in `generation` of its desired state.
#[must_use]
pub fn told(mut rollout: Rollout, host: &HostId, generation: u64) -> Rollout {
    rollout.state = State::Changing;
    if let Some(progress) = rollout.hosts.get_mut(host) {
        progress.generation = Some(generation);
        progress.outcome = Outcome::Changing("waits for the agent".into());
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
    for (host, progress) in &mut rollout.hosts {
        if let Some(generation) = progress.generation {
            let outcome = outcome(&rollout.fleet, generation, observe(host));
            note(progress, outcome, now);
        }
    }
    if let Some(end) = end(&rollout, now) {
        rollout.state = end;
        rollout.ended = Some(now);
    }
    rollout
}

/// Takes a host's outcome; a failure counts only when it has lasted. Being started once more is
/// no end of it: what fails over and over does that all the time.
fn note(progress: &mut HostProgress, outcome: Outcome, now: Timestamp) {
    let Outcome::Failed(why) = outcome else {
        if outcome == Outcome::Ready {
            progress.failing_since = None;
        }
        progress.outcome = outcome;
        return;
    };
    let since = *progress.failing_since.get_or_insert(now);
    let lasting = now.since(since) >= FAILURE_PATIENCE;
    progress.outcome = if lasting { Outcome::Failed(why) } else { Outcome::Changing(why) };
}

fn outcome(fleet: &FleetName, generation: u64, observation: Observation<'_>) -> Outcome {
    if !observation.online {
        return Outcome::Offline;
    }
    let Some(status) = observation.status else {
        return Outcome::Changing("waits for the agent's first report".into());
    };
    if status.observed_generation < generation {
        return Outcome::Changing("waits for the agent".into());
    }
    let mut waiting = None;
    for instance in status.instances.iter().filter(|i| i.id.fleet == *fleet) {
        match instance.verdict() {
            Verdict::Ready => {}
            Verdict::Failed(why) => return Outcome::Failed(format!("{}: {why}", instance.id)),
            Verdict::Waiting(why) => {
                waiting.get_or_insert(format!("{}: {why}", instance.id));
            }
        }
    }
    waiting.map_or(Outcome::Ready, Outcome::Changing)
}

fn end(rollout: &Rollout, now: Timestamp) -> Option<State> {
    let all = |ends: fn(&Outcome) -> bool| rollout.hosts.values().all(|h| ends(&h.outcome));
    let any = |is: fn(&Outcome) -> bool| rollout.hosts.values().any(|h| is(&h.outcome));
    if all(|o| matches!(o, Outcome::Ready)) {
        return Some(State::Completed);
    }
    // A failure is final once no host that is connected is still on its way.
    let under_way = any(|o| matches!(o, Outcome::Pending | Outcome::Changing(_)));
    if any(|o| matches!(o, Outcome::Failed(_))) && !under_way {
        return Some(State::Failed);
    }
    if now < rollout.deadline {
        return None;
    }
    let reached = all(|o| matches!(o, Outcome::Ready | Outcome::Offline));
    Some(match (any(|o| matches!(o, Outcome::Failed(_))), reached) {
        (true, _) => State::Failed,
        (false, true) => State::Partial,
        (false, false) => State::TimedOut,
    })
}

#[cfg(test)]
mod tests;
