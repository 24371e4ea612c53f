//! What completion knows of the world: the little of each answer that a candidate needs.
//!
//! What has no proper name is left out here, so that no candidate can be anything but one.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use shoal_core::image::{Digest, ImageRef};
use shoal_core::label::parse_label;
use shoal_core::name::{FleetName, HostName, InstanceId};
use shoal_core::secret::SecretName;
use shoal_core::status::InstanceStatus;
use shoal_proto::v1;

/// Where completion learns what there is. Who can't be asked has nothing.
pub(crate) trait Source: Send + Sync {
    fn hosts(&self) -> Vec<Host>;
    fn fleets(&self) -> Vec<Fleet>;
    fn instances(&self) -> Vec<Instance>;
    fn images(&self) -> Vec<Image>;
    fn secrets(&self) -> Vec<Secret>;
    /// Asks no controller.
    fn contexts(&self) -> Vec<Context>;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) online: bool,
    pub(crate) labels: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fleet {
    pub(crate) name: String,
    pub(crate) revision: u64,
}

/// One instance on one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Instance {
    /// `FLEET/INSTANCE`.
    pub(crate) id: String,
    pub(crate) host: String,
    pub(crate) state: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Image {
    pub(crate) digest: String,
    pub(crate) references: Vec<String>,
    /// How many instances use it.
    pub(crate) uses: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Secret {
    pub(crate) name: String,
    pub(crate) version: u64,
    /// How many instances use it.
    pub(crate) uses: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Context {
    pub(crate) name: String,
    pub(crate) controller: String,
    pub(crate) current: bool,
}

impl Host {
    pub(crate) fn read(wire: v1::Host) -> Option<Self> {
        let v1::Host { name, online, labels, .. } = wire;
        let name: HostName = name.parse().ok()?;
        let labels = labels
            .into_iter()
            .filter_map(|(key, value)| parse_label(&format!("{key}={value}")).ok());
        Some(Self { name: name.to_string(), online, labels: labels.collect() })
    }
}

impl Fleet {
    pub(crate) fn read(wire: v1::Fleet) -> Option<Self> {
        let v1::Fleet { name, revision, .. } = wire;
        let name: FleetName = name.parse().ok()?;
        Some(Self { name: name.to_string(), revision })
    }
}

impl Instance {
    pub(crate) fn read(wire: v1::Instance) -> Option<Self> {
        let v1::Instance { host, host_online, wanted, observed, .. } = wire;
        let named = wanted.map(|wanted| wanted.id);
        let id = named.or_else(|| observed.as_ref().map(|observed| observed.id.clone()))?;
        let (id, host): (InstanceId, HostName) = (id.parse().ok()?, host.parse().ok()?);
        let observed = observed.and_then(|observed| InstanceStatus::try_from(observed).ok());
        let state = match observed {
            _ if !host_online => "host offline".to_owned(),
            Some(observed) => observed.state.to_string(),
            None => "unknown".to_owned(),
        };
        Some(Self { id: id.to_string(), host: host.to_string(), state })
    }
}

impl Image {
    pub(crate) fn read(wire: v1::Image) -> Option<Self> {
        let v1::Image { digest, references, used_by, .. } = wire;
        let digest: [u8; 32] = digest.as_ref().try_into().ok()?;
        let is_named = |reference: &String| reference.parse::<ImageRef>().is_ok();
        let references = references.into_iter().filter(is_named).collect();
        let digest = Digest::from(digest).to_string();
        Some(Self { digest, references, uses: used_by.len() })
    }
}

impl Secret {
    pub(crate) fn read(wire: v1::Secret) -> Option<Self> {
        let v1::Secret { name, version, used_by, .. } = wire;
        let name: SecretName = name.parse().ok()?;
        let users = used_by.into_iter().map(|used| (used.instance, used.host));
        let uses = users.collect::<BTreeSet<_>>().len();
        Some(Self { name: name.to_string(), version, uses })
    }
}
