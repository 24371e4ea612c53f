//! The certificate authority of one trust domain.
//!
//! Way in: [`Ca::generate`] once, [`Ca::from_pem`] ever after, then [`Ca::issue`]. The CA decides
//! subject, names, key usage and dates of what it signs; a request gives only the public key.
//!
//! Deliberately absent: who may have which identity, and what was issued before: the controller
//! decides and remembers that.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, DnsName};

use crate::BACKDATE;
use crate::certificate::{self, CertificateInfo, CertificateInfoError};
use crate::csr::{Csr, CsrError};
use crate::fingerprint::{hex, sha256};
use crate::identity::{Identity, IdentityError, Subject, TrustDomain};
use crate::key::{KeyError, LeafKey};

/// The first second that an X.509 date cannot express: the year 10000.
const END_OF_DATES: u64 = 253_402_300_800;

/// Why the CA could not be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    #[error("the CA certificate cannot be read: {why}")]
    BadCertificate { why: &'static str },
    #[error("the CA certificate names no trust domain")]
    BadTrustDomain(#[source] IdentityError),
    #[error("the CA's dates are not usable")]
    BadDates(#[source] CertificateInfoError),
    #[error("the CA's private key cannot be read; expected one BEGIN PRIVATE KEY block (PKCS #8)")]
    BadKey(#[source] rcgen::Error),
    #[error(
        "the CA's certificate and private key do not belong together; restore both from the same \
         backup"
    )]
    KeyMismatch,
    #[error("cannot make a leaf key")]
    LeafKey(#[source] KeyError),
    #[error("the certificate request was refused")]
    Csr(#[source] CsrError),
    #[error("cannot issue a certificate for {identity}: this CA signs for {trust_domain} only")]
    OtherTrustDomain { identity: Identity, trust_domain: TrustDomain },
    #[error("cannot issue a server certificate for {identity}: only controllers are servers")]
    NotAController { identity: Identity },
    #[error("a server certificate needs at least one name or address that clients dial")]
    NoServerNames,
    #[error("{name:?} is neither an IP address nor a DNS name, so no server certificate names it")]
    BadServerName { name: String },
    #[error("the CA's own certificate has expired; rotate the CA")]
    Expired,
    #[error(
        "the certificate's dates are out of range: it must end after now and before year 10000"
    )]
    Lifetime,
    #[error("the system gave no randomness for a serial number")]
    Random,
    #[error("cannot sign the certificate")]
    Sign(#[source] rcgen::Error),
    #[error("the certificate just signed cannot be read back")]
    ReadBack(#[source] CertificateInfoError),
}

/// A leaf certificate, fresh from the CA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedCertificate {
    /// The leaf, then the CA's certificate.
    pub chain_pem: String,
    /// The leaf alone.
    pub der: Vec<u8>,
    /// Identity, serial number, dates and key of the leaf.
    pub info: CertificateInfo,
}

/// A server's certificate with the key that was made for it.
#[derive(Debug)]
pub struct IssuedServer {
    /// The chain carries the CA's certificate, so that a host with a join token can find in it
    /// the key that the token names.
    pub certificate: IssuedCertificate,
    /// The private key.
    pub key: LeafKey,
}

/// A CA with its private key.
#[derive(Debug)]
pub struct Ca {
    trust_domain: TrustDomain,
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
    cert_pem: String,
    not_after: SystemTime,
    spki_sha256: [u8; 32],
}

impl Ca {
    /// Makes a self-signed CA that is valid from [`BACKDATE`] before `now` to `now + validity`.
    ///
    /// # Errors
    /// [`CaError::Lifetime`], or a failure of the system's randomness.
    pub fn generate(
        trust_domain: &TrustDomain,
        now: SystemTime,
        validity: Duration,
    ) -> Result<Self, CaError> {
        let key = KeyPair::generate().map_err(CaError::Sign)?;
        let mut params = dated_params(now, now.checked_add(validity).ok_or(CaError::Lifetime)?)?;
        let mark = hex(&sha256(&key.subject_public_key_info()));
        // Part of the key's hash, so that people can tell two CAs apart during a rotation.
        let name = format!("Shoal CA {}", mark.get(..8).unwrap_or(&mark));
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))?];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(CaError::Sign)?;
        Self::assemble(certificate.der().clone(), certificate.pem(), key)
    }

    /// Reads a CA that [`Self::cert_pem`] and [`Self::key_pem`] wrote.
    ///
    /// # Errors
    /// When one of them cannot be read, they do not belong together, or the certificate is not
    /// a Shoal CA's.
    pub fn from_pem(cert_pem: &str, key_pem: &str) -> Result<Self, CaError> {
        let der = CertificateDer::from_pem_slice(cert_pem.as_bytes()).map_err(|_| {
            CaError::BadCertificate { why: "there is no BEGIN CERTIFICATE block in it" }
        })?;
        let key = KeyPair::from_pem(key_pem).map_err(CaError::BadKey)?;
        Self::assemble(der, cert_pem.to_owned(), key)
    }

    fn assemble(
        der: CertificateDer<'static>,
        cert_pem: String,
        key: KeyPair,
    ) -> Result<Self, CaError> {
        let cert = certificate::parse(&der).map_err(|why| CaError::BadCertificate { why })?;
        if !cert.is_ca() {
            return Err(CaError::BadCertificate { why: "it is not a CA's" });
        }
        let spki = cert.public_key().raw;
        if spki != key.subject_public_key_info() {
            return Err(CaError::KeyMismatch);
        }
        let trust_domain = trust_domain_of(&cert).map_err(CaError::BadTrustDomain)?;
        let not_after =
            certificate::system_time(cert.validity().not_after).map_err(CaError::BadDates)?;
        let spki_sha256 = sha256(spki);
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(CaError::Sign)?;
        Ok(Self { trust_domain, issuer, der, cert_pem, not_after, spki_sha256 })
    }

    /// The installation this CA signs for.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The CA's certificate: public.
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// The CA's certificate in DER.
    pub fn cert_der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// The CA's private key in PKCS #8 PEM. Write it with [`crate::write_private`] only.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// SHA-256 of the CA's public key: what join tokens pin.
    pub fn spki_sha256(&self) -> [u8; 32] {
        self.spki_sha256
    }

    /// Last moment of the CA's validity.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Signs a certificate for `identity` and the key in `csr_der`, valid from [`BACKDATE`]
    /// before `now` to `now + lifetime`, or to the CA's own end if that is sooner. Agents, users
    /// and pipelines get a client's certificate, controllers a server's and client's.
    ///
    /// # Errors
    /// When the request is not signed by its own key, the identity is of another trust domain, or
    /// the CA has expired.
    pub fn issue(
        &self,
        csr_der: &[u8],
        identity: &Identity,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<IssuedCertificate, CaError> {
        let csr = Csr::verify(csr_der).map_err(CaError::Csr)?;
        let params = self.leaf_params(identity, now, lifetime)?;
        self.sign(&params, csr.public_key())
    }

    /// Makes a key and a server certificate for a controller that clients reach under `names`:
    /// DNS names and IP addresses.
    ///
    /// # Errors
    /// As [`Self::issue`], and when the identity is no controller's or a name is not usable.
    pub fn issue_server(
        &self,
        identity: &Identity,
        names: &[String],
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<IssuedServer, CaError> {
        if !matches!(identity.subject(), Subject::Controller(_)) {
            return Err(CaError::NotAController { identity: identity.clone() });
        }
        if names.is_empty() {
            return Err(CaError::NoServerNames);
        }
        let mut params = self.leaf_params(identity, now, lifetime)?;
        for name in names {
            params.subject_alt_names.push(server_name(name)?);
        }
        let key = LeafKey::generate().map_err(CaError::LeafKey)?;
        let certificate = self.sign(&params, key.pair())?;
        Ok(IssuedServer { certificate, key })
    }

    fn leaf_params(
        &self,
        identity: &Identity,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<CertificateParams, CaError> {
        if identity.trust_domain() != &self.trust_domain {
            return Err(CaError::OtherTrustDomain {
                identity: identity.clone(),
                trust_domain: self.trust_domain.clone(),
            });
        }
        if now >= self.not_after {
            return Err(CaError::Expired);
        }
        let wanted = now.checked_add(lifetime).ok_or(CaError::Lifetime)?;
        let mut params = dated_params(now, wanted.min(self.not_after))?;
        let subject = identity.subject();
        params.distinguished_name.push(DnType::OrganizationName, subject.kind());
        params.distinguished_name.push(DnType::CommonName, subject.id());
        params.subject_alt_names = vec![uri(&identity.to_string())?];
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = extended_key_usages(subject);
        Ok(params)
    }

    fn sign(
        &self,
        params: &CertificateParams,
        public_key: &impl PublicKeyData,
    ) -> Result<IssuedCertificate, CaError> {
        let leaf = params.signed_by(public_key, &self.issuer).map_err(CaError::Sign)?;
        // Read back rather than computed: dates are cut to seconds in the certificate.
        let info = CertificateInfo::from_der(leaf.der()).map_err(CaError::ReadBack)?;
        let chain_pem = format!("{}{}", leaf.pem(), self.cert_pem);
        Ok(IssuedCertificate { chain_pem, der: leaf.der().to_vec(), info })
    }
}

fn extended_key_usages(subject: &Subject) -> Vec<ExtendedKeyUsagePurpose> {
    match subject {
        Subject::Agent(_) | Subject::User(_) | Subject::Ci(_) => {
            vec![ExtendedKeyUsagePurpose::ClientAuth]
        }
        Subject::Controller(_) => {
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
        }
    }
}

/// Parameters with dates and a random serial number, and nothing else set.
fn dated_params(now: SystemTime, end: SystemTime) -> Result<CertificateParams, CaError> {
    if end <= now {
        return Err(CaError::Lifetime);
    }
    let since_epoch =
        |time: SystemTime| time.duration_since(UNIX_EPOCH).map_err(|_| CaError::Lifetime);
    let (start, end) = (since_epoch(now)?.saturating_sub(BACKDATE), since_epoch(end)?);
    if end.as_secs() >= END_OF_DATES {
        return Err(CaError::Lifetime);
    }
    let mut params = CertificateParams::default();
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + start;
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + end;
    params.distinguished_name = DistinguishedName::new();
    params.serial_number = Some(random_serial()?);
    Ok(params)
}

/// 16 random bytes, of which the first is in 0x40..=0x7f: positive, and never shortened.
fn random_serial() -> Result<SerialNumber, CaError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| CaError::Random)?;
    bytes[0] = bytes[0] & 0x3f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn uri(text: &str) -> Result<SanType, CaError> {
    text.try_into().map(SanType::URI).map_err(CaError::Sign)
}

fn server_name(name: &str) -> Result<SanType, CaError> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let bad = || CaError::BadServerName { name: name.to_owned() };
    let dns = DnsName::try_from(name).map_err(|_| bad())?;
    dns.as_ref().try_into().map(SanType::DnsName).map_err(|_| bad())
}

/// A CA's SPIFFE URI has no path: it is the trust domain.
fn trust_domain_of(
    cert: &x509_parser::certificate::X509Certificate<'_>,
) -> Result<TrustDomain, IdentityError> {
    let uri = certificate::single_uri(cert)?;
    uri.strip_prefix("spiffe://").unwrap_or_default().parse()
}

#[cfg(test)]
#[path = "ca/tests.rs"]
mod tests;
