//! A fleet as its user declares it, and its revisions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::image::ImageRef;
use crate::infra::Infra;
use crate::label::HostMatch;
use crate::name::{CredentialName, FleetName, InstanceName};
use crate::rollout::Policy;
use crate::secret::SecretName;
use crate::spec::{EnvName, Settings, Vars};

/// What a fleet file says, complete in itself: the contents of local files are in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FleetSpec {
    /// The fleet's name.
    pub fleet: FleetName,
    /// Its instances.
    pub instances: BTreeMap<InstanceName, DeclaredInstance>,
    /// How a new revision gets onto the hosts.
    #[serde(default)]
    pub rollout: Policy,
    /// The infra's version, where this is the infra.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub infra: Option<Infra>,
}

/// One instance of a fleet file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DeclaredInstance {
    /// Its image; resolved to a digest when it is applied.
    pub image: ImageRef,
    /// The hosts that run one each.
    pub hosts: HostMatch,
    /// How many of these hosts run one; all where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// All the rest, with the variables that hold everywhere.
    pub settings: Settings,
    /// Variables that hold on some hosts only, in place of those that hold everywhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<Override>,
    /// Settings whose text depends on variables, and so on the host.
    #[serde(default, skip_serializing_if = "Templates::is_empty")]
    pub templates: Templates,
    /// Its secrets; their versions are pinned when it is applied. [`Settings::secrets`] has none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<CredentialName, SecretName>,
}

/// Variables that hold on some hosts only. Those for a named host go before those for labels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Override {
    /// The hosts.
    pub hosts: HostMatch,
    /// The variables: just those that the instance uses.
    pub vars: Vars,
}

/// Settings that are templates. They are rendered when the fleet is placed, once for each host,
/// so that what a host is told is plain.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Templates {
    /// Of the environment; [`Settings::env`] does not have these.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<EnvName, String>,
    /// Of the network's address; its link has none then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

impl Templates {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
