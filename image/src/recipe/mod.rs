//! Recipes: how an image is made out of images that the receiver has.
//!
//! Part: the form of a recipe, on disk and on the wire. A recipe is a [`Head`] and segments. The
//! head says what comes out and what it is made from; each segment makes the next piece of the
//! image, in order, out of the sources, what was made before it, and its own bytes. Segments need
//! nothing of one another but what they have put out, so a transfer that ended early goes on with
//! the one it broke off in, and each can come from somebody else: the head has their hashes.
//!
//! A whole image is a recipe, too: without sources, its segments are the image's own bytes.
//!
//! Ways in: [`make`](crate::make) makes one, [`Assembler`](crate::Assembler) carries it out,
//! [`RecipeFile`] keeps one on disk. Everything is read with bounds, since it comes from outside:
//! what a recipe can cost is stated in [`limits`], whatever is in it.

pub(crate) mod code;
mod file;
mod head;
pub mod limits;
mod segment;

pub use file::{RecipeFile, RecipeFileError, RecipeWriter};
pub use head::{Base, Head, Kind, RecipeId, SegmentHead};
pub use segment::{Op, Reference, Segment};

/// Bytes that are no recipe, or not one that may be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecipeError {
    /// What is read ends in the middle.
    #[error("the recipe is cut short in its {part}")]
    Short { part: &'static str },
    /// Something in it can't be.
    #[error("the recipe is damaged: {fault}")]
    Damaged { fault: &'static str },
    /// It asks for more than a receiver gives.
    #[error("the recipe asks for {asked} of {what}, and at most {limit} is given")]
    TooMuch { what: &'static str, asked: u64, limit: u64 },
    /// It is of another form, by a newer or older version of Shoal.
    #[error("the recipe is of form {version}, and form {} can be used", head::VERSION)]
    Version { version: u8 },
}

impl RecipeError {
    pub(crate) fn damaged(fault: &'static str) -> Self {
        Self::Damaged { fault }
    }
}
