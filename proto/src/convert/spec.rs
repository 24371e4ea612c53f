//! Fleets, instances and desired states.

use std::collections::BTreeMap;
use std::time::Duration;

use shoal_core::agent_upgrade::AgentSpec;
use shoal_core::fleet::{DeclaredInstance, FleetSpec, Override, Templates};
use shoal_core::host::{HostSpec, Keep};
use shoal_core::image::{PinnedImage, SignedManifest};
use shoal_core::label::HostMatch;
use shoal_core::peers::Peer;
use shoal_core::rollout::Policy;
use shoal_core::spec::{
    DataVolume, File, FileBody, InstanceConfig, InstanceSpec, Owner, RunState, UIDS_PER_INSTANCE,
    Value,
};

use super::{Invalid, digest, digest_bytes, parse, required};
use crate::v1;

/// A map with checked keys and converted values.
pub(super) fn map<K, V, W>(
    field: &'static str,
    wire: BTreeMap<String, W>,
    convert: impl Fn(W) -> Result<V, Invalid>,
) -> Result<BTreeMap<K, V>, Invalid>
where
    K: std::str::FromStr + Ord,
    K::Err: ToString,
{
    wire.into_iter().map(|(key, value)| Ok((parse(field, &key)?, convert(value)?))).collect()
}

pub(super) fn unmap<K: ToString, V, W>(
    map: BTreeMap<K, V>,
    convert: impl Fn(V) -> W,
) -> BTreeMap<String, W> {
    map.into_iter().map(|(key, value)| (key.to_string(), convert(value))).collect()
}

impl TryFrom<v1::FleetSpec> for FleetSpec {
    type Error = Invalid;

    fn try_from(wire: v1::FleetSpec) -> Result<Self, Invalid> {
        let v1::FleetSpec { fleet, instances, rollout, infra } = wire;
        Ok(Self {
            fleet: parse("fleet", &fleet)?,
            instances: map("instances", instances, DeclaredInstance::try_from)?,
            rollout: rollout.map(Policy::try_from).transpose()?.unwrap_or_default(),
            infra: infra.map(TryInto::try_into).transpose()?,
        })
    }
}

impl From<FleetSpec> for v1::FleetSpec {
    fn from(spec: FleetSpec) -> Self {
        let FleetSpec { fleet, instances, rollout, infra } = spec;
        Self {
            fleet: fleet.to_string(),
            instances: unmap(instances, Into::into),
            rollout: Some(rollout).filter(|p| *p != Policy::default()).map(Into::into),
            infra: infra.map(Into::into),
        }
    }
}

impl TryFrom<v1::DeclaredInstance> for DeclaredInstance {
    type Error = Invalid;

    fn try_from(wire: v1::DeclaredInstance) -> Result<Self, Invalid> {
        let v1::DeclaredInstance {
            image,
            hosts,
            settings,
            count,
            overrides,
            env_templates,
            address_template,
            secrets,
        } = wire;
        let overrides: Result<_, Invalid> = overrides.into_iter().map(Override::try_from).collect();
        if count == Some(0) {
            return Err(Invalid::value("count", "it is at least 1"));
        }
        Ok(Self {
            count,
            overrides: overrides?,
            templates: Templates { env: map("env", env_templates, Ok)?, address: address_template },
            secrets: map("secrets", secrets, |name| parse("secrets", &name))?,
            image: parse("image", &image)?,
            hosts: required("hosts", hosts)?.try_into()?,
            settings: required("settings", settings)?.try_into()?,
        })
    }
}

impl From<DeclaredInstance> for v1::DeclaredInstance {
    fn from(declared: DeclaredInstance) -> Self {
        let DeclaredInstance { image, hosts, count, settings, overrides, templates, secrets } =
            declared;
        let Templates { env, address } = templates;
        Self {
            count,
            overrides: overrides.into_iter().map(Into::into).collect(),
            env_templates: unmap(env, |text| text),
            address_template: address,
            secrets: unmap(secrets, |name| name.to_string()),
            image: image.to_string(),
            hosts: Some(hosts.into()),
            settings: Some(settings.into()),
        }
    }
}

