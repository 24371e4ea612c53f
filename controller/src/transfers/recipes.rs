//! The recipes that are kept: files in the controller's directory, made once and sent to many.
//!
//! `<key>.recipe` is a recipe by which an image is made from others, `<digest>.whole` the head of
//! one that is the image itself. Both can be made again at any time, so what is damaged, or about
//! images that are gone, is just removed; and the oldest, where there is too much.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, DirBuilder};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::SystemTime;

use shoal_core::cause::chain;
use shoal_core::image::Digest;
use shoal_core::transfer::RecipeId;
use shoal_image::recipe::{Head, Kind, RecipeError, RecipeFile, RecipeFileError};
use shoal_image::{Sha256Sum, codecs};

/// Extensions: of a recipe, of the head of a whole image, and of what is being written.
const RECIPE: &str = "recipe";
const WHOLE: &str = "whole";
const UNFINISHED: &str = "unfinished";

/// What a recipe is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Job {
    /// Sending an image as it is.
    Whole(Digest),
    /// Making it from others.
    Delta {
        /// What is made.
        target: Digest,
        /// From what, in order.
        sources: Vec<Digest>,
    },
}

/// A recipe that can't be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecipesError {
    #[error("recipe {id} is not kept here (any more)")]
    Unknown { id: RecipeId },
    #[error("the file of image {} is not there", digest.short())]
    NoImage { digest: Digest },
    #[error(transparent)]
    File(#[from] RecipeFileError),
    #[error("could not {action} {path}")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{path} is not the head of a recipe")]
    Head { path: PathBuf, source: RecipeError },
}

/// The recipes of one controller. Its methods use the disk: call them where that is allowed.
#[derive(Debug)]
pub(crate) struct Recipes {
    dir: PathBuf,
    images: PathBuf,
    /// Bytes of recipes that are kept.
    keep: u64,
    known: Mutex<HashMap<RecipeId, Known>>,
}

#[derive(Debug)]
struct Known {
    job: Job,
    path: PathBuf,
    /// Bytes of its file.
    bytes: u64,
    made: SystemTime,
    open: Weak<RecipeFile>,
}

impl Job {
    /// The image that comes out.
    pub(crate) fn target(&self) -> Digest {
        match self {
            Self::Whole(digest) | Self::Delta { target: digest, .. } => *digest,
        }
    }

    /// Those that it is made from.
    pub(crate) fn sources(&self) -> &[Digest] {
        match self {
            Self::Whole(_) => &[],
            Self::Delta { sources, .. } => sources,
        }
    }

    fn of(head: &Head) -> Self {
        let target = digest_of(head.target);
        match head.kind {
            Kind::Whole => Self::Whole(target),
            Kind::Delta { .. } => {
                let sources = head.sources().iter().map(|base| digest_of(base.sum)).collect();
                Self::Delta { target, sources }
            }
        }
    }

    fn file_name(&self) -> String {
        match self {
            Self::Whole(digest) => format!("{digest}.{WHOLE}"),
            Self::Delta { target, sources } => {
                let mut key = target.as_bytes().to_vec();
                sources.iter().for_each(|source| key.extend(source.as_bytes()));
                key.extend(codecs().as_bytes());
                format!("{}.{RECIPE}", Sha256Sum::of(&key))
            }
        }
    }
}

impl Recipes {
    /// Those in `dir`, of images in `images`. Removes what can't be used: what a crash left, what
    /// is of images that are gone, or was made by other compression libraries.
    ///
    /// # Errors
    /// The directory can't be made or read.
    pub(crate) fn open(dir: PathBuf, images: PathBuf, keep: u64) -> Result<Self, RecipesError> {
        let path = &dir;
        let failed = |action| move |source| RecipesError::Io { action, path: path.clone(), source };
        // They hold what is in images, which is nobody's but the controller's.
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.map_err(failed("make"))?;
        let mut paths = Vec::new();
        for entry in fs::read_dir(&dir).map_err(failed("read"))? {
            paths.push(entry.map_err(failed("read"))?.path());
        }
        let recipes = Self { dir, images, keep, known: Mutex::default() };
        for path in paths {
            match recipes.look_at(&path) {
                Ok(true) => {}
                Ok(false) => remove(&path),
                Err(error) => {
                    let error = chain(&error);
                    tracing::warn!(error, "a recipe that can't be used is removed");
                    remove(&path);
                }
            }
        }
        Ok(recipes)
    }

    /// Takes a file up; `false` where it is of no use.
    fn look_at(&self, path: &Path) -> Result<bool, RecipesError> {
        let extension = path.extension().and_then(|extension| extension.to_str());
        let head = match extension {
            Some(RECIPE) => RecipeFile::open(path)?.head().clone(),
            Some(WHOLE) => read_head(path)?,
            _ => return Ok(extension != Some(UNFINISHED)),
        };
        let job = Job::of(&head);
        let is_its = path.file_name().is_some_and(|name| *name == *job.file_name());
        let mut needed = job.sources().iter().chain([&job.target()]).copied().collect::<Vec<_>>();
        needed.retain(|digest| self.image(digest).is_err());
        let usable = is_its && needed.is_empty();
        if usable {
            self.note(&head, path)?;
        }
        Ok(usable)
    }

