//! Getting a certificate, and keeping one.

use std::time::{Duration, SystemTime};

use shoal_controller::clock;
use shoal_controller::store::Batch;
use shoal_proto::v1::store::{HostNameRecord, HostRecord};
use shoal_proto::v1::{
    CreateTokenRequest, JoinRequest, ListAuditRequest, ListHostsRequest, RecoverRequest,
    RenewRequest,
};
use shoal_tls::{CertificateInfo, LeafKey};
use tonic::{Code, Status};

use crate::agent::Agent;
use crate::stand::Stand;

const HOUR: Duration = Duration::from_secs(3600);

fn for_any() -> CreateTokenRequest {
    CreateTokenRequest::default()
}

fn key() -> LeafKey {
    LeafKey::generate().unwrap()
}

fn refused(outcome: Result<Agent, Status>, code: Code, words: &str) {
    let Err(status) = outcome else { panic!("joined, instead of {code:?}") };
    assert_eq!(status.code(), code, "{status:?}");
    assert!(status.message().contains(words), "{status:?}");
}

#[tokio::test]
async fn a_token_enrols_a_host_with_its_labels() {
    let stand = Stand::new().await;
    let labels = [("role".to_owned(), "web".to_owned())].into_iter().collect();
    let token = stand.token(CreateTokenRequest { labels, ..for_any() }).await;
    let agent = stand.join(&token, "web-1", &key()).await.unwrap();

    assert_eq!(agent.id.as_str().len(), 16);
    let identity = format!("spiffe://shoal.test/agent/{}", agent.id);
    assert_eq!(agent.info().identity.to_string(), identity);
    let host = stand.show("web-1").await;
    assert_eq!(host.id, agent.id.as_str());
    assert_eq!(host.labels["role"], "web");
    assert_eq!(
        host.certificate_expires_ms,
        shoal_core::time::Timestamp::from(agent.info().not_after).0
    );
    assert!(!host.online && host.last_heard_ms == 0);

    let of = async |selector: &str| {
        let request = ListHostsRequest { selector: selector.into() };
        stand.hosts().await.list(request).await.unwrap().into_inner().hosts.len()
    };
    assert_eq!((of("").await, of("role=web").await, of("role=db").await), (1, 1, 0));

    let mut controller = stand.controller().await;
    let entries = controller.list_audit(ListAuditRequest { limit: 2 }).await.unwrap().into_inner();
    let entries: Vec<_> = entries.entries.into_iter().map(|e| (e.what, e.who, e.target)).collect();
    let admin = "spiffe://shoal.test/user/ann".to_owned();
    assert_eq!(entries[0], ("Enrol/Join".into(), identity, "web-1".into()));
    assert_eq!(entries[1], ("Hosts/CreateToken".into(), admin, token.id().into()));
}

#[tokio::test]
async fn the_same_key_gets_the_same_certificate_and_another_none() {
    let stand = Stand::new().await;
    let (token, own) = (stand.token(for_any()).await, key());
    let first = stand.join(&token, "web-1", &own).await.unwrap();
    let again = stand.join(&token, "web-1", &own).await.unwrap();
    assert_eq!((first.id, first.chain), (again.id, again.chain));
    refused(stand.join(&token, "web-2", &key()).await, Code::Unauthenticated, "used already");
}

#[tokio::test]
async fn of_two_at_once_one_joins() {
    let stand = Stand::new().await;
    let token = stand.token(for_any()).await;
    let (a, b) = (key(), key());
    let (a, b) = tokio::join!(stand.join(&token, "a", &a), stand.join(&token, "b", &b));
    assert_eq!(usize::from(a.is_ok()) + usize::from(b.is_ok()), 1);
    let hosts = stand.hosts().await.list(ListHostsRequest::default()).await.unwrap();
    assert_eq!(hosts.into_inner().hosts.len(), 1);
}

#[tokio::test]
async fn an_expired_token_is_refused() {
    let stand = Stand::new().await;
    let token = stand.token(CreateTokenRequest { ttl_ms: 1, ..for_any() }).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    refused(stand.join(&token, "a", &key()).await, Code::Unauthenticated, "expired");
}

#[tokio::test]
async fn a_token_for_another_host_is_refused_and_stays_good() {
    let stand = Stand::new().await;
    let host_name = Some("web-1".to_owned());
    let token = stand.token(CreateTokenRequest { host_name, ..for_any() }).await;
    refused(stand.join(&token, "web-2", &key()).await, Code::PermissionDenied, "web-1");
    assert!(stand.join(&token, "web-1", &key()).await.is_ok());
}

