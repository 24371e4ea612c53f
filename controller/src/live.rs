//! Hosts as they are right now: who is connected, and what each last reported.
//!
//! Way in: [`Live`], which clones share. Agents' streams (`link`) feed it; everyone else reads it
//! and waits on [`Live::changes`]. It lives in memory; transitions and statuses are written
//! behind by one task ([`Live::keep`]), each host's latest only, so that a slow disk holds up no
//! stream and heartbeats cost no write.
//!
//! Deliberately absent: anything done *to* a host because it is silent. Nothing is.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shoal_core::name::HostId;
use shoal_core::status::{HostStatus, Presence};
use shoal_core::time::Timestamp;
use shoal_proto::v1::store::{HostRecord, HostStatusRecord, PresenceRecord};
use shoal_proto::v1::{ControllerMessage, open_session};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::clock;
use crate::refusal::Refusal;
use crate::sessions::{Session, Sessions};
use crate::store::{Batch, CommitError, RecordError, Records};
use shoal_core::cause::chain;

/// The pause before a write that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// To an agent's stream.
pub(crate) type Outbox = mpsc::Sender<Result<ControllerMessage, Status>>;

/// The handle.
#[derive(Debug, Clone)]
pub struct Live {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    records: Records,
    state: Mutex<State>,
    changes: watch::Sender<u64>,
    /// Wakes the task that writes.
    unwritten: Notify,
    /// One writer at a time, so that a host's older state never overwrites its newer.
    writing: tokio::sync::Mutex<()>,
    sessions: Sessions,
}

#[derive(Debug, Default)]
struct State {
    hosts: HashMap<HostId, Entry>,
    dirty: BTreeSet<HostId>,
    next_link: u64,
    /// Whether the controller ends: then a stream that ends says nothing about its host.
    closing: bool,
}

#[derive(Debug, Default)]
struct Entry {
    status: Option<Arc<HostStatus>>,
    /// Whether `status` came over the stream that is open now. An older one is shown to people,
    /// but proves nothing: the host may have rebooted since.
    fresh: bool,
    presence: Option<Presence>,
    /// Whether it was connected when the controller before ended, and has not been since.
    awaited: bool,
    link: Option<Link>,
    refused: Option<Refused>,
    /// Why the last report could not be read.
    unreadable: Option<String>,
    disk_free: Option<u64>,
}

/// The open stream of a host's agent.
#[derive(Debug)]
struct Link {
    id: u64,
    outbox: Outbox,
    ended: CancellationToken,
    spec_changed: Arc<Notify>,
}

/// A desired state that the agent did not take.
#[derive(Debug)]
struct Refused {
    generation: u64,
    reason: String,
}

/// An agent's stream as its task holds it; dropped, the host is offline, unless another stream
/// has taken its place.
#[derive(Debug)]
pub(crate) struct Attached {
    live: Live,
    host: HostId,
    id: u64,
    /// Cancelled when another stream of the same host takes over, or the host is removed.
    pub(crate) replaced: CancellationToken,
    /// Notified when the host's desired state may have changed.
    pub(crate) spec_changed: Arc<Notify>,
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.live.detach(&self.host, self.id);
    }
}

impl Live {
    /// What the store knows. Every host is offline, since it was last heard of.
    ///
    /// # Errors
    /// Where the store can't be read.
    pub async fn load(records: Records, sessions_per_host: usize) -> Result<Self, RecordError> {
        let mut state = State::default();
        for stored in records.list::<PresenceRecord>().await?.records {
            load(&mut state, &stored.id, |entry, host| {
                entry.presence = Some(presence(host, &stored.record));
                entry.awaited = stored.record.online;
            });
        }
        for stored in records.list::<HostStatusRecord>().await?.records {
            let status = stored.record.status.unwrap_or_default();
            match HostStatus::try_from(status) {
                Ok(status) => {
                    load(&mut state, &stored.id, |entry, _| entry.status = Some(status.into()));
                }
                Err(error) => {
                    tracing::warn!(host = stored.id, %error, "a stored host status is unreadable");
                }
            }
        }
        Ok(Self {
            shared: Arc::new(Shared {
                records,
                state: Mutex::new(state),
                changes: watch::Sender::new(0),
                unwritten: Notify::new(),
                writing: tokio::sync::Mutex::new(()),
                sessions: Sessions::new(sessions_per_host),
            }),
        })
    }

