//! A fleet onto hosts: which host gets which instance, with its image pinned.

use std::collections::BTreeMap;

use crate::diff::{FieldChange, config_changes, config_fields};
use crate::fleet::{DeclaredInstance, FleetSpec};
use crate::host::{Host, HostSpec};
use crate::image::{ImageRef, PinnedImage};
use crate::name::{FleetName, HostId, HostName, InstanceId, InstanceName, MachineName};
use crate::peers::Peer;
use crate::spec::{InstanceConfig, InstanceSpec, RunState};

/// Why a fleet can't be placed. All reasons are found at once.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unplaceable {
    /// No tag of this name is known.
    #[error(
        "instance {instance}: image {image} is not known; push it with \
         `shoal image push rootfs.squashfs {image}`, or see `shoal image list`"
    )]
    UnknownImage {
        /// The instance that wants it.
        instance: InstanceName,
        /// The image.
        image: ImageRef,
    },
    /// The selector picks nothing.
    #[error(
        "instance {instance}: no host matches {hosts:?}; see `shoal host list` for the hosts and \
         their labels"
    )]
    NoHost {
        /// The instance.
        instance: InstanceName,
        /// Its `hosts`.
        hosts: String,
    },
    /// A host is named that is not enrolled.
    #[error("instance {instance}: host {host} is not enrolled; see `shoal host list`")]
    UnknownHost {
        /// The instance.
        instance: InstanceName,
        /// The name.
        host: HostName,
    },
    /// Two instances would meet in one machine name.
    #[error(
        "instance {instance}: its machine would be named {machine}, as that of {other} is; \
         rename the fleet or the instance"
    )]
    SameMachine {
        /// The instance.
        instance: InstanceName,
        /// The name of both.
        machine: MachineName,
        /// The other.
        other: InstanceId,
    },
}

/// Where each instance of a fleet runs, and with what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    /// For each host, the configurations of the fleet's instances on it.
    pub hosts: BTreeMap<HostId, BTreeMap<InstanceName, InstanceConfig>>,
}

/// Places every instance of `fleet`. `others` are the instances of all other fleets, on any host.
///
/// # Errors
/// Every reason why it can't be placed as it says.
pub fn place(
    fleet: &FleetSpec,
    hosts: &[Host],
    images: &BTreeMap<ImageRef, PinnedImage>,
    others: &[InstanceId],
) -> Result<Placement, Vec<Unplaceable>> {
    let mut placement = Placement::default();
    let mut problems = Vec::new();
    for (name, declared) in &fleet.instances {
        problems.extend(machine_clash(&fleet.fleet, fleet, name, others));
        let chosen = choose_hosts(name, declared, hosts, &mut problems);
        let Some(image) = images.get(&declared.image) else {
            let (instance, image) = (name.clone(), declared.image.clone());
            problems.push(Unplaceable::UnknownImage { instance, image });
            continue;
        };
        let config = InstanceConfig { image: image.clone(), settings: declared.settings.clone() };
        for host in chosen {
            let there = placement.hosts.entry(host.id.clone()).or_default();
            there.insert(name.clone(), config.clone());
        }
    }
    if problems.is_empty() { Ok(placement) } else { Err(problems) }
}

fn choose_hosts<'a>(
    name: &InstanceName,
    declared: &DeclaredInstance,
    hosts: &'a [Host],
    problems: &mut Vec<Unplaceable>,
) -> Vec<&'a Host> {
    if let crate::label::HostMatch::Names(names) = &declared.hosts {
        let missing = names.iter().filter(|n| !hosts.iter().any(|h| h.name == **n));
        problems.extend(
            missing.map(|host| Unplaceable::UnknownHost {
                instance: name.clone(),
                host: host.clone(),
            }),
        );
    }
    let chosen: Vec<&Host> =
        hosts.iter().filter(|h| declared.hosts.matches(&h.name, &h.labels)).collect();
    let named = matches!(declared.hosts, crate::label::HostMatch::Names(_));
    if chosen.is_empty() && !named {
        let (instance, hosts) = (name.clone(), declared.hosts.to_string());
        problems.push(Unplaceable::NoHost { instance, hosts });
    }
    chosen
}

