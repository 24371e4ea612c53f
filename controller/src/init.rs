//! Making a controller: its directory, and the context with which its first admin talks to it.
//!
//! Way in: [`init`]. Everything is made in a directory beside the final one, which is then
//! renamed: a controller's directory is there whole or not at all. Nothing is ever overwritten.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;
use shoal_core::name::UserName;
use shoal_proto::v1::store::{EpochRecord, UserRecord};
use shoal_tls::{KeyError, LeafKey, PrivateFileError, TrustDomain, write_private};

use crate::access::Role;
use crate::app::{EPOCH, STORE};
use crate::authority::{Authority, AuthorityError};
use crate::config::{Config, FILE};
use crate::secrets::create_key;
use crate::store::{Batch, CommitError, OpenError, RecordError, Records, SqliteStore, StoreError};
use crate::{audit, clock};

/// The port of a context's controller where none is named.
const PORT: u16 = 7443;

/// Why no controller was made. Nothing was changed, then.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    #[error(
        "{dir} is there already and not empty: a controller is made once; to make another, name \
         another directory (--dir)"
    )]
    DirExists { dir: PathBuf },
    #[error(
        "the context file {path} is there already; name another file with --context-out, and \
         merge the two by hand or choose it with SHOAL_CONFIG"
    )]
    ContextExists { path: PathBuf },
    #[error("no address is given; say with --address what clients dial, such as 10.77.0.1")]
    NoAddress,
    #[error("{path} has no directory that it could be in")]
    NoParent { path: PathBuf },
    #[error("cannot {step} {path}")]
    Io { step: &'static str, path: PathBuf, source: io::Error },
    #[error(transparent)]
    Write(#[from] PrivateFileError),
    #[error("cannot make the certificates")]
    Authority(#[from] AuthorityError),
    #[error("cannot make the admin's key")]
    Key(#[from] KeyError),
    #[error("cannot make the store")]
    Open(#[from] OpenError),
    #[error("cannot fill the store")]
    Record(#[from] RecordError),
    #[error("cannot fill the store")]
    Commit(#[from] CommitError),
    #[error("cannot close the store")]
    Close(#[from] StoreError),
}

/// An address that clients dial: a host name or an IP address, with a port or without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    host: String,
    port: Option<u16>,
}

/// Why a text is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no address; write HOST or HOST:PORT, such as 10.77.0.1, fleet.example.org:7443 \
     or [fd00::1]:7443"
)]
pub struct InvalidAddress {
    text: String,
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let invalid = || InvalidAddress { text: text.into() };
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self { host: address.ip().to_string(), port: Some(address.port()) });
        }
        if let Ok(address) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
            return Ok(Self { host: address.to_string(), port: None });
        }
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(port.parse().map_err(|_| invalid())?)),
            None => (text, None),
        };
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
        if host.is_empty() || !host.chars().all(is_name) {
            return Err(invalid());
        }
        Ok(Self { host: host.to_ascii_lowercase(), port })
    }
}

impl Address {
    /// As a client dials it.
    fn dialled(&self) -> String {
        let port = self.port.unwrap_or(PORT);
        match self.host.parse::<IpAddr>() {
            Ok(address) => SocketAddr::new(address, port).to_string(),
            Err(_) => format!("{}:{port}", self.host),
        }
    }
}

/// What a new controller is to be.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Its directory: not there, or empty.
    pub dir: PathBuf,
    /// The installation's name.
    pub trust_domain: TrustDomain,
    /// What clients dial; the first goes into the context.
    pub addresses: Vec<Address>,
    /// The first admin.
    pub admin: UserName,
    /// Where the admin's context goes: not there yet.
    pub context_out: PathBuf,
    /// Where to listen, if not on every address and port 7443.
    pub listen: Option<SocketAddr>,
    /// Where to enrol, if not on every address and port 7444.
    pub enrol_listen: Option<SocketAddr>,
}

/// Makes a controller.
///
/// # Errors
/// See [`InitError`].
pub async fn init(plan: &Plan, now: SystemTime) -> Result<(), InitError> {
    refuse_to_overwrite(plan)?;
    let building = building(&plan.dir)?;
    remove(&building)?;
    let outcome = build(plan, &building, now).await;
    if outcome.is_err() {
        // Best effort: the error that led here says more than a failed clean-up would.
        let _ = fs::remove_dir_all(&building);
    }
    outcome
}

