//! Where a controller is: `HOST:PORT`, `HOST`, `[IPV6]:PORT`.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use super::ConnectError;

/// The port of the API where the context names none.
const API_PORT: u16 = 7443;

/// A host and a port. The host is also what the controller's certificate has to name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    host: String,
    port: u16,
}

impl Address {
    /// A name or an IP address, without brackets.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The same host with another port.
    pub(crate) fn with_port(&self, port: u16) -> Self {
        Self { host: self.host.clone(), port }
    }
}

impl FromStr for Address {
    type Err = ConnectError;

    fn from_str(text: &str) -> Result<Self, ConnectError> {
        parse(text).ok_or_else(|| ConnectError::Address { text: text.to_owned() })
    }
}

fn parse(text: &str) -> Option<Address> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        host.parse::<Ipv6Addr>().ok()?;
        (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
    } else if text.parse::<Ipv6Addr>().is_ok() {
        (text, None)
    } else {
        text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)))
    };
    let port = port.map_or(Some(API_PORT), |port| port.parse().ok().filter(|port| *port != 0))?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    if host.is_empty() || !host.chars().all(allowed) {
        return None;
    }
    Some(Address { host: host.to_owned(), port })
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_are_good() {
        let table = [
            ("shoal.example.org:7443", "shoal.example.org:7443"),
            ("shoal.example.org", "shoal.example.org:7443"),
            ("10.0.0.1:17443", "10.0.0.1:17443"),
            ("[::1]:80", "[::1]:80"),
            ("[fd00::1]", "[fd00::1]:7443"),
            ("fd00::1", "[fd00::1]:7443"),
        ];
        for (text, shown) in table {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), shown);
        }
        let moved = "[::1]:80".parse::<Address>().unwrap().with_port(7444);
        assert_eq!((moved.host(), moved.port()), ("::1", 7444));
    }

    #[test]
    fn addresses_that_are_not() {
        for text in
            ["", ":7443", "a:", "a:0", "a:x", "a:99999", "https://a", "[::1", "[x]:1", "a b"]
        {
            let error = text.parse::<Address>().expect_err(text).to_string();
            assert!(error.contains("HOST:PORT"), "{error}");
        }
    }
}
