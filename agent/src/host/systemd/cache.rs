//! What was read of each unit, and which of it may be out of date. Pure.
//!
//! systemd lists all units in one answer, but most of what matters takes further questions for
//! each. Those are asked again only where the list shows another state, where a signal marked the
//! unit, where an answer is missing, and of all units once in a while: a signal that was lost must
//! not leave something wrong for ever.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use shoal_core::name::MachineName;
use shoal_core::time::Timestamp;

/// How long what was read is believed, whatever the signals say.
const BELIEVED: Duration = Duration::from_secs(240);

/// How long the list itself is, where no signal came since: most looks at a host at rest then cost
/// neither systemd nor the bus anything.
const LISTED: Duration = Duration::from_secs(30);

/// What the list of units tells of one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    /// The machine that it is the unit of.
    pub(super) machine: MachineName,
    /// Its active state, `active` for one.
    pub(super) active: String,
    /// Its sub state, `running` for one.
    pub(super) sub: String,
    /// Its object on the bus.
    pub(super) path: String,
}

impl Row {
    /// Whether it is where it was going: what is not is looked at each time.
    fn is_at_rest(&self) -> bool {
        matches!(self.active.as_str(), "active" | "inactive" | "failed")
    }

    /// Whether its container is up, so that machined should know it.
    pub(super) fn is_running(&self) -> bool {
        self.sub == "running"
    }
}

/// What further questions told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Reading {
    /// Since when the unit has been in its state.
    pub(super) since: Option<Timestamp>,
    /// How it ended, in systemd's word.
    pub(super) result: Option<String>,
    /// The container's first process.
    pub(super) leader: Option<u32>,
}

/// What was read of each unit.
#[derive(Debug, Default)]
pub(super) struct Cache {
    known: BTreeMap<MachineName, Known>,
    marked: BTreeSet<MachineName>,
    /// Whether someone marks what changes. Nothing is believed otherwise.
    listening: bool,
    all_read: Option<Instant>,
    /// The list, with when it was asked for.
    rows: Option<(Vec<Row>, Instant)>,
    /// Whether something has changed, or was told to, since it was asked for.
    moved: bool,
}

#[derive(Debug)]
struct Known {
    active: String,
    sub: String,
    reading: Reading,
}

impl Known {
    fn is_of(&self, row: &Row) -> bool {
        self.active == row.active && self.sub == row.sub
    }

    /// A container that runs is registered with machined, if perhaps not yet.
    fn is_complete(&self, row: &Row) -> bool {
        !row.is_running() || self.reading.leader.is_some()
    }
}

impl Cache {
    /// From now on what changes is marked. Whatever was read before may have changed unseen.
    pub(super) fn listen(&mut self) {
        *self = Self { listening: true, ..Self::default() };
    }

    /// Something about this machine has changed.
    pub(super) fn mark(&mut self, machine: MachineName) {
        self.marked.insert(machine);
        self.moved = true;
    }

    /// Something will change: a signal of it may come later than the next look.
    pub(super) fn expect_changes(&mut self) {
        self.moved = true;
    }

    /// The list, where it is known to be as it was; otherwise it is to be asked for, and
    /// [given](Self::listed).
    pub(super) fn list(&mut self, now: Instant) -> Option<Vec<Row>> {
        let moved = std::mem::take(&mut self.moved);
        let (rows, at) = self.rows.take()?;
        let rest = rows.iter().all(Row::is_at_rest);
        let believed = self.listening && rest && !moved && now.duration_since(at) < LISTED;
        believed.then(|| {
            self.rows = Some((rows.clone(), at));
            rows
        })
    }

    /// Keeps the list that was asked for at `at`.
    pub(super) fn listed(&mut self, rows: &[Row], at: Instant) {
        self.rows = Some((rows.to_vec(), at));
    }

    /// Those of `rows`, which are all units, that must be read. They are forgotten until they are
    /// [kept](Self::keep) again, so that giving up half-way loses nothing; what is marked while
    /// they are read is read once more the next time.
    pub(super) fn stale(&mut self, rows: &[Row], now: Instant) -> Vec<Row> {
        let believed = self.all_read.is_some_and(|at| now.duration_since(at) < BELIEVED);
        if !self.listening || !believed {
            self.known.clear();
            self.all_read = Some(now);
        }
        let marked = std::mem::take(&mut self.marked);
        let mut known = std::mem::take(&mut self.known);
        let mut stale = Vec::new();
        for row in rows {
            let before = known.remove(&row.machine);
            let before = before.filter(|known| known.is_of(row) && known.is_complete(row));
            match before.filter(|_| !marked.contains(&row.machine)) {
                Some(known) => drop(self.known.insert(row.machine.clone(), known)),
                None => stale.push(row.clone()),
            }
        }
        stale
    }

    /// Keeps what was read of a row.
    pub(super) fn keep(&mut self, row: Row, reading: Reading) {
        let Row { machine, active, sub, path: _ } = row;
        self.known.insert(machine, Known { active, sub, reading });
    }

