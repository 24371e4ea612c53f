//! A placed fleet in the desired state of one host, and what that changes there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::diff::{FieldChange, config_changes, config_fields};
use crate::host::HostSpec;
use crate::infra::{HostInfra, is_infra};
use crate::name::{FleetName, InstanceId, InstanceName, VolumeName};
use crate::peers::Peer;
use crate::spec::{InstanceConfig, InstanceSpec, RunState};
use crate::update::{Update, update};

/// The desired state of a host with `fleet`'s instances replaced by `configs`, and with `peers` as
/// where that fleet's instances are.
///
/// `gate` is how long an instance may take to get ready before its agent takes it back by itself.
/// `infra` is what the host gets where the fleet is the infra and has instances there.
/// What was asked for besides (stopped, restarts, recreation) stays with the instances that stay. The
/// generation rises only where something changes; the same spec comes back where nothing does.
#[must_use]
pub fn with_fleet(
    spec: &HostSpec,
    fleet: &FleetName,
    revision: u64,
    configs: &BTreeMap<InstanceName, InstanceConfig>,
    peers: &[Peer],
    gate: Option<Duration>,
    infra: Option<&HostInfra>,
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
            recreate: before.map_or(0, |i| i.recreate),
            paused: before.is_some_and(|i| i.paused),
            gate,
        });
    }
    instances.sort_by(|a, b| a.id.cmp(&b.id));
    let others = spec.peers.iter().filter(|peer| peer.id.fleet != *fleet);
    let mut peers: Vec<Peer> = others.chain(peers).cloned().collect();
    peers.sort();
    let infra = match is_infra(fleet) {
        true => infra.filter(|_| !configs.is_empty()).map(|i| following(spec.infra.as_ref(), i)),
        false => spec.infra.clone(),
    };
    if instances == spec.instances && peers == spec.peers && infra == spec.infra {
        return spec.clone();
    }
    let generation = spec.generation + 1;
    HostSpec { generation, instances, peers, infra, ..spec.clone() }
}

/// A desired state in which `revision` has every container of `fleet` made afresh.
#[must_use]
pub fn recreated(mut spec: HostSpec, fleet: &FleetName, revision: u64) -> HostSpec {
    for instance in spec.instances.iter_mut().filter(|i| i.id.fleet == *fleet) {
        instance.recreate = revision;
    }
    spec
}

/// A desired state without that: a container that was not made afresh yet is left as it is.
#[must_use]
pub fn not_recreated(mut spec: HostSpec, fleet: &FleetName, revision: u64) -> HostSpec {
    let asked = |i: &&mut InstanceSpec| i.id.fleet == *fleet && i.recreate == revision;
    for instance in spec.instances.iter_mut().filter(asked) {
        instance.recreate = 0;
    }
    spec
}

/// `infra` on a host that was to have `before`.
///
/// A revision that brings the version which the host is to have already does not rename the
/// snapshot that was taken before it. Data that is to be put back still is, whatever comes next: a
/// host that was offline knows nothing of it yet.
fn following(before: Option<&HostInfra>, infra: &HostInfra) -> HostInfra {
    let Some(before) = before else { return infra.clone() };
    let same = before.version == infra.version;
    let revision = if same { before.revision } else { infra.revision };
    HostInfra { revision, undo: infra.undo.or(before.undo), ..infra.clone() }
}

/// What a new revision does to one instance on one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// It is not there yet; these are its fields.
    Create(Vec<FieldChange>),
    /// Its container is recreated, for these reasons; its data stays.
    Replace(Vec<FieldChange>),
    /// Its container is made afresh because that was asked for. These fields differ besides; these
    /// data volumes stay.
    Recreate(Vec<FieldChange>, BTreeSet<VolumeName>),
    /// It is changed as it runs, without a new container.
    Refresh(Vec<FieldChange>),
    /// It is stopped and taken away; its data stays and is listed.
    Remove,
    /// Nothing is disturbed.
    Keep,
}

