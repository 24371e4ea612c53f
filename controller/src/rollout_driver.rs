//! The one task that moves rollouts: it tells hosts, looks at them, and writes down what it saw.
//!
//! What to do is decided by `shoal_core::rollout`; here it is carried out, each transition in one
//! transaction. A host's new desired state and the rollout's knowing of it are one write, and the
//! fleet's newest revision is checked in it. So a controller that is killed anywhere carries on
//! from what the store says, and an older revision never overwrites a newer one.
//!
//! Ways in: [`run`] for the task, [`advance`] for one pass over one rollout.
//!
//! Deliberately absent: pushing to agents; they are sent what `host-specs/` says whenever it
//! changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use shoal_core::host::{Host, HostSpec};
use shoal_core::name::{HostId, InstanceId, InstanceName};
use shoal_core::placement::{order_of, ranks as ranks_of, with_fleet};
use shoal_core::rollout::{self, Action, Observation, Outcome, Rollout};
use shoal_core::spec::InstanceConfig;
use shoal_core::status::HostStatus;
use shoal_core::time::Timestamp;
use shoal_proto::convert::rollout_record;
use shoal_proto::v1::store::{FleetRecord, HostRecord, HostSpecRecord, RolloutRecord};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::fleets_api::revision::Revision;
use crate::fleets_api::{superseded, world};
use crate::live::Live;
use crate::peers::Seats;
use crate::refusal::Refusal;
use crate::store::{Batch, CommitError, RecordWatch, Records, Stored};
use crate::{clock, inventory};
use shoal_core::cause::chain;

/// How often deadlines are looked at when nothing happens.
const TICK: Duration = Duration::from_secs(1);

/// The least and the most time from one pass to the next. In between it is as long as the pass
/// took: whatever agents report, moving rollouts takes half of the time at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(3), Duration::from_millis(100));

/// The pause after the store failed.
const RETRY: Duration = Duration::from_secs(2);

/// Characters of a host's reason that are kept: agents write them, and a rollout has many hosts.
const LONGEST_REASON: usize = 300;

/// How often one pass tries again where others change the same records.
const ATTEMPTS: usize = 16;

/// Moves every unfinished rollout until `shutdown`. Run once, in a task of its own.
pub async fn run(records: Records, live: Live, shutdown: CancellationToken) {
    let driver = Driver { records, live };
    while !shutdown.is_cancelled() {
        let Err(refusal) = driver.drive(&shutdown).await else { return };
        tracing::error!(error = %refusal, "cannot move rollouts; will try again");
        shutdown.run_until_cancelled(tokio::time::sleep(RETRY)).await;
    }
}

struct Driver {
    records: Records,
    live: Live,
}

impl Driver {
    /// Runs until `shutdown` or until the store fails.
    async fn drive(&self, shutdown: &CancellationToken) -> Result<(), Refusal> {
        let mut seen = self.live.changes();
        let listing = self.records.list::<RolloutRecord>().await?;
        let mut watch = self.records.watch::<RolloutRecord>(listing.revision)?;
        let unfinished = listing.records.iter().filter(|stored| !is_final(&stored.record));
        let mut active: BTreeSet<String> = unfinished.map(|stored| stored.id.clone()).collect();
        loop {
            let began = Instant::now();
            self.pass(&mut active).await;
            tokio::time::sleep(began.elapsed().clamp(PAUSES.0, PAUSES.1)).await;
            // Each arm only waits; what it waits for is kept where it is not the first.
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                added = next_unfinished(&mut watch) => { active.insert(added?); }
                // The sender is in `self.live`, so this never ends.
                _ = seen.changed(), if !active.is_empty() => {}
                () = tokio::time::sleep(TICK), if !active.is_empty() => {}
            }
        }
    }

    /// One pass over each of `active`; those that have ended are taken out.
    async fn pass(&self, active: &mut BTreeSet<String>) {
        let mut ended = Vec::new();
        for id in active.iter() {
            match advance(&self.records, &self.live, id, clock::now()).await {
                Ok(true) => ended.push(id.clone()),
                Ok(false) => {}
                // One rollout's trouble holds up no other.
                Err(error) => tracing::error!(rollout = id, %error, "cannot move a rollout"),
            }
        }
        active.retain(|id| !ended.contains(id));
    }
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

