//! Connections that only read, handed to blocking threads.

use std::{
    error::Error,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};
use tokio::sync::Semaphore;

use super::file::BUSY;
use crate::store::StoreError;

/// Reads are short and mostly out of the page cache: a few at once keep the cores of a small
/// machine busy, and more would only hold memory.
const CONNECTIONS: u32 = 4;

#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    place: Arc<str>,
    /// One permit for each connection; closed with the store.
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub(super) fn new(path: &Path, place: Arc<str>) -> Self {
        let permits = usize::try_from(CONNECTIONS).expect("a handful");
        Self {
            path: path.into(),
            place,
            permits: Arc::new(Semaphore::new(permits)),
            idle: Mutex::default(),
        }
    }

    pub(super) fn closed(&self) -> StoreError {
        StoreError::Closed { place: self.place.clone() }
    }

    /// Runs `read` on one consistent state of the store. `action` goes into the error.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        action: &'static str,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| self.closed())?;
        let readers = self.clone();
        let reading = tokio::task::spawn_blocking(move || {
            // The permit goes with the connection, also when the caller gives up waiting.
            let _permit = permit;
            readers.read(read)
        });
        match reading.await {
            Ok(read) => read.map_err(|source| failure(&self.place, action, source)),
            Err(ended) => match ended.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is shutting down.
                Err(_) => Err(self.closed()),
            },
        }
    }

    /// Waits for the reads under way, and ends all that would follow.
    pub(super) async fn close(&self) {
        if let Ok(_all) = self.permits.acquire_many(CONNECTIONS).await {
            self.permits.close();
        }
        self.idle().clear();
    }

    fn read<T>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let idle = self.idle().pop();
        let connection = idle.map_or_else(|| self.connect(), Ok)?;
        let state =
            rusqlite::Transaction::new_unchecked(&connection, TransactionBehavior::Deferred)?;
        let result = read(&state)?;
        state.finish()?;
        // A connection that failed is not put back, but replaced when it is missed.
        self.idle().push(connection);
        Ok(result)
    }

    fn connect(&self) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(BUSY)?;
        connection.pragma_update(None, "trusted_schema", false)?;
        Ok(connection)
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the caller is told of an error of SQLite.
pub(super) fn failure(
    place: &Arc<str>,
    action: &'static str,
    source: rusqlite::Error,
) -> StoreError {
    let place = place.clone();
    let is_full = source.sqlite_error_code() == Some(ErrorCode::DiskFull);
    let source: Box<dyn Error + Send + Sync> = Box::new(source);
    if is_full {
        StoreError::Full { place, source }
    } else {
        StoreError::Engine { place, action, source }
    }
}
