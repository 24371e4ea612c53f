//! What a controller knows after it was stopped.

use shoal_proto::v1::{GetVersionRequest, HostStatus};

use crate::stand::{Stand, until};

#[tokio::test]
async fn presence_status_and_hosts_outlive_a_restart() {
    let mut stand = Stand::new().await;
    let agent = stand.host("web-1").await;
    stand.host("web-2").await;
    let stream = agent.connect(&stand).await;
    stream.report(HostStatus { observed_generation: 3, ..HostStatus::default() }).await;
    until("reported", async || stand.app().live.status(&agent.id).is_some()).await;
    let epoch = stand.app().epoch;
    stand.stop().await;
    drop(stream);
    stand.start().await;

    let presence = stand.app().live.presence(&agent.id).unwrap();
    assert!(!presence.online && presence.last_heard.0 > 0, "{presence:?}");
    assert!(presence.since >= presence.last_heard);
    assert_eq!(stand.app().live.status(&agent.id).unwrap().observed_generation, 3);
    let host = stand.show("web-1").await;
    assert_eq!((host.online, host.since_ms), (false, presence.since.0));
    assert_eq!(host.facts.unwrap().cpus, 4);
    assert!(stand.show("web-2").await.last_heard_ms == 0);
    let version = stand.controller().await.get_version(GetVersionRequest {}).await.unwrap();
    assert!(version.into_inner().epoch > epoch, "each run has a later epoch");
    let _stream = agent.connect(&stand).await;
    assert!(stand.show("web-1").await.online);
}

#[tokio::test]
async fn a_crash_leaves_a_host_offline_since_it_was_last_heard() {
    let stand = Stand::new().await;
    let agent = stand.host("web-1").await;
    let stream = agent.connect(&stand).await;
    let live = &stand.app().live;
    live.flush().await.unwrap();
    let before = live.presence(&agent.id).unwrap();
    assert!(before.online);
    // As the next run of the controller would find it, had this one ended just now.
    let found = shoal_controller::live::Live::load(stand.app().records.clone(), 1).await.unwrap();
    let after = found.presence(&agent.id).unwrap();
    assert!(!after.online, "{after:?}");
    assert_eq!((after.since, after.last_heard), (before.last_heard, before.last_heard));
    drop(stream);
}
