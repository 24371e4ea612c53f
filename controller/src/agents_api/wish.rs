//! Saying which agent a host is to run.

use std::time::Duration;

use shoal_core::agent_program::AgentVersion;
use shoal_core::agent_upgrade::{AgentSpec, AgentStatus, DEADLINE, DEADLINE_OF_INFRA, DEADLINES};
use shoal_core::host::HostSpec;
use shoal_core::time::Timestamp;
use shoal_proto::convert;
use shoal_proto::v1::UpgradeAgentResponse;
use shoal_proto::v1::store::{AgentProgramRecord, HostRecord, HostSpecRecord};

use super::{TRIES, id};
use crate::app::App;
use crate::hosts_api;
use crate::refusal::Refusal;
use crate::store::{Batch, CommitError, Records, Stored};
use crate::{audit, inventory};

/// What someone asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The version.
    pub version: AgentVersion,
    /// How long it may take to reach the controller.
    pub deadline: Duration,
}

impl Asked {
    /// What an infra asks for.
    #[must_use]
    pub fn of_infra(version: AgentVersion) -> Self {
        Self { version, deadline: DEADLINE_OF_INFRA }
    }

    /// What a request asks for; `None` where it lets go of what was asked before.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] where it breaks the rules.
    pub fn read(version: &str, deadline_ms: u64) -> Result<Option<Self>, Refusal> {
        if version.is_empty() {
            return Ok(None);
        }
        let version = convert::parse("version", version)?;
        let deadline = match deadline_ms {
            0 => DEADLINE,
            millis => Duration::from_millis(millis),
        };
        if deadline < DEADLINES.0 || deadline > DEADLINES.1 {
            let (least, most) = (DEADLINES.0.as_secs(), DEADLINES.1.as_secs());
            return Err(Refusal::Invalid(format!(
                "an agent's deadline is between {least} and {most} s"
            )));
        }
        Ok(Some(Self { version, deadline }))
    }
}

/// The program of that version for a host, as its desired state names it, and its record: whoever
/// names it writes that record again in the same transaction, so that it can't be removed
/// meanwhile.
///
/// # Errors
/// [`Refusal::Precondition`] where there is none, the host's policy does not allow it, or nobody
/// knows the host's architecture; names the host.
pub async fn wish(
    records: &Records,
    host: &HostRecord,
    asked: &Asked,
) -> Result<(AgentSpec, Stored<AgentProgramRecord>), Refusal> {
    let Asked { version, deadline } = asked;
    let architecture = host.facts.as_ref().map(|facts| facts.architecture.clone());
    let architecture = architecture.filter(|a| !a.is_empty()).ok_or_else(|| {
        Refusal::Precondition(format!(
            "host {} has never said which processor it has; try again when its agent has been \
             online",
            host.name
        ))
    })?;
    let policy = host.facts.as_ref().and_then(|facts| facts.policy.as_ref());
    if policy.is_some_and(|policy| policy.no_agent_upgrade) {
        return Err(Refusal::Precondition(format!(
            "the policy of host {} does not allow it: agent-upgrade = false in \
             /etc/shoal/policy.toml there",
            host.name
        )));
    }
    let stored = match id_of(version, &architecture) {
        Some(id) => records.get::<AgentProgramRecord>(&id).await?,
        None => None,
    };
    let Some(stored) = stored else {
        return Err(none_for(records, host, version, &architecture).await?);
    };
    let AgentProgramRecord { digest, size, .. } = stored.record.clone();
    let digest = convert::digest("digest", &digest)?;
    let (version, deadline) = (version.clone(), *deadline);
    Ok((AgentSpec { version, digest, size, deadline, asked: 0 }, stored))
}

/// What a host says of itself goes into no key unseen.
fn id_of(version: &AgentVersion, architecture: &str) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    architecture.chars().all(plain).then(|| id(version, architecture))
}

