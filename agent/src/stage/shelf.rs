//! What this host can pass on to others: the recipes by which images come, or came, to it.
//!
//! Of an image that came whole, the image's file has the bytes. Of one that was made from others,
//! the segments are kept as they came, for a day. A recipe whose transfer goes on can be passed on,
//! too, as far as it is. Where the host's policy does not serve others, nothing is kept.
//!
//! Files: `<recipe>.head` once all is there, and `<recipe>.segments`. No file is held open but
//! while it is read, so that what is removed is gone.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use shoal_core::transfer::RecipeId;
use shoal_image::recipe::{Head, Kind};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::files::write_whole;

const HEAD: &str = "head";
const SEGMENTS: &str = "segments";

/// How long segments are kept that need room of their own.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// The most recipes whose segments are kept.
const MOST: usize = 4;

/// How long is waited for a recipe that is not known yet: whoever asks for it may have been told
/// of it before this host was.
const COMING: Duration = Duration::from_secs(2);

/// The shelf. Clones share it.
#[derive(Debug, Clone)]
pub struct Shelf {
    shared: Option<Arc<Shared>>,
}

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    images: PathBuf,
    items: watch::Sender<BTreeMap<RecipeId, Arc<Item>>>,
}

/// A recipe that can be passed on, as far as it is there.
#[derive(Debug)]
pub(super) struct Item {
    head: Head,
    /// Where its bytes are, in the order in which to look.
    paths: Vec<PathBuf>,
    /// Where each segment begins in the file.
    offsets: Vec<u64>,
    /// How many segments are there.
    ready: watch::Sender<usize>,
    /// Cancelled when no more come.
    withdrawn: CancellationToken,
}

/// A recipe whose segments come in. Dropped before it is finished, it is not passed on any more.
#[derive(Debug)]
pub(super) struct Shelved {
    shared: Arc<Shared>,
    id: RecipeId,
    item: Arc<Item>,
    /// Where they are kept, where the image's own file does not have them.
    segments: Option<File>,
    finished: bool,
}

impl Shelf {
    /// One on which nothing is kept.
    #[must_use]
    pub fn none() -> Self {
        Self { shared: None }
    }

    /// One in `dir`, for the images in `images`, with what was kept on it before.
    #[must_use]
    pub fn open(dir: PathBuf, images: PathBuf) -> Self {
        let (items, _) = watch::channel(BTreeMap::new());
        let shared = Shared { dir, images, items };
        shared.clear();
        for path in shared.files(HEAD) {
            match shared.kept(&path) {
                Some(item) => shared.put(item),
                None => remove(&path),
            }
        }
        Self { shared: Some(Arc::new(shared)) }
    }

    /// The recipes of which others can get all here.
    #[must_use]
    pub fn serves(&self) -> Vec<RecipeId> {
        let Some(shared) = &self.shared else { return vec![] };
        let items = shared.items.borrow();
        let whole = items.iter().filter(|(_, item)| item.is_whole());
        whole.map(|(id, _)| *id).collect()
    }

    /// A recipe that is here, or begins to be within a moment.
    pub(super) async fn find(&self, id: RecipeId) -> Option<Arc<Item>> {
        let mut items = self.shared.as_ref()?.items.subscribe();
        let found = items.wait_for(|items| items.contains_key(&id));
        let found = timeout(COMING, found).await.ok()?.ok()?;
        found.get(&id).cloned()
    }

    /// Takes up a recipe whose segments come from `next` on; `None` where it can't be passed on.
    pub(super) async fn begin(&self, head: &Head, next: Option<usize>) -> Option<Shelved> {
        let shared = self.shared.clone()?;
        let (head, next) = (head.clone(), next.unwrap_or(head.segments.len()));
        let begun = spawn_blocking(move || shared.begin(head, next)).await;
        begun.ok().flatten()
    }
}

impl Shared {
    fn files(&self, extension: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let paths = entries.map(|entry| entry.path());
        paths.filter(|path| path.extension().is_some_and(|e| e == extension)).collect()
    }

    fn put(&self, item: Item) {
        let id = RecipeId::from(*item.head.id().as_bytes());
        self.items.send_modify(|items| drop(items.insert(id, Arc::new(item))));
    }

    /// What a head that was kept stands for, where its bytes are still there.
    fn kept(&self, path: &Path) -> Option<Item> {
        let head = Head::decode(&fs::read(path).ok()?).ok()?;
        let count = head.segments.len();
        let item = self.item(head, count);
        item.is_whole().then_some(item)
    }

    fn item(&self, head: Head, ready: usize) -> Item {
        let paths = match head.kind {
            // It has the one name, then the other.
            Kind::Whole => ["partial", "squashfs"]
                .map(|extension| self.images.join(format!("{}.{extension}", head.target)))
                .to_vec(),
            Kind::Delta { .. } => vec![self.dir.join(format!("{}.{SEGMENTS}", head.id()))],
        };
        let mut at = 0;
        let offsets = head.segments.iter().map(|segment| {
            let begin = at;
            at += u64::from(segment.encoded);
            begin
        });
        let offsets = offsets.collect();
        let (ready, withdrawn) = (watch::Sender::new(ready), CancellationToken::new());
        Item { head, paths, offsets, ready, withdrawn }
    }

