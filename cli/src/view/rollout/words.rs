//! Rollouts in words: a line for a host, what is new, tables.

use std::collections::BTreeMap;

use shoal_core::time::Timestamp;

use super::{HoldKind, HoldView, HostProgress, Outcome, RolloutView, RolloutsView, State};
use crate::output::table::{Cell, Table, Tone, details};
use crate::output::text::printable;
use crate::output::time::exact;
use crate::view::audit::short_identity;

/// Hosts that are named in a line; of the others there is a number.
const NAMED: usize = 10;
/// Hosts of a batch of which every step is told; of more, only what comes of it.
const TALKATIVE: usize = 5;

/// Something that has changed, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct News {
    pub(crate) text: String,
    pub(crate) weight: Weight,
}

/// How much a change matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weight {
    /// A step on the way. An instance that fails again and again goes through the same ones each
    /// time, so it is told once.
    Step,
    /// What came of it.
    Change,
    /// What someone should know of who looks later.
    Alarm,
}

impl News {
    fn new(weight: Weight, text: impl AsRef<str>) -> Self {
        Self { weight, text: printable(text.as_ref()) }
    }
}

impl State {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Staging => "staging",
            Self::Changing => "changing",
            Self::Monitoring => "monitoring",
            Self::Waiting => "waiting",
            Self::RollingBack => "rolling back",
            Self::Completed => "completed",
            Self::Partial => "partial",
            Self::RolledBack => "rolled back",
            Self::Aborted => "aborted",
            Self::Failed => "failed",
            Self::TimedOut => "timed out",
            Self::Superseded => "superseded",
        }
    }

    fn tone(self) -> Tone {
        use State::{Changing, Monitoring, Partial, Planned, Staging, Waiting};
        match self {
            Self::Completed => Tone::Good,
            Planned | Staging | Changing | Monitoring | Waiting | Partial => Tone::Waiting,
            Self::RollingBack | Self::RolledBack | Self::Failed | Self::TimedOut => Tone::Bad,
            Self::Aborted | Self::Superseded => Tone::Faint,
        }
    }
}

impl Outcome {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Changing => "changing",
            Self::Staging => "staging",
            Self::Pending => "pending",
            Self::GoingBack => "going back",
            Self::Back => "back",
            Self::Offline => "offline",
            Self::Failed => "failed",
        }
    }

    fn cell(self) -> Cell {
        let tone = match self {
            Self::Ready => Tone::Good,
            Self::Changing | Self::Staging | Self::GoingBack => Tone::Waiting,
            Self::Pending | Self::Back => Tone::Faint,
            Self::Offline | Self::Failed => Tone::Bad,
        };
        Cell::toned(self.name(), tone)
    }

    fn weight(self) -> Weight {
        match self {
            Self::Failed => Weight::Alarm,
            Self::Ready | Self::Back | Self::Offline => Weight::Change,
            Self::Changing | Self::Staging | Self::Pending | Self::GoingBack => Weight::Step,
        }
    }
}

/// `h1, h2 and 3 more`.
pub(crate) fn names<'a>(hosts: impl Iterator<Item = &'a HostProgress>) -> String {
    let all: Vec<String> = hosts.map(|host| printable(&host.host)).collect();
    match all.len().checked_sub(NAMED) {
        None | Some(0) => all.join(", "),
        Some(more) => format!("{} and {more} more", all[..NAMED].join(", ")),
    }
}

impl HostProgress {
    /// `h1: changing: waits for the agent`.
    pub(crate) fn line(&self, state: State) -> String {
        let Self { host, outcome, .. } = self;
        let line = match self.reason(state) {
            "" => format!("{host}: {}", outcome.name()),
            reason => format!("{host}: {}: {reason}", outcome.name()),
        };
        printable(&line)
    }

    /// Why it is as it is, in a rollout of that state.
    fn reason(&self, state: State) -> &str {
        let is_told = self.generation.is_some() || self.stray;
        let goes_back = matches!(state, State::RollingBack | State::RolledBack);
        match (self.outcome, self.reason.as_str()) {
            (Outcome::Offline, "") if goes_back && is_told => "goes back when it returns",
            (Outcome::Offline, "") if goes_back => "",
            (Outcome::Offline, "") if is_told || !state.is_final() => "changes when it is back",
            (Outcome::Offline, "") if state == State::Partial => {
                "was not told; apply again when it is back"
            }
            (_, reason) => reason,
        }
    }

    fn shown_reason(&self, state: State) -> String {
        let reason = self.reason(state);
        match (reason, &self.had_failed) {
            ("", Some(why)) => format!("had failed: {why}"),
            (_, Some(why)) if why != reason => format!("{reason}; had failed: {why}"),
            ("", None) if self.kept => "nothing is disturbed there".to_owned(),
            _ => reason.to_owned(),
        }
    }
}

