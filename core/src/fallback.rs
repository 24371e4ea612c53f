//! Going back without being told to: what has proved good on a host, and what was tried and did
//! not.
//!
//! An agent takes in each desired state with [`Memory::want`], plans with [`Memory::effective`] and
//! shows what it saw to [`Memory::look`]. Where what is wanted of a fleet does not get ready behind
//! its gate, what did before takes its place, until something else is wanted.
//!
//! Invariants, each with a test: what was rejected is not tried again unless someone asks for it;
//! what an operator stopped before it was ready proves nothing;
//! only images and settings go back, never whether an instance runs, is paused or was restarted;
//! a fleet that never proved ready has nothing to go back to, and is brought to what is wanted for
//! as long as that is wanted.
//!
//! The infra is a fleet that more depends on. While a host is on its [`Way`] to an infra version, the
//! apps there are looked at as a part of the infra: one that does not get ready has the infra go
//! back, and never its own fleet. The infra has proved good once the host has got there.
//!
//! Deliberately absent: data, which goes back only where [`HostInfra::undo`] says so; a clock; and time that nobody saw pass: a
//! host that was off, or whose clock was set, has kept nobody waiting.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::host::HostSpec;
use crate::image::Digest;
use crate::infra::{HostInfra, Phase, is_infra};
use crate::name::{FleetName, InfraVersion, InstanceId, MachineName};
use crate::spec::{InstanceSpec, RunState};
use crate::status::Verdict;
use crate::time::Timestamp;

/// How long an instance may fail before it has failed: somewhat longer than the controller's
/// patience, so that it leads where it is there.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How much time lies between two looks at most. More was not seen to pass.
const BETWEEN_LOOKS: Duration = Duration::from_secs(10);

/// What is wanted of each fleet of a host, by a digest that differs where a revision, an image, a
/// setting or a number of restarts does.
pub type Wishes = BTreeMap<FleetName, Digest>;

/// What is remembered of a fleet on its host. Outlives the agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Past {
    /// Its instances as they were when all of them last proved ready, ordered by id; none before
    /// that.
    pub good: Vec<InstanceSpec>,
    /// Of the infra: the version under which they did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub infra: Option<HostInfra>,
    /// What was wanted since and did not get ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<Rejected>,
}

/// A wish that did not get ready behind its gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Rejected {
    /// The wish.
    pub wish: Digest,
    /// The revision that it came from.
    pub revision: u64,
    /// Which instance did not get ready, and why, for people.
    pub why: String,
    /// When.
    pub at: Timestamp,
}

impl Past {
    fn proved(&self, id: &InstanceId) -> Option<&InstanceSpec> {
        self.good.iter().find(|good| good.id == *id)
    }

    fn differs(&self, spec: &InstanceSpec) -> bool {
        self.proved(&spec.id).is_none_or(|good| !good.config.same_container(&spec.config))
    }

    /// Whether this is what proved good, and nothing is to be tried.
    fn is_same(&self, wanted: Fleet<'_>) -> bool {
        let differs = |spec| self.differs(spec);
        version(self.infra.as_ref()) == version(wanted.infra)
            && self.good.len() == wanted.instances.len()
            && !wanted.instances.iter().any(differs)
    }

    /// An instance as it is to be once its fleet went back; `None` where it was not there then.
    fn back(&self, wanted: &InstanceSpec) -> Option<InstanceSpec> {
        let config = self.proved(&wanted.id)?.config.clone();
        Some(InstanceSpec { config, ..wanted.clone() })
    }
}

/// What is wanted of a fleet.
#[derive(Debug, Clone, Copy)]
struct Fleet<'a> {
    instances: &'a [InstanceSpec],
    /// Of the infra, where it has a version.
    infra: Option<&'a HostInfra>,
}

/// A host on its way to an infra version.
#[derive(Clone, Copy)]
pub struct Way<'a> {
    /// How far it is; not [`Phase::Done`].
    pub phase: Phase,
    /// What it is being brought to.
    pub target: &'a HostSpec,
    /// What a look at an instance of that found, against what it is being brought to.
    pub see: &'a dyn Fn(&InstanceSpec) -> Seen,
}

impl std::fmt::Debug for Way<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Way").field("phase", &self.phase).finish_non_exhaustive()
    }
}

