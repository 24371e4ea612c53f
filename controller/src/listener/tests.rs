//! Real sockets on loopback. Deadlines are short here and real: the paused clock would run ahead
//! of the kernel's.
#![allow(
    clippy::disallowed_methods,
    reason = "rustls checks dates against the system's clock, so the certificates must fit it"
)]

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustls_pki_types::ServerName;
use shoal_tls::{
    Ca, HandshakeProblem, Identity, LeafKey, ReloadableIdentity, Roots, anonymous_client_config,
    client_config, diagnose, enrol_server_config, server_config,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_stream::StreamExt;
use tonic::transport::server::Connected;

use super::*;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// An empty SETTINGS frame.
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
const HOUR: Duration = Duration::from_secs(3600);
/// Short enough to wait for.
const SHORT: Duration = Duration::from_millis(300);
/// Long enough that reaching it means that nothing happened.
const PATIENCE: Duration = Duration::from_secs(10);

fn identity(path: &str) -> Identity {
    format!("spiffe://x/{path}").parse().unwrap()
}

fn ca() -> Ca {
    Ca::generate(&"x".parse().unwrap(), SystemTime::now(), 24 * HOUR).unwrap()
}

fn roots(ca: &Ca) -> Roots {
    Roots::from_pem(ca.cert_pem()).unwrap()
}

fn controller(ca: &Ca) -> ReloadableIdentity {
    let names = ["127.0.0.1".to_owned()];
    let server =
        ca.issue_server(&identity("controller/c"), &names, SystemTime::now(), HOUR).unwrap();
    ReloadableIdentity::from_pem(&server.certificate.chain_pem, &server.key.to_pem()).unwrap()
}

fn client_of(ca: &Ca, path: &str) -> Arc<ClientConfig> {
    let key = LeafKey::generate().unwrap();
    let csr = key.csr_der().unwrap();
    let issued = ca.issue(&csr, &identity(path), SystemTime::now(), HOUR).unwrap();
    let own = ReloadableIdentity::from_pem(&issued.chain_pem, &key.to_pem()).unwrap();
    client_config(&roots(ca), &own)
}

/// A listener with the parts that tests turn.
struct Stand {
    ca: Ca,
    listener: Listener,
    tls: watch::Sender<Arc<ServerConfig>>,
    admits: Arc<AtomicBool>,
    now: Arc<Mutex<SystemTime>>,
    shutdown: CancellationToken,
}

fn stand(limits: Limits) -> Stand {
    let ca = ca();
    let config = server_config(&controller(&ca), &roots(&ca));
    stand_with(ca, config, limits)
}

fn stand_with(ca: Ca, config: Arc<ServerConfig>, limits: Limits) -> Stand {
    let (tls, receiver) = watch::channel(config);
    let admits = Arc::new(AtomicBool::new(true));
    let now = Arc::new(Mutex::new(SystemTime::now()));
    let (admitting, clock) = (Arc::clone(&admits), Arc::clone(&now));
    let setup = Setup {
        tls: receiver,
        limits,
        clock: Arc::new(move || *clock.lock().unwrap()),
        admit: Arc::new(move |_| admitting.load(Ordering::SeqCst)),
    };
    let shutdown = CancellationToken::new();
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), setup, &shutdown).unwrap();
    Stand { ca, listener, tls, admits, now, shutdown }
}

fn short() -> Limits {
    Limits { handshake_timeout: SHORT, first_bytes_timeout: SHORT, ..Limits::default() }
}

impl Stand {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.listener.local_addr()).await.unwrap()
    }

    async fn greet(&self, config: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from("127.0.0.1").unwrap();
        TlsConnector::from(config).connect(name, self.connect().await).await
    }

    /// A client that does everything right.
    async fn call(&self, path: &str) -> TlsStream<TcpStream> {
        let mut tls = self.greet(client_of(&self.ca, path)).await.unwrap();
        tls.write_all(PREFACE).await.unwrap();
        tls
    }

    async fn next(&mut self) -> Conn {
        timeout(PATIENCE, self.listener.next()).await.unwrap().unwrap().unwrap()
    }

    async fn assert_gives_out_nothing(&mut self) {
        let item = timeout(SHORT, self.listener.next()).await;
        assert!(item.is_err(), "{item:?}");
    }
}

