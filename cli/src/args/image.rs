//! `shoal image …`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use shoal_core::image::ImageRef;

use crate::completion::values::Values;
use crate::target::parse_age;

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Send an image to the controller; goes on where a broken-off push ended
    Push {
        /// A squashfs file
        file: PathBuf,
        /// The name to give it, such as shop:1.0
        #[arg(value_name = "NAME:TAG")]
        reference: ImageRef,
    },
    /// List images
    #[command(alias = "ls")]
    List,
    /// Show all that is known of an image
    Show {
        /// NAME:TAG, or the first digits of a digest
        #[arg(value_name = "IMAGE", add = Values::Images)]
        name: String,
    },
    /// Give an image another name, or move a name to it
    Tag {
        /// NAME:TAG, or the first digits of a digest
        #[arg(value_name = "IMAGE", add = Values::Images)]
        source: String,
        /// The name to give it
        #[arg(value_name = "NAME:TAG")]
        reference: ImageRef,
    },
    /// Keep an image from being removed, by a prune or by `rm`
    Pin {
        /// NAME:TAG, or the first digits of a digest
        #[arg(value_name = "IMAGE", add = Values::Images)]
        name: String,
    },
    /// Let an image be removed again
    Unpin {
        /// NAME:TAG, or the first digits of a digest
        #[arg(value_name = "IMAGE", add = Values::Images)]
        name: String,
    },
    /// Remove images from the controller that nothing has needed for a while
    ///
    /// An image is needed while it has a tag or a pin, a host has it or is to have it, or one of
    /// the last five revisions of a fleet names it. Beginnings of pushes that nobody went on with
    /// go, too.
    Prune {
        /// Say what would go, and remove nothing
        #[arg(long)]
        dry_run: bool,
        /// How long nothing must have needed them
        #[arg(long, value_name = "AGE", value_parser = parse_age, default_value = "7d")]
        older_than: Duration,
        /// Also images that have tags and were pushed that long ago, with their tags
        #[arg(long)]
        all: bool,
    },
    /// Remove a name; with a digest, the image itself
    #[command(alias = "remove")]
    Rm {
        /// NAME:TAG, or the first digits of a digest
        #[arg(value_name = "IMAGE", add = Values::Images)]
        name: String,
    },
}
