//! Running a command inside a container, as root there and with no more rights than it has.
//!
//! `nsenter` would do for the namespaces, but a process that enters a user namespace gets every
//! capability in it, and stays in the agent's control group. So the agent runs itself as a
//! helper: it joins the container's control group and namespaces, gives up what the container's
//! first process does not have, and runs the command as its child in the container's PID
//! namespace. The helper exits as the command did.
//!
//! The instance's environment reaches the helper under other names: it comes from a fleet file,
//! and the helper begins as root of the host, where `LD_PRELOAD` must mean nothing.
#![allow(unsafe_code)] // changes between fork and exec

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::ExitCode;

use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, getrlimit, pidfd_open, setrlimit,
};
use rustix::thread::ThreadNameSpaceType;

/// The hidden verb of the agent's own binary that [`run`] stands behind.
pub const VERB: &str = "exec-in";

/// Exit code where the command could not be run, as in shells.
const NOT_RUNNABLE: u8 = 126;
/// Exit code where there is no such command, as in shells.
const NOT_FOUND: u8 = 127;
/// Exit code where Shoal could not get into the container.
const NOT_ENTERED: u8 = 125;

/// What the names of the instance's variables begin with on their way to the helper.
const PREFIX: &str = "SHOAL_INSIDE_";

/// A container, as its first process and the unit that it must be part of: process numbers are
/// used again, and the check keeps a late caller out of some other process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Its first process.
    pub leader: u32,
    /// Its unit.
    pub unit: String,
}

/// A command that runs `words` inside `container`, with just `env` and the usual variables of
/// root. Dropping or killing it kills the command.
#[must_use]
pub fn command(
    container: &Container,
    words: &[String],
    env: &[(String, String)],
) -> tokio::process::Command {
    let mut command = tokio::process::Command::new("/proc/self/exe");
    command.arg(VERB).arg(container.leader.to_string()).arg(&container.unit);
    command.arg("--").args(words).env_clear();
    command.envs(env.iter().map(|(name, value)| (format!("{PREFIX}{name}"), value)));
    command
}

/// The variables that a command inside gets.
fn environment() -> Vec<(String, OsString)> {
    let usual = [
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("HOME", "/root"),
        ("USER", "root"),
        ("LOGNAME", "root"),
        ("LANG", "C.UTF-8"),
        ("container", "systemd-nspawn"),
    ];
    let usual = usual.map(|(name, value)| (name.to_owned(), OsString::from(value)));
    let own = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.to_str()?.strip_prefix(PREFIX)?.to_owned(), value)));
    usual.into_iter().chain(own).collect()
}

/// The helper: becomes part of `container` and runs `words` there.
#[must_use]
pub fn run(container: &Container, words: &[String]) -> ExitCode {
    match enter_and_run(container, words) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("shoal: can't enter the instance: {error}");
            ExitCode::from(NOT_ENTERED)
        }
    }
}

/// Moves this thread, and no other, into the network of `container`.
///
/// # Errors
/// Where its first process has ended, or the system does not let us in.
pub fn join_network(container: &Container) -> io::Result<()> {
    let fd = open(container.leader)?;
    control_group(container.leader, &container.unit)?;
    Ok(rustix::thread::move_into_thread_name_spaces(fd.as_fd(), ThreadNameSpaceType::NETWORK)?)
}

