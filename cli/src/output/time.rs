//! Points in time: `3m ago` in tables, ISO 8601 in UTC in JSON.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};
use shoal_core::time::Timestamp;

/// A point in time that can be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct At(Timestamp);

impl At {
    pub(crate) fn new(millis: u64) -> Self {
        Self(Timestamp(millis))
    }

    /// None where the wire's 0 says that it never was.
    pub(crate) fn unless_never(millis: u64) -> Option<Self> {
        (millis != 0).then(|| Self::new(millis))
    }

    /// So many milliseconds before.
    pub(crate) fn earlier(self, millis: u64) -> Self {
        Self::new(self.0.0.saturating_sub(millis))
    }

    /// Whether it is later than `time`.
    pub(crate) fn is_after(self, time: Timestamp) -> bool {
        self.0 > time
    }

    /// How long ago it was: `3m ago`.
    pub(crate) fn ago(self, now: Timestamp) -> String {
        format!("{} ago", span(now.since(self.0)))
    }

    /// How far off it is: `in 23h`, or `3m ago`.
    pub(crate) fn relative(self, now: Timestamp) -> String {
        if self.0 > now { format!("in {}", ahead(self.0.since(now))) } else { self.ago(now) }
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = i64::try_from(self.0.0).unwrap_or(i64::MAX);
        match jiff::Timestamp::from_millisecond(millis) {
            Ok(time) => write!(f, "{time:.0}"),
            Err(_) => f.write_str("a time after the year 9999"),
        }
    }
}

impl Serialize for At {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// As [`span`], but to the nearest: what was made for 15 minutes just now ends in `15m`.
fn ahead(duration: Duration) -> String {
    let half = match duration.as_secs() {
        0..60 => Duration::from_millis(500),
        60..3600 => Duration::from_secs(30),
        3600..172_800 => Duration::from_secs(1800),
        _ => Duration::from_secs(43_200),
    };
    span(duration + half)
}

/// A duration in its largest unit: `12s`, `5m`, `3h`, `12d`.
pub(crate) fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// So many milliseconds as the fleet file has them: `1h 30m`, `90s` as `1m 30s`, `500ms`.
pub(crate) fn exact(millis: u64) -> String {
    if !millis.is_multiple_of(1000) {
        return format!("{millis}ms");
    }
    let seconds = millis / 1000;
    let parts = [(seconds / 3600, 'h'), (seconds / 60 % 60, 'm'), (seconds % 60, 's')];
    let parts: Vec<String> =
        parts.iter().filter(|(n, _)| *n > 0).map(|(n, unit)| format!("{n}{unit}")).collect();
    if parts.is_empty() { "0s".to_owned() } else { parts.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_use_their_largest_unit() {
        let table = [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (3599, "59m"),
            (3600, "1h"),
            (100_000, "27h"),
            (172_800, "2d"),
        ];
        for (seconds, text) in table {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn exact_durations_can_be_read_again() {
        let table =
            [(0, "0s"), (500, "500ms"), (30_000, "30s"), (90_000, "1m 30s"), (5_400_000, "1h 30m")];
        for (millis, text) in table {
            assert_eq!(exact(millis), text);
        }
    }

    #[test]
    fn times_are_relative_for_people_and_absolute_for_scripts() {
        let at = At::new(1_800_000_000_123);
        assert_eq!(at.to_string(), "2027-01-15T08:00:00Z");
        assert_eq!(serde_json::to_string(&at).unwrap(), "\"2027-01-15T08:00:00Z\"");
        assert_eq!(at.ago(Timestamp(1_800_000_180_123)), "3m ago");
        assert_eq!(at.ago(Timestamp(0)), "0s ago");
        assert_eq!(at.relative(Timestamp(1_800_000_000_123 - 7_200_000)), "in 2h");
        for (seconds, wanted) in
            [(899, "15m"), (59, "59s"), (3599, "1h"), (86_399, "24h"), (31_535_999, "365d")]
        {
            assert_eq!(ahead(Duration::from_millis(seconds * 1000 + 400)), wanted);
        }
        assert_eq!(At::unless_never(0), None);
        assert_eq!(At::new(u64::MAX).to_string(), "a time after the year 9999");
    }
}
