//! The way in from the network: TCP, TLS and the first bytes of HTTP/2, each under a deadline.
//!
//! Way in: [`Listener::bind`], whose stream of [`Conn`]s is for tonic's
//! `serve_with_incoming_shutdown`. Each connection has proven whom it belongs to before tonic
//! sees it, and [`Connections`] can end it at any time.
//!
//! Deliberately absent: what a peer may call (that is decided for each call), and HTTP/2's own
//! keepalive and stream limits (tonic's builder has them, and needs both set).

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_rustls::rustls::ServerConfig;
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, DropGuard};

mod backoff;
mod conn;
mod connections;
mod door;
mod peers;
#[cfg(test)]
mod tests;

pub use conn::{Conn, ConnectInfo};
pub use connections::Connections;

use backoff::AcceptBackoff;
use door::Door;
use peers::{PeerSlot, PeerSlots};

/// Waiting connections in the kernel, beyond those in a handshake.
const BACKLOG: u32 = 1024;
/// Connections that are ready and not yet taken by the server. Small: each still holds its
/// handshake slot, so a server that does not keep up slows the accepting down.
const READY: usize = 16;
/// How often certificates of live connections are compared with the clock.
const EXPIRY_SWEEP: Duration = Duration::from_secs(1);

/// The wall clock, handed in by the program's edge.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Says whether a peer with a proven identity may connect: `false` for what is revoked. It is
/// asked after the connection is registered, so a revocation that is recorded first and then cuts
/// misses no connection that is just being made.
pub type Admit = Arc<dyn Fn(&ConnectInfo) -> bool + Send + Sync>;

/// Why the controller cannot listen.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot {step} {addr}; is another program using the port, or is the address not this host's?"
)]
pub struct ListenError {
    step: &'static str,
    addr: SocketAddr,
    #[source]
    source: io::Error,
}

/// What one listener allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections past their handshake. One more is dropped.
    pub max_connections: usize,
    /// Connections before the end of their handshake. One more waits in the kernel.
    pub max_handshakes: usize,
    /// The same for each peer address. One more is dropped, so that a single silent peer cannot
    /// use up the handshakes of all.
    pub max_handshakes_per_peer: usize,
    /// From the TCP connection to the end of the TLS handshake.
    pub handshake_timeout: Duration,
    /// From there to the end of the HTTP/2 preface.
    pub first_bytes_timeout: Duration,
    /// How long a connection may outlive its client's certificate. Agents renew long before.
    pub expiry_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 8192,
            max_handshakes: 256,
            max_handshakes_per_peer: 64,
            handshake_timeout: Duration::from_secs(5),
            first_bytes_timeout: Duration::from_secs(5),
            expiry_grace: Duration::from_secs(60),
        }
    }
}

/// What a listener is made of.
#[derive(Clone)]
pub struct Setup {
    /// The configuration for the next handshake; send another to change roots.
    pub tls: watch::Receiver<Arc<ServerConfig>>,
    /// Numbers and deadlines.
    pub limits: Limits,
    /// For the expiry of certificates.
    pub clock: Clock,
    /// For revocation.
    pub admit: Admit,
}

impl fmt::Debug for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setup").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// A stream of connections whose peers are known. Dropping it stops the listening; connections
/// that it gave out live on.
#[derive(Debug)]
pub struct Listener {
    local_addr: SocketAddr,
    connections: Connections,
    ready: mpsc::Receiver<Conn>,
    _stop: DropGuard,
}

impl Listener {
    /// Listens on `addr` and starts accepting, until `shutdown` is cancelled. Has to be called
    /// within a tokio runtime.
    ///
    /// # Errors
    /// [`ListenError`] when the address cannot be had.
    pub fn bind(
        addr: SocketAddr,
        setup: Setup,
        shutdown: &CancellationToken,
    ) -> Result<Self, ListenError> {
        let socket = listen(addr)?;
        let local_addr =
            socket.local_addr().map_err(|source| ListenError { step: "use", addr, source })?;
        Ok(Self::start(socket, local_addr, setup, shutdown))
    }

