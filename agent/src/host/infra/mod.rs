//! The infra of the real host: which version it has recorded, and what is done to its data on the
//! way to another.
//!
//! Way in: [`Infra::look`] tells of it at each observation, [`Infra::begin`] begins to copy, and
//! [`Infra::put_back`] and [`Infra::record`] do what they say. Copying takes minutes: it is done
//! beside the loop, one piece at a time, and what nobody wants any more is called off, so that
//! nothing is copied while an instance writes to it. What is to be done is decided in
//! `shoal_core::plan`.

pub mod copy;
pub mod recorded;
mod remains;
pub mod restore;
pub mod snapshot;

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shoal_core::host::HostSpec;
use shoal_core::infra::{GoingBack, HostInfra, Recorded};
use shoal_core::name::{BackupName, InfraVersion};
use shoal_core::plan::{Action, Unit, data_step};
use shoal_core::time::Timestamp;
use tracing::{info, warn};

use self::copy::{CopyError, Progress, shown};
use self::snapshot::{Before, DataError};
use super::Observation;
use crate::clock;
use crate::files::{FileError, make_private_dir};
use crate::paths::Paths;

/// How long what failed is left alone.
const AFTER_FAILURE: Duration = Duration::from_secs(30);
/// How long a finding that there is no room holds.
const MEASURED_AGAIN: Duration = Duration::from_secs(10);
/// Bytes that stay free beside a copy.
const SPARE: u64 = 64 << 20;

/// Copying that is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Task {
    Snapshot(Before, GoingBack),
    Restore(BackupName),
}

/// Whether the task can be done.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fit {
    /// Not known yet.
    Unknown,
    /// It can. This holds until it is done: nothing is stopped for what then is held up.
    Fits,
    /// It can't, as was found then.
    Blocked(String, Timestamp),
}

#[derive(Debug, Default)]
struct State {
    /// What is being done.
    job: Option<(Task, Arc<Progress>)>,
    /// How the last try failed, and when.
    failed: Option<(Task, String, Timestamp)>,
    /// Whether what is due can be done.
    fit: Option<(Task, Fit)>,
    /// Whether that is being found out.
    measuring: bool,
    /// What has been done, for people.
    news: Vec<String>,
}

/// The infra of this host. One owner beside the threads that it starts.
#[derive(Debug, Clone)]
pub struct Infra {
    paths: Paths,
    state: Arc<Mutex<State>>,
}

impl Infra {
    /// Nothing looked at yet.
    #[must_use]
    pub fn new(paths: Paths) -> Self {
        Self { paths, state: Arc::default() }
    }

    /// Adds to an observation, whose machines are known, what is to be known of the infra.
    ///
    /// # Errors
    /// Where a directory can't be read.
    pub fn look(&self, wanted: &HostSpec, seen: &mut Observation) -> Result<(), FileError> {
        match recorded::load(&self.paths) {
            Ok(recorded) => seen.observed.infra = recorded,
            Err(error) => {
                let why = crate::chain(&error);
                seen.problems.push(why.clone());
                seen.observed.infra_unreadable = Some(why);
            }
        }
        seen.observed.snapshots = snapshot::complete(&self.paths)?;
        self.look_half_back(seen)?;
        let step = wanted.infra.as_ref().and_then(|infra| {
            let action = data_step(infra, &seen.observed)?.action;
            Some((infra, action))
        });
        let task =
            step.as_ref().and_then(|(infra, action)| task(infra, action, &seen.observed.infra));
        self.call_off_all_but(task.as_ref());
        let due = task.as_ref().filter(|_| !self.is_busy());
        seen.observed.data_blocked = match (&step, due) {
            (_, Some(task)) => self.blocked(task, wanted),
            (Some((_, Action::PutBack(_))), None) => snapshot::unfit(&self.paths, true)?,
            _ => None,
        };
        let mut state = self.state();
        seen.observed.data_work = task.as_ref().and_then(|task| state.work(task));
        seen.news.append(&mut state.news);
        Ok(())
    }

