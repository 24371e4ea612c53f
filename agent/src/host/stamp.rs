//! Whether a file or directory is still as it was when it was read.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use shoal_core::time::Timestamp;

/// How long a change must be past before the times on it tell it from the next one: a file
/// system's clock ticks some hundred times a second, and a network's may be a little off.
const SETTLED: Duration = Duration::from_secs(2);

/// What the file system tells of a file without its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    /// As `modified`; nobody can set this one back.
    changed: (i64, i64),
}

impl Stamp {
    /// `None` where there is no file.
    fn of(path: &Path) -> io::Result<Option<Self>> {
        let found = match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            found => found?,
        };
        Ok(Some(Self {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }))
    }

    fn is_settled(&self, now: Timestamp) -> bool {
        let seconds = u64::try_from(self.changed.0).unwrap_or(0);
        let changed = Timestamp(seconds.saturating_mul(1000));
        now.since(changed) > SETTLED
    }
}

/// What was read of a file or directory, until that changes.
#[derive(Debug, Clone)]
pub struct Remembered<T> {
    /// As it was just before it was read; `None` where that told too little to go by.
    stamp: Option<Option<Stamp>>,
    value: T,
}

impl<T> Remembered<T> {
    /// What `read` gives of `path`: `before`, where that is known to be the same.
    ///
    /// # Errors
    /// Those of `read`; they are not remembered.
    pub fn read<E>(
        before: Option<Self>,
        path: &Path,
        now: Timestamp,
        read: impl FnOnce() -> Result<T, E>,
    ) -> Result<Self, E> {
        let stamp = Stamp::of(path).ok();
        let settled = stamp.filter(|stamp| stamp.is_none_or(|stamp| stamp.is_settled(now)));
        match before {
            Some(before) if settled.is_some() && before.stamp == settled => Ok(before),
            _ => Ok(Self { stamp: settled, value: read()? }),
        }
    }

    /// What is known to be there now, and is read anew the next time.
    #[must_use]
    pub fn unsettled(value: T) -> Self {
        Self { stamp: None, value }
    }

    /// What was read.
    #[must_use]
    pub fn value(&self) -> &T {
        &self.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const DAY: Duration = Duration::from_secs(86_400);

    /// The content of `path` and whether it was read anew, a day from now.
    fn look(before: Option<Remembered<String>>, path: &Path) -> (Remembered<String>, bool) {
        let mut anew = false;
        let read = || {
            anew = true;
            Ok::<_, io::Error>(fs::read_to_string(path).unwrap_or_default())
        };
        let remembered = Remembered::read(before, path, crate::clock::now().after(DAY), read);
        (remembered.unwrap(), anew)
    }

    #[test]
    fn a_file_is_read_again_where_it_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let (absent, _) = look(None, &path);
        assert_eq!(absent.value(), "");
        let (absent, anew) = look(Some(absent), &path);
        assert!(!anew);
        fs::write(&path, "one").unwrap();
        let (first, anew) = look(Some(absent), &path);
        assert!(anew);
        let (first, anew) = look(Some(first), &path);
        assert!(!anew);
        assert_eq!(first.value(), "one");
        fs::write(dir.path().join("y"), "two").unwrap();
        fs::rename(dir.path().join("y"), &path).unwrap();
        let (second, anew) = look(Some(first), &path);
        assert!(anew);
        assert_eq!(second.value(), "two");
        fs::remove_file(&path).unwrap();
        assert_eq!(look(Some(second), &path).0.value(), "");
    }

    #[test]
    fn what_has_just_changed_may_change_again_unseen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        fs::write(&path, "one").unwrap();
        let now = crate::clock::now();
        let read = |before, value| {
            Remembered::read(before, &path, now, || Ok::<_, io::Error>(value)).unwrap()
        };
        let first = read(None, 1);
        assert_eq!(*read(Some(first), 2).value(), 2);
    }
}
