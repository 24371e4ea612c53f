//! What agents are told of instances on other hosts that theirs come after.

use shoal_controller::store::Batch;
use shoal_proto::v1::store::HostSpecRecord;
use shoal_proto::v1::{
    self, HostSpec, HostStatus, InstanceConfig, InstanceHealth, InstanceSpec, InstanceState,
    InstanceStatus, ReadyElsewhere, controller_message,
};

use crate::agent::{Agent, Stream};
use crate::stand::Stand;

/// A desired state with one instance, which comes after others.
fn wanted(generation: u64, id: &str, after: &[&str]) -> HostSpec {
    let settings = v1::Settings {
        after: after.iter().map(|id| (*id).to_owned()).collect(),
        ..v1::Settings::default()
    };
    let instance = InstanceSpec {
        id: id.into(),
        config: Some(InstanceConfig { image: None, settings: Some(settings) }),
        ..InstanceSpec::default()
    };
    HostSpec { generation, instances: vec![instance], ..HostSpec::default() }
}

async fn want(stand: &Stand, agent: &Agent, spec: HostSpec) {
    let mut batch = Batch::new();
    batch.put(agent.id.as_str(), &HostSpecRecord { spec: Some(spec) }).unwrap();
    stand.app().records.commit(batch).await.unwrap();
}

/// Reports that `id` runs in `generation`, healthy or not yet.
async fn report(stream: &Stream, generation: u64, id: &str, healthy: bool) {
    let health = if healthy { InstanceHealth::Healthy } else { InstanceHealth::Starting };
    let instance = InstanceStatus {
        id: id.into(),
        revision: 1,
        image: "a:1".into(),
        digest: vec![1; 32].into(),
        state: InstanceState::Running.into(),
        health: health.into(),
        current: true,
        ..InstanceStatus::default()
    };
    let instances = vec![instance];
    let status = HostStatus { observed_generation: generation, instances, ..HostStatus::default() };
    stream.report(status).await;
}

async fn hear_ready(stream: &mut Stream) -> Vec<String> {
    match stream.hear().await {
        controller_message::Message::ReadyElsewhere(ReadyElsewhere { instances }) => instances,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn who_comes_after_another_hosts_instance_hears_of_it_first_and_at_each_change() {
    let stand = Stand::new().await;
    let (db, app) = (stand.host("db-1").await, stand.host("app-1").await);
    want(&stand, &db, wanted(3, "shop/db", &[])).await;
    want(&stand, &app, wanted(5, "shop/app", &["shop/db", "shop/gone"])).await;
    let mut follower = app.connect(&stand).await;
    assert_eq!(hear_ready(&mut follower).await, ["shop/gone"], "db-1 is offline");
    assert_eq!(follower.hear_generation().await, 5);

    let mut first = db.connect(&stand).await;
    assert_eq!(first.hear_generation().await, 3, "it comes after nothing");
    report(&first, 2, "shop/db", true).await;
    report(&first, 3, "shop/db", false).await;
    report(&first, 3, "shop/db", true).await;
    assert_eq!(hear_ready(&mut follower).await, ["shop/db", "shop/gone"]);

    drop(first);
    assert_eq!(hear_ready(&mut follower).await, ["shop/gone"]);
    let mut again = app.connect(&stand).await;
    assert_eq!(hear_ready(&mut again).await, ["shop/gone"], "a new stream is told anew");
    assert_eq!(again.hear_generation().await, 5);
}

/// Otherwise an instance would start on the strength of the one that is about to be replaced.
#[tokio::test]
async fn what_was_told_anew_is_not_ready_before_it_says_so() {
    let stand = Stand::new().await;
    let (db, app) = (stand.host("db-1").await, stand.host("app-1").await);
    want(&stand, &db, wanted(3, "shop/db", &[])).await;
    want(&stand, &app, wanted(5, "shop/app", &["shop/db"])).await;
    let mut first = db.connect(&stand).await;
    assert_eq!(first.hear_generation().await, 3);
    report(&first, 3, "shop/db", true).await;
    let mut follower = app.connect(&stand).await;
    let mut ready = hear_ready(&mut follower).await;
    if ready.is_empty() {
        // The report came after the hello; it is told next, perhaps before the desired state.
        assert_eq!(follower.hear_generation().await, 5);
        ready = hear_ready(&mut follower).await;
    } else {
        assert_eq!(follower.hear_generation().await, 5);
    }
    assert_eq!(ready, ["shop/db"]);
    for round in 0..20 {
        // One after the other, as a rollout's driver does it.
        want(&stand, &db, wanted(4 + round, "shop/db", &[])).await;
        want(&stand, &app, wanted(6 + round, "shop/app", &["shop/db"])).await;
        assert_eq!(hear_ready(&mut follower).await, [""; 0], "in round {round}");
        assert_eq!(follower.hear_generation().await, 6 + round);
        report(&first, 4 + round, "shop/db", true).await;
        assert_eq!(hear_ready(&mut follower).await, ["shop/db"], "in round {round}");
    }
}

#[tokio::test]
async fn what_is_on_the_same_host_is_not_told_of() {
    let stand = Stand::new().await;
    let app = stand.host("app-1").await;
    let mut spec = wanted(1, "shop/app", &["shop/db"]);
    spec.instances.extend(wanted(1, "shop/db", &[]).instances);
    want(&stand, &app, spec).await;
    let mut stream = app.connect(&stand).await;
    assert_eq!(stream.hear_generation().await, 1);
    want(&stand, &app, wanted(2, "shop/app", &["shop/db"])).await;
    assert_eq!(hear_ready(&mut stream).await, ["shop/db"], "it is on no host any more");
    assert_eq!(stream.hear_generation().await, 2);
}
