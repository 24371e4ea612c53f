//! What is followed over many streams: when the other side is gone, when to try again, when to say
//! so, and when to give up.

use std::time::Duration;

use tokio::time::Instant;

/// How long a controller may be gone until it is given up.
pub(super) const GIVE_UP: Duration = Duration::from_secs(120);
/// The first pause and the longest, between two attempts.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(4));

/// The time for which the other side is gone.
#[derive(Debug, Default)]
pub(super) struct Outage {
    began: Option<Instant>,
    attempts: u32,
}

impl Outage {
    /// One that began before now, and was told of.
    pub(super) fn already() -> Self {
        Self { began: Some(Instant::now()), attempts: 2 }
    }

    /// Another attempt failed. Whether it is time to say so: not at the first, because a controller
    /// that ends its streams, or an agent that was upgraded, is back in no time.
    pub(super) fn goes_on(&mut self) -> bool {
        self.began.get_or_insert_with(Instant::now);
        self.attempts = self.attempts.saturating_add(1);
        self.attempts == 2
    }

    /// It is over. Whether that is news.
    pub(super) fn is_over(&mut self) -> bool {
        let told = self.attempts >= 2;
        *self = Self::default();
        told
    }

    /// Whether there is one.
    pub(super) fn has_begun(&self) -> bool {
        self.began.is_some()
    }

    /// Whether it takes too long for a controller.
    pub(super) fn is_hopeless(&self) -> bool {
        self.began.is_some_and(|began| began.elapsed() > GIVE_UP)
    }

    /// Waits until it is time to try again.
    pub(super) async fn pause(&self) {
        let doubled = PAUSES.0 * 2_u32.saturating_pow(self.attempts.saturating_sub(1).min(8));
        tokio::time::sleep(doubled.min(PAUSES.1)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_of_once_and_not_at_the_first_attempt() {
        let mut outage = Outage::default();
        assert!(!outage.is_over(), "there was none");
        assert!(!outage.goes_on());
        assert!(!outage.is_over(), "nobody was told");
        assert_eq!([outage.goes_on(), outage.goes_on(), outage.goes_on()], [false, true, false]);
        assert!(!outage.is_hopeless());
        assert!(outage.is_over());
        assert!(Outage::already().is_over());
        assert!(!Outage::already().goes_on());
    }
}
