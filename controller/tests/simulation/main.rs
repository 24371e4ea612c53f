//! A rollout over two hundred agents in this process, over the real wire to a real controller: its
//! ports, certificates, streams and store. What a rollout does when things break is in
//! `src/simulation.rs`, in a time of its own; here it is how long one takes when nothing does.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

#[allow(dead_code, unreachable_pub, reason = "shared with the tests of hosts")]
#[path = "../hosts/agent.rs"]
mod agent;
#[allow(dead_code, unreachable_pub, reason = "shared with the tests of hosts")]
#[path = "../hosts/stand.rs"]
mod stand;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use shoal_controller::fleets_api::world::tag_id;
use shoal_controller::store::Batch;
use shoal_core::image::Digest;
use shoal_core::rollout::Policy;
use shoal_proto::v1::fleets_client::FleetsClient;
use shoal_proto::v1::rollouts_client::RolloutsClient;
use shoal_proto::v1::store::{ImageRecord, TagRecord};
use shoal_proto::v1::{
    self, ApplyRequest, DeclaredInstance, FleetSpec, Heartbeat, HostMatch, HostSpec, HostStatus,
    InstanceHealth, InstanceState, InstanceStatus, Network, RolloutState, Settings,
    WatchRolloutRequest, agent_message, controller_message, host_match, settings,
};
use tokio::time::{Instant, interval, sleep_until, timeout};
use tonic::transport::Channel;

use crate::agent::{Agent, Stream};
use crate::stand::Stand;

const HOSTS: usize = 200;

/// How long an instance takes until it is healthy: the gate of each batch.
const READY: Duration = Duration::from_secs(1);
const MONITOR: Duration = Duration::from_secs(2);

/// The batches of two hundred hosts: 1, 10 %, 50 %, all.
const BATCHES: u32 = 4;

/// Rollouts that are measured, after one that is not.
const ROUNDS: usize = 3;

/// What `cargo xtask bench rollout` prints and puts into docs/benchmarks.md.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "means something in a release build alone; `cargo xtask bench rollout` runs it"]
async fn over_two_hundred_agents() {
    let stand = Stand::new().await;
    for number in 1..=2_u8 {
        image(&stand, number).await;
    }
    for number in 0..HOSTS {
        let agent = stand.host(&format!("s{number:03}")).await;
        let stream = agent.connect(&stand).await;
        tokio::spawn(live(stream));
        drop::<Agent>(agent);
    }
    let admin = stand.admin().await;
    let all = Policy { batches: vec!["100%".parse().unwrap()], ..Policy::default() };
    roll_out(&admin, "app:1", all).await;
    let floor = (READY + MONITOR) * BATCHES;
    for round in 0..=ROUNDS {
        let image = if round % 2 == 0 { "app:2" } else { "app:1" };
        let policy = Policy { monitor: MONITOR, ..Policy::default() };
        let took = roll_out(&admin, image, policy).await;
        assert!(took >= floor, "{took:?}: a gate was left out");
        if round > 0 {
            println!("rollout {} {}", took.as_micros(), floor.as_micros());
        }
    }
}

/// An image that is known to the controller and that every agent has.
async fn image(stand: &Stand, number: u8) {
    let reference = format!("app:{number}").parse().unwrap();
    let bytes = Bytes::copy_from_slice(&[number; 32]);
    let digest: Digest = [number; 32].into();
    let record = ImageRecord { digest: bytes.clone(), size: 4096, ..ImageRecord::default() };
    let mut batch = Batch::new();
    batch.put(&digest.to_string(), &record).unwrap();
    batch.put(&tag_id(&reference), &TagRecord { digest: bytes, signed: None }).unwrap();
    stand.app().records.commit(batch).await.unwrap();
}

/// Applies the fleet with this image, and waits until every host has proved it; how long that
/// took, from the call to the end of the rollout as a client sees it.
async fn roll_out(admin: &Channel, image: &str, policy: Policy) -> Duration {
    let settings = Settings {
        start: Some(settings::Start::Boot(v1::Boot {})),
        network: Network::Host.into(),
        ..Settings::default()
    };
    let declared = DeclaredInstance {
        image: image.into(),
        hosts: Some(HostMatch { r#match: Some(host_match::Match::All(v1::AllHosts {})) }),
        settings: Some(settings),
        ..DeclaredInstance::default()
    };
    let spec = FleetSpec {
        fleet: "shop".into(),
        instances: BTreeMap::from([("main".into(), declared)]),
        rollout: Some(policy.into()),
        infra: None,
    };
    let request = ApplyRequest { spec: Some(spec), ..ApplyRequest::default() };
    let began = Instant::now();
    FleetsClient::new(admin.clone()).apply(request).await.unwrap();
    let request = WatchRolloutRequest { fleet: "shop".into(), revision: 0 };
    let mut client =
        RolloutsClient::new(admin.clone()).max_decoding_message_size(shoal_proto::LARGEST_MESSAGE);
    let mut watch = client.watch(request).await.unwrap().into_inner();
    let mut last = None;
    let patience = Duration::from_secs(120);
    while let Some(rollout) = timeout(patience, watch.message()).await.unwrap().unwrap() {
        last = Some(rollout);
    }
    let took = began.elapsed();
    let last = last.unwrap();
    assert_eq!(last.state(), RolloutState::Completed, "{}", last.cause);
    took
}

/// An agent whose instances need [`READY`] to be healthy.
async fn live(mut stream: Stream) {
    let mut heartbeat = interval(Duration::from_secs(5));
    let mut spec = HostSpec::default();
    let mut image = String::new();
    let mut ready = Instant::now();
    loop {
        let starts = ready > Instant::now();
        tokio::select! {
            message = stream.down.message() => {
                // The controller ends, and with it the test.
                let Ok(Some(message)) = message else { return };
                let Some(controller_message::Message::Desired(wanted)) = message.message else {
                    continue;
                };
                let wants = image_of(&wanted);
                if wants != image {
                    (image, ready) = (wants, Instant::now() + READY);
                }
                spec = wanted;
            }
            () = sleep_until(ready), if starts => {}
            _ = heartbeat.tick() => {
                let message = agent_message::Message::Heartbeat(Heartbeat { disk_free: 1 << 40 });
                stream.say(message).await;
                continue;
            }
        }
        stream.report(status(&spec, ready > Instant::now())).await;
    }
}

fn image_of(spec: &HostSpec) -> String {
    let first = spec.instances.first().and_then(|instance| instance.config.as_ref());
    let image = first.and_then(|config| config.image.as_ref());
    image.map(|image| image.reference.clone()).unwrap_or_default()
}

fn status(spec: &HostSpec, starts: bool) -> HostStatus {
    let state = if starts { InstanceState::Starting } else { InstanceState::Running };
    let status = |instance: &v1::InstanceSpec| {
        let image = instance.config.as_ref().unwrap().image.as_ref().unwrap();
        InstanceStatus {
            id: instance.id.clone(),
            revision: instance.revision,
            image: image.reference.clone(),
            digest: image.digest.clone(),
            state: state.into(),
            health: InstanceHealth::None.into(),
            current: true,
            ..InstanceStatus::default()
        }
    };
    HostStatus {
        observed_generation: spec.generation,
        instances: spec.instances.iter().map(status).collect(),
        images: (1..=2_u8).map(|number| Bytes::copy_from_slice(&[number; 32])).collect(),
        ..HostStatus::default()
    }
}
