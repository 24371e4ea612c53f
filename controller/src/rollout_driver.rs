//! The one task that moves rollouts: it looks at their hosts, writes down what follows, and tells
//! hosts.
//!
//! What to do is decided by `shoal_core::rollout`; here it is carried out ([`pass`]). What was
//! decided is written before anything is done, and a host's new desired state and the rollout's
//! knowing of it are one write, in which the fleet's newest revision is checked. So a controller
//! that is killed anywhere carries on from what the store says, and an older revision never
//! overwrites a newer one. Images that were asked for ahead of a change that never came are taken
//! out of the desired states again ([`leftovers`]).
//!
//! Ways in: [`run`] for the task, [`Driver::advance`] for one pass over one rollout.
//!
//! Deliberately absent: pushing to agents; they are sent what `host-specs/` says whenever it
//! changes.

mod leftovers;
mod pass;

pub(crate) use self::leftovers::remove as remove_leftovers;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _};
use shoal_core::name::HostId;
use shoal_core::rollout::{FAILURE_PATIENCE, OFFLINE_PATIENCE, Rollout, State};
use shoal_core::time::Timestamp;
use shoal_proto::v1::store::RolloutRecord;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::pass::{Interrupted, Pass};
use crate::fleets_api::revision::Revision;
use crate::live::Live;
use crate::records::revision_id;
use crate::refusal::Refusal;
use crate::store::{RecordWatch, Records};
use crate::{clock, inventory};

/// How often rollouts are looked at when nothing happens and nothing is due before.
const TICK: Duration = Duration::from_secs(1);

/// The least and the most time from one pass to the next. In between it is as long as the pass
/// took: whatever agents report, moving rollouts takes half of the time at most. A batch that
/// follows another is begun in the same pass.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// The pause after the store failed.
const RETRY: Duration = Duration::from_secs(2);

/// How long hosts that were connected to the controller before this one are not taken to be
/// offline. Agents that were left alone for long try twice a minute.
const REUNION: Duration = Duration::from_secs(45);

/// How often one pass tries again where others change the same records.
const ATTEMPTS: usize = 16;

/// Moves every unfinished rollout until `shutdown`. Run once, in a task of its own.
pub async fn run(records: Records, live: Live, shutdown: CancellationToken) {
    let driver = Driver::new(records, live);
    while !shutdown.is_cancelled() {
        let Err(refusal) = driver.drive(&shutdown).await else { return };
        tracing::error!(error = %refusal, "cannot move rollouts; will try again");
        shutdown.run_until_cancelled(tokio::time::sleep(RETRY)).await;
    }
}

/// What moves rollouts.
#[derive(Debug)]
pub struct Driver {
    records: Records,
    live: Live,
    /// When it first looked.
    began: OnceLock<Timestamp>,
    /// Those of unfinished rollouts: they never change, and are looked at all the time.
    revisions: Mutex<BTreeMap<String, Arc<Revision>>>,
}

impl Driver {
    /// A driver of the rollouts in `records`.
    #[must_use]
    pub fn new(records: Records, live: Live) -> Self {
        Self { records, live, began: OnceLock::new(), revisions: Mutex::default() }
    }

