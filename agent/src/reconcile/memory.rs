//! What no observation can show: how starts and repairs have gone, and the last error of each
//! machine. Forgotten when the agent restarts, which costs a try too early and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use shoal_core::hooks::Ran;
use shoal_core::name::MachineName;
use shoal_core::plan::{Action, Attempts, Plan, Unit};
use shoal_core::time::Timestamp;

use crate::host::Observation;

/// How long a container must have run for its earlier failures to be forgotten.
const FORGIVEN_AFTER: Duration = Duration::from_secs(60);
/// How long nothing must have been changed behind our back for earlier repairs to be forgotten.
const CALM: Duration = Duration::from_secs(10 * 60);

/// How long ago a hook may have ended for an agent that has just begun to tell of it. Whoever was
/// told already knows it by its time.
const RECENT: Duration = Duration::from_secs(60 * 60);

/// What one agent remembers of its machines.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Starts since the record was written.
    attempts: BTreeMap<MachineName, Attempts>,
    /// Repairs of what someone else changed.
    repairs: BTreeMap<MachineName, Attempts>,
    /// Machines whose last steps did not all succeed, and when to try again.
    stuck: BTreeMap<MachineName, Attempts>,
    /// The last error of each machine.
    pub(super) errors: BTreeMap<MachineName, String>,
    /// Machines that are being put right and have yet to be seen well.
    mending: BTreeSet<MachineName>,
    /// When the last hook of each machine had ended that people were told of.
    hooks: BTreeMap<MachineName, Timestamp>,
    /// Steps for the host as a whole that have failed, by name, with why.
    host_errors: BTreeMap<&'static str, String>,
    /// The generation that was last wanted.
    generation: u64,
}

impl Memory {
    /// Adds to an observation what planning needs and no look at the host can show.
    pub(super) fn add_to(&self, observation: &mut Observation) {
        for (machine, found) in &mut observation.observed.machines {
            found.attempts = self.attempts.get(machine).copied().unwrap_or_default();
            found.repairs = self.repairs.get(machine).copied().unwrap_or_default();
        }
        observation.problems.extend(self.host_problems());
    }

    /// Notes how a step for the host as a whole has gone.
    pub(super) fn host_outcome(&mut self, step: &'static str, error: Option<String>) {
        match error {
            Some(error) => drop(self.host_errors.insert(step, error)),
            None => drop(self.host_errors.remove(step)),
        }
    }

    /// What of the host as a whole could not be done, for people.
    pub(super) fn host_problems(&self) -> Vec<String> {
        self.host_errors.iter().map(|(step, why)| format!("can't {step}: {why}")).collect()
    }

    /// Forgets what could not be done and is not to be done any more.
    pub(super) fn keep_host_errors(&mut self, plan: &Plan) {
        let planned = |name| plan.discard.iter().chain(&plan.host).any(|s| s.action.name() == name);
        self.host_errors.retain(|name, _| planned(*name));
    }

    /// Notes which generation is wanted. What could not be done for another one is tried at once.
    pub(super) fn new_wish(&mut self, generation: u64) {
        if std::mem::replace(&mut self.generation, generation) != generation {
            self.try_again();
        }
    }

    /// What could not be done is tried at once: something else is to be done.
    pub(super) fn try_again(&mut self) {
        self.stuck.clear();
    }

    /// The machines whose steps have failed, and until when they are not tried again: what can't be
    /// done (a missing unit file, a full disk) is not tried four times a second.
    pub(super) fn held(&self, now: Timestamp) -> BTreeMap<MachineName, Timestamp> {
        let until = |attempts: &Attempts| attempts.wait_until(now);
        let stuck = self.stuck.iter();
        stuck.filter_map(|(machine, stuck)| Some((machine.clone(), until(stuck)?))).collect()
    }

    /// Forgets that steps could not be taken where none are needed any more.
    pub(super) fn unstick(&mut self, plan: &Plan) {
        let errors = &mut self.errors;
        self.stuck.retain(|machine, _| {
            let needed = plan.held.contains(machine) || plan.machines.contains_key(machine);
            if !needed {
                errors.remove(machine);
            }
            needed
        });
    }

    /// Takes in what one round of steps came to. A new record begins at no starts, and so does what
    /// an operator has stopped; a start that is not the first is a retry.
    pub(super) fn took(&mut self, machine: &MachineName, taken: &[Action], now: Timestamp) {
        let anew = |a: &Action| matches!(a, Action::Write(..) | Action::Remove | Action::Disable);
        if taken.iter().any(anew) {
            self.attempts.remove(machine);
            self.errors.remove(machine);
        }
        if taken.iter().any(|a| matches!(a, Action::Start)) {
            let attempts = self.attempts.entry(machine.clone()).or_default();
            *attempts = attempts.again(now);
        }
    }

