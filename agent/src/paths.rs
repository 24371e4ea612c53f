//! Where things are on a host (design: "A host"). Everything takes its paths from here, so that
//! tests run in a temporary directory.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use shoal_core::image::Digest;
use shoal_core::name::{MachineName, VolumeName};

use crate::files::{FileError, failed, make_private_dir};

/// The directories of one agent.
#[derive(Debug, Clone)]
pub struct Paths {
    /// What survives a reboot: `/var/lib/shoal`.
    pub state: PathBuf,
    /// What does not: `/run/shoal`.
    pub run: PathBuf,
    /// What the host's root decides: `/etc/shoal`.
    pub etc: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self { state: "/var/lib/shoal".into(), run: "/run/shoal".into(), etc: "/etc/shoal".into() }
    }
}

impl Paths {
    /// Makes the directories that the agent keeps things in, each for root only. The one above
    /// them is open to all, since a controller on the same host has its own beside them.
    ///
    /// # Errors
    /// Where one can't be made or closed.
    pub fn prepare(&self) -> Result<(), FileError> {
        let parent = fs::DirBuilder::new().recursive(true).mode(0o755).create(&self.state);
        parent.map_err(failed("make the directory", &self.state))?;
        let dirs = [
            self.agent(),
            self.secrets(),
            self.fallback(),
            self.images(),
            self.recipes(),
            self.agents(),
            self.instances(),
            self.snapshots(),
            self.backups(),
            self.mounts(),
        ];
        for dir in dirs {
            make_private_dir(&dir)?;
            let closed = fs::set_permissions(&dir, fs::Permissions::from_mode(0o700));
            closed.map_err(failed("close", &dir))?;
        }
        Ok(())
    }

    /// Identity, ledger and epoch.
    #[must_use]
    pub fn agent(&self) -> PathBuf {
        self.state.join("agent")
    }

    /// Secrets, encrypted for this host.
    #[must_use]
    pub fn secrets(&self) -> PathBuf {
        self.agent().join("secrets")
    }

    /// What each fleet can go back to.
    #[must_use]
    pub fn fallback(&self) -> PathBuf {
        self.agent().join("fallback")
    }

    /// Image files.
    #[must_use]
    pub fn images(&self) -> PathBuf {
        self.state.join("images")
    }

    /// What is kept of recipes, to pass images on to other hosts.
    #[must_use]
    pub fn recipes(&self) -> PathBuf {
        self.state.join("recipes")
    }

    /// Programs of the agent that are fetched or tried.
    #[must_use]
    pub fn agents(&self) -> PathBuf {
        self.state.join("agents")
    }

    /// One of them.
    #[must_use]
    pub fn agent_program(&self, digest: &Digest) -> PathBuf {
        self.agents().join(digest.to_string()).join("shoal-agent")
    }

    /// What is remembered of the agent's own upgrade.
    #[must_use]
    pub fn upgrade(&self) -> PathBuf {
        self.agent().join("upgrade.json")
    }

    /// All machines' state.
    #[must_use]
    pub fn instances(&self) -> PathBuf {
        self.state.join("instances")
    }

    /// What the host has recorded of its infra.
    #[must_use]
    pub fn infra(&self) -> PathBuf {
        self.state.join("infra.json")
    }

    /// Copies of data volumes, by the revision of the infra that they were taken before.
    #[must_use]
    pub fn snapshots(&self) -> PathBuf {
        self.state.join("snapshots")
    }

    /// Data volumes that others were put back in place of. Nothing here removes them.
    #[must_use]
    pub fn undone(&self) -> PathBuf {
        self.state.join("undone")
    }

    /// Where operators put backups that a host is to get its data from.
    #[must_use]
    pub fn backups(&self) -> PathBuf {
        self.state.join("backups")
    }

    /// One machine's state.
    #[must_use]
    pub fn instance(&self, machine: &MachineName) -> PathBuf {
        self.instances().join(machine.as_str())
    }

    /// The record that a machine's container is started from.
    #[must_use]
    pub fn record(&self, machine: &MachineName) -> PathBuf {
        self.instance(machine).join("instance.json")
    }

    /// A machine's data volumes.
    #[must_use]
    pub fn data(&self, machine: &MachineName) -> PathBuf {
        self.instance(machine).join("data")
    }

    /// One data volume.
    #[must_use]
    pub fn volume(&self, machine: &MachineName, volume: &VolumeName) -> PathBuf {
        self.data(machine).join(volume.as_str())
    }

    /// The journal of a booted machine; outlives its container, as data does.
    #[must_use]
    pub fn journal(&self, machine: &MachineName) -> PathBuf {
        self.instance(machine).join("journal")
    }

    /// The names that a machine's container knows other instances by.
    #[must_use]
    pub fn hosts(&self, machine: &MachineName) -> PathBuf {
        self.instance(machine).join("hosts")
    }

    /// The discarded layers of a machine's root.
    #[must_use]
    pub fn scratch(&self, machine: &MachineName) -> PathBuf {
        self.instance(machine).join("scratch")
    }

    /// Where images are mounted, each once.
    #[must_use]
    pub fn mounts(&self) -> PathBuf {
        self.run.join("images")
    }

    /// Where one image is mounted.
    #[must_use]
    pub fn mount(&self, digest: &Digest) -> PathBuf {
        self.mounts().join(digest.to_string())
    }

    /// A machine's mounts and rendered files.
    #[must_use]
    pub fn machine_run(&self, machine: &MachineName) -> PathBuf {
        self.run.join("machines").join(machine.as_str())
    }

    /// A machine's rendered files.
    #[must_use]
    pub fn rendered(&self, machine: &MachineName) -> PathBuf {
        self.machine_run(machine).join("files")
    }

    /// What of the host a machine is shown, where it is bound from.
    #[must_use]
    pub fn shown(&self, machine: &MachineName) -> PathBuf {
        self.machine_run(machine).join("mounts")
    }

    /// The layers of a machine's root that are in memory.
    #[must_use]
    pub fn memory(&self, machine: &MachineName) -> PathBuf {
        self.machine_run(machine).join("memory")
    }

    /// What a start made for a machine.
    #[must_use]
    pub fn manifest(&self, machine: &MachineName) -> PathBuf {
        self.machine_run(machine).join("manifest.json")
    }

    /// There while systemd has not read changed unit files again.
    #[must_use]
    pub fn units_changed(&self) -> PathBuf {
        self.run.join("units-changed")
    }

    /// The file that an image's mount was made from.
    #[must_use]
    pub fn mounted_file(&self, digest: &Digest) -> PathBuf {
        self.mounts().join(format!("{digest}.file"))
    }

    /// The host's policy.
    #[must_use]
    pub fn policy(&self) -> PathBuf {
        self.etc.join("policy.toml")
    }
}

/// A path as text, for messages and mount options.
#[must_use]
pub fn text(path: &Path) -> String {
    path.display().to_string()
}
