//! The image files that the controller keeps: one for each image, named by its digest.
//!
//! Part: everything that touches those files, so that an object store can take their place here
//! and nowhere else. Ways in: [`Blobs::claim`] and [`Blobs::receive`] to take one,
//! [`Blobs::open`] to send one. All file work is done where it may block.
//!
//! Deliberately absent: records, tags, and who uses what. A file that is whole may have no record
//! yet; one without a record is nobody's, see [`Blobs::remove_orphans`].

mod taking;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use shoal_core::image::Digest;
use shoal_core::time::Timestamp;
use shoal_image::recipe::Head;
use shoal_image::{
    AssembleError, Assembler, DirectoryError, ImageInfo, Index, Partial, PartialError, Problem,
    Sha256Sum,
};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};

use self::taking::Taking;
use crate::refusal::Refusal;
use shoal_core::cause::chain;

/// Bytes that stay free on the disk whatever is pushed: the store may be on it.
const RESERVE: u64 = 64 << 20;

/// Chunks between the network and the disk: enough to keep both busy, and one MiB at the usual
/// size of a chunk.
const QUEUED_CHUNKS: usize = 4;

/// A directory of image files. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Blobs {
    dir: Arc<Path>,
    claimed: Arc<Mutex<BTreeSet<Digest>>>,
}

/// What is there of an image file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// All of it, verified; so many bytes.
    Complete(u64),
    /// So many bytes of a broken-off push, perhaps none.
    Partial(u64),
}

/// The sole right to write or remove one image file; it ends when this is dropped.
#[derive(Debug)]
pub struct Claim {
    digest: Digest,
    claimed: Arc<Mutex<BTreeSet<Digest>>>,
}

/// An image file that is being received. Dropping it ends the transfer and keeps the bytes.
#[derive(Debug)]
pub struct Upload {
    received: u64,
    pieces: mpsc::Sender<Piece>,
    writer: JoinHandle<Result<Option<Claim>, BlobError>>,
}

enum Piece {
    Bytes(Bytes),
    End,
}

/// What is there of a push that was broken off, or goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BrokenOff {
    pub digest: Digest,
    /// Bytes that are there.
    pub bytes: u64,
    /// When the last of them came.
    pub written: Timestamp,
}

/// Why an image file can't be had, written or removed.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    #[error(
        "image {} is being pushed or removed by someone else at this moment; try again when \
         that has ended", digest.short()
    )]
    Claimed { digest: Digest },
    #[error("the file of image {} is not there; push the image again", digest.short())]
    Missing { digest: Digest },
    #[error(transparent)]
    Transfer(#[from] PartialError),
    #[error(transparent)]
    Assembly(#[from] AssembleError),
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error("image {} {}", digest.short(), chain(problem))]
    Image { digest: Digest, problem: Problem },
    #[error("could not open {path}")]
    Open { path: PathBuf, source: std::io::Error },
    #[error("the task that works on image files has ended; see the controller's log")]
    Ended,
}

impl BlobError {
    /// Whether only the room on the disk is missing.
    #[must_use]
    pub fn is_for_room(&self) -> bool {
        matches!(
            self,
            Self::Transfer(PartialError::NoSpace { .. })
                | Self::Assembly(AssembleError::Partial(PartialError::NoSpace { .. }))
        )
    }
}

impl From<BlobError> for Refusal {
    fn from(error: BlobError) -> Self {
        let text = chain(&error);
        match error {
            BlobError::Claimed { .. } => Self::Conflict(text),
            BlobError::Missing { .. } => Self::NotFound(text),
            BlobError::Image { problem, .. } => match problem {
                Problem::Open { .. } | Problem::Read { .. } => Self::Internal(text),
                _ => Self::Invalid(text),
            },
            BlobError::Transfer(error) => of_transfer(&error, text),
            BlobError::Assembly(error) => of_assembly(&error, text),
            BlobError::Directory(_) | BlobError::Open { .. } | BlobError::Ended => {
                Self::Internal(text)
            }
        }
    }
}

