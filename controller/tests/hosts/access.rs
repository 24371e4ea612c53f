//! Who gets in, and how far.

use shoal_proto::v1::controller_client::ControllerClient;
use shoal_proto::v1::enrol_client::EnrolClient;
use shoal_proto::v1::hosts_client::HostsClient;
use shoal_proto::v1::{
    CreateTokenRequest, GetHostRequest, GetVersionRequest, JoinRequest, LabelHostRequest,
    ListAuditRequest, ListHostsRequest,
};
use shoal_tls::{Ca, LeafKey, ReloadableIdentity, anonymous_client_config, client_config};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::stand::{Stand, connect};

#[tokio::test]
async fn without_a_certificate_nobody_gets_in() {
    let stand = Stand::new().await;
    let config = anonymous_client_config(&stand.roots());
    // In TLS 1.3 the refusal may only come with the first call.
    if let Ok(channel) = connect(stand.running().address(), config).await {
        let answer = ControllerClient::new(channel).get_version(GetVersionRequest {}).await;
        assert!(answer.is_err());
    }
}

#[tokio::test]
async fn another_cas_certificate_opens_nothing() {
    let stand = Stand::new().await;
    let now = shoal_controller::clock::system_time();
    let day = std::time::Duration::from_secs(86_400);
    let other = Ca::generate(&"shoal.test".parse().unwrap(), now, day).unwrap();
    let key = LeafKey::generate().unwrap();
    let admin = "spiffe://shoal.test/user/ann".parse().unwrap();
    let forged = other.issue(&key.csr_der().unwrap(), &admin, now, day).unwrap();
    let own = ReloadableIdentity::from_pem(&forged.chain_pem, &key.to_pem()).unwrap();
    let config = client_config(&stand.roots(), &own);
    if let Ok(channel) = connect(stand.running().address(), config).await {
        let answer = ControllerClient::new(channel).get_version(GetVersionRequest {}).await;
        assert!(answer.is_err());
    }
}

#[tokio::test]
async fn the_admin_of_init_is_known() {
    let stand = Stand::new().await;
    let version = stand.controller().await.get_version(GetVersionRequest {}).await.unwrap();
    let version = version.into_inner();
    assert_eq!((version.trust_domain.as_str(), version.epoch), ("shoal.test", stand.app().epoch));
    assert_eq!(version.version, env!("CARGO_PKG_VERSION"));
}

#[tokio::test]
async fn roles_decide() {
    let stand = Stand::new().await;
    let viewer = stand.user("vera", "viewer").await;
    let mut hosts = HostsClient::new(viewer.clone());
    assert!(hosts.list(ListHostsRequest::default()).await.is_ok());
    let status = hosts.create_token(CreateTokenRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    let words = "spiffe://shoal.test/user/vera has the role viewer, and Hosts/CreateToken needs \
                 operator";
    assert!(status.message().contains(words), "{status:?}");
    let audit = ControllerClient::new(viewer).list_audit(ListAuditRequest::default()).await;
    assert_eq!(audit.unwrap_err().code(), Code::PermissionDenied);

    let mut operator = HostsClient::new(stand.user("otto", "operator").await);
    assert!(operator.create_token(CreateTokenRequest::default()).await.is_ok());
    for (name, role) in [("nora", ""), ("fred", "emperor")] {
        let mut hosts = HostsClient::new(stand.user(name, role).await);
        let status = hosts.list(ListHostsRequest::default()).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied);
        assert!(status.message().contains("no role"), "{status:?}");
    }
}

#[tokio::test]
async fn agents_are_no_people_and_people_no_agents() {
    let stand = Stand::new().await;
    let agent = stand.host("web-1").await;
    let mut hosts = HostsClient::new(stand.channel(&agent.own()).await);
    let status = hosts.list(ListHostsRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);

    let mut link = shoal_proto::v1::agent_link_client::AgentLinkClient::new(stand.admin().await);
    let csr = agent.key.csr_der().unwrap().into();
    let status = link.renew(shoal_proto::v1::RenewRequest { csr }).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn each_port_has_its_own_services() {
    let stand = Stand::new().await;
    let mut enrol = EnrolClient::new(stand.admin().await);
    let status = enrol.join(JoinRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);

    let config = anonymous_client_config(&stand.roots());
    let channel = connect(stand.running().enrol_address(), config).await.unwrap();
    let status = HostsClient::new(channel).list(ListHostsRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    let huge = JoinRequest { csr: vec![0; 70 << 10].into(), ..JoinRequest::default() };
    let status = stand.enrol().await.join(huge).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
}

#[tokio::test]
async fn health_and_reflection_answer() {
    let stand = Stand::new().await;
    let admin = stand.admin().await;
    let mut health = HealthClient::new(admin.clone());
    let answer = health.check(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(answer.status, 1);

    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut reflection = ServerReflectionClient::new(admin);
    let answers = reflection.server_reflection_info(tokio_stream::iter([ask])).await.unwrap();
    let answer = answers.into_inner().message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = answer else { panic!("{answer:?}") };
    assert!(list.service.iter().any(|service| service.name == "shoal.v1.Hosts"), "{list:?}");
}

#[tokio::test]
async fn labels_are_set_and_names_suggested() {
    let stand = Stand::new().await;
    stand.host("web-1").await;
    let mut hosts = stand.hosts().await;
    let set = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let request = LabelHostRequest {
        name: "web-1".into(),
        set: set(&[("role", "web"), ("site", "a")]),
        remove: vec![],
    };
    hosts.label(request).await.unwrap();
    let request = LabelHostRequest {
        name: "web-1".into(),
        set: set(&[("role", "db")]),
        remove: vec!["site".into()],
    };
    let host = hosts.label(request.clone()).await.unwrap().into_inner().host.unwrap();
    assert_eq!(host.labels, set(&[("role", "db")]));
    hosts.label(request).await.unwrap();
    let audit = stand.controller().await.list_audit(ListAuditRequest::default()).await.unwrap();
    let entries = audit.into_inner().entries;
    let labelled: Vec<_> = entries.iter().filter(|entry| entry.what == "Hosts/Label").collect();
    assert_eq!(labelled.len(), 2, "what changes nothing is not on record");
    assert_eq!(labelled[0].detail, "role=db site-");

    let bad = LabelHostRequest { name: "web-1".into(), set: set(&[("a b", "c")]), remove: vec![] };
    assert_eq!(hosts.label(bad).await.unwrap_err().code(), Code::InvalidArgument);
    let status = hosts.get(GetHostRequest { name: "web-2".into() }).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert!(status.message().contains("did you mean web-1?"), "{status:?}");
    assert!(status.message().contains("shoal host list"), "{status:?}");
}
