//! Bringing images onto the host: verified, resumable, without disturbing anything.
//!
//! One task owns the transfers, one at a time, so that an agent never takes more than one image's
//! share of memory and link. [`Origin`] is the seam behind which images come from: for real the
//! [`Wire`]. A [`transfer`] asks the controller for a plan, carries the recipe out as its segments
//! come, from another host or from the controller, and can be cut off anywhere. What came can be
//! passed on to other hosts ([`shelf`], [`serve`]).

mod door;
mod origin;
mod progress;
mod serve;
mod shelf;
#[cfg(test)]
mod tests;
mod transfer;
mod wire;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use shoal_core::image::{Digest, PinnedImage};
use shoal_core::plan::{Action, Step};
use shoal_core::transfer::{RecipeId, TransferStatus};
use shoal_image::PartialError;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::warn;

pub use self::origin::{Bytestream, Origin, Peer, Plan, Progress as PlanProgress, Sender, Wish};
pub use self::serve::serve;
pub use self::shelf::Shelf;
pub use self::wire::Wire;

use self::progress::Progress;
use self::transfer::{Attempt, Brought, Note};
use crate::events::Events;
use crate::host::facts::disk;
use crate::status::Transfer;
use crate::verified::{self, Images, Standing};

/// Bytes of disk that transfers leave free, so that images alone never fill the disk on which
/// instances and the agent write: a twentieth of it, within these bounds.
const RESERVE: (u64, u64) = (64 << 20, 1 << 30);
/// Pauses between attempts: from the first to the longest, doubling.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// How long a transfer may stand still before it is begun again.
const SILENCE: Duration = Duration::from_secs(60);
/// How often is looked for the verdict on a file that is being read again.
const VERDICT: Duration = Duration::from_millis(250);

/// Where other files come from, as plain bytes.
#[async_trait]
pub trait Source: Send + Sync {
    /// The bytes of a file from `offset` on.
    async fn fetch(&self, digest: &Digest, offset: u64) -> Result<Bytestream, String>;
}

/// What a [`Stager`] works with.
pub struct Setup {
    /// Where images come from.
    pub origin: Arc<dyn Origin>,
    /// Where they are kept.
    pub dir: PathBuf,
    /// What is passed on to other hosts.
    pub shelf: Shelf,
    /// Rung when there is news.
    pub bell: Arc<Notify>,
    /// For what people should know.
    pub events: Events,
}

impl std::fmt::Debug for Setup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Setup").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// A handle to the task that brings images. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Stager {
    wanted: Arc<watch::Sender<Vec<PinnedImage>>>,
    progress: Progress,
    shelf: Shelf,
}

impl Stager {
    /// Starts the task.
    #[must_use]
    pub fn start(setup: Setup, stop: CancellationToken) -> Self {
        let (wanted, receiver) = watch::channel(Vec::new());
        let Setup { origin, dir, shelf, bell, events } = setup;
        let progress = Progress::new(bell.clone(), events);
        let (shared, kept) = (progress.clone(), shelf.clone());
        let task = Task { origin, dir, shelf, bell, progress };
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {},
                () = task.run(receiver) => {},
            }
        });
        Self { wanted: Arc::new(wanted), progress: shared, shelf: kept }
    }

    /// Brings just these images from now on, in this order.
    pub fn want(&self, steps: &[Step]) {
        let images = steps.iter().filter_map(|step| match &step.action {
            Action::Stage(image) => Some(image.clone()),
            _ => None,
        });
        let images: Vec<PinnedImage> = images.collect();
        self.wanted.send_if_modified(|wanted| {
            let new = *wanted != images;
            *wanted = images;
            new
        });
    }

    /// How each image that is not here stands.
    #[must_use]
    pub fn transfers(&self) -> BTreeMap<Digest, Transfer> {
        self.progress.transfers()
    }

    /// What is going on, and what ended last, for the host's status.
    #[must_use]
    pub fn statuses(&self) -> Vec<TransferStatus> {
        self.progress.statuses()
    }

    /// The recipes of which other hosts can get all here.
    #[must_use]
    pub fn serves(&self) -> Vec<RecipeId> {
        self.shelf.serves()
    }
}

/// What transfers leave free on a disk of `total` bytes.
fn reserve(total: u64) -> u64 {
    (total / 20).clamp(RESERVE.0, RESERVE.1)
}

type Wanted = watch::Receiver<Vec<PinnedImage>>;

fn is_wanted(wanted: &Wanted, image: &PinnedImage) -> bool {
    wanted.borrow().iter().any(|other| other.digest == image.digest)
}

