//! `instance.json`: all that a container is started from, with neither agent nor controller up.
//!
//! Written while the machine's unit is down, or when the container that runs has been brought to
//! what is written, so that a running container is always the one that its record tells of.

use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use shoal_core::image::Digest;
use shoal_core::name::{HostName, InfraVersion, MachineName};
use shoal_core::plan::Applied;
use shoal_core::policy::Isolation;
use shoal_core::spec::InstanceSpec;

use crate::files::{FileError, read_if_there, write_whole};
use crate::paths::Paths;

/// The newest form of the file that this agent knows.
const VERSION: u32 = 1;

/// A machine's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Record {
    version: u32,
    /// The host's name, which templates may use.
    pub host: HostName,
    /// What to run.
    pub spec: InstanceSpec,
    /// The infra version that it was made under; `None` where the host had none then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub infra: Option<InfraVersion>,
    /// First of its user numbers; `None` to run without a user namespace, as the host's policy
    /// allowed when this was written.
    pub uid_base: Option<u32>,
    /// The machine's id for systemd and its journal, 32 hexadecimal digits; stays the same when
    /// the container is recreated.
    pub machine_id: String,
}

/// Why there is no record to be had.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file can't be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is none.
    #[error("there is no record of {machine}; it is not an instance of this host")]
    Missing {
        /// The machine.
        machine: MachineName,
    },
    /// It is not what this agent writes.
    #[error("{path} is damaged or of a newer agent")]
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

impl Record {
    /// A record for `spec`, made under this infra version.
    #[must_use]
    pub fn new(
        host: HostName,
        spec: InstanceSpec,
        infra: Option<InfraVersion>,
        isolation: Isolation,
        uid_base: u32,
        machine_id: String,
    ) -> Self {
        let uid_base = match isolation {
            Isolation::UserNamespace => Some(uid_base),
            Isolation::Shared => None,
        };
        Self { version: VERSION, host, spec, infra, uid_base, machine_id }
    }

    /// The record of the same container when it has been brought to `spec`.
    #[must_use]
    pub fn brought_to(&self, spec: InstanceSpec) -> Self {
        Self { version: VERSION, spec, ..self.clone() }
    }

    /// Reads a machine's record; `None` where there is none.
    ///
    /// # Errors
    /// Where there is one that can't be read.
    pub fn find(paths: &Paths, machine: &MachineName) -> Result<Option<Self>, RecordError> {
        let path = paths.record(machine);
        let Some(bytes) = read_if_there(&path)? else { return Ok(None) };
        Self::parse(&bytes, &path).map(Some)
    }

    /// Reads a machine's record.
    ///
    /// # Errors
    /// Where there is none, or one that can't be read.
    pub fn load(paths: &Paths, machine: &MachineName) -> Result<Self, RecordError> {
        let missing = || RecordError::Missing { machine: machine.clone() };
        Self::find(paths, machine)?.ok_or_else(missing)
    }

    fn parse(bytes: &[u8], path: &Path) -> Result<Self, RecordError> {
        let path = || path.display().to_string();
        let damaged = |source| RecordError::Damaged { path: path(), source };
        let record: Self = serde_json::from_slice(bytes).map_err(damaged)?;
        if record.version > VERSION {
            return Err(RecordError::TooNew { path: path(), version: record.version });
        }
        Ok(record)
    }

    /// Writes the record of its machine, whose directory must be there.
    ///
    /// # Errors
    /// Where it can't be written.
    pub fn save(&self, paths: &Paths) -> Result<(), RecordError> {
        let bytes = serde_json::to_vec_pretty(self).expect("a record is plain data");
        Ok(write_whole(&paths.record(&self.spec.id.machine()), &bytes)?)
    }

    /// Stands for what is to be started, under which infra version, and for how often a restart or
    /// another container was asked for: a hook that failed is not run again for the same.
    #[must_use]
    pub fn attempt(&self) -> Digest {
        let InstanceSpec { mut config, restarts, recreate, .. } = self.spec.clone();
        // Who signed the image makes no hook run otherwise.
        config.image.signed = None;
        // As it was before there was more than the first two, so that a failure of then still
        // counts.
        let bytes = match (recreate, &self.infra) {
            (0, None) => serde_json::to_vec(&(config, restarts)),
            (_, None) => serde_json::to_vec(&(config, restarts, recreate)),
            (_, Some(infra)) => serde_json::to_vec(&((config, restarts), infra, recreate)),
        };
        let bytes = bytes.expect("a configuration is plain data");
        Digest::from(<[u8; 32]>::from(Sha256::digest(bytes)))
    }

