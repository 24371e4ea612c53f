//! What is worth telling people of what the loop did and saw. Pure: from plans and reports to
//! events.

use std::collections::BTreeMap;

use shoal_core::event::{Event, EventKind};
use shoal_core::infra::{Mode, Phase, Status};
use shoal_core::name::{BackupName, InstanceId, MachineName};
use shoal_core::plan::{Action, Step};
use shoal_core::status::{Health, HostStatus, InstanceStatus, State};
use shoal_core::time::Timestamp;

/// Which instance each machine stands for.
pub(super) type Ids = BTreeMap<MachineName, InstanceId>;

/// The event of something that happened to a machine.
pub(super) fn event(
    ids: &Ids,
    machine: &MachineName,
    kind: EventKind,
    message: impl Into<String>,
    at: Timestamp,
) -> Event {
    Event { at, instance: ids.get(machine).cloned(), kind, message: message.into() }
}

/// What to say of the steps that are about to be taken to one machine. `repair` says that they put
/// right what someone else changed.
pub(super) fn of_steps(steps: &[Step], repair: bool) -> Option<(EventKind, String)> {
    // The first one says why; those that follow belong to it. That an instance is no longer paused
    // is worth a word only where nothing else is done.
    let first = steps.iter().find(|step| step.action != Action::HandsOn).or(steps.first())?;
    let reason = &first.reason;
    let takes = |wanted: fn(&Action) -> bool| steps.iter().any(|step| wanted(&step.action));
    let written = takes(|a| matches!(a, Action::Write(..)));
    let started = takes(|a| matches!(a, Action::Start));
    Some(match &first.action {
        Action::Stop if repair => (EventKind::Drift, format!("{reason}; making it anew")),
        _ if repair => (EventKind::Drift, format!("{reason}; putting it right")),
        _ if started && !written => (EventKind::Drift, format!("{reason}; starting it again")),
        _ if written => (EventKind::Step, format!("setting up: {reason}")),
        Action::Stop => (EventKind::Step, format!("stopping: {reason}")),
        Action::Refresh(..) => (EventKind::Step, format!("changing in place: {reason}")),
        Action::Remove => (EventKind::Step, format!("removing: {reason}")),
        Action::Disable if takes(|a| matches!(a, Action::Stop)) => {
            (EventKind::Step, format!("stopping: {reason}"))
        }
        action => (EventKind::Step, format!("{}: {reason}", action.name())),
    })
}

/// What to say of the difference between two reports.
pub(super) fn of_reports(
    before: &HostStatus,
    after: &HostStatus,
    restore: Option<&BackupName>,
    at: Timestamp,
) -> Vec<Event> {
    let begun = after.infra.as_ref().and_then(|is| begun(before.infra.as_ref(), is, restore));
    let begun = begun.map(|message| Event { at, instance: None, kind: EventKind::Step, message });
    let mut events: Vec<Event> = begun.into_iter().collect();
    for instance in &after.instances {
        let was = before.instances.iter().find(|other| other.id == instance.id);
        if let Some((kind, message)) = change(was, instance) {
            events.push(Event { at, instance: Some(instance.id.clone()), kind, message });
        }
    }
    events
}

/// What to say where a host sets out for an infra version.
fn begun(was: Option<&Status>, is: &Status, restore: Option<&BackupName>) -> Option<String> {
    let rests = |phase| matches!(phase, Phase::Done | Phase::Preparing);
    let set_out = was.is_none_or(|was| rests(was.phase) || was.wants != is.wants);
    let to = is.wants.as_ref().filter(|to| is.has.as_ref() != Some(to))?;
    let mode = Mode::of(is.has.as_ref(), to, restore);
    let from = is.has.as_ref().map_or("none".to_owned(), ToString::to_string);
    (set_out && !rests(is.phase)).then(|| format!("infra version {from} → {to}, mode {mode}"))
}