/// What comes within [`SILENCE`].
pub(crate) async fn in_time<T>(work: impl Future<Output = T>) -> Result<T, String> {
    let late = |_| format!("the controller sent nothing for {SILENCE:?}");
    tokio::time::timeout(SILENCE, work).await.map_err(late)
}

/// Why a transfer ended early.
#[derive(Debug, Clone)]
enum Stopped {
    Failed(String),
    NoRoom(String),
}

impl From<String> for Stopped {
    fn from(why: String) -> Self {
        Self::Failed(why)
    }
}

impl From<PartialError> for Stopped {
    fn from(error: PartialError) -> Self {
        let why = crate::chain(&error);
        if matches!(error, PartialError::NoSpace { .. }) {
            Self::NoRoom(why)
        } else {
            Self::Failed(why)
        }
    }
}

impl From<Stopped> for Transfer {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Failed(why) => Self::Failed(why),
            Stopped::NoRoom(why) => Self::NoRoom(why),
        }
    }
}

struct Task {
    origin: Arc<dyn Origin>,
    dir: PathBuf,
    shelf: Shelf,
    bell: Arc<Notify>,
    progress: Progress,
}

impl Task {
    async fn run(self, mut wanted: Wanted) {
        let mut pause = PAUSES.0;
        let mut notes: BTreeMap<Digest, Note> = BTreeMap::new();
        loop {
            let images = wanted.borrow_and_update().clone();
            let mut failed = false;
            for image in &images {
                let note = notes.entry(image.digest).or_default();
                failed |= !self.bring(image, &wanted, note).await;
                if wanted.has_changed().unwrap_or(false) {
                    break;
                }
            }
            self.progress.keep_only(&images);
            notes.retain(|digest, _| images.iter().any(|image| image.digest == *digest));
            let wait = async {
                if failed { tokio::time::sleep(pause).await } else { std::future::pending().await }
            };
            // Both can be dropped at any time: what is wanted is read anew.
            tokio::select! {
                changed = wanted.changed() => {
                    if changed.is_err() { return }
                    pause = PAUSES.0;
                }
                () = wait => pause = (pause * 2).min(PAUSES.1),
            }
        }
    }

    /// Brings one image; `false` where that failed.
    async fn bring(&self, image: &PinnedImage, wanted: &Wanted, note: &mut Note) -> bool {
        let result = self.transfer(image, wanted, note).await;
        match &result {
            Ok(()) => self.progress.forget(image),
            Err(stopped) => {
                let (Stopped::Failed(error) | Stopped::NoRoom(error)) = stopped;
                let failed = Transfer::from(stopped.clone());
                // Tried again for as long as it is wanted, which may be until a disk is replaced.
                if self.progress.failed(image, failed) {
                    warn!(image = %image.reference, digest = %image.digest, error, "cannot stage an image");
                }
            }
        }
        self.bell.notify_one();
        result.is_ok()
    }

    async fn transfer(
        &self,
        image: &PinnedImage,
        wanted: &Wanted,
        note: &mut Note,
    ) -> Result<(), Stopped> {
        let dir = self.dir.clone();
        let looked = blocking(move || (Images::new(dir.clone()).staged(), disk(&dir).0)).await;
        // Without knowing what is here, it comes whole.
        let have = looked.0.map(|staged| staged.into_keys().collect()).unwrap_or_default();
        let is_wanted = || !wanted.has_changed().unwrap_or(true) || is_wanted(wanted, image);
        let attempt = Attempt {
            image,
            origin: &*self.origin,
            shelf: &self.shelf,
            progress: &self.progress,
            have,
            dir: &self.dir,
            reserve: reserve(looked.1),
            wanted: &is_wanted,
        };
        match attempt.run(note).await? {
            Brought::Now => Ok(()),
            Brought::Before => Ok(self.verified_again(image).await?),
        }
    }

    /// Waits for the verdict on a file that is there and wanted all the same: something about it
    /// has changed, and it is being read again.
    async fn verified_again(&self, image: &PinnedImage) -> Result<(), String> {
        let began = tokio::time::Instant::now();
        loop {
            let (dir, digest) = (self.dir.clone(), image.digest);
            let standing = blocking(move || verified::standing(&dir, &digest)).await;
            match standing.map_err(|e| crate::chain(&e))? {
                Standing::Verified => return Ok(()),
                Standing::Absent => return Err("its file was damaged; it is fetched anew".into()),
                Standing::Doubtful if began.elapsed() < SILENCE => {
                    tokio::time::sleep(VERDICT).await;
                }
                Standing::Doubtful => return Err("its file is being read again".into()),
            }
        }
    }
}

/// Runs what would hold up the runtime on a thread of its own.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("file work does not panic")
}
