//! Moves between control groups, made quick while starts and stops are on their way.
//!
//! The kernel lets every process of the host go on undisturbed while one is moved to another
//! control group, and for that it waits for an RCU grace period, 10 to 30 ms, before the move. But
//! only before the first of several: until one more such period is over, the next move waits for
//! nothing. systemd moves a process for each command of a unit, systemd-nspawn some more, and so
//! does each check inside. All of a start's together wait about as long as its system needs to boot.
//!
//! So the agent moves itself to where it is already, which changes nothing, before others have to
//! move, and again and again until they have. That is what the mount option `favordynmods` of
//! control groups (`Documentation/admin-guide/cgroup-v2.rst`) does for good; here it is for a
//! moment, since it makes each fork on the host a little dearer. Nothing depends on it: where it
//! can't be done, things take a little longer.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// For how long at most, where nothing is seen to be over: a start that takes longer has other
/// things to wait for.
const SPAN: Duration = Duration::from_secs(1);
/// From one move to the next: less than a grace period.
const PAUSE: Duration = Duration::from_millis(8);
/// How long after all have started or stopped: what has started is checked then.
const REST: Duration = Duration::from_millis(40);
/// Where control groups are, and where they are beside those of the first version.
const ROOTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// Has moves be quick for a while. Cheap to clone; clones share one thread.
#[derive(Debug, Clone, Default)]
pub struct Haste {
    /// Until when; `None` while there is no thread.
    until: Arc<Mutex<Option<Instant>>>,
}

impl Haste {
    /// From now on: units are told to start or to stop.
    pub fn begin(&self) {
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        if until.replace(Instant::now() + SPAN).is_some() {
            return;
        }
        let shared = self.clone();
        // The first move waits, so it has a thread of its own.
        let thread = std::thread::Builder::new().name("haste".into());
        if thread.spawn(move || shared.keep_up()).is_err() {
            *until = None;
        }
    }

    /// Not much longer: all have.
    pub fn end(&self) {
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(until) = until.as_mut() {
            *until = (*until).min(Instant::now() + REST);
        }
    }

    fn keep_up(&self) {
        let members = own_members();
        loop {
            let moved = members.as_deref().is_some_and(|members| move_to(members).is_ok());
            let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
            if !moved || until.is_none_or(|until| until <= Instant::now()) {
                *until = None;
                return;
            }
            drop(until);
            std::thread::sleep(PAUSE);
        }
    }
}

/// Moves this process into a control group.
fn move_to(members: &Path) -> std::io::Result<()> {
    // Never made: it is there where control groups are.
    File::options().write(true).open(members)?.write_all(b"0")
}

/// Where the members of this process's own control group are listed.
fn own_members() -> Option<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let places = ROOTS.iter().map(|root| Path::new(root).join(group).join("cgroup.procs"));
    places.into_iter().find(|members| members.exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_by_itself_and_begins_again() {
        let haste = Haste::default();
        let runs = |haste: &Haste| haste.until.lock().unwrap().is_some();
        for told in [false, true] {
            haste.begin();
            haste.begin();
            if told {
                haste.end();
            }
            let end = Instant::now() + 20 * SPAN;
            while runs(&haste) && Instant::now() < end {
                std::thread::sleep(PAUSE);
            }
            assert!(!runs(&haste));
        }
    }
}
