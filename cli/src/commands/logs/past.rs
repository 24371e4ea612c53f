//! What there is, of all instances, oldest first. An entry of each is held in memory, and what is
//! on its way in the connection; the hosts wait with the rest.

use futures_util::future::join_all;
use shoal_proto::v1::LogEntry;
use tonic::Streaming;

use super::printer::Show;
use super::{Asked, Read, Source};
use crate::client::{Client, RemoteError};
use crate::commands::seen::Seen;
use crate::exit::Failure;

/// Shows it. How far each was read is in the order of `sources`.
pub(super) async fn show(
    client: &Client,
    asked: &Asked,
    sources: Vec<Source>,
    shown: &mut impl Show,
) -> Result<Vec<Read>, Failure> {
    let opened = sources.into_iter().map(|source| Reading::open(client, asked, source));
    let mut all = join_all(opened).await;
    loop {
        for reading in &mut all {
            reading.fill(client).await;
        }
        let heads = all.iter_mut().enumerate().filter(|(_, reading)| reading.head.is_some());
        let oldest = heads.min_by_key(|(_, reading)| reading.head.as_ref().map(|e| e.time_us));
        let Some((at, reading)) = oldest else { break };
        if let Some(entry) = reading.head.take() {
            reading.read.seen.take(entry.time_us, &(&entry.source, &entry.message));
            shown.entry(at, entry)?;
        }
    }
    Ok(all.into_iter().map(|reading| reading.read).collect())
}

struct Reading {
    read: Read,
    /// `None` at its end.
    stream: Option<Streaming<LogEntry>>,
    head: Option<LogEntry>,
}

impl Reading {
    async fn open(client: &Client, asked: &Asked, source: Source) -> Self {
        let opened = client.instances().logs(asked.request(&source, false)).await;
        let opened = opened.map_err(client.refused_for_host(source.doing()));
        let (stream, failed) = match opened {
            Ok(stream) => (Some(stream.into_inner()), None),
            Err(error) => (None, Some(error)),
        };
        Self { read: Read { source, seen: Seen::default(), failed }, stream, head: None }
    }

    /// Waits for the next entry or the end.
    async fn fill(&mut self, client: &Client) {
        let Some(stream) = self.stream.as_mut().filter(|_| self.head.is_none()) else { return };
        match stream.message().await {
            Ok(Some(entry)) => self.head = Some(entry),
            Ok(None) => self.stream = None,
            Err(status) => {
                let refused: RemoteError =
                    client.refused_for_host(self.read.source.doing())(status);
                (self.stream, self.read.failed) = (None, Some(refused));
            }
        }
    }
}