    /// What is known of a machine's unit.
    pub(super) fn reading(&self, machine: &MachineName) -> Option<&Reading> {
        self.known.get(machine).map(|known| &known.reading)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(machine: &str, active: &str, sub: &str) -> Row {
        let machine = machine.parse().unwrap();
        Row { machine, active: active.into(), sub: sub.into(), path: "/x".into() }
    }

    fn running(machine: &str) -> Row {
        row(machine, "active", "running")
    }

    fn read(leader: Option<u32>) -> Reading {
        Reading { leader, ..Reading::default() }
    }

    /// A cache that has read `rows`.
    fn filled(rows: &[Row], now: Instant) -> Cache {
        let mut cache = Cache::default();
        cache.listen();
        assert_eq!(cache.stale(rows, now), rows, "all are new");
        for row in rows {
            cache.keep(row.clone(), read(row.is_running().then_some(7)));
        }
        cache
    }

    #[test]
    fn at_rest_nothing_is_read_again() {
        let (rows, now) = ([running("a-x"), row("a-y", "failed", "failed")], Instant::now());
        let mut cache = filled(&rows, now);
        assert_eq!(cache.stale(&rows, now + BELIEVED / 2), []);
        assert_eq!(cache.reading(&rows[0].machine), Some(&read(Some(7))));
    }

    #[test]
    fn what_is_marked_or_in_another_state_is_read_again_once() {
        let (rows, now) = ([running("a-x"), running("a-y"), running("a-z")], Instant::now());
        let mut cache = filled(&rows, now);
        cache.mark("a-y".parse().unwrap());
        cache.mark("no-instance".parse().unwrap());
        let after = [rows[0].clone(), rows[1].clone(), row("a-z", "activating", "auto-restart")];
        assert_eq!(cache.stale(&after, now), after[1..]);
        for row in &after[1..] {
            cache.keep(row.clone(), read(row.is_running().then_some(8)));
        }
        assert_eq!(cache.stale(&after, now), []);
        assert_eq!(cache.reading(&after[1].machine), Some(&read(Some(8))));
    }

    #[test]
    fn a_mark_that_comes_while_reading_is_not_lost() {
        let (rows, now) = ([running("a-x")], Instant::now());
        let mut cache = filled(&rows, now);
        cache.mark("a-x".parse().unwrap());
        assert_eq!(cache.stale(&rows, now), rows);
        cache.mark("a-x".parse().unwrap());
        cache.keep(rows[0].clone(), read(Some(8)));
        assert_eq!(cache.stale(&rows, now), rows);
    }

    #[test]
    fn what_was_to_be_read_and_was_not_still_is() {
        let (rows, now) = ([running("a-x"), running("a-y")], Instant::now());
        let mut cache = filled(&rows, now);
        cache.mark("a-x".parse().unwrap());
        assert_eq!(cache.stale(&rows, now), rows[..1]);
        assert_eq!(cache.stale(&rows, now), rows[..1], "the reader gave up");
    }

    #[test]
    fn a_running_container_without_a_first_process_is_asked_for_again() {
        let (rows, now) = ([running("a-x")], Instant::now());
        let mut cache = filled(&rows, now);
        cache.mark("a-x".parse().unwrap());
        cache.stale(&rows, now);
        cache.keep(rows[0].clone(), read(None));
        assert_eq!(cache.stale(&rows, now), rows);
    }

    #[test]
    fn everything_is_read_again_after_a_while() {
        let (rows, now) = ([running("a-x"), running("a-y")], Instant::now());
        let mut cache = filled(&rows, now);
        let later = now + BELIEVED;
        assert_eq!(cache.stale(&rows, later), rows);
        for row in &rows {
            cache.keep(row.clone(), read(Some(7)));
        }
        assert_eq!(cache.stale(&rows, later + BELIEVED / 2), []);
    }

    #[test]
    fn while_nobody_listens_nothing_is_believed() {
        let (rows, now) = ([running("a-x")], Instant::now());
        let mut cache = Cache::default();
        for _ in 0..2 {
            assert_eq!(cache.stale(&rows, now), rows);
            cache.keep(rows[0].clone(), read(Some(7)));
            assert_eq!(cache.reading(&rows[0].machine), Some(&read(Some(7))));
        }
        cache.listen();
        assert_eq!(cache.stale(&rows, now), rows);
    }

    #[test]
    fn the_list_is_asked_for_where_something_moved_and_once_in_a_while() {
        let (rows, now) = ([running("a-x")], Instant::now());
        let mut cache = Cache::default();
        cache.listed(&rows, now);
        assert_eq!(cache.list(now), None, "nobody listens");
        cache.listen();
        for told in [Cache::expect_changes, |cache: &mut Cache| cache.mark("a-x".parse().unwrap())]
        {
            assert_eq!(cache.list(now), None);
            assert_eq!(cache.list(now), None, "nobody gave it");
            cache.listed(&rows, now);
            assert_eq!(cache.list(now + LISTED / 2).as_deref(), Some(&rows[..]));
            assert_eq!(cache.list(now + LISTED / 2).as_deref(), Some(&rows[..]));
            told(&mut cache);
        }
        assert_eq!(cache.list(now), None);
        cache.mark("a-x".parse().unwrap());
        cache.listed(&rows, now);
        assert_eq!(cache.list(now), None, "it came while the list was on its way");
        cache.listed(&rows, now);
        assert_eq!(cache.list(now + LISTED), None);
        cache.listed(&[row("a-x", "deactivating", "stop-sigterm")], now);
        assert_eq!(cache.list(now), None, "it is on its way");
    }

    #[test]
    fn units_that_are_gone_are_forgotten() {
        let (rows, now) = ([running("a-x"), running("a-y")], Instant::now());
        let mut cache = filled(&rows, now);
        assert_eq!(cache.stale(&rows[..1], now), []);
        assert_eq!(cache.reading(&rows[1].machine), None);
        assert_eq!(cache.stale(&rows, now), rows[1..], "and read when they come back");
    }
}
