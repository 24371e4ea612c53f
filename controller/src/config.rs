//! `controller.toml`: what the operator of a controller can set.
//!
//! Way in: [`Config::read`]; `init` writes the first one with [`Config::to_toml`]. Deliberately
//! absent: the trust domain (the CA's certificate says it) and anything that can be changed
//! through the API.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shoal_core::spec::Memory;

/// The file's name in the controller's directory.
pub const FILE: &str = "controller.toml";

/// The slowest rate of transfers that can be set, in bytes a second.
const SLOWEST: Memory = Memory(1 << 10);

/// Why the configuration is not usable.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {path}; make a controller's directory with `shoal-controller init`")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is not a usable configuration")]
    Parse { path: PathBuf, source: Box<toml::de::Error> },
    #[error("{path}: {key} = {found} is out of range; allowed is {allowed}")]
    Range { path: PathBuf, key: &'static str, found: u64, allowed: &'static str },
    #[error("{path}: addresses is empty; name the host names and IP addresses that clients dial")]
    NoAddresses { path: PathBuf },
}

/// The file's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// The controller's own id, as in its certificate's SPIFFE URI.
    pub id: String,
    /// Host names and IP addresses that clients dial: what the server certificate is made for.
    pub addresses: Vec<String>,
    /// Where agents, people and pipelines connect (mutual TLS).
    #[serde(default = "listen")]
    pub listen: SocketAddr,
    /// Where hosts without a certificate get one.
    #[serde(default = "enrol_listen")]
    pub enrol_listen: SocketAddr,
    /// How often an agent says that it is there, in milliseconds. After three silent periods its
    /// host counts as offline.
    #[serde(default = "heartbeat_ms")]
    pub heartbeat_ms: u64,
    /// How long an agent's certificate lives.
    #[serde(default = "agent_certificate_seconds")]
    pub agent_certificate_seconds: u64,
    /// How much of everything there may be.
    #[serde(default)]
    pub limits: Limits,
    /// How long images are kept.
    #[serde(default)]
    pub images: Kept,
    /// How images go to hosts.
    #[serde(default)]
    pub transfers: Transfers,
}

/// How long images are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Kept {
    /// Days after which an image that nothing needs is removed; 0: never by itself.
    pub prune_after_days: u32,
}

impl Default for Kept {
    fn default() -> Self {
        Self { prune_after_days: 7 }
    }
}

impl Kept {
    /// How long an image that nothing needs is kept; `None`: until someone removes it.
    #[must_use]
    pub fn kept(&self) -> Option<Duration> {
        let days = u64::from(self.prune_after_days);
        (days > 0).then(|| Duration::from_secs(days * 86_400))
    }
}

/// How images go to hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Transfers {
    /// Bytes in a second to all hosts together; as many as there can be where nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Memory>,
    /// Bytes in a second to each host; likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_per_host: Option<Memory>,
    /// Bytes of recipes that are kept on the disk; the oldest go first.
    pub keep: Memory,
    /// Bytes in a second that the slowest link to a host takes. No host waits longer for a recipe
    /// to be made than the whole image would take over such a link.
    pub slowest_link: Memory,
}

impl Default for Transfers {
    fn default() -> Self {
        Self {
            rate: None,
            rate_per_host: None,
            keep: Memory(4 << 30),
            slowest_link: Memory(4 << 20),
        }
    }
}

/// How much of everything there may be at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Limits {
    /// Connections to the main port: one for each agent, and those of people and pipelines.
    pub connections: usize,
    /// Connections to the enrolment port.
    pub enrol_connections: usize,
    /// Calls on one connection.
    pub calls_per_connection: u32,
    /// Sessions (logs, exec) on one host.
    pub sessions_per_host: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 8192,
            enrol_connections: 64,
            calls_per_connection: 256,
            sessions_per_host: 256,
        }
    }
}

fn listen() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 7443))
}

fn enrol_listen() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 7444))
}

fn heartbeat_ms() -> u64 {
    5000
}

fn agent_certificate_seconds() -> u64 {
    24 * 60 * 60
}

impl Config {
    /// A configuration with every default.
    #[must_use]
    pub fn new(id: String, addresses: Vec<String>) -> Self {
        Self {
            id,
            addresses,
            listen: listen(),
            enrol_listen: enrol_listen(),
            heartbeat_ms: heartbeat_ms(),
            agent_certificate_seconds: agent_certificate_seconds(),
            limits: Limits::default(),
            images: Kept::default(),
            transfers: Transfers::default(),
        }
    }

