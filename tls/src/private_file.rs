//! Files that only their owner may read: keys, identities, CA material.
//!
//! Way in: [`write_private`]. The file is there whole or not at all, also after a power cut.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::fingerprint::hex;

/// Which step of writing a private file failed.
#[derive(Debug, thiserror::Error)]
pub enum PrivateFileError {
    #[error("cannot write to {path}: it names no file")]
    Name { path: PathBuf },
    #[error("cannot write {path}: the system gave no randomness for a temporary name")]
    Random { path: PathBuf },
    #[error("cannot {step} {path}")]
    Io {
        step: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Replaces `path` by a file with mode 0600 and these bytes: written beside it, synced, renamed,
/// and the directory synced. The directory must exist.
///
/// # Errors
/// See [`PrivateFileError`]; whatever was at `path` before is then still there, unless only the
/// last sync of the directory failed.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), PrivateFileError> {
    let temporary = temporary_beside(path)?;
    let written = write_synced(&temporary, bytes)
        .map_err(io_error("write", &temporary))
        .and_then(|()| fs::rename(&temporary, path).map_err(io_error("replace", path)));
    if written.is_err() {
        // Best effort: the error that led here says more than a failed clean-up would.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    let directory = directory_of(path);
    File::open(directory).and_then(|dir| dir.sync_all()).map_err(io_error("sync", directory))
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn temporary_beside(path: &Path) -> Result<PathBuf, PrivateFileError> {
    let name = path.file_name().ok_or_else(|| PrivateFileError::Name { path: path.to_owned() })?;
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|_| PrivateFileError::Random { path: path.to_owned() })?;
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.tmp", hex(&random)));
    Ok(path.with_file_name(temporary))
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn io_error(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PrivateFileError {
    let path = path.to_owned();
    move |source| PrivateFileError::Io { step, path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn replaces_and_is_private_even_over_a_public_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();

        write_private(&path, b"new").unwrap();

        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "a temporary file was left");
    }

    #[test]
    fn a_failure_names_the_path_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("taken");
        fs::create_dir(&target).unwrap();
        let error = write_private(&target, b"x").unwrap_err();
        assert!(error.to_string().contains("taken"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);

        let error = write_private(&dir.path().join("absent/key"), b"x").unwrap_err();
        assert!(error.to_string().contains("absent"), "{error}");
        assert!(matches!(write_private(Path::new("/"), b"x"), Err(PrivateFileError::Name { .. })));
    }
}
