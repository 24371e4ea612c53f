//! Bringing another agent onto a host: what is wanted, what is remembered, and what to do next.
//!
//! The new agent is tried beside the one before, which stays in its place until the new one has
//! reached the controller. A guard outside of both ends a trial that takes too long. So three can
//! act on what is remembered: the agent before ([`next`]), the one that is tried ([`next`], too),
//! and the guard ([`Note::put_back`]). Way in: [`next`].
//!
//! Deliberately absent: files, processes and time.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::agent_program::AgentVersion;
use crate::image::Digest;
use crate::time::Timestamp;

/// How long an agent may take to reach the controller where nobody says otherwise.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// The same of one that comes with an infra version: a host whose agent does not arrive is back
/// before its rollout takes it for lost.
pub const DEADLINE_OF_INFRA: Duration = Duration::from_secs(30);
/// The least and the most that may be said: a restart takes a few seconds.
pub const DEADLINES: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));
/// How often a trial is begun that something else ended: the host went down, or someone stopped
/// the agent.
pub const TRIALS: u32 = 3;

/// The agent that a host should run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentSpec {
    /// Its version.
    pub version: AgentVersion,
    /// SHA-256 of its program.
    pub digest: Digest,
    /// The program's size in bytes.
    pub size: u64,
    /// How long it may take, from its start on, to reach the controller.
    pub deadline: Duration,
    /// Rises each time that someone asks for it: what was rejected is tried again then.
    pub asked: u64,
}

impl AgentSpec {
    /// What is wanted where someone asks for `program` after `before`; whether that is news.
    /// `reported` is what the host has said of it.
    #[must_use]
    pub fn after(
        before: Option<&Self>,
        program: Self,
        reported: Option<&AgentStatus>,
    ) -> (Self, bool) {
        let asked = before.map_or(0, |before| before.asked);
        let same = before.filter(|before| before.digest == program.digest);
        let rejected = |before: &Self| {
            let of_this = reported.filter(|status| status.is_about(before));
            of_this.is_some_and(|status| status.phase == Phase::Rejected)
        };
        match same {
            Some(same) if !rejected(same) => {
                let after = Self { asked, ..program };
                let changed = after != *same;
                (after, changed)
            }
            _ => (Self { asked: asked + 1, ..program }, true),
        }
    }
}

/// How far a host is with the agent that it should run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// The version that is wanted.
    pub version: AgentVersion,
    /// The program that is wanted.
    pub digest: Digest,
    /// The wish that this is about.
    pub asked: u64,
    /// How far it is.
    pub phase: Phase,
    /// Why, or how far, for people; may be empty.
    pub message: String,
}

impl AgentStatus {
    /// Of what is wanted by `spec`.
    #[must_use]
    pub fn of(spec: &AgentSpec, phase: Phase, message: impl Into<String>) -> Self {
        let AgentSpec { version, digest, asked, size: _, deadline: _ } = spec.clone();
        Self { version, digest, asked, phase, message: message.into() }
    }

    /// Whether it is of this wish, and not of one before.
    #[must_use]
    pub fn is_about(&self, spec: &AgentSpec) -> bool {
        (self.digest, self.asked) == (spec.digest, spec.asked)
    }

    /// Why the host does not run it; `None` where it does.
    #[must_use]
    pub fn pending(&self) -> Option<String> {
        let Self { version, phase, .. } = self;
        let waits = || format!("waits for agent {version} ({phase})");
        (*phase != Phase::Current).then(|| self.problem().unwrap_or_else(waits))
    }

    /// What people should know of the host because of it.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let Self { version, phase, message, .. } = self;
        match phase {
            Phase::Rejected => Some(format!(
                "agent {version} was rejected: {message}; `shoal host upgrade` has it tried again"
            )),
            Phase::Failed => Some(format!("agent {version} can't be put in place yet: {message}")),
            _ => None,
        }
    }
}

