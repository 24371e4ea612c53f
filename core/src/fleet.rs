//! A fleet as its user declares it, and its revisions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::image::ImageRef;
use crate::label::HostMatch;
use crate::name::{FleetName, InstanceName};
use crate::spec::Settings;

/// What a fleet file says, complete in itself: the contents of local files are in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FleetSpec {
    /// The fleet's name.
    pub fleet: FleetName,
    /// Its instances.
    pub instances: BTreeMap<InstanceName, DeclaredInstance>,
}

/// One instance of a fleet file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DeclaredInstance {
    /// Its image; resolved to a digest when it is applied.
    pub image: ImageRef,
    /// The hosts that run one each.
    pub hosts: HostMatch,
    /// All the rest.
    pub settings: Settings,
}
