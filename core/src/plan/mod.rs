//! What an agent does next on its host: a pure function of what is wanted and what is there.
//!
//! The loop around it observes, plans, takes each step and observes again, so a plan holds only
//! what can be done now. Whatever takes time (a transfer, a stop, a start) is begun by a step and
//! then seen by the next observation; nothing here remembers that it was begun.
//!
//! Invariants, each with a test: the applied configuration is written only while the instance's
//! unit is down; no step removes a data volume; a running container is left alone until the image
//! that takes its place is staged and its record has room on the disk; a host that is as wanted has an empty plan.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::agent_upgrade::AgentStatus;
use crate::drift::Drift;
use crate::gc::Stock;
use crate::host::{HostFacts, HostSpec};
use crate::image::{Digest, PinnedImage};
use crate::infra::{Phase, Recorded};
use crate::name::{BackupName, HostName, InfraVersion, InstanceId, MachineName};
use crate::peers::hosts_file;
use crate::policy::Policy;
use crate::secret::{self, PinnedSecret};
use crate::spec::{InstanceConfig, InstanceSpec, RunState, UnitName};
use crate::time::Timestamp;

mod gate;
mod images;
mod infra;
mod instance;

use gate::Gate;
use infra::Upgrade;

pub use images::needed;
pub use infra::data_step;

/// What is on a host, as one observation found it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Machines that have a record or a unit that is not down.
    pub machines: BTreeMap<MachineName, Machine>,
    /// Machines whose record is there and can't be read, with the reason. What cannot be known is
    /// left alone.
    pub unreadable: BTreeMap<MachineName, String>,
    /// Images that are complete and verified.
    pub images: BTreeSet<Digest>,
    /// Images that are wanted and that this host does not trust, with the reason.
    pub untrusted: BTreeMap<PinnedImage, String>,
    /// Images that are mounted.
    pub mounts: BTreeSet<Digest>,
    /// What image files take of the disk, and when each was needed last.
    pub stock: Stock,
    /// Secrets whose values are kept here.
    pub secrets: BTreeSet<PinnedSecret>,
    /// Why others, which were sent, are not.
    pub unkept: BTreeMap<PinnedSecret, String>,
    /// Why nothing can be set up: the disk has no room to write it down. `None` where it has.
    pub no_room: Option<String>,
    /// What the host has recorded of its infra.
    pub infra: Recorded,
    /// Why that can't be read, where it can't: such a host is no new one.
    pub infra_unreadable: Option<String>,
    /// How the host gets on with the agent that it should run; `None` where none is named.
    pub agent: Option<AgentStatus>,
    /// Revisions of the infra before which a snapshot of the data was taken that is here, whole.
    pub snapshots: BTreeSet<u64>,
    /// Why data can't be copied or brought as is wanted now: no room, no such backup. `None` where
    /// it can, or where nothing of that is wanted.
    pub data_blocked: Option<String>,
    /// How copying data is getting on, or why it failed, where it was begun.
    pub data_work: Option<String>,
}

impl Observed {
    /// Why the image that is to run is not trusted; `None` where it is, or where nothing is to be
    /// started: what an operator stops or pauses needs nobody's leave.
    fn distrust(&self, spec: &InstanceSpec) -> Option<&str> {
        let starts = spec.run == RunState::Running && !spec.paused;
        self.untrusted.get(&spec.config.image).filter(|_| starts).map(String::as_str)
    }
}

/// One machine, as found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// The record that its container is started from; `None` where there is none.
    pub applied: Option<Applied>,
    /// Its unit.
    pub unit: Unit,
    /// Whether its unit starts at boot.
    pub enabled: bool,
    /// How starting it has gone since its record was written.
    pub attempts: Attempts,
    /// Whether its container is up and, by its checks, well.
    pub ready: bool,
    /// What of it was changed by someone else.
    pub drift: Vec<Drift>,
    /// How often that was repaired lately.
    pub repairs: Attempts,
    /// Its hosts file; `None` where there is none.
    pub names: Option<String>,
    /// Whether systemd has been told to leave it down when it ends.
    pub hands_off: bool,
    /// Whether a hook has failed for the very record that is there: to start it would be refused.
    pub hook_failed: bool,
}

