//! Recipes in the making: one at a time, each once, whoever waits for it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shoal_core::cause::chain;
use shoal_core::transfer::RecipeId;
use shoal_image::{DirectoryError, MakeError, MakeOptions, free_space, make, whole};
use tokio::sync::{Semaphore, watch};
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::recipes::{Job, Recipes, RecipesError, sum_of};

/// Bytes that stay free on the disk whatever is made: the store may be on it.
const RESERVE: u64 = 256 << 20;

/// How long a recipe that could not be made is not tried again.
const GIVEN_UP: Duration = Duration::from_secs(600);

/// How a recipe stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Making {
    /// Others come first.
    Waiting,
    /// It is being made.
    Going {
        /// Bytes of the image that are done.
        done: u64,
        /// All of them.
        total: u64,
    },
    /// It is there.
    Made(RecipeId),
    /// It can't be made.
    Failed,
}

/// Why a recipe could not be made.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Recipes(#[from] RecipesError),
    #[error(transparent)]
    Make(#[from] MakeError),
    #[error(transparent)]
    Disk(#[from] DirectoryError),
    #[error("{} bytes may be needed and {free} are free on the controller's disk", needed)]
    NoRoom { needed: u64, free: u64 },
    #[error("the task that makes it broke off")]
    Broken,
}

/// Who makes recipes. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Maker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    recipes: Arc<Recipes>,
    state: Mutex<State>,
    /// Making one takes every processor for a while; one is made at a time.
    turn: Semaphore,
    /// The head of a whole image takes a moment, and someone may wait for just that.
    whole_turn: Semaphore,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    running: HashMap<Job, watch::Receiver<Making>>,
    failed: HashMap<Job, Instant>,
}

impl Maker {
    pub(crate) fn new(
        recipes: Arc<Recipes>,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Self {
        let (turn, whole_turn) = (Semaphore::new(1), Semaphore::new(1));
        let state = Mutex::default();
        Self { shared: Arc::new(Shared { recipes, state, turn, whole_turn, tasks, shutdown }) }
    }

    /// The recipe for `job`, as it comes: made now, unless it is there or someone else has asked
    /// for it. It is made to its end even if nobody waits for it any more.
    pub(crate) fn get(&self, job: &Job) -> watch::Receiver<Making> {
        let mut state = self.state();
        if let Some(running) = state.running.get(job) {
            return running.clone();
        }
        let now = match self.shared.recipes.find(job) {
            Some(id) => Making::Made(id),
            None if state.failed.get(job).is_some_and(|at| at.elapsed() < GIVEN_UP) => {
                Making::Failed
            }
            None => Making::Waiting,
        };
        let begins = now == Making::Waiting;
        let (told, heard) = watch::channel(now);
        if begins {
            state.running.insert(job.clone(), heard.clone());
            let (maker, job) = (self.clone(), job.clone());
            self.shared.tasks.spawn(async move { maker.run(job, told).await });
        }
        heard
    }

    async fn run(self, job: Job, told: watch::Sender<Making>) {
        let made = self.make(&job, &told).await;
        let now = match &made {
            Ok(id) => Making::Made(*id),
            Err(error) => {
                let (image, error) = (job.target(), chain(error));
                tracing::warn!(%image, error, "a recipe can't be made; the image is sent whole");
                Making::Failed
            }
        };
        let mut state = self.state();
        state.running.remove(&job);
        state.failed.retain(|_, at| at.elapsed() < GIVEN_UP);
        if made.is_err() && !self.shared.shutdown.is_cancelled() {
            state.failed.insert(job, Instant::now());
        }
        drop(state);
        told.send_replace(now);
    }

    async fn make(&self, job: &Job, told: &watch::Sender<Making>) -> Result<RecipeId, Failure> {
        let turn = match job {
            Job::Whole(_) => &self.shared.whole_turn,
            Job::Delta { .. } => &self.shared.turn,
        };
        let _turn = turn.acquire().await.map_err(|_| Failure::Broken)?;
        let (job, recipes) = (job.clone(), Arc::clone(&self.shared.recipes));
        let (told, shutdown) = (told.clone(), self.shared.shutdown.clone());
        let made = spawn_blocking(move || {
            make_now(&job, &recipes, &mut |done, total| {
                told.send_replace(Making::Going { done, total });
                !shutdown.is_cancelled()
            })
        });
        made.await.unwrap_or(Err(Failure::Broken))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn make_now(
    job: &Job,
    recipes: &Recipes,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<RecipeId, Failure> {
    let began = Instant::now();
    let image = recipes.image(&job.target())?;
    let Job::Delta { target, sources } = job else {
        let head = whole(&image, sum_of(&job.target()))?;
        return Ok(recipes.add_whole(&head)?);
    };
    let path = recipes.path(job);
    check_room(&image, &path)?;
    let sources: Vec<PathBuf> =
        sources.iter().map(|source| recipes.image(source)).collect::<Result<_, _>>()?;
    let sources: Vec<_> = sources.iter().map(PathBuf::as_path).collect();
    let (recipe, summary) = make(&image, &sources, &path, &MakeOptions::default(), progress)?;
    let (size, wire) = (recipe.head().size, summary.wire_bytes);
    tracing::info!(image = %target, size, wire, took = ?began.elapsed(), "made a recipe");
    Ok(recipes.add(&recipe)?)
}

/// Whether there is room for a recipe that is as large as the image. None is much larger.
fn check_room(image: &std::path::Path, path: &std::path::Path) -> Result<(), Failure> {
    let needed = std::fs::metadata(image).map_or(0, |found| found.len()).saturating_add(RESERVE);
    let free = free_space(path.parent().unwrap_or(path))?;
    if free < needed { Err(Failure::NoRoom { needed, free }) } else { Ok(()) }
}
