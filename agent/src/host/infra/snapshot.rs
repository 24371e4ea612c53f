//! Snapshots: all data volumes of a host as they were before an infra version.
//!
//! `snapshots/<revision>/<machine>/<volume>` is a copy as it is on the disk; owners are those seen
//! inside, as in the volumes themselves. `.hooks.json` beside the volumes of a machine is what is
//! remembered of its hooks, which goes where the data goes. `manifest.json` is written last, under
//! another name of the directory: what has its own name is whole.
//!
//! To put one back is to rename, volume by volume: what is there goes to `undone/`, what was copied
//! takes its place. Which volumes have been done follows from what is left in the snapshot, so it
//! can be cut off anywhere; it is over when the snapshot is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};
use shoal_core::name::{InfraVersion, MachineName, VolumeName};
use shoal_core::time::Timestamp;

use super::copy::{self, CopyError, Progress};
use crate::files::{
    FileError, make_private_dir, names, read_if_there, remove_file, remove_tree, write_whole,
};
use crate::host::{hooks, volume};
use crate::paths::Paths;

/// The newest form of the manifest that this agent knows.
const FORMAT: u32 = 1;
/// Its name.
const MANIFEST: &str = "manifest.json";
/// The name of what is remembered of a machine's hooks. No volume's name begins with a dot.
pub(super) const HOOKS: &str = ".hooks.json";
/// The name of the note that a snapshot is being put back, which says where the rest goes.
const ASIDE: &str = ".aside";
/// Ends the name of what is not whole.
const PARTIAL: &str = ".partial";
/// How many are kept.
const KEPT: usize = 2;

/// Why data could not be copied, put back or brought.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file or a directory.
    #[error(transparent)]
    File(#[from] FileError),
    /// A copy.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// What is remembered of hooks.
    #[error(transparent)]
    Hooks(#[from] hooks::NoteError),
    /// The manifest of a snapshot.
    #[error("{path} is damaged or of a newer agent; put the data back by hand from beside it")]
    Manifest {
        /// The file.
        path: String,
    },
}

/// What a snapshot holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Manifest {
    format: u32,
    /// The revision of the infra that it was taken before.
    pub revision: u64,
    /// The version that the host had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<InfraVersion>,
    /// The version that it was to get.
    pub to: InfraVersion,
    /// When it was taken.
    pub at: Timestamp,
    /// Bytes that the copies took where they share nothing.
    pub bytes: u64,
    /// The volumes of each machine.
    pub machines: BTreeMap<MachineName, BTreeSet<VolumeName>>,
}

/// What a snapshot is taken for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Before {
    /// The revision of the infra.
    pub revision: u64,
    /// The version that the host has.
    pub from: Option<InfraVersion>,
    /// The version that it is to get.
    pub to: InfraVersion,
}

/// How a directory gets another name, for good; tests have one that is killed.
pub type Rename<'a> = &'a dyn Fn(&Path, &Path) -> Result<(), FileError>;

/// All that has data on this host: volumes, or what is remembered of hooks.
///
/// # Errors
/// Where a directory can't be read.
pub fn all(paths: &Paths) -> Result<BTreeMap<MachineName, BTreeSet<VolumeName>>, FileError> {
    let mut all = BTreeMap::new();
    for name in names(&paths.instances())? {
        let Ok(machine) = name.parse::<MachineName>() else { continue };
        let volumes: BTreeSet<VolumeName> = volume::of(paths, &machine)?.into_iter().collect();
        if !volumes.is_empty() || hooks::path(paths, &machine).exists() {
            all.insert(machine, volumes);
        }
    }
    Ok(all)
}

/// The revisions whose snapshots are there, whole.
///
/// # Errors
/// Where the directory can't be read.
pub fn complete(paths: &Paths) -> Result<BTreeSet<u64>, FileError> {
    let dir = paths.snapshots();
    let revisions = names(&dir)?.into_iter().filter_map(|name| name.parse::<u64>().ok());
    Ok(revisions.filter(|r| place(paths, *r).join(MANIFEST).exists()).collect())
}

fn place(paths: &Paths, revision: u64) -> PathBuf {
    paths.snapshots().join(revision.to_string())
}

/// Another name for what is to be at `path`, of which no other has any part.
pub(super) fn partial(path: &Path) -> PathBuf {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes");
    let number = u32::from_ne_bytes(bytes);
    path.with_extension(format!("{number:08x}{PARTIAL}"))
}

