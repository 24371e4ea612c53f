//! systemd-nspawn's command line. Pure.

use std::ffi::OsString;
use std::path::Path;

use shoal_core::hooks::Run;
use shoal_core::spec::{Root, Settings, Start};

use super::{Bind, Prepared, isolation, network};
use crate::record::Record;

/// What is run in a container.
#[derive(Debug, Clone, Copy)]
pub(super) enum Program<'a> {
    /// What the instance is.
    Instance,
    /// A hook, before that.
    Hook(&'a Run),
}

/// All arguments. Whatever is run, it is kept apart in the same way.
pub(super) fn arguments(record: &Record, place: &Prepared, program: Program<'_>) -> Vec<OsString> {
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
    arguments.extend(match program {
        Program::Instance => instance(settings),
        Program::Hook(run) => hook(settings, run),
    });
    arguments
}

fn bind(bind: &Bind) -> OsString {
    let option = if bind.writable { "--bind=" } else { "--bind-ro=" };
    let shift = if bind.shift { ":idmap" } else { "" };
    joined(option, &bind.from, &format!(":{}{shift}", bind.to))
}

/// What makes a container run the instance: the last arguments.
fn instance(settings: &Settings) -> Vec<OsString> {
    match &settings.start {
        Start::Boot => vec!["--boot".into(), "--notify-ready=yes".into()],
        Start::Command(words) => command(environment(settings), words),
    }
}

/// What makes it run a hook. machined is not told of it: to everyone else, the instance is not there
/// yet.
fn hook(settings: &Settings, run: &Run) -> Vec<OsString> {
    let own = run.environment().into_iter().map(|(name, value)| (name.to_owned(), value));
    let mut arguments = vec!["--register=no".into()];
    arguments.extend(command(environment(settings).chain(own), &run.words));
    arguments
}

fn environment(settings: &Settings) -> impl Iterator<Item = (String, String)> {
    settings.env.iter().map(|(name, value)| (name.to_string(), value.clone()))
}

fn command(env: impl Iterator<Item = (String, String)>, words: &[String]) -> Vec<OsString> {
    let env = env.map(|(name, value)| format!("--setenv={name}={value}").into());
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
        Record::new("h1".parse().unwrap(), spec.unwrap(), None, isolation, 524_288, "0".repeat(32))
    }

    fn shown(record: &Record) -> Vec<String> {
        shown_of(record, Program::Instance)
    }

    fn shown_of(record: &Record, program: Program<'_>) -> Vec<String> {
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
        let place = Prepared { root: "/run/root".into(), binds, credentials: vec![] };
        let arguments = arguments(record, &place, program);
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

    #[test]
    fn a_hook_is_kept_apart_as_its_instance_is() {
        let run = Run {
            mode: shoal_core::hooks::Mode::Update,
            words: vec!["/bin/migrate".into(), "--boot".into()],
            from: Some("app:1".parse().unwrap()),
            to: record(Start::Boot, Isolation::UserNamespace).spec.config.image,
            infra_from: None,
            infra_to: None,
            attempt: [1; 32].into(),
        };
        for start in [Start::Boot, Start::Command(vec!["/bin/app".into()])] {
            let record = record(start, Isolation::UserNamespace);
            let (instance, hook) = (shown(&record), shown_of(&record, Program::Hook(&run)));
            let common = instance.iter().zip(&hook).take_while(|(a, b)| a == b).count();
            assert_eq!(hook[common - 1], "--bind-ro=/run/files/0:/etc/x");
            assert_eq!(
                hook[common..],
                [
                    "--register=no",
                    "--setenv=A=50% \"x\"\\ y",
                    "--setenv=SHOAL_MODE=update",
                    "--setenv=SHOAL_FROM=app:1",
                    "--setenv=SHOAL_TO=app:1",
                    "--console=pipe",
                    "--as-pid2",
                    "--kill-signal=SIGRTMIN+4",
                    "--",
                    "/bin/migrate",
                    "--boot",
                ]
            );
        }
    }
}
