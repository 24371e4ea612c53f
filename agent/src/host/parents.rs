//! Mount points inside an instance, and the directories above them, where its image lacks them.
//!
//! systemd-nspawn would make them too, but as the host's root, who is nobody inside, and not in a
//! root that is read-only.

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Gid, Mode, OFlags, ResolveFlags, Uid, fchown, mkdirat, openat2};

use crate::files::{FileError, failed};

/// What is mounted somewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// Anything else.
    File,
}

/// Makes the mount point `inside`, a path in the instance whose root is at `root`, with what is
/// above it, and gives where it really is as seen inside: the image may have links on the way.
/// What is there already is left as it is.
///
/// # Errors
/// Where it can't be made, or something that is no directory is in the way.
pub fn make_point(
    root: &Path,
    inside: &Path,
    kind: Kind,
    owner: u32,
) -> Result<PathBuf, FileError> {
    make(root, inside, owner)?;
    let below = inside.strip_prefix("/").unwrap_or(inside);
    point(root, below, kind, owner)
        .map_err(|e| failed("make the mount point", &root.join(below))(e.into()))
}

fn point(root: &Path, below: &Path, kind: Kind, owner: u32) -> rustix::io::Result<PathBuf> {
    let root = rustix::fs::open(root, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let found = match open_any(&root, below) {
        Err(rustix::io::Errno::NOENT) => {
            make_last(&root, below, kind, owner)?;
            open_any(&root, below)
        }
        found => found,
    };
    match found {
        Ok(found) => Ok(path_inside(&root, &found)?),
        // A link to nowhere: systemd-nspawn makes what it leads to.
        Err(rustix::io::Errno::NOENT) => Ok(Path::new("/").join(below)),
        Err(error) => Err(error),
    }
}

fn make_last(root: &OwnedFd, below: &Path, kind: Kind, owner: u32) -> rustix::io::Result<()> {
    let above = open(root, below.parent().unwrap_or(Path::new("")))?;
    let name = below.file_name().ok_or(rustix::io::Errno::INVAL)?;
    let made = match kind {
        Kind::Directory => make_directory(&above, name),
        Kind::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::openat(&above, name, flags, Mode::from(0o644))
        }
    };
    match made {
        Ok(made) => fchown(&made, Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner))),
        Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(error) => Err(error),
    }
}

fn make_directory(above: &OwnedFd, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    mkdirat(above, name, Mode::from(0o755))?;
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(above, name, flags, Mode::empty())
}

fn open_any(root: &OwnedFd, below: &Path) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    openat2(root, below, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// Where `found` is, below `root`.
fn path_inside(root: &OwnedFd, found: &OwnedFd) -> rustix::io::Result<PathBuf> {
    let path = |fd: &OwnedFd| std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    let paths = path(root).and_then(|root| Ok((root, path(found)?)));
    let (root, found) = paths.map_err(|_| rustix::io::Errno::NOSYS)?;
    let below = found.strip_prefix(&root).map_err(|_| rustix::io::Errno::XDEV)?;
    Ok(Path::new("/").join(below))
}

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
    let made = make_directory(&above, name)?;
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

    #[test]
    fn a_mount_point_is_made_once_and_where_links_lead_to() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::fs::create_dir_all(root.join("run/lock")).unwrap();
        symlink("/run", root.join("var-run")).unwrap();
        symlink("/nowhere", root.join("broken")).unwrap();
        std::fs::write(root.join("there"), "x").unwrap();
        let me = rustix::process::getuid().as_raw();
        let make = |inside: &str, kind| make_point(root, Path::new(inside), kind, me).unwrap();
        for _ in 0..2 {
            assert_eq!(make("/var/lib/x", Kind::Directory), Path::new("/var/lib/x"));
            assert_eq!(make("/etc/x.conf", Kind::File), Path::new("/etc/x.conf"));
            assert_eq!(make("/var-run/lock/y", Kind::File), Path::new("/run/lock/y"));
            assert_eq!(make("/there", Kind::File), Path::new("/there"));
            assert_eq!(make("/broken", Kind::File), Path::new("/broken"));
        }
        assert!(root.join("var/lib/x").is_dir() && root.join("etc/x.conf").is_file());
        assert_eq!(std::fs::read_to_string(root.join("there")).unwrap(), "x");
    }
}
