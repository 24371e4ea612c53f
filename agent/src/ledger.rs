//! The ledger: the agent's durable copy of the last desired state that it accepted, and of the
//! newest controller epoch that it has seen.

use serde::{Deserialize, Serialize};
use shoal_core::host::{HostSpec, SpecRefused, accept};

use crate::files::{FileError, make_private_dir, read_if_there, write_whole};
use crate::paths::Paths;
use crate::version::version;

const VERSION: u32 = 1;

/// What the ledger's file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Content {
    version: u32,
    epoch: u64,
    /// Version of the agent that accepted `desired`. An older agent keeps only what it knows of a
    /// desired state, so that the same generation may hold more for a newer one.
    #[serde(default)]
    agent: String,
    desired: Option<HostSpec>,
}

impl Content {
    fn empty() -> Self {
        Self { version: VERSION, epoch: 0, agent: version().to_owned(), desired: None }
    }
}

/// Why the ledger did not take something, or can't be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file can't be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is not what this agent writes.
    #[error(
        "the ledger {path} is damaged or of a newer agent; instances keep running, but move it away and restart the agent to have it fetched anew"
    )]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong with it.
        source: Option<serde_json::Error>,
    },
    /// The desired state breaks the order of generations.
    #[error(transparent)]
    Refused(#[from] SpecRefused),
    /// It comes from a controller that another has replaced.
    #[error("it comes from epoch {offered} of the controller, and epoch {seen} was seen before")]
    OldEpoch {
        /// The sender's.
        offered: u64,
        /// The newest one seen.
        seen: u64,
    },
}

/// The ledger of one agent. One owner; all writes are on disk when they return.
#[derive(Debug)]
pub struct Ledger {
    path: std::path::PathBuf,
    content: Content,
}

impl Ledger {
    /// Opens the ledger, or begins one.
    ///
    /// # Errors
    /// Where it can't be read.
    pub fn open(paths: &Paths) -> Result<Self, LedgerError> {
        make_private_dir(&paths.agent())?;
        let path = paths.agent().join("ledger.json");
        let Some(bytes) = read_if_there(&path)? else {
            return Ok(Self { path, content: Content::empty() });
        };
        let damaged = |source| LedgerError::Damaged { path: path.display().to_string(), source };
        let content: Content = serde_json::from_slice(&bytes).map_err(|e| damaged(Some(e)))?;
        if content.version > VERSION {
            return Err(damaged(None));
        }
        Ok(Self { path, content })
    }

    /// The last accepted desired state; `None` before the first.
    #[must_use]
    pub fn desired(&self) -> Option<&HostSpec> {
        self.content.desired.as_ref()
    }

