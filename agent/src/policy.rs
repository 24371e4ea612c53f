//! Reading the host's policy, `/etc/shoal/policy.toml`: by the daemon when it starts, and by each
//! start of an instance.

use std::path::PathBuf;

use shoal_core::policy::Policy;

use crate::files::{FileError, read_if_there};
use crate::paths::Paths;

/// A policy that is there and can't be read. Nothing is started on one that would have to be
/// guessed.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// What is in it.
    #[error("{path} is not a policy; correct it, docs/hosts.md has its keys", path = path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        source: toml::de::Error,
    },
    /// It is no text at all.
    #[error("{path} is not text", path = path.display())]
    NoText {
        /// The file.
        path: PathBuf,
    },
}

/// Reads the policy; the defaults where there is no file.
///
/// # Errors
/// Where there is a file that can't be read.
pub fn load(paths: &Paths) -> Result<Policy, PolicyError> {
    let path = paths.policy();
    let Some(bytes) = read_if_there(&path)? else { return Ok(Policy::default()) };
    let Ok(text) = String::from_utf8(bytes) else { return Err(PolicyError::NoText { path }) };
    toml::from_str(&text).map_err(|source| PolicyError::Invalid { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_read_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { etc: dir.path().into(), ..Paths::default() };
        assert_eq!(load(&paths).unwrap(), Policy::default());
        std::fs::write(paths.policy(), "host-network = false\n").unwrap();
        assert!(!load(&paths).unwrap().host_network);
        std::fs::write(paths.policy(), "host-network = false\nbinds = []\n").unwrap();
        let error = shoal_core::cause::chain(&load(&paths).unwrap_err());
        assert!(error.contains("policy.toml") && error.contains("line 2"), "{error}");
    }
}
