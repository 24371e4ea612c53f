//! The only place of the agent that runs commands, mounts, enters namespaces or speaks D-Bus.
//!
//! [`Host`] is what the rest of the agent sees of it; `Real` does it, and tests have a fake with
//! a memory. Nothing here decides what should be done: that came in a plan.
#![allow(clippy::disallowed_methods)] // this is the place that runs commands

pub mod changes;
pub mod clean;
pub mod command;
pub mod container;
pub mod doctor;
pub mod drift;
pub mod ending;
pub mod enter;
pub mod facts;
pub mod group;
pub mod haste;
pub mod hooks;
pub mod hostbind;
pub mod idmap;
pub mod infra;
pub mod inplace;
mod insist;
pub mod journal;
pub mod machines;
pub mod manifest;
pub mod mount;
pub mod mountinfo;
pub mod names;
pub mod network;
pub mod parents;
pub mod probe;
pub mod real;
pub mod reload;
pub mod room;
pub mod runs;
pub mod sealed;
pub mod shelf;
pub mod stamp;
pub mod systemd;
pub mod trial;
pub mod unit;
pub mod volume;

use std::collections::BTreeMap;

use async_trait::async_trait;
use shoal_core::hooks::{Mode, Ran};
use shoal_core::host::HostSpec;
use shoal_core::image::Digest;
use shoal_core::name::{ImageName, MachineName};
use shoal_core::plan::{Action, Observed};
use shoal_core::secret::PinnedSecret;
use shoal_core::status::{LastExit, RetainedData};
use shoal_core::time::Timestamp;

/// A host as the reconcile loop needs it.
#[async_trait]
pub trait Host: Send + Sync {
    /// What is there now, on the way to what is wanted.
    async fn observe(&self, wanted: &HostSpec) -> Result<Observation, HostError>;

    /// Does one step of a plan to a machine. Starting and stopping are begun, not awaited.
    async fn carry_out(&self, machine: &MachineName, action: &Action) -> Result<(), HostError>;

    /// Does one step of a plan to the host as a whole. Copying data is begun, not awaited.
    async fn carry_out_for_host(&self, wanted: &HostSpec, action: &Action)
    -> Result<(), HostError>;

    /// Unmounts an image that nothing uses.
    async fn unmount(&self, digest: &Digest) -> Result<(), HostError>;

    /// Removes a secret that nothing names; says whether it still was so.
    async fn forget(&self, secret: &PinnedSecret) -> Result<bool, HostError>;

    /// Notes which images are needed now, with what they are of where that is known, so that it is
    /// known later when each was needed last.
    fn note_needed(&self, needed: &BTreeMap<Digest, Option<ImageName>>, now: Timestamp);

    /// One round of an instance's checks, each in the instance's own surroundings.
    async fn check(&self, probe: &probe::Probe) -> Result<(), String>;

    /// The last thing that a machine's unit said, for the status of a failed one.
    async fn last_words(&self, machine: &MachineName) -> Option<String>;
}

/// What one look at a host found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observation {
    /// What planning needs. Attempts are not in it: the loop remembers those.
    pub observed: Observed,
    /// What people want to know besides.
    pub details: BTreeMap<MachineName, Details>,
    /// Data volumes on the disk, by machine; those of machines with a record too.
    pub volumes: Vec<RetainedData>,
    /// What is wrong with the host as a whole, for people.
    pub problems: Vec<String>,
    /// What has been done to the host as a whole since it was last looked at, for people.
    pub news: Vec<String>,
    /// The revision of the infra of which a snapshot is only half back in its place: the rest comes
    /// before all else.
    pub half_back: Option<u64>,
}

/// What people want to know of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Details {
    /// systemd waits before it tries again.
    pub restarting: bool,
    /// How often it was started again since its record was written, by systemd or by the agent,
    /// but for the starts that followed a stop through Shoal.
    pub restarts: u32,
    /// How it ended the last time that it did without Shoal having stopped it, since its record
    /// was written.
    pub last_exit: Option<LastExit>,
    /// Since when the unit has been in its state.
    pub since: Option<Timestamp>,
    /// The container's first process.
    pub leader: Option<u32>,
    /// Why the unit failed, in systemd's word (`exit-code`, `timeout`).
    pub result: Option<String>,
    /// First of its user numbers.
    pub uid_base: Option<u32>,
    /// The addresses of its own network.
    pub addresses: Vec<std::net::IpAddr>,
    /// What of its hooks says why it does not run.
    pub hook: Option<Hook>,
    /// The last of its hooks that ended well.
    pub ran: Option<Ran>,
}

/// What a hook does to a start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hook {
    /// It is being run, as long as the unit is on its way up.
    Runs(Mode),
    /// It has failed, and is not run again for the same.
    Failed(String),
}

/// Why something could not be done to the host.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A file.
    #[error(transparent)]
    File(#[from] crate::files::FileError),
    /// A record.
    #[error(transparent)]
    Record(#[from] crate::record::RecordError),
    /// A command.
    #[error(transparent)]
    Command(#[from] command::CommandError),
    /// A mount.
    #[error(transparent)]
    Mount(#[from] mount::MountError),
    /// systemd or machined.
    #[error("systemd did not {doing}")]
    Systemd {
        /// What it was asked.
        doing: String,
        /// What it said.
        source: zbus::Error,
    },
    /// The images' directory.
    #[error(transparent)]
    Images(#[from] shoal_image::DirectoryError),
    /// The image files.
    #[error(transparent)]
    Stock(#[from] crate::stock::StockError),
    /// A broken-off transfer.
    #[error(transparent)]
    Partial(#[from] shoal_image::PartialError),
    /// Another machine's record stands in the way.
    #[error("the record of {machine} can't be read, and nothing new is set up until it can: {why}")]
    Unreadable {
        /// The other machine.
        machine: MachineName,
        /// Why it can't be read.
        why: String,
    },
    /// Every range of user numbers is taken.
    #[error("no range of 65536 user numbers is left for another instance")]
    NoUserNumbers,
    /// The host's policy, kernel or size.
    #[error("{0}")]
    Refused(String),
    /// A file of the deployment.
    #[error(transparent)]
    Template(#[from] container::rendered::TemplateError),
    /// A secret.
    #[error(transparent)]
    Secret(#[from] crate::secrets::vault::SecretError),
    /// The host's data.
    #[error(transparent)]
    Data(#[from] infra::snapshot::DataError),
    /// The host's infra version.
    #[error(transparent)]
    Recorded(#[from] infra::RecordFailed),
    /// What is remembered of hooks.
    #[error(transparent)]
    Hooks(#[from] hooks::NoteError),
    /// A unit inside that was to read its files again.
    #[error(transparent)]
    Reload(#[from] reload::ReloadError),
    /// A container that was to be changed as it runs.
    #[error(
        "the container of {machine} has just ended; what was to change is done when it is back"
    )]
    Ended {
        /// The machine.
        machine: MachineName,
    },
}
