//! `runs.json`: how often a machine's container was started again, and how it ended last.
//!
//! The unit's own commands write it: the start, before it becomes the container, and the clean-up
//! after each end. So nothing is missed while the daemon is down, and nothing lost when systemd
//! sets its own counter back, which it does at each start that it did not decide on. It begins
//! anew with each record. It is a note and no more: it is not synced to the disk, one that can't
//! be read counts as none, and one that can't be written keeps nothing from starting.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shoal_core::name::MachineName;
use shoal_core::status::LastExit;
use shoal_core::time::Timestamp;

use super::ending::Ending;
use crate::clock;
use crate::files::{FileError, failed};
use crate::paths::Paths;

/// The runs of a machine's container since its record was written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Runs {
    /// How often it was started again, by systemd or by the agent, but for the starts that
    /// followed a stop through Shoal.
    pub restarts: u32,
    /// How it ended the last time that it did without Shoal having stopped it.
    pub last_exit: Option<LastExit>,
    /// Whether it was started at all.
    started: bool,
    /// The boot of the host in which it runs now; `None` where its end was seen.
    running_in: Option<String>,
    /// Whether Shoal is stopping it, or has.
    stopped_by_shoal: bool,
}

impl Runs {
    /// Where the note is.
    #[must_use]
    pub fn path(paths: &Paths, machine: &MachineName) -> PathBuf {
        paths.instance(machine).join("runs.json")
    }

    /// The note of a machine.
    #[must_use]
    pub fn load(paths: &Paths, machine: &MachineName) -> Self {
        let bytes = fs::read(Self::path(paths, machine)).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// Reads the note, changes it, and writes it where that made a difference.
    ///
    /// # Errors
    /// Where it can't be written.
    pub fn note(
        paths: &Paths,
        machine: &MachineName,
        change: impl FnOnce(&mut Self),
    ) -> Result<(), FileError> {
        let before = Self::load(paths, machine);
        let mut after = before.clone();
        change(&mut after);
        if after == before {
            return Ok(());
        }
        let bytes = serde_json::to_vec(&after).expect("a note is plain data");
        replace(&Self::path(paths, machine), &bytes)
    }

    /// A container is about to run, in this boot of the host.
    pub fn begin(&mut self, boot: &str, now: Timestamp) {
        if let Some(before) = self.running_in.replace(boot.to_owned()) {
            let reason = if before == boot { "its end was not seen" } else { "the host went down" };
            self.last_exit = Some(LastExit { at: now, reason: reason.into() });
        }
        if self.started && !self.stopped_by_shoal {
            self.restarts = self.restarts.saturating_add(1);
        }
        (self.started, self.stopped_by_shoal) = (true, false);
    }

    /// Shoal is about to stop it.
    pub fn stop(&mut self) {
        self.stopped_by_shoal = true;
    }

    /// Whether Shoal is stopping it, or has.
    #[must_use]
    pub fn is_stopped_by_shoal(&self) -> bool {
        self.stopped_by_shoal
    }

    /// It has ended.
    pub fn end(&mut self, ending: &Ending, now: Timestamp) {
        self.running_in = None;
        if !ending.is_as_wanted() {
            self.end_for(ending.reason(), now);
        }
    }

    /// It has ended for this reason, which is not as it should.
    pub fn end_for(&mut self, reason: String, now: Timestamp) {
        self.running_in = None;
        self.last_exit = Some(LastExit { at: now, reason });
    }

    /// Another record is to be run: what was before is not of it. What runs goes on.
    pub fn begin_anew(&mut self) {
        let running_in = self.running_in.take();
        *self = Self { started: running_in.is_some(), running_in, ..Self::default() };
    }
}

/// Notes that a container is about to run.
///
/// # Errors
/// Where that can't be written.
pub fn note_start(paths: &Paths, machine: &MachineName) -> Result<(), FileError> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    Runs::note(paths, machine, |runs| runs.begin(boot.trim(), clock::now()))
}

