//! What an infra version does to each host, for people.

use std::collections::{BTreeMap, BTreeSet};

use shoal_core::fleet::FleetSpec;
use shoal_core::host::{Host, HostSpec};
use shoal_core::infra::{Infra, Mode, is_infra};
use shoal_core::name::{InfraVersion, InstanceId, InstanceName, MachineName, VolumeName};
use shoal_core::placement::{Order, order_of, ranks};
use shoal_core::spec::{InstanceConfig, RunState};
use shoal_core::status::{HostStatus, RetainedData, Verdict};
use shoal_proto::v1;

use crate::fleets_api::plan::Plan;
use crate::fleets_api::world::World;

/// What is known of a host at the moment.
#[derive(Debug, Clone, Copy)]
pub(in crate::fleets_api) struct Seen<'a> {
    pub(in crate::fleets_api) online: bool,
    pub(in crate::fleets_api) status: Option<&'a HostStatus>,
}

/// One host on its way.
struct Way<'a> {
    host: &'a Host,
    infra: &'a Infra,
    desired: &'a HostSpec,
    configs: &'a BTreeMap<InstanceName, InstanceConfig>,
    seen: Seen<'a>,
    ranks: &'a BTreeMap<InstanceId, usize>,
}

/// What `plan` does to each of its hosts; nothing where it has no version.
pub(in crate::fleets_api) fn planned<'a>(
    world: &World,
    spec: &FleetSpec,
    plan: &Plan,
    seen: impl Fn(&Host) -> Seen<'a>,
) -> Vec<v1::PlannedInfra> {
    let Some(infra) = &spec.infra else { return vec![] };
    let mut order: Order = world.order.clone();
    order.extend(order_of(spec));
    let (ranks, nothing) = (ranks(&order), HostSpec::default());
    let ways = world.hosts.iter().filter_map(|host| {
        let configs = plan.hosts.get(&host.id)?;
        let desired = world.specs.get(&host.id).unwrap_or(&nothing);
        let way = Way { host, infra, desired, configs, seen: seen(host), ranks: &ranks };
        Some(way.planned(spec))
    });
    ways.collect()
}

impl Way<'_> {
    fn planned(&self, spec: &FleetSpec) -> v1::PlannedInfra {
        let leaves = self.configs.is_empty();
        let has = self.has();
        let (version, restore) = (&self.infra.version, self.infra.restore.as_ref());
        let mode = if leaves { Mode::Same } else { Mode::of(has, version, restore) };
        let told = self.desired.infra.as_ref().map(|infra| &infra.version);
        let moves = !leaves && (mode != Mode::Same || told != Some(version));
        let snapshot = self.infra.snapshot && mode == Mode::Update;
        let copies = snapshot || mode == Mode::Restore;
        v1::PlannedInfra {
            host: self.host.name.to_string(),
            has: has.map(ToString::to_string),
            wants: if leaves { String::new() } else { version.to_string() },
            mode: v1::InfraMode::from(mode).into(),
            recreated: if moves { self.recreated(spec) } else { vec![] },
            data: self.data().into_iter().map(Into::into).collect(),
            snapshot,
            notes: self.notes(leaves, moves, copies),
        }
    }

    /// What it has on record; where it has not said, what it was told last.
    fn has(&self) -> Option<&InfraVersion> {
        match self.reported() {
            Some(infra) => infra.has.as_ref(),
            None if self.seen.online => None,
            None => self.desired.infra.as_ref().map(|infra| &infra.version),
        }
    }

    fn reported(&self) -> Option<&shoal_core::infra::Status> {
        self.seen.status?.infra.as_ref()
    }

    /// Everything that runs there, in the order in which it starts.
    fn recreated(&self, spec: &FleetSpec) -> Vec<String> {
        let rests = |id: &InstanceId| {
            let there = self.desired.instances.iter().find(|one| one.id == *id);
            there.is_some_and(|one| one.paused || one.run == RunState::Stopped)
        };
        let own =
            |name: &InstanceName| InstanceId { fleet: spec.fleet.clone(), instance: name.clone() };
        let apps = self.desired.instances.iter().map(|one| &one.id);
        let apps = apps.filter(|id| id.fleet != spec.fleet).cloned();
        let all = self.configs.keys().map(own).chain(apps).filter(|id| !rests(id));
        let mut all: Vec<InstanceId> = all.collect();
        all.sort_by_key(|id| {
            let rank = self.ranks.get(id).copied().unwrap_or(0);
            (!is_infra(&id.fleet), rank, id.clone())
        });
        all.iter().map(ToString::to_string).collect()
    }

    /// All data that is there: of what runs, and of what was there before.
    fn data(&self) -> Vec<RetainedData> {
        let mut data: BTreeMap<MachineName, BTreeSet<VolumeName>> = BTreeMap::new();
        for one in &self.desired.instances {
            let volumes = one.config.settings.data.keys().cloned();
            data.entry(one.id.machine()).or_default().extend(volumes);
        }
        for left in self.seen.status.iter().flat_map(|status| &status.retained) {
            data.entry(left.machine.clone()).or_default().extend(left.volumes.iter().cloned());
        }
        let some = data.into_iter().filter(|(_, volumes)| !volumes.is_empty());
        let retained = |(machine, volumes): (MachineName, BTreeSet<VolumeName>)| RetainedData {
            machine,
            volumes: volumes.into_iter().collect(),
        };
        some.map(retained).collect()
    }

    fn notes(&self, leaves: bool, moves: bool, copies: bool) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.seen.online {
            notes.push("offline; what it has is as last known".to_owned());
        }
        if let Some(cordon) = &self.host.cordon {
            notes.push(format!("is {cordon}"));
        }
        if leaves {
            notes.push(
                "leaves the infra: its instances are removed, their data stays, and apps run on"
                    .to_owned(),
            );
        }
        if self.is_old() {
            notes.push("its agent knows no infra versions; upgrade it".to_owned());
        }
        if moves {
            notes.extend(self.paused(copies));
            notes.extend(self.unready());
        }
        notes
    }

    /// Whether its agent was told of an infra and says nothing about it.
    fn is_old(&self) -> bool {
        let status = self.seen.status.filter(|_| self.desired.infra.is_some());
        let heard = |status: &HostStatus| status.observed_generation >= self.desired.generation;
        status.is_some_and(|status| heard(status) && status.infra.is_none())
    }

    fn paused(&self, copies: bool) -> impl Iterator<Item = String> {
        let paused = self.desired.instances.iter().filter(|one| one.paused);
        paused.map(move |one| match copies {
            true => format!(
                "{} is paused: nothing begins while it is up, for its data could not be copied",
                one.id
            ),
            false => format!("{} is paused: it stays as it is, and is not waited for", one.id),
        })
    }

    /// Those that would hold the version up if they stay so.
    fn unready(&self) -> impl Iterator<Item = String> {
        let runs = |id: &InstanceId| {
            let there = self.desired.instances.iter().find(|one| one.id == *id);
            there.is_some_and(|one| !one.paused && one.run == RunState::Running)
        };
        let status = self.seen.status.filter(|_| self.seen.online);
        let instances = status.into_iter().flat_map(|status| &status.instances);
        instances.filter(move |one| runs(&one.id)).filter_map(|one| match one.verdict() {
            Verdict::Ready => None,
            Verdict::Waiting(why) | Verdict::Failed(why) => Some(format!(
                "{} is not ready now ({why}); the version is not written down before it is",
                one.id
            )),
        })
    }
}
