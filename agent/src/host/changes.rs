//! What the real host does to a machine's files: its record, its unit, its names, its rendered
//! files. Starting, stopping and observing are in [`super::real`].
//!
//! A record tells of the container that runs. So it is written while the unit is down, or last,
//! when the running container has been brought to it; being killed anywhere before has it done
//! again.

use std::collections::{BTreeMap, BTreeSet};

use shoal_core::name::{InfraVersion, MachineName};
use shoal_core::policy::Isolation;
use shoal_core::secret::Credentials;
use shoal_core::spec::{InstanceSpec, Settings, UnitName};
use shoal_core::uidrange;
use tracing::{debug, info};

use super::container::credentials;
use super::container::rendered::{put, rendered, uses_secrets};
use super::enter::Container;
use super::manifest::Manifest;
use super::real::RealHost;
use super::runs::Runs;
use super::{HostError, clean, names, reload, volume};
use crate::files::{self, make_private_dir, remove_tree};
use crate::record::Record;

impl RealHost {
    pub(super) async fn write(
        &self,
        spec: &InstanceSpec,
        infra: Option<&InfraVersion>,
    ) -> Result<(), HostError> {
        let machine = spec.id.machine();
        let isolation = self.isolation(spec)?;
        make_private_dir(&self.paths.instance(&machine))?;
        for (name, wanted) in &spec.config.settings.data {
            volume::make(&self.paths, &machine, name, wanted)?;
        }
        let record = self.new_record(spec, infra, isolation)?;
        names::prepare(&self.paths, &machine, &record)?;
        self.note(&machine, Runs::begin_anew);
        record.save(&self.paths)?;
        self.machines.wrote(&machine, record);
        self.configure(&machine, &spec.config.settings).await
    }

    /// A record for `spec`, with the numbers that its machine has had before.
    fn new_record(
        &self,
        spec: &InstanceSpec,
        infra: Option<&InfraVersion>,
        isolation: Isolation,
    ) -> Result<Record, HostError> {
        let machine = spec.id.machine();
        // Only the agent writes records, and the pass that this is a step of has looked at them all:
        // to look again for each of a hundred would be to read them a hundred times.
        let directories = self.machines.last()?;
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
        let (host, infra) = (self.name.clone(), infra.cloned());
        Ok(Record::new(host, spec.clone(), infra, isolation, base, id))
    }

    /// How the container is kept apart. Asked again here, where it counts.
    fn isolation(&self, spec: &InstanceSpec) -> Result<Isolation, HostError> {
        let permitted = self.facts.policy.permits(&spec.config.settings, &self.facts);
        permitted.map_err(|refused| {
            let reasons: Vec<String> = refused.iter().map(ToString::to_string).collect();
            HostError::Refused(reasons.join("; "))
        })
    }

    /// Brings the running container of `machine` to `spec`.
    pub(super) async fn refresh(
        &self,
        machine: &MachineName,
        spec: &InstanceSpec,
        units: &BTreeSet<UnitName>,
    ) -> Result<(), HostError> {
        let before = Record::load(&self.paths, machine)?;
        self.isolation(spec)?;
        let record = before.brought_to(spec.clone());
        let secrets = self.secrets_for_files(&spec.config.settings).await?;
        let manifest = self.put_files(machine, &record, &secrets)?;
        self.configure(machine, &spec.config.settings).await?;
        if !units.is_empty() {
            let leader = self.systemd.leader(machine).await;
            let leader = leader.ok_or_else(|| HostError::Ended { machine: machine.clone() })?;
            let container = Container { leader, unit: machine.unit() };
            for unit in units {
                reload::reload(&container, &spec.id, unit).await?;
                info!(instance = %spec.id, unit = %unit, "a unit inside has read its files again");
            }
        }
        // Until here the files differ from what is known of them: whatever is wanted next, what a
        // failed reload left behind is seen, and put right.
        manifest.save(&self.paths, machine)?;
        Ok(record.save(&self.paths)?)
    }

    /// The secrets that rendering an instance's files takes: none, where no file has one, since
    /// opening them is dear.
    async fn secrets_for_files(&self, settings: &Settings) -> Result<Credentials, HostError> {
        if !uses_secrets(settings) {
            return Ok(Credentials::new());
        }
        let (paths, settings) = (self.paths.clone(), settings.clone());
        let opened = tokio::task::spawn_blocking(move || credentials::open(&paths, &settings));
        Ok(opened.await.expect("opening secrets does not panic")?)
    }

    /// Writes all files of a running container where they are, and gives what is to be known of
    /// them once they are read.
    fn put_files(
        &self,
        machine: &MachineName,
        record: &Record,
        secrets: &Credentials,
    ) -> Result<Manifest, HostError> {
        // All render, or none is written.
        let rendered = rendered(record, secrets)?;
        let mut manifest = Manifest::find(&self.paths, machine).unwrap_or_default();
        let had: BTreeMap<String, u64> =
            manifest.files.iter().map(|file| (file.name.clone(), file.inode)).collect();
        let mut made = put(&self.paths.rendered(machine), &rendered)?;
        for file in &mut made {
            // One that is not the file that the container has stays known as that.
            file.inode = *had.get(&file.name).unwrap_or(&file.inode);
        }
        manifest.files = made;
        Ok(manifest)
    }

    /// Has systemd leave a machine alone, or not any more.
    pub(super) async fn set_hands(&self, machine: &MachineName, on: bool) -> Result<(), HostError> {
        if on {
            self.unit_files.hands_on(machine)?;
        } else {
            self.unit_files.hands_off(machine)?;
        }
        self.reload_units().await
    }

    /// Puts a machine's unit right, as its record has it.
    pub(super) async fn configure_recorded(&self, machine: &MachineName) -> Result<(), HostError> {
        let Some(record) = Record::find(&self.paths, machine)? else { return Ok(()) };
        self.configure(machine, &record.spec.config.settings).await
    }

    async fn configure(&self, machine: &MachineName, settings: &Settings) -> Result<(), HostError> {
        self.unit_files.put_right(machine, settings)?;
        self.reload_units().await
    }

    async fn reload_units(&self) -> Result<(), HostError> {
        let reload = async || {
            debug!("systemd reads its unit files again");
            self.systemd.reload().await
        };
        self.reread.settle(reload).await
    }

    /// Writes a machine's names of other instances.
    pub(super) fn write_names(
        &self,
        machine: &MachineName,
        content: &str,
    ) -> Result<(), HostError> {
        let record = Record::load(&self.paths, machine)?;
        Ok(names::write(&self.paths, &record, content)?)
    }

    /// Changes the note of a machine's runs. One that can't be written is no reason not to act.
    pub(super) fn note(&self, machine: &MachineName, change: impl FnOnce(&mut Runs)) {
        if let Err(error) = Runs::note(&self.paths, machine, change) {
            debug!(%machine, error = %crate::chain(&error), "cannot note what becomes of a run");
        }
    }

    /// Takes away all of a machine but its data; its journal stays where there is data, since it
    /// may tell how that came to be.
    pub(super) async fn remove(&self, machine: &MachineName) -> Result<(), HostError> {
        clean::clean(&self.paths, machine)?;
        self.unit_files.remove(machine)?;
        self.reload_units().await?;
        // The record goes last: until then the machine is still seen, and removed again.
        let (runs, hosts) = (Runs::path(&self.paths, machine), self.paths.hosts(machine));
        for file in [runs, hosts, self.paths.record(machine)] {
            files::remove_file(&file)?;
        }
        // What is remembered of hooks is of the data, and goes where that does.
        if files::names(&self.paths.data(machine))?.is_empty() {
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
