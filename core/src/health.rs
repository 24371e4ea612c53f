//! From single check results to healthy or unhealthy. Pure: the agent feeds it results.

use std::time::Duration;

use crate::spec::Health as Checks;
use crate::status::Health;
use crate::time::Timestamp;

/// The shortest and the longest pause between two rounds before the first success.
const EAGER: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));

/// The memory of one instance's checks since its container started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracker {
    started: Timestamp,
    failures: u32,
    last_failure: Option<String>,
    state: Health,
}

impl Tracker {
    /// For a container that started at `started`.
    #[must_use]
    pub fn new(started: Timestamp) -> Self {
        Self { started, failures: 0, last_failure: None, state: Health::Starting }
    }

    /// Takes the result of one round of checks.
    pub fn record(&mut self, checks: &Checks, now: Timestamp, result: Result<(), String>) {
        match result {
            Ok(()) => {
                self.failures = 0;
                self.last_failure = None;
                self.state = Health::Healthy;
            }
            Err(why) => {
                self.failures = self.failures.saturating_add(1);
                self.last_failure = Some(why);
                self.state = self.after_failure(checks, now);
            }
        }
    }

    fn after_failure(&self, checks: &Checks, now: Timestamp) -> Health {
        match self.state {
            Health::Starting if now.since(self.started) < checks.grace => Health::Starting,
            Health::Healthy if self.failures < checks.retries => Health::Healthy,
            _ => Health::Unhealthy,
        }
    }

    /// What the checks say by now.
    #[must_use]
    pub fn state(&self) -> Health {
        self.state
    }

    /// Why the last round failed; `None` when it passed.
    #[must_use]
    pub fn last_failure(&self) -> Option<&str> {
        self.last_failure.as_deref()
    }

    /// How long to wait for the next round. Until the first success a small part of the time that
    /// the container has been up, so that what is noticed late is hardly later than it is, and
    /// what takes its time is not disturbed all along; then as configured.
    #[must_use]
    pub fn pause(&self, checks: &Checks, now: Timestamp) -> Duration {
        let eager = (now.since(self.started) / 16).clamp(EAGER.0, EAGER.1);
        match self.state {
            Health::Starting => eager.min(checks.interval),
            _ => checks.interval,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks() -> Checks {
        Checks {
            unit: None,
            tcp: None,
            http: None,
            exec: vec![],
            grace: Duration::from_secs(10),
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
            retries: 3,
        }
    }

    fn after(results: &[(u64, bool)]) -> Tracker {
        let mut tracker = Tracker::new(Timestamp(0));
        for (second, passes) in results {
            let result = if *passes { Ok(()) } else { Err("refused".to_owned()) };
            tracker.record(&checks(), Timestamp(second * 1000), result);
        }
        tracker
    }

    #[test]
    fn health_needs_proof_and_sickness_needs_patience() {
        let cases: &[(&[(u64, bool)], Health)] = &[
            (&[], Health::Starting),
            (&[(1, false), (9, false)], Health::Starting),
            (&[(1, false), (10, false)], Health::Unhealthy),
            (&[(1, true)], Health::Healthy),
            (&[(1, true), (20, false), (25, false)], Health::Healthy),
            (&[(1, true), (20, false), (25, false), (30, false)], Health::Unhealthy),
            (&[(1, true), (20, false), (25, true), (30, false)], Health::Healthy),
            (&[(10, false), (15, true)], Health::Healthy),
        ];
        for (results, wanted) in cases {
            assert_eq!(after(results).state(), *wanted, "{results:?}");
        }
    }

    #[test]
    fn the_first_success_is_looked_for_eagerly() {
        let pause =
            |results, second: u64| after(results).pause(&checks(), Timestamp(second * 1000));
        assert!(pause(&[], 0) < pause(&[], 3));
        assert!(pause(&[], 9) < Duration::from_secs(1));
        assert_eq!(pause(&[(1, true)], 1), Duration::from_secs(5));
        assert_eq!(after(&[(1, false)]).last_failure(), Some("refused"));
    }
}
