//! The receiving end of a transfer: an image that arrives in a directory in pieces.
//!
//! The pieces are appended to `<sha256>.partial`, so that its length is the progress, and whoever
//! opens it again goes on where the last one ended. Only when all bytes are there and their SHA-256
//! is the expected one does the file get the name of a complete image. One writer at a time: the
//! file is locked, and the kernel drops the lock with the process.
//!
//! The disk is set aside for the whole image before its first byte, so that a transfer that does
//! not fit ends before it begins, and one that has begun does not end for want of space. What a
//! transfer that ended early had set aside is given back.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, FlockOperation, fallocate};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use crate::digest::{Sha256Sum, hash_into};
use crate::directory::{self, DirectoryError, complete_path, free_space, partial_path};
use crate::size::Size;

/// How many bytes a power cut may cost.
const SYNC_EVERY: u64 = 32 << 20;

/// Bytes in what `stat` counts a file's blocks in, whatever the file system.
const BLOCK: u64 = 512;

/// A transfer that can't begin, go on or end.
#[derive(Debug, thiserror::Error)]
pub enum PartialError {
    #[error("another transfer is writing {path}; wait until it has ended, then try again")]
    Busy { path: PathBuf },
    #[error("{path} is already there, complete and verified; nothing has to be sent")]
    AlreadyComplete { path: PathBuf },
    #[error(
        "not enough space in {dir}: {} are needed{}, {} are free; \
         remove what is not needed there, or make the disk larger",
        Size(*.needed), besides(*.reserve), Size(*.available)
    )]
    NoSpace { dir: PathBuf, needed: u64, reserve: u64, available: u64 },
    #[error(
        "the sender sent more than the {size} bytes it announced for {path}; \
         what exceeds them was not kept; send it again with the size of the file"
    )]
    TooLong { path: PathBuf, size: u64 },
    #[error(
        "the transfer into {path} ended after {received} of {size} bytes; \
         send it again, it goes on from there"
    )]
    Incomplete { path: PathBuf, received: u64, size: u64 },
    #[error(
        "the bytes received for {path} are not those that were announced: expected SHA-256 \
         {expected}, got {got}; they were thrown away, send the image again"
    )]
    WrongDigest { path: PathBuf, expected: Sha256Sum, got: Sha256Sum },
    #[error(
        "the disk did not keep what was written to {path}, which was therefore removed; \
         look for disk errors in the kernel's log, then send the image again"
    )]
    NotKept { path: PathBuf, source: io::Error },
    #[error("could not {action} {path}")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}

/// What is to be left free, for the text of an error.
fn besides(reserve: u64) -> String {
    match reserve {
        0 => String::new(),
        reserve => format!(" and {} are to stay free", Size(reserve)),
    }
}

impl From<DirectoryError> for PartialError {
    fn from(error: DirectoryError) -> Self {
        let DirectoryError { action, path, source } = error;
        Self::Io { action, path, source }
    }
}

/// An image that is being received. Dropping it ends the transfer and keeps the bytes.
#[derive(Debug)]
pub struct Partial {
    dir: PathBuf,
    path: PathBuf,
    expected: Sha256Sum,
    size: u64,
    reserve: u64,
    received: u64,
    unsynced: u64,
    file: File,
    hasher: Sha256,
    /// Whether the file is a complete image by now, which is not touched any more.
    complete: bool,
}

impl Partial {
    /// Begins or resumes the transfer of the image of `size` bytes whose SHA-256 is `expected`. The
    /// directory is made where it is missing. What is there already is read and hashed, which takes
    /// about a second per GiB. What is longer than the image is thrown away.
    ///
    /// # Errors
    /// `Busy` while another writer has it, `AlreadyComplete` where nothing is to do, and `NoSpace`
    /// where the missing bytes would leave less than `reserve` bytes free; then nothing is made or
    /// read.
    pub fn open(
        dir: &Path,
        expected: Sha256Sum,
        size: u64,
        reserve: u64,
    ) -> Result<Self, PartialError> {
        directory::create(dir)?;
        let path = partial_path(dir, &expected);
        check_complete(dir, &expected)?;
        check_space(dir, size.saturating_sub(allocated(&path)?), reserve)?;
        let mut file = lock(&path)?;
        // Whoever held the lock before may have finished the image meanwhile.
        if let Err(error) = check_complete(dir, &expected) {
            remove_file(&path)?;
            return Err(error);
        }
        let (hasher, received) = resume(&mut file, &path, size)?;
        let (dir, unsynced, complete) = (dir.to_owned(), 0, false);
        let partial =
            Self { dir, path, expected, size, reserve, received, unsynced, file, hasher, complete };
        partial.set_aside()?;
        Ok(partial)
    }

