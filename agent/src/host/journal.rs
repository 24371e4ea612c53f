//! The journal of an instance: what its unit said on the host, and what a booted system inside
//! wrote into its own journal. Read through `journalctl -o json`.
//!
//! Way in: [`read`]; [`voice`] adds to it. [`reader`] runs journalctl on one journal, [`merge`] makes one stream of
//! several. Following is done in two parts, what there is and then what comes, so that the first
//! is in order whichever journal an entry is in.

mod merge;
mod reader;
pub mod voice;

use std::path::PathBuf;

use shoal_core::name::MachineName;
use shoal_core::spec::Start;
use tokio::sync::mpsc;

use self::reader::{Range, Reader, Source};
use crate::clock;
use crate::paths::Paths;
use crate::record::Record;

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Microseconds since the Unix epoch.
    pub time: u64,
    /// Syslog identifier.
    pub source: String,
    /// Syslog priority, 0 to 7.
    pub priority: u32,
    /// The text.
    pub message: String,
}

/// Whose entries to read, and how many.
#[derive(Debug, Clone)]
pub struct Query {
    /// Whose.
    pub machine: MachineName,
    /// How many of the last ones; [`ALL`] for every one, which then are not held in memory.
    pub lines: u32,
    /// Whether to go on with new ones.
    pub follow: bool,
}

/// Every entry, as [`Query::lines`].
pub const ALL: u32 = u32::MAX;

/// Which of its entries; the default is all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Not older, in microseconds since the Unix epoch.
    pub since: Option<u64>,
    /// Not newer, likewise.
    pub until: Option<u64>,
    /// Of this unit of the system inside; `.service` may be left out.
    pub unit: Option<String>,
    /// Of this syslog priority or worse.
    pub priority: Option<u32>,
    /// With a text that this regular expression matches, as `journalctl --grep` has it.
    pub grep: Option<String>,
}

/// Why entries can't be read, or not all.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// journalctl did not start.
    #[error("can't run journalctl; is systemd installed?")]
    Run(#[source] std::io::Error),
    /// It ended with an error; these are its words.
    #[error("journalctl: {0}")]
    Refused(String),
    /// A unit was asked for, of an instance that boots no system.
    #[error("machine {0} runs one command and has no units inside; leave out --unit")]
    NoUnits(MachineName),
}

/// What a reader gives: entries, and at the end what went wrong, if anything did.
pub type Entries = mpsc::Receiver<Result<Entry, JournalError>>;

/// Entries that may wait between the readers and whoever takes them: enough to keep journalctl
/// busy, and little enough that a slow terminal slows it down instead of filling memory.
const WAITING: usize = 256;
/// Entries of which the last are asked for: they are held in memory.
const MOST_LINES: u32 = 50_000;
/// How far back the part that follows begins, in microseconds: an entry that journald was still
/// writing when the first part was read is then in the second.
const OVERLAP: u64 = 1_000_000;

/// Reads the entries of a machine, oldest first. The stream ends when there are no more, or
/// never when following; dropping it ends the readers.
#[must_use]
pub fn read(paths: &Paths, query: &Query, filter: &Filter) -> Entries {
    let (out, entries) = mpsc::channel(WAITING);
    let (paths, query, filter) = (paths.clone(), query.clone(), filter.clone());
    tokio::spawn(async move {
        if let Err(error) = run(&paths, &query, filter, &out).await {
            // Whoever does not wait for entries needs no reason either.
            let _ = out.send(Err(error)).await;
        }
    });
    entries
}

async fn run(
    paths: &Paths,
    query: &Query,
    filter: Filter,
    out: &mpsc::Sender<Result<Entry, JournalError>>,
) -> Result<(), JournalError> {
    let now = clock::now().0.saturating_mul(1000);
    let Some(parts) = Parts::of(query, filter.since, now) else {
        let readers = readers(paths, query, &filter, Range::Past { lines: query.lines })?;
        return merge::past(readers, query.lines, out).await;
    };
    if let Some(until) = parts.until {
        let past = Filter { until: Some(until), ..filter.clone() };
        let readers = readers(paths, query, &past, Range::Past { lines: query.lines })?;
        merge::past(readers, query.lines, out).await?;
    }
    let coming = Filter { since: Some(parts.since), ..filter };
    merge::as_it_comes(readers(paths, query, &coming, Range::Coming)?, out).await
}