fn of_transfer(error: &PartialError, text: String) -> Refusal {
    match error {
        PartialError::Busy { .. } => Refusal::Conflict(text),
        PartialError::AlreadyComplete { .. } => Refusal::AlreadyExists(text),
        PartialError::NoSpace { .. } => Refusal::Exhausted(text),
        PartialError::TooLong { .. } | PartialError::Incomplete { .. } => Refusal::Invalid(text),
        PartialError::WrongDigest { .. } => Refusal::DataLoss(text),
        PartialError::NotKept { .. } | PartialError::Io { .. } => Refusal::Internal(text),
    }
}

/// A precondition that fails says to the sender that it has to send the whole image.
fn of_assembly(error: &AssembleError, text: String) -> Refusal {
    match error {
        AssembleError::Partial(error) => of_transfer(error, text),
        AssembleError::MissingSource { .. }
        | AssembleError::SourceSize { .. }
        | AssembleError::SourceImage(_)
        | AssembleError::SourceDamaged { .. }
        | AssembleError::SourceIo { .. }
        | AssembleError::Codecs { .. } => Refusal::Precondition(text),
        AssembleError::WrongSegment { .. }
        | AssembleError::Rebuild { .. }
        | AssembleError::WrongImage { .. } => Refusal::DataLoss(text),
        AssembleError::NotNext { .. } | AssembleError::Recipe(_) => Refusal::Invalid(text),
    }
}

