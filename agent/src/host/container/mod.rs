//! From a record to a running container: what the template unit's `ExecStart` does.
//!
//! Works with neither agent nor controller up. It asks the host's policy and for the
//! image's signature, mounts, renders, and
//! then becomes systemd-nspawn. It undoes what an earlier start left before it does anything, so
//! that it can be killed at any point and run again.
//!
//! What has to be run once before is run by [`hook`], in a container of its own.
//!
//! Rooms: [`root`] for what the container stands on; [`data`], [`rendered`] and [`shown`] for what
//! is bound into it; [`credentials`] for its secrets; [`arguments`], with [`isolation`] and [`network`], for what systemd-nspawn is
//! told.

mod arguments;
pub mod credentials;
mod data;
pub mod hook;
mod isolation;
mod network;
pub mod rendered;
mod root;
mod shown;

use std::convert::Infallible;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use shoal_core::cause::chain;
use shoal_core::host::HostFacts;
use shoal_core::name::MachineName;
use shoal_core::policy::Policy;
use shoal_core::spec::InstancePath;

use self::arguments::{Program, arguments};
use self::credentials::Passed;
use self::hook::HookError;
use self::rendered::TemplateError;
use super::hostbind::HostBindError;
use super::manifest::{Manifest, Mounted};
use super::mount::{MountError, mount_failed, mount_image};
use super::network::{self as links, NetworkError};
use super::parents::{self, Kind};
use super::{clean, idmap, names, runs};
use crate::clock;
use crate::files::{FileError, make_private_dir};
use crate::paths::{Paths, text};
use crate::policy::{self, PolicyError};
use crate::record::{Record, RecordError};
use crate::secrets::vault::SecretError;
use crate::trust::{self, UntrustedError};