impl TryFrom<v1::VarsOverride> for Override {
    type Error = Invalid;

    fn try_from(wire: v1::VarsOverride) -> Result<Self, Invalid> {
        let v1::VarsOverride { hosts, vars } = wire;
        let hosts = required("overrides.hosts", hosts)?.try_into()?;
        Ok(Self { hosts, vars: map("overrides.vars", vars, Value::try_from)? })
    }
}

impl From<Override> for v1::VarsOverride {
    fn from(over: Override) -> Self {
        let Override { hosts, vars } = over;
        Self { hosts: Some(hosts.into()), vars: unmap(vars, Into::into) }
    }
}

impl TryFrom<v1::HostMatch> for HostMatch {
    type Error = Invalid;

    fn try_from(wire: v1::HostMatch) -> Result<Self, Invalid> {
        use v1::host_match::Match;
        Ok(match required("hosts", wire.r#match)? {
            Match::All(v1::AllHosts {}) => Self::All,
            Match::Selector(text) => Self::Selector(parse("hosts", &text)?),
            Match::Names(v1::HostNames { names }) => {
                let names: Result<_, Invalid> = names.iter().map(|n| parse("hosts", n)).collect();
                Self::Names(names?)
            }
        })
    }
}

impl From<HostMatch> for v1::HostMatch {
    fn from(hosts: HostMatch) -> Self {
        use v1::host_match::Match;
        let hosts = match hosts {
            HostMatch::All => Match::All(v1::AllHosts {}),
            HostMatch::Selector(selector) => Match::Selector(selector.to_string()),
            HostMatch::Names(names) => {
                let names = names.iter().map(ToString::to_string).collect();
                Match::Names(v1::HostNames { names })
            }
        };
        Self { r#match: Some(hosts) }
    }
}

impl TryFrom<v1::HostSpec> for HostSpec {
    type Error = Invalid;

