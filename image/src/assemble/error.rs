//! What can go wrong while an image is made, and what the receiver does about it.

use std::io;
use std::path::PathBuf;

use crate::digest::Sha256Sum;
use crate::partial::PartialError;
use crate::problem::ImageError;
use crate::recipe::RecipeError;

/// An image that could not be made out of what is here.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// The disk, another transfer, or the bytes of a whole image.
    #[error(transparent)]
    Partial(#[from] PartialError),
    #[error(
        "{path}, out of which the new image was to be made, is not there; it has to come whole"
    )]
    MissingSource { sum: Sha256Sum, path: PathBuf },
    #[error(
        "{path}, out of which the new image was to be made, has {size} bytes and not {expected}, \
         so that it is damaged; the new image has to come whole. Remove {path} and push it again"
    )]
    SourceSize { sum: Sha256Sum, path: PathBuf, size: u64, expected: u64 },
    #[error("{0}; the new image that was to be made out of it has to come whole")]
    SourceImage(#[source] ImageError),
    #[error(
        "{path}, out of which the new image was to be made, is damaged at byte {offset}; the new \
         image has to come whole. Remove {path} and push it again"
    )]
    SourceDamaged { path: PathBuf, offset: u64 },
    #[error("could not {action} {path}")]
    SourceIo { action: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "the recipe was made with {theirs}, and here are {ours}, which may compress differently; \
         the image has to come whole. Install the same version of Shoal on both sides"
    )]
    Codecs { theirs: String, ours: String },
    #[error("segment {segment} came, and {next} is the next one")]
    NotNext { segment: usize, next: usize },
    #[error(
        "the bytes that came as segment {segment} of image {target} are not those that were \
         announced; they were not used, whoever sent them sends wrong bytes"
    )]
    WrongSegment { segment: usize, target: Sha256Sum },
    /// It asks for what can't be or may not be.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    #[error(
        "a block of the new image, at its byte {offset}, came out other than it was announced: \
         the image it is made out of is damaged, or the recipe is; it has to come whole"
    )]
    Rebuild { offset: u64 },
    #[error(
        "what was made for {path} is not the image that was announced: expected SHA-256 \
         {expected}, got {got}; it was thrown away, the image has to come whole. One of those it \
         was made out of is damaged: {}", names(.sources)
    )]
    WrongImage { path: PathBuf, expected: Sha256Sum, got: Sha256Sum, sources: Vec<Sha256Sum> },
}

impl AssembleError {
    /// Whether the recipe can't be carried out here at all, so that the image has to be asked for
    /// as a whole. Otherwise another try, or another sender, may do.
    #[must_use]
    pub fn asks_for_whole(&self) -> bool {
        match self {
            Self::Partial(_) | Self::NotNext { .. } | Self::WrongSegment { .. } => false,
            Self::MissingSource { .. }
            | Self::SourceSize { .. }
            | Self::SourceImage(_)
            | Self::SourceDamaged { .. }
            | Self::SourceIo { .. }
            | Self::Codecs { .. }
            | Self::Recipe(_)
            | Self::Rebuild { .. }
            | Self::WrongImage { .. } => true,
        }
    }
}

fn names(sums: &[Sha256Sum]) -> String {
    sums.iter().map(Sha256Sum::to_string).collect::<Vec<_>>().join(", ")
}
