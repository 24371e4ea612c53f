//! The controller's CA and its own server certificate, as files in its directory.
//!
//! Way in: [`Authority::open`]; `init` makes the files with [`Authority::create`]. Deliberately
//! absent: who may have a certificate (that is decided in `enrol`), and rotation of the CA.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use shoal_core::name::{HostId, UserName};
use shoal_tls::{
    Ca, CaError, CertificateInfo, Identity, IdentityError, IssuedCertificate, PrivateFileError,
    ReloadError, ReloadableIdentity, Roots, RootsError, Subject, TrustDomain, write_private,
};
use tokio_rustls::rustls::ServerConfig;

const CA_CERTIFICATE: &str = "ca.pem";
const CA_KEY: &str = "ca.key";
const SERVER_CERTIFICATE: &str = "server.pem";
const SERVER_KEY: &str = "server.key";

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a CA lives.
const CA_LIFE: Duration = Duration::from_secs(3650 * 24 * 60 * 60);
/// How long the server's certificate lives; it is renewed by itself after two thirds.
const SERVER_LIFE: Duration = Duration::from_secs(90 * 24 * 60 * 60);
const SERVER_RENEWED_BEFORE: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How long a person's certificate lives.
pub const USER_LIFE: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// How often the server's certificate is looked at.
pub const SERVER_CHECK: Duration = DAY;

