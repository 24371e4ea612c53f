//! From what was observed to what the agent reports. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use shoal_core::host::HostSpec;
use shoal_core::image::{Digest, PinnedImage};
use shoal_core::infra;
use shoal_core::name::{FleetName, MachineName};
use shoal_core::plan::{Attempts, Machine, Plan, Unit};
use shoal_core::spec::{InstanceSpec, RunState, Start};
use shoal_core::status::{Health, HostStatus, InstanceStatus, RetainedData, State};
use shoal_core::time::Timestamp;
use shoal_core::transfer::{Phase, TransferStatus};

use crate::host::{Details, Hook, Observation};

/// How a transfer stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transfer {
    /// On its way.
    Going(TransferStatus),
    /// Tried again later.
    Failed(String),
    /// There is no room for it on the disk. Tried again too, but time alone makes none.
    NoRoom(String),
}

/// What a report is made of, besides the observation.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// What is wanted.
    pub desired: &'a HostSpec,
    /// What the host is being brought to: what is wanted or, of fleets that went back, what had
    /// proved healthy.
    pub spec: &'a HostSpec,
    /// The fleets that went back, with why.
    pub back: &'a BTreeMap<FleetName, String>,
    /// What is there.
    pub observation: &'a Observation,
    /// What was planned from it.
    pub plan: &'a Plan,
    /// Images that are not here yet.
    pub transfers: &'a BTreeMap<Digest, Transfer>,
    /// What the checks of each running container say, and why.
    pub health: &'a BTreeMap<MachineName, (Health, Option<String>)>,
    /// The last error of each machine.
    pub errors: &'a BTreeMap<MachineName, String>,
}

/// How long a command without checks must have run to count as up: starting is no proof, and most
/// programs that can't run end at once. A booted system tells by itself when it is up.
pub const SETTLE: Duration = Duration::from_secs(3);

/// Characters of a message that are reported.
const LONGEST_MESSAGE: usize = 500;

/// The report. `before` is the last one: what did not change keeps its `since`.
#[must_use]
pub fn report(inputs: Inputs<'_>, before: &HostStatus, now: Timestamp) -> HostStatus {
    let mut instances: Vec<InstanceStatus> =
        inputs.spec.instances.iter().map(|spec| wanted(inputs, spec, now)).collect();
    instances.extend(inputs.desired.instances.iter().filter_map(|spec| taken_away(inputs, spec)));
    instances.extend(unwanted(inputs));
    instances.sort_by(|a, b| a.id.cmp(&b.id));
    for instance in &mut instances {
        instance.since = since(instance, inputs, before, now);
        instance.message = instance.message.take().map(shortened);
    }
    HostStatus {
        observed_generation: inputs.desired.generation,
        instances,
        images: inputs.observation.observed.images.iter().copied().collect(),
        retained: retained(inputs),
        problems: problems(inputs),
        // Put in by whoever knows.
        agent: None,
        infra: infra(inputs),
        transfers: vec![],
        serves: vec![],
    }
}

/// How the host is with its infra; `None` where it has none and is to have none.
fn infra(inputs: Inputs<'_>) -> Option<infra::Status> {
    let observed = &inputs.observation.observed;
    let wants = inputs.spec.infra.as_ref().map(|infra| infra.version.clone());
    let infra::Recorded { version: has, since, restored: _ } = observed.infra.clone();
    let snapshots: Vec<u64> = observed.snapshots.iter().copied().collect();
    if wants.is_none() && has.is_none() && snapshots.is_empty() {
        return None;
    }
    let (phase, waits) = inputs.plan.infra.clone();
    let waits = waits.map(shortened);
    Some(infra::Status { has, since, wants, phase, waits, snapshots })
}

fn problems(inputs: Inputs<'_>) -> Vec<String> {
    let unreadable = inputs.observation.observed.unreadable.values();
    let known = unreadable.chain(&inputs.observation.problems).cloned();
    known.chain(inputs.desired.stage.iter().filter_map(|image| unstaged(inputs, image))).collect()
}