/// Waits for the other side to end the connection.
async fn ended<S: tokio::io::AsyncRead + Unpin>(stream: &mut S) -> io::Result<()> {
    let mut byte = [0];
    match timeout(PATIENCE, stream.read(&mut byte)).await.expect("the connection lives on") {
        Ok(0) => Ok(()),
        Ok(_) => panic!("there was data"),
        Err(error) => Err(error),
    }
}

#[tokio::test]
async fn a_known_peer_comes_with_its_identity_and_all_its_bytes() {
    let mut stand = stand(Limits::default());
    let mut client = stand.call("agent/h1").await;
    client.write_all(b"more").await.unwrap();
    let mut conn = stand.next().await;

    let info = conn.connect_info();
    assert_eq!(info.identity(), Some(&identity("agent/h1")));
    assert_eq!(info.peer_addr, client.get_ref().0.local_addr().unwrap());
    assert!(info.client.unwrap().not_after > SystemTime::now());
    let mut received = vec![0; PREFACE.len() + 4];
    conn.read_exact(&mut received).await.unwrap();
    assert_eq!(received, [PREFACE, b"more"].concat());
    conn.write_all(b"answer").await.unwrap();
    conn.flush().await.unwrap();
    let mut answer = [0; 6];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"answer");
}

#[tokio::test]
async fn silent_clients_are_dropped_and_delay_nobody() {
    let mut stand =
        stand(Limits { handshake_timeout: Duration::from_secs(2), ..Limits::default() });
    let began = Instant::now();
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(stand.connect().await);
    }
    let _client = stand.call("agent/h1").await;
    stand.next().await;
    assert!(began.elapsed() < Duration::from_secs(2), "waited for the silent ones");
    for stream in &mut silent {
        // However it ends, it ends.
        let _ = ended(stream).await;
    }
    assert!(began.elapsed() >= Duration::from_secs(2), "dropped before the deadline");
}

#[tokio::test]
async fn after_the_handshake_silence_is_dropped_too() {
    let mut stand = stand(short());
    for part in [0, 1, PREFACE.len() - 1] {
        let mut client = stand.greet(client_of(&stand.ca, "agent/h1")).await.unwrap();
        client.write_all(&PREFACE[..part]).await.unwrap();
        let _ = ended(&mut client).await;
    }
    stand.assert_gives_out_nothing().await;
}

#[tokio::test]
async fn other_protocols_are_dropped() {
    let mut stand = stand(Limits::default());
    let mut client = stand.greet(client_of(&stand.ca, "user/ann")).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let _ = ended(&mut client).await;
    let mut plain = stand.connect().await;
    plain.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, plain.read_to_end(&mut rest)).await.expect("it lives on");
    stand.assert_gives_out_nothing().await;
}

/// Writes as an HTTP/2 client would that does not know of the refusal yet: the second write meets
/// a server that has long decided.
async fn refusal(stand: &Stand, config: Arc<ClientConfig>) -> HandshakeProblem {
    let mut client = stand.greet(config).await.unwrap();
    client.write_all(PREFACE).await.unwrap();
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        client.write_all(SETTINGS).await.expect("reset before the reason was read");
    }
    let error = ended(&mut client).await.expect_err("closed without a reason");
    diagnose(&error).unwrap_or_else(|| panic!("not diagnosed: {error:?}"))
}

#[tokio::test]
async fn refused_certificates_get_the_reason() {
    let mut stand = stand(Limits::default());
    let other = ca();
    let key = LeafKey::generate().unwrap();
    let issued = other
        .issue(&key.csr_der().unwrap(), &identity("agent/h1"), SystemTime::now(), HOUR)
        .unwrap();
    let foreign = ReloadableIdentity::from_pem(&issued.chain_pem, &key.to_pem()).unwrap();
    let without = anonymous_client_config(&roots(&stand.ca));
    assert_eq!(refusal(&stand, without).await, HandshakeProblem::CertificateRequired);
    let another = client_config(&roots(&stand.ca), &foreign);
    assert_eq!(refusal(&stand, another).await, HandshakeProblem::OwnCaUnknown);
    stand.assert_gives_out_nothing().await;
}

