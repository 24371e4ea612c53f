//! Having systemd read changed unit files again: once for all that were changed by then.
//!
//! It takes systemd about as long as starting an instance, and several instances are often changed
//! at once.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Mutex;

use crate::files::{self, FileError, failed};

/// Sees to it that unit files are read again.
#[derive(Debug)]
pub struct Reread {
    /// There while changed files have not been read.
    mark: PathBuf,
    /// Counts those who have changed some.
    changed: AtomicU64,
    /// Up to which of them all has been read; held while it is.
    read: Mutex<u64>,
}

impl Reread {
    /// Where changes leave `mark`.
    #[must_use]
    pub fn new(mark: PathBuf) -> Self {
        Self { mark, changed: AtomicU64::new(0), read: Mutex::default() }
    }

    /// Has the files that were changed before this was called be read, by `reload`, where someone
    /// who called at the same time does not. A reading that fails is owed until one succeeds, also
    /// to the next agent.
    ///
    /// # Errors
    /// Those of `reload`, and where the mark can't be moved.
    pub async fn settle<E: From<FileError>>(
        &self,
        reload: impl AsyncFnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let own = self.changed.fetch_add(1, Ordering::Relaxed) + 1;
        // The others write theirs first.
        tokio::task::yield_now().await;
        let mut read = self.read.lock().await;
        if *read >= own || !self.take()? {
            return Ok(());
        }
        let changed = self.changed.load(Ordering::Relaxed);
        if let Err(error) = reload().await {
            std::fs::rename(self.taken(), &self.mark).map_err(failed("rename", &self.taken()))?;
            return Err(error);
        }
        *read = changed;
        Ok(files::remove_file(&self.taken())?)
    }

    fn taken(&self) -> PathBuf {
        taken(&self.mark)
    }

    /// Takes the mark, so that what is changed from now on leaves another; says whether there is
    /// something to read.
    fn take(&self) -> Result<bool, FileError> {
        match std::fs::rename(&self.mark, self.taken()) {
            // One that was taken and is still there is of a reading that nobody finished.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(self.taken().exists()),
            renamed => renamed.map(|()| true).map_err(failed("rename", &self.mark)),
        }
    }
}

/// Where the mark is while files are being read.
fn taken(mark: &Path) -> PathBuf {
    mark.with_extension("reading")
}

/// Whether changed files are still to be read.
#[must_use]
pub fn is_owed(mark: &Path) -> bool {
    mark.exists() || taken(mark).exists()
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::join_all;
    use std::cell::Cell;
    use std::fs;

    #[derive(Debug)]
    struct Failed;

    impl From<FileError> for Failed {
        fn from(_: FileError) -> Self {
            Self
        }
    }

    #[tokio::test]
    async fn once_is_enough_for_all_who_change_something_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("mark");
        let (reread, reloads) = (Reread::new(mark.clone()), Cell::new(0));
        let reload = async || {
            reloads.set(reloads.get() + 1);
            tokio::task::yield_now().await;
            Ok::<_, Failed>(())
        };
        reread.settle(reload).await.unwrap();
        assert_eq!(reloads.get(), 0, "nothing has changed");
        for round in 1..=2 {
            let change = async || {
                fs::write(&mark, "").unwrap();
                reread.settle(reload).await.unwrap();
            };
            join_all((0..50).map(|_| change())).await;
            assert_eq!(reloads.get(), round);
            assert!(fs::read_dir(dir.path()).unwrap().next().is_none());
        }
    }

    #[tokio::test]
    async fn a_reading_that_failed_is_owed() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("mark");
        fs::write(&mark, "").unwrap();
        let reread = Reread::new(mark.clone());
        assert!(reread.settle(async || Err(Failed)).await.is_err());
        assert!(mark.exists() && is_owed(&mark));
        // Killed in the middle of it.
        fs::rename(&mark, reread.taken()).unwrap();
        assert!(is_owed(&mark));
        let (next, done) = (Reread::new(mark.clone()), Cell::new(false));
        let reload = async || {
            done.set(true);
            Ok::<_, Failed>(())
        };
        next.settle(reload).await.unwrap();
        assert!(done.get() && fs::read_dir(dir.path()).unwrap().next().is_none());
    }
}
