//! Where the instances of a fleet are, and the names by which they find one another.
//!
//! `db.shop.shoal` is every instance `db` of fleet `shop`, the nearest first; `h1.db.shop.shoal`
//! is the one on host `h1`. Each instance has them in a hosts file that the agent keeps current,
//! so that there is no daemon to run, to reach or to wait for.

use std::fmt::Write as _;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::name::{HostName, InstanceId};

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
    let known = peers.iter().filter(|p| p.id.fleet == own.fleet || p.id.fleet.as_str() == "infra");
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
}
