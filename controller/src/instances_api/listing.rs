//! Instances as they are wanted and as they were last observed, joined.

use std::collections::BTreeSet;
use std::sync::Arc;

use shoal_core::host::{Host, HostSpec};
use shoal_core::name::InstanceId;
use shoal_core::status::HostStatus;
use shoal_proto::v1::{HostRetained, Instance};

use crate::inventory;
use crate::live::Live;
use crate::refusal::Refusal;
use crate::store::Records;

/// A host with what it should run and what it last reported.
#[derive(Debug, Clone)]
pub struct View {
    /// The host.
    pub host: Host,
    /// Whether its agent is connected.
    pub online: bool,
    /// When its agent was last heard, in milliseconds since the Unix epoch; 0: never.
    pub last_heard_ms: u64,
    /// What it should run.
    pub spec: HostSpec,
    /// What it last reported.
    pub status: Option<Arc<HostStatus>>,
}

/// Every host, ordered by name.
///
/// # Errors
/// The store fails, or a record in it is damaged.
pub async fn load(records: &Records, live: &Live) -> Result<Vec<View>, Refusal> {
    let hosts = inventory::hosts(records).await?;
    let mut specs = inventory::specs(records).await?;
    let view = |host: Host| {
        let presence = live.presence(&host.id);
        View {
            online: presence.as_ref().is_some_and(|presence| presence.online),
            last_heard_ms: presence.map_or(0, |presence| presence.last_heard.0),
            spec: specs.remove(&host.id).unwrap_or_default(),
            status: live.status(&host.id),
            host,
        }
    };
    Ok(hosts.into_iter().map(view).collect())
}

/// The instances that `of` picks, wanted or only observed, ordered by id and then by host name.
pub fn instances(hosts: &[View], of: impl Fn(&InstanceId) -> bool) -> Vec<Instance> {
    let mut found: Vec<(InstanceId, Instance)> = Vec::new();
    for view in hosts {
        for id in view.ids().into_iter().filter(|id| of(id)) {
            found.push((id.clone(), view.instance(id)));
        }
    }
    // Stable, so that hosts stay in their order.
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    found.into_iter().map(|(_, instance)| instance).collect()
}

/// Data of instances that are gone, of one fleet or of all.
#[must_use]
pub fn retained(hosts: &[View], fleet: &str) -> Vec<HostRetained> {
    let mut found = Vec::new();
    for view in hosts {
        let Some(status) = &view.status else { continue };
        for data in &status.retained {
            let machine = data.machine.as_str();
            if fleet.is_empty() || machine.starts_with(&format!("{fleet}-")) {
                let (host, data) = (view.host.name.to_string(), Some(data.clone().into()));
                found.push(HostRetained { host, data });
            }
        }
    }
    found
}

impl View {
    /// Whether the instance is wanted here, or still there.
    #[must_use]
    pub fn has(&self, id: &InstanceId) -> bool {
        self.ids().contains(id)
    }

    /// Whether the instance is wanted here.
    #[must_use]
    pub fn wants(&self, id: &InstanceId) -> bool {
        self.spec.instances.iter().any(|instance| instance.id == *id)
    }

    /// Every instance that is wanted here or still there.
    #[must_use]
    pub fn ids(&self) -> BTreeSet<&InstanceId> {
        let wanted = self.spec.instances.iter().map(|instance| &instance.id);
        let observed = self.status.iter().flat_map(|status| &status.instances);
        wanted.chain(observed.map(|instance| &instance.id)).collect()
    }

    fn instance(&self, id: &InstanceId) -> Instance {
        let wanted = self.spec.instances.iter().find(|instance| instance.id == *id);
        let observed = self.status.iter().flat_map(|status| &status.instances);
        let observed = observed.into_iter().find(|instance| instance.id == *id);
        Instance {
            host: self.host.name.to_string(),
            host_online: self.online,
            host_last_heard_ms: self.last_heard_ms,
            wanted: wanted.cloned().map(Into::into),
            observed: observed.cloned().map(Into::into),
        }
    }
}
