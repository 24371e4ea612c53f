//! Copying data volumes as they are, owners, modes, attributes and holes included: coreutils' `cp`,
//! which shares blocks where the file system can, watched for how far it is, and ended when nobody
//! wants the copy any more.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::files::{FileError, failed};

/// How often a copy is asked whether it has ended.
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);
/// How often what is copied is measured, at most.
const BETWEEN_MEASURES: Duration = Duration::from_secs(2);
/// How much longer than measuring took is the pause after it.
const PAUSES: u32 = 9;
/// Bytes of a complaint that are kept.
const COMPLAINT: u64 = 1024;

/// Why a copy was not made.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// It could not be run.
    #[error("can't run cp to copy {from}")]
    NotRun {
        /// What was to be copied.
        from: String,
        /// What the system said.
        source: io::Error,
    },
    /// It failed.
    #[error("copying {from} to {to} failed ({status}): {said}")]
    Failed {
        /// What was to be copied.
        from: String,
        /// Where to.
        to: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// The beginning of what it said.
        said: String,
    },
    /// Nobody wants it any more.
    #[error("it is not wanted any more")]
    CalledOff,
}

/// How far a piece of work is that copies data. Shared with whoever tells of it.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes of all that is to be copied.
    pub total: AtomicU64,
    /// Bytes of the volumes that are copied.
    volumes: AtomicU64,
    /// Bytes of the one that is being copied.
    current: AtomicU64,
    /// Whether it was called off. What counts is done with this held: so whoever has called it off
    /// knows that nothing comes after.
    called_off: Mutex<bool>,
}

impl Progress {
    /// Bytes that are copied.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.volumes.load(Ordering::Relaxed) + self.current.load(Ordering::Relaxed)
    }

    /// Has the work end without an effect, unless it has had it.
    pub fn call_off(&self) {
        *self.called_off.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    /// Does what makes the work count, if it is still wanted.
    ///
    /// # Errors
    /// Where it is not, or that fails.
    pub fn commit<T, E: From<CopyError>>(
        &self,
        act: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let called_off = self.called_off.lock().unwrap_or_else(PoisonError::into_inner);
        if *called_off { Err(CopyError::CalledOff.into()) } else { act() }
    }

    fn is_called_off(&self) -> bool {
        *self.called_off.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Copies the tree at `from` to `to`, which is not there yet.
///
/// # Errors
/// Where it can't be copied as it is; part of it may be there then.
pub fn tree(from: &Path, to: &Path, progress: &Progress) -> Result<(), CopyError> {
    let shown = |path: &Path| path.display().to_string();
    let not_run = |source| CopyError::NotRun { from: shown(from), source };
    let mut command = Command::new("cp");
    command.env("LC_ALL", "C").args(["-a", "--reflink=auto", "--sparse=auto", "-T", "--"]);
    command.arg(from).arg(to).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(not_run)?;
    let complaints = child.stderr.take().map(|stderr| thread::spawn(move || complaint(stderr)));
    let watched = watch(&mut child, to, progress);
    if watched.is_err() {
        let _ = child.kill();
    }
    let status = child.wait().map_err(not_run)?;
    let said = complaints.and_then(|said| said.join().ok()).unwrap_or_default();
    match watched {
        Ok(()) if status.success() => {}
        Ok(()) => return Err(CopyError::Failed { from: shown(from), to: shown(to), status, said }),
        Err(error) => return Err(error),
    }
    progress.volumes.fetch_add(allocated(to), Ordering::Relaxed);
    progress.current.store(0, Ordering::Relaxed);
    Ok(())
}

/// Reads all of it, so that who complains is never held up, and keeps the beginning.
fn complaint(mut stderr: impl Read) -> String {
    let mut kept = Vec::new();
    let _ = stderr.by_ref().take(COMPLAINT).read_to_end(&mut kept);
    let _ = io::copy(&mut stderr, &mut io::sink());
    String::from_utf8_lossy(&kept).trim().replace('\n', "; ")
}

/// Waits until the copy to `to` has ended.
fn watch(child: &mut Child, to: &Path, progress: &Progress) -> Result<(), CopyError> {
    let mut next = Instant::now() + BETWEEN_MEASURES;
    // An error here is told by whoever waits for it.
    while matches!(child.try_wait(), Ok(None)) {
        if progress.is_called_off() {
            return Err(CopyError::CalledOff);
        }
        let began = Instant::now();
        if began >= next {
            progress.current.store(allocated(to), Ordering::Relaxed);
            next = Instant::now() + BETWEEN_MEASURES.max(began.elapsed() * PAUSES);
        }
        thread::sleep(BETWEEN_LOOKS);
    }
    Ok(())
}

/// Bytes that a tree takes on the disk. What can't be looked at counts for nothing: whoever copies
/// it will tell.
#[must_use]
pub fn allocated(root: &Path) -> u64 {
    let mut bytes = 0;
    let mut linked: BTreeSet<(u64, u64)> = BTreeSet::new();
    let mut left: Vec<PathBuf> = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let Ok(found) = fs::symlink_metadata(&path) else { continue };
        if found.is_dir() {
            let entries = fs::read_dir(&path).into_iter().flatten().flatten();
            left.extend(entries.map(|entry| entry.path()));
        } else if found.nlink() > 1 && !linked.insert((found.dev(), found.ino())) {
            continue;
        }
        bytes += found.blocks() * 512;
    }
    bytes
}

/// Whether files below `from` share their blocks with copies below `to`, which then take no room.
#[must_use]
pub fn shares_blocks(from: &Path, to: &Path) -> bool {
    let (one, two) = (from.join(".share-test"), to.join(".share-test"));
    let try_it = || -> io::Result<()> {
        fs::write(&one, [7; 4096])?;
        let (one, two) = (File::open(&one)?, File::create(&two)?);
        Ok(rustix::fs::ioctl_ficlone(&two, &one)?)
    };
    let shared = try_it().is_ok();
    for path in [one, two] {
        let _ = fs::remove_file(path);
    }
    shared
}

/// Renames, for good: both directories are on the disk when it returns.
///
/// # Errors
/// Where it can't be renamed, or that not be written.
pub fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    fs::rename(from, to).map_err(failed("move away", from))?;
    for path in [from, to] {
        let dir = path.parent().unwrap_or(Path::new("/"));
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("write", dir))?;
    }
    Ok(())
}

