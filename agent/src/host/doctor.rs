//! What a host lacks to run instances, each with its remedy.

use std::path::Path;

use super::command;
use super::facts;
use super::sealed::{HostKey, TOOL};
use super::systemd::Systemd;
use super::unit::{self, UnitFiles};
use crate::paths::Paths;
use crate::secrets::vault;

/// How a check came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be; the text says what was found.
    Good(String),
    /// It works, with less.
    Warning(String),
    /// Instances can't run, or not safely.
    Bad(String),
}

/// One check of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at.
    pub subject: &'static str,
    /// What was found.
    pub verdict: Verdict,
    /// What to do about it, where it is not good.
    pub remedy: Option<String>,
}

/// The oldest systemd whose nspawn can bind with `idmap` and be told `--private-users-ownership`.
const OLDEST_SYSTEMD: u32 = 250;

/// Bytes of free disk below which a warning is due.
const LITTLE_DISK: u64 = 2 << 30;

/// Looks at everything that instances need.
pub async fn examine(paths: &Paths) -> Vec<Finding> {
    let mut findings = vec![root(), cgroups()];
    match Systemd::connect().await {
        Ok(systemd) => findings.push(systemd_version(&systemd.version().await)),
        Err(error) => findings.push(bad(
            "system bus",
            crate::chain(&error),
            "apt install dbus && systemctl start dbus",
        )),
    }
    findings.push(program("systemd-nspawn", &["--version"], "apt install systemd-container"));
    findings.push(program("journalctl", &["--version"], "apt install systemd"));
    findings.push(program("mount", &["--version"], "apt install mount"));
    findings.push(useful("ip", &["-Version"], "fixed addresses", "apt install iproute2"));
    findings.push(useful("nft", &["--version"], "ports", "apt install nftables"));
    findings.push(secrets());
    findings.push(file_system("squashfs"));
    findings.push(file_system("overlay"));
    findings.push(idmap(paths));
    findings.push(template_unit(paths));
    findings.push(policy(paths));
    findings.push(disk(paths));
    findings.push(enrolled(paths));
    findings
}

fn good(subject: &'static str, found: impl Into<String>) -> Finding {
    Finding { subject, verdict: Verdict::Good(found.into()), remedy: None }
}

fn warning(subject: &'static str, found: impl Into<String>, remedy: &str) -> Finding {
    Finding { subject, verdict: Verdict::Warning(found.into()), remedy: Some(remedy.to_owned()) }
}

fn bad(subject: &'static str, found: impl Into<String>, remedy: &str) -> Finding {
    Finding { subject, verdict: Verdict::Bad(found.into()), remedy: Some(remedy.to_owned()) }
}

fn root() -> Finding {
    if rustix::process::geteuid().is_root() {
        return good("user", "root");
    }
    bad("user", "not root", "run it as root: sudo shoal-agent doctor")
}

fn cgroups() -> Finding {
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        return good("control groups", "unified");
    }
    let remedy = "boot with systemd.unified_cgroup_hierarchy=1 on the kernel command line";
    bad("control groups", "not unified (version 1)", remedy)
}

fn systemd_version(version: &Result<String, super::HostError>) -> Finding {
    let text = match version {
        Ok(text) => text,
        Err(error) => return bad("systemd", crate::chain(error), "is PID 1 systemd?"),
    };
    let digits = text.split(|c: char| !c.is_ascii_digit()).next();
    let number = digits.and_then(|digits| digits.parse::<u32>().ok());
    match number {
        Some(number) if number >= OLDEST_SYSTEMD => good("systemd", text.clone()),
        _ => bad("systemd", text.clone(), "upgrade to systemd 250 or later (Debian 12 has 252)"),
    }
}

fn program(name: &'static str, arguments: &[&str], remedy: &str) -> Finding {
    match command::run(name, arguments) {
        Ok(text) => good(name, text.lines().next().unwrap_or_default()),
        Err(error) => bad(name, crate::chain(&error), remedy),
    }
}

