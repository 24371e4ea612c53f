//! What a host's own root allows, whatever a controller asks for.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::host::HostFacts;
use crate::spec::{
    Capability, HostPath, InterfaceName, Memory, Mount, Network, Security, Settings, SystemCalls,
    TooMuch,
};

/// The host's policy: `/etc/shoal/policy.toml`. The defaults are the safe ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Policy {
    /// Whether an instance may run without a user namespace.
    pub user_namespace: UserNamespace,
    /// Whether an instance may be in the host's own network.
    pub host_network: bool,
    /// The bridges that instances may be on; any where nothing is said.
    pub bridges: Option<BTreeSet<InterfaceName>>,
    /// The capabilities that an instance may have besides the usual ones.
    pub capabilities: BTreeSet<Capability>,
    /// Whether a program inside may gain what its caller has not, as sudo does.
    pub new_privileges: bool,
    /// The system calls that an instance may make besides the usual ones.
    pub system_calls: BTreeSet<SystemCalls>,
    /// What of the host instances may be shown.
    pub bind: Vec<AllowedBind>,
    /// Whether the controller may bring another agent, which runs as root.
    pub agent_upgrade: bool,
    /// Whether images are served to other hosts, and where; not where nothing is said.
    pub peers: Option<PeerPolicy>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            user_namespace: UserNamespace::Required,
            host_network: true,
            bridges: None,
            capabilities: BTreeSet::new(),
            new_privileges: true,
            system_calls: BTreeSet::new(),
            bind: Vec::new(),
            agent_upgrade: true,
            peers: None,
        }
    }
}

/// How images are served to other hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PeerPolicy {
    /// Where the agent listens for the agents of other hosts. With an unspecified address, they
    /// are told the one by which the host reaches its controller.
    pub listen: SocketAddr,
    /// Bytes in a second that go to all of them together; as many as there can be where nothing
    /// is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Memory>,
}

/// A path of the host that instances may be shown, and everything in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct AllowedBind {
    /// The path. A symbolic link in a path below it is never followed.
    pub path: HostPath,
    /// Whether instances may write there.
    #[serde(default)]
    pub writable: bool,
    /// Whether user numbers inside are the same numbers on the host's disk. Where they may write,
    /// a file of their root is then the host's root's: keep such a place out of users' reach.
    #[serde(default)]
    pub idmap: bool,
}

/// What to do where the kernel can't idmap squashfs, and so no user namespace can be had.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UserNamespace {
    /// Refuse to run the instance.
    #[default]
    Required,
    /// Run it without: root inside is then root outside.
    IfPossible,
    /// The same, and also where the instance asks for it.
    Optional,
}

/// How an instance is kept apart from the host's users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// A user namespace: root inside is nobody outside.
    UserNamespace,
    /// None, with the policy's leave.
    Shared,
}