/// How far a host is with an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Nothing was done yet.
    Waiting,
    /// Its program is on the way.
    Fetching,
    /// It is being looked at.
    Checking,
    /// It runs, and has not proved itself yet.
    Trying,
    /// It runs, for good.
    Current,
    /// It could not be fetched or put in place; tried again.
    Failed,
    /// Refused, or put back; not tried again before someone asks.
    Rejected,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Waiting => "waiting",
            Self::Fetching => "fetching",
            Self::Checking => "checking",
            Self::Trying => "restarting",
            Self::Current => "confirmed",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
        })
    }
}

/// What a host remembers of it, on the disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The one that is being tried, or is proved and not in its place yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<Trial>,
    /// The last one that was rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<Rejected>,
}

/// An agent that is being tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// Which.
    pub spec: AgentSpec,
    /// The how-manieth trial of it this is, from 1.
    pub attempt: u32,
    /// The version of the agent before.
    pub before: String,
    /// Where that one's program is, and the new one's is to be.
    pub place: String,
    /// Whether it has reached the controller.
    pub proved: bool,
}

/// An agent that was rejected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// Which.
    pub digest: Digest,
    /// By which wish.
    pub asked: u64,
    /// Why, for people.
    pub why: String,
    /// When.
    pub at: Timestamp,
    /// Whether the host's events have it.
    #[serde(default)]
    pub told: bool,
}

/// The agent that asks what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Runs {
    /// SHA-256 of its program.
    pub digest: Digest,
    /// Whether it was started for the trial that is remembered, and not from its place.
    pub on_trial: bool,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Nothing.
    Rest,
    /// Nothing: this is what is wanted.
    Current,
    /// Nothing, until someone asks again.
    Rejected(String),
    /// Fetch and check the wanted one, and try it.
    Try {
        /// The how-manieth trial of it this is.
        attempt: u32,
    },
    /// Reach the controller, and then be put in place: this is the one that is tried.
    Prove,
    /// Put the one that was proved in its place.
    Install,
    /// Note that it is rejected, and why.
    Reject(String),
}

/// What the agent `runs` does about what is wanted and what is remembered.
#[must_use]
pub fn next(wanted: Option<&AgentSpec>, note: &Note, runs: Runs) -> Next {
    match &note.trial {
        Some(trial) if trial.proved => return Next::Install,
        // Also where something else is wanted by now: what runs has to be one that is proved.
        Some(_) if runs.on_trial => return Next::Prove,
        _ => {}
    }
    let Some(wanted) = wanted else { return Next::Rest };
    if let Some(why) = note.rejection(wanted) {
        return Next::Rejected(why.to_owned());
    }
    if runs.digest == wanted.digest {
        return Next::Current;
    }
    // Neither proved nor put back by the guard: it was cut short.
    let trial = note.trial.as_ref();
    let same = trial.filter(|t| (t.spec.digest, t.spec.asked) == (wanted.digest, wanted.asked));
    match same.map_or(0, |trial| trial.attempt) {
        tried if tried >= TRIALS => Next::Reject(format!(
            "each of {tried} trials was cut short: the host went down or the agent was stopped"
        )),
        tried => Next::Try { attempt: tried + 1 },
    }
}

impl Note {
    /// Why a wish was rejected; `None` where it was not.
    #[must_use]
    pub fn rejection(&self, wanted: &AgentSpec) -> Option<&str> {
        let rejected = self.rejected.as_ref()?;
        let same = (rejected.digest, rejected.asked) == (wanted.digest, wanted.asked);
        same.then_some(rejected.why.as_str())
    }

    /// Why the last wish was rejected, once: for whoever tells people.
    pub fn untold(&mut self) -> Option<String> {
        let rejected = self.rejected.as_mut().filter(|rejected| !rejected.told)?;
        rejected.told = true;
        Some(rejected.why.clone())
    }

    /// Begins a trial.
    pub fn begin(&mut self, trial: Trial) {
        self.trial = Some(trial);
    }

    /// The one that is tried has reached the controller. `false` where the guard came first.
    pub fn prove(&mut self, digest: &Digest) -> bool {
        let Some(trial) = self.trial.as_mut().filter(|t| t.spec.digest == *digest) else {
            return false;
        };
        trial.proved = true;
        true
    }

