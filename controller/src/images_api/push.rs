//! Taking an image in: header, bytes, digest, inspection, record.

use std::time::Duration;

use futures_util::{Stream, StreamExt};
use shoal_core::image::{Digest, ImageRef, SignedManifest};
use shoal_image::ImageInfo;
use shoal_image::recipe::Head;
use shoal_proto::convert;
use shoal_proto::v1::store::ImageRecord;
use shoal_proto::v1::{PushHeader, PushRequest, push_request};
use tokio::time::timeout;
use tonic::Status;

use super::{ATTEMPTS, Images, Name, contended, signed};
use crate::blobs::{BlobError, Claim, Presence, Upload};
use crate::clock;
use crate::refusal::Refusal;

/// The largest image, in bytes.
const LARGEST: u64 = 64 << 30;

/// How long a sender may be silent. It holds the image's claim meanwhile.
const SILENCE: Duration = Duration::from_secs(60);

/// What a sender said that it would send.
#[derive(Debug, PartialEq, Eq)]
struct Announced {
    digest: Digest,
    size: u64,
    offset: u64,
    reference: ImageRef,
    signed: Option<SignedManifest>,
    /// The head of the recipe whose segments come instead of the image's own bytes.
    recipe: Option<Head>,
}

impl TryFrom<PushHeader> for Announced {
    type Error = Refusal;

    fn try_from(wire: PushHeader) -> Result<Self, Refusal> {
        let PushHeader { digest, size, offset, reference, recipe, signed } = wire;
        check_size(size)?;
        let digest = convert::digest("digest", &digest)?;
        let reference = convert::parse("reference", &reference)?;
        let recipe = match recipe.is_empty() {
            true => None,
            false => Some(head(&recipe, &digest, size)?),
        };
        let signed = signed::checked(signed, &reference, &digest, size)?;
        Ok(Self { digest, size, offset, reference, recipe, signed })
    }
}

/// The head of a recipe, which has to make just what is announced.
fn head(bytes: &[u8], digest: &Digest, size: u64) -> Result<Head, Refusal> {
    let invalid = |why: String| Refusal::Invalid(format!("the recipe can't be used: {why}"));
    let head = Head::decode(bytes).map_err(|error| invalid(error.to_string()))?;
    if head.target.as_bytes() != digest.as_bytes() || head.size != size {
        return Err(invalid("it makes another image than the one that is announced".into()));
    }
    Ok(head)
}

/// Whether an image may have this size.
pub(super) fn check_size(size: u64) -> Result<(), Refusal> {
    if size == 0 {
        return Err(Refusal::Invalid("the image is empty: it has no bytes at all".into()));
    }
    if size > LARGEST {
        return Err(Refusal::Invalid(format!(
            "the image has {size} bytes, and at most {LARGEST} (64 GiB) are taken"
        )));
    }
    Ok(())
}

impl Images {
    /// Takes an image in, records and tags it. Returns its digest.
    pub(super) async fn receive(
        &self,
        mut messages: impl Stream<Item = Result<PushRequest, Status>> + Unpin,
        who: &str,
    ) -> Result<Digest, Refusal> {
        let announced = header(&mut messages).await?;
        let claim = self.blobs.claim(&announced.digest)?;
        let claim = match self.blobs.presence(&announced.digest).await? {
            Presence::Complete(size) => {
                check_complete(&announced, size)?;
                nothing_more(&mut messages).await?;
                claim
            }
            Presence::Partial(_) => self.take(claim, &announced, messages).await?,
        };
        self.record(&claim, &announced, who).await?;
        self.transfers.make_ahead(announced.digest);
        Ok(announced.digest)
    }

    /// Takes the bytes that are missing, and verifies them all.
    async fn take(
        &self,
        claim: Claim,
        announced: &Announced,
        messages: impl Stream<Item = Result<PushRequest, Status>> + Unpin,
    ) -> Result<Claim, Refusal> {
        let begun = match &announced.recipe {
            None => self.blobs.receive(claim, announced.size).await,
            Some(head) => self.blobs.assemble(claim, head.clone()).await,
        };
        let mut upload = match begun {
            Err(error) if error.is_for_room() => return Err(self.no_room(error).await),
            begun => begun?,
        };
        let taken = match check_offset(announced, upload.received()) {
            Ok(()) => copy(messages, &mut upload).await,
            Err(refusal) => Err(refusal),
        };
        match taken {
            Ok(()) => Ok(upload.finish().await?),
            Err(refusal) => {
                upload.stop().await;
                Err(refusal)
            }
        }
    }

    /// Why there is no room, and what could make some.
    pub(super) async fn no_room(&self, error: BlobError) -> Refusal {
        let refusal = Refusal::from(error);
        match self.prunable(clock::now()).await {
            Ok(bytes) if bytes > 0 => Refusal::Exhausted(format!(
                "{refusal}; {} MiB of images are needed by nothing, and `shoal image prune \
                 --older-than 0s --dry-run` lists them",
                bytes.div_ceil(1 << 20)
            )),
            _ => refusal,
        }
    }

