//! Whether a page answers: one plain HTTP/1.1 question, and up to five redirects on the spot.
//!
//! No TLS, no names, no cookies, no connection that is kept: who needs more asks by a program
//! inside.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::time::Duration;

use ::http::{Request, Response, StatusCode, header};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use shoal_core::spec::HttpUrl;
use tokio::net::TcpStream;

use super::{quoted, tcp};
use crate::host::enter::Container;

/// Redirects that are followed.
const MOST_REDIRECTS: u32 = 5;
/// Bytes of an answer's head; more is an error. The least that hyper takes.
const LARGEST_HEAD: usize = 8192;
/// Bytes of a bad answer's body that are read.
const READ: usize = 1024;
/// How long a bad answer's body may take: what it is bad for is known by then.
const BODY: Duration = Duration::from_millis(500);

/// Asks from within the network of `container`.
pub(super) async fn check(container: &Container, url: &HttpUrl) -> Result<(), String> {
    ask(url, |address| tcp::connect(container, address)).await
}

async fn ask<C, F>(url: &HttpUrl, connect: C) -> Result<(), String>
where
    C: Fn(SocketAddr) -> F,
    F: Future<Output = io::Result<TcpStream>>,
{
    let mut page = Page { address: url.socket_addr(), path: url.path().to_owned() };
    for _ in 0..=MOST_REDIRECTS {
        let connected = connect(page.address).await;
        let stream = connected.map_err(|e| format!("{page} does not accept: {e}"))?;
        match get(&page, stream).await? {
            Answer::Good => return Ok(()),
            Answer::Redirect(location) => page = page.led_to(&location)?,
        }
    }
    Err(format!("{url} redirects more than {MOST_REDIRECTS} times"))
}

/// What was answered, where it is not an error.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Good,
    Redirect(String),
}

/// Asks for `page` over `stream`, which is closed with this future.
async fn get(page: &Page, stream: TcpStream) -> Result<Answer, String> {
    let mut builder = Builder::new();
    let opened = builder.max_buf_size(LARGEST_HEAD).handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = opened.map_err(|e| trouble(page, &e))?;
    let driven = async {
        // What goes wrong with it is told to those who wait for its answer.
        let _ = connection.await;
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        answer = exchange(page, &mut sender) => answer,
        never = driven => match never {},
    }
}

async fn exchange(page: &Page, sender: &mut SendRequest<String>) -> Result<Answer, String> {
    let request = Request::get(page.path.as_str())
        .header(header::HOST, page.host())
        .header(header::USER_AGENT, concat!("shoal-agent/", env!("CARGO_PKG_VERSION")))
        .header(header::ACCEPT, "*/*")
        .header(header::CONNECTION, "close")
        .body(String::new());
    let request = request.map_err(|e| format!("{page} can't be asked for: {e}"))?;
    let answer = sender.send_request(request).await.map_err(|e| trouble(page, &e))?;
    if answer.status().is_success() {
        return Ok(Answer::Good);
    }
    if let Some(location) = location(&answer) {
        return Ok(Answer::Redirect(location));
    }
    let status = answer.status();
    let status = format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or_default());
    let body = quoted(&beginning(answer.into_body()).await);
    let colon = if body.is_empty() { "" } else { ": " };
    Err(format!("{page} answers with {}{colon}{body}", status.trim_end()))
}

/// Where an answer leads, if it is one that leads anywhere.
fn location(answer: &Response<Incoming>) -> Option<String> {
    let leads = matches!(
        answer.status(),
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    );
    let location = answer.headers().get(header::LOCATION).filter(|_| leads)?;
    Some(String::from_utf8_lossy(location.as_bytes()).into_owned())
}

async fn beginning(body: Incoming) -> Vec<u8> {
    let mut read = Vec::new();
    let mut body = pin!(body);
    let reading = async {
        while read.len() < READ
            && let Some(Ok(frame)) = next_frame(body.as_mut()).await
        {
            let data = frame.into_data().unwrap_or_default();
            read.extend_from_slice(&data[..data.len().min(READ - read.len())]);
        }
    };
    // What was read by then is told.
    let _ = tokio::time::timeout(BODY, reading).await;
    read
}

async fn next_frame(
    mut body: Pin<&mut Incoming>,
) -> Option<hyper::Result<hyper::body::Frame<bytes::Bytes>>> {
    std::future::poll_fn(|context| body.as_mut().poll_frame(context)).await
}

/// What went wrong with an exchange, in plain words.
fn trouble(page: &Page, error: &hyper::Error) -> String {
    if error.is_parse() {
        return format!("{page} does not answer in sound HTTP: {error}");
    }
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        return format!("{page} closes the connection without an answer");
    }
    format!("{page} does not answer: {}", shoal_core::cause::chain(error))
}

/// A page of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Page {
    address: SocketAddr,
    /// With its query, from its `/` on.
    path: String,
}

impl std::fmt::Display for Page {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "http://{}{}", self.address, quoted(self.path.as_bytes()))
    }
}

impl Page {
    /// The `Host` header; as browsers do, without the port that is usual.
    fn host(&self) -> String {
        let whole = self.address.to_string();
        whole.strip_suffix(":80").map_or_else(|| whole.clone(), str::to_owned)
    }

    /// The page that `location`, as this page gives it, leads to.
    fn led_to(&self, location: &str) -> Result<Self, String> {
        let elsewhere = || {
            let location = quoted(location.as_bytes());
            format!(
                "{self} redirects to {location:?}, which is no page of {} and is not followed; \
                 give the URL of the page itself, or check it by `exec`",
                self.address
            )
        };
        let url = format!("http://{}{}", self.address, self.resolved(location));
        let url = if is_whole(location) { location.split('#').next() } else { Some(url.as_str()) };
        let url: Option<HttpUrl> = url.and_then(|url| url.parse().ok());
        let url = url.filter(|url| url.socket_addr() == self.address).ok_or_else(elsewhere)?;
        Ok(Self { address: self.address, path: url.path().to_owned() })
    }

    /// The path that a `location` without an address means.
    fn resolved(&self, location: &str) -> String {
        let location = location.split('#').next().unwrap_or_default();
        let path = self.path.split('?').next().unwrap_or_default();
        match location.chars().next() {
            None => self.path.clone(),
            // With an address of its own, which is not looked into.
            Some('/') if location.starts_with("//") => "#".into(),
            Some('/') => location.into(),
            Some('?') => format!("{path}{location}"),
            Some(_) => {
                let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
                format!("{folder}/{location}")
            }
        }
    }
}

/// Whether a location begins with a scheme.
fn is_whole(location: &str) -> bool {
    let scheme = location.split(['/', '?', '#']).next().unwrap_or_default();
    scheme.contains(':')
}

#[cfg(test)]
mod tests;