#[tokio::test]
async fn the_enrolment_port_knows_nobody() {
    let ca = ca();
    let config = enrol_server_config(&controller(&ca));
    let mut stand = stand_with(ca, config, Limits::default());
    let mut client = stand.greet(anonymous_client_config(&roots(&stand.ca))).await.unwrap();
    client.write_all(PREFACE).await.unwrap();
    assert_eq!(stand.next().await.connect_info().client, None);
}

#[tokio::test]
async fn one_connection_too_many_is_dropped_until_another_ends() {
    let mut stand = stand(Limits { max_connections: 1, ..Limits::default() });
    let _first = stand.call("agent/h1").await;
    let held = stand.next().await;

    let mut second = stand.call("agent/h2").await;
    let _ = ended(&mut second).await;
    stand.assert_gives_out_nothing().await;

    drop(held);
    let _third = stand.call("agent/h3").await;
    assert_eq!(stand.next().await.connect_info().identity(), Some(&identity("agent/h3")));
}

#[tokio::test]
async fn one_address_cannot_hold_all_handshakes() {
    let limits = Limits { max_handshakes_per_peer: 2, ..Limits::default() };
    let stand = stand(limits);
    let began = Instant::now();
    let _held = [stand.connect().await, stand.connect().await];
    let _ = ended(&mut stand.connect().await).await;
    assert!(began.elapsed() < limits.handshake_timeout, "it was only timed out");
}

#[tokio::test]
async fn with_all_handshakes_taken_newcomers_wait() {
    let mut stand = stand(Limits { max_handshakes: 1, ..short() });
    let _silent = stand.connect().await;
    let _client = stand.call("agent/h1").await;
    assert_eq!(stand.next().await.connect_info().identity(), Some(&identity("agent/h1")));
}

#[tokio::test]
async fn cutting_an_identity_ends_its_connections_at_once() {
    let mut stand = stand(Limits::default());
    let mut revoked = stand.call("agent/h1").await;
    let mut conn = stand.next().await;
    let _other = stand.call("agent/h2").await;
    let other = stand.next().await;
    let mut preface = [0; PREFACE.len()];
    conn.read_exact(&mut preface).await.unwrap();

    // The server waits for bytes that never come, as it does for an idle agent.
    let waiting = tokio::spawn(async move { conn.read(&mut [0]).await });
    tokio::task::yield_now().await;
    let connections = stand.listener.connections();
    assert_eq!(connections.cut_identity(&identity("agent/h1")), 1);

    let error = timeout(PATIENCE, waiting).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    let _ = ended(&mut revoked).await;
    assert_eq!(connections.list(), [other.connect_info()]);
}

#[tokio::test]
async fn a_cut_ends_a_stuck_write() {
    let mut stand = stand(Limits::default());
    let _deaf = stand.call("agent/h1").await;
    let mut conn = stand.next().await;
    let writing = tokio::spawn(async move {
        let chunk = vec![0; 1 << 20];
        loop {
            if let Err(error) = conn.write_all(&chunk).await {
                return error;
            }
        }
    });
    tokio::time::sleep(SHORT).await;
    assert!(!writing.is_finished(), "the client that never reads took everything");
    stand.listener.connections().cut_all();
    let error = timeout(PATIENCE, writing).await.unwrap().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
}

#[tokio::test]
async fn expired_certificates_end_their_connections() {
    let mut stand = stand(Limits::default());
    let mut client = stand.call("agent/h1").await;
    let mut conn = stand.next().await;
    let served = tokio::spawn(async move { conn.read_to_end(&mut Vec::new()).await });
    *stand.now.lock().unwrap() += 2 * HOUR;
    let _ = ended(&mut client).await;
    assert!(served.await.unwrap().is_err());
}

