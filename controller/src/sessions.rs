//! Sessions: logs and exec, carried by a call that the agent makes when it is told to.
//!
//! Way in: [`crate::live::Live::open_session`] for who wants one, [`Sessions::accept`] for the
//! agent's call. The id that connects the two can't be guessed, is good for one call of one
//! host, and ends after ten seconds.
//!
//! Deliberately absent: what the messages mean. Back-pressure is the channels': whoever does not
//! read holds up the one that writes, up to HTTP/2's flow control on the host.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shoal_core::name::HostId;
use shoal_proto::v1::{
    ControllerMessage, OpenSession, SessionDown, SessionUp, controller_message, open_session,
    session_down, session_up,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use crate::live::Outbox;
use crate::refusal::Refusal;

/// How long an agent has to open the session that it was asked for.
const OPEN_DEADLINE: Duration = Duration::from_secs(10);
/// How long it then has to say which one it is.
const NAME_DEADLINE: Duration = Duration::from_secs(5);
/// Messages between an agent's call and its session, each way. Few: a message may be a chunk of
/// 256 KiB, and what waits here is what a slow reader has not asked for yet.
const WAITING: usize = 4;

/// To the agent's call.
pub(crate) type Downstream = mpsc::Sender<Result<SessionDown, Status>>;

/// An open session. Dropping `up` ends it on the host too; dropping `down` only says that nothing
/// more will be sent. Where the host ends it, `up` ends and `down` fails.
#[derive(Debug)]
pub struct Session {
    /// What comes from the host.
    pub up: mpsc::Receiver<session_up::Message>,
    /// What goes to it.
    pub down: mpsc::Sender<session_down::Message>,
}

/// Sessions that agents were asked for, and how many each host has.
#[derive(Debug)]
pub(crate) struct Sessions {
    per_host: usize,
    table: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    pending: HashMap<String, Pending>,
    slots: HashMap<HostId, Arc<Semaphore>>,
}

#[derive(Debug)]
struct Pending {
    host: HostId,
    slot: OwnedSemaphorePermit,
    opened: oneshot::Sender<Session>,
}

/// Takes the id back when nobody waits for it any more.
struct Waiting {
    id: String,
    table: Arc<Mutex<Table>>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        lock(&self.table).pending.remove(&self.id);
    }
}

impl Sessions {
    pub(crate) fn new(per_host: usize) -> Self {
        Self { per_host, table: Arc::default() }
    }

    pub(crate) async fn open(
        &self,
        host: &HostId,
        name: &str,
        outbox: &Outbox,
        kind: open_session::Kind,
    ) -> Result<Session, Refusal> {
        let slot = self.slot(host, name)?;
        let id = crate::random::hex::<16>();
        let (opened, session) = oneshot::channel();
        let pending = Pending { host: host.clone(), slot, opened };
        lock(&self.table).pending.insert(id.clone(), pending);
        let _waiting = Waiting { id: id.clone(), table: Arc::clone(&self.table) };
        let asking = async {
            outbox.send(Ok(request(id, kind))).await.map_err(drop)?;
            session.await.map_err(drop)
        };
        match timeout(OPEN_DEADLINE, asking).await {
            Ok(Ok(session)) => Ok(session),
            Ok(Err(())) => Err(gone(name)),
            Err(_) => Err(silent(name)),
        }
    }

    fn slot(&self, host: &HostId, name: &str) -> Result<OwnedSemaphorePermit, Refusal> {
        let slots = {
            let mut table = lock(&self.table);
            let new = || Arc::new(Semaphore::new(self.per_host));
            Arc::clone(table.slots.entry(host.clone()).or_insert_with(new))
        };
        slots.try_acquire_owned().map_err(|_| {
            Refusal::Exhausted(format!(
                "host {name} has {} sessions open, which is the limit; end some, or raise \
                 sessions-per-host in the controller's controller.toml",
                self.per_host
            ))
        })
    }