/// Why an image that a revision to come needs can't come. What an instance needs already is told
/// with the instance.
fn unstaged(inputs: Inputs<'_>, image: &PinnedImage) -> Option<String> {
    let mut used = inputs.spec.instances.iter().map(|spec| spec.config.image.digest);
    let is_here = inputs.observation.observed.images.contains(&image.digest);
    if is_here || used.any(|digest| digest == image.digest) {
        return None;
    }
    match inputs.transfers.get(&image.digest)? {
        Transfer::Failed(why) | Transfer::NoRoom(why) => {
            Some(format!("image {}, which a revision to come needs: {why}", image.reference))
        }
        Transfer::Going(_) => None,
    }
}

/// Messages may come from inside an instance, which may say anything.
fn shortened(message: String) -> String {
    match message.char_indices().nth(LONGEST_MESSAGE) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message,
    }
}

fn since(
    instance: &InstanceStatus,
    inputs: Inputs<'_>,
    before: &HostStatus,
    now: Timestamp,
) -> Timestamp {
    // Becoming healthy is a part of having started; falling ill is news.
    let key = |i: &InstanceStatus| (i.state, i.leader, i.health == Health::Unhealthy);
    let same = before
        .instances
        .iter()
        .find(|other| other.id == instance.id && key(other) == key(instance));
    let details = inputs.observation.details.get(&instance.id.machine());
    let unit = details.and_then(|d| d.since).filter(|_| instance.state == State::Running);
    same.map(|other| other.since).or(unit.filter(|_| before.instances.is_empty())).unwrap_or(now)
}

fn wanted(inputs: Inputs<'_>, spec: &InstanceSpec, now: Timestamp) -> InstanceStatus {
    let machine = spec.id.machine();
    let found = inputs.observation.observed.machines.get(&machine);
    let applied = found.and_then(|f| f.applied.as_ref());
    let infra = inputs.spec.infra.as_ref().map(|infra| &infra.version);
    let current = applied.is_some_and(|applied| applied.is(spec, infra));
    let (state, message) = state(inputs, spec, &machine, found, current);
    let mut status = base(inputs, spec, &machine);
    status.state = state;
    status.went_back = inputs.back.get(&spec.id.fleet).cloned();
    status.current = current && status.went_back.is_none();
    status.message = message;
    let up = found.filter(|found| found.unit == Unit::Active);
    if let Some(found) = up {
        let details = inputs.observation.details.get(&machine);
        let (health, why) = health_of(found, details, inputs.health.get(&machine), now);
        status.health = health;
        status.message = status.message.or(why.filter(|_| health != Health::Healthy));
    }
    status
}

/// An instance that is wanted and was not there when its fleet last proved healthy, which is what
/// the fleet went back to.
fn taken_away(inputs: Inputs<'_>, spec: &InstanceSpec) -> Option<InstanceStatus> {
    let went_back = Some(inputs.back.get(&spec.id.fleet)?.clone());
    if inputs.spec.instances.iter().any(|other| other.id == spec.id) {
        return None;
    }
    let machine = spec.id.machine();
    let there = inputs.observation.observed.machines.contains_key(&machine);
    let state = if there { State::Stopping } else { State::Pending };
    let message = inputs.errors.get(&machine).cloned();
    Some(InstanceStatus { state, message, went_back, ..base(inputs, spec, &machine) })
}

/// What is known of the health of a container that is up, and why it is not well.
fn health_of(
    found: &Machine,
    details: Option<&Details>,
    verdict: Option<&(Health, Option<String>)>,
    now: Timestamp,
) -> (Health, Option<String>) {
    if let Some(verdict) = verdict {
        return verdict.clone();
    }
    let Some(applied) = &found.applied else { return (Health::Starting, None) };
    let settings = &applied.config.settings;
    let since = details.and_then(|details| details.since);
    // A clock that was set back must not hold it in the air.
    let settled = since.is_none_or(|since| now < since || now.since(since) >= SETTLE);
    let unproven = settings.health.is_some() || (settings.start != Start::Boot && !settled);
    (if unproven { Health::Starting } else { Health::None }, None)
}

