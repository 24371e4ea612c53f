//! What happened on this host, on its way to the controller.
//!
//! Way in: [`Events`]. Whoever notices something records it, and never waits for that; the link
//! takes batches while it has a stream. In memory only: an agent's end loses what was not sent,
//! and the host's journal has it all the same.
//!
//! Nobody confirms a batch. So what went out shortly before a stream ended goes out again on the
//! next one, and the controller knows an event that it has already by its time and text.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shoal_core::event::{Event, EventKind};
use shoal_core::name::InstanceId;
use shoal_proto::v1;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Events that wait at most: some hours of a host in trouble, in well under a megabyte.
const MOST: usize = 1000;
/// Events in one message.
const BATCH: usize = 100;
/// Bytes of an event's text that are kept.
const LONGEST_MESSAGE: usize = 1000;
/// For so long, what is the same again is counted and not told.
const FOLD: Duration = Duration::from_secs(60);
/// What went out so long before a stream's end may not have come to the other side: longer than a
/// dead controller takes to be noticed.
const UNSURE: Duration = Duration::from_secs(60);

/// The events of this host that the controller has not been told. Cheap to clone; all clones are
/// one queue.
#[derive(Debug, Clone, Default)]
pub struct Events {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Event>,
    /// What was handed out, and when, oldest first; as much as may have to go out again.
    handed_out: VecDeque<(Instant, Event)>,
    /// How many were dropped since the last batch.
    lost: u64,
    recent: HashMap<Likeness, Repeats>,
}

/// What makes two events the same.
type Likeness = (Option<InstanceId>, EventKind, String);

#[derive(Debug)]
struct Repeats {
    /// When the one that was told happened, in milliseconds since the Unix epoch.
    told_ms: u64,
    /// How many came since.
    more: u64,
}

impl Events {
    /// An empty queue.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps an event until the controller takes it; the oldest makes room where there is none.
    /// One that is the same as another of the minute before is only counted. Never waits.
    pub fn record(&self, event: Event) {
        self.queue().push(event);
        self.shared.filled.notify_one();
    }

    /// The next events for the controller, as soon as there are any. Can be dropped while it
    /// waits: nothing is taken before it returns. For one taker at a time.
    pub async fn next_batch(&self) -> v1::EventBatch {
        loop {
            if let Some(batch) = self.queue().take(Instant::now()) {
                return batch;
            }
            self.shared.filled.notified().await;
        }
    }

    /// There is a new stream: what went out shortly before the last one ended goes out again.
    pub fn new_stream(&self) {
        self.queue().again(Instant::now());
        self.shared.filled.notify_one();
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn push(&mut self, mut event: Event) {
        shorten(&mut event.message);
        if let Some(event) = self.fold(event) {
            self.waiting.push_back(event);
        }
        while self.waiting.len() > MOST {
            self.waiting.pop_front();
            self.lost += 1;
        }
    }

    /// The event as it is to be told; `None` where its like was told less than a minute before.
    fn fold(&mut self, mut event: Event) -> Option<Event> {
        let at = event.at.0;
        let fresh = |r: &Repeats| at.checked_sub(r.told_ms).is_some_and(|age| age < millis(FOLD));
        let likeness = (event.instance.clone(), event.kind, event.message.clone());
        if let Some(repeats) = self.recent.get_mut(&likeness) {
            if fresh(repeats) {
                repeats.more += 1;
                return None;
            }
            if repeats.more > 0 {
                event.message = format!("{} (and {} times before)", event.message, repeats.more);
            }
        }
        if self.recent.len() >= MOST {
            self.recent.retain(|_, repeats| fresh(repeats));
        }
        if self.recent.len() < MOST {
            self.recent.insert(likeness, Repeats { told_ms: at, more: 0 });
        }
        Some(event)
    }

    fn take(&mut self, now: Instant) -> Option<v1::EventBatch> {
        self.forget(now);
        if self.waiting.is_empty() {
            return None;
        }
        let count = self.waiting.len().min(BATCH);
        let taken: Vec<Event> = self.waiting.drain(..count).collect();
        self.handed_out.extend(taken.iter().map(|event| (now, event.clone())));
        let lost = std::mem::take(&mut self.lost);
        Some(v1::EventBatch { events: taken.into_iter().map(Into::into).collect(), lost })
    }

    fn again(&mut self, now: Instant) {
        self.forget(now);
        for (_, event) in self.handed_out.drain(..).rev() {
            self.waiting.push_front(event);
        }
    }

    /// Lets go of what has surely arrived.
    fn forget(&mut self, now: Instant) {
        while let Some((handed_out, _)) = self.handed_out.front() {
            let sure = now.saturating_duration_since(*handed_out) > UNSURE;
            if !sure && self.handed_out.len() <= MOST {
                return;
            }
            self.handed_out.pop_front();
        }
    }
}

/// Cuts a text that no one would read to its end.
fn shorten(message: &mut String) {
    if message.len() > LONGEST_MESSAGE {
        message.truncate(message.floor_char_boundary(LONGEST_MESSAGE));
        message.push('…');
    }
}

fn millis(duration: Duration) -> u64 {
    shoal_proto::convert::millis(duration)
}

#[cfg(test)]
mod tests {
    use shoal_core::time::Timestamp;

