//! From a context to a channel: address, TCP, TLS, HTTP/2.
//!
//! Way in: [`connect`]. The first connection is made here and not by tonic, so that each way in
//! which it can fail has a name and a remedy. In TLS 1.3 a server refuses a client's certificate
//! only after the client thinks that all is well; so the stream keeps what TLS says later, too,
//! in [`Faults`], where [`crate::client`] finds it.

mod address;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use shoal_tls::{
    Faults, HandshakeProblem, ReloadError, ReloadableIdentity, Roots, RootsError, Watched,
    client_config, diagnose,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::context::Context;
pub(crate) use address::Address;

/// How long connecting may take in all: finding the address, TCP and TLS.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A silent connection is asked for a sign of life this often, and given up after this long.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// Bytes that the controller may send in one call ahead of what is read of it.
const STREAM_WINDOW: u32 = 256 << 10;
/// Calls that may all have sent so much. Logs of many instances are read in the order of their
/// times: those that have to wait must not hold up the one that is waited for.
const STREAMS: u32 = 256;

/// Why there is no connection to the controller.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error(
        "{text:?} is not the address of a controller; write HOST:PORT in the context, such as \
         shoal.example.org:7443"
    )]
    Address { text: String },
    #[error(
        "the CA certificate of the context cannot be used; copy the context from its source again"
    )]
    Roots {
        #[source]
        source: RootsError,
    },
    #[error(
        "the certificate or key of the context cannot be used; copy the context from its source \
         again"
    )]
    Identity {
        #[source]
        source: Box<ReloadError>,
    },
    #[error(
        "cannot find the controller: the name {host} has no address; check the context and DNS"
    )]
    Resolve {
        host: String,
        #[source]
        source: io::Error,
    },
    #[error(
        "the controller at {address} refused the connection: nothing listens there; is \
         shoal-controller running, and is it the port of the API?"
    )]
    Refused { address: Address },
    #[error(
        "the controller at {address} did not answer within {seconds} s; check the address, \
         firewalls, and whether it is up"
    )]
    TimedOut { address: Address, seconds: u64 },
    #[error("cannot connect to the controller at {address}; check the address and the network")]
    Io {
        address: Address,
        #[source]
        source: io::Error,
    },
    #[error("cannot connect to the controller at {address}: {problem}")]
    Certificate { address: Address, problem: Box<HandshakeProblem> },
    #[error("cannot connect to the controller at {address}: {problem}")]
    NotAController { address: Address, problem: Box<HandshakeProblem> },
    #[error("the connection to the controller at {address} broke off before it was secured")]
    Handshake {
        address: Address,
        #[source]
        source: io::Error,
    },
}

/// A channel to a controller, with what TLS said on the way.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) channel: Channel,
    pub(crate) faults: Faults,
    pub(crate) address: Address,
}

/// Connects to the controller of a context. The channel connects again by itself where the
/// connection breaks.
pub(crate) async fn connect(
    context: &Context,
    limit: Duration,
) -> Result<Connection, ConnectError> {
    let dialler = Dialler::new(context, limit.min(CONNECT_TIMEOUT))?;
    let (address, faults) = (dialler.address.clone(), dialler.faults.clone());
    let first = Arc::new(Mutex::new(Some(dialler.dial().await?)));
    let dialler = Arc::new(dialler);
    let connector = tower::service_fn(move |_: Uri| {
        let (first, dialler) = (Arc::clone(&first), Arc::clone(&dialler));
        async move {
            let ready = first.lock().unwrap_or_else(PoisonError::into_inner).take();
            let stream = match ready {
                Some(stream) => stream,
                None => dialler.dial().await?,
            };
            Ok::<_, ConnectError>(TokioIo::new(stream))
        }
    });
    let channel = endpoint(&address)?.connect_with_connector_lazy(connector);
    Ok(Connection { channel, faults, address })
}

