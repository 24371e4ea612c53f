//! What of a machine was changed by someone else. Reads only, and little where nothing changed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use shoal_core::drift::Drift;
use shoal_core::image::Digest;
use shoal_core::name::MachineName;
use shoal_core::plan::Unit;
use shoal_core::spec::InstancePath;
use shoal_core::time::Timestamp;

use super::machines::Directories;
use super::manifest::{FileId, Found, Manifest};
use super::shelf::Shelf;
use super::stamp::Remembered;
use super::unit::UnitFiles;
use super::unit::watch::{Seen, UnitWatch};
use super::{Observation, mountinfo, names};
use crate::clock;
use crate::files::FileError;
use crate::paths::{Paths, text};
use crate::record::Record;

/// How long a mount must have been gone to count: a system that shuts down or reboots from inside
/// unmounts everything first, and its container then ends by itself.
const GONE_FOR: Duration = Duration::from_secs(3);

/// How long a look at the mounts inside is believed, where none was missing.
const BELIEVED: Duration = Duration::from_secs(4);

/// Compares machines with what was made for them.
#[derive(Debug)]
pub struct Watch {
    paths: Paths,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    units: UnitWatch,
    names: Shelf<Option<String>>,
    made: BTreeMap<MachineName, Made>,
}

/// What is known of what a start made.
#[derive(Debug, Default)]
struct Made {
    manifest: Option<Remembered<Option<Arc<Manifest>>>>,
    files: Shelf<Found>,
    /// Mounts that are gone, with since when.
    gone: BTreeMap<InstancePath, Timestamp>,
    /// When all were there, and whose first process was asked.
    complete: Option<(u32, Timestamp)>,
}

impl Watch {
    /// Nothing looked at yet.
    #[must_use]
    pub fn new(paths: Paths, units: UnitFiles) -> Self {
        let (names, made) = (Shelf::default(), BTreeMap::new());
        let known = Mutex::new(Known { units: UnitWatch::new(units), names, made });
        Self { paths, known }
    }

    /// Adds to an observation what differs, and each machine's hosts file. `staged` are the files
    /// of images that are complete and verified.
    ///
    /// # Errors
    /// Where something that must be there can't be read.
    pub fn note(
        &self,
        observation: &mut Observation,
        directories: &Directories,
        staged: &BTreeMap<Digest, FileId>,
    ) -> Result<(), FileError> {
        let now = clock::now();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = &mut *known;
        known.forget(directories);
        let seen = known.units.look(now)?;
        for (machine, found) in &mut observation.observed.machines {
            let record = directories.get(machine).and_then(|found| found.record().ok().flatten());
            let Some(record) = record else { continue };
            let hosts = self.paths.hosts(machine);
            let read = || names::find(&self.paths, machine);
            found.names.clone_from(known.names.get(&hosts, now, read)?);
            if found.unit != Unit::Active {
                known.made.remove(machine);
                continue;
            }
            let leader = observation.details.get(machine).and_then(|details| details.leader);
            let look = Look { paths: &self.paths, machine, record, leader, staged, now };
            found.drift = look.drift(known, &seen)?;
        }
        observation.problems.extend(seen.foreign);
        Ok(())
    }
}

impl Known {
    fn forget(&mut self, directories: &Directories) {
        self.units.retain(|machine| directories.contains_key(machine));
        self.made.retain(|machine, _| directories.contains_key(machine));
        self.names.retain(|path| {
            let machine = path.parent().and_then(|dir| dir.file_name()?.to_str()?.parse().ok());
            machine.is_some_and(|machine: MachineName| directories.contains_key(&machine))
        });
    }
}

/// A look at one running machine.
struct Look<'a> {
    paths: &'a Paths,
    machine: &'a MachineName,
    record: &'a Record,
    leader: Option<u32>,
    staged: &'a BTreeMap<Digest, FileId>,
    now: Timestamp,
}

