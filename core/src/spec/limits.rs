//! What an instance may use of its host.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{InvalidValue, invalid};
use crate::host::HostFacts;
use crate::text::as_text;

/// What an instance may use of its host; where nothing is said, as much as there is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Limits {
    /// Memory; over it the kernel ends a process inside (systemd's `MemoryMax`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// CPU time in percent of one CPU (systemd's `CPUQuota`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<u32>,
    /// Processes and threads (systemd's `TasksMax`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks: Option<u64>,
    /// Files that one process may have open (`RLIMIT_NOFILE`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nofile: Option<u64>,
}

impl Limits {
    /// Whether nothing is limited.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Every limit that is more than a host has, so that it would limit nothing. What is not
    /// known of the host (0) is not held against it.
    #[must_use]
    pub fn beyond(&self, host: &HostFacts) -> Vec<TooMuch> {
        let Self { memory, cpu, tasks, nofile } = self;
        let percent = |cpu: &u32| format!("{cpu}%");
        let over = |wanted: u64, has: u64| has > 0 && wanted > has;
        let mut found = Vec::new();
        if let Some(memory) = memory.filter(|m| over(m.0, host.memory)) {
            let has = Memory(host.memory >> 20 << 20);
            found.push(TooMuch {
                what: "memory",
                wanted: memory.to_string(),
                has: has.to_string(),
            });
        }
        let all = host.cpus.saturating_mul(100);
        if let Some(cpu) = cpu.as_ref().filter(|cpu| over(u64::from(**cpu), u64::from(all))) {
            let has = format!("{}, {} CPUs", percent(&all), host.cpus);
            found.push(TooMuch { what: "cpu", wanted: percent(cpu), has });
        }
        for (what, limit, has) in
            [("tasks", tasks, host.max_tasks), ("nofile", nofile, host.max_files)]
        {
            if let Some(limit) = limit.filter(|limit| over(*limit, has)) {
                found.push(TooMuch { what, wanted: limit.to_string(), has: has.to_string() });
            }
        }
        found
    }
}

/// A limit that is more than the host has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("limits.{what} is {wanted}, and the host has {has}; give it less, or another host")]
pub struct TooMuch {
    /// Which one, as the fleet file calls it.
    pub what: &'static str,
    /// What was asked for.
    pub wanted: String,
    /// What there is.
    pub has: String,
}

/// A number of bytes, written as systemd has it: `512M`, with K, M, G and T for powers of 1024.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Memory(pub u64);

impl FromStr for Memory {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let shift = match unit {
            "" => Some(0),
            "K" => Some(10),
            "M" => Some(20),
            "G" => Some(30),
            "T" => Some(40),
            _ => None,
        };
        let number = number.parse::<u64>().ok();
        let bytes = number.zip(shift).and_then(|(n, shift)| n.checked_mul(1 << shift));
        let problem = "is not a size; write a number and K, M, G or T, such as 512M";
        bytes.map(Self).ok_or_else(|| invalid(text, problem))
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(40, "T"), (30, "G"), (20, "M"), (10, "K")];
        let whole = |shift: &u32| self.0 > 0 && self.0.trailing_zeros() >= *shift;
        match units.iter().find(|(shift, _)| whole(shift)) {
            Some((shift, unit)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

as_text!(Memory);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_as_systemd_has_them() {
        for (text, bytes) in [("512M", 512 << 20), ("1024K", 1 << 20), ("7", 7), ("2T", 2 << 40)] {
            assert_eq!(text.parse(), Ok(Memory(bytes)));
        }
        assert_eq!(Memory(1 << 20).to_string(), "1M");
        assert_eq!(Memory(1537).to_string(), "1537");
        for bad in ["", "M", "512MB", "1.5G", "-1", "99999999T", "512 M"] {
            assert!(bad.parse::<Memory>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_limit_beyond_the_host_is_named() {
        let limits = Limits {
            memory: Some(Memory(8 << 30)),
            cpu: Some(300),
            tasks: Some(5),
            nofile: Some(2000),
        };
        let host = HostFacts { memory: 4 << 30, cpus: 2, max_files: 1000, ..HostFacts::default() };
        let found: Vec<String> = limits.beyond(&host).iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].starts_with("limits.memory is 8G, and the host has 4G;"), "{found:?}");
        assert!(found[1].contains("300%, and the host has 200%, 2 CPUs"), "{found:?}");
        assert!(limits.beyond(&HostFacts::default()).is_empty());
    }
}
