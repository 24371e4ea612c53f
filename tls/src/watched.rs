//! A stream that remembers what TLS said when it broke, which HTTP/2 would swallow.
//!
//! Way in: [`Watched`]. In TLS 1.3 a server's refusal of the client's certificate comes after the
//! client's handshake has ended, and so in the midst of its first request.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::problem::{HandshakeProblem, diagnose};

/// The last thing that TLS complained of, on any connection of one channel.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Mutex<Option<HandshakeProblem>>>);

impl Faults {
    /// What TLS complained of, if anything.
    pub fn last(&self) -> Option<HandshakeProblem> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, error: &io::Error) {
        if let Some(problem) = diagnose(error) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(problem);
        }
    }
}

/// A stream whose failures are noted.
#[derive(Debug)]
pub struct Watched<S> {
    stream: S,
    faults: Faults,
}

impl<S> Watched<S> {
    /// Notes the failures of `stream` in `faults`.
    pub fn new(stream: S, faults: Faults) -> Self {
        Self { stream, faults }
    }

    fn note<T>(&self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &polled {
            self.faults.note(error);
        }
        polled
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.note(polled)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note(polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.note(polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
