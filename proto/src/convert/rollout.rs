//! Rollouts as the store keeps them.

use std::time::Duration;

use shoal_core::rollout::{
    Hold, HoldKind, HostProgress, Offline, OnFailure, Outcome, Policy, Promote, Rollout, State,
};
use shoal_core::time::Timestamp;

use super::{Invalid, millis, parse};
use crate::v1::{self, OfflineHosts, OutcomeKind, RolloutState, store};

/// A state's number on the wire.
#[must_use]
pub fn rollout_state(state: State) -> RolloutState {
    match state {
        State::Planned => RolloutState::Planned,
        State::Staging => RolloutState::Staging,
        State::Changing => RolloutState::Changing,
        State::Monitoring => RolloutState::Monitoring,
        State::Waiting => RolloutState::Waiting,
        State::RollingBack => RolloutState::RollingBack,
        State::Completed => RolloutState::Completed,
        State::Partial => RolloutState::Partial,
        State::RolledBack => RolloutState::RolledBack,
        State::Aborted => RolloutState::Aborted,
        State::Failed => RolloutState::Failed,
        State::TimedOut => RolloutState::TimedOut,
        State::Superseded => RolloutState::Superseded,
    }
}

fn state_from(wire: i32) -> Result<State, Invalid> {
    Ok(match RolloutState::try_from(wire) {
        Ok(RolloutState::Planned) => State::Planned,
        Ok(RolloutState::Staging) => State::Staging,
        Ok(RolloutState::Changing) => State::Changing,
        Ok(RolloutState::Monitoring) => State::Monitoring,
        Ok(RolloutState::Waiting) => State::Waiting,
        Ok(RolloutState::RollingBack) => State::RollingBack,
        Ok(RolloutState::Completed) => State::Completed,
        Ok(RolloutState::Partial) => State::Partial,
        Ok(RolloutState::RolledBack) => State::RolledBack,
        Ok(RolloutState::Aborted) => State::Aborted,
        Ok(RolloutState::Failed) => State::Failed,
        Ok(RolloutState::TimedOut) => State::TimedOut,
        Ok(RolloutState::Superseded) => State::Superseded,
        Ok(RolloutState::Unspecified) | Err(_) => return Err(unknown("state", wire)),
    })
}

fn unknown(field: &'static str, value: i32) -> Invalid {
    Invalid::Unknown { field, value }
}

/// An outcome's number on the wire, and its reason.
fn outcome_to(outcome: &Outcome) -> (OutcomeKind, String) {
    match outcome {
        Outcome::Pending => (OutcomeKind::Pending, String::new()),
        Outcome::Staging => (OutcomeKind::Staging, String::new()),
        Outcome::Changing(why) => (OutcomeKind::Changing, why.clone()),
        Outcome::Ready => (OutcomeKind::Ready, String::new()),
        Outcome::Offline => (OutcomeKind::Offline, String::new()),
        Outcome::Failed(why) => (OutcomeKind::Failed, why.clone()),
        Outcome::GoingBack(why) => (OutcomeKind::GoingBack, why.clone()),
        Outcome::Back => (OutcomeKind::Back, String::new()),
    }
}

fn outcome_from(kind: i32, reason: String) -> Result<Outcome, Invalid> {
    Ok(match OutcomeKind::try_from(kind) {
        Ok(OutcomeKind::Pending) => Outcome::Pending,
        Ok(OutcomeKind::Staging) => Outcome::Staging,
        Ok(OutcomeKind::Changing) => Outcome::Changing(reason),
        Ok(OutcomeKind::Ready) => Outcome::Ready,
        Ok(OutcomeKind::Offline) => Outcome::Offline,
        Ok(OutcomeKind::Failed) => Outcome::Failed(reason),
        Ok(OutcomeKind::GoingBack) => Outcome::GoingBack(reason),
        Ok(OutcomeKind::Back) => Outcome::Back,
        Ok(OutcomeKind::Unspecified) | Err(_) => return Err(unknown("outcome", kind)),
    })
}

/// What becomes of offline hosts, as a number of the wire; nothing said: the usual.
///
/// # Errors
/// Where the number is of a newer version.
pub fn offline_from(wire: i32) -> Result<Offline, Invalid> {
    Ok(match OfflineHosts::try_from(wire) {
        Ok(OfflineHosts::Unspecified | OfflineHosts::Wait) => Offline::Wait,
        Ok(OfflineHosts::Skip) => Offline::Skip,
        Err(_) => return Err(unknown("offline", wire)),
    })
}

