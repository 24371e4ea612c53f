//! `shoal image …`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use shoal_core::image::ImageRef;

use crate::completion::values::Values;
use crate::expiry::Expiry;
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
        #[command(flatten)]
        signing: Signing,
    },
    /// Make a key that signs images, and the public key that hosts pin
    Keygen(KeygenArgs),
    /// Sign an image under a name: writes FILE.manifest and FILE.manifest.minisig
    ///
    /// Needs no controller. The signature is minisign's: `minisign -Vm FILE.manifest -p KEY.pub`
    /// checks it, too.
    Sign(SignArgs),
    /// Check that an image is what was signed; needs no controller
    Verify(VerifyArgs),
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

/// What is sent along with an image.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Signing {
    /// Send along what `shoal image sign` wrote
    #[arg(long, value_name = "FILE", add = Values::Files)]
    pub(crate) manifest: Option<PathBuf>,
    /// Sign it with this secret key, and send that along
    #[arg(long, value_name = "KEY", add = Values::Files, conflicts_with = "manifest")]
    pub(crate) sign_key: Option<PathBuf>,
    /// Its place among the releases of that name; hosts take no older one than they ran
    #[arg(long, value_name = "NUMBER", default_value_t = 0, requires = "sign_key")]
    pub(crate) release: u64,
    /// Until when hosts may begin to use it, such as 90d or 2027-06-30
    #[arg(long, value_name = "WHEN", requires = "sign_key")]
    pub(crate) expires: Option<Expiry>,
}

#[derive(Debug, Args)]
pub(crate) struct KeygenArgs {
    /// Where the secret key goes; the public one goes beside it, as .pub
    #[arg(default_value = "shoal.key", add = Values::Files)]
    pub(crate) file: PathBuf,
    /// Protect it by nothing but its file's permissions, as CI may have to
    ///
    /// Without this, the password is in SHOAL_KEY_PASSWORD, or is asked for.
    #[arg(long)]
    pub(crate) no_password: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SignArgs {
    /// A squashfs file
    pub(crate) file: PathBuf,
    /// The name that it may have, such as shop:1.0
    #[arg(value_name = "NAME:TAG")]
    pub(crate) reference: ImageRef,
    /// The secret key; its password is in SHOAL_KEY_PASSWORD, or is asked for
    #[arg(long, value_name = "FILE", add = Values::Files)]
    pub(crate) key: PathBuf,
    /// Its place among the releases of that name; hosts take no older one than they ran
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub(crate) release: u64,
    /// Until when hosts may begin to use it, such as 90d or 2027-06-30
    #[arg(long, value_name = "WHEN")]
    pub(crate) expires: Option<Expiry>,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// A squashfs file
    pub(crate) file: PathBuf,
    /// The public key that must have signed it: a .pub file, or its second line. Without one, only
    /// the file is held against the manifest
    #[arg(long, value_name = "KEY", add = Values::Files)]
    pub(crate) key: Option<String>,
    /// The manifest, where it is not FILE.manifest
    #[arg(long, value_name = "FILE", add = Values::Files)]
    pub(crate) manifest: Option<PathBuf>,
}
