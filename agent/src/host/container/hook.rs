//! Hooks: what is run once in the new image, with the data mounted, before the instance is.
//!
//! A hook is a container of its own that is gone before the real one is made: the same mounts, user
//! numbers, limits, secrets and network, in the same unit, and another program. What is remembered
//! of it is written before it is begun and after it has ended, so that it can be killed at any point:
//! it is then run again by the next start.
//!
//! Way in: [`due`] says which is to be run, if any; [`Due::run`] runs it and waits for it, for as
//! long as it takes. [`become_hook`] is the process in between, which gives it its network.
//! [`watch`] is the waiting.

mod lines;
mod watch;

use std::convert::Infallible;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Signal, set_parent_process_death_signal};
use shoal_core::cause::chain;
use shoal_core::hooks::{Failure, Next, Past, Run, Starting};
use shoal_core::infra::is_infra;
use shoal_core::name::{InstanceId, MachineName};

use self::watch::{Ended, Watch};
use super::arguments::{Program, arguments};
use super::{Prepared, StartError};
use crate::clock;
use crate::files::FileError;
use crate::host::group::{self, Aside, GroupError};
use crate::host::hooks::{self, NoteError};
use crate::host::journal::voice::Voice;
use crate::host::network as links;
use crate::paths::Paths;
use crate::record::Record;

/// The hidden verb of the agent's own binary that [`become_hook`] stands behind.
pub const VERB: &str = "instance-hook";

/// Syslog priorities of what is said of a hook, and of what it says.
const NOTICE: u8 = 5;
const ERROR: u8 = 3;