/// Removes what was begun and never ended.
///
/// # Errors
/// Where it can't be removed.
pub fn clear_partial(paths: &Paths) -> Result<(), FileError> {
    let dir = paths.snapshots();
    let partial = |name: &String| name.ends_with(PARTIAL);
    names(&dir)?.iter().filter(|n| partial(n)).try_for_each(|name| remove_tree(&dir.join(name)))
}

/// Removes all but the newest few.
///
/// # Errors
/// Where one can't be removed.
pub fn clear_old(paths: &Paths) -> Result<(), FileError> {
    let all: Vec<u64> = complete(paths)?.into_iter().collect();
    let old = &all[..all.len().saturating_sub(KEPT)];
    old.iter().try_for_each(|revision| remove(paths, *revision, &copy::rename))
}

/// Takes a snapshot away: it is not whole from its first moment on.
fn remove(paths: &Paths, revision: u64, rename: Rename<'_>) -> Result<(), FileError> {
    let place = place(paths, revision);
    let gone = partial(&place);
    rename(&place, &gone)?;
    remove_tree(&gone)
}

/// Copies all data. Gives the bytes that were copied.
///
/// # Errors
/// Where something can't be copied; then there is no snapshot.
pub fn take(
    paths: &Paths,
    before: &Before,
    progress: &Progress,
    rename: Rename<'_>,
    now: Timestamp,
) -> Result<u64, DataError> {
    let place = place(paths, before.revision);
    if place.join(MANIFEST).exists() {
        return Ok(0);
    }
    clear_partial(paths)?;
    let new = partial(&place);
    let machines = all(paths)?;
    for (machine, volumes) in &machines {
        make_private_dir(&new.join(machine.as_str()))?;
        for volume in volumes {
            let to = new.join(machine.as_str()).join(volume.as_str());
            copy::tree(&paths.volume(machine, volume), &to, progress)?;
        }
        if let Some(past) = read_if_there(&hooks::path(paths, machine))? {
            write_whole(&new.join(machine.as_str()).join(HOOKS), &past)?;
        }
    }
    make_private_dir(&new)?;
    let Before { revision, from, to } = before.clone();
    let bytes = progress.done();
    let manifest = Manifest { format: FORMAT, revision, from, to, at: now, bytes, machines };
    let manifest = serde_json::to_vec_pretty(&manifest).expect("a manifest is plain data");
    write_whole(&new.join(MANIFEST), &manifest)?;
    // What it says is whole is on the disk before its name says so.
    copy::settle(&new)?;
    progress.commit(|| rename(&new, &place).map_err(DataError::from))?;
    Ok(bytes)
}

/// Bytes that a snapshot would take where it shared nothing.
///
/// # Errors
/// Where a directory can't be read.
pub fn size(paths: &Paths) -> Result<u64, FileError> {
    let all = all(paths)?;
    let volumes = all.iter().flat_map(|(m, volumes)| volumes.iter().map(move |v| (m, v)));
    Ok(volumes.map(|(m, v)| copy::allocated(&paths.volume(m, v))).sum())
}

/// The snapshot that was being put back when that was cut off.
///
/// # Errors
/// Where the directory can't be read.
pub fn half_back(paths: &Paths) -> Result<Option<u64>, FileError> {
    let mut complete = complete(paths)?.into_iter();
    Ok(complete.find(|revision| place(paths, *revision).join(ASIDE).exists()))
}

/// Puts the data back that was copied before `revision`; gives where that is which was there.
/// Nothing where there is no such snapshot: then it has been done.
///
/// # Errors
/// Where something can't be moved; to try again goes on from there.
pub fn put_back(
    paths: &Paths,
    revision: u64,
    rename: Rename<'_>,
) -> Result<Option<PathBuf>, DataError> {
    let place = place(paths, revision);
    let path = place.join(MANIFEST);
    let Some(bytes) = read_if_there(&path)? else { return Ok(None) };
    let manifest: Option<Manifest> = serde_json::from_slice(&bytes).ok();
    let known = manifest.filter(|manifest| manifest.format <= FORMAT);
    let kept = known.ok_or_else(|| DataError::Manifest { path: path.display().to_string() })?;
    let aside = aside(paths, revision, &place)?;
    make_private_dir(&aside)?;
    write_whole(&aside.join(MANIFEST), &bytes)?;
    let mut machines: BTreeSet<MachineName> = all(paths)?.into_keys().collect();
    machines.extend(kept.machines.keys().cloned());
    for machine in machines {
        let back = Back { paths, machine: &machine, place: &place, aside: &aside, rename };
        match kept.machines.get(&machine) {
            Some(volumes) => back.exchange(volumes)?,
            None => back.take_away()?,
        }
    }
    copy::settle(&aside)?;
    remove(paths, revision, rename)?;
    Ok(Some(aside))
}

