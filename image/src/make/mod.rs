//! Making recipes: how a new image comes out of those that a receiver has.
//!
//! Part: the side that has both. [`make`] has the images themselves, and sends what changed as
//! plain bytes coded against similar old ones; [`make_from_indexes`] has only the old images'
//! indexes, and sends changed blocks as they are; [`whole`] has no old images at all.
//!
//! What a recipe makes is proven before it is sent, block by block; the receiver checks the SHA-256
//! in any case. The same images give the same recipe, whatever the number of threads.

mod coding;
mod image;
mod plan;
mod similar;
mod tables;
mod whole;
mod window;
mod work;

use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::thread;

use self::image::Image;
use self::work::Work;
use crate::digest::DigestError;
use crate::index::Index;
use crate::problem::ImageError;
use crate::recipe::{Base, RecipeFile, RecipeFileError, limits};

pub use whole::whole;

/// How much work goes into a recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MakeOptions {
    /// The level of zstd. 19 is the highest that is of use.
    pub level: i32,
    /// Each takes about 300 MiB of memory while it codes.
    pub threads: usize,
}

impl Default for MakeOptions {
    fn default() -> Self {
        let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get).min(2);
        Self { level: 19, threads }
    }
}

/// What becomes of the bytes of the new image, and what that costs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Bytes that the receiver has.
    pub copied: u64,
    /// Stored bytes of blocks that are compressed again.
    pub rebuilt: u64,
    /// How many blocks those are.
    pub rebuilt_blocks: u64,
    /// Bytes that are sent as they are.
    pub literal: u64,
    /// Stored bytes of the tables.
    pub metadata: u64,
    /// Where the bytes of the recipe go.
    pub wire: Wire,
    /// All bytes of the recipe: its head and its segments.
    pub wire_bytes: u64,
}

/// Bytes of a recipe, by what they are for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wire {
    /// The head, and what says where bytes come from.
    pub copied: u64,
    pub rebuilt: u64,
    pub literal: u64,
    pub metadata: u64,
}

/// A recipe that was not made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Recipe(#[from] RecipeFileError),
    #[error(transparent)]
    Digest(#[from] DigestError),
    #[error("could not read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} changed while a recipe was made of it; try again when it is at rest")]
    Changed { path: PathBuf },
    #[error("a recipe takes bytes from at most {} images, and {count} were given", limits::SOURCES)]
    Sources { count: usize },
    #[error("zstd could not code a part of the recipe: {reason}")]
    Coder { reason: &'static str },
    #[error("the making of the recipe was cancelled")]
    Cancelled,
}

impl MakeError {
    fn read(path: &Path, source: io::Error) -> Self {
        Self::Read { path: path.to_owned(), source }
    }
}

/// Makes a recipe for `target` out of `sources`, and writes it to `out`. `progress` is told the bytes
/// of the new image that are done and all of them, and ends the work by saying false.
///
/// Memory: about 100 MiB and what [`MakeOptions::threads`] says, whatever the images' sizes.
/// Blocks, for seconds to minutes: call it where that is allowed.
///
/// # Errors
/// An image can't be read or used, the recipe can't be written, or the work was cancelled.
pub fn make(
    target: &Path,
    sources: &[&Path],
    out: &Path,
    options: &MakeOptions,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<(RecipeFile, Summary), MakeError> {
    check_sources(sources.len())?;
    let target = Image::open(target)?;
    let sources: Vec<Image> =
        sources.iter().map(|path| Image::open(path)).collect::<Result<_, _>>()?;
    let work = Work::new(&target, &sources, *options, progress)?;
    work.write(out, progress)
}

/// Makes a recipe of which only the indexes of the old images are known: blocks that they have are
/// copied, all others are sent as they are. The indexes may come of outlines: of each hash, the part
/// that those have is looked at. Memory: a few MiB, and 50 bytes for each block.
///
/// # Errors
/// The image can't be read or used, the recipe can't be written, or the work was cancelled.
pub fn make_from_indexes(
    target: &Path,
    bases: &[(Base, Index)],
    out: &Path,
    options: &MakeOptions,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<(RecipeFile, Summary), MakeError> {
    check_sources(bases.len())?;
    let mut target = Image::open(target)?;
    target.index = target.index.shortened();
    let bases: Vec<(Base, Index)> =
        bases.iter().map(|(base, index)| (*base, index.clone().shortened())).collect();
    let work = Work::from_indexes(&target, &bases, *options);
    work.write(out, progress)
}

fn check_sources(count: usize) -> Result<(), MakeError> {
    if count > limits::SOURCES {
        return Err(MakeError::Sources { count });
    }
    Ok(())
}