impl Way<'_> {
    /// How the apps do, which are to get ready within the infra's gate.
    fn apps(&self, gate: Option<Duration>) -> Vec<(InstanceSpec, Seen)> {
        let apps = self.target.instances.iter().filter(|spec| !is_infra(&spec.id.fleet));
        let look = |spec: &InstanceSpec| {
            let seen = (self.see)(spec);
            // Until its turn has come, how it does is no work of the new version.
            let waits = seen.waits || (!seen.begun && self.phase != Phase::Starting);
            (InstanceSpec { gate, ..spec.clone() }, Seen { waits, ..seen })
        };
        apps.map(look).collect()
    }
}

/// What one look at an instance found, against what is wanted of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Whether its record is the wanted one.
    pub begun: bool,
    /// Whether it has reached what is wanted.
    pub verdict: Verdict,
    /// Whether it waits for what it needs before it may start, or is not allowed to: an image, a
    /// secret, room, its turn, another instance. Nothing bad runs then.
    pub waits: bool,
}

/// A fleet that goes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WentBack {
    /// The instance that did not get ready.
    pub instance: InstanceId,
    /// The revision that was tried.
    pub from: u64,
    /// The revision that had proved ready before.
    pub to: u64,
    /// Which instance did not get ready, and why, for people.
    pub why: String,
}

/// What a look changed of what is remembered of a fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It has proved ready as it is wanted.
    Proved(FleetName),
    /// It goes back.
    WentBack(FleetName, WentBack),
}

/// What is remembered of the fleets of a host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    pasts: BTreeMap<FleetName, Past>,
    wishes: Wishes,
    trials: BTreeMap<FleetName, Trial>,
}

/// How what is wanted and has not proved itself yet is getting on.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Trial {
    looked: Timestamp,
    /// How many instances have been begun from another configuration than the good one.
    begun: usize,
    instances: BTreeMap<InstanceId, Progress>,
}

/// How one instance is getting on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Progress {
    /// How long it has been not ready since it was begun.
    unready: Duration,
    /// How long ago it failed, if it has not been ready since. Being started once more is no end of
    /// it: what fails over and over does that all the time.
    failing: Option<Duration>,
    /// Whether it was ready once.
    was_ready: bool,
    /// For how long it has been, without a break.
    ready: Duration,
    /// Whether that was for long enough. What fails after that does not fail of what is new, even
    /// where another instance has yet to come.
    settled: bool,
}

impl Memory {
    /// With what outlived the agent.
    #[must_use]
    pub fn new(pasts: BTreeMap<FleetName, Past>) -> Self {
        Self { pasts, ..Self::default() }
    }

    /// What is remembered of a fleet.
    #[must_use]
    pub fn past(&self, fleet: &FleetName) -> Option<&Past> {
        self.pasts.get(fleet)
    }

    /// Every instance that a fleet may have to go back to: what it needs is to be kept.
    pub fn good(&self) -> impl Iterator<Item = &InstanceSpec> {
        self.pasts.values().flat_map(|past| &past.good)
    }

    /// Why a fleet went back; `None` where it did not.
    #[must_use]
    pub fn went_back(&self, fleet: &FleetName) -> Option<&Rejected> {
        self.pasts.get(fleet)?.rejected.as_ref()
    }

    /// Whether something is wanted that has yet to prove itself.
    #[must_use]
    pub fn is_trying(&self) -> bool {
        !self.trials.is_empty()
    }

    /// Takes in what is wanted from now on. Whoever wants something else than was rejected has it
    /// tried, and a fleet that is not wanted here any more is forgotten. Gives the fleets of which
    /// something else is remembered than before.
    pub fn want(&mut self, wishes: Wishes) -> Vec<FleetName> {
        let is_new = |fleet: &FleetName| self.wishes.get(fleet) != wishes.get(fleet);
        self.trials.retain(|fleet, _| !is_new(fleet));
        let mut changed = Vec::new();
        for (fleet, past) in &mut self.pasts {
            let wish = wishes.get(fleet);
            let over = past.rejected.take_if(|rejected| Some(&rejected.wish) != wish).is_some();
            if over || wish.is_none() {
                changed.push(fleet.clone());
            }
        }
        self.pasts.retain(|fleet, _| wishes.contains_key(fleet));
        self.wishes = wishes;
        changed
    }