fn endpoint(address: &Address) -> Result<Endpoint, ConnectError> {
    let endpoint = Endpoint::from_shared(format!("https://{address}"))
        .map_err(|_| ConnectError::Address { text: address.to_string() })?;
    Ok(endpoint
        .user_agent(concat!("shoal/", env!("CARGO_PKG_VERSION")))
        .expect("the version is plain ASCII")
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(STREAM_WINDOW * STREAMS))
}

/// All that it takes to open one more stream to the controller.
struct Dialler {
    address: Address,
    server_name: ServerName<'static>,
    tls: TlsConnector,
    faults: Faults,
    limit: Duration,
}

impl Dialler {
    fn new(context: &Context, limit: Duration) -> Result<Self, ConnectError> {
        let address: Address = context.controller.parse()?;
        let roots =
            Roots::from_pem(&context.ca).map_err(|source| ConnectError::Roots { source })?;
        let identity = ReloadableIdentity::from_pem(&context.certificate, &context.key)
            .map_err(|source| ConnectError::Identity { source: Box::new(source) })?;
        let server_name = ServerName::try_from(address.host().to_owned())
            .map_err(|_| ConnectError::Address { text: context.controller.clone() })?;
        let tls = TlsConnector::from(client_config(&roots, &identity));
        Ok(Self { address, server_name, tls, faults: Faults::default(), limit })
    }

    async fn dial(&self) -> Result<Watched<TlsStream<TcpStream>>, ConnectError> {
        let dialled = tokio::time::timeout(self.limit, self.dial_slowly()).await;
        dialled.unwrap_or_else(|_| {
            let (address, seconds) = (self.address.clone(), self.limit.as_secs());
            Err(ConnectError::TimedOut { address, seconds })
        })
    }

    async fn dial_slowly(&self) -> Result<Watched<TlsStream<TcpStream>>, ConnectError> {
        let tcp = self.reach().await?;
        // Small requests should not wait for each other; a failure only makes them slower.
        let _ = tcp.set_nodelay(true);
        let secured = self.tls.connect(self.server_name.clone(), tcp).await;
        let stream = secured.map_err(|error| self.handshake(error))?;
        Ok(Watched::new(stream, self.faults.clone()))
    }

    /// Tries every address of the name.
    async fn reach(&self) -> Result<TcpStream, ConnectError> {
        let host = self.address.host();
        let none = |source| ConnectError::Resolve { host: host.to_owned(), source };
        let found = tokio::net::lookup_host((host, self.address.port())).await.map_err(none)?;
        let mut last = None;
        for address in found {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = Some(error),
            }
        }
        let source = last.ok_or_else(|| none(io::ErrorKind::NotFound.into()))?;
        let address = self.address.clone();
        Err(match source.kind() {
            io::ErrorKind::ConnectionRefused => ConnectError::Refused { address },
            _ => ConnectError::Io { address, source },
        })
    }

    fn handshake(&self, error: io::Error) -> ConnectError {
        let address = self.address.clone();
        match diagnose(&error).map(Box::new) {
            Some(problem) if is_about_certificates(&problem) => {
                ConnectError::Certificate { address, problem }
            }
            Some(problem) => ConnectError::NotAController { address, problem },
            None => ConnectError::Handshake { address, source: error },
        }
    }
}

/// Whether the other side is a TLS server that one of the two does not trust.
fn is_about_certificates(problem: &HandshakeProblem) -> bool {
    match problem {
        HandshakeProblem::NotTls | HandshakeProblem::NoHttp2 => false,
        HandshakeProblem::Pin(_)
        | HandshakeProblem::ServerName { .. }
        | HandshakeProblem::UnknownCa
        | HandshakeProblem::Expired
        | HandshakeProblem::NotYetValid
        | HandshakeProblem::BadCertificate { .. }
        | HandshakeProblem::CertificateRequired
        | HandshakeProblem::OwnCaUnknown
        | HandshakeProblem::OwnExpired
        | HandshakeProblem::OwnRefused { .. } => true,
    }
}

#[cfg(test)]
mod tests;