/// Waits until all that was written to the file system of `dir` is on the disk.
///
/// # Errors
/// Where the disk could not take it.
pub fn settle(dir: &Path) -> Result<(), FileError> {
    let synced = File::open(dir).and_then(|dir| Ok(rustix::fs::syncfs(dir)?));
    synced.map_err(failed("write all of", dir))
}

/// A number of bytes, for people.
#[must_use]
pub fn shown(bytes: u64) -> String {
    let (mib, gib) = (1_u64 << 20, 1_u64 << 30);
    if bytes < gib {
        return format!("{} MiB", bytes.div_ceil(mib));
    }
    let tenths = (bytes / mib).saturating_mul(10) / 1024;
    format!("{}.{} GiB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    #[test]
    fn a_copy_is_as_what_it_was_made_of() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("sub")).unwrap();
        fs::write(from.join("sub/x"), "data").unwrap();
        fs::set_permissions(from.join("sub/x"), fs::Permissions::from_mode(0o4640)).unwrap();
        fs::hard_link(from.join("sub/x"), from.join("linked")).unwrap();
        symlink("sub/x", from.join("soft")).unwrap();
        let hole = File::create(from.join("hole")).unwrap();
        hole.set_len(1 << 30).unwrap();
        if rustix::process::getuid().is_root() {
            chown(from.join("sub"), Some(1000), Some(1001)).unwrap();
        }
        let progress = Progress::default();
        tree(&from, &to, &progress).unwrap();
        let (old, new) = (fs::metadata(from.join("sub")), fs::metadata(to.join("sub")));
        let (old, new) = (old.unwrap(), new.unwrap());
        assert_eq!((old.uid(), old.gid()), (new.uid(), new.gid()));
        let (x, linked) = (to.join("sub/x").metadata(), to.join("linked").metadata());
        let (x, linked) = (x.unwrap(), linked.unwrap());
        assert_eq!((x.ino(), x.mode() & 0o7777), (linked.ino(), 0o4640));
        assert_eq!(fs::read_link(to.join("soft")).unwrap(), Path::new("sub/x"));
        assert!(allocated(&to) < 1 << 20, "a hole takes no room");
        assert_eq!(progress.done(), allocated(&to));
    }

    #[test]
    fn a_copy_that_fails_says_why_and_one_called_off_has_no_effect() {
        let dir = tempfile::tempdir().unwrap();
        let (missing, to) = (dir.path().join("missing"), dir.path().join("to"));
        let error = tree(&missing, &to, &Progress::default()).unwrap_err().to_string();
        assert!(error.contains("missing") && error.contains("No such file"), "{error}");
        let progress = Progress::default();
        progress.call_off();
        let committed =
            progress.commit(|| -> Result<(), CopyError> { panic!("it was called off") });
        assert!(matches!(committed, Err(CopyError::CalledOff)));
    }

    #[test]
    fn bytes_are_told_as_people_say_them() {
        assert_eq!(shown(0), "0 MiB");
        assert_eq!(shown(1), "1 MiB");
        assert_eq!(shown(11 << 20), "11 MiB");
        assert_eq!(shown(5_583_457_485), "5.1 GiB");
        assert_eq!(shown(1 << 30), "1.0 GiB");
    }
}
