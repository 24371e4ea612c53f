//! Small files that must be whole or not there at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A file or directory that could not be read, written or made.
#[derive(Debug, thiserror::Error)]
#[error("can't {doing} {path}", path = path.display())]
pub struct FileError {
    /// What was being done, such as `write`.
    pub doing: &'static str,
    /// To what.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// For `map_err`.
pub fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError { doing, path, source }
}

/// Puts `bytes` at `path`, readable by its owner only, so that after a crash either the old or
/// the new content is there in full.
///
/// # Errors
/// Where the directory is missing, full or read-only; then the old content is there, and nothing
/// of the new.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let new = path.with_extension("new");
    let write = || {
        let mut options = File::options();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        let dir = path.parent().unwrap_or(Path::new("/"));
        File::open(dir)?.sync_all()
    };
    write().map_err(|error| {
        // On a full disk, what was begun would keep others from what little is left.
        let _ = fs::remove_file(&new);
        failed("write", path)(error)
    })
}

/// Whether a path leads nowhere: something on its way is missing, or is no directory.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Reads a file; `None` where there is none.
///
/// # Errors
/// Where it is there and can't be read.
pub fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

/// Makes a directory and those above it, for root only where they are new.
///
/// # Errors
/// Where it can't be made.
pub fn make_private_dir(path: &Path) -> Result<(), FileError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed("make the directory", path))
}

/// Removes a file; it not being there is fine.
///
/// # Errors
/// Where it can't be removed.
pub fn remove_file(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Removes a directory with all that is in it; it not being there is fine.
///
/// # Errors
/// Where something in it can't be removed.
pub fn remove_tree(path: &Path) -> Result<(), FileError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

/// The names in a directory, in order; none where it is not there.
///
/// # Errors
/// Where it is there and can't be read.
pub fn names(path: &Path) -> Result<Vec<String>, FileError> {
    let entries = match fs::read_dir(path) {
        Err(error) if is_absent(&error) => return Ok(vec![]),
        entries => entries.map_err(failed("list", path))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed("list", path))?.file_name();
        names.extend(name.into_string().ok());
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stray_file_among_directories_is_no_directory_and_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let stray = dir.path().join("stray");
        fs::write(&stray, "x").unwrap();
        assert_eq!(names(&stray.join("data")).unwrap(), [""; 0]);
        assert_eq!(read_if_there(&stray.join("instance.json")).unwrap(), None);
    }

    #[test]
    fn what_cant_be_written_leaves_the_old_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.json");
        write_whole(&path, b"old").unwrap();
        // Takes a name, and no bytes.
        std::os::unix::fs::symlink("/dev/full", path.with_extension("new")).unwrap();
        let error = write_whole(&path, b"new").unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(dir.path()).unwrap(), ["ledger.json"]);
    }
}
