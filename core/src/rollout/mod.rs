//! Moving a fleet to a revision: a pure state machine that the controller drives.
//!
//! [`step`] takes in what was observed and decides, [`actions`] says what is to be done now, and
//! [`staging`], [`told`] and [`returned`] note that it was; [`command`] is what operators say. All
//! that has been decided is in the [`Rollout`], which the driver stores before it acts, so that
//! being killed anywhere loses nothing.
//!
//! Invariants, each with a test: only the hosts of one batch are on their way at once; a batch
//! larger than the canary is begun only once a host has proved the revision; a rollout ends by its
//! deadline, in a stated state; nothing but proof of health counts as success.
//!
//! Deliberately absent: a clock, a store, and success without proof.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::name::{FleetName, HostId};
use crate::time::Timestamp;

mod back;
mod batch;
mod command;
mod engine;
mod observe;
mod policy;
mod window;

pub use command::{Command, Refused, command};
pub use engine::{actions, returned, staging, step, told};
pub use observe::{FAILURE_PATIENCE, OFFLINE_PATIENCE, Observation};
pub use policy::{InvalidReach, OnFailure, Policy, Promote, Reach};
pub use window::{InvalidWindow, Window};

/// How long a rollout may be held, by an operator or for one.
pub const LONGEST_HOLD: Duration = Duration::from_secs(24 * 60 * 60);

/// One move of a fleet to one of its revisions. Its identity is (fleet, revision).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollout {
    /// The fleet.
    pub fleet: FleetName,
    /// The revision that it moves to.
    pub revision: u64,
    /// The revision that it goes back to where it must; `None` where no earlier one was proved.
    pub back_to: Option<u64>,
    /// How it goes about it.
    pub policy: Policy,
    /// What becomes of hosts that are offline.
    pub offline: Offline,
    /// How long it may take, and how long going back may.
    pub timeout: Duration,
    /// Where it is.
    pub state: State,
    /// Why it does not go on at the moment.
    pub hold: Option<Hold>,
    /// The number of the batch that is under way, or was the last; 0 before the first.
    pub batch: u32,
    /// How many of the policy's batches were proved.
    pub proofs: u32,
    /// The batch up to which someone said `promote`.
    pub promoted: u32,
    /// Since when all hosts of the batch have been ready, without a restart.
    pub ready_since: Option<Timestamp>,
    /// Why it goes back, failed or was ended, for people.
    pub cause: Option<String>,
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
    /// The hosts of the batch get their images; nothing is disturbed.
    Staging,
    /// The hosts of the batch are changed.
    Changing,
    /// They all are ready, and are watched.
    Monitoring,
    /// All others are through; it waits for hosts that are offline, or not ready at the moment.
    Waiting,
    /// The hosts that were changed go back.
    RollingBack,
    /// Every host proved healthy at the revision.
    Completed,
    /// It reached what it could; the hosts that it did not are named: offline, or failed and few
    /// enough for its policy. Those that are offline catch up by themselves.
    Partial,
    /// Every host that was changed is back, or is told to be when it returns.
    RolledBack,
    /// An operator ended it; all is left as it was then.
    Aborted,
    /// Too many hosts failed, and there was no going back or it failed, too.
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
        use State::{Changing, Monitoring, Planned, RollingBack, Staging, Waiting};
        !matches!(self, Planned | Staging | Changing | Monitoring | Waiting | RollingBack)
    }

    /// Whether a rollout that ended so may have proved its revision; [`Rollout::is_proof`] says
    /// whether it did.
    #[must_use]
    pub fn is_proof(self) -> bool {
        matches!(self, Self::Completed | Self::Partial)
    }
}

/// What becomes of hosts that are offline.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Offline {
    /// Once all others are through, the rollout waits for them until its deadline.
    #[default]
    Wait,
    /// Once all others are through, the rollout ends; they catch up by themselves.
    Skip,
}

/// A rollout that does not go on until something else happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// What it waits for.
    pub kind: HoldKind,
    /// Who or what holds it, and why, for people.
    pub why: String,
    /// Since when.
    pub since: Timestamp,
    /// How much of its time is left once it goes on.
    pub remaining: Duration,
}

/// What a held rollout waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoldKind {
    /// `resume`: an operator paused it.
    Operator,
    /// `resume`, after a look at what failed.
    Failure,
    /// `promote`.
    Promotion,
    /// The next maintenance window.
    Window,
}