impl HoldView {
    /// What holds the rollout.
    fn text(&self, rollout: &RolloutView) -> String {
        let why = printable(&self.why);
        match self.kind {
            HoldKind::Operator => format!("paused: {why}"),
            HoldKind::Failure => format!("paused after a failure: {why}"),
            HoldKind::Promotion => format!("held: {why}"),
            HoldKind::Window => match rollout.window_opens() {
                Some(opens) => format!("held: {why}; the next one opens at {opens}"),
                None => format!("held: {why}"),
            },
        }
    }

    /// In a word or two.
    fn name(&self) -> &'static str {
        match self.kind {
            HoldKind::Operator | HoldKind::Failure => "paused",
            HoldKind::Promotion => "waits for promote",
            HoldKind::Window => "waits for window",
        }
    }
}

impl RolloutView {
    /// What holds it, where anything does.
    pub(crate) fn hold_text(&self) -> Option<String> {
        self.hold.as_ref().map(|hold| hold.text(self))
    }

    /// Why it goes back, failed or was ended, where what holds it does not say so already.
    pub(crate) fn other_cause(&self) -> Option<String> {
        let held = self.hold.as_ref().map(|hold| hold.why.as_str());
        self.cause.clone().filter(|cause| held != Some(cause))
    }

    /// `changing`, or what it waits for.
    pub(crate) fn state_cell(&self) -> Cell {
        match &self.hold {
            Some(hold) if hold.kind == HoldKind::Failure => Cell::toned(hold.name(), Tone::Bad),
            Some(hold) => Cell::toned(hold.name(), Tone::Waiting),
            None => Cell::toned(self.state.name(), self.state.tone()),
        }
    }

    /// `changing, batch 2`.
    pub(crate) fn state_text(&self) -> String {
        let state = self.state.name();
        match (self.is_over(), self.batch) {
            (true, _) | (_, 0) => state.to_owned(),
            (false, batch) => format!("{state}, batch {batch}"),
        }
    }

    /// `2 ready, 1 offline`.
    pub(crate) fn summary(&self) -> String {
        let mut counts: BTreeMap<Outcome, usize> = BTreeMap::new();
        for host in &self.hosts {
            *counts.entry(host.outcome).or_default() += 1;
        }
        let parts: Vec<String> =
            counts.iter().map(|(outcome, count)| format!("{count} {}", outcome.name())).collect();
        if parts.is_empty() { "no hosts".to_owned() } else { parts.join(", ") }
    }

    /// ` (failed: h2; offline: h3, h4)`, or nothing.
    pub(crate) fn troubled(&self) -> String {
        let failed =
            |host: &&HostProgress| host.outcome == Outcome::Failed || host.had_failed.is_some();
        let failed = names(self.hosts.iter().filter(failed));
        let named = [("failed", failed), ("offline", names(self.with(Outcome::Offline)))];
        let named = named.iter().filter(|(_, names)| !names.is_empty());
        let named: Vec<String> = named.map(|(what, names)| format!("{what}: {names}")).collect();
        if named.is_empty() { String::new() } else { format!(" ({})", named.join("; ")) }
    }

    /// `: shop/main: exit code 1`, or nothing.
    pub(crate) fn because(&self) -> String {
        let cause = self.cause.as_deref().unwrap_or_default();
        if cause.is_empty() { String::new() } else { printable(&format!(": {cause}")) }
    }

    /// What has changed since `before`.
    pub(crate) fn news(&self, before: Option<&Self>) -> Vec<News> {
        let mut news = Vec::new();
        self.batch_news(before, &mut news);
        let was = |host: &HostProgress| {
            before.and_then(|before| before.hosts.iter().find(|old| old.host == host.host))
        };
        for host in &self.hosts {
            let old = was(host).map(|old| (old.outcome, old.reason.as_str()));
            // What was ready before anyone looked is in the first line's numbers.
            let is_old = old.is_none() && before.is_none() && host.outcome == Outcome::Ready;
            if old != Some((host.outcome, &host.reason)) && !is_old && self.is_told(host) {
                news.push(News::new(host.outcome.weight(), host.line(self.state)));
            }
        }
        self.state_news(before, &mut news);
        news
    }

    /// Whether how a host is, is worth a line.
    fn is_told(&self, host: &HostProgress) -> bool {
        match host.outcome.weight() {
            Weight::Change | Weight::Alarm => true,
            Weight::Step => {
                let few = host.batch.is_some_and(|it| self.of_batch(it).count() <= TALKATIVE);
                few && !host.reason.is_empty()
            }
        }
    }

    fn batch_news(&self, before: Option<&Self>, news: &mut Vec<News>) {
        if before.is_none() && !self.is_over() {
            let Self { fleet, revision, .. } = self;
            let text =
                format!("{fleet} revision {revision}: {}; {}", self.state_text(), self.summary());
            news.push(News::new(Weight::Change, text));
        }
        let held = |rollout: &Self| rollout.hold.is_some();
        if before.is_some_and(held) && !held(self) && !self.is_over() {
            news.push(News::new(Weight::Alarm, "it goes on"));
        }
        if before.is_some_and(|before| self.batch > before.batch) {
            let text = format!("batch {}: {}", self.batch, names(self.of_batch(self.batch)));
            news.push(News::new(Weight::Change, text));
        }
    }