/// Why a host will not run an instance.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No user namespace can be had and the policy requires one.
    #[error(
        "kernel {kernel} can't idmap squashfs mounts, so the instance can't have a user namespace; \
         use a newer kernel (6.18 can), or allow to run without one by \
         user-namespace = \"if-possible\" in {POLICY}"
    )]
    NoUserNamespace {
        /// The host's kernel release.
        kernel: String,
    },
    /// The instance asks to run without one.
    #[error(
        "security.private-users = false makes root inside root outside, and the host's policy does \
         not allow it; leave it out, or write user-namespace = \"optional\" in {POLICY}"
    )]
    SharedUsers,
    /// The instance asks for the host's network.
    #[error(
        "network = \"host\" is not allowed by the host's policy; use another, or write \
         host-network = true in {POLICY}"
    )]
    HostNetwork,
    /// The instance asks for a bridge.
    #[error(
        "bridge {bridge} is not among those that the host's policy allows; add it to `bridges` in \
         {POLICY}"
    )]
    Bridge {
        /// The bridge.
        bridge: InterfaceName,
    },
    /// The instance asks for a capability.
    #[error(
        "capability {capability} is not among those that the host's policy allows to add; add it \
         to `capabilities` in {POLICY}"
    )]
    Capability {
        /// The capability.
        capability: Capability,
    },
    /// The instance asks for sudo and the like to work.
    #[error(
        "security.new-privileges = true is not allowed by the host's policy; leave it out, or \
         write new-privileges = true in {POLICY}"
    )]
    NewPrivileges,
    /// The instance asks for system calls.
    #[error(
        "system calls {calls} are not among those that the host's policy allows; add them to \
         `system-calls` in {POLICY}"
    )]
    SystemCalls {
        /// The calls.
        calls: SystemCalls,
    },
    /// The instance asks to be shown a part of the host.
    #[error(
        "{path} of the host may not be shown{writable} to instances; allow it by a [[bind]] with \
         path = \"{path}\"{add} in {POLICY}", writable = if *.writable { " writable" } else { "" },
        add = if *.writable { " and writable = true" } else { "" }
    )]
    Bind {
        /// The path.
        path: HostPath,
        /// Whether it asks to write there.
        writable: bool,
    },
    /// The instance asks for more than there is.
    #[error(transparent)]
    TooMuch(#[from] TooMuch),
}

/// Where the policy is, for messages.
const POLICY: &str = "the host's /etc/shoal/policy.toml";

impl Policy {
    /// How this host isolates an instance of these settings.
    ///
    /// # Errors
    /// Everything that the host can't do, or that its policy does not allow.
    pub fn permits(
        &self,
        settings: &Settings,
        facts: &HostFacts,
    ) -> Result<Isolation, Vec<Refused>> {
        let mut refused = Vec::new();
        let isolation = self.isolation(&settings.security, facts);
        refused.extend(isolation.as_ref().err().cloned());
        refused.extend(self.network(&settings.network));
        refused.extend(self.privileges(&settings.security));
        refused.extend(settings.mounts.values().filter_map(|mount| self.bind(mount).err()));
        refused.extend(settings.limits.beyond(facts).into_iter().map(Refused::from));
        if refused.is_empty() { Ok(isolation.map_err(|e| vec![e])?) } else { Err(refused) }
    }

    fn isolation(&self, asked: &Security, facts: &HostFacts) -> Result<Isolation, Refused> {
        match (asked.private_users, facts.idmapped_squashfs, self.user_namespace) {
            (false, _, UserNamespace::Optional) => Ok(Isolation::Shared),
            (false, _, _) => Err(Refused::SharedUsers),
            (true, true, _) => Ok(Isolation::UserNamespace),
            (true, false, UserNamespace::Required) => {
                Err(Refused::NoUserNamespace { kernel: facts.kernel.clone() })
            }
            (true, false, UserNamespace::IfPossible | UserNamespace::Optional) => {
                Ok(Isolation::Shared)
            }
        }
    }

    fn network(&self, network: &Network) -> Option<Refused> {
        match network {
            Network::Host if !self.host_network => Some(Refused::HostNetwork),
            Network::Bridge(bridge, _) => {
                let known = self.bridges.as_ref().is_none_or(|bridges| bridges.contains(bridge));
                (!known).then(|| Refused::Bridge { bridge: bridge.clone() })
            }
            _ => None,
        }
    }

    fn privileges(&self, asked: &Security) -> Vec<Refused> {
        let capabilities = asked.capabilities_add.difference(&self.capabilities);
        let capabilities =
            capabilities.map(|capability| Refused::Capability { capability: capability.clone() });
        let calls = asked.system_calls_allow.difference(&self.system_calls);
        let calls = calls.map(|calls| Refused::SystemCalls { calls: calls.clone() });
        let gains = asked.new_privileges && !self.new_privileges;
        capabilities.chain(calls).chain(gains.then_some(Refused::NewPrivileges)).collect()
    }