/// Opens a process. To be done before anything is looked up by its number: what is found then is
/// about this very process, or what is done by the descriptor fails.
fn open(leader: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(leader).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or(io::ErrorKind::InvalidInput)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

fn enter_and_run(container: &Container, words: &[String]) -> io::Result<u8> {
    let Some((program, arguments)) = words.split_first() else { return Ok(NOT_FOUND) };
    let Container { leader, unit } = container;
    let leader = *leader;
    let fd = open(leader)?;
    let group = control_group(leader, unit)?;
    let limits = Limits::of(leader)?;
    let spaces = differing_namespaces(leader)?;
    if !spaces.contains(ThreadNameSpaceType::PROCESS_ID | ThreadNameSpaceType::MOUNT) {
        return Err(io::Error::other("its first process is not in a container"));
    }
    join_cgroup(&group)?;
    rustix::thread::move_into_thread_name_spaces(fd.as_fd(), spaces)?;
    if spaces.contains(ThreadNameSpaceType::USER) {
        become_root()?;
    }
    let mut command = std::process::Command::new(program);
    command.args(arguments).current_dir("/").env_clear().envs(environment());
    // SAFETY: only bare system calls between fork and exec.
    unsafe {
        command.pre_exec(move || limits.apply());
    }
    match command.status() {
        Ok(status) => Ok(exit_code(status)),
        Err(error) => {
            eprintln!("shoal: can't run {program}: {error}");
            let missing = error.kind() == io::ErrorKind::NotFound;
            Ok(if missing { NOT_FOUND } else { NOT_RUNNABLE })
        }
    }
}

fn exit_code(status: std::process::ExitStatus) -> u8 {
    let by_signal = status.signal().map(|signal| 128 + signal);
    let code = status.code().or(by_signal).unwrap_or(i32::from(NOT_ENTERED));
    u8::try_from(code).unwrap_or(NOT_ENTERED)
}

/// The namespaces in which `leader` is not where we are; entering one's own is an error for some.
fn differing_namespaces(leader: u32) -> io::Result<ThreadNameSpaceType> {
    let all = [
        ("user", ThreadNameSpaceType::USER),
        ("mnt", ThreadNameSpaceType::MOUNT),
        ("pid", ThreadNameSpaceType::PROCESS_ID),
        ("net", ThreadNameSpaceType::NETWORK),
        ("ipc", ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION),
        ("uts", ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME),
        ("cgroup", ThreadNameSpaceType::CONTROL_GROUP),
    ];
    let mut spaces = ThreadNameSpaceType::empty();
    for (name, space) in all {
        let theirs = fs::read_link(format!("/proc/{leader}/ns/{name}"))?;
        if theirs != fs::read_link(format!("/proc/self/ns/{name}"))? {
            spaces |= space;
        }
    }
    Ok(spaces)
}

/// The control group of `leader`, which must be below that of `unit`.
fn control_group(leader: u32, unit: &str) -> io::Result<String> {
    let groups = fs::read_to_string(format!("/proc/{leader}/cgroup"))?;
    let unified = groups.lines().find_map(|line| line.strip_prefix("0::"));
    let path = unified.ok_or_else(|| io::Error::other("the host has no unified control groups"))?;
    if !path.split('/').any(|part| part == unit) {
        return Err(io::Error::other("its first process has ended; try again"));
    }
    Ok(path.to_owned())
}

/// Moves this process into a control group, so that the instance's limits hold.
fn join_cgroup(path: &str) -> io::Result<()> {
    // Never made: where another kind of control groups is mounted, a file of this name would be
    // taken for a group by everyone who looks for one.
    let procs = format!("/sys/fs/cgroup{path}/cgroup.procs");
    let mut members = File::options().write(true).open(procs)?;
    members.write_all(std::process::id().to_string().as_bytes())
}

/// The numbers of the agent's root mean nothing in the new user namespace: takes its root's.
fn become_root() -> io::Result<()> {
    use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
    let (uid, gid) = (rustix::process::Uid::ROOT, rustix::process::Gid::ROOT);
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}

/// What the container's first process may not do, and so nothing inside may.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// The capability bounding set, a bit for each.
    bounding: u64,
    no_new_privileges: bool,
    /// The most files that it may have open; `None` for no limit.
    files: Option<u64>,
}

impl Limits {
    fn of(leader: u32) -> io::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{leader}/status"))?;
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        let bounding = field("CapBnd:").and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
        let bounding = bounding.ok_or_else(|| io::Error::other("no CapBnd in /proc"))?;
        let no_new_privileges = field("NoNewPrivs:").is_some_and(|value| value.trim() == "1");
        let files = most_files(&fs::read_to_string(format!("/proc/{leader}/limits"))?);
        Ok(Self { bounding, no_new_privileges, files })
    }

    fn apply(self) -> io::Result<()> {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        if let Some(most) = self.files {
            let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
            let bounded = |own: Option<u64>| Some(own.map_or(most, |own| own.min(most)));
            let limit = Rlimit { current: bounded(current), maximum: bounded(maximum) };
            setrlimit(Resource::Nofile, limit)?;
        }
        for capability in 0..64_u32 {
            if self.bounding & (1 << capability) == 0 {
                drop_capability(capability)?;
            }
        }
        if self.no_new_privileges {
            rustix::thread::set_no_new_privs(true)?;
        }
        Ok(())
    }
}

/// The hard limit of open files in `/proc/PID/limits`.
fn most_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn drop_capability(capability: u32) -> io::Result<()> {
    // SAFETY: a bare system call on numbers.
    let result =
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0, 0, 0) };
    match result {
        0 => Ok(()),
        // A number that this kernel does not know yet.
        _ if io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL) => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hard_limit_of_open_files_is_read() {
        let table = "Limit                     Soft Limit           Hard Limit           Units\n\
            Max core file size        0                    unlimited            bytes\n\
            Max open files            1024                 524288               files\n";
        assert_eq!(most_files(table), Some(524_288));
        assert_eq!(most_files(&table.replace("524288", "unlimited")), None);
        assert!(most_files(&fs::read_to_string("/proc/self/limits").unwrap()).is_some());
    }
}
