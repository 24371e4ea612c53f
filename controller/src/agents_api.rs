//! The service `Agents`: programs of the agent, and which host is to run which.
//!
//! A program is a file in [`Programs`] and a record under the version and architecture that it
//! says of itself, the record last: what has one is whole and verified. Nothing here runs it.
//! Which host is to run which is part of the host's desired state; [`wish`] is for everyone who
//! wants to say so, in a transaction of their own or by [`upgrade`].
//!
//! Deliberately absent: in which order hosts get it, and what becomes of them. Whoever asks for it
//! decides that by what the hosts report.

pub mod programs;
mod wish;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use shoal_core::agent_program::{About, AgentVersion, LARGEST};
use shoal_core::image::Digest;
use shoal_core::time::Timestamp;
use shoal_proto::convert;
use shoal_proto::v1::agents_server;
use shoal_proto::v1::store::{AgentProgramRecord, HostRecord, HostSpecRecord};
use shoal_proto::v1::{
    AgentProgram, ListAgentsRequest, ListAgentsResponse, PushAgentHeader, PushAgentRequest,
    PushAgentResponse, RemoveAgentRequest, RemoveAgentResponse, UpgradeAgentRequest,
    UpgradeAgentResponse, push_agent_request,
};
use tokio::time::timeout;
use tonic::{Request, Response, Status, Streaming, async_trait};

pub use self::wish::{Asked, upgrade, wish};
use crate::access::caller;
use crate::app::App;
use crate::refusal::Refusal;
use crate::store::{Batch, CommitError, Records, Stored};
use crate::{audit, clock};

/// How long a sender may be silent.
const SILENCE: Duration = Duration::from_secs(60);
/// How often it is tried again where others change the same records.
const TRIES: u32 = 8;

/// The service.
#[derive(Debug)]
pub struct AgentsApi {
    app: Arc<App>,
}

#[async_trait]
impl agents_server::Agents for AgentsApi {
    async fn push(
        &self,
        request: Request<Streaming<PushAgentRequest>>,
    ) -> Result<Response<PushAgentResponse>, Status> {
        let who = caller(&request)?.to_string();
        Ok(Response::new(self.take(request.into_inner(), &who).await?))
    }

    async fn list(
        &self,
        _request: Request<ListAgentsRequest>,
    ) -> Result<Response<ListAgentsResponse>, Status> {
        let programs = known(&self.app.records).await?;
        Ok(Response::new(ListAgentsResponse { programs }))
    }

    async fn remove(
        &self,
        request: Request<RemoveAgentRequest>,
    ) -> Result<Response<RemoveAgentResponse>, Status> {
        let who = caller(&request)?.to_string();
        Ok(Response::new(self.forget(request.into_inner(), &who, clock::now()).await?))
    }

    async fn upgrade(
        &self,
        request: Request<UpgradeAgentRequest>,
    ) -> Result<Response<UpgradeAgentResponse>, Status> {
        let who = caller(&request)?.to_string();
        let UpgradeAgentRequest { host, version, deadline_ms } = request.into_inner();
        let asked = Asked::read(&version, deadline_ms)?;
        Ok(Response::new(upgrade(&self.app, &host, asked.as_ref(), &who, clock::now()).await?))
    }
}

impl AgentsApi {
    /// For `app`.
    #[must_use]
    pub fn new(app: &Arc<App>) -> Self {
        Self { app: Arc::clone(app) }
    }

    /// Takes a program in and makes it known.
    pub(crate) async fn take(
        &self,
        mut messages: impl Stream<Item = Result<PushAgentRequest, Status>> + Unpin,
        who: &str,
    ) -> Result<PushAgentResponse, Refusal> {
        let first = next(&mut messages).await?;
        let Some(push_agent_request::Message::Header(PushAgentHeader { digest, size })) = first
        else {
            return Err(Refusal::Invalid("the first message has to announce the program".into()));
        };
        let digest = convert::digest("digest", &digest)?;
        if size > LARGEST {
            let most = LARGEST >> 20;
            return Err(Refusal::Invalid(format!("a program has at most {most} MiB")));
        }
        let mut upload = self.app.programs.receive(digest, size).await?;
        while let Some(message) = next(&mut messages).await? {
            match message {
                push_agent_request::Message::Data(bytes) => upload.write(bytes).await?,
                push_agent_request::Message::Header(_) => {
                    return Err(Refusal::Invalid("a push announces one program".into()));
                }
            }
        }
        let _recorded = self.app.programs.changing().await;
        let about = upload.finish().await?;
        let (program, changed) = self.record(&digest, &about, who, clock::now()).await?;
        Ok(PushAgentResponse { program: Some(program), changed })
    }

