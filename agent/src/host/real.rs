//! The real host.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use shoal_core::hooks::Failure;
use shoal_core::host::{HostFacts, HostSpec};
use shoal_core::image::Digest;
use shoal_core::name::{HostName, ImageName, MachineName};
use shoal_core::plan::{Action, Machine, Unit};
use shoal_core::secret::PinnedSecret;
use shoal_core::status::RetainedData;
use shoal_core::time::Timestamp;
use shoal_image::Sha256Sum;
use tokio::sync::Notify;
use tracing::debug;

use super::haste::Haste;
use super::infra::Infra;
use super::machines::{Directories, Directory, Machines};
use super::probe::Probe;
use super::runs::Runs;
use super::systemd::units::{FoundUnit, Units};
use super::systemd::{self, Systemd};
use super::unit::UnitFiles;
use super::unit::reread::Reread;
use super::{
    Details, Hook, Host, HostError, Observation, drift, hooks, insist, journal, mount, network,
    probe, room,
};
use crate::clock;
use crate::paths::Paths;
use crate::record::Record;
use crate::scrub;
use crate::secrets::Secrets;
use crate::stock::ImageStock;
use crate::trust::Signatures;
use crate::verified::{self, Images};

/// The host that the agent runs on.
#[derive(Debug)]
pub struct RealHost {
    pub(super) paths: Paths,
    pub(super) systemd: Systemd,
    pub(super) units: Units,
    pub(super) machines: Machines,
    pub(super) name: HostName,
    pub(super) facts: HostFacts,
    pub(super) unit_files: UnitFiles,
    pub(super) reread: Reread,
    haste: Haste,
    drift: drift::Watch,
    images: Arc<Images>,
    stock: ImageStock,
    secrets: Arc<Secrets>,
    infra: Infra,
    signatures: Signatures,
}

impl RealHost {
    /// For the host called `name`, of which `facts` are known, its policy among them.
    #[must_use]
    pub fn new(
        paths: Paths,
        systemd: Systemd,
        name: HostName,
        facts: HostFacts,
        secrets: Arc<Secrets>,
    ) -> Self {
        let (units, machines) = (Units::new(systemd.clone()), Machines::new(paths.clone()));
        let unit_files = UnitFiles::new("/", paths.units_changed());
        let drift = drift::Watch::new(paths.clone(), unit_files.clone());
        let images = Arc::new(Images::new(paths.images()));
        let infra = Infra::new(paths.clone());
        let stock = ImageStock::open(paths.images());
        let trust = facts.policy.trust.clone();
        let signatures = Signatures::new(paths.clone(), name.clone(), trust);
        let (reread, haste) = (Reread::new(paths.units_changed()), Haste::default());
        Self {
            paths,
            systemd,
            units,
            machines,
            name,
            facts,
            unit_files,
            reread,
            haste,
            drift,
            images,
            stock,
            secrets,
            infra,
            signatures,
        }
    }

    /// What makes starts and stops quick, for whoever knows before the loop that there will be some.
    #[must_use]
    pub fn haste(&self) -> Haste {
        self.haste.clone()
    }

    /// Reads image files again for as long as it is not dropped, so that damage is found; rings
    /// `bell` when some is.
    pub async fn scrub(&self, bell: &Notify) {
        scrub::run(&self.paths, &self.images, bell).await;
    }

    /// Rings `bell` at every change of an instance's unit, until the bus goes away. Without this
    /// everything is read anew at every observation.
    ///
    /// # Errors
    /// Where systemd can't be listened to.
    pub async fn watch(&self, bell: &Notify) -> Result<(), HostError> {
        self.units.watch(bell).await
    }

    /// Removes the file of an image that nothing uses.
    async fn discard(&self, digest: &Digest) -> Result<(), HostError> {
        let (paths, digest) = (self.paths.clone(), *digest);
        // It waits for whoever is mounting an image.
        let discarded = tokio::task::spawn_blocking(move || -> Result<(), HostError> {
            mount::remove_unused_image(&paths, &digest)?;
            Ok(verified::forget_missing(&paths.images())?)
        });
        discarded.await.expect("removing an image does not panic")
    }