    /// Looks into the complete file, and records and tags it. A file that is no image goes.
    async fn record(&self, claim: &Claim, announced: &Announced, who: &str) -> Result<(), Refusal> {
        let digest = announced.digest.to_string();
        for _ in 0..ATTEMPTS {
            let before = self.records.get::<ImageRecord>(&digest).await?;
            let record = match &before {
                Some(stored) => stored.record.clone(),
                None => image_record(announced, self.inspect(claim).await?, who),
            };
            let Announced { reference, signed, .. } = announced;
            let (name, what) = (Name { reference, signed: signed.clone() }, "Images/Push");
            let tagged = self.tag(before.as_ref(), &record, name, what, who, clock::now());
            if tagged.await?.is_some() {
                return Ok(());
            }
        }
        Err(contended())
    }

    async fn inspect(&self, claim: &Claim) -> Result<ImageInfo, Refusal> {
        let refusal = match self.blobs.inspect(claim.digest()).await {
            Ok(info) => return Ok(info),
            Err(error @ BlobError::Image { .. }) => Refusal::from(error),
            Err(error) => return Err(error.into()),
        };
        if let Refusal::Invalid(_) = refusal {
            self.blobs.remove(claim).await?;
        }
        Err(refusal)
    }
}

async fn header(
    messages: &mut (impl Stream<Item = Result<PushRequest, Status>> + Unpin),
) -> Result<Announced, Refusal> {
    match next(messages).await? {
        Some(push_request::Message::Header(header)) => header.try_into(),
        _ => Err(Refusal::Invalid("the first message has to announce the image".into())),
    }
}

/// Copies until the sender ends.
async fn copy(
    mut messages: impl Stream<Item = Result<PushRequest, Status>> + Unpin,
    upload: &mut Upload,
) -> Result<(), Refusal> {
    while let Some(message) = next(&mut messages).await? {
        match message {
            push_request::Message::Data(bytes) => upload.write(bytes).await?,
            push_request::Message::Header(_) => return Err(second_header()),
        }
    }
    Ok(())
}

async fn nothing_more(
    messages: &mut (impl Stream<Item = Result<PushRequest, Status>> + Unpin),
) -> Result<(), Refusal> {
    match next(messages).await? {
        None => Ok(()),
        Some(push_request::Message::Header(_)) => Err(second_header()),
        Some(push_request::Message::Data(_)) => Err(Refusal::Invalid(
            "more bytes came than the image has; everything is there already".into(),
        )),
    }
}

/// The next message; `None` at the end.
async fn next(
    messages: &mut (impl Stream<Item = Result<PushRequest, Status>> + Unpin),
) -> Result<Option<push_request::Message>, Refusal> {
    let message = timeout(SILENCE, messages.next()).await.map_err(|_| {
        Refusal::TimedOut(format!(
            "nothing came for {} s; what arrived is kept, push again to go on from there",
            SILENCE.as_secs()
        ))
    })?;
    match message {
        None => Ok(None),
        Some(Ok(PushRequest { message: Some(message) })) => Ok(Some(message)),
        Some(Ok(PushRequest { message: None })) => {
            Err(Refusal::Invalid("a message has neither header nor data".into()))
        }
        Some(Err(status)) => Err(Refusal::Unavailable(format!(
            "the connection broke ({}); what arrived is kept, push again to go on from there",
            status.message()
        ))),
    }
}

fn second_header() -> Refusal {
    Refusal::Invalid("a push announces one image, and this one announced a second".into())
}

fn check_offset(announced: &Announced, received: u64) -> Result<(), Refusal> {
    if announced.offset == received {
        return Ok(());
    }
    Err(Refusal::Precondition(format!(
        "{received} bytes of image {} are here, and the push would go on at byte {}; begin again \
         to go on from the right one",
        announced.digest.short(),
        announced.offset
    )))
}

/// What is announced of a file that is whole has to fit it.
fn check_complete(announced: &Announced, size: u64) -> Result<(), Refusal> {
    if announced.size != size {
        return Err(Refusal::Invalid(format!(
            "image {} has {size} bytes, not {}",
            announced.digest.short(),
            announced.size
        )));
    }
    check_offset(announced, size)
}

fn image_record(announced: &Announced, info: ImageInfo, who: &str) -> ImageRecord {
    let ImageInfo { size, superblock, platform } = info;
    let shoal_image::Platform { os_id, os_version, os_name, architecture } = platform;
    ImageRecord {
        digest: convert::digest_bytes(&announced.digest),
        size,
        os_id,
        os_version,
        os_name,
        architecture,
        pushed_ms: clock::now().0,
        pushed_by: who.to_owned(),
        compression: superblock.compressor.to_string(),
        pin: None,
        unneeded_ms: None,
    }
}
