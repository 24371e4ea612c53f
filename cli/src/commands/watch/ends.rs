//! What the end of a rollout means: one line, and an exit code.

use super::what;
use crate::output::text::{count, printable};
use crate::view::rollout::{HoldKind, HoldView, Outcome, RolloutView, State, names};

/// Why a rollout did not come to a good end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WatchError {
    #[error(
        "the rollout of {what} failed{why}; `shoal rollout show {fleet}` and `shoal logs` say more: \
         apply a spec that works, or go back with `shoal rollout undo {fleet}`"
    )]
    Failed { what: String, fleet: String, why: String },
    #[error(
        "the rollout of {what} was rolled back{to}{why}; `shoal rollout show {fleet}` and `shoal \
         logs` say more: apply a spec that works"
    )]
    RolledBack { what: String, fleet: String, to: String, why: String },
    #[error("the rollout of {what} is partial{why}; {next}")]
    Partial { what: String, why: String, next: String },
    #[error(
        "the rollout of {what} timed out{why}; `shoal status {fleet}` says how it is now: apply \
         again to go on, or go back with `shoal rollout undo {fleet}`"
    )]
    TimedOut { what: String, fleet: String, why: String },
    #[error(
        "the rollout of {what} was superseded by a newer revision; see `shoal rollout list {fleet}`"
    )]
    Superseded { what: String, fleet: String },
    #[error(
        "the rollout of {what} was aborted{why}, and its hosts are left as they were then ({hosts}): \
         apply again to go on, or go back with `shoal rollout undo {fleet}`"
    )]
    Aborted { what: String, fleet: String, why: String, hosts: String },
    #[error(
        "the rollout of {what} is {why}; have a look (`shoal rollout show {fleet}`, `shoal logs`), \
         then `shoal rollout resume {fleet}`, `undo` or `abort`"
    )]
    PausedByFailure { what: String, fleet: String, why: String },
    #[error("the rollout of {what} is {why}; {next}")]
    Held { what: String, why: String, next: String },
    #[error(
        "the end of the rollout of {what} was not seen in time{why}; see `shoal rollout watch \
         {fleet}`"
    )]
    StillRunning { what: String, fleet: String, why: String },
    #[error("interrupted; the rollout of {what} goes on: see `shoal rollout watch {fleet}`")]
    Interrupted { what: String, fleet: String },
}

/// What was wanted of a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::commands) enum Goal {
    /// That every host proves healthy at the revision.
    Forward,
    /// That every host is back at the one before.
    Back,
}

/// The line that says that all went well, or an error where a rollout did not come to a good end.
pub(in crate::commands) fn conclude(
    rollout: &RolloutView,
    goal: Goal,
) -> Result<String, WatchError> {
    let fleet = rollout.fleet.clone();
    let what = what(&fleet, rollout.revision);
    let why = format!("{}{}", rollout.because(), rollout.troubled());
    Err(match (rollout.state, &rollout.hold) {
        (State::Completed, _) if goal == Goal::Forward => return Ok(success(rollout)),
        (State::RolledBack, _) if goal == Goal::Back => return Ok(success(rollout)),
        // It was through before it could go back.
        (State::Completed, _) => WatchError::Superseded { what, fleet },
        (State::RolledBack, _) => {
            let to = rollout.back_to.map_or(String::new(), |to| format!(" to revision {to}"));
            WatchError::RolledBack { what, fleet, to, why }
        }
        (State::Failed, _) => WatchError::Failed { what, fleet, why },
        (State::Partial, _) => WatchError::Partial { what, why, next: catching_up(rollout) },
        (State::TimedOut, _) => {
            let why = format!("{}{}", rollout.because(), not_ready(rollout));
            WatchError::TimedOut { what, fleet, why }
        }
        (State::Superseded, _) => WatchError::Superseded { what, fleet },
        (State::Aborted, _) => {
            WatchError::Aborted { what, fleet, why: rollout.because(), hosts: rollout.summary() }
        }
        (_, Some(hold)) => held(rollout, hold),
        (_, None) => {
            let why = format!(": it is {}{}", rollout.state_text(), rollout.troubled());
            WatchError::StillRunning { what, fleet, why }
        }
    })
}

fn success(rollout: &RolloutView) -> String {
    let RolloutView { fleet, revision, hosts, .. } = rollout;
    if rollout.state != State::RolledBack {
        return format!(
            "fleet {fleet} is at revision {revision}: {} ready",
            count(hosts.len(), "host")
        );
    }
    let to = rollout.back_to.map_or("before".to_owned(), |to| to.to_string());
    let back = rollout.with(Outcome::Back).count();
    let troubled = rollout.troubled();
    format!("fleet {fleet} is back at revision {to}: {} back{troubled}", count(back, "host"))
}

/// What becomes of the hosts that are offline. Where no host proved the revision, no more of them
/// were told of it than the canary.
fn catching_up(rollout: &RolloutView) -> String {
    let fleet = &rollout.fleet;
    let untold = rollout.with(Outcome::Offline).filter(|host| host.generation.is_none());
    match names(untold) {
        none if none.is_empty() => format!(
            "hosts that are offline catch up by themselves when they return, and `shoal status \
             {fleet}` says when all is as wanted"
        ),
        untold => format!(
            "no host proved it, so these were not told of it: {untold}; apply again when they are \
             back"
        ),
    }
}

/// Hosts that are not ready, whatever the reason.
fn not_ready(rollout: &RolloutView) -> String {
    let names = names(rollout.hosts.iter().filter(|host| host.outcome != Outcome::Ready));
    if names.is_empty() { names } else { format!(" (not ready: {names})") }
}

fn held(rollout: &RolloutView, hold: &HoldView) -> WatchError {
    let fleet = &rollout.fleet;
    let what = what(fleet, rollout.revision);
    let why = printable(&rollout.hold_text().unwrap_or_default()) + &rollout.troubled();
    let next = match hold.kind {
        HoldKind::Failure => {
            return WatchError::PausedByFailure { what, fleet: fleet.clone(), why };
        }
        HoldKind::Promotion => format!("have a look, then `shoal rollout promote {fleet}`"),
        HoldKind::Operator => format!("`shoal rollout resume {fleet}` lets it go on"),
        HoldKind::Window => format!("it goes on by itself then: `shoal rollout watch {fleet}`"),
    };
    WatchError::Held { what, why, next }
}