    /// Removes what arrived of an image that is no longer to come.
    fn discard_partial(&self, digest: &Digest) -> Result<(), HostError> {
        let sum = Sha256Sum::new(*digest.as_bytes());
        Ok(shoal_image::discard_partial(&self.paths.images(), &sum).map(drop)?)
    }

    /// What a program that is run for a check gets: the environment of its instance.
    fn environment(&self, probe: &Probe) -> Vec<(String, String)> {
        let machine = systemd::machine_of_unit(&probe.container.unit);
        let machine = machine.filter(|_| !probe.checks.exec.is_empty());
        let record = machine.and_then(|machine| Record::find(&self.paths, &machine).ok()?);
        let env = record.map(|record| record.spec.config.settings.env).unwrap_or_default();
        env.into_iter().map(|(name, value)| (name.to_string(), value)).collect()
    }
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
                let hook_failed = failed_hook(record, directory).is_some();
                let found = Machine { applied, enabled, hook_failed, ..Machine::default() };
                observation.observed.machines.insert(machine.clone(), found);
                observation.details.insert(machine.clone(), noted(record, directory));
            }
            Err(why) => drop(observation.observed.unreadable.insert(machine.clone(), why.clone())),
        }
    }
    observation
}

/// How the hook failed that a start would run again.
fn failed_hook<'a>(record: &Record, directory: &'a Directory) -> Option<&'a Failure> {
    let past = directory.hooks();
    // What stands for the attempt is dear to make, and rarely asked for.
    past.failure.as_ref().and_then(|_| past.refusal(record.attempt()))
}

