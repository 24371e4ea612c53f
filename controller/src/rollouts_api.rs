//! The service `Rollouts`: what rollouts there are, following one until it ends, and what people
//! say to it: [`control`], `fleets_api::undo`, `locks`.
//!
//! Deliberately absent: moving one. A rollout is made by an apply and moved by `rollout_driver`;
//! what is seen here is what the store has.

pub mod control;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use shoal_core::name::{FleetName, HostId, HostName};
use shoal_core::rollout::Rollout;
use shoal_core::time::Timestamp;
use shoal_proto::v1::store::{RevisionRecord, RolloutRecord};
use shoal_proto::v1::{
    self, ControlRolloutRequest, ControlRolloutResponse, ListRolloutsRequest, ListRolloutsResponse,
    LockRequest, LockResponse, RolloutHost, UndoRequest, UndoResponse, UnlockRequest,
    UnlockResponse, WatchRolloutRequest, rollouts_server,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, async_trait};

use crate::app::App;
use crate::fleets_api::Applying;
use crate::fleets_api::undo::undo;
use crate::fleets_api::world::rollout;
use crate::records::revision_id;
use crate::refusal::Refusal;
use crate::store::{RecordError, RecordWatch, Records, Stored, WatchError};
use crate::{access, clock, inventory, locks};

/// The most rollouts that a listing has. Older ones stay in the store.
const MOST_LISTED: usize = 100;

/// States that wait for a watcher that reads slowly: it wants the newest, and each is whole.
const WAITING: usize = 2;

/// The service.
#[derive(Debug, Clone)]
pub struct Rollouts {
    records: Records,
    applying: Applying,
    shutdown: CancellationToken,
}

impl Rollouts {
    /// The service over a controller's parts.
    #[must_use]
    pub fn new(app: &App) -> Self {
        let (records, applying) = (app.records.clone(), Arc::clone(&app.applying));
        Self { records, applying, shutdown: app.shutdown.clone() }
    }

    #[cfg(test)]
    pub(crate) fn over(records: Records, shutdown: CancellationToken) -> Self {
        Self { records, applying: Applying::default(), shutdown }
    }

    pub(crate) async fn list(
        &self,
        request: ListRolloutsRequest,
    ) -> Result<ListRolloutsResponse, Refusal> {
        let ListRolloutsRequest { fleet } = request;
        let mut records = if fleet.is_empty() {
            self.records.list::<RolloutRecord>().await?.records
        } else {
            self.of_fleet(&fleet).await?.0
        };
        let newest_first =
            |r: &Stored<RolloutRecord>| std::cmp::Reverse((r.record.started_ms, r.record.revision));
        records.sort_by_key(newest_first);
        records.truncate(MOST_LISTED);
        let names = inventory::host_names(&self.records).await?;
        let mut rollouts = Vec::with_capacity(records.len());
        for stored in &records {
            let author = self.author(&stored.id).await?;
            rollouts.push(wire(&rollout(stored)?, &names, &author));
        }
        Ok(ListRolloutsResponse { rollouts })
    }

    async fn control(
        &self,
        request: ControlRolloutRequest,
        who: &str,
        now: Timestamp,
    ) -> Result<ControlRolloutResponse, Refusal> {
        let (author, rollout) = control::control(&self.records, request, who, now).await?;
        let names = inventory::host_names(&self.records).await?;
        Ok(ControlRolloutResponse { rollout: Some(wire(&rollout, &names, &author)) })
    }

    /// A fleet's rollouts, of which there must be one, and where to watch from.
    async fn of_fleet(
        &self,
        name: &str,
    ) -> Result<(Vec<Stored<RolloutRecord>>, crate::store::Revision), Refusal> {
        let fleet: FleetName =
            name.parse().map_err(|error| Refusal::Invalid(format!("{error}")))?;
        let listing = self.records.list_under::<RolloutRecord>(&format!("{fleet}/")).await?;
        if listing.records.is_empty() {
            return Err(Refusal::NotFound(format!(
                "there is no fleet {fleet}; `shoal rollout list` shows the rollouts of all"
            )));
        }
        Ok((listing.records, listing.revision))
    }

    async fn author(&self, id: &str) -> Result<String, Refusal> {
        let revision = self.records.get::<RevisionRecord>(id).await?;
        Ok(revision.map(|stored| stored.record.author).unwrap_or_default())
    }

