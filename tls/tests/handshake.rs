//! Real handshakes between the configurations of both ends.
#![allow(
    clippy::disallowed_methods,
    reason = "rustls checks dates against the system's clock, so the certificates must fit it"
)]
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests; clippy only exempts the tests themselves"
)]

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::{ClientConfig, HandshakeKind, ProtocolVersion, ServerConfig};
use rustls_pki_types::ServerName;
use shoal_tls::{
    Ca, CertificateInfo, Fingerprint, HandshakeProblem, Identity, JoinToken, LeafKey, PinError,
    ReloadableIdentity, Roots, anonymous_client_config, client_config, diagnose,
    enrol_server_config, join_client_config, server_config,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const HOUR: Duration = Duration::from_secs(3600);
const NAME: &str = "controller.test";

fn identity(path: &str) -> Identity {
    format!("spiffe://shoal.test/{path}").parse().unwrap()
}

fn ca() -> Ca {
    Ca::generate(&"shoal.test".parse().unwrap(), SystemTime::now() - 48 * HOUR, 480 * HOUR).unwrap()
}

fn roots(ca: &Ca) -> Roots {
    Roots::from_pem(ca.cert_pem()).unwrap()
}

fn agent_at(ca: &Ca, path: &str, issued: SystemTime) -> ReloadableIdentity {
    let key = LeafKey::generate().unwrap();
    let csr = key.csr_der().unwrap();
    let issued = ca.issue(&csr, &identity(path), issued, HOUR).unwrap();
    ReloadableIdentity::from_pem(&issued.chain_pem, &key.to_pem()).unwrap()
}

fn agent(ca: &Ca) -> ReloadableIdentity {
    agent_at(ca, "agent/h1", SystemTime::now())
}

fn controller_at(ca: &Ca, issued: SystemTime) -> ReloadableIdentity {
    let names = [NAME.to_owned(), "127.0.0.1".to_owned()];
    let server = ca.issue_server(&identity("controller/c"), &names, issued, HOUR).unwrap();
    ReloadableIdentity::from_pem(&server.certificate.chain_pem, &server.key.to_pem()).unwrap()
}

fn controller(ca: &Ca) -> ReloadableIdentity {
    controller_at(ca, SystemTime::now())
}

/// What a server saw of one client.
#[derive(Debug, PartialEq)]
struct Seen {
    agent: Option<String>,
    received: String,
    kind: Option<HandshakeKind>,
}

/// Accepts one client, reads its five bytes and answers with five.
async fn serve<S>(config: Arc<ServerConfig>, stream: S) -> io::Result<Seen>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut tls = TlsAcceptor::from(config).accept(stream).await?;
    let connection = tls.get_ref().1;
    assert_eq!(connection.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(connection.alpn_protocol(), Some(b"h2".as_slice()));
    let kind = connection.handshake_kind();
    let agent = connection
        .peer_certificates()
        .map(|chain| CertificateInfo::from_der(&chain[0]).unwrap().identity.subject().to_string());
    let mut received = [0; 5];
    tls.read_exact(&mut received).await?;
    tls.write_all(b"hello").await?;
    tls.shutdown().await?;
    Ok(Seen { agent, received: String::from_utf8(received.into()).unwrap(), kind })
}

async fn call<S>(config: Arc<ClientConfig>, name: &str, stream: S) -> io::Result<String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut tls = TlsConnector::from(config).connect(name, stream).await?;
    tls.write_all(b"howdy").await?;
    let mut answer = [0; 5];
    tls.read_exact(&mut answer).await?;
    Ok(String::from_utf8(answer.into()).unwrap())
}

async fn meet_as(
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    name: &str,
) -> (io::Result<Seen>, io::Result<String>) {
    let (here, there) = tokio::io::duplex(64 * 1024);
    tokio::join!(serve(server, there), call(client, name, here))
}

async fn meet(
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
) -> (io::Result<Seen>, io::Result<String>) {
    meet_as(server, client, NAME).await
}

fn problem<T: std::fmt::Debug>(result: io::Result<T>) -> HandshakeProblem {
    let error = result.expect_err("the handshake went through");
    diagnose(&error).unwrap_or_else(|| panic!("not diagnosed: {error:?}"))
}