impl Blobs {
    /// The image files of `dir`, which is made when the first one comes.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.into(), claimed: Arc::default() }
    }

    /// What is there of an image.
    ///
    /// # Errors
    /// The directory can't be read.
    pub async fn presence(&self, digest: &Digest) -> Result<Presence, BlobError> {
        let (dir, sum) = (self.dir.clone(), sum_of(digest));
        blocking(move || {
            let listing = shoal_image::list(&dir)?;
            if let Some(file) = listing.complete.iter().find(|file| file.sum == sum) {
                return Ok(Presence::Complete(file.size));
            }
            let partial = listing.partial.iter().find(|file| file.sum == sum);
            Ok(Presence::Partial(partial.map_or(0, |file| file.received)))
        })
        .await
    }

    /// A complete image file, open for reading, and its length in bytes.
    ///
    /// # Errors
    /// [`BlobError::Missing`], or the disk says no.
    pub async fn open(&self, digest: &Digest) -> Result<(std::fs::File, u64), BlobError> {
        let (dir, digest) = (self.dir.clone(), *digest);
        blocking(move || {
            let path = shoal_image::complete(&dir, &sum_of(&digest))?
                .ok_or(BlobError::Missing { digest })?;
            let open = || {
                let file = std::fs::File::open(&path)?;
                let size = file.metadata()?.len();
                Ok((file, size))
            };
            open().map_err(|source| BlobError::Open { path: path.clone(), source })
        })
        .await
    }

    /// The sole right to write or remove an image's file.
    ///
    /// # Errors
    /// [`BlobError::Claimed`] while someone else has it.
    pub fn claim(&self, digest: &Digest) -> Result<Claim, BlobError> {
        let mut claimed = self.claimed.lock().unwrap_or_else(PoisonError::into_inner);
        if !claimed.insert(*digest) {
            return Err(BlobError::Claimed { digest: *digest });
        }
        Ok(Claim { digest: *digest, claimed: self.claimed.clone() })
    }

    /// Begins or resumes receiving the image of `size` bytes that `claim` is for.
    ///
    /// # Errors
    /// There is no room for the rest of it, it is complete already, or the disk says no.
    pub async fn receive(&self, claim: Claim, size: u64) -> Result<Upload, BlobError> {
        let dir = self.dir.clone();
        let partial =
            move |sum: &Sha256Sum| Ok(Taking::Whole(Partial::open(&dir, *sum, size, RESERVE)?));
        self.take(claim, partial).await
    }

    /// Begins or resumes making the image that `claim` is for by a recipe: what is written then are
    /// its segments, from the one on that has the image's byte
    /// [`received`](Upload::received). What it is made of are images that are here.
    ///
    /// # Errors
    /// As [`receive`](Self::receive); also where one of those images is not here.
    pub async fn assemble(&self, claim: Claim, head: Head) -> Result<Upload, BlobError> {
        let dir = self.dir.clone();
        let assembler =
            move |_: &Sha256Sum| Ok(Taking::of_recipe(Assembler::open(head, &dir, &dir, RESERVE)?));
        self.take(claim, assembler).await
    }

    async fn take(
        &self,
        claim: Claim,
        open: impl FnOnce(&Sha256Sum) -> Result<Taking, BlobError> + Send + 'static,
    ) -> Result<Upload, BlobError> {
        let (claim, taking) = blocking(move || {
            let taking = open(&sum_of(&claim.digest))?;
            Ok((claim, taking))
        })
        .await?;
        let (pieces, queue) = mpsc::channel(QUEUED_CHUNKS);
        let received = taking.received();
        let writer = spawn_blocking(move || write(claim, taking, queue));
        Ok(Upload { received, pieces, writer })
    }

    /// Checks that an image's complete file is a squashfs, and reads what system is in it.
    ///
    /// # Errors
    /// [`BlobError::Missing`] or [`BlobError::Image`].
    pub async fn inspect(&self, digest: &Digest) -> Result<ImageInfo, BlobError> {
        let (dir, digest) = (self.dir.clone(), *digest);
        blocking(move || {
            shoal_image::inspect(&complete_path(&dir, &digest)?)
                .map_err(|error| BlobError::Image { digest, problem: error.problem })
        })
        .await
    }

    /// The outline of a complete image; see [`shoal_image::Index::outline`]. Reads it once.
    ///
    /// # Errors
    /// [`BlobError::Missing`] or [`BlobError::Image`].
    pub async fn outline(&self, digest: &Digest) -> Result<Bytes, BlobError> {
        let (dir, digest) = (self.dir.clone(), *digest);
        blocking(move || {
            let index = Index::read(&complete_path(&dir, &digest)?)
                .map_err(|error| BlobError::Image { digest, problem: error.problem })?;
            Ok(index.outline().into())
        })
        .await
    }

    /// Where a complete image's file is, for what reads it at leisure. It may go meanwhile.
    ///
    /// # Errors
    /// [`BlobError::Missing`].
    pub async fn path(&self, digest: &Digest) -> Result<PathBuf, BlobError> {
        let (dir, digest) = (self.dir.clone(), *digest);
        blocking(move || complete_path(&dir, &digest)).await
    }

    /// Removes the complete file that `claim` is for. Whether it was there.
    ///
    /// # Errors
    /// The disk says no.
    pub async fn remove(&self, claim: &Claim) -> Result<bool, BlobError> {
        let (dir, sum) = (self.dir.clone(), sum_of(&claim.digest));
        blocking(move || Ok(shoal_image::remove(&dir, &sum)?)).await
    }

    /// The beginnings of images that are there and that nobody goes on with at the moment.
    ///
    /// # Errors
    /// The directory can't be read.
    pub async fn broken_off(&self) -> Result<Vec<BrokenOff>, BlobError> {
        let dir = self.dir.clone();
        let claimed = self.claimed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        blocking(move || {
            let partial = shoal_image::list(&dir)?.partial.into_iter();
            // One that can't be looked at has just become whole, or was removed.
            let found = partial.filter_map(|file| {
                let written = std::fs::symlink_metadata(&file.path).ok()?.modified().ok()?;
                let digest = Digest::from(<[u8; 32]>::from(file.sum));
                Some(BrokenOff { digest, bytes: file.received, written: written.into() })
            });
            Ok(found.filter(|found| !claimed.contains(&found.digest)).collect())
        })
        .await
    }

    /// Removes the beginning of an image. `false` where it was not there, or someone goes on with
    /// it.
    ///
    /// # Errors
    /// The disk says no.
    pub async fn discard(&self, digest: &Digest) -> Result<bool, BlobError> {
        let Ok(claim) = self.claim(digest) else { return Ok(false) };
        let dir = self.dir.clone();
        blocking(move || Ok(shoal_image::discard_partial(&dir, &sum_of(&claim.digest))?)).await
    }

    /// Removes every complete file that is not among `known`: what a crash left between a file
    /// and its record. For the start of the controller, before anything is pushed. Returns what
    /// was removed.
    ///
    /// # Errors
    /// The disk says no.
    pub async fn remove_orphans(&self, known: BTreeSet<Digest>) -> Result<Vec<Digest>, BlobError> {
        let dir = self.dir.clone();
        blocking(move || {
            let mut removed = Vec::new();
            for file in shoal_image::list(&dir)?.complete {
                let digest = Digest::from(<[u8; 32]>::from(file.sum));
                if !known.contains(&digest) && shoal_image::remove(&dir, &file.sum)? {
                    removed.push(digest);
                }
            }
            Ok(removed)
        })
        .await
    }
}