/// The two parts of following.
#[derive(Debug, PartialEq, Eq)]
struct Parts {
    /// The last microsecond of the first; `None` where it is left out.
    until: Option<u64>,
    /// The first of the second.
    since: u64,
}

impl Parts {
    /// `None` where nothing is followed.
    fn of(query: &Query, since: Option<u64>, now: u64) -> Option<Self> {
        if !query.follow {
            return None;
        }
        // Where no old entries are asked for, none shall come by the overlap.
        let cut = if query.lines == 0 { now } else { now.saturating_sub(OVERLAP) };
        let begins = since.unwrap_or(0);
        Some(Self {
            until: (query.lines > 0 && begins <= cut).then_some(cut),
            since: begins.max(cut + 1),
        })
    }
}

/// Reads what a machine's unit and its container's console said on the host's journal.
///
/// # Errors
/// Where journalctl can't be run.
pub fn read_unit(query: &Query) -> Result<mpsc::Receiver<Entry>, JournalError> {
    let source = Source::Unit(query.machine.unit());
    let range = Range::Past { lines: query.lines.min(MOST_LINES) };
    let mut said = Reader::new(source, &Filter::default(), range).start()?;
    let (out, entries) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        while let Some(Ok(entry)) = said.recv().await {
            if out.send(entry).await.is_err() {
                return;
            }
        }
    });
    Ok(entries)
}

fn readers(
    paths: &Paths,
    query: &Query,
    filter: &Filter,
    range: Range,
) -> Result<Vec<Entries>, JournalError> {
    let sources = sources(paths, &query.machine, filter)?;
    sources.into_iter().map(|source| Reader::new(source, filter, range).start()).collect()
}

fn sources(
    paths: &Paths,
    machine: &MachineName,
    filter: &Filter,
) -> Result<Vec<Source>, JournalError> {
    let record = Record::find(paths, machine).ok().flatten();
    let booted = record.is_none_or(|r| r.spec.config.settings.start == Start::Boot);
    let own = own_journal(paths, machine).filter(|_| booted).map(Source::Directory);
    if filter.unit.is_some() {
        // What systemd said of the instance on the host is of no unit inside.
        return if booted {
            Ok(own.into_iter().collect())
        } else {
            Err(JournalError::NoUnits(machine.clone()))
        };
    }
    Ok(match own {
        Some(own) => vec![Source::UnitWithoutConsole(machine.unit()), own],
        None => vec![Source::Unit(machine.unit())],
    })
}

/// Where a machine's own journal can be read safely. The instance fills that directory, and a
/// link in it could lead journalctl, which is the host's root, to another's. While the container
/// is there, its journal is seen through a mount that follows no links; otherwise nothing can
/// change it while it is looked through.
fn own_journal(paths: &Paths, machine: &MachineName) -> Option<PathBuf> {
    let mounted = paths.machine_run(machine).join("data/.journal");
    if super::mount::is_mount_point(&mounted).unwrap_or(false) {
        return Some(mounted);
    }
    let own = paths.journal(machine);
    let is_link = |path: &PathBuf| path.symlink_metadata().is_ok_and(|m| m.is_symlink());
    let below = |dir: &PathBuf| -> Vec<PathBuf> {
        crate::files::names(dir).unwrap_or_default().iter().map(|name| dir.join(name)).collect()
    };
    let first = below(&own);
    let linked = first.iter().any(|path| is_link(path) || below(path).iter().any(is_link));
    (own.is_dir() && !linked).then_some(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(lines: u32, follow: bool) -> Query {
        Query { machine: "shop-web".parse().unwrap(), lines, follow }
    }

    #[test]
    fn following_is_what_there_is_and_then_what_comes() {
        let now = 100_000_000;
        let cut = now - OVERLAP;
        assert_eq!(Parts::of(&query(100, false), None, now), None);
        let both = Parts { until: Some(cut), since: cut + 1 };
        assert_eq!(Parts::of(&query(100, true), None, now), Some(both));
        let only_new = Parts { until: None, since: now + 1 };
        assert_eq!(Parts::of(&query(0, true), None, now), Some(only_new));
        let recent = Parts::of(&query(ALL, true), Some(cut), now);
        assert_eq!(recent, Some(Parts { until: Some(cut), since: cut + 1 }));
        let too_new_for_the_first = Parts::of(&query(ALL, true), Some(now), now);
        assert_eq!(too_new_for_the_first, Some(Parts { until: None, since: now }));
    }
}
