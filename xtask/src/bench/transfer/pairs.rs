//! The image pairs: one old image and what became of it in four ways, in three compressions.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::tool::{nice, run};
use super::tree::{Kind, Trees};

/// How images are made: as mksquashfs of Debian 12 does by default, but for the time that it
/// writes into them.
pub(super) const OPTIONS: &[&str] =
    &["-noappend", "-quiet", "-no-progress", "-processors", "1", "-mkfs-time", "946684800"];

/// What an image is compressed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::bench) enum Codec {
    Zstd,
    Gzip,
    Xz,
}

impl Codec {
    /// As mksquashfs calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
            Self::Xz => "xz",
        }
    }
}

/// The image that the others came out of.
pub(super) fn old(trees: &Trees, codec: Codec) -> Result<PathBuf> {
    image(trees, "old", codec, |image| squash(&trees.old(), codec, image))
}

/// The image of this kind.
pub(super) fn new(trees: &Trees, kind: Kind, codec: Codec) -> Result<PathBuf> {
    image(trees, kind.name(), codec, |image| trees.with(kind, |root| squash(root, codec, image)))
}

fn image(
    trees: &Trees,
    name: &str,
    codec: Codec,
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let codec = codec.name();
    let recipe = format!("{} {OPTIONS:?}", Trees::recipe());
    let path = trees.cache().entry(&format!("transfer-{name}-{codec}"), &recipe, ".squashfs", make);
    eprintln!("bench: image {name}, {codec}: there");
    path
}

fn squash(root: &Path, codec: Codec, image: &Path) -> Result<()> {
    let mut command = nice("mksquashfs");
    command.args([root, image]).args(OPTIONS).args(["-comp", codec.name()]);
    // It refuses a time where this is set as well.
    run(command.env_remove("SOURCE_DATE_EPOCH")).map(drop)
}