impl Claim {
    /// What is claimed.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.digest);
    }
}

impl Upload {
    /// Bytes that were there when it began.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Adds the next bytes; waits while the disk is slower than the sender.
    ///
    /// # Errors
    /// More bytes than announced, a full disk, or one that fails. Nothing can be added then.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), BlobError> {
        if self.pieces.send(Piece::Bytes(bytes)).await.is_ok() {
            return Ok(());
        }
        // The writer goes only with a reason.
        Err((&mut self.writer)
            .await
            .unwrap_or(Err(BlobError::Ended))
            .err()
            .unwrap_or(BlobError::Ended))
    }

    /// Ends the transfer: checks length and digest, and gives the file its name, durably.
    ///
    /// # Errors
    /// Bytes are missing (they are kept for a resume), or are not those of the digest (they are
    /// thrown away).
    pub async fn finish(self) -> Result<Claim, BlobError> {
        // Where the writer has ended already, its error is the answer.
        let _ = self.pieces.send(Piece::End).await;
        let claim = self.writer.await.unwrap_or(Err(BlobError::Ended))?;
        claim.ok_or(BlobError::Ended)
    }

    /// Breaks off and keeps what arrived; returns when it is on the disk and the claim has ended.
    pub async fn stop(self) {
        drop(self.pieces);
        if let Err(error) = self.writer.await.unwrap_or(Err(BlobError::Ended)) {
            tracing::warn!(error = chain(&error), "a broken-off push could not be kept");
        }
    }
}

/// Writes what comes until the end is said, or the sender is gone.
fn write(
    claim: Claim,
    mut taking: Taking,
    mut queue: mpsc::Receiver<Piece>,
) -> Result<Option<Claim>, BlobError> {
    while let Some(piece) = queue.blocking_recv() {
        match piece {
            Piece::Bytes(bytes) => taking.take(&bytes)?,
            Piece::End => {
                taking.finish()?;
                return Ok(Some(claim));
            }
        }
    }
    Ok(None)
}

fn complete_path(dir: &Path, digest: &Digest) -> Result<PathBuf, BlobError> {
    let path = shoal_image::complete(dir, &sum_of(digest))?;
    path.ok_or(BlobError::Missing { digest: *digest })
}

