//! Transactions: what must hold, and what is then written, all or nothing.

use std::collections::HashSet;

use bytes::Bytes;

use super::{Key, Revision, StoreError};

/// The most checks, and the most writes, of one transaction: the default limit of etcd, so that
/// what one engine takes the other takes too.
pub const MAX_OPERATIONS: usize = 128;

/// The most bytes of keys and values that one transaction writes: below etcd's default limit of
/// 1.5 MiB for a request, for the same reason.
pub const MAX_COMMIT_BYTES: usize = 1 << 20;

/// Checks, and writes that happen only if all checks hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    pub checks: Vec<Check>,
    pub writes: Vec<Write>,
}

/// A condition on one key, in the state before the transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// The key is not there.
    Absent(Key),
    /// The key is there.
    Exists(Key),
    /// The key is there, and its last put has this revision.
    Modified(Key, Revision),
}

/// A change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    Put(Key, Bytes),
    /// Deleting a key that is not there is fine, and no change.
    Delete(Key),
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The first check that failed, and what is there instead: the revision of its last put.
    #[error("{key} was changed by someone else: read it again and retry")]
    Conflict { key: Key, found: Option<Revision> },
    #[error(
        "a store transaction of {checks} checks and {writes} writes is too big: split it, at most {MAX_OPERATIONS} of each go together"
    )]
    TooManyOperations { checks: usize, writes: usize },
    #[error(
        "a store transaction of {bytes} bytes is too big: the most is {MAX_COMMIT_BYTES}, make its largest value smaller"
    )]
    TooLarge { bytes: usize },
    #[error("a store transaction writes {key} twice")]
    DuplicateWrite { key: Key },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Transaction {
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn check(mut self, check: Check) -> Self {
        self.checks.push(check);
        self
    }

    #[must_use]
    pub fn put(mut self, key: Key, value: impl Into<Bytes>) -> Self {
        self.writes.push(Write::Put(key, value.into()));
        self
    }

    #[must_use]
    pub fn delete(mut self, key: Key) -> Self {
        self.writes.push(Write::Delete(key));
        self
    }

    /// What every engine refuses, whatever the state.
    pub fn validate(&self) -> Result<(), CommitError> {
        let (checks, writes) = (self.checks.len(), self.writes.len());
        if checks > MAX_OPERATIONS || writes > MAX_OPERATIONS {
            return Err(CommitError::TooManyOperations { checks, writes });
        }
        let bytes = self.writes.iter().map(Write::bytes).sum();
        if bytes > MAX_COMMIT_BYTES {
            return Err(CommitError::TooLarge { bytes });
        }
        let mut written = HashSet::new();
        match self.writes.iter().map(Write::key).find(|key| !written.insert(*key)) {
            Some(key) => Err(CommitError::DuplicateWrite { key: key.clone() }),
            None => Ok(()),
        }
    }
}

impl Check {
    pub fn key(&self) -> &Key {
        match self {
            Self::Absent(key) | Self::Exists(key) | Self::Modified(key, _) => key,
        }
    }

    /// Whether it holds where the key's last put is `found`, or the key is not there.
    pub fn holds(&self, found: Option<Revision>) -> bool {
        match self {
            Self::Absent(_) => found.is_none(),
            Self::Exists(_) => found.is_some(),
            Self::Modified(_, revision) => found == Some(*revision),
        }
    }
}

impl Write {
    pub fn key(&self) -> &Key {
        match self {
            Self::Put(key, _) | Self::Delete(key) => key,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Put(key, value) => key.as_bytes().len() + value.len(),
            Self::Delete(key) => key.as_bytes().len(),
        }
    }
}
