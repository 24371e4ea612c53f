//! systemd-nspawn's command line. Pure.

use std::ffi::OsString;
use std::path::Path;

use shoal_core::spec::{Root, Settings, Start};

use super::{Bind, Prepared, isolation, network};
use crate::record::Record;

/// All arguments.
pub(super) fn arguments(record: &Record, place: &Prepared) -> Vec<OsString> {
    let settings = &record.spec.config.settings;
    let mut arguments: Vec<OsString> = vec![
        "--quiet".into(),
        "--keep-unit".into(),
        "--settings=no".into(),
        "--link-journal=no".into(),
        format!("--machine={}", record.spec.id.machine()).into(),
        format!("--uuid={}", record.machine_id).into(),
        joined("--directory=", &place.root, ""),
    ];
    if settings.root == Root::ReadOnly {
        arguments.push("--read-only".into());
    }
    arguments.extend(isolation::arguments(record));
    arguments.extend(network::arguments(settings));
    arguments.extend(place.binds.iter().map(bind));
    arguments.extend(place.credentials.iter().map(|passed| passed.argument().into()));
    arguments.extend(program(settings));
    arguments
}

fn bind(bind: &Bind) -> OsString {
    let option = if bind.writable { "--bind=" } else { "--bind-ro=" };
    let shift = if bind.shift { ":idmap" } else { "" };
    joined(option, &bind.from, &format!(":{}{shift}", bind.to))
}

/// What runs inside, as the last arguments.
fn program(settings: &Settings) -> Vec<OsString> {
    match &settings.start {
        Start::Boot => vec!["--boot".into(), "--notify-ready=yes".into()],
        Start::Command(words) => {
            let env = settings.env.iter().map(|(k, v)| format!("--setenv={k}={v}").into());
            let mut arguments: Vec<OsString> = env.collect();
            arguments.push("--console=pipe".into());
            // A stub init reaps what the program leaves behind, and ends it by SIGTERM when it is
            // itself told to power off.
            arguments.push("--as-pid2".into());
            arguments.push("--kill-signal=SIGRTMIN+4".into());
            arguments.push("--".into());
            arguments.extend(words.iter().map(OsString::from));
            arguments
        }
    }
}

fn joined(option: &str, path: &Path, rest: &str) -> OsString {
    let mut argument = OsString::from(option);
    argument.push(path);
    argument.push(rest);
    argument
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::host::parents::Kind;
    use shoal_core::policy::Isolation;

    pub(in crate::host::container) fn record(start: Start, isolation: Isolation) -> Record {
        let mut settings: Settings = serde_json::from_value(serde_json::json!({
            "start": "boot", "network": "private", "env": {"A": "50% \"x\"\\ y"},
            "data": {"var": {"path": "/var/x", "owner": "1:1"}},
        }))
        .unwrap();
        settings.start = start;
        let spec = serde_json::from_value(serde_json::json!({
            "id": "shop/main", "revision": 1, "run": "running", "restarts": 0,
            "config": {
                "image": {"reference": "app:1", "digest": "07".repeat(32), "size": 1},
                "settings": settings,
            },
        }));
        Record::new("h1".parse().unwrap(), spec.unwrap(), isolation, 524_288, "0".repeat(32))
    }

    fn shown(record: &Record) -> Vec<String> {
        let bind = |from: &str, to: &str, writable, shift| Bind {
            from: from.into(),
            to: to.parse().unwrap(),
            kind: Kind::Directory,
            writable,
            shift,
        };
        let binds = vec![
            bind("/run/data/var", "/var/x", true, true),
            bind("/run/files/0", "/etc/x", false, false),
        ];
        let arguments =
            arguments(record, &Prepared { root: "/run/root".into(), binds, credentials: vec![] });
        arguments.into_iter().map(|a| a.into_string().unwrap()).collect()
    }

    #[test]
    fn a_booted_system_is_isolated_and_awaited() {
        let arguments = shown(&record(Start::Boot, Isolation::UserNamespace));
        for wanted in [
            "--private-users=524288:65536",
            "--no-new-privileges=yes",
            "--settings=no",
            "--directory=/run/root",
            "--bind=/run/data/var:/var/x:idmap",
            "--bind-ro=/run/files/0:/etc/x",
            "--private-network",
            "--boot",
            "--notify-ready=yes",
        ] {
            assert!(arguments.iter().any(|a| a == wanted), "{wanted} in {arguments:?}");
        }
        assert!(!arguments.contains(&"--read-only".to_owned()));
    }

    #[test]
    fn a_command_comes_last_and_untouched() {
        let words = vec!["/bin/sh".to_owned(), "-c".into(), "echo $A".into()];
        let mut record = record(Start::Command(words), Isolation::UserNamespace);
        record.spec.config.settings.root = Root::ReadOnly;
        let arguments = shown(&record);
        assert_eq!(arguments[arguments.len() - 4..], ["--", "/bin/sh", "-c", "echo $A"]);
        assert!(arguments.contains(&"--setenv=A=50% \"x\"\\ y".to_owned()));
        assert!(arguments.contains(&"--read-only".to_owned()));
    }
}
