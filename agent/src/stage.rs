//! Bringing images onto the host: verified, resumable, without disturbing anything.
//!
//! One task owns the transfers, one at a time, so that an agent never takes more than one image's
//! share of memory and link. [`Source`] is the seam behind which images come from: the
//! controller's plain stream for now.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use shoal_core::image::{Digest, PinnedImage};
use shoal_core::plan::{Action, Step};
use shoal_image::{Partial, PartialError, Sha256Sum};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::host::facts::disk;
use crate::status::Transfer;
use crate::verified::Standing;
use crate::{clock, verified};

/// Bytes of disk that transfers leave free, so that images alone never fill the disk on which
/// instances and the agent write: a twentieth of it, within these bounds.
const RESERVE: (u64, u64) = (64 << 20, 1 << 30);
/// Pauses between attempts: from the first to the longest, doubling.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// How long a transfer may stand still before it is begun again.
const SILENCE: Duration = Duration::from_secs(60);
/// How often is looked for the verdict on a file that is being read again.
const VERDICT: Duration = Duration::from_millis(250);
/// How often news of a transfer's progress are given.
const NEWS: Duration = Duration::from_secs(1);

/// Where images come from.
#[async_trait]
pub trait Source: Send + Sync {
    /// The bytes of an image from `offset` on.
    async fn fetch(
        &self,
        digest: &Digest,
        offset: u64,
    ) -> Result<BoxStream<'static, Result<Bytes, String>>, String>;
}

/// A handle to the task that brings images. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Stager {
    wanted: Arc<watch::Sender<Vec<PinnedImage>>>,
    transfers: Arc<Mutex<BTreeMap<Digest, Transfer>>>,
    retry: Arc<Notify>,
}

