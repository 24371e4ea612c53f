//! `shoal image …`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use shoal_core::image::ImageRef;
use shoal_core::label::Selector;
use shoal_core::name::HostName;

use crate::completion::values::Values;
use crate::expiry::Expiry;
use crate::target::{parse_age, parse_duration};

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Send an image to the controller; goes on where a broken-off push ended
    ///
    /// Only what the controller lacks is sent: it says which blocks its images of the same name
    /// have, and gets the others. With the file of an image that it has at hand (`--base`), far
    /// less still: then the differences within blocks are sent.
    Push(PushArgs),
    /// Show what changed from one image to another, and how many bytes a push would send
    ///
    /// Of two local files, without a controller; or of two images of the controller, by NAME:TAG or
    /// digest.
    Diff {
        /// The image before: a squashfs file, NAME:TAG, or the first digits of a digest
        #[arg(value_name = "OLD", add = Values::Images)]
        old: String,
        /// The image after
        #[arg(value_name = "NEW", add = Values::Images)]
        new: String,
        /// Also list what differs in nothing but its time
        #[arg(short, long)]
        all: bool,
    },
    /// Look into an image file for what makes it, or its updates, larger than need be
    ///
    /// It exits 0 where nothing was found, and 1 where something was.
    Lint {
        /// A squashfs file
        file: PathBuf,
    },
    /// Have hosts fetch an image ahead of its use
    ///
    /// They keep it until a revision that uses it has come to them, or for as long as asked. It
    /// exits 0 where every host has it, 5 where some failed or are offline, and 6 where the time
    /// was up; hosts that do not have it go on trying.
    Stage(StageArgs),
    /// List where images are staged or being staged
    Staged {
        /// Only this image: NAME:TAG, or the first digits of a digest
        #[arg(value_name = "IMAGE", add = Values::Images)]
        name: Option<String>,
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

#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// A squashfs file
    pub(crate) file: PathBuf,
    /// The name to give it, such as shop:1.0
    #[arg(value_name = "NAME:TAG")]
    pub(crate) reference: ImageRef,
    /// The file of an image that the controller has, to send the differences to
    #[arg(long, value_name = "OLD.squashfs")]
    pub(crate) base: Option<PathBuf>,
    /// Say what would be sent, and send nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) signing: Signing,
}

#[derive(Debug, Args)]
pub(crate) struct StageArgs {
    /// The image
    #[arg(value_name = "NAME:TAG", add = Values::Images)]
    pub(crate) image: String,
    /// The hosts
    #[arg(value_name = "HOST", required_unless_present_any = ["selector", "cancel"])]
    pub(crate) hosts: Vec<HostName>,
    /// All hosts with these labels, such as role=web,!old
    #[arg(short = 'l', long, conflicts_with = "hosts")]
    pub(crate) selector: Option<Selector>,
    /// Take it back: on these hosts, or everywhere
    #[arg(long)]
    pub(crate) cancel: bool,
    /// How long hosts keep it where nothing uses it
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "168h")]
    #[arg(conflicts_with = "cancel")]
    pub(crate) keep: Duration,
    /// Do not wait until the hosts have it
    #[arg(long, conflicts_with = "cancel")]
    pub(crate) no_wait: bool,
    /// How long to wait for the hosts
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "1h")]
    #[arg(conflicts_with = "cancel")]
    pub(crate) timeout: Duration,
}