fn sum_of(digest: &Digest) -> Sha256Sum {
    Sha256Sum::new(*digest.as_bytes())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BlobError> + Send + 'static,
) -> Result<T, BlobError> {
    spawn_blocking(work).await.unwrap_or(Err(BlobError::Ended))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blobs() -> (tempfile::TempDir, Blobs) {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::new(&dir.path().join("images"));
        (dir, blobs)
    }

    fn digest_of(bytes: &[u8]) -> Digest {
        <[u8; 32]>::from(Sha256Sum::of(bytes)).into()
    }

    async fn put(blobs: &Blobs, bytes: &'static [u8]) -> Digest {
        let digest = digest_of(bytes);
        let size = u64::try_from(bytes.len()).unwrap();
        let mut upload = blobs.receive(blobs.claim(&digest).unwrap(), size).await.unwrap();
        upload.write(Bytes::from_static(bytes)).await.unwrap();
        assert_eq!(upload.finish().await.unwrap().digest(), &digest);
        digest
    }

    #[tokio::test]
    async fn a_file_comes_in_pieces_and_goes_on_where_it_broke_off() {
        let (_dir, blobs) = blobs();
        let digest = digest_of(b"abcdef");
        let mut upload = blobs.receive(blobs.claim(&digest).unwrap(), 6).await.unwrap();
        upload.write(Bytes::from_static(b"abc")).await.unwrap();
        upload.stop().await;
        assert_eq!(blobs.presence(&digest).await.unwrap(), Presence::Partial(3));
        let mut upload = blobs.receive(blobs.claim(&digest).unwrap(), 6).await.unwrap();
        assert_eq!(upload.received(), 3);
        upload.write(Bytes::from_static(b"def")).await.unwrap();
        upload.finish().await.unwrap();
        assert_eq!(blobs.presence(&digest).await.unwrap(), Presence::Complete(6));
        let (file, size) = blobs.open(&digest).await.unwrap();
        assert_eq!((std::io::read_to_string(file).unwrap().as_str(), size), ("abcdef", 6));
    }

    #[tokio::test]
    async fn one_writer_at_a_time() {
        let (_dir, blobs) = blobs();
        let digest = digest_of(b"x");
        let claim = blobs.claim(&digest).unwrap();
        assert!(matches!(blobs.claim(&digest), Err(BlobError::Claimed { .. })));
        drop(claim);
        let upload = blobs.receive(blobs.claim(&digest).unwrap(), 1).await.unwrap();
        assert!(blobs.claim(&digest).is_err());
        upload.stop().await;
        assert!(blobs.claim(&digest).is_ok());
    }

    #[tokio::test]
    async fn too_many_bytes_are_said_by_the_write_or_the_end() {
        let (_dir, blobs) = blobs();
        let mut upload = blobs.receive(blobs.claim(&digest_of(b"x")).unwrap(), 1).await.unwrap();
        let mut error = None;
        for _ in 0..100 {
            error = upload.write(Bytes::from_static(b"xx")).await.err();
            if error.is_some() {
                break;
            }
        }
        let transfer = error.expect("the writer ends");
        assert!(
            matches!(transfer, BlobError::Transfer(PartialError::TooLong { .. })),
            "{transfer}"
        );
    }

    #[tokio::test]
    async fn a_disk_too_small_is_said_before_a_byte_comes() {
        let (_dir, blobs) = blobs();
        let claim = blobs.claim(&digest_of(b"x")).unwrap();
        let error = blobs.receive(claim, 1 << 60).await.unwrap_err();
        assert!(matches!(error, BlobError::Transfer(PartialError::NoSpace { .. })), "{error}");
        assert!(matches!(Refusal::from(error), Refusal::Exhausted(_)));
    }

    #[tokio::test]
    async fn files_that_no_record_knows_go_at_the_start() {
        let (_dir, blobs) = blobs();
        let (kept, orphan) = (put(&blobs, b"kept").await, put(&blobs, b"orphan").await);
        let removed = blobs.remove_orphans([kept].into()).await.unwrap();
        assert_eq!(removed, [orphan]);
        assert!(matches!(blobs.open(&orphan).await, Err(BlobError::Missing { .. })));
        assert_eq!(blobs.presence(&kept).await.unwrap(), Presence::Complete(4));
    }

    #[tokio::test]
    async fn only_a_squashfs_passes_the_inspection() {
        let (_dir, blobs) = blobs();
        let digest = put(&blobs, b"#!/bin/sh\n").await;
        let error = blobs.inspect(&digest).await.unwrap_err();
        assert!(error.to_string().contains("is not a squashfs file"), "{error}");
        assert!(matches!(Refusal::from(error), Refusal::Invalid(_)));
    }
}
