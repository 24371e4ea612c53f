//! Infra versions: what a host's platform is, and how far the host is on its way to it.
//!
//! The infra is one fleet, named [`FLEET`], whose file also says a version. A host keeps the version
//! with its data. Where the wanted one differs, every container of the host is made afresh, those
//! of the infra first, and the version is written down last. How, is for [`crate::plan`] to say.
//!
//! Deliberately absent: any order of versions. People write them, and they are equal or not.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::agent_program::AgentVersion;
use crate::name::{BackupName, FleetName, InfraVersion};
use crate::time::Timestamp;

/// The name of the fleet that is the infra.
pub const FLEET: &str = "infra";

/// Whether `fleet` is the infra.
#[must_use]
pub fn is_infra(fleet: &FleetName) -> bool {
    fleet.as_str() == FLEET
}

/// What an infra file says besides its instances.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Infra {
    /// The version.
    pub version: InfraVersion,
    /// Whether the data volumes of a host are copied before its version changes.
    #[serde(default)]
    pub snapshot: bool,
    /// What goes back where a version does not prove good.
    #[serde(default)]
    pub going_back: GoingBack,
    /// The backup that a host without a recorded version gets its data from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<BackupName>,
    /// The version that the agents are to have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentVersion>,
}

/// What goes back where a version does not prove good.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GoingBack {
    /// Images and settings; data stays as the failed version left it.
    #[default]
    Image,
    /// Data, too, from the snapshot.
    ImageAndData,
}

/// The infra that one host should have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HostInfra {
    /// The version.
    pub version: InfraVersion,
    /// The revision of the infra's fleet that it comes from. Names the snapshot taken before it.
    pub revision: u64,
    /// Whether the data volumes are copied before the version changes.
    #[serde(default)]
    pub snapshot: bool,
    /// What goes back where it does not prove good.
    #[serde(default)]
    pub going_back: GoingBack,
    /// Put back the data that was there before this revision was tried, where a snapshot was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<u64>,
    /// The backup that data comes from where no version is recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<BackupName>,
    /// The agent that comes before it: nothing is stopped until the host runs that. Which program
    /// that is, the host's desired state says beside this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentVersion>,
}

impl HostInfra {
    /// What a host is to have under `infra` of `revision`.
    #[must_use]
    pub fn of(infra: &Infra, revision: u64) -> Self {
        let Infra { version, snapshot, going_back, restore, agent } = infra.clone();
        Self { version, revision, snapshot, going_back, undo: None, restore, agent }
    }

    /// This one, to go back to after `tried` did not prove good. The way back waits for no agent.
    #[must_use]
    pub fn instead_of(&self, tried: &Self) -> Self {
        let data = tried.going_back == GoingBack::ImageAndData;
        Self { undo: data.then_some(tried.revision), agent: None, ..self.clone() }
    }
}

/// What a host keeps with its data.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Recorded {
    /// The version that the host last got to, with all gates passed; `None` on a new host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<InfraVersion>,
    /// When.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// The backup that the data came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restored: Option<BackupName>,
}

/// How a host gets to a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// It has it: nothing is done.
    Same,
    /// It has none, and no backup is named.
    New,
    /// It has another.
    Update,
    /// It has none, and gets its data from a backup first.
    Restore,
}

impl Mode {
    /// Of a host that has `has` and is to have `wants`.
    #[must_use]
    pub fn of(
        has: Option<&InfraVersion>,
        wants: &InfraVersion,
        restore: Option<&BackupName>,
    ) -> Self {
        match has {
            Some(has) if has == wants => Self::Same,
            Some(_) => Self::Update,
            None if restore.is_some() => Self::Restore,
            None => Self::New,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Same => "same",
            Self::New => "new",
            Self::Update => "update",
            Self::Restore => "restore",
        })
    }
}

/// How far a host is with its infra.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// It has what it wants, and has written it down.
    #[default]
    Done,
    /// Nothing is disturbed yet: images, secrets, room are awaited.
    Preparing,
    /// Containers of another version stop, those of apps first.
    Stopping,
    /// All are down, and data is copied or put back.
    Data,
    /// Containers are made afresh and start, those of the infra first.
    Starting,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Done => "done",
            Self::Preparing => "preparing",
            Self::Stopping => "stopping",
            Self::Data => "data",
            Self::Starting => "starting",
        })
    }
}

/// What a host says of its infra.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Status {
    /// The version that it has written down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub has: Option<InfraVersion>,
    /// Since when it has had it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// The version that it is being brought to; `None` where no infra is wanted any more. After its
    /// agent went back by itself, the one that it went back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wants: Option<InfraVersion>,
    /// How far it is.
    pub phase: Phase,
    /// What it waits for, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<String>,
    /// Revisions whose snapshots are on the host, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_follows_from_what_is_recorded() {
        let (one, two) = ("1".parse().unwrap(), "2".parse().unwrap());
        let backup = "nightly".parse().unwrap();
        assert_eq!(Mode::of(Some(&one), &one, Some(&backup)), Mode::Same);
        assert_eq!(Mode::of(Some(&one), &two, Some(&backup)), Mode::Update);
        assert_eq!(Mode::of(None, &two, Some(&backup)), Mode::Restore);
        assert_eq!(Mode::of(None, &two, None), Mode::New);
    }

    #[test]
    fn data_goes_back_only_where_the_version_that_was_tried_says_so() {
        let infra = |going_back| Infra {
            version: "1".parse().unwrap(),
            snapshot: true,
            going_back,
            restore: None,
            agent: None,
        };
        let (image, data) = (infra(GoingBack::Image), infra(GoingBack::ImageAndData));
        let (image, data) = (HostInfra::of(&image, 3), HostInfra::of(&data, 4));
        assert_eq!(image.instead_of(&data).undo, Some(4));
        assert_eq!(data.instead_of(&image).undo, None);
    }

    #[test]
    fn the_way_back_waits_for_no_agent() {
        let (agent, version) = (Some("0.3.0".parse().unwrap()), "1".parse().unwrap());
        let going_back = GoingBack::Image;
        let infra = Infra { version, snapshot: false, going_back, restore: None, agent };
        let good = HostInfra::of(&infra, 3);
        assert_eq!(good.agent, infra.agent);
        assert_eq!(good.instead_of(&good).agent, None);
    }
}
