//! Bringing data from a backup onto a host that never had an infra version.
//!
//! A backup is `backups/<name>/<machine>/<volume>`, put there by an operator; a snapshot has the same
//! form. Only volumes that are absent or empty are filled, each under another name first: one that
//! has its own name is whole. Deliberately absent: any way to get a backup here, and any to remove one.

use std::fs;
use std::path::{Path, PathBuf};

use shoal_core::hooks::Past;
use shoal_core::host::HostSpec;
use shoal_core::infra::Recorded;
use shoal_core::name::{BackupName, MachineName, VolumeName};
use shoal_core::spec::InstanceSpec;

use super::copy::{self, Progress};
use super::recorded;
use super::snapshot::{DataError, HOOKS};
use crate::files::{FileError, failed, make_private_dir, names, read_if_there, remove_tree};
use crate::host::hooks;
use crate::paths::Paths;

/// Ends the name of a volume that is not whole. It begins with a dot, which no volume's does.
const PARTIAL: &str = ".restoring";

/// What a backup has for one machine.
struct Found {
    machine: MachineName,
    /// The volumes that are to be filled from it.
    volumes: Vec<VolumeName>,
}

fn place(paths: &Paths, backup: &BackupName) -> PathBuf {
    paths.backups().join(backup.as_str())
}

/// Why the data that is wanted here can't be brought from `backup`; `None` where it can.
///
/// # Errors
/// Where a directory can't be read.
pub fn lacking(
    paths: &Paths,
    wanted: &HostSpec,
    backup: &BackupName,
) -> Result<Option<String>, FileError> {
    let place = place(paths, backup);
    let shown = place.display();
    if !place.is_dir() {
        return Ok(Some(format!(
            "backup {backup} is not here: bring it to {shown}, with a directory MACHINE/VOLUME for \
             each data volume"
        )));
    }
    for spec in &wanted.instances {
        let machine = spec.id.machine();
        let empty = empty_volumes(paths, spec)?;
        let there =
            |volume: &&VolumeName| place.join(machine.as_str()).join(volume.as_str()).is_dir();
        if !empty.is_empty() && !empty.iter().any(|volume| there(&volume)) {
            let volumes: Vec<&str> = empty.iter().map(VolumeName::as_str).collect();
            return Ok(Some(format!(
                "backup {backup} has no data of {}: none of {} is in {shown}/{machine}; bring it \
                 there, or make an empty directory of that name for a volume that is to begin empty",
                spec.id,
                volumes.join(", ")
            )));
        }
    }
    Ok(None)
}

/// The data volumes of an instance that have nothing in them.
fn empty_volumes(paths: &Paths, spec: &InstanceSpec) -> Result<Vec<VolumeName>, FileError> {
    let mut empty = Vec::new();
    for volume in spec.config.settings.data.keys() {
        if is_empty(&paths.volume(&spec.id.machine(), volume))? {
            empty.push(volume.clone());
        }
    }
    Ok(empty)
}

/// Whether there is no such directory, or nothing in it. Names need not be UTF-8 there.
fn is_empty(dir: &Path) -> Result<bool, FileError> {
    match fs::read_dir(dir) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(failed("list", dir)(error)),
    }
}

fn found(paths: &Paths, wanted: &HostSpec, backup: &BackupName) -> Result<Vec<Found>, FileError> {
    let place = place(paths, backup);
    let mut all = Vec::new();
    for spec in &wanted.instances {
        let machine = spec.id.machine();
        let mut volumes = empty_volumes(paths, spec)?;
        let mut has_data = Ok(());
        volumes.retain(|volume| {
            match is_empty(&place.join(machine.as_str()).join(volume.as_str())) {
                Ok(empty) => !empty,
                Err(error) => {
                    has_data = Err(error);
                    false
                }
            }
        });
        has_data?;
        if !volumes.is_empty() {
            all.push(Found { machine, volumes });
        }
    }
    Ok(all)
}

/// Bytes that bringing it takes where it shares nothing.
///
/// # Errors
/// Where a directory can't be read.
pub fn size(paths: &Paths, wanted: &HostSpec, backup: &BackupName) -> Result<u64, FileError> {
    let (place, all) = (place(paths, backup), found(paths, wanted, backup)?);
    let volumes = all.iter().flat_map(|found| {
        let machine = place.join(found.machine.as_str());
        found.volumes.iter().map(move |volume| copy::allocated(&machine.join(volume.as_str())))
    });
    Ok(volumes.sum())
}

/// Fills what is empty and notes that it came from `backup`: first with the hooks of each machine,
/// last with the host. Gives the bytes that were copied.
///
/// # Errors
/// Where something can't be copied; to try again goes on with the volume that it was at.
pub fn bring(
    paths: &Paths,
    wanted: &HostSpec,
    backup: &BackupName,
    progress: &Progress,
) -> Result<u64, DataError> {
    for Found { machine, volumes } in found(paths, wanted, backup)? {
        let from = place(paths, backup).join(machine.as_str());
        make_private_dir(&paths.data(&machine))?;
        clear_partial(paths, &machine)?;
        for volume in volumes {
            let to = paths.volume(&machine, &volume);
            let new = paths.data(&machine).join(format!(".{volume}{PARTIAL}"));
            copy::tree(&from.join(volume.as_str()), &new, progress)?;
            copy::settle(&new)?;
            progress.commit(|| -> Result<(), DataError> {
                note_restored(paths, &machine, &from)?;
                // Takes the place of an empty directory too.
                Ok(copy::rename(&new, &to)?)
            })?;
        }
    }
    progress.commit(|| -> Result<(), DataError> {
        let restored = Some(backup.clone());
        Ok(recorded::save(paths, &Recorded { restored, ..Recorded::default() })?)
    })?;
    Ok(progress.done())
}

