//! The real host.

use std::collections::BTreeSet;
use std::time::Instant;

use async_trait::async_trait;
use shoal_core::image::Digest;
use shoal_core::name::{HostName, MachineName};
use shoal_core::plan::{Action, Machine, Unit};
use shoal_core::policy::Isolation;
use shoal_core::spec::InstanceSpec;
use shoal_core::status::RetainedData;
use shoal_core::uidrange;
use tokio::sync::Notify;
use tracing::debug;

use super::machines::{Directories, Directory, Machines};
use super::probe::Probe;
use super::runs::Runs;
use super::systemd::units::{FoundUnit, Units};
use super::systemd::{self, Systemd};
use super::{Details, Host, HostError, Observation, clean, journal, mount, probe, volume};
use crate::files::{make_private_dir, names, remove_tree};
use crate::paths::Paths;
use crate::record::Record;

/// The host that the agent runs on.
#[derive(Debug)]
pub struct RealHost {
    paths: Paths,
    systemd: Systemd,
    units: Units,
    machines: Machines,
    name: HostName,
    isolation: Isolation,
}

impl RealHost {
    /// For the host called `name`, whose instances are kept apart by `isolation`.
    #[must_use]
    pub fn new(paths: Paths, systemd: Systemd, name: HostName, isolation: Isolation) -> Self {
        let (units, machines) = (Units::new(systemd.clone()), Machines::new(paths.clone()));
        Self { paths, systemd, units, machines, name, isolation }
    }

    /// Rings `bell` at every change of an instance's unit, until the bus goes away. Without this
    /// everything is read anew at every observation.
    ///
    /// # Errors
    /// Where systemd can't be listened to.
    pub async fn watch(&self, bell: &Notify) -> Result<(), HostError> {
        self.units.watch(bell).await
    }

    /// What a program that is run for a check gets: the environment of its instance.
    fn environment(&self, probe: &Probe) -> Vec<(String, String)> {
        let machine = systemd::machine_of_unit(&probe.container.unit);
        let machine = machine.filter(|_| !probe.checks.exec.is_empty());
        let record = machine.and_then(|machine| Record::find(&self.paths, &machine).ok()?);
        let env = record.map(|record| record.spec.config.settings.env).unwrap_or_default();
        env.into_iter().map(|(name, value)| (name.to_string(), value)).collect()
    }

    fn images(&self) -> Result<BTreeSet<Digest>, HostError> {
        let listing = shoal_image::list(&self.paths.images())?;
        Ok(listing.complete.iter().map(|file| Digest::from(*file.sum.as_bytes())).collect())
    }

    fn write(&self, spec: &InstanceSpec) -> Result<(), HostError> {
        let machine = spec.id.machine();
        make_private_dir(&self.paths.instance(&machine))?;
        for (name, wanted) in &spec.config.settings.data {
            volume::make(&self.paths, &machine, name, wanted)?;
        }
        let directories = self.machines.look()?;
        let mut taken = BTreeSet::new();
        for (machine, directory) in &directories {
            let record = directory.record().map_err(|why| {
                // Its user numbers are not known, and must not be given to another.
                HostError::Unreadable { machine: machine.clone(), why: why.clone() }
            })?;
            taken.extend(record.and_then(|record| record.uid_base));
        }
        let before = directories.get(&machine).and_then(|found| found.record().ok().flatten());
        let base = match before.and_then(|record| record.uid_base) {
            Some(base) => base,
            None => uidrange::choose(&machine, &taken).ok_or(HostError::NoUserNumbers)?,
        };
        let id = before.map_or_else(new_machine_id, |record| record.machine_id.clone());
        let record = Record::new(self.name.clone(), spec.clone(), self.isolation, base, id);
        self.note(&machine, Runs::begin_anew);
        Ok(record.save(&self.paths)?)
    }

    /// Changes the note of a machine's runs. One that can't be written is no reason not to act.
    fn note(&self, machine: &MachineName, change: impl FnOnce(&mut Runs)) {
        if let Err(error) = Runs::note(&self.paths, machine, change) {
            debug!(%machine, error = %crate::chain(&error), "cannot note what becomes of a run");
        }
    }

