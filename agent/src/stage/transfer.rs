//! One image's way onto the host: planned, received segment by segment, verified.
//!
//! The network fills a segment while the one before is hashed, carried out and written on another
//! thread. So two segments are in memory, whatever the size of the image, besides what carrying
//! one out takes.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use futures_util::StreamExt as _;
use shoal_core::image::{Digest, PinnedImage};
use shoal_core::name::HostId;
use shoal_core::transfer::RecipeId;
use shoal_image::recipe::{Head, Kind};
use shoal_image::{AssembleError, Assembler, PartialError};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::origin::{Bytestream, Origin, Plan, Sender, Wish};
use super::progress::Progress;
use super::shelf::{Shelf, Shelved};
use super::{Stopped, in_time};

/// How long a peer may send nothing before another is asked: the controller has more.
const PEER_SILENCE: Duration = Duration::from_secs(5);

/// How often is asked anew whom to get an image from that comes from a peer: it may be a slow one.
const REPLAN: Duration = Duration::from_secs(10);

/// What is known of an image's transfers from attempt to attempt.
#[derive(Debug, Default)]
pub(super) struct Note {
    /// Hosts that were of no help.
    failed: BTreeSet<HostId>,
    /// Why it has to come whole.
    whole: Option<String>,
}

/// What one attempt works with.
pub(super) struct Attempt<'a> {
    pub(super) image: &'a PinnedImage,
    pub(super) origin: &'a dyn Origin,
    pub(super) shelf: &'a Shelf,
    pub(super) progress: &'a Progress,
    /// Images that are here.
    pub(super) have: Vec<Digest>,
    pub(super) dir: &'a std::path::Path,
    /// Bytes of disk to leave free.
    pub(super) reserve: u64,
    /// Whether the image is still wanted.
    pub(super) wanted: &'a (dyn Fn() -> bool + Send + Sync),
}

/// How an attempt ended that brought no image.
enum Ended {
    /// It is there already.
    AlreadyThere,
    /// It can't be made from what is here.
    NotByRecipe(String),
    Stopped(Stopped),
}

impl From<Stopped> for Ended {
    fn from(stopped: Stopped) -> Self {
        Self::Stopped(stopped)
    }
}

impl From<String> for Ended {
    fn from(why: String) -> Self {
        Self::Stopped(why.into())
    }
}

impl From<AssembleError> for Ended {
    fn from(error: AssembleError) -> Self {
        let why = crate::chain(&error);
        match error {
            AssembleError::Partial(PartialError::AlreadyComplete { .. }) => Self::AlreadyThere,
            AssembleError::Partial(partial) => Self::Stopped(partial.into()),
            error if error.asks_for_whole() => Self::NotByRecipe(why),
            _ => Self::Stopped(Stopped::Failed(why)),
        }
    }
}

/// Whether an attempt brought the image, or found it there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Brought {
    Now,
    Before,
}