/// Whether a container is up and, by its checks, well.
pub(crate) fn is_ready(
    found: &Machine,
    details: Option<&Details>,
    verdict: Option<&(Health, Option<String>)>,
    now: Timestamp,
) -> bool {
    let (health, _) = health_of(found, details, verdict, now);
    found.unit == Unit::Active && matches!(health, Health::Healthy | Health::None)
}

fn base(inputs: Inputs<'_>, spec: &InstanceSpec, machine: &MachineName) -> InstanceStatus {
    let none = Details::default();
    let details = inputs.observation.details.get(machine).unwrap_or(&none);
    let found = inputs.observation.observed.machines.get(machine);
    let drift = found.into_iter().flat_map(|found| &found.drift);
    InstanceStatus {
        id: spec.id.clone(),
        revision: spec.revision,
        image: spec.config.image.reference.clone(),
        digest: spec.config.image.digest,
        state: State::Pending,
        health: Health::None,
        since: Timestamp::default(),
        current: false,
        leader: details.leader,
        restarts: details.restarts,
        uid_base: details.uid_base,
        message: None,
        paused: spec.paused,
        drift: drift.map(ToString::to_string).collect(),
        last_exit: details.last_exit.clone(),
        went_back: None,
        addresses: details.addresses.clone(),
    }
}

fn state(
    inputs: Inputs<'_>,
    spec: &InstanceSpec,
    machine: &MachineName,
    found: Option<&Machine>,
    current: bool,
) -> (State, Option<String>) {
    let unit = found.map_or(Unit::Inactive, |f| f.unit);
    let error = inputs.errors.get(machine).cloned().or_else(|| no_room(inputs, spec));
    if let Some(why) = inputs.plan.blocked.get(machine) {
        return (State::Blocked, Some(why.clone()));
    }
    if spec.run == RunState::Stopped {
        let down = matches!(unit, Unit::Inactive | Unit::Failed);
        return (if down { State::Stopped } else { State::Stopping }, None);
    }
    if let Some(told) = hook(inputs, machine, unit, current) {
        return told;
    }
    let waits = inputs.plan.waiting.get(machine).cloned();
    let restarting = inputs.observation.details.get(machine).is_some_and(|d| d.restarting);
    match unit {
        Unit::Active => running(found, current, transfer(inputs, spec).or(waits), error),
        // What loops is on its way out, and no sign of how the wanted one does.
        Unit::Activating if restarting && !current => match transfer(inputs, spec) {
            Some(progress) => (State::Staging, Some(progress)),
            None => (State::Pending, error),
        },
        Unit::Activating if restarting => (failed(found), error.or_else(ended)),
        Unit::Activating => (State::Starting, None),
        Unit::Deactivating => (State::Stopping, None),
        Unit::Inactive | Unit::Failed if spec.paused => {
            let held = "it is down, and paused: `shoal unpause` lets the agent start it";
            (State::Pending, Some(held.into()))
        }
        Unit::Inactive | Unit::Failed => down(inputs, spec, found, error, waits),
    }
}

/// What a hook makes of a container that is not up: no other failure is as near to the cause.
fn hook(
    inputs: Inputs<'_>,
    machine: &MachineName,
    unit: Unit,
    current: bool,
) -> Option<(State, Option<String>)> {
    let details = inputs.observation.details.get(machine)?;
    match details.hook.as_ref()? {
        Hook::Failed(why) if current && unit != Unit::Active => {
            Some((State::Failed, Some(why.clone())))
        }
        Hook::Runs(mode) if unit == Unit::Activating && !details.restarting => {
            Some((State::Starting, Some(format!("runs its hook {}", mode.hook()))))
        }
        Hook::Failed(_) | Hook::Runs(_) => None,
    }
}

