//! What systemd-nspawn is told about keeping the instance apart, and what it may use.

use std::collections::BTreeSet;
use std::ffi::OsString;

use shoal_core::spec::{Security, Settings, Start};

use crate::record::Record;

/// Capabilities that no instance needs and that reach beyond it.
const DROPPED: [&str; 4] =
    ["CAP_MKNOD", "CAP_LINUX_IMMUTABLE", "CAP_SYS_TTY_CONFIG", "CAP_AUDIT_CONTROL"];

/// Further ones that an init system needs and a single program does not.
const DROPPED_FOR_COMMANDS: [&str; 7] = [
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_PTRACE",
    "CAP_IPC_OWNER",
    "CAP_LEASE",
];

/// The arguments for isolation and limits. The limits that are not here are the unit's.
pub(super) fn arguments(record: &Record) -> Vec<OsString> {
    let settings = &record.spec.config.settings;
    let security = &settings.security;
    let privileges = if security.new_privileges { "no" } else { "yes" };
    let mut arguments: Vec<OsString> = vec![format!("--no-new-privileges={privileges}").into()];
    arguments.extend(list("--drop-capability=", ",", dropped(settings)));
    arguments.extend(list("--capability=", ",", added(security)));
    let calls = security.system_calls_allow.iter().map(|calls| calls.as_str());
    arguments.extend(list("--system-call-filter=", " ", calls.collect()));
    if let Some(base) = record.uid_base {
        let range = shoal_core::spec::UIDS_PER_INSTANCE;
        arguments.push(format!("--private-users={base}:{range}").into());
        arguments.push("--private-users-ownership=off".into());
    }
    let files = settings.limits.nofile;
    arguments.extend(files.map(|most| format!("--rlimit=RLIMIT_NOFILE={most}").into()));
    arguments
}

/// An option with its words; none where there are none, since systemd-nspawn would take that as a
/// wish for everything.
fn list(option: &str, between: &str, words: BTreeSet<&str>) -> Option<OsString> {
    let words: Vec<&str> = words.into_iter().collect();
    (!words.is_empty()).then(|| format!("{option}{}", words.join(between)).into())
}

fn dropped(settings: &Settings) -> BTreeSet<&str> {
    let Security { capabilities_add, capabilities_drop, .. } = &settings.security;
    let mut dropped: BTreeSet<&str> = DROPPED.into();
    if settings.start != Start::Boot {
        dropped.extend(DROPPED_FOR_COMMANDS);
    }
    for capability in capabilities_add {
        dropped.remove(capability.as_str());
    }
    dropped.extend(capabilities_drop.iter().map(|capability| capability.as_str()));
    dropped
}

/// What is dropped by name is not added, whatever else is said.
fn added(security: &Security) -> BTreeSet<&str> {
    let added = security.capabilities_add.difference(&security.capabilities_drop);
    added.map(|capability| capability.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::arguments::tests::record;
    use super::*;
    use shoal_core::policy::Isolation;

    fn shown(start: Start, change: impl FnOnce(&mut Settings)) -> Vec<String> {
        let mut record = record(start, Isolation::UserNamespace);
        change(&mut record.spec.config.settings);
        arguments(&record).into_iter().map(|a| a.into_string().unwrap()).collect()
    }

    fn command() -> Start {
        Start::Command(vec!["/bin/app".into()])
    }

    #[test]
    fn the_defaults_are_the_safe_ones() {
        assert_eq!(
            shown(Start::Boot, |_| {}),
            [
                "--no-new-privileges=yes",
                "--drop-capability=CAP_AUDIT_CONTROL,CAP_LINUX_IMMUTABLE,CAP_MKNOD,\
                 CAP_SYS_TTY_CONFIG",
                "--private-users=524288:65536",
                "--private-users-ownership=off",
            ]
        );
        assert!(shown(command(), |_| {})[1].contains("CAP_SYS_ADMIN"));
    }

    #[test]
    fn capabilities_are_added_and_dropped_by_name() {
        let add = |s: &mut Settings| {
            s.security.capabilities_add =
                ["CAP_SYS_NICE".parse().unwrap(), "CAP_NET_RAW".parse().unwrap()].into();
            s.security.capabilities_drop = ["CAP_NET_RAW".parse().unwrap()].into();
        };
        let arguments = shown(command(), add);
        assert!(arguments.contains(&"--capability=CAP_SYS_NICE".to_owned()), "{arguments:?}");
        let dropped = arguments.iter().find(|a| a.starts_with("--drop-capability=")).unwrap();
        assert!(dropped.contains("CAP_NET_RAW") && !dropped.contains("CAP_SYS_NICE"), "{dropped}");
    }

    #[test]
    fn the_rest_is_changed_by_name_too() {
        let arguments = shown(command(), |s| {
            s.security.new_privileges = true;
            s.security.system_calls_allow =
                ["@keyring".parse().unwrap(), "bpf".parse().unwrap()].into();
            s.limits.nofile = Some(65536);
        });
        for wanted in [
            "--no-new-privileges=no",
            "--system-call-filter=@keyring bpf",
            "--rlimit=RLIMIT_NOFILE=65536",
        ] {
            assert!(arguments.iter().any(|a| a == wanted), "{wanted} in {arguments:?}");
        }
    }

    #[test]
    fn without_a_user_namespace_nothing_is_shifted() {
        let arguments = arguments(&record(Start::Boot, Isolation::Shared));
        assert!(!arguments.iter().any(|a| a.to_string_lossy().contains("private-users")));
    }
}
