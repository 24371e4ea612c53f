//! `hooks.json`: which image a machine's data was last set up for, and how its hooks ended
//! (`shoal_core::hooks`). It is beside the data, stays as long as that does, and counts once it is
//! on the disk.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shoal_core::hooks::Past;
use shoal_core::name::MachineName;
use shoal_core::spec::Settings;

use crate::files::{FileError, failed, names, read_if_there, write_whole};
use crate::paths::Paths;

/// The newest form of the file that this agent knows.
const VERSION: u32 = 1;

/// What a file system may hold of its own when it is new.
const OF_THE_FILE_SYSTEM: &str = "lost+found";

/// What the file holds.
#[derive(Debug, Serialize, Deserialize)]
struct Content<P> {
    version: u32,
    #[serde(flatten)]
    past: P,
}

/// Why what is remembered can't be used.
#[derive(Debug, thiserror::Error)]
pub enum NoteError {
    /// The file can't be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is not what this agent writes.
    #[error(
        "{path} is damaged; remove it to have `migrate` run once with no SHOAL_FROM, or put it \
         back from a backup"
    )]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// It is of a form that this agent does not know.
    #[error("{path} has version {version}, this agent knows {VERSION}; upgrade the agent")]
    TooNew {
        /// The file.
        path: String,
        /// Its version.
        version: u32,
    },
}

/// Where the file is.
#[must_use]
pub fn path(paths: &Paths, machine: &MachineName) -> PathBuf {
    paths.instance(machine).join("hooks.json")
}

/// What is remembered of a machine.
///
/// # Errors
/// Where there is something that can't be read.
pub fn load(paths: &Paths, machine: &MachineName) -> Result<Past, NoteError> {
    let path = path(paths, machine);
    let Some(bytes) = read_if_there(&path)? else { return Ok(Past::default()) };
    let path = || path.display().to_string();
    let damaged = |source| NoteError::Damaged { path: path(), source };
    let content: Content<serde_json::Value> = serde_json::from_slice(&bytes).map_err(damaged)?;
    if content.version > VERSION {
        return Err(NoteError::TooNew { path: path(), version: content.version });
    }
    serde_json::from_value(content.past).map_err(damaged)
}

/// Remembers it, on the disk.
///
/// # Errors
/// Where it can't be written; then what was remembered before still is.
pub fn save(paths: &Paths, machine: &MachineName, past: &Past) -> Result<(), NoteError> {
    let content = Content { version: VERSION, past };
    let bytes = serde_json::to_vec_pretty(&content).expect("what is remembered is plain data");
    Ok(write_whole(&path(paths, machine), &bytes)?)
}

/// Has a hook that failed run again at the next start: someone has stopped the instance, and will
/// know why they start it.
///
/// # Errors
/// Where that can't be written.
pub fn forgive(paths: &Paths, machine: &MachineName) -> Result<(), NoteError> {
    match load(paths, machine) {
        Ok(past) if past.failure.is_some() => save(paths, machine, &past.forgiven()),
        // One that can't be read refuses nothing; the start will tell.
        _ => Ok(()),
    }
}

