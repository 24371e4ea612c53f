//! The loop that makes the host as wanted: observe, plan, carry out, observe again, report.
//!
//! One task owns it. It wakes at a new desired state, at the end of each of systemd's jobs, when
//! a transfer or a check has news, and on a timer, which is what repairs drift. What it does is
//! decided in `shoal_core::plan`; it remembers only what no observation can show: how starts have
//! failed, and the last error of each machine.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use shoal_core::host::{HostFacts, HostSpec};
use shoal_core::name::MachineName;
use shoal_core::plan::{Action, Attempts, Plan, Step, Unit, Wanted, plan};
use shoal_core::policy::Policy;
use shoal_core::spec::RunState;
use shoal_core::status::{Health, HostStatus, State};
use shoal_core::time::Timestamp;
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::clock;
use crate::host::enter::Container;
use crate::host::probe::Probe;
use crate::host::{Host, Observation};
use crate::monitor::Monitor;
use crate::stage::Stager;
use crate::status::{Inputs, report};

/// How often a host at rest is looked at.
const AT_REST: Duration = Duration::from_secs(5);
/// How often one is looked at where something is on its way.
const ON_THE_WAY: Duration = Duration::from_millis(250);
/// Machines that are changed at once: starting a system is work, and a host has others to run.
const AT_ONCE: usize = 4;
/// How long looking up why a unit failed may hold up the loop.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long a container must have run for its earlier failures to be forgotten.
const FORGIVEN_AFTER: Duration = Duration::from_secs(60);

/// What the loop works with.
#[derive(Debug)]
pub struct Reconciler<H> {
    host: Arc<H>,
    facts: HostFacts,
    policy: Policy,
    stager: Stager,
    monitor: Monitor,
    bell: Arc<Notify>,
    attempts: BTreeMap<MachineName, Attempts>,
    errors: BTreeMap<MachineName, String>,
    /// Machines whose last steps did not all succeed, and when to try again.
    stuck: BTreeMap<MachineName, Attempts>,
    status: watch::Sender<HostStatus>,
}

