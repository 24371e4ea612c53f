//! The indexes of images: which blocks each has. Kept beside the images once they were made.

use std::collections::{HashSet, VecDeque};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use shoal_core::image::Digest;
use shoal_image::{ImageError, Index};

use super::recipes::sum_of;

/// Their extension.
const INDEX: &str = "index";

/// Indexes that are kept in memory; each takes some hundred kilobytes for an image of one GiB.
const KEPT: usize = 8;

/// Why there is no index.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IndexError {
    #[error("the file of image {} is not there", digest.short())]
    NoImage { digest: Digest },
    #[error("image {} can't be indexed", digest.short())]
    Image { digest: Digest, source: ImageError },
    #[error("could not {action} {path}")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}

/// The indexes of the images in a directory. Its methods use the disk: call them where that is
/// allowed.
#[derive(Debug)]
pub(crate) struct Indexes {
    images: PathBuf,
    recent: Mutex<VecDeque<(Digest, Arc<Index>)>>,
}

impl Indexes {
    /// Those beside the images in `images`. Removes those of images that are gone.
    pub(crate) fn open(images: PathBuf) -> Self {
        for entry in fs::read_dir(&images).into_iter().flatten().flatten() {
            let path = entry.path();
            let is_index = path.extension().is_some_and(|extension| extension == INDEX);
            if is_index && !path.with_extension("squashfs").exists() {
                remove(&path);
            }
        }
        Self { images, recent: Mutex::default() }
    }

    /// The index of an image: the one that is kept, or one made now.
    ///
    /// # Errors
    /// The image is not there, or can't be indexed.
    pub(crate) fn of(&self, digest: &Digest) -> Result<Arc<Index>, IndexError> {
        if let Some(index) = self.recent(digest) {
            return Ok(index);
        }
        let index = match self.kept(digest) {
            Some(index) => index,
            None => self.make(digest)?,
        };
        let index = Arc::new(index);
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.push_back((*digest, Arc::clone(&index)));
        if recent.len() > KEPT {
            recent.pop_front();
        }
        Ok(index)
    }

    fn recent(&self, digest: &Digest) -> Option<Arc<Index>> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.iter().find(|(other, _)| other == digest).map(|(_, index)| Arc::clone(index))
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.images.join(format!("{digest}.{INDEX}"))
    }

    /// What is on the disk. One that can't be read is made again.
    fn kept(&self, digest: &Digest) -> Option<Index> {
        Index::decode(&fs::read(self.path(digest)).ok()?).ok()
    }

    fn make(&self, digest: &Digest) -> Result<Index, IndexError> {
        let found = shoal_image::complete(&self.images, &sum_of(digest)).ok().flatten();
        let image = found.ok_or(IndexError::NoImage { digest: *digest })?;
        let index =
            Index::read(&image).map_err(|source| IndexError::Image { digest: *digest, source })?;
        let path = self.path(digest);
        let unfinished = path.with_extension("index-unfinished");
        // Its decoding checks it, so it needs not be on the disk before it has its name.
        let write = || {
            fs::write(&unfinished, index.encode())?;
            fs::rename(&unfinished, &path)
        };
        write().map_err(|source| IndexError::Io { action: "write", path: path.clone(), source })?;
        Ok(index)
    }

    /// Removes the index of an image that is gone.
    pub(crate) fn forget(&self, digest: &Digest) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.retain(|(other, _)| other != digest);
        remove(&self.path(digest));
    }
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "cannot remove the index of an image");
        }
        _ => {}
    }
}

/// The hashes of an image's blocks.
pub(crate) fn hashes(index: &Index) -> HashSet<[u8; 32]> {
    index.blocks.iter().map(|block| block.hash).collect()
}

/// Bytes of the blocks of `target` that are in `there` and in none of `before`.
pub(crate) fn added(
    target: &Index,
    before: &[&HashSet<[u8; 32]>],
    there: &HashSet<[u8; 32]>,
) -> u64 {
    let is_new = |hash: &[u8; 32]| there.contains(hash) && !before.iter().any(|b| b.contains(hash));
    let blocks = target.blocks.iter().filter(|block| is_new(&block.hash));
    blocks.map(|block| u64::from(block.length)).sum()
}
