//! A host that was removed is out: at once, for good, and its name is free.

use std::time::Duration;

use shoal_controller::clock;
use shoal_proto::v1::agent_link_client::AgentLinkClient;
use shoal_proto::v1::enrol_client::EnrolClient;
use shoal_proto::v1::hosts_client::HostsClient;
use shoal_proto::v1::{
    CordonHostRequest, DrainEnd, DrainHostRequest, GetHostRequest, RecoverRequest,
    RemoveHostRequest, RenewRequest, UncordonHostRequest,
};
use shoal_tls::{LeafKey, anonymous_client_config};
use tokio::time::timeout;
use tonic::{Code, Status};

use crate::agent::Agent;
use crate::stand::{Stand, connect, until};

/// How long a stream may outlive its host.
const CUT: Duration = Duration::from_secs(5);

async fn removed(stand: &Stand, name: &str) -> Result<(), Status> {
    let request = RemoveHostRequest { name: name.into(), force: true };
    stand.hosts().await.remove(request).await.map(drop)
}

/// What the agent is told that opens its stream.
async fn refusal(agent: &Agent, stand: &Stand) -> Status {
    let mut link = AgentLinkClient::new(stand.channel(&agent.own()).await);
    let csr = agent.key.csr_der().unwrap().into();
    link.renew(RenewRequest { csr }).await.unwrap_err()
}

#[tokio::test]
async fn a_removed_host_is_cut_off_and_stays_out() {
    let mut stand = Stand::new().await;
    let (gone, stays) = (stand.host("web-1").await, stand.host("web-2").await);
    let mut stream = gone.connect(&stand).await;
    let other = stays.connect(&stand).await;
    removed(&stand, "web-1").await.unwrap();
    let ended =
        timeout(CUT, async { while let Ok(Some(_)) = stream.down.message().await {} }).await;
    assert!(ended.is_ok(), "its stream lives on");
    other.heartbeat(7).await;
    until("the other host's heartbeat", async || {
        stand.show("web-2").await.facts.is_some_and(|facts| facts.disk_free == 7)
    })
    .await;
    for again in [false, true] {
        if again {
            stand.stop().await;
            stand.start().await;
        }
        let refused = refusal(&gone, &stand).await;
        assert_eq!(refused.code(), Code::PermissionDenied);
        assert!(refused.message().contains("it was removed"), "{refused:?}");
        let name = GetHostRequest { name: "web-1".into() };
        assert_eq!(stand.hosts().await.get(name).await.unwrap_err().code(), Code::NotFound);
    }
    let config = anonymous_client_config(&stand.roots());
    let channel = connect(stand.running().enrol_address(), config).await.unwrap();
    let csr = gone.key.csr_der().unwrap();
    let hour = Duration::from_secs(3600);
    let issued = clock::system_time() - 2 * hour;
    let expired = stand.app().authority.issue_agent(&csr, &gone.id, issued, hour).unwrap().der;
    let (certificate, csr) = (expired.into(), csr.into());
    let recovered = EnrolClient::new(channel).recover(RecoverRequest { certificate, csr }).await;
    let recovered = recovered.unwrap_err();
    assert_eq!(recovered.code(), Code::Unauthenticated);
    assert!(recovered.message().contains("was removed from this controller"), "{recovered:?}");

    let new = stand.host("web-1").await;
    assert_ne!(new.id, gone.id, "its name is free, and what comes is another host");
    drop(new.connect(&stand).await);
}

#[tokio::test]
async fn who_may_drive_hosts_and_who_may_remove_them() {
    let stand = Stand::new().await;
    let _host = stand.host("web-1").await;
    let mut deployer = HostsClient::new(stand.user("dora", "deployer").await);
    let mut operator = HostsClient::new(stand.user("otto", "operator").await);
    let name = || "web-1".to_owned();
    let cordon = || CordonHostRequest { name: name(), reason: "fan".into() };
    let denied = deployer.cordon(cordon()).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    assert!(operator.cordon(cordon()).await.unwrap().into_inner().changed);
    let shown = stand.show("web-1").await.cordon.unwrap();
    assert_eq!((shown.by.as_str(), shown.drains), ("spiffe://shoal.test/user/otto", false));

    let request = DrainHostRequest { name: name(), ..DrainHostRequest::default() };
    let mut drain = operator.drain(request).await.unwrap().into_inner();
    let report = drain.message().await.unwrap().unwrap();
    assert_eq!(report.end(), DrainEnd::Empty);
    assert_eq!(drain.message().await.unwrap(), None, "that was all");
    let shown = stand.show("web-1").await.cordon.unwrap();
    assert_eq!((shown.reason.as_str(), shown.drains), ("fan", true));

    let freed = operator.uncordon(UncordonHostRequest { name: name() }).await.unwrap();
    assert!(freed.into_inner().host.unwrap().cordon.is_none());
    let remove = || RemoveHostRequest { name: name(), force: false };
    assert_eq!(operator.remove(remove()).await.unwrap_err().code(), Code::PermissionDenied);
    assert!(stand.hosts().await.remove(remove()).await.is_ok());
}

#[tokio::test]
async fn a_host_that_joins_with_a_key_of_before_is_a_new_one() {
    let stand = Stand::new().await;
    let key = LeafKey::generate().unwrap();
    let token = stand.token(Default::default()).await;
    let first = stand.join(&token, "web-1", &key).await.unwrap();
    removed(&stand, "web-1").await.unwrap();
    let used = stand.join(&token, "web-1", &key).await.map(drop).unwrap_err();
    assert_eq!(used.code(), Code::Unauthenticated, "the old token brings it back: {used:?}");
    let token = stand.token(Default::default()).await;
    let second = stand.join(&token, "web-1", &key).await.unwrap();
    assert_ne!(first.id, second.id);
    assert_eq!(refusal(&first, &stand).await.code(), Code::PermissionDenied);
    drop(second.connect(&stand).await);
}
