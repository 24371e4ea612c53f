//! What comes, of all instances, as it comes. Each has a stream of its own, which is opened anew
//! when it breaks: the host reboots, the controller restarts.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use shoal_core::cause::chain;
use shoal_proto::v1::{LogEntry, LogFilter};
use tokio::sync::mpsc;

use super::printer::Show;
use super::{ALL, Asked, Read, Source, conclude};
use crate::client::{Client, RemoteError};
use crate::clock;
use crate::commands::outage::Outage;
use crate::commands::seen::Seen;
use crate::exit::{Exit, Failure};

/// Entries that wait to be written. Few: the hosts can wait with them.
const WAITING: usize = 64;

/// Who is gone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Party {
    Controller,
    Host(String),
}

impl Party {
    /// Who has to come back after this; `None` where that would not help.
    fn missing(error: &RemoteError, source: &Source) -> Option<Self> {
        if error.is_lost() {
            return Some(Self::Controller);
        }
        error.is_offline().then(|| Self::Host(source.host.clone()))
    }

    fn name(&self) -> &str {
        match self {
            Self::Controller => "the controller",
            Self::Host(host) => host,
        }
    }
}

/// What a follower has to say.
enum Told {
    Entry(usize, LogEntry),
    Gone(Party),
    Back(Party),
    /// It ends for good, and others go on.
    Ended(String),
}

/// Shows what comes until nothing can come any more, which is never a good end.
pub(super) async fn show(
    client: &Client,
    asked: &Asked,
    read: Vec<Read>,
    shown: &mut impl Show,
) -> Result<Exit, Failure> {
    let all = read.len();
    let (told, mut heard) = mpsc::channel(WAITING);
    let mut away = BTreeSet::new();
    let started_us = clock::now().0.saturating_mul(1000);
    let mut followers = Vec::new();
    for (at, Read { source, seen, failed }) in read.into_iter().enumerate() {
        let follower = Follower { client, asked, at, source, seen, started_us, told: told.clone() };
        let missing = failed.as_ref().and_then(|error| Party::missing(error, &follower.source));
        if let (Some(error), Some(party)) = (&failed, &missing) {
            shown.note(&format!("{}; waiting for it", chain(error)));
            away.insert(party.clone());
        }
        followers.push(follower.run(failed.filter(|_| missing.is_none()), missing));
    }
    drop(told);
    let mut followers = std::pin::pin!(join_all(followers));
    let mut failed = None;
    while failed.is_none() {
        // What is heard comes first, and what was not yet heard stays in the channel.
        tokio::select! {
            biased;
            Some(told) = heard.recv() => take(told, &mut away, shown)?,
            ended = &mut followers => failed = Some(ended),
        }
    }
    while let Ok(told) = heard.try_recv() {
        take(told, &mut away, shown)?;
    }
    conclude(failed.unwrap_or_default(), all)
}

/// Several followers miss the same host, which is told once.
fn take(told: Told, away: &mut BTreeSet<Party>, shown: &mut impl Show) -> Result<(), Failure> {
    match told {
        Told::Entry(at, entry) => shown.entry(at, entry)?,
        Told::Gone(party) => {
            let note = format!("{} is gone; waiting for it", party.name());
            if away.insert(party) {
                shown.note(&note);
            }
        }
        Told::Back(party) => {
            if away.remove(&party) {
                shown.note(&format!("{} is back", party.name()));
            }
        }
        Told::Ended(why) => shown.note(&why),
    }
    Ok(())
}

/// Who is missing, and for how long.
struct Absence {
    party: Option<Party>,
    outage: Outage,
}

struct Follower<'a> {
    client: &'a Client,
    asked: &'a Asked,
    at: usize,
    source: Source,
    seen: Seen,
    /// When following began.
    started_us: u64,
    told: mpsc::Sender<Told>,
}

impl Follower<'_> {
    /// Follows until that can't go on. `failed` is a failure that is already there, `missing` who
    /// was not there at the start.
    async fn run(mut self, failed: Option<RemoteError>, missing: Option<Party>) -> RemoteError {
        if let Some(error) = failed {
            return self.end(error).await;
        }
        let outage = missing.as_ref().map_or_else(Outage::default, |_| Outage::already());
        let mut absence = Absence { party: missing, outage };
        loop {
            if let Err(error) = self.once(&mut absence).await {
                let Some(party) = Party::missing(&error, &self.source) else {
                    return self.end(error).await;
                };
                if party == Party::Controller && absence.outage.is_hopeless() {
                    return error;
                }
                if absence.party.as_ref() != Some(&party) {
                    // Whoever was missing answers now, and misses another.
                    self.back(&mut absence).await;
                    absence.party = Some(party.clone());
                }
                if absence.outage.goes_on() {
                    self.tell(Told::Gone(party)).await;
                }
            }
            absence.outage.pause().await;
        }
    }

    /// Whoever was missing is there.
    async fn back(&self, absence: &mut Absence) {
        let was_told = absence.outage.is_over();
        if let Some(party) = absence.party.take().filter(|_| was_told) {
            self.tell(Told::Back(party)).await;
        }
    }

    async fn end(&self, error: RemoteError) -> RemoteError {
        self.tell(Told::Ended(format!("error: {}", chain(&error)))).await;
        error
    }

    /// One stream, until it ends: without an error where the host's side did.
    async fn once(&mut self, absence: &mut Absence) -> Result<(), RemoteError> {
        let doing = self.source.doing();
        let request = self.next_asked().request(&self.source, true);
        let opened = self.client.instances().logs(request).await;
        let mut stream = opened.map_err(self.client.refused_for_host(&doing))?.into_inner();
        self.back(absence).await;
        loop {
            let entry = stream.message().await.map_err(self.client.refused_for_host(&doing))?;
            let Some(entry) = entry else { return Ok(()) };
            if self.seen.take(entry.time_us, &(&entry.source, &entry.message)) {
                self.tell(Told::Entry(self.at, entry)).await;
            }
        }
    }

    /// What is asked for next: all since what was shown last.
    fn next_asked(&self) -> Asked {
        let Asked { lines, filter } = self.asked.clone();
        let now_us = clock::now().0.saturating_mul(1000);
        let from = match (self.seen.since(now_us), lines) {
            (Some(shown), _) => shown,
            (None, 0) => self.started_us,
            // Nothing was shown yet, as where the host was away from the start: as was asked.
            (None, lines) => return Asked { lines, filter },
        };
        let since_us = filter.since_us.max(Some(from));
        Asked { lines: ALL, filter: LogFilter { since_us, ..filter } }
    }

    async fn tell(&self, told: Told) {
        // Where nobody hears it, this is about to be dropped.
        let _ = self.told.send(told).await;
    }
}