    /// The one that was proved is in its place.
    pub fn installed(&mut self) {
        *self = Self::default();
    }

    /// Rejects a wish; its trial is over.
    pub fn reject(&mut self, spec: &AgentSpec, why: impl Into<String>, at: Timestamp) {
        let AgentSpec { digest, asked, .. } = *spec;
        self.trial = None;
        self.rejected = Some(Rejected { digest, asked, why: why.into(), at, told: false });
    }

    /// The guard of a trial ends it: the wish is rejected. `false` where the trial is over, or
    /// was proved, or is another: then nothing is to be put back.
    pub fn put_back(&mut self, guarded: &Guarded, at: Timestamp) -> bool {
        let Some(trial) = self.trial.as_ref().filter(|trial| guarded.is_of(trial)) else {
            return false;
        };
        if trial.proved {
            return false;
        }
        let Trial { spec, before, .. } = trial.clone();
        let within = spec.deadline.as_secs();
        let why = format!(
            "it did not reach the controller within {within} s and agent {before} was put back; \
             `journalctl -u shoal-agent` on the host says more"
        );
        self.reject(&spec, why, at);
        true
    }
}

/// Which trial a guard is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guarded {
    /// The program.
    pub digest: Digest,
    /// The wish.
    pub asked: u64,
    /// The trial.
    pub attempt: u32,
}

impl Guarded {
    /// The one for this trial.
    #[must_use]
    pub fn of(trial: &Trial) -> Self {
        let Trial { spec, attempt, .. } = trial;
        Self { digest: spec.digest, asked: spec.asked, attempt: *attempt }
    }