fn offline_to(offline: Offline) -> OfflineHosts {
    match offline {
        Offline::Wait => OfflineHosts::Wait,
        Offline::Skip => OfflineHosts::Skip,
    }
}

impl TryFrom<v1::RolloutPolicy> for Policy {
    type Error = Invalid;

    fn try_from(wire: v1::RolloutPolicy) -> Result<Self, Invalid> {
        let v1::RolloutPolicy {
            batches,
            monitor_ms,
            max_failures,
            on_failure,
            batch_timeout_ms,
            spread,
            promote,
            windows,
            stage_ahead,
        } = wire;
        if batches.is_empty() {
            return Err(Invalid::Missing("batches"));
        }
        let on_failure = match v1::OnFailure::try_from(on_failure) {
            Ok(v1::OnFailure::Unspecified | v1::OnFailure::Rollback) => OnFailure::Rollback,
            Ok(v1::OnFailure::Pause) => OnFailure::Pause,
            Err(_) => return Err(unknown("on_failure", on_failure)),
        };
        let promote = match v1::Promote::try_from(promote) {
            Ok(v1::Promote::Unspecified | v1::Promote::Auto) => Promote::Auto,
            Ok(v1::Promote::Canary) => Promote::Canary,
            Ok(v1::Promote::Each) => Promote::Each,
            Err(_) => return Err(unknown("promote", promote)),
        };
        Ok(Self {
            batches: batches.iter().map(|b| parse("batches", b)).collect::<Result<_, _>>()?,
            monitor: Duration::from_millis(monitor_ms),
            max_failures,
            on_failure,
            batch_timeout: Duration::from_millis(batch_timeout_ms),
            spread,
            promote,
            windows: windows.iter().map(|w| parse("windows", w)).collect::<Result<_, _>>()?,
            stage_ahead,
        })
    }
}

impl From<Policy> for v1::RolloutPolicy {
    fn from(policy: Policy) -> Self {
        let Policy {
            batches,
            monitor,
            max_failures,
            on_failure,
            batch_timeout,
            spread,
            promote,
            windows,
            stage_ahead,
        } = policy;
        let on_failure = match on_failure {
            OnFailure::Rollback => v1::OnFailure::Rollback,
            OnFailure::Pause => v1::OnFailure::Pause,
        };
        let promote = match promote {
            Promote::Auto => v1::Promote::Auto,
            Promote::Canary => v1::Promote::Canary,
            Promote::Each => v1::Promote::Each,
        };
        Self {
            batches: batches.iter().map(ToString::to_string).collect(),
            monitor_ms: millis(monitor),
            max_failures,
            on_failure: on_failure.into(),
            batch_timeout_ms: millis(batch_timeout),
            spread,
            promote: promote.into(),
            windows: windows.iter().map(ToString::to_string).collect(),
            stage_ahead,
        }
    }
}

impl TryFrom<v1::Hold> for Hold {
    type Error = Invalid;

    fn try_from(wire: v1::Hold) -> Result<Self, Invalid> {
        let v1::Hold { kind, why, since_ms, remaining_ms } = wire;
        let kind = match v1::HoldKind::try_from(kind) {
            Ok(v1::HoldKind::Operator) => HoldKind::Operator,
            Ok(v1::HoldKind::Failure) => HoldKind::Failure,
            Ok(v1::HoldKind::Promotion) => HoldKind::Promotion,
            Ok(v1::HoldKind::Window) => HoldKind::Window,
            Ok(v1::HoldKind::Unspecified) | Err(_) => return Err(unknown("hold", kind)),
        };
        let remaining = Duration::from_millis(remaining_ms);
        Ok(Self { kind, why, since: Timestamp(since_ms), remaining })
    }
}

impl From<Hold> for v1::Hold {
    fn from(hold: Hold) -> Self {
        let Hold { kind, why, since, remaining } = hold;
        let kind = match kind {
            HoldKind::Operator => v1::HoldKind::Operator,
            HoldKind::Failure => v1::HoldKind::Failure,
            HoldKind::Promotion => v1::HoldKind::Promotion,
            HoldKind::Window => v1::HoldKind::Window,
        };
        Self { kind: kind.into(), why, since_ms: since.0, remaining_ms: millis(remaining) }
    }
}

