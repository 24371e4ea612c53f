//! A host: who it is, what it is like, and the whole of what it should run.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::agent_upgrade::AgentSpec;
use crate::image::{Digest, PinnedImage};
use crate::infra::HostInfra;
use crate::label::Labels;
use crate::name::{FleetName, HostId, HostName};
use crate::peers::Peer;
use crate::policy::Policy;
use crate::spec::InstanceSpec;
use crate::time::Timestamp;

/// An enrolled host, as far as choosing hosts needs to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The controller's name for it.
    pub id: HostId,
    /// People's name for it.
    pub name: HostName,
    /// Its labels.
    pub labels: Labels,
    /// What it is like; `None` where its agent has not said so yet.
    pub facts: Option<HostFacts>,
    /// Why it takes no new instances; `None` where it does.
    pub cordon: Option<Cordon>,
}

impl Host {
    /// How other hosts reach it, as far as that is known.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        self.facts.as_ref()?.address
    }
}

/// Why a host takes no new instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cordon {
    /// Who said so: a SPIFFE id.
    pub by: String,
    /// What they said; may be empty.
    pub reason: String,
    /// When.
    pub since: Timestamp,
    /// Whether those that are there have to go, too.
    pub drains: bool,
}

impl Cordon {
    /// Who said so, in short: `ann` of a person, `ci/deploy` of anything else.
    #[must_use]
    pub fn who(&self) -> &str {
        let path = self.by.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/'));
        let path = path.map_or(self.by.as_str(), |(_, path)| path);
        path.strip_prefix("user/").unwrap_or(path)
    }
}

/// `cordoned (ann: bad disk)`, after "is".
impl fmt::Display for Cordon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.drains { "drained" } else { "cordoned" };
        match self.reason.as_str() {
            "" => write!(f, "{state} ({})", self.who()),
            reason => write!(f, "{state} ({}: {reason})", self.who()),
        }
    }
}

/// What an agent found out about its host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// `PRETTY_NAME` of os-release.
    pub os: String,
    /// Kernel release, as `uname -r` shows it.
    pub kernel: String,
    /// Architecture in systemd's spelling: `x86-64`, `arm64`.
    pub architecture: String,
    /// Version of systemd, such as `252`.
    pub systemd: String,
    /// Logical CPUs online.
    pub cpus: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes in the file system of the state directory.
    pub disk_total: u64,
    /// Bytes free there for root.
    pub disk_free: u64,
    /// Whether the kernel can idmap squashfs mounts, which a user namespace on an image needs.
    pub idmapped_squashfs: bool,
    /// Version of the agent.
    pub agent: String,
    /// The kernel's random id of this boot.
    pub boot_id: String,
    /// The address by which other hosts reach it: that of its end of the controller's stream.
    pub address: Option<IpAddr>,
    /// Files that one process may have open at most (`fs.nr_open`); 0 where it is not known.
    pub max_files: u64,
    /// Processes and threads that there may be at most; 0 where it is not known.
    pub max_tasks: u64,
    /// What its root allows.
    pub policy: Policy,
}

/// The whole desired state of one host. Pushed whole, accepted whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSpec {
    /// Rises with each change of the content.
    pub generation: u64,
    /// Every instance that the host should have, ordered by id.
    pub instances: Vec<InstanceSpec>,
    /// Where the instances of its fleets are, on this host and on others, ordered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<Peer>,
    /// Images that a revision to come needs: to be there, and not to be used yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stage: Vec<PinnedImage>,
    /// The agent that it should run; `None`: whatever is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentSpec>,
    /// Its infra.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub infra: Option<HostInfra>,
    /// What going back would need: not removed where it is there, and not fetched where it is not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keep: Vec<Keep>,
}

/// The images that one fleet had on a host in the revision that it would go back to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Keep {
    /// Whose they are.
    pub fleet: FleetName,
    /// Which, ordered.
    pub images: Vec<Digest>,
}

impl HostSpec {
    /// This, keeping `images` for `fleet` and what others keep as before.
    #[must_use]
    pub fn keeping(mut self, fleet: &FleetName, images: BTreeSet<Digest>) -> Self {
        self.keep.retain(|keep| keep.fleet != *fleet);
        if !images.is_empty() {
            let images = images.into_iter().collect();
            self.keep.push(Keep { fleet: fleet.clone(), images });
        }
        self.keep.sort();
        self
    }

