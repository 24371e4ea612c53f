//! A rollout that is under way, as a terminal shows it.

use super::{HostProgress, Outcome, RolloutView, State};
use crate::output::text::{count, printable};

/// What a terminal shows of a rollout that is under way.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Scene {
    pub(crate) head: String,
    pub(crate) bars: Vec<Bar>,
    /// Hosts that something is to be said of.
    pub(crate) lines: Vec<String>,
}

/// How far a batch is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Bar {
    pub(crate) label: String,
    pub(crate) done: u64,
    pub(crate) total: u64,
}

/// Batches and hosts that are shown at most.
const MOST_BARS: u32 = 6;
const MOST_LINES: usize = 10;

impl Bar {
    fn of<'a>(label: String, done: Outcome, hosts: impl Iterator<Item = &'a HostProgress>) -> Self {
        let mut bar = Self { label, done: 0, total: 0 };
        for host in hosts {
            bar.total += 1;
            bar.done += u64::from(host.outcome == done);
        }
        bar
    }
}

impl RolloutView {
    /// How it is, for a terminal.
    pub(crate) fn scene(&self) -> Scene {
        let Self { fleet, revision, .. } = self;
        let state = self.hold_text().unwrap_or_else(|| match self.state {
            State::RollingBack => format!("rolling back{}", self.because()),
            _ => self.state_text(),
        });
        let later = self.hosts.iter().filter(|host| host.batch.is_none()).count();
        let later = match (later, self.state) {
            (0, _) | (_, State::RollingBack) => String::new(),
            (later, _) => format!("; {} to come", count(later, "host")),
        };
        let head = printable(&format!("{fleet} revision {revision}: {state}{later}"));
        Scene { head, bars: self.bars(), lines: self.lines() }
    }

    fn bars(&self) -> Vec<Bar> {
        if self.state == State::RollingBack {
            let label = self.back_to.map_or("back".to_owned(), |to| format!("back to {to}"));
            let told = self.hosts.iter().filter(|host| host.generation.is_some());
            return vec![Bar::of(label, Outcome::Back, told)];
        }
        let first = self.batch.saturating_sub(MOST_BARS) + 1;
        let numbers = first..=self.batch;
        let bar =
            |number| Bar::of(format!("batch {number}"), Outcome::Ready, self.of_batch(number));
        numbers.map(bar).filter(|bar| bar.total > 0).collect()
    }

    fn lines(&self) -> Vec<String> {
        use Outcome::{Changing, Failed, GoingBack, Offline, Staging};
        let order = [Failed, GoingBack, Changing, Staging, Offline];
        let all: Vec<&HostProgress> = order.iter().flat_map(|it| self.with(*it)).collect();
        let shown = all.iter().take(MOST_LINES);
        let mut lines: Vec<String> = shown.map(|host| host.line(self.state)).collect();
        if let Some(more) = all.len().checked_sub(MOST_LINES).filter(|more| *more > 0) {
            lines.push(format!("… and {more} more"));
        }
        lines
    }
}
