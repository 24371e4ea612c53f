//! Images of the controller's that the one to be pushed may have much in common with.

use shoal_core::image::ImageRef;
use shoal_image::recipe::Base;
use shoal_image::{Index, Sha256Sum};
use shoal_proto::convert::{Invalid, digest};
use shoal_proto::v1::{NearImage, NearestRequest, NearestResponse, nearest_response::Message};
use tokio_stream::StreamExt as _;
use tonic::{Code, Status, Streaming};

use crate::client::{Client, ReplyError};
use crate::exit::Failure;

/// The most bytes of an outline that are taken: 20 for each block that an image may have.
const LONGEST: usize = 32 << 20;

/// What the controller says.
#[derive(Debug, Default)]
pub(super) struct Near {
    /// The compression libraries there.
    pub(super) codecs: String,
    /// The images, the newest first.
    pub(super) images: Vec<NearOne>,
}

#[derive(Debug)]
pub(super) struct NearOne {
    pub(super) base: Base,
    /// `NAME:TAG`; may be empty.
    pub(super) reference: String,
    outline: Vec<u8>,
}

impl NearOne {
    /// Its index; `None` where what the controller sent is none, which only costs bytes.
    pub(super) fn index(&self) -> Option<Index> {
        Index::from_outline(&self.outline).ok()
    }
}

/// Asks for images of the name; with `base`, only whether that one is there. `None` where the
/// controller is an older one, which takes whole images only.
pub(super) async fn ask(
    client: &Client,
    reference: &ImageRef,
    target: Sha256Sum,
    base: Option<Sha256Sum>,
) -> Result<Option<Near>, Failure> {
    let bytes = |sum: Sha256Sum| bytes::Bytes::copy_from_slice(sum.as_bytes());
    let request = NearestRequest {
        name: reference.name.to_string(),
        digest: bytes(target),
        base: base.map(bytes).unwrap_or_default(),
    };
    match gather(client, request).await {
        Ok(near) => Ok(Some(near.map_err(ReplyError::about("images of the same name"))?)),
        Err(status) if status.code() == Code::Unimplemented => Ok(None),
        Err(status) => {
            let doing = format!("ask what of {reference} is there");
            Err(client.refused(doing)(status).into())
        }
    }
}

async fn gather(client: &Client, request: NearestRequest) -> Result<Result<Near, Invalid>, Status> {
    let mut answers: Streaming<NearestResponse> =
        client.images().nearest(request).await?.into_inner();
    let mut near = Near::default();
    while let Some(answer) = answers.next().await {
        match answer?.message {
            Some(Message::Header(header)) => near.codecs = header.codecs,
            Some(Message::Image(image)) => match one(image) {
                Ok(image) => near.images.push(image),
                Err(invalid) => return Ok(Err(invalid)),
            },
            Some(Message::Outline(piece)) => {
                let Some(image) = near.images.last_mut() else {
                    return Ok(Err(Invalid::Missing("image")));
                };
                if image.outline.len() + piece.len() <= LONGEST {
                    image.outline.extend_from_slice(&piece);
                }
            }
            None => return Ok(Err(Invalid::Missing("message"))),
        }
    }
    Ok(Ok(near))
}

fn one(wire: NearImage) -> Result<NearOne, Invalid> {
    let NearImage { digest: name, size, reference } = wire;
    let sum = Sha256Sum::new(*digest("digest", &name)?.as_bytes());
    Ok(NearOne { base: Base { sum, size }, reference, outline: Vec::new() })
}
