//! Knowing an agent again by a certificate that may have expired.
//!
//! Way in: [`verify_for_recovery`]. The caller still has to check that the serial number is not
//! revoked, and that the new request is signed by the old key ([`crate::Csr::spki_sha256`]
//! equal to [`CertificateInfo::spki_sha256`]).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::certificate::{CertificateInfo, CertificateInfoError};
use crate::config::provider;
use crate::roots::Roots;

/// Why an old certificate proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    #[error("the old certificate cannot be read")]
    Unreadable(#[source] CertificateInfoError),
    #[error("the old certificate was not issued by this CA as a client certificate")]
    Untrusted(#[source] rustls::Error),
}

/// Checks that `cert_der` is a client certificate signed by one of `roots`, and not from the
/// future; only its expiry is overlooked.
///
/// # Errors
/// See [`RecoveryError`].
pub fn verify_for_recovery(
    cert_der: &[u8],
    roots: &Roots,
    now: SystemTime,
) -> Result<CertificateInfo, RecoveryError> {
    let info = CertificateInfo::from_der(cert_der).map_err(RecoveryError::Unreadable)?;
    // Every other check is made as of the last moment at which the dates would have allowed it.
    let moment = now.min(info.not_after);
    let since_epoch = moment.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.store(), provider())
        .build()
        .expect("there is at least one root, and no revocation list");
    verifier
        .verify_client_cert(
            &CertificateDer::from(cert_der),
            &[],
            UnixTime::since_unix_epoch(since_epoch),
        )
        .map_err(RecoveryError::Untrusted)?;
    Ok(info)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Ca, Csr, LeafKey};

    const DAY: Duration = Duration::from_secs(86_400);

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn ca() -> Ca {
        Ca::generate(&"x".parse().unwrap(), now(), 365 * DAY).unwrap()
    }

    fn roots(ca: &Ca) -> Roots {
        Roots::from_pem(ca.cert_pem()).unwrap()
    }

    fn agent_cert(ca: &Ca, key: &LeafKey) -> Vec<u8> {
        let identity = "spiffe://x/agent/h1".parse().unwrap();
        ca.issue(&key.csr_der().unwrap(), &identity, now(), DAY).unwrap().der
    }

    #[test]
    fn a_week_later_the_old_key_is_known() {
        let (ca, key) = (ca(), LeafKey::generate().unwrap());
        let cert = agent_cert(&ca, &key);
        for later in [Duration::ZERO, 7 * DAY, 2000 * DAY] {
            let info = verify_for_recovery(&cert, &roots(&ca), now() + later).unwrap();
            assert_eq!(info.identity.agent_id(), Some("h1"));
            let csr = Csr::verify(&key.csr_der().unwrap()).unwrap();
            assert_eq!(csr.spki_sha256(), info.spki_sha256);
        }
    }

    #[test]
    fn another_ca_proves_nothing() {
        let cert = agent_cert(&ca(), &LeafKey::generate().unwrap());
        let refused = verify_for_recovery(&cert, &roots(&ca()), now());
        assert!(matches!(refused, Err(RecoveryError::Untrusted(_))), "{refused:?}");
    }

    #[test]
    fn the_future_proves_nothing() {
        let ca = ca();
        let cert = agent_cert(&ca, &LeafKey::generate().unwrap());
        let refused = verify_for_recovery(&cert, &roots(&ca), now() - DAY);
        assert!(matches!(refused, Err(RecoveryError::Untrusted(_))), "{refused:?}");
    }

    #[test]
    fn no_changed_byte_proves_anything() {
        let ca = ca();
        let cert = agent_cert(&ca, &LeafKey::generate().unwrap());
        for position in (0..cert.len()).step_by(7) {
            let mut changed = cert.clone();
            changed[position] ^= 0x01;
            let refused = verify_for_recovery(&changed, &roots(&ca), now());
            assert!(refused.is_err(), "byte {position}");
        }
    }
}