/// Why the CA or a certificate can't be made or used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("cannot read {path}; restore the controller's directory from a backup")]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot use the CA in {dir}; restore the controller's directory from a backup")]
    Ca { dir: PathBuf, source: CaError },
    #[error("cannot use the CA's certificate in {dir}")]
    Roots { dir: PathBuf, source: RootsError },
    #[error("cannot write the controller's files")]
    Write(#[source] PrivateFileError),
    #[error("cannot make the server's certificate; check id and addresses in controller.toml")]
    Server(#[source] CaError),
    #[error("cannot use the server's certificate that was just made")]
    Load(#[source] ReloadError),
    #[error("cannot make a certificate")]
    Issue(#[source] CaError),
    #[error("that is no name for an identity")]
    Identity(#[source] IdentityError),
}

/// The CA with what was read out of it.
#[derive(Debug)]
pub struct Authority {
    ca: Ca,
    roots: Roots,
    dir: PathBuf,
}

impl Authority {
    /// Makes a new CA and puts it into the directory `dir`, which must exist.
    ///
    /// # Errors
    /// See [`AuthorityError`].
    pub fn create(
        dir: &Path,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Self, AuthorityError> {
        let ca = Ca::generate(trust_domain, now, CA_LIFE)
            .map_err(|source| AuthorityError::Ca { dir: dir.into(), source })?;
        let write = |name, text: &str| write_private(&dir.join(name), text.as_bytes());
        write(CA_KEY, &ca.key_pem()).map_err(AuthorityError::Write)?;
        write(CA_CERTIFICATE, ca.cert_pem()).map_err(AuthorityError::Write)?;
        Self::of(ca, dir)
    }

    /// Reads the CA out of the controller's directory.
    ///
    /// # Errors
    /// See [`AuthorityError`].
    pub fn open(dir: &Path) -> Result<Self, AuthorityError> {
        let (certificate, key) = (read(&dir.join(CA_CERTIFICATE))?, read(&dir.join(CA_KEY))?);
        let ca = Ca::from_pem(&certificate, &key)
            .map_err(|source| AuthorityError::Ca { dir: dir.into(), source })?;
        Self::of(ca, dir)
    }

    fn of(ca: Ca, dir: &Path) -> Result<Self, AuthorityError> {
        let roots = Roots::from_pem(ca.cert_pem())
            .map_err(|source| AuthorityError::Roots { dir: dir.into(), source })?;
        Ok(Self { ca, roots, dir: dir.into() })
    }

    /// The CA.
    pub fn ca(&self) -> &Ca {
        &self.ca
    }

    /// The CA as what a peer trusts.
    pub fn roots(&self) -> &Roots {
        &self.roots
    }

    /// The installation's name.
    pub fn trust_domain(&self) -> &TrustDomain {
        self.ca.trust_domain()
    }

    /// The identity of a host's agent.
    ///
    /// # Errors
    /// Where the id is too long for one.
    pub fn agent(&self, host: &HostId) -> Result<Identity, AuthorityError> {
        self.identity(Subject::Agent(host.to_string()))
    }

    fn identity(&self, subject: Subject) -> Result<Identity, AuthorityError> {
        Identity::new(self.trust_domain().clone(), subject).map_err(AuthorityError::Identity)
    }

    /// A certificate for a host's agent and the key in `csr`.
    ///
    /// # Errors
    /// Where the request proves no key, or the CA has ended.
    pub fn issue_agent(
        &self,
        csr: &[u8],
        host: &HostId,
        now: SystemTime,
        life: Duration,
    ) -> Result<IssuedCertificate, AuthorityError> {
        self.ca.issue(csr, &self.agent(host)?, now, life).map_err(AuthorityError::Issue)
    }

    /// A certificate for a person and the key in `csr`.
    ///
    /// # Errors
    /// As [`Self::issue_agent`].
    pub fn issue_user(
        &self,
        csr: &[u8],
        user: &UserName,
        now: SystemTime,
    ) -> Result<IssuedCertificate, AuthorityError> {
        let identity = self.identity(Subject::User(user.to_string()))?;
        self.ca.issue(csr, &identity, now, USER_LIFE).map_err(AuthorityError::Issue)
    }

    /// The server's certificate out of the directory; a new one where there is none that is good
    /// for the controller `id` for a while.
    ///
    /// # Errors
    /// Where a new one is needed and can't be made or written.
    pub fn server(
        &self,
        id: &str,
        addresses: &[String],
        now: SystemTime,
    ) -> Result<ReloadableIdentity, AuthorityError> {
        let (chain, key) = self.server_files();
        let wanted = self.identity(Subject::Controller(id.to_owned()))?;
        match ReloadableIdentity::from_files(&chain, &key) {
            Ok(found) if is_good(&found.info(), &wanted, now) && self.is_for(addresses) => {
                Ok(found)
            }
            _ => {
                let (chain, key) = self.make_server(&wanted, addresses, now)?;
                ReloadableIdentity::from_pem(&chain, &key).map_err(AuthorityError::Load)
            }
        }
    }

    /// Renews `server` in place where its end is near; `true` where it did.
    ///
    /// # Errors
    /// As [`Self::server`]; then the old one stays in use.
    pub fn renew_server(
        &self,
        server: &ReloadableIdentity,
        addresses: &[String],
        now: SystemTime,
    ) -> Result<bool, AuthorityError> {
        let info = server.info();
        if is_good(&info, &info.identity, now) {
            return Ok(false);
        }
        let (chain, key) = self.make_server(&info.identity, addresses, now)?;
        server.reload(&chain, &key).map_err(AuthorityError::Load)?;
        Ok(true)
    }

    fn make_server(
        &self,
        identity: &Identity,
        addresses: &[String],
        now: SystemTime,
    ) -> Result<(String, String), AuthorityError> {
        let made = self
            .ca
            .issue_server(identity, addresses, now, SERVER_LIFE)
            .map_err(AuthorityError::Server)?;
        let (chain, key) = (made.certificate.chain_pem, made.key.to_pem());
        let (chain_file, key_file) = self.server_files();
        // A crash between the two leaves a pair that does not fit, which is made anew at the start.
        write_private(&key_file, key.as_bytes()).map_err(AuthorityError::Write)?;
        write_private(&chain_file, chain.as_bytes()).map_err(AuthorityError::Write)?;
        write_private(&self.addresses_file(), addresses.join("\n").as_bytes())
            .map_err(AuthorityError::Write)?;
        Ok((chain, key))
    }

    fn server_files(&self) -> (PathBuf, PathBuf) {
        (self.dir.join(SERVER_CERTIFICATE), self.dir.join(SERVER_KEY))
    }

    fn addresses_file(&self) -> PathBuf {
        self.dir.join("server.addresses")
    }

    /// Whether the certificate there was made for just these names.
    fn is_for(&self, addresses: &[String]) -> bool {
        fs::read_to_string(self.addresses_file()).is_ok_and(|text| text == addresses.join("\n"))
    }

    /// What the main port does in a handshake.
    pub fn server_config(&self, server: &ReloadableIdentity) -> Arc<ServerConfig> {
        shoal_tls::server_config(server, &self.roots)
    }
}

fn is_good(found: &CertificateInfo, wanted: &Identity, now: SystemTime) -> bool {
    let left = found.not_after.duration_since(now).unwrap_or(Duration::ZERO);
    found.identity == *wanted && left > SERVER_RENEWED_BEFORE
}

fn read(path: &Path) -> Result<String, AuthorityError> {
    fs::read_to_string(path).map_err(|source| AuthorityError::Read { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::system_time;

    fn authority() -> (tempfile::TempDir, Authority) {
        let dir = tempfile::tempdir().unwrap();
        let made = Authority::create(dir.path(), &"x".parse().unwrap(), system_time()).unwrap();
        (dir, made)
    }

    fn addresses() -> Vec<String> {
        vec!["127.0.0.1".into()]
    }

    #[test]
    fn the_ca_is_the_same_after_a_restart() {
        let (dir, made) = authority();
        let again = Authority::open(dir.path()).unwrap();
        assert_eq!(made.ca().spki_sha256(), again.ca().spki_sha256());
        assert_eq!(again.trust_domain().as_str(), "x");
    }

    #[test]
    fn the_server_certificate_is_kept_until_its_end_is_near() {
        let (_dir, authority) = authority();
        let now = system_time();
        let first = authority.server("c", &addresses(), now).unwrap();
        let again = authority.server("c", &addresses(), now + 59 * DAY).unwrap();
        assert_eq!(first.info(), again.info());
        assert!(!authority.renew_server(&first, &addresses(), now + 59 * DAY).unwrap());
        assert!(authority.renew_server(&first, &addresses(), now + 61 * DAY).unwrap());
        assert!(first.info().not_after > again.info().not_after);
        let kept = authority.server("c", &addresses(), now + 61 * DAY).unwrap();
        assert_eq!(kept.info(), first.info());
    }

    #[test]
    fn other_addresses_make_another_certificate() {
        let (_dir, authority) = authority();
        let now = system_time();
        let first = authority.server("c", &addresses(), now).unwrap();
        let other = authority.server("c", &["10.0.0.1".into()], now).unwrap();
        assert_ne!(first.info().serial, other.info().serial);
    }

    #[test]
    fn a_half_written_pair_is_made_anew() {
        let (dir, authority) = authority();
        let now = system_time();
        authority.server("c", &addresses(), now).unwrap();
        let other = shoal_tls::LeafKey::generate().unwrap().to_pem();
        fs::write(dir.path().join(SERVER_KEY), other).unwrap();
        assert!(authority.server("c", &addresses(), now).is_ok());
    }
}