    fn state_news(&self, before: Option<&Self>, news: &mut Vec<News>) {
        let monitor = self.policy.as_ref().map_or(0, |policy| policy.monitor_ms);
        let text = match self.state {
            State::Monitoring if monitor > 0 => Some((
                Weight::Change,
                format!("batch {} is ready; it is watched for {}", self.batch, exact(monitor)),
            )),
            State::Waiting => Some((
                Weight::Change,
                format!(
                    "only hosts that are offline are left: it waits for {} until {}",
                    names(self.with(Outcome::Offline)),
                    self.deadline
                ),
            )),
            State::RollingBack => {
                let to = self.back_to.map_or(String::new(), |to| format!(" to revision {to}"));
                Some((Weight::Alarm, format!("going back{to}{}", self.because())))
            }
            _ => None,
        };
        if let Some((weight, text)) = text
            && before.is_none_or(|before| before.state != self.state)
        {
            news.push(News::new(weight, text));
        }
        let kind = |rollout: &Self| rollout.hold.as_ref().map(|hold| (hold.kind, hold.since));
        if let Some(text) = self.hold_text()
            && before.and_then(kind) != kind(self)
        {
            news.push(News::new(Weight::Alarm, text));
        }
    }

    /// All that is known of it.
    pub(crate) fn text(&self, now: Timestamp, color: bool) -> String {
        let mut fields = vec![
            ("Fleet", self.fleet.clone()),
            ("Revision", self.revision.to_string()),
            ("State", self.state_text()),
        ];
        fields.extend(self.hold.as_ref().map(|hold| {
            ("Hold", format!("{} (since {}, {})", hold.text(self), hold.since, hold.since.ago(now)))
        }));
        fields.extend(self.other_cause().map(|cause| ("Cause", cause)));
        fields.push(("Hosts", self.summary()));
        let by = short_identity(&self.author);
        fields.push(("Started", format!("{} ({}) by {by}", self.started, self.started.ago(now))));
        match self.ended {
            Some(ended) => fields.push(("Ended", format!("{ended} ({})", ended.ago(now)))),
            None => {
                let Self { deadline, .. } = self;
                fields.push(("Deadline", format!("{deadline} ({})", deadline.relative(now))));
            }
        }
        let back = self.back_to.map_or("nothing to go back to".to_owned(), |to| to.to_string());
        fields.push(("Back to", back));
        let offline = match self.offline {
            "skip" => "not waited for; hosts that are offline catch up by themselves",
            _ => "waited for until the deadline, once all others are through",
        };
        fields.push(("Offline", offline.to_owned()));
        fields.extend(self.policy.as_ref().map(|policy| ("Policy", policy.text())));
        format!("{}\n\n{}", details(&fields), self.hosts_table(color))
    }

    /// The hosts in the order of their batches; those that are in none yet come last.
    fn hosts_table(&self, color: bool) -> String {
        let mut hosts: Vec<&HostProgress> = self.hosts.iter().collect();
        hosts.sort_by_key(|host| host.batch.unwrap_or(u32::MAX));
        let mut table = Table::new(&["HOST", "BATCH", "STATE", "REASON"]);
        for host in hosts {
            table.row(vec![
                (&host.host).into(),
                host.batch.map(|batch| batch.to_string()).unwrap_or_default().into(),
                host.outcome.cell(),
                host.shown_reason(self.state).into(),
            ]);
        }
        table.render(color, "It changes no hosts.")
    }

    /// Why it is as it is, in the table of rollouts.
    fn note(&self) -> String {
        let held = self.hold.as_ref().map(|hold| hold.why.clone());
        held.or_else(|| self.cause.clone()).unwrap_or_default()
    }
}

/// The columns of the table of rollouts; the last may be left out.
const HEADER: [&str; 8] =
    ["FLEET", "REVISION", "STATE", "HOSTS", "STARTED", "ENDED", "BY", "REASON"];

impl RolloutsView {
    pub(crate) fn table(&self, now: Timestamp, color: bool) -> String {
        let has_notes = self.rollouts.iter().any(|rollout| !rollout.note().is_empty());
        let header = if has_notes { &HEADER[..] } else { &HEADER[..HEADER.len() - 1] };
        let mut table = Table::new(header);
        for rollout in &self.rollouts {
            let mut row = vec![
                (&rollout.fleet).into(),
                rollout.revision.into(),
                rollout.state_cell(),
                rollout.summary().into(),
                rollout.started.ago(now).into(),
                rollout.ended.map_or(String::new(), |ended| ended.ago(now)).into(),
                short_identity(&rollout.author).into(),
            ];
            row.extend(has_notes.then(|| rollout.note().into()));
            table.row(row);
        }
        table.render(color, "No rollouts.")
    }
}
