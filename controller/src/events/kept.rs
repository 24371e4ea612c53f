//! The events that are kept, and which of them the store does not have yet. Pure.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use shoal_core::name::HostId;
use shoal_proto::v1;
use shoal_proto::v1::store::EventRecord;

/// Events that are kept; in memory they are a few megabytes.
const MOST: usize = 10_000;
/// Writes in one transaction.
const WRITES: usize = 100;

/// An event that was taken in.
#[derive(Debug, PartialEq)]
pub(crate) struct Noted {
    /// Which one it was.
    pub(crate) sequence: u64,
    /// Its key in the store: its time, and what tells it from others of that time.
    pub(crate) id: String,
    /// Whose it is.
    pub(crate) host: HostId,
    /// With the host's name.
    pub(crate) event: v1::Event,
}

impl Noted {
    pub(super) fn record(&self) -> EventRecord {
        EventRecord { event: Some(self.event.clone()), host_id: self.host.to_string() }
    }
}

/// Changes of the store: an event to put, or `None` for one to remove.
pub(super) type Changes = Vec<(String, Option<Arc<Noted>>)>;

#[derive(Debug, Default)]
pub(super) struct Kept {
    /// In the order in which they came.
    events: VecDeque<Arc<Noted>>,
    ids: HashSet<String>,
    per_host: HashMap<HostId, usize>,
    next: u64,
    /// What the store does not have yet, or not yet without. At most twice [`MOST`].
    unwritten: BTreeMap<String, Option<Arc<Noted>>>,
}

impl Kept {
    /// The sequence number of the event that comes next.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    pub(super) fn has(&self, id: &str) -> bool {
        self.ids.contains(id)
    }

    /// Those from a sequence number on.
    pub(super) fn since(&self, from: u64) -> impl Iterator<Item = &Arc<Noted>> {
        let at = self.events.partition_point(|noted| noted.sequence < from);
        self.events.range(at..)
    }

    /// Takes one in that the store has.
    pub(super) fn remember(&mut self, id: String, host: HostId, event: v1::Event) {
        self.push(id, host, event);
        self.make_room();
    }

    /// Takes a new one in.
    pub(super) fn add(&mut self, id: String, host: HostId, event: v1::Event) {
        let noted = self.push(id, host, event);
        self.unwritten.insert(noted.id.clone(), Some(noted));
        self.make_room();
    }

    fn push(&mut self, id: String, host: HostId, event: v1::Event) -> Arc<Noted> {
        let noted = Arc::new(Noted { sequence: self.next, id, host, event });
        self.next += 1;
        self.ids.insert(noted.id.clone());
        *self.per_host.entry(noted.host.clone()).or_default() += 1;
        self.events.push_back(Arc::clone(&noted));
        noted
    }

    /// The host that says the most loses its oldest, so that it can't drive out what others say.
    fn make_room(&mut self) {
        while self.events.len() > MOST {
            let loudest = self.per_host.iter().max_by_key(|(_, count)| **count);
            let Some(host) = loudest.map(|(host, _)| host.clone()) else { return };
            let Some(at) = self.events.iter().position(|noted| noted.host == host) else { return };
            if let Some(noted) = self.events.remove(at) {
                self.forgotten(&noted);
            }
        }
    }

    /// Removes what happened before `oldest_ms`.
    pub(super) fn prune(&mut self, oldest_ms: u64) {
        let (keep, old) =
            self.events.drain(..).partition(|noted: &Arc<Noted>| noted.event.at_ms >= oldest_ms);
        self.events = keep;
        let old: VecDeque<Arc<Noted>> = old;
        old.iter().for_each(|noted| self.forgotten(noted));
    }

    fn forgotten(&mut self, noted: &Noted) {
        self.ids.remove(&noted.id);
        if let Some(count) = self.per_host.get_mut(&noted.host) {
            *count -= 1;
            if *count == 0 {
                self.per_host.remove(&noted.host);
            }
        }
        // What the store never had need not be removed from it.
        if self.unwritten.remove(&noted.id).is_none() {
            self.unwritten.insert(noted.id.clone(), None);
        }
    }

    /// Some of what the store does not have yet, to be written now.
    pub(super) fn unwritten(&mut self) -> Changes {
        let mut changes = Changes::new();
        while changes.len() < WRITES
            && let Some(change) = self.unwritten.pop_first()
        {
            changes.push(change);
        }
        changes
    }

    /// It was not written after all. What changed since counts.
    pub(super) fn not_written(&mut self, changes: Changes) {
        for (id, change) in changes {
            self.unwritten.entry(id).or_insert(change);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str) -> HostId {
        format!("id-{name}").parse().unwrap()
    }

    #[test]
    fn the_loudest_host_loses_its_oldest() {
        let (loud, quiet) = (host("a"), host("b"));
        let mut kept = Kept::default();
        let event = |at_ms| v1::Event { at_ms, ..v1::Event::default() };
        kept.add("first".into(), quiet.clone(), event(1));
        for at in 0..=MOST {
            kept.add(format!("loud-{at}"), loud.clone(), event(2));
        }
        assert_eq!(kept.events.len(), MOST);
        assert!(kept.has("first") && !kept.has("loud-0") && !kept.has("loud-1"));
        assert!(kept.has("loud-2"));
        assert_eq!(kept.since(u64::try_from(MOST).unwrap() + 1).count(), 1);
    }

    #[test]
    fn what_was_never_written_is_never_removed() {
        let mut kept = Kept::default();
        let event = |at_ms| v1::Event { at_ms, ..v1::Event::default() };
        kept.add("a".into(), host("a"), event(1));
        assert_eq!(kept.unwritten().len(), 1);
        kept.add("b".into(), host("a"), event(2));
        kept.prune(3);
        let left: Vec<_> = kept.unwritten().into_iter().map(|(id, e)| (id, e.is_some())).collect();
        assert_eq!(left, [("a".to_owned(), false)]);
        assert!(kept.since(0).next().is_none() && kept.per_host.is_empty());
    }

    #[test]
    fn a_write_that_failed_is_tried_again_unless_it_is_outdated() {
        let mut kept = Kept::default();
        let event = v1::Event { at_ms: 1, ..v1::Event::default() };
        kept.add("a".into(), host("a"), event.clone());
        kept.add("b".into(), host("a"), event);
        let failed = kept.unwritten();
        kept.prune(2);
        kept.not_written(failed);
        let left: Vec<_> = kept.unwritten().into_iter().map(|(id, e)| (id, e.is_some())).collect();
        assert_eq!(left, [("a".to_owned(), false), ("b".to_owned(), false)]);
    }
}
