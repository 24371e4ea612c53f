//! The `Hosts` service: join tokens, and hosts as people see and drive them.
//!
//! Way in: [`HostsApi`]; [`find`] is for every other service that takes a host's name. Everything
//! that makes, moves or removes anything is in a module of its own: [`tokens`], [`cordon`],
//! [`drain`], [`removal`].

mod cordon;
mod drain;
mod removal;
#[cfg(test)]
mod tests;
mod tokens;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use shoal_core::label::{Labels, Selector, parse_label};
use shoal_core::name::{HostId, HostName};
use shoal_proto::v1::hosts_server::Hosts;
use shoal_proto::v1::store::{HostNameRecord, HostRecord, HostSpecRecord};
use shoal_proto::v1::{
    AgentSpec, CordonHostRequest, CordonHostResponse, CreateTokenRequest, CreateTokenResponse,
    DrainHostRequest, DrainHostResponse, GetHostRequest, GetHostResponse, Host, HostStatus,
    LabelHostRequest, LabelHostResponse, ListHostsRequest, ListHostsResponse, ListTokensRequest,
    ListTokensResponse, RemoveHostRequest, RemoveHostResponse, RevokeTokenRequest,
    RevokeTokenResponse, UncordonHostRequest, UncordonHostResponse,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::access::{Caller, caller};
use crate::app::App;
use crate::refusal::Refusal;
use crate::store::{Batch, Records, Stored};
use crate::{audit, clock};

/// Labels that a host can have.
const MOST_LABELS: usize = 64;
/// How often a change is tried again that someone else's came before.
const TRIES: usize = 5;

/// The service.
#[derive(Debug)]
pub struct HostsApi {
    app: Arc<App>,
}

#[tonic::async_trait]
impl Hosts for HostsApi {
    type DrainStream = ReceiverStream<Result<DrainHostResponse, Status>>;

    async fn create_token(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Result<Response<CreateTokenResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(tokens::create(&self.app, &caller, request.into_inner()).await?))
    }

    async fn list_tokens(
        &self,
        request: Request<ListTokensRequest>,
    ) -> Result<Response<ListTokensResponse>, Status> {
        let ListTokensRequest { all } = request.into_inner();
        Ok(Response::new(tokens::list(&self.app.records, all, clock::now()).await?))
    }

    async fn revoke_token(
        &self,
        request: Request<RevokeTokenRequest>,
    ) -> Result<Response<RevokeTokenResponse>, Status> {
        let caller = caller(&request)?;
        let RevokeTokenRequest { id } = request.into_inner();
        tokens::revoke(&self.app.records, &caller, &id, clock::now()).await?;
        Ok(Response::new(RevokeTokenResponse {}))
    }

    async fn list(
        &self,
        request: Request<ListHostsRequest>,
    ) -> Result<Response<ListHostsResponse>, Status> {
        let ListHostsRequest { selector } = request.into_inner();
        let hosts = self.select(&selector).await?;
        Ok(Response::new(ListHostsResponse { hosts }))
    }

    async fn get(
        &self,
        request: Request<GetHostRequest>,
    ) -> Result<Response<GetHostResponse>, Status> {
        let GetHostRequest { name } = request.into_inner();
        let found = find(&self.app.records, &name).await?;
        let host = Some(self.show(found.record).await?);
        Ok(Response::new(GetHostResponse { host }))
    }

    async fn label(
        &self,
        request: Request<LabelHostRequest>,
    ) -> Result<Response<LabelHostResponse>, Status> {
        let caller = caller(&request)?;
        let changed = self.set_labels(&caller, &request.into_inner()).await?;
        let host = Some(self.show(changed).await?);
        Ok(Response::new(LabelHostResponse { host }))
    }

    async fn cordon(
        &self,
        request: Request<CordonHostRequest>,
    ) -> Result<Response<CordonHostResponse>, Status> {
        let caller = caller(&request)?;
        let CordonHostRequest { name, reason } = request.into_inner();
        let what = cordon::Wanted { name: &name, reason: &reason, drains: false };
        let (record, changed) =
            cordon::set(&self.app.records, &caller, &what, clock::now()).await?;
        let host = Some(self.show(record).await?);
        Ok(Response::new(CordonHostResponse { host, changed }))
    }

    async fn uncordon(
        &self,
        request: Request<UncordonHostRequest>,
    ) -> Result<Response<UncordonHostResponse>, Status> {
        let caller = caller(&request)?;
        let UncordonHostRequest { name } = request.into_inner();
        let (record, changed) = cordon::end(&self.app.records, &caller, &name).await?;
        let fleets = cordon::coming_back(&self.app.records, &record).await?;
        let host = Some(self.show(record).await?);
        Ok(Response::new(UncordonHostResponse { host, changed, fleets }))
    }

    async fn drain(
        &self,
        request: Request<DrainHostRequest>,
    ) -> Result<Response<Self::DrainStream>, Status> {
        let caller = caller(&request)?;
        let stream = drain::start(&self.app, &caller, request.into_inner()).await?;
        Ok(Response::new(stream))
    }

    async fn remove(
        &self,
        request: Request<RemoveHostRequest>,
    ) -> Result<Response<RemoveHostResponse>, Status> {
        let caller = caller(&request)?;
        let removed = removal::remove(&self.app, &caller, &request.into_inner()).await?;
        Ok(Response::new(removed))
    }
}

