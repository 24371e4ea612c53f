//! The service `Events`: what agents did and noticed, and following it.
//!
//! Deliberately absent: taking events in, and how long they are kept. [`crate::events`] knows.

use std::collections::BTreeSet;
use std::sync::Arc;

use shoal_core::event::EventKind;
use shoal_core::label::Selector;
use shoal_core::name::{HostId, InstanceId};
use shoal_proto::v1::{self, ListEventsRequest, events_server};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, async_trait};

use crate::app::App;
use crate::events::{Events, Noted};
use crate::inventory::{self, meant};
use crate::refusal::Refusal;
use crate::sessions::SHUTTING_DOWN;
use crate::store::Records;

/// Events that are told where nobody says how many.
const LIMIT: usize = 100;
/// Events that wait for a reader that is slow.
const WAITING: usize = 64;

/// The service.
#[derive(Debug, Clone)]
pub struct EventsApi {
    records: Records,
    events: Events,
    shutdown: CancellationToken,
}

type Answers = ReceiverStream<Result<v1::Event, Status>>;

impl EventsApi {
    /// The service over a controller's parts.
    #[must_use]
    pub fn new(app: &App) -> Self {
        Self::over(app.records.clone(), app.events.clone(), app.shutdown.clone())
    }

    pub(crate) fn over(records: Records, events: Events, shutdown: CancellationToken) -> Self {
        Self { records, events, shutdown }
    }

    pub(crate) async fn list(&self, request: ListEventsRequest) -> Result<Answers, Refusal> {
        let (limit, follow) = (request.limit, request.follow);
        let wanted = self.wanted(request).await?;
        let (mut found, next) = self.events.find(|noted| wanted.has(noted));
        found.sort_by_key(|noted| (noted.event.at_ms, noted.sequence));
        let limit = if limit == 0 { LIMIT } else { usize::try_from(limit).unwrap_or(usize::MAX) };
        let found = found.split_off(found.len().saturating_sub(limit));
        let (out, answers) = mpsc::channel(WAITING);
        let this = self.clone();
        tokio::spawn(async move {
            let told = this.tell(found, &wanted, follow.then_some(next), &out);
            let ended = tokio::select! {
                ended = told => ended,
                () = out.closed() => return,
                () = this.shutdown.cancelled() => Err(Refusal::Unavailable(SHUTTING_DOWN.into())),
            };
            if let Err(refusal) = ended {
                // A reader that is gone needs no reason.
                let _ = out.send(Err(refusal.into())).await;
            }
        });
        Ok(ReceiverStream::new(answers))
    }

    /// Sends the events that were found, and then what comes from `next` on.
    async fn tell(
        &self,
        found: Vec<Arc<Noted>>,
        wanted: &Wanted,
        next: Option<u64>,
        out: &mpsc::Sender<Result<v1::Event, Status>>,
    ) -> Result<(), Refusal> {
        let mut arrivals = self.events.arrivals();
        let mut some = found;
        let mut next = next;
        loop {
            for noted in some {
                if out.send(Ok(noted.event.clone())).await.is_err() {
                    return Ok(());
                }
            }
            let Some(from) = next else { return Ok(()) };
            let (came, then) = self.events.since(from);
            if came.is_empty() && arrivals.changed().await.is_err() {
                return Ok(());
            }
            some = came.into_iter().filter(|noted| wanted.has(noted)).collect();
            next = Some(then);
        }
    }

    async fn wanted(&self, request: ListEventsRequest) -> Result<Wanted, Refusal> {
        let ListEventsRequest {
            fleet,
            instance,
            host,
            selector,
            since_ms,
            limit: _,
            follow: _,
            warnings_only,
        } = request;
        if fleet.is_empty() && !instance.is_empty() {
            return Err(Refusal::Invalid("an instance is named, and no fleet".into()));
        }
        let hosts = self.hosts(&host, &selector).await?;
        let wanted = Wanted { fleet, instance, hosts, since_ms, warnings_only };
        self.check_fleet(&wanted).await?;
        Ok(wanted)
    }

    /// The hosts that are meant; `None` for all, also those that are gone.
    async fn hosts(&self, name: &str, selector: &str) -> Result<Option<BTreeSet<HostId>>, Refusal> {
        if name.is_empty() && selector.is_empty() {
            return Ok(None);
        }
        let mut hosts = inventory::hosts(&self.records).await?;
        if !name.is_empty() && !hosts.iter().any(|host| host.name.as_str() == name) {
            let meant = meant(name, hosts.iter().map(|host| host.name.as_str()));
            return Err(Refusal::NotFound(format!("there is no host {name}{meant}")));
        }
        hosts.retain(|host| name.is_empty() || host.name.as_str() == name);
        if !selector.is_empty() {
            let selector: Selector =
                selector.parse().map_err(|error| Refusal::Invalid(format!("selector {error}")))?;
            hosts.retain(|host| selector.matches(&host.labels));
        }
        Ok(Some(hosts.into_iter().map(|host| host.id).collect()))
    }

    /// A mistyped name must not look like a fleet of which nothing is to be told.
    async fn check_fleet(&self, wanted: &Wanted) -> Result<(), Refusal> {
        if wanted.fleet.is_empty() {
            return Ok(());
        }
        let Err(unknown) = crate::fleets_api::known(&self.records, &wanted.fleet).await else {
            return Ok(());
        };
        let any = Wanted {
            instance: String::new(),
            hosts: None,
            since_ms: 0,
            warnings_only: false,
            ..wanted.clone()
        };
        let (found, _) = self.events.find(|noted| any.has(noted));
        if found.is_empty() { Err(unknown) } else { Ok(()) }
    }
}

/// Which events are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    /// Empty: all, and what is of hosts.
    fleet: String,
    /// Empty: all.
    instance: String,
    hosts: Option<BTreeSet<HostId>>,
    since_ms: u64,
    warnings_only: bool,
}

impl Wanted {
    fn has(&self, noted: &Noted) -> bool {
        let event = &noted.event;
        event.at_ms >= self.since_ms
            && self.hosts.as_ref().is_none_or(|hosts| hosts.contains(&noted.host))
            && (!self.warnings_only || is_warning(event.kind))
            && (self.fleet.is_empty() || self.is_of_fleet(event))
    }

    fn is_of_fleet(&self, event: &v1::Event) -> bool {
        let id = event.instance.as_ref().and_then(|id| id.parse::<InstanceId>().ok());
        id.is_some_and(|InstanceId { fleet, instance }| {
            fleet.as_str() == self.fleet
                && (self.instance.is_empty() || instance.as_str() == self.instance)
        })
    }
}

fn is_warning(kind: i32) -> bool {
    use v1::EventKind as Wire;
    let kind = match Wire::try_from(kind) {
        Ok(Wire::Step) => EventKind::Step,
        Ok(Wire::Drift) => EventKind::Drift,
        Ok(Wire::Repaired) => EventKind::Repaired,
        Ok(Wire::Failed) => EventKind::Failed,
        Ok(Wire::State) => EventKind::State,
        Ok(Wire::WentBack) => EventKind::WentBack,
        Ok(Wire::Unspecified) | Err(_) => return false,
    };
    kind.is_warning()
}

#[async_trait]
impl events_server::Events for EventsApi {
    type ListStream = Answers;

    async fn list(
        &self,
        request: Request<ListEventsRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        Ok(Response::new(Self::list(self, request.into_inner()).await?))
    }
}

#[cfg(test)]
mod tests;