    async fn record(
        &self,
        digest: &Digest,
        about: &About,
        who: &str,
        now: Timestamp,
    ) -> Result<(AgentProgram, bool), Refusal> {
        let records = &self.app.records;
        let id = id(&about.version, about.architecture);
        let known = records.get::<AgentProgramRecord>(&id).await?;
        if let Some(known) = known {
            let view = view(&known, &wanted_by(records).await?)?;
            return if view.digest == convert::digest_bytes(digest) {
                Ok((view, false))
            } else {
                Err(already(&known, about, digest)?)
            };
        }
        let record = AgentProgramRecord {
            digest: convert::digest_bytes(digest),
            size: about.size,
            pushed_ms: now.0,
            pushed_by: who.to_owned(),
        };
        let mut batch = Batch::new();
        batch.create(&id, &record)?;
        let (entry, audited) = audit::entry(&who, "Agents/Push", &id, &digest.to_string(), now);
        batch.create(&entry, &audited)?;
        match records.commit(batch).await {
            Ok(_) => {}
            Err(CommitError::Conflict { .. }) => {
                return Err(Refusal::Conflict(format!(
                    "someone else pushed agent {id} at the same moment; look at `shoal agent list`"
                )));
            }
            Err(error) => return Err(error.into()),
        }
        let stored = records.get::<AgentProgramRecord>(&id).await?;
        let stored = stored.ok_or_else(|| unknown(&about.version, ""))?;
        Ok((view(&stored, &BTreeMap::new())?, true))
    }

    pub(crate) async fn forget(
        &self,
        request: RemoveAgentRequest,
        who: &str,
        now: Timestamp,
    ) -> Result<RemoveAgentResponse, Refusal> {
        let RemoveAgentRequest { version, architecture } = request;
        let version: AgentVersion = convert::parse("version", &version)?;
        let records = &self.app.records;
        let found = records.list_under::<AgentProgramRecord>(&format!("{version}/")).await?;
        let wanted_by = wanted_by(records).await?;
        let (mut removed, mut batch) = (Vec::new(), Batch::new());
        for stored in found.records {
            let program = view(&stored, &wanted_by)?;
            if !architecture.is_empty() && program.architecture != architecture {
                continue;
            }
            if !program.wanted_by.is_empty() {
                return Err(Refusal::Precondition(format!(
                    "agent {version} for {} is to run on {}; say another with `shoal host \
                     upgrade` first, or `shoal host upgrade --release` to let them have any",
                    program.architecture,
                    program.wanted_by.join(", ")
                )));
            }
            batch.remove(&stored)?;
            removed.push(program);
        }
        if removed.is_empty() {
            return Err(unknown(&version, &architecture));
        }
        let names: Vec<&str> = removed.iter().map(|p| p.architecture.as_str()).collect();
        let (entry, audited) =
            audit::entry(&who, "Agents/Remove", version.as_str(), &names.join(" "), now);
        batch.create(&entry, &audited)?;
        let _kept = self.app.programs.changing().await;
        records.commit(batch).await?;
        // Another version may be the same file: then that has a record.
        remove_orphans(records, &self.app.programs).await?;
        Ok(RemoveAgentResponse { removed })
    }
}

/// Removes program files that have no record.
///
/// # Errors
/// The store or the disk fails.
pub async fn remove_orphans(
    records: &Records,
    programs: &programs::Programs,
) -> Result<(), Refusal> {
    let known = records.list::<AgentProgramRecord>().await?.records;
    let known = known.iter().map(|stored| convert::digest("digest", &stored.record.digest));
    let known = known.collect::<Result<_, _>>()?;
    Ok(programs.keep(known).await?)
}

