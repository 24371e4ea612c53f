//! Several journals as one stream.

use std::collections::VecDeque;

use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{ALL, Entries, Entry, JournalError, MOST_LINES};

type Out = mpsc::Sender<Result<Entry, JournalError>>;

/// The last `lines` of all readers together, by time. Of [`ALL`], only one entry of each reader is
/// held at a time.
///
/// # Errors
/// The first error of a reader, after all that the others gave.
pub(super) async fn past(readers: Vec<Entries>, lines: u32, out: &Out) -> Result<(), JournalError> {
    let mut heads = Heads::of(readers);
    let mut last = VecDeque::new();
    let kept = usize::try_from(lines.min(MOST_LINES)).unwrap_or(usize::MAX);
    while let Some(entry) = heads.next().await {
        if lines == ALL {
            if out.send(Ok(entry)).await.is_err() {
                return Ok(());
            }
            continue;
        }
        last.push_back(entry);
        if last.len() > kept {
            last.pop_front();
        }
    }
    for entry in last {
        if out.send(Ok(entry)).await.is_err() {
            return Ok(());
        }
    }
    heads.failed.map_or(Ok(()), Err)
}

/// The next entry of each reader.
struct Heads {
    readers: Vec<(Option<Entry>, Entries)>,
    failed: Option<JournalError>,
}

impl Heads {
    fn of(readers: Vec<Entries>) -> Self {
        Self { readers: readers.into_iter().map(|reader| (None, reader)).collect(), failed: None }
    }

    /// The oldest of them; `None` at the end of all.
    async fn next(&mut self) -> Option<Entry> {
        let mut at = 0;
        while let Some((head, reader)) = self.readers.get_mut(at) {
            if head.is_none() {
                match reader.recv().await {
                    Some(Ok(entry)) => *head = Some(entry),
                    Some(Err(error)) => {
                        self.failed.get_or_insert(error);
                        continue;
                    }
                    None => {
                        self.readers.swap_remove(at);
                        continue;
                    }
                }
            }
            at += 1;
        }
        let oldest = self.readers.iter_mut().min_by_key(|(head, _)| head.as_ref().map(|e| e.time));
        oldest.and_then(|(head, _)| head.take())
    }
}

/// What the readers give, as it comes. Ends with whoever takes it, or when no reader is left.
///
/// # Errors
/// The first error of a reader.
pub(super) async fn as_it_comes(readers: Vec<Entries>, out: &Out) -> Result<(), JournalError> {
    let mut all = futures_util::stream::select_all(readers.into_iter().map(ReceiverStream::new));
    loop {
        // Both can be dropped: an entry that is not taken stays in its channel.
        let entry = tokio::select! {
            () = out.closed() => return Ok(()),
            entry = all.next() => entry,
        };
        let Some(entry) = entry else { return Ok(()) };
        if out.send(Ok(entry?)).await.is_err() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(time: u64) -> Entry {
        Entry { time, source: String::new(), priority: 6, message: String::new() }
    }

    async fn readers(of: &[&[u64]]) -> Vec<Entries> {
        let mut readers = Vec::new();
        for times in of {
            let (sender, receiver) = mpsc::channel(8);
            for time in *times {
                sender.send(Ok(entry(*time))).await.unwrap();
            }
            readers.push(receiver);
        }
        readers
    }

    async fn merged(readers: Vec<Entries>, lines: u32) -> (Vec<u64>, Result<(), JournalError>) {
        let (sender, mut receiver) = mpsc::channel(16);
        let ended = past(readers, lines, &sender).await;
        drop(sender);
        let mut times = Vec::new();
        while let Some(entry) = receiver.recv().await {
            times.push(entry.unwrap().time);
        }
        (times, ended)
    }

    #[tokio::test]
    async fn several_journals_are_one_by_time() {
        let journals: [&[u64]; 3] = [&[1, 4, 9], &[2, 3, 8], &[]];
        assert_eq!(merged(readers(&journals).await, 4).await.0, [3, 4, 8, 9]);
        assert_eq!(merged(readers(&journals).await, ALL).await.0, [1, 2, 3, 4, 8, 9]);
        assert!(merged(readers(&journals).await, 0).await.0.is_empty());
        assert!(merged(vec![], ALL).await.0.is_empty());
    }

    #[tokio::test]
    async fn a_journal_that_cant_be_read_does_not_hide_the_others() {
        let mut journals = readers(&[&[1, 4]]).await;
        let (sender, receiver) = mpsc::channel(8);
        sender.send(Err(JournalError::Refused("bad".into()))).await.unwrap();
        drop(sender);
        journals.insert(0, receiver);
        let (times, ended) = merged(journals, ALL).await;
        assert_eq!(times, [1, 4]);
        assert_eq!(ended.unwrap_err().to_string(), "journalctl: bad");
    }

    #[tokio::test]
    async fn what_comes_goes_through_until_nobody_takes_it() {
        let (sender, mut receiver) = mpsc::channel(16);
        let (journal, waiting) = mpsc::channel(8);
        let following =
            tokio::spawn(async move { as_it_comes(vec![waiting], &sender).await.is_ok() });
        journal.send(Ok(entry(7))).await.unwrap();
        assert_eq!(receiver.recv().await.unwrap().unwrap().time, 7);
        drop(receiver);
        assert!(following.await.unwrap());
    }
}