    /// What the host last reported, now or before a restart of the controller.
    #[must_use]
    pub fn status(&self, host: &HostId) -> Option<Arc<HostStatus>> {
        self.state().hosts.get(host)?.status.clone()
    }

    /// Whether the host is there, and since when; `None` where its agent never connected.
    #[must_use]
    pub fn presence(&self, host: &HostId) -> Option<Presence> {
        self.state().hosts.get(host)?.presence.clone()
    }

    /// Whether the host, which is not connected, was so when the controller before this one ended,
    /// and has not been since: for a while nobody knows whether it is offline.
    #[must_use]
    pub fn is_awaited(&self, host: &HostId) -> bool {
        self.state().hosts.get(host).is_some_and(|entry| entry.awaited)
    }

    /// The controller ends: hosts whose streams end from now on have not gone anywhere.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closing = true;
        let connected = state.hosts.iter().filter(|(_, entry)| entry.link.is_some());
        // When they were last heard is written with it.
        let connected: Vec<HostId> = connected.map(|(host, _)| host.clone()).collect();
        state.dirty.extend(connected);
    }

    /// Wakes at each change of any presence or status. The number only counts.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// Whether the host's agent has a stream open.
    #[must_use]
    pub fn is_connected(&self, host: &HostId) -> bool {
        self.state().hosts.get(host).is_some_and(|entry| entry.link.is_some())
    }

    /// Why the host's agent did not take its desired state, for people; `None` where it did.
    #[must_use]
    pub fn problem(&self, host: &HostId) -> Option<String> {
        let state = self.state();
        let Refused { generation, reason } = state.hosts.get(host)?.refused.as_ref()?;
        Some(format!("the agent refused generation {generation} of its desired state: {reason}"))
    }

    /// Everything that stands between the controller and the host's agent, for people.
    #[must_use]
    pub fn problems(&self, host: &HostId) -> Vec<String> {
        let unreadable = self.state().hosts.get(host).and_then(|entry| entry.unreadable.clone());
        let unreadable = unreadable.map(|why| {
            format!("the agent's last report can't be read; is the agent a newer one? {why}")
        });
        self.problem(host).into_iter().chain(unreadable).collect()
    }

    /// Bytes free on the host's disk, by its last heartbeat.
    #[must_use]
    pub fn disk_free(&self, host: &HostId) -> Option<u64> {
        self.state().hosts.get(host)?.disk_free
    }

    /// Opens a session on a host: asks its agent to, and waits until it has.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`] where the host is offline or its agent does not answer,
    /// [`Refusal::Exhausted`] where it has too many sessions. Both name the host.
    pub async fn open_session(
        &self,
        host: &HostId,
        kind: open_session::Kind,
    ) -> Result<Session, Refusal> {
        let name = self.name(host).await?;
        let outbox = self.outbox(host).ok_or_else(|| self.offline(host, &name))?;
        self.shared.sessions.open(host, &name, &outbox, kind).await
    }

    pub(crate) fn sessions(&self) -> &Sessions {
        &self.shared.sessions
    }

    async fn name(&self, host: &HostId) -> Result<String, Refusal> {
        match self.shared.records.get::<HostRecord>(host.as_str()).await? {
            Some(stored) => Ok(stored.record.name),
            None => Err(Refusal::NotFound(format!(
                "there is no host with id {host} any more; `shoal host list` shows the hosts"
            ))),
        }
    }

    fn offline(&self, host: &HostId, name: &str) -> Refusal {
        let heard = self.presence(host).map(|presence| presence.last_heard.0).unwrap_or_default();
        let when = match i64::try_from(heard).map(jiff::Timestamp::from_millisecond) {
            Ok(Ok(at)) if heard > 0 => format!("since {}", at.strftime("%Y-%m-%d %H:%M:%S UTC")),
            _ => "and never was online".to_owned(),
        };
        Refusal::Unavailable(format!(
            "host {name} is offline {when}; check the host, its network, and `systemctl status \
             shoal-agent` there"
        ))
    }

    fn outbox(&self, host: &HostId) -> Option<Outbox> {
        self.state().hosts.get(host)?.link.as_ref().map(|link| link.outbox.clone())
    }

    /// Takes an agent's stream in: the host is online, and a stream that it had before ends.
    pub(crate) fn attach(&self, host: &HostId, outbox: Outbox, now: Timestamp) -> Attached {
        let (replaced, spec_changed) = (CancellationToken::new(), Arc::new(Notify::new()));
        let mut state = self.state();
        let id = state.next_link;
        state.next_link += 1;
        let entry = state.hosts.entry(host.clone()).or_default();
        let link =
            Link { id, outbox, ended: replaced.clone(), spec_changed: Arc::clone(&spec_changed) };
        if let Some(old) = entry.link.replace(link) {
            old.ended.cancel();
        }
        entry.refused = None;
        entry.fresh = false;
        entry.awaited = false;
        let since = match &entry.presence {
            Some(presence) if presence.online => presence.since,
            _ => now,
        };
        let host_id = host.clone();
        entry.presence = Some(Presence { host: host_id, online: true, since, last_heard: now });
        self.changed(&mut state, host);
        drop(state);
        Attached { live: self.clone(), host: host.clone(), id, replaced, spec_changed }
    }

    /// Ends the host's stream and drops what is known of it: it was removed.
    pub(crate) fn forget(&self, host: &HostId) {
        let mut state = self.state();
        state.dirty.remove(host);
        if let Some(link) = state.hosts.remove(host).and_then(|entry| entry.link) {
            link.ended.cancel();
        }
        self.shared.changes.send_modify(|count| *count += 1);
    }

    fn detach(&self, host: &HostId, id: u64) {
        let now = clock::now();
        let mut state = self.state();
        if state.closing {
            return;
        }
        let Some(entry) = state.hosts.get_mut(host) else { return };
        if entry.link.as_ref().is_none_or(|link| link.id != id) {
            return;
        }
        entry.link = None;
        if let Some(presence) = &mut entry.presence {
            presence.online = false;
            presence.since = now;
        }
        self.changed(&mut state, host);
    }

    /// Notes a sign of life.
    pub(crate) fn heard(&self, host: &HostId, now: Timestamp) {
        if let Some(presence) = self.state().hosts.get_mut(host).and_then(|e| e.presence.as_mut()) {
            presence.last_heard = now;
        }
    }

    /// Takes in how much is free on the host's disk, in bytes.
    pub(crate) fn set_disk_free(&self, host: &HostId, bytes: u64) {
        if let Some(entry) = self.state().hosts.get_mut(host) {
            entry.disk_free = Some(bytes);
        }
    }

    /// Takes a report in. One equal to the last changes nothing.
    pub(crate) fn report(&self, host: &HostId, status: HostStatus) {
        let mut state = self.state();
        let entry = state.hosts.entry(host.clone()).or_default();
        let observed = status.observed_generation;
        let taken = entry.refused.take_if(|refused| refused.generation <= observed).is_some();
        let cured = entry.unreadable.take().is_some() || taken;
        let was_fresh = std::mem::replace(&mut entry.fresh, true);
        if was_fresh && entry.status.as_deref() == Some(&status) && !cured {
            return;
        }
        entry.status = Some(Arc::new(status));
        self.changed(&mut state, host);
    }

    /// The host's last report, where it came over the stream that is open now.
    #[must_use]
    pub fn fresh_status(&self, host: &HostId) -> Option<Arc<HostStatus>> {
        let state = self.state();
        let entry = state.hosts.get(host).filter(|entry| entry.fresh)?;
        entry.status.clone()
    }

    /// Takes in that the agent did not take a desired state. It keeps the one before.
    pub(crate) fn refused(&self, host: &HostId, generation: u64, reason: String) {
        let mut state = self.state();
        let entry = state.hosts.entry(host.clone()).or_default();
        entry.refused = Some(Refused { generation, reason });
        self.changed(&mut state, host);
    }

    /// Takes in that a report could not be read. The one before stays.
    pub(crate) fn unreadable(&self, host: &HostId, why: String) {
        let mut state = self.state();
        state.hosts.entry(host.clone()).or_default().unreadable = Some(why);
        self.changed(&mut state, host);
    }

    /// Tells the host's stream, where there is one, that its desired state may have changed.
    pub(crate) fn spec_changed(&self, host: &str) {
        let state = self.state();
        let link =
            host.parse::<HostId>().ok().and_then(|host| state.hosts.get(&host)?.link.as_ref());
        if let Some(link) = link {
            link.spec_changed.notify_one();
        }
    }

    /// The same for every stream: after changes may have been missed.
    pub(crate) fn all_specs_changed(&self) {
        for entry in self.state().hosts.values() {
            if let Some(link) = &entry.link {
                link.spec_changed.notify_one();
            }
        }
    }

    /// Writes what changes until `stop` is cancelled. Run once, in a task of its own.
    pub async fn keep(self, stop: CancellationToken) {
        while stop.run_until_cancelled(self.shared.unwritten.notified()).await.is_some() {
            if let Err(error) = self.flush().await {
                tracing::error!(error = chain(&error), "cannot store what hosts report");
                stop.run_until_cancelled(tokio::time::sleep(RETRY)).await;
                self.shared.unwritten.notify_one();
            }
        }
    }

    /// Writes everything that is not written yet.
    ///
    /// # Errors
    /// Where the store takes no writes; what was not written is tried again by the next call.
    pub async fn flush(&self) -> Result<(), CommitError> {
        let _one_at_a_time = self.shared.writing.lock().await;
        loop {
            let next = self.state().dirty.pop_first();
            let Some(host) = next else { return Ok(()) };
            if let Err(error) = self.write(&host).await {
                if is_permanent(&error) {
                    tracing::warn!(%host, error = chain(&error), "a host's report is not stored");
                    continue;
                }
                self.state().dirty.insert(host);
                return Err(error);
            }
        }
    }

    async fn write(&self, host: &HostId) -> Result<(), CommitError> {
        let (presence, status) = match self.state().hosts.get(host) {
            Some(entry) => (entry.presence.clone(), entry.status.clone()),
            None => return Ok(()),
        };
        let batch = batch(host, presence, status).expect("a host id makes a store key");
        match self.shared.records.commit(batch).await {
            // The one check is that the host is still there.
            Err(CommitError::Conflict { .. }) => {
                self.state().hosts.remove(host);
                Ok(())
            }
            outcome => outcome.map(drop),
        }
    }

    fn changed(&self, state: &mut State, host: &HostId) {
        state.dirty.insert(host.clone());
        self.shared.unwritten.notify_one();
        self.shared.changes.send_modify(|count| *count += 1);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change under the lock is whole before anything in it can panic.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether writing the same again can't help.
fn is_permanent(error: &CommitError) -> bool {
    matches!(error, CommitError::TooLarge { .. } | CommitError::TooManyOperations { .. })
}

fn load(state: &mut State, id: &str, set: impl FnOnce(&mut Entry, HostId)) {
    match id.parse::<HostId>() {
        Ok(host) => set(state.hosts.entry(host.clone()).or_default(), host),
        Err(error) => tracing::warn!(%error, "the store has a record of a host that can't be one"),
    }
}

/// What is left of a presence after a restart.
fn presence(host: HostId, record: &PresenceRecord) -> Presence {
    let PresenceRecord { online, since_ms, last_heard_ms } = *record;
    let since = if online { last_heard_ms } else { since_ms };
    Presence { host, online: false, since: Timestamp(since), last_heard: Timestamp(last_heard_ms) }
}

fn batch(
    host: &HostId,
    presence: Option<Presence>,
    status: Option<Arc<HostStatus>>,
) -> Result<Batch, RecordError> {
    let mut batch = Batch::new();
    batch.exists::<HostRecord>(host.as_str())?;
    if let Some(Presence { host, online, since, last_heard }) = presence {
        let record = PresenceRecord { online, since_ms: since.0, last_heard_ms: last_heard.0 };
        batch.put(host.as_str(), &record)?;
    }
    if let Some(status) = status {
        let status = Some(HostStatus::clone(&status).into());
        batch.put(host.as_str(), &HostStatusRecord { status })?;
    }
    Ok(batch)
}
