//! The service `Images`: push, tag, list, remove.
//!
//! An image is a file in [`Blobs`] and a record in the store, the record last: what has one is
//! whole, verified and a squashfs. Tags are records of their own and move freely.
//!
//! What nothing needs is pruned after a while ([`prune`]), unless it is pinned ([`pin`]).
//!
//! Removing is refused while an instance uses the image, on a host or in the newest revision of a
//! fleet, and says by whom. `NAME:TAG` takes the tag away; where it was the image's last, the
//! image goes with it, and so that is refused while the image is in use. A digest takes the image
//! with all its tags.
//!
//! Deliberately absent: sending images to agents, and deciding which host needs which.

mod difference;
mod name;
mod nearest;
mod pin;
pub mod prune;
mod push;
mod removal;
mod signed;
pub mod staging;
#[cfg(test)]
mod tests;
mod view;

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::Stream;
use shoal_core::image::{Digest, ImageRef, SignedManifest};
use shoal_core::time::Timestamp;
use shoal_proto::convert;
use shoal_proto::v1;
use shoal_proto::v1::store::{ImageRecord, TagRecord};
use shoal_proto::v1::{
    BeginPushRequest, BeginPushResponse, DiffImagesRequest, GetImageRequest, GetImageResponse,
    ListImagesRequest, ListImagesResponse, ListStagedRequest, ListStagedResponse, NearestRequest,
    PruneImagesRequest, PruneImagesResponse, PushRequest, PushResponse, RemoveImageRequest,
    RemoveImageResponse, SetImagePinRequest, SetImagePinResponse, SetTagRequest, SetTagResponse,
    StageImageRequest, StageImageResponse, UnstageImageRequest, UnstageImageResponse,
    images_server,
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, async_trait};

use self::push::check_size;
use self::view::Views;
use crate::app::App;
use crate::blobs::{Blobs, Presence};
use crate::fleets_api::world::{record_digest, tag_id};
use crate::live::Live;
use crate::refusal::Refusal;
use crate::sessions::SHUTTING_DOWN;
use crate::store::{Batch, CommitError, Records, Stored};
use crate::transfers::Transfers;
use crate::{access, audit, clock};

/// How often it is tried again where others change the same records.
const ATTEMPTS: u32 = 8;

/// The service.
#[derive(Debug, Clone)]
pub struct Images {
    records: Records,
    blobs: Blobs,
    live: Live,
    transfers: Transfers,
    /// Who reads images to tell what is in them: one at a time.
    outlining: Arc<Semaphore>,
    /// Who compares two images: one at a time.
    comparing: Arc<Semaphore>,
    shutdown: CancellationToken,
}

impl Images {
    /// The service over a controller's parts.
    #[must_use]
    pub fn new(app: &App) -> Self {
        let (records, blobs) = (app.records.clone(), app.blobs.clone());
        let (live, transfers) = (app.live.clone(), app.transfers.clone());
        Self::over(records, blobs, live, transfers, app.shutdown.clone())
    }

    fn over(
        records: Records,
        blobs: Blobs,
        live: Live,
        transfers: Transfers,
        shutdown: CancellationToken,
    ) -> Self {
        let [outlining, comparing] = [(); 2].map(|()| Arc::new(Semaphore::new(1)));
        Self { records, blobs, live, transfers, outlining, comparing, shutdown }
    }

    pub(crate) async fn begin_push(
        &self,
        request: BeginPushRequest,
    ) -> Result<BeginPushResponse, Refusal> {
        let BeginPushRequest { digest, size } = request;
        let digest = convert::digest("digest", &digest)?;
        check_size(size)?;
        let record = self.records.get::<ImageRecord>(&digest.to_string()).await?;
        let there = self.blobs.presence(&digest).await?;
        Ok(match (record, there) {
            (Some(_), Presence::Complete(size)) => {
                BeginPushResponse { present: true, received: size }
            }
            // Whole, and yet to be looked at: a push with no more bytes does that.
            (None, Presence::Complete(received)) | (_, Presence::Partial(received)) => {
                BeginPushResponse { present: false, received }
            }
        })
    }