/// Puts `bytes` at `path` so that whoever reads sees the old or the new.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let new = path.with_extension("new");
    let write = || {
        let mut options = File::options();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        fs::rename(&new, path)
    };
    write().map_err(failed("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::ending::Told;

    const NOW: Timestamp = Timestamp(1000);

    fn ending(result: &str, status: &str, told: Told) -> Ending {
        let (result, code, status) = (result.into(), "exited".into(), status.into());
        Ending { result, code, status, told, inside: None }
    }

    fn reason(runs: &Runs) -> Option<&str> {
        runs.last_exit.as_ref().map(|exit| exit.reason.as_str())
    }

    #[test]
    fn every_start_after_the_first_counts_and_has_its_reason() {
        let mut runs = Runs::default();
        runs.begin("boot", NOW);
        assert_eq!((runs.restarts, reason(&runs)), (0, None));
        runs.end(&ending("exit-code", "3", Told::No), NOW);
        assert_eq!((runs.restarts, reason(&runs)), (0, Some("exit code 3")));
        runs.begin("boot", NOW);
        assert_eq!((runs.restarts, reason(&runs)), (1, Some("exit code 3")));
        runs.end(&ending("success", "0", Told::ByHand), Timestamp(5000));
        runs.begin("boot", NOW);
        let exit = LastExit { at: Timestamp(5000), reason: "stopped on the host".into() };
        assert_eq!((runs.restarts, runs.last_exit), (2, Some(exit)));
    }

    #[test]
    fn what_shoal_does_is_no_failure() {
        let mut runs = Runs::default();
        runs.begin("boot", NOW);
        runs.stop();
        runs.end(&ending("success", "0", Told::ByShoal), NOW);
        runs.begin("boot", NOW);
        assert_eq!((runs.restarts, reason(&runs)), (0, None));
        runs.stop();
        runs.end(&ending("timeout", "", Told::ByShoal), NOW);
        assert_eq!(reason(&runs), Some("did not stop in time and was killed"));
        runs.begin("boot", NOW);
        runs.end(&ending("success", "0", Told::No), NOW);
        assert_eq!(reason(&runs), Some("exit code 0"), "it was stopped the time before");
    }

    #[test]
    fn an_end_that_nobody_saw_is_told_by_the_next_start() {
        let mut runs = Runs::default();
        runs.begin("first", NOW);
        runs.begin("second", NOW);
        assert_eq!((runs.restarts, reason(&runs)), (1, Some("the host went down")));
        runs.begin("second", NOW);
        assert_eq!((runs.restarts, reason(&runs)), (2, Some("its end was not seen")));
    }

    #[test]
    fn a_new_record_begins_at_none() {
        let mut runs = Runs::default();
        runs.begin("boot", NOW);
        runs.end(&ending("exit-code", "1", Told::No), NOW);
        runs.begin("boot", NOW);
        runs.begin_anew();
        assert_eq!((runs.restarts, reason(&runs)), (0, None));
        runs.end(&ending("exit-code", "2", Told::No), NOW);
        runs.begin("boot", NOW);
        assert_eq!(runs.restarts, 1, "it ran while its record changed");
        runs.end(&ending("exit-code", "2", Told::No), NOW);
        runs.begin_anew();
        runs.begin("boot", NOW);
        assert_eq!((runs.restarts, reason(&runs)), (0, None));
    }

    #[test]
    fn the_note_survives_and_a_broken_one_counts_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { state: dir.path().into(), ..Paths::default() };
        let machine: MachineName = "shop-main".parse().unwrap();
        assert!(Runs::note(&paths, &machine, |runs| runs.begin("boot", NOW)).is_err());
        fs::create_dir_all(paths.instance(&machine)).unwrap();
        for _ in 0..3 {
            Runs::note(&paths, &machine, |runs| runs.begin("boot", NOW)).unwrap();
        }
        let runs = Runs::load(&paths, &machine);
        assert_eq!(runs.restarts, 2);
        let text = fs::read_to_string(Runs::path(&paths, &machine)).unwrap();
        assert_eq!(
            text,
            r#"{"restarts":2,"last-exit":{"at":1000,"reason":"its end was not seen"},"started":true,"running-in":"boot","stopped-by-shoal":false}"#,
            "the form on disk is a promise to every later version"
        );
        fs::write(Runs::path(&paths, &machine), "{").unwrap();
        assert_eq!(Runs::load(&paths, &machine), Runs::default());
    }
}
