//! What operators say to a rollout that has not ended: pause, resume, promote, abort.
//!
//! What it comes to is decided by `shoal_core::rollout`; here it is written, with who said it.
//! The driver sees the change and carries it out.

use std::time::Duration;

use shoal_core::rollout::{Command, Refused, Rollout, command};
use shoal_core::time::Timestamp;
use shoal_proto::convert::rollout_record;
use shoal_proto::v1::{ControlRolloutRequest, RolloutCommand};

use crate::audit;
use crate::fleets_api::known;
use crate::fleets_api::world::Newest;
use crate::locks::{busy, one_line, said, short};
use crate::refusal::Refusal;
use crate::store::{Batch, CommitError, Records};

/// How often it is tried again where the driver moves the rollout at the same time.
const ATTEMPTS: usize = 32;

/// Does what is asked of the unfinished rollout of a fleet; it and who made it.
///
/// # Errors
/// [`Refusal::Precondition`] where it makes no sense now, with what to do.
pub(crate) async fn control(
    records: &Records,
    request: ControlRolloutRequest,
    who: &str,
    now: Timestamp,
) -> Result<(String, Rollout), Refusal> {
    let (said, what) = wanted(&request)?;
    let ControlRolloutRequest { fleet, reason, .. } = request;
    one_line("a reason", &reason)?;
    for _ in 0..ATTEMPTS {
        let newest = known(records, &fleet).await?;
        let by = (short(who), reason.as_str());
        let next = commanded(&newest.rollout, said.clone(), by, now)?;
        let number = newest.revision.number;
        let detail = format!("{what} revision {number}{}", self::said(&reason));
        let call = ("Rollouts/Control", detail);
        if save(records, &newest, &next, who, call, now).await? {
            return Ok((newest.revision.author, next));
        }
    }
    Err(busy(&fleet))
}

fn wanted(request: &ControlRolloutRequest) -> Result<(Command, &'static str), Refusal> {
    let hold = Some(request.hold_ms).filter(|ms| *ms > 0).map(Duration::from_millis);
    Ok(match RolloutCommand::try_from(request.command) {
        Ok(RolloutCommand::Pause) => (Command::Pause { hold }, "pause"),
        Ok(RolloutCommand::Resume) => (Command::Resume, "resume"),
        Ok(RolloutCommand::Promote) => (Command::Promote, "promote"),
        Ok(RolloutCommand::Abort) => (Command::Abort, "abort"),
        Ok(RolloutCommand::Unspecified) | Err(_) => {
            return Err(Refusal::Invalid(format!(
                "{} is no command to a rollout that this controller knows; compare `shoal version`",
                request.command
            )));
        }
    })
}

/// The rollout after someone, in short, said something for a reason.
///
/// # Errors
/// As [`control`].
pub(crate) fn commanded(
    rollout: &Rollout,
    said: Command,
    by: (&str, &str),
    now: Timestamp,
) -> Result<Rollout, Refusal> {
    let next = command(rollout.clone(), said, by, now);
    next.map_err(|refused| Refusal::Precondition(refusal(rollout, refused)))
}

fn refusal(rollout: &Rollout, refused: Refused) -> String {
    let (fleet, number) = (&rollout.fleet, rollout.revision);
    let advice = match refused {
        Refused::Ended => {
            format!("`shoal rollout show {fleet}` tells how; `shoal apply` begins anew")
        }
        Refused::NothingBefore => format!(
            "`shoal rollout abort {fleet}` ends it, and `shoal apply` brings other contents"
        ),
        Refused::Held
        | Refused::NotPaused
        | Refused::Window
        | Refused::NoGate
        | Refused::GoingBack => format!("`shoal rollout show {fleet}` tells where it is"),
    };
    format!("fleet {fleet}, revision {number}: {refused}; {advice}")
}

/// Writes `next` in the place of the newest rollout, with an audit entry; whether it was as read.
///
/// # Errors
/// The store fails.
pub(crate) async fn save(
    records: &Records,
    newest: &Newest,
    next: &Rollout,
    who: &str,
    (call, detail): (&str, String),
    now: Timestamp,
) -> Result<bool, Refusal> {
    let mut batch = Batch::new();
    batch.unchanged(&newest.fleet)?.replace(&newest.rollout_record, &rollout_record(next))?;
    let (id, entry) = audit::entry(&who, call, next.fleet.as_str(), &detail, now);
    batch.create(&id, &entry)?;
    match records.commit(batch).await {
        Ok(_) => Ok(true),
        Err(CommitError::Conflict { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests;