    pub(crate) async fn push(
        &self,
        messages: impl Stream<Item = Result<PushRequest, Status>> + Unpin,
        who: &str,
    ) -> Result<PushResponse, Refusal> {
        let digest = tokio::select! {
            received = self.receive(messages, who) => received?,
            // Dropped where it is, a push keeps what arrived.
            () = self.shutdown.cancelled() => {
                return Err(Refusal::Unavailable(SHUTTING_DOWN.into()));
            }
        };
        Ok(PushResponse { image: Some(self.views().await?.image(&digest)?) })
    }

    pub(crate) async fn set_tag(
        &self,
        request: SetTagRequest,
        who: &str,
        now: Timestamp,
    ) -> Result<SetTagResponse, Refusal> {
        let SetTagRequest { reference, digest, signed } = request;
        let reference: ImageRef = convert::parse("reference", &reference)?;
        let digest = convert::digest("digest", &digest)?;
        let mut attempts = 0..ATTEMPTS;
        let previous = loop {
            let image = self.records.get::<ImageRecord>(&digest.to_string()).await?;
            let image = image.ok_or_else(|| name::unknown(&digest.short()))?;
            let record = image.record.clone();
            let signed = signed::checked(signed.clone(), &reference, &digest, record.size)?;
            let (name, what) = (Name { reference: &reference, signed }, "Images/SetTag");
            match self.tag(Some(&image), &record, name, what, who, now).await? {
                Some(Tagged { previous }) => break previous,
                None if attempts.next().is_none() => return Err(contended()),
                None => {}
            }
        };
        let image = Some(self.views().await?.image(&digest)?);
        let previous = previous.map(|digest| convert::digest_bytes(&digest));
        Ok(SetTagResponse { image, previous })
    }

    pub(crate) async fn list(&self) -> Result<ListImagesResponse, Refusal> {
        Ok(ListImagesResponse { images: self.views().await?.all()? })
    }

    pub(crate) async fn get(&self, request: GetImageRequest) -> Result<GetImageResponse, Refusal> {
        let GetImageRequest { name } = request;
        let found = self.find(&name).await?;
        let digest = record_digest(&found.image)?;
        Ok(GetImageResponse { image: Some(self.views().await?.image(&digest)?) })
    }

    async fn views(&self) -> Result<Views, Refusal> {
        Views::load(&self.records, &self.live).await
    }