/// Why a hook keeps its instance from being started.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// What is remembered of it can't be read or written.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// Data can't be looked at, or is not on the disk.
    #[error(transparent)]
    File(#[from] FileError),
    /// The unit's control group.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// It has failed before.
    #[error(
        "{failure}; it is not run again before something else is applied, or `shoal restart \
         {instance}` asks for it"
    )]
    Refused {
        /// The instance.
        instance: InstanceId,
        /// How it failed.
        failure: Box<Failure>,
    },
    /// It has failed now.
    #[error("{0}")]
    Failed(Box<Failure>),
    /// The unit was stopped while it ran.
    #[error("hook {hook} was stopped before it had ended; the next start runs it again")]
    CutOff {
        /// Its name.
        hook: &'static str,
    },
    /// There was no container for it to run in.
    #[error("no container could be made for hook {hook} ({how}): {said}")]
    NotBegun {
        /// Its name.
        hook: &'static str,
        /// How systemd-nspawn ended.
        how: String,
        /// The last thing that was said.
        said: String,
    },
    /// It could not be run or waited for.
    #[error("can't run hook {hook}")]
    Run {
        /// Its name.
        hook: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// How the hook failed that a start of `machine` would run again, if one did. What can't be read
/// here is told by the start itself.
#[must_use]
pub fn failure(paths: &Paths, machine: &MachineName) -> Option<Failure> {
    let past = hooks::load(paths, machine).ok().filter(|past| past.failure.is_some())?;
    let record = Record::find(paths, machine).ok()??;
    past.refusal(record.attempt()).cloned()
}

/// Why a start of `machine` is refused before anything is done for it.
pub(super) fn refused(paths: &Paths, machine: &MachineName) -> Option<HookError> {
    let failure = Box::new(failure(paths, machine)?);
    let instance = Record::find(paths, machine).ok()??.spec.id;
    Some(HookError::Refused { instance, failure })
}

/// A hook that is to be run.
#[derive(Debug)]
pub(super) struct Due {
    run: Run,
    past: Past,
}

/// The hook that comes before the start of `record`; `None` where there is none to run.
pub(super) fn due(
    paths: &Paths,
    machine: &MachineName,
    record: &Record,
) -> Result<Option<Due>, HookError> {
    let config = &record.spec.config;
    let past = match hooks::load(paths, machine) {
        Ok(past) => past,
        // What has no hooks does without.
        Err(error) if config.settings.hooks.is_none() => {
            eprintln!("warning: {}", chain(&error));
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    let has_data = hooks::has_data(paths, machine, &config.settings)?;
    // To an app, infra versions are nothing: its data is of its image alone.
    let infra = record.infra.as_ref().filter(|_| is_infra(&record.spec.id.fleet));
    match past.next(Starting { config, infra, attempt: record.attempt(), has_data }) {
        Next::Start => Ok(None),
        Next::Note(past) => {
            // A full disk must not keep from coming back what needs no hook.
            if let Err(error) = hooks::save(paths, machine, &past) {
                eprintln!("warning: {}", chain(&error));
            }
            Ok(None)
        }
        Next::Run(run) => Ok(Some(Due { run, past })),
        Next::Refused(failure) => {
            let failure = Box::new(failure);
            Err(HookError::Refused { instance: record.spec.id.clone(), failure })
        }
    }
}

impl Due {
    /// Runs it in what was prepared, and remembers how it ended. Gives what still hears a stop of
    /// the unit: from here on this process does not end by itself when it is told to.
    pub(super) fn run(
        self,
        paths: &Paths,
        machine: &MachineName,
        record: &Record,
        place: &Prepared,
    ) -> Result<Watch, HookError> {
        let Self { run, past } = self;
        let hook = run.mode.hook();
        let failed = |source| HookError::Run { hook, source };
        let past = past.begun(&run, clock::now());
        hooks::save(paths, machine, &past)?;
        let voice = Voice::new(&format!("hook-{hook}"));
        voice.say(NOTICE, begins(&run).as_bytes());
        for passed in &place.credentials {
            passed.hand_over().map_err(failed)?;
        }
        let mut watch = Watch::begin().map_err(failed)?;
        let command = command(machine, arguments(record, place, Program::Hook(&run)));
        let aside = Aside::go()?;
        let ready = paths.machine_run(machine).join("hook.notify");
        let ended = watch.run(command.map_err(failed)?, &ready, &voice, machine, &aside);
        aside.back()?;
        let ended = ended.map_err(failed)?;
        let verdict = conclude(paths, machine, &run, &past, ended);
        match &verdict {
            Ok(done) => voice.say(NOTICE, done.as_bytes()),
            Err(error) => voice.say(ERROR, chain(error).as_bytes()),
        }
        verdict.map(|_| watch)
    }
}

/// Takes in how a hook ended; gives what to say of it where it ended well.
fn conclude(
    paths: &Paths,
    machine: &MachineName,
    run: &Run,
    past: &Past,
    ended: Ended,
) -> Result<String, HookError> {
    let hook = run.mode.hook();
    // How one ends that was told to says nothing: a program may well end with 0 then.
    if ended.told {
        return Err(HookError::CutOff { hook });
    }
    if ended.status.success() && ended.begun {
        // What it wrote comes first: that it is done must not outlive it.
        hooks::settle(paths, machine)?;
        let past = past.succeeded(run, clock::now());
        hooks::save(paths, machine, &past)?;
        return Ok(past.ran.map(|ran| ran.to_string()).unwrap_or_default());
    }
    if !ended.begun {
        let said = ended.last_line.clone().unwrap_or_else(|| "nothing was said".into());
        return Err(HookError::NotBegun { hook, how: ended.how(), said });
    }
    let past = past.failed(run, &ended.how(), ended.last_line.as_deref(), clock::now());
    hooks::save(paths, machine, &past)?;
    let failed = past.failure.map(|failure| HookError::Failed(Box::new(failure)));
    Err(failed.unwrap_or(HookError::CutOff { hook }))
}

fn begins(run: &Run) -> String {
    let (hook, to) = (run.mode.hook(), &run.to.reference);
    match &run.from {
        Some(from) => format!("hook {hook} begins: from {from} to {to}"),
        None => format!("hook {hook} begins: for {to}"),
    }
}

/// The process that becomes the hook's systemd-nspawn.
fn command(machine: &MachineName, arguments: Vec<OsString>) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(VERB).arg(machine.as_str()).arg("--").args(arguments);
    Ok(command)
}

/// Gives the container that is about to be made its network, and becomes the systemd-nspawn of a
/// hook.
///
/// # Errors
/// Where its network can't be made, or systemd-nspawn not run.
pub fn become_hook(
    paths: &Paths,
    machine: &MachineName,
    arguments: &[OsString],
) -> Result<Infallible, StartError> {
    // Whoever waits for it may be killed; it must not go on without.
    let bound = set_parent_process_death_signal(Some(Signal::KILL));
    bound.map_err(|error| StartError::Nspawn(error.into()))?;
    group::return_to_unit().map_err(HookError::from)?;
    links::begin(paths, machine, &Record::load(paths, machine)?.spec.config.settings)?;
    Err(StartError::Nspawn(Command::new("systemd-nspawn").args(arguments).exec()))
}

#[cfg(test)]
mod tests {
    use super::super::arguments::tests::record;
    use super::*;
    use shoal_core::policy::Isolation;
    use shoal_core::spec::{Hooks, Start};
    use std::fs;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    struct Place {
        _dir: tempfile::TempDir,
        paths: Paths,
        machine: MachineName,
        record: Record,
    }

    fn place() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { state: dir.path().into(), ..Paths::default() };
        let mut record = record(Start::Boot, Isolation::UserNamespace);
        record.spec.config.settings.hooks =
            Hooks { init: vec!["/init".into()], migrate: vec!["/m".into()], restore: vec![] };
        let machine = record.spec.id.machine();
        fs::create_dir_all(paths.data(&machine).join("var")).unwrap();
        record.save(&paths).unwrap();
        Place { _dir: dir, paths, machine, record }
    }

    fn ended(code: i32, begun: bool, told: bool) -> Ended {
        let (status, last_line) = (ExitStatus::from_raw(code << 8), Some("no room".to_owned()));
        Ended { status, begun, told, last_line, inside: None }
    }

    impl Place {
        fn due(&self) -> Result<Option<Due>, HookError> {
            due(&self.paths, &self.machine, &self.record)
        }

        /// Runs what is due, which ends as given.
        fn pretend(&self, ended: Ended) -> Result<String, HookError> {
            let Due { run, past } = self.due().unwrap().unwrap();
            let past = past.begun(&run, clock::now());
            hooks::save(&self.paths, &self.machine, &past).unwrap();
            conclude(&self.paths, &self.machine, &run, &past, ended)
        }
    }

    #[test]
    fn a_hook_that_ended_well_is_done() {
        let place = place();
        assert!(place.pretend(ended(0, true, false)).unwrap().starts_with("hook init has run in"));
        assert!(place.due().unwrap().is_none());
        assert!(refused(&place.paths, &place.machine).is_none());
    }

    #[test]
    fn one_that_failed_refuses_the_start_until_someone_asks() {
        let mut place = place();
        let error = place.pretend(ended(3, true, false)).unwrap_err();
        assert_eq!(error.to_string(), "hook init failed: exit code 3: no room");
        for refusal in [refused(&place.paths, &place.machine), place.due().err()] {
            assert_eq!(
                refusal.unwrap().to_string(),
                "hook init failed: exit code 3: no room; it is not run again before something else \
                 is applied, or `shoal restart shop/main` asks for it"
            );
        }
        place.record.spec.restarts += 1;
        place.record.save(&place.paths).unwrap();
        assert!(refused(&place.paths, &place.machine).is_none());
        assert!(place.due().unwrap().is_some());
    }

    #[test]
    fn what_was_cut_off_or_never_begun_is_no_failure_of_the_hook() {
        let place = place();
        for (ended, words) in [
            (ended(1, true, true), "hook init was stopped before it had ended"),
            (ended(0, true, true), "hook init was stopped before it had ended"),
            (ended(1, false, false), "no container could be made for hook init (exit code 1): no"),
            (ended(0, false, false), "no container could be made for hook init"),
        ] {
            let error = place.pretend(ended).unwrap_err().to_string();
            assert!(error.starts_with(words), "{error}");
            // It has left something behind, and is run again as it was.
            fs::write(place.paths.data(&place.machine).join("var/half"), "").unwrap();
            assert_eq!(place.due().unwrap().unwrap().run.mode.hook(), "init");
        }
    }

    #[test]
    fn a_note_that_cant_be_read_is_told_where_there_are_hooks() {
        let mut place = place();
        fs::write(hooks::path(&place.paths, &place.machine), "{").unwrap();
        let why = place.due().unwrap_err().to_string();
        assert!(why.contains("hooks.json is damaged"), "{why}");
        place.record.spec.config.settings.hooks = Hooks::default();
        assert!(place.due().unwrap().is_none());
    }
}
