//! Start, stop and restart, as changes of the desired state.

use std::fmt;

use shoal_core::host::HostSpec;
use shoal_core::name::InstanceId;
use shoal_core::spec::RunState;
use shoal_core::time::Timestamp;
use shoal_proto::v1::store::HostSpecRecord;
use shoal_proto::v1::{RunTarget, RunVerb};

use super::listing::View;
use super::target::Target;
use crate::audit;
use crate::inventory;
use crate::refusal::Refusal;
use crate::store::{Batch, CommitError, Records};

/// How often it is tried again where others change the same host.
const ATTEMPTS: u32 = 16;

/// What is to be done to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Start,
    Stop,
    Restart,
    Pause,
    Unpause,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Pause => "pause",
            Self::Unpause => "unpause",
        })
    }
}

impl Verb {
    pub(super) fn parse(wire: i32) -> Result<Self, Refusal> {
        match RunVerb::try_from(wire) {
            Ok(RunVerb::Start) => Ok(Self::Start),
            Ok(RunVerb::Stop) => Ok(Self::Stop),
            Ok(RunVerb::Restart) => Ok(Self::Restart),
            Ok(RunVerb::Pause) => Ok(Self::Pause),
            Ok(RunVerb::Unpause) => Ok(Self::Unpause),
            Ok(RunVerb::Unspecified) | Err(_) => Err(Refusal::Invalid(
                "say whether to start, stop, restart, pause or unpause".into(),
            )),
        }
    }

    /// Whether nothing would come of it, since the agent keeps its hands off.
    fn is_held_up(self, spec: &HostSpec, id: &InstanceId) -> bool {
        let is_paused = spec.instances.iter().any(|i| i.id == *id && i.paused);
        is_paused && matches!(self, Self::Start | Self::Stop | Self::Restart)
    }

    /// The desired state with the verb done to `id`; `None` where the instance is not in it, and
    /// the same again where nothing is to be done. A restart also starts what was stopped, as
    /// systemctl's does.
    fn done(self, spec: &HostSpec, id: &InstanceId) -> Option<HostSpec> {
        let mut after = spec.clone();
        let instance = after.instances.iter_mut().find(|instance| instance.id == *id)?;
        match self {
            Self::Start => instance.run = RunState::Running,
            Self::Stop => instance.run = RunState::Stopped,
            Self::Restart => {
                instance.run = RunState::Running;
                instance.restarts += 1;
            }
            Self::Pause => instance.paused = true,
            Self::Unpause => instance.paused = false,
        }
        if after != *spec {
            after.generation += 1;
        }
        Some(after)
    }
}

/// Refuses what can't be done on one of the hosts.
pub(super) fn check(verb: Verb, hosts: &[View], targets: &[Target]) -> Result<(), Refusal> {
    let held_up = |target: &&Target| {
        let view = hosts.iter().find(|view| view.host.id == target.host);
        view.is_some_and(|view| verb.is_held_up(&view.spec, &target.id))
    };
    let held_up: Vec<&Target> = targets.iter().filter(held_up).collect();
    if held_up.is_empty() { Ok(()) } else { Err(paused(verb, &held_up)) }
}

fn paused(verb: Verb, targets: &[&Target]) -> Refusal {
    let names: Vec<String> =
        targets.iter().map(|target| format!("{}@{}", target.id, target.host_name)).collect();
    let (are, them) = if names.len() == 1 { ("is", "it") } else { ("are", "them") };
    let unpause: Vec<String> = names.iter().map(|name| format!("`shoal unpause {name}`")).collect();
    Refusal::Precondition(format!(
        "{} {are} paused, so that no agent would {verb} {them}; first {}",
        names.join(", "),
        unpause.join(" and ")
    ))
}

/// Does `verb` to one instance on one host, on record. `seen` is the newest generation that the
/// host has reported.
pub(super) async fn set(
    records: &Records,
    target: &Target,
    seen: u64,
    verb: Verb,
    who: &str,
    now: Timestamp,
) -> Result<RunTarget, Refusal> {
    let Target { id, host, host_name } = target;
    let gone = || Refusal::NotFound(format!("{id} does not run on host {host_name} any more"));
    for _ in 0..ATTEMPTS {
        let stored = records.get::<HostSpecRecord>(host.as_str()).await?.ok_or_else(gone)?;
        let before = inventory::spec(&stored)?;
        if verb.is_held_up(&before, id) {
            return Err(paused(verb, &[target]));
        }
        let mut after = verb.done(&before, id).ok_or_else(gone)?;
        if after != before {
            after = before.followed_by(after, seen);
        }
        let told = RunTarget {
            host: host_name.to_string(),
            generation: after.generation,
            changed: after != before,
        };
        if !told.changed {
            return Ok(told);
        }
        let mut batch = Batch::new();
        batch.replace(&stored, &HostSpecRecord { spec: Some(after.into()) })?;
        let name = format!("{id}@{host_name}");
        let (entry, record) = audit::entry(&who, "Instances/SetRun", &name, &verb.to_string(), now);
        batch.create(&entry, &record)?;
        match records.commit(batch).await {
            Ok(_) => return Ok(told),
            Err(CommitError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Refusal::Conflict(format!(
        "what host {host_name} should run is being changed all the time; try again"
    )))
}
