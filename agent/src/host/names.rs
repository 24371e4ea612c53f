//! A machine's hosts file: the names of the other instances of its fleet, seen as /etc/hosts.
//!
//! It is state, so that names are there at boot too, with no agent and no controller up. What is
//! in it is made in `shoal_core::peers`.

use std::path::Path;

use shoal_core::name::MachineName;
use shoal_core::peers::hosts_file;
use shoal_core::spec::{InstancePath, Settings};

use super::inplace::{self, Look};
use crate::files::{FileError, read_if_there};
use crate::paths::Paths;
use crate::record::Record;

/// Where it is seen inside.
pub const INSIDE: &str = "/etc/hosts";

/// Whether the place is ours: the fleet file may have one of its own, or something around it.
#[must_use]
pub fn is_ours(settings: &Settings) -> bool {
    let data = settings.data.values().map(|volume| &volume.path);
    let mut given = data.chain(settings.files.keys()).chain(settings.mounts.keys());
    let holds = |path: &InstancePath| Path::new(INSIDE).starts_with(path.as_str());
    !given.any(holds)
}

/// What is in a machine's hosts file; `None` where there is none.
///
/// # Errors
/// Where it is there and can't be read.
pub fn find(paths: &Paths, machine: &MachineName) -> Result<Option<String>, FileError> {
    let bytes = read_if_there(&paths.hosts(machine))?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

/// Writes a machine's hosts file where it is, so that a container that runs sees it.
///
/// # Errors
/// Where it can't be written.
pub fn write(paths: &Paths, record: &Record, content: &str) -> Result<(), FileError> {
    let owner = record.uid_base.unwrap_or(0);
    let look = Look { mode: 0o644, uid: owner, gid: owner };
    let path = paths.hosts(&record.spec.id.machine());
    inplace::write(&path, content.as_bytes(), look).map(drop)
}

/// Makes a first one that knows nobody else, where there is none, and has it belong to the
/// instance's root.
///
/// # Errors
/// Where it can't be written.
pub fn prepare(paths: &Paths, machine: &MachineName, record: &Record) -> Result<(), FileError> {
    let first = || hosts_file(&record.spec.id, &record.host, &[]);
    let content = find(paths, machine)?.unwrap_or_else(first);
    write(paths, record, &content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fleet_file_comes_first() {
        let settings = |paths: &[&str]| -> Settings {
            let file = serde_json::json!({"body": {"text": ""}, "mode": 420, "owner": "0:0"});
            let files: serde_json::Map<_, _> =
                paths.iter().map(|path| ((*path).to_owned(), file.clone())).collect();
            let json = serde_json::json!({"start": "boot", "network": "host", "files": files});
            serde_json::from_value(json).unwrap()
        };
        assert!(is_ours(&settings(&["/etc/hosts.allow", "/etc/x"])));
        assert!(!is_ours(&settings(&["/etc/hosts"])));
        let data: Settings = serde_json::from_value(serde_json::json!({
            "start": "boot", "network": "host", "data": {"etc": {"path": "/etc"}},
        }))
        .unwrap();
        assert!(!is_ours(&data));
    }
}
