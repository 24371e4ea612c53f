//! What agents did and noticed, from their streams to whoever asks.

use shoal_proto::v1::events_client::EventsClient;
use shoal_proto::v1::{Event, EventBatch, EventKind, HostStatus, ListEventsRequest, agent_message};
use tokio::time::timeout;
use tonic::transport::Channel;

use crate::agent::Stream;
use crate::stand::{PATIENCE, Stand, until};

async fn happens(stream: &Stream, messages: &[&str]) {
    let event = |message: &&str| Event {
        at_ms: shoal_controller::clock::now().0,
        instance: Some("shop/web".into()),
        kind: EventKind::Drift.into(),
        message: (*message).into(),
        host: "forged".into(),
    };
    let events = messages.iter().map(event).collect();
    stream.say(agent_message::Message::Events(EventBatch { events, lost: 0 })).await;
}

async fn told(channel: Channel) -> Vec<(String, String)> {
    let request = ListEventsRequest::default();
    let mut answers = EventsClient::new(channel).list(request).await.unwrap().into_inner();
    let mut told = Vec::new();
    while let Some(event) = answers.message().await.unwrap() {
        told.push((event.host, event.message));
    }
    told
}

#[tokio::test]
async fn events_are_told_to_viewers_as_they_come_and_after_a_restart() {
    let mut stand = Stand::new().await;
    let agent = stand.host("web-1").await;
    let stream = agent.connect(&stand).await;
    let viewer = stand.user("eve", "viewer").await;
    let request = ListEventsRequest { follow: true, ..ListEventsRequest::default() };
    let following = EventsClient::new(viewer).list(request).await.unwrap();
    let mut following = following.into_inner();
    happens(&stream, &["a", "b"]).await;
    for wanted in ["a", "b"] {
        let event = timeout(PATIENCE, following.message()).await.expect("nothing came");
        let event = event.unwrap().unwrap();
        assert_eq!((event.host.as_str(), event.message.as_str()), ("web-1", wanted));
    }
    stand.stop().await;
    drop(stream);
    stand.start().await;
    let mut wanted = ["a", "b"].map(|text| ("web-1".to_owned(), text.to_owned())).to_vec();
    let mut found = told(stand.admin().await).await;
    // Within one millisecond there is no order.
    found.sort();
    wanted.sort();
    assert_eq!(found, wanted);
}

#[tokio::test]
async fn a_flood_of_events_holds_up_no_report() {
    let stand = Stand::new().await;
    let agent = stand.host("web-1").await;
    let stream = agent.connect(&stand).await;
    let texts: Vec<String> = (0..20_000).map(|number| format!("event {number}")).collect();
    for part in texts.chunks(500) {
        let part: Vec<&str> = part.iter().map(String::as_str).collect();
        happens(&stream, &part).await;
    }
    stream.report(HostStatus { observed_generation: 3, ..HostStatus::default() }).await;
    until("reported", async || {
        stand.app().live.status(&agent.id).is_some_and(|status| status.observed_generation == 3)
    })
    .await;
    stand.app().events.flush().await.unwrap();
    let kept = stand
        .app()
        .records
        .list::<shoal_proto::v1::store::EventRecord>()
        .await
        .unwrap()
        .records
        .len();
    assert!((600..2000).contains(&kept), "{kept} of 20,000 are kept");
}
