//! What is remembered of an upgrade, on the disk: `agent/upgrade.json`.
//!
//! The agent before, the one that is tried and the guard may all change it at one time, so each
//! change is made under a lock.

use std::fs::File;
use std::path::PathBuf;

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use shoal_core::agent_upgrade::Note;

use crate::files::{FileError, failed, make_private_dir, read_if_there, write_whole};
use crate::paths::Paths;

const VERSION: u32 = 1;

/// What the file holds.
#[derive(Debug, Serialize, Deserialize)]
struct Content {
    version: u32,
    #[serde(flatten)]
    note: Note,
}

/// Why it can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum NoteError {
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// What is in it.
    #[error(
        "{path} is damaged or of a newer agent; move it away, and what it says of rejected agents \
         is forgotten", path = path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Option<serde_json::Error>,
    },
}

/// The file. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Notes {
    path: PathBuf,
}

impl Notes {
    /// Of this agent.
    ///
    /// # Errors
    /// Where its directory can't be made.
    pub fn open(paths: &Paths) -> Result<Self, FileError> {
        make_private_dir(&paths.agent())?;
        Ok(Self { path: paths.upgrade() })
    }

    /// What is remembered.
    ///
    /// # Errors
    /// Where it can't be read.
    pub fn read(&self) -> Result<Note, NoteError> {
        let Some(bytes) = read_if_there(&self.path)? else { return Ok(Note::default()) };
        let damaged = |source| NoteError::Damaged { path: self.path.clone(), source };
        let content: Content = serde_json::from_slice(&bytes).map_err(|e| damaged(Some(e)))?;
        if content.version > VERSION {
            return Err(damaged(None));
        }
        Ok(content.note)
    }

    /// Changes it; what `change` gives is given when the change is on the disk. Waits for others.
    ///
    /// # Errors
    /// Where it can't be read or written; then it is as before.
    pub fn change<T>(&self, change: impl FnOnce(&mut Note) -> T) -> Result<T, NoteError> {
        let _locked = self.lock()?;
        let before = self.read()?;
        let mut note = before.clone();
        let given = change(&mut note);
        if note != before {
            let content = Content { version: VERSION, note };
            let bytes = serde_json::to_vec_pretty(&content).map_err(|source| {
                NoteError::Damaged { path: self.path.clone(), source: Some(source) }
            })?;
            write_whole(&self.path, &bytes)?;
        }
        Ok(given)
    }

    /// Held until the file is dropped.
    fn lock(&self) -> Result<File, FileError> {
        let path = self.path.with_extension("lock");
        let mut options = File::options();
        let file = options.write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(failed("open", &path))?;
        let lock = || rustix::fs::flock(&file, FlockOperation::LockExclusive);
        rustix::io::retry_on_intr(lock).map_err(|e| failed("lock", &path)(e.into()))?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use shoal_core::time::Timestamp;

    use super::*;

    #[test]
    fn it_is_kept_and_a_damaged_one_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { state: dir.path().into(), ..Paths::default() };
        let notes = Notes::open(&paths).unwrap();
        assert_eq!(notes.read().unwrap(), Note::default());
        let spec = shoal_core::agent_upgrade::AgentSpec {
            version: "1.0.0".parse().unwrap(),
            digest: [1; 32].into(),
            size: 1,
            deadline: std::time::Duration::from_secs(1),
            asked: 1,
        };
        notes.change(|note| note.reject(&spec, "why", Timestamp(1))).unwrap();
        let again = Notes::open(&paths).unwrap();
        assert_eq!(again.read().unwrap().rejection(&spec), Some("why"));
        assert_eq!(again.change(Note::untold).unwrap(), Some("why".into()));
        assert_eq!(again.change(Note::untold).unwrap(), None);
        let text = std::fs::read_to_string(paths.upgrade()).unwrap();
        assert!(text.starts_with("{\n  \"version\": 1,\n  \"rejected\": {"), "{text}");
        for bad in ["", "{", r#"{"version": 2}"#] {
            std::fs::write(paths.upgrade(), bad).unwrap();
            let error = notes.read().unwrap_err();
            assert!(error.to_string().contains("upgrade.json is damaged"), "{error}");
        }
    }
}