/// Does all that can be done for one rollout at the moment: tells every host that has yet to be
/// told, and takes in what is known of them. Whether the rollout has ended.
///
/// Safe to repeat from any state of the store.
///
/// # Errors
/// The store fails, or a record in it is damaged. What was done before stays done.
pub async fn advance(
    records: &Records,
    live: &Live,
    id: &str,
    now: Timestamp,
) -> Result<bool, Refusal> {
    for _ in 0..ATTEMPTS {
        let Some(pass) = Pass::begin(records, live, id, now).await? else { return Ok(true) };
        match pass.carry_out().await {
            Ok(ended) => return Ok(ended),
            Err(Interrupted::Conflict) => {}
            Err(Interrupted::Refused(refusal)) => return Err(refusal),
        }
    }
    // Others change the same records all the time; the next pass goes on.
    Ok(false)
}

/// Why a pass ended early.
enum Interrupted {
    /// Something that it had read was changed; read again.
    Conflict,
    Refused(Refusal),
}

impl<E: Into<Refusal>> From<E> for Interrupted {
    fn from(error: E) -> Self {
        Self::Refused(error.into())
    }
}

/// One rollout as it was read, and what is done with it.
struct Pass<'a> {
    records: &'a Records,
    live: &'a Live,
    now: Timestamp,
    fleet: Stored<FleetRecord>,
    stored: Stored<RolloutRecord>,
    rollout: Rollout,
}

impl<'a> Pass<'a> {
    /// `None` where there is nothing left to do.
    async fn begin(
        records: &'a Records,
        live: &'a Live,
        id: &str,
        now: Timestamp,
    ) -> Result<Option<Self>, Refusal> {
        let Some(stored) = records.get::<RolloutRecord>(id).await? else { return Ok(None) };
        let rollout = world::rollout(&stored)?;
        if rollout.state.is_final() {
            return Ok(None);
        }
        let fleet = records.get::<FleetRecord>(rollout.fleet.as_str()).await?;
        let fleet = fleet.ok_or_else(|| {
            inventory::damaged::<FleetRecord>(rollout.fleet.as_str(), "it is not there")
        })?;
        Ok(Some(Self { records, live, now, fleet, stored, rollout }))
    }

    async fn carry_out(mut self) -> Result<bool, Interrupted> {
        if self.fleet.record.revision != self.rollout.revision {
            let ended = superseded(&self.rollout, self.now);
            self.save(ended, Batch::new()).await?;
            return Ok(true);
        }
        self.tell_all().await?;
        let next = self.look();
        if next != self.rollout {
            self.save(next, Batch::new()).await?;
        }
        Ok(self.rollout.state.is_final())
    }

    /// Puts the revision into the desired state of every host that does not have it.
    async fn tell_all(&mut self) -> Result<(), Interrupted> {
        let actions = rollout::actions(&self.rollout);
        if actions.is_empty() {
            return Ok(());
        }
        let Rollout { fleet, revision, .. } = &self.rollout;
        let revision = inventory::revision(self.records, fleet.as_str(), *revision).await?;
        let hosts = inventory::hosts(self.records).await?;
        let seats = Seats::new(&revision.fleet, &revision.hosts, &hosts);
        let mut actions: Vec<HostId> = actions.into_iter().map(|Action::Change(h)| h).collect();
        let ranks = ranks(&revision);
        actions.sort_by_key(|host| ranks.get(host).copied());
        for host in actions {
            match hosts.iter().find(|known| known.id == host) {
                Some(host) => self.tell(&revision, &seats, host).await?,
                None => self.give_up(&host, "the host was removed").await?,
            }
        }
        Ok(())
    }

    async fn tell(
        &mut self,
        revision: &Revision,
        seats: &Seats<'_>,
        to: &Host,
    ) -> Result<(), Interrupted> {
        let host = &to.id;
        let before = self.records.get::<HostSpecRecord>(host.as_str()).await?;
        let spec = before.as_ref().map(inventory::spec).transpose()?.unwrap_or_default();
        let nothing = BTreeMap::new();
        let configs = revision.hosts.get(host).unwrap_or(&nothing);
        let peers = seats.told_to(to, configs);
        let after = with_fleet(&spec, &revision.fleet, revision.number, configs, &peers);
        let seen = self.live.status(host).map_or(0, |status| status.observed_generation);
        let after = spec.followed_by(after, seen);
        let generation = after.generation;
        let mut batch = Batch::new();
        batch.exists::<HostRecord>(host.as_str())?;
        put_spec(&mut batch, host, before.as_ref(), &spec, after)?;
        let told = rollout::told(self.rollout.clone(), host, generation);
        match self.save(told, batch).await {
            Err(Interrupted::Refused(refusal)) if is_permanent(&refusal) => {
                self.give_up(host, &refusal.to_string()).await
            }
            saved => saved,
        }
    }

