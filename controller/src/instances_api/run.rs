//! Start, stop and restart, as changes of the desired state.

use std::fmt;

use shoal_core::host::HostSpec;
use shoal_core::name::InstanceId;
use shoal_core::spec::RunState;
use shoal_core::time::Timestamp;
use shoal_proto::v1::store::HostSpecRecord;
use shoal_proto::v1::{RunTarget, RunVerb};

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
