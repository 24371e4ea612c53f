//! What proves that an instance works.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{InvalidValue, invalid};
use crate::text::as_text;

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
    /// A page, as seen inside the instance's network, that must answer with 200 to 299.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpUrl>,
    /// A program inside, with its arguments, that must end with 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exec: Vec<String>,
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
checked_text!(
    /// The URL of an HTTP page, `http://IP:PORT/PATH`. No names, as for [`TcpAddress`]; no TLS:
    /// who needs more than a plain question asks it by a program inside.
    HttpUrl,
    |text| {
        let problem = "is not the URL of a page; write http://IP:PORT/PATH, such as \
                       http://127.0.0.1:8001/health";
        if text.starts_with("https:") {
            return Err("asks for TLS, which this check can't speak; check by `exec`, such as \
                        [\"/usr/bin/curl\", \"-f\", \"https://…\"]");
        }
        let plain = text.len() <= 1024 && text.chars().all(|c| c.is_ascii_graphic());
        let known = parts(text).is_some() && !text.contains('#');
        if plain && known { Ok(()) } else { Err(problem) }
    }
);

/// The address of an HTTP URL, and what to ask for there.
fn parts(url: &str) -> Option<(SocketAddr, &str)> {
    let rest = url.strip_prefix("http://")?;
    let slash = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(slash);
    let default_port = || {
        let ip = authority.trim_matches(['[', ']']).parse::<IpAddr>().ok()?;
        Some(SocketAddr::new(ip, 80))
    };
    let address: SocketAddr = authority.parse().ok().or_else(default_port)?;
    (address.port() != 0 && !path.starts_with('?')).then_some((address, path))
}

impl HttpUrl {
    /// Where to connect to.
    #[must_use]
    pub fn socket_addr(&self) -> SocketAddr {
        parts(&self.0).expect("checked when the value was made").0
    }

    /// What to ask for, from its `/` on.
    #[must_use]
    pub fn path(&self) -> &str {
        let (_, path) = parts(&self.0).expect("checked when the value was made");
        if path.is_empty() { "/" } else { path }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_and_addresses_are_checked() {
        assert!("nginx.service".parse::<UnitName>().is_ok());
        assert!("nginx".parse::<UnitName>().is_err());
        assert!("x; rm.service".parse::<UnitName>().is_err());
        assert!("[::1]:80".parse::<TcpAddress>().is_ok());
        assert!("localhost:80".parse::<TcpAddress>().is_err());
        assert!("127.0.0.1:0".parse::<TcpAddress>().is_err());
    }

    #[test]
    fn urls_are_an_address_and_a_path() {
        let cases = [
            ("http://127.0.0.1:8001/health?x=1", "127.0.0.1:8001", "/health?x=1"),
            ("http://127.0.0.1", "127.0.0.1:80", "/"),
            ("http://[::1]:81/", "[::1]:81", "/"),
            ("http://[::1]/a", "[::1]:80", "/a"),
        ];
        for (text, address, path) in cases {
            let url: HttpUrl = text.parse().unwrap();
            assert_eq!((url.socket_addr().to_string().as_str(), url.path()), (address, path));
        }
        for bad in [
            "",
            "http://",
            "http://localhost/",
            "https://127.0.0.1/",
            "ftp://127.0.0.1/",
            "http://127.0.0.1:0/",
            "http://127.0.0.1/a b",
            "http://127.0.0.1/#x",
            "http://u@127.0.0.1/",
            "http://127.0.0.1\r\nX: y/",
            "http://127.0.0.1:80?x",
        ] {
            assert!(bad.parse::<HttpUrl>().is_err(), "{bad:?}");
        }
    }
}
