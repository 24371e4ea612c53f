//! A private key that stays where it was made.
//!
//! Way in: [`LeafKey`]. What leaves the host is only [`LeafKey::csr_der`].

use std::fmt;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData};

use crate::fingerprint::{Fingerprint, sha256};

/// Why a key could not be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("cannot generate a private key")]
    Generate(#[source] rcgen::Error),
    #[error(
        "the private key cannot be read; expected one BEGIN PRIVATE KEY block (PKCS #8) with an \
         ECDSA or Ed25519 key"
    )]
    Parse(#[source] rcgen::Error),
    #[error("cannot sign a certificate request with the private key")]
    Sign(#[source] rcgen::Error),
}

/// An ECDSA P-256 key pair.
pub struct LeafKey {
    pair: KeyPair,
}

impl LeafKey {
    /// Makes a new key from the system's randomness.
    ///
    /// # Errors
    /// [`KeyError::Generate`] when there is no randomness.
    pub fn generate() -> Result<Self, KeyError> {
        KeyPair::generate().map(|pair| Self { pair }).map_err(KeyError::Generate)
    }

    /// Reads a PKCS #8 key.
    ///
    /// # Errors
    /// [`KeyError::Parse`] when the text is no such key.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        KeyPair::from_pem(pem).map(|pair| Self { pair }).map_err(KeyError::Parse)
    }

    /// The key in PKCS #8 PEM. Write it with [`crate::write_private`] only.
    pub fn to_pem(&self) -> String {
        self.pair.serialize_pem()
    }

    /// A certificate request (PKCS #10 DER) that carries the public key, signed with this key,
    /// and nothing else: the names in a certificate are the controller's to give.
    ///
    /// # Errors
    /// [`KeyError::Sign`] when there is no randomness for the signature.
    pub fn csr_der(&self) -> Result<Vec<u8>, KeyError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&self.pair).map_err(KeyError::Sign)?;
        Ok(request.der().to_vec())
    }

    /// SHA-256 of the public key (DER SubjectPublicKeyInfo).
    pub fn spki_sha256(&self) -> [u8; 32] {
        sha256(&self.pair.subject_public_key_info())
    }

    pub(crate) fn pair(&self) -> &KeyPair {
        &self.pair
    }
}

impl fmt::Debug for LeafKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeafKey").field("public", &Fingerprint(self.spki_sha256())).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pem_round_trip_keeps_the_key() {
        let key = LeafKey::generate().unwrap();
        let again = LeafKey::from_pem(&key.to_pem()).unwrap();
        assert_eq!(key.spki_sha256(), again.spki_sha256());
    }

    #[test]
    fn garbage_is_refused() {
        assert!(matches!(LeafKey::from_pem("no key"), Err(KeyError::Parse(_))));
    }

    #[test]
    fn debug_shows_only_the_public_half() {
        let key = LeafKey::generate().unwrap();
        let shown = format!("{key:?}");
        assert!(shown.contains("sha256:") && shown.len() < 120, "{shown}");
    }
}