fn refuse_to_overwrite(plan: &Plan) -> Result<(), InitError> {
    let dir = &plan.dir;
    match fs::read_dir(dir).map(|mut entries| entries.next().is_none()) {
        Ok(true) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Ok(false) => return Err(InitError::DirExists { dir: dir.clone() }),
        Err(source) => return Err(InitError::Io { step: "read", path: dir.clone(), source }),
    }
    let path = &plan.context_out;
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(_) => Err(InitError::ContextExists { path: path.clone() }),
        Err(source) => Err(InitError::Io { step: "look at", path: path.clone(), source }),
    }
}

/// Beside the final directory, so that a rename is all that is left to do. The name is fixed: what
/// a crash left there is removed by the next try.
fn building(dir: &Path) -> Result<PathBuf, InitError> {
    let none = || InitError::NoParent { path: dir.into() };
    let (parent, name) = (parent(dir).ok_or_else(none)?, dir.file_name().ok_or_else(none)?);
    fs::create_dir_all(parent).map_err(|source| InitError::Io {
        step: "make",
        path: parent.into(),
        source,
    })?;
    Ok(parent.join(format!(".{}.init", name.to_string_lossy())))
}

fn parent(path: &Path) -> Option<&Path> {
    path.parent().map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent })
}

fn remove(building: &Path) -> Result<(), InitError> {
    match fs::remove_dir_all(building) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(InitError::Io { step: "remove", path: building.into(), source })
        }
        _ => Ok(()),
    }
}

async fn build(plan: &Plan, building: &Path, now: SystemTime) -> Result<(), InitError> {
    let io = |step, path: &Path| {
        let path = path.to_owned();
        move |source| InitError::Io { step, path, source }
    };
    fs::DirBuilder::new().mode(0o700).create(building).map_err(io("make", building))?;
    let config = config(plan)?;
    let authority = Authority::create(building, &plan.trust_domain, now)?;
    authority.server(&config.id, &config.addresses, now)?;
    create_key(building)?;
    fill_store(building, plan).await?;
    write_private(&building.join(FILE), config.to_toml().as_bytes())?;
    let context = context(plan, &authority, now)?;
    let folder = parent(&plan.context_out);
    let folder = folder.ok_or_else(|| InitError::NoParent { path: plan.context_out.clone() })?;
    fs::create_dir_all(folder).map_err(io("make", folder))?;
    write_private(&plan.context_out, context.as_bytes())?;
    fs::rename(building, &plan.dir).map_err(|source| {
        // A context without its controller would only stand in the way of the next try.
        let _ = fs::remove_file(&plan.context_out);
        InitError::Io { step: "put in place", path: plan.dir.clone(), source }
    })?;
    let beside = parent(&plan.dir).unwrap_or(Path::new("/"));
    fs::File::open(beside).and_then(|dir| dir.sync_all()).map_err(io("sync", beside))
}

fn config(plan: &Plan) -> Result<Config, InitError> {
    if plan.addresses.is_empty() {
        return Err(InitError::NoAddress);
    }
    let mut addresses: Vec<String> = Vec::new();
    for address in &plan.addresses {
        if !addresses.contains(&address.host) {
            addresses.push(address.host.clone());
        }
    }
    let mut config = Config::new(crate::random::hex::<8>(), addresses);
    config.listen = plan.listen.unwrap_or(config.listen);
    config.enrol_listen = plan.enrol_listen.unwrap_or(config.enrol_listen);
    Ok(config)
}

async fn fill_store(building: &Path, plan: &Plan) -> Result<(), InitError> {
    let records = Records::new(Arc::new(SqliteStore::open(building.join(STORE))?));
    let now = clock::now();
    let admin = UserRecord { role: Role::Admin.to_string(), created_ms: now.0 };
    let (id, entry) =
        audit::entry(&"shoal-controller init", "init", plan.admin.as_str(), "first admin", now);
    let mut batch = Batch::new();
    batch
        .create(plan.admin.as_str(), &admin)?
        .create(EPOCH, &EpochRecord { epoch: 0 })?
        .create(&id, &entry)?;
    records.commit(batch).await?;
    records.store().close().await?;
    Ok(())
}

/// The command's configuration file, as far as it is written here.
#[derive(Serialize)]
struct Contexts {
    current: String,
    context: BTreeMap<String, Context>,
}

#[derive(Serialize)]
struct Context {
    controller: String,
    ca: String,
    certificate: String,
    key: String,
}

