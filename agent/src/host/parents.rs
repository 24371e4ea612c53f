//! The directories above a mount point inside an instance, where its image lacks them.
//!
//! systemd-nspawn would make them too, but as the host's root, who is nobody inside.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Component, Path};

use rustix::fs::{Gid, Mode, OFlags, ResolveFlags, Uid, fchown, mkdirat, openat2};

use crate::files::{FileError, failed};

/// Makes the directories above `inside`, a path in the instance whose root is at `root`, owned by
/// `owner`. Links in the image are followed as they would be inside: never out of `root`.
///
/// # Errors
/// Where one can't be made, or something that is no directory is in the way.
pub fn make(root: &Path, inside: &Path, owner: u32) -> Result<(), FileError> {
    let parents = inside.parent().unwrap_or(Path::new("/"));
    let mut so_far = std::path::PathBuf::new();
    for part in parents.components() {
        let Component::Normal(name) = part else { continue };
        let step = step(root, &so_far, name, owner);
        so_far.push(name);
        step.map_err(|e| failed("make the directory", &root.join(&so_far))(e.into()))?;
    }
    Ok(())
}

fn step(root: &Path, above: &Path, name: &OsStr, owner: u32) -> rustix::io::Result<()> {
    let root = rustix::fs::open(root, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    match open(&root, &above.join(name)) {
        Err(rustix::io::Errno::NOENT) => {}
        there => return there.map(drop),
    }
    let above = open(&root, above)?;
    mkdirat(&above, name, Mode::from(0o755))?;
    let made = rustix::fs::openat(
        &above,
        name,
        OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    fchown(&made, Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner)))
}

fn open(root: &OwnedFd, inside: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let inside = if inside.as_os_str().is_empty() { Path::new(".") } else { inside };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    openat2(root, inside, flags, Mode::empty(), resolve)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn missing_parents_are_made_and_links_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::create_dir_all(&outside).unwrap();
        symlink(&outside, root.join("etc/escape")).unwrap();
        let me = rustix::process::getuid().as_raw();
        make(&root, Path::new("/etc/app/conf.d/x.conf"), me).unwrap();
        assert!(root.join("etc/app/conf.d").is_dir());
        assert!(!root.join("etc/app/conf.d/x.conf").exists(), "only what is above it");
        // The link leads to a place that is not there when seen from inside.
        assert!(make(&root, Path::new("/etc/escape/y/z"), me).is_err());
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    }
}