impl HostsApi {
    /// For `app`.
    #[must_use]
    pub fn new(app: Arc<App>) -> Self {
        Self { app }
    }

    async fn select(&self, selector: &str) -> Result<Vec<Host>, Refusal> {
        let selector = match selector {
            "" => None,
            text => Some(text.parse::<Selector>().map_err(|e| Refusal::Invalid(e.to_string()))?),
        };
        let specs = self.app.records.list::<HostSpecRecord>().await?.records;
        let mut told: HashMap<String, Told> =
            specs.into_iter().map(|stored| (stored.id, Told::of(Some(stored.record)))).collect();
        let hosts = self.app.records.list::<HostRecord>().await?.records;
        let mut hosts: Vec<Host> = hosts
            .into_iter()
            .map(|stored| stored.record)
            .filter(|host| selector.as_ref().is_none_or(|s| s.matches(&host.labels)))
            .map(|host| {
                let told = told.remove(&host.id).unwrap_or_default();
                self.describe(host, told)
            })
            .collect();
        hosts.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(hosts)
    }

    async fn show(&self, host: HostRecord) -> Result<Host, Refusal> {
        let spec = self.app.records.get::<HostSpecRecord>(&host.id).await?;
        Ok(self.describe(host, Told::of(spec.map(|stored| stored.record))))
    }

    fn describe(&self, host: HostRecord, told: Told) -> Host {
        let Told { generation, agent } = told;
        let HostRecord {
            id,
            name,
            labels,
            mut facts,
            enrolled_ms,
            key_sha256: _,
            certificate_expires_ms,
            cordon,
        } = host;
        let live = &self.app.live;
        let host_id: Option<HostId> = id.parse().ok();
        let presence = host_id.as_ref().and_then(|id| live.presence(id));
        let mut status =
            host_id.as_ref().and_then(|id| live.status(id)).map(|status| (*status).clone().into());
        let problems = host_id.as_ref().map(|id| live.problems(id)).unwrap_or_default();
        if !problems.is_empty() {
            let status: &mut HostStatus = status.get_or_insert_default();
            status.problems.extend(problems);
        }
        if let (Some(facts), Some(free)) =
            (&mut facts, host_id.as_ref().and_then(|id| live.disk_free(id)))
        {
            facts.disk_free = free;
        }
        Host {
            id,
            name,
            labels,
            facts,
            online: presence.as_ref().is_some_and(|presence| presence.online),
            since_ms: presence.as_ref().map_or(enrolled_ms, |presence| presence.since.0),
            last_heard_ms: presence.map_or(0, |presence| presence.last_heard.0),
            enrolled_ms,
            generation,
            certificate_expires_ms,
            status,
            cordon,
            agent,
        }
    }

    async fn set_labels(
        &self,
        caller: &Caller,
        request: &LabelHostRequest,
    ) -> Result<HostRecord, Refusal> {
        let LabelHostRequest { name, set, remove } = request;
        let edit = |before: &HostRecord| {
            let mut labels = before.labels.clone();
            labels.extend(set.clone());
            labels.retain(|key, _| !remove.contains(key));
            Ok(HostRecord { labels: checked(labels)?, ..before.clone() })
        };
        let what = Audited { who: caller, what: "Hosts/Label", detail: written(set, remove) };
        Ok(change(&self.app.records, name, &what, edit).await?.0)
    }
}