fn clear_partial(paths: &Paths, machine: &MachineName) -> Result<(), FileError> {
    let data = paths.data(machine);
    let partial = |name: &String| name.starts_with('.') && name.ends_with(PARTIAL);
    names(&data)?.iter().filter(|n| partial(n)).try_for_each(|name| remove_tree(&data.join(name)))
}

/// Has the hook `restore` be run before the next start. What the backup says of earlier hooks, it
/// knows best; a backup that was made by hand says nothing.
fn note_restored(paths: &Paths, machine: &MachineName, from: &Path) -> Result<(), DataError> {
    let now = hooks::load(paths, machine)?;
    if now.restored {
        return Ok(());
    }
    let before = read_if_there(&from.join(HOOKS))?;
    let before: Option<Past> = before.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    Ok(hooks::save(paths, machine, &before.unwrap_or(now).brought_back())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_core::hooks::SetUpFor;

    struct World {
        dir: tempfile::TempDir,
        paths: Paths,
        wanted: HostSpec,
        backup: BackupName,
    }

    fn world() -> World {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { state: dir.path().into(), ..Paths::default() };
        let db = serde_json::json!({
            "id": "infra/db", "revision": 1, "run": "running", "restarts": 0,
            "config": {
                "image": {"reference": "db:1", "digest": "07".repeat(32), "size": 100},
                "settings": {
                    "start": "boot", "network": "host",
                    "data": {"var": {"path": "/var/db"}, "log": {"path": "/var/log"}},
                },
            },
        });
        let instances = vec![serde_json::from_value(db).unwrap()];
        let wanted = HostSpec { generation: 1, instances, ..HostSpec::default() };
        World { dir, paths, wanted, backup: "nightly".parse().unwrap() }
    }

    impl World {
        fn put(&self, path: &str, content: &str) {
            let path = self.dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }

        fn read(&self, path: &str) -> Option<String> {
            fs::read_to_string(self.dir.path().join(path)).ok()
        }

        fn lacking(&self) -> Option<String> {
            lacking(&self.paths, &self.wanted, &self.backup).unwrap()
        }

        fn bring(&self, progress: &Progress) -> Result<u64, DataError> {
            bring(&self.paths, &self.wanted, &self.backup, progress)
        }
    }

    #[test]
    fn what_is_missing_is_told_with_where_it_was_looked_for() {
        let world = world();
        let why = world.lacking().unwrap();
        assert!(why.starts_with("backup nightly is not here: bring it to /"), "{why}");
        world.put("backups/nightly/other/var/x", "");
        let why = world.lacking().unwrap();
        assert!(why.contains("has no data of infra/db: none of log, var is in /"), "{why}");
        fs::create_dir_all(world.dir.path().join("backups/nightly/infra-db/var")).unwrap();
        assert_eq!(world.lacking(), None, "it is to begin empty");
    }

    #[test]
    fn what_is_empty_is_filled_and_what_is_not_stays() {
        let world = world();
        world.put("backups/nightly/infra-db/var/x", "from the backup");
        world.put("backups/nightly/infra-db/log/x", "from the backup");
        world.put("instances/infra-db/data/log/x", "of here");
        fs::create_dir_all(world.dir.path().join("instances/infra-db/data/var")).unwrap();
        world.put("instances/infra-db/data/.var.restoring/half", "of a try that was killed");
        assert!(size(&world.paths, &world.wanted, &world.backup).unwrap() > 0);
        world.bring(&Progress::default()).unwrap();
        let read = |path: &str| world.read(&format!("instances/infra-db/data/{path}"));
        assert_eq!(read("var/x").as_deref(), Some("from the backup"));
        assert_eq!(read("log/x").as_deref(), Some("of here"));
        assert_eq!(
            names(&world.dir.path().join("instances/infra-db/data")).unwrap(),
            ["log", "var"]
        );
        assert_eq!(recorded::load(&world.paths).unwrap().restored, Some(world.backup.clone()));
        let machine = "infra-db".parse().unwrap();
        assert_eq!(hooks::load(&world.paths, &machine).unwrap(), Past::default().brought_back());
        assert_eq!(world.bring(&Progress::default()).unwrap(), 0, "once");
    }

    #[test]
    fn a_backup_that_knows_its_image_says_so() {
        let world = world();
        world.put("backups/nightly/infra-db/var/x", "");
        let image = SetUpFor {
            reference: "db:0".parse().unwrap(),
            digest: [6; 32].into(),
            infra: Some("1".parse().unwrap()),
        };
        let past = Past { image: Some(image), ..Past::default() };
        world.put("backups/nightly/infra-db/.hooks.json", &serde_json::to_string(&past).unwrap());
        world.bring(&Progress::default()).unwrap();
        let machine = "infra-db".parse().unwrap();
        assert_eq!(hooks::load(&world.paths, &machine).unwrap(), past.brought_back());
    }

    #[test]
    fn what_is_called_off_leaves_no_volume_and_no_note() {
        let world = world();
        world.put("backups/nightly/infra-db/var/x", "from the backup");
        let progress = Progress::default();
        progress.call_off();
        assert!(world.bring(&progress).is_err());
        assert_eq!(world.read("instances/infra-db/data/var/x"), None);
        assert_eq!(recorded::load(&world.paths).unwrap(), Recorded::default());
        world.bring(&Progress::default()).unwrap();
        assert!(world.read("instances/infra-db/data/var/x").is_some());
    }
}
