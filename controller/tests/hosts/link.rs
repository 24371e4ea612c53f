//! The agent's stream, and images for it.

use shoal_controller::store::Batch;
use shoal_proto::v1::store::HostSpecRecord;
use shoal_proto::v1::{
    FetchImageRequest, Heartbeat, HostSpec, HostStatus, InstanceConfig, InstanceSpec, PinnedImage,
    agent_message, controller_message,
};
use tonic::Code;

use crate::agent::{Agent, hello};
use crate::stand::{Stand, until};

async fn want(stand: &Stand, agent: &Agent, spec: HostSpec) {
    let mut batch = Batch::new();
    batch.put(agent.id.as_str(), &HostSpecRecord { spec: Some(spec) }).unwrap();
    stand.app().records.commit(batch).await.unwrap();
}

fn generation(generation: u64) -> HostSpec {
    HostSpec { generation, instances: vec![], ..HostSpec::default() }
}

#[tokio::test]
async fn a_hello_is_welcomed_and_what_it_says_is_shown() {
    let stand = Stand::new().await;
    let agent = stand.host("web-1").await;
    let mut stream = agent.open(&stand).await;
    stream.say(agent_message::Message::Hello(hello())).await;
    let controller_message::Message::Welcome(welcome) = stream.hear().await else {
        panic!("no welcome")
    };
    assert_eq!((welcome.host_name.as_str(), welcome.epoch), ("web-1", stand.app().epoch));
    assert_eq!(welcome.heartbeat_ms, 5000);

    let host = stand.show("web-1").await;
    assert!(host.online && host.last_heard_ms > 0);
    let facts = host.facts.unwrap();
    assert_eq!((facts.os.as_str(), facts.cpus), ("Debian GNU/Linux 12", 4));
    stream.heartbeat(42).await;
    until("the heartbeat counts", async || {
        stand.show("web-1").await.facts.unwrap().disk_free == 42
    })
    .await;
}

#[tokio::test]
async fn who_does_not_say_hello_is_sent_away() {
    let stand = Stand::new().await;
    let agent = stand.host("web-1").await;
    let mut stream = agent.open(&stand).await;
    stream.heartbeat(1).await;
    let status = stream.end().await;
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert!(!stand.show("web-1").await.online);
}

#[tokio::test]
async fn the_desired_state_is_pushed_at_once_and_at_each_change() {
    let stand = Stand::new().await;
    let (agent, other) = (stand.host("web-1").await, stand.host("web-2").await);
    want(&stand, &agent, generation(7)).await;
    let mut stream = agent.connect(&stand).await;
    assert_eq!(stream.hear_generation().await, 7);
    want(&stand, &other, generation(1)).await;
    want(&stand, &agent, generation(8)).await;
    assert_eq!(stream.hear_generation().await, 8);

    let mut again = agent.connect(&stand).await;
    assert_eq!(again.hear_generation().await, 8);
    assert_eq!(stand.show("web-1").await.generation, 8);
}

#[tokio::test]
async fn a_second_stream_ends_the_first() {
    let stand = Stand::new().await;
    let agent = stand.host("web-1").await;
    let mut first = agent.connect(&stand).await;
    let since = stand.app().live.presence(&agent.id).unwrap().since;
    let mut second = agent.connect(&stand).await;
    let status = first.end().await;
    assert_eq!(status.code(), Code::Aborted, "{status:?}");
    let presence = stand.app().live.presence(&agent.id).unwrap();
    assert!(presence.online && presence.since == since, "{presence:?}");
    want(&stand, &agent, generation(1)).await;
    assert_eq!(second.hear_generation().await, 1);
}

