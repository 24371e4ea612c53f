//! Everything durable: an ordered key space with compare-and-set transactions and watches.
//!
//! [`Store`] is the contract. [`SqliteStore`] is the engine of a single controller; the semantics
//! are those of etcd (one revision for the whole store, transactions of checks and writes,
//! watches that resume at a revision, compaction), so that an engine for several controllers can
//! give them natively. `conformance` is what an engine has to pass. [`Records`] is the typed
//! way in for the rest of the controller: prost messages in, prost messages out.
//!
//! Deliberately absent: leases and expiry (what is short-lived stays in memory), reads of old
//! revisions, and secondary indexes.

#[cfg(test)]
pub mod conformance;
mod error;
mod key;
mod records;
mod sqlite;
mod transaction;
mod watch;

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

pub use self::{
    error::StoreError,
    key::{InvalidKey, Key, MAX_KEY_BYTES, Prefix},
    records::{Batch, Listing, Record, RecordChange, RecordError, RecordWatch, Records, Stored},
    sqlite::{OpenError, Options, SqliteStore},
    transaction::{Check, CommitError, MAX_COMMIT_BYTES, MAX_OPERATIONS, Transaction, Write},
    watch::{Change, Watch, WatchError},
};

/// The most entries that one page of [`Store::list`] holds.
pub const MAX_PAGE: usize = 1000;

/// A durable, ordered key space.
///
/// All methods are safe to drop before they are done; a commit that was dropped may still happen.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    /// The entry at `key` in the newest state, or `None`.
    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError>;

    /// The entries under `prefix` behind `after`, in the byte order of their keys: at most
    /// `limit` of them, which is taken as at least 1 and at most [`MAX_PAGE`].
    ///
    /// A page is one consistent state; two pages may not be. To follow a prefix without a gap,
    /// list it and watch from the revision of the *first* page.
    async fn list(
        &self,
        prefix: &Prefix,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Page, StoreError>;

    /// Does all writes of `transaction` if all its checks hold, and nothing otherwise.
    ///
    /// Once this returns `Ok` the writes survive a crash and a power cut. They all carry the
    /// returned revision. Where nothing changed (no writes, or only deletes of keys that were not
    /// there) no revision is used up, and the newest one is returned.
    ///
    /// # Errors
    /// [`CommitError::Conflict`] names the first check that failed. After
    /// [`StoreError::Engine`] or [`StoreError::Closed`] the outcome is unknown: read again.
    async fn commit(&self, transaction: Transaction) -> Result<Revision, CommitError>;

    /// Every change under `prefix` after the revision `from`, those of the past first, each
    /// exactly once and in order, without an end.
    ///
    /// To resume, watch from the revision of the last change seen that had no [`Change::more`].
    /// A watcher that is slow holds up no one and costs no memory; if it is slower than
    /// compaction, it gets [`WatchError::Compacted`].
    fn watch(&self, prefix: &Prefix, from: Revision) -> Watch;

    /// Forgets the changes up to and including `keep_after`, which must then not be watched
    /// from before. The entries themselves stay. A revision that is yet to come counts as the
    /// newest.
    async fn compact(&self, keep_after: Revision) -> Result<(), StoreError>;

    /// Proves that the store reads, and can start to write. That a disk is full shows only in a
    /// commit.
    async fn check_health(&self) -> Result<(), StoreError>;

    /// Finishes the commits already accepted, leaves the store clean, and gives up its lock.
    /// Every later call gets [`StoreError::Closed`], and so do the watches.
    async fn close(&self) -> Result<(), StoreError>;
}

/// A point in the history of the whole store; each commit that changes something makes the next.
/// Zero is before everything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: Key,
    pub value: Bytes,
    /// When the key came to be; a key deleted and put again is a new one.
    pub created: Revision,
    /// The last put.
    pub modified: Revision,
}

/// A part of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub entries: Vec<Entry>,
    /// The newest revision of the store when the page was read.
    pub revision: Revision,
    /// Whether there are entries behind the last one of this page.
    pub more: bool,
}
