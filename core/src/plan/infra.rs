//! A host's way from one infra version to another: everything stops, apps first; data is copied or
//! put back while all is down; everything is made afresh and starts, the infra first; the version
//! is written down last. Level-triggered like the rest of the plan: each phase follows from what is
//! there, so whoever is interrupted goes on where it was.
//!
//! Invariants, each with a test: nothing is disturbed before all that is needed is there; data is
//! touched only while every container is down; no container of the new version runs beside one of
//! an older one; a version is recorded only once every container that is to run is ready under it.

use std::collections::BTreeSet;

use super::gate::Gate;
use super::{Action, Machine, Observed, Plan, Step, Wanted, step};
use crate::infra::{HostInfra, Phase, is_infra};
use crate::name::{InfraVersion, MachineName};
use crate::spec::{InstanceSpec, RunState};

/// What an instance is to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Order {
    /// Nothing: it is planned like any other.
    Free,
    /// Stop, for this reason.
    Stop(String),
    /// Stay as it is, up or down, for this reason.
    Hold(String),
}

/// How far the host is.
#[derive(Debug, Clone, Default)]
pub(super) struct Upgrade<'a> {
    infra: Option<&'a HostInfra>,
    pub(super) phase: Phase,
    /// What the phase waits for.
    pub(super) waits: Option<String>,
    /// What is to be done to the data.
    data: Option<Step>,
    /// Containers of another version, or in the way of what is done to the data.
    stops: BTreeSet<MachineName>,
    /// Those of them that have to stop now.
    now: BTreeSet<MachineName>,
    /// Records of another version, whether up or down.
    stale: BTreeSet<MachineName>,
    /// Whether the host has another version on record, or none.
    changes: bool,
}

impl<'a> Upgrade<'a> {
    pub(super) fn new(wanted: Wanted<'a>, observed: &Observed) -> Self {
        let Some(infra) = &wanted.spec.infra else { return Self::default() };
        let mut upgrade = Self {
            infra: Some(infra),
            data: data_step(infra, observed),
            stale: stale(wanted, infra, observed),
            // What can't be read may be just that.
            changes: observed.infra_unreadable.is_none()
                && observed.infra.version.as_ref() != Some(&infra.version),
            ..Self::default()
        };
        upgrade.stops = upgrade.in_the_way(wanted, observed);
        (upgrade.phase, upgrade.waits) = upgrade.judge(wanted, observed);
        upgrade
    }

