//! The agent's own upgrade: fetched, checked, tried beside the one before, and put in its place
//! once it has reached the controller.
//!
//! One task owns it ([`Upgrade::run`]), in the agent before as in the one that is tried; what
//! each does next is decided in [`shoal_core::agent_upgrade`], from what is wanted and what
//! [`note`] remembers. What is done to the host for it is in [`crate::host::trial`].
//!
//! Deliberately absent: putting back. A guard does that, which works when no agent does.

pub mod fetch;
pub mod note;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use shoal_core::agent_upgrade::{AgentSpec, AgentStatus, Next, Note, Phase, Runs, Trial, next};
use shoal_core::event::{Event, EventKind};
use shoal_core::host::HostSpec;
use shoal_core::image::Digest;
use shoal_core::status::HostStatus;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tracing::{info, warn};

use crate::clock;
use crate::events::Events;
use crate::host::trial::{TrialError, Trials, forget_copy};
use crate::paths::Paths;
use crate::stage::Source;
use crate::version::version;

use fetch::{FetchError, digest_of, fetch};
use note::{NoteError, Notes};

/// The pause before what failed is tried again.
const AGAIN: Duration = Duration::from_secs(30);
/// How long the restart that ends this process may take: longer than a unit has to stop.
const RESTART: Duration = Duration::from_secs(120);
/// How often news of a transfer's progress are given.
const NEWS: Duration = Duration::from_secs(1);

/// Why nothing is tried where the host's root says so.
const NOT_ALLOWED: &str = "the host's policy does not allow it: agent-upgrade = false in \
                           /etc/shoal/policy.toml there";

/// What stands in the way.
#[derive(Debug, thiserror::Error)]
enum UpgradeError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Trial(#[from] TrialError),
    #[error(transparent)]
    Note(#[from] NoteError),
}

/// The task.
pub struct Upgrade {
    /// Where the files are.
    pub paths: Paths,
    /// What is done to the host.
    pub trials: Trials,
    /// Whether the host's policy lets another agent in.
    pub allowed: bool,
    /// Where programs come from.
    pub source: Arc<dyn Source>,
    /// What is wanted.
    pub desired: watch::Receiver<Option<HostSpec>>,
    /// Has a channel while the controller is reached.
    pub reached: watch::Receiver<Option<Channel>>,
    /// What the reconcile loop reports: one that has observed the host works.
    pub reported: watch::Receiver<HostStatus>,
    /// For the report: how far it is.
    pub told: watch::Sender<Option<AgentStatus>>,
    /// Rung when that is news.
    pub bell: Arc<Notify>,
    /// For people.
    pub events: Events,
}

impl std::fmt::Debug for Upgrade {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upgrade").field("paths", &self.paths).finish_non_exhaustive()
    }
}

