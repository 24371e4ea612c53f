//! What of a stream has been shown, so that the next stream goes on where it broke off: nothing
//! twice, nothing left out. Pure.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};

/// What is asked for again, in microseconds before the newest: entries do not come in the exact
/// order of their times.
const OVERLAP: u64 = 2_000_000;
/// How far, in microseconds, a clock may be ahead of ours and still be taken for right.
const WILD: u64 = 3_600_000_000;
/// Entries of that time that are known again at most.
const MOST: usize = 50_000;

/// The last of what was shown.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Time and content, in the order in which they came.
    recent: VecDeque<(u64, u64)>,
    /// In microseconds since the Unix epoch; 0: nothing was shown.
    newest: u64,
}

impl Seen {
    /// Notes something of that time. Whether it is new.
    pub(super) fn take(&mut self, time_us: u64, content: &impl Hash) -> bool {
        let mut hasher = DefaultHasher::new();
        content.hash(&mut hasher);
        let this = (time_us, hasher.finish());
        if self.recent.contains(&this) {
            return false;
        }
        self.newest = self.newest.max(time_us);
        self.recent.push_back(this);
        let from = self.newest.saturating_sub(OVERLAP);
        while let Some((time, _)) = self.recent.front()
            && (*time < from || self.recent.len() > MOST)
        {
            self.recent.pop_front();
        }
        true
    }

    /// From when on to ask again; `None` where nothing was shown. It goes by the clock of who wrote,
    /// which may not be ours; a time that is long to come, by a clock that was wrong for a moment,
    /// does not count.
    pub(super) fn since(&self, now_us: u64) -> Option<u64> {
        let wild = self.newest > now_us.saturating_add(WILD);
        let newest = if wild { now_us } else { self.newest };
        (self.newest > 0).then(|| newest.saturating_sub(OVERLAP))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_again_is_known() {
        let mut seen = Seen::default();
        assert_eq!(seen.since(100), None);
        let second = 1_000_000;
        for (time, text, new) in [
            (10 * second, "a", true),
            (10 * second, "b", true),
            (11 * second, "a", true),
            (10 * second, "a", false),
            (11 * second, "a", false),
            (10 * second + 1, "late", true),
        ] {
            assert_eq!(seen.take(time, &text), new, "{time} {text}");
        }
        assert_eq!(seen.since(100 * second), Some(9 * second));
        assert_eq!(seen.since(5 * second), Some(9 * second), "a clock that is ahead of ours");
        seen.take(9_000 * second, &"wild");
        assert_eq!(seen.since(100 * second), Some(98 * second), "a clock that was wild");
    }

    #[test]
    fn what_is_old_is_forgotten() {
        let mut seen = Seen::default();
        for at in 0..100_000 {
            assert!(seen.take(1 + at * 1000, &at));
        }
        assert!(seen.recent.len() <= 2001, "{}", seen.recent.len());
    }
}
