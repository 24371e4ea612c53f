//! `shoal image push`.
//!
//! The file is checked and its digest made before anyone is called. What the controller has of it
//! in other images need not be sent ([`recipe`]). What arrives of a broken-off push stays with the
//! controller, so that the next one sends only the rest; a connection that breaks is made anew a
//! few times.

mod near;
mod recipe;
mod result;

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use shoal_core::image::{ImageRef, SignedManifest};
use shoal_image::{DigestError, ImageError, MakeError, Platform, Sha256Sum, inspect, sha256_of};
use shoal_proto::CHUNK;
use shoal_proto::v1::push_request::Message;
use shoal_proto::v1::{
    self, BeginPushRequest, BeginPushResponse, Image, PushHeader, PushRequest, SetTagRequest,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use self::recipe::Way;
use self::result::{DryView, PushView};
use super::{Shell, image, signature};
use crate::args::image::PushArgs;
use crate::client::Client;
use crate::exit::Failure;
use crate::output::Console;
use crate::output::progress::Transfer;
use crate::output::size::bytes as size_text;

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
    #[error("what has to be sent of the image could not be worked out")]
    Make(#[from] MakeError),
    #[error("no temporary directory for what is to be sent; set TMPDIR to one with room")]
    Temporary(#[source] io::Error),
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
    /// An image file at hand that the controller may have.
    base: Option<PathBuf>,
    /// What is sent along, for the hosts.
    pub(super) signed: Option<SignedManifest>,
}

pub(super) async fn run(shell: &Shell, args: PushArgs) -> Result<(), Failure> {
    let PushArgs { file, reference, base, dry_run, signing } = args;
    let begun = signature::begin(&signing, &reference).await?;
    let prepared = prepare(shell.console, &file, &reference)?;
    let mut prepared = Prepared { base, ..prepared };
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
    let mut pusher = Pusher::new(client, prepared, shell.console);
    if dry_run {
        let view = pusher.dry_run().await?;
        return Ok(shell.console.result(view.text(shell.console.color()), &view)?);
    }
    let pushed = tokio::select! {
        // First: while it sends, it knows better how far it was.
        biased;
        pushed = pusher.push() => pushed,
        _ = tokio::signal::ctrl_c() => Err(pusher.interrupted()),
    }?;
    let image = image::read(&reference.to_string(), pushed)?;
    let (sent, size) = (pusher.sent, pusher.prepared.size);
    let saved = size.saturating_sub(pusher.found).saturating_sub(sent);
    let view = PushView::new(&reference, sent, saved, size, image);
    Ok(shell.console.result(format!("{}{by}", view.text()), &view)?)
}

/// Checks the file and makes its digest. Blocks: nothing else runs yet.
pub(super) fn prepare(
    console: Console,
    file: &Path,
    reference: &ImageRef,
) -> Result<Prepared, PushError> {
    let info = inspect(file)?;
    let digest = digest_of(console, file, info.size)?;
    let (path, reference) = (file.to_owned(), reference.clone());
    let (size, platform) = (info.size, info.platform);
    Ok(Prepared { path, size, digest, reference, platform, base: None, signed: None })
}

/// The digest of a file of `size` bytes. Blocks.
fn digest_of(console: Console, file: &Path, size: u64) -> Result<Sha256Sum, PushError> {
    // A second for each GiB: worth a bar, but not the lines of a CI job's log.
    let mut progress = console.is_live().then(|| Transfer::start(console, "checking", size));
    let digest = sha256_of(file, |read| {
        if let Some(progress) = &mut progress {
            progress.at(read);
        }
    });
    if let Some(progress) = progress {
        progress.end();
    }
    Ok(digest?)
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
    /// How it is sent; `None` before that is known.
    way: Option<Way>,
    /// Bytes that were sent.
    sent: u64,
    /// How far into what is sent that was, and how much that is.
    reached: (u64, u64),
    /// Bytes of the image that were there of a broken-off push before this one.
    found: u64,
}

impl Pusher {
    fn new(client: Client, prepared: Prepared, console: Console) -> Self {
        let reached = (0, prepared.size);
        Self { client, prepared, console, way: None, sent: 0, reached, found: 0 }
    }

    async fn push(&mut self) -> Result<Image, Failure> {
        let mut failures = 0;
        loop {
            let failure = match self.attempt(failures == 0).await {
                Ok(image) => return Ok(image),
                Err(failure) => failure,
            };
            if self.is_better_whole(&failure) {
                self.console.note(format!("{failure}; sending the whole image"));
                self.way = Some(Way::Whole);
                continue;
            }
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

    /// Whether the controller could not make the image out of those that it has.
    fn is_better_whole(&self, failure: &Failure) -> bool {
        let by_recipe = self.way.as_ref().is_some_and(|way| !matches!(way, Way::Whole));
        by_recipe && matches!(failure, Failure::Remote(error) if error.needs_other_bytes())
    }

    async fn attempt(&mut self, first: bool) -> Result<Image, Failure> {
        let begun = self.begin().await?;
        if first {
            self.found = begun.received;
        }
        if begun.present {
            return self.tag().await;
        }
        if begun.received > 0 {
            let [there, all] = [begun.received, self.prepared.size].map(size_text);
            self.console.note(format!("{there} of {all} are there already"));
        }
        if self.way.is_none() {
            self.way = Some(self.choose(begun.received).await?);
        }
        self.send(begun.received).await
    }

    async fn begin(&self) -> Result<BeginPushResponse, Failure> {
        let Prepared { size, reference, .. } = &self.prepared;
        let request = BeginPushRequest { digest: self.digest(), size: *size };
        let begun = self.client.images().begin_push(self.client.ask(request)).await;
        Ok(begun.map_err(self.client.refused(format!("push {reference}")))?.into_inner())
    }

    /// What a push would send now.
    async fn dry_run(&mut self) -> Result<DryView, Failure> {
        let begun = self.begin().await?;
        let Prepared { size, reference, .. } = &self.prepared;
        if begun.present {
            return Ok(DryView::present(reference, *size));
        }
        let (reference, size) = (reference.clone(), *size);
        let way = self.choose(begun.received).await?;
        Ok(DryView::new(&reference, size, begun.received, &way))
    }

    fn interrupted(&self) -> Failure {
        let (sent, size) = self.reached;
        PushError::Interrupted { sent, size }.into()
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

    /// Sends what makes the image's bytes from `offset` on.
    async fn send(&mut self, offset: u64) -> Result<Image, Failure> {
        let Prepared { path, size, reference, .. } = self.prepared.clone();
        let outgoing = match &self.way {
            Some(Way::Recipe(recipe)) => recipe.outgoing(offset),
            Some(Way::Whole) | None => {
                Outgoing { path, from: offset, to: size, recipe: Bytes::new() }
            }
        };
        let Outgoing { path, from, to, recipe } = outgoing;
        let head = u64::try_from(recipe.len()).unwrap_or(u64::MAX);
        let (digest, name) = (self.digest(), reference.to_string());
        let header =
            PushHeader { digest, size, offset, reference: name, recipe, signed: self.signed() };
        let (requests, outgoing) = mpsc::channel(AHEAD);
        let (position, mut at) = watch::channel(from);
        let source = path.clone();
        let reading = move || read_into(&source, header, (from, to), &requests, &position);
        let reader = tokio::task::spawn_blocking(reading);
        let mut images = self.client.images();
        let call = images.push(ReceiverStream::new(outgoing));
        tokio::pin!(call);
        let mut progress = Transfer::start(self.console, "sending", to);
        let replied = loop {
            tokio::select! {
                replied = &mut call => break Some(replied),
                Ok(()) = at.changed() => progress.at(*at.borrow_and_update()),
                _ = tokio::signal::ctrl_c() => break None,
            }
        };
        progress.end();
        let sent = *at.borrow();
        self.sent += head + sent - from;
        self.reached = (sent, to);
        let Some(replied) = replied else { return Err(self.interrupted()) };
        let doing = format!("push {reference}");
        let replied = replied.map_err(self.client.refused(doing));
        if let Ok(Err(source)) = reader.await {
            return Err(PushError::Read { path, source }.into());
        }
        image::require(&reference.to_string(), replied?.into_inner().image)
    }
}

/// The part of a file that is sent.
#[derive(Debug)]
struct Outgoing {
    path: PathBuf,
    from: u64,
    to: u64,
    /// The head of the recipe whose segments these are; empty where it is the image itself.
    recipe: Bytes,
}

/// Reads a part of a file into a channel, after the header.
fn read_into(
    path: &Path,
    header: PushHeader,
    part: (u64, u64),
    requests: &mpsc::Sender<PushRequest>,
    position: &watch::Sender<u64>,
) -> io::Result<()> {
    let send = |message| requests.blocking_send(PushRequest { message: Some(message) }).is_ok();
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
