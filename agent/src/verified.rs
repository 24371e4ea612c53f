//! Which image files are still what their names say.
//!
//! A file gets its name when it has been verified. From then on it counts as verified while the
//! file system tells the same of it as it did then: its inode, its size and its times, of which
//! nobody can set the last. One that differs counts as absent until it has been read and hashed
//! again ([`crate::scrub`]). What was told is kept beside the images, so that an agent that starts
//! need not read them all.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use shoal_core::image::Digest;
use shoal_core::time::Timestamp;
use tokio::sync::Notify;

use crate::files::{FileError, failed, read_if_there, write_whole};
use crate::host::manifest::FileId;

/// The newest form of the note that this agent knows.
const VERSION: u32 = 1;

/// What the file system tells of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Signature {
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Signature {
    /// Of the file that `metadata` is about.
    #[must_use]
    pub fn of(metadata: &fs::Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// When a file was found to be what its name says, and what was told of it then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Verified {
    signature: Signature,
    at: Timestamp,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Note {
    version: u32,
    images: BTreeMap<Digest, Verified>,
}

/// The image files of a host.
#[derive(Debug)]
pub struct Images {
    dir: PathBuf,
    damaged: Mutex<BTreeSet<Digest>>,
    /// Files that could not be read or noted the last time: the others come first.
    postponed: Mutex<BTreeSet<Digest>>,
    /// Rung when a file is found that must be read again.
    doubt: Notify,
}

impl Images {
    /// Those in `dir`.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, damaged: Mutex::default(), postponed: Mutex::default(), doubt: Notify::new() }
    }

    /// The files that count as complete and verified.
    ///
    /// # Errors
    /// Where the directory or the note can't be read.
    pub fn staged(&self) -> Result<BTreeMap<Digest, FileId>, FileError> {
        let note = read(&self.dir)?;
        let mut staged = BTreeMap::new();
        let mut doubtful = false;
        for (digest, metadata) in files(&self.dir)? {
            let known = note.images.get(&digest);
            if known.is_some_and(|known| known.signature == Signature::of(&metadata)) {
                staged.insert(digest, FileId::of(&metadata));
            } else {
                doubtful = true;
            }
        }
        if doubtful {
            self.doubt.notify_one();
        }
        self.damaged().retain(|digest| !staged.contains_key(digest));
        Ok(staged)
    }

    /// The file to read next, and when: at once one that differs from what is known of it, else
    /// the one that was read longest ago. `None` where there are no files.
    ///
    /// # Errors
    /// Where the directory or the note can't be read.
    pub fn next(&self) -> Result<Option<(Digest, Option<Timestamp>)>, FileError> {
        let note = read(&self.dir)?;
        let found = files(&self.dir)?.into_iter().map(|(digest, metadata)| {
            let known = note.images.get(&digest);
            let known = known.filter(|known| known.signature == Signature::of(&metadata));
            (digest, known.map(|known| known.at))
        });
        let postponed = self.postponed();
        Ok(found.min_by_key(|(digest, read)| (postponed.contains(digest), *read)))
    }

    /// Notes whether a file could be read and noted, so that one that can't holds up no other.
    pub fn note_attempt(&self, digest: &Digest, succeeded: bool) {
        let mut postponed = self.postponed();
        if succeeded {
            postponed.remove(digest);
        } else {
            postponed.insert(*digest);
        }
    }

    fn postponed(&self) -> MutexGuard<'_, BTreeSet<Digest>> {
        self.postponed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a file was damaged and is being taken away.
    pub fn note_damage(&self, digest: &Digest) {
        self.damaged().insert(*digest);
    }

    /// What is wrong, for people: images that were damaged and are not back yet.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let text = |digest: &Digest| {
            format!("the file of image {digest} was damaged on the disk and is fetched anew")
        };
        self.damaged().iter().map(text).collect()
    }

    /// Waits until a file is found that must be read again.
    pub async fn doubt(&self) {
        self.doubt.notified().await;
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn damaged(&self) -> MutexGuard<'_, BTreeSet<Digest>> {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How the file of one image stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Complete and verified.
    Verified,
    /// There, and to be read again.
    Doubtful,
    /// Not there.
    Absent,
}

/// How the file of `digest` in `dir` stands.
///
/// # Errors
/// Where the directory or the note can't be read.
pub fn standing(dir: &Path, digest: &Digest) -> Result<Standing, FileError> {
    let note = read(dir)?;
    let found = files(dir)?.into_iter().find(|(other, _)| other == digest);
    let Some((_, metadata)) = found else { return Ok(Standing::Absent) };
    let known = note.images.get(digest);
    let same = known.is_some_and(|known| known.signature == Signature::of(&metadata));
    Ok(if same { Standing::Verified } else { Standing::Doubtful })
}

/// Where an image's file is.
#[must_use]
pub fn path(dir: &Path, digest: &Digest) -> PathBuf {
    dir.join(format!("{digest}.squashfs"))
}

/// Notes that the file of `digest` in `dir` was verified when it was `signature`.
///
/// # Errors
/// Where that can't be noted.
pub fn note(
    dir: &Path,
    digest: &Digest,
    signature: Signature,
    now: Timestamp,
) -> Result<(), FileError> {
    let verified = Verified { signature, at: now };
    change(dir, |images| {
        images.insert(*digest, verified);
    })
}