    /// The newest epoch seen.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.content.epoch
    }

    /// Notes the epoch of a controller that said hello.
    ///
    /// # Errors
    /// Where a newer one was seen before; and where it can't be written down, but then it holds
    /// all the same until the agent ends, and is written with the next desired state.
    pub fn see_epoch(&mut self, offered: u64) -> Result<(), LedgerError> {
        let seen = self.content.epoch;
        if offered < seen {
            return Err(LedgerError::OldEpoch { offered, seen });
        }
        if offered > seen {
            self.content.epoch = offered;
            self.save(self.content.clone())?;
        }
        Ok(())
    }

    /// Takes a desired state. `true` where it is new.
    ///
    /// # Errors
    /// Where its generation is older, or the same with other content; the ledger stays as it was.
    pub fn accept(&mut self, offered: HostSpec) -> Result<bool, LedgerError> {
        let upgraded = self.content.agent != version();
        match accept(self.content.desired.as_ref(), &offered) {
            Ok(true) => {}
            Err(SpecRefused::Differs { .. }) if upgraded => {}
            Ok(false) => return Ok(false),
            Err(refused) => return Err(refused.into()),
        }
        let (agent, desired) = (version().to_owned(), Some(offered));
        self.save(Content { agent, desired, ..self.content.clone() })?;
        Ok(true)
    }

    fn save(&mut self, content: Content) -> Result<(), LedgerError> {
        let bytes = serde_json::to_vec_pretty(&content).expect("a ledger is plain data");
        write_whole(&self.path, &bytes)?;
        self.content = content;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(generation: u64) -> HostSpec {
        HostSpec { generation, ..HostSpec::default() }
    }

    #[test]
    fn it_remembers_across_restarts_and_never_goes_back() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { state: dir.path().into(), ..Paths::default() };
        let mut ledger = Ledger::open(&paths).unwrap();
        assert!(ledger.desired().is_none());
        assert!(ledger.accept(spec(2)).unwrap());
        assert!(!ledger.accept(spec(2)).unwrap());
        ledger.see_epoch(7).unwrap();
        let mut ledger = Ledger::open(&paths).unwrap();
        assert_eq!(ledger.desired(), Some(&spec(2)));
        assert!(matches!(ledger.accept(spec(1)), Err(LedgerError::Refused(_))));
        assert!(matches!(ledger.see_epoch(6), Err(LedgerError::OldEpoch { seen: 7, .. })));
        assert_eq!(Ledger::open(&paths).unwrap().desired(), Some(&spec(2)));
    }

    #[test]
    fn an_upgraded_agent_takes_the_same_generation_in_full() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { state: dir.path().into(), ..Paths::default() };
        Ledger::open(&paths).unwrap().accept(spec(2)).unwrap();
        let instance = serde_json::json!({
            "id": "shop/main", "revision": 1, "run": "running", "restarts": 0,
            "config": {
                "image": {"reference": "app:1", "digest": "07".repeat(32), "size": 1},
                "settings": {"start": "boot", "network": "host"},
            },
        });
        let fuller = HostSpec {
            generation: 2,
            instances: vec![serde_json::from_value(instance).unwrap()],
            ..HostSpec::default()
        };
        let mut same = Ledger::open(&paths).unwrap();
        assert!(matches!(same.accept(fuller.clone()), Err(LedgerError::Refused(_))));
        let file = paths.agent().join("ledger.json");
        let older = std::fs::read_to_string(&file).unwrap().replace(version(), "0.0.1");
        std::fs::write(&file, older).unwrap();
        assert!(Ledger::open(&paths).unwrap().accept(fuller).unwrap());
    }

    #[test]
    fn a_full_disk_costs_no_epoch_and_no_desired_state() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { state: dir.path().into(), ..Paths::default() };
        let mut ledger = Ledger::open(&paths).unwrap();
        ledger.accept(spec(2)).unwrap();
        let fill = || {
            let new = paths.agent().join("ledger.new");
            std::os::unix::fs::symlink("/dev/full", new).unwrap();
        };
        fill();
        assert!(matches!(ledger.see_epoch(7), Err(LedgerError::File(_))));
        assert!(matches!(ledger.see_epoch(6), Err(LedgerError::OldEpoch { .. })));
        ledger.see_epoch(7).unwrap();
        fill();
        assert!(matches!(ledger.accept(spec(3)), Err(LedgerError::File(_))));
        assert_eq!(ledger.desired(), Some(&spec(2)));
        assert_eq!(Ledger::open(&paths).unwrap().desired(), Some(&spec(2)));
        assert!(ledger.accept(spec(3)).unwrap());
        let ledger = Ledger::open(&paths).unwrap();
        assert_eq!((ledger.desired(), ledger.epoch()), (Some(&spec(3)), 7));
    }

    #[test]
    fn damage_is_named_and_not_papered_over() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { state: dir.path().into(), ..Paths::default() };
        Ledger::open(&paths).unwrap().accept(spec(2)).unwrap();
        std::fs::write(paths.agent().join("ledger.json"), "{").unwrap();
        assert!(Ledger::open(&paths).unwrap_err().to_string().contains("ledger.json"));
    }

    #[test]
    fn the_form_on_disk_stays() {
        let golden =
            r#"{"version":1,"epoch":3,"agent":"0.1.0","desired":{"generation":2,"instances":[]}}"#;
        let content: Content = serde_json::from_str(golden).unwrap();
        assert_eq!(serde_json::to_string(&content).unwrap(), golden);
    }
}