impl Upgrade {
    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        // Each part can be dropped where it waits: what is on the disk says how far it was.
        tokio::select! {
            () = stop.cancelled() => {},
            () = self.keep_on() => {},
        }
    }

    async fn keep_on(&mut self) {
        let mut desired = self.desired.clone();
        loop {
            let spec = agent_of(&desired.borrow_and_update()).cloned();
            let again = match self.pass(spec.as_ref()).await {
                Ok(again) => again,
                Err(error) => {
                    let why = crate::chain(&error);
                    warn!(why, "cannot upgrade the agent; trying again");
                    self.tell(spec.as_ref(), Phase::Failed, why);
                    Some(AGAIN)
                }
            };
            let wait = async {
                match again {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = desired.wait_for(|now| agent_of(now) != spec.as_ref()) => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = wait => {},
            }
        }
    }

    /// Does what is next; gives when to look again where nothing else calls for it.
    async fn pass(&mut self, wanted: Option<&AgentSpec>) -> Result<Option<Duration>, UpgradeError> {
        let notes = Notes::open(&self.paths).map_err(NoteError::from)?;
        let note = notes.read()?;
        if note.trial.is_none() && self.trials.is_left_over() {
            // The guard was killed in the middle of it.
            self.trials.end().await?;
            self.trials.restart().await?;
            return Ok(Some(RESTART));
        }
        if wanted.is_none() && note == Note::default() {
            self.told.send_replace(None);
            return Ok(None);
        }
        self.tell_rejection(&notes, &note)?;
        let runs = self.runs(&note).await?;
        match next(wanted, &note, runs) {
            Next::Rest => self.rest(runs).await,
            Next::Current => {
                self.tell(wanted, Phase::Current, String::new());
                self.rest(runs).await;
            }
            Next::Rejected(why) => {
                self.tell(wanted, Phase::Rejected, why);
                self.rest(runs).await;
            }
            Next::Reject(why) => {
                self.reject(&notes, wanted, why)?;
                return Ok(Some(Duration::ZERO));
            }
            Next::Try { .. } if !self.allowed => {
                self.reject(&notes, wanted, NOT_ALLOWED.to_owned())?;
                return Ok(Some(Duration::ZERO));
            }
            Next::Try { attempt } => return self.begin(&notes, &note, wanted, attempt).await,
            Next::Prove => {
                self.prove(&notes, runs, wanted).await?;
                return Ok(Some(Duration::ZERO));
            }
            Next::Install => return self.install(&notes, note, runs).await,
        }
        Ok(None)
    }

    /// Nothing is on its way: what was fetched for it goes.
    async fn rest(&self, runs: Runs) {
        self.trials.tidy(&[runs.digest]).await;
    }

    async fn runs(&self, note: &Note) -> Result<Runs, UpgradeError> {
        let own = Path::new("/proc/self/exe");
        let digest: Digest = digest_of(own).await?.parse().map_err(|_| TrialError::DoesNotRun {
            why: "the agent's own program can't be read".into(),
        })?;
        let tried = note.trial.as_ref().map(|t| self.paths.agent_program(&t.spec.digest));
        let from = std::fs::read_link(own).ok();
        Ok(Runs { digest, on_trial: tried.is_some() && tried == from })
    }

    async fn begin(
        &self,
        notes: &Notes,
        before: &Note,
        wanted: Option<&AgentSpec>,
        attempt: u32,
    ) -> Result<Option<Duration>, UpgradeError> {
        let Some(spec) = wanted else { return Ok(None) };
        let program = self.bring(spec).await?;
        self.tell(wanted, Phase::Checking, String::new());
        let place = match self.ready(spec, &program).await {
            Ok(place) => place,
            Err(error) if error.is_final() => {
                self.reject(notes, wanted, crate::chain(&error))?;
                return Ok(Some(Duration::ZERO));
            }
            Err(error) => return Err(error.into()),
        };
        let place = crate::paths::text(&place);
        let trial =
            Trial { spec: spec.clone(), attempt, before: version().into(), place, proved: false };
        info!(version = %spec.version, attempt, "trying another agent");
        self.record(EventKind::Step, format!("tries agent {}; {} ran", spec.version, version()));
        self.tell(wanted, Phase::Trying, String::new());
        notes.change(|note| note.begin(trial.clone()))?;
        if let Err(error) = self.trials.begin(&trial).await {
            self.trials.release_guard(&trial).await;
            self.trials.end().await?;
            notes.change(|note| note.trial.clone_from(&before.trial))?;
            return Err(error.into());
        }
        Ok(Some(RESTART))
    }

    /// Everything that can be known before the one that runs is touched.
    async fn ready(&self, spec: &AgentSpec, program: &Path) -> Result<PathBuf, TrialError> {
        let place = self.trials.place().await?;
        self.trials.check(program, &spec.version).await?;
        self.trials.prepare(program, &place).await?;
        Ok(place)
    }

    /// Fetches the program, and gives up where something else is wanted meanwhile.
    async fn bring(&self, spec: &AgentSpec) -> Result<PathBuf, UpgradeError> {
        let mut desired = self.desired.clone();
        let mut last = None::<tokio::time::Instant>;
        let told = |bytes: u64| {
            if last.is_none_or(|last| last.elapsed() >= NEWS) {
                last = Some(tokio::time::Instant::now());
                let percent = bytes.saturating_mul(100) / spec.size.max(1);
                self.tell(Some(spec), Phase::Fetching, format!("{percent} %"));
            }
        };
        self.tell(Some(spec), Phase::Fetching, String::new());
        let is_other = |now: &Option<HostSpec>| agent_of(now) != Some(spec);
        tokio::select! {
            fetched = fetch(self.source.as_ref(), &self.paths, spec, told) => Ok(fetched?),
            _ = desired.wait_for(is_other) => {
                Err(FetchError::Source("something else is wanted by now".into()).into())
            }
        }
    }

    /// Waits until this agent, which is on trial, has reached the controller and observed the
    /// host, and notes that.
    async fn prove(
        &mut self,
        notes: &Notes,
        runs: Runs,
        wanted: Option<&AgentSpec>,
    ) -> Result<(), UpgradeError> {
        self.tell(wanted, Phase::Trying, String::new());
        let works = async {
            // Neither sender ends before the agent does.
            let _ = self.reached.wait_for(Option::is_some).await;
            let _ = self.reported.wait_for(|status| status.observed_generation > 0).await;
        };
        works.await;
        if !notes.change(|note| note.prove(&runs.digest))? {
            info!("the guard came first; the agent before will be back");
            tokio::time::sleep(RESTART).await;
        }
        Ok(())
    }

    /// Puts the proved one in its place. Where this is the one before, it ends with that.
    async fn install(
        &self,
        notes: &Notes,
        note: Note,
        runs: Runs,
    ) -> Result<Option<Duration>, UpgradeError> {
        let Some(trial) = note.trial else { return Ok(None) };
        self.trials.install(&trial).await?;
        self.trials.end().await?;
        self.trials.release_guard(&trial).await;
        notes.change(Note::installed)?;
        let (version, before) = (&trial.spec.version, &trial.before);
        info!(%version, place = trial.place, "the agent is in its place");
        self.record(EventKind::Step, format!("runs agent {version} in place of {before}"));
        if runs.digest == trial.spec.digest {
            return Ok(Some(Duration::ZERO));
        }
        self.trials.restart().await?;
        Ok(Some(RESTART))
    }

    fn reject(
        &self,
        notes: &Notes,
        wanted: Option<&AgentSpec>,
        why: String,
    ) -> Result<(), UpgradeError> {
        let Some(spec) = wanted else { return Ok(()) };
        warn!(version = %spec.version, why, "an agent is rejected");
        let mut place = None;
        notes.change(|note| {
            place = note.trial.as_ref().map(|trial| PathBuf::from(&trial.place));
            note.reject(spec, why, clock::now());
        })?;
        if let Some(place) = place {
            forget_copy(&place);
        }
        Ok(())
    }

    /// Tells people of a rejection, once.
    fn tell_rejection(&self, notes: &Notes, note: &Note) -> Result<(), UpgradeError> {
        if note.rejected.as_ref().is_none_or(|rejected| rejected.told) {
            return Ok(());
        }
        if let Some(why) = notes.change(Note::untold)? {
            self.record(EventKind::WentBack, format!("another agent was rejected: {why}"));
        }
        Ok(())
    }

    fn record(&self, kind: EventKind, message: String) {
        self.events.record(Event { at: clock::now(), instance: None, kind, message });
    }

    fn tell(&self, wanted: Option<&AgentSpec>, phase: Phase, message: String) {
        let status = wanted.map(|spec| AgentStatus::of(spec, phase, message));
        let new = self.told.send_if_modified(|told| {
            let new = *told != status;
            *told = status;
            new
        });
        if new {
            self.bell.notify_one();
        }
    }
}

/// The agent that a desired state names.
fn agent_of(desired: &Option<HostSpec>) -> Option<&AgentSpec> {
    desired.as_ref()?.agent.as_ref()
}
