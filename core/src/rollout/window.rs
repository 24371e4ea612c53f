//! Maintenance windows: when a batch may be begun. All in UTC.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::text::as_text;
use crate::time::Timestamp;

const MINUTES_OF_DAY: u16 = 24 * 60;
const MINUTE_MS: u64 = 60_000;
const DAY_MS: u64 = 86_400_000;
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// A part of the days of a week, such as `22:00-04:00` or `sat,sun 06:00-18:00`, in UTC. One that
/// ends no later than it begins goes on into the next day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Window {
    /// On which days it begins, Monday first.
    days: [bool; 7],
    /// Minutes from midnight.
    from: u16,
    /// Minutes from midnight.
    to: u16,
}

impl Window {
    /// Whether `now` is in it.
    #[must_use]
    pub fn is_open(&self, now: Timestamp) -> bool {
        let minute = minute_of_day(now);
        let today = weekday(now);
        let yesterday = (today + 6) % 7;
        if self.from < self.to {
            return self.days[today] && (self.from..self.to).contains(&minute);
        }
        (self.days[today] && minute >= self.from) || (self.days[yesterday] && minute < self.to)
    }

    /// When it opens next, after `now`.
    #[must_use]
    pub fn opens(&self, now: Timestamp) -> Timestamp {
        let midnight = now.0 - now.0 % DAY_MS;
        let begins = Duration::from_secs(u64::from(self.from) * 60);
        let openings = (0..8_u64).map(|day| Timestamp(midnight + day * DAY_MS).after(begins));
        let mut openings = openings.filter(|at| *at > now && self.days[weekday(*at)]);
        openings.next().unwrap_or(now)
    }
}

fn minute_of_day(at: Timestamp) -> u16 {
    u16::try_from(at.0 % DAY_MS / MINUTE_MS).unwrap_or(0)
}

/// 0 is Monday; 1970-01-01 was a Thursday.
fn weekday(at: Timestamp) -> usize {
    usize::try_from((at.0 / DAY_MS + 3) % 7).unwrap_or(0)
}

/// A text that is no window.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no maintenance window; write a time of day in UTC such as \"22:00-04:00\", with days \
     before it where not every day is meant: \"sat,sun 06:00-18:00\" or \"mon-fri 22:00-04:00\""
)]
pub struct InvalidWindow(String);

impl FromStr for Window {
    type Err = InvalidWindow;

    fn from_str(text: &str) -> Result<Self, InvalidWindow> {
        let window = || {
            let (days, times) = match text.split_once(' ') {
                Some((days, times)) => (read_days(days)?, times),
                None => ([true; 7], text),
            };
            let (from, to) = times.split_once('-')?;
            // No day has a minute 24:00 to begin in.
            let from = read_minute(from).filter(|from| *from < MINUTES_OF_DAY)?;
            Some(Self { days, from, to: read_minute(to)? % MINUTES_OF_DAY })
        };
        window().ok_or_else(|| InvalidWindow(text.chars().take(60).collect()))
    }
}

fn read_days(text: &str) -> Option<[bool; 7]> {
    let number = |name: &str| DAYS.iter().position(|day| *day == name);
    let mut days = [false; 7];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        let count = (last + 7 - first) % 7;
        (0..=count).for_each(|step| days[(first + step) % 7] = true);
    }
    Some(days)
}

/// `24:00` is the end of the day.
fn read_minute(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let number = |text: &str| -> Option<u16> {
        let plain = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
        text.parse().ok().filter(|_| plain)
    };
    let (hour, minute) = (number(hour)?, number(minute)?);
    let all = hour * 60 + minute;
    (minute < 60 && all <= MINUTES_OF_DAY).then_some(all)
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
        let named = DAYS.iter().zip(self.days).filter(|(_, on)| *on).map(|(day, _)| *day);
        let mut text = if self.days == [true; 7] {
            String::new()
        } else {
            format!("{} ", named.collect::<Vec<_>>().join(","))
        };
        text.push_str(&format!("{}-{}", time(self.from), time(self.to)));
        f.pad(&text)
    }
}

as_text!(Window);

#[cfg(test)]
mod tests {
    use super::*;

    /// Hours after Monday 1970-01-05, 00:00.
    fn monday(hours: u64) -> Timestamp {
        Timestamp(4 * DAY_MS + hours * 60 * MINUTE_MS)
    }

    #[test]
    fn a_window_may_go_on_into_the_next_day() {
        let window: Window = "mon-fri 22:00-04:00".parse().unwrap();
        let open = |hours| window.is_open(monday(hours));
        assert!(open(22) && open(23) && open(24) && open(27));
        assert!(!open(21) && !open(28) && !open(3), "Sunday is not among its days");
        assert!(open(4 * 24 + 23) && open(5 * 24 + 3), "of Friday");
        assert!(!open(5 * 24 + 23));
        assert_eq!(window.opens(monday(12)), monday(22));
        assert_eq!(window.opens(monday(22)), monday(46));
        assert_eq!(window.opens(monday(5 * 24)), monday(7 * 24 + 22));
    }

    #[test]
    fn it_is_written_as_it_is_read() {
        for (text, shown) in [
            ("22:00-04:00", "22:00-04:00"),
            ("sat,sun 06:00-18:30", "sat,sun 06:00-18:30"),
            ("sat-mon 06:00-24:00", "mon,sat,sun 06:00-00:00"),
            ("00:00-00:00", "00:00-00:00"),
        ] {
            let window: Window = text.parse().unwrap();
            assert_eq!(window.to_string(), shown);
            assert_eq!(shown.parse(), Ok(window));
        }
        assert!("00:00-00:00".parse::<Window>().unwrap().is_open(monday(5)), "the whole day");
        for text in [
            "",
            "22-04",
            "24:01-02:00",
            "24:00-02:00",
            "22:60-23:00",
            "Mon 1:00-2:00",
            "x 01:00-02:00",
        ] {
            assert!(text.parse::<Window>().is_err(), "{text}");
        }
    }
}
