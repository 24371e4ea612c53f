//! What changed from one image to another, and what it takes to send it.
//!
//! Both files are read whole, and the recipe that would be sent is made and thrown away: some
//! seconds of all processors. So one comparison goes on at a time, and one that nobody waits for
//! any more ends.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use shoal_core::cause::chain;
use shoal_image::{Change, Diff, DiffError, MakeError, MakeOptions, Side, Summary, make};
use shoal_proto::convert;
use shoal_proto::v1::{
    DiffImagesRequest, DiffImagesResponse, DiffProgress, DiffSums, ImageChange, ImageChanges,
    ImageFile, TransferCost, diff_images_response,
};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::Images;
use crate::fleets_api::world::record_digest;
use crate::refusal::Refusal;

/// Changes in one message.
const CHANGES: usize = 256;

/// Messages that wait for the network.
const AHEAD: usize = 4;

/// How often is told how far it is.
const NEWS: Duration = Duration::from_millis(250);

/// The file that the recipe is made in.
const RECIPE: &str = "comparison.recipe";

pub(super) type Answers = ReceiverStream<Result<DiffImagesResponse, Status>>;
type Sender = mpsc::Sender<Result<DiffImagesResponse, Status>>;

/// Two images that are to be compared.
struct Pair {
    old: PathBuf,
    new: PathBuf,
    all: bool,
    sums: DiffSums,
}

impl Images {
    pub(crate) async fn diff(&self, request: DiffImagesRequest) -> Result<Answers, Refusal> {
        let DiffImagesRequest { old, new, all } = request;
        let [old, new] = [self.find(&old).await?.image, self.find(&new).await?.image];
        let [old_digest, new_digest] = [record_digest(&old)?, record_digest(&new)?];
        let sums = DiffSums {
            old: convert::digest_bytes(&old_digest),
            new: convert::digest_bytes(&new_digest),
            old_size: old.record.size,
            new_size: new.record.size,
            ..DiffSums::default()
        };
        let old = self.blobs.path(&old_digest).await?;
        let new = self.blobs.path(&new_digest).await?;
        let pair = Pair { old, new, all, sums };
        let (answers, stream) = mpsc::channel(AHEAD);
        let (comparing, shutdown) = (self.comparing.clone(), self.shutdown.clone());
        tokio::spawn(async move {
            let turn = tokio::select! {
                turn = comparing.acquire_owned() => turn,
                () = answers.closed() => return,
                () = shutdown.cancelled() => return,
            };
            let work = move || {
                let _turn = turn;
                if let Err(refusal) = compare(pair, &answers) {
                    let _ = answers.blocking_send(Err(refusal.into()));
                }
            };
            // It ends by itself where nobody listens, and says itself what went wrong.
            let _ = spawn_blocking(work).await;
        });
        Ok(ReceiverStream::new(stream))
    }
}

fn compare(pair: Pair, answers: &Sender) -> Result<(), Refusal> {
    let Pair { old, new, all, sums } = pair;
    let mut news = News { answers, told: None };
    let found = shoal_image::diff(&old, &new, all, &mut |done, total| news.tell(done, total));
    let Diff { changes, unchanged, times_only } = found.map_err(refusal)?;
    for some in changes.chunks(CHANGES) {
        let changes = some.iter().map(change).collect();
        send(answers, diff_images_response::Message::Changes(ImageChanges { changes }))?;
    }
    let cost = cost(&old, &new, &mut news)?;
    let sums = DiffSums { unchanged, times_only, cost: Some(cost), ..sums };
    send(answers, diff_images_response::Message::Sums(sums))
}

/// Tells how far it is.
struct News<'a> {
    answers: &'a Sender,
    told: Option<Instant>,
}

impl News<'_> {
    /// Whether anybody listens.
    fn tell(&mut self, done: u64, total: u64) -> bool {
        if self.told.is_none_or(|told| told.elapsed() >= NEWS) {
            self.told = Some(Instant::now());
            let progress = DiffProgress { done, total };
            let message = Some(diff_images_response::Message::Progress(progress));
            // Who reads slowly can do without.
            let _ = self.answers.try_send(Ok(DiffImagesResponse { message }));
        }
        !self.answers.is_closed()
    }
}

fn send(answers: &Sender, message: diff_images_response::Message) -> Result<(), Refusal> {
    let message = DiffImagesResponse { message: Some(message) };
    answers.blocking_send(Ok(message)).map_err(|_| gone())
}

fn gone() -> Refusal {
    Refusal::Unavailable("nobody waits for the comparison any more".into())
}

fn refusal(error: DiffError) -> Refusal {
    match error {
        DiffError::Image(error) => Refusal::Internal(chain(&error)),
        DiffError::Cancelled => gone(),
    }
}

fn change(change: &Change) -> ImageChange {
    let Change { path, old, new, fields } = change;
    ImageChange {
        path: path.clone(),
        old: old.as_ref().map(file),
        new: new.as_ref().map(file),
        fields: fields.iter().map(ToString::to_string).collect(),
    }
}

fn file(side: &Side) -> ImageFile {
    let Side { kind, size, mode, uid, gid, mtime, target } = side.clone();
    ImageFile {
        kind: kind.to_owned(),
        size,
        mode: mode.into(),
        uid,
        gid,
        mtime: mtime.into(),
        target: target.unwrap_or_default(),
    }
}

/// What a recipe takes that makes the new image out of the old one.
fn cost(old: &Path, new: &Path, news: &mut News<'_>) -> Result<TransferCost, Refusal> {
    // Under the same name each time, since one goes on at a time: a crash leaves one at most.
    let out = new.with_file_name(RECIPE);
    let mut progress = |done, total| news.tell(done, total);
    let made = make(new, &[old], &out, &MakeOptions::default(), &mut progress);
    let _ = std::fs::remove_file(&out);
    let (_, summary) = made.map_err(|error| match error {
        MakeError::Cancelled => gone(),
        error => {
            tracing::error!(error = chain(&error), "cannot make a recipe to compare two images");
            Refusal::Internal("what a push would send could not be worked out".into())
        }
    })?;
    let Summary { copied, rebuilt, rebuilt_blocks, literal, metadata, wire, wire_bytes } = summary;
    Ok(TransferCost {
        copied,
        rebuilt,
        literal,
        metadata,
        rebuilt_blocks,
        copied_wire: wire.copied,
        rebuilt_wire: wire.rebuilt,
        literal_wire: wire.literal,
        metadata_wire: wire.metadata,
        wire_bytes,
    })
}
