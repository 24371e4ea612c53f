//! Fleets and hosts for the tests of this module.

use std::collections::BTreeMap;

use super::*;
use crate::fleet::{DeclaredInstance, Templates};
use crate::host::Cordon;
use crate::label::HostMatch;
use crate::spec::tests_support::{instance, settings};
use crate::time::Timestamp;

pub(super) fn id(text: &str) -> InstanceId {
    text.parse().unwrap()
}

pub(super) fn matched(text: &str) -> HostMatch {
    match text {
        "*" => HostMatch::All,
        text if text.contains('=') => HostMatch::Selector(text.parse().unwrap()),
        text => HostMatch::Names(text.split(',').map(|name| name.parse().unwrap()).collect()),
    }
}

/// A fleet of instances of image app:1, each with its hosts.
pub(super) fn fleet(name: &str, instances: &[(&str, &str)]) -> FleetSpec {
    let declared = |hosts: &str| DeclaredInstance {
        image: "app:1".parse().unwrap(),
        hosts: matched(hosts),
        count: None,
        settings: settings(),
        overrides: vec![],
        templates: Templates::default(),
        secrets: BTreeMap::new(),
    };
    let instances = instances.iter().map(|(name, on)| (name.parse().unwrap(), declared(on)));
    let rollout = crate::rollout::Policy::default();
    let fleet = name.parse().unwrap();
    FleetSpec { fleet, instances: instances.collect(), rollout, infra: None }
}

/// A host `NAME`, of id `id-NAME`, whose label `role` is `role`.
pub(super) fn host(name: &str, role: &str) -> Host {
    Host {
        id: format!("id-{name}").parse().unwrap(),
        name: name.parse().unwrap(),
        labels: [("role".to_owned(), role.to_owned())].into(),
        facts: None,
        cordon: None,
    }
}

/// A host, cordoned by ann for its bad disk.
pub(super) fn cordoned(host: Host, drains: bool) -> Host {
    let (by, reason) = ("spiffe://x/user/ann".to_owned(), "bad disk".to_owned());
    let cordon = Some(Cordon { by, reason, since: Timestamp(1), drains });
    Host { cordon, ..host }
}

/// All that a fleet is placed among.
#[derive(Debug, Clone, Default)]
pub(super) struct World {
    pub(super) hosts: Vec<Host>,
    pub(super) others: BTreeMap<HostId, BTreeMap<InstanceId, Claims>>,
    pub(super) order: Order,
    pub(super) now: BTreeMap<InstanceName, BTreeSet<HostId>>,
    pub(super) secrets: BTreeMap<SecretName, u64>,
}

impl World {
    /// Hosts h1 and h2 of role web, and h3 of role db.
    pub(super) fn new() -> Self {
        let hosts = vec![host("h1", "web"), host("h2", "web"), host("h3", "db")];
        Self { hosts, ..Self::default() }
    }

    pub(super) fn place(&self, fleet: &FleetSpec) -> Result<Placement, Vec<Unplaceable>> {
        let image = instance("x/y", 1).config.image;
        let around = Surroundings {
            hosts: &self.hosts,
            images: &[(image.reference.clone(), image)].into(),
            secrets: &self.secrets,
            others: &self.others,
            order: &self.order,
            now: &self.now,
        };
        place(fleet, &around)
    }

    pub(super) fn problems(&self, fleet: &FleetSpec) -> Vec<String> {
        let problems = self.place(fleet).err().unwrap_or_default();
        problems.iter().map(ToString::to_string).collect()
    }

    /// Another fleet's instance on a host.
    pub(super) fn other(&mut self, host: &str, other: &str, settings: &Settings) {
        let there = self.others.entry(format!("id-{host}").parse().unwrap()).or_default();
        there.insert(id(other), Claims::of(settings));
    }
}

/// `INSTANCE@HOST` of each, ordered by host.
pub(super) fn seats(placement: &Placement) -> Vec<String> {
    let on = |(host, there): (&HostId, &BTreeMap<InstanceName, InstanceConfig>)| {
        let host = host.as_str().trim_start_matches("id-").to_owned();
        there.keys().map(|name| format!("{name}@{host}")).collect::<Vec<_>>()
    };
    placement.hosts.iter().flat_map(on).collect()
}
