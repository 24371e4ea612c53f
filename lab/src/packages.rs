//! The Debian packages that the machine needs to run a lab, and installing what is missing.

use std::process::Command;

use anyhow::{Context as _, Result};

use crate::exec;

/// What the lab, and the tests beside it, run on the machine itself. `g++` builds the fuzz targets.
pub const PACKAGES: &[&str] = &[
    "systemd-container",
    "squashfs-tools",
    "mmdebstrap",
    "debian-archive-keyring",
    "iproute2",
    "util-linux",
    "e2fsprogs",
    "g++",
    "mount",
    "procps",
    "busybox-static",
    "minisign",
];

/// Installs whichever of [`PACKAGES`] are missing; asks no registry when none is.
pub fn ensure() -> Result<()> {
    ensure_these(PACKAGES)
}

/// Installs whichever of these packages are missing; asks no registry when none is.
///
/// # Errors
/// Where one can't be installed.
pub fn ensure_these(packages: &[&str]) -> Result<()> {
    let missing = missing(packages)?;
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("lab: installing {}", missing.join(" "));
    apt_get(&["update"])?;
    let install = ["install", "-y", "--no-install-recommends"];
    apt_get(&[&install[..], &missing].concat())
        .with_context(|| format!("these packages are needed: {}", missing.join(" ")))
}

fn missing<'a>(packages: &[&'a str]) -> Result<Vec<&'a str>> {
    // It exits with 1 when it does not know one of them, so only its output counts.
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat=${db:Status-Status} ${Package}\\n"])
        .args(packages)
        .output()
        .context("could not run dpkg-query: the lab needs a Debian machine, or one of its kin")?;
    let known = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(packages.iter().copied().filter(|package| !is_installed(&known, package)).collect())
}

fn is_installed(known: &str, package: &str) -> bool {
    known.lines().any(|line| line.split_once(' ') == Some(("installed", package)))
}

fn apt_get(args: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.args(args).env("DEBIAN_FRONTEND", "noninteractive");
    exec::checked(&mut command).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_installed_package_counts() {
        let known = "installed mount\nconfig-files procps\nnot-installed squashfs-tools\n";
        assert!(is_installed(known, "mount"));
        assert!(!is_installed(known, "procps"));
        assert!(!is_installed(known, "squashfs-tools"));
        assert!(!is_installed(known, "mou"));
    }
}