#[tokio::test]
async fn a_silent_host_is_offline_since_then() {
    let stand = Stand::with(|config| config.heartbeat_ms = 300).await;
    let agent = stand.host("web-1").await;
    let mut changes = stand.app().live.changes();
    let mut stream = agent.connect(&stand).await;
    for _ in 0..8 {
        stream.heartbeat(1).await;
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    assert!(stand.app().live.is_connected(&agent.id), "it was heard of all the time");
    changes.mark_unchanged();
    let status = stream.end().await;
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    changes.changed().await.unwrap();
    let host = stand.show("web-1").await;
    assert!(!host.online && host.since_ms >= host.last_heard_ms, "{host:?}");
}

#[tokio::test]
async fn a_stream_that_breaks_off_makes_the_host_offline() {
    let stand = Stand::new().await;
    let agent = stand.host("web-1").await;
    drop(agent.connect(&stand).await);
    until("offline", async || !stand.show("web-1").await.online).await;
    assert!(!stand.app().live.is_connected(&agent.id));
}

#[tokio::test]
async fn reports_and_refusals_are_shown() {
    let stand = Stand::new().await;
    let agent = stand.host("web-1").await;
    let stream = agent.connect(&stand).await;
    let status = |observed_generation| HostStatus { observed_generation, ..HostStatus::default() };
    let mut changes = stand.app().live.changes();
    stream.report(status(3)).await;
    changes.changed().await.unwrap();
    assert_eq!(stand.app().live.status(&agent.id).unwrap().observed_generation, 3);

    stream.refuse(4, "it is older").await;
    changes.changed().await.unwrap();
    let problems = stand.show("web-1").await.status.unwrap().problems;
    assert!(problems[0].contains("generation 4") && problems[0].contains("it is older"));
    stream.report(status(4)).await;
    changes.changed().await.unwrap();
    assert!(stand.show("web-1").await.status.unwrap().problems.is_empty());
}

#[tokio::test]
async fn a_report_that_makes_no_sense_is_a_problem_and_no_more() {
    let stand = Stand::new().await;
    let agent = stand.host("web-1").await;
    let stream = agent.connect(&stand).await;
    let mut changes = stand.app().live.changes();
    stream.report(HostStatus { images: vec![vec![1].into()], ..HostStatus::default() }).await;
    changes.changed().await.unwrap();
    let host = stand.show("web-1").await;
    assert!(host.online);
    assert!(host.status.unwrap().problems[0].contains("32 bytes"));
    assert!(stand.app().live.status(&agent.id).is_none());
    stream.report(HostStatus::default()).await;
    changes.changed().await.unwrap();
    assert!(stand.show("web-1").await.status.unwrap().problems.is_empty());
}

#[tokio::test]
async fn an_orderly_end_tells_the_agent() {
    let mut stand = Stand::new().await;
    let agent = stand.host("web-1").await;
    let mut stream = agent.connect(&stand).await;
    let began = std::time::Instant::now();
    let (status, ()) = tokio::join!(stream.end(), stand.stop());
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(began.elapsed().as_secs() < 8, "it was only cut");
}

fn with_image(digest: &[u8]) -> HostSpec {
    let (reference, digest) = ("app:1".into(), digest.to_vec().into());
    let image = PinnedImage { reference, digest, size: 1, signed: None };
    let instance = InstanceSpec {
        id: "app/main".into(),
        config: Some(InstanceConfig { image: Some(image), settings: None }),
        ..InstanceSpec::default()
    };
    HostSpec { generation: 1, instances: vec![instance], ..HostSpec::default() }
}

#[tokio::test]
async fn only_images_that_a_host_is_to_run_are_sent_to_it() {
    let stand = Stand::new().await;
    let (agent, other) = (stand.host("web-1").await, stand.host("web-2").await);
    let bytes: Vec<u8> =
        (0..600_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    let digest = shoal_tls::sha256(&bytes);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let images = stand.dir().join("images");
    std::fs::create_dir_all(&images).unwrap();
    std::fs::write(images.join(format!("{hex}.squashfs")), &bytes).unwrap();
    want(&stand, &agent, with_image(&digest)).await;

    let request = |offset| FetchImageRequest { digest: digest.to_vec().into(), offset };
    let mut link = agent.link(&stand).await;
    for offset in [0, 1, 262_144, 599_999, 600_000] {
        let mut stream = link.fetch_image(request(offset)).await.unwrap().into_inner();
        let mut received = Vec::new();
        while let Some(chunk) = stream.message().await.unwrap() {
            assert!(chunk.data.len() <= shoal_proto::CHUNK);
            received.extend_from_slice(&chunk.data);
        }
        assert!(received == bytes[usize::try_from(offset).unwrap()..], "from {offset}");
    }
    let code = async |agent: &Agent, request| {
        agent.link(&stand).await.fetch_image(request).await.map(drop).unwrap_err().code()
    };
    assert_eq!(code(&agent, request(600_001)).await, Code::OutOfRange);
    assert_eq!(code(&other, request(0)).await, Code::PermissionDenied);
    let short = FetchImageRequest { digest: vec![1].into(), offset: 0 };
    assert_eq!(code(&agent, short).await, Code::InvalidArgument);
    want(&stand, &agent, with_image(&[7; 32])).await;
    let missing = FetchImageRequest { digest: vec![7; 32].into(), offset: 0 };
    assert_eq!(code(&agent, missing).await, Code::NotFound);
}

#[tokio::test]
async fn a_second_hello_is_one_too_many() {
    let stand = Stand::new().await;
    let agent = stand.host("web-1").await;
    let mut stream = agent.connect(&stand).await;
    stream.say(agent_message::Message::Heartbeat(Heartbeat::default())).await;
    stream.say(agent_message::Message::Hello(hello())).await;
    assert_eq!(stream.end().await.code(), Code::InvalidArgument);
}