    fn begin(self: Arc<Self>, head: Head, next: usize) -> Option<Shelved> {
        self.clear();
        let id = RecipeId::from(*head.id().as_bytes());
        let item = self.item(head, next);
        let segments = match item.head.kind {
            Kind::Whole => None,
            Kind::Delta { .. } => Some(open_segments(&item, next)?),
        };
        let item = Arc::new(item);
        self.items.send_modify(|items| drop(items.insert(id, Arc::clone(&item))));
        Some(Shelved { shared: self, id, item, segments, finished: false })
    }

    /// Removes what was kept long enough, and what makes no sense any more.
    fn clear(&self) {
        self.items.send_modify(|items| items.retain(|_, item| item.is_going() || item.is_whole()));
        let age = |path: &Path| {
            let made = fs::metadata(path).and_then(|found| found.modified()).ok()?;
            crate::clock::system_time().duration_since(made).ok()
        };
        let mut kept = self.files(SEGMENTS);
        kept.sort_by_key(|path| age(path));
        for (number, path) in kept.into_iter().enumerate() {
            let is_old = age(&path).is_some_and(|age| age > KEPT);
            let is_going = self
                .items
                .borrow()
                .values()
                .any(|item| item.is_going() && item.paths.contains(&path));
            if (is_old || number >= MOST) && !is_going {
                self.items.send_modify(|items| {
                    items.retain(|_, item| !item.paths.contains(&path));
                });
                remove(&path);
                remove(&path.with_extension(HEAD));
            }
        }
    }
}

/// The file for segments from `next` on. `None` where those before are not in it, or the disk
/// says no: then this host does not pass it on.
fn open_segments(item: &Item, next: usize) -> Option<File> {
    let path = item.paths.first()?;
    let begin = match item.offsets.get(next) {
        Some(begin) => *begin,
        None => item.head.encoded(),
    };
    let open = || {
        let file =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let is_there = file.metadata()?.len() >= begin;
        if is_there {
            file.set_len(begin)?;
        }
        Ok::<_, io::Error>(is_there.then_some(file))
    };
    match open() {
        Ok(Some(file)) => Some(file),
        Ok(None) => {
            remove(path);
            None
        }
        Err(error) => {
            warn!(path = %path.display(), %error, "segments can't be kept for other hosts");
            None
        }
    }
}

impl Item {
    /// Waits until a segment is there; `false` where it will not come.
    pub(super) async fn wait_for(&self, segment: usize) -> bool {
        let mut ready = self.ready.subscribe();
        let coming = ready.wait_for(|ready| *ready > segment);
        self.withdrawn.run_until_cancelled(coming).await.is_some_and(|there| there.is_ok())
    }

    /// Where a segment stands in the file, and its length.
    pub(super) fn place(&self, segment: usize) -> Option<(u64, u32)> {
        Some((*self.offsets.get(segment)?, self.head.segments.get(segment)?.encoded))
    }

    /// The file that the segments are in.
    pub(super) fn open(&self) -> io::Result<File> {
        let mut result = Err(io::ErrorKind::NotFound.into());
        for path in &self.paths {
            result = File::open(path);
            if result.is_ok() {
                break;
            }
        }
        result
    }

    fn is_going(&self) -> bool {
        *self.ready.borrow() < self.offsets.len()
    }

    /// Whether all of it is there.
    fn is_whole(&self) -> bool {
        let Some(path) = self.paths.last() else { return false };
        let there = fs::metadata(path).map(|found| found.len());
        !self.is_going() && there.is_ok_and(|length| length == self.head.encoded())
    }
}

impl Shelved {
    /// Keeps a segment that is right. For a thread that may block.
    pub(super) fn keep(&mut self, number: usize, bytes: &[u8]) {
        let Some((offset, _)) = self.item.place(number) else { return };
        if let Some(file) = &self.segments
            && let Err(error) = file.write_all_at(bytes, offset)
        {
            warn!(recipe = %self.id, %error, "segments can't be kept for other hosts");
            self.withdraw();
            return;
        }
        self.item.ready.send_replace(number + 1);
    }

    /// Notes that all is there, so that it is passed on after a restart, too.
    pub(super) async fn finish(self) {
        // Where the thread is gone, so is the agent.
        let _ = spawn_blocking(move || self.note()).await;
    }

    fn note(mut self) {
        let path = self.shared.dir.join(format!("{}.{HEAD}", self.id));
        match write_whole(&path, &self.item.head.encode()) {
            Ok(()) => self.finished = true,
            Err(error) => {
                let (recipe, error) = (self.id, crate::chain(&error));
                warn!(%recipe, error, "a recipe can't be kept for other hosts");
            }
        }
    }

    fn withdraw(&self) {
        self.item.withdrawn.cancel();
        self.shared.items.send_modify(|items| {
            if items.get(&self.id).is_some_and(|item| Arc::ptr_eq(item, &self.item)) {
                items.remove(&self.id);
            }
        });
    }
}

impl Drop for Shelved {
    fn drop(&mut self) {
        if !self.finished {
            self.withdraw();
        }
    }
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            warn!(path = %path.display(), %error, "cannot remove what was kept for other hosts");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