    /// The recipe for a job, where there is one, and the bytes that it takes to send it.
    pub(crate) fn find(&self, job: &Job) -> Option<RecipeId> {
        let known = self.known();
        known.iter().find(|(_, known)| known.job == *job).map(|(id, _)| *id)
    }

    /// What a recipe is for.
    pub(crate) fn job(&self, id: &RecipeId) -> Option<Job> {
        self.known().get(id).map(|known| known.job.clone())
    }

    /// A recipe, to be read; shared by all that read it at the same time.
    ///
    /// # Errors
    /// It is not there, or can't be read.
    pub(crate) fn read(&self, id: RecipeId) -> Result<Arc<RecipeFile>, RecipesError> {
        let unknown = || RecipesError::Unknown { id };
        let (job, path) = {
            let known = self.known();
            let found = known.get(&id).ok_or_else(unknown)?;
            if let Some(open) = found.open.upgrade() {
                return Ok(open);
            }
            (found.job.clone(), found.path.clone())
        };
        let file = match job {
            Job::Whole(digest) => RecipeFile::of_image(read_head(&path)?, &self.image(&digest)?)?,
            Job::Delta { .. } => RecipeFile::open(&path)?,
        };
        let file = Arc::new(file);
        if let Some(known) = self.known().get_mut(&id) {
            known.open = Arc::downgrade(&file);
        }
        Ok(file)
    }

    /// Where the recipe for a job is to be written.
    pub(crate) fn path(&self, job: &Job) -> PathBuf {
        self.dir.join(job.file_name())
    }

    /// The file of an image.
    ///
    /// # Errors
    /// It is not there.
    pub(crate) fn image(&self, digest: &Digest) -> Result<PathBuf, RecipesError> {
        let found = shoal_image::complete(&self.images, &sum_of(digest)).ok().flatten();
        found.ok_or(RecipesError::NoImage { digest: *digest })
    }

    /// Keeps the head of a whole image.
    ///
    /// # Errors
    /// The disk says no.
    pub(crate) fn add_whole(&self, head: &Head) -> Result<RecipeId, RecipesError> {
        let path = self.path(&Job::of(head));
        let unfinished = path.with_extension(UNFINISHED);
        let write = || {
            let mut file = fs::File::create(&unfinished)?;
            file.write_all(&head.encode())?;
            file.sync_all()?;
            fs::rename(&unfinished, &path)
        };
        write().map_err(|source| RecipesError::Io {
            action: "write",
            path: path.clone(),
            source,
        })?;
        self.note(head, &path)
    }

    /// Keeps a recipe that has been written where [`Self::path`] said.
    ///
    /// # Errors
    /// The disk says no.
    pub(crate) fn add(&self, recipe: &RecipeFile) -> Result<RecipeId, RecipesError> {
        let head = recipe.head();
        let id = self.note(head, &self.path(&Job::of(head)))?;
        self.make_room(&id);
        Ok(id)
    }

    fn note(&self, head: &Head, path: &Path) -> Result<RecipeId, RecipesError> {
        let looked = fs::metadata(path).and_then(|found| Ok((found.len(), found.modified()?)));
        let (bytes, made) = looked.map_err(|source| RecipesError::Io {
            action: "look at",
            path: path.to_owned(),
            source,
        })?;
        let id = RecipeId::from(*head.id().as_bytes());
        let known = Known { job: Job::of(head), path: path.into(), bytes, made, open: Weak::new() };
        self.known().insert(id, known);
        Ok(id)
    }

    /// Removes every recipe that has to do with an image that is gone.
    pub(crate) fn forget(&self, gone: &Digest) {
        let has_to_do = |job: &Job| job.target() == *gone || job.sources().contains(gone);
        let mut known = self.known();
        let going = known.extract_if(|_, known| has_to_do(&known.job));
        going.for_each(|(_, known)| remove(&known.path));
    }

    /// Removes recipes of images that are gone, and the oldest ones but `newest` until no more
    /// than enough is kept.
    fn make_room(&self, newest: &RecipeId) {
        let mut known = self.known();
        let is_gone = |digest: &Digest| self.image(digest).is_err();
        let useless = |job: &Job| is_gone(&job.target()) || job.sources().iter().any(is_gone);
        let going = known.extract_if(|id, known| id != newest && useless(&known.job));
        going.for_each(|(_, known)| remove(&known.path));
        let mut kept: u64 = known.values().map(|known| known.bytes).sum();
        let mut ages: BTreeSet<(SystemTime, RecipeId)> =
            known.iter().map(|(id, known)| (known.made, *id)).collect();
        ages.retain(|(_, id)| id != newest);
        for (_, id) in ages {
            if kept <= self.keep {
                return;
            }
            // Whoever reads it has it open, and reads on.
            if let Some(old) = known.remove(&id) {
                kept = kept.saturating_sub(old.bytes);
                remove(&old.path);
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<RecipeId, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_head(path: &Path) -> Result<Head, RecipesError> {
    let bytes = fs::read(path).map_err(|source| RecipesError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    Head::decode(&bytes).map_err(|source| RecipesError::Head { path: path.to_owned(), source })
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!(path = %path.display(), %error, "cannot remove a recipe");
    }
}

pub(crate) fn sum_of(digest: &Digest) -> Sha256Sum {
    Sha256Sum::new(*digest.as_bytes())
}

fn digest_of(sum: Sha256Sum) -> Digest {
    <[u8; 32]>::from(sum).into()
}