/// Notes that the file of `digest` in `dir` has just come, verified on its way.
///
/// # Errors
/// Where it can't be looked at, or that can't be noted.
pub fn note_arrival(dir: &Path, digest: &Digest, now: Timestamp) -> Result<(), FileError> {
    let path = path(dir, digest);
    let metadata = fs::symlink_metadata(&path).map_err(failed("look at", &path))?;
    note(dir, digest, Signature::of(&metadata), now)
}

/// Forgets files in `dir` that are not there any more.
///
/// # Errors
/// Where that can't be noted.
pub fn forget_missing(dir: &Path) -> Result<(), FileError> {
    change(dir, |_| {})
}

fn change(
    dir: &Path,
    change: impl FnOnce(&mut BTreeMap<Digest, Verified>),
) -> Result<(), FileError> {
    // Two tasks write it: the one that brings images and the one that reads them again.
    let path = dir.join(".verified.lock");
    let lock = File::options().create(true).truncate(false).write(true).open(&path);
    let lock = lock.map_err(failed("open", &path))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)
        .map_err(|e| failed("lock", &path)(e.into()))?;
    let mut after = read(dir)?;
    change(&mut after.images);
    let there: BTreeSet<Digest> = files(dir)?.into_iter().map(|(digest, _)| digest).collect();
    after.images.retain(|digest, _| there.contains(digest));
    after.version = VERSION;
    let bytes = serde_json::to_vec(&after).expect("a note is plain data");
    write_whole(&note_path(dir), &bytes)
}

fn note_path(dir: &Path) -> PathBuf {
    dir.join(".verified.json")
}

/// One that makes no sense, or is of a newer agent, tells nothing: all is read again.
fn read(dir: &Path) -> Result<Note, FileError> {
    let bytes = read_if_there(&note_path(dir))?.unwrap_or_default();
    let note: Note = serde_json::from_slice(&bytes).unwrap_or_default();
    Ok(if note.version > VERSION { Note::default() } else { note })
}

/// The complete files in `dir`.
fn files(dir: &Path) -> Result<Vec<(Digest, fs::Metadata)>, FileError> {
    let mut found = Vec::new();
    for name in crate::files::names(dir)? {
        let digest = name.strip_suffix(".squashfs").and_then(|digest| digest.parse().ok());
        let Some(digest) = digest else { continue };
        let path = dir.join(&name);
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_file() => found.push((digest, metadata)),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("look at", &path)(error)),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1000);

    #[test]
    fn a_file_counts_while_it_is_as_it_was_verified() {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::new(dir.path().join("images"));
        assert!(images.staged().unwrap().is_empty() && images.next().unwrap().is_none());
        fs::create_dir(images.dir()).unwrap();
        let (one, two) = (Digest::from([1; 32]), Digest::from([2; 32]));
        for digest in [&one, &two] {
            fs::write(path(images.dir(), digest), "bytes").unwrap();
        }
        assert!(images.staged().unwrap().is_empty(), "nobody has vouched for them");
        note_arrival(images.dir(), &one, NOW).unwrap();
        assert_eq!(images.staged().unwrap().into_keys().collect::<Vec<_>>(), [one]);
        assert_eq!(images.next().unwrap(), Some((two, None)));
        let standing = |digest| standing(images.dir(), digest).unwrap();
        assert_eq!(standing(&one), Standing::Verified);
        assert_eq!(standing(&two), Standing::Doubtful);
        assert_eq!(standing(&Digest::from([3; 32])), Standing::Absent);
        note_arrival(images.dir(), &two, Timestamp(2000)).unwrap();
        assert_eq!(images.next().unwrap(), Some((one, Some(NOW))), "the longest ago");

        let mut file = File::options().append(true).open(path(images.dir(), &one)).unwrap();
        std::io::Write::write_all(&mut file, b"more").unwrap();
        drop(file);
        assert_eq!(images.staged().unwrap().into_keys().collect::<Vec<_>>(), [two]);
        assert_eq!(images.next().unwrap(), Some((one, None)));
    }

    #[test]
    fn a_damaged_image_is_a_problem_until_it_is_back() {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::new(dir.path().to_owned());
        let one = Digest::from([1; 32]);
        images.note_damage(&one);
        images.staged().unwrap();
        assert!(images.problems()[0].contains(&one.to_string()));
        fs::write(path(images.dir(), &one), "bytes").unwrap();
        note_arrival(images.dir(), &one, NOW).unwrap();
        images.staged().unwrap();
        assert_eq!(images.problems(), [""; 0]);
    }

    #[test]
    fn the_form_on_disk_stays() {
        let dir = tempfile::tempdir().unwrap();
        let golden = format!(
            r#"{{"version":1,"images":{{"{}":{{"signature":{{"inode":7,"size":5,"modified":[1,2],"changed":[3,4]}},"at":1000}}}}}}"#,
            "01".repeat(32)
        );
        let one = Digest::from([1; 32]);
        fs::write(path(dir.path(), &one), "bytes").unwrap();
        let signature = Signature { inode: 7, size: 5, modified: (1, 2), changed: (3, 4) };
        note(dir.path(), &one, signature, NOW).unwrap();
        assert_eq!(fs::read_to_string(note_path(dir.path())).unwrap(), golden);
        fs::write(note_path(dir.path()), golden.replace("\"version\":1", "\"version\":2")).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Note::default());
    }
}