/// The key of a program's record.
fn id(version: &AgentVersion, architecture: &str) -> String {
    format!("{version}/{architecture}")
}

async fn known(records: &Records) -> Result<Vec<AgentProgram>, Refusal> {
    let wanted_by = wanted_by(records).await?;
    let listed = records.list::<AgentProgramRecord>().await?.records;
    let mut programs: Vec<AgentProgram> =
        listed.iter().map(|stored| view(stored, &wanted_by)).collect::<Result<_, _>>()?;
    programs.sort_by_key(|program| std::cmp::Reverse(program.pushed_ms));
    Ok(programs)
}

type WantedBy = BTreeMap<Vec<u8>, Vec<String>>;

/// The names of the hosts that are to run each program.
async fn wanted_by(records: &Records) -> Result<WantedBy, Refusal> {
    let names = records.list::<HostRecord>().await?.records;
    let names: BTreeMap<String, String> =
        names.into_iter().map(|stored| (stored.id, stored.record.name)).collect();
    let mut wanted = WantedBy::new();
    for stored in records.list::<HostSpecRecord>().await?.records {
        let agent = stored.record.spec.and_then(|spec| spec.agent);
        if let (Some(agent), Some(name)) = (agent, names.get(&stored.id)) {
            wanted.entry(agent.digest.to_vec()).or_default().push(name.clone());
        }
    }
    Ok(wanted)
}

fn view(
    stored: &Stored<AgentProgramRecord>,
    wanted_by: &WantedBy,
) -> Result<AgentProgram, Refusal> {
    let Some((version, architecture)) = stored.id.split_once('/') else {
        return Err(Refusal::Internal(format!("the record of agent {} is damaged", stored.id)));
    };
    let AgentProgramRecord { digest, size, pushed_ms, pushed_by } = stored.record.clone();
    let mut hosts = wanted_by.get(&digest.to_vec()).cloned().unwrap_or_default();
    hosts.sort();
    Ok(AgentProgram {
        version: version.to_owned(),
        architecture: architecture.to_owned(),
        digest,
        size,
        pushed_ms,
        pushed_by,
        wanted_by: hosts,
    })
}

fn already(
    known: &Stored<AgentProgramRecord>,
    about: &About,
    digest: &Digest,
) -> Result<Refusal, Refusal> {
    let there = convert::digest("digest", &known.record.digest)?;
    let (version, architecture) = (&about.version, about.architecture);
    Ok(Refusal::AlreadyExists(format!(
        "another program is known as agent {version} for {architecture}: {}, and this one is {}; \
         a version means one program, so build this one under another version, or remove the \
         other with `shoal agent rm {version}`",
        there.short(),
        digest.short()
    )))
}

fn unknown(version: &AgentVersion, architecture: &str) -> Refusal {
    let of = if architecture.is_empty() { String::new() } else { format!(" for {architecture}") };
    Refusal::NotFound(format!(
        "there is no agent {version}{of}; `shoal agent list` shows those that there are, and \
         `shoal agent push FILE` adds one"
    ))
}

async fn next(
    messages: &mut (impl Stream<Item = Result<PushAgentRequest, Status>> + Unpin),
) -> Result<Option<push_agent_request::Message>, Refusal> {
    let message = timeout(SILENCE, messages.next()).await.map_err(|_| {
        Refusal::TimedOut(format!("nothing came for {} s; push it again", SILENCE.as_secs()))
    })?;
    match message {
        None => Ok(None),
        Some(Ok(PushAgentRequest { message: Some(message) })) => Ok(Some(message)),
        Some(Ok(PushAgentRequest { message: None })) => {
            Err(Refusal::Invalid("a message has neither header nor data".into()))
        }
        Some(Err(status)) => Err(Refusal::Unavailable(format!(
            "the connection broke ({}); push it again",
            status.message()
        ))),
    }
}
