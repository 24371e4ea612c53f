//! The bytes of an image, for an agent that knows no recipes, or of a program of the agent, for a
//! host that is to run it.
//!
//! Plain bytes from an offset on. Memory is bounded by a few chunks for each transfer, whatever
//! the size of the image; reading waits for the agent.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use shoal_core::name::HostId;
use shoal_proto::CHUNK;
use shoal_proto::convert::digest;
use shoal_proto::v1::store::HostSpecRecord;
use shoal_proto::v1::{FetchAgentRequest, FetchImageRequest, HostSpec, ImageChunk};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::app::App;
use crate::refusal::Refusal;
use crate::sessions::SHUTTING_DOWN;
use crate::transfers::{Lane, permitted};

/// Chunks that are read ahead of the network: one on its way, one ready.
const READ_AHEAD: usize = 2;

type Chunks = mpsc::Sender<Result<ImageChunk, Status>>;

/// Starts a transfer.
pub(super) async fn start(
    app: &Arc<App>,
    host: &HostId,
    request: FetchImageRequest,
) -> Result<ReceiverStream<Result<ImageChunk, Status>>, Status> {
    let FetchImageRequest { digest: bytes, offset } = request;
    let digest = digest("digest", &bytes).map_err(Refusal::from)?;
    permitted(&app.records, host, &digest).await?;
    let opened = app.blobs.open(&digest).await.map_err(Refusal::from)?;
    let lane = app.transfers.lane(host);
    stream_from(app, opened, offset, &format!("image {}", digest.short()), Some(lane))
}

/// The same of the program of the agent that the host is to run.
pub(super) async fn start_agent(
    app: &Arc<App>,
    host: &HostId,
    request: FetchAgentRequest,
) -> Result<ReceiverStream<Result<ImageChunk, Status>>, Status> {
    let FetchAgentRequest { digest: bytes, offset } = request;
    let digest = digest("digest", &bytes).map_err(Refusal::from)?;
    let spec = spec_of(app, host).await?;
    if spec.agent.is_none_or(|agent| *agent.digest != digest.as_bytes()[..]) {
        return Err(not_wanted(&format!("program {}", digest.short())).into());
    }
    let opened = app.programs.open(&digest).await.map_err(Refusal::from)?;
    stream_from(app, opened, offset, &format!("program {}", digest.short()), None)
}

fn stream_from(
    app: &Arc<App>,
    (file, length): (File, u64),
    offset: u64,
    what: &str,
    lane: Option<Lane>,
) -> Result<ReceiverStream<Result<ImageChunk, Status>>, Status> {
    if offset > length {
        return Err(Status::out_of_range(format!(
            "{what} has {length} bytes, and the offset is {offset}"
        )));
    }
    let (chunks, stream) = mpsc::channel(READ_AHEAD);
    let shutdown = app.shutdown.clone();
    app.tasks.spawn(async move {
        let sending = send(Arc::new(file), offset, length, &chunks, lane.as_ref());
        if shutdown.run_until_cancelled(sending).await.is_none() {
            // Where the agent does not read, its stream just ends early.
            let _ = chunks.try_send(Err(Status::unavailable(SHUTTING_DOWN)));
        }
    });
    Ok(ReceiverStream::new(stream))
}

async fn spec_of(app: &App, host: &HostId) -> Result<HostSpec, Refusal> {
    let stored = app.records.get::<HostSpecRecord>(host.as_str()).await?;
    Ok(stored.and_then(|stored| stored.record.spec).unwrap_or_default())
}

fn not_wanted(what: &str) -> Refusal {
    Refusal::Denied(format!(
        "{what} is not in the desired state of this host, so it gets no byte of it"
    ))
}

async fn send(file: Arc<File>, mut offset: u64, length: u64, chunks: &Chunks, lane: Option<&Lane>) {
    while offset < length {
        // Only who can take a chunk asks for a turn.
        let Ok(place) = chunks.reserve().await else { return };
        let source = Arc::clone(&file);
        let read = spawn_blocking(move || read(&source, offset, length)).await;
        let chunk = match read {
            Ok(Ok(data)) => {
                offset += u64::try_from(data.len()).unwrap_or(u64::MAX);
                Ok(ImageChunk { data })
            }
            Ok(Err(error)) => Err(failed(&error)),
            Err(error) => Err(failed(&error.into())),
        };
        if let (Ok(ImageChunk { data }), Some(lane)) = (&chunk, lane) {
            lane.pass(data.len()).await;
        }
        let is_last = chunk.is_err();
        place.send(chunk);
        if is_last {
            return;
        }
    }
}

fn read(file: &File, offset: u64, length: u64) -> io::Result<Bytes> {
    let left = usize::try_from(length - offset).unwrap_or(usize::MAX);
    let mut data = vec![0; CHUNK.min(left)];
    file.read_exact_at(&mut data, offset)?;
    Ok(data.into())
}

fn failed(error: &io::Error) -> Status {
    tracing::error!(%error, "cannot read an image's file");
    Refusal::Internal("cannot read the image's file; see the controller's log".into()).into()
}
