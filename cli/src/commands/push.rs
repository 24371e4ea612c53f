//! `shoal image push`.
//!
//! The file is checked and its digest made before anyone is called. What arrives of a broken-off
//! push stays with the controller, so that the next one sends only the rest; a connection that
//! breaks is made anew a few times.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use shoal_core::image::{ImageRef, SignedManifest};
use shoal_image::{DigestError, ImageError, Platform, Sha256Sum, inspect, sha256_of};
use shoal_proto::CHUNK;
use shoal_proto::v1::push_request::Message;
use shoal_proto::v1::{self, BeginPushRequest, Image, PushHeader, PushRequest, SetTagRequest};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::{Shell, image, signature};
use crate::args::image::Signing;
use crate::client::Client;
use crate::exit::Failure;
use crate::output::Console;
use crate::output::progress::Transfer;
use crate::output::size::bytes as size_text;
use crate::view::image::ImageView;

/// Chunks that are read ahead of the network: a MiB, whatever the image's size.
const AHEAD: usize = 4;
/// How often a broken connection is made anew.
const RETRIES: u32 = 4;

/// Why an image was not pushed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PushError {
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Digest(#[from] DigestError),
    #[error("{path} could not be read while it was being sent; did it change?")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "interrupted after {} of {}; run the same command again to send the rest",
        size_text(*.sent), size_text(*.size)
    )]
    Interrupted { sent: u64, size: u64 },
}

/// What is to be pushed: a file that was checked.
#[derive(Debug, Clone)]
pub(super) struct Prepared {
    pub(super) path: PathBuf,
    pub(super) size: u64,
    pub(super) digest: Sha256Sum,
    pub(super) reference: ImageRef,
    pub(super) platform: Platform,
    /// What is sent along, for the hosts.
    pub(super) signed: Option<SignedManifest>,
}

#[derive(Debug, Serialize)]
struct PushView {
    reference: String,
    /// Bytes that were sent by this command.
    sent_bytes: u64,
    image: ImageView,
}

pub(super) async fn run(
    shell: &Shell,
    file: &Path,
    reference: &ImageRef,
    signing: &Signing,
) -> Result<(), Failure> {
    let begun = signature::begin(signing, reference).await?;
    let mut prepared = prepare(shell.console, file, reference)?;
    let by = match begun {
        Some(begun) => {
            let (_, signed, by) = begun.sign(&prepared)?;
            prepared.signed = Some(signed);
            format!(", signed by key {by}")
        }
        None => String::new(),
    };
    note_unsent(shell.console, &prepared);
    let client = shell.client().await?;
    let mut pusher = Pusher { client, prepared, console: shell.console, sent: 0, reached: 0 };
    let pushed = tokio::select! {
        // First: while it sends, it knows better how far it was.
        biased;
        pushed = pusher.push() => pushed,
        _ = tokio::signal::ctrl_c() => Err(pusher.interrupted()),
    }?;
    let image = image::read(&reference.to_string(), pushed)?;
    let how = match pusher.sent {
        0 => "already there, nothing sent".to_owned(),
        sent => format!("{} sent", size_text(sent)),
    };
    let said = format!("{reference} is {} ({how}){by}", image.short());
    let view = PushView { reference: reference.to_string(), sent_bytes: pusher.sent, image };
    Ok(shell.console.result(said, &view)?)
}

/// Checks the file and makes its digest. Blocks: nothing else runs yet.
pub(super) fn prepare(
    console: Console,
    file: &Path,
    reference: &ImageRef,
) -> Result<Prepared, PushError> {
    let info = inspect(file)?;
    // A second for each GiB: worth a bar, but not the lines of a CI job's log.
    let mut progress = console.is_live().then(|| Transfer::start(console, "checking", info.size));
    let digest = sha256_of(file, |read| {
        if let Some(progress) = &mut progress {
            progress.at(read);
        }
    });
    if let Some(progress) = progress {
        progress.end();
    }
    let (path, reference) = (file.to_owned(), reference.clone());
    let (size, platform) = (info.size, info.platform);
    Ok(Prepared { path, size, digest: digest?, reference, platform, signed: None })
}

/// Who has signed the file wants that to be known.
fn note_unsent(console: Console, prepared: &Prepared) {
    let manifest = signature::beside(&prepared.path, "manifest");
    if prepared.signed.is_none() && manifest.exists() {
        let path = manifest.display();
        console.note(format!("{path} is there and is not sent along; --manifest {path} does that"));
    }
}

/// One push, over as many connections as it takes.
#[derive(Debug)]
struct Pusher {
    client: Client,
    prepared: Prepared,
    console: Console,
    /// Bytes that were sent.
    sent: u64,
    /// How far into the image that was.
    reached: u64,
}