async fn none_for(
    records: &Records,
    host: &HostRecord,
    version: &AgentVersion,
    architecture: &str,
) -> Result<Refusal, Refusal> {
    let under = format!("{version}/");
    let others = records.list_under::<AgentProgramRecord>(&under).await?.records;
    let others: Vec<&str> = others.iter().map(|other| &other.id[under.len()..]).collect();
    let there = if others.is_empty() {
        "there is none of that version".to_owned()
    } else {
        format!("that version is there for {}", others.join(", "))
    };
    Ok(Refusal::Precondition(format!(
        "host {} is {architecture}, and there is no agent {version} for it: {there}; \
         `shoal agent list` shows all, and `shoal agent push FILE` adds one",
        host.name
    )))
}

/// Says in the desired state of the host `name` which agent it is to run; `None`: any. Nothing
/// changes where it was so already, unless the host has rejected it: then it is tried again.
///
/// # Errors
/// [`Refusal::NotFound`] where there is no such host, and as [`wish`].
pub async fn upgrade(
    app: &App,
    name: &str,
    asked: Option<&Asked>,
    who: &str,
    now: Timestamp,
) -> Result<UpgradeAgentResponse, Refusal> {
    for _ in 1..TRIES {
        match try_upgrade(app, name, asked, who, now).await {
            Err(Refusal::Conflict(_)) => {}
            outcome => return outcome,
        }
    }
    try_upgrade(app, name, asked, who, now).await
}

async fn try_upgrade(
    app: &App,
    name: &str,
    asked: Option<&Asked>,
    who: &str,
    now: Timestamp,
) -> Result<UpgradeAgentResponse, Refusal> {
    let host = hosts_api::find(&app.records, name).await?;
    let stored = app.records.get::<HostSpecRecord>(&host.id).await?;
    let before = stored.as_ref().map(inventory::spec).transpose()?.unwrap_or_default();
    let reported = host.id.parse().ok().and_then(|id| app.live.status(&id));
    let mut batch = Batch::new();
    let (agent, changed) = match asked {
        None => (None, before.agent.is_some()),
        Some(asked) => {
            let (program, record) = wish(&app.records, &host.record, asked).await?;
            batch.replace(&record, &record.record)?;
            let status = reported.as_ref().and_then(|status| status.agent.as_ref());
            let (agent, changed) = wanted(&before, program, status);
            (Some(agent), changed)
        }
    };
    let seen = reported.as_ref().map_or(0, |status| status.observed_generation);
    if !changed {
        let (generation, agent) = (before.generation, agent.map(Into::into));
        return Ok(UpgradeAgentResponse { generation, agent, changed });
    }
    let after = HostSpec { generation: before.generation + 1, agent, ..before.clone() };
    let after = before.followed_by(after, seen);
    let record = HostSpecRecord { spec: Some(after.clone().into()) };
    match &stored {
        Some(stored) => batch.replace(stored, &record)?,
        None => batch.create(&host.id, &record)?,
    };
    batch.exists::<HostRecord>(&host.id)?;
    let detail = asked.map_or_else(|| "any".to_owned(), |asked| asked.version.to_string());
    let (entry, audited) = audit::entry(&who, "Agents/Upgrade", name, &detail, now);
    batch.create(&entry, &audited)?;
    match app.records.commit(batch).await {
        Ok(_) => Ok(UpgradeAgentResponse {
            generation: after.generation,
            agent: after.agent.map(Into::into),
            changed,
        }),
        Err(CommitError::Conflict { .. }) => Err(Refusal::Conflict(format!(
            "what host {name} should run is being changed all the time; try again"
        ))),
        Err(error) => Err(error.into()),
    }
}

fn wanted(
    before: &HostSpec,
    program: AgentSpec,
    reported: Option<&AgentStatus>,
) -> (AgentSpec, bool) {
    AgentSpec::after(before.agent.as_ref(), program, reported)
}