    /// What the host is to be brought to: `desired`, with what proved good in place of what was
    /// rejected. Only fleets that `may` do so go back.
    #[must_use]
    pub fn effective<'a>(
        &self,
        desired: &'a HostSpec,
        may: impl Fn(&FleetName) -> bool,
    ) -> Cow<'a, HostSpec> {
        let back = |fleet: &FleetName| {
            let past = self.pasts.get(fleet)?;
            past.rejected.as_ref().filter(|_| may(fleet)).map(|rejected| (past, rejected))
        };
        let all: Vec<_> = self.pasts.keys().filter_map(back).collect();
        if all.is_empty() {
            return Cow::Borrowed(desired);
        }
        let instances = desired.instances.iter().filter_map(|spec| match back(&spec.id.fleet) {
            Some((past, _)) => past.back(spec),
            None => Some(spec.clone()),
        });
        let mut instances: Vec<InstanceSpec> = instances.collect();
        let taken: Vec<MachineName> = desired.instances.iter().map(|i| i.id.machine()).collect();
        for (past, rejected) in all {
            let missing = past.good.iter().filter(|good| !taken.contains(&good.id.machine()));
            let revision = rejected.revision;
            instances.extend(missing.map(|good| InstanceSpec { revision, ..good.clone() }));
        }
        instances.sort_by(|a, b| a.id.cmp(&b.id));
        let infra = desired.instances.iter().map(|spec| &spec.id.fleet).find(|f| is_infra(f));
        let infra = match (infra.and_then(back), &desired.infra) {
            (None, wanted) => wanted.clone(),
            (Some((past, _)), Some(tried)) => past.infra.as_ref().map(|i| i.instead_of(tried)),
            (Some((past, _)), None) => past.infra.clone(),
        };
        Cow::Owned(HostSpec { instances, infra, ..desired.clone() })
    }

    /// Takes in a look at the host, which was brought towards `desired` since it came. `way` is where
    /// it is on to an infra version, if it is.
    pub fn look(
        &mut self,
        desired: &HostSpec,
        see: impl Fn(&InstanceSpec) -> Seen,
        way: Option<Way<'_>>,
        now: Timestamp,
    ) -> Vec<Change> {
        let fleets = desired.instances.chunk_by(|a, b| a.id.fleet == b.id.fleet);
        let fleets = fleets.map(|instances| {
            let is_infra = instances.first().is_some_and(|spec| is_infra(&spec.id.fleet));
            (is_infra, Fleet { instances, infra: desired.infra.as_ref().filter(|_| is_infra) })
        });
        let fleets: Vec<(bool, Fleet<'_>)> = fleets.collect();
        let mut infra = fleets.iter().filter(|(is_infra, _)| *is_infra);
        // What an app does on the way is the infra's doing, where that may go back for it.
        let tries = way.is_some() && infra.any(|(_, wanted)| self.may_go_back(*wanted));
        let looked = fleets.into_iter().filter(|(is_infra, _)| *is_infra || !tries);
        looked.filter_map(|(_, wanted)| self.look_at(wanted, &see, way, now)).collect()
    }

    fn may_go_back(&self, wanted: Fleet<'_>) -> bool {
        let fleet = wanted.instances.first().map(|spec| &spec.id.fleet);
        let Some(past) = fleet.and_then(|fleet| self.pasts.get(fleet)) else { return false };
        let gated = wanted.instances.iter().any(|spec| spec.gate.is_some());
        gated && past.rejected.is_none() && !past.good.is_empty() && !past.is_same(wanted)
    }

    fn look_at(
        &mut self,
        wanted: Fleet<'_>,
        see: impl Fn(&InstanceSpec) -> Seen,
        way: Option<Way<'_>>,
        now: Timestamp,
    ) -> Option<Change> {
        let fleet = &wanted.instances.first()?.id.fleet;
        let past = self.pasts.entry(fleet.clone()).or_default();
        if past.rejected.is_some() {
            return None;
        }
        let mut seen: Vec<(InstanceSpec, Seen)> =
            wanted.instances.iter().map(|spec| (spec.clone(), see(spec))).collect();
        let on_its_way = way.filter(|_| wanted.infra.is_some());
        if on_its_way.is_none() && seen.iter().all(|(_, seen)| seen.verdict == Verdict::Ready) {
            self.trials.remove(fleet);
            // What an operator has stopped is as they want it, and proves nothing.
            if wanted
                .instances
                .iter()
                .any(|spec| spec.run == RunState::Stopped && past.differs(spec))
            {
                return None;
            }
            let new = past.good != wanted.instances || past.infra.as_ref() != wanted.infra;
            if new {
                past.good = wanted.instances.to_vec();
                past.infra = wanted.infra.cloned();
            }
            return new.then(|| Change::Proved(fleet.clone()));
        }
        if past.good.is_empty() || past.is_same(wanted) {
            self.trials.remove(fleet);
            return None;
        }
        let from = wanted.instances.iter().map(|spec| spec.revision).max()?;
        let gate = wanted.instances.iter().filter_map(|spec| spec.gate).max();
        seen.extend(on_its_way.iter().flat_map(|way| way.apps(gate)));
        let trial = self.trials.entry(fleet.clone()).or_insert_with(|| Trial::new(now));
        let (instance, why) = trial.look(past, wanted.infra, &seen, now)?;
        self.trials.remove(fleet);
        let to = past.good.iter().map(|good| good.revision).max()?;
        let wish = *self.wishes.get(fleet)?;
        past.rejected = Some(Rejected { wish, revision: from, why: why.clone(), at: now });
        Some(Change::WentBack(fleet.clone(), WentBack { instance, from, to, why }))
    }
}

