//! How a unit ended, in plain words, from what systemd tells its `ExecStopPost` (systemd.exec(5),
//! "Environment Variables Set or Propagated by the Service Manager").
//!
//! Way in: [`end`], which the unit runs after each end, and which needs neither the daemon nor the
//! bus, which may be gone before the last instance is.

use std::process::{Command, Stdio};

use shoal_core::name::MachineName;

use super::container;
use super::runs::Runs;
use crate::clock;
use crate::files::FileError;
use crate::paths::Paths;

/// How a unit ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ending {
    /// systemd's word for it: `success`, `exit-code`, `signal`, `timeout` …
    pub result: String,
    /// How its main process ended: `exited`, `killed`, `dumped`; empty where there was none.
    pub code: String,
    /// Its exit code, or the name of its signal, without `SIG`.
    pub status: String,
    /// The signal that ended the container's first process, where systemd-nspawn has told.
    pub inside: Option<String>,
    /// Whether it was told to.
    pub told: Told,
}

/// Who told a unit to end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Told {
    /// Nobody.
    #[default]
    No,
    /// Shoal.
    ByShoal,
    /// Someone on the host, through systemd.
    ByHand,
    /// The host, which shuts down.
    ByShutdown,
}

impl Ending {
    /// Of the machine whose unit's `ExecStopPost` this process is; `None` where it is none.
    fn of_this_unit(machine: &MachineName, stopped_by_shoal: bool) -> Option<Self> {
        let variable = |name| std::env::var(name).ok();
        let result = variable("SERVICE_RESULT")?;
        let code = variable("EXIT_CODE").unwrap_or_default();
        let status = variable("EXIT_STATUS").unwrap_or_default();
        let told = if stopped_by_shoal { Told::ByShoal } else { told(&machine.unit()) };
        let perhaps = told == Told::No && code == "exited" && status == "1";
        let inside = if perhaps { signal_inside(machine) } else { None };
        Some(Self { result, code, status, inside, told })
    }

    /// Whether systemd-nspawn had no time to put away what it had set up.
    fn was_sudden(&self) -> bool {
        matches!(self.code.as_str(), "killed" | "dumped")
    }

    /// Whether it ended as a start does that can't be made.
    fn is_refusal(&self) -> bool {
        (self.code.as_str(), self.status.as_str()) == ("exited", "1")
    }

    /// Whether it was wanted and went as it should.
    #[must_use]
    pub fn is_as_wanted(&self) -> bool {
        self.told == Told::ByShoal && self.result == "success"
    }

    /// For people.
    #[must_use]
    pub fn reason(&self) -> String {
        match (self.result.as_str(), self.told) {
            ("oom-kill", _) => "out of memory".into(),
            ("watchdog", _) => "its watchdog heard nothing".into(),
            ("protocol", _) => "ended before it was up".into(),
            ("resources", _) => "systemd could not start it".into(),
            ("timeout", Told::No) => "start timed out".into(),
            ("timeout", _) => "did not stop in time and was killed".into(),
            ("success", Told::ByShoal) => "stopped".into(),
            ("success", Told::ByHand) => "stopped on the host".into(),
            ("success", Told::ByShutdown) => "the host shut down".into(),
            (result, _) => self.process().unwrap_or_else(|| result.to_owned()),
        }
    }

    /// How the main process ended, which is systemd-nspawn's.
    fn process(&self) -> Option<String> {
        if let Some(signal) = &self.inside {
            return Some(format!("killed by SIG{signal}"));
        }
        match (self.code.as_str(), self.status.as_str()) {
            ("exited", "133") => Some("rebooted from inside".into()),
            // What stands for a program that could not give a code of its own.
            ("exited", "255") => Some("killed by a signal".into()),
            ("exited", code) => Some(format!("exit code {code}")),
            ("killed", signal) => Some(format!("killed by SIG{signal}")),
            ("dumped", signal) => Some(format!("crashed with SIG{signal}")),
            _ => None,
        }
    }
}

/// Notes how the unit of a machine ended, where this process is what it runs after that.
///
/// # Errors
/// Where the note can't be written.
pub fn end(paths: &Paths, machine: &MachineName) -> Result<(), FileError> {
    let now = clock::now();
    let stopped_by_shoal = Runs::load(paths, machine).is_stopped_by_shoal();
    let Some(ending) = Ending::of_this_unit(machine, stopped_by_shoal) else { return Ok(()) };
    if ending.was_sudden() {
        unregister(machine);
    }
    match container::hook::failure(paths, machine).filter(|_| ending.is_refusal()) {
        Some(failure) => Runs::note(paths, machine, |runs| runs.end_for(failure.to_string(), now)),
        None => Runs::note(paths, machine, |runs| runs.end(&ending, now)),
    }
}

