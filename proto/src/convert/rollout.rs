//! Rollouts as the store keeps them.

use shoal_core::rollout::{HostProgress, Outcome, Rollout, State};
use shoal_core::time::Timestamp;

use super::{Invalid, parse};
use crate::v1::{self, OutcomeKind, RolloutState, store};

/// A state's number on the wire.
#[must_use]
pub fn rollout_state(state: State) -> RolloutState {
    match state {
        State::Planned => RolloutState::Planned,
        State::Changing => RolloutState::Changing,
        State::Completed => RolloutState::Completed,
        State::Partial => RolloutState::Partial,
        State::Failed => RolloutState::Failed,
        State::TimedOut => RolloutState::TimedOut,
        State::Superseded => RolloutState::Superseded,
    }
}

fn state_from(wire: i32) -> Result<State, Invalid> {
    Ok(match RolloutState::try_from(wire) {
        Ok(RolloutState::Planned) => State::Planned,
        Ok(RolloutState::Changing) => State::Changing,
        Ok(RolloutState::Completed) => State::Completed,
        Ok(RolloutState::Partial) => State::Partial,
        Ok(RolloutState::Failed) => State::Failed,
        Ok(RolloutState::TimedOut) => State::TimedOut,
        Ok(RolloutState::Superseded) => State::Superseded,
        Ok(RolloutState::Unspecified) | Err(_) => {
            return Err(Invalid::Unknown { field: "state", value: wire });
        }
    })
}

/// An outcome's number on the wire, and its reason.
fn outcome_to(outcome: &Outcome) -> (OutcomeKind, String) {
    match outcome {
        Outcome::Pending => (OutcomeKind::Pending, String::new()),
        Outcome::Changing(why) => (OutcomeKind::Changing, why.clone()),
        Outcome::Ready => (OutcomeKind::Ready, String::new()),
        Outcome::Offline => (OutcomeKind::Offline, String::new()),
        Outcome::Failed(why) => (OutcomeKind::Failed, why.clone()),
    }
}

fn outcome_from(kind: i32, reason: String) -> Result<Outcome, Invalid> {
    Ok(match OutcomeKind::try_from(kind) {
        Ok(OutcomeKind::Pending) => Outcome::Pending,
        Ok(OutcomeKind::Changing) => Outcome::Changing(reason),
        Ok(OutcomeKind::Ready) => Outcome::Ready,
        Ok(OutcomeKind::Offline) => Outcome::Offline,
        Ok(OutcomeKind::Failed) => Outcome::Failed(reason),
        Ok(OutcomeKind::Unspecified) | Err(_) => {
            return Err(Invalid::Unknown { field: "outcome", value: kind });
        }
    })
}

/// A rollout as the store keeps it.
#[must_use]
pub fn rollout_record(rollout: &Rollout) -> store::RolloutRecord {
    let Rollout { fleet, revision, state, hosts, started, deadline, ended } = rollout;
    let hosts = hosts.iter().map(|(host, progress)| {
        let HostProgress { generation, outcome, failing_since } = progress;
        let (kind, reason) = outcome_to(outcome);
        let progress = store::HostProgress {
            generation: *generation,
            outcome: kind.into(),
            reason,
            failing_since_ms: failing_since.map(|at| at.0),
        };
        (host.to_string(), progress)
    });
    store::RolloutRecord {
        fleet: fleet.to_string(),
        revision: *revision,
        state: rollout_state(*state).into(),
        hosts: hosts.collect(),
        started_ms: started.0,
        deadline_ms: deadline.0,
        ended_ms: ended.map(|at| at.0),
    }
}

impl TryFrom<store::RolloutRecord> for Rollout {
    type Error = Invalid;

    fn try_from(wire: store::RolloutRecord) -> Result<Self, Invalid> {
        let store::RolloutRecord {
            fleet,
            revision,
            state,
            hosts,
            started_ms,
            deadline_ms,
            ended_ms,
        } = wire;
        let hosts = hosts.into_iter().map(|(host, progress)| {
            let store::HostProgress { generation, outcome, reason, failing_since_ms } = progress;
            let outcome = outcome_from(outcome, reason)?;
            let failing_since = failing_since_ms.map(Timestamp);
            Ok((parse("hosts", &host)?, HostProgress { generation, outcome, failing_since }))
        });
        Ok(Self {
            fleet: parse("fleet", &fleet)?,
            revision,
            state: state_from(state)?,
            hosts: hosts.collect::<Result<_, Invalid>>()?,
            started: Timestamp(started_ms),
            deadline: Timestamp(deadline_ms),
            ended: ended_ms.map(Timestamp),
        })
    }
}

impl From<(&str, &str, &HostProgress)> for v1::RolloutHost {
    /// From a host's id, its name, and its progress.
    fn from((id, name, progress): (&str, &str, &HostProgress)) -> Self {
        let (kind, reason) = outcome_to(&progress.outcome);
        Self {
            id: id.to_owned(),
            name: name.to_owned(),
            outcome: kind.into(),
            reason,
            generation: progress.generation,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollout_survives_the_store() {
        let outcomes = [
            Outcome::Pending,
            Outcome::Changing("a".into()),
            Outcome::Ready,
            Outcome::Offline,
            Outcome::Failed("b".into()),
        ];
        let states = [
            State::Planned,
            State::Changing,
            State::Completed,
            State::Partial,
            State::Failed,
            State::TimedOut,
            State::Superseded,
        ];
        for state in states {
            let hosts = outcomes.iter().enumerate().map(|(at, outcome)| {
                let generation = (at % 2 == 0).then_some(3);
                let failing_since = (at == 4).then_some(Timestamp(7));
                let outcome = outcome.clone();
                let progress = HostProgress { generation, outcome, failing_since };
                (format!("h{at}").parse().unwrap(), progress)
            });
            let rollout = Rollout {
                fleet: "shop".parse().unwrap(),
                revision: 2,
                state,
                hosts: hosts.collect(),
                started: Timestamp(1),
                deadline: Timestamp(2),
                ended: state.is_final().then_some(Timestamp(3)),
            };
            assert_eq!(Rollout::try_from(rollout_record(&rollout)), Ok(rollout));
        }
    }
}
