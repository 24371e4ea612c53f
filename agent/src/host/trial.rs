//! Trying another agent: what is done to the host for it.
//!
//! The program that is tried runs in the place of the one before by a drop-in of the agent's unit
//! under `/run`, so that a reboot alone ends a trial. The program before stays in its place until
//! the new one is proved. A timer of systemd's, outside of both, runs the one before to end a
//! trial that takes too long ([`put_back`]).
//!
//! Deliberately absent: when what of it is done (`crate::upgrade`).

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use shoal_core::agent_program::AgentVersion;
use shoal_core::agent_upgrade::{Guarded, Trial};
use shoal_core::image::Digest;
use tokio::process::Command;

use super::HostError;
use super::command::{self, CommandError};
use super::systemd::{AGENT_UNIT, Systemd};
use crate::clock;
use crate::files::{FileError, failed, names, remove_file, remove_tree};
use crate::paths::{Paths, text};
use crate::upgrade::fetch::sync_dir;
use crate::upgrade::note::{NoteError, Notes};

/// The verb with which the guard runs the agent before.
pub const VERB: &str = "put-back";
/// How long a program may take to tell its version.
const ANSWER: Duration = Duration::from_secs(20);
/// The drop-in that has systemd start the program that is tried.
const DROP_IN: &str = "/run/systemd/system/shoal-agent.service.d/50-shoal-trial.conf";

/// Why an agent can't be tried, or not be put in place.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// systemd.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A tool.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// What is remembered.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// The agent runs by other means.
    #[error(
        "this agent was not started by {AGENT_UNIT}, so that it can't be restarted as another; \
         start it with `systemctl start shoal-agent`, or upgrade it as it was installed"
    )]
    OtherUnit,
    /// The program does not run here.
    #[error("it does not run on this host: {why}")]
    DoesNotRun {
        /// Why, as far as it or the system said.
        why: String,
    },
    /// The program is another.
    #[error("it says that it is {said:?}, and not shoal-agent {wanted}")]
    OtherVersion {
        /// What it said.
        said: String,
        /// What it should have.
        wanted: AgentVersion,
    },
    /// A task ended.
    #[error("the task that does it has ended")]
    Ended,
}

impl TrialError {
    /// Whether trying again is no use, since it is the program, or how the host was set up.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::OtherUnit | Self::DoesNotRun { .. } | Self::OtherVersion { .. } => true,
            Self::File(error) => {
                let kind = error.source.kind();
                matches!(kind, io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied)
            }
            Self::Host(_) | Self::Command(_) | Self::Note(_) | Self::Ended => false,
        }
    }
}

/// The means of it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Trials {
    paths: Paths,
    systemd: Systemd,
}

impl Trials {
    /// On this host.
    #[must_use]
    pub fn new(paths: Paths, systemd: Systemd) -> Self {
        Self { paths, systemd }
    }

    /// Where the agent's program is, as its unit has it.
    ///
    /// # Errors
    /// Where another than the agent's unit started this process, or systemd does not answer.
    pub async fn place(&self) -> Result<PathBuf, TrialError> {
        if self.is_left_over() {
            // Of a trial that was cut short.
            self.end().await?;
        }
        let program = self.systemd.agent_program().await?.ok_or(TrialError::OtherUnit)?;
        Ok(PathBuf::from(program))
    }

    /// Whether systemd would start a program that is tried.
    #[must_use]
    pub fn is_left_over(&self) -> bool {
        Path::new(DROP_IN).exists()
    }

    /// Checks that a program runs here and is of this version.
    ///
    /// # Errors
    /// Where it does not, or is not.
    pub async fn check(&self, program: &Path, wanted: &AgentVersion) -> Result<(), TrialError> {
        let does_not = |why: String| TrialError::DoesNotRun { why };
        let ran = tokio::time::timeout(ANSWER, version_of(program)).await;
        let output = match ran {
            Ok(output) => output.map_err(|error| does_not(error.to_string()))?,
            Err(_) => return Err(does_not(format!("--version took more than {ANSWER:?}"))),
        };
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().chars().take(200).collect();
        if !output.status.success() {
            let (status, words): (_, String) = (output.status, said(&output.stderr));
            return Err(does_not(format!("--version ended with {status}: {words}")));
        }
        let said: String = said(&output.stdout);
        if said == format!("shoal-agent {wanted}") {
            return Ok(());
        }
        Err(TrialError::OtherVersion { said, wanted: wanted.clone() })
    }

