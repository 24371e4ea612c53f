use futures_util::StreamExt as _;
use shoal_core::time::Timestamp;
use shoal_proto::v1::{Event, EventBatch, EventKind as Kind};

use super::*;
use crate::events::Reporter;
use crate::fleets_api::tests_support::{Lab, NOON};

struct World {
    lab: Lab,
    events: Events,
    api: EventsApi,
    shutdown: CancellationToken,
}

impl World {
    async fn new() -> Self {
        let lab = Lab::new().await;
        lab.apply("shop", &[("main", "app:1", "role=web")]).await.unwrap();
        let events = Events::load(lab.records.clone(), NOON).await.unwrap();
        let shutdown = CancellationToken::new();
        let api = EventsApi::over(lab.records.clone(), events.clone(), shutdown.clone());
        Self { lab, events, api, shutdown }
    }

    fn happens(&self, host: &str, instance: Option<&str>, kind: Kind, message: &str, at: u64) {
        let event = Event {
            at_ms: NOON.0 + at,
            instance: instance.map(str::to_owned),
            kind: kind.into(),
            message: message.into(),
            host: String::new(),
        };
        let id: HostId = format!("id-{host}").parse().unwrap();
        let batch = EventBatch { events: vec![event], lost: 0 };
        self.events.take_in(Reporter { host: &id, name: host }, batch, Timestamp(NOON.0 + 1000));
    }

    fn some(&self) {
        self.happens("h1", Some("shop/main"), Kind::Drift, "killed", 1);
        self.happens("h2", Some("shop/db"), Kind::State, "healthy", 3);
        self.happens("h3", Some("mail/main"), Kind::Failed, "fell", 4);
        self.happens("h3", None, Kind::Failed, "disk", 5);
        // It was away for a while.
        self.happens("h1", Some("shop/main"), Kind::Repaired, "started", 2);
    }

    async fn said(&self, request: ListEventsRequest) -> Vec<String> {
        let answers = self.api.list(request).await.unwrap();
        answers.map(|event| event.unwrap().message).collect().await
    }
}

fn all() -> ListEventsRequest {
    ListEventsRequest::default()
}

#[tokio::test]
async fn events_are_told_by_their_time_and_as_they_are_asked_for() {
    let world = World::new().await;
    world.some();
    assert_eq!(world.said(all()).await, ["killed", "started", "healthy", "fell", "disk"]);
    let of = |fleet: &str, instance: &str| ListEventsRequest {
        fleet: fleet.into(),
        instance: instance.into(),
        ..all()
    };
    for (request, wanted) in [
        (of("shop", ""), &["killed", "started", "healthy"][..]),
        (of("shop", "main"), &["killed", "started"]),
        // Gone, but not forgotten.
        (of("mail", ""), &["fell"]),
        (ListEventsRequest { host: "h3".into(), ..all() }, &["fell", "disk"]),
        (ListEventsRequest { host: "h3".into(), ..of("mail", "") }, &["fell"]),
        (
            ListEventsRequest { selector: "role=web".into(), ..all() },
            &["killed", "started", "healthy"],
        ),
        (ListEventsRequest { since_ms: NOON.0 + 3, ..all() }, &["healthy", "fell", "disk"]),
        (ListEventsRequest { limit: 2, ..all() }, &["fell", "disk"]),
        (ListEventsRequest { warnings_only: true, ..all() }, &["killed", "fell", "disk"]),
    ] {
        assert_eq!(world.said(request.clone()).await, wanted, "{request:?}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_refused() {
    let world = World::new().await;
    world.some();
    for (request, wanted) in [
        (
            ListEventsRequest { fleet: "shpo".into(), ..all() },
            "there is no fleet shpo (did you mean shop?)",
        ),
        (
            ListEventsRequest { host: "h9".into(), ..all() },
            "there is no host h9 (did you mean h1?)",
        ),
        (
            ListEventsRequest { instance: "main".into(), ..all() },
            "an instance is named, and no fleet",
        ),
    ] {
        assert_eq!(world.api.list(request).await.unwrap_err().to_string(), wanted);
    }
    let bad = ListEventsRequest { selector: "role=".into(), ..all() };
    assert!(matches!(world.api.list(bad).await, Err(Refusal::Invalid(_))));
}

#[tokio::test]
async fn a_follower_is_told_what_comes_until_the_controller_ends() {
    let world = World::new().await;
    world.some();
    let request = ListEventsRequest { fleet: "shop".into(), limit: 1, follow: true, ..all() };
    let mut answers = world.api.list(request).await.unwrap();
    assert_eq!(answers.next().await.unwrap().unwrap().message, "healthy");
    world.happens("h3", None, Kind::Failed, "not of the fleet", 6);
    world.happens("h2", Some("shop/main"), Kind::State, "new", 7);
    assert_eq!(answers.next().await.unwrap().unwrap().message, "new");
    world.shutdown.cancel();
    let ended = answers.next().await.unwrap().unwrap_err();
    assert_eq!(ended.code(), tonic::Code::Unavailable);
    assert!(answers.next().await.is_none());
    drop(world.lab);
}
