//! A process as the lab remembers it across processes: a number alone may be another's by now.

use std::fmt;
use std::fs;
use std::str::FromStr;

use anyhow::{Context as _, Result, bail};

/// A process, told from later ones of the same number by its start and the machine's boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    start: u64,
    boot: String,
}

impl Process {
    /// The process that is calling.
    pub(crate) fn current() -> Result<Self> {
        Self::of(std::process::id())
    }

    /// The running process `pid`.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let stat = read_stat(pid).with_context(|| format!("process {pid} is not running"))?;
        Ok(Self { pid, start: stat.start, boot: boot_id()? })
    }

    /// Whether it still runs; a zombie does not.
    pub(crate) fn is_alive(&self) -> bool {
        let same_boot = boot_id().is_ok_and(|boot| boot == self.boot);
        same_boot && read_stat(self.pid).is_some_and(|stat| stat.start == self.start && !stat.dead)
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.pid, self.start, self.boot)
    }
}

impl FromStr for Process {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut words = text.split_whitespace();
        let (Some(pid), Some(start), Some(boot)) = (words.next(), words.next(), words.next())
        else {
            bail!("`{text}` is not `PID START BOOT`");
        };
        Ok(Self { pid: pid.parse()?, start: start.parse()?, boot: boot.to_owned() })
    }
}

/// The child of `pid` that is PID 1 of a PID namespace of its own: the init of a container.
pub(crate) fn container_init(pid: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().filter_map(|child| child.parse().ok()).find(|&child: &u32| {
        fs::read_to_string(format!("/proc/{child}/status")).is_ok_and(|s| is_init(&s))
    })
}

/// `NSpid` lists the number in each PID namespace, the innermost last.
fn is_init(status: &str) -> bool {
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
    let pids: Vec<_> = line.split_whitespace().collect();
    pids.len() > 1 && pids.last() == Some(&"1")
}

fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    Ok(fs::read_to_string(path).with_context(|| format!("could not read {path}"))?.trim().into())
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    start: u64,
    dead: bool,
}

fn read_stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Fields are counted from behind the command, which may itself hold blanks and parentheses.
fn parse_stat(text: &str) -> Option<Stat> {
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_whitespace();
    let dead = matches!(fields.next()?, "Z" | "X");
    Some(Stat { start: fields.nth(18)?.parse().ok()?, dead })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_survives_being_written_down() {
        let me = Process::current().unwrap();
        assert_eq!(me.to_string().parse::<Process>().unwrap(), me);
        assert!(me.is_alive());
    }

    #[test]
    fn another_process_of_the_same_number_is_not_it() {
        let me = Process::current().unwrap();
        assert!(!Process { start: me.start + 1, ..me.clone() }.is_alive());
        assert!(!Process { boot: "another".into(), ..me }.is_alive());
    }

    #[test]
    fn the_start_is_found_behind_an_odd_command() {
        let text = "12 (a) Z (b) S 1 12 12 0 -1 4 0 0 0 0 0 0 0 0 20 0 1 0 777 1 2";
        assert_eq!(parse_stat(text), Some(Stat { start: 777, dead: false }));
        assert!(parse_stat(&text.replace(") S", ") Z")).unwrap().dead);
    }

    #[test]
    fn an_init_is_pid_1_of_an_inner_namespace_only() {
        assert!(is_init("Name:\tsystemd\nNSpid:\t7554\t1\n"));
        assert!(!is_init("NSpid:\t1\n"));
        assert!(!is_init("NSpid:\t7554\t2\n"));
    }
}