/// Who told `unit` to end: then systemd has a job for it.
fn told(unit: &str) -> Told {
    if said("systemctl", &["is-system-running"]) == "stopping" {
        return Told::ByShutdown;
    }
    let job = said("systemctl", &["show", "--property=Job", "--value", unit]);
    if matches!(job.as_str(), "" | "0") { Told::No } else { Told::ByHand }
}

/// The signal that ended the first process inside. systemd-nspawn has no exit code for that, and
/// only says it, as the last thing that it does.
fn signal_inside(machine: &MachineName) -> Option<String> {
    // The journal may not have taken that in yet, and may not know any more of which process or
    // run it is; that it is of this unit it was told when the unit was started.
    said("journalctl", &["--sync"]);
    let unit = machine.unit();
    let lines = said("journalctl", &["--quiet", "--output=cat", "--lines=20", "--unit", &unit]);
    last_signal(machine, &lines).map(str::to_owned)
}

/// What was said in the run that systemd began last.
fn last_signal<'a>(machine: &MachineName, lines: &'a str) -> Option<&'a str> {
    let began = format!("Starting {}", machine.unit());
    let run = lines.lines().rev().take_while(|line| !line.starts_with(&began));
    run.filter_map(|line| signal_in(machine, line)).next()
}

/// The signal that a line of systemd-nspawn's tells of.
pub(super) fn signal_in<'a>(machine: &MachineName, line: &'a str) -> Option<&'a str> {
    let said = line.strip_prefix("Container ")?.strip_prefix(machine.as_str())?;
    let signal = said.strip_prefix(" terminated by signal ")?.strip_suffix('.')?;
    Some(signal.strip_prefix("SIG").unwrap_or(signal))
}

/// Has machined forget a machine: it keeps one whose unit goes on, and refuses the next of its
/// name.
fn unregister(machine: &MachineName) {
    let manager = ["org.freedesktop.machine1", "/org/freedesktop/machine1"];
    let method = ["org.freedesktop.machine1.Manager", "UnregisterMachine", "s", machine.as_str()];
    said("busctl", &[&["call"], &manager[..], &method[..]].concat());
}

/// What a tool says, whatever its exit code: that of `is-system-running` is another answer.
fn said(tool: &str, words: &[&str]) -> String {
    let output = Command::new(tool).args(words).stdin(Stdio::null()).output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&text).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_have_plain_words() {
        let reason = |result: &str, code: &str, status: &str, told| {
            let (result, code, status) = (result.into(), code.into(), status.into());
            Ending { result, code, status, told, inside: None }.reason()
        };
        for (result, code, status, told, expected) in [
            ("success", "exited", "0", Told::No, "exit code 0"),
            ("success", "exited", "133", Told::No, "rebooted from inside"),
            ("success", "exited", "255", Told::No, "killed by a signal"),
            ("success", "exited", "0", Told::ByHand, "stopped on the host"),
            ("success", "exited", "0", Told::ByShoal, "stopped"),
            ("success", "exited", "255", Told::ByShutdown, "the host shut down"),
            ("exit-code", "exited", "3", Told::No, "exit code 3"),
            ("exit-code", "exited", "3", Told::ByHand, "exit code 3"),
            ("signal", "killed", "KILL", Told::No, "killed by SIGKILL"),
            ("core-dump", "dumped", "SEGV", Told::No, "crashed with SIGSEGV"),
            ("oom-kill", "killed", "KILL", Told::No, "out of memory"),
            ("timeout", "killed", "TERM", Told::No, "start timed out"),
            ("timeout", "killed", "KILL", Told::ByHand, "did not stop in time and was killed"),
            ("resources", "", "", Told::No, "systemd could not start it"),
            ("exec-condition", "", "", Told::No, "exec-condition"),
        ] {
            assert_eq!(reason(result, code, status, told), expected);
        }
    }

    #[test]
    fn the_signal_that_nspawn_tells_of_is_found() {
        let machine = "a-b".parse().unwrap();
        let signal = |line| signal_in(&machine, line);
        assert_eq!(signal("Container a-c terminated by signal KILL."), None);
        let before = "Container a-b terminated by signal KILL.\nStarting \
                      shoal-instance@a-b.service - Shoal instance a-b...\nbye\n";
        assert_eq!(last_signal(&machine, before), None, "that was another run");
        let now = format!("{before}Container a-b terminated by signal TERM.\nFailed\n");
        assert_eq!(last_signal(&machine, &now), Some("TERM"));
        assert_eq!(signal("Container a-b terminated by signal KILL."), Some("KILL"));
        assert_eq!(signal("Container a-b terminated by signal SIGSEGV."), Some("SEGV"));
        assert_eq!(signal("Container a-b failed with error code 1."), None);
        let ending = Ending {
            result: "exit-code".into(),
            code: "exited".into(),
            status: "1".into(),
            inside: Some("SEGV".into()),
            told: Told::No,
        };
        assert_eq!(ending.reason(), "killed by SIGSEGV");
    }
}
