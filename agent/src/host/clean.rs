//! Undoing what a start made: mounts, rendered files, discarded layers. What the template unit's
//! `ExecStopPost` does, and what a start does first.

use shoal_core::name::MachineName;

use super::mount::{MountError, let_go};
use crate::files::{names, remove_tree};
use crate::paths::Paths;

/// Unmounts and removes all that a start of `machine` made, but no data.
///
/// # Errors
/// Where a mount is still in use.
pub fn clean(paths: &Paths, machine: &MachineName) -> Result<(), MountError> {
    let run = paths.machine_run(machine);
    let data = run.join("data");
    let_go(&run.join("root"))?;
    let_go(&run.join("lower"))?;
    for name in names(&data)? {
        // Unmounted before anything is removed: a removal must never reach into a volume. Who
        // follows the journal has its mount open, and must not keep the instance from starting.
        let_go(&data.join(&name))?;
        std::fs::remove_dir(data.join(&name))
            .map_err(crate::files::failed("remove", &data.join(&name)))?;
    }
    remove_tree(&run)?;
    remove_tree(&paths.scratch(machine))?;
    Ok(())
}
