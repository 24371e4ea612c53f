//! Who keeps others from changing a fleet: a lock that someone took, which expires, or a rollout
//! that has not ended.
//!
//! A lock keeps others than its holder from an apply, and from an undo that makes a revision. What
//! holds or ends a rollout is never kept from those who may do it: a lock must not stand between
//! an operator and a fleet that breaks.
//!
//! Way in: [`Held`] as it was read, which goes into the transaction of whoever relies on it.
//!
//! Deliberately absent: waiting for a lock. Callers try again.

use std::time::Duration;

use shoal_core::infra::is_infra;
use shoal_core::name::FleetName;
use shoal_core::rollout::{Rollout, State};
use shoal_core::time::Timestamp;
use shoal_proto::v1::store::LockRecord;
use shoal_proto::v1::{Lock, LockRequest, LockResponse, UnlockRequest, UnlockResponse};

use crate::access::{Caller, Role, Standing};
use crate::audit;
use crate::fleets_api::known;
use crate::refusal::Refusal;
use crate::store::{Batch, CommitError, RecordError, Records, Stored};

/// How long a lock holds where nothing is said, and at most.
const USUAL: Duration = Duration::from_secs(60 * 60);
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
/// Characters of a reason.
const LONGEST_REASON: usize = 256;
/// How often it is tried again where others change the same.
const ATTEMPTS: usize = 8;

/// A fleet's lock as it was read; there may be none, or one that has expired.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    fleet: String,
    stored: Option<Stored<LockRecord>>,
}

impl Held {
    /// The lock of `fleet`.
    ///
    /// # Errors
    /// The store fails, or a record in it is damaged.
    pub async fn load(records: &Records, fleet: &str) -> Result<Self, Refusal> {
        Ok(Self { fleet: fleet.to_owned(), stored: records.get(fleet).await? })
    }

    /// The lock that holds at `now`.
    #[must_use]
    pub fn lock(&self, now: Timestamp) -> Option<&Lock> {
        let lock = self.stored.as_ref()?.record.lock.as_ref()?;
        (now.0 < lock.until_ms).then_some(lock)
    }

    /// Refuses `who` where someone else holds it.
    ///
    /// # Errors
    /// [`Refusal::Conflict`], which says who, why and until when.
    pub fn must_not_stop(&self, who: &str, now: Timestamp) -> Result<(), Refusal> {
        let Some(lock) = self.lock(now).filter(|lock| lock.holder != who) else { return Ok(()) };
        let fleet = &self.fleet;
        let reason = match lock.reason.as_str() {
            "" => String::new(),
            reason => format!(" ({reason})"),
        };
        Err(Refusal::Conflict(format!(
            "fleet {fleet} is locked: {} holds it since {}{reason}, until {} at the latest; wait \
             with --lock-wait, ask them, or have an operator end it with `shoal rollout unlock \
             {fleet} --force`",
            short(&lock.holder),
            moment(Timestamp(lock.since_ms), now),
            moment(Timestamp(lock.until_ms), now),
        )))
    }

    /// Lets `batch` happen only if the lock is as it was read.
    ///
    /// # Errors
    /// The fleet's name makes no key.
    pub fn relied_on(&self, batch: &mut Batch) -> Result<(), RecordError> {
        match &self.stored {
            Some(stored) => batch.unchanged(stored)?,
            None => batch.absent::<LockRecord>(&self.fleet)?,
        };
        Ok(())
    }
}

/// That a rollout which has not ended stands in the way of another.
#[must_use]
pub fn being_rolled_out(rollout: &Rollout, author: &str, now: Timestamp) -> Refusal {
    let Rollout { fleet, revision, .. } = rollout;
    let what = match rollout.state {
        State::RollingBack => "being taken back, rolled out",
        _ if rollout.hold.is_some() => "held in the middle of its rollout",
        _ => "being rolled out",
    };
    Refusal::Conflict(format!(
        "fleet {fleet} is locked: revision {revision} is {what} by {} since {}, until {} at the \
         latest; wait with --lock-wait, look at it with `shoal rollout watch {fleet}`, or take \
         its place with --replace",
        short(author),
        moment(rollout.started, now),
        moment(rollout.deadline, now),
    ))
}

/// That hosts which `fleet` would change are being changed by the rollout of another, and one of the
/// two brings an infra version. `on` names them, and says whether they are several.
#[must_use]
pub fn busy_hosts(
    fleet: &FleetName,
    other: &Rollout,
    author: &str,
    (several, hosts): (bool, String),
    now: Timestamp,
) -> Refusal {
    let Rollout { fleet: name, revision, .. } = other;
    let what = match is_infra(name) {
        true => format!("{name} revision {revision}"),
        false => format!("revision {revision} of fleet {name}"),
    };
    let hosts = if several { format!("hosts {hosts}") } else { format!("host {hosts}") };
    Refusal::Conflict(format!(
        "fleet {fleet} is locked: {what} is being rolled out on {hosts} by {} since {}, until {} \
         at the latest, and an infra version changes everything on its hosts; wait with \
         --lock-wait, or look at it with `shoal rollout watch {name}`",
        short(author),
        moment(other.started, now),
        moment(other.deadline, now),
    ))
}

