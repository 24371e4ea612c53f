//! One connection whose peer is known.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use shoal_tls::{CertificateInfo, Identity};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::transport::server::Connected;

use super::connections::Registration;

/// Who is at the other end; tonic puts it into each request's extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectInfo {
    /// The TCP peer.
    pub peer_addr: SocketAddr,
    /// What its verified certificate says; none on the enrolment port.
    pub client: Option<CertificateInfo>,
}

impl ConnectInfo {
    /// The proven identity; none on the enrolment port.
    pub fn identity(&self) -> Option<&Identity> {
        self.client.as_ref().map(|client| &client.identity)
    }
}

/// A TLS stream that gives back the bytes read to check it, and ends when it is cut.
pub struct Conn {
    tls: TlsStream<TcpStream>,
    replay: Replay,
    info: ConnectInfo,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    _registration: Registration,
    _slot: OwnedSemaphorePermit,
}

impl Conn {
    pub(super) fn new(
        tls: TlsStream<TcpStream>,
        first_bytes: Vec<u8>,
        info: ConnectInfo,
        registration: Registration,
        slot: OwnedSemaphorePermit,
    ) -> Self {
        let cut = Box::pin(registration.cut().clone().cancelled_owned());
        let replay = Replay { bytes: first_bytes, at: 0 };
        Self { tls, replay, info, cut, _registration: registration, _slot: slot }
    }

    /// Asked before each read and write, so that whichever the connection's task waits for, a cut
    /// wakes it.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.cut.as_mut().poll(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(()) => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the controller ended this connection",
            )),
        }
    }
}

impl fmt::Debug for Conn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conn").field("info", &self.info).finish_non_exhaustive()
    }
}

impl Connected for Conn {
    type ConnectInfo = ConnectInfo;

    fn connect_info(&self) -> ConnectInfo {
        self.info.clone()
    }
}

impl AsyncRead for Conn {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        if self.replay.fill(buf) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for Conn {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.tls).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}

/// Bytes that were read ahead of the server.
#[derive(Debug)]
struct Replay {
    bytes: Vec<u8>,
    at: usize,
}

impl Replay {
    /// Moves what is left into `buf`; `false` when nothing was left.
    fn fill(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let left = self.bytes.get(self.at..).unwrap_or_default();
        if left.is_empty() {
            return false;
        }
        let part = left.get(..buf.remaining()).unwrap_or(left);
        buf.put_slice(part);
        self.at += part.len();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replay_comes_in_pieces_and_ends() {
        let mut replay = Replay { bytes: b"preface".to_vec(), at: 0 };
        let mut seen = Vec::new();
        loop {
            let mut storage = [0; 3];
            let mut buf = ReadBuf::new(&mut storage);
            if !replay.fill(&mut buf) {
                break;
            }
            seen.extend_from_slice(buf.filled());
        }
        assert_eq!(seen, b"preface");
    }
}
