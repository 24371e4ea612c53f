//! `Bind=` and `BindReadOnly=`: a data volume of Shoal's own, or a place of the host's.

use crate::spec::{HostPath, InstancePath};

use super::draft::{Draft, Mount, Volume};
use super::ini::Assignment;
use super::settings::Settings;
use super::words::parts;

/// Places of a host that are its own, or its users': what is bound from there is shared with
/// something outside the container.
const SHARED: &[&str] = &[
    "/boot",
    "/dev",
    "/etc",
    "/home",
    "/media",
    "/mnt",
    "/proc",
    "/root",
    "/run",
    "/sys",
    "/tmp",
    "/usr",
    "/var/cache",
    "/var/log",
    "/var/run",
    "/var/spool",
    "/var/tmp",
];

/// Carries both keys over, in the order of the file.
pub(super) fn carry(settings: &mut Settings, draft: &mut Draft) {
    let read_only = settings.several("Files", "BindReadOnly");
    let mut all: Vec<(Assignment, bool)> = read_only.into_iter().map(|a| (a, false)).collect();
    all.extend(settings.several("Files", "Bind").into_iter().map(|a| (a, true)));
    all.sort_by_key(|(assignment, _)| assignment.line);
    for (assignment, writable) in all {
        if let Err(why) = one(&assignment, writable, settings, draft) {
            settings.note(&assignment, why);
        }
    }
}

/// Carries one over, or says why not.
fn one(
    assignment: &Assignment,
    writable: bool,
    settings: &mut Settings,
    draft: &mut Draft,
) -> Result<(), String> {
    let mut parts = parts(&assignment.value, 3).into_iter();
    let source = parts.next().unwrap_or_default();
    let inside = parts.next().unwrap_or_else(|| source.trim_start_matches('-').to_owned());
    let options = parts.next().unwrap_or_default();
    let is_optional = source.starts_with('-');
    let source = source.trim_start_matches('-');
    if source.is_empty() {
        return Err(format!("{inside} can be written to without it, and is discarded just so"));
    }
    if source.starts_with('+') {
        return Err(
            "a place of the image can't be seen in two places; make a link in the image".into()
        );
    }
    let path: InstancePath = trimmed(&inside).parse().map_err(|error| device(source, error))?;
    if let Some(other) = draft.occupied(&path) {
        return Err(format!("{path} and {other} are one inside the other; make it one of them"));
    }
    if writable && !is_shared(source) {
        volume(assignment, source, &options, path, settings, draft);
        return Ok(());
    }
    let source: HostPath = trimmed(source).parse().map_err(|error| device(source, error))?;
    let may_write = if writable { ", writable = true" } else { "" };
    let mut why = format!(
        "the policy of the hosts must allow it: bind = [{{ path = \"{source}\"{may_write} }}] in \
         /etc/shoal/policy.toml; and {source} must be there on each of them"
    );
    if !writable {
        why += ". If it is a file of the deployment, declare it under files instead";
    } else {
        why += ". If it is the container's own data, make it a [instance.main.data.NAME] instead";
    }
    if is_optional {
        why += ". It can't be left out where it is missing";
    }
    settings.note(assignment, why);
    draft.mounts.push(Mount { path, source, writable });
    Ok(())
}

fn volume(
    assignment: &Assignment,
    source: &str,
    options: &str,
    path: InstancePath,
    settings: &mut Settings,
    draft: &mut Draft,
) {
    let name = draft.volume_name(&path);
    let owners = if draft.security.private_users && !options.split(',').any(|o| o == "idmap") {
        "; then give the files the owners that they have inside (chown), for on disk they have \
         the numbers of the host"
    } else {
        ""
    };
    let why = format!(
        "it becomes data volume `{name}`, which starts empty. After its first start, stop both and \
         copy what there is: cp -a {source}/. /var/lib/shoal/instances/{}-main/data/{name}/{owners}",
        draft.fleet
    );
    settings.note(assignment, why);
    draft.volumes.push(Volume { name, path });
}

/// What a path that can't be is: most often a device.
fn device(source: &str, error: impl std::fmt::Display) -> String {
    if source.starts_with("/dev/") {
        return format!("devices of the host can't be given to an instance ({source})");
    }
    error.to_string()
}

/// systemd takes a path with a closing slash.
fn trimmed(path: &str) -> &str {
    path.trim_end_matches('/')
}

fn is_shared(source: &str) -> bool {
    let within = |dir: &str| source == dir || source.starts_with(&format!("{dir}/"));
    SHARED.iter().any(|dir| within(dir)) || source.ends_with(".sock") || source.ends_with(".socket")
}