    pub(crate) async fn watch(
        &self,
        request: WatchRolloutRequest,
    ) -> Result<ReceiverStream<Result<v1::Rollout, Status>>, Refusal> {
        let WatchRolloutRequest { fleet, revision } = request;
        let (records, from) = self.of_fleet(&fleet).await?;
        let found = match revision {
            0 => records.into_iter().max_by_key(|stored| stored.record.revision),
            number => records.into_iter().find(|stored| stored.record.revision == number),
        };
        let now = found.ok_or_else(|| {
            Refusal::NotFound(format!(
                "fleet {fleet} has no revision {revision}; see `shoal rollout list {fleet}`"
            ))
        })?;
        let watched = Watched {
            author: self.author(&revision_id(&fleet, now.record.revision)).await?,
            names: inventory::host_names(&self.records).await?,
            changes: self.records.watch_under::<RolloutRecord>(&format!("{fleet}/"), from)?,
            service: self.clone(),
        };
        let (sender, receiver) = mpsc::channel(WAITING);
        tokio::spawn(watched.follow(now, sender));
        Ok(ReceiverStream::new(receiver))
    }
}

/// A rollout that is being watched.
struct Watched {
    author: String,
    names: BTreeMap<HostId, HostName>,
    changes: RecordWatch<RolloutRecord>,
    service: Rollouts,
}

impl Watched {
    /// Sends each state until the last, the controller's end, or the watcher's.
    async fn follow(
        mut self,
        first: Stored<RolloutRecord>,
        sender: mpsc::Sender<Result<v1::Rollout, Status>>,
    ) {
        let shutdown = self.service.shutdown.clone();
        let outcome = tokio::select! {
            outcome = self.send_all(first, &sender) => outcome,
            () = sender.closed() => return,
            () = shutdown.cancelled() => Err(Refusal::Unavailable(
                "the controller is shutting down; the rollout goes on when it is back".into(),
            )),
        };
        if let Err(refusal) = outcome {
            // A watcher that is gone needs no reason.
            let _ = sender.send(Err(refusal.into())).await;
        }
    }

    async fn send_all(
        &mut self,
        first: Stored<RolloutRecord>,
        sender: &mpsc::Sender<Result<v1::Rollout, Status>>,
    ) -> Result<(), Refusal> {
        let id = first.id.clone();
        let mut now = Some(first);
        while let Some(stored) = now {
            let rollout = rollout(&stored)?;
            let message = wire(&rollout, &self.names, &self.author);
            if sender.send(Ok(message)).await.is_err() || rollout.state.is_final() {
                return Ok(());
            }
            now = self.next(&id, &stored).await?;
        }
        Ok(())
    }

