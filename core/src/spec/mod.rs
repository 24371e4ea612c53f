//! What an instance should be, once its image is pinned and its host chosen.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::image::PinnedImage;
use crate::name::{CredentialName, InstanceId, VolumeName};
use crate::secret::PinnedSecret;
use crate::text::as_text;

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

mod health;
mod hooks;
mod limits;
mod mount;
mod network;
mod security;

pub use health::{Health, HttpUrl, TcpAddress, UnitName};
pub use hooks::Hooks;
pub use limits::{Limits, Memory, TooMuch};
pub use mount::{HostPath, Mount, Root};
pub use network::{InterfaceAddress, InterfaceName, Link, Network, Port, Protocol};
pub use security::{Capability, Security, SystemCalls};

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
    /// Instances that must be ready before this one starts or is replaced.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub after: BTreeSet<InstanceId>,
    /// Ports of the host: those that lead to it, or in the host's network those that it uses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// What it may use of the host.
    #[serde(default, skip_serializing_if = "Limits::is_none")]
    pub limits: Limits,
    /// Where it differs from the safe defaults.
    #[serde(default, skip_serializing_if = "Security::is_default")]
    pub security: Security,
    /// Directories and files of the host that are seen inside, by where they are seen.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub mounts: BTreeMap<InstancePath, Mount>,
    /// What becomes of what it writes outside its data volumes.
    #[serde(default, skip_serializing_if = "Root::is_default")]
    pub root: Root,
    /// Secrets that it gets as systemd credentials, by the credential's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<CredentialName, PinnedSecret>,
    /// What is run once before it is started.
    #[serde(default, skip_serializing_if = "Hooks::is_none")]
    pub hooks: Hooks,
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
        return Err("is not an absolute path; start it with /");
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
    /// The unit inside that is reloaded when the file changes, instead of a new container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reload: Option<UnitName>,
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
    /// Whether both make the same container. The tag's name does not matter, nor who signed it; the
    /// file does.
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
    /// The newest revision that asked for its container to be made afresh, whatever differs; 0:
    /// none did. A container made under a smaller number is recreated.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub recreate: u64,
    /// Whether an operator has asked the agent to keep its hands off.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// How long it may take to get ready, once it is started from a new configuration, before the
    /// agent goes back to the one that was; `None`: it does not by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<Duration>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
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
            after: BTreeSet::new(),
            ports: Vec::new(),
            limits: Limits::default(),
            security: Security::default(),
            mounts: BTreeMap::new(),
            root: Root::default(),
            secrets: BTreeMap::new(),
            hooks: Hooks::default(),
        }
    }

    /// An instance of an image whose digest is `image` 32 times over.
    pub(crate) fn instance(id: &str, image: u8) -> InstanceSpec {
        let image = PinnedImage {
            reference: format!("app:{image}").parse().unwrap(),
            digest: [image; 32].into(),
            size: 4096,
            signed: None,
        };
        InstanceSpec {
            id: id.parse().unwrap(),
            revision: 1,
            config: InstanceConfig { image, settings: settings() },
            run: RunState::Running,
            restarts: 0,
            recreate: 0,
            paused: false,
            gate: None,
        }
    }
}