    /// Puts a copy of the program beside its place, so that nothing but a rename is left to do.
    ///
    /// # Errors
    /// Where there is no room, or nothing can be written there.
    pub async fn prepare(&self, program: &Path, place: &Path) -> Result<(), TrialError> {
        let (program, place) = (program.to_owned(), place.to_owned());
        blocking(move || Ok(copy_beside(&program, &place)?)).await
    }

    /// Begins a trial: its guard first, so that there is no moment without one. The restart of
    /// this process follows.
    ///
    /// # Errors
    /// Where systemd refuses; then [`Trials::end`] undoes what was done.
    pub async fn begin(&self, trial: &Trial) -> Result<(), TrialError> {
        let program = self.paths.agent_program(&trial.spec.digest);
        let trial = trial.clone();
        blocking(move || {
            set_guard(&trial)?;
            write_drop_in(&program)
        })
        .await?;
        self.systemd.reload().await?;
        Ok(self.systemd.restart_agent().await?)
    }

    /// Puts the program that was proved in its place; the one before is kept as `*.previous`.
    /// Doing it again changes nothing.
    ///
    /// # Errors
    /// Where the disk says no; then the one before is in its place.
    pub async fn install(&self, trial: &Trial) -> Result<(), TrialError> {
        let program = self.paths.agent_program(&trial.spec.digest);
        let (place, digest) = (PathBuf::from(&trial.place), trial.spec.digest);
        blocking(move || {
            if sum(&place).is_some_and(|sum| sum == digest.to_string()) {
                return Ok(());
            }
            Ok(put_in_place(&program, &place)?)
        })
        .await
    }

    /// Ends a trial: from the next start on, the program in its place is run.
    ///
    /// # Errors
    /// Where systemd refuses.
    pub async fn end(&self) -> Result<(), TrialError> {
        blocking(|| Ok(remove_file(Path::new(DROP_IN))?)).await?;
        Ok(self.systemd.reload().await?)
    }

    /// Ends a trial's guard. One that is left over does no harm.
    pub async fn release_guard(&self, trial: &Trial) {
        let timer = format!("{}.timer", guard_unit(&Guarded::of(trial)));
        let stop = move || Ok(command::run("systemctl", &["stop", &timer])?);
        let _ = blocking(stop).await;
    }

    /// Begins to restart the agent.
    ///
    /// # Errors
    /// Where systemd refuses.
    pub async fn restart(&self) -> Result<(), TrialError> {
        Ok(self.systemd.restart_agent().await?)
    }

    /// Removes programs that were fetched, but for these.
    pub async fn tidy(&self, keep: &[Digest]) {
        let dir = self.paths.agents();
        let keep: Vec<String> = keep.iter().map(ToString::to_string).collect();
        let clean = move || {
            for name in names(&dir)?.iter().filter(|name| !keep.contains(name)) {
                remove_tree(&dir.join(name))?;
            }
            Ok(())
        };
        if let Err(error) = blocking(clean).await {
            tracing::warn!(error = %crate::chain(&error), "cannot remove old programs of the agent");
        }
    }
}

