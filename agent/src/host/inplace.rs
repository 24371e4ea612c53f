//! Writing a file where it is. A container that has it bind-mounted sees that very file, so another
//! one of the same name would be a change that it never gets to see.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::files::{FileError, failed};

/// A file's permission bits and its owner on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// Permission bits, at most `0o7777`.
    pub mode: u32,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

impl Look {
    /// Whether a file looks like this.
    #[must_use]
    pub fn is_of(&self, found: &fs::Metadata) -> bool {
        let Self { mode, uid, gid } = *self;
        (found.mode() & 0o7777, found.uid(), found.gid()) == (mode, uid, gid)
    }
}

/// Makes the file at `path` one of this content and look, and gives its inode. One that is so
/// already is not touched. It is never empty in between: a reader sees the old content, the new
/// one, or for a moment a mixture.
///
/// # Errors
/// Where it can't be written.
pub fn write(path: &Path, content: &[u8], look: Look) -> Result<u64, FileError> {
    attempt(path, content, look).map_err(failed("write", path))
}

fn attempt(path: &Path, content: &[u8], look: Look) -> io::Result<u64> {
    let same = fs::read(path).is_ok_and(|found| found == content);
    let mut options = File::options();
    options.write(true).create(true).truncate(false).mode(0o600);
    // Bits of `OFlags` are those of open(2).
    let flags = i32::try_from(OFlags::NOFOLLOW.bits()).map_err(io::Error::other)?;
    let mut file = options.custom_flags(flags).open(path)?;
    if !same {
        file.write_all(content)?;
        file.set_len(u64::try_from(content.len()).map_err(io::Error::other)?)?;
    }
    let found = file.metadata()?;
    if !look.is_of(&found) {
        fchown(&file, Some(look.uid), Some(look.gid))?;
        file.set_permissions(fs::Permissions::from_mode(look.mode))?;
    }
    Ok(found.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_stays_the_same_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let look = |mode| Look { mode, uid, gid };
        let inode = write(&path, b"something long", look(0o644)).unwrap();
        assert_eq!(write(&path, b"short", look(0o640)).unwrap(), inode);
        let found = fs::metadata(&path).unwrap();
        assert_eq!(found.mode() & 0o7777, 0o640);
        assert_eq!(fs::read(&path).unwrap(), b"short");
        let before = (found.mtime_nsec(), found.ctime_nsec());
        write(&path, b"short", look(0o640)).unwrap();
        let found = fs::metadata(&path).unwrap();
        assert_eq!((found.mtime_nsec(), found.ctime_nsec()), before, "it was right already");
    }

    #[test]
    fn a_link_is_not_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let (link, target) = (dir.path().join("link"), dir.path().join("target"));
        fs::write(&target, "precious").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(write(&link, b"x", Look { mode: 0o644, uid: 0, gid: 0 }).is_err());
        assert_eq!(fs::read(&target).unwrap(), b"precious");
    }
}