/// Whether there is anything in an instance's data volumes.
///
/// # Errors
/// Where one can't be looked into.
pub fn has_data(
    paths: &Paths,
    machine: &MachineName,
    settings: &Settings,
) -> Result<bool, FileError> {
    for volume in settings.data.keys() {
        let found = names_of_any_kind(&paths.volume(machine, volume))?;
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Names need not be UTF-8 here.
fn names_of_any_kind(dir: &Path) -> Result<bool, FileError> {
    if !dir.is_dir() {
        return Ok(false);
    }
    let mut entries = fs::read_dir(dir).map_err(failed("list", dir))?;
    Ok(entries.any(|entry| entry.is_ok_and(|entry| entry.file_name() != OF_THE_FILE_SYSTEM)))
}

/// Waits until all that was written to a machine's data volumes is on the disk: what is remembered
/// of them must not be there before.
///
/// # Errors
/// Where the disk could not take it.
pub fn settle(paths: &Paths, machine: &MachineName) -> Result<(), FileError> {
    for name in names(&paths.data(machine))? {
        let volume = paths.data(machine).join(name);
        let synced = File::open(&volume).and_then(|dir| Ok(rustix::fs::syncfs(dir)?));
        synced.map_err(failed("write all of", &volume))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_core::hooks::{Failure, Mode, Ran, Running, SetUpFor};
    use shoal_core::time::Timestamp;

    /// The form on disk is a promise to every later version.
    const GOLDEN: &str = r#"{
  "version": 1,
  "image": {
    "reference": "app:1",
    "digest": "0707070707070707070707070707070707070707070707070707070707070707"
  },
  "fresh": true,
  "running": {
    "mode": "update",
    "since": 4
  },
  "failure": {
    "mode": "new",
    "attempt": "0808080808080808080808080808080808080808080808080808080808080808",
    "how": "exit code 3",
    "last-line": "no room",
    "at": 5
  },
  "ran": {
    "mode": "update",
    "from": "app:1",
    "to": "app:2",
    "at": 6,
    "took-ms": 7
  }
}"#;

    fn everything() -> Past {
        let digest = |byte: u8| [byte; 32].into();
        Past {
            image: Some(SetUpFor {
                reference: "app:1".parse().unwrap(),
                digest: digest(7),
                infra: None,
            }),
            fresh: true,
            restored: false,
            running: Some(Running { mode: Mode::Update, since: Timestamp(4) }),
            failure: Some(Failure {
                mode: Mode::New,
                attempt: digest(8),
                how: "exit code 3".into(),
                last_line: Some("no room".into()),
                at: Timestamp(5),
            }),
            ran: Some(Ran {
                mode: Mode::Update,
                from: Some("app:1".parse().unwrap()),
                to: "app:2".parse().unwrap(),
                at: Timestamp(6),
                took_ms: 7,
            }),
        }
    }

    fn place() -> (tempfile::TempDir, Paths, MachineName) {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { state: dir.path().into(), ..Paths::default() };
        let machine: MachineName = "shop-main".parse().unwrap();
        fs::create_dir_all(paths.instance(&machine)).unwrap();
        (dir, paths, machine)
    }

    #[test]
    fn the_form_on_disk_stays() {
        let (_dir, paths, machine) = place();
        assert_eq!(load(&paths, &machine).unwrap(), Past::default());
        save(&paths, &machine, &everything()).unwrap();
        assert_eq!(fs::read_to_string(path(&paths, &machine)).unwrap(), GOLDEN);
        assert_eq!(load(&paths, &machine).unwrap(), everything());
        forgive(&paths, &machine).unwrap();
        assert_eq!(load(&paths, &machine).unwrap(), everything().forgiven());
    }

    #[test]
    fn an_infra_version_and_a_backup_are_told_where_there_is_one() {
        let (_dir, paths, machine) = place();
        let mut past = everything().brought_back();
        past.image.as_mut().unwrap().infra = Some("50.2.0".parse().unwrap());
        save(&paths, &machine, &past).unwrap();
        let text = fs::read_to_string(path(&paths, &machine)).unwrap();
        assert!(text.contains("\"infra\": \"50.2.0\"\n  },\n  \"restored\": true,"), "{text}");
        assert_eq!(load(&paths, &machine).unwrap(), past);
    }

    #[test]
    fn a_newer_or_damaged_file_is_told_from_none() {
        let (_dir, paths, machine) = place();
        for (text, wanted) in [
            ("{", "is damaged; remove it"),
            ("{\"version\": 1, \"failure\": 3}", "is damaged; remove it"),
            ("{\"version\": 2, \"failure\": 3}", "has version 2"),
        ] {
            fs::write(path(&paths, &machine), text).unwrap();
            let why = load(&paths, &machine).unwrap_err().to_string();
            assert!(why.contains(wanted), "{why}");
            forgive(&paths, &machine).unwrap();
            assert_eq!(fs::read_to_string(path(&paths, &machine)).unwrap(), text);
        }
    }

    #[test]
    fn data_is_what_someone_has_put_there() {
        let (_dir, paths, machine) = place();
        let settings: Settings = serde_json::from_value(serde_json::json!({
            "start": "boot", "network": "host",
            "data": {"var": {"path": "/var/x"}, "log": {"path": "/var/y"}},
        }))
        .unwrap();
        let has = || has_data(&paths, &machine, &settings).unwrap();
        assert!(!has());
        for volume in ["var", "log", "of-before"] {
            fs::create_dir_all(paths.data(&machine).join(volume)).unwrap();
        }
        fs::create_dir(paths.data(&machine).join("var/lost+found")).unwrap();
        fs::write(paths.data(&machine).join("of-before/x"), "").unwrap();
        assert!(!has());
        fs::write(paths.data(&machine).join("log/.x"), "").unwrap();
        assert!(has());
        settle(&paths, &machine).unwrap();
    }
}
