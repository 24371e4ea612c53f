//! Passing images on to other hosts: the service `Segments`, for agents of the same installation.
//!
//! It listens where the host's policy says, and nowhere else. Who calls has shown a certificate of
//! the same CA that names an agent; whether that host has been removed since is the controller's to
//! know, and its certificate ends within a day. Asked for is what the controller told of: a
//! recipe's id, which nobody guesses.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use shoal_core::fanout::MOST_SERVED;
use shoal_core::pace::Pace;
use shoal_core::policy::PeerPolicy;
use shoal_core::spec::Memory;
use shoal_proto::CHUNK;
use shoal_proto::convert::recipe_id;
use shoal_proto::v1::segments_server::{Segments, SegmentsServer};
use shoal_proto::v1::{FetchSegmentsRequest, SegmentChunk};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::{Request, Response, Status, async_trait};
use tracing::{info, warn};

use super::door::{self, Caller};
use super::shelf::{Item, Shelf};
use crate::identity::Identity;

/// Calls on one connection.
const CALLS: u32 = 4;
/// The pause before what can't be listened on is tried again.
const AGAIN: Duration = Duration::from_secs(10);
/// Chunks that are read ahead of the network.
const READ_AHEAD: usize = 2;
/// Connections that are ready and not taken by the server yet.
const READY: usize = 4;
/// How long a connection may be quiet before it is asked whether it lives, and for the answer.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// A request names a recipe and a number.
const LARGEST_REQUEST: usize = 1024;

/// Serves what is on the shelf until `stop`.
pub async fn serve(
    policy: PeerPolicy,
    identity: Arc<Identity>,
    shelf: Shelf,
    stop: CancellationToken,
) {
    let pass = Pass::new(shelf, policy.rate);
    let serving = async {
        loop {
            if let Err(error) = serve_once(&policy, &identity, &pass).await {
                let (address, error) = (policy.listen, crate::chain(&*error));
                warn!(%address, error, "cannot serve other hosts; see [peers] in policy.toml");
            }
            tokio::time::sleep(AGAIN).await;
        }
    };
    stop.run_until_cancelled(serving).await;
}

async fn serve_once(
    policy: &PeerPolicy,
    identity: &Identity,
    pass: &Pass,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let listener = door::bind(policy.listen).await?;
    // A certificate that is renewed is used from the next handshake on.
    let tls = shoal_tls::server_config(&identity.certificate, &identity.roots);
    let domain = identity.certificate.info().identity.trust_domain().clone();
    let (ready, connections) = mpsc::channel(READY);
    let service = SegmentsServer::new(pass.clone()).max_decoding_message_size(LARGEST_REQUEST);
    let serving = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .max_concurrent_streams(CALLS)
        .add_service(service)
        .serve_with_incoming(ReceiverStream::new(connections));
    tokio::select! {
        ended = serving => Ok(ended?),
        () = door::accept(listener, tls, domain, ready) => Ok(()),
    }
}

/// The service.
#[derive(Debug, Clone)]
struct Pass {
    shelf: Shelf,
    begin: Instant,
    pace: Option<Arc<Mutex<Pace>>>,
    served: Arc<Semaphore>,
}

impl Pass {
    fn new(shelf: Shelf, rate: Option<Memory>) -> Self {
        let pace = rate.map(|Memory(rate)| Arc::new(Mutex::new(Pace::new(rate))));
        let served = Arc::new(Semaphore::new(MOST_SERVED));
        Self { shelf, begin: Instant::now(), pace, served }
    }

    /// Waits until so many bytes may go.
    async fn pass(&self, bytes: usize) {
        let Some(pace) = &self.pace else { return };
        let turn = {
            let mut pace = pace.lock().unwrap_or_else(PoisonError::into_inner);
            pace.turn(bytes, self.begin.elapsed())
        };
        tokio::time::sleep_until(self.begin + turn).await;
    }
}