#[tokio::test]
async fn both_sides_know_each_other_over_tcp() {
    let ca = ca();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = server_config(&controller(&ca), &roots(&ca));
    let client = client_config(&roots(&ca), &agent(&ca));

    let served = async { serve(server, listener.accept().await?.0).await };
    let called = async { call(client, "127.0.0.1", TcpStream::connect(address).await?).await };
    let (seen, answer) = tokio::join!(served, called);

    let seen = seen.unwrap();
    assert_eq!((seen.agent.as_deref(), seen.received.as_str()), (Some("agent/h1"), "howdy"));
    assert_eq!(answer.unwrap(), "hello");
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let ca = ca();
    let server = server_config(&controller(&ca), &roots(&ca));
    let (seen, answer) = meet(server, anonymous_client_config(&roots(&ca))).await;
    assert!(seen.is_err());
    assert_eq!(problem(answer), HandshakeProblem::CertificateRequired);
}

#[tokio::test]
async fn a_client_of_another_ca_is_refused() {
    let (ours, other) = (ca(), ca());
    let server = server_config(&controller(&ours), &roots(&ours));
    let (seen, answer) = meet(server, client_config(&roots(&ours), &agent(&other))).await;
    assert_eq!(problem(seen), HandshakeProblem::UnknownCa);
    assert_eq!(problem(answer), HandshakeProblem::OwnCaUnknown);
}

#[tokio::test]
async fn an_expired_client_is_refused() {
    let ca = ca();
    let expired = agent_at(&ca, "agent/h1", SystemTime::now() - 2 * HOUR);
    let server = server_config(&controller(&ca), &roots(&ca));
    let (seen, answer) = meet(server, client_config(&roots(&ca), &expired)).await;
    assert_eq!(problem(seen), HandshakeProblem::Expired);
    assert_eq!(problem(answer), HandshakeProblem::OwnExpired);
}

#[tokio::test]
async fn a_server_of_another_ca_is_refused() {
    let (ours, other) = (ca(), ca());
    let server = server_config(&controller(&other), &roots(&ours));
    let (seen, answer) = meet(server, client_config(&roots(&ours), &agent(&ours))).await;
    assert!(seen.is_err());
    assert_eq!(problem(answer), HandshakeProblem::UnknownCa);
}

#[tokio::test]
async fn an_expired_server_is_refused() {
    let ca = ca();
    let expired = controller_at(&ca, SystemTime::now() - 2 * HOUR);
    let server = server_config(&expired, &roots(&ca));
    let (_, answer) = meet(server, client_config(&roots(&ca), &agent(&ca))).await;
    assert_eq!(problem(answer), HandshakeProblem::Expired);
}

#[tokio::test]
async fn a_server_under_another_name_is_refused() {
    let ca = ca();
    let server = server_config(&controller(&ca), &roots(&ca));
    let client = client_config(&roots(&ca), &agent(&ca));
    let (_, answer) = meet_as(server, client, "elsewhere.test").await;
    let HandshakeProblem::ServerName { expected, presented } = problem(answer) else {
        panic!("another problem");
    };
    assert_eq!(expected, "elsewhere.test");
    assert!(presented.contains(&NAME.to_owned()), "{presented:?}");
    assert!(!presented.iter().any(|name| name.contains("spiffe:")), "{presented:?}");
}

#[tokio::test]
async fn an_agents_certificate_makes_no_server() {
    let ca = ca();
    let server = server_config(&agent(&ca), &roots(&ca));
    let (_, answer) = meet(server, client_config(&roots(&ca), &agent(&ca))).await;
    assert!(matches!(problem(answer), HandshakeProblem::BadCertificate { .. }));
}

#[tokio::test]
async fn a_token_leads_to_its_controller() {
    let ca = ca();
    let token = JoinToken::generate(ca.spki_sha256()).unwrap().to_string();
    let token: JoinToken = token.parse().unwrap();
    let server = enrol_server_config(&controller(&ca));
    let (seen, answer) = meet(server, join_client_config(token.ca_spki_sha256())).await;
    assert_eq!(seen.unwrap().agent, None);
    assert_eq!(answer.unwrap(), "hello");
}

