//! The health of running containers: one task for each that has checks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use shoal_core::health::Tracker;
use shoal_core::name::MachineName;
use shoal_core::status::Health;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::clock;
use crate::host::Host;
use crate::host::probe::Probe;

/// What the checks of each container say, and why they failed.
pub type Verdicts = BTreeMap<MachineName, (Health, Option<String>)>;

/// Verdicts with the container that each is about: a task that has been told to end may still
/// give one, and it must not be taken for the next container's.
type Given = BTreeMap<MachineName, (Probe, Health, Option<String>)>;

/// Keeps one checking task for each container that has checks.
pub struct Monitor {
    host: Arc<dyn Host>,
    /// Rung when a verdict changes.
    bell: Arc<Notify>,
    given: Arc<Mutex<Given>>,
    tasks: BTreeMap<MachineName, (Probe, AbortHandle)>,
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Monitor").field("tasks", &self.tasks).finish_non_exhaustive()
    }
}

impl Monitor {
    /// Without any tasks yet.
    #[must_use]
    pub fn new(host: Arc<dyn Host>, bell: Arc<Notify>) -> Self {
        Self { host, bell, given: Arc::default(), tasks: BTreeMap::new() }
    }

    /// Checks just these containers from now on. A container that another has taken the place of
    /// (another leader, other checks) begins anew.
    pub fn watch(&mut self, wanted: BTreeMap<MachineName, Probe>) {
        self.tasks.retain(|machine, (probe, task)| {
            let stays = wanted.get(machine) == Some(probe);
            if !stays {
                task.abort();
                lock(&self.given).remove(machine);
            }
            stays
        });
        for (machine, probe) in wanted {
            if !self.tasks.contains_key(&machine) {
                let task = self.spawn(machine.clone(), probe.clone());
                self.tasks.insert(machine, (probe, task));
            }
        }
    }

    /// Forgets what the checks of a container said: it was changed as it ran, and has to prove
    /// itself again.
    pub fn forget(&mut self, machine: &MachineName) {
        if let Some((_, task)) = self.tasks.remove(machine) {
            task.abort();
            lock(&self.given).remove(machine);
        }
    }

    /// What the checks say by now.
    #[must_use]
    pub fn verdicts(&self) -> Verdicts {
        let given = lock(&self.given);
        let own = given.iter().filter(|(machine, (about, ..))| {
            self.tasks.get(*machine).is_some_and(|(probe, _)| probe == about)
        });
        own.map(|(machine, (_, health, why))| (machine.clone(), (*health, why.clone()))).collect()
    }

    fn spawn(&self, machine: MachineName, probe: Probe) -> AbortHandle {
        let (host, bell) = (self.host.clone(), self.bell.clone());
        let given = self.given.clone();
        let task = async move {
            let mut tracker = Tracker::new(clock::now());
            loop {
                let result = host.check(&probe).await;
                tracker.record(&probe.checks, clock::now(), result);
                let why = tracker.last_failure().map(str::to_owned);
                let verdict = (probe.clone(), tracker.state(), why);
                let before = lock(&given).insert(machine.clone(), verdict.clone());
                if before.as_ref() != Some(&verdict) {
                    bell.notify_one();
                }
                tokio::time::sleep(tracker.pause(&probe.checks, clock::now())).await;
            }
        };
        tokio::spawn(task).abort_handle()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.tasks.values().for_each(|(_, task)| task.abort());
    }
}

fn lock(given: &Mutex<Given>) -> std::sync::MutexGuard<'_, Given> {
    given.lock().unwrap_or_else(PoisonError::into_inner)
}