/// The record that a container is started from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Which instance.
    pub id: InstanceId,
    /// What it runs.
    pub config: InstanceConfig,
    /// The restarts that had been asked for when it was written.
    pub restarts: u64,
    /// The newest revision that had asked for a container made afresh.
    pub recreate: u64,
    /// The infra version that it was made under; `None` where the host had none then.
    pub infra: Option<InfraVersion>,
}

impl Applied {
    /// Whether it is just what is wanted, on a host that is to have this infra version.
    #[must_use]
    pub fn is(&self, spec: &InstanceSpec, infra: Option<&InfraVersion>) -> bool {
        self.restarts == spec.restarts
            && !self.is_spent(spec)
            && self.config.same_container(&spec.config)
            && self.is_under(infra)
    }

    /// Whether another container was asked for, whatever differs. Who takes that back (a smaller
    /// number) wants nothing of a container that was made already.
    fn is_spent(&self, spec: &InstanceSpec) -> bool {
        self.recreate < spec.recreate
    }

    /// Whether it was made under this version. Where no infra is wanted, any will do.
    #[must_use]
    pub fn is_under(&self, infra: Option<&InfraVersion>) -> bool {
        infra.is_none() || self.infra.as_ref() == infra
    }
}

/// The state of a machine's systemd unit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Unit {
    /// Down.
    #[default]
    Inactive,
    /// On its way up, or waiting for systemd to try again.
    Activating,
    /// Up.
    Active,
    /// On its way down.
    Deactivating,
    /// Down, after a failure.
    Failed,
}

impl Unit {
    fn is_down(self) -> bool {
        matches!(self, Self::Inactive | Self::Failed)
    }
}

/// Failed starts, or repairs, in a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attempts {
    /// How many.
    pub failures: u32,
    /// When the last one was begun.
    pub last: Option<Timestamp>,
}

impl Attempts {
    /// The longest pause between two starts.
    pub const LONGEST_PAUSE: Duration = Duration::from_secs(60);

    /// How many in a row are no accident any more.
    pub const MANY: u32 = 5;

    /// With one more, begun `now`.
    #[must_use]
    pub fn again(self, now: Timestamp) -> Self {
        Self { failures: self.failures.saturating_add(1), last: Some(now) }
    }

    /// When the next start may be tried, where that is yet to come: after 1 s, 2 s, 4 s … and at
    /// most a minute. A clock that was set back does not make it later than that.
    #[must_use]
    pub fn wait_until(&self, now: Timestamp) -> Option<Timestamp> {
        let last = self.last.filter(|_| self.failures > 0)?;
        let pause = Duration::from_secs(1 << (self.failures - 1).min(6)).min(Self::LONGEST_PAUSE);
        let next = last.after(pause);
        (next > now && next.since(now) <= pause).then_some(next)
    }
}

/// One idempotent action on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Bring an image onto the host. Disturbs nothing.
    Stage(PinnedImage),
    /// Write the record that the container is started from, under this infra version, and make
    /// missing data volumes.
    Write(Box<InstanceSpec>, Option<InfraVersion>),
    /// Bring a running container to this: the record, the unit's limits, and the files' contents;
    /// then reload these units inside.
    Refresh(Box<InstanceSpec>, BTreeSet<UnitName>),
    /// Write the unit and its drop-in as they should be.
    Configure,
    /// Write the hosts file.
    Names(String),
    /// Have the unit start at boot.
    Enable,
    /// Have it not.
    Disable,
    /// Begin to start the unit.
    Start,
    /// Begin to stop it.
    Stop,
    /// Remove the record and the discarded layers. Data volumes stay.
    Remove,
    /// Unmount an image that nothing uses.
    Unmount(Digest),
    /// Remove the value of a secret that nothing here names any more.
    Forget(PinnedSecret),
    /// Have systemd leave the unit down when it ends.
    HandsOff,
    /// Have systemd start it again when it ends, as is usual.
    HandsOn,
    /// Begin to copy all data volumes, as they are before this revision of the infra.
    Snapshot(u64),
    /// Begin to put back the data volumes that were copied before this revision of the infra. Those
    /// that are there are kept aside.
    PutBack(u64),
    /// Begin to bring data volumes from a backup.
    Restore(BackupName),
    /// Remove the file of an image that nothing needs.
    Discard(Digest),
    /// Remove what arrived of an image that is no longer to come.
    DiscardPartial(Digest),
    /// Write down that the host has this infra version.
    Record(InfraVersion),
}

