//! Watching instances: the whole list now, and again whenever something of it has changed.

use std::time::Duration;

use futures_util::{FutureExt as _, Stream, StreamExt as _};
use shoal_proto::v1::store::{HostRecord, HostSpecRecord};
use shoal_proto::v1::{ListInstancesRequest, ListInstancesResponse};
use tokio::sync::{mpsc, watch};
use tonic::Status;

use super::Instances;
use crate::refusal::Refusal;
use crate::sessions::SHUTTING_DOWN;
use crate::store::{RecordWatch, Records};

/// How long changes are gathered. An apply to many hosts changes each of them several times.
const GATHERING: Duration = Duration::from_millis(200);
/// Lists that wait for a watcher that is slow: it wants the newest, and each is whole.
pub(super) const WAITING: usize = 1;

type Out = mpsc::Sender<Result<ListInstancesResponse, Status>>;

/// What can change a list.
pub(super) struct Changes {
    reports: watch::Receiver<u64>,
    specs: RecordWatch<HostSpecRecord>,
    hosts: RecordWatch<HostRecord>,
}

impl Changes {
    /// Those from now on.
    pub(super) async fn from_now(service: &Instances) -> Result<Self, Refusal> {
        let records: &Records = &service.records;
        let reports = service.live.changes();
        let now = records.list::<HostRecord>().await?.revision;
        Ok(Self { reports, specs: records.watch(now)?, hosts: records.watch(now)? })
    }

    /// Waits for the next, and for those that come with it.
    async fn next(&mut self) -> Result<(), Refusal> {
        // Each can be dropped: what was not taken is still there the next time.
        let still = tokio::select! {
            changed = self.reports.changed() => changed.is_ok(),
            change = self.specs.next() => change.transpose()?.is_some(),
            change = self.hosts.next() => change.transpose()?.is_some(),
        };
        if !still {
            return Err(Refusal::Unavailable(SHUTTING_DOWN.into()));
        }
        tokio::time::sleep(GATHERING).await;
        self.reports.mark_unchanged();
        drain(&mut self.specs);
        drain(&mut self.hosts);
        Ok(())
    }
}

fn drain(changes: &mut (impl Stream + Unpin)) {
    while let Some(Some(_)) = changes.next().now_or_never() {}
}

/// Sends `first`, and each list that differs from the one before, until either side ends.
pub(super) async fn send(
    service: Instances,
    request: ListInstancesRequest,
    changes: Changes,
    first: ListInstancesResponse,
    out: Out,
) {
    let shutdown = service.shutdown.clone();
    let ended = tokio::select! {
        ended = send_all(&service, request, changes, first, &out) => ended,
        () = out.closed() => return,
        () = shutdown.cancelled() => Err(Refusal::Unavailable(SHUTTING_DOWN.into())),
    };
    if let Err(refusal) = ended {
        // A watcher that is gone needs no reason.
        let _ = out.send(Err(refusal.into())).await;
    }
}

async fn send_all(
    service: &Instances,
    request: ListInstancesRequest,
    mut changes: Changes,
    first: ListInstancesResponse,
    out: &Out,
) -> Result<(), Refusal> {
    let mut sent = timeless(&first);
    if out.send(Ok(first)).await.is_err() {
        return Ok(());
    }
    loop {
        changes.next().await?;
        let now = service.list(request.clone()).await?;
        let news = timeless(&now);
        if news == sent {
            continue;
        }
        if out.send(Ok(now)).await.is_err() {
            return Ok(());
        }
        sent = news;
    }
}

/// The list without what changes with every heartbeat.
fn timeless(list: &ListInstancesResponse) -> ListInstancesResponse {
    let mut list = list.clone();
    for instance in list.instances.iter_mut().filter(|instance| instance.host_online) {
        instance.host_last_heard_ms = 0;
    }
    list
}
