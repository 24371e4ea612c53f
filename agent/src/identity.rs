//! Who this agent is: its key, its certificate, its controller. Under `/var/lib/shoal/agent`.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use shoal_core::name::{HostId, HostName};
use shoal_tls::{LeafKey, ReloadableIdentity, Roots, write_private};

use crate::files::{FileError, make_private_dir, read_if_there};
use crate::paths::Paths;

/// What an agent was told when it joined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct About {
    version: u32,
    /// The controller's name for the host.
    pub host_id: HostId,
    /// People's name for it.
    pub host_name: HostName,
    /// Where the controller is, without a port.
    pub controller: String,
    /// Port for agents.
    pub link_port: u16,
    /// Port for enrolment.
    pub enrol_port: u16,
}

/// Why there is no identity to be had.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file can't be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is none.
    #[error(
        "this host has not joined a controller; make a token with `shoal host token create` and \
         run `shoal-agent join`"
    )]
    NotJoined,
    /// A file is not what this agent wrote.
    #[error("{path} is damaged: {problem}; run `shoal-agent join` again with a new token")]
    Damaged {
        /// Which.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// A file can't be written.
    #[error(transparent)]
    Write(#[from] shoal_tls::PrivateFileError),
}

/// An agent's identity, as it is on the disk.
#[derive(Debug)]
pub struct Identity {
    /// What it was told.
    pub about: About,
    /// Its key, which never leaves the host.
    pub key: LeafKey,
    /// The certificate in use; reloaded when it renews.
    pub certificate: ReloadableIdentity,
    /// Whom it trusts.
    pub roots: Roots,
    /// The certificate in use, in PEM.
    chain_pem: Mutex<String>,
}

impl About {
    /// For a host that has just joined.
    #[must_use]
    pub fn new(
        host_id: HostId,
        host_name: HostName,
        controller: String,
        link_port: u16,
        enrol_port: u16,
    ) -> Self {
        Self { version: 1, host_id, host_name, controller, link_port, enrol_port }
    }
}

fn file(paths: &Paths, name: &str) -> PathBuf {
    paths.agent().join(name)
}

fn damaged(paths: &Paths, name: &str) -> impl FnOnce(String) -> IdentityError {
    let path = file(paths, name).display().to_string();
    move |problem| IdentityError::Damaged { path, problem }
}

fn read(paths: &Paths, name: &str) -> Result<String, IdentityError> {
    let bytes = read_if_there(&file(paths, name))?.ok_or(IdentityError::NotJoined)?;
    String::from_utf8(bytes).map_err(|e| damaged(paths, name)(e.to_string()))
}

/// The host's key: the one that is there, or a new one. Kept before anything is asked of a
/// controller, so that a join that is tried again is the same join.
///
/// # Errors
/// Where it can't be read or written.
pub fn key(paths: &Paths) -> Result<LeafKey, IdentityError> {
    match read(paths, "key.pem") {
        Ok(pem) => LeafKey::from_pem(&pem).map_err(|e| {
            let problem = format!("{}; remove the file", crate::chain(&e));
            damaged(paths, "key.pem")(problem)
        }),
        Err(IdentityError::NotJoined) => {
            make_private_dir(&paths.agent())?;
            let key =
                LeafKey::generate().map_err(|e| damaged(paths, "key.pem")(crate::chain(&e)))?;
            write_private(&file(paths, "key.pem"), key.to_pem().as_bytes())?;
            Ok(key)
        }
        Err(error) => Err(error),
    }
}

/// Keeps what a join gave. `host.json` comes last: with it, the host has joined.
///
/// # Errors
/// Where it can't be written.
pub fn save(paths: &Paths, about: &About, chain: &str, ca: &str) -> Result<(), IdentityError> {
    save_certificate(paths, chain, ca)?;
    let json = serde_json::to_vec_pretty(about).expect("plain data");
    Ok(write_private(&file(paths, "host.json"), &json)?)
}

/// Keeps a renewed certificate.
///
/// # Errors
/// Where it can't be written.
pub fn save_certificate(paths: &Paths, chain: &str, ca: &str) -> Result<(), IdentityError> {
    write_private(&file(paths, "certificate.pem"), chain.as_bytes())?;
    Ok(write_private(&file(paths, "ca.pem"), ca.as_bytes())?)
}

impl Identity {
    /// Of what was read or made.
    #[must_use]
    pub fn new(
        about: About,
        key: LeafKey,
        certificate: ReloadableIdentity,
        roots: Roots,
        chain_pem: String,
    ) -> Self {
        Self { about, key, certificate, roots, chain_pem: Mutex::new(chain_pem) }
    }

    /// Reads the identity of this host.
    ///
    /// # Errors
    /// Where it has none, or a damaged one.
    pub fn load(paths: &Paths) -> Result<Self, IdentityError> {
        let about = serde_json::from_str(&read(paths, "host.json")?)
            .map_err(|e| damaged(paths, "host.json")(e.to_string()))?;
        let key_pem = read(paths, "key.pem")?;
        let key =
            LeafKey::from_pem(&key_pem).map_err(|e| damaged(paths, "key.pem")(crate::chain(&e)))?;
        let chain_pem = read(paths, "certificate.pem")?;
        let certificate = ReloadableIdentity::from_pem(&chain_pem, &key_pem)
            .map_err(|e| damaged(paths, "certificate.pem")(crate::chain(&e)))?;
        let roots = Roots::from_pem(&read(paths, "ca.pem")?)
            .map_err(|e| damaged(paths, "ca.pem")(crate::chain(&e)))?;
        Ok(Self::new(about, key, certificate, roots, chain_pem))
    }

    /// Takes a renewed certificate into use, after keeping it.
    ///
    /// # Errors
    /// Where it can't be kept, or is not for this key.
    pub fn renew(&self, paths: &Paths, chain: &str, ca: &str) -> Result<(), IdentityError> {
        // Whatever is kept is read again at the next start: nothing goes there unread.
        Roots::from_pem(ca).map_err(|e| damaged(paths, "ca.pem")(crate::chain(&e)))?;
        let key = self.key.to_pem();
        self.certificate
            .reload(chain, &key)
            .map_err(|e| damaged(paths, "certificate.pem")(crate::chain(&e)))?;
        chain.clone_into(&mut self.chain_pem.lock().unwrap_or_else(PoisonError::into_inner));
        save_certificate(paths, chain, ca)
    }

    /// The certificate in use, in DER.
    ///
    /// # Errors
    /// Where its file held no certificate.
    pub fn certificate_der(&self) -> Result<Vec<u8>, rustls_pki_types::pem::Error> {
        use rustls_pki_types::pem::PemObject;
        let chain = self.chain_pem.lock().unwrap_or_else(PoisonError::into_inner);
        let der = rustls_pki_types::CertificateDer::from_pem_slice(chain.as_bytes())?;
        Ok(der.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_on_disk_stays() {
        let golden = r#"{"version":1,"host-id":"ab12","host-name":"h1","controller":"c.example.org","link-port":7443,"enrol-port":7444}"#;
        let about: About = serde_json::from_str(golden).unwrap();
        assert_eq!(serde_json::to_string(&about).unwrap(), golden);
    }

    #[test]
    fn a_host_that_has_not_joined_is_told_how_to() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { state: dir.path().into(), ..Paths::default() };
        let error = Identity::load(&paths).unwrap_err();
        assert!(error.to_string().contains("shoal host token create"), "{error}");
    }

    #[test]
    fn the_key_is_made_once_and_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { state: dir.path().into(), ..Paths::default() };
        let first = key(&paths).unwrap();
        assert_eq!(key(&paths).unwrap().spki_sha256(), first.spki_sha256());
        let file = std::fs::metadata(paths.agent().join("key.pem")).unwrap();
        assert_eq!(file.permissions().mode() & 0o777, 0o600);
    }
}
