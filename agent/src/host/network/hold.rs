//! Holding a container back until its network is there.
//!
//! systemd-nspawn puts the container into the control group `payload` of its unit after it has
//! made the link, and before anything inside runs. That group is made beforehand here, and
//! frozen: the container stops at just that point, and goes on when the group is thawed. A
//! container that is killed dies frozen, too.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::host::group::{self, GroupError};

/// The group that systemd-nspawn puts the container into.
const PAYLOAD: &str = "payload";
/// Our own, for the helper: the unit's group must have no processes of its own once
/// systemd-nspawn hands controllers down.
const ASIDE: &str = "network";

/// How long systemd-nspawn may take from its start to the container: mounts on a busy host.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked whether the container is there.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };

/// Why a container can't be held back or let go.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// A control group.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// systemd-nspawn can't be watched.
    #[error("can't watch systemd-nspawn")]
    Watch(#[source] io::Error),
    /// The container does not come.
    #[error("systemd-nspawn did not make the container within {PATIENCE:?}")]
    Late,
}

/// The control group of a unit whose container is held back.
#[derive(Debug)]
pub(super) struct Hold {
    group: PathBuf,
}

impl Hold {
    /// Holds back the container of the unit that this process is of.
    pub(super) fn take() -> Result<Self, HoldError> {
        let hold = Self { group: group::own()? };
        for name in [PAYLOAD, ASIDE] {
            group::make(&hold.group.join(name))?;
        }
        hold.freeze("1")?;
        Ok(hold)
    }

    /// The hold that [`take`](Self::take) took; for the helper, which was started
    /// [`aside`](Self::aside).
    pub(super) fn taken() -> Result<Self, HoldError> {
        let mut group = group::own()?;
        let aside = group.ends_with(ASIDE) && group.pop();
        if aside { Ok(Self { group }) } else { Err(GroupError::None.into()) }
    }

    /// Does `work` with this process where what it starts is in nobody's way.
    pub(super) fn aside<T>(&self, work: impl FnOnce() -> T) -> Result<T, HoldError> {
        group::write(&self.group.join(ASIDE).join("cgroup.procs"), "0")?;
        let done = work();
        group::write(&self.group.join("cgroup.procs"), "0")?;
        Ok(done)
    }

    /// Waits for the container and gives its first process, which stands still. `None` where
    /// systemd-nspawn ends before: it has told why.
    pub(super) fn container(&self, nspawn: &Nspawn) -> Result<Option<u32>, HoldError> {
        let members = self.group.join(PAYLOAD).join("cgroup.procs");
        let end = Instant::now() + PATIENCE;
        loop {
            let text = fs::read_to_string(&members).map_err(group::failed("read", &members))?;
            if let Some(first) = text.lines().find_map(|line| line.parse().ok()) {
                return Ok(Some(first));
            }
            if nspawn.ends_within(LOOK) {
                return Ok(None);
            }
            if Instant::now() > end {
                return Err(HoldError::Late);
            }
        }
    }

    /// Lets the container go on.
    pub(super) fn release(&self) -> Result<(), HoldError> {
        self.freeze("0")
    }

    fn freeze(&self, state: &str) -> Result<(), HoldError> {
        Ok(group::write(&self.group.join(PAYLOAD).join("cgroup.freeze"), state)?)
    }
}

/// The systemd-nspawn whose container is held back, or the process that will be it.
#[derive(Debug)]
pub(super) struct Nspawn(OwnedFd);

impl Nspawn {
    /// Of this number, which is known to be it at this moment.
    pub(super) fn open(number: u32) -> Result<Self, HoldError> {
        let pid = i32::try_from(number).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| HoldError::Watch(io::ErrorKind::InvalidInput.into()))?;
        let fd = pidfd_open(pid, PidfdFlags::empty()).map_err(|e| HoldError::Watch(e.into()))?;
        Ok(Self(fd))
    }

    /// Waits a little, or until it has ended, and tells whether it has.
    fn ends_within(&self, time: Timespec) -> bool {
        let mut watched = [PollFd::new(&self.0, PollFlags::IN)];
        poll(&mut watched, Some(&time)).is_ok_and(|ready| ready > 0)
    }

    /// Ends it, and with it the container.
    pub(super) fn kill(&self) {
        // Where it has ended already, all is well.
        let _ = pidfd_send_signal(&self.0, Signal::KILL);
    }
}