fn context(plan: &Plan, authority: &Authority, now: SystemTime) -> Result<String, InitError> {
    let first = plan.addresses.first().ok_or(InitError::NoAddress)?;
    let key = LeafKey::generate()?;
    let issued = authority.issue_user(&key.csr_der()?, &plan.admin, now)?;
    let context = Context {
        controller: first.dialled(),
        ca: authority.ca().cert_pem().into(),
        certificate: issued.chain_pem,
        key: key.to_pem(),
    };
    let current = plan.trust_domain.to_string();
    let contexts = Contexts { context: BTreeMap::from([(current.clone(), context)]), current };
    Ok(toml::to_string_pretty(&contexts).expect("texts in tables are TOML"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::secrets::KEY_FILE;

    fn plan(root: &Path) -> Plan {
        Plan {
            dir: root.join("lib/controller"),
            trust_domain: "shoal.test".parse().unwrap(),
            addresses: vec!["10.77.0.1".parse().unwrap(), "localhost:9000".parse().unwrap()],
            admin: "ann".parse().unwrap(),
            context_out: root.join("home/config.toml"),
            listen: None,
            enrol_listen: None,
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn makes_a_controller_and_its_admins_context() {
        let root = tempfile::tempdir().unwrap();
        let plan = plan(root.path());
        init(&plan, clock::system_time()).await.unwrap();

        let config = Config::read(&plan.dir).unwrap();
        assert_eq!(config.addresses, ["10.77.0.1", "localhost"]);
        assert_eq!(mode(&plan.dir), 0o700);
        assert_eq!(mode(&plan.dir.join("ca.key")), 0o600);
        assert_eq!(mode(&plan.dir.join(KEY_FILE)), 0o600);
        assert_eq!(mode(&plan.context_out), 0o600);
        let left: Vec<_> = fs::read_dir(root.path().join("lib")).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");

        let text = fs::read_to_string(&plan.context_out).unwrap();
        let contexts: toml::Table = toml::from_str(&text).unwrap();
        assert_eq!(contexts["current"].as_str(), Some("shoal.test"));
        let context = contexts["context"]["shoal.test"].as_table().unwrap();
        assert_eq!(context["controller"].as_str(), Some("10.77.0.1:7443"));
        let certificate = context["certificate"].as_str().unwrap();
        let key = context["key"].as_str().unwrap();
        let own = shoal_tls::ReloadableIdentity::from_pem(certificate, key).unwrap();
        assert_eq!(own.info().identity.to_string(), "spiffe://shoal.test/user/ann");
        assert!(shoal_tls::Roots::from_pem(context["ca"].as_str().unwrap()).is_ok());
    }

    #[tokio::test]
    async fn a_second_time_changes_nothing() {
        let root = tempfile::tempdir().unwrap();
        let plan = plan(root.path());
        init(&plan, clock::system_time()).await.unwrap();
        let ca = fs::read(plan.dir.join("ca.pem")).unwrap();
        let error = init(&plan, clock::system_time()).await.unwrap_err();
        assert!(matches!(error, InitError::DirExists { .. }), "{error}");

        let other = Plan { dir: root.path().join("other"), ..plan.clone() };
        let error = init(&other, clock::system_time()).await.unwrap_err();
        assert!(matches!(error, InitError::ContextExists { .. }), "{error}");
        assert!(error.to_string().contains("--context-out"), "{error}");
        assert!(!other.dir.exists());
        assert_eq!(fs::read(plan.dir.join("ca.pem")).unwrap(), ca);
    }

    #[tokio::test]
    async fn what_a_broken_off_try_left_is_no_hindrance() {
        let root = tempfile::tempdir().unwrap();
        let plan = plan(root.path());
        let left = building(&plan.dir).unwrap();
        fs::create_dir_all(&left).unwrap();
        fs::write(left.join("ca.key"), "half").unwrap();
        fs::create_dir_all(&plan.dir).unwrap();
        init(&plan, clock::system_time()).await.unwrap();
        assert!(!left.exists());
        assert!(Authority::open(&plan.dir).is_ok());
    }

    #[tokio::test]
    async fn a_failure_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("file"), "").unwrap();
        let plan = Plan { context_out: root.path().join("file/config.toml"), ..plan(root.path()) };
        assert!(init(&plan, clock::system_time()).await.is_err());
        assert!(!plan.dir.exists());
        assert_eq!(fs::read_dir(root.path().join("lib")).map(Iterator::count).unwrap_or(0), 0);
    }

    #[test]
    fn addresses_table() {
        for (text, dialled) in [
            ("10.77.0.1", "10.77.0.1:7443"),
            ("10.77.0.1:80", "10.77.0.1:80"),
            ("Fleet.example.org", "fleet.example.org:7443"),
            ("localhost:1", "localhost:1"),
            ("fd00::1", "[fd00::1]:7443"),
            ("[fd00::1]:80", "[fd00::1]:80"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().dialled(), dialled);
        }
        for bad in ["", ":7443", "host:port", "a b", "http://x", "host:99999"] {
            assert!(bad.parse::<Address>().is_err(), "{bad:?}");
        }
    }
}
