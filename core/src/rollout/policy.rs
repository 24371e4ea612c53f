//! How a fleet is to be moved: the fleet file's `[rollout]`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::window::Window;
use crate::text::as_text;

/// How a rollout goes about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Policy {
    /// How many hosts are at the revision after each batch; the first is the canary. What the last
    /// one leaves over is a further batch.
    pub batches: Vec<Reach>,
    /// How long all hosts of a batch must stay ready before the next is begun.
    #[serde(with = "millis")]
    pub monitor: Duration,
    /// How many hosts may fail without ending the rollout.
    pub max_failures: u32,
    /// What becomes of it where more do.
    pub on_failure: OnFailure,
    /// How long the hosts of one batch may take, images aside, until all are ready.
    #[serde(with = "millis")]
    pub batch_timeout: Duration,
    /// A label by which batches are spread: none takes all hosts of one of its values, where
    /// there are several.
    pub spread: Option<String>,
    /// Between which batches someone must say `promote`.
    pub promote: Promote,
    /// When a batch may be begun; always where there are none.
    pub windows: Vec<Window>,
    /// Whether all hosts get their images before the first batch, and not each batch its own.
    pub stage_ahead: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            batches: vec![Reach::Hosts(1), Reach::Percent(10), Reach::Percent(50), Reach::ALL],
            monitor: Duration::ZERO,
            max_failures: 0,
            on_failure: OnFailure::Rollback,
            batch_timeout: Duration::from_secs(5 * 60),
            spread: None,
            promote: Promote::Auto,
            windows: Vec::new(),
            stage_ahead: false,
        }
    }
}

/// How far a batch brings a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Reach {
    /// So many hosts.
    Hosts(u32),
    /// So many of a hundred hosts, 1 to 100; parts of a host count as one.
    Percent(u8),
}

impl Reach {
    /// All hosts.
    pub const ALL: Self = Self::Percent(100);

    /// How many of `all` hosts it is; at least 1 where there are any.
    #[must_use]
    pub fn of(self, all: usize) -> usize {
        match self {
            Self::Hosts(count) => usize::try_from(count).unwrap_or(all).min(all),
            Self::Percent(percent) => (all * usize::from(percent)).div_ceil(100).min(all),
        }
    }
}

/// A text that is no number of hosts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no number of hosts; write \"1\" or more, or a share such as \"10%\", at most \"100%\""
)]
pub struct InvalidReach(String);

impl FromStr for Reach {
    type Err = InvalidReach;

    fn from_str(text: &str) -> Result<Self, InvalidReach> {
        let digits = |text: &str| -> Option<u32> {
            let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            text.parse().ok().filter(|number| plain && *number > 0)
        };
        let reach = match text.strip_suffix('%') {
            Some(share) => digits(share)
                .and_then(|share| u8::try_from(share).ok())
                .filter(|share| *share <= 100)
                .map(Self::Percent),
            None => digits(text).map(Self::Hosts),
        };
        reach.ok_or_else(|| InvalidReach(text.chars().take(40).collect()))
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hosts(count) => f.pad(&count.to_string()),
            Self::Percent(percent) => f.pad(&format!("{percent}%")),
        }
    }
}

as_text!(Reach);

/// What becomes of a rollout of which too many hosts fail.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// The hosts that were changed go back, batch by batch.
    #[default]
    Rollback,
    /// All is left as it is, for someone to look at.
    Pause,
}

/// Between which batches someone must say `promote`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Promote {
    /// None: health is proof enough.
    #[default]
    Auto,
    /// After the canary.
    Canary,
    /// After each but the last.
    Each,
}

/// Durations as whole milliseconds.
mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reach_is_a_number_or_a_share() {
        for (text, of_seven) in [("1", 1), ("3", 3), ("10%", 1), ("50%", 4), ("100%", 7), ("9", 7)]
        {
            let reach: Reach = text.parse().unwrap();
            assert_eq!((reach.of(7), reach.to_string()), (of_seven, text.to_owned()));
        }
        assert_eq!(Reach::Percent(1).of(1), 1, "never less than one");
        for text in ["", "0", "0%", "101%", "-1", "1.5", "+1", "x", "%"] {
            assert!(text.parse::<Reach>().is_err(), "{text}");
        }
    }
}