    /// The version that containers are made under.
    pub(super) fn version(&self) -> Option<&'a InfraVersion> {
        self.infra.map(|infra| &infra.version)
    }

    /// What `machine`, which is `down` or not, is to do about it. Nothing starts beside a container
    /// of another version that has yet to stop.
    pub(super) fn order(&self, machine: &MachineName, down: bool) -> Order {
        let Some(infra) = self.infra else { return Order::Free };
        let beside = down && (self.changes || self.phase == Phase::Stopping);
        let held = self.stale.contains(machine) || self.data.is_some() || beside;
        if !held || matches!(self.phase, Phase::Done | Phase::Starting) {
            return Order::Free;
        }
        let version = &infra.version;
        if self.phase == Phase::Stopping && self.now.contains(machine) {
            return Order::Stop(format!("the host gets infra version {version}"));
        }
        let phase = self.phase;
        Order::Hold(match &self.waits {
            Some(waits) => format!("infra version {version}, {phase}: {waits}"),
            None => format!("infra version {version}: {phase}"),
        })
    }

    /// Whether `found`, which nobody wants any more, is still left alone: the new version is without
    /// it, and what the old one has goes with the rest of it, after the apps.
    pub(super) fn keeps(&self, machine: &MachineName, found: &Machine) -> bool {
        let of_infra = found.applied.as_ref().is_some_and(|applied| is_infra(&applied.id.fleet));
        let waits = match self.phase {
            Phase::Preparing => true,
            Phase::Stopping => !self.now.contains(machine),
            Phase::Done | Phase::Data | Phase::Starting => false,
        };
        of_infra && waits && self.stops.contains(machine)
    }

    /// What an app waits for before it is made afresh.
    pub(super) fn holds_up(&self, spec: &InstanceSpec, gate: &Gate<'_>) -> Option<String> {
        let concerned = self.phase == Phase::Starting && !is_infra(&spec.id.fleet);
        let unready = concerned.then(|| gate.unready_infra()).flatten()?;
        Some(format!("waits for {unready} to be ready, as the infra starts first"))
    }

    /// What is done to the host as a whole.
    pub(super) fn finish(&self, plan: &mut Plan) {
        let Some(infra) = self.infra else { return };
        if self.phase == Phase::Data {
            plan.host.extend(self.data.clone());
        }
        if self.phase == Phase::Starting && self.waits.is_none() {
            let why = "every gate has passed";
            plan.host.push(step(Action::Record(infra.version.clone()), why));
        }
    }

    /// Containers that are up and have to stop before anything of the wanted version starts.
    fn in_the_way(&self, wanted: Wanted<'_>, observed: &Observed) -> BTreeSet<MachineName> {
        let up = |machine: &MachineName| {
            observed.machines.get(machine).is_some_and(|found| !found.unit.is_down())
        };
        let all = wanted.spec.instances.iter().filter(|spec| moves(wanted, spec, observed));
        let all = all.map(|spec| spec.id.machine());
        let stay = all.filter(|m| up(m) && (self.data.is_some() || self.stale.contains(m)));
        let go = unwanted(wanted, observed).filter(|(machine, found)| {
            let version = found.applied.as_ref().and_then(|applied| applied.infra.as_ref());
            self.changes && up(machine) && version != self.version()
        });
        stay.chain(go.map(|(machine, _)| machine.clone())).collect()
    }

    fn judge(&mut self, wanted: Wanted<'_>, observed: &Observed) -> (Phase, Option<String>) {
        if let Some(why) = &observed.infra_unreadable {
            return (Phase::Preparing, Some(why.clone()));
        }
        if !self.stops.is_empty() {
            if let Some(why) = self.unprepared(wanted, observed) {
                return (Phase::Preparing, Some(why));
            }
            self.now = self.stop_now(observed);
            return (Phase::Stopping, Some(format!("waits for {} to stop", listed(&self.stops))));
        }
        if self.data.is_some() {
            let busy = self.stays_up(wanted, observed).or_else(|| observed.data_blocked.clone());
            let phase = if busy.is_some() { Phase::Preparing } else { Phase::Data };
            return (phase, busy.or_else(|| observed.data_work.clone()));
        }
        if !self.changes && self.stale.is_empty() {
            return (Phase::Done, None);
        }
        (Phase::Starting, self.unready(wanted, observed))
    }

    /// Apps stop first; then the infra.
    fn stop_now(&self, observed: &Observed) -> BTreeSet<MachineName> {
        let infra = |machine: &MachineName| {
            let applied = observed.machines.get(machine).and_then(|found| found.applied.as_ref());
            applied.is_some_and(|applied| is_infra(&applied.id.fleet))
        };
        let apps: BTreeSet<MachineName> =
            self.stops.iter().filter(|machine| !infra(machine)).cloned().collect();
        if apps.is_empty() { self.stops.clone() } else { apps }
    }

    /// What is not there yet that is needed once everything is down.
    fn unprepared(&self, wanted: Wanted<'_>, observed: &Observed) -> Option<String> {
        // One that could not start again must not be what is found out when all are down.
        let distrusted = wanted.spec.instances.iter().find_map(|spec| observed.distrust(spec));
        if let Some(why) = distrusted {
            return Some(why.to_owned());
        }
        let again = wanted.spec.instances.iter().filter(|spec| {
            let machine = spec.id.machine();
            let runs = spec.run == RunState::Running && moves(wanted, spec, observed);
            runs && (self.stale.contains(&machine) || !observed.machines.contains_key(&machine))
        });
        let missing = again.clone().find(|s| !observed.images.contains(&s.config.image.digest));
        if let Some(spec) = missing {
            return Some(format!("waits for image {} of {}", spec.config.image.reference, spec.id));
        }
        let mut needed =
            again.flat_map(|s| s.config.settings.secrets.values().map(move |secret| (s, secret)));
        if let Some((spec, secret)) = needed.find(|(_, s)| !observed.secrets.contains(*s)) {
            return Some(format!("waits for secret {secret} of {}", spec.id));
        }
        if let Some(why) = self.agent_before(observed) {
            return Some(why);
        }
        let data = || self.stays_up(wanted, observed).or_else(|| observed.data_blocked.clone());
        observed.no_room.clone().or_else(|| self.data.as_ref().and_then(|_| data()))
    }

    /// Why the host does not run the agent yet that comes before the version.
    fn agent_before(&self, observed: &Observed) -> Option<String> {
        let wants = self.infra?.agent.as_ref()?;
        match observed.agent.as_ref().filter(|agent| agent.version == *wants) {
            Some(agent) => agent.pending(),
            None => Some(format!("waits for agent {wants}")),
        }
    }

    /// What is up or may be, and is not stopped for an infra version: data can't be copied then.
    fn stays_up(&self, wanted: Wanted<'_>, observed: &Observed) -> Option<String> {
        if let Some(machine) = observed.unreadable.keys().next() {
            return Some(format!(
                "the record of {machine} can't be read, so it may write to its data"
            ));
        }
        let up = |spec: &&InstanceSpec| {
            observed.machines.get(&spec.id.machine()).is_some_and(|found| !found.unit.is_down())
        };
        let mut stays = wanted.spec.instances.iter().filter(up);
        if let Some(spec) = stays.find(|spec| !moves(wanted, spec, observed)) {
            let id = &spec.id;
            return Some(format!("{id} is up and must not be touched; stop it or resume it"));
        }
        let going = |(machine, found): &(&MachineName, &Machine)| {
            !found.unit.is_down() && !self.stops.contains(*machine)
        };
        let (machine, _) = unwanted(wanted, observed).find(going)?;
        Some(format!("waits for {machine} to stop, which is being removed"))
    }

    /// Who is not ready yet under the wanted version.
    fn unready(&self, wanted: Wanted<'_>, observed: &Observed) -> Option<String> {
        let version = self.version()?;
        let runs = |spec: &&InstanceSpec| spec.run == RunState::Running && !spec.paused;
        let mut unready = wanted.spec.instances.iter().filter(runs).filter(|spec| {
            let found = observed.machines.get(&spec.id.machine());
            !found.is_some_and(|found| {
                let applied = found.applied.as_ref();
                found.ready && applied.is_some_and(|a| a.is(spec, Some(version)))
            })
        });
        unready.next().map(|spec| format!("waits for {} to be ready", spec.id))
    }
}

