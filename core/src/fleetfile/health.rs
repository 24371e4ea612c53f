//! `[instance.NAME.health]`: what proves that an instance works.

use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use crate::spec::{Health, Start};

use super::instance::read_command;
use super::problem::short;
use super::report::Report;
use super::table::{Item, Section, optional};

const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
/// Checks that follow one another faster only load the host.
const SHORTEST: Duration = Duration::from_millis(100);
const MOST_RETRIES: u32 = 1000;

/// Reads the table. `start` is `None` where it is wrong, and then nothing is said about it.
pub(super) fn read(
    mut section: Section<'_>,
    start: Option<&Start>,
    report: &mut Report<'_>,
) -> Option<Health> {
    let (unit, tcp) = (section.take("unit"), section.take("tcp"));
    let (http, exec) = (section.take("http"), section.take("exec"));
    if [&unit, &tcp, &http, &exec].iter().all(|check| check.is_none()) {
        let example = "unit = \"nginx.service\", tcp = \"127.0.0.1:80\", \
                       http = \"http://127.0.0.1:80/\" or exec = [\"/usr/bin/check\"]";
        section.lacks(&["unit", "tcp", "http", "exec"], example);
    }
    if let (Some(unit), Some(Start::Command(_))) = (&unit, start) {
        let message = "`unit` needs a booted instance: with `command` there is no systemd inside";
        report.error_help(&unit.key, message, "use one of the other checks, or write boot = true");
    }
    let (any, some) = (Duration::ZERO..=LONGEST, SHORTEST..=LONGEST);
    let (grace, interval) = (section.take("grace"), section.take("interval"));
    let (timeout, retries) = (section.take("timeout"), section.take("retries"));
    section.finish(&[], report);
    let unit = unit.map(|item| item.parsed("\"nginx.service\"", report));
    let tcp = tcp.map(|item| item.parsed("\"127.0.0.1:80\"", report));
    let http = http.map(|item| item.parsed("\"http://127.0.0.1:80/\"", report));
    let exec = exec.map(|item| read_command(&item, report));
    let grace = duration(grace, Health::DEFAULT_GRACE, &any, report);
    let interval = duration(interval, Health::DEFAULT_INTERVAL, &some, report);
    let timeout = duration(timeout, Health::DEFAULT_TIMEOUT, &some, report);
    let retries = read_retries(retries, report);
    Some(Health {
        unit: optional(unit)?,
        tcp: optional(tcp)?,
        http: optional(http)?,
        exec: optional(exec)?.unwrap_or_default(),
        grace: grace?,
        interval: interval?,
        timeout: timeout?,
        retries: retries?,
    })
}

pub(super) fn duration(
    item: Option<Item<'_>>,
    default: Duration,
    allowed: &RangeInclusive<Duration>,
    report: &mut Report<'_>,
) -> Option<Duration> {
    let Some(item) = item else { return Some(default) };
    let Length(duration) = item.parsed("\"30s\"", report)?;
    if allowed.contains(&duration) {
        return Some(duration);
    }
    let least = allowed.start();
    let least = if least.is_zero() { "0s".to_owned() } else { format!("{least:?}") };
    item.wrong(format!("must be from {least} to 24h"), report);
    None
}

fn read_retries(item: Option<Item<'_>>, report: &mut Report<'_>) -> Option<u32> {
    let Some(item) = item else { return Some(Health::DEFAULT_RETRIES) };
    let number = item.integer(report)?;
    let retries = u32::try_from(number).ok().filter(|n| (1..=MOST_RETRIES).contains(n));
    if retries.is_none() {
        item.wrong(format!("must be from 1 to {MOST_RETRIES}"), report);
    }
    retries
}

/// A length of time as the fleet file writes it.
#[derive(Debug, PartialEq, Eq)]
struct Length(Duration);

impl FromStr for Length {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let millis = match unit {
            "ms" => Some(1),
            "s" => Some(1000),
            "m" => Some(60_000),
            "h" => Some(3_600_000),
            _ => None,
        };
        let number = number.parse::<u64>().ok();
        let total = number.zip(millis).and_then(|(number, millis)| number.checked_mul(millis));
        total.map(|total| Self(Duration::from_millis(total))).ok_or_else(|| {
            let text = short(text, 80);
            format!("{text:?} is not a duration; write a number and ms, s, m or h, such as \"30s\"")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_a_number_and_a_unit() {
        for (text, millis) in [("30s", 30_000), ("2m", 120_000), ("500ms", 500), ("1h", 3_600_000)]
        {
            assert_eq!(text.parse(), Ok(Length(Duration::from_millis(millis))), "{text}");
        }
        for bad in ["", "30", "s", "1.5s", "-1s", "1 s", "1d", "1m30s", "99999999999999999999s"] {
            assert!(bad.parse::<Length>().is_err(), "{bad}");
        }
        assert!("18446744073709551615h".parse::<Length>().is_err());
    }
}