    fn try_from(wire: v1::HostSpec) -> Result<Self, Invalid> {
        let v1::HostSpec { generation, instances, peers, stage, agent, infra, keep } = wire;
        let stage: Result<_, Invalid> = stage.into_iter().map(PinnedImage::try_from).collect();
        let peers: Result<_, Invalid> = peers.into_iter().map(Peer::try_from).collect();
        let instances: Result<_, Invalid> = instances.into_iter().map(TryInto::try_into).collect();
        let (instances, peers, stage) = (instances?, peers?, stage?);
        let agent = agent.map(AgentSpec::try_from).transpose()?;
        let infra = infra.map(TryInto::try_into).transpose()?;
        let keep = keep.into_iter().map(Keep::try_from).collect::<Result<_, _>>()?;
        Ok(Self { generation, instances, peers, stage, agent, infra, keep })
    }
}

impl From<HostSpec> for v1::HostSpec {
    fn from(spec: HostSpec) -> Self {
        let HostSpec { generation, instances, peers, stage, agent, infra, keep } = spec;
        Self {
            generation,
            instances: instances.into_iter().map(Into::into).collect(),
            peers: peers.into_iter().map(Into::into).collect(),
            stage: stage.into_iter().map(Into::into).collect(),
            agent: agent.map(Into::into),
            infra: infra.map(Into::into),
            keep: keep.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::KeptImages> for Keep {
    type Error = Invalid;

    fn try_from(wire: v1::KeptImages) -> Result<Self, Invalid> {
        let v1::KeptImages { fleet, digests } = wire;
        let images = digests.iter().map(|d| digest("keep", d)).collect::<Result<_, _>>()?;
        Ok(Self { fleet: parse("fleet", &fleet)?, images })
    }
}

impl From<Keep> for v1::KeptImages {
    fn from(keep: Keep) -> Self {
        let Keep { fleet, images } = keep;
        Self { fleet: fleet.to_string(), digests: images.iter().map(digest_bytes).collect() }
    }
}

impl TryFrom<v1::Peer> for Peer {
    type Error = Invalid;

    fn try_from(wire: v1::Peer) -> Result<Self, Invalid> {
        let v1::Peer { id, host, address } = wire;
        let address = parse("address", &address)?;
        Ok(Self { id: parse("id", &id)?, host: parse("host", &host)?, address })
    }
}

impl From<Peer> for v1::Peer {
    fn from(peer: Peer) -> Self {
        let Peer { id, host, address } = peer;
        Self { id: id.to_string(), host: host.to_string(), address: address.to_string() }
    }
}

impl TryFrom<v1::InstanceSpec> for InstanceSpec {
    type Error = Invalid;

    fn try_from(wire: v1::InstanceSpec) -> Result<Self, Invalid> {
        let v1::InstanceSpec { id, revision, config, run, restarts, paused, gate_ms, recreate } =
            wire;
        let gate = gate_ms.map(Duration::from_millis);
        let run = match v1::RunState::try_from(run) {
            Ok(v1::RunState::Running) => RunState::Running,
            Ok(v1::RunState::Stopped) => RunState::Stopped,
            _ => return Err(Invalid::Unknown { field: "run", value: run }),
        };
        let config = required("config", config)?.try_into()?;
        let id = parse("id", &id)?;
        Ok(Self { id, revision, config, run, restarts, recreate, paused, gate })
    }
}

impl From<InstanceSpec> for v1::InstanceSpec {
    fn from(spec: InstanceSpec) -> Self {
        let InstanceSpec { id, revision, config, run, restarts, recreate, paused, gate } = spec;
        let run = match run {
            RunState::Running => v1::RunState::Running,
            RunState::Stopped => v1::RunState::Stopped,
        };
        let config = Some(config.into());
        let (id, run, gate_ms) = (id.to_string(), run.into(), gate.map(super::millis));
        Self { id, revision, config, run, restarts, paused, gate_ms, recreate }
    }
}

impl TryFrom<v1::InstanceConfig> for InstanceConfig {
    type Error = Invalid;

    fn try_from(wire: v1::InstanceConfig) -> Result<Self, Invalid> {
        let v1::InstanceConfig { image, settings } = wire;
        Ok(Self {
            image: required("image", image)?.try_into()?,
            settings: required("settings", settings)?.try_into()?,
        })
    }
}

impl From<InstanceConfig> for v1::InstanceConfig {
    fn from(config: InstanceConfig) -> Self {
        let InstanceConfig { image, settings } = config;
        Self { image: Some(image.into()), settings: Some(settings.into()) }
    }
}

impl TryFrom<v1::PinnedImage> for PinnedImage {
    type Error = Invalid;

    fn try_from(wire: v1::PinnedImage) -> Result<Self, Invalid> {
        let v1::PinnedImage { reference, digest: bytes, size, signed } = wire;
        let digest = digest("digest", &bytes)?;
        let signed = signed.map(SignedManifest::try_from).transpose()?.map(Box::new);
        Ok(Self { reference: parse("reference", &reference)?, digest, size, signed })
    }
}

impl TryFrom<v1::SignedManifest> for SignedManifest {
    type Error = Invalid;

    fn try_from(wire: v1::SignedManifest) -> Result<Self, Invalid> {
        let v1::SignedManifest { manifest, signature } = wire;
        let manifest = String::from_utf8(manifest.to_vec());
        let manifest = manifest.map_err(|_| Invalid::value("manifest", "it is not text"))?;
        Self::new(manifest, signature).map_err(|e| Invalid::value("signed", e))
    }
}

impl From<SignedManifest> for v1::SignedManifest {
    fn from(signed: SignedManifest) -> Self {
        let manifest = signed.manifest().as_bytes().to_vec().into();
        Self { manifest, signature: signed.signature().to_owned() }
    }
}

impl From<PinnedImage> for v1::PinnedImage {
    fn from(image: PinnedImage) -> Self {
        let PinnedImage { reference, digest, size, signed } = image;
        let signed = signed.map(|signed| (*signed).into());
        Self { reference: reference.to_string(), digest: digest_bytes(&digest), size, signed }
    }
}

fn owner(uid: u32, gid: u32) -> Result<Owner, Invalid> {
    if uid >= UIDS_PER_INSTANCE || gid >= UIDS_PER_INSTANCE {
        return Err(Invalid::value("owner", "numbers of users and groups are below 65536"));
    }
    Ok(Owner { uid, gid })
}

impl TryFrom<v1::DataVolume> for DataVolume {
    type Error = Invalid;

    fn try_from(wire: v1::DataVolume) -> Result<Self, Invalid> {
        let v1::DataVolume { path, uid, gid } = wire;
        Ok(Self { path: parse("path", &path)?, owner: owner(uid, gid)? })
    }
}

impl From<DataVolume> for v1::DataVolume {
    fn from(volume: DataVolume) -> Self {
        let DataVolume { path, owner: Owner { uid, gid } } = volume;
        Self { path: path.to_string(), uid, gid }
    }
}

impl TryFrom<v1::File> for File {
    type Error = Invalid;

    fn try_from(wire: v1::File) -> Result<Self, Invalid> {
        use v1::file::Body;
        let v1::File { body, mode, uid, gid, reload } = wire;
        let body = match required("body", body)? {
            Body::Text(text) => FileBody::Text(text),
            Body::Bytes(bytes) => FileBody::plain(bytes.into()),
            Body::Template(text) => FileBody::Template(text),
        };
        if body.size() > shoal_core::render::LARGEST_FILE {
            return Err(Invalid::value("body", "a file has at most 512 KiB"));
        }
        if mode > 0o7777 {
            return Err(Invalid::value("mode", "a mode is at most 7777"));
        }
        let reload = reload.map(|unit| parse("reload", &unit)).transpose()?;
        Ok(Self { body, mode, owner: owner(uid, gid)?, reload })
    }
}

impl From<File> for v1::File {
    fn from(file: File) -> Self {
        use v1::file::Body;
        let File { body, mode, owner: Owner { uid, gid }, reload } = file;
        let body = match body {
            FileBody::Text(text) => Body::Text(text),
            FileBody::Bytes(bytes) => Body::Bytes(bytes.into()),
            FileBody::Template(text) => Body::Template(text),
        };
        Self { body: Some(body), mode, uid, gid, reload: reload.map(Into::into) }
    }
}

impl TryFrom<v1::Value> for Value {
    type Error = Invalid;

    fn try_from(wire: v1::Value) -> Result<Self, Invalid> {
        use v1::value::Kind;
        Ok(match required("value", wire.kind)? {
            Kind::Bool(value) => Self::Bool(value),
            Kind::Integer(value) => Self::Integer(value),
            Kind::Text(value) => Self::Text(value),
            Kind::List(v1::ValueList { values }) => {
                let values: Result<_, Invalid> = values.into_iter().map(Self::try_from).collect();
                Self::List(values?)
            }
            Kind::Table(v1::ValueTable { values }) => {
                Self::Table(map("vars", values, Self::try_from)?)
            }
        })
    }
}

impl From<Value> for v1::Value {
    fn from(value: Value) -> Self {
        use v1::value::Kind;
        let kind = match value {
            Value::Bool(value) => Kind::Bool(value),
            Value::Integer(value) => Kind::Integer(value),
            Value::Text(value) => Kind::Text(value),
            Value::List(values) => {
                Kind::List(v1::ValueList { values: values.into_iter().map(Into::into).collect() })
            }
            Value::Table(values) => {
                Kind::Table(v1::ValueTable { values: unmap(values, Into::into) })
            }
        };
        Self { kind: Some(kind) }
    }
}

#[cfg(test)]
mod tests {
    use shoal_core::secret::PinnedSecret;
    use shoal_core::spec::{
        Health, Hooks, Limits, Link, Memory, Mount, Network, Root, Security, Settings, Start,
    };

    use super::*;

    fn settings() -> Settings {
        let file = File {
            body: FileBody::Template("{{ domain }}".into()),
            mode: 0o640,
            owner: Owner { uid: 1, gid: 2 },
            reload: Some("x.service".parse().unwrap()),
        };
        let binary = File {
            body: FileBody::Bytes(vec![0xff]),
            mode: 0o644,
            owner: Owner::default(),
            reload: None,
        };
        Settings {
            start: Start::Command(vec!["/bin/app".into(), "-x".into()]),
            network: Network::Bridge(
                "br0".parse().unwrap(),
                Link {
                    address: Some("10.0.0.2/24".parse().unwrap()),
                    gateway: Some("10.0.0.1".parse().unwrap()),
                },
            ),
            env: [("A".parse().unwrap(), "b c".into())].into(),
            data: [(
                "var".parse().unwrap(),
                DataVolume { path: "/var/x".parse().unwrap(), owner: Owner { uid: 7, gid: 8 } },
            )]
            .into(),
            files: [("/etc/x".parse().unwrap(), file), ("/etc/y".parse().unwrap(), binary)].into(),
            vars: [
                ("domain".into(), Value::Text("example.org".into())),
                ("list".into(), Value::List(vec![Value::Integer(1), Value::Bool(true)])),
                ("table".into(), Value::Table([("k".into(), Value::Integer(-1))].into())),
            ]
            .into(),
            health: Some(Health {
                unit: Some("x.service".parse().unwrap()),
                tcp: Some("127.0.0.1:80".parse().unwrap()),
                http: Some("http://127.0.0.1:81/x".parse().unwrap()),
                exec: vec!["/bin/true".into()],
                grace: Duration::from_millis(1500),
                interval: Health::DEFAULT_INTERVAL,
                timeout: Health::DEFAULT_TIMEOUT,
                retries: 3,
            }),
            after: ["shop/db".parse().unwrap()].into(),
            ports: vec!["80:8080/tcp".parse().unwrap(), "53/udp".parse().unwrap()],
            limits: Limits {
                memory: Some(Memory(1 << 29)),
                cpu: Some(150),
                tasks: Some(64),
                nofile: Some(1024),
            },
            security: Security {
                capabilities_add: ["CAP_SYS_NICE".parse().unwrap()].into(),
                capabilities_drop: ["CAP_NET_RAW".parse().unwrap()].into(),
                new_privileges: true,
                private_users: false,
                system_calls_allow: ["@keyring".parse().unwrap()].into(),
            },
            mounts: [(
                "/media".parse().unwrap(),
                Mount { source: "/srv/media".parse().unwrap(), writable: true, shared: true },
            )]
            .into(),
            root: Root::Memory,
            hooks: Hooks { migrate: vec!["/m".into()], ..Hooks::default() },
            secrets: [(
                "db-password".parse().unwrap(),
                PinnedSecret { name: "db/creator".parse().unwrap(), version: 3 },
            )]
            .into(),
        }
    }

    #[test]
    fn a_desired_state_survives_the_wire() {
        let signed = SignedManifest::new("manifest = 1\n".into(), "untrusted".into()).unwrap();
        let image = PinnedImage {
            reference: "app:1".parse().unwrap(),
            digest: [7; 32].into(),
            size: 4096,
            signed: Some(Box::new(signed)),
        };
        let spec = HostSpec {
            generation: 9,
            instances: vec![InstanceSpec {
                id: "shop/main".parse().unwrap(),
                revision: 3,
                config: InstanceConfig { image, settings: settings() },
                run: RunState::Stopped,
                restarts: 2,
                recreate: 3,
                paused: true,
                gate: Some(Duration::from_secs(9)),
            }],
            peers: vec![Peer {
                id: "shop/db".parse().unwrap(),
                host: "h2".parse().unwrap(),
                address: "fd00::2".parse().unwrap(),
            }],
            stage: vec![PinnedImage {
                reference: "app:2".parse().unwrap(),
                digest: [8; 32].into(),
                size: 8192,
                signed: None,
            }],
            agent: Some(AgentSpec {
                version: "0.3.0".parse().unwrap(),
                digest: [9; 32].into(),
                size: 5,
                deadline: Duration::from_secs(60),
                asked: 2,
            }),
            infra: None,
            keep: vec![Keep { fleet: "shop".parse().unwrap(), images: vec![[5; 32].into()] }],
        };
        assert_eq!(HostSpec::try_from(v1::HostSpec::from(spec.clone())), Ok(spec));
    }

    #[test]
    fn what_cannot_be_a_signed_manifest_is_refused() {
        let error = |manifest: &[u8]| {
            let manifest = manifest.to_vec().into();
            let wire = v1::SignedManifest { manifest, signature: String::new() };
            SignedManifest::try_from(wire).unwrap_err().to_string()
        };
        assert_eq!(error(b"\xff"), "field manifest: it is not text");
        let long = error(&[b'x'; 5000]);
        assert_eq!(long, "field signed: the manifest has 5000 bytes, and at most 4096 are taken");
    }

    #[test]
    fn a_fleet_survives_the_wire() {
        for hosts in [
            HostMatch::All,
            HostMatch::Selector("role=web".parse().unwrap()),
            HostMatch::Names(vec!["h1".parse().unwrap()]),
        ] {
            let declared = DeclaredInstance {
                image: "app:1".parse().unwrap(),
                hosts: hosts.clone(),
                count: Some(2),
                settings: settings(),
                overrides: vec![Override {
                    hosts,
                    vars: [("domain".into(), Value::Text("b".into()))].into(),
                }],
                templates: Templates {
                    env: [("B".parse().unwrap(), "{{ domain }}".into())].into(),
                    address: Some("{{ ip }}/24".into()),
                },
                secrets: [("key".parse().unwrap(), "tls/key".parse().unwrap())].into(),
            };
            let spec = FleetSpec {
                fleet: "shop".parse().unwrap(),
                instances: [("main".parse().unwrap(), declared)].into(),
                rollout: Policy { max_failures: 3, ..Policy::default() },
                infra: None,
            };
            assert_eq!(FleetSpec::try_from(v1::FleetSpec::from(spec.clone())), Ok(spec));
        }
    }

    #[test]
    fn what_is_missing_unknown_or_wild_is_named() {
        let good = v1::Settings::from(settings());
        let error = |change: fn(&mut v1::Settings)| {
            let mut wire = good.clone();
            change(&mut wire);
            Settings::try_from(wire).unwrap_err().to_string()
        };
        assert_eq!(error(|s| s.start = None), "field start is missing");
        assert_eq!(error(|s| s.network = 0), "field network has the unknown value 0");
        assert_eq!(error(|s| s.network = 99), "field network has the unknown value 99");
        let wild = |s: &mut v1::Settings| {
            s.files.insert("/../etc".into(), s.files["/etc/x"].clone());
        };
        assert!(error(wild).contains("not a plain path"));
        assert!(error(|s| s.files.get_mut("/etc/x").unwrap().uid = 70_000).contains("65536"));
        assert!(error(|s| s.ports[0].host = 70_000).contains("65535"));
        assert!(error(|s| s.network_name = None).contains("network_name is missing"));
        assert!(error(|s| s.files.get_mut("/etc/x").unwrap().mode = 0o10000).contains("7777"));
    }
}
