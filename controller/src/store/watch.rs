//! Watches: the changes of a prefix as a stream, whatever engine it comes from.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream::BoxStream};

use super::{Key, Revision, StoreError};

/// One key's change in one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Shared by all changes of the transaction.
    pub revision: Revision,
    pub key: Key,
    /// What was put, or `None` where the key was deleted.
    pub value: Option<Bytes>,
    /// Whether this watch has more changes of the same revision. Where it is false the watch can
    /// be resumed from `revision` without a loss or a repetition.
    pub more: bool,
}

/// Why a watch ended. Nothing follows it.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The history asked for is forgotten. List the prefix and watch from the revision of the
    /// first page.
    #[error(
        "the store's history before revision {oldest} is gone: list again and watch from there"
    )]
    Compacted {
        /// The earliest revision that can be watched from.
        oldest: Revision,
    },
    /// The revision asked for is yet to come: the watcher knows another history, such as that
    /// of before the store was restored from a backup.
    #[error("revision {from} is ahead of the store, which is at {last}: list again")]
    Ahead { from: Revision, last: Revision },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A stream of changes. Dropping it ends the watch.
pub struct Watch(BoxStream<'static, Result<Change, WatchError>>);

impl Watch {
    /// For engines.
    pub fn new(changes: impl Stream<Item = Result<Change, WatchError>> + Send + 'static) -> Self {
        Self(changes.boxed())
    }
}

impl Stream for Watch {
    type Item = Result<Change, WatchError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(cx)
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}