    /// `after`, which takes the place of this one, under a generation that the host takes too:
    /// it has `seen` newer ones than this where the store was restored from a backup.
    #[must_use]
    pub fn followed_by(&self, after: Self, seen: u64) -> Self {
        if seen > self.generation { Self { generation: seen + 1, ..after } } else { after }
    }
}

/// Why an agent refuses a desired state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecRefused {
    /// A newer one was accepted before.
    #[error("generation {offered} is older than generation {accepted}, accepted before")]
    Older {
        /// What was offered.
        offered: u64,
        /// What the ledger holds.
        accepted: u64,
    },
    /// The same generation came with other content.
    #[error("generation {generation} was accepted before with other content")]
    Differs {
        /// The generation of both.
        generation: u64,
    },
}

/// Whether `offered` may take the place of `accepted` (omicron's ledger rule).
///
/// `Ok(true)` says that it is new, `Ok(false)` that it is what is there.
///
/// # Errors
/// Where it is older, or equal in generation and not in content.
pub fn accept(accepted: Option<&HostSpec>, offered: &HostSpec) -> Result<bool, SpecRefused> {
    let Some(accepted) = accepted else { return Ok(true) };
    if offered.generation < accepted.generation {
        let (offered, accepted) = (offered.generation, accepted.generation);
        return Err(SpecRefused::Older { offered, accepted });
    }
    if offered.generation > accepted.generation {
        return Ok(true);
    }
    if offered == accepted {
        return Ok(false);
    }
    Err(SpecRefused::Differs { generation: offered.generation })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests_support::instance;

    #[test]
    fn a_restored_store_catches_up_with_its_hosts() {
        let spec = |generation| HostSpec { generation, ..HostSpec::default() };
        assert_eq!(spec(5).followed_by(spec(6), 5), spec(6));
        assert_eq!(spec(5).followed_by(spec(5), 4), spec(5));
        assert_eq!(spec(5).followed_by(spec(6), 9), spec(10), "above what the host has seen");
        assert_eq!(spec(5).followed_by(spec(5), 9), spec(10), "also where nothing else changed");
    }

    #[test]
    fn a_cordon_says_who_and_why() {
        let cordon = |by: &str, reason: &str, drains| {
            let (by, reason, since) = (by.to_owned(), reason.to_owned(), Timestamp(1));
            Cordon { by, reason, since, drains }.to_string()
        };
        let ann = "spiffe://fleet.example.org/user/ann";
        assert_eq!(cordon(ann, "bad disk", false), "cordoned (ann: bad disk)");
        assert_eq!(cordon(ann, "", true), "drained (ann)");
        let ci = "spiffe://fleet.example.org/ci/deploy";
        assert_eq!(cordon(ci, "", false), "cordoned (ci/deploy)");
    }

    #[test]
    fn a_generation_is_accepted_once_and_never_backwards() {
        let spec =
            |generation, instances| HostSpec { generation, instances, ..HostSpec::default() };
        let old = spec(3, vec![]);
        assert_eq!(accept(None, &old), Ok(true));
        assert_eq!(accept(Some(&old), &old.clone()), Ok(false));
        assert_eq!(accept(Some(&old), &spec(4, vec![])), Ok(true));
        assert_eq!(
            accept(Some(&old), &spec(2, vec![])),
            Err(SpecRefused::Older { offered: 2, accepted: 3 })
        );
        assert_eq!(
            accept(Some(&old), &spec(3, vec![instance("a/b", 1)])),
            Err(SpecRefused::Differs { generation: 3 })
        );
    }

    #[test]
    fn what_is_kept_is_each_fleets_own() {
        let spec = HostSpec { generation: 3, ..HostSpec::default() };
        let (shop, mail) = ("shop".parse().unwrap(), "mail".parse().unwrap());
        let keeps = spec.clone().keeping(&shop, [[1; 32].into(), [2; 32].into()].into());
        let both = keeps.clone().keeping(&mail, [[3; 32].into()].into());
        assert_eq!(both.keep.iter().map(|keep| keep.images.len()).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(both.keeping(&mail, BTreeSet::new()), keeps);
        assert_eq!(keeps.keeping(&shop, BTreeSet::new()), spec);
    }
}