#[tokio::test]
async fn the_revoked_are_not_admitted() {
    let mut stand = stand(Limits::default());
    stand.admits.store(false, Ordering::SeqCst);
    let mut client = stand.call("agent/h1").await;
    let _ = ended(&mut client).await;
    stand.assert_gives_out_nothing().await;
    assert!(stand.listener.connections().is_empty());
}

#[tokio::test]
async fn another_configuration_is_for_the_next_handshake() {
    let mut stand = stand(Limits::default());
    let other = ca();
    stand.tls.send(server_config(&controller(&other), &roots(&other))).unwrap();
    assert!(stand.greet(client_of(&stand.ca, "agent/h1")).await.is_err());
    let mut client = stand.greet(client_of(&other, "agent/h1")).await.unwrap();
    client.write_all(PREFACE).await.unwrap();
    stand.next().await;
}

#[tokio::test]
async fn shutdown_ends_the_stream_and_frees_the_port() {
    let mut stand = stand(Limits::default());
    let _client = stand.call("agent/h1").await;
    let conn = stand.next().await;
    let _silent = stand.connect().await;
    stand.shutdown.cancel();
    let end = timeout(PATIENCE, stand.listener.next()).await.unwrap();
    assert!(end.is_none());
    assert!(TcpStream::connect(stand.listener.local_addr()).await.is_err());
    assert_eq!(stand.listener.connections().len(), 1, "a live connection is the server's to end");
    drop(conn);
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let stand = stand(Limits::default());
    let taken = stand.listener.local_addr();
    let (_tls, receiver) = watch::channel(enrol_server_config(&controller(&stand.ca)));
    let setup = Setup {
        tls: receiver,
        limits: Limits::default(),
        clock: Arc::new(SystemTime::now),
        admit: Arc::new(|_| true),
    };
    let error = Listener::bind(taken, setup, &stand.shutdown).unwrap_err();
    assert!(error.to_string().contains(&taken.to_string()), "{error}");
}

#[tokio::test]
async fn tonic_serves_and_loses_a_cut_connection() {
    let stand = stand(Limits::default());
    let mut client = stand.call("agent/h1").await;
    client.write_all(SETTINGS).await.unwrap();
    let (connections, shutdown) = (stand.listener.connections(), stand.shutdown.clone());
    let (_health, service) = tonic_health::server::health_reporter();
    let serving = tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming_shutdown(stand.listener, shutdown.cancelled_owned()),
    );

    let mut header = [0; 9];
    timeout(PATIENCE, client.read_exact(&mut header)).await.unwrap().unwrap();
    assert_eq!(header[3], 4, "the first frame is no SETTINGS: {header:?}");
    assert_eq!(connections.cut_identity(&identity("agent/h1")), 1);
    let rest = timeout(PATIENCE, client.read_to_end(&mut Vec::new())).await;
    assert!(rest.is_ok(), "the connection lives on");
    stand.shutdown.cancel();
    timeout(PATIENCE, serving).await.unwrap().unwrap().unwrap();
}

/// What the kernel says when the process has no file descriptors left.
#[derive(Clone, Default)]
struct Exhausted {
    attempts: Arc<AtomicUsize>,
}

impl Accept for Exhausted {
    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        self.attempts.fetch_add(1, Ordering::SeqCst);
        Err(io::Error::from_raw_os_error(24))
    }
}

#[tokio::test]
async fn without_file_descriptors_it_does_not_spin() {
    let (_tls, receiver) = watch::channel(enrol_server_config(&controller(&ca())));
    let setup = Setup {
        tls: receiver,
        limits: Limits::default(),
        clock: Arc::new(SystemTime::now),
        admit: Arc::new(|_| true),
    };
    let source = Exhausted::default();
    let attempts = Arc::clone(&source.attempts);
    let address = "127.0.0.1:1".parse().unwrap();
    let _listener = Listener::start(source, address, setup, &CancellationToken::new());
    tokio::time::sleep(Duration::from_millis(500)).await;
    // Pauses of 50, 100, 200 and 400 ms.
    let made = attempts.load(Ordering::SeqCst);
    assert!((1..=4).contains(&made), "{made} attempts");
}
