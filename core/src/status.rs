//! What was observed: of a host, and of each of its instances.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::agent_upgrade::AgentStatus;
use crate::image::{Digest, ImageRef};
use crate::infra;
use crate::name::{HostId, InstanceId, MachineName, VolumeName};
use crate::time::Timestamp;
use crate::transfer::{RecipeId, TransferStatus};

/// What an agent reports of its host. Reflects one generation of desired state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostStatus {
    /// The generation that this status was observed against.
    pub observed_generation: u64,
    /// Every instance that is wanted or still there, ordered by id.
    pub instances: Vec<InstanceStatus>,
    /// Images that are staged: complete and verified.
    pub images: Vec<Digest>,
    /// Data of instances that are no longer wanted.
    pub retained: Vec<RetainedData>,
    /// What is wrong with the host as a whole, for people.
    pub problems: Vec<String>,
    /// How it gets on with the agent that it should run; `None` where none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentStatus>,
    /// Its infra, where it has one or is to have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub infra: Option<infra::Status>,
    /// Images that are on their way, and those that came last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub transfers: Vec<TransferStatus>,
    /// Recipes of which other hosts can get all from this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub serves: Vec<RecipeId>,
}

/// Data volumes that an instance left behind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RetainedData {
    /// Whose they were.
    pub machine: MachineName,
    /// Their names.
    pub volumes: Vec<VolumeName>,
}

/// What is known of one instance on one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceStatus {
    /// Which instance.
    pub id: InstanceId,
    /// The revision of its fleet that is wanted.
    pub revision: u64,
    /// The image that it runs, or would run.
    pub image: ImageRef,
    /// That image's file.
    pub digest: Digest,
    /// Where it is in its life.
    pub state: State,
    /// What its checks say.
    pub health: Health,
    /// Since when it has been in this state and health.
    pub since: Timestamp,
    /// Whether the container there was made from what is wanted now.
    pub current: bool,
    /// The container's first process, as the host numbers it.
    pub leader: Option<u32>,
    /// How often systemd has started it again since it was last put in place.
    pub restarts: u32,
    /// First of the host's user numbers that are the instance's own; `None` without a user
    /// namespace.
    pub uid_base: Option<u32>,
    /// Why it is as it is, for people; the last error where there is one.
    pub message: Option<String>,
    /// Whether an operator has asked the agent to keep its hands off.
    pub paused: bool,
    /// What was found not to be as it should, and is being repaired or waits for it.
    pub drift: Vec<String>,
    /// How it ended the last time that it did without being told to.
    pub last_exit: Option<LastExit>,
    /// Why the agent took it back to what had proved healthy before; `None` where it runs, or is
    /// being brought to, what is wanted.
    pub went_back: Option<String>,
    /// The addresses of its own network, as seen inside.
    pub addresses: Vec<IpAddr>,
}

/// How a container ended without being told to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastExit {
    /// When.
    pub at: Timestamp,
    /// How, for people: `exit code 1`, `killed by SIGKILL`, `out of memory`.
    pub reason: String,
}

/// Where an instance is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Nothing was done yet.
    Pending,
    /// Its image is on the way.
    Staging,
    /// Not allowed or not possible on this host; the message says why.
    Blocked,
    /// Being started.
    Starting,
    /// Running.
    Running,
    /// Being stopped, to be replaced, removed or left stopped.
    Stopping,
    /// Stopped, as an operator wants it.
    Stopped,
    /// Could not be started, or ended by itself; tried again with growing pauses.
    Failed,
    /// Not as wanted although it was repaired over and over; still tried, once in a while. It may
    /// run or not.
    Degraded,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pending => "pending",
            Self::Staging => "staging",
            Self::Blocked => "blocked",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Degraded => "degraded",
        })
    }
}

/// What an instance's checks say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// There is nothing to check, or nothing runs.
    None,
    /// No check has passed yet and the grace period is not over.
    Starting,
    /// Every check passes.
    Healthy,
    /// A check has failed too often, or none passed in the grace period.
    Unhealthy,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::None => "-",
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        })
    }
}

/// Whether an instance has reached what is wanted of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It has, and there is proof.
    Ready,
    /// Not yet; the text says what is awaited.
    Waiting(String),
    /// It has not, and waiting alone will not help; the text says why.
    Failed(String),
}

impl InstanceStatus {
    /// Whether the instance has reached what is wanted of it: running from the wanted
    /// configuration and, where there are checks, passing them; or stopped, where that is wanted.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let why = || self.message.clone().unwrap_or_else(|| "no reason was given".into());
        if let Some(why) = &self.went_back {
            return Verdict::Failed(format!("the agent went back to what was healthy: {why}"));
        }
        match (self.state, self.health) {
            (State::Stopped, _) => Verdict::Ready,
            (State::Failed | State::Blocked | State::Degraded, _) => Verdict::Failed(why()),
            (_, _) if self.paused && !self.current => {
                Verdict::Waiting("is paused; `shoal unpause` lets the agent at it again".into())
            }
            (State::Running, _) if !self.current => {
                let before = "still runs what was wanted before";
                Verdict::Waiting(match &self.message {
                    Some(message) => format!("{before}: {message}"),
                    None => before.into(),
                })
            }
            (State::Running, Health::Unhealthy) => Verdict::Failed(why()),
            (State::Running, Health::Starting) => Verdict::Waiting("waits for its checks".into()),
            (State::Running, Health::Healthy | Health::None) => Verdict::Ready,
            (state, _) => Verdict::Waiting(match &self.message {
                Some(message) => format!("{state}: {message}"),
                None => state.to_string(),
            }),
        }
    }
}

/// Whether a host's agent is there, and since when it has (not) been.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// Which host.
    pub host: HostId,
    /// Whether its agent's stream is open and its heartbeats come.
    pub online: bool,
    /// Since when.
    pub since: Timestamp,
    /// When the agent was last heard.
    pub last_heard: Timestamp,
}
