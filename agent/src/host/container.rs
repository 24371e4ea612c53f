//! From a record to a running container: what the template unit's `ExecStart` does.
//!
//! Works with neither agent nor controller up. It mounts, renders, and then becomes
//! systemd-nspawn. It undoes what an earlier start left before it does anything, so that it can
//! be killed at any point and run again.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use shoal_core::name::MachineName;
use shoal_core::render::{Place, RenderError, render};
use shoal_core::spec::{FileBody, InstancePath, Network, Owner, Settings, Start};

use super::mount::{MountError, mount_data, mount_failed, mount_image, mount_overlay};
use super::{clean, idmap, mount, parents, volume};
use crate::files::{FileError, failed, make_private_dir};
use crate::paths::{Paths, text};
use crate::record::{Record, RecordError};

/// Why a container could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A mount.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// A file of the host.
    #[error(transparent)]
    File(#[from] FileError),
    /// A template.
    #[error("the template of {file} does not render{}: {source}", line(.source))]
    Template {
        /// The file inside.
        file: InstancePath,
        /// What is wrong.
        source: RenderError,
    },
    /// systemd-nspawn did not start.
    #[error("can't run systemd-nspawn; is the package systemd-container installed?")]
    Nspawn(#[source] std::io::Error),
}

fn line(error: &RenderError) -> String {
    error.line.map(|line| format!(" (line {line})")).unwrap_or_default()
}

/// Capabilities that no instance needs and that reach beyond it.
const DROPPED: &str = "CAP_MKNOD,CAP_LINUX_IMMUTABLE,CAP_SYS_TTY_CONFIG,CAP_AUDIT_CONTROL";

/// Further ones that an init system needs and a single program does not.
const DROPPED_FOR_COMMANDS: &str = "CAP_SYS_ADMIN,CAP_SYS_BOOT,CAP_SYS_NICE,CAP_SYS_RESOURCE,CAP_SYS_PTRACE,CAP_IPC_OWNER,CAP_LEASE";

/// Starts the container of `machine` and becomes it.
///
/// # Errors
/// Where it can't be started; what was mounted is unmounted by the unit's `ExecStopPost`.
pub fn start(paths: &Paths, machine: &MachineName) -> Result<Infallible, StartError> {
    let record = Record::load(paths, machine)?;
    clean::clean(paths, machine)?;
    let place = prepare(paths, machine, &record)?;
    let mut command = Command::new("systemd-nspawn");
    command.args(arguments(&record, &place));
    Err(StartError::Nspawn(command.exec()))
}

/// What was prepared for a container.
#[derive(Debug, Default)]
struct Prepared {
    root: PathBuf,
    /// On the host, inside.
    data: Vec<(PathBuf, String)>,
    /// On the host, inside.
    files: Vec<(PathBuf, String)>,
}

fn prepare(paths: &Paths, machine: &MachineName, record: &Record) -> Result<Prepared, StartError> {
    let run = paths.machine_run(machine);
    make_private_dir(&run)?;
    let settings = &record.spec.config.settings;
    let image = mount_image(paths, &record.spec.config.image.digest)?;
    let lower = match record.uid_base {
        None => image,
        Some(base) => shifted(&image, &run.join("lower"), base)?,
    };
    let root = run.join("root");
    mount_overlay(&lower, &paths.scratch(machine), &root, record.uid_base.unwrap_or(0))?;
    let data = prepare_data(paths, machine, settings)?;
    let files = prepare_files(&run.join("files"), record)?;
    for (_, inside) in data.iter().chain(&files) {
        parents::make(&root, Path::new(inside), record.uid_base.unwrap_or(0))?;
    }
    Ok(Prepared { root, data, files })
}

fn shifted(image: &Path, target: &Path, base: u32) -> Result<PathBuf, StartError> {
    make_private_dir(target)?;
    let what = format!("{} with shifted owners", text(image));
    idmap::mount_shifted(image, target, base).map_err(mount_failed(&what, target))?;
    Ok(target.to_owned())
}

fn prepare_data(
    paths: &Paths,
    machine: &MachineName,
    settings: &Settings,
) -> Result<Vec<(PathBuf, String)>, StartError> {
    let mounts = paths.machine_run(machine).join("data");
    let mut data = Vec::new();
    for (name, wanted) in &settings.data {
        volume::make(paths, machine, name, wanted)?;
        let target = mounts.join(name.as_str());
        mount_data(&paths.volume(machine, name), &target, mount::DATA)?;
        data.push((target, wanted.path.to_string()));
    }
    if settings.start == Start::Boot {
        let journal = paths.journal(machine);
        make_private_dir(&journal)?;
        fs::set_permissions(&journal, fs::Permissions::from_mode(0o755))
            .map_err(failed("open up", &journal))?;
        // The dot keeps it apart from every name that a volume can have.
        let target = mounts.join(".journal");
        mount_data(&journal, &target, mount::JOURNAL)?;
        data.push((target, "/var/log/journal".into()));
    }
    Ok(data)
}

fn prepare_files(dir: &Path, record: &Record) -> Result<Vec<(PathBuf, String)>, StartError> {
    make_private_dir(dir)?;
    let settings = &record.spec.config.settings;
    let base = record.uid_base.unwrap_or(0);
    let mut files = Vec::new();
    for (number, (path, file)) in settings.files.iter().enumerate() {
        let target = dir.join(number.to_string());
        write_file(&target, &contents(record, path, &file.body)?, file.mode, file.owner, base)?;
        files.push((target, path.to_string()));
    }
    if settings.start == Start::Boot {
        for (name, inside, content) in system_files(settings) {
            let target = dir.join(name);
            write_file(&target, content.as_bytes(), 0o644, Owner::default(), base)?;
            files.push((target, inside.into()));
        }
    }
    Ok(files)
}

fn contents(record: &Record, path: &InstancePath, body: &FileBody) -> Result<Vec<u8>, StartError> {
    let template = match body {
        FileBody::Text(text) => return Ok(text.clone().into_bytes()),
        FileBody::Bytes(bytes) => return Ok(bytes.clone()),
        FileBody::Template(template) => template,
    };
    let place = Place::new(&record.host, &record.spec.id);
    let rendered = render(template, &record.spec.config.settings.vars, &place);
    let failed = |source| StartError::Template { file: path.clone(), source };
    rendered.map(String::into_bytes).map_err(failed)
}

fn write_file(
    target: &Path,
    content: &[u8],
    mode: u32,
    owner: Owner,
    base: u32,
) -> Result<(), FileError> {
    fs::write(target, content).map_err(failed("write", target))?;
    let (uid, gid) = (base + owner.uid, base + owner.gid);
    chown(target, Some(uid), Some(gid)).map_err(failed("give away", target))?;
    fs::set_permissions(target, fs::Permissions::from_mode(mode)).map_err(failed("set", target))
}

/// What a booted system needs to be told: its services' environment, and to keep its journal,
/// within bounds.
fn system_files(settings: &Settings) -> Vec<(&'static str, &'static str, String)> {
    let journal = "[Journal]\nStorage=persistent\nSystemMaxUse=256M\n".to_owned();
    let mut files = vec![("journald.conf", "/etc/systemd/journald.conf.d/50-shoal.conf", journal)];
    if !settings.env.is_empty() {
        let words = settings.env.iter().map(|(name, value)| unit_word(&format!("{name}={value}")));
        let words: Vec<String> = words.collect();
        let content = format!("[Manager]\nDefaultEnvironment={}\n", words.join(" "));
        files.push(("system.conf", "/etc/systemd/system.conf.d/50-shoal.conf", content));
    }
    files
}

/// A word as systemd's configuration files read it back (systemd.syntax(7), "Quoting").
fn unit_word(word: &str) -> String {
    let mut quoted = String::from("\"");
    for c in word.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '%' => quoted.push_str("%%"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// systemd-nspawn's arguments.
fn arguments(record: &Record, place: &Prepared) -> Vec<OsString> {
    let settings = &record.spec.config.settings;
    let mut arguments: Vec<OsString> = vec![
        "--quiet".into(),
        "--keep-unit".into(),
        "--settings=no".into(),
        "--link-journal=no".into(),
        "--no-new-privileges=yes".into(),
        format!("--drop-capability={DROPPED}").into(),
        format!("--machine={}", record.spec.id.machine()).into(),
        format!("--uuid={}", record.machine_id).into(),
        joined("--directory=", &place.root, ""),
    ];
    if let Some(base) = record.uid_base {
        let range = shoal_core::spec::UIDS_PER_INSTANCE;
        arguments.push(format!("--private-users={base}:{range}").into());
        arguments.push("--private-users-ownership=off".into());
    }
    if settings.network == Network::Private {
        arguments.push("--private-network".into());
        arguments.push("--resolv-conf=off".into());
    }
    let options = if record.uid_base.is_some() { ":idmap" } else { "" };
    for (from, to) in &place.data {
        arguments.push(joined("--bind=", from, &format!(":{to}{options}")));
    }
    for (from, to) in &place.files {
        arguments.push(joined("--bind-ro=", from, &format!(":{to}")));
    }
    arguments.extend(program(settings));
    arguments
}

/// What runs inside, as systemd-nspawn's last arguments.
fn program(settings: &Settings) -> Vec<OsString> {
    match &settings.start {
        Start::Boot => vec!["--boot".into(), "--notify-ready=yes".into()],
        Start::Command(words) => {
            let env = settings.env.iter().map(|(k, v)| format!("--setenv={k}={v}").into());
            let mut arguments: Vec<OsString> = env.collect();
            arguments.push(format!("--drop-capability={DROPPED_FOR_COMMANDS}").into());
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
mod tests {
    use super::*;
    use shoal_core::policy::Isolation;

    fn record(start: Start, isolation: Isolation) -> Record {
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
        let place = Prepared {
            root: "/run/root".into(),
            data: vec![("/run/data/var".into(), "/var/x".into())],
            files: vec![("/run/files/0".into(), "/etc/x".into())],
        };
        let arguments = arguments(record, &place);
        arguments.into_iter().map(|a| a.into_string().unwrap()).collect()
    }

    #[test]
    fn a_booted_system_is_isolated_and_awaited() {
        let arguments = shown(&record(Start::Boot, Isolation::UserNamespace));
        for wanted in [
            "--private-users=524288:65536",
            "--no-new-privileges=yes",
            "--settings=no",
            "--bind=/run/data/var:/var/x:idmap",
            "--bind-ro=/run/files/0:/etc/x",
            "--private-network",
            "--boot",
            "--notify-ready=yes",
        ] {
            assert!(arguments.iter().any(|a| a == wanted), "{wanted} in {arguments:?}");
        }
    }

    #[test]
    fn without_a_user_namespace_nothing_is_shifted() {
        let arguments = shown(&record(Start::Boot, Isolation::Shared));
        assert!(!arguments.iter().any(|a| a.contains("private-users") || a.contains("idmap")));
    }

    #[test]
    fn a_command_comes_last_and_untouched() {
        let words = vec!["/bin/sh".to_owned(), "-c".into(), "echo $A".into()];
        let arguments = shown(&record(Start::Command(words), Isolation::UserNamespace));
        assert_eq!(arguments[arguments.len() - 4..], ["--", "/bin/sh", "-c", "echo $A"]);
        assert!(arguments.contains(&"--setenv=A=50% \"x\"\\ y".to_owned()));
    }

    #[test]
    fn environment_survives_systemds_quoting() {
        let files = system_files(&record(Start::Boot, Isolation::Shared).spec.config.settings);
        let content = &files[1].2;
        assert_eq!(content, "[Manager]\nDefaultEnvironment=\"A=50%% \\\"x\\\"\\\\ y\"\n");
    }
}
