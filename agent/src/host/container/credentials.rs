//! An instance's secrets, opened for it: the credentials that systemd-nspawn gives it, and what its
//! templates may ask for.
//!
//! systemd-nspawn gets each by a file in memory that has no name and that only it has open. So a
//! plain value is in no directory, and goes with the process, however that ends.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::{FdFlags, fcntl_setfd};
use shoal_core::name::CredentialName;
use shoal_core::secret::{Credentials, PinnedSecret};
use shoal_core::spec::Settings;

use crate::host::sealed;
use crate::paths::Paths;
use crate::secrets::vault::SecretError;

/// Opens the secrets of an instance with these settings. Costs a process for each.
///
/// # Errors
/// Where one is not here or can't be opened.
pub fn open(paths: &Paths, settings: &Settings) -> Result<Credentials, SecretError> {
    let secrets: BTreeSet<PinnedSecret> = settings.secrets.values().cloned().collect();
    let mut values = Vec::new();
    for (secret, value) in sealed::vault(paths).open_all(&secrets) {
        values.push((secret, value?));
    }
    let all = settings.secrets.iter().filter_map(|(name, wanted)| {
        let (_, value) = values.iter().find(|(secret, _)| secret == wanted)?;
        Some((name.clone(), value.clone()))
    });
    Ok(all.collect())
}

/// A credential in a file that has no name.
#[derive(Debug)]
pub(super) struct Passed {
    name: CredentialName,
    file: OwnedFd,
}

impl Passed {
    /// What systemd-nspawn is told of it.
    pub(super) fn argument(&self) -> String {
        format!("--load-credential={}:/proc/self/fd/{}", self.name, self.file.as_raw_fd())
    }

    /// Lets the program have it that this process becomes next.
    pub(super) fn hand_over(&self) -> io::Result<()> {
        Ok(fcntl_setfd(&self.file, FdFlags::empty())?)
    }
}

/// Puts each into a file of its own, which no program that is started gets yet.
pub(super) fn in_memory(credentials: &Credentials) -> io::Result<Vec<Passed>> {
    let pass = |(name, value): (&CredentialName, &shoal_core::secret::SecretValue)| {
        let mut file = File::from(memfd_create("shoal-credential", MemfdFlags::CLOEXEC)?);
        file.write_all(value.reveal())?;
        Ok(Passed { name: name.clone(), file: file.into() })
    };
    credentials.iter().map(pass).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_core::secret::SecretValue;
    use std::process::Command;

    #[test]
    fn only_what_is_handed_over_reaches_the_next_program() {
        let value = SecretValue::new(b"hunter2".to_vec()).unwrap();
        let passed = in_memory(&[("db.password".parse().unwrap(), value)].into()).unwrap();
        let argument = passed[0].argument();
        let path = argument.strip_prefix("--load-credential=db.password:").unwrap();
        let read = || Command::new("cat").arg(path).output().unwrap();
        assert!(!read().status.success());
        passed[0].hand_over().unwrap();
        assert_eq!(read().stdout, b"hunter2");
    }
}