/// Why a container could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The host's policy can't be read.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The host's policy has changed since the record was written.
    #[error("the host's policy does not allow it any more: {0}")]
    Refused(String),
    /// The host does not trust its image.
    #[error(transparent)]
    Untrusted(#[from] UntrustedError),
    /// A mount.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// Something of the host that is to be seen inside.
    #[error(transparent)]
    HostBind(#[from] HostBindError),
    /// A file of the host.
    #[error(transparent)]
    File(#[from] FileError),
    /// A template.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// A secret.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// A secret that was opened.
    #[error("can't pass a secret to systemd-nspawn")]
    Passing(#[source] std::io::Error),
    /// Its network.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// What has to be run once before it.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// The unit was stopped in the meantime.
    #[error("stopped while it was being started")]
    Stopped,
    /// systemd-nspawn did not start.
    #[error("can't run systemd-nspawn; is the package systemd-container installed?")]
    Nspawn(#[source] std::io::Error),
}

impl StartError {
    /// Whether it is as someone wanted it, who stopped the unit.
    #[must_use]
    pub fn is_as_wanted(&self) -> bool {
        matches!(self, Self::Stopped | Self::Hook(HookError::CutOff { .. }))
    }
}

/// Starts the container of `machine` and becomes it.
///
/// # Errors
/// Where it can't be started; what was mounted is unmounted by the unit's `ExecStopPost`.
pub fn start(paths: &Paths, machine: &MachineName) -> Result<Infallible, StartError> {
    if let Some(refused) = hook::refused(paths, machine) {
        return Err(refused.into());
    }
    if let Err(error) = runs::note_start(paths, machine) {
        // A note that could not be written keeps nothing from starting.
        eprintln!("warning: {}", chain(&error));
    }
    let record = Record::load(paths, machine)?;
    let policy = policy::load(paths)?;
    permitted(&policy, &record)?;
    let (trust, image) = (&policy.trust, &record.spec.config.image);
    trust::take_into_use(paths, &record.host, trust, image, clock::now())?;
    let due = hook::due(paths, machine, &record)?;
    let mut place = set_up(paths, machine, &record, &policy)?;
    let mut watch = None;
    if let Some(due) = due {
        watch = Some(due.run(paths, machine, &record, &place)?);
        // What it wrote outside the data is gone, as it is with every start.
        drop(place);
        place = set_up(paths, machine, &record, &policy)?;
    }
    links::begin(paths, machine, &record.spec.config.settings)?;
    let mut command = Command::new("systemd-nspawn");
    command.args(arguments(&record, &place, Program::Instance));
    for passed in &place.credentials {
        passed.hand_over().map_err(StartError::Passing)?;
    }
    if watch.is_some_and(|mut watch| watch.is_told()) {
        return Err(StartError::Stopped);
    }
    Err(StartError::Nspawn(command.exec()))
}

/// Prepares all that a container stands on, anew.
fn set_up(
    paths: &Paths,
    machine: &MachineName,
    record: &Record,
    policy: &Policy,
) -> Result<Prepared, StartError> {
    clean::clean(paths, machine)?;
    links::check(&record.spec.config.settings)?;
    prepare(paths, machine, record, policy)
}

/// Asks the policy as it is now: the record may be older than a change of it, and may be started
/// at boot with no agent to ask.
fn permitted(policy: &Policy, record: &Record) -> Result<(), StartError> {
    let facts = HostFacts {
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        // As it was when the record was written. Limits were held against the host then.
        idmapped_squashfs: record.uid_base.is_some(),
        ..HostFacts::default()
    };
    let permitted = policy.permits(&record.spec.config.settings, &facts);
    permitted.map(drop).map_err(|refused| {
        let reasons: Vec<String> = refused.iter().map(|reason| chain(reason)).collect();
        StartError::Refused(reasons.join("; "))
    })
}

/// What was prepared for a container.
#[derive(Debug, Default)]
struct Prepared {
    root: PathBuf,
    binds: Vec<Bind>,
    credentials: Vec<Passed>,
}

/// Something of the host that is bound into a container.
#[derive(Debug)]
struct Bind {
    /// On the host.
    from: PathBuf,
    /// Inside.
    to: InstancePath,
    kind: Kind,
    writable: bool,
    /// Whether systemd-nspawn has to shift its owners.
    shift: bool,
}

impl Bind {
    /// A path inside that this code itself names.
    fn known(path: &'static str) -> InstancePath {
        path.parse().expect("a path that is allowed inside")
    }
}

fn prepare(
    paths: &Paths,
    machine: &MachineName,
    record: &Record,
    policy: &Policy,
) -> Result<Prepared, StartError> {
    let settings = &record.spec.config.settings;
    // What may be refused or missing comes before what has to be undone.
    let sources = shown::open(settings, policy)?;
    let secrets = credentials::open(paths, settings)?;
    let credentials = credentials::in_memory(&secrets).map_err(StartError::Passing)?;
    let rendered = rendered::rendered(record, &secrets)?;
    let run = paths.machine_run(machine);
    make_private_dir(&run)?;
    let (image, file) = mount_image(paths, &record.spec.config.image.digest)?;
    let lower = match record.uid_base {
        None => image,
        Some(base) => shifted(&image, &run.join("lower"), base)?,
    };
    let owner = record.uid_base.unwrap_or(0);
    let root = root::mount(paths, machine, settings.root, &lower, owner)?;
    let mut binds = data::prepare(paths, machine, record)?;
    let (files, made) = rendered::prepare(&paths.rendered(machine), &rendered)?;
    binds.extend(files);
    binds.extend(hosts_file(paths, machine, record)?);
    binds.extend(shown::attach(sources, &paths.shown(machine), record.uid_base)?);
    let mounts = make_points(&root, &binds, owner)?;
    Manifest { files: made, mounts, image: file }.save(paths, machine)?;
    Ok(Prepared { root, binds, credentials })
}

fn shifted(image: &Path, target: &Path, base: u32) -> Result<PathBuf, StartError> {
    make_private_dir(target)?;
    let what = format!("{} with shifted owners", text(image));
    idmap::mount_shifted(image, target, base).map_err(mount_failed(&what, target))?;
    Ok(target.to_owned())
}

/// The names of other instances, unless the fleet file has a say in that place.
fn hosts_file(
    paths: &Paths,
    machine: &MachineName,
    record: &Record,
) -> Result<Option<Bind>, FileError> {
    if !names::is_ours(&record.spec.config.settings) {
        return Ok(None);
    }
    names::prepare(paths, machine, record)?;
    let (from, to) = (paths.hosts(machine), Bind::known(names::INSIDE));
    Ok(Some(Bind { from, to, kind: Kind::File, writable: false, shift: false }))
}

/// Makes the places inside that things are bound to, and tells where each really is: the image
/// may have links on the way.
fn make_points(root: &Path, binds: &[Bind], owner: u32) -> Result<Vec<Mounted>, FileError> {
    let points = binds.iter().map(|bind| {
        let at = parents::make_point(root, Path::new(bind.to.as_str()), bind.kind, owner)?;
        Ok(Mounted { path: bind.to.clone(), at })
    });
    points.collect()
}
