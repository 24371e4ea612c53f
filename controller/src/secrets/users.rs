//! Who names a secret: fleets in their newest revisions, hosts in their desired states.

use std::collections::{BTreeMap, BTreeSet};

use shoal_core::name::{FleetName, HostId, InstanceId};
use shoal_core::secret::SecretName;
use shoal_core::spec::Settings;

use crate::inventory;
use crate::refusal::Refusal;
use crate::store::Records;

/// An instance, the host that runs it or is about to, and the version that it gets.
pub(crate) type User = (InstanceId, HostId, u64);

/// Everyone who names any secret.
#[derive(Debug, Default)]
pub(crate) struct Users {
    fleets: BTreeMap<SecretName, BTreeSet<FleetName>>,
    instances: BTreeMap<SecretName, BTreeSet<User>>,
    /// Of `instances`, those of the desired states.
    told: BTreeMap<SecretName, BTreeSet<User>>,
}

impl Users {
    /// Reads them. The fleets are read first, and that order matters: a use that is neither in a
    /// fleet then nor in a desired state later can only come of a new revision, and that touches
    /// the secret's head.
    ///
    /// # Errors
    /// The store fails, or a record in it is damaged.
    pub(crate) async fn load(records: &Records) -> Result<Self, Refusal> {
        let mut users = Self::default();
        for revision in inventory::newest_revisions(records).await? {
            let declared = revision.spec.instances.values();
            for name in declared.flat_map(|declared| declared.secrets.values()) {
                users.fleets.entry(name.clone()).or_default().insert(revision.fleet.clone());
            }
            for (host, configs) in &revision.hosts {
                for (instance, config) in configs {
                    let id =
                        InstanceId { fleet: revision.fleet.clone(), instance: instance.clone() };
                    add(&mut users.instances, &id, host, &config.settings);
                }
            }
        }
        for (host, spec) in inventory::specs(records).await? {
            for instance in &spec.instances {
                add(&mut users.instances, &instance.id, &host, &instance.config.settings);
                add(&mut users.told, &instance.id, &host, &instance.config.settings);
            }
        }
        Ok(users)
    }

    /// The fleets whose newest revision names `secret`.
    pub(crate) fn fleets(&self, secret: &SecretName) -> impl Iterator<Item = &FleetName> {
        self.fleets.get(secret).into_iter().flatten()
    }

    /// Who gets `secret`, by a newest revision or by a desired state.
    pub(crate) fn instances(&self, secret: &SecretName) -> impl Iterator<Item = &User> {
        self.instances.get(secret).into_iter().flatten()
    }

    /// Who gets it by a desired state.
    pub(crate) fn told(&self, secret: &SecretName) -> impl Iterator<Item = &User> {
        self.told.get(secret).into_iter().flatten()
    }
}

fn add(
    to: &mut BTreeMap<SecretName, BTreeSet<User>>,
    id: &InstanceId,
    host: &HostId,
    settings: &Settings,
) {
    for secret in settings.secrets.values() {
        let user = (id.clone(), host.clone(), secret.version);
        to.entry(secret.name.clone()).or_default().insert(user);
    }
}
