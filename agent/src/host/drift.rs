//! What of a machine was changed by someone else. Reads only, and little where nothing changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use shoal_core::drift::Drift;
use shoal_core::image::Digest;
use shoal_core::name::MachineName;
use shoal_core::plan::{Machine, Unit};
use shoal_core::spec::InstancePath;
use shoal_core::time::Timestamp;

use super::machines::Directories;
use super::manifest::{FileId, Found, Manifest, Mounted};
use super::shelf::Shelf;
use super::stamp::Remembered;
use super::unit::UnitFiles;
use super::unit::watch::{Seen, UnitWatch};
use super::{Observation, mount, mountinfo, names};
use crate::clock;
use crate::files::FileError;
use crate::paths::{Paths, text};
use crate::record::Record;

/// How long a mount must have been gone to count: a system that shuts down or reboots from inside
/// unmounts everything first, and its container then ends by itself.
const GONE_FOR: Duration = Duration::from_secs(3);

/// How long a look at the mounts inside is believed, where none was missing. Nothing tells of a
/// change there, and looking is the dearest part of a pass over many containers at rest.
const BELIEVED: Duration = Duration::from_secs(30);

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
    /// Mounts that were seen, and by whose first process. One that never was is not gone: links in
    /// the image, or in a volume, may have led systemd-nspawn to another place.
    seen: Option<(u32, BTreeSet<InstancePath>)>,
    /// Files that were replaced, with since when: a container that ends has its files removed.
    replaced: BTreeMap<InstancePath, Timestamp>,
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
    /// of images that are complete and verified. What can't be looked at is a problem of the host,
    /// and nothing that differs.
    pub fn note(
        &self,
        observation: &mut Observation,
        directories: &Directories,
        staged: &BTreeMap<Digest, FileId>,
    ) {
        let now = clock::now();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = &mut *known;
        known.forget(directories);
        let Observation { observed, details, problems, .. } = observation;
        let seen = known.units.look(now).unwrap_or_else(|error| {
            problems.push(crate::chain(&error));
            Seen::default()
        });
        for (machine, found) in &mut observed.machines {
            let record = directories.get(machine).and_then(|found| found.record().ok().flatten());
            let Some(record) = record else { continue };
            let leader = details.get(machine).and_then(|details| details.leader);
            let look = Look { paths: &self.paths, machine, record, leader, staged, now };
            if let Err(error) = look.note(found, known, &seen) {
                problems.push(crate::chain(&error));
            }
        }
        problems.extend(seen.foreign);
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
    fn note(&self, found: &mut Machine, known: &mut Known, seen: &Seen) -> Result<(), FileError> {
        let hosts = self.paths.hosts(self.machine);
        let read = || names::find(self.paths, self.machine);
        found.names.clone_from(known.names.get(&hosts, self.now, read)?);
        found.hands_off = seen.hands_off.contains(self.machine);
        if found.unit == Unit::Active {
            found.drift = self.drift(known, seen)?;
        } else {
            known.made.remove(self.machine);
        }
        Ok(())
    }

    fn drift(&self, known: &mut Known, seen: &Seen) -> Result<Vec<Drift>, FileError> {
        let settings = &self.record.spec.config.settings;
        let edited = known.units.edited(self.machine, settings, seen, self.now)?;
        let mut drift: Vec<Drift> = edited.iter().map(|path| Drift::Unit(text(path))).collect();
        let made = known.made.entry(self.machine.clone()).or_default();
        let Some(manifest) = made.manifest(self) else { return Ok(drift) };
        let (changed, mut lost) = made.compare(self, &manifest);
        drift.extend(changed.into_iter().map(Drift::File));
        // What can't be started again just now is not stopped.
        let digest = &self.record.spec.config.image.digest;
        if let Some(file) = self.staged.get(digest) {
            lost.extend(made.gone(self, &manifest));
            drift.extend(lost.into_iter().map(Drift::Mount));
            // A file that was only removed, and came anew, is whole where it is still mounted.
            let whole = || mount::mounted_file(self.paths, digest);
            if manifest.image.is_some_and(|image| image != *file && whole() != Some(image)) {
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
            // What was known is of the start before, or of other files.
            let (manifest, seen) = (self.manifest.take(), self.seen.take());
            *self = Self { manifest, seen, ..Self::default() };
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
        (changed, outlasting(&mut self.replaced, replaced, look.now))
    }

    /// The mounts that have been gone for a while.
    fn gone(&mut self, look: &Look<'_>, manifest: &Manifest) -> Vec<InstancePath> {
        // Who has ended is not asked; who can't be asked has nothing missing.
        let Some(leader) = look.leader.filter(|_| !manifest.mounts.is_empty()) else {
            return Vec::new();
        };
        let is_young = |at: Timestamp| look.now >= at && look.now.since(at) < BELIEVED;
        if self.complete.is_some_and(|(of, at)| of == leader && is_young(at)) {
            return Vec::new();
        }
        let places = manifest.mounts.iter().map(|mount| mount.at.as_path());
        let missing = mountinfo::missing(leader, &look.machine.unit(), places);
        let Some(missing) = missing else { return Vec::new() };
        self.complete = missing.is_empty().then_some((leader, look.now));
        let (of, mut seen) = self.seen.take().unwrap_or_default();
        if of != leader {
            seen.clear();
        }
        let is_missing = |mount: &&Mounted| missing.contains(mount.at.as_path());
        let there = manifest.mounts.iter().filter(|mount| !is_missing(mount));
        seen.extend(there.map(|mount| mount.path.clone()));
        let missing = manifest.mounts.iter().filter(is_missing).map(|mount| mount.path.clone());
        let missing = missing.filter(|path| seen.contains(path)).collect();
        self.seen = Some((leader, seen));
        outlasting(&mut self.gone, missing, look.now)
    }
}

/// Of what is missing now, what has been for a while. `known` is what was missing before, with
/// since when.
fn outlasting(
    known: &mut BTreeMap<InstancePath, Timestamp>,
    missing: Vec<InstancePath>,
    now: Timestamp,
) -> Vec<InstancePath> {
    // A clock that was set back makes nothing last longer.
    let since = |path: &InstancePath| known.get(path).map_or(now, |at| now.min(*at));
    *known = missing.into_iter().map(|path| (path.clone(), since(&path))).collect();
    let long = known.iter().filter(|(_, since)| now.since(**since) >= GONE_FOR);
    long.map(|(path, _)| path.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::inplace::{self, Look as Appearance};
    use crate::host::machines::Machines;
    use crate::host::manifest::MadeFile;
    use shoal_core::policy::Isolation;
    use std::fs;

    struct World {
        _dir: tempfile::TempDir,
        paths: Paths,
        watch: Watch,
        machine: MachineName,
        image: Digest,
    }

    const FILE: FileId = FileId { device: 1, inode: 2 };

    /// A machine that was started with one file, and nothing wrong with it.
    fn world() -> World {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let paths = Paths { state: root.join("state"), run: root.join("run"), etc: root.into() };
        fs::create_dir_all(root.join("etc/systemd/system")).unwrap();
        let units = UnitFiles::new(root, paths.units_changed());
        fs::write(units.template(), crate::host::unit::TEMPLATE).unwrap();
        let spec = serde_json::from_value(serde_json::json!({
            "id": "shop/main", "revision": 1, "run": "running", "restarts": 0,
            "config": {
                "image": {"reference": "app:1", "digest": "07".repeat(32), "size": 1},
                "settings": {"start": "boot", "network": "host"},
            },
        }))
        .unwrap();
        let record =
            Record::new("h1".parse().unwrap(), spec, None, Isolation::Shared, 0, "0".repeat(32));
        let machine = record.spec.id.machine();
        fs::create_dir_all(paths.instance(&machine)).unwrap();
        record.save(&paths).unwrap();
        fs::create_dir_all(paths.rendered(&machine)).unwrap();
        let uid = rustix::process::getuid().as_raw();
        let gid = rustix::process::getgid().as_raw();
        let look = Appearance { mode: 0o644, uid, gid };
        let inode = inplace::write(&paths.rendered(&machine).join("0"), b"right", look).unwrap();
        let sha256 = Digest::from(*shoal_image::Sha256Sum::of(b"right").as_bytes());
        let path: InstancePath = "/etc/x".parse().unwrap();
        let files = vec![MadeFile { name: "0".into(), path, sha256, look, inode }];
        let mounts = vec![Mounted { path: "/data".parse().unwrap(), at: "/no/such/mount".into() }];
        Manifest { files, mounts, image: Some(FILE) }.save(&paths, &machine).unwrap();
        let watch = Watch::new(paths.clone(), units);
        World { _dir: dir, paths, watch, machine, image: Digest::from([7; 32]) }
    }

    impl World {
        fn look(&self, unit: Unit, staged: FileId) -> Machine {
            let directories = Machines::new(self.paths.clone()).look().unwrap();
            let mut observation = Observation::default();
            let found = Machine { unit, ..Machine::default() };
            observation.observed.machines.insert(self.machine.clone(), found);
            self.watch.note(&mut observation, &directories, &[(self.image, staged)].into());
            assert_eq!(observation.problems, [""; 0]);
            observation.observed.machines[&self.machine].clone()
        }

        fn drift(&self) -> Vec<String> {
            let found = self.look(Unit::Active, FILE);
            found.drift.iter().map(ToString::to_string).collect()
        }

        fn file(&self) -> std::path::PathBuf {
            self.paths.rendered(&self.machine).join("0")
        }
    }

    #[test]
    fn what_was_changed_is_named_and_what_runs_not_is_let_be() {
        let world = world();
        assert_eq!(world.drift(), [""; 0]);
        fs::write(world.file(), "wrong").unwrap();
        assert_eq!(world.drift(), ["file /etc/x was changed"]);
        assert_eq!(world.look(Unit::Failed, FILE).drift, []);
        fs::write(world.file(), "right").unwrap();
        assert_eq!(world.drift(), [""; 0]);
        fs::remove_file(world.file()).unwrap();
        assert_eq!(world.drift(), [""; 0], "a container that ends has its files removed");
    }

    #[test]
    fn an_image_that_came_anew_is_a_reason_to_restart() {
        let world = world();
        let other = FileId { inode: 3, ..FILE };
        assert_eq!(world.look(Unit::Active, other).drift, [Drift::Image]);
    }

    #[test]
    fn an_image_that_was_removed_and_came_anew_is_none_while_it_is_mounted() {
        let world = world();
        let note = world.paths.mounted_file(&world.image);
        fs::create_dir_all(note.parent().unwrap()).unwrap();
        let other = FileId { inode: 3, ..FILE };
        for (mounted, drift) in [(FILE, vec![]), (other, vec![Drift::Image])] {
            fs::write(&note, serde_json::to_vec(&mounted).unwrap()).unwrap();
            assert_eq!(world.look(Unit::Active, other).drift, drift);
        }
    }

    #[test]
    fn names_are_read_whatever_the_unit_does() {
        let world = world();
        assert_eq!(world.look(Unit::Inactive, FILE).names, None);
        fs::write(world.paths.hosts(&world.machine), "names").unwrap();
        assert_eq!(world.look(Unit::Inactive, FILE).names.as_deref(), Some("names"));
    }

    #[test]
    fn a_mount_must_be_gone_for_a_while() {
        let path = |text: &str| text.parse::<InstancePath>().unwrap();
        let mut gone = BTreeMap::new();
        let (now, both) = (Timestamp(1_000_000), vec![path("/a"), path("/b")]);
        let later = now.after(GONE_FOR);
        assert_eq!(outlasting(&mut gone, both.clone(), now), []);
        assert_eq!(outlasting(&mut gone, vec![path("/a")], now.after(GONE_FOR / 2)), []);
        assert_eq!(
            outlasting(&mut gone, both.clone(), later),
            [path("/a")],
            "/b was back meanwhile"
        );
        assert_eq!(outlasting(&mut gone, both.clone(), now), [], "the clock was set back");
        assert_eq!(outlasting(&mut gone, both.clone(), later), both);
    }

    #[test]
    fn who_cannot_be_asked_has_nothing_missing() {
        let world = world();
        let manifest = Manifest::find(&world.paths, &world.machine).unwrap();
        let record = Record::load(&world.paths, &world.machine).unwrap();
        let (paths, machine, staged) = (&world.paths, &world.machine, &BTreeMap::new());
        let now = Timestamp(1_000_000);
        // This very process, which is part of another unit.
        for leader in [None, Some(std::process::id())] {
            let look = Look { paths, machine, record: &record, leader, staged, now };
            let mut made = Made::default();
            assert_eq!(made.gone(&look, &manifest), []);
            assert!(made.gone.is_empty() && made.complete.is_none());
        }
    }
}
