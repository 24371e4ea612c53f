//! The units of the host's instances, kept current by systemd's signals.
//!
//! [`Units::all`] gives them; [`Units::watch`] listens, so that an instance at rest costs nothing
//! and one that changes is seen at once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use shoal_core::name::MachineName;
use shoal_core::plan::Unit;
use tokio::sync::Notify;
use tokio::time::Instant;
use zbus::MessageStream;

use super::bus::{self, about};
use super::cache::{Cache, Row};
use super::{Systemd, asked};
use crate::host::{Details, HostError};

/// Units that are read at once: enough to keep the bus busy, far from its limits.
const AT_ONCE: usize = 16;
/// The shortest pause between two rings. One start makes several signals, and some of them within
/// a moment; but what waits for a ring holds up whoever waits for the start.
const BETWEEN_RINGS: Duration = Duration::from_millis(8);

/// A machine's unit, as found.
#[derive(Debug, Clone)]
pub struct FoundUnit {
    /// The machine.
    pub machine: MachineName,
    /// Its unit's state.
    pub unit: Unit,
    /// The rest.
    pub details: Details,
}

/// The units of all instances. Cheap to clone; clones share what they know.
#[derive(Debug, Clone)]
pub struct Units {
    systemd: Systemd,
    cache: Arc<Mutex<Cache>>,
}

impl Units {
    /// Of this systemd.
    #[must_use]
    pub fn new(systemd: Systemd) -> Self {
        Self { systemd, cache: Arc::default() }
    }

    /// Every unit of an instance that systemd has loaded.
    ///
    /// # Errors
    /// Where systemd does not answer.
    pub async fn all(&self) -> Result<Vec<FoundUnit>, HostError> {
        let now = Instant::now().into_std();
        let known = self.cache().list(now);
        let rows = match known {
            Some(rows) => rows,
            None => {
                let rows = self.systemd.list().await?;
                self.cache().listed(&rows, now);
                rows
            }
        };
        let stale = self.cache().stale(&rows, now);
        let reading = stream::iter(stale).map(async |row| {
            let reading = self.systemd.read(&row).await;
            reading.map(|reading| (row, reading))
        });
        let mut reading = std::pin::pin!(reading.buffer_unordered(AT_ONCE));
        while let Some(read) = reading.next().await {
            let (row, reading) = read?;
            self.cache().keep(row, reading);
        }
        let cache = self.cache();
        Ok(rows.into_iter().map(|row| found(row, &cache)).collect())
    }

    /// Tells that systemd is being told to change something: the next look must not go by what it
    /// said before.
    pub fn expect_changes(&self) {
        self.cache().expect_changes();
    }

    /// Marks what changes and rings `bell`, until the bus goes away. Never waits for the bus but
    /// for its signals: those that nobody takes would hold up its answers.
    ///
    /// # Errors
    /// Where the signals can't be subscribed to.
    pub async fn watch(&self, bell: &Notify) -> Result<(), HostError> {
        let signals = self.signals().await.map_err(asked("tell what changes"))?;
        let mut signals = std::pin::pin!(signals);
        self.cache().listen();
        let (mut owed, mut next_ring) = (true, Instant::now());
        loop {
            // Both can be dropped: signals wait in their stream, and the time is fixed.
            tokio::select! {
                signal = signals.next() => match signal {
                    Some(Ok(signal)) => if let Some(machine) = about(&signal) {
                        self.cache().mark(machine);
                        owed = true;
                    },
                    Some(Err(_)) | None => return Ok(()),
                },
                () = tokio::time::sleep_until(next_ring), if owed => {
                    bell.notify_one();
                    (owed, next_ring) = (false, Instant::now() + BETWEEN_RINGS);
                },
            }
        }
    }

    async fn signals(
        &self,
    ) -> zbus::Result<impl futures_util::Stream<Item = zbus::Result<zbus::Message>> + use<>> {
        let bus = &self.systemd.connection;
        let units = MessageStream::for_match_rule(bus::unit_changes()?, bus, None).await?;
        let machines = MessageStream::for_match_rule(bus::machine_changes()?, bus, None).await?;
        self.systemd.manager.subscribe().await?;
        Ok(stream::select(units, machines))
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn found(row: Row, cache: &Cache) -> FoundUnit {
    let reading = cache.reading(&row.machine).cloned().unwrap_or_default();
    let details = Details {
        restarting: row.sub.starts_with("auto-restart"),
        since: reading.since,
        leader: reading.leader,
        result: reading.result,
        ..Details::default()
    };
    FoundUnit { machine: row.machine, unit: unit_state(&row.active), details }
}

fn unit_state(active_state: &str) -> Unit {
    match active_state {
        "active" | "reloading" => Unit::Active,
        "activating" => Unit::Activating,
        "deactivating" => Unit::Deactivating,
        "failed" => Unit::Failed,
        _ => Unit::Inactive,
    }
}