    /// Notes that a host can't be told, and goes on with the others.
    async fn give_up(&mut self, host: &HostId, why: &str) -> Result<(), Interrupted> {
        let mut next = self.rollout.clone();
        let Some(progress) = next.hosts.get_mut(host) else { return Ok(()) };
        progress.outcome = Outcome::Failed(shortened(why));
        if next == self.rollout { Ok(()) } else { self.save(next, Batch::new()).await }
    }

    /// The rollout after a look at its hosts.
    fn look(&self) -> Rollout {
        let statuses: BTreeMap<&HostId, (bool, Option<Arc<HostStatus>>)> = self
            .rollout
            .hosts
            .keys()
            .map(|host| {
                let online = self.live.presence(host).is_some_and(|presence| presence.online);
                (host, (online, self.live.fresh_status(host)))
            })
            .collect();
        let observe = |host: &HostId| match statuses.get(host) {
            Some((online, status)) => Observation { online: *online, status: status.as_deref() },
            None => Observation { online: false, status: None },
        };
        let mut next = rollout::step(self.rollout.clone(), observe, self.now);
        for (host, progress) in &mut next.hosts {
            match &mut progress.outcome {
                Outcome::Changing(why) => {
                    // An agent that refused its desired state is not merely slow.
                    let problem = self.live.problems(host).into_iter().next();
                    *why = shortened(&problem.unwrap_or_else(|| std::mem::take(why)));
                }
                Outcome::Failed(why) => *why = shortened(why),
                Outcome::Pending | Outcome::Ready | Outcome::Offline => {}
            }
        }
        next
    }

    /// Writes `next` in the rollout's place together with what is in `batch`, if the fleet and
    /// the rollout are as they were read.
    async fn save(&mut self, next: Rollout, mut batch: Batch) -> Result<(), Interrupted> {
        let record = rollout_record(&next);
        batch.unchanged(&self.fleet)?.replace(&self.stored, &record)?;
        let modified = match self.records.commit(batch).await {
            Ok(revision) => revision,
            Err(CommitError::Conflict { .. }) => return Err(Interrupted::Conflict),
            Err(error @ CommitError::TooLarge { .. }) => {
                return Err(Refusal::Exhausted(chain(&error)).into());
            }
            Err(error) => return Err(error.into()),
        };
        self.stored = Stored { record, modified, ..self.stored.clone() };
        self.rollout = next;
        Ok(())
    }
}

/// How many instances come, at most, before the first one of each host: hosts are told in this
/// order, so that whoever waits for an instance waits for the new one.
fn ranks(revision: &Revision) -> BTreeMap<HostId, usize> {
    let ranks = ranks_of(&order_of(&revision.spec));
    let first = |configs: &BTreeMap<InstanceName, InstanceConfig>| {
        let rank = |instance: &InstanceName| {
            let id = InstanceId { fleet: revision.fleet.clone(), instance: instance.clone() };
            ranks.get(&id).copied()
        };
        configs.keys().filter_map(rank).min()
    };
    let hosts = revision.hosts.iter();
    hosts.filter_map(|(host, configs)| Some((host.clone(), first(configs)?))).collect()
}

/// Adds the host's new desired state to `batch`; where nothing in it changes, that it has not.
fn put_spec(
    batch: &mut Batch,
    host: &HostId,
    before: Option<&Stored<HostSpecRecord>>,
    spec: &HostSpec,
    after: HostSpec,
) -> Result<(), Refusal> {
    let same = after == *spec;
    let record = HostSpecRecord { spec: Some(after.into()) };
    match before {
        Some(stored) if same => batch.unchanged(stored)?,
        Some(stored) => batch.replace(stored, &record)?,
        None if same => batch.absent::<HostSpecRecord>(host.as_str())?,
        None => batch.create(host.as_str(), &record)?,
    };
    Ok(())
}

/// Whether telling the same again can't help.
fn is_permanent(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::Exhausted(_))
}

fn shortened(reason: &str) -> String {
    match reason.char_indices().nth(LONGEST_REASON) {
        Some((end, _)) => format!("{}…", &reason[..end]),
        None => reason.to_owned(),
    }
}

#[cfg(test)]
mod tests;
