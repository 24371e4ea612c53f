//! Following a rollout to its end, also through a restart of the controller.

mod ends;

use std::time::Duration;

use shoal_core::name::FleetName;
use shoal_core::time::Timestamp;
use shoal_proto::v1::WatchRolloutRequest;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Shell;
use crate::client::{Client, ReplyError};
use crate::clock;
use crate::exit::Failure;
use crate::output::board::Board;
use crate::view::rollout::{HoldKind, RolloutView, State};

pub(crate) use ends::WatchError;
pub(super) use ends::{Goal, conclude};

/// How much longer than the rollout's own deadline the end is waited for: the controller needs a
/// moment to write it down and say so.
const GRACE: Duration = Duration::from_secs(15);
/// How long a controller that is gone is waited for where there is no other limit.
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_secs(1);

/// How long a rollout is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// Until it ends, whatever holds it meanwhile.
    ToTheEnd,
    /// While it gets on, for so long at most; going back may take as long again. A hold that asks
    /// for someone ends it, since nobody may be there.
    Limited(Duration),
}

/// Follows the rollout of a revision (0: the newest) until it is over or `patience` ends: how it is
/// then. A line for each change goes to standard error.
pub(super) async fn follow(
    shell: &Shell,
    client: &Client,
    fleet: &FleetName,
    revision: u64,
    patience: Patience,
) -> Result<RolloutView, Failure> {
    let limit = match patience {
        Patience::ToTheEnd => None,
        Patience::Limited(limit) => Some(limit),
    };
    let (until, limits) = watch::channel(limit.map(|limit| Instant::now() + limit + GRACE));
    let mut watcher = Watcher {
        shell,
        client,
        request: WatchRolloutRequest { fleet: fleet.to_string(), revision },
        // With a limit more than the rollout is asked for, and that is one document.
        streams: limit.is_none() && shell.console.is_json(),
        limit,
        until,
        last: None,
        board: Board::new(shell.console),
    };
    let followed = tokio::select! {
        followed = watcher.run() => Some(followed),
        () = deadline(limits) => None,
        () = super::interrupted() => Some(Err(watcher.interrupted().into())),
    };
    watcher.board.clear();
    // Where it was last says more than that it was too late.
    followed.unwrap_or_else(|| watcher.last.take().ok_or_else(|| watcher.unseen().into()))
}

/// `shop revision 3`; just the fleet where it is the newest revision, whichever that is.
fn what(fleet: &str, revision: u64) -> String {
    match revision {
        0 => fleet.to_owned(),
        revision => format!("{fleet} revision {revision}"),
    }
}

/// Until the time that was last said.
async fn deadline(mut limits: watch::Receiver<Option<Instant>>) {
    loop {
        let until = *limits.borrow_and_update();
        let over = async {
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = over => return,
            changed = limits.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

struct Watcher<'a> {
    shell: &'a Shell,
    client: &'a Client,
    request: WatchRolloutRequest,
    /// Whether each state is a JSON line of its own.
    streams: bool,
    limit: Option<Duration>,
    /// When it is given up.
    until: watch::Sender<Option<Instant>>,
    last: Option<RolloutView>,
    board: Board,
}

impl Watcher<'_> {
    /// Watches until the end, over as many streams as it takes.
    async fn run(&mut self) -> Result<RolloutView, Failure> {
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
            if self.limit.is_none() && since.elapsed() > PATIENCE {
                return Err(lost.map_or_else(|| self.unseen().into(), Failure::from));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn unseen(&self) -> WatchError {
        let WatchRolloutRequest { fleet, revision } = self.request.clone();
        WatchError::StillRunning { what: what(&fleet, revision), fleet, why: String::new() }
    }

    fn interrupted(&self) -> WatchError {
        let WatchRolloutRequest { fleet, revision } = self.request.clone();
        WatchError::Interrupted { what: what(&fleet, revision), fleet }
    }

    /// One stream: the rollout when there is nothing more to wait for, or `None` where the stream
    /// ended first.
    async fn watch(&mut self) -> Result<Option<RolloutView>, Failure> {
        let doing = format!("watch the rollout of {}", self.request.fleet);
        let stream = self.client.rollouts().watch(self.request.clone()).await;
        let mut stream = stream.map_err(self.client.refused(&doing))?.into_inner();
        loop {
            let message = stream.message().await.map_err(self.client.refused(&doing))?;
            let Some(message) = message else { return Ok(None) };
            let rollout = RolloutView::try_from(message);
            let rollout = rollout.map_err(ReplyError::about("a rollout"))?;
            if self.take(rollout.clone())? {
                return Ok(Some(rollout));
            }
        }
    }

    /// Shows what is new. Whether there is nothing more to wait for.
    fn take(&mut self, rollout: RolloutView) -> Result<bool, Failure> {
        // The newest of now is the one that is followed, also if a newer one comes.
        self.request.revision = rollout.revision;
        self.board.show(&rollout, self.last.as_ref());
        if self.streams && self.last.as_ref() != Some(&rollout) {
            self.shell.console.stream("", &rollout)?;
        }
        let mut is_over = rollout.is_over();
        if let Some(limit) = self.limit {
            let until = self.until.borrow().unwrap_or_else(Instant::now);
            let until = until.max(Instant::now() + more_time(&rollout, self.last.as_ref(), limit));
            self.until.send_replace(Some(until));
            let left = until.saturating_duration_since(Instant::now());
            is_over |= asks_for_someone(&rollout, clock::now(), left);
        }
        self.last = Some(rollout);
        Ok(is_over)
    }
}

/// For how long a rollout is to be waited for from now on, after what is new of it: going back has
/// a time of its own, and one that was held has what was left of its time.
fn more_time(rollout: &RolloutView, before: Option<&RolloutView>, limit: Duration) -> Duration {
    let Some(before) = before else { return Duration::ZERO };
    let goes_back = |rollout: &RolloutView| rollout.state == State::RollingBack;
    match &before.hold {
        _ if goes_back(rollout) && !goes_back(before) => limit + GRACE,
        Some(hold) if rollout.hold.is_none() => Duration::from_millis(hold.remaining_ms) + GRACE,
        _ => Duration::ZERO,
    }
}

/// Whether a rollout does not go on before someone has had a look, or not in the time that is left.
/// A pause is waited out for that long: whoever began it will end it.
fn asks_for_someone(rollout: &RolloutView, now: Timestamp, left: Duration) -> bool {
    match rollout.hold.as_ref().map(|hold| hold.kind) {
        None | Some(HoldKind::Operator) => false,
        Some(HoldKind::Failure | HoldKind::Promotion) => true,
        Some(HoldKind::Window) => {
            rollout.window_opens().is_none_or(|opens| opens.is_after(now.after(left)))
        }
    }
}

#[cfg(test)]
mod tests;
