//! What an agent does next on its host: a pure function of what is wanted and what is there.
//!
//! The loop around it observes, plans, takes each step and observes again, so a plan holds only
//! what can be done now. Whatever takes time (a transfer, a stop, a start) is begun by a step and
//! then seen by the next observation; nothing here remembers that it was begun.
//!
//! Invariants, each with a test: the applied configuration is written only while the instance's
//! unit is down; no step removes a data volume; a running container is left alone until the image
//! that takes its place is staged; a host that is as wanted has an empty plan.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::diff::{FieldChange, config_changes};
use crate::host::{HostFacts, HostSpec};
use crate::image::{Digest, PinnedImage};
use crate::name::{InstanceId, MachineName};
use crate::policy::Policy;
use crate::spec::{InstanceConfig, InstanceSpec, RunState};
use crate::time::Timestamp;

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
    /// Images that are mounted.
    pub mounts: BTreeSet<Digest>,
}

/// One machine, as found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// The record that its container is started from; `None` where there is none.
    pub applied: Option<Applied>,
    /// Its unit.
    pub unit: Unit,
    /// Whether its unit starts at boot.
    pub enabled: bool,
    /// How starting it has gone since its record was written.
    pub attempts: Attempts,
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

/// Failed starts in a row.
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
    /// Write the record that the container is started from, and make missing data volumes.
    Write(Box<InstanceSpec>),
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
}

impl Action {
    /// What it is called in logs and messages.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Stage(_) => "stage",
            Self::Write(_) => "write",
            Self::Enable => "enable",
            Self::Disable => "disable",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Remove => "remove",
            Self::Unmount(_) => "unmount",
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
    /// Images to bring onto the host.
    pub stage: Vec<Step>,
    /// Steps that belong to no machine, after all others.
    pub host: Vec<Step>,
    /// Machines that this host may not or can't run, with the reason.
    pub blocked: BTreeMap<MachineName, String>,
    /// When to plan again even if nothing is seen to change.
    pub again_at: Option<Timestamp>,
}

impl Plan {
    /// Whether there is nothing to do now.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.machines.is_empty() && self.stage.is_empty() && self.host.is_empty()
    }
}

/// What is wanted of a host and what it is able and willing to do.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The desired state.
    pub spec: &'a HostSpec,
    /// The host.
    pub facts: &'a HostFacts,
    /// Its policy.
    pub policy: &'a Policy,
}

/// What to do next to make the host as wanted.
#[must_use]
pub fn plan(wanted: Wanted<'_>, observed: &Observed, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let mut kept = BTreeSet::new();
    for spec in &wanted.spec.instances {
        let machine = spec.id.machine();
        kept.insert(machine.clone());
        if let Some(why) = observed.unreadable.get(&machine) {
            plan.blocked.insert(machine, why.clone());
            continue;
        }
        if let Err(refused) = wanted.policy.isolation(wanted.facts) {
            plan.blocked.insert(machine, refused.to_string());
            continue;
        }
        plan_instance(&mut plan, &machine, spec, observed, now);
    }
    for (machine, found) in &observed.machines {
        if !kept.contains(machine) && !observed.unreadable.contains_key(machine) {
            add(&mut plan, machine, removal(found));
        }
    }
    plan.host = unused_mounts(wanted.spec, observed);
    plan
}

fn add(plan: &mut Plan, machine: &MachineName, steps: Vec<Step>) {
    if !steps.is_empty() {
        plan.machines.insert(machine.clone(), steps);
    }
}

fn step(action: Action, reason: impl Into<String>) -> Step {
    Step { action, reason: reason.into() }
}

fn plan_instance(
    plan: &mut Plan,
    machine: &MachineName,
    spec: &InstanceSpec,
    observed: &Observed,
    now: Timestamp,
) {
    let absent = Machine {
        applied: None,
        unit: Unit::Inactive,
        enabled: false,
        attempts: Attempts::default(),
    };
    let found = observed.machines.get(machine).unwrap_or(&absent);
    if spec.run == RunState::Stopped {
        return add(plan, machine, stopping(found));
    }
    let staged = observed.images.contains(&spec.config.image.digest);
    if !staged {
        stage(plan, spec);
    }
    let difference = difference(spec, found.applied.as_ref());
    let steps = match (found.unit, difference) {
        (Unit::Active | Unit::Activating, None) => enabling(found),
        (Unit::Active | Unit::Activating, Some(why)) if staged => vec![step(Action::Stop, why)],
        (Unit::Inactive | Unit::Failed, difference) if staged => {
            starting(plan, spec, found, difference, now)
        }
        _ => vec![],
    };
    add(plan, machine, steps);
}

fn stage(plan: &mut Plan, spec: &InstanceSpec) {
    let image = &spec.config.image;
    let same = |s: &Step| matches!(&s.action, Action::Stage(i) if i.digest == image.digest);
    if !plan.stage.iter().any(same) {
        let reason = format!("{} needs it", spec.id);
        plan.stage.push(step(Action::Stage(image.clone()), reason));
    }
}

/// Why the container that `applied` stands for is not the wanted one; `None` where it is.
fn difference(spec: &InstanceSpec, applied: Option<&Applied>) -> Option<String> {
    let Some(applied) = applied else { return Some("not there yet".into()) };
    if applied.restarts != spec.restarts {
        return Some("a restart was asked for".into());
    }
    let changes = config_changes(&applied.config, &spec.config);
    if changes.is_empty() {
        return None;
    }
    let changes: Vec<String> = changes.iter().map(reason).collect();
    Some(changes.join("; "))
}

/// A change as a reason, which ends up in the host's journal: values of variables and of the
/// environment are left out, since people keep passwords there.
fn reason(change: &FieldChange) -> String {
    let private = ["env.", "vars.", "files."];
    if private.iter().any(|prefix| change.field.starts_with(prefix)) {
        return format!("{} changed", change.field);
    }
    change.to_string()
}

fn enabling(found: &Machine) -> Vec<Step> {
    if found.enabled {
        return vec![];
    }
    vec![step(Action::Enable, "it must come back when the host boots")]
}

fn stopping(found: &Machine) -> Vec<Step> {
    let mut steps = Vec::new();
    if found.enabled {
        steps.push(step(Action::Disable, "an operator stopped it, so it stays down at boot"));
    }
    if matches!(found.unit, Unit::Active | Unit::Activating) {
        steps.push(step(Action::Stop, "an operator stopped it"));
    }
    steps
}

fn starting(
    plan: &mut Plan,
    spec: &InstanceSpec,
    found: &Machine,
    difference: Option<String>,
    now: Timestamp,
) -> Vec<Step> {
    let mut steps = Vec::new();
    let why = match &difference {
        Some(why) => {
            steps.push(step(Action::Write(Box::new(spec.clone())), why.clone()));
            why.clone()
        }
        None if let Some(next) = found.attempts.wait_until(now) => {
            plan.again_at = Some(plan.again_at.map_or(next, |at| at.min(next)));
            return vec![];
        }
        None if found.unit == Unit::Failed => "it has failed".into(),
        None => "it is not running".into(),
    };
    steps.extend(enabling(found));
    steps.push(step(Action::Start, why));
    steps
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

#[cfg(test)]
mod tests;