    /// Reads the file in the controller's directory `dir`.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn read(dir: &Path) -> Result<Self, ConfigError> {
        let path = dir.join(FILE);
        let text = fs::read_to_string(&path)
            .map_err(|source| ConfigError::Read { path: path.clone(), source })?;
        Self::parse(&text, path)
    }

    fn parse(text: &str, path: PathBuf) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text)
            .map_err(|source| ConfigError::Parse { path: path.clone(), source: source.into() })?;
        config.check(path)
    }

    fn check(self, path: PathBuf) -> Result<Self, ConfigError> {
        if self.addresses.is_empty() {
            return Err(ConfigError::NoAddresses { path });
        }
        let out = |key, found, allowed| Err(ConfigError::Range { path, key, found, allowed });
        if !(100..=600_000).contains(&self.heartbeat_ms) {
            return out("heartbeat-ms", self.heartbeat_ms, "100 to 600000");
        }
        if !(5..=31_536_000).contains(&self.agent_certificate_seconds) {
            let (key, found) = ("agent-certificate-seconds", self.agent_certificate_seconds);
            return out(key, found, "5 to 31536000, a year");
        }
        let Transfers { rate, rate_per_host, keep: _, slowest_link } = self.transfers;
        let rates = [
            ("rate", rate),
            ("rate-per-host", rate_per_host),
            ("slowest-link", Some(slowest_link)),
        ];
        for (key, rate) in rates {
            if let Some(Memory(rate)) = rate.filter(|rate| *rate < SLOWEST) {
                return out(key, rate, "1K and more, in bytes a second");
            }
        }
        Ok(self)
    }

    /// The file's text.
    ///
    /// # Panics
    /// Never: every value of this type is TOML.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let body = toml::to_string(self).expect("numbers, texts and tables are TOML");
        format!("# Made by `shoal-controller init`. Restart the controller after a change.\n{body}")
    }

    /// How often an agent says that it is there.
    #[must_use]
    pub fn heartbeat(&self) -> Duration {
        Duration::from_millis(self.heartbeat_ms)
    }

    /// How long an agent's certificate lives.
    #[must_use]
    pub fn agent_certificate_life(&self) -> Duration {
        Duration::from_secs(self.agent_certificate_seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, String> {
        Config::parse(text, FILE.into()).map_err(|error| shoal_core::cause::chain(&error))
    }

    #[test]
    fn what_is_written_is_read_again() {
        let config = Config::new("c1".into(), vec!["10.0.0.1".into()]);
        assert_eq!(read(&config.to_toml()).unwrap(), config);
    }

    #[test]
    fn the_rest_has_defaults() {
        let config = read("id = 'c1'\naddresses = ['h']\n[limits]\nsessions-per-host = 2").unwrap();
        assert_eq!(config.listen.to_string(), "0.0.0.0:7443");
        assert_eq!(config.enrol_listen.to_string(), "0.0.0.0:7444");
        assert_eq!((config.heartbeat_ms, config.limits.sessions_per_host), (5000, 2));
        assert_eq!(config.images.kept(), Some(Duration::from_secs(7 * 86_400)));
        let never = "id = 'c1'\naddresses = ['h']\n[images]\nprune-after-days = 0";
        assert_eq!(read(never).unwrap().images.kept(), None);
    }

    #[test]
    fn mistakes_are_named() {
        for (text, wanted) in [
            ("id = 'c1'\naddresses = ['h']\nhartbeat-ms = 1", "hartbeat-ms"),
            ("id = 'c1'\naddresses = ['h']\nheartbeat-ms = 1", "100 to 600000"),
            ("id = 'c1'\naddresses = []", "addresses is empty"),
            ("id = 'c1'", "addresses"),
            ("id = 'c1'\naddresses = ['h']\nlisten = 'here'", "listen"),
            ("id = 'c1'\naddresses = ['h']\n[transfers]\nrate = '12'", "rate = 12"),
            ("id = 'c1'\naddresses = ['h']\n[transfers]\nrate = '1MB'", "rate"),
            (
                "id = 'c1'\naddresses = ['h']\nagent-certificate-seconds = 1",
                "agent-certificate-seconds = 1",
            ),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(wanted) && error.contains(FILE), "{text}: {error}");
        }
    }
}