    /// Sets the disk aside for the whole image, and looks once more: another transfer may have
    /// done the same at this moment. The file's length stays what was received.
    fn set_aside(&self) -> Result<(), PartialError> {
        let flags = FallocateFlags::KEEP_SIZE;
        match rustix::io::retry_on_intr(|| fallocate(&self.file, flags, 0, self.size.max(1))) {
            Ok(()) => check_space(&self.dir, 0, self.reserve),
            // A file system that can't: then a disk that fills is seen when it is full.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(errno) => Err(self.failed(errno.into())),
        }
    }

    /// The bytes that are there: where the sender goes on.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// The bytes that the image will have.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The SHA-256 that the image has to have.
    pub fn expected(&self) -> Sha256Sum {
        self.expected
    }

    /// Adds the next bytes. After an error `received` tells what of them was kept.
    ///
    /// # Errors
    /// `TooLong`, with nothing of `bytes` kept; `NoSpace` where the disk is full, with the partial
    /// file kept for a resume; `NotKept` where the disk failed.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), PartialError> {
        let room = self.size - self.received;
        if u64::try_from(bytes.len()).map_or(true, |length| length > room) {
            return Err(PartialError::TooLong { path: self.path.clone(), size: self.size });
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let written = self.write(rest)?;
            rest = &rest[written..];
        }
        if self.unsynced >= SYNC_EVERY {
            self.file.sync_data().map_err(|source| self.not_kept(source))?;
            self.unsynced = 0;
        }
        Ok(())
    }

    /// Fills `buffer` with bytes that were received, from byte `offset` on.
    pub(crate) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    /// Where the bytes are until all have come.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Throws away what was received, which is known to be of no use, and begins again.
    pub(crate) fn begin_again(&mut self) -> Result<(), PartialError> {
        self.file.set_len(0).map_err(io_error("empty", &self.path))?;
        (self.received, self.unsynced, self.hasher) = (0, 0, Sha256::new());
        self.set_aside()
    }

    /// Ends the transfer: checks length and SHA-256, and gives the file the name of a complete
    /// image, durably. Returns its path.
    ///
    /// # Errors
    /// `Incomplete`, with the partial file kept; `WrongDigest`, with it removed, since nobody knows
    /// which of its bytes are wrong.
    pub fn finish(mut self) -> Result<PathBuf, PartialError> {
        let (path, received, size, expected) =
            (self.path.clone(), self.received, self.size, self.expected);
        if received < size {
            return Err(PartialError::Incomplete { path, received, size });
        }
        let got = Sha256Sum::new(self.hasher.clone().finalize().into());
        if got != expected {
            remove_file(&path)?;
            return Err(PartialError::WrongDigest { path, expected, got });
        }
        self.file.sync_all().map_err(|source| self.not_kept(source))?;
        let complete = complete_path(&self.dir, &expected);
        fs::rename(&path, &complete).map_err(io_error("rename", &path))?;
        self.complete = true;
        directory::sync(&self.dir)?;
        Ok(complete)
    }

    /// Writes a beginning of `bytes`, and keeps hash and count at what the file holds.
    fn write(&mut self, bytes: &[u8]) -> Result<usize, PartialError> {
        let written = match self.file.write(bytes) {
            Ok(0) => return Err(self.failed(io::ErrorKind::WriteZero.into())),
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(self.failed(error)),
        };
        self.hasher.update(&bytes[..written]);
        let count = u64::try_from(written).expect("a write is never longer than its buffer");
        self.received += count;
        self.unsynced += count;
        Ok(written)
    }

    fn failed(&self, source: io::Error) -> PartialError {
        let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        if full.contains(&source.kind()) {
            let (dir, needed) = (self.dir.clone(), self.size - self.received);
            let available = free_space(&dir).unwrap_or(0);
            return PartialError::NoSpace { dir, needed, reserve: self.reserve, available };
        }
        io_error("write to", &self.path)(source)
    }

    /// After a failed sync the kernel may show bytes that are not on the disk, and a second sync
    /// may say that all is well. So the file can't be trusted any more.
    fn not_kept(&self, source: io::Error) -> PartialError {
        let path = self.path.clone();
        match remove_file(&path) {
            Ok(()) => PartialError::NotKept { path, source },
            Err(error) => error,
        }
    }
}

impl Drop for Partial {
    /// Gives back what was set aside and not used. Where that can't be done, the next one who
    /// opens the file uses it.
    fn drop(&mut self) {
        if !self.complete {
            let _ = self.file.set_len(self.received);
        }
    }
}

/// Removes what was received of an image. Returns whether there was anything.
///
/// # Errors
/// `Busy` while a transfer writes to it.
pub fn discard_partial(dir: &Path, sum: &Sha256Sum) -> Result<bool, PartialError> {
    let path = partial_path(dir, sum);
    if !path.try_exists().map_err(io_error("look at", &path))? {
        return Ok(false);
    }
    let _locked = lock(&path)?;
    remove_file(&path)?;
    directory::sync(dir)?;
    Ok(true)
}