/// Takes the lock of a fleet, or holds it for longer.
///
/// # Errors
/// [`Refusal::Conflict`] where someone else holds it.
pub async fn lock(
    records: &Records,
    request: LockRequest,
    caller: &Caller,
    now: Timestamp,
) -> Result<LockResponse, Refusal> {
    let LockRequest { fleet, reason, for_ms } = request;
    let span = if for_ms == 0 { USUAL } else { Duration::from_millis(for_ms) };
    if span > LONGEST {
        return Err(Refusal::Invalid("a lock holds for at most 24 hours".into()));
    }
    one_line("the reason of a lock", &reason)?;
    let who = caller.to_string();
    for _ in 0..ATTEMPTS {
        let fleet_record = known(records, &fleet).await?.fleet;
        let held = Held::load(records, &fleet).await?;
        held.must_not_stop(&who, now)?;
        let since_ms = held.lock(now).map_or(now.0, |lock| lock.since_ms);
        let until_ms = now.after(span).0;
        let lock = Lock { holder: who.clone(), reason: reason.clone(), since_ms, until_ms };
        let record = LockRecord { lock: Some(lock.clone()) };
        let mut batch = Batch::new();
        // The fleet must not go meanwhile.
        batch.exists::<shoal_proto::v1::store::FleetRecord>(&fleet_record.id)?;
        match &held.stored {
            Some(stored) => batch.replace(stored, &record)?,
            None => batch.create(&fleet, &record)?,
        };
        let detail = format!("for {} s{}", span.as_secs(), said(&reason));
        if commit(records, batch, (&who, "Rollouts/Lock", &fleet, &detail), now).await? {
            return Ok(LockResponse { lock: Some(lock) });
        }
    }
    Err(busy(&fleet))
}

/// Gives the lock of a fleet up; idempotent.
///
/// # Errors
/// [`Refusal::Denied`] where it is someone else's, and either `force` was not said or the caller
/// may not.
pub async fn unlock(
    records: &Records,
    request: UnlockRequest,
    caller: &Caller,
    now: Timestamp,
) -> Result<UnlockResponse, Refusal> {
    let UnlockRequest { fleet, force } = request;
    let who = caller.to_string();
    for _ in 0..ATTEMPTS {
        known(records, &fleet).await?;
        let held = Held::load(records, &fleet).await?;
        let Some(stored) = &held.stored else { return Ok(UnlockResponse { was_locked: false }) };
        let lock = held.lock(now);
        if let Some(lock) = lock.filter(|lock| lock.holder != who) {
            may_force(lock, caller, force, &fleet)?;
        }
        let detail = match lock {
            Some(lock) if lock.holder != who => format!("held by {}, by force", lock.holder),
            Some(_) => String::new(),
            None => "expired".to_owned(),
        };
        let mut batch = Batch::new();
        batch.remove(stored)?;
        if commit(records, batch, (&who, "Rollouts/Unlock", &fleet, &detail), now).await? {
            return Ok(UnlockResponse { was_locked: lock.is_some() });
        }
    }
    Err(busy(&fleet))
}

fn may_force(lock: &Lock, caller: &Caller, force: bool, fleet: &str) -> Result<(), Refusal> {
    let holder = short(&lock.holder);
    if !force {
        return Err(Refusal::Denied(format!(
            "fleet {fleet} is locked: {holder} holds it, so it is theirs to unlock; an operator \
             ends it with `shoal rollout unlock {fleet} --force`"
        )));
    }
    match caller.standing {
        Standing::Person(role) if role >= Role::Operator => Ok(()),
        _ => Err(Refusal::Denied(format!(
            "fleet {fleet} is locked: {holder} holds it, and to end someone else's lock needs the \
             role operator; ask one"
        ))),
    }
}

/// Commits with an audit entry; whether nobody came in between.
async fn commit(
    records: &Records,
    mut batch: Batch,
    (who, what, fleet, detail): (&str, &str, &str, &str),
    now: Timestamp,
) -> Result<bool, Refusal> {
    let (id, entry) = audit::entry(&who, what, fleet, detail, now);
    batch.create(&id, &entry)?;
    match records.commit(batch).await {
        Ok(_) => Ok(true),
        Err(CommitError::Conflict { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// That others change the same all the time.
pub(crate) fn busy(fleet: &str) -> Refusal {
    Refusal::Conflict(format!("fleet {fleet} is being changed by others all the time; try again"))
}

/// Refuses a text that is not short, or more than a line.
pub(crate) fn one_line(what: &str, text: &str) -> Result<(), Refusal> {
    if text.chars().count() > LONGEST_REASON || text.chars().any(char::is_control) {
        let most = LONGEST_REASON;
        return Err(Refusal::Invalid(format!("{what} is one line of at most {most} characters")));
    }
    Ok(())
}

/// A reason at the end of a text, or nothing.
pub(crate) fn said(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(": {reason}") }
}

/// An identity in short: `ann` of a person, `ci/deploy` of anything else.
pub(crate) fn short(identity: &str) -> &str {
    let path = identity.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/'));
    let path = path.map_or(identity, |(_, path)| path);
    path.strip_prefix("user/").unwrap_or(path)
}

/// A time for people: without the day where it is near.
fn moment(at: Timestamp, now: Timestamp) -> String {
    const NEAR: u64 = 12 * 60 * 60 * 1000;
    let format = if at.0.abs_diff(now.0) < NEAR { "%H:%M UTC" } else { "%Y-%m-%d %H:%M UTC" };
    let millis = i64::try_from(at.0).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(millis)
        .map_or_else(|_| at.0.to_string(), |at| at.strftime(format).to_string())
}

#[cfg(test)]
mod tests;