    /// Points a name to the image in `record`, in one transaction with the image's record,
    /// which takes the place of `before`, and with an audit entry. `None` where someone else
    /// changed the same. The image's record is written also where it stays as it is, so that
    /// whoever is removing the image at this moment fails. What was signed of the image under this
    /// name stays where nothing newer is.
    async fn tag(
        &self,
        before: Option<&Stored<ImageRecord>>,
        record: &ImageRecord,
        name: Name<'_>,
        what: &str,
        who: &str,
        now: Timestamp,
    ) -> Result<Option<Tagged>, Refusal> {
        let Name { reference, signed } = name;
        let signed = signed.map(v1::SignedManifest::from);
        let digest = convert::digest("digest", &record.digest)?;
        let id = tag_id(reference);
        let tag = self.records.get::<TagRecord>(&id).await?;
        let previous =
            tag.as_ref().map(|tag| convert::digest("digest", &tag.record.digest)).transpose()?;
        let kept = tag.as_ref().filter(|_| previous == Some(digest));
        let kept = kept.and_then(|tag| tag.record.signed.clone());
        let same = signed.is_none() || signed == kept;
        if before.is_some() && previous == Some(digest) && same {
            return Ok(Some(Tagged { previous }));
        }
        let mut batch = Batch::new();
        match before {
            Some(stored) => batch.replace(stored, record)?,
            None => batch.create(&digest.to_string(), record)?,
        };
        let detail = signed::detail(&digest, signed.as_ref());
        let signed = signed.or(kept);
        let target = TagRecord { digest: convert::digest_bytes(&digest), signed };
        match &tag {
            Some(stored) => batch.replace(stored, &target)?,
            None => batch.create(&id, &target)?,
        };
        let (entry, audited) = audit::entry(&who, what, &reference.to_string(), &detail, now);
        batch.create(&entry, &audited)?;
        match self.records.commit(batch).await {
            Ok(_) => Ok(Some(Tagged { previous })),
            Err(CommitError::Conflict { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// A name that an image gets, with what is signed of it under that name.
struct Name<'a> {
    reference: &'a ImageRef,
    signed: Option<SignedManifest>,
}

/// A tag that points where it should.
struct Tagged {
    /// Where it pointed before.
    previous: Option<Digest>,
}

fn contended() -> Refusal {
    Refusal::Conflict("others are changing the same image or tag all the time; try again".into())
}

/// Removes image files that have no record: what a crash left. For the controller's start.
///
/// # Errors
/// The store or the disk fails.
pub async fn remove_orphans(records: &Records, blobs: &Blobs) -> Result<(), Refusal> {
    let known = records.list::<ImageRecord>().await?.records;
    let known = known.iter().map(record_digest).collect::<Result<BTreeSet<_>, _>>()?;
    for digest in blobs.remove_orphans(known).await? {
        tracing::info!(%digest, "removed an image file that has no record");
    }
    Ok(())
}

#[async_trait]
impl images_server::Images for Images {
    async fn begin_push(
        &self,
        request: Request<BeginPushRequest>,
    ) -> Result<Response<BeginPushResponse>, Status> {
        Ok(Response::new(Self::begin_push(self, request.into_inner()).await?))
    }

    async fn push(
        &self,
        request: Request<Streaming<PushRequest>>,
    ) -> Result<Response<PushResponse>, Status> {
        let who = access::caller(&request)?.to_string();
        Ok(Response::new(Self::push(self, request.into_inner(), &who).await?))
    }

    async fn set_tag(
        &self,
        request: Request<SetTagRequest>,
    ) -> Result<Response<SetTagResponse>, Status> {
        let who = access::caller(&request)?.to_string();
        let set = Self::set_tag(self, request.into_inner(), &who, clock::now()).await?;
        Ok(Response::new(set))
    }

    async fn list(
        &self,
        _request: Request<ListImagesRequest>,
    ) -> Result<Response<ListImagesResponse>, Status> {
        Ok(Response::new(Self::list(self).await?))
    }

    async fn get(
        &self,
        request: Request<GetImageRequest>,
    ) -> Result<Response<GetImageResponse>, Status> {
        Ok(Response::new(Self::get(self, request.into_inner()).await?))
    }

    async fn remove(
        &self,
        request: Request<RemoveImageRequest>,
    ) -> Result<Response<RemoveImageResponse>, Status> {
        let who = access::caller(&request)?.to_string();
        let removed = Self::remove(self, request.into_inner(), &who, clock::now()).await?;
        Ok(Response::new(removed))
    }

    async fn set_pin(
        &self,
        request: Request<SetImagePinRequest>,
    ) -> Result<Response<SetImagePinResponse>, Status> {
        let who = access::caller(&request)?.to_string();
        let set = Self::set_pin(self, request.into_inner(), &who, clock::now()).await?;
        Ok(Response::new(set))
    }

    async fn prune(
        &self,
        request: Request<PruneImagesRequest>,
    ) -> Result<Response<PruneImagesResponse>, Status> {
        let who = access::caller(&request)?.to_string();
        let pruned = Self::prune(self, request.into_inner(), &who, clock::now()).await?;
        Ok(Response::new(pruned))
    }

    type NearestStream = nearest::Answers;

    async fn nearest(
        &self,
        request: Request<NearestRequest>,
    ) -> Result<Response<Self::NearestStream>, Status> {
        Ok(Response::new(Self::nearest(self, request.into_inner()).await?))
    }

    type DiffStream = difference::Answers;

    async fn diff(
        &self,
        request: Request<DiffImagesRequest>,
    ) -> Result<Response<Self::DiffStream>, Status> {
        Ok(Response::new(Self::diff(self, request.into_inner()).await?))
    }

    async fn stage(
        &self,
        request: Request<StageImageRequest>,
    ) -> Result<Response<StageImageResponse>, Status> {
        let who = access::caller(&request)?.to_string();
        let staged = Self::stage(self, request.into_inner(), &who, clock::now()).await?;
        Ok(Response::new(staged))
    }

    async fn unstage(
        &self,
        request: Request<UnstageImageRequest>,
    ) -> Result<Response<UnstageImageResponse>, Status> {
        let who = access::caller(&request)?.to_string();
        let taken_back = Self::unstage(self, request.into_inner(), &who, clock::now()).await?;
        Ok(Response::new(taken_back))
    }

    async fn list_staged(
        &self,
        request: Request<ListStagedRequest>,
    ) -> Result<Response<ListStagedResponse>, Status> {
        Ok(Response::new(Self::list_staged(self, request.into_inner()).await?))
    }
}