impl Action {
    /// What it is called in logs and messages.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Stage(_) => "stage",
            Self::Write(..) => "write",
            Self::Refresh(..) => "refresh",
            Self::Configure => "configure",
            Self::Names(_) => "names",
            Self::Enable => "enable",
            Self::Disable => "disable",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Remove => "remove",
            Self::Unmount(_) => "unmount",
            Self::Forget(_) => "forget",
            Self::HandsOff => "hands off",
            Self::HandsOn => "hands on",
            Self::Snapshot(_) => "snapshot",
            Self::PutBack(_) => "put back",
            Self::Restore(_) => "restore",
            Self::Discard(_) => "discard",
            Self::DiscardPartial(_) => "discard partial",
            Self::Record(_) => "record",
        }
    }
}

/// An action, what it is done to and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What to do.
    pub action: Action,
    /// Why, for people.
    pub reason: String,
}

/// What to do now, and what stands in the way of the rest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Steps by machine; those of one machine in order, of different ones in any order.
    pub machines: BTreeMap<MachineName, Vec<Step>>,
    /// Image files to remove, which may be what makes room for those to bring. Before all others.
    pub discard: Vec<Step>,
    /// Images to bring onto the host.
    pub stage: Vec<Step>,
    /// Steps that belong to no machine, after all others.
    pub host: Vec<Step>,
    /// Machines that this host may not or can't run, with the reason.
    pub blocked: BTreeMap<MachineName, String>,
    /// Machines that wait for others, with what for.
    pub waiting: BTreeMap<MachineName, String>,
    /// Machines whose steps put right what someone else changed.
    pub repairs: BTreeSet<MachineName>,
    /// Machines that have steps which are left out, since they failed lately.
    pub held: BTreeSet<MachineName>,
    /// When to plan again even if nothing is seen to change.
    pub again_at: Option<Timestamp>,
    /// How far the host is with its infra, and what that waits for.
    pub infra: (Phase, Option<String>),
}

impl Plan {
    /// Whether there is nothing to do now.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let rest = [&self.discard, &self.stage, &self.host];
        self.machines.is_empty() && rest.iter().all(|steps| steps.is_empty())
    }

    /// Leaves out what is not to be taken yet.
    fn hold_back(&mut self, held: &BTreeMap<MachineName, Timestamp>) {
        for (machine, until) in held {
            if self.machines.remove(machine).is_some() {
                self.repairs.remove(machine);
                self.held.insert(machine.clone());
                self.look_again(*until);
            }
        }
    }

    fn look_again(&mut self, at: Timestamp) {
        self.again_at = Some(self.again_at.map_or(at, |earlier| earlier.min(at)));
    }
}

/// What is wanted of a host and what it is able and willing to do.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The desired state.
    pub spec: &'a HostSpec,
    /// The host's name.
    pub host: &'a HostName,
    /// The host.
    pub facts: &'a HostFacts,
    /// Its policy.
    pub policy: &'a Policy,
    /// Of the instances elsewhere that others here come after, those that are ready; `None` where
    /// the controller has not said, and then nothing waits for them.
    pub ready_elsewhere: Option<&'a BTreeSet<InstanceId>>,
    /// Machines whose steps have failed lately, and until when they are not taken again.
    pub held: &'a BTreeMap<MachineName, Timestamp>,
    /// Secrets that are not forgotten although nothing wanted names them.
    pub kept: &'a BTreeSet<PinnedSecret>,
    /// Images that are kept although nothing wanted names them: what going back would need.
    pub kept_images: &'a BTreeSet<Digest>,
    /// How many may be on their way up at once.
    pub at_once: usize,
}

