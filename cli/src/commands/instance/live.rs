//! `shoal ps --watch`: in place on a terminal, else what changes.

use std::collections::BTreeMap;
use std::time::Duration;

use shoal_proto::v1::ListInstancesResponse;
use tokio::time::{MissedTickBehavior, interval};

use crate::client::{Client, ReplyError};
use crate::clock;
use crate::commands::chosen::Choice;
use crate::commands::outage::Outage;
use crate::exit::{Exit, Failure};
use crate::output::Console;
use crate::output::screen::Screen;
use crate::output::time::At;
use crate::view::instance::InstancesView;

/// How often what is on a terminal is drawn again: ages grow.
const REDRAW: Duration = Duration::from_secs(1);

/// Shows instances until the controller is given up.
pub(super) async fn watch(
    console: Console,
    client: &Client,
    choice: &Choice,
) -> Result<Exit, Failure> {
    let mut board = Board::new(console);
    let mut outage = Outage::default();
    loop {
        let error = match once(client, choice, &mut board, &mut outage).await {
            Ok(()) => None,
            Err(Failure::Remote(error)) if error.is_lost() => Some(error),
            Err(other) => return Err(other),
        };
        if outage.is_hopeless()
            && let Some(error) = error
        {
            return Err(error.into());
        }
        if outage.goes_on() {
            board.note("the controller is gone; waiting for it");
        }
        outage.pause().await;
    }
}

/// One stream, until it ends.
async fn once(
    client: &Client,
    choice: &Choice,
    board: &mut Board,
    outage: &mut Outage,
) -> Result<(), Failure> {
    let refused = || client.refused("watch instances");
    let opened = client.instances().watch(choice.request()).await;
    let mut lists = opened.map_err(refused())?.into_inner();
    let mut ticks = interval(REDRAW);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // Both can be dropped: a list that is not taken stays in its stream.
        let list = tokio::select! {
            list = lists.message() => list.map_err(refused())?,
            _ = ticks.tick() => {
                board.redraw()?;
                continue;
            }
        };
        let Some(list) = list else { return Ok(()) };
        if outage.is_over() {
            board.note("the controller is back");
        }
        board.show(read(choice, list)?)?;
    }
}

fn read(choice: &Choice, list: ListInstancesResponse) -> Result<InstancesView, ReplyError> {
    let kept = choice.keep(list.instances)?;
    InstancesView::read(kept).map_err(ReplyError::about("instances"))
}

/// What was shown, and where.
struct Board {
    console: Console,
    screen: Screen,
    shown: Option<InstancesView>,
    /// A line of each instance.
    lines: BTreeMap<String, String>,
}

impl Board {
    fn new(console: Console) -> Self {
        Self { console, screen: Screen::new(console), shown: None, lines: BTreeMap::new() }
    }

    fn show(&mut self, view: InstancesView) -> Result<(), Failure> {
        if self.console.is_json() {
            // What the controller tells of may be more than what was asked for.
            if self.shown.as_ref() == Some(&view) {
                return Ok(());
            }
            self.console.stream("", &view)?;
            self.shown = Some(view);
            return Ok(());
        }
        if self.console.redraws() {
            self.shown = Some(view);
            return self.redraw();
        }
        let now = At::new(clock::now().0);
        for line in news(&mut self.lines, &view) {
            self.console.text(format!("{now} {line}"))?;
        }
        Ok(())
    }

    fn redraw(&mut self) -> Result<(), Failure> {
        // A stream of documents keeps what it showed, too, but is never drawn.
        if let Some(view) = &self.shown
            && self.console.redraws()
        {
            self.screen.draw(&view.table(clock::now(), self.console.color()))?;
        }
        Ok(())
    }

    fn note(&mut self, text: &str) {
        // On the same terminal it would be drawn over.
        self.screen.leave();
        self.console.note(text);
    }
}

/// The lines of those that are not as they were in `lines`.
fn news(lines: &mut BTreeMap<String, String>, view: &InstancesView) -> Vec<String> {
    let now: BTreeMap<String, String> =
        view.instances.iter().map(|instance| (instance.name(), instance.line())).collect();
    let changed = now.iter().filter(|(name, line)| lines.get(*name) != Some(line));
    let gone = lines.keys().filter(|name| !now.contains_key(*name));
    let news = changed
        .map(|(name, line)| format!("{name} {line}"))
        .chain(gone.map(|name| format!("{name} gone")))
        .collect();
    *lines = now;
    news
}

#[cfg(test)]
mod tests {
    use shoal_proto::v1::{InstanceHealth, InstanceState, LastExit};

    use super::*;
    use crate::view::samples;

    #[test]
    fn only_what_changes_is_a_line() {
        let view = |hosts: &[&str], restarts| {
            let mut status = samples::observed(3, InstanceState::Running, InstanceHealth::Healthy);
            status.restarts = restarts;
            status.last_exit = (restarts > 0)
                .then(|| LastExit { at_ms: samples::NOW, reason: "killed by SIGKILL".into() });
            let all = hosts.iter().map(|host| samples::instance(host, Some(status.clone())));
            InstancesView::read(all.collect()).unwrap()
        };
        let mut lines = BTreeMap::new();
        let first = news(&mut lines, &view(&["h1", "h2"], 0));
        let line = "running, healthy, 0 restarts";
        assert_eq!(first, [format!("shop/main@h1 {line}"), format!("shop/main@h2 {line}")]);
        assert!(news(&mut lines, &view(&["h1", "h2"], 0)).is_empty());
        let then = news(&mut lines, &view(&["h1"], 1));
        let killed = "shop/main@h1 running, healthy, 1 restart: killed by SIGKILL";
        assert_eq!(then, [killed, "shop/main@h2 gone"]);
    }
}