    /// The hooks that have ended well since this was last asked; at first, those of the last hour.
    pub(super) fn hooks_that_ran(
        &mut self,
        observation: &Observation,
        now: Timestamp,
    ) -> Vec<(MachineName, Ran)> {
        let mut news = Vec::new();
        for (machine, details) in &observation.details {
            let Some(ran) = &details.ran else { continue };
            let before = self.hooks.insert(machine.clone(), ran.at);
            let is_new = before.map_or(now.since(ran.at) < RECENT, |before| before != ran.at);
            if is_new {
                news.push((machine.clone(), ran.clone()));
            }
        }
        self.hooks.retain(|machine, _| observation.details.contains_key(machine));
        news
    }

    /// Notes that what someone else changed was, or is being, put right.
    pub(super) fn repaired(&mut self, machine: &MachineName, now: Timestamp) {
        let repairs = self.repairs.entry(machine.clone()).or_default();
        *repairs = repairs.again(now);
        self.mending.insert(machine.clone());
    }

    /// Notes that an instance that was to run did not, and is being started again.
    pub(super) fn revived(&mut self, machine: &MachineName) {
        self.mending.insert(machine.clone());
    }

    /// Whether this is the moment at which a machine that was put right is seen well.
    pub(super) fn mended(&mut self, machine: &MachineName) -> bool {
        self.mending.remove(machine)
    }

    /// Notes whether a machine's steps could be taken.
    pub(super) fn outcome(&mut self, machine: &MachineName, error: Option<String>, now: Timestamp) {
        let Some(error) = error else {
            if self.stuck.remove(machine).is_some() {
                self.errors.remove(machine);
            }
            return;
        };
        let stuck = self.stuck.entry(machine.clone()).or_default();
        *stuck = stuck.again(now);
        self.errors.insert(machine.clone(), error);
    }

    /// Whether the machine's last steps could not be taken.
    pub(super) fn is_stuck(&self, machine: &MachineName) -> bool {
        self.stuck.contains_key(machine)
    }

    /// Forgets what time has healed, and machines that are gone.
    pub(super) fn forgive(&mut self, observation: &Observation, now: Timestamp) {
        let there = &observation.observed.machines;
        for (machine, found) in there {
            let since = observation.details.get(machine).and_then(|details| details.since);
            if found.unit == Unit::Active {
                if !self.stuck.contains_key(machine) {
                    self.errors.remove(machine);
                }
                if since.is_some_and(|since| now.since(since) > FORGIVEN_AFTER) {
                    self.attempts.remove(machine);
                }
            }
        }
        self.repairs.retain(|machine, repairs| {
            let calm = repairs.last.is_none_or(|last| now.since(last) > CALM);
            let drifting = there.get(machine).is_some_and(|found| !found.drift.is_empty());
            there.contains_key(machine) && (drifting || !calm)
        });
        self.attempts.retain(|machine, _| there.contains_key(machine));
        self.mending.retain(|machine| there.contains_key(machine));
        let stuck = &self.stuck;
        self.errors.retain(|machine, _| there.contains_key(machine) || stuck.contains_key(machine));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operators_stop_and_start_is_no_crash() {
        let (mut memory, machine) = (Memory::default(), "a-b".parse().unwrap());
        let failures = |memory: &Memory, machine| {
            memory.attempts.get(machine).map_or(0, |attempts| attempts.failures)
        };
        for second in 0..9 {
            memory.took(&machine, &[Action::Disable, Action::Stop], Timestamp(second * 1000));
            memory.took(&machine, &[Action::Enable, Action::Start], Timestamp(second * 1000));
            assert_eq!(failures(&memory, &machine), 1);
        }
        memory.took(&machine, &[Action::Start], Timestamp(9000));
        assert_eq!(failures(&memory, &machine), 2);
    }

    #[test]
    fn a_hook_is_told_of_once() {
        use crate::host::Details;
        use shoal_core::hooks::Mode;
        let mut memory = Memory::default();
        let mut told = |hours: &[u64], now: u64| {
            let ran = |hour: u64| Ran {
                mode: Mode::New,
                from: None,
                to: "app:1".parse().unwrap(),
                at: Timestamp(hour * 3_600_000),
                took_ms: 1,
            };
            let mut observation = Observation::default();
            for (number, hour) in hours.iter().enumerate() {
                let details = Details { ran: Some(ran(*hour)), ..Details::default() };
                observation.details.insert(format!("a-{number}").parse().unwrap(), details);
            }
            memory.hooks_that_ran(&observation, Timestamp(now * 3_600_000)).len()
        };
        assert_eq!(told(&[5, 1], 5), 1, "one of them was long before");
        assert_eq!(told(&[5, 1], 5), 0);
        assert_eq!(told(&[6, 1], 9), 1);
        assert_eq!(told(&[], 9), 0);
        assert_eq!(told(&[6], 9), 0, "it was away and is as it was");
    }
}
