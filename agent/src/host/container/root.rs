//! What the container stands on: its image, with what it writes in a layer over it.

use std::path::{Path, PathBuf};

use rustix::mount::MountFlags;
use shoal_core::name::MachineName;
use shoal_core::spec::Root;

use crate::files::make_private_dir;
use crate::host::mount::{MountError, mount_failed, mount_overlay};
use crate::paths::Paths;

/// Mounts a container's root and gives the place. One that is read-only has a layer all the same,
/// for the places that things are bound to: systemd-nspawn closes it before the container runs.
pub(super) fn mount(
    paths: &Paths,
    machine: &MachineName,
    root: Root,
    lower: &Path,
    owner: u32,
) -> Result<PathBuf, MountError> {
    let layer = match root {
        Root::Discarded | Root::ReadOnly => paths.scratch(machine),
        Root::Memory => memory(paths, machine)?,
    };
    let target = paths.machine_run(machine).join("root");
    mount_overlay(lower, &layer, &target, owner)?;
    Ok(target)
}

/// A file system in memory of this container's own. What is written there counts as memory of the
/// one who writes, so the instance's limit holds; without one, half of the host's is the most.
fn memory(paths: &Paths, machine: &MachineName) -> Result<PathBuf, MountError> {
    let target = paths.memory(machine);
    make_private_dir(&target)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("tmpfs", &target, "tmpfs", flags, c"mode=0700,size=50%")
        .map_err(|e| mount_failed("memory for the root", &target)(e.into()))?;
    Ok(target)
}
