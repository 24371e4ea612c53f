//! A directory of images: `<sha256>.squashfs`, each complete and verified, and `<sha256>.partial`,
//! each on its way. Files of other names are left alone and not listed.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::digest::Sha256Sum;

const COMPLETE: &str = "squashfs";
const PARTIAL: &str = "partial";

/// A directory of images that could not be used.
#[derive(Debug, thiserror::Error)]
#[error("could not {action} {path}")]
pub struct DirectoryError {
    /// What was tried: `read`, `remove`.
    pub action: &'static str,
    pub path: PathBuf,
    #[source]
    pub source: io::Error,
}

/// What a directory holds, ordered by digest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    pub complete: Vec<CompleteFile>,
    pub partial: Vec<PartialFile>,
}

/// A complete, verified image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompleteFile {
    pub sum: Sha256Sum,
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
}

/// An image of which a beginning is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartialFile {
    pub sum: Sha256Sum,
    pub path: PathBuf,
    /// Bytes that are there, not verified.
    pub received: u64,
}

/// The path of a complete image; `None` where it is not there.
///
/// # Errors
/// The directory can't be searched. That it does not exist is no error.
pub fn complete(dir: &Path, sum: &Sha256Sum) -> Result<Option<PathBuf>, DirectoryError> {
    let path = complete_path(dir, sum);
    match fs::symlink_metadata(&path) {
        Ok(metadata) if metadata.is_file() => Ok(Some(path)),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(DirectoryError { action: "look at", path, source }),
    }
}

/// The images in a directory. One that does not exist holds none.
///
/// # Errors
/// The directory or a file in it can't be read.
pub fn list(dir: &Path) -> Result<Listing, DirectoryError> {
    let failed = |source| DirectoryError { action: "read", path: dir.to_owned(), source };
    let mut listing = Listing::default();
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(listing),
        entries => entries.map_err(failed)?,
    };
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let Some((sum, kind)) = split_name(&path) else { continue };
        let Some(size) = size_of(&path)? else { continue };
        match kind {
            Kind::Complete => listing.complete.push(CompleteFile { sum, path, size }),
            Kind::Partial => listing.partial.push(PartialFile { sum, path, received: size }),
        }
    }
    listing.complete.sort_by_key(|file| file.sum);
    listing.partial.sort_by_key(|file| file.sum);
    Ok(listing)
}

/// Removes a complete image, durably. Returns whether it was there. Whether it is in use is for the
/// caller to know; a mounted one keeps its blocks until it is unmounted.
///
/// # Errors
/// The file can't be removed.
pub fn remove(dir: &Path, sum: &Sha256Sum) -> Result<bool, DirectoryError> {
    let path = complete_path(dir, sum);
    match fs::remove_file(&path) {
        Ok(()) => sync(dir).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(DirectoryError { action: "remove", path, source }),
    }
}

/// The bytes that can still be written to the file system of a directory, without those kept for
/// root.
///
/// # Errors
/// The directory does not exist or can't be searched.
pub fn free_space(dir: &Path) -> Result<u64, DirectoryError> {
    let stat = rustix::fs::statvfs(dir).map_err(|errno| DirectoryError {
        action: "see the free space of",
        path: dir.to_owned(),
        source: errno.into(),
    })?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

pub(crate) fn complete_path(dir: &Path, sum: &Sha256Sum) -> PathBuf {
    dir.join(format!("{sum}.{COMPLETE}"))
}

pub(crate) fn partial_path(dir: &Path, sum: &Sha256Sum) -> PathBuf {
    dir.join(format!("{sum}.{PARTIAL}"))
}

/// Makes the directory, for its owner only. One that is there is left as it is.
pub(crate) fn create(dir: &Path) -> Result<(), DirectoryError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|source| DirectoryError {
        action: "create",
        path: dir.to_owned(),
        source,
    })
}

/// Makes the names in a directory survive a power cut.
pub(crate) fn sync(dir: &Path) -> Result<(), DirectoryError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|source| DirectoryError {
        action: "write out",
        path: dir.to_owned(),
        source,
    })
}

enum Kind {
    Complete,
    Partial,
}

fn split_name(path: &Path) -> Option<(Sha256Sum, Kind)> {
    let kind = match path.extension()?.to_str()? {
        COMPLETE => Kind::Complete,
        PARTIAL => Kind::Partial,
        _ => return None,
    };
    Some((path.file_stem()?.to_str()?.parse().ok()?, kind))
}

/// The size of a regular file; `None` for anything else, and for one that went away meanwhile.
fn size_of(path: &Path) -> Result<Option<u64>, DirectoryError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(metadata.is_file().then_some(metadata.len())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(DirectoryError { action: "look at", path: path.to_owned(), source }),
    }
}