    fn start<A: Accept>(
        source: A,
        local_addr: SocketAddr,
        setup: Setup,
        shutdown: &CancellationToken,
    ) -> Self {
        let stop = shutdown.child_token();
        let connections = Connections::default();
        let (sender, ready) = mpsc::channel(READY);
        let sweep = sweep(connections.clone(), Arc::clone(&setup.clock), setup.limits.expiry_grace);
        tokio::spawn(stop.clone().run_until_cancelled_owned(sweep));
        let accepting = Accepting {
            handshakes: Arc::new(Semaphore::new(setup.limits.max_handshakes)),
            peers: PeerSlots::new(setup.limits.max_handshakes_per_peer),
            door: Arc::new(Door::new(setup, connections.clone())),
            ready: sender,
            stop: stop.clone(),
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(accepting.run(source)));
        Self { local_addr, connections, ready, _stop: stop.drop_guard() }
    }

    /// The address in use, with the port that the system chose if 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The handle to all connections of this listener.
    pub fn connections(&self) -> Connections {
        self.connections.clone()
    }
}

impl Stream for Listener {
    type Item = io::Result<Conn>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.ready.poll_recv(cx).map(|conn| conn.map(Ok))
    }
}

/// Where connections come from.
trait Accept: Send + 'static {
    fn accept(&mut self) -> impl Future<Output = io::Result<(TcpStream, SocketAddr)>> + Send;
}

impl Accept for TcpListener {
    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        TcpListener::accept(self).await
    }
}

fn listen(addr: SocketAddr) -> Result<TcpListener, ListenError> {
    let fault = |step| move |source| ListenError { step, addr, source };
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }
        .map_err(fault("open a socket for"))?;
    socket.set_reuseaddr(true).map_err(fault("prepare the socket for"))?;
    // Accepted sockets inherit it. HTTP/2's keepalive is quicker; this is for what it misses.
    socket.set_keepalive(true).map_err(fault("prepare the socket for"))?;
    socket.bind(addr).map_err(fault("bind"))?;
    socket.listen(BACKLOG).map_err(fault("listen on"))
}

/// The state of the task that accepts.
struct Accepting {
    handshakes: Arc<Semaphore>,
    peers: PeerSlots,
    door: Arc<Door>,
    ready: mpsc::Sender<Conn>,
    stop: CancellationToken,
}

/// What a connection holds until its handshake is over.
struct Admission {
    _handshake: OwnedSemaphorePermit,
    _peer: PeerSlot,
}

impl Accepting {
    /// Never ends by itself; every await in it may be cancelled.
    async fn run<A: Accept>(self, mut source: A) {
        let mut backoff = AcceptBackoff::default();
        loop {
            // Taken before accepting: at the limit, newcomers wait in the kernel's queue.
            let handshake = Arc::clone(&self.handshakes)
                .acquire_owned()
                .await
                .expect("the semaphore is never closed");
            match source.accept().await {
                Ok((stream, peer)) => {
                    backoff.reset();
                    self.welcome(stream, peer, handshake);
                }
                Err(error) => {
                    let pause = backoff.after(&error);
                    if !pause.is_zero() {
                        tracing::warn!(%error, ?pause, "cannot accept connections");
                    }
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// Brings the handshake to an end in a task of its own, so that no peer waits for another.
    fn welcome(&self, stream: TcpStream, peer: SocketAddr, handshake: OwnedSemaphorePermit) {
        let Some(slot) = self.peers.take(peer.ip()) else {
            tracing::debug!(%peer, "connection dropped: too many unfinished ones from this address");
            return;
        };
        let admission = Admission { _handshake: handshake, _peer: slot };
        let (door, ready) = (Arc::clone(&self.door), self.ready.clone());
        let opening = async move {
            match door.open(stream, peer).await {
                // An error means that the server is gone, and the connection goes with it.
                Ok(conn) => drop(ready.send(conn).await),
                Err(refusal) => refusal.log(peer),
            }
            drop(admission);
        };
        tokio::spawn(self.stop.clone().run_until_cancelled_owned(opening));
    }
}

async fn sweep(connections: Connections, clock: Clock, grace: Duration) {
    let mut ticks = tokio::time::interval(EXPIRY_SWEEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let cut = connections.cut_expired(clock(), grace);
        if cut > 0 {
            tracing::info!(connections = cut, "cut connections with expired certificates");
        }
    }
}
