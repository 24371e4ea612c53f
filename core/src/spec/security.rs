//! Where an instance differs from the safe defaults.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{InvalidValue, invalid};
use crate::text::as_text;

/// Where an instance differs from the safe defaults, each by name. A host's policy may refuse.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Security {
    /// Capabilities that it has besides the usual ones.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub capabilities_add: BTreeSet<Capability>,
    /// Capabilities that it does without.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub capabilities_drop: BTreeSet<Capability>,
    /// Whether a program inside may gain what its caller has not, as sudo does.
    pub new_privileges: bool,
    /// Whether its users are numbers of its own. Without it, root inside is root outside.
    pub private_users: bool,
    /// System calls that it may make besides the usual ones.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub system_calls_allow: BTreeSet<SystemCalls>,
}

impl Default for Security {
    fn default() -> Self {
        Self {
            capabilities_add: BTreeSet::new(),
            capabilities_drop: BTreeSet::new(),
            new_privileges: false,
            private_users: true,
            system_calls_allow: BTreeSet::new(),
        }
    }
}

impl Security {
    /// Whether nothing differs.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Every capability of the kernel (capabilities(7), up to Linux 5.9, which added the last).
const CAPABILITIES: [&str; 41] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

checked_text!(
    /// A capability of the kernel, `CAP_NET_RAW`.
    Capability,
    |text| {
        let name = text.strip_prefix("CAP_");
        let known = name.is_some_and(|name| CAPABILITIES.binary_search(&name).is_ok());
        let problem = "is not a capability; write it as capabilities(7) has it, such as CAP_NET_RAW";
        if known { Ok(()) } else { Err(problem) }
    }
);

impl Capability {
    /// Every capability's name.
    pub fn all() -> impl Iterator<Item = String> {
        CAPABILITIES.iter().map(|name| format!("CAP_{name}"))
    }
}

checked_text!(
    /// A system call, `bpf`, or one of systemd's groups of them, `@keyring`.
    SystemCalls,
    |text| {
        let name = text.strip_prefix('@').unwrap_or(text);
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c);
        let starts = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
        if starts && name.len() <= 64 && name.chars().all(good) {
            Ok(())
        } else {
            Err("is not a system call or a group of them; see `systemd-analyze syscall-filter`")
        }
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_the_kernels() {
        assert!(CAPABILITIES.is_sorted());
        assert!("CAP_NET_RAW".parse::<Capability>().is_ok());
        for bad in ["NET_RAW", "cap_net_raw", "CAP_NET_ROW", "all", ""] {
            assert!(bad.parse::<Capability>().is_err(), "{bad}");
        }
    }

    #[test]
    fn system_calls_are_names_or_groups() {
        for good in ["@keyring", "bpf", "perf_event_open", "@raw-io"] {
            assert!(good.parse::<SystemCalls>().is_ok(), "{good}");
        }
        for bad in ["", "@", "~bpf", "bpf open", "BPF"] {
            assert!(bad.parse::<SystemCalls>().is_err(), "{bad}");
        }
    }
}
