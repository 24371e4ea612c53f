//! `[rollout]`: how a new revision gets onto the hosts.

use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::DeValue;

use crate::label::is_label_key;
use crate::rollout::{OnFailure, Policy, Promote, Reach};

use super::health::duration;
use super::report::Report;
use super::security;
use super::table::{Item, Section, optional};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const MONITOR: RangeInclusive<Duration> = Duration::ZERO..=DAY;
const BATCH_TIMEOUT: RangeInclusive<Duration> = Duration::from_secs(1)..=DAY;

/// Batches and windows that there may be.
const MOST: usize = 100;

/// Reads the table.
pub(super) fn read(mut section: Section<'_>, report: &mut Report<'_>) -> Option<Policy> {
    let usual = Policy::default();
    let (batches, windows) = (section.take("batches"), section.take("windows"));
    let (monitor, batch_timeout) = (section.take("monitor"), section.take("batch-timeout"));
    let (max_failures, on_failure) = (section.take("max-failures"), section.take("on-failure"));
    let (spread, promote) = (section.take("spread"), section.take("promote"));
    let stage_ahead = section.take("stage-ahead");
    section.finish(&[], report);
    let batches = batches.map(|item| read_batches(&item, report));
    let windows = windows.map(|item| list(&item, "\"sat,sun 22:00-04:00\"", report));
    let monitor = duration(monitor, usual.monitor, &MONITOR, report);
    let batch_timeout = duration(batch_timeout, usual.batch_timeout, &BATCH_TIMEOUT, report);
    let max_failures = max_failures.map(|item| read_failures(&item, report));
    let on_failure = on_failure.map(|item| word(&item, ON_FAILURE, report));
    let promote = promote.map(|item| word(&item, PROMOTE, report));
    let spread = spread.map(|item| read_spread(&item, report));
    let stage_ahead = security::flag(stage_ahead.as_ref(), usual.stage_ahead, report);
    Some(Policy {
        batches: optional(batches)?.unwrap_or(usual.batches),
        windows: optional(windows)?.unwrap_or_default(),
        monitor: monitor?,
        batch_timeout: batch_timeout?,
        max_failures: optional(max_failures)?.unwrap_or_default(),
        on_failure: optional(on_failure)?.unwrap_or_default(),
        promote: optional(promote)?.unwrap_or_default(),
        spread: optional(spread)?,
        stage_ahead: stage_ahead?,
    })
}

const ON_FAILURE: &[(&str, OnFailure)] =
    &[("rollback", OnFailure::Rollback), ("pause", OnFailure::Pause)];
const PROMOTE: &[(&str, Promote)] =
    &[("auto", Promote::Auto), ("canary", Promote::Canary), ("each", Promote::Each)];

/// The one of some words that a text is.
pub(super) fn word<T: Copy>(
    item: &Item<'_>,
    all: &[(&str, T)],
    report: &mut Report<'_>,
) -> Option<T> {
    let text = item.text(&format!("{:?}", all[0].0), report)?;
    let found = all.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
    if found.is_none() {
        let names: Vec<String> = all.iter().map(|(name, _)| format!("{name:?}")).collect();
        item.wrong(format!("must be one of {}", names.join(", ")), report);
    }
    found
}

fn read_batches(item: &Item<'_>, report: &mut Report<'_>) -> Option<Vec<Reach>> {
    let batches: Vec<Reach> = list(item, "\"10%\"", report)?;
    if batches.is_empty() {
        item.wrong("has no batch; leave it out for the usual ones", report);
        return None;
    }
    let shrinks = batches.windows(2).any(|two| match (two[0], two[1]) {
        (Reach::Hosts(one), Reach::Hosts(other)) => other <= one,
        (Reach::Percent(one), Reach::Percent(other)) => other <= one,
        _ => false,
    });
    if shrinks {
        let help = "each says how many hosts are changed after it, not how many more";
        report.error_help(&item.span(), "the batches of a rollout must grow", help);
        return None;
    }
    Some(batches)
}

fn list<T>(item: &Item<'_>, example: &str, report: &mut Report<'_>) -> Option<Vec<T>>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    let DeValue::Array(array) = item.value() else {
        item.wrong_type(&format!("a list, such as [{example}]"), report);
        return None;
    };
    if array.len() > MOST {
        item.wrong(format!("has {} entries; {MOST} are allowed", array.len()), report);
        return None;
    }
    let all: Vec<Option<T>> =
        item.elements(array).map(|entry| entry.parsed(example, report)).collect();
    all.into_iter().collect()
}

fn read_failures(item: &Item<'_>, report: &mut Report<'_>) -> Option<u32> {
    let number = u32::try_from(item.integer(report)?).ok();
    if number.is_none() {
        item.wrong("must be 0 or more: how many hosts may fail", report);
    }
    number
}

fn read_spread(item: &Item<'_>, report: &mut Report<'_>) -> Option<String> {
    let key = item.text("\"site\"", report)?;
    if !is_label_key(key) {
        item.wrong("is not the key of a label, such as \"site\"", report);
        return None;
    }
    Some(key.to_owned())
}
