//! What is sent instead of a whole image: a recipe that makes it out of images of the controller's.
//!
//! With the file of such an image at hand, the differences within blocks are sent; without, blocks
//! that it does not have. The same recipe comes out each time, so that a push that is begun again
//! goes on with it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use shoal_image::recipe::{Base, Head, RecipeFile};
use shoal_image::{Index, MakeOptions, Summary, codecs, inspect, make, make_from_indexes};
use tempfile::TempDir;
use tokio::sync::watch;

use super::near::{self, Near};
use super::{Outgoing, PushError, Pusher, digest_of};
use crate::exit::Failure;
use crate::output::progress::Transfer;

/// Of a recipe without differences within blocks, hardly anything can be compressed.
const QUICK: i32 = 3;

/// How an image is sent.
#[derive(Debug)]
pub(super) enum Way {
    Whole,
    Recipe(Box<Recipe>),
}

/// A recipe in a temporary directory, which goes with it.
#[derive(Debug)]
pub(super) struct Recipe {
    file: RecipeFile,
    path: PathBuf,
    pub(super) summary: Summary,
    /// The images that it takes bytes from, by name or digest.
    pub(super) bases: Vec<String>,
    _dir: TempDir,
}

impl Recipe {
    pub(super) fn head(&self) -> &Head {
        self.file.head()
    }

    /// What makes the image's bytes from `offset` on.
    pub(super) fn outgoing(&self, offset: u64) -> Outgoing {
        let (to, recipe) = (self.head().encoded(), self.head().encode().into());
        Outgoing { path: self.path.clone(), from: self.begin(offset), to, recipe }
    }

    /// Bytes that make the image's bytes from `offset` on.
    pub(super) fn left(&self, offset: u64) -> u64 {
        let head = u64::try_from(self.head().encode().len()).unwrap_or(u64::MAX);
        self.head().encoded() - self.begin(offset) + head
    }

    /// Where the segment that makes byte `offset` of the image begins.
    fn begin(&self, offset: u64) -> u64 {
        let segment = self.head().segment_at(offset);
        let place = segment.and_then(|(segment, _)| self.file.place(segment));
        place.map_or_else(|| self.head().encoded(), |(begin, _)| begin)
    }
}

/// What a recipe is made from.
enum Sources {
    /// Of the controller's images, their indexes.
    Indexes(Vec<(Base, Index)>),
    /// An image file that the controller has, too.
    File(PathBuf),
}

impl Pusher {
    /// How the image is best sent, of which so many bytes are there.
    pub(super) async fn choose(&self, received: u64) -> Result<Way, Failure> {
        let Some((sources, bases)) = self.sources().await? else { return Ok(Way::Whole) };
        let recipe = self.make(sources, bases).await?;
        let whole = self.prepared.size.saturating_sub(received);
        // What is hardly smaller is not worth the work at the other end.
        let is_worth_it = recipe.left(received) < whole - whole / 16;
        Ok(if is_worth_it { Way::Recipe(Box::new(recipe)) } else { Way::Whole })
    }

    async fn sources(&self) -> Result<Option<(Sources, Vec<String>)>, Failure> {
        if let Some(base) = &self.prepared.base
            && let Some(sources) = self.of_file(base).await?
        {
            return Ok(Some((sources, vec![base.display().to_string()])));
        }
        let (reference, target) = (&self.prepared.reference, self.prepared.digest);
        let near = near::ask(&self.client, reference, target, None).await?;
        let Some(Near { images, .. }) = near else { return Ok(None) };
        let known = images.iter().filter_map(|one| Some((one.base, one.index()?)));
        let known: Vec<(Base, Index)> = known.collect();
        let names = images.into_iter().map(|one| one.reference).collect();
        Ok((!known.is_empty()).then_some((Sources::Indexes(known), names)))
    }

    /// The image file at hand, where the controller has that image, too.
    async fn of_file(&self, path: &Path) -> Result<Option<Sources>, Failure> {
        let size = inspect(path).map_err(PushError::from)?.size;
        let sum = digest_of(self.console, path, size)?;
        let Self { client, prepared, .. } = self;
        let near = near::ask(client, &prepared.reference, prepared.digest, Some(sum)).await?;
        let Some(near) = near else { return Ok(None) };
        let shown = path.display();
        if near.images.is_empty() {
            self.console.note(format!("the controller does not have {shown}; going without it"));
            return Ok(None);
        }
        if near.codecs == codecs() {
            return Ok(Some(Sources::File(path.to_owned())));
        }
        self.console.note(format!(
            "the controller has other compression libraries ({}, here {}): blocks that differ are \
             sent whole; the same version of shoal on both sides sends less",
            near.codecs,
            codecs()
        ));
        let index = Index::read(path).map_err(PushError::from)?.shortened();
        Ok(Some(Sources::Indexes(vec![(Base { sum, size }, index)])))
    }

    /// Makes the recipe, on all processors; ends early with the command.
    async fn make(&self, sources: Sources, bases: Vec<String>) -> Result<Recipe, Failure> {
        let dir = tempfile::tempdir().map_err(PushError::Temporary)?;
        let (target, path) = (self.prepared.path.clone(), dir.path().join("recipe"));
        let (told, mut at) = watch::channel((0, 0));
        let stopped = Arc::new(AtomicBool::new(false));
        let stop = StopOnDrop(Arc::clone(&stopped));
        let out = path.clone();
        let mut making = tokio::task::spawn_blocking(move || {
            let mut progress = |done, total| {
                told.send_replace((done, total));
                !stopped.load(Ordering::Relaxed)
            };
            match sources {
                Sources::File(base) => {
                    let options = MakeOptions::default();
                    make(&target, &[&base], &out, &options, &mut progress)
                }
                Sources::Indexes(bases) => {
                    let options = MakeOptions { level: QUICK, ..MakeOptions::default() };
                    make_from_indexes(&target, &bases, &out, &options, &mut progress)
                }
            }
        });
        let mut progress: Option<Transfer> = None;
        let made = loop {
            tokio::select! {
                made = &mut making => break made,
                Ok(()) = at.changed(), if self.console.is_live() => {
                    let (done, total) = *at.borrow_and_update();
                    progress
                        .get_or_insert_with(|| Transfer::start(self.console, "comparing", total))
                        .at(done);
                }
            }
        };
        if let Some(progress) = progress {
            progress.end();
        }
        drop(stop);
        // Only a panic ends it in another way, and that has been said.
        let (file, summary) = made.expect("the maker does not panic").map_err(PushError::from)?;
        Ok(Recipe { file, path, summary, bases, _dir: dir })
    }
}

/// Ends the making where nobody waits for it any more.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
