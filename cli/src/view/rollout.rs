//! Rollouts, and how far each host is.
//!
//! Here is what they are; [`words`] says it to people, and [`scene`] to those who watch.

mod scene;
mod words;

use serde::Serialize;
use shoal_core::rollout::{self, Offline, Policy};
use shoal_proto::convert::{Invalid, offline_from};
use shoal_proto::v1::{self, OutcomeKind, RolloutState};

use super::policy::PolicyView;
use crate::output::time::At;

pub(crate) use scene::Scene;
pub(crate) use words::{News, Weight, names};

#[derive(Debug, Serialize)]
pub(crate) struct RolloutsView {
    rollouts: Vec<RolloutView>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct RolloutView {
    pub(crate) fleet: String,
    pub(crate) revision: u64,
    pub(crate) state: State,
    /// The number of the batch that is under way, or was the last; 0 before the first.
    pub(crate) batch: u32,
    /// Why it does not go on at the moment.
    pub(crate) hold: Option<HoldView>,
    /// Why it goes back, failed or was ended.
    pub(crate) cause: Option<String>,
    pub(crate) hosts: Vec<HostProgress>,
    /// The revision that it would go back to.
    pub(crate) back_to: Option<u64>,
    /// `wait` or `skip`: what becomes of hosts that are offline.
    offline: &'static str,
    pub(crate) policy: Option<PolicyView>,
    started: At,
    pub(crate) deadline: At,
    /// Since when all hosts of the batch have been ready.
    ready_since: Option<At>,
    ended: Option<At>,
    pub(crate) author: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct HostProgress {
    pub(crate) host: String,
    pub(crate) outcome: Outcome,
    pub(crate) reason: String,
    pub(crate) generation: Option<u64>,
    /// Absent while it is in none.
    pub(crate) batch: Option<u32>,
    /// Whether nothing is disturbed there.
    pub(crate) kept: bool,
    /// Whether it has the revision's images.
    pub(crate) staged: bool,
    /// Why it had failed when it was to go back.
    pub(crate) had_failed: Option<String>,
    /// Whether a rollout before changed it; it goes back with the others.
    pub(crate) stray: bool,
}

/// Why a rollout does not go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct HoldView {
    pub(crate) kind: HoldKind,
    pub(crate) why: String,
    pub(crate) since: At,
    /// Of its time, once it goes on.
    pub(crate) remaining_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum HoldKind {
    Operator,
    Failure,
    Promotion,
    Window,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum State {
    Planned,
    Staging,
    Changing,
    Monitoring,
    Waiting,
    RollingBack,
    Completed,
    Partial,
    RolledBack,
    Aborted,
    Failed,
    TimedOut,
    Superseded,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    Ready,
    Changing,
    Staging,
    Pending,
    GoingBack,
    Back,
    Offline,
    Failed,
}

impl State {
    fn read(wire: i32) -> Result<Self, Invalid> {
        Ok(match RolloutState::try_from(wire) {
            Ok(RolloutState::Planned) => Self::Planned,
            Ok(RolloutState::Staging) => Self::Staging,
            Ok(RolloutState::Changing) => Self::Changing,
            Ok(RolloutState::Monitoring) => Self::Monitoring,
            Ok(RolloutState::Waiting) => Self::Waiting,
            Ok(RolloutState::RollingBack) => Self::RollingBack,
            Ok(RolloutState::Completed) => Self::Completed,
            Ok(RolloutState::Partial) => Self::Partial,
            Ok(RolloutState::RolledBack) => Self::RolledBack,
            Ok(RolloutState::Aborted) => Self::Aborted,
            Ok(RolloutState::Failed) => Self::Failed,
            Ok(RolloutState::TimedOut) => Self::TimedOut,
            Ok(RolloutState::Superseded) => Self::Superseded,
            Ok(RolloutState::Unspecified) | Err(_) => {
                return Err(Invalid::Unknown { field: "state", value: wire });
            }
        })
    }

    /// Whether nothing more will happen.
    pub(crate) fn is_final(self) -> bool {
        use State::{Changing, Monitoring, Planned, RollingBack, Staging, Waiting};
        !matches!(self, Planned | Staging | Changing | Monitoring | Waiting | RollingBack)
    }
}

impl Outcome {
    fn read(wire: i32) -> Result<Self, Invalid> {
        Ok(match OutcomeKind::try_from(wire) {
            Ok(OutcomeKind::Pending) => Self::Pending,
            Ok(OutcomeKind::Staging) => Self::Staging,
            Ok(OutcomeKind::Changing) => Self::Changing,
            Ok(OutcomeKind::Ready) => Self::Ready,
            Ok(OutcomeKind::Offline) => Self::Offline,
            Ok(OutcomeKind::Failed) => Self::Failed,
            Ok(OutcomeKind::GoingBack) => Self::GoingBack,
            Ok(OutcomeKind::Back) => Self::Back,
            Ok(OutcomeKind::Unspecified) | Err(_) => {
                return Err(Invalid::Unknown { field: "outcome", value: wire });
            }
        })
    }
}

impl From<rollout::Hold> for HoldView {
    fn from(hold: rollout::Hold) -> Self {
        let rollout::Hold { kind, why, since, remaining } = hold;
        let kind = match kind {
            rollout::HoldKind::Operator => HoldKind::Operator,
            rollout::HoldKind::Failure => HoldKind::Failure,
            rollout::HoldKind::Promotion => HoldKind::Promotion,
            rollout::HoldKind::Window => HoldKind::Window,
        };
        let remaining_ms = shoal_proto::convert::millis(remaining);
        Self { kind, why, since: At::new(since.0), remaining_ms }
    }
}

impl TryFrom<v1::Rollout> for RolloutView {
    type Error = Invalid;

    fn try_from(wire: v1::Rollout) -> Result<Self, Invalid> {
        let v1::Rollout {
            fleet,
            revision,
            state,
            hosts,
            started_ms,
            deadline_ms,
            ended_ms,
            author,
            batch,
            hold,
            ready_since_ms,
            back_to,
            cause,
            policy,
            offline,
        } = wire;
        let mut hosts =
            hosts.into_iter().map(HostProgress::try_from).collect::<Result<Vec<_>, _>>()?;
        hosts.sort_by(|a, b| a.host.cmp(&b.host));
        let hold = hold.map(rollout::Hold::try_from).transpose()?;
        let offline = match offline_from(offline)? {
            Offline::Wait => "wait",
            Offline::Skip => "skip",
        };
        Ok(Self {
            fleet,
            revision,
            state: State::read(state)?,
            batch,
            hold: hold.map(Into::into),
            cause: (!cause.is_empty()).then_some(cause),
            hosts,
            back_to,
            offline,
            policy: policy.map(Policy::try_from).transpose()?.map(Into::into),
            started: At::new(started_ms),
            deadline: At::new(deadline_ms),
            ready_since: ready_since_ms.map(At::new),
            ended: ended_ms.map(At::new),
            author,
        })
    }
}

impl TryFrom<v1::RolloutHost> for HostProgress {
    type Error = Invalid;

    fn try_from(wire: v1::RolloutHost) -> Result<Self, Invalid> {
        let v1::RolloutHost {
            id,
            name,
            outcome,
            reason,
            generation,
            batch,
            kept,
            staged,
            failed,
            stray,
        } = wire;
        // A host that was removed has no name any more.
        let host = if name.is_empty() { id } else { name };
        let outcome = Outcome::read(outcome)?;
        let batch = (batch > 0).then_some(batch);
        let had_failed = (!failed.is_empty()).then_some(failed);
        Ok(Self { host, outcome, reason, generation, batch, kept, staged, had_failed, stray })
    }
}

impl RolloutView {
    /// Whether nothing more will happen.
    pub(crate) fn is_over(&self) -> bool {
        self.state.is_final()
    }

    /// The hosts of one batch.
    pub(crate) fn of_batch(&self, number: u32) -> impl Iterator<Item = &HostProgress> {
        self.hosts.iter().filter(move |host| host.batch == Some(number))
    }

    /// The hosts that are like this.
    pub(crate) fn with(&self, outcome: Outcome) -> impl Iterator<Item = &HostProgress> {
        self.hosts.iter().filter(move |host| host.outcome == outcome)
    }

    /// When the maintenance window opens that it waits for.
    pub(crate) fn window_opens(&self) -> Option<At> {
        let hold = self.hold.as_ref().filter(|hold| hold.kind == HoldKind::Window)?;
        Some(self.deadline.earlier(hold.remaining_ms))
    }
}

impl RolloutsView {
    pub(crate) fn read(rollouts: Vec<v1::Rollout>) -> Result<Self, Invalid> {
        let rollouts: Result<_, _> = rollouts.into_iter().map(RolloutView::try_from).collect();
        Ok(Self { rollouts: rollouts? })
    }
}

#[cfg(test)]
mod tests;
