//! Undoing what a start made: mounts, rendered files, discarded layers, what its network needed.
//! What the template unit's `ExecStopPost` does, and what a start does first.

use std::fs;
use std::path::Path;

use shoal_core::name::MachineName;

use super::mount::{MountError, let_go};
use super::network;
use crate::files::{failed, names, remove_file, remove_tree};
use crate::paths::Paths;

/// Unmounts and removes all that a start of `machine` made, but no data.
///
/// # Errors
/// Where a mount is still in use.
pub fn clean(paths: &Paths, machine: &MachineName) -> Result<(), MountError> {
    network::undo(paths, machine);
    let run = paths.machine_run(machine);
    // What was made is to be compared with nothing from here on.
    remove_file(&paths.manifest(machine))?;
    for layer in [run.join("root"), run.join("lower"), paths.memory(machine)] {
        let_go(&layer)?;
    }
    for dir in [run.join("data"), paths.shown(machine)] {
        for name in names(&dir)? {
            // Unmounted before anything is removed: a removal must never reach into a volume. Who
            // follows the journal has its mount open, and must not keep the instance from starting.
            let_go(&dir.join(&name))?;
            remove_point(&dir.join(&name)).map_err(failed("remove", &dir.join(&name)))?;
        }
    }
    remove_tree(&run)?;
    remove_tree(&paths.scratch(machine))?;
    Ok(())
}

/// Removes an empty mount point. One that is not empty is none, and stays.
fn remove_point(path: &Path) -> std::io::Result<()> {
    if path.symlink_metadata()?.is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) }
}