    fn is_of(&self, trial: &Trial) -> bool {
        *self == Self::of(trial)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: [u8; 32] = [1; 32];
    const NEW: [u8; 32] = [2; 32];

    fn spec(digest: [u8; 32], asked: u64) -> AgentSpec {
        let (version, deadline) = ("2.0.0".parse().unwrap(), Duration::from_secs(30));
        AgentSpec { version, digest: digest.into(), size: 9, deadline, asked }
    }

    fn trial(asked: u64, attempt: u32) -> Trial {
        let (before, place) = ("1.0.0".into(), "/usr/bin/shoal-agent".into());
        Trial { spec: spec(NEW, asked), attempt, before, place, proved: false }
    }

    fn old() -> Runs {
        Runs { digest: OLD.into(), on_trial: false }
    }

    fn tried() -> Runs {
        Runs { digest: NEW.into(), on_trial: true }
    }

    #[test]
    fn a_trial_that_proves_itself_is_put_in_place() {
        let (wanted, mut note) = (spec(NEW, 1), Note::default());
        assert_eq!(next(None, &note, old()), Next::Rest);
        assert_eq!(next(Some(&wanted), &note, old()), Next::Try { attempt: 1 });
        note.begin(trial(1, 1));
        assert_eq!(next(Some(&wanted), &note, tried()), Next::Prove);
        assert_eq!(next(None, &note, tried()), Next::Prove, "whatever is wanted by now");
        assert!(note.prove(&NEW.into()));
        assert_eq!(next(Some(&wanted), &note, tried()), Next::Install);
        assert_eq!(next(Some(&wanted), &note, old()), Next::Install, "after a power cut");
        assert!(!note.put_back(&Guarded::of(&trial(1, 1)), Timestamp(1)), "it is too late");
        note.installed();
        let installed = Runs { on_trial: false, ..tried() };
        assert_eq!(next(Some(&wanted), &note, installed), Next::Current);
    }

    #[test]
    fn what_does_not_prove_itself_is_put_back_and_stays_so() {
        let (wanted, mut note) = (spec(NEW, 1), Note::default());
        note.begin(trial(1, 1));
        let another = Guarded { attempt: 2, ..Guarded::of(&trial(1, 1)) };
        assert!(!note.put_back(&another, Timestamp(1)), "a guard of another trial");
        assert!(note.put_back(&Guarded::of(&trial(1, 1)), Timestamp(1)));
        assert!(!note.put_back(&Guarded::of(&trial(1, 1)), Timestamp(1)), "once");
        assert!(!note.prove(&NEW.into()), "the guard came first");
        let Next::Rejected(why) = next(Some(&wanted), &note, old()) else { panic!("{note:?}") };
        assert!(why.contains("within 30 s and agent 1.0.0 was put back"), "{why}");
        let again = spec(NEW, 2);
        assert_eq!(next(Some(&again), &note, old()), Next::Try { attempt: 1 }, "someone asked");
        assert_eq!(next(Some(&spec(OLD, 2)), &note, old()), Next::Current);
    }

    #[test]
    fn a_trial_that_is_cut_short_is_begun_again_a_few_times() {
        let (wanted, mut note) = (spec(NEW, 1), Note::default());
        for attempt in 1..TRIALS {
            note.begin(trial(1, attempt));
            assert_eq!(next(Some(&wanted), &note, old()), Next::Try { attempt: attempt + 1 });
        }
        assert_eq!(next(Some(&spec(NEW, 2)), &note, old()), Next::Try { attempt: 1 });
        note.begin(trial(1, TRIALS));
        let Next::Reject(why) = next(Some(&wanted), &note, old()) else { panic!("{note:?}") };
        assert!(why.contains("each of 3 trials was cut short"), "{why}");
        note.reject(&wanted, why.clone(), Timestamp(1));
        assert_eq!(next(Some(&wanted), &note, old()), Next::Rejected(why));
        assert_eq!(next(None, &note, old()), Next::Rest);
    }

    #[test]
    fn asking_again_counts_where_it_was_rejected() {
        let (first, changed) = AgentSpec::after(None, spec(NEW, 0), None);
        assert_eq!((first.asked, changed), (1, true));
        assert_eq!(AgentSpec::after(Some(&first), spec(NEW, 0), None), (first.clone(), false));
        let status = |phase, asked| AgentStatus::of(&spec(NEW, asked), phase, "why");
        let going = status(Phase::Fetching, 1);
        assert_eq!(AgentSpec::after(Some(&first), spec(NEW, 0), Some(&going)).0.asked, 1);
        let rejected = status(Phase::Rejected, 1);
        let (second, changed) = AgentSpec::after(Some(&first), spec(NEW, 0), Some(&rejected));
        assert_eq!((second.asked, changed), (2, true));
        let stale = AgentSpec::after(Some(&second), spec(NEW, 0), Some(&rejected));
        assert_eq!(stale, (second.clone(), false), "it was said of the wish before");
        let other = AgentSpec::after(Some(&second), spec(OLD, 0), None);
        assert_eq!((other.0.asked, other.1), (3, true));
        let longer = AgentSpec { deadline: Duration::from_secs(99), ..spec(NEW, 0) };
        let (longer, changed) = AgentSpec::after(Some(&second), longer, None);
        assert_eq!((longer.deadline.as_secs(), longer.asked, changed), (99, 2, true));
    }

    #[test]
    fn the_note_is_kept_as_ever() {
        let mut note = Note::default();
        note.begin(trial(1, 2));
        let (digest, why, at) = (OLD.into(), "w".into(), Timestamp(4));
        note.rejected = Some(Rejected { digest, asked: 3, why, at, told: true });
        let (old, new) = ("01".repeat(32), "02".repeat(32));
        let golden = format!(
            r#"{{"trial":{{"spec":{{"version":"2.0.0","digest":"{new}","size":9,"deadline":{{"secs":30,"nanos":0}},"asked":1}},"attempt":2,"before":"1.0.0","place":"/usr/bin/shoal-agent","proved":false}},"rejected":{{"digest":"{old}","asked":3,"why":"w","at":4,"told":true}}}}"#
        );
        assert_eq!(serde_json::to_string(&note).unwrap(), golden);
        assert_eq!(serde_json::from_str::<Note>(&golden).unwrap(), note);
        assert_eq!(serde_json::from_str::<Note>("{}").unwrap(), Note::default());
    }
}
