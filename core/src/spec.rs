//! What an instance should be, once its image is pinned and its host chosen.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::image::PinnedImage;
use crate::name::{InstanceId, VolumeName};
use crate::text::as_text;

/// Everything that a fleet file says about an instance but its image and its hosts.
///
/// Two equal values make the same container, so that only a difference here (or another image)
/// recreates one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Settings {
    /// What runs as the container's first process.
    pub start: Start,
    /// Which network it is in.
    pub network: Network,
    /// Environment of the command, or of every service of a booted system.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<EnvName, String>,
    /// Directories that outlive the instance.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub data: BTreeMap<VolumeName, DataVolume>,
    /// Files that are rendered anew for each start and seen read-only inside.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<InstancePath, File>,
    /// Values for the templates among `files`: just those that a template of this instance names,
    /// so that changing another variable recreates nothing.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub vars: Vars,
    /// What proves that the instance works, beyond that it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
}

/// What runs as an instance's first process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// The image's own init system; ready when it says so.
    Boot,
    /// One program with its arguments.
    Command(Vec<String>),
}

/// Which network an instance is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// The host's own.
    Host,
    /// A loopback device of its own and nothing else.
    Private,
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "host",
            Self::Private => "private",
        })
    }
}

/// A text that is not of the form wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} {problem}")]
pub struct InvalidValue {
    text: String,
    problem: &'static str,
}

fn invalid(text: &str, problem: &'static str) -> InvalidValue {
    InvalidValue { text: text.chars().take(80).collect(), problem }
}

macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The value as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidValue;

            fn from_str(text: &str) -> Result<Self, InvalidValue> {
                let check: fn(&str) -> Result<(), &'static str> = $check;
                check(text).map_err(|problem| invalid(text, problem))?;
                Ok(Self(text.to_owned()))
            }
        }

        as_text!($name);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

checked_text!(
    /// The name of an environment variable.
    EnvName,
    |text| {
        let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let starts = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if starts && text.len() <= 255 && text.chars().all(good) {
            Ok(())
        } else {
            Err("is not the name of an environment variable; write letters, digits and _")
        }
    }
);
checked_text!(
    /// An absolute, plain path inside an instance: no `.`, `..`, empty parts, nor characters
    /// that systemd-nspawn's bind syntax or a unit file would take for its own.
    InstancePath,
    check_path
);

fn check_path(text: &str) -> Result<(), &'static str> {
    let Some(rest) = text.strip_prefix('/') else {
        return Err("is not an absolute path inside the instance; start it with /");
    };
    if text.len() > 1024 {
        return Err("is over 1024 bytes long");
    }
    if rest.is_empty() {
        return Err("is the root itself; name a place below it");
    }
    if rest.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err("is not a plain path; leave out '.', '..', '//' and a closing '/'");
    }
    if rest.chars().any(|c| c.is_control() || matches!(c, ':' | '\\' | '"' | '%')) {
        return Err("has a control character or one of : \\ \" %, which are not allowed here");
    }
    let forbidden = ["/proc", "/sys", "/dev", "/run/host", "/run/systemd"];
    if forbidden.iter().any(|dir| text == *dir || text.starts_with(&format!("{dir}/"))) {
        return Err("is in a place that the container's own system owns");
    }
    Ok(())
}

/// A user and a group by number, as seen inside the instance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Owner {
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
}

/// How many user and group numbers an instance has of its own.
pub const UIDS_PER_INSTANCE: u32 = 65_536;

impl FromStr for Owner {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let problem = "is not an owner; write UID:GID, numbers below 65536 as seen inside";
        let number = |part: &str| {
            let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            part.parse::<u32>().ok().filter(|n| digits && *n < UIDS_PER_INSTANCE)
        };
        let parts = text.split_once(':').and_then(|(u, g)| Some((number(u)?, number(g)?)));
        let (uid, gid) = parts.ok_or_else(|| invalid(text, problem))?;
        Ok(Self { uid, gid })
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.uid, self.gid)
    }
}

/// A directory of an instance that outlives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DataVolume {
    /// Where it is seen inside.
    pub path: InstancePath,
    /// Who owns it when it is first made.
    #[serde(default)]
    pub owner: Owner,
}

/// A file of the deployment, seen read-only inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct File {
    /// What is in it.
    pub body: FileBody,
    /// Its permission bits, at most `0o7777`.
    pub mode: u32,
    /// Its owner, as seen inside.
    pub owner: Owner,
}

/// What is in a file of the deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileBody {
    /// These characters.
    Text(String),
    /// These bytes, where they are not UTF-8.
    Bytes(#[serde(with = "hex")] Vec<u8>),
    /// What this minijinja template renders to on the host.
    Template(String),
}

impl FileBody {
    /// Bytes as they are: as text where they are text, so that people can read ledgers.
    #[must_use]
    pub fn plain(bytes: Vec<u8>) -> Self {
        String::from_utf8(bytes).map_or_else(|e| Self::Bytes(e.into_bytes()), Self::Text)
    }

    /// The body's size in bytes, before any rendering.
    #[must_use]
    pub fn size(&self) -> usize {
        match self {
            Self::Text(text) | Self::Template(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }
}

mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&bytes.iter().map(|b| format!("{b:02x}")).collect::<String>())
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        crate::image::hex_decode(&text).ok_or_else(|| D::Error::custom("not hexadecimal"))
    }
}

/// Values for templates.
pub type Vars = BTreeMap<String, Value>;

/// A value for templates. No floats: two of them may look alike and differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Value>),
    /// A table.
    Table(BTreeMap<String, Value>),
}