#[tokio::test]
async fn a_wrong_secret_and_an_unknown_token_look_the_same() {
    let stand = Stand::new().await;
    let token = stand.token(for_any()).await;
    let mut enrol = stand.enrol().await;
    let good = JoinRequest {
        token_id: token.id().into(),
        token_secret: token.secret().to_vec().into(),
        host_name: "a".into(),
        csr: key().csr_der().unwrap().into(),
    };
    let mut messages = Vec::new();
    for bad in [
        JoinRequest { token_secret: vec![0; 16].into(), ..good.clone() },
        JoinRequest { token_secret: vec![].into(), ..good.clone() },
        JoinRequest { token_id: "0000000000".into(), ..good.clone() },
        JoinRequest { token_id: "../users/ann".into(), ..good.clone() },
    ] {
        let status = enrol.join(bad).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
        messages.push(status.message().to_owned());
    }
    messages.dedup();
    assert_eq!(messages.len(), 1, "{messages:?}");
    assert!(enrol.join(good).await.is_ok(), "failures used the token up");
}

#[tokio::test]
async fn names_are_checked_and_unique() {
    let stand = Stand::new().await;
    stand.host("web-1").await;
    let token = stand.token(for_any()).await;
    refused(stand.join(&token, "web-1", &key()).await, Code::AlreadyExists, "web-1");
    let long = "x".repeat(200);
    for bad in ["", "Web", "a/b", "..", &long] {
        refused(stand.join(&token, bad, &key()).await, Code::InvalidArgument, "host name");
    }
    let taken = CreateTokenRequest { host_name: Some("web-1".into()), ..for_any() };
    let status = stand.hosts().await.create_token(taken).await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists);
    let forever = CreateTokenRequest { ttl_ms: 8 * 24 * 3_600_000, ..for_any() };
    let status = stand.hosts().await.create_token(forever).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(stand.join(&token, "web-2", &key()).await.is_ok());
}

#[tokio::test]
async fn a_request_that_proves_no_key_is_refused() {
    let stand = Stand::new().await;
    let token = stand.token(for_any()).await;
    let mut csr = key().csr_der().unwrap();
    let last = csr.len() - 1;
    csr[last] ^= 1;
    for csr in [csr, vec![], b"no request".to_vec()] {
        let request = JoinRequest {
            token_id: token.id().into(),
            token_secret: token.secret().to_vec().into(),
            host_name: "a".into(),
            csr: csr.into(),
        };
        let status = stand.enrol().await.join(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    }
}

#[tokio::test]
async fn renewal_keeps_the_key_and_moves_the_end() {
    let stand = Stand::new().await;
    let agent = stand.host("web-1").await;
    let mut link = agent.link(&stand).await;
    let csr = agent.key.csr_der().unwrap().into();
    let renewed = link.renew(RenewRequest { csr }).await.unwrap().into_inner();
    let info = CertificateInfo::from_pem(&renewed.certificate_chain).unwrap();
    assert_eq!(info.spki_sha256, agent.info().spki_sha256);
    assert_ne!(info.serial, agent.info().serial);
    let shown = stand.show("web-1").await.certificate_expires_ms;
    assert_eq!(shown, shoal_core::time::Timestamp::from(info.not_after).0);

    let csr = key().csr_der().unwrap().into();
    let status = link.renew(RenewRequest { csr }).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
}

/// A certificate of that host and key which ended an hour ago.
fn expired(stand: &Stand, agent: &Agent, now: SystemTime) -> Vec<u8> {
    let csr = agent.key.csr_der().unwrap();
    stand.app().authority.issue_agent(&csr, &agent.id, now - 2 * HOUR, HOUR).unwrap().der
}

async fn recover(stand: &Stand, certificate: Vec<u8>, key: &LeafKey) -> Result<String, Status> {
    let csr = key.csr_der().unwrap().into();
    let request = RecoverRequest { certificate: certificate.into(), csr };
    let response = stand.enrol().await.recover(request).await?;
    Ok(response.into_inner().certificate_chain)
}

#[tokio::test]
async fn an_agent_whose_certificate_lapsed_recovers_with_its_key() {
    let stand = Stand::new().await;
    let agent = stand.host("web-1").await;
    let old = expired(&stand, &agent, clock::system_time());
    let chain = recover(&stand, old.clone(), &agent.key).await.unwrap();
    let back = Agent { chain, ..agent };
    back.connect(&stand).await;

    let status = recover(&stand, old.clone(), &key()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    let other = Stand::new().await;
    let status = recover(&other, old.clone(), &back.key).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    remove(&stand, &back).await;
    let status = recover(&stand, old, &back.key).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_host_that_was_removed_can_do_nothing() {
    let stand = Stand::new().await;
    let agent = stand.host("web-1").await;
    remove(&stand, &agent).await;
    let csr = agent.key.csr_der().unwrap().into();
    let status = agent.link(&stand).await.renew(RenewRequest { csr }).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    assert!(status.message().contains("token create"), "{status:?}");
}

async fn remove(stand: &Stand, agent: &Agent) {
    let mut batch = Batch::new();
    batch.delete::<HostRecord>(agent.id.as_str()).unwrap();
    batch.delete::<HostNameRecord>(&agent.name).unwrap();
    stand.app().records.commit(batch).await.unwrap();
}
