//! Who may start now: after those that it comes after, and not too many at once.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Machine, Observed, Unit, Wanted};
use crate::infra::is_infra;
use crate::name::{InstanceId, MachineName};
use crate::spec::{InstanceSpec, RunState};
use crate::time::Timestamp;

/// How long a container that is on its way up counts against those that want to begin: one that
/// hangs at boot must not keep all others down.
const COUNTS_FOR: Duration = Duration::from_secs(60);

/// What lets instances start.
pub(super) struct Gate<'a> {
    wanted: Wanted<'a>,
    observed: &'a Observed,
    here: BTreeMap<&'a InstanceId, &'a InstanceSpec>,
    /// How many are on their way up.
    starting: usize,
}

impl<'a> Gate<'a> {
    pub(super) fn new(wanted: Wanted<'a>, observed: &'a Observed, now: Timestamp) -> Self {
        let young = |m: &&Machine| {
            m.attempts.last.is_some_and(|last| last <= now && now.since(last) < COUNTS_FOR)
        };
        let starting = observed.machines.values().filter(|m| m.unit == Unit::Activating);
        let starting = starting.filter(young).count();
        let here = wanted.spec.instances.iter().map(|spec| (&spec.id, spec)).collect();
        Self { wanted, observed, here, starting }
    }

    /// What an instance waits for before it may be started or replaced.
    pub(super) fn waits_for(&self, spec: &InstanceSpec) -> Option<String> {
        let after = &spec.config.settings.after;
        let mut unready = after.iter().filter(|id| **id != spec.id && !self.is_ready(id));
        unready.next().map(|id| format!("waits for {id} to be ready"))
    }

    /// An instance of the infra here that is not ready as it is wanted.
    pub(super) fn unready_infra(&self) -> Option<&'a InstanceId> {
        let mut infra = self.here.keys().filter(|id| is_infra(&id.fleet));
        infra.find(|id| !self.is_ready_here(id)).copied()
    }

    fn is_ready(&self, id: &InstanceId) -> bool {
        self.is_ready_here(id)
            && self.wanted.ready_elsewhere.is_none_or(|ready| {
                // Those that are all on this host are not told of.
                ready.contains(id) || self.here.contains_key(id)
            })
    }

    /// Whether the one here, if there is one, is ready as it is wanted now. One that an operator
    /// has stopped or paused is not waited for: that is how they want it.
    fn is_ready_here(&self, id: &InstanceId) -> bool {
        let Some(spec) = self.here.get(id) else { return true };
        if spec.run == RunState::Stopped || spec.paused {
            return true;
        }
        let found = self.observed.machines.get(&id.machine());
        found.is_some_and(|found| {
            let infra = self.wanted.spec.infra.as_ref().map(|infra| &infra.version);
            let current = found.applied.as_ref().is_some_and(|applied| applied.is(spec, infra));
            found.ready && current
        })
    }

    /// Takes one of the places of those that start; says why where none is free.
    pub(super) fn take_place(&mut self, machine: &MachineName) -> Result<(), String> {
        if self.wanted.held.contains_key(machine) {
            return Ok(());
        }
        if self.starting >= self.wanted.at_once {
            return Err(format!("waits for its turn: {} others are starting", self.starting));
        }
        self.starting += 1;
        Ok(())
    }
}
