//! What a fleet file says about an instance.

use std::time::Duration;

use shoal_core::secret::PinnedSecret;
use shoal_core::spec::{
    DataVolume, File, Health, Hooks, Limits, Link, Memory, Mount, Network, Port, Protocol, Root,
    Security, Settings, Start, Value,
};

use super::spec::{map, unmap};
use super::{Invalid, millis, parse, required};
use crate::v1;

impl TryFrom<v1::Settings> for Settings {
    type Error = Invalid;

    fn try_from(wire: v1::Settings) -> Result<Self, Invalid> {
        let v1::Settings {
            start,
            network,
            env,
            data,
            files,
            vars,
            health,
            network_name,
            address,
            gateway,
            ports,
            limits,
            security,
            mounts,
            root,
            after,
            secrets,
            hooks,
        } = wire;
        let link = Link {
            address: address.map(|text| parse("address", &text)).transpose()?,
            gateway: gateway.map(|text| parse("gateway", &text)).transpose()?,
        };
        Ok(Self {
            start: start_from(required("start", start)?)?,
            network: network_from(network, network_name, link)?,
            env: map("env", env, Ok)?,
            data: map("data", data, DataVolume::try_from)?,
            files: map("files", files, File::try_from)?,
            vars: map("vars", vars, Value::try_from)?,
            health: health.map(Health::try_from).transpose()?,
            after: after.iter().map(|id| parse("after", id)).collect::<Result<_, _>>()?,
            ports: ports.into_iter().map(Port::try_from).collect::<Result<_, _>>()?,
            limits: limits.map(Limits::try_from).transpose()?.unwrap_or_default(),
            security: security.map(Security::try_from).transpose()?.unwrap_or_default(),
            mounts: map("mounts", mounts, Mount::try_from)?,
            root: root_from(root)?,
            secrets: map("secrets", secrets, PinnedSecret::try_from)?,
            hooks: hooks.map(Hooks::from).unwrap_or_default(),
        })
    }
}

impl From<Settings> for v1::Settings {
    fn from(settings: Settings) -> Self {
        use v1::settings::Start as Wire;
        let Settings {
            start,
            network,
            env,
            data,
            files,
            vars,
            health,
            after,
            ports,
            limits,
            security,
            mounts,
            root,
            secrets,
            hooks,
        } = settings;
        let start = match start {
            Start::Boot => Wire::Boot(v1::Boot {}),
            Start::Command(words) => Wire::Command(v1::Command { words }),
        };
        let (network, network_name, Link { address, gateway }) = network_to(network);
        Self {
            start: Some(start),
            network: network.into(),
            env: unmap(env, |value| value),
            data: unmap(data, Into::into),
            files: unmap(files, Into::into),
            vars: unmap(vars, Into::into),
            health: health.map(Into::into),
            network_name,
            address: address.map(|address| address.to_string()),
            gateway: gateway.map(|gateway| gateway.to_string()),
            ports: ports.into_iter().map(Into::into).collect(),
            limits: Some(limits).filter(|l| !l.is_none()).map(Into::into),
            security: Some(security).filter(|s| !s.is_default()).map(Into::into),
            mounts: unmap(mounts, Into::into),
            root: root_to(root).into(),
            after: after.iter().map(ToString::to_string).collect(),
            secrets: unmap(secrets, Into::into),
            hooks: Some(hooks).filter(|hooks| !hooks.is_none()).map(Into::into),
        }
    }
}

impl From<v1::Hooks> for Hooks {
    fn from(wire: v1::Hooks) -> Self {
        let v1::Hooks { init, migrate, restore } = wire;
        Self { init, migrate, restore }
    }
}

impl From<Hooks> for v1::Hooks {
    fn from(hooks: Hooks) -> Self {
        let Hooks { init, migrate, restore } = hooks;
        Self { init, migrate, restore }
    }
}

impl TryFrom<v1::PinnedSecret> for PinnedSecret {
    type Error = Invalid;