fn machine_clash(
    fleet_name: &FleetName,
    fleet: &FleetSpec,
    name: &InstanceName,
    others: &[InstanceId],
) -> Option<Unplaceable> {
    let id = InstanceId { fleet: fleet.fleet.clone(), instance: name.clone() };
    let machine = id.machine();
    let other = others.iter().find(|o| o.fleet != *fleet_name && o.machine() == machine)?;
    Some(Unplaceable::SameMachine { instance: name.clone(), machine, other: other.clone() })
}

/// The desired state of a host with `fleet`'s instances replaced by `configs`, and with `peers` as
/// where that fleet's instances are.
///
/// What operators asked for (stopped, restarts) stays with the instances that stay. The
/// generation rises only where something changes; the same spec comes back where nothing does.
#[must_use]
pub fn with_fleet(
    spec: &HostSpec,
    fleet: &FleetName,
    revision: u64,
    configs: &BTreeMap<InstanceName, InstanceConfig>,
    peers: &[Peer],
) -> HostSpec {
    let mut instances: Vec<InstanceSpec> =
        spec.instances.iter().filter(|i| i.id.fleet != *fleet).cloned().collect();
    for (name, config) in configs {
        let id = InstanceId { fleet: fleet.clone(), instance: name.clone() };
        let before = spec.instances.iter().find(|i| i.id == id);
        instances.push(InstanceSpec {
            id,
            revision,
            config: config.clone(),
            run: before.map_or(RunState::Running, |i| i.run),
            restarts: before.map_or(0, |i| i.restarts),
            paused: before.is_some_and(|i| i.paused),
        });
    }
    instances.sort_by(|a, b| a.id.cmp(&b.id));
    let others = spec.peers.iter().filter(|peer| peer.id.fleet != *fleet);
    let mut peers: Vec<Peer> = others.chain(peers).cloned().collect();
    peers.sort();
    if instances == spec.instances && peers == spec.peers {
        return spec.clone();
    }
    HostSpec { generation: spec.generation + 1, instances, peers }
}

/// What a new revision does to one instance on one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// It is not there yet; these are its fields.
    Create(Vec<FieldChange>),
    /// Its container is recreated, for these reasons; its data stays.
    Replace(Vec<FieldChange>),
    /// It is stopped and taken away; its data stays and is listed.
    Remove,
    /// Nothing is disturbed.
    Keep,
}