fn progress_to(progress: &HostProgress) -> store::HostProgress {
    let HostProgress {
        place,
        spread,
        kept,
        stray,
        batch,
        staged,
        staging,
        generation,
        heard,
        returning,
        back,
        lost,
        outcome,
        failed,
        since,
        failing_since,
        offline_since,
        restarts,
    } = progress;
    let (kind, reason) = outcome_to(outcome);
    store::HostProgress {
        generation: *generation,
        outcome: kind.into(),
        reason,
        failing_since_ms: failing_since.map(|at| at.0),
        place: *place,
        spread: spread.clone(),
        kept: *kept,
        batch: *batch,
        staged: *staged,
        staging: *staging,
        heard: *heard,
        returning: *returning,
        back: *back,
        lost: *lost,
        since_ms: since.map(|at| at.0),
        offline_since_ms: offline_since.map(|at| at.0),
        restarts: *restarts,
        stray: *stray,
        failed: failed.clone(),
    }
}

impl TryFrom<store::HostProgress> for HostProgress {
    type Error = Invalid;

    fn try_from(wire: store::HostProgress) -> Result<Self, Invalid> {
        let store::HostProgress {
            generation,
            outcome,
            reason,
            failing_since_ms,
            place,
            spread,
            kept,
            batch,
            staged,
            staging,
            returning,
            back,
            lost,
            since_ms,
            offline_since_ms,
            restarts,
            heard,
            stray,
            failed,
        } = wire;
        Ok(Self {
            place,
            spread,
            kept,
            stray,
            batch,
            staged,
            staging,
            generation,
            heard,
            returning,
            back,
            lost,
            outcome: outcome_from(outcome, reason)?,
            failed,
            since: since_ms.map(Timestamp),
            failing_since: failing_since_ms.map(Timestamp),
            offline_since: offline_since_ms.map(Timestamp),
            restarts,
        })
    }
}

/// A rollout as the store keeps it.
#[must_use]
pub fn rollout_record(rollout: &Rollout) -> store::RolloutRecord {
    let Rollout {
        fleet,
        revision,
        back_to,
        policy,
        offline,
        timeout,
        state,
        hold,
        batch,
        proofs,
        promoted,
        ready_since,
        cause,
        hosts,
        started,
        deadline,
        ended,
    } = rollout;
    let hosts = hosts.iter().map(|(host, progress)| (host.to_string(), progress_to(progress)));
    store::RolloutRecord {
        fleet: fleet.to_string(),
        revision: *revision,
        state: rollout_state(*state).into(),
        hosts: hosts.collect(),
        started_ms: started.0,
        deadline_ms: deadline.0,
        ended_ms: ended.map(|at| at.0),
        back_to: *back_to,
        policy: Some(policy.clone().into()),
        offline: offline_to(*offline).into(),
        timeout_ms: millis(*timeout),
        hold: hold.clone().map(Into::into),
        batch: *batch,
        proofs: *proofs,
        promoted: *promoted,
        ready_since_ms: ready_since.map(|at| at.0),
        cause: cause.clone(),
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
            back_to,
            policy,
            offline,
            timeout_ms,
            hold,
            batch,
            proofs,
            promoted,
            ready_since_ms,
            cause,
        } = wire;
        let hosts = hosts.into_iter().map(|(host, progress)| {
            Ok((parse("hosts", &host)?, HostProgress::try_from(progress)?))
        });
        Ok(Self {
            fleet: parse("fleet", &fleet)?,
            revision,
            back_to,
            policy: policy.map(Policy::try_from).transpose()?.unwrap_or_default(),
            offline: offline_from(offline)?,
            timeout: Duration::from_millis(timeout_ms),
            state: state_from(state)?,
            hold: hold.map(Hold::try_from).transpose()?,
            batch,
            proofs,
            promoted,
            ready_since: ready_since_ms.map(Timestamp),
            cause,
            hosts: hosts.collect::<Result<_, Invalid>>()?,
            started: Timestamp(started_ms),
            deadline: Timestamp(deadline_ms),
            ended: ended_ms.map(Timestamp),
        })
    }
}

