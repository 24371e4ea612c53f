//! The files of the agent's programs: one for each, named by its SHA-256.
//!
//! Deliberately absent: records. A file that is whole may have none yet; one that stays without is
//! nobody's, see [`Programs::keep`].

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use shoal_core::agent_program::{About, NotAnAgent, Scan};
use shoal_core::cause::chain;
use shoal_core::image::Digest;
use shoal_image::{DirectoryError, free_space};
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::spawn_blocking;

use crate::refusal::Refusal;

/// Bytes that stay free on the disk: the store may be on it.
const RESERVE: u64 = 64 << 20;

/// A directory of program files. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Programs {
    dir: Arc<Path>,
    /// Tells pushes of this run apart.
    pushes: Arc<AtomicU64>,
    changing: Arc<Mutex<()>>,
}

/// A program that is being received. Dropping it throws away what came.
#[derive(Debug)]
pub struct Upload {
    dir: Arc<Path>,
    digest: Digest,
    size: u64,
    taken: Option<Taken>,
}

#[derive(Debug)]
struct Taken {
    file: std::fs::File,
    path: Partial,
    received: u64,
    hasher: Sha256,
    scan: Scan,
}

/// A file that goes with this, unless it was given another name.
#[derive(Debug)]
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Why a program can't be had or kept.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    #[error("the file is no agent's program: {0}")]
    NotAnAgent(#[from] NotAnAgent),
    #[error("{received} bytes came of the {size} that were announced; push it again")]
    Incomplete { received: u64, size: u64 },
    #[error("more bytes came than the {size} that were announced")]
    TooLong { size: u64 },
    #[error("what came is not what was announced (SHA-256 {found}); push it again")]
    WrongDigest { found: String },
    #[error("there is no room for it: {needed} bytes are needed and {free} are free in {dir}", dir = dir.display())]
    NoRoom { needed: u64, free: u64, dir: PathBuf },
    #[error("the program {} is not there any more; push it again", digest.short())]
    Missing { digest: Digest },
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error("could not {action} {path}", path = path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("the task that works on the file has ended; see the controller's log")]
    Ended,
}

impl From<ProgramError> for Refusal {
    fn from(error: ProgramError) -> Self {
        let text = chain(&error);
        match error {
            ProgramError::NotAnAgent(_)
            | ProgramError::Incomplete { .. }
            | ProgramError::TooLong { .. } => Self::Invalid(text),
            ProgramError::WrongDigest { .. } => Self::DataLoss(text),
            ProgramError::NoRoom { .. } => Self::Exhausted(text),
            ProgramError::Missing { .. } => Self::NotFound(text),
            ProgramError::Directory(_) | ProgramError::Io { .. } | ProgramError::Ended => {
                Self::Internal(text)
            }
        }
    }
}