    /// Takes away all of a machine but its data; its journal stays where there is data, since it
    /// may tell how that came to be.
    fn remove(&self, machine: &MachineName) -> Result<(), HostError> {
        clean::clean(&self.paths, machine)?;
        // The record goes last: until then the machine is still seen, and removed again.
        for file in [Runs::path(&self.paths, machine), self.paths.record(machine)] {
            match std::fs::remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(crate::files::failed("remove", &file)(error).into());
                }
                _ => {}
            }
        }
        if names(&self.paths.data(machine))?.is_empty() {
            remove_tree(&self.paths.instance(machine))?;
        }
        Ok(())
    }
}

fn new_machine_id() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the machines' directories tell.
fn recorded(directories: &Directories, enabled: &BTreeSet<MachineName>) -> Observation {
    let mut observation = Observation::default();
    for (machine, directory) in directories {
        let volumes = directory.volumes().to_vec();
        if !volumes.is_empty() {
            observation.volumes.push(RetainedData { machine: machine.clone(), volumes });
        }
        match directory.record() {
            Ok(None) => {}
            Ok(Some(record)) => {
                let applied = Some(record.applied());
                let enabled = enabled.contains(machine);
                let found = Machine { applied, enabled, ..Machine::default() };
                observation.observed.machines.insert(machine.clone(), found);
                observation.details.insert(machine.clone(), noted(record, directory));
            }
            Err(why) => drop(observation.observed.unreadable.insert(machine.clone(), why.clone())),
        }
    }
    observation
}

fn noted(record: &Record, directory: &Directory) -> Details {
    let runs = directory.runs();
    Details {
        restarts: runs.restarts,
        last_exit: runs.last_exit.clone(),
        uid_base: record.uid_base,
        ..Details::default()
    }
}

/// Adds what systemd tells of a machine.
fn note_unit(observation: &mut Observation, found: FoundUnit, enabled: &BTreeSet<MachineName>) {
    let FoundUnit { machine, unit, details } = found;
    let down = matches!(unit, Unit::Inactive | Unit::Failed);
    let machines = &mut observation.observed.machines;
    if !machines.contains_key(&machine) && down {
        return;
    }
    let enabled = enabled.contains(&machine);
    let unrecorded = || Machine { enabled, ..Machine::default() };
    machines.entry(machine.clone()).or_insert_with(unrecorded).unit = unit;
    let noted = observation.details.remove(&machine).unwrap_or_default();
    let Details { restarts, last_exit, uid_base, .. } = noted;
    let details = Details { restarts, last_exit, uid_base, ..details };
    observation.details.insert(machine, details);
}

#[async_trait]
impl Host for RealHost {
    async fn observe(&self) -> Result<Observation, HostError> {
        let began = Instant::now();
        let directories = self.machines.look()?;
        let enabled = systemd::enabled()?;
        let mut observation = recorded(&directories, &enabled);
        for found in self.units.all().await? {
            note_unit(&mut observation, found, &enabled);
        }
        observation.observed.mounts = mount::mounted_images(&self.paths)?.into_iter().collect();
        observation.observed.images = self.images()?;
        let took_ms = began.elapsed().as_millis();
        debug!(took_ms, machines = observation.observed.machines.len(), "observed the host");
        Ok(observation)
    }

    async fn carry_out(&self, machine: &MachineName, action: &Action) -> Result<(), HostError> {
        match action {
            Action::Write(spec) => self.write(spec),
            Action::Enable => self.systemd.enable(machine).await,
            Action::Disable => self.systemd.disable(machine).await,
            Action::Start => self.systemd.start(machine).await,
            Action::Stop => {
                self.note(machine, Runs::stop);
                self.systemd.stop(machine).await
            }
            Action::Remove => {
                self.remove(machine)?;
                self.systemd.forget(machine).await;
                Ok(())
            }
            Action::Unmount(digest) => self.unmount(digest).await,
            // Transfers are the stager's.
            Action::Stage(_) => Ok(()),
        }
    }

    async fn unmount(&self, digest: &Digest) -> Result<(), HostError> {
        Ok(mount::unmount_image(&self.paths, digest)?)
    }

    async fn check(&self, wanted: &Probe) -> Result<(), String> {
        probe::check(wanted, &self.environment(wanted)).await
    }

    async fn last_words(&self, machine: &MachineName) -> Option<String> {
        let query = journal::Query { machine: machine.clone(), lines: 20, follow: false };
        let mut entries = journal::read_unit(&query).ok()?;
        let mut last = None;
        while let Some(entry) = entries.recv().await {
            if entry.source != "systemd" && !entry.message.trim().is_empty() {
                last = Some(entry.message);
            }
        }
        last
    }
}
