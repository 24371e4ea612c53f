//! The machines' directories under `instances/`: what they hold, read again only where it changed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use shoal_core::hooks::Past;
use shoal_core::name::{MachineName, VolumeName};

use super::runs::Runs;
use super::stamp::Remembered;
use super::volume;
use crate::clock;
use crate::files::{FileError, names};
use crate::paths::Paths;
use crate::record::Record;

/// What one machine's directory holds.
#[derive(Debug, Clone)]
pub struct Directory {
    record: Result<Remembered<Option<Arc<Record>>>, String>,
    runs: Remembered<Runs>,
    volumes: Remembered<Vec<VolumeName>>,
    hooks: Remembered<Past>,
}

impl Directory {
    /// Its record; `None` where there is none.
    ///
    /// # Errors
    /// Where there is one that can't be read, for people.
    pub fn record(&self) -> Result<Option<&Record>, &String> {
        self.record.as_ref().map(|record| record.value().as_deref())
    }

    /// How its container has been started and has ended.
    #[must_use]
    pub fn runs(&self) -> &Runs {
        self.runs.value()
    }

    /// What is remembered of its hooks; nothing where that can't be read, which a start tells.
    #[must_use]
    pub fn hooks(&self) -> &Past {
        self.hooks.value()
    }

    /// Its data volumes.
    #[must_use]
    pub fn volumes(&self) -> &[VolumeName] {
        self.volumes.value()
    }

    /// One that was just given `record`.
    fn written(before: Option<Self>, record: Record) -> Self {
        let record = Ok(Remembered::unsettled(Some(Arc::new(record))));
        match before {
            Some(before) => Self { record, ..before },
            None => Self {
                record,
                runs: Remembered::unsettled(Runs::default()),
                volumes: Remembered::unsettled(Vec::new()),
                hooks: Remembered::unsettled(Past::default()),
            },
        }
    }

    fn read(before: Option<Self>, paths: &Paths, machine: &MachineName) -> Result<Self, FileError> {
        let (record, runs, volumes, hooks) = match before {
            Some(Self { record, runs, volumes, hooks }) => {
                (record.ok(), Some(runs), Some(volumes), Some(hooks))
            }
            None => (None, None, None, None),
        };
        let now = clock::now();
        let find = || Record::find(paths, machine).map(|found| found.map(Arc::new));
        let record = Remembered::read(record, &paths.record(machine), now, find);
        let list = || volume::of(paths, machine);
        let load = || Ok(Runs::load(paths, machine));
        let past = || Ok(super::hooks::load(paths, machine).unwrap_or_default());
        Ok(Self {
            record: record.map_err(|error| crate::chain(&error)),
            runs: Remembered::read(runs, &Runs::path(paths, machine), now, load)?,
            volumes: Remembered::read(volumes, &paths.data(machine), now, list)?,
            hooks: Remembered::read(hooks, &super::hooks::path(paths, machine), now, past)?,
        })
    }
}

/// All machines that have a directory.
pub type Directories = BTreeMap<MachineName, Directory>;

/// Reads the directories and remembers what they held.
#[derive(Debug)]
pub struct Machines {
    paths: Paths,
    known: Mutex<Directories>,
}

impl Machines {
    /// Nothing read yet.
    #[must_use]
    pub fn new(paths: Paths) -> Self {
        Self { paths, known: Mutex::default() }
    }

    /// What is there now.
    ///
    /// # Errors
    /// Where the directory of them all can't be read.
    pub fn look(&self) -> Result<Directories, FileError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *known);
        for name in names(&self.paths.instances())? {
            let Ok(machine) = name.parse::<MachineName>() else { continue };
            let directory = Directory::read(before.remove(&machine), &self.paths, &machine)?;
            known.insert(machine, directory);
        }
        Ok(known.clone())
    }

    /// What the last look found, with what was written since.
    ///
    /// # Errors
    /// Where there was none yet, and the directory of them all can't be read.
    pub fn last(&self) -> Result<Directories, FileError> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if known.is_empty() { self.look() } else { Ok(known) }
    }

    /// Notes the record that was just written for a machine, until the next look.
    pub fn wrote(&self, machine: &MachineName, record: Record) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let written = Directory::written(known.remove(machine), record);
        known.insert(machine.clone(), written);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_core::policy::Isolation;
    use std::fs;

    #[test]
    fn every_look_shows_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { state: dir.path().into(), ..Paths::default() };
        let machines = Machines::new(paths.clone());
        assert!(machines.look().unwrap().is_empty());
        let machine: MachineName = "shop-main".parse().unwrap();
        fs::create_dir_all(paths.data(&machine).join("var")).unwrap();
        fs::create_dir_all(paths.data(&machine).join(".half.new")).unwrap();
        fs::create_dir_all(paths.instances().join("No Machine")).unwrap();
        let found = machines.look().unwrap();
        assert_eq!(found.keys().collect::<Vec<_>>(), [&machine]);
        assert_eq!(found[&machine].volumes(), ["var".parse().unwrap()]);
        assert_eq!(found[&machine].record(), Ok(None));

        fs::write(paths.record(&machine), "{").unwrap();
        Runs::note(&paths, &machine, |runs| runs.restarts = 3).unwrap();
        let found = machines.look().unwrap();
        let why = found[&machine].record().unwrap_err();
        assert!(why.contains("instance.json") && why.contains("damaged"), "{why}");
        assert_eq!(found[&machine].runs().restarts, 3);

        fs::remove_dir_all(paths.instance(&machine)).unwrap();
        assert!(machines.look().unwrap().is_empty());
    }

    #[test]
    fn what_was_written_is_known_without_a_look_and_the_disk_has_the_last_word() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { state: dir.path().into(), ..Paths::default() };
        let machines = Machines::new(paths.clone());
        let spec = serde_json::json!({
            "id": "shop/main", "revision": 1, "run": "running", "restarts": 0,
            "config": {
                "image": {"reference": "app:1", "digest": "07".repeat(32), "size": 1},
                "settings": {"start": "boot", "network": "host"},
            },
        });
        let (host, spec) = ("h1".parse().unwrap(), serde_json::from_value(spec).unwrap());
        let record = Record::new(host, spec, None, Isolation::Shared, 524_288, "0".repeat(32));
        let machine = record.spec.id.machine();
        fs::create_dir_all(paths.data(&machine).join("var")).unwrap();
        assert_eq!(machines.last().unwrap()[&machine].record(), Ok(None));
        machines.wrote(&machine, record.clone());
        let known = machines.last().unwrap();
        assert_eq!(known[&machine].record(), Ok(Some(&record)));
        assert_eq!(known[&machine].volumes(), ["var".parse().unwrap()]);
        assert_eq!(machines.look().unwrap()[&machine].record(), Ok(None), "it is not on the disk");
    }
}
