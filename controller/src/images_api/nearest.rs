//! Images that one which is to be pushed may have much in common with: what its sender need not
//! send.
//!
//! They are those of the same name. Their outlines are made when they are asked for, which reads
//! each image once; one caller at a time.

use std::collections::BTreeSet;

use bytes::Bytes;
use shoal_core::image::Digest;
use shoal_core::name::ImageName;
use shoal_proto::CHUNK;
use shoal_proto::convert;
use shoal_proto::v1::store::{ImageRecord, TagRecord};
use shoal_proto::v1::{
    NearImage, NearestHeader, NearestRequest, NearestResponse, nearest_response,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::Images;
use crate::refusal::Refusal;

/// How many images are offered at most: an outline has about 20 bytes for each block.
const MOST: usize = 3;

/// Messages that wait for the network.
const AHEAD: usize = 4;

pub(super) type Answers = ReceiverStream<Result<NearestResponse, Status>>;

/// An image that is offered.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Near {
    digest: Digest,
    size: u64,
    reference: String,
    pushed_ms: u64,
}

impl Images {
    pub(crate) async fn nearest(&self, request: NearestRequest) -> Result<Answers, Refusal> {
        let NearestRequest { name, digest, base } = request;
        let target = convert::digest("digest", &digest)?;
        let found = match base.is_empty() {
            true => self.of_the_name(&convert::parse("name", &name)?, &target).await?,
            false => self.known(&convert::digest("base", &base)?).await?.into_iter().collect(),
        };
        let outlined = base.is_empty();
        let (answers, stream) = mpsc::channel(AHEAD);
        let images = self.clone();
        tokio::spawn(async move {
            let shutdown = images.shutdown.clone();
            shutdown.run_until_cancelled(images.answer(found, outlined, &answers)).await
        });
        Ok(ReceiverStream::new(stream))
    }

    /// Sends what was found; ends early where nobody listens.
    async fn answer(
        &self,
        found: Vec<Near>,
        outlined: bool,
        answers: &mpsc::Sender<Result<NearestResponse, Status>>,
    ) -> Option<()> {
        let send = async |message| {
            let message = NearestResponse { message: Some(message) };
            answers.send(Ok(message)).await.ok()
        };
        let header = NearestHeader { codecs: shoal_image::codecs() };
        send(nearest_response::Message::Header(header)).await?;
        let _turn = self.outlining.acquire().await.ok()?;
        for near in found {
            let outline = match outlined {
                false => Bytes::new(),
                true => match self.blobs.outline(&near.digest).await {
                    Ok(outline) => outline,
                    Err(error) => {
                        // It may just have been removed; without it, more is sent.
                        tracing::warn!(digest = %near.digest, %error, "cannot outline an image");
                        continue;
                    }
                },
            };
            let Near { digest, size, reference, .. } = near;
            let digest = convert::digest_bytes(&digest);
            send(nearest_response::Message::Image(NearImage { digest, size, reference })).await?;
            for begin in (0..outline.len()).step_by(CHUNK) {
                let piece = outline.slice(begin..outline.len().min(begin + CHUNK));
                send(nearest_response::Message::Outline(piece)).await?;
            }
        }
        Some(())
    }

    /// The newest images of a name but for `target`.
    async fn of_the_name(&self, name: &ImageName, target: &Digest) -> Result<Vec<Near>, Refusal> {
        let mut found = Vec::new();
        let mut seen = BTreeSet::from([*target]);
        for tag in self.records.list_under::<TagRecord>(&format!("{name}/")).await?.records {
            let digest = convert::digest("digest", &tag.record.digest)?;
            if seen.insert(digest)
                && let Some(near) = self.known(&digest).await?
            {
                found.push(Near { reference: tag.id.replacen('/', ":", 1), ..near });
            }
        }
        found.sort_by_key(|near| std::cmp::Reverse(near.pushed_ms));
        found.truncate(MOST);
        Ok(found)
    }

    async fn known(&self, digest: &Digest) -> Result<Option<Near>, Refusal> {
        let stored = self.records.get::<ImageRecord>(&digest.to_string()).await?;
        Ok(stored.map(|stored| Near {
            digest: *digest,
            size: stored.record.size,
            reference: String::new(),
            pushed_ms: stored.record.pushed_ms,
        }))
    }
}
