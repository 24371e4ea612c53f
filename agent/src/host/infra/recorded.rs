//! `infra.json`: the infra version of the host, kept with its data and written last.

use serde::{Deserialize, Serialize};
use shoal_core::infra::Recorded;

use crate::files::{FileError, read_if_there, write_whole};
use crate::paths::Paths;

/// The newest form of the file that this agent knows.
const FORMAT: u32 = 1;

/// What the file holds.
#[derive(Debug, Serialize, Deserialize)]
struct Content<R> {
    format: u32,
    #[serde(flatten)]
    recorded: R,
}

/// Why it is not known which infra version the host has.
#[derive(Debug, thiserror::Error)]
pub enum RecordedError {
    /// The file can't be read.
    #[error("it is not known which infra version this host has, and nothing of its infra changes")]
    File(#[from] FileError),
    /// It is not what this agent writes.
    #[error(
        "{path} is damaged, so it is not known which infra version this host has, and nothing of \
         its infra changes: write {{\"format\": 1, \"version\": \"…\"}} there with the version that \
         it had, or remove the file to have the host taken for one without a version"
    )]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// It is of a form that this agent does not know.
    #[error("{path} has format {format}, this agent knows {FORMAT}; upgrade the agent")]
    TooNew {
        /// The file.
        path: String,
        /// Its format.
        format: u32,
    },
}

/// What the host has recorded; nothing on one that never had an infra.
///
/// # Errors
/// Where there is something that can't be read.
pub fn load(paths: &Paths) -> Result<Recorded, RecordedError> {
    let path = paths.infra();
    let Some(bytes) = read_if_there(&path)? else { return Ok(Recorded::default()) };
    let path = || path.display().to_string();
    let damaged = |source| RecordedError::Damaged { path: path(), source };
    let content: Content<serde_json::Value> = serde_json::from_slice(&bytes).map_err(damaged)?;
    if content.format > FORMAT {
        return Err(RecordedError::TooNew { path: path(), format: content.format });
    }
    serde_json::from_value(content.recorded).map_err(damaged)
}

/// Records it, on the disk.
///
/// # Errors
/// Where it can't be written; then what was recorded before still is.
pub fn save(paths: &Paths, recorded: &Recorded) -> Result<(), FileError> {
    let content = Content { format: FORMAT, recorded };
    let bytes = serde_json::to_vec_pretty(&content).expect("what is recorded is plain data");
    write_whole(&paths.infra(), &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_core::time::Timestamp;

    /// The form on disk is a promise to every later version.
    const GOLDEN: &str = r#"{
  "format": 1,
  "version": "50.2.0",
  "since": 7,
  "restored": "nightly"
}"#;

    #[test]
    fn the_form_on_disk_stays() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { state: dir.path().into(), ..Paths::default() };
        assert_eq!(load(&paths).unwrap(), Recorded::default());
        let recorded = Recorded {
            version: Some("50.2.0".parse().unwrap()),
            since: Some(Timestamp(7)),
            restored: Some("nightly".parse().unwrap()),
        };
        save(&paths, &recorded).unwrap();
        assert_eq!(std::fs::read_to_string(paths.infra()).unwrap(), GOLDEN);
        assert_eq!(load(&paths).unwrap(), recorded);
        std::fs::write(paths.infra(), r#"{"format": 1, "version": "50.1.0"}"#).unwrap();
        assert_eq!(load(&paths).unwrap().version.unwrap().as_str(), "50.1.0");
    }

    #[test]
    fn a_newer_or_damaged_file_is_told_from_none() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { state: dir.path().into(), ..Paths::default() };
        for (text, wanted) in [
            ("", "is damaged, so it is not known"),
            ("{\"version\": \"1\"}", "is damaged, so it is not known"),
            ("{\"format\": 1, \"version\": 3}", "is damaged, so it is not known"),
            ("{\"format\": 2, \"version\": 3}", "has format 2"),
        ] {
            std::fs::write(paths.infra(), text).unwrap();
            let why = load(&paths).unwrap_err().to_string();
            assert!(why.contains(wanted), "{why}");
        }
    }
}
