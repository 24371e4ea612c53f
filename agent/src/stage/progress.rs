//! How transfers stand, for the host's status, and what people should know of them, as events.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shoal_core::event::{Event, EventKind};
use shoal_core::image::{Digest, PinnedImage};
use shoal_core::transfer::{Phase, RecipeId, TransferStatus};
use shoal_image::recipe::Head;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::info;

use super::origin::Peer;
use crate::clock;
use crate::events::Events;
use crate::status::Transfer;

/// How often news of a transfer's progress are given.
const NEWS: Duration = Duration::from_secs(1);

/// Transfers that have ended and are still told of.
const ENDED: usize = 8;

/// The transfers of this host. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Progress {
    state: Arc<Mutex<State>>,
    bell: Arc<Notify>,
    events: Events,
}

#[derive(Debug, Default)]
struct State {
    going: BTreeMap<Digest, Going>,
    failed: BTreeMap<Digest, Transfer>,
    ended: VecDeque<TransferStatus>,
}

#[derive(Debug)]
struct Going {
    status: TransferStatus,
    /// Bytes of the image that were there at the first.
    had: Option<u64>,
    /// Bytes that had been sent when this attempt began, and those that it needs.
    sent_before: u64,
    to_send: u64,
    begun: Instant,
    told: Instant,
}

impl Progress {
    pub(super) fn new(bell: Arc<Notify>, events: Events) -> Self {
        Self { state: Arc::default(), bell, events }
    }

    /// How each image that is not here stands.
    pub(super) fn transfers(&self) -> BTreeMap<Digest, Transfer> {
        let state = self.state();
        let going = state.going.iter();
        let going = going.map(|(digest, going)| (*digest, Transfer::Going(going.status.clone())));
        // What failed is told until bytes come again.
        going.chain(state.failed.clone()).collect()
    }

    /// What is going on, and what ended last.
    pub(super) fn statuses(&self) -> Vec<TransferStatus> {
        let state = self.state();
        let going = state.going.values().map(|going| &going.status);
        going.chain(&state.ended).cloned().collect()
    }

    pub(super) fn planning(&self, image: &PinnedImage) {
        self.change(image, |going| {
            going.status.phase = Phase::Planning;
            going.status.left = None;
        });
    }

    pub(super) fn making(&self, image: &PinnedImage, done: u64, total: u64) {
        let made = if total == 0 { 0 } else { done.min(total) };
        self.state().failed.remove(&image.digest);
        let told = self.change(image, |going| {
            going.status.phase = Phase::Making { made };
            going.is_news()
        });
        self.ring(told);
    }

    /// Bytes are about to come: `received` of the image are there.
    pub(super) fn begin(&self, image: &PinnedImage, head: &Head, received: u64) {
        self.state().failed.remove(&image.digest);
        let first = head.segment_at(received).map_or(head.segments.len(), |(first, _)| first);
        let rest = head.segments.get(first..).unwrap_or_default();
        let to_send = rest.iter().map(|segment| u64::from(segment.encoded)).sum();
        self.change(image, |going| {
            going.had.get_or_insert(received);
            (going.to_send, going.sent_before) = (to_send, going.status.wire);
            (going.begun, going.told) = (Instant::now(), Instant::now());
            going.status.phase = Phase::Receiving;
            going.status.recipe = Some(RecipeId::from(*head.id().as_bytes()));
            going.status.received = received;
        });
        self.ring(true);
    }

    pub(super) fn from(&self, image: &PinnedImage, sender: &str) {
        self.change(image, |going| sender.clone_into(&mut going.status.source));
        self.ring(true);
    }

    pub(super) fn came(&self, image: &PinnedImage, bytes: usize) {
        let told = self.change(image, |going| {
            going.status.wire += u64::try_from(bytes).unwrap_or(u64::MAX);
            going.is_news()
        });
        self.ring(told);
    }

    /// So many bytes of the image are there now.
    pub(super) fn received(&self, image: &PinnedImage, received: u64) {
        self.change(image, |going| going.received(received));
    }

