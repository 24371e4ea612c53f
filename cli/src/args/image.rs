//! `shoal image …`.

use std::path::PathBuf;

use clap::Subcommand;
use shoal_core::image::ImageRef;

use crate::completion::values::Values;

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
    /// Remove a name; with a digest, the image itself
    #[command(alias = "remove")]
    Rm {
        /// NAME:TAG, or the first digits of a digest
        #[arg(value_name = "IMAGE", add = Values::Images)]
        name: String,
    },
}