/// How far one host is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostProgress {
    /// Its place in the order of hosts. Hosts of one place wait for one another and are changed
    /// together.
    pub place: u32,
    /// Its value of the label that batches are spread by.
    pub spread: Option<String>,
    /// Whether the revision disturbs nothing there: such a host proves nothing.
    pub kept: bool,
    /// Whether a rollout before this one changed it, which was not proved and did not take it back:
    /// it goes back with those that this one has changed.
    pub stray: bool,
    /// The number of its batch, once it is in one.
    pub batch: Option<u32>,
    /// Whether it has all images of the revision.
    pub staged: bool,
    /// The generation of its desired state that names these images ahead of the change.
    pub staging: Option<u64>,
    /// The generation that carries the revision; `None` until the host was told.
    pub generation: Option<u64>,
    /// Whether its agent has said that it has that generation.
    pub heard: bool,
    /// Whether it was chosen to go back.
    pub returning: bool,
    /// The generation that took it back.
    pub back: Option<u64>,
    /// Whether it went offline after it was told.
    pub lost: bool,
    /// What is known of it.
    pub outcome: Outcome,
    /// Why it had failed when it was to go back.
    pub failed: Option<String>,
    /// Since when its time runs: since it was told or, if that was later, its agent said that it
    /// has heard, it came back after it was given up, or it ceased to work after it was proved.
    pub since: Option<Timestamp>,
    /// Since when instances there have failed, without all being ready in between.
    pub failing_since: Option<Timestamp>,
    /// Since when it has been offline.
    pub offline_since: Option<Timestamp>,
    /// How often its instances had been restarted when they were ready.
    pub restarts: Option<u32>,
}

impl HostProgress {
    /// A host that was not told yet.
    #[must_use]
    pub fn pending(place: u32) -> Self {
        Self {
            place,
            spread: None,
            kept: false,
            stray: false,
            batch: None,
            staged: false,
            staging: None,
            generation: None,
            heard: false,
            returning: false,
            back: None,
            lost: false,
            outcome: Outcome::Pending,
            failed: None,
            since: None,
            failing_since: None,
            offline_since: None,
            restarts: None,
        }
    }

    /// Whether it has something else than the revision to go back to, or may have.
    fn is_changed(&self) -> bool {
        self.generation.is_some() || self.stray
    }

    /// Keeps why it failed, for when it is back.
    fn remember_failure(&mut self) {
        if let Outcome::Failed(why) = &self.outcome {
            self.failed.get_or_insert_with(|| why.clone());
        }
    }
}

/// What is known of one host in a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Not told yet.
    Pending,
    /// Gets the revision's images; nothing is disturbed.
    Staging,
    /// Told; the text says what is awaited.
    Changing(String),
    /// Every instance of the fleet there proved healthy at the revision.
    Ready,
    /// The agent is not connected; the host catches up when it returns.
    Offline,
    /// An instance there could not be brought up; the text names it and says why.
    Failed(String),
    /// Told to go back; the text says what is awaited.
    GoingBack(String),
    /// Every instance of the fleet there is healthy at the revision before.
    Back,
}

/// What a rollout asks the controller to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Name the revision's images in the desired state of this host, ahead of the change.
    Stage(HostId),
    /// Put the revision into the desired state of this host.
    Change(HostId),
    /// Put the revision that the rollout goes back to into it.
    Return(HostId),
}

impl Rollout {
    /// Whether a host has proved the revision.
    #[must_use]
    pub fn is_proved(&self) -> bool {
        self.proofs > 0
    }

    /// Whether it ended with proof that its revision works: others go back to it. A rollout that
    /// found every host offline ends, and proves nothing.
    #[must_use]
    pub fn is_proof(&self) -> bool {
        let ready = || self.hosts.values().any(|host| host.outcome == Outcome::Ready);
        self.state.is_proof() && (self.hosts.is_empty() || ready())
    }

    /// The hosts of the batch that is under way.
    pub fn current(&self) -> impl Iterator<Item = (&HostId, &HostProgress)> {
        let batch = Some(self.batch).filter(|batch| *batch > 0);
        self.hosts.iter().filter(move |(_, host)| batch.is_some() && host.batch == batch)
    }

    fn end(&mut self, state: State, now: Timestamp) {
        self.state = state;
        self.hold = None;
        self.ended = Some(now);
    }

    /// Stops it where it is; its time does not run meanwhile.
    fn hold(&mut self, kind: HoldKind, why: String, until: Timestamp, now: Timestamp) {
        let remaining = match &self.hold {
            Some(hold) => hold.remaining,
            None => self.deadline.since(now),
        };
        self.deadline = match kind {
            HoldKind::Window => until.after(remaining),
            HoldKind::Operator | HoldKind::Failure | HoldKind::Promotion => until,
        };
        self.hold = Some(Hold { kind, why, since: now, remaining });
    }

    /// Lets it go on with the time that it had left.
    fn release(&mut self, now: Timestamp) {
        let Some(hold) = self.hold.take() else { return };
        self.deadline = now.after(hold.remaining);
        for host in self.hosts.values_mut().filter(|host| host.since.is_some()) {
            // Nobody was to hurry meanwhile.
            host.since = Some(now);
        }
        self.ready_since = None;
    }

    /// Begins to go back, if there is something to go back to.
    fn go_back(&mut self, cause: String, now: Timestamp) -> bool {
        let changed = self.hosts.values().any(HostProgress::is_changed);
        if self.back_to.is_none() || !changed {
            return false;
        }
        self.hosts.values_mut().for_each(HostProgress::remember_failure);
        self.state = State::RollingBack;
        self.hold = None;
        self.cause = Some(cause);
        self.deadline = now.after(self.timeout);
        true
    }
}

#[cfg(test)]
mod infra_tests;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