fn noted(record: &Record, directory: &Directory) -> Details {
    let (runs, past) = (directory.runs(), directory.hooks());
    let failed = failed_hook(record, directory).map(|failure| Hook::Failed(failure.to_string()));
    let running = past.running.as_ref().map(|running| Hook::Runs(running.mode));
    Details {
        hook: failed.or(running),
        ran: past.ran.clone(),
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
    let Details { restarts, last_exit, uid_base, hook, ran, .. } = noted;
    let details = Details { restarts, last_exit, uid_base, hook, ran, ..details };
    observation.details.insert(machine, details);
}

/// Adds the addresses of containers that have a network with others in it.
fn note_addresses(observation: &mut Observation) {
    for (machine, details) in &mut observation.details {
        let found = observation.observed.machines.get(machine);
        let settings = found.and_then(|m| Some(&m.applied.as_ref()?.config.settings));
        let linked = settings.is_some_and(|settings| settings.network.link().is_some());
        if let Some(leader) = details.leader.filter(|_| linked) {
            details.addresses = network::addresses(leader);
        }
    }
}

#[async_trait]
impl Host for RealHost {
    async fn observe(&self, wanted: &HostSpec) -> Result<Observation, HostError> {
        let began = Instant::now();
        let directories = self.machines.look()?;
        let enabled = systemd::enabled()?;
        let mut observation = recorded(&directories, &enabled);
        let units = self.units.all().await?;
        if !units.iter().any(|found| matches!(found.unit, Unit::Activating | Unit::Deactivating)) {
            self.haste.end();
        }
        for found in units {
            note_unit(&mut observation, found, &enabled);
        }
        note_addresses(&mut observation);
        observation.observed.no_room = room::lacking(&self.paths.instances());
        observation.observed.mounts = mount::mounted_images(&self.paths)?.into_iter().collect();
        let staged = self.images.staged()?;
        self.drift.note(&mut observation, &directories, &staged);
        observation.observed.images = staged.into_keys().collect();
        observation.observed.stock = self.stock.look(clock::now())?;
        observation.problems.extend(self.images.problems());
        observation.observed.secrets = self.secrets.kept();
        observation.observed.unkept = self.secrets.unkept();
        observation.observed.untrusted = self.signatures.untrusted(wanted, clock::now());
        self.infra.look(wanted, &mut observation)?;
        let took_ms = began.elapsed().as_millis();
        debug!(took_ms, machines = observation.observed.machines.len(), "observed the host");
        Ok(observation)
    }

    async fn carry_out(&self, machine: &MachineName, action: &Action) -> Result<(), HostError> {
        self.units.expect_changes();
        if matches!(action, Action::Write(..) | Action::Enable | Action::Start | Action::Stop) {
            self.haste.begin();
        }
        match action {
            Action::Write(spec, infra) => self.write(spec, infra.as_ref()).await,
            Action::Refresh(spec, units) => self.refresh(machine, spec, units).await,
            Action::Configure => self.configure_recorded(machine).await,
            Action::Names(content) => self.write_names(machine, content),
            Action::Enable => {
                self.configure_recorded(machine).await?;
                self.systemd.enable(machine).await
            }
            Action::Disable => {
                self.systemd.disable(machine).await?;
                Ok(hooks::forgive(&self.paths, machine)?)
            }
            Action::Start => {
                self.configure_recorded(machine).await?;
                self.systemd.start(machine).await
            }
            Action::Stop => {
                self.note(machine, Runs::stop);
                self.systemd.stop(machine).await?;
                insist::see_through(&self.systemd, machine);
                Ok(())
            }
            Action::Remove => {
                self.remove(machine).await?;
                self.systemd.forget(machine).await;
                Ok(())
            }
            Action::HandsOff => self.set_hands(machine, false).await,
            Action::HandsOn => self.set_hands(machine, true).await,
            Action::Unmount(digest) => self.unmount(digest).await,
            Action::Forget(secret) => self.forget(secret).await.map(drop),
            // Transfers are the stager's, and these belong to no machine.
            Action::Stage(_)
            | Action::Snapshot(_)
            | Action::PutBack(_)
            | Action::Restore(_)
            | Action::Discard(_)
            | Action::DiscardPartial(_)
            | Action::Record(_) => Ok(()),
        }
    }

    async fn carry_out_for_host(
        &self,
        wanted: &HostSpec,
        action: &Action,
    ) -> Result<(), HostError> {
        match action {
            Action::Unmount(digest) => self.unmount(digest).await,
            Action::Forget(secret) => self.forget(secret).await.map(drop),
            Action::Snapshot(_) | Action::Restore(_) => {
                self.infra.begin(wanted, action);
                Ok(())
            }
            Action::PutBack(revision) => {
                let (infra, revision) = (self.infra.clone(), *revision);
                let back = tokio::task::spawn_blocking(move || infra.put_back(revision));
                Ok(back.await.expect("putting data back does not panic")?)
            }
            Action::Discard(digest) => self.discard(digest).await,
            Action::DiscardPartial(digest) => self.discard_partial(digest),
            Action::Record(version) => {
                self.infra.record(version)?;
                self.clear_remains(wanted).await;
                Ok(())
            }
            // The rest is done to a machine, or is the stager's.
            _ => Ok(()),
        }
    }

    async fn unmount(&self, digest: &Digest) -> Result<(), HostError> {
        let (paths, digest) = (self.paths.clone(), *digest);
        // It waits for whoever is mounting an image.
        let unmounted = tokio::task::spawn_blocking(move || mount::unmount_image(&paths, &digest));
        Ok(unmounted.await.expect("unmounting does not panic")?)
    }

    async fn forget(&self, secret: &PinnedSecret) -> Result<bool, HostError> {
        Ok(self.secrets.forget(secret)?)
    }

    fn note_needed(&self, needed: &BTreeMap<Digest, Option<ImageName>>, now: Timestamp) {
        self.stock.note(needed, now);
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