    /// The entry of the policy that allows a mount.
    ///
    /// # Errors
    /// Where there is none.
    pub fn bind(&self, mount: &Mount) -> Result<&AllowedBind, Refused> {
        let allows = |entry: &&AllowedBind| {
            mount.source.is_in(&entry.path) && (entry.writable || !mount.writable)
        };
        // The innermost entry is the one that is about this path.
        let best = self.bind.iter().filter(allows).max_by_key(|entry| entry.path.as_str().len());
        let (path, writable) = (mount.source.clone(), mount.writable);
        best.ok_or(Refused::Bind { path, writable })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests_support::settings;

    fn can() -> HostFacts {
        HostFacts { idmapped_squashfs: true, ..HostFacts::default() }
    }

    fn refused(policy: &str, change: impl FnOnce(&mut Settings)) -> Vec<String> {
        let policy: Policy = toml::from_str(policy).unwrap();
        let mut settings = settings();
        change(&mut settings);
        let refused = policy.permits(&settings, &can()).err().unwrap_or_default();
        refused.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn less_isolation_is_never_silent() {
        let cannot = HostFacts { kernel: "5.10.0".into(), ..HostFacts::default() };
        let lax = Policy { user_namespace: UserNamespace::IfPossible, ..Policy::default() };
        let plain = settings();
        assert_eq!(Policy::default().permits(&plain, &can()), Ok(Isolation::UserNamespace));
        assert_eq!(lax.permits(&plain, &can()), Ok(Isolation::UserNamespace));
        assert_eq!(lax.permits(&plain, &cannot), Ok(Isolation::Shared));
        let refused = Policy::default().permits(&plain, &cannot).unwrap_err()[0].to_string();
        assert!(refused.contains("5.10.0") && refused.contains("policy.toml"), "{refused}");
        let shared = |s: &mut Settings| s.security.private_users = false;
        assert_eq!(refused_count("user-namespace = \"if-possible\"", shared), 1);
        assert_eq!(refused_count("user-namespace = \"optional\"", shared), 0);
    }

    fn refused_count(policy: &str, change: impl FnOnce(&mut Settings)) -> usize {
        refused(policy, change).len()
    }

    #[test]
    fn what_is_asked_for_by_name_is_refused_by_name() {
        let ask = |s: &mut Settings| {
            s.security.capabilities_add.insert("CAP_SYS_NICE".parse().unwrap());
            s.security.system_calls_allow.insert("@keyring".parse().unwrap());
            s.security.new_privileges = true;
            s.network = Network::Bridge("br1".parse().unwrap(), Default::default());
            let source = "/srv/media/a".parse().unwrap();
            let mount = Mount { source, writable: true, shared: false };
            s.mounts.insert("/media".parse().unwrap(), mount);
        };
        let strict = "bridges = [\"br0\"]\nnew-privileges = false\n[[bind]]\npath = \"/srv/media\"";
        let found = refused(strict, ask).join("\n");
        for word in ["CAP_SYS_NICE", "@keyring", "new-privileges", "bridge br1", "/srv/media/a"] {
            assert!(found.contains(word), "{word}: {found}");
        }
        let lax = "capabilities = [\"CAP_SYS_NICE\"]\nsystem-calls = [\"@keyring\"]\n\
                   [[bind]]\npath = \"/srv/media\"\nwritable = true";
        assert_eq!(refused(lax, ask), [""; 0]);
        assert_eq!(refused("host-network = false", |_| {}).len(), 1);
    }

    #[test]
    fn the_innermost_entry_decides() {
        let policy: Policy = toml::from_str(
            "[[bind]]\npath = \"/srv\"\n[[bind]]\npath = \"/srv/shop\"\nidmap = true",
        )
        .unwrap();
        let mount = |source: &str| Mount {
            source: source.parse().unwrap(),
            writable: false,
            shared: false,
        };
        assert!(policy.bind(&mount("/srv/shop/a")).unwrap().idmap);
        assert!(!policy.bind(&mount("/srv/x")).unwrap().idmap);
        assert!(policy.bind(&mount("/opt")).is_err());
    }
}