#[async_trait]
impl Segments for Pass {
    type FetchStream = ReceiverStream<Result<SegmentChunk, Status>>;

    async fn fetch(
        &self,
        request: Request<FetchSegmentsRequest>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        let caller = request.extensions().get::<Caller>().cloned();
        let Caller(name) = caller.ok_or_else(|| Status::unauthenticated("who are you?"))?;
        let FetchSegmentsRequest { recipe, first } = request.into_inner();
        let id = recipe_id("recipe", &recipe);
        let id = id.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let slot = Arc::clone(&self.served).try_acquire_owned();
        let slot = slot.map_err(|_| Status::resource_exhausted("enough hosts are served here"))?;
        let item = self.shelf.find(id).await;
        let item = item.ok_or_else(|| Status::not_found(format!("recipe {id} is not here")))?;
        let first = usize::try_from(first).unwrap_or(usize::MAX);
        if item.place(first).is_none() {
            return Err(Status::out_of_range(format!("recipe {id} has no segment {first}")));
        }
        info!(recipe = %id, to = %name, first, "passing an image on");
        let (chunks, stream) = mpsc::channel(READ_AHEAD);
        let sending = Sending { pass: self.clone(), item, chunks, _slot: slot };
        tokio::spawn(sending.run(first));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// What goes to one host.
struct Sending {
    pass: Pass,
    item: Arc<Item>,
    chunks: mpsc::Sender<Result<SegmentChunk, Status>>,
    _slot: OwnedSemaphorePermit,
}

impl Sending {
    async fn run(self, first: usize) {
        if let Err(status) = self.send(first).await {
            // Where the other host is gone, nobody hears it.
            let _ = self.chunks.send(Err(status)).await;
        }
    }

    async fn send(&self, first: usize) -> Result<(), Status> {
        let mut file = None;
        for segment in first.. {
            let Some((mut offset, length)) = self.item.place(segment) else { return Ok(()) };
            if !self.is_there(segment).await? {
                return Ok(());
            }
            let open = match file.take() {
                Some(open) => open,
                None => self.open().await?,
            };
            let end = offset + u64::from(length);
            while offset < end {
                let Ok(place) = self.chunks.reserve().await else { return Ok(()) };
                let data = read(&open, offset, end).await.map_err(|error| failed(&error))?;
                offset += u64::try_from(data.len()).unwrap_or(u64::MAX);
                self.pass.pass(data.len()).await;
                place.send(Ok(SegmentChunk { data }));
            }
            file = Some(open);
        }
        Ok(())
    }

    /// Waits for a segment that is still to come; `false` where nobody waits for it any more.
    async fn is_there(&self, segment: usize) -> Result<bool, Status> {
        tokio::select! {
            there = self.item.wait_for(segment) => match there {
                true => Ok(true),
                false => Err(Status::unavailable("this host does not get it any more")),
            },
            () = self.chunks.closed() => Ok(false),
        }
    }

    async fn open(&self) -> Result<Arc<File>, Status> {
        let item = Arc::clone(&self.item);
        let opened = spawn_blocking(move || item.open()).await;
        let opened = opened.unwrap_or_else(|error| Err(error.into()));
        opened.map(Arc::new).map_err(|error| failed(&error))
    }
}

async fn read(file: &Arc<File>, offset: u64, end: u64) -> io::Result<Bytes> {
    let file = Arc::clone(file);
    let read = spawn_blocking(move || {
        let left = usize::try_from(end - offset).unwrap_or(usize::MAX);
        let mut data = vec![0; CHUNK.min(left)];
        file.read_exact_at(&mut data, offset)?;
        Ok(data.into())
    });
    read.await.unwrap_or_else(|error| Err(error.into()))
}

fn failed(error: &io::Error) -> Status {
    warn!(%error, "cannot read what another host asks for");
    Status::data_loss("this host can't read it any more")
}

#[cfg(test)]
mod tests;
