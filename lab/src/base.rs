//! The root file system of a test host: a minimal Debian with systemd, shared by all hosts.
//!
//! Each host mounts it as the read-only lower layer of an overlay, so a new host costs no copy.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use crate::cache::Cache;
use crate::exec;

/// A release of Debian.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Suite {
    /// Debian 12, with systemd 252: the oldest that is supported.
    #[default]
    Bookworm,
    /// Debian 13, with systemd 257.
    Trixie,
}

impl Suite {
    fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        }
    }
}

/// To be raised when the code of this module changes what it makes; texts and lists count anyway.
const REVISION: u32 = 1;

/// What a real host has that runs the agent, nftables for ports among it, and ping and busybox for
/// the tests' own questions.
const PACKAGES: &[&str] = &[
    "systemd",
    "systemd-sysv",
    "systemd-container",
    "dbus",
    "iproute2",
    "procps",
    "libnss-myhostname",
    "util-linux",
    "mount",
    "iputils-ping",
    "nftables",
    "busybox",
];

/// Units that would change settings of the machine's kernel, or only cost time, in every host.
const MASKED: &[&str] = &[
    "systemd-sysctl.service",
    "systemd-binfmt.service",
    "systemd-modules-load.service",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "console-getty.service",
    "getty.target",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
];

/// Where a host's own settings are, as shell assignments.
pub(crate) const SETTINGS: &str = "/etc/shoal-lab.env";

/// Not systemd-networkd: it waits for udev for ever where /sys is writable.
const NETWORK_UNIT: &str = "\
[Unit]
Description=Address of the test host
DefaultDependencies=no
Before=network-pre.target network.target sysinit.target shutdown.target
Conflicts=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
EnvironmentFile=/etc/shoal-lab.env
ExecStart=/bin/sh -c 'ip link set lo up && ip addr add $ADDRESS dev host0 && ip link set host0 up'

[Install]
WantedBy=sysinit.target
";

/// Without udev, nothing makes a node for the loop device that the kernel hands out.
const LOOPS_UNIT: &str = "\
[Unit]
Description=Nodes of the loop devices
DefaultDependencies=no
Before=sysinit.target shutdown.target
Conflicts=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'cp -a /usr/lib/shoal-lab/loop* /dev/'

[Install]
WantedBy=sysinit.target
";

const JOURNAL: &str = "[Journal]\nStorage=persistent\n";

const LOOPS_DIR: &str = "usr/lib/shoal-lab";
const LOOPS: u32 = 256;

/// The root that hosts of a suite share, made on first use (about 15 s).
pub(crate) fn root(cache: &Cache, suite: Suite) -> Result<PathBuf> {
    let name = suite.name();
    let recipe =
        format!("{REVISION} {name} {PACKAGES:?} {MASKED:?} {NETWORK_UNIT} {LOOPS_UNIT} {JOURNAL}");
    cache.entry("host", &recipe, "", |root| {
        eprintln!("lab: making the root of the test hosts ({name}), once");
        bootstrap(root, suite, PACKAGES)?;
        customise(root)
    })
}

/// Makes a minimal Debian with `packages` at `root`, which must not exist.
pub(crate) fn bootstrap(root: &Path, suite: Suite, packages: &[&str]) -> Result<()> {
    let mut command = std::process::Command::new("mmdebstrap");
    command
        .args(["--quiet", "--mode=root", "--format=directory", "--variant=minbase"])
        .args(
            ["doc", "man", "locale", "info"]
                .map(|d| format!("--dpkgopt=path-exclude=/usr/share/{d}/*")),
        )
        .arg(format!("--include={}", packages.join(",")))
        .arg(suite.name())
        .arg(root);
    exec::checked(&mut command)
        .context("could not make a Debian root; is a mirror reachable? (http_proxy is honoured)")?;
    for file in ["etc/machine-id", "etc/resolv.conf", "etc/hostname"] {
        fs::write(root.join(file), "")?;
    }
    Ok(())
}

/// The recipe part of [`bootstrap`], for the cache's key.
pub(crate) fn bootstrap_recipe(suite: Suite, packages: &[&str]) -> String {
    format!("{REVISION} {} {packages:?}", suite.name())
}

fn customise(root: &Path) -> Result<()> {
    let units = root.join("etc/systemd/system");
    let wants = units.join("sysinit.target.wants");
    fs::create_dir_all(&wants)?;
    for (name, text) in
        [("shoal-lab-network.service", NETWORK_UNIT), ("shoal-lab-loops.service", LOOPS_UNIT)]
    {
        fs::write(units.join(name), text)?;
        symlink(format!("../{name}"), wants.join(name))?;
    }
    for unit in MASKED {
        symlink("/dev/null", units.join(unit)).with_context(|| format!("could not mask {unit}"))?;
    }
    let journald = root.join("etc/systemd/journald.conf.d");
    fs::create_dir_all(&journald)?;
    fs::write(journald.join("shoal-lab.conf"), JOURNAL)?;
    make_loop_nodes(&root.join(LOOPS_DIR))
}

fn make_loop_nodes(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir)?;
    for minor in 0..LOOPS {
        let path = dir.join(format!("loop{minor}"));
        mknodat(CWD, &path, FileType::BlockDevice, Mode::from_raw_mode(0o660), makedev(7, minor))
            .with_context(|| format!("could not make the device node {}", path.display()))?;
    }
    Ok(())
}