/// What `placement` does to one host's instances of `fleet`, by instance.
#[must_use]
pub fn host_actions(
    spec: &HostSpec,
    fleet: &FleetName,
    configs: &BTreeMap<InstanceName, InstanceConfig>,
) -> BTreeMap<InstanceName, Action> {
    let there: BTreeMap<&InstanceName, &InstanceSpec> = spec
        .instances
        .iter()
        .filter(|i| i.id.fleet == *fleet)
        .map(|i| (&i.id.instance, i))
        .collect();
    let mut actions: BTreeMap<InstanceName, Action> = there
        .keys()
        .filter(|name| !configs.contains_key(**name))
        .map(|name| ((*name).clone(), Action::Remove))
        .collect();
    for (name, config) in configs {
        let action = match there.get(name) {
            None => Action::Create(config_fields(config)),
            Some(before) => match config_changes(&before.config, config) {
                changes if changes.is_empty() => Action::Keep,
                changes => Action::Replace(changes),
            },
        };
        actions.insert(name.clone(), action);
    }
    actions
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::label::{HostMatch, parse_label};
    use crate::spec::tests_support::{instance, settings};

    fn hosts() -> Vec<Host> {
        let host = |name: &str, role: &str| Host {
            id: format!("id-{name}").parse().unwrap(),
            name: name.parse().unwrap(),
            labels: [parse_label(&format!("role={role}")).unwrap()].into(),
        };
        vec![host("h1", "web"), host("h2", "web"), host("h3", "db")]
    }

    fn images() -> BTreeMap<ImageRef, PinnedImage> {
        let image = instance("x/y", 1).config.image;
        [(image.reference.clone(), image)].into()
    }

    fn fleet(hosts: HostMatch, image: &str) -> FleetSpec {
        let declared = DeclaredInstance {
            image: image.parse().unwrap(),
            hosts,
            count: None,
            settings: settings(),
            overrides: vec![],
            templates: Default::default(),
        };
        FleetSpec {
            fleet: "shop".parse().unwrap(),
            instances: [("main".parse().unwrap(), declared)].into(),
        }
    }

    fn selector(text: &str) -> HostMatch {
        HostMatch::Selector(text.parse().unwrap())
    }

    #[test]
    fn every_match_runs_one() {
        let placed = place(&fleet(selector("role=web"), "app:1"), &hosts(), &images(), &[]);
        let ids: Vec<String> = placed.unwrap().hosts.keys().map(ToString::to_string).collect();
        assert_eq!(ids, ["id-h1", "id-h2"]);
    }

    #[test]
    fn problems_are_told_together() {
        let names = HostMatch::Names(vec!["h9".parse().unwrap()]);
        let problems = place(&fleet(names, "app:7"), &hosts(), &images(), &[]).unwrap_err();
        let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert!(text[0].contains("host h9 is not enrolled"), "{text:?}");
        assert!(text[1].contains("image app:7 is not known"), "{text:?}");
        let none = place(&fleet(selector("role=mail"), "app:1"), &hosts(), &images(), &[]);
        assert!(none.unwrap_err()[0].to_string().contains("no host matches \"role=mail\""));
    }

    #[test]
    fn two_fleets_never_share_a_machine_name() {
        let mut fleet = fleet(HostMatch::All, "app:1");
        fleet.fleet = "a-b".parse().unwrap();
        let declared = fleet.instances.pop_first().unwrap().1;
        fleet.instances.insert("c".parse().unwrap(), declared);
        let others = ["a/b-c".parse().unwrap()];
        let problems = place(&fleet, &hosts(), &images(), &others).unwrap_err();
        assert!(problems[0].to_string().contains("a-b-c"), "{problems:?}");
    }

    #[test]
    fn operators_wishes_survive_a_new_revision() {
        let mut before = instance("shop/main", 1);
        before.run = RunState::Stopped;
        before.restarts = 4;
        let spec = HostSpec {
            generation: 7,
            peers: vec![],
            instances: vec![before, instance("other/x", 1)],
        };
        let configs = [("main".parse().unwrap(), instance("shop/main", 2).config)].into();
        let after = with_fleet(&spec, &"shop".parse().unwrap(), 2, &configs, &[]);
        assert_eq!(after.generation, 8);
        assert_eq!(after.instances.len(), 2);
        let main = after.instances.iter().find(|i| i.id.to_string() == "shop/main").unwrap();
        assert_eq!((main.run, main.restarts, main.revision), (RunState::Stopped, 4, 2));
    }

    #[test]
    fn the_same_revision_again_raises_no_generation() {
        let spec =
            HostSpec { generation: 7, peers: vec![], instances: vec![instance("shop/main", 1)] };
        let configs = [("main".parse().unwrap(), instance("shop/main", 1).config)].into();
        assert_eq!(with_fleet(&spec, &"shop".parse().unwrap(), 1, &configs, &[]), spec);
    }

    #[test]
    fn actions_tell_create_replace_remove_and_keep_apart() {
        let spec = HostSpec {
            generation: 1,
            peers: vec![],
            instances: ["keep", "gone", "new-image"]
                .map(|name| instance(&format!("shop/{name}"), 1))
                .into(),
        };
        let configs = [("keep", 1), ("new-image", 2), ("fresh", 1)]
            .map(|(name, image)| (name.parse().unwrap(), instance("x/y", image).config))
            .into();
        let actions = host_actions(&spec, &"shop".parse().unwrap(), &configs);
        let of = |name: &str| &actions[&name.parse::<InstanceName>().unwrap()];
        assert_eq!(of("keep"), &Action::Keep);
        assert_eq!(of("gone"), &Action::Remove);
        assert!(matches!(of("fresh"), Action::Create(fields) if fields.len() == 3));
        assert!(matches!(of("new-image"), Action::Replace(changes) if changes.len() == 1));
    }
}