/// A program that only some instances need: those with `what`.
fn useful(name: &'static str, arguments: &[&str], what: &str, remedy: &str) -> Finding {
    let found = program(name, arguments, remedy);
    match found.verdict {
        Verdict::Bad(why) => warning(name, format!("{why}; no instance can have {what}"), remedy),
        _ => found,
    }
}

/// Whether secrets can be kept here; makes the host's key where there is none yet.
fn secrets() -> Finding {
    match vault::works(&HostKey) {
        Ok(()) => good("secrets", format!("{TOOL} encrypts them for this host only")),
        Err(error) => warning(
            "secrets",
            format!("{}; no instance can have any", crate::chain(&error)),
            "systemd 250 or later has systemd-creds; its key is kept below /var/lib/systemd",
        ),
    }
}

fn file_system(name: &'static str) -> Finding {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if known.lines().any(|line| line.split_whitespace().last() == Some(name)) {
        return good(name, "known to the kernel");
    }
    // It may be a module that is loaded at the first mount.
    match command::run("modprobe", &["--dry-run", name]) {
        Ok(_) => good(name, "a module of the kernel"),
        Err(_) => bad(
            name,
            "unknown to the kernel",
            "use a kernel with this file system (Debian's has it)",
        ),
    }
}

fn idmap(paths: &Paths) -> Finding {
    const SUBJECT: &str = "idmapped squashfs";
    let remedy = "use a newer kernel (6.18 can), or allow to run instances without a user \
                  namespace: user-namespace = \"if-possible\" in /etc/shoal/policy.toml";
    match facts::can_idmap_squashfs(paths) {
        Ok(true) => good(SUBJECT, "instances get user namespaces"),
        Ok(false) => bad(SUBJECT, "this kernel can't", remedy),
        Err(why) => bad(SUBJECT, format!("could not be tried: {why}"), remedy),
    }
}

fn template_unit(paths: &Paths) -> Finding {
    const SUBJECT: &str = "template unit";
    let path = UnitFiles::new("/", paths.units_changed()).template();
    let found = path.display();
    match std::fs::read_to_string(&path) {
        Ok(text) if text == unit::TEMPLATE => good(SUBJECT, found.to_string()),
        Ok(_) => warning(
            SUBJECT,
            format!("{found} is not this agent's"),
            "the daemon puts it right, and keeps what is there beside it as *.replaced",
        ),
        Err(_) => bad(
            SUBJECT,
            format!("{found} is not installed"),
            "copy deploy/systemd/shoal-instance@.service to /etc/systemd/system and run \
             systemctl daemon-reload",
        ),
    }
}

fn policy(paths: &Paths) -> Finding {
    const SUBJECT: &str = "policy";
    let path = paths.policy();
    match crate::policy::load(paths) {
        Ok(_) if path.exists() => good(SUBJECT, path.display().to_string()),
        Ok(_) => good(SUBJECT, format!("the defaults; there is no {}", path.display())),
        Err(error) => {
            let remedy =
                "correct it; until then no instance is started. docs/hosts.md has its keys";
            bad(SUBJECT, crate::chain(&error), remedy)
        }
    }
}

fn disk(paths: &Paths) -> Finding {
    let place = paths.state.ancestors().find(|path| path.exists());
    let (_, free) = facts::disk(place.unwrap_or(Path::new("/")));
    let found = format!("{} MiB free for {}", free >> 20, paths.state.display());
    if free < LITTLE_DISK {
        return warning("disk", found, "make room: images and data volumes are kept there");
    }
    good("disk", found)
}

fn enrolled(paths: &Paths) -> Finding {
    match crate::identity::Identity::load(paths) {
        Ok(identity) => good(
            "enrolled",
            format!("as {} with {}", identity.about.host_name, identity.about.controller),
        ),
        Err(_) => warning(
            "enrolled",
            "not yet",
            "make a token with `shoal host token create`, then run shoal-agent join",
        ),
    }
}
