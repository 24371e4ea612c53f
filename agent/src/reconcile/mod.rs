//! The loop that makes the host as wanted: observe, plan, carry out, observe again, report.
//!
//! One task owns it. It wakes at a new desired state, at each change of an instance's unit, when a
//! transfer, a check or the controller has news, and on a timer, which is what finds other drift. What it does is
//! decided in `shoal_core::plan`; what no observation can show is in [`memory`], what people are told
//! in [`news`]. Where what is wanted does not get ready, what did before is planned in its place
//! ([`crate::fallback`]).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use shoal_core::agent_upgrade::{self, AgentStatus};
use shoal_core::event::{Event, EventKind};
use shoal_core::fallback::{Seen, Way, WentBack};
use shoal_core::host::{HostFacts, HostSpec};
use shoal_core::infra::{Phase, is_infra};
use shoal_core::name::{HostName, InstanceId, MachineName};
use shoal_core::plan::{Action, Plan, Step, Unit, Wanted, plan};
use shoal_core::spec::{InstanceSpec, RunState};
use shoal_core::status::{Health, HostStatus, State, Verdict};
use shoal_core::time::Timestamp;
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::clock;
use crate::events::Events;
use crate::fallback::Fallback;
use crate::host::enter::Container;
use crate::host::probe::Probe;
use crate::host::{Host, Observation};
use crate::monitor::Monitor;
use crate::stage::Stager;
use crate::status::{Inputs, is_ready, report};

mod memory;
mod news;

use memory::Memory;
use news::Ids;

/// How often a host at rest is looked at, for what nobody tells of: units that change ring by
/// themselves.
const AT_REST: Duration = Duration::from_secs(10);
/// How soon one is looked at again that could not be.
const AFTER_FAILURE: Duration = Duration::from_secs(5);
/// How often one is looked at where something is on its way.
const ON_THE_WAY: Duration = Duration::from_millis(250);
/// How often one is looked at where nothing can be done before something else is over.
const MOVING: Duration = Duration::from_secs(1);
/// Machines that are changed at once, and the least that may be on their way up at once: starting
/// a system is work, and a host has others to run.
const AT_ONCE: usize = 4;
/// How long looking up why units failed may hold up the loop.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The host that a loop is for.
#[derive(Debug)]
pub struct About {
    /// Its name.
    pub name: HostName,
    /// What is known of it, its policy among that.
    pub facts: HostFacts,
    /// Of the instances elsewhere that others here come after, those that are ready; `None` while
    /// there is no controller to say so.
    pub ready_elsewhere: watch::Receiver<Option<BTreeSet<InstanceId>>>,
    /// How far the agent's own upgrade is.
    pub agent: watch::Receiver<Option<AgentStatus>>,
}

/// What the loop works with.
#[derive(Debug)]
pub struct Reconciler<H> {
    host: Arc<H>,
    about: About,
    stager: Stager,
    fallback: Fallback,
    monitor: Monitor,
    bell: Arc<Notify>,
    memory: Memory,
    report: watch::Sender<HostStatus>,
    events: Events,
}