/// What the audit log says of a change.
struct Audited<'a, W> {
    who: &'a W,
    what: &'static str,
    detail: String,
}

/// Changes a host's record; says what it is then, and whether that is new. Repeated where the
/// host's agent changed it in between.
async fn change<W: fmt::Display>(
    records: &Records,
    name: &str,
    what: &Audited<'_, W>,
    edit: impl Fn(&HostRecord) -> Result<HostRecord, Refusal>,
) -> Result<(HostRecord, bool), Refusal> {
    for _ in 1..TRIES {
        match try_change(records, name, what, &edit).await {
            Err(Refusal::Conflict(_)) => {}
            outcome => return outcome,
        }
    }
    try_change(records, name, what, &edit).await
}

async fn try_change<W: fmt::Display>(
    records: &Records,
    name: &str,
    what: &Audited<'_, W>,
    edit: impl Fn(&HostRecord) -> Result<HostRecord, Refusal>,
) -> Result<(HostRecord, bool), Refusal> {
    let found = find(records, name).await?;
    let record = edit(&found.record)?;
    if record == found.record {
        return Ok((record, false));
    }
    let Audited { who, what, detail } = what;
    let (id, entry) = audit::entry(who, what, name, detail, clock::now());
    let mut batch = Batch::new();
    batch.replace(&found, &record)?.create(&id, &entry)?;
    records.commit(batch).await?;
    Ok((record, true))
}

/// The host of that name.
///
/// # Errors
/// [`Refusal::NotFound`] with the nearest name that is there.
pub async fn find(records: &Records, name: &str) -> Result<Stored<HostRecord>, Refusal> {
    let name = parse_name(name)?;
    let id = records.get::<HostNameRecord>(name.as_str()).await?;
    let host = match &id {
        Some(stored) => records.get::<HostRecord>(&stored.record.id).await?,
        None => None,
    };
    match host {
        Some(host) => Ok(host),
        None => Err(unknown(records, &name).await?),
    }
}

async fn unknown(records: &Records, name: &HostName) -> Result<Refusal, Refusal> {
    let names = records.list::<HostNameRecord>().await?.records;
    let nearest = names
        .iter()
        .map(|stored| (strsim::damerau_levenshtein(&stored.id, name.as_str()), &stored.id))
        .filter(|(distance, _)| *distance <= 2)
        .min();
    let hint = nearest.map(|(_, near)| format!("did you mean {near}? ")).unwrap_or_default();
    Ok(Refusal::NotFound(format!(
        "there is no host {name}; {hint}`shoal host list` shows the hosts"
    )))
}

/// A host's name as a request has it.
///
/// # Errors
/// [`Refusal::Invalid`] where it can't be one.
pub fn parse_name(name: &str) -> Result<HostName, Refusal> {
    name.parse().map_err(|error: shoal_core::name::InvalidName| Refusal::Invalid(error.to_string()))
}

/// What people want to know of a desired state.
#[derive(Debug, Default)]
struct Told {
    generation: u64,
    agent: Option<AgentSpec>,
}

impl Told {
    fn of(record: Option<HostSpecRecord>) -> Self {
        let spec = record.and_then(|record| record.spec).unwrap_or_default();
        Self { generation: spec.generation, agent: spec.agent }
    }
}

fn checked(labels: Labels) -> Result<Labels, Refusal> {
    if labels.len() > MOST_LABELS {
        let found = labels.len();
        return Err(Refusal::Invalid(format!("{found} labels are too many; {MOST_LABELS} fit")));
    }
    for (key, value) in &labels {
        parse_label(&format!("{key}={value}")).map_err(|e| Refusal::Invalid(e.to_string()))?;
    }
    Ok(labels)
}

fn written(set: &Labels, remove: &[String]) -> String {
    let mut changes: Vec<String> =
        set.iter().map(|(key, value)| format!("{key}={value}")).collect();
    changes.extend(remove.iter().map(|key| format!("{key}-")));
    changes.sort();
    changes.join(" ")
}
