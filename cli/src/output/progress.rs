//! How far things are: bars and lines that change on a terminal, plain lines elsewhere. All of it
//! goes to standard error.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Console;
use super::size::{bytes, percent};
use crate::view::rollout::{HostProgress, Outcome, RolloutView};

/// Percent between two lines where there is no terminal.
const LINE_EVERY: u64 = 10;

/// The progress of one transfer. Shown on standard error.
#[derive(Debug)]
pub(crate) struct Transfer {
    what: String,
    total: u64,
    shown: Shown,
}

#[derive(Debug)]
enum Shown {
    Bar(ProgressBar),
    Lines { next: u64, console: Console },
}

impl Transfer {
    /// `what` is going on, over `total` bytes.
    pub(crate) fn start(console: Console, what: &str, total: u64) -> Self {
        let shown = if console.is_live() {
            Shown::Bar(bar(what, total))
        } else {
            Shown::Lines { next: 0, console }
        };
        Self { what: what.to_owned(), total, shown }
    }

    /// So many bytes are done.
    pub(crate) fn at(&mut self, done: u64) {
        match &mut self.shown {
            Shown::Bar(bar) => bar.set_position(done),
            Shown::Lines { next, console } => {
                if let Some(line) = line(&self.what, done, self.total, next) {
                    console.note(line);
                }
            }
        }
    }

    /// Takes the bar away; what comes next is said in words.
    pub(crate) fn end(self) {
        if let Shown::Bar(bar) = self.shown {
            bar.finish_and_clear();
        }
    }
}

fn bar(what: &str, total: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template(
        "{msg} [{bar:30}] {percent:>3} %  {binary_bytes} of {binary_total_bytes}  \
         {binary_bytes_per_sec}  {eta}",
    );
    // The template is a constant; were it wrong, the default bar would do.
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
    bar.set_message(what.to_owned());
    bar
}

/// The line to write at `done`, if it is time for one; moves `next` on.
fn line(what: &str, done: u64, total: u64, next: &mut u64) -> Option<String> {
    let percent = percent(done, total);
    if percent < *next {
        return None;
    }
    *next = (percent / LINE_EVERY + 1) * LINE_EVERY;
    Some(format!("{what}: {percent} % ({} of {})", bytes(done), bytes(total)))
}

/// How far each host of a rollout is.
#[derive(Debug)]
pub(crate) struct Board {
    console: Console,
    live: MultiProgress,
    hosts: BTreeMap<String, ProgressBar>,
    told: Told,
}

/// What was said of hosts that are changing.
#[derive(Debug, Default)]
struct Told(BTreeSet<String>);

impl Board {
    pub(crate) fn new(console: Console) -> Self {
        let target = if console.is_live() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let live = MultiProgress::with_draw_target(target);
        Self { console, live, hosts: BTreeMap::new(), told: Told::default() }
    }

    /// Shows what differs from `before`.
    pub(crate) fn show(&mut self, rollout: &RolloutView, before: Option<&RolloutView>) {
        if !self.console.is_live() {
            let news = rollout.news(before).into_iter();
            let news = news.filter(|host| self.told.is_new(host)).map(HostProgress::line);
            news.for_each(|line| self.console.note(line));
            return;
        }
        for host in &rollout.hosts {
            let live = &self.live;
            let line = self.hosts.entry(host.host.clone()).or_insert_with(|| {
                let line = live.add(ProgressBar::new_spinner());
                line.enable_steady_tick(Duration::from_millis(120));
                line
            });
            line.set_message(host.line());
        }
    }

    /// Says something above the lines that change.
    pub(crate) fn say(&self, text: &str) {
        if !self.console.is_live() || self.live.println(text).is_err() {
            self.console.note(text);
        }
    }

    /// Takes the lines away; what comes next says how it ended.
    pub(crate) fn clear(&self) {
        for line in self.hosts.values() {
            line.finish_and_clear();
        }
    }
}

impl Told {
    /// Whether this is worth a line. An instance that fails again and again goes through the same
    /// states each time; in a log, once is enough.
    fn is_new(&mut self, host: &HostProgress) -> bool {
        self.0.insert(host.line()) || host.outcome != Outcome::Changing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_again_and_again_is_told_once() {
        let host = |outcome, reason: &str| HostProgress {
            host: "h1".into(),
            outcome,
            reason: reason.into(),
            generation: None,
        };
        let mut told = Told::default();
        assert!(told.is_new(&host(Outcome::Changing, "starting")));
        assert!(told.is_new(&host(Outcome::Changing, "no such file")));
        assert!(!told.is_new(&host(Outcome::Changing, "starting")));
        assert!(told.is_new(&host(Outcome::Ready, "")));
        assert!(told.is_new(&host(Outcome::Ready, "")));
    }

    #[test]
    fn a_line_for_each_tenth_and_no_more() {
        let mut next = 0;
        let lines: Vec<String> =
            (0..=1000).filter_map(|done| line("sending", done, 1000, &mut next)).collect();
        assert_eq!(lines.len(), 11);
        assert_eq!(lines[0], "sending: 0 % (0 B of 1000 B)");
        assert_eq!(lines[10], "sending: 100 % (1000 B of 1000 B)");
    }

    #[test]
    fn a_resumed_transfer_begins_where_it_is() {
        let mut next = 0;
        assert!(line("sending", 456, 1000, &mut next).unwrap().contains("45 %"));
        assert_eq!(next, 50);
        assert_eq!(line("sending", 499, 1000, &mut next), None);
    }
}
