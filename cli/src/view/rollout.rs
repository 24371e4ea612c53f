//! Rollouts, and how far each host is.

use std::collections::BTreeMap;

use serde::Serialize;
use shoal_core::time::Timestamp;
use shoal_proto::convert::Invalid;
use shoal_proto::v1::{self, OutcomeKind, RolloutState};

use super::audit::short_identity;
use crate::output::table::{Cell, Table, Tone};
use crate::output::text::printable;
use crate::output::time::At;

#[derive(Debug, Serialize)]
pub(crate) struct RolloutsView {
    rollouts: Vec<RolloutView>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct RolloutView {
    pub(crate) fleet: String,
    pub(crate) revision: u64,
    pub(crate) state: State,
    pub(crate) hosts: Vec<HostProgress>,
    started: At,
    deadline: At,
    ended: Option<At>,
    author: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct HostProgress {
    pub(crate) host: String,
    pub(crate) outcome: Outcome,
    pub(crate) reason: String,
    pub(crate) generation: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum State {
    Planned,
    Changing,
    Completed,
    Partial,
    Failed,
    TimedOut,
    Superseded,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    Ready,
    Changing,
    Pending,
    Offline,
    Failed,
}

impl State {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Changing => "changing",
            Self::Completed => "completed",
            Self::Partial => "partial",
            Self::Failed => "failed",
            Self::TimedOut => "timed out",
            Self::Superseded => "superseded",
        }
    }

    pub(crate) fn cell(self) -> Cell {
        let tone = match self {
            Self::Completed => Tone::Good,
            Self::Planned | Self::Changing | Self::Partial => Tone::Waiting,
            Self::Failed | Self::TimedOut => Tone::Bad,
            Self::Superseded => Tone::Faint,
        };
        Cell::toned(self.name(), tone)
    }

    fn read(wire: i32) -> Result<Self, Invalid> {
        Ok(match RolloutState::try_from(wire) {
            Ok(RolloutState::Planned) => Self::Planned,
            Ok(RolloutState::Changing) => Self::Changing,
            Ok(RolloutState::Completed) => Self::Completed,
            Ok(RolloutState::Partial) => Self::Partial,
            Ok(RolloutState::Failed) => Self::Failed,
            Ok(RolloutState::TimedOut) => Self::TimedOut,
            Ok(RolloutState::Superseded) => Self::Superseded,
            Ok(RolloutState::Unspecified) | Err(_) => {
                return Err(Invalid::Unknown { field: "state", value: wire });
            }
        })
    }
}

impl Outcome {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Changing => "changing",
            Self::Pending => "pending",
            Self::Offline => "offline",
            Self::Failed => "failed",
        }
    }

    fn read(wire: i32) -> Result<Self, Invalid> {
        Ok(match OutcomeKind::try_from(wire) {
            Ok(OutcomeKind::Pending) => Self::Pending,
            Ok(OutcomeKind::Changing) => Self::Changing,
            Ok(OutcomeKind::Ready) => Self::Ready,
            Ok(OutcomeKind::Offline) => Self::Offline,
            Ok(OutcomeKind::Failed) => Self::Failed,
            Ok(OutcomeKind::Unspecified) | Err(_) => {
                return Err(Invalid::Unknown { field: "outcome", value: wire });
            }
        })
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
        } = wire;
        let mut hosts =
            hosts.into_iter().map(HostProgress::try_from).collect::<Result<Vec<_>, _>>()?;
        hosts.sort_by(|a, b| a.host.cmp(&b.host));
        Ok(Self {
            fleet,
            revision,
            state: State::read(state)?,
            hosts,
            started: At::new(started_ms),
            deadline: At::new(deadline_ms),
            ended: ended_ms.map(At::new),
            author,
        })
    }
}

impl TryFrom<v1::RolloutHost> for HostProgress {
    type Error = Invalid;

    fn try_from(wire: v1::RolloutHost) -> Result<Self, Invalid> {
        let v1::RolloutHost { id, name, outcome, reason, generation } = wire;
        // A host that was removed has no name any more.
        let host = if name.is_empty() { id } else { name };
        Ok(Self { host, outcome: Outcome::read(outcome)?, reason, generation })
    }
}

impl HostProgress {
    /// `h1: changing: waits for the agent`.
    pub(crate) fn line(&self) -> String {
        let Self { host, outcome, reason, .. } = self;
        let line = match (outcome, reason.as_str()) {
            (Outcome::Offline, "") => format!("{host}: offline: changes when it is back"),
            (_, "") => format!("{host}: {}", outcome.name()),
            (_, reason) => format!("{host}: {}: {reason}", outcome.name()),
        };
        printable(&line)
    }
}

impl RolloutView {
    /// `2 ready, 1 offline`.
    pub(crate) fn summary(&self) -> String {
        let mut counts: BTreeMap<Outcome, usize> = BTreeMap::new();
        for host in &self.hosts {
            *counts.entry(host.outcome).or_default() += 1;
        }
        let parts: Vec<String> =
            counts.iter().map(|(outcome, count)| format!("{count} {}", outcome.name())).collect();
        if parts.is_empty() { "no hosts".to_owned() } else { parts.join(", ") }
    }

    /// A line for each host that is not ready.
    pub(crate) fn not_ready(&self) -> Vec<String> {
        let not_ready = self.hosts.iter().filter(|host| host.outcome != Outcome::Ready);
        not_ready.map(HostProgress::line).collect()
    }

    /// The hosts that differ from `before`.
    pub(crate) fn news(&self, before: Option<&Self>) -> Vec<&HostProgress> {
        let known = |host: &HostProgress| {
            before.is_some_and(|before| {
                before.hosts.iter().any(|old| {
                    (&old.host, old.outcome, &old.reason)
                        == (&host.host, host.outcome, &host.reason)
                })
            })
        };
        self.hosts.iter().filter(|host| !known(host)).collect()
    }

    /// Whether nothing more will happen.
    pub(crate) fn is_over(&self) -> bool {
        !matches!(self.state, State::Planned | State::Changing)
    }
}

impl RolloutsView {
    pub(crate) fn read(rollouts: Vec<v1::Rollout>) -> Result<Self, Invalid> {
        let rollouts: Result<_, _> = rollouts.into_iter().map(RolloutView::try_from).collect();
        Ok(Self { rollouts: rollouts? })
    }

    pub(crate) fn table(&self, now: Timestamp, color: bool) -> String {
        let header = &["FLEET", "REVISION", "STATE", "HOSTS", "STARTED", "ENDED", "BY"];
        let mut table = Table::new(header);
        for rollout in &self.rollouts {
            table.row(vec![
                (&rollout.fleet).into(),
                rollout.revision.into(),
                rollout.state.cell(),
                rollout.summary().into(),
                rollout.started.ago(now).into(),
                rollout.ended.map_or(String::new(), |ended| ended.ago(now)).into(),
                short_identity(&rollout.author).into(),
            ]);
        }
        table.render(color, "No rollouts.")
    }
}