    /// The record as planning sees it.
    #[must_use]
    pub fn applied(&self) -> Applied {
        Applied {
            id: self.spec.id.clone(),
            config: self.spec.config.clone(),
            restarts: self.spec.restarts,
            recreate: self.spec.recreate,
            infra: self.infra.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The form on disk is a promise to every later version.
    const GOLDEN: &str = r#"{
  "version": 1,
  "host": "h1",
  "spec": {
    "id": "shop/main",
    "revision": 3,
    "config": {
      "image": {
        "reference": "app:1",
        "digest": "0707070707070707070707070707070707070707070707070707070707070707",
        "size": 4096
      },
      "settings": {
        "start": {
          "command": [
            "/bin/app"
          ]
        },
        "network": "private",
        "env": {
          "A": "b"
        },
        "data": {
          "var": {
            "path": "/var/app",
            "owner": "1000:1000"
          }
        },
        "files": {
          "/etc/app.conf": {
            "body": {
              "template": "{{ domain }}"
            },
            "mode": 420,
            "owner": "0:0"
          }
        },
        "vars": {
          "domain": "example.org"
        },
        "health": {
          "tcp": "127.0.0.1:80",
          "grace": {
            "secs": 120,
            "nanos": 0
          },
          "interval": {
            "secs": 10,
            "nanos": 0
          },
          "timeout": {
            "secs": 5,
            "nanos": 0
          },
          "retries": 3
        }
      }
    },
    "run": "running",
    "restarts": 0
  },
  "uid-base": 524288,
  "machine-id": "00000000000000000000000000000001"
}"#;

    #[test]
    fn the_form_on_disk_stays() {
        let record: Record = serde_json::from_str(GOLDEN).unwrap();
        assert_eq!(serde_json::to_string_pretty(&record).unwrap(), GOLDEN);
        assert_eq!(record.spec.id.machine().as_str(), "shop-main");
    }

    #[test]
    fn another_configuration_or_a_restart_is_another_attempt() {
        let record: Record = serde_json::from_str(GOLDEN).unwrap();
        let mut revision = record.clone();
        revision.spec.revision += 1;
        assert_eq!(record.attempt(), revision.attempt());
        let mut restart = record.clone();
        restart.spec.restarts += 1;
        let mut setting = record.clone();
        setting.spec.config.settings.env.clear();
        let mut signed = record.clone();
        let manifest = shoal_core::image::SignedManifest::new("m".into(), "s".into()).unwrap();
        signed.spec.config.image.signed = Some(Box::new(manifest));
        assert_eq!(record.attempt(), signed.attempt());
        let mut image = record.clone();
        image.spec.config.image.digest = [1; 32].into();
        let mut afresh = record.clone();
        afresh.spec.recreate = 2;
        let infra = Record { infra: Some("1".parse().unwrap()), ..record.clone() };
        let later = Record { infra: Some("2".parse().unwrap()), ..record.clone() };
        assert_ne!(infra.attempt(), later.attempt());
        for other in [restart, setting, image, afresh, infra] {
            assert_ne!(record.attempt(), other.attempt());
        }
    }

    #[test]
    fn a_newer_or_damaged_record_is_told_from_none() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { state: dir.path().into(), ..Paths::default() };
        let machine: MachineName = "shop-main".parse().unwrap();
        assert!(Record::find(&paths, &machine).unwrap().is_none());
        std::fs::create_dir_all(paths.instance(&machine)).unwrap();
        std::fs::write(paths.record(&machine), "{").unwrap();
        assert!(matches!(Record::find(&paths, &machine), Err(RecordError::Damaged { .. })));
        let newer = GOLDEN.replace("\"version\": 1", "\"version\": 2");
        std::fs::write(paths.record(&machine), newer).unwrap();
        assert!(matches!(Record::find(&paths, &machine), Err(RecordError::TooNew { .. })));
        let record: Record = serde_json::from_str(GOLDEN).unwrap();
        record.save(&paths).unwrap();
        assert_eq!(Record::load(&paths, &machine).unwrap(), record);
    }
}
