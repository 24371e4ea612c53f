//! What of the host is seen inside, and what becomes of what is written.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{InvalidValue, check_path, invalid};
use crate::text::as_text;

/// A directory or file of the host that is seen inside, if the host's policy allows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Mount {
    /// Where it is on the host.
    pub source: HostPath,
    /// Whether the instance may write to it.
    #[serde(default)]
    pub writable: bool,
    /// Whether other instances may write to it too.
    #[serde(default)]
    pub shared: bool,
}

checked_text!(
    /// An absolute, plain path of the host that an instance may be shown: never Shoal's own.
    HostPath,
    |text| {
        check_path(text)?;
        let own = ["/var/lib/shoal", "/run/shoal", "/etc/shoal", "/etc/systemd"];
        let within = |dir: &str| text == dir || text.starts_with(&format!("{dir}/"));
        let above = |dir: &str| dir.starts_with(&format!("{text}/"));
        if own.iter().any(|dir| within(dir) || above(dir)) {
            return Err("is, or holds, a place that Shoal or systemd lives in");
        }
        Ok(())
    }
);

impl HostPath {
    /// Whether this is `dir` or something in it.
    #[must_use]
    pub fn is_in(&self, dir: &Self) -> bool {
        let rest = self.0.strip_prefix(&dir.0);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// What becomes of what an instance writes outside its data volumes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Root {
    /// It is on the host's disk until the container is made anew.
    #[default]
    Discarded,
    /// It is in memory, and counts as the instance's.
    Memory,
    /// It can't write there.
    ReadOnly,
}

impl Root {
    /// Every one, with its name in the fleet file.
    pub const ALL: [(&'static str, Self); 3] =
        [("discarded", Self::Discarded), ("memory", Self::Memory), ("read-only", Self::ReadOnly)];

    /// Whether it is what is used where nothing is said.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl FromStr for Root {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let known = Self::ALL.iter().find(|(name, _)| *name == text);
        let problem = "is no kind of root; write \"discarded\", \"memory\" or \"read-only\"";
        known.map(|(_, root)| *root).ok_or_else(|| invalid(text, problem))
    }
}

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Discarded => "discarded",
            Self::Memory => "memory",
            Self::ReadOnly => "read-only",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shoals_own_places_are_never_shown() {
        for bad in
            ["/var/lib", "/var", "/var/lib/shoal/images", "/run/shoal", "/etc", "/proc/1", "srv"]
        {
            assert!(bad.parse::<HostPath>().is_err(), "{bad}");
        }
        let srv: HostPath = "/srv/media".parse().unwrap();
        assert!("/srv/media/a".parse::<HostPath>().unwrap().is_in(&srv));
        assert!(srv.is_in(&srv));
        assert!(!"/srv/media2".parse::<HostPath>().unwrap().is_in(&srv));
    }
}
