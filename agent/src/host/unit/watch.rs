//! Whether the unit files are as they should be, and what others have put beside them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use shoal_core::name::MachineName;
use shoal_core::spec::Settings;
use shoal_core::time::Timestamp;

use super::{TEMPLATE, TEMPLATE_NAME, UnitFiles, drop_in, is_mask, reread};
use crate::files::{FileError, names, read_if_there};
use crate::host::shelf::Shelf;
use crate::host::systemd::machine_of_unit;
use crate::paths::text;

/// Looks at unit files, and remembers those that did not change.
#[derive(Debug)]
pub struct UnitWatch {
    files: UnitFiles,
    directories: Shelf<Vec<String>>,
    texts: Shelf<Option<Vec<u8>>>,
}

/// What one look found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// What is not as it should be for every machine.
    general: Vec<PathBuf>,
    masked: BTreeMap<MachineName, Vec<PathBuf>>,
    /// Machines that systemd leaves down when they end, as it knows.
    pub hands_off: BTreeSet<MachineName>,
    /// What is not Shoal's and changes how instances run, for people.
    pub foreign: Vec<String>,
}

impl UnitWatch {
    /// Of these files.
    #[must_use]
    pub fn new(files: UnitFiles) -> Self {
        Self { files, directories: Shelf::default(), texts: Shelf::default() }
    }

    /// Looks at all that is not one machine's.
    ///
    /// # Errors
    /// Where a directory of units can't be read.
    pub fn look(&mut self, now: Timestamp) -> Result<Seen, FileError> {
        let mut seen = Seen::default();
        let template = self.files.template();
        if self.text(&template, now)?.as_deref() != Some(TEMPLATE.as_bytes()) {
            seen.general.push(template.clone());
        }
        if reread::is_owed(&self.files.mark) {
            // It is right by now, but systemd goes by what it was.
            seen.general.push(template);
        }
        for place in self.files.places().collect::<Vec<_>>() {
            let entries = self.directories.get(&place, now, || names(&place))?;
            let ours = entries.iter().filter(|name| name.starts_with("shoal-"));
            for name in ours.cloned().collect::<Vec<_>>() {
                self.look_at(&place.join(&name), &name, now, &mut seen)?;
            }
        }
        seen.general.dedup();
        if reread::is_owed(&self.files.mark) {
            seen.hands_off.clear();
        }
        Ok(seen)
    }

    fn look_at(
        &mut self,
        path: &Path,
        name: &str,
        now: Timestamp,
        seen: &mut Seen,
    ) -> Result<(), FileError> {
        if let Some(machine) = machine_of_unit(name) {
            if is_mask(path) {
                seen.masked.entry(machine).or_default().push(path.to_owned());
            } else {
                seen.foreign.push(foreign(path, &machine.unit()));
            }
        }
        let Some(unit) = name.strip_suffix(".d").filter(|unit| is_about_instances(unit)) else {
            return Ok(());
        };
        let machine = machine_of_unit(unit);
        let inside = self.directories.get(path, now, || names(path))?;
        for file in inside.iter().filter(|name| name.ends_with(".conf")) {
            let file = path.join(file);
            match &machine {
                Some(machine) if file == self.files.drop_in(machine) => {}
                Some(machine) if file == self.files.hands_off_drop_in(machine) => {
                    seen.hands_off.insert(machine.clone());
                }
                _ => seen.foreign.push(foreign(&file, unit)),
            }
        }
        Ok(())
    }

    /// The unit files of a machine that are not as they should be.
    ///
    /// # Errors
    /// Where its drop-in can't be read.
    pub fn edited(
        &mut self,
        machine: &MachineName,
        settings: &Settings,
        seen: &Seen,
        now: Timestamp,
    ) -> Result<BTreeSet<PathBuf>, FileError> {
        let mut edited: BTreeSet<PathBuf> = seen.general.iter().cloned().collect();
        edited.extend(seen.masked.get(machine).into_iter().flatten().cloned());
        let path = self.files.drop_in(machine);
        let wanted = drop_in(settings).map(String::into_bytes);
        if *self.text(&path, now)? != wanted {
            edited.insert(path);
        }
        Ok(edited)
    }