    use super::*;

    fn event(at: u64, message: &str) -> Event {
        let instance = Some("shop/web".parse().unwrap());
        Event { at: Timestamp(at), instance, kind: EventKind::Drift, message: message.into() }
    }

    fn messages(batch: &v1::EventBatch) -> Vec<&str> {
        batch.events.iter().map(|e| e.message.as_str()).collect()
    }

    #[tokio::test]
    async fn what_is_recorded_comes_out_once_and_in_order() {
        let events = Events::new();
        events.record(event(1, "a"));
        events.clone().record(event(2, "b"));
        assert_eq!(messages(&events.next_batch().await), ["a", "b"]);
        let waits = tokio::time::timeout(Duration::from_millis(20), events.next_batch()).await;
        assert!(waits.is_err(), "{waits:?}");
        events.record(event(3, "c"));
        assert_eq!(messages(&events.next_batch().await), ["c"]);
    }

    #[tokio::test]
    async fn a_waiting_taker_is_woken() {
        let events = Events::new();
        let taker = tokio::spawn({
            let events = events.clone();
            async move { events.next_batch().await }
        });
        tokio::task::yield_now().await;
        events.record(event(1, "a"));
        assert_eq!(messages(&taker.await.unwrap()), ["a"]);
    }

    #[tokio::test]
    async fn the_oldest_make_room_and_are_counted() {
        let events = Events::new();
        for at in 0..1005 {
            events.record(event(at, &format!("number {at}")));
        }
        let batch = events.next_batch().await;
        assert_eq!((batch.lost, batch.events.len()), (5, BATCH));
        assert_eq!(batch.events[0].message, "number 5");
        assert_eq!(events.next_batch().await.lost, 0, "told once");
    }

    #[tokio::test]
    async fn the_same_again_is_told_once_a_minute() {
        let events = Events::new();
        for at in [0, 10_000, 59_999] {
            events.record(event(at, "it fell"));
        }
        events.record(event(59_999, "another"));
        events.record(event(60_000, "it fell"));
        let told = events.next_batch().await;
        assert_eq!(messages(&told), ["it fell", "another", "it fell (and 2 times before)"]);
    }

    #[tokio::test]
    async fn a_clock_that_is_set_back_silences_nothing() {
        let events = Events::new();
        events.record(event(500_000, "it fell"));
        events.record(event(100_000, "it fell"));
        assert_eq!(events.next_batch().await.events.len(), 2);
    }

    #[test]
    fn a_new_stream_gets_what_the_old_one_may_have_lost() {
        let mut queue = Queue::default();
        let start = Instant::now();
        queue.push(event(1, "long ago"));
        assert!(queue.take(start).is_some());
        queue.push(event(2, "just now"));
        assert!(queue.take(start + UNSURE).is_some());
        queue.push(event(3, "new"));
        queue.again(start + UNSURE * 3 / 2);
        let batch = queue.take(start + UNSURE * 3 / 2).unwrap();
        assert_eq!(messages(&batch), ["just now", "new"]);
        assert!(queue.take(start + UNSURE * 2).is_none());
    }

    #[test]
    fn a_long_text_is_cut_between_letters() {
        let mut message = "é".repeat(LONGEST_MESSAGE);
        shorten(&mut message);
        assert_eq!(message, format!("{}…", "é".repeat(LONGEST_MESSAGE / 2)));
    }
}
