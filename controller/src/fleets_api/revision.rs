//! A revision as the domain has it, and as the store keeps it.
//!
//! A placed instance has the settings that its fleet declares, but for what was rendered for its
//! host. So the record has them once, in the spec, and by host only the pinned images and what
//! differs. That keeps a revision of a thousand hosts small.

use std::collections::{BTreeMap, BTreeSet};

use shoal_core::fleet::FleetSpec;
use shoal_core::name::{FleetName, HostId, InstanceName};
use shoal_core::spec::{
    Hooks, InstanceConfig, Limits, Link, Network, Root, Security, Settings, Start,
};
use shoal_core::time::Timestamp;
use shoal_proto::convert::{Invalid, parse};
use shoal_proto::v1;
use shoal_proto::v1::store::{PlacedHost, RevisionRecord};

/// One applied, immutable version of a fleet. Complete in itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    /// The fleet.
    pub fleet: FleetName,
    /// Its number: 1, 2, 3 …
    pub number: u64,
    /// What its user declared.
    pub spec: FleetSpec,
    /// What it puts on each host; nothing on one that it takes the fleet away from.
    pub hosts: Placed,
    /// When it was applied.
    pub created: Timestamp,
    /// By whom: a SPIFFE id.
    pub author: String,
    /// Where the spec comes from, such as a commit; may be empty.
    pub source: String,
    /// The hosts on which it has every container of the fleet made afresh, whatever differs.
    pub recreate: BTreeSet<HostId>,
    /// Of an infra: whether data goes back to what it was before the version that hosts have.
    pub undo_data: bool,
}

/// Configurations by host and instance.
pub type Placed = BTreeMap<HostId, BTreeMap<InstanceName, InstanceConfig>>;

impl Revision {
    /// As the store keeps it.
    #[must_use]
    pub fn record(&self) -> RevisionRecord {
        let Self { fleet, number, spec, hosts, created, author, source, recreate, undo_data } =
            self;
        let hosts = hosts.iter().map(|(host, configs)| {
            let instances = configs.iter().map(|(name, config)| {
                let image = Some(config.image.clone().into());
                let declared = spec.instances.get(name).map(|declared| &declared.settings);
                let settings = difference(declared, &config.settings);
                (name.to_string(), v1::InstanceConfig { image, settings })
            });
            (host.to_string(), PlacedHost { instances: instances.collect() })
        });
        RevisionRecord {
            fleet: fleet.to_string(),
            revision: *number,
            spec: Some(spec.clone().into()),
            hosts: hosts.collect(),
            created_ms: created.0,
            author: author.clone(),
            source: source.clone(),
            recreate: recreate.iter().map(ToString::to_string).collect(),
            undo_data: *undo_data,
        }
    }
}

impl TryFrom<RevisionRecord> for Revision {
    type Error = Invalid;

    fn try_from(record: RevisionRecord) -> Result<Self, Invalid> {
        let RevisionRecord {
            fleet,
            revision,
            spec,
            hosts,
            created_ms,
            author,
            source,
            recreate,
            undo_data,
        } = record;
        let spec = FleetSpec::try_from(spec.ok_or(Invalid::Missing("spec"))?)?;
        let hosts = hosts
            .into_iter()
            .map(|(host, placed)| Ok((parse("hosts", &host)?, placed_configs(placed, &spec)?)));
        let hosts = hosts.collect::<Result<_, Invalid>>()?;
        let recreate = recreate.iter().map(|host| parse("recreate", host));
        Ok(Self {
            fleet: parse("fleet", &fleet)?,
            number: revision,
            spec,
            hosts,
            created: Timestamp(created_ms),
            author,
            source,
            recreate: recreate.collect::<Result<_, Invalid>>()?,
            undo_data,
        })
    }
}

/// What of `placed` is not as declared: settings without a start, which have the variables, the
/// rendered environment, the rendered address and the pinned secrets. All of it where nothing was
/// declared.
fn difference(declared: Option<&Settings>, placed: &Settings) -> Option<v1::Settings> {
    let Some(declared) = declared else { return Some(placed.clone().into()) };
    if declared == placed {
        return None;
    }
    let rendered = placed.env.iter().filter(|(name, _)| !declared.env.contains_key(*name));
    let address = |settings: &Settings| settings.network.link().and_then(|link| link.address);
    let small = Settings {
        start: Start::Boot,
        network: Network::Veth(Link {
            address: address(placed).filter(|given| address(declared) != Some(*given)),
            gateway: None,
        }),
        env: rendered.map(|(name, value)| (name.clone(), value.clone())).collect(),
        data: BTreeMap::new(),
        files: BTreeMap::new(),
        vars: placed.vars.clone(),
        health: None,
        after: BTreeSet::new(),
        ports: Vec::new(),
        limits: Limits::default(),
        security: Security::default(),
        mounts: BTreeMap::new(),
        root: Root::default(),
        secrets: placed.secrets.clone(),
        hooks: Hooks::default(),
    };
    Some(v1::Settings { start: None, ..small.into() })
}