/// A container that is up. `reason` says what keeps it from being replaced, where something does
/// that is no error.
fn running(
    found: Option<&Machine>,
    current: bool,
    reason: Option<String>,
    error: Option<String>,
) -> (State, Option<String>) {
    let drifting = found.filter(|found| !found.drift.is_empty());
    if let Some(found) = drifting.filter(|found| found.repairs.failures >= Attempts::MANY) {
        let drift: Vec<String> = found.drift.iter().map(ToString::to_string).collect();
        let again = format!(
            "{}, again and again: repaired {} times; something on the host keeps changing it",
            drift.join("; "),
            found.repairs.failures
        );
        return (State::Degraded, Some(error.unwrap_or(again)));
    }
    match (current, reason, error) {
        // It runs as it was, and can't be brought to what is wanted.
        (false, None, Some(error)) => (State::Degraded, Some(error)),
        (true, _, error) => (State::Running, error),
        (false, reason, _) => (State::Running, reason),
    }
}

/// Failed, or after many tries in a row degraded.
fn failed(found: Option<&Machine>) -> State {
    let many = found.is_some_and(|found| found.attempts.failures >= Attempts::MANY);
    if many { State::Degraded } else { State::Failed }
}

fn ended() -> Option<String> {
    Some("it ended by itself; systemd starts it again".into())
}

fn down(
    inputs: Inputs<'_>,
    spec: &InstanceSpec,
    found: Option<&Machine>,
    error: Option<String>,
    waits: Option<String>,
) -> (State, Option<String>) {
    if let Some(progress) = transfer(inputs, spec) {
        return (State::Staging, Some(progress));
    }
    if waits.is_some() && error.is_none() {
        return (State::Pending, waits);
    }
    let gone = found.is_some_and(|f| f.unit == Unit::Failed || f.attempts.failures > 1);
    match (gone, error) {
        (_, Some(why)) => (failed(found), Some(why)),
        (true, None) => (failed(found), Some("its unit failed; see `shoal logs`".into())),
        (false, None) => (State::Pending, None),
    }
}

/// Why the image of `spec` can't come, where waiting alone does not help.
fn no_room(inputs: Inputs<'_>, spec: &InstanceSpec) -> Option<String> {
    let image = &spec.config.image;
    match inputs.transfers.get(&image.digest)? {
        Transfer::NoRoom(why) => Some(format!("image {}: {why}", image.reference)),
        Transfer::Going(_) | Transfer::Failed(_) => None,
    }
}

/// How the image of `spec` is coming; `None` where it is here.
fn transfer(inputs: Inputs<'_>, spec: &InstanceSpec) -> Option<String> {
    let image = &spec.config.image;
    if inputs.observation.observed.images.contains(&image.digest) {
        return None;
    }
    Some(match inputs.transfers.get(&image.digest) {
        Some(Transfer::Going(status)) => {
            let percent =
                |done: u64| done.saturating_mul(100).checked_div(status.total).unwrap_or(0);
            match status.phase {
                Phase::Making { made } => format!(
                    "the controller works out what to send of image {}: {}% done",
                    image.reference,
                    percent(made)
                ),
                _ => format!("image {} is {}% here", image.reference, percent(status.received)),
            }
        }
        Some(Transfer::Failed(why)) => format!("image {}: {why}", image.reference),
        // No way of coming, but an error: `no_room`.
        Some(Transfer::NoRoom(_)) => return None,
        None => format!("waits for image {}", image.reference),
    })
}

/// Machines that are still there and that nothing wants.
fn unwanted(inputs: Inputs<'_>) -> Vec<InstanceStatus> {
    let machines = inputs.observation.observed.machines.iter();
    let rest = machines.filter(|(machine, _)| !is_wanted(inputs, machine));
    rest.filter_map(|(machine, found)| {
        let applied = found.applied.as_ref()?;
        let spec = InstanceSpec {
            id: applied.id.clone(),
            revision: 0,
            config: applied.config.clone(),
            run: RunState::Stopped,
            restarts: applied.restarts,
            recreate: applied.recreate,
            paused: false,
            gate: None,
        };
        let message = inputs.errors.get(machine).cloned();
        Some(InstanceStatus { state: State::Stopping, message, ..base(inputs, &spec, machine) })
    })
    .collect()
}