/// Where what is there now goes: the same for every try, another for every other time.
fn aside(paths: &Paths, revision: u64, place: &Path) -> Result<PathBuf, FileError> {
    let noted = read_if_there(&place.join(ASIDE))?.and_then(|name| String::from_utf8(name).ok());
    if let Some(name) = noted {
        return Ok(paths.undone().join(name));
    }
    let (mut name, mut number) = (revision.to_string(), 1);
    while paths.undone().join(&name).exists() {
        number += 1;
        name = format!("{revision}-{number}");
    }
    make_private_dir(&paths.undone())?;
    write_whole(&place.join(ASIDE), name.as_bytes())?;
    Ok(paths.undone().join(name))
}

/// One machine's data on its way back.
struct Back<'a> {
    paths: &'a Paths,
    machine: &'a MachineName,
    place: &'a Path,
    aside: &'a Path,
    rename: Rename<'a>,
}

impl Back<'_> {
    /// Puts back the volumes that there were, and takes away those that there were not.
    fn exchange(&self, volumes: &BTreeSet<VolumeName>) -> Result<(), DataError> {
        let copied = |volume: &VolumeName| self.copy(volume.as_str());
        for volume in volume::of(self.paths, self.machine)? {
            // One that is not in the snapshot any more is back already.
            if !volumes.contains(&volume) || copied(&volume).exists() {
                self.put_aside(&volume)?;
            }
        }
        for volume in volumes.iter().filter(|volume| copied(volume).exists()) {
            make_private_dir(&self.paths.data(self.machine))?;
            (self.rename)(&copied(volume), &self.paths.volume(self.machine, volume))?;
        }
        let past = hooks::path(self.paths, self.machine);
        match read_if_there(&self.copy(HOOKS))? {
            Some(bytes) => write_whole(&past, &bytes)?,
            None => remove_file(&past)?,
        }
        Ok(())
    }

    /// Takes away what a machine has that was not there.
    fn take_away(&self) -> Result<(), DataError> {
        for volume in volume::of(self.paths, self.machine)? {
            self.put_aside(&volume)?;
        }
        let past = hooks::path(self.paths, self.machine);
        if let Some(bytes) = read_if_there(&past)? {
            let aside = self.aside.join(self.machine.as_str());
            make_private_dir(&aside)?;
            write_whole(&aside.join(HOOKS), &bytes)?;
        }
        Ok(remove_file(&past)?)
    }

    fn put_aside(&self, volume: &VolumeName) -> Result<(), FileError> {
        let aside = self.aside.join(self.machine.as_str());
        make_private_dir(&aside)?;
        let (mut to, mut number) = (aside.join(volume.as_str()), 1);
        // Someone has made it anew since the last try.
        while to.exists() {
            number += 1;
            to = aside.join(format!("{volume}-{number}"));
        }
        (self.rename)(&self.paths.volume(self.machine, volume), &to)
    }

    fn copy(&self, name: &str) -> PathBuf {
        self.place.join(self.machine.as_str()).join(name)
    }
}

/// Why the data of this host can't be copied, or where `back` says that it has to be, put back;
/// `None` where it can.
///
/// # Errors
/// Where a directory can't be read.
pub fn unfit(paths: &Paths, back: bool) -> Result<Option<String>, FileError> {
    let here = mount_of(&paths.snapshots());
    for (machine, volumes) in all(paths)? {
        for path in volumes.iter().map(|volume| paths.volume(&machine, volume)) {
            let shown = path.display();
            if fs::symlink_metadata(&path).is_ok_and(|found| found.is_symlink()) {
                return Ok(Some(format!(
                    "{shown} is a link, and what it leads to can't be copied or put back; make it \
                     a directory"
                )));
            }
            if back && mount_of(&path) != here {
                return Ok(Some(format!(
                    "{shown} is on another file system than {}, and could not be put back from \
                     there; apply with going-back = \"image\"",
                    paths.snapshots().display()
                )));
            }
        }
    }
    Ok(None)
}

/// Tells mounts apart: nothing is renamed from one to another.
fn mount_of(path: &Path) -> Option<u64> {
    use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
    let found = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::MNT_ID).ok()?;
    Some(found.stx_mnt_id)
}

/// Bytes of a progress that are to be copied, for people.
pub(super) fn told(progress: &Progress) -> String {
    let total = progress.total.load(Ordering::Relaxed);
    let (done, total) = (copy::shown(progress.done().min(total)), copy::shown(total));
    format!("copying data: {done} of {total}")
}

#[cfg(test)]
mod tests;