    fn try_from(wire: v1::PinnedSecret) -> Result<Self, Invalid> {
        let v1::PinnedSecret { name, version } = wire;
        if version == 0 {
            return Err(Invalid::value("secret", "its version is at least 1"));
        }
        Ok(Self { name: parse("secret", &name)?, version })
    }
}

impl From<PinnedSecret> for v1::PinnedSecret {
    fn from(secret: PinnedSecret) -> Self {
        let PinnedSecret { name, version } = secret;
        Self { name: name.to_string(), version }
    }
}

fn start_from(wire: v1::settings::Start) -> Result<Start, Invalid> {
    Ok(match wire {
        v1::settings::Start::Boot(v1::Boot {}) => Start::Boot,
        v1::settings::Start::Command(v1::Command { words }) => {
            if words.first().is_none_or(String::is_empty) {
                return Err(Invalid::value("command", "it has no words"));
            }
            Start::Command(words)
        }
    })
}

fn network_from(wire: i32, name: Option<String>, link: Link) -> Result<Network, Invalid> {
    let name = |field| parse(field, &required(field, name)?);
    Ok(match v1::Network::try_from(wire) {
        Ok(v1::Network::Host) => Network::Host,
        Ok(v1::Network::Private) => Network::Private,
        Ok(v1::Network::Veth) => Network::Veth(link),
        Ok(v1::Network::Zone) => Network::Zone(name("network_name")?, link),
        Ok(v1::Network::Bridge) => Network::Bridge(name("network_name")?, link),
        Ok(v1::Network::Unspecified) | Err(_) => {
            return Err(Invalid::Unknown { field: "network", value: wire });
        }
    })
}

fn network_to(network: Network) -> (v1::Network, Option<String>, Link) {
    match network {
        Network::Host => (v1::Network::Host, None, Link::default()),
        Network::Private => (v1::Network::Private, None, Link::default()),
        Network::Veth(link) => (v1::Network::Veth, None, link),
        Network::Zone(name, link) => (v1::Network::Zone, Some(name.into()), link),
        Network::Bridge(name, link) => (v1::Network::Bridge, Some(name.into()), link),
    }
}

fn root_from(wire: i32) -> Result<Root, Invalid> {
    Ok(match v1::Root::try_from(wire) {
        Ok(v1::Root::Unspecified | v1::Root::Discarded) => Root::Discarded,
        Ok(v1::Root::Memory) => Root::Memory,
        Ok(v1::Root::ReadOnly) => Root::ReadOnly,
        Err(_) => return Err(Invalid::Unknown { field: "root", value: wire }),
    })
}

fn root_to(root: Root) -> v1::Root {
    match root {
        Root::Discarded => v1::Root::Discarded,
        Root::Memory => v1::Root::Memory,
        Root::ReadOnly => v1::Root::ReadOnly,
    }
}

impl TryFrom<v1::Port> for Port {
    type Error = Invalid;

    fn try_from(wire: v1::Port) -> Result<Self, Invalid> {
        let v1::Port { host, inside, protocol } = wire;
        let number = |port: u32| {
            let port = u16::try_from(port).ok().filter(|port| *port > 0);
            port.ok_or_else(|| Invalid::value("ports", "a port is from 1 to 65535"))
        };
        let protocol = match v1::Protocol::try_from(protocol) {
            Ok(v1::Protocol::Tcp) => Protocol::Tcp,
            Ok(v1::Protocol::Udp) => Protocol::Udp,
            Ok(v1::Protocol::Unspecified) | Err(_) => {
                return Err(Invalid::Unknown { field: "protocol", value: protocol });
            }
        };
        Ok(Self { host: number(host)?, inside: number(inside)?, protocol })
    }
}

impl From<Port> for v1::Port {
    fn from(port: Port) -> Self {
        let Port { host, inside, protocol } = port;
        let protocol = match protocol {
            Protocol::Tcp => v1::Protocol::Tcp,
            Protocol::Udp => v1::Protocol::Udp,
        };
        Self { host: host.into(), inside: inside.into(), protocol: protocol.into() }
    }
}