/// What `placement` does to one host's instances of `fleet`, by instance; with `recreate`, those
/// that are there are made afresh, whatever differs.
#[must_use]
pub fn host_actions(
    spec: &HostSpec,
    fleet: &FleetName,
    configs: &BTreeMap<InstanceName, InstanceConfig>,
    recreate: bool,
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
            Some(before) if recreate => {
                let volumes = |config: &InstanceConfig| config.settings.data.clone().into_keys();
                let data = volumes(&before.config).chain(volumes(config)).collect();
                Action::Recreate(config_changes(&before.config, config), data)
            }
            Some(before) => match update(&before.config, config) {
                Update::None => Action::Keep,
                Update::Refresh { changes, .. } => Action::Refresh(changes),
                Update::Recreate { changes } => Action::Replace(changes),
            },
        };
        actions.insert(name.clone(), action);
    }
    actions
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::DataVolume;
    use crate::spec::tests_support::instance;

    #[test]
    fn peers_of_the_fleet_take_the_place_of_those_before() {
        let peer = |id: &str| Peer {
            id: id.parse().unwrap(),
            host: "h1".parse().unwrap(),
            address: "10.0.0.1".parse().unwrap(),
        };
        let fleet = "shop".parse().unwrap();
        let spec = HostSpec {
            generation: 7,
            instances: vec![],
            peers: vec![peer("infra/sql"), peer("shop/old")],
            stage: vec![],
            agent: None,
            infra: None,
            keep: vec![],
        };
        let after = with_fleet(&spec, &fleet, 1, &BTreeMap::new(), &[peer("shop/new")], None, None);
        assert_eq!(
            (after.generation, &after.peers),
            (8, &vec![peer("infra/sql"), peer("shop/new")])
        );
        let same = with_fleet(&after, &fleet, 1, &BTreeMap::new(), &[peer("shop/new")], None, None);
        assert_eq!(same, after);
    }

    #[test]
    fn the_infra_goes_with_its_instances_and_stays_what_it_is_under_the_same_version() {
        let fleet = crate::infra::FLEET.parse().unwrap();
        let infra = |version: &str, revision| HostInfra {
            version: version.parse().unwrap(),
            revision,
            snapshot: true,
            going_back: crate::infra::GoingBack::ImageAndData,
            undo: None,
            restore: None,
            agent: None,
        };
        let sql = [("sql".parse().unwrap(), instance("infra/sql", 1).config)].into();
        let with = |spec: &HostSpec, configs: &BTreeMap<_, _>, revision, infra: &HostInfra| {
            with_fleet(spec, &fleet, revision, configs, &[], None, Some(infra))
        };
        let one = with(&HostSpec::default(), &sql, 1, &infra("1", 1));
        assert_eq!(one.infra, Some(infra("1", 1)));
        let again = with(&one, &sql, 2, &infra("1", 2));
        assert_eq!(again.infra, Some(infra("1", 1)), "its snapshot is still the same");
        let two = with(&again, &sql, 3, &infra("2", 3));
        assert_eq!(two.infra, Some(infra("2", 3)));
        let back = HostInfra { undo: Some(3), ..infra("1", 1) };
        let back = with(&two, &sql, 1, &back);
        let third = with(&back, &sql, 4, &infra("3", 4));
        assert_eq!(third.infra, Some(HostInfra { undo: Some(3), ..infra("3", 4) }));
        let app = [("main".parse().unwrap(), instance("shop/main", 1).config)].into();
        let shop = "shop".parse().unwrap();
        let with_app = with_fleet(&third, &shop, 1, &app, &[], None, None);
        assert_eq!(with_app.infra, third.infra, "another fleet leaves it alone");
        assert_eq!(with(&third, &BTreeMap::new(), 5, &infra("4", 5)).infra, None);
    }

    #[test]
    fn operators_wishes_survive_a_new_revision() {
        let mut before = instance("shop/main", 1);
        before.run = RunState::Stopped;
        before.restarts = 4;
        let spec = HostSpec {
            generation: 7,
            peers: vec![],
            stage: vec![],
            agent: None,
            infra: None,
            keep: vec![],
            instances: vec![before, instance("other/x", 1)],
        };
        let configs = [("main".parse().unwrap(), instance("shop/main", 2).config)].into();
        let after = with_fleet(&spec, &"shop".parse().unwrap(), 2, &configs, &[], None, None);
        assert_eq!(after.generation, 8);
        assert_eq!(after.instances.len(), 2);
        let main = after.instances.iter().find(|i| i.id.to_string() == "shop/main").unwrap();
        assert_eq!((main.run, main.restarts, main.revision), (RunState::Stopped, 4, 2));
    }

    #[test]
    fn a_recreation_is_asked_for_once_kept_and_taken_back() {
        let shop: FleetName = "shop".parse().unwrap();
        let instances = vec![instance("other/x", 1), instance("shop/main", 1)];
        let spec = HostSpec { generation: 7, instances, ..HostSpec::default() };
        let of =
            |spec: &HostSpec| -> Vec<u64> { spec.instances.iter().map(|i| i.recreate).collect() };
        let asked = recreated(spec.clone(), &shop, 2);
        assert_eq!((of(&asked), recreated(asked.clone(), &shop, 2)), (vec![0, 2], asked.clone()));
        let configs = [("main".parse().unwrap(), instance("shop/main", 1).config)].into();
        let next = with_fleet(&asked, &shop, 3, &configs, &[], None, None);
        assert_eq!(of(&next), [0, 2], "an offline host has yet to do it");
        assert_eq!(of(&not_recreated(next.clone(), &shop, 3)), [0, 2]);
        assert_eq!(of(&not_recreated(next, &shop, 2)), [0, 0]);
    }

    #[test]
    fn the_same_revision_again_raises_no_generation() {
        let spec = HostSpec {
            generation: 7,
            peers: vec![],
            stage: vec![],
            agent: None,
            infra: None,
            keep: vec![],
            instances: vec![instance("shop/main", 1)],
        };
        let configs = [("main".parse().unwrap(), instance("shop/main", 1).config)].into();
        assert_eq!(with_fleet(&spec, &"shop".parse().unwrap(), 1, &configs, &[], None, None), spec);
    }

    #[test]
    fn actions_tell_apart_what_happens() {
        let spec = HostSpec {
            generation: 1,
            peers: vec![],
            stage: vec![],
            agent: None,
            infra: None,
            keep: vec![],
            instances: ["keep", "gone", "new-image", "reorder"]
                .map(|name| instance(&format!("shop/{name}"), 1))
                .into(),
        };
        let mut configs: BTreeMap<InstanceName, InstanceConfig> =
            [("keep", 1), ("new-image", 2), ("fresh", 1), ("reorder", 1)]
                .map(|(name, image)| (name.parse().unwrap(), instance("x/y", image).config))
                .into();
        let reordered = configs.values_mut().next_back().unwrap();
        reordered.settings.after.insert("shop/keep".parse().unwrap());
        let shop = "shop".parse().unwrap();
        let actions = host_actions(&spec, &shop, &configs, false);
        let of = |name: &str| &actions[&name.parse::<InstanceName>().unwrap()];
        assert_eq!(of("keep"), &Action::Keep);
        assert_eq!(of("gone"), &Action::Remove);
        assert!(matches!(of("fresh"), Action::Create(fields) if fields.len() == 3));
        assert!(matches!(of("reorder"), Action::Refresh(changes) if changes.len() == 1));
        assert!(matches!(of("new-image"), Action::Replace(changes) if changes.len() == 1));
        let volume = DataVolume { path: "/var/x".parse().unwrap(), owner: Default::default() };
        let keep = configs.get_mut(&"keep".parse::<InstanceName>().unwrap()).unwrap();
        keep.settings.data.insert("var".parse().unwrap(), volume);
        let afresh = host_actions(&spec, &shop, &configs, true);
        let of = |name: &str| &afresh[&name.parse::<InstanceName>().unwrap()];
        assert!(matches!(of("gone"), Action::Remove));
        assert!(matches!(of("fresh"), Action::Create(_)));
        let data = ["var".parse().unwrap()].into();
        assert!(
            matches!(of("keep"), Action::Recreate(changes, kept) if !changes.is_empty() && *kept == data)
        );
        for name in ["new-image", "reorder"] {
            assert!(
                matches!(of(name), Action::Recreate(changes, kept) if changes.len() == 1 && kept.is_empty())
            );
        }
    }
}