    /// Forgets machines that are gone.
    pub fn retain(&mut self, machines: impl Fn(&MachineName) -> bool) {
        let about = |path: &Path| {
            let dir = path.parent()?.file_name()?.to_str()?.strip_suffix(".d")?;
            machine_of_unit(dir)
        };
        self.texts.retain(|path| about(path).is_none_or(|machine| machines(&machine)));
    }

    fn text(&mut self, path: &Path, now: Timestamp) -> Result<&Option<Vec<u8>>, FileError> {
        self.texts.get(path, now, || read_if_there(path))
    }
}

/// Whether drop-ins of this unit count for instances: those of the template, of one instance, and
/// of all units whose names begin like theirs.
fn is_about_instances(unit: &str) -> bool {
    unit == TEMPLATE_NAME || unit == "shoal-.service" || machine_of_unit(unit).is_some()
}

fn foreign(path: &Path, unit: &str) -> String {
    format!(
        "{} changes how {unit} runs and is not Shoal's; it is left alone: remove it, or say it in \
         the fleet file",
        text(path)
    )
}

#[cfg(test)]
mod tests {
    use super::super::tests::files;
    use super::*;
    use std::fs;

    fn settings(tasks: u64) -> Settings {
        let json = serde_json::json!({
            "start": "boot", "network": "host", "limits": {"tasks": tasks},
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn edits_masks_and_others_files_are_seen() {
        let dir = tempfile::tempdir().unwrap();
        let units = files(dir.path());
        let machine: MachineName = "shop-main".parse().unwrap();
        units.put_right(&machine, &settings(5)).unwrap();
        fs::remove_file(dir.path().join("mark")).unwrap();
        let mut watch = UnitWatch::new(units.clone());
        let now = crate::clock::now();
        let mut edited = |tasks| {
            let seen = watch.look(now).unwrap();
            (watch.edited(&machine, &settings(tasks), &seen, now).unwrap(), seen.foreign)
        };
        assert_eq!(edited(5), (BTreeSet::new(), vec![]));
        let drop_in = units.drop_in(&machine);
        assert_eq!(edited(6).0, [drop_in.clone()].into());

        fs::write(&drop_in, "[Service]\nTasksMax=7\n").unwrap();
        assert_eq!(edited(5).0, [drop_in.clone()].into());
        fs::remove_file(&drop_in).unwrap();
        assert_eq!(edited(5).0, [drop_in.clone()].into());
        units.put_right(&machine, &settings(5)).unwrap();
        assert_eq!(edited(5).0, [units.template()].into(), "systemd has not read it yet");
        fs::remove_file(dir.path().join("mark")).unwrap();

        fs::write(units.template(), "x").unwrap();
        let mask = units.template().with_file_name(machine.unit());
        std::os::unix::fs::symlink("/dev/null", &mask).unwrap();
        assert_eq!(edited(5).0, [units.template(), mask].into());
        units.put_right(&machine, &settings(5)).unwrap();
        fs::remove_file(dir.path().join("mark")).unwrap();

        units.hands_off(&machine).unwrap();
        let seen = |watch: &mut UnitWatch| watch.look(now).unwrap();
        assert_eq!(seen(&mut watch).hands_off, [].into(), "systemd has not read it yet");
        fs::remove_file(dir.path().join("mark")).unwrap();
        assert_eq!(seen(&mut watch).hands_off, [machine.clone()].into());
        assert_eq!(seen(&mut watch).foreign, [""; 0]);
        units.hands_on(&machine).unwrap();
        fs::remove_file(dir.path().join("mark")).unwrap();
        assert_eq!(seen(&mut watch).hands_off, [].into());

        fs::write(drop_in.with_file_name("local.conf"), "[Service]\nNice=5\n").unwrap();
        let control = dir.path().join("etc/systemd/system.control/shoal-instance@a-b.service.d");
        fs::create_dir_all(&control).unwrap();
        fs::write(control.join("50-MemoryMax.conf"), "").unwrap();
        let seen = watch.look(now).unwrap();
        let edited = watch.edited(&machine, &settings(5), &seen, now).unwrap();
        let foreign = seen.foreign;
        assert_eq!(edited, BTreeSet::new());
        assert_eq!(foreign.len(), 2, "{foreign:?}");
        assert!(foreign[0].contains("50-MemoryMax.conf") && foreign[1].contains("local.conf"));
    }
}