impl Programs {
    /// The files of `dir`, which is made when the first one comes.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.into(), pushes: Arc::default(), changing: Arc::default() }
    }

    /// Held while a file gets its name and then its record, and while those without one go.
    pub(super) async fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().await
    }

    /// Begins to receive a program of `size` bytes.
    ///
    /// # Errors
    /// There is no room, or the disk says no.
    pub async fn receive(&self, digest: Digest, size: u64) -> Result<Upload, ProgramError> {
        let number = self.pushes.fetch_add(1, Ordering::Relaxed);
        let dir = self.dir.clone();
        blocking(move || {
            std::fs::create_dir_all(&dir).map_err(io("make the directory", &dir))?;
            let (free, needed) = (free_space(&dir)?, size.saturating_add(RESERVE));
            if free < needed {
                return Err(ProgramError::NoRoom { needed, free, dir: dir.to_path_buf() });
            }
            let path = dir.join(format!("{digest}.{number}.partial"));
            let file = std::fs::File::create(&path).map_err(io("make", &path))?;
            let (path, hasher, scan) = (Partial(path), Sha256::new(), Scan::new());
            let taken = Some(Taken { file, path, received: 0, hasher, scan });
            Ok(Upload { dir, digest, size, taken })
        })
        .await
    }

    /// A program, open for reading, and its length in bytes.
    ///
    /// # Errors
    /// [`ProgramError::Missing`], or the disk says no.
    pub async fn open(&self, digest: &Digest) -> Result<(std::fs::File, u64), ProgramError> {
        let (path, digest) = (self.dir.join(digest.to_string()), *digest);
        blocking(move || {
            let file = match std::fs::File::open(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    return Err(ProgramError::Missing { digest });
                }
                file => file.map_err(io("open", &path))?,
            };
            let size = file.metadata().map_err(io("look at", &path))?.len();
            Ok((file, size))
        })
        .await
    }

    /// Removes every file but those of `known`: what crashes and broken-off pushes left, and what
    /// was forgotten. A push that is under way keeps its file.
    ///
    /// # Errors
    /// The disk says no.
    pub async fn keep(&self, known: BTreeSet<Digest>) -> Result<(), ProgramError> {
        let (dir, begun) = (self.dir.clone(), self.pushes.load(Ordering::Relaxed));
        blocking(move || {
            let entries = match std::fs::read_dir(&dir) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
                entries => entries.map_err(io("list", &dir))?,
            };
            for entry in entries {
                let path = entry.map_err(io("list", &dir))?.path();
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let partial = name.ends_with(".partial") && begun > 0;
                let is_known = name.parse().is_ok_and(|digest| known.contains(&digest));
                if !partial && !is_known {
                    std::fs::remove_file(&path).map_err(io("remove", &path))?;
                    tracing::info!(file = name, "removed a program of the agent");
                }
            }
            Ok(())
        })
        .await
    }
}

impl Upload {
    /// Adds the next bytes.
    ///
    /// # Errors
    /// More bytes than announced, or the disk says no. Nothing can be added then.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), ProgramError> {
        let (mut taken, size) = (self.taken.take().ok_or(ProgramError::Ended)?, self.size);
        let taken = blocking(move || {
            taken.received += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            if taken.received > size {
                return Err(ProgramError::TooLong { size });
            }
            taken.file.write_all(&bytes).map_err(io("write", &taken.path.0))?;
            taken.hasher.update(&bytes);
            taken.scan.feed(&bytes);
            Ok(taken)
        })
        .await?;
        self.taken = Some(taken);
        Ok(())
    }

    /// Ends it: checks length, digest and what the program says of itself, and gives the file its
    /// name, durably.
    ///
    /// # Errors
    /// Where any of it is wrong; then nothing is kept.
    pub async fn finish(mut self) -> Result<About, ProgramError> {
        let taken = self.taken.take().ok_or(ProgramError::Ended)?;
        let (dir, digest, size) = (self.dir.clone(), self.digest, self.size);
        blocking(move || {
            let Taken { file, path, received, hasher, scan } = taken;
            if received < size {
                return Err(ProgramError::Incomplete { received, size });
            }
            let found = Digest::from(<[u8; 32]>::from(hasher.finalize()));
            if found != digest {
                return Err(ProgramError::WrongDigest { found: found.to_string() });
            }
            let about = scan.finish()?;
            file.sync_all().map_err(io("write", &path.0))?;
            let whole = dir.join(digest.to_string());
            std::fs::rename(&path.0, &whole).map_err(io("rename", &path.0))?;
            let synced = std::fs::File::open(&dir).and_then(|dir| dir.sync_all());
            synced.map_err(io("write", &dir))?;
            Ok(about)
        })
        .await
    }
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> ProgramError {
    let path = path.to_owned();
    move |source| ProgramError::Io { action, path, source }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ProgramError> + Send + 'static,
) -> Result<T, ProgramError> {
    spawn_blocking(work).await.unwrap_or(Err(ProgramError::Ended))
}
