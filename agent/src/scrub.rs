//! Reading image files again, to find those that were damaged: at once where something about a
//! file has changed, and each of them once a day all the same, since a disk can forget without a
//! word.
//!
//! One task, one file at a time. The daily reading works a tenth of the time, so that it is not
//! felt, and asks the disk and not the memory. A damaged file is taken away; then it is missing,
//! and comes again like any that is missing.

use std::fs::File;
use std::io::{self, Read};
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise};
use sha2::{Digest as _, Sha256};
use shoal_core::image::Digest;
use shoal_core::time::Timestamp;
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::clock;
use crate::host::mount;
use crate::paths::Paths;
use crate::verified::{self, Images, Signature};

/// How old the last reading of a file may get. The rest of the day is for the reading itself.
const DUE_AFTER: Duration = Duration::from_secs(20 * 3600);
/// How often is looked whether something is due.
const BETWEEN_LOOKS: Duration = Duration::from_secs(600);
/// How long a file that can't be read is left alone.
const AFTER_FAILURE: Duration = Duration::from_secs(60);
/// Bytes that are read at once.
const CHUNK: usize = 1 << 20;
/// How much longer than reading a chunk took is the pause after it.
const PAUSES: u32 = 9;

/// How a reading goes about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// Someone waits for it.
    Brisk,
    /// Nobody does.
    Unfelt,
}

/// What a reading found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finding {
    /// The file is what its name says.
    Whole(Signature),
    /// It is not, or its disk can't give it back.
    Damaged,
    /// It changed while it was read, or is gone.
    Unsteady,
}

