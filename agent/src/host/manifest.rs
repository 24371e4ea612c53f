//! `manifest.json`: what a start made for a container, to be compared with what is there later.
//!
//! It lies in memory beside what it tells of, and goes with it. One that is missing or can't be
//! read, as an older agent's, means that nothing is known, and so nothing is found to differ.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shoal_core::image::Digest;
use shoal_core::name::MachineName;
use shoal_core::spec::InstancePath;

use super::inplace::Look;
use crate::files::{FileError, read_if_there, write_whole};
use crate::paths::Paths;

/// What a start made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Manifest {
    /// The rendered files.
    pub files: Vec<MadeFile>,
    /// What is bound into the container.
    pub mounts: Vec<Mounted>,
    /// The file of the image that it runs from; `None` where that is not known.
    pub image: Option<FileId>,
}

/// A rendered file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MadeFile {
    /// Its name among the machine's rendered files.
    pub name: String,
    /// Where it is seen inside.
    pub path: InstancePath,
    /// What is in it.
    pub sha256: Digest,
    /// Its mode and owner.
    pub look: Look,
    /// The very file that the container has.
    pub inode: u64,
}

/// Something that is bound into the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Mounted {
    /// Where it was asked for.
    pub path: InstancePath,
    /// Where that is, with the image's links followed.
    pub at: PathBuf,
}

/// A file whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FileId {
    /// The file system.
    pub device: u64,
    /// The file in it.
    pub inode: u64,
}

impl FileId {
    /// Of what `metadata` is about.
    #[must_use]
    pub fn of(metadata: &fs::Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// How a rendered file was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// As it was made.
    AsMade,
    /// With other contents, mode or owner: it can be written anew.
    Changed,
    /// Gone, or another one in its place: the container has one that nobody can reach any more.
    Replaced,
}

impl MadeFile {
    /// Compares it with what is in `dir`.
    #[must_use]
    pub fn compare(&self, dir: &Path) -> Found {
        let path = dir.join(&self.name);
        let Ok(found) = fs::symlink_metadata(&path) else { return Found::Replaced };
        if found.ino() != self.inode || !found.is_file() {
            return Found::Replaced;
        }
        let right = |content: Vec<u8>| {
            *shoal_image::Sha256Sum::of(&content).as_bytes() == *self.sha256.as_bytes()
        };
        let right = self.look.is_of(&found) && fs::read(&path).is_ok_and(right);
        if right { Found::AsMade } else { Found::Changed }
    }
}

impl Manifest {
    /// Reads a machine's.
    #[must_use]
    pub fn find(paths: &Paths, machine: &MachineName) -> Option<Self> {
        let bytes = read_if_there(&paths.manifest(machine)).ok().flatten()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Writes a machine's.
    ///
    /// # Errors
    /// Where it can't be written.
    pub fn save(&self, paths: &Paths, machine: &MachineName) -> Result<(), FileError> {
        let bytes = serde_json::to_vec(self).expect("a manifest is plain data");
        write_whole(&paths.manifest(machine), &bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::inplace;

    #[test]
    fn a_changed_file_is_told_from_one_that_was_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let look = Look { mode: 0o644, uid, gid };
        let path = dir.path().join("0");
        let inode = inplace::write(&path, b"one", look).unwrap();
        let sha256 = Digest::from(*shoal_image::Sha256Sum::of(b"one").as_bytes());
        let path_inside = "/etc/x".parse().unwrap();
        let made = MadeFile { name: "0".into(), path: path_inside, sha256, look, inode };
        assert_eq!(made.compare(dir.path()), Found::AsMade);
        inplace::write(&path, b"two", look).unwrap();
        assert_eq!(made.compare(dir.path()), Found::Changed);
        inplace::write(&path, b"one", Look { mode: 0o666, ..look }).unwrap();
        assert_eq!(made.compare(dir.path()), Found::Changed);
        fs::write(dir.path().join("1"), "one").unwrap();
        fs::rename(dir.path().join("1"), &path).unwrap();
        assert_eq!(made.compare(dir.path()), Found::Replaced);
        fs::remove_file(&path).unwrap();
        assert_eq!(made.compare(dir.path()), Found::Replaced);
    }

    #[test]
    fn a_manifest_that_makes_no_sense_counts_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { run: dir.path().into(), ..Paths::default() };
        let machine: MachineName = "shop-main".parse().unwrap();
        assert_eq!(Manifest::find(&paths, &machine), None);
        fs::create_dir_all(paths.machine_run(&machine)).unwrap();
        let mounts = vec![Mounted { path: "/a".parse().unwrap(), at: "/b".into() }];
        let manifest = Manifest { mounts, ..Manifest::default() };
        manifest.save(&paths, &machine).unwrap();
        assert_eq!(Manifest::find(&paths, &machine), Some(manifest));
        fs::write(paths.manifest(&machine), "{").unwrap();
        assert_eq!(Manifest::find(&paths, &machine), None);
    }
}
