//! What Shoal reads out of a certificate.
//!
//! Way in: [`CertificateInfo`]. Deliberately absent: verification; that is rustls' in a handshake
//! and [`crate::verify_for_recovery`]'s outside one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

use crate::BACKDATE;
use crate::fingerprint::{hex, sha256};
use crate::identity::{Identity, IdentityError};

/// Why a certificate could not be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateInfoError {
    #[error("the certificate cannot be read: {why}")]
    Unreadable { why: &'static str },
    #[error("there is no certificate in the PEM text; expected a BEGIN CERTIFICATE block")]
    NoPem,
    #[error("the certificate carries no Shoal identity")]
    Identity(#[source] IdentityError),
    #[error("the certificate's dates lie before 1970")]
    Dates,
}

/// The facts of one leaf certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateInfo {
    /// Whom it names.
    pub identity: Identity,
    /// The serial number in lower-case hex; what revocation lists hold.
    pub serial: String,
    /// First moment of validity, [`BACKDATE`] before it was issued.
    pub not_before: SystemTime,
    /// Last moment of validity.
    pub not_after: SystemTime,
    /// SHA-256 of the public key (DER SubjectPublicKeyInfo).
    pub spki_sha256: [u8; 32],
}

impl CertificateInfo {
    /// Reads a DER certificate. Checks no signature and no date.
    ///
    /// # Errors
    /// When it is no certificate, or does not carry exactly one Shoal identity.
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateInfoError> {
        let cert = parse(der).map_err(|why| CertificateInfoError::Unreadable { why })?;
        let identity =
            single_uri(&cert).and_then(str::parse).map_err(CertificateInfoError::Identity)?;
        Ok(Self {
            identity,
            serial: hex(cert.raw_serial()),
            not_before: system_time(cert.validity().not_before)?,
            not_after: system_time(cert.validity().not_after)?,
            spki_sha256: sha256(cert.public_key().raw),
        })
    }

    /// Reads the first certificate of a PEM text, which by custom is the leaf.
    ///
    /// # Errors
    /// As [`Self::from_der`], and [`CertificateInfoError::NoPem`] when there is none.
    pub fn from_pem(pem: &str) -> Result<Self, CertificateInfoError> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| CertificateInfoError::NoPem)?;
        Self::from_der(&der)
    }

    /// When to ask for the next certificate: between 50 and 80 % of the life since the issue, so
    /// that hosts enrolled together do not renew together. `dice` is any random number.
    pub fn renew_at(&self, dice: u32) -> SystemTime {
        let issued = self.not_before.checked_add(BACKDATE).unwrap_or(self.not_before);
        let life = self.not_after.duration_since(issued).unwrap_or(Duration::ZERO);
        let per_mille = 500 + dice % 301;
        issued + life / 1000 * per_mille
    }
}

/// Parses exactly one certificate.
pub(crate) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, &'static str> {
    match X509Certificate::from_der(der) {
        Ok(([], cert)) => Ok(cert),
        Ok(_) => Err("there are bytes after its end"),
        Err(_) => Err("it is not an X.509 certificate in DER"),
    }
}

/// The one URI among the subject's alternative names.
pub(crate) fn single_uri<'a>(cert: &X509Certificate<'a>) -> Result<&'a str, IdentityError> {
    let uris: Vec<&str> = cert
        .subject_alternative_name()
        .map_err(|_| IdentityError::Certificate { why: "its names are given twice".to_owned() })?
        .map(|extension| &extension.value.general_names)
        .into_iter()
        .flatten()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    match uris.as_slice() {
        [uri] => Ok(uri),
        _ => Err(IdentityError::UriCount { found: uris.len() }),
    }
}

pub(crate) fn system_time(time: ASN1Time) -> Result<SystemTime, CertificateInfoError> {
    let seconds = u64::try_from(time.timestamp()).map_err(|_| CertificateInfoError::Dates)?;
    Ok(UNIX_EPOCH + Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(life: Duration) -> CertificateInfo {
        let issued = UNIX_EPOCH + Duration::from_secs(1_000_000);
        CertificateInfo {
            identity: "spiffe://x/agent/h".parse().unwrap(),
            serial: "01".into(),
            not_before: issued - BACKDATE,
            not_after: issued + life,
            spki_sha256: [0; 32],
        }
    }

    #[test]
    fn renewal_falls_between_half_and_four_fifths() {
        let issued = UNIX_EPOCH + Duration::from_secs(1_000_000);
        for life in [10, 60, 86_400].map(Duration::from_secs) {
            let info = info(life);
            for dice in [0, 1, 150, 300, 301, u32::MAX] {
                let after = info.renew_at(dice).duration_since(issued).unwrap();
                assert!(after >= life / 2 && after <= life * 4 / 5, "{life:?} {dice}: {after:?}");
            }
            assert_eq!(info.renew_at(0), issued + life / 2);
            assert_eq!(info.renew_at(300), issued + life * 4 / 5);
        }
    }

    #[test]
    fn pem_without_a_certificate() {
        assert_eq!(CertificateInfo::from_pem("hello"), Err(CertificateInfoError::NoPem));
    }
}