impl<H: Host + 'static> Reconciler<H> {
    /// For `host`. Reports go to `report`, and what people should know to `events`; `bell` is rung
    /// by whoever has news.
    #[must_use]
    pub fn new(
        host: Arc<H>,
        about: About,
        stager: Stager,
        fallback: Fallback,
        bell: Arc<Notify>,
        report: watch::Sender<HostStatus>,
        events: Events,
    ) -> Self {
        let monitor = Monitor::new(host.clone(), bell.clone());
        let memory = Memory::default();
        Self { host, about, stager, fallback, monitor, bell, memory, report, events }
    }

    /// Runs until `stop`. A `desired` of `None` means that nothing was ever wanted: then nothing
    /// is touched.
    pub async fn run(
        mut self,
        mut desired: watch::Receiver<Option<HostSpec>>,
        stop: CancellationToken,
    ) {
        let mut is_new = true;
        loop {
            let spec = {
                let wanted = desired.borrow_and_update();
                is_new |= wanted.has_changed();
                wanted.clone()
            };
            if let Some(spec) = spec.as_ref().filter(|_| std::mem::take(&mut is_new)) {
                self.fallback.want(spec);
            }
            let pause = match &spec {
                Some(spec) => self.pass(spec).await,
                None => AT_REST,
            };
            // Each of these can be dropped at any time without losing anything: a watch keeps its
            // value, a bell its ring, and the rest is looked up anew.
            tokio::select! {
                () = stop.cancelled() => return,
                changed = desired.changed() => match changed {
                    Ok(()) => is_new = true,
                    Err(_) => return,
                },
                // Its sender lives as long as the link, which ends only with the agent.
                Ok(()) = self.about.ready_elsewhere.changed() => {},
                () = self.bell.notified() => {},
                () = tokio::time::sleep(pause) => {},
            }
        }
    }

    /// Tells what is wrong with the host where that is all that can be told.
    fn tell_problems(&self) -> Duration {
        let problems = self.memory.host_problems();
        let pause = if problems.is_empty() { ON_THE_WAY } else { AFTER_FAILURE };
        self.report.send_if_modified(|status| {
            let new = !problems.is_empty() && status.problems != problems;
            if new {
                status.problems = problems;
            }
            new
        });
        pause
    }

    /// One pass. Gives how long to wait for the next, if nothing else calls for one.
    async fn pass(&mut self, desired: &HostSpec) -> Duration {
        self.memory.new_wish(desired.generation);
        let spec = &*self.fallback.effective(desired);
        let Some(before) = self.observe(spec).await else { return AFTER_FAILURE };
        if let Some(revision) = before.half_back {
            let reason = format!("the data of before infra revision {revision} is half back");
            self.tidy(spec, &Step { action: Action::PutBack(revision), reason }).await;
            return self.tell_problems();
        }
        let (steps, _) = self.plan(spec, &before);
        self.memory.unstick(&steps);
        self.stager.want(&steps.stage);
        let idle = steps.machines.is_empty() && steps.host.is_empty();
        self.carry_out(spec, &before, &steps).await;
        // Where nothing was done, what was seen before still holds.
        let after = if idle { Some(before) } else { self.observe(spec).await };
        let Some(after) = after else { return AFTER_FAILURE };
        self.note_failures(&after).await;
        self.tell_hooks(spec, &after);
        self.watch_health(spec, &after);
        let (rest, again) = self.plan(spec, &after);
        let settling = self.publish(desired, spec, &after, &rest);
        self.judge(desired, spec, &after, &rest);
        match (settling, self.fallback.is_trying()) {
            (true, _) => again.min(ON_THE_WAY),
            (false, true) => again.min(MOVING),
            (false, false) => again,
        }
    }

    async fn observe(&mut self, spec: &HostSpec) -> Option<Observation> {
        match self.host.observe(spec).await {
            Ok(mut observation) => {
                self.memory.add_to(&mut observation);
                observation.observed.agent = self.agent(spec);
                self.tell_news(&mut observation);
                let (health, now) = (self.monitor.verdicts(), clock::now());
                for (machine, found) in &mut observation.observed.machines {
                    let details = observation.details.get(machine);
                    found.ready = is_ready(found, details, health.get(machine), now);
                }
                Some(observation)
            }
            Err(error) => {
                warn!(error = %crate::chain(&error), "cannot observe the host");
                let problem = crate::chain(&error);
                self.report.send_if_modified(|status| {
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
        let ready = self.about.ready_elsewhere.borrow().clone();
        let wanted = Wanted {
            spec,
            host: &self.about.name,
            facts: &self.about.facts,
            policy: &self.about.facts.policy,
            ready_elsewhere: ready.as_ref(),
            held: &self.memory.held(now),
            kept: &self.fallback.secrets(),
            kept_images: &self.fallback.images(),
            at_once: self.at_once(),
        };
        let steps = plan(wanted, &observation.observed, now);
        let mut machines = observation.observed.machines.values();
        let moving = machines.any(|m| matches!(m.unit, Unit::Activating | Unit::Deactivating));
        // Nobody rings when data is copied, or measured.
        let data = steps.infra.0 == Phase::Data || observation.observed.data_blocked.is_some();
        let moving = moving || data;
        // systemd tells of what moves; this is for what it does not.
        let pause = match (steps.machines.is_empty(), moving) {
            (false, _) => ON_THE_WAY,
            (true, true) => MOVING,
            (true, false) => AT_REST,
        };
        let due = steps.again_at.map_or(AT_REST, |at| at.since(now).max(ON_THE_WAY));
        (steps, pause.min(due))
    }

    /// Containers that may be on their way up at once.
    fn at_once(&self) -> usize {
        usize::try_from(self.about.facts.cpus).unwrap_or(1).saturating_mul(2).max(AT_ONCE)
    }

    /// Looks after failures that only time shows: why a unit failed, and that it has recovered.
    async fn note_failures(&mut self, observation: &Observation) {
        self.memory.forgive(observation, clock::now());
        let until = tokio::time::Instant::now() + LAST_WORDS;
        for (machine, found) in &observation.observed.machines {
            let details = observation.details.get(machine).cloned().unwrap_or_default();
            let failed = found.unit == Unit::Failed || details.restarting;
            if failed && !self.memory.errors.contains_key(machine) {
                let words = tokio::time::timeout_at(until, self.host.last_words(machine));
                let words = words.await.ok().flatten();
                let result = details.result.unwrap_or_else(|| "ended".into());
                let text = words.map_or(result.clone(), |words| format!("{words} ({result})"));
                self.memory.errors.insert(machine.clone(), text);
            }
        }
    }

    /// Takes every step that can be taken now: those of one machine in order, up to the first
    /// that fails; one machine's failure holds up no other.
    async fn carry_out(&mut self, spec: &HostSpec, before: &Observation, plan: &Plan) {
        let ids = ids(spec, before);
        self.tell_steps(plan, &ids);
        let places = Semaphore::new(AT_ONCE);
        let work = plan.machines.iter().map(|(machine, steps)| {
            let (host, places) = (self.host.clone(), &places);
            async move {
                let _place = places.acquire().await;
                (machine.clone(), take(host.as_ref(), machine, steps).await)
            }
        });
        for (machine, (taken, error)) in join_all(work).await {
            let now = clock::now();
            self.memory.took(&machine, &taken, now);
            if taken.iter().any(|a| matches!(a, Action::Refresh(..))) {
                self.monitor.forget(&machine);
            }
            if let Some(error) = &error {
                self.tell(&ids, &machine, EventKind::Failed, error.clone());
            }
            if plan.repairs.contains(&machine) {
                self.memory.repaired(&machine, now);
            }
            self.memory.outcome(&machine, error, now);
        }
        self.memory.keep_host_errors(&plan.host);
        for step in &plan.host {
            self.tidy(spec, step).await;
        }
    }

    /// Takes a step that belongs to no machine. One that fails is taken again by the next pass.
    async fn tidy(&mut self, spec: &HostSpec, step: &Step) {
        let (action, reason) = (&step.action, &step.reason);
        let taken = match action {
            Action::Unmount(digest) => {
                info!(image = %digest, %reason, "unmounting an image");
                self.host.unmount(digest).await
            }
            Action::Forget(secret) => self.host.forget(secret).await.map(|removed| {
                if removed {
                    info!(%secret, %reason, "removed a secret");
                }
            }),
            _ => {
                debug!(step = action.name(), %reason, "taking a step for the host");
                self.host.carry_out_for_host(spec, action).await
            }
        };
        let error = taken.err().map(|error| crate::chain(&error));
        if let Some(error) = &error {
            warn!(step = action.name(), error, "a step for the host failed");
        }
        self.memory.host_outcome(action.name(), error);
    }

    /// Tells people what has been done to the host as a whole.
    fn tell_news(&self, observation: &mut Observation) {
        for message in std::mem::take(&mut observation.news) {
            info!(message, "the host has changed");
            let (at, kind) = (clock::now(), EventKind::Step);
            self.events.record(Event { at, instance: None, kind, message });
        }
    }

    fn tell_steps(&mut self, plan: &Plan, ids: &Ids) {
        for (machine, steps) in &plan.machines {
            let repair = plan.repairs.contains(machine);
            let Some((kind, message)) = news::of_steps(steps, repair) else { continue };
            if kind == EventKind::Drift && !repair {
                self.memory.revived(machine);
            }
            // What can't be done over and over is told as the failure that it is.
            if !self.memory.is_stuck(machine) {
                self.tell(ids, machine, kind, message);
            }
        }
    }

    fn tell(&self, ids: &Ids, machine: &MachineName, kind: EventKind, message: String) {
        self.events.record(news::event(ids, machine, kind, message, clock::now()));
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
    fn publish(
        &mut self,
        desired: &HostSpec,
        spec: &HostSpec,
        observation: &Observation,
        plan: &Plan,
    ) -> bool {
        let (transfers, health) = (self.stager.transfers(), self.monitor.verdicts());
        let inputs = Inputs {
            desired,
            spec,
            back: &self.fallback.back(desired),
            observation,
            plan,
            transfers: &transfers,
            health: &health,
            errors: &self.memory.errors,
        };
        let (before, now) = (self.report.borrow().clone(), clock::now());
        let mut after = report(inputs, &before, now);
        after.agent = self.agent(desired);
        (after.transfers, after.serves) = (self.stager.statuses(), self.stager.serves());
        after.problems.extend(after.agent.as_ref().and_then(AgentStatus::problem));
        let restore = spec.infra.as_ref().and_then(|infra| infra.restore.as_ref());
        for event in news::of_reports(&before, &after, restore, now) {
            let (instance, kind) = (event.instance.as_ref(), event.kind);
            info!(instance = instance.map(tracing::field::display), %kind, message = event.message, "an instance changed");
            self.events.record(event);
        }
        self.tell_mended(&after, now);
        // Checks ring the bell; what has none is up when it has been so for a while.
        let unchecked = |id: &InstanceId| {
            let spec = spec.instances.iter().find(|spec| spec.id == *id);
            spec.is_none_or(|spec| spec.config.settings.health.is_none())
        };
        let mut instances = after.instances.iter();
        let settling = instances.any(|i| i.health == Health::Starting && unchecked(&i.id));
        self.report.send_if_modified(|status| {
            let new = *status != after;
            *status = after;
            new
        });
        settling
    }

    /// How far the host is with the agent that it should run.
    fn agent(&self, desired: &HostSpec) -> Option<AgentStatus> {
        let spec = desired.agent.as_ref()?;
        let known = self.about.agent.borrow().clone().filter(|status| status.is_about(spec));
        Some(known.unwrap_or_else(|| AgentStatus::of(spec, agent_upgrade::Phase::Waiting, "")))
    }

    /// Goes back where what is wanted has failed for good.
    fn judge(
        &mut self,
        desired: &HostSpec,
        target: &HostSpec,
        observation: &Observation,
        plan: &Plan,
    ) {
        let at = clock::now();
        let back = {
            let report = self.report.borrow();
            let see = |spec: &InstanceSpec| seen(spec, None, &report, observation, plan);
            let see_target =
                |spec: &InstanceSpec| seen(spec, Some(target), &report, observation, plan);
            let phase = plan.infra.0;
            let way = Way { phase, target, see: &see_target };
            let way = (target.infra.is_some() && phase != Phase::Done).then_some(way);
            self.fallback.look(desired, see, way, at)
        };
        for (fleet, WentBack { instance, from, to, why }) in back {
            let what = if is_infra(&fleet) { "the infra went" } else { "went" };
            let message = format!("{what} back from revision {from} to {to}: {why}");
            let (instance, kind) = (Some(instance), EventKind::WentBack);
            self.events.record(Event { at, instance, kind, message });
            self.memory.try_again();
            self.bell.notify_one();
        }
    }

    /// Says of hooks that they have run. Those that fail are told as the failures that they are.
    fn tell_hooks(&mut self, spec: &HostSpec, observation: &Observation) {
        let news = self.memory.hooks_that_ran(observation, clock::now());
        if news.is_empty() {
            return;
        }
        let ids = ids(spec, observation);
        for (machine, ran) in news {
            self.events.record(news::event(
                &ids,
                &machine,
                EventKind::Step,
                ran.to_string(),
                ran.at,
            ));
        }
    }

    /// Says of what was put right that it is well again.
    fn tell_mended(&mut self, status: &HostStatus, at: Timestamp) {
        for instance in &status.instances {
            let well = instance.verdict() == Verdict::Ready && instance.drift.is_empty();
            let runs = instance.state == State::Running && instance.health != Health::Starting;
            if well && runs && self.memory.mended(&instance.id.machine()) {
                let (kind, message) = (EventKind::Repaired, "as it should be again".into());
                self.events.record(Event {
                    at,
                    instance: Some(instance.id.clone()),
                    kind,
                    message,
                });
            }
        }
    }
}

/// How an instance is getting on with what is wanted of it; or, of a host on its way to an infra
/// version, with the `target` of that, which is no worse for its fleet having gone back before.
fn seen(
    spec: &InstanceSpec,
    target: Option<&HostSpec>,
    report: &HostStatus,
    observation: &Observation,
    plan: &Plan,
) -> Seen {
    let (machine, observed) = (spec.id.machine(), &observation.observed);
    let place = report.instances.binary_search_by(|status| status.id.cmp(&spec.id));
    let mut status = place.ok().and_then(|place| report.instances.get(place)).cloned();
    if let (Some(target), Some(status)) = (target, &mut status) {
        let version = target.infra.as_ref().map(|infra| &infra.version);
        let applied = observed.machines.get(&machine).and_then(|found| found.applied.as_ref());
        status.current = applied.is_some_and(|applied| applied.is(spec, version));
        status.went_back = None;
    }
    let held_up = plan.waiting.contains_key(&machine) || plan.blocked.contains_key(&machine);
    let lacks = !observed.images.contains(&spec.config.image.digest) || observed.no_room.is_some();
    Seen {
        begun: status.as_ref().is_some_and(|status| status.current),
        verdict: status.map_or(Verdict::Waiting("is not reported yet".into()), |s| s.verdict()),
        waits: held_up || lacks,
    }
}

/// Which instance each machine of the host stands for.
fn ids(spec: &HostSpec, observation: &Observation) -> Ids {
    let there = observation.observed.machines.iter();
    let there =
        there.filter_map(|(m, found)| Some((m.clone(), found.applied.as_ref()?.id.clone())));
    let wanted = spec.instances.iter().map(|spec| (spec.id.machine(), spec.id.clone()));
    there.chain(wanted).collect()
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