/// What `PROGRAM --version` gives. A program that was just written may still count as open for
/// writing for a moment, where a process is being forked.
async fn version_of(program: &Path) -> io::Result<std::process::Output> {
    let mut busy = 0;
    loop {
        let mut command = Command::new(program);
        command.arg("--version").stdin(Stdio::null()).env_clear().kill_on_drop(true);
        match command.output().await {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && busy < 20 => {
                busy += 1;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            output => return output,
        }
    }
}

fn sum(path: &Path) -> Option<String> {
    shoal_image::sha256_of(path, |_| ()).ok().map(|sum| sum.to_string())
}

fn beside(place: &Path, ending: &str) -> PathBuf {
    let name = place.file_name().unwrap_or_default().to_string_lossy();
    place.with_file_name(format!("{name}.{ending}"))
}

fn copy_beside(program: &Path, place: &Path) -> Result<(), FileError> {
    let new = beside(place, "new");
    let write = || {
        let mut from = File::open(program)?;
        let mut options = File::options();
        let mut to = options.write(true).create(true).truncate(true).mode(0o755).open(&new)?;
        io::copy(&mut from, &mut to)?;
        to.sync_all()
    };
    write().map_err(|error| {
        let _ = fs::remove_file(&new);
        failed("write", &new)(error)
    })
}

/// Removes the copy beside a program's place, which nobody needs where its trial has failed.
pub fn forget_copy(place: &Path) {
    if let Err(error) = remove_file(&beside(place, "new")) {
        tracing::warn!(error = %crate::chain(&error), "cannot remove the copy of a program");
    }
}

fn put_in_place(program: &Path, place: &Path) -> Result<(), FileError> {
    copy_beside(program, place)?;
    let (new, previous) = (beside(place, "new"), beside(place, "previous"));
    remove_file(&previous)?;
    // Of a symbolic link it is the link that is kept, and replaced.
    fs::hard_link(place, &previous).map_err(failed("keep the program before as", &previous))?;
    fs::rename(&new, place).map_err(failed("rename", &new))?;
    sync_dir(place.parent().unwrap_or(Path::new("/")))
}

fn write_drop_in(program: &Path) -> Result<(), TrialError> {
    let path = Path::new(DROP_IN);
    let dir = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(dir).map_err(failed("make the directory", dir))?;
    let program = text(program);
    let content = format!(
        "# An agent that is being tried. It goes by itself, at the latest with a reboot.\n\
         [Service]\nExecStart=\nExecStart={program} run\n"
    );
    Ok(fs::write(path, content).map_err(failed("write", path))?)
}

fn guard_unit(of: &Guarded) -> String {
    let Guarded { digest, asked, attempt } = of;
    format!("shoal-agent-put-back-{}-{asked}-{attempt}", digest.short())
}

/// Has systemd put the agent before back, unless the timer is stopped in time.
fn set_guard(trial: &Trial) -> Result<(), TrialError> {
    let of = Guarded::of(trial);
    let unit = guard_unit(&of);
    let timer = format!("{unit}.timer");
    // One of the same name, of a trial that could not be begun, would stand in the way.
    let _ = command::run("systemctl", &["stop", &timer]);
    let (named, within) =
        (format!("--unit={unit}"), format!("--on-active={}ms", trial.spec.deadline.as_millis()));
    let (digest, asked) = (of.digest.to_string(), of.asked.to_string());
    let attempt = of.attempt.to_string();
    let arguments = [
        "--quiet",
        "--collect",
        &named,
        &within,
        "--timer-property=AccuracySec=500ms",
        "--description=Puts the Shoal agent before back",
        "--",
        &trial.place,
        VERB,
        &digest,
        &asked,
        &attempt,
    ];
    command::run("systemd-run", &arguments)?;
    Ok(())
}

/// What the guard does when the time is up: where the trial is neither over nor proved, it is
/// noted as rejected, and the agent before is started. Says whether that was so.
///
/// # Errors
/// Where systemd refuses, or nothing can be noted; the agent before is started all the same.
pub fn put_back(paths: &Paths, guarded: &Guarded) -> Result<bool, TrialError> {
    let mut place = None;
    let noted = Notes::open(paths)?.change(|note| {
        place = note.trial.as_ref().map(|trial| PathBuf::from(&trial.place));
        note.put_back(guarded, clock::now())
    });
    if matches!(noted, Ok(false)) {
        return Ok(false);
    }
    if let Some(place) = place {
        forget_copy(&place);
    }
    remove_file(Path::new(DROP_IN))?;
    command::run("systemctl", &["daemon-reload"])?;
    // One that hangs would not heed a stop; nothing is lost by killing an agent.
    let _ = command::run("systemctl", &["kill", "--signal=SIGKILL", AGENT_UNIT]);
    let _ = command::run("systemctl", &["reset-failed", AGENT_UNIT]);
    command::run("systemctl", &["restart", "--no-block", AGENT_UNIT])?;
    Ok(noted?)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TrialError> + Send + 'static,
) -> Result<T, TrialError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(TrialError::Ended))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_in_place_keeps_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let (program, place) = (dir.path().join("fetched"), dir.path().join("shoal-agent"));
        fs::write(&program, "new").unwrap();
        fs::write(dir.path().join("real"), "old").unwrap();
        std::os::unix::fs::symlink("real", &place).unwrap();
        copy_beside(&program, &place).unwrap();
        put_in_place(&program, &place).unwrap();
        assert_eq!(fs::read_to_string(&place).unwrap(), "new");
        assert!(!fs::symlink_metadata(&place).unwrap().is_symlink(), "the link was replaced");
        assert_eq!(fs::read_to_string(dir.path().join("real")).unwrap(), "old");
        assert_eq!(fs::read_to_string(dir.path().join("shoal-agent.previous")).unwrap(), "old");
        let found = names(dir.path()).unwrap();
        assert_eq!(found, ["fetched", "real", "shoal-agent", "shoal-agent.previous"]);
    }

    #[tokio::test]
    async fn a_program_is_run_for_its_version_and_no_longer_than_it_may() {
        let version = version_of(Path::new("/bin/echo")).await.unwrap();
        assert!(version.status.success());
        assert!(version_of(Path::new("/nonexistent")).await.is_err());
    }
}
