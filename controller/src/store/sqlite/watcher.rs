//! A watch reads the history in batches, at its own pace, and sleeps when it has read it all.

use std::{collections::VecDeque, sync::Arc};

use futures_util::stream;
use tokio::sync::watch::Receiver;

use super::{
    readers::Readers,
    schema::{self, History},
};
use crate::store::{Change, Prefix, Revision, Watch, WatchError};

/// All that a watch holds: at most one batch, whatever is written meanwhile.
struct Watcher {
    readers: Arc<Readers>,
    last: Receiver<Revision>,
    prefix: Prefix,
    /// The history up to here was read; the end of it may still be `ready`.
    read: Revision,
    /// The first read does not wait: it finds out whether `read` is a place to start from.
    started: bool,
    ready: VecDeque<Change>,
}

pub(super) fn watch(
    readers: Arc<Readers>,
    last: Receiver<Revision>,
    prefix: Prefix,
    from: Revision,
) -> Watch {
    let ready = VecDeque::new();
    let watcher = Watcher { readers, last, prefix, read: from, started: false, ready };
    Watch::new(stream::try_unfold(watcher, |mut watcher| async move {
        let change = watcher.next().await?;
        Ok(Some((change, watcher)))
    }))
}

impl Watcher {
    async fn next(&mut self) -> Result<Change, WatchError> {
        loop {
            if let Some(change) = self.ready.pop_front() {
                return Ok(change);
            }
            if self.started {
                self.wait().await?;
            }
            self.fill().await?;
            self.started = true;
        }
    }

    /// Sleeps until there is something unread.
    async fn wait(&mut self) -> Result<(), WatchError> {
        let read = self.read;
        match self.last.wait_for(|last| *last > read).await {
            Ok(_) => Ok(()),
            Err(_) => Err(self.readers.closed().into()),
        }
    }

    async fn fill(&mut self) -> Result<(), WatchError> {
        let (prefix, from) = (self.prefix.clone(), self.read);
        let read = move |state: &_| schema::history(state, &prefix, from);
        match self.readers.run("read its history", read).await? {
            History::Until(read, changes) => {
                self.read = read;
                self.ready = changes.into();
                Ok(())
            }
            History::Compacted(oldest) => Err(WatchError::Compacted { oldest }),
            History::Ahead(last) => Err(WatchError::Ahead { from, last }),
        }
    }
}