fn change(was: Option<&InstanceStatus>, is: &InstanceStatus) -> Option<(EventKind, String)> {
    let why = is.message.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
    let key = |i: &InstanceStatus| (i.state, i.health);
    if was.is_some_and(|was| is.restarts > was.restarts && is.state != State::Running) {
        let how = is.last_exit.as_ref().map_or("it ended by itself", |exit| exit.reason.as_str());
        return Some((EventKind::Failed, format!("ended: {how}")));
    }
    if was.map(key) == Some(key(is)) {
        return None;
    }
    match (is.state, is.health) {
        (State::Failed | State::Degraded | State::Blocked, _) => {
            Some((EventKind::Failed, format!("{}{why}", is.state)))
        }
        (State::Running, Health::Unhealthy) => Some((EventKind::Failed, format!("unhealthy{why}"))),
        (State::Running, Health::Healthy) => Some((EventKind::State, "healthy".into())),
        (State::Running, Health::None) => Some((EventKind::State, "running".into())),
        // What is only on its way is told by the step that began it.
        (State::Running, Health::Starting)
        | (State::Pending | State::Starting | State::Stopping | State::Staging, _) => None,
        (State::Stopped, _) => Some((EventKind::State, "stopped".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(state: State, health: Health, restarts: u32) -> InstanceStatus {
        InstanceStatus {
            id: "shop/web".parse().unwrap(),
            revision: 1,
            image: "app:1".parse().unwrap(),
            digest: [1; 32].into(),
            state,
            health,
            since: Timestamp(0),
            current: true,
            leader: None,
            restarts,
            uid_base: None,
            message: Some("refused".into()),
            paused: false,
            drift: vec![],
            last_exit: None,
            went_back: None,
            addresses: vec![],
        }
    }

    #[test]
    fn what_people_care_about_is_told_and_what_is_on_its_way_is_not() {
        let running = status(State::Running, Health::Healthy, 0);
        let told = |is: InstanceStatus| change(Some(&running), &is);
        assert_eq!(told(running.clone()), None);
        assert_eq!(told(status(State::Stopping, Health::None, 0)), None);
        let sick = told(status(State::Running, Health::Unhealthy, 0));
        assert_eq!(sick, Some((EventKind::Failed, "unhealthy: refused".into())));
        let ended = told(status(State::Starting, Health::None, 1));
        assert_eq!(ended, Some((EventKind::Failed, "ended: it ended by itself".into())));
        let degraded = told(status(State::Degraded, Health::None, 0));
        assert_eq!(degraded, Some((EventKind::Failed, "degraded: refused".into())));
    }

    #[test]
    fn setting_out_for_an_infra_version_is_told_once() {
        let status = |has: Option<&str>, wants: &str, phase| Status {
            has: has.map(|has| has.parse().unwrap()),
            since: None,
            wants: Some(wants.parse().unwrap()),
            phase,
            waits: None,
            snapshots: vec![],
        };
        let backup = "nightly".parse().unwrap();
        let one = |phase| status(Some("1"), "2", phase);
        let told = |was: Option<Status>, is: Status| begun(was.as_ref(), &is, Some(&backup));
        let update = Some("infra version 1 → 2, mode update".to_owned());
        assert_eq!(told(None, one(Phase::Preparing)), None);
        assert_eq!(told(Some(one(Phase::Preparing)), one(Phase::Stopping)), update);
        assert_eq!(told(Some(status(Some("1"), "3", Phase::Stopping)), one(Phase::Data)), update);
        assert_eq!(told(Some(one(Phase::Stopping)), one(Phase::Data)), None);
        assert_eq!(told(None, status(Some("2"), "2", Phase::Starting)), None);
        let new = told(None, status(None, "2", Phase::Data));
        assert_eq!(new.as_deref(), Some("infra version none → 2, mode restore"));
        let new = begun(None, &status(None, "2", Phase::Starting), None);
        assert_eq!(new.as_deref(), Some("infra version none → 2, mode new"));
    }

    #[test]
    fn steps_are_told_once_with_their_reason() {
        let step = |action, reason: &str| Step { action, reason: reason.into() };
        let start = [step(Action::Start, "it is not running")];
        let told = of_steps(&start, false).unwrap();
        assert_eq!(told, (EventKind::Drift, "it is not running; starting it again".into()));
        let stop = [step(Action::Stop, "/var/x is not mounted any more")];
        assert_eq!(of_steps(&stop, true).unwrap().0, EventKind::Drift);
        assert_eq!(of_steps(&stop, false).unwrap().0, EventKind::Step);
        assert_eq!(of_steps(&[], false), None);
        let unpaused = step(Action::HandsOn, "it is not paused any more");
        let told = of_steps(&[unpaused.clone(), start[0].clone()], false).unwrap();
        assert_eq!(told, (EventKind::Drift, "it is not running; starting it again".into()));
        let told = of_steps(&[unpaused], false).unwrap();
        assert_eq!(told, (EventKind::Step, "hands on: it is not paused any more".into()));
    }
}
