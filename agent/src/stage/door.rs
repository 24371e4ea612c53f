//! The way in for other hosts: TCP and TLS under a deadline, agents only.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use shoal_tls::{CertificateInfo, Identity as Name, TrustDomain, diagnose};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;
use tracing::{debug, info, warn};

/// Connections at a time, those in a handshake included. One more is dropped: who is turned away
/// asks the next host.
const CONNECTIONS: usize = 16;
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// The pause after what could not be accepted.
const AGAIN: Duration = Duration::from_secs(1);

/// A connection of another host's agent.
#[derive(Debug)]
pub(super) struct Conn {
    tls: TlsStream<TcpStream>,
    /// Whose agent it is.
    name: Name,
    _slot: OwnedSemaphorePermit,
}

/// Lets agents of `domain` in, and hands their connections on, until nobody takes them any more.
pub(super) async fn accept(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    domain: TrustDomain,
    ready: mpsc::Sender<io::Result<Conn>>,
) {
    let (acceptor, slots) = (TlsAcceptor::from(tls), Arc::new(Semaphore::new(CONNECTIONS)));
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "cannot accept a connection of another host");
                tokio::time::sleep(AGAIN).await;
                continue;
            }
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            debug!(%from, "too many hosts at a time");
            continue;
        };
        if ready.is_closed() {
            return;
        }
        let (acceptor, domain, ready) = (acceptor.clone(), domain.clone(), ready.clone());
        tokio::spawn(async move {
            match timeout(HANDSHAKE, open(stream, &acceptor, &domain)).await {
                Ok(Ok((tls, name))) => {
                    let _ = ready.send(Ok(Conn { tls, name, _slot: slot })).await;
                }
                Ok(Err(why)) => info!(%from, why, "a host was turned away"),
                Err(_) => info!(%from, "a host took too long to say who it is"),
            }
        });
    }
}

async fn open(
    stream: TcpStream,
    acceptor: &TlsAcceptor,
    domain: &TrustDomain,
) -> Result<(TlsStream<TcpStream>, Name), String> {
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let tls = acceptor.accept(stream).await;
    let tls = tls.map_err(|error| match diagnose(&error) {
        Some(problem) => problem.to_string(),
        None => error.to_string(),
    })?;
    let leaf = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let leaf = leaf.ok_or("it shows no certificate")?;
    let name = CertificateInfo::from_der(leaf).map_err(|error| crate::chain(&error))?.identity;
    if name.agent_id().is_none() || name.trust_domain() != domain {
        return Err(format!("{name} is not the agent of a host of {domain}"));
    }
    Ok((tls, name))
}

/// Whom a call is from.
#[derive(Debug, Clone)]
pub(super) struct Caller(pub(super) Name);

impl Connected for Conn {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        Caller(self.name.clone())
    }
}

impl AsyncRead for Conn {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for Conn {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}

/// Where others are to find this host, for the log.
pub(super) async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address).await?;
    info!(%address, "images are served to other hosts");
    Ok(listener)
}
