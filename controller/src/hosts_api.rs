//! The `Hosts` service: join tokens, and hosts as people see them.
//!
//! Way in: [`HostsApi`]; [`find`] is for every other service that takes a host's name.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use shoal_core::label::{Labels, Selector, parse_label};
use shoal_core::name::{HostId, HostName};
use shoal_proto::v1::hosts_server::Hosts;
use shoal_proto::v1::store::{HostNameRecord, HostRecord, HostSpecRecord, TokenRecord};
use shoal_proto::v1::{
    CreateTokenRequest, CreateTokenResponse, GetHostRequest, GetHostResponse, Host, HostStatus,
    LabelHostRequest, LabelHostResponse, ListHostsRequest, ListHostsResponse,
};
use shoal_tls::JoinToken;
use tonic::{Request, Response, Status};

use crate::access::{Caller, caller};
use crate::app::App;
use crate::refusal::Refusal;
use crate::store::{Batch, Records, Stored};
use crate::{audit, clock};

/// How long a join token is good where nothing is said.
const DEFAULT_TTL: Duration = Duration::from_secs(15 * 60);
/// The longest that one can be.
const LONGEST_TTL: Duration = Duration::from_secs(7 * 24 * 60 * 60);
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
    async fn create_token(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Result<Response<CreateTokenResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(self.make_token(&caller, request.into_inner()).await?))
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
}

impl HostsApi {
    /// For `app`.
    #[must_use]
    pub fn new(app: Arc<App>) -> Self {
        Self { app }
    }

    async fn make_token(
        &self,
        caller: &Caller,
        request: CreateTokenRequest,
    ) -> Result<CreateTokenResponse, Refusal> {
        let CreateTokenRequest { host_name, labels, ttl_ms } = request;
        let labels = checked(labels)?;
        let life = lifetime(ttl_ms)?;
        if let Some(name) = &host_name {
            self.must_be_free(name).await?;
        }
        let token = JoinToken::generate(self.app.authority.ca().spki_sha256())
            .map_err(|error| Refusal::Internal(error.to_string()))?;
        let now = clock::now();
        let expires_ms = now.after(life).0;
        let detail = format!(
            "for {}, good for {} s",
            host_name.as_deref().unwrap_or("any host"),
            life.as_secs()
        );
        let record = TokenRecord {
            secret_sha256: token.secret_hash().to_vec().into(),
            expires_ms,
            host_name,
            labels,
            created_by: caller.to_string(),
            used: None,
        };
        let (id, entry) = audit::entry(caller, "Hosts/CreateToken", token.id(), &detail, now);
        let mut batch = Batch::new();
        batch.create(token.id(), &record)?.create(&id, &entry)?;
        self.app.records.commit(batch).await?;
        let enrol_port = self.app.config.enrol_listen.port().into();
        Ok(CreateTokenResponse { token: token.to_string(), expires_ms, enrol_port })
    }

    async fn must_be_free(&self, name: &str) -> Result<(), Refusal> {
        let name: HostName = parse_name(name)?;
        match self.app.records.get::<HostNameRecord>(name.as_str()).await? {
            None => Ok(()),
            Some(_) => Err(Refusal::AlreadyExists(format!(
                "host {name} is enrolled already; `shoal host show {name}` shows it"
            ))),
        }
    }

    async fn select(&self, selector: &str) -> Result<Vec<Host>, Refusal> {
        let selector = match selector {
            "" => None,
            text => Some(text.parse::<Selector>().map_err(|e| Refusal::Invalid(e.to_string()))?),
        };
        let specs = self.app.records.list::<HostSpecRecord>().await?.records;
        let generations: HashMap<String, u64> =
            specs.into_iter().map(|stored| (stored.id, generation(Some(stored.record)))).collect();
        let hosts = self.app.records.list::<HostRecord>().await?.records;
        let mut hosts: Vec<Host> = hosts
            .into_iter()
            .map(|stored| stored.record)
            .filter(|host| selector.as_ref().is_none_or(|s| s.matches(&host.labels)))
            .map(|host| {
                let generation = generations.get(&host.id).copied().unwrap_or_default();
                self.describe(host, generation)
            })
            .collect();
        hosts.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(hosts)
    }

    async fn show(&self, host: HostRecord) -> Result<Host, Refusal> {
        let spec = self.app.records.get::<HostSpecRecord>(&host.id).await?;
        Ok(self.describe(host, generation(spec.map(|stored| stored.record))))
    }

    fn describe(&self, host: HostRecord, generation: u64) -> Host {
        let HostRecord {
            id,
            name,
            labels,
            mut facts,
            enrolled_ms,
            key_sha256: _,
            certificate_expires_ms,
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
        }
    }

    /// Repeated where the host's agent changed the record in between.
    async fn set_labels(
        &self,
        caller: &Caller,
        request: &LabelHostRequest,
    ) -> Result<HostRecord, Refusal> {
        for _ in 1..TRIES {
            match self.try_set_labels(caller, request).await {
                Err(Refusal::Conflict(_)) => {}
                outcome => return outcome,
            }
        }
        self.try_set_labels(caller, request).await
    }

    async fn try_set_labels(
        &self,
        caller: &Caller,
        request: &LabelHostRequest,
    ) -> Result<HostRecord, Refusal> {
        let LabelHostRequest { name, set, remove } = request;
        let found = find(&self.app.records, name).await?;
        let mut labels = found.record.labels.clone();
        labels.extend(set.clone());
        labels.retain(|key, _| !remove.contains(key));
        let record = HostRecord { labels: checked(labels)?, ..found.record.clone() };
        if record == found.record {
            return Ok(record);
        }
        let detail = written(set, remove);
        let (id, entry) = audit::entry(caller, "Hosts/Label", name, &detail, clock::now());
        let mut batch = Batch::new();
        batch.replace(&found, &record)?.create(&id, &entry)?;
        self.app.records.commit(batch).await?;
        Ok(record)
    }
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

fn generation(record: Option<HostSpecRecord>) -> u64 {
    record.and_then(|record| record.spec).map(|spec| spec.generation).unwrap_or_default()
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

fn lifetime(ttl_ms: u64) -> Result<Duration, Refusal> {
    let life = if ttl_ms == 0 { DEFAULT_TTL } else { Duration::from_millis(ttl_ms) };
    if life > LONGEST_TTL {
        return Err(Refusal::Invalid(format!(
            "a join token can be good for 7 days at most, not {} h; make it when it is needed",
            life.as_secs() / 3600
        )));
    }
    Ok(life)
}

fn written(set: &Labels, remove: &[String]) -> String {
    let mut changes: Vec<String> =
        set.iter().map(|(key, value)| format!("{key}={value}")).collect();
    changes.extend(remove.iter().map(|key| format!("{key}-")));
    changes.sort();
    changes.join(" ")
}