impl Stager {
    /// Starts the task, which keeps images in `dir` and rings `bell` when it has news.
    #[must_use]
    pub fn start(
        source: Arc<dyn Source>,
        dir: PathBuf,
        bell: Arc<Notify>,
        stop: CancellationToken,
    ) -> Self {
        let (wanted, receiver) = watch::channel(Vec::new());
        let transfers: Arc<Mutex<BTreeMap<Digest, Transfer>>> = Arc::default();
        let retry = Arc::new(Notify::new());
        let task = Task { source, dir, bell, transfers: transfers.clone(), retry: retry.clone() };
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {},
                () = task.run(receiver) => {},
            }
        });
        Self { wanted: Arc::new(wanted), transfers, retry }
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

    /// Tries at once what has failed: there is room now.
    pub fn retry(&self) {
        self.retry.notify_one();
    }

    /// The images that are on their way at this moment.
    #[must_use]
    pub fn under_way(&self) -> BTreeSet<Digest> {
        let going = |transfer: &Transfer| matches!(transfer, Transfer::Going { .. });
        let transfers = self.transfers().into_iter();
        transfers.filter(|(_, transfer)| going(transfer)).map(|(digest, _)| digest).collect()
    }

    /// How each transfer stands.
    #[must_use]
    pub fn transfers(&self) -> BTreeMap<Digest, Transfer> {
        self.transfers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What transfers leave free on a disk of `total` bytes.
pub(crate) fn reserve(total: u64) -> u64 {
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
    source: Arc<dyn Source>,
    dir: PathBuf,
    bell: Arc<Notify>,
    transfers: Arc<Mutex<BTreeMap<Digest, Transfer>>>,
    retry: Arc<Notify>,
}

impl Task {
    async fn run(self, mut wanted: Wanted) {
        let mut pause = PAUSES.0;
        loop {
            let images = wanted.borrow_and_update().clone();
            let mut failed = false;
            for image in &images {
                failed |= !self.bring(image, &wanted).await;
                if wanted.has_changed().unwrap_or(false) {
                    break;
                }
            }
            self.forget_others(&images);
            let wait = async {
                if failed { tokio::time::sleep(pause).await } else { std::future::pending().await }
            };
            // Each can be dropped at any time: what is wanted is read anew.
            tokio::select! {
                changed = wanted.changed() => {
                    if changed.is_err() { return }
                    pause = PAUSES.0;
                }
                () = self.retry.notified(), if failed => pause = PAUSES.0,
                () = wait => pause = (pause * 2).min(PAUSES.1),
            }
        }
    }

    fn forget_others(&self, images: &[PinnedImage]) {
        self.lock().retain(|digest, transfer| {
            !matches!(transfer, Transfer::Going { .. })
                && images.iter().any(|i| i.digest == *digest)
        });
    }

    /// Brings one image; `false` where that failed.
    async fn bring(&self, image: &PinnedImage, wanted: &Wanted) -> bool {
        let result = self.transfer(image, wanted).await;
        match &result {
            Ok(()) => {
                info!(image = %image.reference, digest = %image.digest, "an image is staged");
                self.lock().remove(&image.digest);
            }
            Err(stopped) => {
                let (Stopped::Failed(error) | Stopped::NoRoom(error)) = stopped;
                let failed = Transfer::from(stopped.clone());
                // Tried again for as long as it is wanted, which may be until a disk is replaced.
                if self.lock().insert(image.digest, failed.clone()) != Some(failed) {
                    warn!(image = %image.reference, digest = %image.digest, error, "cannot stage an image");
                }
            }
        }
        self.bell.notify_one();
        result.is_ok()
    }

    async fn transfer(&self, image: &PinnedImage, wanted: &Wanted) -> Result<(), Stopped> {
        let (dir, size) = (self.dir.clone(), image.size);
        let sum = Sha256Sum::new(*image.digest.as_bytes());
        let open = move || Partial::open(&dir, sum, size, reserve(disk(&dir).0));
        let mut partial = match blocking(open).await {
            Err(PartialError::AlreadyComplete { .. }) => {
                return Ok(self.verified_again(image).await?);
            }
            opened => opened?,
        };
        let fetch = self.source.fetch(&image.digest, partial.received());
        let mut stream = in_time(fetch).await??;
        let mut told = tokio::time::Instant::now();
        self.tell(image, partial.received());
        while let Some(bytes) = in_time(stream.next()).await? {
            let bytes = bytes?;
            if wanted.has_changed().unwrap_or(true) && !is_wanted(wanted, image) {
                return Err(Stopped::Failed("it is no longer wanted".into()));
            }
            let append = move || (partial.append(&bytes), partial);
            let (result, back) = blocking(append).await;
            result?;
            partial = back;
            if told.elapsed() >= NEWS {
                told = tokio::time::Instant::now();
                self.tell(image, partial.received());
                self.bell.notify_one();
            }
        }
        let (dir, digest) = (self.dir.clone(), image.digest);
        let finish = move || {
            partial.finish()?;
            let noted = verified::note_arrival(&dir, &digest, clock::now());
            noted.map_err(|e| Stopped::Failed(crate::chain(&e)))
        };
        blocking(finish).await
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

    fn tell(&self, image: &PinnedImage, received: u64) {
        self.lock().insert(image.digest, Transfer::Going { received, total: image.size });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Digest, Transfer>> {
        self.transfers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs what would hold up the runtime on a thread of its own.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("file work does not panic")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Counts those that ask, and has nothing for them.
    #[derive(Default)]
    struct Asked(AtomicUsize);

    #[async_trait]
    impl Source for Asked {
        async fn fetch(
            &self,
            _: &Digest,
            _: u64,
        ) -> Result<BoxStream<'static, Result<Bytes, String>>, String> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Err("nothing here".into())
        }
    }

    fn wanted(size: u64) -> [Step; 1] {
        let (reference, digest) = ("app:1".parse().unwrap(), Digest::from([7; 32]));
        let image = PinnedImage { reference, digest, size, signed: None };
        [Step { action: Action::Stage(image), reason: "shop/main needs it".into() }]
    }

    async fn told(stager: &Stager, bell: &Notify) -> Transfer {
        loop {
            bell.notified().await;
            if let Some(transfer) = stager.transfers().into_values().next() {
                return transfer;
            }
        }
    }

    #[tokio::test]
    async fn what_has_no_room_is_said_and_not_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let (source, bell) = (Arc::new(Asked::default()), Arc::new(Notify::new()));
        let (images, stop) = (dir.path().to_owned(), CancellationToken::new());
        let stager = Stager::start(source.clone(), images, bell.clone(), stop.clone());
        stager.want(&wanted(1 << 60));
        let transfer = told(&stager, &bell).await;
        let Transfer::NoRoom(why) = &transfer else { panic!("{transfer:?}") };
        assert!(why.contains("not enough space"), "{why}");
        assert_eq!(source.0.load(Ordering::SeqCst), 0);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);

        stager.want(&wanted(1));
        while told(&stager, &bell).await != Transfer::Failed("nothing here".into()) {}
        assert_eq!(source.0.load(Ordering::SeqCst), 1);

        // Five times at once: with the pauses it would take half a minute.
        let began = tokio::time::Instant::now();
        for tries in 2..7 {
            stager.retry();
            while source.0.load(Ordering::SeqCst) < tries {
                told(&stager, &bell).await;
            }
        }
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        stop.cancel();
    }

    #[test]
    fn a_twentieth_of_a_disk_stays_free_within_bounds() {
        let gib = 1 << 30;
        assert_eq!(reserve(0), 64 << 20);
        assert_eq!(reserve(10 * gib), gib / 2);
        assert_eq!(reserve(4096 * gib), gib);
    }
}
