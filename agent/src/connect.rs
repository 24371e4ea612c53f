//! Channels to the controller: TCP, TLS by rustls, HTTP/2 by tonic.

use std::error::Error as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use shoal_tls::{Faults, HandshakeProblem, Watched, diagnose};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tonic::transport::{Channel, Endpoint, Uri};

/// How long one attempt to connect may take, handshake included.
const DEADLINE: Duration = Duration::from_secs(10);
/// How often a quiet connection is tested, and how long the answer may take.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(10));

/// Why there is no channel. The texts tell what to do.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConnectError {
    /// The address makes no sense.
    #[error("{address:?} is no address of a controller; write HOST or HOST:PORT")]
    Address {
        /// What was given.
        address: String,
    },
    /// Nothing answers there.
    #[error(
        "can't reach the controller at {address}: {reason}; is shoal-controller running there, \
         and does a firewall let this host through?"
    )]
    Unreachable {
        /// Where.
        address: String,
        /// Why.
        reason: String,
    },
    /// Whoever answers is not who they should be, or does not take us for who we are.
    #[error("the controller at {address} and this host do not trust each other: {reason}")]
    Trust {
        /// Where.
        address: String,
        /// Why.
        reason: String,
    },
    /// It was there and is no more.
    #[error("the connection to the controller broke: {reason}")]
    Broken {
        /// How.
        reason: String,
    },
}

impl ConnectError {
    /// What became of the connection under a call; `None` where the controller itself answered
    /// with `status`.
    #[must_use]
    pub fn under(status: &tonic::Status) -> Option<Self> {
        let first = status.source()?;
        let mut next = Some(first);
        while let Some(error) = next {
            if let Some(ours) = error.downcast_ref::<Self>() {
                return Some(ours.clone());
            }
            next = error.source();
        }
        let reason =
            diagnose(first).map_or_else(|| crate::chain(first), |problem| problem.to_string());
        Some(Self::Broken { reason })
    }
}

/// A channel, and what TLS says under it.
#[derive(Debug)]
pub struct Connection {
    /// For calls.
    pub channel: Channel,
    /// The address of our end.
    pub local: Option<IpAddr>,
    address: String,
    faults: Faults,
}

impl Connection {
    /// As [`ConnectError::under`], for the first calls: a controller that does not take our
    /// certificate says so only after the handshake, and HTTP/2 loses its words.
    #[must_use]
    pub fn lost(&self, status: &tonic::Status) -> Option<ConnectError> {
        let error = ConnectError::under(status)?;
        Some(match self.faults.last() {
            Some(problem) => distrust(self.address.clone(), &problem),
            None => error,
        })
    }
}

/// Why a call failed: what the controller said, or what became of the connection.
#[must_use]
pub fn reason(status: &tonic::Status) -> String {
    ConnectError::under(status).map_or_else(|| status.message().to_owned(), |e| crate::chain(&e))
}

/// Opens a channel to `host:port`. Made at once, so that what is wrong is told at once.
///
/// # Errors
/// Where it can't be reached, or the handshake fails.
pub async fn connect(
    host: &str,
    port: u16,
    tls: Arc<ClientConfig>,
) -> Result<Connection, ConnectError> {
    let address = format!("{host}:{port}");
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| ConnectError::Address { address: address.clone() })?;
    let late = || ConnectError::Unreachable {
        address: address.clone(),
        reason: format!("no answer within {DEADLINE:?}"),
    };
    // The first connection is made here, where its error still has its type; tonic gets it
    // ready-made and asks for another only after it has broken.
    let faults = Faults::default();
    let first = dial(&address, name.clone(), tls.clone(), faults.clone());
    let (first, local) = tokio::time::timeout(DEADLINE, first).await.map_err(|_| late())??;
    let first = Arc::new(std::sync::Mutex::new(Some(first)));
    let uri: Uri = format!("https://{address}")
        .parse()
        .map_err(|_| ConnectError::Address { address: address.clone() })?;
    let (called, noted) = (address.clone(), faults.clone());
    let endpoint = Endpoint::from(uri)
        .http2_keep_alive_interval(KEEPALIVE.0)
        .keep_alive_timeout(KEEPALIVE.1)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(2 << 20)
        .initial_connection_window_size(4 << 20);
    let connector = tower::service_fn(move |_: Uri| {
        let (first, address, faults) = (first.clone(), address.clone(), faults.clone());
        async move {
            let taken = first.lock().ok().and_then(|mut first| first.take());
            // A broken channel is not mended here: the link makes a new one, and says so.
            let broken = || match faults.last() {
                Some(problem) => distrust(address, &problem),
                None => ConnectError::Broken { reason: "the other side closed it".into() },
            };
            taken.map(TokioIo::new).ok_or_else(broken)
        }
    });
    match endpoint.connect_with_connector(connector).await {
        Ok(channel) => Ok(Connection { channel, local, address: called, faults: noted }),
        Err(error) => {
            Err(ConnectError::Unreachable { address: called, reason: crate::chain(&error) })
        }
    }
}

type Dialled = Watched<tokio_rustls::client::TlsStream<TcpStream>>;

async fn dial(
    address: &str,
    name: ServerName<'static>,
    tls: Arc<ClientConfig>,
    faults: Faults,
) -> Result<(Dialled, Option<IpAddr>), ConnectError> {
    let unreachable = |error: std::io::Error| ConnectError::Unreachable {
        address: address.to_owned(),
        reason: error.to_string(),
    };
    let stream = TcpStream::connect(address).await.map_err(unreachable)?;
    stream.set_nodelay(true).map_err(unreachable)?;
    let local = stream.local_addr().ok().map(|address| address.ip());
    let secured = TlsConnector::from(tls).connect(name, stream).await;
    let stream = secured.map_err(|error| match diagnose(&error) {
        Some(problem) => distrust(address.to_owned(), &problem),
        None => unreachable(error),
    })?;
    Ok((Watched::new(stream, faults), local))
}

fn distrust(address: String, problem: &HandshakeProblem) -> ConnectError {
    ConnectError::Trust { address, reason: problem.to_string() }
}

/// Splits `HOST[:PORT]`.
///
/// # Errors
/// Where it is neither.
pub fn split_address(address: &str, default_port: u16) -> Result<(String, u16), ConnectError> {
    let invalid = || ConnectError::Address { address: address.to_owned() };
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            (host, port.parse().map_err(|_| invalid())?)
        }
        _ => (address, default_port),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() || ServerName::try_from(host.to_owned()).is_err() {
        return Err(invalid());
    }
    Ok((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_default_port() {
        let split = |text| split_address(text, 7444).unwrap();
        assert_eq!(split("controller"), ("controller".into(), 7444));
        assert_eq!(split("10.0.0.1:1"), ("10.0.0.1".into(), 1));
        assert_eq!(split("[::1]:5"), ("::1".into(), 5));
        for bad in ["", ":1", "host:port", "a b"] {
            assert!(split_address(bad, 1).is_err(), "{bad:?}");
        }
    }
}
