//! What an agent found out about its host.

use shoal_core::host::HostFacts;
use shoal_core::policy::{AllowedBind, PeerPolicy, Policy, UserNamespace};
use shoal_core::spec::Memory;

use super::{Invalid, parse};
use crate::v1;

impl TryFrom<v1::HostFacts> for HostFacts {
    type Error = Invalid;

    fn try_from(wire: v1::HostFacts) -> Result<Self, Invalid> {
        let v1::HostFacts {
            os,
            kernel,
            architecture,
            systemd,
            cpus,
            memory,
            disk_total,
            disk_free,
            idmapped_squashfs,
            agent,
            boot_id,
            address,
            max_files,
            max_tasks,
            policy,
        } = wire;
        Ok(Self {
            os,
            kernel,
            architecture,
            systemd,
            cpus,
            memory,
            disk_total,
            disk_free,
            idmapped_squashfs,
            agent,
            boot_id,
            address: address.map(|text| parse("address", &text)).transpose()?,
            max_files,
            max_tasks,
            policy: policy.map(Policy::try_from).transpose()?.unwrap_or_default(),
        })
    }
}

impl From<HostFacts> for v1::HostFacts {
    fn from(facts: HostFacts) -> Self {
        let HostFacts {
            os,
            kernel,
            architecture,
            systemd,
            cpus,
            memory,
            disk_total,
            disk_free,
            idmapped_squashfs,
            agent,
            boot_id,
            address,
            max_files,
            max_tasks,
            policy,
        } = facts;
        Self {
            os,
            kernel,
            architecture,
            systemd,
            cpus,
            memory,
            disk_total,
            disk_free,
            idmapped_squashfs,
            agent,
            boot_id,
            address: address.map(|address| address.to_string()),
            max_files,
            max_tasks,
            policy: Some(policy.into()),
        }
    }
}

impl TryFrom<v1::HostPolicy> for Policy {
    type Error = Invalid;

    fn try_from(wire: v1::HostPolicy) -> Result<Self, Invalid> {
        let v1::HostPolicy {
            user_namespace,
            host_network,
            any_bridge,
            bridges,
            capabilities,
            new_privileges,
            system_calls,
            bind,
            no_agent_upgrade,
            peers,
        } = wire;
        let bridges: Result<_, Invalid> = bridges.iter().map(|b| parse("bridges", b)).collect();
        let bridges = bridges?;
        let capabilities = capabilities.iter().map(|text| parse("capabilities", text));
        let system_calls = system_calls.iter().map(|text| parse("system_calls", text));
        Ok(Self {
            user_namespace: namespace_from(user_namespace)?,
            host_network,
            bridges: (!any_bridge).then_some(bridges),
            capabilities: capabilities.collect::<Result<_, _>>()?,
            new_privileges,
            system_calls: system_calls.collect::<Result<_, _>>()?,
            bind: bind.into_iter().map(AllowedBind::try_from).collect::<Result<_, _>>()?,
            agent_upgrade: !no_agent_upgrade,
            peers: peers.map(PeerPolicy::try_from).transpose()?,
        })
    }
}

impl From<Policy> for v1::HostPolicy {
    fn from(policy: Policy) -> Self {
        let Policy {
            user_namespace,
            host_network,
            bridges,
            capabilities,
            new_privileges,
            system_calls,
            bind,
            agent_upgrade,
            peers,
        } = policy;
        let any_bridge = bridges.is_none();
        Self {
            user_namespace: namespace_to(user_namespace).into(),
            host_network,
            any_bridge,
            bridges: bridges.unwrap_or_default().into_iter().map(Into::into).collect(),
            capabilities: capabilities.into_iter().map(Into::into).collect(),
            new_privileges,
            system_calls: system_calls.into_iter().map(Into::into).collect(),
            bind: bind.into_iter().map(Into::into).collect(),
            no_agent_upgrade: !agent_upgrade,
            peers: peers.map(Into::into),
        }
    }
}

impl TryFrom<v1::PeerPolicy> for PeerPolicy {
    type Error = Invalid;

    fn try_from(wire: v1::PeerPolicy) -> Result<Self, Invalid> {
        let v1::PeerPolicy { listen, rate } = wire;
        Ok(Self { listen: parse("listen", &listen)?, rate: rate.map(Memory) })
    }
}

impl From<PeerPolicy> for v1::PeerPolicy {
    fn from(peers: PeerPolicy) -> Self {
        let PeerPolicy { listen, rate } = peers;
        Self { listen: listen.to_string(), rate: rate.map(|Memory(bytes)| bytes) }
    }
}

fn namespace_from(wire: i32) -> Result<UserNamespace, Invalid> {
    Ok(match v1::UserNamespace::try_from(wire) {
        Ok(v1::UserNamespace::Required) => UserNamespace::Required,
        Ok(v1::UserNamespace::IfPossible) => UserNamespace::IfPossible,
        Ok(v1::UserNamespace::Optional) => UserNamespace::Optional,
        Ok(v1::UserNamespace::Unspecified) | Err(_) => {
            return Err(Invalid::Unknown { field: "user_namespace", value: wire });
        }
    })
}

fn namespace_to(namespace: UserNamespace) -> v1::UserNamespace {
    match namespace {
        UserNamespace::Required => v1::UserNamespace::Required,
        UserNamespace::IfPossible => v1::UserNamespace::IfPossible,
        UserNamespace::Optional => v1::UserNamespace::Optional,
    }
}

impl TryFrom<v1::AllowedBind> for AllowedBind {
    type Error = Invalid;

    fn try_from(wire: v1::AllowedBind) -> Result<Self, Invalid> {
        let v1::AllowedBind { path, writable, idmap } = wire;
        Ok(Self { path: parse("bind", &path)?, writable, idmap })
    }
}

impl From<AllowedBind> for v1::AllowedBind {
    fn from(bind: AllowedBind) -> Self {
        let AllowedBind { path, writable, idmap } = bind;
        Self { path: path.into(), writable, idmap }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_survive_the_wire() {
        let policy = Policy {
            user_namespace: UserNamespace::Optional,
            bridges: Some(["br0".parse().unwrap()].into()),
            capabilities: ["CAP_SYS_NICE".parse().unwrap()].into(),
            system_calls: ["@keyring".parse().unwrap()].into(),
            bind: vec![AllowedBind { path: "/srv".parse().unwrap(), writable: true, idmap: true }],
            agent_upgrade: false,
            peers: Some(PeerPolicy {
                listen: "0.0.0.0:7445".parse().unwrap(),
                rate: Some(Memory(50 << 20)),
            }),
            ..Policy::default()
        };
        let facts = HostFacts {
            os: "Debian".into(),
            address: Some("10.0.0.1".parse().unwrap()),
            max_files: 5,
            max_tasks: 6,
            policy,
            ..HostFacts::default()
        };
        assert_eq!(HostFacts::try_from(v1::HostFacts::from(facts.clone())), Ok(facts));
        let plain = HostFacts::default();
        assert_eq!(HostFacts::try_from(v1::HostFacts::from(plain.clone())), Ok(plain.clone()));
        let older = v1::HostFacts { policy: None, ..v1::HostFacts::from(plain.clone()) };
        assert_eq!(HostFacts::try_from(older), Ok(plain));
    }
}