/// What to do next to make the host as wanted.
#[must_use]
pub fn plan(wanted: Wanted<'_>, observed: &Observed, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let mut kept = BTreeSet::new();
    let mut gate = Gate::new(wanted, observed, now);
    let upgrade = Upgrade::new(wanted, observed);
    for spec in &wanted.spec.instances {
        let machine = spec.id.machine();
        kept.insert(machine.clone());
        if let Some(why) = observed.unreadable.get(&machine) {
            plan.blocked.insert(machine, why.clone());
            continue;
        }
        if let Err(refused) = wanted.policy.permits(&spec.config.settings, wanted.facts) {
            let reasons: Vec<String> = refused.iter().map(ToString::to_string).collect();
            plan.blocked.insert(machine, reasons.join("; "));
            continue;
        }
        if let Some(why) = observed.distrust(spec) {
            plan.blocked.insert(machine, why.to_owned());
            continue;
        }
        let names = hosts_file(&spec.id, wanted.host, &wanted.spec.peers);
        let absent = Machine::default();
        let found = observed.machines.get(&machine).unwrap_or(&absent);
        let upgrade = &upgrade;
        let instance = instance::Instance { spec, machine, found, names, observed, upgrade, now };
        instance.plan(&mut plan, &mut gate);
    }
    stage_ahead(&mut plan, wanted.spec, observed);
    for (machine, found) in &observed.machines {
        let unwanted = !kept.contains(machine) && !observed.unreadable.contains_key(machine);
        if unwanted && !upgrade.keeps(machine, found) {
            add(&mut plan, machine, removal(found));
        }
    }
    plan.host = unused_mounts(wanted.spec, observed);
    plan.host.extend(unused_secrets(wanted, observed));
    upgrade.finish(&mut plan);
    plan.infra = (upgrade.phase, upgrade.waits);
    plan.discard = images::discards(wanted, observed, &plan, now);
    plan.hold_back(wanted.held);
    plan
}

/// Images that a revision to come needs.
fn stage_ahead(plan: &mut Plan, spec: &HostSpec, observed: &Observed) {
    // What may not run need not come; whoever reports says why.
    let trusted = spec.stage.iter().filter(|image| !observed.untrusted.contains_key(image));
    for image in trusted.filter(|image| !observed.images.contains(&image.digest)) {
        let same = |s: &Step| matches!(&s.action, Action::Stage(i) if i.digest == image.digest);
        if !plan.stage.iter().any(same) {
            plan.stage.push(step(Action::Stage(image.clone()), "a revision to come needs it"));
        }
    }
}

fn add(plan: &mut Plan, machine: &MachineName, steps: Vec<Step>) {
    if !steps.is_empty() {
        plan.machines.insert(machine.clone(), steps);
    }
}

fn step(action: Action, reason: impl Into<String>) -> Step {
    Step { action, reason: reason.into() }
}

fn removal(found: &Machine) -> Vec<Step> {
    let why = "no fleet wants it here any more";
    match found.unit {
        Unit::Active | Unit::Activating => {
            vec![step(Action::Disable, why), step(Action::Stop, why)]
        }
        Unit::Deactivating => vec![],
        Unit::Inactive | Unit::Failed => {
            let mut steps = Vec::new();
            if found.enabled {
                steps.push(step(Action::Disable, why));
            }
            steps.push(step(Action::Remove, why));
            steps
        }
    }
}

/// Mounts that no wanted instance and no container that is still up needs.
fn unused_mounts(spec: &HostSpec, observed: &Observed) -> Vec<Step> {
    let wanted = spec.instances.iter().map(|i| i.config.image.digest);
    let up = observed.machines.values().filter(|m| !m.unit.is_down());
    let running = up.filter_map(|m| m.applied.as_ref()).map(|a| a.config.image.digest);
    let used: BTreeSet<Digest> = wanted.chain(running).collect();
    // A unit that is up without a record hides what it uses: then nothing is unmounted.
    let hidden = observed.machines.values().any(|m| !m.unit.is_down() && m.applied.is_none());
    if hidden || !observed.unreadable.is_empty() {
        return vec![];
    }
    let unused = observed.mounts.difference(&used);
    unused.map(|digest| step(Action::Unmount(*digest), "no instance uses it")).collect()
}

/// Secrets that neither a wanted instance nor a container's record names, nor someone else keeps.
fn unused_secrets(wanted: Wanted<'_>, observed: &Observed) -> Vec<Step> {
    if !observed.unreadable.is_empty() {
        return vec![];
    }
    let applied = observed.machines.values().filter_map(|machine| machine.applied.as_ref());
    let recorded = applied.flat_map(|applied| applied.config.settings.secrets.values().cloned());
    let mut used = secret::needed(wanted.spec);
    used.extend(recorded.chain(wanted.kept.iter().cloned()));
    let unused = observed.secrets.difference(&used).cloned();
    unused.map(|secret| step(Action::Forget(secret), "no instance here names it")).collect()
}

#[cfg(test)]
mod infra_tests;
#[cfg(test)]
pub(crate) mod tests;