/// Reads files again for as long as it is not dropped. Rings `bell` where that changed anything.
pub async fn run(paths: &Paths, images: &Images, bell: &Notify) {
    loop {
        let wait = match pass(paths, images, bell).await {
            Ok(wait) => wait,
            Err(error) => {
                warn!(error = %crate::chain(error.as_ref()), "cannot verify an image again");
                // Doubt does not go away meanwhile, and is no reason to try at once.
                tokio::time::sleep(AFTER_FAILURE).await;
                continue;
            }
        };
        // Both can be dropped: doubt is kept, and what is due is looked up anew.
        tokio::select! {
            () = images.doubt() => {},
            () = tokio::time::sleep(wait) => {},
        }
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Reads one file, if one is due; gives how long to wait for the next.
async fn pass(paths: &Paths, images: &Images, bell: &Notify) -> Result<Duration, Failure> {
    let Some((digest, read)) = images.next()? else { return Ok(BETWEEN_LOOKS) };
    let now = clock::now();
    let pace = match read {
        None => Pace::Brisk,
        Some(read) if is_due(read, now) => Pace::Unfelt,
        Some(_) => return Ok(BETWEEN_LOOKS),
    };
    let read = read_again(paths, images, &digest, pace, now).await;
    images.note_attempt(&digest, read.is_ok());
    if let Some(wait) = read? {
        return Ok(wait);
    }
    if pace == Pace::Brisk {
        info!(image = %digest, "read an image again, since its file had changed");
        bell.notify_one();
    }
    Ok(Duration::ZERO)
}

/// Reads a file and notes what was found; gives how long to wait where nothing could be found.
async fn read_again(
    paths: &Paths,
    images: &Images,
    digest: &Digest,
    pace: Pace,
    now: Timestamp,
) -> Result<Option<Duration>, Failure> {
    match hash(images, digest, pace).await? {
        Finding::Whole(signature) => verified::note(images.dir(), digest, signature, now)?,
        Finding::Damaged => {
            warn!(image = %digest, "the file of an image is damaged; it is fetched anew");
            images.note_damage(digest);
            let (paths, digest) = (paths.clone(), *digest);
            // It waits for whoever is mounting an image.
            tokio::task::spawn_blocking(move || mount::discard_image(&paths, &digest)).await??;
        }
        Finding::Unsteady => return Ok(Some(Duration::from_secs(1))),
    }
    Ok(None)
}

/// Whether a file that was read at `read` is to be read again. One that was read in the future is:
/// the clock was set back.
fn is_due(read: Timestamp, now: Timestamp) -> bool {
    read > now || now.since(read) >= DUE_AFTER
}

/// Reads the file of `digest` to its end. Can be dropped between two chunks.
async fn hash(images: &Images, digest: &Digest, pace: Pace) -> Result<Finding, Failure> {
    let path = verified::path(images.dir(), digest);
    let mut reading = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Finding::Unsteady),
        opened => Reading::new(opened?, pace)?,
    };
    loop {
        let step = move || (reading.step(), reading);
        let (stepped, back) = tokio::task::spawn_blocking(step).await?;
        reading = back;
        match stepped {
            Ok(None) => break,
            Ok(Some(took)) if pace == Pace::Unfelt => tokio::time::sleep(took * PAUSES).await,
            Ok(Some(_)) => {}
            // The disk can't give back what was written.
            Err(error) if error.raw_os_error() == Some(libc::EIO) => return Ok(Finding::Damaged),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(reading.finding(digest)?)
}

struct Reading {
    file: File,
    before: Signature,
    hasher: Sha256,
    buffer: Vec<u8>,
    offset: u64,
    pace: Pace,
}

impl Reading {
    fn new(file: File, pace: Pace) -> io::Result<Self> {
        let before = Signature::of(&file.metadata()?);
        let (hasher, buffer) = (Sha256::new(), vec![0; CHUNK]);
        Ok(Self { file, before, hasher, buffer, offset: 0, pace })
    }

    /// Reads on; gives how long that took, or nothing at the end.
    fn step(&mut self) -> io::Result<Option<Duration>> {
        let began = Instant::now();
        let chunk = u64::try_from(CHUNK).map_err(io::Error::other)?;
        if self.pace == Pace::Unfelt {
            // What is in memory is no proof of what is on the disk.
            let length = std::num::NonZeroU64::new(chunk);
            fadvise(&self.file, self.offset, length, Advice::DontNeed)?;
        }
        let length = self.file.read(&mut self.buffer)?;
        self.hasher.update(&self.buffer[..length]);
        self.offset += u64::try_from(length).map_err(io::Error::other)?;
        Ok((length > 0).then(|| began.elapsed()))
    }

    fn finding(self, digest: &Digest) -> io::Result<Finding> {
        if Signature::of(&self.file.metadata()?) != self.before {
            return Ok(Finding::Unsteady);
        }
        let sum: [u8; 32] = self.hasher.finalize().into();
        let whole = sum == *digest.as_bytes();
        Ok(if whole { Finding::Whole(self.before) } else { Finding::Damaged })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_damaged_file_is_told_from_a_whole_one() {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::new(dir.path().to_owned());
        let content = vec![7; CHUNK + 5];
        let digest = Digest::from(*shoal_image::Sha256Sum::of(&content).as_bytes());
        let found = hash(&images, &digest, Pace::Brisk).await.unwrap();
        assert_eq!(found, Finding::Unsteady, "it is not there");
        let path = verified::path(dir.path(), &digest);
        std::fs::write(&path, &content).unwrap();
        for pace in [Pace::Brisk, Pace::Unfelt] {
            let found = hash(&images, &digest, pace).await.unwrap();
            assert!(matches!(found, Finding::Whole(_)), "{found:?}");
        }
        std::fs::write(&path, &content[1..]).unwrap();
        assert_eq!(hash(&images, &digest, Pace::Brisk).await.unwrap(), Finding::Damaged);
    }

    #[tokio::test]
    async fn what_is_damaged_is_taken_away_and_what_is_whole_is_noted() {
        let dir = tempfile::tempdir().unwrap();
        let paths =
            Paths { state: dir.path().join("a"), run: dir.path().join("b"), ..Paths::default() };
        std::fs::create_dir_all(paths.images()).unwrap();
        let (images, bell) = (Images::new(paths.images()), Notify::new());
        assert_eq!(pass(&paths, &images, &bell).await.unwrap(), BETWEEN_LOOKS);
        let whole = Digest::from(*shoal_image::Sha256Sum::of(b"whole").as_bytes());
        let damaged = Digest::from([0; 32]);
        for digest in [&whole, &damaged] {
            std::fs::write(verified::path(images.dir(), digest), "whole").unwrap();
        }
        for _ in 0..2 {
            pass(&paths, &images, &bell).await.unwrap();
        }
        assert_eq!(images.staged().unwrap().into_keys().collect::<Vec<_>>(), [whole]);
        assert!(!verified::path(images.dir(), &damaged).exists());
        assert_eq!(images.problems().len(), 1);
        assert_eq!(pass(&paths, &images, &bell).await.unwrap(), BETWEEN_LOOKS);
    }

    #[test]
    fn every_file_is_due_within_a_day() {
        let read = Timestamp(1_000_000);
        assert!(!is_due(read, read.after(DUE_AFTER / 2)));
        assert!(is_due(read, read.after(DUE_AFTER)));
        assert!(is_due(read.after(DUE_AFTER), read));
    }
}
