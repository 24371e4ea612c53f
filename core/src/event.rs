//! What happened on a host, for people.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::name::InstanceId;
use crate::time::Timestamp;

/// One thing that an agent did or noticed, with the reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// Of which instance; `None` where it is of the host.
    pub instance: Option<InstanceId>,
    /// What kind of thing.
    pub kind: EventKind,
    /// What and why.
    pub message: String,
}

/// What kind of thing happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// The agent took a step towards what is wanted.
    Step,
    /// Something was found not to be as it should.
    Drift,
    /// The agent put that right.
    Repaired,
    /// An instance ended, or a step could not be done.
    Failed,
    /// An instance changed its state or health.
    State,
    /// The agent went back to what had proved healthy.
    WentBack,
}

impl EventKind {
    /// Every one.
    pub const ALL: [Self; 6] =
        [Self::Step, Self::Drift, Self::Repaired, Self::Failed, Self::State, Self::WentBack];

    /// Whether it is something to look at.
    #[must_use]
    pub fn is_warning(self) -> bool {
        matches!(self, Self::Drift | Self::Failed | Self::WentBack)
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Step => "step",
            Self::Drift => "drift",
            Self::Repaired => "repaired",
            Self::Failed => "failed",
            Self::State => "state",
            Self::WentBack => "went-back",
        })
    }
}
