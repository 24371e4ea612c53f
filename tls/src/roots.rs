//! The CAs a peer trusts: usually one, two while a CA is being rotated.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::certificate;

/// Why a set of CA certificates is not usable.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    #[error("there is no CA certificate in the PEM text; expected a BEGIN CERTIFICATE block")]
    Empty,
    #[error("the CA certificates cannot be read from the PEM text")]
    Pem(#[source] rustls_pki_types::pem::Error),
    #[error("certificate {position} of the CA certificates cannot be used: {why}")]
    NotACa { position: usize, why: &'static str },
}

/// At least one CA certificate.
#[derive(Debug, Clone)]
pub struct Roots {
    store: Arc<RootCertStore>,
    certificates: Vec<CertificateDer<'static>>,
}

impl Roots {
    /// Reads one or more CA certificates, one after the other.
    ///
    /// # Errors
    /// When there is none, or one of them is not a CA's.
    pub fn from_pem(pem: &str) -> Result<Self, RootsError> {
        let certificates: Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
        Self::from_der(certificates.map_err(RootsError::Pem)?)
    }

    /// The same from DER.
    ///
    /// # Errors
    /// As [`Self::from_pem`].
    pub fn from_der(certificates: Vec<CertificateDer<'static>>) -> Result<Self, RootsError> {
        if certificates.is_empty() {
            return Err(RootsError::Empty);
        }
        let mut store = RootCertStore::empty();
        for (index, certificate) in certificates.iter().enumerate() {
            let fault = |why| RootsError::NotACa { position: index + 1, why };
            if !certificate::parse(certificate).map_err(fault)?.is_ca() {
                return Err(fault("it is not a CA's"));
            }
            store
                .add(certificate.clone())
                .map_err(|_| fault("it cannot serve as a trust anchor"))?;
        }
        Ok(Self { store: Arc::new(store), certificates })
    }

    /// The certificates, as given.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// SHA-256 of each CA's public key, to compare with a join token's.
    pub fn spki_sha256s(&self) -> Vec<[u8; 32]> {
        self.certificates
            .iter()
            .filter_map(|der| certificate::parse(der).ok())
            .map(|cert| crate::sha256(cert.public_key().raw))
            .collect()
    }

    pub(crate) fn store(&self) -> Arc<RootCertStore> {
        Arc::clone(&self.store)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::Ca;

    fn ca() -> Ca {
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        Ca::generate(&"x".parse().unwrap(), now, Duration::from_secs(60)).unwrap()
    }

    #[test]
    fn a_bundle_of_two() {
        let (a, b) = (ca(), ca());
        let roots = Roots::from_pem(&format!("{}{}", a.cert_pem(), b.cert_pem())).unwrap();
        assert_eq!(roots.certificates().len(), 2);
        assert_eq!(roots.spki_sha256s(), [a.spki_sha256(), b.spki_sha256()]);
    }

    #[test]
    fn nothing_and_garbage_are_refused() {
        assert!(matches!(Roots::from_pem(""), Err(RootsError::Empty)));
        let broken = ca().cert_pem().replace("END CERT", "ENDCERT");
        assert!(Roots::from_pem(&broken).is_err());
        let garbage = vec![CertificateDer::from(vec![1, 2, 3])];
        assert!(matches!(Roots::from_der(garbage), Err(RootsError::NotACa { position: 1, .. })));
    }

    #[test]
    fn a_leaf_is_no_root() {
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let key = crate::LeafKey::generate().unwrap();
        let leaf = ca()
            .issue(
                &key.csr_der().unwrap(),
                &"spiffe://x/agent/h".parse().unwrap(),
                now,
                Duration::from_secs(9),
            )
            .unwrap();
        assert!(matches!(
            Roots::from_pem(&leaf.chain_pem),
            Err(RootsError::NotACa { position: 1, .. })
        ));
    }
}