    pub(super) fn done(&self, image: &PinnedImage) {
        let mut state = self.state();
        let Some(mut going) = state.going.remove(&image.digest) else { return };
        going.received(image.size);
        going.status.left = None;
        going.status.phase = Phase::Done;
        let TransferStatus { wire, saved, source, .. } = &going.status;
        let source = if source == "controller" { "the controller" } else { source };
        let message = format!(
            "image {} came from {source}: {wire} bytes sent, {saved} not sent since they were here",
            image.reference
        );
        info!(image = %image.reference, digest = %image.digest, wire, saved, source, "an image is here");
        state.ended.push_back(going.status);
        if state.ended.len() > ENDED {
            state.ended.pop_front();
        }
        drop(state);
        self.record(EventKind::Step, message);
    }

    /// Notes why an attempt failed. Whether that is news.
    pub(super) fn failed(&self, image: &PinnedImage, failed: Transfer) -> bool {
        let mut state = self.state();
        state.failed.insert(image.digest, failed.clone()) != Some(failed)
    }

    /// Nothing more is to be told of an image.
    pub(super) fn forget(&self, image: &PinnedImage) {
        let mut state = self.state();
        state.going.remove(&image.digest);
        state.failed.remove(&image.digest);
    }

    /// Forgets all but `images`.
    pub(super) fn keep_only(&self, images: &[PinnedImage]) {
        let is_wanted = |digest: &Digest| images.iter().any(|image| image.digest == *digest);
        let mut state = self.state();
        state.going.retain(|digest, _| is_wanted(digest));
        state.failed.retain(|digest, _| is_wanted(digest));
    }

    pub(super) fn whole_instead(&self, image: &PinnedImage, why: &str) {
        let message = format!("image {} comes whole: {why}", image.reference);
        self.record(EventKind::Failed, message);
    }

    pub(super) fn of_no_help(&self, image: &PinnedImage, peer: &Peer, why: &str) {
        let message = format!(
            "host {} was of no help with image {}, which others are asked for now: {why}",
            peer.name, image.reference
        );
        self.record(EventKind::Failed, message);
    }

    fn record(&self, kind: EventKind, message: String) {
        self.events.record(Event { at: clock::now(), instance: None, kind, message });
    }

    fn change<T>(&self, image: &PinnedImage, change: impl FnOnce(&mut Going) -> T) -> T {
        let mut state = self.state();
        let going = state.going.entry(image.digest).or_insert_with(|| Going::new(image));
        change(going)
    }

    fn ring(&self, rings: bool) {
        if rings {
            self.bell.notify_one();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Going {
    fn new(image: &PinnedImage) -> Self {
        let status = TransferStatus {
            digest: image.digest,
            image: image.reference.clone(),
            phase: Phase::Planning,
            received: 0,
            total: image.size,
            wire: 0,
            saved: 0,
            source: "controller".into(),
            left: None,
            recipe: None,
        };
        let now = Instant::now();
        Self { status, had: None, sent_before: 0, to_send: 0, begun: now, told: now }
    }

    fn is_news(&mut self) -> bool {
        let news = self.told.elapsed() >= NEWS;
        if news {
            self.told = Instant::now();
            self.status.left = self.left();
        }
        news
    }

    /// The time that is left, if it goes on as it went.
    fn left(&self) -> Option<Duration> {
        let sent = self.status.wire - self.sent_before;
        let left = self.to_send.checked_sub(sent)?;
        let nanos = self.begun.elapsed().as_nanos().checked_mul(u128::from(left))?;
        let nanos = u64::try_from(nanos.checked_div(u128::from(sent))?).ok()?;
        // Whole seconds: it is a guess.
        Some(Duration::from_secs(Duration::from_nanos(nanos).as_secs() + 1))
    }

    fn received(&mut self, received: u64) {
        self.status.received = received;
        let came = received.saturating_sub(self.had.unwrap_or(0));
        self.status.saved = came.saturating_sub(self.status.wire);
    }
}
