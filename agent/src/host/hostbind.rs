//! A directory or file of the host, shown to an instance.
//!
//! It is found without following a single link, held open, and mounted by what is held: whoever
//! may write to a directory on the way can't lead the mount elsewhere, neither before nor after.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use shoal_core::spec::{HostPath, InstancePath};

use super::idmap;
use super::parents::Kind;
use crate::files::{FileError, failed, make_private_dir};

/// Why something of the host can't be shown.
#[derive(Debug, thiserror::Error)]
pub enum HostBindError {
    /// There is nothing at that path.
    #[error(
        "{source_path} of the host, wanted at {inside}, is not there; make it on the host, or take \
         the mount out of the fleet file"
    )]
    Missing {
        /// The path on the host.
        source_path: HostPath,
        /// Where it is wanted inside.
        inside: InstancePath,
    },
    /// Its path has a link in it.
    #[error(
        "{source_path} of the host, wanted at {inside}, has a symbolic link in its path, and none \
         is followed; name the place that it leads to"
    )]
    Link {
        /// The path on the host.
        source_path: HostPath,
        /// Where it is wanted inside.
        inside: InstancePath,
    },
    /// It is a device or a pipe.
    #[error(
        "{source_path} of the host, wanted at {inside}, is neither a directory, a file nor a socket"
    )]
    Odd {
        /// The path on the host.
        source_path: HostPath,
        /// Where it is wanted inside.
        inside: InstancePath,
    },
    /// Its file system has only one view of owners.
    #[error(
        "the file system of {source_path} of the host, wanted at {inside}, can't show other owners \
         than it has (ext4, xfs, btrfs and tmpfs can, an overlay can't); use another place, or \
         leave out idmap = true in the host's policy.toml"
    )]
    NoShift {
        /// The path on the host.
        source_path: HostPath,
        /// Where it is wanted inside.
        inside: InstancePath,
        /// What the system said.
        source: std::io::Error,
    },
    /// The system said no.
    #[error("can't {doing} {source_path} of the host, wanted at {inside}")]
    Mount {
        /// What was being done.
        doing: &'static str,
        /// The path on the host.
        source_path: HostPath,
        /// Where it is wanted inside.
        inside: InstancePath,
        /// What the system said.
        source: std::io::Error,
    },
    /// The place that it is bound from.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Something of the host, held open.
#[derive(Debug)]
pub struct Source {
    fd: OwnedFd,
    kind: Kind,
    path: HostPath,
    inside: InstancePath,
}

/// What may be done with it.
#[derive(Debug, Clone, Copy)]
pub struct Attributes {
    /// Whether it can be written to.
    pub writable: bool,
    /// The first user number of the instance, where its numbers are to be the same on the disk.
    pub shift: Option<u32>,
}

impl Source {
    /// Opens what is at `path`, which is wanted at `inside`.
    ///
    /// # Errors
    /// Where there is nothing that can be shown.
    pub fn open(path: &HostPath, inside: &InstancePath) -> Result<Self, HostBindError> {
        let (source_path, inside) = (path.clone(), inside.clone());
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let fd = match openat2(CWD, path.as_str(), flags, Mode::empty(), resolve) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR) => {
                return Err(HostBindError::Missing { source_path, inside });
            }
            Err(Errno::LOOP) => return Err(HostBindError::Link { source_path, inside }),
            Err(error) => return Err(mount_error("open", source_path, inside, error)),
        };
        let found = match fstat(&fd) {
            Ok(found) => FileType::from_raw_mode(found.st_mode),
            Err(error) => return Err(mount_error("look at", source_path, inside, error)),
        };
        let kind = match found {
            FileType::Directory => Kind::Directory,
            FileType::RegularFile | FileType::Socket => Kind::File,
            _ => return Err(HostBindError::Odd { source_path, inside }),
        };
        Ok(Self { fd, kind, path: source_path, inside })
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Mounts it at `target`, which is made: this one file system and nothing that is mounted in
    /// it, with no worth in set-uid files and devices, and with every restriction that it has on
    /// the host.
    ///
    /// # Errors
    /// Where it can't be mounted, or its file system can't be shifted.
    pub fn attach(&self, target: &Path, attributes: Attributes) -> Result<(), HostBindError> {
        self.make(target)?;
        let failed =
            |doing, error: Errno| mount_error(doing, self.path.clone(), self.inside.clone(), error);
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH;
        let tree = open_tree(&self.fd, "", flags).map_err(|e| failed("copy the mount of", e))?;
        idmap::restrict(&tree, attributes.writable).map_err(|e| self.failed("restrict", e))?;
        if let Some(base) = attributes.shift {
            let (source_path, inside) = (self.path.clone(), self.inside.clone());
            idmap::shift(&tree, base).map_err(|source| HostBindError::NoShift {
                source_path,
                inside,
                source,
            })?;
        }
        move_mount(&tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .map_err(|e| failed("mount", e))
    }

    fn make(&self, target: &Path) -> Result<(), FileError> {
        match self.kind {
            Kind::Directory => make_private_dir(target),
            Kind::File => {
                let above: PathBuf = target.parent().unwrap_or(target).into();
                make_private_dir(&above)?;
                File::create(target).map(drop).map_err(failed("make", target))
            }
        }
    }

    fn failed(&self, doing: &'static str, source: std::io::Error) -> HostBindError {
        let (source_path, inside) = (self.path.clone(), self.inside.clone());
        HostBindError::Mount { doing, source_path, inside, source }
    }
}

fn mount_error(
    doing: &'static str,
    source_path: HostPath,
    inside: InstancePath,
    error: Errno,
) -> HostBindError {
    HostBindError::Mount { doing, source_path, inside, source: error.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_link_anywhere_on_the_way_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(real.join("srv/a")).unwrap();
        std::fs::write(real.join("srv/file"), "x").unwrap();
        symlink(real.join("srv"), real.join("link")).unwrap();
        symlink(real.join("srv/a"), real.join("srv/last")).unwrap();
        let inside: InstancePath = "/media".parse().unwrap();
        let open = |name: &str| {
            let path = real.join(name).to_str().unwrap().parse::<HostPath>().unwrap();
            Source::open(&path, &inside)
        };
        assert_eq!(open("srv/a").unwrap().kind(), Kind::Directory);
        assert_eq!(open("srv/file").unwrap().kind(), Kind::File);
        for linked in ["link/a", "srv/last", "link"] {
            let error = open(linked).unwrap_err();
            assert!(matches!(error, HostBindError::Link { .. }), "{linked}: {error}");
        }
        for missing in ["srv/none", "none/a", "srv/file/x"] {
            let error = open(missing).unwrap_err();
            assert!(matches!(error, HostBindError::Missing { .. }), "{missing}: {error}");
            let text = error.to_string();
            assert!(text.contains(missing) && text.contains("/media"), "{text}");
        }
    }
}
