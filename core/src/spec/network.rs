//! Which network an instance is in, and which ports of the host lead to it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{InvalidValue, invalid};
use crate::text::as_text;

/// Which network an instance is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// The host's own.
    Host,
    /// A loopback device of its own and nothing else.
    Private,
    /// A link of its own to the host; written `veth`.
    Veth(Link),
    /// A bridge that systemd-nspawn makes for all instances that name the same zone; written
    /// `zone:NAME`.
    Zone(InterfaceName, Link),
    /// A bridge that the host has; written `bridge:NAME`.
    Bridge(InterfaceName, Link),
}

impl Network {
    /// The instance's end of its link; `None` where it has none.
    #[must_use]
    pub fn link(&self) -> Option<&Link> {
        match self {
            Self::Host | Self::Private => None,
            Self::Veth(link) | Self::Zone(_, link) | Self::Bridge(_, link) => Some(link),
        }
    }

    /// The same, to change it.
    pub fn link_mut(&mut self) -> Option<&mut Link> {
        match self {
            Self::Host | Self::Private => None,
            Self::Veth(link) | Self::Zone(_, link) | Self::Bridge(_, link) => Some(link),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Private => f.write_str("private"),
            Self::Veth(_) => f.write_str("veth"),
            Self::Zone(name, _) => write!(f, "zone:{name}"),
            Self::Bridge(name, _) => write!(f, "bridge:{name}"),
        }
    }
}

/// The instance's end of its link, the interface `host0` inside.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Link {
    /// Its fixed address; where there is none, the instance must get one by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<InterfaceAddress>,
    /// Where it sends what is for other networks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

/// An address with the length of its network's prefix, `10.0.0.24/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InterfaceAddress {
    /// The address.
    pub ip: IpAddr,
    /// Bits of the network's prefix.
    pub prefix: u8,
}

impl InterfaceAddress {
    /// Whether `other` is in the same network.
    #[must_use]
    pub fn reaches(&self, other: IpAddr) -> bool {
        match (self.ip, other) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                same_prefix(a.to_bits().into(), b.to_bits().into(), 32 - u32::from(self.prefix))
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                same_prefix(a.to_bits(), b.to_bits(), 128 - u32::from(self.prefix))
            }
            _ => false,
        }
    }
}

/// Whether two addresses are equal but for the last `host` bits.
fn same_prefix(a: u128, b: u128, host: u32) -> bool {
    (a ^ b).checked_shr(host).unwrap_or(0) == 0
}

impl FromStr for InterfaceAddress {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let problem = "is not an address with its prefix; write it as 10.0.0.24/24";
        let (ip, prefix) = text.split_once('/').ok_or_else(|| invalid(text, problem))?;
        let ip: IpAddr = ip.parse().map_err(|_| invalid(text, problem))?;
        let bits = if ip.is_ipv4() { 32 } else { 128 };
        let digits = prefix.bytes().all(|b| b.is_ascii_digit());
        let prefix = prefix.parse::<u8>().ok().filter(|p| digits && (1..=bits).contains(p));
        let prefix = prefix.ok_or_else(|| invalid(text, problem))?;
        if ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() {
            return Err(invalid(text, "is not an address that an interface can have"));
        }
        Ok(Self { ip, prefix })
    }
}

impl fmt::Display for InterfaceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

checked_text!(
    /// The name of a zone or of a bridge of the host. A zone's bridge is `vz-` and its name, and
    /// the kernel takes 15 characters in all.
    InterfaceName,
    |text| {
        let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let starts = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        if starts && text.len() <= 15 && text.chars().all(good) {
            Ok(())
        } else {
            Err("is not the name of a network interface; write 1 to 15 of A-Z a-z 0-9 . _ -")
        }
    }
);

/// A port of the host that leads to an instance, or that it uses itself in the host's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Port {
    /// The host's port.
    pub host: u16,
    /// The port inside; the same in the host's network.
    pub inside: u16,
    /// What is carried.
    pub protocol: Protocol,
}

/// What a port carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl FromStr for Port {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let problem = "is not a port; write HOST:INSIDE/tcp, such as 8001:80/tcp, or PORT/udp \
                       where both are the same";
        let read = || {
            let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
            let (host, inside) = ports.split_once(':').unwrap_or((ports, ports));
            let number = |text: &str| {
                let digits = text.bytes().all(|b| b.is_ascii_digit());
                text.parse::<u16>().ok().filter(|n| digits && *n > 0)
            };
            let protocol = match protocol {
                "tcp" => Protocol::Tcp,
                "udp" => Protocol::Udp,
                _ => return None,
            };
            Some(Self { host: number(host)?, inside: number(inside)?, protocol })
        };
        read().ok_or_else(|| invalid(text, problem))
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, inside, protocol } = self;
        if host == inside {
            write!(f, "{host}/{protocol}")
        } else {
            write!(f, "{host}:{inside}/{protocol}")
        }
    }
}

as_text!(InterfaceAddress, Port);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_prefix_and_a_network() {
        let address: InterfaceAddress = "10.0.0.24/24".parse().unwrap();
        assert_eq!(address.to_string(), "10.0.0.24/24");
        assert!(address.reaches("10.0.0.1".parse().unwrap()));
        assert!(!address.reaches("10.0.1.1".parse().unwrap()));
        assert!(!address.reaches("fd00::1".parse().unwrap()));
        let six: InterfaceAddress = "fd00::2/64".parse().unwrap();
        assert!(six.reaches("fd00::ffff".parse().unwrap()));
        assert!(!six.reaches("fd01::2".parse().unwrap()));
        for bad in [
            "10.0.0.24",
            "10.0.0.24/33",
            "10.0.0.24/0",
            "x/24",
            "0.0.0.0/8",
            "127.0.0.1/8",
            "1.2.3.4/+8",
        ] {
            assert!(bad.parse::<InterfaceAddress>().is_err(), "{bad}");
        }
    }

    #[test]
    fn ports_are_two_numbers_and_a_protocol() {
        for (text, shown) in [
            ("8001:80/tcp", "8001:80/tcp"),
            ("80", "80/tcp"),
            ("53/udp", "53/udp"),
            ("9:9", "9/tcp"),
        ] {
            assert_eq!(text.parse::<Port>().unwrap().to_string(), shown);
        }
        for bad in ["", "0", "65536", "80/sctp", "a:80", "80:", "+80", "1:2:3", "80/tcp/x"] {
            assert!(bad.parse::<Port>().is_err(), "{bad}");
        }
    }

    #[test]
    fn interface_names_fit_the_kernel() {
        assert!("br0".parse::<InterfaceName>().is_ok());
        for bad in ["", "a/b", "-x", "sixteen-letters-x", "a b"] {
            assert!(bad.parse::<InterfaceName>().is_err(), "{bad}");
        }
    }
}