    /// Runs until `shutdown` or until the store fails.
    async fn drive(&self, shutdown: &CancellationToken) -> Result<(), Refusal> {
        let mut seen = self.live.changes();
        let listing = self.records.list::<RolloutRecord>().await?;
        let mut watch = self.records.watch::<RolloutRecord>(listing.revision)?;
        let unfinished = listing.records.iter().filter(|stored| !is_final(&stored.record));
        let mut active: BTreeSet<String> = unfinished.map(|stored| stored.id.clone()).collect();
        // A controller that was killed may have left some.
        let mut unswept = true;
        loop {
            let began = Instant::now();
            let pass = self.pass(&mut active).await;
            unswept |= pass.ended;
            unswept = unswept && !leftovers::remove(&self.records, &self.live).await?;
            let due = if unswept { RETRY } else { pass.due };
            tokio::time::sleep(began.elapsed().clamp(PAUSES.0, PAUSES.1)).await;
            // Each arm only waits; what it waits for is kept where it is not the first.
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                added = next_unfinished(&mut watch) => {
                    active.insert(added?);
                    // This driver's own writes come here too: they are looked at once.
                    while let Some(added) = next_unfinished(&mut watch).now_or_never() {
                        active.insert(added?);
                    }
                }
                // The sender is in `self.live`, so this never ends.
                _ = seen.changed(), if !active.is_empty() => {}
                () = tokio::time::sleep(due), if unswept || !active.is_empty() => {}
            }
        }
    }

    /// One pass over each of `active`; those that have ended are taken out.
    async fn pass(&self, active: &mut BTreeSet<String>) -> Passed {
        let (mut ended, mut due) = (Vec::new(), TICK);
        for id in active.iter() {
            match self.advance(id, clock::now()).await {
                Ok(Some(next)) => due = due.min(next),
                Ok(None) => ended.push(id.clone()),
                // One rollout's trouble holds up no other.
                Err(error) => tracing::error!(rollout = id, %error, "cannot move a rollout"),
            }
        }
        active.retain(|id| !ended.contains(id));
        Passed { ended: !ended.is_empty(), due }
    }

    /// Does all that can be done for one rollout at the moment: takes in what is known of its
    /// hosts, and tells those that are to be told. When something is due of it, at the latest;
    /// `None` where it has ended.
    ///
    /// Safe to repeat from any state of the store.
    ///
    /// # Errors
    /// The store fails, or a record in it is damaged. What was done before stays done.
    pub async fn advance(&self, id: &str, now: Timestamp) -> Result<Option<Duration>, Refusal> {
        for _ in 0..ATTEMPTS {
            let Some(pass) = Pass::begin(self, id, now).await? else {
                self.forget(id);
                return Ok(None);
            };
            match pass.carry_out().await {
                Ok(rollout) if rollout.state.is_final() => {
                    self.forget(id);
                    return Ok(None);
                }
                Ok(rollout) => return Ok(Some(due(&rollout, now))),
                Err(Interrupted::Conflict) => {}
                Err(Interrupted::Refused(refusal)) => return Err(refusal),
            }
        }
        // Others change the same records all the time; the next pass goes on.
        Ok(Some(TICK))
    }

    /// Whether a host that was connected before this controller started may be about to return.
    fn awaits(&self, host: &HostId, now: Timestamp) -> bool {
        let began = *self.began.get_or_init(|| now);
        now.since(began) < REUNION && self.live.is_awaited(host)
    }

    /// A revision that a rollout is about.
    async fn revision(&self, fleet: &str, number: u64) -> Result<Arc<Revision>, Refusal> {
        let id = revision_id(fleet, number);
        if let Some(known) = self.known().get(&id) {
            return Ok(Arc::clone(known));
        }
        let revision = Arc::new(inventory::revision(&self.records, fleet, number).await?);
        self.known().insert(id, Arc::clone(&revision));
        Ok(revision)
    }

    /// Forgets the revisions of a rollout's fleet.
    fn forget(&self, id: &str) {
        let fleet = id.split_once('/').map_or(id, |(fleet, _)| fleet);
        self.known().retain(|_, revision| revision.fleet.as_str() != fleet);
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Revision>>> {
        // Each change under the lock is whole before anything in it can panic.
        self.revisions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a pass came to.
struct Passed {
    /// Whether a rollout has ended.
    ended: bool,
    /// When to look again, at the latest.
    due: Duration,
}

/// When something is due of a rollout, whatever its hosts do: at a later look it would be late.
fn due(rollout: &Rollout, now: Timestamp) -> Duration {
    let policy = &rollout.policy;
    let watched = rollout.ready_since.filter(|_| rollout.state == State::Monitoring);
    let hosts = rollout.hosts.values().flat_map(|host| {
        [
            host.since.map(|since| since.after(policy.batch_timeout)),
            host.failing_since.map(|since| since.after(FAILURE_PATIENCE)),
            host.offline_since.map(|since| since.after(OFFLINE_PATIENCE)),
        ]
    });
    let own = [Some(rollout.deadline), watched.map(|since| since.after(policy.monitor))];
    let times = own.into_iter().chain(hosts).flatten().filter(|at| *at > now);
    times.map(|at| at.since(now)).min().unwrap_or(TICK).min(TICK)
}

/// The id of the next rollout that was made or changed and has not ended.
async fn next_unfinished(watch: &mut RecordWatch<RolloutRecord>) -> Result<String, Refusal> {
    while let Some(change) = watch.next().await {
        let change = change?;
        if change.record.is_some_and(|record| !is_final(&record)) {
            return Ok(change.id);
        }
    }
    Err(Refusal::Unavailable("the store has ended the watch of rollouts".into()))
}

fn is_final(record: &RolloutRecord) -> bool {
    record.ended_ms.is_some()
}

#[cfg(test)]
mod tests;
