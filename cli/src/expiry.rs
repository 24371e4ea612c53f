//! Until when a signed image may be taken into use: `90d` from now, or `2027-06-30`.

use std::str::FromStr;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Unit};

/// A point in time to come, as someone wrote it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Expiry {
    At(Timestamp),
    In(Span),
}

/// A text that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "write how long from now, such as 90d or 1y, or a date such as 2027-06-30, which ends as it \
     begins in UTC"
)]
pub(crate) struct InvalidExpiry;

impl FromStr for Expiry {
    type Err = InvalidExpiry;

    fn from_str(text: &str) -> Result<Self, InvalidExpiry> {
        if let Ok(at) = text.parse::<Timestamp>() {
            return Ok(Self::At(at));
        }
        if let Ok(date) = text.parse::<Date>() {
            let begins = date.to_zoned(TimeZone::UTC).map_err(|_| InvalidExpiry)?;
            return Ok(Self::At(begins.timestamp()));
        }
        let span = text.parse::<Span>().ok().filter(|span| span.is_positive());
        span.map(Self::In).ok_or(InvalidExpiry)
    }
}

impl Expiry {
    /// The point in time, to the second; `None` where it is not to come.
    pub(crate) fn after(self, now: Timestamp) -> Option<Timestamp> {
        let at = match self {
            Self::At(at) => at,
            Self::In(span) => now.to_zoned(TimeZone::UTC).checked_add(span).ok()?.timestamp(),
        };
        at.round(Unit::Second).ok().filter(|at| *at > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_in_time_is_a_date_or_so_far_from_now() {
        let now: Timestamp = "2026-11-20T09:00:00Z".parse().unwrap();
        for (text, wanted) in [
            ("90d", "2027-02-18T09:00:00Z"),
            ("1y", "2027-11-20T09:00:00Z"),
            ("2w", "2026-12-04T09:00:00Z"),
            ("12h", "2026-11-20T21:00:00Z"),
            ("2027-06-30", "2027-06-30T00:00:00Z"),
            ("2027-06-30T12:00:00+02:00", "2027-06-30T10:00:00Z"),
        ] {
            let at = text.parse::<Expiry>().unwrap().after(now).unwrap();
            assert_eq!(at.to_string(), wanted, "{text}");
        }
        for past in ["2026-11-20", "2026-11-20T09:00:00Z", "0001-01-01"] {
            assert!(past.parse::<Expiry>().unwrap().after(now).is_none(), "{past}");
        }
        for bad in ["", "soon", "-5d", "0d", "90", "2027-13-01", "5 moons"] {
            assert!(bad.parse::<Expiry>().is_err(), "{bad}");
        }
    }
}
