//! The service `Segments`: the bytes of recipes, for hosts that are to have the image.
//!
//! Memory is a few chunks for each transfer, whatever the size of the image; reading waits for the
//! agent, and sending for its turn.

use std::sync::Arc;

use bytes::Bytes;
use shoal_core::name::HostId;
use shoal_core::transfer::RecipeId;
use shoal_image::recipe::RecipeFile;
use shoal_proto::CHUNK;
use shoal_proto::convert::recipe_id;
use shoal_proto::v1::segments_server::Segments;
use shoal_proto::v1::{FetchSegmentsRequest, SegmentChunk};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, async_trait};

use super::{Lane, Transfers, permitted};
use crate::access::caller;
use crate::refusal::Refusal;
use crate::sessions::SHUTTING_DOWN;

/// Chunks that are read ahead of the network: one on its way, one ready.
const READ_AHEAD: usize = 2;

type Chunks = mpsc::Sender<Result<SegmentChunk, Status>>;

#[async_trait]
impl Segments for Transfers {
    type FetchStream = ReceiverStream<Result<SegmentChunk, Status>>;

    async fn fetch(
        &self,
        request: Request<FetchSegmentsRequest>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        let host = caller(&request)?.host()?;
        let FetchSegmentsRequest { recipe, first } = request.into_inner();
        let id = recipe_id("recipe", &recipe).map_err(Refusal::from)?;
        Ok(Response::new(self.send(&host, id, first).await?))
    }
}

/// What goes to one host.
struct Sending {
    transfers: Transfers,
    lane: Lane,
    id: RecipeId,
    recipe: Arc<RecipeFile>,
    offset: u64,
    end: u64,
}

impl Transfers {
    pub(super) async fn send(
        &self,
        host: &HostId,
        id: RecipeId,
        first: u32,
    ) -> Result<ReceiverStream<Result<SegmentChunk, Status>>, Refusal> {
        let job = self.recipes.job(&id).ok_or_else(|| unknown(id))?;
        permitted(&self.records, host, &job.target()).await?;
        let recipe = self.read(id).await?;
        let number = usize::try_from(first).unwrap_or(usize::MAX);
        let (offset, _) = recipe.place(number).ok_or_else(|| no_segment(id, first))?;
        let end = recipe.head().encoded();
        let (chunks, stream) = mpsc::channel(READ_AHEAD);
        let (transfers, lane) = (self.clone(), self.lane(host));
        let sending = Sending { transfers, lane, id, recipe, offset, end };
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            if shutdown.run_until_cancelled(sending.run(&chunks)).await.is_none() {
                // Where the agent does not read, its stream just ends early.
                let _ = chunks.try_send(Err(Status::unavailable(SHUTTING_DOWN)));
            }
        });
        Ok(ReceiverStream::new(stream))
    }
}

impl Sending {
    async fn run(mut self, chunks: &Chunks) {
        let mut piece = Bytes::new();
        while self.offset < self.end {
            // Only who can take a chunk asks for a turn.
            let Ok(place) = chunks.reserve().await else { return };
            if piece.is_empty() {
                let kept = &self.transfers.chunks;
                match kept.read(self.id, &self.recipe, self.offset, self.end).await {
                    Ok(read) => piece = read,
                    Err(error) => {
                        tracing::error!(recipe = %self.id, %error, "cannot read a recipe's file");
                        let text = "cannot read the recipe's file; see the controller's log";
                        return place.send(Err(Refusal::Internal(text.into()).into()));
                    }
                }
            }
            let data = piece.split_to(CHUNK.min(piece.len()));
            self.offset += u64::try_from(data.len()).unwrap_or(u64::MAX);
            self.lane.pass(data.len()).await;
            place.send(Ok(SegmentChunk { data }));
        }
    }
}

fn unknown(id: RecipeId) -> Refusal {
    Refusal::NotFound(format!("recipe {id} is not kept here (any more); plan the transfer again"))
}

fn no_segment(id: RecipeId, first: u32) -> Refusal {
    Refusal::Invalid(format!("recipe {id} has no segment {first}"))
}
