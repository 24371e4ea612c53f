//! A placed fleet in the desired state of one host, and what that changes there.

use std::collections::BTreeMap;

use crate::diff::{FieldChange, config_fields};
use crate::host::HostSpec;
use crate::name::{FleetName, InstanceId, InstanceName};
use crate::peers::Peer;
use crate::spec::{InstanceConfig, InstanceSpec, RunState};
use crate::update::{Update, update};

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
    /// It is changed as it runs, without a new container.
    Refresh(Vec<FieldChange>),
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
