//! An instance's data volumes and its journal: what outlives the container.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use shoal_core::name::MachineName;
use shoal_core::spec::Start;

use super::{Bind, StartError};
use crate::files::{failed, make_private_dir};
use crate::host::mount::{self, mount_data};
use crate::host::parents::Kind;
use crate::host::volume;
use crate::paths::Paths;
use crate::record::Record;

/// Where a booted system keeps its journal.
const JOURNAL: &str = "/var/log/journal";

/// Mounts them where they can be bound from, and makes those that are not there yet.
pub(super) fn prepare(
    paths: &Paths,
    machine: &MachineName,
    record: &Record,
) -> Result<Vec<Bind>, StartError> {
    let settings = &record.spec.config.settings;
    let mounts = paths.machine_run(machine).join("data");
    let shift = record.uid_base.is_some();
    let bind = |from, to| Bind { from, to, kind: Kind::Directory, writable: true, shift };
    let mut binds = Vec::new();
    for (name, wanted) in &settings.data {
        volume::make(paths, machine, name, wanted)?;
        let target = mounts.join(name.as_str());
        mount_data(&paths.volume(machine, name), &target, mount::DATA)?;
        binds.push(bind(target, wanted.path.clone()));
    }
    if settings.start == Start::Boot {
        let journal = paths.journal(machine);
        make_private_dir(&journal)?;
        fs::set_permissions(&journal, fs::Permissions::from_mode(0o755))
            .map_err(failed("open up", &journal))?;
        // The dot keeps it apart from every name that a volume can have.
        let target = mounts.join(".journal");
        mount_data(&journal, &target, mount::JOURNAL)?;
        binds.push(bind(target, Bind::known(JOURNAL)));
    }
    Ok(binds)
}