impl Attempt<'_> {
    /// Brings the image. Where it can't be made from what is here, it comes whole.
    pub(super) async fn run(&self, note: &mut Note) -> Result<Brought, Stopped> {
        loop {
            match self.once(note).await {
                Ok(()) => return Ok(Brought::Now),
                Err(Ended::AlreadyThere) => return Ok(Brought::Before),
                Err(Ended::Stopped(stopped)) => return Err(stopped),
                Err(Ended::NotByRecipe(why)) if note.whole.is_some() => {
                    return Err(Stopped::Failed(why));
                }
                Err(Ended::NotByRecipe(why)) => {
                    let image = &self.image.reference;
                    warn!(%image, why, "an image can't be made from those that are here");
                    self.progress.whole_instead(self.image, &why);
                    note.whole = Some(why);
                }
            }
        }
    }

    async fn once(&self, note: &mut Note) -> Result<(), Ended> {
        self.progress.planning(self.image);
        let plan = self.plan(note).await?;
        let (head, dir, reserve) = (plan.head.clone(), self.dir.to_owned(), self.reserve);
        let open = move || Assembler::open(head, &dir, &dir, reserve);
        let assembler = blocking(open).await?;
        let shelved = self.shelf.begin(&plan.head, assembler.next()).await;
        let id = RecipeId::from(*plan.head.id().as_bytes());
        let kind = if plan.head.kind == Kind::Whole { "whole" } else { "from others" };
        let (image, peers) = (&self.image.reference, plan.peers.len());
        let bytes = plan.head.encoded();
        info!(%image, recipe = %id, kind, bytes, peers, "an image is on its way");
        self.progress.begin(self.image, &plan.head, assembler.received());
        let senders = senders(plan.peers);
        let mut work = Work::new(plan.head, assembler, shelved);
        let result = self.receive(&mut work, senders, note).await;
        // Whatever happened, what is being carried out comes to its end.
        let settled = work.settle().await;
        result?;
        settled?.map_err(Stopped::Failed)?;
        self.finish(work).await
    }

    async fn plan(&self, note: &Note) -> Result<Plan, Stopped> {
        let wish = Wish {
            digest: self.image.digest,
            have: self.have.clone(),
            failed: note.failed.iter().cloned().collect(),
            whole: note.whole.is_some(),
        };
        let mut told = |done, total| self.progress.making(self.image, done, total);
        let plan = self.origin.plan(wish, &mut told).await?;
        let is_it = plan.head.target.as_bytes() == self.image.digest.as_bytes()
            && plan.head.size == self.image.size;
        if !is_it {
            let got = (plan.head.target, plan.head.size);
            return Err(Stopped::Failed(format!(
                "the controller planned another image: SHA-256 {} of {} bytes",
                got.0, got.1
            )));
        }
        Ok(plan)
    }

    /// Receives all segments, from one sender after the other.
    async fn receive(
        &self,
        work: &mut Work,
        mut senders: VecDeque<Sender>,
        note: &mut Note,
    ) -> Result<(), Ended> {
        while let Some(sender) = senders.pop_front() {
            let Some(first) = work.next() else { return Ok(()) };
            self.progress.from(self.image, sender.name());
            let failure = match self.pull(work, &sender, first, note).await? {
                Pulled::All => return Ok(()),
                Pulled::Better(others) => {
                    let _ = work.settle().await?;
                    senders = others;
                    continue;
                }
                Pulled::Failed(why) => why,
            };
            // What came of it before is right, or one segment more is wrong.
            let _ = work.settle().await?;
            let Sender::Peer(peer) = &sender else { return Err(failure.into()) };
            let (image, host) = (&self.image.reference, &peer.name);
            warn!(%image, %host, why = failure, "a host was of no help with an image");
            self.progress.of_no_help(self.image, peer, &failure);
            note.failed.insert(peer.id.clone());
        }
        // The controller is the last of them, and ends it either way.
        Err("nobody was left to ask".to_owned().into())
    }

    async fn pull(
        &self,
        work: &mut Work,
        sender: &Sender,
        first: usize,
        note: &Note,
    ) -> Result<Pulled, Ended> {
        let begun = self.origin.segments(sender, work.id, first);
        let mut stream = match patient(sender, begun).await {
            Ok(Ok(stream)) => Incoming { stream, left: Bytes::new() },
            Ok(Err(why)) | Err(why) => return Ok(Pulled::Failed(why)),
        };
        for number in first..work.head.segments.len() {
            let length = usize::try_from(work.head.segments[number].encoded);
            let length = length.expect("a segment has a few MiB");
            let bytes = match self.fill(&mut stream, length, sender).await? {
                Ok(bytes) => bytes,
                Err(why) => return Ok(Pulled::Failed(why)),
            };
            self.progress.received(self.image, work.received);
            if let Err(why) = work.apply(number, bytes).await? {
                return Ok(Pulled::Failed(why));
            }
            if let Some(better) = self.replan(work, sender, note).await {
                return Ok(Pulled::Better(better));
            }
        }
        // The last one may be wrong as well.
        Ok(work.settle().await?.err().map_or(Pulled::All, Pulled::Failed))
    }

    /// The bytes of one segment.
    async fn fill(
        &self,
        stream: &mut Incoming,
        length: usize,
        sender: &Sender,
    ) -> Result<Result<Vec<u8>, String>, Ended> {
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            if stream.left.is_empty() {
                if !(self.wanted)() {
                    return Err("it is no longer wanted".to_owned().into());
                }
                match patient(sender, stream.stream.next()).await {
                    Ok(Some(Ok(chunk))) => stream.left = chunk,
                    Ok(Some(Err(why))) | Err(why) => return Ok(Err(why)),
                    Ok(None) => return Ok(Err("it ended the transfer early".into())),
                }
                self.progress.came(self.image, stream.left.len());
            }
            let taken = stream.left.len().min(length - bytes.len());
            bytes.extend_from_slice(&stream.left[..taken]);
            stream.left.advance(taken);
        }
        Ok(Ok(bytes))
    }

    /// Whom to ask instead of this peer, where the controller knows better by now.
    pub(super) async fn replan(
        &self,
        work: &mut Work,
        sender: &Sender,
        note: &Note,
    ) -> Option<VecDeque<Sender>> {
        let Sender::Peer(peer) = sender else { return None };
        if work.planned.elapsed() < REPLAN {
            return None;
        }
        work.planned = Instant::now();
        let plan = timeout(PEER_SILENCE, self.plan(note)).await.ok()?.ok()?;
        let is_same = RecipeId::from(*plan.head.id().as_bytes()) == work.id;
        let stays = plan.peers.first() == Some(peer);
        (is_same && !stays).then(|| senders(plan.peers))
    }

    async fn finish(&self, mut work: Work) -> Result<(), Ended> {
        let assembler = work.assembler.take().expect("it is settled");
        let (dir, digest) = (self.dir.to_owned(), self.image.digest);
        blocking(move || assembler.finish()).await?;
        let noted =
            blocking(move || crate::verified::note_arrival(&dir, &digest, crate::clock::now()));
        noted.await.map_err(|error| Stopped::Failed(crate::chain(&error)))?;
        if let Some(shelved) = work.shelved.take() {
            shelved.finish().await;
        }
        self.progress.done(self.image);
        Ok(())
    }
}

