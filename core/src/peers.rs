//! Where the instances of a fleet are, and the names by which they find one another.
//!
//! `db.shop.shoal` is every instance `db` of fleet `shop`, the nearest first; `h1.db.shop.shoal`
//! is the one on host `h1`. Each instance has them in a hosts file that the agent keeps current,
//! so that there is no daemon to run, to reach or to wait for.

use std::fmt::Write as _;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::name::{FleetName, HostName, InstanceId};
use crate::spec::{Link, Network, Settings};

/// One instance on one host, and its address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Peer {
    /// Which instance.
    pub id: InstanceId,
    /// Where.
    pub host: HostName,
    /// How other instances reach it.
    pub address: IpAddr,
}

/// The last label of every name.
const DOMAIN: &str = "shoal";

/// An instance on a host, with what says how it is reached.
#[derive(Debug, Clone, Copy)]
pub struct Placed<'a> {
    /// Which instance.
    pub id: &'a InstanceId,
    /// Where.
    pub host: &'a HostName,
    /// How other hosts reach that host, as far as that is known.
    pub address: Option<IpAddr>,
    /// What it is.
    pub settings: &'a Settings,
}

impl Placed<'_> {
    /// How an instance on the host `from` reaches it; `None` where it can't or that is not known.
    ///
    /// An instance on a bridge of the host is taken to be reached from every host: that is what
    /// such bridges are for. One on a link that its host alone has is reached from elsewhere by
    /// the ports that the host publishes for it.
    fn reached_from(&self, from: &HostName) -> Option<IpAddr> {
        let here = from == self.host;
        // What a host calls itself is of no use elsewhere.
        let host = self.address.filter(|a| here || !(a.is_loopback() || a.is_unspecified()));
        let published = host.filter(|_| !self.settings.ports.is_empty());
        let fixed = |link: &Link| link.address.map(|address| address.ip);
        match &self.settings.network {
            Network::Host => host,
            Network::Private => None,
            Network::Bridge(_, link) => fixed(link).or(published),
            Network::Veth(link) | Network::Zone(_, link) => {
                fixed(link).filter(|_| here).or(published)
            }
        }
    }
}

/// Those of `placed` that an instance on the host `from` can reach, ordered.
#[must_use]
pub fn seen_from<'a>(from: &HostName, placed: impl IntoIterator<Item = Placed<'a>>) -> Vec<Peer> {
    let peer = |placed: Placed<'_>| {
        let (id, host) = (placed.id.clone(), placed.host.clone());
        Some(Peer { id, host, address: placed.reached_from(from)? })
    };
    let mut peers: Vec<Peer> = placed.into_iter().filter_map(peer).collect();
    peers.sort();
    peers
}

/// Whether instances of `fleet` are known to those of all fleets, not only to one another.
#[must_use]
pub fn known_to_all(fleet: &FleetName) -> bool {
    fleet.as_str() == "infra"
}

/// The hosts file of the instance `own` on `host`, with those of `peers` that are of its fleet or
/// of the infra.
#[must_use]
pub fn hosts_file(own: &InstanceId, host: &HostName, peers: &[Peer]) -> String {
    let mut file = String::from(
        "# Kept by Shoal: the instances of this fleet. Changes are overwritten.\n\
         127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n",
    );
    let machine = own.machine();
    // As libnss-myhostname has it: the own name must not lead to a link that may be down.
    let _ = writeln!(file, "127.0.1.1 {machine}");
    let known = peers.iter().filter(|p| p.id.fleet == own.fleet || known_to_all(&p.id.fleet));
    let mut known: Vec<&Peer> = known.collect();
    known.sort_by_key(|peer| (&peer.id, peer.host != *host, &peer.host));
    for Peer { id, host, address } in known {
        let name = format!("{}.{}.{DOMAIN}", id.instance, id.fleet);
        let _ = writeln!(file, "{address} {name} {host}.{name}");
    }
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(id: &str, host: &str, address: &str) -> Peer {
        let (id, host) = (id.parse().unwrap(), host.parse().unwrap());
        Peer { id, host, address: address.parse().unwrap() }
    }

    #[test]
    fn the_nearest_comes_first_and_other_fleets_not_at_all() {
        let peers = [
            peer("shop/db", "h1", "10.0.0.1"),
            peer("shop/db", "h2", "10.0.0.2"),
            peer("other/db", "h2", "10.0.0.9"),
            peer("infra/mysql", "h2", "10.0.0.3"),
        ];
        let file = hosts_file(&"shop/app".parse().unwrap(), &"h2".parse().unwrap(), &peers);
        let lines: Vec<&str> = file.lines().skip(3).collect();
        assert_eq!(
            lines,
            [
                "127.0.1.1 shop-app",
                "10.0.0.3 mysql.infra.shoal h2.mysql.infra.shoal",
                "10.0.0.2 db.shop.shoal h2.db.shop.shoal",
                "10.0.0.1 db.shop.shoal h1.db.shop.shoal",
            ]
        );
    }
    fn reached(network: &str, ports: &[&str], host: Option<&str>, from: &str) -> Option<String> {
        let mut settings = crate::spec::tests_support::settings();
        let name = || "n0".parse().unwrap();
        let link = |address: &str| Link { address: address.parse().ok(), gateway: None };
        settings.network = match network.split_once(' ').unwrap_or((network, "")) {
            ("host", _) => Network::Host,
            ("private", _) => Network::Private,
            ("veth", address) => Network::Veth(link(address)),
            ("zone", address) => Network::Zone(name(), link(address)),
            (_, address) => Network::Bridge(name(), link(address)),
        };
        settings.ports = ports.iter().map(|port| port.parse().unwrap()).collect();
        let (id, there) = ("shop/db".parse().unwrap(), "h1".parse().unwrap());
        let address = host.map(|address| address.parse().unwrap());
        let placed = Placed { id: &id, host: &there, address, settings: &settings };
        let peers = seen_from(&from.parse().unwrap(), [placed]);
        peers.first().map(|peer| peer.address.to_string())
    }

    /// Network, ports, the host's address; then as seen from h1, where it is, and from h2.
    type Case<'a> = (&'a str, &'a [&'a str], Option<&'a str>, Option<&'a str>, Option<&'a str>);

    #[test]
    fn an_instance_is_reached_by_the_way_that_leads_to_it() {
        let host = Some("192.0.2.1");
        let cases: &[Case<'_>] = &[
            ("host", &[], host, host, host),
            ("host", &[], None, None, None),
            ("host", &[], Some("127.0.0.1"), Some("127.0.0.1"), None),
            ("private", &["80"], host, None, None),
            ("bridge 10.0.0.2/24", &[], host, Some("10.0.0.2"), Some("10.0.0.2")),
            ("bridge 10.0.0.2/24", &[], None, Some("10.0.0.2"), Some("10.0.0.2")),
            ("bridge", &["80"], host, host, host),
            ("bridge", &[], host, None, None),
            ("zone 10.0.0.2/24", &[], host, Some("10.0.0.2"), None),
            ("zone 10.0.0.2/24", &["8080:80"], host, Some("10.0.0.2"), host),
            ("veth fd00::2/64", &["80"], host, Some("fd00::2"), host),
            ("veth", &["80"], None, None, None),
        ];
        for (network, ports, host, here, there) in cases {
            let from = |viewer: &str| reached(network, ports, *host, viewer);
            assert_eq!(from("h1").as_deref(), *here, "{network} {ports:?} {host:?} from h1");
            assert_eq!(from("h2").as_deref(), *there, "{network} {ports:?} {host:?} from h2");
        }
    }
}
