//! A certificate with its key that can be replaced under live configurations.
//!
//! Way in: [`ReloadableIdentity`]. A configuration made from it uses whatever was loaded last for
//! each new handshake; connections that are open keep what they began with.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use arc_swap::ArcSwap;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::certificate::{CertificateInfo, CertificateInfoError};
use crate::config::provider;

/// Why a certificate and key were not taken; what was loaded before stays in use.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the certificate chain cannot be read")]
    Chain(#[source] rustls_pki_types::pem::Error),
    #[error("the leaf certificate is not usable")]
    Leaf(#[source] CertificateInfoError),
    #[error("the private key cannot be read; expected one BEGIN PRIVATE KEY block (PKCS #8)")]
    Key(#[source] rustls_pki_types::pem::Error),
    #[error("the certificate and the private key do not belong together")]
    Pair(#[source] rustls::Error),
}

#[derive(Debug)]
struct Loaded {
    key: Arc<CertifiedKey>,
    info: CertificateInfo,
}

/// A handle to the certificate in use; clones share it.
#[derive(Debug, Clone)]
pub struct ReloadableIdentity {
    current: Arc<ArcSwap<Loaded>>,
}

impl ReloadableIdentity {
    /// Loads a chain, leaf first, and the leaf's key.
    ///
    /// # Errors
    /// When either cannot be read or they do not belong together. Dates are not checked.
    pub fn from_pem(chain_pem: &str, key_pem: &str) -> Result<Self, ReloadError> {
        let loaded = load(chain_pem, key_pem)?;
        Ok(Self { current: Arc::new(ArcSwap::from_pointee(loaded)) })
    }

    /// As [`Self::from_pem`], from two files.
    ///
    /// # Errors
    /// As [`Self::from_pem`], and when a file cannot be read.
    pub fn from_files(chain: &Path, key: &Path) -> Result<Self, ReloadError> {
        Self::from_pem(&read(chain)?, &read(key)?)
    }

    /// Replaces what new handshakes use.
    ///
    /// # Errors
    /// As [`Self::from_pem`]; then nothing changes.
    pub fn reload(&self, chain_pem: &str, key_pem: &str) -> Result<(), ReloadError> {
        self.current.store(Arc::new(load(chain_pem, key_pem)?));
        Ok(())
    }

    /// As [`Self::reload`], from two files.
    ///
    /// # Errors
    /// As [`Self::from_files`]; then nothing changes.
    pub fn reload_from_files(&self, chain: &Path, key: &Path) -> Result<(), ReloadError> {
        self.reload(&read(chain)?, &read(key)?)
    }

    /// Identity, serial number, dates and key of the certificate in use.
    pub fn info(&self) -> CertificateInfo {
        self.current.load().info.clone()
    }

    fn certified_key(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.current.load().key)
    }
}

impl ResolvesServerCert for ReloadableIdentity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.certified_key())
    }
}

impl ResolvesClientCert for ReloadableIdentity {
    // The server's hints are not looked at: there is one certificate, and the server's refusal
    // says more than an absent certificate would.
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.certified_key())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn load(chain_pem: &str, key_pem: &str) -> Result<Loaded, ReloadError> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain_pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(ReloadError::Chain)?;
    let leaf = chain.first().ok_or(ReloadError::Leaf(CertificateInfoError::NoPem))?;
    let info = CertificateInfo::from_der(leaf).map_err(ReloadError::Leaf)?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(ReloadError::Key)?;
    let key = CertifiedKey::from_der(chain, key, &provider()).map_err(ReloadError::Pair)?;
    Ok(Loaded { key: Arc::new(key), info })
}

fn read(path: &Path) -> Result<String, ReloadError> {
    fs::read_to_string(path).map_err(|source| ReloadError::Read { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::{Ca, LeafKey};

    fn issue(name: &str) -> (String, String) {
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let day = Duration::from_secs(86_400);
        let ca = Ca::generate(&"x".parse().unwrap(), now, day).unwrap();
        let key = LeafKey::generate().unwrap();
        let identity = format!("spiffe://x/agent/{name}").parse().unwrap();
        let issued = ca.issue(&key.csr_der().unwrap(), &identity, now, day).unwrap();
        (issued.chain_pem, key.to_pem())
    }

    #[test]
    fn a_failed_reload_changes_nothing() {
        let ((cert_a, key_a), (cert_b, key_b)) = (issue("a"), issue("b"));
        let identity = ReloadableIdentity::from_pem(&cert_a, &key_a).unwrap();
        let name = || identity.info().identity.agent_id().unwrap().to_owned();

        assert!(matches!(identity.reload(&cert_b, &key_a), Err(ReloadError::Pair(_))));
        assert!(matches!(identity.reload("", &key_b), Err(ReloadError::Leaf(_))));
        assert!(matches!(identity.reload(&cert_b, ""), Err(ReloadError::Key(_))));
        assert_eq!(name(), "a");

        identity.reload(&cert_b, &key_b).unwrap();
        assert_eq!(name(), "b");
    }

    #[test]
    fn files_are_named_when_they_are_missing() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        let (cert_pem, key_pem) = issue("a");
        fs::write(&cert, cert_pem).unwrap();
        let error = ReloadableIdentity::from_files(&cert, &key).unwrap_err();
        assert!(error.to_string().contains("key.pem"), "{error}");
        fs::write(&key, key_pem).unwrap();
        assert!(ReloadableIdentity::from_files(&cert, &key).is_ok());
    }
}