/// How a sender did.
enum Pulled {
    All,
    /// Others are asked instead.
    Better(VecDeque<Sender>),
    Failed(String),
}

/// A stream, and what came of it and belongs to the next segment.
struct Incoming {
    stream: Bytestream,
    left: Bytes,
}

/// An image in the making.
pub(super) struct Work {
    head: Head,
    id: RecipeId,
    /// There whenever nothing is being carried out.
    assembler: Option<Assembler>,
    applying: Option<JoinHandle<Applied>>,
    /// Bytes of the image that are there.
    received: u64,
    shelved: Option<Shelved>,
    /// When the controller was asked last.
    planned: Instant,
}

struct Applied {
    assembler: Assembler,
    shelved: Option<Shelved>,
    result: Result<(), AssembleError>,
}

impl Work {
    pub(super) fn new(head: Head, assembler: Assembler, shelved: Option<Shelved>) -> Self {
        let id = RecipeId::from(*head.id().as_bytes());
        let (received, planned) = (assembler.received(), Instant::now());
        let assembler = Some(assembler);
        Self { head, id, assembler, applying: None, received, shelved, planned }
    }

    /// The segment that is wanted next, where nothing is being carried out.
    fn next(&self) -> Option<usize> {
        self.assembler.as_ref().and_then(Assembler::next)
    }

    /// Carries a segment out, on another thread, when the one before is.
    ///
    /// The inner error is the sender's fault, and of the segment before.
    async fn apply(&mut self, number: usize, bytes: Vec<u8>) -> Result<Result<(), String>, Ended> {
        if let Err(why) = self.settle().await? {
            return Ok(Err(why));
        }
        let mut assembler = self.assembler.take().expect("nothing is being carried out");
        let mut shelved = self.shelved.take();
        self.applying = Some(spawn_blocking(move || {
            let result = assembler.apply(number, &bytes);
            if let (Ok(()), Some(shelved)) = (&result, &mut shelved) {
                shelved.keep(number, &bytes);
            }
            Applied { assembler, shelved, result }
        }));
        Ok(Ok(()))
    }

    /// Waits until nothing is being carried out. The inner error is the sender's fault.
    async fn settle(&mut self) -> Result<Result<(), String>, Ended> {
        let Some(applying) = self.applying.take() else { return Ok(Ok(())) };
        let applied = applying.await.expect("file work does not panic");
        let Applied { assembler, shelved, result } = applied;
        self.received = assembler.received();
        (self.assembler, self.shelved) = (Some(assembler), shelved);
        match result {
            Ok(()) => Ok(Ok(())),
            Err(error @ AssembleError::WrongSegment { .. }) => Ok(Err(crate::chain(&error))),
            Err(error) => Err(error.into()),
        }
    }
}

fn senders(peers: Vec<super::origin::Peer>) -> VecDeque<Sender> {
    peers.into_iter().map(Sender::Peer).chain([Sender::Controller]).collect()
}

async fn patient<T>(sender: &Sender, work: impl Future<Output = T>) -> Result<T, String> {
    match sender {
        Sender::Controller => in_time(work).await,
        Sender::Peer(_) => {
            let late = |_| format!("it sent nothing for {PEER_SILENCE:?}");
            timeout(PEER_SILENCE, work).await.map_err(late)
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    spawn_blocking(work).await.expect("file work does not panic")
}