impl TryFrom<v1::Limits> for Limits {
    type Error = Invalid;

    fn try_from(wire: v1::Limits) -> Result<Self, Invalid> {
        let v1::Limits { memory, cpu, tasks, nofile } = wire;
        if [memory, cpu.map(u64::from), tasks, nofile].contains(&Some(0)) {
            return Err(Invalid::value("limits", "a limit is at least 1"));
        }
        Ok(Self { memory: memory.map(Memory), cpu, tasks, nofile })
    }
}

impl From<Limits> for v1::Limits {
    fn from(limits: Limits) -> Self {
        let Limits { memory, cpu, tasks, nofile } = limits;
        Self { memory: memory.map(|memory| memory.0), cpu, tasks, nofile }
    }
}

impl TryFrom<v1::Security> for Security {
    type Error = Invalid;

    fn try_from(wire: v1::Security) -> Result<Self, Invalid> {
        let v1::Security {
            capabilities_add,
            capabilities_drop,
            new_privileges,
            shared_users,
            system_calls_allow,
        } = wire;
        let all = |field, texts: Vec<String>| -> Result<_, Invalid> {
            texts.iter().map(|text| parse(field, text)).collect()
        };
        let calls = system_calls_allow.iter().map(|text| parse("system_calls_allow", text));
        Ok(Self {
            capabilities_add: all("capabilities_add", capabilities_add)?,
            capabilities_drop: all("capabilities_drop", capabilities_drop)?,
            new_privileges,
            private_users: !shared_users,
            system_calls_allow: calls.collect::<Result<_, _>>()?,
        })
    }
}

impl From<Security> for v1::Security {
    fn from(security: Security) -> Self {
        let Security {
            capabilities_add,
            capabilities_drop,
            new_privileges,
            private_users,
            system_calls_allow,
        } = security;
        Self {
            capabilities_add: capabilities_add.into_iter().map(Into::into).collect(),
            capabilities_drop: capabilities_drop.into_iter().map(Into::into).collect(),
            new_privileges,
            shared_users: !private_users,
            system_calls_allow: system_calls_allow.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::Mount> for Mount {
    type Error = Invalid;

    fn try_from(wire: v1::Mount) -> Result<Self, Invalid> {
        let v1::Mount { source, writable, shared } = wire;
        Ok(Self { source: parse("mounts", &source)?, writable, shared })
    }
}

impl From<Mount> for v1::Mount {
    fn from(mount: Mount) -> Self {
        let Mount { source, writable, shared } = mount;
        Self { source: source.into(), writable, shared }
    }
}

impl TryFrom<v1::HealthChecks> for Health {
    type Error = Invalid;

    fn try_from(wire: v1::HealthChecks) -> Result<Self, Invalid> {
        let v1::HealthChecks { unit, tcp, grace_ms, interval_ms, timeout_ms, retries, http, exec } =
            wire;
        if interval_ms == 0 || timeout_ms == 0 || retries == 0 {
            return Err(Invalid::value("health", "interval, timeout and retries are at least 1"));
        }
        Ok(Self {
            unit: unit.map(|text| parse("health.unit", &text)).transpose()?,
            tcp: tcp.map(|text| parse("health.tcp", &text)).transpose()?,
            http: http.map(|text| parse("health.http", &text)).transpose()?,
            exec,
            grace: Duration::from_millis(grace_ms),
            interval: Duration::from_millis(interval_ms),
            timeout: Duration::from_millis(timeout_ms),
            retries,
        })
    }
}

impl From<Health> for v1::HealthChecks {
    fn from(health: Health) -> Self {
        let Health { unit, tcp, http, exec, grace, interval, timeout, retries } = health;
        Self {
            unit: unit.map(Into::into),
            tcp: tcp.map(Into::into),
            http: http.map(Into::into),
            exec,
            grace_ms: millis(grace),
            interval_ms: millis(interval),
            timeout_ms: millis(timeout),
            retries,
        }
    }
}
