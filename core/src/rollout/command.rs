//! What operators say to a rollout.

use std::time::Duration;

use super::{HoldKind, LONGEST_HOLD, Rollout, State};
use crate::time::Timestamp;

/// What an operator wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Begin nothing more; what is under way on a host goes on.
    Pause {
        /// For how long at most; the rollout ends where nobody resumes it by then.
        hold: Option<Duration>,
    },
    /// Go on after a pause or a failure.
    Resume,
    /// Go on behind a gate.
    Promote,
    /// End it and leave everything as it is.
    Abort,
    /// Go back to the revision before.
    GoBack,
}

/// Why it can't be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is over.
    #[error("the rollout has ended")]
    Ended,
    /// It is held already.
    #[error("the rollout is held already; `resume` or `promote` lets it go on")]
    Held,
    /// It is not.
    #[error("the rollout is not paused")]
    NotPaused,
    /// It is, but for something else.
    #[error("the rollout waits for its maintenance window; abort it, or apply with others")]
    Window,
    /// There is no gate.
    #[error("the rollout waits for no `promote`")]
    NoGate,
    /// It does that.
    #[error("the rollout is going back already")]
    GoingBack,
    /// There is no revision before.
    #[error(
        "there is nothing to go back to: no host was changed, or no earlier revision was proved"
    )]
    NothingBefore,
}

/// The rollout after `who` has said `command`, for the reason `why`, which may be empty.
///
/// # Errors
/// Where it makes no sense now; nothing has changed then.
pub fn command(
    mut rollout: Rollout,
    command: Command,
    (who, why): (&str, &str),
    now: Timestamp,
) -> Result<Rollout, Refused> {
    if rollout.state.is_final() {
        return Err(Refused::Ended);
    }
    let held = rollout.hold.as_ref().map(|hold| hold.kind);
    let said = |what: &str| match why {
        "" => format!("{who} {what}"),
        why => format!("{who} {what}: {why}"),
    };
    match (command, held) {
        (Command::Pause { .. }, Some(HoldKind::Operator | HoldKind::Failure)) => {
            return Err(Refused::Held);
        }
        (Command::Pause { hold }, _) => {
            let until = now.after(hold.unwrap_or(LONGEST_HOLD).min(LONGEST_HOLD));
            rollout.hold(HoldKind::Operator, said("paused it"), until, now);
        }
        (Command::Resume, Some(HoldKind::Operator)) => rollout.release(now),
        (Command::Resume, Some(HoldKind::Failure)) => forgive(&mut rollout, now),
        (Command::Promote, Some(HoldKind::Promotion)) => {
            rollout.promoted = rollout.batch;
            rollout.release(now);
        }
        (Command::Promote, _) => return Err(Refused::NoGate),
        (Command::Resume, Some(HoldKind::Window)) => return Err(Refused::Window),
        (Command::Resume, Some(HoldKind::Promotion)) => return Err(Refused::Held),
        (Command::Resume, None) => return Err(Refused::NotPaused),
        (Command::Abort, _) => {
            rollout.cause = Some(said("aborted it"));
            rollout.end(State::Aborted, now);
        }
        (Command::GoBack, _) if rollout.state == State::RollingBack => {
            return Err(Refused::GoingBack);
        }
        (Command::GoBack, _) => {
            if !rollout.go_back(said("took it back"), now) {
                return Err(Refused::NothingBefore);
            }
        }
    }
    Ok(rollout)
}

/// Goes on although hosts failed: they are given their time once more. One that fails again holds
/// it again.
fn forgive(rollout: &mut Rollout, now: Timestamp) {
    use super::Outcome;
    rollout.release(now);
    rollout.cause = None;
    for host in rollout.hosts.values_mut() {
        if let Outcome::Failed(why) = &host.outcome {
            host.outcome = match host.generation {
                Some(_) => Outcome::Changing(format!("tried once more: {why}")),
                None => Outcome::Pending,
            };
            // One that was never told is chosen anew.
            host.batch = host.batch.filter(|_| host.generation.is_some());
            (host.failing_since, host.since) = (None, Some(now));
        }
    }
}
