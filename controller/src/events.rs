//! What agents did and noticed: taken in, kept for a while, told to people.
//!
//! Way in: [`Events`], which clones share. Agents' streams ([`crate::link`]) put events in and
//! never wait; the newest are kept in memory ([`kept`]), where [`crate::events_api`] finds them,
//! and one task writes them behind ([`Events::keep`]), so that they are still there after a
//! restart. An agent that says the same or too much ([`budget`]) fills neither.
//!
//! Deliberately absent: anything done because of an event. They are for people.

mod budget;
mod kept;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shoal_core::cause::chain;
use shoal_core::event::{Event, EventKind};
use shoal_core::name::HostId;
use shoal_core::time::Timestamp;
use shoal_proto::v1::store::EventRecord;
use shoal_proto::v1::{self, EventBatch};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use self::budget::Budget;
use self::kept::Kept;
pub(crate) use self::kept::Noted;
use crate::clock;
use crate::records::number;
use crate::store::{Batch, CommitError, RecordError, Records};

/// Events of one message that are looked at: an agent sends a tenth of that.
const MOST_AT_ONCE: usize = 1000;
/// Bytes of an event's text that are kept.
const LONGEST_MESSAGE: usize = 1000;
/// How long events are kept, in milliseconds: 7 days.
const RETENTION: u64 = 7 * 24 * 60 * 60 * 1000;
/// How often it is looked for events that are too old.
const PRUNE: Duration = Duration::from_secs(600);
/// The pause before a write that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The handle.
#[derive(Debug, Clone)]
pub struct Events {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    records: Records,
    state: Mutex<State>,
    /// The sequence number of the event that comes next.
    arrivals: watch::Sender<u64>,
    /// Wakes the task that writes.
    unwritten: Notify,
    /// One writer at a time, so that what was removed does not come back.
    writing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    kept: Kept,
    budgets: HashMap<HostId, Budget>,
}

/// Who says what happened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reporter<'a> {
    pub(crate) host: &'a HostId,
    /// The host's name.
    pub(crate) name: &'a str,
}

impl Events {
    /// What the store has, as far as it is not too old.
    ///
    /// # Errors
    /// Where the store can't be read.
    pub async fn load(records: Records, now: Timestamp) -> Result<Self, RecordError> {
        let mut state = State::default();
        for stored in records.list::<EventRecord>().await?.records {
            let EventRecord { event, host_id } = stored.record;
            match (event, host_id.parse()) {
                (Some(event), Ok(host)) => state.kept.remember(stored.id, host, event),
                _ => tracing::warn!(id = stored.id, "a stored event is unreadable"),
            }
        }
        state.kept.prune(now.0.saturating_sub(RETENTION));
        let next = state.kept.next();
        let shared = Shared {
            records,
            state: Mutex::new(state),
            arrivals: watch::Sender::new(next),
            unwritten: Notify::new(),
            writing: tokio::sync::Mutex::new(()),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Takes in what an agent says. What can't be read, is there already, is too old or is more
    /// than the host may say is left out. Never waits.
    pub(crate) fn take_in(&self, from: Reporter<'_>, batch: EventBatch, now: Timestamp) {
        let EventBatch { events, lost } = batch;
        let mut state = self.state();
        if lost > 0 {
            let said = format!("the agent dropped {lost} events that it could not send");
            state.take(from, own(said, now), now);
        }
        for wire in events.into_iter().take(MOST_AT_ONCE) {
            match Event::try_from(wire) {
                Ok(event) => state.take(from, event, now),
                Err(error) => tracing::warn!(host = from.name, %error, "an event is unreadable"),
            }
        }
        let next = state.kept.next();
        drop(state);
        if self.shared.arrivals.send_replace(next) != next {
            self.shared.unwritten.notify_one();
        }
    }

    /// The events that `wanted` picks, in the order in which they came, and where to go on from.
    pub(crate) fn find(&self, wanted: impl Fn(&Noted) -> bool) -> (Vec<Arc<Noted>>, u64) {
        let state = self.state();
        (state.kept.since(0).filter(|noted| wanted(noted)).cloned().collect(), state.kept.next())
    }

    /// Those that came since `from`, which earlier calls gave, and where to go on from.
    pub(crate) fn since(&self, from: u64) -> (Vec<Arc<Noted>>, u64) {
        let state = self.state();
        (state.kept.since(from).cloned().collect(), state.kept.next())
    }

    /// Wakes when events come.
    pub(crate) fn arrivals(&self) -> watch::Receiver<u64> {
        self.shared.arrivals.subscribe()
    }

    /// Writes what comes and removes what is too old until `stop` is cancelled. Run once, in a
    /// task of its own.
    pub async fn keep(self, stop: CancellationToken) {
        let mut pruning = tokio::time::interval(PRUNE);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.shared.unwritten.notified() => {}
                _ = pruning.tick() => self.prune(clock::now()),
            }
            if let Err(error) = self.flush().await {
                tracing::error!(error = chain(&error), "cannot store events");
                stop.run_until_cancelled(tokio::time::sleep(RETRY)).await;
                self.shared.unwritten.notify_one();
            }
        }
    }

