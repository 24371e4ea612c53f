//! The control groups of an instance's unit.
//!
//! systemd-nspawn makes two below the unit's own, `payload` and `supervisor`, and hands the unit's
//! controllers down to them. The kernel allows that only while no process is in the unit's own. So
//! whoever of the unit goes on beside systemd-nspawn does that in a group aside.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Pid;

/// Where control groups are.
const ROOT: &str = "/sys/fs/cgroup";
/// Who waits for a hook is here.
const WAITING: &str = "hook";
/// The groups of a container that has ended.
const LEFT_BEHIND: [&str; 3] = ["payload", "supervisor", "network"];
/// How long the last process of a container that has ended may take to go.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why something can't be done to a control group.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// A group or a file of it.
    #[error("can't {doing} control group {path}", path = path.display())]
    Group {
        /// What was being done.
        doing: &'static str,
        /// The group or a file of it.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// This process is in none of systemd's.
    #[error("this process is in no unified control group; it must be run by its unit")]
    None,
}

/// This process, where it is in the way of no systemd-nspawn.
#[derive(Debug)]
pub(super) struct Aside {
    unit: PathBuf,
}

impl Aside {
    /// Goes there.
    pub(super) fn go() -> Result<Self, GroupError> {
        let unit = own()?;
        make(&unit.join(WAITING))?;
        write(&unit.join(WAITING).join("cgroup.procs"), "0")?;
        Ok(Self { unit })
    }

    /// The processes in the container that runs beside this one.
    pub(super) fn inside(&self) -> Vec<Pid> {
        let members = fs::read_to_string(self.unit.join(LEFT_BEHIND[0]).join("cgroup.procs"));
        let members = members.unwrap_or_default();
        members.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)).collect()
    }

    /// Back into the unit's own group, as if nothing had been run in the meantime.
    pub(super) fn back(self) -> Result<(), GroupError> {
        for name in LEFT_BEHIND {
            remove(&self.unit.join(name))?;
        }
        let control = self.unit.join("cgroup.subtree_control");
        let enabled = fs::read_to_string(&control).map_err(failed("read", &control))?;
        let disabled: Vec<String> =
            enabled.split_whitespace().map(|controller| format!("-{controller}")).collect();
        if !disabled.is_empty() {
            write(&control, &disabled.join(" "))?;
        }
        write(&self.unit.join("cgroup.procs"), "0")?;
        remove(&self.unit.join(WAITING))
    }
}

/// Moves this process, which was started by one that is [aside](Aside), into the unit's own group.
pub(super) fn return_to_unit() -> Result<(), GroupError> {
    let mut group = own()?;
    if !(group.ends_with(WAITING) && group.pop()) {
        return Err(GroupError::None);
    }
    write(&group.join("cgroup.procs"), "0")
}

/// This process's own.
pub(super) fn own() -> Result<PathBuf, GroupError> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"));
    let group = path.filter(|path| !path.is_empty()).map(|path| Path::new(ROOT).join(path));
    // Where another kind of control groups is mounted, there is a file system of other rules.
    group.filter(|group| group.join("cgroup.freeze").exists()).ok_or(GroupError::None)
}

/// Makes a group; it being there is fine.
pub(super) fn make(group: &Path) -> Result<(), GroupError> {
    match fs::create_dir(group) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(failed("make", group)(error))
        }
        _ => Ok(()),
    }
}

/// Writes to a file that is there.
pub(super) fn write(path: &Path, text: &str) -> Result<(), GroupError> {
    let file = File::options().write(true).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(failed("write to", path))
}

/// An error about a group or a file of it.
pub(super) fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> GroupError {
    let path = path.to_owned();
    move |source| GroupError::Group { doing, path, source }
}

/// Removes a group with those below it; it not being there is fine. What was in them is on its way
/// out, and waited for.
fn remove(group: &Path) -> Result<(), GroupError> {
    let end = Instant::now() + PATIENCE;
    loop {
        match remove_now(group) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(5));
            }
            done => return done.map_err(failed("remove", group)),
        }
    }
}

/// Only directories can be removed there; the files in them go with them.
fn remove_now(group: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(group) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_now(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_goes_with_those_below_it_and_need_not_be_there() {
        let dir = tempfile::tempdir().unwrap();
        let group = dir.path().join("payload");
        fs::create_dir_all(group.join("a/b")).unwrap();
        remove(&group).unwrap();
        assert!(!group.exists());
        remove(&group).unwrap();
        let missing = write(&group.join("cgroup.procs"), "0").unwrap_err().to_string();
        assert!(missing.starts_with("can't write to control group"), "{missing}");
    }
}
