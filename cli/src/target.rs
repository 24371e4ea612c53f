//! How the command line names things: an instance on a host, a change of a label, a duration.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use shoal_core::label::{InvalidLabel, parse_label};
use shoal_core::name::{FleetName, HostName, InstanceId, InstanceName, InvalidName};

/// `FLEET/INSTANCE`, or `FLEET/INSTANCE@HOST` where several hosts run it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) instance: InstanceId,
    pub(crate) host: Option<HostName>,
}

impl FromStr for Target {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let (instance, host) = match text.split_once('@') {
            Some((instance, host)) => (instance, Some(host.parse()?)),
            None => (text, None),
        };
        Ok(Self { instance: instance.parse()?, host })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Some(host) => write!(f, "{}@{host}", self.instance),
            None => write!(f, "{}", self.instance),
        }
    }
}

impl Target {
    /// The host as messages carry it.
    pub(crate) fn host_name(&self) -> Option<String> {
        self.host.as_ref().map(ToString::to_string)
    }
}

/// `FLEET`, `FLEET/INSTANCE` or `FLEET/INSTANCE@HOST`: all that runs there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scope {
    pub(crate) fleet: FleetName,
    pub(crate) instance: Option<InstanceName>,
    pub(crate) host: Option<HostName>,
}

impl FromStr for Scope {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let (name, host) = match text.split_once('@') {
            Some((name, host)) => (name, Some(host.parse()?)),
            None => (text, None),
        };
        let (fleet, instance) = match name.split_once('/') {
            Some((fleet, instance)) => (fleet.parse()?, Some(instance.parse()?)),
            None => (name.parse()?, None),
        };
        Ok(Self { fleet, instance, host })
    }
}

impl Scope {
    /// Whether the instance on that host is meant.
    pub(crate) fn has(&self, id: &InstanceId, host: &str) -> bool {
        self.fleet == id.fleet
            && self.instance.as_ref().is_none_or(|name| *name == id.instance)
            && self.host.as_ref().is_none_or(|name| name.as_str() == host)
    }

    /// It without its host.
    pub(crate) fn instance_text(&self) -> String {
        match &self.instance {
            Some(instance) => format!("{}/{instance}", self.fleet),
            None => self.fleet.to_string(),
        }
    }
}

/// `KEY=VALUE` sets a label, `KEY-` removes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LabelEdit {
    Set(String, String),
    Remove(String),
}

impl FromStr for LabelEdit {
    type Err = InvalidLabel;

    fn from_str(text: &str) -> Result<Self, InvalidLabel> {
        match text.strip_suffix('-').filter(|_| !text.contains('=')) {
            // The label's own rules, with a value that is always right.
            Some(key) => parse_label(&format!("{key}=x")).map(|(key, _)| Self::Remove(key)),
            None => parse_label(text).map(|(key, value)| Self::Set(key, value)),
        }
    }
}

/// Why a text is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("write a number and a unit, such as 90s, 15m or 2h; it must be more than nothing")]
pub(crate) struct InvalidDuration;

/// Reads `90s`, `15m`, `1h 30m`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, InvalidDuration> {
    let signed: jiff::SignedDuration = text.parse().map_err(|_| InvalidDuration)?;
    let duration = Duration::try_from(signed).map_err(|_| InvalidDuration)?;
    if duration < Duration::from_millis(1) { Err(InvalidDuration) } else { Ok(duration) }
}

/// A text that says no age.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("write a number and a unit, such as 7d, 12h or 0s")]
pub(crate) struct InvalidAge;

/// An age: as a duration, with days besides, and also none.
///
/// # Errors
/// Where it is neither.
pub(crate) fn parse_age(text: &str) -> Result<Duration, InvalidAge> {
    if let Some(days) = text.strip_suffix('d') {
        let days: u32 = days.trim().parse().map_err(|_| InvalidAge)?;
        return Ok(Duration::from_secs(u64::from(days) * 86_400));
    }
    let signed: jiff::SignedDuration = text.parse().map_err(|_| InvalidAge)?;
    Duration::try_from(signed).map_err(|_| InvalidAge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let plain: Target = "shop/main".parse().unwrap();
        assert_eq!((plain.to_string().as_str(), plain.host_name()), ("shop/main", None));
        let on: Target = "shop/main@web-1.example".parse().unwrap();
        assert_eq!(on.host_name().as_deref(), Some("web-1.example"));
        assert_eq!(on.to_string(), "shop/main@web-1.example");
        for bad in ["shop", "shop/", "/main", "shop/main@", "Shop/main", "shop/../x", "a/b@c@d"] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }

    #[test]
    fn scopes() {
        let has = |scope: &str| {
            let scope: Scope = scope.parse().unwrap();
            ["shop/main", "shop/db", "mail/main"].map(|id| scope.has(&id.parse().unwrap(), "h1"))
        };
        assert_eq!(has("shop"), [true, true, false]);
        assert_eq!(has("shop/db"), [false, true, false]);
        assert_eq!(has("shop/db@h1"), [false, true, false]);
        assert_eq!(has("shop/db@h2"), [false; 3]);
        assert_eq!(has("shop@h1"), [true, true, false]);
        for bad in ["", "Shop", "shop/", "/db", "shop/db/x", "shop@", "shop/db@h1@h2"] {
            assert!(bad.parse::<Scope>().is_err(), "{bad}");
        }
    }

    #[test]
    fn label_edits() {
        assert_eq!("role=web".parse(), Ok(LabelEdit::Set("role".into(), "web".into())));
        assert_eq!("role-".parse(), Ok(LabelEdit::Remove("role".into())));
        assert_eq!("role=a-".parse(), Ok(LabelEdit::Set("role".into(), "a-".into())));
        for bad in ["role", "-", "a b-", "=x", "role="] {
            assert!(bad.parse::<LabelEdit>().is_err(), "{bad}");
        }
    }

    #[test]
    fn durations() {
        for (text, seconds) in [("90s", 90), ("15m", 900), ("2h", 7200), ("1h 30m", 5400)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "0s", "-5m", "10", "1 fortnight", "5d"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ages() {
        for (text, seconds) in [("7d", 604_800), ("0s", 0), ("0d", 0), ("1h 30m", 5400)] {
            assert_eq!(parse_age(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "d", "-1d", "-5m", "10", "1.5d"] {
            assert!(parse_age(bad).is_err(), "{bad}");
        }
    }
}
