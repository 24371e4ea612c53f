//! The real host.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use shoal_core::image::Digest;
use shoal_core::name::{HostName, MachineName};
use shoal_core::plan::{Action, Attempts, Machine, Observed, Unit};
use shoal_core::policy::Isolation;
use shoal_core::spec::InstanceSpec;
use shoal_core::uidrange;

use super::probe::Probe;
use super::systemd::{Systemd, is_enabled};
use super::{Host, HostError, Observation, clean, journal, mount, probe, volume};
use crate::files::{make_private_dir, names, remove_tree};
use crate::paths::Paths;
use crate::record::Record;

/// Machines whose record can't be read, with the reason.
type Unreadable = BTreeMap<MachineName, String>;

/// The host that the agent runs on.
#[derive(Debug)]
pub struct RealHost {
    paths: Paths,
    systemd: Systemd,
    name: HostName,
    isolation: Isolation,
}

impl RealHost {
    /// For the host called `name`, whose instances are kept apart by `isolation`.
    #[must_use]
    pub fn new(paths: Paths, systemd: Systemd, name: HostName, isolation: Isolation) -> Self {
        Self { paths, systemd, name, isolation }
    }

    /// Records of all machines, and those that could not be read, with the reason.
    fn records(&self) -> Result<(BTreeMap<MachineName, Record>, Unreadable), HostError> {
        let (mut records, mut unreadable) = (BTreeMap::new(), BTreeMap::new());
        for name in names(&self.paths.instances())? {
            let Ok(machine) = name.parse::<MachineName>() else { continue };
            match Record::find(&self.paths, &machine) {
                Ok(Some(record)) => drop(records.insert(machine, record)),
                Ok(None) => {}
                Err(error) => drop(unreadable.insert(machine, crate::chain(&error))),
            }
        }
        Ok((records, unreadable))
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
        let (records, unreadable) = self.records()?;
        if let Some((machine, why)) = unreadable.into_iter().next() {
            // Its user numbers are not known, and must not be given to another.
            return Err(HostError::Unreadable { machine, why });
        }
        let before = records.get(&machine);
        let base = match before.and_then(|record| record.uid_base) {
            Some(base) => base,
            None => {
                let taken = records.values().filter_map(|record| record.uid_base).collect();
                uidrange::choose(&machine, &taken).ok_or(HostError::NoUserNumbers)?
            }
        };
        let id = before.map_or_else(new_machine_id, |record| record.machine_id.clone());
        let record = Record::new(self.name.clone(), spec.clone(), self.isolation, base, id);
        Ok(record.save(&self.paths)?)
    }

    /// Takes away all of a machine but its data; its journal stays where there is data, since it
    /// may tell how that came to be.
    fn remove(&self, machine: &MachineName) -> Result<(), HostError> {
        clean::clean(&self.paths, machine)?;
        // The record goes last: until then the machine is still seen, and removed again.
        let record = self.paths.record(machine);
        match std::fs::remove_file(&record) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(crate::files::failed("remove", &record)(error).into());
            }
            _ => {}
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

#[async_trait]
impl Host for RealHost {
    async fn observe(&self) -> Result<Observation, HostError> {
        let (records, unreadable) = self.records()?;
        let mut machines: BTreeMap<MachineName, Machine> = BTreeMap::new();
        let mut details = BTreeMap::new();
        for (machine, record) in &records {
            let (applied, enabled) = (Some(record.applied()), is_enabled(machine));
            let (unit, attempts) = (Unit::Inactive, Attempts::default());
            machines.insert(machine.clone(), Machine { applied, unit, enabled, attempts });
        }
        for found in self.systemd.units().await? {
            let down = matches!(found.unit, Unit::Inactive | Unit::Failed);
            let record = records.get(&found.machine);
            if record.is_none() && down {
                continue;
            }
            let machine = machines.entry(found.machine.clone()).or_insert_with(|| Machine {
                applied: None,
                unit: Unit::Inactive,
                enabled: is_enabled(&found.machine),
                attempts: Attempts::default(),
            });
            machine.unit = found.unit;
            let uid_base = record.and_then(|record| record.uid_base);
            details.insert(found.machine, super::Details { uid_base, ..found.details });
        }
        let mounts = mount::mounted_images(&self.paths)?.into_iter().collect();
        let observed = Observed { machines, unreadable, images: self.images()?, mounts };
        let volumes = volume::list(&self.paths)?;
        Ok(Observation { observed, details, volumes })
    }

    async fn carry_out(&self, machine: &MachineName, action: &Action) -> Result<(), HostError> {
        match action {
            Action::Write(spec) => self.write(spec),
            Action::Enable => self.systemd.enable(machine).await,
            Action::Disable => self.systemd.disable(machine).await,
            Action::Start => self.systemd.start(machine).await,
            Action::Stop => self.systemd.stop(machine).await,
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
        probe::check(wanted).await
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