/// What is to be done to the data before anything starts.
#[must_use]
pub fn data_step(infra: &HostInfra, observed: &Observed) -> Option<Step> {
    let HostInfra { version, revision, .. } = infra;
    if observed.infra_unreadable.is_some() {
        return None;
    }
    if let Some(undo) = infra.undo.filter(|undo| observed.snapshots.contains(undo)) {
        let why = format!("the data goes back to what it was before infra revision {undo}");
        return Some(step(Action::PutBack(undo), why));
    }
    let recorded = &observed.infra;
    let Some(has) = &recorded.version else {
        let backup = infra.restore.as_ref().filter(|b| recorded.restored.as_ref() != Some(b))?;
        let why = format!("the host has no infra version, and gets its data from backup {backup}");
        return Some(step(Action::Restore(backup.clone()), why));
    };
    let begun = observed.machines.values().filter_map(|m| m.applied.as_ref());
    let begun = begun.filter_map(|a| a.infra.as_ref()).any(|made_under| made_under == version);
    let due = infra.snapshot && has != version && !begun && !observed.snapshots.contains(revision);
    let why = || format!("infra version {has} becomes {version}");
    due.then(|| step(Action::Snapshot(*revision), why()))
}

/// Machines whose container is of another version, and that may be touched.
fn stale(wanted: Wanted<'_>, infra: &HostInfra, observed: &Observed) -> BTreeSet<MachineName> {
    let other = |found: &Machine| match &found.applied {
        Some(applied) => applied.infra.as_ref() != Some(&infra.version),
        None => !found.unit.is_down(),
    };
    // Where it is not known what the host had, nothing is set up for the first time either.
    let unknown = observed.infra_unreadable.is_some();
    let instances = wanted.spec.instances.iter().filter(|spec| {
        let found = observed.machines.get(&spec.id.machine());
        // One that an operator has stopped is made afresh when it is started again.
        let rests = spec.run == RunState::Stopped && found.is_none_or(|m| m.unit.is_down());
        let is_stale = found.map_or(unknown, other);
        is_stale && !rests && moves(wanted, spec, observed)
    });
    instances.map(|spec| spec.id.machine()).collect()
}

/// Whether the instance may be touched.
fn moves(wanted: Wanted<'_>, spec: &InstanceSpec, observed: &Observed) -> bool {
    !spec.paused
        && !observed.unreadable.contains_key(&spec.id.machine())
        && wanted.policy.permits(&spec.config.settings, wanted.facts).is_ok()
}

/// Machines that no fleet wants here any more.
fn unwanted<'o>(
    wanted: Wanted<'_>,
    observed: &'o Observed,
) -> impl Iterator<Item = (&'o MachineName, &'o Machine)> {
    let known: BTreeSet<MachineName> =
        wanted.spec.instances.iter().map(|spec| spec.id.machine()).collect();
    observed.machines.iter().filter(move |(machine, _)| {
        !known.contains(*machine) && !observed.unreadable.contains_key(*machine)
    })
}

fn listed(machines: &BTreeSet<MachineName>) -> String {
    machines.iter().map(MachineName::as_str).collect::<Vec<_>>().join(", ")
}
