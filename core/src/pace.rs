//! Bytes at a steady rate.
//!
//! Whoever wants to send asks for a turn, one piece at a time, and waits for it. Turns are given in
//! the order in which they are asked for, so senders that share a pace get the same share of it.

use std::time::Duration;

/// How much may go at once after a pause, in time.
const BURST: Duration = Duration::from_millis(100);

/// A rate, and what has been given of it.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Bytes in a second, more than none.
    rate: u64,
    /// When everything that was given is gone.
    free_at: Duration,
}

impl Pace {
    /// At most so many bytes in a second; none counts as one.
    #[must_use]
    pub fn new(rate: u64) -> Self {
        Self { rate: rate.max(1), free_at: Duration::ZERO }
    }

    /// When `bytes` may go, asked at `now`. They count as sent. Times are counted from any moment,
    /// always the same one.
    pub fn turn(&mut self, bytes: usize, now: Duration) -> Duration {
        let begin = self.free_at.max(now.saturating_sub(BURST));
        self.free_at = begin.saturating_add(self.takes(bytes));
        begin.max(now)
    }

    fn takes(&self, bytes: usize) -> Duration {
        let nanos = u128::try_from(bytes).unwrap_or(u128::MAX).saturating_mul(1_000_000_000);
        Duration::from_nanos(u64::try_from(nanos / u128::from(self.rate)).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn turns_are_as_far_apart_as_the_rate_says() {
        let mut pace = Pace::new(1000);
        let now = 10 * SECOND;
        // What was not used before is not made up for, but for a moment.
        assert_eq!(pace.turn(100, now), now);
        assert_eq!(pace.turn(1000, now), now);
        assert_eq!(pace.turn(500, now), now + SECOND);
        assert_eq!(pace.turn(1, now), now + SECOND * 3 / 2);
        assert_eq!(pace.turn(1, now + 9 * SECOND), now + 9 * SECOND);
    }

    proptest! {
        #[test]
        fn no_more_goes_than_the_rate_allows(
            rate in 1_u64..1_000_000,
            asked in prop::collection::vec((1_usize..300_000, 0_u64..2_000), 1..50),
        ) {
            let (mut pace, mut now, mut sent) = (Pace::new(rate), SECOND, 0_u64);
            for (bytes, pause) in asked {
                now += Duration::from_millis(pause);
                // The one before is gone when this one goes.
                let turn = pace.turn(bytes, now);
                prop_assert!(turn >= now);
                let allowed = (turn - SECOND + BURST).as_secs_f64() * f64::from(u32::try_from(rate).unwrap());
                prop_assert!(f64::from(u32::try_from(sent).unwrap()) <= allowed + 1.0);
                sent += u64::try_from(bytes).unwrap();
            }
        }
    }
}