fn is_wanted(inputs: Inputs<'_>, machine: &MachineName) -> bool {
    let mut specs = inputs.desired.instances.iter().chain(&inputs.spec.instances);
    specs.any(|spec| spec.id.machine() == *machine)
}

/// Data of machines that have no record any more.
fn retained(inputs: Inputs<'_>) -> Vec<RetainedData> {
    let machines = &inputs.observation.observed.machines;
    let left =
        |machine: &MachineName| !machines.contains_key(machine) && !is_wanted(inputs, machine);
    inputs.observation.volumes.iter().filter(|v| left(&v.machine)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_core::plan::Applied;

    fn spec(run: &str) -> InstanceSpec {
        serde_json::from_value(serde_json::json!({
            "id": "shop/main", "revision": 2, "run": run, "restarts": 0,
            "config": {
                "image": {"reference": "app:1", "digest": "07".repeat(32), "size": 100},
                "settings": {"start": "boot", "network": "host"},
            },
        }))
        .unwrap()
    }

    struct Case {
        spec: InstanceSpec,
        unit: Unit,
        recorded: bool,
        staged: bool,
        transfer: Option<Transfer>,
        error: Option<&'static str>,
    }

    impl Default for Case {
        fn default() -> Self {
            let spec = spec("running");
            let unit = Unit::Active;
            Self { spec, unit, recorded: true, staged: true, transfer: None, error: None }
        }
    }

    fn reported(case: &Case) -> InstanceStatus {
        let machine = case.spec.id.machine();
        let digest = case.spec.config.image.digest;
        let mut observation = Observation::default();
        let applied = case.recorded.then(|| Applied {
            id: case.spec.id.clone(),
            config: case.spec.config.clone(),
            restarts: 0,
            recreate: 0,
            infra: None,
        });
        let found = Machine { applied, unit: case.unit, enabled: true, ..Machine::default() };
        observation.observed.machines.insert(machine.clone(), found);
        if case.staged {
            observation.observed.images.insert(digest);
        }
        let instances = vec![case.spec.clone()];
        let host = HostSpec { generation: 4, instances, ..HostSpec::default() };
        let inputs = Inputs {
            desired: &host,
            spec: &host,
            back: &BTreeMap::new(),
            observation: &observation,
            plan: &Plan::default(),
            transfers: &case.transfer.clone().map(|t| (digest, t)).into_iter().collect(),
            health: &BTreeMap::new(),
            errors: &case.error.map(|e| (machine, e.to_owned())).into_iter().collect(),
        };
        let status = report(inputs, &HostStatus::default(), Timestamp(9));
        assert_eq!(status.observed_generation, 4);
        status.instances.into_iter().next().unwrap()
    }

    #[test]
    fn each_situation_has_its_state() {
        let stopped = || spec("stopped");
        let full = Some(Transfer::NoRoom("too full".into()));
        let going = |phase| {
            Some(Transfer::Going(TransferStatus {
                digest: [7; 32].into(),
                image: "app:1".parse().unwrap(),
                phase,
                received: 50,
                total: 100,
                wire: 0,
                saved: 0,
                source: "controller".into(),
                left: None,
                recipe: None,
            }))
        };
        let (half, made) = (going(Phase::Receiving), going(Phase::Making { made: 7 }));
        let cases = [
            (Case::default(), State::Running, None),
            (Case { unit: Unit::Activating, ..Case::default() }, State::Starting, None),
            (Case { unit: Unit::Deactivating, ..Case::default() }, State::Stopping, None),
            (
                Case { unit: Unit::Failed, error: Some("no such file"), ..Case::default() },
                State::Failed,
                Some("no such file"),
            ),
            (
                Case { unit: Unit::Inactive, staged: false, transfer: half, ..Case::default() },
                State::Staging,
                Some("image app:1 is 50% here"),
            ),
            (
                Case { unit: Unit::Inactive, staged: false, transfer: made, ..Case::default() },
                State::Staging,
                Some("the controller works out what to send of image app:1: 7% done"),
            ),
            (
                Case { unit: Unit::Inactive, staged: false, transfer: full, ..Case::default() },
                State::Failed,
                Some("image app:1: too full"),
            ),
            (
                Case { unit: Unit::Inactive, recorded: false, ..Case::default() },
                State::Pending,
                None,
            ),
            (Case { spec: stopped(), ..Case::default() }, State::Stopping, None),
            (
                Case { spec: stopped(), unit: Unit::Inactive, ..Case::default() },
                State::Stopped,
                None,
            ),
        ];
        for (case, state, message) in cases {
            let status = reported(&case);
            assert_eq!((status.state, status.message.as_deref()), (state, message));
        }
    }

    #[test]
    fn a_hook_is_told_of_while_it_runs_and_when_it_has_failed() {
        use shoal_core::hooks::Mode;
        let machine = spec("running").id.machine();
        let told = |unit, hook: Hook, restarting, image: u8| {
            let mut applied = spec("running");
            applied.config.image.digest = [image; 32].into();
            let mut observation = Observation::default();
            let (id, config) = (applied.id, applied.config);
            let applied = Applied { id, config, restarts: 0, recreate: 0, infra: None };
            let found = Machine { applied: Some(applied), unit, ..Machine::default() };
            observation.observed.machines.insert(machine.clone(), found);
            observation.observed.images.insert([7; 32].into());
            let details = Details { hook: Some(hook), restarting, ..Details::default() };
            observation.details.insert(machine.clone(), details);
            let host = HostSpec { instances: vec![spec("running")], ..HostSpec::default() };
            let inputs = Inputs {
                desired: &host,
                spec: &host,
                back: &BTreeMap::new(),
                observation: &observation,
                plan: &Plan::default(),
                transfers: &BTreeMap::new(),
                health: &BTreeMap::new(),
                errors: &BTreeMap::new(),
            };
            let status = report(inputs, &HostStatus::default(), Timestamp(9)).instances.remove(0);
            (status.state, status.message.unwrap_or_default())
        };
        let failed = || Hook::Failed("hook migrate failed: exit code 3: no room".into());
        let why = "hook migrate failed: exit code 3: no room".to_owned();
        for (unit, restarting) in
            [(Unit::Activating, true), (Unit::Failed, false), (Unit::Inactive, false)]
        {
            assert_eq!(told(unit, failed(), restarting, 7), (State::Failed, why.clone()));
        }
        // Of what was wanted before, and of what runs all the same.
        assert_eq!(told(Unit::Inactive, failed(), false, 8).0, State::Pending);
        assert_eq!(told(Unit::Active, failed(), false, 7).0, State::Running);
        let runs = || Hook::Runs(Mode::Update);
        let hook = (State::Starting, "runs its hook migrate".to_owned());
        assert_eq!(told(Unit::Activating, runs(), false, 7), hook);
        assert_eq!(told(Unit::Active, runs(), false, 7).0, State::Running, "it was cut off once");
    }

    #[test]
    fn a_command_without_checks_must_run_for_a_while_to_count_as_up() {
        let mut spec = spec("running");
        spec.config.settings.start = Start::Command(vec!["/bin/app".into()]);
        let machine = spec.id.machine();
        let mut observation = Observation::default();
        let applied = Applied {
            id: spec.id.clone(),
            config: spec.config.clone(),
            restarts: spec.restarts,
            recreate: spec.recreate,
            infra: None,
        };
        let found = Machine {
            applied: Some(applied),
            unit: Unit::Active,
            enabled: true,
            ..Machine::default()
        };
        observation.observed.machines.insert(machine.clone(), found);
        let since = Some(Timestamp(10_000));
        observation.details.insert(machine, Details { since, ..Details::default() });
        let host = HostSpec { generation: 1, instances: vec![spec], ..HostSpec::default() };
        let inputs = Inputs {
            desired: &host,
            spec: &host,
            back: &BTreeMap::new(),
            observation: &observation,
            plan: &Plan::default(),
            transfers: &BTreeMap::new(),
            health: &BTreeMap::new(),
            errors: &BTreeMap::new(),
        };
        let health =
            |now| report(inputs, &HostStatus::default(), Timestamp(now)).instances[0].health;
        assert_eq!(health(12_999), Health::Starting);
        assert_eq!(health(13_000), Health::None);
    }

    #[test]
    fn time_in_a_state_is_kept_until_the_state_changes() {
        let observation = Observation::default();
        let host =
            HostSpec { generation: 1, instances: vec![spec("running")], ..HostSpec::default() };
        let empty = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let plan = Plan::default();
        let inputs = Inputs {
            desired: &host,
            spec: &host,
            back: &BTreeMap::new(),
            observation: &observation,
            plan: &plan,
            transfers: &empty.0,
            health: &empty.1,
            errors: &empty.2,
        };
        let first = report(inputs, &HostStatus::default(), Timestamp(5));
        let second = report(inputs, &first, Timestamp(50));
        assert_eq!(second.instances[0].since, Timestamp(5));
    }

    #[test]
    fn the_infra_is_told_of_where_there_is_one() {
        let mut observation = Observation::default();
        let mut host =
            HostSpec { generation: 1, instances: vec![spec("running")], ..HostSpec::default() };
        let mut plan = Plan::default();
        let of = |host: &HostSpec, observation: &Observation, plan: &Plan| {
            let inputs = Inputs {
                desired: host,
                spec: host,
                back: &BTreeMap::new(),
                observation,
                plan,
                transfers: &BTreeMap::new(),
                health: &BTreeMap::new(),
                errors: &BTreeMap::new(),
            };
            report(inputs, &HostStatus::default(), Timestamp(0)).infra
        };
        assert_eq!(of(&host, &observation, &plan), None);
        observation.observed.infra.version = Some("1".parse().unwrap());
        observation.observed.infra.since = Some(Timestamp(7));
        observation.observed.snapshots = [3, 4].into();
        let infra = serde_json::json!({"version": "2", "revision": 4});
        host.infra = Some(serde_json::from_value(infra).unwrap());
        plan.infra = (infra::Phase::Data, Some("copying data: 1 MiB of 2 MiB".into()));
        let told = of(&host, &observation, &plan).unwrap();
        assert_eq!((told.has.unwrap().as_str(), told.since), ("1", Some(Timestamp(7))));
        assert_eq!((told.wants.unwrap().as_str(), told.phase), ("2", infra::Phase::Data));
        assert_eq!(told.waits.as_deref(), Some("copying data: 1 MiB of 2 MiB"));
        assert_eq!(told.snapshots, [3, 4]);
    }

    #[test]
    fn data_left_behind_is_listed_and_data_in_use_is_not() {
        let mut observation = Observation::default();
        for machine in ["shop-main", "gone-one"] {
            let volumes = vec!["var".parse().unwrap()];
            let machine = machine.parse().unwrap();
            observation.volumes.push(RetainedData { machine, volumes });
        }
        let host =
            HostSpec { generation: 1, instances: vec![spec("running")], ..HostSpec::default() };
        let inputs = Inputs {
            desired: &host,
            spec: &host,
            back: &BTreeMap::new(),
            observation: &observation,
            plan: &Plan::default(),
            transfers: &BTreeMap::new(),
            health: &BTreeMap::new(),
            errors: &BTreeMap::new(),
        };
        let status = report(inputs, &HostStatus::default(), Timestamp(0));
        assert_eq!(status.retained.len(), 1);
        assert_eq!(status.retained[0].machine.as_str(), "gone-one");
    }
}
