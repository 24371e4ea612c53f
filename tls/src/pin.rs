//! Trust for a host that knows nothing yet but the hash in its join token.
//!
//! Way in: [`crate::join_client_config`]. The server is believed only if it shows the CA
//! certificate whose public key has the pinned hash, and a certificate signed by that CA for the
//! name that was dialled. A handshake fails otherwise, before the client sends anything of its
//! own; so the token's secret never reaches another CA's server.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::certificate;
use crate::fingerprint::{Fingerprint, sha256};

/// Why the server is not the one the join token speaks of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    #[error(
        "the server belongs to another CA than the join token: the token names {pinned}, the \
         server showed {}; check the address, or create a token on this controller; nothing \
         secret was sent",
        list(shown)
    )]
    OtherCa { pinned: Fingerprint, shown: Vec<Fingerprint> },
    #[error("the certificate with the key that the join token names ({pinned}) is not a CA's")]
    NotACa { pinned: Fingerprint },
}

fn list(shown: &[Fingerprint]) -> String {
    if shown.is_empty() {
        return "no CA certificate".to_owned();
    }
    shown.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}

#[derive(Debug)]
pub(crate) struct PinnedCaVerifier {
    pinned: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl PinnedCaVerifier {
    pub(crate) fn new(ca_spki_sha256: [u8; 32], provider: Arc<CryptoProvider>) -> Self {
        Self { pinned: Fingerprint(ca_spki_sha256), provider }
    }

    fn pinned_ca<'a>(
        &self,
        chain: &'a [CertificateDer<'a>],
    ) -> Result<&'a CertificateDer<'a>, PinError> {
        let mut shown = Vec::new();
        for der in chain {
            let Ok(cert) = certificate::parse(der) else { continue };
            let key = Fingerprint(sha256(cert.public_key().raw));
            if key != self.pinned {
                shown.push(key);
            } else if cert.is_ca() {
                return Ok(der);
            } else {
                return Err(PinError::NotACa { pinned: self.pinned });
            }
        }
        Err(PinError::OtherCa { pinned: self.pinned, shown })
    }
}

impl ServerCertVerifier for PinnedCaVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let ca = self.pinned_ca(intermediates).map_err(|error| {
            Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
        })?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(roots.into(), Arc::clone(&self.provider))
            .build()
            .expect("there is one root, and no revocation list")
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