    /// The next state after `seen`.
    async fn next(
        &mut self,
        id: &str,
        seen: &Stored<RolloutRecord>,
    ) -> Result<Option<Stored<RolloutRecord>>, Refusal> {
        let records = &self.service.records;
        while let Some(change) = self.changes.next().await {
            match change {
                Ok(change) if change.id != id => {}
                // The newest state rather than this one: a slow watcher catches up at once.
                Ok(_) => match records.get::<RolloutRecord>(id).await? {
                    Some(stored) if stored.modified == seen.modified => {}
                    newest => return Ok(newest),
                },
                Err(RecordError::Watch(WatchError::Compacted { .. })) => {
                    return Err(Refusal::Unavailable(
                        "the watch fell too far behind; watch again".into(),
                    ));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }
}

/// A rollout for the wire.
#[must_use]
pub fn wire(rollout: &Rollout, names: &BTreeMap<HostId, HostName>, author: &str) -> v1::Rollout {
    let hosts = rollout.hosts.iter().map(|(id, progress)| {
        // A host that was removed has only its id left.
        let name = names.get(id).map_or(id.as_str(), HostName::as_str);
        RolloutHost::from((id.as_str(), name, progress))
    });
    let mut hosts: Vec<RolloutHost> = hosts.collect();
    hosts.sort_by(|a, b| a.name.cmp(&b.name));
    v1::Rollout { hosts, author: author.to_owned(), ..v1::Rollout::of(rollout) }
}

#[async_trait]
impl rollouts_server::Rollouts for Rollouts {
    async fn list(
        &self,
        request: Request<ListRolloutsRequest>,
    ) -> Result<Response<ListRolloutsResponse>, Status> {
        Ok(Response::new(Self::list(self, request.into_inner()).await?))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::Rollout, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<WatchRolloutRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let stream = Self::watch(self, request.into_inner()).await?;
        Ok(Response::new(Box::pin(stream)))
    }

    async fn control(
        &self,
        request: Request<ControlRolloutRequest>,
    ) -> Result<Response<ControlRolloutResponse>, Status> {
        let who = access::caller(&request)?.to_string();
        let done = Self::control(self, request.into_inner(), &who, clock::now()).await?;
        Ok(Response::new(done))
    }

    async fn undo(&self, request: Request<UndoRequest>) -> Result<Response<UndoResponse>, Status> {
        let who = access::caller(&request)?.to_string();
        let request = request.into_inner();
        let done = undo(&self.records, &self.applying, &request, &who, clock::now()).await?;
        Ok(Response::new(done))
    }

    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        let caller = access::caller(&request)?;
        let request = request.into_inner();
        Ok(Response::new(locks::lock(&self.records, request, &caller, clock::now()).await?))
    }

    async fn unlock(
        &self,
        request: Request<UnlockRequest>,
    ) -> Result<Response<UnlockResponse>, Status> {
        let caller = access::caller(&request)?;
        let request = request.into_inner();
        Ok(Response::new(locks::unlock(&self.records, request, &caller, clock::now()).await?))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shoal_proto::v1::RolloutState;
    use tonic::Code;

    use super::*;
    use crate::fleets_api::tests_support::{ADA, Lab};

    const WEB: &[(&str, &str, &str)] = &[("main", "app:1", "h1")];

    fn service(lab: &Lab) -> (Rollouts, CancellationToken) {
        let shutdown = CancellationToken::new();
        (Rollouts::over(lab.records.clone(), shutdown.clone()), shutdown)
    }

    async fn watch(service: &Rollouts) -> ReceiverStream<Result<v1::Rollout, Status>> {
        let request = WatchRolloutRequest { fleet: "shop".into(), revision: 0 };
        service.watch(request).await.unwrap()
    }

    async fn next(
        stream: &mut ReceiverStream<Result<v1::Rollout, Status>>,
    ) -> Option<Result<v1::Rollout, Status>> {
        let next = tokio::time::timeout(Duration::from_secs(10), stream.next());
        next.await.expect("something comes")
    }

    #[tokio::test]
    async fn a_watch_shows_each_state_and_ends_with_the_last() {
        let lab = Lab::new().await;
        lab.apply("shop", WEB).await.unwrap();
        let mut stream = watch(&service(&lab).0).await;
        let first = next(&mut stream).await.unwrap().unwrap();
        assert_eq!((first.state(), first.author.as_str()), (RolloutState::Planned, ADA));
        assert_eq!((first.batch, first.policy.as_ref().unwrap().batches.len()), (0, 4));
        lab.roll("shop", 1).await;
        let mut last = first;
        while let Some(rollout) = next(&mut stream).await {
            last = rollout.unwrap();
        }
        assert_eq!(last.state(), RolloutState::Completed);
        assert_eq!((last.hosts[0].name.as_str(), last.hosts[0].batch, last.batch), ("h1", 1, 1));
        let mut again = watch(&service(&lab).0).await;
        assert_eq!(next(&mut again).await.unwrap().unwrap(), last);
        assert!(next(&mut again).await.is_none());
    }

    #[tokio::test]
    async fn a_watch_ends_with_the_controller() {
        let lab = Lab::new().await;
        lab.apply("shop", WEB).await.unwrap();
        let (service, shutdown) = service(&lab);
        let mut stream = watch(&service).await;
        next(&mut stream).await.unwrap().unwrap();
        shutdown.cancel();
        let status = next(&mut stream).await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(next(&mut stream).await.is_none());
    }

    #[tokio::test]
    async fn rollouts_are_listed_newest_first() {
        let lab = Lab::new().await;
        lab.apply("shop", WEB).await.unwrap();
        lab.apply("shop", &[("main", "app:2", "h1")]).await.unwrap();
        lab.apply("mail", &[("mx", "app:2", "h1")]).await.unwrap();
        let service = service(&lab).0;
        let list = async |fleet: &str| {
            let request = ListRolloutsRequest { fleet: fleet.into() };
            service.list(request).await.map(|response| response.rollouts)
        };
        let shop = list("shop").await.unwrap();
        let states: Vec<_> = shop.iter().map(|r| (r.revision, r.state())).collect();
        assert_eq!(states, [(2, RolloutState::Planned), (1, RolloutState::Superseded)]);
        assert_eq!(list("").await.unwrap().len(), 3);
        assert!(matches!(list("nothing").await, Err(Refusal::NotFound(_))));
        let request = WatchRolloutRequest { fleet: "shop".into(), revision: 9 };
        assert!(matches!(service.watch(request).await, Err(Refusal::NotFound(_))));
    }
}