/// What proves that an instance works. Every check that is given must pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Health {
    /// A systemd unit inside a booted instance that must be active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<UnitName>,
    /// An address, as seen inside the instance's network, that must accept a TCP connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpAddress>,
    /// How long after its start an instance may go without a first success.
    pub grace: Duration,
    /// How long from one check to the next, once it is healthy.
    pub interval: Duration,
    /// How long one check may take.
    pub timeout: Duration,
    /// How many checks in a row must fail before a healthy instance is called unhealthy.
    pub retries: u32,
}

impl Health {
    /// Two minutes: a booted system with a database needs one of them on a slow host.
    pub const DEFAULT_GRACE: Duration = Duration::from_secs(120);
    /// Ten seconds.
    pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(10);
    /// Five seconds.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
    /// Three.
    pub const DEFAULT_RETRIES: u32 = 3;
}

checked_text!(
    /// The name of a systemd unit, with its suffix.
    UnitName,
    |text| {
        let good = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
        let suffix = text.rsplit_once('.').map(|(_, suffix)| suffix);
        let known = ["service", "socket", "target", "mount", "timer", "path"];
        if text.len() <= 255 && text.chars().all(good) && suffix.is_some_and(|s| known.contains(&s)) {
            Ok(())
        } else {
            Err("is not the name of a unit; write it with its suffix, such as nginx.service")
        }
    }
);
checked_text!(
    /// A TCP address, `IP:PORT`; an IPv6 address in brackets. No names: a health check must not
    /// depend on a resolver.
    TcpAddress,
    |text| {
        let address = text.parse::<std::net::SocketAddr>().ok().filter(|a| a.port() != 0);
        address.map(|_| ()).ok_or("is not a TCP address; write IP:PORT, such as 127.0.0.1:8001")
    }
);

impl TcpAddress {
    /// The address as the standard library has it.
    #[must_use]
    pub fn socket_addr(&self) -> std::net::SocketAddr {
        self.0.parse().expect("checked when the value was made")
    }
}

/// An image and the settings for it: what decides whether a container must be recreated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct InstanceConfig {
    /// The image, by digest.
    pub image: PinnedImage,
    /// All the rest.
    pub settings: Settings,
}

impl InstanceConfig {
    /// Whether both make the same container. The tag's name does not matter, the file does.
    #[must_use]
    pub fn same_container(&self, other: &Self) -> bool {
        self.image.digest == other.image.digest && self.settings == other.settings
    }
}

/// One instance of a host's desired state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct InstanceSpec {
    /// Which instance.
    pub id: InstanceId,
    /// The revision of its fleet that it comes from.
    pub revision: u64,
    /// What to run.
    pub config: InstanceConfig,
    /// Whether it should run at all.
    pub run: RunState,
    /// How many restarts an operator has asked for; a container started under a smaller number
    /// is recreated.
    pub restarts: u64,
}

/// Whether an instance should run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// It should.
    Running,
    /// An operator has stopped it; it stays stopped, through reboots, until started.
    Stopped,
}

as_text!(Owner);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_could_escape_are_refused() {
        for bad in [
            "etc/x", "/", "/../x", "/a/./b", "/a//b", "/a/", "/a:b", "/proc/1", "/dev", "/a\nb",
            "/%h",
        ] {
            assert!(bad.parse::<InstancePath>().is_err(), "{bad:?}");
        }
        for good in ["/etc/belenios/ocsigenserver.conf.in", "/var/lib/x", "/devices", "/a b"] {
            assert!(good.parse::<InstancePath>().is_ok(), "{good:?}");
        }
    }

    #[test]
    fn owners_are_numbers_inside_the_instances_range() {
        assert_eq!("1000:1000".parse::<Owner>().unwrap(), Owner { uid: 1000, gid: 1000 });
        for bad in ["", "1000", "a:b", "-1:0", "65536:0", "0:+1", "1:2:3"] {
            assert!(bad.parse::<Owner>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn other_values_are_checked() {
        assert!("ENGINE_NAME".parse::<EnvName>().is_ok());
        assert!("1X".parse::<EnvName>().is_err());
        assert!("A=B".parse::<EnvName>().is_err());
        assert!("nginx.service".parse::<UnitName>().is_ok());
        assert!("nginx".parse::<UnitName>().is_err());
        assert!("x; rm.service".parse::<UnitName>().is_err());
        assert!("[::1]:80".parse::<TcpAddress>().is_ok());
        assert!("localhost:80".parse::<TcpAddress>().is_err());
        assert!("127.0.0.1:0".parse::<TcpAddress>().is_err());
    }

    #[test]
    fn file_bodies_survive_json() {
        for body in [FileBody::plain(b"text".to_vec()), FileBody::plain(vec![0xff, 0x00])] {
            let json = serde_json::to_string(&body).unwrap();
            assert_eq!(serde_json::from_str::<FileBody>(&json).unwrap(), body, "{json}");
        }
    }
}

/// Small specs for the tests of this crate.
#[cfg(test)]
pub(crate) mod tests_support {
    use super::*;

    pub(crate) fn settings() -> Settings {
        Settings {
            start: Start::Boot,
            network: Network::Host,
            env: BTreeMap::new(),
            data: BTreeMap::new(),
            files: BTreeMap::new(),
            vars: BTreeMap::new(),
            health: None,
        }
    }

    /// An instance of an image whose digest is `image` 32 times over.
    pub(crate) fn instance(id: &str, image: u8) -> InstanceSpec {
        let image = PinnedImage {
            reference: format!("app:{image}").parse().unwrap(),
            digest: [image; 32].into(),
            size: 4096,
        };
        InstanceSpec {
            id: id.parse().unwrap(),
            revision: 1,
            config: InstanceConfig { image, settings: settings() },
            run: RunState::Running,
            restarts: 0,
        }
    }
}