    /// What was begun to be put back is, before anything else is done.
    fn look_half_back(&self, seen: &mut Observation) -> Result<(), FileError> {
        let Some(revision) = snapshot::half_back(&self.paths)? else { return Ok(()) };
        let mut machines = seen.observed.machines.iter();
        let up = machines.find(|(_, m)| !matches!(m.unit, Unit::Inactive | Unit::Failed));
        match up {
            None => seen.half_back = Some(revision),
            Some((machine, _)) => seen.problems.push(format!(
                "the data of before infra revision {revision} is only half back; the rest comes \
                 once {machine} and all others are down"
            )),
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_busy(&self) -> bool {
        self.state().job.is_some()
    }

    /// Has nothing go on but what is due: an instance may start where it is not.
    fn call_off_all_but(&self, due: Option<&Task>) {
        let mut state = self.state();
        if let Some((_, progress)) = state.job.take_if(|(task, _)| Some(&*task) != due) {
            progress.call_off();
        }
        state.fit.take_if(|(task, _)| Some(&*task) != due);
        state.failed.take_if(|(task, ..)| Some(&*task) != due);
    }

    /// Why `task` can't be done. To find out may take long, and is done beside the loop.
    fn blocked(&self, task: &Task, wanted: &HostSpec) -> Option<String> {
        let now = clock::now();
        let mut state = self.state();
        let fit = state.fit.as_ref().map_or(Fit::Unknown, |(_, fit)| fit.clone());
        let known = match &fit {
            Fit::Fits => return None,
            Fit::Blocked(_, at) => now >= *at && now.since(*at) < MEASURED_AGAIN,
            Fit::Unknown => false,
        };
        if !known && !std::mem::replace(&mut state.measuring, true) {
            let (this, task, wanted) = (self.clone(), task.clone(), wanted.clone());
            std::thread::spawn(move || this.measure(task, &wanted));
        }
        Some(match fit {
            Fit::Blocked(why, _) => why,
            _ => "measures the data that is to be copied".into(),
        })
    }

    fn measure(&self, task: Task, wanted: &HostSpec) {
        let found = task.unfit(&self.paths, wanted).unwrap_or_else(|e| Some(crate::chain(&e)));
        let mut state = self.state();
        state.measuring = false;
        state.fit = Some((task, found.map_or(Fit::Fits, |why| Fit::Blocked(why, clock::now()))));
    }

    /// Begins what `action` says, unless that has been begun, or has just failed.
    pub fn begin(&self, wanted: &HostSpec, action: &Action) {
        let recorded = recorded::load(&self.paths).unwrap_or_default();
        let task = wanted.infra.as_ref().and_then(|infra| task(infra, action, &recorded));
        let Some(task) = task else { return };
        let mut state = self.state();
        let rests = state.failed.as_ref().is_some_and(|(_, _, at)| {
            let now = clock::now();
            now >= *at && now.since(*at) < AFTER_FAILURE
        });
        if state.job.is_some() || rests {
            return;
        }
        let progress = Arc::new(Progress::default());
        state.job = Some((task.clone(), progress.clone()));
        let (this, wanted) = (self.clone(), wanted.clone());
        // Not one of the runtime's threads: ending the agent must not wait for it. What it has begun
        // is done again.
        std::thread::spawn(move || this.work(&task, &wanted, &progress));
    }

    fn work(&self, task: &Task, wanted: &HostSpec, progress: &Arc<Progress>) {
        let done = task.carry_out(&self.paths, wanted, progress);
        let mut state = self.state();
        // One that was called off, or seen to be done, is nobody's any more.
        let is_ours = state.job.take_if(|(_, other)| Arc::ptr_eq(other, progress)).is_some();
        match done {
            Ok(bytes) => state.news.push(task.done(bytes)),
            Err(DataError::Copy(CopyError::CalledOff)) => {}
            Err(error) if !is_ours => {
                info!(
                    error = crate::chain(&error),
                    "data that nobody wants any more is not copied"
                );
            }
            Err(error) => {
                let why = crate::chain(&error);
                warn!(error = why, "cannot copy data; it is tried again");
                // Room may be what it lacked.
                state.fit = None;
                state.failed = Some((task.clone(), why, clock::now()));
            }
        }
    }

    /// Puts back the data that was copied before `revision`.
    ///
    /// # Errors
    /// Where something can't be moved; to try again goes on from there.
    pub fn put_back(&self, revision: u64) -> Result<(), DataError> {
        if let Some(aside) = snapshot::put_back(&self.paths, revision, &copy::rename)? {
            let aside = aside.display();
            self.state().news.push(format!(
                "put the data back as it was before infra revision {revision}; what was there is \
                 kept in {aside}"
            ));
        }
        Ok(())
    }

    /// Writes down that the host has `version`.
    ///
    /// # Errors
    /// Where that can't be written.
    pub fn record(&self, version: &InfraVersion) -> Result<(), RecordFailed> {
        let before = recorded::load(&self.paths)?;
        let from = before.version.clone().map_or("no version".into(), |from| from.to_string());
        let (version, since) = (Some(version.clone()), Some(clock::now()));
        let recorded = Recorded { version, since, ..before };
        recorded::save(&self.paths, &recorded)?;
        if let Some(version) = recorded.version {
            info!(%version, from, "recorded the infra version");
            self.state().news.push(format!("the host has infra version {version}; it had {from}"));
        }
        // What is left for the next time is in nobody's way, and may be much.
        let paths = self.paths.clone();
        std::thread::spawn(move || {
            if let Err(error) = snapshot::clear_old(&paths) {
                warn!(error = %crate::chain(&error), "cannot remove an old snapshot");
            }
        });
        Ok(())
    }
}

/// Why the version could not be written down.
#[derive(Debug, thiserror::Error)]
pub enum RecordFailed {
    /// It can't be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// What is there can't be read, and is not replaced.
    #[error(transparent)]
    Unreadable(#[from] recorded::RecordedError),
}

/// The copying that `action` is; `None` where it is something else.
fn task(infra: &HostInfra, action: &Action, recorded: &Recorded) -> Option<Task> {
    match action {
        Action::Snapshot(revision) => {
            let (from, to) = (recorded.version.clone(), infra.version.clone());
            Some(Task::Snapshot(Before { revision: *revision, from, to }, infra.going_back))
        }
        Action::Restore(backup) => Some(Task::Restore(backup.clone())),
        _ => None,
    }
}

impl State {
    /// How `task` is getting on.
    fn work(&self, task: &Task) -> Option<String> {
        if let Some((_, progress)) = &self.job {
            return Some(snapshot::told(progress));
        }
        let (_, why, _) = self.failed.as_ref().filter(|(failed, ..)| failed == task)?;
        Some(format!("copying data failed: {why}; tried again in {} s", AFTER_FAILURE.as_secs()))
    }
}

impl Task {
    /// Why it can't be done; `None` where it can.
    fn unfit(&self, paths: &Paths, wanted: &HostSpec) -> Result<Option<String>, FileError> {
        make_private_dir(&paths.snapshots())?;
        let (what, remedy, needs) = match self {
            Self::Snapshot(_, going_back) => {
                let back = *going_back == GoingBack::ImageAndData;
                if let Some(why) = snapshot::unfit(paths, back)? {
                    return Ok(Some(why));
                }
                // What a killed agent has left takes room that is free in truth.
                snapshot::clear_partial(paths)?;
                if copy::shares_blocks(&paths.instances(), &paths.snapshots()) {
                    return Ok(None);
                }
                ("the snapshot", ", or apply with snapshot = false", snapshot::size(paths)?)
            }
            Self::Restore(backup) => {
                if let Some(why) = restore::lacking(paths, wanted, backup)? {
                    return Ok(Some(why));
                }
                if copy::shares_blocks(&paths.backups(), &paths.instances()) {
                    return Ok(None);
                }
                ("the backup", "", restore::size(paths, wanted, backup)?)
            }
        };
        let free = free(&paths.instances());
        let lacks = free.filter(|free| *free < needs.saturating_add(SPARE));
        Ok(lacks.map(|free| {
            let (needs, free, place) = (shown(needs), shown(free), paths.state.display());
            format!("{what} needs {needs} and {place} has {free} free; free some{remedy}")
        }))
    }

    fn carry_out(
        &self,
        paths: &Paths,
        wanted: &HostSpec,
        progress: &Progress,
    ) -> Result<u64, DataError> {
        let total = match self {
            Self::Snapshot(..) => snapshot::size(paths)?,
            Self::Restore(backup) => restore::size(paths, wanted, backup)?,
        };
        progress.total.store(total, Ordering::Relaxed);
        match self {
            Self::Snapshot(before, _) => {
                snapshot::take(paths, before, progress, &copy::rename, clock::now())
            }
            Self::Restore(backup) => restore::bring(paths, wanted, backup, progress),
        }
    }

    fn done(&self, bytes: u64) -> String {
        let bytes = shown(bytes);
        match self {
            Self::Snapshot(before, _) => {
                let revision = before.revision;
                format!("copied the data as it was before infra revision {revision}: {bytes}")
            }
            Self::Restore(backup) => format!("brought the data from backup {backup}: {bytes}"),
        }
    }
}

/// Bytes that root may still write to the file system of `dir`.
fn free(dir: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    Some(stat.f_bfree.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests;
