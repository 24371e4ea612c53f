//! What the agent finds out about its host.

use std::fs;
use std::path::Path;

use shoal_core::host::HostFacts;
use shoal_core::policy::Policy;

use super::command;
use super::idmap;
use super::systemd::Systemd;
use crate::files::{make_private_dir, remove_tree};
use crate::paths::{Paths, text};

/// Gathers the facts. What can't be found out is empty or zero, and told by `doctor`. Besides,
/// why it could not be tried whether squashfs can be idmapped: that is not the same as knowing
/// that it can't, and no reason to run anything with less isolation.
pub async fn gather(
    paths: &Paths,
    systemd: &Systemd,
    policy: Policy,
) -> (HostFacts, Option<String>) {
    let probed = can_idmap_squashfs(paths);
    let version = systemd.version().await.unwrap_or_default();
    let (disk_total, disk_free) = disk(&paths.state);
    let uname = rustix::system::uname();
    let facts = HostFacts {
        os: os_name(),
        kernel: uname.release().to_string_lossy().into_owned(),
        architecture: architecture(&uname.machine().to_string_lossy()),
        systemd: version.split(['.', '-', '~', ' ']).next().unwrap_or_default().to_owned(),
        cpus: std::thread::available_parallelism().map_or(0, |n| n.get().try_into().unwrap_or(0)),
        memory: memory(),
        disk_total,
        disk_free,
        idmapped_squashfs: matches!(probed, Ok(true)),
        agent: crate::version::version().to_owned(),
        boot_id: read_trimmed("/proc/sys/kernel/random/boot_id"),
        max_files: number("/proc/sys/fs/nr_open"),
        max_tasks: number("/proc/sys/kernel/pid_max").min(number("/proc/sys/kernel/threads-max")),
        policy,
        // Known once there is a stream to the controller.
        address: None,
    };
    (facts, probed.err())
}

/// Bytes in the file system of `path`, and bytes free there for root.
#[must_use]
pub fn disk(path: &Path) -> (u64, u64) {
    let Ok(stat) = rustix::fs::statvfs(path) else { return (0, 0) };
    (stat.f_blocks * stat.f_frsize, stat.f_bfree * stat.f_frsize)
}

fn read_trimmed(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn number(path: &str) -> u64 {
    read_trimmed(path).parse().unwrap_or(0)
}

fn os_name() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    line.unwrap_or_default().trim_matches('"').to_owned()
}

fn memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}

/// systemd's spelling of what uname says.
fn architecture(machine: &str) -> String {
    match machine {
        "x86_64" => "x86-64",
        "aarch64" => "arm64",
        "i686" | "i586" | "i386" => "x86",
        other => other,
    }
    .to_owned()
}

/// Tries it: makes a squashfs of one empty directory, mounts it, and asks the kernel to shift it.
///
/// # Errors
/// Where it could not be tried; `doctor` shows why.
pub fn can_idmap_squashfs(paths: &Paths) -> Result<bool, String> {
    let dir = paths.run.join(format!("probe-{}", std::process::id()));
    let (image, target) = (dir.join("probe.squashfs"), dir.join("mount"));
    let attempt = || -> Result<bool, String> {
        remove_tree(&dir).map_err(|e| e.to_string())?;
        make_private_dir(&target).map_err(|e| e.to_string())?;
        fs::write(&image, EMPTY_SQUASHFS).map_err(|e| e.to_string())?;
        let arguments = ["-t", "squashfs", "-o", "loop,ro", &text(&image), &text(&target)];
        command::run("mount", &arguments).map_err(|e| e.to_string())?;
        idmap::can_shift(&target).map_err(|e| e.to_string())
    };
    let result = attempt();
    let _ = super::mount::unmount(&target);
    let _ = remove_tree(&dir);
    result
}

/// A squashfs of one empty directory, made by
/// `mksquashfs empty probe.squashfs -all-root -mkfs-time 0 -all-time 0 -no-xattrs`.
const EMPTY_SQUASHFS: &[u8] = include_bytes!("empty.squashfs");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_facts() {
        assert!(memory() > 0);
        let (total, free) = disk(Path::new("/"));
        assert!(total > free && free > 0);
        assert_eq!(architecture("x86_64"), "x86-64");
        assert!(!os_name().is_empty());
        assert_eq!(&EMPTY_SQUASHFS[..4], b"hsqs");
    }
}
