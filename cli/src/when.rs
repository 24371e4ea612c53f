//! Points in time as people write them: an age, a date, a time, `today`.

use std::str::FromStr;

use jiff::civil::{DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Span, Zoned};

/// A point in time, in microseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct When(pub(crate) u64);

/// Why a text is no point in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "write an age such as 10m, 2h or 3d, a time such as 10:30, \"2026-11-20 10:30\" or \
     2026-11-20T10:30:00Z, or now, today, yesterday"
)]
pub(crate) struct InvalidWhen;

impl FromStr for When {
    type Err = InvalidWhen;

    /// By this computer's clock and time zone.
    fn from_str(text: &str) -> Result<Self, InvalidWhen> {
        read(text.trim(), &Zoned::now()).ok_or(InvalidWhen)
    }
}

impl When {
    /// In milliseconds since the Unix epoch.
    pub(crate) fn millis(self) -> u64 {
        self.0 / 1000
    }

    fn of(time: jiff::Timestamp) -> Option<Self> {
        u64::try_from(time.as_microsecond()).ok().map(Self)
    }
}

fn read(text: &str, now: &Zoned) -> Option<When> {
    let local = match text {
        "now" => return When::of(now.timestamp()),
        "today" => now.date().to_datetime(Time::midnight()),
        "yesterday" => now.date().yesterday().ok()?.to_datetime(Time::midnight()),
        // With its own offset from UTC.
        text if text.parse::<jiff::Timestamp>().is_ok() => {
            return text.parse().ok().and_then(When::of);
        }
        // A plain number is no year and no hour: it has no unit.
        text if text.bytes().all(|byte| byte.is_ascii_digit()) => return None,
        text => match (text.parse::<DateTime>(), text.parse::<Time>()) {
            (Ok(datetime), _) => datetime,
            (_, Ok(time)) if text.contains(':') => now.date().to_datetime(time),
            _ => return ago(text, now),
        },
    };
    local_time(local, now.time_zone())
}

/// `10m`, `1h 30m`, `2 days ago`.
fn ago(text: &str, now: &Zoned) -> Option<When> {
    let age = text.parse::<Span>().ok()?.abs();
    When::of(now.checked_sub(age).ok()?.timestamp())
}

fn local_time(time: DateTime, zone: &TimeZone) -> Option<When> {
    When::of(time.to_zoned(zone.clone()).ok()?.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(text: &str) -> Option<u64> {
        // Paris is two hours ahead of UTC in summer.
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let now: jiff::Timestamp = "2026-07-20T10:30:40Z".parse().unwrap();
        read(text, &now.to_zoned(zone)).map(|when| when.millis() / 1000)
    }

    fn utc(text: &str) -> Option<u64> {
        let time: jiff::Timestamp = text.parse().unwrap();
        Some(u64::try_from(time.as_second()).unwrap())
    }

    #[test]
    fn what_people_write() {
        for (text, wanted) in [
            ("now", "2026-07-20T10:30:40Z"),
            ("today", "2026-07-19T22:00:00Z"),
            ("yesterday", "2026-07-18T22:00:00Z"),
            ("10m", "2026-07-20T10:20:40Z"),
            ("2h", "2026-07-20T08:30:40Z"),
            ("1h 30m", "2026-07-20T09:00:40Z"),
            ("3d", "2026-07-17T10:30:40Z"),
            ("2 days ago", "2026-07-18T10:30:40Z"),
            ("2026-07-20T10:00:00Z", "2026-07-20T10:00:00Z"),
            ("2026-07-20T10:00:00+02:00", "2026-07-20T08:00:00Z"),
            ("2026-07-20 10:00", "2026-07-20T08:00:00Z"),
            ("2026-07-20 10:00:01", "2026-07-20T08:00:01Z"),
            ("2026-07-20", "2026-07-19T22:00:00Z"),
            ("2026-01-20", "2026-01-19T23:00:00Z"),
            ("09:15", "2026-07-20T07:15:00Z"),
        ] {
            assert_eq!(seconds(text), utc(wanted), "{text}");
        }
    }

    #[test]
    fn what_means_nothing() {
        for text in ["", "10", "2026", "soon", "10 fortnights", "25:00", "2026-13-01", "-"] {
            assert_eq!(seconds(text), None, "{text:?}");
        }
    }
}
