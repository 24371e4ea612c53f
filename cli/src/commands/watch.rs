//! Following a rollout to its end, also through a restart of the controller.

use std::time::Duration;

use shoal_core::name::FleetName;
use shoal_proto::v1::WatchRolloutRequest;
use tokio::time::Instant;

use super::Shell;
use crate::client::{Client, ReplyError};
use crate::exit::Failure;
use crate::output::progress::Board;
use crate::output::text::count;
use crate::view::rollout::{RolloutView, State};

/// How much longer than the rollout's own deadline the end is waited for: the controller needs a
/// moment to write it down and say so.
const GRACE: Duration = Duration::from_secs(15);
/// How long a controller that is gone is waited for where there is no other limit.
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_secs(1);

/// Why a rollout did not come to a good end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WatchError {
    #[error(
        "the rollout of {what} failed:{}\n`shoal status {fleet}` and `shoal logs` say more; apply a \
         spec that works to replace it", indented(.hosts)
    )]
    Failed { what: String, fleet: String, hosts: Vec<String> },
    #[error(
        "the rollout of {what} is partial; these hosts catch up when they are back:{}",
        indented(.hosts)
    )]
    Partial { what: String, hosts: Vec<String> },
    #[error(
        "the rollout of {what} timed out; not ready:{}\n`shoal status {fleet}` says \
         how it is now, `shoal logs` what happened",
        indented(.hosts)
    )]
    TimedOut { what: String, fleet: String, hosts: Vec<String> },
    #[error(
        "the rollout of {what} was superseded by a newer revision; see `shoal rollout list {fleet}`"
    )]
    Superseded { what: String, fleet: String },
    #[error(
        "the end of the rollout of {what} was not seen in time; see `shoal rollout watch {fleet}`"
    )]
    StillRunning { what: String, fleet: String },
    #[error("interrupted; the rollout of {what} goes on: see `shoal rollout watch {fleet}`")]
    Interrupted { what: String, fleet: String },
}

fn indented(lines: &[String]) -> String {
    lines.iter().map(|line| format!("\n  {line}")).collect()
}

/// Follows the rollout of a revision (0: the newest) until it is over. A line for each change of a
/// host goes to standard error. `limit` is how long the rollout may take from now on.
pub(super) async fn follow(
    shell: &Shell,
    client: &Client,
    fleet: &FleetName,
    revision: u64,
    limit: Option<Duration>,
) -> Result<RolloutView, Failure> {
    // Without a limit nothing but the rollout is asked for, and a document would come late.
    let streams = limit.is_none() && shell.console.is_json();
    let mut watcher = Watcher {
        shell,
        client,
        request: WatchRolloutRequest { fleet: fleet.to_string(), revision },
        streams,
        last: None,
        board: Board::new(shell.console),
    };
    let until = limit.map(|limit| Instant::now() + limit + GRACE);
    let result = tokio::select! {
        result = watcher.run(limit.is_some()) => result,
        () = deadline(until) => {
            let (what, fleet) = (what(fleet.as_str(), revision), fleet.to_string());
            Err(WatchError::StillRunning { what, fleet }.into())
        }
        _ = tokio::signal::ctrl_c() => {
            let (what, fleet) = (what(fleet.as_str(), revision), fleet.to_string());
            Err(WatchError::Interrupted { what, fleet }.into())
        }
    };
    watcher.board.clear();
    result
}

/// `shop revision 3`; just the fleet where it is the newest revision, whichever that is.
fn what(fleet: &str, revision: u64) -> String {
    match revision {
        0 => fleet.to_owned(),
        revision => format!("{fleet} revision {revision}"),
    }
}

async fn deadline(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}

struct Watcher<'a> {
    shell: &'a Shell,
    client: &'a Client,
    request: WatchRolloutRequest,
    /// Whether each state is a JSON line of its own.
    streams: bool,
    last: Option<RolloutView>,
    board: Board,
}

impl Watcher<'_> {
    /// Watches until the end, over as many streams as it takes.
    async fn run(&mut self, has_limit: bool) -> Result<RolloutView, Failure> {
        let mut gone_since: Option<Instant> = None;
        loop {
            let before = self.last.clone();
            let lost = match self.watch().await {
                Ok(Some(over)) => return Ok(over),
                // A controller that shuts down ends its streams without an error.
                Ok(None) => None,
                Err(Failure::Remote(error)) if error.is_lost() => Some(error),
                Err(other) => return Err(other),
            };
            if self.last != before {
                gone_since = None;
            }
            if gone_since.is_none() {
                self.board.say("the controller is gone; waiting for it");
            }
            let since = *gone_since.get_or_insert_with(Instant::now);
            if !has_limit && since.elapsed() > PATIENCE {
                return Err(lost.map_or_else(|| self.unseen().into(), Failure::from));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn unseen(&self) -> WatchError {
        let WatchRolloutRequest { fleet, revision } = self.request.clone();
        WatchError::StillRunning { what: what(&fleet, revision), fleet }
    }

    /// One stream: the rollout's end, or `None` where the stream ended first.
    async fn watch(&mut self) -> Result<Option<RolloutView>, Failure> {
        let doing = format!("watch the rollout of {}", self.request.fleet);
        let stream = self.client.rollouts().watch(self.request.clone()).await;
        let mut stream = stream.map_err(self.client.refused(&doing))?.into_inner();
        loop {
            let message = stream.message().await.map_err(self.client.refused(&doing))?;
            let Some(message) = message else { return Ok(None) };
            let rollout = RolloutView::try_from(message).map_err(ReplyError::about("a rollout"))?;
            if self.take(rollout.clone())? {
                return Ok(Some(rollout));
            }
        }
    }

    /// Shows what is new. Whether that was the end.
    fn take(&mut self, rollout: RolloutView) -> Result<bool, Failure> {
        // The newest of now is the one that is followed, also if a newer one comes.
        self.request.revision = rollout.revision;
        self.board.show(&rollout, self.last.as_ref());
        if self.streams && self.last.as_ref() != Some(&rollout) {
            self.shell.console.stream("", &rollout)?;
        }
        let is_over = rollout.is_over();
        self.last = Some(rollout);
        Ok(is_over)
    }
}

/// The line that says that all went well.
pub(super) fn success(rollout: &RolloutView) -> String {
    let RolloutView { fleet, revision, hosts, .. } = rollout;
    format!("fleet {fleet} is at revision {revision}: {} ready", count(hosts.len(), "host"))
}

/// An error where a rollout that is over did not come to a good end.
pub(super) fn conclude(rollout: &RolloutView) -> Result<(), WatchError> {
    let fleet = rollout.fleet.clone();
    let what = what(&fleet, rollout.revision);
    let hosts = rollout.not_ready();
    match rollout.state {
        State::Completed => Ok(()),
        State::Failed => Err(WatchError::Failed { what, fleet, hosts }),
        State::Partial => Err(WatchError::Partial { what, hosts }),
        State::TimedOut => Err(WatchError::TimedOut { what, fleet, hosts }),
        State::Superseded => Err(WatchError::Superseded { what, fleet }),
        State::Planned | State::Changing => Err(WatchError::StillRunning { what, fleet }),
    }
}

#[cfg(test)]
mod tests;
