//! A stream that remembers what TLS said when it broke, which HTTP/2 would swallow.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use shoal_tls::{HandshakeProblem, diagnose};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The last thing that TLS complained of, on any connection of one channel.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults(Arc<Mutex<Option<HandshakeProblem>>>);

impl Faults {
    /// What TLS complained of, if anything.
    pub(crate) fn last(&self) -> Option<HandshakeProblem> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn note(&self, error: &io::Error) {
        if let Some(problem) = diagnose(error) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(problem);
        }
    }
}

/// A stream whose failures are noted.
#[derive(Debug)]
pub(super) struct Watched<S> {
    stream: S,
    faults: Faults,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S, faults: Faults) -> Self {
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