impl v1::Rollout {
    /// A rollout for people, without who made it and the names of its hosts.
    #[must_use]
    pub fn of(rollout: &Rollout) -> Self {
        Self {
            fleet: rollout.fleet.to_string(),
            revision: rollout.revision,
            state: rollout_state(rollout.state).into(),
            hosts: Vec::new(),
            started_ms: rollout.started.0,
            deadline_ms: rollout.deadline.0,
            ended_ms: rollout.ended.map(|at| at.0),
            author: String::new(),
            batch: rollout.batch,
            hold: rollout.hold.clone().map(Into::into),
            ready_since_ms: rollout.ready_since.map(|at| at.0),
            back_to: rollout.back_to,
            cause: rollout.cause.clone().unwrap_or_default(),
            policy: Some(rollout.policy.clone().into()),
            offline: offline_to(rollout.offline).into(),
        }
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
            batch: progress.batch.unwrap_or_default(),
            kept: progress.kept,
            staged: progress.staged,
            failed: progress.failed.clone().unwrap_or_default(),
            stray: progress.stray,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(at: u32, outcome: Outcome) -> HostProgress {
        let some = |number: u32| (at % 2 == 1).then_some(number);
        let time = |ms: u64| (at % 2 == 1).then_some(Timestamp(ms));
        HostProgress {
            place: at,
            spread: some(1).map(|_| "b".into()),
            kept: at % 3 == 1,
            stray: at % 3 == 2,
            batch: some(2),
            staged: at % 3 == 2,
            staging: some(3).map(u64::from),
            generation: some(4).map(u64::from),
            heard: at % 3 == 1,
            returning: at.is_multiple_of(3),
            back: some(5).map(u64::from),
            lost: at.is_multiple_of(2),
            outcome,
            failed: some(1).map(|_| "it broke".into()),
            since: time(6),
            failing_since: time(7),
            offline_since: time(8),
            restarts: some(9),
        }
    }

    #[test]
    fn a_rollout_survives_the_store() {
        let outcomes = [
            Outcome::Pending,
            Outcome::Staging,
            Outcome::Changing("staging".into()),
            Outcome::Ready,
            Outcome::Offline,
            Outcome::Failed("exit 1".into()),
            Outcome::GoingBack("starting".into()),
            Outcome::Back,
        ];
        let states = [
            State::Planned,
            State::Staging,
            State::Changing,
            State::Monitoring,
            State::Waiting,
            State::RollingBack,
            State::Completed,
            State::Partial,
            State::RolledBack,
            State::Aborted,
            State::Failed,
            State::TimedOut,
            State::Superseded,
        ];
        let holds = [HoldKind::Operator, HoldKind::Failure, HoldKind::Promotion, HoldKind::Window];
        let hold = |at: usize| Hold {
            kind: holds[at % 4],
            why: "ann paused it".into(),
            since: Timestamp(3),
            remaining: Duration::from_secs(4),
        };
        for (at, state) in states.into_iter().enumerate() {
            let hosts = outcomes.iter().zip(0_u32..);
            let hosts = hosts.map(|(outcome, at)| {
                (format!("h{at}").parse().unwrap(), host(at, outcome.clone()))
            });
            let rollout = Rollout {
                fleet: "shop".parse().unwrap(),
                revision: 4,
                back_to: (at % 2 == 0).then_some(3),
                policy: Policy {
                    batches: vec!["2".parse().unwrap(), "30%".parse().unwrap()],
                    monitor: Duration::from_secs(30),
                    max_failures: 2,
                    on_failure: [OnFailure::Rollback, OnFailure::Pause][at % 2],
                    batch_timeout: Duration::from_secs(90),
                    spread: Some("site".into()),
                    promote: [Promote::Auto, Promote::Canary, Promote::Each][at % 3],
                    windows: vec!["sat 22:00-04:00".parse().unwrap()],
                    stage_ahead: true,
                },
                offline: [Offline::Wait, Offline::Skip][at % 2],
                timeout: Duration::from_secs(600),
                state,
                hold: (at % 3 > 0).then(|| hold(at)),
                batch: 2,
                proofs: 1,
                promoted: 1,
                ready_since: Some(Timestamp(5)),
                cause: Some("it failed".into()),
                hosts: hosts.collect(),
                started: Timestamp(1),
                deadline: Timestamp(2),
                ended: state.is_final().then_some(Timestamp(2)),
            };
            assert_eq!(Rollout::try_from(rollout_record(&rollout)), Ok(rollout));
        }
    }

    #[test]
    fn a_rollout_of_an_earlier_version_is_read() {
        let record = store::RolloutRecord {
            fleet: "shop".into(),
            revision: 1,
            state: RolloutState::Completed.into(),
            ..store::RolloutRecord::default()
        };
        let rollout = Rollout::try_from(record).unwrap();
        assert_eq!((rollout.policy, rollout.back_to), (Policy::default(), None));
    }
}
