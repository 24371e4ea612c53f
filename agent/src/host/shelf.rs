//! What was read of many small files and directories, each read again only where it changed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use shoal_core::time::Timestamp;

use super::stamp::Remembered;

/// What was read, by path.
#[derive(Debug)]
pub struct Shelf<T>(BTreeMap<PathBuf, Remembered<T>>);

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> Shelf<T> {
    /// What `read` gives of `path`, or gave, where that is known to be the same.
    ///
    /// # Errors
    /// Those of `read`; they are not remembered.
    pub fn get<E>(
        &mut self,
        path: &Path,
        now: Timestamp,
        read: impl FnOnce() -> Result<T, E>,
    ) -> Result<&T, E> {
        let before = self.0.remove(path);
        let found = Remembered::read(before, path, now, read)?;
        Ok(self.0.entry(path.to_owned()).or_insert(found).value())
    }

    /// Forgets what is not at one of the paths that `keep` says yes to.
    pub fn retain(&mut self, mut keep: impl FnMut(&Path) -> bool) {
        self.0.retain(|path, _| keep(path));
    }
}
