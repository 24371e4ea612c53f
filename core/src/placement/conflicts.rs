//! What two instances of one host can't both have.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::OnHost;
use crate::name::InstanceId;
use crate::spec::{Mount, Network, Protocol, Settings};

/// What an instance takes of its host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claims {
    /// Ports of the host, in its own network or published.
    ports: BTreeSet<(u16, Protocol)>,
    mounts: Vec<Mount>,
    /// A fixed address, and the network in which it is.
    address: Option<(String, IpAddr)>,
}

impl Claims {
    /// What an instance of these settings takes.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        let Settings { network, ports, mounts, .. } = settings;
        Self {
            ports: ports.iter().map(|port| (port.host, port.protocol)).collect(),
            mounts: mounts.values().cloned().collect(),
            address: address(network).map(|address| (network.to_string(), address)),
        }
    }

    /// Everything that it takes and `other`, which takes `theirs`, takes too.
    pub(crate) fn conflicts(&self, other: &InstanceId, theirs: &Self) -> Vec<OnHost> {
        let ports = self.ports.intersection(&theirs.ports).map(|(port, protocol)| OnHost::Port {
            port: *port,
            protocol: *protocol,
            other: other.clone(),
        });
        let pairs =
            self.mounts.iter().flat_map(|ours| theirs.mounts.iter().map(move |t| (ours, t)));
        let mounts = pairs.filter(|(ours, theirs)| collide(ours, theirs)).map(|(ours, theirs)| {
            let (path, theirs) = (ours.source.clone(), theirs.source.clone());
            OnHost::Mount { path, other: other.clone(), theirs }
        });
        let address = self.address.as_ref().filter(|ours| theirs.address.as_ref() == Some(*ours));
        let address =
            address.map(|(_, address)| OnHost::Address { address: *address, other: other.clone() });
        ports.chain(mounts).chain(address).collect()
    }
}

fn address(network: &Network) -> Option<IpAddr> {
    Some(network.link()?.address?.ip)
}

/// Whether one of them wants to write alone where the other one looks too.
fn collide(one: &Mount, other: &Mount) -> bool {
    let alone = |mount: &Mount| mount.writable && !mount.shared;
    let meet = one.source.is_in(&other.source) || other.source.is_in(&one.source);
    meet && (alone(one) || alone(other))
}

/// Every conflict of the instances `own`, with one another and with `others`, all of one host. Each
/// is told once, of the first of the two.
pub(super) fn conflicts(
    own: &[(InstanceId, Claims)],
    others: Option<&BTreeMap<InstanceId, Claims>>,
) -> Vec<(InstanceId, OnHost)> {
    let mut found = Vec::new();
    for (at, (id, claims)) in own.iter().enumerate() {
        let later = own[at + 1..].iter().map(|(id, claims)| (id, claims));
        for (other, theirs) in later.chain(others.into_iter().flatten()) {
            let conflicts = claims.conflicts(other, theirs).into_iter();
            found.extend(conflicts.map(|conflict| (id.clone(), conflict)));
        }
    }
    found
}
