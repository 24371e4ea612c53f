//! The image files of a host as its disk has them, and when each image was needed last.
//!
//! What removes files decides by those times (`shoal_core::gc`), so they are kept beside the files:
//! written when an image is no longer needed, and else once an hour, so that an agent that is
//! killed forgets no more than that. An image that nobody knows anything of counts from when it was
//! first seen.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shoal_core::gc::{Stock, Stored};
use shoal_core::image::Digest;
use shoal_core::name::ImageName;
use shoal_core::time::Timestamp;
use shoal_image::Sha256Sum;
use tracing::warn;

use crate::files::{FileError, failed, read_if_there, write_whole};
use crate::host::facts::disk;
use crate::stage::reserve;

/// The newest form of the note that this agent knows.
const VERSION: u32 = 1;
/// How much of what is known an agent that is killed may forget.
const WRITE_EVERY: Duration = Duration::from_secs(3600);
/// Bytes in what `stat` counts a file's blocks in, whatever the file system.
const BLOCK: u64 = 512;

/// Why the files can't be looked at.
#[derive(Debug, thiserror::Error)]
pub enum StockError {
    /// The directory.
    #[error(transparent)]
    Directory(#[from] shoal_image::DirectoryError),
    /// A file in it.
    #[error(transparent)]
    File(#[from] FileError),
}

/// What is known of an image besides its file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Needed {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<ImageName>,
    at: Timestamp,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Note {
    version: u32,
    images: BTreeMap<Digest, Needed>,
}

/// The image files of a host. One owner.
#[derive(Debug)]
pub struct ImageStock {
    dir: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    images: BTreeMap<Digest, Needed>,
    /// What of that is on the disk.
    written: BTreeMap<Digest, Needed>,
    /// What was needed when it was last said.
    needed: BTreeSet<Digest>,
    /// Whether the note could not be written the last time.
    failing: bool,
}

impl ImageStock {
    /// Of the files in `dir`. A note that makes no sense, or is of a newer agent, tells nothing.
    #[must_use]
    pub fn open(dir: PathBuf) -> Self {
        let bytes = read_if_there(&note_path(&dir)).ok().flatten().unwrap_or_default();
        let note: Note = serde_json::from_slice(&bytes).unwrap_or_default();
        let written = if note.version > VERSION { BTreeMap::new() } else { note.images };
        let known = Known { images: written.clone(), written, ..Known::default() };
        Self { dir, known: Mutex::new(known) }
    }

    /// What is there. What is gone is forgotten, and what is new was needed just now.
    ///
    /// # Errors
    /// Where the directory can't be read.
    pub fn look(&self, now: Timestamp) -> Result<Stock, StockError> {
        let listing = shoal_image::list(&self.dir)?;
        let mut known = self.known();
        let mut stock = Stock {
            free: shoal_image::free_space(&self.dir).unwrap_or(0),
            reserve: reserve(disk(&self.dir).0),
            ..Stock::default()
        };
        let whole = listing.complete.iter().map(|file| (true, &file.sum, &file.path));
        let partial = listing.partial.iter().map(|file| (false, &file.sum, &file.path));
        for (is_whole, sum, path) in whole.chain(partial) {
            let Some((size, written)) = taken(path)? else { continue };
            let digest = digest_of(sum);
            let known =
                known.images.entry(digest).or_insert_with(|| Needed { name: None, at: now });
            let (name, mut needed) = (known.name.clone(), known.at);
            let files = if is_whole { &mut stock.whole } else { &mut stock.partial };
            // Whoever writes to a file needs it.
            if !is_whole {
                needed = needed.max(written);
            }
            files.insert(digest, Stored { size, name, needed });
        }
        let there = |digest: &Digest| {
            stock.whole.contains_key(digest) || stock.partial.contains_key(digest)
        };
        known.images.retain(|digest, _| there(digest));
        Ok(stock)
    }

    /// Notes which images are needed `now`, with what they are of where that is known. What can't
    /// be written is written later.
    pub fn note(&self, needed: &BTreeMap<Digest, Option<ImageName>>, now: Timestamp) {
        let mut known = self.known();
        let before = std::mem::replace(&mut known.needed, needed.keys().copied().collect());
        for (digest, image) in &mut known.images {
            let Some(name) = needed.get(digest) else { continue };
            image.at = now;
            image.name = name.clone().or_else(|| image.name.take());
        }
        let freed = before.iter().any(|digest| !needed.contains_key(digest));
        if (freed && known.images != known.written) || is_due(&known) {
            self.write(&mut known);
        }
    }

    fn write(&self, known: &mut Known) {
        let note = Note { version: VERSION, images: known.images.clone() };
        let bytes = serde_json::to_vec(&note).expect("a note is plain data");
        match write_whole(&note_path(&self.dir), &bytes) {
            Ok(()) => {
                known.failing = false;
                known.written = note.images;
            }
            Err(error) if !std::mem::replace(&mut known.failing, true) => {
                warn!(error = %crate::chain(&error), "cannot note which images are needed; trying on");
            }
            Err(_) => {}
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether more is known than may be forgotten.
fn is_due(known: &Known) -> bool {
    let differs = |(digest, image): (&Digest, &Needed)| match known.written.get(digest) {
        // A clock that was set back is as much news.
        Some(written) => {
            let apart = image.at.since(written.at).max(written.at.since(image.at));
            written.name != image.name || apart >= WRITE_EVERY
        }
        None => true,
    };
    known.images.len() != known.written.len() || known.images.iter().any(differs)
}

/// Bytes of the disk that a file has, and when it was written to last; `None` where it is gone.
fn taken(path: &Path) -> Result<Option<(u64, Timestamp)>, FileError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => {
            let seconds = u64::try_from(metadata.mtime()).unwrap_or(0);
            let written = Timestamp(seconds.saturating_mul(1000));
            Ok(Some((metadata.blocks().saturating_mul(BLOCK), written)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("look at", path)(error)),
    }
}

fn digest_of(sum: &Sha256Sum) -> Digest {
    Digest::from(*sum.as_bytes())
}

fn note_path(dir: &Path) -> PathBuf {
    dir.join(".needed.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;
    /// After whatever this machine's clock says of the files made here.
    const NOW: u64 = 4_000_000_000_000;

    fn digest(number: u8) -> Digest {
        [number; 32].into()
    }

    fn stock(dir: &Path) -> ImageStock {
        ImageStock::open(dir.to_owned())
    }

    fn needed(digests: &[u8]) -> BTreeMap<Digest, Option<ImageName>> {
        digests.iter().map(|n| (digest(*n), Some("app".parse().unwrap()))).collect()
    }

    fn at(stock: &ImageStock, number: u8) -> u64 {
        stock.look(Timestamp(NOW + 99 * HOUR)).unwrap().whole[&digest(number)].needed.0
    }

    #[test]
    fn when_an_image_was_needed_last_outlives_the_agent() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        for number in [1, 2] {
            fs::write(dir.join(format!("{}.squashfs", digest(number))), "bytes").unwrap();
        }
        let first = stock(dir);
        assert_eq!(first.look(Timestamp(NOW)).unwrap().whole.len(), 2);
        first.note(&needed(&[1]), Timestamp(NOW));
        first.note(&needed(&[1]), Timestamp(NOW + HOUR / 2));
        assert_eq!((at(&first, 1), at(&first, 2)), (NOW + HOUR / 2, NOW));
        assert_eq!(at(&stock(dir), 1), NOW, "it was killed, and half an hour is not written down");
        first.note(&needed(&[1]), Timestamp(NOW + HOUR));
        assert_eq!(at(&stock(dir), 1), NOW + HOUR);
        first.note(&needed(&[1, 2]), Timestamp(NOW + HOUR + 1));
        first.note(&needed(&[2]), Timestamp(NOW + HOUR + 2));
        let second = stock(dir);
        assert_eq!((at(&second, 1), at(&second, 2)), (NOW + HOUR + 1, NOW + HOUR + 2));
        let name = second.look(Timestamp(NOW)).unwrap().whole[&digest(1)].name.clone();
        assert_eq!(name, Some("app".parse().unwrap()));

        fs::remove_file(dir.join(format!("{}.squashfs", digest(1)))).unwrap();
        assert_eq!(second.look(Timestamp(NOW)).unwrap().whole.len(), 1);
        second.note(&needed(&[]), Timestamp(NOW + 2 * HOUR));
        assert!(!fs::read_to_string(note_path(dir)).unwrap().contains(&digest(1).to_string()));
    }

    #[test]
    fn what_arrives_is_needed_for_as_long_as_it_does() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(format!("{}.partial", digest(1)));
        fs::write(&path, vec![1; 10_000]).unwrap();
        let stock = stock(dir.path());
        let partial = stock.look(Timestamp(5)).unwrap().partial[&digest(1)].clone();
        assert!(partial.needed > Timestamp(1_000_000_000_000), "it was written to just now");
        assert!(partial.size >= 10_000, "{partial:?}");
        let found = stock.look(Timestamp(5)).unwrap();
        assert!(found.free > 0 && found.reserve > 0 && found.whole.is_empty());
    }

    #[test]
    fn the_form_on_disk_stays() {
        let dir = tempfile::tempdir().unwrap();
        let golden = format!(
            r#"{{"version":1,"images":{{"{}":{{"name":"app","at":{NOW}}},"{}":{{"at":{NOW}}}}}}}"#,
            digest(1),
            digest(2)
        );
        for number in [1, 2] {
            fs::write(dir.path().join(format!("{}.squashfs", digest(number))), "bytes").unwrap();
        }
        let written = stock(dir.path());
        written.look(Timestamp(NOW)).unwrap();
        written.note(&needed(&[1]), Timestamp(NOW));
        assert_eq!(fs::read_to_string(note_path(dir.path())).unwrap(), golden);
        let newer = golden.replace("\"version\":1", "\"version\":2");
        fs::write(note_path(dir.path()), newer).unwrap();
        assert_eq!(at(&stock(dir.path()), 1), NOW + 99 * HOUR, "all begins anew");
    }
}
