//! `shoal logs`: of one instance or of many, until now or as they come.
//!
//! [`past`] shows what there is, merged by time. [`follow`] then shows what comes, through restarts
//! of instances, hosts and controller. What [`printer`] writes is the same in both.

mod follow;
mod past;
mod printer;

use shoal_proto::v1::{Instance, LogFilter, LogsRequest};

use super::chosen::{self, Choice};
use super::seen::Seen;
use super::{Shell, interrupted};
use crate::args::instance::LogsArgs;
use crate::client::{Client, RemoteError, ReplyError};
use crate::exit::{Exit, Failure};
use crate::output::reader;
use crate::output::text::count;
use printer::{Printer, Show};

/// Instances at once: a connection to the controller carries 256 calls.
const MOST: usize = 200;
/// How many entries where nobody says how many.
const LINES: u32 = 100;
/// Every entry, as the wire says it.
const ALL: u32 = u32::MAX;

/// Why logs can't be shown, or not all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogsError {
    #[error("--since is later than --until: nothing is between them")]
    Backwards,
    #[error("no instance is there whose logs could be shown; `shoal ps` shows all")]
    Nothing,
    #[error(
        "these are {0} instances; the logs of at most {MOST} are shown at once: name fewer, or \
         choose some with --selector"
    )]
    TooMany(usize),
    #[error(
        "the logs of {} of {of} could not be read to the end:{}",
        count(.problems.len(), "instance"), indented(.problems)
    )]
    Partly {
        of: usize,
        problems: Vec<String>,
        /// What the worst of them means.
        exit: Exit,
    },
}

fn indented(lines: &[String]) -> String {
    lines.iter().map(|line| format!("\n  {line}")).collect()
}

/// An instance on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    instance: String,
    host: String,
}

impl Source {
    fn of(instance: Instance) -> Result<Self, ReplyError> {
        let id = chosen::id(&instance).map_err(ReplyError::about("instances"))?;
        Ok(Self { instance: id.to_string(), host: instance.host })
    }

    fn label(&self) -> String {
        format!("{}@{}", self.instance, self.host)
    }

    fn doing(&self) -> String {
        format!("show the logs of {}", self.label())
    }
}

/// Which entries of each are asked for.
#[derive(Debug, Clone, PartialEq)]
struct Asked {
    lines: u32,
    filter: LogFilter,
}

impl Asked {
    fn of(args: &LogsArgs) -> Result<Self, LogsError> {
        if args.until.is_some() && args.since > args.until {
            return Err(LogsError::Backwards);
        }
        let usual = if args.since.is_some() { ALL } else { LINES };
        let filter = LogFilter {
            since_us: args.since.map(|when| when.0),
            until_us: args.until.map(|when| when.0),
            unit: args.unit.clone(),
            priority: args.priority.map(|priority| priority.number()),
            grep: args.grep.clone(),
        };
        Ok(Self { lines: args.lines.unwrap_or(usual), filter })
    }

    fn request(&self, source: &Source, follow: bool) -> LogsRequest {
        LogsRequest {
            instance: source.instance.clone(),
            host: Some(source.host.clone()),
            lines: self.lines,
            follow,
            filter: Some(self.filter.clone()),
        }
    }
}

pub(super) async fn run(shell: &Shell, args: LogsArgs) -> Result<Exit, Failure> {
    let asked = Asked::of(&args)?;
    let client = shell.client().await?;
    let choice = Choice { scopes: args.targets, selector: args.selector };
    let chosen = choice.list(&client).await?.into_iter();
    let sources = chosen.map(Source::of).collect::<Result<Vec<_>, _>>()?;
    match sources.len() {
        0 => return Err(LogsError::Nothing.into()),
        many if many > MOST => return Err(LogsError::TooMany(many).into()),
        _ => {}
    }
    let mut printer = Printer::new(shell.console, &sources);
    tokio::select! {
        ended = show(&client, &asked, sources, args.follow, &mut printer) => ended,
        gone = reader::gone() => Err(gone.into()),
        () = interrupted() => Ok(Exit::Interrupted),
    }
}

async fn show(
    client: &Client,
    asked: &Asked,
    sources: Vec<Source>,
    follow: bool,
    shown: &mut impl Show,
) -> Result<Exit, Failure> {
    let all = sources.len();
    let read = past::show(client, asked, sources, shown).await?;
    if !follow || read.iter().all(|read| read.failed.is_some()) {
        let failed = read.into_iter().filter_map(|read| read.failed).collect();
        return conclude(failed, all);
    }
    follow::show(client, asked, read, shown).await
}

/// How far an instance's logs were read.
#[derive(Debug)]
struct Read {
    source: Source,
    seen: Seen,
    /// Why not to their end.
    failed: Option<RemoteError>,
}

/// What the failures of some of `all` instances come to.
fn conclude(mut failed: Vec<RemoteError>, all: usize) -> Result<Exit, Failure> {
    if all == 1
        && let Some(only) = failed.pop()
    {
        return Err(only.into());
    }
    let Some(first) = failed.first() else { return Ok(Exit::Done) };
    // That a host is offline is the least of troubles, and says nothing where there are others.
    let exits = failed.iter().map(crate::exit::remote);
    let worst = exits.into_iter().find(|exit| *exit != Exit::HostOffline);
    let exit = worst.unwrap_or_else(|| crate::exit::remote(first));
    let problems = failed.iter().map(|error| shoal_core::cause::chain(error)).collect();
    Err(LogsError::Partly { of: all, problems, exit }.into())
}

#[cfg(test)]
mod tests;
