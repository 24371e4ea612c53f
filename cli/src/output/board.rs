//! How far a rollout is: a bar for each batch and a line for each host on a terminal, plain lines
//! elsewhere. Goes to standard error.

use std::collections::BTreeSet;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Console;
use crate::view::rollout::{News, RolloutView, Scene, Weight};

/// How often the mark in the first line moves.
const TICK: Duration = Duration::from_millis(120);

/// Shows how far a rollout is.
#[derive(Debug)]
pub(crate) struct Board {
    console: Console,
    told: Told,
    live: Option<Live>,
}

/// What was said of steps on the way.
#[derive(Debug, Default)]
struct Told(BTreeSet<String>);

impl Told {
    /// Whether this is worth a line. An instance that fails again and again goes through the same
    /// states each time; in a log, once is enough.
    fn is_new(&mut self, news: &News) -> bool {
        self.0.insert(news.text.clone()) || news.weight != Weight::Step
    }
}

impl Board {
    pub(crate) fn new(console: Console) -> Self {
        let live = console.is_live().then(|| Live::new(ProgressDrawTarget::stderr()));
        Self { console, told: Told::default(), live }
    }

    /// Shows what differs from `before`.
    pub(crate) fn show(&mut self, rollout: &RolloutView, before: Option<&RolloutView>) {
        let news = rollout.news(before);
        for news in &news {
            // What the lines that change show anyhow, is said only where they don't.
            let is_shown = self.live.is_some() && news.weight != Weight::Alarm;
            if self.told.is_new(news) && !is_shown {
                self.say(&news.text);
            }
        }
        if let Some(live) = &mut self.live {
            live.draw(&rollout.scene());
        }
    }

    /// Says something, above the lines that change.
    pub(crate) fn say(&self, text: &str) {
        match &self.live {
            Some(live) if live.lines.println(text).is_ok() => {}
            _ => self.console.note(text),
        }
    }

    /// Takes the lines away; what comes next says how it ended.
    pub(crate) fn clear(&mut self) {
        if let Some(live) = &mut self.live {
            live.clear();
        }
    }
}

/// Lines of a terminal that change in place: the first one, bars, hosts.
#[derive(Debug)]
struct Live {
    lines: MultiProgress,
    head: Option<ProgressBar>,
    bars: Vec<ProgressBar>,
    hosts: Vec<ProgressBar>,
}

impl Live {
    fn new(target: ProgressDrawTarget) -> Self {
        let lines = MultiProgress::with_draw_target(target);
        Self { lines, head: None, bars: Vec::new(), hosts: Vec::new() }
    }

    fn draw(&mut self, scene: &Scene) {
        let Scene { head, bars, lines } = scene;
        let first = self.head.get_or_insert_with(|| {
            let line = self.lines.add(styled(ProgressBar::no_length(), "{spinner} {wide_msg}"));
            line.enable_steady_tick(TICK);
            line
        });
        first.set_message(head.clone());
        resize(&self.lines, &mut self.bars, bars.len(), 1, "  {msg:12} [{bar:30}] {pos} of {len}");
        for (line, bar) in self.bars.iter().zip(bars) {
            line.set_length(bar.total);
            line.set_position(bar.done);
            line.set_message(bar.label.clone());
        }
        let at = 1 + self.bars.len();
        resize(&self.lines, &mut self.hosts, lines.len(), at, "  {wide_msg}");
        for (line, text) in self.hosts.iter().zip(lines) {
            line.set_message(text.clone());
        }
    }

    fn clear(&mut self) {
        for line in self.head.take().into_iter().chain(self.bars.drain(..)) {
            line.finish_and_clear();
        }
        for line in self.hosts.drain(..) {
            line.finish_and_clear();
        }
    }
}

fn styled(line: ProgressBar, template: &str) -> ProgressBar {
    // The templates are constants; were one wrong, the default bar would do.
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    line.with_style(style.progress_chars("=> "))
}

/// Makes it `count` lines, the first of which is the line `at` of all.
fn resize(
    all: &MultiProgress,
    lines: &mut Vec<ProgressBar>,
    count: usize,
    at: usize,
    template: &str,
) {
    while lines.len() > count {
        if let Some(line) = lines.pop() {
            line.finish_and_clear();
            all.remove(&line);
        }
    }
    while lines.len() < count {
        let line = all.insert(at + lines.len(), ProgressBar::new(1));
        lines.push(styled(line, template));
    }
}

#[cfg(test)]
mod tests;