/// The settings of which [`difference`] gave `stored`.
fn settings(
    declared: Option<&Settings>,
    stored: Option<v1::Settings>,
) -> Result<Settings, Invalid> {
    let Some(stored) = stored else {
        return declared.cloned().ok_or(Invalid::Missing("settings"));
    };
    if stored.start.is_some() {
        return stored.try_into();
    }
    let start = Some(v1::settings::Start::Boot(v1::Boot {}));
    let difference = Settings::try_from(v1::Settings { start, ..stored })?;
    let mut settings = declared.cloned().ok_or(Invalid::Missing("settings"))?;
    settings.vars = difference.vars;
    settings.secrets = difference.secrets;
    settings.env.extend(difference.env);
    let address = difference.network.link().and_then(|link| link.address);
    if let (Some(address), Some(link)) = (address, settings.network.link_mut()) {
        link.address = Some(address);
    }
    Ok(settings)
}

fn placed_configs(
    placed: PlacedHost,
    spec: &FleetSpec,
) -> Result<BTreeMap<InstanceName, InstanceConfig>, Invalid> {
    let PlacedHost { instances } = placed;
    let configs = instances.into_iter().map(|(name, config)| {
        let name: InstanceName = parse("instances", &name)?;
        let v1::InstanceConfig { image, settings: stored } = config;
        let declared = spec.instances.get(&name).map(|declared| &declared.settings);
        let config = InstanceConfig {
            image: image.ok_or(Invalid::Missing("image"))?.try_into()?,
            settings: settings(declared, stored)?,
        };
        Ok((name, config))
    });
    configs.collect()
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use shoal_core::spec::Value;

    use super::*;
    use crate::fleets_api::tests_support::{fleet, pinned};

    #[test]
    fn a_revision_survives_the_store_and_keeps_settings_once() {
        let mut spec = fleet("shop", &[("main", "app:1", "*")]);
        let declared = spec.instances.values_mut().next().unwrap();
        declared.settings.env.insert("TEXT".parse().unwrap(), "x".repeat(10_000));
        let config =
            InstanceConfig { image: pinned("app:1", 1), settings: declared.settings.clone() };
        let there: BTreeMap<_, _> = [("main".parse().unwrap(), config)].into();
        let mut hosts: Placed =
            (0..50).map(|n| (format!("h{n}").parse().unwrap(), there.clone())).collect();
        hosts.insert("gone".parse().unwrap(), BTreeMap::new());
        let revision = Revision {
            fleet: "shop".parse().unwrap(),
            number: 3,
            spec,
            hosts,
            created: Timestamp(5),
            author: "spiffe://t/user/ada".into(),
            source: "abc".into(),
            recreate: ["h7".parse().unwrap()].into(),
            undo_data: true,
        };
        let record = revision.record();
        assert!(record.encoded_len() < 20_000, "{}", record.encoded_len());
        assert_eq!(Revision::try_from(record), Ok(revision));
    }
    #[test]
    fn what_was_rendered_for_a_host_is_kept_with_it() {
        let mut spec = fleet("shop", &[("main", "app:1", "*")]);
        let declared = spec.instances.values_mut().next().unwrap();
        let text = |text: &str| Value::Text(text.to_owned());
        let settings = &mut declared.settings;
        settings.network = Network::Bridge("br0".parse().unwrap(), Link::default());
        settings.env.insert("TEXT".parse().unwrap(), "x".repeat(10_000));
        settings.vars = [("all".to_owned(), text("y")), ("gone".to_owned(), text("z"))].into();
        let on = |n: u8| {
            let mut settings = settings.clone();
            settings.env.insert("WHERE".parse().unwrap(), format!("h{n}"));
            settings.vars = [("all".to_owned(), text(&n.to_string()))].into();
            settings.network.link_mut().unwrap().address =
                Some(format!("10.0.0.{n}/24").parse().unwrap());
            let config = InstanceConfig { image: pinned("app:1", 1), settings };
            let there = [("main".parse().unwrap(), config)].into();
            (format!("h{n}").parse().unwrap(), there)
        };
        let hosts: Placed = (1..=50).map(on).collect();
        let revision = Revision {
            fleet: "shop".parse().unwrap(),
            number: 3,
            spec,
            hosts,
            created: Timestamp(5),
            author: "spiffe://t/user/ada".into(),
            source: String::new(),
            recreate: BTreeSet::new(),
            undo_data: false,
        };
        let record = revision.record();
        assert!(record.encoded_len() < 20_000, "{}", record.encoded_len());
        assert_eq!(Revision::try_from(record), Ok(revision));
    }
}
