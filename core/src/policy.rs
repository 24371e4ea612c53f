//! What a host's own root allows, whatever a controller asks for.

use serde::{Deserialize, Serialize};

use crate::host::HostFacts;

/// The host's policy: `/etc/shoal/policy.toml`. The defaults are the safe ones.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Policy {
    /// Whether an instance may run without a user namespace where the kernel can't give it one.
    pub user_namespace: UserNamespace,
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
         user-namespace = \"if-possible\" in the host's /etc/shoal/policy.toml"
    )]
    NoUserNamespace {
        /// The host's kernel release.
        kernel: String,
    },
}

impl Policy {
    /// How this host isolates an instance.
    ///
    /// # Errors
    /// Where the host can't do what its policy requires.
    pub fn isolation(&self, facts: &HostFacts) -> Result<Isolation, Refused> {
        match (facts.idmapped_squashfs, self.user_namespace) {
            (true, _) => Ok(Isolation::UserNamespace),
            (false, UserNamespace::IfPossible) => Ok(Isolation::Shared),
            (false, UserNamespace::Required) => {
                Err(Refused::NoUserNamespace { kernel: facts.kernel.clone() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_isolation_is_never_silent() {
        let can = HostFacts { idmapped_squashfs: true, ..HostFacts::default() };
        let cannot = HostFacts { kernel: "5.10.0".into(), ..HostFacts::default() };
        let lax = Policy { user_namespace: UserNamespace::IfPossible };
        assert_eq!(Policy::default().isolation(&can), Ok(Isolation::UserNamespace));
        assert_eq!(lax.isolation(&can), Ok(Isolation::UserNamespace));
        assert_eq!(lax.isolation(&cannot), Ok(Isolation::Shared));
        let refused = Policy::default().isolation(&cannot).unwrap_err().to_string();
        assert!(refused.contains("5.10.0") && refused.contains("policy.toml"), "{refused}");
    }
}