    /// Serves an agent's call until either side ends it. What can't be served ends with an error
    /// in `down`.
    pub(crate) async fn accept(
        &self,
        host: &HostId,
        mut inbound: Streaming<SessionUp>,
        down: Downstream,
        shutdown: CancellationToken,
    ) {
        let claimed = match timeout(NAME_DEADLINE, self.claim(host, &mut inbound)).await {
            Ok(claimed) => claimed,
            Err(_) => Err(Refusal::TimedOut("the session was not named in time".into())),
        };
        match claimed {
            Ok(ends) => tokio::select! {
                () = ends.carry(inbound, down.clone()) => {}
                () = shutdown.cancelled() => end(&down, Status::unavailable(SHUTTING_DOWN)),
            },
            Err(refusal) => end(&down, refusal.into()),
        }
    }

    async fn claim(
        &self,
        host: &HostId,
        inbound: &mut Streaming<SessionUp>,
    ) -> Result<Ends, Refusal> {
        let first = inbound.message().await.ok().flatten().and_then(|first| first.message);
        let Some(session_up::Message::SessionId(id)) = first else {
            return Err(Refusal::Invalid("the first message has to name the session".into()));
        };
        let unknown =
            || Refusal::NotFound("no such session is waited for; it may have come too late".into());
        let pending = {
            let mut table = lock(&self.table);
            // Another host's stays: that host may yet come for it.
            let is_own = table.pending.get(&id).is_some_and(|pending| pending.host == *host);
            if is_own { table.pending.remove(&id) } else { None }
        };
        let Pending { slot, opened, .. } = pending.ok_or_else(unknown)?;
        let (up_sender, up) = mpsc::channel(WAITING);
        let (down, down_receiver) = mpsc::channel(WAITING);
        opened.send(Session { up, down }).map_err(|_| unknown())?;
        Ok(Ends { up: up_sender, down: down_receiver, _slot: slot })
    }
}

/// Why a stream ends when the controller does.
pub(crate) const SHUTTING_DOWN: &str = "the controller is shutting down; try again soon";

/// The agent's ends of a session.
struct Ends {
    up: mpsc::Sender<session_up::Message>,
    down: mpsc::Receiver<session_down::Message>,
    _slot: OwnedSemaphorePermit,
}

impl Ends {
    /// The two directions run beside each other: one that stands still must not hold up the other.
    async fn carry(self, inbound: Streaming<SessionUp>, out: Downstream) {
        let Self { up, down, _slot } = self;
        tokio::select! {
            () = carry_up(inbound, &up) => {}
            () = up.closed() => {}
            () = carry_down(down, &out) => {}
            () = out.closed() => {}
        }
    }
}

async fn carry_up(mut inbound: Streaming<SessionUp>, up: &mpsc::Sender<session_up::Message>) {
    while let Ok(Some(SessionUp { message })) = inbound.message().await {
        let Some(message) = message else { continue };
        if up.send(message).await.is_err() {
            return;
        }
    }
}

/// Ends only with the agent's call: that nothing more goes down does not end the session.
async fn carry_down(mut down: mpsc::Receiver<session_down::Message>, out: &Downstream) {
    while let Some(message) = down.recv().await {
        if out.send(Ok(SessionDown { message: Some(message) })).await.is_err() {
            return;
        }
    }
    std::future::pending().await
}

fn end(down: &Downstream, status: Status) {
    // Where the agent does not read, the end of the stream has to say enough.
    let _ = down.try_send(Err(status));
}

fn request(session_id: String, kind: open_session::Kind) -> ControllerMessage {
    let open = OpenSession { session_id, kind: Some(kind) };
    ControllerMessage { message: Some(controller_message::Message::OpenSession(open)) }
}

fn gone(name: &str) -> Refusal {
    Refusal::Unavailable(format!("host {name} went offline while a session was opened; try again"))
}

fn silent(name: &str) -> Refusal {
    Refusal::Unavailable(format!(
        "the agent of host {name} did not open the session within {} s; see `journalctl -u \
         shoal-agent` there",
        OPEN_DEADLINE.as_secs()
    ))
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    // Each change under the lock is whole before anything in it can panic.
    table.lock().unwrap_or_else(PoisonError::into_inner)
}
