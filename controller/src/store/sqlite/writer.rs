//! The thread that owns the connection that writes, and with it the lock of the file.

use std::sync::Arc;

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{mpsc, oneshot, watch};

use super::{file::Lock, readers::failure, schema};
use crate::store::{CommitError, Revision, StoreError, Transaction};

/// Old history is dropped in steps of this many revisions: seldom enough to cost little, often
/// enough to hold up no commit for long.
const COMPACTION_STEP: u64 = 256;

/// A reply that nobody waits for any more is dropped; the job is done all the same.
#[derive(Debug)]
pub(super) enum Job {
    Commit { transaction: Transaction, reply: oneshot::Sender<Result<Revision, CommitError>> },
    Compact { keep_after: Revision, reply: oneshot::Sender<Result<(), StoreError>> },
    Check { reply: oneshot::Sender<Result<(), StoreError>> },
    Close { reply: oneshot::Sender<Result<(), StoreError>> },
}

pub(super) struct Writer {
    connection: Connection,
    lock: Lock,
    place: Arc<str>,
    keep_revisions: u64,
    compacted: Revision,
    /// Wakes the watches; they end when this goes.
    last: watch::Sender<Revision>,
}

impl Writer {
    /// A writer, and the newest revision as it will be.
    pub(super) fn new(
        connection: Connection,
        lock: Lock,
        place: Arc<str>,
        keep_revisions: u64,
    ) -> rusqlite::Result<(Self, watch::Receiver<Revision>)> {
        let compacted = schema::compacted(&connection)?;
        let (last, newest) = watch::channel(schema::revision(&connection)?);
        Ok((Self { connection, lock, place, keep_revisions, compacted, last }, newest))
    }

    /// Does one job after the other until the store is closed or dropped.
    pub(super) fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(job) = jobs.blocking_recv() {
            match job {
                Job::Commit { transaction, reply } => {
                    let _ = reply.send(self.commit(&transaction));
                    self.drop_old_history();
                }
                Job::Compact { keep_after, reply } => {
                    let _ = reply.send(self.compact(keep_after));
                }
                Job::Check { reply } => {
                    let _ = reply.send(self.check());
                }
                Job::Close { reply } => {
                    let _ = reply.send(self.finish());
                    return;
                }
            }
        }
        let place = self.place.clone();
        if let Err(error) = self.finish() {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(store = %place, error, "the store did not end clean");
        }
    }

    fn commit(&mut self, transaction: &Transaction) -> Result<Revision, CommitError> {
        let before = *self.last.borrow();
        let revision = apply(&mut self.connection, transaction)
            .map_err(|source| failure(&self.place, "commit", source))?
            .map_err(|(key, found)| CommitError::Conflict { key: key.clone(), found })?;
        if revision > before {
            self.last.send_replace(revision);
        }
        Ok(revision)
    }

    fn compact(&mut self, keep_after: Revision) -> Result<(), StoreError> {
        let keep_after = keep_after.min(*self.last.borrow());
        if keep_after <= self.compacted {
            return Ok(());
        }
        forget(&mut self.connection, keep_after)
            .map_err(|source| failure(&self.place, "compact its history", source))?;
        self.compacted = keep_after;
        Ok(())
    }

    /// The history is a help for watches: keeping more of it than wanted is no harm, and the next
    /// commit tries again.
    fn drop_old_history(&mut self) {
        let oldest = self.last.borrow().0.saturating_sub(self.keep_revisions);
        if oldest < self.compacted.0.saturating_add(COMPACTION_STEP) {
            return;
        }
        if let Err(error) = self.compact(Revision(oldest)) {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(store = %self.place, error, "old history could not be dropped");
        }
    }

    /// Whether a write could start now.
    fn check(&mut self) -> Result<(), StoreError> {
        self.connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .and_then(rusqlite::Transaction::rollback)
            .map_err(|source| failure(&self.place, "start a write", source))
    }

    /// Moves the write-ahead log into the file and closes it, then frees the lock.
    fn finish(self) -> Result<(), StoreError> {
        let Self { connection, lock, place, .. } = self;
        let moved = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        let closed = connection.close().map_err(|(_, source)| source);
        drop(lock);
        moved.and(closed).map_err(|source| failure(&place, "close cleanly", source))
    }
}

type Conflict<'a> = (&'a crate::store::Key, Option<Revision>);

/// Dropping the SQLite transaction undoes it, whichever way this is left early.
fn apply<'a>(
    connection: &mut Connection,
    transaction: &'a Transaction,
) -> rusqlite::Result<Result<Revision, Conflict<'a>>> {
    let state = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if let Some(conflict) = schema::failing(&state, &transaction.checks)? {
        return Ok(Err(conflict));
    }
    let last = schema::revision(&state)?;
    let next = Revision(last.0 + 1);
    if !schema::write(&state, next, &transaction.writes)? {
        return Ok(Ok(last));
    }
    state.commit()?;
    Ok(Ok(next))
}

fn forget(connection: &mut Connection, keep_after: Revision) -> rusqlite::Result<()> {
    let state = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    schema::compact(&state, keep_after)?;
    state.commit()
}
