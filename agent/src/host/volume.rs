//! Data volumes on the disk. Deliberately absent: any way to remove one.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, chown};

use shoal_core::name::{MachineName, VolumeName};
use shoal_core::spec::DataVolume;

use crate::files::{FileError, failed, make_private_dir, names};
use crate::paths::Paths;

/// Makes a volume that is not there yet; one that is there stays as it is.
///
/// The owner on the disk is the owner as seen inside: the shift happens in the mount, so that the
/// directory can be carried to another host.
///
/// # Errors
/// Where it can't be made.
pub fn make(
    paths: &Paths,
    machine: &MachineName,
    name: &VolumeName,
    volume: &DataVolume,
) -> Result<(), FileError> {
    let path = paths.volume(machine, name);
    if path.is_dir() {
        return Ok(());
    }
    make_private_dir(&paths.data(machine))?;
    // Under another name until it has its owner, so that a crash never leaves a volume of root's.
    let new = paths.data(machine).join(format!(".{name}.new"));
    crate::files::remove_tree(&new)?;
    fs::DirBuilder::new().mode(0o755).create(&new).map_err(failed("make the directory", &new))?;
    fs::set_permissions(&new, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .map_err(failed("open up", &new))?;
    chown(&new, Some(volume.owner.uid), Some(volume.owner.gid))
        .map_err(failed("give away", &new))?;
    fs::rename(&new, &path).map_err(failed("make the directory", &path))
}

/// The data volumes of a machine.
///
/// # Errors
/// Where their directory can't be read.
pub fn of(paths: &Paths, machine: &MachineName) -> Result<Vec<VolumeName>, FileError> {
    Ok(names(&paths.data(machine))?.iter().filter_map(|name| name.parse().ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_volume_is_made_once_with_its_owner_and_then_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { state: dir.path().into(), ..Paths::default() };
        let machine: MachineName = "shop-main".parse().unwrap();
        let name: VolumeName = "var".parse().unwrap();
        let me = rustix::process::getuid().as_raw();
        let owner = if me == 0 { 1000 } else { me };
        let volume = DataVolume {
            path: "/var/x".parse().unwrap(),
            owner: shoal_core::spec::Owner { uid: owner, gid: owner },
        };
        make(&paths, &machine, &name, &volume).unwrap();
        let path = paths.volume(&machine, &name);
        assert_eq!(fs::metadata(&path).unwrap().uid(), owner);
        fs::write(path.join("precious"), "x").unwrap();
        make(&paths, &machine, &name, &volume).unwrap();
        assert_eq!(fs::read_to_string(path.join("precious")).unwrap(), "x");
        assert_eq!(of(&paths, &machine).unwrap(), [name]);
    }
}
