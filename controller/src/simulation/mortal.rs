//! A store that a controller is killed over: it takes no more writes after some.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use crate::store::{
    CommitError, Entry, Key, Page, Prefix, Revision, Store, StoreError, Transaction, Watch,
};

/// How a controller's life goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Long,
    /// So many commits are left; whether the one in which it dies is still written.
    Short(u64, bool),
    Over,
}

/// What one controller sees of the store.
#[derive(Debug)]
pub(super) struct Mortal {
    store: Arc<dyn Store>,
    life: Mutex<Life>,
}

impl Mortal {
    pub(super) fn over(store: Arc<dyn Store>) -> Self {
        Self { store, life: Mutex::new(Life::Long) }
    }

    /// Has it die in the commit after so many; `wrote` where that is written, and nobody learns.
    pub(super) fn dies_after(&self, commits: u64, wrote: bool) {
        *self.life.lock().unwrap() = Life::Short(commits, wrote);
    }

    pub(super) fn is_dead(&self) -> bool {
        *self.life.lock().unwrap() == Life::Over
    }

    fn killed() -> StoreError {
        StoreError::Closed { place: "killed".into() }
    }
}

#[async_trait]
impl Store for Mortal {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        self.store.get(key).await
    }

    async fn list(
        &self,
        prefix: &Prefix,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        self.store.list(prefix, after, limit).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Revision, CommitError> {
        let life = {
            let mut life = self.life.lock().unwrap();
            let now = *life;
            *life = match now {
                Life::Long => Life::Long,
                Life::Short(0, _) | Life::Over => Life::Over,
                Life::Short(left, wrote) => Life::Short(left - 1, wrote),
            };
            now
        };
        match life {
            Life::Over | Life::Short(0, false) => Err(Self::killed().into()),
            Life::Short(0, true) => {
                self.store.commit(transaction).await?;
                Err(Self::killed().into())
            }
            Life::Long | Life::Short(..) => self.store.commit(transaction).await,
        }
    }

    fn watch(&self, prefix: &Prefix, from: Revision) -> Watch {
        self.store.watch(prefix, from)
    }

    async fn compact(&self, keep_after: Revision) -> Result<(), StoreError> {
        self.store.compact(keep_after).await
    }

    async fn check_health(&self) -> Result<(), StoreError> {
        self.store.check_health().await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.store.close().await
    }
}
