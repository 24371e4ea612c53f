//! Encrypting for this host only, by systemd-creds with the key that systemd keeps for the host
//! (`/var/lib/systemd/credential.secret`, made when it is first needed, for root only).
//!
//! Values go in and out by pipes. A TPM is not asked: an instance must start where there is none.

use std::sync::Arc;

use shoal_core::secret::SecretValue;

use super::command::{self, CommandError};
use crate::paths::Paths;
use crate::secrets::vault::{Seal, SealError, Vault};

/// The tool. It is part of systemd since version 250.
pub const TOOL: &str = "systemd-creds";

/// The host's key.
#[derive(Debug)]
pub struct HostKey;

impl Seal for HostKey {
    fn seal(&self, label: &str, value: &SecretValue) -> Result<Vec<u8>, SealError> {
        let name = format!("--name={label}");
        let arguments = ["encrypt", "--with-key=host", &name, "-", "-"];
        Ok(command::pipe(TOOL, &arguments, value.reveal())?)
    }

    fn open(&self, label: &str, sealed: &[u8]) -> Result<SecretValue, SealError> {
        let name = format!("--name={label}");
        let value: Result<Vec<u8>, CommandError> =
            command::pipe(TOOL, &["decrypt", &name, "-", "-"], sealed);
        Ok(SecretValue::new(value?)?)
    }
}

/// The secrets of the host that `paths` are of.
#[must_use]
pub fn vault(paths: &Paths) -> Vault {
    Vault::new(paths.secrets(), Arc::new(HostKey))
}