#[tokio::test]
async fn another_pin_ends_the_handshake_before_any_data() {
    let (ours, other) = (ca(), ca());
    let server = enrol_server_config(&controller(&other));
    let (seen, answer) = meet(server, join_client_config(ours.spki_sha256())).await;
    // The server never got through its handshake, so there was nothing it could decrypt.
    assert!(seen.is_err(), "{seen:?}");
    let found = HandshakeProblem::Pin(PinError::OtherCa {
        pinned: Fingerprint(ours.spki_sha256()),
        shown: vec![Fingerprint(other.spki_sha256())],
    });
    assert_eq!(problem(answer), found);
}

#[tokio::test]
async fn showing_the_pinned_ca_is_not_enough() {
    let (ours, forger) = (ca(), ca());
    let forged = forger
        .issue_server(&identity("controller/c"), &[NAME.to_owned()], SystemTime::now(), HOUR)
        .unwrap();
    let leaf = forged.certificate.chain_pem.replace(forger.cert_pem(), "");
    let chain = format!("{leaf}{}", ours.cert_pem());
    let server = ReloadableIdentity::from_pem(&chain, &forged.key.to_pem()).unwrap();
    let client = join_client_config(ours.spki_sha256());
    let (seen, answer) = meet(enrol_server_config(&server), client).await;
    assert!(seen.is_err());
    assert_eq!(problem(answer), HandshakeProblem::UnknownCa);
}

#[tokio::test]
async fn a_joining_host_checks_the_name_too() {
    let ca = ca();
    let server = enrol_server_config(&controller(&ca));
    let (seen, answer) =
        meet_as(server, join_client_config(ca.spki_sha256()), "elsewhere.test").await;
    assert!(seen.is_err());
    assert!(matches!(problem(answer), HandshakeProblem::ServerName { .. }));
}

#[tokio::test]
async fn an_expired_agent_still_reaches_the_enrolment_port() {
    let ca = ca();
    let server = enrol_server_config(&controller(&ca));
    let (seen, answer) = meet(server, anonymous_client_config(&roots(&ca))).await;
    assert_eq!(seen.unwrap().agent, None);
    assert_eq!(answer.unwrap(), "hello");
}

#[tokio::test]
async fn reloads_reach_configurations_that_exist() {
    let ca = ca();
    let (theirs, ours) = (
        controller_at(&ca, SystemTime::now() - 2 * HOUR),
        agent_at(&ca, "agent/old", SystemTime::now()),
    );
    let server = server_config(&theirs, &roots(&ca));
    let client = client_config(&roots(&ca), &ours);
    let (_, answer) = meet(Arc::clone(&server), Arc::clone(&client)).await;
    assert_eq!(problem(answer), HandshakeProblem::Expired);

    let names = [NAME.to_owned()];
    let fresh =
        ca.issue_server(&identity("controller/c"), &names, SystemTime::now(), HOUR).unwrap();
    theirs.reload(&fresh.certificate.chain_pem, &fresh.key.to_pem()).unwrap();
    let key = LeafKey::generate().unwrap();
    let csr = key.csr_der().unwrap();
    let new = ca.issue(&csr, &identity("agent/new"), SystemTime::now(), HOUR).unwrap();
    ours.reload(&new.chain_pem, &key.to_pem()).unwrap();

    let (seen, answer) = meet(server, client).await;
    assert_eq!(seen.unwrap().agent.as_deref(), Some("agent/new"));
    assert_eq!(answer.unwrap(), "hello");
}

#[tokio::test]
async fn two_cas_are_trusted_during_a_rotation() {
    let (old, new) = (ca(), ca());
    let both = Roots::from_pem(&format!("{}{}", old.cert_pem(), new.cert_pem())).unwrap();
    for (server_ca, client_ca) in [(&old, &new), (&new, &old)] {
        let server = server_config(&controller(server_ca), &both);
        let (seen, answer) = meet(server, client_config(&both, &agent(client_ca))).await;
        assert!(seen.is_ok() && answer.is_ok(), "{seen:?} {answer:?}");
    }
}

#[tokio::test]
async fn every_connection_is_a_full_handshake() {
    let ca = ca();
    let server = server_config(&controller(&ca), &roots(&ca));
    let client = client_config(&roots(&ca), &agent(&ca));
    for _ in 0..3 {
        let (seen, _) = meet(Arc::clone(&server), Arc::clone(&client)).await;
        assert_eq!(seen.unwrap().kind, Some(HandshakeKind::Full));
    }
}
