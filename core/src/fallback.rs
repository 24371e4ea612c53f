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
//! Deliberately absent: data, which no one takes back; a clock; and time that nobody saw pass: a
//! host that was off, or whose clock was set, has kept nobody waiting.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::host::HostSpec;
use crate::image::Digest;
use crate::name::{FleetName, InstanceId, MachineName};
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

    /// Whether these are what proved good, and nothing is to be tried.
    fn is_same(&self, wanted: &[InstanceSpec]) -> bool {
        self.good.len() == wanted.len() && !wanted.iter().any(|spec| self.differs(spec))
    }

    /// An instance as it is to be once its fleet went back; `None` where it was not there then.
    fn back(&self, wanted: &InstanceSpec) -> Option<InstanceSpec> {
        let config = self.proved(&wanted.id)?.config.clone();
        Some(InstanceSpec { config, ..wanted.clone() })
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
        Cow::Owned(HostSpec { instances, ..desired.clone() })
    }

    /// Takes in a look at the host, which was brought towards `desired` since it came.
    pub fn look(
        &mut self,
        desired: &HostSpec,
        see: impl Fn(&InstanceSpec) -> Seen,
        now: Timestamp,
    ) -> Vec<Change> {
        let fleets = desired.instances.chunk_by(|a, b| a.id.fleet == b.id.fleet);
        fleets.filter_map(|wanted| self.look_at(wanted, &see, now)).collect()
    }

    fn look_at(
        &mut self,
        wanted: &[InstanceSpec],
        see: impl Fn(&InstanceSpec) -> Seen,
        now: Timestamp,
    ) -> Option<Change> {
        let fleet = &wanted.first()?.id.fleet;
        let past = self.pasts.entry(fleet.clone()).or_default();
        if past.rejected.is_some() {
            return None;
        }
        let seen: Vec<(&InstanceSpec, Seen)> =
            wanted.iter().map(|spec| (spec, see(spec))).collect();
        if seen.iter().all(|(_, seen)| seen.verdict == Verdict::Ready) {
            self.trials.remove(fleet);
            // What an operator has stopped is as they want it, and proves nothing.
            if wanted.iter().any(|spec| spec.run == RunState::Stopped && past.differs(spec)) {
                return None;
            }
            let new = past.good != wanted;
            if new {
                past.good = wanted.to_vec();
            }
            return new.then(|| Change::Proved(fleet.clone()));
        }
        if past.good.is_empty() || past.is_same(wanted) {
            self.trials.remove(fleet);
            return None;
        }
        let trial = self.trials.entry(fleet.clone()).or_insert_with(|| Trial::new(now));
        let (instance, why) = trial.look(past, &seen, now)?;
        self.trials.remove(fleet);
        let from = seen.iter().map(|(spec, _)| spec.revision).max()?;
        let to = past.good.iter().map(|good| good.revision).max()?;
        let wish = *self.wishes.get(fleet)?;
        past.rejected = Some(Rejected { wish, revision: from, why: why.clone(), at: now });
        Some(Change::WentBack(fleet.clone(), WentBack { instance, from, to, why }))
    }
}

impl Trial {
    fn new(now: Timestamp) -> Self {
        Self { looked: now, begun: 0, instances: BTreeMap::new() }
    }

    /// Takes in a look; gives the instance that failed for good, and why.
    fn look(
        &mut self,
        past: &Past,
        all: &[(&InstanceSpec, Seen)],
        now: Timestamp,
    ) -> Option<(InstanceId, String)> {
        let passed = now.since(self.looked).min(BETWEEN_LOOKS);
        self.looked = now;
        let is_begun = |(spec, seen): &&(&InstanceSpec, Seen)| seen.begun && past.differs(spec);
        let begun = all.iter().filter(is_begun).count();
        if std::mem::replace(&mut self.begun, begun) != begun {
            self.instances.values_mut().for_each(Progress::unsettle);
        }
        for (spec, seen) in all {
            let progress = self.instances.entry(spec.id.clone()).or_default();
            let differs = past.differs(spec);
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