impl Look<'_> {
    fn drift(&self, known: &mut Known, seen: &Seen) -> Result<Vec<Drift>, FileError> {
        let settings = &self.record.spec.config.settings;
        let edited = known.units.edited(self.machine, settings, seen, self.now)?;
        let mut drift: Vec<Drift> = edited.iter().map(|path| Drift::Unit(text(path))).collect();
        let made = known.made.entry(self.machine.clone()).or_default();
        let Some(manifest) = made.manifest(self) else { return Ok(drift) };
        let (changed, mut lost) = made.compare(self, &manifest);
        drift.extend(changed.into_iter().map(Drift::File));
        // What can't be started again just now is not stopped.
        if let Some(file) = self.staged.get(&self.record.spec.config.image.digest) {
            lost.extend(made.gone(self, &manifest));
            drift.extend(lost.into_iter().map(Drift::Mount));
            if manifest.image.is_some_and(|image| image != *file) {
                drift.push(Drift::Image);
            }
        }
        drift.sort();
        drift.dedup();
        Ok(drift)
    }
}

impl Made {
    fn manifest(&mut self, look: &Look<'_>) -> Option<Arc<Manifest>> {
        let before = self.manifest.as_ref().and_then(|known| known.value().clone());
        let find = || {
            let found = Manifest::find(look.paths, look.machine).map(Arc::new);
            // The same again must not cost reading everything again.
            let same = before.as_ref().filter(|before| Some(*before) == found.as_ref());
            Ok::<_, std::convert::Infallible>(same.cloned().or(found))
        };
        let path = look.paths.manifest(look.machine);
        let Ok(read) = Remembered::read(self.manifest.take(), &path, look.now, find);
        let found = read.value().clone();
        self.manifest = Some(read);
        let same = before.zip(found.clone()).is_some_and(|(a, b)| Arc::ptr_eq(&a, &b));
        if !same {
            (self.files, self.gone, self.complete) = (Shelf::default(), BTreeMap::new(), None);
        }
        found
    }

    /// The files that were changed, and those that the container has and nobody can write to any
    /// more.
    fn compare(
        &mut self,
        look: &Look<'_>,
        manifest: &Manifest,
    ) -> (Vec<InstancePath>, Vec<InstancePath>) {
        let dir = look.paths.rendered(look.machine);
        let (mut changed, mut replaced) = (Vec::new(), Vec::new());
        for file in &manifest.files {
            let compare = || Ok::<_, std::convert::Infallible>(file.compare(&dir));
            let Ok(found) = self.files.get(&dir.join(&file.name), look.now, compare);
            match found {
                Found::AsMade => {}
                Found::Changed => changed.push(file.path.clone()),
                Found::Replaced => replaced.push(file.path.clone()),
            }
        }
        (changed, replaced)
    }

    /// The mounts that have been gone for a while.
    fn gone(&mut self, look: &Look<'_>, manifest: &Manifest) -> Vec<InstancePath> {
        // Who has ended is not asked; who can't be asked has nothing missing.
        let Some(leader) = look.leader else { return Vec::new() };
        let is_young = |at: Timestamp| look.now >= at && look.now.since(at) < BELIEVED;
        if self.complete.is_some_and(|(of, at)| of == leader && is_young(at)) {
            return Vec::new();
        }
        let places = manifest.mounts.iter().map(|mount| mount.at.as_path());
        let missing = mountinfo::missing(leader, &look.machine.unit(), places);
        let Some(missing) = missing else { return Vec::new() };
        self.complete = missing.is_empty().then_some((leader, look.now));
        let missing = manifest.mounts.iter().filter(|mount| missing.contains(mount.at.as_path()));
        // A clock that was set back makes nothing last longer.
        let since =
            |path: &InstancePath| self.gone.get(path).map_or(look.now, |at| look.now.min(*at));
        self.gone = missing.map(|mount| (mount.path.clone(), since(&mount.path))).collect();
        let long = self.gone.iter().filter(|(_, since)| look.now.since(**since) >= GONE_FOR);
        long.map(|(path, _)| path.clone()).collect()
    }
}