impl<H: Host + 'static> Reconciler<H> {
    /// For `host`. Reports go to `status`; `bell` is rung by whoever has news.
    #[must_use]
    pub fn new(
        host: Arc<H>,
        facts: HostFacts,
        policy: Policy,
        stager: Stager,
        bell: Arc<Notify>,
        status: watch::Sender<HostStatus>,
    ) -> Self {
        let monitor = Monitor::new(host.clone(), bell.clone());
        let (attempts, errors, stuck) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { host, facts, policy, stager, monitor, bell, attempts, errors, stuck, status }
    }

    /// Runs until `stop`. A `desired` of `None` means that nothing was ever wanted: then nothing
    /// is touched.
    pub async fn run(
        mut self,
        mut desired: watch::Receiver<Option<HostSpec>>,
        stop: CancellationToken,
    ) {
        loop {
            let spec = desired.borrow_and_update().clone();
            let pause = match &spec {
                Some(spec) => self.pass(spec).await,
                None => AT_REST,
            };
            // Each of these can be dropped at any time without losing anything: a watch keeps its
            // value, a bell its ring, and the rest is looked up anew.
            tokio::select! {
                () = stop.cancelled() => return,
                changed = desired.changed() => if changed.is_err() { return },
                () = self.bell.notified() => {},
                () = tokio::time::sleep(pause) => {},
            }
        }
    }

    /// One pass. Gives how long to wait for the next, if nothing else calls for one.
    async fn pass(&mut self, spec: &HostSpec) -> Duration {
        let Some(before) = self.observe().await else { return AT_REST };
        let (steps, _) = self.plan(spec, &before);
        self.stager.want(&steps.stage);
        self.carry_out(&steps).await;
        let Some(after) = self.observe().await else { return AT_REST };
        self.note_failures(&after).await;
        self.watch_health(spec, &after);
        let (rest, again) = self.plan(spec, &after);
        let settling = self.publish(spec, &after, &rest);
        if settling { again.min(ON_THE_WAY) } else { again }
    }

    async fn observe(&mut self) -> Option<Observation> {
        match self.host.observe().await {
            Ok(mut observation) => {
                for (machine, found) in &mut observation.observed.machines {
                    found.attempts = self.attempts.get(machine).copied().unwrap_or_default();
                }
                Some(observation)
            }
            Err(error) => {
                warn!(error = %crate::chain(&error), "cannot observe the host");
                let problem = crate::chain(&error);
                self.status.send_if_modified(|status| {
                    let new = status.problems != [problem.clone()];
                    status.problems = vec![problem];
                    new
                });
                None
            }
        }
    }

    fn plan(&self, spec: &HostSpec, observation: &Observation) -> (Plan, Duration) {
        let now = clock::now();
        let wanted = Wanted { spec, facts: &self.facts, policy: &self.policy };
        let mut steps = plan(wanted, &observation.observed, now);
        self.hold_back(&mut steps, now);
        let moving = observation.observed.machines.values();
        let moving =
            moving.into_iter().any(|m| matches!(m.unit, Unit::Activating | Unit::Deactivating));
        let pause = if moving || !steps.machines.is_empty() { ON_THE_WAY } else { AT_REST };
        let due = steps.again_at.map_or(AT_REST, |at| at.since(now).max(ON_THE_WAY));
        (steps, pause.min(due))
    }

    /// Leaves out the machines whose steps have failed, until their pause is over: a step that
    /// can't be done (a missing unit file, a full disk) is not tried four times a second.
    fn hold_back(&self, plan: &mut Plan, now: Timestamp) {
        plan.machines.retain(|machine, _| {
            let until = self.stuck.get(machine).and_then(|attempts| attempts.wait_until(now));
            if let Some(until) = until {
                plan.again_at = Some(plan.again_at.map_or(until, |at| at.min(until)));
            }
            until.is_none()
        });
    }

    /// Looks after failures that only time shows: why a unit failed, and that it has recovered.
    async fn note_failures(&mut self, observation: &Observation) {
        let now = clock::now();
        for (machine, found) in &observation.observed.machines {
            let details = observation.details.get(machine).cloned().unwrap_or_default();
            let up_for = details.since.map_or(Duration::ZERO, |since| now.since(since));
            if found.unit == Unit::Active {
                self.errors.remove(machine);
                if up_for > FORGIVEN_AFTER {
                    self.attempts.remove(machine);
                }
            }
            let failed = found.unit == Unit::Failed || details.restarting;
            if failed && !self.errors.contains_key(machine) {
                let words = tokio::time::timeout(LAST_WORDS, self.host.last_words(machine));
                let words = words.await.ok().flatten();
                let result = details.result.unwrap_or_else(|| "ended".into());
                let text = words.map_or(result.clone(), |words| format!("{words} ({result})"));
                self.errors.insert(machine.clone(), text);
            }
        }
        let there = &observation.observed.machines;
        self.attempts.retain(|machine, _| there.contains_key(machine));
        let stuck = &self.stuck;
        self.errors.retain(|machine, _| there.contains_key(machine) || stuck.contains_key(machine));
    }

    /// Takes every step that can be taken now: those of one machine in order, up to the first
    /// that fails; one machine's failure holds up no other.
    async fn carry_out(&mut self, plan: &Plan) {
        let places = Semaphore::new(AT_ONCE);
        let work = plan.machines.iter().map(|(machine, steps)| {
            let (host, places) = (self.host.clone(), &places);
            async move {
                let _place = places.acquire().await;
                (machine.clone(), take(host.as_ref(), machine, steps).await)
            }
        });
        for (machine, (taken, error)) in join_all(work).await {
            self.remember(&machine, &taken);
            match error {
                None => drop(self.stuck.remove(&machine)),
                Some(error) => {
                    let stuck = self.stuck.entry(machine.clone()).or_default();
                    stuck.failures = stuck.failures.saturating_add(1);
                    stuck.last = Some(clock::now());
                    self.errors.insert(machine, error);
                }
            }
        }
        for step in &plan.host {
            let Action::Unmount(digest) = &step.action else { continue };
            info!(image = %digest, reason = %step.reason, "unmounting an image");
            if let Err(error) = self.host.unmount(digest).await {
                warn!(image = %digest, error = %crate::chain(&error), "cannot unmount an image");
            }
        }
    }

    /// Counts starts: a new record begins at none, and a start that is not the first is a retry.
    fn remember(&mut self, machine: &MachineName, taken: &[Action]) {
        let written = taken.iter().any(|a| matches!(a, Action::Write(_) | Action::Remove));
        if written {
            self.attempts.remove(machine);
            self.errors.remove(machine);
        }
        if taken.iter().any(|a| matches!(a, Action::Start)) {
            let attempts = self.attempts.entry(machine.clone()).or_default();
            attempts.last = Some(clock::now());
            attempts.failures = attempts.failures.saturating_add(1);
        }
    }

    fn watch_health(&mut self, spec: &HostSpec, observation: &Observation) {
        let probes = spec.instances.iter().filter(|i| i.run == RunState::Running);
        let probes = probes.filter_map(|instance| {
            let machine = instance.id.machine();
            let found = observation.observed.machines.get(&machine)?;
            let applied = found.applied.as_ref().filter(|_| found.unit == Unit::Active)?;
            let checks = applied.config.settings.health.clone()?;
            let leader = observation.details.get(&machine)?.leader?;
            let container = Container { leader, unit: machine.unit() };
            Some((machine, Probe { container, checks }))
        });
        self.monitor.watch(probes.collect());
    }

    /// Reports; gives whether an instance is up and not yet known to be well.
    fn publish(&mut self, spec: &HostSpec, observation: &Observation, plan: &Plan) -> bool {
        let (transfers, health) = (self.stager.transfers(), self.monitor.verdicts());
        let inputs = Inputs {
            spec,
            observation,
            plan,
            transfers: &transfers,
            health: &health,
            errors: &self.errors,
        };
        let before = self.status.borrow().clone();
        let after = report(inputs, &before, clock::now());
        for instance in &after.instances {
            let was = before.instances.iter().find(|other| other.id == instance.id);
            if was.map(|w| (w.state, w.health)) != Some((instance.state, instance.health)) {
                let message =
                    instance.message.as_deref().filter(|_| instance.state != State::Running);
                info!(
                    instance = %instance.id,
                    state = %instance.state,
                    health = %instance.health,
                    message,
                    "an instance changed"
                );
            }
        }
        let settling = after.instances.iter().any(|i| i.health == Health::Starting);
        self.status.send_if_modified(|status| {
            let new = *status != after;
            *status = after;
            new
        });
        settling
    }
}

/// Takes steps in order; gives those taken, and the error of the one that failed.
async fn take<H: Host>(
    host: &H,
    machine: &MachineName,
    steps: &[Step],
) -> (Vec<Action>, Option<String>) {
    let mut taken = Vec::new();
    for step in steps {
        info!(machine = %machine, step = step.action.name(), reason = %step.reason, "taking a step");
        if let Err(error) = host.carry_out(machine, &step.action).await {
            let error = crate::chain(&error);
            warn!(machine = %machine, step = step.action.name(), error = %error, "a step failed");
            return (taken, Some(format!("can't {}: {error}", step.action.name())));
        }
        taken.push(step.action.clone());
    }
    (taken, None)
}

#[cfg(test)]
mod tests;
