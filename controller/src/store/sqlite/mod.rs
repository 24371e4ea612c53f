//! The engine of a single controller: one SQLite file.
//!
//! One thread owns the only connection that writes (`writer`); reads go through a few
//! connections of their own (`readers`), so that in WAL mode neither waits for the other. A
//! change is kept twice, in the entry and in the history that watches read (`watcher`). `file`
//! decides whether a file is ours to open, and `schema` what is in it.
//!
//! Deliberately absent: group commit. A commit costs one fsync; only transitions are stored, and
//! a disk does hundreds of them in a second.

mod file;
mod readers;
mod schema;
#[cfg(test)]
mod tests;
mod watcher;
mod writer;

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot, watch};

pub use self::file::OpenError;
use self::{
    readers::Readers,
    writer::{Job, Writer},
};
use super::{
    CommitError, Entry, Key, MAX_PAGE, Page, Prefix, Revision, Store, StoreError, Transaction,
    Watch,
};

/// Each job holds at most one megabyte, which bounds the memory of a store whose disk stalls to
/// that of this many. A full queue makes committers wait, never fail.
const QUEUED_JOBS: usize = 64;

/// How a store is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// How many revisions back the changes are kept for watches to resume, roughly: at times
    /// there are a few hundred more. The default, 10 000, is hours of a busy fleet.
    pub keep_revisions: u64,
    /// The most that the file may grow to, in pages of 4 KiB. By default the disk is the limit.
    pub max_pages: Option<u32>,
}

impl Default for Options {
    fn default() -> Self {
        Self { keep_revisions: 10_000, max_pages: None }
    }
}

/// A store in one file. Dropped without [`Store::close`] it loses nothing, but the file's lock
/// and its write-ahead log outlive it for a moment.
#[derive(Debug)]
pub struct SqliteStore {
    place: Arc<str>,
    jobs: mpsc::Sender<Job>,
    readers: Arc<Readers>,
    last: watch::Receiver<Revision>,
}

impl SqliteStore {
    /// Opens the store in the file `path`, which is made if it is not there. Blocks for a few
    /// disk accesses; needs no runtime.
    ///
    /// # Errors
    /// Where another process has the store open, where the file is not a store or is of a later
    /// format, or where the disk says no. A file that is not ours is left as it was.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::open_with(path, &Options::default())
    }

    /// The same with `options`, which hold until the store is closed.
    pub fn open_with(path: impl AsRef<Path>, options: &Options) -> Result<Self, OpenError> {
        let path = path.as_ref();
        let place: Arc<str> = path.display().to_string().into();
        let (lock, connection) = file::open(path, options.max_pages)?;
        let (writer, last) = Writer::new(connection, lock, place.clone(), options.keep_revisions)
            .map_err(|source| OpenError::Sqlite {
            path: path.into(),
            action: "read the state of",
            source,
        })?;
        let (jobs, queue) = mpsc::channel(QUEUED_JOBS);
        std::thread::Builder::new()
            .name("shoal-store".into())
            .spawn(move || writer.run(queue))
            .map_err(|source| OpenError::Io {
                path: path.into(),
                action: "start the thread that writes",
                source,
            })?;
        let readers = Arc::new(Readers::new(path, place.clone()));
        Ok(Self { place, jobs, readers, last })
    }

    /// Has the writer do a job, and waits for its answer.
    async fn ask<T>(&self, job: impl FnOnce(oneshot::Sender<T>) -> Job) -> Result<T, StoreError> {
        let closed = || StoreError::Closed { place: self.place.clone() };
        let (reply, answer) = oneshot::channel();
        self.jobs.send(job(reply)).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        let key = key.clone();
        self.readers.run("read an entry", move |state| schema::entry(state, &key)).await
    }

    async fn list(
        &self,
        prefix: &Prefix,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let (prefix, after) = (prefix.clone(), after.cloned());
        let limit = limit.clamp(1, MAX_PAGE);
        let read = move |state: &_| schema::page(state, &prefix, after.as_ref(), limit);
        self.readers.run("list entries", read).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Revision, CommitError> {
        transaction.validate()?;
        self.ask(|reply| Job::Commit { transaction, reply }).await?
    }

    fn watch(&self, prefix: &Prefix, from: Revision) -> Watch {
        watcher::watch(self.readers.clone(), self.last.clone(), prefix.clone(), from)
    }

    async fn compact(&self, keep_after: Revision) -> Result<(), StoreError> {
        self.ask(|reply| Job::Compact { keep_after, reply }).await?
    }

    async fn check_health(&self) -> Result<(), StoreError> {
        self.readers.run("read its revision", schema::revision).await?;
        self.ask(|reply| Job::Check { reply }).await?
    }

    async fn close(&self) -> Result<(), StoreError> {
        // Readers first: SQLite removes the write-ahead log with the last connection, if that one
        // can write.
        self.readers.close().await;
        self.ask(|reply| Job::Close { reply }).await?
    }
}