    fn prune(&self, now: Timestamp) {
        self.state().kept.prune(now.0.saturating_sub(RETENTION));
    }

    /// Writes everything that is not written yet, many events to a transaction.
    ///
    /// # Errors
    /// Where the store takes no writes; what was not written is tried again by the next call.
    pub async fn flush(&self) -> Result<(), CommitError> {
        let _one_at_a_time = self.shared.writing.lock().await;
        loop {
            let changes = self.state().kept.unwritten();
            if changes.is_empty() {
                return Ok(());
            }
            let mut batch = Batch::new();
            for (id, event) in &changes {
                let added = match event {
                    Some(noted) => batch.put(id, &noted.record()).map(drop),
                    None => batch.delete::<EventRecord>(id).map(drop),
                };
                added.expect("digits make a store key");
            }
            if let Err(error) = self.shared.records.commit(batch).await {
                self.state().kept.not_written(changes);
                return Err(error);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change under the lock is whole before anything in it can panic.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self, from: Reporter<'_>, event: Event, now: Timestamp) {
        // A host whose clock is ahead must not keep its events at the end for ever.
        let at = Timestamp(event.at.0.min(now.0));
        if at.0 < now.0.saturating_sub(RETENTION) {
            return;
        }
        let known_as = id(from.host, &event);
        if self.kept.has(&known_as) {
            return;
        }
        let budget = self.budgets.entry(from.host.clone()).or_insert_with(|| Budget::new(now));
        if !budget.take(now) {
            return;
        }
        if let Some(left_out) = budget.left_out(now) {
            let said =
                format!("{left_out} events of this host were left out: it says too many a minute");
            let about = own(said, now);
            self.kept.add(id(from.host, &about), from.host.clone(), wire(from.name, about));
        }
        self.kept.add(known_as, from.host.clone(), wire(from.name, Event { at, ..event }));
    }
}

/// What the controller itself has to say of a host's events.
fn own(message: String, now: Timestamp) -> Event {
    Event { at: now, instance: None, kind: EventKind::Failed, message }
}

fn wire(host: &str, mut event: Event) -> v1::Event {
    if event.message.len() > LONGEST_MESSAGE {
        event.message.truncate(event.message.floor_char_boundary(LONGEST_MESSAGE));
        event.message.push('…');
    }
    v1::Event { host: host.to_owned(), ..event.into() }
}

/// The id of an event: the same when an agent sends it again.
fn id(host: &HostId, event: &Event) -> String {
    let Event { at, instance, kind, message } = event;
    let instance = instance.as_ref().map(ToString::to_string).unwrap_or_default();
    let told = format!("{host}\n{instance}\n{kind}\n{message}");
    format!("{}-{:016x}", number(at.0), fnv(told.as_bytes()))
}

/// FNV-1a. No secret: an agent that makes two of its events alike loses one of them.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests;
