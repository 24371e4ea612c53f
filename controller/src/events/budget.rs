//! How many events a host may say.

use shoal_core::time::Timestamp;

/// Events that may come at once: a host that starts a hundred instances says a few of each.
const BURST: u64 = 600;
/// Milliseconds after which one more may come: sixty a minute.
const ONE_EACH: u64 = 1000;
/// Milliseconds between two words about what was left out.
const TOLD_EACH: u64 = 60_000;

/// What is left of it.
#[derive(Debug)]
pub(super) struct Budget {
    left: u64,
    /// Up to when it was filled up, in milliseconds since the Unix epoch.
    filled_ms: u64,
    left_out: u64,
    told_ms: u64,
}

impl Budget {
    pub(super) fn new(now: Timestamp) -> Self {
        Self { left: BURST, filled_ms: now.0, left_out: 0, told_ms: 0 }
    }

    /// Whether one more may come now; it is counted either way.
    pub(super) fn take(&mut self, now: Timestamp) -> bool {
        let more = now.0.saturating_sub(self.filled_ms) / ONE_EACH;
        self.filled_ms = self.filled_ms.min(now.0) + more * ONE_EACH;
        self.left = (self.left + more).min(BURST);
        if self.left == 0 {
            self.left_out += 1;
            return false;
        }
        self.left -= 1;
        true
    }

    /// How many did not come in, where it is time to say so.
    pub(super) fn left_out(&mut self, now: Timestamp) -> Option<u64> {
        if self.left_out == 0 || now.0.saturating_sub(self.told_ms) < TOLD_EACH {
            return None;
        }
        self.told_ms = now.0;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_fine_and_a_flood_is_not() {
        let start = 1_000_000;
        let mut budget = Budget::new(Timestamp(start));
        let taken = (0..1000).filter(|_| budget.take(Timestamp(start))).count();
        assert_eq!(u64::try_from(taken), Ok(BURST));
        // An hour of as much as it likes.
        let mut taken = 0;
        for second in 1..=3600 {
            taken += (0..10).filter(|_| budget.take(Timestamp(start + second * 1000))).count();
        }
        assert_eq!(taken, 3600);
        assert_eq!(budget.left_out(Timestamp(start + 3_600_000)), Some(400 + 9 * 3600));
        assert_eq!(budget.left_out(Timestamp(start + 3_600_000)), None);
    }

    #[test]
    fn a_clock_that_is_set_back_locks_nobody_out() {
        let mut budget = Budget::new(Timestamp(9_000_000));
        while budget.take(Timestamp(9_000_000)) {}
        assert!(!budget.take(Timestamp(5_000_000)));
        assert!(budget.take(Timestamp(5_001_000)));
    }
}
