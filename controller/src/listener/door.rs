//! From an accepted socket to a known peer that speaks HTTP/2, or a refusal.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use shoal_tls::{CertificateInfo, CertificateInfoError, diagnose};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::Setup;
use super::conn::{Conn, ConnectInfo};
use super::connections::Connections;

/// What every HTTP/2 client sends first (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long a refused peer's leftovers are read, so that it gets the reason and not a reset.
const LINGER: Duration = Duration::from_secs(1);
/// How much of them.
const LINGER_BYTES: u64 = 64 * 1024;

/// Why a peer was not let in.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the socket failed")]
    Socket(#[source] io::Error),
    #[error("the TLS handshake failed")]
    Handshake(#[source] io::Error),
    #[error("the TLS handshake took longer than {0:?}")]
    HandshakeTimeout(Duration),
    #[error("the connection ended before the HTTP/2 preface was complete")]
    PrefaceEnd(#[source] io::Error),
    #[error("the HTTP/2 preface took longer than {0:?}")]
    PrefaceTimeout(Duration),
    #[error("the client does not speak HTTP/2")]
    NotHttp2,
    #[error("the client's certificate names nobody")]
    Nobody(#[source] CertificateInfoError),
    #[error("there are {0} connections already; raise max_connections if they are wanted")]
    Full(usize),
    #[error("{0} is not admitted: its access was revoked")]
    NotAdmitted(String),
}

impl Refusal {
    /// One line for the operator; port scans and probes only when asked for.
    pub(super) fn log(&self, peer: SocketAddr) {
        let cause = std::error::Error::source(self).map(|source| {
            diagnose(source).map_or_else(|| source.to_string(), |problem| problem.to_string())
        });
        match self {
            Self::Handshake(_) | Self::Nobody(_) | Self::Full(_) | Self::NotAdmitted(_) => {
                tracing::info!(%peer, reason = %self, cause, "connection refused");
            }
            Self::Socket(_)
            | Self::HandshakeTimeout(_)
            | Self::PrefaceEnd(_)
            | Self::PrefaceTimeout(_)
            | Self::NotHttp2 => {
                tracing::debug!(%peer, reason = %self, cause, "connection refused");
            }
        }
    }
}

/// What every connection has to pass.
#[derive(Debug)]
pub(super) struct Door {
    setup: Setup,
    connections: Connections,
    slots: Arc<Semaphore>,
}

impl Door {
    pub(super) fn new(setup: Setup, connections: Connections) -> Self {
        let slots = Arc::new(Semaphore::new(setup.limits.max_connections));
        Self { setup, connections, slots }
    }

    /// Takes at most the two deadlines and the time to linger.
    pub(super) async fn open(&self, stream: TcpStream, peer: SocketAddr) -> Result<Conn, Refusal> {
        stream.set_nodelay(true).map_err(Refusal::Socket)?;
        let mut tls = self.handshake(stream).await?;
        let client = client_of(&tls).map_err(Refusal::Nobody)?;
        self.preface(&mut tls).await?;
        self.enter(tls, ConnectInfo { peer_addr: peer, client })
    }

    async fn handshake(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, Refusal> {
        let config = Arc::clone(&self.setup.tls.borrow());
        let deadline = self.setup.limits.handshake_timeout;
        let accepting = TlsAcceptor::from(config).accept(stream).into_fallible();
        match timeout(deadline, accepting).await {
            Ok(Ok(tls)) => Ok(tls),
            Ok(Err((error, stream))) => {
                linger(stream).await;
                Err(Refusal::Handshake(error))
            }
            Err(_) => Err(Refusal::HandshakeTimeout(deadline)),
        }
    }

    /// Reads the whole preface, which the server gets again from [`Conn`]: a client that stops
    /// in the middle of it would otherwise outlive every keepalive.
    async fn preface(&self, tls: &mut TlsStream<TcpStream>) -> Result<(), Refusal> {
        let deadline = self.setup.limits.first_bytes_timeout;
        let mut first = [0; PREFACE.len()];
        match timeout(deadline, tls.read_exact(&mut first)).await {
            Ok(Ok(_)) if &first == PREFACE => Ok(()),
            Ok(Ok(_)) => Err(Refusal::NotHttp2),
            Ok(Err(error)) => Err(Refusal::PrefaceEnd(error)),
            Err(_) => Err(Refusal::PrefaceTimeout(deadline)),
        }
    }

    fn enter(&self, tls: TlsStream<TcpStream>, info: ConnectInfo) -> Result<Conn, Refusal> {
        let limit = self.setup.limits.max_connections;
        let slot = Arc::clone(&self.slots).try_acquire_owned().map_err(|_| Refusal::Full(limit))?;
        // Registered first and asked about afterwards: see `Admit`.
        let registration = self.connections.register(info.clone());
        if !(self.setup.admit)(&info) {
            let name = info.identity().map_or_else(|| "a peer".to_owned(), ToString::to_string);
            return Err(Refusal::NotAdmitted(name));
        }
        Ok(Conn::new(tls, PREFACE.to_vec(), info, registration, slot))
    }
}

fn client_of(tls: &TlsStream<TcpStream>) -> Result<Option<CertificateInfo>, CertificateInfoError> {
    let chain = tls.get_ref().1.peer_certificates();
    chain.and_then(|chain| chain.first()).map(|leaf| CertificateInfo::from_der(leaf)).transpose()
}

/// Closing a socket with unread bytes resets the connection, and a client that is reset may never
/// read the TLS alert that says why.
async fn linger(mut stream: TcpStream) {
    let leftovers = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(LINGER_BYTES), &mut tokio::io::sink()).await
    };
    // Best effort: the peer is refused whether it listens or not.
    let _ = timeout(LINGER, leftovers).await;
}