impl Pusher {
    async fn push(&mut self) -> Result<Image, Failure> {
        let mut failures = 0;
        loop {
            let failure = match self.attempt().await {
                Ok(image) => return Ok(image),
                Err(failure) => failure,
            };
            // Our own broken stream may still hold the image when we come again.
            let transient = match &failure {
                Failure::Remote(error) => error.is_lost() || (failures > 0 && error.is_conflict()),
                _ => false,
            };
            if !transient || failures == RETRIES {
                return Err(failure);
            }
            failures += 1;
            self.console.note(format!("{failure}; going on in {failures} s"));
            tokio::time::sleep(Duration::from_secs(failures.into())).await;
        }
    }

    async fn attempt(&mut self) -> Result<Image, Failure> {
        let Prepared { size, reference, .. } = self.prepared.clone();
        let request = BeginPushRequest { digest: self.digest(), size };
        let begun = self.client.images().begin_push(self.client.ask(request)).await;
        let begun = begun.map_err(self.client.refused(format!("push {reference}")))?.into_inner();
        if begun.present {
            return self.tag().await;
        }
        if begun.received > 0 {
            let there = size_text(begun.received);
            self.console.note(format!("{there} of {} are there already", size_text(size)));
        }
        self.send(begun.received).await
    }

    fn interrupted(&self) -> Failure {
        PushError::Interrupted { sent: self.reached, size: self.prepared.size }.into()
    }

    fn digest(&self) -> Bytes {
        Bytes::copy_from_slice(self.prepared.digest.as_bytes())
    }

    fn signed(&self) -> Option<v1::SignedManifest> {
        self.prepared.signed.clone().map(Into::into)
    }

    /// The image is there: only its name is to be set.
    async fn tag(&self) -> Result<Image, Failure> {
        let reference = self.prepared.reference.to_string();
        let request = SetTagRequest {
            reference: reference.clone(),
            digest: self.digest(),
            signed: self.signed(),
        };
        let reply = self.client.images().set_tag(self.client.ask(request)).await;
        let doing = format!("set the tag {reference}");
        let reply = reply.map_err(self.client.refused(doing))?.into_inner();
        image::require(&reference, reply.image)
    }

    /// Sends the bytes from `offset` on.
    async fn send(&mut self, offset: u64) -> Result<Image, Failure> {
        let Prepared { path, size, reference, .. } = self.prepared.clone();
        let header = PushHeader {
            digest: self.digest(),
            size,
            offset,
            reference: reference.to_string(),
            signed: self.signed(),
        };
        let (requests, outgoing) = mpsc::channel(AHEAD);
        let (position, mut at) = watch::channel(offset);
        let from = path.clone();
        let reader =
            tokio::task::spawn_blocking(move || read_into(&from, header, &requests, &position));
        let mut images = self.client.images();
        let call = images.push(ReceiverStream::new(outgoing));
        tokio::pin!(call);
        let mut progress = Transfer::start(self.console, "sending", size);
        let replied = loop {
            tokio::select! {
                replied = &mut call => break Some(replied),
                Ok(()) = at.changed() => progress.at(*at.borrow_and_update()),
                _ = tokio::signal::ctrl_c() => break None,
            }
        };
        progress.end();
        let sent = *at.borrow();
        self.sent += sent - offset;
        self.reached = sent;
        let Some(replied) = replied else { return Err(self.interrupted()) };
        let doing = format!("push {reference}");
        let replied = replied.map_err(self.client.refused(doing));
        if let Ok(Err(source)) = reader.await {
            return Err(PushError::Read { path, source }.into());
        }
        image::require(&reference.to_string(), replied?.into_inner().image)
    }
}

/// Reads the file from the header's offset to its end into a channel.
fn read_into(
    path: &Path,
    header: PushHeader,
    requests: &mpsc::Sender<PushRequest>,
    position: &watch::Sender<u64>,
) -> io::Result<()> {
    let send = |message| requests.blocking_send(PushRequest { message: Some(message) }).is_ok();
    let part = (header.offset, header.size);
    if !send(Message::Header(header)) {
        return Ok(());
    }
    send_chunks(path, part, |chunk| send(Message::Data(chunk)), position)
}

/// Sends the file's bytes between two places, chunk by chunk. That no one listens any more is no
/// error here: whoever stopped listening knows why.
pub(super) fn send_chunks(
    path: &Path,
    (mut at, size): (u64, u64),
    send: impl Fn(Bytes) -> bool,
    position: &watch::Sender<u64>,
) -> io::Result<()> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(at))?;
    while at < size {
        let length = usize::try_from(size - at).map_or(CHUNK, |left| left.min(CHUNK));
        let mut chunk = vec![0; length];
        file.read_exact(&mut chunk)?;
        if !send(chunk.into()) {
            return Ok(());
        }
        at += u64::try_from(length).expect("a chunk's length is small");
        position.send_replace(at);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