fn check_complete(dir: &Path, sum: &Sha256Sum) -> Result<(), PartialError> {
    match directory::complete(dir, sum)? {
        Some(path) => Err(PartialError::AlreadyComplete { path }),
        None => Ok(()),
    }
}

fn check_space(dir: &Path, missing: u64, reserve: u64) -> Result<(), PartialError> {
    let available = free_space(dir)?;
    if missing.saturating_add(reserve) > available {
        let (dir, needed) = (dir.to_owned(), missing);
        return Err(PartialError::NoSpace { dir, needed, reserve, available });
    }
    Ok(())
}

/// Bytes of the disk that a file has, which may be more than are in it: one that was killed could
/// not give back what it had set aside.
fn allocated(path: &Path) -> Result<u64, PartialError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(metadata.blocks().saturating_mul(BLOCK)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(source) => Err(io_error("look at", path)(source)),
    }
}

/// Opens and locks the file. A writer that ended between the two has renamed or removed it, and
/// the lock is then on a file that is no longer this one: begin again.
fn lock(path: &Path) -> Result<File, PartialError> {
    loop {
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(no_follow())
            .open(path)
            .map_err(io_error("open", path))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(PartialError::Busy { path: path.to_owned() }),
            Err(errno) => return Err(io_error("lock", path)(errno.into())),
        }
        if is_at(&file, path)? {
            return Ok(file);
        }
    }
}

/// A symbolic link under the partial file's name is not followed.
fn no_follow() -> i32 {
    i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).expect("open's flags are those of an int")
}

fn is_at(file: &File, path: &Path) -> Result<bool, PartialError> {
    let opened = file.metadata().map_err(io_error("look at", path))?;
    match fs::symlink_metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (opened.dev(), opened.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(io_error("look at", path)(source)),
    }
}

/// Hashes what is there. A file longer than the image was begun by someone who knew its size
/// wrongly, or is now; none of its bytes is worth more than sending them again.
fn resume(file: &mut File, path: &Path, size: u64) -> Result<(Sha256, u64), PartialError> {
    let length = file.metadata().map_err(io_error("look at", path))?.len();
    if length > size {
        file.set_len(0).map_err(io_error("shorten", path))?;
    }
    let mut hasher = Sha256::new();
    let received = hash_into(&mut hasher, file, &mut |_| ()).map_err(io_error("read", path))?;
    Ok((hasher, received))
}

fn remove_file(path: &Path) -> Result<(), PartialError> {
    fs::remove_file(path).map_err(io_error("remove", path))
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PartialError {
    move |source| PartialError::Io { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A transfer whose bytes go to a device, to see a disk that is full or does not keep them.
    fn onto(device: &str, dir: &Path, size: u64) -> Partial {
        let expected = Sha256Sum::of(b"never reached");
        let mut partial = Partial::open(dir, expected, size, 0).unwrap();
        partial.append(b"kept").unwrap();
        partial.file = OpenOptions::new().write(true).open(device).unwrap();
        partial
    }

    #[test]
    fn a_full_disk_is_said_and_the_bytes_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut partial = onto("/dev/full", dir.path(), 100);
        let error = partial.append(b"more").expect_err("the disk is full");
        let PartialError::NoSpace { needed, .. } = &error else { panic!("{error}") };
        assert_eq!((*needed, partial.received()), (96, 4));
        assert_eq!(fs::read(&partial.path).unwrap(), b"kept");
    }

    #[test]
    fn the_whole_image_has_its_place_from_the_start_and_gives_it_back() {
        let dir = tempfile::tempdir().unwrap();
        let size = 8 << 20;
        let mut partial =
            Partial::open(dir.path(), Sha256Sum::of(b"never reached"), size, 0).unwrap();
        partial.append(b"kept").unwrap();
        let path = partial.path.clone();
        assert!(allocated(&path).unwrap() >= size, "nothing was set aside");
        assert_eq!(fs::metadata(&path).unwrap().len(), 4, "the length is the progress");
        drop(partial);
        assert!(allocated(&path).unwrap() < 1 << 20, "what was set aside was not given back");
        assert_eq!(fs::read(&path).unwrap(), b"kept");
    }

    #[test]
    fn what_the_disk_did_not_keep_is_not_kept_by_us() {
        let dir = tempfile::tempdir().unwrap();
        // /dev/null takes everything and can't be synced.
        let mut partial = onto("/dev/null", dir.path(), SYNC_EVERY + 100);
        let piece = vec![0; usize::try_from(SYNC_EVERY).unwrap()];
        let error = partial.append(&piece).expect_err("it can't be synced");
        assert!(matches!(error, PartialError::NotKept { .. }), "{error}");
        assert!(!partial.path.exists());
    }
}
