use std::sync::Arc;

use shoal_proto::v1::EventKind as Kind;

use super::*;
use crate::store::SqliteStore;

const NOW: Timestamp = Timestamp(10 * RETENTION);

fn records() -> (tempfile::TempDir, Records) {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("store.db")).unwrap();
    (folder, Records::new(Arc::new(store)))
}

fn batch(events: &[(u64, &str)]) -> EventBatch {
    let event = |(at_ms, message): &(u64, &str)| v1::Event {
        at_ms: *at_ms,
        instance: Some("shop/web".into()),
        kind: Kind::Drift.into(),
        message: (*message).into(),
        host: "forged".into(),
    };
    EventBatch { events: events.iter().map(event).collect(), lost: 0 }
}

struct Site {
    _folder: tempfile::TempDir,
    records: Records,
    events: Events,
    host: HostId,
}

impl Site {
    async fn new() -> Self {
        let (_folder, records) = records();
        let events = Events::load(records.clone(), NOW).await.unwrap();
        Self { _folder, records, events, host: "id-h1".parse().unwrap() }
    }

    fn take_in(&self, batch: EventBatch, now: Timestamp) {
        self.events.take_in(Reporter { host: &self.host, name: "h1" }, batch, now);
    }

    fn all(&self) -> Vec<(u64, String)> {
        let (found, _) = self.events.find(|_| true);
        found.iter().map(|n| (n.event.at_ms, n.event.message.clone())).collect()
    }
}

#[tokio::test]
async fn events_outlive_the_controller_and_bear_the_name_of_who_said_them() {
    let site = Site::new().await;
    site.take_in(batch(&[(NOW.0 - 2, "a"), (NOW.0 - 1, "b")]), NOW);
    site.events.flush().await.unwrap();
    let again = Events::load(site.records.clone(), NOW).await.unwrap();
    let (found, next) = again.find(|_| true);
    assert_eq!(next, 2);
    let said: Vec<_> = found.iter().map(|n| (n.host.as_str(), n.event.clone())).collect();
    let mut wanted = batch(&[(NOW.0 - 2, "a"), (NOW.0 - 1, "b")]).events;
    wanted.iter_mut().for_each(|event| event.host = "h1".into());
    assert_eq!(said, [("id-h1", wanted[0].clone()), ("id-h1", wanted[1].clone())]);
}

#[tokio::test]
async fn what_an_agent_sends_again_is_there_once() {
    let site = Site::new().await;
    site.take_in(batch(&[(NOW.0 - 2, "a"), (NOW.0 - 1, "b")]), NOW);
    site.take_in(batch(&[(NOW.0 - 1, "b"), (NOW.0, "c")]), NOW);
    let wanted = [(NOW.0 - 2, "a"), (NOW.0 - 1, "b"), (NOW.0, "c")];
    assert_eq!(site.all(), wanted.map(|(at, text)| (at, text.to_owned())));
}

#[tokio::test]
async fn a_clock_that_is_wrong_keeps_nothing_for_ever() {
    let site = Site::new().await;
    site.take_in(batch(&[(u64::MAX, "the future"), (1, "long ago")]), NOW);
    assert_eq!(site.all(), [(NOW.0, "the future".to_owned())]);
    site.events.flush().await.unwrap();
    site.events.prune(Timestamp(NOW.0 + RETENTION + 1));
    site.events.flush().await.unwrap();
    assert!(site.all().is_empty());
    assert!(site.records.list::<EventRecord>().await.unwrap().records.is_empty());
}

#[tokio::test]
async fn a_flood_is_cut_off_and_told_of() {
    let site = Site::new().await;
    let texts: Vec<String> = (0..2000).map(|number| format!("event {number}")).collect();
    for part in texts.chunks(100) {
        let events: Vec<(u64, &str)> = part.iter().map(|text| (NOW.0, text.as_str())).collect();
        site.take_in(batch(&events), NOW);
    }
    assert_eq!(site.all().len(), 600);
    let later = Timestamp(NOW.0 + 60_000);
    site.take_in(batch(&[(later.0, "calm")]), later);
    let last: Vec<String> = site.all().into_iter().skip(600).map(|(_, text)| text).collect();
    let told = "1400 events of this host were left out: it says too many a minute";
    assert_eq!(last, [told, "calm"]);
}

#[tokio::test]
async fn what_the_agent_lost_and_what_makes_no_sense_is_no_gap_without_a_word() {
    let site = Site::new().await;
    let mut events = batch(&[(NOW.0, "good"), (NOW.0, "bad")]);
    events.events[1].kind = 77;
    events.lost = 5;
    site.take_in(events, NOW);
    let wanted = ["the agent dropped 5 events that it could not send", "good"];
    assert_eq!(site.all(), wanted.map(|text| (NOW.0, text.to_owned())));
}

#[tokio::test]
async fn a_long_text_is_cut() {
    let site = Site::new().await;
    site.take_in(batch(&[(NOW.0, &"x".repeat(1 << 20))]), NOW);
    assert_eq!(site.all()[0].1.len(), LONGEST_MESSAGE + '…'.len_utf8());
}

#[tokio::test]
async fn followers_wake_and_go_on_where_they_were() {
    let site = Site::new().await;
    site.take_in(batch(&[(NOW.0, "a")]), NOW);
    let (_, next) = site.events.find(|_| true);
    let mut arrivals = site.events.arrivals();
    assert!(!arrivals.has_changed().unwrap());
    site.take_in(batch(&[(NOW.0, "b")]), NOW);
    arrivals.changed().await.unwrap();
    let (new, next) = site.events.since(next);
    assert_eq!(new.iter().map(|n| n.event.message.as_str()).collect::<Vec<_>>(), ["b"]);
    assert!(site.events.since(next).0.is_empty());
}

#[tokio::test]
async fn the_writer_writes_by_itself() {
    let site = Site::new().await;
    let stop = CancellationToken::new();
    let writing = tokio::spawn(site.events.clone().keep(stop.clone()));
    // Real time: what is older than the retention would be pruned by the writer's clock.
    let now = clock::now();
    site.take_in(batch(&[(now.0, "a")]), now);
    while site.records.list::<EventRecord>().await.unwrap().records.is_empty() {
        tokio::task::yield_now().await;
    }
    stop.cancel();
    writing.await.unwrap();
}