fn version(infra: Option<&HostInfra>) -> Option<&InfraVersion> {
    infra.map(|infra| &infra.version)
}

impl Trial {
    fn new(now: Timestamp) -> Self {
        Self { looked: now, begun: 0, instances: BTreeMap::new() }
    }

    /// Takes in a look; gives the instance that failed for good, and why.
    fn look(
        &mut self,
        past: &Past,
        infra: Option<&HostInfra>,
        all: &[(InstanceSpec, Seen)],
        now: Timestamp,
    ) -> Option<(InstanceId, String)> {
        // Another infra version is another container for all.
        let anew = version(infra) != version(past.infra.as_ref());
        let differs = |spec: &InstanceSpec| anew || past.differs(spec);
        let passed = now.since(self.looked).min(BETWEEN_LOOKS);
        self.looked = now;
        let is_begun = |(spec, seen): &&(InstanceSpec, Seen)| seen.begun && differs(spec);
        let begun = all.iter().filter(is_begun).count();
        if std::mem::replace(&mut self.begun, begun) != begun {
            self.instances.values_mut().for_each(Progress::unsettle);
        }
        for (spec, seen) in all {
            let progress = self.instances.entry(spec.id.clone()).or_default();
            let differs = differs(spec);
            if seen.verdict == Verdict::Ready {
                progress.is_ready(spec, passed);
                continue;
            }
            // What is as it was can fail of what is not, and for that something must be.
            progress.is_not(seen, seen.begun && differs, begun > 0 || differs, passed);
            if let Some(why) = progress.failure(spec, seen) {
                return Some((spec.id.clone(), why));
            }
        }
        None
    }
}

impl Progress {
    /// Something else has come: it has to prove itself with that, too.
    fn unsettle(&mut self) {
        (self.ready, self.settled) = (Duration::ZERO, false);
    }

    fn is_ready(&mut self, spec: &InstanceSpec, passed: Duration) {
        let ready = self.ready + passed;
        let settled = self.settled || spec.gate.is_some_and(|gate| ready >= gate);
        *self = Self { was_ready: true, ready, settled, ..Self::default() };
    }

    fn is_not(&mut self, seen: &Seen, begun: bool, concerned: bool, passed: Duration) {
        self.ready = Duration::ZERO;
        if seen.waits {
            return;
        }
        if begun {
            self.unready += passed;
        }
        let fails = concerned && matches!(seen.verdict, Verdict::Failed(_));
        self.failing = match self.failing {
            Some(failing) => Some(failing + passed),
            None => fails.then_some(Duration::ZERO),
        };
    }

    /// Why the instance has failed for good.
    fn failure(&self, spec: &InstanceSpec, seen: &Seen) -> Option<String> {
        let gate = spec.gate.filter(|_| !self.settled)?;
        if spec.paused || spec.run == RunState::Stopped || seen.waits {
            return None;
        }
        let id = &spec.id;
        match &seen.verdict {
            Verdict::Failed(why) if self.failing.is_some_and(|failing| failing >= PATIENCE) => {
                Some(format!("{id} failed: {why}"))
            }
            Verdict::Failed(why) | Verdict::Waiting(why)
                if !self.was_ready && !self.unready.is_zero() && self.unready >= gate =>
            {
                Some(format!("{id} was not ready within {gate:?}: {why}"))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
