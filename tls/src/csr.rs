//! A certificate request from a peer that is not trusted yet.
//!
//! Way in: [`Csr::verify`]. Of the request only the public key is ever used; the names and
//! extensions it may ask for are not even looked at.

use rcgen::SubjectPublicKeyInfo;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use crate::fingerprint::sha256;

/// Largest request accepted, in bytes; ours are about 250.
const MAX_CSR: usize = 16 * 1024;

/// Why a certificate request was refused.
#[derive(Debug, thiserror::Error)]
pub enum CsrError {
    #[error("the certificate request has {size} bytes, more than the {MAX_CSR} allowed")]
    TooLarge { size: usize },
    #[error("the certificate request is not a PKCS #10 request in DER")]
    Parse,
    #[error(
        "the certificate request is not signed by the key it carries: it was changed on the way, \
         or its sender does not hold the private key"
    )]
    Signature,
    #[error("the certificate request has a kind of key that is not accepted; use ECDSA P-256")]
    Algorithm,
}

/// A request whose sender has proven to hold the private key. Two requests are the same when
/// their keys are, never by comparing their bytes: the wrapper around the signed part is not
/// covered by the signature.
#[derive(Debug)]
pub struct Csr {
    public_key: SubjectPublicKeyInfo,
    spki_sha256: [u8; 32],
}

impl Csr {
    /// Parses a request and checks that it is signed by the key it carries.
    ///
    /// # Errors
    /// See [`CsrError`].
    pub fn verify(der: &[u8]) -> Result<Self, CsrError> {
        if der.len() > MAX_CSR {
            return Err(CsrError::TooLarge { size: der.len() });
        }
        let Ok(([], request)) = X509CertificationRequest::from_der(der) else {
            return Err(CsrError::Parse);
        };
        let spki = request.certification_request_info.subject_pki.raw;
        let public_key = accepted_key(spki)?;
        request.verify_signature().map_err(|_| CsrError::Signature)?;
        Ok(Self { public_key, spki_sha256: sha256(spki) })
    }

    /// SHA-256 of the public key (DER SubjectPublicKeyInfo); equal to the old certificate's when
    /// a host renews with its old key.
    pub fn spki_sha256(&self) -> [u8; 32] {
        self.spki_sha256
    }

    pub(crate) fn public_key(&self) -> &SubjectPublicKeyInfo {
        &self.public_key
    }
}

/// Elliptic curves only: an RSA key of a few bits would parse just as well.
fn accepted_key(spki: &[u8]) -> Result<SubjectPublicKeyInfo, CsrError> {
    use rcgen::PublicKeyData;

    let key = SubjectPublicKeyInfo::from_der(spki).map_err(|_| CsrError::Algorithm)?;
    let accepted =
        [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519];
    if accepted.contains(&key.algorithm()) { Ok(key) } else { Err(CsrError::Algorithm) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LeafKey;

    #[test]
    fn own_requests_verify_and_name_the_key() {
        let key = LeafKey::generate().unwrap();
        let csr = Csr::verify(&key.csr_der().unwrap()).unwrap();
        assert_eq!(csr.spki_sha256(), key.spki_sha256());
    }

    /// The signature covers the request's inner part; the wrapper around it is parsed leniently
    /// (x509-parser overlooks DER class bits), which must not matter for the key.
    #[test]
    fn no_changed_bit_gets_another_key_through() {
        let key = LeafKey::generate().unwrap();
        let der = key.csr_der().unwrap();
        let (_, request) = X509CertificationRequest::from_der(&der).unwrap();
        let signed = request.certification_request_info.raw;
        let start = der.windows(signed.len()).position(|window| window == signed).unwrap();
        for position in 0..der.len() {
            for bit in 0..8 {
                let mut changed = der.clone();
                changed[position] ^= 1 << bit;
                let verified = Csr::verify(&changed);
                if (start..start + signed.len()).contains(&position) {
                    assert!(verified.is_err(), "signed byte {position}, bit {bit}");
                } else if let Ok(csr) = verified {
                    assert_eq!(csr.spki_sha256(), key.spki_sha256(), "byte {position}");
                }
            }
        }
    }

    #[test]
    fn another_keys_signature_is_refused() {
        let (a, b) = (LeafKey::generate().unwrap(), LeafKey::generate().unwrap());
        let (mut a_der, b_der) = (a.csr_der().unwrap(), b.csr_der().unwrap());
        // The last 16 bytes lie within the signature in every encoding of it.
        let (at, from) = (a_der.len() - 16, b_der.len() - 16);
        a_der[at..].copy_from_slice(&b_der[from..]);
        assert!(matches!(Csr::verify(&a_der), Err(CsrError::Signature)));
    }

    #[test]
    fn trailing_bytes_and_giants_are_refused() {
        let mut der = LeafKey::generate().unwrap().csr_der().unwrap();
        der.push(0);
        assert!(matches!(Csr::verify(&der), Err(CsrError::Parse)));
        let giant = vec![0; MAX_CSR + 1];
        assert!(matches!(Csr::verify(&giant), Err(CsrError::TooLarge { .. })));
    }
}
